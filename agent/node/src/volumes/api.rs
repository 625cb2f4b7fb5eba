//! The node's methods about volumes.

use super::{ExportItem, Had, ImportItem, ImportRequest};
use crate::gc::policy::LabelFilter;
use crate::node::Inner;
use crate::requests::{Begin, fingerprint};
use crate::view::{FreedItem, VolumeView};
use crate::{Node, NodeError, Requester};
use berth_tar::Extracted;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Of an import that was sent again because its answer was lost.
fn answer(done: &str) -> Extracted {
    let (entries, bytes) = serde_json::from_str(done).unwrap_or_default();
    Extracted { entries, bytes, ..Extracted::default() }
}

impl Node {
    /// Makes a volume, or gives the one that is there with the same options and labels. No name: one is made up.
    ///
    /// # Errors
    /// `Invalid`; `VolumeExists`; `Volume`: `NoMkfs`, `Mkfs`, `NoQuota`.
    pub async fn create_volume(
        &self,
        who: &Requester,
        name: Option<String>,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<VolumeView, NodeError> {
        let content = fingerprint(&(&name, &labels, &options));
        let ticket = match self.inner().requests.begin(who, "CreateVolume", content).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(name) => return self.volume(&name),
        };
        let inner = self.inner().clone();
        let made = self.inner().to_its_end(async move { super::create(&inner, name, labels, options).await }).await?;
        self.answered(ticket, &made.record.name).await;
        Ok(made)
    }

    /// Puts what `volumes_from` names into a spec's mounts: before it is asked what the spec needs.
    ///
    /// # Errors
    /// `ContainerNotFound`, `Ambiguous`.
    pub fn volumes_from(&self, spec: &mut berth_model::ContainerSpec) -> Result<(), NodeError> {
        super::from_others(self.inner(), spec)
    }

    /// Every volume, by name; from memory.
    pub fn volumes(&self) -> Vec<VolumeView> {
        let inner = self.inner();
        inner.volumes.all().into_iter().map(|(volume, users)| super::using::viewed(inner, &volume, users)).collect()
    }

    /// One volume by its name.
    ///
    /// # Errors
    /// `VolumeNotFound`.
    pub fn volume(&self, name: &str) -> Result<VolumeView, NodeError> {
        super::view(self.inner(), name)
    }

    /// Bytes of every volume's files on this host's disk, by name. Reads them all.
    pub async fn volume_bytes(&self) -> Result<BTreeMap<String, u64>, NodeError> {
        let sizes = super::sizes(self.inner()).await?;
        Ok(sizes.into_iter().map(|(volume, bytes, _)| (volume.record.name.clone(), bytes)).collect())
    }

    /// How much of their sizes volumes have used, by name: of each that has one, or of the one that is named. A volume with a file system of its own is
    /// known while somebody uses it.
    pub async fn volumes_used(&self, name: Option<String>) -> Result<BTreeMap<String, u64>, NodeError> {
        let inner = self.inner().clone();
        let work = move || {
            let all = inner.volumes.all().into_iter().map(|(volume, _)| volume);
            let used = |volume: &super::Volume| match inner.volumes.store.used(&volume.record.name, &volume.backing) {
                Ok(bytes) => bytes,
                Err(e) => {
                    tracing::warn!(volume = volume.record.name, error = %e, "how much of it is used");
                    None
                }
            };
            let wanted =
                all.filter(|v| v.backing.limit().is_some() && name.as_ref().is_none_or(|n| *n == v.record.name));
            Ok(wanted.filter_map(|v| Some((v.record.name.clone(), used(&v)?))).collect())
        };
        self.inner().blocking(work).await
    }

    /// Removes a volume with its files. `false`: there was none.
    ///
    /// # Errors
    /// `VolumeInUse`.
    pub async fn remove_volume(&self, who: &Requester, name: &str) -> Result<bool, NodeError> {
        let ticket = match self.inner().requests.begin(who, "RemoveVolume", fingerprint(&name)).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(_) => return Ok(true),
        };
        let (inner, name_) = (self.inner().clone(), name.to_owned());
        let removed = self.inner().to_its_end(async move { super::remove(&inner, &name_).await }).await?;
        if removed {
            self.answered(ticket, name).await;
        }
        Ok(removed)
    }

    /// Removes volumes that no container refers to, one item each and the total last: those with a made-up name, or with `all` every one.
    ///
    /// # Errors
    /// `RequestIdReused`; in the stream `Stopping`.
    pub async fn prune_volumes(
        &self,
        who: &Requester,
        all: bool,
        labels: LabelFilter,
        content: &impl serde::Serialize,
        dry_run: bool,
    ) -> Result<mpsc::Receiver<Result<FreedItem, NodeError>>, NodeError> {
        let work =
            move |inner: Arc<Inner>, tell| async move { super::prune(&inner, all, &labels, dry_run, &tell).await };
        self.freeing(who, "PruneVolumes", content, work).await
    }

    /// A volume's files as a tar, and the digest of it last; without what the caller `had` of it before.
    ///
    /// # Errors
    /// `VolumeNotFound`; in the stream `VolumeChanged`, `Io`, `Volume`, `Stopping`.
    pub async fn export_volume(
        &self,
        who: &Requester,
        name: &str,
        had: Option<Had>,
    ) -> Result<mpsc::Receiver<Result<ExportItem, NodeError>>, NodeError> {
        super::export(self.inner(), who, name, had).await
    }

    /// Makes a volume of a tar, or fills or replaces one that no container runs with: as a whole or not at all. A repeated request id is
    /// `RequestIdReused` where the first came to its end.
    ///
    /// # Errors
    /// `VolumeInUse`; `BadArchive`: not the digest that was told; `Volume`: `NotEmpty`, `Elsewhere`, `Extract`; `CallerGone`.
    pub async fn import_volume(
        &self,
        who: &Requester,
        request: ImportRequest,
        pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
    ) -> Result<Extracted, NodeError> {
        let ticket = match self.inner().requests.begin(who, "ImportVolume", fingerprint(&request)).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(done) => return Ok(answer(&done)),
        };
        let (inner, who) = (self.inner().clone(), who.clone());
        let done = self.inner().to_its_end(async move { super::import(&inner, &who, request, pieces).await }).await?;
        self.answered(ticket, &serde_json::to_string(&(done.entries, done.bytes)).unwrap_or_default()).await;
        Ok(done)
    }

    /// As [`Node::import_volume`], for a caller that cannot send its tar twice: what has arrived is kept, also behind a restart of the agent, and a
    /// repeated request id goes on there. `safe` is told how many bytes that are.
    ///
    /// # Errors
    /// As there.
    pub async fn import_volume_in_parts(
        &self,
        who: &Requester,
        request: ImportRequest,
        pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
        safe: watch::Sender<Option<u64>>,
    ) -> Result<Extracted, NodeError> {
        let ticket = match self.inner().requests.begin(who, "ImportVolume", fingerprint(&request)).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(done) => {
                super::parts::forget_answered(self.inner(), who, &request).await;
                return Ok(answer(&done));
            }
        };
        let (inner, who) = (self.inner().clone(), who.clone());
        let done = self
            .inner()
            .to_its_end(async move { super::parts::import(&inner, &who, request, pieces, safe).await })
            .await?;
        self.answered(ticket, &serde_json::to_string(&(done.entries, done.bytes)).unwrap_or_default()).await;
        Ok(done)
    }

    /// Makes a volume with the files of another one.
    ///
    /// # Errors
    /// `VolumeNotFound`, `VolumeExists`, `VolumeInUse`.
    pub async fn clone_volume(
        &self,
        who: &Requester,
        source: &str,
        target: &str,
        labels: Option<BTreeMap<String, String>>,
    ) -> Result<VolumeView, NodeError> {
        let content = fingerprint(&(source, target, &labels));
        let ticket = match self.inner().requests.begin(who, "CloneVolume", content).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(name) => return self.volume(&name),
        };
        let (inner, who) = (self.inner().clone(), who.clone());
        let (source, target) = (source.to_owned(), target.to_owned());
        let made =
            self.inner().to_its_end(async move { super::clone(&inner, &who, &source, target, labels).await }).await?;
        self.answered(ticket, &made.record.name).await;
        Ok(made)
    }
}
