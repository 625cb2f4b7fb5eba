//! Images: names, pulls, removal, and what becomes of layers that nobody refers to.

use crate::container::Container;
use crate::counts::Counts;
use crate::gc::plan::ImageFact;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::{ImageView, ProgressFn, PullOutcome, RemovedImage};
use crate::{NodeError, fail};
use berth_image::{Auth, Pulled};
use berth_model::event::EventKind;
use berth_model::image::ImageRecord;
use berth_model::{Digest, Phase, Platform, Reference, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock};

/// Layers of a pull that did not end well wait this long to be taken up by the next try.
const UNFINISHED_SECS: i64 = 7 * 24 * 3600;
/// How old an image's last use in the store may be: ages are told in days, and hundreds of containers a second may end.
const USED_SECS: i64 = 3600;
/// Shortest prefix of an image's id that counts as one: shorter ones are names.
const MIN_PREFIX: usize = 4;

struct Entry {
    record: Arc<ImageRecord>,
    /// Removed by its name, kept for the containers that were made from it.
    hidden: bool,
    /// Containers that are being made from it just now.
    uses: u32,
    /// Its removal is decided and being written down: nobody gets hold of it any more.
    going: bool,
    /// When it came, or was needed last by a container that is gone.
    used: Timestamp,
    /// As of `used`, in the store.
    used_written: Timestamp,
}

impl Entry {
    fn new(record: Arc<ImageRecord>, hidden: bool, used: Timestamp) -> Entry {
        Entry { record, hidden, uses: 0, going: false, used, used_written: used }
    }

    fn is_there(&self) -> bool {
        !self.hidden && !self.going
    }

    fn fact(&self, tags: Vec<Reference>) -> ImageFact {
        let record = &self.record;
        ImageFact {
            id: record.id.clone(),
            tags,
            layers: record.layers.iter().map(|l| (l.diff_id.clone(), l.size_bytes)).collect(),
            labels: record.config.labels.clone(),
            made: record.created.unwrap_or(record.pulled),
            used: self.used,
            uses: self.uses,
            hidden: !self.is_there(),
        }
    }
}

#[derive(Default)]
struct Table {
    by_id: BTreeMap<Digest, Entry>,
    tags: BTreeMap<Reference, Digest>,
    /// Layers that go at a time unless an image refers to them by then.
    doomed: HashMap<Digest, Timestamp>,
}

#[derive(Clone, Default)]
pub(crate) struct ImageIndex {
    table: Arc<RwLock<Table>>,
    /// Held over every change, its write included: the store sees changes in their order.
    change: Arc<tokio::sync::Mutex<()>>,
}

/// An image that cannot go while this lives.
pub(crate) struct ImageUse {
    table: Arc<RwLock<Table>>,
    record: Arc<ImageRecord>,
}

impl ImageUse {
    pub fn record(&self) -> &Arc<ImageRecord> {
        &self.record
    }
}

impl Drop for ImageUse {
    fn drop(&mut self) {
        if let Some(entry) = self.table.write().expect("images").by_id.get_mut(&self.record.id) {
            entry.uses -= 1;
            entry.used = Timestamp::now();
        }
    }
}

impl Table {
    /// The image that `name` means, and the tag when it is one.
    fn find(&self, name: &str) -> Result<(&Entry, Option<Reference>), NodeError> {
        let shown = || -> String { name.chars().take(300).collect() };
        let visible = |id: &Digest| self.by_id.get(id).filter(|e| e.is_there());
        if let Ok(reference) = name.parse::<Reference>() {
            match reference.digest() {
                None => {
                    if let Some(entry) = self.tags.get(&reference).and_then(visible) {
                        return Ok((entry, Some(reference)));
                    }
                }
                Some(digest) => {
                    let by_digest = format!("{}@{digest}", reference.name());
                    let fits = |e: &&Entry| e.is_there() && e.record.repo_digests.contains(&by_digest);
                    if let Some(entry) = self.by_id.values().find(fits) {
                        return Ok((entry, None));
                    }
                }
            }
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() < MIN_PREFIX || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NodeError::ImageNotFound(shown()));
        }
        let mut fits = self.by_id.values().filter(|e| e.is_there() && e.record.id.hex().starts_with(hex));
        match (fits.next(), fits.next()) {
            (None, _) => Err(NodeError::ImageNotFound(shown())),
            (Some(entry), None) => Ok((entry, None)),
            _ => Err(NodeError::Ambiguous(shown(), "image")),
        }
    }

    fn tags_of(&self, id: &Digest) -> Vec<Reference> {
        self.tags.iter().filter(|(_, i)| *i == id).map(|(r, _)| r.clone()).collect()
    }
}

impl ImageIndex {
    pub fn new(
        images: Vec<(ImageRecord, bool)>,
        tags: Vec<(Reference, Digest)>,
        doomed: Vec<(Digest, Timestamp)>,
        used: Vec<(Digest, Timestamp)>,
    ) -> Self {
        let used: HashMap<Digest, Timestamp> = used.into_iter().collect();
        let entry = |(record, hidden): (ImageRecord, bool)| {
            let used = used.get(&record.id).copied().unwrap_or_default().max(record.pulled);
            (record.id.clone(), Entry::new(record.into(), hidden, used))
        };
        let table = Table {
            by_id: images.into_iter().map(entry).collect(),
            tags: tags.into_iter().collect(),
            doomed: doomed.into_iter().collect(),
        };
        ImageIndex { table: Arc::new(RwLock::new(table)), change: Arc::default() }
    }

    /// By name, id or prefix; it stays until the use is dropped.
    pub fn take(&self, name: &str) -> Result<ImageUse, NodeError> {
        let mut table = self.table.write().expect("images");
        let record = table.find(name)?.0.record.clone();
        if let Some(entry) = table.by_id.get_mut(&record.id) {
            entry.uses += 1;
        }
        Ok(ImageUse { table: self.table.clone(), record })
    }

    /// The record of an image that a container was made from, hidden or not.
    pub fn get(&self, id: &Digest) -> Option<Arc<ImageRecord>> {
        self.table.read().expect("images").by_id.get(id).map(|e| e.record.clone())
    }

    pub fn count(&self) -> u32 {
        let table = self.table.read().expect("images");
        u32::try_from(table.by_id.values().filter(|e| !e.hidden).count()).unwrap_or(u32::MAX)
    }

    /// All images, those that live on for their containers counted.
    pub fn facts(&self) -> Vec<ImageFact> {
        let table = self.table.read().expect("images");
        table.by_id.values().map(|e| e.fact(table.tags_of(&e.record.id))).collect()
    }

    pub fn fact(&self, id: &Digest) -> Option<ImageFact> {
        let table = self.table.read().expect("images");
        table.by_id.get(id).map(|e| e.fact(table.tags_of(id)))
    }

    /// When a layer goes that nothing takes up by then.
    pub fn doom(&self, layer: &Digest) -> Option<Timestamp> {
        self.table.read().expect("images").doomed.get(layer).copied()
    }
}

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
async fn drop_layers(inner: &Arc<Inner>, layers: Vec<Digest>) -> (u64, Vec<Digest>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::image_record;

    fn index() -> ImageIndex {
        let mut one = image_record(1);
        one.repo_digests = vec![format!("docker.io/library/a@{}", one.target)];
        let mut two = image_record(2);
        two.id = format!("sha256:0101{}", "2".repeat(60)).parse().unwrap();
        let tag = |t: &str, r: &ImageRecord| (t.parse().unwrap(), r.id.clone());
        let tags = vec![tag("a", &one), tag("a:2", &one), tag("abcd", &two)];
        ImageIndex::new(vec![(one, false), (two, false), (image_record(3), true)], tags, Vec::new(), Vec::new())
    }

    #[test]
    fn images_are_found_by_every_name() {
        let index = index();
        let id = |name: &str| index.take(name).map(|u| u.record().id.short().to_owned());
        let one = image_record(1);
        for name in [
            "a",
            "docker.io/library/a:latest",
            "a:2",
            "010101",
            one.id.as_str(),
            one.id.hex(),
            "sha256:010101",
            &format!("a@{}", one.target),
        ] {
            assert_eq!(id(name).ok().as_deref(), Some("010101010101"), "{name}");
        }
        assert!(matches!(id("0101"), Err(NodeError::Ambiguous(..))));
        assert_eq!(id("01012").unwrap(), "010122222222");
        for none in ["b", "010", "a:3", "ffff", "", &format!("b@{}", one.target), image_record(3).id.as_str()] {
            assert!(matches!(id(none), Err(NodeError::ImageNotFound(_))), "{none}");
        }
    }

    #[test]
    fn a_name_wins_over_a_prefix() {
        let index = index();
        assert_eq!(index.take("abcd").unwrap().record().id.short(), "010122222222");
    }

    #[test]
    fn uses_are_counted() {
        let index = index();
        let id = image_record(1).id;
        let uses = || index.table.read().unwrap().by_id[&id].uses;
        let first = index.take("a").unwrap();
        let second = index.take("a:2").unwrap();
        assert_eq!(uses(), 2);
        drop((first, second));
        assert_eq!(uses(), 0);
    }
}
