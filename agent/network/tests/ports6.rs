//! Published ports over IPv6 on the real kernel. "The host" is a network namespace of its own. Needs root.

use berth_model::ContainerId;
use berth_model::Timestamp;
use berth_model::network::{
    Ipv6Mode, NetworkDriver, NetworkId, NetworkRecord, PortMapping, Protocol, Subnet4, Subnet6,
};
use berth_model::publish::PublishPolicy;
use berth_network::{NetworkConfig, Networks, Want};
use berth_sys::net;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

const UPLINK: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

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
fn outside() -> OwnedFd {
    thread::spawn(|| {
        let host = net::current_network().unwrap();
        net::unshare_network().unwrap();
        let namespace = net::current_network().unwrap();
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        let tid = thread.file_name().unwrap().to_str().unwrap().to_owned();
        within(host.as_fd(), || {
            run(&format!("ip link add up0 type veth peer name out0 netns {tid}"));
            run(&format!("ip address add {UPLINK}/64 dev up0 nodad"));
            run("ip link set up0 up");
        });
        run(&format!("ip address add {OUTSIDE}/64 dev out0 nodad"));
        run("ip link set out0 up");
        namespace
    })
    .join()
    .unwrap()
}

/// Answers each connection with the address that it came from and half a megabyte.
fn serve(namespace: BorrowedFd<'_>, port: u16) {
    let listener = within(namespace, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(format!("{}\n", peer.ip()).as_bytes());
            let _ = stream.write_all(&[b'x'; 1 << 19]);
        }
    });
}

fn ask(address: impl Into<IpAddr>, port: u16) -> std::io::Result<IpAddr> {
    let at = SocketAddr::new(address.into(), port);
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_millis(1500))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (peer, rest) = text.split_once('\n').unwrap_or_default();
    assert_eq!(rest.len(), 1 << 19);
    Ok(peer.parse().unwrap())
}

#[test]
fn both_families_and_the_hosts_firewall() {
    let host = thread::spawn(|| {
        net::unshare_network().unwrap();
        run("ip link set lo up");
        let world = outside();
        let config = NetworkConfig {
            bridge: "bnt0".into(),
            gateway: Ipv4Addr::new(10, 99, 0, 1),
            prefix_len: 24,
            table: "berth-test".into(),
            publish: PublishPolicy::default(),
        };
        let networks = Networks::open(config).unwrap();
        networks.add(&NetworkRecord {
            id: NetworkId::from_bytes([7; 32]),
            name: "six".into(),
            driver: NetworkDriver::Bridge,
            ipv4: Some(Subnet4 {
                subnet: Ipv4Addr::new(10, 98, 0, 0),
                prefix_len: 24,
                gateway: Ipv4Addr::new(10, 98, 0, 1),
                range: None,
            }),
            ipv6: Some(Subnet6 {
                subnet: "fd98::".parse().unwrap(),
                prefix_len: 64,
                gateway: "fd98::1".parse().unwrap(),
                range: None,
            }),
            auxiliary: Default::default(),
            ipv6_mode: Ipv6Mode::Nat,
            internal: false,
            mtu: None,
            labels: Default::default(),
            options: Default::default(),
            bridge: "bnt6".into(),
            conflist: None,
            created: Timestamp::now(),
            removing: false,
        });
        let port = PortMapping {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
            ..PortMapping::default()
        };
        // A thousand ports with one element.
        let range = PortMapping { host_port: 20000, container_port: 20000, count: 1000, ..port.clone() };
        let want = Want { network: "six".into(), default_route: true, ports: vec![port, range], ..Want::default() };
        let id = ContainerId::from_bytes([8; 32]);
        let a = networks.attach_to(&id, vec![want]).unwrap();
        let neighbour = networks.attach(&ContainerId::from_bytes([9; 32]), &[]).unwrap();
        serve(a.netns.as_fd(), 80);
        serve(a.netns.as_fd(), 20999);
        for port in [8080, 20999] {
            for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into(), UPLINK.into()] {
                ask(address, port).unwrap_or_else(|e| panic!("the host to [{address}]:{port}: {e}"));
            }
            within(a.netns.as_fd(), || ask(UPLINK, port)).unwrap_or_else(|e| panic!("itself to {port}: {e}"));
            assert_eq!(within(world.as_fd(), || ask(UPLINK, port)).unwrap(), OUTSIDE, "the client's address is kept");
        }
        // Another network's container gets in by the published port, and by nothing else.
        within(neighbour.netns.as_fd(), || ask(Ipv4Addr::new(10, 99, 0, 1), 8080)).unwrap();
        assert!(within(neighbour.netns.as_fd(), || ask(a.main().address, 80)).is_err());

        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let strict = "table inet filter { chain input { type filter hook input priority 0; policy drop;
            ct state established,related accept; iif lo accept; meta l4proto ipv6-icmp accept; tcp dport 20999 accept; }; }";
        nft.stdin.take().unwrap().write_all(strict.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
        assert!(within(world.as_fd(), || ask(UPLINK, 8080)).is_err());
        within(world.as_fd(), || ask(UPLINK, 20999)).unwrap();
        ask(Ipv6Addr::LOCALHOST, 8080).unwrap();
        networks.remove_all().unwrap();
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}
