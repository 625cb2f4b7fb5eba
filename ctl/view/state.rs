//! Parts of `inspect` that Docker's has no shape for.

use berth::v1::{self, after::Condition, restart_policy::Mode};
use berth_model::selinux::LabelOptions;
use serde_json::{Value, json};

pub fn log(log: &v1::LogState) -> Value {
    json!({
        "Driver": log.driver,
        "Files": log.files,
        "StoredBytes": log.stored_bytes,
        "RemovedFiles": log.removed_files,
        "RemovedBytes": log.removed_bytes,
        "LostLines": log.lost_lines,
        "ForwardedEntries": log.forwarded_entries,
        "Gaps": log.gaps,
        "LostBytes": log.lost_bytes,
        "ForwardError": log.forward_error,
    })
}

/// Without a range: `"Mode": "host"`, and why when nobody has asked for that.
pub fn userns(u: &v1::UserNamespace) -> Value {
    if u.base == 0 {
        return json!({"Mode": "host", "Reason": u.reason});
    }
    let keep = (u.keep_uid != 0).then(|| json!({"UID": u.keep_uid, "GID": u.keep_gid}));
    json!({"Mode": "own", "FirstID": u.base, "IDs": u.size, "Keep": keep})
}

/// The letter of `-v`.
pub fn relabel(m: &v1::Mount) -> Option<&'static str> {
    match m.relabel() {
        v1::Relabel::Unspecified => None,
        v1::Relabel::Shared => Some("z"),
        v1::Relabel::Private => Some("Z"),
    }
}

/// `--security-opt label=`, in Docker's words.
pub fn label_options(c: &v1::ContainerConfig) -> Vec<String> {
    let Some(given) = c.selinux.clone() else { return Vec::new() };
    let v1::SelinuxOptions { disable, user, role, r#type: kind, level, file_type } = given;
    LabelOptions { disable, user, role, kind, level, file_type }.words()
}

pub fn selinux(used: v1::Selinux) -> &'static str {
    match used {
        v1::Selinux::Unspecified => "absent",
        v1::Selinux::Unused => "unused",
        v1::Selinux::Used => "used",
    }
}

/// As `--after` takes it.
pub fn after_words(after: &v1::After) -> String {
    let word = match after.condition() {
        Condition::Unspecified | Condition::Started => "started",
        Condition::Healthy => "healthy",
        Condition::Completed => "completed",
    };
    format!("{}:{word}", after.container)
}

/// The word of `--restart`, and its most retries.
pub fn restart_words(policy: Option<&v1::RestartPolicy>) -> (&'static str, u32) {
    let Some(policy) = policy else { return ("no", 0) };
    let word = match policy.mode() {
        Mode::Unspecified | Mode::No => "no",
        Mode::Always => "always",
        Mode::OnFailure => "on-failure",
        Mode::UnlessStopped => "unless-stopped",
    };
    (word, policy.max_retries)
}
