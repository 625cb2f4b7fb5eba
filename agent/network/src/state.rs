//! Who is on which network, in memory: found by container, by link, by address and by MAC, so that one start costs the same however many there are.

use crate::address::Addresses;
use crate::error::NetworkError;
use crate::ports::Ports;
use berth_model::ContainerId;
use berth_model::network::{NetworkAttachment, PortMapping};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};

pub(crate) struct State {
    /// By network.
    pub addresses: HashMap<String, Addresses>,
    pub ports: Ports,
    /// Names of links that the sweep has in hand: not to be given to new ones.
    pub leaving: HashSet<String>,
    attached: HashMap<ContainerId, Vec<NetworkAttachment>>,
    /// The host's ends, and whose they are.
    links: HashMap<String, ContainerId>,
    /// By network; none without a container.
    places: HashMap<String, Place>,
}

/// What is attached to one network.
#[derive(Default)]
struct Place {
    containers: usize,
    addresses: Counted<IpAddr>,
    macs: Counted<String>,
}

/// How often something is there: records of an earlier agent may say the same twice.
struct Counted<T>(HashMap<T, usize>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Counted(HashMap::new())
    }
}

impl<T: Eq + Hash> Counted<T> {
    fn add(&mut self, value: T) {
        *self.0.entry(value).or_default() += 1;
    }

    fn remove(&mut self, value: &T) {
        if let Some(count) = self.0.get_mut(value) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(value);
            }
        }
    }
}

fn addresses_of(attachment: &NetworkAttachment) -> impl Iterator<Item = IpAddr> + '_ {
    let six = attachment.ipv6.iter().map(|six| IpAddr::V6(six.address));
    std::iter::once(IpAddr::V4(attachment.address)).chain(six)
}

impl State {
    pub fn new() -> Self {
        State {
            addresses: HashMap::new(),
            ports: Ports::default(),
            leaving: HashSet::new(),
            attached: HashMap::new(),
            links: HashMap::new(),
            places: HashMap::new(),
        }
    }

    /// Nobody is attached to anything any more; `addresses` are what networks have to give.
    pub fn reset(&mut self, addresses: HashMap<String, Addresses>) {
        self.addresses = addresses;
        self.ports.clear();
        self.attached.clear();
        self.links.clear();
        self.places.clear();
    }

    /// Everything that is attached.
    pub fn all(&self) -> impl Iterator<Item = &NetworkAttachment> {
        self.attached.values().flatten()
    }

    /// Everything that is attached, by container.
    pub fn each(&self) -> impl Iterator<Item = (&ContainerId, &Vec<NetworkAttachment>)> {
        self.attached.iter()
    }

    /// Somebody is attached to this network.
    pub fn is_populated(&self, network: &str) -> bool {
        self.places.contains_key(network)
    }

    /// The host's ends, on all networks.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    pub fn of(&self, id: &ContainerId, network: &str) -> Option<&NetworkAttachment> {
        self.attached.get(id)?.iter().find(|a| a.network == network)
    }

    pub fn link_is_used(&self, name: &str) -> bool {
        self.links.contains_key(name)
    }

    /// What a link of the host's is an end of.
    pub fn of_link(&self, name: &str) -> Option<&NetworkAttachment> {
        self.attached.get(self.links.get(name)?)?.iter().find(|a| a.host_interface == name)
    }

    pub fn has_mac(&self, network: &str, mac: &str) -> bool {
        self.places.get(network).is_some_and(|place| place.macs.0.contains_key(mac))
    }

    fn has_address(&self, network: &str, address: IpAddr) -> bool {
        self.places.get(network).is_some_and(|place| place.addresses.0.contains_key(&address))
    }

    /// Takes it in, or in the place of what was there.
    pub fn put(&mut self, id: &ContainerId, attachment: &NetworkAttachment) {
        self.take_off(id, &attachment.network);
        if !attachment.host_interface.is_empty() {
            self.links.insert(attachment.host_interface.clone(), id.clone());
        }
        let place = self.places.entry(attachment.network.clone()).or_default();
        place.containers += 1;
        place.macs.add(attachment.mac.clone());
        addresses_of(attachment).for_each(|address| place.addresses.add(address));
        self.attached.entry(id.clone()).or_default().push(attachment.clone());
    }

    /// Its addresses and ports stay taken: see `give_back`.
    pub fn take_off(&mut self, id: &ContainerId, network: &str) {
        let Some(list) = self.attached.get_mut(id) else { return };
        let Some(at) = list.iter().position(|a| a.network == network) else { return };
        let gone = list.remove(at);
        if list.is_empty() {
            self.attached.remove(id);
        }
        if self.links.get(&gone.host_interface) == Some(id) {
            self.links.remove(&gone.host_interface);
        }
        let Some(place) = self.places.get_mut(network) else { return };
        place.containers -= 1;
        place.macs.remove(&gone.mac);
        addresses_of(&gone).for_each(|address| place.addresses.remove(&address));
        if place.containers == 0 {
            self.places.remove(network);
        }
    }

    pub fn set_ports(&mut self, id: &ContainerId, network: &str, ports: &[PortMapping]) {
        let list = self.attached.get_mut(id).into_iter().flatten();
        for attachment in list.filter(|a| a.network == network) {
            attachment.ports = ports.to_vec();
        }
    }

    pub fn addresses_of(&mut self, network: &str) -> Result<&mut Addresses, NetworkError> {
        self.addresses.get_mut(network).ok_or_else(|| NetworkError::NoNetwork(network.to_owned()))
    }

    pub fn is_free(&self, network: &str, address: Ipv4Addr) -> bool {
        self.addresses.get(network).is_some_and(|all| all.is_free(address))
    }

    /// After a `recover` in between they may be somebody's again.
    pub fn give_back(&mut self, gone: &NetworkAttachment) {
        for address in addresses_of(gone).filter(|a| !self.has_address(&gone.network, *a)).collect::<Vec<_>>() {
            let Some(addresses) = self.addresses.get_mut(&gone.network) else { return };
            match address {
                IpAddr::V4(four) => addresses.give_back(four),
                IpAddr::V6(six) => addresses.give_back6(six),
            }
        }
    }

    pub fn take_ports(&mut self, id: &ContainerId, ports: &[PortMapping]) -> Result<Vec<PortMapping>, NetworkError> {
        self.ports.take(id, ports)
    }

    /// What a container that runs already has. Of what plugins have made only the ports are kept here.
    pub fn restore(&mut self, id: &ContainerId, attachment: &NetworkAttachment) {
        if attachment.is_cni() {
            return self.ports.restore(id, &attachment.ports);
        }
        let known = self.addresses.get_mut(&attachment.network).is_some_and(|addresses| {
            let six = attachment.ipv6.as_ref().is_none_or(|six| addresses.restore6(six.address));
            addresses.restore(attachment.address) && six
        });
        if !known {
            tracing::warn!(container = id.short(), address = %attachment.address, network = attachment.network,
                "a running container's address is outside the subnet or another's");
        }
        self.ports.restore(id, &attachment.ports);
        self.put(id, attachment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::network::Attachment6;

    fn attachment(network: &str, last: u8, link: &str) -> NetworkAttachment {
        NetworkAttachment {
            network: network.into(),
            bridge: "br".into(),
            host_interface: link.into(),
            interface: "eth0".into(),
            address: Ipv4Addr::new(10, 0, 0, last),
            prefix_len: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            ipv6: Some(Attachment6 {
                address: std::net::Ipv6Addr::from_bits(last.into()),
                prefix_len: 64,
                gateway: std::net::Ipv6Addr::UNSPECIFIED,
            }),
            mac: format!("02:00:00:00:00:{last:02x}"),
            default_route: true,
            aliases: Vec::new(),
            ports: Vec::new(),
            cni: None,
        }
    }

    #[test]
    fn what_is_put_is_found_and_goes_whole() {
        let (one, two) = (ContainerId::from_bytes([1; 32]), ContainerId::from_bytes([2; 32]));
        let mut state = State::new();
        state.put(&one, &attachment("a", 2, "l1"));
        state.put(&one, &attachment("b", 2, ""));
        state.put(&two, &attachment("a", 3, "l2"));
        assert_eq!((state.places["a"].containers, state.places["b"].containers, state.link_count()), (2, 1, 2));
        assert!(state.has_mac("a", "02:00:00:00:00:03") && !state.has_mac("b", "02:00:00:00:00:03"));
        assert!(state.has_address("a", "::3".parse().unwrap()) && !state.has_address("b", "10.0.0.3".parse().unwrap()));
        assert_eq!(state.of_link("l2").unwrap().address.octets()[3], 3);
        // Another link in the place of the first.
        state.put(&one, &attachment("a", 2, "l1g"));
        assert!(!state.link_is_used("l1") && state.link_is_used("l1g") && !state.link_is_used(""));
        assert_eq!((state.places["a"].containers, state.all().count()), (2, 3));
        for (id, network) in [(&one, "a"), (&one, "a"), (&two, "a"), (&one, "b"), (&two, "b")] {
            state.take_off(id, network);
        }
        assert!(!state.is_populated("a") && !state.is_populated("b"));
        assert!(state.attached.is_empty() && state.links.is_empty() && state.places.is_empty());
    }

    #[test]
    fn an_address_that_two_have_stays_with_the_second() {
        let (one, two) = (ContainerId::from_bytes([1; 32]), ContainerId::from_bytes([2; 32]));
        let mut state = State::new();
        state.put(&one, &attachment("a", 2, "l1"));
        state.put(&two, &attachment("a", 2, "l2"));
        state.take_off(&one, "a");
        assert!(state.has_address("a", "10.0.0.2".parse().unwrap()) && state.has_mac("a", "02:00:00:00:00:02"));
        state.take_off(&two, "a");
        assert!(!state.has_address("a", "10.0.0.2".parse().unwrap()));
    }
}
