//! Defaults for containers and their logs.

use super::{Check, cgroups};
use berth_model::log::{LogConfig, LogDriver};
use berth_volume::{LEAST_BYTES, MOST_BYTES};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Defaults for containers that do not say it themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Containers {
    /// Who makes their cgroups.
    pub cgroup_driver: cgroups::Driver,
    /// With cgroupfs the parent of them all, relative to the hierarchies' roots; unset: berth. With systemd the slice of those that name none;
    /// unset: system.slice.
    pub cgroup_parent: Option<String>,
    /// Processes and threads of one container; -1: no limit.
    pub default_pids: i64,
    /// Bytes that a container's own files may take of the disk; unset: no limit.
    pub default_storage_bytes: Option<u64>,
    /// Where vendors' descriptions of devices are; those of later folders go first. What is not root's, or what others may write, is not used.
    pub cdi_dirs: Vec<PathBuf>,
    /// Bytes of one log file before it is rotated.
    pub log_file_bytes: u64,
    /// Log files kept per container, the current one counted.
    pub log_files: u32,
}

impl Default for Containers {
    fn default() -> Self {
        let log = LogConfig::default();
        Containers {
            cgroup_driver: cgroups::Driver::default(),
            cgroup_parent: None,
            // A fork bomb is stopped long before the host's own limit of 32,768 pids.
            default_pids: 4096,
            default_storage_bytes: None,
            cdi_dirs: vec!["/etc/cdi".into(), "/run/cdi".into()],
            log_file_bytes: log.max_file_bytes,
            log_files: log.max_files,
        }
    }
}

impl Containers {
    pub(super) fn check(&self, check: Check<'_>) {
        if let Err(why) = self.check_parent() {
            check(false, "containers.cgroup_parent", &why);
        }
        let pids = self.default_pids == -1 || self.default_pids >= 16;
        check(pids, "containers.default_pids", "must be -1 or at least 16");
        let storage = self.default_storage_bytes.is_none_or(|bytes| (LEAST_BYTES..=MOST_BYTES).contains(&bytes));
        check(storage, "containers.default_storage_bytes", "must be 8388608 (8 MiB) to 17592186044416 (16 TiB)");
        let absolute = self.cdi_dirs.iter().all(|d| d.is_absolute());
        check(absolute, "containers.cdi_dirs", "must be absolute paths");
        check(self.log_file_bytes >= 4096, "containers.log_file_bytes", "must be at least 4096");
        check((1..=1000).contains(&self.log_files), "containers.log_files", "must be 1 to 1000");
    }
}

/// What becomes of containers' output, where they do not say it themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logs {
    /// local, json-file, none, journald or syslog.
    pub driver: String,
    /// Options of that driver, as for `--log-opt`.
    pub options: BTreeMap<String, String>,
    /// Bytes of all containers' logs together; beyond, the oldest files that are full are removed. 0: no limit.
    pub host_max_bytes: u64,
    pub journald_socket: PathBuf,
}

impl Default for Logs {
    fn default() -> Self {
        Logs {
            driver: LogDriver::default().name().into(),
            options: BTreeMap::new(),
            host_max_bytes: 0,
            journald_socket: "/run/systemd/journal/socket".into(),
        }
    }
}

impl Logs {
    pub(super) fn check(&self, check: Check<'_>) {
        match self.driver.parse::<LogDriver>() {
            Err(e) => check(false, "logs.driver", &e.to_string()),
            Ok(driver) => {
                let wrong = LogConfig::default().with(Some(driver), &self.options).err().unwrap_or_default();
                for (key, why) in wrong {
                    check(false, &format!("logs.options.{key}"), &why);
                }
            }
        }
        let most = self.host_max_bytes;
        check(most == 0 || most >= 1 << 20, "logs.host_max_bytes", "must be 0 or at least 1048576");
        check(self.journald_socket.is_absolute(), "logs.journald_socket", "must be an absolute path");
    }
}
