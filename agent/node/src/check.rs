//! Looks at every byte of every image, on demand.

use crate::NodeError;
use crate::node::Inner;
use berth_image::Hasher;
use berth_model::Digest;
use berth_rootfs::{RootfsError, Whole};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One layer or blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// A layer's diff_id, or the digest of a manifest or configuration.
    pub digest: Digest,
    pub condition: Condition,
    /// Names of the images that need it; the id of one without a name.
    pub images: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    Good,
    /// It is a directory: that its files are all there cannot be told.
    Unverifiable,
    /// Not there, or not what it was; it was put aside, and is fetched with the next pull or create of an image that needs it.
    Damaged(String),
}

pub(crate) async fn check(inner: &Arc<Inner>) -> Result<Vec<Checked>, NodeError> {
    let (mut layers, mut blobs) = (BTreeMap::<Digest, BTreeSet<String>>::new(), BTreeMap::new());
    for view in crate::images::list(inner) {
        let names: Vec<String> = if view.tags.is_empty() {
            vec![view.record.id.to_string()]
        } else {
            view.tags.iter().map(ToString::to_string).collect()
        };
        for layer in &view.record.layers {
            layers.entry(layer.diff_id.clone()).or_default().extend(names.iter().cloned());
        }
        for blob in [&view.record.id, &view.record.manifest, &view.record.target] {
            blobs.entry(blob.clone()).or_insert_with(BTreeSet::new).extend(names.iter().cloned());
        }
    }
    let mut checked = Vec::new();
    for (digest, images) in layers {
        let (inner_, digest_) = (inner.clone(), digest.clone());
        let condition = inner.blocking(move || layer(&inner_, &digest_)).await?;
        checked.push(Checked { digest, condition, images: images.into_iter().collect() });
        if inner.stop.is_cancelled() {
            return Err(NodeError::Stopping);
        }
    }
    for (digest, images) in blobs {
        let (registry, digest_) = (inner.registry.clone(), digest.clone());
        // What is damaged is removed as it is read.
        let there = inner.blocking(move || Ok(registry.read_blob(&digest_)?.is_some())).await?;
        let condition = if there { Condition::Good } else { Condition::Damaged("it is not there any more".into()) };
        checked.push(Checked { digest, condition, images: images.into_iter().collect() });
    }
    let bad = checked.iter().filter(|c| matches!(c.condition, Condition::Damaged(_))).count();
    tracing::info!(checked = checked.len(), damaged = bad, "images were checked");
    Ok(checked)
}

fn layer(inner: &Inner, diff_id: &Digest) -> Result<Condition, NodeError> {
    let mut digester = Hasher::new(diff_id.algorithm());
    let problem = match inner.layers.store.read_whole(diff_id, &mut |bytes| digester.update(bytes)) {
        Ok(Whole::Unpacked) => return Ok(Condition::Unverifiable),
        Ok(Whole::Read) => match digester.finish() {
            found if found == *diff_id => return Ok(Condition::Good),
            found => format!("its digest is {found}"),
        },
        // It is fetched as it is.
        Err(RootfsError::Missing(_)) => return Ok(Condition::Damaged("it is not there".into())),
        Err(RootfsError::Damaged { problem, .. }) => problem,
        Err(e) => return Err(e.into()),
    };
    tracing::error!(layer = %diff_id, problem, "a layer is damaged: it is put aside and fetched again when it is needed");
    // Containers that run on it keep their mount.
    inner.layers.store.remove(diff_id)?;
    Ok(Condition::Damaged(problem))
}
