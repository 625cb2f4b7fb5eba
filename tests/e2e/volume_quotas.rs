//! Sizes of volumes that are project quotas of the disk, and what is said where they cannot be.

use crate::harness::{Node, image, quotas, until};
use berth_sys::quota::{Quotas, Used, project, set_project};
use serde_json::Value;
use std::fs::{self, File};
use std::os::fd::AsFd;

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
/// Exits with the code of dd.
const FILL: &str = "dd if=/dev/zero of=/data/full bs=64k count=400";

fn seen(node: &Node, volume: &str) -> Value {
    serde_json::from_str::<Vec<Value>>(&node.ok(&["volume", "inspect", volume])).expect("json").remove(0)
}

/// The project of a volume, and what is set and counted for it.
fn counted(node: &Node, volume: &str) -> (u32, Used) {
    let data = node.data().join("volumes").join(volume).join("_data");
    let project = project(File::open(data).expect("data").as_fd()).expect("fsxattr").expect("a project");
    (project, of_project(node, project))
}

fn of_project(node: &Node, project: u32) -> Used {
    Quotas::of(&node.data()).and_then(|quotas| quotas.get(project)).expect("quotactl")
}

/// What a writer is told by a volume that is full, and that nothing else is.
fn is_kept(fs_type: &'static str, said: &str) {
    let Some(node) = quotas::node(fs_type, &format!("quota-{fs_type}")) else { return };
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    let shown = seen(&node, "small");
    assert_eq!((&shown["LimitedBy"], shown["LimitBytes"].as_u64()), (&Value::from("quota"), Some(16 << 20)), "{shown}");
    assert!(shown["UsedBytes"].as_u64().is_some_and(|used| used < 64 << 10), "{shown}");
    // It is as large as it says for who looks from inside.
    node.detached(&["--name", "box", "-v", "small:/data", "-v", "free:/free"], SLEEP);
    // busybox's df looks at the first mount of the disk, whichever that is: statfs(2) of the folder itself.
    let size = "set -- $(stat -f -c '%b %S' /data); echo $(($1 * $2))";
    assert_eq!(node.ok(&["exec", "box", "sh", "-c", size]), (16 << 20).to_string());
    let full = node.ctl(&["exec", "box", "sh", "-c", FILL]);
    assert!(full.code != 0 && full.stderr.contains(said), "{full:?}");
    let used = seen(&node, "small")["UsedBytes"].as_u64().expect("used");
    assert!((15 << 20..=16 << 20).contains(&used), "{used}");
    // So are files without a byte.
    let many =
        "mkdir /data/many && cd /data/many && i=0; while [ $i -lt 5000 ]; do : >f$i || exit 1; i=$((i + 1)); done";
    node.ok(&["exec", "box", "rm", "/data/full"]);
    assert!(node.ctl(&["exec", "box", "sh", "-c", many]).code != 0, "more files than 4096");
    node.ok(&["exec", "box", "sh", "-c", "rm -r /data/many; dd if=/dev/zero of=/free/x bs=1M count=32 2>/dev/null"]);
    assert!(
        node.ok(&["volume", "df"]).lines().any(|l| l.contains("small") && l.contains("16")),
        "{}",
        node.ok(&["volume", "df"])
    );

    // What the agent writes is held to it, too, and the volume is named.
    let file = node.scratch().join("file");
    fs::write(&file, vec![b'x'; 20 << 20]).expect("file");
    let refused = node.fails(1, &["cp", &file.display().to_string(), "box:/data/file"]);
    assert!(refused.contains("volume small is full") && refused.contains("project quota"), "{refused}");
    assert!(refused.contains("volume create --opt size=") && !refused.contains("system df"), "{refused}");
    node.ok(&["rm", "-f", "box"]);
    let tar = node.scratch().join("tar").display().to_string();
    node.ok(&["volume", "export", "-o", &tar, "free"]);
    until("nobody has it mounted", || {
        let import = node.ctl(&["volume", "import", "--replace", "small", &tar]);
        assert!(import.code != 0, "32 MiB in 16");
        import.stderr.contains("volume small is full")
    });
    let used = counted(&node, "small").1.bytes;
    assert!(used <= 16 << 20, "{used}");
    node.finish();
}

#[test]
fn a_size_is_a_quota_of_ext4() {
    is_kept("ext4", "Disk quota exceeded");
}

#[test]
fn a_size_is_a_quota_of_xfs() {
    is_kept("xfs", "No space left on device");
}

#[test]
fn projects_are_given_once_and_come_free() {
    let Some(mut node) = quotas::node("ext4", "quota-projects") else { return };
    for name in ["one", "two"] {
        node.ok(&["volume", "create", "--opt", "size=16m", name]);
    }
    node.sh(&["-v", "one:/data"], "echo kept >/data/file; dd if=/dev/zero of=/data/ten bs=1M count=10 2>/dev/null");
    let (one, limits) = counted(&node, "one");
    let (two, _) = counted(&node, "two");
    assert_ne!(one, two);
    assert_eq!((limits.most_bytes, limits.most_files), (16 << 20, 4096));
    // By the device, as before Linux 5.14, it is the same.
    let by_device = Quotas::by_device(&node.data()).expect("a device");
    assert_eq!(by_device.get(one).expect("quotactl"), limits);
    assert!(by_device.enforced().expect("quotactl"));
    // A clone has a project of its own; an import keeps to that of its volume.
    node.ok(&["volume", "clone", "one", "three"]);
    let (three, cloned) = counted(&node, "three");
    assert!(three != one && three != two && cloned.bytes >= 10 << 20 && cloned.most_bytes == 16 << 20, "{cloned:?}");
    let tar = node.scratch().join("tar").display().to_string();
    node.ok(&["volume", "export", "-o", &tar, "one"]);
    node.ok(&["volume", "import", "two", &tar]);
    assert_eq!(counted(&node, "two").0, two);
    assert!(counted(&node, "two").1.bytes >= 10 << 20);
    node.restart();
    assert_eq!((counted(&node, "one"), counted(&node, "three").0), ((one, counted(&node, "one").1), three));
    node.ok(&["volume", "create", "--opt", "size=8m", "four"]);
    let (four, _) = counted(&node, "four");
    assert!(![one, two, three].contains(&four));
    // The same again, by what it means; and no other one.
    node.ok(&["volume", "create", "--opt", "size=16777216", "--opt", "backing=quota", "one"]);
    assert!(
        node.fails(1, &["volume", "create", "--opt", "size=16m", "--opt", "backing=loop", "one"])
            .contains("other options")
    );
    node.ok(&["volume", "create", "--opt", "size=16m", "--opt", "backing=loop", "file"]);
    assert_eq!(seen(&node, "file")["LimitedBy"], "loop");
    // Whoever changes a limit behind the agent's back finds it as it was at the next use.
    by_device.set(one, 1 << 30, 0).expect("quotactl");
    assert_eq!(node.sh(&["-v", "one:/data"], "cat /data/file"), "kept");
    assert_eq!(counted(&node, "one").1.most_bytes, 16 << 20);
    until("nobody has them", || node.ctl(&["volume", "rm", "one", "two", "three", "four", "file"]).code == 0);
    until("the numbers are free", || [one, two, three, four].iter().all(|p| of_project(&node, *p) == Used::default()));
    node.finish();
}

#[test]
fn a_container_stays_in_its_project() {
    let Some(node) = quotas::node("ext4", "quota-escape") else { return };
    let escape = format!("{}:/escape:ro", crate::escapes::program().display());
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    let before = counted(&node, "small");
    let leave = |option: &[&str]| {
        node.sh_output(&[&["-v", "small:/data", "-v", &escape][..], option].concat(), "/escape project /data")
    };
    let own = leave(&[]);
    assert_eq!((own.code, own.stdout.as_str()), (0, ""), "{own:?}");
    assert_eq!(counted(&node, "small"), before);
    // In the host's user namespace the kernel asks for the owner alone: that is said to whoever starts such a container.
    let host = leave(&["--userns", "host"]);
    assert!(host.stdout.contains("left the project"), "{host:?}");
    assert!(
        host.stderr.contains("volume small is a project quota") && host.stderr.contains("backing=loop"),
        "{host:?}"
    );
    // The next one to use it does not go on as if nothing were.
    let said = node.fails(125, &["run", "--rm", "--network", "none", "-v", "small:/data", &image("busybox"), "true"]);
    assert!(said.contains("is not in project"), "{said}");
    node.finish();
}

#[test]
fn a_limit_ends_with_its_own_volume() {
    let Some(node) = quotas::node("ext4", "quota-thief") else { return };
    for name in ["thief", "victim"] {
        node.ok(&["volume", "create", "--opt", "size=16m", name]);
    }
    let (project, before) = counted(&node, "victim");
    // As a container in the host's user namespace may with what it owns.
    let folder = File::open(node.data().join("volumes/thief/_data")).expect("data");
    set_project(folder.as_fd(), project).expect("fsxattr");
    drop(folder);
    node.ok(&["volume", "rm", "thief"]);
    assert_eq!(counted(&node, "victim").1.most_bytes, before.most_bytes);
    // Who has a file of a removed volume open still writes no more than before.
    let open = File::create(node.data().join("volumes/victim/_data/open")).expect("file");
    node.ok(&["volume", "rm", "victim"]);
    let volumes = node.data().join("volumes");
    until("it is taken apart", || fs::read_dir(&volumes).is_ok_and(|mut entries| entries.next().is_none()));
    // With the folder that it was in, which the kernel keeps for it.
    let left = of_project(&node, project);
    assert_eq!((left.files, left.most_bytes), (2, 1024));
    drop(open);
    until("nothing is counted", || of_project(&node, project).files == 0);
    node.finish();
}

#[cfg(feature = "failpoints")]
#[test]
fn an_agent_that_dies_leaves_no_limit_behind() {
    let Some(mut node) = quotas::node("ext4", "quota-faults") else { return };
    node.ok(&["volume", "create", "--opt", "size=16m", "first"]);
    let (first, _) = counted(&node, "first");
    for (point, arguments) in [
        ("volume.after_draft", &["volume", "create", "--opt", "size=16m", "draft"][..]),
        ("volume.after_publish", &["volume", "create", "--opt", "size=16m", "published"]),
        ("volume.after_retire", &["volume", "rm", "first"]),
    ] {
        crate::network_faults::dies(&mut node, point, arguments);
    }
    until("one is there", || node.ok(&["volume", "ls", "-q"]) == "published");
    // It was whole, and has what it was made with.
    let (second, used) = counted(&node, "published");
    assert_eq!((seen(&node, "published")["LimitedBy"].as_str(), used.most_bytes), (Some("quota"), 16 << 20));
    node.ok(&["volume", "rm", "published"]);
    for project in [first, second, first + 1, first + 2, first + 3] {
        until("no limit is left", || of_project(&node, project) == Used::default());
    }
    node.finish();
}

#[test]
fn where_there_are_no_quotas_it_is_said() {
    let node = Node::with_busybox("quota-none");
    let said = node.fails(1, &["volume", "create", "--opt", "size=16m", "--opt", "backing=quota", "small"]);
    assert!(said.contains("mounted with prjquota") && said.contains("without backing=quota"), "{said}");
    assert_eq!(node.ok(&["volume", "ls", "-q"]), "");
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    let shown = seen(&node, "small");
    assert_eq!((shown["LimitedBy"].as_str(), shown["UsedBytes"].as_u64()), (Some("loop"), None), "{shown}");
    for bad in [&["backing=quota"][..], &["size=16m", "backing=zfs"]] {
        let options: Vec<&str> = bad.iter().flat_map(|o| ["--opt", o]).collect();
        let said = node.fails(1, &[&["volume", "create"][..], &options, &["bad"]].concat());
        assert!(said.contains("backing"), "{said}");
    }
    let doctor = node.ok(&["node", "doctor"]);
    assert!(doctor.contains("volumes") && doctor.contains("prjquota"), "{doctor}");
    node.finish();
}

#[test]
fn a_copy_into_a_full_volume_names_it() {
    let node = Node::with_busybox("volume-full-cp");
    node.ok(&["volume", "create", "--opt", "size=16m", "--opt", "backing=loop", "small"]);
    node.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "o=size=1m", "memory"]);
    node.detached(&["--name", "box", "-v", "small:/data/small", "-v", "memory:/memory"], SLEEP);
    assert!(seen(&node, "small")["UsedBytes"].as_u64().is_some_and(|used| used < 16 << 20));
    let tree = node.scratch().join("tree");
    fs::create_dir_all(tree.join("data/small")).expect("tree");
    fs::write(tree.join("data/small/file"), vec![b'x'; 20 << 20]).expect("file");
    let file = tree.join("data/small/file").display().to_string();
    let full = |from: &str, to: &str, volume: &str| {
        let said = node.fails(1, &["cp", from, to]);
        assert!(said.contains(&format!("volume {volume} is full")), "{said}");
        assert!(said.contains("volume create --opt size=") && !said.contains("system df"), "{said}");
    };
    full(&file, "box:/data/small/", "small");
    full(&file, "box:/memory/x", "memory");
    // On the way of a tree that begins above it.
    full(&format!("{}/.", tree.display()), "box:/", "small");
    full(&format!("{}/data", tree.display()), "box:/", "small");
    node.ok(&["stop", "-t", "0", "box"]);
    full(&file, "box:/data/small/other", "small");
    node.finish();
}
