//! The server on the real kernel. "The host" of each test is a network namespace of its own, with a bridge and containers' namespaces at it. Needs root.

use berth_names::packet::{A, AAAA, ANY, PTR};
use berth_names::zone::{Host, Zone};
use berth_sys::{net, socket};
use std::io::{IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

const GATEWAY: &str = "10.77.0.1";
const GATEWAY6: &str = "fd77::1";
/// Nothing here takes as long: what does is lost.
const LONG: Duration = Duration::from_secs(10);

fn on_a_host(test: impl FnOnce() + Send + 'static) {
    let host = thread::spawn(|| {
        net::unshare_network().unwrap();
        run("ip link set lo up");
        test();
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A container: a namespace with an address on the bridge, and a thread in it that does what it is told.
struct Guest {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Guest {
    /// With the addresses 10.77.0.N and fd77::N.
    fn new(bridge: &str, n: u8) -> Self {
        let (work, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            net::unshare_network().unwrap();
            let tid = std::fs::read_link("/proc/thread-self").unwrap();
            tell.send(tid.file_name().unwrap().to_str().unwrap().to_owned()).unwrap();
            while let Ok(act) = todo.recv() {
                act();
            }
        });
        let tid = told.recv().unwrap();
        run(&format!("ip link add {bridge}v{n} type veth peer name eth0 netns {tid}"));
        run(&format!("ip link set {bridge}v{n} master {bridge} up"));
        let guest = Guest { work };
        guest.within(move || {
            run(&format!("ip address add 10.77.0.{n}/24 dev eth0"));
            run(&format!("ip address add fd77::{n}/64 dev eth0 nodad"));
            run("ip link set eth0 up");
        });
        guest
    }

    fn begin<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
        let (tell, told) = mpsc::channel();
        self.work.send(Box::new(move || drop(tell.send(act())))).unwrap();
        told
    }

    fn within<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        self.begin(act).recv().unwrap()
    }

    fn ask(&self, server: &str, name: &str, kind: u16) -> Answer {
        let (server, query) = (at(server), query(7, name, kind, true));
        Answer(self.within(move || exchange(server, &query)).expect("no answer"))
    }

    fn ask_by_stream(&self, server: &str, name: &str, kind: u16) -> Answer {
        let (server, query) = (at(server), query(8, name, kind, true));
        Answer(self.within(move || {
            let mut stream = TcpStream::connect_timeout(&server, LONG).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            // Two at once, in pieces: both are answered.
            let message = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
            stream.write_all(&message[..5]).unwrap();
            stream.write_all(&[&message[5..], &message].concat()).unwrap();
            let first = read_message(&mut stream);
            assert_eq!(first, read_message(&mut stream));
            first
        }))
    }
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 53)
}

fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut message = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut message).unwrap();
    message
}

fn query(id: u16, name: &str, kind: u16, edns: bool) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, edns.into()]].concat();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend([0, (kind >> 8) as u8, kind as u8, 0, 1]);
    bytes.extend(if edns { &[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0][..] } else { &[] });
    bytes
}

fn exchange(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.connect(server).unwrap();
    socket.send(query).ok()?;
    let mut buffer = [0; 2000];
    let n = socket.recv(&mut buffer).ok()?;
    Some(buffer[..n].to_vec())
}

/// As it came.
#[derive(PartialEq, Debug)]
struct Answer(Vec<u8>);

impl Answer {
    fn code(&self) -> u8 {
        self.0[3] & 15
    }

    fn records(&self) -> u8 {
        self.0[7]
    }

    fn truncated(&self) -> bool {
        self.0[2] & 2 != 0
    }

    fn has(&self, bytes: &[u8]) -> bool {
        self.0.windows(bytes.len()).any(|w| w == bytes)
    }
}

/// A server's process and the socket to it.
struct Server {
    folder: PathBuf,
    process: Child,
    control: OwnedFd,
}

impl Server {
    fn start(zones: &[&Zone]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("berth-names-{}-{n}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        zones.iter().for_each(|zone| write(&folder, zone));
        let socket_path = folder.join("sock");
        let listener = socket::listen(&socket_path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth-names"));
        let process = command.arg(&folder).arg("b1").stdin(Stdio::from(listener)).spawn().unwrap();
        let control = socket::connect(&socket_path).unwrap();
        let server = Server { folder, process, control };
        let status = server.tell("status");
        assert!(status.starts_with(&format!("ok\nbuild b1\nnetworks {}\n", zones.len())), "{status}");
        server
    }

    fn tell(&self, message: &str) -> String {
        socket::send(self.control.as_fd(), &[IoSlice::new(message.as_bytes())], &[], true).unwrap();
        let mut buffer = [0; 4096];
        let n = socket::receive(self.control.as_fd(), &mut buffer, &mut Vec::new(), true).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    fn load(&self, zone: &Zone) -> String {
        write(&self.folder, zone);
        self.tell(&format!("load {}", zone.network))
    }

    /// One figure of its status.
    fn figure(&self, name: &str) -> u64 {
        let status = self.tell("status");
        let mut words = status.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        words.next().unwrap_or_else(|| panic!("{status}"))
    }
}

fn write(folder: &std::path::Path, zone: &Zone) {
    std::fs::write(folder.join(format!("{}.zone", zone.network)), zone.render()).unwrap();
}

impl Drop for Server {
    fn drop(&mut self) {
        let alive = matches!(self.process.try_wait(), Ok(None));
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::fs::remove_dir_all(&self.folder).unwrap();
        assert!(alive || thread::panicking(), "the server ended by itself");
    }
}

fn host(n: u8, name: &str, servers: &[&str]) -> Host {
    Host {
        id: format!("id{n}"),
        name: name.into(),
        aliases: vec!["all".into()],
        addresses: vec![IpAddr::from([10, 77, 0, n]), format!("fd77::{n}").parse().unwrap()],
        servers: servers.iter().map(|s| s.parse().unwrap()).collect(),
        unwell: false,
    }
}

fn zone(network: &str, forward: bool, hosts: Vec<Host>) -> Zone {
    let listen = [GATEWAY, GATEWAY6].map(|a| a.parse().unwrap()).to_vec();
    let subnets = vec![("10.77.0.0".parse().unwrap(), 24), ("fd77::".parse().unwrap(), 64)];
    Zone { network: network.into(), device: "bnn0".into(), listen, subnets, forward, hosts }
}

fn bridge() {
    run("ip link add bnn0 type bridge");
    run(&format!("ip address add {GATEWAY}/24 dev bnn0"));
    // With the time of trial that a new address has.
    run(&format!("ip address add {GATEWAY6}/64 dev bnn0"));
    run("ip link set bnn0 up");
}

/// Answers UDP on 127.0.0.N until the test is over.
fn upstream(ip: &str, answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) {
    let socket = UdpSocket::bind(at(ip)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            for message in answer(&buffer[..n]) {
                socket.send_to(&message, from).unwrap();
            }
        }
    });
}

/// A server's answer to a query: its flags, its address, and more of the latter when it is to be long.
fn reply(query: &[u8], flags: [u8; 2], address: [u8; 4], count: u8) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 5;
    let mut bytes = [&query[..2], &flags, &[0, 1, 0, count, 0, 0, 0, 0], &query[12..end]].concat();
    for _ in 0..count {
        bytes.extend([&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4][..], &address].concat());
    }
    bytes
}

#[test]
fn containers_find_each_other() {
    on_a_host(|| {
        bridge();
        let (one, two) = (Guest::new("bnn0", 2), Guest::new("bnn0", 3));
        let mut web = zone("web", false, vec![host(2, "one", &[]), host(3, "Two", &[])]);
        let server = Server::start(&[&web]);
        for gateway in [GATEWAY, GATEWAY6] {
            let answer = one.ask(gateway, "tWO", A);
            assert_eq!((answer.code(), answer.records()), (0, 1));
            assert!(answer.has(&[0, 4, 10, 77, 0, 3]) && answer.has(b"\x03tWO"));
            let answer = two.ask(gateway, "one.web", AAAA);
            assert!(answer.has(&[0, 16, 0xfd, 0x77]) && answer.records() == 1);
            let answer = two.ask_by_stream(gateway, "one", ANY);
            assert_eq!((answer.code(), answer.records()), (0, 2));
            assert!(one.ask(gateway, "3.0.77.10.in-addr.arpa", PTR).has(b"\x03Two\x03web\0"));
            assert_eq!(one.ask(gateway, "9.0.77.10.in-addr.arpa", PTR).code(), 3);
            assert_eq!(one.ask(gateway, "two", 65).records(), 0);
            assert_eq!(one.ask(gateway, "example.org", A).code(), 2);
        }
        let (a, b) = (one.ask(GATEWAY, "all", A), one.ask(GATEWAY, "all", A));
        assert!(a.records() == 2 && b.records() == 2 && a != b, "they take no turns");
        // The host itself may ask; another bridge's containers may not.
        assert!(exchange(at(GATEWAY), &query(1, "one", A, false)).is_some());
        run("ip link add bnn1 type bridge");
        run("ip address add 10.78.0.1/24 dev bnn1");
        run("ip link set bnn1 up");
        let stranger = Guest::new("bnn1", 4);
        stranger.within(|| run("ip route add 10.77.0.1 dev eth0"));
        let silent = stranger.within(|| {
            let socket = UdpSocket::bind("10.77.0.4:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket.send_to(&query(1, "one", A, false), at(GATEWAY)).unwrap();
            socket.recv(&mut [0; 512]).is_err()
        });
        assert!(silent);
        // What the agent says holds at once.
        web.hosts.remove(1);
        web.hosts[0].name = "renamed".into();
        assert_eq!(server.load(&web), "ok\n");
        assert_eq!(one.ask(GATEWAY, "two", A).code(), 2);
        assert_eq!(one.ask(GATEWAY, "renamed", A).records(), 1);
        assert_eq!(server.tell("drop web"), "ok");
        assert_eq!(one.within(|| exchange(at(GATEWAY), &query(1, "renamed", A, false))), None);
        assert_eq!(server.load(&web), "ok\n");
        // A new bridge of the same name is another interface.
        run("ip link delete bnn0");
        bridge();
        let one = Guest::new("bnn0", 5);
        assert_eq!(server.load(&web), "ok\n");
        assert_eq!(one.ask(GATEWAY, "renamed", A).records(), 1);
    });
}

#[test]
fn other_servers_are_asked_for_the_rest() {
    on_a_host(|| {
        bridge();
        let guest = Guest::new("bnn0", 2);
        upstream("127.0.0.2", |q| vec![reply(q, [0x81, 0x80], [192, 0, 2, 2], 1)]);
        upstream("127.0.0.3", |q| vec![reply(q, [0x81, 0x82], [0; 4], 0)]);
        // Another id, another question, no answer at all, and then the right one.
        upstream("127.0.0.4", |q| {
            let good = reply(q, [0x81, 0x80], [192, 0, 2, 4], 1);
            let (mut id, mut name, mut no) = (good.clone(), good.clone(), good.clone());
            id[0] ^= 1;
            name[13] ^= 1;
            no[2] = 1;
            vec![id, name, no, b"short".to_vec(), good]
        });
        upstream("127.0.0.5", |q| vec![reply(q, [0x81, 0x80], [192, 0, 2, 5], 60)]);
        let long = TcpListener::bind(at("127.0.0.5")).unwrap();
        thread::spawn(move || {
            for stream in long.incoming() {
                let mut stream = stream.unwrap();
                let answer = reply(&read_message(&mut stream), [0x81, 0x80], [192, 0, 2, 5], 200);
                stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).unwrap();
            }
        });
        let with = |servers: &[&str]| zone("web", true, vec![host(2, "one", servers)]);
        let server = Server::start(&[&with(&["127.0.0.2"])]);
        let answer = guest.ask(GATEWAY, "example.org", A);
        assert_eq!((answer.0[..2].to_vec(), answer.code(), answer.records()), (vec![0, 7], 0, 1));
        assert!(answer.has(&[192, 0, 2, 2]));
        for (servers, from) in [
            // Nobody there: an ICMP error, and at once the next.
            (&["127.0.0.77", "127.0.0.2"][..], 2),
            (&["127.0.0.3", "127.0.0.2"], 2),
            (&["127.0.0.4"], 4),
            // Not to be reached at all.
            (&["2001:db8::1", "127.0.0.2"], 2),
        ] {
            server.load(&with(servers));
            let answer = guest.ask(GATEWAY6, "example.org", A);
            assert!(answer.code() == 0 && answer.has(&[192, 0, 2, from]), "{servers:?}: {answer:?}");
        }
        for servers in [&["127.0.0.77"][..], &["127.0.0.3"], &["127.0.0.77", "2001:db8::1"]] {
            server.load(&with(servers));
            assert_eq!(guest.ask(GATEWAY, "example.org", A).code(), 2, "{servers:?}");
            assert_eq!(guest.ask_by_stream(GATEWAY, "example.org", A).code(), 2, "{servers:?}");
        }
        server.load(&with(&["127.0.0.5"]));
        let answer = guest.within(|| Answer(exchange(at(GATEWAY), &query(9, "long.example.org", A, false)).unwrap()));
        assert!(answer.truncated() && answer.0.len() < 512);
        let answer = guest.ask_by_stream(GATEWAY, "long.example.org", A);
        assert!(!answer.truncated() && answer.records() == 200);
        assert_eq!((server.figure("asking"), server.figure("networks")), (0, 1));
    });
}

#[test]
fn a_container_that_floods_does_not_silence_another() {
    on_a_host(|| {
        bridge();
        let (flooder, other) = (Guest::new("bnn0", 2), Guest::new("bnn0", 3));
        // Its second flood is of questions that nobody answers: 192.0.2.0/24 leads nowhere that says so.
        run("ip route add 192.0.2.0/24 dev bnn0");
        upstream("127.0.0.2", |q| vec![reply(q, [0x81, 0x80], [192, 0, 2, 2], 1)]);
        let web = zone("web", true, vec![host(2, "bad", &["192.0.2.1"]), host(3, "good", &["127.0.0.2"])]);
        let server = Server::start(&[&web]);
        for name in ["good", "example.org"] {
            let stop = Arc::new(AtomicBool::new(false));
            let stop_ = stop.clone();
            let flood = flooder.begin(move || {
                let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
                let (query, mut sent) = (query(1, name, A, true), 0u64);
                while !stop_.load(Ordering::Relaxed) {
                    sent += u64::from(socket.send_to(&query, at(GATEWAY)).is_ok());
                }
                sent
            });
            while server.figure("over") == 0 && server.figure("failed") == 0 {
                thread::sleep(Duration::from_millis(10));
            }
            for _ in 0..200 {
                assert_eq!(other.ask(GATEWAY, "bad", A).records(), 1);
                assert_eq!(other.ask(GATEWAY, "example.org", A).records(), 1);
            }
            stop.store(true, Ordering::Relaxed);
            let sent = flood.recv().unwrap();
            println!("{sent} questions for {name} sent meanwhile: {}", server.tell("status").replace('\n', " "));
        }
    });
}

/// A container that speaks from addresses which are nobody's has one share of the streams for all of them.
#[test]
fn made_up_addresses_are_one() {
    on_a_host(|| {
        bridge();
        let (liar, other) = (Guest::new("bnn0", 2), Guest::new("bnn0", 3));
        let web = zone("web", false, vec![host(2, "bad", &[]), host(3, "good", &[])]);
        let _server = Server::start(&[&web]);
        let held = liar.within(|| {
            let mut held = Vec::new();
            for n in 100..109 {
                run(&format!("ip address add 10.77.0.{n}/24 dev eth0"));
                run(&format!("ip route replace 10.77.0.0/24 dev eth0 src 10.77.0.{n}"));
                held.extend((0..32).filter_map(|_| TcpStream::connect_timeout(&at(GATEWAY), LONG).ok()));
            }
            held
        });
        assert!(held.len() > 256, "{}", held.len());
        assert_eq!(other.ask_by_stream(GATEWAY, "bad", A).records(), 1);
    });
}

#[test]
fn nonsense_is_survived() {
    on_a_host(|| {
        bridge();
        let guest = Guest::new("bnn0", 2);
        let server = Server::start(&[&zone("web", false, vec![host(2, "one", &[])])]);
        guest.within(|| {
            let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
            let (good, mut state) = (query(1, "one.web", A, true), 88_172_645_463_325_252u64);
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            for i in 0..20_000u64 {
                let mut bytes = good.clone();
                for _ in 0..=random() % 6 {
                    let at = random() as usize % bytes.len();
                    bytes[at] = random() as u8;
                }
                bytes.truncate(random() as usize % (bytes.len() + 1));
                bytes.resize(bytes.len() + if i % 100 == 0 { 1400 } else { 0 }, random() as u8);
                // Err: a queue is full. The next one is as good.
                let _ = socket.send_to(&bytes, at(GATEWAY));
                if i % 100 == 0
                    && let Ok(mut stream) = TcpStream::connect(at(GATEWAY))
                {
                    let _ = stream.write_all(&[&[(random() % 18) as u8, random() as u8], &bytes[..]].concat());
                }
                if i % 1000 == 0 {
                    thread::sleep(Duration::from_millis(60));
                }
            }
            // Connections that say nothing take no one's place for ever, and not all places.
            let silent: Vec<_> = (0..40).filter_map(|_| TcpStream::connect(at(GATEWAY)).ok()).collect();
            drop(silent);
        });
        thread::sleep(Duration::from_millis(200));
        assert_eq!(guest.ask(GATEWAY, "one", A).records(), 1);
        assert_eq!(guest.ask_by_stream(GATEWAY, "one", A).records(), 1);
        assert!(server.figure("questions") > 10_000);
    });
}

#[test]
fn a_server_of_the_hosts_keeps_its_port() {
    on_a_host(|| {
        bridge();
        let guest = Guest::new("bnn0", 2);
        let (theirs, stream) = (UdpSocket::bind("0.0.0.0:53").unwrap(), TcpListener::bind("0.0.0.0:53").unwrap());
        let web = zone("web", false, vec![host(2, "one", &[])]);
        let server = Server::start(&[&web]);
        let answer = server.load(&web);
        let port = |kind: &str| {
            let line = answer.lines().find_map(|l| l.strip_prefix(&format!("redirect {GATEWAY} {kind} ")));
            line.unwrap_or_else(|| panic!("{answer}")).parse::<u16>().unwrap()
        };
        let (udp, tcp) = (port("udp"), port("tcp"));
        let at_port = SocketAddr::new(GATEWAY.parse().unwrap(), udp);
        let query_ = query(1, "one", A, false);
        assert!(guest.within(move || exchange(at_port, &query_)).is_some());
        assert!(guest.within(move || TcpStream::connect(SocketAddr::new(GATEWAY.parse().unwrap(), tcp)).is_ok()));
        assert_eq!(guest.ask(GATEWAY6, "one", A).records(), 1);
        drop((theirs, stream));
        assert_eq!(server.tell("drop web"), "ok");
        assert_eq!(server.load(&web), "ok\n");
        assert_eq!(guest.ask(GATEWAY, "one", A).records(), 1);
        // What is not there yet is tried again.
        run("ip link set bnn0 down");
        let mut other = zone("later", false, vec![host(2, "one", &[])]);
        (other.device, other.listen) = ("bnn9".into(), vec!["10.79.0.1".parse().unwrap()]);
        assert!(server.load(&other).starts_with("error listening on 10.79.0.1 port 53 of bnn9: "));
        run("ip link add bnn9 type bridge");
        run("ip address add 10.79.0.1/24 dev bnn9");
        run("ip link set bnn9 up");
        let guest = Guest::new("bnn9", 3);
        guest.within(|| run("ip route add 10.79.0.1 dev eth0"));
        run("ip route add 10.77.0.3 dev bnn9");
        while guest.within(|| exchange(at("10.79.0.1"), &query(1, "one", A, false))).is_none() {}
        for bad in ["load ../web", "load nothing", "load ", "nonsense"] {
            assert!(server.tell(bad).starts_with("error "), "{bad}");
        }
    });
}
