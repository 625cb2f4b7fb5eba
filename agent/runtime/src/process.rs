//! The processes of a container, as /proc shows them.

use crate::cgroup::{self, Cgroups};
use berth_model::{ContainerId, Timestamp};
use berth_sys::store::read_at_most;
use std::collections::BTreeSet;
use std::fs;

/// One process (proc_pid_stat(5), proc_pid_status(5)).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProcessInfo {
    /// In the host's pid namespace.
    pub pid: u32,
    pub parent_pid: u32,
    /// In its own pid namespace.
    pub inner_pid: u32,
    /// Effective, in the host's user namespace.
    pub uid: u32,
    /// R, S, D, Z, T, …
    pub state: char,
    /// The program's file, cut to 15 bytes by the kernel.
    pub command: String,
    /// As many as `ARGUMENT_BYTES` hold.
    pub arguments: Vec<String>,
    pub started: Timestamp,
    pub cpu_ns: u64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub nice: i32,
    pub threads: u32,
    /// Number of the controlling terminal; 0: none.
    pub tty: u32,
}

/// Arguments may be as long as a container likes.
pub(crate) const ARGUMENT_BYTES: usize = 1 << 10;
/// Times in /proc are in these (USER_HZ, 100 on all of berth's architectures).
const TICK_NS: u64 = 10_000_000;

/// By pid, at most `max`; true: there are more.
pub(crate) fn list(cgroups: &dyn Cgroups, id: &ContainerId, max: usize) -> (Vec<ProcessInfo>, bool) {
    // A set: the hierarchies of v1 name the same processes. One of them has them all, but a process on its way into them may be missing.
    let pids: BTreeSet<u32> = cgroups.paths(id).iter().flat_map(|group| cgroup::processes(group)).collect();
    let (now, uptime_ns) = (Timestamp::now(), uptime_ns());
    let truncated = pids.len() > max;
    let found = pids.into_iter().take(max).filter_map(|pid| look(pid, now, uptime_ns)).collect();
    (found, truncated)
}

/// Since boot, by the clock that counts a suspended host too, as start times do.
fn uptime_ns() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = text.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or_default();
    (seconds * 1e9) as u64
}

/// `None`: it has ended meanwhile.
fn look(pid: u32, now: Timestamp, uptime_ns: u64) -> Option<ProcessInfo> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let (stat, status) = (read("stat")?, read("status")?);
    let cmdline = read_at_most(format!("/proc/{pid}/cmdline"), ARGUMENT_BYTES + 1).unwrap_or_default();
    parse(&stat, &status, &cmdline, now, uptime_ns)
}

/// The files `stat`, `status` and, of that as much as is kept and a byte more, `cmdline` of one process.
pub(crate) fn parse(stat: &[u8], status: &[u8], cmdline: &[u8], now: Timestamp, uptime_ns: u64) -> Option<ProcessInfo> {
    let mut info = parse_stat(&String::from_utf8_lossy(stat), now, uptime_ns)?;
    let status = String::from_utf8_lossy(status);
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next_back());
    info.inner_pid = field("NSpid:").and_then(|p| p.parse().ok()).unwrap_or(info.pid);
    let uids = status.lines().find_map(|l| l.strip_prefix("Uid:"));
    info.uid = uids.and_then(|u| u.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default();
    info.arguments = arguments(cmdline);
    Some(info)
}

fn parse_stat(stat: &str, now: Timestamp, uptime_ns: u64) -> Option<ProcessInfo> {
    // The name may hold spaces and brackets: it ends with the last one.
    let (front, rest) = stat.rsplit_once(')')?;
    let (pid, command) = front.split_once('(')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbered from 3 in proc_pid_stat(5).
    let number = |field: usize| -> Option<i64> { fields.get(field - 3)?.parse().ok() };
    let ticks = |field: usize| number(field).map_or(0, |n| u64::try_from(n).unwrap_or_default());
    let age_ns = uptime_ns.saturating_sub(ticks(22).saturating_mul(TICK_NS));
    Some(ProcessInfo {
        pid: pid.trim().parse().ok()?,
        command: command.to_owned(),
        state: fields.first()?.chars().next()?,
        parent_pid: u32::try_from(number(4)?).ok()?,
        tty: u32::try_from(number(7)?).unwrap_or_default(),
        cpu_ns: ticks(14).saturating_add(ticks(15)).saturating_mul(TICK_NS),
        nice: i32::try_from(number(19)?).ok()?,
        threads: u32::try_from(number(20)?).ok()?,
        started: Timestamp(now.nanos().saturating_sub(i64::try_from(age_ns).unwrap_or_default())),
        virtual_bytes: ticks(23),
        resident_bytes: ticks(24).saturating_mul(berth_sys::memory::page_bytes()),
        ..ProcessInfo::default()
    })
}

/// Parted by NUL; what is longer than is kept ends with an ellipsis.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let cut = bytes.len() > ARGUMENT_BYTES;
    let bytes = bytes.get(..ARGUMENT_BYTES).unwrap_or(bytes);
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut all: Vec<String> = bytes.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    if let (true, Some(last)) = (cut, all.last_mut()) {
        last.push('…');
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let stat =
            "42 (a) b (c) S 7 42 42 34817 42 4194560 1 0 0 0 150 50 0 0 20 -5 3 0 1000 8192 25 18446744073709551615";
        let info = parse_stat(stat, Timestamp(100_000_000_000), 15_000_000_000).unwrap();
        assert_eq!((info.pid, info.parent_pid, info.command.as_str(), info.state), (42, 7, "a) b (c", 'S'));
        assert_eq!((info.cpu_ns, info.nice, info.threads, info.tty), (2_000_000_000, -5, 3, 34817));
        // Started 10 s after the boot, which was 15 s ago.
        assert_eq!((info.started, info.virtual_bytes), (Timestamp(95_000_000_000), 8192));
        assert_eq!(info.resident_bytes % 25, 0);
        for bad in ["", "1", "1 (x", "1 (x)", "x (y) S 1 2 3"] {
            assert!(parse_stat(bad, Timestamp(0), 0).is_none(), "{bad}");
        }
    }

    #[test]
    fn arguments_are_cut() {
        assert_eq!(arguments(b"sh\0-c\0\0"), ["sh", "-c", ""]);
        assert_eq!(arguments(b""), Vec::<String>::new());
        let long = arguments(&[b'x'; 5000]);
        assert_eq!(long[0].chars().count(), ARGUMENT_BYTES + 1);
    }

    #[test]
    fn i_am_there() {
        let me = look(std::process::id(), Timestamp::now(), uptime_ns()).unwrap();
        assert_eq!(me.pid, std::process::id());
        assert!(me.threads > 0 && me.resident_bytes > 0 && me.started < Timestamp::now() && !me.arguments.is_empty());
    }
}
