//! Subnets of networks that are to be made: one code for both families, which counts in 128 bits.

use super::decode::{Fields, MAX_NAME};
use berth::v1;
use berth_model::network::{NetworkRecord, Subnet4, Subnet6};
use berth_node::NetworkRequest;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Auxiliary addresses of one subnet.
const MAX_AUXILIARY: usize = 64;

/// Addresses of one family with the same first `len` bits.
#[derive(Clone, Copy)]
struct Block {
    v6: bool,
    first: u128,
    len: u8,
}

/// What no container can have, and what it is.
const SPECIAL: [(Block, &str); 10] = [
    (block4([0, 0, 0, 0], 8), "no addresses of hosts"),
    (block4([127, 0, 0, 0], 8), "each host's own loopback"),
    (block4([169, 254, 0, 0], 16), "link-local addresses, each link's own"),
    (block4([224, 0, 0, 0], 4), "addresses of groups (multicast)"),
    (block4([240, 0, 0, 0], 4), "reserved"),
    (block6(Ipv6Addr::UNSPECIFIED, 128), "no address of a host"),
    (block6(Ipv6Addr::LOCALHOST, 128), "each host's own loopback"),
    (block6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), "IPv4 addresses in the clothes of IPv6"),
    (block6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link-local addresses, each link's own"),
    (block6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), "addresses of groups (multicast)"),
];

const fn block4(octets: [u8; 4], len: u8) -> Block {
    Block { v6: false, first: u32::from_be_bytes(octets) as u128, len }
}

const fn block6(address: Ipv6Addr, len: u8) -> Block {
    Block { v6: true, first: address.to_bits(), len }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl Block {
    /// `None`: not of the form `ADDRESS/LENGTH`. The address may be any of its addresses.
    fn parse(text: &str) -> Option<(IpAddr, Block)> {
        let (address, len) = text.split_once('/')?;
        let (address, len) = (address.parse::<IpAddr>().ok()?, len.parse::<u8>().ok()?);
        let v6 = address.is_ipv6();
        let block = Block { v6, first: 0, len };
        (len <= block.width()).then(|| (address, Block { first: bits(address) & !block.rest(), ..block }))
    }

    const fn width(&self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    /// The bits in which its addresses differ.
    fn rest(&self) -> u128 {
        1_u128.checked_shl(u32::from(self.width() - self.len)).map_or(u128::MAX, |size| size - 1)
    }

    fn last(&self) -> u128 {
        self.first | self.rest()
    }

    fn holds(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.v6 && (self.first..=self.last()).contains(&bits(address))
    }

    fn overlaps(&self, other: &Block) -> bool {
        self.v6 == other.v6 && self.first <= other.last() && other.first <= self.last()
    }

    fn address(&self, bits: u128) -> IpAddr {
        // A block of IPv4 has numbers of 32 bits.
        if self.v6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits(bits as u32).into() }
    }

    /// First and last address of a host. IPv6 has no broadcast address.
    fn hosts(&self) -> (u128, u128) {
        (self.first + 1, if self.v6 { self.last() } else { self.last() - 1 })
    }

    /// Why the address is none of a host in it.
    fn refuses(&self, address: IpAddr) -> Option<String> {
        let what = match bits(address) {
            _ if !self.holds(address) => return Some(format!("{address} is not in {self}")),
            b if b == self.first => "own address of the network",
            b if b > self.hosts().1 => "broadcast address",
            _ => return None,
        };
        Some(format!("{address} is the {what} of {self}"))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(self.first), self.len)
    }
}

/// Puts a subnet into the request, or says what is wrong with it.
pub fn decode_subnet(f: &mut Fields, at: &str, subnet: &v1::NetworkSubnet, wanted: &mut NetworkRequest) {
    let Some((address, block)) = Block::parse(&subnet.subnet) else {
        return f
            .wrong(format!("{at}.subnet"), "must be an address with a prefix length, as 10.7.0.0/24 or fd00:7::/64");
    };
    let there = if block.v6 { wanted.ipv6.is_some() } else { wanted.ipv4.is_some() };
    let family = if block.v6 { "IPv6" } else { "IPv4" };
    if there {
        f.wrong(format!("{at}.subnet"), format!("{block} is a second one of {family}; a network has one"));
    }
    if let Some(why) = unusable(address, block) {
        return f.wrong(format!("{at}.subnet"), why);
    }
    let Some(gateway) = decode_gateway(f, at, &subnet.gateway, block) else { return };
    let Some(range) = decode_range(f, at, &subnet.ip_range, block, gateway) else { return };
    decode_auxiliary(f, at, &subnet.auxiliary_addresses, block, gateway, &mut wanted.auxiliary);
    if !leaves_some(range.unwrap_or(block), block, gateway, &wanted.auxiliary) {
        f.wrong(format!("{at}.auxiliary_addresses"), format!("leave no address of {block} for a container"));
    }
    let range = range.map(|r| (r.address(r.first), r.len));
    match (block.address(block.first), gateway) {
        (IpAddr::V4(subnet), IpAddr::V4(gateway)) => {
            let range = range.and_then(|(a, len)| Some((four(a)?, len)));
            wanted.ipv4 = Some(Subnet4 { subnet, prefix_len: block.len, gateway, range });
        }
        (IpAddr::V6(subnet), IpAddr::V6(gateway)) => {
            let range = range.and_then(|(a, len)| Some((six(a)?, len)));
            wanted.ipv6 = Some(Subnet6 { subnet, prefix_len: block.len, gateway, range });
        }
        _ => {}
    }
}

fn four(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(a) = address { Some(a) } else { None }
}

fn six(address: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(a) = address { Some(a) } else { None }
}

/// Why containers cannot have a subnet that was written with this address.
fn unusable(address: IpAddr, block: Block) -> Option<String> {
    let longest = if block.v6 { 126 } else { 30 };
    if !(8..=longest).contains(&block.len) {
        return Some(format!("{block} has a prefix length of {}; it must be 8 to {longest}", block.len));
    }
    if let Some((special, what)) = SPECIAL.iter().find(|(special, _)| special.overlaps(&block)) {
        return Some(format!(
            "{block} cannot be a network of containers: {special} is {what}; take a private one, such as {}",
            if block.v6 { "fd00:7::/64" } else { "10.7.0.0/24" }
        ));
    }
    let own = bits(address) == block.first;
    (!own).then(|| format!("{address}/{} is an address in a network: write the network, {block}", block.len))
}

/// The host's address; without one the first. `None`: it is wrong.
fn decode_gateway(f: &mut Fields, at: &str, text: &str, block: Block) -> Option<IpAddr> {
    if text.is_empty() {
        return Some(block.address(block.first + 1));
    }
    let field = format!("{at}.gateway");
    let Ok(gateway) = text.parse::<IpAddr>() else {
        let shown: String = text.chars().take(64).collect();
        f.wrong(field, format!("{shown:?} must be an address in {block}"));
        return None;
    };
    match block.refuses(gateway) {
        Some(why) => f.wrong(field, format!("{why}; it must be an address of a host there")),
        None => return Some(gateway),
    }
    None
}

/// What addresses are chosen from. `None`: it is wrong.
fn decode_range(f: &mut Fields, at: &str, text: &str, block: Block, gateway: IpAddr) -> Option<Option<Block>> {
    if text.is_empty() {
        return Some(None);
    }
    let field = format!("{at}.ip_range");
    let Some((_, range)) = Block::parse(text) else {
        f.wrong(field, format!("must be an address with a prefix length, a part of {block}"));
        return None;
    };
    if range.len < block.len || !block.overlaps(&range) {
        f.wrong(field, format!("{range} is not a part of {block}"));
        return None;
    }
    if !leaves_some(range, block, gateway, &BTreeMap::new()) {
        f.wrong(field, format!("{range} leaves no address of {block} for a container"));
        return None;
    }
    Some(Some(range))
}

/// Whether a part of a subnet has an address that a container may get.
fn leaves_some(part: Block, block: Block, gateway: IpAddr, auxiliary: &BTreeMap<String, IpAddr>) -> bool {
    let (first, last) = (part.first.max(block.hosts().0), part.last().min(block.hosts().1));
    let kept = auxiliary.values().chain([&gateway]);
    let kept = kept.filter(|a| block.holds(**a) && (first..=last).contains(&bits(**a))).count() as u128;
    first <= last && last - first + 1 > kept
}

/// Addresses of others in a subnet.
fn decode_auxiliary(
    f: &mut Fields,
    at: &str,
    asked: &HashMap<String, String>,
    block: Block,
    gateway: IpAddr,
    wanted: &mut BTreeMap<String, IpAddr>,
) {
    let list = format!("{at}.auxiliary_addresses");
    f.count(&list, asked.len(), MAX_AUXILIARY);
    // In one order, so that the same request is refused in the same words.
    for (name, text) in asked.iter().collect::<BTreeMap<_, _>>() {
        let shown: String = name.chars().take(64).collect();
        let field = format!("{list}[{shown:?}]");
        f.check(!name.is_empty(), &field, "must have a name");
        if !f.line(&field, name, MAX_NAME) {
            continue;
        }
        let Ok(address) = text.parse::<IpAddr>() else {
            let shown: String = text.chars().take(64).collect();
            f.wrong(field, format!("{shown:?} must be an address in {block}"));
            continue;
        };
        let twin = wanted.iter().find(|(_, a)| **a == address).map(|(other, _)| other);
        if let Some(why) = block.refuses(address) {
            f.wrong(field, format!("{why}; it must be an address of a host there"));
        } else if address == gateway {
            f.wrong(field, format!("{address} is the gateway of {block}, which no container gets anyway"));
        } else if let Some(other) = twin {
            f.wrong(field, format!("{address} is kept for {other:?} already"));
        } else if wanted.contains_key(name) {
            f.wrong(field, "the name is there twice; each address has one of its own");
        } else {
            wanted.insert(name.clone(), address);
        }
    }
}

/// The subnets of a network, IPv4 first.
pub fn encode(n: &NetworkRecord) -> Vec<v1::NetworkSubnet> {
    let auxiliary = |v6: bool| {
        let of_family = n.auxiliary.iter().filter(move |(_, a)| a.is_ipv6() == v6);
        of_family.map(|(name, a)| (name.clone(), a.to_string())).collect()
    };
    let four = n.ipv4.map(|s| v1::NetworkSubnet {
        subnet: s.to_string(),
        gateway: s.gateway.to_string(),
        ip_range: s.range.map(|(a, l)| format!("{a}/{l}")).unwrap_or_default(),
        auxiliary_addresses: auxiliary(false),
    });
    let six = n.ipv6.map(|s| v1::NetworkSubnet {
        subnet: s.to_string(),
        gateway: s.gateway.to_string(),
        ip_range: s.range.map(|(a, l)| format!("{a}/{l}")).unwrap_or_default(),
        auxiliary_addresses: auxiliary(true),
    });
    four.into_iter().chain(six).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_network::{Prefix, Prefix6};

    #[test]
    fn subnets_that_are_taken_have_room_for_their_gateway_and_a_container() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        // xorshift64: the same sequence in every run.
        let mut next = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut taken = 0;
        for _ in 0..50_000 {
            let (len, six) = (next(36) as u8, next(2) == 0);
            let base = u128::from(next(1 << 16)) << 64;
            let mut address = |spread: u32, len: u8| match six {
                true => {
                    let bits = (0xfd00 << 112) | base | u128::from(next(1 << spread));
                    format!("{}/{}", Ipv6Addr::from_bits(bits), len.saturating_add(92))
                }
                false => {
                    let bits = (10 << 24) | (((base >> 64) as u32) << 8) | next(1 << spread) as u32;
                    format!("{}/{len}", Ipv4Addr::from_bits(bits))
                }
            };
            let subnet = if len % 2 == 0 { address(1, len) } else { address(6, len) };
            let gateway = address(4, 0).split('/').next().unwrap_or_default().to_owned();
            let gateway = if len % 3 == 0 { String::new() } else { gateway };
            let ip_range = if len % 5 == 0 { String::new() } else { address(5, len.saturating_add(3)) };
            let asked = v1::NetworkSubnet { subnet, gateway, ip_range, ..Default::default() };
            let (mut f, mut wanted) = (Fields::default(), NetworkRequest::default());
            decode_subnet(&mut f, "subnets[0]", &asked, &mut wanted);
            if !f.errors().is_empty() {
                continue;
            }
            taken += 1;
            if let Some(v4) = wanted.ipv4 {
                let prefix = Prefix { address: v4.subnet, len: v4.prefix_len };
                assert!(
                    prefix.contains(v4.gateway) && ![prefix.network(), prefix.broadcast()].contains(&v4.gateway),
                    "{asked:?}"
                );
                assert!(
                    v4.range.is_none_or(|(a, l)| prefix.contains(a) && (v4.prefix_len..=32).contains(&l)),
                    "{asked:?}"
                );
                assert!(v4.range.is_none_or(|(a, l)| l < 32 || a != v4.gateway), "{asked:?}");
                assert!(asked.subnet == v4.to_string(), "{asked:?} {v4}");
            } else {
                let v6 = wanted.ipv6.expect("one of both");
                let prefix = Prefix6 { address: v6.subnet, len: v6.prefix_len };
                assert!(prefix.contains(v6.gateway) && v6.gateway != prefix.network(), "{asked:?}");
                assert!(
                    v6.range.is_none_or(|(a, l)| prefix.contains(a) && (v6.prefix_len..=128).contains(&l)),
                    "{asked:?}"
                );
                assert!(asked.subnet == v6.to_string(), "{asked:?} {v6}");
            }
        }
        assert!(taken > 500, "{taken}");
    }

    fn said(subnet: &str, gateway: &str, ip_range: &str) -> Vec<(String, String)> {
        with(subnet, gateway, ip_range, &[]).0
    }

    fn with(
        subnet: &str,
        gateway: &str,
        ip_range: &str,
        auxiliary: &[(&str, &str)],
    ) -> (Vec<(String, String)>, NetworkRequest) {
        let asked = v1::NetworkSubnet {
            subnet: subnet.into(),
            gateway: gateway.into(),
            ip_range: ip_range.into(),
            auxiliary_addresses: auxiliary.iter().map(|(n, a)| ((*n).into(), (*a).into())).collect(),
        };
        let (mut f, mut wanted) = (Fields::default(), NetworkRequest::default());
        decode_subnet(&mut f, "subnets[0]", &asked, &mut wanted);
        (f.errors().to_vec(), wanted)
    }

    #[test]
    fn addresses_of_others_are_in_the_subnet_and_named_once() {
        let (said, wanted) = with("10.7.0.0/24", "", "10.7.0.8/30", &[("dns", "10.7.0.9"), ("router", "10.7.0.254")]);
        assert_eq!(said, []);
        assert_eq!(wanted.auxiliary["router"], "10.7.0.254".parse::<IpAddr>().expect("address"));
        for (address, why) in [
            ("10.8.0.5", "10.8.0.5 is not in 10.7.0.0/24"),
            ("fd00::5", "fd00::5 is not in"),
            ("10.7.0.0", "own address of the network"),
            ("10.7.0.255", "broadcast address"),
            ("10.7.0.1", "is the gateway"),
            ("10.7.0.x", "must be an address in 10.7.0.0/24"),
        ] {
            let (said, _) = with("10.7.0.0/24", "", "", &[("router", address)]);
            let there = said.len() == 1 && said[0].0 == "subnets[0].auxiliary_addresses[\"router\"]";
            assert!(there && said[0].1.contains(why), "{address}: {said:?}");
        }
        let (said, _) = with("10.7.0.0/24", "", "", &[("a", "10.7.0.5"), ("b", "10.7.0.5")]);
        assert!(said.len() == 1 && said[0].0.ends_with("[\"b\"]") && said[0].1.contains("kept for \"a\""), "{said:?}");
        let (said, _) = with("10.7.0.0/30", "", "", &[("a", "10.7.0.2")]);
        assert!(said.len() == 1 && said[0].1.contains("leave no address"), "{said:?}");
        let (said, _) = with("10.7.0.0/24", "", "10.7.0.8/32", &[("a", "10.7.0.8")]);
        assert!(said.len() == 1 && said[0].1.contains("leave no address"), "{said:?}");
        let many: Vec<_> = (2..70).map(|n| (format!("n{n}"), format!("10.7.0.{n}"))).collect();
        let many: Vec<_> = many.iter().map(|(n, a)| (n.as_str(), a.as_str())).collect();
        let (said, _) = with("10.7.0.0/24", "", "", &many);
        assert!(said.len() == 1 && said[0].1.contains("at most 64"), "{said:?}");
    }

    #[test]
    fn what_no_container_can_have_is_named() {
        for (subnet, why) in [
            ("127.0.0.0/8", "loopback"),
            ("127.3.0.0/16", "127.0.0.0/8 is each host's own loopback"),
            ("169.254.1.0/24", "link-local"),
            // A part of it is enough.
            ("169.0.0.0/8", "169.254.0.0/16 is link-local"),
            ("224.0.0.0/24", "multicast"),
            ("240.0.0.0/8", "reserved"),
            ("0.0.0.0/8", "0.0.0.0/8 is no addresses of hosts"),
            ("0.0.0.0/0", "8 to 30"),
            ("10.0.0.0/31", "8 to 30"),
            ("10.7.0.1/24", "write the network, 10.7.0.0/24"),
            ("::/0", "8 to 126"),
            ("::/64", "no address of a host"),
            ("::ffff:10.0.0.0/112", "IPv4 addresses"),
            ("fe80::/64", "link-local"),
            ("ff02::/64", "multicast"),
            ("10.7.0.0/33", "prefix length"),
            ("10.7.0.0", "prefix length"),
        ] {
            let said = said(subnet, "", "");
            assert!(
                said.len() == 1 && said[0].0 == "subnets[0].subnet" && said[0].1.contains(why),
                "{subnet}: {said:?}"
            );
        }
        for good in ["10.7.0.0/24", "100.64.0.0/10", "8.8.8.0/24", "fd00:7::/64", "2001:db8::/32"] {
            assert_eq!(said(good, "", ""), [], "{good}");
        }
    }

    #[test]
    fn gateways_and_ranges_say_what_is_wrong_with_them() {
        for (subnet, gateway, why) in [
            ("10.7.0.0/24", "10.8.0.1", "10.8.0.1 is not in 10.7.0.0/24"),
            ("10.7.0.0/24", "10.7.0.0", "own address of the network"),
            ("10.7.0.0/24", "10.7.0.255", "broadcast address of 10.7.0.0/24"),
            ("10.7.0.0/24", "x", "must be an address in 10.7.0.0/24"),
            ("10.7.0.0/24", "fd00::1", "is not in"),
            ("fd00::/64", "fd00::", "own address of the network"),
        ] {
            let said = said(subnet, gateway, "");
            assert!(
                said.len() == 1 && said[0].0 == "subnets[0].gateway" && said[0].1.contains(why),
                "{gateway}: {said:?}"
            );
        }
        for (range, why) in [
            ("10.8.0.0/30", "10.8.0.0/30 is not a part of 10.7.0.0/24"),
            ("10.7.0.0/16", "is not a part of"),
            ("10.7.0.255/32", "leaves no address"),
            ("10.7.0.1/32", "leaves no address"),
            ("10.7.0.8", "a part of 10.7.0.0/24"),
        ] {
            let said = said("10.7.0.0/24", "", range);
            assert!(
                said.len() == 1 && said[0].0 == "subnets[0].ip_range" && said[0].1.contains(why),
                "{range}: {said:?}"
            );
        }
    }
}
