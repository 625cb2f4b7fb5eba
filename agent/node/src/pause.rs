//! Pause and unpause. The truth is in the cgroup: a record only says what was seen there last.

use crate::container::{Container, Gate};
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::Requester;
use crate::{Node, NodeError};
use berth_model::ContainerId;
use std::sync::Arc;

impl Node {
    /// Freezes a running container. true: it was paused already.
    ///
    /// # Errors
    /// `NotRunning`; `Runtime`: it did not freeze, and goes on.
    pub async fn pause(&self, who: &Requester, container: &str) -> Result<(ContainerId, bool), NodeError> {
        self.set_paused(who, container, true).await
    }

    /// Lets a paused container go on. true: it was not paused.
    ///
    /// # Errors
    /// `NotRunning`.
    pub async fn unpause(&self, who: &Requester, container: &str) -> Result<(ContainerId, bool), NodeError> {
        self.set_paused(who, container, false).await
    }

    async fn set_paused(
        &self,
        who: &Requester,
        container: &str,
        paused: bool,
    ) -> Result<(ContainerId, bool), NodeError> {
        let found = self.find(container)?;
        let rpc = if paused { "Pause" } else { "Unpause" };
        let Some(ticket) = self.begin(who, rpc, &container).await? else { return Ok((found.id.clone(), true)) };
        let (inner, container) = (self.inner().clone(), found.clone());
        let already = self
            .inner()
            .to_its_end(async move {
                let mut gate = container.enter().await?;
                container.running_shim()?;
                set(&inner, &mut gate, paused).await
            })
            .await?;
        self.answered(ticket, found.id.as_str()).await;
        Ok((found.id.clone(), already))
    }
}

/// true: it was so already.
async fn set(inner: &Arc<Inner>, gate: &mut Gate, paused: bool) -> Result<bool, NodeError> {
    if gate.container.record().paused == paused {
        return Ok(true);
    }
    act(inner, &gate.container, paused).await?;
    if let Err(e) = tell(inner, gate, paused).await {
        // Nobody would know that it stands still.
        act(inner, &gate.container, !paused).await?;
        gate.change(|r| r.paused = !paused);
        return Err(e);
    }
    Ok(false)
}

async fn act(inner: &Arc<Inner>, container: &Container, freeze: bool) -> Result<(), NodeError> {
    let (runtime, id) = (inner.runtime.clone(), container.id.clone());
    let done = move || if freeze { runtime.freeze(&id) } else { runtime.thaw(&id) };
    inner.blocking(move || done().map_err(NodeError::from)).await
}

/// Writes down what is so already, with its event.
pub(crate) async fn tell(inner: &Arc<Inner>, gate: &mut Gate, paused: bool) -> Result<(), NodeError> {
    let record = gate.change(|r| r.paused = paused);
    let event = inner.events.add_container(&record, if paused { "pause" } else { "unpause" }, &[]);
    Ok(inner.store.write(vec![Write::PutContainer(record), event], Durability::Quick).await?)
}

/// Lets a signal that was sent to a paused container arrive. One that is not paused, or ends just now, is left as it is.
pub(crate) async fn thaw(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<(), NodeError> {
    if !container.record().paused {
        return Ok(());
    }
    let mut gate = container.enter().await?;
    if container.running_shim().is_ok() {
        set(inner, &mut gate, false).await?;
    }
    Ok(())
}
