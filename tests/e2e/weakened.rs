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

/// Of descriptors that stayed open: which led to a mark on the host by `..`, and which to some folder at all.
fn led_out(node: &Node, more: &[&str]) -> (Vec<u32>, Vec<u32>) {
    std::fs::write(node.scratch().join("mark"), "the host's").expect("mark");
    let way = format!("../../../../../../../../../../../../..{}/mark", node.scratch().display());
    let share = format!("{}:/share", node.scratch().display());
    let (mut found, mut entered) = (Vec::new(), Vec::new());
    for fd in 3..32 {
        let folder = format!("/proc/self/fd/{fd}");
        let options = [&["--userns", "host", "-v", &share, "-w", &folder], more].concat();
        let output = node.sh_output(&options, &format!("echo in; cat {way}"));
        entered.extend(output.stdout.contains("in").then_some(fd));
        found.extend(output.stdout.contains("the host's").then_some(fd));
    }
    (found, entered)
}

/// CVE-2024-21626
#[test]
fn descriptors_that_stay_open_lead_out() {
    let node = without("weak-descriptors", "descriptors");
    let (found, _) = led_out(&node, &[]);
    assert!(!found.is_empty(), "no descriptor led out");
    node.finish();
}

/// The same with the wall behind it: such a folder is entered, and nothing in it is opened.
#[test]
fn landlock_stands_behind_descriptors_that_stay_open() {
    let node = without("weak-landlock", "descriptors");
    let (control, _) = led_out(&node, &[]);
    let (found, entered) = led_out(&node, &["--security-opt", "landlock=on"]);
    assert!(!control.is_empty() && control.iter().all(|fd| entered.contains(fd)), "{control:?} {entered:?}");
    assert!(found.is_empty(), "{found:?}");
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
