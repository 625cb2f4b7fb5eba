//! What a container uses: counters of its cgroup, read from files that stay open.
//!
//! Some hundred containers are read once a second: nothing is allocated on the way, and a read is one pread(2) where the file is open.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// What a file counts, which says how it is read (cgroup-v2.rst, cgroup-v1/*.rst).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counter {
    /// Nanoseconds.
    V1CpuUsage,
    /// `user N`, `system N` in hundredths of a second (USER_HZ).
    V1CpuTicks,
    V1CpuThrottle,
    V2Cpu,
    /// Bytes.
    Memory,
    V1MemoryParts,
    V2MemoryParts,
    V2Swap,
    Pids,
    /// A list of processes whose /proc/PID/io is summed.
    V1ProcessIo,
    V2Block,
    CpuPressure,
    MemoryPressure,
    IoPressure,
}

#[cfg(fuzzing)]
impl Counter {
    pub const ALL: [Counter; 14] = [
        Counter::V1CpuUsage,
        Counter::V1CpuTicks,
        Counter::V1CpuThrottle,
        Counter::V2Cpu,
        Counter::Memory,
        Counter::V1MemoryParts,
        Counter::V2MemoryParts,
        Counter::V2Swap,
        Counter::Pids,
        Counter::V1ProcessIo,
        Counter::V2Block,
        Counter::CpuPressure,
        Counter::MemoryPressure,
        Counter::IoPressure,
    ];
}

/// Counters since the start of the container. A part is None where the host does not count it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Counters {
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<u64>,
    pub block: Option<Block>,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cpu {
    pub usage_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    /// Of the limit's periods: how many there were, in how many the limit was reached, and how long processes waited for it.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

/// Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    pub total: u64,
    pub anonymous: u64,
    pub file: u64,
    pub inactive_file: u64,
    pub swap: u64,
}

impl Memory {
    /// Docker's figure: without the file cache that is free to go.
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.inactive_file)
    }
}

/// Of all block devices. On v1: by the processes that are there and the children that they have waited for, in bytes alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Block {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Pressure stall information (accounting/psi.rst): microseconds in all, and percent of the last 10, 60 and 300 seconds.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Pressure {
    pub some_total_us: u64,
    pub some_avg: [f64; 3],
    pub full_total_us: u64,
    pub full_avg: [f64; 3],
}

/// Larger than any of these files but `cgroup.procs`, of which this holds some thousand processes.
const BUFFER: usize = 16 << 10;
/// Processes whose I/O is summed for one container: what a sample costs is bounded.
const PROCESSES: usize = 256;

/// The files of one container.
pub struct CounterFiles {
    files: Vec<(Counter, Source)>,
}

enum Source {
    Open(File),
    /// Opened for each reading.
    Closed(PathBuf),
}

impl CounterFiles {
    /// Those that are there; at most `open` of them stay open.
    pub(crate) fn find(paths: Vec<(Counter, PathBuf)>, mut open: usize) -> CounterFiles {
        let mut files = Vec::with_capacity(paths.len());
        for (counter, path) in paths {
            match File::open(&path) {
                Ok(file) if open > 0 => {
                    open -= 1;
                    files.push((counter, Source::Open(file)));
                }
                Ok(_) => files.push((counter, Source::Closed(path))),
                // This host does not count it, or the container has ended.
                Err(_) => {}
            }
        }
        CounterFiles { files }
    }

    /// Descriptors that are held.
    pub fn open_files(&self) -> usize {
        self.files.iter().filter(|(_, source)| matches!(source, Source::Open(_))).count()
    }

    /// What the counters are now. `None`: the group is gone, the container has ended.
    pub fn read(&self, scratch: &mut Vec<u8>) -> Option<Counters> {
        scratch.resize(BUFFER, 0);
        let mut counters = Counters::default();
        let mut seen = false;
        for (counter, source) in &self.files {
            let read = match source {
                Source::Open(file) => file.read_at(scratch, 0),
                Source::Closed(path) => File::open(path).and_then(|file| file.read_at(scratch, 0)),
            };
            match read {
                Ok(length) if *counter == Counter::V1ProcessIo => {
                    counters.block = Some(process_io(&scratch[..length]));
                }
                Ok(length) => take(*counter, &scratch[..length], &mut counters),
                // ENODEV or ENOENT: the group is gone, and so is the container.
                Err(_) => continue,
            }
            seen = true;
        }
        seen.then_some(counters)
    }
}

/// Puts what a file says where it belongs.
fn take(counter: Counter, text: &[u8], to: &mut Counters) {
    match counter {
        Counter::V1CpuUsage => to.cpu.get_or_insert_default().usage_ns = number(text),
        Counter::V1CpuTicks => {
            const TICK_NS: u64 = 10_000_000;
            let cpu = to.cpu.get_or_insert_default();
            each(text, |key, value| match key {
                b"user" => cpu.user_ns = value.saturating_mul(TICK_NS),
                b"system" => cpu.system_ns = value.saturating_mul(TICK_NS),
                _ => {}
            });
        }
        Counter::V1CpuThrottle => {
            let cpu = to.cpu.get_or_insert_default();
            each(text, |key, value| match key {
                b"nr_periods" => cpu.periods = value,
                b"nr_throttled" => cpu.throttled_periods = value,
                b"throttled_time" => cpu.throttled_ns = value,
                _ => {}
            });
        }
        Counter::V2Cpu => {
            let cpu = to.cpu.get_or_insert_default();
            each(text, |key, value| match key {
                b"usage_usec" => cpu.usage_ns = value.saturating_mul(1000),
                b"user_usec" => cpu.user_ns = value.saturating_mul(1000),
                b"system_usec" => cpu.system_ns = value.saturating_mul(1000),
                b"nr_periods" => cpu.periods = value,
                b"nr_throttled" => cpu.throttled_periods = value,
                b"throttled_usec" => cpu.throttled_ns = value.saturating_mul(1000),
                _ => {}
            });
        }
        Counter::Memory => to.memory.get_or_insert_default().total = number(text),
        Counter::V2Swap => to.memory.get_or_insert_default().swap = number(text),
        Counter::V1MemoryParts => {
            let memory = to.memory.get_or_insert_default();
            each(text, |key, value| match key {
                b"total_rss" => memory.anonymous = value,
                b"total_cache" => memory.file = value,
                b"total_inactive_file" => memory.inactive_file = value,
                b"total_swap" => memory.swap = value,
                _ => {}
            });
        }
        Counter::V2MemoryParts => {
            let memory = to.memory.get_or_insert_default();
            each(text, |key, value| match key {
                b"anon" => memory.anonymous = value,
                b"file" => memory.file = value,
                b"inactive_file" => memory.inactive_file = value,
                _ => {}
            });
        }
        Counter::Pids => to.pids = Some(number(text)),
        Counter::V2Block => to.block = Some(block(text)),
        Counter::CpuPressure => to.cpu_pressure = pressure(text),
        Counter::MemoryPressure => to.memory_pressure = pressure(text),
        Counter::IoPressure => to.io_pressure = pressure(text),
        Counter::V1ProcessIo => {}
    }
}

#[cfg(fuzzing)]
pub(crate) fn taken(counter: Counter, text: &[u8]) -> Counters {
    let mut counters = Counters::default();
    take(counter, text, &mut counters);
    counters
}

/// The number that the text begins with; 0 where it begins with none.
fn number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0u64, |n, b| n.saturating_mul(10).saturating_add(u64::from(b - b'0')))
}

/// Lines of `key value`.
fn each(text: &[u8], mut what: impl FnMut(&[u8], u64)) {
    for line in text.split(|b| *b == b'\n') {
        if let Some(space) = line.iter().position(|b| *b == b' ') {
            what(&line[..space], number(&line[space + 1..]));
        }
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`, a line each device.
fn block(text: &[u8]) -> Block {
    let mut sum = Block::default();
    for word in text.split(|b| matches!(b, b'\n' | b' ')) {
        let Some(at) = word.iter().position(|b| *b == b'=') else { continue };
        let value = number(&word[at + 1..]);
        let to = match &word[..at] {
            b"rbytes" => &mut sum.read_bytes,
            b"wbytes" => &mut sum.written_bytes,
            b"rios" => &mut sum.reads,
            b"wios" => &mut sum.writes,
            _ => continue,
        };
        *to = to.saturating_add(value);
    }
    sum
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`. `None`: the kernel was started without.
fn pressure(text: &[u8]) -> Option<Pressure> {
    let text = std::str::from_utf8(text).ok()?;
    let mut found = Pressure::default();
    let mut some = false;
    for line in text.lines() {
        let mut words = line.split(' ');
        let (avg, total) = match words.next()? {
            "some" => (&mut found.some_avg, &mut found.some_total_us),
            "full" => (&mut found.full_avg, &mut found.full_total_us),
            _ => continue,
        };
        some = true;
        for word in words {
            match word.split_once('=')? {
                ("avg10", value) => avg[0] = value.parse().ok()?,
                ("avg60", value) => avg[1] = value.parse().ok()?,
                ("avg300", value) => avg[2] = value.parse().ok()?,
                ("total", value) => *total = value.parse().ok()?,
                _ => {}
            }
        }
    }
    some.then_some(found)
}

/// Sums what the processes and the children that they have waited for have read and written (proc_pid_io(5)).
fn process_io(list: &[u8]) -> Block {
    let mut sum = Block::default();
    let mut text = [0u8; 512];
    for pid in list.split(|b| *b == b'\n').filter(|l| !l.is_empty()).take(PROCESSES) {
        let path = format!("/proc/{}/io", number(pid));
        // It has ended meanwhile.
        let Ok(length) = File::open(path).and_then(|file| file.read_at(&mut text, 0)) else { continue };
        each(&text[..length], |key, value| match key {
            b"read_bytes:" => sum.read_bytes = sum.read_bytes.saturating_add(value),
            b"write_bytes:" => sum.written_bytes = sum.written_bytes.saturating_add(value),
            _ => {}
        });
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(files: &[(Counter, &str)]) -> Counters {
        let mut counters = Counters::default();
        for (counter, text) in files {
            take(*counter, text.as_bytes(), &mut counters);
        }
        counters
    }

    #[test]
    fn v1_files() {
        let c = taken(&[
            (Counter::V1CpuUsage, "5000000001\n"),
            (Counter::V1CpuTicks, "user 300\nsystem 200\n"),
            (Counter::V1CpuThrottle, "nr_periods 7\nnr_throttled 3\nthrottled_time 99\nnr_bursts 0\n"),
            (Counter::Memory, "1000000\n"),
            (
                Counter::V1MemoryParts,
                "cache 1\ninactive_file 5\ntotal_cache 300\ntotal_rss 600\ntotal_inactive_file 250\ntotal_swap 8\n",
            ),
            (Counter::Pids, "12\n"),
        ]);
        let cpu = c.cpu.unwrap();
        assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.system_ns), (5_000_000_001, 3_000_000_000, 2_000_000_000));
        assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled_ns), (7, 3, 99));
        let memory = c.memory.unwrap();
        assert_eq!((memory.used(), memory.anonymous, memory.file, memory.swap), (999_750, 600, 300, 8));
        assert_eq!((c.pids, c.block, c.cpu_pressure), (Some(12), None, None));
    }

    #[test]
    fn v2_files() {
        let c = taken(&[
            (
                Counter::V2Cpu,
                "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 2\nnr_throttled 1\nthrottled_usec 4\n",
            ),
            (Counter::Memory, "500\n"),
            (Counter::V2MemoryParts, "anon 100\nfile 300\nkernel 9\ninactive_anon 1\ninactive_file 200\n"),
            (Counter::V2Swap, "11\n"),
            (
                Counter::V2Block,
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n259:0 rbytes=10 wbytes=20 rios=30 wios=40\n",
            ),
            (
                Counter::MemoryPressure,
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=33\n",
            ),
        ]);
        assert_eq!(c.cpu.unwrap().usage_ns, 10_000);
        assert_eq!(c.cpu.unwrap().throttled_ns, 4000);
        assert_eq!((c.memory.unwrap().used(), c.memory.unwrap().swap), (300, 11));
        assert_eq!(c.block.unwrap(), Block { read_bytes: 11, written_bytes: 22, reads: 33, writes: 44 });
        let p = c.memory_pressure.unwrap();
        assert_eq!((p.some_total_us, p.some_avg, p.full_total_us), (77, [1.5, 0.25, 0.0], 33));
        assert_eq!(p.full_avg[0], 0.5);
    }

    #[test]
    fn odd_files_are_no_numbers_and_no_panic() {
        let c = taken(&[
            (Counter::Memory, "max\n"),
            (Counter::V2Cpu, "\nusage_usec\nusage_usec x\n = \n99999999999999999999999 1"),
            (Counter::V2Block, "8:0 rbytes= wbytes=x =5 =\n"),
            (Counter::CpuPressure, ""),
            (Counter::IoPressure, "some avg10\n"),
        ]);
        assert_eq!((c.memory.unwrap().total, c.cpu.unwrap().usage_ns, c.block), (0, 0, Some(Block::default())));
        assert_eq!((c.cpu_pressure, c.io_pressure), (None, None));
        assert_eq!(number(b"99999999999999999999999999"), u64::MAX);
    }

    #[test]
    fn my_own_files_are_read_open_and_closed() {
        let dir = std::env::temp_dir().join(format!("berth-counters-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let at = |name: &str| dir.join(name);
        std::fs::write(at("pids"), "3\n").unwrap();
        std::fs::write(at("memory"), "100\n").unwrap();
        let paths = vec![
            (Counter::Pids, at("pids")),
            (Counter::Memory, at("memory")),
            (Counter::V2Cpu, at("nothing")),
            (Counter::V1ProcessIo, at("procs")),
        ];
        std::fs::write(at("procs"), format!("{}\n4194305\n", std::process::id())).unwrap();
        let mut scratch = Vec::new();
        for open in [0, 1, 8] {
            let files = CounterFiles::find(paths.clone(), open);
            assert_eq!(files.open_files(), open.min(3));
            let counters = files.read(&mut scratch).unwrap();
            assert_eq!((counters.pids, counters.memory.unwrap().total, counters.cpu), (Some(3), 100, None));
            assert!(counters.block.is_some());
        }
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(CounterFiles::find(paths, 8).read(&mut scratch).is_none());
    }
}
