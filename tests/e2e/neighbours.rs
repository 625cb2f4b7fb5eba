//! A container that takes all it can get harms neither an idle neighbour nor the agent.

use crate::escapes::program;
use crate::harness::{Node, image, until};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the neighbour's exec may take beside an attack, on a machine where other tests run, too; idle it is some 20 ms.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often as long as at rest, or as this, the neighbour's own work may take at the median and at worst: no measure of speed, but of who gets nothing.
const STARVED: u32 = 50;
const AT_REST_AT_LEAST: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// What all attacks together may add to the agent's memory.
const MORE_MEMORY_KIB: u64 = 64 << 10;

/// Makes /t/berth-fault, a program of x86-64 that writes where nothing is: the kernel says so in its log.
macro_rules! fault {
    () => {
        concat!(
            "printf '",
            r"\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\76\0\1\0\0\0\170\0\100\0\0\0\0\0\100\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\100\000",
            r"\70\0\1\0\0\0\0\0\0\0\1\0\0\0\5\0\0\0\0\0\0\0\0\0\0\0\0\0\100\0\0\0\0\0\0\0\100\0\0\0\0\0\174\0\0\0\0\0\0\0\174\0\0\0",
            r"\0\0\0\0\0\20\0\0\0\0\0\000\61\300\211\0",
            "' >/t/berth-fault; chmod +x /t/berth-fault; "
        )
    };
}

const SMALL: &[&str] = &["--storage-opt", "size=16m"];

/// Name, options and script of each attack.
const ATTACKS: &[(&str, &[&str], &str)] = &[
    ("forks", &["--pids-limit", "64"], "f() { f | f & }; while :; do f; done 2>/dev/null"),
    ("memory", &["--memory", "64m", "--memory-swap", "64m"], "while :; do tail /dev/zero >/dev/null 2>&1; done"),
    (
        "shm",
        &["--memory", "64m", "--memory-swap", "64m", "--shm-size", "1g"],
        "while :; do cat /dev/zero >/dev/shm/x; done 2>/dev/null",
    ),
    (
        "log",
        &[],
        "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done",
    ),
    (
        DESCRIPTORS,
        &["--ulimit", "nofile=256:256", "--pids-limit", "32", "--tmpfs", "/t"],
        "cd /t; for n in $(seq 300); do : >$n; done; while :; do tail -f * >/dev/null 2>&1 & sleep 0.1; done 2>/dev/null",
    ),
    ("inodes", &["--tmpfs", "/t:size=8m"], "n=0; while :; do n=$((n+1)); : >/t/$n; done 2>/dev/null"),
    ("disk", &["-v", "small:/v"], "while :; do cat /dev/zero >/v/x; rm /v/x; done 2>/dev/null"),
    ("inodes of a disk", &["-v", "small:/v"], "n=0; while :; do n=$((n+1)); : >/v/$n || n=0; done 2>/dev/null"),
    ("own disk", SMALL, "while :; do cat /dev/zero >/x; rm /x; done 2>/dev/null"),
    ("inodes of its own disk", SMALL, "n=0; while :; do n=$((n+1)); : >/$n || n=0; done 2>/dev/null"),
    ("own disk by its hosts file", SMALL, "while :; do cat /dev/zero >/etc/hosts; done 2>/dev/null"),
    ("folders in folders", &[], "while :; do mkdir d && cd d || sleep 1; done 2>/dev/null"),
    ("one line without end", &[], "tr '\\0' a </dev/zero"),
    ("pipes", &["--ulimit", "nofile=512"], "while :; do sleep 1000 | sleep 1000 & done 2>/dev/null"),
    ("kernel's log, which is none of its", &[], "while :; do echo berth-flood >/dev/kmsg; dmesg; done 2>/dev/null"),
    // A line of the level debug goes to no console.
    (
        FLOOD,
        &["--userns", "host", "--device", "/dev/kmsg"],
        "while :; do echo '<7>berth-flood' >/dev/kmsg; done 2>/dev/null",
    ),
    (FAULTS, &["--tmpfs", "/t:exec"], concat!(fault!(), "while :; do /t/berth-fault; done 2>/dev/null")),
    ("processor", &["--cpus", "0.5"], "while :; do :; done & while :; do :; done"),
    // 4096 processes, all descriptors that one may have, a full log, and all time of the processor that there is.
    (
        DEFAULTS,
        &[],
        "cd /tmp; for n in $(seq 2000); do : >$n; done; (tail -f * >/dev/null 2>&1 &); (while :; do dmesg; done 2>/dev/null &); \
         (while :; do :; done &); while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; sleep 1000 & done 2>/dev/null",
    ),
];

/// With nothing said of limits and logs.
const DEFAULTS: &str = "all of these with default options";

const DESCRIPTORS: &str = "descriptors";
const FLOOD: &str = "kernel's log through its device";
const FAULTS: &str = "kernel's log of faults";

/// What the host's kernel logs from now on.
struct KernelLog(Option<File>);

impl KernelLog {
    fn open() -> KernelLog {
        const O_NONBLOCK: i32 = 0o4000;
        let mut file = File::options().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg").ok();
        if file.as_mut().is_some_and(|f| f.seek(SeekFrom::End(0)).is_err()) {
            file = None;
        }
        KernelLog(file)
    }

    /// Lines with this word; None: nobody may read it here.
    fn count(&mut self, word: &str) -> Option<usize> {
        const EPIPE: i32 = 32;
        let (mut record, mut found) = ([0; 8192], 0);
        loop {
            // A record each. EPIPE: some were overwritten before they were read.
            match self.0.as_mut()?.read(&mut record) {
                Ok(n) => found += usize::from(String::from_utf8_lossy(&record[..n]).contains(word)),
                Err(e) if e.raw_os_error() == Some(EPIPE) => {}
                Err(_) => return Some(found),
            }
        }
    }
}

/// The most descriptors that a process of the container has.
fn most_descriptors(node: &Node, container: &str) -> usize {
    let inspect = node.inspect(container);
    let group = inspect["CgroupPaths"][0].as_str().expect("a group").to_owned();
    let pids = std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default();
    let count = |pid: &str| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    pids.lines().map(count).max().unwrap_or(0)
}

/// That the attack is one: what it goes for is taken, or written.
fn sees(node: &Node, what: &str, log: &mut KernelLog) {
    let mut written = |word: &str| match log.count(word) {
        None => println!("{what}: nobody may read the kernel's log here"),
        Some(count) => {
            println!("{what}: {count} lines");
            assert!(count > 20, "{what}: only {count} lines in the kernel's log");
        }
    };
    match what {
        DESCRIPTORS => {
            let most = most_descriptors(node, "attacker");
            assert!((250..=256).contains(&most), "{what}: {most} of 256 descriptors are taken");
        }
        FLOOD => written("berth-flood"),
        FAULTS => {
            let traced = std::fs::read_to_string("/proc/sys/debug/exception-trace").is_ok_and(|t| t.trim() == "1");
            match cfg!(target_arch = "x86_64") && traced {
                // The kernel says some in five seconds, and how many it has left out.
                true => assert!(log.count("berth-fault").is_none_or(|n| n > 0), "{what}: the kernel has seen none"),
                false => println!("{what}: this kernel says nothing of them"),
            }
        }
        _ => {}
    }
}

/// Since the boot, as the neighbour's records have it.
fn since_boot() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").expect("uptime");
    text.split(' ').next().and_then(|t| t.parse().ok()).expect("a number")
}

/// What the neighbour's own work took, at the median and at worst, in a time; and how often it was done.
fn work(records: &Path, from: f64, to: f64) -> (u32, [Duration; 2]) {
    let text = std::fs::read_to_string(records).expect("records");
    let of = |line: &str| {
        let words: Vec<f64> = line.split(' ').filter_map(|w| w.parse().ok()).collect();
        <[f64; 4]>::try_from(words).ok().filter(|[at, ..]| (from..=to).contains(at))
    };
    let (mut times, mut medians, mut worst) = (0.0, Vec::new(), 0.0f64);
    for [_, n, median, at_worst] in text.lines().filter_map(of) {
        times += n;
        medians.push(median);
        worst = worst.max(at_worst);
    }
    medians.sort_by(f64::total_cmp);
    let median = medians.get(medians.len() / 2).copied().unwrap_or(f64::from(u32::MAX));
    (times as u32, [median, worst].map(|us| Duration::from_secs_f64(us / 1e6)))
}

/// The agent's memory, in KiB: `VmRSS` now, `VmHWM` at most (proc_pid_status(5)).
fn memory(node: &Node, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status");
    let value = status.lines().find_map(|l| l.strip_prefix(what)?.strip_prefix(':')).expect("a value");
    value.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn latency(node: &Node) -> Duration {
    let begun = Instant::now();
    let output = node.ctl(&["exec", "idle", "echo", "here"]);
    assert_eq!((output.code, output.stdout.trim()), (0, "here"), "{output:?}");
    begun.elapsed()
}

fn processes(node: &Node) -> usize {
    let attacker = node.inspect("attacker");
    let group = attacker["CgroupPaths"][0].as_str().expect("a group");
    std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default().lines().count()
}

#[test]
fn an_idle_neighbour_is_not_harmed() {
    let node = Node::with_busybox("neighbours");
    let agent = node.pid();
    let busybox = image("busybox");
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    let (records, program) = (node.scratch().join("records"), format!("{}:/escape:ro", program().display()));
    std::fs::create_dir_all(&records).expect("records");
    let share = format!("{}:/records", records.display());
    node.detached(&["--name", "idle", "-v", &share, "-v", &program], "exec /escape beat >/records/beats");
    let records = records.join("beats");
    let begun = since_boot();
    std::thread::sleep(Duration::from_secs(2));
    let (times, own_rest) = work(&records, begun, since_boot());
    assert!(times > 20, "the neighbour does not work: {times}");
    println!("at rest: the neighbour's own work {own_rest:?} (median, worst), {times} times in 2 s");
    let (rest, memory_at_rest) = (latency(&node), memory(&node, "VmRSS"));
    for (what, options, script) in ATTACKS {
        let logs: &[&str] =
            if *what == DEFAULTS { &[] } else { &["--log-opt", "max-size=64k", "--log-opt", "max-file=2"] };
        let arguments = [
            &["run", "-d", "--name", "attacker", "--network", "none"],
            logs,
            *options,
            &[busybox.as_str(), "sh", "-c", script],
        ]
        .concat();
        let mut log = KernelLog::open();
        node.ok(&arguments);
        if *what == DEFAULTS {
            until("it attacks", || processes(&node) > 100);
        }
        let (begun, from) = (Instant::now(), since_boot());
        let mut worst = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(2) {
            worst = worst.max(latency(&node));
        }
        sees(&node, what, &mut log);
        println!("{what}: exec of the neighbour at worst {worst:?}, at rest {rest:?}");
        assert!(worst < PATIENCE, "{what}: {worst:?}");
        // A record is written when its quarter of a second is over.
        std::thread::sleep(Duration::from_millis(600));
        let (times, own) = work(&records, from, since_boot());
        println!("{what}: the neighbour's own work {own:?} (median, worst), {times} times");
        for ((own, rest), least) in own.into_iter().zip(own_rest).zip(AT_REST_AT_LEAST) {
            assert!(own < STARVED * rest.max(least), "{what}: {own:?}, at rest {rest:?}");
        }
        let begun = Instant::now();
        node.ok(&["ps", "-a"]);
        node.ok(&["rm", "-f", "attacker"]);
        assert!(begun.elapsed() < 2 * PATIENCE, "{what}: the attacker's removal took {:?}", begun.elapsed());
    }
    assert_eq!(node.pid(), agent);
    let most = memory(&node, "VmHWM");
    println!("the agent's memory: {memory_at_rest} KiB at rest, {most} KiB at most");
    assert!(most < memory_at_rest + MORE_MEMORY_KIB, "the agent has taken {most} KiB, at rest {memory_at_rest}");
    let idle = node.inspect("idle");
    assert_eq!((idle["State"]["Running"].as_bool(), idle["RestartCount"].as_u64()), (Some(true), Some(0)), "{idle}");
    node.ok(&["rm", "-f", "idle"]);
    node.ok(&["volume", "rm", "small"]);
    node.finish();
}
