//! What plugins answer, and the shapes that the versions of the specification give it (section 5, and its older editions).

use crate::conflist::Version;
use berth_model::network::{Attachment6, CniAttachment, CniDns};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A result in the shape of a version.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    value: Map<String, Value>,
    version: Version,
}

/// Fields that 1.1.0 has brought.
const NEW_OF_INTERFACE: [&str; 3] = ["mtu", "socketPath", "pciID"];
const NEW_OF_ROUTE: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

impl Outcome {
    /// Reads an answer to ADD. One without a version has that of the question.
    ///
    /// # Errors
    /// In words: what is wrong with it.
    pub fn parse(text: &[u8], asked: Version) -> Result<Outcome, String> {
        let value: Value = serde_json::from_slice(text).map_err(|e| format!("its answer is no JSON: {e}"))?;
        Outcome::of(value, asked)
    }

    pub(crate) fn of(value: Value, asked: Version) -> Result<Outcome, String> {
        let Value::Object(value) = value else { return Err("its answer is no JSON object".into()) };
        let version = match value.get("cniVersion") {
            None => asked,
            Some(text) => text.as_str().and_then(Version::parse).ok_or_else(|| {
                format!("its answer has version {text}, which is not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0")
            })?,
        };
        let outcome = Outcome { value, version };
        outcome.check()?;
        Ok(outcome)
    }

    fn check(&self) -> Result<(), String> {
        for key in ["interfaces", "ips", "routes"] {
            let list = match self.value.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(list)) => list,
                Some(_) => return Err(format!("{key} of its answer is no list")),
            };
            if !list.iter().all(Value::is_object) {
                return Err(format!("{key} of its answer has something that is no object"));
            }
        }
        let interfaces = self.list("interfaces").count();
        for ip in self.list("ips") {
            let address = text(ip, "address");
            parse_cidr(address).ok_or_else(|| {
                format!("ips of its answer has {address:?}, which is no address with a prefix length")
            })?;
            if let Some(n) = ip.get("interface").filter(|n| !n.is_null())
                && n.as_u64().is_none_or(|n| n as usize >= interfaces)
            {
                return Err(format!("ips of its answer are of interface {n}, which it does not have"));
            }
        }
        Ok(())
    }

    fn list(&self, key: &str) -> impl Iterator<Item = &Map<String, Value>> {
        self.value.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
    }

    /// The same in the shape of another version. What the older one has no word for is left out.
    #[must_use]
    pub fn as_version(&self, version: Version) -> Value {
        let mut value = self.value.clone();
        value.insert("cniVersion".into(), version.text().into());
        if version == self.version {
            return value.into();
        }
        let each = |value: &mut Map<String, Value>, key: &str, change: &dyn Fn(&mut Map<String, Value>)| {
            let list = value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten();
            list.filter_map(Value::as_object_mut).for_each(change);
        };
        each(&mut value, "ips", &|ip| {
            // 0.3.0 to 0.4.0 say the family beside the address.
            ip.remove("version");
            if version < Version::V100 {
                let six = text(ip, "address").contains(':');
                ip.insert("version".into(), if six { "6" } else { "4" }.into());
            }
        });
        if version < Version::V110 {
            each(&mut value, "interfaces", &|i| NEW_OF_INTERFACE.iter().for_each(|key| drop(i.remove(*key))));
            each(&mut value, "routes", &|r| NEW_OF_ROUTE.iter().for_each(|key| drop(r.remove(*key))));
        }
        value.into()
    }

    /// The interface of the container, by its name and because it says a sandbox: index and entry.
    fn inside(&self, name: &str) -> Option<(usize, &Map<String, Value>)> {
        self.list("interfaces").enumerate().find(|(_, i)| text(i, "name") == name && !text(i, "sandbox").is_empty())
    }

    /// Addresses of the container's interface; one that belongs to none counts.
    fn addresses(&self, name: &str) -> impl Iterator<Item = (IpAddr, u8, Option<IpAddr>)> {
        let own = self.inside(name).map(|(n, _)| n as u64);
        self.list("ips").filter_map(move |ip| {
            let of = ip.get("interface").and_then(Value::as_u64);
            let (address, len) = parse_cidr(text(ip, "address"))?;
            let gateway = text(ip, "gateway").parse().ok();
            (of.is_none() || own.is_none() || of == own).then_some((address, len, gateway))
        })
    }

    /// The gateway of the default route of a family.
    fn default_gateway(&self, six: bool) -> Option<Option<IpAddr>> {
        let all = if six { "::/0" } else { "0.0.0.0/0" };
        let route = self.list("routes").find(|r| text(r, "dst") == all)?;
        Some(text(route, "gw").parse().ok())
    }

    /// What the container has on the network, read from its end.
    pub fn read(&self, interface: &str) -> Read {
        let mut read = Read {
            mac: self.inside(interface).map(|(_, i)| text(i, "mac").to_ascii_lowercase()).unwrap_or_default(),
            ..Read::default()
        };
        for (address, len, gateway) in self.addresses(interface) {
            match address {
                IpAddr::V4(four) if read.ipv4.is_none() => {
                    let gateway = gateway.or_else(|| self.default_gateway(false).flatten());
                    let gateway = gateway.and_then(|g| if let IpAddr::V4(g) = g { Some(g) } else { None });
                    read.ipv4 = Some((four, len, gateway.unwrap_or(Ipv4Addr::UNSPECIFIED)));
                }
                IpAddr::V6(six) if read.ipv6.is_none() => {
                    let gateway = gateway.or_else(|| self.default_gateway(true).flatten());
                    let gateway = gateway.and_then(|g| if let IpAddr::V6(g) = g { Some(g) } else { None });
                    let gateway = gateway.unwrap_or(Ipv6Addr::UNSPECIFIED);
                    read.ipv6 = Some(Attachment6 { address: six, prefix_len: len, gateway });
                }
                _ => {}
            }
        }
        read.all = self.addresses(interface).map(|(a, ..)| a).collect();
        read.default_route = self.default_gateway(false).is_some() || self.default_gateway(true).is_some();
        read.outside = self
            .list("interfaces")
            .filter(|i| text(i, "sandbox").is_empty())
            .map(|i| text(i, "name").to_owned())
            .collect();
        read.cni = CniAttachment { result: self.as_version(self.version).to_string(), dns: self.dns() };
        read
    }

    fn dns(&self) -> CniDns {
        let empty = Map::new();
        let dns = self.value.get("dns").and_then(Value::as_object).unwrap_or(&empty);
        // One line each in resolv.conf(5): what is no such word is left out.
        let words = |key: &str| -> Vec<String> {
            let list = dns.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            list.filter(|w| is_word(w)).map(str::to_owned).take(32).collect()
        };
        CniDns {
            nameservers: words("nameservers").iter().filter_map(|a| a.parse().ok()).collect(),
            domain: dns.get("domain").and_then(Value::as_str).filter(|w| is_word(w)).unwrap_or_default().to_owned(),
            search: words("search"),
            options: words("options"),
        }
    }
}

fn is_word(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b';')
}

/// What of a result is acted upon.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Read {
    /// Address, prefix length and gateway.
    pub ipv4: Option<(Ipv4Addr, u8, Ipv4Addr)>,
    pub ipv6: Option<Attachment6>,
    /// Of both families.
    pub all: Vec<IpAddr>,
    pub mac: String,
    pub default_route: bool,
    /// Interfaces of the host that belong to it.
    pub outside: Vec<String>,
    pub cni: CniAttachment,
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, len) = text.split_once('/')?;
    let (address, len): (IpAddr, u8) = (address.parse().ok()?, len.parse().ok()?);
    (len <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, len))
}

/// The words of an error result, where it is one: code, and message with its details.
pub(crate) fn error(text: &[u8]) -> Option<(u64, String)> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let code = value.get("code")?.as_u64()?;
    let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let message = match (word("msg"), word("details")) {
        ("", "") => "it does not say why".to_owned(),
        (msg, "") => msg.to_owned(),
        ("", details) => details.to_owned(),
        (msg, details) => format!("{msg}: {details}"),
    };
    Some((code, message))
}

/// For a runtime's question: the versions that a plugin knows.
pub(crate) fn supported(text: &[u8]) -> Option<Vec<String>> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let list = value.get("supportedVersions")?.as_array()?;
    Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// An attachment, as GC lists those that are to stay.
pub(crate) fn valid(id: &str, interface: &str) -> Value {
    json!({"containerID": id, "ifname": interface})
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"cni7"},{"name":"veth1","mtu":1400},
        {"name":"eth0","mac":"0A:0b:00:00:00:01","sandbox":"/run/x","mtu":1400}],
        "ips":[{"address":"10.9.0.5/24","gateway":"10.9.0.1","interface":2},{"address":"fd00::5/64","interface":2},
               {"address":"10.8.0.1/24","interface":0}],
        "routes":[{"dst":"0.0.0.0/0","priority":7},{"dst":"::/0","gw":"fd00::1"}],
        "dns":{"nameservers":["10.9.0.1","x","fd00::1"],"domain":"lab","search":["a","b c"],"options":["ndots:2"]}}"#;

    #[test]
    fn versions_have_their_shapes() {
        let new = Outcome::parse(NEW.as_bytes(), Version::V110).unwrap();
        let old = new.as_version(Version::V040);
        assert_eq!(old["cniVersion"], "0.4.0");
        assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&"4".into(), &"6".into()));
        assert!(old["interfaces"][1].get("mtu").is_none() && old["routes"][0].get("priority").is_none());
        let back = Outcome::of(old.clone(), Version::V040).unwrap().as_version(Version::V100);
        assert!(back["ips"][0].get("version").is_none() && back["ips"][0]["address"] == "10.9.0.5/24");
        // The same version says what was said, whatever it is.
        assert_eq!(new.as_version(Version::V110)["routes"][0]["priority"], 7);
        assert_eq!(Outcome::of(old.clone(), Version::V100).unwrap().as_version(Version::V040), old);
    }

    #[test]
    fn what_the_container_has_is_read() {
        let read = Outcome::parse(NEW.as_bytes(), Version::V100).unwrap().read("eth0");
        assert_eq!(read.ipv4, Some(([10, 9, 0, 5].into(), 24, [10, 9, 0, 1].into())));
        let six = read.ipv6.unwrap();
        assert_eq!((six.address, six.gateway), ("fd00::5".parse().unwrap(), "fd00::1".parse().unwrap()));
        assert_eq!((read.mac.as_str(), read.default_route, read.all.len()), ("0a:0b:00:00:00:01", true, 2));
        assert_eq!(read.outside, ["cni7", "veth1"]);
        let dns = read.cni.dns;
        assert_eq!((dns.nameservers.len(), dns.domain.as_str(), dns.search.len(), dns.options.len()), (2, "lab", 1, 1));
        let bare = Outcome::parse(b"{}", Version::V040).unwrap().read("eth0");
        assert_eq!((bare.ipv4, bare.default_route, bare.mac.as_str()), (None, false, ""));
    }

    #[test]
    fn what_is_no_result() {
        for (text, why) in [
            ("", "no JSON"),
            ("7", "no JSON object"),
            (r#"{"cniVersion":"0.1.0"}"#, "version"),
            (r#"{"ips":7}"#, "no list"),
            (r#"{"ips":[7]}"#, "no object"),
            (r#"{"ips":[{"address":"10.0.0.1"}]}"#, "prefix length"),
            (r#"{"ips":[{"address":"10.0.0.1/33"}]}"#, "prefix length"),
            (r#"{"ips":[{"address":"10.0.0.1/24","interface":0}]}"#, "does not have"),
        ] {
            let said = Outcome::parse(text.as_bytes(), Version::V100).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn errors_have_words() {
        let text = br#"{"cniVersion":"1.0.0","code":11,"msg":"try again","details":"no lock"}"#;
        assert_eq!(error(text), Some((11, "try again: no lock".into())));
        assert_eq!(error(b"{}"), None);
        assert_eq!(error(b"{\"code\":7}").unwrap().1, "it does not say why");
        assert_eq!(supported(br#"{"supportedVersions":["0.4.0","1.0.0"]}"#).unwrap(), ["0.4.0", "1.0.0"]);
    }
}
