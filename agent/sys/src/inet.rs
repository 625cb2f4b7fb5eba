//! Internet sockets of a small server, and the readiness of many of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Room for an address of either family, as the kernel reads and writes it.
#[derive(Clone, Copy)]
#[repr(C)]
union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Address {
    fn empty() -> Self {
        // SAFETY: both are plain numbers; all zero is a value of each.
        unsafe { std::mem::zeroed() }
    }

    fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut all = Address::empty();
        match address {
            SocketAddr::V4(a) => {
                all.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (all, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(a) => {
                all.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: a.port().to_be(),
                    sin6_flowinfo: a.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                    sin6_scope_id: a.scope_id(),
                };
                (all, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// None: of another family.
    fn read(&self) -> Option<SocketAddr> {
        // SAFETY: both begin with the family, and any bytes are a value of them.
        unsafe {
            match i32::from(self.v4.sin_family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddrV4::new(ip, u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let ip = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
                    let (port, scope) = (u16::from_be(self.v6.sin6_port), self.v6.sin6_scope_id);
                    Some(SocketAddrV6::new(ip, port, 0, scope).into())
                }
                _ => None,
            }
        }
    }
}

/// Datagrams or a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Udp,
    Tcp,
}

fn socket(address: SocketAddr, kind: Kind) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = if kind == Kind::Udp { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
    // SAFETY: takes numbers only.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length are of one number, which lives through the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) }).map(drop)
}

/// A socket that hears only what comes in by the interface `device`, bound to `address`, which nobody needs to have yet (IP_FREEBIND: a new IPv6
/// address is tried for a second before it counts as the interface's). A stream's listens. Not blocking, close-on-exec.
///
/// `queue_bytes`: for what waits to be read; above `net.core.rmem_max` only with CAP_NET_ADMIN, and less without it.
///
/// # Errors
/// `AddrInUse`; `ENODEV`: there is no such interface; as socket(7), ip(7).
pub fn listen(address: SocketAddr, kind: Kind, device: &str, queue_bytes: u32) -> io::Result<OwnedFd> {
    let socket = socket(address, kind)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv4() {
        set(&socket, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    } else {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
    }
    let name = device.as_bytes();
    // SAFETY: pointer and length are of one slice; the kernel copies it.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    })?;
    if kind == Kind::Udp && set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, queue_bytes as i32).is_err() {
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, queue_bytes as i32)?;
    }
    let (at, len) = Address::new(address);
    // SAFETY: the address lives through the call and len is its length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), len) })?;
    if kind == Kind::Tcp {
        // SAFETY: takes numbers only.
        check(unsafe { libc::listen(socket.as_raw_fd(), 64) })?;
    }
    Ok(socket)
}

/// The number of an interface of the calling thread's network namespace; /sys/class/net is the namespace's that mounted it, and if_nametoindex(3)
/// wants sockets of more families. None: there is none of that name.
pub fn interface_index(name: &str) -> Option<u32> {
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    crate::net::interface_index(socket(any, Kind::Udp).ok()?.as_fd(), name)
}

/// A socket that talks to `remote` alone, from a port of the kernel's choice. A stream is being connected: it is writable when that is done, and
/// [`failure`] says how it went. Not blocking, close-on-exec.
pub fn connect(remote: SocketAddr, kind: Kind) -> io::Result<OwnedFd> {
    let socket = socket(remote, kind)?;
    let (at, len) = Address::new(remote);
    // SAFETY: the address lives through the call and len is its length.
    match check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const at).cast(), len) }) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket),
    }
}

/// A TCP socket of the calling thread's network namespace, where it stays: whoever has it connects from there. Not blocking, close-on-exec.
///
/// # Errors
/// As socket(2); `EAFNOSUPPORT`: the kernel has no IPv6.
pub fn stream(v4: bool) -> io::Result<OwnedFd> {
    let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    socket(SocketAddr::new(any, 0), Kind::Tcp)
}

/// Whether a process of this host can open an SCTP socket (EPROTONOSUPPORT where not). The kernel loads its module for the question, where there is one.
pub fn has_sctp() -> bool {
    // SAFETY: takes numbers only; the descriptor is nobody else's yet.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) });
    // SAFETY: as above.
    socket.map(|fd| drop(unsafe { OwnedFd::from_raw_fd(fd) })).is_ok()
}

/// What went wrong on a socket since it was asked last (SO_ERROR).
pub fn failure(socket: BorrowedFd<'_>) -> Option<io::Error> {
    let mut errno: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both live through the call, and len is the number's length.
    let asked = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut errno).cast(), &raw mut len)
    };
    match (asked, errno) {
        (0, 0) => None,
        (0, errno) => Some(io::Error::from_raw_os_error(errno)),
        _ => Some(io::Error::last_os_error()),
    }
}

/// The address and port that a socket is bound to.
pub fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut at = Address::empty();
    let mut len = size_of::<Address>() as libc::socklen_t;
    // SAFETY: both live through the call, and len is the room at the address.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut at).cast(), &raw mut len) })?;
    at.read().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Takes a waiting connection and says who it is; not blocking, close-on-exec.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut at = Address::empty();
    let mut len = size_of::<Address>() as libc::socklen_t;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: both live through the call, and len is the room at the address.
    let fd = check(unsafe { libc::accept4(listener.as_raw_fd(), (&raw mut at).cast(), &raw mut len, flags) })?;
    // SAFETY: a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((fd, at.read().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?))
}

/// Sends one datagram. Never raises SIGPIPE.
pub fn send_to(socket: BorrowedFd<'_>, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    let (at, len) = Address::new(to);
    // SAFETY: pointers and lengths are of the slice and of the address, which live through the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
            (&raw const at).cast(),
            len,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends on a connected socket; a stream may take less than all. Never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are of one slice.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives on a connected socket; 0 of a stream is its end. A datagram longer than the buffer is cut.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are of one slice.
    let received = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// Room for some datagrams that are taken with one call.
pub struct Datagrams {
    size: usize,
    bytes: Vec<u8>,
    from: Vec<Address>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    taken: usize,
}

impl Datagrams {
    /// For `count` datagrams of up to `size` bytes each.
    pub fn new(count: usize, size: usize) -> Self {
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: mmsghdr is plain numbers and pointers; all zero is its empty value.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Datagrams {
            size,
            bytes: vec![0; count * size],
            from: vec![Address::empty(); count],
            parts: vec![part; count],
            headers: vec![header; count],
            taken: 0,
        }
    }

    /// Takes what waits, up to the room there is, and says how many that are (recvmmsg(2)). `WouldBlock`: none.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.taken = 0;
        let bytes = self.bytes.as_mut_ptr();
        for (i, part) in self.parts.iter_mut().enumerate() {
            *part = libc::iovec { iov_base: bytes.wrapping_add(i * self.size).cast(), iov_len: self.size };
        }
        let (parts, from) = (self.parts.as_mut_ptr(), self.from.as_mut_ptr());
        for (i, header) in self.headers.iter_mut().enumerate() {
            header.msg_hdr.msg_iov = parts.wrapping_add(i);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = from.wrapping_add(i).cast();
            header.msg_hdr.msg_namelen = size_of::<Address>() as libc::socklen_t;
            header.msg_hdr.msg_flags = 0;
        }
        let (headers, count) = (self.headers.as_mut_ptr(), self.headers.len() as libc::c_uint);
        // SAFETY: each header names one part and one address, which live in this value, and each part its own piece of `bytes`.
        let taken = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        self.taken = check(taken)? as usize;
        Ok(self.taken)
    }

    /// One of those that were taken last, and who sent it. None: it was longer than there is room, or of another family.
    pub fn get(&self, i: usize) -> Option<(&[u8], SocketAddr)> {
        let header = self.headers[..self.taken].get(i)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let start = i * self.size;
        let bytes = self.bytes.get(start..start + (header.msg_len as usize).min(self.size))?;
        Some((bytes, self.from[i].read()?))
    }
}

/// The most addresses that [`refuse_from`] takes.
pub const MAX_REFUSED: usize = 64;

/// Datagrams from these addresses are dropped before they are queued (socket(7), SO_ATTACH_FILTER); an empty list: from none any more. Addresses
/// of the other family than the socket's, and those beyond [`MAX_REFUSED`], are left out.
pub fn refuse_from(socket: BorrowedFd<'_>, v4: bool, sources: &[IpAddr]) -> io::Result<()> {
    // Where a filter finds the network header of any packet, whatever its own offset is (linux/filter.h, SKF_NET_OFF).
    const NETWORK: u32 = -0x10_0000_i32 as u32;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = Vec::new();
    for source in sources.iter().take(MAX_REFUSED) {
        match source {
            IpAddr::V4(a) if v4 => {
                program.push(step(LOAD_WORD, 0, 0, NETWORK + 12));
                program.push(step(JUMP_EQUAL, 0, 1, u32::from(*a)));
                program.push(step(RETURN, 0, 0, 0));
            }
            IpAddr::V6(a) if !v4 => {
                let words = a.octets();
                for (i, word) in words.as_chunks::<4>().0.iter().enumerate() {
                    program.push(step(LOAD_WORD, 0, 0, NETWORK + 8 + 4 * i as u32));
                    // Not equal: behind the rest of this address.
                    program.push(step(JUMP_EQUAL, 0, 1 + 2 * (3 - i as u8), u32::from_be_bytes(*word)));
                }
                program.push(step(RETURN, 0, 0, 0));
            }
            _ => {}
        }
    }
    let fd = socket.as_raw_fd();
    if program.is_empty() {
        let none: libc::c_int = 0;
        // SAFETY: the number is not read, but must be there.
        let detached = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_DETACH_FILTER,
                (&raw const none).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        return match check(detached) {
            // There was none.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map(drop),
        };
    }
    program.push(step(RETURN, 0, 0, u32::MAX));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program and its steps live through the call, which copies them and refuses jumps out of it.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
    /// Broken, or the other end is gone.
    pub closed: bool,
}

/// The readiness of many descriptors (epoll(7)), level-triggered.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// Tells of up to `at_once` descriptors at a time.
    pub fn new(at_once: usize) -> io::Result<Self> {
        // SAFETY: takes numbers only.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; at_once.max(1)] })
    }

    /// A descriptor that is closed leaves by itself.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, readable: bool, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, readable, writable)
    }

    pub fn change(&self, fd: BorrowedFd<'_>, token: u64, readable: bool, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, readable, writable)
    }

    fn control(&self, what: libc::c_int, fd: BorrowedFd<'_>, token: u64, read: bool, write: bool) -> io::Result<()> {
        let mut events = 0;
        if read {
            events |= libc::EPOLLIN as u32;
        }
        if write {
            events |= libc::EPOLLOUT as u32;
        }
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: the event lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd.as_raw_fd(), &raw mut event) }).map(drop)
    }

    /// Sleeps until something is ready or `timeout_ms` is over (-1: never), and adds what is ready to `ready`. An interruption is nothing.
    pub fn wait(&mut self, ready: &mut Vec<Ready>, timeout_ms: i32) -> io::Result<()> {
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        // SAFETY: pointer and length are of one buffer.
        let n = match check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events, room, timeout_ms) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        ready.extend(self.events[..n as usize].iter().map(|event| {
            let (token, what) = (event.u64, event.events as libc::c_int);
            Ready {
                token,
                readable: what & libc::EPOLLIN != 0,
                writable: what & libc::EPOLLOUT != 0,
                closed: what & (libc::EPOLLERR | libc::EPOLLHUP) != 0,
            }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(address: &str) -> (OwnedFd, OwnedFd, SocketAddr) {
        let server = listen(address.parse().unwrap(), Kind::Udp, "lo", 1 << 16).unwrap();
        let at = local_address(server.as_fd()).unwrap();
        (server, connect(at, Kind::Udp).unwrap(), at)
    }

    #[test]
    fn datagrams_come_many_at_once_with_their_senders() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (server, client, _) = pair(address);
            let mine = local_address(client.as_fd()).unwrap();
            for bytes in [&b"one"[..], b"", b"longer than eight", b"two"] {
                send(client.as_fd(), bytes).unwrap();
            }
            let mut batch = Datagrams::new(8, 8);
            assert_eq!(batch.receive(server.as_fd()).unwrap(), 4);
            assert_eq!(batch.get(0), Some((&b"one"[..], mine)));
            assert_eq!(batch.get(1), Some((&b""[..], mine)));
            assert_eq!(batch.get(2), None);
            assert_eq!(batch.get(3), Some((&b"two"[..], mine)));
            assert_eq!(batch.get(4), None);
            assert_eq!(batch.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            send_to(server.as_fd(), b"back", mine).unwrap();
            let mut buffer = [0; 8];
            assert_eq!(receive(client.as_fd(), &mut buffer).unwrap(), 4);
        }
    }

    #[test]
    fn refused_senders_do_not_reach_the_queue() {
        for (address, others) in [("127.0.0.1:0", "10.9.8.7"), ("[::1]:0", "fd00::1")] {
            let (server, client, at) = pair(address);
            let mut batch = Datagrams::new(1, 8);
            let all: Vec<IpAddr> = std::iter::repeat_n(others.parse().unwrap(), MAX_REFUSED - 1).collect();
            refuse_from(server.as_fd(), at.is_ipv4(), &all).unwrap();
            send(client.as_fd(), b"heard").unwrap();
            assert_eq!(batch.receive(server.as_fd()).unwrap(), 1);
            let with: Vec<IpAddr> = all.iter().copied().chain([at.ip()]).collect();
            refuse_from(server.as_fd(), at.is_ipv4(), &with).unwrap();
            // A local sender of a datagram that a filter drops is told nothing.
            send(client.as_fd(), b"lost").unwrap();
            assert_eq!(batch.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            refuse_from(server.as_fd(), at.is_ipv4(), &[]).unwrap();
            refuse_from(server.as_fd(), at.is_ipv4(), &[]).unwrap();
            send(client.as_fd(), b"heard").unwrap();
            assert_eq!(batch.receive(server.as_fd()).unwrap(), 1);
        }
    }

    #[test]
    fn readiness_has_its_token_and_errors_are_told() {
        let (server, client, _) = pair("127.0.0.1:0");
        let mut epoll = Epoll::new(4).unwrap();
        epoll.add(server.as_fd(), 7, true, false).unwrap();
        let mut ready = Vec::new();
        epoll.wait(&mut ready, 0).unwrap();
        assert!(ready.is_empty());
        send(client.as_fd(), b"x").unwrap();
        epoll.wait(&mut ready, -1).unwrap();
        assert_eq!((ready[0].token, ready[0].readable, ready[0].closed), (7, true, false));
        drop(server);
        send(client.as_fd(), b"x").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(receive(client.as_fd(), &mut buffer).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(
            (interface_index("lo"), interface_index("no-such-link"), interface_index("")),
            (Some(1), None, None)
        );
        let nobody = listen("127.0.0.1:0".parse().unwrap(), Kind::Udp, "no-such-link", 1 << 16);
        assert_eq!(nobody.unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
