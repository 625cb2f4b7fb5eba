//! Docker's filters of lists: for each key that is there, one of its values must fit.

use super::decode::{Fields, MAX_NAME};
use berth::v1;
use berth_model::event::{Event, EventKind};
use berth_model::{ContainerRecord, Phase, Reference};
use std::collections::BTreeMap;

const MAX_FILTERS: usize = 256;
const CONTAINER_KEYS: &str = "id, name, label, status, ancestor, exited";
/// The state that is no phase: a running container whose processes are frozen.
const PAUSED: &str = "paused";
/// Not a phase of its own: it has ended, and is started again soon.
const RESTARTING: &str = "restarting";
const EVENT_KEYS: &str = "type, event, container, image, label";

/// Filters of `Containers.List`.
#[derive(Debug, Default)]
pub struct ContainerFilter(BTreeMap<String, Vec<String>>);

impl ContainerFilter {
    pub fn decode(f: &mut Fields, list: Vec<v1::ListFilter>) -> ContainerFilter {
        f.count("filters", list.len(), MAX_FILTERS);
        let mut filter = ContainerFilter::default();
        for (n, one) in list.into_iter().enumerate() {
            let at = format!("filters[{n}].value");
            f.line(&at, &one.value, MAX_NAME);
            match one.key.as_str() {
                "id" | "name" | "label" | "ancestor" => {}
                "status" => {
                    let known = [PAUSED, RESTARTING].contains(&one.value.as_str()) || phase(&one.value).is_some();
                    f.check(
                        known,
                        at,
                        "must be creating, created, starting, running, paused, restarting, exited or removing",
                    );
                }
                "exited" => f.check(one.value.parse::<i32>().is_ok(), at, "must be an exit code"),
                key => f.unknown_filter(n, key, CONTAINER_KEYS),
            }
            filter.0.entry(one.key).or_default().push(one.value);
        }
        filter
    }

    /// Docker's rule: who asks for a status means all containers.
    pub fn wants_all(&self) -> bool {
        self.0.contains_key("status") || self.0.contains_key("exited")
    }

    pub fn fits(&self, c: &ContainerRecord) -> bool {
        self.0.iter().all(|(key, values)| {
            values.iter().any(|value| match key.as_str() {
                "id" => c.id.as_str().starts_with(value.as_str()),
                "name" => c.name.contains(value.trim_start_matches('/')),
                "label" => label(value, |key| c.spec.labels.get(key)),
                "status" => c.status() == value,
                "ancestor" => ancestor(value, c),
                "exited" => c.phase == Phase::Exited && c.exit.as_ref().is_some_and(|e| value.parse() == Ok(e.code)),
                _ => false,
            })
        })
    }
}

fn phase(text: &str) -> Option<Phase> {
    [Phase::Creating, Phase::Created, Phase::Starting, Phase::Running, Phase::Exited, Phase::Removing]
        .into_iter()
        .find(|phase| phase.name() == text)
}

/// `key`, or `key=value`.
fn label<'a>(filter: &str, get: impl Fn(&str) -> Option<&'a String>) -> bool {
    match filter.split_once('=') {
        Some((key, value)) => get(key).is_some_and(|v| v == value),
        None => get(filter).is_some(),
    }
}

/// An image's name as it was asked for, or its id or a prefix of that.
fn ancestor(filter: &str, c: &ContainerRecord) -> bool {
    let hex = filter.strip_prefix("sha256:").unwrap_or(filter);
    if hex.len() >= 4 && c.image_id.hex().starts_with(hex) {
        return true;
    }
    match (filter.parse::<Reference>(), c.spec.image.parse::<Reference>()) {
        (Ok(wanted), Ok(is)) => wanted == is,
        _ => false,
    }
}

/// Filters of `Node.Events`.
#[derive(Debug, Default)]
pub struct EventFilter(BTreeMap<String, Vec<String>>);

impl EventFilter {
    pub fn decode(f: &mut Fields, list: Vec<v1::EventFilter>) -> EventFilter {
        f.count("filters", list.len(), MAX_FILTERS);
        let mut filter = EventFilter::default();
        for (n, one) in list.into_iter().enumerate() {
            let at = format!("filters[{n}].value");
            f.line(&at, &one.value, MAX_NAME);
            match one.key.as_str() {
                "event" | "container" | "image" | "label" => {}
                "type" => {
                    let known = matches!(one.value.as_str(), "container" | "image" | "node");
                    f.check(known, at, "must be container, image or node");
                }
                key => f.unknown_filter(n, key, EVENT_KEYS),
            }
            filter.0.entry(one.key).or_default().push(one.value);
        }
        filter
    }

    pub fn fits(&self, e: &Event) -> bool {
        let attribute = |key: &str| e.attributes.get(key).map(String::as_str);
        self.0.iter().all(|(key, values)| {
            values.iter().any(|value| match key.as_str() {
                "type" => kind(e.kind) == value,
                // Docker: health_status: healthy is a health_status too.
                "event" => e.action == *value || e.action.split_once(": ").is_some_and(|(word, _)| word == value),
                "container" => {
                    e.kind == EventKind::Container
                        && (e.subject.starts_with(value.as_str()) || attribute("name") == Some(value))
                }
                "image" => {
                    let name = if e.kind == EventKind::Image { Some(e.subject.as_str()) } else { attribute("image") };
                    name.is_some_and(|name| same_image(name, value))
                }
                "label" => label(value, |key| e.attributes.get(key)),
                _ => false,
            })
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
    }
}

/// Does a pattern with `*` fit the whole text?
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::digest::Algorithm;
    use berth_model::{ContainerId, ContainerSpec, Digest, ExitStatus, Timestamp};

    fn record() -> ContainerRecord {
        ContainerRecord {
            id: ContainerId::from_bytes([0xab; 32]),
            name: "web-1".into(),
            spec: ContainerSpec {
                image: "nginx".into(),
                labels: [("app".to_owned(), "shop".to_owned())].into(),
                ..Default::default()
            },
            image_id: Digest::from_bytes(Algorithm::Sha256, &[0xcd; 32]),
            layers: vec![],
            created: Timestamp(1),
            phase: Phase::Exited,
            started: None,
            finished: None,
            exit: Some(ExitStatus { code: 3, ..Default::default() }),
            error: None,
            process: None,
            network: None,
            request: None,
            starts: 1,
            warnings: Vec::new(),
            paused: false,
            supervision: Default::default(),
        }
    }

    fn fits(filters: &[(&str, &str)]) -> bool {
        let mut f = Fields::default();
        let list = filters.iter().map(|(k, v)| v1::ListFilter { key: (*k).into(), value: (*v).into() }).collect();
        let filter = ContainerFilter::decode(&mut f, list);
        assert_eq!(f.errors(), []);
        filter.fits(&record())
    }

    #[test]
    fn containers_are_filtered_as_docker_does() {
        assert!(fits(&[]));
        for good in [
            ("id", "abab"),
            ("name", "web"),
            ("name", "/web-1"),
            ("label", "app"),
            ("label", "app=shop"),
            ("status", "exited"),
            ("exited", "3"),
            ("ancestor", "nginx:latest"),
            ("ancestor", "docker.io/library/nginx"),
            ("ancestor", "sha256:cdcd"),
        ] {
            assert!(fits(&[good]), "{good:?}");
        }
        for bad in [
            ("id", "cd"),
            ("name", "db"),
            ("label", "app=x"),
            ("label", "shop"),
            ("status", "running"),
            ("exited", "0"),
            ("ancestor", "nginx:1"),
        ] {
            assert!(!fits(&[bad]), "{bad:?}");
            if bad.0 != "name" {
                assert!(!fits(&[bad, ("name", "web")]), "each key must fit");
            }
        }
        assert!(fits(&[("name", "db"), ("name", "web")]), "one value of a key is enough");
    }

    #[test]
    fn unknown_filters_are_refused() {
        let mut f = Fields::default();
        let one = |k: &str, v: &str| v1::ListFilter { key: k.into(), value: v.into() };
        ContainerFilter::decode(&mut f, vec![one("volume", "x"), one("status", "frozen"), one("exited", "x")]);
        let fields: Vec<&str> = f.errors().iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["filters[0].key", "filters[1].value", "filters[2].value"]);
    }

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

    #[test]
    fn patterns() {
        for (pattern, text) in
            [("a", "a"), ("*", ""), ("*", "abc"), ("a*c", "abbc"), ("*b*", "abc"), ("a*b*c", "aXbYc"), ("ab*", "ab")]
        {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("", "a"), ("a*c", "ab"), ("*b", "abc"), ("aa*aa", "aaa")] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }
}
