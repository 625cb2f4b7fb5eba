//! Control groups: one trait, a driver for v1 (and hybrid) and one for v2.
//!
//! A container has one group, `PARENT/ID`, in every hierarchy that it needs (`parents`: which PARENT). Limits are written before the first process joins.
//! Where systemd makes the groups (v2), it is the scope `berth-ID.scope` in a slice, with the limits as properties, too: `scopes`.

mod devices;
mod hierarchy;
mod lines;
mod parents;
mod scopes;
mod v1;
mod v2;
mod weight;

pub(crate) use devices::{DeviceRule, default_rules};
#[cfg(fuzzing)]
pub(crate) use hierarchy::parse as hierarchies_in;
pub use hierarchy::{Hierarchy, mounted};
use parents::Parents;
pub use parents::read as known_parents;
pub(crate) use v2::unkept;
pub use weight::{cpu_weight, io_weight};

use crate::counters::Counter;
use crate::{CgroupDriver, RuntimeConfig, RuntimeError};
use berth_model::ContainerId;
use berth_model::spec::{LEAST_CPU_QUOTA_US, Resources};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a container may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub resources: Resources,
    /// None: the container may use every device.
    pub devices: Option<Vec<DeviceRule>>,
    /// The container's, for people who look at what systemd has.
    pub name: String,
    /// The slice of systemd's that it asks for.
    pub parent: Option<String>,
    /// From systemd's SIGTERM to its SIGKILL when somebody stops the scope.
    pub stop_timeout: Duration,
}

/// How a new process gets into a container's group.
pub(crate) struct Entry {
    /// v1: `tasks` files, to which the process writes "0" itself.
    pub procs: Vec<OwnedFd>,
    /// v2: the group's folder, to be born in.
    pub folder: Option<OwnedFd>,
    /// What was asked for and is not there.
    pub warnings: Vec<String>,
    /// v2: the folder above, where systemd takes the group away by itself.
    pub slice: Option<OwnedFd>,
    /// To be written when a process that only held the group has left it.
    pub later: Vec<Setting>,
}

pub(crate) trait Cgroups: Send + Sync {
    /// `v1`, `hybrid` or `v2`.
    fn mode(&self) -> &'static str;
    /// A group can only be made around a process: [`Cgroups::create`] is to get one.
    fn needs_holder(&self) -> bool {
        false
    }
    /// Makes the groups with their limits. `holder`: a process that can be moved to them, and leaves when the container's own are there.
    fn create(&self, id: &ContainerId, limits: &Limits, holder: Option<u32>) -> Result<Entry, RuntimeError>;
    /// Opens the way into groups that are there (exec); with `probe` into the group of health checks, where there is one. `process`: the
    /// container's first one, beside which a process goes where the container has parted its group.
    fn enter(&self, id: &ContainerId, process: u32, probe: bool) -> Result<Entry, RuntimeError>;
    /// Lets a user and group of the host make groups below the container's. Nothing on v1.
    fn delegate(&self, _id: &ContainerId, _uid: u32, _gid: u32) -> Result<(), RuntimeError> {
        Ok(())
    }
    /// The folder of the group of health checks, there or not.
    fn probe(&self, id: &ContainerId) -> Option<PathBuf>;
    /// Folders of the container, there or not.
    fn folders(&self, id: &ContainerId) -> Vec<PathBuf> {
        self.parents().into_iter().map(|p| p.join(id.as_str())).collect()
    }
    /// Folders of the container that are there.
    fn paths(&self, id: &ContainerId) -> Vec<PathBuf> {
        self.folders(id).into_iter().filter(|p| p.is_dir()).collect()
    }
    /// Folders that hold containers' groups.
    fn parents(&self) -> Vec<PathBuf>;
    /// Containers whose groups somebody else makes.
    fn foreign_ids(&self) -> Vec<ContainerId> {
        Vec::new()
    }
    /// Has who made the container's group, where that is somebody else, take it away: its processes are gone.
    fn give_back(&self, _id: &ContainerId) -> Result<(), RuntimeError> {
        Ok(())
    }
    /// Forgets what is remembered of a group that is gone.
    fn forget(&self, _id: &ContainerId) -> Result<(), RuntimeError> {
        Ok(())
    }
    /// Processes that the kernel ended for want of memory. None: it does not count them here.
    fn oom_kills(&self, id: &ContainerId) -> Option<u64>;
    fn oom_killed(&self, id: &ContainerId) -> bool {
        self.oom_kills(id).is_some_and(|n| n > 0)
    }
    /// The folder that counts memory, and its limit in bytes (None: no limit).
    fn memory_limit(&self, id: &ContainerId) -> Option<(PathBuf, Option<u64>)>;
    /// Starts the end of every process in the group, and keeps new ones from coming where the kernel can.
    fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Brings the limits of living processes from `old` to `new`: all of them, or none.
    fn update(&self, id: &ContainerId, old: &Resources, new: &Resources) -> Result<(), RuntimeError>;
    /// Files with what the group uses; those that this host does not have are among them.
    fn counters(&self, id: &ContainerId) -> Vec<(Counter, PathBuf)>;
    /// Freezes every process of the group; when that does not come about in time, thaws it again.
    fn freeze(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    fn thaw(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    fn is_frozen(&self, id: &ContainerId) -> bool;
    /// Abilities of the kernel that are used when they are there.
    fn features(&self) -> Vec<(&'static str, bool)>;
    /// What this host cannot do.
    fn warnings(&self) -> Vec<String>;
    /// Why no container can be started. Asks systemd, where that makes the groups.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// The container's group from the root of the hierarchies, as `linux.cgroupsPath` of the runtime-spec.
    fn path_in_hierarchies(&self, id: &ContainerId) -> String;
    /// `linux.resources.memory` for other runtimes: limits that one of them takes off when it joins the group.
    fn memory_for_others(&self, _limits: &Resources) -> Vec<(&'static str, i64)> {
        Vec::new()
    }
    /// Hierarchies in which containers have no group: other runtimes are not to see them.
    fn unused(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// Mounts that show a container its own groups: hierarchies and their folders below /sys/fs/cgroup.
    fn mounts(&self) -> Vec<(String, String)>;
}

/// What [`Cgroups::features`] names: one tree for all controllers; processes are born in their group; a group's processes die together.
const FEATURES: [&str; 3] = ["cgroup_v2", "clone_into_cgroup", "cgroup.kill"];

/// Finds out how this host is set up.
pub(crate) fn detect(config: &RuntimeConfig) -> Result<Arc<dyn Cgroups>, RuntimeError> {
    let mounts = hierarchy::mounted().map_err(RuntimeError::io("reading /proc/self/mountinfo"))?;
    let (v2, v1): (Vec<_>, Vec<_>) = mounts.into_iter().partition(|h| h.v2);
    if v1.iter().any(|h| !h.controllers.is_empty()) {
        if config.cgroup_driver == CgroupDriver::Systemd {
            let message = "\"systemd\" needs a host with cgroup v2 alone, and this one has v1: boot it with \
                           systemd.unified_cgroup_hierarchy=1, or set \"cgroupfs\"";
            return Err(RuntimeError::spec("containers.cgroup_driver", message));
        }
        let unused = v2.into_iter().map(|h| h.point).collect();
        return Ok(Arc::new(v1::V1::new(v1, &config.cgroup_parent, &config.run_root, unused)));
    }
    let Some(unified) = v2.first() else {
        return Err(RuntimeError::Io {
            act: "looking for cgroups in /proc/self/mountinfo".into(),
            source: io::Error::from(io::ErrorKind::NotFound),
        });
    };
    Ok(Arc::new(v2::V2::new(&unified.point, config)?))
}

/// Kills everything in the container's groups and waits until they are empty.
pub(crate) fn kill_all(cgroups: &dyn Cgroups, id: &ContainerId, timeout: Duration) -> Result<(), RuntimeError> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        let left: usize = cgroups.paths(id).iter().map(|p| processes(p).len()).max().unwrap_or(0);
        if left == 0 {
            return Ok(());
        }
        cgroups.kill(id)?;
        if start.elapsed() >= timeout {
            return Err(RuntimeError::StillAlive { left, waited_ms: start.elapsed().as_millis() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Folder of the health checks' processes below a container's own: no limits of its own, only to find them.
const PROBE: &str = "probe";

/// The way into the group of health checks for a process that is there already; made when it is missing.
pub(crate) fn probe_procs(cgroups: &dyn Cgroups, id: &ContainerId) -> Result<Option<OwnedFd>, RuntimeError> {
    let Some(group) = cgroups.probe(id) else { return Ok(None) };
    make(&group)?;
    open(group.join("cgroup.procs"), true).map(Some)
}

/// Kills what is in the group of the container's health checks, and waits until it is empty.
pub(crate) fn kill_probe(cgroups: &dyn Cgroups, id: &ContainerId, timeout: Duration) -> Result<(), RuntimeError> {
    let Some(group) = cgroups.probe(id) else { return Ok(()) };
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    let mut held = false;
    loop {
        let pids = processes(&group);
        if pids.is_empty() {
            if held {
                let _ = write_existing(&group.join("pids.max"), "max");
            }
            return Ok(());
        }
        if start.elapsed() >= timeout {
            return Err(RuntimeError::StillAlive { left: pids.len(), waited_ms: start.elapsed().as_millis() });
        }
        // Nothing forks any more, so that the loop comes to an end.
        held |= write_existing(&group.join("pids.max"), "0").is_ok();
        if write_existing(&group.join("cgroup.kill"), "1").is_err() {
            pids.into_iter().for_each(|pid| kill_in(&group, pid));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Sends SIGKILL to exactly a process that is in the group: the pidfd is opened first, then the group is asked again.
fn kill_in(group: &Path, pid: u32) {
    use std::os::fd::AsFd;
    const SIGKILL: i32 = 9;
    if let Ok(pidfd) = berth_sys::process::pidfd_open(pid)
        && processes(group).contains(&pid)
    {
        let _ = berth_sys::process::pidfd_send_signal(pidfd.as_fd(), SIGKILL);
    }
}

/// Processes of a group and of the groups that the container made below it.
pub(crate) fn processes(group: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    let mut folders = vec![group.to_owned()];
    while let Some(folder) = folders.pop() {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()).filter(|p| *p != 0));
        folders.extend(subfolders(&folder));
    }
    pids
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Removes the groups, deepest first. The kernel needs a moment to let go of a process that has just ended: `EBUSY` until then.
pub(crate) fn remove(cgroups: &dyn Cgroups, id: &ContainerId) -> Result<(), RuntimeError> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let start = Instant::now();
    cgroups.give_back(id)?;
    for path in cgroups.folders(id) {
        let mut pause = Duration::from_micros(200);
        loop {
            match remove_tree(&path) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && start.elapsed() < PATIENCE => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(source) => return Err(RuntimeError::Cgroup { act: "removing the cgroup", path, source }),
            }
        }
    }
    cgroups.forget(id)
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            let below = subfolders(folder);
            if below.is_empty() {
                return Err(e);
            }
            below.iter().try_for_each(|p| remove_tree(p))?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Ids that have groups of ours.
pub(crate) fn list(cgroups: &dyn Cgroups) -> Vec<ContainerId> {
    let mut ids: Vec<ContainerId> = cgroups
        .parents()
        .iter()
        .flat_map(|p| subfolders(p))
        .filter_map(|p| p.file_name()?.to_str()?.parse().ok())
        .chain(cgroups.foreign_ids())
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// From the order to freeze until every process stands still; longer means that the kernel holds one (D state).
const FREEZE: Duration = Duration::from_secs(5);

/// Asks again and again until everything is frozen.
fn wait_frozen(mut frozen: impl FnMut() -> Result<bool, RuntimeError>) -> Result<(), RuntimeError> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if frozen()? {
            return Ok(());
        }
        if start.elapsed() >= FREEZE {
            return Err(RuntimeError::Freeze { waited_ms: start.elapsed().as_millis() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Makes a folder; there already is fine.
fn make(path: &Path) -> Result<(), RuntimeError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // As it would be without the agent's umask: root of a container's user namespace walks through it when it mounts its own group.
        made => made
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map_err(|source| RuntimeError::Cgroup { act: "making the cgroup", path: path.into(), source }),
    }
}

fn put(path: PathBuf, value: &str) -> Result<(), RuntimeError> {
    write_existing(&path, value).map_err(|source| RuntimeError::Cgroup { act: "writing a limit to", path, source })
}

/// A limit to be written.
pub(crate) struct Setting {
    path: PathBuf,
    value: String,
    /// What takes it back; None: what the file held.
    undo: Option<String>,
}

impl Setting {
    fn new(path: PathBuf, value: impl Into<String>) -> Self {
        Setting { path, value: value.into(), undo: None }
    }

    /// For a file of many lines, which does not take back what it shows.
    fn or_back_to(self, undo: impl Into<String>) -> Self {
        Setting { undo: Some(undo.into()), ..self }
    }

    /// Its name.
    fn file(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// For a group that is new: nothing has to be taken back.
    pub fn write(&self) -> Result<(), RuntimeError> {
        write_line(&self.path, &self.value).map_err(|e| self.refused(e))
    }

    fn refused(&self, source: io::Error) -> RuntimeError {
        RuntimeError::Limit { path: self.path.clone(), value: self.value.clone(), source }
    }
}

/// Writes all settings, in order. When one is refused, those before it get their old values back, the last one first.
pub(crate) fn set_all(settings: &[Setting]) -> Result<(), RuntimeError> {
    let mut before: Vec<(&Path, String)> = Vec::new();
    for setting in settings {
        let old = setting.undo.clone().map_or_else(|| fs::read_to_string(&setting.path), Ok);
        let done = old.and_then(|old| write_line(&setting.path, &setting.value).map(|()| old));
        match done {
            Ok(old) => before.push((&setting.path, old)),
            Err(e) => {
                for (path, old) in before.iter().rev() {
                    // It was taken a moment ago.
                    if let Err(e) = write_line(path, old.trim()) {
                        tracing::error!(path = %path.display(), value = old.trim(), error = %e, "putting a limit back");
                    }
                }
                return Err(setting.refused(e));
            }
        }
    }
    Ok(())
}

/// With its end: an empty value would be no write at all.
fn write_line(path: &Path, value: &str) -> io::Result<()> {
    write_existing(path, &format!("{value}\n"))
}

/// Memory and swap together in bytes, as v1 counts them; None: no limit. Docker's default is twice the memory.
fn memory_and_swap(r: &Resources) -> Option<u64> {
    let memory = r.memory_bytes?;
    match r.memory_swap_bytes {
        Some(both) => u64::try_from(both).ok(),
        None => Some(memory.saturating_mul(2)),
    }
}

/// Writes values one by one: each is a write(2) of its own to the kernel.
fn put_each(path: PathBuf, values: impl Iterator<Item = String>) -> Result<(), RuntimeError> {
    use std::io::Write;
    let file = fs::OpenOptions::new().write(true).open(&path);
    let written = file.and_then(|mut f| values.into_iter().try_for_each(|v| f.write_all(v.as_bytes())));
    written.map_err(|source| RuntimeError::Cgroup { act: "writing a limit to", path, source })
}

/// The limit of a running container that this host cannot give it, under the name of its field.
fn no_controller(controller: &str, field: &str) -> RuntimeError {
    let field = format!("resources.{field}");
    RuntimeError::spec(&field, format!("this host has no {controller} cgroup, so that it has no such limits"))
}

/// Without O_CREAT, which cgroupfs refuses with EACCES instead of saying that the file is not there.
fn write_existing(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn open(path: PathBuf, write: bool) -> Result<OwnedFd, RuntimeError> {
    let file = fs::OpenOptions::new().read(!write).write(write).open(&path);
    file.map(OwnedFd::from).map_err(|source| RuntimeError::Cgroup { act: "opening", path, source })
}

/// None: no limit.
fn cpu_quota_us(r: &Resources) -> Option<u64> {
    // Containers of earlier agents may have asked for less than there is.
    r.cpu_quota().map(|quota| quota.max(LEAST_CPU_QUOTA_US))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_become_a_quota() {
        let quota = |nanos, period| {
            let r = Resources { nano_cpus: Some(nanos), cpu_period_us: period, ..Resources::default() };
            cpu_quota_us(&r)
        };
        assert_eq!(quota(1_500_000_000, None), Some(150_000));
        assert_eq!(quota(1_500_000_000, Some(20_000)), Some(30_000));
        assert_eq!(quota(1, None), Some(1000));
        assert_eq!(cpu_quota_us(&Resources::default()), None);
    }
}
