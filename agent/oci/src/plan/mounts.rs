//! Mounts and their options (config.md, "Mounts"; mount(8)).

use super::{REC, same};
use crate::config::{Config, IdMapping, Mount};
use crate::error::Error;
use std::path::{Path, PathBuf};

// MS_* of mount(2).
const PRIVATE: u32 = 0x4_0000;
const SLAVE: u32 = 0x8_0000;
const SHARED: u32 = 0x10_0000;
const UNBINDABLE: u32 = 0x2_0000;
const REMOUNT: u32 = 32;

// MOUNT_ATTR_* of mount_setattr(2).
const ATTR_ATIME: u64 = 0x70;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum MountKind {
    Bind {
        source: PathBuf,
        recursive: bool,
    },
    /// A file system of its own: type, source.
    Fs {
        fs_type: String,
        source: String,
    },
    /// The container's own control groups.
    #[default]
    Cgroup,
    /// Other options for what an earlier one has mounted there; `bind`: for this mount alone, not for its file system.
    Remount {
        bind: bool,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountPlan {
    /// Absolute inside the container.
    pub target: String,
    pub kind: MountKind,
    /// MS_* for a file system of its own.
    pub flags: u32,
    /// Its options that are no flags.
    pub data: String,
    /// Of SELinux, which its root is given behind the mount. Empty: none.
    pub label: String,
    /// MOUNT_ATTR_* of this mount, set and cleared.
    pub set: u64,
    pub clear: u64,
    /// The same for all mounts below, too.
    pub set_all: u64,
    pub clear_all: u64,
    /// MS_* propagations, with [`REC`], in their order.
    pub propagation: Vec<u32>,
    /// tmpfs: begins with what the image has there.
    pub copy_up: bool,
    /// uids, gids, and whether the mounts below are mapped, too.
    pub map: Option<(Vec<IdMapping>, Vec<IdMapping>, bool)>,
}

/// Name, does it clear, MS_* flag, MOUNT_ATTR_* bits.
const FLAGS: [(&str, bool, u32, u64); 38] = [
    ("ro", false, 1, 1),
    ("rw", true, 1, 1),
    ("nosuid", false, 2, 2),
    ("suid", true, 2, 2),
    ("nodev", false, 4, 4),
    ("dev", true, 4, 4),
    ("noexec", false, 8, 8),
    ("exec", true, 8, 8),
    ("sync", false, 16, 0),
    ("async", true, 16, 0),
    ("mand", false, 64, 0),
    ("nomand", true, 64, 0),
    ("dirsync", false, 128, 0),
    ("nosymfollow", false, 256, 0x20_0000),
    ("symfollow", true, 256, 0x20_0000),
    ("noatime", false, 1024, 0x10),
    ("atime", true, 1024, 0x10),
    ("nodiratime", false, 2048, 0x80),
    ("diratime", true, 2048, 0x80),
    ("silent", false, 32768, 0),
    ("loud", true, 32768, 0),
    ("relatime", false, 1 << 21, 0),
    ("norelatime", true, 1 << 21, 0),
    ("iversion", false, 1 << 23, 0),
    ("noiversion", true, 1 << 23, 0),
    ("strictatime", false, 1 << 24, 0x20),
    ("nostrictatime", true, 1 << 24, 0x20),
    ("lazytime", false, 1 << 25, 0),
    ("nolazytime", true, 1 << 25, 0),
    ("private", false, PRIVATE, 0),
    ("rprivate", false, PRIVATE | REC, 0),
    ("slave", false, SLAVE, 0),
    ("rslave", false, SLAVE | REC, 0),
    ("shared", false, SHARED, 0),
    ("rshared", false, SHARED | REC, 0),
    ("unbindable", false, UNBINDABLE, 0),
    ("runbindable", false, UNBINDABLE | REC, 0),
    ("remount", false, REMOUNT, 0),
];

/// For the mounts below, too: name, does it clear, MOUNT_ATTR_* bits.
const RECURSIVE: [(&str, bool, u64); 17] = [
    ("rro", false, 1),
    ("rrw", true, 1),
    ("rnosuid", false, 2),
    ("rsuid", true, 2),
    ("rnodev", false, 4),
    ("rdev", true, 4),
    ("rnoexec", false, 8),
    ("rexec", true, 8),
    ("rnodiratime", false, 0x80),
    ("rdiratime", true, 0x80),
    ("rnoatime", false, 0x10),
    ("ratime", true, 0x10),
    ("rstrictatime", false, 0x20),
    ("rnostrictatime", true, 0x20),
    ("rrelatime", false, 0),
    ("rnosymfollow", false, 0x20_0000),
    ("rsymfollow", true, 0x20_0000),
];

/// Options that are known, for `features`.
pub fn option_names() -> Vec<&'static str> {
    let others = ["bind", "rbind", "defaults", "tmpcopyup", "idmap", "ridmap"];
    let mut names: Vec<_> = FLAGS.iter().map(|f| f.0).chain(RECURSIVE.iter().map(|f| f.0)).chain(others).collect();
    names.sort_unstable();
    names
}

pub fn mounts(config: &Config, bundle: &Path) -> Result<Vec<MountPlan>, Error> {
    let mut all: Vec<MountPlan> = Vec::new();
    for (i, given) in config.mounts.iter().enumerate() {
        let planned = mount(&format!("mounts[{i}]"), given, bundle)?;
        if let MountKind::Remount { bind } = planned.kind {
            // Only what this bundle has mounted, and never the host's file systems behind binds.
            let own = |kind: &MountKind| bind || matches!(kind, MountKind::Fs { .. });
            if !all.iter().rfind(|m| same(&m.target, &planned.target)).is_some_and(|m| own(&m.kind)) {
                let message = "\"remount\" needs an earlier mount of the bundle's with this destination, and \"bind\" unless that is a file system of its own";
                return Err(Error::field(format!("mounts[{i}].options"), message));
            }
        }
        all.push(planned);
    }
    Ok(all)
}

fn mount(field: &str, given: &Mount, bundle: &Path) -> Result<MountPlan, Error> {
    let bad = |name: &str, message: String| Err(Error::field(format!("{field}.{name}"), message));
    // The specification wants an absolute path; what older bundles have is taken from the root.
    let target = format!("/{}", given.destination.trim_start_matches('/'));
    if given.destination.is_empty() || same(&target, "/") || target.contains('\0') {
        return bad("destination", format!("{:?} is no path below the root", given.destination));
    }
    if target.split('/').any(|p| p == "..") {
        return bad("destination", format!("{:?} holds '..'", given.destination));
    }
    let mut plan = MountPlan { target, ..MountPlan::default() };
    let mut data: Vec<&str> = Vec::new();
    let (mut bind, mut mapped, mut remount) = (None, None, false);
    for option in &given.options {
        match option.as_str() {
            "bind" => bind = Some(false),
            "rbind" => bind = Some(true),
            "defaults" | "" => {}
            "tmpcopyup" => plan.copy_up = true,
            "idmap" => mapped = Some(false),
            "ridmap" => mapped = Some(true),
            "remount" => remount = true,
            name => {
                if !flag(&mut plan, name) {
                    data.push(name);
                }
            }
        }
    }
    plan.data = data.join(",");
    plan.kind = match (bind, given.kind.as_str()) {
        _ if remount => MountKind::Remount { bind: bind.is_some() },
        (Some(recursive), _) => bound(given, bundle, recursive),
        (None, "bind") => bound(given, bundle, false),
        (None, "cgroup" | "cgroup2") => MountKind::Cgroup,
        (None, "") => return bad("type", "is missing".into()),
        (None, kind) => MountKind::Fs { fs_type: kind.to_owned(), source: given.source.clone() },
    };
    if matches!(plan.kind, MountKind::Bind { .. }) {
        if given.source.is_empty() {
            return bad("source", "is missing".into());
        }
        if !plan.data.is_empty() {
            return bad("options", format!("{:?} is no option of a bind mount", plan.data));
        }
    }
    if plan.copy_up && !matches!(&plan.kind, MountKind::Fs { fs_type, .. } if fs_type == "tmpfs") {
        return bad("options", "\"tmpcopyup\" is for tmpfs alone".into());
    }
    plan.map = map(field, given, mapped, &plan.kind)?;
    Ok(plan)
}

fn bound(given: &Mount, bundle: &Path, recursive: bool) -> MountKind {
    MountKind::Bind { source: bundle.join(&given.source), recursive }
}

/// False: it is no flag.
fn flag(plan: &mut MountPlan, name: &str) -> bool {
    if let Some((_, clear, bits)) = RECURSIVE.iter().find(|f| f.0 == name) {
        change(&mut plan.set_all, &mut plan.clear_all, *clear, *bits, name == "rrelatime");
        return true;
    }
    let Some((_, clear, flag, bits)) = FLAGS.iter().find(|f| f.0 == name) else { return false };
    if flag & (PRIVATE | SLAVE | SHARED | UNBINDABLE) != 0 {
        plan.propagation.push(*flag);
        return true;
    }
    if *clear {
        plan.flags &= !flag;
    } else {
        plan.flags |= flag;
    }
    change(&mut plan.set, &mut plan.clear, *clear, *bits, name == "relatime");
    true
}

/// The times of access are one field of mount_setattr(2): what sets one of its values clears the others, and relatime is its zero.
fn change(set: &mut u64, cleared: &mut u64, clear: bool, bits: u64, zero: bool) {
    if clear {
        *set &= !bits;
        *cleared |= if bits & ATTR_ATIME != 0 { ATTR_ATIME } else { bits };
        return;
    }
    if zero || bits & ATTR_ATIME != 0 {
        *set &= !ATTR_ATIME;
        *cleared |= ATTR_ATIME;
    }
    *set |= bits;
    *cleared &= !(bits & !ATTR_ATIME);
}

type Map = Option<(Vec<IdMapping>, Vec<IdMapping>, bool)>;

fn map(field: &str, given: &Mount, mapped: Option<bool>, kind: &MountKind) -> Result<Map, Error> {
    let named = !given.uid_mappings.is_empty() || !given.gid_mappings.is_empty();
    if !named && mapped.is_none() {
        return Ok(None);
    }
    let field = format!("{field}.uidMappings");
    if given.uid_mappings.is_empty() || given.gid_mappings.is_empty() {
        return Err(Error::field(field, "an idmapped mount needs uidMappings and gidMappings of its own"));
    }
    if !matches!(kind, MountKind::Bind { .. }) {
        return Err(Error::field(field, "is for bind mounts alone"));
    }
    Ok(Some((given.uid_mappings.clone(), given.gid_mappings.clone(), mapped.unwrap_or(false))))
}

/// Slave by default, as runc has it: what the host mounts later comes in, nothing goes out.
pub fn root_propagation(name: Option<&str>) -> Result<u32, Error> {
    match name.filter(|n| !n.is_empty()) {
        None => Ok(SLAVE | REC),
        Some("private" | "rprivate") => Ok(PRIVATE | REC),
        Some("slave" | "rslave") => Ok(SLAVE | REC),
        Some("shared" | "rshared") => Ok(SHARED | REC),
        Some("unbindable" | "runbindable") => Ok(UNBINDABLE | REC),
        Some(other) => Err(Error::field("linux.rootfsPropagation", format!("unknown value {other:?}"))),
    }
}
