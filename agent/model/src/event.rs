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
    pub kind: EventKind,
    /// Docker's word: create, start, start_failed, die, health_status: …, oom, kill, stop, destroy, exec_create, exec_start, exec_die, attach, resize, pull, tag, untag, delete, …
    pub action: String,
    /// Container id, image reference or digest.
    pub subject: String,
    /// name, image, exit_code, signal, … and the container's labels.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Container,
    Image,
    Node,
}
