//! What a caller asks for when a container is created: parsed, checked, and kept as it is.

use crate::Digest;
pub use crate::log::LogConfig;
use crate::network::{EndpointSpec, NetworkMode, PortMapping};
use crate::selinux::{LabelOptions, Relabel};
use crate::supervision::{After, HealthAction, HealthCheck, RestartPolicy};
pub use crate::userns::UsernsMode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Everything that a container is made of, beside its image.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The image as the caller wrote it.
    pub image: String,
    /// `None`: a name is made up.
    pub name: Option<String>,
    /// `None`: the image's. `Some([])`: no entrypoint. Setting it also drops the image's command, as Docker does.
    pub entrypoint: Option<Vec<String>>,
    /// Empty: the image's command.
    pub command: Vec<String>,
    /// `KEY=value`, over the image's.
    pub env: Vec<String>,
    pub workdir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Supplementary groups beside those of the image's files; names or numbers.
    pub groups: Vec<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub tty: bool,
    /// Standard input stays open for attachments; otherwise it is /dev/null.
    pub open_stdin: bool,
    /// Close standard input when the first attachment that had it ends.
    pub stdin_once: bool,
    pub read_only_root: bool,
    pub mounts: Vec<Mount>,
    /// Containers whose volumes and bind mounts it has, too; `Some(true)`: read-only, `None`: as there.
    pub volumes_from: Vec<(String, Option<bool>)>,
    pub extra_hosts: Vec<ExtraHost>,
    /// Servers for resolv.conf; empty: the host's, without loopback ones.
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    pub sysctls: BTreeMap<String, String>,
    /// Names without `CAP_`, upper case, or `ALL`.
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub no_new_privileges: bool,
    /// Asked for against the agent's default.
    pub new_privileges: bool,
    /// Its group of cgroup v2 is its user namespace's root's to part.
    #[serde(default)]
    pub writable_cgroups: bool,
    pub privileged: bool,
    /// An init of ours is process 1, reaps orphans and forwards signals.
    pub init: bool,
    pub seccomp: Seccomp,
    /// A Landlock domain around each of its processes. `Some(false)`: none, against the agent's default. `None`: in a request as the agent says, in
    /// a record none.
    pub landlock: Option<bool>,
    /// AppArmor profile of the host, or `unconfined`. Empty: berth-default where the host has it loaded and the container is not privileged.
    pub apparmor: String,
    /// Parts of its SELinux labels.
    pub selinux: LabelOptions,
    pub resources: Resources,
    /// The slice of systemd that its scope is in. `None`: as the agent says, and always where the agent makes the groups itself.
    pub cgroup_parent: Option<String>,
    pub devices: Vec<Device>,
    /// Whole names of CDI devices: `vendor.com/class=name`. What they stand for is looked up at each start.
    pub cdi_devices: Vec<String>,
    /// Devices by their numbers.
    pub device_rules: Vec<DeviceRule>,
    pub network: NetworkMode,
    /// With [`NetworkMode::Bridge`]; empty: the default network.
    pub networks: Vec<EndpointSpec>,
    pub ports: Vec<PortMapping>,
    /// Publish every exposed port, the image's and `expose`, on a port of the agent's choice.
    pub publish_all: bool,
    /// Ports that it listens on, as images write them: `80/tcp`.
    pub expose: Vec<String>,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub host_uts: bool,
    pub userns: UsernsMode,
    /// Signal name (`SIGTERM`) or number; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and the kill; `None`: 10.
    pub stop_timeout_secs: Option<u32>,
    /// Remove the container when it has ended.
    pub auto_remove: bool,
    pub oom_score_adj: Option<i32>,
    /// Bytes of /dev/shm; `None`: 64 MiB.
    pub shm_bytes: Option<u64>,
    pub storage: Storage,
    pub log: LogConfig,
    pub restart: RestartPolicy,
    pub health: HealthCheck,
    pub health_on_failure: HealthAction,
    /// What it starts after.
    pub after: Vec<After>,
    /// Another OCI runtime of the agent's configuration. In a request empty: as the agent says. In a record empty: the agent's own.
    pub runtime: String,
}

/// What becomes of the owners of a bind mount's files in a container with a user namespace of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// They stay the host's, and are nobody's in the container.
    Host,
    /// They are the container's ids, or it does not start.
    Mapped,
    /// They are the container's ids where the file system has idmapped mounts.
    MappedIfPossible,
}

impl ContainerSpec {
    /// Ids of the agent's choice own nothing on the host, so that without a mapping no file there would be the container's; ids that
    /// were named are meant to be the host's.
    pub fn owners(&self, idmap: Option<bool>) -> Owners {
        match (idmap, &self.userns) {
            (Some(true), _) => Owners::Mapped,
            (None, UsernsMode::Unset | UsernsMode::Auto { .. }) => Owners::MappedIfPossible,
            (Some(false), _) | (None, _) => Owners::Host,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container.
    pub target: String,
    pub read_only: bool,
    pub kind: MountKind,
    /// Of binds and volumes.
    #[serde(default)]
    pub relabel: Relabel,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    Bind {
        /// Absolute path of the host.
        source: String,
        propagation: Propagation,
        /// Bind the mounts below the source too.
        recursive: bool,
        /// Make the source folder when it is missing (`-v`), instead of refusing (`--mount`).
        create_source: bool,
        /// Read-only is the source itself, not what is mounted below it.
        #[serde(default)]
        writable_below: bool,
        /// The folder of the host that links must not lead out of: whoever asked may only mount what is below it.
        #[serde(default)]
        within: Option<String>,
        /// Its owners are the container's ids: root's files there are the container's root's. `None`: see [`ContainerSpec::owners`].
        #[serde(default)]
        idmap: Option<bool>,
        /// Set-uid programs and devices there have no effect. Not to be asked for by itself.
        #[serde(default)]
        nosuid_nodev: bool,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        /// Octal permission bits; `None`: 1777.
        mode: Option<u32>,
        /// nosuid and nodev always; these beside them: `noexec`, `exec`.
        exec: bool,
    },
    Volume(VolumeMount),
    Image(ImageMount),
}

/// A volume in a container.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// Empty in a request: a volume of the container's own is made and named.
    pub name: String,
    /// It was made with the container, for it alone.
    pub anonymous: bool,
    /// Path inside the volume; it must be there.
    pub subpath: Option<String>,
    /// Do not fill an empty volume with what the image has at the target.
    pub no_copy: bool,
    /// For a volume that is made with the container.
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

/// An image's files in a container, read-only.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMount {
    /// As it was asked for.
    pub image: String,
    pub subpath: Option<String>,
    /// Found when the container was made.
    pub id: Option<Digest>,
    /// `diff_id`s, bottom first.
    pub layers: Vec<Digest>,
}

/// mount_namespaces(7); the `r` forms hold for the mounts below too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    Private,
    #[default]
    Rprivate,
    Shared,
    Rshared,
    Slave,
    Rslave,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExtraHost {
    pub name: String,
    pub target: HostTarget,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostTarget {
    Address(IpAddr),
    /// Docker's `host-gateway`: the host's address on the container's network.
    Gateway,
}

/// getrlimit(2); `u64::MAX` is no limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ulimit {
    /// Lower case without `RLIMIT_`: nofile, nproc, core, …
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Docker's default profile.
    #[default]
    Default,
    Unconfined,
    /// A profile in Docker's JSON format.
    Profile(String),
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub memory_bytes: Option<u64>,
    /// Memory and swap together, as Docker counts; -1: no limit on swap. `None`: twice the memory.
    pub memory_swap_bytes: Option<i64>,
    pub memory_reservation_bytes: Option<u64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// Microseconds in which `nano_cpus` is counted, 1,000 to 1,000,000. `None`: 100,000, the kernel's default.
    pub cpu_period_us: Option<u64>,
    /// v1 shares, 2 to 262144; turned into a v2 weight where needed.
    pub cpu_shares: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// 0 or less: no limit. `None`: the agent's default.
    pub pids: Option<i64>,
    /// Share of block I/O against other containers, 10 to 1,000, as v1 counts; turned into a v2 weight where needed.
    pub blkio_weight: Option<u16>,
    /// One entry for each disk.
    pub block_devices: Vec<BlockLimit>,
    /// Where memory runs out, all processes end together (v2, memory.oom.group).
    pub oom_group: bool,
    /// Bytes of huge pages by their size, as the kernel writes it: `2MB`, `1GB`.
    pub hugepages: BTreeMap<String, u64>,
    /// Files of the container's v2 group and what is written to them last.
    pub unified: BTreeMap<String, String>,
}

/// How much of the host's disk a container's own files may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// In a request `None`: as the agent says, 0: no limit. In a record never 0, and `None`: no limit.
    pub bytes: Option<u64>,
    /// Files and folders; `None`: as many as a file system of that many bytes has.
    pub inodes: Option<u64>,
    /// More than the agent's default was asked for. Not to be asked for by itself.
    pub beyond_default: bool,
}

/// As many files as a file system of that size has: below 512 MiB mkfs.ext4 gives one to each 4 KiB, above it to each 16 KiB.
pub fn files_of(bytes: u64) -> u64 {
    bytes / if bytes < 512 << 20 { 4096 } else { 16384 }
}

impl Storage {
    /// What a request's words mean where containers that say nothing have `default` bytes. Again is the same.
    pub fn or_default(&mut self, default: Option<u64>) {
        let Some(default) = default else {
            self.bytes = self.bytes.filter(|bytes| *bytes > 0);
            return;
        };
        match self.bytes {
            None if self.beyond_default => {}
            None => self.bytes = Some(default),
            Some(0) => (self.bytes, self.beyond_default) = (None, true),
            Some(bytes) => self.beyond_default |= bytes > default,
        }
        // Inodes are the disk's, too.
        self.beyond_default |= self.inodes.is_some_and(|inodes| inodes > files_of(default));
    }
}

/// Docker's and the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel takes no quota below.
pub const LEAST_CPU_QUOTA_US: u64 = 1000;

impl Resources {
    /// Microseconds in which the time of its processors is counted.
    pub fn cpu_period(&self) -> u64 {
        self.cpu_period_us.unwrap_or(CPU_PERIOD_US)
    }

    /// Microseconds of each period, maybe fewer than the kernel takes; `None`: no limit.
    pub fn cpu_quota(&self) -> Option<u64> {
        let quota = u128::from(self.nano_cpus?) * u128::from(self.cpu_period()) / 1_000_000_000;
        Some(u64::try_from(quota).unwrap_or(u64::MAX))
    }

    /// The least number that gives this quota of such a period, so that [`Resources::cpu_quota`] is the same again.
    pub fn nano_cpus_of(quota_us: u64, period_us: u64) -> u64 {
        let nanos = (u128::from(quota_us) * 1_000_000_000).div_ceil(u128::from(period_us.max(1)));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// Why its limit of processors is below what the kernel takes, if it is.
    pub fn too_few_cpus(&self) -> Option<String> {
        let (period, quota) = (self.cpu_period(), self.cpu_quota()?);
        (quota < LEAST_CPU_QUOTA_US).then(|| {
            let least = LEAST_CPU_QUOTA_US as f64 / period as f64;
            let period = period as f64 / 1000.0;
            format!("must be 0 or at least {least}: the kernel gives no less than 1 ms in each period of {period} ms")
        })
    }
}

/// What a container may do with one disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockLimit {
    /// The disk's device file on the host; its number is looked up each time.
    pub path: String,
    /// 10 to 1,000.
    pub weight: Option<u16>,
    /// Bytes a second.
    pub read_bps: Option<u64>,
    pub write_bps: Option<u64>,
    /// Operations a second.
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Device {
    pub host_path: String,
    pub container_path: String,
    /// Letters of `rwm`.
    pub permissions: String,
    /// What its node has in the container; `None`: as the host's.
    #[serde(default)]
    pub node: NodeAttributes,
}

/// Devices that may be used, by their numbers. `None`: all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceRule {
    pub block: bool,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// As cgroup v1's devices.allow has it, without the letters: `c 189:*`.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{} {}:{}", if self.block { 'b' } else { 'c' }, number(self.major), number(self.minor))
    }
}

/// Ids are the container's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NodeAttributes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// What an exec asks for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Never empty.
    pub command: Vec<String>,
    /// Over the container's.
    pub env: Vec<String>,
    /// `None`: the container's.
    pub workdir: Option<String>,
    /// `None`: the container's.
    pub user: Option<String>,
    pub tty: bool,
    pub stdin: bool,
    pub detach: bool,
    pub privileged: bool,
    /// Rows and columns of the caller's terminal.
    pub size: Option<(u16, u16)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_stays_what_it_was() {
        for period in [1000, 3000, 7777, 30_000, 99_999, 100_000, 1_000_000] {
            for quota in [1000, 1001, 24_999, 25_000, 333_333, 5_000_000] {
                let nano_cpus = Some(Resources::nano_cpus_of(quota, period));
                let r = Resources { nano_cpus, cpu_period_us: Some(period), ..Resources::default() };
                assert_eq!(r.cpu_quota(), Some(quota), "{period}");
            }
        }
        assert_eq!(Resources::nano_cpus_of(50_000, 100_000), 500_000_000);
        assert_eq!(Resources::default().cpu_quota(), None);
    }

    #[test]
    fn storage_is_as_the_agent_says_unless_something_is_said() {
        let of = |bytes, inodes, default| {
            let mut storage = Storage { bytes, inodes, beyond_default: false };
            storage.or_default(default);
            let once = storage;
            storage.or_default(default);
            assert_eq!(storage, once, "again is the same");
            (storage.bytes, storage.beyond_default)
        };
        assert_eq!((of(None, None, None), of(Some(0), None, None)), ((None, false), (None, false)));
        assert_eq!(of(Some(9 << 20), Some(1 << 30), None), (Some(9 << 20), false));
        let default = Some(8 << 20);
        assert_eq!(of(None, None, default), (default, false));
        assert_eq!(of(default, None, default), (default, false));
        assert_eq!(of(Some(0), None, default), (None, true));
        assert_eq!(of(Some(9 << 20), None, default), (Some(9 << 20), true));
        assert_eq!((of(None, Some(2048), default), of(None, Some(2049), default)), ((default, false), (default, true)));
        // As many as the default has, and no more.
        let large = Some(10 << 30);
        assert_eq!((of(None, Some(655_360), large), of(None, Some(655_361), large)), ((large, false), (large, true)));
    }

    #[test]
    fn a_millisecond_is_the_least() {
        let few = |nanos, period| {
            Resources { nano_cpus: Some(nanos), cpu_period_us: period, ..Resources::default() }.too_few_cpus()
        };
        let why = few(1_000_000, None).expect("a tenth of that");
        assert!(why.contains("at least 0.01:") && why.contains("period of 100 ms"), "{why}");
        assert_eq!((few(10_000_000, None), few(1_000_000, Some(1_000_000))), (None, None));
        assert_eq!(Resources::default().too_few_cpus(), None);
    }
}
