//! Health checks: states, results, events, and what follows from them.

use crate::harness::{Node, image, until};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;

const IDLE: &str = "while :; do sleep 1; done";

fn health(node: &Node, container: &str) -> Value {
    node.inspect(container)["State"]["Health"].clone()
}

fn is(node: &Node, container: &str, status: &str) -> bool {
    health(node, container)["Status"] == status
}

fn shown(node: &Node, container: &str) -> String {
    node.ok(&["ps", "-a", "--filter", &format!("name={container}"), "--format", "{{.Status}}"])
}

/// A folder of the host that is /gate in the container.
fn gate(node: &Node, name: &str) -> (PathBuf, String) {
    let path = node.scratch().join(name);
    std::fs::create_dir_all(&path).expect("gate");
    let volume = format!("{}:/gate", path.display());
    (path, volume)
}

/// Processes that have this word in their command line.
fn with_word(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).replace('\0', " ").contains(word)).count()
}

#[test]
fn a_container_becomes_healthy_and_unhealthy() {
    let mut node = Node::with_busybox("health-states");
    let (folder, volume) = gate(&node, "gate");
    let check = "echo looked; [ -e /gate/good ]";
    node.detached(
        &[
            "--name",
            "box",
            "-v",
            &volume,
            "--health-cmd",
            check,
            "--health-interval",
            "200ms",
            "--health-retries",
            "2",
            "--health-start-period",
            "60s",
            "--health-start-interval",
            "200ms",
        ],
        IDLE,
    );
    until("a check within the start period has failed", || health(&node, "box")["Log"][0]["ExitCode"] == 1);
    assert!(shown(&node, "box").ends_with("(health: starting)"), "{}", shown(&node, "box"));
    assert_eq!(health(&node, "box")["FailingStreak"], 0);
    let listed = |state: &str| node.ok(&["ps", "-o", "name", "--filter", &format!("health={state}")]);
    assert_eq!((listed("starting"), listed("healthy"), listed("none")), ("box".into(), String::new(), String::new()));
    let mut wait = node.ctl_command(&["wait", "--condition", "healthy", "box"]);
    let wait = wait.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("wait");
    std::fs::write(folder.join("good"), "").expect("good");
    let waited = wait.wait_with_output().expect("wait");
    assert_eq!((waited.status.code(), String::from_utf8_lossy(&waited.stdout).trim()), (Some(0), "box"));
    assert!(is(&node, "box", "healthy"), "{}", health(&node, "box"));
    assert_eq!(node.ok(&["wait", "--condition", "healthy", "box"]), "box", "it is already");
    assert_eq!((listed("healthy"), listed("unhealthy")), ("box".into(), String::new()));
    assert!(shown(&node, "box").ends_with("(healthy)"), "{}", shown(&node, "box"));
    until("five results are kept", || health(&node, "box")["Log"].as_array().is_some_and(|log| log.len() == 5));
    assert_eq!(health(&node, "box")["Log"][4]["Output"], "looked\n");
    // The state outlives the agent, and the checks go on.
    node.restart();
    assert!(is(&node, "box", "healthy"), "{}", health(&node, "box"));
    std::fs::remove_file(folder.join("good")).expect("good");
    until("it is unhealthy", || is(&node, "box", "unhealthy"));
    assert!(shown(&node, "box").ends_with("(unhealthy)") && health(&node, "box")["FailingStreak"].as_u64() >= Some(2));
    let events =
        node.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "event=health_status", "-o", "json"]);
    let actions: Vec<String> = events
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["Action"].as_str().expect("action").to_owned())
        .collect();
    assert_eq!(actions, ["health_status: healthy", "health_status: unhealthy"]);
    node.detached(&["--name", "plain"], IDLE);
    assert!(node.fails(1, &["wait", "--condition", "healthy", "plain"]).contains("health check"));
    assert_eq!(node.ok(&["ps", "-o", "name", "--filter", "health=none"]), "plain");
    assert!(node.fails(1, &["ps", "--filter", "health=fine"]).contains("unhealthy"));
    node.finish();
}

#[test]
fn a_check_that_takes_too_long_ends_with_its_children() {
    let mut node = Node::with_busybox("health-timeout");
    let check = "sleep 98761 & setsid sleep 98762 & sleep 98763";
    node.detached(
        &[
            "--name",
            "box",
            "--health-cmd",
            check,
            "--health-interval",
            "100ms",
            "--health-timeout",
            "1s",
            "--health-retries",
            "1",
        ],
        IDLE,
    );
    until("it is unhealthy", || is(&node, "box", "unhealthy"));
    let log = health(&node, "box")["Log"].as_array().expect("log").clone();
    assert_eq!(log[0]["ExitCode"], -1);
    assert!(log[0]["Output"].as_str().is_some_and(|o| o.contains("exceeded timeout")), "{log:?}");
    let leaves = || (1..=3).map(|n| with_word(&format!("sleep 9876{n}"))).max().unwrap_or(0);
    // At most those of the check that runs just now: its shell, and each of its children once.
    until("a check is under way", || leaves() > 0);
    assert!(leaves() <= 2, "children pile up: {}", leaves());
    // The agent dies in the middle of one: what it leaves ends with the next agent's coming.
    node.kill_agent();
    let left = leaves();
    node.spawn();
    until("nothing piles up over agents", || leaves() <= 2);
    assert!(left <= 2, "{left}");
    // And no stop waits for a check.
    node.ok(&["stop", "-t", "0", "box"]);
    until("the checks are gone with it", || leaves() == 0);
    node.ok(&["start", "box"]);
    node.ok(&["rm", "-f", "box"]);
    until("also with a removal", || leaves() == 0);
    node.finish();
}

#[test]
fn what_becomes_of_the_unhealthy() {
    let node = Node::with_busybox("health-actions");
    let run = |name: &str, options: &[&str]| {
        let mut all = vec![
            "--name",
            name,
            "--health-cmd",
            "exit 1",
            "--health-interval",
            "300ms",
            "--health-retries",
            "1",
            "-l",
            "x",
        ];
        all.extend(options);
        node.detached(&all, "trap 'exit 0' TERM; while :; do sleep 0.05; done");
    };
    run("stop", &["--restart", "always", "--health-on-failure", "stop"]);
    run("kill", &["--health-on-failure", "kill"]);
    run("again", &["--health-on-failure", "restart"]);
    run("none", &[]);
    until("one is stopped", || node.inspect("stop")["State"]["Status"] == "exited");
    until("one is killed", || node.inspect("kill")["State"]["ExitCode"] == 137);
    until("one is started again", || node.inspect("again")["RestartCount"].as_u64() >= Some(1));
    until("one is left as it is", || is(&node, "none", "unhealthy"));
    assert_eq!(node.inspect("none")["State"]["Status"], "running");
    let state = node.inspect("stop")["State"].clone();
    assert_eq!((state["Cause"].as_str(), state["ExitCode"].as_i64()), (Some("unhealthy"), Some(0)), "{state}");
    assert!(shown(&node, "stop").ends_with("(unhealthy)"), "{}", shown(&node, "stop"));
    node.finish();
}

#[test]
fn checks_of_the_image_and_none() {
    let node = Node::with_busybox("health-none");
    node.ok(&["run", "-d", "--name", "own", "--network", "none", &image("healthy")]);
    until("the image's check fails", || is(&node, "own", "unhealthy"));
    assert_eq!(health(&node, "own")["Log"][0]["Output"], "of the image\n");
    node.ok(&["exec", "own", "touch", "/good"]);
    until("and succeeds", || is(&node, "own", "healthy"));
    node.ok(&["run", "-d", "--name", "never", "--network", "none", "--no-healthcheck", &image("healthy")]);
    assert_eq!(health(&node, "never"), Value::Null);
    node.detached(&["--name", "plain"], IDLE);
    assert_eq!(health(&node, "plain"), Value::Null);
    node.detached(&["--name", "off", "--no-healthcheck"], IDLE);
    assert_eq!(health(&node, "off"), Value::Null);
    let error = node.fails(125, &["run", "-d", "--health-cmd", "true", "--no-healthcheck", &image("busybox")]);
    assert!(error.contains("--no-healthcheck"), "{error}");
    let error = node.fails(125, &["run", "-d", "--health-cmd", "true", "--health-interval", "5ms", &image("busybox")]);
    assert!(error.contains("--health-interval: "), "{error}");
    // A command that is not there is a failure as any other.
    node.detached(
        &["--name", "bad", "--health-cmd", "/no/such", "--health-interval", "100ms", "--health-retries", "1"],
        IDLE,
    );
    until("it is unhealthy", || is(&node, "bad", "unhealthy"));
    assert_eq!(health(&node, "bad")["Log"][0]["ExitCode"], 127);
    node.finish();
}
