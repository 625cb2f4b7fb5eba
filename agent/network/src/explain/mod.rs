//! What happens to a packet that comes to a port of the host: who publishes it, which rules of the host decide about it on its way, who listens.
//!
//! Nothing is sent and nothing is changed: the ruleset is read once, and one packet is followed through it (`follow`) as the kernel would. What
//! cannot be evaluated is said, never guessed.

mod follow;
mod ruleset;
mod show;

pub use follow::{Effect, Found, Place};

use crate::error::{NetworkError, PortHolder};
use crate::netlink::{Failure, Messages, Socket, find};
use crate::networks::{Networks, lock};
use crate::{elements, sockets};
use berth_model::ContainerId;
use berth_model::network::{HostAddresses, PortMapping, Protocol};
use berth_sys::detour_bpf::SECOND_WAY;
use berth_sys::net::NetlinkFamily;
use follow::{FORWARD, Fate, Follower, INPUT, Interface, OUTPUT, PREROUTING, Packet};
use ruleset::Ruleset;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A client that is nowhere near: addresses for documentation (RFC 5737, RFC 3849).
const OUTSIDE4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
/// RTN_LOCAL
const LOCAL: u8 = 2;

/// A packet, as far as somebody says it.
#[derive(Clone, Debug)]
pub struct Question {
    /// None: where the port is published, else the address by which the host goes out.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
    /// None: the host itself for its loopback, else somebody outside.
    pub from: Option<IpAddr>,
    /// None: where answers to `from` would go out.
    pub interface: Option<String>,
}

/// What becomes of the packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It reaches this port of a container.
    Container {
        id: ContainerId,
        to: SocketAddr,
    },
    /// Somebody's rules send it elsewhere.
    Elsewhere(SocketAddr),
    /// A socket of the host gets it.
    Process(PortHolder),
    /// Nobody listens: the host refuses it.
    Refused,
    Dropped,
    Rejected,
    /// A program of the host decides, by a queue.
    Queued,
    /// The host has no such address.
    NotThisHost,
}

/// A published port with this number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedHere {
    pub container: ContainerId,
    pub network: String,
    pub mapping: PortMapping,
    /// The container has an IPv6 address.
    pub ipv6: bool,
    /// The map's element, as the nft tool shows it: of each family.
    pub elements: Vec<String>,
    /// It is about the address that was asked for.
    pub covers: bool,
}

#[derive(Clone, Debug)]
pub struct Explained {
    pub address: IpAddr,
    pub from: IpAddr,
    /// The packet is the host's own.
    pub from_host: bool,
    /// Name of the agent's program that turned a connection to [::1] into one to 127.0.0.1, which was followed then.
    pub turned_by: Option<String>,
    /// Where it had been redirected to when it was decided about.
    pub redirected: Option<SocketAddr>,
    /// Where it comes in; empty: not known.
    pub interface: String,
    pub outcome: Outcome,
    /// Nothing that could not be evaluated would change it.
    pub certain: bool,
    pub published: Vec<PublishedHere>,
    /// Who of the host has the port, whether it gets the packet or not.
    pub holder: Option<PortHolder>,
    /// Rules that decided or may decide, in the packet's order.
    pub found: Vec<Found>,
    /// What may decide as well and cannot be seen from here.
    pub unseen: Vec<String>,
}

/// Where a packet to an address goes.
#[derive(Clone, Debug, Default)]
struct Way {
    local: bool,
    interface: Interface,
    /// The host's own address on that way.
    source: Option<IpAddr>,
}

impl Networks {
    /// Follows one packet. Reads the whole ruleset and, for the process that has the port, all processes' descriptors: for a person who asks.
    pub fn explain(&self, question: &Question) -> Result<Explained, NetworkError> {
        let error = |act: &str| {
            let act = act.to_owned();
            move |failure: Failure| NetworkError::Nftables { act, source: failure.into_io() }
        };
        let mut published = self.published_here(question);
        let address = match question.address {
            Some(address) => address,
            None => self.address_of(&published)?,
        };
        let asked = address;
        let turned_by = self.turns(question, asked);
        let address = if turned_by.is_some() { Ipv4Addr::LOCALHOST.into() } else { asked };
        for port in &mut published {
            port.covers = port.mapping.addresses().cover(address) && (address.is_ipv4() || port.ipv6);
        }
        let outside = if address.is_ipv4() { OUTSIDE4 } else { OUTSIDE6 };
        let from = question.from.filter(|_| turned_by.is_none());
        let from = from.unwrap_or(if address.is_loopback() { address } else { outside });
        let (to, back) = (self.way(address)?, self.way(from)?);
        let input = match &question.interface {
            Some(name) => self.interface(name)?,
            None if back.local => Interface { name: Some("lo".into()), index: Some(1), loopback: true },
            None => back.interface,
        };
        let mut socket =
            Socket::open(NetlinkFamily::Netfilter).map_err(|e| error("opening an nfnetlink socket")(Failure::Io(e)))?;
        let ruleset = Ruleset::read(&mut |m, look| socket.converse(m, false, look))
            .map_err(error("reading the host's nftables rules"))?;
        let mut follower = Follower::new(&ruleset);
        let holder = sockets::bound(question.protocol)
            .into_iter()
            .find(|b| b.address.port() == question.port && sockets::meets(b.address.ip(), HostAddresses::one(address)))
            .map(|b| sockets::process(b).unwrap_or(PortHolder::Host));
        let mut packet = Packet {
            from,
            to: address,
            protocol: question.protocol.number(),
            port: question.port,
            input: input.clone(),
            output: none(),
            mark: 0,
            to_this_host: to.local,
            redirected: false,
        };
        let outcome = if to.local {
            self.outcome(&mut follower, &mut packet, back.local && question.interface.is_none(), holder.as_ref())?
        } else {
            Outcome::NotThisHost
        };
        let mut found = follower.found;
        found.dedup();
        let certain = !found.iter().any(|f| f.doubt.is_some() && matters(f.effect, &outcome));
        Ok(Explained {
            address: asked,
            from,
            from_host: back.local,
            turned_by,
            redirected: packet.redirected.then(|| SocketAddr::new(packet.to, packet.port)),
            interface: input.name.unwrap_or_default(),
            outcome,
            certain,
            published,
            holder,
            found,
            unseen: unseen(),
        })
    }

    /// What makes a connection of the host's to this port of [::1] one to 127.0.0.1.
    fn turns(&self, question: &Question, to: IpAddr) -> Option<String> {
        let rules = lock(&self.inner.rules);
        let own = question.interface.as_deref().is_none_or(|name| name == "lo")
            && question.from.is_none_or(|from| from == to);
        let turns =
            own && to == IpAddr::V6(Ipv6Addr::LOCALHOST) && rules.mirror().has(question.protocol, question.port);
        turns.then(|| rules.mirror().program().to_owned())
    }

    /// Where somebody asks who names no address: where the port is published, else the host's own.
    fn address_of(&self, published: &[PublishedHere]) -> Result<IpAddr, NetworkError> {
        let addresses: Vec<IpAddr> = published.iter().flat_map(|p| p.mapping.addresses().iter()).collect();
        if let Some(address) = addresses.iter().find(|a| !a.is_unspecified()) {
            return Ok(*address);
        }
        let only6 = !addresses.is_empty() && addresses.iter().all(IpAddr::is_ipv6);
        let (outside, loopback) = match only6 {
            true => (OUTSIDE6, IpAddr::V6(Ipv6Addr::LOCALHOST)),
            false => (OUTSIDE4, IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        Ok(self.way(outside)?.source.unwrap_or(loopback))
    }

    fn outcome(
        &self,
        follower: &mut Follower<'_>,
        packet: &mut Packet,
        from_host: bool,
        holder: Option<&PortHolder>,
    ) -> Result<Outcome, NetworkError> {
        if from_host {
            let lo = std::mem::replace(&mut packet.input, none());
            packet.output = lo.clone();
            if let Fate::Ends(effect) = follower.hook(OUTPUT, packet) {
                return Ok(ended(effect));
            }
            if packet.redirected && !self.way(packet.to)?.local {
                return Ok(self.destination(packet));
            }
            (packet.input, packet.output) = (lo, none());
        }
        let original = packet.clone();
        if let Fate::Ends(effect) = follower.hook(PREROUTING, packet) {
            return Ok(ended(effect));
        }
        if packet.redirected && !self.way(packet.to)?.local {
            return self.forwarded(follower, packet);
        }
        match follower.hook(INPUT, packet) {
            Fate::Goes => Ok(holder.map_or(Outcome::Refused, |h| Outcome::Process(h.clone()))),
            // It has passed all input rules, and comes in a second time.
            Fate::Ends(Effect::Copies) => {
                *packet = Packet { mark: SECOND_WAY, ..original };
                match follower.hook(PREROUTING, packet) {
                    Fate::Ends(effect) => Ok(ended(effect)),
                    Fate::Goes => self.forwarded(follower, packet),
                }
            }
            Fate::Ends(effect) => Ok(ended(effect)),
        }
    }

    fn forwarded(&self, follower: &mut Follower<'_>, packet: &mut Packet) -> Result<Outcome, NetworkError> {
        packet.output = self.way(packet.to)?.interface;
        packet.to_this_host = false;
        Ok(match follower.hook(FORWARD, packet) {
            Fate::Ends(effect) => ended(effect),
            Fate::Goes => self.destination(packet),
        })
    }

    fn destination(&self, packet: &Packet) -> Outcome {
        let to = SocketAddr::new(packet.to, packet.port);
        let state = self.inner.lock_state();
        let has = |a: &berth_model::network::NetworkAttachment| {
            IpAddr::V4(a.address) == packet.to
                || a.ipv6.as_ref().is_some_and(|six| IpAddr::V6(six.address) == packet.to)
        };
        let found = state.each().find(|(_, list)| list.iter().any(has)).map(|(id, _)| id.clone());
        found.map_or(Outcome::Elsewhere(to), |id| Outcome::Container { id, to })
    }

    fn published_here(&self, question: &Question) -> Vec<PublishedHere> {
        let table = self.inner.config.table_name();
        let state = self.inner.lock_state();
        let mut found = Vec::new();
        for (id, attachment) in state.each().flat_map(|(id, list)| list.iter().map(move |a| (id, a))) {
            for port in crate::net::published(attachment) {
                let first = port.mapping.host_port;
                if port.mapping.protocol == question.protocol && (first..=port.mapping.last()).contains(&question.port)
                {
                    found.push(PublishedHere {
                        container: id.clone(),
                        network: attachment.network.clone(),
                        mapping: port.mapping.clone(),
                        elements: elements::elements(&table, &port, question.port),
                        ipv6: port.to6.is_some(),
                        covers: false,
                    });
                }
            }
        }
        found
    }

    fn interface(&self, name: &str) -> Result<Interface, NetworkError> {
        let link = lock(&self.inner.links).find(name)?.ok_or_else(|| NetworkError::NoInterface(name.to_owned()))?;
        Ok(Interface { name: Some(link.name), index: Some(link.index), loopback: name == "lo" })
    }

    /// The kernel's own answer. No route: an interface that is not known.
    fn way(&self, to: IpAddr) -> Result<Way, NetworkError> {
        let error = |failure: Failure| NetworkError::Netlink {
            act: format!("asking for the route to {to}"),
            source: failure.into_io(),
        };
        let mut socket = Socket::open(NetlinkFamily::Route).map_err(|e| error(Failure::Io(e)))?;
        let (family, bytes) = match to {
            IpAddr::V4(ip) => (2, ip.octets().to_vec()),
            IpAddr::V6(ip) => (10, ip.octets().to_vec()),
        };
        let mut m = Messages::new();
        let mut header = [0; 12];
        (header[0], header[1]) = (family, (bytes.len() * 8) as u8);
        m.begin(RTM_GETROUTE, crate::netlink::ACK, &header).attribute(1, &bytes);
        let Ok(replies) = socket.exchange(&mut m, false) else { return Ok(Way::default()) };
        let Some(route) = replies.iter().find(|r| r.kind == RTM_NEWROUTE) else { return Ok(Way::default()) };
        let attributes = route.body.get(12..).unwrap_or(&[]);
        let index = find(attributes, 4).and_then(|b| b.first_chunk()).map(|b| u32::from_ne_bytes(*b));
        let source = find(attributes, 7).and_then(|b| match b.len() {
            4 => b.first_chunk::<4>().map(|b| IpAddr::from(*b)),
            _ => b.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        });
        let links = lock(&self.inner.links).list()?;
        let name = links.into_iter().find(|l| Some(l.index) == index).map(|l| l.name);
        let loopback = name.as_deref() == Some("lo");
        Ok(Way { local: route.body.get(7) == Some(&LOCAL), interface: Interface { name, index, loopback }, source })
    }
}

/// Reads a ruleset out of replies (`kind` modulo 256 says which question each one answers), and follows a packet of each family through all
/// of its hooks.
#[cfg(fuzzing)]
pub(crate) fn follow_any(replies: &[(u16, &[u8])]) {
    let ruleset = Ruleset::read(&mut |question, look| {
        let asked = question.last_kind() & 0xff;
        replies.iter().filter(|(kind, _)| kind & 0xff == asked).for_each(|(kind, body)| look(*kind, body));
        Ok(())
    })
    .expect("nothing was refused");
    let mut follower = Follower::new(&ruleset);
    for (from, to) in [(OUTSIDE4, Ipv4Addr::LOCALHOST.into()), (OUTSIDE6, Ipv6Addr::LOCALHOST.into())] {
        for hook in [PREROUTING, INPUT, FORWARD, OUTPUT] {
            let lo = Interface { name: Some("lo".into()), index: Some(1), loopback: true };
            let (protocol, mark) = (Protocol::Tcp.number(), 0);
            let (input, output) = (lo.clone(), lo);
            let (to_this_host, redirected) = (true, false);
            let mut packet = Packet { from, to, protocol, port: 80, input, output, mark, to_this_host, redirected };
            let _ = follower.hook(hook, &mut packet);
        }
    }
    follower.found.iter().for_each(|found| assert!(found.place.hook <= OUTPUT));
}

/// At this hook there is no such interface.
fn none() -> Interface {
    Interface { name: Some(String::new()), index: Some(0), loopback: false }
}

fn ended(effect: Effect) -> Outcome {
    match effect {
        Effect::Rejects => Outcome::Rejected,
        Effect::Queues => Outcome::Queued,
        _ => Outcome::Dropped,
    }
}

/// Something of this effect that may or may not hold would change the outcome.
fn matters(effect: Effect, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::NotThisHost => false,
        Outcome::Dropped | Outcome::Rejected | Outcome::Queued => true,
        _ => effect != Effect::Accepts,
    }
}

/// Rules that are not nftables'.
fn unseen() -> Vec<String> {
    let mut found = Vec::new();
    for (file, what) in [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")] {
        let tables = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        if !tables.trim().is_empty() {
            found.push(format!("{what}, tables {}", tables.split_ascii_whitespace().collect::<Vec<_>>().join(", ")));
        }
    }
    found
}
