//! The default network: one bridge, one subnet, one table.

use crate::address::Addresses;
use crate::error::{NetworkError, Prefix};
use crate::link::{EEXIST, EINVAL, ENODEV, Link, Links, MAC_BRIDGE, MAC_CONTAINER, MAC_PORT, Veth, mac_of, mac_text};
use crate::namespace::{Namespaces, host_setting};
use crate::ports::Ports;
use crate::rules::{Published, Rules};
use crate::sweep::{GRACE, Leftover, Sweep};
use berth_model::ContainerId;
use berth_model::network::{NetworkAttachment, PortMapping, Protocol};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Start of the names of the host's ends.
const LINK_PREFIX: &str = "bth";
/// Digits of the container's id in such a name. With the prefix and a letter that tells namesakes apart: 14 of the 15 characters that a name may have.
const LINK_DIGITS: usize = 10;

#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the default bridge: berth0.
    pub bridge: String,
    /// Gateway address and prefix length: 172.31.240.1/20 or what the configuration says.
    pub gateway: Ipv4Addr,
    pub prefix_len: u8,
    /// Name of the nftables table (family ip): berth. Behind it stands the bridge's name, unless that is this name and a 0: `berth` for berth0,
    /// `berth-br7` for br7. Two agents on one host, each with a bridge of its own, then leave each other's rules alone.
    pub table: String,
}

impl NetworkConfig {
    /// The table's whole name.
    pub fn table_name(&self) -> String {
        let NetworkConfig { bridge, table, .. } = self;
        if bridge.strip_suffix('0') == Some(table) { table.clone() } else { format!("{table}-{bridge}") }
    }

    fn check(&self) -> Result<Prefix, NetworkError> {
        let prefix = Prefix { address: self.gateway, len: self.prefix_len };
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let bad =
            if !(1..=15).contains(&self.bridge.len()) || !self.bridge.bytes().all(name) || self.bridge.starts_with('.')
            {
                format!("bridge {:?} must be 1 to 15 letters, digits, '-', '_' and '.'", self.bridge)
            } else if !(1..=64).contains(&self.table.len()) || !self.table.bytes().all(name) {
                format!("table {:?} must be 1 to 64 letters, digits, '-', '_' and '.'", self.table)
            } else if !(8..=30).contains(&self.prefix_len) {
                format!("prefix length {} must be from 8 to 30", self.prefix_len)
            } else if [prefix.network(), prefix.broadcast()].contains(&self.gateway) {
                format!("gateway {} is not an address of a host in {prefix}", self.gateway)
            } else {
                return Ok(prefix);
            };
        Err(NetworkError::Config(bad))
    }
}

/// A container's place in the network.
#[derive(Debug)]
pub struct Attached {
    pub netns: OwnedFd,
    pub attachment: NetworkAttachment,
}

/// Cheap to clone. The bridge and the table are made with the first container that needs them.
#[derive(Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

/// Locks are taken in the order of the fields; `state` is never held while the kernel is asked for anything but a port.
pub(crate) struct Inner {
    config: NetworkConfig,
    subnet: Prefix,
    namespaces: Namespaces,
    /// Index of the bridge, once it is known to be complete.
    bridge: Mutex<Option<u32>>,
    links: Mutex<Links>,
    rules: Mutex<Rules>,
    state: Mutex<State>,
    sweep: Sweep,
}

struct State {
    addresses: Addresses,
    ports: Ports,
    attached: HashMap<ContainerId, NetworkAttachment>,
    /// Names of links that the sweep has in hand: not to be given to new ones.
    leaving: HashSet<String>,
}

/// `wanted` with the host ports of `last` where the choice was the agent's.
fn like(wanted: &[PortMapping], last: &[PortMapping]) -> Vec<PortMapping> {
    let same = |a: &PortMapping, b: &PortMapping| {
        (a.host_ip, a.container_port, a.protocol) == (b.host_ip, b.container_port, b.protocol)
    };
    let mut left: Vec<&PortMapping> = last.iter().collect();
    let mut find = |p: &PortMapping| left.iter().position(|l| same(p, l)).map(|at| left.remove(at).host_port);
    let fill = |p: &PortMapping| match p.host_port {
        0 => PortMapping { host_port: find(p).unwrap_or(0), ..p.clone() },
        _ => p.clone(),
    };
    wanted.iter().map(fill).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Networks {
    /// The host is the network namespace of the calling thread. Makes nothing yet.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let subnet = config.check()?;
        let state = State {
            addresses: Addresses::new(subnet),
            ports: Ports::default(),
            attached: HashMap::new(),
            leaving: HashSet::new(),
        };
        let inner = Inner {
            subnet,
            namespaces: Namespaces::open()?,
            bridge: Mutex::new(None),
            links: Mutex::new(Links::open()?),
            rules: Mutex::new(Rules::new(&config.table_name(), &config.bridge, subnet)),
            state: Mutex::new(state),
            sweep: Sweep::default(),
            config,
        };
        Ok(Networks { inner: Arc::new(inner) })
    }

    /// A network namespace with nothing but lo, up: for containers without a network. Gone with the last descriptor and process.
    pub fn loopback_only(&self) -> Result<OwnedFd, NetworkError> {
        Ok(self.inner.namespaces.take()?.fd)
    }

    /// Makes a netns with lo up, a veth to the bridge, address, route, port rules. Undone whole when a step fails.
    pub fn attach(&self, id: &ContainerId, ports: &[PortMapping]) -> Result<Attached, NetworkError> {
        self.attach_again(id, ports, None)
    }

    /// `attach`, with what the container had before as `last`: the same address and the same chosen ports, as far as they are still free.
    pub fn attach_again(
        &self,
        id: &ContainerId,
        ports: &[PortMapping],
        last: Option<&NetworkAttachment>,
    ) -> Result<Attached, NetworkError> {
        let inner = &self.inner;
        let bridge = inner.ready()?;
        let mut namespace = inner.namespaces.take()?;
        let mut attachment = self.reserve(id, ports, last)?;
        let attached = inner
            .make_link(bridge, &mut attachment, id, namespace.fd.as_fd())
            .and_then(|()| namespace.links.address_container(inner.address(&attachment), attachment.gateway))
            .and_then(|()| inner.settle(&attachment))
            .and_then(|()| inner.publish(&attachment));
        if let Err(error) = attached {
            if let Err(undo) = self.detach(id, &attachment) {
                tracing::warn!(%undo, container = id.short(), "undoing an attachment");
            }
            return Err(error);
        }
        for port in attachment.ports.iter().filter(|p| p.protocol == Protocol::Udp) {
            inner.sweep.push(inner, Leftover::UdpFlows { port: port.host_port });
        }
        Ok(Attached { netns: namespace.fd, attachment })
    }

    /// Takes address, ports and a name for the link: what needs no kernel object.
    fn reserve(
        &self,
        id: &ContainerId,
        ports: &[PortMapping],
        last: Option<&NetworkAttachment>,
    ) -> Result<NetworkAttachment, NetworkError> {
        let inner = &self.inner;
        let mut state = inner.lock_state();
        if let Some(old) = state.attached.get(id) {
            return Err(NetworkError::AlreadyAttached(old.address));
        }
        if let Some(last) = last.filter(|l| inner.subnet.contains(l.address)) {
            // The links of an end a moment ago are still on their way out, and the address with them.
            if !state.addresses.is_free(last.address) {
                drop(state);
                inner.sweep.finish();
                state = inner.lock_state();
            }
        }
        let again = last.map(|l| l.address).filter(|a| state.addresses.take_again(*a));
        let taken = again.map_or_else(|| state.addresses.take(), Ok);
        let address = match taken {
            Err(NetworkError::NoAddressLeft(_)) => {
                drop(state);
                inner.sweep.finish();
                state = inner.lock_state();
                state.addresses.take()?
            }
            other => other?,
        };
        let chosen = last.map(|l| like(ports, &l.ports));
        let again = chosen.and_then(|chosen| state.ports.take(id, &chosen).ok());
        let ports = match again.map_or_else(|| state.ports.take(id, ports), Ok) {
            Ok(ports) => ports,
            Err(error) => {
                state.addresses.give_back(address);
                return Err(error);
            }
        };
        let attachment = NetworkAttachment {
            bridge: inner.config.bridge.clone(),
            host_interface: link_names(id).find(|name| !state.leaving.contains(name)).unwrap_or_default(),
            address,
            prefix_len: inner.subnet.len,
            gateway: inner.config.gateway,
            mac: mac_text(mac_of(MAC_CONTAINER, address)),
            ports,
        };
        state.attached.insert(id.clone(), attachment.clone());
        Ok(attachment)
    }

    /// Takes the address, ports and rules back; the veth goes with its namespace (deleted in the background where it still is). Gone already is fine.
    ///
    /// The address is free again when the link is gone.
    pub fn detach(&self, id: &ContainerId, attachment: &NetworkAttachment) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let mut state = inner.lock_state();
        // An attachment of an earlier run of the same container has nothing of the present one's.
        let known = state.attached.get(id).is_some_and(|a| a.host_interface == attachment.host_interface);
        if known {
            state.attached.remove(id);
            state.ports.give_back(id);
        } else if state.attached.values().any(|a| a.host_interface == attachment.host_interface) {
            return Ok(());
        }
        let ours = !attachment.host_interface.is_empty() && state.leaving.insert(attachment.host_interface.clone());
        drop(state);
        if ours {
            let leftover = Leftover::Link {
                name: attachment.host_interface.clone(),
                address: known.then_some(attachment.address),
                forget: known && !attachment.ports.is_empty(),
                due: Instant::now() + GRACE,
            };
            inner.sweep.push(inner, leftover);
        }
        if known { lock(&inner.rules).withdraw(&attachment.ports) } else { Ok(()) }
    }

    /// After a restart of the agent: `live` containers keep their addresses and ports; veths and rules of berth's without an owner are removed,
    /// missing rules are put back.
    ///
    /// May be called later too, with no attach or detach under way, to put back what somebody else took away. Links without an owner are deleted in
    /// the background.
    pub fn recover(&self, live: &[(ContainerId, NetworkAttachment)]) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let mut bridge = lock(&inner.bridge);
        {
            let mut state = inner.lock_state();
            state.addresses = Addresses::new(inner.subnet);
            state.ports.clear();
            state.attached.clear();
            for (id, attachment) in live {
                if !state.addresses.restore(attachment.address) {
                    tracing::warn!(container = id.short(), address = %attachment.address, subnet = %inner.subnet,
                        "a running container's address is outside the subnet or another's");
                }
                state.ports.restore(id, &attachment.ports);
                state.attached.insert(id.clone(), attachment.clone());
            }
        }
        *bridge = None;
        let links = lock(&inner.links).list()?;
        let old = links.iter().find(|l| l.name == inner.config.bridge).map(|l| l.index);
        if live.is_empty() {
            let mut rules = lock(&inner.rules);
            if rules.present()? {
                rules.remove()?;
            }
        } else {
            *bridge = Some(inner.make_ready()?);
        }
        self.restore_links(&links, old, *bridge)
    }

    /// Puts the links of live containers into the bridge where they are not, and sends the others away.
    fn restore_links(&self, links: &[Link], old: Option<u32>, bridge: Option<u32>) -> Result<(), NetworkError> {
        let inner = &self.inner;
        for link in links.iter().filter(|l| is_link_name(&l.name)) {
            let live = inner.lock_state().attached.values().any(|a| a.host_interface == link.name);
            match bridge {
                Some(bridge) if live && link.master != Some(bridge) => {
                    lock(&inner.links).set_master(link, bridge)?;
                    let attachment =
                        inner.lock_state().attached.values().find(|a| a.host_interface == link.name).cloned();
                    if let Some(attachment) = attachment {
                        inner.settle(&attachment)?;
                    }
                }
                // A port of another bridge is another agent's.
                _ if !live && (link.master.is_none() || link.master == old) => self.send_away(&link.name),
                _ => {}
            }
        }
        Ok(())
    }

    /// A link that nobody here has attached.
    fn send_away(&self, name: &str) {
        if self.inner.lock_state().leaving.insert(name.to_owned()) {
            let leftover = Leftover::Link { name: name.into(), address: None, forget: false, due: Instant::now() };
            self.inner.sweep.push(&self.inner, leftover);
        }
    }

    /// Removes bridge and table (uninstall; tests), and every link of the bridge. Waits for it. net.ipv4.ip_forward stays as it is: others may
    /// have come to need it.
    pub fn remove_all(&self) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let mut bridge = lock(&inner.bridge);
        *bridge = None;
        inner.sweep.finish();
        {
            let mut state = inner.lock_state();
            state.addresses = Addresses::new(inner.subnet);
            state.ports.clear();
            state.attached.clear();
        }
        let mut links = lock(&inner.links);
        let all = links.list()?;
        if let Some(found) = all.iter().find(|l| l.name == inner.config.bridge && l.bridge) {
            for link in all.iter().filter(|l| l.master == Some(found.index) && is_link_name(&l.name)) {
                links.delete(link.index, &link.name)?;
            }
            links.delete(found.index, &found.name)?;
        }
        lock(&inner.rules).remove()
    }

    /// Ports of the bridge that no container has and that are not on their way out: names of links. For those who look for leaks.
    pub fn strangers(&self) -> Result<Vec<String>, NetworkError> {
        let inner = &self.inner;
        let links = lock(&inner.links).list()?;
        let Some(bridge) = links.iter().find(|l| l.name == inner.config.bridge && l.bridge) else {
            return Ok(Vec::new());
        };
        let state = inner.lock_state();
        let owned =
            |name: &str| state.leaving.contains(name) || state.attached.values().any(|a| a.host_interface == name);
        let ports = links.iter().filter(|l| l.master == Some(bridge.index) && is_link_name(&l.name));
        Ok(ports.filter(|l| !owned(&l.name)).map(|l| l.name.clone()).collect())
    }

    /// The gateway: what `host-gateway` means.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.config.gateway
    }
}

impl Inner {
    fn lock_state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn address(&self, attachment: &NetworkAttachment) -> Prefix {
        Prefix { address: attachment.address, len: attachment.prefix_len }
    }

    /// Called by the sweep.
    pub(crate) fn link_is_gone(&self, name: &str, address: Option<Ipv4Addr>) {
        let mut state = self.lock_state();
        state.leaving.remove(name);
        // After a `recover` in between it may be somebody's again.
        if let Some(address) = address
            && !state.attached.values().any(|a| a.address == address)
        {
            state.addresses.give_back(address);
        }
    }

    /// The bridge's index, with all that belongs to it in place.
    fn ready(&self) -> Result<u32, NetworkError> {
        let mut bridge = lock(&self.bridge);
        if let Some(index) = *bridge
            && lock(&self.rules).intact()?
        {
            return Ok(index);
        }
        *bridge = None;
        let index = self.make_ready()?;
        *bridge = Some(index);
        Ok(index)
    }

    fn make_ready(&self) -> Result<u32, NetworkError> {
        let index = self.make_bridge()?;
        if host_setting("/proc/sys/net/ipv4/ip_forward", "1")? {
            tracing::info!("net.ipv4.ip_forward is switched on: containers reach other networks through this host");
        }
        host_setting(&format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.config.bridge), "1")?;
        self.rebuild_rules()?;
        Ok(index)
    }

    fn make_bridge(&self) -> Result<u32, NetworkError> {
        let name = &self.config.bridge;
        let mut links = lock(&self.links);
        let all = links.list()?;
        let found = all.iter().find(|l| l.name == *name);
        // 0.0.0.0/0, and the halves and quarters that VPNs use in its place, are no networks that one could collide with.
        let collision = links.routes()?.into_iter().find(|route| {
            route.destination.len >= 8
                && route.destination.overlaps(self.subnet)
                && found.is_none_or(|bridge| bridge.index != route.interface)
        });
        if let Some(route) = collision {
            let interface = all.into_iter().find(|l| l.index == route.interface).map_or_else(String::new, |l| l.name);
            let (subnet, bridge) = (self.subnet, name.clone());
            return Err(NetworkError::SubnetInUse { subnet, bridge, route: route.destination, interface });
        }
        match found {
            None => links.make_bridge(name, mac_of(MAC_BRIDGE, self.config.gateway), self.subnet),
            Some(link) if !link.bridge => Err(NetworkError::NotABridge(name.clone())),
            Some(link) => links.complete_bridge(link, self.subnet).map(|()| link.index),
        }
    }

    /// Of all containers that are attached now. The list is made under the lock of the rules: whoever leaves meanwhile withdraws afterwards.
    fn rebuild_rules(&self) -> Result<(), NetworkError> {
        let mut rules = lock(&self.rules);
        let attached: Vec<NetworkAttachment> = self.lock_state().attached.values().cloned().collect();
        let published: Vec<_> = attached.iter().flat_map(published).collect();
        rules.rebuild(&published)
    }

    /// Makes the veth. A name that is still in use, by the link of this container's last run, is passed over.
    fn make_link(
        &self,
        bridge: u32,
        attachment: &mut NetworkAttachment,
        id: &ContainerId,
        namespace: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), NetworkError> {
        let first = attachment.host_interface.clone();
        let mut bridge = bridge;
        let mut rebuilt = false;
        let mut names = link_names(id).skip_while(|name| *name != first);
        let mut name = names.next();
        while let Some(host_name) = name.take() {
            let veth = Veth {
                host_name: &host_name,
                host_mac: mac_of(MAC_PORT, attachment.address),
                bridge,
                namespace,
                container_mac: mac_of(MAC_CONTAINER, attachment.address),
            };
            let made = lock(&self.links).make_veth(&veth);
            match made {
                Ok(()) => {
                    attachment.host_interface = host_name;
                    let mut state = self.lock_state();
                    state.attached.insert(id.clone(), attachment.clone());
                    return Ok(());
                }
                Err(failure) if failure.errno() == EEXIST => {
                    let state = self.lock_state();
                    name = names.find(|name| !state.leaving.contains(name));
                }
                Err(failure) if matches!(failure.errno(), ENODEV | EINVAL) && !rebuilt => {
                    // Somebody has deleted the bridge.
                    rebuilt = true;
                    *lock(&self.bridge) = None;
                    bridge = self.ready()?;
                    name = Some(host_name);
                }
                Err(failure) => {
                    let act = format!("making veth {host_name} on bridge {}", self.config.bridge);
                    return Err(NetworkError::Netlink { act, source: failure.into_io() });
                }
            }
        }
        let act = format!("making veth {first}: all of its names are taken");
        Err(NetworkError::Netlink { act, source: std::io::ErrorKind::AlreadyExists.into() })
    }

    /// With br_netfilter, the bridge itself sends a container's packet to its own published port on, and would not send it back where it came from.
    fn settle(&self, attachment: &NetworkAttachment) -> Result<(), NetworkError> {
        let filtered =
            || std::fs::read("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|v| v.starts_with(b"1"));
        let hairpin = !attachment.ports.is_empty() && filtered();
        lock(&self.links).settle(&attachment.host_interface, &self.config.bridge, hairpin)
    }

    fn publish(&self, attachment: &NetworkAttachment) -> Result<(), NetworkError> {
        let published: Vec<_> = published(attachment).collect();
        lock(&self.rules).publish(&published)
    }
}

fn published(attachment: &NetworkAttachment) -> impl Iterator<Item = Published<'_>> {
    attachment.ports.iter().map(|mapping| Published { mapping, to: attachment.address })
}

/// The names that a container's link may have: the plain one first, then with a letter.
fn link_names(id: &ContainerId) -> impl Iterator<Item = String> {
    let plain = format!("{LINK_PREFIX}{}", &id.as_str()[..LINK_DIGITS]);
    let lettered = plain.clone();
    std::iter::once(plain).chain(('g'..='z').map(move |letter| format!("{lettered}{letter}")))
}

fn is_link_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(LINK_PREFIX) else { return false };
    let (digits, letter) = rest.split_at_checked(LINK_DIGITS).unwrap_or_default();
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    digits.len() == LINK_DIGITS && digits.bytes().all(hex) && matches!(letter.as_bytes(), [] | [b'g'..=b'z'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_recognised() {
        let id = ContainerId::from_bytes([0xab; 32]);
        let names: Vec<_> = link_names(&id).collect();
        assert_eq!(names[..2], ["bthababababab", "bthabababababg"]);
        assert!(names.iter().all(|n| is_link_name(n) && n.len() <= 15));
        for other in ["bth", "bthab", "berth0", "bthabababababa", "bthabababababgg", "bthABABABABAB", "xthababababab"] {
            assert!(!is_link_name(other), "{other}");
        }
    }

    #[test]
    fn configurations_are_checked() {
        let good = NetworkConfig {
            bridge: "berth0".into(),
            gateway: Ipv4Addr::new(172, 31, 240, 1),
            prefix_len: 20,
            table: "berth".into(),
        };
        assert!(good.check().is_ok());
        assert_eq!(good.table_name(), "berth");
        assert_eq!(NetworkConfig { bridge: "br7".into(), ..good.clone() }.table_name(), "berth-br7");
        let bad = [
            NetworkConfig { bridge: "a/b".into(), ..good.clone() },
            NetworkConfig { bridge: "sixteen-letters-".into(), ..good.clone() },
            NetworkConfig { prefix_len: 31, ..good.clone() },
            NetworkConfig { gateway: Ipv4Addr::new(172, 31, 240, 0), ..good.clone() },
            NetworkConfig { table: String::new(), ..good },
        ];
        for config in bad {
            assert!(config.check().is_err(), "{config:?}");
        }
    }
}
