//! Images: names, pulls, removal, and what becomes of layers that nobody refers to.

mod index;
mod remove;

pub(crate) use index::{ImageIndex, ImageUse};
pub(crate) use remove::{drop_hidden, remove, remove_orphan, remove_unused};

use crate::container::Container;
use crate::counts::Counts;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::{ImageView, ProgressFn, PullOutcome};
use crate::{NodeError, fail};
use berth_image::{Auth, Pulled};
use berth_model::event::EventKind;
use berth_model::image::ImageRecord;
use berth_model::{Digest, Platform, Reference, Timestamp};
use index::Entry;
use remove::drop_layers;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Layers of a pull that did not end well wait this long to be taken up by the next try.
const UNFINISHED_SECS: i64 = 7 * 24 * 3600;
/// How old an image's last use in the store may be: ages are told in days, and hundreds of containers a second may end.
const USED_SECS: i64 = 3600;

/// Every image, newest first.
pub(crate) fn list(inner: &Inner) -> Vec<ImageView> {
    let mut users: HashMap<Digest, u32> = HashMap::new();
    for container in inner.containers.all() {
        *users.entry(container.image.id.clone()).or_default() += 1;
    }
    let table = inner.images.table.read().expect("images");
    let mut tags: HashMap<&Digest, Vec<Reference>> = HashMap::new();
    for (reference, id) in &table.tags {
        tags.entry(id).or_default().push(reference.clone());
    }
    let view = |e: &Entry| ImageView {
        record: e.record.clone(),
        tags: tags.remove(&e.record.id).unwrap_or_default(),
        containers: users.get(&e.record.id).copied().unwrap_or(0),
    };
    let mut views: Vec<_> = table.by_id.values().filter(|e| !e.hidden).map(view).collect();
    views.sort_by_key(|v| std::cmp::Reverse((v.record.created, v.record.pulled)));
    views
}

/// One image by name, id or prefix.
pub(crate) fn get(inner: &Inner, name: &str) -> Result<ImageView, NodeError> {
    let (record, tags) = {
        let table = inner.images.table.read().expect("images");
        let record = table.find(name)?.0.record.clone();
        let tags = table.tags_of(&record.id);
        (record, tags)
    };
    let containers = inner.containers.all().iter().filter(|c| c.image.id == record.id).count();
    Ok(ImageView { record, tags, containers: u32::try_from(containers).unwrap_or(u32::MAX) })
}

/// Fetches an image. Dropped, the work stops that nobody else waits for; what has come is kept for a week.
pub(crate) async fn pull(
    inner: &Arc<Inner>,
    caller: &str,
    reference: &Reference,
    platform: Option<Platform>,
    auth: Option<Auth>,
    progress: ProgressFn,
) -> Result<PullOutcome, NodeError> {
    pull_to_use(inner, caller, reference, platform, auth, progress).await.map(|(outcome, _)| outcome)
}

/// As [`pull`]; the image cannot go until the use is dropped.
pub(crate) async fn pull_to_use(
    inner: &Arc<Inner>,
    caller: &str,
    reference: &Reference,
    platform: Option<Platform>,
    auth: Option<Auth>,
    progress: ProgressFn,
) -> Result<(PullOutcome, ImageUse), NodeError> {
    fail::point("pull.before_fetch")?;
    let guard = inner.layers.begin_pull();
    let platform = platform.unwrap_or_else(|| inner.platform.clone());
    let pulled = inner.registry.pull(reference, &platform, auth, progress).await;
    let counts = &inner.counts;
    Counts::add(if pulled.is_ok() { &counts.pulls } else { &counts.failed_pulls }, 1);
    let pulled = pulled?;
    Counts::add(&counts.pulled_bytes, pulled.fetched_bytes);
    let (inner_, caller, reference) = (inner.clone(), caller.to_owned(), reference.clone());
    inner
        .to_its_end(async move {
            let outcome = commit(&inner_, &caller, reference, pulled).await;
            drop(guard);
            outcome
        })
        .await
}

/// Every layer is on the disk: the record makes the image visible.
async fn commit(
    inner: &Arc<Inner>,
    caller: &str,
    reference: Reference,
    pulled: Pulled,
) -> Result<(PullOutcome, ImageUse), NodeError> {
    fail::point("pull.before_commit")?;
    // The pins keep its manifests from a sweep until the record is there.
    let Pulled { mut record, fetched_bytes, pins } = pulled;
    let change = inner.images.change.lock().await;
    let (old, old_tag) = {
        let table = inner.images.table.read().expect("images");
        let old = table.by_id.get(&record.id).filter(|e| !e.hidden).map(|e| e.record.clone());
        (old, table.tags.get(&reference).cloned())
    };
    let tagged = reference.digest().is_none();
    let same_name = !tagged || old_tag.as_ref() == Some(&record.id);
    let up_to_date =
        same_name && old.as_ref().is_some_and(|o| o.manifest == record.manifest && o.target == record.target);
    if let Some(old) = &old {
        for digest in &old.repo_digests {
            if !record.repo_digests.contains(digest) {
                record.repo_digests.push(digest.clone());
            }
        }
        if up_to_date {
            record.pulled = old.pulled;
        }
    }
    let record = Arc::new(record);
    let mut writes = vec![Write::PutImage { record: record.clone(), hidden: false }];
    if tagged {
        writes.push(Write::PutTag(reference.clone(), record.id.clone()));
    }
    writes.extend(record.layers.iter().map(|l| Write::Spare(l.diff_id.clone())));
    let attributes =
        BTreeMap::from([("id".to_owned(), record.id.to_string()), ("caller".to_owned(), caller.to_owned())]);
    writes.push(inner.events.add(EventKind::Image, "pull", &reference.to_string(), attributes));
    inner.store.write(writes, Durability::Durable).await?;
    {
        let mut table = inner.images.table.write().expect("images");
        let uses = table.by_id.get(&record.id).map_or(0, |e| e.uses) + 1;
        let entry = Entry { uses, ..Entry::new(record.clone(), false, Timestamp::now()) };
        table.by_id.insert(record.id.clone(), entry);
        if tagged {
            table.tags.insert(reference.clone(), record.id.clone());
        }
        for layer in &record.layers {
            table.doomed.remove(&layer.diff_id);
        }
    }
    let used = ImageUse { table: inner.images.table.clone(), record: record.clone() };
    drop((change, pins));
    fail::point("pull.after_commit")?;
    Ok((PullOutcome { image: record, reference, up_to_date, fetched_bytes }, used))
}

/// Takes up an image that was made here: its layers and documents are on the disk, and the record makes it visible.
pub(crate) async fn adopt(
    inner: &Arc<Inner>,
    caller: &str,
    container: &Arc<Container>,
    reference: Option<Reference>,
    made: Pulled,
) -> Result<Arc<ImageRecord>, NodeError> {
    // The pins keep its documents from a sweep until the record is there.
    let Pulled { record, pins, .. } = made;
    let _change = inner.images.change.lock().await;
    let record = Arc::new(record);
    let mut writes = vec![Write::PutImage { record: record.clone(), hidden: false }];
    writes.extend(reference.iter().map(|r| Write::PutTag(r.clone(), record.id.clone())));
    writes.extend(record.layers.iter().map(|l| Write::Spare(l.diff_id.clone())));
    let name = reference.as_ref().map(ToString::to_string).unwrap_or_default();
    let about = [("image_id", record.id.to_string()), ("image_name", name.clone()), ("caller", caller.to_owned())];
    writes.push(inner.events.add_container(&container.record(), "commit", &about));
    if !name.is_empty() {
        let attributes = BTreeMap::from([("id".to_owned(), record.id.to_string())]);
        writes.push(inner.events.add(EventKind::Image, "tag", &name, attributes));
    }
    inner.store.write(writes, Durability::Durable).await?;
    let mut table = inner.images.table.write().expect("images");
    let uses = table.by_id.get(&record.id).map_or(0, |e| e.uses);
    table.by_id.insert(record.id.clone(), Entry { uses, ..Entry::new(record.clone(), false, Timestamp::now()) });
    if let Some(reference) = reference {
        table.tags.insert(reference, record.id.clone());
    }
    for layer in &record.layers {
        table.doomed.remove(&layer.diff_id);
    }
    drop(table);
    drop(pins);
    Ok(record)
}

/// Drops a layer that was made for an image which did not come to be, unless another one has it.
pub(crate) async fn forsake(inner: &Arc<Inner>, diff_id: Digest) {
    let _change = inner.images.change.lock().await;
    let used = {
        let mut table = inner.images.table.write().expect("images");
        let used = table.by_id.values().any(|e| e.record.layers.iter().any(|l| l.diff_id == diff_id));
        if !used {
            table.doomed.insert(diff_id.clone(), Timestamp::now());
        }
        used
    };
    if !used {
        drop_layers(inner, vec![diff_id]).await;
    }
}

/// One more name for an image; a name of another image moves.
pub(crate) async fn tag(inner: &Arc<Inner>, source: &str, target: &Reference) -> Result<ImageView, NodeError> {
    if target.digest().is_some() {
        let message = "a new name cannot have a digest".to_owned();
        return Err(NodeError::Invalid(vec![("target".to_owned(), message)]));
    }
    let _change = inner.images.change.lock().await;
    let id = inner.images.table.read().expect("images").find(source)?.0.record.id.clone();
    let attributes = BTreeMap::from([("id".to_owned(), id.to_string())]);
    let event = inner.events.add(EventKind::Image, "tag", &target.to_string(), attributes);
    inner.store.write(vec![Write::PutTag(target.clone(), id.clone()), event], Durability::Durable).await?;
    inner.images.table.write().expect("images").tags.insert(target.clone(), id);
    get(inner, &target.to_string())
}

/// A container is gone: its image was needed until now.
pub(crate) async fn was_used(inner: &Arc<Inner>, id: &Digest) {
    let now = Timestamp::now();
    let write = {
        let mut table = inner.images.table.write().expect("images");
        let Some(entry) = table.by_id.get_mut(id) else { return };
        entry.used = now;
        let due = now.nanos() - entry.used_written.nanos() >= USED_SECS * 1_000_000_000;
        if due {
            entry.used_written = now;
        }
        due
    };
    if write && let Err(e) = inner.store.submit(vec![Write::ImageUsed(id.clone(), now)], Durability::Quick).await {
        tracing::warn!(image = %id, error = %e, "writing down when an image was used");
    }
}

/// Removes layers whose time has come, gives unknown ones a week, and sweeps the content store. Skipped while a pull goes on.
pub(crate) async fn sweep(inner: &Arc<Inner>) -> Result<(), NodeError> {
    let _change = inner.images.change.lock().await;
    if inner.layers.is_pulling() {
        return Ok(());
    }
    let layers = inner.layers.clone();
    let (there, damaged) = inner.blocking(move || Ok((layers.store.list()?, layers.store.damaged()))).await?;
    let now = Timestamp::now();
    let (mut go, mut writes, mut keep) = (Vec::new(), Vec::new(), Vec::new());
    {
        let mut table = inner.images.table.write().expect("images");
        let mut kept: HashSet<Digest> = HashSet::new();
        for entry in table.by_id.values() {
            kept.extend(entry.record.layers.iter().map(|l| l.diff_id.clone()));
            let r = &entry.record;
            keep.extend([r.id.clone(), r.manifest.clone(), r.target.clone()]);
        }
        for container in inner.containers.all() {
            kept.extend(container.record().layers.iter().cloned());
        }
        for (layer, problem) in damaged {
            tracing::warn!(%layer, problem, referred_to = kept.contains(&layer), "a layer is damaged; pulling its image again mends it");
            if !kept.contains(&layer) {
                go.push(layer);
            }
        }
        for layer in there {
            if kept.contains(&layer.diff_id) {
                continue;
            }
            match table.doomed.get(&layer.diff_id) {
                Some(time) if *time <= now => go.push(layer.diff_id),
                Some(_) => {}
                None => {
                    let time = Timestamp(now.nanos() + UNFINISHED_SECS * 1_000_000_000);
                    table.doomed.insert(layer.diff_id.clone(), time);
                    writes.push(Write::Doom(layer.diff_id, time));
                }
            }
        }
    }
    if !writes.is_empty() {
        inner.store.write(writes, Durability::Quick).await?;
    }
    drop_layers(inner, go).await;
    let registry = inner.registry.clone();
    inner.blocking(move || Ok(registry.sweep(&keep)?)).await?;
    Ok(())
}
