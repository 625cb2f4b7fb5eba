//! Names on networks of one's own: who finds whom, while agents and the DNS server die.

use crate::harness::{Node, eventually, image, until};
use crate::networks::{IDLE, endpoint, network};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// The server's pid, by its mark beside the networks' files.
pub fn server(node: &Node) -> Option<u32> {
    let socket = node.socket();
    let text = std::fs::read_to_string(socket.parent()?.join("names/pid")).ok()?;
    let pid = text.split(' ').next()?.parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "berth-names").then_some(pid)
}

fn idle(node: &Node, name: &str, options: &[&str]) {
    let nginx = image("nginx");
    let head = ["run", "-d", "--name", name];
    let tail = ["--entrypoint", "sh", nginx.as_str(), "-c", IDLE];
    node.ok(&[&head[..], options, &tail[..]].concat());
}

/// The addresses that a container's own resolver finds, sorted; empty: none.
fn found(node: &Node, container: &str, database: &str, name: &str) -> Vec<String> {
    let output = node.ctl(&["exec", container, "getent", database, name]);
    let mut all: Vec<String> =
        output.stdout.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

fn finds(node: &Node, container: &str, name: &str, address: &str) -> bool {
    let database = if address.contains(':') { "ahostsv6" } else { "ahostsv4" };
    found(node, container, database, name) == [address]
}

fn ip(node: &Node, container: &str, network: &str, six: bool) -> String {
    let key = if six { "GlobalIPv6Address" } else { "IPAddress" };
    endpoint(node, container, network)[key].as_str().unwrap_or_default().to_owned()
}

#[test]
fn containers_of_a_network_find_each_other() {
    let node = Node::start("names-find");
    node.ok(&["network", "create", "--ipv6", "--internal", "front"]);
    assert_eq!(server(&node), None, "nobody has names yet");
    idle(&node, "One", &["--network", "front"]);
    idle(&node, "two", &["--network", "front", "--network-alias", "pair"]);
    idle(&node, "three", &["--network", "front", "--network-alias", "pair"]);
    let gateway = network(&node, "front")["IPAM"]["Config"][0]["Gateway"].as_str().expect("gateway").to_owned();
    let resolv = node.ok(&["exec", "One", "cat", "/etc/resolv.conf"]);
    assert!(
        resolv.starts_with(&format!("nameserver {gateway}\nnameserver f")) && resolv.contains("ndots:0"),
        "{resolv}"
    );
    for six in [false, true] {
        let (one, two, three) =
            (ip(&node, "One", "front", six), ip(&node, "two", "front", six), ip(&node, "three", "front", six));
        for name in ["two", "TWO.front"] {
            assert!(finds(&node, "One", name, &two), "{name} is not {two}");
        }
        assert!(finds(&node, "two", "one", &one), "{one}");
        let id = node.ok(&["ps", "-q", "-f", "name=three"]);
        assert!(finds(&node, "One", &id, &three), "{id} is not {three}");
        let mut pair = vec![two.clone(), three];
        pair.sort();
        assert_eq!(found(&node, "One", if six { "ahostsv6" } else { "ahostsv4" }, "pair"), pair);
        let reverse = node.ok(&["exec", "One", "getent", "hosts", &two]);
        assert!(reverse.contains("two.front"), "{reverse}");
        let hosts = node.ok(&["exec", "One", "cat", "/etc/hosts"]);
        assert!(hosts.lines().any(|line| line.starts_with(&format!("{one}\t"))), "{hosts}");
    }
    // Who comes first changes. The host may ask, too.
    let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04pair\0\0\x01\0\x01";
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        socket.send_to(query, format!("{gateway}:53")).expect("send");
        let mut buffer = [0; 512];
        let n = socket.recv(&mut buffer).expect("an answer");
        buffer[..n].to_vec()
    };
    let (first, second) = (ask(), ask());
    assert!(first[7] == 2 && second[7] == 2 && first != second, "{first:?} {second:?}");
    // A name goes with its container, its place on the network, and when it is changed.
    let two = ip(&node, "two", "front", false);
    node.ok(&["rename", "two", "deux"]);
    until("the new name is known", || finds(&node, "One", "deux", &two));
    assert!(found(&node, "One", "ahostsv4", "two").is_empty());
    node.ok(&["network", "disconnect", "front", "deux"]);
    until("one that has left is not found", || found(&node, "One", "ahostsv4", "deux").is_empty());
    node.ok(&["network", "connect", "--alias", "again", "front", "deux"]);
    let two = ip(&node, "deux", "front", false);
    until("one that is back is found", || finds(&node, "One", "again", &two));
    node.ok(&["stop", "-t", "1", "three"]);
    until("one that has ended is not found", || found(&node, "One", "ahostsv4", "three").is_empty());
    node.ok(&["start", "three"]);
    let three = ip(&node, "three", "front", false);
    assert!(finds(&node, "One", "three", &three), "a start is answered when the name is known");
    node.ok(&["rm", "-f", "One", "deux", "three"]);
    until("the server ends with the last name", || server(&node).is_none());
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

#[test]
fn names_go_on_without_the_agent_and_a_killed_server_comes_back() {
    let mut node = Node::start("names-die");
    node.ok(&["network", "create", "--internal", "front"]);
    idle(&node, "one", &["--network", "front"]);
    idle(&node, "two", &["--network", "front"]);
    let (one, two) = (ip(&node, "one", "front", false), ip(&node, "two", "front", false));
    let first = server(&node).expect("a server");
    let pid = node.inspect("one")["State"]["Pid"].as_u64().expect("pid").to_string();
    let by_itself = |name: &str| {
        // Not by the agent: it is dead.
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "-n", "-r", "getent", "ahostsv4", name]).process_group(0);
        let output = command.output().expect("nsenter");
        String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
    };
    node.kill_agent();
    assert_eq!(by_itself("two"), two);
    node.spawn();
    assert!(finds(&node, "two", "one", &one));
    assert_eq!(server(&node), Some(first), "the next agent goes on with the same server");
    // Killed while an agent is there.
    crate::harness::agent::signal(first, "KILL");
    let second = eventually("the server is started again", || server(&node).filter(|pid| *pid != first));
    until("names are back", || finds(&node, "two", "one", &one));
    // Killed while none is there, and stopped (it answers nobody then).
    node.kill_agent();
    crate::harness::agent::signal(second, "KILL");
    node.spawn();
    let third = eventually("the next agent starts one", || server(&node).filter(|pid| *pid != second));
    until("names are back again", || finds(&node, "one", "two", &two));
    node.kill_agent();
    crate::harness::agent::signal(third, "STOP");
    node.spawn();
    eventually("one that hangs is replaced", || server(&node).filter(|pid| *pid != third));
    until("names are there once more", || finds(&node, "one", "two", &two));
    // What ends while no agent is there is not found behind it.
    let pid = node.inspect("two")["State"]["Pid"].as_u64().expect("pid") as u32;
    node.kill_agent();
    crate::harness::agent::signal(pid, "KILL");
    node.spawn();
    until("the dead one's name is gone", || found(&node, "one", "ahostsv4", "two").is_empty());
    node.ok(&["rm", "-f", "one", "two"]);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

/// An address of our own on the host's loopback.
fn on_lo(what: &str, address: &str) {
    let ip = |what: &str| {
        let output = Command::new("ip").args(["address", what, &format!("{address}/32"), "dev", "lo"]).output();
        output.expect("ip").status.success()
    };
    // One that an earlier test has left.
    ip("del");
    assert!(what == "del" || ip(what));
}

/// A server there that knows every name, as 192.0.2.LAST.
fn serve(address: &str, last: u8) {
    let socket = UdpSocket::bind(format!("{address}:53")).expect("port 53 of an address of our own");
    std::thread::spawn(move || {
        let mut buffer = [0; 600];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            // The question again, and one address for A.
            let end = 12 + buffer[12..n].iter().position(|b| *b == 0).unwrap_or(0) + 5;
            let a = buffer[end - 3] == 1;
            let head = [buffer[0], buffer[1], 0x81, 0x80, 0, 1, 0, u8::from(a), 0, 0, 0, 0];
            let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last];
            let answer = [&head[..], &buffer[12..end], if a { &record } else { &[] }].concat();
            let _ = socket.send_to(&answer, from);
        }
    });
}

#[test]
fn other_servers_are_asked_for_the_rest() {
    let node = Node::start("names-forward");
    let address = format!("198.18.{}.53", node.slot.port(0) % 256);
    on_lo("add", &address);
    serve(&address, 77);
    node.ok(&["network", "create", "front"]);
    node.ok(&["network", "create", "--internal", "closed"]);
    idle(&node, "asks", &["--network", "front", "--dns", &address, "--dns-search", "example.org"]);
    idle(&node, "nobody", &["--network", "front", "--dns", "198.18.255.255"]);
    idle(&node, "closed", &["--network", "closed", "--dns", &address]);
    assert!(finds(&node, "asks", "www.example.org", "192.0.2.77"));
    assert!(finds(&node, "asks", "nobody", &ip(&node, "nobody", "front", false)), "known names stay here");
    assert!(node.ok(&["exec", "asks", "cat", "/etc/resolv.conf"]).contains("\nsearch example.org\n"));
    // Nobody listens there, or nobody may be asked: an answer, and none of a name.
    for container in ["nobody", "closed"] {
        assert!(found(&node, container, "ahostsv4", "www.example.org").is_empty(), "{container}");
    }
    on_lo("del", &address);
    node.ok(&["rm", "-f", "asks", "nobody", "closed"]);
    node.ok(&["network", "rm", "front", "closed"]);
    node.finish();
}

/// The host's own servers change while the server for names runs, which has given up all other files by then.
#[test]
fn the_hosts_resolv_conf_is_read_again() {
    let mut node = Node::start("names-resolv");
    let addresses = [1, 2].map(|n| format!("198.19.{}.{n}", node.slot.port(0) % 256));
    for (address, last) in addresses.iter().zip([78, 79]) {
        on_lo("add", address);
        serve(address, last);
    }
    node.cover("/etc/resolv.conf", &format!("nameserver {}\n", addresses[0]));
    node.restart();
    node.ok(&["network", "create", "front"]);
    idle(&node, "asks", &["--network", "front"]);
    assert!(finds(&node, "asks", "www.example.org", "192.0.2.78"));
    let before = server(&node);
    std::fs::write(node.dir.join("covered-0"), format!("# changed\nnameserver {}\n", addresses[1])).expect("write");
    until("the other server is asked", || finds(&node, "asks", "www.example.org", "192.0.2.79"));
    assert_eq!(server(&node), before);
    addresses.iter().for_each(|address| on_lo("del", address));
    node.ok(&["rm", "-f", "asks"]);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

#[test]
fn whoever_is_connected_later_finds_names_too() {
    let node = Node::start("names-later");
    node.ok(&["network", "create", "front"]);
    idle(&node, "db", &["--network", "front"]);
    idle(&node, "web", &[]);
    let file = |name: &str| node.ok(&["exec", "web", "cat", name]);
    let before = (file("/etc/resolv.conf"), file("/etc/hosts"));
    assert!(!before.0.contains("ndots:0"), "{}", before.0);
    node.ok(&["exec", "web", "sh", "-c", "echo 192.0.2.5 own >> /etc/hosts"]);
    node.ok(&["network", "connect", "front", "web"]);
    assert!(finds(&node, "web", "db", &ip(&node, "db", "front", false)));
    assert!(finds(&node, "db", "web", &ip(&node, "web", "front", false)));
    let hosts = file("/etc/hosts");
    assert!(hosts.contains(&ip(&node, "web", "front", false)) && hosts.ends_with("192.0.2.5 own"), "{hosts}");
    // Off it, everything is as it was, and what it wrote itself is there.
    node.ok(&["network", "disconnect", "front", "web"]);
    assert_eq!((file("/etc/resolv.conf"), file("/etc/hosts")), (before.0, format!("{}\n192.0.2.5 own", before.1)));
    // A resolv.conf of its own is its own.
    node.ok(&["exec", "web", "sh", "-c", "echo nameserver 192.0.2.6 > /etc/resolv.conf"]);
    node.ok(&["network", "connect", "front", "web"]);
    assert_eq!(file("/etc/resolv.conf"), "nameserver 192.0.2.6");
    node.ok(&["rm", "-f", "db", "web"]);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

#[test]
fn the_default_bridge_has_no_names() {
    let node = Node::start("names-default");
    idle(&node, "one", &[]);
    idle(&node, "two", &[]);
    assert_eq!(server(&node), None);
    assert!(!node.ok(&["exec", "one", "cat", "/etc/resolv.conf"]).contains("ndots:0"));
    // Put on a network beside it, it has one.
    node.ok(&["network", "create", "--internal", "front"]);
    node.ok(&["network", "connect", "front", "two"]);
    idle(&node, "three", &["--network", "front"]);
    assert!(finds(&node, "three", "two", &ip(&node, "two", "front", false)));
    node.ok(&["rm", "-f", "one", "two", "three"]);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

#[test]
fn whoever_shares_a_namespace_has_its_names() {
    let node = Node::start("names-shared");
    node.ok(&["network", "create", "front"]);
    node.ok(&["network", "create", "back"]);
    idle(&node, "other", &["--network", "front"]);
    idle(&node, "deep", &["--network", "back"]);
    idle(&node, "pod", &["--network", "front", "--hostname", "podname", "--add-host", "extra:192.0.2.7"]);
    idle(&node, "side", &["--network", "container:pod"]);
    let read = |container: &str, file: &str| node.ok(&["exec", container, "cat", file]);
    let same = || ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"].iter().all(|f| read("side", f) == read("pod", f));
    assert!(same(), "{}", read("side", "/etc/hosts"));
    assert_eq!(node.ok(&["exec", "side", "hostname"]), "podname");
    for (name, address) in [("other", ip(&node, "other", "front", false)), ("extra", "192.0.2.7".into())] {
        assert!(finds(&node, "side", name, &address), "{name}");
    }
    // As its networks change, and behind another agent.
    node.ok(&["network", "connect", "back", "pod"]);
    assert!(same(), "{}, {}", read("side", "/etc/hosts"), read("pod", "/etc/hosts"));
    assert!(finds(&node, "side", "deep", &ip(&node, "deep", "back", false)));
    node.ok(&["network", "disconnect", "back", "pod"]);
    assert!(same());
    for (option, value) in [("--hostname", "x"), ("--dns", "192.0.2.53"), ("--add-host", "x:192.0.2.1")] {
        let said =
            node.fails(125, &["run", "--rm", "--network", "container:pod", option, value, &image("nginx"), "true"]);
        assert!(said.contains("whose network it shares"), "{said}");
    }
    node.ok(&["rm", "-f", "side", "pod", "deep", "other"]);
    node.ok(&["network", "rm", "front", "back"]);
    node.finish();
}

#[test]
fn names_on_a_macvlan_stand_in_the_hosts_files() {
    let mut node = Node::start("names-macvlan");
    let alias = node.fails(125, &["run", "--rm", "--network-alias", "x", &image("nginx"), "true"]);
    assert!(alias.contains("networks of your own"), "{alias}");
    // The default bridge comes with the first container, and is an interface that a macvlan can sit on.
    idle(&node, "first", &["--network", "bridge"]);
    let parent = format!("parent={}", node.slot.bridge());
    let made = node.ctl(&["network", "create", "-d", "macvlan", "-o", &parent, "--subnet", "192.0.2.0/24", "lan"]);
    if made.code == 0 {
        idle(&node, "one", &["--network", "lan"]);
        idle(&node, "two", &["--network", "lan", "--network-alias", "pair"]);
        let two = ip(&node, "two", "lan", false);
        // Who comes finds who is there, at once; who is there finds who comes.
        assert!(finds(&node, "two", "one", &ip(&node, "one", "lan", false)));
        until("one finds two", || finds(&node, "one", "two", &two) && finds(&node, "one", "pair", &two));
        node.ok(&["exec", "one", "sh", "-c", "echo 198.51.100.1 mine >>/etc/hosts"]);
        node.kill_agent();
        node.spawn();
        node.ok(&["rename", "two", "deux"]);
        until("the new name is known", || finds(&node, "one", "deux", &two));
        node.ok(&["rm", "-f", "deux"]);
        until("one that has gone is not found", || found(&node, "one", "ahostsv4", "deux").is_empty());
        assert!(finds(&node, "one", "mine", "198.51.100.1"), "what the container wrote stays");
        node.ok(&["rm", "-f", "one"]);
        node.ok(&["network", "rm", "lan"]);
    } else {
        assert!(made.stderr.contains("the kernel refuses a macvlan"), "{}", made.stderr);
    }
    node.ok(&["rm", "-f", "first"]);
    node.finish();
}
