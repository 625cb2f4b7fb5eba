//! What a container gets of the host's mounts, opened as detached trees with the host's rights, before the new process is made.

use crate::cgroup::Group;
use crate::config::IdMapping;
use crate::error::Error;
use crate::plan::{DevicePlan, MountKind, MountPlan, NEWCGROUP, NEWUSER, Plan};
use crate::rootfs;
use berth_sys::mount::{self, AttrChange, MountAttr, Propagation};
use berth_sys::process::{self, Cloned};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

// MS_SHARED and MS_PRIVATE of mount(2).
const SHARED: u32 = 0x10_0000;
const PRIVATE: u32 = 0x4_0000;

pub struct Trees {
    pub root: OwnedFd,
    /// For each mount of the plan: what is attached at its target, with a name below that for control groups.
    pub mounts: Vec<Option<Vec<(String, OwnedFd)>>>,
    /// The host's devices by their path, for user namespaces, which make none.
    pub devices: Vec<(String, OwnedFd)>,
}

pub fn open(plan: &Plan, group: &Group) -> Result<Trees, Error> {
    let default = if plan.root_propagation & SHARED != 0 {
        None
    } else if plan.root_propagation & PRIVATE != 0 {
        Some(Propagation::Private)
    } else {
        Some(Propagation::Slave)
    };
    let act = || format!("opening the root {}", plan.rootfs.display());
    let root = mount::open_tree(None, &plan.rootfs, true, true).map_err(Error::io(act()))?;
    // A slave until it is entered: what is mounted in it is the container's alone.
    set(&root, Propagation::Slave, true).map_err(Error::io(act()))?;
    if default == Some(Propagation::Private) {
        set(&root, Propagation::Private, true).map_err(Error::io(act()))?;
    }
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    for planned in &plan.mounts {
        let words = || format!("opening what is mounted on {}", planned.target);
        mounts.push(match &planned.kind {
            MountKind::Fs { .. } | MountKind::Remount { .. } => None,
            MountKind::Bind { source, recursive } => {
                let tree = bind(planned, source, *recursive, default)
                    .map_err(Error::io(format!("opening the mount source {}", source.display())))?;
                Some(vec![(String::new(), tree)])
            }
            MountKind::Cgroup => Some(cgroups(plan, planned, group).map_err(Error::io(words()))?),
        });
    }
    let devices = if plan.has_user_namespace() { devices(&plan.devices)? } else { Vec::new() };
    Ok(Trees { root, mounts, devices })
}

fn set(tree: &OwnedFd, propagation: Propagation, recursive: bool) -> io::Result<()> {
    let change = AttrChange { propagation: Some(propagation), recursive, ..AttrChange::default() };
    mount::mount_setattr(tree.as_fd(), change)
}

/// `default`: the propagation of a mount that asks for none; the host's own without.
fn bind(planned: &MountPlan, source: &Path, recursive: bool, default: Option<Propagation>) -> io::Result<OwnedFd> {
    // A link at its end is followed, as by mount(8).
    let tree = mount::open_tree(None, &fs::canonicalize(source)?, true, recursive)?;
    if let Some(default) = default {
        // What is private cannot become a slave any more.
        let first = if planned.propagation.is_empty() { default } else { Propagation::Slave };
        set(&tree, first, true)?;
    }
    attributes(planned, &tree)?;
    for bits in &planned.propagation {
        let (propagation, recursive) = rootfs::propagation(*bits)?;
        set(&tree, propagation, recursive)?;
    }
    if let Some((uids, gids, all)) = &planned.map {
        let namespace = mapped(uids, gids)?;
        let change = AttrChange { idmap: Some(namespace.as_fd()), recursive: *all, ..AttrChange::default() };
        mount::mount_setattr(tree.as_fd(), change)?;
    }
    Ok(tree)
}

fn attributes(planned: &MountPlan, tree: &OwnedFd) -> io::Result<()> {
    if planned.set != 0 || planned.clear != 0 {
        let (set, clear) = (MountAttr::from_bits(planned.set), MountAttr::from_bits(planned.clear));
        mount::mount_setattr(tree.as_fd(), AttrChange { set, clear, ..AttrChange::default() })?;
    }
    if planned.set_all != 0 || planned.clear_all != 0 {
        mount::mount_setattr(tree.as_fd(), rootfs::all(planned))?;
    }
    Ok(())
}

/// The container's own group in each hierarchy of v1; v2's group in a cgroup namespace, else, where paths start at the host's root, all.
fn cgroups(plan: &Plan, planned: &MountPlan, group: &Group) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut all = Vec::new();
    for hierarchy in &group.hierarchies {
        let whole = group.v2 && !plan.own(NEWCGROUP);
        let folder = if whole { hierarchy.point.clone() } else { group.folder(hierarchy) };
        let tree = mount::open_tree(None, &folder, true, false)?;
        set(&tree, Propagation::Private, false)?;
        attributes(planned, &tree)?;
        let name = match group.v2 {
            true => String::new(),
            false => hierarchy.point.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        all.push((name, tree));
    }
    Ok(all)
}

fn devices(planned: &[DevicePlan]) -> Result<Vec<(String, OwnedFd)>, Error> {
    let mut all = Vec::new();
    for device in planned {
        let act = format!("opening the host's device {}", device.path);
        let tree = mount::open_tree(None, Path::new(&device.path), true, false).map_err(Error::io(act.as_str()))?;
        set(&tree, Propagation::Private, false).map_err(Error::io(act.as_str()))?;
        all.push((device.path.clone(), tree));
    }
    Ok(all)
}

pub fn map_text(map: &[IdMapping]) -> String {
    map.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect()
}

/// A user namespace with these maps: a process is made in it, looked at, and ended.
fn mapped(uids: &[IdMapping], gids: &[IdMapping]) -> io::Result<OwnedFd> {
    let (read, write) = process::pipe()?;
    match process::clone3(NEWUSER, None)? {
        Cloned::Child => {
            drop(write);
            // Until the parent has closed its end.
            let _ = process::read(read.as_fd(), &mut [0]);
            std::process::exit(0)
        }
        Cloned::Parent(pid, _pidfd) => {
            drop(read);
            let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
            let made = fs::write(at("uid_map"), map_text(uids))
                .and_then(|()| fs::write(at("gid_map"), map_text(gids)))
                .and_then(|()| File::open(at("ns/user")));
            drop(write);
            process::reap(Some(pid), true)?;
            made.map(OwnedFd::from)
        }
    }
}
