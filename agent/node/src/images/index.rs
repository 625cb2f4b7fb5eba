//! The images of this host in memory: by id, by name, with who uses them.

use crate::NodeError;
use crate::gc::plan::ImageFact;
use berth_model::image::ImageRecord;
use berth_model::{Digest, Reference, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

/// Shortest prefix of an image's id that counts as one: shorter ones are names.
const MIN_PREFIX: usize = 4;

pub(super) struct Entry {
    pub(super) record: Arc<ImageRecord>,
    /// Removed by its name, kept for the containers that were made from it.
    pub(super) hidden: bool,
    /// Containers that are being made from it just now.
    pub(super) uses: u32,
    /// Its removal is decided and being written down: nobody gets hold of it any more.
    pub(super) going: bool,
    /// When it came, or was needed last by a container that is gone.
    pub(super) used: Timestamp,
    /// As of `used`, in the store.
    pub(super) used_written: Timestamp,
}

impl Entry {
    pub(super) fn new(record: Arc<ImageRecord>, hidden: bool, used: Timestamp) -> Entry {
        Entry { record, hidden, uses: 0, going: false, used, used_written: used }
    }

    pub(super) fn is_there(&self) -> bool {
        !self.hidden && !self.going
    }

    pub(super) fn fact(&self, tags: Vec<Reference>) -> ImageFact {
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
pub(super) struct Table {
    pub(super) by_id: BTreeMap<Digest, Entry>,
    pub(super) tags: BTreeMap<Reference, Digest>,
    /// Layers that go at a time unless an image refers to them by then.
    pub(super) doomed: HashMap<Digest, Timestamp>,
}

#[derive(Clone, Default)]
pub(crate) struct ImageIndex {
    pub(super) table: Arc<RwLock<Table>>,
    /// Held over every change, its write included: the store sees changes in their order.
    pub(super) change: Arc<tokio::sync::Mutex<()>>,
}

/// An image that cannot go while this lives.
pub(crate) struct ImageUse {
    pub(super) table: Arc<RwLock<Table>>,
    pub(super) record: Arc<ImageRecord>,
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
    pub(super) fn find(&self, name: &str) -> Result<(&Entry, Option<Reference>), NodeError> {
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

    pub(super) fn tags_of(&self, id: &Digest) -> Vec<Reference> {
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
