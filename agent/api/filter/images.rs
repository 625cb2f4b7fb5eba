//! Filters of `Images.List`.

use super::{MAX_FILTERS, label, point_in_time, values_fit};
use crate::api::decode::{Fields, MAX_NAME};
use berth::v1;
use berth_model::Timestamp;
use berth_model::pattern::names_image;
use berth_node::ImageView;
use std::collections::BTreeMap;

const KEYS: &str = "dangling, reference, before, since, until, label, label!";

/// Filters of `Images.List`.
#[derive(Debug, Default)]
pub struct ImageFilter {
    values: BTreeMap<String, Vec<String>>,
    /// What the values of `before`, `since` and `until` stand for.
    times: BTreeMap<String, Timestamp>,
}

impl ImageFilter {
    /// `made`: when an image was built, by its name or id.
    pub fn decode(f: &mut Fields, list: Vec<v1::ListFilter>, made: impl Fn(&str) -> Option<Timestamp>) -> ImageFilter {
        f.count("filters", list.len(), MAX_FILTERS);
        let mut filter = ImageFilter::default();
        for (n, one) in list.into_iter().enumerate() {
            let at = format!("filters[{n}].value");
            f.line(&at, &one.value, MAX_NAME);
            let time = match one.key.as_str() {
                "reference" | "label" | "label!" => None,
                "dangling" => {
                    f.check(truth(&one.value).is_some(), at, "must be true or false");
                    None
                }
                "before" | "since" => {
                    let time = made(&one.value);
                    f.check(time.is_some(), at, &format!("no such image: {}", one.value));
                    time
                }
                "until" => {
                    let time = point_in_time(&one.value);
                    f.check(time.is_some(), at, "must be a time, or a duration before now such as 24h");
                    time
                }
                key => {
                    f.unknown_filter(n, key, KEYS);
                    None
                }
            };
            filter.times.extend(time.map(|time| (one.value.clone(), time)));
            filter.values.entry(one.key).or_default().push(one.value);
        }
        filter
    }

    pub fn fits(&self, image: &ImageView) -> bool {
        let record = &image.record;
        let made = record.created.unwrap_or(record.pulled);
        let time = |value: &str| self.times.get(value).copied().unwrap_or_default();
        let without = self.values.get("label!").into_iter().flatten();
        let denied = without.into_iter().any(|value| label(value, |key| record.config.labels.get(key)));
        !denied
            && values_fit(&self.values, |key, value| match key {
                "dangling" => truth(value) == Some(image.tags.is_empty()),
                "reference" => image.tags.iter().any(|tag| names_image(value, tag)),
                "before" | "until" => made < time(value),
                "since" => made > time(value),
                "label" => label(value, |key| record.config.labels.get(key)),
                // All of them were looked at above.
                "label!" => true,
                _ => false,
            })
    }
}

/// Go's strconv.ParseBool, as far as people use it.
fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}
