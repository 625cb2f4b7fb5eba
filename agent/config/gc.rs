//! What goes by itself, and when.

use berth_model::pattern::LabelPattern;
use berth_node::{GcConfig, Watermarks};
use serde::Deserialize;
use std::time::Duration;

/// What goes by itself when it is no longer needed. Ages are numbers with s, m, h, d or w.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// How often the policy runs. Unset: only when asked (`berthctl system gc`).
    pub interval: Option<String>,
    /// Containers that stopped longer ago are removed. Unset: never.
    pub stopped_containers_after: Option<String>,
    /// Images that no container has used for longer are removed. Unset: not by age.
    pub unused_images_after: Option<String>,
    /// Per cent of data_root's file system. Above the high mark unused images are removed, the longest unused first, down to the low
    /// one. Both or none.
    pub high_watermark: Option<u8>,
    pub low_watermark: Option<u8>,
    /// Containers and images with one of these labels stay: `key` or `key=value`.
    pub keep_labels: Vec<String>,
    /// Images with one of these names stay: names, or patterns with `*`.
    pub keep_images: Vec<String>,
}

impl Gc {
    /// What the node is told; else what is wrong, by key.
    pub(super) fn decode(&self) -> Result<GcConfig, Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let mut age = |key, text: &Option<String>| {
            let parsed = text.as_deref().map(parse_age).transpose();
            parsed.unwrap_or_else(|why| {
                wrong.push((key, why));
                None
            })
        };
        let interval = age("gc.interval", &self.interval);
        let stopped_containers_after = age("gc.stopped_containers_after", &self.stopped_containers_after);
        let unused_images_after = age("gc.unused_images_after", &self.unused_images_after);
        if interval.is_some_and(|i| i < Duration::from_secs(1)) {
            wrong.push(("gc.interval", "must be at least 1s".to_owned()));
        }
        let watermarks = match (self.high_watermark, self.low_watermark) {
            (None, None) => None,
            (Some(high_percent @ 1..=100), Some(low_percent)) if low_percent <= high_percent => {
                Some(Watermarks { high_percent, low_percent })
            }
            _ => {
                let why = "and gc.low_watermark must be there together: 1 to 100 per cent, and not above it";
                wrong.push(("gc.high_watermark", why.to_owned()));
                None
            }
        };
        for (key, list) in [("gc.keep_labels", &self.keep_labels), ("gc.keep_images", &self.keep_images)] {
            if list.iter().any(String::is_empty) {
                wrong.push((key, "must not hold an empty text".to_owned()));
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(GcConfig {
            interval,
            stopped_containers_after,
            unused_images_after,
            watermarks,
            keep_labels: self.keep_labels.iter().map(|l| LabelPattern::parse(l)).collect(),
            keep_images: self.keep_images.clone(),
        })
    }
}

/// `90s`, `30m`, `12h`, `7d`, `2w`.
fn parse_age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} must be a number with s, m, h, d or w, such as 7d");
    let unit = match text.chars().last().ok_or_else(wrong)? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}
