//! Removes volumes: decided under the table's lock, written down, renamed away, and then taken apart.

use super::using::volumes_of;
use super::{event, random, users};
use crate::container::Container;
use crate::gc::policy::LabelFilter;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::{Freed, FreedKind, FreedTotal};
use crate::{NodeError, fail};
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerId, Phase};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A removal or an import waits so long for containers that are on their way out.
pub(super) const LEAVING: Duration = Duration::from_secs(5);

/// Removes a tree that is no volume any more; what stays is found by the next opening.
pub(super) fn clear(path: &Path) {
    let project = berth_volume::close_limit(path).unwrap_or_else(|e| {
        tracing::warn!(path = %path.display(), error = %e, "letting nothing be added to what is left of a volume");
        None
    });
    if let Err(e) = berth_rootfs::remove_tree(path) {
        tracing::warn!(path = %path.display(), error = %e, "removing what is left of a volume");
    }
    if let (Some(project), Some(volumes)) = (project, path.parent())
        && let Err(e) = berth_volume::forget_limit(volumes, project)
    {
        tracing::warn!(path = %path.display(), error = %e, "taking the limit away from what was a volume");
    }
}

/// Marks a volume as one that goes. `besides`: this user does not count. None: there is no such volume.
fn decide(inner: &Inner, name: &str, besides: Option<&ContainerId>) -> Result<Option<Arc<super::Volume>>, NodeError> {
    let mut table = inner.volumes.lock();
    let Some(entry) = table.get_mut(name) else { return Ok(None) };
    let Some(volume) = entry.volume.clone().filter(|_| !entry.removing) else { return Ok(None) };
    let used = entry.users.iter().any(|id| Some(id) != besides) || !entry.work.is_empty();
    if used {
        return Err(NodeError::VolumeInUse { volume: name.to_owned(), by: users(inner, entry) });
    }
    entry.removing = true;
    Ok(Some(volume))
}

/// Everybody who has it is a container on its way out.
fn leaving(inner: &Inner, name: &str) -> bool {
    let users: Vec<ContainerId> =
        inner.volumes.lock().get(name).map(|e| e.users.iter().cloned().collect()).unwrap_or_default();
    users.iter().all(|id| {
        inner.containers.find(id.as_str()).map_or(true, |container| {
            let record = container.record();
            record.phase == Phase::Removing || (record.phase == Phase::Exited && record.spec.auto_remove)
        })
    })
}

/// Removes a volume with its files. false: there was none.
pub(crate) async fn remove(inner: &Arc<Inner>, name: &str) -> Result<bool, NodeError> {
    let patience = Instant::now() + LEAVING;
    let (making, volume) = loop {
        let making = inner.volumes.making.lock().await;
        match decide(inner, name, None) {
            // Behind the end of a `run --rm` its container is taken apart: who calls next finds the volume free.
            Err(NodeError::VolumeInUse { .. }) if Instant::now() < patience && leaving(inner, name) => {}
            decided => break (making, decided?),
        }
        drop(making);
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let Some(volume) = volume else { return Ok(false) };
    let inner_ = inner.clone();
    let gone = inner.blocking(move || gone(&inner_, volume.record.clone())).await?;
    // Its name is free; a tree of millions of files keeps nobody else from making and removing volumes.
    drop(making);
    let cleared = inner.blocking(move || {
        fail::point("volume.while_clearing")?;
        gone.iter().for_each(|gone| clear(gone));
        Ok(())
    });
    cleared.await?;
    Ok(true)
}

/// Behind the decision; blocking. Every step finds what is there. What is left of its files is at the path.
pub(super) fn gone(inner: &Inner, record: VolumeRecord) -> Result<Option<PathBuf>, NodeError> {
    let name = record.name.clone();
    let wait = |write: Vec<Write>, durability| -> Result<(), NodeError> {
        let written = inner.store.submit_blocking(write, durability)?;
        Ok(tokio::runtime::Handle::current().block_on(written.safe())?)
    };
    let removed = (|| {
        fail::point("volume.before_removal")?;
        wait(vec![Write::PutVolume(VolumeRecord { removing: true, ..record.clone() }.into())], Durability::Durable)?;
        fail::point("volume.after_removal_record")?;
        let gone = inner.volumes.store.retire(&name, &random()?)?;
        fail::point("volume.after_retire")?;
        wait(vec![Write::DeleteVolume(name.clone()), event(inner, &record, "destroy", &[])], Durability::Quick)?;
        Ok(gone)
    })();
    match removed {
        Ok(gone) => {
            inner.volumes.lock().remove(&name);
            Ok(gone)
        }
        Err(e) => {
            // It stays, as far as this agent is concerned.
            if let Some(entry) = inner.volumes.lock().get_mut(&name) {
                entry.removing = false;
            }
            let _ = inner.store.submit_blocking(vec![Write::PutVolume(record.into())], Durability::Quick);
            Err(e)
        }
    }
}

/// A container goes: its volumes lose a user, and its anonymous ones go with it where that was asked for; blocking. Again is fine.
pub(crate) fn forget(inner: &Inner, container: &Container) -> Result<(), NodeError> {
    let record = container.record();
    for (_, wanted) in volumes_of(&record.spec) {
        if wanted.anonymous && (record.remove_volumes || record.spec.auto_remove) {
            match decide(inner, &wanted.name, Some(&container.id)) {
                Ok(Some(volume)) => gone(inner, volume.record.clone())?.iter().for_each(|gone| clear(gone)),
                Ok(None) => {}
                // Another container has it by --volumes-from: it stays.
                Err(e) => tracing::debug!(volume = wanted.name, error = %e, "an anonymous volume stays"),
            }
        }
        if let Some(entry) = inner.volumes.lock().get_mut(&wanted.name) {
            entry.users.remove(&container.id);
            entry.mounted.remove(&container.id);
        }
    }
    Ok(())
}

/// Removes volumes that no container refers to: anonymous ones, or all.
pub(crate) async fn prune(
    inner: &Arc<Inner>,
    all: bool,
    labels: &LabelFilter,
    dry_run: bool,
    tell: &mpsc::Sender<Freed>,
) -> Result<FreedTotal, NodeError> {
    let mut total = FreedTotal::default();
    let idle = inner
        .volumes
        .all()
        .into_iter()
        .filter(|(v, users)| users.is_empty() && (all || v.record.anonymous) && labels.fit(&v.record.labels));
    for (volume, _) in idle.collect::<Vec<_>>() {
        if inner.stop.is_cancelled() {
            return Err(NodeError::Stopping);
        }
        let name = &volume.record.name;
        let bytes = super::bytes(inner, &volume).await.unwrap_or(0);
        let removed = if dry_run { Ok(true) } else { remove(inner, name).await };
        match removed {
            Ok(true) => {
                let freed = Freed {
                    kind: FreedKind::Volume,
                    id: name.clone(),
                    name: String::new(),
                    untagged: Vec::new(),
                    bytes,
                    reason: "no container uses it".to_owned(),
                };
                total.add(&freed);
                let _ = tell.send(freed).await;
            }
            // It came into use, or went, meanwhile.
            Ok(false) | Err(NodeError::VolumeInUse { .. }) => {}
            Err(e) => total.problems.push(e.to_string()),
        }
    }
    Ok(total)
}
