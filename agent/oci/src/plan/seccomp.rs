//! `linux.seccomp`, by berth's own compiler.

use super::SeccompPlan;
use crate::error::Error;
use berth_runtime::seccomp as compiler;
use serde_json::Value;

/// Flags of seccomp(2). TSYNC is about other threads: there are none.
const FLAGS: [(&str, u64); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_LOG", 2),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", u64::MAX),
];

/// `bounding`: the capabilities that the profile's rules may ask for. `None`: nothing is filtered.
pub fn compile(profile: &Value, bounding: u64) -> Result<Option<SeccompPlan>, Error> {
    let bad = |message: String| Error::field("linux.seccomp", message);
    let mut profile = profile.clone();
    let Some(map) = profile.as_object_mut() else { return Err(bad("is no object".into())) };
    let mut flags = 0;
    for flag in map.remove("flags").iter().flat_map(|f| f.as_array().into_iter().flatten()) {
        let name = flag.as_str().unwrap_or_default();
        match FLAGS.iter().find(|(n, _)| *n == name) {
            Some((_, bits)) if *bits != u64::MAX => flags |= bits,
            _ => return Err(Error::field("linux.seccomp.flags", format!("{name:?} is not supported"))),
        }
    }
    if map.contains_key("listenerPath") || map.contains_key("listenerMetadata") {
        return Err(Error::field("linux.seccomp.listenerPath", "user notification is not supported"));
    }
    let parsed = compiler::parse(&profile.to_string()).map_err(|e| bad(e.to_string()))?;
    if parsed.default == compiler::Action::Allow && parsed.rules.is_empty() {
        return Ok(None);
    }
    let names = berth_sys::cap::NAMES.iter().enumerate();
    let target = compiler::Target {
        arch: compiler::Arch::native().ok_or_else(|| bad("is not supported on this processor".into()))?,
        caps: names.filter(|(i, _)| bounding >> i & 1 == 1).map(|(_, n)| format!("CAP_{n}")).collect(),
        kernel: kernel(),
    };
    let program = compiler::compile(&parsed, &target).map_err(|e| bad(e.to_string()))?;
    match compiler::refuses_execve(&program, target.arch) {
        Some(why) => Err(bad(why)),
        None => Ok(Some(SeccompPlan { program: program.to_bytes(), flags })),
    }
}

fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
