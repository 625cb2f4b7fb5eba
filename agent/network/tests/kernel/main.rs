//! Containers' networks on the real kernel. "The host" of each test is a network namespace of its own: the machine's links and rules stay untouched.
//! Needs root.

mod measure;
mod ports;

use berth_model::network::{
    Ipv6Mode, NetworkAttachment, NetworkDriver, NetworkId, NetworkRecord, PortMapping, Protocol, Subnet4,
};
use berth_model::publish::PublishPolicy;
use berth_model::{ContainerId, Timestamp};
use berth_network::{Attached, NetworkConfig, NetworkError, Networks, PortHolder, Want};
use berth_sys::net;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The host's address on the link to the outside, and who is there.
const UPLINK: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn config(prefix_len: u8) -> NetworkConfig {
    NetworkConfig {
        bridge: "bnt0".into(),
        gateway: GATEWAY,
        prefix_len,
        table: "berth-test".into(),
        publish: PublishPolicy::default(),
    }
}

fn id() -> ContainerId {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    ContainerId::from_bytes(bytes)
}

/// Runs a test on a thread that has a new network namespace for its host.
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

fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs something on a thread within a network namespace.
fn within<T: Send>(namespace: BorrowedFd<'_>, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            net::enter_network(namespace).unwrap();
            act()
        });
        inside.join().unwrap()
    })
}

/// A namespace on the other side of a link of the host's.
fn outside() -> std::os::fd::OwnedFd {
    thread::spawn(|| {
        let host = net::current_network().unwrap();
        net::unshare_network().unwrap();
        let namespace = net::current_network().unwrap();
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        let tid = thread.file_name().unwrap().to_str().unwrap().to_owned();
        within(host.as_fd(), || {
            run(&format!("ip link add up0 type veth peer name out0 netns {tid}"));
            run(&format!("ip address add {UPLINK}/24 dev up0"));
            run("ip link set up0 up");
        });
        run(&format!("ip address add {OUTSIDE}/24 dev out0"));
        run("ip link set out0 up");
        run("ip link set lo up");
        run(&format!("ip route add 10.99.0.0/16 via {UPLINK}"));
        namespace
    })
    .join()
    .unwrap()
}

fn record(name: &str, driver: NetworkDriver, bridge: &str) -> NetworkRecord {
    let subnet = Ipv4Addr::new(10, 98, 0, 0);
    NetworkRecord {
        id: NetworkId::from_bytes([7; 32]),
        name: name.into(),
        driver,
        ipv4: Some(Subnet4 { subnet, prefix_len: 24, gateway: Ipv4Addr::new(10, 98, 0, 1), range: None }),
        ipv6: None,
        auxiliary: Default::default(),
        ipv6_mode: Ipv6Mode::Nat,
        internal: false,
        mtu: None,
        labels: Default::default(),
        options: Default::default(),
        bridge: bridge.into(),
        conflist: None,
        created: Timestamp::now(),
        removing: false,
    }
}

fn port(host_port: u16, container_port: u16, protocol: Protocol) -> PortMapping {
    PortMapping { host_ip: None, host_port, container_port, protocol, ..PortMapping::default() }
}

/// Answers each TCP connection with the address that it came from, until the listener's namespace is gone with the process.
fn serve(namespace: BorrowedFd<'_>, port: u16) {
    let listener = within(namespace, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let last = peer.ip() == IpAddr::V4(Ipv4Addr::BROADCAST);
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
            if last {
                break;
            }
        }
    });
}

fn serve_udp(namespace: BorrowedFd<'_>, port: u16, answer: &'static str) {
    let socket = within(namespace, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(answer.as_bytes(), peer);
        }
    });
}

/// Who the server says that we are.
fn ask(address: Ipv4Addr, port: u16) -> Result<Ipv4Addr, std::io::Error> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_millis(700))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.parse().unwrap())
}

fn ask_udp(socket: &UdpSocket, to: (Ipv4Addr, u16)) -> Option<String> {
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    socket.send_to(b"?", to).ok()?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    // An answer that was on its way while the flow was forgotten comes from the container's own port: for one moment, not for ever.
    (from.port() == to.1).then(|| String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn udp() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn container_links() -> usize {
    run("ip -o link").lines().filter(|l| l.contains(": bth")).count()
}

#[test]
fn containers_reach_and_are_reached() {
    on_a_host(|| {
        let world = outside();
        let networks = Networks::open(config(24)).unwrap();
        let (a_id, b_id) = (id(), id());
        let a = networks.attach(&a_id, &[port(8080, 80, Protocol::Tcp), port(5353, 53, Protocol::Udp)]).unwrap();
        let b = networks.attach(&b_id, &[]).unwrap();
        assert_eq!(a.main().gateway, GATEWAY);
        assert_ne!(a.main().address, b.main().address);
        let shown = within(a.netns.as_fd(), || run("ip address"));
        assert!(shown.contains(&format!("{}/24", a.main().address)) && shown.contains(&a.main().mac), "{shown}");
        assert!(shown.contains("127.0.0.1/8"), "{shown}");
        serve(a.netns.as_fd(), 80);
        serve_udp(a.netns.as_fd(), 53, "a");
        serve(world.as_fd(), 7000);

        // By its own address: from the host, and from its neighbour as it is.
        assert_eq!(ask(a.main().address, 80).unwrap(), GATEWAY);
        assert_eq!(within(b.netns.as_fd(), || ask(a.main().address, 80)).unwrap(), b.main().address);
        // By the published port: from the host by each of its addresses, from outside with the client's address kept.
        for address in [Ipv4Addr::LOCALHOST, GATEWAY, UPLINK] {
            ask(address, 8080).unwrap_or_else(|e| panic!("the host to {address}: {e}"));
            assert_eq!(ask_udp(&udp(), (address, 5353)).as_deref(), Some("a"), "udp to {address}");
        }
        assert_eq!(within(world.as_fd(), || ask(UPLINK, 8080)).unwrap(), OUTSIDE);
        // The bridge's port is nobody's: it has no addresses.
        assert_eq!(
            run(&format!("ip address show dev {} scope link", a.main().host_interface)).matches("inet").count(),
            0
        );
        assert_eq!(within(world.as_fd(), || ask_udp(&udp(), (UPLINK, 5353))).as_deref(), Some("a"));
        // From containers, also from itself.
        for (who, namespace) in [("b", &b), ("a itself", &a)] {
            for address in [GATEWAY, UPLINK] {
                within(namespace.netns.as_fd(), || ask(address, 8080))
                    .unwrap_or_else(|e| panic!("{who} to {address}: {e}"));
                let answer = within(namespace.netns.as_fd(), || ask_udp(&udp(), (address, 5353)));
                assert_eq!(answer.as_deref(), Some("a"), "{who} by udp to {address}");
            }
        }
        // Out into the world, in the host's name.
        assert_eq!(within(b.netns.as_fd(), || ask(OUTSIDE, 7000)).unwrap(), UPLINK);
        // What nobody published is not reached from outside, even by one who knows the way.
        assert!(within(world.as_fd(), || ask(a.main().address, 80)).is_err());
        // A published port is the host's: the same port of others is left alone.
        assert!(within(b.netns.as_fd(), || ask(OUTSIDE, 8080)).is_err());

        networks.detach(&a_id, &a.attachments).unwrap();
        assert!(ask(Ipv4Addr::LOCALHOST, 8080).is_err());
        networks.detach(&a_id, &a.attachments).unwrap();
        networks.remove_all().unwrap();
        assert!(!run("nft list tables").contains("berth-test"));
        assert!(!run("ip -o link").contains("bnt0"));
    });
}

/// What the host's own input rules say of a port holds for a published one, as if a process of the host listened there.
#[test]
fn the_hosts_firewall_wins() {
    on_a_host(|| {
        let world = outside();
        // As strict as a host may be about the ways of packets.
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
        let networks = Networks::open(config(24)).unwrap();
        let ports = [port(8080, 80, Protocol::Tcp), port(5353, 53, Protocol::Udp)];
        let a = networks.attach(&id(), &ports).unwrap();
        let b = networks.attach(&id(), &[]).unwrap();
        serve(a.netns.as_fd(), 80);
        serve_udp(a.netns.as_fd(), 53, "a");
        let outside = || {
            let tcp = within(world.as_fd(), || ask(UPLINK, 8080)).ok();
            let udp = within(world.as_fd(), || ask_udp(&udp(), (UPLINK, 5353)));
            assert_eq!(tcp.is_some(), udp.is_some(), "{tcp:?} {udp:?}");
            tcp
        };
        let inside = || {
            for (who, namespace) in [("the host", None), ("b", Some(&b)), ("a", Some(&a))] {
                let test = || ask(UPLINK, 8080).unwrap_or_else(|e| panic!("{who}: {e}"));
                namespace.map_or_else(test, |n| within(n.netns.as_fd(), test));
            }
        };
        assert_eq!(outside(), Some(OUTSIDE), "the client's address is kept");

        // A host that lets nobody in but by ssh.
        let rules = |text: &str| {
            run("nft flush ruleset inet");
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
            nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(nft.wait().unwrap().success());
        };
        let strict = "table inet filter { chain input { type filter hook input priority 0; policy drop;
            ct state established,related accept; iif lo accept; tcp dport 22 accept; EXTRA; };
            FORWARD }";
        rules(&strict.replace("EXTRA;", "").replace("FORWARD", ""));
        assert_eq!(outside(), None);
        inside();
        // It opens the ports as it would for any service: by interface and source too.
        let open =
            format!("iifname up0 ip saddr {OUTSIDE} meta l4proto {{ tcp, udp }} th dport {{ 8080, 5353 }} accept");
        rules(&strict.replace("EXTRA", &open).replace("FORWARD", ""));
        assert_eq!(outside(), Some(OUTSIDE));
        rules(&strict.replace("EXTRA", &open.replace("up0", "up9")).replace("FORWARD", ""));
        assert_eq!(outside(), None);
        // What it does not let through to others stays where it is, from the first packet on.
        let forward = "chain forward { type filter hook forward priority 0; ct state established,related accept; iifname up0 drop; };";
        rules(&strict.replace("EXTRA", &open).replace("FORWARD", forward));
        assert_eq!(outside(), None);
        let forward = "chain forward { type filter hook forward priority 0; policy drop;
            ct state established,related accept; iifname up0 oifname bnt0 accept; iifname bnt0 accept; };";
        rules(&strict.replace("EXTRA", &open).replace("FORWARD", forward));
        assert_eq!(outside(), Some(OUTSIDE));
        run("nft flush ruleset inet");
        assert_eq!(outside(), Some(OUTSIDE));
        networks.remove_all().unwrap();
        assert!(!run("ip -o link").contains("bti"));
    });
}

#[test]
fn a_container_starts_again_at_once() {
    on_a_host(|| {
        // Two addresses in all, beside the gateway's one.
        let networks = Networks::open(config(30)).unwrap();
        let id = id();
        let mut held = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..4 {
            // The namespace lives on: somebody still holds it.
            let Attached { netns, attachments } = networks.attach(&id, &[port(8080, 80, Protocol::Tcp)]).unwrap();
            networks.detach(&id, &attachments).unwrap();
            held.push(netns);
            names.insert(attachments[0].host_interface.clone());
        }
        let now = networks.attach(&id, &[]).unwrap();
        // An old attachment has no power over the present one.
        for name in names.iter().filter(|n| **n != now.main().host_interface) {
            let old = berth_model::network::NetworkAttachment { host_interface: name.clone(), ..now.main().clone() };
            networks.detach(&id, &[old]).unwrap();
        }
        serve(now.netns.as_fd(), 80);
        ask(now.main().address, 80).unwrap();
        assert!(matches!(networks.attach(&id, &[]), Err(NetworkError::AlreadyAttached(_))));
        until("old links go", || container_links() == 1);
        let error = networks.attach(&self::id(), &[]).unwrap_err();
        assert!(matches!(error, NetworkError::NoAddressLeft(_)), "{error}");
    });
}

/// A macvlan cannot come up beside another one with its MAC, and the kernel takes dead namespaces apart later.
#[test]
fn a_macvlan_of_the_last_run_may_live_on_for_a_moment() {
    on_a_host(|| {
        run("ip link add up0 type veth peer name up1");
        run("ip link set up0 up");
        let networks = Networks::open(config(24)).unwrap();
        networks.add(&record("lan", NetworkDriver::Macvlan, "up0"));
        let want = |last| Want { network: "lan".into(), default_route: true, last, ..Want::default() };
        let id = id();
        let Attached { netns, attachments } = networks.attach_to(&id, vec![want(None)]).unwrap();
        networks.detach(&id, &attachments).unwrap();
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(400));
            drop(netns);
        });
        let again = networks.attach_to(&id, vec![want(attachments.first().cloned())]).unwrap();
        assert_eq!(again.main().mac, attachments[0].mac);
        let shown = within(again.netns.as_fd(), || run("ip -4 -br address show dev eth0"));
        assert!(shown.contains(&again.main().address.to_string()), "{shown}");
        ends.join().unwrap();
    });
}

/// A port and an address are free when nothing leads to their last container any more.
#[test]
fn a_port_goes_from_hand_to_hand() {
    on_a_host(|| {
        let networks = Networks::open(config(24)).unwrap();
        let until = Instant::now() + Duration::from_secs(4);
        let turns: usize = thread::scope(|scope| {
            let one = |_| {
                let (this, networks) = (id(), &networks);
                scope.spawn(move || {
                    let mut turns = 0;
                    while Instant::now() < until {
                        match networks.attach(&this, &[port(8080, 80, Protocol::Tcp)]) {
                            Ok(attached) => networks.detach(&this, &attached.attachments).unwrap(),
                            Err(NetworkError::PortInUse { .. } | NetworkError::NoAddressLeft(_)) => continue,
                            Err(error) => panic!("{error}"),
                        }
                        turns += 1;
                    }
                    turns
                })
            };
            let all: Vec<_> = (0..3).map(one).collect();
            all.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert!(turns > 20, "{turns}");
        assert_eq!(elements().len(), 0);
    });
}

/// Who waits for what is on its way out does not wait for what comes behind it.
#[test]
fn others_that_come_and_go_hold_up_nobody() {
    on_a_host(|| {
        let networks = Networks::open(config(20)).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let this = id();
                    let attached = networks.attach(&this, &[]).unwrap();
                    networks.detach(&this, &attached.attachments).unwrap();
                    thread::sleep(Duration::from_millis(100));
                }
            });
            let mut longest = Duration::ZERO;
            for _ in 0..3 {
                let this = id();
                let attached = networks.attach(&this, &[]).unwrap();
                networks.detach(&this, &attached.attachments).unwrap();
                let begun = Instant::now();
                let want = Want { network: "bridge".into(), ipv4: Some(attached.main().address), ..Want::default() };
                let again = networks.attach_to(&this, vec![want]);
                longest = longest.max(begun.elapsed());
                networks.detach(&this, &again.unwrap().attachments).unwrap();
                if longest > Duration::from_secs(8) {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert!(longest < Duration::from_secs(8), "{longest:?}");
        });
    });
}

#[test]
fn an_interface_that_the_container_made_stays() {
    on_a_host(|| {
        let networks = Networks::open(config(24)).unwrap();
        let netns = networks.loopback_only().unwrap();
        within(netns.as_fd(), || run("ip link add eth0 type veth peer name other"));
        let want = Want { network: "bridge".into(), ..Want::default() };
        let this = id();
        let error = networks.connect(&this, netns.as_fd(), &want, "eth0").unwrap_err().to_string();
        assert!(error.contains("eth0, which the container has made itself"), "{error}");
        assert!(within(netns.as_fd(), || run("ip -br link")).contains("eth0"));
        networks.connect(&this, netns.as_fd(), &want, "eth1").unwrap();
    });
}

#[test]
fn collisions_are_named() {
    on_a_host(|| {
        run("ip link add br9 type bridge");
        run("ip address add 10.99.0.130/25 dev br9");
        run("ip link set br9 up");
        let networks = Networks::open(config(24)).unwrap();
        let error = networks.attach(&id(), &[]).unwrap_err().to_string();
        for part in ["10.99.0.0/24", "bnt0", "10.99.0.128/25", "br9"] {
            assert!(error.contains(part), "{error}");
        }
        run("ip link del br9");
        run("ip link add bnt0 type veth peer name bnt1");
        assert!(matches!(networks.attach(&id(), &[]), Err(NetworkError::NotABridge(_))));
        run("ip link del bnt0");
        networks.attach(&id(), &[]).unwrap();
    });
}

#[test]
fn a_bridge_of_somebody_else_is_left_alone() {
    on_a_host(|| {
        run("ip link add bnt0 type bridge");
        let was = run("ip -d address show dev bnt0");
        let networks = Networks::open(config(24)).unwrap();
        let refused = networks.attach(&id(), &[]);
        assert!(matches!(refused, Err(NetworkError::ForeignBridge(_))), "{refused:?}");
        networks.remove_all().unwrap();
        assert_eq!(run("ip -d address show dev bnt0"), was);
        run("ip link del bnt0");
        // Its own it knows again, and deletes, also under another gateway.
        networks.attach(&id(), &[]).unwrap();
        let moved = NetworkConfig { gateway: Ipv4Addr::new(10, 99, 0, 2), ..config(24) };
        let networks = Networks::open(moved).unwrap();
        networks.attach(&id(), &[]).unwrap();
        networks.remove_all().unwrap();
        assert!(!run("ip -br link").contains("bnt0"));
    });
}

#[test]
fn eight_callers_at_once_and_nothing_left() {
    on_a_host(|| {
        let networks = Networks::open(config(24)).unwrap();
        let attached: Vec<Vec<(ContainerId, Attached)>> = thread::scope(|scope| {
            let caller = |_| {
                scope.spawn(|| {
                    let one = |_| {
                        let id = id();
                        let attached = networks.attach(&id, &[port(0, 80, Protocol::Tcp)]).unwrap();
                        (id, attached)
                    };
                    (0..10).map(one).collect()
                })
            };
            let callers: Vec<_> = (0..8).map(caller).collect();
            callers.into_iter().map(|c| c.join().unwrap()).collect()
        });
        let all: Vec<_> = attached.into_iter().flatten().collect();
        let addresses: HashSet<_> = all.iter().map(|(_, a)| a.main().address).collect();
        let ports: HashSet<_> = all.iter().map(|(_, a)| a.main().ports[0].host_port).collect();
        assert_eq!((addresses.len(), ports.len(), container_links()), (80, 80, 80));
        let last = &all[79].1;
        serve(last.netns.as_fd(), 80);
        ask(Ipv4Addr::LOCALHOST, last.main().ports[0].host_port).unwrap();
        for (id, attached) in all {
            networks.detach(&id, &attached.attachments).unwrap();
        }
        until("all links go", || container_links() == 0);
        assert_eq!(elements(), Vec::<String>::new(), "an element is left");
        let none = networks.loopback_only().unwrap();
        assert_eq!(within(none.as_fd(), || run("ip -o link")).lines().count(), base_links());
        networks.remove_all().unwrap();
        assert!(run("nft list ruleset").is_empty());
    });
}

/// What is in the maps of ports.
fn elements() -> Vec<String> {
    let maps = ["ports", "address_ports", "ranges", "address_ranges"];
    let of = |family: &str| maps.map(|map| run(&format!("nft list map {family} berth-test-bnt0 {map}")));
    ["ip", "ip6"].into_iter().flat_map(of).filter(|map| map.contains("elements")).collect()
}

/// Links that the kernel itself puts into a new namespace: lo, and what its built-in tunnels add.
fn base_links() -> usize {
    thread::spawn(|| {
        net::unshare_network().unwrap();
        run("ip -o link").lines().count()
    })
    .join()
    .unwrap()
}
