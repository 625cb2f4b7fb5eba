//! What can go wrong with a container's network, by what the reader can do about it.

use berth_model::ContainerId;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IPv4 address and the length of its prefix: `172.31.240.0/20`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    pub address: Ipv4Addr,
    /// 0 to 32.
    pub len: u8,
}

impl Prefix {
    /// The network's first address, under which it is known.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask())
    }

    /// The network's last address.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    pub(crate) fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network().to_bits()
    }

    /// One lies within the other.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.len)
    }
}

/// An IPv6 address and the length of its prefix: `fd00:1::/64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix6 {
    pub address: Ipv6Addr,
    /// 0 to 128.
    pub len: u8,
}

impl Prefix6 {
    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.len.min(128))).unwrap_or(0)
    }

    pub fn network(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address.to_bits() & self.mask())
    }

    /// The network's last address.
    pub fn last(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address.to_bits() | !self.mask())
    }

    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & self.mask() == self.network().to_bits()
    }

    /// One lies within the other.
    pub fn overlaps(self, other: Prefix6) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.len)
    }
}

/// Who has a port of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortHolder {
    Container(ContainerId),
    /// A process of the host, by its socket.
    Process {
        pid: u32,
        name: String,
    },
    /// A socket of the host that no process was found to have.
    Host,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortHolder::Container(id) => write!(f, "container {}", id.short()),
            PortHolder::Process { pid, name } => write!(f, "process {pid} ({name}) of the host"),
            PortHolder::Host => f.write_str("a process of the host"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configuration cannot work: the reason.
    #[error("network configuration: {0}")]
    Config(String),
    #[error("port {address}/{protocol} of the host is in use by {holder}")]
    PortInUse { address: SocketAddr, protocol: &'static str, holder: PortHolder },
    #[error("none of the ports {first} to {last} of the host is free: {why}")]
    NoneFree { first: u16, last: u16, why: Box<NetworkError> },
    #[error(
        "no free port of {protocol} was found among those that the host chooses from (sysctl net.ipv4.ip_local_port_range): name one, or publish fewer"
    )]
    NoneLeft { protocol: &'static str },
    /// `0` as a container's port.
    #[error("a published port needs a port of the container from 1 to 65535")]
    NoContainerPort,
    #[error("publishing on {0}: the container has no IPv6 address (its network has no IPv6 subnet)")]
    HostAddressFamily(IpAddr),
    #[error("publishing on {0}: the host has no such address")]
    HostAddressUnknown(IpAddr),
    #[error(
        "publishing ports {first} to {last}: beyond 1024 ports a range must lead to the same ports of the container"
    )]
    ShiftedRange { first: u16, last: u16 },
    #[error("publishing ports from {first} on: {count} ports go beyond 65535")]
    RangeEnd { first: u16, count: u16 },
    #[error("publishing an SCTP port: this kernel does not track SCTP connections (CONFIG_NF_CT_PROTO_SCTP)")]
    SctpMissing,
    #[error("binding port {address}/{protocol} of the host: {source}")]
    PortBind { address: SocketAddr, protocol: &'static str, source: io::Error },
    #[error("no address is left in {0}: all are given to containers")]
    NoAddressLeft(Prefix),
    #[error("no address is left in {0}: all are given to containers")]
    NoAddressLeft6(Prefix6),
    #[error(
        "network {network} is full: the kernel gives its bridge {bridge} 1023 ports at most, one for each container; put this one on another network"
    )]
    BridgeFull { network: String, bridge: String },
    #[error("address {address} of network {network} is in use")]
    AddressInUse { address: IpAddr, network: String },
    #[error("address {address} is not one of network {network}, which has {subnets}")]
    AddressOutside { address: IpAddr, network: String, subnets: String },
    #[error("network {network} has an interface with MAC {mac} already")]
    MacInUse { mac: String, network: String },
    #[error("no network {0}")]
    NoNetwork(String),
    #[error("the host has no interface {0}")]
    NoInterface(String),
    #[error("the kernel refuses {what}: {source}")]
    DriverRefused { what: String, source: io::Error },
    #[error("the container is attached already, as {0}")]
    AlreadyAttached(Ipv4Addr),
    #[error(
        "subnet {subnet} of bridge {bridge} collides with the host's route {route} on {interface}: choose another subnet"
    )]
    SubnetInUse { subnet: Prefix, bridge: String, route: Prefix, interface: String },
    #[error("subnet {subnet} collides with the host's route {route} on {interface}")]
    SubnetInUse6 { subnet: Prefix6, route: Prefix6, interface: String },
    #[error("interface {0} exists and is no bridge: choose another bridge name in the configuration")]
    NotABridge(String),
    #[error("bridge {0} of the host was not made by berth, which leaves it alone: choose another bridge name")]
    ForeignBridge(String),
    /// A request to rtnetlink.
    #[error("{act}: {source}")]
    Netlink { act: String, source: io::Error },
    /// A request to nf_tables.
    #[error("{act}: {source}")]
    Nftables { act: String, source: io::Error },
    #[error("nf_tables is not in this kernel (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_FIB_IPV4): {act}: {source}")]
    NftablesMissing { act: String, source: io::Error },
    /// The host's input rules cannot be respected, so nothing is published that they would be asked about.
    #[error("{act}: {source}; publish on 127.0.0.1, or let them not be asked: [network] input_rules = false")]
    Detour { act: String, source: io::Error },
    #[error("{act}: {source}")]
    Namespace { act: &'static str, source: io::Error },
    #[error("writing {value} to {key}: {source}")]
    Sysctl { key: String, value: &'static str, source: io::Error },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let p = Prefix { address: Ipv4Addr::new(172, 31, 240, 1), len: 20 };
        assert_eq!(p.to_string(), "172.31.240.0/20");
        assert_eq!(p.broadcast(), Ipv4Addr::new(172, 31, 255, 255));
        assert!(p.overlaps(Prefix { address: Ipv4Addr::new(172, 16, 0, 0), len: 12 }));
        assert!(p.overlaps(Prefix { address: Ipv4Addr::new(172, 31, 241, 0), len: 24 }));
        assert!(!p.overlaps(Prefix { address: Ipv4Addr::new(172, 31, 0, 0), len: 24 }));
        assert!(p.overlaps(Prefix { address: Ipv4Addr::UNSPECIFIED, len: 0 }));
    }
}
