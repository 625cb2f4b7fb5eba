//! Groups that systemd makes, a transient scope for each container: `--systemd-cgroup`, on cgroup v2 alone.

use super::Group;
use crate::config::Resources;
use crate::error::Error;
use crate::plan::Scope;
use berth_sys::process::{self, Cloned};
use berth_systemd::{Files, Manager, Property, SystemdError, limits};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

impl Scope {
    /// Makes the group around a process that only holds it, until it has others. `taken` is called when systemd has taken the order: the unit of
    /// this name may be somebody's before, and where that is refused.
    pub fn start(&self, group: &Group, id: &str, oom_group: bool, taken: impl FnOnce()) -> Result<Started, Error> {
        if !group.v2 {
            return Err(Error::field("--systemd-cgroup", "needs a host with cgroup v2 alone, and this one has v1"));
        }
        let holder = Holder::start()?;
        let mut scope = berth_systemd::Scope {
            name: &self.unit,
            slice: &self.slice,
            description: &format!("berth-runtime container {id}"),
            process: holder.pid,
            stop_timeout: None,
            oom_group,
            limits: &[],
        };
        let mut manager = Manager::connect().map_err(refused)?;
        let (mut begun, mut warning) = (manager.begin(&scope), None);
        if let Err(e @ SystemdError::TooOld { .. }) = &begun {
            warning = Some(format!("linux.resources.unified.{OOM_GROUP}: is gone when systemd is reloaded: {e}"));
            scope.oom_group = false;
            begun = manager.begin(&scope);
        }
        let begun = begun.map_err(refused)?;
        taken();
        manager.finish(begun).map_err(refused)?;
        let text = fs::read_to_string(format!("/proc/{}/cgroup", holder.pid)).unwrap_or_default();
        let place = text.lines().find_map(|l| l.strip_prefix("0::/")).map(Path::new);
        if place != Some(&self.path()) {
            return Err(refused(SystemdError::NotMoved { unit: self.unit.clone() }));
        }
        Ok(Started { holder, warning })
    }
}

/// A scope that is there, and what of it is not as it was asked for.
pub struct Started {
    pub holder: Holder,
    pub warning: Option<String>,
}

/// systemd takes it at the start of a scope, and writes it as it was then.
pub const OOM_GROUP: &str = "memory.oom.group";

/// Whether what is asked for can be changed while the scope is there.
pub fn check_update(group: &Group, resources: &Resources) -> Result<(), Error> {
    let Some(wanted) = resources.unified.get(OOM_GROUP) else { return Ok(()) };
    let file = group.folders().swap_remove(0).join(OOM_GROUP);
    if fs::read_to_string(file).is_ok_and(|text| text.trim() == wanted.trim()) {
        return Ok(());
    }
    let message = "cannot be changed in a scope of systemd's, which takes it at its start only (OOMPolicy=)";
    Err(Error::field(format!("linux.resources.unified.{OOM_GROUP}"), message))
}

fn refused(error: SystemdError) -> Error {
    Error::field("--systemd-cgroup", error.to_string())
}

/// Tells systemd what the files of the group say by now: it would write its own values to them when it is reloaded. It writes all of them at
/// this, too, and in its own steps: they get back what they had.
pub fn tell(unit: &str, group: &Group) -> Result<(), Error> {
    let folder = group.folders().swap_remove(0);
    let files = Files::read(&folder);
    let mut properties: Vec<Property> = Vec::new();
    let bfq = files.get("io.bfq.weight").is_some();
    for file in limits::FILES.iter().filter(|file| **file != OOM_GROUP && !(bfq && **file == "io.weight")) {
        let Some(text) = files.get(file) else { continue };
        if file.starts_with("io.") {
            // Disks that have no limit any more are not in the file.
            properties.extend(limits::forget_disks(file));
        }
        // An empty list of processors is a value, too.
        let lines =
            if file.starts_with("cpuset.") && text.trim().is_empty() { vec![""] } else { text.lines().collect() };
        for line in lines {
            let unknown = |why| Error::field("--systemd-cgroup", format!("{file}: {why}"));
            properties.extend(limits::properties(file, line).map_err(unknown)?);
        }
    }
    Manager::connect().and_then(|mut manager| manager.set(unit, &properties)).map_err(refused)?;
    let back = files.put_back(|_| false);
    back.map_err(|(path, e)| Error::io(format!("writing again what systemd has changed in {}", path.display()))(e))
}

/// Ends the unit, whose processes are gone.
pub fn stop(unit: &str) -> Result<(), Error> {
    match Manager::connect().and_then(|mut manager| manager.stop(unit)) {
        Err(SystemdError::Absent { .. }) => Ok(()),
        other => other.map_err(refused),
    }
}

/// A process that does nothing, until it is dropped.
pub struct Holder {
    pid: u32,
    pidfd: OwnedFd,
    _pipe: OwnedFd,
}

impl Holder {
    fn start() -> Result<Self, Error> {
        let act = "making a process that holds the scope";
        let (read, write) = process::pipe().map_err(Error::io(act))?;
        match process::clone3(0, None).map_err(Error::io(act))? {
            Cloned::Child => {
                drop(write);
                // The pipe's other end goes with the parent, however that ends.
                let _ = process::read(read.as_fd(), &mut [0]);
                std::process::exit(0)
            }
            Cloned::Parent(pid, pidfd) => {
                drop(read);
                Ok(Holder { pid, pidfd, _pipe: write })
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = process::pidfd_send_signal(self.pidfd.as_fd(), 9);
        let _ = process::reap(Some(self.pid), true);
    }
}
