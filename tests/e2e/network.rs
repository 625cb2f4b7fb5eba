//! Networks: none, host, bridge; published ports.

use crate::harness::{Node, eventually, image, until};
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().expect("address"), Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET / HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.contains("200 OK").then_some(text)
}

fn address(node: &Node, container: &str) -> String {
    node.inspect(container)["NetworkSettings"]["IPAddress"].as_str().expect("address").to_owned()
}

const SERVE: &str = "httpd -f -p 80 -h /var/www";

#[test]
fn none_has_only_loopback() {
    let node = Node::with_busybox("network-none");
    let output = node.sh(&[], "ip -o link | wc -l; ip -o addr; ping -c 1 -W 1 127.0.0.1 > /dev/null && echo alive");
    assert!(output.starts_with("1\n") && output.contains("127.0.0.1/8") && output.ends_with("alive"), "{output}");
    node.finish();
}

#[test]
fn host_is_the_hosts() {
    let node = Node::with_busybox("network-host");
    let links = std::fs::read_dir("/sys/class/net").expect("net").count();
    assert!(
        node.sh(&["--network", "host"], "ls /sys/class/net | wc -l").parse::<usize>().expect("number") >= links.min(2)
    );
    assert_eq!(
        node.sh(&["--network", "host"], "hostname"),
        std::fs::read_to_string("/proc/sys/kernel/hostname").expect("hostname").trim()
    );
    node.finish();
}

#[test]
fn nginx_answers_on_its_address_and_on_a_published_port() {
    let node = Node::start("network-nginx");
    let port = node.slot.port(0);
    node.ok(&["run", "-d", "--name", "web", "-p", &format!("{port}:80"), &image("nginx")]);
    for target in [
        format!("{}:80", address(&node, "web")),
        format!("127.0.0.1:{port}"),
        format!("{}:{port}", node.slot.gateway()),
    ] {
        let page = eventually(&format!("nginx answers on {target}"), || get(&target));
        assert!(page.contains("hello from nginx"), "{page}");
    }
    assert!(node.ok(&["ps"]).contains(&format!("{port}->80/tcp")));
    until("the access log arrives", || node.ok(&["logs", "web"]).contains("GET / HTTP/1.0"));
    node.ok(&["stop", "web"]);
    until("the port is closed", || get(&format!("127.0.0.1:{port}")).is_none());
    node.ok(&["start", "web"]);
    eventually("nginx answers again", || get(&format!("127.0.0.1:{port}")));
    node.finish();
}

#[test]
fn udp_ports_and_ports_of_the_agents_choice() {
    let node = Node::with_busybox("network-udp");
    let port = node.slot.port(0);
    // Debian's busybox has no server for UDP; its base system has perl.
    let publish = format!("127.0.0.1:{port}:5000/udp");
    let echo = "socket(S, PF_INET, SOCK_DGRAM, 0) or die; bind(S, sockaddr_in(5000, INADDR_ANY)) or die;
        while (my $from = recv(S, my $text, 100, 0)) { send(S, $text, 0, $from) }";
    let nginx = image("nginx");
    node.ok(&["run", "-d", "--name", "echo", "-p", &publish, "--entrypoint", "perl", &nginx, "-MSocket", "-e", echo]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    let answer = eventually("the echo comes back", || {
        socket.send_to(b"marco", format!("127.0.0.1:{port}")).ok()?;
        let mut buffer = [0; 16];
        socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec())
    });
    assert_eq!(answer, b"marco");
    node.detached(&["--network", "bridge", "--name", "chosen", "-p", "80"], SERVE);
    let chosen = node.inspect("chosen")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        .as_str()
        .expect("port")
        .parse::<u16>()
        .expect("port");
    assert!(chosen > 1023);
    eventually("the chosen port answers", || get(&format!("127.0.0.1:{chosen}")));
    node.finish();
}

#[test]
fn a_port_is_given_once() {
    let node = Node::with_busybox("network-conflict");
    let port = format!("{}:80", node.slot.port(0));
    node.detached(&["--network", "bridge", "--name", "one", "-p", &port], SERVE);
    let error = node.fails(125, &["run", "-d", "--name", "two", "-p", &port, &image("busybox"), "true"]);
    assert!(error.contains(&node.slot.port(0).to_string()), "{error}");
    let listener = std::net::TcpListener::bind(("0.0.0.0", node.slot.port(1))).expect("bind");
    let taken = format!("{}:80", node.slot.port(1));
    node.fails(125, &["run", "-d", "--name", "three", "-p", &taken, &image("busybox"), "true"]);
    drop(listener);
    node.ok(&["rm", "-f", "one"]);
    node.detached(&["--network", "bridge", "--name", "four", "-p", &port], SERVE);
    eventually("it answers", || get(&format!("127.0.0.1:{}", node.slot.port(0))));
    node.finish();
}

#[test]
fn containers_talk_and_hairpin_works() {
    let node = Node::with_busybox("network-peers");
    let port = node.slot.port(0);
    node.detached(&["--network", "bridge", "--name", "server", "-p", &format!("{port}:80")], SERVE);
    let server = address(&node, "server");
    let script = format!("for i in $(seq 50); do wget -q -O - http://{server}/ && break; sleep 0.1; done");
    assert_eq!(node.sh(&["--network", "bridge"], &script), "hello from busybox");
    // wget -T kills Debian's static busybox. A container reaches a published port through the host's address, even its own.
    let through_host = format!("timeout 5 wget -q -O - http://{}:{port}/", node.slot.gateway());
    assert_eq!(node.sh(&["--network", "bridge"], &through_host), "hello from busybox");
    assert_eq!(node.ok(&["exec", "server", "sh", "-c", &through_host]), "hello from busybox");
    node.finish();
}

#[test]
fn addresses_differ_and_come_back() {
    let node = Node::with_busybox("network-addresses");
    let ids: Vec<String> =
        (0..5).map(|_| node.detached(&["--network", "bridge"], "while :; do sleep 1; done")).collect();
    let mut addresses: Vec<String> = ids.iter().map(|id| address(&node, id)).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 5);
    for id in &ids {
        let shown = node.ok(&["exec", id, "sh", "-c", "ip -4 -o addr show dev eth0"]);
        assert!(shown.contains(&address(&node, id)), "{shown}");
        assert!(node.ok(&["exec", id, "ip", "route"]).contains(&format!("default via {}", node.slot.gateway())));
    }
    node.finish();
}

#[test]
fn what_leaves_the_bridge_is_masqueraded() {
    let node = Node::with_busybox("network-masquerade");
    // A namespace beyond the host that knows no way back to the bridge's subnet: it answers the host's address only.
    let (ns, link) = (format!("berth-test-{}", node.slot.number), format!("bout{}", node.slot.number));
    let net = format!("10.214.{}", node.slot.number);
    let ip = |line: &str| {
        let status = std::process::Command::new("ip").args(line.split(' ')).status().expect("ip");
        assert!(status.success(), "ip {line}");
    };
    let _ = std::process::Command::new("ip").args(["netns", "delete", &ns]).output();
    ip(&format!("netns add {ns}"));
    ip(&format!("link add {link} type veth peer name far netns {ns}"));
    ip(&format!("addr add {net}.1/24 dev {link}"));
    ip(&format!("link set {link} up"));
    ip(&format!("-n {ns} addr add {net}.2/24 dev far"));
    ip(&format!("-n {ns} link set far up"));
    ip(&format!("-n {ns} link set lo up"));
    let output = node.sh_output(&["--network", "bridge"], &format!("ping -c 1 -W 5 {net}.2"));
    ip(&format!("netns delete {ns}"));
    assert_eq!(output.code, 0, "{output:?}");
    node.finish();
}
