//! The attacks of `escapes.rs` against an agent with one wall less (`BERTH_WEAKEN`, in builds with fail points only): each one works there, so
//! that the tests which see it fail would see it work.

use crate::harness::{Node, image};

/// An agent without these walls, which had them a moment ago.
fn without(name: &str, walls: &str) -> Node {
    let mut node = Node::with_busybox(name);
    node.set_env("BERTH_WEAKEN", Some(walls));
    node.restart();
    node
}

/// CVE-2024-21626
#[test]
fn descriptors_that_stay_open_lead_out() {
    let node = without("weak-descriptors", "descriptors");
    std::fs::write(node.scratch().join("mark"), "the host's").expect("mark");
    let way = format!("../../../../../../../../../../../../..{}/mark", node.scratch().display());
    let share = format!("{}:/share", node.scratch().display());
    let found = (3..32).any(|fd| {
        let folder = format!("/proc/self/fd/{fd}");
        let options = ["--userns", "host", "-v", &share, "-w", &folder];
        node.sh_output(&options, &format!("cat {way}")).stdout.contains("the host's")
    });
    assert!(found, "no descriptor led out");
    node.finish();
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642
#[test]
fn an_image_moves_the_kernels_files() {
    let node = without("weak-links", "links,proc");
    let image = image("hostile-proc-link");
    let output = node.ctl(&["run", "--rm", "--network", "none", "--userns", "host", &image, "ls", "/evil"]);
    assert!(output.code == 0 && output.stdout.contains("self"), "{output:?}");
    node.finish();
}

/// CVE-2019-16884, CVE-2025-52881
#[test]
fn something_is_mounted_over_proc() {
    let node = without("weak-proc", "proc");
    node.ok(&["volume", "create", "trap"]);
    node.sh(&["-v", "trap:/t"], "echo the attacker >/t/mark");
    assert_eq!(node.sh(&["-v", "trap:/proc/sys/net"], "cat /proc/sys/net/mark"), "the attacker");
    node.ok(&["volume", "rm", "trap"]);
    node.finish();
}
