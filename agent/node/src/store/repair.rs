//! A new database from what can still be read of a damaged one, and from its last copy.
//!
//! The damaged files are kept under another name. A row that cannot be read is lost alone: every table is read from both ends up to the damage.
//! What only the copy knows comes back when its files are still there, for it may have been removed since.

use super::{CRASH_GAP_AT_REPAIR, StoreError, Write, apply, connect, sqlite, wal_path};
use berth_model::event::Event;
use berth_model::image::ImageRecord;
use berth_model::network::NetworkRecord;
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerId, ContainerRecord, Digest, Reference, Timestamp};
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// What a repair brought back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Repaired {
    pub containers: usize,
    pub images: usize,
    pub names: usize,
    /// Rows that were there and could not be read or understood, as far as that can be told.
    pub unreadable: Vec<String>,
    /// The damaged database; may be deleted when nothing is missed.
    pub aside: PathBuf,
}

/// Whether the files of something are there.
pub(crate) struct There<'a> {
    pub container: &'a dyn Fn(&ContainerId) -> bool,
    pub layer: &'a dyn Fn(&Digest) -> bool,
    pub volume: &'a dyn Fn(&str) -> bool,
}

#[derive(Default)]
struct Salvaged {
    containers: BTreeMap<String, ContainerRecord>,
    networks: BTreeMap<String, NetworkRecord>,
    volumes: BTreeMap<String, VolumeRecord>,
    images: BTreeMap<String, (ImageRecord, bool)>,
    tags: BTreeMap<String, Digest>,
    events: BTreeMap<String, Event>,
    unreadable: Vec<String>,
}

/// Where the copy of the database at `path` is.
pub(super) fn copy_path(path: &Path) -> PathBuf {
    beside(path, ".copy")
}

fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

/// Makes the database at `path` anew (blocking). For who holds the lock of its folder; a database without damage is left alone by the caller.
pub(crate) fn repair(path: &Path, there: &There<'_>) -> Result<Repaired, StoreError> {
    let io = |act: &'static str| move |e: io::Error| StoreError::Sqlite { act, message: e.to_string() };
    let aside = beside(path, &format!(".damaged-{}", Timestamp::now().nanos() / 1_000_000_000));
    for (from, to) in [(path.to_owned(), aside.clone()), (wal_path(path), wal_path(&aside))] {
        match fs::copy(&from, &to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("keeping the damaged database")(e)),
            _ => {}
        }
    }
    // From a second copy: SQLite may write to what it opens.
    let (work, rebuilt) = (beside(path, ".work"), beside(path, ".rebuilt"));
    for file in [&work, &wal_path(&work), &rebuilt, &wal_path(&rebuilt)] {
        let _ = fs::remove_file(file);
    }
    let _ = fs::copy(&aside, &work);
    let _ = fs::copy(wal_path(&aside), wal_path(&work));
    let mut found = salvage(&work);
    let copy = salvage(&copy_path(path));
    merge(&mut found, copy, there);
    for file in [work.clone(), wal_path(&work), beside(&work, "-shm")] {
        let _ = fs::remove_file(file);
    }
    let repaired = Repaired {
        containers: found.containers.len(),
        images: found.images.len(),
        names: found.tags.len(),
        unreadable: std::mem::take(&mut found.unreadable),
        aside,
    };
    write(&rebuilt, found)?;
    // A log of the old one would be played into the new one.
    match fs::remove_file(wal_path(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("removing the old log")(e)),
        _ => {}
    }
    fs::rename(&rebuilt, path).map_err(io("putting the new database in its place"))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder).and_then(|f| f.sync_all()).map_err(io("syncing the folder"))?;
    Ok(repaired)
}

/// All that can be read of a database; of one that cannot be opened, nothing.
fn salvage(path: &Path) -> Salvaged {
    let mut found = Salvaged::default();
    if !path.exists() {
        return found;
    }
    let opened = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let connection = match opened {
        Ok(connection) => connection,
        Err(e) => {
            found.unreadable.push(format!("{}: {e}", path.display()));
            return found;
        }
    };
    // Damage in one place must not keep the rest from being read.
    let _ = connection.pragma_update(None, "cell_size_check", true);
    let (rows, mut bad) = rows(&connection, "containers", "id", "json");
    for (key, json) in rows {
        keep(&mut found.containers, &mut bad, "container", key, serde_json::from_str(&json));
    }
    let later = connection.query_row("SELECT 1 FROM sqlite_schema WHERE name = 'networks'", [], |_| Ok(()));
    if later.is_ok() {
        let (rows, more) = self::rows(&connection, "networks", "id", "json");
        bad.extend(more);
        for (key, json) in rows {
            keep(&mut found.networks, &mut bad, "network", key, serde_json::from_str(&json));
        }
    }
    let later = connection.query_row("SELECT 1 FROM sqlite_schema WHERE name = 'volumes'", [], |_| Ok(()));
    if later.is_ok() {
        let (rows, more) = self::rows(&connection, "volumes", "name", "json");
        bad.extend(more);
        for (key, json) in rows {
            keep(&mut found.volumes, &mut bad, "volume", key, serde_json::from_str(&json));
        }
    }
    let (rows, more) = self::rows(&connection, "images", "id", "hidden || json");
    bad.extend(more);
    for (key, text) in rows {
        let (hidden, json) = text.split_at(text.len().min(1));
        let image = serde_json::from_str(json).map(|image| (image, hidden != "0"));
        keep(&mut found.images, &mut bad, "image", key, image);
    }
    let (rows, more) = self::rows(&connection, "tags", "reference", "image");
    bad.extend(more);
    for (key, image) in rows {
        keep(&mut found.tags, &mut bad, "name", key, image.parse());
    }
    let (rows, more) = self::rows(&connection, "events", "cursor", "json");
    bad.extend(more);
    for (key, json) in rows {
        keep(&mut found.events, &mut bad, "event", key, serde_json::from_str(&json));
    }
    found.unreadable.extend(bad);
    found
}

fn keep<T, E: std::fmt::Display>(
    into: &mut BTreeMap<String, T>,
    bad: &mut Vec<String>,
    what: &str,
    key: String,
    value: Result<T, E>,
) {
    match value {
        Ok(value) => drop(into.insert(key, value)),
        Err(e) => bad.push(format!("{what} {key}: {e}")),
    }
}

/// Rows from both ends of a table up to what cannot be read.
fn rows(connection: &Connection, table: &str, key: &str, value: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let mut found = BTreeMap::new();
    let mut error = Vec::new();
    for order in ["ASC", "DESC"] {
        let sql = format!("SELECT CAST({key} AS TEXT), CAST({value} AS TEXT) FROM {table} ORDER BY {key} {order}");
        let read = connection.prepare(&sql).and_then(|mut statement| {
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if let (Ok(key), Ok(value)) = (row.get(0), row.get(1)) {
                    found.insert(key, value);
                }
            }
            Ok(())
        });
        match read {
            Ok(()) => return (found, error),
            Err(e) => error = vec![format!("table {table}: {e}")],
        }
    }
    (found, error)
}

fn merge(found: &mut Salvaged, copy: Salvaged, there: &There<'_>) {
    for (key, record) in copy.containers {
        if (there.container)(&record.id) {
            found.containers.entry(key).or_insert(record);
        }
    }
    // One that was removed since is in nobody's way, and is removed again.
    for (key, record) in copy.networks {
        found.networks.entry(key).or_insert(record);
    }
    for (key, record) in copy.volumes {
        if (there.volume)(&record.name) {
            found.volumes.entry(key).or_insert(record);
        }
    }
    for (key, (record, hidden)) in copy.images {
        if record.layers.iter().all(|l| (there.layer)(&l.diff_id)) {
            found.images.entry(key).or_insert((record, hidden));
        }
    }
    for (name, image) in copy.tags {
        found.tags.entry(name).or_insert(image);
    }
    for (cursor, event) in copy.events {
        found.events.entry(cursor).or_insert(event);
    }
    let images = &found.images;
    found.tags.retain(|_, image| images.contains_key(image.as_str()));
}

fn write(path: &Path, found: Salvaged) -> Result<(), StoreError> {
    let mut connection = connect(path)?;
    let transaction = connection.transaction().map_err(sqlite("beginning a transaction"))?;
    // No cursor is given twice, though nobody knows the last one: seconds since 1970 are ahead of every node's count.
    let newest = found.events.values().map(|e| e.cursor).max();
    let floor = newest.map_or_else(
        || u64::try_from(Timestamp::now().nanos() / 1_000_000_000).unwrap_or(0),
        |newest| newest + CRASH_GAP_AT_REPAIR,
    );
    for (key, value) in
        [("cursor_floor", floor.to_string()), ("clean", "0".to_owned()), ("spare_unknown", "1".to_owned())]
    {
        transaction
            .execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [key, &value])
            .map_err(sqlite("writing a row"))?;
    }
    let containers = found.containers.into_values().map(|r| Write::PutContainer(Arc::new(r)));
    let networks = found.networks.into_values().map(|r| Write::PutNetwork(Arc::new(r)));
    let volumes = found.volumes.into_values().map(|r| Write::PutVolume(Arc::new(r)));
    let images = found.images.into_values().map(|(r, hidden)| Write::PutImage { record: Arc::new(r), hidden });
    let events = found.events.into_values().map(|e| Write::Event(Arc::new(e)));
    let tags =
        found.tags.into_iter().filter_map(|(name, image)| Some(Write::PutTag(name.parse::<Reference>().ok()?, image)));
    for change in networks.chain(volumes).chain(images).chain(tags).chain(containers).chain(events) {
        apply(&transaction, &change)?;
    }
    transaction.commit().map_err(sqlite("committing"))?;
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(sqlite("syncing the new database"))?;
    connection.close().map_err(|(_, e)| sqlite("closing the new database")(e))
}

/// Copies the database while it is in use, and puts the copy in its place when it is on the disk.
pub(super) fn keep_copy(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let io = |e: io::Error| StoreError::Sqlite { act: "copying the database", message: e.to_string() };
    let (copy, new) = (copy_path(path), beside(path, ".copy.new"));
    let _ = fs::remove_file(&new);
    connection.execute("VACUUM INTO ?1", [new.to_string_lossy()]).map_err(sqlite("copying the database"))?;
    // Milliseconds of a disk, which no write shall wait for.
    let sync = move || fs::File::open(&new).and_then(|f| f.sync_all()).and_then(|()| fs::rename(&new, &copy));
    std::thread::Builder::new()
        .name("store-copy".into())
        .stack_size(64 << 10)
        .spawn(move || {
            if let Err(e) = sync() {
                tracing::warn!(error = %e, "keeping a copy of the database");
            }
        })
        .map(drop)
        .map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_the_copy_come_back_with_their_files() {
        let volume = |name: &str| (name.to_owned(), VolumeRecord { name: name.to_owned(), ..VolumeRecord::default() });
        let mut found = Salvaged { volumes: BTreeMap::from([volume("seen")]), ..Salvaged::default() };
        let copy = Salvaged { volumes: BTreeMap::from([volume("kept"), volume("gone")]), ..Salvaged::default() };
        let there = There { container: &|_| true, layer: &|_| true, volume: &|name| name == "kept" };
        merge(&mut found, copy, &there);
        assert_eq!(found.volumes.keys().collect::<Vec<_>>(), ["kept", "seen"]);
    }
}
