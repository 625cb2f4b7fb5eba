//! Published ports of containers that are there.

use crate::container::{Container, Gate};
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::Requester;
use crate::{Node, NodeError, fail, nets};
use berth_model::network::{MAX_MAPPINGS, NetworkAttachment, PortMapping, bounded, clash, elements};
use berth_model::publish::PublishPolicy;
use berth_model::{ContainerId, ContainerRecord, Phase};
use berth_network::{Explained, Question};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long ports are waited for that a container has which runs no more. Plugins of CNI take some tenths of a second to leave a network, on a busy
/// host some seconds; one whose DEL fails keeps its ports until it succeeds, which is not waited for.
const GIVEN_BACK: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Node {
    /// Where ports may be published.
    pub fn publish_policy(&self) -> &PublishPolicy {
        self.inner().networks.publish_policy()
    }

    /// Whether a container that does not run has an IPv6 address when it does, where its ports are published.
    pub fn will_have_ipv6(&self, record: &ContainerRecord) -> bool {
        will_have_ipv6(self.inner(), record)
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

/// What a change comes to.
struct Change {
    /// What the container asks for then, without what is added.
    asked: Vec<PortMapping>,
    /// Of what is published now, what stays.
    kept: Vec<PortMapping>,
    /// What is added, as it is published: nothing where the container does not run.
    taken: Vec<PortMapping>,
}

/// What a container that does not run is to publish is checked like that of one that does: it has to be able to start. Who closes ports is not kept
/// from it by what an earlier agent let it have.
fn check(before: &[PortMapping], kept: &[PortMapping], add: &[PortMapping]) -> Result<(), NodeError> {
    let field = if add.is_empty() { "remove" } else { "add" };
    let wrong = |why: String| Err(NodeError::Invalid(vec![(field.to_owned(), why)]));
    if add.is_empty() && elements(kept) <= elements(before) {
        return Ok(());
    }
    let all: Vec<PortMapping> = kept.iter().chain(add).cloned().collect();
    if let Err(why) = bounded(&all) {
        return wrong(format!("with all that is published then, the container {why}"));
    }
    match clash(&all) {
        Some((one, other)) if other >= kept.len() => {
            // The first one that both ranges have.
            let number = all[one].host_port.max(all[other].host_port);
            wrong(format!("port {number}/{} is published twice", all[other].protocol.name()))
        }
        _ => Ok(()),
    }
}

/// What is left of the ports when some are closed, as far as one container may have as many. Of one that was for all addresses and is closed for those
/// of IPv4, nothing is left to a container that has no others.
fn left(ports: &[PortMapping], remove: &[PortMapping], ipv6: bool) -> Result<Vec<PortMapping>, NodeError> {
    let reaches = |old: &PortMapping, new: &PortMapping| {
        ipv6 || old.addresses() == new.addresses() || new.addresses().iter().any(|a| a.is_ipv4())
    };
    let mut all = Vec::new();
    for old in ports {
        all.extend(old.without(remove).left.into_iter().filter(|new| reaches(old, new)));
        few(&all)?;
    }
    Ok(all)
}

/// Each of many ranges may become as many as are closed in it.
fn few(ports: &[PortMapping]) -> Result<(), NodeError> {
    if ports.len() <= MAX_MAPPINGS {
        return Ok(());
    }
    let why = format!("would leave more than {MAX_MAPPINGS} ranges of published ports: close fewer, or whole ranges");
    Err(NodeError::Invalid(vec![("remove".to_owned(), why)]))
}

/// The same of what a container asks for: whose port the agent chose is closed with that port.
fn left_of_spec(
    spec: &[PortMapping],
    live: &[PortMapping],
    remove: &[PortMapping],
    ipv6: bool,
) -> Result<Vec<PortMapping>, NodeError> {
    let named: HashSet<&PortMapping> = spec.iter().collect();
    let mut live: Vec<&PortMapping> = live.iter().filter(|l| !named.contains(l)).collect();
    let mut all = Vec::new();
    for asked in spec {
        let chosen = live.iter().position(|l| asked.is_open() && asked.could_be(l)).map(|at| live.remove(at));
        let kept = left(std::slice::from_ref(chosen.unwrap_or(asked)), remove, ipv6)?;
        match chosen {
            None => all.extend(kept),
            Some(_) => all.extend(kept.iter().map(|p| asked.at(p.addresses()))),
        }
        few(&all)?;
    }
    Ok(all)
}

fn will_have_ipv6(inner: &Inner, record: &ContainerRecord) -> bool {
    let main = nets::main_network(inner, &record.spec).and_then(|name| inner.nets.by_name(&name));
    main.is_some_and(|n| n.ipv6.is_some())
}

/// The network whose rules publish the container's ports while it runs, if it does; and whether it has an IPv6 address there, or will have.
fn publishing(
    inner: &Inner,
    record: &ContainerRecord,
    adds: bool,
) -> Result<(Option<NetworkAttachment>, bool), NodeError> {
    let wrong = |why: String| Err(NodeError::Invalid(vec![("add".to_owned(), why)]));
    if record.phase == Phase::Removing {
        return Err(NodeError::ContainerNotFound(record.name.clone()));
    }
    if !record.spec.network.is_own() {
        return wrong("can only be published where the container has a network of its own".to_owned());
    }
    if record.networks.main().is_some_and(NetworkAttachment::is_cni) {
        return wrong(
            "are published by CNI plugins on this container's network, which are told at its start and when it is connected: stop it first, or disconnect it"
                .to_owned(),
        );
    }
    let live = record.phase == Phase::Running;
    let old: Option<NetworkAttachment> = record.networks.main().filter(|_| live).cloned();
    let main = nets::main_network(inner, &record.spec).and_then(|name| inner.nets.by_name(&name));
    if let Some(why) = main.as_ref().filter(|_| adds).and_then(|n| nets::no_ports(n)) {
        return wrong(why);
    }
    let ipv6 = old.as_ref().map_or_else(|| will_have_ipv6(inner, record), |a| a.ipv6.is_some());
    Ok((old, ipv6))
}

async fn apply(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    add: Vec<PortMapping>,
    remove: Vec<PortMapping>,
) -> Result<(), NodeError> {
    let mut gate = container.enter().await?;
    let before = container.record();
    let (old, ipv6) = publishing(inner, &before, !add.is_empty())?;
    let id = container.id.clone();
    // Not where calls are served: thousands of ranges with thousands of holes are cut here.
    let change = {
        let (inner_, id, before, old, add) = (inner.clone(), id.clone(), before.clone(), old.clone(), add.clone());
        let decide = move || {
            let live = old.as_ref().map_or(&[][..], |old| &old.ports);
            let asked = left_of_spec(&before.spec.ports, live, &remove, ipv6)?;
            check(&before.spec.ports, &asked, &add)?;
            let kept = left(live, &remove, ipv6)?;
            let mut taken = Vec::new();
            if old.is_some() {
                wait_for_ports(&inner_, &id, &add);
                taken = inner_.networks.take_ports(&id, &add)?;
            }
            Ok(Change { asked, kept, taken })
        };
        inner.blocking(decide).await?
    };
    fail::point("ports.before_record")?;
    let Change { asked, kept, taken } = change;
    let now = old.as_ref().map(|old| {
        let ports = kept.into_iter().chain(taken.iter().cloned()).collect();
        NetworkAttachment { ports, ..old.clone() }
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
    let write = vec![Write::PutContainer(record), event];
    let mut done = inner.store.write(write, Durability::Durable).await.map_err(NodeError::from);
    if done.is_ok() {
        fail::point("ports.after_record")?;
        if let (Some(old), Some(now)) = (old, now) {
            let (networks, id) = (inner.networks.clone(), id.clone());
            done = inner.blocking(move || Ok(networks.publish(&id, &old, &now)?)).await;
        }
    }
    if let Err(error) = done {
        take_back(inner, &mut gate, &before, taken).await;
        return Err(error);
    }
    fail::point("ports.after_rules")?;
    Ok(())
}

/// The record is what it was before, and ports that were taken are free.
async fn take_back(inner: &Arc<Inner>, gate: &mut Gate, before: &ContainerRecord, taken: Vec<PortMapping>) {
    let record = gate.change(|r| {
        r.spec.ports = before.spec.ports.clone();
        r.networks = before.networks.clone();
    });
    let id = record.id.clone();
    if let Err(e) = inner.store.write(vec![Write::PutContainer(record)], Durability::Durable).await {
        tracing::error!(container = %id, error = %e, "taking back ports that could not be published");
    }
    let networks = inner.networks.clone();
    let given = inner.blocking(move || {
        networks.give_back_ports(&id, &taken);
        Ok(())
    });
    let _ = given.await;
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
            let left = left_of_spec(&spec, &live, std::slice::from_ref(&closed), true).unwrap();
            assert_eq!(left, stays, "{closed:?}");
        }
        // Of all addresses those of IPv6 are left only to who has one.
        let four = PortMapping { host_ip: "0.0.0.0".parse().ok(), ..port(8080) };
        let six = PortMapping { host_ip: "::".parse().ok(), ..port(8080) };
        assert_eq!(left_of_spec(&spec[..1], &[], std::slice::from_ref(&four), true).unwrap(), [six]);
        assert_eq!(left_of_spec(&spec[..1], &[], &[four], false).unwrap(), []);
    }

    #[test]
    fn many_ranges_with_many_holes_are_refused_before_they_are_cut() {
        let range = |n: u8| PortMapping {
            host_ip: Some([127, 0, 1, n].into()),
            host_port: 1000,
            container_port: 1000,
            count: 60000,
            ..PortMapping::default()
        };
        let spec: Vec<_> = (0..200).map(range).collect();
        let hole = |n: u16| PortMapping { host_port: 0, container_port: 1001 + 2 * n, ..PortMapping::default() };
        let holes: Vec<_> = (0..4096).map(hole).collect();
        let Err(NodeError::Invalid(wrong)) = left_of_spec(&spec, &[], &holes, true) else { panic!("taken") };
        assert!(wrong[0].0 == "remove" && wrong[0].1.contains("more than 4096 ranges"), "{wrong:?}");
        assert_eq!(left_of_spec(&spec, &[], &holes[..1], true).unwrap().len(), 400);
    }
}
