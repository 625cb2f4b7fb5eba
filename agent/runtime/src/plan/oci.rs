//! The same decisions as an OCI bundle's configuration (runtime-spec 1.2), for containers of another runtime.
//!
//! What the caller asked to mount is opened and prepared by the shim as for our own runtime, then attached below a folder that only the
//! other runtime sees; it binds it from there. So rights, id maps and sources are decided once, in one way.

use super::{GivenDevice, NEWCGROUP, NEWIPC, NEWNET, NEWPID, NEWUTS, mounts, userns};
use crate::cgroup::DeviceRule;
use crate::host::Host;
use crate::user::User;
use crate::{Effective, OtherRuntime, PlanInput};
use berth_model::ContainerSpec;
use berth_model::network::NetworkMode;
use berth_model::spec::Propagation;
use berth_model::userns::IdRange;
use berth_model::wire::Step;
use berth_model::wire::plan::Node;
use berth_sys::{cap, process, wall};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where things are for a runtime that sees the host as [`Step::HostView`] leaves it.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The agent's folder, covered by an empty one.
    pub run_root: PathBuf,
    /// The container's bundle, the host's own folder at its own place.
    pub bundle: PathBuf,
    /// Mounts that would lead the runtime astray.
    pub without: Vec<PathBuf>,
}

impl Places {
    pub fn root(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    pub fn namespace(&self, kind: &str) -> PathBuf {
        self.run_root.join("namespaces").join(kind)
    }

    fn mount(&self, n: usize) -> PathBuf {
        self.run_root.join("mounts").join(n.to_string())
    }
}

/// What only another runtime's plan has.
pub(crate) struct Other {
    pub name: String,
    pub runtime: OtherRuntime,
    pub places: Places,
    pub cgroups_path: String,
    /// As `linux.seccomp`; None: unconfined.
    pub seccomp: Option<Value>,
    /// As `linux.resources.memory`. The group has its limits already: these are for a runtime that would take them off.
    pub memory: Vec<(&'static str, i64)>,
    /// None: every device.
    pub device_rules: Option<Vec<DeviceRule>>,
}

/// What was decided for both kinds of plan.
pub(super) struct Decided<'a> {
    pub hostname: &'a str,
    pub effective: &'a Effective,
    pub user: &'a User,
    pub namespaces: u64,
    pub capabilities: u64,
    pub rlimits: &'a [Step<'static>],
    pub open: Vec<Step<'static>>,
    pub attach: Vec<Step<'static>>,
    pub devices: &'a [GivenDevice],
    /// Of AppArmor.
    pub profile: Option<&'a str>,
    pub sysctls: &'a BTreeMap<String, String>,
}

/// A bundle's configuration, and the steps that make it true.
pub(crate) struct Bundle {
    pub name: String,
    pub runtime: OtherRuntime,
    pub config: Value,
    pub places: Places,
    /// The host's number of a group that may read the configuration: that of hooks in a user namespace.
    pub readers: Option<u32>,
    /// On the host's side: trees that are opened.
    pub open: Vec<Step<'static>>,
    /// In the covered folder.
    pub attach: Vec<Step<'static>>,
    /// Binds of what is the caller's.
    pub binds: Vec<Bind>,
}

/// A bind whose options have to say how its source is mounted: crun remounts what it binds with what they say, and no more.
pub(crate) struct Bind {
    /// Place in the configuration's `mounts`.
    pub mount: usize,
    pub source: Source,
}

pub(crate) enum Source {
    /// A path of the host.
    Path(PathBuf),
    /// One of the trees that are handed over.
    Given(u8),
}

/// Programs of the host's, with the environment that their file gives them and none of the container's (CVE-2025-23266).
fn hooks(input: &PlanInput<'_>, container: &[String]) -> Value {
    let mut hooks = Value::from(input.hooks.clone());
    if wall::is_down("hooks") {
        let each =
            hooks.as_object_mut().into_iter().flat_map(Map::values_mut).filter_map(Value::as_array_mut).flatten();
        each.for_each(|hook| hook["env"] = json!(container));
    }
    hooks
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub(super) fn bundle(input: &PlanInput<'_>, host: &Host, other: &Other, decided: Decided<'_>) -> Bundle {
    let Decided {
        hostname,
        effective,
        user,
        namespaces,
        capabilities,
        rlimits,
        mut open,
        attach,
        devices,
        profile,
        sysctls,
    } = decided;
    let spec = input.spec;
    let mut kernel = KernelTrees::new(spec, input);
    open.append(&mut kernel.open);
    // runc tries that in the user namespace, where it may not.
    open.extend(input.ids.map(userns::own_streams));
    let mut mounts = base_mounts(input, host, &kernel, &other.places);
    let mut steps = kernel.attach(&other.places);
    // Who is root in a user namespace makes no devices, and runtimes differ in what they do about it.
    let devices = match input.ids {
        None => devices,
        Some(ids) => {
            open.extend(device_tree(ids, devices));
            steps.extend(attach_devices(&other.places, devices));
            mounts.extend(devices.iter().enumerate().map(|(n, d)| bind_device(&other.places, n, d)));
            &[]
        }
    };
    let (mut propagation, mut binds) = (None, Vec::new());
    for (n, step) in attach.into_iter().enumerate() {
        let place = other.places.mount(n);
        let options = match &step {
            Step::AttachTree { slot, .. } => options_of(*slot, &open, &mut propagation),
            _ => vec!["rbind".into(), "rprivate".into()],
        };
        let bind = |target: &[u8]| json!({ "destination": String::from_utf8_lossy(target), "type": "bind", "source": text(&place), "options": options });
        match step {
            Step::AttachTree { slot, target } => {
                let source =
                    source_of(slot, &open).map(|path| Bind { mount: mounts.len(), source: Source::Path(path) });
                binds.extend(source);
                mounts.push(bind(&target));
                steps.push(Step::AttachTree { slot, target: super::bytes(text(&place)) });
            }
            Step::AttachGiven { fd, target } => {
                binds.push(Bind { mount: mounts.len(), source: Source::Given(fd) });
                mounts.push(bind(&target));
                steps.push(Step::AttachGiven { fd, target: super::bytes(text(&place)) });
            }
            Step::Tmpfs { target, flags, data } => mounts.push(tmpfs(&target, flags, &data)),
            _ => {}
        }
    }
    let process = process(&Process {
        args: &effective.args,
        env: &effective.env,
        cwd: &effective.workdir,
        user,
        tty: spec.tty,
        capabilities,
        rlimits,
        no_new_privileges: spec.no_new_privileges,
        oom_score_adj: oom_score_adj(spec, host),
        profile,
        label: &input.labels.process,
    });
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": { "path": text(&other.places.root()), "readonly": spec.read_only_root },
        "process": process,
        "mounts": mounts,
        "linux": linux(input, host, other, namespaces, devices, propagation),
    });
    config["linux"]["sysctl"] = json!(sysctls);
    if !input.hooks.is_empty() {
        config["hooks"] = hooks(input, &effective.env);
    }
    if !spec.host_uts {
        config["hostname"] = hostname.into();
    }
    if let Some(domain) = spec.domainname.as_ref().filter(|d| !d.is_empty() && !spec.host_uts) {
        config["domainname"] = domain.as_str().into();
    }
    let (name, runtime) = (other.name.clone(), other.runtime.clone());
    let readers = input.ids.map(|ids| ids.base).filter(|_| !input.hooks.is_empty());
    let open = super::selinux::mounts(open, input.labels);
    Bundle { name, runtime, config, places: other.places.clone(), readers, open, attach: steps, binds }
}

/// Everything of a process that both a container and an exec say.
pub(crate) struct Process<'a> {
    pub args: &'a [String],
    pub env: &'a [String],
    pub cwd: &'a str,
    pub user: &'a User,
    pub tty: bool,
    pub capabilities: u64,
    pub rlimits: &'a [Step<'static>],
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    /// Of AppArmor.
    pub profile: Option<&'a str>,
    /// Of SELinux. Empty: none.
    pub label: &'a str,
}

/// `process` of a configuration, and the file of an exec.
pub(crate) fn process(p: &Process<'_>) -> Value {
    let names: Vec<String> = cap::NAMES
        .iter()
        .enumerate()
        .filter(|(i, _)| p.capabilities >> i & 1 == 1)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    let limits: Vec<Value> = p
        .rlimits
        .iter()
        .filter_map(|step| {
            let Step::Rlimit { resource, soft, hard } = step else { return None };
            let (name, _) = process::RESOURCES.iter().find(|(_, n)| n == resource)?;
            Some(json!({ "type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": soft, "hard": hard }))
        })
        .collect();
    let mut process = json!({
        "terminal": p.tty,
        "user": { "uid": p.user.uid, "gid": p.user.gid, "additionalGids": p.user.groups },
        "args": p.args,
        "env": p.env,
        "cwd": p.cwd,
        "capabilities": { "bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": [] },
        "rlimits": limits,
        "noNewPrivileges": p.no_new_privileges,
    });
    if let Some(score) = p.oom_score_adj {
        process["oomScoreAdj"] = score.into();
    }
    if let Some(profile) = p.profile {
        process["apparmorProfile"] = profile.into();
    }
    if !p.label.is_empty() {
        process["selinuxLabel"] = p.label.into();
    }
    process
}

/// None: what it inherits stays, as it cannot be lowered.
pub(crate) fn oom_score_adj(spec: &ContainerSpec, host: &Host) -> Option<i32> {
    let wanted = spec.oom_score_adj.unwrap_or(0);
    (wanted >= host.oom_score_adj || host.can_raise_limits()).then_some(wanted)
}

/// Mounts that only the host may make for a user namespace, as of [`userns::outside`].
struct KernelTrees {
    open: Vec<Step<'static>>,
    /// Slot and its name below the covered folder.
    places: Vec<(u8, &'static str)>,
}

impl KernelTrees {
    fn new(spec: &ContainerSpec, input: &PlanInput<'_>) -> Self {
        let (mut open, mut places) = (Vec::new(), Vec::new());
        if input.ids.is_some() {
            let network_of_its_own = matches!(spec.network, NetworkMode::Bridge | NetworkMode::None);
            if !network_of_its_own {
                open.push(Step::KernelTree { slot: userns::SYS, fs_type: super::bytes("sysfs"), read_only: true });
                places.push((userns::SYS, "sys"));
            }
            if spec.host_pid {
                open.push(mounts::hosts_proc(userns::PROC));
                places.push((userns::PROC, "proc"));
            } else {
                // The kernel gives a new /proc only to who sees a whole one, and the host's may be covered in parts.
                open.push(Step::KernelTree { slot: userns::PROC, fs_type: super::bytes("proc"), read_only: false });
                places.push((userns::PROC, "whole-proc"));
            }
            if spec.host_ipc {
                open.push(Step::KernelTree { slot: userns::MQUEUE, fs_type: super::bytes("mqueue"), read_only: false });
                places.push((userns::MQUEUE, "mqueue"));
            }
        }
        KernelTrees { open, places }
    }

    fn attach(&self, places: &Places) -> Vec<Step<'static>> {
        let at = |name: &str| super::bytes(text(&places.run_root.join(name)));
        self.places.iter().map(|(slot, name)| Step::AttachTree { slot: *slot, target: at(name) }).collect()
    }

    /// A bind of one of them, or `other`.
    fn or(&self, name: &str, destination: &str, places: &Places, other: Value) -> Value {
        if self.places.iter().any(|(_, n)| *n == name) {
            let source = text(&places.run_root.join(name));
            return json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate"] });
        }
        other
    }
}

fn base_mounts(input: &PlanInput<'_>, host: &Host, kernel: &KernelTrees, places: &Places) -> Vec<Value> {
    let spec = input.spec;
    let mount = |kind: &str, destination: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let common = ["nosuid", "noexec", "nodev"];
    let kernels = |more: &[&'static str]| [&common[..], more, if spec.privileged { &["rw"] } else { &["ro"] }].concat();
    let mut mounts = vec![
        kernel.or("proc", "/proc", places, mount("proc", "/proc", &common)),
        kernel.or("sys", "/sys", places, mount("sysfs", "/sys", &kernels(&[]))),
    ];
    if host.cgroup_v2 || !host.cgroup_mounts.is_empty() {
        mounts.push(mount("cgroup", "/sys/fs/cgroup", &kernels(&["relatime"])));
    }
    mounts.push(mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]));
    let pts = [&["nosuid", "noexec"][..], &mounts::terminals(input.ids)].concat();
    mounts.push(mount("devpts", "/dev/pts", &pts));
    let shared = mounts::shared_ipc(spec, host);
    if !mounts::mounted(spec, "/dev/mqueue") && !shared.contains(&"/dev/mqueue") {
        mounts.push(kernel.or("mqueue", "/dev/mqueue", places, mount("mqueue", "/dev/mqueue", &common)));
    }
    if !mounts::mounted(spec, "/dev/shm") && !shared.contains(&"/dev/shm") {
        let size = format!("size={}", spec.shm_bytes.unwrap_or(64 << 20));
        mounts.push(mount("tmpfs", "/dev/shm", &[&common[..], &["mode=1777", &size]].concat()));
    }
    mounts
}

fn source_of(slot: u8, open: &[Step<'_>]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    open.iter().find_map(|step| match step {
        Step::OpenTree { slot: s, source, .. } if *s == slot => {
            Some(PathBuf::from(std::ffi::OsStr::from_bytes(source)))
        }
        _ => None,
    })
}

/// Of a bind of what was opened into `slot`: what travels between it and the host, too.
fn options_of(slot: u8, open: &[Step<'_>], of_root: &mut Option<&'static str>) -> Vec<String> {
    let found = open.iter().find_map(|step| match step {
        Step::OpenTree { slot: s, propagation, read_only, nosuid_nodev, .. } if *s == slot => {
            Some((*propagation, *read_only, *nosuid_nodev))
        }
        _ => None,
    });
    let (bits, read_only, nosuid_nodev) = found.unwrap_or_default();
    let (word, root) = match mounts::propagation_of(bits) {
        Propagation::Private => ("private", None),
        Propagation::Rprivate => ("rprivate", None),
        Propagation::Slave => ("slave", Some("rslave")),
        Propagation::Rslave => ("rslave", Some("rslave")),
        Propagation::Shared => ("shared", Some("shared")),
        Propagation::Rshared => ("rshared", Some("shared")),
    };
    // The root has to let through what the mount is to.
    if root == Some("shared") || of_root.is_none() {
        *of_root = root.or(*of_root);
    }
    let mut options = vec!["rbind".to_owned(), word.to_owned()];
    let words = [(read_only, "ro"), (nosuid_nodev, "nosuid"), (nosuid_nodev, "nodev")];
    options.extend(words.into_iter().filter(|(on, _)| *on).map(|(_, word)| word.to_owned()));
    options
}

fn tmpfs(target: &[u8], flags: u64, data: &[u8]) -> Value {
    let mut options: Vec<String> = mounts::flag_words(flags).into_iter().map(str::to_owned).collect();
    options.extend(String::from_utf8_lossy(data).split(',').map(str::to_owned));
    json!({ "destination": String::from_utf8_lossy(target), "type": "tmpfs", "source": "tmpfs", "options": options })
}

/// With a user namespace of its own it has no rights in another container's network: its processes stay in the one where their runtime is, which is
/// led there before.
pub(crate) fn inherits_network(spec: &ContainerSpec, ids: Option<IdRange>) -> bool {
    ids.is_some() && matches!(spec.network, NetworkMode::Container(_))
}

fn linux(
    input: &PlanInput<'_>,
    host: &Host,
    other: &Other,
    namespaces: u64,
    devices: &[GivenDevice],
    propagation: Option<&str>,
) -> Value {
    let spec = input.spec;
    let mut list = vec![json!({ "type": "mount" })];
    for (flag, kind) in [(NEWPID, "pid"), (NEWIPC, "ipc"), (NEWUTS, "uts"), (NEWCGROUP, "cgroup")] {
        if namespaces & flag != 0 {
            list.push(json!({ "type": kind }));
        }
    }
    if namespaces & NEWNET != 0 && !inherits_network(spec, input.ids) {
        list.push(json!({ "type": "network", "path": text(&other.places.namespace("net")) }));
    }
    let mut linux = Map::new();
    if let Some(ids) = input.ids {
        list.push(json!({ "type": "user", "path": text(&other.places.namespace("user")) }));
        let extents = |all: [(u32, u32, u32); 3]| -> Vec<Value> {
            let there = all.into_iter().filter(|(_, _, n)| *n > 0);
            there.map(|(inside, host, n)| json!({ "containerID": inside, "hostID": host, "size": n })).collect()
        };
        linux.insert("uidMappings".into(), extents(ids.users()).into());
        linux.insert("gidMappings".into(), extents(ids.groups()).into());
    }
    linux.insert("namespaces".into(), list.into());
    linux.insert("cgroupsPath".into(), other.cgroups_path.as_str().into());
    let mut resources = json!({ "devices": device_rules(other.device_rules.as_deref()) });
    if !other.memory.is_empty() {
        resources["memory"] = other.memory.iter().map(|(key, bytes)| ((*key).to_owned(), json!(bytes))).collect();
    }
    linux.insert("resources".into(), resources);
    linux.insert("devices".into(), devices.iter().map(device).collect());
    if !input.labels.mount.is_empty() {
        linux.insert("mountLabel".into(), input.labels.mount.as_str().into());
    }
    if !spec.privileged {
        let lossy = |b: &[u8]| Value::from(String::from_utf8_lossy(b).into_owned());
        linux.insert("maskedPaths".into(), mounts::masked(host, None).iter().map(|b| lossy(b)).collect());
        linux.insert("readonlyPaths".into(), json!(mounts::READ_ONLY));
    }
    if let Some(seccomp) = &other.seccomp {
        linux.insert("seccomp".into(), seccomp.clone());
    }
    if let Some(propagation) = propagation {
        linux.insert("rootfsPropagation".into(), propagation.into());
    }
    linux.into()
}

/// The same that the agent has written to the group: a runtime that gets none allows what it thinks right.
fn device_rules(rules: Option<&[DeviceRule]>) -> Vec<Value> {
    let Some(rules) = rules else { return vec![json!({ "allow": true, "access": "rwm" })] };
    let rule = |r: &DeviceRule| {
        let letters = [(r.read, 'r'), (r.write, 'w'), (r.mknod, 'm')];
        let access: String = letters.into_iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
        let mut rule = json!({ "allow": true, "type": if r.block { "b" } else { "c" }, "access": access });
        for (key, number) in [("major", r.major), ("minor", r.minor)] {
            if let Some(number) = number {
                rule[key] = number.into();
            }
        }
        rule
    };
    [json!({ "allow": false, "access": "rwm" })].into_iter().chain(rules.iter().map(rule)).collect()
}

/// All of them in one folder, made with the host's rights.
fn device_tree(ids: IdRange, devices: &[GivenDevice]) -> Option<Step<'static>> {
    let (uid, gid) = userns::root(ids);
    let node = |(n, d): (usize, &GivenDevice)| Node {
        path: super::bytes(n.to_string()),
        block: d.node.block,
        mode: d.node.mode,
        major: d.node.major,
        minor: d.node.minor,
        uid: ids.host_uid(d.node.uid).unwrap_or(uid),
        gid: ids.host_gid(d.node.gid).unwrap_or(gid),
    };
    let nodes: Vec<_> = devices.iter().enumerate().map(node).collect();
    let data = vec![(super::bytes("mode"), super::bytes("755")), (super::bytes("size"), super::bytes("64k"))];
    (!nodes.is_empty()).then_some(Step::DeviceTree { slot: userns::DEV, data, uid, gid, nodes, pick: false })
}

fn attach_devices(places: &Places, devices: &[GivenDevice]) -> Option<Step<'static>> {
    let target = super::bytes(text(&places.run_root.join("devices")));
    (!devices.is_empty()).then_some(Step::AttachTree { slot: userns::DEV, target })
}

fn bind_device(places: &Places, n: usize, d: &GivenDevice) -> Value {
    let source = text(&places.run_root.join("devices").join(n.to_string()));
    json!({ "destination": d.path, "type": "bind", "source": source, "options": ["rbind", "rprivate", "nosuid", "noexec"] })
}

fn device(d: &GivenDevice) -> Value {
    json!({
        "path": d.path,
        "type": if d.node.block { "b" } else { "c" },
        "major": d.node.major,
        "minor": d.node.minor,
        "fileMode": d.node.mode,
        "uid": d.node.uid,
        "gid": d.node.gid,
    })
}
