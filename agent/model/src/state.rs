//! The life of a container.

use crate::network::Attachments;
use crate::selinux::Labels;
use crate::supervision::{ExitCause, Supervision};
use crate::userns::Userns;
use crate::{ContainerId, ContainerSpec, Digest, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a container is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being made; found after a crash, it is undone.
    #[default]
    Creating,
    Created,
    /// Its processes are being made; found after a crash, it is looked for, then decided.
    Starting,
    Running,
    Exited,
    /// Being taken apart; found after a crash, the taking apart goes on.
    Removing,
}

impl Phase {
    /// Docker's word.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Creating => "creating",
            Phase::Created => "created",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Exited => "exited",
            Phase::Removing => "removing",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the store keeps of a container.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    pub name: String,
    pub spec: ContainerSpec,
    /// The image's id when the container was made.
    pub image_id: Digest,
    /// `diff_id`s of its lower layers, bottom first.
    pub layers: Vec<Digest>,
    pub created: Timestamp,
    pub phase: Phase,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub exit: Option<ExitStatus>,
    /// Why the last start failed, in words.
    pub error: Option<String>,
    pub process: Option<ProcessRecord>,
    /// What it has while it runs.
    #[serde(flatten)]
    pub networks: Attachments,
    /// The `request_id` of the Create that made it, and who sent it.
    pub request: Option<(String, String)>,
    /// Counted since it was created.
    #[serde(default)]
    pub starts: u32,
    /// The request that started it last (caller, id), and how often it has been started with that: sent again, it starts nothing.
    #[serde(default)]
    pub start_request: Option<(String, String, u32)>,
    /// What the last start could not give in full, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Its processes are frozen. Only while it runs; the truth is in its cgroup, and read from there by a new agent.
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub supervision: Supervision,
    /// Its anonymous volumes go with it.
    #[serde(default)]
    pub remove_volumes: bool,
    /// Its user namespace, from its making to its removal. Records of agents that knew none: the host's.
    #[serde(default)]
    pub userns: Userns,
    /// Its SELinux labels, from its making to its removal. Records of agents that knew none, or on hosts without: none.
    #[serde(default)]
    pub selinux: Labels,
}

impl ContainerRecord {
    /// Docker's word for its state: that of the phase, `paused` or `restarting`.
    pub const fn status(&self) -> &'static str {
        match self.phase {
            Phase::Running if self.paused => "paused",
            Phase::Exited if self.is_restarting() => "restarting",
            phase => phase.name(),
        }
    }

    /// It has ended and is started again at the time that its supervision says.
    pub const fn is_restarting(&self) -> bool {
        matches!(self.phase, Phase::Exited) && self.supervision.next.is_some()
    }
}

/// How to find the processes again. A pid alone proves nothing: the start time goes with it, and the boot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Process 1 of the container, in the host's pid namespace.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat, clock ticks since boot.
    pub start_time: u64,
    pub shim_pid: u32,
    pub shim_start_time: u64,
    /// /proc/sys/kernel/random/boot_id
    pub boot_id: String,
}

/// How a container's first process ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExitStatus {
    /// As a shell says it: the exit code, or 128 + the signal.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    pub oom_killed: bool,
    /// What happened, where it is not the workload's own exit (shim gone, host rebooted, …).
    pub reason: Option<String>,
    pub finished: Timestamp,
    #[serde(default)]
    pub cause: ExitCause,
    /// The cause in words: `stopped by alice (SIGTERM), exit code 143`.
    #[serde(default)]
    pub sentence: String,
}
