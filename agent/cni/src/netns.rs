//! Paths for network namespaces: berth has them as descriptors, plugins want a name.
//!
//! The name is a mount, so that the namespace stays as long as a plugin has to give back something in it, also over the death and the upgrade of
//! the agent. It is there for containers on CNI networks only, and goes with their last attachment.

use crate::{Act, Cni, CniError};
use berth_model::ContainerId;
use berth_sys::mount;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

impl Cni {
    fn netns_path(&self, id: &ContainerId) -> PathBuf {
        self.config().netns_dir.join(id.as_str())
    }

    /// Gives a namespace its path, which it may have already. That of the container's last run goes.
    pub(crate) fn hold(&self, id: &ContainerId, netns: BorrowedFd<'_>) -> Result<PathBuf, CniError> {
        let dir = &self.config().netns_dir;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).act(|| format!("making {}", dir.display()))?;
        let path = self.netns_path(id);
        if same(&path, netns) {
            return Ok(path);
        }
        unmount(&path)?;
        let act = || format!("mounting a network namespace on {}", path.display());
        File::create(&path).act(act)?;
        let tree = mount::open_tree(Some(netns), Path::new(""), true, false).act(act)?;
        mount::move_mount(tree.as_fd(), &path).act(act)?;
        Ok(path)
    }

    /// The path is needed no more, unless an attachment is left. Gone already is fine.
    pub fn let_go(&self, id: &ContainerId) -> Result<(), CniError> {
        let _turn = self.turn(id);
        if self.has_any(id) { Ok(()) } else { unmount(&self.netns_path(id)) }
    }

    /// Containers whose namespaces have a path.
    pub fn held(&self) -> Vec<ContainerId> {
        let entries = fs::read_dir(&self.config().netns_dir).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
    }
}

/// Whether a path leads to this namespace.
fn same(path: &Path, netns: BorrowedFd<'_>) -> bool {
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    let there = fs::metadata(path).map(id).ok();
    let own = netns.try_clone_to_owned().and_then(|fd| File::from(fd).metadata()).map(id).ok();
    there.is_some() && there == own
}

fn unmount(path: &Path) -> Result<(), CniError> {
    // Once for each time that it was mounted: an agent may have died between the mount and anything else.
    while fs::symlink_metadata(path).is_ok() {
        match mount::umount(path, true) {
            Ok(()) => {}
            // Not mounted any more.
            Err(e) if e.kind() == ErrorKind::InvalidInput => break,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).act(|| format!("unmounting {}", path.display())),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).act(|| format!("removing {}", path.display())),
        _ => Ok(()),
    }
}
