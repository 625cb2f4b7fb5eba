//! Roots for containers in user namespaces: the same layers, seen through mounts that map their owners (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
//!
//! On the disk everything keeps the image's ids, in the layers as in what the container writes. Overlayfs itself cannot be mapped; its layers
//! can (Linux 5.19), so each gets a mapped mount of its own for the time that the overlay lives.

use crate::error::{Act, RootfsError};
use crate::overlay::{Lower, Lowers, MountOptions, Way, WritableLayer};
use crate::store::LayerStore;
use berth_sys::fs::{self as sysfs, Open};
use berth_sys::mount::{self as sysmount, AttrChange};
use berth_sys::userns;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whose ids the files of a root have on the host.
#[derive(Clone, Copy, Debug)]
pub struct Shift<'a> {
    /// A user namespace that has its ids.
    pub userns: BorrowedFd<'a>,
    /// The host's numbers of its root.
    pub uid: u32,
    pub gid: u32,
}

impl Shift<'_> {
    /// A detached mount of what `of` is open on, mapped.
    pub fn tree(&self, of: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let tree = sysmount::open_tree(Some(of), Path::new(""), true, false)?;
        let change = AttrChange { idmap: Some(self.userns), ..AttrChange::default() };
        sysmount::mount_setattr(tree.as_fd(), change)?;
        Ok(tree)
    }
}

/// The folders of a container's own writes, open.
pub(crate) struct UpperFolders {
    pub upper: OwnedFd,
    pub work: OwnedFd,
    _mount: Lower,
}

impl Lowers {
    /// A mapped mount of what `fd` is open on; kernels that take no detached ones get it attached.
    pub(crate) fn shifted(&self, fd: BorrowedFd<'_>, opaque: bool, shift: Shift<'_>) -> io::Result<Lower> {
        let mut lower = Lower { fd: shift.tree(fd)?, attached: None, opaque };
        if self.way() != Way::Descriptors {
            let folder = self.folder()?;
            sysmount::move_mount(lower.fd.as_fd(), &folder)?;
            lower.attached = Some(folder);
        }
        Ok(lower)
    }

    /// A folder by a mount of its own. Overlayfs says in the container's mountinfo where its folders are, as the mount has it that they came by:
    /// by the host's that is a path of the host, by this one `/`.
    pub(crate) fn alone(&self, folder: OwnedFd) -> io::Result<OwnedFd> {
        if self.way() != Way::Descriptors {
            return Ok(folder);
        }
        match sysmount::open_tree(Some(folder.as_fd()), Path::new(""), true, false) {
            // Of an unbindable mount.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(folder),
            other => other,
        }
    }

    pub(crate) fn upper(&self, layer: &WritableLayer, shift: Option<Shift<'_>>) -> io::Result<UpperFolders> {
        // One mount for both: overlayfs wants them on the same.
        let dir = layer.upper().parent().unwrap_or(Path::new("/"));
        let dir = sysfs::open(dir, Open::PATH | Open::DIRECTORY, 0)?;
        let mount = match shift {
            Some(shift) => self.shifted(dir.as_fd(), false, shift)?,
            None => Lower { fd: self.alone(dir)?, attached: None, opaque: false },
        };
        let folder = |name| sysfs::openat(mount.fd.as_fd(), name, Open::DIRECTORY | Open::NOFOLLOW, 0);
        Ok(UpperFolders { upper: folder("upper")?, work: folder("work")?, _mount: mount })
    }
}

impl LayerStore {
    /// Whether roots can be mapped here: makes one of an empty layer in `dir`, which is made and removed, and writes into it.
    ///
    /// # Errors
    /// What cannot be done, and what the kernel says.
    pub fn probe_shift(&self, dir: &Path, shift: Shift<'_>) -> Result<(), RootfsError> {
        let probed = self.probe_in(dir, shift);
        let removed = WritableLayer::remove(dir);
        probed.and(removed)
    }

    fn probe_in(&self, dir: &Path, shift: Shift<'_>) -> Result<(), RootfsError> {
        let layer = WritableLayer::create(dir)?;
        let root = self.mount(&[], &layer, MountOptions { shift: Some(shift), ..MountOptions::default() })?;
        let act = || "writing into a mapped root".to_owned();
        let made = userns::as_file_user(shift.uid, shift.gid, || sysfs::mkdirat(root.as_fd(), "probe", 0o755));
        made.and_then(|made| made).act(act)?;
        let seen = sysfs::lstatat(root.as_fd(), "probe").act(act)?;
        let stored = fs::symlink_metadata(layer.upper().join("probe")).act(act)?;
        if (seen.uid, seen.gid) != (shift.uid, shift.gid) || (stored.uid(), stored.gid()) != (0, 0) {
            let said = format!("its owner is {} and on the disk {}", seen.uid, stored.uid());
            return Err(io::Error::other(said)).act(act);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Driver;
    use berth_sys::userns::UserNamespace;

    #[test]
    fn every_way_of_mounting_maps() {
        let dir = std::env::temp_dir().join(format!("berth-shift-{}", std::process::id()));
        let store = LayerStore::open(&dir, Driver::Directory).expect("store");
        let (mut users, _) = UserNamespace::create(false).expect("needs root");
        users.map("0 300000 65536\n", "0 300000 65536\n").expect("mapped");
        let shift = Shift { userns: users.as_fd(), uid: 300_000, gid: 300_000 };
        for way in [Way::Descriptors, Way::Paths, Way::Classic] {
            store.lowers().set_way(way);
            store.probe_shift(&dir.join("probe"), shift).unwrap_or_else(|e| panic!("{way:?}: {e}"));
            assert_eq!(fs::read_dir(dir.join("mounts")).expect("mounts").count(), 0, "{way:?}");
        }
        drop(store);
        crate::remove_tree(&dir).expect("removed");
    }
}
