//! Opening the database: its settings, its tables, all of its rows, and the room that its log has from then on.

use super::reserve::Reserve;
use super::{RequestRow, StoreError, USED, VERSION, repair, request_horizon, sqlite};
use berth_model::event::Event;
use berth_model::image::ImageRecord;
use berth_model::network::NetworkRecord;
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerRecord, Digest, Reference, Timestamp};
use berth_sys::fs as sysfs;
use rusqlite::{Connection, OptionalExtension, params};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Room that the write-ahead log has whatever else is on the disk: what it holds when SQLite copies it into the database and begins it anew
/// (1000 pages, sqlite.org/wal.html), and a quarter more.
const LOG_BYTES: u64 = 5 << 20;

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

/// Also on a full disk: the reserve becomes the log where there is none, and makes room where that does not do.
pub(super) fn open(
    path: &Path,
    boot_id: &str,
    reserve: &mut Reserve,
) -> Result<(Connection, Loaded, File), StoreError> {
    let empty = fs::metadata(path).map_or(true, |m| m.len() == 0);
    if empty && repair::copy_path(path).exists() {
        // SQLite would begin anew, and every container that runs would have no owner.
        let detail = "it is empty or gone, and there was one".to_owned();
        return Err(StoreError::Damaged { path: path.display().to_string(), detail });
    }
    let log = wal_path(path);
    if !empty && !log.exists() {
        reserve.become_file(&log);
    }
    let both = || {
        let connection = connect(path)?;
        let loaded = load(&connection, path, boot_id)?;
        Ok((connection, loaded))
    };
    let (connection, loaded) = match both() {
        Err(StoreError::Sqlite { .. }) if reserve.give_up() => both()?,
        other => other?,
    };
    let log = File::options()
        .read(true)
        .write(true)
        .open(log)
        .map_err(|e| StoreError::Sqlite { act: "opening the write-ahead log", message: e.to_string() })?;
    if let Err(error) = sysfs::fallocate(log.as_fd(), 0, LOG_BYTES, true) {
        tracing::debug!(%error, "keeping room for the database's log");
    }
    // Some kernels (6.1 behind an error of ext4) let files be opened and written on a disk that takes nothing any more.
    match log.sync_data() {
        Err(e) if sysfs::is_disk_lost(&e) => {
            return Err(StoreError::Sqlite { act: "syncing the write-ahead log", message: e.to_string() });
        }
        _ => {}
    }
    Ok((connection, loaded, log))
}

pub(super) fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
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
