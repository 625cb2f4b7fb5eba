//! Which AppArmor profile a container's processes have. The host's profiles are its admin's to load: the agent loads none.

use crate::host::Host;
use crate::{Runtime, RuntimeError};
use berth_model::ContainerSpec;
use std::fs;
use std::io;

/// What the agent's own is called (deploy/apparmor/berth-default).
pub const DEFAULT_PROFILE: &str = "berth-default";

/// Docker's word for none.
const UNCONFINED: &str = "unconfined";

/// Of securityfs: a line for each profile, `NAME (MODE)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

fn is_loaded(name: &str) -> io::Result<bool> {
    Ok(lists(&fs::read_to_string(PROFILES)?, name))
}

fn lists(profiles: &str, name: &str) -> bool {
    profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(listed, _)| listed == name))
}

/// Why there cannot be such a name: it goes to the kernel as one line.
fn wrong_name(name: &str) -> bool {
    name.len() > 512 || name.trim() != name || name.chars().any(char::is_control)
}

/// The profile of a container's processes; `None`: unconfined.
fn profile(spec: &ContainerSpec, host: &Host) -> Result<Option<String>, String> {
    match spec.apparmor.as_str() {
        UNCONFINED => Ok(None),
        "" if spec.privileged || !host.apparmor => Ok(None),
        // Without securityfs nobody has loaded it either.
        "" => Ok(is_loaded(DEFAULT_PROFILE).unwrap_or(false).then(|| DEFAULT_PROFILE.to_owned())),
        name if wrong_name(name) => Err("must be the name of a profile, of at most 512 characters".to_owned()),
        name if !host.apparmor => Err(format!("profile {name:?}: AppArmor is not enabled on this host")),
        name => match is_loaded(name) {
            Ok(true) => Ok(Some(name.to_owned())),
            Ok(false) => Err(format!("no profile {name:?} is loaded on this host: apparmor_parser -r FILE loads one")),
            Err(e) => Err(format!("profile {name:?}: reading {PROFILES}: {e}")),
        },
    }
}

impl Runtime {
    pub(crate) fn profile_of(&self, spec: &ContainerSpec) -> Result<Option<String>, RuntimeError> {
        profile(spec, &self.inner.host).map_err(|why| RuntimeError::spec("apparmor", why))
    }

    pub(crate) fn check_profile(&self, spec: &ContainerSpec) -> Option<(String, String)> {
        profile(spec, &self.inner.host).err().map(|why| ("apparmor".to_owned(), why))
    }

    /// Whether the host has AppArmor, and whether containers that say nothing of it get the agent's profile.
    pub fn apparmor(&self) -> (bool, bool) {
        let enabled = self.inner.host.apparmor;
        (enabled, enabled && is_loaded(DEFAULT_PROFILE).unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let profiles = "/usr/bin/man (enforce)\nberth-default (complain)\nwith (brackets) (enforce)\n";
        for (name, there) in [
            ("berth-default", true),
            ("/usr/bin/man", true),
            ("with (brackets)", true),
            ("berth", false),
            ("with", false),
        ] {
            assert_eq!(lists(profiles, name), there, "{name}");
        }
        assert!(wrong_name("a\nb") && wrong_name(" a") && !wrong_name("/usr/bin/a b"));
    }
}
