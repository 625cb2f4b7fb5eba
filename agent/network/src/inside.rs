//! Sockets of other network namespaces: a container's own loopback, reached from here.

use crate::error::NetworkError;
use crate::sockets;
use berth_sys::store::read_at_most;
use berth_sys::{inet, net};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;

/// TCP sockets of one network namespace, not connected. What they connect to is reached from there, whoever connects them.
pub struct Streams {
    pub v4: OwnedFd,
    /// None: the kernel has no IPv6.
    pub v6: Option<OwnedFd>,
}

/// Makes sockets in `namespace`, on a thread of their own that visits it.
pub fn streams_in(namespace: BorrowedFd<'_>) -> Result<Streams, NetworkError> {
    let error = |act| move |source| NetworkError::Namespace { act, source };
    let visit = move || {
        net::enter_network(namespace).map_err(error("entering the container's network namespace"))?;
        let v4 = inet::stream(true).map_err(error("opening a socket in the container's network namespace"))?;
        Ok(Streams { v4, v6: inet::stream(false).ok() })
    };
    thread::scope(|scope| {
        let visitor = thread::Builder::new().name("berth-visit".into()).spawn_scoped(scope, visit);
        let visitor = visitor.map_err(error("starting a thread"))?;
        visitor.join().unwrap_or_else(|_| Err(error("visiting a network namespace")(io::ErrorKind::Other.into())))
    })
}

/// Bytes that are read of a container's table of sockets, 150 for each: a container has as many as it likes.
const TABLE_BYTES: usize = 1 << 20;

/// Where processes listen for TCP in the network namespace of a process, each address once, in order. Empty: nowhere, or it has ended.
pub fn listeners_of(pid: u32) -> Vec<SocketAddr> {
    // What does not fit is behind its end: the kernel lists listeners first.
    let read = |table: &str| {
        let bytes = read_at_most(format!("/proc/{pid}/net/{table}"), TABLE_BYTES).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut found: Vec<SocketAddr> =
        ["tcp", "tcp6"].into_iter().flat_map(|t| sockets::listed(&read(t), true)).map(|b| b.address).collect();
    found.sort_by_key(|at| (at.port(), at.ip()));
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    #[test]
    fn this_namespace_is_one_too() {
        let here = net::current_network().unwrap();
        let streams = streams_in(here.as_fd()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::from(streams.v4);
        assert_eq!(stream.peer_addr().unwrap_err().kind(), io::ErrorKind::NotConnected);
        let at = listener.local_addr().unwrap();
        assert!(listeners_of(std::process::id()).contains(&at));
        let no_namespace = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(streams_in(no_namespace.as_fd()), Err(NetworkError::Namespace { .. })));
    }
}
