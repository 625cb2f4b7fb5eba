//! Stopping everything, as for the end of the host: those that start after others first, each with its own grace, all within a bound.

use crate::container::Container;
use crate::node::Inner;
use crate::requests::{Begin, fingerprint};
use crate::stop::Stopped;
use crate::view::Requester;
use crate::{Node, NodeError, after, stop};
use berth_model::supervision::EndingKind;
use berth_model::{ContainerId, Phase};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Stops side by side: they wait for their containers more than they work.
const AT_ONCE: usize = 64;

/// What became of one container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shut {
    pub id: ContainerId,
    pub name: String,
    /// It still runs, and why; `None`: it has ended.
    pub error: Option<String>,
}

impl Node {
    /// Stops every container that runs, and takes every pending restart back. Containers that others start after go last; each has its
    /// own grace, cut where it would go beyond `within`. What a restart policy keeps going comes back with the next start of the agent.
    ///
    /// # Errors
    /// `Stopping`, `RequestIdReused`. What could not be stopped is in the answer.
    pub async fn stop_all(&self, who: &Requester, within: Duration) -> Result<Vec<Shut>, NodeError> {
        let ticket = match self.inner().requests.begin(who, "StopAll", fingerprint(&within.as_millis())).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(_) => return Ok(Vec::new()),
        };
        let (inner, by) = (self.inner().clone(), who.caller.clone());
        let shut = self.inner().to_its_end(async move { Ok(stop_all(&inner, &by, within).await) }).await?;
        self.answered(ticket, "done").await;
        Ok(shut)
    }
}

async fn stop_all(inner: &Arc<Inner>, by: &str, within: Duration) -> Vec<Shut> {
    let until = Instant::now() + within;
    let all = inner.containers.all();
    let mut waves: Vec<Vec<Arc<Container>>> = Vec::new();
    for (container, depth) in all.iter().zip(after::depths(&all)) {
        let record = container.record();
        if matches!(record.phase, Phase::Starting | Phase::Running) || record.is_restarting() {
            waves.resize_with(waves.len().max(depth + 1), Vec::new);
            waves[depth].push(container.clone());
        }
    }
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut done = Vec::new();
    for wave in waves.into_iter().rev() {
        let mut stopping = JoinSet::new();
        for container in wave {
            let (inner, by, room) = (inner.clone(), by.to_owned(), room.clone());
            stopping.spawn(async move {
                let _permit = room.acquire_owned().await;
                let error = stop_one(&inner, &container, &by, until).await.err().map(|e| e.to_string());
                Shut { id: container.id.clone(), name: container.record().name.clone(), error }
            });
        }
        while let Some(shut) = stopping.join_next().await {
            done.extend(shut);
        }
    }
    done
}

async fn stop_one(inner: &Arc<Inner>, container: &Arc<Container>, by: &str, until: Instant) -> Result<(), NodeError> {
    let own = container.record().spec.stop_timeout_secs.unwrap_or(stop::GRACE_SECS);
    let left = u32::try_from(until.saturating_duration_since(Instant::now()).as_secs()).unwrap_or(u32::MAX);
    let stopped = stop::stop_for(inner, container, Some(own.min(left)), None, by, EndingKind::Shutdown).await?;
    if let Stopped::Now(status) = stopped {
        tracing::info!(container = %container.id, code = status.code, "stopped with all");
    }
    Ok(())
}
