//! The stored output: CRI's log format, bounded by rotation.
//!
//! One line is `2026-11-21T18:25:18.123456789Z stdout F text`; `P` instead of `F` when the text goes on in the next entry of that stream.
//! `container.log` is the current file, `container.log.1` the one before it, and so on. Files are made when there is something to write.

use berth_model::wire::LogLimits;
use berth_sys::fs::{self, Open};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

const NAME: &str = "container.log";

/// Entries written with one writev(2) at most: two parts each, and IOV_MAX is 1,024. 64 keep the list in one page of stack.
const BATCH: usize = 64;

/// Which of the two outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Stdout,
    Stderr,
}

pub struct Log {
    dir: OwnedFd,
    limits: LogLimits,
    file: Option<File>,
    /// Bytes in the current file.
    size: u64,
    /// Lines that could not be written since the last one that could.
    dropped: u64,
}

impl Log {
    pub fn new(dir: OwnedFd, limits: LogLimits) -> Self {
        Log { dir, limits, file: None, size: 0, dropped: 0 }
    }

    /// Writes whole lines (each with its newline, except a last one that is partial). Never fails: what cannot be written is counted, and
    /// the first entry that can be written again is preceded by one that tells the count.
    pub fn write(&mut self, stream: Stream, text: &[u8]) {
        let mut time = [0; TIME_LEN];
        format_time(SystemTime::now(), &mut time);
        if self.dropped > 0 {
            self.tell_dropped(&time);
        }
        let tag = match stream {
            Stream::Stdout => *b" stdout F ",
            Stream::Stderr => *b" stderr F ",
        };
        let mut full = [0; TIME_LEN + 10];
        full[..TIME_LEN].copy_from_slice(&time);
        full[TIME_LEN..].copy_from_slice(&tag);
        let mut partial = full;
        partial[TIME_LEN + 8] = b'P';
        let mut lines = text.split_inclusive(|&b| b == b'\n').peekable();
        while lines.peek().is_some() {
            let mut parts = [IoSlice::new(&[]); 3 * BATCH];
            let (mut n, mut entries, mut bytes) = (0, 0, 0);
            for line in lines.by_ref().take(BATCH) {
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
            self.write_parts(&parts[..n], bytes, entries);
        }
    }

    fn tell_dropped(&mut self, time: &[u8; TIME_LEN]) {
        let mut digits = [0; 20];
        let count = decimal(self.dropped, &mut digits);
        let parts: [&[u8]; 4] =
            [time, b" stderr F berth: ", count, b" lines of output were lost: the log could not be written\n"];
        let bytes = parts.iter().map(|p| p.len()).sum();
        let before = std::mem::take(&mut self.dropped);
        if !self.write_parts(&parts.map(IoSlice::new), bytes, 0) {
            self.dropped = before;
        }
    }

    /// All of it or nothing: half an entry would spoil the next one.
    fn write_parts(&mut self, parts: &[IoSlice<'_>], bytes: usize, entries: u64) -> bool {
        if self.file.is_some() && self.size > 0 && self.size + bytes as u64 > self.limits.max_file_bytes {
            self.rotate();
        }
        if self.file.is_none() {
            self.open();
        }
        let Some(file) = &mut self.file else {
            self.dropped += entries;
            return false;
        };
        if file.write_vectored(parts).is_ok_and(|n| n == bytes) {
            self.size += bytes as u64;
            return true;
        }
        // A full disk takes what fits. When even the cut fails, the reader has to bear half an entry.
        let _ = file.set_len(self.size);
        self.dropped += entries;
        false
    }

    fn open(&mut self) {
        let flags = Open::WRONLY | Open::CREATE | Open::APPEND | Open::NOFOLLOW;
        let Ok(fd) = fs::openat(self.dir.as_fd(), NAME, flags, 0o640) else { return };
        // A container that is started again goes on in its file.
        self.size = fs::fstat(fd.as_fd()).map_or(0, |s| s.size);
        self.file = Some(File::from(fd));
    }

    fn rotate(&mut self) {
        self.file = None;
        let dir = self.dir.as_fd();
        if self.limits.max_files <= 1 {
            let _ = fs::unlinkat(dir, NAME, false);
            return;
        }
        let name = |n: u32| {
            let mut digits = [0; 20];
            let number = decimal(n.into(), &mut digits);
            let mut name = String::with_capacity(NAME.len() + 8);
            name.push_str(NAME);
            if n > 0 {
                name.push('.');
                number.iter().for_each(|&d| name.push(char::from(d)));
            }
            name
        };
        for n in (0..self.limits.max_files - 1).rev() {
            let _ = fs::renameat2(dir, name(n), dir, name(n + 1), false);
        }
    }
}

/// `2026-11-21T18:25:18.123456789Z`
const TIME_LEN: usize = 30;

/// RFC 3339 in UTC with nanoseconds. Times before 1970 are shown as 1970.
fn format_time(time: SystemTime, out: &mut [u8; TIME_LEN]) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    out.copy_from_slice(b"0000-00-00T00:00:00.000000000Z");
    let mut put = |at: usize, width: usize, mut value: u64| {
        for i in (at..at + width).rev() {
            out[i] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, second / 3600);
    put(14, 2, second / 60 % 60);
    put(17, 2, second % 60);
    put(20, 9, since.subsec_nanos().into());
}

/// Year, month and day of a day since 1970-01-01, by Howard Hinnant's days-to-civil: years begin in March, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn decimal(mut value: u64, out: &mut [u8; 20]) -> &[u8] {
    let mut at = out.len();
    loop {
        at -= 1;
        out[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &out[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn time(seconds: u64, nanos: u32) -> String {
        let mut out = [0; TIME_LEN];
        format_time(UNIX_EPOCH + Duration::new(seconds, nanos), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(951_782_399, 999_999_999), "2000-02-28T23:59:59.999999999Z");
        assert_eq!(time(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(time(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(time(1_795_285_518, 123_456_789), "2026-11-21T18:25:18.123456789Z");
    }

    struct Dir(std::path::PathBuf);
    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-shim-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
        fn log(&self, max_file_bytes: u64, max_files: u32) -> Log {
            let fd = std::fs::File::open(&self.0).unwrap().into();
            Log::new(fd, LogLimits { max_file_bytes, max_files })
        }
        fn texts(&self, name: &str) -> Vec<String> {
            let text = std::fs::read_to_string(self.0.join(name)).unwrap_or_default();
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
        assert_eq!(dir.texts(NAME), ["stdout F a", "stdout F ", "stdout F b", "stdout P c", "stderr F d"]);
        let many: Vec<u8> = b"x\n".repeat(1000);
        log.write(Stream::Stdout, &many);
        assert_eq!(dir.texts(NAME).len(), 1005);
    }

    #[test]
    fn files_are_rotated_and_the_oldest_goes() {
        let dir = Dir::new("rotate");
        let mut log = dir.log(100, 3);
        for n in 0..9 {
            log.write(Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        // 47 bytes an entry: two in a file.
        assert_eq!(dir.texts(NAME), ["stdout F line 8"]);
        assert_eq!(dir.texts("container.log.1"), ["stdout F line 6", "stdout F line 7"]);
        assert_eq!(dir.texts("container.log.2"), ["stdout F line 4", "stdout F line 5"]);
        assert!(!dir.0.join("container.log.3").exists());
    }

    #[test]
    fn one_file_starts_anew_when_it_is_full() {
        let dir = Dir::new("single");
        let mut log = dir.log(100, 1);
        for n in 0..5 {
            log.write(Stream::Stdout, format!("line {n}\n").as_bytes());
            assert!(std::fs::metadata(dir.0.join(NAME)).unwrap().len() <= 100);
        }
        assert_eq!(dir.texts(NAME), ["stdout F line 4"]);
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1);
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
        let texts = dir.texts(NAME);
        assert_eq!(texts[0], "stderr F berth: 3 lines of output were lost: the log could not be written");
        assert_eq!(texts[1..], ["stdout F 4"]);
    }
}
