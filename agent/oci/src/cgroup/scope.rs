//! Groups that systemd makes, a transient scope for each container: `--systemd-cgroup`, on cgroup v2 alone.

use super::Group;
use crate::error::Error;
use crate::plan::Scope;
use berth_sys::process::{self, Cloned};
use berth_systemd::{Manager, Property, SystemdError, limits};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

impl Scope {
    /// Makes the group around a process that only holds it, until it has others. `taken` is called when systemd has taken the order: the unit of
    /// this name may be somebody's before, and where that is refused.
    pub fn start(&self, group: &Group, id: &str, taken: impl FnOnce()) -> Result<Holder, Error> {
        if !group.v2 {
            return Err(Error::field("--systemd-cgroup", "needs a host with cgroup v2 alone, and this one has v1"));
        }
        let holder = Holder::start()?;
        let scope = berth_systemd::Scope {
            name: &self.unit,
            slice: &self.slice,
            description: &format!("berth-runtime container {id}"),
            process: holder.pid,
            stop_timeout: None,
            oom_group: false,
            limits: &[],
        };
        let mut manager = Manager::connect().map_err(refused)?;
        let begun = manager.begin(&scope).map_err(refused)?;
        taken();
        manager.finish(begun).map_err(refused)?;
        let text = fs::read_to_string(format!("/proc/{}/cgroup", holder.pid)).unwrap_or_default();
        let place = text.lines().find_map(|l| l.strip_prefix("0::/")).map(Path::new);
        if place != Some(&self.path()) {
            return Err(refused(SystemdError::NotMoved { unit: self.unit.clone() }));
        }
        Ok(holder)
    }
}

fn refused(error: SystemdError) -> Error {
    Error::field("--systemd-cgroup", error.to_string())
}

/// Tells systemd what the files of the group say by now: it would write its own values to them when it is reloaded.
pub fn tell(unit: &str, group: &Group) -> Result<(), Error> {
    const FILES: [&str; 12] = [
        "memory.min",
        "memory.low",
        "memory.high",
        "memory.max",
        "memory.swap.max",
        "pids.max",
        "cpu.weight",
        "cpu.max",
        "cpuset.cpus",
        "cpuset.mems",
        "io.weight",
        "io.max",
    ];
    let folder = group.folders().swap_remove(0);
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let lines = |file: &str| -> Vec<Property> {
        let text = read(file);
        // An empty list is a value, too.
        let lines = if text.trim().is_empty() { vec![""] } else { text.lines().collect() };
        lines.into_iter().flat_map(|line| limits::properties(file, line)).collect()
    };
    let there = FILES.iter().filter(|file| folder.join(file).exists());
    let properties: Vec<Property> = there.flat_map(|file| lines(file)).collect();
    let exact = read("cpu.max");
    Manager::connect().and_then(|mut manager| manager.set(unit, &properties)).map_err(refused)?;
    // systemd counts in its own steps.
    if !exact.is_empty() && read("cpu.max") != exact {
        super::write(&folder.join("cpu.max"), &exact).map_err(Error::io("writing cpu.max again"))?;
    }
    Ok(())
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
