//! Bind mounts of callers who may name only some folders of the host.
//!
//! What lies in these folders may be changed by containers that have them, at any time: a link there must not lead out of them, neither
//! when a container is made nor when it is started again later. So it is opened anew at every start, and what was opened has to be in the folder.

use crate::NodeError;
use berth_model::ContainerSpec;
use berth_model::spec::{Mount, MountKind, Propagation};
use berth_sys::fs::Open;
use berth_sys::mount::{self as sysmount, AttrChange, MountAttr, Peers};
use berth_volume::held::Shared;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A spec whose binds are all held that go through one of `folders`, whoever made them; `None`: that changes nothing.
pub(crate) fn all_held(folders: &Shared, spec: &ContainerSpec) -> Option<ContainerSpec> {
    let place = |mount: &Mount| match &mount.kind {
        MountKind::Bind { source, .. } => folders.of(Path::new(source)).map(|folder| folder.given().to_owned()),
        _ => None,
    };
    let places: Vec<Option<String>> = spec.mounts.iter().map(place).collect();
    if places.iter().all(Option::is_none) {
        return None;
    }
    let mut spec = spec.clone();
    for (mount, place) in spec.mounts.iter_mut().zip(places) {
        if let (MountKind::Bind { within, .. }, Some(place)) = (&mut mount.kind, place) {
            *within = Some(place);
        }
    }
    Some(spec)
}

/// The source of `mount`, which is inside `within`; a missing folder is made where the mount says so.
///
/// # Errors
/// `Io`, with the source's path; also when a link leads out of `within`.
pub(super) fn source(folders: &Shared, mount: &Mount, within: &str) -> Result<OwnedFd, NodeError> {
    let MountKind::Bind { source, create_source, .. } = &mount.kind else {
        return Err(NodeError::Io { act: "making a bind mount".into(), source: io::ErrorKind::InvalidInput.into() });
    };
    let (path, folder) = (Path::new(source), folders.named(within));
    let opened = if *create_source { folder.open_or_make(path) } else { folder.open(path, Open::PATH) };
    opened.map_err(NodeError::io(format!("opening the mount source {source}, held inside {within}")))
}

/// The detached mount for `mount`, whose [`source`] is `from`.
///
/// # Errors
/// `Io`, with the source's path.
pub(super) fn tree(mount: &Mount, from: BorrowedFd<'_>) -> Result<OwnedFd, NodeError> {
    let MountKind::Bind { source, propagation, recursive, writable_below, .. } = &mount.kind else {
        return Err(NodeError::Io { act: "making a bind mount".into(), source: io::ErrorKind::InvalidInput.into() });
    };
    let io = || NodeError::io(format!("making a mount of {source}"));
    let tree = sysmount::open_tree(Some(from), Path::new(""), true, *recursive).map_err(io())?;
    let (kind, deep) = match propagation {
        Propagation::Private => (sysmount::Propagation::Private, false),
        Propagation::Rprivate => (sysmount::Propagation::Private, true),
        Propagation::Shared => (sysmount::Propagation::Shared, false),
        Propagation::Rshared => (sysmount::Propagation::Shared, true),
        Propagation::Slave => (sysmount::Propagation::Slave, false),
        Propagation::Rslave => (sysmount::Propagation::Slave, true),
    };
    let travels = AttrChange { propagation: Some(kind), recursive: deep, ..AttrChange::default() };
    sysmount::mount_setattr(tree.as_fd(), travels).map_err(io())?;
    if mount.read_only {
        let recursive = *recursive && !writable_below;
        let change = AttrChange { set: MountAttr::RDONLY, recursive, ..AttrChange::default() };
        sysmount::mount_setattr(tree.as_fd(), change).map_err(io())?;
    }
    Ok(tree)
}

/// Mounts travel only where the mount that a source lies on lets them; elsewhere a propagation would do nothing. As in Docker, that mount alone is
/// looked at. `None`: it is as the propagation needs it.
///
/// # Errors
/// `Io`.
pub(super) fn stuck(source: &str, from: BorrowedFd<'_>, wanted: Propagation) -> Result<Option<String>, NodeError> {
    let (fits, word): (fn(Peers) -> bool, _) = match wanted {
        Propagation::Private | Propagation::Rprivate => return Ok(None),
        Propagation::Shared | Propagation::Rshared => (|p| p.shared, "a shared"),
        Propagation::Slave | Propagation::Rslave => (|p| p.shared || p.slave, "a shared or slave"),
    };
    let found = sysmount::peers(from).map_err(NodeError::io(format!("looking how mounts travel at {source}")))?;
    if fits(found.peers) {
        return Ok(None);
    }
    let at = found.point.display();
    let make = if word == "a shared" { "shared" } else { "slave or --make-shared" };
    Ok(Some(format!(
        "path {source} is mounted on {at} but it is not {word} mount: mount --make-{make} {at} makes it one, and without the word the mount \
         is a private one"
    )))
}
