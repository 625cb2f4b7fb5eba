//! A container sends with its own addresses only. The frames are made by a process in a container, with what it may do by default (NET_RAW), and looked
//! for in the namespace of the one that they are meant for. On a network that allows them all of them arrive: the test would see a hole.

use crate::frames::{self, ALL_NODES, ARP, EVERYBODY, ICMP6, IPV4, IPV6, Mac, UDP};
use crate::harness::{Node, eventually, image, until};
use crate::networks::{IDLE, create, endpoint};
use std::io::{BufRead, BufReader};
use std::net::Ipv6Addr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Sends frames, in hexadecimal, out of an interface.
const SEND: &str = r#"my $name = shift; open(my $f, "<", "/sys/class/net/$name/ifindex") or die "$name: $!"; my $index = <$f>;
    socket(my $s, 17, 3, 0) or die "socket: $!"; my $to = pack("S n l S C C a8", 17, 0, $index, 1, 0, 6, "");
    for (@ARGV) { defined(send($s, pack("H*", $_), 0, $to)) or die "send: $!" }"#;

/// Prints every frame that an interface gets.
const LISTEN: &str = r#"
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
print('ready', flush=True)
while True:
    print(s.recv(65535).hex(), flush=True)
"#;

/// A container's end of a network.
#[derive(Clone, Debug)]
struct End {
    container: String,
    interface: String,
    mac: Mac,
    v4: [u8; 4],
    v6: [u8; 16],
    gateway: [u8; 4],
    port: String,
}

impl End {
    fn of(node: &Node, container: &str, network: &str, interface: &str) -> End {
        let at = endpoint(node, container, network);
        let text = |key: &str| at[key].as_str().unwrap_or_default().to_owned();
        let mac: Vec<u8> = text("MacAddress").split(':').map(|b| u8::from_str_radix(b, 16).expect("a MAC")).collect();
        End {
            container: container.into(),
            interface: interface.into(),
            mac: mac.try_into().expect("six bytes"),
            v4: text("IPAddress").parse::<std::net::Ipv4Addr>().expect("IPv4").octets(),
            v6: text("GlobalIPv6Address").parse().unwrap_or(Ipv6Addr::UNSPECIFIED).octets(),
            gateway: text("Gateway").parse::<std::net::Ipv4Addr>().expect("IPv4").octets(),
            port: text("EndpointID"),
        }
    }

    fn link_local(&self) -> [u8; 16] {
        let [a, b, c, d, e, f] = self.mac;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    }

    fn mac_text(&self) -> String {
        self.mac.map(|b| format!("{b:02x}")).join(":")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn send(node: &Node, from: &End, frames: &[Vec<u8>]) {
    let frames: Vec<String> = frames.iter().map(|f| hex(f)).collect();
    let mut command = vec!["exec", &from.container, "perl", "-e", SEND, &from.interface];
    command.extend(frames.iter().map(String::as_str));
    node.ok(&command);
}

/// Somebody who writes down what comes to a container.
struct Listener {
    child: Child,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn at(node: &Node, end: &End) -> Listener {
        let pid = node.inspect(&end.container)["State"]["Pid"].to_string();
        let mut child = Command::new("nsenter")
            .args(["-t", &pid, "-n", "python3", "-c", LISTEN, &end.interface])
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (lines, all) = (BufReader::new(child.stdout.take().expect("stdout")).lines(), heard.clone());
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|l| all.lock().expect("lines").push(l)));
        until("the listener listens", || heard.lock().expect("lines").iter().any(|l| l == "ready"));
        Listener { child, heard }
    }

    fn has(&self, mark: &[u8]) -> bool {
        let mark = hex(mark);
        self.heard.lock().expect("lines").iter().any(|frame| frame.contains(&mark))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mark(n: usize) -> [u8; 6] {
    [b'm', b'a', b'r', b'k', 0xe0, n as u8]
}

/// What is wrong with a frame, and the frame.
type Named = (&'static str, Vec<u8>);

/// Lies of `m` to `v` about itself and about `p`; each with its mark.
fn lies(m: &End, v: &End, p: &End) -> Vec<Named> {
    let gateway = m.gateway;
    let mut n = 0;
    let mut next = || {
        n += 1;
        mark(n - 1)
    };
    let packet = |from: [u8; 4], mark: [u8; 6]| frames::ipv4(from, v.v4, UDP, &frames::udp(7, 7, &mark));
    let own6 = m.link_local();
    let nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    // Router advertisement: a default route for half an hour. Redirect: to a neighbour, by way of the sender.
    let ra = |from, mark: [u8; 6]| {
        frames::icmp6(from, nodes, 134, &[&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &frames::marked(&mark)].concat())
    };
    let redirect =
        |mark: [u8; 6]| frames::icmp6(own6, v.v6, 137, &[&[0; 4][..], &own6, &p.v6, &frames::marked(&mark)].concat());
    let advert = |from, about: [u8; 16], mark: [u8; 6]| {
        let option = [&[2, 1][..], &m.mac].concat();
        frames::icmp6(from, v.v6, 136, &[&[0x20, 0, 0, 0][..], &about, &option, &frames::marked(&mark)].concat())
    };
    let tag = |mark: [u8; 6]| [&[0, 5][..], &IPV4.to_be_bytes(), &packet(m.v4, mark)].concat();
    vec![
        ("a neighbour's IPv4 address", frames::ether(v.mac, m.mac, IPV4, &packet(p.v4, next()))),
        ("an IPv4 address from elsewhere", frames::ether(v.mac, m.mac, IPV4, &packet([192, 0, 2, 9], next()))),
        ("a neighbour's MAC", frames::ether(v.mac, p.mac, IPV4, &packet(m.v4, next()))),
        ("a neighbour's MAC and address", frames::ether(v.mac, p.mac, IPV4, &packet(p.v4, next()))),
        ("ARP: I have a neighbour's address", {
            frames::ether(v.mac, m.mac, ARP, &frames::arp(false, m.mac, p.v4, v.mac, v.v4, &next()))
        }),
        ("ARP: everybody, I have the gateway's address", {
            frames::ether(EVERYBODY, m.mac, ARP, &frames::arp(true, m.mac, gateway, [0; 6], gateway, &next()))
        }),
        ("ARP: a neighbour's MAC has my address", {
            frames::ether(v.mac, m.mac, ARP, &frames::arp(false, p.mac, m.v4, v.mac, v.v4, &next()))
        }),
        ("ARP from a neighbour's MAC", {
            frames::ether(v.mac, p.mac, ARP, &frames::arp(false, m.mac, m.v4, v.mac, v.v4, &next()))
        }),
        ("a neighbour's IPv6 address", {
            frames::ether(v.mac, m.mac, IPV6, &frames::ipv6(p.v6, v.v6, UDP, &frames::udp(7, 7, &next())))
        }),
        ("a neighbour's link-local address", {
            frames::ether(v.mac, m.mac, IPV6, &frames::ipv6(p.link_local(), v.v6, UDP, &frames::udp(7, 7, &next())))
        }),
        ("no IPv6 address", {
            frames::ether(v.mac, m.mac, IPV6, &frames::ipv6([0; 16], v.v6, UDP, &frames::udp(7, 7, &next())))
        }),
        ("a router advertisement", frames::ether(ALL_NODES, m.mac, IPV6, &ra(own6, next()))),
        ("a router advertisement behind an extension header", {
            let mark = next();
            let inner = ra(own6, mark)[40..].to_vec();
            let header = [&[ICMP6, 0, 1, 4, 0, 0, 0, 0][..], &inner].concat();
            frames::ether(ALL_NODES, m.mac, IPV6, &frames::ipv6(own6, nodes, 60, &header))
        }),
        ("a redirect", frames::ether(v.mac, m.mac, IPV6, &redirect(next()))),
        ("an advertisement of a neighbour's address", {
            frames::ether(v.mac, m.mac, IPV6, &advert(m.v6, p.v6, next()))
        }),
        ("a DHCP server's answer", {
            let answer = frames::ipv4(m.v4, [255; 4], UDP, &frames::udp(67, 68, &next()));
            frames::ether(EVERYBODY, m.mac, IPV4, &answer)
        }),
        ("a DHCPv6 server's answer", {
            frames::ether(v.mac, m.mac, IPV6, &frames::ipv6(own6, v.v6, UDP, &frames::udp(547, 546, &next())))
        }),
        ("an unknown protocol", frames::ether(v.mac, m.mac, 0x88b5, &next())),
        ("a VLAN's tag", frames::ether(v.mac, m.mac, 0x8100, &tag(next()))),
    ]
}

/// What `m` may say to `v`.
fn truths(m: &End, v: &End, first: usize) -> Vec<Named> {
    let six = |from, n: usize| frames::ipv6(from, v.v6, UDP, &frames::udp(7, 7, &mark(first + n)));
    let option = [&[2, 1][..], &m.mac].concat();
    let advert = [&[0x20, 0, 0, 0][..], &m.v6, &option, &frames::marked(&mark(first + 4))].concat();
    let probe = [&[0; 4][..], &m.v6, &frames::marked(&mark(first + 5))].concat();
    let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    vec![
        ("a packet", {
            let packet = frames::ipv4(m.v4, v.v4, UDP, &frames::udp(7, 7, &mark(first)));
            frames::ether(v.mac, m.mac, IPV4, &packet)
        }),
        ("ARP", {
            let arp = frames::arp(true, m.mac, m.v4, [0; 6], v.v4, &mark(first + 1));
            frames::ether(EVERYBODY, m.mac, ARP, &arp)
        }),
        ("an IPv6 packet", frames::ether(v.mac, m.mac, IPV6, &six(m.v6, 2))),
        ("one from its link-local address", frames::ether(v.mac, m.mac, IPV6, &six(m.link_local(), 3))),
        ("an advertisement of itself", { frames::ether(v.mac, m.mac, IPV6, &frames::icmp6(m.v6, v.v6, 136, &advert)) }),
        ("a question who has its address", {
            frames::ether(ALL_NODES, m.mac, IPV6, &frames::icmp6([0; 16], everybody, 135, &probe))
        }),
    ]
}

fn perl(node: &Node, name: &str, options: &[&str]) {
    let nginx = image("nginx");
    let mut command = vec!["run", "-d", "--name", name, "--entrypoint", "perl"];
    command.extend(options);
    command.extend([nginx.as_str(), "-e", "$SIG{TERM} = sub { exit }; sleep 1 while 1"]);
    node.ok(&command);
}

/// Where the bridge thinks that a MAC is.
fn learned(bridge: &str, mac: &str) -> Option<String> {
    let output = Command::new("bridge").args(["-j", "fdb", "show", "br", bridge]).output().expect("bridge");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    let entry = all.as_array()?.iter().find(|e| e["mac"] == mac && e["state"] != "permanent")?;
    Some(entry["ifname"].as_str()?.to_owned())
}

/// The MAC that a container thinks an address to have.
fn neighbour(node: &Node, container: &str, address: &str) -> String {
    let pid = node.inspect(container)["State"]["Pid"].to_string();
    let output = Command::new("nsenter")
        .args(["-t", &pid, "-n", "ip", "-j", "neighbour", "show", address])
        .output()
        .expect("nsenter");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    all[0]["lladdr"].as_str().unwrap_or_default().to_owned()
}

fn forget_neighbours(node: &Node, container: &str) {
    let pid = node.inspect(container)["State"]["Pid"].to_string();
    let done = Command::new("nsenter").args(["-t", &pid, "-n", "ip", "neighbour", "flush", "all"]).status();
    assert!(done.expect("nsenter").success());
}

fn pings(node: &Node, from: &str, to: &str) -> bool {
    node.ctl(&["exec", from, "ping", "-c", "1", "-W", "2", to]).code == 0
}

#[test]
fn a_container_sends_with_its_own_addresses_only() {
    let node = Node::with_busybox("spoof");
    for (letter, network, guarded) in [('u', "strict", true), ('v', "loose", false)] {
        let value = if guarded { "berth.network.spoofing=deny" } else { "berth.network.spoofing=allow" };
        create(&node, letter, &["--ipv6", "--opt", value, network]);
        let bridge = format!("{}{letter}", node.slot.bridge());
        let names = ["mallory", "victim", "peer"].map(|role| format!("{role}-{network}"));
        perl(&node, &names[0], &["--network", network]);
        for name in &names[1..] {
            node.detached(&["--name", name, "--network", network], IDLE);
        }
        let [m, v, p] = names.map(|name| End::of(&node, &name, network, "eth0"));
        let text = |v4: [u8; 4]| std::net::Ipv4Addr::from(v4).to_string();
        // All know each other, by ping with NET_RAW.
        for to in [text(v.v4), Ipv6Addr::from(v.v6).to_string()] {
            assert!(pings(&node, &p.container, &to), "{network}: {to}");
        }
        assert_eq!(neighbour(&node, &v.container, &text(p.v4)), p.mac_text());
        assert_eq!(learned(&bridge, &p.mac_text()), Some(p.port.clone()));

        let listener = Listener::at(&node, &v);
        let lies = lies(&m, &v, &p);
        let truths = truths(&m, &v, lies.len());
        // One after the other: a lie that the bridge believes must not hide the next.
        for (n, (what, frame)) in lies.iter().enumerate() {
            send(&node, &m, std::slice::from_ref(frame));
            if !guarded {
                until(&format!("{what} arrives where it is allowed"), || listener.has(&mark(n)));
                for end in [&v, &p] {
                    forget_neighbours(&node, &end.container);
                }
            }
        }
        assert!(pings(&node, &p.container, &text(v.v4)), "{network}");
        // Group addresses of bridges are not forwarded; the bridge itself may learn from them.
        let before = learned(&bridge, &p.mac_text());
        send(&node, &m, &[frames::ether(frames::LLDP, p.mac, 0x88cc, &[0; 46])]);
        send(&node, &m, &truths.iter().map(|(_, frame)| frame.clone()).collect::<Vec<_>>());
        for (n, (what, _)) in truths.iter().enumerate() {
            until(&format!("{network}: {what} arrives"), || listener.has(&mark(lies.len() + n)));
        }
        assert_eq!(before.as_deref(), Some(p.port.as_str()));
        let now = learned(&bridge, &p.mac_text());
        if guarded {
            let arrived: Vec<_> = lies.iter().enumerate().filter(|(n, _)| listener.has(&mark(*n))).collect();
            assert!(arrived.is_empty(), "{arrived:?}");
            assert_eq!(neighbour(&node, &v.container, &text(p.v4)), p.mac_text());
            assert_eq!(now, Some(p.port.clone()), "the bridge was told where {} is", p.container);
        } else {
            assert_eq!(now, Some(m.port.clone()), "where it is allowed the bridge believes it");
            // The kernel believes nobody within a second of the last one (locktime).
            until("where it is allowed a neighbour is poisoned", || {
                send(&node, &m, &[lies[4].1.clone()]);
                neighbour(&node, &v.container, &text(p.v4)) == m.mac_text()
            });
        }
        drop(listener);
        node.ok(&["rm", "-f", &m.container, &v.container, &p.container]);
        node.ok(&["network", "rm", network]);
    }
    node.finish();
}

/// The first lie of `m` to `v` arrives. A truth behind it does in any case.
fn lie_arrives(node: &Node, m: &End, v: &End, p: &End) -> bool {
    let listener = Listener::at(node, v);
    let lie = lies(m, v, p).swap_remove(0).1;
    send(node, m, &[lie, truths(m, v, 200).swap_remove(0).1]);
    until("a truth arrives", || listener.has(&mark(200)));
    listener.has(&mark(0))
}

#[test]
fn it_stays_so_whatever_happens_to_containers_rules_and_agents() {
    let mut node = Node::with_busybox("spoof-life");
    create(&node, 'u', &["front"]);
    perl(&node, "mallory", &["--network", "bridge"]);
    node.detached(&["--name", "victim", "--network", "bridge"], IDLE);
    node.detached(&["--name", "peer", "--network", "front", "--mac-address", "02:00:00:00:00:77"], IDLE);
    let on = |node: &Node, name: &str, network: &str, interface: &str| End::of(node, name, network, interface);
    let (m, v) = (on(&node, "mallory", "bridge", "eth0"), on(&node, "victim", "bridge", "eth0"));
    let nobody = End { v4: [m.v4[0], m.v4[1], m.v4[2], 99], ..v.clone() };
    assert!(!lie_arrives(&node, &m, &v, &nobody));
    // Joined while it runs, with a MAC of its own choice.
    node.ok(&["network", "connect", "front", "mallory"]);
    let (m2, p) = (on(&node, "mallory", "front", "eth1"), on(&node, "peer", "front", "eth0"));
    assert_eq!(p.mac, [2, 0, 0, 0, 0, 0x77]);
    let nobody2 = End { v4: [m2.v4[0], m2.v4[1], m2.v4[2], 99], ..p.clone() };
    assert!(!lie_arrives(&node, &m2, &p, &nobody2));
    node.ok(&["network", "connect", "bridge", "peer"]);
    assert!(pings(&node, "peer", &std::net::Ipv4Addr::from(v.v4).to_string()));
    // Another agent.
    node.kill_agent();
    node.spawn();
    assert!(!lie_arrives(&node, &m, &v, &nobody));
    assert!(!lie_arrives(&node, &m2, &p, &nobody2));
    // Somebody takes the rules away: they come back; with the agent stopped, they do not, and the lie arrives.
    let table = node.slot.table();
    let flush = || {
        let done = Command::new("nft").args(["delete", "table", "bridge", &table]).status().expect("nft");
        assert!(done.success());
    };
    flush();
    eventually("the rules come back", || (!lie_arrives(&node, &m, &v, &nobody)).then_some(()));
    let agent = node.pid().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &agent]).status().expect("kill").success());
    let listener = Listener::at(&node, &v);
    let pid = node.inspect("mallory")["State"]["Pid"].to_string();
    signal("-STOP");
    flush();
    let lie = hex(&lies(&m, &v, &nobody).swap_remove(0).1);
    let sent = Command::new("nsenter")
        .args(["-t", &pid, "-n", "-m", "perl", "-e", SEND, "eth0", &lie])
        .status()
        .expect("nsenter");
    assert!(sent.success());
    until("without the rules it arrives", || listener.has(&mark(0)));
    drop(listener);
    signal("-CONT");
    eventually("the rules come back", || (!lie_arrives(&node, &m, &v, &nobody)).then_some(()));
    // What left is forgotten.
    node.ok(&["network", "disconnect", "front", "mallory"]);
    node.ok(&["restart", "victim"]);
    let v = on(&node, "victim", "bridge", "eth0");
    assert!(!lie_arrives(&node, &m, &v, &nobody));
    node.ok(&["rm", "-f", "victim"]);
    until("the elements go", || {
        let output = Command::new("nft").args(["list", "table", "bridge", &table]).output().expect("nft");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let has = |end: &End| text.contains(&format!("\"{}\"", end.port));
        !has(&m2) && !has(&v) && has(&m)
    });
    node.ok(&["rm", "-f", "mallory", "peer"]);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}
