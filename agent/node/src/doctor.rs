//! Looks the host over: what it has, what it lacks, and what of berth's is there without an owner. Changes nothing.
//!
//! What was just made or is just going has no owner for a moment, too: what looks like a leftover is looked at again a little later, and
//! only what is still there is told.

use crate::node::Inner;
use berth_model::ContainerId;
use berth_runtime::{OtherFound, SelinuxState};
use berth_sys::fs::{Kind, Stat, lstatat};
use berth_sys::store;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How a thing is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Does not work, or will not for long.
    Bad,
    /// Works, but not as well as it could.
    Warning,
    Good,
}

/// What was found of one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// kernel, cgroups, disk, …
    pub name: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// What to do; empty: nothing.
    pub advice: String,
}

impl Finding {
    pub fn new(name: &'static str, verdict: Verdict, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { name, verdict, found: found.into(), advice: advice.into() }
    }

    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Finding::new(name, Verdict::Good, found, "")
    }
}

/// Bytes of free space below which pulls are likely to fail.
const DISK_LOW: u64 = 2 << 30;
/// Of 100 parts, that many free are few.
const DISK_LOW_PERCENT: u64 = 10;
/// Inodes that one image of ordinary size may take in the directory store.
const INODES_LOW: u64 = 50_000;
/// Descriptors for some hundred containers.
const DESCRIPTORS_LOW: u64 = 65_536;
/// Between two looks at what seems to be left over: the sweep of links takes half a second.
const SECOND_LOOK: Duration = Duration::from_millis(1500);

pub(crate) fn look(inner: &Inner) -> Vec<Finding> {
    let mut findings = vec![kernel(inner), layers(inner), memory()];
    findings.extend(cgroups(inner));
    findings.extend(disk(inner));
    findings.push(sizes_of_volumes(inner));
    findings.push(descriptors());
    findings.extend(threads());
    findings.extend(devices());
    findings.push(database(inner));
    findings.push(images(inner));
    findings.push(leftovers(inner));
    findings.push(spoofing(inner));
    findings.extend(loopback6(inner));
    findings.extend(unanswered(inner));
    findings.extend(crate::cni::findings(inner));
    findings.push(user_namespaces(inner));
    findings.push(landlock(inner));
    findings.extend(apparmor(inner));
    findings.extend(selinux(inner));
    findings.extend(inner.runtime.others().into_iter().map(other_runtime));
    findings
}

fn spoofing(inner: &Inner) -> Finding {
    let why = match inner.networks.guard_missing() {
        Ok(None) => return Finding::good("spoofing", "containers on bridges send with their own addresses only"),
        Ok(Some(why)) => format!("this kernel has no nftables for bridges: {why}"),
        Err(error) => error.to_string(),
    };
    Finding::new(
        "spoofing",
        Verdict::Warning,
        format!("containers can send with each other's addresses ({why})"),
        "a kernel with CONFIG_NF_TABLES_BRIDGE keeps them from it; until then put containers that do not trust each other on networks of their own",
    )
}

/// Only what is wrong: it is missing only where the kernel is older than Linux 5.14 or no cgroup v2 tree is mounted.
fn loopback6(inner: &Inner) -> Option<Finding> {
    let why = inner.networks.loopback6_missing()?;
    Some(Finding::new(
        "loopback6",
        Verdict::Warning,
        format!("published ports of containers without an IPv6 address do not answer on [::1] ({why})"),
        "mount a cgroup v2 tree and restart berthd, connect to 127.0.0.1, or put the containers on a network with IPv6 (berthctl network create --ipv6)",
    ))
}

/// Only what is wrong: most hosts have no names to answer.
fn unanswered(inner: &Inner) -> Vec<Finding> {
    let failed = inner.resolver.failed().into_iter();
    let finding = |(network, why)| {
        let found = format!("containers on network {network} do not find each other by name: {why}");
        Finding::new(
            "names",
            Verdict::Bad,
            found,
            "free port 53 on the network's gateway, then start a container on it again",
        )
    };
    failed.map(finding).collect()
}

fn other_runtime(found: OtherFound) -> Finding {
    let OtherFound { name, path, version } = found;
    match version {
        Ok(version) => Finding::good("runtime", format!("{name}: {version} ({path})")),
        Err(why) => Finding::new(
            "runtime",
            Verdict::Bad,
            format!("containers of the runtime {name} do not start: {path}: {why}"),
            "install it, or take it out of [runtimes] of the configuration",
        ),
    }
}

fn user_namespaces(inner: &Inner) -> Finding {
    let ranges = &inner.userns;
    let (given, all) = ranges.count();
    match ranges.missing() {
        Some(missing) => Finding::new(
            "users",
            Verdict::Warning,
            format!("containers are in the host's user namespace: {missing}"),
            "Linux 5.19 or newer, and a file system with idmapped mounts (ext4, xfs, btrfs) below data_root",
        ),
        None if !ranges.own_by_default() => Finding::new(
            "users",
            Verdict::Warning,
            format!(
                "root in a container is root on the host unless --userns says otherwise; {given} of {all} ranges of ids are given"
            ),
            "default = \"auto\" in [userns] of the configuration",
        ),
        None => Finding::good(
            "users",
            format!("root in a container is nobody on the host; {given} of {all} ranges of ids are given"),
        ),
    }
}

/// Either way a size holds: a quota reserves nothing, and needs no loop device.
fn sizes_of_volumes(inner: &Inner) -> Finding {
    match inner.volumes.store.without_quota() {
        None => Finding::good(
            "volumes",
            "a volume's and a container's size is a project quota of the disk (a container's with --userns host: a file system of its own)",
        ),
        Some(why) => Finding::good(
            "volumes",
            format!("a volume's and a container's size is a file system of its own, reserved at once: {why}"),
        ),
    }
}

fn landlock(inner: &Inner) -> Finding {
    match inner.runtime.landlock_abi() {
        (None | Some(1), _) => Finding::new(
            "landlock",
            Verdict::Warning,
            "this kernel has no Landlock that containers can have (--security-opt landlock=on)",
            "Linux 5.19 or newer with CONFIG_SECURITY_LANDLOCK, and landlock in lsm= of its command line",
        ),
        (Some(abi), true) => {
            Finding::good("landlock", format!("ABI {abi}: around containers that do not say otherwise"))
        }
        (Some(abi), false) => Finding::good("landlock", format!("ABI {abi}: around containers that ask for it")),
    }
}

/// Nothing where the host has none: it may have another security module, or have chosen to have none.
fn apparmor(inner: &Inner) -> Option<Finding> {
    let name = berth_runtime::DEFAULT_PROFILE;
    match inner.runtime.apparmor() {
        (false, _) => None,
        (true, true) => Some(Finding::good("apparmor", format!("containers have the profile {name}"))),
        (true, false) => Some(Finding::new(
            "apparmor",
            Verdict::Warning,
            format!(
                "no profile {name} is loaded: containers are unconfined unless --security-opt apparmor says otherwise"
            ),
            format!("apparmor_parser -r /etc/apparmor.d/{name}"),
        )),
    }
}

/// Nothing where the host has none.
fn selinux(inner: &Inner) -> Option<Finding> {
    let warning = |found: String, hint: &str| Some(Finding::new("selinux", Verdict::Warning, found, hint.to_owned()));
    let host = match inner.runtime.selinux_state() {
        SelinuxState::Absent => return None,
        SelinuxState::Off => {
            return warning(
                "the host has SELinux, and containers have no labels".to_owned(),
                "selinux = \"auto\" in [isolation] of the configuration",
            );
        }
        SelinuxState::NoTypes(why) => {
            return warning(
                format!("the host has SELinux, and containers have no labels: {why}"),
                "a policy with types for containers: install container-selinux (Fedora, RHEL), then start the agent again",
            );
        }
        SelinuxState::On(host) => host,
    };
    if host.may_enter() == Some(false) {
        return Some(Finding::new(
            "selinux",
            Verdict::Bad,
            format!("the policy does not let the agent make processes of the type {}", host.process_type()),
            "label the agent's program as Docker's is, then restart it: semanage fcontext -a -t container_runtime_exec_t /usr/bin/berthd && restorecon /usr/bin/berthd",
        ));
    }
    if inner.runtime.selinux_is_permissive() {
        return warning(
            format!(
                "containers have labels, and nothing is forbidden by them: SELinux is permissive; {} pairs of categories are given",
                inner.pairs.count()
            ),
            "setenforce 1",
        );
    }
    let found = format!("containers have labels; {} pairs of categories are given", inner.pairs.count());
    Some(Finding::good("selinux", found))
}

fn kernel(inner: &Inner) -> Finding {
    let release = store::uname().release;
    let missing: Vec<&str> =
        inner.runtime.features().into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
    if missing.is_empty() {
        return Finding::good("kernel", format!("Linux {release} has all that is used"));
    }
    Finding::new(
        "kernel",
        Verdict::Warning,
        format!("Linux {release} lacks {}", missing.join(", ")),
        "containers run, by older means; a newer kernel or cgroup v2 has them",
    )
}

fn layers(inner: &Inner) -> Finding {
    match inner.layers.store.driver_name() {
        "erofs" => Finding::good("layers", "layers are kept as one file each (EROFS)"),
        other => Finding::new(
            "layers",
            Verdict::Warning,
            format!("layers are kept as files in folders ({other} store)"),
            "pulls and removals are faster with Linux 6.12 or newer, where layers are mounted from one file (EROFS)",
        ),
    }
}

fn cgroups(inner: &Inner) -> Vec<Finding> {
    let mode = inner.runtime.cgroup_mode();
    let mut findings = vec![match mode {
        "v2" => Finding::good("cgroups", "cgroup v2"),
        _ => Finding::new(
            "cgroups",
            Verdict::Warning,
            format!("cgroup {mode}"),
            "pressure (PSI), whole-group OOM kills and write-back limits need cgroup v2: boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }];
    let trouble = inner.runtime.cgroup_trouble();
    let others = inner.runtime.warnings().into_iter().filter(|w| Some(w) != trouble.as_ref());
    if let Some(trouble) = &trouble {
        let advice = "start systemd, or set containers.cgroup_driver = \"cgroupfs\" in the agent's configuration";
        findings.push(Finding::new("cgroups", Verdict::Bad, trouble, advice));
    }
    for warning in others {
        findings.push(Finding::new(
            "limits",
            Verdict::Warning,
            warning,
            "give the agent what it lacks, or live with it",
        ));
    }
    findings
}

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mib = |key: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(key));
        line.and_then(|l| l.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    let (total, available) = (mib("MemTotal:"), mib("MemAvailable:"));
    let found = format!("{available} of {total} MiB are available");
    if total > 0 && available * 100 < total * 5 {
        return Finding::new("memory", Verdict::Warning, found, "stop something, or give containers memory limits");
    }
    Finding::good("memory", found)
}

fn disk(inner: &Inner) -> Vec<Finding> {
    let root = &inner.config.data_root;
    let space = match store::disk_space(root) {
        Ok(space) => space,
        Err(e) => {
            let found = format!("the space of {} cannot be told: {e}", root.display());
            return vec![Finding::new("disk", Verdict::Bad, found, "look at the file system and its mount")];
        }
    };
    let mut findings = vec![space_of(root, space.free_bytes, space.total_bytes)];
    // 0: a file system without a fixed number.
    if space.free_inodes > 0 && space.free_inodes < INODES_LOW {
        let found = format!("{} inodes are free in {}", space.free_inodes, root.display());
        let advice =
            "remove images and containers that nobody needs, or move data_root to a file system with more inodes";
        findings.push(Finding::new("inodes", Verdict::Warning, found, advice));
    }
    findings
}

fn space_of(root: &Path, free: u64, total: u64) -> Finding {
    let gib = |bytes: u64| format!("{}.{} GiB", bytes >> 30, ((bytes >> 20) % 1024) * 10 / 1024);
    let found = format!("{} of {} are free in {}", gib(free), gib(total), root.display());
    let advice =
        "remove images and containers that nobody needs (berthctl images, berthctl ps -a), or give data_root more room";
    match free {
        f if f < DISK_LOW / 4 => Finding::new("disk", Verdict::Bad, found, advice),
        f if f < DISK_LOW || f < total / 100 * DISK_LOW_PERCENT / 2 => {
            Finding::new("disk", Verdict::Warning, found, advice)
        }
        _ => Finding::good("disk", found),
    }
}

fn descriptors() -> Finding {
    let limit = fs::read_to_string("/proc/self/limits").ok().and_then(|t| soft_limit(&t, "Max open files"));
    let open = fs::read_dir("/proc/self/fd").map(|d| d.count() as u64).unwrap_or(0);
    match limit {
        Some(limit) if limit < DESCRIPTORS_LOW || open * 10 > limit * 8 => Finding::new(
            "descriptors",
            if open * 10 > limit * 9 { Verdict::Bad } else { Verdict::Warning },
            format!("the agent has {open} files open and may have {limit}"),
            "each container takes some: set LimitNOFILE=1048576 in the unit (systemctl edit berthd)",
        ),
        Some(limit) => Finding::good("descriptors", format!("the agent has {open} files open and may have {limit}")),
        None => Finding::good("descriptors", format!("the agent has {open} files open, without a limit")),
    }
}

/// The soft limit of a line of /proc/PID/limits (proc_pid_limits(5)). None: unlimited, or no such line.
fn soft_limit(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Processes and threads that the kernel can have: proc_sys_kernel(5), pid_max and threads-max.
fn threads() -> Option<Finding> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse::<u64>().ok();
    let most = read("pid_max")?.min(read("threads-max")?);
    let loadavg = fs::read_to_string("/proc/loadavg").ok()?;
    let now: u64 = loadavg.split_ascii_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    let found = format!("{now} of {most} processes and threads are taken");
    Some(if now * 10 > most * 8 {
        Finding::new("processes", Verdict::Warning, found, "raise kernel.pid_max, or give containers --pids-limit")
    } else {
        Finding::good("processes", found)
    })
}

/// The host's devices that every program needs, and that a runtime can spoil for all: one that gives its terminal away by what it was handed as
/// standard input gives /dev/null to the user of a container.
fn devices() -> Option<Finding> {
    let dev = fs::File::open("/dev").ok()?;
    let wrong = MEMORY_DEVICES.iter().filter_map(|(name, minor)| {
        let path = format!("/dev/{name}");
        let why = match lstatat(dev.as_fd(), name) {
            Ok(stat) => spoiled(&stat, *minor)?,
            Err(e) => e.to_string(),
        };
        Some((format!("{path}: {why}"), format!("rm -f {path}; mknod -m 666 {path} c {MEMORY_MAJOR} {minor}")))
    });
    let (found, mend): (Vec<_>, Vec<_>) = wrong.unzip();
    if found.is_empty() {
        return None;
    }
    Some(Finding::new("devices", Verdict::Bad, found.join("; "), format!("make them again: {}", mend.join("; "))))
}

/// Numbers of Documentation/admin-guide/devices.txt.
const MEMORY_MAJOR: u32 = 1;
const MEMORY_DEVICES: [(&str, u32); 5] = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];

fn spoiled(stat: &Stat, minor: u32) -> Option<String> {
    const ALL: u32 = 0o666;
    if stat.kind != Kind::CharDevice || (stat.rdev_major, stat.rdev_minor) != (MEMORY_MAJOR, minor) {
        return Some(format!("is not the device {MEMORY_MAJOR}:{minor}"));
    }
    if stat.uid != 0 {
        return Some(format!("belongs to the user {}", stat.uid));
    }
    (stat.mode & ALL != ALL).then(|| format!("has the mode {:o}, which is not for all", stat.mode))
}

fn database(inner: &Inner) -> Finding {
    if inner.store.is_failing() {
        let found = "the store cannot be written: what happens now may be forgotten with the agent";
        let advice = "look at the disk (space, inodes, read-only mount) and at the agent's log; it goes on by itself when it can write again";
        return Finding::new("store", Verdict::Bad, found, advice);
    }
    Finding::good(
        "store",
        format!("{} containers and {} images are on record", inner.containers.all().len(), inner.images.count()),
    )
}

fn images(inner: &Inner) -> Finding {
    let damaged = inner.layers.store.damaged();
    if damaged.is_empty() {
        return Finding::good("images", "no layer is known to be damaged");
    }
    let list: Vec<String> = damaged.iter().map(|(layer, why)| format!("{layer}: {why}")).collect();
    Finding::new("images", Verdict::Bad, list.join("; "), "pull the images again: only what is damaged is fetched")
}

/// What nobody owns any more: groups, folders, links.
fn leftovers(inner: &Inner) -> Finding {
    let first = ownerless(inner);
    if first.is_empty() {
        return Finding::good("leftovers", "every cgroup, folder and link of berth's has its container");
    }
    thread::sleep(SECOND_LOOK);
    let still: Vec<String> = ownerless(inner).intersection(&first).cloned().collect();
    if still.is_empty() {
        return Finding::good("leftovers", "every cgroup, folder and link of berth's has its container");
    }
    let advice = "restart the agent: it removes at its start what has no owner (containers go on)";
    Finding::new("leftovers", Verdict::Bad, still.join("; "), advice)
}

fn ownerless(inner: &Inner) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // Things first, then the owners: one that came meanwhile has its owner by now.
    let groups = inner.runtime.list_cgroups().unwrap_or_default();
    let links = inner.networks.strangers();
    let folders = [inner.config.run_root.join("containers"), inner.config.data_root.join("containers")]
        .map(|folder| (names(&folder), folder));
    let owned = |id: &str| id.parse::<ContainerId>().is_ok_and(|id| inner.containers.find(id.as_str()).is_ok());
    found.extend(groups.iter().filter(|id| !owned(id.as_str())).map(|id| format!("cgroup of {id}")));
    for (names, folder) in folders {
        found.extend(names.iter().filter(|n| !owned(n)).map(|n| format!("folder {}", folder.join(n).display())));
    }
    match links {
        Ok(links) => found.extend(links.iter().map(|name| format!("link {name}"))),
        Err(e) => drop(found.insert(format!("links cannot be listed: {e}"))),
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max processes             unlimited            unlimited            processes\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(text, "Max open files"), Some(1024));
        assert_eq!(soft_limit(text, "Max processes"), None);
        assert_eq!(soft_limit(text, "Max nothing"), None);
    }

    #[test]
    fn a_spoiled_null_device_is_told() {
        let dev = fs::File::open("/dev").unwrap();
        let null = Stat { uid: 0, mode: 0o666, ..lstatat(dev.as_fd(), "null").unwrap() };
        assert_eq!(spoiled(&null, 3), None);
        let why = |stat, minor| spoiled(&stat, minor).unwrap_or_default();
        assert!(why(null, 5).contains("1:5"));
        assert!(why(Stat { kind: Kind::Regular, ..null }, 3).contains("1:3"));
        assert!(why(Stat { uid: 1000, ..null }, 3).contains("1000"));
        assert!(why(Stat { mode: 0o600, ..null }, 3).contains("600"));
    }

    #[test]
    fn space() {
        let verdict = |free: u64, total: u64| space_of(Path::new("/"), free << 20, total << 20).verdict;
        assert_eq!(verdict(100_000, 200_000), Verdict::Good);
        assert_eq!(verdict(1_500, 200_000), Verdict::Warning);
        // A small share of a large disk.
        assert_eq!(verdict(9_000, 200_000), Verdict::Warning);
        assert_eq!(verdict(100, 200_000), Verdict::Bad);
        let text = space_of(Path::new("/data"), 3 << 29, 4 << 30).found;
        assert_eq!(text, "1.5 GiB of 4.0 GiB are free in /data");
    }
}
