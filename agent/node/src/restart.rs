//! Restart: a stop and a start that belong together.

use crate::container::Container;
use crate::node::Inner;
use crate::store::Durability;
use crate::view::Requester;
use crate::{Node, NodeError, after, remove, start, stop};
use berth_model::{ContainerId, Phase};
use std::sync::Arc;

impl Node {
    /// Stops a container as [`Node::stop`] does, if it runs, and starts it. One that would be removed at its end is not.
    ///
    /// # Errors
    /// Those of `stop` and `start`.
    pub async fn restart(
        &self,
        who: &Requester,
        container: &str,
        timeout_secs: Option<u32>,
        signal: Option<&str>,
    ) -> Result<ContainerId, NodeError> {
        let signal = stop::parse_signal(signal)?;
        let found = self.find(container)?;
        let Some(ticket) = self.begin(who, "Restart", &(container, timeout_secs, signal)).await? else {
            return Ok(found.id.clone());
        };
        let (inner, container) = (self.inner().clone(), found.clone());
        let by = who.caller.clone();
        self.inner().to_its_end(async move { restart(&inner, &container, timeout_secs, signal, &by).await }).await?;
        self.answered(ticket, found.id.as_str()).await;
        Ok(found.id.clone())
    }
}

async fn restart(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    timeout_secs: Option<u32>,
    signal: Option<i32>,
    by: &str,
) -> Result<(), NodeError> {
    // Before the stop: one that could not start again is left as it is.
    after::ready(inner, container, |_| true).await?;
    let kept = container.keep();
    stop::stop(inner, container, timeout_secs, signal, by).await?;
    let gate = match container.enter().await {
        Ok(gate) => gate,
        Err(e) => {
            drop(kept);
            leave(inner, container).await;
            return Err(e);
        }
    };
    start::start(inner, gate, None).await?;
    let event = inner.events.add_container(&container.record(), "restart", &[]);
    let _ = inner.store.submit(vec![event], Durability::Quick).await?;
    Ok(())
}

/// It was stopped and cannot be started again: what would have gone at its end goes now.
async fn leave(inner: &Arc<Inner>, container: &Arc<Container>) {
    let gate = container.enter_first().await;
    if container.phase() == Phase::Exited
        && container.record().spec.auto_remove
        && let Err(e) = remove::decided(inner, gate).await
    {
        tracing::warn!(container = %container.id, error = %e, "removing a container that could not be started again");
    }
}
