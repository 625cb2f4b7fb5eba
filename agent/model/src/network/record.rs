//! Networks as the store keeps them.

use crate::{ContainerId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks that every node has and nobody removes: name and driver.
pub const PREDEFINED: [(&str, NetworkDriver); 3] =
    [("bridge", NetworkDriver::Bridge), ("host", NetworkDriver::Host), ("none", NetworkDriver::Null)];

/// Option of a network of driver bridge: whether its containers may send with addresses that are not theirs.
pub const SPOOFING: &str = "berth.network.spoofing";
/// Its values; the first is the default.
pub const SPOOFING_DENIED: &str = "deny";
pub const SPOOFING_ALLOWED: &str = "allow";

/// 64 lower-case hexadecimal characters, as a container's.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkId(ContainerId);

impl NetworkId {
    /// An id from 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        NetworkId(ContainerId::from_bytes(bytes))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The first twelve characters, as lists show them.
    pub fn short(&self) -> &str {
        self.0.short()
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// What a network is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkDriver {
    /// A Linux bridge of its own.
    #[default]
    Bridge,
    /// Interfaces with MACs of their own on an interface of the host.
    Macvlan,
    /// Whatever the plugins of a configuration list make.
    Cni,
    /// The host's own namespace.
    Host,
    /// No network at all.
    Null,
}

impl NetworkDriver {
    /// Docker's word.
    pub const fn name(self) -> &'static str {
        match self {
            NetworkDriver::Bridge => "bridge",
            NetworkDriver::Macvlan => "macvlan",
            NetworkDriver::Cni => "cni",
            NetworkDriver::Host => "host",
            NetworkDriver::Null => "null",
        }
    }
}

/// How IPv6 leaves a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ipv6Mode {
    /// With the host's address (NAT66).
    #[default]
    Nat,
    /// With the container's own: routers around must know the way back.
    Routed,
}

impl Ipv6Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Ipv6Mode::Nat => "nat",
            Ipv6Mode::Routed => "routed",
        }
    }
}

/// An IPv4 subnet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subnet4 {
    /// The network's own address.
    pub subnet: Ipv4Addr,
    /// 8 to 30.
    pub prefix_len: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// The agent chooses from here: first address and prefix length; `None`: all of the subnet.
    #[serde(default)]
    pub range: Option<(Ipv4Addr, u8)>,
}

/// An IPv6 subnet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subnet6 {
    pub subnet: Ipv6Addr,
    /// 8 to 126.
    pub prefix_len: u8,
    pub gateway: Ipv6Addr,
    #[serde(default)]
    pub range: Option<(Ipv6Addr, u8)>,
}

impl fmt::Display for Subnet4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.subnet, self.prefix_len)
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.subnet, self.prefix_len)
    }
}

/// A network of the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: NetworkId,
    pub name: String,
    pub driver: NetworkDriver,
    /// `None` for host, none and cni.
    #[serde(default)]
    pub ipv4: Option<Subnet4>,
    #[serde(default)]
    pub ipv6: Option<Subnet6>,
    /// Addresses of others in the subnets, by the name that somebody gave them: no container gets one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary: BTreeMap<String, IpAddr>,
    #[serde(default)]
    pub ipv6_mode: Ipv6Mode,
    /// No way out, and none in.
    #[serde(default)]
    pub internal: bool,
    /// Bytes; `None`: the kernel's 1500.
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// As they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Name of the bridge; of a macvlan, the interface that it sits on. Empty for host and none.
    #[serde(default)]
    pub bridge: String,
    /// The configuration list of a network of the driver cni: JSON, as it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflist: Option<String>,
    pub created: Timestamp,
    /// It goes: nothing may join any more, and the next agent goes on with it.
    #[serde(default)]
    pub removing: bool,
}

impl NetworkRecord {
    /// Every node has it, and nobody removes it.
    pub fn is_predefined(&self) -> bool {
        PREDEFINED.iter().any(|(name, _)| *name == self.name)
    }

    /// The name of an address that is somebody else's.
    pub fn auxiliary_name(&self, address: IpAddr) -> Option<&str> {
        self.auxiliary.iter().find(|(_, a)| **a == address).map(|(name, _)| name.as_str())
    }
}

/// Why a string is no name of a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "network name {0:?} must start with a letter or digit and hold only letters, digits, '_', '.' and '-', 1 to 128 characters"
)]
pub struct NetworkNameError(String);

/// Checks a network's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 128 characters.
pub fn check_network_name(name: &str) -> Result<(), NetworkNameError> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.len() <= 128 && name.bytes().all(rest) {
        Ok(())
    } else {
        Err(NetworkNameError(name.chars().take(160).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "front-end", "my_net.1", "0"] {
            assert_eq!(check_network_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-x", ".x", "a b", "a\nb", "a\u{1b}[31m", "a/b", "ü", "a:b", &"x".repeat(129)] {
            assert!(check_network_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_record_of_an_agent_that_knew_no_auxiliary_addresses() {
        let id = "ab".repeat(32);
        let old = format!(
            r#"{{"id":"{id}","name":"front","driver":"bridge","ipv4":{{"subnet":"10.7.0.0","prefix_len":24,"gateway":"10.7.0.1","range":null}},"bridge":"br-1","created":1}}"#
        );
        let record: NetworkRecord = serde_json::from_str(&old).expect("opens");
        assert!(record.auxiliary.is_empty());
        // Without any it is written as before, for the agent that one goes back to.
        assert!(!serde_json::to_string(&record).expect("json").contains("auxiliary"));
        let own = Ipv4Addr::new(10, 7, 0, 9).into();
        let with = NetworkRecord { auxiliary: BTreeMap::from([("dns".to_owned(), own)]), ..record };
        let again: NetworkRecord = serde_json::from_str(&serde_json::to_string(&with).expect("json")).expect("opens");
        assert_eq!((&again, again.auxiliary_name(own)), (&with, Some("dns")));
    }
}
