//! Limits, as the kernel has them.

use crate::harness::{Node, image, runtimes};

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

/// The machine's own disk, as the kernel numbers it.
fn disk() -> Option<(String, String)> {
    let mut disks: Vec<String> = std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| ["vd", "sd", "nvme", "xvd"].iter().any(|kind| n.starts_with(kind)))
        .collect();
    disks.sort();
    let name = disks.first()?;
    let number = std::fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
    Some((format!("/dev/{name}"), number.trim().to_owned()))
}

#[test]
fn disks_have_limits_and_keep_them_when_it_is_updated() {
    let node = Node::with_busybox("resources-disks");
    let Some((path, number)) = disk() else {
        runtimes::say("skipped: limits of disks: this machine has no disk of its own");
        return node.finish();
    };
    let (read, write) = (format!("{path}:10m"), format!("{path}:25"));
    let id = node.detached(
        &["--device-read-bps", &read, "--device-write-iops", &write, "--cpu-period", "50000", "--cpu-quota", "25000"],
        "sleep 1000",
    );
    let files = ["blkio.throttle.read_bps_device", "io.max"];
    let line = |node: &Node, id: &str| limit(node, id, &files).unwrap_or_default();
    let found = line(&node, &id);
    let v1 = format!("{number} 10485760");
    assert!(found == v1 || found == format!("{number} rbps=10485760 wbps=max riops=max wiops=25"), "{found}");
    let quota = limit(&node, &id, &["cpu.max", "cpu.cfs_quota_us"]);
    assert!(matches!(quota.as_deref(), Some("25000 50000" | "25000")), "{quota:?}");
    // Its exec is limited, too.
    let inside = node.ok(&["exec", &id, "cat", "/proc/self/cgroup"]);
    assert!(inside.lines().all(|l| !l.contains("blkio") || !l.ends_with(":/..")), "{inside}");
    node.ok(&["update", "--device-read-bps", &format!("{path}:1m"), &id]);
    assert!(line(&node, &id).contains("1048576"), "{}", line(&node, &id));
    // One without a limit takes the disk's away, and a refused one leaves the others alone.
    let refused = node.ctl(&["update", "--device-read-bps", "/dev/null:1m", "--memory", "64m", &id]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("/dev/null is no block device of this host"), "{}", refused.stderr);
    assert_eq!(node.inspect(&id)["HostConfig"]["Memory"], 0);
    node.ok(&["update", "--device-read-bps", &format!("{path}:0"), &id]);
    assert!(!line(&node, &id).contains("1048576"), "{}", line(&node, &id));
    assert_eq!(node.inspect(&id)["HostConfig"]["BlkioDevices"].as_array().map(Vec::len), Some(0));
    node.finish();
}

#[test]
fn files_of_the_group_need_v2_and_say_so() {
    let node = Node::with_busybox("resources-unified");
    let v2 = node.ok(&["info", "--format", "{{.CgroupMode}}"]) == "v2";
    for (option, value, field) in [
        ("--cgroup-conf", "cgroup.procs=0", "is no file of a controller"),
        ("--cgroup-conf", "../memory.max=0", "is no file of a controller"),
        ("--hugepages", "2XB=1m", "is no size of pages"),
        ("--device-read-bps", "/dev/null:1m", "no block device"),
        ("--blkio-weight-device", "/dev/null:5", "between 10 and 1000"),
    ] {
        let output = node.ctl(&["run", "--rm", option, value, &image("busybox"), "true"]);
        assert!(output.code != 0 && output.stderr.contains(field), "{option} {value}: {output:?}");
    }
    let operator = node.pki.identity("operator");
    let denied = ["run", "--rm", "--cgroup-conf", "memory.min=1g", &image("busybox"), "true"];
    let denied = node.ctl_as(&operator, &denied);
    assert!(denied.stderr.contains("policy.operator.cgroup_files"), "{denied:?}");
    let plain = node.detached(&[], "sleep 1000");
    let denied = node.ctl_as(&operator, &["update", "--cgroup-conf", "memory.min=1g", &plain]);
    assert!(denied.stderr.contains("policy.operator.cgroup_files"), "{denied:?}");
    let options = ["--cgroup-conf", "memory.high=67108864", "--oom-group"];
    if v2 {
        let id = node.detached(&options, "sleep 1000");
        assert_eq!(limit(&node, &id, &["memory.high"]).as_deref(), Some("67108864"));
        assert_eq!(limit(&node, &id, &["memory.oom.group"]).as_deref(), Some("1"));
        node.ok(&["update", "--cgroup-conf", "memory.high=33554432", "--oom-group=false", &id]);
        assert_eq!(limit(&node, &id, &["memory.high"]).as_deref(), Some("33554432"));
        // Room is made by that very file when the limit falls: what is asked for stays all the same.
        node.ok(&["update", "--memory", "128m", &id]);
        node.ok(&["update", "--memory", "64m", "--cgroup-conf", "memory.high=25165824", &id]);
        assert_eq!(limit(&node, &id, &["memory.high"]).as_deref(), Some("25165824"));
        assert_eq!(limit(&node, &id, &["memory.oom.group"]).as_deref(), Some("0"));
    } else {
        let output = node.ctl(&[&["run", "--rm"][..], &options, &[&image("busybox"), "true"]].concat());
        assert!(output.code != 0 && output.stderr.contains("needs a host with cgroup v2 alone"), "{output:?}");
    }
    node.finish();
}

/// A service manager or a runtime inside has groups of its own, with limits of its own, below limits that stay the agent's.
#[test]
fn a_container_may_part_its_group_when_that_is_asked() {
    let mut node = Node::with_busybox("resources-parted");
    let busybox = image("busybox");
    let option = ["--security-opt", "writable-cgroups=true"];
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let said = node.fails(125, &["run", "--rm", option[0], option[1], "--network", "none", &busybox, "true"]);
        assert!(said.contains("writable_cgroups") && said.contains("cgroup v2"), "{said}");
        return node.finish();
    }
    let script = "cd /sys/fs/cgroup; mkdir init work; echo 1 > init/cgroup.procs; echo +pids > cgroup.subtree_control; \
        echo 3 > work/pids.max; cat work/pids.max; for f in pids.max memory.max cgroup.max.depth cgroup.freeze; do \
        echo 1 2>/dev/null > $f && echo wrote $f; done; while :; do sleep 0.2; done";
    let id = node.detached(&[&option[..], &["--pids-limit", "40", "--memory", "64m"]].concat(), script);
    crate::harness::until("the group is parted", || node.ok(&["logs", &id]) == "3");
    assert_eq!(limit(&node, &id, &["pids.max"]).as_deref(), Some("40"));
    let group = node.inspect(&id)["CgroupPaths"][0].as_str().expect("a group").to_owned();
    let owner =
        |file: &str| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("{group}{file}")).expect("a file"));
    assert!(owner("") >= 65536 && owner("/cgroup.procs") == owner("") && owner("/work/pids.max") == owner(""));
    assert_eq!((owner("/pids.max"), owner("/memory.max"), owner("/cgroup.max.descendants")), (0, 0, 0));
    // The group itself takes no process any more: a new one goes beside the first.
    assert_eq!(node.ok(&["exec", &id, "cat", "/proc/self/cgroup"]), "0::/init");
    let bomb = "echo 0 > /sys/fs/cgroup/work/cgroup.procs; (for i in 1 2 3 4 5 6; do sleep 1 & done; wait) 2>&1 | grep -c fork";
    assert_ne!(node.ctl(&["exec", &id, "sh", "-c", bomb]).stdout.trim(), "0", "its own limit holds");
    assert!(node.ok(&["top", &id]).contains("sleep"), "processes of groups below are its");
    node.ok(&["pause", &id]);
    assert_eq!(node.inspect(&id)["State"]["Status"], "paused");
    node.ok(&["unpause", &id]);
    node.kill_agent();
    node.spawn();
    assert_eq!(node.ok(&["exec", &id, "cat", "/proc/self/cgroup"]), "0::/init");
    node.ok(&["restart", "-t", "0", &id]);
    node.ok(&["rm", "-f", &id]);
    // Without asking: as ever.
    assert!(node.sh(&[], "mkdir /sys/fs/cgroup/x 2>&1 || true").contains("Read-only"));
    node.finish();
}
