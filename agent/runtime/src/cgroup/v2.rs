//! cgroup v2: one tree (Documentation/admin-guide/cgroup-v2.rst).

use super::scopes::Scopes;
use super::{
    Cgroups, Entry, Limits, PROBE, Parents, Setting, cpu_quota_us, cpu_weight, lines, make, open, put, write_existing,
};
use crate::counters::Counter;
use crate::{CgroupDriver, RuntimeConfig, RuntimeError};
use berth_model::ContainerId;
use berth_model::spec::Resources;
use berth_systemd::{Files, Property, limits};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

const CGROUP_KILL: &str = "cgroup.kill";
/// Linux 5.2. What it is told is done when `cgroup.events` says so.
const FREEZE: &str = "cgroup.freeze";
const WANTED: [&str; 4] = ["memory", "pids", "cpu", "cpuset"];

/// Few hosts need them: without them nothing is said before a limit is asked for.
const OPTIONAL: [&str; 2] = ["io", "hugetlb"];

pub(crate) struct V2 {
    /// Of groups that are ours.
    parents: Parents,
    /// Those that are systemd's.
    scopes: Scopes,
    /// Where the tree is mounted.
    point: PathBuf,
    controllers: Vec<String>,
}

impl V2 {
    /// Finds where this process may make groups, and enables the controllers there.
    ///
    /// Where a service manager has put the agent into a leaf, `agent`, of the group that it delegates (systemd 254, DelegateSubgroup=), it
    /// is in that group. Otherwise it is at the root of the tree. Not below a unit's group that the agent itself was started in: a group
    /// with processes gives no controllers to others ("no internal processes"), and one that gives some takes no process, so that
    /// the manager could not start the agent again while containers run.
    ///
    /// Nothing is made where systemd makes the groups.
    pub fn new(point: &Path, config: &RuntimeConfig) -> Result<Self, RuntimeError> {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let place = Path::new(delegated(&text));
        let folder = point.join(place);
        let driver = Some(config.cgroup_slice.as_str()).filter(|_| config.cgroup_driver == CgroupDriver::Systemd);
        let scopes = Scopes::new(point, &config.run_root, driver);
        let parent = config.cgroup_parent.trim_matches('/');
        let parents = Parents::open(&config.run_root, vec![point.to_owned()], &place.join(parent));
        let file = if scopes.are_made() {
            point.join("cgroup.controllers")
        } else {
            enable(&folder);
            let mut made = folder.clone();
            for part in Path::new(parent) {
                made.push(part);
                make(&made)?;
                enable(&made);
            }
            made.join("cgroup.subtree_control")
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        let controllers = text.split_whitespace().map(str::to_owned).collect();
        Ok(V2 { parents, scopes, point: point.to_owned(), controllers })
    }

    /// The container's group, there or not.
    fn group(&self, id: &ContainerId) -> PathBuf {
        self.scopes.group(id).unwrap_or_else(|| self.point.join(self.parents.of(id)).join(id.as_str()))
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

impl V2 {
    /// The limits of a new group that are one value: files with what is written to them. What this host has no file for is warned of.
    fn values(&self, r: &Resources, warnings: &mut Vec<String>) -> Vec<(&'static str, String)> {
        let mut values = Vec::new();
        let mut set = |controller: &str, file: &'static str, value: Option<String>| match value {
            Some(_) if !self.has(controller) => {
                warnings.push(format!("this host has no {controller} cgroup: its limits are not applied"));
            }
            Some(value) => values.push((file, value)),
            None => {}
        };
        set("memory", "memory.max", r.memory_bytes.map(|b| b.to_string()));
        set("memory", "memory.low", r.memory_reservation_bytes.map(|b| b.to_string()));
        set("pids", PIDS, r.pids.filter(|p| *p > 0).map(|p| p.to_string()));
        set("memory", OOM_GROUP, r.oom_group.then(|| "1".to_owned()));
        let quota = cpu_quota_us(r).map_or("max".to_owned(), |quota| quota.to_string());
        let asked = r.nano_cpus.or(r.cpu_period_us).is_some();
        set("cpu", "cpu.max", asked.then(|| format!("{quota} {}", r.cpu_period())));
        set("cpu", "cpu.weight", r.cpu_shares.map(|s| cpu_weight(s).to_string()));
        set("cpuset", "cpuset.cpus", r.cpuset_cpus.clone());
        set("cpuset", "cpuset.mems", r.cpuset_mems.clone());
        if let Some(memory) = r.memory_bytes.filter(|_| self.has("memory")) {
            // v2 counts swap alone. -1: no limit.
            let swap = match r.memory_swap_bytes {
                Some(both) if both < 0 => "max".to_owned(),
                Some(both) => (both as u64).saturating_sub(memory).to_string(),
                None => memory.to_string(),
            };
            values.push((SWAP, swap));
        }
        values
    }

    /// The limits of a new group that are more than one value.
    fn lines(&self, group: &Path, r: &Resources, warnings: &mut Vec<String>) -> Result<Vec<Setting>, RuntimeError> {
        let none = Resources::default();
        let mut settings = Vec::new();
        let asked =
            [("io", r.blkio_weight.is_some() || !r.block_devices.is_empty()), ("hugetlb", !r.hugepages.is_empty())];
        for (controller, _) in asked.iter().filter(|(_, asked)| *asked) {
            match *controller {
                c if !self.has(c) => {
                    warnings.push(format!("this host has no {c} cgroup: its limits are not applied"));
                }
                "io" => settings.extend(lines::block_v2(group, &none, r)?.there(warnings)),
                _ => settings.extend(lines::hugepages(group, &none, r, lines::HUGE_V2)?),
            }
        }
        settings.extend(lines::unified(group, &none, r));
        Ok(settings)
    }

    /// Has systemd make the group, with the limits as properties of the scope.
    fn scope(
        &self,
        id: &ContainerId,
        wanted: &Limits,
        holder: u32,
        values: &[(&'static str, String)],
    ) -> Result<PathBuf, RuntimeError> {
        // The end of all together is the scope's own, see Scope::oom_group.
        let told = values.iter().filter(|(file, _)| *file != OOM_GROUP);
        let properties = properties(told.map(|(file, value)| (*file, &**value)))?;
        let group = self.scopes.start(id, wanted, holder, &properties)?;
        if !wanted.resources.hugepages.is_empty() {
            // systemd hands down what it knows, and huge pages it does not.
            let slices = group.ancestors().skip(1).take_while(|above| above.starts_with(&self.point));
            slices.collect::<Vec<_>>().into_iter().rev().for_each(enable);
        }
        Ok(group)
    }

    /// What brings a group from `old` to `new`.
    fn changes(&self, group: &Path, old: &Resources, new: &Resources) -> Result<Vec<Setting>, RuntimeError> {
        let mut settings = Vec::new();
        let number = |n: Option<u64>, none: &str| n.map_or(none.to_owned(), |n| n.to_string());
        let mut set = |file: &str, value: String| settings.push(Setting::new(group.join(file), value));
        if old.memory_bytes != new.memory_bytes {
            set("memory.max", number(new.memory_bytes, "max"));
        }
        // A kernel that does not count swap has no such file: an error only for who asks for it.
        if swap_alone(old) != swap_alone(new)
            && (new.memory_swap_bytes.is_some() || group.join("memory.swap.max").exists())
        {
            set("memory.swap.max", number(swap_alone(new), "max"));
        }
        if old.memory_reservation_bytes != new.memory_reservation_bytes {
            set("memory.low", number(new.memory_reservation_bytes, "0"));
        }
        if old.oom_group != new.oom_group {
            set("memory.oom.group", u8::from(new.oom_group).to_string());
        }
        if (old.nano_cpus, old.cpu_period_us) != (new.nano_cpus, new.cpu_period_us) {
            set("cpu.max", format!("{} {}", number(cpu_quota_us(new), "max"), new.cpu_period()));
        }
        if old.cpu_shares != new.cpu_shares {
            set("cpu.weight", number(new.cpu_shares.map(cpu_weight), "100"));
        }
        if old.pids != new.pids {
            set("pids.max", new.pids.filter(|p| *p > 0).map_or("max".to_owned(), |p| p.to_string()));
        }
        for (file, old, new) in
            [("cpuset.cpus", &old.cpuset_cpus, &new.cpuset_cpus), ("cpuset.mems", &old.cpuset_mems, &new.cpuset_mems)]
        {
            // A group with processes whose list is not empty does not take an empty one (`ENOSPC`, Linux 6.12): all that is above, then.
            let above = || fs::read_to_string(group.with_file_name(format!("{file}.effective"))).unwrap_or_default();
            let list = |wanted: &Option<String>| wanted.clone().unwrap_or_else(|| above().trim().to_owned());
            if old != new {
                settings.push(Setting::new(group.join(file), list(new)).or_back_to(list(old)));
            }
        }
        settings.extend(lines::block_v2(group, old, new)?.all()?);
        settings.extend(lines::hugepages(group, old, new, lines::HUGE_V2)?);
        settings.extend(lines::unified(group, old, new));
        Ok(settings)
    }

    /// Tells systemd what the files of the scope are to hold, where the container has one. `all`: what holds then. systemd writes the other files,
    /// too, and its own values to some: they get back what they had.
    fn tell(&self, id: &ContainerId, settings: &[Setting], all: &Resources) -> Result<(), RuntimeError> {
        let Some(group) = self.scopes.group(id).filter(|_| !settings.is_empty()) else { return Ok(()) };
        let mut properties = properties(settings.iter().map(|s| (s.file(), &*s.value)))?;
        if settings.iter().any(|s| s.file() == IDLE && s.value.trim() == "0") {
            // An idle group has no weight; one that is idle no more has its own again.
            let raw = all.unified.get(WEIGHT).cloned();
            let weight = raw.unwrap_or_else(|| all.cpu_shares.map_or(100, cpu_weight).to_string());
            properties.extend(limits::properties(WEIGHT, &weight).unwrap_or_default());
        }
        let files = Files::read(&group);
        self.scopes.set(id, &properties)?;
        let asked = |file: &str| settings.iter().any(|s| s.file() == file);
        files.put_back(asked).map_err(|(path, source)| RuntimeError::Cgroup {
            act: "writing again what systemd has changed in",
            path,
            source,
        })
    }
}

/// Refuses what would be gone with the next reload of systemd.
fn properties<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Vec<Property>, RuntimeError> {
    let mut all = Vec::new();
    for (file, value) in files {
        all.extend(told(file, value).map_err(|why| RuntimeError::spec(UNIFIED, why))?);
    }
    Ok(all)
}

/// What systemd is told of a file, or why the file cannot be kept as it is.
fn told(file: &str, value: &str) -> Result<Vec<Property>, String> {
    limits::properties(file, value).map_err(|why| format!("{file} cannot be kept in a scope of systemd's: {why}"))
}

/// What is wrong with these for a container in a scope, by their field.
pub(crate) fn unkept(r: &Resources) -> impl Iterator<Item = (String, String)> {
    r.unified.iter().filter_map(|(file, value)| Some((UNIFIED.to_owned(), told(file, value).err()?)))
}

const UNIFIED: &str = "resources.unified";
const IDLE: &str = "cpu.idle";
const WEIGHT: &str = "cpu.weight";
const OOM_GROUP: &str = "memory.oom.group";
const PIDS: &str = "pids.max";
/// A kernel that does not count swap has no such file.
const SWAP: &str = "memory.swap.max";

/// Below a container's group, by its name: the one that a process of it is in, by /proc/PID/cgroup.
fn leaf<'a>(cgroup: &'a str, name: &str) -> &'a str {
    let own = cgroup.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or_default();
    own.split_once(name).map_or("", |(_, below)| below.trim_start_matches('/'))
}

/// The group whose leaf `agent` this process is in, by /proc/PID/cgroup; else the root. Relative to it.
fn delegated(cgroup: &str) -> &str {
    let own = cgroup.lines().find_map(|l| l.strip_prefix("0::/"));
    own.and_then(|own| own.strip_suffix("/agent")).unwrap_or_default()
}

/// One at a time: a controller that is not there does not keep the others out.
fn enable(folder: &Path) {
    for controller in WANTED.iter().chain(&OPTIONAL) {
        let _ = write_existing(&folder.join("cgroup.subtree_control"), &format!("+{controller}"));
    }
}

/// Does `then` when the group uses no more than `bytes`, after having let the kernel take back what it can.
///
/// memory.max below what is in use would kill processes at once; memory.high makes the kernel reclaim within the write.
/// `sets`: `then` writes a memory.high of its own, which stays.
fn with_room(
    group: &Path,
    bytes: u64,
    sets: bool,
    then: impl FnOnce() -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    let high = Setting::new(group.join("memory.high"), bytes.to_string());
    let before = fs::read_to_string(&high.path).map_err(|e| high.refused(e))?;
    put(high.path.clone(), &high.value)?;
    let used = fs::read_to_string(group.join("memory.current")).unwrap_or_default();
    let done = match used.trim().parse::<u64>() {
        Ok(used) if used > bytes => {
            let why = io::Error::new(io::ErrorKind::ResourceBusy, format!("{used} bytes are in use"));
            Err(Setting::new(group.join("memory.max"), bytes.to_string()).refused(why))
        }
        _ => then(),
    };
    if !(sets && done.is_ok()) {
        put(high.path, before.trim())?;
    }
    done
}

/// Bytes of swap, which v2 counts by itself; None: no limit.
fn swap_alone(r: &Resources) -> Option<u64> {
    Some(super::memory_and_swap(r)?.saturating_sub(r.memory_bytes?))
}

impl Cgroups for V2 {
    fn mode(&self) -> &'static str {
        "v2"
    }

    fn needs_holder(&self) -> bool {
        self.scopes.are_made()
    }

    fn create(&self, id: &ContainerId, limits: &Limits, holder: Option<u32>) -> Result<Entry, RuntimeError> {
        let r = &limits.resources;
        let (mut warnings, mut later) = (Vec::new(), Vec::new());
        let values = self.values(r, &mut warnings);
        let group = match holder {
            Some(holder) => self.scope(id, limits, holder, &values)?,
            None => {
                let own = self.point.join(self.parents.of(id)).join(id.as_str());
                make(&own)?;
                own
            }
        };
        for (file, value) in values {
            let path = group.join(file);
            match (file, r.pids.filter(|_| holder.is_some())) {
                (PIDS, Some(pids)) => {
                    // The holder counts until it leaves.
                    put(path.clone(), &pids.saturating_add(1).to_string())?;
                    later.push(Setting::new(path, value));
                }
                (SWAP, _) if !path.exists() => {
                    if r.memory_swap_bytes.is_some() {
                        warnings
                            .push("this host does not count swap: the limit of memory with swap is not applied".into());
                    }
                }
                _ => Setting::new(path, value).write()?,
            }
        }
        let lines = self.lines(&group, r, &mut warnings)?;
        if holder.is_some() {
            self.tell(id, &lines, r)?;
        }
        lines.iter().try_for_each(Setting::write)?;
        let folder = open(group.clone(), false)?;
        let slice =
            group.parent().filter(|_| holder.is_some()).map(|slice| open(slice.to_owned(), false)).transpose()?;
        if let Some(rules) = &limits.devices {
            let rules: Vec<berth_sys::cgroup_bpf::Rule> = rules
                .iter()
                .map(|r| berth_sys::cgroup_bpf::Rule {
                    block: r.block,
                    major: r.major,
                    minor: r.minor,
                    read: r.read,
                    write: r.write,
                    mknod: r.mknod,
                })
                .collect();
            berth_sys::cgroup_bpf::attach(folder.as_fd(), &rules).map_err(|source| RuntimeError::Cgroup {
                act: "attaching the device rules to",
                path: group,
                source,
            })?;
        }
        Ok(Entry { procs: Vec::new(), folder: Some(folder), warnings, slice, later })
    }

    fn enter(&self, id: &ContainerId, process: u32, probe: bool) -> Result<Entry, RuntimeError> {
        let mut group = self.group(id);
        // A group that hands controllers down takes no process ("no internal processes").
        let parted = fs::read_to_string(group.join("cgroup.subtree_control")).is_ok_and(|t| !t.trim().is_empty());
        if parted && !probe {
            let text = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            group.push(leaf(&text, &name));
        }
        if probe {
            // A leaf without controllers: it may have processes beside its parent's ("no internal processes" counts groups that hand
            // controllers down), and the parent's limits hold for it.
            group.push(PROBE);
            make(&group)?;
        }
        let folder = open(group, false)?;
        Ok(Entry { procs: Vec::new(), folder: Some(folder), warnings: Vec::new(), slice: None, later: Vec::new() })
    }

    /// cgroups(7), "Delegation". How many groups it may make is bounded, because each is memory of the kernel's; a service manager makes
    /// some hundreds, four deep.
    fn delegate(&self, id: &ContainerId, uid: u32, gid: u32) -> Result<(), RuntimeError> {
        const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
        let group = self.group(id);
        put(group.join("cgroup.max.descendants"), "1024")?;
        put(group.join("cgroup.max.depth"), "16")?;
        let files = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| FILES.into());
        let names = files.lines().filter(|name| !name.is_empty() && !name.contains('/'));
        for path in std::iter::once(group.clone()).chain(names.map(|name| group.join(name))) {
            match std::os::unix::fs::chown(&path, Some(uid), Some(gid)) {
                // Not every group has every file of this kernel.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(RuntimeError::Cgroup { act: "delegating", path, source }),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn probe(&self, id: &ContainerId) -> Option<PathBuf> {
        Some(self.group(id).join(PROBE))
    }

    fn folders(&self, id: &ContainerId) -> Vec<PathBuf> {
        vec![self.group(id)]
    }

    fn foreign_ids(&self) -> Vec<ContainerId> {
        self.scopes.ids()
    }

    fn give_back(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.scopes.stop(id)
    }

    fn forget(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.scopes.forget(id)
    }

    fn parents(&self) -> Vec<PathBuf> {
        self.parents.folders()
    }

    fn oom_kills(&self, id: &ContainerId) -> Option<u64> {
        let text = fs::read_to_string(self.group(id).join("memory.events")).ok()?;
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok())
    }

    fn oom_killed(&self, id: &ContainerId) -> bool {
        self.oom_kills(id).is_some_and(|n| n > 0) || self.scopes.has_noted_oom(id)
    }

    fn memory_limit(&self, id: &ContainerId) -> Option<(PathBuf, Option<u64>)> {
        let group = self.group(id);
        match fs::read_to_string(group.join("memory.max")) {
            // "max" is no number.
            Ok(text) => Some((group, text.trim().parse().ok())),
            // Gone with its last process.
            Err(_) => self.scopes.group(id).map(|group| (group, None)),
        }
    }

    fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let group = self.group(id);
        // Linux 5.14: every process at once, forks included.
        if write_existing(&group.join(CGROUP_KILL), "1").is_ok() {
            return Ok(());
        }
        let _ = write_existing(&group.join("pids.max"), "0");
        for pid in super::processes(&group) {
            if let Ok(pidfd) = berth_sys::process::pidfd_open(pid)
                && super::processes(&group).contains(&pid)
            {
                let _ = berth_sys::process::pidfd_send_signal(pidfd.as_fd(), 9);
            }
        }
        Ok(())
    }

    fn update(&self, id: &ContainerId, old: &Resources, new: &Resources) -> Result<(), RuntimeError> {
        let group = self.group(id);
        if old.oom_group != new.oom_group && self.scopes.group(id).is_some() {
            let message = "cannot be changed while it runs in a scope of systemd's, which takes it at the start only";
            return Err(RuntimeError::spec("resources.oom_group", message));
        }
        let settings = self.changes(&group, old, new)?;
        let write = || {
            // First, because systemd writes the files, too, and a quota in its own steps.
            self.tell(id, &settings, new)?;
            super::set_all(&settings)
        };
        let done = match new.memory_bytes.filter(|m| old.memory_bytes.is_none_or(|o| *m < o)) {
            Some(less) => {
                let sets = settings.iter().any(|s| s.path.ends_with("memory.high"));
                with_room(&group, less, sets, write)
            }
            None => write(),
        };
        if done.is_err() && self.scopes.group(id).is_some() {
            let back = self.changes(&group, new, old)?;
            if let Err(e) = self.tell(id, &back, old).and_then(|()| super::set_all(&back)) {
                tracing::error!(container = %id, error = %e, "putting limits back");
            }
        }
        done
    }

    fn counters(&self, id: &ContainerId) -> Vec<(Counter, PathBuf)> {
        const FILES: [(&str, Counter); 9] = [
            ("cpu.stat", Counter::V2Cpu),
            ("memory.current", Counter::Memory),
            ("memory.stat", Counter::V2MemoryParts),
            ("memory.swap.current", Counter::V2Swap),
            ("pids.current", Counter::Pids),
            ("io.stat", Counter::V2Block),
            ("cpu.pressure", Counter::CpuPressure),
            ("memory.pressure", Counter::MemoryPressure),
            ("io.pressure", Counter::IoPressure),
        ];
        let group = self.group(id);
        FILES.iter().map(|(file, counter)| (*counter, group.join(file))).collect()
    }

    fn freeze(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let group = self.group(id);
        put(group.join(FREEZE), "1")?;
        let frozen = super::wait_frozen(|| {
            let path = group.join("cgroup.events");
            let events =
                fs::read_to_string(&path).map_err(|source| RuntimeError::Cgroup { act: "reading", path, source })?;
            Ok(events.lines().any(|l| l == "frozen 1"))
        });
        if frozen.is_err() {
            put(group.join(FREEZE), "0")?;
        }
        frozen
    }

    fn thaw(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        put(self.group(id).join(FREEZE), "0")
    }

    fn is_frozen(&self, id: &ContainerId) -> bool {
        let file = self.group(id).join(FREEZE);
        fs::read_to_string(file).is_ok_and(|t| t.trim() == "1")
    }

    fn features(&self) -> Vec<(&'static str, bool)> {
        // The rest comes with Linux 5.7; the plan could do nothing without it.
        // The root has no such file, every group below it does.
        let groups = [self.point.join(self.parents.current()), self.point.join("system.slice")];
        let has = |name: &str| name != CGROUP_KILL || groups.iter().any(|group| group.join(CGROUP_KILL).exists());
        super::FEATURES.map(|name| (name, has(name))).to_vec()
    }

    fn warnings(&self) -> Vec<String> {
        WANTED.iter().filter(|c| !self.has(c)).map(|c| format!("no {c} cgroup: its limits cannot be applied")).collect()
    }

    fn trouble(&self) -> Option<String> {
        self.scopes.trouble()
    }

    fn path_in_hierarchies(&self, id: &ContainerId) -> String {
        let group = self.group(id);
        format!("/{}", group.strip_prefix(&self.point).unwrap_or(&group).display())
    }

    fn mounts(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leaf_is_delegated() {
        assert_eq!(delegated("0::/system.slice/berthd.service/agent\n"), "system.slice/berthd.service");
        for other in ["0::/\n", "0::/agent\n", "0::/system.slice/berthd.service\n", "1:name=x:/a/agent\n", ""] {
            assert_eq!(delegated(other), "", "{other}");
        }
    }

    #[test]
    fn beside_the_first_process() {
        assert_eq!(leaf("0::/berth/abc/init.scope\n", "abc"), "init.scope");
        assert_eq!(leaf("0::/system.slice/berthd.service/berth/abc/a/b\n", "abc"), "a/b");
        assert_eq!(leaf("0::/a.slice/berth-abc.scope/x\n", "berth-abc.scope"), "x");
        for none in ["0::/berth/abc\n", "0::/\n", ""] {
            assert_eq!(leaf(none, "abc"), "", "{none}");
        }
    }

    #[test]
    fn what_a_reload_would_undo_is_refused_by_name() {
        let error = |file, value| properties([(file, value)].into_iter()).unwrap_err().to_string();
        for (file, value) in [("memory.oom.group", "1"), ("cpu.weight.nice", "3"), ("memory.high", "0x10")] {
            let said = error(file, value);
            assert!(said.contains("unified") && said.contains(file), "{said}");
        }
        let unified = [("cpu.weight.nice", "3"), ("memory.high", "1M")].map(|(f, v)| (f.to_owned(), v.to_owned()));
        let wrong: Vec<_> = unkept(&Resources { unified: unified.into(), ..Resources::default() }).collect();
        assert!(
            matches!(&wrong[..], [(field, why)] if field == UNIFIED && why.contains("cpu.weight.nice")),
            "{wrong:?}"
        );
        assert_eq!(properties([("hugetlb.2MB.max", "0"), ("memory.max", "1M")].into_iter()).unwrap().len(), 1);
    }
}
