//! The core of the agent: order, undo, state, store, events, recovery, GC.
//!
//! CONTRACT (skeleton to be filled; signatures may grow).
#![forbid(unsafe_code)]
#![allow(clippy::todo, unused_variables, dead_code)]

use berth_image::{Auth, ImagesConfig, Progress};
use berth_model::event::Event;
use berth_model::image::ImageRecord;
use berth_model::spec::ExecSpec;
use berth_model::{ContainerId, ContainerRecord, ContainerSpec, ExitStatus, Platform, Reference, Timestamp};
use berth_network::NetworkConfig;
use berth_rootfs::Driver;
use berth_runtime::{AttachInput, Effective, Output, RuntimeConfig};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// /var/lib/berth: must survive reboots.
    pub data_root: PathBuf,
    /// /run/berth: sockets of shims, exit files.
    pub run_root: PathBuf,
    pub images: ImagesConfig,
    pub layer_driver: Driver,
    pub network: NetworkConfig,
    pub runtime: RuntimeConfig,
    /// Events kept.
    pub event_history: usize,
}

/// Everything that can go wrong, by what a caller can do about it. `agent/status.rs` maps each to a gRPC status with a stable reason.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("no such container: {0}")]
    ContainerNotFound(String),
    #[error("no such image: {0}")]
    ImageNotFound(String),
    #[error("id prefix {0:?} fits more than one {1}")]
    Ambiguous(String, &'static str),
    #[error("the name {name:?} is in use by container {by}")]
    NameInUse { name: String, by: ContainerId },
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("container {0} is running: stop it first, or use force")]
    Running(String),
    #[error("image {image} is in use by container {by}")]
    ImageInUse { image: String, by: String },
    /// Field errors of a spec, all at once.
    #[error("the request has invalid fields")]
    Invalid(Vec<(String, String)>),
    #[error("container {0} has no terminal")]
    NoTerminal(String),
    #[error("container {0} has too much to do; try again")]
    Busy(String),
    #[error("event cursor {asked} is ahead of this node's newest, {newest}")]
    CursorInFuture { asked: u64, newest: u64 },
    #[error("request id was used before for something else")]
    RequestIdReused,
    #[error(transparent)]
    Image(#[from] berth_image::ImageError),
    #[error(transparent)]
    Rootfs(#[from] berth_rootfs::RootfsError),
    #[error(transparent)]
    Network(#[from] berth_network::NetworkError),
    #[error(transparent)]
    Runtime(#[from] berth_runtime::RuntimeError),
    #[error("{act}: {source}")]
    Store { act: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{act}: {source}")]
    Io { act: String, source: std::io::Error },
    #[error("the agent is stopping")]
    Stopping,
}

/// Who asks: for idempotency keys and for events.
#[derive(Clone, Debug, Default)]
pub struct Requester {
    /// The caller's name (certificate's CN, or `uid:0` on the Unix socket).
    pub caller: String,
    /// The client's request_id; empty: none.
    pub request_id: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PullPolicy {
    #[default]
    Missing,
    Always,
    Never,
}

/// What a pull ended with.
#[derive(Clone, Debug)]
pub struct PullOutcome {
    pub image: Arc<ImageRecord>,
    pub reference: Reference,
    pub up_to_date: bool,
    pub fetched_bytes: u64,
}

pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

#[derive(Clone)]
pub struct CreateRequest {
    pub spec: ContainerSpec,
    pub pull: PullPolicy,
    pub auth: Option<Auth>,
    pub platform: Option<Platform>,
    pub progress: ProgressFn,
}

#[derive(Clone, Debug)]
pub struct Created {
    pub id: ContainerId,
    pub name: String,
    pub warnings: Vec<String>,
}

/// An image with its names and users, for lists.
#[derive(Clone, Debug)]
pub struct ImageView {
    pub record: Arc<ImageRecord>,
    /// Full names.
    pub tags: Vec<Reference>,
    pub containers: u32,
}

#[derive(Clone, Debug, Default)]
pub struct RemovedImage {
    pub untagged: Vec<String>,
    pub deleted: Vec<String>,
    pub freed_bytes: u64,
}

/// A container with what is worked out beside its record.
#[derive(Clone, Debug)]
pub struct ContainerView {
    pub record: Arc<ContainerRecord>,
    pub effective: Arc<Effective>,
}

#[derive(Clone, Debug)]
pub struct ContainerDetail {
    pub view: ContainerView,
    pub log_path: PathBuf,
    pub upper_path: PathBuf,
    pub cgroup_paths: Vec<PathBuf>,
}

/// Live streams of a container or an exec.
pub struct Streams {
    pub tty: bool,
    /// Output in order; closed behind the last byte. Err: this reader was cut off.
    pub output: mpsc::Receiver<Result<Output, NodeError>>,
    pub input: AttachInput,
}

#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    pub follow: bool,
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Clone, Debug)]
pub struct LogEntry {
    pub time: Timestamp,
    pub stderr: bool,
    pub line: Vec<u8>,
    pub partial: bool,
}

#[derive(Clone, Debug)]
pub enum EventItem {
    Event(Arc<Event>),
    HistoryLost { asked: u64, oldest: u64 },
}

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub hostname: String,
    pub operating_system: String,
    pub kernel_version: String,
    pub architecture: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub cgroup_mode: String,
    pub layer_store: String,
    pub data_root: String,
    pub created: u32,
    pub running: u32,
    pub exited: u32,
    pub images: u32,
    pub features: Vec<(String, bool)>,
    pub warnings: Vec<String>,
    pub started: Timestamp,
    pub boot_id: String,
    pub disk_free_bytes: u64,
    pub disk_total_bytes: u64,
}

/// The node. Cheap to clone.
#[derive(Clone)]
pub struct Node {}

impl Node {
    /// Opens the store, finds every container again, cleans up what is half done, and is ready to serve.
    pub async fn open(config: NodeConfig) -> Result<Node, NodeError> {
        todo!()
    }
    /// Stops taking work and lets running work end; containers go on.
    pub async fn close(&self) {
        todo!()
    }

    pub async fn pull(
        &self,
        who: &Requester,
        reference: &Reference,
        platform: Option<Platform>,
        auth: Option<Auth>,
        progress: ProgressFn,
    ) -> Result<PullOutcome, NodeError> {
        todo!()
    }
    pub fn images(&self) -> Vec<ImageView> {
        todo!()
    }
    /// By name, id or prefix.
    pub fn image(&self, name: &str) -> Result<ImageView, NodeError> {
        todo!()
    }
    pub async fn remove_image(&self, who: &Requester, name: &str, force: bool) -> Result<RemovedImage, NodeError> {
        todo!()
    }
    pub async fn tag_image(&self, who: &Requester, source: &str, target: &Reference) -> Result<ImageView, NodeError> {
        todo!()
    }

    pub async fn create(&self, who: &Requester, request: CreateRequest) -> Result<Created, NodeError> {
        todo!()
    }
    /// true: it ran already.
    pub async fn start(&self, who: &Requester, container: &str) -> Result<(ContainerId, bool), NodeError> {
        todo!()
    }
    /// Starts a container that `create` gave with an attachment from its first byte on.
    pub async fn start_attached(
        &self,
        who: &Requester,
        container: &str,
        stdin: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Streams, NodeError> {
        todo!()
    }
    /// None: it did not run, or there is none.
    pub async fn stop(
        &self,
        who: &Requester,
        container: &str,
        timeout_secs: Option<u32>,
        signal: Option<&str>,
    ) -> Result<(Option<ContainerId>, Option<ExitStatus>), NodeError> {
        todo!()
    }
    pub async fn kill(&self, who: &Requester, container: &str, signal: Option<&str>) -> Result<ContainerId, NodeError> {
        todo!()
    }
    pub async fn wait(&self, container: &str) -> Result<(ContainerId, ExitStatus), NodeError> {
        todo!()
    }
    /// None: there was none.
    pub async fn remove(
        &self,
        who: &Requester,
        container: &str,
        force: bool,
    ) -> Result<Option<ContainerId>, NodeError> {
        todo!()
    }
    /// Newest first; cheap: from memory.
    pub fn containers(&self) -> Vec<ContainerView> {
        todo!()
    }
    pub fn container(&self, name: &str) -> Result<ContainerDetail, NodeError> {
        todo!()
    }
    pub async fn logs(
        &self,
        container: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<Result<Vec<LogEntry>, NodeError>>, NodeError> {
        todo!()
    }
    pub async fn attach(
        &self,
        who: &Requester,
        container: &str,
        stdin: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Streams, NodeError> {
        todo!()
    }
    pub async fn resize(&self, container: &str, rows: u16, columns: u16) -> Result<(), NodeError> {
        todo!()
    }
    pub async fn exec(&self, who: &Requester, container: &str, spec: ExecSpec) -> Result<NodeExec, NodeError> {
        todo!()
    }

    /// Entries behind `cursor`, then live ones. Bounded: a reader that falls behind gets an Err and the end.
    pub fn events(
        &self,
        cursor: u64,
        since: Option<Timestamp>,
    ) -> Result<mpsc::Receiver<Result<EventItem, NodeError>>, NodeError> {
        todo!()
    }
    pub fn info(&self) -> NodeInfo {
        todo!()
    }
}

pub struct NodeExec {
    pub exec_id: String,
    pub pid: u32,
    /// None: detached.
    pub streams: Option<Streams>,
}

impl NodeExec {
    pub async fn wait(&self) -> Result<ExitStatus, NodeError> {
        todo!()
    }
    pub fn signal(&self, signal: &str) -> Result<(), NodeError> {
        todo!()
    }
}
