//! Numbers of projects for volumes and containers whose size is a quota, and who may write into them beyond it.

use super::Volume;
use crate::NodeError;
use crate::node::Inner;
use berth_model::volume::VolumeRecord;
use berth_volume::{Backing, LimitBy, PROJECTS, VolumeError};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Reserved {
    numbers: BTreeSet<u32>,
    /// A number rests for as long as possible before another volume gets it.
    next: Option<u32>,
}

/// A number that nobody else gets while this lives; later the volume has it in its record, and the container's folder in its attributes.
pub(crate) struct Reservation {
    inner: Arc<Inner>,
    pub project: u32,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.inner.volumes.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.numbers.remove(&self.project);
    }
}

/// Decides what keeps a new volume to its size, where it is to have one: a quota where the file system can, else, and where that is asked for, a file
/// system of its own. Blocking.
///
/// # Errors
/// `NoQuota`: asked for, and not possible. `Io`.
pub(super) fn limit(inner: &Arc<Inner>, record: &mut VolumeRecord) -> Result<Option<Reservation>, NodeError> {
    let sized = matches!(Backing::parse(&record.options), Ok(Backing::Disk { .. }));
    let asked = LimitBy::asked(&record.options);
    if !sized || asked == Some(LimitBy::Loop) {
        return Ok(None);
    }
    match reserve(inner, |first, taken| inner.volumes.store.free_project(first, taken)) {
        Ok(reservation) => {
            record.project = Some(reservation.project);
            Ok(Some(reservation))
        }
        Err(VolumeError::NoQuota { .. }) if asked.is_none() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// `free` looks for a number that the file system has nothing of, from one on, which is none of those that are taken.
pub(crate) fn reserve(
    inner: &Arc<Inner>,
    free: impl FnOnce(u32, &dyn Fn(u32) -> bool) -> Result<u32, VolumeError>,
) -> Result<Reservation, VolumeError> {
    let volumes = &inner.volumes;
    let mut reserved = volumes.reserved.lock().unwrap_or_else(PoisonError::into_inner);
    let given: BTreeSet<u32> = volumes
        .lock()
        .values()
        .filter_map(|e| e.volume.as_ref()?.record.project)
        .chain(reserved.numbers.clone())
        .collect();
    let first = reserved.next.or(given.last().map(|last| last + 1)).unwrap_or(PROJECTS.start);
    let project = free(first, &|number| given.contains(&number))?;
    reserved.numbers.insert(project);
    reserved.next = Some(project + 1);
    Ok(Reservation { inner: inner.clone(), project })
}

/// Whether a volume that is there is what a record asks for. By what the options mean: 16m and 16777216 are the same, and one that was taken up without
/// its record has bytes.
pub(super) fn fits(there: &Volume, asked: &VolumeRecord) -> Result<bool, NodeError> {
    let wanted = Volume::new(asked.clone())?;
    let by = |limit: Option<(u64, LimitBy)>| limit.map(|(_, by)| by);
    let same = match (there.backing.limit(), wanted.backing.limit()) {
        (Some((is, _)), Some((wanted, _))) => is == wanted,
        _ => there.backing == wanted.backing,
    };
    let chosen = LimitBy::asked(&asked.options);
    Ok(same && (chosen.is_none() || chosen == by(there.backing.limit())) && there.record.labels == asked.labels)
}

/// Who is in the host's user namespace may take files that it owns out of their project (FS_IOC_FSSETXATTR), and ext4 lets who has CAP_SYS_RESOURCE
/// there write beyond a quota.
pub(super) fn loose(inner: &Inner, volume: &str) -> Option<String> {
    let volume = inner.volumes.find(volume).ok()?;
    matches!(volume.backing, Backing::Quota { .. }).then(|| {
        format!(
            "the size of volume {} is a project quota, which a container in the host's user namespace can leave: a volume made with --opt backing=loop \
             holds it, too",
            volume.record.name
        )
    })
}

/// Does work that writes into volumes: ext4 lets who has CAP_SYS_RESOURCE write beyond a quota.
pub(crate) fn limited<T>(work: impl FnOnce() -> Result<T, VolumeError>) -> Result<T, VolumeError> {
    within_limits(work).map_err(|source| VolumeError::Io { act: "giving up CAP_SYS_RESOURCE".to_owned(), source })?
}

/// As [`limited`], for other errors.
pub(crate) fn within_limits<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    berth_sys::cap::without(berth_sys::cap::bit("SYS_RESOURCE").unwrap_or_default(), work)
}
