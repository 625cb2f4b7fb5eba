//! What volumes take of the disk.

use super::Volume;
use crate::NodeError;
use crate::node::Inner;
use berth_volume::Backing;
use std::sync::Arc;

/// Bytes of one volume's files on this host's disk; reads its folder, where no quota counts them.
pub(crate) async fn bytes(inner: &Inner, volume: &Volume) -> Result<u64, NodeError> {
    if matches!(volume.backing, Backing::Quota { .. })
        && let Ok(Some(bytes)) = inner.volumes.store.used(&volume.record.name, &volume.backing)
    {
        return Ok(bytes);
    }
    match inner.volumes.store.counted(&volume.record.name, &volume.backing) {
        Some(folder) => Ok(crate::usage::bytes_of(inner, vec![folder]).await?.into_iter().sum()),
        None => Ok(0),
    }
}

/// Every volume with its bytes and how many containers refer to it.
pub(crate) async fn sizes(inner: &Inner) -> Result<Vec<(Arc<Volume>, u64, u32)>, NodeError> {
    let mut sizes = Vec::new();
    for (volume, users) in inner.volumes.all() {
        let bytes = bytes(inner, &volume).await?;
        sizes.push((volume, bytes, u32::try_from(users.len()).unwrap_or(u32::MAX)));
    }
    Ok(sizes)
}
