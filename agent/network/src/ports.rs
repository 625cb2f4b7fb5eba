//! Which ports of the host lead to which container.

use crate::elements::{SHIFTED_PORTS, SINGLE_PORTS};
use crate::error::{NetworkError, PortHolder};
use crate::sockets;
use berth_model::ContainerId;
use berth_model::network::{HostAddresses, PortMapping, Protocol};
use berth_sys::{net, process};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// How often the kernel is asked for another free port when the one that it chose is a container's.
const CHOICES: usize = 64;
/// Of the descriptors that the agent may have, at most every fourth holds a port.
const SHARE: u64 = 4;

/// Ports of the host in containers' hands.
///
/// Most are also bound by a socket of the agent that does not listen and is never read. While the agent lives, no process of the host can
/// bind a port whose packets would never reach it, and the kernel chooses it for no outgoing connection. The rules do the work, not the
/// sockets: when the agent ends, the sockets go and the ports still lead to their containers; `restore` binds them again, or, when somebody
/// was faster, goes on without.
///
/// Not bound: SCTP; ranges of more than [`SINGLE_PORTS`]; and whatever comes when a quarter of the agent's descriptors is spent on it. For these it is
/// only looked who listens when they are published. A process that binds one later hears nothing from outside.
pub struct Ports {
    single: HashMap<(Protocol, u16), Vec<Taken>>,
    /// More than one port each.
    ranges: Vec<(Protocol, Taken)>,
    held: usize,
    hold_at_most: usize,
}

impl Default for Ports {
    fn default() -> Self {
        let nofile = process::RESOURCES.iter().find(|(name, _)| *name == "nofile").map(|(_, n)| *n);
        let soft = nofile.and_then(|n| process::rlimit(n).ok()).map_or(1024, |(soft, _)| soft);
        let hold_at_most = usize::try_from(soft / SHARE).unwrap_or(usize::MAX);
        Ports { single: HashMap::new(), ranges: Vec::new(), held: 0, hold_at_most }
    }
}

struct Taken {
    on: HostAddresses,
    first: u16,
    last: u16,
    by: ContainerId,
    /// With the number of each.
    bound: Vec<(u16, OwnedFd)>,
}

impl Taken {
    fn meets(&self, other: &Wanted) -> bool {
        self.on.meet(other.on) && self.first <= other.last && other.first <= self.last
    }
}

/// Ports of the host that somebody asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wanted {
    protocol: Protocol,
    on: HostAddresses,
    first: u16,
    last: u16,
}

impl Wanted {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.on.iter().next().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port)
    }

    fn in_use(&self, port: u16, holder: PortHolder) -> NetworkError {
        NetworkError::PortInUse { address: self.at(port), protocol: self.protocol.name(), holder }
    }
}

impl Ports {
    /// Takes all of them or none; the answer has every host port filled in.
    pub fn take(&mut self, id: &ContainerId, wanted: &[PortMapping]) -> Result<Vec<PortMapping>, NetworkError> {
        let mut done: Vec<(usize, PortMapping)> = Vec::with_capacity(wanted.len());
        // The numbers that were asked for go first: a chosen one must not be in their way, and the freest choice not in that of others.
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|&i| (wanted[i].host_port == 0, wanted[i].choice));
        for i in order {
            match self.take_one(id, &wanted[i]) {
                Ok(port) => done.push((i, PortMapping { host_port: port, choice: 1, ..wanted[i].clone() })),
                Err(error) => {
                    done.iter().for_each(|(_, mapping)| self.give_back_one(id, mapping));
                    return Err(error);
                }
            }
        }
        done.sort_by_key(|(i, _)| *i);
        Ok(done.into_iter().map(|(_, mapping)| mapping).collect())
    }

    fn take_one(&mut self, id: &ContainerId, mapping: &PortMapping) -> Result<u16, NetworkError> {
        if mapping.container_port == 0 {
            return Err(NetworkError::NoContainerPort);
        }
        if mapping.host_port == 0 {
            return self.choose(id, mapping.addresses(), mapping.protocol);
        }
        if mapping.choice > 1 {
            return self.first_free(id, mapping);
        }
        let wanted = wanted(mapping)?;
        if let Some((port, by)) = self.holder(&wanted) {
            return Err(wanted.in_use(port, PortHolder::Container(by.clone())));
        }
        let bound = self.bind_all(&wanted)?;
        self.insert(id, &wanted, bound);
        Ok(mapping.host_port)
    }

    /// Of some ports the first that nobody has. None: says so, with who has the last one.
    fn first_free(&mut self, id: &ContainerId, mapping: &PortMapping) -> Result<u16, NetworkError> {
        let (first, last) = (mapping.host_port, mapping.host_port.saturating_add(mapping.choice - 1));
        let mut in_use = NetworkError::RangeEnd { first, count: mapping.choice };
        for host_port in first..=last {
            match self.take_one(id, &PortMapping { host_port, choice: 1, ..mapping.clone() }) {
                Err(error @ NetworkError::PortInUse { .. }) => in_use = error,
                other => return other,
            }
        }
        Err(NetworkError::NoneFree { first, last, why: Box::new(in_use) })
    }

    /// The kernel chooses among what is free of sockets; what is free of containers is found by asking again.
    fn choose(&mut self, id: &ContainerId, on: HostAddresses, protocol: Protocol) -> Result<u16, NetworkError> {
        let mut wanted = Wanted { protocol, on, first: 0, last: 0 };
        // Ports that are a container's already stay bound until one is found: the kernel would offer them again.
        let mut passed_over = Vec::new();
        for _ in 0..CHOICES {
            // SCTP has the numbers that TCP has free.
            let (sockets, port) = match open(&wanted, 0, false) {
                // What the kernel chose for one address is somebody's at the other.
                Err((_, e)) if e.kind() == ErrorKind::AddrInUse => continue,
                other => other.map_err(|e| bind_error(&wanted, 0, e))?,
            };
            (wanted.first, wanted.last) = (port, port);
            if self.holder(&wanted).is_none() {
                let hold = protocol != Protocol::Sctp && self.may_hold(sockets.len());
                let bound = if hold { sockets.into_iter().map(|fd| (port, fd)).collect() } else { Vec::new() };
                self.insert(id, &wanted, bound);
                return Ok(port);
            }
            passed_over.push(sockets);
        }
        Err(NetworkError::NoneLeft { protocol: protocol.name() })
    }

    fn may_hold(&self, count: usize) -> bool {
        self.held + count <= self.hold_at_most
    }

    fn bind_all(&self, wanted: &Wanted) -> Result<Vec<(u16, OwnedFd)>, NetworkError> {
        let count = usize::from(wanted.last - wanted.first) + 1;
        if wanted.protocol == Protocol::Sctp {
            return Ok(Vec::new());
        }
        if count > usize::from(SINGLE_PORTS) || !self.may_hold(count * sockets_of(wanted.on)) {
            let taken = sockets::bound(wanted.protocol).into_iter().find(|b| {
                (wanted.first..=wanted.last).contains(&b.address.port()) && sockets::meets(b.address.ip(), wanted.on)
            });
            return match taken {
                None => Ok(Vec::new()),
                Some(b) => Err(wanted.in_use(b.address.port(), sockets::process(b).unwrap_or(PortHolder::Host))),
            };
        }
        let mut bound = Vec::new();
        for port in wanted.first..=wanted.last {
            bound.extend(bind(wanted, port)?.into_iter().map(|fd| (port, fd)));
        }
        Ok(bound)
    }

    /// Who has what these mappings name by number; one of each.
    pub fn holders(&self, mappings: &[PortMapping]) -> Vec<ContainerId> {
        let numbered = mappings.iter().filter(|m| m.host_port > 0 && m.choice <= 1).filter_map(|m| wanted(m).ok());
        numbered.filter_map(|w| self.holder(&w).map(|(_, by)| by.clone())).collect()
    }

    fn holder(&self, wanted: &Wanted) -> Option<(u16, &ContainerId)> {
        let of_range =
            self.ranges.iter().filter(|(p, _)| *p == wanted.protocol).map(|(_, t)| t).find(|t| t.meets(wanted));
        if let Some(taken) = of_range {
            return Some((taken.first.max(wanted.first), &taken.by));
        }
        let meets = |taken: &[Taken]| taken.iter().position(|t| t.meets(wanted));
        if wanted.first == wanted.last {
            let taken = self.single.get(&(wanted.protocol, wanted.first))?;
            return meets(taken).map(|n| (wanted.first, &taken[n].by));
        }
        let inside = |(p, port): &(Protocol, u16)| *p == wanted.protocol && (wanted.first..=wanted.last).contains(port);
        self.single.iter().filter(|(key, _)| inside(key)).find_map(|(key, t)| meets(t).map(|n| (key.1, &t[n].by)))
    }

    fn insert(&mut self, id: &ContainerId, wanted: &Wanted, bound: Vec<(u16, OwnedFd)>) {
        self.held += bound.len();
        let Wanted { protocol, on, first, last } = *wanted;
        let taken = Taken { on, first, last, by: id.clone(), bound };
        if first == last {
            self.single.entry((protocol, first)).or_default().push(taken);
        } else {
            self.ranges.push((protocol, taken));
        }
    }

    /// Ports of a container that runs already. A process of the host that took one meanwhile does not hinder: the rules go first.
    pub fn restore(&mut self, id: &ContainerId, mappings: &[PortMapping]) {
        for mapping in mappings {
            let Ok(wanted) = wanted(mapping) else { continue };
            let bound = self.bind_all(&wanted).unwrap_or_else(|error| {
                tracing::warn!(container = id.short(), %error, "a published port is no longer kept free of others");
                Vec::new()
            });
            self.insert(id, &wanted, bound);
        }
    }

    /// Of what a container has, `gone` becomes `come`: what is in neither stays. What is left of a range keeps its sockets, where they are for the
    /// same addresses.
    pub fn exchange(&mut self, id: &ContainerId, gone: &[PortMapping], come: &[PortMapping]) {
        let mut kept: Vec<(Wanted, Vec<(u16, OwnedFd)>)> = Vec::new();
        for old in gone.iter().filter_map(|p| wanted(p).ok()) {
            kept.extend(self.take_out(id, &old).into_iter().map(|taken| (old, taken.bound)));
        }
        for new in come.iter().filter_map(|p| wanted(p).ok()) {
            if self.has(id, &new) {
                continue;
            }
            let within =
                |w: &Wanted| (w.protocol, w.on) == (new.protocol, new.on) && w.first <= new.first && new.last <= w.last;
            let bound = match kept.iter_mut().find(|(w, bound)| within(w) && !bound.is_empty()) {
                Some((_, bound)) => bound.extract_if(.., |(port, _)| (new.first..=new.last).contains(port)).collect(),
                None => {
                    // Sockets of the same ports at other addresses would be in the way.
                    kept.retain(|(w, _)| w.protocol != new.protocol || w.last < new.first || new.last < w.first);
                    self.bind_all(&new).unwrap_or_default()
                }
            };
            self.insert(id, &new, bound);
        }
    }

    fn has(&self, id: &ContainerId, wanted: &Wanted) -> bool {
        let same = |t: &Taken| is(t, id, wanted);
        let single = self.single.get(&(wanted.protocol, wanted.first)).is_some_and(|taken| taken.iter().any(same));
        single || self.ranges.iter().any(|(protocol, t)| *protocol == wanted.protocol && same(t))
    }

    fn take_out(&mut self, id: &ContainerId, wanted: &Wanted) -> Option<Taken> {
        let found = if wanted.first == wanted.last {
            let key = (wanted.protocol, wanted.first);
            let taken = self.single.get_mut(&key)?;
            let found = taken.iter().position(|t| is(t, id, wanted)).map(|at| taken.swap_remove(at));
            if taken.is_empty() {
                self.single.remove(&key);
            }
            found
        } else {
            let at = self.ranges.iter().position(|(p, t)| *p == wanted.protocol && is(t, id, wanted));
            at.map(|at| self.ranges.swap_remove(at).1)
        };
        self.held -= found.as_ref().map_or(0, |t| t.bound.len());
        found
    }

    /// One mapping of a container's.
    pub fn give_back_one(&mut self, id: &ContainerId, mapping: &PortMapping) {
        if let Ok(wanted) = wanted(mapping) {
            self.take_out(id, &wanted);
        }
    }

    /// Whatever a container has.
    pub fn give_back_all(&mut self, id: &ContainerId) {
        self.keep(|_, taken| taken.by != *id);
    }

    fn keep(&mut self, mut stays: impl FnMut(Protocol, &Taken) -> bool) {
        self.single.retain(|(protocol, _), taken| {
            taken.retain(|t| stays(*protocol, t));
            !taken.is_empty()
        });
        self.ranges.retain(|(protocol, taken)| stays(*protocol, taken));
        self.held =
            self.single.values().flatten().chain(self.ranges.iter().map(|(_, t)| t)).map(|t| t.bound.len()).sum();
    }

    pub fn clear(&mut self) {
        self.single.clear();
        self.ranges.clear();
        self.held = 0;
    }
}

fn is(taken: &Taken, id: &ContainerId, wanted: &Wanted) -> bool {
    (&taken.by, taken.on, taken.first, taken.last) == (id, wanted.on, wanted.first, wanted.last)
}

fn wanted(mapping: &PortMapping) -> Result<Wanted, NetworkError> {
    let PortMapping { host_port: first, container_port, protocol, count, .. } = *mapping;
    let more = count.saturating_sub(1);
    if first.checked_add(more).is_none() || container_port.checked_add(more).is_none() {
        return Err(NetworkError::RangeEnd { first, count });
    }
    let last = first + more;
    if count > SHIFTED_PORTS && first != container_port {
        return Err(NetworkError::ShiftedRange { first, last });
    }
    Ok(Wanted { protocol, on: mapping.addresses(), first, last })
}

/// How many sockets hold a port: every address is one for both families.
fn sockets_of(on: HostAddresses) -> usize {
    if on == HostAddresses::EVERY { 1 } else { on.iter().count() }
}

/// The sockets and their number, the same for all; else the address that it failed at. Where the host has no IPv6, one is left out that has its pair.
fn open(wanted: &Wanted, port: u16, shared: bool) -> Result<(Vec<OwnedFd>, u16), (IpAddr, std::io::Error)> {
    let udp = wanted.protocol == Protocol::Udp;
    if wanted.on == HostAddresses::EVERY {
        let both = net::bind_port(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), true, udp, shared);
        let every = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let bound = match both {
            Err(e) if e.kind() != ErrorKind::AddrInUse => {
                net::bind_port(SocketAddr::new(every, port), false, udp, shared)
            }
            other => other,
        };
        return bound.map(|(fd, port)| (vec![fd], port)).map_err(|e| (every, e));
    }
    let (mut sockets, mut number) = (Vec::new(), port);
    for address in wanted.on.iter() {
        match net::bind_port(SocketAddr::new(address, number), false, udp, shared) {
            Ok((fd, port)) => {
                sockets.push(fd);
                number = port;
            }
            Err(e) if !sockets.is_empty() && e.kind() != ErrorKind::AddrInUse => {}
            Err(e) => return Err((address, e)),
        }
    }
    Ok((sockets, number))
}

/// Binds it; none when the port is free but cannot be kept because of connections that are still in TIME_WAIT.
fn bind(wanted: &Wanted, port: u16) -> Result<Vec<OwnedFd>, NetworkError> {
    match open(wanted, port, false) {
        Ok((bound, _)) => Ok(bound),
        Err((_, error)) if error.kind() == ErrorKind::AddrInUse && wanted.protocol == Protocol::Tcp => {
            open(wanted, port, true).map(|_| Vec::new()).map_err(|e| bind_error(wanted, port, e))
        }
        Err(error) => Err(bind_error(wanted, port, error)),
    }
}

fn bind_error(wanted: &Wanted, port: u16, (ip, source): (IpAddr, std::io::Error)) -> NetworkError {
    let (address, protocol) = (SocketAddr::new(ip, port), wanted.protocol.name());
    let on = if wanted.on == HostAddresses::EVERY { wanted.on } else { HostAddresses::one(ip) };
    match source.kind() {
        ErrorKind::AddrInUse => {
            NetworkError::PortInUse { address, protocol, holder: sockets::holder(wanted.protocol, on, port) }
        }
        ErrorKind::AddrNotAvailable => NetworkError::HostAddressUnknown(ip),
        _ => NetworkError::PortBind { address, protocol, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn id(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 32])
    }

    fn mapping(host_ip: Option<&str>, host_port: u16, protocol: Protocol) -> PortMapping {
        PortMapping {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol,
            ..PortMapping::default()
        }
    }

    fn range(host_ip: &str, first: u16, count: u16) -> PortMapping {
        PortMapping { container_port: first, count, ..mapping(Some(host_ip), first, Protocol::Tcp) }
    }

    #[test]
    fn chosen_ports_are_kept_from_others() {
        for (every, host, other) in [("0.0.0.0", "127.0.0.1", Some("127.0.0.2")), ("::", "::1", None)] {
            let mut ports = Ports::default();
            let got = ports.take(&id(1), &[mapping(Some(host), 0, Protocol::Tcp)]).unwrap();
            let port = got[0].host_port;
            assert_ne!(port, 0);
            assert!(TcpListener::bind((host, port)).is_err(), "a process of the host could bind it");
            assert!(TcpListener::bind((every, port)).is_err());
            let again = ports.take(&id(2), &[mapping(Some(host), port, Protocol::Tcp)]).unwrap_err();
            assert!(again.to_string().contains(&format!(":{port}/tcp")), "{again}");
            assert_eq!(ports.holders(&[mapping(None, 0, Protocol::Tcp), mapping(None, port, Protocol::Tcp)]), [id(1)]);
            assert!(matches!(again, NetworkError::PortInUse { holder: PortHolder::Container(c), .. } if c == id(1)));
            // Every address includes the taken one; another address and another protocol do not.
            assert!(ports.take(&id(2), &[mapping(None, port, Protocol::Tcp)]).is_err());
            if let Some(other) = other {
                assert!(ports.take(&id(2), &[mapping(Some(other), port, Protocol::Tcp)]).is_ok());
            }
            assert!(ports.take(&id(2), &[mapping(Some(host), port, Protocol::Udp)]).is_ok());
            ports.give_back_one(&id(1), &got[0]);
            assert!(TcpListener::bind((host, port)).is_ok());
        }
    }

    #[test]
    fn the_hosts_listeners_count_and_are_named() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut ports = Ports::default();
        for (port, protocol) in
            [(tcp.local_addr().unwrap().port(), Protocol::Tcp), (udp.local_addr().unwrap().port(), Protocol::Udp)]
        {
            for wanted in [mapping(Some("127.0.0.1"), port, protocol), mapping(None, port, protocol)] {
                let error = ports.take(&id(1), &[wanted]).unwrap_err();
                assert!(error.to_string().contains(&format!("process {} (", std::process::id())), "{error}");
            }
        }
        // In a range that is not bound port by port.
        let port = tcp.local_addr().unwrap().port();
        let first = port.saturating_sub(100);
        let error = ports.take(&id(1), &[range("127.0.0.1", first, 200.min(u16::MAX - first))]).unwrap_err();
        assert!(matches!(error, NetworkError::PortInUse { holder: PortHolder::Process { .. }, .. }), "{error}");
    }

    #[test]
    fn a_port_with_old_connections_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        let (server, _) = listener.accept().unwrap();
        // The side that closes first is the one in TIME_WAIT.
        drop(server);
        drop(client);
        drop(listener);
        let mut ports = Ports::default();
        ports.take(&id(1), &[mapping(Some("127.0.0.1"), at.port(), Protocol::Tcp)]).unwrap();
    }

    #[test]
    fn all_or_none() {
        let mut ports = Ports::default();
        ports.take(&id(1), &[mapping(Some("127.0.0.3"), 0, Protocol::Tcp)]).unwrap();
        let wanted = [mapping(Some("127.0.0.1"), 0, Protocol::Tcp), mapping(Some("192.0.2.200"), 0, Protocol::Tcp)];
        assert!(matches!(ports.take(&id(1), &wanted), Err(NetworkError::HostAddressUnknown(_))));
        assert_eq!((ports.single.len(), ports.held), (1, 1), "what it had before stays");
        let zero = PortMapping { container_port: 0, ..mapping(None, 0, Protocol::Tcp) };
        assert!(matches!(ports.take(&id(1), &[zero]), Err(NetworkError::NoContainerPort)));
    }

    /// On a thread with a network namespace of its own, where nobody listens.
    fn where_nobody_listens(test: impl FnOnce() + Send + 'static) {
        let alone = std::thread::spawn(|| {
            net::unshare_network().unwrap();
            assert!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            test();
        });
        alone.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    #[test]
    fn every_port_of_an_address() {
        where_nobody_listens(|| {
            let mut ports = Ports::default();
            let all = range("127.0.3.1", 1, 65535);
            ports.take(&id(1), std::slice::from_ref(&all)).unwrap();
            assert_eq!(ports.held, 0, "no descriptor for a long range");
            let inside = ports.take(&id(2), &[mapping(Some("127.0.3.1"), 7001, Protocol::Tcp)]).unwrap_err();
            assert!(inside.to_string().contains("127.0.3.1:7001/tcp"), "{inside}");
            ports.give_back_one(&id(1), &all);
            // A listener on every address is in its way.
            let every = TcpListener::bind("0.0.0.0:7002").unwrap();
            let error = ports.take(&id(1), std::slice::from_ref(&all)).unwrap_err();
            assert!(error.to_string().contains(":7002/tcp") && error.to_string().contains("process"), "{error}");
            // One of the other family is not.
            drop(every);
            let _six = TcpListener::bind("[::1]:7003").unwrap();
            ports.take(&id(1), &[all]).unwrap();
        });
    }

    #[test]
    fn families_are_apart() {
        where_nobody_listens(|| {
            let mut ports = Ports::default();
            let on = |host: &str| mapping(Some(host), 7100, Protocol::Tcp);
            ports.take(&id(1), &[on("::")]).unwrap();
            ports.take(&id(2), &[on("0.0.0.0")]).unwrap();
            assert_eq!(ports.held, 2);
            assert!(TcpListener::bind("[::1]:7100").is_err() && TcpListener::bind("127.0.0.1:7100").is_err());
            let localhost = PortMapping { localhost: true, ..mapping(Some("127.0.0.1"), 7101, Protocol::Tcp) };
            ports.take(&id(3), std::slice::from_ref(&localhost)).unwrap();
            assert!(TcpListener::bind("[::1]:7101").is_err() && TcpListener::bind("127.0.0.1:7101").is_err());
            assert!(ports.take(&id(4), &[mapping(Some("::1"), 7101, Protocol::Tcp)]).is_err());
            ports.give_back_one(&id(3), &localhost);
            let six = TcpListener::bind("[::1]:7101").unwrap();
            let error = ports.take(&id(3), std::slice::from_ref(&localhost)).unwrap_err();
            assert!(error.to_string().contains("[::1]:7101/tcp"), "{error}");
            drop(six);
            let chosen = ports.take(&id(3), &[PortMapping { host_port: 0, ..localhost }]).unwrap()[0].host_port;
            assert!(TcpListener::bind(("::1", chosen)).is_err() && TcpListener::bind(("127.0.0.1", chosen)).is_err());
        });
    }

    #[test]
    fn the_first_free_one_is_chosen() {
        where_nobody_listens(|| {
            let mut ports = Ports::default();
            let wanted = PortMapping { choice: 3, ..mapping(Some("127.0.0.1"), 9300, Protocol::Tcp) };
            let _listener = TcpListener::bind("127.0.0.1:9301").unwrap();
            // One that has a number goes before those that have a choice.
            let first = ports.take(&id(1), &[wanted.clone(), mapping(Some("127.0.0.1"), 9300, Protocol::Tcp)]).unwrap();
            assert_eq!((first[0].host_port, first[0].choice, first[1].host_port), (9302, 1, 9300));
            let error = ports.take(&id(2), &[wanted]).unwrap_err();
            assert!(matches!(error, NetworkError::NoneFree { first: 9300, last: 9302, .. }), "{error}");
        });
    }

    #[test]
    fn what_is_left_of_a_range_is_kept() {
        where_nobody_listens(|| {
            for count in [10, 200] {
                let mut ports = Ports::default();
                let before = range("127.0.3.1", 7000, count);
                ports.take(&id(1), std::slice::from_ref(&before)).unwrap();
                let cut = before.without(&[range("127.0.3.1", 7005, 1)]);
                ports.exchange(&id(1), &[before], &cut.left);
                // What stays is nobody else's; what is closed is free.
                assert!(TcpListener::bind("127.0.3.1:7004").is_err());
                let free = TcpListener::bind("127.0.3.1:7005").unwrap();
                drop(free);
                ports.take(&id(2), &[range("127.0.3.1", 7005, 1)]).unwrap();
                for port in [7004, 7006] {
                    let error = ports.take(&id(2), &[range("127.0.3.1", port, 1)]).unwrap_err();
                    assert!(
                        matches!(error, NetworkError::PortInUse { holder: PortHolder::Container(_), .. }),
                        "{error}"
                    );
                }
                ports.give_back_all(&id(1));
                ports.give_back_all(&id(2));
                assert_eq!((ports.held, ports.single.len(), ports.ranges.len()), (0, 0, 0));
            }
        });
    }

    #[test]
    fn ranges() {
        let mut ports = Ports::default();
        ports.take(&id(2), &[range("127.0.3.1", 7000, 10)]).unwrap();
        assert_eq!(ports.held, 10);
        assert!(TcpListener::bind("127.0.3.1:7009").is_err());
        assert!(ports.take(&id(3), &[range("127.0.3.1", 7009, 200)]).is_err());
        ports.take(&id(3), &[range("127.0.3.1", 7010, 2)]).unwrap();
        for bad in
            [range("127.0.3.1", 65000, 1000), PortMapping { container_port: 1, ..range("127.0.3.1", 8000, 2000) }]
        {
            assert!(matches!(
                ports.take(&id(4), &[bad]),
                Err(NetworkError::RangeEnd { .. } | NetworkError::ShiftedRange { .. })
            ));
        }
        ports.hold_at_most = ports.held;
        ports.take(&id(5), &[mapping(Some("127.0.3.2"), 7000, Protocol::Tcp)]).unwrap();
        assert_eq!(ports.held, 12, "no more than it may");
    }
}
