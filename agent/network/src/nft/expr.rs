//! The steps of a rule.

use super::{Family, MapShape, address_bytes};
use crate::netlink::Messages;
use std::net::IpAddr;

/// 4-byte registers, NFT_REG32_00 + n.
const fn register(n: u32) -> u32 {
    8 + n
}
const R0: u32 = register(0);
const VERDICT: u32 = 0;

const GOTO: i32 = -4;

const META_PRIORITY: u32 = 2;
const META_MARK: u32 = 3;
const META_FROM: u32 = 6;
const META_TO: u32 = 7;
const META_FROM_TYPE: u32 = 8;
const META_PROTOCOL: u32 = 16;

/// Bases of a payload expression.
const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// An address and the length of its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Net {
    pub address: IpAddr,
    pub len: u8,
}

/// One step of a rule; a match that fails ends the rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expr<'a> {
    /// `iifname != NAME`
    NotFrom(&'a str),
    /// `oifname NAME`
    To(&'a str),
    /// `oifname != NAME`
    NotTo(&'a str),
    /// `iifname @SET`
    FromAny(&'a str),
    /// `oifname @SET`
    ToAny(&'a str),
    /// `iifname . oifname @SET`
    Within(&'a str),
    /// `iiftype ether`
    FromEthernet,
    /// `ip saddr ADDRESS/LEN`
    Source(Net),
    /// `ip daddr ADDRESS/LEN`
    Destination(Net),
    /// `fib daddr type local`
    ToThisHost,
    /// `ether type N`; a frame with a VLAN's tag has the tag's.
    EtherType(u16),
    /// `ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00`: what bridges say to each other, and is never forwarded by them.
    ToBridgeGroup,
    /// `iifname . ether saddr . ip saddr @SET`, or with `ip6 saddr`
    Sender(&'a str, Family),
    /// ARP of Ethernet and IPv4, with `iifname . ether saddr . arp saddr ip @SET` and `iifname . arp saddr ether . arp saddr ip @SET`
    ArpSender(&'a str),
    /// `iifname . ether saddr .` the target of a neighbour advertisement `@SET`
    NeighbourTarget(&'a str),
    /// `ip6 saddr ::`
    FromNoAddress6,
    /// `meta l4proto N`
    Protocol(u8),
    /// `@th,OFFSET,LENGTH` is this; the offset in bytes.
    Transport(u32, &'a [u8]),
    /// `ct state new`
    New,
    /// `ct state established,related`
    Established,
    /// `ct status dnat`
    Published,
    /// `meta mark N`
    Mark(u32),
    /// `meta mark set N`
    SetMark(u32),
    /// `meta priority set` these bytes, in this order
    SetPriority([u8; 4]),
    /// The destination's hardware address: its first four bytes to the mark, the others to the priority.
    KeepHardwareAddress,
    /// `ip frag-off & 0x4000` set to 0
    AllowFragments,
    /// `[ip daddr .] meta l4proto . th dport @NAME`
    PortIn(&'a str, MapShape),
    /// `dnat to [ip daddr .] meta l4proto . th dport map @NAME`
    Dnat(&'a str, MapShape),
    Masquerade,
    /// `snat to ADDRESS`
    Snat(IpAddr),
    /// `dup to ADDRESS device INDEX`
    Copy(IpAddr, u32),
    Goto(&'a str),
    Accept,
    Drop,
}

pub(super) fn put(m: &mut Messages, family: Family, expr: &Expr<'_>) {
    let (source, destination) = match family {
        Family::V4 => (12, 16),
        // Of a bridge's frames only those of IPv6 are asked for it.
        Family::V6 | Family::Bridge => (8, 24),
    };
    match *expr {
        Expr::NotFrom(name) => interface(m, META_FROM, false, name),
        Expr::To(name) => interface(m, META_TO, true, name),
        Expr::NotTo(name) => interface(m, META_TO, false, name),
        Expr::FromAny(set) => {
            one(m, "meta", &[(1, R0), (2, META_FROM)]);
            member(m, set);
        }
        Expr::ToAny(set) => {
            one(m, "meta", &[(1, R0), (2, META_TO)]);
            member(m, set);
        }
        Expr::Within(set) => {
            one(m, "meta", &[(1, R0), (2, META_FROM)]);
            one(m, "meta", &[(1, register(4)), (2, META_TO)]);
            member(m, set);
        }
        Expr::FromEthernet => {
            // ARPHRD_ETHER, as a number of the host's.
            one(m, "meta", &[(1, R0), (2, META_FROM_TYPE)]);
            compare(m, true, &1u16.to_ne_bytes());
        }
        Expr::Source(net) => within(m, source, net),
        Expr::Destination(net) => within(m, destination, net),
        Expr::ToThisHost => {
            // Result: the address's type; of the destination. RTN_LOCAL is 2.
            one(m, "fib", &[(1, R0), (2, 3), (3, 2)]);
            compare(m, true, &2u32.to_ne_bytes());
        }
        Expr::EtherType(kind) => {
            payload(m, R0, LINK, 12, 2);
            compare(m, true, &kind.to_be_bytes());
        }
        Expr::ToBridgeGroup => {
            payload(m, R0, LINK, 0, 6);
            mask(m, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xf0]);
            compare(m, true, &[0x01, 0x80, 0xc2, 0, 0, 0]);
        }
        Expr::Sender(set, Family::V4) => sender(m, set, (LINK, 6), (NETWORK, 12, 4)),
        Expr::Sender(set, _) => sender(m, set, (LINK, 6), (NETWORK, 8, 16)),
        Expr::ArpSender(set) => {
            payload(m, R0, NETWORK, 0, 6);
            compare(m, true, &[0, 1, 8, 0, 6, 4]);
            sender(m, set, (LINK, 6), (NETWORK, 14, 4));
            sender(m, set, (NETWORK, 8), (NETWORK, 14, 4));
        }
        Expr::NeighbourTarget(set) => sender(m, set, (LINK, 6), (TRANSPORT, 8, 16)),
        Expr::FromNoAddress6 => {
            payload(m, R0, NETWORK, 8, 16);
            compare(m, true, &[0; 16]);
        }
        Expr::Protocol(number) => {
            one(m, "meta", &[(1, R0), (2, META_PROTOCOL)]);
            compare(m, true, &[number]);
        }
        Expr::Transport(offset, bytes) => {
            payload(m, R0, TRANSPORT, offset, bytes.len() as u32);
            compare(m, true, bytes);
        }
        Expr::New => {
            one(m, "ct", &[(1, R0), (2, 0)]);
            any_bit(m, 8);
        }
        Expr::Established => {
            one(m, "ct", &[(1, R0), (2, 0)]);
            any_bit(m, 2 | 4);
        }
        Expr::Published => {
            // IPS_DST_NAT of the connection's status.
            one(m, "ct", &[(1, R0), (2, 2)]);
            any_bit(m, 1 << 5);
        }
        Expr::Mark(mark) => {
            one(m, "meta", &[(1, R0), (2, META_MARK)]);
            compare(m, true, &mark.to_ne_bytes());
        }
        Expr::SetMark(mark) => {
            constant(m, R0, &mark.to_ne_bytes());
            one(m, "meta", &[(3, R0), (2, META_MARK)]);
        }
        Expr::SetPriority(bytes) => {
            constant(m, R0, &bytes);
            one(m, "meta", &[(3, R0), (2, META_PRIORITY)]);
        }
        Expr::KeepHardwareAddress => {
            payload(m, R0, LINK, 0, 4);
            one(m, "meta", &[(3, R0), (2, META_MARK)]);
            payload(m, R0, LINK, 4, 2);
            one(m, "meta", &[(3, R0), (2, META_PRIORITY)]);
        }
        Expr::AllowFragments => {
            payload(m, R0, NETWORK, 6, 2);
            mask(m, &[0xbf, 0xff]);
            // With the header's checksum (NFT_PAYLOAD_CSUM_INET), which stands at 10.
            one(m, "payload", &[(5, R0), (2, NETWORK), (3, 6), (4, 2), (6, 1), (7, 10)]);
        }
        Expr::PortIn(map, shape) => {
            port_key(m, family, destination, shape);
            lookup(m, map);
        }
        Expr::Dnat(map, shape) => {
            port_key(m, family, destination, shape);
            lookup(m, map);
            let port = register(family.width() / 4);
            let of_both: &[(u16, u32)] = &[(1, 1), (2, family as u32), (3, R0), (5, port)];
            one(m, "nat", if shape.ranges { &of_both[..3] } else { of_both });
        }
        Expr::Masquerade => expression(m, "masq", |_| {}),
        Expr::Snat(address) => {
            constant(m, R0, &address_bytes(address));
            one(m, "nat", &[(1, 0), (2, family as u32), (3, R0)]);
        }
        Expr::Copy(to, device) => {
            let other = register(family.width() / 4);
            constant(m, R0, &address_bytes(to));
            constant(m, other, &device.to_ne_bytes());
            one(m, "dup", &[(1, R0), (2, other)]);
        }
        Expr::Goto(chain) => verdict(m, GOTO, Some(chain)),
        Expr::Accept => verdict(m, 1, None),
        Expr::Drop => verdict(m, 0, None),
    }
}

fn expression(m: &mut Messages, name: &str, data: impl FnOnce(&mut Messages)) {
    m.nest(1, |m| {
        m.text(1, name).nest(2, data);
    });
}

/// An expression of which all attributes are numbers.
fn one(m: &mut Messages, name: &str, numbers: &[(u16, u32)]) {
    expression(m, name, |m| {
        for (kind, value) in numbers {
            m.attribute(*kind, &value.to_be_bytes());
        }
    });
}

fn payload(m: &mut Messages, register: u32, base: u32, offset: u32, len: u32) {
    one(m, "payload", &[(1, register), (2, base), (3, offset), (4, len)]);
}

fn constant(m: &mut Messages, register: u32, value: &[u8]) {
    expression(m, "immediate", |m| {
        m.attribute(1, &register.to_be_bytes()).nest(2, |m| {
            m.attribute(1, value);
        });
    });
}

/// R0 is, or is not, this value.
fn compare(m: &mut Messages, equal: bool, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.attribute(1, &R0.to_be_bytes()).attribute(2, &u32::from(!equal).to_be_bytes()).nest(3, |m| {
            m.attribute(1, value);
        });
    });
}

/// R0 and what follows it, with `mask`.
fn mask(m: &mut Messages, mask: &[u8]) {
    let len = mask.len() as u32;
    expression(m, "bitwise", |m| {
        m.attribute(1, &R0.to_be_bytes()).attribute(2, &R0.to_be_bytes()).attribute(3, &len.to_be_bytes());
        m.nest(4, |m| {
            m.attribute(1, mask);
        });
        m.nest(5, |m| {
            m.attribute(1, &vec![0; mask.len()]);
        });
    });
}

fn any_bit(m: &mut Messages, bits: u32) {
    mask(m, &bits.to_ne_bytes());
    compare(m, false, &[0; 4]);
}

/// The whole name of an interface, with NULs at the end: four registers.
pub(super) fn interface_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

fn interface(m: &mut Messages, key: u32, equal: bool, name: &str) {
    one(m, "meta", &[(1, R0), (2, key)]);
    compare(m, equal, &interface_name(name));
}

/// What stands from R0 on is an element.
fn member(m: &mut Messages, set: &str) {
    expression(m, "lookup", |m| {
        m.text(1, set).attribute(2, &R0.to_be_bytes());
    });
}

/// The interface that it came in by, a hardware address and an address are an element. Base and offset of both, and the address's length.
fn sender(m: &mut Messages, set: &str, mac: (u32, u32), address: (u32, u32, u32)) {
    one(m, "meta", &[(1, R0), (2, META_FROM)]);
    payload(m, register(4), mac.0, mac.1, 6);
    payload(m, register(6), address.0, address.1, address.2);
    member(m, set);
}

/// An address of the header, at `offset`, lies within a prefix.
fn within(m: &mut Messages, offset: u32, net: Net) {
    let address = address_bytes(net.address);
    let bits = |byte: usize| usize::from(net.len).saturating_sub(byte * 8).min(8);
    let wanted: Vec<u8> =
        (0..address.len()).map(|byte| u8::MAX.checked_shl(8 - bits(byte) as u32).unwrap_or(0)).collect();
    payload(m, R0, NETWORK, offset, address.len() as u32);
    mask(m, &wanted);
    let network: Vec<u8> = address.iter().zip(&wanted).map(|(a, m)| a & m).collect();
    compare(m, true, &network);
}

fn port_key(m: &mut Messages, family: Family, destination: u32, shape: MapShape) {
    let mut at = 0;
    if shape.with_address {
        payload(m, R0, NETWORK, destination, family.width());
        at = family.width() / 4;
    }
    // The destination port stands at the same place in TCP, UDP and SCTP.
    one(m, "meta", &[(1, register(at)), (2, META_PROTOCOL)]);
    payload(m, register(at + 1), TRANSPORT, 2, 2);
}

/// Looks the key from R0 on up in a map; what it leads to is in R0 and behind.
fn lookup(m: &mut Messages, map: &str) {
    expression(m, "lookup", |m| {
        m.text(1, map).attribute(2, &R0.to_be_bytes()).attribute(3, &R0.to_be_bytes());
    });
}

fn verdict(m: &mut Messages, code: i32, chain: Option<&str>) {
    expression(m, "immediate", |m| {
        m.attribute(1, &VERDICT.to_be_bytes()).nest(2, |m| {
            m.nest(2, |m| {
                m.attribute(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    m.text(2, chain);
                }
            });
        });
    });
}
