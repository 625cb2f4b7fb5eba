//! Streams that break because the agent was killed: they go on with the next agent, or end with words and a code, both within a bounded time.

use crate::harness::agent::{Output, signal};
use crate::harness::{Node, image, until};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

const IDLE: &str = "while :; do sleep 1; done";
/// More than flow control lets an agent send before anybody reads.
const MIB: usize = 96;

fn spawn(node: &Node, arguments: &[&str], reconnect: Option<&str>) -> Child {
    let mut command = node.ctl_command(arguments);
    if let Some(reconnect) = reconnect {
        command.env("BERTH_RECONNECT", reconnect);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("berthctl")
}

fn end(child: Child) -> Output {
    let output = child.wait_with_output().expect("wait");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A stopped container with a large file.
fn with_large(name: &str) -> Node {
    let node = Node::with_busybox(name);
    let script = format!("dd if=/dev/urandom of=/large bs=1048576 count={MIB}");
    node.ok(&["run", "--name", "box", "--network", "none", &image("busybox"), "sh", "-c", &script]);
    node
}

fn part(node: &Node) -> Option<u64> {
    let mut files = std::fs::read_dir(node.scratch()).expect("scratch").flatten();
    files.find_map(|e| e.file_name().to_string_lossy().ends_with(".part").then(|| e.metadata().map_or(0, |m| m.len())))
}

#[test]
fn an_export_into_a_file_begins_again() {
    let mut node = with_large("cut-export");
    let (whole, cut) = (node.scratch().join("whole.tar"), node.scratch().join("cut.tar"));
    node.ok(&["export", "-o", whole.to_str().expect("utf-8"), "box"]);
    let child = spawn(&node, &["export", "-o", cut.to_str().expect("utf-8"), "box"], None);
    until("a part is written", || part(&node).is_some_and(|bytes| bytes > 1 << 20));
    signal(child.id(), "STOP");
    assert!(part(&node).is_some_and(|bytes| bytes < (MIB as u64) << 20), "it is in the middle");
    node.kill_agent();
    signal(child.id(), "CONT");
    node.spawn();
    let output = end(child);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(std::fs::read(whole).expect("tar") == std::fs::read(&cut).expect("tar"), "another tar");
    assert_eq!(part(&node), None);
    // No agent comes back: nothing is left of the file, and it is said.
    std::fs::remove_file(&cut).expect("tar");
    let child = spawn(&node, &["export", "-o", cut.to_str().expect("utf-8"), "box"], Some("1s"));
    until("a part is written", || part(&node).is_some_and(|bytes| bytes > 1 << 20));
    signal(child.id(), "STOP");
    node.kill_agent();
    signal(child.id(), "CONT");
    let output = end(child);
    assert!(output.code == 125 && output.stderr.contains("tried again for 1 s"), "{output:?}");
    assert!(part(&node).is_none() && !cut.exists());
    node.spawn();
    node.finish();
}

#[test]
fn an_export_into_a_pipe_says_that_it_is_cut_off() {
    let mut node = with_large("cut-pipe");
    let mut child = spawn(&node, &["export", "box"], None);
    let mut some = vec![0; 1 << 20];
    child.stdout.as_mut().expect("pipe").read_exact(&mut some).expect("tar");
    node.restart();
    let output = child.wait_with_output().expect("wait");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let told = format!("the tar is cut off after {} bytes", some.len() + output.stdout.len());
    assert!(error.contains(&told) && error.contains("-o FILE"), "{error}");
    assert!(some.len() + output.stdout.len() < MIB << 20);
    node.finish();
}

#[test]
fn a_copy_out_of_a_container_that_is_cut_off_ends() {
    let mut node = with_large("cut-cp");
    let to = node.scratch().join("large");
    let child = spawn(&node, &["cp", "box:/large", to.to_str().expect("utf-8")], None);
    until("some of it is there", || {
        let mut files = std::fs::read_dir(node.scratch()).expect("scratch").flatten();
        files.any(|e| e.metadata().is_ok_and(|m| m.len() > 1 << 20))
    });
    node.restart();
    let output = end(child);
    match output.code {
        0 => assert_eq!(to.metadata().expect("file").len(), (MIB << 20) as u64),
        code => assert!(code == 1 && output.stderr.starts_with("error: "), "{output:?}"),
    }
    node.finish();
}

#[test]
fn a_prune_goes_on_with_the_next_agent() {
    let mut node = Node::with_busybox("cut-prune");
    let busybox = image("busybox");
    let count = 60;
    let made: Vec<String> = (0..count).map(|_| node.ok(&["create", "--network", "none", &busybox, "true"])).collect();
    let kept = node.detached(&["--name", "kept"], IDLE);
    let mut child = spawn(&node, &["container", "prune", "-f"], None);
    let mut lines = BufReader::new(child.stdout.take().expect("pipe"));
    let mut text = String::new();
    while text.lines().count() < 3 {
        assert_ne!(lines.read_line(&mut text).expect("line"), 0, "{text}");
    }
    node.restart();
    lines.read_to_string(&mut text).expect("the rest");
    let output = end(child);
    assert_eq!(output.code, 0, "{text}{output:?}");
    let listed: Vec<&str> = text.lines().filter(|line| made.iter().any(|id| id == line)).collect();
    let mut unique = listed.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), listed.len(), "one is told twice:\n{text}");
    assert!(text.contains("Total reclaimed space: "), "{text}");
    if output.stderr.contains("was away in between") {
        assert!(listed.len() <= made.len());
    } else {
        assert_eq!(listed.len(), made.len(), "{text}");
    }
    assert_eq!(node.ok(&["ps", "-a", "-q", "--no-trunc"]), kept, "all that had not started are gone");
    // No agent comes back.
    for _ in 0..count {
        node.ok(&["create", "--network", "none", &busybox, "true"]);
    }
    let mut child = spawn(&node, &["container", "prune", "-f"], Some("1s"));
    let mut lines = BufReader::new(child.stdout.take().expect("pipe"));
    lines.read_line(&mut text).expect("line");
    node.kill_agent();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("the rest");
    let output = end(child);
    if !rest.contains("Total reclaimed space: ") {
        assert!(output.code == 125 && output.stderr.contains("tried again for 1 s"), "{rest}{output:?}");
    }
    node.spawn();
    node.finish();
}

#[test]
fn stats_go_on_with_the_next_agent() {
    let mut node = Node::with_busybox("cut-stats");
    node.detached(&["--name", "box"], IDLE);
    let mut child = spawn(&node, &["stats", "-o", "json", "box"], None);
    let mut lines = BufReader::new(child.stdout.take().expect("pipe"));
    let mut row = || {
        let mut text = String::new();
        lines.read_line(&mut text).expect("line");
        let row: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(row["Name"], "box");
        row["CPUPerc"].as_str().expect("percent").trim_end_matches('%').parse::<f64>().expect("number")
    };
    row();
    for _ in 0..2 {
        node.restart();
        for _ in 0..2 {
            assert!(row() >= 0.0);
        }
    }
    node.kill_agent();
    node.spawn();
    assert!(row() >= 0.0);
    child.kill().expect("kill");
    child.wait().expect("wait");
    // One measurement takes two looks.
    let child = spawn(&node, &["stats", "--no-stream", "box"], None);
    std::thread::sleep(std::time::Duration::from_millis(300));
    node.restart();
    let output = end(child);
    assert!(output.code == 0 && output.stdout.contains("box"), "{output:?}");
    // No agent comes back.
    let mut child = spawn(&node, &["stats", "-o", "json", "box"], Some("1s"));
    let mut first = [0];
    child.stdout.as_mut().expect("pipe").read_exact(&mut first).expect("a line");
    node.kill_agent();
    let output = end(child);
    assert!(output.code == 125 && output.stderr.contains("tried again for 1 s"), "{output:?}");
    node.spawn();
    node.finish();
}
