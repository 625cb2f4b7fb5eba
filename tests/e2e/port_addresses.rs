//! Published ports: at which addresses of the host, which ones of a range, and of which protocol.

use crate::harness::web::answers_at;
use crate::harness::{Node, image, runtimes, until};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

const SERVE: &str = "httpd -f -p 80 -h /var/www";

/// A loopback address that no other running test has, so that any of its ports may be published.
fn address(node: &Node) -> String {
    format!("127.88.{}.1", node.slot.number)
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn parts_of_a_range_are_closed() {
    let mut node = Node::with_busybox("ports-parts");
    let at = address(&node);
    // Ranges that are one mapping, one element of the rules or many; and one that is a mapping for each port.
    for (first, to, count) in [(9000u16, 1u16, 201u16), (9000, 9000, 201), (9000, 1, 20)] {
        let publish = format!("{at}:{first}-{}:{to}-{}", first + count - 1, to + count - 1);
        let (middle, last) = (to + count / 2, to + count - 1);
        let serve = format!(
            "for p in {to} {} {middle} {}; do httpd -p $p -h /var/www; done; exec httpd -f -p {last} -h /var/www",
            to + 1,
            last - 1
        );
        node.detached(&["--network", "bridge", "--name", "web", "-p", &publish], &serve);
        let host = |port: u16| format!("{at}:{}", port - to + first);
        let open = |ports: &[u16]| {
            for port in [to, to + 1, middle, last - 1, last] {
                assert_eq!(answers_at(&host(port)), ports.contains(&port), "{publish}: {port} of {ports:?}");
            }
        };
        until("all answer", || [to, to + 1, middle, last - 1, last].iter().all(|p| answers_at(&host(*p))));
        assert_eq!(node.ok(&["port", "web", &middle.to_string()]).trim(), host(middle));
        // A connection through another port of the range goes on, one through this port ends.
        let connect = |port: u16| TcpStream::connect(host(port)).expect("connect");
        let (mut stays, mut ends) = (connect(last), connect(middle));
        node.ok(&["port", "rm", "web", &middle.to_string()]);
        open(&[to, to + 1, last - 1, last]);
        assert!(page(&mut stays) && !page(&mut ends), "{publish}");
        node.ok(&["port", "rm", "web", &host(to).replace(&format!(":{first}"), &format!(":{first}:{to}"))]);
        open(&[to + 1, last - 1, last]);
        // What is left is left behind a new agent, and in the next run.
        node.kill_agent();
        node.spawn();
        open(&[to + 1, last - 1, last]);
        node.ok(&["port", "rm", "web", &last.to_string()]);
        open(&[to + 1, last - 1]);
        node.ok(&["restart", "-t", "1", "web"]);
        until("it answers again", || answers_at(&host(to + 1)) && answers_at(&host(last - 1)));
        open(&[to + 1, last - 1]);
        let found: Value = serde_json::from_str(&node.ok(&["inspect", "web"])).expect("json");
        let ports = &found[0]["NetworkSettings"]["Ports"];
        assert_eq!(ports[format!("{}/tcp", to + 1)][0]["HostPort"], (first + 1).to_string(), "{ports:#}");
        assert!(
            ports[format!("{middle}/tcp")].is_null()
                && ports.as_object().is_some_and(|p| p.len() + 3 == usize::from(count))
        );
        // A part, and then all.
        node.ok(&["port", "rm", "web", &format!("{}-{}", middle + 1, last)]);
        open(&[to + 1]);
        assert_eq!(node.ok(&["port", "rm", "web", &format!("{to}-{last}")]), "");
        open(&[]);
        node.ok(&["port", "add", "web", &format!("{at}:{}:{middle}", first + 7)]);
        until("a closed one is free", || answers_at(&format!("{at}:{}", first + 7)));
        node.ok(&["rm", "-f", "web"]);
    }
    node.finish();
}

/// Whether a page comes through a connection that is there.
fn page(stream: &mut TcpStream) -> bool {
    let mut text = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    write!(stream, "GET / HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_to_string(&mut text).is_ok()
        && text.contains("200 OK")
}

#[test]
fn an_address_of_a_family_is_of_that_family() {
    let node = Node::with_busybox("ports-families");
    let [four, six, both] = [node.slot.port(0), node.slot.port(1), node.slot.port(2)];
    node.ok(&["network", "create", "--ipv6", "dual"]);
    let [on4, on6, on] = [format!("0.0.0.0:{four}:80"), format!("[::]:{six}:80"), format!("{both}:80")];
    node.detached(&["--network", "dual", "--name", "web", "-p", &on4, "-p", &on6, "-p", &on], SERVE);
    let answers = |port: u16| [answers_at(&format!("127.0.0.1:{port}")), answers_at(&format!("[::1]:{port}"))];
    until("it answers", || answers(both) == [true, true]);
    assert_eq!((answers(four), answers(six)), ([true, false], [false, true]));
    let shown = node.ok(&["port", "web"]);
    let mut wanted: Vec<String> =
        [format!("0.0.0.0:{four}"), format!("[::]:{six}"), format!("0.0.0.0:{both}"), format!("[::]:{both}")]
            .map(|at| format!("80/tcp -> {at}"))
            .to_vec();
    let mut found = lines(&shown);
    wanted.sort();
    found.sort_unstable();
    assert_eq!(found, wanted);
    let ps = node.ok(&["ps", "--format", "{{.Ports}}"]);
    assert!(ps.contains(&format!("[::]:{six}->80/tcp")) && !ps.contains(&format!("0.0.0.0:{six}")), "{ps}");
    let inspected: Value = serde_json::from_str(&node.ok(&["inspect", "-o", "docker", "web"])).expect("json");
    let asked = &inspected[0]["HostConfig"]["PortBindings"]["80/tcp"];
    let hosts: Vec<_> = asked.as_array().expect("a list").iter().map(|b| b["HostIp"].as_str()).collect();
    assert_eq!(hosts, [Some("0.0.0.0"), Some("::"), Some("")]);
    let explain = |at: String| node.ok(&["port", "explain", &at]);
    let said = explain(format!("127.0.0.1:{six}"));
    assert!(
        said.contains("publishes the port on every address of IPv6 only") && said.contains("not this address"),
        "{said}"
    );
    assert!(explain(format!("[::1]:{six}")).contains("reaches container web"));
    assert!(explain(format!("[::1]:{four}")).contains("publishes the port on every address of IPv4 only"));
    // The other family is free, and one of both can be closed.
    node.ok(&["port", "add", "web", &format!("[::]:{four}:80")]);
    until("it answers", || answers(four) == [true, true]);
    node.ok(&["port", "rm", "web", &format!("[::]:{both}:80"), &format!("0.0.0.0:{four}:80")]);
    assert_eq!((answers(four), answers(both)), ([false, true], [true, false]));
    // So says what is to come of one that does not run, as far as its networks have the family.
    for (network, lines_) in [("dual", 2), ("bridge", 1)] {
        node.ok(&["create", "--network", network, "--name", "later", &image("busybox"), "true"]);
        let added = node.ok(&["port", "add", "later", &format!("{}:80", node.slot.port(4))]);
        assert_eq!(lines(&added).len(), lines_, "{network}: {added}");
        node.ok(&["rm", "later"]);
    }
    // A container without IPv6 cannot be reached there, and says so.
    let refused = node.fails(
        125,
        &[
            "run",
            "-d",
            "--network",
            "bridge",
            "-p",
            &format!("[::]:{}:80", node.slot.port(3)),
            &image("busybox"),
            "true",
        ],
    );
    assert!(refused.contains("no IPv6 address"), "{refused}");
    node.ok(&["rm", "-f", "web"]);
    node.ok(&["network", "rm", "dual"]);
    node.finish();
}

#[test]
fn the_policys_loopback_is_both() {
    let mut node = Node::builder("ports-localhost").publish_address("127.0.0.1").start();
    node.ok(&["pull", "-q", &image("busybox")]);
    let [port, other] = [node.slot.port(0), node.slot.port(1)];
    node.ok(&["network", "create", "--ipv6", "dual"]);
    let publish = format!("{port}:80");
    let run = ["run", "-d", "--network", "dual", "--name", "web", "-p", &publish, &image("busybox"), "sh", "-c", SERVE];
    let made = node.ctl(&run);
    assert!(made.code == 0 && !made.stderr.contains("[::1]"), "{made:?}");
    for at in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        until(&at, || answers_at(&at));
        assert!(node.ok(&["port", "explain", &at]).contains("reaches container web"));
    }
    assert_eq!(lines(&node.ok(&["port", "web", "80"])), [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
    // Both are its own: nobody takes one of them, and it takes neither from somebody.
    assert!(std::net::TcpListener::bind(("::1", port)).is_err());
    let taken = std::net::TcpListener::bind(("::1", other)).expect("a port");
    let error = node.fails(1, &["port", "add", "web", &format!("{other}:80")]);
    assert!(error.contains(&format!("[::1]:{other}/tcp")) && error.contains("process"), "{error}");
    drop(taken);
    // An address that is named is that address.
    node.ok(&["port", "add", "web", &format!("127.0.0.1:{other}:80")]);
    until("it answers", || answers_at(&format!("127.0.0.1:{other}")));
    assert!(!answers_at(&format!("[::1]:{other}")));
    node.ok(&["restart", "-t", "1", "web"]);
    until("again", || answers_at(&format!("[::1]:{port}")));
    node.ok(&["rm", "-f", "web"]);
    // Without IPv6 of its own the host's connections to [::1] come by 127.0.0.1, also while no agent runs.
    let made = node.ctl(&[
        "run",
        "-d",
        "--network",
        "bridge",
        "--name",
        "web",
        "-p",
        &publish,
        &image("busybox"),
        "sh",
        "-c",
        SERVE,
    ]);
    assert!(made.code == 0 && made.stderr.is_empty(), "{made:?}");
    until("it answers", || answers_at(&format!("127.0.0.1:{port}")));
    let six = format!("[::1]:{port}");
    assert!(answers_at(&six));
    assert_eq!(lines(&node.ok(&["port", "web", "80"])), [format!("127.0.0.1:{port}"), six.clone()]);
    let said = node.ok(&["port", "explain", &six]);
    assert!(
        said.contains("is turned to 127.0.0.1 by berth's program") && said.contains("reaches container web"),
        "{said}"
    );
    node.kill_agent();
    assert!(answers_at(&six));
    node.spawn();
    assert!(answers_at(&six));
    // More of them, and fewer: whole ranges, too.
    let range = format!("{}-{}:80-81", node.slot.port(2), node.slot.port(3));
    node.ok(&["port", "add", "web", &range]);
    let in_range = format!("[::1]:{}", node.slot.port(2));
    assert!(answers_at(&in_range));
    node.ok(&["port", "rm", "web", &range]);
    assert!(!answers_at(&in_range) && answers_at(&six));
    // An address that is named is that address, also of such a container.
    node.ok(&["port", "add", "web", &format!("127.0.0.1:{other}:80")]);
    assert!(answers_at(&format!("127.0.0.1:{other}")) && !answers_at(&format!("[::1]:{other}")));
    node.ok(&["stop", "-t", "1", "web"]);
    assert!(!answers_at(&six));
    node.ok(&["start", "web"]);
    until("again", || answers_at(&six));
    node.ok(&["rm", "-f", "web"]);
    assert!(!answers_at(&six));
    node.ok(&["network", "rm", "dual"]);
    node.finish();
}

#[test]
fn the_first_free_port_of_a_range_is_taken() {
    let mut node = Node::with_busybox("ports-choice");
    let at = address(&node);
    let publish = format!("{at}:9300-9302:80");
    let of = |node: &Node, name: &str| node.ok(&["port", name, "80"]).trim().to_owned();
    let taken = std::net::TcpListener::bind((at.as_str(), 9301)).expect("a port");
    node.detached(&["--network", "bridge", "--name", "aa", "-p", &publish], SERVE);
    node.detached(&["--network", "bridge", "--name", "bb", "-p", &publish], SERVE);
    assert_eq!((of(&node, "aa"), of(&node, "bb")), (format!("{at}:9300"), format!("{at}:9302")));
    until("both answer", || answers_at(&format!("{at}:9300")) && answers_at(&format!("{at}:9302")));
    let full = node.fails(125, &["run", "-d", "--network", "bridge", "-p", &publish, &image("busybox"), "true"]);
    assert!(full.contains("none of the ports 9300 to 9302"), "{full}");
    drop(taken);
    // It keeps what it has, over the agent's death and its own restart; what is closed by its number is closed for good.
    node.kill_agent();
    node.spawn();
    node.ok(&["restart", "-t", "1", "bb"]);
    assert_eq!(of(&node, "bb"), format!("{at}:9302"));
    node.ok(&["port", "add", "bb", &publish]);
    assert_eq!(lines(&node.ok(&["port", "bb", "80"])), [format!("{at}:9301"), format!("{at}:9302")]);
    node.ok(&["port", "rm", "bb", &format!("{at}:9302:80")]);
    node.ok(&["restart", "-t", "1", "bb"]);
    assert_eq!(of(&node, "bb"), format!("{at}:9301"));
    node.ok(&["port", "rm", "aa", &publish]);
    until("it is closed", || !answers_at(&format!("{at}:9300")));
    node.ok(&["rm", "-f", "aa", "bb"]);
    node.finish();
}

#[test]
fn nothing_is_published_into_a_macvlan() {
    let node = Node::with_busybox("ports-macvlan");
    node.detached(&["--name", "web", "--network", "bridge"], SERVE);
    let parent = format!("parent={}", node.slot.bridge());
    let made = node.ctl(&["network", "create", "-d", "macvlan", "-o", &parent, "--subnet", "192.0.2.0/24", "lan"]);
    if made.code != 0 {
        runtimes::say(&format!("skipped: ports of a macvlan: {}", made.stderr.trim()));
        return node.finish();
    }
    let publish = format!("{}:80", node.slot.port(0));
    let busybox = image("busybox");
    for words in [&["-p", &publish][..], &["-P"]] {
        let refused = node.fails(125, &[&["run", "-d", "--network", "lan"], words, &[&busybox, "true"]].concat());
        assert!(refused.contains("reached at their own addresses") && refused.contains("macvlan"), "{refused}");
    }
    node.detached(&["--name", "lone", "--network", "lan"], SERVE);
    let refused = node.fails(1, &["port", "add", "lone", &publish]);
    assert!(refused.contains("reached at their own addresses"), "{refused}");
    // Beside a bridge that has the way out it is fine; the way out does not go where the ports cannot.
    node.ok(&["port", "add", "web", &publish]);
    node.ok(&["network", "connect", "lan", "web"]);
    until("it answers", || answers_at(&format!("127.0.0.1:{}", node.slot.port(0))));
    node.ok(&["network", "disconnect", "lan", "web"]);
    let refused = node.fails(1, &["network", "connect", "--gw-priority", "5", "lan", "web"]);
    assert!(refused.contains("published ports"), "{refused}");
    node.ok(&["network", "connect", "lan", "web"]);
    let refused = node.fails(1, &["network", "disconnect", "bridge", "web"]);
    assert!(refused.contains("port rm"), "{refused}");
    assert!(answers_at(&format!("127.0.0.1:{}", node.slot.port(0))));
    node.ok(&["port", "rm", "web", "80"]);
    node.ok(&["network", "disconnect", "bridge", "web"]);
    node.ok(&["rm", "-f", "web", "lone"]);
    node.ok(&["network", "rm", "lan"]);
    node.finish();
}

#[test]
fn sctp_without_its_sockets_is_told() {
    let node = Node::with_busybox("ports-sctp");
    let create = ["create", "--name", "web", "--network", "bridge", "-p", &format!("{}:80/sctp", node.slot.port(0))];
    let made = node.ctl(&[&create[..], &[&image("busybox"), "true"]].concat());
    assert_eq!(made.code, 0, "{made:?}");
    // The kernel's own word: the probe is the same call.
    let told = made.stderr.contains("no SCTP sockets, so nothing in the container can listen on 80/sctp");
    assert_eq!(told, !berth_sys::inet::has_sctp(), "{made:?}");
    node.ok(&["rm", "web"]);
    node.finish();
}

/// Where the kernel has SCTP, an association with a container's server; else the packet that would begin one, made by hand and seen to arrive.
const SCTP: &str = r#"
import socket, struct, subprocess, sys, time
mode, host, port, pid = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
inside = ["nsenter", "-t", pid, "-n", sys.executable, "-u", "-c"]
SERVER = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)\ns.bind(('', 80)); s.listen(1); print('ready')\nc, _ = s.accept(); c.send(c.recv(100)[::-1])"
RAW = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132); s.settimeout(10); print('ready')\np = s.recv(2000); print(p[20:].hex())"
def crc(data):
    value = 0xffffffff
    for byte in data:
        value ^= byte
        for _ in range(8): value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
    return struct.pack("<I", value ^ 0xffffffff)
server = subprocess.Popen(inside + [SERVER if mode == "sockets" else RAW], stdout=subprocess.PIPE, text=True)
assert server.stdout.readline().strip() == "ready"
if mode == "sockets":
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132); s.settimeout(10); s.connect((host, port)); s.send(b"berth")
    assert s.recv(100) == b"htreb"
else:
    init = struct.pack(">BBHIIHHI", 1, 0, 20, 0x1234, 65535, 1, 1, 7)
    head = struct.pack(">HHI", 40001, port, 0)
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
    s.sendto(head + crc(head + bytes(4) + init) + init, (host, 0))
    got = bytes.fromhex(server.stdout.readline())
    to, = struct.unpack(">H", got[2:4])
    assert to == 80 and got[12:] == init, got.hex()
    assert got[8:12] == crc(got[:8] + bytes(4) + got[12:]), "checksum"
server.wait(timeout=10)
"#;

#[test]
fn sctp_reaches_the_container() {
    let node = Node::with_busybox("ports-sctp-sent");
    let at = address(&node);
    let publish = format!("{at}:9400:80/sctp");
    let id = node.detached(&["--network", "bridge", "--name", "web", "-p", &publish], "exec sleep 1000");
    let pid = node.ok(&["inspect", "--format", "{{.State.Pid}}", id.trim()]);
    let mode = if berth_sys::inet::has_sctp() { "sockets" } else { "packets" };
    if mode == "packets" {
        runtimes::say(
            "skipped: bytes over an association: this kernel has no SCTP sockets (CONFIG_IP_SCTP); its first packet is sent by hand",
        );
    }
    let sent = Command::new("python3").args(["-c", SCTP, mode, &at, "9400", pid.trim()]).output().expect("python3");
    assert!(sent.status.success(), "{mode}: {}", String::from_utf8_lossy(&sent.stderr));
    assert!(node.ok(&["port", "explain", &format!("{at}:9400/sctp")]).contains("reaches container web"));
    node.ok(&["rm", "-f", "web"]);
    node.finish();
}

#[test]
fn exposed_ports_are_published_with_all_of_them() {
    let node = Node::with_busybox("ports-exposed");
    let options = ["--network", "bridge", "--name", "web", "-P", "--expose", "80", "--expose", "9000-9001/udp"];
    node.detached(&options, SERVE);
    let shown = node.ok(&["port", "web"]);
    let of = |port: &str| lines(&shown).iter().filter(|line| line.starts_with(&format!("{port} -> "))).count();
    assert!(of("80/tcp") > 0 && of("9000/udp") > 0 && of("9001/udp") > 0, "{shown}");
    let at = node.ok(&["port", "web", "80/tcp"]);
    let port = at.lines().next().and_then(|line| line.rsplit_once(':')).expect("a port").1.to_owned();
    until("it answers", || answers_at(&format!("127.0.0.1:{port}")));
    let inspected: Value = serde_json::from_str(&node.ok(&["inspect", "-o", "docker", "web"])).expect("json");
    let exposed = inspected[0]["Config"]["ExposedPorts"].as_object().expect("ports").keys().cloned();
    assert_eq!(exposed.collect::<Vec<_>>(), ["80/tcp", "9000/udp", "9001/udp"]);
    assert_eq!(node.ok(&["ps", "--filter", "expose=9001/udp", "--format", "{{.Names}}"]), "web");
    // Without -P it is a word for those who look, and for the image that is made of it.
    node.detached(&["--network", "none", "--name", "still", "--expose", "7/sctp"], SERVE);
    assert_eq!(node.ok(&["port", "still"]), "");
    node.ok(&["commit", "still", "exposing:1"]);
    let image: Value = serde_json::from_str(&node.ok(&["inspect", "--type", "image", "exposing:1"])).expect("json");
    assert!(image[0]["Config"]["ExposedPorts"].as_object().is_some_and(|p| p.contains_key("7/sctp")), "{image}");
    let said = node.fails(125, &["run", "--expose", "80:80", &crate::harness::image("busybox"), "true"]);
    assert!(said.contains("--expose \"80:80\": must be a port"), "{said}");
    node.ok(&["rm", "-f", "web", "still"]);
    node.finish();
}

#[test]
fn what_docker_says_of_mounts_and_names() {
    let node = Node::with_busybox("inspect-docker-mounts");
    let strict = format!("type=bind,source={},target=/strict", node.scratch().display());
    node.ok(&["volume", "create", "db"]);
    node.ok(&["network", "create", "own"]);
    node.sh(&["-v", "db:/db"], "mkdir /db/part");
    let options = [
        "--network",
        "own",
        "--name",
        "web",
        "--network-alias",
        "www",
        "-v",
        "db:/db:ro",
        "--mount",
        &strict,
        "-v",
        "/own",
        "--tmpfs",
        "/t:size=1m",
        "--mount",
        "type=volume,source=db,target=/part,volume-subpath=part",
    ];
    let id = node.detached(&options, SERVE);
    let inspected: Value = serde_json::from_str(&node.ok(&["inspect", "-o", "docker", "web"])).expect("json");
    let (host, all) = (&inspected[0]["HostConfig"], inspected[0]["Mounts"].as_array().expect("mounts"));
    assert_eq!(host["Binds"], serde_json::json!(["db:/db:ro"]));
    let more: Vec<_> = host["Mounts"].as_array().expect("mounts").iter().map(|m| m["Target"].as_str()).collect();
    assert_eq!(more, [Some("/strict"), Some("/part")]);
    assert!(host["Tmpfs"]["/t"].as_str().is_some_and(|o| o.contains("size=1048576")), "{host}");
    let db = all.iter().find(|m| m["Destination"] == "/db").expect("db");
    assert_eq!(db["Source"].as_str(), node.data().join("volumes/db/_data").to_str());
    assert_eq!(inspected[0]["Config"]["Volumes"], serde_json::json!({"/own": {}}));
    let names = &inspected[0]["NetworkSettings"]["Networks"]["own"]["DNSNames"];
    assert_eq!(*names, serde_json::json!(["web", "www", &id.trim()[..12]]));
    node.ok(&["rm", "-f", "-v", "web"]);
    node.finish();
}
