//! Volumes of a container that does not run, hung into its root for those who copy files from and to it, as Docker does.

use super::using::{Filling, ready, volumes_of};
use crate::NodeError;
use crate::container::Container;
use crate::node::Inner;
use berth_model::spec::{Mount, MountKind};
use berth_rootfs::RootMount;
use berth_sys::fs::{self as sysfs, Open, Resolve};
use berth_sys::mount;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The volumes that are in use by that. Dropped behind the root.
pub(crate) struct Hung {
    inner: Arc<Inner>,
    container: Arc<Container>,
}

impl Drop for Hung {
    fn drop(&mut self) {
        let record = self.container.record();
        for (_, wanted) in volumes_of(&record.spec) {
            let volume = {
                let mut table = self.inner.volumes.lock();
                let Some(entry) = table.get_mut(&wanted.name) else { continue };
                entry.mounted.remove(&self.container.id);
                entry.volume.clone()
            };
            if let Some(volume) = volume {
                super::detach_idle(&self.inner, &volume);
            }
        }
    }
}

/// Hangs the volumes into the root of a container that nobody can start meanwhile; blocking. With the root that has them, and the targets of mounts
/// that are not there then: folders of the host, images and tmpfs, which a run gets only, and volumes that cannot be reached now.
pub(crate) fn hang(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    root: &RootMount,
) -> Result<(OwnedFd, Hung, Vec<String>), NodeError> {
    let record = container.record();
    let hung = Hung { inner: inner.clone(), container: container.clone() };
    let mut mounts: Vec<&Mount> = record.spec.mounts.iter().collect();
    // What lies in another one comes behind it.
    mounts.sort_by_key(|m| names(&m.target).count());
    if record.starts == 0 {
        // As its first start would fill them, before anything hides what the image has.
        for (mount, wanted) in volumes_of(&record.spec).filter(|(_, wanted)| !wanted.no_copy) {
            if let Err(error) = ready(inner, &container.id, wanted, Some((Filling::Root(root.as_fd()), &mount.target)))
            {
                tracing::debug!(volume = wanted.name, %error, "not filled for a copy");
            }
        }
    }
    let mut absent = Vec::new();
    let mut trees = Vec::new();
    for mount in mounts {
        let tree = match &mount.kind {
            MountKind::Tmpfs { .. } | MountKind::Bind { .. } | MountKind::Image(_) => None,
            MountKind::Volume(wanted) => ready(inner, &container.id, wanted, None)
                .and_then(|place| Ok(place.tree(wanted.subpath.as_deref(), mount.read_only)?))
                .inspect_err(|error| tracing::debug!(volume = wanted.name, %error, "not there for a copy"))
                .ok(),
        };
        match tree {
            Some(tree) => trees.push((&mount.target, tree)),
            None => absent.push(mount.target.clone()),
        }
    }
    if trees.is_empty() {
        return Ok((root.fd()?, hung, absent));
    }
    let mount_all = |root: BorrowedFd<'_>| {
        let failed = trees.iter().filter_map(|(target, tree)| Some((*target, mount_at(root, target, tree).err()?)));
        failed.map(|(target, error)| (target.clone(), error)).collect::<Vec<_>>()
    };
    let (furnished, failed) = mount::furnish(root.as_fd(), mount_all)
        .map_err(NodeError::io(format!("mounting the volumes of {}", record.name)))?;
    for (target, error) in failed {
        tracing::debug!(target, %error, "not there for a copy");
        absent.push(target);
    }
    Ok((furnished, hung, absent))
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|n| !n.is_empty() && *n != ".")
}

/// Makes what is missing of the target, as a start does.
fn mount_at(root: BorrowedFd<'_>, target: &str, tree: &OwnedFd) -> Result<(), NodeError> {
    let act = |what: &str| NodeError::io(format!("{what} {target} in the container"));
    let how = Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;
    let mut at = sysfs::openat2(root, ".", Open::PATH | Open::DIRECTORY, 0, how).map_err(act("opening"))?;
    let mut path = String::from(".");
    for name in names(target) {
        path = format!("{path}/{name}");
        at = match sysfs::openat2(root, &path, Open::PATH, 0, how) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                sysfs::mkdirat(at.as_fd(), name, 0o755).map_err(act("making"))?;
                sysfs::openat2(root, &path, Open::PATH, 0, how).map_err(act("opening"))?
            }
            found => found.map_err(act("opening"))?,
        };
    }
    mount::move_mount_to_fd(tree.as_fd(), at.as_fd()).map_err(act("mounting a volume on"))
}
