//! From a container spec to an isolated process.
//!
//! `plan` decides (pure), `spawn` and `exec` act through the shim. CONTRACT (skeleton to be filled; signatures may grow).
#![forbid(unsafe_code)]
#![allow(clippy::todo, unused_variables, dead_code)]

pub mod seccomp;

use berth_model::image::ImageConfig;
use berth_model::network::NetworkAttachment;
use berth_model::spec::ExecSpec;
use berth_model::{ContainerId, ContainerSpec, ExitStatus};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Parent of all container cgroups: `berth` (relative to the hierarchy roots).
    pub cgroup_parent: String,
    /// Default limit of processes per container; None: no limit.
    pub default_pids: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    // StartFailed{step, errno, detail}, CommandNotFound, CommandNotExecutable, NotRunning, Cgroup{..}, Spec{field, message}, ShimGone, ...
    #[error("{0}")]
    Placeholder(String),
}

/// What a plan is made from, beside the host's abilities.
pub struct PlanInput<'a> {
    pub id: &'a ContainerId,
    pub name: &'a str,
    pub spec: &'a ContainerSpec,
    pub image: &'a ImageConfig,
    /// Contents of the image's /etc/passwd and /etc/group; None: not there.
    pub passwd: Option<&'a [u8]>,
    pub group: Option<&'a [u8]>,
    pub network: Option<&'a NetworkAttachment>,
    pub host_gateway: IpAddr,
    /// Folder for hosts, hostname, resolv.conf (made by spawn), on the host.
    pub state_dir: &'a Path,
}

/// What runs in the end: for inspect and for the plan.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub workdir: String,
    pub user: String,
    pub stop_signal: i32,
}

pub struct Plan {
    pub effective: Effective,
    /// What was asked for and cannot be given in full here.
    pub warnings: Vec<String>,
    // private: the wire plan
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Runtime {}

impl Runtime {
    /// Probes the host, seals the shim into a memfd, compiles the default seccomp profile.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        todo!()
    }
    /// v1, hybrid or v2
    pub fn cgroup_mode(&self) -> &'static str {
        todo!()
    }
    /// What this host cannot do, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        todo!()
    }
    /// Checks a spec without making anything: field name and message of everything that is wrong.
    pub fn check(&self, spec: &ContainerSpec) -> Vec<(String, String)> {
        todo!()
    }
    /// Entrypoint, env, … as they will run, for inspect (no kernel, no files).
    pub fn effective(&self, spec: &ContainerSpec, image: &ImageConfig) -> Result<Effective, RuntimeError> {
        todo!()
    }
    pub fn plan(&self, input: &PlanInput<'_>) -> Result<Plan, RuntimeError> {
        todo!()
    }
    /// Blocking until the workload's execve has succeeded or a step failed. Nothing is left when it fails.
    pub fn spawn(&self, request: SpawnRequest) -> Result<Spawned, RuntimeError> {
        todo!()
    }
    /// Finds a shim of an earlier agent by its socket. None: it is gone (then see `read_exit`).
    pub async fn reconnect(&self, paths: &ContainerPaths, id: &ContainerId) -> Result<Option<Shim>, RuntimeError> {
        todo!()
    }
    /// The exit file a shim left.
    pub fn read_exit(&self, paths: &ContainerPaths) -> Result<Option<ExitStatus>, RuntimeError> {
        todo!()
    }
    /// Kills every process of the container's cgroup (cgroup.kill, else freezer/loop). Returns when the cgroup is empty or `timeout` is over.
    pub fn kill_all(&self, id: &ContainerId, timeout: std::time::Duration) -> Result<(), RuntimeError> {
        todo!()
    }
    /// Did the kernel's OOM killer strike in this container's cgroup?
    pub fn oom_killed(&self, id: &ContainerId) -> bool {
        todo!()
    }
    /// Removes the container's cgroups; gone already is fine.
    pub fn remove_cgroups(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        todo!()
    }
    /// Ids that have cgroups of ours: for recovery.
    pub fn list_cgroups(&self) -> Result<Vec<ContainerId>, RuntimeError> {
        todo!()
    }
    pub fn cgroup_paths(&self, id: &ContainerId) -> Vec<PathBuf> {
        todo!()
    }
    /// Runs one more process in a running container. Blocking until its execve.
    pub fn exec(&self, request: ExecRequest<'_>) -> Result<Exec, RuntimeError> {
        todo!()
    }
}

/// Folders of one container on the host.
#[derive(Clone, Debug)]
pub struct ContainerPaths {
    /// /run/berth/containers/ID: socket, exit file.
    pub run: PathBuf,
    /// /var/lib/berth/containers/ID/log
    pub log: PathBuf,
}

pub struct SpawnRequest {
    pub id: ContainerId,
    pub plan: Plan,
    /// Detached mount of the root.
    pub rootfs: OwnedFd,
    /// Bridge: the namespace to join. None: a new one with only loopback, or the host's, as the plan says.
    pub netns: Option<OwnedFd>,
    pub paths: ContainerPaths,
    /// An attachment from the first byte on (run, interactive).
    pub attach: Option<AttachOptions>,
}

#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub size: Option<(u16, u16)>,
}

pub struct Spawned {
    pub shim: Shim,
    pub attachment: Option<Attachment>,
}

/// The agent's end of a shim: cheap to clone. Dropping all of them leaves shim and container alone.
#[derive(Clone)]
pub struct Shim {}

impl Shim {
    /// Process 1 of the container, in the host's pid namespace, and its start time (/proc/PID/stat field 22).
    pub fn pid(&self) -> (u32, u64) {
        todo!()
    }
    pub fn shim_pid(&self) -> (u32, u64) {
        todo!()
    }
    /// Resolves when the container has ended (many may wait). Err: the shim died without a word and left no exit file.
    pub async fn wait(&self) -> Result<ExitStatus, RuntimeError> {
        todo!()
    }
    /// Tells the shim that its exit status is safe in the store: it may go.
    pub async fn release(&self) {
        todo!()
    }
    /// Through the pidfd: never hits another process.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        todo!()
    }
    pub async fn attach(&self, options: AttachOptions) -> Result<Attachment, RuntimeError> {
        todo!()
    }
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), RuntimeError> {
        todo!()
    }
}

#[derive(Debug)]
pub enum Output {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// Live standard streams of a container or an exec. Dropping it detaches.
pub struct Attachment {}

impl Attachment {
    /// None: both outputs have ended. Nothing is lost and nothing is skipped; a reader that takes nothing for 30 s is cut off by the shim (Err).
    pub async fn next(&mut self) -> Option<Result<Output, RuntimeError>> {
        todo!()
    }
    /// A handle for the input side that lives in another task.
    pub fn input(&self) -> AttachInput {
        todo!()
    }
}

#[derive(Clone)]
pub struct AttachInput {}

impl AttachInput {
    pub async fn write(&self, bytes: &[u8]) -> Result<(), RuntimeError> {
        todo!()
    }
    pub async fn close(&self) -> Result<(), RuntimeError> {
        todo!()
    }
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), RuntimeError> {
        todo!()
    }
}

pub struct ExecRequest<'a> {
    pub id: &'a ContainerId,
    /// Process 1 with its start time.
    pub process: (u32, u64),
    pub container: &'a ContainerSpec,
    pub image: &'a ImageConfig,
    pub spec: &'a ExecSpec,
    pub passwd: Option<&'a [u8]>,
    pub group: Option<&'a [u8]>,
}

/// A running exec.
pub struct Exec {
    pub pid: u32,
    /// None: detached.
    pub attachment: Option<Attachment>,
}

impl Exec {
    pub async fn wait(&self) -> Result<ExitStatus, RuntimeError> {
        todo!()
    }
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        todo!()
    }
}
