//! Published ports of containers that are there.

use crate::container::Container;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::Requester;
use crate::{Node, NodeError, fail, nets};
use berth_model::network::{NetworkAttachment, PortMapping};
use berth_model::publish::PublishPolicy;
use berth_model::{ContainerId, ContainerRecord, Phase};
use berth_network::{Explained, Question};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// As the API has it for a container's spec.
const MAX_PORTS: usize = 4096;
/// How long ports are waited for that a container has which runs no more. Plugins of CNI take some tenths of a second to leave a network, on a busy
/// host some seconds; one whose DEL fails keeps its ports until it succeeds, which is not waited for.
const GIVEN_BACK: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
    /// address are any. What is not published can be removed. The record that it answers with says what is published now.
    ///
    /// # Errors
    /// `Invalid`: the container has no network of its own; `Network`: a port is taken, or cannot be published.
    pub async fn update_ports(
        &self,
        who: &Requester,
        container: &str,
        add: Vec<PortMapping>,
        remove: Vec<PortMapping>,
    ) -> Result<Arc<ContainerRecord>, NodeError> {
        let found = self.find(container)?;
        if let Some(ticket) = self.begin(who, "UpdatePorts", &(container, &add, &remove)).await? {
            let (inner, container) = (self.inner().clone(), found.clone());
            self.inner().to_its_end(async move { apply(&inner, &container, add, remove).await }).await?;
            self.answered(ticket, found.id.as_str()).await;
        }
        Ok(found.record())
    }
}

/// Waits while ports that are asked for are those of a container that has ended or is gone: it gives them back behind its answer, when its networks
/// are taken apart. A port of one that runs is not waited for, and whoever takes it then is told who has it. Blocking.
pub(crate) fn wait_for_ports(inner: &Inner, id: &ContainerId, wanted: &[PortMapping]) {
    let runs_no_more = |holder: &ContainerId| {
        let found = inner.containers.find(holder.as_str());
        found.is_err() || found.is_ok_and(|c| matches!(c.phase(), Phase::Created | Phase::Exited | Phase::Removing))
    };
    let due = Instant::now() + GIVEN_BACK;
    loop {
        let holders = inner.networks.port_holders(wanted);
        let others: Vec<_> = holders.iter().filter(|holder| *holder != id).collect();
        if others.is_empty() || !others.iter().all(|holder| runs_no_more(holder)) {
            return;
        }
        if Instant::now() >= due || inner.stop.is_cancelled() {
            tracing::warn!(container = %id, holder = %others[0], "a container that runs no more still has ports that are asked for");
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// What a container that does not run is to publish is checked like that of one that does: it has to be able to start.
fn check(kept: &[PortMapping], add: &[PortMapping]) -> Result<(), NodeError> {
    let wrong = |why: String| Err(NodeError::Invalid(vec![("add".to_owned(), why)]));
    let mut all: Vec<&PortMapping> = kept.iter().collect();
    if all.len() + add.len() > MAX_PORTS {
        return wrong(format!("would make {} published ports, and {MAX_PORTS} are the most", all.len() + add.len()));
    }
    for port in add {
        if let Some(other) = all.iter().find(|other| other.meets(port)) {
            // The first one that both ranges have.
            let number = port.host_port.max(other.host_port);
            return wrong(format!("port {number}/{} is published twice", port.protocol.name()));
        }
        all.push(port);
    }
    Ok(())
}

/// What is left of the ports when some are closed. Of one that was for all addresses and is closed for those of IPv4, nothing is left to a container
/// that has no others.
fn left(ports: &[PortMapping], remove: &[PortMapping], ipv6: bool) -> Vec<PortMapping> {
    let reaches = |old: &PortMapping, new: &PortMapping| {
        ipv6 || old.addresses() == new.addresses() || new.addresses().iter().any(|a| a.is_ipv4())
    };
    let kept =
        |old: &PortMapping| old.without(remove).left.into_iter().filter(|new| reaches(old, new)).collect::<Vec<_>>();
    ports.iter().flat_map(kept).collect()
}

/// The same of what a container asks for: whose port the agent chose is closed with that port.
fn left_of_spec(spec: &[PortMapping], live: &[PortMapping], remove: &[PortMapping], ipv6: bool) -> Vec<PortMapping> {
    let mut live: Vec<&PortMapping> = live.iter().filter(|l| !spec.contains(l)).collect();
    let mut all = Vec::new();
    for asked in spec {
        let chosen = live.iter().position(|l| asked.is_open() && asked.could_be(l)).map(|at| live.remove(at));
        match chosen {
            None => all.extend(left(std::slice::from_ref(asked), remove, ipv6)),
            Some(chosen) => {
                let kept = left(std::slice::from_ref(chosen), remove, ipv6);
                all.extend(kept.iter().map(|p| asked.at(p.addresses())));
            }
        }
    }
    all
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
    let old: Option<NetworkAttachment> = before.networks.main().filter(|_| live).cloned();
    let main = nets::main_network(inner, &before.spec).and_then(|name| inner.nets.by_name(&name));
    if let Some(why) = main.as_ref().filter(|_| !add.is_empty()).and_then(|n| nets::no_ports(n)) {
        return Err(NodeError::Invalid(vec![("add".to_owned(), why)]));
    }
    let ipv6 = old.as_ref().map_or(main.is_some_and(|n| n.ipv6.is_some()), |a| a.ipv6.is_some());
    let live = old.as_ref().map_or(&[][..], |old| &old.ports);
    let asked = left_of_spec(&before.spec.ports, live, &remove, ipv6);
    check(&asked, &add)?;
    let id = container.id.clone();
    let taken = match &old {
        None => Vec::new(),
        Some(_) => {
            let (inner_, id, add) = (inner.clone(), id.clone(), add.clone());
            let take = move || {
                wait_for_ports(&inner_, &id, &add);
                Ok(inner_.networks.take_ports(&id, &add)?)
            };
            inner.blocking(take).await?
        }
    };
    fail::point("ports.before_record")?;
    let now = old.as_ref().map(|old| {
        let kept = left(&old.ports, &remove, ipv6).into_iter();
        NetworkAttachment { ports: kept.chain(taken.iter().cloned()).collect(), ..old.clone() }
    });
    let record = gate.change(|r| {
        r.spec.ports = asked;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_closed_with_what_came_of_it() {
        let port = |host_port| PortMapping { host_port, container_port: 80, ..PortMapping::default() };
        let choice = PortMapping { choice: 3, ..port(9300) };
        let spec = [port(8080), port(0), choice.clone()];
        let live = [port(8080), port(32768), port(9301)];
        for (closed, stays) in [
            (port(8080), vec![port(0), choice.clone()]),
            (port(32768), vec![port(8080), choice.clone()]),
            (port(9301), vec![port(8080), port(0)]),
            (choice.clone(), vec![port(8080), port(0)]),
            (port(0), vec![]),
        ] {
            assert_eq!(left_of_spec(&spec, &live, std::slice::from_ref(&closed), true), stays, "{closed:?}");
        }
        // Of all addresses those of IPv6 are left only to who has one.
        let four = PortMapping { host_ip: "0.0.0.0".parse().ok(), ..port(8080) };
        let six = PortMapping { host_ip: "::".parse().ok(), ..port(8080) };
        assert_eq!(left_of_spec(&spec[..1], &[], std::slice::from_ref(&four), true), [six]);
        assert_eq!(left_of_spec(&spec[..1], &[], &[four], false), []);
    }
}
