//! Network namespaces, links, addresses, nftables and published ports.
//!
//! Everything blocks: call it from a blocking thread. CONTRACT (skeleton to be filled; signatures may grow).
#![forbid(unsafe_code)]
#![allow(clippy::todo, unused_variables, dead_code)]

use berth_model::ContainerId;
use berth_model::network::{NetworkAttachment, PortMapping};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the default bridge: berth0.
    pub bridge: String,
    /// Gateway address and prefix length: 172.31.240.1/20 or what the configuration says.
    pub gateway: Ipv4Addr,
    pub prefix_len: u8,
    /// Name of the nftables table (family ip): berth.
    pub table: String,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    // PortInUse{..}, NoAddressLeft{..}, Netlink{act, errno}, Nftables{act, errno}, Namespace{act, source}, ...
    #[error("{0}")]
    Placeholder(String),
}

/// Cheap to clone. The bridge and the table are made with the first container that needs them.
#[derive(Clone)]
pub struct Networks {}

impl Networks {
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        todo!()
    }
    /// Makes a netns with lo up, a veth to the bridge, address, route, port rules. Undone whole when a step fails.
    pub fn attach(&self, id: &ContainerId, ports: &[PortMapping]) -> Result<Attached, NetworkError> {
        todo!()
    }
    /// Takes the address, ports and rules back; the veth goes with its namespace (deleted in the background where it still is). Gone already is fine.
    pub fn detach(&self, id: &ContainerId, attachment: &NetworkAttachment) -> Result<(), NetworkError> {
        todo!()
    }
    /// After a restart of the agent: `live` containers keep their addresses and ports; veths and rules of berth's without an owner are removed,
    /// missing rules are put back.
    pub fn recover(&self, live: &[(ContainerId, NetworkAttachment)]) -> Result<(), NetworkError> {
        todo!()
    }
    /// Removes bridge and table (uninstall; tests).
    pub fn remove_all(&self) -> Result<(), NetworkError> {
        todo!()
    }
    /// The gateway: what `host-gateway` means.
    pub fn gateway(&self) -> Ipv4Addr {
        todo!()
    }
}

pub struct Attached {
    pub netns: OwnedFd,
    pub attachment: NetworkAttachment,
}
