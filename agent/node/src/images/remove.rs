//! Images and layers that go.

use crate::container::Container;
use crate::gc::plan::ImageFact;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::RemovedImage;
use crate::{NodeError, fail};
use berth_model::event::EventKind;
use berth_model::image::ImageRecord;
use berth_model::{Digest, Phase, Reference, Timestamp};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What a removal takes away, decided under the lock.
struct Removal {
    record: Arc<ImageRecord>,
    untag: Vec<Reference>,
    /// The image goes with its names.
    delete: bool,
    /// Stopped containers still need the record.
    hide: bool,
}

/// Takes a name away; with the last one, the image and the layers that nothing else uses. Gone already is fine.
pub(crate) async fn remove(inner: &Arc<Inner>, name: &str, force: bool) -> Result<RemovedImage, NodeError> {
    let _change = inner.images.change.lock().await;
    match decide_removal(inner, name, force) {
        Err(NodeError::ImageNotFound(_)) => Ok(RemovedImage::default()),
        decided => carry_out(inner, decided?).await,
    }
}

/// Removes an image under all its names when nothing uses it and `still` says so of what it is by now. None: it stays.
pub(crate) async fn remove_unused(
    inner: &Arc<Inner>,
    id: &Digest,
    still: impl Fn(&ImageFact) -> bool,
) -> Result<Option<RemovedImage>, NodeError> {
    let _change = inner.images.change.lock().await;
    let removal = {
        let mut table = inner.images.table.write().expect("images");
        let untag = table.tags_of(id);
        let Some(entry) = table.by_id.get_mut(id) else { return Ok(None) };
        let used = inner.containers.all().iter().any(|c| c.uses_image(id));
        if entry.uses > 0 || used || !entry.is_there() || !still(&entry.fact(untag.clone())) {
            return Ok(None);
        }
        entry.going = true;
        Removal { record: entry.record.clone(), untag, delete: true, hide: false }
    };
    carry_out(inner, removal).await.map(Some)
}

/// Writes a removal down and does it. The caller has the lock for changes.
async fn carry_out(inner: &Arc<Inner>, removal: Removal) -> Result<RemovedImage, NodeError> {
    let id = removal.record.id.clone();
    let mut removed =
        RemovedImage { untagged: removal.untag.iter().map(ToString::to_string).collect(), ..Default::default() };
    let mut writes = Vec::new();
    for reference in &removal.untag {
        writes.push(Write::DeleteTag(reference.clone()));
        let attributes = BTreeMap::from([("id".to_owned(), id.to_string())]);
        writes.push(inner.events.add(EventKind::Image, "untag", &reference.to_string(), attributes));
    }
    let mut doomed = Vec::new();
    if removal.delete {
        if removal.hide {
            writes.push(Write::PutImage { record: removal.record.clone(), hidden: true });
        } else {
            writes.push(Write::DeleteImage(id.clone()));
            doomed = unreferenced(inner, &removal.record);
            // In the same transaction: a kill behind it leaves no layer without an owner.
            writes.extend(doomed.iter().map(|l| Write::Doom(l.clone(), Timestamp::now())));
        }
        writes.push(inner.events.add(EventKind::Image, "delete", id.as_str(), BTreeMap::new()));
        removed.deleted.push(id.to_string());
    }
    if let Err(e) = inner.store.write(writes, Durability::Durable).await {
        if let Some(entry) = inner.images.table.write().expect("images").by_id.get_mut(&id) {
            entry.going = false;
        }
        return Err(e.into());
    }
    {
        let mut table = inner.images.table.write().expect("images");
        for reference in &removal.untag {
            table.tags.remove(reference);
        }
        if removal.hide {
            if let Some(entry) = table.by_id.get_mut(&id) {
                (entry.hidden, entry.going) = (true, false);
            }
        } else if removal.delete {
            table.by_id.remove(&id);
        }
        let now = Timestamp::now();
        table.doomed.extend(doomed.iter().map(|l| (l.clone(), now)));
    }
    fail::point("image.after_remove_record")?;
    let (freed, gone) = drop_layers(inner, doomed).await;
    removed.freed_bytes = freed;
    removed.deleted.extend(gone.iter().map(ToString::to_string));
    fail::point("image.after_remove_layers")?;
    Ok(removed)
}

/// From here on a creation does not find the image any more.
fn decide_removal(inner: &Inner, name: &str, force: bool) -> Result<Removal, NodeError> {
    let mut table = inner.images.table.write().expect("images");
    let (entry, tag) = table.find(name)?;
    let (record, uses) = (entry.record.clone(), entry.uses);
    let tags = table.tags_of(&record.id);
    if let Some(tag) = tag
        && !force
        && tags.len() > 1
    {
        return Ok(Removal { record, untag: vec![tag], delete: false, hide: false });
    }
    let in_use = |by: String| NodeError::ImageInUse { image: name.to_owned(), by };
    if uses > 0 {
        return Err(in_use("that is being made".to_owned()));
    }
    let users: Vec<Arc<Container>> = inner.containers.all().into_iter().filter(|c| c.uses_image(&record.id)).collect();
    for user in &users {
        let runs = matches!(user.phase(), Phase::Starting | Phase::Running);
        if runs || !force {
            return Err(in_use(user.record().name.clone()));
        }
    }
    if let Some(entry) = table.by_id.get_mut(&record.id) {
        entry.going = true;
    }
    Ok(Removal { record, untag: tags, delete: true, hide: !users.is_empty() })
}

/// The layers of `record` that no other image refers to.
fn unreferenced(inner: &Inner, record: &ImageRecord) -> Vec<Digest> {
    let table = inner.images.table.read().expect("images");
    let others = table.by_id.values().filter(|e| e.record.id != record.id);
    let kept: HashSet<&Digest> = others.flat_map(|e| e.record.layers.iter().map(|l| &l.diff_id)).collect();
    let mut layers: Vec<Digest> = record.layers.iter().map(|l| l.diff_id.clone()).collect();
    layers.sort_unstable();
    layers.dedup();
    layers.retain(|l| !kept.contains(l));
    layers
}

/// Removes layers that were found unreferenced under the lock for changes, which the caller still has. Gives bytes and what is gone.
pub(super) async fn drop_layers(inner: &Arc<Inner>, layers: Vec<Digest>) -> (u64, Vec<Digest>) {
    if layers.is_empty() {
        return (0, Vec::new());
    }
    let inner_ = inner.clone();
    let dropped = inner.blocking(move || {
        let (mut freed, mut gone) = (0, Vec::new());
        for layer in layers {
            match inner_.layers.remove(&layer) {
                Ok(Some(bytes)) => {
                    freed += bytes;
                    gone.push(layer);
                }
                // A pull counts on it: the sweep behind that pull looks again.
                Ok(None) => {}
                Err(e) => tracing::warn!(%layer, error = %e, "removing a layer; the next sweep tries again"),
            }
        }
        Ok((freed, gone))
    });
    let (freed, gone) = dropped.await.unwrap_or_default();
    {
        let mut table = inner.images.table.write().expect("images");
        for layer in &gone {
            table.doomed.remove(layer);
        }
    }
    let writes = gone.iter().map(|l| Write::Spare(l.clone())).collect();
    // Not waited for: a layer that is doomed and gone does no harm.
    if let Err(e) = inner.store.submit(writes, Durability::Quick).await {
        tracing::warn!(error = %e, "writing down which layers are gone");
    }
    (freed, gone)
}

/// Removes a layer that no image refers to by now, and that no pull counts on. None: it stays.
pub(crate) async fn remove_orphan(inner: &Arc<Inner>, layer: &Digest) -> Result<Option<u64>, NodeError> {
    let _change = inner.images.change.lock().await;
    let of_container = |c: &Arc<Container>| c.record().layers.contains(layer);
    let kept = {
        let table = inner.images.table.read().expect("images");
        table.by_id.values().any(|e| e.record.layers.iter().any(|l| l.diff_id == *layer))
    };
    if kept || inner.containers.all().iter().any(of_container) || inner.layers.is_pulling() {
        return Ok(None);
    }
    let (bytes, gone) = drop_layers(inner, vec![layer.clone()]).await;
    Ok((!gone.is_empty()).then_some(bytes))
}

/// A container is gone: a hidden image goes with its last one.
pub(crate) async fn drop_hidden(inner: &Arc<Inner>, id: &Digest) {
    let hidden = |inner: &Inner| {
        let table = inner.images.table.read().expect("images");
        table.by_id.get(id).filter(|e| e.hidden && e.uses == 0).map(|e| e.record.clone())
    };
    if hidden(inner).is_none() {
        return;
    }
    let _change = inner.images.change.lock().await;
    let Some(record) = hidden(inner) else { return };
    if inner.containers.all().iter().any(|c| c.uses_image(id)) {
        return;
    }
    let doomed = unreferenced(inner, &record);
    let now = Timestamp::now();
    let mut writes = vec![Write::DeleteImage(id.clone())];
    writes.extend(doomed.iter().map(|l| Write::Doom(l.clone(), now)));
    if let Err(e) = inner.store.write(writes, Durability::Durable).await {
        tracing::warn!(image = %id, error = %e, "dropping an image with its last container");
        return;
    }
    {
        let mut table = inner.images.table.write().expect("images");
        table.by_id.remove(id);
        table.doomed.extend(doomed.iter().map(|l| (l.clone(), now)));
    }
    drop_layers(inner, doomed).await;
}
