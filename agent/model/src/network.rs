//! Networks, and addresses and ports of containers.

mod attachments;
mod bounds;
mod cni;
mod ports;
mod record;

pub use attachments::Attachments;
pub use bounds::{MAX_MAPPINGS, SINGLE_PORTS, bounded, clash, elements};
pub use cni::{CniAttachment, CniDns};
pub use ports::{Cut, HostAddresses, PortMapping, Protocol};
pub use record::{
    Ipv6Mode, NetworkDriver, NetworkId, NetworkNameError, NetworkRecord, PREDEFINED, SPOOFING, SPOOFING_ALLOWED,
    SPOOFING_DENIED, Subnet4, Subnet6, check_network_name,
};

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Name of the network that a container has when it asks for none.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Docker's other word for it, which no network can have as its name.
pub const DEFAULT_WORD: &str = "default";

/// How a container is connected.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A namespace of its own, with an interface on each of the spec's networks, or on the default one.
    #[default]
    Bridge,
    /// A network namespace with only loopback.
    None,
    /// The host's network namespace.
    Host,
    /// The network namespace of another container, by its id.
    Container(String),
}

impl NetworkMode {
    /// Whose namespace it is: the container has interfaces of its own.
    pub const fn is_own(&self) -> bool {
        matches!(self, NetworkMode::Bridge)
    }
}

/// A network that a container asks for, and what it wants to be there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    /// Name of the network.
    pub network: String,
    /// More names of the container, for the others of this network.
    pub aliases: Vec<String>,
    /// `None`: the agent chooses.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// `aa:bb:cc:dd:ee:ff`, lower case, of one interface; `None`: made from the address.
    pub mac: Option<String>,
    /// The network with the highest one has the default route; of equal ones the first.
    pub gw_priority: i32,
}

/// What a running container has on a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Name of the network.
    #[serde(default = "default_network")]
    pub network: String,
    /// Name of the bridge, or of the interface that a macvlan sits on; empty: plugins have made what there is (cni).
    pub bridge: String,
    /// Name of the host's end of the veth; empty: it has none (macvlan), or none is known (cni).
    pub host_interface: String,
    /// Name of the container's end: eth0, eth1, …
    #[serde(default = "first_interface")]
    pub interface: String,
    /// Unspecified: none, which only plugins do.
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    /// The network's gateway; the container has a default route by it only on one of its networks.
    pub gateway: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Attachment6>,
    /// `aa:bb:cc:dd:ee:ff`
    pub mac: String,
    /// The container's default route is by this network.
    #[serde(default = "yes")]
    pub default_route: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// With every host port filled in; on the network with the default route.
    pub ports: Vec<PortMapping>,
    /// What plugins have made of it: on networks of the driver cni.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<Box<CniAttachment>>,
}

impl NetworkAttachment {
    /// Plugins have made it, and take it away.
    pub fn is_cni(&self) -> bool {
        self.cni.is_some()
    }

    /// Its addresses, of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let four = Some(IpAddr::V4(self.address)).filter(|a| !a.is_unspecified());
        four.into_iter().chain(self.ipv6.as_ref().map(|six| IpAddr::V6(six.address)))
    }
}

/// The IPv6 half of an attachment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment6 {
    pub address: Ipv6Addr,
    pub prefix_len: u8,
    pub gateway: Ipv6Addr,
}

fn default_network() -> String {
    DEFAULT_NETWORK.to_owned()
}

fn first_interface() -> String {
    "eth0".to_owned()
}

const fn yes() -> bool {
    true
}
