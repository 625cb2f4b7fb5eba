//! The node's networks: what there is, who is on what, and what a container asks of them.
//!
//! A container's spec says which networks it is to be on; its record says which it is on. Who changes that writes the spec first, so that an
//! agent that is killed in between leaves a wish that the next one makes true (`network_connect.rs`).

use crate::container::Container;
use crate::node::Inner;
use crate::view::{NetworkMember, NetworkView};
use crate::{NodeConfig, NodeError, cni, own};
use berth_model::network::{
    DEFAULT_NETWORK, DEFAULT_WORD, EndpointSpec, Ipv6Mode, NetworkDriver, NetworkId, NetworkMode, NetworkRecord,
    PREDEFINED, PortMapping, Subnet4,
};
use berth_model::{ContainerId, ContainerRecord, ContainerSpec, Phase, Timestamp};
use berth_network::Want;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use tokio::sync::watch;

/// Subnets of one size, cut from a larger one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressPool {
    /// The network's own address.
    pub base: Ipv4Addr,
    pub prefix_len: u8,
    /// Prefix length of each subnet.
    pub size: u8,
}

impl AddressPool {
    /// 4096 networks with room for 253 containers each, in a corner of 10.0.0.0/8 that neither Docker nor Podman takes from by default.
    pub const DEFAULT: AddressPool = AddressPool { base: Ipv4Addr::new(10, 224, 0, 0), prefix_len: 12, size: 24 };
}

/// All networks, those that every node has among them.
pub(crate) struct Nets {
    /// By name.
    records: RwLock<BTreeMap<String, Arc<NetworkRecord>>>,
    /// One network is made or removed at a time: subnets are compared with all others.
    pub change: tokio::sync::Mutex<()>,
    /// Counts what changes for those who look names up: who is on which network, under which names.
    changed: watch::Sender<u64>,
}

impl Nets {
    pub fn new(config: &NodeConfig, records: Vec<NetworkRecord>) -> Nets {
        let mut all: BTreeMap<String, Arc<NetworkRecord>> = BTreeMap::new();
        for (name, driver) in PREDEFINED {
            all.insert(name.to_owned(), Arc::new(predefined(config, name, driver)));
        }
        all.extend(records.into_iter().map(|r| (r.name.clone(), Arc::new(r))));
        Nets { records: RwLock::new(all), change: tokio::sync::Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// Tells those who look names up that something is different.
    pub fn touch(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn all(&self) -> Vec<Arc<NetworkRecord>> {
        self.records.read().expect("networks").values().cloned().collect()
    }

    pub fn put(&self, record: Arc<NetworkRecord>) {
        self.records.write().expect("networks").insert(record.name.clone(), record);
    }

    pub fn take_out(&self, name: &str) {
        self.records.write().expect("networks").remove(name);
    }

    pub fn by_name(&self, name: &str) -> Option<Arc<NetworkRecord>> {
        self.records.read().expect("networks").get(name).cloned()
    }

    /// By name, by id, by a prefix of the id that fits only one. One that is on its way out is not found.
    pub fn find(&self, name: &str) -> Result<Arc<NetworkRecord>, NodeError> {
        let found = self.find_any(name)?;
        if found.removing { Err(NodeError::NetworkNotFound(name.to_owned())) } else { Ok(found) }
    }

    /// As `find`, with those that are on their way out.
    pub fn find_any(&self, name: &str) -> Result<Arc<NetworkRecord>, NodeError> {
        let records = self.records.read().expect("networks");
        if let Some(found) = records.get(name) {
            return Ok(found.clone());
        }
        if name == DEFAULT_WORD
            && let Some(bridge) = records.get(DEFAULT_NETWORK)
        {
            return Ok(bridge.clone());
        }
        let not_found = || NodeError::NetworkNotFound(name.to_owned());
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let mut fits = records.values().filter(|r| r.id.as_str().starts_with(name));
        match (fits.next(), fits.next()) {
            (None, _) => Err(not_found()),
            (Some(r), None) => Ok(r.clone()),
            _ => Err(NodeError::Ambiguous(name.to_owned(), "network")),
        }
    }
}

/// Its id comes from its name: it is the same for ever, and nothing needs to keep it.
fn predefined(config: &NodeConfig, name: &str, driver: NetworkDriver) -> NetworkRecord {
    let mut bytes = [0; 32];
    for (n, chunk) in bytes.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&crate::requests::fingerprint(&(name, n)).to_be_bytes());
    }
    let own = driver == NetworkDriver::Bridge;
    let network = &config.network;
    let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix_len)).unwrap_or(0);
    NetworkRecord {
        id: NetworkId::from_bytes(bytes),
        name: name.to_owned(),
        driver,
        ipv4: own.then(|| Subnet4 {
            subnet: Ipv4Addr::from_bits(network.gateway.to_bits() & mask),
            prefix_len: network.prefix_len,
            gateway: network.gateway,
            range: None,
        }),
        ipv6: None,
        auxiliary: BTreeMap::new(),
        ipv6_mode: Ipv6Mode::Nat,
        internal: false,
        mtu: None,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        bridge: if own { network.bridge.clone() } else { String::new() },
        conflist: None,
        created: Timestamp::now(),
        removing: false,
    }
}

/// The networks that a container is to be on.
pub(crate) fn endpoints(spec: &ContainerSpec) -> Vec<EndpointSpec> {
    match spec.network {
        NetworkMode::Bridge if spec.networks.is_empty() => {
            vec![EndpointSpec { network: DEFAULT_NETWORK.to_owned(), ..EndpointSpec::default() }]
        }
        NetworkMode::Bridge => spec.networks.clone(),
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => Vec::new(),
    }
}

/// Which of the endpoints has the default route: the highest priority, of equal ones the first; internal networks lead nowhere.
pub(crate) fn way_out(inner: &Inner, endpoints: &[EndpointSpec]) -> Option<usize> {
    let leads_out = |e: &EndpointSpec| inner.nets.by_name(&e.network).is_none_or(|r| !r.internal);
    let mut best: Option<usize> = None;
    for (n, endpoint) in endpoints.iter().enumerate().filter(|(_, e)| leads_out(e)) {
        if best.is_none_or(|b| endpoint.gw_priority > endpoints[b].gw_priority) {
            best = Some(n);
        }
    }
    best
}

/// What a start asks for. The published ports lead to the network with the default route.
pub(crate) fn wants(inner: &Inner, record: &ContainerRecord, ports: Vec<PortMapping>) -> Vec<Want> {
    let endpoints = endpoints(&record.spec);
    let main = way_out(inner, &endpoints);
    let with_ports = main.unwrap_or(0);
    let to = endpoints.get(with_ports).and_then(|e| inner.nets.by_name(&e.network));
    // Containers of earlier agents may have some there: they led nowhere, and hold up no start.
    let refused = to.and_then(|n| no_ports(&n)).filter(|_| !ports.is_empty());
    if let Some(why) = &refused {
        tracing::warn!(container = %record.id, "its ports {why}");
    }
    let mut ports = Some(ports).filter(|_| refused.is_none());
    let last = &record.supervision.networks;
    let want = |(n, e): (usize, EndpointSpec)| Want {
        default_route: main == Some(n),
        ports: if n == with_ports { ports.take().unwrap_or_default() } else { Vec::new() },
        last: last.on(&e.network).cloned(),
        interface: format!("eth{n}"),
        ..want(e)
    };
    endpoints.into_iter().enumerate().map(want).collect()
}

pub(crate) fn want(e: EndpointSpec) -> Want {
    Want { network: e.network, ipv4: e.ipv4, ipv6: e.ipv6, mac: e.mac, aliases: e.aliases, ..Want::default() }
}

/// The network namespace of a container that runs.
pub(crate) fn namespace_of(inner: &Inner, id: &str) -> Result<OwnedFd, NodeError> {
    let container = inner.containers.find(id)?;
    let record = container.record();
    let process = record.process.as_ref().filter(|_| record.phase == Phase::Running);
    let Some(process) = process else { return Err(NodeError::NotRunning(record.name.clone())) };
    let path = format!("/proc/{}/ns/net", process.pid);
    let file = File::open(&path).map_err(NodeError::io(format!("opening {path}")))?;
    // It may have ended, and its number may be another's by now.
    let now = berth_sys::store::process_start_time(process.pid);
    if now.map_err(NodeError::io(format!("looking at process {}", process.pid)))? != Some(process.start_time) {
        return Err(NodeError::NotRunning(record.name.clone()));
    }
    Ok(file.into())
}

/// Folders with the files of those who see a container's networks: its own, and of the running ones that share its namespace.
pub(crate) fn state_dirs(inner: &Inner, id: &ContainerId) -> Vec<PathBuf> {
    let shares = |c: &Arc<Container>| {
        let other = c.record();
        other.phase == Phase::Running && matches!(&other.spec.network, NetworkMode::Container(of) if *of == id.as_str())
    };
    let others = inner.containers.all().into_iter().filter(shares).map(|c| own::folder(inner, &c.record()));
    let own = inner.containers.find(id.as_str()).map(|c| own::folder(inner, &c.record()));
    own.into_iter().chain(others).collect()
}

/// The container whose network a spec joins; the spec has its id from here on.
pub(crate) fn joined(inner: &Inner, spec: &mut ContainerSpec) -> Result<Option<Arc<Container>>, NodeError> {
    let NetworkMode::Container(other) = &spec.network else { return Ok(None) };
    let other = inner.containers.find(other)?;
    spec.network = NetworkMode::Container(other.id.to_string());
    Ok(Some(other))
}

/// Names of networks in the place of ids, and what is wrong with what the spec asks of them.
pub(crate) fn resolve(inner: &Inner, spec: &mut ContainerSpec) -> Result<Vec<(String, String)>, NodeError> {
    let mut wrong = Vec::new();
    if let Some(other) = joined(inner, spec)?
        && !matches!(other.record().spec.network, NetworkMode::Bridge | NetworkMode::None)
    {
        wrong.push(("network_container".to_owned(), "shares another namespace itself".to_owned()));
    }
    if matches!(spec.network, NetworkMode::Container(_)) {
        // Docker refuses them too: these files are the other one's.
        let own = [
            ("hostname", spec.hostname.is_some()),
            ("dns", !spec.dns.is_empty()),
            ("dns_search", !spec.dns_search.is_empty()),
            ("dns_options", !spec.dns_options.is_empty()),
            ("extra_hosts", !spec.extra_hosts.is_empty()),
        ];
        let why = "is that of the container whose network it shares; say it there";
        wrong.extend(own.iter().filter(|(_, said)| *said).map(|(field, _)| ((*field).to_owned(), why.to_owned())));
    }
    let mut seen = HashSet::new();
    for (n, endpoint) in spec.networks.iter_mut().enumerate() {
        let network = inner.nets.find(&endpoint.network)?;
        endpoint.network = network.name.clone();
        let at = |field: &str| format!("networks[{n}].{field}");
        if !seen.insert(network.name.clone()) {
            wrong.push((at("network"), format!("{} is there twice", network.name)));
        }
        wrong.extend(check_endpoint(&network, endpoint).into_iter().map(|(field, why)| (at(field), why)));
    }
    let main = main_network(inner, spec);
    if let Some(why) = main.as_ref().and_then(|n| cni::check_ports(inner, n, &spec.ports)) {
        wrong.push(("ports".to_owned(), why));
    }
    let refused = main.and_then(|n| inner.nets.by_name(&n)).and_then(|n| no_ports(&n));
    for (field, there) in [("ports", !spec.ports.is_empty()), ("publish_all", spec.publish_all)] {
        wrong.extend(refused.clone().filter(|_| there).map(|why| (field.to_owned(), why)));
    }
    Ok(wrong)
}

/// Why ports cannot be published there.
pub(crate) fn no_ports(network: &NetworkRecord) -> Option<String> {
    (network.driver == NetworkDriver::Macvlan).then(|| {
        format!(
            "cannot be published on network {} (its driver is macvlan): its containers are reached at their own addresses, and not from this host; \
             connect to them there, or put a bridge first (--network NAME, with a higher gw-priority)",
            network.name
        )
    })
}

/// The network that published ports lead to.
pub(crate) fn main_network(inner: &Inner, spec: &ContainerSpec) -> Option<String> {
    let endpoints = endpoints(spec);
    let main = way_out(inner, &endpoints).unwrap_or(0);
    endpoints.into_iter().nth(main).map(|e| e.network)
}

/// What of an endpoint the network cannot give.
pub(crate) fn check_endpoint(network: &NetworkRecord, endpoint: &EndpointSpec) -> Vec<(&'static str, String)> {
    if network.driver == NetworkDriver::Cni {
        return cni::check_endpoint(network, endpoint);
    }
    let mut wrong = Vec::new();
    let Some(v4) = network.ipv4 else {
        wrong.push(("network", format!("{} is no network with addresses: it stands alone", network.name)));
        return wrong;
    };
    if network.is_predefined() && !endpoint.aliases.is_empty() {
        wrong.push(("aliases", format!("are answered on networks of your own only, not on {}", network.name)));
    }
    let chosen = network.is_predefined() && (endpoint.ipv4.is_some() || endpoint.ipv6.is_some());
    if chosen {
        wrong.push(("ipv4_address", "can be chosen on networks of your own only".to_owned()));
        return wrong;
    }
    if let Some(address) = endpoint.ipv4 {
        let prefix = berth_network::Prefix { address: v4.subnet, len: v4.prefix_len };
        if !prefix.contains(address) || [prefix.network(), prefix.broadcast(), v4.gateway].contains(&address) {
            wrong.push(("ipv4_address", format!("{address} is not an address for a container in {v4}")));
        }
        wrong.extend(auxiliary(network, address.into()).map(|why| ("ipv4_address", why)));
    }
    match (endpoint.ipv6, network.ipv6) {
        (Some(address), Some(v6)) => {
            let prefix = berth_network::Prefix6 { address: v6.subnet, len: v6.prefix_len };
            if !prefix.contains(address) || [prefix.network(), v6.gateway].contains(&address) {
                wrong.push(("ipv6_address", format!("{address} is not an address for a container in {v6}")));
            }
            wrong.extend(auxiliary(network, address.into()).map(|why| ("ipv6_address", why)));
        }
        (Some(_), None) => wrong.push(("ipv6_address", format!("network {} has no IPv6", network.name))),
        (None, _) => {}
    }
    wrong
}

/// Why an address is no container's.
fn auxiliary(network: &NetworkRecord, address: IpAddr) -> Option<String> {
    let name = network.auxiliary_name(address)?;
    Some(format!("{address} is kept for {name} (an auxiliary address of network {})", network.name))
}

/// Every network that the spec asks for is there: asked again when the container can be seen by those who remove networks.
pub(crate) fn still_there(inner: &Inner, spec: &ContainerSpec) -> Result<(), NodeError> {
    spec.networks.iter().try_for_each(|e| inner.nets.find(&e.network).map(drop))
}

/// Who is on a network, or joins it when it starts; by name.
pub(crate) fn members(inner: &Inner, network: &NetworkRecord) -> Vec<NetworkMember> {
    let mut members = Vec::new();
    for container in inner.containers.all() {
        let record = container.record();
        if record.phase == Phase::Removing {
            continue;
        }
        let name = &network.name;
        let is_on = match network.driver {
            NetworkDriver::Host => record.spec.network == NetworkMode::Host,
            NetworkDriver::Null => record.spec.network == NetworkMode::None,
            NetworkDriver::Bridge | NetworkDriver::Macvlan | NetworkDriver::Cni => {
                record.networks.on(name).is_some() || endpoints(&record.spec).iter().any(|e| e.network == *name)
            }
        };
        if is_on {
            let endpoint = record.spec.networks.iter().find(|e| e.network == *name).cloned();
            members.push(NetworkMember {
                attachment: record.networks.on(name).cloned(),
                running: record.phase == Phase::Running,
                endpoint: endpoint.unwrap_or_default(),
                container: record,
            });
        }
    }
    members.sort_by(|a, b| a.container.name.cmp(&b.container.name));
    members
}

pub(crate) fn view(inner: &Inner, network: Arc<NetworkRecord>) -> NetworkView {
    let members = members(inner, &network);
    NetworkView { record: network, members }
}
