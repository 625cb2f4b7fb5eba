//! The agent's configuration: one TOML file, every key with a default.
//!
//! A file that is wrong anywhere is refused whole: unknown keys, wrong types and impossible values name the file, the
//! key and the line. `deploy/berthd.toml` shows every key with its default.

mod cgroups;
mod isolation;
mod network;
mod runtimes;
mod userns;

pub use isolation::{Isolation, SelinuxUse};
pub use network::Network;
pub use runtimes::Runtimes;
pub use userns::Userns;

use crate::permission::Policy;
use berth_image::{ImagesConfig, RegistryConfig};
use berth_model::log::{LogConfig, LogDriver};
use berth_model::pattern::LabelPattern;
use berth_network::NetworkConfig;
use berth_node::{GcConfig, LogsConfig, NodeConfig, Watermarks};
use berth_rootfs::Driver;
use berth_runtime::RuntimeConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration is when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/berth/berthd.toml";
/// Where `berthctl pki issue agent` output is put when nothing else is said.
const PKI_DIR: &str = "/etc/berth/pki";
/// Not taken by IANA, above the ports that need a privilege.
const DEFAULT_PORT: u16 = 7443;
/// The nftables table that holds all rules of ours.
const TABLE: &str = "berth";

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

/// Defaults for containers that do not say it themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Containers {
    /// Who makes their cgroups.
    pub cgroup_driver: cgroups::Driver,
    /// With cgroupfs the parent of them all, relative to the hierarchies' roots; unset: berth. With systemd the slice of those that name none;
    /// unset: system.slice.
    pub cgroup_parent: Option<String>,
    /// Processes and threads of one container; -1: no limit.
    pub default_pids: i64,
    /// Where vendors' descriptions of devices are; those of later folders go first.
    pub cdi_dirs: Vec<PathBuf>,
    /// Bytes of one log file before it is rotated.
    pub log_file_bytes: u64,
    /// Log files kept per container, the current one counted.
    pub log_files: u32,
}

impl Default for Containers {
    fn default() -> Self {
        let log = LogConfig::default();
        Containers {
            cgroup_driver: cgroups::Driver::default(),
            cgroup_parent: None,
            // A fork bomb is stopped long before the host's own limit of 32,768 pids.
            default_pids: 4096,
            cdi_dirs: vec!["/etc/cdi".into(), "/run/cdi".into()],
            log_file_bytes: log.max_file_bytes,
            log_files: log.max_files,
        }
    }
}

/// What becomes of containers' output, where they do not say it themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logs {
    /// local, json-file, none, journald or syslog.
    pub driver: String,
    /// Options of that driver, as for `--log-opt`.
    pub options: BTreeMap<String, String>,
    /// Bytes of all containers' logs together; beyond, the oldest files that are full are removed. 0: no limit.
    pub host_max_bytes: u64,
    pub journald_socket: PathBuf,
}

impl Default for Logs {
    fn default() -> Self {
        Logs {
            driver: LogDriver::default().name().into(),
            options: BTreeMap::new(),
            host_max_bytes: 0,
            journald_socket: "/run/systemd/journal/socket".into(),
        }
    }
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

/// What one caller, and all of them, may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one request message.
    pub message_bytes: usize,
    /// Calls at once on one connection.
    pub streams_per_connection: u32,
    /// Connections at once, over all listeners.
    pub connections: usize,
    /// Calls at once, over all connections; more are answered with RESOURCE_EXHAUSTED.
    pub calls: usize,
    /// TLS handshakes under way at once; more wait in the kernel's queue.
    pub handshakes: usize,
    /// Seconds for a TLS handshake, and for the first bytes behind it.
    pub handshake_seconds: u64,
    /// Seconds for calls without a deadline of their own, except streams, Stop and Wait.
    pub request_seconds: u64,
    /// Seconds that running calls get when the agent stops.
    pub drain_seconds: u64,
    /// Seconds for the stop of all containers with `shutdown = "stop"`.
    pub shutdown_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes: 4 << 20,
            streams_per_connection: 256,
            connections: 1024,
            calls: 2048,
            handshakes: 64,
            handshake_seconds: 10,
            request_seconds: 600,
            drain_seconds: 10,
            shutdown_seconds: 60,
        }
    }
}

impl Limits {
    pub fn handshake(&self) -> Duration {
        Duration::from_secs(self.handshake_seconds)
    }
    pub fn request(&self) -> Duration {
        Duration::from_secs(self.request_seconds)
    }
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// What goes by itself when it is no longer needed. Ages are numbers with s, m, h, d or w.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// How often the policy runs. Unset: only when asked (`berthctl system gc`).
    pub interval: Option<String>,
    /// Containers that stopped longer ago are removed. Unset: never.
    pub stopped_containers_after: Option<String>,
    /// Images that no container has used for longer are removed. Unset: not by age.
    pub unused_images_after: Option<String>,
    /// Per cent of data_root's file system. Above the high mark unused images are removed, the longest unused first, down to the low
    /// one. Both or none.
    pub high_watermark: Option<u8>,
    pub low_watermark: Option<u8>,
    /// Containers and images with one of these labels stay: `key` or `key=value`.
    pub keep_labels: Vec<String>,
    /// Images with one of these names stay: names, or patterns with `*`.
    pub keep_images: Vec<String>,
}

impl Gc {
    /// What the node is told; else what is wrong, by key.
    fn decode(&self) -> Result<GcConfig, Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let mut age = |key, text: &Option<String>| {
            let parsed = text.as_deref().map(parse_age).transpose();
            parsed.unwrap_or_else(|why| {
                wrong.push((key, why));
                None
            })
        };
        let interval = age("gc.interval", &self.interval);
        let stopped_containers_after = age("gc.stopped_containers_after", &self.stopped_containers_after);
        let unused_images_after = age("gc.unused_images_after", &self.unused_images_after);
        if interval.is_some_and(|i| i < Duration::from_secs(1)) {
            wrong.push(("gc.interval", "must be at least 1s".to_owned()));
        }
        let watermarks = match (self.high_watermark, self.low_watermark) {
            (None, None) => None,
            (Some(high_percent @ 1..=100), Some(low_percent)) if low_percent <= high_percent => {
                Some(Watermarks { high_percent, low_percent })
            }
            _ => {
                let why = "and gc.low_watermark must be there together: 1 to 100 per cent, and not above it";
                wrong.push(("gc.high_watermark", why.to_owned()));
                None
            }
        };
        for (key, list) in [("gc.keep_labels", &self.keep_labels), ("gc.keep_images", &self.keep_images)] {
            if list.iter().any(String::is_empty) {
                wrong.push((key, "must not hold an empty text".to_owned()));
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(GcConfig {
            interval,
            stopped_containers_after,
            unused_images_after,
            watermarks,
            keep_labels: self.keep_labels.iter().map(|l| LabelPattern::parse(l)).collect(),
            keep_images: self.keep_images.clone(),
        })
    }
}

/// `90s`, `30m`, `12h`, `7d`, `2w`.
fn parse_age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} must be a number with s, m, h, d or w, such as 7d");
    let unit = match text.chars().last().ok_or_else(wrong)? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}

/// Where the audit records go.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Unset: `<data_root>/audit.log`. Empty: no file.
    pub file: Option<PathBuf>,
    /// Bytes of the file before it is rotated.
    pub file_bytes: u64,
    /// Files kept, the current one counted.
    pub files: u32,
    /// Also to the agent's own log.
    pub log: bool,
}

impl Default for Audit {
    fn default() -> Self {
        Audit { file: None, file_bytes: 16 << 20, files: 8, log: false }
    }
}

/// Where the agent's own log goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// To the journal with its fields where standard error is the journal's, else to standard error.
    #[default]
    Auto,
    Stderr,
    Journald,
}

/// What lines on standard error look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The agent's own log.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Level, or tracing's directives: `info`, `info,berth_image=debug`.
    pub level: String,
    pub target: LogTarget,
    pub format: LogFormat,
    /// An older word for `format = "json"`.
    pub json: bool,
}

impl Log {
    pub fn format(&self) -> LogFormat {
        if self.json { LogFormat::Json } else { self.format }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into(), target: LogTarget::default(), format: LogFormat::default(), json: false }
    }
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
        let bridge = &self.network.bridge;
        let bridge_good = (1..=15).contains(&bridge.len())
            && bridge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !matches!(bridge.as_str(), "." | "..");
        check(bridge_good, "network.bridge", "must be 1 to 15 letters, digits, '-', '_' and '.'");
        for (key, why) in self.network.publish().1.into_iter().chain(self.network.wrong_cni()) {
            check(false, key, &why);
        }
        if let Err(why) = parse_subnet(&self.network.subnet) {
            check(false, "network.subnet", &why);
        }
        for pool in &self.network.pools {
            if let Err(why) = pool.parse() {
                check(false, "network.pools", &why);
            }
        }
        if let Err(why) = self.containers.check_parent() {
            check(false, "containers.cgroup_parent", &why);
        }
        check(
            self.containers.default_pids == -1 || self.containers.default_pids >= 16,
            "containers.default_pids",
            "must be -1 or at least 16",
        );
        let absolute = self.containers.cdi_dirs.iter().all(|d| d.is_absolute());
        check(absolute, "containers.cdi_dirs", "must be absolute paths");
        check(self.containers.log_file_bytes >= 4096, "containers.log_file_bytes", "must be at least 4096");
        check((1..=1000).contains(&self.containers.log_files), "containers.log_files", "must be 1 to 1000");
        match self.logs.driver.parse::<LogDriver>() {
            Err(e) => check(false, "logs.driver", &e.to_string()),
            Ok(driver) => {
                for (key, why) in LogConfig::default().with(Some(driver), &self.logs.options).err().unwrap_or_default()
                {
                    check(false, &format!("logs.options.{key}"), &why);
                }
            }
        }
        let host_max = self.logs.host_max_bytes;
        check(host_max == 0 || host_max >= 1 << 20, "logs.host_max_bytes", "must be 0 or at least 1048576");
        check(self.logs.journald_socket.is_absolute(), "logs.journald_socket", "must be an absolute path");
        check(self.images.parallel_layers <= 64, "images.parallel_layers", "must be at most 64");
        let limits = &self.limits;
        let message = (64 << 10..=64 << 20).contains(&limits.message_bytes);
        check(message, "limits.message_bytes", "must be 65536 to 67108864");
        check(
            (1..=10_000).contains(&limits.streams_per_connection),
            "limits.streams_per_connection",
            "must be 1 to 10000",
        );
        check((1..=100_000).contains(&limits.connections), "limits.connections", "must be 1 to 100000");
        check((1..=100_000).contains(&limits.calls), "limits.calls", "must be 1 to 100000");
        check((1..=10_000).contains(&limits.handshakes), "limits.handshakes", "must be 1 to 10000");
        check((1..=300).contains(&limits.handshake_seconds), "limits.handshake_seconds", "must be 1 to 300");
        check((1..=86_400).contains(&limits.request_seconds), "limits.request_seconds", "must be 1 to 86400");
        check((1..=3600).contains(&limits.shutdown_seconds), "limits.shutdown_seconds", "must be 1 to 3600");
        check(limits.drain_seconds <= 600, "limits.drain_seconds", "must be at most 600");
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
        check(self.audit.file_bytes >= 64 << 10, "audit.file_bytes", "must be at least 65536");
        check((1..=1000).contains(&self.audit.files), "audit.files", "must be 1 to 1000");
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
            let key = format!("registries.{host:?}");
            check(!host.is_empty() && !host.contains(['/', ' ']), &key, "must be host or host:port");
            check(
                registry.cert_file.is_some() == registry.key_file.is_some(),
                &key,
                "needs cert_file and key_file together",
            );
            let urls = registry.mirrors.iter().all(|m| m.starts_with("https://") || m.starts_with("http://"));
            check(urls, &key, "has a mirror that is no http:// or https:// URL");
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
        let (gateway, prefix_len) = parse_subnet(&self.network.subnet).unwrap_or((Ipv4Addr::new(172, 31, 240, 1), 20));
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
                selinux: self.isolation.selinux == SelinuxUse::Auto,
            },
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

/// `address/prefix`: the host's address in it and the prefix length. The network's own address means its first host.
fn parse_subnet(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let wrong = || format!("{text:?} must be an IPv4 address with a prefix length, such as 172.31.240.1/20");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if !(8..=29).contains(&prefix) {
        return Err(format!("{text:?} must have a prefix length of 8 to 29"));
    }
    let bits = u32::from(address);
    let host_mask = u32::MAX >> prefix;
    let gateway = match bits & host_mask {
        0 => bits + 1,
        host if host == host_mask => return Err(format!("{text:?} is the network's broadcast address")),
        _ => bits,
    };
    let gateway = Ipv4Addr::from(gateway);
    if gateway.is_loopback() || gateway.is_multicast() || gateway.is_unspecified() {
        return Err(format!("{text:?} is no address for hosts"));
    }
    Ok((gateway, prefix))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
