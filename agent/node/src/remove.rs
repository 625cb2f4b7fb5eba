//! Removes a container: the decision is written down, the reaper does the rest.

use crate::container::{Container, Gate, Life};
use crate::node::Inner;
use crate::reaper::Job;
use crate::store::{Durability, Write};
use crate::timers::Kind;
use crate::{NodeError, fail, stop};
use berth_model::supervision::EndingKind;
use berth_model::{ContainerId, Phase};
use berth_runtime::signal::SIGKILL;
use std::sync::Arc;

/// Times that a container may be started again between its kill and its removal before this is called busy.
const ROUNDS: u32 = 3;

/// Removes `container`; `force` kills it first. Gone already is fine.
pub(crate) async fn remove(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    force: bool,
    volumes: bool,
    by: &str,
) -> Result<ContainerId, NodeError> {
    for _ in 0..ROUNDS {
        let mut gate = container.enter().await?;
        let restarting = container.record().is_restarting();
        match container.phase() {
            // As Docker: it counts as running.
            Phase::Exited if restarting && !force => return Err(NodeError::Running(container.record().name.clone())),
            Phase::Created | Phase::Exited => {
                gate.change(|r| r.remove_volumes = volumes);
                decided(inner, gate).await?;
                return Ok(container.id.clone());
            }
            Phase::Removing => return Ok(container.id.clone()),
            Phase::Creating | Phase::Starting | Phase::Running => {
                if !force {
                    return Err(NodeError::Running(container.record().name.clone()));
                }
                if container.phase() == Phase::Running {
                    stop::note(inner, &mut gate, by, EndingKind::Kill, SIGKILL).await?;
                }
                // Without the gate: the end of the run needs it.
                drop(gate);
                let mut life = container.life();
                stop::kill_all(inner, container, &mut life).await?;
            }
        }
    }
    Err(NodeError::Busy(container.record().name.clone()))
}

/// From here on it goes, whatever happens to the agent.
pub(crate) async fn decided(inner: &Arc<Inner>, mut gate: Gate) -> Result<(), NodeError> {
    fail::point("remove.before_record")?;
    let container = gate.container.clone();
    let before = container.record();
    let record = gate.change(|r| r.phase = Phase::Removing);
    let durability = if record.spec.auto_remove { Durability::Quick } else { Durability::Durable };
    let event = inner.events.add_container(&record, "destroy", &[]);
    let written = inner.store.write(vec![Write::PutContainer(record.clone()), event], durability).await;
    if let Err(e) = written {
        gate.change(|r| r.phase = before.phase);
        return Err(e.into());
    }
    fail::point("remove.after_record")?;
    inner.timers.clear(&container.id, Kind::Restart);
    inner.containers.take_out(&container);
    if record.exit.is_none() {
        gate.set_life(Life::Gone);
    }
    let root = gate.owned.root.take();
    let networks = record.networks.clone();
    drop(gate);
    inner.reap(Job { container, root, networks, remove: true, teardown: None }).await;
    Ok(())
}
