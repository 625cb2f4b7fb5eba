//! Published ports: which of the host's lead to which of a container's.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// IPPROTO_*
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// A port of the host that leads to a port of the container.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PortMapping {
    /// Address of the host; `None`: every address of both families; 0.0.0.0 and `::`: every address of that family.
    pub host_ip: Option<IpAddr>,
    /// Nobody named an address, and the policy's is 127.0.0.1: `::1` is meant, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub localhost: bool,
    /// Port of the host; 0: the agent chooses one from the host's ephemeral range.
    pub host_port: u16,
    /// The agent takes the first free one of this many ports of the host; 1: only `host_port`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub choice: u16,
    pub container_port: u16,
    pub protocol: Protocol,
    /// How many ports from these on, in step; 1: only these.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u16,
}

const fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_one(count: &u16) -> bool {
    *count == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}

const ALL4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ALL6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const LOOP4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOP6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Where on the host a port is: one address, or one of each family. An unspecified one is every address of its family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HostAddresses(IpAddr, Option<IpAddr>);

impl HostAddresses {
    pub const EVERY: HostAddresses = HostAddresses(ALL4, Some(ALL6));
    pub const LOCALHOST: HostAddresses = HostAddresses(LOOP4, Some(LOOP6));

    pub const fn one(address: IpAddr) -> HostAddresses {
        HostAddresses(address, None)
    }

    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.0).chain(self.1)
    }

    /// A packet to this address of the host is meant.
    pub fn cover(self, address: IpAddr) -> bool {
        self.iter().any(|a| a.is_ipv4() == address.is_ipv4() && (a.is_unspecified() || a == address))
    }

    /// There is an address that both mean.
    pub fn meet(self, other: HostAddresses) -> bool {
        self.iter().any(|a| other.cover(a) || (a.is_unspecified() && other.iter().any(|b| a.is_ipv4() == b.is_ipv4())))
    }

    /// Those that stand in both, and those that stand here only.
    fn divide(self, other: HostAddresses) -> (Option<HostAddresses>, Option<HostAddresses>) {
        let pick = |there: bool| {
            let mut found = self.iter().filter(|a| other.iter().any(|b| b == *a) == there);
            found.next().map(|first| HostAddresses(first, found.next()))
        };
        (pick(true), pick(false))
    }
}

/// What is left of a published port, and what of it is closed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    pub left: Vec<PortMapping>,
    pub gone: Vec<PortMapping>,
}

impl Default for PortMapping {
    /// Nothing is one: what a literal leaves out.
    fn default() -> Self {
        PortMapping {
            host_ip: None,
            localhost: false,
            host_port: 0,
            choice: 1,
            container_port: 0,
            protocol: Protocol::Tcp,
            count: 1,
        }
    }
}

impl PortMapping {
    pub fn addresses(&self) -> HostAddresses {
        match self.host_ip {
            None => HostAddresses::EVERY,
            Some(LOOP4) if self.localhost => HostAddresses::LOCALHOST,
            Some(address) => HostAddresses::one(address),
        }
    }

    /// The same at other addresses.
    #[must_use]
    pub fn at(&self, addresses: HostAddresses) -> PortMapping {
        let localhost = addresses == HostAddresses::LOCALHOST;
        let host_ip = Some(addresses.0).filter(|_| addresses != HostAddresses::EVERY);
        PortMapping { host_ip, localhost, ..self.clone() }
    }

    /// One for each address where it is, of a container with or without an IPv6 address.
    pub fn each(&self, ipv6: bool) -> impl Iterator<Item = PortMapping> + '_ {
        let both = self.addresses().1.is_some();
        let mirrored = self.mirrored(ipv6);
        let there = move |a: &IpAddr| ipv6 || !both || a.is_ipv4() || mirrored && *a == LOOP6;
        self.addresses().iter().filter(there).map(|a| self.at(HostAddresses::one(a)))
    }

    /// Of a container with or without an IPv6 address: it has none, and what the host sends to [::1] is to come by 127.0.0.1.
    pub fn mirrored(&self, ipv6: bool) -> bool {
        let addresses = self.addresses();
        !ipv6 && self.protocol != Protocol::Sctp && addresses.cover(LOOP4) && addresses.cover(LOOP6)
    }

    /// The agent chooses the port of the host.
    pub const fn is_open(&self) -> bool {
        self.host_port == 0 || self.choice > 1
    }

    /// The agent may have chosen this for it.
    pub fn could_be(&self, chosen: &PortMapping) -> bool {
        let last = self.host_port.saturating_add(self.choice.saturating_sub(1));
        let number = match self.host_port {
            0 => true,
            first => (first..=last).contains(&chosen.host_port),
        };
        let of = |p: &PortMapping| (p.addresses(), p.container_port, p.protocol, p.count);
        number && of(self) == of(chosen)
    }

    /// The last port of the host.
    pub const fn last(&self) -> u16 {
        self.host_port.saturating_add(self.count.saturating_sub(1))
    }

    /// Both are, or hold, the same port of the host.
    pub fn meets(&self, other: &PortMapping) -> bool {
        !self.is_open()
            && !other.is_open()
            && self.protocol == other.protocol
            && self.host_port <= other.last()
            && other.host_port <= self.last()
            && self.addresses().meet(other.addresses())
    }

    /// These from the nth on.
    fn part(&self, from: u16, count: u16) -> PortMapping {
        let host_port = if self.host_port == 0 { 0 } else { self.host_port + from };
        PortMapping { host_port, container_port: self.container_port + from, count, ..self.clone() }
    }

    /// The places in it of those that the pattern names, first and last.
    fn named(&self, pattern: &PortMapping) -> Option<(u16, u16)> {
        let ends =
            |p: &PortMapping| (i32::from(p.container_port), i32::from(p.container_port) + i32::from(p.count) - 1);
        let ((first, last), (from, to)) = (ends(self), ends(pattern));
        let shift = |p: &PortMapping| i32::from(p.host_port) - i32::from(p.container_port);
        let (low, high) = (first.max(from), last.min(to));
        if low > high || self.protocol != pattern.protocol {
            return None;
        }
        let same_choice = (self.host_port, self.choice) == (pattern.host_port, pattern.choice);
        let host = if pattern.host_port == 0 || same_choice && self.choice > 1 {
            true
        } else if self.is_open() {
            false
        } else if pattern.choice > 1 {
            // One of those that it could have been.
            let port = i32::from(self.host_port) + low - first;
            (i32::from(pattern.host_port)..i32::from(pattern.host_port) + i32::from(pattern.choice)).contains(&port)
        } else {
            shift(self) == shift(pattern)
        };
        let place = |port: i32| u16::try_from(port - first).ok();
        host.then_some(place(low)?.min(self.count)).zip(place(high))
    }

    /// Takes those out that the pattern names: by the container's port and protocol, a host's port of 0 is any. `on`: only there.
    fn without_one(&self, pattern: &PortMapping, on: Option<HostAddresses>) -> Cut {
        let whole = || Cut { left: vec![self.clone()], gone: Vec::new() };
        let Some((low, high)) = self.named(pattern) else { return whole() };
        let (there, elsewhere) = match on {
            None => (Some(self.addresses()), None),
            Some(on) => self.addresses().divide(on),
        };
        let Some(there) = there else { return whole() };
        let middle = self.part(low, high - low + 1);
        let mut left = Vec::new();
        if low > 0 {
            left.push(self.part(0, low));
        }
        left.extend(elsewhere.map(|a| middle.at(a)));
        if high + 1 < self.count {
            left.push(self.part(high + 1, self.count - high - 1));
        }
        Cut { left, gone: vec![middle.at(there)] }
    }

    /// Takes those out that one of the patterns names: by the container's port and protocol; a host's port of 0 and no address are any.
    pub fn without(&self, patterns: &[PortMapping]) -> Cut {
        let on = |p: &PortMapping| p.host_ip.map(|_| p.addresses());
        self.cut(patterns.iter().map(|p| (p, on(p))))
    }

    /// What of it stands in none of the others.
    pub fn beyond(&self, others: &[PortMapping]) -> Vec<PortMapping> {
        self.cut(others.iter().map(|p| (p, Some(p.addresses())))).left
    }

    fn cut<'a>(&self, patterns: impl Iterator<Item = (&'a PortMapping, Option<HostAddresses>)>) -> Cut {
        let mut cut = Cut { left: vec![self.clone()], gone: Vec::new() };
        for (pattern, on) in patterns {
            for piece in std::mem::take(&mut cut.left) {
                let Cut { left, gone } = piece.without_one(pattern, on);
                cut.left.extend(left);
                cut.gone.extend(gone);
            }
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: &str, host_port: u16, container_port: u16, count: u16) -> PortMapping {
        let localhost = host_ip == "localhost";
        let host_ip = if localhost { Some(LOOP4) } else { host_ip.parse().ok() };
        PortMapping { host_ip, localhost, host_port, container_port, count, ..PortMapping::default() }
    }

    /// `ADDRESS:HOST:CONTAINER+COUNT` for each.
    fn shown(list: &[PortMapping]) -> Vec<String> {
        let address = |p: &PortMapping| p.addresses().iter().map(|a| a.to_string()).collect::<Vec<_>>().join(",");
        list.iter().map(|p| format!("{} {}:{}+{}", address(p), p.host_port, p.container_port, p.count)).collect()
    }

    #[test]
    fn parts_of_a_range_are_closed() {
        for (pattern, left, gone) in [
            (mapping("", 0, 80, 1), vec!["127.0.0.3 9000:1+79", "127.0.0.3 9080:81+121"], vec!["127.0.0.3 9079:80+1"]),
            (mapping("", 0, 1, 1), vec!["127.0.0.3 9001:2+200"], vec!["127.0.0.3 9000:1+1"]),
            (mapping("", 0, 201, 1), vec!["127.0.0.3 9000:1+200"], vec!["127.0.0.3 9200:201+1"]),
            (
                mapping("127.0.0.3", 9050, 51, 100),
                vec!["127.0.0.3 9000:1+50", "127.0.0.3 9150:151+51"],
                vec!["127.0.0.3 9050:51+100"],
            ),
            (mapping("", 9000, 1, 201), vec![], vec!["127.0.0.3 9000:1+201"]),
            (mapping("", 0, 150, 500), vec!["127.0.0.3 9000:1+149"], vec!["127.0.0.3 9149:150+52"]),
            (mapping("", 9000, 80, 1), vec!["127.0.0.3 9000:1+201"], vec![]),
            (mapping("127.0.0.1", 9079, 80, 1), vec!["127.0.0.3 9000:1+201"], vec![]),
            (mapping("", 0, 202, 1), vec!["127.0.0.3 9000:1+201"], vec![]),
        ] {
            let cut = mapping("127.0.0.3", 9000, 1, 201).without(std::slice::from_ref(&pattern));
            assert_eq!((shown(&cut.left), shown(&cut.gone)), (as_text(left), as_text(gone)), "{pattern:?}");
        }
        let several = [mapping("", 0, 5, 1), mapping("", 0, 1, 2), mapping("", 0, 9, 2)];
        let cut = mapping("::1", 11, 1, 10).without(&several);
        assert_eq!(shown(&cut.left), ["::1 13:3+2", "::1 16:6+3"]);
        let udp = PortMapping { protocol: Protocol::Udp, ..mapping("", 0, 5, 1) };
        assert!(mapping("::1", 11, 1, 10).without(&[udp]).gone.is_empty());
        let last = mapping("", 65535, 65535, 1);
        assert!(last.without(std::slice::from_ref(&last)).left.is_empty());
        assert_eq!(shown(&mapping("", 1, 1, 65535).without(&[last]).left), ["0.0.0.0,:: 1:1+65534"]);
    }

    fn as_text(list: Vec<&str>) -> Vec<String> {
        list.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn one_of_both_addresses_is_closed() {
        for (host, pattern, left) in [
            ("", "0.0.0.0", vec![":: 80:80+1"]),
            ("", "::", vec!["0.0.0.0 80:80+1"]),
            ("localhost", "127.0.0.1", vec!["::1 80:80+1"]),
            ("localhost", "::1", vec!["127.0.0.1 80:80+1"]),
            ("localhost", "localhost", vec![]),
            ("0.0.0.0", "", vec![]),
            ("0.0.0.0", "::", vec!["0.0.0.0 80:80+1"]),
            // Not as it was published.
            ("0.0.0.0", "127.0.0.1", vec!["0.0.0.0 80:80+1"]),
        ] {
            let cut = mapping(host, 80, 80, 1).without(&[mapping(pattern, 80, 80, 1)]);
            assert_eq!(shown(&cut.left), as_text(left), "{host} {pattern}");
        }
        let cut = mapping("", 80, 80, 3).without(&[mapping("::", 81, 81, 1)]);
        assert_eq!(shown(&cut.left), ["0.0.0.0,:: 80:80+1", "0.0.0.0 81:81+1", "0.0.0.0,:: 82:82+1"]);
        let beyond = mapping("", 80, 80, 3).beyond(&cut.left);
        assert_eq!(shown(&beyond), [":: 81:81+1"]);
    }

    #[test]
    fn addresses_meet_within_their_family() {
        let on = |text: &str| mapping(text, 80, 80, 1);
        for (a, b, meet) in [
            ("", "::1", true),
            ("", "0.0.0.0", true),
            ("0.0.0.0", "::", false),
            ("0.0.0.0", "127.0.0.9", true),
            ("0.0.0.0", "::1", false),
            ("localhost", "::1", true),
            ("localhost", "::", true),
            ("localhost", "127.0.0.2", false),
            ("127.0.0.1", "::1", false),
        ] {
            assert_eq!((on(a).meets(&on(b)), on(b).meets(&on(a))), (meet, meet), "{a} {b}");
        }
        assert!(!on("").meets(&PortMapping { choice: 2, ..on("") }) && !on("").meets(&mapping("", 0, 80, 1)));
        assert!(
            mapping("", 80, 1, 5).meets(&mapping("", 84, 9, 2)) && !mapping("", 80, 1, 5).meets(&mapping("", 85, 9, 2))
        );
    }

    #[test]
    fn choices_are_closed_as_they_were_asked_for() {
        let asked = PortMapping { choice: 3, ..mapping("", 9300, 80, 1) };
        let got = mapping("", 9301, 80, 1);
        for (pattern, closes_asked, closes_got) in [
            (asked.clone(), true, true),
            (mapping("", 0, 80, 1), true, true),
            (got.clone(), false, true),
            (mapping("", 9300, 80, 1), false, false),
            (PortMapping { choice: 3, ..mapping("", 9302, 80, 1) }, false, false),
        ] {
            let closed = |p: &PortMapping| p.without(std::slice::from_ref(&pattern)).left.is_empty();
            assert_eq!((closed(&asked), closed(&got)), (closes_asked, closes_got), "{pattern:?}");
        }
    }

    #[test]
    fn records_of_older_agents_are_read() {
        let old = r#"{"host_ip":null,"host_port":80,"container_port":80,"protocol":"tcp"}"#;
        let read: PortMapping = serde_json::from_str(old).unwrap();
        assert_eq!(read, mapping("", 80, 80, 1));
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
    }
}
