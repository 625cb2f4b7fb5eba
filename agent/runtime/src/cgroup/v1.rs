//! cgroup v1: one hierarchy per controller (Documentation/admin-guide/cgroup-v1/).

use super::{
    Cgroups, Entry, Hierarchy, Limits, PROBE, Parents, Setting, cpu_quota_us, kill_in, lines, make, open, processes,
    put, put_each, write_existing,
};
use crate::RuntimeError;
use crate::counters::Counter;
use berth_model::ContainerId;
use berth_model::spec::Resources;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file that a process of one thread writes "0" to when it joins. `cgroup.procs` would do the same, but the kernel takes
/// the lock against all forks for it, which waits for an RCU grace period (13 to 25 ms here, unless another start has just
/// paid for it); a thread that moves itself through `tasks` needs no such lock (kernel/cgroup/cgroup.c, cgroup_procs_write_start).
const JOIN: &str = "tasks";

pub(crate) struct V1 {
    hierarchies: Vec<Hierarchy>,
    parents: Parents,
    /// Mounts of v2 beside, which is not used.
    unused: Vec<PathBuf>,
}

impl V1 {
    pub fn new(hierarchies: Vec<Hierarchy>, parent: &str, run_root: &Path, unused: Vec<PathBuf>) -> Self {
        let points = hierarchies.iter().map(|h| h.point.clone()).collect();
        let parents = Parents::open(run_root, points, Path::new(parent.trim_matches('/')));
        V1 { hierarchies, parents, unused }
    }

    fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    /// The container's folder in the controller's hierarchy, there or not.
    fn folder(&self, controller: &str, id: &ContainerId) -> Option<PathBuf> {
        self.hierarchy(controller).map(|h| h.point.join(self.parents.of(id)).join(id.as_str()))
    }

    /// The container's folder in the controller's hierarchy, made with its parents.
    fn group(&self, controller: &str, id: &ContainerId) -> Result<Option<PathBuf>, RuntimeError> {
        let Some(path) = self.folder(controller, id) else { return Ok(None) };
        match fs::create_dir(&path) {
            Ok(()) => return Ok(Some(path)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Some(path)),
            Err(_) => {}
        }
        // The first container since the boot.
        let mut built = self.hierarchy(controller).map(|h| h.point.clone()).unwrap_or_default();
        for part in self.parents.of(id) {
            built.push(part);
            make(&built)?;
            if controller == "cpuset" {
                inherit_cpuset(&built)?;
            }
        }
        make(&path)?;
        Ok(Some(path))
    }

    /// The container's group of a controller that no start needs, with every process of the container in it.
    ///
    /// Those that are born meanwhile are in their parents' group: what is missed in one round is found in the next.
    fn gather(&self, controller: &str, id: &ContainerId) -> Result<PathBuf, RuntimeError> {
        const ROUNDS: u32 = 100;
        let Some(group) = self.group(controller, id)? else {
            return Err(not_gathered(format!("the {controller} cgroup").into(), io::ErrorKind::NotFound));
        };
        if controller == "cpuset" {
            inherit_cpuset(&group)?;
        }
        for _ in 0..ROUNDS {
            // Before and behind the others: one that is born in the group meanwhile, or ends there, is not outside. Where processes
            // come and go all the time, some would be missing in every round.
            let mut inside: BTreeSet<u32> = processes(&group).into_iter().collect();
            let others = self.paths(id).into_iter().filter(|p| *p != group);
            let mut outside: BTreeSet<u32> = others.flat_map(|p| processes(&p)).collect();
            inside.extend(processes(&group));
            outside.retain(|p| !inside.contains(p));
            if outside.is_empty() {
                return Ok(group);
            }
            for pid in outside {
                match write_existing(&group.join("cgroup.procs"), &pid.to_string()) {
                    // ESRCH: it has ended.
                    Err(e) if e.raw_os_error() == Some(3) => {}
                    done => done.map_err(|source| RuntimeError::Cgroup {
                        act: "moving a process to",
                        path: group.clone(),
                        source,
                    })?,
                }
            }
        }
        Err(not_gathered(group, io::ErrorKind::TimedOut))
    }

    /// The container's group of a controller, which no start may have made so far; `field`: the limit that it is for.
    fn group_now(&self, controller: &str, field: &str, id: &ContainerId) -> Result<PathBuf, RuntimeError> {
        if self.hierarchy(controller).is_none() {
            return Err(super::no_controller(controller, field));
        }
        match self.folder(controller, id) {
            Some(group) if group.is_dir() => Ok(group),
            _ => self.gather(controller, id),
        }
    }

    fn freezer_state(&self, id: &ContainerId) -> Option<PathBuf> {
        self.folder("freezer", id).map(|p| p.join(FREEZER_STATE))
    }
}

fn not_gathered(path: PathBuf, why: io::ErrorKind) -> RuntimeError {
    RuntimeError::Cgroup { act: "gathering the container's processes in", path, source: why.into() }
}

/// Where the freezer of v1 says and is told what it does (freezer-subsystem.rst): FROZEN, FREEZING or THAWED.
const FREEZER_STATE: &str = "freezer.state";

/// A cpuset group is empty and takes no process until both lists are filled (cpusets.rst). Whoever has made the groups above may not have come to fill
/// them: that is done for them, with the same.
fn inherit_cpuset(group: &Path) -> Result<(), RuntimeError> {
    let is_empty = |path: &Path| fs::read_to_string(path).is_ok_and(|list| list.trim().is_empty());
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !is_empty(&group.join(file)) {
            continue;
        }
        let Some(parent) = group.parent() else { continue };
        // The one at the top never is.
        if is_empty(&parent.join(file)) {
            inherit_cpuset(parent)?;
        }
        let above = fs::read_to_string(parent.join(file)).unwrap_or_default();
        put(group.join(file), above.trim())?;
    }
    Ok(())
}

impl Cgroups for V1 {
    fn mode(&self) -> &'static str {
        if self.unused.is_empty() { "v1" } else { "hybrid" }
    }

    fn create(&self, id: &ContainerId, limits: &Limits, _holder: Option<u32>) -> Result<Entry, RuntimeError> {
        let r = &limits.resources;
        let mut entry = Entry { procs: Vec::new(), folder: None, warnings: Vec::new(), slice: None, later: Vec::new() };
        let mut joined: Vec<PathBuf> = Vec::new();
        let mut group = |controller: &str, wanted: bool| -> Result<Option<PathBuf>, RuntimeError> {
            let found = self.group(controller, id)?;
            match &found {
                None if wanted => {
                    entry.warnings.push(format!("this host has no {controller} cgroup: its limits are not applied"))
                }
                Some(path) if !joined.contains(path) => joined.push(path.clone()),
                _ => {}
            }
            Ok(found)
        };
        // memory and pids always: the one to see an OOM kill, the other to find and stop every process.
        let memory = group("memory", r.memory_bytes.is_some())?;
        let pids = group("pids", r.pids.is_some_and(|p| p > 0))?;
        let devices = if limits.devices.is_some() { group("devices", true)? } else { None };
        let cpu_asked = r.nano_cpus.or(r.cpu_period_us).or(r.cpu_shares).is_some();
        // Always: who has no group shares the host's processor with the host's own services, each process for itself.
        let cpu = group("cpu", cpu_asked)?;
        // What a container has used is counted from its first instruction on: 60 us of its start.
        group("cpuacct", false)?;
        let cpuset_asked = r.cpuset_cpus.is_some() || r.cpuset_mems.is_some();
        // Always, too: in a hierarchy where it has no group a container would see the host's, with the names of all others. JVMs want to see this one.
        let cpuset = group("cpuset", cpuset_asked)?;
        let block = r.blkio_weight.is_some() || !r.block_devices.is_empty();
        let block = if block { group("blkio", true)? } else { None };
        let huge = if r.hugepages.is_empty() { None } else { group("hugetlb", true)? };
        if let Some(memory) = memory {
            set_memory(&memory, limits, &mut entry.warnings)?;
        }
        if let (Some(pids), Some(max)) = (pids, r.pids.filter(|p| *p > 0)) {
            Setting::new(pids.join("pids.max"), max.to_string()).write()?;
        }
        if let (Some(devices), Some(rules)) = (devices, &limits.devices) {
            put(devices.join("devices.deny"), "a")?;
            put_each(devices.join("devices.allow"), rules.iter().map(super::DeviceRule::to_v1))?;
        }
        if let Some(cpu) = cpu {
            if r.nano_cpus.or(r.cpu_period_us).is_some() {
                Setting::new(cpu.join("cpu.cfs_period_us"), r.cpu_period().to_string()).write()?;
            }
            if let Some(quota) = cpu_quota_us(r) {
                Setting::new(cpu.join("cpu.cfs_quota_us"), quota.to_string()).write()?;
            }
            if let Some(shares) = r.cpu_shares {
                Setting::new(cpu.join("cpu.shares"), shares.to_string()).write()?;
            }
        }
        if let Some(cpuset) = cpuset {
            if let Some(cpus) = &r.cpuset_cpus {
                Setting::new(cpuset.join("cpuset.cpus"), cpus).write()?;
            }
            if let Some(mems) = &r.cpuset_mems {
                Setting::new(cpuset.join("cpuset.mems"), mems).write()?;
            }
            inherit_cpuset(&cpuset)?;
        }
        let none = Resources::default();
        if let Some(group) = block {
            lines::block_v1(&group, &none, r)?.write(&mut entry.warnings)?;
        }
        if let Some(group) = huge {
            lines::hugepages(&group, &none, r, lines::HUGE_V1)?.iter().try_for_each(Setting::write)?;
        }
        for path in joined {
            entry.procs.push(open(path.join(JOIN), true)?);
        }
        Ok(entry)
    }

    fn enter(&self, id: &ContainerId, _process: u32, probe: bool) -> Result<Entry, RuntimeError> {
        let mut paths = self.paths(id);
        if paths.is_empty() {
            // Nothing would bound what joins.
            let path = self.parents.of(id).join(id.as_str());
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(RuntimeError::Cgroup { act: "looking for the container's cgroups", path, source });
        }
        if let Some(group) = self.probe(id).filter(|_| probe)
            && let Some(path) = paths.iter_mut().find(|p| group.parent() == Some(p))
        {
            make(&group)?;
            *path = group;
        }
        let procs = paths.into_iter().map(|p| open(p.join(JOIN), true)).collect::<Result<_, _>>()?;
        Ok(Entry { procs, folder: None, warnings: Vec::new(), slice: None, later: Vec::new() })
    }

    /// In the hierarchy that counts processes, whose limits hold for the groups below too.
    fn probe(&self, id: &ContainerId) -> Option<PathBuf> {
        Some(self.folder("pids", id)?.join(PROBE))
    }

    fn parents(&self) -> Vec<PathBuf> {
        // All: other runtimes make groups in each of them.
        self.parents.folders()
    }

    fn oom_kills(&self, id: &ContainerId) -> Option<u64> {
        let group = self.folder("memory", id)?;
        let text = fs::read_to_string(group.join("memory.oom_control")).ok()?;
        // `oom_kill N`, Linux 4.13.
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok())
    }

    fn memory_limit(&self, id: &ContainerId) -> Option<(PathBuf, Option<u64>)> {
        let group = self.folder("memory", id)?;
        let text = fs::read_to_string(group.join("memory.limit_in_bytes")).ok()?;
        // No limit is the largest number of whole pages (memory.txt, 9223372036854771712 with pages of 4 KiB).
        let limit = text.trim().parse::<u64>().ok().filter(|n| *n < i64::MAX as u64 - (1 << 20));
        Some((group, limit))
    }

    fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        // Nothing forks any more, so that the loop comes to an end; a host that counts no pids has to live with a race.
        if let Some(group) = self.folder("pids", id) {
            let _ = write_existing(&group.join("pids.max"), "0");
        }
        for path in self.paths(id) {
            for pid in processes(&path) {
                kill_in(&path, pid);
            }
        }
        // What is frozen dies when it thaws, and executes nothing before.
        self.thaw(id)
    }

    fn update(&self, id: &ContainerId, old: &Resources, new: &Resources) -> Result<(), RuntimeError> {
        let mut settings = Vec::new();
        if (old.memory_bytes, old.memory_swap_bytes) != (new.memory_bytes, new.memory_swap_bytes) {
            settings.extend(memory_settings(&self.group_now("memory", "memory_bytes", id)?, new)?);
        }
        let number = |n: Option<u64>, none: &str| n.map_or(none.to_owned(), |n| n.to_string());
        if old.memory_reservation_bytes != new.memory_reservation_bytes {
            let file = self.group_now("memory", "memory_reservation_bytes", id)?.join("memory.soft_limit_in_bytes");
            settings.push(Setting::new(file, number(new.memory_reservation_bytes, "-1")));
        }
        if (old.nano_cpus, old.cpu_period_us) != (new.nano_cpus, new.cpu_period_us) {
            let field = if old.nano_cpus == new.nano_cpus { "cpu_period_us" } else { "nano_cpus" };
            let cpu = self.group_now("cpu", field, id)?;
            settings.push(Setting::new(cpu.join("cpu.cfs_period_us"), new.cpu_period().to_string()));
            settings.push(Setting::new(cpu.join("cpu.cfs_quota_us"), number(cpu_quota_us(new), "-1")));
        }
        if old.cpu_shares != new.cpu_shares {
            let file = self.group_now("cpu", "cpu_shares", id)?.join("cpu.shares");
            settings.push(Setting::new(file, number(new.cpu_shares, "1024")));
        }
        for (file, old, new) in
            [("cpuset.cpus", &old.cpuset_cpus, &new.cpuset_cpus), ("cpuset.mems", &old.cpuset_mems, &new.cpuset_mems)]
        {
            if old != new {
                let cpuset = self.group_now("cpuset", &file.replace('.', "_"), id)?;
                let above = cpuset.parent().map(|p| p.join(file)).unwrap_or_default();
                let all = || fs::read_to_string(above).unwrap_or_default().trim().to_owned();
                settings.push(Setting::new(cpuset.join(file), new.clone().unwrap_or_else(all)));
            }
        }
        if old.pids != new.pids {
            let max = new.pids.filter(|p| *p > 0).map_or("max".to_owned(), |p| p.to_string());
            settings.push(Setting::new(self.group_now("pids", "pids", id)?.join("pids.max"), max));
        }
        if (old.blkio_weight, &old.block_devices) != (new.blkio_weight, &new.block_devices) {
            let field = if old.block_devices == new.block_devices { "blkio_weight" } else { "block_devices" };
            settings.extend(lines::block_v1(&self.group_now("blkio", field, id)?, old, new)?.all()?);
        }
        if old.hugepages != new.hugepages {
            settings.extend(lines::hugepages(&self.group_now("hugetlb", "hugepages", id)?, old, new, lines::HUGE_V1)?);
        }
        super::set_all(&settings)
    }

    fn counters(&self, id: &ContainerId) -> Vec<(Counter, PathBuf)> {
        const FILES: [(&str, &str, Counter); 7] = [
            ("cpuacct", "cpuacct.usage", Counter::V1CpuUsage),
            ("cpuacct", "cpuacct.stat", Counter::V1CpuTicks),
            ("cpu", "cpu.stat", Counter::V1CpuThrottle),
            ("memory", "memory.usage_in_bytes", Counter::Memory),
            ("memory", "memory.stat", Counter::V1MemoryParts),
            ("pids", "pids.current", Counter::Pids),
            // Not from blkio: since Linux 6.10 it counts only on disks that have a limit for some group.
            ("pids", "cgroup.procs", Counter::V1ProcessIo),
        ];
        let path = |(controller, file, counter): &(&str, &str, Counter)| {
            Some((*counter, self.folder(controller, id)?.join(file)))
        };
        FILES.iter().filter_map(path).collect()
    }

    fn freeze(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        // Made for the first pause: a start has no use for it.
        let Some(state) = self.group("freezer", id)?.map(|group| group.join(FREEZER_STATE)) else {
            return Err(not_gathered("the freezer cgroup".into(), io::ErrorKind::NotFound));
        };
        let frozen = super::wait_frozen(|| {
            // Before the processes come in: each stands still as it does, and has no more children. Written again each time: one may have
            // come in meanwhile.
            put(state.clone(), "FROZEN")?;
            self.gather("freezer", id)?;
            Ok(fs::read_to_string(&state).is_ok_and(|s| s.trim() == "FROZEN"))
        });
        if frozen.is_err() {
            put(state, "THAWED")?;
        }
        frozen
    }

    fn thaw(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let Some(state) = self.freezer_state(id) else { return Ok(()) };
        match write_existing(&state, "THAWED") {
            // It was never frozen.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|source| RuntimeError::Cgroup { act: "thawing", path: state, source }),
        }
    }

    fn is_frozen(&self, id: &ContainerId) -> bool {
        let text = self.freezer_state(id).and_then(|state| fs::read_to_string(state).ok());
        text.is_some_and(|t| t.trim() != "THAWED")
    }

    fn features(&self) -> Vec<(&'static str, bool)> {
        super::FEATURES.map(|name| (name, false)).to_vec()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for controller in ["memory", "pids", "devices", "cpu", "cpuset"] {
            if self.hierarchy(controller).is_none() {
                warnings.push(format!("no {controller} cgroup: its limits cannot be applied"));
            }
        }
        if let Some(h) = self.hierarchy("memory")
            && !h.point.join("memory.memsw.limit_in_bytes").exists()
        {
            warnings.push("no swap accounting: limits of memory with swap cannot be applied".into());
        }
        warnings
    }

    fn path_in_hierarchies(&self, id: &ContainerId) -> String {
        format!("/{}/{id}", self.parents.of(id).display())
    }

    /// crun (1.8.1) writes -1 to the limit and to the one with swap.
    fn memory_for_others(&self, limits: &Resources) -> Vec<(&'static str, i64)> {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let (Some(limit), Some(memory)) = (limits.memory_bytes, self.hierarchy("memory")) else { return Vec::new() };
        let both = memory.point.join("memory.memsw.limit_in_bytes").exists();
        let swap = both.then(|| ("swap", super::memory_and_swap(limits).map_or(-1, number)));
        [("limit", number(limit))].into_iter().chain(swap).collect()
    }

    fn unused(&self) -> Vec<PathBuf> {
        self.unused.clone()
    }

    fn mounts(&self) -> Vec<(String, String)> {
        // In a cgroup namespace a new mount of a hierarchy shows the container's own group as its root. Only those where a runtime
        // looks for its limits, and which it wants to see together (a JVM): each costs 15 us, and as much at the end.
        const SEEN: [&str; 5] = ["memory", "cpu", "cpuacct", "cpuset", "pids"];
        self.hierarchies
            .iter()
            .filter(|h| h.controllers.iter().any(|c| SEEN.contains(&c.as_str())))
            .filter_map(|h| {
                let name = h.point.file_name()?.to_str()?.to_owned();
                let data: Vec<&str> = h.options.split(',').filter(|o| h.controllers.iter().any(|c| c == o)).collect();
                Some((name, data.join(",")))
            })
            .collect()
    }
}

/// The limits of memory and of memory with swap, in the order that never has the first above the second, which the kernel refuses.
fn memory_settings(group: &Path, new: &Resources) -> Result<Vec<Setting>, RuntimeError> {
    let number = |n: Option<u64>| n.map_or("-1".to_owned(), |n| n.to_string());
    let limit = Setting::new(group.join("memory.limit_in_bytes"), number(new.memory_bytes));
    let both = Setting::new(group.join("memory.memsw.limit_in_bytes"), number(super::memory_and_swap(new)));
    let now = match fs::read_to_string(&both.path) {
        Ok(text) => text.trim().parse::<u64>().unwrap_or(u64::MAX),
        Err(e) if e.kind() == io::ErrorKind::NotFound && new.memory_swap_bytes.is_none() => return Ok(vec![limit]),
        Err(e) => return Err(both.refused(e)),
    };
    let raises = new.memory_bytes.unwrap_or(u64::MAX) > now;
    Ok(if raises { vec![both, limit] } else { vec![limit, both] })
}

fn set_memory(group: &Path, limits: &Limits, warnings: &mut Vec<String>) -> Result<(), RuntimeError> {
    let r = &limits.resources;
    if let Some(bytes) = r.memory_bytes {
        put(group.join("memory.limit_in_bytes"), &bytes.to_string())?;
        // Memory and swap together; Docker's default is twice the memory.
        let both = r.memory_swap_bytes.unwrap_or_else(|| i64::try_from(bytes.saturating_mul(2)).unwrap_or(-1));
        match write_existing(&group.join("memory.memsw.limit_in_bytes"), &both.to_string()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if r.memory_swap_bytes.is_some() {
                    warnings.push("this host does not count swap: the limit of memory with swap is not applied".into());
                }
            }
            other => other.map_err(|source| RuntimeError::Cgroup {
                act: "writing a limit to",
                path: group.join("memory.memsw.limit_in_bytes"),
                source,
            })?,
        }
    }
    if let Some(bytes) = r.memory_reservation_bytes {
        put(group.join("memory.soft_limit_in_bytes"), &bytes.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_somebody_else_has_just_made_are_filled() {
        let top = Path::new("/sys/fs/cgroup/cpuset");
        let of = |group: &Path, file: &str| fs::read_to_string(group.join(file)).map(|list| list.trim().to_owned());
        if of(top, "cpuset.cpus").is_err() {
            println!("left out: this host has no cpuset of cgroup v1");
            return;
        }
        let above = top.join(format!("berth-unit-{}", std::process::id()));
        let group = above.join("middle/group");
        fs::create_dir_all(&group).unwrap();
        let made = inherit_cpuset(&group);
        let found = ["cpuset.cpus", "cpuset.mems"]
            .map(|file| (of(&group, file).ok(), of(&above, file).ok(), of(top, file).ok()));
        for folder in [&group, group.parent().unwrap(), &above] {
            fs::remove_dir(folder).unwrap();
        }
        made.unwrap();
        for (own, its, all) in found {
            assert!(own == all && its == all && !all.as_ref().unwrap().is_empty(), "{own:?} {its:?} {all:?}");
        }
    }
}
