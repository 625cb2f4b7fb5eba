//! The agent's configuration: one TOML file, every key with a default.
//!
//! A file that is wrong anywhere is refused whole: unknown keys, wrong types and impossible values name the file, the
//! key and the line. `deploy/berthd.toml` shows every key with its default.

mod cgroups;
mod containers;
mod gc;
mod isolation;
mod limits;
mod logging;
mod network;
mod runtimes;
mod userns;

pub use containers::{Containers, Logs};
pub use gc::Gc;
pub use isolation::{Isolation, SelinuxUse};
pub use limits::Limits;
pub use logging::{Audit, Log, LogFormat, LogTarget};
pub use network::Network;
pub use runtimes::Runtimes;
pub use userns::Userns;
#[cfg(fuzzing)]
pub use userns::fuzz as fuzz_ids;

use crate::permission::Policy;
use berth_image::{ImagesConfig, RegistryConfig};
use berth_model::log::LogConfig;
use berth_network::NetworkConfig;
use berth_node::{LogsConfig, NodeConfig};
use berth_rootfs::Driver;
use berth_runtime::RuntimeConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the configuration is when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/berth/berthd.toml";
/// Where `berthctl pki issue agent` output is put when nothing else is said.
const PKI_DIR: &str = "/etc/berth/pki";
/// Not taken by IANA, above the ports that need a privilege.
const DEFAULT_PORT: u16 = 7443;
/// The nftables table that holds all rules of ours.
const TABLE: &str = "berth";

/// Takes down what is wrong: whether it is good, the key, and what it must be.
type Check<'a> = &'a mut dyn FnMut(bool, &str, &str);

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading configuration {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    /// It is not TOML, or has a key or a type that does not belong there.
    #[error("configuration {path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    /// Values that cannot be; all of them at once.
    #[error("configuration {path}: {}", .errors.join("; "))]
    Values { path: PathBuf, errors: Vec<String> },
}

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Images, containers and the store: must survive reboots.
    pub data_root: PathBuf,
    /// Sockets and exit files: gone with a reboot.
    pub run_root: PathBuf,
    /// Events kept for those who come back with a cursor.
    pub event_history: usize,
    /// What becomes of the containers when the agent is told to end.
    pub shutdown: Shutdown,
    pub listen: Listen,
    pub tls: Tls,
    pub network: Network,
    pub containers: Containers,
    pub logs: Logs,
    pub images: Images,
    /// By `host[:port]` as image names have it.
    pub registries: BTreeMap<String, RegistryConfig>,
    pub limits: Limits,
    pub gc: Gc,
    pub audit: Audit,
    pub log: Log,
    pub metrics: Metrics,
    pub otel: Otel,
    pub upgrade: Upgrade,
    pub policy: Policy,
    pub userns: Userns,
    pub isolation: Isolation,
    pub runtimes: Runtimes,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data_root: "/var/lib/berth".into(),
            run_root: "/run/berth".into(),
            event_history: 10_000,
            shutdown: Shutdown::default(),
            listen: Listen::default(),
            tls: Tls::default(),
            network: Network::default(),
            containers: Containers::default(),
            logs: Logs::default(),
            images: Images::default(),
            registries: BTreeMap::new(),
            limits: Limits::default(),
            gc: Gc::default(),
            audit: Audit::default(),
            log: Log::default(),
            metrics: Metrics::default(),
            otel: Otel::default(),
            upgrade: Upgrade::default(),
            policy: Policy::default(),
            userns: Userns::default(),
            isolation: Isolation::default(),
            runtimes: Runtimes::default(),
        }
    }
}

/// What SIGTERM means for containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shutdown {
    /// They go on.
    #[default]
    Leave,
    /// They are stopped, as with `berthctl stop --all-containers`.
    Stop,
}

/// Where callers come in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Addresses for mutual TLS. Unset: 0.0.0.0:7443 when there are certificates, else none. Empty: none.
    pub tcp: Option<Vec<SocketAddr>>,
    /// The Unix socket for root. Unset: `<run_root>/berthd.sock`. Empty: none.
    pub unix: Option<PathBuf>,
}

/// Files in PEM. All four are read again when they change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The CAs whose clients may connect. Unset: /etc/berth/pki/ca.pem.
    pub ca: Option<PathBuf>,
    /// The agent's certificate, with its chain. Unset: /etc/berth/pki/agent.pem.
    pub cert: Option<PathBuf>,
    /// Its key, mode 0600. Unset: /etc/berth/pki/agent.key.
    pub key: Option<PathBuf>,
    /// Revocation lists. Unset: /etc/berth/pki/crl.pem, which may be missing.
    pub crl: Option<PathBuf>,
}

/// What layers become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerStoreKind {
    #[default]
    Auto,
    Erofs,
    Directory,
}

/// Images and where they come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    pub layer_store: LayerStoreKind,
    /// Layers fetched side by side over all pulls; 0: by the number of processors.
    pub parallel_layers: usize,
    /// Docker's config.json with credentials for registries. Unset: none.
    pub docker_config: Option<PathBuf>,
}

/// Figures of the agent and of containers, for Prometheus.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where `GET /metrics` is answered. Unset: nowhere, and nothing is counted for it.
    pub listen: Option<SocketAddr>,
    /// Mutual TLS with the certificates of `[tls]`; any role may read. Without, only a loopback address is taken.
    pub tls: bool,
}

/// Traces, for programs that were built with the feature `otel`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otel {
    /// A collector that takes OTLP over gRPC: `http://127.0.0.1:4317`. Unset: no traces.
    pub endpoint: Option<String>,
}

impl Otel {
    fn wrong(&self) -> Option<&'static str> {
        let endpoint = self.endpoint.as_deref()?;
        if !cfg!(feature = "otel") {
            return Some("needs a program that was built with the feature otel");
        }
        (!endpoint.starts_with("http://")).then_some("must be a URL such as http://127.0.0.1:4317")
    }
}

/// Programs that the agent may replace itself by.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upgrade {
    /// PEM file with the public keys of releases, Ed25519 or ECDSA P-256. Unset: the agent is not upgraded over the network.
    pub public_key: Option<PathBuf>,
}

/// The four files of TLS, resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub crl: PathBuf,
    /// The file names it: then it must be there.
    pub crl_required: bool,
}

impl Config {
    /// Reads `path`. `None`: the default path, and the defaults when nothing is there.
    ///
    /// # Errors
    /// When the file named cannot be read, or anything in it is wrong.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => Config::parse(file, &text),
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
            Err(source) => Err(ConfigError::Read { path: file.into(), source }),
        }
    }

    /// Parses the text of the file `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })?;
        let errors = config.wrong_values();
        if errors.is_empty() { Ok(config) } else { Err(ConfigError::Values { path: path.into(), errors }) }
    }

    fn wrong_values(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let mut check = |good: bool, key: &str, why: &str| {
            if !good {
                errors.push(format!("{key} {why}"));
            }
        };
        check(self.data_root.is_absolute(), "data_root", "must be an absolute path");
        check(self.run_root.is_absolute(), "run_root", "must be an absolute path");
        check(self.data_root != self.run_root, "run_root", "must not be data_root");
        check(self.event_history >= 100, "event_history", "must be at least 100");
        self.network.check(&mut check);
        self.containers.check(&mut check);
        self.logs.check(&mut check);
        check(self.images.parallel_layers <= 64, "images.parallel_layers", "must be at most 64");
        self.limits.check(&mut check);
        for (key, why) in self.gc.decode().err().unwrap_or_default() {
            check(false, key, &why);
        }
        for (key, why) in self.policy.wrong() {
            check(false, key, &why);
        }
        if let Err((key, why)) = self.userns.decode() {
            check(false, key, &why);
        }
        for (key, why) in self.runtimes.wrong() {
            check(false, &key, &why);
        }
        self.audit.check(&mut check);
        let open = self.metrics.listen.is_some_and(|a| !a.ip().is_loopback()) && !self.metrics.tls;
        check(
            !open,
            "metrics.listen",
            "must be a loopback address, such as 127.0.0.1:9464, unless metrics.tls is true",
        );
        if let Some(why) = self.otel.wrong() {
            check(false, "otel.endpoint", why);
        }
        for (host, registry) in &self.registries {
            check_registry(host, registry, &mut check);
        }
        errors
    }

    /// The Unix socket's path; `None`: there is none.
    pub fn unix_socket(&self) -> Option<PathBuf> {
        match &self.listen.unix {
            None => Some(self.run_root.join("berthd.sock")),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(path.clone()),
        }
    }

    /// The audit log's path; `None`: there is none.
    pub fn audit_file(&self) -> Option<PathBuf> {
        match &self.audit.file {
            None => Some(self.data_root.join("audit.log")),
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(path.clone()),
        }
    }

    /// Addresses and files for mutual TLS; `None`: nothing listens on TCP, because nothing says so and there are no
    /// certificates where they would be looked for.
    pub fn tcp(&self) -> Option<(Vec<SocketAddr>, TlsFiles)> {
        let files = self.tls_files();
        let configured = self.tls.ca.is_some() || self.tls.cert.is_some() || self.tls.key.is_some();
        match &self.listen.tcp {
            Some(addresses) if addresses.is_empty() => None,
            Some(addresses) => Some((addresses.clone(), files)),
            None if configured || files.cert.exists() || files.key.exists() => {
                Some((vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))], files))
            }
            None => None,
        }
    }

    /// The files of TLS, where something needs them.
    pub fn certificates(&self) -> Option<TlsFiles> {
        let for_metrics = || (self.metrics.tls && self.metrics.listen.is_some()).then(|| self.tls_files());
        self.tcp().map(|(_, files)| files).or_else(for_metrics)
    }

    fn tls_files(&self) -> TlsFiles {
        let pick = |set: &Option<PathBuf>, name: &str| set.clone().unwrap_or_else(|| Path::new(PKI_DIR).join(name));
        TlsFiles {
            ca: pick(&self.tls.ca, "ca.pem"),
            cert: pick(&self.tls.cert, "agent.pem"),
            key: pick(&self.tls.key, "agent.key"),
            crl: pick(&self.tls.crl, "crl.pem"),
            crl_required: self.tls.crl.is_some(),
        }
    }

    /// What the core of the agent needs.
    pub fn node(&self) -> NodeConfig {
        // Checked when the file was parsed; the default is one that parses.
        let (gateway, prefix_len) = self.network.gateway().unwrap_or((Ipv4Addr::new(172, 31, 240, 1), 20));
        NodeConfig {
            data_root: self.data_root.clone(),
            run_root: self.run_root.clone(),
            images: ImagesConfig {
                dir: self.data_root.join("images"),
                registries: self.registries.clone(),
                docker_config: self.images.docker_config.clone(),
                parallel_layers: self.images.parallel_layers,
            },
            layer_driver: match self.images.layer_store {
                LayerStoreKind::Auto => Driver::Auto,
                LayerStoreKind::Erofs => Driver::Erofs,
                LayerStoreKind::Directory => Driver::Directory,
            },
            network: NetworkConfig {
                bridge: self.network.bridge.clone(),
                gateway,
                prefix_len,
                table: TABLE.into(),
                publish: self.network.publish().0,
            },
            pools: self.network.pools.iter().filter_map(|p| p.parse().ok()).collect(),
            cni: self.network.cni(),
            cdi_dirs: self.containers.cdi_dirs.clone(),
            runtime: RuntimeConfig {
                cgroup_driver: self.containers.cgroup_driver.into(),
                cgroup_parent: self.containers.own_parent().to_owned(),
                cgroup_slice: self.containers.slice().to_owned(),
                default_pids: Some(self.containers.default_pids).filter(|n| *n > 0),
                run_root: self.run_root.clone(),
                runtimes: self.runtimes.decode(),
                default_runtime: self.runtimes.default_name(),
                landlock: self.isolation.landlock,
                no_new_privileges: self.isolation.no_new_privileges,
                selinux: self.isolation.selinux == SelinuxUse::Auto,
            },
            default_storage_bytes: self.containers.default_storage_bytes,
            shared_paths: self.policy.operator.shared(),
            event_history: self.event_history,
            // Checked when the file was parsed.
            gc: self.gc.decode().unwrap_or_default(),
            logs: LogsConfig {
                host_max_bytes: Some(self.logs.host_max_bytes).filter(|n| *n > 0),
                journald_socket: self.logs.journald_socket.clone(),
            },
            userns: self.userns.decode().unwrap_or_default(),
        }
    }

    /// The log of containers that say nothing about it.
    pub fn container_log(&self) -> LogConfig {
        let Containers { log_file_bytes, log_files, .. } = self.containers;
        let sizes = LogConfig { max_file_bytes: log_file_bytes, max_files: log_files, ..LogConfig::default() };
        // Checked when the file was parsed.
        let mut config = sizes.with(self.logs.driver.parse().ok(), &self.logs.options).unwrap_or(sizes);
        config.own_address = false;
        config
    }
}

fn check_registry(host: &str, registry: &RegistryConfig, check: Check<'_>) {
    let key = format!("registries.{host:?}");
    check(!host.is_empty() && !host.contains(['/', ' ']), &key, "must be host or host:port");
    let pair = registry.cert_file.is_some() == registry.key_file.is_some();
    check(pair, &key, "needs cert_file and key_file together");
    let urls = registry.mirrors.iter().all(|m| m.starts_with("https://") || m.starts_with("http://"));
    check(urls, &key, "has a mirror that is no http:// or https:// URL");
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
