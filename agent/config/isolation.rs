//! Walls around containers beside namespaces, capabilities and seccomp.

use serde::Deserialize;

/// The table `[isolation]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    /// Containers that say nothing of it have a Landlock domain.
    pub landlock: bool,
}
