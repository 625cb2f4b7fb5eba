//! What happened on a node.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One entry of the node's history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with every event of this node, over restarts too: the cursor.
    pub cursor: u64,
    pub time: Timestamp,
    #[serde(flatten)]
    pub kind: EventKind,
    /// Docker's word: create, start, start_failed, die, health_status: …, oom, kill, stop, destroy, exec_create, exec_start, exec_die, attach, resize, pull, tag, untag, delete, …
    pub action: String,
    /// Container id, image reference or digest, network id.
    pub subject: String,
    /// name, image, exit_code, signal, … and the container's labels.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// What an event is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub enum EventKind {
    Container,
    Image,
    Node,
    Network,
    Volume,
}

/// Kinds that came later are written as the node's, with their own word beside it: an agent that does not know the word reads the event.
#[derive(Serialize, Deserialize)]
struct Stored {
    kind: First,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noun: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum First {
    Container,
    Image,
    Node,
}

impl From<Stored> for EventKind {
    fn from(stored: Stored) -> Self {
        match (stored.kind, stored.noun.as_deref()) {
            (First::Container, _) => EventKind::Container,
            (First::Image, _) => EventKind::Image,
            (First::Node, Some("network")) => EventKind::Network,
            (First::Node, Some("volume")) => EventKind::Volume,
            (First::Node, _) => EventKind::Node,
        }
    }
}

impl From<EventKind> for Stored {
    fn from(kind: EventKind) -> Self {
        let (kind, noun) = match kind {
            EventKind::Container => (First::Container, None),
            EventKind::Image => (First::Image, None),
            EventKind::Node => (First::Node, None),
            EventKind::Network => (First::Node, Some("network".to_owned())),
            EventKind::Volume => (First::Node, Some("volume".to_owned())),
        };
        Stored { kind, noun }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_kinds_are_the_nodes_to_older_agents() {
        let event = |kind| Event {
            cursor: 1,
            time: Timestamp(2),
            kind,
            action: "create".to_owned(),
            subject: "x".to_owned(),
            attributes: BTreeMap::new(),
        };
        for kind in [EventKind::Container, EventKind::Image, EventKind::Node, EventKind::Network, EventKind::Volume] {
            let text = serde_json::to_string(&event(kind)).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event(kind));
        }
        let value = serde_json::to_value(event(EventKind::Network)).unwrap();
        assert_eq!(value["kind"], "node");
        let old = r#"{"cursor":1,"time":2,"kind":"container","action":"create","subject":"x"}"#;
        assert_eq!(serde_json::from_str::<Event>(old).unwrap(), event(EventKind::Container));
    }
}
