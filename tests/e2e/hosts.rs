//! What is measured, copied, frozen and freed on many hosts at once: answers by host, and exit codes that say how many failed.

use crate::ctl::{Fleet, fleet};
use crate::harness::agent::Output;
use crate::harness::image;

/// Both hosts of the group have answered, each under its name; nobody else has.
#[track_caller]
fn by_host(output: &Output, text: &str) {
    assert_eq!(output.code, 0, "{output:?}");
    for host in ["n0", "n1"] {
        assert!(text.lines().any(|l| l.contains(host)), "{host}: {output:?}");
    }
    assert!(!text.contains("n2"), "{output:?}");
}

/// Fails on one of two hosts, and on all: the others' answers come all the same.
#[track_caller]
fn codes(fleet: &Fleet, verb: &[&str]) {
    let one_dead = fleet.ctl(&[&["-g", "broken", "--deadline", "20s"], verb].concat());
    assert_eq!(one_dead.code, 3, "{verb:?}: {one_dead:?}");
    assert!(one_dead.stderr.contains("1 of 2 hosts failed") && one_dead.stderr.contains("dead"), "{one_dead:?}");
    let all_dead = fleet.ctl(&[&["-H", "dead,127.0.0.1:11", "--deadline", "20s"], verb].concat());
    assert_eq!(all_dead.code, 4, "{verb:?}: {all_dead:?}");
    assert_eq!(all_dead.stdout.lines().filter(|l| l.contains("dead")).count(), 0, "{all_dead:?}");
}

fn started(name: &str) -> Fleet {
    let fleet = fleet(name);
    let busybox = image("busybox");
    let run = ["-g", "first", "run", "-d", "--name", "web", "--network", "none", &busybox, "sleep", "1000"];
    let output = fleet.ctl(&run);
    by_host(&output, &output.stdout);
    fleet
}

#[test]
fn measured_and_frozen() {
    let fleet = started("hosts-measured");
    let stats = fleet.ctl(&["-g", "first", "stats", "--no-stream"]);
    by_host(&stats, &stats.stdout);
    assert_eq!(stats.stdout.lines().filter(|l| l.contains("web")).count(), 2, "{stats:?}");
    let stats = fleet.ctl(&["-g", "first", "stats", "--no-stream", "-o", "json"]);
    by_host(&stats, &stats.stdout);
    codes(&fleet, &["stats", "--no-stream"]);
    let pids = fleet.ctl(&["-g", "broken", "--deadline", "20s", "stats", "--no-stream"]);
    assert!(pids.stdout.lines().any(|l| l.contains("n0") && l.contains("web")), "{pids:?}");
    for (verb, state) in [("pause", "paused"), ("unpause", "running")] {
        let output = fleet.ctl(&["-g", "first", verb, "web"]);
        by_host(&output, &output.stdout);
        for node in &fleet.nodes[..2] {
            assert_eq!(node.inspect("web")["State"]["Status"], state, "{verb}");
        }
        let some = fleet.ctl(&["-H", "n2,n0", verb, "nobody"]);
        assert_eq!(some.code, 4, "{some:?}");
    }
    let some = fleet.ctl(&["-H", "n2,n0", "pause", "web"]);
    assert_eq!(some.code, 3, "n2 has none: {some:?}");
    codes(&fleet, &["unpause", "web"]);
    fleet.finish();
}

#[test]
fn networks_of_many_hosts() {
    let fleet = started("hosts-networks");
    let made = fleet.ctl(&["-g", "first", "network", "create", "--label", "tier=front", "front"]);
    by_host(&made, &made.stdout);
    // On one that has it already it is said, on the other it is made.
    let again = fleet.ctl(&["-H", "n1,n2", "network", "create", "front"]);
    assert!(again.code == 3 && again.stderr.contains("n1") && again.stderr.contains("another network's"), "{again:?}");
    assert_eq!(fleet.nodes[2].ok(&["network", "rm", "front"]), "front");
    let listed = fleet.ctl(&["-g", "first", "network", "ls", "-f", "label=tier=front"]);
    by_host(&listed, &listed.stdout);
    assert_eq!(listed.stdout.matches("front").count(), 2, "{listed:?}");
    let shown = fleet.ctl(&["-g", "first", "network", "inspect", "front"]);
    by_host(&shown, &shown.stdout);
    let some = fleet.ctl(&["-H", "n2,n0", "network", "inspect", "front"]);
    assert_eq!(some.code, 3, "n2 has none: {some:?}");
    codes(&fleet, &["network", "ls"]);
    let busybox = image("busybox");
    let run = ["-g", "first", "run", "-d", "--name", "box", &busybox, "sleep", "1000"];
    assert_eq!(fleet.ctl(&run).code, 0);
    let joined = fleet.ctl(&["-g", "first", "network", "connect", "--alias", "db", "front", "box"]);
    assert_eq!(joined.code, 0, "{joined:?}");
    for node in &fleet.nodes[..2] {
        assert_eq!(crate::networks::interfaces(node, "box"), ["eth0", "eth1"]);
    }
    let used = fleet.ctl(&["-g", "first", "network", "rm", "front"]);
    assert!(used.code == 4 && used.stderr.matches("in use by box").count() == 2, "{used:?}");
    let left = fleet.ctl(&["-g", "first", "network", "disconnect", "front", "box"]);
    assert_eq!(left.code, 0, "{left:?}");
    let told = fleet.ctl(&["-g", "first", "network", "prune", "-f"]);
    by_host(&told, &told.stdout);
    let gone = fleet.ctl(&["-g", "first", "network", "ls", "-q", "-f", "name=front"]);
    assert!(gone.code == 0 && !gone.stdout.contains("front"), "{gone:?}");
    codes(&fleet, &["network", "prune", "-f"]);
    fleet.finish();
}

#[test]
fn copied_and_freed() {
    let fleet = started("hosts-copied");
    let file = fleet.nodes[0].scratch().join("file");
    std::fs::write(&file, "for all").expect("file");
    let file = file.display().to_string();
    let copied = fleet.ctl(&["-g", "first", "cp", &file, "web:/new"]);
    by_host(&copied, &copied.stderr);
    assert_eq!(copied.stderr.matches("Successfully copied").count(), 2, "{copied:?}");
    for node in &fleet.nodes[..2] {
        assert_eq!(node.ok(&["exec", "web", "cat", "/new"]), "for all");
    }
    let some = fleet.ctl(&["-H", "n1,n2", "cp", &file, "web:/again"]);
    assert_eq!((some.code, some.stderr.contains("n2")), (3, true), "{some:?}");
    assert_eq!(fleet.nodes[1].ok(&["exec", "web", "cat", "/again"]), "for all");
    let out = fleet.ctl(&["-g", "first", "cp", "web:/new", &file]);
    assert!(out.code == 125 && out.stderr.contains("one host"), "{out:?}");
    let used = fleet.ctl(&["-g", "first", "system", "df"]);
    by_host(&used, &used.stdout);
    codes(&fleet, &["system", "df"]);
    let busybox = image("busybox");
    let made = fleet.ctl(&["--all", "--deadline", "30s", "create", "--name", "old", "--network", "none", &busybox]);
    assert_eq!(made.code, 3, "all but the dead one: {made:?}");
    let told = fleet.ctl(&["-g", "first", "container", "prune", "--dry-run"]);
    by_host(&told, &told.stdout);
    assert_eq!(told.stdout.matches("would remove container old").count(), 2, "{told:?}");
    let gone = fleet.ctl(&["-g", "first", "system", "prune", "-f"]);
    by_host(&gone, &gone.stdout);
    let left: Vec<String> = fleet.nodes.iter().map(|n| n.ok(&["ps", "-a", "-o", "name"])).collect();
    assert_eq!(left, ["web", "web", "old"], "{gone:?}");
    codes(&fleet, &["container", "prune", "-f"]);
    fleet.finish();
}
