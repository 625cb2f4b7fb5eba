//! Paths inside the container's root, before that is entered: every one is resolved by openat2(2) below the root's descriptor.

use berth_sys::fs::{self, Kind, Open, Resolve};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Links behind each other; the kernel takes 40, images have one.
const MAX_LINKS: u32 = 8;
const EINVAL: i32 = 22;
const ELOOP: i32 = 40;

/// Links stay inside the root, and those of /proc, which name open files, are refused.
fn open(root: BorrowedFd<'_>, path: &str, flags: Open) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "/" } else { path };
    fs::openat2(root, path, Open::PATH | flags, 0, Resolve::IN_ROOT | Resolve::NO_MAGICLINKS)
}

/// Opens a path that is there.
pub fn there(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    open(root, path, Open::NONE)
}

/// Opens a path that is there; a link in its place, or on the way to it, is `ELOOP`.
pub fn no_link(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    fs::openat2(root, path, Open::PATH | Open::NOFOLLOW, 0, Resolve::IN_ROOT | Resolve::NO_SYMLINKS)
}

/// Opens a path for mounting on, and makes it when it is missing: folders 0755, at its end a folder or an empty file. A dangling link is
/// followed inside the root, and what it names is made.
pub fn target(root: BorrowedFd<'_>, path: &str, folder: bool) -> io::Result<OwnedFd> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match open(root, &path, Open::NONE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        match make(root, &path, folder)? {
            Made::Whole(fd) => return Ok(fd),
            Made::Link(next) => path = next,
        }
    }
    Err(io::Error::from_raw_os_error(ELOOP))
}

enum Made {
    Whole(OwnedFd),
    /// A link that leads to nothing is on the way: the path behind it.
    Link(String),
}

fn make(root: BorrowedFd<'_>, path: &str, folder: bool) -> io::Result<Made> {
    let mut dir = open(root, "/", Open::NONE)?;
    let mut walked = String::new();
    let names: Vec<&str> = path.split('/').filter(|n| !n.is_empty() && *n != ".").collect();
    for (i, name) in names.iter().enumerate() {
        if *name == ".." {
            // The kernel would take it inside the root, but what is missing behind it cannot be made safely.
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        let before = walked.clone();
        walked = format!("{walked}/{name}");
        dir = match open(root, &walked, Open::NONE) {
            Ok(next) => next,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Ok(link) = fs::readlinkat(dir.as_fd(), name) {
                    let link = link.to_str().ok_or_else(|| io::Error::from_raw_os_error(EINVAL))?;
                    let rest = names[i + 1..].join("/");
                    return Ok(Made::Link(format!("{}/{rest}", beside(&before, link))));
                }
                let last = i + 1 == names.len();
                if last && !folder {
                    let flags = Open::WRONLY | Open::CREATE | Open::EXCL | Open::NOFOLLOW;
                    fs::openat(dir.as_fd(), name, flags, 0o644)?;
                } else {
                    // The umask is 0. No chmod by name behind it: a container that has this volume, too, could have put a link to a file of
                    // the host's in its place, which is followed from the host's root.
                    fs::mkdirat(dir.as_fd(), name, 0o755)?;
                }
                fs::openat(dir.as_fd(), name, Open::PATH | Open::NOFOLLOW, 0)?
            }
            Err(e) => return Err(e),
        };
    }
    Ok(Made::Whole(dir))
}

/// Where a link in `folder` leads, as text: what this names is opened inside the root like every other path.
fn beside(folder: &str, link: &str) -> String {
    let mut names: Vec<&str> = if link.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    for name in link.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.retain(|name| !name.is_empty());
    format!("/{}", names.join("/"))
}

/// The folder that holds `path`, made when it is missing, and the last name.
pub fn parent<'a>(root: BorrowedFd<'_>, path: &'a str) -> io::Result<(OwnedFd, &'a OsStr)> {
    let trimmed = path.trim_end_matches('/');
    let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    Ok((target(root, folder, true)?, OsStr::from_bytes(name.as_bytes())))
}

pub fn is_folder(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fs::fstat(fd)?.kind == Kind::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_beside_their_folder_and_never_above_the_root() {
        for (folder, link, leads) in [
            ("/etc", "../run/resolv.conf", "/run/resolv.conf"),
            ("/etc", "/run/./x", "/run/x"),
            ("/etc", "../../../run/x", "/run/x"),
            ("", "b", "/b"),
            ("/a", "..", "/"),
        ] {
            assert_eq!(beside(folder, link), leads, "{folder} -> {link}");
        }
    }

    /// A neighbour that has the volume, too, waits for the folder and puts a link to a file of the host's in its place.
    #[test]
    fn a_link_that_takes_a_new_folder_s_place_is_not_followed() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        use std::sync::atomic::{AtomicBool, Ordering};
        let at = std::env::temp_dir().join(format!("berth-oci-race-{}", std::process::id()));
        let root = at.join("root");
        std::fs::create_dir_all(&root).unwrap();
        let secret = at.join("secret");
        std::fs::write(&secret, "").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (link, place) = (root.join("link"), root.join("cache"));
        symlink(&secret, &link).unwrap();
        let fd = OwnedFd::from(std::fs::File::open(&root).unwrap());
        let (over, mut swapped) = (AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = fs::exchange(&link, &place);
                }
            });
            for _ in 0..2000 {
                let _ = target(fd.as_fd(), "/cache", true);
                // Both are there, in either order.
                let folder = if place.is_symlink() { &link } else { &place };
                swapped += u32::from(folder == &link);
                // The other thread may exchange them between the look and the act.
                while std::fs::remove_dir(&link).is_err() && std::fs::remove_dir(&place).is_err() {}
                let _ = std::fs::rename(&place, &link);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(swapped > 0, "the neighbour was never fast enough");
        assert_eq!(std::fs::metadata(&secret).unwrap().mode() & 0o7777, 0o600);
        std::fs::remove_dir_all(at).unwrap();
    }

    #[test]
    fn what_is_missing_is_made_inside() {
        let at = std::env::temp_dir().join(format!("berth-oci-tree-{}", std::process::id()));
        let root = at.join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        symlink("../../../../../outside/file", root.join("etc/out")).unwrap();
        symlink("/run/deep", root.join("link")).unwrap();
        let fd = OwnedFd::from(std::fs::File::open(&root).unwrap());
        target(fd.as_fd(), "/etc/out", false).unwrap();
        assert!(root.join("outside/file").is_file() && !at.join("outside").exists());
        target(fd.as_fd(), "/link/more", true).unwrap();
        assert!(root.join("run/deep/more").is_dir());
        assert!(target(fd.as_fd(), "/nothing/../x", true).is_err());
        assert!(
            no_link(fd.as_fd(), "/link").is_ok_and(|f| !is_folder(f.as_fd()).unwrap())
                || no_link(fd.as_fd(), "/link").is_err()
        );
        std::fs::remove_dir_all(at).unwrap();
    }
}
