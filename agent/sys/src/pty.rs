//! Pseudo-terminals.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Opens a new terminal of the devpts instance that `ptmx` belongs to: the master and the terminal itself (pty(7);
/// TIOCGPTPEER, Linux 4.13, needs no path and so cannot be led elsewhere by one). Both close-on-exec.
///
/// What is at the path may be a container's: a link, or anything that is not the device of a devpts, is `ENOTTY` or `ELOOP`, and a pipe is
/// not waited for.
pub fn open(ptmx: &CStr) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the path ends with a NUL and lives through the call.
    let master = unsafe { libc::open(ptmx.as_ptr(), flags | libc::O_NOFOLLOW | libc::O_NONBLOCK) };
    if master < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    if !is_ptmx(&master)? {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY));
    }
    // Whoever gets it expects a terminal's master to wait.
    rustix::fs::fcntl_setfl(&master, rustix::fs::fcntl_getfl(&master)? - rustix::fs::OFlags::NONBLOCK)?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives through the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TIOCGPTPEER takes open(2) flags.
    let terminal = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if terminal < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok((master, unsafe { OwnedFd::from_raw_fd(terminal) }))
}

/// Character device 5:2 (Documentation/admin-guide/devices.txt) in a devpts.
fn is_ptmx(fd: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    let device = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(device && number == (5, 2) && rustix::fs::fstatfs(fd)?.f_type as u64 == DEVPTS_SUPER_MAGIC)
}

/// statfs(2)
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// Sets rows and columns; the processes in front get SIGWINCH (TIOCSWINSZ(2const)).
pub fn resize(fd: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives through the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes the terminal this session's controlling one (TIOCSCTTY(2const)); the caller leads a session that has none.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number; 0 does not steal.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn what_goes_in_comes_out() {
        let (master, terminal) = open(c"/dev/pts/ptmx").unwrap();
        resize(master.as_fd(), 30, 90).unwrap();
        let (mut master, mut terminal) = (std::fs::File::from(master), std::fs::File::from(terminal));
        terminal.write_all(b"hi\n").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(master.read(&mut buffer).unwrap(), 4);
        assert_eq!(open(c"/dev/null").unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(&buffer[..4], b"hi\r\n");
    }
}
