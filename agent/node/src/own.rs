//! A container's own files: made with it, mounted while somebody needs them where they have a limit by a file system of their own, removed with it.
//!
//! Who needs them is its run, from the phase Starting on, and whoever [`reach`]es for them; the last one takes the mount down. An agent that dies leaves
//! the mount: of what runs it is needed, of all else the next agent takes it down, or the next use goes on with it.

use crate::container::Container;
use crate::node::Inner;
use crate::{NodeError, fail, volumes};
use berth_model::{ContainerId, ContainerRecord, ContainerSpec, Phase};
use berth_rootfs::WritableLayer;
use berth_runtime::RuntimeError;
use berth_sys::fs::{self as sysfs, is_disk_full};
use berth_volume::{LimitBy, OwnFiles, OwnLimit, VolumeError};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many reach for a container's own files beside its run.
pub(crate) type Reaching = Mutex<usize>;

fn lock(reaching: &Reaching) -> MutexGuard<'_, usize> {
    reaching.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limit(spec: &ContainerSpec) -> Option<OwnLimit> {
    let storage = &spec.storage;
    storage.bytes.map(|bytes| OwnLimit { bytes, files: storage.inodes })
}

/// The folder with upper and work folder, /etc/hosts and the like.
pub(crate) fn folder(inner: &Inner, record: &ContainerRecord) -> PathBuf {
    let dir = inner.container_dir(&record.id);
    if limit(&record.spec).is_some() { OwnFiles::of(&dir).folder() } else { dir }
}

/// What keeps them to their limit, where it is made; reads the disk.
pub(crate) fn limited_by(inner: &Inner, record: &ContainerRecord) -> Option<LimitBy> {
    limit(&record.spec)?;
    OwnFiles::of(&inner.container_dir(&record.id)).limited_by().ok().flatten()
}

/// Makes a container's folder, with that of its logs; blocking. Again is fine. `own_ids`: it has a user namespace of its own.
///
/// # Errors
/// `Volume`: the limit cannot be made. `Io`, `Rootfs`.
pub(crate) fn make(inner: &Arc<Inner>, id: &ContainerId, spec: &ContainerSpec, own_ids: bool) -> Result<(), NodeError> {
    let dir = inner.container_dir(id);
    let log = dir.join("log");
    std::fs::create_dir_all(&log).map_err(NodeError::io(format!("making {}", log.display())))?;
    let Some(limit) = limit(spec) else {
        WritableLayer::create(&dir)?;
        return Ok(());
    };
    fail::point("own.before_limit")?;
    let own = OwnFiles::of(&dir);
    if own.limited_by()?.is_some() {
        return Ok(());
    }
    // Root of the host's user namespace takes its files out of a project when it likes (FS_IOC_FSSETXATTR).
    if own_ids && make_quota(inner, &own, &dir, &limit)? {
        return Ok(());
    }
    // What removes itself is removed behind a power cut.
    own.make_disk(&limit, !spec.auto_remove)?;
    fail::point("own.after_limit")
}

/// `false`: the file system has no quotas.
fn make_quota(inner: &Arc<Inner>, own: &OwnFiles, dir: &Path, limit: &OwnLimit) -> Result<bool, NodeError> {
    let containers = dir.parent().unwrap_or(Path::new("/"));
    let free = |first, taken: &dyn Fn(u32) -> bool| OwnFiles::free_project(containers, first, taken);
    match volumes::reserve_project(inner, free) {
        // From here on the folder says that the number is taken.
        Ok(reserved) => {
            own.make_quota(reserved.project, limit)?;
            fail::point("own.after_limit")?;
            Ok(true)
        }
        Err(VolumeError::NoQuota { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Removes a container's folder with all in it; blocking. Gone already is fine.
pub(crate) fn remove(dir: &Path) -> Result<(), NodeError> {
    OwnFiles::of(dir).remove(|path| Ok(berth_rootfs::remove_tree(path)?))
}

/// /etc/hosts and the like have a block each before the container can fill the disk: who is full still starts.
const WRITTEN_AT_STARTS: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

fn layer(folder: &Path) -> Result<WritableLayer, NodeError> {
    for path in WRITTEN_AT_STARTS.map(|name| folder.join(name)) {
        if !path.exists() {
            std::fs::write(&path, "\n").map_err(NodeError::io(format!("writing {}", path.display())))?;
        }
    }
    Ok(WritableLayer::create(folder)?)
}

/// Mounts an overlay over them: with what that takes beyond a limit that is reached, which holds again behind it.
///
/// # Errors
/// What `mount` says; `Volume`.
pub(crate) fn overlay<T>(
    inner: &Inner,
    record: &ContainerRecord,
    mount: impl FnOnce() -> Result<T, NodeError>,
) -> Result<T, NodeError> {
    let Some(limit) = limit(&record.spec) else { return mount() };
    let own = OwnFiles::of(&inner.container_dir(&record.id));
    own.loosen(&limit)?;
    let mounted = mount();
    own.attach(Some(&limit), &of(record))?;
    mounted
}

/// For a run: they are there, and their limit holds; blocking.
pub(crate) fn mount(inner: &Inner, container: &Container) -> Result<WritableLayer, NodeError> {
    let record = container.record();
    let dir = inner.container_dir(&record.id);
    let Some(limit) = limit(&record.spec) else {
        return Ok(if record.spec.auto_remove { WritableLayer::create(&dir)? } else { WritableLayer::open(&dir)? });
    };
    let own = OwnFiles::of(&dir);
    let _reaching = lock(&container.own);
    own.attach(Some(&limit), &of(&record))?;
    fail::point("own.after_mount")?;
    layer(&own.folder())
}

fn of(record: &ContainerRecord) -> String {
    format!("container {}", record.name)
}

/// While this lives, a container's own files are in their folder.
pub(crate) struct Reached {
    folder: PathBuf,
    held: Option<(Arc<Inner>, Arc<Container>)>,
}

impl Reached {
    pub fn layer(&self) -> Result<WritableLayer, NodeError> {
        // In a file system of their own they are made when that is mounted first.
        if self.held.is_some() { layer(&self.folder) } else { Ok(WritableLayer::open(&self.folder)?) }
    }

    /// The folder of its own writes; `None`: it was never made.
    pub fn upper(&self) -> Option<PathBuf> {
        let upper = self.folder.join("upper");
        upper.is_dir().then_some(upper)
    }
}

/// Whether it runs or not; blocking. Of one that was never made nothing is there.
pub(crate) fn reach(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Reached, NodeError> {
    let record = container.record();
    let folder = folder(inner, &record);
    if limit(&record.spec).is_none() {
        return Ok(Reached { folder, held: None });
    }
    let mut reaching = lock(&container.own);
    OwnFiles::of(&inner.container_dir(&record.id)).attach(None, &of(&record))?;
    *reaching += 1;
    Ok(Reached { folder, held: Some((inner.clone(), container.clone())) })
}

impl Drop for Reached {
    fn drop(&mut self) {
        let Some((inner, container)) = self.held.take() else { return };
        let last = {
            let mut reaching = lock(&container.own);
            *reaching -= 1;
            *reaching == 0
        };
        if last {
            let tasks = inner.tasks.clone();
            tasks.spawn_blocking(move || let_go(&inner, &container));
        }
    }
}

/// Takes the mount down when nobody needs it; blocking.
pub(crate) fn let_go(inner: &Inner, container: &Container) {
    let record = container.record();
    if limit(&record.spec).is_none() {
        return;
    }
    let reaching = lock(&container.own);
    if *reaching > 0 || matches!(container.phase(), Phase::Starting | Phase::Running) {
        return;
    }
    if let Err(e) = OwnFiles::of(&inner.container_dir(&record.id)).detach() {
        tracing::warn!(container = %record.id, error = %e, "unmounting the own files of a container");
    }
}

/// The same error of a start: where it was the container's own files that had no room, it says so.
pub(crate) fn explained(inner: &Inner, record: &ContainerRecord, error: NodeError) -> NodeError {
    let folder = folder(inner, record).display().to_string();
    let (act, source) = match &error {
        NodeError::Rootfs(berth_rootfs::RootfsError::Io { act, source }) => (act, source),
        NodeError::Runtime(RuntimeError::Io { act, source }) => (act, source),
        _ => return error,
    };
    match full(inner, record, act, source) {
        Some(full) if act.contains(&folder) => full,
        _ => error,
    }
}

fn full(inner: &Inner, record: &ContainerRecord, act: &str, source: &io::Error) -> Option<NodeError> {
    let limit = limit(&record.spec).filter(|_| is_disk_full(source))?;
    let own = OwnFiles::of(&inner.container_dir(&record.id));
    let files = limit.files.map_or_else(String::new, |files| format!(" and {files} files and folders"));
    own.are_full().then(|| NodeError::ContainerFull {
        act: act.to_owned(),
        container: record.name.clone(),
        limit: format!("{} bytes{files}", limit.bytes),
    })
}

/// The error of writing `entry`, which went to `folder` below `root`, where it was the container's own files that had no room.
pub(crate) fn full_of_copy(
    inner: &Inner,
    record: &ContainerRecord,
    (root, folder): (BorrowedFd<'_>, BorrowedFd<'_>),
    (entry, source): (&str, &io::Error),
) -> Option<NodeError> {
    let same = sysfs::fstat(root).ok()?.dev == sysfs::fstat(folder).ok()?.dev;
    full(inner, record, &format!("writing {entry:?}"), source).filter(|_| same)
}

/// Bytes that they take of the host's disk, where that is known without reading them; blocking.
pub(crate) fn taken(inner: &Inner, id: &ContainerId) -> Result<Option<u64>, VolumeError> {
    OwnFiles::of(&inner.container_dir(id)).taken()
}
