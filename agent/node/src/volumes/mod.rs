//! Volumes of the node: who has which, and their life.
//!
//! The table is in memory, under one lock that is held for moments; it says who refers to a volume (its containers, running or not) and who
//! has it mounted. What is done to a volume's files is done under that volume's gate. A removal is decided under the table's lock, so that
//! nobody can begin to use what goes.

mod api;
mod create;
mod full;
mod hang;
mod host_path;
mod parts;
mod quota;
mod recover;
mod remove;
mod transfer;
mod usage;
mod using;

pub(crate) use create::{clone, create};
pub(crate) use full::folder_of;
pub(crate) use hang::{Hung, hang};
pub(crate) use host_path::all_held;
pub(crate) use parts::sweep as sweep_parts;
pub(crate) use quota::{reserve as reserve_project, within_limits};
pub(crate) use recover::{Opened, detach_unused, open, sweep};
pub(crate) use remove::{forget, prune, remove};
pub use transfer::{ExportItem, Had, ImportItem, ImportRequest};
pub(crate) use transfer::{export, import};
pub(crate) use usage::{bytes, sizes};
pub(crate) use using::{Mounted, from_others, images_of, let_go, permitted, resolve, trees, undo, view};

use crate::NodeError;
use crate::node::Inner;
use crate::store::Write;
use berth_model::event::EventKind;
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerId, Phase};
use berth_volume::{Backing, Place, VolumeError, VolumeStore};
use quota::Reserved;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Work that nobody else may be beside: no container runs with the volume meanwhile.
const IMPORT: &str = "an import into it";

/// One volume.
#[derive(Debug)]
pub(crate) struct Volume {
    pub record: VolumeRecord,
    pub backing: Backing,
    /// Held while its files are made, filled, replaced or mounted.
    pub gate: Mutex<()>,
}

#[derive(Default, Debug)]
struct Entry {
    volume: Option<Arc<Volume>>,
    /// Containers that have it in their spec.
    users: BTreeSet<ContainerId>,
    /// Of those, who may run with it.
    mounted: BTreeSet<ContainerId>,
    /// What else is being done with it; it cannot go meanwhile.
    work: Vec<&'static str>,
    removing: bool,
}

#[derive(Debug)]
pub(crate) struct Volumes {
    pub store: VolumeStore,
    table: Mutex<BTreeMap<String, Entry>>,
    /// Numbers of projects that volumes in the making have, and the one to try next.
    reserved: Mutex<Reserved>,
    /// Imports in parts that somebody is at.
    arriving: Mutex<BTreeSet<String>>,
    /// Held while volumes are made or removed by name.
    pub making: tokio::sync::Mutex<()>,
}

/// Keeps a volume from going while something is done with it.
pub(crate) struct Work {
    inner: Arc<Inner>,
    pub volume: Arc<Volume>,
    what: &'static str,
}

impl Drop for Work {
    fn drop(&mut self) {
        let volumes = &self.inner.volumes;
        let idle = {
            let mut table = volumes.lock();
            let Some(entry) = table.get_mut(&self.volume.record.name) else { return };
            if let Some(at) = entry.work.iter().position(|w| *w == self.what) {
                entry.work.swap_remove(at);
            }
            entry.mounted.is_empty() && entry.work.is_empty()
        };
        if idle && self.volume.backing.is_mounted() {
            let (inner, volume) = (self.inner.clone(), self.volume.clone());
            self.inner.tasks.spawn_blocking(move || detach_idle(&inner, &volume));
        }
    }
}

/// Unmounts a volume's own file system when nobody has it mounted any more.
fn detach_idle(inner: &Inner, volume: &Volume) {
    if !volume.backing.is_mounted() {
        return;
    }
    let _gate = volume.gate.lock().unwrap_or_else(|e| e.into_inner());
    let name = &volume.record.name;
    let idle = inner.volumes.lock().get(name).is_some_and(|e| e.mounted.is_empty() && e.work.is_empty());
    if idle && let Err(e) = inner.volumes.store.detach(name) {
        tracing::warn!(volume = name, error = %e, "unmounting a volume that nobody uses");
    }
}

impl Volumes {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn arriving(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.arriving.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// By name.
    pub fn find(&self, name: &str) -> Result<Arc<Volume>, NodeError> {
        let found = self.lock().get(name).filter(|e| !e.removing).and_then(|e| e.volume.clone());
        found.ok_or_else(|| NodeError::VolumeNotFound(name.to_owned()))
    }

    /// All, sorted by name, with the containers that refer to each.
    pub fn all(&self) -> Vec<(Arc<Volume>, Vec<ContainerId>)> {
        let table = self.lock();
        let view = |e: &Entry| Some((e.volume.clone()?, e.users.iter().cloned().collect()));
        table.values().filter(|e| !e.removing).filter_map(view).collect()
    }

    pub fn place(&self, volume: &Volume) -> Place {
        self.store.place(&volume.record.name, &volume.backing)
    }

    /// The same error of work on its files.
    fn within(&self, volume: &Volume, error: VolumeError) -> VolumeError {
        self.store.within(&volume.record.name, &volume.backing, error)
    }

    fn put(&self, volume: Arc<Volume>) {
        let name = volume.record.name.clone();
        self.lock().entry(name).or_default().volume = Some(volume);
    }
}

type Table = BTreeMap<String, Entry>;

impl Volume {
    fn new(record: VolumeRecord) -> Result<Arc<Volume>, NodeError> {
        let backing = Backing::parse(&record.options).map_err(|wrong| {
            NodeError::Invalid(wrong.into_iter().map(|w| (format!("options[{:?}]", w.option), w.why)).collect())
        })?;
        let backing = backing.in_project(record.project);
        Ok(Arc::new(Volume { record, backing, gate: Mutex::default() }))
    }
}

/// Who uses a volume, for people: names of containers, and work.
fn users(inner: &Inner, entry: &Entry) -> Vec<String> {
    let name = |id: &ContainerId| match inner.containers.find(id.as_str()) {
        Ok(container) => format!("container {}", container.record().name),
        // One that is being made, or taken apart.
        Err(_) => format!("container {}", id.short()),
    };
    entry.users.iter().map(name).chain(entry.work.iter().map(|w| (*w).to_owned())).collect()
}

/// Begins work on a volume.
pub(crate) fn begin(inner: &Arc<Inner>, name: &str, what: &'static str) -> Result<Work, NodeError> {
    let mut table = inner.volumes.lock();
    let not_found = || NodeError::VolumeNotFound(name.to_owned());
    let entry = table.get_mut(name).filter(|e| !e.removing).ok_or_else(not_found)?;
    let volume = entry.volume.clone().ok_or_else(not_found)?;
    let alone = what == IMPORT;
    if alone && (!entry.mounted.is_empty() || !entry.work.is_empty()) || entry.work.contains(&IMPORT) {
        return Err(NodeError::VolumeInUse { volume: name.to_owned(), by: users(inner, entry) });
    }
    entry.work.push(what);
    Ok(Work { inner: inner.clone(), volume, what })
}

/// Begins an import: nobody may have the volume mounted. Behind its end a container is taken apart: who calls next finds its volumes free.
pub(crate) async fn begin_import(inner: &Arc<Inner>, name: &str) -> Result<Work, NodeError> {
    let patience = Instant::now() + remove::LEAVING;
    loop {
        match begin(inner, name, IMPORT) {
            Err(NodeError::VolumeInUse { .. }) if Instant::now() < patience && is_being_let_go(inner, name) => {}
            begun => return begun,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Nothing works on it, and whoever has it mounted does not run any more.
fn is_being_let_go(inner: &Inner, name: &str) -> bool {
    let mounted: Vec<ContainerId> = match inner.volumes.lock().get(name) {
        Some(entry) if entry.work.is_empty() => entry.mounted.iter().cloned().collect(),
        _ => return false,
    };
    let phase = |id: &ContainerId| inner.containers.find(id.as_str()).map(|c| c.phase());
    mounted.iter().all(|id| matches!(phase(id), Err(_) | Ok(Phase::Exited | Phase::Removing)))
}

/// An event of a volume.
fn event(inner: &Inner, record: &VolumeRecord, action: &str, more: &[(&str, String)]) -> Write {
    let mut attributes: BTreeMap<String, String> = more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    attributes.insert("driver".to_owned(), "local".to_owned());
    let mut room = 4096usize;
    for (key, value) in &record.labels {
        if let Some(left) = room.checked_sub(key.len() + value.len()) {
            room = left;
            attributes.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    inner.events.add(EventKind::Volume, action, &record.name, attributes)
}

fn random() -> Result<String, NodeError> {
    Ok(crate::create::new_id()?.as_str().to_owned())
}
