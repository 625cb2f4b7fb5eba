//! Published ports out of requests.

use super::decode::Fields;
use berth::v1;
use berth_model::network::{PortMapping, Protocol};
use berth_model::publish::PublishPolicy;
use std::collections::HashSet;
use std::net::IpAddr;

const MAX: usize = 4096;
/// As in the network: beyond it a range is one element of the rules, which cannot lead to other numbers.
const SHIFTED_MAX: u32 = 1024;

/// All of them, with every wrong field named.
pub fn decode(f: &mut Fields, list: &[v1::PortMapping], policy: &PublishPolicy) -> Vec<PortMapping> {
    f.count("ports", list.len(), MAX);
    let mut taken = HashSet::new();
    let mut ports = Vec::new();
    for (n, port) in list.iter().enumerate() {
        if let Some(port) = one(f, &format!("ports[{n}]."), port, policy) {
            let fresh = port.host_port == 0 || taken.insert((port.host_ip, port.host_port, port.protocol));
            f.check(fresh, format!("ports[{n}].host_port"), "is published twice");
            ports.push(port);
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
    f.count("add", request.add.len(), MAX);
    f.count("remove", request.remove.len(), MAX);
    f.check(!(request.add.is_empty() && request.remove.is_empty()), "add", "must not be empty where remove is");
    let add = request.add.iter().enumerate().filter_map(|(n, p)| one(f, &format!("add[{n}]."), p, policy)).collect();
    let everywhere = PublishPolicy { default: None, ..policy.clone() };
    let remove = request.remove.iter().enumerate();
    let remove = remove.filter_map(|(n, p)| one(f, &format!("remove[{n}]."), p, &everywhere)).collect();
    (add, remove)
}

/// One; `prefix` stands before the names of its fields.
pub fn one(f: &mut Fields, prefix: &str, port: &v1::PortMapping, policy: &PublishPolicy) -> Option<PortMapping> {
    let at = |field: &str| format!("{prefix}{field}");
    let host_ip = address(f, at("host_ip"), &port.host_ip, policy);
    let count = port.count.max(1);
    let last = |first: u32| first.saturating_add(count - 1);
    let host_port = u16::try_from(port.host_port).ok().filter(|_| last(port.host_port) <= 65535);
    f.check(host_port.is_some(), at("host_port"), "must be 0 to 65535, with the whole range");
    let container_port = u16::try_from(port.container_port).ok().filter(|p| *p > 0 && last((*p).into()) <= 65535);
    f.check(container_port.is_some(), at("container_port"), "must be 1 to 65535, with the whole range");
    let protocol = protocol(port.protocol);
    f.check(protocol.is_some(), at("protocol"), "must be TCP, UDP or SCTP");
    f.check(count == 1 || port.host_port > 0, at("host_port"), "must be there for a range");
    let shifted = port.host_port != port.container_port;
    f.check(
        !shifted || count <= SHIFTED_MAX,
        at("count"),
        "must be at most 1024 where the container's ports are others",
    );
    let count = u16::try_from(count).ok()?;
    Some(PortMapping {
        host_ip: host_ip?,
        host_port: host_port?,
        container_port: container_port?,
        protocol: protocol?,
        count,
    })
}

/// `None`: wrong. `Some(None)`: every address.
fn address(f: &mut Fields, field: String, text: &str, policy: &PublishPolicy) -> Option<Option<IpAddr>> {
    if text.is_empty() {
        return Some(policy.default);
    }
    let address = f.take(field.clone(), text.parse::<IpAddr>())?;
    let address = Some(address).filter(|ip| !ip.is_unspecified());
    let allowed = policy.allows(address);
    if !allowed {
        let (what, entry) = address.map_or(("every address".into(), "any".into()), |a| (a.to_string(), a.to_string()));
        f.wrong(
            field,
            format!(
                "the host's policy does not let ports be published on {what}; its administrator can allow it in the \
                 agent's configuration: [network] publish_allow = [\"{entry}\"]"
            ),
        );
    }
    allowed.then_some(address)
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
        let ports = decode(&mut f, &[on(""), on("127.0.0.2"), on("::1")], &strict);
        let addresses: Vec<_> = ports.iter().map(|p| p.host_ip.map(|ip| ip.to_string()).unwrap_or_default()).collect();
        assert_eq!(addresses, ["127.0.0.1", "127.0.0.2", "::1"]);
        assert_eq!(decode(&mut f, &[on("")], &open)[0].host_ip, None);
        f.done().unwrap();
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
    }
}
