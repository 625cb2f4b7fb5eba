//! The host's side of networks: its routes, and its settings for IPv6.

use crate::ends::is_link_name;
use crate::error::{NetworkError, Prefix, Prefix6};
use crate::link::{Link, MacvlanEnd, Route};
use crate::namespace::host_setting;
use crate::networks::{Networks, lock};
use berth_sys::store::read_at_most;
use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;

/// The host's routes at one moment, for those who look for a free subnet.
#[derive(Debug)]
pub struct HostRoutes {
    four: Vec<Route>,
    six: Vec<(Prefix6, u32)>,
    links: Vec<Link>,
    hops: Vec<IpAddr>,
    servers: Vec<IpAddr>,
}

impl HostRoutes {
    /// Whom the host itself asks for names, or sends everything through, among these addresses; in words. With a bridge of that subnet it would reach
    /// a container in their place, or nobody, wherever they really are.
    pub fn needed(&self, holds: impl Fn(IpAddr) -> bool) -> Option<String> {
        let server = self.servers.iter().find(|a| holds(**a)).map(|a| format!("the host's name server {a}"));
        server.or_else(|| self.hops.iter().find(|a| holds(**a)).map(|a| format!("the host's default gateway {a}")))
    }

    /// The route that some of the subnet's addresses have already, in words. The way to everywhere else is none, nor are the halves and quarters
    /// that VPNs use in its place.
    pub fn collision(&self, subnet: Prefix) -> Option<String> {
        let route = self.four.iter().find(|r| r.destination.len >= 8 && r.destination.overlaps(subnet))?;
        Some(self.words(route.destination.to_string(), route.interface))
    }

    pub fn collision6(&self, subnet: Prefix6) -> Option<String> {
        let (route, interface) = self.six.iter().find(|(route, _)| route.overlaps(subnet))?;
        Some(self.words(route.to_string(), *interface))
    }

    /// Whether the host has an interface of this name.
    pub fn has_link(&self, name: &str) -> bool {
        self.links.iter().any(|l| l.name == name)
    }

    fn words(&self, route: String, interface: u32) -> String {
        let name = self.links.iter().find(|l| l.index == interface).map(|l| l.name.as_str());
        format!("the host's route {route} on {}", name.unwrap_or("an interface that is gone"))
    }
}

impl Networks {
    /// Ports of the bridges that no container has and that are not on their way out: names of links. For those who look for leaks.
    pub fn strangers(&self) -> Result<Vec<String>, NetworkError> {
        let inner = &self.inner;
        let names: HashSet<String> = inner.all_nets().iter().map(|n| n.plan.bridge.clone()).collect();
        let links = lock(&inner.links).list()?;
        let bridges: HashSet<u32> =
            links.iter().filter(|l| l.bridge && names.contains(&l.name)).map(|l| l.index).collect();
        let state = inner.lock_state();
        let owned = |name: &str| state.leaving.contains(name) || state.link_is_used(name);
        let ports = links.iter().filter(|l| l.master.is_some_and(|m| bridges.contains(&m)) && is_link_name(&l.name));
        Ok(ports.filter(|l| !owned(&l.name)).map(|l| l.name.clone()).collect())
    }

    /// Whether the host has an interface of this name now.
    pub fn has_link(&self, name: &str) -> Result<bool, NetworkError> {
        Ok(lock(&self.inner.links).find(name)?.is_some())
    }

    /// Writes onto a bridge that plugins have made for this agent that they did. One that bears somebody's words keeps them.
    pub fn mark_bridge(&self, name: &str) -> Result<(), NetworkError> {
        let mut links = lock(&self.inner.links);
        match links.find(name)? {
            Some(link) if link.bridge && link.alias.is_none() => {
                links.set_alias(link.index, name, &self.inner.config.mark())
            }
            _ => Ok(()),
        }
    }

    /// Deletes a bridge that bears this agent's mark, unless it has ports or something sits on it. None of that name is fine.
    pub fn delete_marked_bridge(&self, name: &str) -> Result<(), NetworkError> {
        let mut links = lock(&self.inner.links);
        let all = links.list()?;
        let mark = self.inner.config.mark();
        let Some(bridge) = all.iter().find(|l| l.name == name && l.bridge) else { return Ok(()) };
        let used = all.iter().any(|l| l.master == Some(bridge.index) || l.below == Some(bridge.index));
        if used || bridge.alias.as_ref() != Some(&mark) { Ok(()) } else { links.delete(bridge.index, name) }
    }

    pub fn host_routes(&self) -> Result<HostRoutes, NetworkError> {
        let mut links = lock(&self.inner.links);
        Ok(HostRoutes {
            four: links.routes()?,
            six: links.routes6()?,
            links: links.list()?,
            hops: links.default_hops()?,
            servers: name_servers(),
        })
    }

    /// Why this kernel cannot keep containers from sending with each other's addresses, in its own words; `None`: it can.
    pub fn guard_missing(&self) -> Result<Option<String>, NetworkError> {
        lock(&self.inner.rules).guard_missing()
    }

    /// Why containers without an IPv6 address are not reached by [::1] on this host, in the kernel's words, where one of them publishes a port; `None`:
    /// they are.
    pub fn loopback6_missing(&self) -> Option<String> {
        lock(&self.inner.rules).mirror().missing().map(str::to_owned)
    }

    /// Whether the kernel makes a macvlan on an interface: one is made in a namespace that nobody sees, and goes with it.
    pub fn probe_macvlan(&self, parent: &str) -> Result<(), NetworkError> {
        let refused = |source| NetworkError::DriverRefused { what: format!("a macvlan on {parent}"), source };
        let mut links = lock(&self.inner.links);
        let found = links.find(parent)?.ok_or_else(|| refused(std::io::Error::other("there is no such interface")))?;
        let namespace = self.inner.namespaces.take()?;
        let mac = [2, 0x42, 0, 0, 0, 1];
        let end =
            MacvlanEnd { parent: found.index, mode: 4, namespace: namespace.fd.as_fd(), name: "probe", mac, mtu: None };
        links.make_macvlan(&end).map_err(|failure| refused(failure.into_io()))
    }
}

/// Whom the host asks for names: itself (resolv.conf(5)), and by systemd-resolved.
fn name_servers() -> Vec<IpAddr> {
    let files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let texts = files.iter().filter_map(|file| read_at_most(file, 64 << 10).ok());
    texts.flat_map(|text| servers_in(&String::from_utf8_lossy(&text))).collect()
}

fn servers_in(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let word = words.next().filter(|first| *first == "nameserver").and_then(|_| words.next())?;
        word.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(address).collect()
}

/// Containers from which on the host is given room for all of their neighbours.
pub(crate) const CROWD: usize = 100;

/// Two bounds of the kernel's that hold for all network namespaces together, raised for the whole host, never lowered:
///
/// - It remembers the MACs of neighbours in one table. Of more than gc_thresh3 (1024) it forgets some in use, and packets to them are lost: a thousand
///   containers that answer have two thousand entries, one on each side.
/// - It queues netdev_max_backlog (1000) packets for each processor. A broadcast on a bridge is one for each of its ports, and the last ones of a thousand
///   never heard who was asked for: they had no MAC for anybody.
pub(crate) fn room_for_neighbours() {
    let thresholds = [("gc_thresh3", 32_768u32), ("gc_thresh2", 16_384), ("gc_thresh1", 4096)];
    let neighbours = |family| thresholds.map(|(key, least)| (format!("net/{family}/neigh/default/{key}"), least));
    let backlog = [("net/core/netdev_max_backlog".to_owned(), 16_384)];
    for (key, least) in neighbours("ipv4").into_iter().chain(neighbours("ipv6")).chain(backlog) {
        let path = format!("/proc/sys/{key}");
        // Only the first network namespace has them.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if text.trim_end().parse::<u32>().is_ok_and(|now| now >= least) {
            continue;
        }
        match fs::write(&path, least.to_string()) {
            Ok(()) => {
                tracing::info!(key, least, "a setting of the host is raised: many containers have many neighbours")
            }
            Err(error) => tracing::warn!(%error, path, "giving neighbours room"),
        }
    }
}

/// IPv6 on a bridge of ours: no router is listened to there, and `forward` lets packets through the host.
pub(crate) fn bridge_with_ipv6(bridge: &str, forward: bool) -> Result<(), NetworkError> {
    for (key, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")] {
        host_setting(&format!("/proc/sys/net/ipv6/conf/{bridge}/{key}"), value)?;
    }
    const FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
    if !forward || fs::read_to_string(FORWARDING).is_ok_and(|v| v.trim_end() == "1") {
        return Ok(());
    }
    // A host that forwards listens to routers no more, unless it is told to (2): its own default route must stay.
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|v| v.trim_end() == "1") {
            host_setting(&path.to_string_lossy(), "2")?;
        }
    }
    host_setting(FORWARDING, "1")?;
    tracing::info!(
        "net.ipv6.conf.all.forwarding is switched on: containers reach other networks through this host; where accept_ra was 1 it is 2 now, so \
         that the host goes on listening to its routers"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_the_host_needs() {
        let text = "# nameserver 9.9.9.9\nsearch a\n nameserver\t192.0.2.53 \nnameserver fe80::1%eth0\nnameserver x\n";
        let servers = servers_in(text);
        assert_eq!(servers, ["192.0.2.53".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
        let hops = vec!["198.51.100.1".parse().unwrap()];
        let routes = HostRoutes { four: Vec::new(), six: Vec::new(), links: Vec::new(), hops, servers };
        let needed = |prefix: Prefix| routes.needed(|ip| matches!(ip, IpAddr::V4(ip) if prefix.contains(ip)));
        let net = |a: [u8; 4], len| Prefix { address: a.into(), len };
        assert!(needed(net([192, 0, 2, 0], 24)).is_some_and(|why| why.contains("name server 192.0.2.53")));
        assert!(needed(net([198, 51, 100, 0], 30)).is_some_and(|why| why.contains("gateway 198.51.100.1")));
        assert_eq!(needed(net([192, 0, 2, 0], 27)), None);
    }
}
