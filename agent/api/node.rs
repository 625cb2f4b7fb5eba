//! `berth.v1.Node`.

use super::decode::Fields;
use super::{Answers, call, doctor, encode, events, list, reclaim, upgrade};
use crate::config::TlsFiles;
use crate::status;
use crate::upgrade::Upgrades;
use crate::version::version;
use berth::role::Role;
use berth::v1::{self, node_server};
use berth_model::Timestamp;
use berth_node::{Node, Selinux};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

pub struct About {
    pub node: Node,
    pub upgrades: Upgrades,
    /// The files of mutual TLS; None: there is only the socket.
    pub tls: Option<TlsFiles>,
}

/// A look takes a thread for up to some seconds, and viewers may ask for it: one at a time.
static LOOKS: Semaphore = Semaphore::const_new(1);

#[tonic::async_trait]
impl node_server::Node for About {
    type CheckImagesStream = Answers<v1::CheckImagesResponse>;
    type EventsStream = Answers<v1::EventsResponse>;
    type DiskUsageStream = Answers<v1::DiskUsageResponse>;
    type CollectGarbageStream = Answers<v1::CollectGarbageResponse>;

    async fn info(&self, request: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        let call = call(&request)?;
        let node = self.node.clone();
        // statvfs(2) may hang on a sick disk: not on a thread that others need.
        let info = tokio::task::spawn_blocking(move || node.info()).await;
        let info = info.map_err(|e| status::internal(format!("asking the host: {e}")))?;
        Ok(Response::new(v1::InfoResponse {
            hostname: info.hostname,
            operating_system: info.operating_system,
            kernel_version: info.kernel_version,
            architecture: info.architecture,
            cpus: info.cpus,
            memory_bytes: info.memory_bytes,
            cgroup_mode: info.cgroup_mode,
            cgroup_driver: info.cgroup_driver,
            layer_store: info.layer_store,
            data_root: info.data_root,
            containers: info.created + info.running + info.exited,
            containers_running: info.running,
            containers_created: info.created,
            containers_exited: info.exited,
            images: info.images,
            features: info.features.into_iter().collect(),
            warnings: info.warnings,
            started: Some(encode::time(info.started)),
            agent_version: version().into(),
            boot_id: info.boot_id,
            caller: call.caller(),
            caller_role: call.role().map_or("none", Role::name).into(),
            disk_free_bytes: info.disk_free_bytes,
            disk_total_bytes: info.disk_total_bytes,
            agent_pid: std::process::id(),
            runtimes: info.runtimes.into_iter().map(runtime).collect(),
            landlock_abi: info.landlock.0.unwrap_or_default(),
            landlock_by_default: info.landlock.1,
            apparmor: info.apparmor.0,
            apparmor_by_default: info.apparmor.1,
            selinux: match info.selinux {
                Selinux::Absent => v1::Selinux::Unspecified,
                Selinux::Unused => v1::Selinux::Unused,
                Selinux::Used => v1::Selinux::Used,
            } as i32,
        }))
    }

    async fn doctor(&self, _: Request<v1::DoctorRequest>) -> Result<Response<v1::DoctorResponse>, Status> {
        let (node, tls) = (self.node.clone(), self.tls.clone());
        let _turn = LOOKS.acquire().await.map_err(|_| status::internal("looking the host over".to_owned()))?;
        let findings = tokio::task::spawn_blocking(move || doctor::look(&node, tls.as_ref())).await;
        let findings = findings.map_err(|e| status::internal(format!("looking the host over: {e}")))?;
        Ok(Response::new(v1::DoctorResponse { findings }))
    }

    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Response::new(v1::VersionResponse {
            version: version().into(),
            api_versions: vec!["berth.v1".into()],
            git_commit: option_env!("BERTH_GIT_COMMIT").unwrap_or_default().into(),
            rustc: option_env!("BERTH_RUSTC").unwrap_or_default().into(),
            os: std::env::consts::OS.into(),
            architecture: std::env::consts::ARCH.into(),
            kernel_version: kernel.trim_end().into(),
        }))
    }

    async fn events(&self, request: Request<v1::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let mut f = Fields::default();
        let since = f.time("since", request.since);
        let until = f.time("until", request.until);
        let filter = super::filter::EventFilter::decode(&mut f, request.filters);
        f.done()?;
        // Docker: who asks for the past up to a time means all of it.
        let past = until.is_some_and(|until| until <= Timestamp::now()) && request.cursor == 0;
        let since = since.or(past.then_some(Timestamp(0)));
        // Asked for before the watch: what comes between the two is told, not lost.
        let newest = self.node.newest_event();
        let asked = if request.cursor == 0 && since.is_none() { newest } else { request.cursor };
        let source = self.node.events(asked, since).map_err(status::from_node)?;
        let begin = (request.tell_begin && since.is_none()).then_some(asked);
        Ok(Response::new(events::stream(source, until, filter, begin)))
    }

    async fn check_images(
        &self,
        request: Request<v1::CheckImagesRequest>,
    ) -> Result<Response<Self::CheckImagesStream>, Status> {
        call(&request)?.about("", "");
        let node = self.node.clone();
        let checked = super::finish(async move { node.check().await }).await?;
        Ok(Response::new(list(checked.into_iter().map(encode::checked).collect())))
    }

    async fn upgrade_agent(
        &self,
        request: Request<Streaming<v1::UpgradeAgentRequest>>,
    ) -> Result<Response<v1::UpgradeAgentResponse>, Status> {
        let call = call(&request)?;
        upgrade::take(&self.upgrades, &call, request.into_inner()).await.map(Response::new)
    }

    async fn confirm_upgrade(
        &self,
        request: Request<v1::ConfirmUpgradeRequest>,
    ) -> Result<Response<v1::ConfirmUpgradeResponse>, Status> {
        let call = call(&request)?;
        upgrade::confirm(&self.upgrades, &call, request.into_inner()).await.map(Response::new)
    }

    async fn upgrade_status(
        &self,
        _: Request<v1::UpgradeStatusRequest>,
    ) -> Result<Response<v1::UpgradeStatusResponse>, Status> {
        upgrade::last(&self.upgrades).await.map(Response::new)
    }

    async fn disk_usage(
        &self,
        request: Request<v1::DiskUsageRequest>,
    ) -> Result<Response<Self::DiskUsageStream>, Status> {
        use v1::disk_usage_response::Kind;
        let items = request.into_inner().items;
        let usage = self.node.disk_usage().await.map_err(status::from_node)?;
        let kinds = usage.items.iter().filter(|_| items).map(|item| Kind::Item(reclaim::usage_item(item)));
        let total = Kind::Total(reclaim::usage_total(&usage));
        let answers = kinds.chain([total]).map(|kind| v1::DiskUsageResponse { kind: Some(kind) });
        Ok(Response::new(list(answers.collect())))
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Result<Response<Self::CollectGarbageStream>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.done()?;
        let who = call.about(if request.dry_run { "dry run" } else { "by policy" }, &request.request_id);
        let policy = self.node.policy();
        let freed = self.node.free(&who, "CollectGarbage", &request.dry_run, policy, request.dry_run).await;
        Ok(Response::new(reclaim::stream(freed.map_err(status::from_node)?, |item| {
            use v1::collect_garbage_response::Kind;
            v1::CollectGarbageResponse { kind: Some(item.split(Kind::Item, Kind::Total)) }
        })))
    }
}

fn runtime(runtime: berth_node::RuntimeView) -> v1::RuntimeInfo {
    let berth_node::RuntimeView { name, path, version, is_default } = runtime;
    v1::RuntimeInfo { name, path, version, is_default }
}
