//! Networks as rows and in the shape of Docker's `network inspect`.

use super::{rfc3339, short};
use berth::v1;
use serde_json::{Map, Value, json};

/// A row of `network ls`.
pub fn row(n: &v1::Network, truncate: bool) -> Value {
    let labels: std::collections::BTreeMap<_, _> = n.labels.iter().collect();
    let labels: Vec<String> = labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    json!({
        "ID": if truncate { short(&n.id) } else { &n.id },
        "Name": n.name,
        "Driver": n.driver,
        "Scope": n.scope,
        "IPv4": n.subnets.iter().any(|s| !s.subnet.contains(':')).to_string(),
        "IPv6": n.ipv6.to_string(),
        "Internal": n.internal.to_string(),
        "Labels": labels.join(","),
        "CreatedAt": rfc3339(n.created.as_ref()),
        "Subnets": n.subnets.iter().map(|s| s.subnet.as_str()).collect::<Vec<_>>().join(","),
        "Containers": n.containers,
    })
}

/// NetworkInspect, with what berth knows beside it.
pub fn inspect(r: &v1::InspectNetworkResponse) -> Value {
    let n = r.network.clone().unwrap_or_default();
    let subnet = |s: &v1::NetworkSubnet| {
        let mut map = Map::from_iter([("Subnet".to_owned(), s.subnet.as_str().into())]);
        for (key, value) in [("IPRange", &s.ip_range), ("Gateway", &s.gateway)] {
            if !value.is_empty() {
                map.insert(key.to_owned(), value.as_str().into());
            }
        }
        if !s.auxiliary_addresses.is_empty() {
            let sorted: std::collections::BTreeMap<_, _> = s.auxiliary_addresses.iter().collect();
            map.insert("AuxiliaryAddresses".to_owned(), json!(sorted));
        }
        Value::from(map)
    };
    let with_prefix = |address: &str, len: u32| match address {
        "" => String::new(),
        address if len == 0 => address.to_owned(),
        address => format!("{address}/{len}"),
    };
    let (running, stopped): (Vec<_>, Vec<_>) = r.members.iter().partition(|m| m.running);
    let containers: Map<String, Value> = running
        .into_iter()
        .map(|m| {
            let value = json!({
                "Name": m.name, "EndpointID": m.host_interface, "MacAddress": m.mac_address,
                "IPv4Address": with_prefix(&m.ipv4_address, m.ipv4_prefix_length),
                "IPv6Address": with_prefix(&m.ipv6_address, m.ipv6_prefix_length),
                "Aliases": m.aliases, "Interface": m.interface,
            });
            let value = with_cni(value, "CNIResult", &m.cni_result);
            (m.container_id.clone(), value)
        })
        .collect();
    let value = json!({
        "Name": n.name,
        "Id": n.id,
        "Created": rfc3339(n.created.as_ref()),
        "Scope": n.scope,
        "Driver": n.driver,
        "EnableIPv4": n.subnets.iter().any(|s| !s.subnet.contains(':')),
        "EnableIPv6": n.ipv6,
        "IPAM": {"Driver": if n.driver == "cni" { "cni" } else { "default" }, "Options": {}, "Config": n.subnets.iter().map(subnet).collect::<Vec<_>>()},
        "Internal": n.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": n.options,
        "Labels": n.labels,
        "Interface": n.interface,
        "IPv6Mode": n.ipv6_mode,
        "StoppedContainers": stopped.into_iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
    });
    with_cni(value, "Conflist", &n.conflist)
}

/// What plugins have said, or are to be told, as the JSON that it is; nothing where there is none.
pub fn with_cni(mut value: Value, key: &str, text: &str) -> Value {
    if !text.is_empty() {
        value[key] = serde_json::from_str(text).unwrap_or_else(|_| text.into());
    }
    value
}
