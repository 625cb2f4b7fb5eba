//! What takes the room of the data folder.
//!
//! Folders of containers are read file by file: off the path of everything else, a few at a time over the whole node, and only as long
//! as the caller waits.

use crate::NodeError;
use crate::node::Inner;
use crate::own;
use crate::view::{ContainerBytes, DiskUsage, UsageItem, UsageKind, UsageSum};
use berth_model::{ContainerId, Digest, Phase};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

/// Folders read at once: more would only keep the disk from containers.
static READERS: Semaphore = Semaphore::const_new(2);

/// Stops the reading when its caller goes away.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes below `folders`, each.
pub(crate) async fn bytes_of(inner: &Inner, folders: Vec<PathBuf>) -> Result<Vec<u64>, NodeError> {
    let _turn = READERS.acquire().await.map_err(|_| NodeError::Stopping)?;
    let flag = Arc::new(AtomicBool::new(false));
    let cancel = Cancel(flag.clone());
    let counted = inner.blocking(move || {
        folders.iter().map(|folder| Ok(berth_rootfs::tree_bytes(folder, &flag)?)).collect::<Result<Vec<_>, _>>()
    });
    let counted = counted.await;
    drop(cancel);
    counted
}

/// What a container's own files and its logs take.
pub(crate) async fn container_bytes(inner: &Inner, id: &ContainerId) -> Result<ContainerBytes, NodeError> {
    let dir = inner.container_dir(id);
    // With a limit it is known, or nothing can be read of them while nobody needs them.
    let taken = own::taken(inner, id)?;
    let counted = bytes_of(inner, vec![dir.join("log"), dir.join("upper")]).await?;
    let [logs, written] = counted[..] else { return Ok(ContainerBytes::default()) };
    Ok(ContainerBytes { written: taken.unwrap_or(written), logs })
}

/// Everything of the data folder, with every shared layer counted once.
pub(crate) async fn disk_usage(inner: &Arc<Inner>) -> Result<DiskUsage, NodeError> {
    let mut usage = DiskUsage::default();
    let layers_of_images = images(inner, &mut usage);
    containers(inner, &mut usage).await?;
    volumes(inner, &mut usage).await?;
    layer_store(inner, &layers_of_images, &mut usage).await?;
    let root = inner.config.data_root.clone();
    let (database, disk) = inner
        .blocking(move || {
            let act = format!("asking for the space of {}", root.display());
            let disk = berth_sys::store::disk_space(&root).map_err(NodeError::io(act))?;
            let size = |name: &str| std::fs::metadata(root.join(name)).map_or(0, |m| m.len());
            Ok((size("node.db") + size("node.db-wal"), disk))
        })
        .await?;
    let sum = UsageSum { kind: UsageKind::Database, count: 1, active: 1, bytes: database, reclaimable_bytes: 0 };
    usage.sums.push(sum);
    (usage.disk_free_bytes, usage.disk_total_bytes) = (disk.free_bytes, disk.total_bytes);
    Ok(usage)
}

/// Adds the images; gives all layers that one refers to.
fn images(inner: &Inner, usage: &mut DiskUsage) -> HashSet<Digest> {
    let facts = inner.images.facts();
    let mut users: HashMap<Digest, u32> = HashMap::new();
    for container in inner.containers.all() {
        *users.entry(container.image.id.clone()).or_default() += 1;
    }
    // Bytes, how many images have it, and whether one of them is in use.
    let mut layers: HashMap<&Digest, (u64, u32, bool)> = HashMap::new();
    for image in &facts {
        let active = users.contains_key(&image.id) || image.uses > 0;
        for (layer, bytes) in distinct(&image.layers) {
            let entry = layers.entry(layer).or_insert((bytes, 0, false));
            entry.1 += 1;
            entry.2 |= active;
        }
    }
    let mut sum = UsageSum::new(UsageKind::Images);
    sum.bytes = layers.values().map(|(bytes, ..)| bytes).sum();
    sum.reclaimable_bytes = layers.values().filter(|(.., active)| !active).map(|(bytes, ..)| bytes).sum();
    for image in facts.iter().filter(|i| !i.hidden) {
        let containers = users.get(&image.id).copied().unwrap_or(0);
        let own = distinct(&image.layers);
        sum.count += 1;
        sum.active += u32::from(containers > 0);
        usage.items.push(UsageItem {
            kind: UsageKind::Images,
            id: image.id.to_string(),
            names: image.tags.iter().map(ToString::to_string).collect(),
            bytes: own.values().sum(),
            shared_bytes: own
                .iter()
                .filter(|(layer, _)| layers.get(**layer).is_some_and(|l| l.1 > 1))
                .map(|(_, b)| b)
                .sum(),
            containers,
            created: Some(image.made),
            active: containers > 0,
            image: String::new(),
        });
    }
    usage.sums.push(sum);
    layers.into_keys().cloned().collect()
}

/// A layer may stand in one image twice.
fn distinct(layers: &[(Digest, u64)]) -> HashMap<&Digest, u64> {
    layers.iter().map(|(layer, bytes)| (layer, *bytes)).collect()
}

async fn containers(inner: &Arc<Inner>, usage: &mut DiskUsage) -> Result<(), NodeError> {
    let (mut written, mut logs) = (UsageSum::new(UsageKind::Containers), UsageSum::new(UsageKind::Logs));
    for container in inner.containers.all() {
        let bytes = container_bytes(inner, &container.id).await?;
        let record = container.record();
        let idle = matches!(record.phase, Phase::Created | Phase::Exited);
        for (sum, bytes) in [(&mut written, bytes.written), (&mut logs, bytes.logs)] {
            sum.count += 1;
            sum.active += u32::from(!idle);
            sum.bytes += bytes;
            sum.reclaimable_bytes += if idle { bytes } else { 0 };
        }
        let item = |kind, bytes| UsageItem {
            kind,
            id: record.id.to_string(),
            names: vec![record.name.clone()],
            bytes,
            shared_bytes: 0,
            containers: 0,
            created: Some(record.created),
            active: !idle,
            image: record.spec.image.clone(),
        };
        usage.items.extend([item(UsageKind::Containers, bytes.written), item(UsageKind::Logs, bytes.logs)]);
    }
    usage.sums.extend([written, logs]);
    Ok(())
}

async fn volumes(inner: &Arc<Inner>, usage: &mut DiskUsage) -> Result<(), NodeError> {
    let mut sum = UsageSum::new(UsageKind::Volumes);
    for (volume, bytes, containers) in crate::volumes::sizes(inner).await? {
        sum.count += 1;
        sum.active += u32::from(containers > 0);
        sum.bytes += bytes;
        sum.reclaimable_bytes += if containers == 0 { bytes } else { 0 };
        usage.items.push(UsageItem {
            kind: UsageKind::Volumes,
            id: volume.record.name.clone(),
            names: Vec::new(),
            bytes,
            shared_bytes: 0,
            containers,
            created: Some(volume.record.created),
            active: containers > 0,
            image: String::new(),
        });
    }
    usage.sums.push(sum);
    Ok(())
}

/// What of the layer store is no image's.
async fn layer_store(inner: &Arc<Inner>, of_images: &HashSet<Digest>, usage: &mut DiskUsage) -> Result<(), NodeError> {
    let root = &inner.config.data_root;
    let folders: Vec<PathBuf> =
        vec![root.join("layers/ingest"), root.join("layers/trash"), inner.config.images.dir.clone()];
    let around: u64 = bytes_of(inner, folders).await?.iter().sum();
    let mut sum = UsageSum::new(UsageKind::LayerStore);
    sum.bytes = around;
    for layer in inner.layers.store.list()? {
        sum.count += 1;
        if of_images.contains(&layer.diff_id) {
            sum.active += 1;
            continue;
        }
        sum.bytes += layer.tar_bytes;
        if !inner.layers.is_counted_on(&layer.diff_id) {
            sum.reclaimable_bytes += layer.tar_bytes;
        }
        usage.items.push(UsageItem {
            kind: UsageKind::LayerStore,
            id: layer.diff_id.to_string(),
            names: Vec::new(),
            bytes: layer.tar_bytes,
            shared_bytes: 0,
            containers: 0,
            created: None,
            active: false,
            image: String::new(),
        });
    }
    usage.sums.push(sum);
    Ok(())
}
