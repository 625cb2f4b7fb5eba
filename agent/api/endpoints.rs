//! What containers say of their networks.

use super::decode::{Fields, MAX_NAME};
use berth::v1;
use berth_model::ContainerRecord;
use berth_model::network::{DEFAULT_NETWORK, EndpointSpec, NetworkAttachment, NetworkMode};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Networks of one container; each is an interface and a walk through the container's namespace.
const MAX_ENDPOINTS: usize = 32;
const MAX_ALIASES: usize = 64;

/// How a container is connected, and to what.
pub fn decode_mode(f: &mut Fields, config: &v1::ContainerConfig) -> (NetworkMode, Vec<EndpointSpec>) {
    let mode = match v1::NetworkMode::try_from(config.network) {
        Ok(v1::NetworkMode::Unspecified | v1::NetworkMode::Bridge) => NetworkMode::Bridge,
        Ok(v1::NetworkMode::None) => NetworkMode::None,
        Ok(v1::NetworkMode::Host) => NetworkMode::Host,
        Ok(v1::NetworkMode::Container) => {
            f.name("network_container", &config.network_container);
            NetworkMode::Container(config.network_container.clone())
        }
        Err(_) => {
            f.wrong("network", format!("{} is no network mode", config.network));
            NetworkMode::Bridge
        }
    };
    let alone = config.network_container.is_empty() || matches!(mode, NetworkMode::Container(_));
    f.check(alone, "network_container", "goes with the network mode CONTAINER only");
    f.check(mode.is_own() || config.networks.is_empty(), "networks", "go with the network mode BRIDGE only");
    f.count("networks", config.networks.len(), MAX_ENDPOINTS);
    let endpoints = config.networks.iter().enumerate();
    (mode, endpoints.map(|(n, e)| decode_endpoint(f, &format!("networks[{n}]"), e)).collect())
}

/// What a container asks of one network.
pub fn decode_endpoint(f: &mut Fields, at: &str, e: &v1::Endpoint) -> EndpointSpec {
    f.name(&format!("{at}.network"), &e.network);
    f.line(format!("{at}.network"), &e.network, MAX_NAME);
    f.count(&format!("{at}.aliases"), e.aliases.len(), MAX_ALIASES);
    for (n, alias) in e.aliases.iter().enumerate() {
        f.check(is_alias(alias), format!("{at}.aliases[{n}]"), "must be 1 to 253 letters, digits, '-', '_' and '.'");
    }
    let given = |text: &str| !text.is_empty();
    let ipv4 = given(&e.ipv4_address).then(|| f.take(format!("{at}.ipv4_address"), e.ipv4_address.parse::<Ipv4Addr>()));
    let ipv6 = given(&e.ipv6_address).then(|| f.take(format!("{at}.ipv6_address"), e.ipv6_address.parse::<Ipv6Addr>()));
    let mac = given(&e.mac_address).then(|| e.mac_address.to_ascii_lowercase());
    let good = mac.as_deref().is_none_or(|mac| berth_network::parse_mac(mac).is_some());
    f.check(good, format!("{at}.mac_address"), "must be the address of one interface, as 02:42:ac:11:00:02");
    EndpointSpec {
        network: e.network.clone(),
        aliases: e.aliases.clone(),
        ipv4: ipv4.flatten(),
        ipv6: ipv6.flatten(),
        mac,
        gw_priority: e.gw_priority,
    }
}

/// A name that DNS can carry.
fn is_alias(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
}

pub fn mode(mode: &NetworkMode) -> v1::NetworkMode {
    match mode {
        NetworkMode::Bridge => v1::NetworkMode::Bridge,
        NetworkMode::None => v1::NetworkMode::None,
        NetworkMode::Host => v1::NetworkMode::Host,
        NetworkMode::Container(_) => v1::NetworkMode::Container,
    }
}

pub fn endpoint(e: &EndpointSpec) -> v1::Endpoint {
    v1::Endpoint {
        network: e.network.clone(),
        aliases: e.aliases.clone(),
        ipv4_address: e.ipv4.map(|a| a.to_string()).unwrap_or_default(),
        ipv6_address: e.ipv6.map(|a| a.to_string()).unwrap_or_default(),
        mac_address: e.mac.clone().unwrap_or_default(),
        gw_priority: e.gw_priority,
    }
}

/// Networks that a container is on, or joins when it starts.
pub fn names(record: &ContainerRecord) -> Vec<String> {
    match &record.spec.network {
        NetworkMode::None => vec!["none".to_owned()],
        NetworkMode::Host => vec!["host".to_owned()],
        NetworkMode::Container(id) => vec![format!("container:{id}")],
        NetworkMode::Bridge if record.spec.networks.is_empty() => vec![DEFAULT_NETWORK.to_owned()],
        NetworkMode::Bridge => record.spec.networks.iter().map(|e| e.network.clone()).collect(),
    }
}

pub fn container_network(n: &NetworkAttachment) -> v1::ContainerNetwork {
    let six = n.ipv6.as_ref();
    v1::ContainerNetwork {
        bridge: n.bridge.clone(),
        host_interface: n.host_interface.clone(),
        ip_address: four(n.address),
        prefix_length: n.prefix_len.into(),
        gateway: four(n.gateway),
        mac_address: n.mac.clone(),
        network: n.network.clone(),
        network_id: String::new(),
        interface: n.interface.clone(),
        ipv6_address: six.map(|s| s.address.to_string()).unwrap_or_default(),
        ipv6_prefix_length: six.map_or(0, |s| s.prefix_len.into()),
        ipv6_gateway: six.filter(|s| !s.gateway.is_unspecified()).map(|s| s.gateway.to_string()).unwrap_or_default(),
        aliases: n.aliases.clone(),
        default_route: n.default_route,
        cni_result: n.cni.as_ref().map(|c| c.result.clone()).unwrap_or_default(),
    }
}

/// What plugins have not given is shown as nothing.
pub fn four(address: Ipv4Addr) -> String {
    if address.is_unspecified() { String::new() } else { address.to_string() }
}
