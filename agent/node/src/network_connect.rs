//! Puts containers on networks and takes them off, also while they run.
//!
//! The spec is what is wanted, the record's attachments are what there is. Connect and disconnect write the wish, make it true, and write what
//! came of it. An agent that was killed in between leaves a difference, and [`settle`] of the next one makes it go away; what the kernel has and no
//! record knows is swept by its name.

use crate::container::{Container, Gate};
use crate::nets::{check_endpoint, endpoints, namespace_of, state_dirs, want, way_out};
use crate::network_change::event;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::{Disconnected, Requester};
use crate::{Node, NodeError, cni, fail, resolver};
use berth_model::network::{
    Attachments, EndpointSpec, NetworkAttachment, NetworkDriver, NetworkMode, NetworkRecord, PortMapping,
};
use berth_model::{ContainerRecord, Phase};
use berth_network::Want;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// As the API has it for a container's spec.
const MAX_NETWORKS: usize = 32;

impl Node {
    /// Puts a container on one more network: at once when it runs. `None`: it does not run.
    ///
    /// # Errors
    /// `Invalid`; `NetworkNotFound`; `Network`: no address, or what the kernel says.
    pub async fn connect_network(
        &self,
        who: &Requester,
        container: &str,
        endpoint: EndpointSpec,
    ) -> Result<Option<NetworkAttachment>, NodeError> {
        let found = self.find(container)?;
        let network = self.inner().nets.find(&endpoint.network)?;
        let endpoint = EndpointSpec { network: network.name.clone(), ..endpoint };
        let Some(ticket) = self.begin(who, "NetworkConnect", &(container, &endpoint)).await? else {
            return Ok(found.record().networks.on(&network.name).cloned());
        };
        let (inner, found_) = (self.inner().clone(), found.clone());
        let done = self.inner().to_its_end(async move { connect(&inner, &found_, &network, endpoint).await }).await?;
        self.answered(ticket, found.id.as_str()).await;
        Ok(done)
    }

    /// Takes a container off a network. One that is not on it, or is gone, is fine.
    ///
    /// # Errors
    /// `NetworkNotFound`; `Network`: what the kernel says.
    pub async fn disconnect_network(
        &self,
        who: &Requester,
        network: &str,
        container: &str,
    ) -> Result<Disconnected, NodeError> {
        let network = self.inner().nets.find(network)?;
        let found = match self.find(container) {
            Err(NodeError::ContainerNotFound(_)) => return Ok(Disconnected::NoContainer),
            found => found?,
        };
        let Some(ticket) = self.begin(who, "NetworkDisconnect", &(network.id.as_str(), container)).await? else {
            return Ok(Disconnected::Done);
        };
        let (inner, found_) = (self.inner().clone(), found.clone());
        let done = self.inner().to_its_end(async move { disconnect(&inner, &found_, &network).await }).await?;
        self.answered(ticket, found.id.as_str()).await;
        Ok(done)
    }
}

fn wrong(field: &str, why: impl Into<String>) -> NodeError {
    NodeError::Invalid(vec![(field.to_owned(), why.into())])
}

async fn connect(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    network: &NetworkRecord,
    endpoint: EndpointSpec,
) -> Result<Option<NetworkAttachment>, NodeError> {
    let bad = check_endpoint(network, &endpoint);
    if !bad.is_empty() {
        return Err(NodeError::Invalid(bad.into_iter().map(|(f, why)| (format!("endpoint.{f}"), why)).collect()));
    }
    let mut gate = container.enter().await?;
    let before = container.record();
    if matches!(before.phase, Phase::Removing | Phase::Creating) {
        return Err(NodeError::ContainerNotFound(before.name.clone()));
    }
    if !matches!(before.spec.network, NetworkMode::Bridge | NetworkMode::None) {
        return Err(wrong("container", "shares the network of the host or of another container"));
    }
    let mut wished = endpoints(&before.spec);
    if let Some(there) = wished.iter().find(|e| e.network == network.name) {
        let plain = EndpointSpec { network: network.name.clone(), ..EndpointSpec::default() };
        if endpoint != *there && endpoint != plain {
            let name = &before.name;
            return Err(wrong(
                "container",
                format!(
                    "is on {0} already, and not with these options: take it off first (berthctl network disconnect {0} {name})",
                    network.name
                ),
            ));
        }
        // What an earlier try could not do.
        settle(inner, &mut gate).await?;
        return Ok(container.record().networks.on(&network.name).cloned());
    }
    if wished.len() >= MAX_NETWORKS {
        return Err(wrong("container", format!("is on {MAX_NETWORKS} networks, and cannot be on more")));
    }
    wished.push(endpoint);
    ports_can_move(inner, &before, "endpoint", &wished)?;
    wish(inner, &mut gate, wished).await?;
    // The record can be seen now by who removes networks; who removed it before is seen here.
    let outcome = match inner.nets.find(&network.name) {
        Ok(_) => settle(inner, &mut gate).await,
        Err(e) => Err(e),
    };
    if let Err(e) = outcome {
        let record = gate.change(|r| {
            r.spec.network = before.spec.network.clone();
            r.spec.networks = before.spec.networks.clone();
        });
        if let Err(undo) = inner.store.submit(vec![Write::PutContainer(record)], Durability::Quick).await {
            tracing::warn!(container = %container.id, error = %undo, "undoing a connection to a network");
        }
        if let Err(undo) = settle(inner, &mut gate).await {
            tracing::warn!(container = %container.id, error = %undo, "undoing a connection to a network");
        }
        return Err(e);
    }
    told(inner, network, "connect", container).await;
    Ok(container.record().networks.on(&network.name).cloned())
}

async fn disconnect(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    network: &NetworkRecord,
) -> Result<Disconnected, NodeError> {
    let mut gate = container.enter().await?;
    let before = container.record();
    let mut wished = endpoints(&before.spec);
    let known = wished.len();
    wished.retain(|e| e.network != network.name);
    if wished.len() == known && before.networks.on(&network.name).is_none() {
        // What an earlier try could not do: the ports may have had no place to go to.
        settle(inner, &mut gate).await?;
        let same = container.record().networks == before.networks;
        return Ok(if same { Disconnected::NotConnected } else { Disconnected::Done });
    }
    ports_can_move(inner, &before, "network", &wished)?;
    wish(inner, &mut gate, wished).await?;
    settle(inner, &mut gate).await?;
    told(inner, network, "disconnect", container).await;
    Ok(Disconnected::Done)
}

/// Published ports follow the default route to the next network, which plugins take them for at ADD only, and nothing leads into a macvlan.
fn ports_can_move(
    inner: &Inner,
    before: &ContainerRecord,
    field: &str,
    wished: &[EndpointSpec],
) -> Result<(), NodeError> {
    let holds = |a: &&NetworkAttachment| !a.ports.is_empty() && !wished.iter().any(|e| e.network == a.network);
    let left = before.networks.iter().find(holds);
    let Some(next) = way_out(inner, wished).and_then(|n| inner.nets.by_name(&wished[n].network)) else { return Ok(()) };
    if let Some(left) = left.filter(|_| next.driver == NetworkDriver::Cni) {
        return Err(wrong(
            field,
            format!(
                "{} has the published ports of the container, which {} cannot take while it runs (its driver is cni): close them first (berthctl port rm)",
                left.network, next.name
            ),
        ));
    }
    // One address family of the host leads to the same of a container.
    let six = |p: &&PortMapping| p.addresses().iter().all(|a| a.is_ipv6());
    if let Some(port) = before.spec.ports.iter().find(six).filter(|_| left.is_some() && next.ipv6.is_none()) {
        let (host, at) = (port.addresses().iter().next().unwrap_or(Ipv6Addr::UNSPECIFIED.into()), port.host_port);
        return Err(wrong(
            field,
            format!(
                "has the published port [{host}]:{at}, which {} cannot take, since it gives containers no IPv6 address: close it first (berthctl port rm {} '[{host}]:{at}:{}')",
                next.name, before.name, port.container_port
            ),
        ));
    }
    let has = !before.spec.ports.is_empty() || before.spec.publish_all;
    // It may be there already, with the ports of an earlier agent, which led nowhere.
    let moves = crate::nets::main_network(inner, &before.spec).is_none_or(|main| main != next.name);
    match crate::nets::no_ports(&next).filter(|_| has && moves) {
        Some(why) => Err(wrong(
            field,
            format!(
                "would take the published ports of the container to it, which {why}, or close them first (berthctl port rm)"
            ),
        )),
        None => Ok(()),
    }
}

async fn told(inner: &Arc<Inner>, network: &NetworkRecord, action: &str, container: &Container) {
    inner.nets.touch();
    let event = event(inner, network, action, &[("container", container.id.as_str())]);
    let _ = inner.store.submit(vec![event], Durability::Quick).await;
}

/// Writes down which networks the container is to be on. None at all: a namespace with only loopback.
async fn wish(inner: &Arc<Inner>, gate: &mut Gate, wished: Vec<EndpointSpec>) -> Result<(), NodeError> {
    fail::point("network.connect.before_record")?;
    let before = gate.container.record();
    let record = gate.change(|r| {
        r.spec.network = if wished.is_empty() { NetworkMode::None } else { NetworkMode::Bridge };
        r.spec.networks = wished;
    });
    if let Err(e) = inner.store.write(vec![Write::PutContainer(record)], Durability::Durable).await {
        gate.change(|r| {
            r.spec.network = before.spec.network.clone();
            r.spec.networks = before.spec.networks.clone();
        });
        return Err(e.into());
    }
    fail::point("network.connect.after_record")
}

/// Makes a running container be on the networks that its spec names, and on no others. All is well already: does nothing.
pub(crate) async fn settle(inner: &Arc<Inner>, gate: &mut Gate) -> Result<(), NodeError> {
    let record = gate.container.record();
    if record.phase != Phase::Running {
        return Ok(());
    }
    let wished = endpoints(&record.spec);
    let same = wished.len() == record.networks.len() && wished.iter().all(|e| record.networks.on(&e.network).is_some());
    let main = way_out(inner, &wished).map(|n| wished[n].network.clone());
    if same && ports_lead(&record, main.as_deref())
        || matches!(record.spec.network, NetworkMode::Host | NetworkMode::Container(_))
    {
        return Ok(());
    }
    let ports = crate::start::ports(inner, &gate.container, &record)?;
    let inner_ = inner.clone();
    let record_ = record.clone();
    let (networks, outcome) = inner
        .blocking(move || {
            let netns = namespace_of(&inner_, record_.id.as_str())?;
            let mut now = record_.networks.clone();
            let outcome = make_true(&inner_, &record_, &wished, main.as_deref(), &netns, &mut now, ports);
            rewrite_files(&inner_, &record_, &now);
            Ok((now, outcome))
        })
        .await?;
    // What is there is written down also when not all of it could be done.
    let record = gate.change(|r| r.networks = networks);
    inner.store.write(vec![Write::PutContainer(record.clone())], Durability::Durable).await?;
    // Before the answer: whoever asks for a name behind it is answered.
    let inner_ = inner.clone();
    let joined = move || {
        resolver::join(&inner_, &record);
        Ok(())
    };
    inner.blocking(joined).await?;
    outcome?;
    fail::point("network.connect.after_settled")
}

/// The container's resolv.conf names the servers of its networks, its hosts file its own addresses; so do those of the containers that share its
/// namespace. They run on with what they have when that fails.
fn rewrite_files(inner: &Inner, record: &ContainerRecord, now: &Attachments) {
    let dirs = state_dirs(inner, &record.id);
    let gateway = inner.networks.gateway().into();
    let changed = inner.runtime.networks_changed((&record.id, &record.spec), &dirs, &record.networks, now, gateway);
    if let Err(error) = changed {
        tracing::warn!(container = %record.id, %error, "writing its hosts and resolv.conf for other networks");
    }
}

/// The published ports are where the default route is; a container on no network, and one whose network is the plugins' matter, has none to lead.
fn ports_lead(record: &ContainerRecord, main: Option<&str>) -> bool {
    let networks = &record.networks;
    let main = main.map_or_else(|| networks.first(), |name| networks.on(name));
    let Some(main) = main.filter(|a| !a.is_cni()) else { return true };
    let missing = main.ports.is_empty() && !record.spec.ports.is_empty() && networks.ports().next().is_none();
    !missing && !networks.iter().any(|a| a.network != main.network && !a.is_cni() && !a.ports.is_empty())
}

/// `published`: the ports that the container asks for, for the case that none of them is left.
fn make_true(
    inner: &Inner,
    record: &ContainerRecord,
    wished: &[EndpointSpec],
    main: Option<&str>,
    netns: &OwnedFd,
    now: &mut Attachments,
    published: Vec<PortMapping>,
) -> Result<(), NodeError> {
    let mut ports = Vec::new();
    for gone in record.networks.iter().filter(|a| !wished.iter().any(|e| e.network == a.network)) {
        match gone.is_cni() {
            true => cni::leave(inner, &record.id, gone)?,
            false => inner.networks.disconnect(&record.id, netns.as_fd(), gone)?,
        }
        ports.extend(gone.ports.iter().cloned());
        now.retain(|a| a.network != gone.network);
        fail::point("network.disconnect.after_link")?;
    }
    for endpoint in wished.iter().filter(|e| record.networks.on(&e.network).is_none()) {
        let last = record.supervision.networks.on(&endpoint.network).cloned();
        let plugged = inner.nets.by_name(&endpoint.network).is_some_and(|n| n.driver == NetworkDriver::Cni);
        // Plugins publish at ADD only: what leads nowhere is theirs now, or not before the next start.
        let theirs =
            plugged && main.map_or(now.is_empty(), |main| main == endpoint.network) && now.ports().next().is_none();
        let want = Want { last, ports: if theirs { published.clone() } else { Vec::new() }, ..want(endpoint.clone()) };
        let interface = free_interface(now);
        let made = match plugged {
            true => cni::join(inner, record, netns.as_fd(), &want, &interface)?,
            false => inner.networks.connect(&record.id, netns.as_fd(), &want, &interface)?,
        };
        now.push(made);
        fail::point("network.connect.after_link")?;
    }
    // The published ports go where the default route goes, when the network that had them is left.
    if let Some(main) = main.or(now.first().map(|a| a.network.clone()).as_deref()) {
        if ports.is_empty() && now.ports().next().is_none() {
            // Left with the last network that it was on before.
            ports = published;
        }
        inner.networks.make_main(&record.id, netns.as_fd(), now, main, &ports)?;
    }
    let sorted: Attachments = std::mem::take(&mut **now).into();
    *now = sorted;
    Ok(())
}

/// The first of eth0, eth1, … that is free.
fn free_interface(now: &[NetworkAttachment]) -> String {
    let names = (0..).map(|n| format!("eth{n}"));
    names.filter(|name| !now.iter().any(|a| a.interface == *name)).take(1).collect()
}

/// Behind a new agent's opening: what the last one had begun for a running container.
pub(crate) async fn adopt(inner: &Arc<Inner>, gate: &mut Gate) {
    if let Err(e) = settle(inner, gate).await {
        tracing::error!(container = %gate.container.id, error = %e, "its networks are not as they should be: connect it again");
    }
}
