//! All that a container has on its networks.

use super::{DEFAULT_NETWORK, NetworkAttachment, PortMapping};
use serde::{Deserialize, Serialize};
use std::ops::{Deref, DerefMut};

/// Attachments in the order of their interfaces.
///
/// Written as `network`, the one on the default network, and `more_networks`, all others: that is where records of agents that knew one network
/// only have theirs, and where such an agent looks for it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Attachments(Vec<NetworkAttachment>);

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    network: Option<NetworkAttachment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more_networks: Vec<NetworkAttachment>,
}

impl From<Stored> for Attachments {
    fn from(stored: Stored) -> Self {
        stored.network.into_iter().chain(stored.more_networks).collect()
    }
}

impl From<Attachments> for Stored {
    fn from(attachments: Attachments) -> Self {
        let (default, more_networks) = attachments.0.into_iter().partition(|a| a.network == DEFAULT_NETWORK);
        let default: Vec<_> = default;
        Stored { network: default.into_iter().next(), more_networks }
    }
}

impl FromIterator<NetworkAttachment> for Attachments {
    fn from_iter<T: IntoIterator<Item = NetworkAttachment>>(attachments: T) -> Self {
        let mut list: Vec<_> = attachments.into_iter().collect();
        // eth10 stands behind eth9.
        list.sort_by_key(|a| (a.interface.len(), a.interface.clone()));
        Attachments(list)
    }
}

impl From<Vec<NetworkAttachment>> for Attachments {
    fn from(list: Vec<NetworkAttachment>) -> Self {
        list.into_iter().collect()
    }
}

impl Deref for Attachments {
    type Target = Vec<NetworkAttachment>;
    fn deref(&self) -> &Vec<NetworkAttachment> {
        &self.0
    }
}

impl DerefMut for Attachments {
    fn deref_mut(&mut self) -> &mut Vec<NetworkAttachment> {
        &mut self.0
    }
}

impl IntoIterator for Attachments {
    type Item = NetworkAttachment;
    type IntoIter = std::vec::IntoIter<NetworkAttachment>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Attachments {
    type Item = &'a NetworkAttachment;
    type IntoIter = std::slice::Iter<'a, NetworkAttachment>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl Attachments {
    /// The one on a network.
    pub fn on(&self, network: &str) -> Option<&NetworkAttachment> {
        self.0.iter().find(|a| a.network == network)
    }

    /// The one with the default route: published ports lead there. Where none has it, the first.
    pub fn main(&self) -> Option<&NetworkAttachment> {
        self.0.iter().find(|a| a.default_route).or(self.0.first())
    }

    /// Published ports of all of them.
    pub fn ports(&self) -> impl Iterator<Item = &PortMapping> {
        self.0.iter().flat_map(|a| &a.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(network: &str, interface: &str) -> NetworkAttachment {
        NetworkAttachment {
            network: network.to_owned(),
            bridge: "br".to_owned(),
            host_interface: "bth".to_owned(),
            interface: interface.to_owned(),
            address: [10, 0, 0, 2].into(),
            prefix_len: 24,
            gateway: [10, 0, 0, 1].into(),
            ipv6: None,
            mac: String::new(),
            default_route: interface == "eth0",
            aliases: Vec::new(),
            ports: Vec::new(),
            cni: None,
        }
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Record {
        #[serde(flatten)]
        networks: Attachments,
        after: u32,
    }

    #[test]
    fn old_records_have_one() {
        let old = r#"{"network":{"bridge":"berth0","host_interface":"bth1","address":"172.31.240.2","prefix_len":20,
            "gateway":"172.31.240.1","mac":"","ports":[]},"after":1}"#;
        let record: Record = serde_json::from_str(old).unwrap();
        let one = record.networks.on(DEFAULT_NETWORK).unwrap();
        assert_eq!((one.interface.as_str(), one.default_route), ("eth0", true));
        for none in [r#"{"network":null,"after":1}"#, r#"{"after":1}"#] {
            assert!(serde_json::from_str::<Record>(none).unwrap().networks.is_empty());
        }
    }

    #[test]
    fn what_is_written_is_read_in_the_order_of_the_interfaces() {
        let list = [attachment("b", "eth10"), attachment("a", "eth0"), attachment(DEFAULT_NETWORK, "eth2")];
        let record = Record { networks: list.into_iter().collect(), after: 1 };
        let text = serde_json::to_string(&record).unwrap();
        let back: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(back, record);
        let names: Vec<_> = back.networks.iter().map(|a| a.interface.as_str()).collect();
        assert_eq!(names, ["eth0", "eth2", "eth10"]);
        // An older agent takes what it finds here for a port of its own bridge.
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["network"]["network"], DEFAULT_NETWORK);
    }
}
