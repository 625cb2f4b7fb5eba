//! Reads the output of one container, over all its files. Blocking.
//!
//! Where a file ends the name of the next one is known, so that a follower of thousands of files opens each once. A file that is dropped
//! while it is read stays readable to its end; what was dropped before it could be opened is told by an entry of its own.

use super::files::{self, Form, Segment, Source, Start};
use super::line::{Line, parse};
use super::position::LogPosition;
use crate::view::{LogEntry, LogQuery};
use berth_model::Timestamp;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes read at once: a batch of entries is about as large.
const CHUNK: usize = 64 << 10;
/// What an entry counts beside its text.
const ENTRY: usize = 64;
/// A line longer than this did not come from a shim; what there is of it is skipped.
const LINE_MAX: usize = 1 << 20;
/// A file's time is the kernel's coarse one, behind the entries' by a tick.
const TICK: Duration = Duration::from_secs(1);
/// Files that are gone when they are to be opened, in a row: then the folder is not as it should be.
const ROUNDS: u32 = 1000;

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

/// A place in the output of one container.
pub(crate) struct LogReader {
    dir: PathBuf,
    filter: Filter,
    tail: Option<u64>,
    after: Option<LogPosition>,
    current: Option<Open>,
    /// Bytes that were dropped before the current file could be opened, and are to be told.
    lost: u64,
}

struct Open {
    segment: Segment,
    source: Source,
    /// Behind the last byte that was read.
    offset: u64,
    /// Read, and not yet a whole line.
    rest: Vec<u8>,
    /// The line is too long: bytes are dropped until it ends.
    skipping: bool,
}

impl Open {
    fn new(segment: Segment, source: Source, offset: u64) -> Self {
        Open { segment, source, offset, rest: Vec::new(), skipping: false }
    }

    fn position(&self, offset: u64) -> LogPosition {
        match self.segment.start {
            Start::Old(first) => LogPosition::Old { first, offset },
            Start::At(start) => LogPosition::At(start.saturating_add(offset)),
        }
    }

    /// Adds the entries of the next chunk. False: the file has no more just now.
    fn read(&mut self, filter: &Filter, entries: &mut Vec<LogEntry>) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        let n = self.source.read_at(&mut chunk, self.offset)?;
        if n == 0 {
            return Ok(false);
        }
        let mut behind = self.offset;
        self.offset += n as u64;
        let mut bytes = &chunk[..n];
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            behind += end as u64 + 1;
            let position = self.position(behind);
            let line = &bytes[..end];
            if !std::mem::take(&mut self.skipping) {
                if self.rest.is_empty() {
                    add(line, position, filter, entries);
                } else {
                    self.rest.extend_from_slice(line);
                    add(&self.rest, position, filter, entries);
                }
            }
            self.rest.clear();
            bytes = &bytes[end + 1..];
        }
        if self.rest.len() + bytes.len() > LINE_MAX {
            self.skipping = true;
            self.rest.clear();
        } else if !self.skipping {
            self.rest.extend_from_slice(bytes);
        }
        Ok(true)
    }

    /// To the end of a file that nobody writes to any more.
    fn finish(&mut self, filter: &Filter, entries: &mut Vec<LogEntry>) -> io::Result<()> {
        while self.read(filter, entries)? {}
        // A line that never got its end, by a shim that was killed.
        let rest = std::mem::take(&mut self.rest);
        if !self.skipping {
            add(&rest, self.position(self.offset), filter, entries);
        }
        Ok(())
    }
}

fn add(line: &[u8], position: LogPosition, filter: &Filter, entries: &mut Vec<LogEntry>) {
    if let Some(l) = parse(line).filter(|l| filter.wants(l)) {
        let Line { time, stderr, partial, text } = l;
        entries.push(LogEntry { time, stderr, line: text.into_owned(), partial, position, lost_bytes: 0 });
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
        let after = query.after.as_ref().map(|c| c.position);
        LogReader { dir, filter, tail: query.tail, after, current: None, lost: 0 }
    }

    /// From behind `position` on.
    pub fn from_position(dir: PathBuf, query: &LogQuery, position: LogPosition) -> Self {
        LogReader { after: Some(position), ..LogReader::new(dir, query) }
    }

    /// The next entries: at least one, or the end.
    pub fn batch(&mut self) -> io::Result<Batch> {
        let mut entries = Vec::new();
        if self.current.is_none() {
            self.current = self.begin()?;
        }
        loop {
            let Some(current) = &mut self.current else { return Ok(Batch { entries, at_end: true }) };
            if self.lost > 0 {
                entries.push(gap(std::mem::take(&mut self.lost), current.position(current.offset)));
            }
            if current.read(&self.filter, &mut entries)? {
                // Small files are taken together.
                if entries.iter().map(|e| e.line.len() + ENTRY).sum::<usize>() < CHUNK {
                    continue;
                }
                return Ok(Batch { entries, at_end: false });
            }
            if !self.is_left()? {
                return Ok(Batch { entries, at_end: true });
            }
            if let Some(current) = &mut self.current {
                current.finish(&self.filter, &mut entries)?;
            }
            let Some(next) = self.next()? else { return Ok(Batch { entries, at_end: true }) };
            self.current = Some(next);
        }
    }

    /// A newer file is there: nobody writes to the current one any more.
    fn is_left(&self) -> io::Result<bool> {
        let Some(current) = &self.current else { return Ok(false) };
        if let (Start::At(start), Some((base, _, form))) =
            (current.segment.start, files::parse_name(&current.segment.name))
        {
            let end = start.saturating_add(current.offset);
            if current.offset > 0 && files::find(&self.dir, base, end)?.is_some() {
                return Ok(true);
            }
            // The oldest go first: as long as it is there itself, the next one is not gone already.
            if form == Form::Plain && files::find(&self.dir, base, start)?.is_some() {
                return Ok(false);
            }
        }
        Ok(files::list(&self.dir)?.last().is_some_and(|newest| newest.start > current.segment.start))
    }

    /// The file behind the current one, which is read to its end. What is missing between them is lost.
    fn next(&mut self) -> io::Result<Option<Open>> {
        let Some(current) = &self.current else { return Ok(None) };
        let start = current.segment.start;
        let end = match start {
            Start::At(start) => Some(start.saturating_add(current.offset)),
            Start::Old(_) => None,
        };
        if let (Some(end), Some((base, ..))) =
            (end.filter(|_| current.offset > 0), files::parse_name(&current.segment.name))
            && let Some(segment) = files::find(&self.dir, base, end)?
            && let Some(source) = files::open(&self.dir, &segment)?
        {
            return Ok(Some(Open::new(segment, source, 0)));
        }
        for _ in 0..ROUNDS {
            let Some(segment) = files::list(&self.dir)?.into_iter().find(|s| s.start > start) else { return Ok(None) };
            if let Some(source) = files::open(&self.dir, &segment)? {
                if let (Some(end), Start::At(found)) = (end, segment.start) {
                    self.lost = found.saturating_sub(end);
                }
                return Ok(Some(Open::new(segment, source, 0)));
            }
        }
        Err(restless())
    }

    /// Where the first wanted entry is.
    fn begin(&mut self) -> io::Result<Option<Open>> {
        for _ in 0..ROUNDS {
            let segments = files::list(&self.dir)?;
            if segments.is_empty() {
                return Ok(None);
            }
            let begun = match (self.after, self.tail) {
                (Some(after), _) => self.begin_after(after, segments)?,
                (None, Some(lines)) => self.begin_tail(lines, segments)?,
                (None, None) => {
                    // What was written to last before the wanted time has nothing of it.
                    let since = self.filter.since.map(|s| std::time::SystemTime::from(s) - TICK);
                    let newest = segments.len() - 1;
                    let wanted = |(i, s): &(usize, Segment)| *i == newest || since.is_none_or(|t| s.modified >= t);
                    match segments.into_iter().enumerate().find(wanted) {
                        Some((_, segment)) => self.open(segment, 0)?,
                        None => return Ok(None),
                    }
                }
            };
            if begun.is_some() {
                return Ok(begun);
            }
        }
        Err(restless())
    }

    fn open(&self, segment: Segment, offset: u64) -> io::Result<Option<Open>> {
        Ok(files::open(&self.dir, &segment)?.map(|source| Open::new(segment, source, offset)))
    }

    fn begin_after(&mut self, after: LogPosition, segments: Vec<Segment>) -> io::Result<Option<Open>> {
        let (place, offset) = match after {
            LogPosition::Old { first, offset } => (segments.iter().position(|s| s.start == Start::Old(first)), offset),
            LogPosition::At(at) => {
                let last = segments.iter().rposition(|s| matches!(s.start, Start::At(start) if start <= at));
                let start = last.map(|i| segments[i].start);
                (last, if let Some(Start::At(start)) = start { at - start } else { 0 })
            }
        };
        if let Some(place) = place {
            return self.open(segments.into_iter().nth(place).unwrap_or_else(|| unreachable!("found there")), offset);
        }
        // It was dropped: what is kept of what came later.
        let behind = match after {
            LogPosition::Old { first, .. } => Start::Old(first),
            LogPosition::At(at) => Start::At(at),
        };
        let Some(oldest) = segments.into_iter().find(|s| s.start > behind) else { return Ok(None) };
        let lost = match (after, oldest.start) {
            (LogPosition::At(at), Start::At(start)) => start - at,
            _ => 0,
        };
        let open = self.open(oldest, 0)?;
        if open.is_some() {
            self.lost = lost;
        }
        Ok(open)
    }

    fn begin_tail(&self, lines: u64, segments: Vec<Segment>) -> io::Result<Option<Open>> {
        let mut wanted = Tail { lines, joined: [false; 2] };
        let mut place = None;
        for segment in segments.into_iter().rev() {
            let Some(mut open) = self.open(segment, 0)? else { return Ok(None) };
            open.source = open.source.into_backwards()?;
            let start = tail_start(&mut open.source, &self.filter, &mut wanted)?;
            open.offset = start.unwrap_or(0);
            place = Some(open);
            if start.is_some() {
                break;
            }
        }
        Ok(place)
    }
}

fn restless() -> io::Error {
    io::Error::other("the files of the log go as fast as they are looked for")
}

/// Says that output is missing here.
fn gap(lost_bytes: u64, position: LogPosition) -> LogEntry {
    LogEntry {
        time: Timestamp::now(),
        stderr: true,
        line: format!("berth: {lost_bytes} bytes of output are missing here: they were dropped before they were read")
            .into_bytes(),
        partial: false,
        position,
        lost_bytes,
    }
}

/// Counts wanted lines from the file's end; gives where the first of `wanted` begins, or None when there are fewer.
/// Parts of a line go with its end.
fn tail_start(source: &mut Source, filter: &Filter, wanted: &mut Tail) -> io::Result<Option<u64>> {
    let mut begin = source.len()?;
    // Bytes from `begin` on whose line starts before it; the line being written is not one yet.
    let mut tail: Vec<u8> = Vec::new();
    let mut behind_last_line = None;
    while begin > 0 {
        let step = begin.min(CHUNK as u64);
        begin -= step;
        let mut chunk = vec![0; step as usize];
        read_exact_at(source, &mut chunk, begin)?;
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

fn read_exact_at(source: &mut Source, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(())
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

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
