//! From a spec to a plan: every decision, and no act.

mod check;
mod command;
mod landlock;
mod mounts;
pub(crate) mod oci;
mod selinux;
mod userns;

pub(crate) use check::check;
pub(crate) use command::{effective, of_exec};
pub(crate) use mounts::flag_words;
pub use mounts::kernel_files;
pub(crate) use userns::{has as has_ids, own_streams};

use crate::cgroup::{DeviceRule, Limits, default_rules};
use crate::host::{Host, HostDevice};
use crate::{Effective, PlanInput, RuntimeError, user};
use berth_model::ContainerId;
use berth_model::network::{NetworkAttachment, NetworkMode, Protocol};
use berth_model::selinux::Labels;
use berth_model::spec::{ContainerSpec, ExecSpec};
use berth_model::userns::{IdRange, UsernsMode};
use berth_model::wire::{self, Step};
use berth_sys::{cap, process, wall};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

// Flags of clone(2).
pub(crate) const NEWNS: u64 = 0x2_0000;
pub(crate) const NEWCGROUP: u64 = 0x200_0000;
pub(crate) const NEWUTS: u64 = 0x400_0000;
pub(crate) const NEWIPC: u64 = 0x800_0000;
pub(crate) const NEWUSER: u64 = 0x1000_0000;
pub(crate) const NEWPID: u64 = 0x2000_0000;
pub(crate) const NEWNET: u64 = 0x4000_0000;

/// Docker's default capabilities (moby, oci/caps/defaults.go).
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A container's plan, ready but for the descriptors.
pub struct Plan {
    pub effective: Effective,
    /// What was asked for and cannot be given in full here.
    pub warnings: Vec<String>,
    pub(crate) wire: wire::Plan<'static>,
    /// Files that `spawn` makes before the start: path, content.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Of SELinux, for these files. Empty: none.
    pub(crate) label: String,
    /// Folders of the host that `-v` makes when they are missing.
    pub(crate) folders: Vec<PathBuf>,
    /// The user of the host, and its group, that the container's group is delegated to.
    pub(crate) delegate: Option<(u32, u32)>,
    /// The container is another runtime's; the wire's steps are none then.
    pub(crate) bundle: Option<oci::Bundle>,
}

pub(crate) fn bytes(text: impl Into<String>) -> wire::plan::Bytes<'static> {
    Cow::Owned(text.into().into_bytes())
}

/// What devices a container gets beside the default ones: host's node, its place inside, what may be done with it.
pub(crate) struct GivenDevice {
    pub node: HostDevice,
    pub path: String,
    pub permissions: String,
}

/// Everything that was read from the host for one plan.
pub(crate) struct Surroundings<'a> {
    pub host: &'a Host,
    pub devices: Vec<GivenDevice>,
    pub resolv_conf: String,
    /// The seccomp program for these capabilities; None: unconfined.
    pub seccomp: Option<std::sync::Arc<[u8]>>,
    /// The AppArmor profile; None: unconfined.
    pub profile: Option<String>,
    /// Another runtime is to make it.
    pub other: Option<oci::Other>,
}

pub(crate) fn plan(input: &PlanInput<'_>, around: &Surroundings<'_>) -> Result<Plan, RuntimeError> {
    let (spec, host) = (input.spec, around.host);
    if let Some((field, message)) = check(spec).into_iter().next() {
        return Err(RuntimeError::Spec { field, message });
    }
    let face = input.face();
    let hostname = match input.shares {
        Some(_) if !spec.host_uts => hostname(face.spec, host, face.id),
        _ => hostname(spec, host, input.id),
    };
    let mut effective = effective(spec, input.image)?;
    let user = user::resolve("user", &effective.user, &spec.groups, input.passwd, input.group)?;
    input.ids.map_or(Ok(()), |ids| userns::has(ids, &user))?;
    if input.ids.is_some() && userns::too_many(&around.devices) {
        return Err(RuntimeError::spec("devices", "at most 60 outside of /dev in a user namespace"));
    }
    let delegate = delegate(spec, host, input.ids)?;
    let settings = userns::sysctls(spec, input.ids)?;
    effective.env = command::env(spec, input.image, &hostname, &user.home);
    let mut warnings = Vec::new();
    let namespaces = namespaces(spec);
    let files = mounts::files(input, &hostname, &around.resolv_conf);
    let score = oom_score_adj(spec, host, &mut warnings);
    let rlimits = rlimits(spec, host, &mut warnings);
    let capabilities = capabilities(spec, host, &mut warnings);
    sctp(spec, berth_sys::inet::has_sctp, &mut warnings);
    warnings.extend(landlock::warning(spec, host));
    let mut wire = wire::Plan {
        namespaces,
        tty: spec.tty,
        stdin: spec.open_stdin,
        stdin_once: spec.stdin_once,
        log: input.log.clone(),
        ..wire::Plan::default()
    };
    let folders = mounts::folders_to_make(spec);
    let label = input.labels.mount.clone();
    // The host's files are opened while it is still there.
    let (open, attach) = mounts::user_mounts(input, &files, host)?;
    if let Some(other) = &around.other {
        let (hostname, effective_, user, rlimits) = (&*hostname, &effective, &user, &rlimits[..]);
        let devices = &around.devices;
        let decided = oci::Decided {
            hostname,
            effective: effective_,
            user,
            namespaces,
            capabilities,
            rlimits,
            open,
            attach,
            devices,
            profile: around.profile.as_deref(),
            sysctls: &settings,
        };
        let bundle = Some(oci::bundle(input, host, other, decided));
        return Ok(Plan { effective, warnings, wire, files, label, folders, delegate: None, bundle });
    }
    let mut steps = vec![Step::Umask { mask: 0 }];
    steps.extend(score);
    steps.extend(open);
    let mut outside = Vec::new();
    if let Some(ids) = input.ids {
        outside.append(&mut steps);
        outside.extend(userns::outside(spec, host, ids, &around.devices));
        steps = userns::inside(spec, &around.devices);
    } else {
        steps.push(Step::EnterRoot { fd: ROOT });
        steps.extend(mounts::process_and_device_trees(spec));
    }
    steps.extend(mounts::cgroups(spec, host));
    steps.extend(mounts::dev(spec, host, input.ids));
    if input.ids.is_none() {
        steps.extend(mounts::devices(&around.devices));
    }
    let (mut attach, late) = (attach, wall::is_down("order"));
    if spec.tty {
        steps.push(Step::Terminal { console: !late });
    }
    if late {
        steps.append(&mut attach);
        steps.extend(spec.tty.then(mounts::console_by_path).into_iter().flatten());
    }
    // What is the caller's or the image's comes behind everything that is done by a path in /proc, /sys and /dev: until here these hold
    // nothing but the kernel's own (CVE-2025-31133, CVE-2025-52881).
    steps.extend(sysctls(&settings));
    if !spec.privileged {
        steps.push(Step::ReadOnlyPaths { paths: mounts::READ_ONLY.map(bytes).to_vec() });
        steps.push(mask(mounts::masked(host, None)));
    }
    steps.extend(attach);
    if !spec.privileged {
        // Whoever puts the host's /sys there does not unmask it by that.
        let again = mounts::masked(host, Some(&spec.mounts));
        steps.extend((!again.is_empty()).then(|| mask(again)));
    }
    if !spec.host_uts {
        steps.push(Step::Hostname { name: bytes(hostname) });
        if let Some(domain) = spec.domainname.as_ref().filter(|d| !d.is_empty()) {
            steps.push(Step::Domainname { name: bytes(domain.clone()) });
        }
    }
    // Entering the root has led to `/` already.
    if effective.workdir != "/" {
        steps.push(Step::Workdir { path: bytes(effective.workdir.clone()), create: true });
    }
    if spec.read_only_root {
        steps.push(Step::ReadOnlyRoot);
    }
    steps.extend(rlimits);
    steps.extend([Step::OwnNull, Step::Umask { mask: 0o22 }]);
    // The init of `--init` executes nothing.
    steps.extend(profile(around.profile.clone(), spec.init));
    steps.extend(selinux::process(input.labels, spec.init));
    steps.extend(landlock::step(spec, host)?);
    let seccomp = around.seccomp.as_ref().map(|p| Cow::Owned(p.to_vec()));
    steps.extend(credentials(&user, capabilities, seccomp, spec.no_new_privileges));
    wire.init = spec.init;
    wire.args = effective.args.iter().cloned().map(bytes).collect();
    wire.env = effective.env.iter().cloned().map(bytes).collect();
    (wire.outside, wire.steps) = (selinux::mounts(outside, input.labels), selinux::mounts(steps, input.labels));
    Ok(Plan { warnings, wire, files, label, folders, delegate, effective, bundle: None })
}

fn mask(paths: Vec<wire::plan::Bytes<'static>>) -> Step<'static> {
    Step::Mask { paths, label: bytes("") }
}

fn hostname(spec: &ContainerSpec, host: &Host, id: &ContainerId) -> String {
    match spec.hostname.as_ref().filter(|h| !h.is_empty()) {
        _ if spec.host_uts => host.hostname.clone(),
        Some(asked) => asked.clone(),
        // Who shares the host's addresses is called as the host is, as Docker has it.
        None if spec.network == NetworkMode::Host => host.hostname.clone(),
        None => id.short().to_owned(),
    }
}

/// Name and text of those of the container's files that its networks are in.
pub(crate) fn network_files(
    (id, spec): (&ContainerId, &ContainerSpec),
    host: &Host,
    networks: &[NetworkAttachment],
    host_gateway: IpAddr,
    host_resolv_conf: &str,
) -> [(&'static str, String); 2] {
    mounts::network_files(spec, &hostname(spec, host, id), networks, host_gateway, host_resolv_conf)
}

/// What of `spec` this host cannot give in full; every plan of it says the same.
pub(crate) fn warnings(spec: &ContainerSpec, host: &Host) -> Vec<String> {
    let mut warnings = Vec::new();
    drop(oom_score_adj(spec, host, &mut warnings));
    drop(rlimits(spec, host, &mut warnings));
    capabilities(spec, host, &mut warnings);
    sctp(spec, berth_sys::inet::has_sctp, &mut warnings);
    warnings.extend(landlock::warning(spec, host));
    warnings
}

/// Its packets are led to the container, where nobody can listen when the kernel has no such sockets. Asked only by who publishes such a port: the
/// question loads the kernel's module.
fn sctp(spec: &ContainerSpec, has_sctp: impl Fn() -> bool, warnings: &mut Vec<String>) {
    let ports = spec.ports.iter().filter(|p| p.protocol == Protocol::Sctp);
    let ports: Vec<String> = ports.map(|p| format!("{}/sctp", p.container_port)).collect();
    if !ports.is_empty() && !has_sctp() {
        warnings.push(format!(
            "this kernel has no SCTP sockets, so nothing in the container can listen on {}: load the module sctp",
            ports.join(", ")
        ));
    }
}

/// Place of the root's mount among the descriptors; the shim keeps the first one to its end.
pub(crate) const ROOT: u8 = 0;

/// Namespaces of the container's own. All are made new but the network, which is joined.
fn namespaces(spec: &ContainerSpec) -> u64 {
    let mut flags = NEWNS | NEWCGROUP;
    for (own, flag) in [
        (!spec.host_uts, NEWUTS),
        (!spec.host_ipc, NEWIPC),
        (!spec.host_pid, NEWPID),
        (spec.network != NetworkMode::Host, NEWNET),
    ] {
        if own {
            flags |= flag;
        }
    }
    flags
}

/// What is compiled or looked up for one process.
pub(crate) struct Walls {
    /// None: unconfined.
    pub seccomp: Option<Cow<'static, [u8]>>,
    /// Of AppArmor; None: unconfined.
    pub profile: Option<String>,
    /// Of SELinux.
    pub labels: Labels,
}

/// One more process in a container whose first process is behind descriptor 0.
#[expect(clippy::too_many_arguments, reason = "what the caller knows of both, and what it has looked up")]
pub(crate) fn exec(
    container: &ContainerSpec,
    spec: &ExecSpec,
    effective: &Effective,
    user: &user::User,
    env: Vec<String>,
    host: &Host,
    walls: Walls,
    ids: Option<IdRange>,
) -> Result<wire::Plan<'static>, RuntimeError> {
    let mut kinds = namespaces(container);
    kinds &= !NEWPID;
    let mut ignored = Vec::new();
    let mut steps: Vec<_> = oom_score_adj(container, host, &mut ignored).into_iter().collect();
    if let Some(ids) = ids {
        userns::has(ids, user)?;
        steps.extend(userns::host_rights(container, host, ids));
    }
    // With the host's rights: the network may be another container's, with another user namespace.
    steps.push(Step::EnterNamespace { fd: 0, kinds: kinds as u32 });
    if ids.is_some() {
        steps.extend([Step::EnterNamespace { fd: 0, kinds: NEWUSER as u32 }, Step::BecomeRoot]);
    }
    if spec.tty {
        steps.push(Step::Terminal { console: false });
    }
    steps.extend(rlimits(container, host, &mut ignored));
    steps.push(Step::Workdir {
        path: bytes(spec.workdir.clone().unwrap_or_else(|| effective.workdir.clone())),
        create: false,
    });
    steps.extend([Step::OwnNull, Step::Umask { mask: 0o22 }]);
    steps.extend(profile(walls.profile, false));
    steps.extend(selinux::process(&walls.labels, false));
    if !spec.privileged {
        steps.extend(landlock::step(container, host)?);
    }
    let capabilities = if spec.privileged { host.capabilities } else { capabilities(container, host, &mut ignored) };
    let no_new_privileges = container.no_new_privileges && !spec.privileged;
    steps.extend(credentials(user, capabilities, walls.seccomp, no_new_privileges));
    Ok(wire::Plan {
        join_pid: (!container.host_pid).then_some(0),
        tty: spec.tty,
        stdin: spec.stdin,
        stdin_once: true,
        size: spec.size,
        args: spec.command.iter().cloned().map(bytes).collect(),
        env: env.into_iter().map(bytes).collect(),
        steps,
        ..wire::Plan::default()
    })
}

pub(crate) fn exec_env(container: &Effective, spec: &ExecSpec, home: &str) -> Vec<String> {
    command::exec_env(container, spec, home)
}

fn profile(name: Option<String>, now: bool) -> Option<Step<'static>> {
    name.map(|name| Step::Profile { name: bytes(name), now })
}

/// Without no_new_privs a program can only be loaded with CAP_SYS_ADMIN: before the credentials. With it, as late as possible.
fn credentials(
    user: &user::User,
    capabilities: u64,
    seccomp: Option<Cow<'static, [u8]>>,
    no_new_privileges: bool,
) -> Vec<Step<'static>> {
    let identity = Step::Identity { uid: user.uid, gid: user.gid, groups: user.groups.clone(), capabilities };
    let program = seccomp.map(|program| Step::Seccomp { program });
    if no_new_privileges {
        [Some(identity), Some(Step::NoNewPrivileges), program].into_iter().flatten().collect()
    } else {
        program.into_iter().chain([identity]).collect()
    }
}

/// Docker's rules for add and drop, cut to what the host can give, but for one: ALL that is dropped wins over ALL that is added, for which Docker gives
/// all. Whoever writes both wants at least one of them by mistake.
pub(crate) fn capabilities(spec: &ContainerSpec, host: &Host, warnings: &mut Vec<String>) -> u64 {
    if spec.privileged {
        return host.capabilities;
    }
    let named = |list: &[String]| {
        let mut set = 0u64;
        for name in list {
            let upper = name.to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            set |= if name == "ALL" { u64::MAX } else { cap::bit(name).unwrap_or(0) };
        }
        set
    };
    let default = DEFAULT_CAPABILITIES.iter().filter_map(|n| cap::bit(n)).fold(0, |a, b| a | b);
    let (add, drop) = (named(&spec.cap_add), named(&spec.cap_drop));
    let base = if add == u64::MAX { u64::MAX } else { default };
    // What is added by name stays although ALL is dropped.
    let wanted = if drop == u64::MAX { if add == u64::MAX { 0 } else { add } } else { (base | add) & !drop };
    let missing: Vec<&str> = cap::NAMES
        .iter()
        .enumerate()
        .filter(|(i, _)| add != u64::MAX && (wanted & !host.capabilities) >> i & 1 == 1)
        .map(|(_, n)| *n)
        .collect();
    if !missing.is_empty() {
        warnings.push(format!(
            "this host cannot give the capabilities {}: the container does not have them",
            missing.join(", ")
        ));
    }
    wanted & host.capabilities
}

pub(crate) fn rlimits(spec: &ContainerSpec, host: &Host, warnings: &mut Vec<String>) -> Vec<Step<'static>> {
    let mut steps = Vec::new();
    for limit in &spec.ulimits {
        let Some((_, resource)) = process::RESOURCES.iter().find(|(n, _)| *n == limit.name) else { continue };
        let (mut soft, mut hard) = (limit.soft, limit.hard);
        let max = host.hard_limit(*resource);
        if hard > max && !host.can_raise_limits() {
            warnings.push(format!("this host cannot raise the {} limit above {max}: {hard} was asked for", limit.name));
            (soft, hard) = (soft.min(max), max);
        }
        if *resource == process::CORE {
            (soft, hard) = no_core((soft, hard), host);
        }
        steps.push(Step::Rlimit { resource: *resource, soft, hard });
    }
    // None but where it is asked for: a core is as large as the process, and where the host pipes cores to a program of its own, that would read what a
    // container has made, as root.
    if !spec.ulimits.iter().any(|limit| limit.name == "core") {
        let (soft, hard) = no_core((0, 0), host);
        steps.push(Step::Rlimit { resource: process::CORE, soft, hard });
    }
    steps
}

/// 0 is meant as no core, for which the kernel's word is another.
fn no_core((soft, hard): (u64, u64), host: &Host) -> (u64, u64) {
    // The agent has raised its own where it could.
    let least = process::NO_CORE.min(host.hard_limit(process::CORE));
    (soft.max(least), hard.max(least))
}

/// What is not asked for is 0, as on any host: the agent's own score, with which the shim makes the process, is lower.
fn oom_score_adj(spec: &ContainerSpec, host: &Host, warnings: &mut Vec<String>) -> Option<Step<'static>> {
    let (wanted, inherited) = (spec.oom_score_adj.unwrap_or(0), host.oom_score_adj);
    if wanted < inherited && !host.can_raise_limits() {
        if spec.oom_score_adj.is_some() {
            warnings.push(format!(
                "this host cannot set an OOM score adjustment below {inherited}: {wanted} was asked for"
            ));
        }
        return None;
    }
    (wanted != inherited)
        .then(|| Step::WriteFile { path: bytes("/proc/self/oom_score_adj"), value: bytes(wanted.to_string()) })
}

fn sysctls(settings: &BTreeMap<String, String>) -> Vec<Step<'static>> {
    // Docker's defaults, port 80 and ping for every user of the container's network, come with the namespace.
    let path = |key: &str| bytes(format!("/proc/sys/{}", key.replace('.', "/")));
    let write = |(key, value): (&String, &String)| Step::WriteFile { path: path(key), value: bytes(value.as_str()) };
    settings.iter().map(write).collect()
}

/// Who may part the container's group: root of its own user namespace, who is nobody to the limits of the group itself.
fn delegate(spec: &ContainerSpec, host: &Host, ids: Option<IdRange>) -> Result<Option<(u32, u32)>, RuntimeError> {
    let refused = |why: &str| Err(RuntimeError::spec("writable_cgroups", why));
    match ids {
        _ if !spec.writable_cgroups => Ok(None),
        _ if !host.cgroup_v2 => refused("needs a host with cgroup v2 alone: groups of v1 cannot be given away safely"),
        Some(ids) => Ok(Some((ids.host_uid(0).unwrap_or(ids.base), ids.host_gid(0).unwrap_or(ids.base)))),
        None if spec.privileged || spec.userns == UsernsMode::Host => Ok(None),
        None => refused("needs a user namespace of the container's own: ask for one with --userns=auto"),
    }
}

/// What the container's cgroups are made with.
pub(crate) fn limits(name: &str, spec: &ContainerSpec, given: &[GivenDevice], default_pids: Option<i64>) -> Limits {
    let mut resources = spec.resources.clone();
    resources.pids = resources.pids.or(default_pids);
    Limits {
        resources,
        devices: device_rules(spec, given),
        name: name.to_owned(),
        parent: spec.cgroup_parent.clone(),
        // As a stop of ours.
        stop_timeout: std::time::Duration::from_secs(spec.stop_timeout_secs.unwrap_or(10).into()),
    }
}

pub(crate) fn device_rules(spec: &ContainerSpec, given: &[GivenDevice]) -> Option<Vec<DeviceRule>> {
    if spec.privileged {
        return None;
    }
    let mut rules = default_rules();
    rules.extend(given.iter().map(|d| DeviceRule {
        block: d.node.block,
        major: Some(d.node.major),
        minor: Some(d.node.minor),
        read: d.permissions.contains('r'),
        write: d.permissions.contains('w'),
        mknod: d.permissions.contains('m'),
    }));
    rules.extend(spec.device_rules.iter().map(|rule| DeviceRule {
        block: rule.block,
        major: rule.major,
        minor: rule.minor,
        read: rule.permissions.contains('r'),
        write: rule.permissions.contains('w'),
        mknod: rule.permissions.contains('m'),
    }));
    Some(rules)
}
