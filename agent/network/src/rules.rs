//! What stands in berth's nftables tables: one of each family of addresses for all networks of the agent, and one that guards their bridges.

use crate::detour;
use crate::elements::{Entry, MAPS, Published, entries};
use crate::error::NetworkError;
use crate::guard::{self, Member};
use crate::loopback6::Mirror;
use crate::netlink::{Failure, Socket};
use crate::nft::{self, Batch, Expr, Family, Hook, Net};
use berth_model::network::{PortMapping, Protocol};
use berth_sys::detour_bpf::{SECOND_WAY, TO_LOOPBACK};
use berth_sys::net::NetlinkFamily;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Elements in one transaction.
const WITHDRAWN_AT_ONCE: usize = 4096;
/// In whose name the host's ::1 speaks to a container: an address that nobody has, so that answers to it are known.
const LOOPBACK_NAME: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x6572, 0x7468, 0, 0, 0, 0, 1);
/// Where copies are "sent", by interface alone: nobody is asked for these.
const COPIES_TO: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))];

const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;
const EPROTONOSUPPORT: i32 = 93;

/// What the tables say of one network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetRules {
    pub bridge: String,
    pub v4: Option<Net>,
    pub v6: Option<Net>,
    /// Nothing goes out of it, and nothing comes in but what is published.
    pub internal: bool,
    /// Containers go out in the host's name.
    pub masquerade4: bool,
    pub masquerade6: bool,
    /// Its containers send with their own addresses only.
    pub guarded: bool,
}

/// What the tables have of containers.
#[derive(Debug)]
pub struct Contents<'a> {
    pub published: &'a [Published<'a>],
    pub members: &'a [Member],
    /// Ports of bridges from which nothing comes any more.
    pub silent: &'a [String],
}

/// Whether the kernel lets bridges be guarded.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Guard {
    Unknown,
    Works,
    /// What the kernel says.
    Missing(String),
}

/// The tables.
pub struct Rules {
    table: String,
    networks: Vec<NetRules>,
    /// What comes from outside has to pass the host's own input rules first.
    input_rules: bool,
    /// Opened with the first rule: opening it makes the kernel load nf_tables.
    socket: Option<Socket>,
    /// Of the tables `ip` and `bridge`, where there is one.
    handles: Option<(u64, Option<u64>)>,
    guard: Guard,
    /// Index of the interface by which copies come back, once the tables name it.
    detour: Option<u32>,
    mirror: Mirror,
}

impl Rules {
    pub fn new(table: &str, input_rules: bool) -> Self {
        Rules {
            table: table.into(),
            networks: Vec::new(),
            input_rules,
            socket: None,
            handles: None,
            guard: Guard::Unknown,
            detour: None,
            mirror: Mirror::new(table),
        }
    }

    /// The tables that this agent made, with this network, are still there: somebody may have flushed the host's whole ruleset.
    pub fn intact(&mut self, bridge: &str) -> Result<bool, NetworkError> {
        let Some(handles) = self.handles else { return Ok(false) };
        if !self.networks.iter().any(|n| n.bridge == bridge) {
            return Ok(false);
        }
        Ok(self.find_tables()? == Some(handles))
    }

    /// `None`: one of them is not there.
    fn find_tables(&mut self) -> Result<Option<(u64, Option<u64>)>, NetworkError> {
        let Some(first) = self.find_table(Family::V4)? else { return Ok(None) };
        if self.guard != Guard::Works {
            return Ok(Some((first, None)));
        }
        Ok(self.find_table(Family::Bridge)?.map(|guard| (first, Some(guard))))
    }

    /// Why containers' frames cannot be looked at on this kernel, in its own words; `None`: they can.
    pub fn guard_missing(&mut self) -> Result<Option<String>, NetworkError> {
        if self.guard == Guard::Unknown {
            let table = self.table.clone();
            self.guard = match guard::probe(self.socket()?, &table)? {
                None => Guard::Works,
                Some(why) => Guard::Missing(why),
            };
        }
        Ok(match &self.guard {
            Guard::Missing(why) => Some(why.clone()),
            _ => None,
        })
    }

    /// Whether this one's port is to be guarded, and can be.
    fn guards(&self, member: &Member) -> bool {
        self.guard == Guard::Works && self.networks.iter().any(|n| n.guarded && n.bridge == member.bridge)
    }

    fn find_table(&mut self, family: Family) -> Result<Option<u64>, NetworkError> {
        let table = self.table.clone();
        let socket = self.socket()?;
        nft::table_handle(socket, family, &table).map_err(|f| refused(format!("looking for nftables table {table}"), f))
    }

    /// One more network, or one with other properties, from the next `rebuild` on.
    pub fn put_network(&mut self, network: NetRules) {
        self.drop_network(&network.bridge);
        self.networks.push(network);
    }

    pub fn drop_network(&mut self, bridge: &str) {
        self.networks.retain(|n| n.bridge != bridge);
    }

    /// These and no others, from the next `rebuild` on. What stands in the kernel is not trusted until then.
    pub fn set_networks(&mut self, networks: Vec<NetRules>) {
        self.networks = networks;
        self.handles = None;
    }

    /// By which notifications name this value as the author of a change.
    pub fn author(&self) -> Option<u32> {
        self.socket.as_ref()?.port().ok()
    }

    pub const fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    pub fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }

    pub fn remove_if_present(&mut self) -> Result<(), NetworkError> {
        self.mirror.remove();
        if self.present()? { self.remove() } else { detour::remove(&self.table) }
    }

    /// Makes all tables anew, in one step: no packet meets them half done, and connections go on.
    pub fn rebuild(&mut self, contents: &Contents<'_>) -> Result<(), NetworkError> {
        let Contents { published, members, silent } = *contents;
        let table = self.table.clone();
        let known = self.guard != Guard::Unknown;
        if let Some(why) = self.guard_missing()?
            && !known
        {
            tracing::warn!(
                why,
                "containers can send with each other's addresses: this kernel has no nftables for bridges"
            );
        }
        let detour = self.wanted_detour(published)?;
        let mut batch = Batch::new(&table);
        for family in Family::BOTH {
            batch.family(family);
            // Adding before deleting: the deletion is not refused when there is none.
            batch.add_table();
            batch.delete_table();
            batch.add_table();
            fill(&mut batch, family, &self.networks, self.input_rules);
            if let Some(device) = detour {
                fill_detour(&mut batch, family, device, self.input_rules);
            }
        }
        for entry in published.iter().flat_map(entries) {
            entry.add(&mut batch);
        }
        if self.guard == Guard::Works {
            guard::make(&mut batch, members.iter().filter(|m| self.guards(m)), silent);
        }
        batch.commit(self.socket()?).map_err(|f| refused(format!("making nftables tables {table}"), f))?;
        self.detour = detour;
        self.handles = self.find_tables()?;
        self.mirror.rebuild(published);
        Ok(())
    }

    /// The way back in for what the host's input rules let through, made when a port needs it first.
    fn wanted_detour(&mut self, published: &[Published<'_>]) -> Result<Option<u32>, NetworkError> {
        let needed = |p: &Published<'_>| self.input_rules && from_outside(p.mapping) || on_loopback6(p);
        if self.detour.is_none() && !published.iter().any(needed) {
            return Ok(None);
        }
        match self.detour {
            Some(device) if detour::is_there(&self.table, device)? => Ok(Some(device)),
            _ => detour::ensure(&self.table).map(Some),
        }
    }

    /// All of them come true together, and with them what `member` may send.
    pub fn publish(&mut self, published: &[Published<'_>], member: Option<&Member>) -> Result<(), NetworkError> {
        let add: Vec<Entry> = published.iter().flat_map(entries).collect();
        self.change(published, &[], &add, member)?;
        self.mirror.change(&[], published);
        Ok(())
    }

    /// What led where `before` says leads where `now` says, in one step: no packet meets a range that is being divided.
    pub fn exchange(&mut self, before: &[Published<'_>], now: &[Published<'_>]) -> Result<(), NetworkError> {
        let of = |list: &[Published<'_>]| list.iter().flat_map(entries).collect::<HashSet<Entry>>();
        let (old, new) = (of(before), of(now));
        let delete: Vec<Entry> = old.difference(&new).cloned().collect();
        let add: Vec<Entry> = new.difference(&old).cloned().collect();
        match self.change(now, &delete, &add, None) {
            // Somebody else took elements away: each for itself then.
            Err(NetworkError::Nftables { source, .. }) if source.raw_os_error() == Some(ENOENT) => {
                self.withdraw_each(&delete)?;
                self.change(now, &[], &add, None)
            }
            other => other,
        }?;
        self.mirror.change(before, now);
        Ok(())
    }

    fn change(
        &mut self,
        published: &[Published<'_>],
        delete: &[Entry],
        add: &[Entry],
        member: Option<&Member>,
    ) -> Result<(), NetworkError> {
        // First: what cannot be published has no elements, and would look like nothing to do.
        refuse(published)?;
        let member = member.filter(|m| self.guards(m));
        if delete.is_empty() && add.is_empty() && member.is_none() {
            return Ok(());
        }
        let table = self.table.clone();
        let detour = self.wanted_detour(published)?;
        let mut batch = Batch::new(&table);
        for entry in delete {
            entry.delete(&mut batch);
        }
        if let Some(device) = detour.filter(|_| detour != self.detour) {
            for family in Family::BOTH {
                fill_detour(batch.family(family), family, device, self.input_rules);
            }
        }
        for entry in add {
            entry.add(&mut batch);
        }
        if let Some(member) = member {
            guard::add(&mut batch, member);
        }
        batch.commit(self.socket()?).map_err(|f| refused(format!("adding to nftables tables {table}"), f))?;
        self.detour = detour;
        Ok(())
    }

    /// A port whose link is gone. Gone already is fine, and the table with it.
    pub fn forget(&mut self, port: &str, member: Option<&Member>) -> Result<(), NetworkError> {
        if self.guard != Guard::Works || member.is_some_and(|m| !self.guards(m)) {
            return Ok(());
        }
        let table = self.table.clone();
        let mut batch = Batch::new(&table);
        match member {
            Some(member) => guard::delete(&mut batch, member),
            None => guard::delete_port(&mut batch, port),
        }
        match batch.commit(self.socket()?) {
            Err(failure) if failure.errno() != ENOENT => {
                Err(refused(format!("taking {port} out of nftables table bridge {table}"), failure))
            }
            _ => Ok(()),
        }
    }

    /// Gone already is fine, each for itself.
    pub fn withdraw(&mut self, published: &[Published<'_>]) -> Result<(), NetworkError> {
        let gone: Vec<Entry> = published.iter().flat_map(entries).collect();
        // In parts that fit into one message: what was published may be more than one container may have by now.
        for gone in gone.chunks(WITHDRAWN_AT_ONCE) {
            match self.withdraw_together(gone) {
                Err(failure) if failure.errno() == ENOENT => self.withdraw_each(gone),
                other => other.map_err(|failure| self.cannot_withdraw(failure)),
            }?;
        }
        self.mirror.change(published, &[]);
        Ok(())
    }

    fn withdraw_each(&mut self, gone: &[Entry]) -> Result<(), NetworkError> {
        for entry in gone {
            match self.withdraw_together(std::slice::from_ref(entry)) {
                Err(failure) if failure.errno() != ENOENT => return Err(self.cannot_withdraw(failure)),
                _ => {}
            }
        }
        Ok(())
    }

    fn cannot_withdraw(&self, failure: Failure) -> NetworkError {
        refused(format!("withdrawing ports from nftables table {}", self.table), failure)
    }

    fn withdraw_together(&mut self, gone: &[Entry]) -> Result<(), Failure> {
        if gone.is_empty() {
            return Ok(());
        }
        let table = self.table.clone();
        let mut batch = Batch::new(&table);
        for entry in gone {
            entry.delete(&mut batch);
        }
        let socket = self.socket().map_err(|error| match error {
            NetworkError::Nftables { source, .. } | NetworkError::NftablesMissing { source, .. } => Failure::Io(source),
            other => Failure::Io(std::io::Error::other(other)),
        })?;
        batch.commit(socket)
    }

    /// Gone already is fine.
    fn remove(&mut self) -> Result<(), NetworkError> {
        let table = self.table.clone();
        let mut batch = Batch::new(&table);
        for family in Family::ALL {
            // The kernel may lack a family: then there is no such table.
            if matches!(self.find_table(family), Ok(Some(_))) {
                batch.family(family).add_table();
                batch.delete_table();
            }
        }
        (self.handles, self.detour) = (None, None);
        match self.socket() {
            // Without nf_tables there is no table either.
            Err(NetworkError::NftablesMissing { .. }) => {}
            Err(error) => return Err(error),
            Ok(socket) => {
                batch.commit(socket).map_err(|f| refused(format!("deleting nftables tables {table}"), f))?;
            }
        }
        detour::remove(&table)
    }

    /// A table is there, whoever made it.
    fn present(&mut self) -> Result<bool, NetworkError> {
        for family in Family::ALL {
            match self.find_table(family) {
                Err(NetworkError::NftablesMissing { .. }) => {}
                Ok(None) => {}
                Ok(Some(_)) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn socket(&mut self) -> Result<&mut Socket, NetworkError> {
        if self.socket.is_none() {
            let socket = Socket::open(NetlinkFamily::Netfilter)
                .map_err(|source| refused("opening an nfnetlink socket".into(), Failure::Io(source)))?;
            self.socket = Some(socket);
        }
        self.socket.as_mut().ok_or_else(|| NetworkError::Config("no nfnetlink socket".into()))
    }
}

fn refused(act: String, failure: Failure) -> NetworkError {
    let missing = matches!(failure.errno(), EOPNOTSUPP | EPROTONOSUPPORT);
    let source = failure.into_io();
    if missing { NetworkError::NftablesMissing { act, source } } else { NetworkError::Nftables { act, source } }
}

/// What cannot be published: nothing is done then.
fn refuse(published: &[Published<'_>]) -> Result<(), NetworkError> {
    // There with the connection tracking of this protocol, which NAT needs.
    const SCTP: &str = "/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established";
    for port in published {
        if let Some(IpAddr::V6(address)) = port.mapping.host_ip.filter(|_| port.to6.is_none()) {
            return Err(NetworkError::HostAddressFamily(address.into()));
        }
        if port.mapping.protocol == Protocol::Sctp && !std::path::Path::new(SCTP).exists() {
            return Err(NetworkError::SctpMissing);
        }
    }
    Ok(())
}

/// Others than the host itself and its containers can send to it.
pub fn from_outside(mapping: &PortMapping) -> bool {
    mapping.addresses().iter().any(|ip| !ip.is_loopback())
}

/// The host can reach it by ::1.
fn on_loopback6(port: &Published<'_>) -> bool {
    port.to6.is_some() && port.mapping.addresses().cover(IpAddr::V6(Ipv6Addr::LOCALHOST))
}

const LOOPBACK4: Net = Net { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), len: 8 };
const LOOPBACK6: Net = Net { address: IpAddr::V6(Ipv6Addr::LOCALHOST), len: 128 };
const NAMED6: Net = Net { address: IpAddr::V6(LOOPBACK_NAME), len: 128 };

/// Chains, maps and rules. An `accept` here never overrides a `drop` in a table of the host: each base chain of a hook is asked. A `drop` here
/// is final, so that there are few: what nobody published, what pretends to come from the host itself, and packets whose copy goes on.
fn fill(batch: &mut Batch<'_>, family: Family, networks: &[NetRules], input_rules: bool) {
    use Expr::*;
    for (map, shape) in MAPS {
        batch.add_map(map, shape);
    }
    batch.add_interfaces("bridges", false);
    batch.add_interfaces("internal", false);
    batch.add_interfaces("same", true);
    for network in networks {
        batch.add_interface("bridges", &[&network.bridge]);
        batch.add_interface("same", &[&network.bridge, &network.bridge]);
        if network.internal {
            batch.add_interface("internal", &[&network.bridge]);
        }
    }

    batch.add_chain("guard", "filter", Hook::Prerouting, -300);
    if family == Family::V4 {
        // The bridge routes 127.0.0.0/8 (route_localnet), for ports that are published there: no container may reach the host's own loopback by
        // that.
        batch.add_rule("guard", &[FromAny("bridges"), Destination(LOOPBACK4), Drop]);
    }

    // Where a connection to a published port goes.
    batch.add_plain_chain("published");
    for (map, shape) in MAPS {
        let mut rule = if shape.with_address { vec![] } else { vec![ToThisHost] };
        rule.push(Dnat(map, shape));
        batch.add_rule("published", &rule);
    }
    // The priorities are iptables' own: -100 for DNAT, 100 for SNAT, 0 for filters.
    batch.add_chain("prerouting", "nat", Hook::Prerouting, -100);
    batch.add_rule("prerouting", &[FromAny("bridges"), Goto("published")]);
    if input_rules {
        // By the port first: the mark of a packet that is another agent's must stay.
        for (map, shape) in MAPS {
            let mut rule = vec![Mark(SECOND_WAY)];
            if !shape.with_address {
                rule.push(ToThisHost);
            }
            rule.extend([PortIn(map, shape), SetMark(0)]);
            if family == Family::V4 {
                // The copy was told not to be cut, which the client may not have wanted.
                rule.push(AllowFragments);
            }
            rule.push(Goto("published"));
            batch.add_rule("prerouting", &rule);
        }
    } else {
        batch.add_rule("prerouting", &[Goto("published")]);
    }
    batch.add_chain("output", "nat", Hook::Output, -100);
    batch.add_rule("output", &[Goto("published")]);

    // Behind whatever the host asks of packets that are for itself.
    batch.add_chain("input", "filter", Hook::Input, i32::MAX - 1);
    batch.add_plain_chain("detour");

    batch.add_chain("postrouting", "nat", Hook::Postrouting, 100);
    // Answers to these must come back through the host: from the host's loopback, and from a container to a published port.
    match family {
        Family::V4 => batch.add_rule("postrouting", &[ToAny("bridges"), Source(LOOPBACK4), Masquerade]),
        Family::V6 => batch.add_rule("postrouting", &[ToAny("bridges"), Source(LOOPBACK6), Snat(LOOPBACK_NAME.into())]),
        // A bridge's table has no addresses to translate: `guard` fills it.
        Family::Bridge => {}
    }
    for network in networks {
        let (subnet, masquerade) = match family {
            Family::V4 => (network.v4, network.masquerade4),
            Family::V6 => (network.v6, network.masquerade6),
            Family::Bridge => continue,
        };
        let Some(subnet) = subnet else { continue };
        let bridge = network.bridge.as_str();
        batch.add_rule("postrouting", &[To(bridge), Source(subnet), Published, Masquerade]);
        if masquerade {
            batch.add_rule("postrouting", &[Source(subnet), NotTo(bridge), Masquerade]);
        }
    }

    batch.add_chain("forward", "filter", Hook::Forward, 0);
    batch.add_rule("forward", &[ToAny("bridges"), Established, Accept]);
    // Containers of one bridge see each other (asked here only where br_netfilter is on), those of others not.
    batch.add_rule("forward", &[Within("same"), Accept]);
    batch.add_rule("forward", &[FromAny("internal"), Established, Accept]);
    // Before the published ports: those of other networks would be a way out of an internal one.
    batch.add_rule("forward", &[FromAny("internal"), Drop]);
    batch.add_rule("forward", &[ToAny("bridges"), Published, Accept]);
    batch.add_rule("forward", &[ToAny("bridges"), Drop]);
    batch.add_rule("forward", &[FromAny("bridges"), Accept]);
}

/// The rules that send copies through `device`: the way of a packet from outside to a published port.
///
/// Its first packet is not redirected when it comes in, but goes to the host itself, so that the host's input rules decide about it, as about a
/// packet for a process of the host. Behind them all, it is copied out of `device`, whose program sends the copy back into the interface where
/// the packet came in, with a mark; the packet itself ends here. What has the mark is redirected. The rest of the connection is known to
/// conntrack and goes the straight way.
fn fill_detour(batch: &mut Batch<'_>, family: Family, device: u32, input_rules: bool) {
    use Expr::*;
    let [v4, v6] = COPIES_TO;
    let copy = Copy(if family == Family::V4 { v4 } else { v6 }, device);
    batch.flush_chain("input");
    batch.flush_chain("detour");
    if input_rules {
        for (map, shape) in MAPS {
            let mut rule = vec![New, NotFrom("lo")];
            if !shape.with_address {
                rule.push(ToThisHost);
            }
            rule.extend([PortIn(map, shape), Goto("detour")]);
            batch.add_rule("input", &rule);
        }
        batch.add_rule("detour", &[FromEthernet, KeepHardwareAddress]);
        batch.add_rule("detour", std::slice::from_ref(&copy));
        batch.add_rule("detour", &[Drop]);
    }
    if family == Family::V6 {
        // The kernel routes nothing to ::1 that does not come in on lo, so answers come in there.
        batch.flush_chain("guard");
        let mut priority = [0; 4];
        priority[TO_LOOPBACK] = 1;
        batch.add_rule(
            "guard",
            &[FromAny("bridges"), Destination(NAMED6), SetMark(0), SetPriority(priority), copy, Drop],
        );
    }
}
