//! How much a folder tree takes that others write into meanwhile.

use crate::error::{Act, RootfsError};
use berth_sys::fs::{self as sysfs, Kind, Open};
use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Names read at a time: bounds the memory for folders of millions.
const BATCH: usize = 256;
/// Files with several names are remembered so that they count once; beyond so many, further ones count with each name.
const LINKS_MAX: usize = 1 << 18;
/// Folders open at once on the way down; deeper ones are not looked into.
const DEPTH_MAX: usize = 512;
const FOLDER: Open = Open::DIRECTORY;

/// Bytes of the files below `dir`: what they hold or what they take on the disk, whichever is less (files may have holes). Folders
/// count nothing, files with several names once. Never follows links, never leaves the file system of `dir`. Gone already: 0.
///
/// # Errors
/// `Io` with `Interrupted` when `cancel` is set meanwhile; folders that vanish while it looks are no error.
pub fn tree_bytes(dir: &Path, cancel: &AtomicBool) -> Result<u64, RootfsError> {
    let act = || format!("counting the bytes of {}", dir.display());
    let top = match sysfs::open(dir, FOLDER | Open::NOFOLLOW, 0) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.act(act)?,
    };
    let device = sysfs::fstat(top.as_fd()).act(act)?.dev;
    let mut count = Count { device, bytes: 0, links: HashSet::new() };
    let mut levels = vec![Level { folder: top, inside: Vec::new(), read: false }];
    while let Some(level) = levels.last_mut() {
        if cancel.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::Interrupted)).act(act);
        }
        if let Some(name) = level.inside.pop() {
            let next = sysfs::openat(level.folder.as_fd(), &name, FOLDER | Open::NOFOLLOW, 0);
            // Gone or replaced meanwhile.
            let Ok(folder) = next else { continue };
            if levels.len() < DEPTH_MAX && sysfs::fstat(folder.as_fd()).is_ok_and(|s| s.dev == device) {
                levels.push(Level { folder, inside: Vec::new(), read: false });
            }
        } else if level.read {
            levels.pop();
        } else {
            level.read = count.batch(level).act(act)?;
        }
    }
    Ok(count.bytes)
}

struct Level {
    folder: OwnedFd,
    /// Folders in it that are still to be looked into.
    inside: Vec<OsString>,
    read: bool,
}

struct Count {
    device: u64,
    bytes: u64,
    links: HashSet<u64>,
}

impl Count {
    /// Counts the next names of a folder. true: there are no more.
    fn batch(&mut self, level: &mut Level) -> io::Result<bool> {
        let entries = match sysfs::read_dir(level.folder.as_fd(), BATCH) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            entries => entries?,
        };
        let last = entries.is_empty();
        for entry in entries {
            let Ok(stat) = sysfs::lstatat(level.folder.as_fd(), &entry.name) else { continue };
            if stat.kind == Kind::Directory {
                level.inside.push(entry.name);
            } else if stat.dev == self.device && (stat.nlink < 2 || self.is_new(stat.ino)) {
                self.bytes += stat.size.min(stat.blocks.saturating_mul(512));
            }
        }
        Ok(last)
    }

    fn is_new(&mut self, inode: u64) -> bool {
        self.links.len() >= LINKS_MAX || self.links.insert(inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_count_once_and_links_are_not_followed() {
        let dir = std::env::temp_dir().join(format!("berth-usage-{}", std::process::id()));
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), vec![7; 10_000]).unwrap();
        fs::hard_link(dir.join("a/b/file"), dir.join("again")).unwrap();
        std::os::unix::fs::symlink("/usr", dir.join("usr")).unwrap();
        fs::File::create(dir.join("hole")).unwrap().set_len(1 << 30).unwrap();
        for n in 0..600 {
            fs::write(dir.join(format!("a/{n}")), b"x").unwrap();
        }
        let go = AtomicBool::new(false);
        let bytes = tree_bytes(&dir, &go).unwrap();
        assert!((10_600..10_600 + 4096).contains(&bytes), "{bytes}");
        assert_eq!(tree_bytes(&dir.join("none"), &go).unwrap(), 0);
        assert!(tree_bytes(&dir, &AtomicBool::new(true)).is_err(), "cancelled");
        fs::remove_dir_all(&dir).unwrap();
    }
}
