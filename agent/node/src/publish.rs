//! Published ports of containers that are there.

use crate::container::Container;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::Requester;
use crate::{Node, NodeError, fail};
use berth_model::network::{NetworkAttachment, PortMapping};
use berth_model::publish::PublishPolicy;
use berth_model::{ContainerId, Phase};
use berth_network::{Explained, Question};
use std::sync::Arc;

/// As the API has it for a container's spec.
const MAX_PORTS: usize = 4096;

impl Node {
    /// Where ports may be published.
    pub fn publish_policy(&self) -> &PublishPolicy {
        self.inner().networks.publish_policy()
    }

    /// Follows one packet to a port of the host.
    ///
    /// # Errors
    /// `Network`: the rules cannot be read, or there is no such interface.
    pub async fn explain_port(&self, question: Question) -> Result<Explained, NodeError> {
        let networks = self.inner().networks.clone();
        self.inner().blocking(move || Ok(networks.explain(&question)?)).await
    }

    /// Publishes ports of a container and closes others, of one that runs at once: all of it, or nothing. Of `remove`, a host's port of 0 and no
    /// address are any. What is not published can be removed. Answers with what is published now.
    ///
    /// # Errors
    /// `Invalid`: the container has no network of its own; `Network`: a port is taken, or cannot be published.
    pub async fn update_ports(
        &self,
        who: &Requester,
        container: &str,
        add: Vec<PortMapping>,
        remove: Vec<PortMapping>,
    ) -> Result<(ContainerId, Vec<PortMapping>), NodeError> {
        let found = self.find(container)?;
        if let Some(ticket) = self.begin(who, "UpdatePorts", &(container, &add, &remove)).await? {
            let (inner, container) = (self.inner().clone(), found.clone());
            self.inner().to_its_end(async move { apply(&inner, &container, add, remove).await }).await?;
            self.answered(ticket, found.id.as_str()).await;
        }
        let record = found.record();
        let ports = record.networks.main().map_or_else(|| record.spec.ports.clone(), |a| a.ports.clone());
        Ok((found.id.clone(), ports))
    }
}

fn meant(patterns: &[PortMapping], port: &PortMapping) -> bool {
    patterns.iter().any(|p| {
        p.container_port == port.container_port
            && p.protocol == port.protocol
            && (p.host_port == 0 || p.host_port == port.host_port)
            && (p.host_ip.is_none() || p.host_ip == port.host_ip)
    })
}

/// What a container that does not run is to publish is checked like that of one that does: it has to be able to start.
fn check<'a>(kept: impl Iterator<Item = &'a PortMapping>, add: &'a [PortMapping]) -> Result<(), NodeError> {
    let wrong = |why: String| Err(NodeError::Invalid(vec![("add".to_owned(), why)]));
    let mut all: Vec<&PortMapping> = kept.collect();
    if all.len() + add.len() > MAX_PORTS {
        return wrong(format!("would make {} published ports, and {MAX_PORTS} are the most", all.len() + add.len()));
    }
    for port in add {
        if all.iter().any(|other| meet(other, port)) {
            return wrong(format!("port {}/{} is published twice", port.host_port, port.protocol.name()));
        }
        all.push(port);
    }
    Ok(())
}

/// Both are, or hold, the same port of the host.
fn meet(a: &PortMapping, b: &PortMapping) -> bool {
    let last = |p: &PortMapping| p.host_port.saturating_add(p.count.saturating_sub(1));
    let address = a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip;
    let chosen = a.host_port == 0 || b.host_port == 0;
    !chosen && address && a.protocol == b.protocol && a.host_port <= last(b) && b.host_port <= last(a)
}

async fn apply(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    add: Vec<PortMapping>,
    remove: Vec<PortMapping>,
) -> Result<(), NodeError> {
    let mut gate = container.enter().await?;
    let before = container.record();
    if before.phase == Phase::Removing {
        return Err(NodeError::ContainerNotFound(before.name.clone()));
    }
    if !before.spec.network.is_own() {
        let why = "can only be published where the container has a network of its own";
        return Err(NodeError::Invalid(vec![("add".to_owned(), why.to_owned())]));
    }
    if before.networks.main().is_some_and(NetworkAttachment::is_cni) {
        let why =
            "are published by CNI plugins on this container's network, which do it at the start only: stop it first";
        return Err(NodeError::Invalid(vec![("add".to_owned(), why.to_owned())]));
    }
    let live = before.phase == Phase::Running;
    let of_main = before.networks.main().filter(|_| live);
    let stays = |p: &&PortMapping| !meant(&remove, p) && !of_choice(p, of_main, &remove);
    check(before.spec.ports.iter().filter(stays), &add)?;
    let old: Option<NetworkAttachment> = before.networks.main().filter(|_| live).cloned();
    let id = container.id.clone();
    let taken = match &old {
        None => Vec::new(),
        Some(_) => {
            let (networks, id, add) = (inner.networks.clone(), id.clone(), add.clone());
            inner.blocking(move || Ok(networks.take_ports(&id, &add)?)).await?
        }
    };
    fail::point("ports.before_record")?;
    let now = old.as_ref().map(|old| {
        let kept = old.ports.iter().filter(|p| !meant(&remove, p)).cloned();
        NetworkAttachment { ports: kept.chain(taken.iter().cloned()).collect(), ..old.clone() }
    });
    let record = gate.change(|r| {
        r.spec.ports.retain(|p| !meant(&remove, p) && !of_choice(p, old.as_ref(), &remove));
        r.spec.ports.extend(add);
        if let Some(now) = &now {
            for attachment in r.networks.iter_mut().filter(|a| a.network == now.network) {
                attachment.ports.clone_from(&now.ports);
            }
        }
    });
    let event = inner.events.add_container(&record, "update", &[]);
    // Before the rules: whatever happens to the agent from here on, the next one makes them what the record says.
    let mut done =
        inner.store.write(vec![Write::PutContainer(record), event], Durability::Durable).await.map_err(NodeError::from);
    if done.is_ok() {
        fail::point("ports.after_record")?;
        if let (Some(old), Some(now)) = (old.clone(), now) {
            let (networks, id) = (inner.networks.clone(), id.clone());
            done = inner.blocking(move || Ok(networks.publish(&id, &old, &now)?)).await;
        }
    }
    if let Err(error) = done {
        let record = gate.change(|r| {
            r.spec.ports = before.spec.ports.clone();
            r.networks = before.networks.clone();
        });
        if let Err(e) = inner.store.write(vec![Write::PutContainer(record)], Durability::Durable).await {
            tracing::error!(container = %id, error = %e, "taking back ports that could not be published");
        }
        let networks = inner.networks.clone();
        let _ = inner
            .blocking(move || {
                networks.give_back_ports(&id, &taken);
                Ok(())
            })
            .await;
        return Err(error);
    }
    fail::point("ports.after_rules")?;
    Ok(())
}

/// The spec left the host's port to the agent, and the port that was chosen is meant.
fn of_choice(port: &PortMapping, live: Option<&NetworkAttachment>, remove: &[PortMapping]) -> bool {
    port.host_port == 0
        && live.is_some_and(|live| {
            live.ports.iter().any(|l| {
                (l.container_port, l.protocol, l.host_ip) == (port.container_port, port.protocol, port.host_ip)
                    && meant(remove, l)
            })
        })
}
