//! Children that an agent has from its life before an execve(2): the shims of containers that run. They are its own to reap.

use berth_sys::process;
use tokio::signal::unix::{SignalKind, signal};

/// Reaps the children that this process has now, whenever they end. Does nothing for an agent that was started in the usual way.
///
/// Only those: later ones belong to who has started them.
pub fn reap_inherited() -> std::io::Result<()> {
    let mut left = inherited();
    if left.is_empty() {
        return Ok(());
    }
    tracing::info!(children = left.len(), "children of the agent before this one are its own to reap");
    let mut ended = signal(SignalKind::child())?;
    tokio::spawn(async move {
        loop {
            // An error is that there is no such child any more.
            left.retain(|pid| matches!(process::reap(Some(*pid), false), Ok(None)));
            if left.is_empty() || ended.recv().await.is_none() {
                return;
            }
        }
    });
    Ok(())
}

/// The threads of the process have ended with the execve: all its children are the one thread's that is left.
fn inherited() -> Vec<u32> {
    let pid = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
