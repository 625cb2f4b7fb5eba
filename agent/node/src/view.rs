//! What callers ask with, and what they are shown.

use crate::NodeError;
use crate::logs::{LogCursor, LogPosition};
use berth_image::{Auth, Progress};
use berth_model::event::Event;
use berth_model::image::ImageRecord;
use berth_model::network::{EndpointSpec, Ipv6Mode, NetworkAttachment, NetworkDriver, NetworkRecord, Subnet4, Subnet6};
use berth_model::supervision::HealthState;
use berth_model::{ContainerId, ContainerRecord, ContainerSpec, Platform, Reference, Timestamp};
use berth_runtime::{AttachInput, Effective, Output};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Who asks: for idempotency keys and for events.
#[derive(Clone, Debug, Default)]
pub struct Requester {
    /// The caller's name (certificate's CN, or `uid:0` on the Unix socket).
    pub caller: String,
    /// The client's request_id; empty: none.
    pub request_id: String,
    /// An admin: the last places are for them.
    pub first: bool,
}

/// When `create` fetches the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PullPolicy {
    #[default]
    Missing,
    Always,
    Never,
}

/// What a pull ended with.
#[derive(Clone, Debug)]
pub struct PullOutcome {
    pub image: Arc<ImageRecord>,
    pub reference: Reference,
    /// The node had this very image under this name already.
    pub up_to_date: bool,
    /// Bytes fetched from the network by this pull.
    pub fetched_bytes: u64,
}

/// Called often while a pull goes on; must not block.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// A volume that is a folder of the host, when it was asked whether the caller may use it. One that was made anew since is another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostVolume {
    pub name: String,
    pub created: Timestamp,
}

/// What `create` makes a container from.
#[derive(Clone)]
pub struct CreateRequest {
    pub spec: ContainerSpec,
    pub pull: PullPolicy,
    pub auth: Option<Auth>,
    /// None: the node's own.
    pub platform: Option<Platform>,
    pub progress: ProgressFn,
    /// Volumes that are folders of the host and that the caller may use. `None`: all. One may appear while the image is fetched.
    pub host_volumes: Option<Vec<HostVolume>>,
    /// It was sent before: what it made and what is gone since is not made again.
    pub again: bool,
}

/// A container that was made.
#[derive(Clone, Debug)]
pub struct Created {
    pub id: ContainerId,
    pub name: String,
    /// What was asked for and cannot be given in full on this host.
    pub warnings: Vec<String>,
    /// It was made by this request before, has ended and is gone.
    pub gone: bool,
    /// Kept while a start is on its way: prunes and collections leave the container alone. None: nobody will start it.
    pub hold: Option<crate::container::Hold>,
}

/// An image with its names and users, for lists.
#[derive(Clone, Debug)]
pub struct ImageView {
    pub record: Arc<ImageRecord>,
    /// Full names.
    pub tags: Vec<Reference>,
    /// Containers made from it.
    pub containers: u32,
}

/// What a copy is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopySource {
    /// Anything but a folder.
    File,
    /// A folder, under its name.
    Folder,
    /// What is in a folder.
    Contents,
    /// A tar with names of its own.
    Archive,
}

/// A copy into a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyInto {
    /// Where to, in the container.
    pub path: Vec<u8>,
    pub source: CopySource,
    /// First part of every name in the tar, for files and folders.
    pub name: Vec<u8>,
    /// Owners as in the tar; else root's.
    pub keep_owner: bool,
}

/// What is copied out of a container.
#[derive(Debug)]
pub struct CopiedOut {
    pub source: CopySource,
    /// First part of every name in the tar.
    pub name: Vec<u8>,
    pub stat: berth_sys::fs::Stat,
    /// Of a symbolic link.
    pub link_target: Vec<u8>,
    pub pieces: crate::Pieces,
}

/// An image to be made of a container.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// None: it has no name.
    pub reference: Option<Reference>,
    pub author: String,
    pub message: String,
    pub changes: Vec<berth_image::Change>,
    /// A running container stands still while its files are read.
    pub pause: bool,
}

/// An image that was made of a container.
#[derive(Clone, Debug)]
pub struct Committed {
    pub image: Arc<ImageRecord>,
    pub reference: Option<Reference>,
    /// Of the new layer.
    pub layer_bytes: u64,
}

/// What the removal of an image took away.
#[derive(Clone, Debug, Default)]
pub struct RemovedImage {
    /// Full names.
    pub untagged: Vec<String>,
    /// Image id and diff_ids of layers.
    pub deleted: Vec<String>,
    /// Bytes of the layers' tars.
    pub freed_bytes: u64,
}

/// A container with what is worked out beside its record.
#[derive(Clone, Debug)]
pub struct ContainerView {
    pub record: Arc<ContainerRecord>,
    pub effective: Arc<Effective>,
    /// As it was when the container was made.
    pub image: Arc<ImageRecord>,
}

/// A network to be made.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize)]
pub struct NetworkRequest {
    pub name: String,
    /// `Bridge`, `Macvlan` or `Cni`.
    pub driver: NetworkDriver,
    /// `None`: from the pools.
    pub ipv4: Option<Subnet4>,
    pub ipv6: Option<Subnet6>,
    /// Addresses of others in them, by name. Left out where there are none: requests of earlier agents are known again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// A ULA where `ipv6` says none.
    pub enable_ipv6: bool,
    pub ipv6_mode: Ipv6Mode,
    pub internal: bool,
    pub mtu: Option<u32>,
    /// Name of the bridge; `None`: made from the id.
    pub bridge: Option<String>,
    /// What a macvlan sits on.
    pub parent: Option<String>,
    /// The list of a network whose driver is cni: JSON.
    pub conflist: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// As they were given.
    pub options: BTreeMap<String, String>,
}

/// What a prune of networks took away.
#[derive(Clone, Debug, Default)]
pub struct PrunedNetworks {
    pub removed: Vec<String>,
    pub problems: Vec<String>,
}

/// What came of taking a container off a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disconnected {
    Done,
    /// It was not on it.
    NotConnected,
    NoContainer,
}

/// A container on a network, or that joins it when it starts.
#[derive(Clone, Debug)]
pub struct NetworkMember {
    pub container: Arc<ContainerRecord>,
    pub running: bool,
    /// What it has there; `None`: it does not run.
    pub attachment: Option<NetworkAttachment>,
    /// What it asks for.
    pub endpoint: EndpointSpec,
}

/// A network with all that belong to it, running or not.
#[derive(Clone, Debug)]
pub struct NetworkView {
    pub record: Arc<NetworkRecord>,
    pub members: Vec<NetworkMember>,
}

/// What a wait is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WaitCondition {
    #[default]
    NotRunning,
    /// The end of this run, or of the next one when it does not run.
    NextExit,
    Removed,
    Running,
    /// Its health check says that it is well.
    Healthy,
}

/// One thing that was removed to free space, or would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Freed {
    pub kind: FreedKind,
    /// Container id, image id, or diff_id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// Full names that the image lost.
    pub untagged: Vec<String>,
    pub bytes: u64,
    /// Why it goes, in words.
    pub reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreedKind {
    Container,
    Image,
    Layer,
    Volume,
}

/// What a run freed, or would.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct FreedTotal {
    pub containers: u32,
    pub images: u32,
    pub layers: u32,
    #[serde(default)]
    pub volumes: u32,
    pub bytes: u64,
    /// What could not be removed.
    pub problems: Vec<String>,
}

impl FreedTotal {
    pub(crate) fn add(&mut self, freed: &Freed) {
        match freed.kind {
            FreedKind::Container => self.containers += 1,
            FreedKind::Image => self.images += 1,
            FreedKind::Layer => self.layers += 1,
            FreedKind::Volume => self.volumes += 1,
        }
        self.bytes += freed.bytes;
    }
}

/// Bytes of one container's files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContainerBytes {
    /// What it wrote into its root.
    pub written: u64,
    pub logs: u64,
}

impl ContainerBytes {
    pub fn total(self) -> u64 {
        self.written + self.logs
    }
}

/// What takes the room of the data folder.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    pub items: Vec<UsageItem>,
    pub sums: Vec<UsageSum>,
    pub disk_free_bytes: u64,
    pub disk_total_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UsageKind {
    /// Layers of images.
    Images,
    /// What containers wrote into their roots.
    Containers,
    Logs,
    /// What of the layer store is no image's.
    LayerStore,
    /// Files of volumes.
    Volumes,
    Database,
}

#[derive(Clone, Debug)]
pub struct UsageItem {
    pub kind: UsageKind,
    pub id: String,
    pub names: Vec<String>,
    /// In all: of an image with the layers that it shares.
    pub bytes: u64,
    /// Of an image, bytes of layers that others have too.
    pub shared_bytes: u64,
    /// Containers made from the image.
    pub containers: u32,
    pub created: Option<Timestamp>,
    pub active: bool,
    /// The image of a container.
    pub image: String,
}

#[derive(Clone, Debug)]
pub struct UsageSum {
    pub kind: UsageKind,
    pub count: u32,
    pub active: u32,
    pub bytes: u64,
    /// What a prune of everything unused would give back.
    pub reclaimable_bytes: u64,
}

impl UsageSum {
    pub(crate) fn new(kind: UsageKind) -> UsageSum {
        UsageSum { kind, count: 0, active: 0, bytes: 0, reclaimable_bytes: 0 }
    }
}

/// What a prune or a collection tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FreedItem {
    Freed(Freed),
    /// Last.
    Total(FreedTotal),
}

/// A container with its places on the host.
#[derive(Clone, Debug)]
pub struct ContainerDetail {
    pub view: ContainerView,
    pub log_path: PathBuf,
    pub upper_path: PathBuf,
    /// `None`: nothing keeps it to a size.
    pub storage_limited_by: Option<berth_volume::LimitBy>,
    pub cgroup_paths: Vec<PathBuf>,
    /// None: it has no health check, or never ran.
    pub health: Option<HealthState>,
}

/// Live streams of a container or an exec.
pub struct Streams {
    pub tty: bool,
    /// Output in order; closed behind the last byte. Err: this reader was cut off.
    pub output: mpsc::Receiver<Result<Output, NodeError>>,
    pub input: AttachInput,
    /// It can be resumed; so much of its input has been accepted. None: it ends with its caller.
    pub session: Option<u64>,
}

/// What a session is made from.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// Made from the caller and the caller's secret: lower-case hexadecimal, at most 64 characters.
    pub name: String,
    /// What of the container only an admin may reach.
    pub needs: Vec<String>,
}

/// Which log entries are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Neither this nor `stderr`: both.
    pub stdout: bool,
    pub stderr: bool,
    /// Only what comes behind this entry.
    pub after: Option<LogCursor>,
}

/// One line of a container's output, or a part of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    pub time: Timestamp,
    pub stderr: bool,
    /// Without the line's end.
    pub line: Vec<u8>,
    /// The line goes on in the next entry of the same stream.
    pub partial: bool,
    /// Behind it.
    pub position: LogPosition,
    /// Not 0: no line of the container's; so many bytes are missing here, because they were dropped before they were read.
    pub lost_bytes: u64,
}

/// What has become of a container's output.
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// Kept on the host, as they are there.
    pub files: u32,
    pub stored_bytes: u64,
    /// Because of their age or the host's limit.
    pub removed_files: u64,
    pub removed_bytes: u64,
    /// Never kept: the disk was full.
    pub lost_lines: u64,
    pub forwarded_entries: u64,
    /// How often, and how much, was dropped before it was handed over.
    pub gaps: u64,
    pub lost_bytes: u64,
    /// Why nothing can be handed over just now.
    pub forward_error: Option<String>,
}

/// What a watcher of events is sent.
#[derive(Clone, Debug)]
pub enum EventItem {
    Event(Arc<Event>),
    /// Entries behind the asked cursor are no longer kept; `oldest` is the first that is.
    HistoryLost {
        asked: u64,
        oldest: u64,
    },
    /// All of the history has come; what follows is new.
    CaughtUp,
}

/// The host and what runs on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub hostname: String,
    /// PRETTY_NAME of os-release(5).
    pub operating_system: String,
    pub kernel_version: String,
    /// As uname(2) says it: x86_64, aarch64.
    pub architecture: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// v1, hybrid or v2.
    pub cgroup_mode: String,
    /// Who makes containers' groups: cgroupfs, systemd.
    pub cgroup_driver: String,
    /// erofs or directory.
    pub layer_store: String,
    pub data_root: String,
    pub created: u32,
    pub running: u32,
    pub exited: u32,
    pub images: u32,
    pub features: Vec<(String, bool)>,
    pub warnings: Vec<String>,
    /// When this agent opened the node.
    pub started: Timestamp,
    pub boot_id: String,
    pub disk_free_bytes: u64,
    pub disk_total_bytes: u64,
    /// Our own first.
    pub runtimes: Vec<RuntimeView>,
    /// The kernel's version of Landlock, if it has one, and whether containers that say nothing of it are in such a domain.
    pub landlock: (Option<u32>, bool),
    /// Whether AppArmor is enabled, and whether the agent's own profile is loaded.
    pub apparmor: (bool, bool),
    pub selinux: Selinux,
}

/// Whether containers have SELinux labels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Selinux {
    /// The host has none.
    #[default]
    Absent,
    /// The host has it, and containers have no labels.
    Unused,
    Used,
}

/// An OCI runtime that containers may be of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuntimeView {
    pub name: String,
    /// Empty: our own.
    pub path: String,
    /// Empty: it said none.
    pub version: String,
    pub is_default: bool,
}

/// A volume with its users, for lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeView {
    pub record: berth_model::volume::VolumeRecord,
    /// Names of the containers that refer to it, running or not.
    pub containers: Vec<String>,
    /// Where its files are on the host while it is in use.
    pub mountpoint: PathBuf,
    /// The size that it was made with, in bytes, and what keeps it to that; `None`: it has none.
    pub limit: Option<(u64, berth_volume::LimitBy)>,
}
