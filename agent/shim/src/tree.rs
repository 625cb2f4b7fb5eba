//! Paths inside the container's root that may not lead out of it.

use berth_sys::fs::{self, Kind, Open, Resolve};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Links stay inside the root, and those of /proc, which name open files of the host, are refused.
const INSIDE: fn() -> Resolve = || Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;

fn open(root: BorrowedFd<'_>, path: &[u8], flags: Open) -> io::Result<OwnedFd> {
    fs::openat2(root, OsStr::from_bytes(path), Open::PATH | flags, 0, INSIDE())
}

/// Opens a path that is there.
pub fn there(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(root, path, Open::NONE)
}

/// Opens a path for mounting on, and makes it when it is missing: folders 0755, at its end a folder or an empty file.
pub fn target(root: BorrowedFd<'_>, path: &[u8], folder: bool) -> io::Result<OwnedFd> {
    match open(root, path, Open::NONE) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut dir = open(root, b"/", Open::NONE)?;
    let mut walked = Vec::with_capacity(path.len());
    let mut names = path.split(|&b| b == b'/').filter(|n| !n.is_empty() && *n != b".").peekable();
    while let Some(name) = names.next() {
        if name == b".." {
            // The kernel would take it inside the root, but what is missing behind it cannot be made safely.
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        walked.push(b'/');
        walked.extend_from_slice(name);
        let last = names.peek().is_none();
        dir = match open(root, &walked, Open::NONE) {
            Ok(next) => next,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let name = OsStr::from_bytes(name);
                // EEXIST here is a dangling link: an error, because nothing is made through links.
                if last && !folder {
                    fs::openat(dir.as_fd(), name, Open::WRONLY | Open::CREATE | Open::EXCL | Open::NOFOLLOW, 0o644)?;
                } else {
                    fs::mkdirat(dir.as_fd(), name, 0o755)?;
                }
                fs::openat(dir.as_fd(), name, Open::PATH | Open::NOFOLLOW, 0)?
            }
            Err(e) => return Err(e),
        };
    }
    Ok(dir)
}

/// Is what the descriptor names a folder?
pub fn is_folder(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fs::fstat(fd)?.kind == Kind::Directory)
}

const EINVAL: i32 = 22;
