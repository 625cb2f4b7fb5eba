//! Removing folder trees that others wrote.

use crate::error::{Act, RootfsError};
use berth_sys::fs::{self as sysfs, Kind, Open};
use berth_sys::mount::is_mount_root;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Names read at a time: bounds the memory for folders of millions.
const BATCH: usize = 256;
const FOLDER: Open = Open::DIRECTORY;

/// Removes a folder tree that a container wrote (deep, odd names, immutable flags): never follows links, never leaves `dir`, refuses what
/// is mounted in it. Gone already is fine.
pub fn remove_tree(dir: &Path) -> Result<(), RootfsError> {
    let act = || format!("removing {}", dir.display());
    // The empty case: one call. A folder that only holds other things answers with ENOTEMPTY.
    match std::fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return std::fs::remove_file(dir).act(act),
        Err(_) => {}
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = dir.file_name().ok_or(io::Error::from(io::ErrorKind::InvalidInput)).act(act)?;
    let parent = sysfs::open(parent, FOLDER | Open::PATH, 0).act(act)?;
    remove_below(parent.as_fd(), name, dir)
}

/// Removes the folder `name` of `parent`; `shown` is for errors.
pub fn remove_below(parent: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<(), RootfsError> {
    let act = || format!("removing {}", shown.display());
    let Some(mut at) = enter(parent, name, shown)? else { return Ok(()) };
    // One descriptor is open; the way back is `..`, which is checked, since a folder that was moved away meanwhile leads elsewhere.
    let mut levels: Vec<Level> = Vec::new();
    let mut pending = Vec::new();
    loop {
        if pending.is_empty() {
            pending = empty(&at, shown)?;
        }
        if let Some(child) = pending.pop() {
            let parent = identity(at.as_fd()).act(act)?;
            let Some(next) = enter(at.as_fd(), &child, shown)? else { continue };
            levels.push(Level { name: child, parent, pending: std::mem::take(&mut pending) });
            at = next;
            continue;
        }
        let Some(level) = levels.pop() else { break };
        let up = sysfs::openat(at.as_fd(), "..", FOLDER, 0).act(act)?;
        if identity(up.as_fd()).act(act)? != level.parent {
            return Err(io::Error::other("a folder was moved away meanwhile")).act(act);
        }
        // Closed first: a folder that is removed while open stays in the kernel's cache below its parent.
        at = up;
        unlink(at.as_fd(), &level.name, true, shown)?;
        pending = level.pending;
    }
    drop(at);
    unlink(parent, name, true, shown)
}

/// A folder on the way from the top to the one that is being emptied.
struct Level {
    name: OsString,
    /// Device and inode of the folder above.
    parent: (u64, u64),
    /// Its brothers that are to be emptied after it.
    pending: Vec<OsString>,
}

fn identity(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    sysfs::fstat(fd).map(|s| (s.dev, s.ino))
}

/// Whether links are followed: only where a test wants to see what comes of it (CVE-2024-23652).
fn follows() -> bool {
    berth_sys::wall::is_down("removal")
}

/// Opens a folder to be emptied. `None`: it is gone.
fn enter(parent: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<Option<OwnedFd>, RootfsError> {
    let links = if follows() { Open::NONE } else { Open::NOFOLLOW };
    match sysfs::openat(parent, name, FOLDER | links, 0) {
        Ok(fd) => {
            // Linux before 5.8 cannot tell, and unlinking a mount point fails with EBUSY there too.
            if is_mount_root(fd.as_fd()).unwrap_or(false) {
                return Err(RootfsError::MountPoint(shown.join(name)));
            }
            Ok(Some(fd))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).act(|| format!("opening {:?} to remove {}", name, shown.display())),
    }
}

/// Unlinks what is no folder, and empty folders; gives some folders that are not empty. None: the folder is empty now.
fn empty(dir: &OwnedFd, shown: &Path) -> Result<Vec<OsString>, RootfsError> {
    let act = || format!("removing {}", shown.display());
    loop {
        sysfs::rewind_dir(dir.as_fd()).act(act)?;
        let entries = sysfs::read_dir(dir.as_fd(), BATCH).act(act)?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut full = Vec::new();
        for entry in entries {
            let kind = match entry.kind {
                Kind::Unknown => sysfs::lstatat(dir.as_fd(), &entry.name).act(act)?.kind,
                known => known,
            };
            if kind != Kind::Directory && !(kind == Kind::Symlink && follows()) {
                unlink(dir.as_fd(), &entry.name, false, shown)?;
            } else if sysfs::unlinkat(dir.as_fd(), &entry.name, true).is_err() {
                full.push(entry.name);
            }
        }
        if !full.is_empty() {
            return Ok(full);
        }
    }
}

/// Unlinks one name; immutable and append-only flags, of it and of its folder, are taken off first where they are in the way.
fn unlink(dir: BorrowedFd<'_>, name: &OsStr, folder: bool, shown: &Path) -> Result<(), RootfsError> {
    let result = match sysfs::unlinkat(dir, name, folder) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            // Flags can be read of regular files and folders only; others have none. O_NONBLOCK: never wait for a fifo.
            let open = Open::RDONLY | Open::NOFOLLOW | Open::NONBLOCK;
            let regular = sysfs::lstatat(dir, name).is_ok_and(|s| matches!(s.kind, Kind::Regular | Kind::Directory));
            if regular && let Ok(fd) = sysfs::openat(dir, name, open, 0) {
                let _ = sysfs::clear_immutable(fd.as_fd());
            }
            if let Ok(fd) = sysfs::openat(dir, ".", FOLDER, 0) {
                let _ = sysfs::clear_immutable(fd.as_fd());
            }
            sysfs::unlinkat(dir, name, folder)
        }
        other => other,
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Err(RootfsError::MountPoint(shown.join(name))),
        other => other.act(|| format!("removing {:?} in {}", name, shown.display())),
    }
}
