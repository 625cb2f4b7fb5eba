//! Makes volumes: folder, then record. One that was made for a crash to find is whole or a leftover.

use super::quota::{self, Reservation, limited};
use super::{Volume, Work, begin, event, random};
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::{Requester, VolumeView};
use crate::{NodeError, fail};
use berth_model::Timestamp;
use berth_model::volume::{VolumeRecord, check_volume_name};
use berth_volume::{Backing, Draft, copy_tree};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Makes a volume; one that is there with the same options and labels is fine.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    name: Option<String>,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
) -> Result<VolumeView, NodeError> {
    let record = VolumeRecord {
        anonymous: name.is_none(),
        name: match name {
            Some(name) => name,
            None => random()?,
        },
        created: Timestamp::now(),
        labels,
        options,
        ..VolumeRecord::default()
    };
    check(&record)?;
    let name = record.name.clone();
    ensure(inner, record, true).await?;
    super::view(inner, &name)
}

/// What is wrong with a volume that is to be made.
pub(super) fn check(record: &VolumeRecord) -> Result<(), NodeError> {
    if let Err(why) = check_volume_name(&record.name) {
        return Err(NodeError::Invalid(vec![("name".to_owned(), why.to_owned())]));
    }
    Volume::new(record.clone()).map(drop)
}

/// The volume of this name, made where it is not there. `exact`: one that is there must be the same.
pub(super) async fn ensure(inner: &Arc<Inner>, record: VolumeRecord, exact: bool) -> Result<Arc<Volume>, NodeError> {
    let _making = inner.volumes.making.lock().await;
    let name = record.name.clone();
    if let Ok(there) = inner.volumes.find(&name) {
        if exact && !quota::fits(&there, &record)? {
            let why = "with other options or labels".to_owned();
            return Err(NodeError::VolumeExists { volume: name, why });
        }
        return Ok(there);
    }
    Volume::new(record.clone())?;
    let inner_ = inner.clone();
    let (volume, _reservation) = inner
        .blocking(move || {
            let (store, mut record) = (&inner_.volumes.store, record);
            let reservation = quota::limit(&inner_, &mut record)?;
            let volume = Volume::new(record)?;
            let draft = described(store.draft(&random()?, &volume.backing)?, &volume.record)?;
            fail::point("volume.after_draft")?;
            store.publish(draft, &volume.record.name)?;
            fail::point("volume.after_publish")?;
            Ok((volume, reservation))
        })
        .await?;
    keep(inner, volume.clone()).await?;
    fail::point("volume.after_record")?;
    Ok(volume)
}

/// A volume that was asked for without a name; its record is its container's to write.
pub(super) async fn anonymous(
    inner: &Arc<Inner>,
    record: VolumeRecord,
) -> Result<(Arc<Volume>, Option<Reservation>), NodeError> {
    let inner_ = inner.clone();
    let made = move || {
        let (store, mut record) = (&inner_.volumes.store, record);
        let reservation = quota::limit(&inner_, &mut record)?;
        let volume = Volume::new(record)?;
        store.publish(store.draft(&random()?, &volume.backing)?, &volume.record.name)?;
        Ok((volume, reservation))
    };
    inner.blocking(made).await
}

/// Puts the record into the draft: an agent that is killed before it is written finds the options and labels there.
fn described(draft: Draft, record: &VolumeRecord) -> Result<Draft, NodeError> {
    let text = serde_json::to_vec(record).map_err(io::Error::from);
    let written = text.map_err(NodeError::io("describing a volume")).and_then(|text| Ok(draft.describe(&text)?));
    match written {
        Ok(()) => Ok(draft),
        Err(e) => {
            draft.discard();
            Err(e)
        }
    }
}

/// Writes down that a volume is there; where that fails it is none.
async fn keep(inner: &Arc<Inner>, volume: Arc<Volume>) -> Result<(), NodeError> {
    let writes = vec![Write::PutVolume(volume.record.clone().into()), event(inner, &volume.record, "create", &[])];
    let Err(e) = inner.store.write(writes, Durability::Durable).await else {
        inner.volumes.put(volume);
        return Ok(());
    };
    let inner_ = inner.clone();
    let taken_back = inner.blocking(move || {
        if let Some(gone) = inner_.volumes.store.retire(&volume.record.name, &random()?)? {
            super::remove::clear(&gone);
        }
        Ok(())
    });
    if let Err(undo) = taken_back.await {
        tracing::warn!(error = %undo, "taking back a volume that could not be written down");
    }
    Err(e.into())
}

/// A draft that is whole becomes a volume. `why` not, when there is one of that name by now.
pub(super) async fn adopt(
    inner: &Arc<Inner>,
    draft: Draft,
    record: VolumeRecord,
    why: &'static str,
) -> Result<(), NodeError> {
    let volume = Volume::new(record)?;
    let record = volume.record.clone();
    let (inner_, volume_) = (inner.clone(), volume.clone());
    // Before the lock, as it may take long.
    let synced = inner.blocking(move || {
        let draft = described(draft, &volume_.record)?;
        let folder = matches!(volume_.backing, Backing::Folder | Backing::Quota { .. });
        match if folder { inner_.volumes.store.sync(&draft) } else { Ok(()) } {
            Ok(()) => Ok(draft),
            Err(e) => {
                super::remove::clear(&draft.dir);
                Err(e.into())
            }
        }
    });
    let draft = synced.await?;
    let _making = inner.volumes.making.lock().await;
    if inner.volumes.find(&record.name).is_ok() {
        let cleared = inner.blocking(move || {
            super::remove::clear(&draft.dir);
            Ok(())
        });
        cleared.await?;
        return Err(NodeError::VolumeExists { volume: record.name, why: why.to_owned() });
    }
    let store = inner.volumes.store.clone();
    inner.blocking(move || Ok(store.publish(draft, &record.name)?)).await?;
    fail::point("volume.after_publish")?;
    keep(inner, volume).await
}

/// Makes a volume with the files of another one: all of them or none. Others make and remove volumes meanwhile.
pub(crate) async fn clone(
    inner: &Arc<Inner>,
    who: &Requester,
    source: &str,
    target: String,
    labels: Option<BTreeMap<String, String>>,
) -> Result<VolumeView, NodeError> {
    const WHY: &str = "and a clone takes the place of none";
    // The source first: while this waits for a place, no other volume takes its name.
    let work = begin(inner, source, "a clone of it")?;
    let place = inner.copies.enter(who).await?;
    let record = VolumeRecord {
        name: target,
        created: Timestamp::now(),
        labels: labels.unwrap_or_else(|| work.volume.record.labels.clone()),
        // A size goes with the copy; what is elsewhere is copied to here.
        options: work
            .volume
            .record
            .options
            .iter()
            .filter(|(k, _)| matches!(k.as_str(), "size" | "backing"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        ..VolumeRecord::default()
    };
    check(&record)?;
    let name = record.name.clone();
    if inner.volumes.find(&name).is_ok() {
        return Err(NodeError::VolumeExists { volume: name, why: WHY.to_owned() });
    }
    let inner_ = inner.clone();
    let (draft, record, _reservation) = inner
        .blocking(move || {
            let (_place, mut record) = (place, record);
            let reservation = quota::limit(&inner_, &mut record)?;
            let draft = copied(&inner_, &work, &*Volume::new(record.clone())?)?;
            fail::point("volume.after_copy")?;
            Ok((draft, record, reservation))
        })
        .await?;
    adopt(inner, draft, record, WHY).await?;
    super::view(inner, &name)
}

/// A draft of a volume with the files of another one; blocking.
fn copied(inner: &Inner, work: &Work, new: &Volume) -> Result<Draft, NodeError> {
    let (volumes, backing) = (&inner.volumes, &new.backing);
    {
        let _gate = work.volume.gate.lock().unwrap_or_else(|e| e.into_inner());
        volumes.store.attach(&work.volume.record.name, &work.volume.backing)?;
    }
    let from = volumes.place(&work.volume).open()?;
    let stop = inner.stop.clone();
    let go_on = || if stop.is_cancelled() { Err(io::Error::other("the agent is stopping")) } else { Ok(()) };
    let draft = volumes.store.draft(&random()?, backing)?;
    let filled = match backing {
        Backing::Folder | Backing::Quota { .. } => berth_sys::fs::open(draft.data(), berth_sys::fs::Open::RDONLY, 0)
            .map_err(NodeError::io("opening the new volume"))
            .and_then(|to| {
                let copied = limited(|| copy_tree(from.as_fd(), to, &go_on).map(drop));
                Ok(copied.map_err(|e| volumes.within(new, e))?)
            }),
        _ => {
            // With a file system of its own it is filled as a draft, too: there is no half of it under its name.
            let name = draft.dir.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            let attached = volumes.store.attach(&name, backing);
            let filled =
                attached.and_then(|()| volumes.store.place(&name, backing).fill(from.as_fd(), &go_on).map(drop));
            filled.map_err(|e| volumes.within(new, e)).and(volumes.store.detach(&name)).map_err(NodeError::from)
        }
    };
    match filled {
        Ok(()) => Ok(draft),
        Err(e) => {
            super::remove::clear(&draft.dir);
            Err(e)
        }
    }
}
