//! Limits of what a container's own files take: by a file system of their own, and by project quotas where the disk has these.

use crate::harness::{Node, image, quotas, until};
use berth_sys::quota::{Quotas, Used, project};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
const SIZE: &[&str] = &["--storage-opt", "size=16m"];
const FULL: &str = "dd if=/dev/zero of=/full bs=64k count=400";
const MANY: &str = "mkdir -p /many && cd /many && i=0; while [ $i -lt 5000 ]; do : >f$i || exit 1; i=$((i + 1)); done";

fn folder(node: &Node, container: &str) -> PathBuf {
    let id = node.inspect(container)["Id"].as_str().expect("id").to_owned();
    node.data().join("containers").join(id)
}

/// Mounts of containers' own files on this host.
fn mounts(node: &Node) -> usize {
    let containers = node.data().join("containers").display().to_string();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    table.lines().filter(|line| line.contains(&containers)).count()
}

/// Loop devices over files of the node.
fn devices(node: &Node) -> usize {
    let data = node.data().join("containers").display().to_string();
    let of = |device: &fs::DirEntry| fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
    fs::read_dir("/sys/block").expect("devices").flatten().filter(|d| of(d).contains(&data)).count()
}

/// All that a container with a limit is promised; `said`: what a writer hears, `by`: what keeps the limit.
fn is_kept(mut node: Node, said: &str, by: &str) {
    let run = [&["--name", "box", "--network", "bridge"][..], SIZE].concat();
    node.detached(&run, SLEEP);
    node.detached(&["--name", "free"], SLEEP);
    let shown = node.inspect("box");
    assert_eq!(shown["HostConfig"]["StorageOpt"], serde_json::json!({"size": "16777216"}), "{shown}");
    assert_eq!(shown["StorageLimitedBy"], by);
    assert!(node.inspect("free")["HostConfig"]["StorageOpt"].is_null());

    // Full is full, in bytes and in files; and its /etc/hosts is its own, too.
    let hosts = "dd if=/dev/zero of=/etc/hosts bs=64k count=400 conv=notrunc";
    for (script, clear) in [(FULL, "rm /full"), (MANY, "rm -r /many"), (hosts, "echo 127.0.0.1 localhost >/etc/hosts")]
    {
        let full = node.ctl(&["exec", "box", "sh", "-c", script]);
        assert!(full.code != 0 && full.stderr.contains(said), "{script}: {full:?}");
        let other = node.ctl(&["exec", "box", "sh", "-c", "dd if=/dev/zero of=/other bs=64k count=64"]);
        assert!(other.code != 0 || script == MANY, "{script}: {other:?}");
        node.ok(&["exec", "free", "sh", "-c", "dd if=/dev/zero of=/x bs=1M count=32 2>/dev/null && rm /x"]);
        node.ok(&["exec", "box", "sh", "-c", &format!("rm -f /other; {clear}")]);
    }
    // Links, and names that move, stay within it.
    node.ok(&[
        "exec",
        "box",
        "sh",
        "-c",
        "echo kept >/a; ln /a /b; mv /etc/group /group; mkdir /d; mv /d /e; mv /a /e/a",
    ]);

    // A copy that does not fit says whose limit it is.
    let file = node.scratch().join("file");
    fs::write(&file, vec![b'x'; 20 << 20]).expect("file");
    let file = file.display().to_string();
    for (state, fill) in [("running", FULL), ("stopped", MANY)] {
        let refused = node.fails(1, &["cp", &file, "box:/copy"]);
        assert!(refused.contains("container box is full") && refused.contains("16777216 bytes"), "{state}: {refused}");
        assert!(refused.contains("--storage-opt size=") && !refused.contains("system df"), "{state}: {refused}");
        // Full, it ends and starts, also behind a new agent, and what it has is there.
        assert_ne!(node.ctl(&["start", "box"]).code, 1);
        assert_ne!(node.ctl(&["exec", "box", "sh", "-c", &format!("rm -f /copy; {fill}")]).code, 0);
        node.restart();
        node.ok(&["restart", "-t", "1", "box"]);
        assert_eq!(node.ok(&["exec", "box", "cat", "/e/a", "/b"]), "kept\nkept");
        assert_ne!(node.ctl(&["exec", "box", "sh", "-c", "dd if=/dev/zero of=/other bs=64k count=64"]).code, 0);
        node.ok(&["exec", "box", "rm", "-rf", "/full", "/many", "/other"]);
        node.ok(&["stop", "-t", "1", "box"]);
    }
    // Full before its first start, too.
    let tree = node.scratch().join("tree");
    fs::create_dir(&tree).expect("tree");
    (0..20).for_each(|n| fs::write(tree.join(n.to_string()), vec![b'x'; 1 << 20]).expect("file"));
    let (busybox, script) = (image("busybox"), "[ -s /copy/0 ] && rm -r /copy && echo x >/x");
    let make =
        ["create", "--name", "new", "--network", "none", "--storage-opt", "size=16m", &busybox, "sh", "-c", script];
    node.ok(&make);
    let refused = node.fails(1, &["cp", &tree.display().to_string(), "new:/copy"]);
    assert!(refused.contains("container new is full"), "{refused}");
    node.ok(&["start", "new"]);
    assert_eq!(node.ok(&["wait", "new"]), "0", "{}", node.ok(&["logs", "new"]));
    node.ok(&["rm", "new"]);
    is_read(&mut node);
    node.ok(&["rm", "-f", "box", "free"]);
    // What removes itself.
    assert_ne!(node.sh_output(SIZE, FULL).code, 0);
    until("nothing is left", || mounts(&node) + devices(&node) == 0);
    let containers = node.data().join("containers");
    until("no folder is left", || fs::read_dir(&containers).is_ok_and(|mut all| all.next().is_none()));
    node.finish();
}

/// Whoever only looks finds the same, whether it runs or not.
fn is_read(node: &mut Node) {
    for state in ["stopped", "running"] {
        if state == "stopped" {
            until("nobody needs it", || mounts(node) == 0);
        } else {
            node.ok(&["start", "box"]);
        }
        let changed = node.ok(&["diff", "box"]);
        assert!(changed.lines().any(|l| l == "A /e/a") && changed.lines().any(|l| l == "D /etc/group"), "{changed}");
        let tar = node.scratch().join("tar").display().to_string();
        node.ok(&["export", "-o", &tar, "box"]);
        assert!(crate::harness::disk::tool("tar", &["-tf", &tar]).lines().any(|l| l.ends_with("e/a")));
        node.ok(&["commit", "box", "made:1"]);
        let made = ["run", "--rm", "--network", "none", "--pull", "never", "made:1", "cat", "/e/a"];
        assert_eq!(node.ok(&made), "kept");
        node.ok(&["cp", "box:/e/a", &node.scratch().join("out").display().to_string()]);
        node.ok(&["rmi", "made:1"]);
        assert!(node.ok(&["system", "df", "-v"]).contains("box"));
    }
    node.ok(&["stop", "-t", "1", "box"]);
}

#[test]
fn a_file_system_of_its_own_keeps_it() {
    is_kept(Node::with_busybox("storage-loop"), "No space left on device", "loop");
}

#[test]
fn a_quota_of_ext4_keeps_it() {
    if let Some(node) = quotas::node("ext4", "storage-ext4") {
        is_kept(node, "Disk quota exceeded", "quota");
    }
}

#[test]
fn a_quota_of_xfs_keeps_it() {
    if let Some(node) = quotas::node("xfs", "storage-xfs") {
        is_kept(node, "No space left on device", "quota");
    }
}

fn counted(node: &Node, container: &str) -> (u32, Used) {
    let own = folder(node, container).join("own");
    let project = project(File::open(own).expect("own").as_fd()).expect("fsxattr").expect("a project");
    (project, of_project(node, project))
}

fn of_project(node: &Node, project: u32) -> Used {
    Quotas::of(&node.data()).and_then(|quotas| quotas.get(project)).expect("quotactl")
}

#[test]
fn projects_are_its_own_and_come_free() {
    let Some(mut node) = quotas::node("ext4", "storage-projects") else { return };
    node.ok(&["volume", "create", "--opt", "size=16m", "volume"]);
    let made = |name: &'static str, more: &[&str]| {
        node.detached(&[&["--name", name, "-v", "volume:/volume"], SIZE, more].concat(), SLEEP);
    };
    made("one", &["--storage-opt", "inodes=100"]);
    made("two", &[]);
    let ((one, limits), (two, _)) = (counted(&node, "one"), counted(&node, "two"));
    assert_eq!((limits.most_bytes, limits.most_files), (16 << 20, 100));
    let volume = File::open(node.data().join("volumes/volume/_data")).expect("data");
    let volume = project(volume.as_fd()).expect("fsxattr").expect("a project");
    assert!(one != two && ![one, two].contains(&volume));
    // In the host's user namespace it could leave a project.
    made("host", &["--userns", "host"]);
    assert_eq!(node.inspect("host")["StorageLimitedBy"], "loop");
    let escape = format!("{}:/escape:ro", crate::escapes::program().display());
    let left = node.sh_output(&[SIZE, &["-v", &escape]].concat(), "/escape project /");
    assert_eq!((left.code, left.stdout.as_str()), (0, ""), "{left:?}");
    // Whoever changes a limit behind the agent's back finds it as it was at the next start.
    Quotas::of(&node.data()).and_then(|quotas| quotas.set(one, 1 << 30, 0)).expect("quotactl");
    node.ok(&["restart", "-t", "1", "one"]);
    assert_eq!(counted(&node, "one").1.most_bytes, 16 << 20);
    node.restart();
    made_again(&node, &[one, two, volume]);
    node.ok(&["rm", "-f", "one", "two", "host"]);
    until("the numbers are free", || [one, two].iter().all(|p| of_project(&node, *p) == Used::default()));
    until("nobody has it", || node.ctl(&["volume", "rm", "volume"]).code == 0);
    node.finish();
}

/// A new agent gives nobody's number away.
fn made_again(node: &Node, taken: &[u32]) {
    node.detached(&[&["--name", "three"], SIZE].concat(), SLEEP);
    assert!(!taken.contains(&counted(node, "three").0));
    node.ok(&["rm", "-f", "three"]);
}

#[cfg(feature = "failpoints")]
fn dies_at_every_step(mut node: Node) {
    use crate::network_faults::dies;
    let busybox = image("busybox");
    let make = ["create", "--name", "box", "--network", "none", "--storage-opt", "size=16m", &busybox, "true"];
    let run = ["run", "--rm", "--network", "none", "--storage-opt", "size=16m", &busybox, "true"];
    let start = ["start", "box"];
    let remove = ["rm", "-f", "box"];
    let containers = node.data().join("containers");
    for point in ["own.before_limit", "own.after_limit", "create.after_layer", "create.after_record"] {
        dies(&mut node, point, &make);
        if node.ctl(&["inspect", "box"]).code != 0 {
            node.ok(&make);
        }
        node.ok(&start);
        assert_eq!(node.ok(&["wait", "box"]), "0", "{point}");
        node.ok(&remove);
    }
    for point in ["own.after_limit", "own.after_mount", "start.after_mount", "start.after_spawn"] {
        dies(&mut node, point, &run);
        until("it is taken apart", || node.ok(&["ps", "-aq"]).is_empty());
    }
    for (point, act) in [
        ("own.after_mount", &start[..]),
        ("start.after_spawn", &start),
        ("start.after_running", &start),
        ("exit.after_record", &start),
        ("remove.after_umount", &remove),
        ("remove.after_tree", &remove),
    ] {
        // One that has run is settled by every new agent, and one that goes is taken apart: the agent would die of that.
        until("the last one is gone", || fs::read_dir(&containers).is_ok_and(|mut all| all.next().is_none()));
        node.ok(&make);
        dies(&mut node, point, act);
        node.ok(&remove);
    }
    until("no folder is left", || fs::read_dir(&containers).is_ok_and(|mut all| all.next().is_none()));
    until("no mount is left", || mounts(&node) + devices(&node) == 0);
    if let Ok(quotas) = Quotas::of(&node.data())
        && quotas.enforced().unwrap_or(false)
    {
        let first = berth_volume::PROJECTS.start;
        for project in first..first + 32 {
            until("no limit is left", || of_project(&node, project) == Used::default());
        }
    }
    node.finish();
}

#[cfg(feature = "failpoints")]
#[test]
fn an_agent_that_dies_leaves_no_file_system_behind() {
    dies_at_every_step(Node::with_busybox("storage-faults"));
}

#[cfg(feature = "failpoints")]
#[test]
fn an_agent_that_dies_leaves_no_quota_behind() {
    if let Some(node) = quotas::node("ext4", "storage-quota-faults") {
        dies_at_every_step(node);
    }
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let node = Node::with_busybox("storage-refused");
    let busybox = image("busybox");
    for (options, code, words) in [
        (&["size=1k"][..], 125, "--storage-opt size"),
        (&["size=17t"], 125, "--storage-opt size"),
        (&["inodes=100"], 125, "--storage-opt inodes: needs"),
        (&["size=16m", "inodes=7"], 125, "--storage-opt inodes"),
        (&["size=ten"], 125, "--storage-opt"),
        (&["dm.basesize=1g"], 125, "there are size=SIZE and inodes=NUMBER"),
        (&["size=15t"], 125, "are to be reserved, and the disk has"),
    ] {
        let options: Vec<&str> = options.iter().flat_map(|o| ["--storage-opt", o]).collect();
        let said =
            node.fails(code, &[&["run", "--rm", "--network", "none"], &options[..], &[&busybox, "true"]].concat());
        assert!(said.contains(words), "{options:?}: {said}");
    }
    let said = node.fails(1, &["create", "--storage-opt", "size=15t", &busybox, "true"]);
    assert!(said.contains("are to be reserved"), "{said}");
    // Nothing of it is left, and no limit is none.
    assert_eq!(node.ok(&["ps", "-aq"]), "");
    node.sh(&["--storage-opt", "size=0"], "dd if=/dev/zero of=/x bs=1M count=32 2>/dev/null");
    let few = ["--storage-opt", "size=16m", "--storage-opt", "inodes=64"];
    assert_ne!(node.sh_output(&few, MANY).code, 0);
    node.finish();
}

#[test]
fn a_default_is_for_all_who_may_not_have_more() {
    let default = |name: &str, policy: &str| {
        let node = Node::builder(name).containers("default_storage_bytes = 16777216").table(policy).start();
        node.ok(&["pull", "-q", &image("busybox")]);
        node
    };
    let node = default("storage-default", "");
    let busybox = image("busybox");
    let run = |node: &Node, role: &str, options: &[&str]| {
        let options: Vec<&str> = options.iter().flat_map(|o| ["--storage-opt", o]).collect();
        let script = "stat -f -c '%b %S' / | { read n s; echo $((n * s <= 16777216)); }";
        let words = [&["run", "--rm", "--network", "none"], &options[..], &[&busybox, "sh", "-c", script]].concat();
        node.ctl_as(&node.pki.identity(role), &words)
    };
    for role in ["operator", "admin"] {
        for options in [&[][..], &["size=16m"], &["size=8m"], &["size=16m", "inodes=1000"]] {
            let ran = run(&node, role, options);
            assert_eq!((ran.code, ran.stdout.trim()), (0, "1"), "{role} {options:?}: {ran:?}");
        }
    }
    for options in [&["size=0"][..], &["size=17m"], &["inodes=100000"]] {
        let denied = run(&node, "operator", options);
        assert!(denied.code == 125 && denied.stderr.contains("policy.operator.storage"), "{options:?}: {denied:?}");
    }
    for options in [&["size=0"][..], &["size=32m"]] {
        let ran = run(&node, "admin", options);
        assert_eq!((ran.code, ran.stdout.trim()), (0, "0"), "{options:?}: {ran:?}");
    }
    // Nor does anybody get more by going into one that has it.
    node.detached(&["--name", "large", "--storage-opt", "size=0"], SLEEP);
    let exec = ["exec", "large", "true"];
    let denied = node.ctl_as(&node.pki.identity("operator"), &exec);
    assert!(denied.stderr.contains("policy.operator.storage"), "{denied:?}");
    node.ok(&["rm", "-f", "large"]);
    node.finish();
    let node = default("storage-permitted", "[policy.operator]\nstorage = true");
    let ran = run(&node, "operator", &["size=0"]);
    assert_eq!((ran.code, ran.stdout.trim()), (0, "0"), "{ran:?}");
    node.finish();
}
