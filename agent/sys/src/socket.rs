//! Unix sockets that carry file descriptors.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Descriptors that one message may carry here (the kernel's own limit is 253, SCM_MAX_FD).
pub const MAX_FDS: usize = 128;

fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Two connected sockets that keep the bounds of messages (SOCK_SEQPACKET, unix(7)); close-on-exec, blocking.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: fds has room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two new descriptors that nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// `more`: flags beside close-on-exec.
fn seqpacket(more: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    owned(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | more, 0) })
}

fn stream() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    owned(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

/// `ENAMETOOLONG` above 107 bytes, the length of sun_path (unix(7)).
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: sockaddr_un is plain bytes; all zero is a value of it.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((address, (std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1) as libc::socklen_t))
}

/// A listening socket at a path that must not be there yet; accepting never sleeps.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    listen_on(seqpacket(0)?, path)
}

/// As [`listen`], for connections without bounds of messages (SOCK_STREAM), such as OCI's console sockets.
pub fn listen_for_streams(path: &Path) -> io::Result<OwnedFd> {
    listen_on(stream()?, path)
}

fn listen_on(socket: OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let (address, len) = address(path)?;
    // SAFETY: the address lives through the call and len is its length.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes numbers only.
    if unsafe { libc::listen(socket.as_raw_fd(), 16) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Connects to a listening socket. `NotFound`, `ConnectionRefused`: nobody listens there.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    connect_with(path, 0)
}

/// As [`connect`], and neither this nor what is done with the socket waits. `WouldBlock`: somebody listens, with a queue that is full.
pub fn connect_at_once(path: &Path) -> io::Result<OwnedFd> {
    connect_with(path, libc::SOCK_NONBLOCK)
}

/// Connects to a listening stream socket, and waits no longer than this for room in its queue (socket(7), SO_SNDTIMEO).
///
/// # Errors
/// `TimedOut`: somebody listens and does not take it; else as [`connect`].
pub fn connect_stream_within(path: &Path, limit: std::time::Duration) -> io::Result<OwnedFd> {
    let (address, len) = address(path)?;
    let socket = stream()?;
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(limit))?;
    // SAFETY: the address lives through the call and len is its length.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        let error = io::Error::last_os_error();
        return Err(if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error });
    }
    Ok(socket)
}

fn connect_with(path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    let (address, len) = address(path)?;
    let socket = seqpacket(flags)?;
    // SAFETY: the address lives through the call and len is its length.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Takes a waiting connection; close-on-exec, not blocking.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the peer's address is not asked for.
    owned(unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) })
}

/// Bytes that the other side has not taken yet: not acknowledged (tcp(7), SIOCOUTQ) or not read (unix(7)).
pub fn unsent(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one int.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(bytes).unwrap_or_default())
}

/// Room for a control message with `MAX_FDS` descriptors, aligned as cmsghdr wants it.
#[repr(C, align(8))]
struct Control([u8; 16 + MAX_FDS * size_of::<RawFd>()]);

/// Sends one message made of `parts`, and descriptors beside it (at most [`MAX_FDS`]; `EINVAL` above). Never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` when the other side's queue is full and `wait` is false; `EMSGSIZE` above the socket's buffer.
pub fn send(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>], wait: bool) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut control = Control([0; _]);
    // SAFETY: msghdr is plain data; all zero is its empty value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    if !fds.is_empty() {
        let bytes = size_of_val(fds) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: arithmetic on a number.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
        // SAFETY: control is aligned, zeroed and large enough for the header and MAX_FDS descriptors; BorrowedFd is a transparent RawFd.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), bytes as usize);
        }
    }
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    loop {
        // SAFETY: message names parts (IoSlice is a transparent iovec) and control, which live through the call.
        if unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Takes one message: its length (0: the other side is gone), and the descriptors beside it, close-on-exec.
///
/// # Errors
/// `InvalidData` when the message is longer than the buffer or carries more than [`MAX_FDS`] descriptors; `WouldBlock` when there is none
/// and `wait` is false.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>, wait: bool) -> io::Result<usize> {
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data; all zero is its empty value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    let n = loop {
        // SAFETY: message names the buffer, part and control, which live through the call, with their lengths.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        if n >= 0 {
            break n as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    // SAFETY: the kernel has filled msg_controllen bytes of control with whole headers; every descriptor in it is new and ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for i in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn messages_keep_their_bounds_and_carry_descriptors() {
        let (a, b) = seqpacket_pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(a.as_fd(), &[IoSlice::new(b"x"), IoSlice::new(b"yz")], &[file.as_fd(), a.as_fd()], true).unwrap();
        send(a.as_fd(), &[IoSlice::new(b"second")], &[], true).unwrap();
        let (mut buffer, mut fds) = ([0; 16], Vec::new());
        assert_eq!(receive(b.as_fd(), &mut buffer, &mut fds, true).unwrap(), 3);
        assert_eq!((&buffer[..3], fds.len()), (&b"xyz"[..], 2));
        assert_eq!(receive(b.as_fd(), &mut buffer, &mut fds, true).unwrap(), 6);
        assert_eq!(receive(b.as_fd(), &mut buffer, &mut fds, false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        fds.clear();
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut buffer, &mut fds, true).unwrap(), 0);
    }

    #[test]
    fn a_message_longer_than_the_buffer_is_an_error() {
        let (a, b) = seqpacket_pair().unwrap();
        send(a.as_fd(), &[IoSlice::new(b"abcdef")], &[], true).unwrap();
        let error = receive(b.as_fd(), &mut [0; 3], &mut Vec::new(), true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_path_that_is_too_long_is_refused() {
        let long = format!("/tmp/{}", "x".repeat(200));
        assert_eq!(listen(Path::new(&long)).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    }
}
