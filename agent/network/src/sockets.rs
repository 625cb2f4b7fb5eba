//! Which process of the host has a port: /proc/net/{tcp,tcp6,udp,udp6}, and the descriptors of processes behind it. proc(5).

use crate::error::PortHolder;
use berth_model::network::{HostAddresses, Protocol};
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// State of a listening TCP socket in the tables (TCP_LISTEN), and of one that only has its port (TCP_CLOSE: bound is not listed at all).
const LISTEN: &str = "0A";

/// A socket that keeps its port from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    pub address: SocketAddr,
    inode: u64,
}

/// Listeners of TCP, or all bound UDP sockets, of the calling thread's namespace. SCTP: none are known.
pub fn bound(protocol: Protocol) -> Vec<Bound> {
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Sctp => return Vec::new(),
    };
    let read = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    tables.map(read).iter().flat_map(|table| listed(table, protocol == Protocol::Tcp)).collect()
}

/// The sockets of one of the tables; of a table of TCP's only `listeners`.
pub fn listed(table: &str, listeners: bool) -> Vec<Bound> {
    table.lines().skip(1).filter_map(|line| parse(line, listeners)).collect()
}

pub(crate) fn parse(line: &str, listeners: bool) -> Option<Bound> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if listeners && *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    // Words of four bytes, each as the processor has it.
    let word = |n: usize| u32::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n)?);
            }
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    let address = SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?);
    Some(Bound { address, inode: fields.get(9)?.parse().ok()? })
}

/// A socket with this address gets what is sent to one of those. One of `::` is taken for one of both families, which is what most are.
pub fn meets(socket: IpAddr, on: HostAddresses) -> bool {
    socket == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || on.meet(HostAddresses::one(socket))
}

/// Who has this port. Reads all processes' descriptors: for an error, not for a start.
pub fn holder(protocol: Protocol, on: HostAddresses, port: u16) -> PortHolder {
    let found =
        bound(protocol).into_iter().find(|b| b.address.port() == port && meets(b.address.ip(), on)).and_then(process);
    found.unwrap_or(PortHolder::Host)
}

/// The process that has this socket.
pub fn process(bound: Bound) -> Option<PortHolder> {
    let link = format!("socket:[{}]", bound.inode);
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(fds) = fs::read_dir(entry.path().join("fd")) else { continue };
        let has = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str());
        if fds.flatten().any(has) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            // The name is the process's own choice: only what is plain text of it.
            let name = name.trim_end().chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect();
            return Some(PortHolder::Process { pid, name });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn this_process_is_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        for (protocol, at) in [(Protocol::Tcp, tcp.local_addr().unwrap()), (Protocol::Udp, udp.local_addr().unwrap())] {
            let found = holder(protocol, HostAddresses::one(at.ip()), at.port());
            assert!(matches!(&found, PortHolder::Process { pid, .. } if *pid == std::process::id()), "{found}");
            assert_eq!(holder(protocol, HostAddresses::EVERY, at.port()), found);
        }
        let port = tcp.local_addr().unwrap().port();
        for nobody in ["192.0.2.1", "::1"] {
            let nobody = HostAddresses::one(nobody.parse().unwrap());
            assert_eq!(holder(Protocol::Tcp, nobody, port), PortHolder::Host);
        }
    }

    #[test]
    fn lines_of_the_tables() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0";
        let found = parse(line, true).unwrap();
        assert_eq!((found.address, found.inode), ("127.0.0.1:8080".parse().unwrap(), 4242));
        assert_eq!(parse(&line.replace(" 0A ", " 01 "), true), None);
        for bad in ["", "0:", "0: 01:1F90 x 0A", "0: 0100007F:1F90 0 0A 0 0 0 0 0 x"] {
            assert_eq!(parse(bad, true), None, "{bad}");
        }
    }
}
