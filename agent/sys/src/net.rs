//! Sockets for netlink, network namespaces, and ports of the host.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
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
    Ok(socket)
}

fn set_netlink_option(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
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
///
/// `shared` sets SO_REUSEADDR and, for TCP, listens at once: that succeeds over connections in TIME_WAIT and fails when somebody listens.
/// Without it nobody else can bind the port while the descriptor is open.
pub fn bind_port(address: SocketAddrV4, udp: bool, shared: bool) -> io::Result<(OwnedFd, u16)> {
    let kind = if udp { SocketType::DGRAM } else { SocketType::STREAM };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
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
    let bound = SocketAddrV4::try_from(rustix::net::getsockname(&socket)?)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((socket, bound.port()))
}
