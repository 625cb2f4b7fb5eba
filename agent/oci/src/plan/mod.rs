//! From config.json to what is done: every decision, and no act.

mod mounts;
mod process;
mod scope;
mod seccomp;
pub mod selinux;

pub use mounts::{MountKind, MountPlan, option_names as mount_options};
pub use process::{ProcessPlan, SeccompPlan, process};
pub use scope::Scope;

use crate::config::{Config, Device, Hooks, IdMapping, Linux};
use crate::error::Error;
use berth_runtime::sysctl::{self, Owner};
use std::path::{Path, PathBuf};

// Flags of clone(2).
pub const NEWTIME: u64 = 0x80;
pub const NEWNS: u64 = 0x2_0000;
pub const NEWCGROUP: u64 = 0x200_0000;
pub const NEWUTS: u64 = 0x400_0000;
pub const NEWIPC: u64 = 0x800_0000;
pub const NEWUSER: u64 = 0x1000_0000;
pub const NEWPID: u64 = 0x2000_0000;
pub const NEWNET: u64 = 0x4000_0000;

/// Names of config.json, and of /proc/PID/ns.
pub const NAMESPACES: [(&str, &str, u64); 8] = [
    ("user", "user", NEWUSER),
    ("mount", "mnt", NEWNS),
    ("pid", "pid", NEWPID),
    ("network", "net", NEWNET),
    ("ipc", "ipc", NEWIPC),
    ("uts", "uts", NEWUTS),
    ("cgroup", "cgroup", NEWCGROUP),
    ("time", "time", NEWTIME),
];

/// MS_REC of mount(2).
pub const REC: u32 = 0x4000;

/// What a container is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Namespaces to make, flags of clone(2).
    pub new: u64,
    /// Namespaces to join, the user namespace first.
    pub join: Vec<(u64, PathBuf)>,
    pub uid_map: Vec<IdMapping>,
    pub gid_map: Vec<IdMapping>,
    /// Clock (`monotonic`, `boottime`), seconds, nanoseconds.
    pub time_offsets: Vec<(String, i64, u32)>,
    pub rootfs: PathBuf,
    pub read_only_root: bool,
    /// MS_* propagation with [`REC`].
    pub root_propagation: u32,
    pub mounts: Vec<MountPlan>,
    /// /dev is the runtime's to fill: nothing of the host's is mounted there.
    pub fill_dev: bool,
    pub devices: Vec<DevicePlan>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Path below /proc/sys, value.
    pub sysctls: Vec<(String, String)>,
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
    pub personality: Option<u32>,
    /// Of SELinux, for what the runtime mounts. Empty: none.
    pub mount_label: String,
    pub process: ProcessPlan,
    pub hooks: Hooks,
    /// Below the roots of the hierarchies, without a slash in front.
    pub cgroup: PathBuf,
    /// systemd makes the group.
    pub scope: Option<Scope>,
    /// User of the host that the group is delegated to, on cgroup v2.
    pub cgroup_owner: Option<u32>,
}

impl Plan {
    pub fn has_user_namespace(&self) -> bool {
        self.new & NEWUSER != 0 || self.join.iter().any(|(kind, _)| *kind == NEWUSER)
    }

    /// A new pid namespace in a user namespace that is joined: it is its child's who joins that, so the first process is born behind it.
    pub fn is_born_twice(&self) -> bool {
        self.new & NEWPID != 0 && self.join.iter().any(|(kind, _)| *kind == NEWUSER)
    }

    /// Made or joined.
    pub fn own(&self, kind: u64) -> bool {
        self.new & kind != 0 || self.join.iter().any(|(k, _)| *k == kind)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DevicePlan {
    /// By linux.devices: what else is at its path is an error. A default one leaves what the bundle or the image has put there.
    pub asked: bool,
    pub path: String,
    /// `c`, `b` or `p`.
    pub kind: char,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What the specification wants in every /dev (config-linux.md, "Default Devices").
pub const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// What was asked for and cannot be had in full goes to `warnings`.
/// `systemd`: it is systemd that makes the group.
pub fn plan(
    config: &Config,
    bundle: &Path,
    id: &str,
    systemd: bool,
    warnings: &mut Vec<String>,
) -> Result<Plan, Error> {
    version(&config.oci_version)?;
    if config.annotations.contains_key("") {
        return Err(Error::field("annotations", "has an empty key"));
    }
    let linux = &config.linux;
    unsupported(linux)?;
    let root = config.root.as_ref().ok_or_else(|| Error::field("root", "is missing"))?;
    if root.path.is_empty() {
        return Err(Error::field("root.path", "is empty"));
    }
    let rootfs = bundle.join(&root.path);
    let given = config.process.as_ref().ok_or_else(|| Error::field("process", "is missing"))?;
    let (new, join) = namespaces(linux)?;
    let scope = if systemd { Some(Scope::plan(linux.cgroups_path.as_deref(), id)?) } else { None };
    let mut plan = Plan {
        new,
        join,
        uid_map: linux.uid_mappings.clone(),
        gid_map: linux.gid_mappings.clone(),
        time_offsets: linux.time_offsets.iter().map(|(clock, o)| (clock.clone(), o.secs, o.nanosecs)).collect(),
        rootfs,
        read_only_root: root.readonly,
        root_propagation: mounts::root_propagation(linux.rootfs_propagation.as_deref())?,
        mounts: mounts::mounts(config, bundle)?,
        fill_dev: false,
        devices: Vec::new(),
        hostname: config.hostname.clone().filter(|h| !h.is_empty()),
        domainname: config.domainname.clone().filter(|d| !d.is_empty()),
        sysctls: Vec::new(),
        masked: absolute("linux.maskedPaths", &linux.masked_paths)?,
        read_only: absolute("linux.readonlyPaths", &linux.readonly_paths)?,
        personality: personality(linux)?,
        process: process(given, linux.seccomp.as_ref(), warnings)?,
        hooks: config.hooks.clone(),
        cgroup: match &scope {
            Some(scope) => scope.path(),
            None => cgroup(linux.cgroups_path.as_deref(), id)?,
        },
        scope,
        cgroup_owner: None,
        mount_label: selinux::label("linux.mountLabel", linux.mount_label.as_deref())?,
    };
    plan.cgroup_owner = cgroup_owner(&plan);
    let in_user_namespace = plan.has_user_namespace();
    selinux::mounts(&mut plan.mounts, &plan.mount_label, in_user_namespace);
    plan.fill_dev = !plan.mounts.iter().any(|m| same(&m.target, "/dev") && matches!(m.kind, MountKind::Bind { .. }));
    plan.devices = devices(&linux.devices)?;
    owned(&plan)?;
    plan.sysctls = sysctls(linux, &plan)?;
    hooks(&plan.hooks)?;
    Ok(plan)
}

/// "SemVer v2.0.0 format" (config.md, "Specification version"): what later versions of the first one add is ignored or refused by itself.
fn version(text: &str) -> Result<(), Error> {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<_> = core.split('.').map(str::parse::<u32>).collect();
    match &numbers[..] {
        [Ok(1), Ok(_), Ok(_)] => Ok(()),
        [Ok(_), Ok(_), Ok(_)] => {
            Err(Error::field("ociVersion", format!("{text} is not supported: 1.0.0 to 1.2.x are")))
        }
        _ => Err(Error::field("ociVersion", format!("{text:?} is no version such as 1.0.2"))),
    }
}

fn unsupported(linux: &Linux) -> Result<(), Error> {
    let no = |field: &str| Err(Error::field(field, "is not supported by berth-runtime"));
    if linux.intel_rdt.is_some() {
        return no("linux.intelRdt");
    }
    if linux.memory_policy.is_some() {
        return no("linux.memoryPolicy");
    }
    if !linux.net_devices.is_empty() {
        return no("linux.netDevices");
    }
    Ok(())
}

fn namespaces(linux: &Linux) -> Result<(u64, Vec<(u64, PathBuf)>), Error> {
    let (mut new, mut join, mut seen) = (0, Vec::new(), 0);
    for namespace in &linux.namespaces {
        let field = || format!("linux.namespaces[{}]", namespace.kind);
        let Some((_, _, flag)) = NAMESPACES.iter().find(|(name, ..)| *name == namespace.kind) else {
            return Err(Error::field("linux.namespaces", format!("unknown type {:?}", namespace.kind)));
        };
        if seen & flag != 0 {
            return Err(Error::field(field(), "is named twice"));
        }
        seen |= flag;
        match namespace.path.as_deref().filter(|p| !p.is_empty()) {
            None => new |= flag,
            Some(path) if path.starts_with('/') => join.push((*flag, PathBuf::from(path))),
            Some(path) => return Err(Error::field(field(), format!("{path:?} is no absolute path"))),
        }
    }
    if new & NEWNS == 0 {
        let message = "berth-runtime makes containers in a new mount namespace only";
        return Err(Error::field("linux.namespaces[mount]", message));
    }
    join.sort_by_key(|(flag, _)| *flag != NEWUSER);
    let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if new & NEWUSER != 0 && (linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty()) {
        return Err(Error::field("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings"));
    }
    if mapped && seen & NEWUSER == 0 {
        return Err(Error::field("linux.uidMappings", "there is no user namespace in linux.namespaces"));
    }
    if !linux.time_offsets.is_empty() && new & NEWTIME == 0 {
        return Err(Error::field("linux.timeOffsets", "there is no new time namespace in linux.namespaces"));
    }
    if let Some(clock) = linux.time_offsets.keys().find(|c| !["monotonic", "boottime"].contains(&c.as_str())) {
        return Err(Error::field("linux.timeOffsets", format!("{clock:?} is neither monotonic nor boottime")));
    }
    Ok((new, join))
}

/// Names belong to a UTS namespace: the host's stays as it is.
fn owned(plan: &Plan) -> Result<(), Error> {
    for (field, value) in [("hostname", &plan.hostname), ("domainname", &plan.domainname)] {
        if value.is_some() && !plan.own(NEWUTS) {
            return Err(Error::field(field, "cannot be set without a UTS namespace in linux.namespaces"));
        }
    }
    Ok(())
}

/// Only what belongs to a namespace of the container's own: everything else would change the host.
fn sysctls(linux: &Linux, plan: &Plan) -> Result<Vec<(String, String)>, Error> {
    let mut all = Vec::new();
    for (key, value) in &linux.sysctl {
        let say = |message: &str| Err(Error::field("linux.sysctl", format!("{key}: {message}")));
        // sysctl(8): with a slash first the dots are part of the names.
        let slashes = key.find('/').is_some_and(|at| key.find('.').is_none_or(|dot| at < dot));
        let path = if slashes { key.clone() } else { key.replace('.', "\0").replace('/', ".").replace('\0', "/") };
        let dotted = path.replace('/', ".");
        if path.is_empty() || path.split('/').any(|p| p.is_empty() || p == ".." || p == ".") {
            return say("is no name of a sysctl");
        }
        let (kind, word) = match sysctl::owner(&dotted) {
            Some(Owner::Network) => (NEWNET, "network"),
            Some(Owner::Ipc) => (NEWIPC, "IPC"),
            Some(Owner::Uts) => (NEWUTS, "UTS"),
            Some(Owner::User) => (NEWUSER, "user"),
            None => return say("is not of a namespace: it would change the host"),
        };
        if !plan.own(kind) {
            return say(&format!("needs a {word} namespace of the container's own"));
        }
        all.push((path, value.clone()));
    }
    Ok(all)
}

fn devices(given: &[Device]) -> Result<Vec<DevicePlan>, Error> {
    let mut all: Vec<DevicePlan> = DEFAULT_DEVICES
        .iter()
        .map(|(path, major, minor)| DevicePlan {
            asked: false,
            path: (*path).into(),
            kind: 'c',
            major: *major,
            minor: *minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    for (i, device) in given.iter().enumerate() {
        let field = |name: &str| format!("linux.devices[{i}].{name}");
        let kind = match device.kind.as_str() {
            "c" | "u" => 'c',
            "b" => 'b',
            "p" => 'p',
            other => return Err(Error::field(field("type"), format!("{other:?} is none of c, b, u and p"))),
        };
        if !device.path.starts_with('/') || device.path.split('/').any(|p| p == "..") {
            return Err(Error::field(field("path"), format!("{:?} is no absolute path", device.path)));
        }
        let number = |name: &str, n: i64| {
            u32::try_from(n).map_err(|_| Error::field(field(name), format!("{n} is no device number")))
        };
        let planned = DevicePlan {
            asked: true,
            path: device.path.clone(),
            kind,
            major: number("major", device.major)?,
            minor: number("minor", device.minor)?,
            mode: device.file_mode.unwrap_or(0o666) & 0o7777,
            uid: device.uid,
            gid: device.gid,
        };
        // What is asked for takes the place of a default one.
        all.retain(|d| !same(&d.path, &planned.path));
        all.push(planned);
    }
    Ok(all)
}

fn personality(linux: &Linux) -> Result<Option<u32>, Error> {
    let Some(wanted) = &linux.personality else { return Ok(None) };
    if !wanted.flags.is_empty() {
        return Err(Error::field("linux.personality.flags", "must be empty: none is defined"));
    }
    match wanted.domain.as_str() {
        "LINUX" => Ok(Some(0)),
        "LINUX32" => Ok(Some(8)),
        other => Err(Error::field("linux.personality.domain", format!("{other:?} is neither LINUX nor LINUX32"))),
    }
}

fn cgroup(path: Option<&str>, id: &str) -> Result<PathBuf, Error> {
    let Some(path) = path.filter(|p| !p.is_empty()) else { return Ok(Path::new("berth-runtime").join(id)) };
    let bad = |message: String| Err(Error::field("linux.cgroupsPath", message));
    if path.matches(':').count() == 2 && !path.starts_with('/') {
        return bad(format!("{path:?} is systemd's form, which needs --systemd-cgroup"));
    }
    if path.split('/').any(|p| p == "..") {
        return bad(format!("{path:?} leads above its hierarchy"));
    }
    let inner = path.trim_matches('/');
    if inner.split('/').all(|p| p.is_empty() || p == ".") {
        return bad(format!("{path:?} is the hierarchy's root"));
    }
    // A relative path is below a place of the runtime's choice.
    Ok(if path.starts_with('/') { inner.into() } else { Path::new("berth-runtime").join(inner) })
}

/// config-linux.md, "Cgroup ownership": whoever gets a cgroup namespace of its own with a tree that can be written is to make groups there.
fn cgroup_owner(plan: &Plan) -> Option<u32> {
    let tree = |m: &&MountPlan| m.kind == MountKind::Cgroup && same(&m.target, "/sys/fs/cgroup");
    // The last one covers the others.
    let writable = plan.mounts.iter().rfind(tree).is_some_and(|m| (m.set | m.set_all) & RDONLY == 0);
    if plan.new & NEWCGROUP == 0 || !writable {
        return None;
    }
    let uid = plan.process.uid;
    if plan.new & NEWUSER == 0 {
        // The ids of a namespace that is joined are not said.
        return (!plan.has_user_namespace()).then_some(uid);
    }
    let inside = |m: &&IdMapping| uid.checked_sub(m.container_id).is_some_and(|n| n < m.size);
    plan.uid_map.iter().find(inside).map(|m| m.host_id + (uid - m.container_id))
}

/// MOUNT_ATTR_RDONLY of mount_setattr(2).
const RDONLY: u64 = 1;

fn hooks(hooks: &Hooks) -> Result<(), Error> {
    let all = [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ];
    for (kind, list) in all {
        for (i, hook) in list.iter().enumerate() {
            if !hook.path.starts_with('/') {
                return Err(Error::field(format!("hooks.{kind}[{i}].path"), "must be an absolute path"));
            }
            if hook.timeout.is_some_and(|t| t <= 0) {
                return Err(Error::field(format!("hooks.{kind}[{i}].timeout"), "must be above 0"));
            }
        }
    }
    Ok(())
}

fn absolute(field: &str, paths: &[String]) -> Result<Vec<String>, Error> {
    match paths.iter().find(|p| !p.starts_with('/')) {
        Some(bad) => Err(Error::field(field, format!("{bad:?} is no absolute path"))),
        None => Ok(paths.to_vec()),
    }
}

/// Two names of one path inside the container.
pub fn same(a: &str, b: &str) -> bool {
    let parts = |p: &str| p.split('/').filter(|s| !s.is_empty() && *s != ".").map(str::to_owned).collect::<Vec<_>>();
    parts(a) == parts(b)
}

#[cfg(test)]
mod tests;
