//! What the runtime is told: its configuration, and what each plan, start and exec needs.

use crate::attach::Attachment;
use crate::launch::Prepared;
use crate::plan::Plan;
use crate::session::NewSession;
use crate::shim::Shim;
use berth_model::image::ImageConfig;
use berth_model::network::NetworkAttachment;
use berth_model::selinux::Labels;
use berth_model::spec::ExecSpec;
use berth_model::userns::IdRange;
use berth_model::{ContainerId, ContainerSpec};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default)]
pub struct RuntimeConfig {
    /// Who makes containers' cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Parent of all container cgroups that are made here: `berth` (relative to the hierarchy roots).
    pub cgroup_parent: String,
    /// The slice of containers whose cgroups systemd makes, and that name none. Empty: `system.slice`.
    pub cgroup_slice: String,
    /// Default limit of processes per container; None: no limit.
    pub default_pids: Option<i64>,
    /// /run/berth: covered for what other runtimes see.
    pub run_root: PathBuf,
    /// Other OCI runtimes, by name.
    pub runtimes: BTreeMap<String, OtherRuntime>,
    /// Which one containers get that ask for none. Empty: our own.
    pub default_runtime: String,
    /// Containers that say nothing of it have a Landlock domain.
    pub landlock: bool,
    /// Programs of containers that say nothing of it get no more rights than who executes them.
    pub no_new_privileges: bool,
    /// Containers have SELinux labels where the host has SELinux.
    pub selinux: bool,
}

/// Who makes containers' cgroups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CgroupDriver {
    /// The agent, in the file system.
    #[default]
    Cgroupfs,
    /// systemd, which is asked for a scope each (cgroup v2 alone).
    Systemd,
}

impl CgroupDriver {
    pub const fn name(self) -> &'static str {
        match self {
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
        }
    }
}

/// Is this the name of a slice of systemd's? Or why not.
pub fn check_slice(name: &str) -> Result<(), String> {
    berth_systemd::unit::slice_path(name).map(drop)
}

/// What our own runtime is called where it is named.
pub const OWN_RUNTIME: &str = "berth";

/// An OCI runtime of the host: a program with runc's commands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherRuntime {
    /// Absolute.
    pub path: PathBuf,
    /// Before everything that berth says.
    pub args: Vec<String>,
}

/// What a plan is made from, beside the host's abilities.
pub struct PlanInput<'a> {
    pub id: &'a ContainerId,
    pub name: &'a str,
    pub spec: &'a ContainerSpec,
    pub image: &'a ImageConfig,
    /// Contents of the image's /etc/passwd and /etc/group; None: not there.
    pub passwd: Option<&'a [u8]>,
    pub group: Option<&'a [u8]>,
    /// What it has on its networks.
    pub networks: &'a [NetworkAttachment],
    pub host_gateway: IpAddr,
    /// Whose network namespace it shares: it has that one's hostname, hosts and resolv.conf with it.
    pub shares: Option<Shared<'a>>,
    /// Lines for hosts with the others on its networks that have no DNS server. None: it is on no such network.
    pub peers: Option<String>,
    /// Folder for hosts, hostname, resolv.conf (made by spawn), on the host.
    pub state_dir: &'a Path,
    /// /run/berth/containers/ID, where another runtime has its bundle.
    pub run_dir: &'a Path,
    /// How the output is stored. None: it is not.
    pub log: Option<berth_model::wire::LogPlan<'static>>,
    /// Its ids in a user namespace of its own. None: the host's.
    pub ids: Option<IdRange>,
    /// Targets of the bind mounts whose files keep the host's owners, because their file system has no idmapped mounts.
    pub unmapped: &'a [String],
    /// As `hooks` of an OCI configuration, for another runtime; our own runs none.
    pub hooks: &'a serde_json::Map<String, serde_json::Value>,
    /// Of SELinux; those that mean something here ([`crate::Runtime::labels`]).
    pub labels: &'a Labels,
}

impl<'a> PlanInput<'a> {
    /// Who it is on the network.
    pub(crate) fn face(&self) -> Shared<'a> {
        self.shares.unwrap_or(Shared { id: self.id, spec: self.spec, networks: self.networks })
    }
}

/// A container as those see it who share its network namespace.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    pub id: &'a ContainerId,
    pub spec: &'a ContainerSpec,
    pub networks: &'a [NetworkAttachment],
}

/// What runs in the end: for inspect and for the plan.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub workdir: String,
    pub user: String,
    pub stop_signal: i32,
}

/// Folders of one container on the host.
#[derive(Clone, Debug)]
pub struct ContainerPaths {
    /// /run/berth/containers/ID: socket, exit file.
    pub run: PathBuf,
    /// /var/lib/berth/containers/ID/log
    pub log: PathBuf,
}

pub struct SpawnRequest {
    pub prepared: Prepared,
    pub plan: Plan,
    /// Detached mount of the root.
    pub rootfs: OwnedFd,
    /// Detached mounts of the spec's volumes and images, in its order.
    pub trees: Vec<OwnedFd>,
    /// The namespace to join, ready for use. None: the host's, as the plan must say too.
    pub netns: Option<OwnedFd>,
    /// The user namespace to be born in, with its ids. None: the host's, as the plan must say too.
    pub userns: Option<OwnedFd>,
    /// An attachment from the first byte on (run, interactive).
    pub attach: Option<AttachOptions>,
}

#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub size: Option<(u16, u16)>,
    /// It is to outlive the agent.
    pub session: Option<NewSession>,
}

pub struct Spawned {
    pub shim: Shim,
    pub attachment: Option<Attachment>,
    /// Limits that this host could not apply.
    pub warnings: Vec<String>,
}

pub struct ExecRequest<'a> {
    pub id: &'a ContainerId,
    /// Process 1 with its start time.
    pub process: (u32, u64),
    pub container: &'a ContainerSpec,
    pub image: &'a ImageConfig,
    pub spec: &'a ExecSpec,
    /// A health check: in a cgroup of its own below the container's, for [`Runtime::kill_probe`].
    pub probe: bool,
    pub passwd: Option<&'a [u8]>,
    pub group: Option<&'a [u8]>,
    /// Its streams are to outlive the agent.
    pub session: Option<NewSession>,
    /// As of [`PlanInput`].
    pub run_dir: &'a Path,
    /// As of [`PlanInput`].
    pub ids: Option<IdRange>,
    /// As of [`PlanInput`].
    pub labels: &'a Labels,
}
