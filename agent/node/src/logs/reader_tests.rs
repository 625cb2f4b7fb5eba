//! Logs over rotations: nothing lost, nothing twice.

use super::*;
use crate::logs::LogCursor;
use crate::testing::TempDir;
use std::fs::File;
use std::io::Write;
use std::path::Path;

fn time(n: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(n) * 1_000_000_000).unwrap().to_string()
}

/// Writes as the shim does: whole lines, a new file when one is full.
struct Writer {
    dir: PathBuf,
    file: File,
    start: u64,
    size: u64,
    max: u64,
    files: usize,
    older: Vec<u64>,
}

impl Writer {
    fn new(dir: &Path, max: u64, files: usize) -> Self {
        let file = File::create(dir.join(files::name_of("log", 0, Form::Plain))).unwrap();
        Writer { dir: dir.to_owned(), file, start: 0, size: 0, max, files, older: Vec::new() }
    }

    fn line(&mut self, n: i64, stream: &str, tag: &str, text: &str) {
        let line = format!("{} {stream} {tag} {text}\n", time(n));
        if self.size + line.len() as u64 > self.max {
            self.rotate();
        }
        self.file.write_all(line.as_bytes()).unwrap();
        self.size += line.len() as u64;
    }

    fn rotate(&mut self) {
        if self.size == 0 {
            return;
        }
        self.older.push(self.start);
        self.start += self.size;
        self.size = 0;
        while self.older.len() >= self.files {
            let oldest = self.older.remove(0);
            for form in [Form::Plain, Form::Zstd, Form::Gzip] {
                let _ = std::fs::remove_file(self.dir.join(files::name_of("log", oldest, form)));
            }
        }
        self.file = File::create(self.dir.join(files::name_of("log", self.start, Form::Plain))).unwrap();
    }

    /// As the agent does.
    fn pack(&self, n: usize, form: Form) {
        let Some(start) = self.older.get(n) else { return };
        let plain = self.dir.join(files::name_of("log", *start, Form::Plain));
        let Ok(bytes) = std::fs::read(&plain) else { return };
        let packed = match form {
            Form::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(&bytes).unwrap();
                out.finish().unwrap()
            }
            _ => zstd::encode_all(&bytes[..], 1).unwrap(),
        };
        std::fs::write(self.dir.join(files::name_of("log", *start, form)), packed).unwrap();
        std::fs::remove_file(plain).unwrap();
    }
}

fn query() -> LogQuery {
    LogQuery { stdout: true, stderr: true, ..LogQuery::default() }
}

fn drain(reader: &mut LogReader) -> Vec<String> {
    let mut out = Vec::new();
    loop {
        let batch = reader.batch().unwrap();
        out.extend(batch.entries.iter().map(|e| String::from_utf8_lossy(&e.line).into_owned()));
        if batch.at_end {
            return out;
        }
    }
}

#[test]
fn filters() {
    let dir = TempDir::new("logs-filter");
    let mut w = Writer::new(dir.path(), 1 << 20, 3);
    for n in 0..6 {
        w.line(n, if n % 2 == 0 { "stdout" } else { "stderr" }, "F", &n.to_string());
    }
    let read = |q: LogQuery| drain(&mut LogReader::new(dir.path().to_owned(), &q));
    let at = |n: i64| Some(Timestamp(n * 1_000_000_000));
    assert_eq!(read(LogQuery { stdout: true, ..LogQuery::default() }), ["0", "2", "4"]);
    assert_eq!(read(LogQuery { stderr: true, ..LogQuery::default() }), ["1", "3", "5"]);
    assert_eq!(read(LogQuery::default()).len(), 6, "neither means both");
    assert_eq!(read(LogQuery { since: at(2), until: at(4), ..query() }), ["2", "3", "4"]);
    assert_eq!(read(LogQuery { tail: Some(2), stdout: true, ..LogQuery::default() }), ["2", "4"]);
    assert_eq!(read(LogQuery { tail: Some(0), ..query() }), [""; 0]);
    assert_eq!(read(LogQuery { tail: Some(100), ..query() }).len(), 6);
}

#[test]
fn a_tail_keeps_the_parts_of_its_first_line() {
    let dir = TempDir::new("logs-parts");
    let mut w = Writer::new(dir.path(), 1 << 20, 3);
    w.line(1, "stdout", "F", "one");
    w.line(2, "stdout", "P", "two-a");
    w.line(3, "stdout", "P", "two-b");
    w.line(4, "stdout", "F", "two-c");
    let mut reader = LogReader::new(dir.path().to_owned(), &LogQuery { tail: Some(1), ..query() });
    assert_eq!(drain(&mut reader), ["two-a", "two-b", "two-c"]);
}

#[test]
fn a_tail_counts_lines_and_not_their_parts() {
    let dir = TempDir::new("logs-open");
    let mut w = Writer::new(dir.path(), 1 << 20, 3);
    w.line(1, "stdout", "F", "one");
    w.line(2, "stderr", "F", "two");
    w.line(3, "stdout", "P", "three-a");
    w.line(4, "stderr", "P", "four-a");
    w.line(5, "stdout", "P", "three-b");
    let tail = |n| {
        let query = LogQuery { tail: Some(n), ..query() };
        drain(&mut LogReader::new(dir.path().to_owned(), &query))
    };
    assert_eq!(tail(0), [""; 0]);
    assert_eq!(tail(2), ["three-a", "four-a", "three-b"]);
    assert_eq!(tail(3), ["two", "three-a", "four-a", "three-b"]);
    assert_eq!(tail(4).len(), 5);
}

#[test]
fn no_log_yet_and_a_line_being_written() {
    let dir = TempDir::new("logs-none");
    let mut reader = LogReader::new(dir.path().join("log"), &query());
    assert!(drain(&mut reader).is_empty());
    std::fs::create_dir(dir.path().join("log")).unwrap();
    let mut w = Writer::new(&dir.path().join("log"), 1 << 20, 3);
    w.line(1, "stdout", "F", "one");
    w.file.write_all(format!("{} stdout F tw", time(2)).as_bytes()).unwrap();
    assert_eq!(drain(&mut reader), ["one"]);
    w.file.write_all(b"o\n").unwrap();
    assert_eq!(drain(&mut reader), ["two"]);
}

/// A small generator with a fixed seed: a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn numbers(lines: &[String]) -> Vec<i64> {
    lines.iter().map(|s| s.parse().unwrap()).collect()
}

#[test]
fn a_follower_loses_nothing_and_repeats_nothing() {
    for seed in 0..60 {
        let dir = TempDir::new("logs-follow");
        let mut random = Random(seed);
        let mut w = Writer::new(dir.path(), 150 + random.below(400), 1000);
        let mut reader = LogReader::new(dir.path().to_owned(), &LogQuery { follow: true, ..query() });
        let (mut written, mut seen) = (0i64, Vec::new());
        for _ in 0..200 {
            for _ in 0..random.below(3) {
                w.line(written, "stdout", "F", &written.to_string());
                written += 1;
            }
            if random.below(10) == 0 {
                w.rotate();
            }
            if random.below(4) == 0 {
                w.pack(random.below(20) as usize, if random.below(2) == 0 { Form::Zstd } else { Form::Gzip });
            }
            if random.below(4) == 0 {
                seen.extend(drain(&mut reader));
            }
        }
        seen.extend(drain(&mut reader));
        assert_eq!(numbers(&seen), (0..written).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn who_comes_back_with_a_cursor_goes_on_behind_it() {
    let id = berth_model::ContainerId::from_bytes([7; 32]);
    for seed in 0..40 {
        let dir = TempDir::new("logs-cursor");
        let mut random = Random(seed + 500);
        let mut w = Writer::new(dir.path(), 150 + random.below(400), 1000);
        let (mut written, mut seen, mut last) = (0i64, Vec::new(), None);
        for _ in 0..100 {
            for _ in 0..random.below(6) {
                w.line(written, if random.below(2) == 0 { "stdout" } else { "stderr" }, "F", &written.to_string());
                written += 1;
            }
            w.pack(random.below(20) as usize, Form::Zstd);
            // A new reader each time, which is cut off within a batch.
            let after = last.map(|p| LogCursor::new(&id, p).to_string().parse().unwrap());
            let batch = LogReader::new(dir.path().to_owned(), &LogQuery { after, ..query() }).batch().unwrap();
            let taken = random.below(1 + batch.entries.len() as u64) as usize;
            for entry in &batch.entries[..taken] {
                seen.push(String::from_utf8(entry.line.clone()).unwrap());
                last = Some(entry.position);
            }
        }
        let after = last.map(|p| LogCursor::new(&id, p));
        seen.extend(drain(&mut LogReader::new(dir.path().to_owned(), &LogQuery { after, ..query() })));
        assert_eq!(numbers(&seen), (0..written).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn what_was_dropped_is_told_to_the_byte() {
    let dir = TempDir::new("logs-gap");
    let mut w = Writer::new(dir.path(), 100, 3);
    w.line(0, "stdout", "F", "0");
    let mut follower = LogReader::new(dir.path().to_owned(), &LogQuery { follow: true, ..query() });
    let first = follower.batch().unwrap().entries.remove(0);
    for n in 1..20 {
        w.line(n, "stdout", "F", "x");
    }
    let LogPosition::At(at) = first.position else { panic!("{first:?}") };
    // Of the file that is open nothing is lost: it goes on to its end.
    let told = |reader: &mut LogReader| {
        let mut all = Vec::new();
        loop {
            let batch = reader.batch().unwrap();
            all.extend(batch.entries);
            if batch.at_end {
                return all;
            }
        }
    };
    let entries = told(&mut follower);
    let lost: u64 = entries.iter().map(|e| e.lost_bytes).sum();
    let gap = entries.iter().position(|e| e.lost_bytes > 0).unwrap();
    assert!(gap > 0 && entries[gap].line.starts_with(b"berth: "), "{entries:?}");
    let id = berth_model::ContainerId::from_bytes([7; 32]);
    let after = Some(LogCursor::new(&id, first.position));
    let again = told(&mut LogReader::new(dir.path().to_owned(), &LogQuery { after, ..query() }));
    assert_eq!(again[0].lost_bytes, w.older[0] - at);
    assert!(lost < again[0].lost_bytes);
    // Behind the gap's own cursor it is not told again.
    let after = Some(LogCursor::new(&id, again[0].position));
    let rest = told(&mut LogReader::new(dir.path().to_owned(), &LogQuery { after, ..query() }));
    assert_eq!(rest[..], again[1..]);
}

#[test]
fn files_of_an_older_shim_come_first() {
    let dir = TempDir::new("logs-old");
    let line = |n: i64| format!("{} stdout F {n}\n", time(n));
    std::fs::write(dir.path().join("container.log.2"), line(0) + &line(1)).unwrap();
    std::fs::write(dir.path().join("container.log.1"), line(2)).unwrap();
    std::fs::write(dir.path().join("container.log"), line(3)).unwrap();
    let mut reader = LogReader::new(dir.path().to_owned(), &query());
    let batch = reader.batch().unwrap();
    assert_eq!(batch.entries.len(), 4, "small files are taken together");
    let cursor = batch.entries[0].position;
    // It is still running, and renames.
    for (from, to) in [(2, ".3"), (1, ".2"), (0, ".1")] {
        let from = if from == 0 { "container.log".to_owned() } else { format!("container.log.{from}") };
        std::fs::rename(dir.path().join(from), dir.path().join(format!("container.log{to}"))).unwrap();
    }
    std::fs::write(dir.path().join("container.log"), line(4)).unwrap();
    // Started again by a newer one.
    Writer::new(dir.path(), 1000, 3).line(5, "stdout", "F", "5");
    assert_eq!(numbers(&drain(&mut reader)), [4, 5]);
    let id = berth_model::ContainerId::from_bytes([7; 32]);
    let after = Some(LogCursor::new(&id, cursor));
    let rest = drain(&mut LogReader::new(dir.path().to_owned(), &LogQuery { after, ..query() }));
    assert_eq!(numbers(&rest), [1, 2, 3, 4, 5]);
}

#[test]
fn every_tail_is_the_end_of_everything() {
    for seed in 0..20 {
        let dir = TempDir::new("logs-tail");
        let mut random = Random(seed + 1000);
        let mut w = Writer::new(dir.path(), 2000 + random.below(200_000), 4);
        for n in 0..200 + random.below(2000) as i64 {
            let text = "x".repeat(random.below(300) as usize);
            w.line(n, "stdout", "F", &format!("{n}{text}"));
        }
        w.pack(random.below(4) as usize, Form::Zstd);
        let all = drain(&mut LogReader::new(dir.path().to_owned(), &query()));
        for _ in 0..20 {
            let tail = random.below(all.len() as u64 + 5);
            let got = drain(&mut LogReader::new(dir.path().to_owned(), &LogQuery { tail: Some(tail), ..query() }));
            assert_eq!(got, all[all.len().saturating_sub(tail as usize)..], "seed {seed}, tail {tail}");
        }
    }
}
