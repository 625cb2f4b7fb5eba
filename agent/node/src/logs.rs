//! Reads what the shim has logged: `container.log`, and rotated ones as `container.log.1` (newest) and on.
//!
//! One line is `TIME STREAM P|F TEXT` (the CRI's format). A follower keeps its file open, so its inode cannot become another file's:
//! at the end of a file it looks under which name its inode is now, and goes on with the next newer one. It looks every 20 to 100 ms
//! while somebody follows, and at once when the container ends; without followers nothing wakes up.

use crate::NodeError;
use crate::container::{Container, Life};
use crate::node::Inner;
use crate::view::{LogEntry, LogQuery};
use berth_model::{Phase, Timestamp};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const NAME: &str = "container.log";
/// Bytes read at once: a batch of entries is about as large.
const CHUNK: usize = 64 << 10;
/// A line longer than this did not come from a shim; what there is of it is skipped.
const LINE_MAX: usize = 1 << 20;
/// Batches on their way to a reader.
const QUEUE: usize = 4;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Entries in batches; ends when everything is read and, for a follower, the container has ended.
pub(crate) fn read(
    inner: &Arc<Inner>,
    container: Arc<Container>,
    query: LogQuery,
) -> mpsc::Receiver<Result<Vec<LogEntry>, NodeError>> {
    let (send, receive) = mpsc::channel(QUEUE);
    let dir = inner.paths(&container.id).log;
    let stop = inner.stop.clone();
    inner.watchers.spawn(async move {
        let mut life = container.life();
        let mut reader = LogReader::new(dir, &query);
        let mut pause = PAUSE_MIN;
        loop {
            // Looked at before the reading: what was written before the end is read behind it.
            let ended = !matches!(container.phase(), Phase::Starting | Phase::Running);
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
                _ = life.wait_for(|l| *l != Life::Open) => {}
                () = send.closed() => return,
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    });
    receive
}

#[derive(Clone, Copy)]
struct Filter {
    stdout: bool,
    stderr: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter {
    fn wants(&self, entry: &Line<'_>) -> bool {
        (if entry.stderr { self.stderr } else { self.stdout })
            && self.since.is_none_or(|s| entry.time >= s)
            && self.until.is_none_or(|u| entry.time <= u)
    }
}

/// Some entries.
pub(crate) struct Batch {
    pub entries: Vec<LogEntry>,
    /// There is no more just now.
    pub at_end: bool,
}

/// A place in the logs of one container. Blocking.
pub(crate) struct LogReader {
    dir: PathBuf,
    filter: Filter,
    tail: Option<u64>,
    current: Option<Open>,
    begun: bool,
}

struct Open {
    file: File,
    inode: u64,
    /// Behind the last byte that was read.
    offset: u64,
    /// Read, and not yet a whole line.
    rest: Vec<u8>,
    /// The line is too long: bytes are dropped until it ends.
    skipping: bool,
}

impl Open {
    fn new(file: File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Open { file, inode, offset: 0, rest: Vec::new(), skipping: false })
    }

    /// Adds the entries of the next chunk. False: the file has no more just now.
    fn read(&mut self, filter: &Filter, entries: &mut Vec<LogEntry>) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        let n = loop {
            match self.file.read_at(&mut chunk, self.offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if n == 0 {
            return Ok(false);
        }
        self.offset += n as u64;
        let mut bytes = &chunk[..n];
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, behind) = (&bytes[..end], &bytes[end + 1..]);
            if !std::mem::take(&mut self.skipping) {
                if self.rest.is_empty() {
                    add(line, filter, entries);
                } else {
                    self.rest.extend_from_slice(line);
                    add(&self.rest, filter, entries);
                }
            }
            self.rest.clear();
            bytes = behind;
        }
        if self.rest.len() + bytes.len() > LINE_MAX {
            self.skipping = true;
            self.rest.clear();
        } else if !self.skipping {
            self.rest.extend_from_slice(bytes);
        }
        Ok(true)
    }
}

fn add(line: &[u8], filter: &Filter, entries: &mut Vec<LogEntry>) {
    if let Some(l) = parse(line).filter(|l| filter.wants(l)) {
        entries.push(LogEntry { time: l.time, stderr: l.stderr, line: l.text.to_vec(), partial: l.partial });
    }
}

impl LogReader {
    pub fn new(dir: PathBuf, query: &LogQuery) -> Self {
        let both = !query.stdout && !query.stderr;
        let filter = Filter {
            stdout: query.stdout || both,
            stderr: query.stderr || both,
            since: query.since,
            until: query.until,
        };
        LogReader { dir, filter, tail: query.tail, current: None, begun: false }
    }

    /// The next entries: at least one, or the end.
    pub fn batch(&mut self) -> io::Result<Batch> {
        let mut entries = Vec::new();
        if !self.begun {
            self.current = self.begin()?;
            self.begun = self.current.is_some();
        }
        loop {
            let Some(current) = &mut self.current else { return Ok(Batch { entries, at_end: true }) };
            if current.read(&self.filter, &mut entries)? {
                if entries.is_empty() {
                    continue;
                }
                return Ok(Batch { entries, at_end: false });
            }
            let Some(next) = self.next()? else { return Ok(Batch { entries, at_end: true }) };
            // It was written to until it was renamed: what came after the end that was seen is still to be read.
            if let Some(current) = &mut self.current {
                while current.read(&self.filter, &mut entries)? {}
                // A line that never got its end, by a shim that was killed.
                let rest = std::mem::take(&mut current.rest);
                if !current.skipping {
                    add(&rest, &self.filter, &mut entries);
                }
            }
            self.current = Some(next);
        }
    }

    /// Rotation number and inode of every file there is, newest first.
    fn files(&self) -> io::Result<Vec<(u32, u64)>> {
        let mut files = Vec::new();
        let listing = match std::fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(files),
            other => other?,
        };
        for entry in listing {
            let entry = entry?;
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(NAME)) else { continue };
            let number = match rest.strip_prefix('.') {
                None if rest.is_empty() => 0,
                Some(digits) => match digits.parse::<u32>() {
                    Ok(n) if n > 0 => n,
                    _ => continue,
                },
                None => continue,
            };
            match entry.metadata() {
                Ok(m) if m.is_file() => files.push((number, m.ino())),
                Ok(_) => {}
                // Renamed meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// Opens the file that had this number and inode a moment ago. None: it was rotated since; look again.
    fn open(&self, (number, inode): (u32, u64)) -> io::Result<Option<Open>> {
        let name = if number == 0 { NAME.to_owned() } else { format!("{NAME}.{number}") };
        match File::open(self.dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
            Ok(file) => Ok(Some(Open::new(file)?).filter(|o| o.inode == inode)),
        }
    }

    /// The file behind the current one. None: there is none (yet).
    fn next(&self) -> io::Result<Option<Open>> {
        let Some(current) = &self.current else { return Ok(None) };
        loop {
            let files = self.files()?;
            let target = match files.iter().position(|(_, inode)| *inode == current.inode) {
                // The newest, or the one that was the newest until the next line is written.
                Some(0) => return Ok(None),
                Some(i) => files[i - 1],
                // Rotated out: everything that is kept is newer.
                None => match files.last() {
                    Some(oldest) => *oldest,
                    None => return Ok(None),
                },
            };
            if let Some(open) = self.open(target)? {
                return Ok(Some(open));
            }
        }
    }

    /// Where the first wanted entry is.
    fn begin(&self) -> io::Result<Option<Open>> {
        'again: loop {
            let files = self.files()?;
            let Some(tail) = self.tail else {
                let Some(oldest) = files.last() else { return Ok(None) };
                match self.open(*oldest)? {
                    Some(open) => return Ok(Some(open)),
                    None => continue,
                }
            };
            let mut wanted = Tail { lines: tail, joined: [false; 2] };
            let mut place = None;
            for file in files {
                let Some(mut open) = self.open(file)? else { continue 'again };
                let start = tail_start(&open.file, &self.filter, &mut wanted)?;
                open.offset = start.unwrap_or(0);
                place = Some(open);
                if start.is_some() {
                    break;
                }
            }
            return Ok(place);
        }
    }
}

/// Counts wanted lines from the file's end; gives where the first of `wanted` begins, or None when there are fewer.
/// Parts of a line go with its end.
fn tail_start(file: &File, filter: &Filter, wanted: &mut Tail) -> io::Result<Option<u64>> {
    let mut begin = file.metadata()?.len();
    // Bytes from `begin` on whose line starts before it; the line being written is not one yet.
    let mut tail: Vec<u8> = Vec::new();
    let mut behind_last_line = None;
    while begin > 0 {
        let step = begin.min(CHUNK as u64);
        begin -= step;
        let mut chunk = vec![0; step as usize];
        file.read_exact_at(&mut chunk, begin)?;
        chunk.append(&mut tail);
        let mut end = chunk.len();
        // Lines that begin in this chunk, last first.
        while let Some(newline) = chunk[..end].iter().rposition(|b| *b == b'\n') {
            let start = begin + newline as u64 + 1;
            match behind_last_line {
                None => behind_last_line = Some(start),
                Some(_) => {
                    if counts(&chunk[newline + 1..end], filter, wanted) {
                        return Ok(Some(begin + end as u64 + 1));
                    }
                }
            }
            end = newline;
        }
        chunk.truncate(end);
        tail = chunk;
        if begin == 0 && behind_last_line.is_some() && counts(&tail, filter, wanted) {
            return Ok(Some(tail.len() as u64 + 1));
        }
    }
    Ok(None)
}

/// How many lines are still wanted, counted from the end.
struct Tail {
    lines: u64,
    /// Of stdout and of stderr a later entry was seen: a part of a line goes with that one.
    joined: [bool; 2],
}

/// Counts one line down; its parts count once, also where its end has not been written yet. True: the wanted ones are behind it.
fn counts(line: &[u8], filter: &Filter, wanted: &mut Tail) -> bool {
    let Some(line) = parse(line).filter(|l| filter.wants(l)) else { return false };
    let joined = std::mem::replace(&mut wanted.joined[usize::from(line.stderr)], true);
    if line.partial && joined {
        return false;
    }
    if wanted.lines == 0 {
        return true;
    }
    wanted.lines -= 1;
    false
}

/// One line of a log file.
#[derive(PartialEq, Eq, Debug)]
struct Line<'a> {
    time: Timestamp,
    stderr: bool,
    partial: bool,
    text: &'a [u8],
}

/// `2026-11-21T18:50:29.123456789Z stdout F text`. None: no such line, it is left out.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = split(line)?;
    let (stream, rest) = split(rest)?;
    // Tags may be joined by colons (the CRI's format); the first says whether the line goes on.
    let (tags, text) = split(rest).unwrap_or((rest, b""));
    let time: jiff::Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
    let time = Timestamp(i64::try_from(time.as_nanosecond()).ok()?);
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = match tags.split(|b| *b == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Line { time, stderr, partial, text })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|b| *b == b' ')?;
    Some((&bytes[..space], &bytes[space + 1..]))
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
