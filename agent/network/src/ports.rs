//! Which ports of the host lead to which container.

use crate::error::{NetworkError, PortHolder};
use crate::rules::{SHIFTED_PORTS, SINGLE_PORTS};
use crate::sockets::{self, meet};
use berth_model::ContainerId;
use berth_model::network::{PortMapping, Protocol};
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
    /// `None`: every address of both families.
    address: Option<IpAddr>,
    first: u16,
    last: u16,
    by: ContainerId,
    bound: Vec<OwnedFd>,
}

impl Taken {
    fn meets(&self, other: &Wanted) -> bool {
        let addresses = match (self.address, other.address) {
            (Some(a), Some(b)) => meet(a, b),
            _ => true,
        };
        addresses && self.first <= other.last && other.first <= self.last
    }
}

/// Ports of the host that somebody asks for.
#[derive(Clone, Copy)]
struct Wanted {
    protocol: Protocol,
    address: Option<IpAddr>,
    first: u16,
    last: u16,
}

impl Wanted {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port)
    }

    fn in_use(&self, port: u16, holder: PortHolder) -> NetworkError {
        NetworkError::PortInUse { address: self.at(port), protocol: self.protocol.name(), holder }
    }
}

impl Ports {
    /// Takes all of them or none; the answer has every host port filled in.
    pub fn take(&mut self, id: &ContainerId, wanted: &[PortMapping]) -> Result<Vec<PortMapping>, NetworkError> {
        let mut done: Vec<(usize, PortMapping)> = Vec::with_capacity(wanted.len());
        // The numbers that were asked for go first: a chosen one must not be in their way.
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|&i| wanted[i].host_port == 0);
        for i in order {
            match self.take_one(id, &wanted[i]) {
                Ok(port) => done.push((i, PortMapping { host_port: port, ..wanted[i].clone() })),
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
            return self.choose(id, mapping.host_ip, mapping.protocol);
        }
        let wanted = wanted(mapping)?;
        if let Some((port, by)) = self.holder(&wanted) {
            return Err(wanted.in_use(port, PortHolder::Container(by.clone())));
        }
        let bound = self.bind_all(&wanted)?;
        self.insert(id, &wanted, bound);
        Ok(mapping.host_port)
    }

    /// The kernel chooses among what is free of sockets; what is free of containers is found by asking again.
    fn choose(&mut self, id: &ContainerId, address: Option<IpAddr>, protocol: Protocol) -> Result<u16, NetworkError> {
        let mut wanted = Wanted { protocol, address, first: 0, last: 0 };
        // Ports that are a container's already stay bound until one is found: the kernel would offer them again.
        let mut passed_over = Vec::new();
        for _ in 0..CHOICES {
            // SCTP has the numbers that TCP has free.
            let socket = open(&wanted, 0, false).map_err(|e| bind_error(&wanted, 0, e))?;
            (wanted.first, wanted.last) = (socket.1, socket.1);
            if self.holder(&wanted).is_none() {
                let bound = if protocol != Protocol::Sctp && self.may_hold(1) { vec![socket.0] } else { Vec::new() };
                self.insert(id, &wanted, bound);
                return Ok(socket.1);
            }
            passed_over.push(socket.0);
        }
        Err(wanted.in_use(0, PortHolder::Host))
    }

    fn may_hold(&self, count: usize) -> bool {
        self.held + count <= self.hold_at_most
    }

    fn bind_all(&self, wanted: &Wanted) -> Result<Vec<OwnedFd>, NetworkError> {
        let count = usize::from(wanted.last - wanted.first) + 1;
        if wanted.protocol == Protocol::Sctp {
            return Ok(Vec::new());
        }
        if count > usize::from(SINGLE_PORTS) || !self.may_hold(count) {
            let every = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let taken = sockets::bound(wanted.protocol).into_iter().find(|b| {
                (wanted.first..=wanted.last).contains(&b.address.port())
                    && meet(b.address.ip(), wanted.address.unwrap_or(every))
            });
            return match taken {
                None => Ok(Vec::new()),
                Some(b) => Err(wanted.in_use(b.address.port(), sockets::process(b).unwrap_or(PortHolder::Host))),
            };
        }
        (wanted.first..=wanted.last).filter_map(|port| bind(wanted, port).transpose()).collect()
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

    fn insert(&mut self, id: &ContainerId, wanted: &Wanted, bound: Vec<OwnedFd>) {
        self.held += bound.len();
        let Wanted { protocol, address, first, last } = *wanted;
        let taken = Taken { address, first, last, by: id.clone(), bound };
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

    /// One mapping of a container's.
    pub fn give_back_one(&mut self, id: &ContainerId, mapping: &PortMapping) {
        let Ok(wanted) = wanted(mapping) else { return };
        self.keep(|protocol, taken| {
            (protocol, &taken.by, taken.address, taken.first, taken.last)
                != (wanted.protocol, id, wanted.address, wanted.first, wanted.last)
        });
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

fn wanted(mapping: &PortMapping) -> Result<Wanted, NetworkError> {
    let PortMapping { host_ip, host_port: first, container_port, protocol, count } = *mapping;
    let more = count.saturating_sub(1);
    if first.checked_add(more).is_none() || container_port.checked_add(more).is_none() {
        return Err(NetworkError::RangeEnd { first, count });
    }
    let last = first + more;
    if count > SHIFTED_PORTS && first != container_port {
        return Err(NetworkError::ShiftedRange { first, last });
    }
    Ok(Wanted { protocol, address: host_ip, first, last })
}

/// Every address is one socket for both families, where the host has both.
fn open(wanted: &Wanted, port: u16, shared: bool) -> std::io::Result<(OwnedFd, u16)> {
    let udp = wanted.protocol == Protocol::Udp;
    if let Some(address) = wanted.address {
        return net::bind_port(SocketAddr::new(address, port), udp, shared);
    }
    match net::bind_port(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), udp, shared) {
        Err(e) if e.kind() != ErrorKind::AddrInUse => {
            net::bind_port(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), udp, shared)
        }
        other => other,
    }
}

/// Binds it; `None` when the port is free but cannot be kept because of connections that are still in TIME_WAIT.
fn bind(wanted: &Wanted, port: u16) -> Result<Option<OwnedFd>, NetworkError> {
    match open(wanted, port, false) {
        Ok((bound, _)) => Ok(Some(bound)),
        Err(error) if error.kind() == ErrorKind::AddrInUse && wanted.protocol == Protocol::Tcp => {
            match open(wanted, port, true) {
                Ok(_) => Ok(None),
                Err(source) => Err(bind_error(wanted, port, source)),
            }
        }
        Err(source) => Err(bind_error(wanted, port, source)),
    }
}

fn bind_error(wanted: &Wanted, port: u16, source: std::io::Error) -> NetworkError {
    let at = wanted.at(port);
    match source.kind() {
        ErrorKind::AddrInUse => wanted.in_use(port, sockets::holder(wanted.protocol, at)),
        ErrorKind::AddrNotAvailable => NetworkError::HostAddressUnknown(at.ip()),
        _ => NetworkError::PortBind { address: at, protocol: wanted.protocol.name(), source },
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
            count: 1,
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

    #[test]
    fn ranges() {
        let mut ports = Ports::default();
        let all = range("127.0.3.1", 1, 65535);
        // Others' listeners on every address would be in its way.
        if sockets::bound(Protocol::Tcp).iter().all(|b| !b.address.ip().is_unspecified()) {
            ports.take(&id(1), std::slice::from_ref(&all)).unwrap();
            assert_eq!(ports.held, 0, "no descriptor for a long range");
            let inside = ports.take(&id(2), &[mapping(Some("127.0.3.1"), 7001, Protocol::Tcp)]).unwrap_err();
            assert!(inside.to_string().contains("127.0.3.1:7001/tcp"), "{inside}");
            ports.give_back_one(&id(1), &all);
        }
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
