//! Stop, kill and wait.

use crate::container::{Container, Life};
use crate::node::Inner;
use crate::store::Durability;
use crate::{NodeError, fail, pause};
use berth_model::{ContainerId, ExitStatus, Phase};
use berth_runtime::signal::{self, SIGKILL};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Docker's default grace.
const GRACE_SECS: u32 = 10;
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
) -> Result<Stopped, NodeError> {
    if container.phase() == Phase::Starting {
        // It is decided soon whether there is something to stop.
        drop(container.enter().await?);
    }
    let mut life = container.life();
    let Ok(shim) = container.running_shim() else {
        return Ok(Stopped::Before(container.record().exit.clone()));
    };
    let record = container.record();
    let grace = timeout_secs.or(record.spec.stop_timeout_secs).unwrap_or(GRACE_SECS);
    let number = signal.unwrap_or(container.effective.stop_signal);
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

/// SIGKILL to every process of the container; gives its status.
pub(crate) async fn kill_all(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    life: &mut watch::Receiver<Life>,
) -> Result<ExitStatus, NodeError> {
    let (runtime, id) = (inner.runtime.clone(), container.id.clone());
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
pub(crate) async fn kill(inner: &Arc<Inner>, container: &Arc<Container>, number: i32) -> Result<(), NodeError> {
    if container.phase() == Phase::Starting {
        drop(container.enter().await?);
    }
    let shim = container.running_shim()?;
    let record = container.record();
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
