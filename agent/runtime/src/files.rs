//! /etc/hosts, /etc/hostname and /etc/resolv.conf of a container, as text.

use berth_model::spec::{ContainerSpec, HostTarget};
use std::fmt::Write;
use std::net::IpAddr;

/// hosts(5) with Docker's first lines.
pub(crate) fn hosts(spec: &ContainerSpec, hostname: &str, address: Option<IpAddr>, gateway: IpAddr) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for host in &spec.extra_hosts {
        let to = match &host.target {
            HostTarget::Address(address) => *address,
            HostTarget::Gateway => gateway,
        };
        let _ = writeln!(text, "{to}\t{}", host.name);
    }
    if let Some(address) = address {
        let full = match &spec.domainname {
            Some(domain) if !domain.is_empty() => format!("{hostname}.{domain} {hostname}"),
            _ => hostname.to_owned(),
        };
        let _ = writeln!(text, "{address}\t{full}");
    }
    text
}

/// Public servers for containers whose host only has resolvers on loopback: what Docker falls back to.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// resolv.conf(5): the host's with what was asked for in its place. In a network namespace of its own the host's loopback resolvers cannot
/// be reached and are left out.
pub(crate) fn resolv_conf(spec: &ContainerSpec, host: &str, own_network: bool) -> String {
    let mut servers: Vec<String> = spec.dns.iter().map(IpAddr::to_string).collect();
    let (mut search, mut options) = (spec.dns_search.join(" "), spec.dns_options.join(" "));
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let (key, rest) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
        match key {
            "nameserver" if spec.dns.is_empty() => {
                let local = |a: &str| {
                    a.split('%').next().and_then(|a| a.parse::<IpAddr>().ok()).is_none_or(|a| a.is_loopback())
                };
                servers.extend(rest.first().filter(|a| !own_network || !local(a)).map(|a| (*a).to_owned()));
            }
            "search" | "domain" if spec.dns_search.is_empty() => search = rest.join(" "),
            "options" if spec.dns_options.is_empty() => options = rest.join(" "),
            _ => {}
        }
    }
    if servers.is_empty() && own_network {
        servers = FALLBACK.map(str::to_owned).to_vec();
    }
    let mut text = String::new();
    // resolv.conf(5) reads three at most.
    for server in servers.iter().take(3) {
        let _ = writeln!(text, "nameserver {server}");
    }
    // Docker's `--dns-search .`: none.
    if !search.is_empty() && search != "." {
        let _ = writeln!(text, "search {search}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {options}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::spec::ExtraHost;

    #[test]
    fn loopback_resolvers_stay_on_the_host() {
        let host = "# x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch a b\noptions edns0\n";
        let spec = ContainerSpec::default();
        assert_eq!(resolv_conf(&spec, host, true), "nameserver 192.0.2.1\nsearch a b\noptions edns0\n");
        assert!(resolv_conf(&spec, host, false).starts_with("nameserver 127.0.0.53\n"));
        assert_eq!(resolv_conf(&spec, "nameserver ::1\n", true), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        let asked = ContainerSpec { dns: vec!["192.0.2.9".parse().unwrap()], dns_search: vec![".".into()], ..spec };
        assert_eq!(resolv_conf(&asked, host, true), "nameserver 192.0.2.9\noptions edns0\n");
    }

    #[test]
    fn hosts_names_the_container() {
        let spec = ContainerSpec {
            extra_hosts: vec![ExtraHost { name: "up".into(), target: HostTarget::Gateway }],
            domainname: Some("example".into()),
            ..ContainerSpec::default()
        };
        let text = hosts(&spec, "web", Some("172.18.0.2".parse().unwrap()), "172.18.0.1".parse().unwrap());
        assert!(text.ends_with("172.18.0.1\tup\n172.18.0.2\tweb.example web\n"), "{text}");
    }
}
