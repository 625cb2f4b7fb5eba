//! Waits for what becomes of a container.

use crate::NodeError;
use crate::container::{Container, Life};
use crate::node::Inner;
use crate::view::{EventItem, WaitCondition};
use berth_model::supervision::HealthStatus;
use berth_model::{ContainerId, ExitStatus, Phase};
use std::sync::Arc;
use std::time::Duration;

/// An auto-removed container is out of the index a moment before its end is told.
const BEHIND: Duration = Duration::from_millis(250);

type Waited = (ContainerId, Option<ExitStatus>);

pub(crate) async fn wait_for(inner: &Arc<Inner>, name: &str, condition: WaitCondition) -> Result<Waited, NodeError> {
    if condition == WaitCondition::NotRunning {
        // As Docker: one that never ran does not run.
        if let Ok(container) = inner.containers.find(name)
            && container.phase() == Phase::Created
        {
            return Ok((container.id.clone(), container.record().exit.clone()));
        }
        return crate::stop::wait(inner, name).await.map(|(id, exit)| (id, Some(exit)));
    }
    let container = match inner.containers.find(name) {
        Err(e) if condition == WaitCondition::Removed => {
            return inner.containers.departed(name).map(|(id, exit)| (id, Some(exit))).ok_or(e);
        }
        found => found?,
    };
    let wait = async {
        match condition {
            WaitCondition::NotRunning | WaitCondition::NextExit => next_exit(&container).await.map(Some),
            WaitCondition::Removed => {
                container.gone().await;
                Some(container.record().exit.clone())
            }
            WaitCondition::Running => running(inner, &container).await.then_some(None),
            WaitCondition::Healthy => healthy(&container).await.then_some(None),
        }
    };
    if condition == WaitCondition::Healthy && container.check.is_none() {
        return Err(NodeError::NoHealthCheck(container.record().name.clone()));
    }
    let waited = tokio::select! {
        waited = wait => waited,
        () = inner.stop.cancelled() => return Err(NodeError::Stopping),
    };
    match waited {
        Some(exit) => Ok((container.id.clone(), exit)),
        None => Err(NodeError::ContainerNotFound(name.to_owned())),
    }
}

/// The next end from now on. None: it was removed before.
async fn next_exit(container: &Container) -> Option<ExitStatus> {
    let mut life = container.life();
    life.borrow_and_update();
    let mut changes = async || {
        while life.changed().await.is_ok() {
            match life.borrow_and_update().clone() {
                Life::Ended(exit) => return Some(exit),
                Life::Gone => return None,
                Life::Open => {}
            }
        }
        None
    };
    tokio::select! {
        exit = changes() => return exit,
        () = container.gone() => {}
    }
    tokio::time::timeout(BEHIND, changes()).await.ok().flatten()
}

/// Waits until a run of it is found well; one that was, and has ended, is not. false: it was removed before.
async fn healthy(container: &Container) -> bool {
    let (mut health, mut life) = (container.health.subscribe(), container.life());
    loop {
        // Marked as seen before the look: what changes behind it is not missed.
        let well = health.borrow_and_update().as_ref().is_some_and(|h| h.status == HealthStatus::Healthy);
        life.mark_unchanged();
        if well && container.phase() == Phase::Running {
            return true;
        }
        tokio::select! {
            _ = health.changed() => {}
            _ = life.changed() => {}
            () = container.gone() => return false,
        }
    }
}

/// Waits until it runs. false: it was removed before.
async fn running(inner: &Arc<Inner>, container: &Container) -> bool {
    'watch: loop {
        // Subscribed before the look: a start between both is told.
        let Ok(mut events) = inner.events.watch(0, None) else { return false };
        loop {
            if container.phase() == Phase::Running {
                return true;
            }
            let item = tokio::select! {
                item = events.recv() => item,
                () = container.gone() => return false,
            };
            match item {
                Some(Ok(EventItem::Event(e))) if e.subject != container.id.as_str() => {}
                Some(Ok(_)) => {}
                // It fell behind.
                Some(Err(_)) => continue 'watch,
                None => return false,
            }
        }
    }
}
