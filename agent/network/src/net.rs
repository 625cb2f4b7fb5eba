//! One network: its bridge, its addresses' bounds and its rules.

use crate::elements::Published;
use crate::error::{NetworkError, Prefix, Prefix6};
use crate::link::{Link, Links};
use crate::mac::{MAC_BRIDGE, mac_of};
use crate::namespace::host_setting;
use crate::networks::{Inner, lock};
use crate::nft;
use crate::rules::NetRules;
use berth_model::network::{
    DEFAULT_NETWORK, Ipv6Mode, NetworkAttachment, NetworkDriver, NetworkRecord, SPOOFING, SPOOFING_ALLOWED,
};
use berth_model::publish::PublishPolicy;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the default bridge: berth0.
    pub bridge: String,
    /// Gateway address and prefix length: 172.31.240.1/20 or what the configuration says.
    pub gateway: Ipv4Addr,
    pub prefix_len: u8,
    /// Name of the nftables tables (families ip and ip6): berth. Behind it stands the bridge's name, unless that is this name and a 0: `berth` for berth0,
    /// `berth-br7` for br7. Two agents on one host, each with a bridge of its own, then leave each other's rules alone.
    pub table: String,
    /// Where ports may be published.
    pub publish: PublishPolicy,
}

impl NetworkConfig {
    /// The whole name of both tables.
    pub fn table_name(&self) -> String {
        let NetworkConfig { table, bridge, .. } = self;
        if bridge.strip_suffix('0') == Some(table) { table.clone() } else { format!("{table}-{bridge}") }
    }

    /// What stands on bridges that plugins have made for this agent, as their alias.
    pub(crate) fn mark(&self) -> String {
        format!("made by CNI plugins for the agent of {}", self.bridge)
    }

    pub(crate) fn check(&self) -> Result<Prefix, NetworkError> {
        let prefix = Prefix { address: self.gateway, len: self.prefix_len };
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let bad = if !is_interface_name(&self.bridge) {
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

/// 1 to 15 letters, digits, '-', '_' and '.', not `.` or `..`.
pub fn is_interface_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=15).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
}

/// What a network is made of, as far as the kernel is concerned.
#[derive(Clone, Debug)]
pub(crate) struct NetPlan {
    pub name: String,
    pub macvlan: Option<Macvlan>,
    /// The bridge; of a macvlan, the interface of the host that it sits on.
    pub bridge: String,
    /// Gateway and prefix length.
    pub v4: Prefix,
    pub range4: Option<Prefix>,
    pub v6: Option<Prefix6>,
    pub range6: Option<Prefix6>,
    /// Addresses of others, which no container gets.
    pub auxiliary: Vec<IpAddr>,
    pub ipv6_mode: Ipv6Mode,
    pub internal: bool,
    pub mtu: Option<u32>,
    /// Its containers send with their own addresses only.
    pub guarded: bool,
}

/// MACVLAN_MODE of linux/if_link.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Macvlan {
    pub mode: u32,
}

impl NetPlan {
    pub fn default_network(config: &NetworkConfig) -> Result<NetPlan, NetworkError> {
        Ok(NetPlan {
            name: DEFAULT_NETWORK.to_owned(),
            macvlan: None,
            bridge: config.bridge.clone(),
            v4: config.check()?,
            range4: None,
            v6: None,
            range6: None,
            auxiliary: Vec::new(),
            ipv6_mode: Ipv6Mode::Nat,
            internal: false,
            mtu: None,
            guarded: true,
        })
    }

    /// `None`: nothing that containers have an interface on.
    pub fn of(record: &NetworkRecord) -> Option<NetPlan> {
        let v4 = record.ipv4?;
        let macvlan = match record.driver {
            NetworkDriver::Bridge => None,
            NetworkDriver::Macvlan => Some(Macvlan { mode: macvlan_mode(record) }),
            NetworkDriver::Host | NetworkDriver::Null | NetworkDriver::Cni => return None,
        };
        Some(NetPlan {
            name: record.name.clone(),
            macvlan,
            bridge: record.bridge.clone(),
            v4: Prefix { address: v4.gateway, len: v4.prefix_len },
            range4: v4.range.map(|(address, len)| Prefix { address, len }),
            v6: record.ipv6.map(|s| Prefix6 { address: s.gateway, len: s.prefix_len }),
            range6: record.ipv6.and_then(|s| s.range).map(|(address, len)| Prefix6 { address, len }),
            auxiliary: record.auxiliary.values().copied().collect(),
            ipv6_mode: record.ipv6_mode,
            internal: record.internal,
            mtu: record.mtu,
            guarded: record.options.get(SPOOFING).is_none_or(|v| v != SPOOFING_ALLOWED),
        })
    }
}

impl NetPlan {
    /// Whether this is the bridge that was made for the network, by its MAC: one of the same name may be somebody else's, who wants to keep it.
    /// The default network's gateway is configuration and may have been another when the bridge was made.
    pub fn made(&self, link: &Link) -> bool {
        let ours = mac_of(MAC_BRIDGE, self.v4.address);
        let same = |mac: [u8; 6]| mac == ours || (self.name == DEFAULT_NETWORK && mac[..2] == ours[..2]);
        self.macvlan.is_none() && link.bridge && link.name == self.bridge && link.mac.is_some_and(same)
    }
}

/// linux/if_link.h: MACVLAN_MODE_*.
fn macvlan_mode(record: &NetworkRecord) -> u32 {
    match record.options.get("macvlan_mode").map(String::as_str) {
        Some("private") => 1,
        Some("vepa") => 2,
        _ => 4,
    }
}

/// Locks are taken in the order of the fields, behind those of [`Inner`].
pub(crate) struct Net {
    pub plan: NetPlan,
    /// Index of the bridge, once it is known to be complete.
    pub ready: Mutex<Option<u32>>,
}

impl Net {
    pub fn new(plan: NetPlan) -> Net {
        Net { ready: Mutex::new(None), plan }
    }

    /// The bridge's index, with all that belongs to it in place.
    pub fn ready(&self, inner: &Inner) -> Result<u32, NetworkError> {
        let mut ready = lock(&self.ready);
        if let Some(index) = *ready
            && (self.plan.macvlan.is_some() || lock(&inner.rules).intact(&self.plan.bridge)?)
        {
            return Ok(index);
        }
        *ready = None;
        let index = self.make_ready(inner)?;
        *ready = Some(index);
        Ok(index)
    }

    pub fn make_ready(&self, inner: &Inner) -> Result<u32, NetworkError> {
        let bridge = &self.plan.bridge;
        if self.plan.macvlan.is_some() {
            let found = lock(&inner.links).find(bridge)?;
            return found.map(|link| link.index).ok_or_else(|| NetworkError::Netlink {
                act: format!("looking for {bridge}, which network {} sits on", self.plan.name),
                source: std::io::ErrorKind::NotFound.into(),
            });
        }
        let index = self.make_bridge(inner)?;
        if !self.plan.internal && host_setting("/proc/sys/net/ipv4/ip_forward", "1")? {
            tracing::info!("net.ipv4.ip_forward is switched on: containers reach other networks through this host");
        }
        host_setting(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
        if let Some(v6) = self.plan.v6 {
            crate::host::bridge_with_ipv6(bridge, !self.plan.internal)?;
            lock(&inner.links).address_bridge6(index, bridge, v6)?;
        }
        if self.plan.guarded {
            lock(&inner.links).distrust_groups(index, bridge)?;
        }
        if let Some(mtu) = self.plan.mtu {
            lock(&inner.links).set_mtu(index, bridge, mtu)?;
        }
        self.rebuild_rules(inner)?;
        Ok(index)
    }

    fn make_bridge(&self, inner: &Inner) -> Result<u32, NetworkError> {
        let NetPlan { bridge: name, v4, .. } = &self.plan;
        let mut links = lock(&inner.links);
        let all = links.list()?;
        let found = all.iter().find(|l| l.name == *name);
        if let Some((route, interface)) = collision(&mut links, &all, *v4, found.map(|l| l.index))? {
            return Err(NetworkError::SubnetInUse { subnet: *v4, bridge: name.clone(), route, interface });
        }
        match found {
            None => links.make_bridge(name, mac_of(MAC_BRIDGE, v4.address), *v4),
            Some(link) if !link.bridge => Err(NetworkError::NotABridge(name.clone())),
            Some(link) if !self.plan.made(link) => Err(NetworkError::ForeignBridge(name.clone())),
            Some(link) => links.complete_bridge(link, *v4).map(|()| link.index),
        }
    }

    fn rebuild_rules(&self, inner: &Inner) -> Result<(), NetworkError> {
        let mut rules = lock(&inner.rules);
        if rules.intact(&self.plan.bridge)? {
            return Ok(());
        }
        rules.put_network(self.rules());
        inner.rebuild(&mut rules)
    }

    /// What the rules have to know of it.
    pub fn rules(&self) -> NetRules {
        let NetPlan { bridge, v4, v6, ipv6_mode, internal, guarded, .. } = &self.plan;
        NetRules {
            bridge: bridge.clone(),
            v4: Some(nft::Net { address: v4.address.into(), len: v4.len }),
            v6: v6.map(|v6| nft::Net { address: v6.address.into(), len: v6.len }),
            internal: *internal,
            masquerade4: true,
            masquerade6: *ipv6_mode == Ipv6Mode::Nat,
            guarded: *guarded,
        }
    }

    /// With br_netfilter, the bridge itself sends a container's packet to its own published port on, and would not send it back where it came from.
    pub fn settle(&self, inner: &Inner, attachment: &NetworkAttachment) -> Result<(), NetworkError> {
        if self.plan.macvlan.is_some() {
            return Ok(());
        }
        let filtered =
            || std::fs::read("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|v| v.starts_with(b"1"));
        let hairpin = !attachment.ports.is_empty() && filtered();
        lock(&inner.links).settle(&attachment.host_interface, &self.plan.bridge, hairpin)
    }
}

/// A route of the host, but by `own`, that one of the subnet's addresses would take.
pub(crate) fn collision(
    links: &mut Links,
    all: &[Link],
    subnet: Prefix,
    own: Option<u32>,
) -> Result<Option<(Prefix, String)>, NetworkError> {
    // 0.0.0.0/0, and the halves and quarters that VPNs use in its place, are no networks that one could collide with.
    let found = links.routes()?.into_iter().find(|route| {
        route.destination.len >= 8 && route.destination.overlaps(subnet) && own.is_none_or(|i| i != route.interface)
    });
    Ok(found.map(|route| {
        let interface = all.iter().find(|l| l.index == route.interface).map_or_else(String::new, |l| l.name.clone());
        (route.destination, interface)
    }))
}

/// What leads to it. Nothing does to a macvlan, which has no end on the host: records of earlier agents may say so.
pub(crate) fn published(attachment: &NetworkAttachment) -> impl Iterator<Item = Published<'_>> {
    let to6 = attachment.ipv6.as_ref().map(|six| six.address);
    let reached = !attachment.host_interface.is_empty() && !attachment.is_cni();
    attachment.ports.iter().filter(move |_| reached).map(move |mapping| Published {
        mapping,
        to: attachment.address,
        to6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_checked() {
        let good = NetworkConfig {
            bridge: "berth0".into(),
            gateway: Ipv4Addr::new(172, 31, 240, 1),
            prefix_len: 20,
            table: "berth".into(),
            publish: PublishPolicy::default(),
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
