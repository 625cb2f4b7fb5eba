//! What a new agent finds of volumes.

use super::using::volumes_of;
use super::{Entry, Volume, Volumes, remove};
use crate::NodeError;
use crate::node::Inner;
use crate::store::{Durability, Write};
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerId, ContainerRecord, Timestamp};
use berth_volume::held::Shared;
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
pub(crate) fn open(dir: &Path, shared: Shared, records: Vec<VolumeRecord>) -> Result<Opened, NodeError> {
    let store = VolumeStore::open(dir)?.with_shared(shared);
    let (names, mut leftovers) = store.list()?;
    let mut table: BTreeMap<String, Entry> = BTreeMap::new();
    let mut writes = Vec::new();
    for mut record in records {
        let name = record.name.clone();
        if !store.exists(&name) {
            // A removal that was cut behind the rename; else somebody else has removed the folder, and what refers to the volume says so.
            if record.removing {
                writes.push(Write::DeleteVolume(name));
                continue;
            }
            tracing::warn!(volume = name, "its folder is not there");
        }
        if let Some(project) = record.project.filter(|_| store.exists(&name))
            && let Err(e) = store.tell_project(&name, project)
        {
            tracing::warn!(volume = name, error = %e, "keeping the number of its project");
        }
        // From here on the entry has it: a record that is written back is one of a volume that stays.
        let removing = std::mem::take(&mut record.removing);
        match Volume::new(record) {
            Ok(volume) => drop(table.insert(name, Entry { volume: Some(volume), removing, ..Entry::default() })),
            Err(e) => tracing::warn!(volume = name, error = %e, "its options cannot be read: it is left alone"),
        }
    }
    for name in names {
        if table.contains_key(&name) {
            continue;
        }
        let described = store.described(&name).and_then(|text| serde_json::from_slice::<VolumeRecord>(&text).ok());
        if let Some(record) = described.filter(|r| r.name == name) {
            tracing::info!(volume = name, "taking up a volume whose record was not written yet, or is lost");
            writes.push(Write::PutVolume(record.clone().into()));
            table.insert(name, Entry { volume: Some(Volume::new(record)?), ..Entry::default() });
            continue;
        }
        let Some(backing) = store.guess(&name) else {
            // Nobody's files, and in the way of a volume of this name.
            if store.is_bare(&name) {
                leftovers.extend(store.retire(&name, &name)?);
            }
            continue;
        };
        let made_up = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if made_up && store.place(&name, &backing).is_empty().unwrap_or(false) {
            leftovers.extend(store.retire(&name, &name)?);
            continue;
        }
        tracing::info!(volume = name, "taking up a volume without a record");
        let size = backing.limit().map(|(bytes, _)| ("size".to_owned(), bytes.to_string()));
        let project = match backing {
            Backing::Quota { project, .. } => Some(project),
            _ => None,
        };
        let record = VolumeRecord {
            name: name.clone(),
            created: Timestamp::now(),
            anonymous: made_up,
            options: size.into_iter().collect(),
            project,
            ..VolumeRecord::default()
        };
        writes.push(Write::PutVolume(record.clone().into()));
        let volume = Volume::new(record)?;
        table.insert(name, Entry { volume: Some(volume), ..Entry::default() });
    }
    let volumes = Volumes {
        store,
        table: Mutex::new(table),
        reserved: Mutex::default(),
        arriving: Mutex::default(),
        making: tokio::sync::Mutex::default(),
    };
    Ok(Opened { volumes, writes, leftovers })
}

impl Volumes {
    /// Those whose removal was begun; and what is to be written of those that have come into use since, which stay.
    fn cut(&self) -> (Vec<VolumeRecord>, Vec<Write>) {
        let (mut cut, mut used) = (Vec::new(), Vec::new());
        for entry in self.lock().values_mut().filter(|e| e.removing) {
            let Some(volume) = &entry.volume else { continue };
            if entry.users.is_empty() {
                cut.push(volume.record.clone());
            } else {
                entry.removing = false;
                used.push(Write::PutVolume(volume.record.clone().into()));
            }
        }
        (cut, used)
    }

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
        let (cut, used) = inner_.volumes.cut();
        for record in cut {
            let name = record.name.clone();
            match remove::gone(&inner_, record) {
                Ok(gone) => gone.iter().for_each(|gone| remove::clear(gone)),
                Err(e) => tracing::warn!(volume = name, error = %e, "ending a removal that was cut"),
            }
        }
        if !used.is_empty() {
            let _ = inner_.store.submit_blocking(used, Durability::Quick)?;
        }
        Ok(())
    });
    if let Err(e) = swept.await {
        tracing::warn!(error = %e, "sweeping volumes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, removing: bool) -> VolumeRecord {
        VolumeRecord { name: name.to_owned(), removing, ..VolumeRecord::default() }
    }

    #[test]
    fn what_an_agent_finds() {
        let dir = std::env::temp_dir().join(format!("berth-volumes-found-{}", std::process::id()));
        let store = VolumeStore::open(&dir).unwrap();
        for name in ["idle", "used", "plain"] {
            store.publish(store.draft(name, &Backing::Folder).unwrap(), name).unwrap();
        }
        // An agent died behind the rename and before the record: one of these told more of itself than its folder does.
        let options = BTreeMap::from([("type".to_owned(), "tmpfs".to_owned())]);
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let told = VolumeRecord { options, labels, ..record("told", false) };
        let backing = Backing::parse(&told.options).unwrap();
        let draft = store.draft("1", &backing).unwrap();
        draft.describe(&serde_json::to_vec(&told).unwrap()).unwrap();
        store.publish(draft, "told").unwrap();
        store.publish(store.draft("2", &backing).unwrap(), "bare").unwrap();
        let Opened { volumes, leftovers, .. } =
            open(&dir, Shared::default(), vec![record("idle", true), record("used", true)]).unwrap();
        assert_eq!(volumes.find("told").unwrap().record, told);
        assert_eq!(volumes.find("plain").unwrap().backing, Backing::Folder);
        assert!(volumes.find("bare").is_err() && !store.exists("bare"));
        assert_eq!(leftovers.len(), 1);
        // Of the two that were to go one is somebody's: it stays, also for the next agent.
        volumes.lock().get_mut("used").unwrap().users.insert(ContainerId::from_bytes([1; 32]));
        let (cut, used) = volumes.cut();
        assert_eq!(cut, [record("idle", false)]);
        assert!(matches!(&used[..], [Write::PutVolume(r)] if r.name == "used" && !r.removing));
        assert!(volumes.find("used").is_ok() && volumes.find("idle").is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
