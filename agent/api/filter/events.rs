//! Filters of `Node.Events`.

use super::{MAX_FILTERS, label, values_fit};
use crate::api::decode::{Fields, MAX_NAME};
use berth::v1;
use berth_model::Reference;
use berth_model::event::{Event, EventKind};
use std::collections::BTreeMap;

const KEYS: &str = "type, event, container, image, network, volume, label, node";

/// Filters of `Node.Events`.
#[derive(Debug, Default)]
pub struct EventFilter {
    values: BTreeMap<String, Vec<String>>,
    /// The host's name, where a filter asks for it.
    host: String,
}

impl EventFilter {
    pub fn decode(f: &mut Fields, list: Vec<v1::EventFilter>) -> EventFilter {
        f.count("filters", list.len(), MAX_FILTERS);
        let mut filter = EventFilter::default();
        for (n, one) in list.into_iter().enumerate() {
            let at = format!("filters[{n}].value");
            f.line(&at, &one.value, MAX_NAME);
            match one.key.as_str() {
                "event" | "container" | "image" | "network" | "volume" | "label" | "node" => {}
                "type" => {
                    let known = matches!(one.value.as_str(), "container" | "image" | "node" | "network" | "volume");
                    f.check(known, at, "must be container, image, network, volume or node");
                }
                key => f.unknown_filter(n, key, KEYS),
            }
            filter.values.entry(one.key).or_default().push(one.value);
        }
        if filter.values.contains_key("node") {
            filter.host = berth_sys::store::uname().hostname;
        }
        filter
    }

    pub fn fits(&self, e: &Event) -> bool {
        let attribute = |key: &str| e.attributes.get(key).map(String::as_str);
        values_fit(&self.values, |key, value| match key {
            "type" => kind(e.kind) == value,
            // Docker: health_status: healthy is a health_status too.
            "event" => e.action == value || e.action.split_once(": ").is_some_and(|(word, _)| word == value),
            "container" => {
                e.kind == EventKind::Container && (e.subject.starts_with(value) || attribute("name") == Some(value))
            }
            "image" => {
                let name = if e.kind == EventKind::Image { Some(e.subject.as_str()) } else { attribute("image") };
                name.is_some_and(|name| same_image(name, value))
            }
            "network" => {
                e.kind == EventKind::Network && (e.subject.starts_with(value) || attribute("name") == Some(value))
            }
            "volume" => e.kind == EventKind::Volume && e.subject == value,
            "label" => label(value, |key| e.attributes.get(key)),
            "node" => self.host == value,
            _ => false,
        })
    }
}

fn same_image(a: &str, b: &str) -> bool {
    a == b || matches!((a.parse::<Reference>(), b.parse::<Reference>()), (Ok(a), Ok(b)) if a == b)
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Container => "container",
        EventKind::Image => "image",
        EventKind::Node => "node",
        EventKind::Network => "network",
        EventKind::Volume => "volume",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::Timestamp;

    #[test]
    fn events_are_filtered() {
        let event = Event {
            cursor: 1,
            time: Timestamp(1),
            kind: EventKind::Container,
            action: "die".into(),
            subject: "ab".repeat(32),
            attributes: [("name", "web"), ("image", "nginx"), ("app", "shop")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        let fits = |key: &str, value: &str| {
            let mut f = Fields::default();
            let list = vec![v1::EventFilter { key: key.into(), value: value.into() }];
            let filter = EventFilter::decode(&mut f, list);
            assert_eq!(f.errors(), []);
            filter.fits(&event)
        };
        for (key, value) in [
            ("type", "container"),
            ("event", "die"),
            ("container", "web"),
            ("container", "abab"),
            ("image", "nginx:latest"),
            ("label", "app"),
            ("label", "app=shop"),
        ] {
            assert!(fits(key, value), "{key}={value}");
        }
        for (key, value) in
            [("type", "image"), ("event", "start"), ("container", "db"), ("image", "busybox"), ("label", "x")]
        {
            assert!(!fits(key, value), "{key}={value}");
        }
    }
}
