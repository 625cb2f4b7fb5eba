//! Sockets for netlink, network namespaces, and ports of the host.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Which part of the kernel a netlink socket talks to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetlinkFamily {
    /// rtnetlink(7): links, addresses, routes.
    Route,
    /// nfnetlink: nftables and conntrack.
    Netfilter,
}

/// A reply is produced within the request's own `sendmsg`; this bounds the wait if a kernel ever drops one.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Index of the interface of that name in the namespace of a socket, of whatever kind (SIOCGIFINDEX of netdevice(7)). Unlike a request of
/// rtnetlink it does not wait for those who change links. `None`: there is none.
pub fn interface_index(socket: BorrowedFd<'_>, name: &str) -> Option<u32> {
    rustix::net::netdevice::name_to_index(socket, name).ok()
}

/// `ENOBUFS`: notifications were lost.
pub const NO_BUFFERS: i32 = libc::ENOBUFS;

/// Bytes of the largest transaction.
const SEND_MAX: libc::c_int = 64 << 20;

/// A netlink socket in the calling thread's network namespace, where it stays whatever the thread does later.
///
/// Acknowledgements leave the request out (`NETLINK_CAP_ACK`, Linux 4.3) and carry the kernel's own words (`NETLINK_EXT_ACK`, Linux 4.12).
pub fn netlink_socket(family: NetlinkFamily) -> io::Result<OwnedFd> {
    let protocol = match family {
        NetlinkFamily::Route => None,
        NetlinkFamily::Netfilter => Some(rustix::net::netlink::NETFILTER),
    };
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    // Best effort: without them errors are only less wordy.
    let _ = set_netlink_option(socket.as_fd(), libc::NETLINK_CAP_ACK);
    let _ = set_netlink_option(socket.as_fd(), libc::NETLINK_EXT_ACK);
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(REPLY_TIMEOUT))?;
    if family == NetlinkFamily::Netfilter {
        // One transaction is one datagram, with all ports of all containers in it. A bound, not a buffer; needs CAP_NET_ADMIN, as all else here.
        let _ = set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_MAX);
    }
    Ok(socket)
}

/// Joins a group of notifications. They come with `netlink_receive`, which then waits for as long as it takes.
pub fn netlink_listen(socket: BorrowedFd<'_>, group: u32) -> io::Result<()> {
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, None)?;
    // Without a number of its own the socket is passed over: 0 stands for "nobody is left out".
    rustix::net::bind(socket, &rustix::net::netlink::SocketAddrNetlink::new(0, 0))?;
    set_option(socket, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as libc::c_int)
}

/// The number by which the kernel knows the socket once it has sent something: that of the change's author in notifications.
pub fn netlink_port(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let address = rustix::net::getsockname(socket)?;
    let address = rustix::net::netlink::SocketAddrNetlink::try_from(address)?;
    Ok(address.pid())
}

fn set_netlink_option(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    set_option(socket, libc::SOL_NETLINK, option, 1)
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a whole netlink datagram to the kernel.
pub fn netlink_send(socket: BorrowedFd<'_>, datagram: &[u8]) -> io::Result<()> {
    let sent = rustix::io::retry_on_intr(|| rustix::net::send(socket, datagram, SendFlags::empty()))?;
    if sent == datagram.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one datagram. A datagram that does not fit is an error (`EMSGSIZE`), never cut silently.
pub fn netlink_receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let capacity = buffer.len();
    let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, RecvFlags::TRUNC))?;
    if length > capacity { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) } else { Ok(length) }
}

/// Moves the calling thread, and only it, into a new network namespace (`unshare(CLONE_NEWNET)`). Needs CAP_SYS_ADMIN.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: unshare takes no pointers; CLONE_NEWNET concerns the calling thread alone and leaves its memory as it is.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread, and only it, into the network namespace behind `namespace` (`setns`).
pub fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, valid for the borrow's life, and no pointers; CLONE_NEWNET makes it refuse any other kind.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The calling thread's network namespace.
pub fn current_network() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Binds a TCP or UDP port of the calling thread's network namespace without listening; port 0 lets the kernel choose from its ephemeral range.
/// `both`: `[::]` is every address of both families.
///
/// `shared` sets SO_REUSEADDR and, for TCP, listens at once: that succeeds over connections in TIME_WAIT and fails when somebody listens.
/// Without it nobody else can bind the port while the descriptor is open.
pub fn bind_port(address: SocketAddr, both: bool, udp: bool, shared: bool) -> io::Result<(OwnedFd, u16)> {
    let kind = if udp { SocketType::DGRAM } else { SocketType::STREAM };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !both)?;
    }
    if shared {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if udp {
        // It is never read: the smallest buffer that the kernel grants.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, 0);
    }
    if shared && !udp {
        rustix::net::listen(&socket, 1)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((socket, bound.port()))
}
