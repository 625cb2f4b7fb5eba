//! The null device behind the standard streams of a process in a container.
//!
//! What it was started with is an inode of the host's, and who is root there may give that another owner or mode by way of /proc/self/fd.

use crate::process::{dup_onto, pipe};
use rustix::fs::{FileType, Mode, OFlags, fstat, major, minor, open};
use rustix::io::ioctl_fionbio;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Character device 1:3 (Documentation/admin-guide/devices.txt).
fn is_null(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = fstat(fd)?;
    let device = stat.st_rdev as u64;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && (major(device), minor(device)) == (1, 3))
}

/// `/dev/null` of the calling process' root, if it is one. It is somebody else's who looks like it: whatever it is, opening it waits for nobody.
fn of_the_root() -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(fd) = open("/dev/null", flags, Mode::empty()) else { return Ok(None) };
    if !is_null(fd.as_fd())? {
        return Ok(None);
    }
    ioctl_fionbio(&fd, false)?;
    Ok(Some(fd))
}

/// Puts the null device of the root in the place of each that is a standard stream. Where the root has none, standard input is at its end
/// without.
///
/// # Errors
/// `NotFound`: an output is a null device, and the root has none.
pub fn reopen() -> io::Result<()> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut own = None;
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        // A stream that is closed is none.
        if !is_null(stream).unwrap_or(false) {
            continue;
        }
        if own.is_none() {
            own = of_the_root()?;
        }
        match &own {
            Some(own) => dup_onto(own.as_fd(), stream.as_raw_fd())?,
            None if stream.as_raw_fd() == 0 => dup_onto(pipe()?.0.as_fd(), 0)?,
            None => {
                let why = "it is missing there, or is not the null device, which an output leads to";
                return Err(io::Error::new(io::ErrorKind::NotFound, why));
            }
        }
    }
    Ok(())
}
