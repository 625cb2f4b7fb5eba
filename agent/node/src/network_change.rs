//! Makes and removes networks. The record comes first and goes last: an agent that is killed in between leaves a record whose bridge is made
//! when somebody needs it, or one that says that it goes.

use crate::nets::{members, view};
use crate::node::Inner;
use crate::requests::{Begin, fingerprint};
use crate::store::{Durability, Write};
use crate::view::{NetworkRequest, NetworkView, PrunedNetworks, Requester};
use crate::{Node, NodeError, fail, nets};
use berth_cni::Conflist;
use berth_model::event::EventKind;
use berth_model::network::{
    DEFAULT_WORD, NetworkDriver, NetworkId, NetworkRecord, PREDEFINED, Subnet4, Subnet6, check_network_name,
};
use berth_model::{ContainerSpec, Timestamp};
use berth_network::{Prefix, Prefix6};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

impl Node {
    /// Every network, by name; those that every node has too.
    pub fn networks(&self) -> Vec<NetworkView> {
        let all = self.inner().nets.all().into_iter().filter(|n| !n.removing);
        all.map(|record| view(self.inner(), record)).collect()
    }

    /// By name, id or prefix.
    pub fn network(&self, name: &str) -> Result<NetworkView, NodeError> {
        self.inner().nets.find(name).map(|record| view(self.inner(), record))
    }

    /// Puts the id in the place of the name of a container whose network a spec joins: before it is asked what the spec needs, so that a rename
    /// in between does not lead elsewhere.
    ///
    /// # Errors
    /// `ContainerNotFound`, `Ambiguous`.
    pub fn network_from(&self, spec: &mut ContainerSpec) -> Result<(), NodeError> {
        nets::joined(self.inner(), spec).map(drop)
    }

    /// Makes a network.
    ///
    /// # Errors
    /// `Invalid` with every wrong field; `NetworkNameInUse`, `SubnetInUse`, `PoolsExhausted`, `RequestIdReused`; `Network` where the kernel
    /// refuses it.
    pub async fn create_network(&self, who: &Requester, request: NetworkRequest) -> Result<NetworkId, NodeError> {
        check(self.inner(), &request).await?;
        let ticket = loop {
            match self.inner().requests.begin(who, "NetworkCreate", fingerprint(&request)).await? {
                Begin::New(ticket) => break ticket,
                Begin::Answered(id) => match self.inner().nets.find(&id) {
                    Ok(record) => return Ok(record.id.clone()),
                    // It was removed since: the request makes a new one.
                    Err(_) => self.inner().requests.forget(who),
                },
            }
        };
        let inner = self.inner().clone();
        let id = self.inner().to_its_end(async move { create(&inner, request).await }).await?;
        self.answered(ticket, id.as_str()).await;
        Ok(id)
    }

    /// Removes a network; `None`: there is none.
    ///
    /// # Errors
    /// `NetworkInUse`: containers are on it, or join it when they start; `NetworkPredefined`.
    pub async fn remove_network(&self, who: &Requester, name: &str) -> Result<Option<NetworkId>, NodeError> {
        let Some(ticket) = self.begin(who, "NetworkRemove", &name).await? else { return Ok(None) };
        let (inner, name) = (self.inner().clone(), name.to_owned());
        let id = self.inner().to_its_end(async move { remove(&inner, &name).await }).await?;
        self.answered(ticket, id.as_ref().map_or("", |id| id.as_str())).await;
        Ok(id)
    }

    /// Removes networks that fit and that no container is on or joins; `dry_run` only tells. `fits` is asked for those that nobody uses.
    pub async fn prune_networks(
        &self,
        who: &Requester,
        content: &impl serde::Serialize,
        fits: impl Fn(&NetworkRecord) -> bool,
        dry_run: bool,
    ) -> Result<PrunedNetworks, NodeError> {
        let Some(ticket) = self.begin(who, "PruneNetworks", content).await? else {
            return Ok(PrunedNetworks::default());
        };
        let inner = self.inner().clone();
        let unused = |r: &Arc<NetworkRecord>| !r.is_predefined() && members(&inner, r).is_empty();
        let all = inner.nets.all();
        let names: Vec<String> = all.iter().filter(|r| unused(r) && fits(r)).map(|r| r.name.clone()).collect();
        let mut pruned = PrunedNetworks::default();
        for name in names {
            if dry_run {
                pruned.removed.push(name);
                continue;
            }
            let (inner, name_) = (self.inner().clone(), name.clone());
            match self.inner().to_its_end(async move { remove(&inner, &name_).await }).await {
                Ok(_) => pruned.removed.push(name),
                // Somebody has joined it meanwhile.
                Err(NodeError::NetworkInUse { .. }) => {}
                Err(e) => pruned.problems.push(format!("{name}: {e}")),
            }
        }
        self.answered(ticket, "").await;
        Ok(pruned)
    }
}

/// What is wrong by itself, all at once; whether the plugins of a list are there.
pub(crate) async fn check(inner: &Arc<Inner>, request: &NetworkRequest) -> Result<(), NodeError> {
    let mut wrong: Vec<(String, String)> = Vec::new();
    if let Some(why) = reserved(&request.name) {
        wrong.push(("name".to_owned(), format!("{:?} {why}: choose another name", request.name)));
    } else if let Err(e) = check_network_name(&request.name) {
        wrong.push(("name".to_owned(), e.to_string()));
    }
    if let Some(text) = request.conflist.clone() {
        let (inner_, name) = (inner.clone(), request.name.clone());
        let found = inner.blocking(move || Ok(check_conflist(&inner_, &text, &name))).await?;
        wrong.extend(
            found.into_iter().map(|(at, why)| (format!("conflist.{at}").trim_end_matches('.').to_owned(), why)),
        );
    }
    if wrong.is_empty() { Ok(()) } else { Err(NodeError::Invalid(wrong)) }
}

/// What a name means already where a container says its network, other than one of the networks that every host has.
fn reserved(name: &str) -> Option<&'static str> {
    match name {
        DEFAULT_WORD => Some("is another word for bridge, the network of containers that name none"),
        name if name.starts_with("container:") => Some("stands for the network of another container"),
        _ => None,
    }
}

/// Runs the plugins of a list that is well, to hear which versions they know.
fn check_conflist(inner: &Inner, text: &str, name: &str) -> Vec<(String, String)> {
    match Conflist::parse(text) {
        Err(wrong) => wrong.0,
        Ok(list) if list.name != name => {
            vec![(
                "name".to_owned(),
                format!("is {}, and the network is to be {name}: they must be the same", list.name),
            )]
        }
        Ok(list) => inner.cni.try_out(&list),
    }
}

pub(crate) async fn create(inner: &Arc<Inner>, request: NetworkRequest) -> Result<NetworkId, NodeError> {
    let _one = inner.nets.change.lock().await;
    if PREDEFINED.iter().any(|(name, _)| *name == request.name) {
        return Err(NodeError::NetworkPredefined(request.name));
    }
    if inner.nets.by_name(&request.name).is_some() {
        return Err(NodeError::NetworkNameInUse(request.name));
    }
    let mut bytes = [0; 32];
    berth_sys::store::random(&mut bytes).map_err(NodeError::io("getting random bytes"))?;
    let id = NetworkId::from_bytes(bytes);
    let inner_ = inner.clone();
    let id_ = id.clone();
    let record = inner.blocking(move || plan(&inner_, id_, bytes, request)).await?;
    let record = Arc::new(record);
    fail::point("network.create.before_record")?;
    let event = event(inner, &record, "create", &[]);
    inner.store.write(vec![Write::PutNetwork(record.clone()), event], Durability::Durable).await?;
    fail::point("network.create.after_record")?;
    let (inner_, record_) = (inner.clone(), record.clone());
    let made = inner.blocking(move || {
        if record_.driver != NetworkDriver::Cni {
            inner_.networks.add(&record_);
            inner_.networks.make(&record_.name)?;
        }
        fail::point("network.create.after_bridge")
    });
    if let Err(e) = made.await {
        let (inner_, name) = (inner.clone(), record.name.clone());
        if let Err(undo) = inner.blocking(move || Ok(inner_.networks.remove(&name)?)).await {
            tracing::warn!(network = record.name, error = %undo, "undoing a network");
        }
        inner.store.write(vec![Write::DeleteNetwork(record.id.clone())], Durability::Quick).await?;
        return Err(e);
    }
    inner.nets.put(record);
    inner.nets.touch();
    Ok(id)
}

/// An event of a network.
pub(crate) fn event(inner: &Inner, record: &NetworkRecord, action: &str, more: &[(&str, &str)]) -> Write {
    let mut attributes = BTreeMap::from([
        ("name".to_owned(), record.name.clone()),
        ("type".to_owned(), record.driver.name().to_owned()),
    ]);
    attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    inner.events.add(EventKind::Network, action, record.id.as_str(), attributes)
}

/// Chooses what the caller left open, and looks for what it would collide with.
fn plan(inner: &Inner, id: NetworkId, random: [u8; 32], request: NetworkRequest) -> Result<NetworkRecord, NodeError> {
    if request.driver == NetworkDriver::Cni {
        return Ok(record(id, request, String::new(), None, None));
    }
    let others: Vec<Arc<NetworkRecord>> = inner.nets.all();
    let bridge = match request.driver {
        NetworkDriver::Macvlan => request.parent.clone().unwrap_or_default(),
        _ => request.bridge.clone().unwrap_or_else(|| format!("br-{}", id.short())),
    };
    if request.driver == NetworkDriver::Bridge
        && let Some(other) = others.iter().find(|o| o.bridge == bridge)
    {
        let why = format!("is the interface of network {}", other.name);
        return Err(NodeError::Invalid(vec![("options[\"com.docker.network.bridge.name\"]".to_owned(), why)]));
    }
    let routes = inner.networks.host_routes()?;
    if request.driver == NetworkDriver::Bridge && routes.has_link(&bridge) {
        let why = format!("{bridge} is an interface of the host already");
        return Err(NodeError::Invalid(vec![("options[\"com.docker.network.bridge.name\"]".to_owned(), why)]));
    }
    let macvlan = request.driver == NetworkDriver::Macvlan;
    if macvlan {
        inner.networks.probe_macvlan(&bridge)?;
    }
    // A macvlan's subnet is that of the wire, and no route of the host's.
    let needed = |p: Prefix| routes.needed(|ip| matches!(ip, IpAddr::V4(ip) if p.contains(ip)));
    let needed6 = |p: Prefix6| routes.needed(|ip| matches!(ip, IpAddr::V6(ip) if p.contains(ip)));
    let with_host = |p: Prefix| (!macvlan).then(|| routes.collision(p).or_else(|| needed(p))).flatten();
    let with_network = |p: Prefix| {
        let v4 = |o: &&Arc<NetworkRecord>| {
            o.ipv4.is_some_and(|s| Prefix { address: s.subnet, len: s.prefix_len }.overlaps(p))
        };
        others.iter().find(v4).map(|o| format!("network {}", o.name))
    };
    let ipv4 = match request.ipv4 {
        Some(wish) => {
            let prefix = Prefix { address: wish.subnet, len: wish.prefix_len };
            if let Some(with) = with_network(prefix).or_else(|| with_host(prefix)) {
                return Err(NodeError::SubnetInUse { subnet: prefix.to_string(), with });
            }
            wish
        }
        None => from_pools(inner, random, |p| with_network(p).is_none() && with_host(p).is_none())?,
    };
    let ipv6 = match request.ipv6 {
        Some(wish) => {
            let prefix = Prefix6 { address: wish.subnet, len: wish.prefix_len };
            let v6 = |o: &&Arc<NetworkRecord>| {
                o.ipv6.is_some_and(|s| Prefix6 { address: s.subnet, len: s.prefix_len }.overlaps(prefix))
            };
            let network = others.iter().find(v6).map(|o| format!("network {}", o.name));
            let host = || (!macvlan).then(|| routes.collision6(prefix).or_else(|| needed6(prefix))).flatten();
            if let Some(with) = network.or_else(host) {
                return Err(NodeError::SubnetInUse { subnet: prefix.to_string(), with });
            }
            Some(wish)
        }
        None if request.enable_ipv6 => Some(unique_local(random)),
        None => None,
    };
    Ok(record(id, request, bridge, Some(ipv4), ipv6))
}

fn record(
    id: NetworkId,
    request: NetworkRequest,
    bridge: String,
    ipv4: Option<Subnet4>,
    ipv6: Option<Subnet6>,
) -> NetworkRecord {
    NetworkRecord {
        id,
        name: request.name,
        driver: request.driver,
        ipv4,
        ipv6,
        auxiliary: request.auxiliary,
        ipv6_mode: request.ipv6_mode,
        internal: request.internal,
        mtu: request.mtu,
        labels: request.labels,
        options: request.options,
        bridge,
        conflist: request.conflist,
        created: Timestamp::now(),
        removing: false,
    }
}

/// A free subnet of the pools. Begun at a random place, so that a subnet that was given back rests, and two agents do not take the same.
fn from_pools(inner: &Inner, random: [u8; 32], free: impl Fn(Prefix) -> bool) -> Result<Subnet4, NodeError> {
    let seed = u64::from_be_bytes(*random.first_chunk().unwrap_or(&[0; 8]));
    for pool in &inner.config.pools {
        let count = 1u64 << (pool.size.saturating_sub(pool.prefix_len)).min(24);
        for n in 0..count {
            let index = (seed.wrapping_add(n) % count) as u32;
            let base = pool.base.to_bits() | index.checked_shl(32 - u32::from(pool.size)).unwrap_or(0);
            let prefix = Prefix { address: Ipv4Addr::from_bits(base), len: pool.size };
            if free(prefix) {
                let gateway = Ipv4Addr::from_bits(base + 1);
                return Ok(Subnet4 { subnet: prefix.address, prefix_len: pool.size, gateway, range: None });
            }
        }
    }
    let shown: Vec<String> = inner.config.pools.iter().map(|p| format!("{}/{}", p.base, p.prefix_len)).collect();
    Err(NodeError::PoolsExhausted(shown.join(", ")))
}

/// RFC 4193: fd00::/8 with 56 random bits in front of the host's 64.
fn unique_local(random: [u8; 32]) -> Subnet6 {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&random[8..15]);
    let subnet = Ipv6Addr::from(octets);
    Subnet6 { subnet, prefix_len: 64, gateway: Ipv6Addr::from_bits(subnet.to_bits() + 1), range: None }
}

pub(crate) async fn remove(inner: &Arc<Inner>, name: &str) -> Result<Option<NetworkId>, NodeError> {
    let _one = inner.nets.change.lock().await;
    let record = match inner.nets.find_any(name) {
        Err(NodeError::NetworkNotFound(_)) => return Ok(None),
        found => found?,
    };
    if record.is_predefined() {
        return Err(NodeError::NetworkPredefined(record.name.clone()));
    }
    // From here on nobody finds it; who has found it before is seen now (`nets::still_there` asks again behind that).
    let leaving = Arc::new(NetworkRecord { removing: true, ..(*record).clone() });
    inner.nets.put(leaving.clone());
    let users: Vec<String> = members(inner, &record).iter().map(|m| m.container.name.clone()).collect();
    if !users.is_empty() {
        inner.nets.put(record.clone());
        return Err(NodeError::NetworkInUse { network: record.name.clone(), by: users });
    }
    let begun = async {
        fail::point("network.remove.before_record")?;
        Ok(inner.store.write(vec![Write::PutNetwork(leaving.clone())], Durability::Durable).await?)
    };
    if let Err(e) = begun.await {
        inner.nets.put(record);
        return Err(e);
    }
    take_apart(inner, &leaving).await?;
    Ok(Some(record.id.clone()))
}

/// Takes away what is left of a network that goes, and at last its record. Again finds less to do.
async fn take_apart(inner: &Arc<Inner>, record: &Arc<NetworkRecord>) -> Result<(), NodeError> {
    fail::point("network.remove.after_record")?;
    let (inner_, name) = (inner.clone(), record.name.clone());
    let record_ = record.clone();
    let removed = move || {
        remove_of_plugins(&inner_, &record_);
        Ok(inner_.networks.remove(&name)?)
    };
    inner.blocking(removed).await?;
    fail::point("network.remove.after_bridge")?;
    let event = event(inner, record, "destroy", &[]);
    inner.store.write(vec![Write::DeleteNetwork(record.id.clone()), event], Durability::Durable).await?;
    inner.nets.take_out(&record.name);
    inner.nets.touch();
    Ok(())
}

/// What plugins leave of a network that nobody is on: CNI has no word for its end. A bridge that was there before them is let alone, and one that
/// another network has, too.
fn remove_of_plugins(inner: &Inner, record: &NetworkRecord) {
    let list = |r: &NetworkRecord| r.conflist.as_deref().and_then(|text| Conflist::parse(text).ok());
    let Some(own) = list(record) else { return };
    let others = inner.nets.all().into_iter().filter(|o| o.id != record.id);
    let of = |o: &NetworkRecord| list(o).map_or_else(|| vec![o.bridge.clone()], |l| l.bridges());
    let taken: Vec<String> = others.flat_map(|o| of(&o)).collect();
    if let Err(error) = inner.cni.collect(record.conflist.as_deref().unwrap_or_default(), &record.name) {
        tracing::warn!(network = record.name, %error, "having CNI plugins give back what nobody has");
    }
    for bridge in own.bridges().into_iter().filter(|b| !taken.contains(b)) {
        if let Err(error) = inner.networks.delete_marked_bridge(&bridge) {
            tracing::warn!(network = record.name, bridge, %error, "deleting what CNI plugins have left");
        }
    }
}

/// Goes on with removals that the last agent had begun.
pub(crate) async fn recover(inner: &Arc<Inner>) {
    for record in inner.nets.all().into_iter().filter(|r| r.removing) {
        if let Err(e) = take_apart(inner, &record).await {
            tracing::error!(network = record.name, error = %e, "removing a network; the next start of the agent goes on");
        }
    }
}
