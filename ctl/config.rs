//! The configuration file: contexts (hosts), groups of them, and which one is current.

use crate::error::{Error, Result};
use crate::pki::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where berthd listens on its own host.
pub const LOCAL_SOCKET: &str = "unix:///run/berth/berthd.sock";
/// Port of an endpoint that names none.
pub const DEFAULT_PORT: u16 = 7443;

/// One host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `https://host:7443` or `unix:///run/berth/berthd.sock`.
    pub endpoint: String,
    /// PEM files; relative ones are beside the configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The name that the agent's certificate must be for, where it is not the endpoint's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The whole file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The context that commands use without -H, -g or --all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Certificates for hosts that are given as host:port.
    #[serde(default, skip_serializing_if = "Defaults::is_empty")]
    pub defaults: Defaults,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, Context>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Keys that end an attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detach_keys: Option<String>,
}

impl Defaults {
    fn is_empty(&self) -> bool {
        *self == Defaults::default()
    }
}

/// Where an endpoint leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// A host to call: what it is called in the output, and how to reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    pub label: String,
    pub endpoint: Endpoint,
    /// Present for TCP.
    pub tls: Option<TlsFiles>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub server_name: Option<String>,
}

/// Which hosts a command is for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    pub hosts: Vec<String>,
    pub groups: Vec<String>,
    pub all: bool,
}

/// `$BERTH_CONFIG`, else `$XDG_CONFIG_HOME/berth/config.toml`, else `~/.config/berth/config.toml`.
pub fn default_path() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = var("BERTH_CONFIG") {
        return path;
    }
    let base = var("XDG_CONFIG_HOME").or_else(|| Some(var("HOME")?.join(".config"))).unwrap_or_else(|| "/etc".into());
    base.join("berth/config.toml")
}

/// Parses `https://host[:port]`, `host[:port]`, `[v6]:port` or `unix:///path`.
pub fn parse_endpoint(text: &str) -> Result<Endpoint> {
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') {
            return Err(Error::usage(format!("endpoint {text:?}: the socket's path must be absolute")));
        }
        return Ok(Endpoint::Unix(path.into()));
    }
    let bad = |why: &str| {
        Error::usage(format!("endpoint {text:?}: {why}"))
            .hint("write https://host:7443 or unix:///run/berth/berthd.sock")
    };
    let rest = match text.split_once("://") {
        Some(("https", rest)) => rest.strip_suffix('/').unwrap_or(rest),
        Some(("http", _)) => return Err(bad("agents are called over TLS only")),
        Some((scheme, _)) => return Err(bad(&format!("unknown scheme {scheme:?}"))),
        None => text,
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, tail) = v6.split_once(']').ok_or_else(|| bad("']' is missing"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(bad("no IPv6 address between '[' and ']'"));
            }
            (host, if tail.is_empty() { None } else { Some(tail.strip_prefix(':').ok_or_else(|| bad("no port"))?) })
        }
        None if rest.matches(':').count() > 1 => return Err(bad("an IPv6 address stands in brackets")),
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(p) => p.parse().ok().filter(|&p: &u16| p > 0).ok_or_else(|| bad("the port must be 1 to 65535"))?,
    };
    if host.is_empty() || host.contains(['/', '@', ' ', '?', '#']) {
        return Err(bad("no host name"));
    }
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

impl Config {
    /// Reads the file; none there is an empty one.
    pub fn read(path: &Path) -> Result<Config> {
        match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            _ => {}
        }
        let text = files::read_text(path)?;
        toml::from_str(&text).map_err(|e| {
            Error::new(format!("{}: {}", path.display(), e.to_string().trim_end()))
                .hint("mend the file, or name another one with BERTH_CONFIG")
        })
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            files::private_folder(folder)?;
        }
        let text = toml::to_string(self).map_err(|e| Error::new(format!("writing {}: {e}", path.display())))?;
        files::write_atomically(path, text.as_bytes(), 0o600)
    }

    /// The host of a name in the file, or of `host:port`.
    fn host(&self, name: &str, folder: &Path) -> Result<Host> {
        let known = self.contexts.get(name);
        let looks_like_endpoint = name.contains([':', '.', '/']) || name == "localhost";
        let context = match known {
            Some(c) => c.clone(),
            None if looks_like_endpoint => Context { endpoint: name.to_owned(), ..Context::default() },
            None => {
                let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
                let known = if names.is_empty() { "there are none yet".into() } else { names.join(", ") };
                return Err(Error::usage(format!("no context {name:?}"))
                    .hint(format!("known contexts: {known}; a host without one is written host:port")));
            }
        };
        let endpoint = parse_endpoint(&context.endpoint)?;
        let tls = match endpoint {
            Endpoint::Unix(_) => None,
            Endpoint::Tcp { .. } => {
                let file = |own: Option<&PathBuf>, default: Option<&PathBuf>, usual: &str| {
                    folder.join(own.or(default).map_or_else(|| PathBuf::from(usual), Clone::clone))
                };
                Some(TlsFiles {
                    ca: file(context.ca.as_ref(), self.defaults.ca.as_ref(), "ca.pem"),
                    cert: file(context.cert.as_ref(), self.defaults.cert.as_ref(), "client.pem"),
                    key: file(context.key.as_ref(), self.defaults.key.as_ref(), "client.key"),
                    server_name: context.server_name.clone(),
                })
            }
        };
        Ok(Host { label: name.to_owned(), endpoint, tls })
    }

    /// The hosts that a command is for, each once, in the order they were named. `folder` is the configuration file's.
    pub fn select(&self, selection: &Selection, folder: &Path) -> Result<Vec<Host>> {
        let mut names: Vec<&str> = Vec::new();
        if selection.all {
            if self.contexts.is_empty() {
                return Err(Error::usage("--all: there are no contexts").hint("berthctl context create makes one"));
            }
            names.extend(self.contexts.keys().map(String::as_str));
        }
        for group in &selection.groups {
            let members = self.groups.get(group).ok_or_else(|| {
                let known: Vec<&str> = self.groups.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "there are none yet".into() } else { known.join(", ") };
                Error::usage(format!("no group {group:?}"))
                    .hint(format!("known groups: {known}; berthctl context group makes one"))
            })?;
            names.extend(members.iter().map(String::as_str));
        }
        names.extend(selection.hosts.iter().map(String::as_str));
        if names.is_empty() {
            return Ok(vec![match &self.current {
                Some(current) => self.host(current, folder)?,
                None => Host { label: "local".into(), endpoint: parse_endpoint(LOCAL_SOCKET)?, tls: None },
            }]);
        }
        let mut hosts: Vec<Host> = Vec::new();
        for name in names {
            if !hosts.iter().any(|h| h.label == name) {
                hosts.push(self.host(name, folder)?);
            }
        }
        Ok(hosts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let tcp = |host: &str, port| Endpoint::Tcp { host: host.into(), port };
        for (text, want) in [
            ("https://web-1:7443", tcp("web-1", 7443)),
            ("https://web-1/", tcp("web-1", 7443)),
            ("web-1:1", tcp("web-1", 1)),
            ("192.0.2.1", tcp("192.0.2.1", 7443)),
            ("[::1]:99", tcp("::1", 99)),
            ("https://[::1]", tcp("::1", 7443)),
            ("unix:///run/x.sock", Endpoint::Unix("/run/x.sock".into())),
        ] {
            assert_eq!(parse_endpoint(text).expect(text), want);
        }
        for bad in ["", "http://x", "ftp://x", "unix://x", "x:0", "x:99999", "::1", "[::1", "[x]:1", "a/b:1", "u@h:1"] {
            parse_endpoint(bad).expect_err(bad);
        }
    }

    #[test]
    fn selections() {
        let text = r#"
            current = "a"
            [defaults]
            ca = "x/ca.pem"
            [groups]
            both = ["a", "b"]
            [contexts.a]
            endpoint = "https://a.example:7443"
            key = "/k"
            [contexts.b]
            endpoint = "unix:///run/b.sock"
        "#;
        let config: Config = toml::from_str(text).expect("good");
        let pick = |hosts: &[&str], groups: &[&str], all| {
            let own = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect();
            config.select(&Selection { hosts: own(hosts), groups: own(groups), all }, Path::new("/etc/b"))
        };
        let labels = |hosts: Vec<Host>| hosts.into_iter().map(|h| h.label).collect::<Vec<_>>();
        assert_eq!(labels(pick(&[], &[], false).expect("current")), ["a"]);
        assert_eq!(labels(pick(&["b", "a", "b"], &[], false).expect("each once")), ["b", "a"]);
        assert_eq!(labels(pick(&["h:1"], &["both"], false).expect("mixed")), ["a", "b", "h:1"]);
        assert_eq!(labels(pick(&[], &[], true).expect("all")), ["a", "b"]);
        assert!(pick(&["c"], &[], false).expect_err("unknown").hint.expect("says what there is").contains("a, b"));
        assert!(pick(&[], &["c"], false).expect_err("unknown").hint.expect("says what there is").contains("both"));
        let a = &pick(&["a"], &[], false).expect("a")[0];
        let tls = a.tls.as_ref().expect("TLS");
        assert_eq!((tls.ca.as_path(), tls.key.as_path()), (Path::new("/etc/b/x/ca.pem"), Path::new("/k")));
        assert_eq!(tls.cert, Path::new("/etc/b/client.pem"));
        assert!(toml::from_str::<Config>("contxts = 1").is_err(), "unknown fields are refused");
        let local = Config::default().select(&Selection::default(), Path::new("/x")).expect("local");
        assert_eq!(local[0].endpoint, Endpoint::Unix("/run/berth/berthd.sock".into()));
    }
}
