//! Which ports of the host lead to which container.

use crate::error::{NetworkError, PortHolder};
use berth_model::ContainerId;
use berth_model::network::{PortMapping, Protocol};
use berth_sys::net;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

/// How often the kernel is asked for another free port when the one that it chose is a container's.
const CHOICES: usize = 64;

/// Ports of the host in containers' hands.
///
/// Each is also bound by a socket of the agent that does not listen and is never read. While the agent lives, no process of the host can
/// bind a port whose packets would never reach it, and the kernel chooses it for no outgoing connection. The rules do the work, not the
/// sockets: when the agent ends, the sockets go and the ports still lead to their containers; `restore` binds them again, or, when somebody
/// was faster, goes on without.
#[derive(Default)]
pub struct Ports {
    taken: HashMap<(Protocol, u16), Vec<Taken>>,
}

struct Taken {
    /// Unspecified: every address.
    address: Ipv4Addr,
    by: ContainerId,
    _bound: Option<OwnedFd>,
}

/// The IPv4 address that a mapping publishes on; unspecified: every one.
pub fn host_address(mapping: &PortMapping) -> Result<Ipv4Addr, NetworkError> {
    match mapping.host_ip {
        None => Ok(Ipv4Addr::UNSPECIFIED),
        Some(IpAddr::V4(address)) => Ok(address),
        Some(address) => Err(NetworkError::HostAddressFamily(address)),
    }
}

impl Ports {
    /// Takes all of them or none; the answer has every host port filled in.
    pub fn take(&mut self, id: &ContainerId, wanted: &[PortMapping]) -> Result<Vec<PortMapping>, NetworkError> {
        let mut done = Vec::with_capacity(wanted.len());
        // The numbers that were asked for go first: a chosen one must not be in their way.
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|&i| wanted[i].host_port == 0);
        for i in order {
            match self.take_one(id, &wanted[i]) {
                Ok(port) => done.push((i, PortMapping { host_port: port, ..wanted[i].clone() })),
                Err(error) => {
                    self.give_back(id);
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
        let address = host_address(mapping)?;
        let protocol = mapping.protocol;
        if mapping.host_port == 0 {
            return self.choose(id, address, protocol);
        }
        let wanted = SocketAddrV4::new(address, mapping.host_port);
        if let Some(by) = self.holder(protocol, wanted) {
            let holder = PortHolder::Container(by.clone());
            return Err(NetworkError::PortInUse { address: wanted, protocol: protocol.name(), holder });
        }
        let bound = bind(wanted, protocol)?;
        self.insert(id, protocol, wanted, bound);
        Ok(mapping.host_port)
    }

    /// A port of the kernel's choice, from net.ipv4.ip_local_port_range.
    fn choose(&mut self, id: &ContainerId, address: Ipv4Addr, protocol: Protocol) -> Result<u16, NetworkError> {
        // Rejected ones stay bound until the end, or the kernel could offer them again.
        let mut rejected = Vec::new();
        let any = SocketAddrV4::new(address, 0);
        for _ in 0..CHOICES {
            let (bound, port) = net::bind_port(any, protocol == Protocol::Udp, false)
                .map_err(|source| bind_error(any, protocol, source))?;
            let chosen = SocketAddrV4::new(address, port);
            if self.holder(protocol, chosen).is_none() {
                self.insert(id, protocol, chosen, Some(bound));
                return Ok(port);
            }
            rejected.push(bound);
        }
        Err(bind_error(any, protocol, ErrorKind::AddrInUse.into()))
    }

    fn holder(&self, protocol: Protocol, wanted: SocketAddrV4) -> Option<&ContainerId> {
        let overlap = |a: Ipv4Addr, b: Ipv4Addr| a == b || a.is_unspecified() || b.is_unspecified();
        let taken = self.taken.get(&(protocol, wanted.port()))?;
        taken.iter().find(|t| overlap(t.address, *wanted.ip())).map(|t| &t.by)
    }

    fn insert(&mut self, id: &ContainerId, protocol: Protocol, at: SocketAddrV4, bound: Option<OwnedFd>) {
        let taken = Taken { address: *at.ip(), by: id.clone(), _bound: bound };
        self.taken.entry((protocol, at.port())).or_default().push(taken);
    }

    /// Ports of a container that runs already. A process of the host that took one meanwhile does not hinder: the rules go first.
    pub fn restore(&mut self, id: &ContainerId, mappings: &[PortMapping]) {
        for mapping in mappings {
            let Ok(address) = host_address(mapping) else { continue };
            let at = SocketAddrV4::new(address, mapping.host_port);
            let bound = match bind(at, mapping.protocol) {
                Ok(bound) => bound,
                Err(error) => {
                    tracing::warn!(container = id.short(), %error, "a published port is no longer kept free of others");
                    None
                }
            };
            self.insert(id, mapping.protocol, at, bound);
        }
    }

    pub fn give_back(&mut self, id: &ContainerId) {
        self.taken.retain(|_, taken| {
            taken.retain(|t| t.by != *id);
            !taken.is_empty()
        });
    }

    pub fn clear(&mut self) {
        self.taken.clear();
    }
}

/// Binds it; `None` when the port is free but cannot be kept because of connections that are still in TIME_WAIT.
fn bind(at: SocketAddrV4, protocol: Protocol) -> Result<Option<OwnedFd>, NetworkError> {
    match net::bind_port(at, protocol == Protocol::Udp, false) {
        Ok((bound, _)) => Ok(Some(bound)),
        Err(error) if error.kind() == ErrorKind::AddrInUse && protocol == Protocol::Tcp => {
            match net::bind_port(at, false, true) {
                Ok(_) => Ok(None),
                Err(source) => Err(bind_error(at, protocol, source)),
            }
        }
        Err(source) => Err(bind_error(at, protocol, source)),
    }
}

fn bind_error(address: SocketAddrV4, protocol: Protocol, source: std::io::Error) -> NetworkError {
    let protocol = protocol.name();
    match source.kind() {
        ErrorKind::AddrInUse => NetworkError::PortInUse { address, protocol, holder: PortHolder::Host },
        ErrorKind::AddrNotAvailable => NetworkError::HostAddressUnknown(*address.ip()),
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
        PortMapping { host_ip: host_ip.map(|ip| ip.parse().unwrap()), host_port, container_port: 80, protocol }
    }

    #[test]
    fn chosen_ports_are_kept_from_others() {
        let mut ports = Ports::default();
        let got = ports.take(&id(1), &[mapping(Some("127.0.0.1"), 0, Protocol::Tcp)]).unwrap();
        let port = got[0].host_port;
        assert_ne!(port, 0);
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "a process of the host could bind it");
        let again = ports.take(&id(2), &[mapping(Some("127.0.0.1"), port, Protocol::Tcp)]).unwrap_err();
        assert!(again.to_string().contains(&format!("127.0.0.1:{port}/tcp")), "{again}");
        assert!(matches!(again, NetworkError::PortInUse { holder: PortHolder::Container(c), .. } if c == id(1)));
        // Every address includes the taken one; another address and another protocol do not.
        assert!(ports.take(&id(2), &[mapping(None, port, Protocol::Tcp)]).is_err());
        assert!(ports.take(&id(2), &[mapping(Some("127.0.0.2"), port, Protocol::Tcp)]).is_ok());
        assert!(ports.take(&id(2), &[mapping(Some("127.0.0.1"), port, Protocol::Udp)]).is_ok());
        ports.give_back(&id(1));
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn the_hosts_listeners_count() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut ports = Ports::default();
        for (port, protocol) in
            [(tcp.local_addr().unwrap().port(), Protocol::Tcp), (udp.local_addr().unwrap().port(), Protocol::Udp)]
        {
            let error = ports.take(&id(1), &[mapping(Some("127.0.0.1"), port, protocol)]).unwrap_err();
            assert!(matches!(error, NetworkError::PortInUse { holder: PortHolder::Host, .. }), "{error}");
        }
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
        let wanted = [mapping(Some("127.0.0.1"), 0, Protocol::Tcp), mapping(Some("192.0.2.200"), 0, Protocol::Tcp)];
        assert!(matches!(ports.take(&id(1), &wanted), Err(NetworkError::HostAddressUnknown(_))));
        assert!(ports.taken.is_empty());
        assert!(matches!(
            ports.take(&id(1), &[mapping(Some("::1"), 0, Protocol::Tcp)]),
            Err(NetworkError::HostAddressFamily(_))
        ));
        let zero = PortMapping { container_port: 0, ..mapping(None, 0, Protocol::Tcp) };
        assert!(matches!(ports.take(&id(1), &[zero]), Err(NetworkError::NoContainerPort)));
    }
}
