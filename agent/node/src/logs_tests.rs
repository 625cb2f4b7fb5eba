//! Logs over rotations: nothing lost, nothing twice.

use super::*;
use crate::testing::TempDir;
use std::io::Write;

fn time(n: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(n) * 1_000_000_000).unwrap().to_string()
}

/// Writes as the shim does: whole lines, renaming when a file is full.
struct Writer {
    dir: PathBuf,
    file: File,
    size: u64,
    max: u64,
    files: u32,
}

impl Writer {
    fn new(dir: &std::path::Path, max: u64, files: u32) -> Self {
        let file = File::create(dir.join(NAME)).unwrap();
        Writer { dir: dir.to_owned(), file, size: 0, max, files }
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
        let name = |n: u32| if n == 0 { self.dir.join(NAME) } else { self.dir.join(format!("{NAME}.{n}")) };
        let _ = std::fs::remove_file(name(self.files - 1));
        for n in (0..self.files - 1).rev() {
            let _ = std::fs::rename(name(n), name(n + 1));
        }
        self.file = File::create(name(0)).unwrap();
        self.size = 0;
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
fn lines_are_parsed() {
    let l = parse(b"2026-11-21T18:50:29.123456789Z stderr P hello  world").unwrap();
    assert_eq!((l.stderr, l.partial, l.text), (true, true, &b"hello  world"[..]));
    assert_eq!(l.time.nanos() % 1_000_000_000, 123_456_789);
    assert_eq!(parse(b"2026-11-21T18:50:29Z stdout F").unwrap().text, b"", "an empty line may have lost its space");
    assert_eq!(parse(b"2026-11-21T18:50:29Z stdout F ").unwrap().text, b"");
    for bad in
        [&b""[..], b"x", b"2026-11-21T18:50:29Z stdin F x", b"2026-11-21T18:50:29Z stdout X x", b"\xff stdout F x"]
    {
        assert_eq!(parse(bad), None);
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

#[test]
fn a_follower_loses_nothing_and_repeats_nothing() {
    for seed in 0..60 {
        let dir = TempDir::new("logs-follow");
        let mut random = Random(seed);
        let files = 2 + random.below(4) as u32;
        let mut w = Writer::new(dir.path(), 150 + random.below(400), files);
        let mut reader = LogReader::new(dir.path().to_owned(), &LogQuery { follow: true, ..query() });
        let (mut written, mut seen) = (0i64, Vec::new());
        for _ in 0..200 {
            // Never more between two looks than is kept beside the current file.
            for _ in 0..random.below(3) {
                w.line(written, "stdout", "F", &written.to_string());
                written += 1;
            }
            if random.below(10) == 0 {
                w.rotate();
                if random.below(2) == 0 {
                    seen.extend(drain(&mut reader));
                }
            }
            if random.below(3) > 0 || files < 4 {
                seen.extend(drain(&mut reader));
            }
        }
        seen.extend(drain(&mut reader));
        let numbers: Vec<i64> = seen.iter().map(|s| s.parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|w| w[0] < w[1]), "seed {seed}: out of order or twice: {numbers:?}");
        if files >= 4 {
            continue;
        }
        let all: Vec<i64> = (0..written).collect();
        assert_eq!(numbers, all, "seed {seed}");
    }
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
        let all = drain(&mut LogReader::new(dir.path().to_owned(), &query()));
        for _ in 0..20 {
            let tail = random.below(all.len() as u64 + 5);
            let got = drain(&mut LogReader::new(dir.path().to_owned(), &LogQuery { tail: Some(tail), ..query() }));
            assert_eq!(got, all[all.len().saturating_sub(tail as usize)..], "seed {seed}, tail {tail}");
        }
    }
}
