//! Networks of the driver cni: which container's attachments plugins make, and when they take them back.
//!
//! `berth-cni` runs plugins and remembers on the disk what they have begun; the container's record says what came of it. What the disk knows and no
//! container that runs has is taken back by the next agent (`recover.rs`). A container may be on such networks and on others at once: which
//! one its default route is by is berth's to say, and set behind all of them.

mod look;
mod recover;

pub(crate) use look::findings;
pub(crate) use recover::{from_files, recover};

use crate::NodeError;
use crate::node::Inner;
use crate::publish::wait_for_ports;
use berth_cni::{Cni, CniConfig, Conflist, Read, Wish};
use berth_model::network::{EndpointSpec, NetworkAttachment, NetworkDriver, NetworkRecord, PortMapping};
use berth_model::{ContainerId, ContainerRecord};
use berth_network::{Attached, Namespace, Want};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ports of one container that plugins are told: each is a rule of its own.
const MAX_PORTS: usize = 1024;

/// Where plugins and lists are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CniSettings {
    /// Every `*.conflist` there is a network; `None`: only those are that somebody makes.
    pub conf_dir: Option<PathBuf>,
    pub bin_dirs: Vec<PathBuf>,
    pub timeout: Duration,
}

impl Default for CniSettings {
    fn default() -> Self {
        // What the specification suggests, and where Debian has them. A plugin takes a tenth of a second; one that asks a DHCP server some more.
        let bin_dirs = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()];
        CniSettings { conf_dir: None, bin_dirs, timeout: Duration::from_secs(60) }
    }
}

pub(crate) fn open(settings: &CniSettings, data_root: &Path, run_root: &Path) -> Cni {
    Cni::new(CniConfig {
        bin_dirs: settings.bin_dirs.clone(),
        state_dir: data_root.join("cni"),
        netns_dir: run_root.join("netns"),
        timeout: settings.timeout,
        point: |name| crate::fail::point(name).map_err(std::io::Error::other),
    })
}

/// The list of a network of this driver.
fn conflist(network: &NetworkRecord) -> Option<(&str, Conflist)> {
    let text = network.conflist.as_deref()?;
    Some((text, Conflist::parse(text).ok()?))
}

fn is_cni(inner: &Inner, network: &str) -> bool {
    inner.nets.by_name(network).is_some_and(|n| n.driver == NetworkDriver::Cni)
}

/// Every attachment of a list with these words wrong for one network, as field and reason.
pub(crate) fn check_endpoint(network: &NetworkRecord, endpoint: &EndpointSpec) -> Vec<(&'static str, String)> {
    let Some((_, list)) = conflist(network) else {
        return vec![("network", format!("the configuration list of {} is damaged: make it again", network.name))];
    };
    let mut wrong = Vec::new();
    let mut needs = |asked: bool, field: &'static str, capability: &str, what: &str| {
        if asked && !list.takes(capability) {
            let why = format!("no plugin of network {} takes {what} (capability {capability})", network.name);
            wrong.push((field, why));
        }
    };
    needs(endpoint.ipv4.is_some(), "ipv4_address", "ips", "an address");
    needs(endpoint.ipv6.is_some(), "ipv6_address", "ips", "an address");
    needs(endpoint.mac.is_some(), "mac_address", "mac", "a MAC address");
    needs(!endpoint.aliases.is_empty(), "aliases", "aliases", "names");
    wrong
}

/// What is wrong with publishing ports on the network of a container's default route.
pub(crate) fn check_ports(inner: &Inner, network: &str, ports: &[PortMapping]) -> Option<String> {
    let record = inner.nets.by_name(network).filter(|n| n.driver == NetworkDriver::Cni)?;
    let (_, list) = conflist(&record)?;
    let count: usize = ports.iter().map(|p| usize::from(p.count)).sum();
    if count > 0 && !list.takes("portMappings") {
        return Some(format!("no plugin of network {network} publishes ports (capability portMappings)"));
    }
    (count > MAX_PORTS).then(|| format!("are {count}, and plugins are told {MAX_PORTS} at most"))
}

/// Puts a container on its networks, in a namespace, or in one that is made for it. Undone whole when a step fails.
pub(crate) fn attach(
    inner: &Inner,
    record: &ContainerRecord,
    wants: Vec<Want>,
    namespace: Option<Namespace>,
) -> Result<Attached, NodeError> {
    let id = &record.id;
    let (plugged, own): (Vec<Want>, Vec<Want>) = wants.into_iter().partition(|w| is_cni(inner, &w.network));
    let namespace = namespace.map_or_else(|| inner.networks.namespace(false), Ok)?;
    own.iter().for_each(|want| wait_for_ports(inner, id, &want.ports));
    if plugged.is_empty() {
        return Ok(inner.networks.attach_in(id, own, namespace)?);
    }
    let mut attached = match own.is_empty() {
        true => Attached { netns: namespace.fd, attachments: Default::default() },
        false => inner.networks.attach_in(id, own, namespace)?,
    };
    let mut all = std::mem::take(&mut *attached.attachments);
    for want in plugged {
        match join(inner, record, attached.netns.as_fd(), &want, &want.interface) {
            Ok(made) => all.push(made),
            Err(error) => {
                undo(inner, id, &all);
                return Err(error);
            }
        }
    }
    // Every plugin may set a default route, and that of the last one wins.
    let main = all.iter().find(|a| a.default_route).map(|a| a.network.clone()).filter(|_| all.len() > 1);
    if let Some(main) = main
        && let Err(error) = inner.networks.make_main(id, attached.netns.as_fd(), &mut all, &main, &[])
    {
        undo(inner, id, &all);
        return Err(error.into());
    }
    attached.attachments = all.into();
    Ok(attached)
}

fn undo(inner: &Inner, id: &ContainerId, attachments: &[NetworkAttachment]) {
    if let Err(error) = detach(inner, id, attachments) {
        tracing::warn!(container = %id, %error, "undoing the networks of a failed start");
    }
}

/// Has the plugins of one network put a container on it.
pub(crate) fn join(
    inner: &Inner,
    record: &ContainerRecord,
    netns: BorrowedFd<'_>,
    want: &Want,
    interface: &str,
) -> Result<NetworkAttachment, NodeError> {
    let network = inner.nets.find(&want.network)?;
    let Some((text, list)) = conflist(&network) else {
        return Err(NodeError::NetworkNotFound(want.network.clone()));
    };
    if let Some(why) = check_ports(inner, &want.network, &want.ports) {
        return Err(NodeError::Invalid(vec![("config.ports".to_owned(), why)]));
    }
    // What an earlier start could not take back has its ports still, and they are asked for now.
    inner.cni.delete(&record.id, interface)?;
    if !want.ports.is_empty() {
        // They lead to one network only: to this one from now on.
        inner.networks.give_back_all_ports(&record.id);
    }
    wait_for_ports(inner, &record.id, &want.ports);
    let last = want.last.as_ref().map_or(&[][..], |l| &l.ports);
    let ports = inner.networks.take_ports_again(&record.id, &want.ports, last)?;
    let addresses = [want.ipv4.map(IpAddr::V4), want.ipv6.map(IpAddr::V6)];
    let wish = Wish {
        network: want.network.clone(),
        conflist: text.to_owned(),
        interface: interface.to_owned(),
        capabilities: capabilities(record, want, &list, &ports),
        addresses: addresses.into_iter().flatten().collect(),
        mac: want.mac.clone(),
    };
    // Who asks in vain takes it for another's, which stays.
    let is_new = |bridge: &String| matches!(inner.networks.has_link(bridge), Ok(false));
    let new: Vec<String> = list.bridges().into_iter().filter(is_new).collect();
    let added = inner.cni.add(&record.id, netns, &wish);
    // A failed ADD leaves its bridge, too.
    for bridge in new {
        if let Err(error) = inner.networks.mark_bridge(&bridge) {
            tracing::warn!(network = want.network, bridge, %error, "the bridge of CNI plugins will stay when the network goes");
        }
    }
    match added {
        Ok(added) => Ok(attachment(want, interface, ports, added.read)),
        Err(error) => {
            inner.networks.give_back_ports(&record.id, &ports);
            if let Err(undo) = inner.cni.let_go(&record.id) {
                tracing::warn!(container = %record.id, error = %undo, "undoing a connection to a network");
            }
            Err(error.into())
        }
    }
}

/// By capability, as CONVENTIONS.md of the specification has it.
fn capabilities(record: &ContainerRecord, want: &Want, list: &Conflist, ports: &[PortMapping]) -> Map<String, Value> {
    let mut map = Map::new();
    let ports: Vec<Value> = ports.iter().flat_map(each_port).collect();
    if !ports.is_empty() {
        map.insert("portMappings".into(), ports.into());
    }
    let ips = [want.ipv4.map(IpAddr::V4), want.ipv6.map(IpAddr::V6)];
    let ips: Vec<Value> = ips.into_iter().flatten().map(|a| list.with_prefix(a).into()).collect();
    if !ips.is_empty() {
        map.insert("ips".into(), ips.into());
    }
    if let Some(mac) = &want.mac {
        map.insert("mac".into(), mac.clone().into());
    }
    let names = std::iter::once(&record.name).chain(&want.aliases).cloned().collect::<Vec<_>>();
    map.insert("aliases".into(), names.into());
    let spec = &record.spec;
    if !(spec.dns.is_empty() && spec.dns_search.is_empty() && spec.dns_options.is_empty()) {
        let servers: Vec<String> = spec.dns.iter().map(IpAddr::to_string).collect();
        map.insert("dns".into(), json!({"servers": servers, "searches": spec.dns_search, "options": spec.dns_options}));
    }
    map
}

fn each_port(port: &PortMapping) -> impl Iterator<Item = Value> {
    let PortMapping { host_ip, host_port, container_port, protocol, count, .. } = *port;
    (0..count).map(move |n| {
        let mut mapping = json!({
            "hostPort": host_port.saturating_add(n), "containerPort": container_port.saturating_add(n), "protocol": protocol.name(),
        });
        if let Some(ip) = host_ip {
            mapping["hostIP"] = ip.to_string().into();
        }
        mapping
    })
}

fn attachment(want: &Want, interface: &str, ports: Vec<PortMapping>, read: Read) -> NetworkAttachment {
    let (address, prefix_len, gateway) = read.ipv4.unwrap_or((Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::UNSPECIFIED));
    NetworkAttachment {
        network: want.network.clone(),
        bridge: String::new(),
        host_interface: read.outside.iter().find(|name| is_peer(name)).cloned().unwrap_or_default(),
        interface: interface.to_owned(),
        address,
        prefix_len,
        gateway,
        ipv6: read.ipv6,
        mac: read.mac,
        default_route: want.default_route,
        aliases: want.aliases.clone(),
        ports,
        cni: Some(Box::new(read.cni)),
    }
}

/// An end of a pair, whose counters are those of the container: its other end has another index.
fn is_peer(name: &str) -> bool {
    if !berth_network::is_interface_name(name) {
        return false;
    }
    let read = |file: &str| std::fs::read_to_string(format!("/sys/class/net/{name}/{file}")).ok();
    matches!((read("ifindex"), read("iflink")), (Some(own), Some(other)) if own != other)
}

/// Takes a container off networks. Again finds less to do; a network that fails does not hold up the others.
pub(crate) fn detach(inner: &Inner, id: &ContainerId, attachments: &[NetworkAttachment]) -> Result<(), NodeError> {
    let (plugged, own): (Vec<NetworkAttachment>, Vec<NetworkAttachment>) =
        attachments.iter().cloned().partition(NetworkAttachment::is_cni);
    let mut result = Ok(());
    for attachment in plugged.iter().rev() {
        result = result.and(leave(inner, id, attachment));
    }
    result.and(inner.networks.detach(id, &own).map_err(NodeError::from))
}

/// Has the plugins of one network take a container off it.
pub(crate) fn leave(inner: &Inner, id: &ContainerId, attachment: &NetworkAttachment) -> Result<(), NodeError> {
    inner.cni.delete(id, &attachment.interface)?;
    inner.networks.give_back_ports(id, &attachment.ports);
    Ok(inner.cni.let_go(id)?)
}
