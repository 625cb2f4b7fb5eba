//! Containers' groups that systemd makes and removes: a transient scope for each.
//!
//! Which containers have one, and where, is in files of `run_root/scopes`, written before the scope is there: an agent that is started again,
//! with either driver, finds them. Only starts, updates and ends talk to systemd.

use super::Limits;
use crate::RuntimeError;
use berth_model::ContainerId;
use berth_systemd::unit::{DEFAULT_SLICE, scope_name, slice_path};
use berth_systemd::{Manager, Property, Scope, SystemdError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Of scopes' names: `berth-ID.scope`.
const PREFIX: &str = "berth";

pub(super) struct Scopes {
    /// A file for each container that has a scope: where its group is, from the tree's root.
    records: PathBuf,
    /// Folders of runs, where shims leave what they have seen.
    runs: PathBuf,
    /// Where the tree is mounted.
    point: PathBuf,
    /// The slice of new containers that name none. `None`: new containers have no scopes.
    slice: Option<String>,
    /// There are none, and none will be.
    unused: bool,
}

impl Scopes {
    pub fn new(point: &Path, run_root: &Path, slice: Option<&str>) -> Self {
        let records = run_root.join("scopes");
        let empty = fs::read_dir(&records).map_or(true, |mut entries| entries.next().is_none());
        Scopes {
            records,
            runs: run_root.join("containers"),
            point: point.to_owned(),
            slice: slice.map(|s| if s.is_empty() { DEFAULT_SLICE } else { s }.to_owned()),
            unused: slice.is_none() && empty,
        }
    }

    /// New containers get scopes.
    pub fn are_made(&self) -> bool {
        self.slice.is_some()
    }

    fn record(&self, id: &ContainerId) -> PathBuf {
        self.records.join(id.as_str())
    }

    /// Where the container's scope is, or was a moment ago. `None`: it has none.
    fn place(&self, id: &ContainerId) -> Option<PathBuf> {
        if self.unused {
            return None;
        }
        fs::read_to_string(self.record(id)).ok().map(|text| PathBuf::from(text.trim()))
    }

    pub fn group(&self, id: &ContainerId) -> Option<PathBuf> {
        self.place(id).map(|place| self.point.join(place))
    }

    fn unit(&self, id: &ContainerId) -> Option<String> {
        self.place(id)?.file_name().map(|name| name.to_string_lossy().into_owned())
    }

    pub fn ids(&self) -> Vec<ContainerId> {
        let entries = fs::read_dir(&self.records).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
    }

    fn remember(&self, id: &ContainerId, place: &Path) -> Result<(), RuntimeError> {
        // Whole or not at all; a name that is no id is passed over by who lists them.
        let draft = self.records.join(format!(".{id}"));
        fs::create_dir_all(&self.records)
            .and_then(|()| fs::write(&draft, place.display().to_string()))
            .and_then(|()| fs::rename(&draft, self.record(id)))
            .map_err(RuntimeError::io(format!("writing {}", self.record(id).display())))
    }

    pub fn forget(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        if self.unused {
            return Ok(());
        }
        match fs::remove_file(self.record(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::io(format!("removing {}", self.record(id).display()))(e))
            }
            _ => Ok(()),
        }
    }

    /// Starts the scope around a process, which stays in it until the container's own are there. Its group's folder.
    pub fn start(
        &self,
        id: &ContainerId,
        limits: &Limits,
        process: u32,
        properties: &[Property],
    ) -> Result<PathBuf, RuntimeError> {
        let own = self.slice.as_deref().unwrap_or(DEFAULT_SLICE);
        let slice = limits.parent.as_deref().unwrap_or(own);
        let name = scope_name(PREFIX, id.as_str());
        let path = slice_path(slice).map_err(|why| RuntimeError::spec("cgroup_parent", why))?;
        self.remember(id, &path.join(&name))?;
        let scope = Scope {
            name: &name,
            slice,
            description: &format!("berth container {}", limits.name),
            process,
            stop_timeout: Some(limits.stop_timeout),
            oom_group: limits.resources.oom_group,
            limits: properties,
        };
        Manager::connect().and_then(|mut manager| manager.start(&scope))?;
        let place = place_of(process, &name)?;
        self.remember(id, &place)?;
        Ok(self.point.join(place))
    }

    /// Sets properties of the container's scope, where it has one.
    pub fn set(&self, id: &ContainerId, properties: &[Property]) -> Result<(), RuntimeError> {
        let Some(unit) = self.unit(id).filter(|_| !properties.is_empty()) else { return Ok(()) };
        Ok(Manager::connect().and_then(|mut manager| manager.set(&unit, properties))?)
    }

    /// Ends the unit. Its processes are gone by now, and so it often is already.
    pub fn stop(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let Some(unit) = self.unit(id) else { return Ok(()) };
        match Manager::connect().and_then(|mut manager| manager.stop(&unit)) {
            // Who took systemd away has its groups.
            Err(SystemdError::Absent { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The shim has seen, at the container's end, that memory had been short.
    pub fn has_noted_oom(&self, id: &ContainerId) -> bool {
        !self.unused && self.runs.join(id.as_str()).join("oom").exists()
    }

    /// Why no scope can be started.
    pub fn trouble(&self) -> Option<String> {
        self.slice.as_ref()?;
        let asked = Manager::connect().and_then(|mut manager| manager.version());
        asked.err().map(|e| RuntimeError::from(e).to_string())
    }
}

/// Where systemd has put a process, from the tree's root.
fn place_of(process: u32, unit: &str) -> Result<PathBuf, RuntimeError> {
    let path = PathBuf::from(format!("/proc/{process}/cgroup"));
    let text = fs::read_to_string(&path).map_err(RuntimeError::io(format!("reading {}", path.display())))?;
    let place = text.lines().find_map(|l| l.strip_prefix("0::/")).map(Path::new);
    match place.filter(|p| p.file_name().is_some_and(|name| name == unit)) {
        Some(place) => Ok(place.to_owned()),
        None => Err(SystemdError::NotMoved { unit: unit.to_owned() }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_found_by_the_next_agent() {
        let root = std::env::temp_dir().join(format!("berth-scopes-{}", std::process::id()));
        let (point, id) = (Path::new("/g"), "a1".repeat(32).parse::<ContainerId>().unwrap());
        let scopes = Scopes::new(point, &root, Some(""));
        assert_eq!(scopes.group(&id), None);
        scopes.remember(&id, Path::new("a.slice/x.scope")).unwrap();
        // With the other driver, too.
        let next = Scopes::new(point, &root, None);
        assert_eq!(next.group(&id).unwrap(), Path::new("/g/a.slice/x.scope"));
        assert_eq!((next.unit(&id).unwrap().as_str(), next.ids()), ("x.scope", vec![id.clone()]));
        assert!(!next.are_made());
        fs::create_dir_all(root.join("containers").join(id.as_str())).unwrap();
        assert!(!next.has_noted_oom(&id));
        fs::write(root.join("containers").join(id.as_str()).join("oom"), "").unwrap();
        assert!(next.has_noted_oom(&id));
        next.forget(&id).unwrap();
        next.forget(&id).unwrap();
        assert!(next.group(&id).is_none() && next.ids().is_empty());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn this_process_is_in_no_scope_of_ours() {
        let error = place_of(std::process::id(), "berth-x.scope").unwrap_err().to_string();
        assert!(error.contains("moved no process"), "{error}");
    }
}
