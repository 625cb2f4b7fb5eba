//! Paths inside the container's root that may not lead out of it.

use crate::wall;
use berth_model::wire::PROC_FILES;
use berth_sys::fs::{self, Kind, Open, Resolve};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Links stay inside the root, and those of /proc, which name open files of the host, are refused.
const INSIDE: fn() -> Resolve = || Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;

fn open(root: BorrowedFd<'_>, path: &[u8], flags: Open) -> io::Result<OwnedFd> {
    fs::openat2(root, OsStr::from_bytes(path), Open::PATH | flags, 0, INSIDE())
}

/// Opens a path that is there.
pub fn there(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(root, path, Open::NONE)
}

/// Opens a path for mounting on, and makes it when it is missing: folders 0755, at its end a folder or an empty file. A dangling link at
/// its end (images have /etc/resolv.conf lead to /run) is followed inside the root, and what it names is made.
///
/// Nothing comes over the kernel's own files in /proc, whatever links of the image lead to them: `EPERM`. Files of lxcfs may.
pub fn target(root: BorrowedFd<'_>, path: &[u8], folder: bool) -> io::Result<OwnedFd> {
    let found = found_or_made(root, path, folder)?;
    let lxcfs = || PROC_FILES.iter().any(|name| path.strip_prefix(b"/proc/") == Some(name.as_bytes()));
    if fs::is_proc(found.as_fd())? && !lxcfs() && !wall::is_down("proc") {
        return Err(io::Error::from_raw_os_error(EPERM));
    }
    wall::pause("pause-mounting");
    // As who looks at a path first and uses it then (CVE-2021-30465).
    if wall::is_down("race") { open(root, path, Open::NONE) } else { Ok(found) }
}

/// The folder that a path is in, made when it is missing, and the path's last name: what is made of them follows no link of the image.
pub fn parent<'p>(root: BorrowedFd<'_>, path: &'p [u8]) -> io::Result<(OwnedFd, &'p OsStr)> {
    if wall::is_down("nodes") {
        return Ok((root.try_clone_to_owned()?, OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path))));
    }
    let at = path.iter().rposition(|b| *b == b'/');
    let (folder, name) = at.map_or((&b"/"[..], path), |at| (if at == 0 { b"/" } else { &path[..at] }, &path[at + 1..]));
    if name.is_empty() || name == b"." || name == b".." {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    Ok((target(root, folder, true)?, OsStr::from_bytes(name)))
}

fn found_or_made(root: BorrowedFd<'_>, path: &[u8], folder: bool) -> io::Result<OwnedFd> {
    let mut path = path.to_vec();
    for _ in 0..MAX_LINKS {
        match open(root, &path, Open::NONE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let made = make(root, &path, folder);
        let Err(e) = &made else { return made };
        if e.kind() != io::ErrorKind::AlreadyExists {
            return made;
        }
        let Ok(link) = std::fs::read_link(Path::new(OsStr::from_bytes(&path))) else { return made };
        path = beside(&path, link.as_os_str().as_bytes());
    }
    Err(io::Error::from_raw_os_error(ELOOP))
}

/// Where a link at the end of `path` leads, as text: what this names is opened inside the root like every other path.
fn beside(path: &[u8], link: &[u8]) -> Vec<u8> {
    let folder = path.iter().rposition(|&b| b == b'/').map_or(&b""[..], |at| &path[..at]);
    let mut names: Vec<&[u8]> =
        if link.starts_with(b"/") { Vec::new() } else { folder.split(|&b| b == b'/').collect() };
    for name in link.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.retain(|name| !name.is_empty());
    [&b"/"[..], &names.join(&b'/')].concat()
}

fn make(root: BorrowedFd<'_>, path: &[u8], folder: bool) -> io::Result<OwnedFd> {
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
                // EEXIST here is a dangling link: nothing is made through links.
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

const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const ELOOP: i32 = 40;
/// Links behind each other; the kernel takes 40, images have one.
const MAX_LINKS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn links_lead_beside_their_folder_and_never_above_the_root() {
        for (path, link, leads) in [
            ("/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf"),
            ("/etc/resolv.conf", "/run/./resolv.conf", "/run/resolv.conf"),
            ("/etc/resolv.conf", "../../../../run/x", "/run/x"),
            ("/etc/a", "b", "/etc/b"),
            ("a", "b", "/b"),
            ("/a", "..", "/"),
        ] {
            assert_eq!(beside(path.as_bytes(), link.as_bytes()), leads.as_bytes(), "{path} -> {link}");
        }
    }
}
