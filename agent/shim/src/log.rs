//! The stored output: lines in files, bounded by rotation.
//!
//! Either the CRI's format, `2026-11-21T18:25:18.123456789Z stdout F text` (`P` instead of `F` when the text goes on in the next entry of
//! that stream), or Docker's JSON lines. A file is named by how many bytes were stored before its first: `log.00000000000000000000`, then
//! say `log.00000000000000065530`. So a position in the whole output is one number, where a file ends the next one's name is known, a
//! reader sees exactly how much was dropped between two, and no file is ever renamed while somebody reads it. Files are made when there
//! is something to write. The agent may compress all but the newest (`.zst`, `.gz`) and remove any of them.

mod text;

use berth_model::wire::LogPlan;
use berth_sys::fs::{self, Open};
use berth_sys::process;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::SystemTime;
use text::{Filler, TIME_LEN, decimal, format_time};

/// Entries written with one writev(2) at most: three parts each, and IOV_MAX is 1,024. 64 keep the list in one page of stack.
const BATCH: usize = 64;
/// Files looked at in the folder; the agent removes what is beyond a container's own number.
const FILES_MAX: usize = 16 << 10;
/// How many lines were lost of all that was ever written, as decimal digits.
const LOST: &str = "lost";
/// Far behind everything: where a file begins when it cannot be told how long the one before it was.
const UNKNOWN: u64 = 1 << 40;

/// Entries of JSON on their way to the file. In .bss: pages that are never used cost nothing. A line has at most 32 KiB, each byte of it
/// becomes six at most, and there are attributes beside it.
type JsonBuffer = [u8; 256 << 10];
static JSON: Mutex<JsonBuffer> = Mutex::new([0; _]);

/// Which of the two outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Stdout,
    Stderr,
}

pub struct Log {
    dir: OwnedFd,
    max_file_bytes: u64,
    max_files: usize,
    /// What all names begin with.
    name: String,
    /// Docker's JSON; the text of the attributes, empty: none.
    json: Option<Rc<[u8]>>,
    file: Option<File>,
    /// Bytes stored before the current file.
    start: u64,
    /// Bytes in the current file.
    size: u64,
    /// Where the files before the current one begin, oldest first.
    older: VecDeque<u64>,
    /// The folder has been looked at: `start` and `older` are right.
    known: bool,
    /// Lines that could not be written since the last one that could.
    dropped: u64,
    /// Those of them that are not in the count beside the files.
    uncounted: u64,
}

impl Log {
    pub fn new(dir: OwnedFd, plan: &LogPlan<'_>) -> Self {
        Log {
            dir,
            max_file_bytes: plan.max_file_bytes,
            max_files: plan.max_files.max(1) as usize,
            name: String::from_utf8_lossy(&plan.name).into_owned(),
            json: plan.json.as_deref().map(Rc::from),
            file: None,
            start: 0,
            size: 0,
            older: VecDeque::new(),
            known: false,
            dropped: 0,
            uncounted: 0,
        }
    }

    pub fn folder(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Writes whole lines (each with its newline, except a last one that is partial). Never fails: what cannot be written is counted, and
    /// the first entry that can be written again is preceded by one that tells the count.
    pub fn write(&mut self, stream: Stream, text: &[u8]) {
        let mut time = [0; TIME_LEN];
        format_time(SystemTime::now(), &mut time);
        if self.dropped > 0 {
            self.tell_dropped(&time);
        }
        self.write_lines(stream, text, &time);
        self.count_lost();
    }

    /// Gives pages that are used by entries under way alone back to the kernel.
    pub fn forget(&self) {
        if self.json.is_some() {
            process::forget_pages(&mut JSON.lock().unwrap_or_else(|e| e.into_inner())[..]);
        }
    }

    /// True: all of it is in the file.
    fn write_lines(&mut self, stream: Stream, text: &[u8], time: &[u8; TIME_LEN]) -> bool {
        match self.json.clone() {
            None => self.write_cri(stream, text, time),
            Some(attrs) => self.write_json(stream, text, time, &attrs),
        }
    }

    fn write_cri(&mut self, stream: Stream, text: &[u8], time: &[u8; TIME_LEN]) -> bool {
        let tag = match stream {
            Stream::Stdout => *b" stdout F ",
            Stream::Stderr => *b" stderr F ",
        };
        let mut full = [0; TIME_LEN + 10];
        full[..TIME_LEN].copy_from_slice(time);
        full[TIME_LEN..].copy_from_slice(&tag);
        let mut partial = full;
        partial[TIME_LEN + 8] = b'P';
        let mut all = true;
        let mut lines = text.split_inclusive(|&b| b == b'\n').peekable();
        while lines.peek().is_some() {
            let mut parts = [IoSlice::new(&[]); 3 * BATCH];
            let (mut n, mut entries, mut bytes) = (0, 0, 0);
            while let Some(line) =
                lines.next_if(|l| entries == 0 || (entries < BATCH && self.fits(bytes + full.len() + l.len() + 1)))
            {
                let whole = line.ends_with(b"\n");
                let head = if whole { &full } else { &partial };
                parts[n] = IoSlice::new(head);
                parts[n + 1] = IoSlice::new(line);
                n += 2;
                bytes += head.len() + line.len();
                if !whole {
                    parts[n] = IoSlice::new(b"\n");
                    n += 1;
                    bytes += 1;
                }
                entries += 1;
            }
            all &= self.write_parts(&parts[..n], bytes, entries as u64);
        }
        all
    }

    /// `{"log":"text\n","stream":"stdout","attrs":{…},"time":"…"}`, a partial line without its `\n`: as Docker's json-file has it, with the
    /// zeros at the end of the time left out.
    fn write_json(&mut self, stream: Stream, text: &[u8], time: &[u8; TIME_LEN], attrs: &[u8]) -> bool {
        let mut buffer = JSON.lock().unwrap_or_else(|e| e.into_inner());
        let mut out = Filler { bytes: &mut buffer[..], filled: 0 };
        let stream: &[u8] = match stream {
            Stream::Stdout => b",\"stream\":\"stdout\"",
            Stream::Stderr => b",\"stream\":\"stderr\"",
        };
        let digits = time[..TIME_LEN - 1].iter().rposition(|&b| b != b'0').map_or(0, |last| last + 1);
        let time = time[..digits].strip_suffix(b".").unwrap_or(&time[..digits]);
        let (mut entries, mut all) = (0, true);
        for line in text.split_inclusive(|&b| b == b'\n') {
            let most = 6 * line.len() + attrs.len() + 128;
            if entries > 0
                && (out.filled + most > out.bytes.len() || !self.fits(out.filled + line.len() + attrs.len() + 80))
            {
                all &= self.write_parts(&[IoSlice::new(&out.bytes[..out.filled])], out.filled, entries);
                (out.filled, entries) = (0, 0);
            }
            if most > out.bytes.len() {
                self.lose(1);
                all = false;
                continue;
            }
            out.put(b"{\"log\":");
            out.put_json(line);
            out.put(stream);
            if !attrs.is_empty() {
                out.put(b",\"attrs\":");
                out.put(attrs);
            }
            out.put(b",\"time\":\"");
            out.put(time);
            out.put(b"Z\"}\n");
            entries += 1;
        }
        if entries > 0 {
            all &= self.write_parts(&[IoSlice::new(&out.bytes[..out.filled])], out.filled, entries);
        }
        all
    }

    /// Whether the file has room for so many bytes more, or is empty.
    fn fits(&self, bytes: usize) -> bool {
        self.size + bytes as u64 <= self.max_file_bytes
    }

    fn tell_dropped(&mut self, time: &[u8; TIME_LEN]) {
        let mut digits = [0; 20];
        let (before, uncounted) = (std::mem::take(&mut self.dropped), self.uncounted);
        let count = decimal(before, &mut digits);
        let text = [b"berth: ", count, b" lines of output were lost: the log could not be written\n"].concat();
        if !self.write_lines(Stream::Stderr, &text, time) {
            // The telling is no line of the workload's.
            (self.dropped, self.uncounted) = (before, uncounted);
        }
    }

    fn lose(&mut self, entries: u64) {
        self.dropped += entries;
        self.uncounted += entries;
    }

    /// Adds to the count of all lost lines. A full disk may refuse its first byte; what is told later is counted then.
    fn count_lost(&mut self) {
        if self.uncounted == 0 {
            return;
        }
        let flags = Open::RDWR | Open::CREATE | Open::NOFOLLOW;
        let Ok(fd) = fs::openat(self.dir.as_fd(), LOST, flags, 0o640) else { return };
        let file = File::from(fd);
        let mut text = [0; 20];
        let filled = file.read_at(&mut text, 0).unwrap_or(0);
        let before: u64 = std::str::from_utf8(&text[..filled]).ok().and_then(|t| t.parse().ok()).unwrap_or(0);
        // As wide each time: what is written over needs no new block.
        let after = format!("{:020}", before.saturating_add(self.uncounted));
        if file.write_all_at(after.as_bytes(), 0).is_ok() {
            self.uncounted = 0;
        }
    }

    /// All of it or nothing: half an entry would spoil the next one.
    fn write_parts(&mut self, parts: &[IoSlice<'_>], bytes: usize, entries: u64) -> bool {
        if self.file.is_some() && self.size > 0 && !self.fits(bytes) {
            self.rotate();
        }
        if self.file.is_none() {
            self.open();
        }
        let Some(file) = &mut self.file else {
            self.lose(entries);
            return false;
        };
        if file.write_vectored(parts).is_ok_and(|n| n == bytes) {
            self.size += bytes as u64;
            return true;
        }
        // A full disk takes what fits. When even the cut fails, half an entry stays, and the next one begins a new file.
        if file.set_len(self.size).is_err()
            && let Ok(stat) = fs::fstat(file.as_fd())
            && stat.size > self.size
        {
            self.size = stat.size;
            self.rotate();
        }
        self.lose(entries);
        false
    }

    fn open(&mut self) {
        if !self.known {
            let Some(newest) = self.look() else { return };
            self.known = true;
            match newest {
                // A container that is started again goes on in its file, unless that ends within an entry.
                Some(start) if self.go_on(start) => return,
                _ => {}
            }
        }
        let flags = Open::RDWR | Open::CREATE | Open::APPEND | Open::NOFOLLOW;
        let name = self.name_of(self.start);
        let Ok(fd) = fs::openat(self.dir.as_fd(), &name, flags, 0o640) else { return };
        self.size = fs::fstat(fd.as_fd()).map_or(0, |s| s.size);
        self.file = Some(File::from(fd));
        self.link();
    }

    /// Where the newest file begins, and those before it into `older`. None: the folder cannot be read.
    #[expect(clippy::option_option, reason = "not known, and known to be none")]
    fn look(&mut self) -> Option<Option<u64>> {
        fs::rewind_dir(self.dir.as_fd()).ok()?;
        let entries = fs::read_dir(self.dir.as_fd(), FILES_MAX).ok()?;
        let mut found: Vec<(u64, bool)> = entries
            .iter()
            .filter_map(|e| {
                let rest = e.name.to_str()?.strip_prefix(self.name.as_str())?.strip_prefix('.')?;
                let (number, plain) = match rest.split_once('.') {
                    None => (rest, true),
                    Some((number, "zst" | "gz")) => (number, false),
                    Some(_) => return None,
                };
                Some((number.parse().ok()?, plain))
            })
            .collect();
        found.sort_unstable();
        let newest = found.pop();
        self.older = found.iter().map(|(start, _)| *start).collect();
        Some(match newest {
            None => None,
            Some((start, true)) => Some(start),
            // Nobody compresses the newest; if somebody did, its length is not known here.
            Some((start, false)) => {
                self.older.push_back(start);
                self.start = start.saturating_add(UNKNOWN);
                None
            }
        })
    }

    /// Goes on in the file that begins at `start`; false: behind it.
    fn go_on(&mut self, start: u64) -> bool {
        let flags = Open::RDWR | Open::APPEND | Open::NOFOLLOW;
        let opened = fs::openat(self.dir.as_fd(), self.name_of(start), flags, 0o640);
        let Some((file, size)) = opened.ok().and_then(|fd| {
            let size = fs::fstat(fd.as_fd()).ok()?.size;
            Some((File::from(fd), size))
        }) else {
            self.start = start.saturating_add(UNKNOWN);
            return false;
        };
        let mut last = [b'\n'];
        if size > 0 {
            let _ = file.read_at(&mut last, size - 1);
        }
        (self.start, self.size, self.file) = (start, size, Some(file));
        if last != [b'\n'] {
            self.rotate();
            return false;
        }
        self.link();
        true
    }

    /// The next entry begins a new file; the oldest goes when there are too many.
    fn rotate(&mut self) {
        self.file = None;
        self.older.push_back(self.start);
        self.start += self.size;
        self.size = 0;
        while self.older.len() >= self.max_files {
            let Some(oldest) = self.older.pop_front() else { break };
            let name = self.name_of(oldest);
            for suffix in ["", ".zst", ".gz"] {
                let _ = fs::unlinkat(self.dir.as_fd(), format!("{name}{suffix}"), false);
            }
        }
    }

    /// Docker's tools look for the current file under a name that stays.
    fn link(&self) {
        if self.json.is_none() {
            return;
        }
        let (dir, name, new) = (self.dir.as_fd(), self.name_of(self.start), format!("{}.new", self.name));
        let _ = fs::unlinkat(dir, &new, false);
        if fs::linkat(dir, &name, dir, &new).is_ok() {
            let _ = fs::renameat2(dir, &new, dir, &self.name, false);
            // rename(2) of two names of one file leaves both.
            let _ = fs::unlinkat(dir, &new, false);
        }
    }

    fn name_of(&self, start: u64) -> String {
        format!("{}.{start:020}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(std::path::PathBuf);
    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-shim-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
        fn log(&self, max_file_bytes: u64, max_files: u32) -> Log {
            let fd = std::fs::File::open(&self.0).unwrap().into();
            Log::new(fd, &LogPlan { max_file_bytes, max_files, name: b"log".as_slice().into(), json: None })
        }
        fn json(&self, attrs: &'static [u8]) -> Log {
            let fd = std::fs::File::open(&self.0).unwrap().into();
            let name = b"x-json.log".as_slice().into();
            Log::new(fd, &LogPlan { max_file_bytes: 4096, max_files: 3, name, json: Some(attrs.into()) })
        }
        /// Where the files begin.
        fn starts(&self) -> Vec<u64> {
            let names = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mut all: Vec<u64> = names.filter_map(|n| n.rsplit('.').next().unwrap().parse().ok()).collect();
            all.sort_unstable();
            all
        }
        fn texts(&self, start: u64) -> Vec<String> {
            let text = std::fs::read_to_string(self.0.join(format!("log.{start:020}"))).unwrap_or_default();
            text.lines().map(|l| l[TIME_LEN + 1..].to_owned()).collect()
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lines_and_partial_lines() {
        let dir = Dir::new("lines");
        let mut log = dir.log(1 << 20, 2);
        log.write(Stream::Stdout, b"a\n\nb\nc");
        log.write(Stream::Stderr, b"d\n");
        assert_eq!(dir.texts(0), ["stdout F a", "stdout F ", "stdout F b", "stdout P c", "stderr F d"]);
        let many: Vec<u8> = b"x\n".repeat(1000);
        log.write(Stream::Stdout, &many);
        assert_eq!(dir.texts(0).len(), 1005);
    }

    #[test]
    fn files_are_rotated_and_the_oldest_goes() {
        let dir = Dir::new("rotate");
        let mut log = dir.log(100, 3);
        for n in 0..9 {
            log.write(Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        // 47 bytes an entry: two in a file.
        assert_eq!(dir.starts(), [188, 282, 376]);
        assert_eq!(dir.texts(376), ["stdout F line 8"]);
        assert_eq!(dir.texts(282), ["stdout F line 6", "stdout F line 7"]);
        assert_eq!(dir.texts(188), ["stdout F line 4", "stdout F line 5"]);
        // In one go, too: a file is full before the next one begins.
        log.write(Stream::Stdout, b"a\nb\nc\nd\ne\nf\n");
        assert!(dir.starts().windows(2).all(|w| w[1] - w[0] <= 100), "{:?}", dir.starts());
    }

    #[test]
    fn a_new_run_goes_on_where_the_last_one_ended() {
        let dir = Dir::new("again");
        let mut log = dir.log(100, 3);
        (0..3).for_each(|n| log.write(Stream::Stdout, format!("line {n}\n").as_bytes()));
        let mut log = dir.log(100, 3);
        (3..7).for_each(|n| log.write(Stream::Stdout, format!("line {n}\n").as_bytes()));
        assert_eq!(dir.starts(), [94, 188, 282]);
        assert_eq!(dir.texts(94), ["stdout F line 2", "stdout F line 3"]);
        // A shim that was killed within an entry.
        let newest = dir.0.join(format!("log.{:020}", 282));
        std::fs::File::options().append(true).open(&newest).unwrap().write_all(b"2026-11").unwrap();
        dir.log(100, 3).write(Stream::Stdout, b"line 7\n");
        assert_eq!(dir.texts(282 + 47 + 7), ["stdout F line 7"]);
    }

    #[test]
    fn compressed_files_count_and_go() {
        let dir = Dir::new("packed");
        for name in ["log.00000000000000000000.zst", "log.00000000000000000040.gz", "log.00000000000000000080"] {
            std::fs::write(dir.0.join(name), "").unwrap();
        }
        let mut log = dir.log(50, 3);
        log.write(Stream::Stdout, b"line 0\n");
        log.write(Stream::Stdout, b"line 1\n");
        log.write(Stream::Stdout, b"line 2\n");
        assert_eq!(dir.starts(), [80, 127, 174]);
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 3);
    }

    #[test]
    fn one_file_starts_anew_when_it_is_full() {
        let dir = Dir::new("single");
        let mut log = dir.log(100, 1);
        for n in 0..5 {
            log.write(Stream::Stdout, format!("line {n}\n").as_bytes());
            assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1);
        }
        assert_eq!(dir.texts(188), ["stdout F line 4"]);
    }

    #[test]
    fn what_could_not_be_written_is_told() {
        let dir = Dir::new("full");
        let mut log = dir.log(1 << 20, 2);
        // Every write to it fails like on a full disk.
        log.file = Some(File::options().write(true).open("/dev/full").unwrap());
        log.write(Stream::Stdout, b"1\n2\n");
        log.write(Stream::Stdout, b"3\n");
        assert_eq!(log.dropped, 3);
        log.file = None;
        log.write(Stream::Stdout, b"4\n");
        let texts = dir.texts(0);
        assert_eq!(texts[0], "stderr F berth: 3 lines of output were lost: the log could not be written");
        assert_eq!(texts[1..], ["stdout F 4"]);
        let count = || std::fs::read_to_string(dir.0.join(LOST)).unwrap().parse();
        assert_eq!(count(), Ok(3));
        // A shim of the next run goes on counting.
        let mut log = dir.log(1 << 20, 2);
        log.file = Some(File::options().write(true).open("/dev/full").unwrap());
        log.write(Stream::Stdout, b"5\n");
        assert_eq!((count(), log.uncounted), (Ok(4), 0));
    }

    #[test]
    fn json_lines_under_a_name_that_stays() {
        let dir = Dir::new("json");
        dir.json(b"{\"a\":\"b\"}").write(Stream::Stderr, b"one\ntw");
        let mut log = dir.json(b"");
        log.write(Stream::Stdout, b"three\n");
        let text = std::fs::read_to_string(dir.0.join("x-json.log")).unwrap();
        let lines: Vec<&str> = text.lines().map(|l| l.split("\"time\"").next().unwrap()).collect();
        assert_eq!(
            lines,
            [
                r#"{"log":"one\n","stream":"stderr","attrs":{"a":"b"},"#,
                r#"{"log":"tw","stream":"stderr","attrs":{"a":"b"},"#,
                r#"{"log":"three\n","stream":"stdout","#,
            ]
        );
        assert!(text.ends_with("Z\"}\n") && !text.contains("0Z\""), "{text}");
        (0..400).for_each(|n| log.write(Stream::Stdout, format!("line {n}\n").as_bytes()));
        let newest = std::fs::read_to_string(dir.0.join("x-json.log")).unwrap();
        assert!(newest.contains("line 399") && newest.len() <= 4096, "{newest}");
        assert_eq!(dir.starts().len(), 3);
        // The longest line there can be, of the bytes that become longest.
        log.write(Stream::Stdout, &[1; 32 << 10]);
        assert_eq!(log.dropped, 0);
        log.forget();
    }
}
