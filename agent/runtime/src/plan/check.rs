//! What is wrong with a spec, all at once.

use crate::signal;
use crate::sysctl::{self, Owner};
use berth_model::ContainerSpec;
use berth_model::network::NetworkMode;
use berth_model::spec::{Device, Mount, MountKind, Resources, Seccomp};
use berth_model::wire::PROC_FILES;
use berth_sys::wall::is_down;
use berth_sys::{cap, process};

/// Docker's least, below which nothing starts.
const LEAST_MEMORY: u64 = 6 << 20;

/// Why a device of another name cannot be there, where the container has something of its own.
fn not_for_devices(path: &str) -> Option<&'static str> {
    let below = |folder: &str| path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    if ["/proc", "/sys", "/dev/pts", "/dev/shm", "/dev/mqueue"].into_iter().any(below) {
        return Some("a file system of the container's own is mounted there");
    }
    let name = path.strip_prefix("/dev/")?;
    let own = super::mounts::NODES.iter().any(|(node, ..)| *node == name)
        || super::mounts::LINKS.iter().any(|(link, _)| *link == name)
        || name == "console";
    own.then_some("every container has a device of that name")
}

pub(crate) fn check(spec: &ContainerSpec) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let mut say = |field: &str, message: String| wrong.push((field.to_owned(), message));
    let texts = spec.command.iter().chain(spec.entrypoint.iter().flatten()).chain(&spec.env);
    if texts.clone().any(|t| t.contains('\0')) {
        say("command", "commands and environment cannot hold a NUL byte".into());
    }
    if let Some(bad) = spec.env.iter().find(|e| e.is_empty() || e.starts_with('=')) {
        say("env", format!("{bad:?} has no name: KEY=value"));
    }
    for (field, value) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        // HOST_NAME_MAX is 64; letters as RFC 1123 has them, with the underscore that people use.
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if value.as_ref().is_some_and(|v| v.len() > 64 || !v.bytes().all(good)) {
            say(field, "at most 64 letters, digits, '-', '.' and '_'".into());
        }
    }
    if spec.host_uts && spec.hostname.is_some() {
        say("hostname", "cannot be set with the host's UTS namespace".into());
    }
    if spec.workdir.as_ref().is_some_and(|w| !w.is_empty() && !w.starts_with('/')) {
        say("workdir", "must be an absolute path".into());
    }
    if let Some(name) = spec.stop_signal.as_ref().filter(|s| signal::parse(s).is_none()) {
        say("stop_signal", format!("unknown signal {name:?}"));
    }
    for (field, list) in [("cap_add", &spec.cap_add), ("cap_drop", &spec.cap_drop)] {
        for name in list {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if short != "ALL" && cap::bit(short).is_none() {
                say(field, format!("unknown capability {name:?}"));
            }
        }
    }
    for limit in &spec.ulimits {
        if !process::RESOURCES.iter().any(|(n, _)| *n == limit.name) {
            say("ulimits", format!("unknown limit {:?}", limit.name));
        } else if limit.soft > limit.hard {
            say(
                "ulimits",
                format!("{}: the soft limit {} is above the hard limit {}", limit.name, limit.soft, limit.hard),
            );
        }
    }
    for key in spec.sysctls.keys() {
        if let Some(message) = sysctl_problem(key, spec) {
            say("sysctls", format!("{key}: {message}"));
        }
    }
    if spec.oom_score_adj.is_some_and(|v| !(-1000..=1000).contains(&v)) {
        say("oom_score_adj", "must lie between -1000 and 1000".into());
    }
    for mount in &spec.mounts {
        if !mount.target.starts_with('/') || mount.target.split('/').any(|p| p == "..") || mount.target.contains('\0') {
            say("mounts", format!("target {:?} must be an absolute path without '..'", mount.target));
        } else if mount.target.split('/').all(|p| p.is_empty() || p == ".") {
            say("mounts", "the target cannot be '/'".into());
        } else if is_in_proc(mount) && !is_down("proc") {
            say("mounts", format!("target {:?}: /proc holds the kernel's own files, and nothing else", mount.target));
        }
        if let MountKind::Bind { source, .. } = &mount.kind
            && !source.starts_with('/')
        {
            say("mounts", format!("source {source:?} must be an absolute path"));
        }
    }
    // Each is a descriptor of the shim's first message, which has room for some more.
    if spec.mounts.iter().filter(|m| super::mounts::is_given(&m.kind)).count() > 64 {
        say("mounts", "at most 64 volumes, images, and folders of the host that are held inside others".into());
    }
    for device in &spec.devices {
        let letters = &device.permissions;
        if letters.is_empty() || !letters.bytes().all(|b| b"rwm".contains(&b)) {
            say("devices", format!("permissions {letters:?} of {} must be letters of rwm", device.host_path));
        }
        if !device.host_path.starts_with('/') || !device.container_path.starts_with('/') {
            say("devices", format!("{}:{} must be absolute paths", device.host_path, device.container_path));
        }
        if device.host_path != device.container_path
            && let Some(why) = not_for_devices(&device.container_path)
        {
            say("devices", format!("{} cannot be at {}: {why}", device.host_path, device.container_path));
        }
    }
    for (n, device) in spec.devices.iter().enumerate() {
        let other = |d: &&Device| d.container_path == device.container_path && d.host_path != device.host_path;
        if let Some(other) = spec.devices[..n].iter().find(other) {
            say(
                "devices",
                format!("{} and {} are both to be {}", other.host_path, device.host_path, device.container_path),
            );
        }
    }
    let r = &spec.resources;
    if r.memory_bytes.is_some_and(|m| m < LEAST_MEMORY) {
        say("resources.memory_bytes", "must be at least 6 MiB".into());
    }
    match (r.memory_bytes, r.memory_swap_bytes) {
        (None, Some(swap)) if swap > 0 => {
            say("resources.memory_swap_bytes", "needs a limit of memory beside it".into())
        }
        (Some(memory), Some(swap)) if swap >= 0 && (swap as u64) < memory => {
            say("resources.memory_swap_bytes", "counts memory too, so it cannot be below the limit of memory".into());
        }
        _ => {}
    }
    if let (Some(memory), Some(reserved)) = (r.memory_bytes, r.memory_reservation_bytes)
        && reserved > memory
    {
        say("resources.memory_reservation_bytes", "must not be above the limit of memory".into());
    }
    if r.cpu_shares.is_some_and(|s| !(2..=262_144).contains(&s)) {
        say("resources.cpu_shares", "must lie between 2 and 262144".into());
    }
    for (field, list) in [("resources.cpuset_cpus", &r.cpuset_cpus), ("resources.cpuset_mems", &r.cpuset_mems)] {
        if list
            .as_ref()
            .is_some_and(|l| l.is_empty() || !l.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b'-')))
        {
            say(field, "must be a list such as 0-2,5".into());
        }
    }
    more_limits(r, &mut say);
    if let Seccomp::Profile(text) = &spec.seccomp
        && let Err(error) = crate::seccomp::parse(text)
    {
        say("seccomp", error.to_string());
    }
    if spec.log.max_files == 0 || spec.log.max_file_bytes == 0 {
        say("log", "files and their size must be above 0".into());
    }
    wrong
}

/// Periods, disks, huge pages and files of v2.
fn more_limits(r: &Resources, say: &mut impl FnMut(&str, String)) {
    if r.cpu_period_us.is_some_and(|p| !(1000..=1_000_000).contains(&p)) {
        say("resources.cpu_period_us", "must lie between 1000 and 1000000 microseconds".into());
    }
    let bad_weight = |w: Option<u16>| w.is_some_and(|w| !(10..=1000).contains(&w));
    if bad_weight(r.blkio_weight) {
        say("resources.blkio_weight", "must lie between 10 and 1000".into());
    }
    for (n, limit) in r.block_devices.iter().enumerate() {
        if !limit.path.starts_with('/') {
            say("resources.block_devices", format!("{:?} must be an absolute path", limit.path));
        } else if r.block_devices[..n].iter().any(|other| other.path == limit.path) {
            say("resources.block_devices", format!("{} is there twice", limit.path));
        }
        if bad_weight(limit.weight) {
            say("resources.block_devices", format!("the weight of {} must lie between 10 and 1000", limit.path));
        }
    }
    for size in r.hugepages.keys() {
        let number = size.strip_suffix("KB").or_else(|| size.strip_suffix("MB")).or_else(|| size.strip_suffix("GB"));
        if !number.is_some_and(|n| (1..=6).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit())) {
            say("resources.hugepages", format!("{size:?} is no size of pages, such as 2MB or 1GB"));
        }
    }
    for (file, value) in &r.unified {
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_');
        let good = file.len() <= 64 && file.bytes().all(name) && file.split('.').count() > 1;
        if !good || file.split('.').any(str::is_empty) || file.starts_with("cgroup.") {
            say("resources.unified", format!("{file:?} is no file of a controller, such as memory.high"));
        }
        if value.is_empty() || value.len() > 4096 || value.chars().any(|c| c.is_control()) {
            say("resources.unified", format!("the value of {file} must be one line of at most 4096 bytes"));
        }
    }
}

/// Below /proc is what berth itself reads and writes there (CVE-2019-16884, CVE-2025-52881). Files that lxcfs has for it are taken.
fn is_in_proc(mount: &Mount) -> bool {
    let mut names = mount.target.split('/').filter(|p| !p.is_empty() && *p != ".");
    if names.next() != Some("proc") {
        return false;
    }
    let rest: Vec<&str> = names.collect();
    !(matches!(mount.kind, MountKind::Bind { .. }) && PROC_FILES.contains(&rest.join("/").as_str()))
}

/// Only what belongs to a namespace of the container's own: everything else would change the host.
fn sysctl_problem(key: &str, spec: &ContainerSpec) -> Option<&'static str> {
    if is_down("sysctls") {
        return None;
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b'*');
    if key.is_empty() || !key.bytes().all(good) || key.contains("..") {
        return Some("is no sysctl name");
    }
    match sysctl::owner(key) {
        Some(Owner::Network) => {
            (spec.network == NetworkMode::Host).then_some("belongs to the host's network, which this container shares")
        }
        Some(Owner::Ipc) => spec.host_ipc.then_some("belongs to the host's IPC namespace, which this container shares"),
        _ => Some("is not of a namespace: it would change the host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::spec::{Resources, Ulimit};

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        assert_eq!(check(&ContainerSpec::default()), []);
        let spec = ContainerSpec {
            cap_add: vec!["NET_ADMIN".into(), "CAP_nope".into()],
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 2, hard: 1 }],
            sysctls: [("kernel.panic".to_owned(), "1".to_owned())].into(),
            mounts: vec![Mount {
                target: "/a/../b".into(),
                read_only: false,
                kind: MountKind::Tmpfs { size_bytes: None, mode: None, exec: false },
                relabel: Default::default(),
            }],
            resources: Resources { memory_bytes: Some(1), memory_swap_bytes: Some(0), ..Default::default() },
            stop_signal: Some("SIGNOPE".into()),
            workdir: Some("rel".into()),
            ..ContainerSpec::default()
        };
        let fields: Vec<String> = check(&spec).into_iter().map(|(field, _)| field).collect();
        assert_eq!(
            fields,
            [
                "workdir",
                "stop_signal",
                "cap_add",
                "ulimits",
                "sysctls",
                "mounts",
                "resources.memory_bytes",
                "resources.memory_swap_bytes"
            ]
        );
    }
}
