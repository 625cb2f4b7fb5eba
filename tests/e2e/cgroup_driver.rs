//! `containers.cgroup_driver`: what is said where systemd cannot make cgroups. What it does where it can is in tests/vm-scopes.sh.
//! And `containers.cgroup_parent`, changed while containers run.

use crate::harness::agent::run;
use crate::harness::{Node, image};
use std::path::Path;
use std::process::Command;

/// Has the next agent make cgroups as the line says.
fn with(node: &Node, line: &str) {
    let file = node.dir.join("berthd.toml");
    let text = std::fs::read_to_string(&file).expect("berthd.toml");
    let own = format!("cgroup_parent = \"{}\"", node.slot.cgroup_parent());
    assert!(text.contains(&own), "{text}");
    std::fs::write(&file, text.replace(&own, line)).expect("berthd.toml");
}

/// The folders of a container's cgroups, from the root of their hierarchies.
fn groups(node: &Node, name: &str) -> Vec<String> {
    let pid = node.ok(&["inspect", "--format", "{{.State.Pid}}", name]);
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    let id = node.ok(&["inspect", "--format", "{{.Id}}", name]);
    text.lines().filter_map(|l| Some(l.split_once(":/")?.1.to_owned())).filter(|g| g.ends_with(&id)).collect()
}

#[test]
fn another_parent_is_for_new_containers_and_what_runs_is_found() {
    let mut node = Node::with_busybox("driver-parent");
    let file = node.dir.join("berthd.toml");
    let before = std::fs::read_to_string(&file).expect("berthd.toml");
    node.detached(&["--name", "old", "--memory", "64m", "--pids-limit", "50"], "while :; do sleep 1; done");
    node.detached(&["--name", "left"], "trap 'exit 3' TERM; while :; do sleep 0.1; done");
    let (first, second) = (node.slot.cgroup_parent(), format!("{}-other/deep", node.slot.cgroup_parent()));
    node.kill_agent();
    with(&node, &format!("cgroup_parent = \"{second}\""));
    node.spawn();

    // An exec has the limits of its container, which is where it was.
    let own = groups(&node, "old");
    assert!(!own.is_empty() && own.iter().all(|g| g.starts_with(&format!("{first}/"))), "{own:?}");
    node.ok(&["exec", "-d", "old", "sleep", "300"]);
    let top = node.ok(&["top", "old", "-o", "pid,args"]);
    let pid =
        top.lines().find(|l| l.contains("sleep 300")).and_then(|l| l.split_whitespace().next()).expect("the exec");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    assert!(own.iter().all(|group| text.contains(&format!(":/{group}\n"))), "{text}");
    node.ok(&["update", "--pids-limit", "60", "old"]);
    let limit = |group: &str| {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|root| Path::new(root).join(group).join("pids.max"));
        roots.iter().find_map(|file| std::fs::read_to_string(file).ok())
    };
    assert_eq!(limit(&own[0]).as_deref(), Some("60\n"));
    node.ok(&["pause", "old"]);
    node.ok(&["unpause", "old"]);
    assert_ne!(node.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", "old"]), "0");

    // A new one is in the new place, and so is the old one when it is started again.
    node.detached(&["--name", "new"], "while :; do sleep 1; done");
    assert!(groups(&node, "new").iter().all(|g| g.starts_with(&format!("{second}/"))));
    node.ok(&["restart", "-t", "0", "old"]);
    assert!(groups(&node, "old").iter().all(|g| g.starts_with(&format!("{second}/"))));
    node.ok(&["stop", "left"]);
    assert_eq!(node.ok(&["inspect", "--format", "{{.State.ExitCode}}", "left"]), "3");
    assert!(limit(&own[0]).is_none(), "the group of the last run is still there");

    // Back again: what the second one made is found, and its parent goes when nothing is in it.
    node.kill_agent();
    std::fs::write(&file, before).expect("berthd.toml");
    node.spawn();
    assert_eq!(node.ok(&["exec", "new", "echo", "here"]), "here");
    node.ok(&["rm", "-f", "old", "left", "new"]);
    node.kill_agent();
    node.spawn();
    let there = |root: &Path| root.join(&second).is_dir();
    let roots = std::fs::read_dir("/sys/fs/cgroup").expect("/sys/fs/cgroup").flatten().map(|e| e.path());
    let left: Vec<_> = roots.chain(["/sys/fs/cgroup".into()]).filter(|root| there(root)).collect();
    assert!(left.is_empty(), "{left:?}");
    node.finish();
    let above = second.split('/').next().expect("a first part");
    let roots = std::fs::read_dir("/sys/fs/cgroup").expect("/sys/fs/cgroup").flatten().map(|e| e.path());
    roots.chain(["/sys/fs/cgroup".into()]).for_each(|root| drop(std::fs::remove_dir(root.join(above))));
}

/// No limits would hold for what joins a container elsewhere.
#[test]
fn who_has_no_groups_is_not_joined() {
    let mut node = Node::with_busybox("driver-lost");
    let file = node.dir.join("berthd.toml");
    let before = std::fs::read_to_string(&file).expect("berthd.toml");
    node.detached(&["--name", "lost"], "while :; do sleep 1; done");
    let second = format!("{}-other", node.slot.cgroup_parent());
    node.kill_agent();
    std::fs::remove_file(node.dir.join("run/cgroup-parents")).expect("the parents of this boot");
    with(&node, &format!("cgroup_parent = \"{second}\""));
    node.spawn();
    let error = node.fails(125, &["exec", "lost", "true"]);
    assert!(error.contains(&second), "{error}");
    node.kill_agent();
    std::fs::write(&file, before).expect("berthd.toml");
    node.spawn();
    assert_eq!(node.ok(&["exec", "lost", "echo", "here"]), "here");
    node.ok(&["rm", "-f", "lost"]);
    node.finish();
}

#[test]
fn a_host_without_it_says_so() {
    let mut node = Node::with_busybox("driver-systemd");
    let v2 = node.ok(&["info", "--format", "{{.CgroupMode}} {{.CgroupDriver}}"]) == "v2 cgroupfs";
    node.detached(&["--name", "before"], "while :; do sleep 1; done");
    let file = node.dir.join("berthd.toml");
    let before = std::fs::read_to_string(&file).expect("berthd.toml");
    with(&node, "cgroup_driver = \"systemd\"");
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
