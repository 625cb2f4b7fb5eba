//! What was removed to free space, and what takes it, on the wire.

use super::{Answers, QUEUE, encode};
use crate::status;
use berth::v1;
use berth_node::{DiskUsage, Freed, FreedItem, FreedKind, FreedTotal, NodeError, UsageItem, UsageKind};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// One message of a stream, before it has a type of its own.
pub enum Item {
    One(v1::Reclaimed),
    Total(v1::ReclaimedTotal),
}

impl Item {
    /// In the words of an RPC's own message.
    pub fn split<K>(self, one: fn(v1::Reclaimed) -> K, total: fn(v1::ReclaimedTotal) -> K) -> K {
        match self {
            Item::One(item) => one(item),
            Item::Total(sum) => total(sum),
        }
    }
}

/// What the node tells, as it tells it.
pub fn stream<M: Send + 'static>(
    mut freed: mpsc::Receiver<Result<FreedItem, NodeError>>,
    wrap: fn(Item) -> M,
) -> Answers<M> {
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(async move {
        while let Some(item) = freed.recv().await {
            let answer = item.map_err(status::from_node).map(|item| match item {
                FreedItem::Freed(one) => Item::One(reclaimed(one)),
                FreedItem::Total(sum) => Item::Total(total(sum)),
            });
            // Err: the caller has gone; the work goes on.
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(stream).map(move |item| item.map(wrap)))
}

/// What tells one request from another.
pub fn content(filters: &[v1::ListFilter]) -> Vec<(String, String)> {
    filters.iter().map(|f| (f.key.clone(), f.value.clone())).collect()
}

fn reclaimed(freed: Freed) -> v1::Reclaimed {
    use v1::reclaimed::Kind;
    let kind = match freed.kind {
        FreedKind::Container => Kind::Container,
        FreedKind::Image => Kind::Image,
        FreedKind::Layer => Kind::Layer,
        FreedKind::Volume => Kind::Volume,
    };
    v1::Reclaimed {
        kind: kind as i32,
        id: freed.id,
        name: freed.name,
        untagged: freed.untagged,
        bytes: freed.bytes,
        reason: freed.reason,
    }
}

fn total(sum: FreedTotal) -> v1::ReclaimedTotal {
    v1::ReclaimedTotal {
        containers: sum.containers,
        images: sum.images,
        layers: sum.layers,
        volumes: sum.volumes,
        bytes: sum.bytes,
        problems: sum.problems,
    }
}

fn usage_kind(kind: UsageKind) -> i32 {
    let kind = match kind {
        UsageKind::Images => v1::DiskUsageKind::Images,
        UsageKind::Containers => v1::DiskUsageKind::Containers,
        UsageKind::Logs => v1::DiskUsageKind::Logs,
        UsageKind::LayerStore => v1::DiskUsageKind::LayerStore,
        UsageKind::Volumes => v1::DiskUsageKind::Volumes,
        UsageKind::Database => v1::DiskUsageKind::Database,
    };
    kind as i32
}

pub fn usage_item(item: &UsageItem) -> v1::DiskUsageItem {
    v1::DiskUsageItem {
        kind: usage_kind(item.kind),
        id: item.id.clone(),
        names: item.names.clone(),
        bytes: item.bytes,
        shared_bytes: item.shared_bytes,
        containers: item.containers,
        created: item.created.map(encode::time),
        active: item.active,
        image: item.image.clone(),
    }
}

pub fn usage_total(usage: &DiskUsage) -> v1::DiskUsageTotal {
    let sums = usage.sums.iter().map(|sum| v1::DiskUsageSum {
        kind: usage_kind(sum.kind),
        count: sum.count,
        active: sum.active,
        bytes: sum.bytes,
        reclaimable_bytes: sum.reclaimable_bytes,
    });
    v1::DiskUsageTotal {
        sums: sums.collect(),
        disk_free_bytes: usage.disk_free_bytes,
        disk_total_bytes: usage.disk_total_bytes,
    }
}
