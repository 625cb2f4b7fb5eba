//! The core of the agent: order, undo, state, store, events, recovery, GC.
//!
//! CONTRACT (skeleton to be filled; signatures may grow).
#![forbid(unsafe_code)]
#![allow(clippy::todo, unused_variables, dead_code)]

mod error;
mod events;
pub mod fail;
mod names;
mod store;
#[cfg(test)]
mod testing;
mod view;
pub use error::NodeError;
pub use view::*;

use berth_image::{Auth, ImagesConfig};
use berth_model::spec::ExecSpec;
use berth_model::{ContainerId, ExitStatus, Platform, Reference, Timestamp};
use berth_network::NetworkConfig;
use berth_rootfs::Driver;
use berth_runtime::RuntimeConfig;
use std::path::PathBuf;
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
