//! /etc/hosts, /etc/hostname and /etc/resolv.conf of a container, as text.

use berth_model::network::{DEFAULT_NETWORK, NetworkAttachment};
use berth_model::spec::{ContainerSpec, HostTarget};
use berth_sys::store::read_at_most;
use std::fmt::Write;
use std::fs::OpenOptions;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// hosts(5) with Docker's first lines, and the container's own addresses behind all others.
pub(crate) fn hosts(spec: &ContainerSpec, hostname: &str, networks: &[NetworkAttachment], gateway: IpAddr) -> String {
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
    for address in own_first(networks).flat_map(NetworkAttachment::addresses) {
        let full = match &spec.domainname {
            Some(domain) if !domain.is_empty() => format!("{hostname}.{domain} {hostname}"),
            _ => hostname.to_owned(),
        };
        let _ = writeln!(text, "{address}\t{full}");
    }
    text
}

/// The network with the default route before the others.
fn own_first(networks: &[NetworkAttachment]) -> impl Iterator<Item = &NetworkAttachment> {
    let main = networks.iter().find(|n| n.default_route).or(networks.first());
    main.into_iter()
        .chain(networks.iter().filter(move |n| Some(n.network.as_str()) != main.map(|m| m.network.as_str())))
}

/// Where the host's DNS server answers for the container: on the gateways of its bridges, of the default one excepted.
fn name_servers(networks: &[NetworkAttachment]) -> impl Iterator<Item = IpAddr> {
    // Who has no end on the host (macvlan) does not reach it.
    let own = |n: &&NetworkAttachment| n.network != DEFAULT_NETWORK && !n.host_interface.is_empty() && !n.is_cni();
    let served = own_first(networks).filter(own);
    served.flat_map(|n| [Some(IpAddr::V4(n.gateway)), n.ipv6.as_ref().map(|six| IpAddr::V6(six.gateway))]).flatten()
}

/// Public servers for containers whose host only has resolvers on loopback: what Docker falls back to.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// resolv.conf(5): the host's with what was asked for in its place. In a network namespace of its own the host's loopback resolvers cannot
/// be reached and are left out. On networks of one's own the host's DNS server is asked, which asks those servers, the host's loopback ones too;
/// names without a dot are then asked for as they are, before the search domains are tried (ndots:0, as Docker has it). What CNI plugins say stands
/// before the host's, and is not asked where the host's DNS server is.
pub(crate) fn resolv_conf(
    spec: &ContainerSpec,
    host: &str,
    own_network: bool,
    networks: &[NetworkAttachment],
) -> String {
    let mut servers: Vec<String> = spec.dns.iter().map(IpAddr::to_string).collect();
    let named: Vec<String> = name_servers(networks).map(|ip| ip.to_string()).collect();
    // A server in the container itself, which asks whom it likes.
    let inside = !spec.dns.is_empty() && spec.dns.iter().all(IpAddr::is_loopback);
    let (mut from_plugins, mut said_search, mut said_options) =
        (Vec::new(), spec.dns_search.clone(), spec.dns_options.clone());
    for dns in own_first(networks).filter_map(|n| n.cni.as_ref()).map(|cni| &cni.dns) {
        from_plugins.extend(dns.nameservers.iter().map(IpAddr::to_string));
        let domain = Some(&dns.domain).filter(|d| dns.search.is_empty() && !d.is_empty());
        if spec.dns_search.is_empty() {
            said_search.extend(dns.search.iter().chain(domain).cloned());
        }
        if spec.dns_options.is_empty() {
            said_options.extend(dns.options.iter().cloned());
        }
    }
    if servers.is_empty() {
        servers.clone_from(&from_plugins);
    }
    let (mut search, mut options) = (said_search.join(" "), said_options.join(" "));
    let (host_servers, host_search, host_options) = (servers.is_empty(), search.is_empty(), options.is_empty());
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let (key, rest) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
        match key {
            "nameserver" if host_servers => {
                let local = |a: &str| {
                    a.split('%').next().and_then(|a| a.parse::<IpAddr>().ok()).is_none_or(|a| a.is_loopback())
                };
                servers.extend(rest.first().filter(|a| !own_network || !local(a)).map(|a| (*a).to_owned()));
            }
            "search" | "domain" if host_search => search = rest.join(" "),
            "options" if host_options => options = rest.join(" "),
            _ => {}
        }
    }
    if !named.is_empty() && !inside {
        servers = named;
        if !options.split(' ').any(|o| o.starts_with("ndots:")) {
            options = format!("{options} ndots:0").trim_start().to_owned();
        }
    } else if servers.is_empty() && own_network {
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

/// A container that makes its file longer keeps it as it is.
const MAX_BYTES: usize = 1 << 20;

/// Around the names that stand in /etc/hosts because nobody answers them: who is on a macvlan does not reach its host's DNS server.
const PEERS: [&str; 2] = ["# Others on networks without a DNS server, kept by berth:\n", "# So far.\n"];

/// With a place for them, behind the container's own lines.
pub(crate) fn with_peers(mut hosts: String, peers: &str) -> String {
    let _ = write!(hosts, "{}{peers}{}", PEERS[0], PEERS[1]);
    hosts
}

/// Puts others into that place, where it still is.
pub(crate) fn replace_peers(path: &Path, peers: &str) -> io::Result<()> {
    let text = match read_at_most(path, MAX_BYTES) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let Some((begin, rest)) = peers_replaced(&text, peers) else { return Ok(()) };
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&rest, begin as u64)?;
    file.set_len((begin + rest.len()) as u64)
}

/// What is to be written from where on to the end. None: the place is not there, or holds it already.
pub(crate) fn peers_replaced(text: &[u8], peers: &str) -> Option<(usize, Vec<u8>)> {
    let find = |mark: &str, from: usize| {
        let at = text.get(from..)?.windows(mark.len()).position(|w| w == mark.as_bytes());
        at.map(|at| from + at)
    };
    let begin = find(PEERS[0], 0)? + PEERS[0].len();
    let end = find(PEERS[1], begin).filter(|_| text.len() < MAX_BYTES)?;
    let same = text[begin..end] == *peers.as_bytes();
    (!same).then(|| (begin, [peers.as_bytes(), &text[end..]].concat()))
}

/// Replaces the first lines of a file that a container has mounted, in place: another file under its name would not be what it sees. A file that
/// begins otherwise, or is not there, is left alone.
pub(crate) fn replace_front(path: &Path, old: &str, new: &str) -> io::Result<()> {
    let text = match read_at_most(path, MAX_BYTES) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let Some(rest) = text.strip_prefix(old.as_bytes()).filter(|_| text.len() < MAX_BYTES) else { return Ok(()) };
    let file = OpenOptions::new().write(true).open(path)?;
    let text = [new.as_bytes(), rest].concat();
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_come_and_go_between_the_container_s_lines() {
        let path = std::env::temp_dir().join(format!("berth-peers-{}", std::process::id()));
        std::fs::write(&path, with_peers("127.0.0.1\tlocalhost\n".into(), "") + "10.0.0.9\tmine\n").unwrap();
        for peers in ["192.0.2.2\ta b\n192.0.2.3\tc\n", "192.0.2.3\tc\n", ""] {
            replace_peers(&path, peers).unwrap();
            let want = with_peers("127.0.0.1\tlocalhost\n".into(), peers) + "10.0.0.9\tmine\n";
            assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
        }
        // Whoever takes the marks away keeps the file.
        for own in ["1.2.3.4\tx\n".to_owned(), format!("{}1.2.3.4\tx\n", PEERS[0]), PEERS[1].to_owned()] {
            std::fs::write(&path, &own).unwrap();
            replace_peers(&path, "192.0.2.3\tc\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
        }
        std::fs::remove_file(&path).unwrap();
        replace_peers(&path, "192.0.2.3\tc\n").unwrap();
    }

    #[test]
    fn what_a_container_has_written_stays() {
        let path = std::env::temp_dir().join(format!("berth-files-{}", std::process::id()));
        let replaced = |before: &str, old: &str, new: &str| {
            std::fs::write(&path, before).unwrap();
            replace_front(&path, old, new).unwrap();
            std::fs::read_to_string(&path).unwrap()
        };
        assert_eq!(replaced("a\nb\n", "a\nb\n", "c\n"), "c\n");
        assert_eq!(replaced("a\nown\n", "a\n", "longer\n"), "longer\nown\n");
        assert_eq!(replaced("own\na\n", "a\n", "c\n"), "own\na\n");
        let long = format!("a\n{}", "x".repeat(MAX_BYTES));
        assert_eq!(replaced(&long, "a\n", "c\n"), long);
        std::fs::remove_file(&path).unwrap();
        replace_front(&path, "a", "b").unwrap();
        assert!(!path.exists());
    }
    use berth_model::network::{Attachment6, Attachments};
    use berth_model::spec::ExtraHost;

    fn on(network: &str, n: u8, interface: &str, six: bool) -> NetworkAttachment {
        let ipv6 = Attachment6 {
            address: format!("fd00:{n}::2").parse().unwrap(),
            prefix_len: 64,
            gateway: format!("fd00:{n}::1").parse().unwrap(),
        };
        NetworkAttachment {
            network: network.into(),
            bridge: "br".into(),
            host_interface: if network == "vlan" { String::new() } else { "bth1".into() },
            interface: interface.into(),
            address: [172, n, 0, 2].into(),
            prefix_len: 16,
            gateway: [172, n, 0, 1].into(),
            ipv6: six.then_some(ipv6),
            mac: String::new(),
            default_route: network == "main",
            aliases: Vec::new(),
            ports: Vec::new(),
            cni: None,
        }
    }

    #[test]
    fn loopback_resolvers_stay_on_the_host() {
        let host = "# x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch a b\noptions edns0\n";
        let (spec, none) = (ContainerSpec::default(), Attachments::default());
        assert_eq!(resolv_conf(&spec, host, true, &none), "nameserver 192.0.2.1\nsearch a b\noptions edns0\n");
        assert!(resolv_conf(&spec, host, false, &none).starts_with("nameserver 127.0.0.53\n"));
        assert_eq!(resolv_conf(&spec, "nameserver ::1\n", true, &none), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        let asked = ContainerSpec { dns: vec!["192.0.2.9".parse().unwrap()], dns_search: vec![".".into()], ..spec };
        assert_eq!(resolv_conf(&asked, host, true, &none), "nameserver 192.0.2.9\noptions edns0\n");
        let default = Attachments::from(vec![on(DEFAULT_NETWORK, 5, "eth0", true)]);
        assert_eq!(resolv_conf(&asked, host, true, &default), "nameserver 192.0.2.9\noptions edns0\n");
    }

    #[test]
    fn what_plugins_say_stands_before_the_hosts() {
        use berth_model::network::{CniAttachment, CniDns};
        let host = "nameserver 192.0.2.1\nsearch a b\noptions edns0\n";
        let dns = CniDns {
            nameservers: vec!["10.9.0.1".parse().unwrap()],
            domain: "lab".into(),
            search: Vec::new(),
            options: vec!["ndots:3".into()],
        };
        let cni = Some(Box::new(CniAttachment { result: String::new(), dns }));
        let plugged = NetworkAttachment { cni, ..on("lab", 9, "eth0", false) };
        let (spec, one) = (ContainerSpec::default(), Attachments::from(vec![plugged.clone()]));
        assert_eq!(resolv_conf(&spec, host, true, &one), "nameserver 10.9.0.1\nsearch lab\noptions ndots:3\n");
        let silent = NetworkAttachment { cni: Some(Box::default()), ..plugged.clone() };
        let silent = Attachments::from(vec![silent]);
        assert_eq!(resolv_conf(&spec, host, true, &silent), host);
        let asked = ContainerSpec { dns: vec!["192.0.2.9".parse().unwrap()], dns_search: vec!["x".into()], ..spec };
        assert!(resolv_conf(&asked, host, true, &one).starts_with("nameserver 192.0.2.9\nsearch x\n"));
        // Beside a network with names, the host's server answers.
        let both = Attachments::from(vec![
            on("main", 8, "eth0", false),
            NetworkAttachment { interface: "eth1".into(), ..plugged },
        ]);
        assert!(resolv_conf(&ContainerSpec::default(), host, true, &both).starts_with("nameserver 172.8.0.1\n"));
        // A plugin that gives no address gives no line.
        let bare = NetworkAttachment { address: [0, 0, 0, 0].into(), ..on("lab", 9, "eth0", false) };
        assert!(!hosts(&ContainerSpec::default(), "web", &[bare], "10.0.0.1".parse().unwrap()).contains("web"));
    }

    #[test]
    fn gateways_of_own_networks_are_asked() {
        let host = "nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch a b\noptions edns0\n";
        let mut spec = ContainerSpec::default();
        let one = Attachments::from(vec![on("one", 6, "eth0", false)]);
        let rest = "search a b\noptions edns0 ndots:0\n";
        assert_eq!(resolv_conf(&spec, host, true, &one), format!("nameserver 172.6.0.1\n{rest}"));
        let many = Attachments::from(vec![
            on(DEFAULT_NETWORK, 5, "eth0", true),
            on("one", 6, "eth1", false),
            on("vlan", 7, "eth2", true),
            on("main", 8, "eth3", true),
        ]);
        let servers = "nameserver 172.8.0.1\nnameserver fd00:8::1\nnameserver 172.6.0.1\n";
        assert_eq!(resolv_conf(&spec, host, true, &many), format!("{servers}{rest}"));
        // Those that were asked for are asked by the host's server, and not by the container.
        spec.dns = vec!["192.0.2.9".parse().unwrap()];
        spec.dns_options = vec!["ndots:2".into(), "timeout:1".into()];
        let text = "nameserver 172.6.0.1\nsearch a b\noptions ndots:2 timeout:1\n";
        assert_eq!(resolv_conf(&spec, host, true, &one), text);
        spec.dns = vec!["127.0.0.1".parse().unwrap()];
        assert!(resolv_conf(&spec, host, true, &one).starts_with("nameserver 127.0.0.1\nsearch"));
    }

    #[test]
    fn hosts_names_the_container() {
        let spec = ContainerSpec {
            extra_hosts: vec![ExtraHost { name: "up".into(), target: HostTarget::Gateway }],
            domainname: Some("example".into()),
            ..ContainerSpec::default()
        };
        let networks = Attachments::from(vec![on("one", 6, "eth0", true), on("main", 8, "eth1", false)]);
        let text = hosts(&spec, "web", &networks, "172.18.0.1".parse().unwrap());
        let own =
            "172.18.0.1\tup\n172.8.0.2\tweb.example web\n172.6.0.2\tweb.example web\nfd00:6::2\tweb.example web\n";
        assert!(text.ends_with(own), "{text}");
    }
}
