//! Limits, as the kernel has them.

use crate::harness::{Node, image};

fn limit(node: &Node, container: &str, files: &[&str]) -> Option<String> {
    let inspect = node.inspect(container);
    let paths: Vec<String> = inspect["CgroupPaths"]
        .as_array()
        .expect("cgroupPaths")
        .iter()
        .filter_map(|p| p.as_str().map(str::to_owned))
        .collect();
    paths
        .iter()
        .find_map(|path| files.iter().find_map(|file| std::fs::read_to_string(format!("{path}/{file}")).ok()))
        .map(|t| t.trim().to_owned())
}

#[test]
fn memory_cpu_and_pids_reach_the_cgroups() {
    let node = Node::with_busybox("resources-limits");
    let options = [
        "--memory",
        "128m",
        "--memory-reservation",
        "64m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--pids-limit",
        "77",
        "--cpuset-cpus",
        "0",
    ];
    let id = node.detached(&options, "while :; do sleep 1; done");
    assert_eq!(limit(&node, &id, &["memory.max", "memory.limit_in_bytes"]).as_deref(), Some("134217728"));
    assert_eq!(limit(&node, &id, &["memory.low", "memory.soft_limit_in_bytes"]).as_deref(), Some("67108864"));
    assert_eq!(limit(&node, &id, &["pids.max"]).as_deref(), Some("77"));
    assert_eq!(
        limit(&node, &id, &["cpu.max", "cpu.cfs_quota_us"]).map(|t| t.replace(" 100000", "")).as_deref(),
        Some("50000")
    );
    assert!(
        matches!(limit(&node, &id, &["cpu.weight", "cpu.shares"]).as_deref(), Some("512" | "20" | "59")),
        "{:?}",
        limit(&node, &id, &["cpu.weight", "cpu.shares"])
    );
    assert_eq!(limit(&node, &id, &["cpuset.cpus"]).as_deref(), Some("0"));
    assert_eq!(node.ok(&["exec", &id, "nproc"]), "1", "an exec is in the same cgroup");
    node.finish();
}

#[test]
fn the_first_instruction_is_limited_already() {
    let node = Node::with_busybox("resources-first");
    // A fork bomb that starts at once meets the limit, and the container ends with the rest of the world alive.
    let output = node.sh_output(
        &["--pids-limit", "16"],
        "for i in $(seq 50); do sleep 5 & done 2>&1 | grep -c fork || true; exit 0",
    );
    assert!(output.stdout.contains('1') || output.stderr.contains("fork"), "{output:?}");
    node.finish();
}

#[test]
fn an_oom_kill_is_reported_as_such() {
    let node = Node::with_busybox("resources-oom");
    let id = node.detached(&["--memory", "16m", "--memory-swap", "16m"], "head -c 200m /dev/zero | tail");
    node.ok(&["wait", &id]);
    let exit = &node.inspect(&id)["State"];
    assert_eq!(exit["OOMKilled"], true, "{exit}");
    let events = node.ok(&["events", "--since", "1h", "--until", "0s", "-o", "json"]);
    assert!(events.lines().any(|l| l.contains("\"oom\"") && l.contains(&id)), "{events}");
    let quiet = node.detached(&["--memory", "16m"], "exit 137");
    node.ok(&["wait", &quiet]);
    assert_ne!(node.inspect(&quiet)["State"]["OOMKilled"], true, "137 alone is no proof");
    node.finish();
}

#[test]
fn a_stop_reaches_every_process_of_the_cgroup() {
    let node = Node::with_busybox("resources-stop");
    let script = "trap '' TERM; for i in 1 2 3; do (trap '' TERM; setsid sleep 1000) & done; while :; do sleep 1; done";
    let id = node.detached(&["--pid", "host"], script);
    node.ok(&["stop", "-t", "0", &id]);
    assert_eq!(node.ok(&["wait", &id]), "137");
    node.finish();
}

#[test]
fn images_users_and_defaults_are_in_inspect() {
    let node = Node::start("resources-inspect");
    let users = image("users");
    let id = node.ok(&["create", "--network", "none", &users]);
    let inspect = node.inspect(&id);
    assert_eq!(inspect["Config"]["User"], "app", "{inspect}");
    assert_eq!(inspect["Config"]["WorkingDir"], "/srv/app");
    assert_eq!(inspect["Config"]["StopSignal"], "SIGUSR1");
    assert_eq!((&inspect["Path"], &inspect["Args"]), (&"/entry".into(), &serde_json::json!(["id"])));
    node.finish();
}
