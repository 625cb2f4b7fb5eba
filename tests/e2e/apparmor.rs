//! AppArmor profiles of containers. On a host without AppArmor, and this is most of what is tested on, what is named is refused by name.

use crate::harness::{Node, image, runtimes, source_dir};
use std::fs;
use std::process::Command;

const IDLE: &str = "while :; do sleep 1; done";

fn is_enabled() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

#[test]
fn a_profile_that_the_host_does_not_have_is_refused_by_name() {
    let node = Node::with_busybox("apparmor-none");
    let busybox = image("busybox");
    let refused = node.fails(1, &["create", "--security-opt", "apparmor=berth-no-such", &busybox]);
    let why = if is_enabled() { "no profile" } else { "AppArmor is not enabled" };
    assert!(refused.contains("--security-opt apparmor") && refused.contains("berth-no-such"), "{refused}");
    assert!(refused.contains(why), "{refused}");
    let both = "apparmor=x\u{7}";
    assert!(node.fails(1, &["create", "--security-opt", both, &busybox]).contains("must be the name"));
    assert_eq!(node.sh(&["--security-opt", "apparmor=unconfined"], "echo runs"), "runs");
    let line = node.ok(&["info"]).lines().find(|l| l.starts_with("AppArmor:")).expect("a line").to_owned();
    assert_eq!(line.contains("not enabled"), !is_enabled(), "{line}");
    let id = node.ok(&["create", "--security-opt", "apparmor=unconfined", &busybox]);
    let template = "{{.AppArmorProfile}} {{.HostConfig.SecurityOpt}}";
    assert_eq!(node.ok(&["inspect", "--format", template, &id]), "unconfined [no-new-privileges apparmor=unconfined]");
    node.ok(&["rm", &id]);
    node.finish();
}

/// Needs a kernel with AppArmor, securityfs and apparmor_parser; without the first there is nothing to see.
#[test]
fn the_default_profile_is_around_all_processes() {
    if !is_enabled() {
        return runtimes::say("skipped: AppArmor's default profile: this host has no AppArmor");
    }
    let profile = format!("{}/deploy/apparmor/berth-default", source_dir().display());
    let parser = |verb: &str| {
        let status = Command::new("apparmor_parser").args([verb, &profile]).status();
        assert!(status.expect("apparmor_parser").success());
    };
    let node = Node::with_busybox("apparmor");
    let (current, confined) = ("cat /proc/self/attr/current", "berth-default (enforce)");
    assert_eq!(node.sh(&[], current), "unconfined");
    parser("-r");
    assert_eq!(node.sh(&[], current), confined);
    let nnp = ["-u", "7", "--security-opt", "no-new-privileges"];
    let landlock = ["--security-opt", "landlock=on"];
    for options in [&[][..], &["--userns", "host"], &nnp, &["-t"], &landlock] {
        let both = node.sh(options, &format!("{current}; cat /proc/1/attr/current")).replace('\r', "");
        assert_eq!(both, format!("{confined}\n{confined}"), "{options:?}");
    }
    for options in [&["--privileged"][..], &["--security-opt", "apparmor=unconfined"]] {
        assert_eq!(node.sh(options, current), "unconfined", "{options:?}");
    }
    // What it denies, and what it does not.
    let mount = "mount -t tmpfs none /tmp";
    let admin = ["--cap-add", "SYS_ADMIN"];
    let output = node.sh_output(&admin, mount);
    assert!(output.code != 0 && output.stderr.contains("denied"), "{output:?}");
    node.sh(&[&admin[..], &["--security-opt", "apparmor=unconfined"]].concat(), mount);
    let works = "set -e; sleep 9 & kill -9 $!; cat /proc/1/environ >/dev/null; echo x >/dev/shm/x; mkfifo /p; hostname; echo y >/dev/stdout";
    assert!(node.sh(&[], works).ends_with('y'));
    let id = node.detached(&["--health-cmd", current, "--init"], IDLE);
    // The init that executes nothing, whose memory is its own.
    let init = node.ok(&["inspect", "--format", "{{.State.Pid}}", &id]);
    assert_eq!(fs::read_to_string(format!("/proc/{init}/attr/current")).expect("label").trim(), confined);
    assert_eq!(node.ok(&["exec", &id, "cat", "/proc/self/attr/current"]), confined);
    assert_eq!(node.ok(&["exec", "--privileged", &id, "cat", "/proc/self/attr/current"]), "unconfined");
    node.ok(&["exec", &id, "kill", "-0", "1"]);
    node.ok(&["stop", "-t", "1", &id]);
    node.ok(&["rm", &id]);
    parser("-R");
    assert_eq!(node.sh(&[], current), "unconfined");
    node.finish();
}
