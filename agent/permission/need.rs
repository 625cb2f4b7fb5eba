//! Options that reach the host, each with its key in the configuration.

use std::fmt;

/// What `host_namespaces` may name. `mount`: mounts travel between host and container (propagation shared). `user`: also ids of one's own
/// choice, which may be those of other users of the host.
pub const NAMESPACES: [&str; 6] = ["network", "pid", "ipc", "uts", "mount", "user"];

/// Limits of resources that are shared by all of the host and held by no cgroup: processors, which who has a real-time priority takes from everybody
/// else whatever quota there is (sched(7)). What others bound is the container's own: its group has limits for memory and processes.
pub const ULIMITS: [&str; 2] = ["rtprio", "nice"];

/// One option that reaches the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Need {
    Privileged,
    /// One of [`NAMESPACES`].
    HostNamespace(String),
    /// Absolute, without `..`.
    HostPath(String),
    /// What links in a path of the host lead to: asked when it is decided, see [`follow`].
    Links(String),
    Device(String),
    /// Upper case, without `CAP_`.
    Capability(String),
    /// A profile of one's own may allow everything, so it counts as none.
    Unconfined,
    /// A profile of the host's for another purpose may allow everything, so it counts as none.
    Apparmor,
    /// Another type may do everything, and another level reaches other containers' files.
    Selinux,
    /// To be without what the agent's default is.
    Landlock,
    /// Set-id bits and file capabilities that count.
    NewPrivileges,
    /// More of the host's disk than the agent's default gives.
    Storage,
    VolumeOptions,
    /// Its address: the agent connects there as root of the host, and the container chooses what it sends.
    LogCollector(String),
    /// Its containers are on the host's own wire, past the host's rules.
    Macvlan,
    /// Its plugins are run as root of the host, with a configuration of the caller's.
    Cni,
    /// With its length. The host reaches its addresses in the network only, and may need them elsewhere.
    Subnet(String),
    BridgeName(String),
    CgroupFiles,
    OomScore(i32),
    /// One of [`ULIMITS`].
    Ulimit(String),
    /// What an agent of another version wrote down.
    Unknown(String),
}

impl Need {
    /// Its key in the configuration.
    pub fn key(&self) -> &str {
        match self {
            Need::Privileged => "privileged",
            Need::HostNamespace(_) => "host_namespaces",
            Need::HostPath(_) | Need::Links(_) => "host_paths",
            Need::Device(_) => "devices",
            Need::Capability(_) => "capabilities",
            Need::Unconfined => "unconfined",
            Need::Apparmor => "apparmor",
            Need::Selinux => "selinux",
            Need::Landlock => "landlock",
            Need::NewPrivileges => "new_privileges",
            Need::Storage => "storage",
            Need::VolumeOptions => "volume_options",
            Need::LogCollector(_) => "log_collectors",
            Need::Macvlan => "macvlan",
            Need::Cni => "cni",
            Need::Subnet(_) => "subnets",
            Need::BridgeName(_) => "bridge_names",
            Need::CgroupFiles => "cgroup_files",
            Need::OomScore(_) => "oom_score_adj",
            Need::Ulimit(_) => "ulimits",
            Need::Unknown(_) => "",
        }
    }

    /// `key` or `key=value`: for the audit log, and for what has to be asked again later.
    pub fn token(&self) -> String {
        match self {
            Need::HostNamespace(value)
            | Need::HostPath(value)
            | Need::Device(value)
            | Need::Capability(value)
            | Need::Subnet(value)
            | Need::BridgeName(value)
            | Need::LogCollector(value)
            | Need::Ulimit(value) => format!("{}={value}", self.key()),
            Need::OomScore(value) => format!("{}={value}", self.key()),
            Need::Links(path) => format!("links={path}"),
            Need::Unknown(token) => token.clone(),
            _ => self.key().to_owned(),
        }
    }

    /// The other way. What is not known stays the admins'.
    pub fn from_token(token: &str) -> Need {
        let (key, value) = token.split_once('=').unwrap_or((token, ""));
        let text = || value.to_owned();
        match (key, value.is_empty()) {
            ("privileged", true) => Need::Privileged,
            ("host_namespaces", false) => Need::HostNamespace(text()),
            ("host_paths", false) => Need::HostPath(text()),
            ("links", false) => Need::Links(text()),
            ("devices", false) => Need::Device(text()),
            ("capabilities", false) => Need::Capability(text()),
            ("unconfined", true) => Need::Unconfined,
            ("apparmor", true) => Need::Apparmor,
            ("selinux", true) => Need::Selinux,
            ("landlock", true) => Need::Landlock,
            ("new_privileges", true) => Need::NewPrivileges,
            ("storage", true) => Need::Storage,
            ("volume_options", true) => Need::VolumeOptions,
            ("log_collectors", false) => Need::LogCollector(text()),
            ("macvlan", true) => Need::Macvlan,
            ("cni", true) => Need::Cni,
            ("subnets", false) => Need::Subnet(text()),
            ("bridge_names", false) => Need::BridgeName(text()),
            ("cgroup_files", true) => Need::CgroupFiles,
            ("oom_score_adj", false) => value.parse().map_or(Need::Unknown(token.to_owned()), Need::OomScore),
            ("ulimits", false) => Need::Ulimit(text()),
            _ => Need::Unknown(token.to_owned()),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Privileged => f.write_str("privileged"),
            Need::HostNamespace(kind) if kind == "network" => f.write_str("the host's network"),
            Need::HostNamespace(kind) if kind == "mount" => f.write_str("mounts shared with the host"),
            Need::HostNamespace(kind) => write!(f, "the host's {kind} namespace"),
            Need::HostPath(path) => write!(f, "the host's path {path}"),
            Need::Links(path) => write!(f, "what the host's path {path} leads to"),
            Need::Device(path) => write!(f, "the host's device {path}"),
            Need::Capability(name) => write!(f, "the capability {name}"),
            Need::Unconfined => f.write_str("a seccomp profile other than the default"),
            Need::Apparmor => f.write_str("an AppArmor profile other than the default"),
            Need::Selinux => f.write_str("a SELinux label other than the default"),
            Need::Landlock => f.write_str("a container without Landlock"),
            Need::NewPrivileges => f.write_str("a container whose programs may gain privileges"),
            Need::Storage => f.write_str("more of the disk than the default for a container's own files"),
            Need::VolumeOptions => f.write_str("a volume with options that reach the host"),
            Need::LogCollector(address) => write!(f, "a log collector of its own, {address}"),
            Need::Macvlan => f.write_str("driver macvlan"),
            Need::Cni => f.write_str("driver cni"),
            Need::Subnet(subnet) => write!(f, "the subnet {subnet}, which is not private,"),
            Need::BridgeName(name) => write!(f, "a bridge of the name {name}"),
            Need::CgroupFiles => f.write_str("files of its cgroup by name, or another slice for it,"),
            Need::OomScore(value) => write!(f, "the OOM score adjustment {value}"),
            Need::Ulimit(name) => write!(f, "the ulimit {name}, which takes processors from others,"),
            Need::Unknown(token) => write!(f, "{token:?}"),
        }
    }
}
