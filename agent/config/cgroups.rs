//! Who makes containers' cgroups, and where.

use super::Containers;
use berth_runtime::CgroupDriver;
use serde::Deserialize;

/// `containers.cgroup_driver`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    #[default]
    Cgroupfs,
    Systemd,
}

impl From<Driver> for CgroupDriver {
    fn from(driver: Driver) -> Self {
        match driver {
            Driver::Cgroupfs => CgroupDriver::Cgroupfs,
            Driver::Systemd => CgroupDriver::Systemd,
        }
    }
}

/// Parent of all groups that the agent makes itself.
const PARENT: &str = "berth";

impl Containers {
    fn parent_for(&self, driver: Driver) -> Option<&str> {
        self.cgroup_parent.as_deref().filter(|_| self.cgroup_driver == driver)
    }

    /// Of the groups that the agent makes itself. Where systemd does, those of before are still found there.
    pub fn own_parent(&self) -> &str {
        self.parent_for(Driver::Cgroupfs).unwrap_or(PARENT)
    }

    /// Empty: systemd's usual one.
    pub(super) fn slice(&self) -> &str {
        self.parent_for(Driver::Systemd).unwrap_or_default()
    }

    pub(super) fn check_parent(&self) -> Result<(), String> {
        let Some(parent) = &self.cgroup_parent else { return Ok(()) };
        if self.cgroup_driver == Driver::Systemd {
            return berth_runtime::check_slice(parent);
        }
        let part_good = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        match parent.len() <= 128 && parent.split('/').all(part_good) {
            true => Ok(()),
            false => Err("must be a relative path such as berth or machine.slice/berth".to_owned()),
        }
    }
}
