//! What can go wrong, by what a caller can do about it.

use crate::Full;
use berth_model::ContainerId;

/// Everything that can go wrong, by what a caller can do about it. `agent/status.rs` maps each to a gRPC status with a stable reason.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("no such container: {0}")]
    ContainerNotFound(String),
    #[error(transparent)]
    Cdi(#[from] berth_cdi::CdiError),
    #[error("no such network: {0}")]
    NetworkNotFound(String),
    #[error("publishing all ports, the container {0}: name those that are needed")]
    TooManyPorts(String),
    #[error("the name {0:?} is another network's")]
    NetworkNameInUse(String),
    #[error("network {network} is in use by {}", .by.join(", "))]
    NetworkInUse { network: String, by: Vec<String> },
    #[error("network {0} is one that every host has: it is neither made nor removed")]
    NetworkPredefined(String),
    #[error("subnet {subnet} collides with {with}: choose another one")]
    SubnetInUse { subnet: String, with: String },
    #[error(
        "every subnet of the address pools ({0}) is in use: remove a network, name a subnet, or add a pool to [network] of the configuration"
    )]
    PoolsExhausted(String),
    #[error(
        "{0} needs the host's user namespace, which this agent does not allow (allow_host in [userns] of the configuration)"
    )]
    UsernsForbidden(String),
    #[error("this host has no user namespaces for containers: {0}")]
    UsernsMissing(String),
    #[error(
        "no {size} ids are free for a user namespace: {given} containers have some of [userns] ranges ({}); remove a container, or give more ids", .all.join(", ")
    )]
    IdsExhausted { size: u32, given: usize, all: Vec<String> },
    #[error("ids {base} to {} are, or some of them are, another container's or another user's", base + (size - 1))]
    IdsInUse { base: u32, size: u32 },
    #[error(
        "no two categories are free for a container's SELinux label: remove a container, or name a level (--security-opt label=level:...)"
    )]
    LabelsExhausted,
    #[error("no such image: {0}")]
    ImageNotFound(String),
    #[error("id prefix {0:?} fits more than one {1}")]
    Ambiguous(String, &'static str),
    #[error("the name {name:?} is in use by container {by}")]
    NameInUse { name: String, by: ContainerId },
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Nothing can run in it until it goes on.
    #[error("container {0} is paused: unpause it first")]
    Paused(String),
    #[error("container {0} is running: stop it first, or use force")]
    Running(String),
    /// Its processes outlived SIGKILL (a dead mount, a process in D state): nothing more can be done from here.
    #[error("container {0} still runs: its processes did not end after SIGKILL")]
    StillRunning(String),
    #[error("image {image} is in use by container {by}")]
    ImageInUse { image: String, by: String },
    /// Field errors of a spec, all at once.
    #[error("the request has invalid fields")]
    Invalid(Vec<(String, String)>),
    #[error("container {0} has no terminal")]
    NoTerminal(String),
    #[error("container {0} has no health check")]
    NoHealthCheck(String),
    #[error("the output of container {0} is not kept: its log driver is none")]
    LogNotKept(String),
    #[error("container {0} has too much to do; try again")]
    Busy(String),
    #[error("event cursor {asked} is ahead of this node's newest, {newest}")]
    CursorInFuture { asked: u64, newest: u64 },
    /// The watcher's queue was full; it may come back with its cursor.
    #[error("the reader of events fell behind")]
    WatchTooSlow,
    #[error("request id was used before for something else")]
    RequestIdReused,
    /// A path of a container.
    #[error("no such file or folder in the container: {0}")]
    PathNotFound(String),
    /// What is to be copied and what is there do not go together.
    #[error("cannot copy to {0}")]
    BadDestination(String),
    /// A caller's tar.
    #[error("the archive is refused: {0}")]
    BadArchive(String),
    #[error("the root of container {0}, or what is mounted there, is read-only")]
    RootReadOnly(String),
    /// Only a running container has its mounts.
    #[error("{path} is on the mount {target} of container {container}, which is there only while it runs")]
    NotMounted { container: String, path: String, target: String },
    /// They would be read with more rights than the container has.
    #[error(
        "{path} is in the container's {file_system}: such files are the kernel's own and are not copied; read them with exec"
    )]
    KernelFiles { path: String, file_system: &'static str },
    #[error("container {0} ended meanwhile")]
    EndedMeanwhile(String),
    /// Nobody sends what is still missing.
    #[error("the caller went away in the middle")]
    CallerGone,
    /// What a caller comes back to is no longer there, or never was.
    #[error("the session is over: what it was about may have gone on")]
    SessionLost,
    /// What it starts after is not as it should be.
    #[error("container {container} starts after {dependency}, which {why}")]
    Dependency { container: String, dependency: String, why: String },
    /// Nobody in the container listens there.
    #[error("nothing listens on port {port} inside container {container}: connection refused{}", where_else(.listens))]
    PortRefused { container: String, port: u16, listens: Vec<String> },
    #[error("connecting to port {port} inside container {container}: {source}")]
    PortFailed { container: String, port: u16, source: std::io::Error },
    #[error("no such volume: {0}")]
    VolumeNotFound(String),
    /// Containers have it, running or not, or somebody is at work on it.
    #[error("volume {volume} is in use by {}", by.join(", "))]
    VolumeInUse { volume: String, by: Vec<String> },
    /// A tar of it cannot go on where an earlier one broke off.
    #[error("volume {0} has changed since: its tar is another one than the one that broke off")]
    VolumeChanged(String),
    #[error("there is a volume {volume} already, {why}")]
    VolumeExists { volume: String, why: String },
    /// Its own files have reached their limit; the host's disk has not.
    #[error("{act}: container {container} is full: its own files may take {limit}")]
    ContainerFull { act: String, container: String, limit: String },
    #[error(transparent)]
    Volume(#[from] berth_volume::VolumeError),
    #[error(transparent)]
    Image(#[from] berth_image::ImageError),
    #[error(transparent)]
    Rootfs(#[from] berth_rootfs::RootfsError),
    #[error(transparent)]
    Network(#[from] berth_network::NetworkError),
    #[error(transparent)]
    Cni(#[from] berth_cni::CniError),
    #[error(transparent)]
    Runtime(#[from] berth_runtime::RuntimeError),
    #[error("{act}: {source}")]
    Store { act: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{act}: {source}")]
    Io { act: String, source: std::io::Error },
    /// As many of these are under way as one caller, or all of them, may have, and none ended for a while.
    #[error("{}", no_place(.what, .full))]
    NoPlace { what: &'static str, full: Full },
    #[error("the agent is stopping")]
    Stopping,
}

fn no_place(what: &str, full: &Full) -> String {
    match full {
        Full::Caller(each) => format!(
            "you have {each} {what} under way, as many as one caller may have, and none came to its end: end some of them and try again"
        ),
        Full::All => format!("as many {what} are under way as the agent takes, and none came to its end; try again"),
    }
}

fn where_else(on: &[String]) -> String {
    if on.is_empty() { String::new() } else { format!(" (it listens on {})", on.join(", ")) }
}

impl NodeError {
    pub(crate) fn io(act: impl Into<String>) -> impl FnOnce(std::io::Error) -> NodeError {
        let act = act.into();
        move |source| NodeError::Io { act, source }
    }
}
