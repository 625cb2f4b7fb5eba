//! Hands output over to collectors, out of the files: whatever the collector does, the container never waits for it.
//!
//! One task for each container whose driver forwards. How far it came is in `forward.json` beside the files, written behind each batch
//! that was handed over: after a stop of the agent the next one goes on exactly there. A kill between the two hands the last batch (at
//! most 64 KiB) over again with the same sequence numbers, by which a collector can tell; so does a connection that breaks before the
//! other side's kernel has acknowledged. What was dropped before it could be handed over is said in a line of its own and counted.

use super::journald::Journald;
use super::keep::write_whole;
use super::place::facts;
use super::position::LogPosition;
use super::reader::LogReader;
use super::syslog::Syslog;
use crate::container::{Container, Life};
use crate::node::Inner;
use crate::view::{LogEntry, LogQuery};
use berth_model::log::LogDriver;
use berth_model::{ContainerId, Phase};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const STATE: &str = "forward.json";
/// From the news of more to the look at it: a container that writes line by line is handed over in batches.
const PACE: Duration = Duration::from_millis(50);
/// For the batch that is under way when the agent stops.
const LAST_BATCH: Duration = Duration::from_secs(1);
/// A collector that is away is tried again: soon, then ever later.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A container that is removed waits so long for its last lines to be handed over; a collector that is away is not waited for.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How far a container's output was handed over.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Forwarded {
    /// Of everything that was stored, so many bytes.
    pub position: u64,
    pub entries: u64,
    pub gaps: u64,
    pub lost_bytes: u64,
}

/// What a collector gets.
pub(super) struct Item<'a> {
    pub entry: &'a LogEntry,
    /// Counted from 1 for each container; the same when it is sent again.
    pub sequence: u64,
}

enum Collector {
    Journald(Journald),
    Syslog(Syslog),
}

impl Collector {
    /// How many of `items`, from the first on, are handed over; fewer than all only beside an error.
    async fn send(&mut self, items: &[Item<'_>], stop: &CancellationToken) -> (usize, io::Result<()>) {
        match self {
            Collector::Journald(c) => c.send(items, stop).await,
            Collector::Syslog(c) => c.send(items, stop).await,
        }
    }
}

/// What comes one by one ends between two when the agent stops: what was taken is counted, and the next agent goes on behind it.
pub(super) fn goes_on(stop: &CancellationToken) -> io::Result<()> {
    if stop.is_cancelled() {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "the agent stops"));
    }
    Ok(())
}

/// One task's word to the others.
struct Forward {
    forwarded: Mutex<Forwarded>,
    /// Since when and why nothing can be handed over.
    failing: Mutex<Option<(Instant, String)>>,
    cancel: CancellationToken,
}

/// All tasks that forward.
#[derive(Default)]
pub(crate) struct Forwarders(Mutex<HashMap<ContainerId, Arc<Forward>>>);

impl Forwarders {
    /// Forwards what `container` has written and will write, unless that is done already.
    pub fn start(inner: &Arc<Inner>, container: &Arc<Container>) {
        if !container.record().spec.log.driver.forwards() {
            return;
        }
        let mut all = inner.forwarders.0.lock().expect("forwarders");
        if all.contains_key(&container.id) {
            return;
        }
        let dir = inner.paths(&container.id).log;
        let forward = Arc::new(Forward {
            forwarded: Mutex::new(read_state(&dir)),
            failing: Mutex::default(),
            cancel: inner.stop.child_token(),
        });
        all.insert(container.id.clone(), forward.clone());
        let (inner_, container) = (inner.clone(), container.clone());
        inner.watchers.spawn(async move {
            let mut life = container.life();
            loop {
                run(&inner_, &container, &forward, &dir).await;
                // Under the lock: a start that comes now sees it gone, or it sees the start.
                let mut all = inner_.forwarders.0.lock().expect("forwarders");
                if forward.cancel.is_cancelled() || has_ended(&container) {
                    all.remove(&container.id);
                    return;
                }
                drop(all);
                life.mark_unchanged();
            }
        });
    }

    /// How far a container's output was handed over, and why it goes no further.
    pub fn state(&self, id: &ContainerId, dir: &Path) -> (Forwarded, Option<String>) {
        let forward = self.0.lock().expect("forwarders").get(id).cloned();
        match forward {
            None => (read_state(dir), None),
            Some(f) => {
                let failing = f.failing.lock().expect("failing").as_ref().map(|(_, why)| why.clone());
                (f.forwarded.lock().expect("forwarded").clone(), failing)
            }
        }
    }

    /// Waits (blocking, and not long) until the last lines of a container that goes are handed over, and ends its task.
    pub fn finish(&self, id: &ContainerId) {
        let Some(forward) = self.0.lock().expect("forwarders").get(id).cloned() else { return };
        let until = Instant::now() + LAST_LINES;
        loop {
            if !self.0.lock().expect("forwarders").contains_key(id) {
                return;
            }
            let failing = forward.failing.lock().expect("failing").as_ref().map(|(_, why)| why.clone());
            if failing.is_some() || Instant::now() >= until {
                let why = failing.unwrap_or_else(|| "the collector is too slow".to_owned());
                tracing::warn!(container = %id, why, "the last lines of a removed container were not handed over");
                forward.cancel.cancel();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn read_state(dir: &Path) -> Forwarded {
    std::fs::read(dir.join(STATE)).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default()
}

fn has_ended(container: &Container) -> bool {
    !matches!(container.phase(), Phase::Starting | Phase::Running)
}

/// Until everything of a container that has ended is handed over.
async fn run(inner: &Arc<Inner>, container: &Arc<Container>, forward: &Arc<Forward>, dir: &Path) {
    let mut collector = collector(inner, container);
    let mut reader = reader(dir, forward);
    let mut life = container.life();
    let (mut armed, mut retry) = (None, RETRY_MIN);
    loop {
        // Looked at before the reading: what was written before the end is read behind it.
        let ended = has_ended(container);
        let batch = tokio::task::spawn_blocking(move || {
            let batch = reader.batch();
            (reader, batch)
        });
        let Ok((back, batch)) = batch.await else { return };
        reader = back;
        let handed = match batch {
            Err(e) => Err(e),
            Ok(batch) if batch.entries.is_empty() && batch.at_end => {
                if ended {
                    return;
                }
                // Watched from here on: another look for what came before.
                let Some(watch) = &mut armed else {
                    armed = Some(inner.log_watch.arm(dir));
                    continue;
                };
                tokio::select! {
                    () = watch.fired() => armed = None,
                    _ = life.wait_for(|l| *l != Life::Open) => {}
                    () = forward.cancel.cancelled() => return,
                }
                tokio::time::sleep(PACE).await;
                continue;
            }
            Ok(batch) => {
                let mut handing = std::pin::pin!(hand_over(&mut collector, forward, dir, &batch.entries));
                tokio::select! {
                    handed = &mut handing => handed,
                    () = forward.cancel.cancelled() => {
                        // Cut in the middle, what was taken would not be counted, and come again.
                        let _ = tokio::time::timeout(LAST_BATCH, handing).await;
                        return;
                    }
                }
            }
        };
        match handed {
            Err(_) if forward.cancel.is_cancelled() => return,
            Ok(()) => {
                *forward.failing.lock().expect("failing") = None;
                retry = RETRY_MIN;
            }
            Err(e) => {
                say_failing(container, forward, &e);
                tokio::select! {
                    () = tokio::time::sleep(retry) => {}
                    () = forward.cancel.cancelled() => return,
                }
                retry = (retry * 2).min(RETRY_MAX);
                reader = self::reader(dir, forward);
            }
        }
    }
}

/// Once for each time that it goes away.
fn say_failing(container: &Container, forward: &Forward, error: &io::Error) {
    let mut failing = forward.failing.lock().expect("failing");
    match &mut *failing {
        Some((_, why)) => *why = error.to_string(),
        None => {
            tracing::warn!(container = %container.id, %error, "output waits in its files: the collector does not take it");
            *failing = Some((Instant::now(), error.to_string()));
        }
    }
}

fn reader(dir: &Path, forward: &Forward) -> LogReader {
    let position = forward.forwarded.lock().expect("forwarded").position;
    LogReader::from_position(PathBuf::from(dir), &LogQuery::default(), LogPosition::At(position))
}

fn collector(inner: &Inner, container: &Container) -> Collector {
    let record = container.record();
    let (log, facts) = (&record.spec.log, facts(container, &record));
    match log.driver {
        LogDriver::Journald => Collector::Journald(Journald::new(&inner.config.logs.journald_socket, log, &facts)),
        _ => Collector::Syslog(Syslog::new(log, &facts, &berth_sys::store::uname().hostname)),
    }
}

/// Hands a batch over and writes down how far it came.
async fn hand_over(collector: &mut Collector, forward: &Forward, dir: &Path, entries: &[LogEntry]) -> io::Result<()> {
    let first = forward.forwarded.lock().expect("forwarded").entries + 1;
    let items: Vec<Item<'_>> = entries.iter().zip(first..).map(|(entry, sequence)| Item { entry, sequence }).collect();
    let (count, outcome) = collector.send(&items, &forward.cancel).await;
    let state = {
        let mut forwarded = forward.forwarded.lock().expect("forwarded");
        for Item { entry, .. } in &items[..count] {
            if let LogPosition::At(at) = entry.position {
                forwarded.position = at;
            }
            forwarded.entries += 1;
            forwarded.gaps += u64::from(entry.lost_bytes > 0);
            forwarded.lost_bytes += entry.lost_bytes;
        }
        forwarded.clone()
    };
    if count > 0 {
        // A full disk: it goes on from memory, and what is handed over then comes again behind the agent's next start.
        let dir = dir.to_owned();
        let written = tokio::task::spawn_blocking(move || write_whole(&dir, STATE, &serde_json::to_vec(&state)?)).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(%error, "writing down how far output was handed over");
        }
    }
    outcome
}
