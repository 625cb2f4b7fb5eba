//! What containers wrote: read and followed.
//!
//! The shim writes local files and nothing else (`files.rs` knows their names); all readers are here. A follower looks for more when
//! the kernel tells of it (`watch.rs`), and when the container ends. `forward.rs` hands output over to collectors; `keep.rs` compresses and removes.

mod files;
mod forward;
#[cfg(fuzzing)]
pub mod fuzz;
mod journald;
pub(crate) mod keep;
mod line;
pub(crate) mod place;
mod position;
mod reader;
mod syslog;
mod watch;

pub(crate) use forward::Forwarders;
pub(crate) use watch::LogWatch;

pub use position::{BadLogCursor, LogCursor, LogPosition};

use crate::NodeError;
use crate::container::{Container, Life};
use crate::node::Inner;
use crate::view::{LogEntry, LogQuery};
use berth_model::log::LogDriver;
use berth_model::{Phase, Timestamp};
use reader::LogReader;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// Batches on their way to a reader, some 64 KiB of text each: what a reader that does not read costs is a few of them.
const QUEUE: usize = 1;
/// From the news of more to the look at it: a container that writes line by line is read in batches.
const PACE: Duration = Duration::from_millis(20);
/// While a container is about to be started again, whether it still is, is looked at so often.
const BETWEEN: Duration = Duration::from_millis(200);

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
    let (inner, stop) = (inner.clone(), inner.stop.clone());
    inner.watchers.clone().spawn(async move {
        let mut life = container.life();
        let mut reader = LogReader::new(dir.clone(), &query);
        let mut armed = None;
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
            if !batch.entries.is_empty() && send.send(Ok(batch.entries)).await.is_err() {
                return;
            }
            if !batch.at_end {
                continue;
            }
            if ended || !query.follow || query.until.is_some_and(|u| Timestamp::now() > u) {
                return;
            }
            // Watched from here on: another look for what came before.
            let Some(watch) = &mut armed else {
                armed = Some(inner.log_watch.arm(&dir));
                continue;
            };
            tokio::select! {
                () = watch.fired() => armed = None,
                () = tokio::time::sleep(BETWEEN), if between => {}
                () = over(query.until) => {}
                _ = life.wait_for(|l| *l != Life::Open), if !between => {}
                () = send.closed() => return,
                // No end of the log: a follower comes back to the next agent.
                () = stop.cancelled() => {
                    let _ = send.try_send(Err(NodeError::Stopping));
                    return;
                }
            }
            tokio::time::sleep(PACE).await;
        }
    });
    Ok(receive)
}

/// Returns behind `until`.
async fn over(until: Option<Timestamp>) {
    let Some(until) = until else { return std::future::pending().await };
    let left = SystemTime::from(until).duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left + Duration::from_millis(1)).await;
}
