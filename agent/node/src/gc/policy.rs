//! What a node gives up, and what it keeps.

use berth_model::Timestamp;
use berth_model::pattern::LabelPattern;
use std::collections::BTreeMap;
use std::time::Duration;

/// `[gc]` of the agent's configuration. The default removes nothing but layers that nothing refers to, and runs only when asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GcConfig {
    /// None: only when asked.
    pub interval: Option<Duration>,
    /// Containers that stopped longer ago go. None: none do.
    pub stopped_containers_after: Option<Duration>,
    /// Images that no container has used for longer go. None: not by age.
    pub unused_images_after: Option<Duration>,
    /// Per cent of the data folder's file system: above `high`, unused images go until it is at `low`. None: never.
    pub watermarks: Option<Watermarks>,
    /// Containers and images with one of these labels stay.
    pub keep_labels: Vec<LabelPattern>,
    /// Images with a name that fits one of these stay.
    pub keep_images: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watermarks {
    pub high_percent: u8,
    pub low_percent: u8,
}

impl Watermarks {
    /// Bytes to free for the low mark; 0 below the high one.
    pub fn wanted(self, free: u64, total: u64) -> u64 {
        let used = total.saturating_sub(free);
        let mark = |percent: u8| u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(u64::MAX);
        if used < mark(self.high_percent) { 0 } else { used.saturating_sub(mark(self.low_percent)) }
    }
}

/// What one run removes. The default removes nothing.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// None: no container goes.
    pub containers: Option<ContainerRule>,
    /// None: no image goes for its age or its want of a name.
    pub images: Option<ImageRule>,
    pub pressure: Option<Watermarks>,
    /// Layers that nothing refers to, too.
    pub layers: bool,
    pub keep: Keep,
}

/// Which time of a thing is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Basis {
    /// When it was made.
    #[default]
    Made,
    /// When it was used last: a container's end, the end of an image's last container.
    Used,
}

/// Which stopped containers go.
#[derive(Clone, Debug, Default)]
pub struct ContainerRule {
    pub basis: Basis,
    /// Only before this. None: whenever.
    pub before: Option<Timestamp>,
    pub labels: LabelFilter,
}

/// Which unused images go.
#[derive(Clone, Debug, Default)]
pub struct ImageRule {
    pub nameless_only: bool,
    pub basis: Basis,
    pub before: Option<Timestamp>,
    pub labels: LabelFilter,
}

/// Docker's `label` and `label!`: one of the first must fit where there are any, and none of the second.
#[derive(Clone, Debug, Default)]
pub struct LabelFilter {
    pub with: Vec<LabelPattern>,
    pub without: Vec<LabelPattern>,
}

impl LabelFilter {
    pub fn fit(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |l: &LabelPattern| l.fits(|key| labels.get(key));
        (self.with.is_empty() || self.with.iter().any(has)) && !self.without.iter().any(has)
    }
}

/// What stays whatever a rule says.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    pub labels: Vec<LabelPattern>,
    /// Names of images, or patterns with `*`.
    pub references: Vec<String>,
}

impl Policy {
    /// The configured policy, at `now`.
    pub fn of(config: &GcConfig, now: Timestamp) -> Policy {
        let before = |age: Duration| {
            let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
            Some(Timestamp(now.nanos().saturating_sub(age)))
        };
        Policy {
            containers: config.stopped_containers_after.map(|age| ContainerRule {
                basis: Basis::Used,
                before: before(age),
                labels: LabelFilter::default(),
            }),
            images: config.unused_images_after.map(|age| ImageRule {
                nameless_only: false,
                basis: Basis::Used,
                before: before(age),
                labels: LabelFilter::default(),
            }),
            pressure: config.watermarks,
            layers: true,
            keep: Keep { labels: config.keep_labels.clone(), references: config.keep_images.clone() },
        }
    }
}
