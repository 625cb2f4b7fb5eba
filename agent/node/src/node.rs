//! What all parts of the node share.

use crate::container::Containers;
use crate::counts::Counts;
use crate::events::Events;
use crate::images::ImageIndex;
use crate::layers::Layers;
use crate::logs::{Forwarders, LogWatch};
use crate::nets::Nets;
use crate::places::Places;
use crate::reaper::Job;
use crate::requests::Requests;
use crate::resolver::Resolver;
use crate::stats::Stats;
use crate::store::Store;
use crate::timers::Timers;
use crate::{NodeConfig, NodeError};
use berth_image::Images;
use berth_model::{ContainerId, Platform, Timestamp};
use berth_network::Networks;
use berth_runtime::{ContainerPaths, Runtime};
use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

/// A start waits for the kernel more than it works; more of them at once take no less time in all, and hold up what people ask for.
pub(crate) const RESTARTS_AT_ONCE: usize = 8;

/// See [`Inner::beside`].
pub(crate) const BESIDE: usize = 64;

pub(crate) struct Inner {
    pub config: NodeConfig,
    pub boot_id: String,
    pub started: Timestamp,
    pub platform: Platform,
    pub store: Store,
    pub events: Events,
    pub requests: Requests,
    pub containers: Arc<Containers>,
    pub images: ImageIndex,
    pub layers: Layers,
    pub registry: Images,
    pub networks: Networks,
    pub cni: berth_cni::Cni,
    pub cdi_dirs: Vec<std::path::PathBuf>,
    pub nets: Nets,
    pub resolver: Resolver,
    pub volumes: crate::volumes::Volumes,
    pub runtime: Runtime,
    pub userns: crate::userns::Ranges,
    pub pairs: crate::selinux::Pairs,
    pub own_folders: crate::selinux::Own,
    pub stats: Stats,
    pub counts: Counts,
    pub reaper: mpsc::Sender<Job>,
    /// Room for work beside its caller: far less than the threads that may block (512).
    pub room_beside: Arc<Semaphore>,
    /// Copies, exports and the like at once: each has a thread for as long as its caller takes.
    pub copies: Places,
    /// Diffs at once: who only looks holds up no copy.
    pub diffs: Places,
    pub timers: Timers,
    /// Starts by policy, side by side.
    pub restarts: Arc<Semaphore>,
    pub forwarders: Forwarders,
    pub log_watch: Arc<LogWatch>,
    /// Health checks under way.
    pub probes: Semaphore,
    /// Work that runs to its end when the node is closed.
    pub tasks: TaskTracker,
    /// Tasks that wait for something that may never come; they end with `stop`.
    pub watchers: TaskTracker,
    pub stop: CancellationToken,
    /// As they were when the node was opened.
    pub other_runtimes: Vec<berth_runtime::OtherFound>,
    /// Containers that run and that a repaired database does not know.
    pub spared: Mutex<Vec<ContainerId>>,
    /// Held as long as anything of this node lives: two agents over the same folders would take each other's containers for orphans.
    pub _lock: File,
}

impl Inner {
    /// /var/lib/berth/containers/ID: log, and upper and work, or `own` with these where they have a limit.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.data_root.join("containers").join(id.as_str())
    }

    pub fn paths(&self, id: &ContainerId) -> ContainerPaths {
        ContainerPaths {
            run: self.config.run_root.join("containers").join(id.as_str()),
            log: self.container_dir(id).join("log"),
        }
    }

    /// Runs work that must not be cut in the middle when its caller goes away.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, NodeError>> + Send + 'static,
    ) -> Result<T, NodeError> {
        if self.stop.is_cancelled() {
            return Err(NodeError::Stopping);
        }
        joined(self.tasks.spawn(work.in_current_span()).await)
    }

    /// Runs blocking work on a thread that may block.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let span = Span::current();
        joined(self.tasks.spawn_blocking(move || span.in_scope(work)).await)
    }

    /// Runs blocking work on another thread, from a thread that may block and will join it: `unused` takes the outcome of work that nobody
    /// joins. Where much is under way the work is done here and now, so that the threads never all wait for each other.
    pub fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        unused: impl FnOnce(T) + Send + 'static,
    ) -> Beside<T> {
        let Ok(room) = self.room_beside.clone().try_acquire_owned() else { return Beside::Done(work()) };
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let span = Span::current();
        self.tasks.spawn_blocking(move || {
            let done = span.in_scope(work);
            drop(room);
            // Err: who waited for it has panicked.
            if let Err(std::sync::mpsc::SendError(done)) = send.send(done) {
                unused(done);
            }
        });
        Beside::Running(receive)
    }

    /// Hands a job to the reaper.
    pub async fn reap(&self, job: Job) {
        // Err: the node is closed; the next one finds the leftovers.
        if self.reaper.send(job).await.is_err() {
            tracing::debug!("the reaper has ended");
        }
    }
}

/// Work that goes on beside its caller.
pub(crate) enum Beside<T> {
    Done(T),
    Running(std::sync::mpsc::Receiver<T>),
}

impl<T> Beside<T> {
    /// Waits for it.
    pub fn join(self) -> Result<T, NodeError> {
        match self {
            Beside::Done(done) => Ok(done),
            Beside::Running(receive) => receive.recv().map_err(|_| NodeError::Stopping),
        }
    }
}

fn joined<T>(result: Result<Result<T, NodeError>, tokio::task::JoinError>) -> Result<T, NodeError> {
    match result {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(NodeError::Stopping),
        },
    }
}
