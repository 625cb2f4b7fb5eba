//! Addresses and ports of containers.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// How a container is connected.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A veth on the default bridge.
    #[default]
    Bridge,
    /// A network namespace with only loopback.
    None,
    /// The host's network namespace.
    Host,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the host that leads to a port of the container.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PortMapping {
    /// Address of the host; `None`: every address.
    pub host_ip: Option<IpAddr>,
    /// Port of the host; 0: the agent chooses one from the host's ephemeral range.
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// What a running container has on the default bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the host's end of the veth.
    pub host_interface: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    /// `aa:bb:cc:dd:ee:ff`
    pub mac: String,
    /// With every host port filled in.
    pub ports: Vec<PortMapping>,
}
