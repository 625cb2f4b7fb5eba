//! A process: of a container's beginning, or one more in it.

use super::{seccomp, selinux};
use crate::config::{Capabilities, ConsoleSize, Process};
use crate::error::Error;
use berth_sys::{cap, process as sys};
use serde_json::Value;

#[derive(Clone, Debug, Default)]
pub struct ProcessPlan {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: CapabilitySets,
    /// Number of the resource, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i64>,
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    pub seccomp: Option<SeccompPlan>,
    /// What is written to /proc/self/attr before the execve: file, content.
    pub labels: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

#[derive(Clone, Debug)]
pub struct SeccompPlan {
    pub program: Vec<u8>,
    /// Of seccomp(2).
    pub flags: u64,
}

pub fn process(given: &Process, profile: Option<&Value>, warnings: &mut Vec<String>) -> Result<ProcessPlan, Error> {
    if given.args.first().is_none_or(String::is_empty) {
        return Err(Error::field("process.args", "is empty: nothing to run"));
    }
    if given.args.iter().chain(&given.env).any(|t| t.contains('\0')) {
        return Err(Error::field("process.args", "arguments and environment cannot hold a NUL byte"));
    }
    if let Some(bad) = given.env.iter().find(|e| !e.contains('=') || e.starts_with('=')) {
        return Err(Error::field("process.env", format!("{bad:?} is not KEY=value")));
    }
    if !given.cwd.starts_with('/') {
        return Err(Error::field("process.cwd", format!("{:?} is no absolute path", given.cwd)));
    }
    for (field, value) in [
        ("process.scheduler", &given.scheduler),
        ("process.ioPriority", &given.io_priority),
        ("process.execCPUAffinity", &given.exec_cpu_affinity),
    ] {
        if value.is_some() {
            return Err(Error::field(field, "is not supported by berth-runtime"));
        }
    }
    // -1 means "as it is" to the kernel (setresuid(2)), which is root here.
    let ids = [("process.user.uid", given.user.uid), ("process.user.gid", given.user.gid)];
    let groups = given.user.additional_gids.iter().map(|gid| ("process.user.additionalGids", *gid));
    if let Some((field, id)) = ids.into_iter().chain(groups).find(|(_, id)| i32::try_from(*id).is_err()) {
        return Err(Error::field(field, format!("{id} is not between 0 and 2147483647")));
    }
    if let Some(score) = given.oom_score_adj.filter(|s| !(-1000..=1000).contains(s)) {
        return Err(Error::field("process.oomScoreAdj", format!("{score} is not between -1000 and 1000")));
    }
    let capabilities = match &given.capabilities {
        Some(sets) => capabilities(sets, cap::bounding(), warnings),
        None => CapabilitySets::default(),
    };
    Ok(ProcessPlan {
        args: given.args.clone(),
        env: given.env.clone(),
        cwd: given.cwd.clone(),
        uid: given.user.uid,
        gid: given.user.gid,
        groups: given.user.additional_gids.clone(),
        umask: given.user.umask.unwrap_or(0o022),
        capabilities,
        rlimits: rlimits(given)?,
        no_new_privileges: given.no_new_privileges,
        oom_score_adj: given.oom_score_adj,
        terminal: given.terminal,
        console_size: given.console_size.filter(|s| s.height > 0 && s.width > 0),
        seccomp: match profile {
            Some(profile) => seccomp::compile(profile, capabilities.bounding)?,
            None => None,
        },
        labels: labels(given)?,
    })
}

/// "Any value which cannot be mapped to a relevant kernel interface, or cannot be granted otherwise, MUST be logged as a warning."
fn capabilities<'a>(given: &'a Capabilities, host: u64, warnings: &mut Vec<String>) -> CapabilitySets {
    let mut missing: Vec<&str> = Vec::new();
    let mut set = |names: &'a [String]| {
        let mut bits = 0;
        for name in names {
            let upper = name.to_ascii_uppercase();
            match cap::bit(upper.strip_prefix("CAP_").unwrap_or(&upper)).filter(|bit| host & bit != 0) {
                Some(bit) => bits |= bit,
                None => missing.push(name),
            }
        }
        bits
    };
    let mut sets = CapabilitySets {
        bounding: set(&given.bounding),
        effective: set(&given.effective),
        permitted: set(&given.permitted),
        inheritable: set(&given.inheritable),
        ambient: set(&given.ambient),
    };
    if !missing.is_empty() {
        missing.sort_unstable();
        missing.dedup();
        warnings.push(format!("capabilities that cannot be granted here are left out: {}", missing.join(", ")));
    }
    // The kernel's own rules (capabilities(7)): an effective capability is permitted, an ambient one inheritable, too.
    if sets.effective & !sets.permitted != 0 {
        warnings.push("process.capabilities: what is effective but not permitted is left out".into());
    }
    sets.effective &= sets.permitted;
    sets.ambient &= sets.permitted & sets.inheritable;
    sets
}

fn rlimits(given: &Process) -> Result<Vec<(u32, u64, u64)>, Error> {
    let mut all: Vec<(u32, u64, u64)> = Vec::new();
    for limit in &given.rlimits {
        let bad = |message: String| Err(Error::field("process.rlimits", message));
        let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or_default().to_ascii_lowercase();
        let Some((_, number)) = sys::RESOURCES.iter().find(|(n, _)| *n == name) else {
            return bad(format!("unknown type {:?}", limit.kind));
        };
        if all.iter().any(|(n, ..)| n == number) {
            return bad(format!("{} is named twice", limit.kind));
        }
        if limit.soft > limit.hard {
            return bad(format!(
                "{}: the soft limit {} is above the hard limit {}",
                limit.kind, limit.soft, limit.hard
            ));
        }
        all.push((*number, limit.soft, limit.hard));
    }
    Ok(all)
}

/// Of /proc/self/attr.
const SELINUX_FILE: &str = "exec";

impl ProcessPlan {
    /// Its SELinux label.
    pub fn selinux_label(&self) -> Option<&str> {
        self.labels.iter().find(|(file, _)| *file == SELINUX_FILE).map(|(_, label)| label.as_str())
    }
}

fn labels(given: &Process) -> Result<Vec<(&'static str, String)>, Error> {
    let has = |path: &str| std::path::Path::new(path).exists();
    let mut all = Vec::new();
    if let Some(profile) = given.apparmor_profile.as_ref().filter(|p| !p.is_empty()) {
        if !has("/sys/module/apparmor") || !has("/proc/self/attr/apparmor/exec") {
            return Err(Error::field("process.apparmorProfile", "AppArmor is not enabled on this host"));
        }
        all.push(("apparmor/exec", format!("exec {profile}")));
    }
    let label = selinux::label("process.selinuxLabel", given.selinux_label.as_deref())?;
    if !label.is_empty() {
        all.push((SELINUX_FILE, label));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_stay_within_each_other_and_what_is_missing_is_told() {
        let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let given = Capabilities {
            bounding: names(&["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_NOPE"]),
            effective: names(&["CAP_CHOWN", "CAP_KILL"]),
            permitted: names(&["CAP_CHOWN"]),
            inheritable: names(&["CAP_CHOWN"]),
            ambient: names(&["CAP_CHOWN", "CAP_KILL"]),
        };
        let mut warnings = Vec::new();
        let bit = |n| cap::bit(n).unwrap();
        let sets = capabilities(&given, bit("CHOWN") | bit("KILL"), &mut warnings);
        assert_eq!(sets.bounding, bit("CHOWN"));
        assert_eq!((sets.effective, sets.ambient), (bit("CHOWN"), bit("CHOWN")));
        assert!(warnings[0].ends_with("CAP_NOPE, CAP_SYS_ADMIN"), "{warnings:?}");
    }
}
