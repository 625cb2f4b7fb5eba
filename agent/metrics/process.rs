//! The agent's own process, as `/proc/self` shows it (proc(5)). Prometheus' usual names.

use super::page::Page;

/// Hundredths of a second, on every processor that Linux runs on (USER_HZ).
const TICK_SECONDS: f64 = 0.01;

pub fn write(page: &mut Page, started_seconds: f64, uptime_seconds: f64) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    if let Some(seconds) = cpu_seconds(&read("stat")) {
        page.counter("process_cpu_seconds", "CPU time of the agent.").one(seconds);
    }
    let status = read("status");
    for (name, help, field, scale) in [
        ("process_resident_memory_bytes", "Memory of the agent that is in RAM.", "VmRSS", 1024),
        ("process_virtual_memory_bytes", "Address space of the agent.", "VmSize", 1024),
        ("process_threads", "Threads of the agent.", "Threads", 1),
    ] {
        if let Some(n) = number(&status, field) {
            page.gauge(name, help).one(n * scale);
        }
    }
    if let Ok(folder) = std::fs::read_dir("/proc/self/fd") {
        // Without the one that reads the folder.
        page.gauge("process_open_fds", "Open descriptors of the agent.").one((folder.count() as u64).saturating_sub(1));
    }
    if let Some(most) = open_files(&read("limits")) {
        page.gauge("process_max_fds", "Descriptors that it may open.").one(most);
    }
    page.gauge("process_start_time_seconds", "When this agent began, seconds since 1970.").one(started_seconds);
    page.gauge("berth_agent_uptime_seconds", "How long this agent has been serving.").one(uptime_seconds);
}

/// `Name:  N kB`.
fn number(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15; the second one is a name that may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 * TICK_SECONDS)
}

fn open_files(limits: &str) -> Option<u64> {
    limits.lines().find_map(|l| l.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc() {
        let stat = "12 (be) rth d) S 1 12 12 0 -1 4194560 100 0 0 0 123 77 0 0 20 0 5 0 9 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds(""), None);
        let status = "Name:\tberthd\nVmSize:\t  200 kB\nVmRSS:\t   100 kB\nThreads:\t7\n";
        assert_eq!(
            (number(status, "VmRSS"), number(status, "Threads"), number(status, "Vm")),
            (Some(100), Some(7), None)
        );
        let limits = "Limit   Soft Limit   Hard Limit   Units\nMax open files            1024                 4096                 files\n";
        assert_eq!((open_files(limits), open_files("Max open files unlimited x")), (Some(1024), None));
    }
}
