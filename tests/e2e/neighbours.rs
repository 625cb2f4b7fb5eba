//! A container that takes all it can get harms neither an idle neighbour nor the agent.

use crate::harness::{Node, image};
use std::time::{Duration, Instant};

/// What the neighbour's exec may take beside an attack, on a machine where other tests run, too; idle it is some 20 ms.
const PATIENCE: Duration = Duration::from_secs(5);

/// Options and script of each attack, and what must be true of the attacker behind it.
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
        "descriptors",
        &["--ulimit", "nofile=256"],
        "n=3; while :; do eval \"exec $n</dev/null\" || n=3; n=$((n+1)); done 2>/dev/null",
    ),
    ("inodes", &["--tmpfs", "/t:size=8m"], "n=0; while :; do n=$((n+1)); : >/t/$n; done 2>/dev/null"),
    ("disk", &["-v", "small:/v"], "while :; do cat /dev/zero >/v/x; rm /v/x; done 2>/dev/null"),
    ("inodes of a disk", &["-v", "small:/v"], "n=0; while :; do n=$((n+1)); : >/v/$n || n=0; done 2>/dev/null"),
    ("folders in folders", &[], "while :; do mkdir d && cd d || sleep 1; done 2>/dev/null"),
    ("one line without end", &[], "tr '\\0' a </dev/zero"),
    ("pipes", &["--ulimit", "nofile=512"], "while :; do sleep 1000 | sleep 1000 & done 2>/dev/null"),
    ("kernel's log", &[], "while :; do echo flood >/dev/kmsg; dmesg; done 2>/dev/null"),
    ("processor", &["--cpus", "0.5"], "while :; do :; done & while :; do :; done"),
];

fn latency(node: &Node) -> Duration {
    let begun = Instant::now();
    let output = node.ctl(&["exec", "idle", "echo", "here"]);
    assert_eq!((output.code, output.stdout.trim()), (0, "here"), "{output:?}");
    begun.elapsed()
}

#[test]
fn an_idle_neighbour_is_not_harmed() {
    let node = Node::with_busybox("neighbours");
    let agent = node.pid();
    let busybox = image("busybox");
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    node.detached(&["--name", "idle"], "while :; do sleep 1; done");
    let rest = latency(&node);
    for (what, options, script) in ATTACKS {
        let arguments = [
            &[
                "run",
                "-d",
                "--name",
                "attacker",
                "--network",
                "none",
                "--log-opt",
                "max-size=64k",
                "--log-opt",
                "max-file=2",
            ],
            *options,
            &[busybox.as_str(), "sh", "-c", script],
        ]
        .concat();
        node.ok(&arguments);
        let begun = Instant::now();
        let mut worst = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(2) {
            worst = worst.max(latency(&node));
        }
        println!("{what}: exec of the neighbour at worst {worst:?}, at rest {rest:?}");
        assert!(worst < PATIENCE, "{what}: {worst:?}");
        let begun = Instant::now();
        node.ok(&["ps", "-a"]);
        node.ok(&["rm", "-f", "attacker"]);
        assert!(begun.elapsed() < 2 * PATIENCE, "{what}: the attacker's removal took {:?}", begun.elapsed());
    }
    assert_eq!(node.pid(), agent);
    let idle = node.inspect("idle");
    assert_eq!((idle["State"]["Running"].as_bool(), idle["RestartCount"].as_u64()), (Some(true), Some(0)), "{idle}");
    node.ok(&["rm", "-f", "idle"]);
    node.ok(&["volume", "rm", "small"]);
    node.finish();
}
