//! What a process in a container has from the start: descriptors, environment, mounts, rights, keys. Compared with what it should be.

use crate::escapes::program;
use crate::harness::{Node, image, runtimes, test_dir};
use std::process::Command;

/// Left out: what depends on the host's kernel. Control groups have a test of their own (`the_groups_are_its_own`), and masks, too
/// (`sandbox.rs`).
fn of(output: &str) -> String {
    const BY_KERNEL: [&str; 11] = [
        "acpi",
        "asound",
        "interrupts",
        "kcore",
        "keys",
        "latency_stats",
        "sched_debug",
        "scsi",
        "sysrq-trigger",
        "timer_list",
        "timer_stats",
    ];
    let masked = |line: &str| BY_KERNEL.iter().any(|name| line.starts_with(&format!("mount /proc/{name} ")));
    let other = ["mount /sys/", "keyring", "cgroup", "status SigIgn"];
    let wanted = |line: &&str| !other.iter().any(|start| line.starts_with(start)) && !masked(line);
    let mut lines: Vec<&str> = output.lines().map(str::trim_end).filter(wanted).collect();
    lines.dedup();
    // In which order the kernel's file systems were mounted says nothing.
    lines.sort_by_key(|line| line.starts_with("mount ").then_some(*line));
    let lines: Vec<String> = lines.into_iter().map(own_file_system).collect();
    lines.join("\n").replace(&all_capabilities(), "ALL")
}

/// The program and the files that the agent makes for a container are on the host's: which it is there says nothing.
fn own_file_system(line: &str) -> String {
    let host = match line.strip_prefix("mount ").and_then(|rest| rest.split_once(' ')) {
        Some(("/escape", _)) => program(),
        Some(("/etc/hostname" | "/etc/hosts" | "/etc/resolv.conf", _)) => test_dir().join("run"),
        _ => return line.to_owned(),
    };
    let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(host).output().expect("stat");
    let name =
        String::from_utf8_lossy(&output.stdout).trim().replace("ext2/ext3", "ext4").replace("overlayfs", "overlay");
    line.replace(&format!(" {name} "), " HOST ")
}

/// What a privileged container has: all that this host has.
fn all_capabilities() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|l| l.starts_with("CapBnd")).expect("CapBnd");
    line.split_whitespace().nth(1).expect("a number").to_owned()
}

fn node(name: &str) -> (Node, String) {
    (Node::with_busybox(name), format!("{}:/escape:ro", program().display()))
}

#[test]
fn of_a_container() {
    let (node, mount) = node("visible-run");
    let run = |options: &[&str]| {
        let busybox = image("busybox");
        let arguments =
            [&["run", "--rm", "--network", "none", "-v", &mount], options, &[busybox.as_str(), "/escape", "seen"]]
                .concat();
        of(&node.ok(&arguments).replace('\r', ""))
    };
    insta::assert_snapshot!("default", run(&[]));
    insta::assert_snapshot!("privileged", run(&["--privileged"]));
    insta::assert_snapshot!("tty", run(&["-t"]));
    insta::assert_snapshot!("user", run(&["-u", "nobody", "--read-only", "--security-opt", "no-new-privileges"]));
    node.finish();
}

#[test]
fn of_what_joins_it() {
    let (node, mount) = node("visible-exec");
    let script = "while :; do sleep 1; done";
    let options =
        ["--name", "seen", "-v", &mount, "--health-cmd", "/escape seen >/tmp/health", "--health-interval", "1s"];
    node.detached(&options, script);
    let exec =
        |options: &[&str]| of(&node.ok(&[&["exec"], options, &["seen", "/escape", "seen"]].concat()).replace('\r', ""));
    insta::assert_snapshot!("exec", exec(&[]));
    insta::assert_snapshot!("exec_tty", exec(&["-t"]));
    insta::assert_snapshot!("exec_privileged", exec(&["--privileged"]));
    let health = crate::harness::eventually("a health check has written", || {
        let output = node.ctl(&["exec", "seen", "cat", "/tmp/health"]);
        (output.code == 0 && output.stdout.contains("keyring")).then_some(output.stdout)
    });
    insta::assert_snapshot!("health", of(&health));
    node.ok(&["rm", "-f", "seen"]);
    node.finish();
}

/// A session keyring of the agent's would hold what whoever started the agent has put there.
#[test]
fn the_keyring_is_its_own() {
    let (node, mount) = node("visible-keys");
    let ring = |output: &str| output.lines().find(|l| l.starts_with("keyring")).expect("keyring").to_owned();
    let ours = Command::new(program()).arg("seen").output().expect("seen");
    let ours = ring(&String::from_utf8_lossy(&ours.stdout));
    let options = ["-v", &mount, "--security-opt", "seccomp=unconfined"];
    node.detached(&[&["--name", "keys"], &options[..]].concat(), "while :; do sleep 1; done");
    let all = [
        ours,
        ring(&node.sh(&options, "/escape seen")),
        ring(&node.sh(&options, "/escape seen")),
        ring(&node.ok(&["exec", "keys", "/escape", "seen"])),
    ];
    // Others call it as the container.
    assert!(runtimes::other().is_some() || all[1..].iter().all(|r| r.ends_with("_ses")), "{all:?}");
    let different: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "{all:?}");
    node.ok(&["rm", "-f", "keys"]);
    node.finish();
}

#[test]
fn the_groups_are_its_own() {
    let (node, mount) = node("visible-groups");
    for options in [&[][..], &["--privileged"], &["-u", "nobody"]] {
        let output = node.sh(&[&["-v", &mount], options].concat(), "/escape seen");
        let mut groups: Vec<&str> = output.lines().filter(|l| l.starts_with("cgroup")).collect();
        groups.dedup();
        assert_eq!(groups, ["cgroup /"], "{options:?}");
        let folder = |l: &str| runtimes::leaves_folder_of_groups() && l.starts_with("mount /sys/fs/cgroup tmpfs ");
        let writable = |l: &str| l.contains(" /sys/fs/cgroup") && l.ends_with(" rw") && !folder(l);
        assert_eq!(output.lines().any(writable), options.contains(&"--privileged"), "{options:?}: {output}");
    }
    node.finish();
}

/// A limit of 1 is no core, not even for a program of the host's that the kernel would pipe it to: whoever crashes cannot raise it.
#[test]
fn cores_are_written_where_they_are_asked_for() {
    let (node, _) = node("visible-core");
    let limit = "awk '/core file/ { print $5, $6 }' /proc/self/limits";
    let privileged = &["--privileged"][..];
    for options in [&[][..], privileged, &["--user", "1000"], &["--tty"]] {
        assert_eq!(node.sh(options, limit).trim(), "1 1", "{options:?}");
    }
    let crash = "cd /tmp; ulimit -c unlimited 2>/dev/null && echo raised; sh -c 'kill -SEGV $$'; ls | grep -c core";
    assert_eq!(node.sh(&["--tmpfs", "/tmp"], &format!("{crash} || true")), "0");
    assert_eq!(node.sh(&["--ulimit", "core=4096:8192"], limit), "4096 8192");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern");
    if pattern.starts_with("core") {
        let asked = ["--tmpfs", "/tmp", "--ulimit", "core=33554432:33554432"];
        let crash = "cd /tmp; sh -c 'kill -SEGV $$'; ls | grep -c core";
        assert_eq!(node.sh(&asked, crash).lines().last(), Some("1"));
    }
    let held = node.detached(&[], "sleep 1000");
    assert_eq!(node.ok(&["exec", held.trim(), "sh", "-c", limit]), "1 1");
    node.finish();
}
