//! How much one container publishes at most: what the agent and the kernel do for a port is done while others wait.

use super::PortMapping;

/// A longer range that leads to the same numbers is one element of the rules: changing a map of ranges costs with all of its elements, changing one of
/// single ports does not.
pub const SINGLE_PORTS: u16 = 64;
/// Mappings of one container.
pub const MAX_MAPPINGS: usize = 4096;
/// Elements of the rules for one container: 16384 take the kernel a fifth of a second, and fit into one message.
const MAX_ELEMENTS: u64 = 16384;
/// Ports of the host that are tried for one container, when those of a choice are taken up to here.
const MAX_TRIES: u64 = 65536;
const LIKELY_TRIES: u16 = 1024;

impl PortMapping {
    /// Elements that the rules have for it, at most.
    fn elements(&self) -> u64 {
        let whole = self.count > SINGLE_PORTS && self.host_port == self.container_port;
        self.addresses().iter().count() as u64 * if whole { 1 } else { u64::from(self.count) }
    }
}

/// Elements that the rules have for them, at most.
pub fn elements(ports: &[PortMapping]) -> u64 {
    ports.iter().map(PortMapping::elements).sum()
}

/// Why these are too many for one container; each for itself is right.
///
/// # Errors
/// The reason, as what follows the name of the list.
pub fn bounded(ports: &[PortMapping]) -> Result<(), String> {
    if ports.len() > MAX_MAPPINGS {
        return Err(format!("has {} entries; at most {MAX_MAPPINGS} are taken", ports.len()));
    }
    let elements = elements(ports);
    if elements > MAX_ELEMENTS {
        return Err(format!(
            "would be {elements} rules, one for each port and address (two where no address is named), and {MAX_ELEMENTS} are the most: a range of more than \
             {SINGLE_PORTS} ports with the same numbers on both sides is one"
        ));
    }
    let tries: u64 = ports.iter().filter(|p| p.choice > 1).map(|p| u64::from(p.choice.min(LIKELY_TRIES))).sum();
    if tries > MAX_TRIES {
        return Err(format!(
            "has too many ranges to choose a port from: {MAX_TRIES} ports are tried at most, up to {LIKELY_TRIES} for each"
        ));
    }
    Ok(())
}

/// Two that name the same port of the host, as places in the list, the later one last.
pub fn clash(ports: &[PortMapping]) -> Option<(usize, usize)> {
    let mut order: Vec<usize> = (0..ports.len()).filter(|at| !ports[*at].is_open()).collect();
    order.sort_by_key(|at| (ports[*at].protocol, ports[*at].host_port));
    let mut found: Option<(usize, usize)> = None;
    for (n, &at) in order.iter().enumerate() {
        let one = &ports[at];
        let near = order[n + 1..]
            .iter()
            .take_while(|&&o| (ports[o].protocol, ports[o].host_port) <= (one.protocol, one.last()));
        for &other in near.filter(|&&o| one.meets(&ports[o])) {
            let pair = (at.min(other), at.max(other));
            // That which comes first in the list of the caller.
            found = Some(found.map_or(pair, |best| if (pair.1, pair.0) < (best.1, best.0) { pair } else { best }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Protocol;
    use std::net::{IpAddr, Ipv4Addr};

    fn at(host_ip: u8, host_port: u16, container_port: u16, count: u16) -> PortMapping {
        let host_ip = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host_ip)));
        PortMapping { host_ip, host_port, container_port, count, ..PortMapping::default() }
    }

    #[test]
    fn what_one_container_may_publish() {
        let every = PortMapping { host_port: 1, container_port: 1, count: 65535, ..PortMapping::default() };
        assert_eq!((every.elements(), bounded(std::slice::from_ref(&every))), (2, Ok(())));
        let shifted = |n: u8| (0..n).map(|n| at(n, 20000, 30000, 1024)).collect::<Vec<_>>();
        assert_eq!(bounded(&shifted(16)), Ok(()));
        assert!(bounded(&shifted(17)).unwrap_err().contains("would be 17408 rules"));
        assert!(bounded(&vec![every; 4097]).unwrap_err().contains("4097 entries"));
        let choice = PortMapping { choice: 40000, ..at(1, 20000, 80, 1) };
        assert_eq!(bounded(&vec![choice.clone(); 64]), Ok(()));
        assert!(bounded(&vec![choice; 65]).unwrap_err().contains("65536 ports are tried at most"));
    }

    #[test]
    fn clashes_are_found_wherever_they_stand() {
        let udp = PortMapping { protocol: Protocol::Udp, ..at(1, 150, 1, 1) };
        let open = PortMapping { host_port: 0, ..at(1, 0, 1, 1) };
        let list = [at(1, 100, 1, 100), at(2, 100, 1, 100), udp, open.clone(), open, at(1, 200, 1, 1)];
        assert_eq!(clash(&list), None);
        for (more, with) in [
            (at(1, 150, 9, 1), 0),
            (at(2, 199, 9, 9), 1),
            (PortMapping { host_ip: None, ..at(1, 10, 9, 91) }, 0),
            (PortMapping { host_ip: None, ..at(1, 200, 9, 1) }, 5),
        ] {
            let list: Vec<_> = list.iter().cloned().chain([more]).collect();
            assert_eq!(clash(&list), Some((with, 6)));
        }
        // All at one port of different addresses is all there is to compare, and as many as may be.
        let one = |n: u16| PortMapping {
            host_ip: Some(IpAddr::V4(Ipv4Addr::new(127, 1, (n >> 8) as u8, n as u8))),
            ..at(0, 80, 80, 1)
        };
        assert_eq!(clash(&(0..4096).map(one).collect::<Vec<_>>()), None);
    }
}
