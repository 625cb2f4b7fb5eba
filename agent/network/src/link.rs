//! Links, addresses and routes by rtnetlink(7): linux/if_link.h, linux/rtnetlink.h.

use crate::error::{NetworkError, Prefix, Prefix6};
use crate::netlink::{ACK, CREATE, DUMP, EXCL, Failure, Messages, REPLACE, Reply, Socket, attributes, find};
use berth_sys::net::NetlinkFamily;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MULTI_BOOLOPT: u16 = 46;
/// A bit of these options (`br_boolopt_id`).
const BR_BOOLOPT_NO_LL_LEARN: u32 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// In a request to delete: of whatever scope.
const RT_SCOPE_NOWHERE: u8 = 255;
/// As many networks as a container may be on.
const DEFAULT_ROUTES: usize = 33;

/// Index of lo in every network namespace.
const LOOPBACK: u32 = 1;

/// `EEXIST`, `ENODEV`: what callers act upon. Numbers of the generic table, the same on all of berth's architectures.
pub const EEXIST: i32 = 17;
pub const ENODEV: i32 = 19;
pub const EINVAL: i32 = 22;
/// What a bridge says that has all the ports that it may have (BR_MAX_PORTS of the kernel's net/bridge/br_private.h, less one).
pub const EXFULL: i32 = 54;
pub const EADDRINUSE: i32 = 98;

/// An interface of the host, as far as berth cares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    pub bridge: bool,
    pub up: bool,
    /// `None`: not one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Index of the link of the same namespace that it sits on, as a VLAN does.
    pub below: Option<u32>,
    /// What somebody wrote onto it (`ip link set ... alias`).
    pub alias: Option<String>,
}

/// A route of the host to a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    pub destination: Prefix,
    pub interface: u32,
}

/// What a container's veth is made of.
pub struct End<'a> {
    pub host_name: &'a str,
    pub host_mac: [u8; 6],
    pub bridge: u32,
    pub namespace: BorrowedFd<'a>,
    /// eth0, eth1, …
    pub container_name: &'a str,
    pub container_mac: [u8; 6],
    pub mtu: Option<u32>,
}

/// What a container's macvlan is made of.
pub struct MacvlanEnd<'a> {
    pub parent: u32,
    /// MACVLAN_MODE_*.
    pub mode: u32,
    pub namespace: BorrowedFd<'a>,
    pub name: &'a str,
    pub mac: [u8; 6],
    pub mtu: Option<u32>,
}

/// What a container's interface is given.
pub struct Addressing<'a> {
    /// eth0, eth1, …
    pub name: &'a str,
    pub v4: Prefix,
    pub v6: Option<Prefix6>,
    /// Default routes; `None`: by another interface, or not at all.
    pub gateway4: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
}

/// The links of one network namespace.
pub struct Links {
    socket: Socket,
}

impl Links {
    /// Those of the calling thread's network namespace, for the value's whole life.
    pub fn open() -> Result<Self, NetworkError> {
        let socket = Socket::open(NetlinkFamily::Route)
            .map_err(|source| NetworkError::Netlink { act: "opening an rtnetlink socket".into(), source })?;
        Ok(Links { socket })
    }

    fn send(&mut self, mut messages: Messages, act: impl FnOnce() -> String) -> Result<Vec<Reply>, NetworkError> {
        self.socket
            .exchange(&mut messages, false)
            .map_err(|failure| NetworkError::Netlink { act: act(), source: failure.into_io() })
    }

    pub fn loopback_up(&mut self) -> Result<(), NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK, &link_header(LOOPBACK, IFF_UP, IFF_UP));
        self.send(m, || "bringing lo up".into()).map(drop)
    }

    /// Makes a bridge with a fixed MAC (or it would change with its ports), no spanning tree, no forwarding delay (both hold a new port
    /// back for 30 s), up, with its address.
    pub fn make_bridge(&mut self, name: &str, mac: [u8; 6], address: Prefix) -> Result<u32, NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK | CREATE | EXCL, &link_header(0, IFF_UP, IFF_UP))
            .text(IFLA_IFNAME, name)
            .attribute(IFLA_ADDRESS, &mac)
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |m| {
                    m.attribute(IFLA_BR_STP_STATE, &0u32.to_ne_bytes());
                    m.attribute(IFLA_BR_FORWARD_DELAY, &0u32.to_ne_bytes());
                });
            });
        self.send(m, || format!("making bridge {name}"))?;
        let link = self.find(name)?.ok_or_else(|| NetworkError::Netlink {
            act: format!("finding bridge {name} again"),
            source: std::io::Error::from_raw_os_error(ENODEV),
        })?;
        self.complete_bridge(&link, address)?;
        Ok(link.index)
    }

    /// Gives the bridge its address, where it has none yet, and brings it up.
    pub fn complete_bridge(&mut self, bridge: &Link, address: Prefix) -> Result<(), NetworkError> {
        let mut m = Messages::new();
        add_address(&mut m, bridge.index, address);
        match self.socket.exchange(&mut m, false) {
            Err(failure) if failure.errno() != EEXIST => {
                let act = format!("giving {}/{} to bridge {}", address.address, address.len, bridge.name);
                return Err(NetworkError::Netlink { act, source: failure.into_io() });
            }
            _ => {}
        }
        if bridge.up {
            return Ok(());
        }
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK, &link_header(bridge.index, IFF_UP, IFF_UP));
        self.send(m, || format!("bringing bridge {} up", bridge.name)).map(drop)
    }

    /// Gives a bridge an IPv6 address, where it has not got it yet.
    pub fn address_bridge6(&mut self, index: u32, name: &str, address: Prefix6) -> Result<(), NetworkError> {
        let mut m = Messages::new();
        add_address6(&mut m, index, address);
        match self.socket.exchange(&mut m, false) {
            Err(failure) if failure.errno() != EEXIST => {
                let act = format!("giving {}/{} to bridge {name}", address.address, address.len);
                Err(NetworkError::Netlink { act, source: failure.into_io() })
            }
            _ => Ok(()),
        }
    }

    /// Lets a bridge learn nothing from what is sent to the groups of bridges (802.1D), LLDP among them: the kernel asks no rule about these
    /// (Linux 5.0; older kernels pass it over).
    pub fn distrust_groups(&mut self, index: u32, name: &str) -> Result<(), NetworkError> {
        // struct br_boolopt_multi: values, and which of them are meant.
        let option = [BR_BOOLOPT_NO_LL_LEARN.to_ne_bytes(), BR_BOOLOPT_NO_LL_LEARN.to_ne_bytes()].concat();
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK, &link_header(index, 0, 0)).nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |m| {
                m.attribute(IFLA_BR_MULTI_BOOLOPT, &option);
            });
        });
        self.send(m, || format!("setting no_linklocal_learn of bridge {name}")).map(drop)
    }

    pub fn set_mtu(&mut self, index: u32, name: &str, mtu: u32) -> Result<(), NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK, &link_header(index, 0, 0)).attribute(IFLA_MTU, &mtu.to_ne_bytes());
        self.send(m, || format!("setting the MTU of {name} to {mtu}")).map(drop)
    }

    /// Makes both ends in one request: the host's a port of the bridge and up, the container's named within its namespace. That one cannot be
    /// brought up yet: the kernel joins the two only after it is configured (veth_open says ENOTCONN).
    ///
    /// The kernel's error number is for the caller: `EEXIST` when the host's name is taken, `ENODEV` or `EINVAL` when the bridge is gone.
    pub fn make_veth(&mut self, end: &End<'_>) -> Result<(), Failure> {
        let mtu = |m: &mut Messages| {
            if let Some(mtu) = end.mtu {
                m.attribute(IFLA_MTU, &mtu.to_ne_bytes());
            }
        };
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK | CREATE | EXCL, &link_header(0, IFF_UP, IFF_UP))
            .text(IFLA_IFNAME, end.host_name)
            .attribute(IFLA_ADDRESS, &end.host_mac)
            .attribute(IFLA_MASTER, &end.bridge.to_ne_bytes());
        mtu(&mut m);
        m.nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&link_header(0, 0, 0))
                        .text(IFLA_IFNAME, end.container_name)
                        .attribute(IFLA_ADDRESS, &end.container_mac)
                        .attribute(IFLA_NET_NS_FD, &end.namespace.as_raw_fd().to_ne_bytes());
                    mtu(m);
                });
            });
        });
        self.socket.exchange(&mut m, false).map(drop)
    }

    /// Makes a macvlan in the container's namespace at once: nothing of it is ever in the host's.
    pub fn make_macvlan(&mut self, end: &MacvlanEnd<'_>) -> Result<(), Failure> {
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK | CREATE | EXCL, &link_header(0, 0, 0))
            .text(IFLA_IFNAME, end.name)
            .attribute(IFLA_ADDRESS, &end.mac)
            .attribute(IFLA_LINK, &end.parent.to_ne_bytes())
            .attribute(IFLA_NET_NS_FD, &end.namespace.as_raw_fd().to_ne_bytes());
        if let Some(mtu) = end.mtu {
            m.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        m.nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "macvlan").nest(IFLA_INFO_DATA, |m| {
                m.attribute(IFLA_MACVLAN_MODE, &end.mode.to_ne_bytes());
            });
        });
        self.socket.exchange(&mut m, false).map(drop)
    }

    /// `EADDRINUSE`: another macvlan of the same interface has its MAC.
    pub fn bring_up(&mut self, name: &str) -> Result<(), Failure> {
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK, &link_header(0, IFF_UP, IFF_UP)).text(IFLA_IFNAME, name);
        self.socket.exchange(&mut m, false).map(drop)
    }

    /// Brings an interface up with addresses and default routes, in one datagram. For the container's links.
    pub fn address_container(&mut self, to: &Addressing<'_>) -> Result<(), NetworkError> {
        let missing = std::io::Error::from_raw_os_error(ENODEV);
        let name = to.name;
        let index = self.find(name)?.map(|link| link.index).ok_or_else(|| NetworkError::Netlink {
            act: format!("looking for the container's {name}"),
            source: missing,
        })?;
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK, &link_header(index, IFF_UP, IFF_UP));
        add_address(&mut m, index, to.v4);
        if let Some(v6) = to.v6 {
            add_address6(&mut m, index, v6);
        }
        add_default_routes(&mut m, index, to.gateway4, to.gateway6, EXCL);
        // As in `settle`.
        m.begin(RTM_GETLINK, ACK, &link_header(index, 0, 0));
        let gateway = to.gateway4.map(|g| format!(" by {g}")).unwrap_or_default();
        self.send(m, || format!("giving {}/{}{gateway} to the container's {name}", to.v4.address, to.v4.len)).map(drop)
    }

    /// Gives the namespace default routes by an interface, in the place of those that it has. For the container's links.
    pub fn replace_default_routes(
        &mut self,
        name: &str,
        gateway4: Option<Ipv4Addr>,
        gateway6: Option<Ipv6Addr>,
    ) -> Result<(), NetworkError> {
        let Some(link) = self.find(name)? else { return Ok(()) };
        let one = |error: &Failure| error.errno() == EEXIST;
        for (family, gateway4, gateway6) in [(AF_INET, gateway4, None), (AF_INET6, None, gateway6)] {
            let mut outcome = Ok(());
            // With several default routes (CNI plugins put theirs before those that are there) the kernel replaces the first one only, and says
            // EEXIST where ours is behind it. The first one goes then.
            for _ in 0..DEFAULT_ROUTES {
                let mut m = Messages::new();
                add_default_routes(&mut m, link.index, gateway4, gateway6, REPLACE);
                outcome = if m.count() == 0 { Ok(()) } else { self.socket.exchange(&mut m, false).map(drop) };
                if !outcome.as_ref().is_err_and(one) {
                    break;
                }
                let mut m = Messages::new();
                m.begin(
                    RTM_DELROUTE,
                    ACK,
                    &[family, 0, 0, 0, RT_TABLE_MAIN, 0, RT_SCOPE_NOWHERE, RTN_UNICAST, 0, 0, 0, 0],
                );
                self.send(m, || "deleting a container's other default route".into())?;
            }
            outcome.map_err(|failure| NetworkError::Netlink {
                act: format!("making {name} the container's way out"),
                source: failure.into_io(),
            })?;
        }
        Ok(())
    }

    /// Makes a port and its bridge carry packets now. They do only when the kernel's link watch has seen that they are up, which for a bridge with
    /// its first port takes up to a second; to be asked for a link makes it look at once (Linux 6.8; on older kernels this has no effect).
    ///
    /// `hairpin`: frames may leave by the port that they came from.
    pub fn settle(&mut self, port: &str, bridge: &str, hairpin: bool) -> Result<(), NetworkError> {
        let mut m = Messages::new();
        if hairpin {
            m.begin(RTM_NEWLINK, ACK, &link_header(0, 0, 0)).text(IFLA_IFNAME, port).nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |m| {
                    m.attribute(IFLA_BRPORT_MODE, &[1]);
                });
            });
        }
        for name in [port, bridge] {
            m.begin(RTM_GETLINK, ACK, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        }
        self.send(m, || format!("setting {port} up as a port of {bridge}")).map(drop)
    }

    pub fn set_master(&mut self, link: &Link, bridge: u32) -> Result<(), NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK, &link_header(link.index, IFF_UP, IFF_UP))
            .attribute(IFLA_MASTER, &bridge.to_ne_bytes());
        self.send(m, || format!("putting {} into the bridge", link.name)).map(drop)
    }

    /// Writes something onto a link that the kernel keeps for as long as the link is there, 255 bytes at most.
    pub fn set_alias(&mut self, index: u32, name: &str, alias: &str) -> Result<(), NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_NEWLINK, ACK, &link_header(index, 0, 0)).text(IFLA_IFALIAS, alias);
        self.send(m, || format!("setting the alias of {name}")).map(drop)
    }

    /// Gone already is fine. Takes tens of milliseconds: the kernel waits until nobody uses the link.
    pub fn delete(&mut self, index: u32, name: &str) -> Result<(), NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_DELLINK, ACK, &link_header(index, 0, 0));
        match self.socket.exchange(&mut m, false) {
            Err(failure) if failure.errno() != ENODEV => {
                Err(NetworkError::Netlink { act: format!("deleting {name}"), source: failure.into_io() })
            }
            _ => Ok(()),
        }
    }

    pub fn find(&mut self, name: &str) -> Result<Option<Link>, NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_GETLINK, ACK, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.socket.exchange(&mut m, false) {
            Ok(replies) => Ok(replies.iter().find_map(parse_link)),
            Err(failure) if failure.errno() == ENODEV => Ok(None),
            Err(failure) => {
                Err(NetworkError::Netlink { act: format!("looking for {name}"), source: failure.into_io() })
            }
        }
    }

    pub fn list(&mut self) -> Result<Vec<Link>, NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_GETLINK, DUMP, &link_header(0, 0, 0));
        Ok(self.send(m, || "listing links".into())?.iter().filter_map(parse_link).collect())
    }

    /// Next hops of the ways to everywhere, or to half or a quarter of it, of both families and whatever table.
    pub fn default_hops(&mut self) -> Result<Vec<IpAddr>, NetworkError> {
        let mut hops = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut m = Messages::new();
            m.begin(RTM_GETROUTE, DUMP, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            self.send(m, || "listing routes".into())?.iter().for_each(|reply| add_hops(reply, &mut hops));
        }
        Ok(hops)
    }

    /// The main table's IPv6 routes to networks; link-local ones and single hosts are left out.
    pub fn routes6(&mut self) -> Result<Vec<(Prefix6, u32)>, NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_GETROUTE, DUMP, &[AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        Ok(self.send(m, || "listing IPv6 routes".into())?.iter().filter_map(parse_route6).collect())
    }

    /// The main table's IPv4 routes.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetworkError> {
        let mut m = Messages::new();
        m.begin(RTM_GETROUTE, DUMP, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        Ok(self.send(m, || "listing routes".into())?.iter().filter_map(parse_route).collect())
    }
}

fn add_address(m: &mut Messages, index: u32, address: Prefix) {
    let mut fixed = [AF_INET, address.len, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    m.begin(RTM_NEWADDR, ACK | CREATE | EXCL, &fixed)
        .attribute(IFA_LOCAL, &address.address.octets())
        .attribute(IFA_ADDRESS, &address.address.octets())
        .attribute(IFA_BROADCAST, &address.broadcast().octets());
}

fn add_address6(m: &mut Messages, index: u32, address: Prefix6) {
    let mut fixed = [AF_INET6, address.len, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    m.begin(RTM_NEWADDR, ACK | CREATE | EXCL, &fixed)
        .attribute(IFA_LOCAL, &address.address.octets())
        .attribute(IFA_ADDRESS, &address.address.octets())
        // Nobody else gives addresses here: no second of waiting whether somebody has it.
        .attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
}

fn add_default_routes(m: &mut Messages, index: u32, gateway4: Option<Ipv4Addr>, gateway6: Option<Ipv6Addr>, how: u16) {
    let route = |family| [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    if let Some(gateway) = gateway4 {
        m.begin(RTM_NEWROUTE, ACK | CREATE | how, &route(AF_INET))
            .attribute(RTA_GATEWAY, &gateway.octets())
            .attribute(RTA_OIF, &index.to_ne_bytes());
    }
    if let Some(gateway) = gateway6 {
        m.begin(RTM_NEWROUTE, ACK | CREATE | how, &route(AF_INET6))
            .attribute(RTA_GATEWAY, &gateway.octets())
            .attribute(RTA_OIF, &index.to_ne_bytes());
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

fn parse_link(reply: &Reply) -> Option<Link> {
    let (header, rest) = reply.body.split_at_checked(16)?;
    let name = find(rest, IFLA_IFNAME)?;
    let kind = find(rest, IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_KIND)).unwrap_or_default();
    (reply.kind == RTM_NEWLINK).then_some(())?;
    Some(Link {
        index: number(&header[4..])?,
        name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
        master: find(rest, IFLA_MASTER).and_then(number),
        bridge: kind.starts_with(b"bridge\0") || kind == b"bridge",
        up: number(&header[8..])? & IFF_UP != 0,
        mac: find(rest, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
        below: find(rest, IFLA_LINK).and_then(number).filter(|_| find(rest, IFLA_LINK_NETNSID).is_none()),
        alias: find(rest, IFLA_IFALIAS)
            .map(|a| String::from_utf8_lossy(a.strip_suffix(&[0]).unwrap_or(a)).into_owned()),
    })
}

fn parse_route(reply: &Reply) -> Option<Route> {
    let (header, rest) = reply.body.split_at_checked(12)?;
    let (mut destination, mut interface, mut table) = (Ipv4Addr::UNSPECIFIED, 0, u32::from(header[4]));
    for (kind, value) in attributes(rest) {
        match kind {
            RTA_DST => destination = Ipv4Addr::from(*value.first_chunk::<4>()?),
            RTA_OIF => interface = number(value)?,
            RTA_TABLE => table = number(value)?,
            _ => {}
        }
    }
    (reply.kind == RTM_NEWROUTE && header[0] == AF_INET && table == u32::from(RT_TABLE_MAIN)).then_some(())?;
    Some(Route { destination: Prefix { address: destination, len: header[1] }, interface })
}

/// `rtnexthop` of linux/rtnetlink.h has a length, flags and the interface before its own attributes.
const NEXT_HOP_HEADER: usize = 8;

fn add_hops(reply: &Reply, hops: &mut Vec<IpAddr>) {
    let Some((header, rest)) = reply.body.split_at_checked(12) else { return };
    if reply.kind != RTM_NEWROUTE || header[1] >= 8 {
        return;
    }
    hops.extend(gateway(rest));
    let mut several = find(rest, RTA_MULTIPATH).unwrap_or_default();
    while let Some(len) = several.first_chunk().map(|l| usize::from(u16::from_ne_bytes(*l))) {
        let Some(hop) = several.get(NEXT_HOP_HEADER..len) else { return };
        hops.extend(gateway(hop));
        several = several.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn gateway(attributes: &[u8]) -> Option<IpAddr> {
    let direct = find(attributes, RTA_GATEWAY);
    // Of another family than the route's: behind the number of its own.
    let address = direct.or_else(|| find(attributes, RTA_VIA)?.get(2..))?;
    match address.len() {
        4 => address.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        _ => address.first_chunk::<16>().map(|b| IpAddr::from(*b)),
    }
}

fn parse_route6(reply: &Reply) -> Option<(Prefix6, u32)> {
    let (header, rest) = reply.body.split_at_checked(12)?;
    let (mut address, mut interface, mut table) = (Ipv6Addr::UNSPECIFIED, 0, u32::from(header[4]));
    for (kind, value) in attributes(rest) {
        match kind {
            RTA_DST => address = Ipv6Addr::from(*value.first_chunk::<16>()?),
            RTA_OIF => interface = number(value)?,
            RTA_TABLE => table = number(value)?,
            _ => {}
        }
    }
    let main = reply.kind == RTM_NEWROUTE && header[0] == AF_INET6 && table == u32::from(RT_TABLE_MAIN);
    let network = (8..127).contains(&header[1]) && !address.is_unicast_link_local() && !address.is_multicast();
    (main && network).then_some((Prefix6 { address, len: header[1] }, interface))
}

/// Reads a reply as each kind.
#[cfg(fuzzing)]
pub(crate) fn fuzz(reply: &Reply) {
    use crate::mac::{mac_text, parse_mac};
    if let Some(link) = parse_link(reply)
        && let Some(mac) = link.mac
    {
        assert!(parse_mac(&mac_text(mac)).is_none_or(|read| read == mac));
    }
    let _ = (parse_route(reply), parse_route6(reply));
}
