//! The control group of a container: the same path in every hierarchy of v1, or one in v2's.

mod devices;
pub mod scope;
mod stats;
mod v1;
mod v2;

use crate::config::Resources;
use crate::error::Error;
use berth_runtime::Hierarchy;
use berth_sys::{fs as sys_fs, process};
use std::ffi::CStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct Group {
    /// Below the hierarchies' roots.
    pub path: PathBuf,
    pub hierarchies: Vec<Hierarchy>,
    pub v2: bool,
}

impl Group {
    /// The group at `path`, there or not, on this host.
    pub fn find(path: &Path) -> Result<Self, Error> {
        let act = "reading /proc/self/mountinfo";
        let mounts = berth_runtime::mounted().map_err(Error::io(act))?;
        let (v2, v1): (Vec<Hierarchy>, Vec<Hierarchy>) = mounts.into_iter().partition(|h| h.v2);
        let path = path.to_owned();
        if v1.iter().any(|h| !h.controllers.is_empty()) {
            return Ok(Group { path, hierarchies: v1, v2: false });
        }
        match v2.into_iter().next() {
            Some(unified) => Ok(Group { path, hierarchies: vec![unified], v2: true }),
            None => Err(Error::field("linux.cgroupsPath", "no cgroup file system is mounted on this host")),
        }
    }

    pub fn folder(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.point.join(&self.path)
    }

    pub fn folders(&self) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|h| self.folder(h)).collect()
    }

    /// The folder that has a controller of v1; v2 has one for all.
    fn with(&self, controller: &str) -> Option<PathBuf> {
        let has = |h: &&Hierarchy| self.v2 || h.controllers.iter().any(|c| c == controller);
        self.hierarchies.iter().find(has).map(|h| self.folder(h))
    }

    /// Makes the group. One that is there already may be somebody's: Podman makes its own in front.
    pub fn create(&self) -> Result<(), Error> {
        // Another container's end may take away an empty group above between two steps.
        const TRIES: u32 = 10;
        let gone = |e: &Error| matches!(e, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let mut made = Ok(());
        for _ in 0..TRIES {
            made = if self.v2 { v2::create(self) } else { v1::create(self) };
            if !made.as_ref().is_err_and(gone) {
                break;
            }
        }
        made
    }

    /// A group that has processes is somebody's, who would get this container's limits and die with it; in one that is frozen nothing starts.
    pub fn expect_unused(&self) -> Result<(), Error> {
        let bad =
            |message: String| Err(Error::field("linux.cgroupsPath", format!("/{}: {message}", self.path.display())));
        // Processes outside of the caller's pid namespace are 0 here, and count.
        let populated = self.v2 && self.events().lines().any(|l| l == "populated 1");
        if populated || !self.lines().is_empty() {
            return bad(format!("the cgroup is not empty: {} process(es) found", self.processes().len().max(1)));
        }
        if self.is_frozen() { bad("the cgroup is frozen".into()) } else { Ok(()) }
    }

    fn events(&self) -> String {
        fs::read_to_string(self.folders()[0].join("cgroup.events")).unwrap_or_default()
    }

    pub fn apply(&self, resources: &Resources, update: bool, warnings: &mut Vec<String>) -> Result<(), Error> {
        says_something(resources)?;
        if self.v2 {
            v2::apply(self, resources, update, warnings)
        } else {
            v1::apply(self, resources, update, warnings)
        }
    }

    /// Lets a user of the host make groups below this one (cgroups(7), "Delegation"): the limits of this one stay the host's.
    pub fn delegate(&self, uid: u32) -> Result<(), Error> {
        const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
        if !self.v2 {
            return Ok(());
        }
        let folder = self.folders().swap_remove(0);
        let files = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| FILES.into());
        let names = files.lines().filter(|name| !name.is_empty() && !name.contains('/'));
        for path in std::iter::once(folder.clone()).chain(names.map(|name| folder.join(name))) {
            match std::os::unix::fs::chown(&path, Some(uid), None) {
                // Not every group has every file.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other
                    .map_err(Error::io(format!("delegating the cgroup: changing the owner of {}", path.display())))?,
            }
        }
        Ok(())
    }

    pub fn add(&self, pid: u32) -> Result<(), Error> {
        for folder in self.folders() {
            let path = folder.join("cgroup.procs");
            write(&path, &pid.to_string()).map_err(|source| match source.kind() {
                // cgroups(7), "no internal processes" and "threaded mode".
                io::ErrorKind::Unsupported if self.v2 => Error::field(
                    "linux.cgroupsPath",
                    format!(
                        "/{}: a cgroup above it has processes of its own, which cgroup v2 allows at the leaves only",
                        self.path.display()
                    ),
                ),
                _ => Error::io(format!("joining the cgroup by {}", path.display()))(source),
            })?;
        }
        Ok(())
    }

    /// Processes of the group and of those below it, in the caller's pid namespace.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids = self.lines();
        pids.retain(|p| *p != 0);
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// What cgroup.procs says in all folders: 0 is a process of another pid namespace.
    fn lines(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut folders = self.folders();
        while let Some(folder) = folders.pop() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
            folders.extend(subfolders(&folder));
        }
        pids
    }

    /// Sends a signal to every process; what is born meanwhile gets SIGKILL, too, because the group is asked again.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        const SIGKILL: i32 = 9;
        if signal == SIGKILL && self.v2 && write(&self.folders()[0].join("cgroup.kill"), "1").is_ok() {
            return Ok(());
        }
        for _ in 0..if signal == SIGKILL { 100 } else { 1 } {
            let pids = self.processes();
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                if let Ok(pidfd) = process::pidfd_open(pid)
                    && self.processes().contains(&pid)
                {
                    // Ended meanwhile is as good.
                    let _ = process::pidfd_send_signal(pidfd.as_fd(), signal);
                }
            }
            if signal == SIGKILL {
                self.thaw_if_frozen();
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// A frozen process of v1 does not die.
    pub fn thaw_if_frozen(&self) {
        if self.is_frozen() {
            let _ = self.freeze(false);
        }
    }

    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let (file, value) = if self.v2 {
            (self.folders()[0].join("cgroup.freeze"), if frozen { "1" } else { "0" })
        } else {
            let folder = self.with("freezer").ok_or_else(|| Error::State("this host has no freezer".into()))?;
            (folder.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
        };
        let act = format!("writing {value} to {}", file.display());
        let began = Instant::now();
        loop {
            write(&file, value).map_err(Error::io(act.as_str()))?;
            if self.is_frozen() == frozen {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(5) {
                let _ = write(&file, if self.v2 { "0" } else { "THAWED" });
                return Err(Error::State(format!("{act}: not all processes stood still within 5 s")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn is_frozen(&self) -> bool {
        if self.v2 {
            return self.events().lines().any(|l| l == "frozen 1");
        }
        let file = self.with("freezer").map(|f| f.join("freezer.state"));
        file.is_some_and(|f| fs::read_to_string(f).is_ok_and(|t| t.trim() == "FROZEN"))
    }

    /// With its unit, where systemd has made it. The kernel needs a moment to let go of a process that has just ended: `EBUSY` until then.
    pub fn remove(&self, unit: Option<&str>) -> Result<(), Error> {
        let began = Instant::now();
        unit.map_or(Ok(()), scope::stop)?;
        for folder in self.folders() {
            loop {
                match remove_tree(&folder) {
                    Ok(()) => break,
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy && began.elapsed() < Duration::from_secs(5) => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Err(e) => return Err(Error::io(format!("removing the cgroup {}", folder.display()))(e)),
                }
            }
            remove_above(&folder);
        }
        Ok(())
    }

    /// Processes of it that the kernel has ended for want of memory.
    pub fn oom_kills(&self) -> u64 {
        stats::oom_kills(self)
    }

    /// What it uses, as runc's `events --stats` tells it.
    pub fn stats(&self) -> serde_json::Value {
        stats::stats(self)
    }
}

/// "MUST specify at least one of" (config-linux.md, "Block IO" and "RDMA").
fn says_something(r: &Resources) -> Result<(), Error> {
    if let Some(i) = r.block_io.weight_device.iter().position(|d| d.weight.is_none() && d.leaf_weight.is_none()) {
        let field = format!("linux.resources.blockIO.weightDevice[{i}]");
        return Err(Error::field(field, "needs weight or leafWeight"));
    }
    if let Some((device, _)) = r.rdma.iter().find(|(_, l)| l.hca_handles.is_none() && l.hca_objects.is_none()) {
        return Err(Error::field(format!("linux.resources.rdma.{device}"), "needs hcaHandles or hcaObjects"));
    }
    Ok(())
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// What a group above containers' that this program has made is known by: it goes with the last of them. A folder's own mark, so that it does
/// not matter which container it was made for.
const MADE: &CStr = c"trusted.berth.made";

/// Makes a group of `path`; there already is fine.
fn make(folder: &Path, path: &Path) -> Result<(), Error> {
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(Error::io(format!("making the cgroup {}", folder.display()))(e)),
        Ok(()) => {
            if !folder.ends_with(path) {
                // Who may not mark it leaves it behind, as other runtimes do.
                let _ = fs::File::open(folder).and_then(|group| sys_fs::fsetxattr(group.as_fd(), MADE, b"1"));
            }
            Ok(())
        }
    }
}

/// Removes the groups above that this program has made, up to the first that is somebody's or in use (`EBUSY`).
fn remove_above(folder: &Path) {
    for above in folder.ancestors().skip(1) {
        let mark = fs::File::open(above).and_then(|group| sys_fs::fgetxattr(group.as_fd(), MADE));
        if !mark.is_ok_and(|m| m.is_some()) || fs::remove_dir(above).is_err() {
            break;
        }
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for below in subfolders(folder) {
        remove_tree(&below)?;
    }
    match fs::remove_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Without O_CREAT, which cgroupfs refuses with EACCES instead of saying that the file is not there.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Writes a limit; the error names the property that asked for it.
fn set(folder: &Path, file: &str, field: &str, value: impl ToString) -> Result<(), Error> {
    let (path, value) = (folder.join(file), value.to_string());
    write(&path, &value).map_err(|e| {
        let why = match e.kind() {
            io::ErrorKind::NotFound => "this host has no such limit".to_owned(),
            _ => crate::error::plain(&e),
        };
        Error::field(format!("linux.resources.{field}"), format!("writing {value} to {}: {why}", path.display()))
    })
}

fn no_controller(field: &str, name: &str) -> Error {
    Error::field(format!("linux.resources.{field}"), format!("the controller {name} is not mounted on this host"))
}
