//! `containers.cgroup_driver`: what is said where systemd cannot make cgroups. What it does where it can is in tests/vm-scopes.sh.

use crate::harness::agent::run;
use crate::harness::{Node, image};
use std::path::Path;
use std::process::Command;

/// Has the next agent use systemd.
fn with_systemd(node: &Node) {
    let file = node.dir.join("berthd.toml");
    let text = std::fs::read_to_string(&file).expect("berthd.toml");
    let own = format!("cgroup_parent = \"{}\"", node.slot.cgroup_parent());
    assert!(text.contains(&own), "{text}");
    std::fs::write(&file, text.replace(&own, "cgroup_driver = \"systemd\"")).expect("berthd.toml");
}

#[test]
fn a_host_without_it_says_so() {
    let mut node = Node::with_busybox("driver-systemd");
    let v2 = node.ok(&["info", "--format", "{{.CgroupMode}} {{.CgroupDriver}}"]) == "v2 cgroupfs";
    node.detached(&["--name", "before"], "while :; do sleep 1; done");
    let file = node.dir.join("berthd.toml");
    let before = std::fs::read_to_string(&file).expect("berthd.toml");
    with_systemd(&node);
    node.kill_agent();
    if !v2 {
        let program = crate::harness::binary("berthd", env!("CARGO_BIN_EXE_berthd"));
        let output = run(Command::new(program).arg("--config").arg(&file));
        assert_eq!(output.code, 1, "{}", output.stderr);
        let named = output.stderr.contains("containers.cgroup_driver") && output.stderr.contains("cgroup v2 alone");
        assert!(named, "{}", output.stderr);
    } else if !Path::new("/run/systemd/private").exists() {
        node.spawn();
        assert!(node.agent_log().contains("no systemd on this host"), "{}", node.agent_log());
        let doctor = node.ctl(&["node", "doctor"]);
        assert_eq!(doctor.code, 1, "{}", doctor.stdout);
        assert!(doctor.stdout.contains("no container can be started: containers.cgroup_driver"), "{}", doctor.stdout);
        let error = node.fails(125, &["run", "--rm", &image("busybox"), "true"]);
        assert!(error.contains("containers.cgroup_driver is \"systemd\": no systemd on this host"), "{error}");
        // What runs is not touched by that.
        assert_eq!(node.ok(&["exec", "before", "echo", "here"]), "here");
        node.kill_agent();
    }
    std::fs::write(&file, before).expect("berthd.toml");
    node.spawn();
    assert_eq!(node.ok(&["exec", "before", "echo", "here"]), "here");
    node.ok(&["rm", "-f", "before"]);
    node.finish();
}

#[test]
fn slices_are_for_systemd() {
    let node = Node::with_busybox("driver-slice");
    let error = node.fails(125, &["run", "--cgroup-parent", "a.slice", &image("busybox"), "true"]);
    assert!(error.contains("--cgroup-parent") && error.contains("containers.cgroup_driver"), "{error}");
    node.finish();
}
