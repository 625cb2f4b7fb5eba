//! Keeps what is stored of output small: compresses files that are full, removes old ones, holds the host's limit.
//!
//! One task, which sleeps while nobody writes and no file comes of age. It looks two seconds after a change, and only into folders that
//! have changed; it compresses one file at a time and rests twice as long as it worked. The shim holds each container's own bounds by itself, so that nothing grows while the agent is away. Crash-safe: a
//! compressed file takes its name when it is whole and on disk, and only then the plain one goes; of both, the plain one counts.

use super::files::{self, Form, PACKED_MAX, Segment, Start};
use super::watch::Armed;
use crate::container::Container;
use crate::node::Inner;
use berth_model::log::{LogConfig, LogDriver};
use berth_model::{ContainerId, Phase};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const PAUSE: Duration = Duration::from_secs(2);
/// So long it works before it looks at the host's limit again.
const TURN: Duration = Duration::from_secs(2);
/// What was removed, beside a container's files.
const REMOVED: &str = "removed.json";
/// Where a shim counts the lines that it could not write.
const LOST: &str = "lost";

/// What the agent removed of a container's output, beyond the container's own rotation.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Removed {
    pub files: u64,
    pub bytes: u64,
}

/// What was removed of a container so far.
pub(crate) fn removed(dir: &Path) -> Removed {
    std::fs::read(dir.join(REMOVED)).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default()
}

/// How many lines a shim could not write, because the disk was full. It counts them itself.
pub(crate) fn lost_lines(dir: &Path) -> u64 {
    std::fs::read_to_string(dir.join(LOST)).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

/// Runs until the node is closed.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut kept = HashMap::new();
    loop {
        // What changes often is looked at together.
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = inner.stop.cancelled() => return,
        }
        let inner_ = inner.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let next = sweep(&inner_, &mut kept);
            (kept, next)
        });
        let Ok((back, next)) = swept.await else { return };
        kept = back;
        tokio::select! {
            () = inner.log_watch.any() => {}
            () = at(next) => {}
            () = inner.stop.cancelled() => return,
        }
    }
}

/// Returns at `time`; `None`: never.
async fn at(time: Option<SystemTime>) {
    let Some(time) = time else { return std::future::pending().await };
    // Looked at again at least once an hour: the clock may be set.
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left.min(Duration::from_secs(3600))).await;
}

/// A folder as it was left.
struct Folder {
    /// When it had changed last when nothing was left to do in it.
    changed: Option<SystemTime>,
    /// When a file in it comes of age.
    due: Option<SystemTime>,
    /// Says that there may be more to do.
    watch: Armed,
}

/// One look at everything; when the next one is due if nothing changes.
fn sweep(inner: &Inner, kept: &mut HashMap<ContainerId, Folder>) -> Option<SystemTime> {
    let (until, now) = (Instant::now() + TURN, SystemTime::now());
    let containers = inner.containers.all();
    let there: HashSet<&ContainerId> = containers.iter().map(|c| &c.id).collect();
    kept.retain(|id, _| there.contains(id));
    // Before the looks: what changes behind them is told.
    for container in &containers {
        if container.record().spec.log.driver == LogDriver::None {
            continue;
        }
        let dir = inner.paths(&container.id).log;
        let arm = || inner.log_watch.arm(&dir);
        match kept.get_mut(&container.id) {
            Some(folder) if folder.watch.has_fired() => folder.watch = arm(),
            Some(_) => {}
            // The start makes it, and tells.
            None if !dir.is_dir() => {}
            None => drop(kept.insert(container.id.clone(), Folder { changed: None, due: None, watch: arm() })),
        }
    }
    let mut more = false;
    if let Some(limit) = inner.config.logs.host_max_bytes
        && let Err(e) = hold_limit(inner, &containers, limit)
    {
        tracing::warn!(error = %e, "holding the limit of all logs");
    }
    for container in &containers {
        let record = container.record();
        let log = &record.spec.log;
        let Some(folder) = kept.get_mut(&container.id).filter(|_| record.phase != Phase::Removing) else { continue };
        let dir = inner.paths(&container.id).log;
        let Ok(changed) = std::fs::metadata(&dir).and_then(|m| m.modified()) else { continue };
        if folder.changed == Some(changed) && folder.due.is_none_or(|due| due > now) {
            continue;
        }
        match tend(inner, &dir, log, until) {
            // What changed while it was looked at is looked at again.
            Ok((done, due)) => {
                (folder.changed, folder.due) = (done.then_some(changed), due);
                more |= !done;
            }
            Err(e) => tracing::warn!(container = %container.id, error = %e, "keeping its logs small"),
        }
        if Instant::now() >= until || inner.stop.is_cancelled() {
            more = true;
            break;
        }
    }
    let blind = kept.values().any(|f| f.watch.is_blind());
    if more || blind { Some(now) } else { kept.values().filter_map(|f| f.due).min() }
}

/// One container's files. Whether nothing is left to do, and when the next file comes of age.
fn tend(inner: &Inner, dir: &Path, log: &LogConfig, until: Instant) -> io::Result<(bool, Option<SystemTime>)> {
    remove_halves(dir)?;
    let mut segments = files::list(dir)?;
    // The newest is the shim's.
    segments.pop();
    let surplus = (segments.len() + 1).saturating_sub(log.max_files.max(1) as usize);
    // A container that was started again with smaller bounds, or whose shim was killed while it dropped them.
    for segment in segments.drain(..surplus) {
        remove(dir, &segment)?;
    }
    if let Some(age) = log.max_age_secs {
        let before = SystemTime::now().checked_sub(Duration::from_secs(age)).unwrap_or(SystemTime::UNIX_EPOCH);
        let old = segments.iter().take_while(|s| s.modified < before).count();
        let mut gone = Removed::default();
        for segment in segments.drain(..old) {
            gone.files += u64::from(remove(dir, &segment)?);
            gone.bytes += segment.bytes;
        }
        note(dir, gone)?;
    }
    let age = log.max_age_secs.map(Duration::from_secs);
    let due = segments.first().zip(age).and_then(|(oldest, age)| oldest.modified.checked_add(age));
    if !log.compress {
        return Ok((true, due));
    }
    let form = if log.driver == LogDriver::JsonFile { Form::Gzip } else { Form::Zstd };
    let packable = |s: &&Segment| s.form == Form::Plain && s.bytes <= PACKED_MAX && matches!(s.start, Start::At(_));
    let plain: Vec<&Segment> = segments.iter().filter(packable).collect();
    for segment in &plain {
        if Instant::now() >= until || inner.stop.is_cancelled() {
            return Ok((false, due));
        }
        match pack(dir, segment, form) {
            // Later: what is there is readable as it is.
            Err(e) if berth_sys::fs::is_disk_full(&e) => return Ok((false, due)),
            Ok(worked) => std::thread::sleep((worked * 2).min(Duration::from_secs(1))),
            Err(e) => return Err(e),
        }
    }
    // Packing changes the folder: another look finds nothing to do.
    Ok((plain.is_empty(), due))
}

/// What a killed agent left half written.
fn remove_halves(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|n| n.ends_with(".half")) {
            remove_file(&dir.join(name))?;
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// In whatever form it is. False: it was gone.
fn remove(dir: &Path, segment: &Segment) -> io::Result<bool> {
    let mut there = remove_file(&dir.join(&segment.name))?;
    if let (Start::At(start), Some((base, ..))) = (segment.start, files::parse_name(&segment.name)) {
        for form in [Form::Plain, Form::Zstd, Form::Gzip] {
            there |= remove_file(&dir.join(files::name_of(base, start, form)))?;
        }
    }
    Ok(there)
}

fn note(dir: &Path, gone: Removed) -> io::Result<()> {
    if gone == Removed::default() {
        return Ok(());
    }
    let before = removed(dir);
    let after = Removed { files: before.files + gone.files, bytes: before.bytes + gone.bytes };
    write_whole(dir, REMOVED, &serde_json::to_vec(&after)?)
}

/// A small file that is there in full or as it was.
pub(super) fn write_whole(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    std::fs::write(&new, content)?;
    std::fs::rename(&new, dir.join(name))
}

/// Compresses one file; how long that kept the processor, the waiting for the disk left out.
fn pack(dir: &Path, segment: &Segment, form: Form) -> io::Result<Duration> {
    let (Start::At(start), Some((base, ..))) = (segment.start, files::parse_name(&segment.name)) else {
        return Ok(Duration::ZERO);
    };
    let begun = Instant::now();
    let plain = dir.join(&segment.name);
    let mut source = match File::open(&plain) {
        // The shim has dropped it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Duration::ZERO),
        file => file?,
    };
    let name = files::name_of(base, start, form);
    let (half, whole) = (dir.join(format!("{name}.half")), dir.join(name));
    let packed = (|| {
        let target = File::create(&half)?;
        let target = match form {
            Form::Zstd => {
                let mut encoder = zstd::Encoder::new(target, 1)?;
                encoder.include_checksum(true)?;
                io::copy(&mut source, &mut encoder)?;
                encoder.finish()?
            }
            _ => {
                let mut encoder = flate2::write::GzEncoder::new(target, flate2::Compression::fast());
                io::copy(&mut source, &mut encoder)?;
                encoder.finish()?
            }
        };
        (&target).flush()?;
        // Its age is that of its entries.
        target.set_modified(segment.modified)?;
        let worked = begun.elapsed();
        target.sync_all()?;
        std::fs::rename(&half, &whole)?;
        Ok(worked)
    })();
    if packed.is_err() {
        let _ = std::fs::remove_file(&half);
        return packed;
    }
    if !remove_file(&plain)? {
        // The shim dropped it meanwhile, and did not see this one.
        remove_file(&whole)?;
    }
    packed
}

/// The oldest full files of all containers go until all together fit.
fn hold_limit(inner: &Inner, containers: &[Arc<Container>], limit: u64) -> io::Result<()> {
    let (mut total, mut full) = (0, Vec::new());
    for (i, container) in containers.iter().enumerate() {
        let mut segments = files::list(&inner.paths(&container.id).log)?;
        total += segments.iter().map(|s| s.bytes).sum::<u64>();
        segments.pop();
        full.extend(segments.into_iter().map(|s| (i, s)));
    }
    if total <= limit {
        return Ok(());
    }
    full.sort_by_key(|(_, s)| (s.modified, s.start));
    let mut gone: HashMap<usize, Removed> = HashMap::new();
    for (i, segment) in full {
        if total <= limit {
            break;
        }
        total -= segment.bytes;
        if remove(&inner.paths(&containers[i].id).log, &segment)? {
            let gone = gone.entry(i).or_default();
            gone.files += 1;
            gone.bytes += segment.bytes;
        }
    }
    for (i, gone) in gone {
        let id = &containers[i].id;
        tracing::warn!(container = %id, files = gone.files, bytes = gone.bytes, limit, "removed logs: all together were too large");
        note(&inner.paths(id).log, gone)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn packed_files_hold_the_same_and_the_plain_one_goes() {
        let dir = TempDir::new("logs-pack");
        for form in [Form::Zstd, Form::Gzip] {
            std::fs::write(dir.path().join("log.00000000000000000007"), "text\n".repeat(1000)).unwrap();
            let segment = files::list(dir.path()).unwrap().remove(0);
            pack(dir.path(), &segment, form).unwrap();
            let packed = files::list(dir.path()).unwrap();
            assert_eq!((packed.len(), packed[0].form, packed[0].modified), (1, form, segment.modified));
            assert!(packed[0].bytes < 1000);
            let mut source = files::open(dir.path(), &packed[0]).unwrap().unwrap();
            let mut start = [0; 7];
            assert_eq!(source.read_at(&mut start, 4993).unwrap(), 7);
            assert_eq!(&start, b"t\ntext\n");
            // One that the shim has dropped is no error.
            pack(dir.path(), &segment, form).unwrap();
            assert!(remove(dir.path(), &packed[0]).unwrap());
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn what_is_removed_is_counted() {
        let dir = TempDir::new("logs-removed");
        note(dir.path(), Removed { files: 1, bytes: 5 }).unwrap();
        note(dir.path(), Removed { files: 2, bytes: 7 }).unwrap();
        assert_eq!(removed(dir.path()), Removed { files: 3, bytes: 12 });
        assert_eq!(lost_lines(dir.path()), 0);
        std::fs::write(dir.path().join(LOST), "00000000000000000042").unwrap();
        assert_eq!(lost_lines(dir.path()), 42);
    }
}
