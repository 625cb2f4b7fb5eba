//! What advisories of other engines have told, beside the escapes (`escapes.rs`): each as an attack that is made for real.

use crate::harness::{Node, image, runtimes};
use std::time::Instant;

const IDLE: &str = "while :; do sleep 1; done";

/// CVE-2022-36109, CVE-2022-2989, CVE-2022-2990, CVE-2022-2995: a process leaves its primary group, and passes what is closed to that group.
#[test]
fn a_group_cannot_be_left() {
    let node = Node::with_busybox("advisory-groups");
    let id = node.detached(&["-u", "1000:1000"], IDLE);
    for groups in [node.ok(&["exec", &id, "id", "-G"]), node.ok(&["exec", "-u", "1000:1000", &id, "id", "-G"])] {
        assert_eq!(groups.split_whitespace().collect::<Vec<_>>(), ["1000"], "{groups}");
    }
    let supplementary = node.ok(&["exec", &id, "grep", "Groups:", "/proc/self/status"]);
    assert_eq!(supplementary.split_whitespace().collect::<Vec<_>>(), ["Groups:", "1000"]);
    // The control: a file that is closed to the group alone.
    let script = "echo secret >/tmp/f; chown 0:1000 /tmp/f; chmod 604 /tmp/f";
    node.ok(&["exec", "-u", "0", &id, "sh", "-c", script]);
    assert!(node.ctl(&["exec", &id, "cat", "/tmp/f"]).stderr.contains("denied"));
    assert_eq!(node.ok(&["exec", "-u", "1001:1001", &id, "cat", "/tmp/f"]), "secret");
    node.ok(&["rm", "-f", &id]);
    node.finish();
}

/// CVE-2024-9676 and its like: passwd and group of an image are links, pipes or without end, and the engine reads them.
#[test]
fn the_users_of_an_image_are_read_inside_and_bounded() {
    let node = Node::with_busybox("advisory-passwd");
    std::fs::write(node.scratch().join("passwd"), "intruder:x:0:0::/:/bin/sh\n").expect("passwd");
    let host = node.scratch().join("passwd").display().to_string();
    let makes = [
        ("outside", format!("ln -s {host} /etc/passwd")),
        ("above", format!("ln -s ../../../../../../../..{host} /etc/passwd")),
        ("magic", "ln -s /proc/1/root/etc/passwd /etc/passwd".into()),
        ("pipe", "mkfifo /etc/passwd".into()),
        ("endless", "ln -s /dev/zero /etc/passwd".into()),
        ("large", "dd if=/dev/zero of=/etc/passwd bs=1M count=64 2>/dev/null".into()),
        ("folder", "mkdir /etc/passwd".into()),
    ];
    for (what, make) in makes {
        let name = format!("maker-{what}");
        node.ok(&["run", "--name", &name, &image("busybox"), "sh", "-c", &format!("rm -f /etc/passwd; {make}")]);
        let made = format!("users-{what}:1");
        node.ok(&["commit", &name, &made]);
        let begun = Instant::now();
        let output = node.ctl(&["run", "--rm", "--network", "none", "-u", "intruder", &made, "id", "-u"]);
        assert!(output.code == 125 && !output.stdout.contains('0'), "{what}: {output:?}");
        // A number needs no file.
        let look = ["run", "--rm", "--network", "none", "-u", "7", &made, "grep", "Uid:", "/proc/self/status"];
        let number = node.ctl(&look);
        assert!(number.code == 125 || number.stdout.starts_with("Uid:\t7\t"), "{what}: {number:?}");
        assert!(begun.elapsed().as_secs() < 20, "{what}: {:?}", begun.elapsed());
        node.ok(&["rm", &name]);
        node.ok(&["rmi", &made]);
    }
    // The control: whom a file of the image's own names is found.
    let make = "echo intruder:x:7:7::/:/bin/sh >/etc/passwd";
    node.ok(&["run", "--name", "maker", &image("busybox"), "sh", "-c", make]);
    node.ok(&["commit", "maker", "users:1"]);
    assert_eq!(node.ok(&["run", "--rm", "--network", "none", "-u", "intruder", "users:1", "id", "-u"]), "7");
    node.ok(&["rm", "maker"]);
    node.finish();
}

/// CVE-2021-43784: a length that does not fit its field, in the message to the process that makes the container.
#[test]
fn long_words_arrive_whole() {
    let node = Node::with_busybox("advisory-lengths");
    for length in [65_535_usize, 65_536, 65_537, 131_000] {
        let value = format!("A={}", "a".repeat(length));
        assert_eq!(node.sh(&["-e", &value, "-e", "B=behind"], "echo ${#A} $B"), format!("{length} behind"));
    }
    let many: Vec<String> = (0..4000).map(|n| format!("V{n}={n}")).collect();
    let mut options: Vec<&str> = many.iter().flat_map(|v| ["-e", v.as_str()]).collect();
    options.extend(["-e", "LAST=behind"]);
    assert_eq!(node.sh(&options, "echo $V3999 $LAST"), "3999 behind");
    node.finish();
}

/// CVE-2023-25809: control groups of the host can be written to from a user namespace.
#[test]
fn control_groups_are_not_the_containers() {
    let node = Node::with_busybox("advisory-cgroups");
    let script = "for f in $(find /sys/fs/cgroup -name cgroup.procs 2>/dev/null) $(find /sys/fs/cgroup -name tasks 2>/dev/null); do \
        (echo $$ >>$f) 2>/dev/null && echo $f; done; \
        find /sys/fs/cgroup -maxdepth 2 -type d 2>/dev/null | while read d; do mkdir $d/attack 2>/dev/null && echo $d; done; true";
    let folder = if runtimes::leaves_folder_of_groups() { "/sys/fs/cgroup" } else { "" };
    for userns in ["auto", "host"] {
        let got = node.sh(&["--userns", userns], script);
        assert!(got.is_empty() || got == folder, "{userns}: {got}");
    }
    node.finish();
}

/// CVE-2022-1708, CVE-2022-31030: what a process in a container says without end is kept in the engine's memory.
#[test]
fn output_without_end_is_not_kept() {
    let node = Node::with_busybox("advisory-output");
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status");
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).expect("RssAnon").to_owned();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    let health = ["--health-cmd", "head -c 300000000 /dev/zero", "--health-interval", "1s", "--health-timeout", "8s"];
    node.detached(&[&["--name", "talker"][..], &health].concat(), IDLE);
    let before = memory();
    for _ in 0..3 {
        let output = node.ctl(&["exec", "-d", "talker", "sh", "-c", "head -c 300000000 /dev/zero"]);
        assert_eq!(output.code, 0, "{output:?}");
    }
    let mut worst = 0;
    let begun = Instant::now();
    while begun.elapsed().as_secs() < 4 {
        worst = worst.max(memory().saturating_sub(before));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(worst < 32 << 10, "{worst} KiB more");
    node.ok(&["rm", "-f", "talker"]);
    node.finish();
}
