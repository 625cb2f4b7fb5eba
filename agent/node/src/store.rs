//! What survives the agent: the only file that touches the database.
//!
//! SQLite in WAL mode. One thread writes and puts everything that waits into one transaction; a second one makes durable what was asked
//! to be, one fdatasync(2) of the log for all that wait, so that quick writes never wait for a disk. Nothing reads from here but
//! [`Store::open`]: the node lives on what is in memory.
//!
//! Two durabilities. *Quick*: in the kernel's page cache, survives the death of the agent in any form, not a power cut. *Durable*:
//! on the disk. Commits keep their order: what is durable makes all before it durable.

mod open;
mod repair;
mod reserve;

pub(crate) use open::Loaded;
use open::{connect, wal_path};
pub use repair::Repaired;
pub(crate) use repair::{There, repair};
use reserve::{Reserve, gives_room};

use crate::counts::StoreTimes;
use berth_model::event::Event;
use berth_model::image::ImageRecord;
use berth_model::network::{NetworkId, NetworkRecord};
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerId, ContainerRecord, Digest, Reference, Timestamp};
use rusqlite::Connection;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Version of the schema; a database with a higher one is left alone.
///
/// Fields of records come with a default and need no new version. A table or column that older agents could not live with does: the release that
/// first *reads* the new version comes before the one that writes it, so that an agent that was upgraded always has a way back. The upgrade
/// checks that (`agent/upgrade`), by what [`Schema::own`] says of both programs.
const VERSION: i64 = 1;
/// Requests that wait for the writer: some hundred milliseconds of the fastest work there is, 100 KB.
const QUEUE: usize = 1024;
/// Requests of one transaction.
const BATCH: usize = 256;
/// How long a request id is remembered.
pub(crate) const REQUEST_SECS: i64 = 600;
/// Request ids remembered at most.
pub(crate) const REQUESTS_MAX: usize = 10_000;
/// Events that may have been given and are not found again by a repair.
const CRASH_GAP_AT_REPAIR: u64 = 1_000_000;
/// The database is copied so often at most, when something durable has changed.
const COPY_EVERY: Duration = Duration::from_secs(60);
/// Old events and requests are dropped once per so many new ones.
const TRIM_EVERY: u32 = 256;

/// Keys of `meta` with the time when an image was used last, in nanoseconds.
const USED: &str = "used:";

/// Which databases an agent can live with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Schema {
    /// What it makes of a new or older database.
    pub writes: i64,
    /// The oldest and the newest that it can open.
    pub oldest: i64,
    pub newest: i64,
}

impl Schema {
    /// Of this program.
    pub const fn own() -> Schema {
        Schema { writes: VERSION, oldest: VERSION, newest: VERSION }
    }

    /// Whether a database that another program has written can be opened.
    pub const fn reads(&self, version: i64) -> bool {
        self.oldest <= version && version <= self.newest
    }
}

/// Why the database could not be opened or written.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{act}: {message}")]
    Sqlite { act: &'static str, message: String },
    #[error(
        "{path} has schema version {found}, this agent knows {VERSION}: it was written by a newer agent; install that one again"
    )]
    Newer { path: String, found: i64 },
    #[error(
        "{path} is damaged ({detail}): containers run on; `berthd repair` makes a new one of what can be read of it and of its last copy, and \
         keeps this one beside it"
    )]
    Damaged { path: String, detail: String },
    #[error("{path} is in use by another agent")]
    Locked { path: String },
    #[error("the store is closed")]
    Closed,
}

impl From<StoreError> for crate::NodeError {
    fn from(e: StoreError) -> Self {
        let act = match &e {
            StoreError::Newer { .. } | StoreError::Damaged { .. } | StoreError::Locked { .. } => "opening the store",
            StoreError::Sqlite { .. } | StoreError::Closed => "writing to the store",
        };
        crate::NodeError::Store { act: act.to_owned(), source: Box::new(e) }
    }
}

/// A request that was answered: kept so that its repetition gets the same answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RequestRow {
    pub caller: String,
    pub id: String,
    pub rpc: String,
    pub fingerprint: u64,
    pub result: String,
    pub time: Timestamp,
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    PutContainer(Arc<ContainerRecord>),
    DeleteContainer(ContainerId),
    PutNetwork(Arc<NetworkRecord>),
    DeleteNetwork(NetworkId),
    PutVolume(Arc<VolumeRecord>),
    DeleteVolume(String),
    /// `hidden`: removed by its name, kept for the containers that were made from it.
    PutImage {
        record: Arc<ImageRecord>,
        hidden: bool,
    },
    DeleteImage(Digest),
    PutTag(Reference, Digest),
    DeleteTag(Reference),
    Event(Arc<Event>),
    Request(RequestRow),
    /// Caller and id.
    ForgetRequest(String, String),
    /// The layer goes at this time, unless an image refers to it by then.
    Doom(Digest, Timestamp),
    Spare(Digest),
    /// A container needed the image until then.
    ImageUsed(Digest, Timestamp),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    /// Survives the agent, not a power cut.
    Quick,
    /// Survives a power cut.
    Durable,
}

struct Request {
    writes: Vec<Write>,
    durability: Durability,
    done: oneshot::Sender<Result<(), StoreError>>,
}

enum Message {
    Write(Request),
    /// Answered when everything before it is durable and the file says that it was closed.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// The answer to a write; may be dropped by who does not need it.
pub(crate) struct Ack(oneshot::Receiver<Result<(), StoreError>>);

impl Ack {
    /// Waits until the write is as safe as was asked for.
    pub async fn safe(self) -> Result<(), StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Cheap to clone. The threads end when the last clone is gone.
#[derive(Clone)]
pub(crate) struct Store {
    queue: mpsc::Sender<Message>,
    /// The last write failed: full disk, read-only file system.
    failing: Arc<AtomicBool>,
    /// The disk did not take the last sync. Some kernels go on writing to memory behind that, so that it is no write that fails.
    unsynced: Arc<AtomicBool>,
    times: Arc<StoreTimes>,
}

impl Store {
    /// Opens or makes the database at `path` (blocking). Keeps `event_keep` events.
    pub fn open(path: &Path, boot_id: &str, event_keep: usize) -> Result<(Store, Loaded), StoreError> {
        let mut reserve = Reserve::new(path);
        let (connection, loaded, wal) = open::open(path, boot_id, &mut reserve)?;
        let (queue, receive) = mpsc::channel(QUEUE);
        let failing = Arc::new(AtomicBool::new(false));
        let unsynced = Arc::new(AtomicBool::new(false));
        let times = Arc::new(StoreTimes::default());
        // As many as requests can wait: the syncer takes them all at once.
        let (to_sync, sync_queue) = std::sync::mpsc::sync_channel(QUEUE);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .stack_size(256 << 10)
                .spawn(body)
                .map_err(|e| StoreError::Sqlite { act: "starting a thread", message: e.to_string() })
        };
        let writer = Writer {
            connection,
            to_sync,
            failing: failing.clone(),
            times: times.clone(),
            event_keep: event_keep.max(1) as u64,
            untrimmed: 0,
            reserve,
            path: path.to_owned(),
            copied: None,
        };
        spawn("store-write", Box::new(move || writer.run(receive)))?;
        spawn(
            "store-sync",
            Box::new({
                let (times, unsynced) = (times.clone(), unsynced.clone());
                move || sync(&wal, &sync_queue, &times, &unsynced)
            }),
        )?;
        Ok((Store { queue, failing, unsynced, times }, loaded))
    }

    /// Hands changes over, in order with all that were handed over before. The answer comes when they are safe.
    pub async fn submit(&self, writes: Vec<Write>, durability: Durability) -> Result<Ack, StoreError> {
        let (done, ack) = oneshot::channel();
        let message = Message::Write(Request { writes, durability, done });
        self.queue.send(message).await.map_err(|_| StoreError::Closed)?;
        Ok(Ack(ack))
    }

    /// `submit` and wait.
    pub async fn write(&self, writes: Vec<Write>, durability: Durability) -> Result<(), StoreError> {
        self.submit(writes, durability).await?.safe().await
    }

    /// `submit` for a blocking thread.
    pub fn submit_blocking(&self, writes: Vec<Write>, durability: Durability) -> Result<Ack, StoreError> {
        let (done, ack) = oneshot::channel();
        let message = Message::Write(Request { writes, durability, done });
        self.queue.blocking_send(message).map_err(|_| StoreError::Closed)?;
        Ok(Ack(ack))
    }

    /// The last write failed, or the last sync.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) || self.unsynced.load(Ordering::Relaxed)
    }

    /// Writes that wait, and how many may.
    pub fn queue(&self) -> (u64, u64) {
        let max = self.queue.max_capacity();
        ((max - self.queue.capacity()) as u64, max as u64)
    }

    pub fn times(&self) -> &StoreTimes {
        &self.times
    }

    /// Writes out what waits and marks the file as closed. Writes after this fail.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (done, ack) = oneshot::channel();
        self.queue.send(Message::Close(done)).await.map_err(|_| StoreError::Closed)?;
        Ack(ack).safe().await
    }
}

fn sqlite(act: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |e| StoreError::Sqlite { act, message: e.to_string() }
}

fn request_horizon() -> i64 {
    Timestamp::now().nanos().saturating_sub(REQUEST_SECS * 1_000_000_000)
}

struct Writer {
    connection: Connection,
    to_sync: std::sync::mpsc::SyncSender<oneshot::Sender<Result<(), StoreError>>>,
    failing: Arc<AtomicBool>,
    times: Arc<StoreTimes>,
    event_keep: u64,
    untrimmed: u32,
    reserve: Reserve,
    path: PathBuf,
    /// When the last copy was made.
    copied: Option<Instant>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        self.reserve.keep();
        while let Some(first) = queue.blocking_recv() {
            let mut batch = Vec::new();
            let mut close = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Write(request) => batch.push(request),
                    Message::Close(done) => {
                        close = Some(done);
                        break;
                    }
                }
                next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            if !batch.is_empty() {
                let durable = batch.iter().any(|r| r.durability == Durability::Durable);
                self.commit(batch);
                let due = self.copied.is_none_or(|t| t.elapsed() >= COPY_EVERY);
                if durable && due && queue.is_empty() && !self.failing.load(Ordering::Relaxed) {
                    self.copied = Some(Instant::now());
                    if let Err(e) = repair::keep_copy(&self.connection, &self.path) {
                        tracing::warn!(error = %e, "keeping a copy of the database");
                    }
                }
            }
            if let Some(done) = close {
                if self.copied.is_some()
                    && let Err(e) = repair::keep_copy(&self.connection, &self.path)
                {
                    tracing::warn!(error = %e, "keeping a copy of the database");
                }
                // The checkpoint syncs everything, so that closing is durable.
                let closed = self
                    .connection
                    .execute("UPDATE meta SET value = '1' WHERE key = 'clean'", [])
                    .and_then(|_| self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
                    .map_err(sqlite("closing the database"));
                let closed = match self.connection.close() {
                    Ok(()) => closed,
                    Err((_, e)) => Err(sqlite("closing the database")(e)),
                };
                // The log's room is free now: the next agent needs some.
                self.reserve.keep_now();
                let _ = done.send(closed);
                return;
            }
        }
    }

    /// Everything in one transaction; when that fails, each request in its own, so that one does not spoil the others.
    fn commit(&mut self, mut batch: Vec<Request>) {
        let mut outcome = self.transaction(&batch);
        if outcome.is_err() && batch.len() > 1 {
            for request in batch.drain(..) {
                let alone = [request];
                let outcome = self.transaction(&alone);
                let [request] = alone;
                self.answer(request, outcome);
            }
            outcome = Ok(());
        }
        for request in batch {
            self.answer(request, outcome.clone());
        }
        if self.untrimmed >= TRIM_EVERY {
            self.untrimmed = 0;
            if let Err(e) = self.trim() {
                tracing::warn!(error = %e, "dropping old events and requests from the store");
            }
        }
    }

    fn answer(&self, request: Request, outcome: Result<(), StoreError>) {
        let failed = outcome.is_err();
        if failed != self.failing.swap(failed, Ordering::Relaxed) {
            match &outcome {
                Err(e) => tracing::error!(error = %e, "the store cannot be written"),
                Ok(()) => tracing::info!("the store can be written again"),
            }
        }
        if outcome.is_ok() && request.durability == Durability::Durable {
            if let Err(std::sync::mpsc::SendError(done)) = self.to_sync.send(request.done) {
                let _ = done.send(Err(StoreError::Closed));
            }
        } else {
            let _ = request.done.send(outcome);
        }
    }

    /// Where it fails although all of it will give room, the reserve is given up for it. What comes with requests that take room is tried again
    /// without them.
    fn transaction(&mut self, batch: &[Request]) -> Result<(), StoreError> {
        let mut outcome = self.write_all(batch);
        let all_give = |writer: &Self| batch.iter().all(|r| r.writes.iter().any(|w| writer.gives_room(w)));
        if outcome.is_err() && all_give(self) && self.reserve.give_up() {
            tracing::warn!("the disk is full: the room that was kept for this is given up");
            outcome = self.write_all(batch);
        }
        if outcome.is_ok() {
            self.reserve.keep();
        }
        outcome.map_err(|e| self.explained(e))
    }

    fn gives_room(&self, write: &Write) -> bool {
        let phase = |id: &ContainerId| {
            let row = self
                .connection
                .query_row("SELECT json FROM containers WHERE id = ?1", [id.as_str()], |row| row.get::<_, String>(0));
            Some(serde_json::from_str::<ContainerRecord>(&row.ok()?).ok()?.phase)
        };
        gives_room(write, phase)
    }

    /// SQLite says "disk I/O error" and even "malformed" for much: what the file system says is nearer to the cause.
    fn explained(&self, error: StoreError) -> StoreError {
        let StoreError::Sqlite { act, message } = error else { return error };
        let mut probe = self.path.as_os_str().to_owned();
        probe.push(".probe");
        let written = std::fs::write(&probe, [0; 512]);
        let _ = std::fs::remove_file(&probe);
        match written {
            Ok(()) => StoreError::Sqlite { act, message },
            Err(e) => {
                let folder = self.path.parent().unwrap_or(&self.path).display();
                StoreError::Sqlite { act, message: format!("{folder} cannot be written: {e} (SQLite says: {message})") }
            }
        }
    }

    fn write_all(&mut self, batch: &[Request]) -> Result<(), StoreError> {
        let begun = Instant::now();
        let transaction = self.connection.transaction().map_err(sqlite("beginning a transaction"))?;
        let mut rows = 0;
        for write in batch.iter().flat_map(|r| &r.writes) {
            apply(&transaction, write)?;
            rows += u32::from(matches!(write, Write::Event(_) | Write::Request(_)));
        }
        transaction.commit().map_err(sqlite("committing"))?;
        self.times.commit.add(begun.elapsed());
        self.untrimmed += rows;
        Ok(())
    }

    fn trim(&self) -> Result<(), StoreError> {
        let act = "dropping old rows";
        let c = &self.connection;
        c.execute(
            "DELETE FROM events WHERE cursor <= (SELECT max(cursor) FROM events) - ?1",
            [i64::try_from(self.event_keep).unwrap_or(i64::MAX)],
        )
        .map_err(sqlite(act))?;
        c.execute("DELETE FROM requests WHERE time <= ?1", [request_horizon()]).map_err(sqlite(act))?;
        c.execute(
            "DELETE FROM requests WHERE time < (SELECT time FROM requests ORDER BY time DESC LIMIT 1 OFFSET ?1)",
            [REQUESTS_MAX as i64],
        )
        .map_err(sqlite(act))?;
        Ok(())
    }
}

fn apply(c: &Connection, write: &Write) -> Result<(), StoreError> {
    fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
        serde_json::to_string(value)
            .map_err(|e| StoreError::Sqlite { act: "encoding a record", message: e.to_string() })
    }
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> Result<(), StoreError> {
        let mut statement = c.prepare_cached(sql).map_err(sqlite("preparing a write"))?;
        statement.execute(values).map(drop).map_err(sqlite("writing a row"))
    };
    match write {
        Write::PutContainer(r) => run(
            "INSERT INTO containers (id, json) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET json = excluded.json",
            &[&r.id.as_str(), &json(r.as_ref())?],
        ),
        Write::DeleteContainer(id) => run("DELETE FROM containers WHERE id = ?1", &[&id.as_str()]),
        Write::PutNetwork(r) => run(
            "INSERT INTO networks (id, json) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET json = excluded.json",
            &[&r.id.as_str(), &json(r.as_ref())?],
        ),
        Write::PutVolume(r) => run(
            "INSERT INTO volumes (name, json) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET json = excluded.json",
            &[&r.name, &json(r.as_ref())?],
        ),
        Write::DeleteVolume(name) => run("DELETE FROM volumes WHERE name = ?1", &[name]),
        Write::DeleteNetwork(id) => run("DELETE FROM networks WHERE id = ?1", &[&id.as_str()]),
        Write::PutImage { record, hidden } => run(
            "INSERT INTO images (id, hidden, json) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET hidden = excluded.hidden, json = excluded.json",
            &[&record.id.as_str(), hidden, &json(record.as_ref())?],
        ),
        Write::DeleteImage(id) => {
            run("DELETE FROM images WHERE id = ?1", &[&id.as_str()])?;
            run("DELETE FROM meta WHERE key = ?1", &[&format!("{USED}{id}")])
        }
        Write::PutTag(reference, image) => run(
            "INSERT INTO tags (reference, image) VALUES (?1, ?2)
             ON CONFLICT (reference) DO UPDATE SET image = excluded.image",
            &[&reference.to_string(), &image.as_str()],
        ),
        Write::DeleteTag(reference) => run("DELETE FROM tags WHERE reference = ?1", &[&reference.to_string()]),
        Write::Event(e) => run(
            "INSERT OR REPLACE INTO events (cursor, json) VALUES (?1, ?2)",
            &[&i64::try_from(e.cursor).unwrap_or(i64::MAX), &json(e.as_ref())?],
        ),
        Write::Request(r) => run(
            "INSERT OR REPLACE INTO requests (caller, id, rpc, fingerprint, result, time)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            &[&r.caller, &r.id, &r.rpc, &(r.fingerprint as i64), &r.result, &r.time.nanos()],
        ),
        Write::ForgetRequest(caller, id) => run("DELETE FROM requests WHERE caller = ?1 AND id = ?2", &[caller, id]),
        Write::Doom(layer, time) => {
            run("INSERT OR REPLACE INTO doomed (layer, time) VALUES (?1, ?2)", &[&layer.as_str(), &time.nanos()])
        }
        Write::ImageUsed(id, time) => run(
            "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            &[&format!("{USED}{id}"), &time.nanos().to_string()],
        ),
        Write::Spare(layer) => run("DELETE FROM doomed WHERE layer = ?1", &[&layer.as_str()]),
    }
}

/// One fdatasync(2) of the log for all that wait. A checkpoint may have taken a commit out of the log meanwhile: it has synced it then.
fn sync(
    wal: &File,
    queue: &std::sync::mpsc::Receiver<oneshot::Sender<Result<(), StoreError>>>,
    times: &StoreTimes,
    unsynced: &AtomicBool,
) {
    while let Ok(first) = queue.recv() {
        let mut waiting = vec![first];
        waiting.extend(queue.try_iter());
        let begun = Instant::now();
        let outcome = wal
            .sync_data()
            .map_err(|e| StoreError::Sqlite { act: "syncing the write-ahead log", message: e.to_string() });
        times.sync.add(begun.elapsed());
        unsynced.store(outcome.is_err(), Ordering::Relaxed);
        for done in waiting {
            let _ = done.send(outcome.clone());
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
