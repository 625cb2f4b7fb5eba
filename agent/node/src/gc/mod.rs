//! Freeing space: prunes, and the collection that a policy asks for.
//!
//! A picture of the node is taken, a plan is made from it (`plan.rs`, pure), and its victims go one by one. Between the picture and a
//! removal the node goes on: so whoever removes asks again under the lock that keeps the answer true. A container goes under its gate,
//! when it has stopped and nobody is about to start it; an image under the lock of its table, when no creation holds it and no
//! container was made from it; a layer under the lock of the pulls, when none counts on it.

pub(crate) mod plan;
pub(crate) mod policy;

use crate::container::Container;
use crate::counts::Counts;
use crate::node::Inner;
use crate::store::Durability;
use crate::view::{Freed, FreedKind, FreedTotal};
use crate::{NodeError, images, remove, usage};
use berth_model::event::EventKind;
use berth_model::{ContainerId, ContainerRecord, Digest, Phase, Timestamp};
use plan::{ContainerFact, LayerFact, Picture, Thing, Victim};
use policy::Policy;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Problems that are told; the agent's log has all of them.
const PROBLEMS: usize = 16;

/// Runs a policy to its end, whoever listens. `action`: the word for it in events.
pub(crate) async fn run(
    inner: &Arc<Inner>,
    policy: &Policy,
    dry_run: bool,
    action: &str,
    tell: &mpsc::Sender<Freed>,
) -> Result<FreedTotal, NodeError> {
    let victims = plan::plan(&picture(inner).await?, policy);
    let mut total = FreedTotal::default();
    for victim in victims {
        if inner.stop.is_cancelled() {
            return Err(NodeError::Stopping);
        }
        let outcome = match &victim.thing {
            Thing::Container(id) => container(inner, policy, id, &victim, dry_run).await,
            Thing::Image(id) => image(inner, policy, id, &victim, dry_run).await,
            Thing::Layer(layer) => orphan(inner, layer, &victim, dry_run).await,
        };
        match outcome {
            Ok(Some(freed)) => {
                total.add(&freed);
                // Err: nobody listens any more.
                let _ = tell.send(freed).await;
            }
            // It came into use meanwhile.
            Ok(None) => {}
            Err(NodeError::Stopping) => return Err(NodeError::Stopping),
            Err(e) => {
                tracing::warn!(thing = ?victim.thing, error = %e, "freeing space");
                if total.problems.len() < PROBLEMS {
                    total.problems.push(e.to_string());
                }
            }
        }
    }
    if !dry_run {
        if policy.layers
            && let Err(e) = images::sweep(inner).await
        {
            total.problems.push(e.to_string());
        }
        let counts = &inner.counts;
        for (counter, n) in [
            (&counts.gc_runs, 1),
            (&counts.gc_containers, total.containers.into()),
            (&counts.gc_images, total.images.into()),
            (&counts.gc_layers, total.layers.into()),
            (&counts.gc_bytes, total.bytes),
        ] {
            Counts::add(counter, n);
        }
        let attributes = BTreeMap::from([
            ("bytes".to_owned(), total.bytes.to_string()),
            ("containers".to_owned(), total.containers.to_string()),
            ("images".to_owned(), total.images.to_string()),
            ("layers".to_owned(), total.layers.to_string()),
        ]);
        let event = inner.events.add(EventKind::Node, action, "node", attributes);
        let _ = inner.store.submit(vec![event], Durability::Quick).await?;
    }
    Ok(total)
}

/// Runs the configured policy now and then. Ends with the node; without an interval there is nothing to wake up for.
pub(crate) fn at_intervals(inner: &Arc<Inner>) {
    let Some(interval) = inner.config.gc.interval else { return };
    let inner = inner.clone();
    inner.watchers.clone().spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = inner.stop.cancelled() => return,
            }
            let policy = Policy::of(&inner.config.gc, Timestamp::now());
            let (tell, mut told) = mpsc::channel::<Freed>(1);
            let listen = async {
                while let Some(freed) = told.recv().await {
                    tracing::info!(
                        id = freed.id,
                        name = freed.name,
                        bytes = freed.bytes,
                        why = freed.reason,
                        "removed"
                    );
                }
            };
            let work = async {
                let done = run(&inner, &policy, false, "gc", &tell).await;
                drop(tell);
                done
            };
            if let (Err(e), ()) = tokio::join!(work, listen) {
                tracing::warn!(error = %e, "freeing space by the policy");
            }
        }
    });
}

async fn picture(inner: &Arc<Inner>) -> Result<Picture, NodeError> {
    let now = Timestamp::now();
    let containers = inner.containers.all().iter().map(|c| fact(c, &c.record())).collect();
    let images = inner.images.facts();
    let inner_ = inner.clone();
    inner
        .blocking(move || {
            let root = &inner_.config.data_root;
            let disk = berth_sys::store::disk_space(root)
                .map_err(NodeError::io(format!("asking for the space of {}", root.display())))?;
            let layers = inner_.layers.store.list()?;
            let layers = layers.into_iter().map(|l| LayerFact {
                doomed: inner_.images.doom(&l.diff_id),
                counted_on: inner_.layers.is_counted_on(&l.diff_id),
                bytes: l.tar_bytes,
                diff_id: l.diff_id,
            });
            Ok(Picture {
                now,
                containers,
                images,
                layers: layers.collect(),
                disk_free: disk.free_bytes,
                disk_total: disk.total_bytes,
            })
        })
        .await
}

fn fact(container: &Container, record: &ContainerRecord) -> ContainerFact {
    ContainerFact {
        id: container.id.clone(),
        image: record.image_id.clone(),
        layers: record.layers.clone(),
        phase: record.phase,
        held: container.is_held() || container.is_kept() || record.is_restarting(),
        created: record.created,
        ended: record.finished,
        labels: record.spec.labels.clone(),
    }
}

/// Removes a container that still fits. None: it does not any more.
async fn container(
    inner: &Arc<Inner>,
    policy: &Policy,
    id: &ContainerId,
    victim: &Victim,
    dry_run: bool,
) -> Result<Option<Freed>, NodeError> {
    let Ok(found) = inner.containers.find(id.as_str()) else { return Ok(None) };
    let bytes = usage::container_bytes(inner, id).await?.total();
    let name = found.record().name.clone();
    if !dry_run {
        let gate = found.enter().await?;
        if found.phase() == Phase::Removing
            || policy.container(&fact(&found, &found.record()), Timestamp::now()).is_none()
        {
            return Ok(None);
        }
        remove::decided(inner, gate).await?;
    }
    let id = id.to_string();
    Ok(Some(Freed { kind: FreedKind::Container, id, name, untagged: Vec::new(), bytes, reason: victim.why.clone() }))
}

/// Removes an image that still fits.
async fn image(
    inner: &Arc<Inner>,
    policy: &Policy,
    id: &Digest,
    victim: &Victim,
    dry_run: bool,
) -> Result<Option<Freed>, NodeError> {
    let freed = |untagged, bytes| Freed {
        kind: FreedKind::Image,
        id: id.to_string(),
        name: String::new(),
        untagged,
        bytes,
        reason: victim.why.clone(),
    };
    if dry_run {
        let fact = inner.images.fact(id);
        let names = fact.map(|f| f.tags.iter().map(ToString::to_string).collect()).unwrap_or_default();
        return Ok(Some(freed(names, victim.bytes)));
    }
    let (inner_, id_, policy, for_space) = (inner.clone(), id.clone(), policy.clone(), victim.for_space);
    let removed = inner
        .to_its_end(async move {
            images::remove_unused(&inner_, &id_, |fact| {
                if for_space { !policy.keeps(fact) } else { policy.image(fact, Timestamp::now()).is_some() }
            })
            .await
        })
        .await?;
    Ok(removed.map(|r| freed(r.untagged, r.freed_bytes)))
}

/// Removes a layer that nothing refers to.
async fn orphan(
    inner: &Arc<Inner>,
    layer: &Digest,
    victim: &Victim,
    dry_run: bool,
) -> Result<Option<Freed>, NodeError> {
    let bytes = match dry_run {
        true => Some(victim.bytes),
        false => images::remove_orphan(inner, layer).await?,
    };
    Ok(bytes.map(|bytes| Freed {
        kind: FreedKind::Layer,
        id: layer.to_string(),
        name: String::new(),
        untagged: Vec::new(),
        bytes,
        reason: victim.why.clone(),
    }))
}
