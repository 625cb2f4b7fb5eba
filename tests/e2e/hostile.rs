//! Images that want to hurt the host: contained or refused, in both layer stores.

use crate::harness::{Node, image, test_dir};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// May be pulled or refused; nothing outside the image changes.
const CONTAINED: &[&str] = &[
    "dotdot",
    "absolute",
    "symlink",
    "symlink-below",
    "hardlink",
    "hardlink-write",
    "hardlink-mode",
    "whiteout-root",
    "opaque-root",
    "device-host",
    "bomb",
    "name-64k",
];
/// Must be refused.
const REFUSED: &[&str] =
    &["bomb-size", "pax-broken", "pax-huge", "pax-nul", "checksum", "truncated", "diff-id", "layer-count"];

fn hostile(store: &str) {
    let victim = test_dir().join("victim");
    fs::create_dir_all(&victim).expect("victim");
    fs::write(victim.join("target"), "untouched").expect("target");
    let owner_and_mode = || fs::metadata(victim.join("target")).map(|m| (m.uid(), m.mode())).expect("target");
    let was = owner_and_mode();
    let shadow = fs::read("/etc/shadow").expect("shadow");
    let before = names(&victim);
    let node = Node::builder(&format!("hostile-{store}")).images(&format!("layer_store = \"{store}\"")).start();
    for name in CONTAINED {
        let image = image(&format!("hostile-{name}"));
        let pull = node.ctl(&["pull", "-q", &image]);
        if pull.code == 0 {
            let script = "cat /h1 /h2 /h3 2>/dev/null; head -c 1 /dev/disk /disk /mem /kmsg 2>/dev/null; for f in /h /s /out /rel; do cat $f/target; done 2>/dev/null; exit 0";
            let run = node.ctl(&["run", "--rm", "--network", "none", &image, "sh", "-c", script]);
            assert!(!run.stdout.contains("root:") && !run.stdout.contains("untouched"), "{name}: {run:?}");
        } else {
            assert!(pull.stderr.starts_with("error: "), "{name}: {pull:?}");
        }
        assert_eq!(fs::read_to_string(victim.join("target")).expect("target"), "untouched", "{name}");
        assert_eq!(names(&victim), before, "{name}");
        assert_eq!(owner_and_mode(), was, "{name}");
        assert_eq!(fs::read("/etc/shadow").expect("shadow"), shadow, "{name}");
        assert!(!std::path::Path::new("/etc/berth-hostile").exists(), "{name}");
    }
    for name in REFUSED {
        let output = node.ctl(&["pull", "-q", &image(&format!("hostile-{name}"))]);
        assert_eq!(output.code, 1, "{name}: {output:?}");
        assert!(output.stderr.starts_with("error: ") && output.stderr.len() < 4000, "{name}: {output:?}");
        assert!(!output.stderr.contains("panicked"), "{name}: {output:?}");
    }
    // The bomb and the huge records went through without the agent growing with them.
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status");
    let peak: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .expect("VmHWM")
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("kB");
    assert!(peak < 400 << 10, "peak of {peak} kB");
    node.finish();
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).expect("victim").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn hostile_layers_in_the_erofs_store() {
    hostile("erofs");
}

#[test]
fn hostile_layers_in_the_directory_store() {
    hostile("directory");
}
