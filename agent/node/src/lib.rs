//! The core of the agent: order, undo, state, store, events, recovery, GC.
//!
//! Entry point: [`Node::open`], then the methods of [`Node`]. Everything they need to answer a list is in memory; what survives the
//! agent is in the store (`store.rs`), written by one thread.
//!
//! - A container's state belongs to whoever holds its gate (`container.rs`); the gate's queue is bounded, and full is an error.
//! - An operation that has begun runs to its end, whether its caller stays or not; only pulls go with their callers.
//! - `create.rs`, `start.rs`, `exit.rs`, `stop.rs`, `remove.rs` are a container's life in this order; what nobody waits for is done by
//!   the reaper (`reaper.rs`), and found again by `recover.rs` when the agent dies before.
//! - `policy.rs` decides at each end whether it is the last one; `timers.rs` is the one clock for what is due later.
//! - `health.rs` probes, `after.rs` knows who starts after whom, `boot.rs` and `shutdown.rs` do it for all.
//! - `inside.rs` is what callers have of one container while it is there, `about.rs` what they learn of the node as a whole.
//! - Channels in: none. Channels out: streams of containers, logs and events, each bounded.
//!
//! What it does not do: no gRPC, no TLS, no authorisation (the agent's API above), no system calls (sys below).
#![forbid(unsafe_code)]

mod about;
mod after;
mod boot;
mod cause;
mod cdi;
mod changes;
mod check;
mod cni;
mod commit;
mod container;
mod copy;
mod counts;
mod create;
mod doctor;
mod error;
mod events;
mod exec;
mod exit;
pub mod fail;
mod forward;
#[cfg(fuzzing)]
pub mod fuzz;
mod gc;
mod health;
mod images;
mod info;
mod inside;
mod layers;
mod logs;
mod names;
mod nets;
mod network_change;
mod network_connect;
mod node;
mod own;
mod pause;
mod places;
mod policy;
mod publish;
mod reaper;
mod recover;
mod remove;
mod rename;
mod requests;
mod resolver;
mod restart;
mod root;
mod selinux;
mod session;
mod shares;
mod shutdown;
mod start;
mod stats;
mod stop;
mod store;
mod streams;
#[cfg(test)]
mod testing;
mod timers;
mod top;
mod update;
mod usage;
mod userns;
mod view;
mod volumes;
mod wait;

pub use berth_cdi::{Name as CdiName, check_kind as check_cdi_kind};
pub use berth_tar::Extracted;
pub use check::{Checked, Condition};
pub use cni::CniSettings;
pub use container::Hold;
pub use copy::Pieces;
pub use counts::{Distribution, Figures, Histogram, Measured};
pub use doctor::{Finding, Verdict};
pub use error::NodeError;
pub use exec::NodeExec;
pub use forward::{Dialed, Run};
pub use gc::policy::{Basis, ContainerRule, GcConfig, ImageRule, Keep, LabelFilter, Policy, Watermarks};
pub use info::{host_cpus, host_memory_nodes};
pub use logs::{BadLogCursor, LogCursor, LogPosition};
pub use nets::AddressPool;
pub use session::ResumedSession;
pub use shares::{Full, Own, Share, Shares};
pub use shutdown::Shut;
pub use stats::{ContainerSample, Sample, StatsWatch};
pub use store::{Repaired, Schema};
pub use top::Processes;
pub use update::{ContainerUpdate, ResourceUpdate};
pub use userns::UsernsConfig;
pub use view::*;
pub use volumes::{ExportItem, Had, ImportItem, ImportRequest};

use crate::container::Container;
use crate::requests::{Begin, Ticket, fingerprint};
use crate::store::Durability;
use berth_image::{Auth, ImagesConfig};
use berth_model::event::EventKind;
use berth_model::{ContainerId, ExitStatus, Phase, Platform, Reference};
use berth_network::NetworkConfig;
use berth_rootfs::Driver;
use berth_runtime::{AttachOptions, Attachment, RuntimeConfig};
use berth_volume::held::Shared;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Target of the spans of what is done for a call: at level debug, which costs nothing where nobody collects them.
pub const TRACE: &str = "berth_trace";

/// Work under way may take this long when the node is closed; longer, and the next opening goes on with it.
const CLOSE: Duration = Duration::from_secs(10);

/// Where a node keeps its things, and what its parts are told.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// /var/lib/berth: must survive reboots.
    pub data_root: PathBuf,
    /// /run/berth: sockets of shims, exit files.
    pub run_root: PathBuf,
    pub images: ImagesConfig,
    pub layer_driver: Driver,
    pub network: NetworkConfig,
    /// Where subnets of networks come from that say none.
    pub pools: Vec<AddressPool>,
    pub cni: CniSettings,
    /// Where descriptions of CDI devices are.
    pub cdi_dirs: Vec<PathBuf>,
    pub runtime: RuntimeConfig,
    /// What the own files of a container may take that does not say it; `None`: there is no limit.
    pub default_storage_bytes: Option<u64>,
    /// Events kept.
    pub event_history: usize,
    /// What goes by itself.
    pub gc: GcConfig,
    pub logs: LogsConfig,
    pub userns: UsernsConfig,
    /// Folders of the host that others than its admins may mount, and so change: no mount is led out of them by a link.
    pub shared_paths: Shared,
}

/// What holds for the output of all containers.
#[derive(Clone, Debug)]
pub struct LogsConfig {
    /// Bytes of all containers' logs together; beyond, the oldest full files go.
    pub host_max_bytes: Option<u64>,
    pub journald_socket: PathBuf,
}

impl Default for LogsConfig {
    fn default() -> Self {
        LogsConfig { host_max_bytes: None, journald_socket: "/run/systemd/journal/socket".into() }
    }
}

/// The node. Cheap to clone; when the last clone goes, its tasks end and containers go on.
#[derive(Clone)]
pub struct Node {
    handle: Arc<Handle>,
}

struct Handle(Arc<node::Inner>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}

impl Node {
    /// Opens the store, finds every container again, cleans up what is half done, and is ready to serve.
    ///
    /// # Errors
    /// `Store`: the database is damaged, from a newer agent, or in use; `Io`: a folder cannot be made or is another agent's; and what the
    /// parts say.
    pub async fn open(config: NodeConfig) -> Result<Node, NodeError> {
        let inner = recover::open(config).await?;
        Ok(Node { handle: Arc::new(Handle(inner)) })
    }

    /// Makes a new database of what can be read of a damaged one and of its last copy (blocking). `None`: it is whole. Containers run on;
    /// those that run and are not known any more are left alone when the node is opened.
    ///
    /// # Errors
    /// `Io`: an agent runs; `Store`: it is from a newer agent, or the new one cannot be written.
    pub fn repair(config: &NodeConfig) -> Result<Option<Repaired>, NodeError> {
        recover::repair(config)
    }

    /// Stops taking work and lets running work end; containers go on.
    pub async fn close(&self) {
        let inner = self.inner();
        inner.stop.cancel();
        inner.watchers.close();
        inner.tasks.close();
        let ended = async {
            inner.watchers.wait().await;
            inner.tasks.wait().await;
        };
        if tokio::time::timeout(CLOSE, ended).await.is_err() {
            tracing::warn!("work under way did not end; the next start goes on with it");
        }
        let event = inner.events.add(EventKind::Node, "stop", "node", BTreeMap::new());
        let _ = inner.store.submit(vec![event], Durability::Quick).await;
        if let Err(e) = inner.store.close().await {
            tracing::warn!(error = %e, "closing the store");
        }
    }

    fn inner(&self) -> &Arc<node::Inner> {
        &self.handle.0
    }

    /// Fetches an image. Dropping the future stops the work that nobody else waits for.
    ///
    /// # Errors
    /// `Image` (see [`berth_image::ImageError`]), `RequestIdReused`, `Store`.
    pub async fn pull(
        &self,
        who: &Requester,
        reference: &Reference,
        platform: Option<Platform>,
        auth: Option<Auth>,
        progress: ProgressFn,
    ) -> Result<PullOutcome, NodeError> {
        let inner = self.inner();
        let ticket = loop {
            match inner.requests.begin(who, "Pull", fingerprint(&(reference, &platform))).await? {
                Begin::New(ticket) => break ticket,
                Begin::Answered(id) => match images::get(inner, &id) {
                    Ok(view) => {
                        let reference = reference.clone();
                        return Ok(PullOutcome { image: view.record, reference, up_to_date: true, fetched_bytes: 0 });
                    }
                    Err(_) => inner.requests.forget(who),
                },
            }
        };
        let outcome = images::pull(inner, &who.caller, reference, platform, auth, progress).await?;
        self.answered(ticket, outcome.image.id.as_str()).await;
        Ok(outcome)
    }

    /// Every image, newest first; from memory.
    pub fn images(&self) -> Vec<ImageView> {
        images::list(self.inner())
    }

    /// By name, id or prefix.
    pub fn image(&self, name: &str) -> Result<ImageView, NodeError> {
        images::get(self.inner(), name)
    }

    /// Takes a name away; with the last one (or with `force`) the image and the layers that nothing else uses. Gone already is fine.
    ///
    /// # Errors
    /// `ImageInUse`: a container was made from it (with `force`: one that runs).
    pub async fn remove_image(&self, _who: &Requester, name: &str, force: bool) -> Result<RemovedImage, NodeError> {
        let (inner, name) = (self.inner().clone(), name.to_owned());
        self.inner().to_its_end(async move { images::remove(&inner, &name, force).await }).await
    }

    /// One more name for an image; a name of another image moves.
    pub async fn tag_image(&self, _who: &Requester, source: &str, target: &Reference) -> Result<ImageView, NodeError> {
        let (inner, source, target) = (self.inner().clone(), source.to_owned(), target.clone());
        self.inner().to_its_end(async move { images::tag(&inner, &source, &target).await }).await
    }

    /// Makes a container, pulling its image where the policy says so.
    ///
    /// # Errors
    /// `Invalid` with every wrong field; `NameInUse`, `ImageNotFound`, `RequestIdReused`; `Image` where it pulls.
    pub async fn create(&self, who: &Requester, request: CreateRequest) -> Result<Created, NodeError> {
        create::create(self.inner(), who, request).await
    }

    /// Starts a container that `create` gave, when the same request is sent once more: one that has run is not run again.
    pub async fn start_again(&self, who: &Requester, container: &str) -> Result<(), NodeError> {
        let (found, inner) = (self.find(container)?, self.inner().clone());
        // Behind a start that is under way.
        drop(found.enter().await?);
        if has_run(&found) { Ok(()) } else { self.start_found(who, &inner, found).await }
    }

    async fn start_found(
        &self,
        _who: &Requester,
        inner: &Arc<node::Inner>,
        found: Arc<Container>,
    ) -> Result<(), NodeError> {
        let inner_ = inner.clone();
        let started = inner.to_its_end(async move {
            let gate = found.enter().await?;
            start::start(&inner_, gate, None).await
        });
        started.await.map(drop)
    }

    /// true: it ran already.
    pub async fn start(&self, who: &Requester, container: &str) -> Result<(ContainerId, bool), NodeError> {
        let inner = self.inner();
        let Some(ticket) = self.begin(who, "Start", &container).await? else {
            return Ok((self.find(container)?.id.clone(), true));
        };
        let (container, inner_) = (self.find(container)?, inner.clone());
        let id = container.id.clone();
        let request = (!who.request_id.is_empty()).then(|| (who.caller.clone(), who.request_id.clone()));
        let started = inner
            .to_its_end(async move {
                after::before_start(&inner_, &container).await?;
                let mut gate = container.enter().await?;
                if let Some((caller, request_id)) = request {
                    // An agent before this one has started it for this request, and could not say so.
                    if !start::is_first_for(&mut gate, caller, request_id) {
                        return Ok(start::Started { already: true, attachment: None });
                    }
                }
                start::start(&inner_, gate, None).await
            })
            .await?;
        self.answered(ticket, id.as_str()).await;
        Ok((id, started.already))
    }

    /// Starts a container with an attachment from its first byte on. One that runs is attached to.
    ///
    /// # Errors
    /// `SessionLost`: it was asked for before, and has been started: by the caller's request, or, without a request_id, where this is not
    /// the first time (`again`) and `create` gave the container for it.
    pub async fn start_attached(
        &self,
        who: &Requester,
        container: &str,
        stdin: bool,
        size: Option<(u16, u16)>,
        session: Option<SessionRequest>,
        again: bool,
    ) -> Result<Streams, NodeError> {
        let inner = self.inner();
        let (container, inner_) = (self.find(container)?, inner.clone());
        let tty = container.record().spec.tty;
        let name = container.record().name.clone();
        let socket = session.as_ref().map(|s| s.name.clone());
        let session = self.new_session(&container, session, stdin)?;
        let request = (!who.request_id.is_empty()).then(|| (who.caller.clone(), who.request_id.clone()));
        let started = inner
            .to_its_end(async move {
                after::before_start(&inner_, &container).await?;
                let mut gate = container.enter().await?;
                let lost = match request {
                    Some((caller, request_id)) => !start::is_first_for(&mut gate, caller, request_id),
                    None => again && has_run(&container),
                };
                if lost {
                    return Err(NodeError::SessionLost);
                }
                start::start(&inner_, gate, Some(AttachOptions { stdin, size, session })).await
            })
            .await;
        if let (Err(e), Some(socket)) = (&started, socket)
            && !matches!(e, NodeError::SessionLost)
        {
            session::forget(inner, socket, true);
        }
        let started = started?;
        let attachment: Attachment = started.attachment.ok_or(NodeError::NotRunning(name))?;
        Ok(streams::pump(attachment, tty))
    }

    /// Stop signal, grace (`timeout_secs`, else the container's, else 10), kill of the whole cgroup. No id: it did not run, or there is
    /// none; a status beside it is that of its last run.
    ///
    /// # Errors
    /// `StillRunning`: the kernel holds a process of it; `Invalid`: no such signal.
    pub async fn stop(
        &self,
        who: &Requester,
        container: &str,
        timeout_secs: Option<u32>,
        signal: Option<&str>,
    ) -> Result<(Option<ContainerId>, Option<ExitStatus>), NodeError> {
        let signal = stop::parse_signal(signal)?;
        let found = match self.find(container) {
            Err(NodeError::ContainerNotFound(_)) => {
                return Ok((None, self.inner().containers.departed(container).map(|(_, exit)| exit)));
            }
            found => found?,
        };
        let Some(ticket) = self.begin(who, "Stop", &(container, timeout_secs, signal)).await? else {
            return Ok((None, found.record().exit.clone()));
        };
        let (inner, container) = (self.inner().clone(), found.clone());
        let by = who.caller.clone();
        let stopped = self
            .inner()
            .to_its_end(async move { stop::stop(&inner, &container, timeout_secs, signal, &by).await })
            .await?;
        self.answered(ticket, found.id.as_str()).await;
        Ok(match stopped {
            stop::Stopped::Now(status) => (Some(found.id.clone()), Some(status)),
            stop::Stopped::Before(status) => (None, status),
        })
    }

    /// Sends a signal (None: SIGKILL) to the first process; SIGKILL goes to the whole cgroup.
    ///
    /// # Errors
    /// `NotRunning`; `Invalid`: no such signal.
    pub async fn kill(&self, who: &Requester, container: &str, signal: Option<&str>) -> Result<ContainerId, NodeError> {
        let number = stop::parse_signal(signal)?.unwrap_or(berth_runtime::signal::SIGKILL);
        let found = self.find(container)?;
        let Some(ticket) = self.begin(who, "Kill", &(container, number)).await? else { return Ok(found.id.clone()) };
        let (inner, container) = (self.inner().clone(), found.clone());
        let by = who.caller.clone();
        self.inner().to_its_end(async move { stop::kill(&inner, &container, number, &by).await }).await?;
        self.answered(ticket, found.id.as_str()).await;
        Ok(found.id.clone())
    }

    /// Waits until it has ended; many may wait. One that was auto-removed a short while ago still answers.
    pub async fn wait(&self, container: &str) -> Result<(ContainerId, ExitStatus), NodeError> {
        stop::wait(self.inner(), container).await
    }

    /// Waits for a condition. The status is that of the end that was waited for; none for one that runs, or never did.
    ///
    /// # Errors
    /// `ContainerNotFound`: there is none, or it went and the condition can no longer come; `NoHealthCheck`.
    pub async fn wait_for(
        &self,
        container: &str,
        condition: WaitCondition,
    ) -> Result<(ContainerId, Option<ExitStatus>), NodeError> {
        wait::wait_for(self.inner(), container, condition).await
    }

    /// Removes it with its files and logs; `force` kills it first; `volumes`: its anonymous volumes go, too. None: there was none.
    ///
    /// # Errors
    /// `Running` without `force`; `StillRunning`: the kernel holds a process of it.
    pub async fn remove(
        &self,
        who: &Requester,
        container: &str,
        force: bool,
        volumes: bool,
    ) -> Result<Option<ContainerId>, NodeError> {
        let content = fingerprint(&(container, force, volumes));
        let ticket = match self.inner().requests.begin(who, "Remove", content).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(id) => return Ok(id.parse().ok()),
        };
        let found = match self.find(container) {
            Err(NodeError::ContainerNotFound(_)) => return Ok(None),
            found => found?,
        };
        let (inner, by) = (self.inner().clone(), who.caller.clone());
        let id =
            self.inner().to_its_end(async move { remove::remove(&inner, &found, force, volumes, &by).await }).await?;
        self.answered(ticket, id.as_str()).await;
        Ok(Some(id))
    }

    /// Newest first; cheap: from memory.
    pub fn containers(&self) -> Vec<ContainerView> {
        let view = |c: Arc<Container>| view_of(&c);
        let mut all: Vec<_> = self.inner().containers.all().into_iter().map(view).collect();
        all.sort_by_key(|v| std::cmp::Reverse(v.record.created));
        all
    }

    /// By id, name, or a prefix of the id that fits only one.
    pub fn container(&self, name: &str) -> Result<ContainerDetail, NodeError> {
        let container = self.find(name)?;
        Ok(ContainerDetail {
            view: view_of(&container),
            log_path: logs::place::path(self.inner(), &container.record()),
            upper_path: own::folder(self.inner(), &container.record()).join("upper"),
            storage_limited_by: own::limited_by(self.inner(), &container.record()),
            cgroup_paths: self.inner().runtime.cgroup_paths(&container.id),
            health: container.health.borrow().clone(),
        })
    }

    /// The id behind a name or a prefix.
    pub fn container_id(&self, container: &str) -> Result<ContainerId, NodeError> {
        Ok(self.find(container)?.id.clone())
    }

    fn find(&self, name: &str) -> Result<Arc<Container>, NodeError> {
        self.inner().containers.find(name)
    }

    /// None: this very request was answered before.
    async fn begin(
        &self,
        who: &Requester,
        rpc: &'static str,
        content: &impl serde::Serialize,
    ) -> Result<Option<Ticket>, NodeError> {
        match self.inner().requests.begin(who, rpc, fingerprint(content)).await? {
            Begin::New(ticket) => Ok(Some(ticket)),
            Begin::Answered(_) => Ok(None),
        }
    }

    async fn answered(&self, ticket: Ticket, result: &str) {
        if let Some(write) = ticket.done(result)
            && let Err(e) = self.inner().store.submit(vec![write], Durability::Quick).await
        {
            tracing::warn!(error = %e, "remembering a request");
        }
    }
}

/// It was started, and nothing has undone that.
fn has_run(container: &Container) -> bool {
    let record = container.record();
    match record.phase {
        Phase::Creating | Phase::Created => false,
        Phase::Starting | Phase::Running => true,
        Phase::Exited | Phase::Removing => record.starts > 0,
    }
}

fn view_of(container: &Container) -> ContainerView {
    ContainerView { record: container.record(), effective: container.effective.clone(), image: container.image.clone() }
}
