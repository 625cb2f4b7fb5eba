//! What is mounted where.

use super::{GivenDevice, bytes};
use crate::host::Host;
use crate::{PlanInput, RuntimeError, files};
use berth_model::ContainerSpec;
use berth_model::network::{NetworkAttachment, NetworkMode};
use berth_model::spec::{Mount, MountKind, Owners, Propagation};
use berth_model::userns::IdRange;
use berth_model::wire::Step;
use berth_model::wire::plan::Bytes;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

// Flags of mount(2).
const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;
const REMOUNT: u64 = 32;
const BIND: u64 = 4096;
const STRICTATIME: u64 = 1 << 24;
/// The propagation of the mounts below, too.
const REC: u32 = 0x4000;
const PRIVATE: u32 = 0x4_0000;
const SLAVE: u32 = 0x8_0000;
const SHARED: u32 = 0x10_0000;

const PROPAGATION: [(Propagation, u32); 6] = [
    (Propagation::Private, PRIVATE),
    (Propagation::Rprivate, PRIVATE | REC),
    (Propagation::Slave, SLAVE),
    (Propagation::Rslave, SLAVE | REC),
    (Propagation::Shared, SHARED),
    (Propagation::Rshared, SHARED | REC),
];

/// Of the bits of a step.
pub(super) fn propagation_of(bits: u32) -> Propagation {
    PROPAGATION.iter().find(|(_, b)| *b == bits).map_or(Propagation::Rprivate, |(p, _)| *p)
}

/// As mount(8) and OCI write them.
pub(crate) fn flag_words(flags: u64) -> Vec<&'static str> {
    let words = [(RDONLY, "ro"), (NOSUID, "nosuid"), (NODEV, "nodev"), (NOEXEC, "noexec")];
    words.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, word)| word).collect()
}

/// Places of trees from here on are not for the user's mounts.
pub(super) const FIRST_OWN_SLOT: u8 = 191;

/// Docker's list: what tells about the host or could harm it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
pub(super) const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What is masked; of mounts of the caller's only what these would uncover: there is nothing but the kernel's own in /proc.
pub(super) fn masked(host: &Host, below: Option<&[Mount]>) -> Vec<Bytes<'static>> {
    let wanted = |path: &&str| below.is_none_or(|mounts| mounts.iter().any(|m| is_below(path, &m.target)));
    let all = MASKED.into_iter().chain(host.thermal.iter().map(String::as_str));
    all.filter(wanted).map(bytes).collect()
}

/// Files of the kernel's on this host that a container without privileges finds empty, and those that it cannot write.
pub fn kernel_files() -> (Vec<String>, Vec<&'static str>) {
    let thermal = crate::host::thermal(Path::new("/sys/devices/system/cpu"));
    (MASKED.into_iter().map(str::to_owned).chain(thermal).collect(), READ_ONLY.to_vec())
}

fn is_below(path: &str, folder: &str) -> bool {
    Path::new(path).starts_with(folder)
}

/// /etc/hosts and its like: file on the host, content.
pub(super) fn files(input: &PlanInput<'_>, hostname: &str, host_resolv_conf: &str) -> Vec<(PathBuf, String)> {
    let at = |name: &str| input.state_dir.join(name);
    let face = input.face();
    let [hosts, resolv_conf] = network_files(face.spec, hostname, face.networks, input.host_gateway, host_resolv_conf);
    let text = match &input.peers {
        Some(peers) => files::with_peers(hosts.1, peers),
        None => hosts.1,
    };
    vec![(at(hosts.0), text), (at("hostname"), format!("{hostname}\n")), (at(resolv_conf.0), resolv_conf.1)]
}

/// Those of them that the container's networks are in.
pub(super) fn network_files(
    spec: &ContainerSpec,
    hostname: &str,
    networks: &[NetworkAttachment],
    host_gateway: IpAddr,
    host_resolv_conf: &str,
) -> [(&'static str, String); 2] {
    let own_network = spec.network != NetworkMode::Host;
    let main = networks.iter().find(|n| n.default_route).or(networks.first());
    let gateway = main.map_or(host_gateway, |n| n.gateway.into());
    [
        ("hosts", files::hosts(spec, hostname, networks, gateway)),
        ("resolv.conf", files::resolv_conf(spec, host_resolv_conf, own_network, networks)),
    ]
}

/// One of the container's own files.
fn open(slot: u8, source: String, idmap: bool) -> Step<'static> {
    let (source, propagation) = (bytes(source), PRIVATE);
    let (recursive, read_only, nosuid_nodev, top_only) = (false, false, false, false);
    Step::OpenTree { slot, source, recursive, read_only, propagation, nosuid_nodev, top_only, idmap }
}

fn same(a: &str, b: &str) -> bool {
    let parts = |p: &'_ str| p.split('/').filter(|s| !s.is_empty() && *s != ".").map(str::to_owned).collect::<Vec<_>>();
    parts(a) == parts(b)
}

pub(super) fn mounted(spec: &ContainerSpec, target: &str) -> bool {
    spec.mounts.iter().any(|m| same(&m.target, target))
}

/// The acts on the host's side, and those inside. Shallow targets first, so that `/a` does not hide `/a/b`.
pub(super) fn user_mounts(
    input: &PlanInput<'_>,
    files: &[(PathBuf, String)],
    host: &Host,
) -> Result<(Vec<Step<'static>>, Vec<Step<'static>>), RuntimeError> {
    let (spec, own_users) = (input.spec, input.ids.is_some());
    let (mut outside, mut inside, mut slot) = (Vec::new(), Vec::new(), 0u8);
    let mut next = || -> Result<u8, RuntimeError> {
        slot += 1;
        if slot < FIRST_OWN_SLOT { Ok(slot) } else { Err(RuntimeError::spec("mounts", "more than 190 bind mounts")) }
    };
    for (path, _) in files {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let target = format!("/etc/{name}");
        if mounted(spec, &target) || mounted(spec, "/etc") {
            continue;
        }
        let slot = next()?;
        outside.push(open(slot, path.to_string_lossy().into_owned(), own_users));
        inside.push(Step::AttachTree { slot, target: bytes(target) });
    }
    for folder in shared_ipc(spec, host) {
        let (slot, source, target) = (next()?, bytes(folder), bytes(folder));
        let propagation = PRIVATE;
        outside.push(Step::OpenTree {
            slot,
            source,
            recursive: false,
            read_only: false,
            propagation,
            nosuid_nodev: true,
            top_only: false,
            idmap: false,
        });
        inside.push(Step::AttachTree { slot, target });
    }
    let mut given = 0..=u8::MAX;
    let mut mounts = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        let fd = if is_given(&mount.kind) { given.next().unwrap_or_default() } else { 0 };
        mounts.push((mount, fd));
    }
    mounts.sort_by_key(|(m, _)| m.target.split('/').filter(|p| !p.is_empty()).count());
    for (mount, fd) in mounts {
        let target = bytes(mount.target.clone());
        match &mount.kind {
            kind if is_given(kind) => inside.push(Step::AttachGiven { fd, target }),
            MountKind::Volume(_) | MountKind::Image(_) => {}
            MountKind::Bind { source, propagation, recursive, writable_below, idmap, nosuid_nodev, .. } => {
                let propagation = PROPAGATION.iter().find(|(p, _)| p == propagation).map_or(PRIVATE | REC, |(_, b)| *b);
                let mapped = match spec.owners(*idmap) {
                    Owners::Host => false,
                    Owners::Mapped => true,
                    Owners::MappedIfPossible => !input.unmapped.contains(&mount.target),
                };
                let slot = next()?;
                outside.push(Step::OpenTree {
                    slot,
                    source: bytes(source.clone()),
                    recursive: *recursive,
                    read_only: mount.read_only,
                    propagation,
                    nosuid_nodev: *nosuid_nodev,
                    top_only: *writable_below,
                    idmap: mapped && own_users,
                });
                inside.push(Step::AttachTree { slot, target });
            }
            MountKind::Tmpfs { size_bytes, mode, exec } => {
                let mut flags = NOSUID | NODEV;
                if !exec {
                    flags |= NOEXEC;
                }
                if mount.read_only {
                    flags |= RDONLY;
                }
                let size = size_bytes.map(|s| format!(",size={s}")).unwrap_or_default();
                inside.push(Step::Tmpfs {
                    target,
                    flags,
                    data: bytes(format!("mode={:o}{size}", mode.unwrap_or(0o1777))),
                });
            }
        }
    }
    Ok((outside, inside))
}

/// What the caller opens and hands over (`SpawnRequest::trees`), in the order of the spec.
pub(crate) fn is_given(kind: &MountKind) -> bool {
    matches!(kind, MountKind::Volume(_) | MountKind::Image(_) | MountKind::Bind { within: Some(_), .. })
}

/// Where the IPC namespace's memory and queues are seen; the host's own with `--ipc host`, unless the user puts something else there.
pub(super) fn shared_ipc(spec: &ContainerSpec, host: &Host) -> Vec<&'static str> {
    let wanted = |folder: &&str| spec.host_ipc && !mounted(spec, folder);
    host.ipc_folders.iter().copied().filter(wanted).collect()
}

pub(super) fn folders_to_make(spec: &ContainerSpec) -> Vec<PathBuf> {
    let wanted = |kind: &MountKind| match kind {
        MountKind::Bind { source, create_source: true, within: None, .. } => Some(PathBuf::from(source)),
        _ => None,
    };
    spec.mounts.iter().filter_map(|m| wanted(&m.kind)).collect()
}

fn mount(fs_type: &str, target: &str, flags: u64, data: impl Into<String>) -> Step<'static> {
    let (fs_type, target) = (bytes(fs_type), bytes(target));
    Step::Mount { source: fs_type.clone(), fs_type, target, flags, data: bytes(data), optional: false }
}

/// Default devices: name, minor number of major 1 or 5 (Documentation/admin-guide/devices.txt).
pub(super) const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
pub(super) const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

pub(super) fn process_and_device_trees(spec: &ContainerSpec) -> Vec<Step<'static>> {
    let common = NOSUID | NODEV | NOEXEC;
    vec![mount("proc", "/proc", common, ""), mount("sysfs", "/sys", common | read_only_flag(spec), "")]
}

fn read_only_flag(spec: &ContainerSpec) -> u64 {
    if spec.privileged { 0 } else { RDONLY }
}

/// The terminal on /dev/console, whatever lies over /dev/pts by then: for a test that sees what comes of it (CVE-2025-52565).
pub(super) fn console_by_path() -> [Step<'static>; 2] {
    let slot = FIRST_OWN_SLOT;
    [open(slot, "/dev/pts/0".to_owned(), false), Step::AttachTree { slot, target: bytes("/dev/console") }]
}

/// The host's own, without what is mounted on it.
pub(super) fn hosts_proc(slot: u8) -> Step<'static> {
    open(slot, "/proc".to_owned(), false)
}

pub(super) fn cgroups(spec: &ContainerSpec, host: &Host) -> Vec<Step<'static>> {
    let (common, read_only, mut steps) = (NOSUID | NODEV | NOEXEC, read_only_flag(spec), Vec::new());
    if host.cgroup_v2 {
        let read_only = if spec.writable_cgroups { 0 } else { read_only };
        steps.push(mount("cgroup2", "/sys/fs/cgroup", common | read_only, ""));
    } else if !host.cgroup_mounts.is_empty() {
        steps.push(mount("tmpfs", "/sys/fs/cgroup", common, "mode=755,size=64k"));
        for (name, data) in &host.cgroup_mounts {
            let path = format!("/sys/fs/cgroup/{name}");
            steps.push(Step::Directory { path: bytes(path.clone()), mode: 0o755 });
            let step = Step::Mount {
                fs_type: bytes("cgroup"),
                source: bytes("cgroup"),
                target: bytes(path),
                flags: common | read_only,
                data: bytes(data.clone()),
                // A hierarchy that is going away meanwhile.
                optional: true,
            };
            steps.push(step);
        }
        if !spec.privileged {
            steps.push(mount("tmpfs", "/sys/fs/cgroup", common | RDONLY | BIND | REMOUNT, ""));
        }
    }
    steps
}

/// What devpts is mounted with. Without a group a terminal has that of who opens it.
pub(super) fn terminals(ids: Option<IdRange>) -> Vec<&'static str> {
    // Group 5 is tty wherever there is a list (Debian, Alpine, Red Hat). The kernel takes no group that the user namespace has not (EINVAL).
    let tty = ids.is_none_or(|ids| ids.host_gid(5).is_some());
    let options = ["newinstance", "ptmxmode=0666", "mode=0620"].into_iter();
    options.chain(tty.then_some("gid=5")).collect()
}

/// In the host's user namespace with its file system and the default devices.
pub(super) fn dev(spec: &ContainerSpec, host: &Host, ids: Option<IdRange>) -> Vec<Step<'static>> {
    let own = ids.is_none();
    let (common, mut steps) = (NOSUID | NODEV | NOEXEC, Vec::new());
    if own {
        steps.push(mount("tmpfs", "/dev", NOSUID | STRICTATIME, "mode=755,size=65536k"));
        for (name, major, minor) in NODES {
            let path = bytes(format!("/dev/{name}"));
            steps.push(Step::Device { path, block: false, mode: 0o666, major, minor, uid: 0, gid: 0 });
        }
    }
    for (name, target) in LINKS {
        steps.push(Step::Symlink { path: bytes(format!("/dev/{name}")), target: bytes(target) });
    }
    steps.push(Step::Directory { path: bytes("/dev/pts"), mode: 0o755 });
    steps.push(mount("devpts", "/dev/pts", NOSUID | NOEXEC, terminals(ids).join(",")));
    steps.push(Step::Directory { path: bytes("/dev/shm"), mode: 0o1777 });
    steps.push(Step::Directory { path: bytes("/dev/mqueue"), mode: 0o1777 });
    let shared = shared_ipc(spec, host);
    // A new mount of it shows the queues of the IPC namespace that the process is in.
    if !mounted(spec, "/dev/mqueue") && !shared.contains(&"/dev/mqueue") {
        steps.push(match spec.host_ipc && !own {
            // Nobody mounts what shows another user namespace's.
            true => Step::AttachTree { slot: super::userns::MQUEUE, target: bytes("/dev/mqueue") },
            false => mount("mqueue", "/dev/mqueue", common, ""),
        });
    }
    if !mounted(spec, "/dev/shm") && !shared.contains(&"/dev/shm") {
        let size = spec.shm_bytes.unwrap_or(64 << 20);
        steps.push(mount("tmpfs", "/dev/shm", common, format!("mode=1777,size={size}")));
    }
    steps
}

pub(super) fn devices(given: &[GivenDevice]) -> Vec<Step<'static>> {
    let node = |d: &GivenDevice| Step::Device {
        path: bytes(d.path.clone()),
        block: d.node.block,
        mode: d.node.mode,
        major: d.node.major,
        minor: d.node.minor,
        uid: d.node.uid,
        gid: d.node.gid,
    };
    given.iter().map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_ttys_where_there_is_that_group() {
        let has = |ids| terminals(ids).contains(&"gid=5");
        let range = |size| Some(IdRange { base: 100_000, size, keep: None });
        assert!(has(None) && has(range(6)) && has(range(65_536)));
        assert!(!has(range(5)) && !has(range(1)));
        assert_eq!(terminals(range(1)), ["newinstance", "ptmxmode=0666", "mode=0620"]);
    }
}
