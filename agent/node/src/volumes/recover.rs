//! What a new agent finds of volumes.

use super::using::volumes_of;
use super::{Entry, Volume, Volumes, remove};
use crate::NodeError;
use crate::node::Inner;
use crate::store::{Durability, Write};
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerId, ContainerRecord, Timestamp};
use berth_volume::{Backing, VolumeStore};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The table as the store has it, with what the folder has beside it.
pub(crate) struct Opened {
    pub volumes: Volumes,
    /// Records that are to be written or dropped.
    pub writes: Vec<Write>,
    pub leftovers: Vec<PathBuf>,
}

/// Opens the folder of volumes (blocking). One without a record was made by a creation that was cut, or the record was lost: it is taken up,
/// but for an empty one with a made-up name, which no container can miss.
///
/// # Errors
/// `Volume`.
pub(crate) fn open(dir: &Path, records: Vec<VolumeRecord>) -> Result<Opened, NodeError> {
    let store = VolumeStore::open(dir)?;
    let (names, mut leftovers) = store.list()?;
    let mut table: BTreeMap<String, Entry> = BTreeMap::new();
    let mut writes = Vec::new();
    for record in records {
        let name = record.name.clone();
        if !store.exists(&name) {
            // A removal that was cut behind the rename; else somebody else has removed the folder, and what refers to the volume says so.
            if record.removing {
                writes.push(Write::DeleteVolume(name));
                continue;
            }
            tracing::warn!(volume = name, "its folder is not there");
        }
        let removing = record.removing;
        match Volume::new(record) {
            Ok(volume) => drop(table.insert(name, Entry { volume: Some(volume), removing, ..Entry::default() })),
            Err(e) => tracing::warn!(volume = name, error = %e, "its options cannot be read: it is left alone"),
        }
    }
    for name in names {
        if table.contains_key(&name) {
            continue;
        }
        let Some(backing) = store.guess(&name) else { continue };
        let made_up = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if made_up && store.place(&name, &backing).is_empty().unwrap_or(false) {
            leftovers.extend(store.retire(&name, &name)?);
            continue;
        }
        tracing::info!(volume = name, "taking up a volume without a record");
        let options = match backing {
            Backing::Disk { bytes } => BTreeMap::from([("size".to_owned(), bytes.to_string())]),
            _ => BTreeMap::new(),
        };
        let record = VolumeRecord {
            name: name.clone(),
            created: Timestamp::now(),
            anonymous: made_up,
            options,
            ..VolumeRecord::default()
        };
        writes.push(Write::PutVolume(record.clone().into()));
        let volume = Volume::new(record)?;
        table.insert(name, Entry { volume: Some(volume), ..Entry::default() });
    }
    let volumes = Volumes { store, table: Mutex::new(table), making: tokio::sync::Mutex::default() };
    Ok(Opened { volumes, writes, leftovers })
}

impl Volumes {
    /// A container that the store knows, and whether it may run.
    pub fn known(&self, record: &ContainerRecord, runs: bool) {
        let id: &ContainerId = &record.id;
        for (_, wanted) in volumes_of(&record.spec) {
            let mut table = self.lock();
            let Some(entry) = table.get_mut(&wanted.name) else { continue };
            entry.users.insert(id.clone());
            if runs {
                entry.mounted.insert(id.clone());
            }
        }
    }
}

/// Takes down file systems of volumes that nobody has mounted; blocking, before anything is started.
pub(crate) fn detach_unused(inner: &Inner) {
    let idle: Vec<Arc<Volume>> =
        inner.volumes.lock().values().filter(|e| e.mounted.is_empty()).filter_map(|e| e.volume.clone()).collect();
    idle.iter().for_each(|volume| super::detach_idle(inner, volume));
}

/// Ends removals that were cut, and removes leftovers; behind the opening.
pub(crate) async fn sweep(inner: &Arc<Inner>, writes: Vec<Write>, leftovers: Vec<PathBuf>) {
    if !writes.is_empty()
        && let Err(e) = inner.store.submit(writes, Durability::Quick).await
    {
        tracing::warn!(error = %e, "writing down what was found of volumes");
    }
    let inner_ = inner.clone();
    let swept = inner.blocking(move || {
        for path in &leftovers {
            // A draft whose file system is still mounted.
            if let Some(name) = path.file_name().and_then(|n| n.to_str())
                && let Err(e) = inner_.volumes.store.detach(name)
            {
                tracing::warn!(path = %path.display(), error = %e, "unmounting what is left of a volume");
            }
            remove::clear(path);
        }
        let cut: Vec<VolumeRecord> = inner_
            .volumes
            .lock()
            .values()
            .filter(|e| e.removing)
            .filter_map(|e| Some(e.volume.as_ref()?.record.clone()))
            .collect();
        for record in cut {
            let name = record.name.clone();
            if let Err(e) = remove::gone(&inner_, record) {
                tracing::warn!(volume = name, error = %e, "ending a removal that was cut");
            }
        }
        Ok(())
    });
    if let Err(e) = swept.await {
        tracing::warn!(error = %e, "sweeping volumes");
    }
}
