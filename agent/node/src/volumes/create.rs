//! Makes volumes: folder, then record. One that was made for a crash to find is whole or a leftover.

use super::{Volume, begin, event, random};
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::VolumeView;
use crate::{NodeError, fail};
use berth_model::Timestamp;
use berth_model::volume::{VolumeRecord, check_volume_name};
use berth_volume::{Draft, copy_tree};
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
        removing: false,
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
        if exact && (there.record.options != record.options || there.record.labels != record.labels) {
            let why = "with other options or labels".to_owned();
            return Err(NodeError::VolumeExists { volume: name, why });
        }
        return Ok(there);
    }
    let volume = Volume::new(record)?;
    let (inner_, volume_) = (inner.clone(), volume.clone());
    inner
        .blocking(move || {
            let store = &inner_.volumes.store;
            let draft = store.draft(&random()?, &volume_.backing)?;
            fail::point("volume.after_draft")?;
            store.publish(draft, &volume_.record.name)?;
            fail::point("volume.after_publish")
        })
        .await?;
    keep(inner, volume.clone()).await?;
    fail::point("volume.after_record")?;
    Ok(volume)
}

/// Writes down that a volume is there.
async fn keep(inner: &Arc<Inner>, volume: Arc<Volume>) -> Result<(), NodeError> {
    let writes = vec![Write::PutVolume(volume.record.clone().into()), event(inner, &volume.record, "create", &[])];
    inner.store.write(writes, Durability::Durable).await?;
    inner.volumes.put(volume);
    Ok(())
}

/// A draft that is whole becomes a volume.
pub(super) async fn adopt(inner: &Arc<Inner>, draft: Draft, record: VolumeRecord) -> Result<(), NodeError> {
    let _making = inner.volumes.making.lock().await;
    let (dir, name) = (draft.dir.clone(), record.name.clone());
    let there = inner.volumes.find(&name).is_ok();
    let volume = Volume::new(record)?;
    let inner_ = inner.clone();
    let published = inner
        .blocking(move || {
            if there {
                let why = "since the import began".to_owned();
                return Err(NodeError::VolumeExists { volume: name, why });
            }
            Ok(inner_.volumes.store.publish_with_files(draft, &name)?)
        })
        .await;
    if let Err(e) = published {
        let cleared = inner.blocking(move || {
            super::remove::clear(&dir);
            Ok(())
        });
        cleared.await?;
        return Err(e);
    }
    fail::point("volume.after_publish")?;
    keep(inner, volume).await
}

/// Makes a volume with the files of another one: all of them or none.
pub(crate) async fn clone(
    inner: &Arc<Inner>,
    source: &str,
    target: String,
    labels: Option<BTreeMap<String, String>>,
) -> Result<VolumeView, NodeError> {
    let work = begin(inner, source, "a clone of it")?;
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
            .filter(|(k, _)| *k == "size")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        ..VolumeRecord::default()
    };
    check(&record)?;
    let name = record.name.clone();
    let _making = inner.volumes.making.lock().await;
    if inner.volumes.find(&name).is_ok() {
        return Err(NodeError::VolumeExists { volume: name, why: "and a clone takes the place of none".to_owned() });
    }
    let volume = Volume::new(record)?;
    let (inner_, volume_) = (inner.clone(), volume.clone());
    inner
        .blocking(move || {
            let volumes = &inner_.volumes;
            {
                let _gate = work.volume.gate.lock().unwrap_or_else(|e| e.into_inner());
                volumes.store.attach(&work.volume.record.name, &work.volume.backing)?;
            }
            let from = volumes.place(&work.volume).open()?;
            let stop = inner_.stop.clone();
            let go_on = || if stop.is_cancelled() { Err(io::Error::other("the agent is stopping")) } else { Ok(()) };
            let draft = volumes.store.draft(&random()?, &volume_.backing)?;
            if matches!(volume_.backing, berth_volume::Backing::Folder) {
                let to = berth_sys::fs::open(draft.data(), berth_sys::fs::Open::RDONLY, 0)
                    .map_err(NodeError::io("opening the new volume"))?;
                let copied = copy_tree(from.as_fd(), to, &go_on);
                if let Err(e) = copied {
                    super::remove::clear(&draft.dir);
                    return Err(e.into());
                }
                fail::point("volume.after_copy")?;
                return Ok(volumes.store.publish_with_files(draft, &volume_.record.name)?);
            }
            // With a file system of its own it is filled as a draft, too: there is no half of it under its name.
            let draft_name = draft.dir.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            let filled = volumes
                .store
                .attach(&draft_name, &volume_.backing)
                .and_then(|()| volumes.store.place(&draft_name, &volume_.backing).fill(from.as_fd(), &go_on).map(drop));
            if let Err(e) = filled.and(volumes.store.detach(&draft_name)) {
                super::remove::clear(&draft.dir);
                return Err(e.into());
            }
            fail::point("volume.after_copy")?;
            volumes.store.publish(draft, &volume_.record.name)?;
            Ok(())
        })
        .await?;
    keep(inner, volume).await?;
    super::view(inner, &name)
}
