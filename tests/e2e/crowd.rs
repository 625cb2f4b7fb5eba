//! Many containers with a health check each. BERTH_TEST_CROWD says how many (40); figures are printed (cargo nextest run --no-capture).

use crate::harness::{LONG, Node, image, until};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Looks per second that are asked for.
const RATE: u64 = 20;
/// Of a check that is under way: its shim, the shell, and what the shell is just making.
const MOST: usize = 64 * 3;
/// Starts at once.
const CALLERS: usize = 4;

/// Seconds on a processor (proc_pid_stat(5), in 1/100 s): of the agent itself, and with the shims of checks that it has reaped.
fn processor(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<f64> =
        stat.rsplit(") ").next().expect("fields").split(' ').map(|f| f.parse().unwrap_or(0.0)).collect();
    let own = (fields[11] + fields[12]) / 100.0;
    (own, own + (fields[13] + fields[14]) / 100.0)
}

/// Probes of this agent that run just now: processes in the groups `probe` below its parent's.
fn probes(node: &Node) -> usize {
    let parent = format!("/{}/", node.slot.cgroup_parent());
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let groups = entries.filter_map(|e| std::fs::read_to_string(e.path().join("cgroup")).ok());
    groups.filter(|text| text.lines().any(|l| l.contains(&parent) && l.ends_with("/probe"))).count()
}

/// When each container was looked at last.
fn looked(node: &Node, ids: &[String]) -> Vec<String> {
    let list: Vec<&str> = ["inspect", "-o", "json"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    let all: Value = serde_json::from_str(&node.ok(&list)).expect("JSON");
    let last = |c: &Value| {
        let log = c["State"]["Health"]["Log"].as_array().cloned().unwrap_or_default();
        assert!(log.iter().all(|entry| entry["ExitCode"] == 0), "a check has failed: {log:?}");
        log.last().map(|entry| entry["End"].as_str().expect("time").to_owned()).unwrap_or_default()
    };
    all.as_array().expect("list").iter().map(last).collect()
}

#[test]
fn every_one_of_many_is_looked_at() {
    let count = crate::harness::size("BERTH_TEST_CROWD", 40);
    let mut node = Node::with_busybox("crowd");
    let busybox = image("busybox");
    let interval = format!("{}s", count / RATE + 3);
    let create = || {
        node.ok(&[
            "run",
            "-d",
            "--network",
            "none",
            "--health-cmd",
            "true",
            "--health-interval",
            &interval,
            "--health-timeout",
            "60s",
            &busybox,
            "sleep",
            "100000",
        ])
    };
    let begun = Instant::now();
    let mut ids: Vec<String> = std::thread::scope(|scope| {
        let share = |n: usize| (count as usize + n) / CALLERS;
        let callers: Vec<_> =
            (0..CALLERS).map(|n| scope.spawn(move || (0..share(n)).map(|_| create()).collect::<Vec<_>>())).collect();
        callers.into_iter().flat_map(|c| c.join().expect("caller")).collect()
    });
    ids.sort();
    let started = begun.elapsed();
    let healthy = |node: &Node| node.ok(&["ps", "-q", "--filter", "health=healthy"]).lines().count();
    let patience = LONG * (1 + count as u32 / 100);
    let all_healthy = |node: &Node, what: &str| {
        let begun = Instant::now();
        while healthy(node) < ids.len() {
            assert!(begun.elapsed() < patience, "{what}: {} of {} are healthy", healthy(node), ids.len());
            std::thread::sleep(Duration::from_millis(200));
        }
        begun.elapsed()
    };
    all_healthy(&node, "started");
    // For some intervals: each one is looked at, again and again, and never many at once.
    let (agent, mut before) = (node.pid(), looked(&node, &ids));
    let (rounds, begun, at_first) = (3, Instant::now(), processor(agent));
    let (mut most, mut longest) = (0, Duration::ZERO);
    for _ in 0..rounds {
        let round = Instant::now();
        loop {
            for _ in 0..10 {
                most = most.max(probes(&node));
                std::thread::sleep(Duration::from_millis(50));
            }
            let now = looked(&node, &ids);
            if now.iter().zip(&before).all(|(now, before)| now > before) {
                before = now;
                break;
            }
            assert!(round.elapsed() < patience, "some are not looked at any more");
        }
        longest = longest.max(round.elapsed());
    }
    let (seconds, at_last) = (begun.elapsed().as_secs_f64(), processor(agent));
    let share = |first: f64, last: f64| (last - first) / seconds * 100.0;
    eprintln!(
        "crowd: {} containers started in {started:.1?}; looked at every {interval}, all within {longest:.1?}; at most {most} processes of checks at once; \
         the agent {:.1} % of a processor, with its checks' shims {:.1} %",
        ids.len(),
        share(at_first.0, at_last.0),
        share(at_first.1, at_last.1),
    );
    assert!(most <= MOST, "{most} processes of checks at once");
    // A new agent takes all of them up without looking at all of them at once.
    node.restart();
    let before = looked(&node, &ids);
    let mut most = 0;
    until("all are looked at by the new agent", || {
        most = most.max(probes(&node));
        looked(&node, &ids).iter().zip(&before).all(|(now, before)| now > before)
    });
    assert!(most <= MOST, "{most} processes of checks at once");
    assert_eq!(healthy(&node), ids.len());
    // And all of them stop.
    let begun = Instant::now();
    for some in ids.chunks(50) {
        let some: Vec<&str> = ["stop", "-t", "0"].into_iter().chain(some.iter().map(String::as_str)).collect();
        node.ok(&some);
    }
    eprintln!("crowd: all stopped in {:.1?}", begun.elapsed());
    assert_eq!(node.ok(&["ps", "-q"]), "");
    until("no check is left", || probes(&node) == 0);
    node.finish();
}
