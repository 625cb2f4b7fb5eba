//! `--network` and what goes with it: a name, or Docker's long form `name=NET,alias=A,ip=10.7.0.5,…`.

use crate::error::{Error, Result};
use berth::v1::{self, Endpoint, NetworkMode};
use clap::Args;
use clap_complete::engine::ArgValueCompleter;

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// Network to join: a name, host, none or container:NAME; again for more of them; or
    /// name=NET,alias=A,ip=IPV4,ip6=IPV6,mac-address=MAC,gw-priority=N
    #[arg(long, visible_alias = "net", value_name = "NETWORK", add = ArgValueCompleter::new(crate::complete::networks))]
    network: Vec<String>,
    /// One more name of the container on its first network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// IPv4 address on its first network
    #[arg(long, value_name = "IPV4")]
    ip: Option<String>,
    /// IPv6 address on its first network
    #[arg(long, value_name = "IPV6")]
    ip6: Option<String>,
    /// MAC address on its first network
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,
}

/// How a container is connected, in the words of the request.
#[derive(Debug, Default)]
pub struct Chosen {
    pub mode: NetworkMode,
    pub container: String,
    pub endpoints: Vec<Endpoint>,
}

impl Network {
    pub fn chosen(&self) -> Result<Chosen> {
        let mut endpoints = self.network.iter().map(|text| endpoint(text)).collect::<Result<Vec<_>>>()?;
        let alone = endpoints.iter().map(|e| e.network.as_str()).find(|n| mode(n) != NetworkMode::Bridge);
        if let Some(name) = alone {
            if endpoints.len() > 1 {
                return Err(Error::usage(format!("--network {name}: goes with no other network")));
            }
            let wish = &endpoints[0];
            let (extra, name) = (
                self.has_options() || wish != &Endpoint { network: wish.network.clone(), ..Endpoint::default() },
                name.to_owned(),
            );
            if extra {
                return Err(Error::usage(format!(
                    "--network {name}: has no addresses and names of its own to choose (--ip, --ip6, --mac-address, --network-alias)"
                )));
            }
            let container = name.strip_prefix("container:").unwrap_or_default().to_owned();
            if name.starts_with("container:") && container.is_empty() {
                return Err(Error::usage("--network container:NAME: a name or an id must follow"));
            }
            return Ok(Chosen { mode: mode(&name), container, endpoints: Vec::new() });
        }
        if self.has_options() {
            if endpoints.is_empty() {
                endpoints.push(Endpoint { network: "bridge".into(), ..Endpoint::default() });
            }
            let first = &mut endpoints[0];
            first.aliases.extend(self.network_alias.iter().cloned());
            for (flag, value, place) in [
                ("--ip", &self.ip, &mut first.ipv4_address),
                ("--ip6", &self.ip6, &mut first.ipv6_address),
                ("--mac-address", &self.mac_address, &mut first.mac_address),
            ] {
                let Some(value) = value else { continue };
                if !place.is_empty() {
                    return Err(Error::usage(format!("{flag} and --network both say it: leave one out")));
                }
                place.clone_from(value);
            }
        }
        Ok(Chosen { mode: NetworkMode::Bridge, container: String::new(), endpoints })
    }

    fn has_options(&self) -> bool {
        !self.network_alias.is_empty() || self.ip.is_some() || self.ip6.is_some() || self.mac_address.is_some()
    }
}

fn mode(name: &str) -> NetworkMode {
    match name {
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        name if name.starts_with("container:") => NetworkMode::Container,
        _ => NetworkMode::Bridge,
    }
}

/// A name, or `name=NET` with more behind it.
pub fn endpoint(text: &str) -> Result<Endpoint> {
    let wrong = |why: &str| Error::usage(format!("--network {text:?}: {why}"));
    if !text.contains('=') {
        if text.is_empty() {
            return Err(wrong("must not be empty"));
        }
        return Ok(v1::Endpoint { network: text.to_owned(), ..Endpoint::default() });
    }
    let mut e = Endpoint::default();
    for part in text.split(',') {
        let Some((key, value)) = part.split_once('=').filter(|(_, v)| !v.is_empty()) else {
            return Err(wrong(&format!("{part:?}: write KEY=VALUE")));
        };
        match key {
            "name" => e.network = value.to_owned(),
            "alias" => e.aliases.push(value.to_owned()),
            "ip" => e.ipv4_address = value.to_owned(),
            "ip6" => e.ipv6_address = value.to_owned(),
            "mac-address" => e.mac_address = value.to_owned(),
            "gw-priority" => {
                e.gw_priority = value.parse().map_err(|_| wrong(&format!("gw-priority={value}: must be a number")))?;
            }
            key => {
                return Err(wrong(&format!("{key:?} is not supported"))
                    .hint("there are name, alias, ip, ip6, mac-address and gw-priority"));
            }
        }
    }
    if e.network.is_empty() { Err(wrong("name=NETWORK is missing")) } else { Ok(e) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(list: &[&str]) -> Network {
        Network { network: list.iter().map(|s| (*s).to_owned()).collect(), ..Network::default() }
    }

    #[test]
    fn modes() {
        assert_eq!(network(&[]).chosen().unwrap().mode, NetworkMode::Bridge);
        assert_eq!(network(&["host"]).chosen().unwrap().mode, NetworkMode::Host);
        let with = network(&["container:web"]).chosen().unwrap();
        assert_eq!((with.mode, with.container.as_str()), (NetworkMode::Container, "web"));
        assert!(network(&["container:"]).chosen().is_err());
        assert!(network(&["host", "front"]).chosen().is_err());
        assert!(Network { ip: Some("10.0.0.2".into()), ..network(&["none"]) }.chosen().is_err());
        assert!(network(&["name=host,ip=10.0.0.1"]).chosen().is_err());
    }

    #[test]
    fn the_long_form() {
        let text = "name=front,alias=a,alias=b,ip=10.7.0.5,ip6=fd00::5,mac-address=02:00:00:00:00:05,gw-priority=-3";
        let e = endpoint(text).unwrap();
        assert_eq!((e.network.as_str(), e.aliases.len(), e.gw_priority), ("front", 2, -3));
        for bad in ["", "alias=a", "name=", "name=a,foo=b", "name=a,gw-priority=x", "name=a,b"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn short_options_are_of_the_first_network() {
        let both = Network {
            ip: Some("10.0.0.2".into()),
            network_alias: vec!["x".into()],
            ..network(&["front", "name=back,alias=y"])
        };
        let chosen = both.chosen().unwrap();
        assert_eq!(chosen.endpoints[0].ipv4_address, "10.0.0.2");
        assert_eq!(chosen.endpoints[0].aliases, ["x"]);
        assert_eq!(chosen.endpoints[1].aliases, ["y"]);
        let twice = Network { ip: Some("10.0.0.2".into()), ..network(&["name=front,ip=10.0.0.3"]) };
        assert!(twice.chosen().is_err());
    }
}
