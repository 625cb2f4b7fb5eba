//! Doors for the fuzz targets: what the kernel shows of containers, what other runtimes say, and files that containers write.

use crate::cgroup::hierarchies_in;
use crate::counters::{Counter, taken};
use crate::files::{peers_replaced, resolv_conf, with_peers};
use crate::foreign::{first_line, last_error_of, words};
use crate::process::{ARGUMENT_BYTES, parse};
use berth_model::{ContainerSpec, Timestamp};

/// Files of /proc and of cgroups.
pub fn kernel(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    of_a_process(bytes);
    for hierarchy in hierarchies_in(&text) {
        assert!(!hierarchy.v2 || hierarchy.controllers.is_empty());
        assert!(hierarchy.controllers.iter().all(|c| hierarchy.options.split(',').any(|o| o == c)));
    }
    for counter in Counter::ALL {
        let found = taken(counter, bytes);
        assert!(found.memory.is_none_or(|m| m.used() <= m.total));
        for pressure in [found.cpu_pressure, found.memory_pressure, found.io_pressure].into_iter().flatten() {
            // They go into JSON and to Prometheus, which have no other numbers.
            assert!(pressure.some_avg.iter().chain(&pressure.full_avg).all(|n| n.is_finite()), "{pressure:?}");
        }
    }
    let spec = ContainerSpec::default();
    for own_network in [false, true] {
        let made = resolv_conf(&spec, &text, own_network, &[]);
        let count = |key: &str| made.lines().filter(|l| l.split(' ').next() == Some(key)).count();
        assert!(count("nameserver") <= 3 && count("search") <= 1 && count("options") <= 1, "{made:?}");
        assert_eq!(made.lines().count(), count("nameserver") + count("search") + count("options"), "{made:?}");
        let loopback = made.lines().any(|l| l.starts_with("nameserver 127."));
        assert!(!own_network || !loopback, "a resolver that cannot be reached");
    }
}

/// A process gives itself its name and its arguments: it can say nothing else by them.
fn of_a_process(bytes: &[u8]) {
    let (now, uptime_ns) = (Timestamp(100_000_000_000), 15_000_000_000);
    let cmdline = &bytes[..bytes.len().min(ARGUMENT_BYTES + 1)];
    if let Some(info) = parse(bytes, bytes, cmdline, now, uptime_ns) {
        assert!(info.started <= now && info.command.len() <= 3 * bytes.len());
        assert!(info.arguments.iter().map(String::len).sum::<usize>() <= 3 * ARGUMENT_BYTES + 3);
    }
    // As the kernel writes it: 15 bytes, in `status` without line ends (proc_pid_status(5)).
    let name: Vec<u8> = bytes.iter().copied().filter(|b| !matches!(b, 0 | b'\n')).take(15).collect();
    let (behind, rest) =
        (b") S 7 42 42 34817 42 0 1 0 0 0 150 50 0 0 20 -5 3 0 1000 8192 25 0", b"\nUid:\t1\t2\t3\t4\nNSpid:\t42\t9\n");
    let stat = [b"42 (", &name[..], behind].concat();
    let status = [b"Name:\t", &name[..], rest].concat();
    let info = parse(&stat, &status, cmdline, now, uptime_ns).expect("a process");
    assert_eq!(info.command, String::from_utf8_lossy(&name));
    let read = (info.pid, info.parent_pid, info.inner_pid, info.uid, info.state, info.nice, info.threads, info.tty);
    assert_eq!(read, (42, 7, 9, 2, 'S', -5, 3, 34817));
    assert_eq!(info.started, Timestamp(95_000_000_000));
}

/// Logs and versions of other runtimes: words that a person can read, and not many.
pub fn runtimes(bytes: &[u8]) {
    let said = words(&last_error_of(bytes).unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned()));
    for line in [said, first_line(bytes)] {
        assert!(line.chars().count() <= 1000 && !line.chars().any(char::is_control), "{line:?}");
    }
}

/// A container's /etc/hosts, which it can write to: what others are called goes between the marks and nowhere else.
pub fn hosts(bytes: &[u8]) {
    const PEERS: &str = "192.0.2.2\ta b\n";
    if let Some((from, rest)) = peers_replaced(bytes, PEERS) {
        let changed = [&bytes[..from], &rest[..]].concat();
        let kept = changed.len() - PEERS.len();
        assert!(kept <= bytes.len() && rest.starts_with(PEERS.as_bytes()));
        assert!(bytes.ends_with(&rest[PEERS.len()..]), "a line of the container's is gone");
        assert_eq!(peers_replaced(&changed, PEERS), None, "it is not found again");
    }
    let whole = with_peers(String::from_utf8_lossy(bytes).into_owned(), "");
    let (from, rest) = peers_replaced(whole.as_bytes(), PEERS).expect("marks that were just made");
    assert!(from <= whole.len() && rest.starts_with(PEERS.as_bytes()));
}
