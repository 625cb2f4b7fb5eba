//! What keeps a container going, and why a run of it ended: restart policy, health, dependencies, endings and their causes.

use crate::{Timestamp, network::Attachments};
use serde::{Deserialize, Serialize};
use std::fmt;

/// When a container is started again after its end; Docker's `--restart`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    #[default]
    No,
    /// Also when the agent comes up, whoever stopped it before.
    Always,
    OnFailure {
        /// Restarts in a row; 0: without limit.
        max: u32,
    },
    /// As `Always`, but what a person has stopped stays stopped, over restarts of agent and host too.
    UnlessStopped,
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestartPolicy::No => f.write_str("no"),
            RestartPolicy::Always => f.write_str("always"),
            RestartPolicy::OnFailure { max: 0 } => f.write_str("on-failure"),
            RestartPolicy::OnFailure { max } => write!(f, "on-failure:{max}"),
            RestartPolicy::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// Who wants a run to end, and what follows: written down before the signal is sent, so that the end is told as what it is even when
/// the agent dies in between.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ending {
    /// The caller's name; empty: the agent itself.
    pub by: String,
    pub kind: EndingKind,
    /// The signal that was sent first.
    pub signal: i32,
    pub time: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndingKind {
    /// A person wants it stopped: it is not started again.
    Stop,
    /// A person sent the signal that ends it: as `Stop`.
    Kill,
    /// A person sent another signal, which may end it or not; the policy decides.
    Signal,
    /// All containers of the host are stopped; what should run comes back with the agent.
    Shutdown,
    /// The health check failed, and the container asks to be stopped then.
    UnhealthyStop,
    /// The health check failed, and the container asks to be killed then; the policy decides.
    UnhealthyKill,
    /// The health check failed, and the container asks to be started anew then.
    UnhealthyRestart,
}

/// Why a run ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// By itself, with its code; or nobody knows better (records of older agents).
    #[default]
    Exited,
    /// By a signal that no caller sent.
    Signalled,
    /// A caller's stop.
    Stopped {
        by: String,
        signal: i32,
    },
    /// A caller's signal.
    Killed {
        by: String,
        signal: i32,
    },
    /// The kernel killed for want of memory.
    OutOfMemory {
        /// Folder of the container's memory cgroup.
        cgroup: String,
        /// Its limit; `None`: it had none, the host was out of memory.
        limit_bytes: Option<u64>,
    },
    /// The agent ended it, as its health check failed.
    Unhealthy,
    /// All containers of the host were stopped; by whom, empty: with the agent.
    Shutdown {
        by: String,
    },
    HostRebooted,
    ShimKilled,
}

impl ExitCause {
    /// One word for machines.
    pub const fn name(&self) -> &'static str {
        match self {
            ExitCause::Exited => "exited",
            ExitCause::Signalled => "signalled",
            ExitCause::Stopped { .. } => "stopped",
            ExitCause::Killed { .. } => "killed",
            ExitCause::OutOfMemory { .. } => "oom",
            ExitCause::Unhealthy => "unhealthy",
            ExitCause::Shutdown { .. } => "shutdown",
            ExitCause::HostRebooted => "host-rebooted",
            ExitCause::ShimKilled => "shim-killed",
        }
    }
}

/// Why a start failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StartFailure {
    /// The act with its input: `mounting proc on /proc`.
    pub step: String,
    /// The kernel's error number, where it was the kernel's word.
    pub errno: Option<i32>,
    /// As Docker's `run`: 125, 126 (not executable) or 127 (not found).
    pub exit_code: i32,
    pub time: Timestamp,
}

/// A health check as it was asked for. What is empty or 0 is the image's, else Docker's default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `["NONE"]`, `["CMD", program, argument…]`, `["CMD-SHELL", line]`, or empty.
    pub test: Vec<String>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    /// Failures do not count for so long, until the first success.
    pub start_period_ms: u64,
    /// The interval within the start period.
    pub start_interval_ms: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// What becomes of a container that is unhealthy; Podman's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthAction {
    #[default]
    None,
    Restart,
    Stop,
    /// Its restart policy decides then.
    Kill,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// No probe has succeeded yet, and not too many have failed.
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub const fn name(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// How a container's health checks went.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HealthState {
    pub status: HealthStatus,
    /// Failures in a row that count.
    pub failing_streak: u32,
    /// The last ones, oldest first.
    pub log: Vec<ProbeResult>,
}

/// One run of a health check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProbeResult {
    pub start: Timestamp,
    pub end: Timestamp,
    /// 0: healthy; -1: it took too long.
    pub exit_code: i32,
    /// The beginning of what it wrote.
    pub output: String,
}

/// A container that another one starts after.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct After {
    /// As the caller wrote it: a name is looked up at each start.
    pub container: String,
    pub condition: AfterCondition,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterCondition {
    /// It runs.
    #[default]
    Started,
    /// Its health check has succeeded.
    Healthy,
    /// It has ended with code 0.
    Completed,
}

/// What the agent remembers of a container to keep it going.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Supervision {
    /// Starts by the policy since a person started it last.
    pub restarts: u32,
    /// When it is started again; `None`: it is not.
    pub next: Option<Timestamp>,
    /// The pause before `next`, in milliseconds; the one behind it is twice as long.
    pub pause_ms: u64,
    /// Failed starts by the policy since it ran last.
    pub failed_starts: u32,
    /// A person stopped it and nobody has started it since.
    pub stopped: bool,
    /// Who wants the present run to end, or ended the last one.
    pub ending: Option<Ending>,
    /// Why the last start failed.
    pub failure: Option<StartFailure>,
    /// What the last run had: the next one asks for the same addresses and ports.
    #[serde(flatten)]
    pub networks: Attachments,
    /// How its health checks stand; `None`: it has none. Results that changed nothing may be missing here.
    pub health: Option<HealthState>,
}

impl Supervision {
    /// A start has succeeded: nothing is pending any more.
    pub fn has_started(&mut self) {
        self.next = None;
        self.failed_starts = 0;
        self.failure = None;
        self.networks.clear();
    }
}
