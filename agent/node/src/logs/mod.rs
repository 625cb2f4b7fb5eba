//! What containers wrote: read and followed.
//!
//! The shim writes local files and nothing else (`files.rs` knows their names); all readers are here. A follower looks for more every
//! 20 to 100 ms, and at once when the container ends. `forward.rs` hands output over to collectors; `keep.rs` compresses and removes.

mod files;
mod forward;
mod journald;
pub(crate) mod keep;
mod line;
pub(crate) mod place;
mod position;
mod reader;
mod syslog;

pub(crate) use forward::Forwarders;

pub use position::{BadLogCursor, LogCursor, LogPosition};

use crate::NodeError;
use crate::container::{Container, Life};
use crate::node::Inner;
use crate::view::{LogEntry, LogQuery};
use berth_model::log::LogDriver;
use berth_model::{Phase, Timestamp};
use reader::LogReader;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Batches on their way to a reader.
const QUEUE: usize = 4;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Entries in batches; ends when everything is read and, for a follower, the container has ended.
pub(crate) fn read(
    inner: &Arc<Inner>,
    container: Arc<Container>,
    query: LogQuery,
) -> Result<mpsc::Receiver<Result<Vec<LogEntry>, NodeError>>, NodeError> {
    let wrong = |field: &str, why: &str| NodeError::Invalid(vec![(field.to_owned(), why.to_owned())]);
    if query.after.as_ref().is_some_and(|c| !c.is_of(&container.id)) {
        return Err(wrong("after_cursor", "is of another container's log"));
    }
    if container.record().spec.log.driver == LogDriver::None {
        return Err(NodeError::LogNotKept(container.record().name.clone()));
    }
    if query.after.is_some() && query.tail.is_some() {
        return Err(wrong("tail", "must be unset beside after_cursor"));
    }
    let (send, receive) = mpsc::channel(QUEUE);
    let dir = inner.paths(&container.id).log;
    let stop = inner.stop.clone();
    inner.watchers.spawn(async move {
        let mut life = container.life();
        let mut reader = LogReader::new(dir, &query);
        let mut pause = PAUSE_MIN;
        loop {
            // Looked at before the reading: what was written before the end is read behind it.
            // What is about to be started again goes on, as with Docker.
            let between = container.record().is_restarting();
            let ended = !between && !matches!(container.phase(), Phase::Starting | Phase::Running);
            let batch = tokio::task::spawn_blocking(move || {
                let batch = reader.batch();
                (reader, batch)
            });
            let Ok((back, batch)) = batch.await else { return };
            reader = back;
            let batch = match batch {
                Ok(batch) => batch,
                Err(source) => {
                    let act = format!("reading the logs of {}", container.id);
                    let _ = send.send(Err(NodeError::Io { act, source })).await;
                    return;
                }
            };
            if !batch.entries.is_empty() {
                pause = PAUSE_MIN;
                if send.send(Ok(batch.entries)).await.is_err() {
                    return;
                }
            }
            if !batch.at_end {
                continue;
            }
            if ended || !query.follow || query.until.is_some_and(|u| Timestamp::now() > u) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = life.wait_for(|l| *l != Life::Open), if !between => {}
                () = send.closed() => return,
                // No end of the log: a follower comes back to the next agent.
                () = stop.cancelled() => {
                    let _ = send.try_send(Err(NodeError::Stopping));
                    return;
                }
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    });
    Ok(receive)
}
