//! What a container may say of itself on its bridge: a table of family bridge, in which each container has its own elements.
//!
//! The port of a container takes frames from it only with its own hardware address, and in them its own IPv4 and IPv6 addresses, as sender of packets
//! and in ARP and neighbour discovery. Nobody there is a router or a DHCP server, and nothing but IPv4, ARP and IPv6 passes. Dropped before the bridge
//! has learned anything from the frame.

use crate::error::NetworkError;
use crate::mac::{MAC_CONTAINER, mac_of, parse_mac};
use crate::netlink::Socket;
use crate::nft::{Batch, Expr, Family, Hook};
use berth_model::network::NetworkAttachment;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Before br_netfilter (0) and ebtables' own chains (-300 and -200), which see only what is let through.
const PRIORITY: i32 = -310;

/// Names of ports, of containers that run and of those whose link is on its way out.
const PORTS: &str = "ports";
/// Of each port: hardware address and IPv4 address.
const ADDRESSES: &str = "addresses";
/// Of each port: hardware address and IPv6 addresses.
const ADDRESSES6: &str = "addresses6";

/// linux/if_ether.h
const ETHER_IPV4: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
/// RFC 4861: the types of messages that only a router sends, and the one that says who has an address.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Source and destination port of what a DHCP server says to its clients (RFC 2131, RFC 8415).
const DHCP_REPLY: [u8; 4] = [0, 67, 0, 68];
const DHCP6_REPLY: [u8; 4] = [2, 35, 2, 34];

const EAFNOSUPPORT: i32 = 97;
const EOPNOTSUPP: i32 = 95;
const EPROTONOSUPPORT: i32 = 93;
/// Also: a type of chain that the kernel does not have.
const ENOENT: i32 = 2;

/// A container on a bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub bridge: String,
    /// The host's end of its veth.
    pub port: String,
    mac: [u8; 6],
    v4: Ipv4Addr,
    v6: Option<Ipv6Addr>,
}

impl Member {
    /// `None`: it has no end in the host's namespace (macvlan), or is no concern of ours (cni).
    pub fn of(attachment: &NetworkAttachment) -> Option<Member> {
        (!attachment.host_interface.is_empty() && !attachment.is_cni()).then(|| Member {
            bridge: attachment.bridge.clone(),
            port: attachment.host_interface.clone(),
            mac: parse_mac(&attachment.mac).unwrap_or(mac_of(MAC_CONTAINER, attachment.address)),
            v4: attachment.address,
            v6: attachment.ipv6.as_ref().map(|six| six.address),
        })
    }

    /// Its own one, the one that the kernel makes of the MAC, and none at all: who has not got an address yet asks whether somebody has it.
    fn six(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.v6.into_iter().flat_map(|own| [own, link_local(self.mac), Ipv6Addr::UNSPECIFIED])
    }
}

/// RFC 4291, appendix A: fe80::/64 with the MAC's bytes, of which the second bit is turned over.
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Chains, sets and rules, without a container yet.
fn fill(batch: &mut Batch<'_>) {
    use Expr::*;
    batch.add_interfaces(PORTS, false);
    batch.add_senders(ADDRESSES, Family::V4);
    batch.add_senders(ADDRESSES6, Family::V6);

    // Each of these is one look into a set for what is right, which most is.
    batch.add_plain_chain("ip4");
    batch.add_rule("ip4", &[Protocol(UDP), Transport(0, &DHCP_REPLY), Drop]);
    batch.add_plain_chain("neighbours");
    batch.add_rule("neighbours", &[Transport(0, &[ROUTER_ADVERTISEMENT]), Drop]);
    batch.add_rule("neighbours", &[Transport(0, &[REDIRECT]), Drop]);
    batch.add_rule("neighbours", &[Transport(0, &[NEIGHBOUR_ADVERTISEMENT]), NeighbourTarget(ADDRESSES6), Accept]);
    batch.add_rule("neighbours", &[Transport(0, &[NEIGHBOUR_ADVERTISEMENT]), Drop]);
    batch.add_plain_chain("ip6");
    batch.add_rule("ip6", &[Protocol(ICMP6), Goto("neighbours")]);
    batch.add_rule("ip6", &[Protocol(UDP), Transport(0, &DHCP6_REPLY), Drop]);
    batch.add_rule("ip6", &[FromNoAddress6, Drop]);

    batch.add_chain("prerouting", "filter", Hook::Prerouting, PRIORITY);
    batch.add_rule("prerouting", &[EtherType(ETHER_IPV4), Sender(ADDRESSES, Family::V4), Goto("ip4")]);
    batch.add_rule("prerouting", &[EtherType(ETHER_ARP), ArpSender(ADDRESSES), Accept]);
    batch.add_rule("prerouting", &[EtherType(ETHER_IPV6), Sender(ADDRESSES6, Family::V6), Goto("ip6")]);
    batch.add_rule("prerouting", &[FromAny(PORTS), Drop]);
    // 802.1D's own groups do not pass prerouting. LLDP passes nothing at all: see `Links::distrust_groups`.
    batch.add_chain("input", "filter", Hook::Input, PRIORITY);
    batch.add_rule("input", &[ToBridgeGroup, FromAny(PORTS), Drop]);
}

/// The table with these containers; from ports in `silent` nothing passes.
pub fn make<'m>(batch: &mut Batch<'_>, members: impl Iterator<Item = &'m Member>, silent: &[String]) {
    batch.family(Family::Bridge);
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    fill(batch);
    for port in silent {
        batch.add_interface(PORTS, &[port]);
    }
    members.for_each(|member| add(batch, member));
}

pub fn add(batch: &mut Batch<'_>, member: &Member) {
    batch.family(Family::Bridge).add_interface(PORTS, &[&member.port]);
    batch.add_sender(ADDRESSES, &member.port, member.mac, member.v4.into());
    for six in member.six() {
        batch.add_sender(ADDRESSES6, &member.port, member.mac, six.into());
    }
}

/// Gone already is fine: what is added is there to be deleted.
pub fn delete(batch: &mut Batch<'_>, member: &Member) {
    add(batch, member);
    batch.delete_interface(PORTS, &[&member.port]);
    batch.delete_sender(ADDRESSES, &member.port, member.mac, member.v4.into());
    for six in member.six() {
        batch.delete_sender(ADDRESSES6, &member.port, member.mac, six.into());
    }
}

/// A port of which nothing but the name is known.
pub fn delete_port(batch: &mut Batch<'_>, port: &str) {
    batch.family(Family::Bridge).add_interface(PORTS, &[port]);
    batch.delete_interface(PORTS, &[port]);
}

/// What the kernel says against such a table; `None`: nothing. A table of another name is made and deleted again in one transaction.
pub fn probe(socket: &mut Socket, table: &str) -> Result<Option<String>, NetworkError> {
    let name = format!("{table}-probe");
    let mut batch = Batch::new(&name);
    batch.family(Family::Bridge);
    batch.add_table();
    fill(&mut batch);
    batch.delete_table();
    match batch.commit(socket) {
        Ok(()) => Ok(None),
        Err(failure) if matches!(failure.errno(), EAFNOSUPPORT | EOPNOTSUPP | EPROTONOSUPPORT | ENOENT) => {
            Ok(Some(failure.into_io().to_string()))
        }
        Err(failure) => {
            let act = "asking whether bridges can be guarded by nftables".to_owned();
            Err(NetworkError::Nftables { act, source: failure.into_io() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_the_kernels() {
        assert_eq!(link_local([0x02, 0x42, 0x0a, 0x61, 0, 9]), "fe80::42:aff:fe61:9".parse::<Ipv6Addr>().unwrap());
        assert_eq!(link_local([0x52, 0x54, 0, 1, 2, 3]), "fe80::5054:ff:fe01:203".parse::<Ipv6Addr>().unwrap());
    }
}
