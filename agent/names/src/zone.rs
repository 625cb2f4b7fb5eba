//! What the agent tells about a network: one text file for each, which a new server reads as it stands.
//!
//! ```text
//! berth-names 1
//! network web
//! device br-web
//! listen 172.31.16.1
//! subnet 172.31.16.0/24
//! forward
//! host 4f1e… api 172.31.16.2 fd00::2
//! alias 4f1e… db
//! server 4f1e… 192.0.2.53
//! unwell 4f1e…
//! ```
//!
//! `forward`: what is not known here is asked of other servers. `server`: those that one container's questions go to, instead of the host's. `unwell`: its health
//! check fails; it is answered only where nobody else has the name.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;

/// A network has as many addresses at most, and an alias or two for each.
pub const MAX_LINES: usize = 1 << 17;
pub const MAX_BYTES: u64 = 16 << 20;
const FIRST_LINE: &str = "berth-names 1";

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Zone {
    pub network: String,
    /// The bridge's interface.
    pub device: String,
    /// Addresses of the host on it.
    pub listen: Vec<IpAddr>,
    pub subnets: Vec<(IpAddr, u8)>,
    /// Other servers are asked for what is not known here.
    pub forward: bool,
    pub hosts: Vec<Host>,
}

/// A running container of the network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Host {
    pub id: String,
    pub name: String,
    pub aliases: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Empty: the host's.
    pub servers: Vec<IpAddr>,
    /// Not to be answered while another one has the same name.
    pub unwell: bool,
}

/// A line that makes no sense, counted from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine(pub usize);

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {} cannot be read", self.0)
    }
}

impl Zone {
    /// Words with blanks in them are left out: no name has one.
    pub fn render(&self) -> String {
        let word = |w: &str| word(w).is_some();
        let mut text = format!("{FIRST_LINE}\nnetwork {}\ndevice {}\n", self.network, self.device);
        let mut line = |words: std::fmt::Arguments<'_>| {
            // Writing into a string does not fail.
            let _ = text.write_fmt(words);
        };
        for address in &self.listen {
            line(format_args!("listen {address}\n"));
        }
        for (address, len) in &self.subnets {
            line(format_args!("subnet {address}/{len}\n"));
        }
        if self.forward {
            line(format_args!("forward\n"));
        }
        for host in self.hosts.iter().filter(|h| word(&h.id) && word(&h.name)) {
            line(format_args!("host {} {}", host.id, host.name));
            for address in &host.addresses {
                line(format_args!(" {address}"));
            }
            line(format_args!("\n"));
            for alias in host.aliases.iter().filter(|a| word(a)) {
                line(format_args!("alias {} {alias}\n", host.id));
            }
            for server in &host.servers {
                line(format_args!("server {} {server}\n", host.id));
            }
            if host.unwell {
                line(format_args!("unwell {}\n", host.id));
            }
        }
        text
    }

    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut zone = Zone::default();
        let mut places = HashMap::new();
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, first)| first != FIRST_LINE) {
            return Err(BadLine(1));
        }
        for (i, line) in lines {
            let bad = BadLine(i + 1);
            if i >= MAX_LINES {
                return Err(bad);
            }
            zone.take(line, &mut places).ok_or(bad)?;
        }
        let whole = !zone.network.is_empty() && !zone.device.is_empty();
        if whole { Ok(zone) } else { Err(BadLine(text.lines().count())) }
    }

    fn take<'a>(&mut self, line: &'a str, places: &mut HashMap<&'a str, usize>) -> Option<()> {
        let mut words = line.split(' ');
        match words.next()? {
            "network" => self.network = word(words.next()?)?.to_owned(),
            "device" => self.device = word(words.next()?)?.to_owned(),
            "listen" => self.listen.push(words.next()?.parse().ok()?),
            "subnet" => {
                let (address, len) = words.next()?.split_once('/')?;
                let (address, len): (IpAddr, u8) = (address.parse().ok()?, len.parse().ok()?);
                (len <= if address.is_ipv4() { 32 } else { 128 }).then_some(())?;
                self.subnets.push((address, len));
            }
            "forward" => self.forward = true,
            "host" => {
                let (id, name) = (word(words.next()?)?, word(words.next()?)?);
                let addresses = words.by_ref().map(|w| w.parse().ok()).collect::<Option<_>>()?;
                places.insert(id, self.hosts.len());
                self.hosts.push(Host { id: id.into(), name: name.into(), addresses, ..Host::default() });
            }
            "alias" => {
                let host = *places.get(words.next()?)?;
                self.hosts[host].aliases.push(word(words.next()?)?.to_owned());
            }
            "server" => {
                let host = *places.get(words.next()?)?;
                self.hosts[host].servers.push(words.next()?.parse().ok()?);
            }
            "unwell" => {
                let host = *places.get(words.next()?)?;
                self.hosts[host].unwell = true;
            }
            _ => return None,
        }
        words.next().is_none().then_some(())
    }

    /// Whether an address is one of the network's.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|(network, len)| match (network, address) {
            (IpAddr::V4(n), IpAddr::V4(a)) => {
                let shift = 32 - u32::from(*len);
                u32::from(*n).checked_shr(shift) == u32::from(a).checked_shr(shift)
            }
            (IpAddr::V6(n), IpAddr::V6(a)) => {
                let shift = 128 - u32::from(*len);
                u128::from(*n).checked_shr(shift) == u128::from(a).checked_shr(shift)
            }
            _ => false,
        })
    }
}

/// What a name may be in the file, where spaces and ends of lines part words.
fn word(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
}

/// A zone with its ways in.
#[derive(Debug)]
pub struct Index {
    pub zone: Zone,
    by_name: HashMap<Box<[u8]>, Vec<u32>>,
    by_address: HashMap<IpAddr, u32>,
    by_id: HashMap<Box<str>, u32>,
    /// `.NETWORK`, in lower case.
    suffix: Box<[u8]>,
}

impl AsRef<Index> for Index {
    fn as_ref(&self) -> &Index {
        self
    }
}

impl Index {
    pub fn new(zone: Zone) -> Self {
        let mut by_name: HashMap<Box<[u8]>, Vec<u32>> = HashMap::new();
        let (mut by_address, mut by_id) = (HashMap::new(), HashMap::new());
        for (i, host) in (0u32..).zip(&zone.hosts) {
            for name in std::iter::once(&host.name).chain(&host.aliases) {
                let hosts = by_name.entry(name.to_ascii_lowercase().into_bytes().into()).or_default();
                // Under one name only once: hosts are taken in one after the other.
                if hosts.last() != Some(&i) {
                    hosts.push(i);
                }
            }
            by_address.extend(host.addresses.iter().map(|a| (*a, i)));
            by_id.insert(host.id.as_str().into(), i);
        }
        let suffix = format!(".{}", zone.network.to_ascii_lowercase()).into_bytes().into();
        Index { zone, by_name, by_address, by_id, suffix }
    }

    fn host(&self, i: u32) -> Option<&Host> {
        self.zone.hosts.get(i as usize)
    }

    pub fn at(&self, address: IpAddr) -> Option<&Host> {
        self.by_address.get(&address).and_then(|i| self.host(*i))
    }

    pub fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Places of those that have this name (in lower case), alone or with the network's name behind it.
    pub fn named(&self, name: &[u8]) -> Option<&[u32]> {
        let found = self.by_name.get(name);
        found.or_else(|| self.by_name.get(name.strip_suffix(&*self.suffix)?)).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let host = |id: &str, name: &str, address: &str| Host {
            id: id.into(),
            name: name.into(),
            addresses: vec![address.parse().unwrap(), "fd00::7".parse().unwrap()],
            ..Host::default()
        };
        let mut zone = Zone {
            network: "Web".into(),
            device: "br-web".into(),
            listen: vec!["172.31.16.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            subnets: vec![("172.31.16.0".parse().unwrap(), 24), ("fd00::".parse().unwrap(), 64)],
            forward: true,
            hosts: vec![host("a1", "API", "172.31.16.2"), host("b2", "db", "172.31.16.3")],
        };
        zone.hosts[0].aliases = vec!["Front".into(), "api".into()];
        zone.hosts[1].aliases = vec!["front".into()];
        zone.hosts[1].unwell = true;
        zone.hosts[1].servers = vec!["192.0.2.1".parse().unwrap()];
        zone
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Zone::parse(&zone().render()), Ok(zone()));
        let bare = Zone { network: "n".into(), device: "d".into(), ..Zone::default() };
        assert_eq!(Zone::parse(&bare.render()), Ok(bare));
        let mut odd = zone();
        odd.hosts[0].aliases = vec!["two words".into(), "line\nhost x y".into(), String::new()];
        odd.hosts[1].id = "b 2".into();
        assert_eq!(Zone::parse(&odd.render()).unwrap().hosts, [Host { aliases: vec![], ..zone().hosts[0].clone() }]);
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        let good = "berth-names 1\nnetwork n\ndevice d\n";
        for (bad, line) in [
            ("", 1),
            ("berth-names 2\n", 1),
            ("berth-names 1\nnetwork n\n", 2),
            ("berth-names 1\nnetwork n\ndevice d\nlisten x\n", 4),
        ] {
            assert_eq!(Zone::parse(bad), Err(BadLine(line)), "{bad:?}");
        }
        for bad in [
            "more",
            "listen",
            "listen 1.2.3.4 5",
            "subnet 1.2.3.4/33",
            "subnet ::/129",
            "host a",
            "host a b 1.2.3",
            "alias a b",
            "unwell a",
            "server a 1.2.3.4",
            "",
            "forward x",
            "network ",
            "device \r\r",
            "host a b\u{1}",
            "host a\tb c",
            "host \u{e9} b",
        ] {
            assert_eq!(Zone::parse(&format!("{good}{bad}\n")), Err(BadLine(4)), "{bad:?}");
        }
    }

    #[test]
    fn names_are_found_in_any_case_with_the_network_behind_them_or_not() {
        let index = Index::new(zone());
        let places = |name: &str| index.named(name.as_bytes()).map(<[u32]>::to_vec);
        assert_eq!(places("api"), Some(vec![0]));
        assert_eq!(places("front.web"), Some(vec![0, 1]));
        assert_eq!(places("db.web"), Some(vec![1]));
        assert_eq!(places("db.other"), None);
        assert_eq!(places("web"), None);
        assert_eq!(places(""), None);
        assert!(index.has("a1") && !index.has("a2"));
        assert_eq!(index.at("172.31.16.3".parse().unwrap()).unwrap().name, "db");
    }

    #[test]
    fn a_network_knows_its_addresses() {
        let mut zone = zone();
        for (address, own) in
            [("172.31.16.255", true), ("172.31.17.1", false), ("fd00::ffff", true), ("fd00:0:0:1::", false)]
        {
            assert_eq!(zone.contains(address.parse().unwrap()), own, "{address}");
        }
        zone.subnets = vec![("0.0.0.0".parse().unwrap(), 0)];
        assert!(zone.contains("9.9.9.9".parse().unwrap()) && !zone.contains("::1".parse().unwrap()));
    }
}
