//! A configuration list: which plugins make a network, in which order (CNI specification, section 1).

use crate::plugin::is_plugin_name;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// Bytes of a list: it is kept with each attachment, and written to each plugin.
pub const MAX_CONFLIST: usize = 256 << 10;
/// Plugins of one list. Each is a process for each start.
const MAX_PLUGINS: usize = 16;

/// A version of the specification, as far as it changes what is said to plugins or what they answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    V030,
    V031,
    V040,
    V100,
    V110,
}

impl Version {
    /// The oldest first.
    pub const ALL: [Version; 5] = [Version::V030, Version::V031, Version::V040, Version::V100, Version::V110];

    pub const fn text(self) -> &'static str {
        match self {
            Version::V030 => "0.3.0",
            Version::V031 => "0.3.1",
            Version::V040 => "0.4.0",
            Version::V100 => "1.0.0",
            Version::V110 => "1.1.0",
        }
    }

    pub fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|v| v.text() == text)
    }

    /// CHECK, and the result of ADD at DEL: since 0.4.0.
    pub fn has_check(self) -> bool {
        self >= Version::V040
    }

    /// GC and STATUS.
    pub fn has_gc(self) -> bool {
        self >= Version::V110
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Everything that is wrong with a list: where, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadConflist(pub Vec<(String, String)>);

impl fmt::Display for BadConflist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(at, why)| format!("{at} {why}").trim_start().to_owned()).collect();
        f.write_str(&all.join("; "))
    }
}

/// A list that can be run.
#[derive(Clone, PartialEq, Debug)]
pub struct Conflist {
    pub name: String,
    /// The newest that both the list and berth know.
    pub version: Version,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<PluginConf>,
}

/// One plugin of a list.
#[derive(Clone, PartialEq, Debug)]
pub struct PluginConf {
    /// Name of its program.
    pub kind: String,
    /// What it can be told for each container: portMappings, ips, …
    pub capabilities: BTreeSet<String>,
    /// As it stands in the list, without what only the runtime reads.
    pub conf: Map<String, Value>,
}

impl Conflist {
    /// Reads a list; everything that is wrong with it at once.
    pub fn parse(text: &str) -> Result<Conflist, BadConflist> {
        let one = |why: String| BadConflist(vec![(String::new(), why)]);
        if text.len() > MAX_CONFLIST {
            return Err(one(format!("is longer than {MAX_CONFLIST} bytes")));
        }
        let value: Value = serde_json::from_str(text).map_err(|e| one(format!("is no JSON: {e}")))?;
        let Value::Object(map) = value else { return Err(one("is no JSON object".into())) };
        let mut wrong = Vec::new();
        let name = name(&map, &mut wrong);
        let version = version(&map, &mut wrong);
        let disable_check = flag(&map, "disableCheck", &mut wrong);
        let disable_gc = flag(&map, "disableGC", &mut wrong);
        let plugins = plugins(&map, &mut wrong);
        match version {
            Some(version) if wrong.is_empty() => Ok(Conflist { name, version, disable_check, disable_gc, plugins }),
            _ => Err(BadConflist(wrong)),
        }
    }

    /// Whether a plugin of the list takes this word for each container.
    pub fn takes(&self, capability: &str) -> bool {
        self.plugins.iter().any(|p| p.capabilities.contains(capability))
    }

    /// An address with the prefix length that an address manager of the list (host-local's `subnet` and `ranges`) has for it; without one, plain.
    pub fn with_prefix(&self, address: IpAddr) -> String {
        let mut subnets = Vec::new();
        for ipam in self.plugins.iter().filter_map(|p| p.conf.get("ipam")) {
            subnets.extend(ipam.get("subnet"));
            let ranges = ipam.get("ranges").and_then(Value::as_array).into_iter().flatten();
            subnets.extend(ranges.filter_map(Value::as_array).flatten().filter_map(|r| r.get("subnet")));
        }
        let fits = |subnet: &&Value| {
            let (net, len) = subnet.as_str()?.split_once('/')?;
            let (net, len): (IpAddr, u32) = (net.parse().ok()?, len.parse().ok()?);
            let inside = match (net, address) {
                (IpAddr::V4(n), IpAddr::V4(a)) if len <= 32 => (n.to_bits() ^ a.to_bits()).leading_zeros() >= len,
                (IpAddr::V6(n), IpAddr::V6(a)) if len <= 128 => (n.to_bits() ^ a.to_bits()).leading_zeros() >= len,
                _ => false,
            };
            inside.then_some(len)
        };
        match subnets.iter().find_map(fits) {
            Some(len) => format!("{address}/{len}"),
            None => address.to_string(),
        }
    }

    /// Bridges of the host that its plugins of the type bridge make, and leave when the last container goes.
    pub fn bridges(&self) -> Vec<String> {
        let bridges = self.plugins.iter().filter(|p| p.kind == "bridge");
        bridges.map(|p| p.conf.get("bridge").and_then(Value::as_str).unwrap_or("cni0").to_owned()).collect()
    }
}

fn name(map: &Map<String, Value>, wrong: &mut Vec<(String, String)>) -> String {
    let name = match map.get("name") {
        None => {
            wrong.push(("name".into(), "is missing".into()));
            return String::new();
        }
        Some(name) => name.as_str().unwrap_or_default(),
    };
    // The same characters as libcni takes, which berth's own names have, too.
    if let Err(e) = berth_model::network::check_network_name(name) {
        wrong.push(("name".into(), format!("is no name of a network: {e}")));
    }
    name.to_owned()
}

/// `cniVersion`, or the newest of `cniVersions` that is known here.
fn version(map: &Map<String, Value>, wrong: &mut Vec<(String, String)>) -> Option<Version> {
    let mut texts: Vec<&str> = Vec::new();
    match map.get("cniVersion") {
        Some(Value::String(text)) => texts.push(text),
        Some(_) => wrong.push(("cniVersion".into(), "must be a string".into())),
        None => {}
    }
    match map.get("cniVersions") {
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            texts.extend(list.iter().filter_map(Value::as_str));
        }
        Some(_) => wrong.push(("cniVersions".into(), "must be a list of strings".into())),
        None => {}
    }
    let found = texts.iter().filter_map(|t| Version::parse(t)).max();
    if found.is_none() {
        let known: Vec<&str> = Version::ALL.iter().map(|v| v.text()).collect();
        let known = known.join(", ");
        let why = match texts.first() {
            None => format!("is missing; there are {known}"),
            Some(text) => {
                format!("{:?} is not supported; there are {known}", text.chars().take(32).collect::<String>())
            }
        };
        wrong.push(("cniVersion".into(), why));
    }
    found
}

/// libcni takes the words as strings, too.
fn flag(map: &Map<String, Value>, key: &str, wrong: &mut Vec<(String, String)>) -> bool {
    match map.get(key) {
        None => false,
        Some(Value::Bool(yes)) => *yes,
        Some(Value::String(text)) if text == "true" || text == "false" => text == "true",
        Some(_) => {
            wrong.push((key.into(), "must be true or false".into()));
            false
        }
    }
}

fn plugins(map: &Map<String, Value>, wrong: &mut Vec<(String, String)>) -> Vec<PluginConf> {
    let list = match map.get("plugins") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        None if map.contains_key("type") => {
            wrong.push((
                "plugins".into(),
                "is missing: this is the configuration of one plugin; a list has it in \"plugins\": [ … ]".into(),
            ));
            return Vec::new();
        }
        _ => {
            wrong.push(("plugins".into(), "must be a list of at least one plugin".into()));
            return Vec::new();
        }
    };
    if list.len() > MAX_PLUGINS {
        wrong.push(("plugins".into(), format!("are more than {MAX_PLUGINS}")));
        return Vec::new();
    }
    list.iter().enumerate().filter_map(|(n, value)| plugin(&format!("plugins[{n}]"), value, wrong)).collect()
}

fn plugin(at: &str, value: &Value, wrong: &mut Vec<(String, String)>) -> Option<PluginConf> {
    let Value::Object(conf) = value else {
        wrong.push((at.into(), "must be an object".into()));
        return None;
    };
    let kind = match conf.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(_) => {
            wrong.push((format!("{at}.type"), "must be a string".into()));
            return None;
        }
        None => {
            wrong.push((format!("{at}.type"), "is missing: the name of the plugin's program".into()));
            return None;
        }
    };
    if !is_plugin_name(&kind) {
        let shown: String = kind.chars().take(64).collect();
        wrong.push((
            format!("{at}.type"),
            format!("{shown:?} must be the name of a program: letters, digits, '-', '_' and '.', and no path"),
        ));
    }
    if let Some(ipam) = conf.get("ipam").and_then(|i| i.get("type"))
        && !ipam.as_str().is_some_and(|t| t.is_empty() || is_plugin_name(t))
    {
        wrong.push((format!("{at}.ipam.type"), "must be the name of a program, and no path".into()));
    }
    let mut capabilities = BTreeSet::new();
    match conf.get("capabilities") {
        None => {}
        Some(Value::Object(map)) if map.values().all(Value::is_boolean) => {
            capabilities.extend(map.iter().filter(|(_, yes)| **yes == Value::Bool(true)).map(|(k, _)| k.clone()));
        }
        Some(_) => wrong.push((format!("{at}.capabilities"), "must be an object of true and false".into())),
    }
    let mut conf = conf.clone();
    // The runtime's, or made anew for each call.
    for key in ["capabilities", "runtimeConfig", "prevResult", "name", "cniVersion"] {
        conf.remove(key);
    }
    conf.retain(|key, _| !key.starts_with("cni.dev/"));
    Some(PluginConf { kind, capabilities, conf })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"lab","plugins":[
        {"type":"bridge","bridge":"cni7","ipam":{"type":"host-local"},"capabilities":{"ips":true,"mac":false}},
        {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}"#;

    #[test]
    fn a_list_is_read() {
        let list = Conflist::parse(GOOD).unwrap();
        assert_eq!((list.name.as_str(), list.version, list.plugins.len()), ("lab", Version::V100, 2));
        assert!(list.takes("portMappings") && list.takes("ips") && !list.takes("mac") && !list.takes("dns"));
        assert!(!list.plugins[0].conf.contains_key("capabilities"));
        assert_eq!(list.plugins[1].conf["snat"], true);
        assert_eq!(list.bridges(), ["cni7"]);
        let newest = GOOD.replace("\"cniVersion\":\"1.0.0\"", "\"cniVersions\":[\"0.4.0\",\"1.1.0\",\"9.0.0\"]");
        assert_eq!(Conflist::parse(&newest).unwrap().version, Version::V110);
    }

    #[test]
    fn addresses_have_the_prefix_of_their_subnet() {
        let text = GOOD.replace(
            r#""type":"host-local""#,
            r#""type":"host-local","subnet":"10.9.0.0/16","ranges":[[{"subnet":"fd00:9::/64"}]]"#,
        );
        let list = Conflist::parse(&text).unwrap();
        let with = |a: &str| list.with_prefix(a.parse().unwrap());
        assert_eq!((with("10.9.3.4"), with("fd00:9::7")), ("10.9.3.4/16".into(), "fd00:9::7/64".into()));
        assert_eq!(with("10.8.0.1"), "10.8.0.1");
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let text = r#"{"cniVersion":"0.2.0","name":"a b","disableCheck":7,"plugins":[{"type":"../sh"},{"x":1},7,
            {"type":"ok","ipam":{"type":"/bin/sh"},"capabilities":[1]}]}"#;
        let wrong = Conflist::parse(text).unwrap_err();
        let at: Vec<&str> = wrong.0.iter().map(|(at, _)| at.as_str()).collect();
        let all = [
            "name",
            "cniVersion",
            "disableCheck",
            "plugins[0].type",
            "plugins[1].type",
            "plugins[2]",
            "plugins[3].ipam.type",
            "plugins[3].capabilities",
        ];
        assert_eq!(at, all);
        assert!(wrong.to_string().contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{wrong}");
    }

    #[test]
    fn what_is_no_list() {
        for (text, why) in [
            ("", "no JSON"),
            ("[]", "no JSON object"),
            ("{\"cniVersion\":\"1.0.0\",\"name\":\"x\",\"type\":\"bridge\"}", "one plugin"),
            ("{\"cniVersion\":\"1.0.0\",\"name\":\"x\",\"plugins\":[]}", "at least one"),
            ("{\"name\":\"x\",\"plugins\":[{\"type\":\"a\"}]}", "is missing; there are"),
        ] {
            let said = Conflist::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!(Conflist::parse(&" ".repeat(MAX_CONFLIST + 1)).is_err());
    }
}
