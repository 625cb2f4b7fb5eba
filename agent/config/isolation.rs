//! Walls around containers beside namespaces, capabilities and seccomp.

use serde::Deserialize;

/// The table `[isolation]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    /// Programs of containers that say nothing of it get no more rights than who executes them.
    pub no_new_privileges: bool,
    /// Containers that say nothing of it have a Landlock domain.
    pub landlock: bool,
    pub selinux: SelinuxUse,
}

impl Default for Isolation {
    fn default() -> Self {
        Isolation { no_new_privileges: true, landlock: false, selinux: SelinuxUse::default() }
    }
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
