//! Walls around containers beside namespaces, capabilities and seccomp.

use serde::Deserialize;

/// The table `[isolation]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    /// Containers that say nothing of it have a Landlock domain.
    pub landlock: bool,
    pub selinux: SelinuxUse,
}

/// Whether containers have SELinux labels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelinuxUse {
    Off,
    /// Where the host has SELinux and a policy that knows containers.
    #[default]
    Auto,
}
