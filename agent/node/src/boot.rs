//! What the agent starts when it comes up: in order, a few at a time, behind its back. One that fails holds up no other.

use crate::container::Container;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::{after, policy};
use berth_model::Timestamp;
use std::sync::Arc;

/// Plans and begins the starts. `same_boot`: the host was not booted since; then pending restarts keep their pauses.
pub(crate) async fn begin(inner: &Arc<Inner>, same_boot: bool) {
    let mut all = inner.containers.all();
    let mut order: Vec<_> = after::depths(&all).into_iter().zip(all.drain(..)).collect();
    order.sort_by_key(|(depth, c)| (*depth, c.record().created));
    let mut now = Vec::new();
    for (_, container) in order {
        let record = container.record();
        if record.is_restarting() && same_boot {
            policy::arm(inner, &container);
        } else if record.is_restarting() || policy::starts_with_agent(&record) {
            plan(inner, &container).await;
            now.push(container);
        }
    }
    if now.is_empty() {
        return;
    }
    tracing::info!(containers = now.len(), same_boot, "starting containers by their restart policy");
    let inner_ = inner.clone();
    inner.watchers.spawn(async move {
        for container in now {
            let inner = inner_.clone();
            if !after::is_met(&inner, &container) {
                inner_.watchers.spawn(async move { policy::in_turn(&inner, container).await });
                continue;
            }
            let permit = tokio::select! {
                permit = inner_.restarts.clone().acquire_owned() => permit,
                () = inner_.stop.cancelled() => return,
            };
            let Ok(permit) = permit else { return };
            inner_.tasks.spawn(async move { policy::again(&inner, &container, Ok(()), permit).await });
        }
    });
}

/// Due at once. Written down: an agent that dies before the start goes on with it.
async fn plan(inner: &Arc<Inner>, container: &Arc<Container>) {
    inner.timers.clear(&container.id, crate::timers::Kind::Restart);
    let mut gate = container.enter_first().await;
    let record = gate.change(|r| {
        r.supervision.next = Some(Timestamp::now());
        r.supervision.stopped = false;
        r.supervision.pause_ms = 0;
    });
    if let Err(e) = inner.store.submit(vec![Write::PutContainer(record)], Durability::Quick).await {
        tracing::error!(container = %container.id, error = %e, "a planned start could not be written down");
    }
}
