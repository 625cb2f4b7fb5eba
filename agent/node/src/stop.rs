//! Stop, kill and wait.

use crate::container::{Container, Gate, Life};
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::{NodeError, fail, pause, policy};
use berth_model::supervision::{Ending, EndingKind};
use berth_model::{ContainerId, ExitStatus, Phase, Timestamp};
use berth_runtime::signal::{self, SIGKILL};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Docker's default grace.
pub(crate) const GRACE_SECS: u32 = 10;
/// From SIGKILL to the end of every process; longer means that the kernel holds one (D state).
const KILL: Duration = Duration::from_secs(5);
/// The shim tells of the end within this, once the processes are gone.
const TOLD: Duration = Duration::from_secs(2);

/// What a stop found.
pub(crate) enum Stopped {
    /// It ran, and ended so.
    Now(ExitStatus),
    /// It did not run; how it ended before, if it did.
    Before(Option<ExitStatus>),
}

/// Signal, grace, kill of the whole cgroup. Ends by its deadline (grace + 7 s) with the truth.
pub(crate) async fn stop(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    timeout_secs: Option<u32>,
    signal: Option<i32>,
    by: &str,
) -> Result<Stopped, NodeError> {
    stop_for(inner, container, timeout_secs, signal, by, EndingKind::Stop).await
}

/// `stop`, for the reason `kind`.
pub(crate) async fn stop_for(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    timeout_secs: Option<u32>,
    signal: Option<i32>,
    by: &str,
    kind: EndingKind,
) -> Result<Stopped, NodeError> {
    // While it is being started, it is decided soon whether there is something to stop.
    let mut gate = container.enter().await?;
    let mut life = container.life();
    let Ok(shim) = container.running_shim() else {
        if matches!(kind, EndingKind::UnhealthyStop | EndingKind::UnhealthyKill | EndingKind::UnhealthyRestart) {
            return Ok(Stopped::Before(container.record().exit.clone()));
        }
        let planned = policy::cancel(inner, &mut gate);
        let exit = container.record().exit.clone();
        if planned || kind == EndingKind::Stop && container.phase() == Phase::Exited {
            not_again(inner, &mut gate, planned, by, kind).await?;
        }
        return Ok(match exit.clone().filter(|_| planned) {
            Some(status) => Stopped::Now(status),
            None => Stopped::Before(exit),
        });
    };
    let record = container.record();
    let grace = timeout_secs.or(record.spec.stop_timeout_secs).unwrap_or(GRACE_SECS);
    let number = signal.unwrap_or(container.effective.stop_signal);
    note(inner, &mut gate, by, kind, if grace > 0 { number } else { SIGKILL }).await?;
    drop(gate);
    let mut ended = None;
    if grace > 0 {
        let event = inner.events.add_container(&record, "kill", &[("signal", number.to_string())]);
        let _ = inner.store.submit(vec![event], Durability::Quick).await?;
        match shim.signal(number) {
            Ok(()) => {
                pause::thaw(inner, container).await?;
                ended = wait_for(&mut life, Duration::from_secs(grace.into())).await;
            }
            // It ends just now, or it cannot be signalled: the kill decides.
            Err(e) => tracing::debug!(container = %container.id, error = %e, "sending the stop signal"),
        }
        fail::point("stop.after_signal")?;
    }
    let status = match ended {
        Some(status) => status,
        None => {
            fail::point("stop.before_kill")?;
            kill_all(inner, container, &mut life).await?
        }
    };
    fail::point("stop.after_kill")?;
    let event = inner.events.add_container(&record, "stop", &[]);
    let _ = inner.store.submit(vec![event], Durability::Quick).await?;
    Ok(Stopped::Now(status))
}

/// Writes down who wants the run to end, before it does.
pub(crate) async fn note(
    inner: &Arc<Inner>,
    gate: &mut Gate,
    by: &str,
    kind: EndingKind,
    signal: i32,
) -> Result<(), NodeError> {
    let ending = Ending { by: by.to_owned(), kind, signal, time: Timestamp::now() };
    let before = gate.container.record();
    // A signal on the way does not make a stop undone.
    if kind == EndingKind::Signal && before.supervision.ending.as_ref().is_some_and(|e| e.kind != kind) {
        return Ok(());
    }
    let record = gate.change(|r| r.supervision.ending = Some(ending));
    let _ = inner.store.submit(vec![Write::PutContainer(record)], Durability::Quick).await?;
    Ok(())
}

/// Writes down that one that has ended is not to be started again. `planned`: it was about to.
async fn not_again(
    inner: &Arc<Inner>,
    gate: &mut Gate,
    planned: bool,
    by: &str,
    kind: EndingKind,
) -> Result<(), NodeError> {
    let before = gate.container.record();
    let record = gate.change(|r| match kind {
        // What was about to start comes back with the agent.
        EndingKind::Shutdown => {
            r.supervision.ending = Some(Ending { by: by.to_owned(), kind, signal: 0, time: Timestamp::now() });
        }
        _ => r.supervision.stopped = true,
    });
    if planned || record.supervision.stopped != before.supervision.stopped {
        let mut writes = vec![Write::PutContainer(record.clone())];
        if planned {
            writes.push(inner.events.add_container(&record, "stop", &[]));
        }
        inner.store.write(writes, Durability::Durable).await?;
    }
    Ok(())
}

/// SIGKILL to every process of the container; gives its status.
pub(crate) async fn kill_all(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    life: &mut watch::Receiver<Life>,
) -> Result<ExitStatus, NodeError> {
    let (runtime, id) = (inner.runtime.clone(), container.id.clone());
    // The first process first: where the group is killed one by one it would see a child of its own die, and might end by itself before its turn.
    if let Some(Err(e)) = container.shim().map(|shim| shim.signal(SIGKILL)) {
        tracing::debug!(container = %container.id, error = %e, "killing the first process");
    }
    let killed = inner.blocking(move || Ok(runtime.kill_all(&id, KILL))).await?;
    if let Some(status) = wait_for(life, TOLD).await {
        return Ok(status);
    }
    if let Err(e) = killed {
        tracing::warn!(container = %container.id, error = %e, "killing a container");
    }
    Err(NodeError::StillRunning(container.record().name.clone()))
}

async fn wait_for(life: &mut watch::Receiver<Life>, time: Duration) -> Option<ExitStatus> {
    let ended = tokio::time::timeout(time, life.wait_for(|l| *l != Life::Open)).await;
    match ended.ok()?.ok()?.clone() {
        Life::Ended(status) => Some(status),
        Life::Open | Life::Gone => None,
    }
}

/// Sends a signal; SIGKILL goes to the whole cgroup.
///
/// As Docker counts: what ends a container (SIGKILL, its own stop signal; any signal where it has none of its own) is a stop, and no
/// policy starts it again.
pub(crate) async fn kill(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    number: i32,
    by: &str,
) -> Result<(), NodeError> {
    let mut gate = container.enter().await?;
    if container.record().is_restarting() {
        policy::cancel(inner, &mut gate);
        return not_again(inner, &mut gate, true, by, EndingKind::Kill).await;
    }
    let shim = container.running_shim()?;
    let record = container.record();
    let own = record.spec.stop_signal.is_some() || container.image.config.stop_signal.is_some();
    let ends = number == SIGKILL || number == container.effective.stop_signal || !own;
    note(inner, &mut gate, by, if ends { EndingKind::Kill } else { EndingKind::Signal }, number).await?;
    drop(gate);
    if number == SIGKILL {
        let (runtime, id) = (inner.runtime.clone(), container.id.clone());
        inner.blocking(move || Ok(runtime.kill_all(&id, KILL)?)).await?;
    } else {
        shim.signal(number)?;
        pause::thaw(inner, container).await?;
    }
    let event = inner.events.add_container(&record, "kill", &[("signal", number.to_string())]);
    let _ = inner.store.submit(vec![event], Durability::Quick).await?;
    Ok(())
}

/// Waits for the end; one that was removed a short while ago still answers.
pub(crate) async fn wait(inner: &Arc<Inner>, name: &str) -> Result<(ContainerId, ExitStatus), NodeError> {
    let container = match inner.containers.find(name) {
        Ok(container) => container,
        Err(e) => return inner.containers.departed(name).ok_or(e),
    };
    let mut life = container.life();
    let ended = tokio::select! {
        ended = life.wait_for(|l| *l != Life::Open) => ended.map(|l| l.clone()).unwrap_or(Life::Gone),
        () = inner.stop.cancelled() => return Err(NodeError::Stopping),
    };
    match ended {
        Life::Ended(status) => Ok((container.id.clone(), status)),
        Life::Open | Life::Gone => Err(NodeError::ContainerNotFound(name.to_owned())),
    }
}

/// A signal's number, or a field error.
pub(crate) fn parse_signal(text: Option<&str>) -> Result<Option<i32>, NodeError> {
    match text.filter(|t| !t.is_empty()) {
        None => Ok(None),
        Some(t) => match signal::parse(t) {
            Some(n) => Ok(Some(n)),
            None => {
                let message = format!("{t:?} is no signal; use a name such as SIGTERM or a number from 1 to 64");
                Err(NodeError::Invalid(vec![("signal".to_owned(), message)]))
            }
        },
    }
}
