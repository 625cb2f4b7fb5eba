//! What containers said.

use crate::harness::{Node, image, until};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

#[test]
fn streams_are_apart_with_times_and_tail() {
    let node = Node::with_busybox("logs-basic");
    let id = node.detached(&[], "for i in 1 2 3; do echo out$i; echo err$i >&2; done; printf partial");
    node.ok(&["wait", &id]);
    let output = node.ctl(&["logs", &id]);
    assert_eq!(output.stdout, "out1\nout2\nout3\npartial", "{output:?}");
    assert_eq!(output.stderr, "err1\nerr2\nerr3\n");
    assert_eq!(
        node.ctl(&["logs", "--tail", "2", &id]).stdout.lines().count()
            + node.ctl(&["logs", "--tail", "2", &id]).stderr.lines().count(),
        2
    );
    let stamped = node.ok(&["logs", "-t", &id]);
    let first = stamped.lines().next().expect("line");
    assert!(first.len() > 30 && first.as_bytes()[10] == b'T' && first.ends_with(" out1"), "{first}");
    assert_eq!(node.ctl(&["logs", "--since", "1h", &id]).stdout, output.stdout);
    assert_eq!(node.ctl(&["logs", "--until", "1h", &id]).stdout, "");
    node.finish();
}

#[test]
fn follow_ends_with_the_container_and_misses_nothing() {
    let node = Node::with_busybox("logs-follow");
    let id = node.detached(&[], "for i in $(seq 2000); do echo line $i; done; sleep 0.5; echo last");
    let output = node.ctl(&["logs", "-f", &id]);
    let expected: String = (1..=2000).map(|n| format!("line {n}\n")).chain(["last\n".to_owned()]).collect();
    assert_eq!(output.code, 0);
    assert!(output.stdout == expected, "{} bytes of {}", output.stdout.len(), expected.len());
    node.finish();
}

#[test]
fn rotation_bounds_the_disk_and_follow_goes_over_it() {
    let node = Node::with_busybox("logs-rotation");
    let options = ["--log-opt", "max-size=64k", "--log-opt", "max-file=3"];
    let id = node.detached(&options, "for i in $(seq 20000); do echo line number $i of many; done; echo the end");
    let followed = node.ctl(&["logs", "-f", &id]);
    let mut last = 0;
    for line in followed.stdout.lines().filter(|l| l.starts_with("line")) {
        let number: u32 = line.split(' ').nth(2).expect("number").parse().expect("number");
        assert!(number > last, "line {number} behind {last}");
        last = number;
    }
    assert_eq!(last, 20000);
    let path = node.inspect(&id)["LogPath"].as_str().expect("logPath").to_owned();
    let size: u64 = std::fs::read_dir(&path).expect("log").flatten().map(|e| e.metadata().expect("meta").len()).sum();
    assert!(size <= 3 * 64 * 1024 + 64 * 1024, "{size} bytes of logs");
    let kept = node.ok(&["logs", &id]);
    assert!(kept.ends_with("line number 20000 of many\nthe end"));
    node.finish();
}

#[test]
fn a_long_line_without_an_end_comes_back_whole() {
    let node = Node::with_busybox("logs-partial");
    let id = node.detached(&[], "head -c 200000 /dev/zero | tr '\\0' z; echo; echo after");
    node.ok(&["wait", &id]);
    let output = node.ok(&["logs", &id]);
    let mut lines = output.lines();
    assert_eq!(lines.next().map(str::len), Some(200_000));
    assert_eq!(lines.next(), Some("after"));
    node.finish();
}

#[test]
fn a_reader_that_does_not_read_blocks_nobody() {
    let node = Node::with_busybox("logs-slow");
    // An attached client that never reads its pipe.
    let mut command = node.ctl_command(&[
        "run",
        "--name",
        "box",
        "--network",
        "none",
        &image("busybox"),
        "sh",
        "-c",
        "head -c 30000000 /dev/zero | tr '\\0' x; echo; echo wrote > /tmp/done; while :; do sleep 1; done",
    ]);
    let mut stuck = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run");
    until("the workload goes on in spite of the reader", || {
        node.ctl(&["exec", "box", "cat", "/tmp/done"]).stdout == "wrote\n"
    });
    stuck.kill().expect("kill");
    stuck.wait().expect("wait");
    assert_eq!(node.inspect("box")["State"]["Status"], "running", "a client's death is not the container's");
    node.finish();
}

#[test]
fn logs_come_while_they_are_written() {
    let node = Node::with_busybox("logs-live");
    let id = node.detached(&["-i"], "echo first; while :; do sleep 1; done");
    let mut child =
        node.ctl_command(&["logs", "-f", &id]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("logs");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    assert_eq!(lines.next().expect("line").expect("utf-8"), "first");
    child.kill().expect("kill");
    child.wait().expect("wait");
    node.finish();
}
