//! Streams that outlive the agent: what a caller comes back to.
//!
//! The shim keeps the session with everything that is not delivered, and a note of what this agent's successor must know; the socket in
//! `sessions` below the run root leads there, when the container is gone, too. Its name is made from the caller and the caller's own
//! secret, so that nobody else finds it.

use crate::node::Inner;
use crate::view::{SessionRequest, Streams};
use crate::{NodeError, streams};
use berth_model::ContainerId;
use berth_runtime::{NewSession, Resumed};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Behind this, a session whose caller went without a word has been given up by its shim (40 s).
const GONE: Duration = Duration::from_secs(45);

/// What the shim keeps for the next agent.
#[derive(Serialize, Deserialize)]
pub(crate) struct Note {
    pub container: ContainerId,
    pub name: String,
    pub tty: bool,
    pub stdin: bool,
    /// None: the container itself.
    pub exec_id: Option<String>,
    /// What of the container only an admin may reach.
    pub needs: Vec<String>,
}

/// A session that was found again.
pub struct ResumedSession {
    pub streams: Streams,
    pub container: ContainerId,
    pub name: String,
    /// None: the container itself.
    pub exec_id: Option<String>,
    /// The caller feeds standard input.
    pub stdin: bool,
    /// What of the container only an admin may reach.
    pub needs: Vec<String>,
    /// Of the process, in the host's pid namespace, with its start time.
    pub process: (u32, u64),
}

impl ResumedSession {
    /// Sends a signal by name or number to the session's process.
    pub fn signal(process: (u32, u64), signal: &str) -> Result<(), NodeError> {
        match crate::stop::parse_signal(Some(signal))? {
            Some(number) => Ok(Resumed::signal(process, number)?),
            None => Ok(()),
        }
    }
}

pub(crate) fn folder(inner: &Inner) -> PathBuf {
    inner.config.run_root.join("sessions")
}

/// What the runtime makes a session from. `reads`: false for what is only started.
pub(crate) fn new(inner: &Inner, request: &SessionRequest, note: &Note, reads: bool) -> Result<NewSession, NodeError> {
    let mut note = serde_json::to_vec(note)
        .map_err(|e| NodeError::Io { act: "writing the note of a session".to_owned(), source: e.into() })?;
    // A list of options that is longer than the note may be is as good as its beginning: one is enough to need an admin.
    if note.len() > berth_model::wire::MAX_SESSION {
        let mut short: Note = serde_json::from_slice(&note)
            .map_err(|e| NodeError::Io { act: "reading the note of a session".to_owned(), source: e.into() })?;
        short.needs = vec!["options beyond the operator's".to_owned()];
        note = serde_json::to_vec(&short).unwrap_or_default();
    }
    Ok(NewSession { folder: folder(inner), name: request.name.clone(), note, reads })
}

/// Goes on with a session. None: there is none.
pub(crate) async fn resume(
    inner: &Arc<Inner>,
    name: &str,
    taken: [u64; 2],
) -> Result<Option<ResumedSession>, NodeError> {
    let folder = folder(inner);
    let Some(found) = berth_runtime::resume(&folder, name, taken).await? else { return Ok(None) };
    let Resumed { attachment, fed, note, process } = found;
    let note: Note = serde_json::from_slice(&note)
        .map_err(|e| NodeError::Io { act: "reading the note of a session".to_owned(), source: e.into() })?;
    let mut streams = streams::pump(attachment, note.tty);
    streams.session = Some(fed);
    Ok(Some(ResumedSession {
        streams,
        container: note.container,
        name: note.name,
        exec_id: note.exec_id,
        stdin: note.stdin,
        needs: note.needs,
        process,
    }))
}

/// Takes away the socket of a session that is over; `now`: its caller has left, otherwise the shim gives it up in its time.
pub(crate) fn forget(inner: &Arc<Inner>, name: String, now: bool) {
    let (folder, stop) = (folder(inner), inner.stop.clone());
    inner.watchers.spawn(async move {
        // The shim closes its listener a moment behind the word.
        let pause = if now { Duration::from_millis(100) } else { GONE };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        let done = tokio::task::spawn_blocking(move || berth_runtime::forget(&folder, &name)).await;
        if let Ok(Err(e)) = done {
            tracing::debug!(error = %e, "removing the socket of a session");
        }
    });
}

/// Removes what sessions of earlier agents left, now and when those that could be resumed are over.
pub(crate) async fn sweep(inner: Arc<Inner>) {
    for pause in [Duration::ZERO, GONE] {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inner.stop.cancelled() => return,
        }
        let folder = folder(&inner);
        let swept = tokio::task::spawn_blocking(move || berth_runtime::sweep(&folder)).await;
        if let Ok(Err(e)) = swept {
            tracing::debug!(error = %e, "sweeping the sockets of sessions");
        }
    }
}
