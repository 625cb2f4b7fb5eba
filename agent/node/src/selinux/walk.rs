//! Sets an extended attribute of a file, or of a folder and all below it: by descriptors, one step at a time, so that no path grows too long and
//! nothing that is mounted below is touched.

use berth_sys::fs::{self as sysfs, DirEntry, Kind, Open, Resolve};
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Folders within each other, of which each is open while those in it are done: what is deeper keeps what it has. Twice what the longest path
/// with names of four letters has, and a small part of the descriptors that an agent may have.
const DEPTH: usize = 1024;
const EOPNOTSUPP: i32 = 95;
const EROFS: i32 = 30;

/// What could not be done.
pub(super) struct Failed {
    /// From the top.
    pub path: String,
    pub source: io::Error,
}

/// A folder on the way down.
struct Level {
    folder: OwnedFd,
    name: std::ffi::OsString,
    /// Read and not done yet.
    entries: Vec<DirEntry>,
}

impl Level {
    /// `None`: it is done.
    fn next(&mut self) -> io::Result<Option<DirEntry>> {
        if self.entries.is_empty() {
            self.entries = sysfs::read_dir(self.folder.as_fd(), 1024)?;
        }
        Ok(self.entries.pop())
    }
}

/// How many folders lie too deep and keep what they have.
///
/// The top comes last, so that one that has the value was done to its end. No link is followed, and nothing of another mount is touched, be it a
/// folder or a file: it may be the host's own. What goes meanwhile is passed over.
pub(super) fn set_all(top: BorrowedFd<'_>, key: &CStr, value: &[u8]) -> Result<u64, Failed> {
    let at_top = |source| Failed { path: ".".to_owned(), source };
    let mut too_deep = 0;
    let mut levels = Vec::new();
    if sysfs::fstat(top).map_err(at_top)?.kind == Kind::Directory {
        levels.extend(open(top, OsStr::new(".")).map_err(at_top)?);
    }
    while let Some(level) = levels.last_mut() {
        let failed = |levels: &[Level], name: &OsStr, source| {
            let path: PathBuf = levels.iter().map(|l| &*l.name).chain([name]).collect();
            Failed { path: path.display().to_string(), source }
        };
        let entry = match level.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                levels.pop();
                continue;
            }
            Err(e) => return Err(failed(&levels, OsStr::new(""), e)),
        };
        match set(level.folder.as_fd(), &entry.name, key, value) {
            Ok(()) => {}
            Err(e) if is_passed_over(&e) => continue,
            Err(e) => return Err(failed(&levels, &entry.name, e)),
        }
        // What the file system does not tell the kind of is tried.
        if !matches!(entry.kind, Kind::Directory | Kind::Unknown) {
            continue;
        }
        match open(level.folder.as_fd(), &entry.name) {
            Ok(Some(_)) if levels.len() >= DEPTH => too_deep += 1,
            Ok(below) => levels.extend(below),
            Err(e) => return Err(failed(&levels, &entry.name, e)),
        }
    }
    sysfs::setxattr_of(top, key, value).map_err(at_top)?;
    Ok(too_deep)
}

/// EXDEV, which is passed over, where something is mounted at the name.
const HOW: [Resolve; 4] = [Resolve::BENEATH, Resolve::NO_SYMLINKS, Resolve::NO_MAGICLINKS, Resolve::NO_XDEV];

fn at(folder: BorrowedFd<'_>, name: &OsStr, flags: Open) -> io::Result<OwnedFd> {
    let how = HOW.into_iter().fold(Resolve::NONE, |all, one| all | one);
    sysfs::openat2(folder, name, flags, 0, how)
}

/// A link is itself, whatever it leads to.
fn set(folder: BorrowedFd<'_>, name: &OsStr, key: &CStr, value: &[u8]) -> io::Result<()> {
    let file = at(folder, name, Open::PATH | Open::NOFOLLOW)?;
    sysfs::setxattr_of(file.as_fd(), key, value)
}

/// `None`: it is no folder (any more), or one of another mount.
fn open(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Level>> {
    match at(folder, name, Open::RDONLY | Open::DIRECTORY | Open::NOFOLLOW | Open::NONBLOCK) {
        Err(e) if is_passed_over(&e) || sysfs::is_link_loop(&e) => Ok(None),
        other => other.map(|folder| Some(Level { folder, name: name.to_owned(), entries: Vec::new() })),
    }
}

fn is_passed_over(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::CrossesDevices)
        || is_unlabelled(e)
}

/// Its file system has no such attributes, or is read-only.
pub(super) fn is_unlabelled(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(EOPNOTSUPP | EROFS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs::{create_dir, create_dir_all, write};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// Root's, and taken by links and pipes, too: without SELinux it shows whose attribute is set.
    const KEY: &CStr = c"trusted.berth-walk";

    fn value(path: &Path) -> Option<Vec<u8>> {
        let folder = sysfs::open(path.parent().unwrap(), Open::PATH, 0).unwrap();
        sysfs::lgetxattrat(folder.as_fd(), path.file_name().unwrap(), KEY).unwrap()
    }

    fn walk(top: &Path) -> Result<u64, Failed> {
        set_all(sysfs::open(top, Open::PATH, 0).unwrap().as_fd(), KEY, b"v")
    }

    /// Whether this test may do it: as root, on a file system that has such attributes.
    fn may(top: &Path) -> bool {
        let may = walk(top).is_ok();
        if !may {
            eprintln!("left out: no trusted attributes here");
        }
        may
    }

    #[test]
    fn everything_below_is_done_and_no_link_followed() {
        let dir = TempDir::new("walk-all");
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        create_dir_all(top.join("a/b")).unwrap();
        write(top.join("a/b/file"), "").unwrap();
        write(&outside, "").unwrap();
        symlink(&outside, top.join("link")).unwrap();
        symlink("/", top.join("a/root")).unwrap();
        let fd = sysfs::open(&top, Open::PATH, 0).unwrap();
        sysfs::mknodat(fd.as_fd(), "pipe", Kind::Fifo, 0o600, 0, 0).unwrap();
        if !may(&top) {
            return;
        }
        for name in ["a", "a/b", "a/b/file", "link", "a/root", "pipe", "../top"] {
            assert_eq!(value(&top.join(name)).as_deref(), Some(&b"v"[..]), "{name}");
        }
        assert_eq!(value(&outside), None);
        // One file alone.
        write(top.join("one"), "").unwrap();
        walk(&top.join("one")).ok().unwrap();
        assert_eq!(value(&top.join("one")).as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn what_is_mounted_below_is_left_alone() {
        let dir = TempDir::new("walk-mounts");
        let (top, host) = (dir.path().join("top"), dir.path().join("host"));
        create_dir(&top).unwrap();
        create_dir(top.join("folder")).unwrap();
        create_dir(&host).unwrap();
        write(host.join("file"), "").unwrap();
        write(top.join("file"), "").unwrap();
        if !may(&top) {
            return;
        }
        let mount = |from: &Path, to: &Path| {
            std::process::Command::new("mount").arg("--bind").args([from, to]).status().is_ok_and(|s| s.success())
        };
        if !mount(&host.join("file"), &top.join("file")) {
            eprintln!("left out: nothing can be mounted here");
            return;
        }
        let folder = mount(&host, &top.join("folder"));
        let walked = walk(&top);
        for name in ["file", "folder"] {
            let _ = std::process::Command::new("umount").arg(top.join(name)).status();
        }
        assert!(folder && walked.is_ok());
        assert_eq!((value(&host.join("file")), value(&host)), (None, None), "the host's own was changed");
    }

    #[test]
    fn deep_folders_are_no_obstacle() {
        let dir = TempDir::new("walk-deep");
        let top = dir.path().join("top");
        create_dir(&top).unwrap();
        if !may(&top) {
            return;
        }
        // Deeper than a path is long, and then deeper than the bound.
        let name = "n".repeat(200);
        let mut folder = sysfs::open(&top, Open::RDONLY | Open::DIRECTORY, 0).unwrap();
        for n in 0..DEPTH + 10 {
            let name = if n < 30 { &*name } else { "n" };
            sysfs::mkdirat(folder.as_fd(), name, 0o700).unwrap();
            folder = sysfs::openat(folder.as_fd(), name, Open::RDONLY | Open::DIRECTORY, 0).unwrap();
            if n == 40 {
                sysfs::mkdirat(folder.as_fd(), "seen", 0o700).unwrap();
            }
        }
        assert_eq!(walk(&top).ok(), Some(1));
        let mut folder = sysfs::open(&top, Open::RDONLY | Open::DIRECTORY, 0).unwrap();
        for n in 0..=40 {
            let name = if n < 30 { &*name } else { "n" };
            folder = sysfs::openat(folder.as_fd(), name, Open::RDONLY | Open::DIRECTORY, 0).unwrap();
        }
        let seen = sysfs::lgetxattrat(folder.as_fd(), "seen", KEY).unwrap();
        assert_eq!(seen.as_deref(), Some(&b"v"[..]));
        // Too deep for remove_dir_all by paths of others; rm(1) walks by descriptors.
        std::process::Command::new("rm").arg("-rf").arg(&top).status().unwrap();
    }
}
