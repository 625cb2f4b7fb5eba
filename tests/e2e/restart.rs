//! Restart policies: who is started again, when, and what is said of it; and why runs ended, in words.

use crate::harness::{Node, image, until};
use serde_json::Value;
use std::path::Path;

fn status(node: &Node, container: &str) -> String {
    node.inspect(container)["State"]["Status"].as_str().expect("status").to_owned()
}

fn restarts(node: &Node, container: &str) -> u64 {
    node.inspect(container)["RestartCount"].as_u64().expect("count")
}

/// Both at one moment.
fn is(node: &Node, container: &str, status: &str, restarts: u64) -> bool {
    let found = node.inspect(container);
    found["State"]["Status"] == status && found["RestartCount"] == restarts
}

fn shown(node: &Node, container: &str) -> String {
    node.ok(&["ps", "-a", "--filter", &format!("name={container}"), "--format", "{{.Status}}"])
}

fn pid(node: &Node, container: &str) -> u64 {
    node.inspect(container)["State"]["Pid"].as_u64().expect("pid")
}

/// Runs until the file `end` in a folder of the host is there; exits with what is in it, or 0.
fn until_told(node: &Node, name: &str, options: &[&str]) -> std::path::PathBuf {
    let gate = node.scratch().join(name);
    std::fs::create_dir_all(&gate).expect("gate");
    let volume = format!("{}:/gate", gate.display());
    let mut all = vec!["--name", name, "-v", &volume];
    all.extend(options);
    node.detached(
        &all,
        "while [ ! -e /gate/end ]; do sleep 0.05; done; code=$(cat /gate/end); rm /gate/end; exit $code",
    );
    gate
}

fn end(gate: &Path, code: i32) {
    std::fs::write(gate.join("new"), code.to_string()).expect("end");
    std::fs::rename(gate.join("new"), gate.join("end")).expect("end");
}

#[test]
fn failures_are_counted_and_come_to_an_end() {
    let node = Node::with_busybox("restart-count");
    node.detached(&["--name", "box", "--restart", "on-failure:3"], "echo run; exit 7");
    until("all restarts are used up", || is(&node, "box", "exited", 3));
    let inspect = node.inspect("box");
    assert_eq!((inspect["State"]["ExitCode"].as_i64(), inspect["State"]["StartCount"].as_i64()), (Some(7), Some(4)));
    assert_eq!(inspect["HostConfig"]["RestartPolicy"]["Name"], "on-failure");
    assert_eq!(inspect["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 3);
    assert_eq!(inspect["State"]["Reason"], "exited with code 7");
    assert_eq!(node.ok(&["logs", "box"]), "run\nrun\nrun\nrun");
    // A good end is no failure, and a start by hand counts anew.
    node.ok(&["start", "box"]);
    until("it is tried again", || is(&node, "box", "exited", 3));
    node.detached(&["--name", "good", "--restart", "on-failure"], "exit 0");
    node.ok(&["wait", "good"]);
    assert_eq!((status(&node, "good").as_str(), restarts(&node, "good")), ("exited", 0));
    node.finish();
}

#[test]
fn a_stop_ends_it_also_between_two_runs() {
    let mut node = Node::with_busybox("restart-stop");
    for (name, policy) in [("ever", "always"), ("unless", "unless-stopped"), ("rest", "on-failure")] {
        node.detached(&["--name", name, "--restart", policy], "exit 9");
    }
    for name in ["ever", "unless", "rest"] {
        until("it pauses", || shown(&node, name).starts_with("Restarting (9)") && restarts(&node, name) >= 4);
        // It runs again now and then.
        until("it is listed", || node.ok(&["ps", "--filter", "status=restarting", "-o", "name"]).contains(name));
        assert!(node.fails(1, &["rm", name]).contains("running"));
        node.ok(&["stop", name]);
        assert!(shown(&node, name).starts_with("Exited (9)"), "{}", shown(&node, name));
    }
    let counts = ["ever", "unless", "rest"].map(|name| node.inspect(name)["State"]["StartCount"].as_u64());
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(["ever", "unless", "rest"].map(|name| node.inspect(name)["State"]["StartCount"].as_u64()), counts);
    // Docker: the agent starts what is meant to run always, and leaves what a person has stopped.
    node.restart();
    until("it comes with the agent", || node.inspect("ever")["State"]["StartCount"].as_u64() > counts[0]);
    assert_eq!((status(&node, "unless").as_str(), status(&node, "rest").as_str()), ("exited", "exited"));
    node.finish();
}

#[test]
fn a_kill_counts_as_a_stop_and_a_crash_does_not() {
    let node = Node::with_busybox("restart-kill");
    let trap = "trap 'exit 4' USR1; while :; do sleep 0.05; done";
    for name in ["killed", "crashed", "signalled"] {
        node.detached(&["--name", name, "--restart", "always", "--stop-signal", "TERM"], trap);
    }
    node.ok(&["kill", "killed"]);
    assert_eq!(node.ok(&["wait", "killed"]), "137");
    crate::harness::agent::signal(u32::try_from(pid(&node, "crashed")).expect("pid"), "KILL");
    node.ok(&["kill", "-s", "USR1", "signalled"]);
    for name in ["crashed", "signalled"] {
        until("it runs again", || is(&node, name, "running", 1));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(status(&node, "killed"), "exited");
    assert_eq!(node.inspect("killed")["State"]["Reason"], "killed by admin with SIGKILL, exit code 137");
    assert_eq!(node.inspect("killed")["State"]["EndedBy"], "admin");
    // What anybody but the agent's callers sends is told as what it is.
    let reason = node.inspect("crashed")["State"]["Reason"].as_str().expect("reason").to_owned();
    assert!(reason.is_empty() || reason.contains("SIGKILL") && reason.contains("no caller"), "{reason}");
    node.finish();
}

#[test]
fn restarts_survive_the_agent() {
    let mut node = Node::with_busybox("restart-survive");
    // It ends while no agent is there.
    let gate = until_told(&node, "alone", &["--restart", "on-failure"]);
    // Its pause is under way when the agent dies.
    node.detached(&["--name", "pausing", "--restart", "on-failure:6"], "exit 5");
    until("it pauses", || is(&node, "pausing", "restarting", 6));
    let process = pid(&node, "alone");
    node.kill_agent();
    end(&gate, 3);
    until("it has ended", || !Path::new(&format!("/proc/{process}")).exists());
    std::thread::sleep(std::time::Duration::from_millis(200));
    node.spawn();
    until("it is started again", || is(&node, "alone", "running", 1));
    until("the pause has come to its end", || {
        status(&node, "pausing") == "exited" && node.inspect("pausing")["State"]["StartCount"] == 7
    });
    node.finish();
}

#[test]
fn address_and_chosen_ports_stay() {
    let node = Node::with_busybox("restart-network");
    let gate = until_told(&node, "box", &["--restart", "always", "--network", "bridge", "-p", "80"]);
    let before = node.inspect("box")["NetworkSettings"].clone();
    assert!(before["IPAddress"].as_str().is_some_and(|a| !a.is_empty()), "{before}");
    for round in 1..=2 {
        end(&gate, round);
        until("it runs again", || is(&node, "box", "running", round as u64));
        let now = node.inspect("box")["NetworkSettings"].clone();
        assert_eq!((&now["IPAddress"], &now["Ports"]), (&before["IPAddress"], &before["Ports"]), "round {round}");
    }
    node.finish();
}

#[test]
fn a_start_that_fails_is_tried_again() {
    let node = Node::with_busybox("restart-failed");
    let gate = node.scratch().join("gate");
    std::fs::create_dir_all(&gate).expect("gate");
    let mount = format!("type=bind,source={},target=/gate", gate.display());
    node.detached(
        &["--name", "box", "--restart", "always", "--mount", &mount],
        "while [ -e /gate/stay ] || [ ! -e /gate/go ]; do sleep 0.05; done; exit 1",
    );
    let away = node.scratch().join("away");
    std::fs::write(gate.join("go"), "").expect("go");
    std::fs::rename(&gate, &away).expect("rename");
    until("starts fail", || node.inspect("box")["State"]["StartFailure"]["Step"].as_str().is_some());
    let failure = node.inspect("box")["State"]["StartFailure"].clone();
    assert_eq!((failure["Errno"].as_i64(), failure["ExitCode"].as_i64()), (Some(2), Some(125)), "{failure}");
    std::fs::write(away.join("stay"), "").expect("stay");
    std::fs::rename(&away, &gate).expect("rename");
    until("it runs", || status(&node, "box") == "running");
    assert_eq!(node.inspect("box")["State"]["StartFailure"], Value::Null);
    node.finish();
}

#[test]
fn a_policy_can_be_changed() {
    let node = Node::with_busybox("restart-update");
    let gate = until_told(&node, "box", &[]);
    node.ok(&["update", "--restart", "on-failure:9", "box"]);
    end(&gate, 1);
    until("the new policy counts", || is(&node, "box", "running", 1));
    assert_eq!(node.inspect("box")["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 9);
    node.detached(&["--name", "pausing", "--restart", "always"], "exit 1");
    until("it pauses", || status(&node, "pausing") == "restarting" && restarts(&node, "pausing") >= 4);
    node.ok(&["update", "--restart", "no", "pausing"]);
    let runs = node.inspect("pausing")["State"]["StartCount"].clone();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let state = node.inspect("pausing")["State"].clone();
    assert_eq!((state["Status"].as_str(), &state["StartCount"]), (Some("exited"), &runs));
    node.finish();
}

#[test]
fn what_does_not_go_together_is_refused() {
    let node = Node::with_busybox("restart-refused");
    let busybox = image("busybox");
    for options in [&["--rm", "--restart", "always"][..], &["--restart", "sometimes"], &["--restart", "always:3"]] {
        let mut arguments = vec!["run", "-d"];
        arguments.extend(options);
        arguments.extend([busybox.as_str(), "true"]);
        let error = node.fails(125, &arguments);
        assert!(error.contains("--restart"), "{options:?}: {error}");
    }
    node.finish();
}

#[test]
fn ends_are_told_in_words() {
    let node = Node::with_busybox("restart-reasons");
    node.detached(&["--name", "stopped"], "trap 'exit 0' TERM; while :; do sleep 0.05; done");
    node.ok(&["stop", "stopped"]);
    assert_eq!(node.inspect("stopped")["State"]["Reason"], "stopped by admin with SIGTERM, exit code 0");
    let events = node.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "event=die", "-o", "json"]);
    let die: Value = serde_json::from_str(events.lines().next_back().expect("an event")).expect("JSON");
    assert_eq!(die["Attributes"]["cause"], "stopped");
    assert_eq!(die["Attributes"]["reason"], "stopped by admin with SIGTERM, exit code 0");
    // Own end by a signal.
    node.detached(&["--name", "aborted", "--runtime", "berth", "--init"], "kill -ABRT $$");
    node.ok(&["wait", "aborted"]);
    // Out of memory: the shell's own process takes it.
    let eat = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";
    node.detached(&["--name", "hungry", "--memory", "16m"], eat);
    assert_eq!(node.ok(&["wait", "hungry"]), "137");
    let state = node.inspect("hungry")["State"].clone();
    assert_eq!((state["Cause"].as_str(), state["OOMLimit"].as_u64()), (Some("oom"), Some(16 << 20)), "{state}");
    let id = node.inspect("hungry")["Id"].as_str().expect("id").to_owned();
    assert!(state["OOMCgroup"].as_str().is_some_and(|c| c.ends_with(&id)), "{state}");
    assert!(state["Reason"].as_str().is_some_and(|r| r.contains("16777216 bytes of cgroup /")), "{state}");
    assert!(shown(&node, "hungry").ends_with("(out of memory)"), "{}", shown(&node, "hungry"));
    // A start that fails.
    node.ok(&["create", "--name", "nothing", "--network", "none", &image("busybox"), "/no/such/program"]);
    node.fails(1, &["start", "nothing"]);
    let failure = node.inspect("nothing")["State"]["StartFailure"].clone();
    assert_eq!(failure["Step"], "executing /no/such/program");
    assert_eq!((failure["Errno"].as_i64(), failure["ExitCode"].as_i64()), (Some(2), Some(127)));
    node.finish();
}
