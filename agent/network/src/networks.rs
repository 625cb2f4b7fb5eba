//! All networks of a node, and who is on them.

use crate::address::Addresses;
use crate::connect::configure;
use crate::ends::{is_link_name, link_names};
use crate::error::NetworkError;
use crate::guard::Member;
use crate::host::{CROWD, room_for_neighbours};
use crate::link::{Link, Links};
use crate::mac::{MAC_CONTAINER, mac_of, mac_text, parse_mac};
use crate::namespace::{Namespace, Namespaces};
use crate::net::{Net, NetPlan, NetworkConfig, published};
use crate::rules::{Contents, Rules};
use crate::state::State;
use crate::sweep::{Leftover, Sweep};
use crate::watch;
use berth_model::ContainerId;
use berth_model::network::{Attachment6, Attachments, DEFAULT_NETWORK, NetworkAttachment, NetworkRecord, PortMapping};
use berth_model::publish::PublishPolicy;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, RwLock};
use std::time::Instant;

/// A container's place in its networks.
#[derive(Debug)]
pub struct Attached {
    pub netns: OwnedFd,
    pub attachments: Attachments,
}

impl Attached {
    /// The one with the default route.
    pub fn main(&self) -> &NetworkAttachment {
        self.attachments.main().expect("attached to something")
    }
}

/// What a container wants of one network.
#[derive(Clone, Debug, Default)]
pub struct Want {
    /// The network's name.
    pub network: String,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mac: Option<String>,
    pub aliases: Vec<String>,
    /// The container's default route is by this one.
    pub default_route: bool,
    pub ports: Vec<PortMapping>,
    /// Of its end; empty: by its place, eth0, eth1, …
    pub interface: String,
    /// What it had there before: the same addresses and chosen ports, as far as they are still free.
    pub last: Option<NetworkAttachment>,
}

/// Cheap to clone. Bridges and tables are made with the first container that needs them, or when a network is made.
#[derive(Clone)]
pub struct Networks {
    pub(crate) inner: Arc<Inner>,
}

/// Locks are taken in the order of the fields; `state` is never held while the kernel is asked for anything but a port.
pub(crate) struct Inner {
    pub config: NetworkConfig,
    pub namespaces: Namespaces,
    /// With user namespaces.
    pub owned: Namespaces,
    /// By name.
    nets: RwLock<BTreeMap<String, Arc<Net>>>,
    pub links: Mutex<Links>,
    pub rules: Mutex<Rules>,
    watched: Once,
    roomy: Once,
    state: Mutex<State>,
    pub sweep: Sweep,
}

/// `wanted` with the host ports of `last` where the choice was the agent's.
pub(crate) fn like(wanted: &[PortMapping], last: &[PortMapping]) -> Vec<PortMapping> {
    let mut left: Vec<&PortMapping> = last.iter().filter(|l| !wanted.contains(l)).collect();
    let mut find = |p: &PortMapping| left.iter().position(|l| p.could_be(l)).map(|at| left.remove(at).host_port);
    let fill = |p: &PortMapping| match p.is_open().then(|| find(p)).flatten() {
        Some(host_port) => PortMapping { host_port, choice: 1, ..p.clone() },
        None => p.clone(),
    };
    wanted.iter().map(fill).collect()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Networks {
    /// The host is the network namespace of the calling thread. Makes nothing yet.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let plan = NetPlan::default_network(&config)?;
        let inner = Inner {
            namespaces: Namespaces::open(false)?,
            owned: Namespaces::open(true)?,
            nets: RwLock::default(),
            links: Mutex::new(Links::open()?),
            rules: Mutex::new(Rules::new(&config.table_name(), config.publish.input_rules)),
            watched: Once::new(),
            roomy: Once::new(),
            state: Mutex::new(State::new()),
            sweep: Sweep::default(),
            config,
        };
        inner.add(plan);
        Ok(Networks { inner: Arc::new(inner) })
    }

    /// Takes a network in that containers may join. Makes nothing yet. Networks without interfaces (host, none) are fine.
    pub fn add(&self, record: &NetworkRecord) {
        if let Some(plan) = NetPlan::of(record) {
            self.inner.add(plan);
        }
    }

    /// Makes the bridge of a network and what belongs to it, so that what is in its way is said now.
    pub fn make(&self, name: &str) -> Result<(), NetworkError> {
        self.inner.net(name)?.ready(&self.inner).map(drop)
    }

    /// Makes in a namespace, for each network, a veth to its bridge, addresses, route, port rules: eth0, eth1, … in this order. Undone
    /// whole when a step fails.
    pub fn attach_in(
        &self,
        id: &ContainerId,
        wants: Vec<Want>,
        mut namespace: Namespace,
    ) -> Result<Attached, NetworkError> {
        let inner = &self.inner;
        let nets = wants.iter().map(|w| inner.net(&w.network)).collect::<Result<Vec<_>, _>>()?;
        let bridges = nets.iter().map(|net| net.ready(inner)).collect::<Result<Vec<_>, _>>()?;
        inner.watch();
        let mut done = Vec::new();
        for (n, ((want, net), bridge)) in wants.into_iter().zip(&nets).zip(bridges).enumerate() {
            let joined = inner
                .reserve(
                    id,
                    net,
                    &want,
                    Some(want.interface.clone()).filter(|i| !i.is_empty()).unwrap_or_else(|| format!("eth{n}")),
                )
                .and_then(|attachment| self.join(id, net, bridge, attachment, &mut namespace));
            match joined {
                Ok(attachment) => done.push(attachment),
                Err(error) => {
                    self.undo(id, &done);
                    return Err(error);
                }
            }
        }
        self.forget_udp(&done);
        Ok(Attached { netns: namespace.fd, attachments: done.into() })
    }

    /// Makes the link, addresses it and publishes its ports; undone when a step fails.
    fn join(
        &self,
        id: &ContainerId,
        net: &Net,
        bridge: u32,
        mut attachment: NetworkAttachment,
        namespace: &mut Namespace,
    ) -> Result<NetworkAttachment, NetworkError> {
        let inner = &self.inner;
        // The rules come first: there is no moment in which its frames are not looked at.
        let joined = inner
            .publish(&attachment)
            .and_then(|()| inner.make_link(net, bridge, &mut attachment, id, namespace.fd.as_fd()))
            .and_then(|()| configure(&attachment, &mut namespace.links, namespace.fd.as_fd()))
            .and_then(|()| net.settle(inner, &attachment));
        if let Err(error) = joined {
            self.undo(id, std::slice::from_ref(&attachment));
            return Err(error);
        }
        Ok(attachment)
    }

    pub(crate) fn undo(&self, id: &ContainerId, attachments: &[NetworkAttachment]) {
        for attachment in attachments {
            if let Err(undo) = self.inner.leave(id, attachment) {
                tracing::warn!(%undo, container = id.short(), "undoing an attachment");
            }
        }
    }

    /// Takes the addresses, ports and rules back; the veths go with their namespace (deleted in the background where they still are). Gone
    /// already is fine.
    ///
    /// An address is free again when its link is gone.
    pub fn detach(&self, id: &ContainerId, attachments: &[NetworkAttachment]) -> Result<(), NetworkError> {
        let mut result = Ok(());
        for attachment in attachments {
            let left = self.inner.leave(id, attachment);
            result = result.and(left);
        }
        result
    }

    /// After a restart of the agent: `live` containers keep their addresses and ports; veths and rules of berth's without an owner are removed,
    /// missing rules are put back.
    ///
    /// May be called later too, with no attach or detach under way, to put back what somebody else took away. Links without an owner are deleted in
    /// the background.
    pub fn recover(&self, live: &[(ContainerId, Attachments)]) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let nets = inner.all_nets();
        {
            let mut state = inner.lock_state();
            state.reset(nets.iter().map(|net| (net.plan.name.clone(), net.fresh_addresses())).collect());
            for (id, attachments) in live {
                attachments.iter().for_each(|attachment| state.restore(id, attachment));
            }
        }
        self.recover_rules(&nets)?;
        let links = lock(&inner.links).list()?;
        let mut bridges = HashMap::new();
        let mut old = HashSet::new();
        for net in &nets {
            let mut ready = lock(&net.ready);
            *ready = None;
            old.extend(links.iter().find(|l| net.plan.made(l)).map(|l| l.index));
            if !inner.lock_state().is_populated(&net.plan.name) {
                continue;
            }
            match net.make_ready(inner) {
                Ok(index) => {
                    *ready = Some(index);
                    bridges.insert(net.plan.name.clone(), index);
                }
                Err(error) if net.plan.name == DEFAULT_NETWORK => return Err(error),
                // Its containers run on, cut off; the others must not wait for it.
                Err(error) => tracing::error!(network = net.plan.name, %error, "putting a network in place"),
            }
        }
        self.restore_links(&links, &old, &bridges)
    }

    /// Those of all networks that have a container, in one step; none where nobody lives.
    fn recover_rules(&self, nets: &[Arc<Net>]) -> Result<(), NetworkError> {
        let mut rules = lock(&self.inner.rules);
        let live = |net: &&Arc<Net>| net.plan.macvlan.is_none() && self.inner.lock_state().is_populated(&net.plan.name);
        rules.set_networks(nets.iter().filter(live).map(|net| net.rules()).collect());
        if rules.has_networks() {
            self.inner.watch();
            self.inner.rebuild(&mut rules)
        } else {
            rules.remove_if_present()
        }
    }

    /// Puts the links of live containers into their bridges where they are not, and sends the others away.
    fn restore_links(
        &self,
        links: &[Link],
        old: &HashSet<u32>,
        bridges: &HashMap<String, u32>,
    ) -> Result<(), NetworkError> {
        let inner = &self.inner;
        for link in links.iter().filter(|l| is_link_name(&l.name)) {
            let attachment = inner.lock_state().of_link(&link.name).cloned();
            match attachment {
                Some(attachment) => {
                    if let Some(&bridge) = bridges.get(&attachment.network)
                        && link.master != Some(bridge)
                    {
                        lock(&inner.links).set_master(link, bridge)?;
                        inner.net(&attachment.network)?.settle(inner, &attachment)?;
                    }
                }
                // A port of another bridge is another agent's.
                None if link.master.is_none_or(|m| old.contains(&m)) => self.send_away(&link.name),
                None => {}
            }
        }
        Ok(())
    }

    /// A link that nobody here has attached.
    fn send_away(&self, name: &str) {
        if self.inner.lock_state().leaving.insert(name.to_owned()) {
            let leftover = Leftover::Link { name: name.into(), of: None, forget: false, due: Instant::now() };
            self.inner.sweep.push(&self.inner, leftover);
        }
    }

    /// Removes a network's bridge and table, and every link of the bridge. Waits for it. Gone already is fine.
    pub fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let Ok(net) = self.inner.net(name) else { return Ok(()) };
        self.inner.sweep.finish();
        self.take_apart(&net)?;
        self.inner.nets.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.inner.lock_state().addresses.remove(name);
        Ok(())
    }

    fn take_apart(&self, net: &Net) -> Result<(), NetworkError> {
        let mut ready = lock(&net.ready);
        *ready = None;
        if net.plan.macvlan.is_some() {
            return Ok(());
        }
        let mut links = lock(&self.inner.links);
        let all = links.list()?;
        if let Some(found) = all.iter().find(|l| net.plan.made(l)) {
            for link in all.iter().filter(|l| l.master == Some(found.index) && is_link_name(&l.name)) {
                links.delete(link.index, &link.name)?;
            }
            links.delete(found.index, &found.name)?;
        }
        drop(links);
        let mut rules = lock(&self.inner.rules);
        rules.drop_network(&net.plan.bridge);
        if rules.has_networks() { self.inner.rebuild(&mut rules) } else { rules.remove_if_present() }
    }

    /// Removes bridges and tables (uninstall; tests), and every link of the bridges. Waits for it. net.ipv4.ip_forward stays as it is: others may
    /// have come to need it.
    pub fn remove_all(&self) -> Result<(), NetworkError> {
        let inner = &self.inner;
        inner.sweep.finish();
        let nets = inner.all_nets();
        {
            let addresses = nets.iter().map(|net| (net.plan.name.clone(), net.fresh_addresses())).collect();
            inner.lock_state().reset(addresses);
        }
        nets.iter().try_for_each(|net| self.take_apart(net))
    }

    /// Where ports may be published.
    pub fn publish_policy(&self) -> &PublishPolicy {
        &self.inner.config.publish
    }

    /// The default network's gateway: what `host-gateway` means.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.config.gateway
    }
}

impl Net {
    fn fresh_addresses(&self) -> Addresses {
        let NetPlan { v4, range4, v6, range6, auxiliary, .. } = &self.plan;
        let mut addresses = Addresses::new(*v4, *range4, *v6, *range6);
        auxiliary.iter().for_each(|address| addresses.keep(*address));
        addresses
    }
}

impl Inner {
    pub fn lock_state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn add(&self, plan: NetPlan) {
        let net = Net::new(plan);
        let name = net.plan.name.clone();
        self.lock_state().addresses.insert(name.clone(), net.fresh_addresses());
        self.nets.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(net));
    }

    pub fn net(&self, name: &str) -> Result<Arc<Net>, NetworkError> {
        let nets = self.nets.read().unwrap_or_else(PoisonError::into_inner);
        nets.get(name).cloned().ok_or_else(|| NetworkError::NoNetwork(name.to_owned()))
    }

    pub fn all_nets(&self) -> Vec<Arc<Net>> {
        self.nets.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// All rules, for all containers that are attached now. The list is made under the lock of the rules: whoever leaves meanwhile withdraws
    /// afterwards.
    pub fn rebuild(&self, rules: &mut Rules) -> Result<(), NetworkError> {
        let (attached, silent): (Vec<NetworkAttachment>, Vec<String>) = {
            let state = self.lock_state();
            (state.all().cloned().collect(), state.leaving.iter().cloned().collect())
        };
        let published: Vec<_> = attached.iter().flat_map(published).collect();
        let members: Vec<_> = attached.iter().filter_map(Member::of).collect();
        rules.rebuild(&Contents { published: &published, members: &members, silent: &silent })
    }

    /// From the first rules on.
    pub fn watch(self: &Arc<Self>) {
        self.watched.call_once(|| {
            if let Err(error) = watch::start(self) {
                tracing::warn!(%error, "rules that others take away come back with the next container only");
            }
        });
    }

    pub fn publish(&self, attachment: &NetworkAttachment) -> Result<(), NetworkError> {
        let published: Vec<_> = published(attachment).collect();
        lock(&self.rules).publish(&published, Member::of(attachment).as_ref())
    }

    /// Takes addresses, ports and a name for the link: what needs no kernel object.
    pub fn reserve(
        &self,
        id: &ContainerId,
        net: &Net,
        want: &Want,
        interface: String,
    ) -> Result<NetworkAttachment, NetworkError> {
        let plan = &net.plan;
        let mut state = self.lock_state();
        if let Some(old) = state.of(id, &plan.name) {
            return Err(NetworkError::AlreadyAttached(old.address));
        }
        let mac = want.mac.as_deref().filter(|m| parse_mac(m).is_some());
        if let Some(mac) = mac
            && state.has_mac(&plan.name, mac)
        {
            return Err(NetworkError::MacInUse { mac: mac.to_owned(), network: plan.name.clone() });
        }
        let asked = want.ipv4.or(want.last.as_ref().map(|l| l.address)).filter(|a| plan.v4.contains(*a));
        if asked.is_some_and(|a| !state.is_free(&plan.name, a)) {
            // The links of an end a moment ago are still on their way out, and the address with them.
            drop(state);
            self.sweep.finish();
            state = self.lock_state();
        }
        let address = match take4(state.addresses_of(&plan.name)?, plan, want) {
            Err(NetworkError::NoAddressLeft(_)) => {
                drop(state);
                self.sweep.finish();
                state = self.lock_state();
                take4(state.addresses_of(&plan.name)?, plan, want)?
            }
            other => other?,
        };
        let ipv6 = match take6(state.addresses_of(&plan.name)?, plan, want) {
            Ok(six) => six,
            Err(error) => {
                state.addresses_of(&plan.name)?.give_back(address);
                return Err(error);
            }
        };
        let chosen = want.last.as_ref().map(|l| like(&want.ports, &l.ports));
        let again = chosen.and_then(|chosen| state.ports.take(id, &chosen).ok());
        let ports = again.map_or_else(|| state.ports.take(id, &want.ports), Ok);
        let ports = match ports {
            Ok(ports) => ports,
            Err(error) => {
                let addresses = state.addresses_of(&plan.name)?;
                addresses.give_back(address);
                ipv6.inspect(|six| addresses.give_back6(*six));
                return Err(error);
            }
        };
        let free = |name: &String| !state.leaving.contains(name) && !state.link_is_used(name);
        let attachment = NetworkAttachment {
            network: plan.name.clone(),
            bridge: plan.bridge.clone(),
            host_interface: match plan.macvlan {
                Some(_) => String::new(),
                None => link_names(id).find(free).unwrap_or_default(),
            },
            interface,
            address,
            prefix_len: plan.v4.len,
            gateway: plan.v4.address,
            ipv6: ipv6.zip(plan.v6).map(|(address, v6)| Attachment6 {
                address,
                prefix_len: v6.len,
                gateway: v6.address,
            }),
            mac: mac.map_or_else(|| mac_text(mac_of(MAC_CONTAINER, address)), str::to_owned),
            default_route: want.default_route && !plan.internal,
            aliases: want.aliases.clone(),
            ports,
            cni: None,
        };
        state.put(id, &attachment);
        if state.link_count() > CROWD {
            self.roomy.call_once(room_for_neighbours);
        }
        Ok(attachment)
    }
}

/// One that was asked for, and no other; else the last one, else any.
fn take4(addresses: &mut Addresses, plan: &NetPlan, want: &Want) -> Result<Ipv4Addr, NetworkError> {
    if let Some(asked) = want.ipv4 {
        if !plan.v4.contains(asked) {
            return Err(outside(plan, asked.into()));
        }
        return if addresses.take_this(asked) { Ok(asked) } else { Err(in_use(plan, asked.into())) };
    }
    let again = want.last.as_ref().map(|l| l.address).filter(|a| addresses.take_this(*a));
    again.map_or_else(|| addresses.take(), Ok)
}

fn take6(addresses: &mut Addresses, plan: &NetPlan, want: &Want) -> Result<Option<Ipv6Addr>, NetworkError> {
    if let Some(asked) = want.ipv6 {
        if !plan.v6.is_some_and(|v6| v6.contains(asked)) {
            return Err(outside(plan, asked.into()));
        }
        return if addresses.take_this6(asked) { Ok(Some(asked)) } else { Err(in_use(plan, asked.into())) };
    }
    let last = want.last.as_ref().and_then(|l| l.ipv6.as_ref()).map(|six| six.address);
    match last.filter(|a| addresses.take_this6(*a)) {
        Some(again) => Ok(Some(again)),
        None => addresses.take6(),
    }
}

fn outside(plan: &NetPlan, address: IpAddr) -> NetworkError {
    let six = plan.v6.map(|v6| format!(" and {v6}")).unwrap_or_default();
    NetworkError::AddressOutside { address, network: plan.name.clone(), subnets: format!("{}{six}", plan.v4) }
}

fn in_use(plan: &NetPlan, address: IpAddr) -> NetworkError {
    NetworkError::AddressInUse { address, network: plan.name.clone() }
}
