//! Places where a test makes the agent die, wait or fail.
//!
//! Compiled in only with the feature `failpoints`; otherwise a point is nothing at all. `BERTH_FAILPOINTS` says what happens where:
//! `create.after_layer=abort;pull.before_commit=sleep:200;start.after_spawn=error`.

use crate::NodeError;

/// Every point there is, in the order of a container's life: tests walk this list.
pub const NAMES: &[&str] = &[
    "pull.before_fetch",
    "pull.before_commit",
    "pull.after_commit",
    "create.after_image",
    "create.after_layer",
    "create.after_record",
    "start.after_record",
    "start.after_mount",
    "own.before_limit",
    "own.after_limit",
    "own.after_mount",
    "start.after_network",
    "start.after_spawn",
    "start.after_running",
    "exit.before_record",
    "exit.after_record",
    "exit.after_release",
    "stop.after_signal",
    "stop.before_kill",
    "stop.after_kill",
    "ports.before_record",
    "ports.after_record",
    "ports.after_rules",
    "remove.before_record",
    "remove.after_record",
    "remove.after_umount",
    "remove.after_network",
    "remove.after_cgroup",
    "remove.after_tree",
    "image.after_remove_record",
    "image.after_remove_layers",
    "commit.after_freeze",
    "commit.after_layer",
    "commit.after_publish",
    "commit.after_documents",
    "commit.after_record",
    "network.create.before_record",
    "network.create.after_record",
    "network.create.after_bridge",
    "network.remove.before_record",
    "network.remove.after_record",
    "network.remove.after_bridge",
    "network.connect.before_record",
    "network.connect.after_record",
    "network.connect.after_link",
    "network.disconnect.after_link",
    "network.connect.after_settled",
    "cni.add.before_record",
    "cni.add.after_record",
    "cni.add.between_plugins",
    "cni.add.after_plugins",
    "cni.add.after_result",
    "cni.del.before_record",
    "cni.del.after_record",
    "cni.del.between_plugins",
    "cni.del.after_plugins",
    "cni.del.after_forget",
    "volume.after_draft",
    "volume.after_publish",
    "volume.after_record",
    "volume.after_copy",
    "volume.while_filling",
    "volume.after_fill",
    "volume.before_removal",
    "volume.after_removal_record",
    "volume.after_retire",
    "volume.while_clearing",
    "volume.while_arriving",
    "volume.after_arrival",
    "volume.while_importing",
    "volume.after_extract",
    "volume.after_take",
    "upgrade.after_check",
    "upgrade.after_journal",
    "upgrade.after_watcher",
    "upgrade.after_previous",
    "upgrade.after_swap",
    "upgrade.after_trial",
    "upgrade.before_execve",
    "upgrade.before_serving",
    "upgrade.before_confirm",
    "upgrade.after_confirm",
];

/// A place where a test may cut in.
///
/// # Errors
/// Only what `BERTH_FAILPOINTS` asks for here: never without the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn point(_name: &'static str) -> Result<(), NodeError> {
    Ok(())
}

/// A place where a test may cut in.
///
/// # Errors
/// Only what `BERTH_FAILPOINTS` asks for here.
#[cfg(feature = "failpoints")]
pub fn point(name: &'static str) -> Result<(), NodeError> {
    use std::collections::HashMap;
    use std::sync::OnceLock;
    static ACTIONS: OnceLock<HashMap<String, Action>> = OnceLock::new();
    debug_assert!(NAMES.contains(&name), "{name} is not in fail::NAMES");
    let actions = ACTIONS.get_or_init(|| {
        let text = std::env::var("BERTH_FAILPOINTS").unwrap_or_default();
        parse(&text).unwrap_or_else(|e| panic!("BERTH_FAILPOINTS: {e}"))
    });
    match actions.get(name) {
        None => Ok(()),
        // As SIGKILL: no destructor, no flush, no handler runs.
        Some(Action::Abort) => std::process::abort(),
        Some(Action::Sleep(millis)) => {
            std::thread::sleep(std::time::Duration::from_millis(*millis));
            Ok(())
        }
        Some(Action::Error) => {
            Err(NodeError::Io { act: format!("fail point {name}"), source: std::io::Error::other("asked for") })
        }
    }
}

/// A wall that a test has taken down.
pub use berth_sys::wall::is_down;

#[cfg(any(test, feature = "failpoints"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Abort,
    Sleep(u64),
    Error,
}

#[cfg(any(test, feature = "failpoints"))]
fn parse(text: &str) -> Result<std::collections::HashMap<String, Action>, String> {
    let mut actions = std::collections::HashMap::new();
    for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
        let (name, action) = part.split_once('=').ok_or_else(|| format!("{part:?} has no '='"))?;
        if !NAMES.contains(&name) {
            return Err(format!("there is no point {name:?}"));
        }
        let action = match action.split_once(':') {
            None if action == "abort" => Action::Abort,
            None if action == "error" => Action::Error,
            Some(("sleep", millis)) => Action::Sleep(millis.parse().map_err(|e| format!("{part:?}: {e}"))?),
            _ => return Err(format!("{part:?}: expected abort, error or sleep:MILLISECONDS")),
        };
        actions.insert(name.to_owned(), action);
    }
    Ok(actions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_variable() {
        let a = parse("create.after_layer=abort; pull.before_commit=sleep:20;").unwrap();
        assert_eq!(a["create.after_layer"], Action::Abort);
        assert_eq!(a["pull.before_commit"], Action::Sleep(20));
        for bad in ["create.after_layer", "no.such=abort", "create.after_layer=sleep", "create.after_layer=sleep:x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_told_once() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }
}
