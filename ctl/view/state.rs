//! Parts of `inspect` that Docker's has no shape for.

use berth::v1;
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
