//! What stands in berth's nftables table.

use crate::error::{NetworkError, Prefix};
use crate::netlink::{Failure, Socket};
use crate::nft::{self, Batch, Expr, Hook, Key};
use crate::ports::host_address;
use berth_model::network::{PortMapping, Protocol};
use berth_sys::net::NetlinkFamily;
use std::net::Ipv4Addr;

/// Map of ports that are published on every address of the host.
const ANY: &str = "ports";
/// Map of ports that are published on one address.
const ONE: &str = "address_ports";

const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;
const EPROTONOSUPPORT: i32 = 93;

/// A published port and where it leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published<'a> {
    pub mapping: &'a PortMapping,
    pub to: Ipv4Addr,
}

/// The table of one network.
pub struct Rules {
    table: String,
    bridge: String,
    subnet: Prefix,
    /// Opened with the first rule: opening it makes the kernel load nf_tables.
    socket: Option<Socket>,
    handle: Option<u64>,
}

impl Rules {
    pub fn new(table: &str, bridge: &str, subnet: Prefix) -> Self {
        Rules { table: table.into(), bridge: bridge.into(), subnet, socket: None, handle: None }
    }

    /// The table that this agent made is still there: somebody may have flushed the host's whole ruleset.
    pub fn intact(&mut self) -> Result<bool, NetworkError> {
        let Some(handle) = self.handle else { return Ok(false) };
        Ok(self.find_table()? == Some(handle))
    }

    fn find_table(&mut self) -> Result<Option<u64>, NetworkError> {
        let table = self.table.clone();
        let socket = self.socket()?;
        nft::table_handle(socket, &table).map_err(|f| refused(format!("looking for nftables table {table}"), f))
    }

    /// Makes the whole table anew, in one step: no packet meets it half done, and connections go on.
    pub fn rebuild(&mut self, published: &[Published<'_>]) -> Result<(), NetworkError> {
        let table = self.table.clone();
        let mut batch = Batch::new(&table);
        // Adding before deleting: the deletion is not refused when there is none.
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        fill(&mut batch, &self.bridge, self.subnet);
        for port in published {
            add(&mut batch, port)?;
        }
        batch.commit(self.socket()?).map_err(|f| refused(format!("making nftables table ip {table}"), f))?;
        self.handle = self.find_table()?;
        Ok(())
    }

    /// All of them come true together.
    pub fn publish(&mut self, published: &[Published<'_>]) -> Result<(), NetworkError> {
        if published.is_empty() {
            return Ok(());
        }
        let table = self.table.clone();
        let mut batch = Batch::new(&table);
        for port in published {
            add(&mut batch, port)?;
        }
        batch.commit(self.socket()?).map_err(|f| refused(format!("publishing ports in nftables table ip {table}"), f))
    }

    /// Gone already is fine, each for itself.
    pub fn withdraw(&mut self, mappings: &[PortMapping]) -> Result<(), NetworkError> {
        match self.withdraw_together(mappings) {
            Err(failure) if failure.errno() == ENOENT => {
                for mapping in mappings {
                    match self.withdraw_together(std::slice::from_ref(mapping)) {
                        Err(failure) if failure.errno() != ENOENT => return Err(self.cannot_withdraw(failure)),
                        _ => {}
                    }
                }
                Ok(())
            }
            Err(failure) => Err(self.cannot_withdraw(failure)),
            Ok(()) => Ok(()),
        }
    }

    fn cannot_withdraw(&self, failure: Failure) -> NetworkError {
        refused(format!("withdrawing ports from nftables table ip {}", self.table), failure)
    }

    fn withdraw_together(&mut self, mappings: &[PortMapping]) -> Result<(), Failure> {
        if mappings.is_empty() {
            return Ok(());
        }
        let table = self.table.clone();
        let mut batch = Batch::new(&table);
        for mapping in mappings {
            if let Ok(address) = host_address(mapping) {
                let (map, key) = key(mapping, address);
                batch.delete_element(map, key);
            }
        }
        let socket = self.socket().map_err(|error| match error {
            NetworkError::Nftables { source, .. } | NetworkError::NftablesMissing { source, .. } => Failure::Io(source),
            other => Failure::Io(std::io::Error::other(other)),
        })?;
        batch.commit(socket)
    }

    /// Gone already is fine.
    pub fn remove(&mut self) -> Result<(), NetworkError> {
        let table = self.table.clone();
        let mut batch = Batch::new(&table);
        batch.add_table();
        batch.delete_table();
        self.handle = None;
        match self.socket() {
            // Without nf_tables there is no table either.
            Err(NetworkError::NftablesMissing { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(socket) => batch.commit(socket).map_err(|f| refused(format!("deleting nftables table ip {table}"), f)),
        }
    }

    /// The table is there, whoever made it.
    pub fn present(&mut self) -> Result<bool, NetworkError> {
        match self.find_table() {
            Err(NetworkError::NftablesMissing { .. }) => Ok(false),
            found => Ok(found?.is_some()),
        }
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

/// Chains, maps and rules. An `accept` here never overrides a `drop` in a table of the host: each base chain of a hook is asked. A `drop` here
/// is final, so that there are only two: what nobody published, and what pretends to come from the host itself.
fn fill(batch: &mut Batch<'_>, bridge: &str, subnet: Prefix) {
    use Expr::*;
    let loopback = Ipv4Addr::new(127, 0, 0, 0);
    batch.add_map(ANY, false, 1);
    batch.add_map(ONE, true, 2);

    // The bridge routes 127.0.0.0/8 (route_localnet), for ports that are published there: no container may reach the host's own loopback by that.
    batch.add_chain("guard", "filter", Hook::Prerouting, -300);
    batch.add_rule("guard", &[From(bridge), Destination(loopback, 8), Drop]);

    // The priorities are iptables' own: -100 for DNAT, 100 for SNAT, 0 for filters.
    for (chain, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.add_chain(chain, "nat", hook, -100);
        batch.add_rule(chain, &[DnatByAddressAndPort(ONE)]);
        batch.add_rule(chain, &[ToThisHost, DnatByPort(ANY)]);
    }

    batch.add_chain("postrouting", "nat", Hook::Postrouting, 100);
    batch.add_rule("postrouting", &[Source(subnet.address, subnet.len), NotTo(bridge), Masquerade]);
    // Answers to these must come back through the host: from a container to a published port, and from the host's 127.0.0.1.
    batch.add_rule("postrouting", &[To(bridge), Source(subnet.address, subnet.len), Published, Masquerade]);
    batch.add_rule("postrouting", &[To(bridge), Source(loopback, 8), Masquerade]);

    batch.add_chain("forward", "filter", Hook::Forward, 0);
    batch.add_rule("forward", &[To(bridge), Established, Accept]);
    batch.add_rule("forward", &[To(bridge), Published, Accept]);
    // Containers of one bridge see each other (asked here only where br_netfilter is on).
    batch.add_rule("forward", &[To(bridge), From(bridge), Accept]);
    batch.add_rule("forward", &[To(bridge), Drop]);
    batch.add_rule("forward", &[From(bridge), Accept]);
}

fn key(mapping: &PortMapping, address: Ipv4Addr) -> (&'static str, Key) {
    let protocol = match mapping.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let address = (!address.is_unspecified()).then_some(address);
    let map = if address.is_some() { ONE } else { ANY };
    (map, Key { address, protocol, port: mapping.host_port })
}

fn add(batch: &mut Batch<'_>, port: &Published<'_>) -> Result<(), NetworkError> {
    let (map, key) = key(port.mapping, host_address(port.mapping)?);
    batch.add_element(map, key, (port.to, port.mapping.container_port));
    Ok(())
}
