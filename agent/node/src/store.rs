//! What survives the agent: the only file that touches the database.
//!
//! SQLite in WAL mode. One thread writes and puts everything that waits into one transaction; a second one makes durable what was asked
//! to be, one fdatasync(2) of the log for all that wait, so that quick writes never wait for a disk. Nothing reads from here but
//! [`Store::open`]: the node lives on what is in memory.
//!
//! Two durabilities. *Quick*: in the kernel's page cache, survives the death of the agent in any form, not a power cut. *Durable*:
//! on the disk. Commits keep their order: what is durable makes all before it durable.

mod repair;
mod reserve;

pub use repair::Repaired;
pub(crate) use repair::{There, repair};
use reserve::{Reserve, gives_room};

use crate::counts::StoreTimes;
use berth_model::event::Event;
use berth_model::image::ImageRecord;
use berth_model::network::{NetworkId, NetworkRecord};
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerId, ContainerRecord, Digest, Reference, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
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

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE images (id TEXT PRIMARY KEY, hidden INTEGER NOT NULL, json TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE tags (reference TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE containers (id TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE events (cursor INTEGER PRIMARY KEY, json TEXT NOT NULL);
    CREATE TABLE requests (caller TEXT NOT NULL, id TEXT NOT NULL, rpc TEXT NOT NULL, fingerprint INTEGER NOT NULL,
        result TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (caller, id)) WITHOUT ROWID;
    CREATE TABLE doomed (layer TEXT PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID;
";

/// Tables that came later and that an older agent can live with: it does not look at them.
const LATER: &str = "
    CREATE TABLE IF NOT EXISTS networks (id TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS volumes (name TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
";

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

/// What was in the database.
#[derive(Default)]
pub(crate) struct Loaded {
    pub containers: Vec<ContainerRecord>,
    pub networks: Vec<NetworkRecord>,
    pub volumes: Vec<VolumeRecord>,
    /// With `hidden`.
    pub images: Vec<(ImageRecord, bool)>,
    pub tags: Vec<(Reference, Digest)>,
    /// Oldest first.
    pub events: Vec<Event>,
    pub requests: Vec<RequestRow>,
    pub doomed: Vec<(Digest, Timestamp)>,
    /// When images were used last, as far as it was written down.
    pub used: Vec<(Digest, Timestamp)>,
    /// The highest cursor that may have been given.
    pub newest_cursor: u64,
    /// The last agent closed the store; it did not die.
    pub clean: bool,
    /// It was repaired: containers that run and are not in it are left alone.
    pub spare_unknown: bool,
    /// The host has not been booted since the last agent opened it.
    pub same_boot: bool,
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
    times: Arc<StoreTimes>,
}

impl Store {
    /// Opens or makes the database at `path` (blocking). Keeps `event_keep` events.
    pub fn open(path: &Path, boot_id: &str, event_keep: usize) -> Result<(Store, Loaded), StoreError> {
        let empty = std::fs::metadata(path).map_or(true, |m| m.len() == 0);
        if empty && repair::copy_path(path).exists() {
            // SQLite would begin anew, and every container that runs would have no owner.
            let detail = "it is empty or gone, and there was one".to_owned();
            return Err(StoreError::Damaged { path: path.display().to_string(), detail });
        }
        let connection = connect(path)?;
        let loaded = load(&connection, path, boot_id)?;
        let wal = File::open(wal_path(path))
            .map_err(|e| StoreError::Sqlite { act: "opening the write-ahead log", message: e.to_string() })?;
        let (queue, receive) = mpsc::channel(QUEUE);
        let failing = Arc::new(AtomicBool::new(false));
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
            reserve: Reserve::new(path),
            path: path.to_owned(),
            copied: None,
        };
        spawn("store-write", Box::new(move || writer.run(receive)))?;
        spawn(
            "store-sync",
            Box::new({
                let times = times.clone();
                move || sync(&wal, &sync_queue, &times)
            }),
        )?;
        Ok((Store { queue, failing, times }, loaded))
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

    /// The last write failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
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

fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn sqlite(act: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |e| StoreError::Sqlite { act, message: e.to_string() }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let shown = path.display().to_string();
    let classify = |act: &'static str| {
        let path = shown.clone();
        move |e: rusqlite::Error| match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                StoreError::Damaged { path, detail: e.to_string() }
            }
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                StoreError::Locked { path }
            }
            _ => StoreError::Sqlite { act, message: format!("{path}: {e}") },
        }
    };
    let connection = Connection::open(path).map_err(classify("opening the database"))?;
    // EXCLUSIVE before WAL: no shared-memory file, and a second agent is kept out (the kernel lets go of the lock with the process).
    // NORMAL: commits do not sync; checkpoints do, in the order that keeps the file whole; `sync` does the rest.
    for (name, value) in [("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL"), ("synchronous", "NORMAL")] {
        connection.pragma_update_and_check(None, name, value, |_| Ok(())).or_else(|e| match e {
            // `synchronous` answers nothing.
            rusqlite::Error::QueryReturnedNoRows => Ok(()),
            e => Err(classify("setting up the database")(e)),
        })?;
    }
    // 2 MB is the default; the tables are written, hardly ever read.
    connection.pragma_update(None, "cache_size", -512).map_err(classify("setting up the database"))?;
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |r| r.get(0))
        .map_err(classify("reading the schema version"))?;
    match version {
        0 => {
            let empty: i64 = connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))
                .map_err(classify("reading the schema"))?;
            if empty != 0 {
                return Err(StoreError::Damaged { path: shown, detail: "tables without a version".to_owned() });
            }
            connection
                .execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"))
                .map_err(classify("making the tables"))?;
            // The name of the new file must survive a power cut too.
            if let Some(folder) = path.parent() {
                let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                File::open(folder)
                    .and_then(|f| f.sync_all())
                    .map_err(|e| StoreError::Sqlite { act: "syncing the folder", message: e.to_string() })?;
            }
        }
        VERSION => {}
        found if found > VERSION => return Err(StoreError::Newer { path: shown, found }),
        found => return Err(StoreError::Damaged { path: shown, detail: format!("schema version {found}") }),
    }
    connection.execute_batch(LATER).map_err(classify("making the later tables"))?;
    Ok(connection)
}

fn load(connection: &Connection, path: &Path, boot_id: &str) -> Result<Loaded, StoreError> {
    let shown = path.display().to_string();
    let damaged = |detail: String| StoreError::Damaged { path: shown.clone(), detail };
    let broken = |e: rusqlite::Error| damaged(e.to_string());
    let meta = |key: &str| -> Result<Option<String>, StoreError> {
        connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0))
            .optional()
            .map_err(|e| damaged(e.to_string()))
    };
    let clean = meta("clean")?.is_none_or(|c| c == "1");
    let same_boot = meta("boot_id")?.is_none_or(|b| b == boot_id);
    if !clean {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(broken)?;
        if verdict != "ok" {
            return Err(damaged(verdict));
        }
    }
    let mut loaded = Loaded {
        clean,
        same_boot,
        spare_unknown: meta("spare_unknown")?.is_some_and(|s| s == "1"),
        ..Loaded::default()
    };

    let rows = |table: &str, columns: &str| -> Result<Vec<(String, String)>, StoreError> {
        let mut statement = connection.prepare(&format!("SELECT {columns} FROM {table}")).map_err(broken)?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).map_err(broken)?;
        rows.collect::<Result<_, _>>().map_err(|e| damaged(format!("table {table}: {e}")))
    };
    fn parse<T: serde::de::DeserializeOwned>(table: &str, key: &str, json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|e| format!("table {table}, row {key}: {e}"))
    }
    for (id, json) in rows("containers", "id, json")? {
        loaded.containers.push(parse("containers", &id, &json).map_err(damaged)?);
    }
    for (id, json) in rows("networks", "id, json")? {
        loaded.networks.push(parse("networks", &id, &json).map_err(damaged)?);
    }
    for (name, json) in rows("volumes", "name, json")? {
        loaded.volumes.push(parse("volumes", &name, &json).map_err(damaged)?);
    }
    for (hidden, json) in rows("images", "CAST(hidden AS TEXT), json")? {
        loaded.images.push((parse("images", "", &json).map_err(damaged)?, hidden != "0"));
    }
    for (reference, image) in rows("tags", "reference, image")? {
        let tag = reference.parse().map_err(|e| damaged(format!("table tags: {e}")))?;
        let id = image.parse().map_err(|e| damaged(format!("table tags, row {reference}: {e}")))?;
        loaded.tags.push((tag, id));
    }
    for (layer, time) in rows("doomed", "layer, CAST(time AS TEXT)")? {
        let digest = layer.parse().map_err(|e| damaged(format!("table doomed: {e}")))?;
        let time = time.parse().map_err(|e| damaged(format!("table doomed, row {layer}: {e}")))?;
        loaded.doomed.push((digest, Timestamp(time)));
    }
    for (key, time) in rows("meta", "key, value")? {
        // What cannot be read is as good as not written down: the image counts from when it came.
        if let Some(id) = key.strip_prefix(USED)
            && let (Ok(id), Ok(time)) = (id.parse(), time.parse())
        {
            loaded.used.push((id, Timestamp(time)));
        }
    }
    for (cursor, json) in rows("events", "CAST(cursor AS TEXT), json")? {
        loaded.events.push(parse("events", &cursor, &json).map_err(damaged)?);
    }
    loaded.events.sort_by_key(|e: &Event| e.cursor);
    {
        let sql = "SELECT caller, id, rpc, fingerprint, result, time FROM requests WHERE time > ?1 ORDER BY time";
        let mut statement = connection.prepare(sql).map_err(broken)?;
        let rows = statement
            .query_map([request_horizon()], |r| {
                Ok(RequestRow {
                    caller: r.get(0)?,
                    id: r.get(1)?,
                    rpc: r.get(2)?,
                    fingerprint: r.get::<_, i64>(3)? as u64,
                    result: r.get(4)?,
                    time: Timestamp(r.get(5)?),
                })
            })
            .map_err(broken)?;
        loaded.requests = rows.collect::<Result<_, _>>().map_err(broken)?;
    }

    let floor = meta("cursor_floor")?.and_then(|c| c.parse().ok()).unwrap_or(0);
    loaded.newest_cursor = floor.max(loaded.events.last().map_or(0, |e| e.cursor));
    if !clean && !same_boot {
        loaded.newest_cursor += crate::events::CRASH_GAP;
    }
    let set = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    for (key, value) in
        [("clean", "0".to_owned()), ("boot_id", boot_id.to_owned()), ("cursor_floor", loaded.newest_cursor.to_string())]
    {
        connection.execute(set, params![key, value]).map_err(sqlite("opening the database for writing"))?;
    }
    Ok(loaded)
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

    /// Where it fails although it will give room, the reserve is given up for it.
    fn transaction(&mut self, batch: &[Request]) -> Result<(), StoreError> {
        let mut outcome = self.write_all(batch);
        if outcome.is_err() && batch.iter().flat_map(|r| &r.writes).any(gives_room) && self.reserve.give_up() {
            tracing::warn!("the disk is full: the room that was kept for this is given up");
            outcome = self.write_all(batch);
        }
        if outcome.is_ok() {
            self.reserve.keep();
        }
        outcome.map_err(|e| self.explained(e))
    }

    /// SQLite says "disk I/O error" for much: what the file system says is nearer to the cause.
    fn explained(&self, error: StoreError) -> StoreError {
        let StoreError::Sqlite { act, message } = error else { return error };
        let mut probe = self.path.as_os_str().to_owned();
        probe.push(".probe");
        let written = std::fs::write(&probe, [0; 512]);
        let _ = std::fs::remove_file(&probe);
        match written {
            Ok(()) => StoreError::Sqlite { act, message },
            Err(e) => StoreError::Sqlite { act, message: format!("{message} ({e})") },
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
fn sync(wal: &File, queue: &std::sync::mpsc::Receiver<oneshot::Sender<Result<(), StoreError>>>, times: &StoreTimes) {
    while let Ok(first) = queue.recv() {
        let mut waiting = vec![first];
        waiting.extend(queue.try_iter());
        let begun = Instant::now();
        let outcome = wal
            .sync_data()
            .map_err(|e| StoreError::Sqlite { act: "syncing the write-ahead log", message: e.to_string() });
        times.sync.add(begun.elapsed());
        for done in waiting {
            let _ = done.send(outcome.clone());
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
