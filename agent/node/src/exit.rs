//! The end of a container: what its shim says, written down before the shim may go.

use crate::container::{Container, Gate, Life};
use crate::node::Inner;
use crate::reaper::Job;
use crate::store::Durability;
use crate::timers::Kind;
use crate::{cause, fail, policy};
use berth_model::supervision::ExitCause;
use berth_model::{ExitStatus, Phase, Timestamp};
use berth_runtime::signal::SIGKILL;
use berth_runtime::{RuntimeError, Shim};
use std::sync::Arc;
use std::time::Duration;

/// How long the leftovers of a killed shim may take to die.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// Waits for the container's end in a task of its own. Containers go on when the node is closed: the next one takes over.
pub(crate) fn watch(inner: &Arc<Inner>, container: Arc<Container>, shim: Shim) {
    let inner = inner.clone();
    inner.watchers.clone().spawn(async move {
        let outcome = tokio::select! {
            outcome = shim.wait() => outcome,
            () = inner.stop.cancelled() => return,
        };
        let status = decide(&inner, &container, outcome).await;
        let tasks = inner.tasks.clone();
        tasks.spawn(async move { finish(&inner, &container, status, Some(shim)).await });
    });
}

/// The status, from the shim's word or from what a dead shim left.
async fn decide(inner: &Arc<Inner>, container: &Container, outcome: Result<ExitStatus, RuntimeError>) -> ExitStatus {
    let (mut status, lost) = match outcome {
        Ok(status) => (status, false),
        Err(e) => {
            tracing::warn!(container = %container.id, error = %e, "the shim is gone");
            (killed_shim(), true)
        }
    };
    // Reading the cgroup's counters costs a thread hop: only where the kernel can have killed.
    let limited = container.record().spec.resources.memory_bytes.is_some();
    if lost || limited || status.signal == Some(SIGKILL) || status.code == 128 + SIGKILL {
        let (inner, id) = (inner.clone(), container.id.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let mut left = None;
            if lost {
                left = inner.runtime.read_exit(&inner.paths(&id)).ok().flatten();
                if let Err(e) = inner.runtime.kill_all(&id, LEFTOVERS) {
                    tracing::warn!(container = %id, error = %e, "killing what a dead shim left");
                }
            }
            (left, inner.runtime.oom_killed(&id), cause::memory(&inner, &id))
        });
        if let Ok((left, oom, memory)) = looked.await {
            status = left.unwrap_or(status);
            status.oom_killed |= oom;
            return cause::complete(&container.record(), status, memory);
        }
    }
    cause::complete(&container.record(), status, None)
}

/// The same for an end that was found by a new agent: whose OOM kill is told by what is left of its cgroup.
pub(crate) async fn after_absence(inner: &Arc<Inner>, container: &Container, mut status: ExitStatus) -> ExitStatus {
    let (inner, id) = (inner.clone(), container.id.clone());
    let looked = tokio::task::spawn_blocking(move || (inner.runtime.oom_killed(&id), cause::memory(&inner, &id)));
    let (oom, memory) = looked.await.unwrap_or_default();
    status.oom_killed |= oom;
    cause::complete(&container.record(), status, memory)
}

pub(crate) fn killed_shim() -> ExitStatus {
    ExitStatus {
        code: 128 + SIGKILL,
        signal: Some(SIGKILL),
        oom_killed: false,
        reason: Some("the shim was killed, and the container with it".to_owned()),
        finished: Timestamp::now(),
        cause: ExitCause::ShimKilled,
        ..ExitStatus::default()
    }
}

/// Writes the end down, tells who waits, lets the shim go, and hands the rest to the reaper.
pub(crate) async fn finish(inner: &Arc<Inner>, container: &Arc<Container>, status: ExitStatus, shim: Option<Shim>) {
    if let Err(e) = fail::point("exit.before_record") {
        tracing::warn!(error = %e, "fail point");
    }
    let mut gate = container.enter_first().await;
    let auto_remove = container.record().spec.auto_remove && !container.is_kept();
    let networks = container.record().networks.clone();
    let code = status.code.to_string();
    let outcome = policy::decide(&container.record(), &status);
    let record = gate.change(|r| {
        policy::note(r, outcome);
        r.supervision.networks = networks.clone();
        r.phase = if auto_remove { Phase::Removing } else { Phase::Exited };
        r.finished = Some(status.finished);
        r.exit = Some(status.clone());
        r.process = None;
        r.networks.clear();
        r.paused = false;
    });
    gate.set_shim(None);
    inner.nets.touch();
    inner.timers.clear(&container.id, Kind::Probe);
    // Free before the waiters know: who runs it again under the same name must not find it taken.
    if auto_remove {
        inner.containers.take_out(container);
    }
    gate.set_life(Life::Ended(status.clone()));

    let mut writes = vec![crate::store::Write::PutContainer(record.clone())];
    if status.oom_killed {
        writes.push(inner.events.add_container(&record, "oom", &[]));
    }
    let mut more = vec![("exit_code", code), ("cause", status.cause.name().to_owned())];
    if let Some(signal) = status.signal {
        more.push(("signal", signal.to_string()));
    }
    more.push(("reason", status.sentence.clone()));
    writes.push(inner.events.add_container(&record, "die", &more));
    if auto_remove {
        writes.push(inner.events.add_container(&record, "destroy", &[]));
    }
    let durability = if auto_remove { Durability::Quick } else { Durability::Durable };
    let submitted = inner.store.submit(writes, durability).await;
    let root = gate.owned.root.take();
    let teardown = Some(container.teardown().await);
    drop::<Gate>(gate);

    let safe = match submitted {
        Ok(ack) => ack.safe().await,
        Err(e) => Err(e),
    };
    match (safe, shim) {
        (Ok(()), Some(shim)) => {
            if let Err(e) = fail::point("exit.after_record") {
                tracing::warn!(error = %e, "fail point");
            }
            shim.release().await;
        }
        (Ok(()), None) => {}
        // The shim keeps its exit file: the next start of the agent reads it.
        (Err(e), _) => {
            tracing::error!(container = %container.id, error = %e, "the end of a container could not be written down");
            return;
        }
    }
    if let Err(e) = fail::point("exit.after_release") {
        tracing::warn!(error = %e, "fail point");
    }
    inner.reap(Job { container: container.clone(), root, networks, remove: auto_remove, teardown }).await;
    policy::arm(inner, container);
}
