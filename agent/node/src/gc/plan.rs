//! What may go and why: decided from a picture of the node, without touching anything.
//!
//! The same questions ([`Policy::container`], [`Policy::image`]) are asked again with fresh facts, under the lock that keeps the answer
//! true, at the moment of the removal.

use super::policy::{Basis, Policy};
use berth_model::{ContainerId, Digest, Phase, Reference, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The node at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub now: Timestamp,
    pub containers: Vec<ContainerFact>,
    pub images: Vec<ImageFact>,
    pub layers: Vec<LayerFact>,
    pub disk_free: u64,
    pub disk_total: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct ContainerFact {
    pub id: ContainerId,
    pub image: Digest,
    pub layers: Vec<Digest>,
    pub phase: Phase,
    /// It is about to be started: by a call under way, or by its restart policy.
    pub held: bool,
    pub created: Timestamp,
    pub ended: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(crate) struct ImageFact {
    pub id: Digest,
    pub tags: Vec<Reference>,
    /// With the bytes that each takes.
    pub layers: Vec<(Digest, u64)>,
    pub labels: BTreeMap<String, String>,
    /// When it was built, where it says so; else when it came.
    pub made: Timestamp,
    /// When it came, or its last container went.
    pub used: Timestamp,
    /// Creations under way.
    pub uses: u32,
    /// Lives on for its containers only, and goes with the last one.
    pub hidden: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct LayerFact {
    pub diff_id: Digest,
    pub bytes: u64,
    /// It goes at this time when nothing has taken it up.
    pub doomed: Option<Timestamp>,
    /// A pull under way counts on it.
    pub counted_on: bool,
}

/// One thing that goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Victim {
    pub thing: Thing,
    pub why: String,
    /// Known for images and layers.
    pub bytes: u64,
    /// It goes for want of space, not for a rule of its own.
    pub for_space: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Thing {
    Container(ContainerId),
    Image(Digest),
    Layer(Digest),
}

/// What goes, in this order: containers, images that nothing uses, layers that nothing refers to.
pub(crate) fn plan(picture: &Picture, policy: &Policy) -> Vec<Victim> {
    let mut victims = Vec::new();
    let mut staying: HashSet<&Digest> = HashSet::new();
    let mut ever_used: HashSet<&Digest> = HashSet::new();
    let mut kept_layers: HashSet<&Digest> = HashSet::new();
    for c in &picture.containers {
        ever_used.insert(&c.image);
        match policy.container(c, picture.now) {
            Some(why) => {
                victims.push(Victim { thing: Thing::Container(c.id.clone()), why, bytes: 0, for_space: false })
            }
            None => {
                staying.insert(&c.image);
                kept_layers.extend(&c.layers);
            }
        }
    }
    let mut images = Images::new(picture, &kept_layers);
    let mut free: Vec<&ImageFact> =
        picture.images.iter().filter(|i| !i.hidden && i.uses == 0 && !staying.contains(&i.id)).collect();
    // The longest unused first.
    free.sort_by(|a, b| (a.used, &a.id).cmp(&(b.used, &b.id)));
    free.retain(|image| {
        // Its last container goes just now: until then it was in use.
        let used = if ever_used.contains(&image.id) { picture.now } else { image.used };
        match policy.image(&ImageFact { used, ..(*image).clone() }, picture.now) {
            Some(why) => {
                let bytes = images.take(image);
                victims.push(Victim { thing: Thing::Image(image.id.clone()), why, bytes, for_space: false });
                false
            }
            None => true,
        }
    });
    let wanted = policy.pressure.map_or(0, |p| p.wanted(picture.disk_free, picture.disk_total));
    let mut freed: u64 = victims.iter().map(|v| v.bytes).sum();
    if policy.layers {
        let mut orphans: Vec<&LayerFact> = picture.layers.iter().filter(|l| images.is_orphan(l)).collect();
        orphans.sort_by(|a, b| a.diff_id.cmp(&b.diff_id));
        for layer in orphans {
            let why = match layer.doomed {
                Some(time) if time <= picture.now => "no image refers to it".to_owned(),
                _ if freed < wanted => "left by a pull that did not end; the disk is filling up".to_owned(),
                _ => continue,
            };
            freed += layer.bytes;
            let thing = Thing::Layer(layer.diff_id.clone());
            victims.push(Victim { thing, why, bytes: layer.bytes, for_space: false });
        }
    }
    for image in free {
        if freed >= wanted {
            break;
        }
        if policy.keeps(image) {
            continue;
        }
        let bytes = images.take(image);
        freed += bytes;
        let why = "unused, and the disk is filling up: the longest unused go first".to_owned();
        victims.push(Victim { thing: Thing::Image(image.id.clone()), why, bytes, for_space: true });
    }
    victims
}

/// Who refers to which layer, while images are taken out one by one.
struct Images<'a> {
    references: HashMap<&'a Digest, u32>,
    kept: &'a HashSet<&'a Digest>,
}

impl<'a> Images<'a> {
    fn new(picture: &'a Picture, kept: &'a HashSet<&'a Digest>) -> Self {
        let mut references: HashMap<&Digest, u32> = HashMap::new();
        for image in &picture.images {
            let layers: HashSet<&Digest> = image.layers.iter().map(|(l, _)| l).collect();
            for layer in layers {
                *references.entry(layer).or_default() += 1;
            }
        }
        Images { references, kept }
    }

    /// Takes an image out; the bytes of the layers that go with it.
    fn take(&mut self, image: &'a ImageFact) -> u64 {
        let layers: HashMap<&Digest, u64> = image.layers.iter().map(|(l, bytes)| (l, *bytes)).collect();
        let mut bytes = 0;
        for (layer, size) in layers {
            if let Some(count) = self.references.get_mut(layer) {
                *count -= 1;
                if *count == 0 && !self.kept.contains(layer) {
                    bytes += size;
                }
            }
        }
        bytes
    }

    fn is_orphan(&self, layer: &LayerFact) -> bool {
        // Taken-out images keep their entry, with 0: their layers go with them, not by themselves.
        !layer.counted_on && !self.references.contains_key(&layer.diff_id) && !self.kept.contains(&layer.diff_id)
    }
}

impl Policy {
    /// Why a container goes. None: it stays.
    pub(crate) fn container(&self, c: &ContainerFact, now: Timestamp) -> Option<String> {
        let rule = self.containers.as_ref()?;
        if !matches!(c.phase, Phase::Created | Phase::Exited) || c.held {
            return None;
        }
        let since = match rule.basis {
            Basis::Made => c.created,
            Basis::Used => c.ended.unwrap_or(c.created),
        };
        if rule.before.is_some_and(|before| since >= before)
            || !rule.labels.fit(&c.labels)
            || self.keep.labels.iter().any(|l| l.fits(|key| c.labels.get(key)))
        {
            return None;
        }
        let state = if c.phase == Phase::Created { "never started, made" } else { "stopped" };
        let when = if c.phase == Phase::Created { c.created } else { c.ended.unwrap_or(c.created) };
        Some(format!("{state} {} ago", age(when, now)))
    }

    /// Why an image goes that nothing uses. None: it stays.
    pub(crate) fn image(&self, image: &ImageFact, now: Timestamp) -> Option<String> {
        let rule = self.images.as_ref()?;
        if image.hidden || image.uses > 0 || self.keeps(image) {
            return None;
        }
        let since = match rule.basis {
            Basis::Made => image.made,
            Basis::Used => image.used,
        };
        if rule.before.is_some_and(|before| since >= before) || !rule.labels.fit(&image.labels) {
            return None;
        }
        match (image.tags.is_empty(), rule.nameless_only) {
            (true, _) => Some("it has no name and no container".to_owned()),
            (false, true) => None,
            (false, false) => Some(format!("unused for {}", age(image.used, now))),
        }
    }

    /// A rule of the policy keeps it, whatever else holds.
    pub(crate) fn keeps(&self, image: &ImageFact) -> bool {
        self.keep.labels.iter().any(|l| l.fits(|key| image.labels.get(key)))
            || self
                .keep
                .references
                .iter()
                .any(|pattern| image.tags.iter().any(|tag| berth_model::pattern::names_image(pattern, tag)))
    }
}

/// `3 days`, `2 hours`, `5 seconds`.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.nanos().saturating_sub(since.nanos()).max(0) / 1_000_000_000;
    let (n, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
