//! `port-forward`: connections from the caller's machine into containers, through the API.

use crate::harness::{LONG, Node, eventually, image, until};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

/// ADDRESS PORT COMMAND…: a process for each connection, with the connection as its standard input and output.
const SERVER: &str = "my ($at, $port, @command) = @ARGV; my $six = $at =~ /:/;
    socket(S, $six ? Socket::AF_INET6() : PF_INET, SOCK_STREAM, 0) or die; setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1);
    bind(S, $six ? Socket::pack_sockaddr_in6($port, Socket::inet_pton(Socket::AF_INET6(), $at)) : sockaddr_in($port, inet_aton($at))) or die;
    listen(S, 128) or die; $SIG{CHLD} = 'IGNORE';
    while (1) {
        accept(C, S) or next;
        if (fork == 0) { open(STDIN, '<&', C); open(STDOUT, '>&', C); close C; close S; exec @command }
        close C;
    }";

/// A container without a network whose process serves COMMAND.
fn serve(node: &Node, name: &str, options: &[&str], at: &str, port: &str, command: &[&str]) {
    let nginx = image("nginx");
    let mut arguments = vec!["run", "-d", "--name", name];
    if !options.contains(&"--network") {
        arguments.extend(["--network", "none"]);
    }
    arguments.extend(options);
    arguments.extend(["--entrypoint", "perl", &nginx, "-MSocket", "-e", SERVER, at, port]);
    arguments.extend(command);
    node.ok(&arguments);
    let pid = node.inspect(name)["State"]["Pid"].as_u64().expect("pid");
    let listening = format!(":{:04X} ", port.parse::<u16>().expect("port"));
    until("it listens", || {
        ["tcp", "tcp6"].iter().any(|table| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            text.lines().any(|line| line.contains(&listening) && line.contains(" 0A "))
        })
    });
}

/// `berthctl port-forward`, listening.
struct Forwarder {
    child: Child,
    /// Here, by the port's place on the command line.
    ports: Vec<u16>,
    talk: std::path::PathBuf,
}

impl Forwarder {
    fn start(node: &Node, arguments: &[&str]) -> Forwarder {
        let talk = node.dir.join(format!("forward-{}", arguments.join("-").replace(['/', ':'], "_")));
        let mut all = vec!["port-forward"];
        all.extend(arguments);
        let mut child = node
            .ctl_command(&all)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&talk).expect("talk"))
            .spawn()
            .expect("spawn");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut ports = Vec::new();
        for _ in &arguments[1..] {
            let line = lines.next().expect("a line").expect("text");
            let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|l| l.split(' ').next()?.parse().ok());
            ports.push(port.unwrap_or_else(|| panic!("{line}")));
            let second = lines.next().expect("a line").expect("text");
            assert!(second.starts_with("Forwarding from [::1]:"), "{second}");
        }
        Forwarder { child, ports, talk }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.ports[0])).expect("connect");
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        stream.set_write_timeout(Some(LONG)).expect("timeout");
        stream
    }

    fn talk(&self) -> String {
        std::fs::read_to_string(&self.talk).unwrap_or_default()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// Sends everything, ends its half, and reads to the end.
fn exchange(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("clone");
    let mut reader = stream;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).expect("written");
            writer.shutdown(Shutdown::Write).expect("shut");
        });
        let mut back = Vec::new();
        reader.read_to_end(&mut back).expect("read");
        back
    })
}

/// Bytes of memory of a process that are its own (proc_pid_status(5)).
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn bytes_go_both_ways_and_each_half_ends_alone() {
    let node = Node::with_busybox("forward-bytes");
    node.ok(&["pull", "-q", &image("nginx")]);
    serve(&node, "echo", &[], "127.0.0.1", "7", &["cat"]);
    let echo = Forwarder::start(&node, &["echo", ":7"]);
    let bytes = pattern(8 << 20);
    assert!(exchange(echo.connect(), &bytes) == bytes, "8 MiB come back as they were sent");
    let six = TcpStream::connect((Ipv6Addr::LOCALHOST, echo.ports[0])).expect("connect");
    assert_eq!(exchange(six, b"by ::1"), b"by ::1");
    // A server that listens on ::1 alone, and answers when it has heard everything.
    serve(&node, "sum", &[], "::1", "99", &["sha256sum"]);
    let sum = Forwarder::start(&node, &["sum", ":99"]);
    let file = node.dir.join("bytes");
    std::fs::write(&file, &bytes).expect("written");
    let wanted = std::process::Command::new("sha256sum").stdin(std::fs::File::open(&file).expect("open")).output();
    assert_eq!(exchange(sum.connect(), &bytes), wanted.expect("sha256sum").stdout);
    // The server's half ends first.
    let half = "syswrite STDOUT, 'hi'; shutdown(STDOUT, 1); my $n = 0; my $b;
        while (my $got = sysread(STDIN, $b, 65536)) { $n += $got } open(F, '>', '/tmp/n'); print F $n; close F";
    serve(&node, "half", &["--network", "bridge"], "0.0.0.0", "80", &["perl", "-e", half]);
    let forwarder = Forwarder::start(&node, &["half", ":80"]);
    let mut stream = forwarder.connect();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("read");
    assert_eq!(heard, "hi");
    stream.write_all(&bytes[..1_000_000]).expect("still open");
    drop(stream);
    until("all of it arrived", || node.ctl(&["exec", "half", "cat", "/tmp/n"]).stdout.trim() == "1000000");
    assert_eq!(forwarder.talk() + &echo.talk() + &sum.talk(), "");
    drop((echo, sum, forwarder));
    node.finish();
}

#[test]
fn what_does_not_work_says_why() {
    let node = Node::with_busybox("forward-errors");
    node.ok(&["pull", "-q", &image("nginx")]);
    serve(&node, "web", &[], "127.0.0.1", "80", &["cat"]);
    let forwarder = Forwarder::start(&node, &["web", ":81"]);
    let mut nobody = forwarder.connect();
    let ended = nobody.read(&mut [0; 10]);
    assert!(ended.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "{ended:?}");
    let told = eventually("it is told", || Some(forwarder.talk()).filter(|t| t.ends_with('\n')));
    for word in ["-> 81: ", "port 81 inside container web", "connection refused", "(it listens on 80)"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let error = node.fails(1, &["port-forward", "--stdio", "web", "81"]);
    assert!(error.contains("connection refused") && error.contains("hint:"), "{error}");
    for (arguments, words) in [
        (vec!["web", "53/udp"], "udp cannot be forwarded"),
        (vec!["web", "0"], "1 to 65535"),
        (vec!["--stdio", "web", "80", "81"], "name one port"),
    ] {
        let output = node.ctl(&[vec!["port-forward"], arguments.clone()].concat());
        assert!(output.code != 0 && output.stderr.contains(words), "{arguments:?}: {output:?}");
    }
    let error = node.fails(1, &["port-forward", "nothing", "80"]);
    assert!(error.contains("no such container"), "{error}");
    let taken = forwarder.ports[0].to_string();
    let error = node.fails(1, &["port-forward", "web", &format!("{taken}:80")]);
    assert!(error.contains(&taken) && error.contains("in use") && error.contains("hint:"), "{error}");
    // The container ends in the middle, is away, and comes back; the listener stays.
    let web = Forwarder::start(&node, &["web", ":80"]);
    let mut open = web.connect();
    open.write_all(b"x").expect("written");
    open.read_exact(&mut [0]).expect("the echo");
    node.ok(&["stop", "-t", "0", "web"]);
    assert!(open.read(&mut [0]).map_or(true, |n| n == 0), "it goes on");
    let error = node.fails(1, &["port-forward", "web", "80"]);
    assert!(error.contains("is not running"), "{error}");
    assert!(web.connect().read(&mut [0]).map_or(true, |n| n == 0));
    eventually("it is told", || web.talk().contains("is not running").then_some(()));
    node.ok(&["start", "web"]);
    eventually("it answers again", || {
        let mut stream = web.connect();
        stream.write_all(b"y").ok()?;
        stream.read_exact(&mut [0]).ok()
    });
    drop((forwarder, web));
    node.finish();
}

#[test]
fn the_agent_dies_and_the_listener_goes_on() {
    let mut node = Node::with_busybox("forward-agent");
    node.ok(&["pull", "-q", &image("nginx")]);
    serve(&node, "echo", &[], "127.0.0.1", "7", &["cat"]);
    let forwarder = Forwarder::start(&node, &["echo", ":7"]);
    let mut open = forwarder.connect();
    open.write_all(b"x").expect("written");
    open.read_exact(&mut [0]).expect("the echo");
    node.kill_agent();
    assert!(open.read(&mut [0]).is_err(), "a break is no end");
    eventually("it is told", || forwarder.talk().contains("broke").then_some(()));
    // Nobody is there, and somebody connects.
    let waiting = forwarder.connect();
    node.spawn();
    assert_eq!(exchange(waiting, b"behind the next agent"), b"behind the next agent");
    assert_eq!(exchange(forwarder.connect(), b"and again"), b"and again");
    // A stop says so, and is one as well.
    let mut open = forwarder.connect();
    open.write_all(b"x").expect("written");
    open.read_exact(&mut [0]).expect("the echo");
    assert!(node.stop_agent().success());
    assert!(open.read(&mut [0]).is_err());
    eventually("it is told", || forwarder.talk().contains("is stopping").then_some(()));
    node.spawn();
    assert_eq!(exchange(forwarder.connect(), b"once more"), b"once more");
    drop(forwarder);
    node.finish();
}

#[test]
fn fifty_at_once_leave_nothing_behind() {
    let node = Node::with_busybox("forward-fifty");
    node.ok(&["pull", "-q", &image("nginx")]);
    serve(&node, "echo", &[], "127.0.0.1", "7", &["cat"]);
    let forwarder = Forwarder::start(&node, &["echo", ":7"]);
    assert_eq!(exchange(forwarder.connect(), b"first"), b"first");
    let (agent, ctl) = (node.fds(), format!("/proc/{}/fd", forwarder.child.id()));
    let count = || std::fs::read_dir(&ctl).expect("fds").count();
    let before = count();
    let bytes = pattern(1 << 20);
    std::thread::scope(|scope| {
        for n in 0..50usize {
            let (bytes, stream) = (&bytes[n..], forwarder.connect());
            scope.spawn(move || assert!(exchange(stream, bytes) == bytes, "connection {n}"));
        }
    });
    // Callers that break off leave nothing either.
    for _ in 0..20 {
        let mut stream = forwarder.connect();
        stream.write_all(b"gone").expect("written");
    }
    // What the agent keeps ready for the next containers may still have grown, by less than a connection each.
    until("descriptors are given back", || node.fds() <= agent + 32 && count() <= before);
    drop(forwarder);
    node.finish();
}

#[test]
fn who_does_not_read_grows_no_memory_and_holds_up_nobody() {
    const STUCK: usize = 12;
    let node = Node::with_busybox("forward-slow");
    node.ok(&["pull", "-q", &image("nginx")]);
    serve(&node, "flood", &[], "127.0.0.1", "1", &["cat", "/dev/zero"]);
    serve(&node, "deaf", &[], "127.0.0.1", "2", &["sleep", "1000"]);
    serve(&node, "echo", &[], "127.0.0.1", "7", &["cat"]);
    let [flood, deaf, echo] =
        [["flood", ":1"], ["deaf", ":2"], ["echo", ":7"]].map(|arguments| Forwarder::start(&node, &arguments));
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..STUCK {
        streams.push(flood.connect());
        let mut writer = deaf.connect();
        writer.set_write_timeout(Some(Duration::from_millis(200))).expect("timeout");
        let mut sent = 0;
        while let Ok(n) = writer.write(&[1; 64 << 10]) {
            sent += n;
            assert!(sent < 64 << 20, "it takes everything");
        }
        streams.push(writer);
    }
    let pids = [node.pid(), flood.child.id(), deaf.child.id()];
    let before = pids.map(memory);
    std::thread::sleep(Duration::from_secs(2));
    let after = pids.map(memory);
    eprintln!("memory with {STUCK} stuck each way (agent, flood, deaf): {before:?}, 2 s later: {after:?}");
    for (before, after) in before.iter().zip(after) {
        assert!(after < before + (4 << 20), "it grows");
        // Each keeps at most its window, and some in HTTP/2.
        assert!(after < ((STUCK as u64 * 2 + 64) << 20), "{after}");
    }
    // Stuck ones of the same caller hold up nobody.
    assert_eq!(exchange(echo.connect(), b"another caller"), b"another caller");
    let both = Forwarder::start(&node, &["flood", ":1"]);
    let stuck: Vec<TcpStream> = (0..STUCK).map(|_| both.connect()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let mut reader = both.connect();
    let mut got = vec![0; 4 << 20];
    reader.read_exact(&mut got).expect("4 MiB beside those that are stuck");
    drop((streams, stuck, reader, flood, deaf, echo, both));
    node.finish();
}

#[test]
fn a_role_is_asked_for_and_a_record_is_left() {
    let node = Node::with_busybox("forward-roles");
    node.ok(&["pull", "-q", &image("nginx")]);
    serve(&node, "plain", &[], "127.0.0.1", "80", &["echo", "hello"]);
    let port = node.slot.port(3).to_string();
    serve(&node, "hosts", &["--network", "host"], "127.0.0.1", &port, &["echo", "hello"]);
    let stdio = |role: &str, container: &str, port: &str| {
        let identity = node.pki.identity(role);
        node.ctl_as(&identity, &["port-forward", "--stdio", container, port])
    };
    for (role, container, port, good) in [
        ("operator", "plain", "80", true),
        ("viewer", "plain", "80", false),
        ("admin", "hosts", port.as_str(), true),
        ("operator", "hosts", port.as_str(), false),
    ] {
        let output = stdio(role, container, port);
        assert_eq!(output.code == 0 && output.stdout == "hello\n", good, "{role} to {container}: {output:?}");
        assert!(good || output.stderr.contains("role"), "{output:?}");
    }
    // The caller sees the end before the agent writes it down.
    let ended = |records: &Vec<serde_json::Value>| records.iter().filter(|r| r["event"] == "end").count() == 4;
    let records = crate::harness::eventually("the record of each end", || {
        let log = std::fs::read_to_string(node.data().join("audit.log")).expect("audit.log");
        let records = log.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        Some(records.filter(|r| r["rpc"] == "/berth.v1.Containers/PortForward").collect()).filter(ended)
    });
    let has = |caller: &str, event: &str, object: &str, verdict: &str| {
        records
            .iter()
            .any(|r| r["caller"] == caller && r["event"] == event && r["object"] == object && r["verdict"] == verdict)
    };
    assert!(has("operator", "start", "plain 80/tcp", "allowed"), "{records:#?}");
    assert!(has("operator", "end", "plain 80/tcp", "allowed"), "{records:#?}");
    assert!(has("operator", "end", &format!("hosts {port}/tcp"), "denied"), "{records:#?}");
    node.finish();
}
