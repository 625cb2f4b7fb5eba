//! Published ports as elements of the tables' maps.

use crate::nft::{Batch, Family, Key, MapShape};
use berth_model::network::PortMapping;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The maps: on every address or on one, single ports or long ranges.
pub const MAPS: [(&str, MapShape); 4] = [
    ("address_ports", MapShape { with_address: true, ranges: false }),
    ("ports", MapShape { with_address: false, ranges: false }),
    ("address_ranges", MapShape { with_address: true, ranges: true }),
    ("ranges", MapShape { with_address: false, ranges: true }),
];
pub use berth_model::network::SINGLE_PORTS;
/// The longest range that leads to other numbers, as each of its ports is an element then.
pub const SHIFTED_PORTS: u16 = 1024;

/// A published port and where it leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published<'a> {
    pub mapping: &'a PortMapping,
    pub to: Ipv4Addr,
    pub to6: Option<Ipv6Addr>,
}

/// One element.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    family: Family,
    map: &'static str,
    key: Key,
    to: IpAddr,
    /// `None`: the same as the host's.
    port: Option<u16>,
}

impl Entry {
    pub fn add(&self, batch: &mut Batch<'_>) {
        batch.family(self.family).add_port(self.map, self.key, self.to, self.port);
    }

    pub fn delete(&self, batch: &mut Batch<'_>) {
        batch.family(self.family).delete_port(self.map, self.key);
    }
}

/// The elements of a published port: for each address of a family that both sides have.
pub fn entries(port: &Published<'_>) -> Vec<Entry> {
    let mapping = port.mapping;
    let protocol = mapping.protocol.number();
    let whole = mapping.count > SINGLE_PORTS && mapping.host_port == mapping.container_port;
    let targets = [Some(IpAddr::V4(port.to)), port.to6.map(IpAddr::V6)];
    let mut entries = Vec::new();
    for address in mapping.addresses().iter() {
        let Some(to) = targets.into_iter().flatten().find(|to| to.is_ipv4() == address.is_ipv4()) else { continue };
        let address = Some(address).filter(|a| !a.is_unspecified());
        let shape = MapShape { with_address: address.is_some(), ranges: whole };
        let Some((map, _)) = MAPS.iter().find(|(_, s)| *s == shape) else { continue };
        let steps = if whole { 1 } else { mapping.count };
        entries.extend((0..steps).map(|n| Entry {
            family: Family::of(to),
            map,
            key: Key {
                address,
                protocol,
                port: mapping.host_port.saturating_add(n),
                more: if whole { mapping.count - 1 } else { 0 },
            },
            to,
            port: (!whole).then(|| mapping.container_port.saturating_add(n)),
        }));
    }
    entries
}

/// The elements that lead a packet to one port of the host, as the nft tool shows them.
pub fn elements(table: &str, port: &Published<'_>, number: u16) -> Vec<String> {
    let leads = |e: &&Entry| (e.key.port..=e.key.port.saturating_add(e.key.more)).contains(&number);
    let shown = |e: &Entry| {
        let family = if e.family == Family::V4 { "ip" } else { "ip6" };
        let address = e.key.address.map_or(String::new(), |a| format!("{a} . "));
        let protocol = port.mapping.protocol.name();
        let last = if e.key.more > 0 { format!("-{}", e.key.port.saturating_add(e.key.more)) } else { String::new() };
        let to = e.port.map_or(e.to.to_string(), |p| format!("{} . {p}", e.to));
        format!("{family} {table} {}: {address}{protocol} . {}{last} : {to}", e.map, e.key.port)
    };
    entries(port).iter().filter(leads).map(shown).collect()
}
