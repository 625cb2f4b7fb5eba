//! `berth.v1.Containers`: everything but the streams into processes, which are in [`super::session`].

use super::decode::{Fields, some};
use super::progress::Feed;
use super::{
    Answers, QUEUE, call, encode, filter, finish, forward, limits, list, ports, reclaim, session, spec, supervise,
    usage,
};
use crate::gate::Call;
use crate::permission::{self, Need};
use crate::status;
use berth::role::Role;
use berth::v1::{self, containers_server, create_container_response::Kind};
use berth_model::publish::PublishPolicy;
use berth_model::spec::LogConfig;
use berth_model::{ContainerId, ContainerSpec, Phase, Platform};
use berth_node::{
    Basis, ContainerRule, ContainerUpdate, ContainerView, CreateRequest, Created, HostVolume, LogCursor, LogQuery,
    Node, Policy, PullPolicy, Requester, WaitCondition,
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Entries of one message of logs are split when their lines have more bytes: messages stay far below 4 MiB.
const LOG_MESSAGE_BYTES: usize = 256 << 10;
/// That wait for their caller; the batches behind them wait as well.
const LOG_MESSAGES: usize = 1;

/// What all containers together get to stop in, when the caller does not say it.
const STOP_ALL_SECONDS: u32 = 60;

pub struct Containers {
    pub node: Node,
    /// Sizes of logs where a container does not say them.
    pub log: LogConfig,
}

/// A creation that was read and may be done.
pub struct Creation {
    pub spec: ContainerSpec,
    pub pull: PullPolicy,
    pub auth: Option<berth_image::Auth>,
    pub platform: Option<Platform>,
    pub who: Requester,
    /// As in [`CreateRequest`].
    pub host_volumes: Option<Vec<HostVolume>>,
    /// It was sent before.
    pub again: bool,
}

impl Creation {
    /// Reads a request, denies what the caller may not, and says in the record what it is about.
    pub fn decode(
        node: &Node,
        call: &Call,
        request: v1::CreateContainerRequest,
        log: &LogConfig,
        publish: &PublishPolicy,
        prefix: &str,
    ) -> Result<Creation, Status> {
        let mut f = Fields::under(prefix);
        f.request_id(&request.request_id);
        let pull = match v1::PullPolicy::try_from(request.pull) {
            Ok(v1::PullPolicy::Unspecified | v1::PullPolicy::Missing) => PullPolicy::Missing,
            Ok(v1::PullPolicy::Always) => PullPolicy::Always,
            Ok(v1::PullPolicy::Never) => PullPolicy::Never,
            Err(_) => {
                f.wrong("pull", format!("{} is no pull policy", request.pull));
                PullPolicy::Missing
            }
        };
        let auth = f.auth("auth", request.auth);
        let platform = f.platform("platform", request.platform);
        let Some(config) = request.config else {
            f.wrong("config", "must be there");
            f.done()?;
            return Err(status::internal("an error was lost"));
        };
        let mut fields = Fields::under(&format!("{prefix}config."));
        let mut spec = spec::decode(&mut fields, config, log, publish);
        f.merge(fields);
        f.done()?;
        node.volumes_from(&mut spec).map_err(status::from_node)?;
        node.network_from(&mut spec).map_err(status::from_node)?;
        node.default_walls(&mut spec);
        let object = match &spec.name {
            Some(name) => format!("{name} ({})", spec.image),
            None => spec.image.clone(),
        };
        // Before the question whether the caller may use them.
        let host_volumes = (call.role() != Some(Role::Admin)).then(|| permission::host_volumes(node, &spec));
        call.permit(&permission::of_new(node, &spec), &object, &request.request_id)?;
        call.confine(&mut spec)?;
        let who = call.about(&object, &request.request_id);
        Ok(Creation { spec, pull, auth, platform, who, host_volumes, again: false })
    }

    /// Creates the container, sending progress to the caller. `None`: the caller has gone.
    pub async fn run<M>(
        self,
        node: &Node,
        answers: &mpsc::Sender<M>,
        wrap: fn(v1::PullProgress) -> M,
    ) -> Option<Result<Created, Status>> {
        let feed = Feed::default();
        let request = CreateRequest {
            spec: self.spec,
            pull: self.pull,
            auth: self.auth,
            platform: self.platform,
            progress: feed.writer(),
            host_volumes: self.host_volumes,
            again: self.again,
        };
        let done = feed.relay(node.create(&self.who, request), answers, wrap).await?;
        Some(done.map_err(status::from_node))
    }
}

/// The answer to a creation.
pub fn created(created: &Created) -> v1::ContainerCreated {
    v1::ContainerCreated { id: created.id.to_string(), name: created.name.clone(), warnings: created.warnings.clone() }
}

/// What the last start of a container could not give, without what its caller knows already.
pub fn start_warnings(node: &Node, id: &str, told: &[String]) -> Vec<String> {
    // Err: it ended and removed itself, and nobody needs to know any more.
    let mut warnings = node.container(id).map(|d| d.view.record.warnings.clone()).unwrap_or_default();
    warnings.retain(|w| !told.contains(w));
    warnings
}

impl Containers {
    /// Reads a request that names a container and may change it.
    fn change<T>(
        &self,
        request: Request<T>,
        fields: impl FnOnce(&T, &mut Fields) -> (String, String),
    ) -> Result<(T, Requester), Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        let (container, request_id) = fields(&request, &mut f);
        f.request_id(&request_id);
        f.name("container", &container);
        f.done()?;
        let who = call.about(&container, &request_id);
        Ok((request, who))
    }

    /// Reads a request that names a container and only looks.
    fn look(&self, container: String) -> Result<String, Status> {
        let mut f = Fields::default();
        f.name("container", &container);
        f.done()?;
        Ok(container)
    }
}

#[tonic::async_trait]
impl containers_server::Containers for Containers {
    type CreateStream = Answers<v1::CreateContainerResponse>;
    type RunStream = Answers<v1::RunResponse>;
    type ListStream = Answers<v1::ListContainersResponse>;
    type StatsStream = Answers<v1::StatsResponse>;
    type PruneStream = Answers<v1::PruneContainersResponse>;
    type LogsStream = Answers<v1::LogsResponse>;
    type ExecStream = Answers<v1::ExecResponse>;
    type AttachStream = Answers<v1::AttachResponse>;
    type PortForwardStream = Answers<v1::PortForwardResponse>;

    async fn create(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<Self::CreateStream>, Status> {
        let call = call(&request)?;
        let creation =
            Creation::decode(&self.node, &call, request.into_inner(), &self.log, self.node.publish_policy(), "")?;
        let node = self.node.clone();
        let (answers, stream) = mpsc::channel(QUEUE);
        super::spawn(async move {
            let wrap = |p| Ok(v1::CreateContainerResponse { kind: Some(Kind::Progress(p)) });
            if let Some(done) = creation.run(&node, &answers, wrap).await {
                let answer = done.map(|c| v1::CreateContainerResponse { kind: Some(Kind::Created(created(&c))) });
                let _ = answers.send(answer).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn start(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        let (r, who) = self.change(request, |r, _| (r.container.clone(), r.request_id.clone()))?;
        let node = self.node.clone();
        let (id, already_running) = finish(async move { node.start(&who, &r.container).await }).await?;
        let warnings = if already_running { Vec::new() } else { start_warnings(&self.node, id.as_str(), &[]) };
        Ok(Response::new(v1::StartContainerResponse { id: id.to_string(), already_running, warnings }))
    }

    async fn run(&self, request: Request<Streaming<v1::RunRequest>>) -> Result<Response<Self::RunStream>, Status> {
        let call = call(&request)?;
        session::run(self.node.clone(), call, request.into_inner(), &self.log).await
    }

    async fn stop(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        let (r, who) = self.change(request, |r, f| {
            f.signal("signal", &r.signal);
            (r.container.clone(), r.request_id.clone())
        })?;
        let node = self.node.clone();
        let signal = some(r.signal);
        // Whether there is such a container: the node answers the same for one that did not run.
        let known = node.container(&r.container).ok().map(|d| d.view.record.id.to_string());
        let (id, exit) =
            finish(async move { node.stop(&who, &r.container, r.timeout_seconds, signal.as_deref()).await }).await?;
        Ok(Response::new(v1::StopContainerResponse {
            id: id.as_ref().map(ToString::to_string).or(known).unwrap_or_default(),
            // The node names whom it has stopped; what had ended before may have an exit all the same.
            already_stopped: id.is_none(),
            exit: exit.as_ref().map(encode::exit),
        }))
    }

    async fn restart(
        &self,
        request: Request<v1::RestartContainerRequest>,
    ) -> Result<Response<v1::RestartContainerResponse>, Status> {
        let (r, who) = self.change(request, |r, f| {
            f.signal("signal", &r.signal);
            (r.container.clone(), r.request_id.clone())
        })?;
        let node = self.node.clone();
        let signal = some(r.signal);
        let id =
            finish(async move { node.restart(&who, &r.container, r.timeout_seconds, signal.as_deref()).await }).await?;
        let warnings = start_warnings(&self.node, id.as_str(), &[]);
        Ok(Response::new(v1::RestartContainerResponse { id: id.to_string(), warnings }))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseContainerRequest>,
    ) -> Result<Response<v1::PauseContainerResponse>, Status> {
        let (r, who) = self.change(request, |r, _| (r.container.clone(), r.request_id.clone()))?;
        let node = self.node.clone();
        let (id, already_paused) = finish(async move { node.pause(&who, &r.container).await }).await?;
        Ok(Response::new(v1::PauseContainerResponse { id: id.to_string(), already_paused }))
    }

    async fn unpause(
        &self,
        request: Request<v1::UnpauseContainerRequest>,
    ) -> Result<Response<v1::UnpauseContainerResponse>, Status> {
        let (r, who) = self.change(request, |r, _| (r.container.clone(), r.request_id.clone()))?;
        let node = self.node.clone();
        let (id, already_running) = finish(async move { node.unpause(&who, &r.container).await }).await?;
        Ok(Response::new(v1::UnpauseContainerResponse { id: id.to_string(), already_running }))
    }

    async fn rename(
        &self,
        request: Request<v1::RenameContainerRequest>,
    ) -> Result<Response<v1::RenameContainerResponse>, Status> {
        let (r, who) = self.change(request, |r, f| {
            f.take("name", berth_model::id::check_name(&r.name));
            (r.container.clone(), r.request_id.clone())
        })?;
        let node = self.node.clone();
        let id = finish(async move { node.rename(&who, &r.container, &r.name).await }).await?;
        Ok(Response::new(v1::RenameContainerResponse { id: id.to_string() }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateContainerRequest>,
    ) -> Result<Response<v1::UpdateContainerResponse>, Status> {
        let mut update = ContainerUpdate::default();
        let caller = call(&request)?;
        let (r, who) = self.change(request, |r, f| {
            update = limits::update(f, r.resources.clone());
            update.restart = r.restart.map(|policy| supervise::restart(f, Some(policy), false));
            (r.container.clone(), r.request_id.clone())
        })?;
        if !update.resources.unified.is_empty() {
            caller.permit(&[Need::CgroupFiles], &r.container, &r.request_id)?;
        }
        let node = self.node.clone();
        let id = finish(async move { node.update(&who, &r.container, update).await }).await?;
        Ok(Response::new(v1::UpdateContainerResponse { id: id.to_string() }))
    }

    async fn update_ports(
        &self,
        request: Request<v1::UpdatePortsRequest>,
    ) -> Result<Response<v1::UpdatePortsResponse>, Status> {
        let (mut add, mut remove) = Default::default();
        let (r, who) = self.change(request, |r, f| {
            (add, remove) = ports::decode_update(f, r, self.node.publish_policy());
            (r.container.clone(), r.request_id.clone())
        })?;
        let node = self.node.clone();
        let record = finish(async move { node.update_ports(&who, &r.container, add, remove).await }).await?;
        let ports = ports::published_or_asked(&record, self.node.will_have_ipv6(&record));
        Ok(Response::new(v1::UpdatePortsResponse { id: record.id.to_string(), ports }))
    }

    async fn top(&self, request: Request<v1::TopRequest>) -> Result<Response<v1::TopResponse>, Status> {
        let container = self.look(request.into_inner().container)?;
        let found = self.node.top(&container).await.map_err(status::from_node)?;
        Ok(Response::new(usage::top(found)))
    }

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<Self::StatsStream>, Status> {
        Ok(Response::new(usage::stats(self.node.clone(), request.into_inner())?))
    }

    async fn stop_all(&self, request: Request<v1::StopAllRequest>) -> Result<Response<v1::StopAllResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        let seconds = request.timeout_seconds.unwrap_or(STOP_ALL_SECONDS);
        f.check(seconds <= 3600, "timeout_seconds", "must be at most 3600");
        f.done()?;
        let who = call.about("all containers", &request.request_id);
        let node = self.node.clone();
        let within = std::time::Duration::from_secs(seconds.into());
        let shut = finish(async move { node.stop_all(&who, within).await }).await?;
        let one = |s: berth_node::Shut| v1::StoppedContainer {
            id: s.id.to_string(),
            name: s.name,
            error: s.error.unwrap_or_default(),
        };
        Ok(Response::new(v1::StopAllResponse { containers: shut.into_iter().map(one).collect() }))
    }

    async fn kill(
        &self,
        request: Request<v1::KillContainerRequest>,
    ) -> Result<Response<v1::KillContainerResponse>, Status> {
        let (r, who) = self.change(request, |r, f| {
            f.signal("signal", &r.signal);
            (r.container.clone(), r.request_id.clone())
        })?;
        let node = self.node.clone();
        let signal = some(r.signal);
        let id = finish(async move { node.kill(&who, &r.container, signal.as_deref()).await }).await?;
        Ok(Response::new(v1::KillContainerResponse { id: id.to_string() }))
    }

    async fn wait(
        &self,
        request: Request<v1::WaitContainerRequest>,
    ) -> Result<Response<v1::WaitContainerResponse>, Status> {
        let request = request.into_inner();
        let mut f = Fields::default();
        f.name("container", &request.container);
        let condition = match v1::WaitCondition::try_from(request.condition) {
            Ok(v1::WaitCondition::Unspecified | v1::WaitCondition::NotRunning) => WaitCondition::NotRunning,
            Ok(v1::WaitCondition::NextExit) => WaitCondition::NextExit,
            Ok(v1::WaitCondition::Removed) => WaitCondition::Removed,
            Ok(v1::WaitCondition::Running) => WaitCondition::Running,
            Ok(v1::WaitCondition::Healthy) => WaitCondition::Healthy,
            Err(_) => {
                f.wrong("condition", format!("{} is no condition", request.condition));
                WaitCondition::NotRunning
            }
        };
        f.done()?;
        let (id, exit) = self.node.wait_for(&request.container, condition).await.map_err(status::from_node)?;
        Ok(Response::new(v1::WaitContainerResponse { id: id.to_string(), exit: exit.as_ref().map(encode::exit) }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        let (r, who) = self.change(request, |r, _| (r.container.clone(), r.request_id.clone()))?;
        let node = self.node.clone();
        let id = finish(async move { node.remove(&who, &r.container, r.force, r.volumes).await }).await?;
        Ok(Response::new(v1::RemoveContainerResponse { id: id.map(|id| id.to_string()).unwrap_or_default() }))
    }

    async fn prune(&self, request: Request<v1::PruneContainersRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        let filter = filter::PruneFilter::decode(&mut f, &request.filters);
        f.done()?;
        let who = call.about(if request.dry_run { "dry run" } else { "stopped containers" }, &request.request_id);
        let rule = ContainerRule { basis: Basis::Made, before: filter.until, labels: filter.labels };
        let policy = Policy { containers: Some(rule), ..Policy::default() };
        let content = (reclaim::content(&request.filters), request.dry_run);
        let freed = self.node.free(&who, "PruneContainers", &content, policy, request.dry_run).await;
        Ok(Response::new(reclaim::stream(freed.map_err(status::from_node)?, |item| {
            use v1::prune_containers_response::Kind;
            let kind = item.split(Kind::Item, Kind::Total);
            v1::PruneContainersResponse { kind: Some(kind) }
        })))
    }

    async fn list(&self, request: Request<v1::ListContainersRequest>) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let mut f = Fields::default();
        let made = |name: &str| self.node.container(name).ok().map(|d| d.view.record.created);
        let filter = filter::ContainerFilter::decode(&mut f, request.filters, made);
        f.done()?;
        // Docker: the newest so many, whether they run or not.
        let all = request.all || request.limit > 0 || filter.wants_all();
        let limit = if request.limit == 0 { usize::MAX } else { usize::try_from(request.limit).unwrap_or(usize::MAX) };
        let views = self.node.containers();
        let runs = |v: &ContainerView| v.record.phase == Phase::Running || v.record.is_restarting();
        let fitting = views.iter().filter(|v| (all || runs(v)) && filter.fits(v));
        let fitting = fitting.take(limit);
        if !request.sizes {
            let answers = fitting.map(|v| v1::ListContainersResponse { container: Some(encode::container(v)) });
            return Ok(Response::new(list(answers.collect())));
        }
        let fitting: Vec<_> = fitting.cloned().collect();
        Ok(Response::new(with_sizes(self.node.clone(), fitting)))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectContainerRequest>,
    ) -> Result<Response<v1::InspectContainerResponse>, Status> {
        let role = call(&request)?.role();
        let container = self.look(request.into_inner().container)?;
        let detail = self.node.container(&container).map_err(status::from_node)?;
        let mut answer = encode::container_detail(&detail);
        let log = self.node.log_state(detail.view.record.id.as_str()).await.map_err(status::from_node)?;
        for network in answer.networks.iter_mut().chain(answer.network.as_mut()) {
            let found = self.node.network(&network.network);
            network.network_id = found.map(|n| n.record.id.to_string()).unwrap_or_default();
        }
        answer.volume_mountpoints = super::volumes::mountpoints(&self.node, &detail.view.record.spec);
        answer.log = Some(encode::log_state(&log, detail.view.record.spec.log.driver));
        if role.is_none_or(|role| role < Role::Operator) {
            encode::hide_secrets(&mut answer);
        }
        Ok(Response::new(answer))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let mut f = Fields::default();
        f.name("container", &request.container);
        let after = some(request.after_cursor).and_then(|c| f.take("after_cursor", c.parse()));
        let query = LogQuery {
            follow: request.follow,
            tail: request.tail,
            since: f.time("since", request.since),
            until: f.time("until", request.until),
            stdout: request.stdout,
            stderr: request.stderr,
            after,
        };
        f.done()?;
        let container = self.node.container_id(&request.container).map_err(status::from_node)?;
        let mut source = self.node.logs(container.as_str(), query).await.map_err(status::from_node)?;
        let (answers, stream) = mpsc::channel(LOG_MESSAGES);
        super::spawn(async move {
            loop {
                let entries = tokio::select! {
                    () = answers.closed() => return,
                    entries = source.recv() => entries,
                };
                let sent = match entries {
                    None => return,
                    Some(Ok(entries)) => send_entries(&answers, &container, entries).await,
                    Some(Err(e)) => {
                        let _ = answers.send(Err(status::from_node(e))).await;
                        return;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn exec(&self, request: Request<Streaming<v1::ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let call = call(&request)?;
        session::exec(self.node.clone(), call, request.into_inner()).await
    }

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let call = call(&request)?;
        session::attach(self.node.clone(), call, request.into_inner()).await
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<v1::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let call = call(&request)?;
        forward::port_forward(self.node.clone(), call, request.into_inner()).await
    }

    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Result<Response<v1::ResizeResponse>, Status> {
        let call: Arc<Call> = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.name("container", &request.container);
        let size = f.size("size", request.size);
        f.check(request.size.is_some(), "size", "must be there");
        f.done()?;
        call.about(&request.container, "");
        let (rows, columns) = size.unwrap_or_default();
        self.node.resize(&request.container, rows, columns).await.map_err(status::from_node)?;
        Ok(Response::new(v1::ResizeResponse {}))
    }
}

/// Containers with the bytes of their files, each as it is counted; a caller that goes away ends the counting.
fn with_sizes(node: Node, views: Vec<ContainerView>) -> Answers<v1::ListContainersResponse> {
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(async move {
        for view in views {
            let bytes = tokio::select! {
                () = answers.closed() => return,
                bytes = node.container_bytes(&view.record.id) => bytes,
            };
            let answer = bytes.map_err(status::from_node).map(|bytes| {
                let mut summary = encode::container(&view);
                summary.size_rw_bytes = Some(bytes.written);
                summary.size_root_bytes = Some(bytes.written + view.image.size_bytes());
                v1::ListContainersResponse { container: Some(summary) }
            });
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

async fn send_entries(
    answers: &mpsc::Sender<Result<v1::LogsResponse, Status>>,
    container: &ContainerId,
    entries: Vec<berth_node::LogEntry>,
) -> Result<(), ()> {
    let mut message = v1::LogsResponse::default();
    let mut bytes = 0;
    for entry in entries {
        bytes += entry.line.len();
        let stream = if entry.stderr { v1::Stream::Stderr } else { v1::Stream::Stdout };
        message.entries.push(v1::LogEntry {
            time: Some(encode::time(entry.time)),
            stream: stream as i32,
            line: entry.line.into(),
            partial: entry.partial,
            cursor: LogCursor::new(container, entry.position).to_string(),
            lost_bytes: entry.lost_bytes,
        });
        if bytes >= LOG_MESSAGE_BYTES {
            answers.send(Ok(std::mem::take(&mut message))).await.map_err(drop)?;
            bytes = 0;
        }
    }
    if message.entries.is_empty() {
        return Ok(());
    }
    answers.send(Ok(message)).await.map_err(drop)
}
