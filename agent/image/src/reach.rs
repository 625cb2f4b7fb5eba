//! Where a registry may send the agent. Its answers name token servers and places of blobs, and it may be anybody's, a container's too, while
//! the agent stands where containers and callers do not: on the host's loopback, and beside what has a link-local address.
//!
//! Its own place (scheme, host and port) is always good, and so is what the agent's configuration names. Of all else, only https counts, and
//! nothing on loopback or link-local: by its address, and by what its name turns out to mean when it is connected to.

use crate::RegistryConfig;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Whether an answer of `from` may send the agent to `to`, which has the entry `known` in the configuration. The error goes on behind "it
/// redirects to" and the like.
pub(crate) fn check(from: &Url, to: &Url, known: Option<&RegistryConfig>) -> Result<(), String> {
    let at = authority(to).ok_or("what has no host")?;
    match to.scheme() {
        _ if to.origin() == from.origin() => Ok(()),
        "https" if known.is_some() || !names_inside(to) => Ok(()),
        "https" => Err(format!(
            "{at}, which is on the host's loopback or link-local: add [registries.{at:?}] to the agent's configuration if it may"
        )),
        "http" if from.scheme() == "https" => Err(format!("{at} without TLS, and itself has TLS")),
        "http" if known.is_some_and(|k| k.plain_http) => Ok(()),
        "http" => Err(format!(
            "{at} without TLS, which is another place than its own: add [registries.{at:?}] with plain_http = true to the agent's \
             configuration if it may"
        )),
        other => Err(format!("{other}, which is neither https nor http")),
    }
}

/// `host[:port]` as references write it.
pub(crate) fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// 127.0.0.0/8, ::1 and localhost, with or without a port.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => host.split(':').next().unwrap_or(host),
    };
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// By its letters alone.
fn names_inside(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = bare.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost") || bare.parse().is_ok_and(is_inside)
}

/// Loopback, link-local, and the unspecified address, which connects to loopback.
fn is_inside(ip: IpAddr) -> bool {
    let v4 = |ip: Ipv4Addr| ip.is_loopback() || ip.is_link_local() || ip.octets()[0] == 0;
    match ip {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.to_ipv4().is_some_and(v4),
    }
}

/// Names whose addresses are all on loopback or link-local do not resolve. The host's own rules (nsswitch, hosts, changed resolv.conf) hold.
#[derive(Debug)]
pub(crate) struct Outside {
    /// Hosts of the proxies that the agent is told to use: the admin's choice.
    proxies: HashSet<String>,
}

impl Outside {
    pub fn new() -> Outside {
        let said = ["https_proxy", "http_proxy", "all_proxy", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];
        let host = |value: String| {
            let url = Url::parse(&value)
                .ok()
                .filter(Url::has_host)
                .or_else(|| Url::parse(&format!("http://{value}")).ok())?;
            url.host_str().map(str::to_owned)
        };
        Outside { proxies: said.iter().filter_map(|name| std::env::var(name).ok()).filter_map(host).collect() }
    }
}

/// What a name stands for is nothing that a registry may send the agent to.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}, whose addresses are on the host's loopback or link-local: add a table [registries.\"HOST:PORT\"] to the agent's configuration if it may"
)]
pub(crate) struct Refused(String);

impl Resolve for Outside {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let proxy = self.proxies.contains(&name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let (inside, outside): (Vec<_>, Vec<_>) = found.into_iter().partition(|a| !proxy && is_inside(a.ip()));
            if outside.is_empty() && !inside.is_empty() {
                return Err(Refused(name).into());
            }
            Ok(Box::new(outside.into_iter()) as Addrs)
        })
    }
}

/// The refusal that a request failed with.
pub(crate) fn refused<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refused> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(refused) = e.downcast_ref() {
            return Some(refused);
        }
        next = e.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loopback() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["docker.io", "10.0.0.1:5000", "localhost.example.com", "128.0.0.1", "[::2]:80"] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn where_a_registry_may_send_the_agent() {
        let entry = RegistryConfig::default();
        let plain = RegistryConfig { plain_http: true, ..RegistryConfig::default() };
        for (from, to, known, good) in [
            // Its own place, however it is spoken to.
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token", None, true),
            ("https://localhost", "https://localhost:443/token", None, true),
            // Elsewhere over TLS.
            ("https://r.example", "https://cdn.example:8443/blob", None, true),
            ("http://10.0.0.5:5000", "https://10.0.0.6/token", None, true),
            // The host's own.
            ("http://127.0.0.1:5000", "https://127.0.0.1:5001/token", None, false),
            ("https://r.example", "https://localhost/x", None, false),
            ("https://r.example", "https://localhost./x", None, false),
            ("https://r.example", "https://a.localhost/x", None, false),
            ("https://r.example", "https://2130706433/x", None, false),
            ("https://r.example", "https://0/x", None, false),
            ("https://r.example", "https://169.254.169.254/latest", None, false),
            ("https://r.example", "https://[fe80::1]/x", None, false),
            ("https://r.example", "https://[::ffff:127.0.0.1]/x", None, false),
            ("https://r.example", "https://[::]/x", None, false),
            ("https://r.example", "https://127.0.0.1:5001/x", Some(&entry), true),
            // Without TLS.
            ("http://127.0.0.1:9997", "http://127.0.0.1:9996/internal/token", None, false),
            ("http://10.0.0.5:5000", "http://10.0.0.6:9000/blob", None, false),
            ("http://10.0.0.5:5000", "http://10.0.0.6:9000/blob", Some(&entry), false),
            ("http://10.0.0.5:5000", "http://10.0.0.6:9000/blob", Some(&plain), true),
            ("https://r.example", "http://10.0.0.6:9000/blob", Some(&plain), false),
            ("http://10.0.0.5:5000", "ftp://10.0.0.5:5000/blob", Some(&plain), false),
            ("http://10.0.0.5:5000", "file:///etc/passwd", None, false),
        ] {
            let (from, to) = (Url::parse(from).unwrap(), Url::parse(to).unwrap());
            assert_eq!(check(&from, &to, known).is_ok(), good, "{from} {to}: {:?}", check(&from, &to, known));
        }
        let (from, to) = (Url::parse("http://127.0.0.1:9997").unwrap(), Url::parse("http://127.0.0.1:9996/t").unwrap());
        let said = check(&from, &to, None).unwrap_err();
        assert!(said.contains("[registries.\"127.0.0.1:9996\"] with plain_http = true"), "{said}");
    }

    #[tokio::test]
    async fn names_of_the_hosts_own_addresses_are_refused_when_they_are_connected_to() {
        let tls = crate::tls::client_config(&RegistryConfig::default()).unwrap();
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
        let none = || Outside { proxies: HashSet::new() };
        let client = builder.dns_resolver(none()).build().unwrap();
        let e = client.get("https://localhost:1/x").send().await.unwrap_err();
        let said = refused(&e).expect("refused, and not tried").to_string();
        assert!(said.starts_with("localhost, whose addresses"), "{said}");
        assert_eq!(crate::registry::cause(&e), said);
        let proxy = Outside { proxies: HashSet::from(["localhost".to_owned()]) };
        assert!(proxy.resolve("localhost".parse().unwrap()).await.is_ok_and(|mut found| found.next().is_some()));
    }
}
