//! Published ports out of requests.

use super::decode::Fields;
use berth::v1;
use berth_model::ContainerRecord;
use berth_model::network::{MAX_MAPPINGS, PortMapping, Protocol, bounded, clash};
use berth_model::publish::PublishPolicy;
use std::collections::HashSet;
use std::net::IpAddr;

/// As in the network: beyond it a range is one element of the rules, which cannot lead to other numbers.
const SHIFTED_MAX: u32 = 1024;

/// All of them, with every wrong field named.
pub fn decode(f: &mut Fields, list: &[v1::PortMapping], policy: &PublishPolicy) -> Vec<PortMapping> {
    if !f.count("ports", list.len(), MAX_MAPPINGS) {
        return Vec::new();
    }
    let read = list.iter().enumerate();
    let read = read.filter_map(|(n, port)| one(f, &format!("ports[{n}]."), port, policy).map(|port| (n, port)));
    let (places, ports): (Vec<usize>, Vec<PortMapping>) = read.unzip();
    if let Err(why) = bounded(&ports) {
        f.wrong("ports", why);
    } else if let Some((_, twice)) = clash(&ports) {
        f.wrong(format!("ports[{}].host_port", places[twice]), "is published twice");
    }
    ports
}

/// Ports that a container listens on, as images write them; with the protocol, once each.
pub fn exposed(f: &mut Fields, list: Vec<String>) -> Vec<String> {
    if !f.count("expose", list.len(), MAX_MAPPINGS) {
        return Vec::new();
    }
    let (mut ports, mut known_ports) = (Vec::new(), HashSet::new());
    for (n, text) in list.iter().enumerate() {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = number.parse::<u16>().ok().filter(|port| *port > 0 && !number.starts_with('+'));
        let known = matches!(protocol, "tcp" | "udp" | "sctp");
        f.check(
            port.is_some() && known,
            format!("expose[{n}]"),
            "must be 1 to 65535, and /tcp, /udp or /sctp behind it",
        );
        if known_ports.insert((port, protocol)) {
            ports.push(format!("{}/{protocol}", port.unwrap_or_default()));
        }
    }
    ports
}

/// What a container is to publish more, and what no longer: there, no address and no port of the host mean any.
pub fn decode_update(
    f: &mut Fields,
    request: &v1::UpdatePortsRequest,
    policy: &PublishPolicy,
) -> (Vec<PortMapping>, Vec<PortMapping>) {
    if !f.count("add", request.add.len(), MAX_MAPPINGS) || !f.count("remove", request.remove.len(), MAX_MAPPINGS) {
        return Default::default();
    }
    f.check(!(request.add.is_empty() && request.remove.is_empty()), "add", "must not be empty where remove is");
    let add = request.add.iter().enumerate().filter_map(|(n, p)| one(f, &format!("add[{n}]."), p, policy)).collect();
    let everywhere = PublishPolicy { default: None, ..policy.clone() };
    let remove = request.remove.iter().enumerate();
    let remove = remove.filter_map(|(n, p)| decode_one(f, &format!("remove[{n}]."), p, &everywhere)).collect();
    (add, remove)
}

/// One to publish; `prefix` stands before the names of its fields.
fn one(f: &mut Fields, prefix: &str, port: &v1::PortMapping, policy: &PublishPolicy) -> Option<PortMapping> {
    let at = |field: &str| format!("{prefix}{field}");
    let needs = port.count > 1 || port.choice > 1;
    f.check(!needs || port.host_port > 0, at("host_port"), "must be there for a range");
    let shifted = port.host_port != port.container_port;
    f.check(
        !shifted || port.count <= SHIFTED_MAX,
        at("count"),
        "must be at most 1024 where the container's ports are others",
    );
    decode_one(f, prefix, port, policy)
}

fn decode_one(f: &mut Fields, prefix: &str, port: &v1::PortMapping, policy: &PublishPolicy) -> Option<PortMapping> {
    let at = |field: &str| format!("{prefix}{field}");
    let host = address(f, at("host_ip"), &port.host_ip, policy);
    let (count, choice) = (port.count.max(1), port.choice.max(1));
    let last = |first: u32, count: u32| first.saturating_add(count - 1);
    let host_port = u16::try_from(port.host_port).ok().filter(|p| last((*p).into(), count.max(choice)) <= 65535);
    f.check(host_port.is_some(), at("host_port"), "must be 0 to 65535, with the whole range");
    let container_port =
        u16::try_from(port.container_port).ok().filter(|p| *p > 0 && last((*p).into(), count) <= 65535);
    f.check(container_port.is_some(), at("container_port"), "must be 1 to 65535, with the whole range");
    let protocol = protocol(port.protocol);
    f.check(protocol.is_some(), at("protocol"), "must be TCP, UDP or SCTP");
    f.check(count == 1 || choice == 1, at("choice"), "must be 1 with a count: the ports of a range are not chosen");
    let (host_ip, localhost) = host?;
    Some(PortMapping {
        host_ip,
        localhost,
        host_port: host_port?,
        choice: u16::try_from(choice).ok()?,
        container_port: container_port?,
        protocol: protocol?,
        count: u16::try_from(count).ok()?,
    })
}

/// `None`: wrong. Else a mapping's `host_ip` and `localhost`.
fn address(f: &mut Fields, field: String, text: &str, policy: &PublishPolicy) -> Option<(Option<IpAddr>, bool)> {
    if text.is_empty() {
        return Some(policy.unnamed());
    }
    // ::ffff:192.0.2.1 is 192.0.2.1: no packet of IPv6 has such an address.
    let address = f.take(field.clone(), text.parse::<IpAddr>())?.to_canonical();
    let allowed = policy.allows(Some(address));
    if !allowed {
        let (what, entry) = match address {
            IpAddr::V4(a) if a.is_unspecified() => ("every address of IPv4".to_owned(), "any".to_owned()),
            IpAddr::V6(a) if a.is_unspecified() => ("every address of IPv6".to_owned(), "any".to_owned()),
            one => (one.to_string(), one.to_string()),
        };
        f.wrong(
            field,
            format!(
                "the host's policy does not let ports be published on {what}; its administrator can allow it in the \
                 agent's configuration: [network] publish_allow = [\"{entry}\"]"
            ),
        );
    }
    allowed.then_some((Some(address), false))
}

/// `None`: no protocol that ports have.
pub fn protocol(number: i32) -> Option<Protocol> {
    match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Unspecified | v1::Protocol::Tcp) => Some(Protocol::Tcp),
        Ok(v1::Protocol::Udp) => Some(Protocol::Udp),
        Ok(v1::Protocol::Sctp) => Some(Protocol::Sctp),
        Err(_) => None,
    }
}

/// A mapping at the first of its addresses.
pub fn encode(port: &PortMapping) -> v1::PortMapping {
    let number = |n: u16| if n == 1 { 0 } else { n.into() };
    v1::PortMapping {
        host_ip: port.addresses().iter().next().map(|ip| ip.to_string()).unwrap_or_default(),
        host_port: port.host_port.into(),
        container_port: port.container_port.into(),
        protocol: match port.protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
            Protocol::Sctp => v1::Protocol::Sctp,
        } as i32,
        count: number(port.count),
        choice: number(port.choice),
    }
}

/// As it was asked for: without an address where none was named.
pub fn asked(port: &PortMapping) -> v1::PortMapping {
    let mut asked = encode(port);
    if port.addresses().iter().count() > 1 {
        asked.host_ip.clear();
    }
    asked
}

/// What a container has published, at each address. One that does not run, or is on no network, has nothing: what it asks for is in its config.
pub fn published(record: &ContainerRecord) -> Vec<v1::PortMapping> {
    let Some(main) = record.networks.main() else { return Vec::new() };
    each(&main.ports, main.ipv6.is_some() && !main.is_cni())
}

/// The same; of one that does not run, what its next start publishes. `ipv6`: it will have such an address.
pub fn published_or_asked(record: &ContainerRecord, ipv6: bool) -> Vec<v1::PortMapping> {
    if record.networks.main().is_some() { published(record) } else { each(&record.spec.ports, ipv6) }
}

fn each(ports: &[PortMapping], ipv6: bool) -> Vec<v1::PortMapping> {
    ports.iter().flat_map(|p| p.each(ipv6).map(|one| encode(&one)).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(port: v1::PortMapping, policy: &PublishPolicy) -> Option<String> {
        let mut f = Fields::under("");
        decode(&mut f, &[port], policy);
        f.done().err().map(|status| status.message().to_owned())
    }

    #[test]
    fn the_policy_decides_about_addresses() {
        let strict = PublishPolicy::default();
        let open = PublishPolicy { default: None, ..PublishPolicy::default() };
        let on =
            |ip: &str| v1::PortMapping { host_ip: ip.into(), host_port: 80, container_port: 80, ..Default::default() };
        for ip in ["0.0.0.0", "::", "192.0.2.1"] {
            let message = wrong(on(ip), &strict).expect(ip);
            assert!(message.contains("publish_allow") && message.contains("ports[0].host_ip"), "{message}");
            assert_eq!(wrong(on(ip), &open), None);
        }
        let mut f = Fields::under("");
        let mut ports = decode(&mut f, &[on("127.0.0.2"), on("::1")], &strict);
        ports.extend(decode(&mut f, &[on("")], &strict));
        let shown = |p: &PortMapping| p.addresses().iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(ports.iter().map(shown).collect::<Vec<_>>(), ["127.0.0.2", "::1", "127.0.0.1 ::1"]);
        // One family each, unless nobody names one.
        let several = [on(""), on("0.0.0.0"), on("::"), on("::ffff:192.0.2.1")];
        let one_by_one = several.iter().flat_map(|p| decode(&mut f, std::slice::from_ref(p), &open));
        let found: Vec<_> = one_by_one.map(|p| shown(&p)).collect();
        assert_eq!(found, ["0.0.0.0 ::", "0.0.0.0", "::", "192.0.2.1"]);
        f.done().unwrap();
        let mut f = Fields::under("");
        for (a, b) in [("", "127.0.0.1"), ("", "::1")] {
            let twice = decode(&mut f, &[on(a), on(b)], &strict);
            assert_eq!(twice.len(), 2);
        }
        assert_eq!(f.done().unwrap_err().message().matches("published twice").count(), 2);
    }

    #[test]
    fn ranges_have_an_end() {
        let policy = PublishPolicy::default();
        let range = |host_port, container_port, count| v1::PortMapping {
            host_port,
            container_port,
            count,
            ..Default::default()
        };
        assert_eq!(wrong(range(1, 1, 65535), &policy), None);
        assert_eq!(wrong(range(8000, 80, 1024), &policy), None);
        for bad in
            [range(2, 2, 65535), range(8000, 80, 1025), range(0, 80, 2), range(1, 1, u32::MAX), range(65535, 1, 2)]
        {
            wrong(bad.clone(), &policy).unwrap_or_else(|| panic!("{bad:?}"));
        }
        let choice = |host_port, choice, count| v1::PortMapping { choice, ..range(host_port, 80, count) };
        assert_eq!(wrong(choice(9300, 1000, 0), &policy), None);
        for bad in [choice(0, 2, 0), choice(65535, 2, 0), choice(9300, u32::MAX, 0), choice(9300, 2, 2)] {
            wrong(bad.clone(), &policy).unwrap_or_else(|| panic!("{bad:?}"));
        }
        // Of what is closed, any port of the host's is meant.
        let mut f = Fields::under("");
        let request = v1::UpdatePortsRequest { remove: vec![range(0, 1, 5000)], ..Default::default() };
        assert_eq!(decode_update(&mut f, &request, &policy).1[0].count, 5000);
        f.done().unwrap();
    }

    #[test]
    fn what_is_too_much_is_not_gone_through() {
        let policy = PublishPolicy::default();
        let at =
            |host_port, count| v1::PortMapping { host_port, container_port: host_port, count, ..Default::default() };
        // The second one stands in the range.
        assert!(wrong_of(&[at(100, 100), at(150, 1)], &policy).contains("ports[1].host_port"));
        let shifted: Vec<_> =
            (0..20u32).map(|n| v1::PortMapping { container_port: 1, ..at(2 + 1024 * n, 1024) }).collect();
        let message = wrong_of(&shifted, &policy);
        assert!(message.contains("ports: would be 40960 rules"), "{message}");
        let message = wrong_of(&vec![v1::PortMapping::default(); 4097], &policy);
        assert!(message.contains("4097 entries") && !message.contains("ports[0]"), "{message}");
        let mut f = Fields::under("");
        let all: Vec<String> =
            ["tcp", "udp"].iter().flat_map(|p| (1..=65535).map(move |n| format!("{n}/{p}"))).collect();
        assert!(exposed(&mut f, all).is_empty());
        let many = v1::UpdatePortsRequest { add: vec![at(1, 1); 5000], ..Default::default() };
        assert!(decode_update(&mut f, &many, &policy).0.is_empty());
        let message = f.done().unwrap_err().message().to_owned();
        assert!(
            message.contains("expose: has 131070 entries") && message.contains("add: has 5000 entries"),
            "{message}"
        );
    }

    fn wrong_of(list: &[v1::PortMapping], policy: &PublishPolicy) -> String {
        let mut f = Fields::under("");
        decode(&mut f, list, policy);
        f.done().unwrap_err().message().to_owned()
    }
}
