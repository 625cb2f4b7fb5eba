//! Starts a container: root and network side by side, then plan and spawn. Each step has its undo.

use crate::container::{Container, Gate, Life};
use crate::logs::{self, Forwarders};
use crate::node::{Beside, Inner};
use crate::reaper::Job;
use crate::store::{Durability, Write};
use crate::timers::Kind;
use crate::userns::Own;
use crate::{NodeError, TRACE, cause, cdi, cni, exit, fail, health, nets, own, remove, resolver, volumes};
use berth_model::network::{Attachments, NetworkMode, PortMapping, Protocol, bounded};
use berth_model::state::ProcessRecord;
use berth_model::supervision::Supervision;
use berth_model::{ContainerRecord, Phase, Timestamp};
use berth_rootfs::{MountOptions, RootMount};
use berth_runtime::{AttachOptions, Attachment, PlanInput, Prepared, Shared, Shim, SpawnRequest};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{Instrument, debug_span};

/// /etc/passwd and /etc/group of an image: larger ones are no such thing.
pub(crate) const USERS_MAX: usize = 8 << 20;

pub(crate) struct Started {
    /// It ran already.
    pub already: bool,
    pub attachment: Option<Attachment>,
}

/// Where the time of a start went.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    mount: Duration,
    /// Network, cgroups and shim, beside the mount; what was waited for behind it.
    beside: Duration,
    plan: Duration,
    spawn: Duration,
}

struct Launched {
    shim: Shim,
    attachment: Option<Attachment>,
    root: RootMount,
    record: Arc<ContainerRecord>,
    /// What was asked for and not given in full.
    warnings: Vec<String>,
    times: Times,
}

/// Starts `container` for a person, whose gate the caller has, unless it runs: what its supervision has counted begins anew.
pub(crate) async fn start(
    inner: &Arc<Inner>,
    mut gate: Gate,
    attach: Option<AttachOptions>,
) -> Result<Started, NodeError> {
    if matches!(gate.container.phase(), Phase::Created | Phase::Exited) {
        inner.timers.clear(&gate.container.id, Kind::Restart);
        gate.change(|r| {
            r.supervision =
                Supervision { networks: std::mem::take(&mut r.supervision.networks), ..Supervision::default() }
        });
    }
    run(inner, gate, attach).await
}

/// No start was made for this request. From now on, one is: that is written down with the start.
pub(crate) fn is_first_for(gate: &mut Gate, caller: String, request_id: String) -> bool {
    let record = gate.container.record();
    let made = record.start_request.as_ref();
    if made.is_some_and(|(c, r, starts)| (c, r) == (&caller, &request_id) && record.starts >= *starts) {
        return false;
    }
    gate.change(|r| r.start_request = Some((caller, request_id, r.starts + 1)));
    true
}

/// Starts it as its supervision wants it.
pub(crate) async fn start_again(inner: &Arc<Inner>, gate: Gate) -> Result<Started, NodeError> {
    run(inner, gate, None).await
}

/// Takes down that it was to be started and could not be, for want of something else.
pub(crate) async fn refuse(inner: &Arc<Inner>, gate: Gate, error: NodeError) -> Result<(), NodeError> {
    if !matches!(error, NodeError::Stopping) {
        let before = gate.container.record();
        failed(inner, gate, &before, &error).await;
    }
    Err(error)
}

async fn run(inner: &Arc<Inner>, gate: Gate, attach: Option<AttachOptions>) -> Result<Started, NodeError> {
    let span = tracing::debug_span!(target: TRACE, "start", container = %gate.container.id);
    steps(inner, gate, attach).instrument(span).await
}

async fn steps(inner: &Arc<Inner>, mut gate: Gate, attach: Option<AttachOptions>) -> Result<Started, NodeError> {
    let container = gate.container.clone();
    let before = container.record();
    match before.phase {
        Phase::Created | Phase::Exited => {}
        Phase::Running => {
            let attachment = match (attach, container.shim()) {
                (Some(options), Some(shim)) => Some(shim.attach(options).await?),
                _ => None,
            };
            return Ok(Started { already: true, attachment });
        }
        Phase::Creating | Phase::Starting | Phase::Removing => {
            return Err(NodeError::ContainerNotFound(before.name.clone()));
        }
    }
    let begun = Instant::now();
    // What the last run left is being taken apart: its cgroup and its upper folder are this one's too.
    drop(container.teardown().await);
    let durability = if before.spec.auto_remove { Durability::Quick } else { Durability::Durable };
    let record = gate.change(|r| {
        r.phase = Phase::Starting;
        r.started = Some(Timestamp::now());
        r.supervision.ending = None;
        r.error = None;
        r.networks.clear();
        r.starts += 1;
    });
    let attached = attach.is_some();
    // Durable beside the start: with this record a start that was answered is never forgotten.
    let launched = match inner.store.submit(vec![Write::PutContainer(record.clone())], durability).await {
        Ok(ack) => {
            let (inner_, container_) = (inner.clone(), container.clone());
            let launched = inner.blocking(move || {
                let record_ = record.clone();
                launch(&inner_, &container_, record, attach).map_err(|e| own::explained(&inner_, &record_, e))
            });
            let launched = launched.await;
            match (launched, ack.safe().await) {
                (Ok(launched), Err(e)) => Err(abandon(inner, launched, e.into()).await),
                (launched, _) => launched,
            }
        }
        Err(e) => Err(e.into()),
    };
    let launched = match launched {
        Ok(launched) => launched,
        Err(e) => {
            failed(inner, gate, &before, &e).await;
            return Err(e);
        }
    };

    let (pid, start_time) = launched.shim.pid();
    let (shim_pid, shim_start_time) = launched.shim.shim_pid();
    let boot_id = inner.boot_id.clone();
    let (networks, warnings) = (launched.record.networks.clone(), launched.warnings);
    let state = health::begin(&gate);
    let record = gate.change(|r| {
        r.phase = Phase::Running;
        r.exit = None;
        r.finished = None;
        r.networks = networks;
        r.warnings = warnings;
        r.paused = false;
        r.process = Some(ProcessRecord { pid, start_time, shim_pid, shim_start_time, boot_id });
        r.supervision.has_started();
        r.supervision.health = state;
    });
    gate.owned.root = Some(launched.root);
    gate.set_shim(Some(launched.shim.clone()));
    gate.set_life(Life::Open);
    inner.nets.touch();
    let mut writes = vec![Write::PutContainer(record.clone())];
    if attached {
        writes.push(inner.events.add_container(&record, "attach", &[]));
    }
    writes.push(inner.events.add_container(&record, "start", &[]));
    let submitted = inner.store.submit(writes, Durability::Quick).await;
    drop(gate);
    health::arm(inner, &container);
    exit::watch(inner, container.clone(), launched.shim);
    Forwarders::start(inner, &container);
    inner.log_watch.started();
    if let Err(e) = submitted {
        tracing::error!(container = %container.id, error = %e, "a start could not be written down");
    }
    fail::point("start.after_running")?;
    let Times { mount, beside, plan, spawn } = launched.times;
    tracing::debug!(container = %container.id, ?mount, ?beside, ?plan, ?spawn, all = ?begun.elapsed(), "started");
    Ok(Started { already: false, attachment: launched.attachment })
}

/// Everything that blocks, in one go on one thread; what needs neither root nor plan beside it on others.
fn launch(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    mut record: Arc<ContainerRecord>,
    attach: Option<AttachOptions>,
) -> Result<Launched, NodeError> {
    fail::point("start.after_record")?;
    // The policy may be another one than when it was made.
    inner.userns.permit(&record)?;
    let begun = Instant::now();
    let id = &container.id;
    let (mut planned, hooks) = match cdi::resolved(inner, &record.spec)? {
        Some((spec, hooks)) => (Arc::new(ContainerRecord { spec, ..(*record).clone() }), hooks),
        None => (record.clone(), cdi::Hooks::new()),
    };
    if let Some(spec) = volumes::all_held(&inner.config.shared_paths, &planned.spec) {
        Arc::make_mut(&mut planned).spec = spec;
    }
    // Answered when all that was handed over before is written: what runs without being on record as starting would be started again by the next
    // agent. With a network its address is waited for, which comes later.
    let written = match record.spec.network {
        NetworkMode::Bridge => None,
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => {
            Some(inner.store.submit_blocking(Vec::new(), Durability::Quick)?)
        }
    };
    let published = if record.spec.network.is_own() { ports(inner, container, &record)? } else { Vec::new() };
    // Two threads beside this one: joining costs a hop each; a namespace with a veth costs thirty of them, cgroups and a shim ten.
    let (own, mut namespace) = match record.userns.range {
        // Both stand ready; the root needs the one, the network the other.
        Some(ids) => Own::make(inner, &record, ids).map(|(own, namespace)| (Some(own), namespace))?,
        None => (None, None),
    };
    let network = record.spec.network.is_own().then(|| {
        let (inner_, record_) = (inner.clone(), record.clone());
        let wants = nets::wants(inner, &record, published);
        let (inner__, id_, namespace) = (inner.clone(), id.clone(), namespace.take());
        inner.beside(
            move || debug_span!(target: TRACE, "network").in_scope(|| cni::attach(&inner_, &record_, wants, namespace)),
            move |attached| {
                if let Ok(unused) = attached {
                    undo_network(&inner__, &id_, &unused.attachments);
                }
            },
        )
    });
    let prepared = {
        let (runtime, id, paths, planned) = (inner.runtime.clone(), id.clone(), inner.paths(id), planned.clone());
        inner.beside(
            move || {
                debug_span!(target: TRACE, "prepare")
                    .in_scope(|| runtime.prepare((&id, &planned.name), &planned.spec, paths))
            },
            drop,
        )
    };
    let auto_remove = record.spec.auto_remove;
    let shift = own.as_ref().map(Own::shift);
    let root = debug_span!(target: TRACE, "mount").in_scope(|| -> Result<RootMount, NodeError> {
        if auto_remove {
            own::make(inner, id, &record.spec, record.userns.range.is_some())?;
        }
        let layer = own::mount(inner, container)?;
        if auto_remove {
            // A restart, or a start that an agent before this one was killed in. After a boot there is none: what removes itself is removed then.
            layer.trust_volatile()?;
        }
        // What an auto-removed container writes is thrown away: no sync for it.
        let options =
            MountOptions { volatile: auto_remove, shift, label: &inner.runtime.labels(&record.selinux).mount };
        let root = own::overlay(inner, &record, || Ok(inner.layers.store.mount(&record.layers, &layer, options)?))?;
        fail::point("start.after_mount")?;
        Ok(root)
    });
    let mut times = Times { mount: begun.elapsed(), ..Times::default() };
    // Before looking at anybody's error: what was made must be known to be undone.
    let (network, prepared) = (network.map(Beside::join), prepared.join());
    times.beside = begun.elapsed() - times.mount;
    let attached = network.transpose()?.transpose()?;
    let (netns, attachments) = match attached {
        Some(attached) => (Some(attached.netns), attached.attachments),
        None => (None, Attachments::default()),
    };
    let mut undo = NetworkUndo { inner, container, attachments: attachments.clone() };
    let (root, prepared) = (root?, prepared??);
    let netns = match &record.spec.network {
        NetworkMode::None => match namespace {
            Some(namespace) => Some(namespace.fd),
            None => Some(inner.networks.loopback_only()?),
        },
        NetworkMode::Container(other) => Some(nets::namespace_of(inner, other)?),
        NetworkMode::Bridge | NetworkMode::Host => netns,
    };
    if let Some(written) = written {
        tokio::runtime::Handle::current().block_on(written.safe())?;
    }
    if !attachments.is_empty() {
        let mut with_network = (*record).clone();
        with_network.networks = attachments;
        record = Arc::new(with_network);
        Arc::make_mut(&mut planned).networks = record.networks.clone();
        // Before there is a shim: an agent that dies now finds the address of what it left running.
        let known = inner.store.submit_blocking(vec![Write::PutContainer(record.clone())], Durability::Quick)?;
        // Written, not only asked for: what runs without a known address is taken for half done.
        tokio::runtime::Handle::current().block_on(known.safe())?;
        resolver::join(inner, &record);
        fail::point("start.after_network")?;
    }
    let mut mounted = volumes::trees(inner, container, &planned, &root, shift)?;
    let userns = own.as_ref().map(Own::fd).transpose()?;
    let mut spawned = spawn(
        inner,
        container,
        (&planned, &hooks),
        &root,
        &mut mounted,
        prepared,
        (netns, userns),
        attach,
        &mut times,
    )?;
    spawned.warnings.append(&mut mounted.warnings);
    undo.attachments.clear();
    Ok(Launched { shim: spawned.shim, attachment: spawned.attachment, root, record, warnings: spawned.warnings, times })
}

#[expect(clippy::too_many_arguments, reason = "what the steps before have made")]
fn spawn(
    inner: &Inner,
    container: &Container,
    (record, hooks): (&ContainerRecord, &cdi::Hooks),
    root: &RootMount,
    mounted: &mut volumes::Mounted,
    prepared: Prepared,
    (netns, userns): (Option<OwnedFd>, Option<OwnedFd>),
    attach: Option<AttachOptions>,
    times: &mut Times,
) -> Result<berth_runtime::Spawned, NodeError> {
    let begun = Instant::now();
    let planning = debug_span!(target: TRACE, "plan").entered();
    let passwd = root.read("/etc/passwd", USERS_MAX)?;
    let group = root.read("/etc/group", USERS_MAX)?;
    let shared = match &record.spec.network {
        NetworkMode::Container(other) => Some(inner.containers.find(other)?.record()),
        _ => None,
    };
    let plan = inner.runtime.plan(&PlanInput {
        id: &container.id,
        name: &record.name,
        spec: &record.spec,
        image: &container.image.config,
        passwd: passwd.as_deref(),
        group: group.as_deref(),
        networks: &record.networks,
        peers: resolver::peers(inner, shared.as_deref().unwrap_or(record)),
        shares: shared.as_ref().map(|r| Shared { id: &r.id, spec: &r.spec, networks: &r.networks }),
        host_gateway: inner.networks.gateway().into(),
        // Not below /run: the container may write its /etc/hosts as long as it likes, and /run is the host's memory.
        state_dir: &own::folder(inner, record),
        run_dir: &inner.paths(&container.id).run,
        log: logs::place::plan(container, record),
        ids: record.userns.range,
        unmapped: &mounted.unmapped,
        hooks,
        labels: inner.runtime.labels(&record.selinux),
    })?;
    times.plan = begun.elapsed();
    drop(planning);
    let mut warnings = plan.warnings.clone();
    let begun = Instant::now();
    // What the container's first process does before the workload is in here; a step of it that fails names itself.
    let rootfs = root.fd()?;
    let trees = std::mem::take(&mut mounted.trees);
    let request = SpawnRequest { prepared, plan, rootfs, trees, netns, userns, attach };
    let mut spawned = debug_span!(target: TRACE, "spawn").in_scope(|| inner.runtime.spawn(request))?;
    times.spawn = begun.elapsed();
    warnings.append(&mut spawned.warnings);
    spawned.warnings = warnings;
    for warning in &spawned.warnings {
        tracing::warn!(container = %container.id, warning, "not given in full");
    }
    fail::point("start.after_spawn")?;
    Ok(spawned)
}

/// Takes the address back unless the start succeeds.
struct NetworkUndo<'a> {
    inner: &'a Arc<Inner>,
    container: &'a Container,
    attachments: Attachments,
}

impl Drop for NetworkUndo<'_> {
    fn drop(&mut self) {
        if !self.attachments.is_empty() {
            undo_network(self.inner, &self.container.id, &self.attachments);
            resolver::leave(self.inner, &self.container.id, &self.attachments);
        }
    }
}

fn undo_network(inner: &Inner, id: &berth_model::ContainerId, attachments: &Attachments) {
    if let Err(e) = cni::detach(inner, id, attachments) {
        tracing::warn!(container = %id, error = %e, "undoing the network of a failed start");
    }
}

/// The container runs, but its record cannot be kept: it must not go on unknown.
async fn abandon(inner: &Arc<Inner>, launched: Launched, why: NodeError) -> NodeError {
    let id = launched.record.id.clone();
    let (inner_, id_) = (inner.clone(), id.clone());
    let killed = inner.blocking(move || Ok(inner_.runtime.kill_all(&id_, Duration::from_secs(5))?)).await;
    if let Err(e) = killed {
        tracing::error!(container = %id, error = %e, "killing a container whose start could not be written down");
    }
    let _ = tokio::time::timeout(Duration::from_secs(2), launched.shim.wait()).await;
    launched.shim.release().await;
    let inner_ = inner.clone();
    let undone = inner.blocking(move || {
        drop(launched.root);
        cni::detach(&inner_, &id, &launched.record.networks)?;
        Ok(inner_.runtime.remove_cgroups(&id)?)
    });
    if let Err(e) = undone.await {
        tracing::warn!(error = %e, "undoing a start");
    }
    why
}

/// The record as it was, with the reason; an auto-removed container goes.
async fn failed(inner: &Arc<Inner>, mut gate: Gate, before: &ContainerRecord, error: &NodeError) {
    let reason = error.to_string();
    let failure = cause::failure(error);
    tracing::debug!(target: TRACE, step = failure.step, errno = failure.errno, error = reason, "start failed");
    let mut more = vec![("step", failure.step.clone()), ("exit_code", failure.exit_code.to_string())];
    more.extend(failure.errno.map(|n| ("errno", n.to_string())));
    more.push(("reason", reason.clone()));
    let record = gate.change(|r| {
        *r = before.clone();
        r.error = Some(reason.clone());
        r.supervision.failure = Some(failure);
    });
    let event = inner.events.add_container(&record, "start_failed", &more);
    if before.spec.auto_remove {
        let _ = inner.store.submit(vec![event], Durability::Quick).await;
        // The same request may try again.
        if let Some(write) = inner.requests.undone(before.request.as_ref()) {
            let _ = inner.store.submit(vec![write], Durability::Quick).await;
        }
        if let Err(e) = remove::decided(inner, gate).await {
            tracing::warn!(container = %record.id, error = %e, "removing a container that failed to start");
        }
        return;
    }
    let teardown = Some(gate.container.teardown().await);
    let container = gate.container.clone();
    if let Err(e) = inner.store.submit(vec![Write::PutContainer(record.clone()), event], Durability::Quick).await {
        tracing::error!(container = %record.id, error = %e, "a failed start could not be written down");
    }
    drop(gate);
    // The folder of its run, and a cgroup where the failure left one.
    inner.reap(Job { container, root: None, networks: Attachments::default(), remove: false, teardown }).await;
}

/// The ports that were asked for, and with `publish_all` every exposed one that is not among them.
///
/// # Errors
/// `TooManyPorts`: the image has more than a container publishes.
pub(crate) fn ports(
    inner: &Inner,
    container: &Container,
    record: &ContainerRecord,
) -> Result<Vec<PortMapping>, NodeError> {
    let mut ports = record.spec.ports.clone();
    if !record.spec.publish_all {
        return Ok(ports);
    }
    let (host_ip, localhost) = inner.networks.publish_policy().unnamed();
    let mut there: HashSet<_> = ports.iter().map(|p| (p.container_port, p.protocol)).collect();
    for exposed in container.image.config.exposed_ports.iter().chain(&record.spec.expose) {
        let Some((container_port, protocol)) = exposed_port(exposed) else { continue };
        if there.insert((container_port, protocol)) {
            ports.push(PortMapping { host_ip, localhost, container_port, protocol, ..PortMapping::default() });
        }
    }
    bounded(&ports).map_err(NodeError::TooManyPorts)?;
    Ok(ports)
}

/// `80`, `80/tcp`, `53/udp`; anything else is left out, as an image's word must not stop a start.
fn exposed_port(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    port.parse().ok().filter(|p| *p > 0).map(|p| (p, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_ports() {
        assert_eq!(exposed_port("80"), Some((80, Protocol::Tcp)));
        assert_eq!(exposed_port("53/udp"), Some((53, Protocol::Udp)));
        for bad in ["0", "80/dccp", "x", "", "70000"] {
            assert_eq!(exposed_port(bad), None, "{bad}");
        }
    }
}
