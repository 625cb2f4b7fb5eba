//! The power goes at any write of the agent's disk: what was answered for is there after the reboot, what is listed is whole, and nothing has
//! to be mended by hand.
//!
//! One run of work is recorded, write by write (`harness::disk`). Then the disk is put together as it was at some point of the record, with
//! all, none or some of the writes that no flush had covered; its file system is mounted (the journal is replayed), and an agent is
//! started on it, in a mount namespace that has another boot id. `BERTH_TEST_POWERCUTS` says at how many points (tests/powercut.sh: many).

use crate::harness::disk::{Cache, Disk, Entry, Recording, tool};
use crate::harness::{Node, image, until};
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: usize = 1 << 20;
const SIZE: usize = 96 * MIB;

/// One act of the recorded work.
struct Act {
    what: &'static str,
    /// Entries of the record when it was begun, and when it was answered.
    begun: usize,
    answered: usize,
    /// What holds from its answer on, until the act whose name this is has begun.
    until: Option<&'static str>,
    holds: fn(&Node, &str),
}

fn listed(node: &Node, name: &str) -> bool {
    node.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).lines().any(|line| line.ends_with(name))
}

/// The work: every kind of change that is promised to last.
fn record(node: &Node, disk: &Disk) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut act = |what, until, arguments: &[&str], holds| {
        let begun = disk.position();
        node.ok(arguments);
        acts.push(Act { what, begun, answered: disk.position(), until, holds });
    };
    let (busybox, layered) = (image("busybox"), image("layered"));
    act("pull", None, &["pull", "-q", &busybox], |n, at| assert!(listed(n, "busybox:latest"), "{at}"));
    act(
        "create",
        Some("remove"),
        &["create", "--name", "kept", "--network", "none", &busybox, "sh", "-c", "echo said; echo made >/made; exit 7"],
        |n, at| {
            let state = n.inspect("kept")["State"]["Status"].as_str().unwrap_or_default().to_owned();
            assert!(matches!(state.as_str(), "created" | "exited"), "{at}: {state}");
            n.ok(&["start", "kept"]);
            assert_eq!(n.ok(&["wait", "kept"]), "7", "{at}");
        },
    );
    act("start", None, &["start", "kept"], |_, _| {});
    act("end", Some("remove"), &["wait", "kept"], |_, _| {});
    act("commit", None, &["commit", "kept", "made:1"], |n, at| {
        let read = ["run", "--rm", "--pull", "never", "--network", "none", "made:1", "cat", "/made"];
        assert_eq!(n.ok(&read), "made", "{at}");
    });
    act("pull more", Some("remove image"), &["pull", "-q", &layered], |n, at| {
        assert!(listed(n, "layered:latest"), "{at}");
    });
    act("tag", None, &["tag", &busybox, "named:1"], |n, at| assert!(listed(n, "named:1"), "{at}"));
    act("remove", None, &["rm", "-f", "kept"], |n, at| {
        assert_ne!(n.ctl(&["inspect", "kept"]).code, 0, "{at}: what was removed is back");
    });
    act("remove image", None, &["rmi", "-f", &layered], |n, at| assert!(!listed(n, "layered:latest"), "{at}"));
    acts
}

/// The points to look at: before each flush and behind it come first, for there it is decided what is safe.
fn points(recording: &Recording, count: usize) -> Vec<(usize, Cache)> {
    let flushes = recording.log.iter().enumerate().filter(|(_, e)| matches!(e, Entry::Flush)).map(|(at, _)| at);
    let edges: Vec<usize> = flushes.flat_map(|at| [at, at + 1]).collect();
    let all: Vec<usize> = if count >= 2 * edges.len() { (0..=recording.log.len()).collect() } else { edges };
    let step = (all.len() as f64 / count as f64).max(1.0);
    let chosen = (0..).map(|i| (f64::from(i) * step) as usize).take_while(|at| *at < all.len());
    let caches = [Cache::Lost, Cache::Some(1), Cache::Kept, Cache::Some(2)];
    chosen.enumerate().map(|(i, at)| (all[at], caches[i % caches.len()])).collect()
}

/// Writes a disk with holes where it is empty: hundreds of them must not fill this machine's.
fn sparse(path: &Path, disk: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).expect("raw");
    file.set_len(disk.len() as u64).expect("raw");
    for (at, block) in disk.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
        file.write_all_at(block, at as u64 * 4096).expect("raw");
    }
}

fn mount(device: &str, at: &Path) {
    tool("mount", &["-t", "ext4", "-o", "commit=1", device, at.to_str().expect("utf-8")]);
}

/// A program that starts the agent with a boot id of its own, as it is after a reboot.
fn rebooted(node: &Node, boot: usize) -> PathBuf {
    let path = node.dir.join("rebooted");
    let id = node.dir.join("boot-id");
    std::fs::write(&id, format!("00000000-0000-4000-8000-{boot:012}\n")).expect("boot id");
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {} /proc/sys/kernel/random/boot_id && exec {} \"$@\"' sh \"$@\"\n",
        id.display(),
        crate::harness::binary("berthd", env!("CARGO_BIN_EXE_berthd")).display()
    );
    std::fs::write(&path, text).expect("script");
    tool("chmod", &["755", path.to_str().expect("utf-8")]);
    path
}

/// Everything that is listed is whole: its layers by their digests, and in a container.
fn whole(node: &Node, at: &str) {
    let check = node.ctl(&["agent", "check"]);
    assert_eq!(check.code, 0, "{at}: {check:?}");
    for line in node.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).lines() {
        let output = node.ctl(&["run", "--rm", "--pull", "never", "--network", "none", line, "true"]);
        assert_eq!(output.code, 0, "{at}: {line} is listed: {output:?}\n{}", node.agent_log());
    }
}

#[test]
fn what_was_answered_for_is_there_after_a_power_cut() {
    let count = std::env::var("BERTH_TEST_POWERCUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(16);
    let mut node = Node::start("powercut");
    node.kill_agent();
    let raw = node.scratch().join("raw");
    std::fs::write(&raw, vec![0; SIZE]).expect("raw");
    tool("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", raw.to_str().expect("utf-8")]);
    let (recording, acts) = {
        let mut disk = Disk::serve(&node.scratch().join("fuse"), std::fs::read(&raw).expect("raw"));
        mount(&disk.attach(), &node.data());
        node.spawn();
        let acts = record(&node, &disk);
        node.kill_agent();
        let recording = disk.recording();
        // The killed agent's helpers let go of it when they notice; where overlayfs takes layers by path only (before Linux 6.13), those that were
        // mounted below it stay for the next agent.
        until("it is unmounted", || {
            Command::new("umount").arg("-R").arg(node.data()).status().is_ok_and(|status| status.success())
        });
        (recording, acts)
    };
    assert!(recording.log.iter().filter(|e| matches!(e, Entry::Flush)).count() > 10, "flushes are recorded");
    let points = points(&recording, count);
    println!("{} writes and flushes, {} points", recording.log.len(), points.len());
    for (boot, (n, cache)) in points.into_iter().enumerate() {
        let at = format!("after {n} of {} entries, {cache:?}", recording.log.len());
        // A file of its own: what the kernel still holds of the last mount must not write into this one.
        let raw = node.scratch().join(format!("raw-{boot}"));
        sparse(&raw, &recording.at(n, cache));
        let device = tool("losetup", &["-f", "--show", raw.to_str().expect("utf-8")]);
        mount(&device, &node.data());
        let _ = std::fs::remove_dir_all(node.dir.join("run/containers"));
        node.set_program(&rebooted(&node, boot));
        node.spawn();
        whole(&node, &at);
        for act in &acts {
            let ended = act.until.and_then(|name| acts.iter().find(|a| a.what == name)).map_or(usize::MAX, |a| a.begun);
            if act.answered <= n && n < ended {
                (act.holds)(&node, &format!("{at}: {}", act.what));
            }
        }
        // And it goes on from here.
        node.ok(&["pull", "-q", &image("layered")]);
        node.ok(&["pull", "-q", &image("busybox")]);
        assert_eq!(node.sh(&["--pull", "never"], "echo fine"), "fine", "{at}");
        whole(&node, &at);
        node.kill_agent();
        tool("umount", &["-l", node.data().to_str().expect("utf-8")]);
        let _ = Command::new("losetup").args(["-d", &device]).status();
        std::fs::remove_file(&raw).expect("raw");
    }
    node.set_program(&crate::harness::binary("berthd", env!("CARGO_BIN_EXE_berthd")));
    node.finish();
}

/// A layer whose bytes have changed on the disk is found by `check`, and it alone is fetched again.
#[test]
fn a_damaged_layer_is_found_and_fetched_again_alone() {
    let node = Node::with_busybox("powercut-repair");
    node.ok(&["pull", "-q", &image("layered")]);
    assert_eq!(node.ctl(&["agent", "check"]).code, 0);
    let layers = node.data().join("layers/layers/sha256");
    let largest = std::fs::read_dir(&layers).expect("layers").flatten().map(|e| e.path().join("layer.tar"));
    let largest = largest.max_by_key(|p| p.metadata().map_or(0, |m| m.len())).expect("layer");
    let mut bytes = std::fs::read(&largest).expect("layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&largest, bytes).expect("layer");
    let found = node.ctl(&["agent", "check"]);
    assert!(found.code == 1 && found.stdout.contains("layered"), "{found:?}");
    assert!(!found.stdout.contains("busybox:"), "only that layer: {found:?}");
    // A create mends it; the others stay as they are.
    let others = |node: &Node| -> Vec<_> {
        let entries = std::fs::read_dir(node.data().join("layers/layers/sha256")).expect("layers").flatten();
        let times = entries
            .map(|e| (e.file_name(), std::fs::metadata(e.path().join("meta.json")).and_then(|m| m.modified()).ok()));
        times.filter(|(name, _)| Some(name.as_os_str()) != largest.parent().and_then(Path::file_name)).collect()
    };
    let mut before = others(&node);
    let image = image("layered");
    assert_eq!(node.ok(&["run", "--rm", "--network", "none", &image, "sh", "-c", "wc -c < /noise"]), "8388608");
    let mut after = others(&node);
    before.sort();
    after.sort();
    assert_eq!(before, after, "only the damaged one was fetched");
    assert_eq!(node.ctl(&["agent", "check"]).code, 0);
    // A damaged configuration: the manifest and it are small, a pull brings them back.
    let blobs = node.data().join("images/blobs/sha256");
    for blob in std::fs::read_dir(&blobs).expect("blobs").flatten() {
        std::fs::write(blob.path(), b"damaged").expect("blob");
    }
    assert_eq!(node.ctl(&["agent", "check"]).code, 1);
    node.ok(&["pull", "-q", &image]);
    node.ok(&["pull", "-q", &crate::harness::image("busybox")]);
    assert_eq!(node.ctl(&["agent", "check"]).code, 0);
    node.finish();
}
