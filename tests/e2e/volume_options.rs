//! Volumes by the local driver's options, what is told of volumes, and their files while their container does not run.

use crate::harness::{Node, image, until};
use std::fs;

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[test]
fn binds_by_option() {
    let node = Node::with_busybox("volume-options");
    let here = node.scratch().join("here");
    fs::create_dir_all(&here).expect("here");
    fs::write(here.join("seen"), "of the host").expect("seen");
    let device = format!("device={}", here.display());
    node.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "bound"]);
    assert_eq!(node.sh(&["-v", "bound:/data"], "cat /data/seen; echo back >/data/new"), "of the host");
    assert_eq!(fs::read_to_string(here.join("new")).expect("new"), "back\n");
    node.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind,ro", "-o", &device, "fixed"]);
    assert_eq!(node.sh(&["-v", "fixed:/data"], "cat /data/seen; touch /data/x || echo no"), "of the hostno");
    // A folder of the host that is gone is said, and its files are never the volume's to remove.
    let gone = format!("device={}", node.scratch().join("gone").display());
    node.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &gone, "lost"]);
    let said = node.fails(125, &["run", "--rm", "--network", "none", "-v", "lost:/data", &image("busybox"), "true"]);
    assert!(said.contains("gone"), "{said}");
    until("nobody has them", || node.ctl(&["volume", "rm", "bound", "fixed", "lost"]).code == 0);
    assert!(here.join("seen").exists() && here.join("new").exists());
    node.finish();
}

#[test]
fn a_folder_that_a_file_system_is_mounted_on_comes_whole() {
    let node = Node::with_busybox("volume-mounted");
    let here = node.scratch().join("here");
    fs::create_dir_all(&here).expect("here");
    let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&here).status();
    assert!(mount.expect("mount").success());
    fs::create_dir(here.join("folder")).expect("folder");
    fs::write(here.join("folder/file"), "of the host").expect("file");
    let device = format!("device={}", here.display());
    node.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "bound"]);
    let tar = node.scratch().join("tar").display().to_string();
    node.ok(&["volume", "export", "-o", &tar, "bound"]);
    let listed = std::process::Command::new("tar").args(["-tf", &tar]).output().expect("tar");
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "./\n./folder/\n./folder/file\n");
    node.ok(&["volume", "clone", "bound", "copy"]);
    assert_eq!(node.sh(&["-v", "copy:/data"], "cat /data/folder/file"), "of the host");
    let unmounted = std::process::Command::new("umount").arg(&here).status();
    assert!(unmounted.expect("umount").success());
    node.finish();
}

#[test]
fn tmpfs_by_option() {
    let node = Node::with_busybox("volume-tmpfs");
    node.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "o=size=2m,mode=1770,uid=7,noexec", "fast"]);
    node.detached(&["--name", "box", "-v", "fast:/data"], SLEEP);
    let script = "df -k /data | tail -1 | awk '{print $2}'; mount | grep ' /data ' | grep -c noexec";
    assert_eq!(node.ok(&["exec", "box", "sh", "-c", script]), "2048\n1");
    node.ok(&["exec", "box", "sh", "-c", "echo x >/data/file"]);
    let full = node.ctl(&["exec", "box", "sh", "-c", "dd if=/dev/zero of=/data/full bs=1M count=3"]);
    assert!(full.stderr.contains("No space left on device"), "{full:?}");
    // Two containers share it; behind the last one it is empty.
    assert_eq!(node.sh(&["-v", "fast:/data"], "cat /data/file"), "x");
    node.ok(&["rm", "-f", "box"]);
    until("nobody has it mounted", || node.sh(&["-v", "fast:/data"], "ls /data").is_empty());
    let said = node.fails(1, &["volume", "create", "-o", "type=tmpfs", "-o", "colour=red", "x"]);
    assert!(said.contains("there are type, device, o, size and backing"), "{said}");
    node.finish();
}

#[test]
fn a_tmpfs_has_the_owner_and_mode_that_it_was_given() {
    let node = Node::with_busybox("volume-tmpfs-owner");
    let look = |volume: &str, option: &[&str]| {
        let mount = format!("{volume}:/data");
        node.sh(&[option, &["-v", &mount]].concat(), "stat -c '%u %g %a' /data")
    };
    let said = "o=size=2m,uid=1000,gid=1001,mode=750";
    node.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", said, "owned"]);
    for option in [&[][..], &["--userns", "host"]] {
        assert_eq!(look("owned", option), "1000 1001 750", "{option:?}");
    }
    assert_eq!(node.sh(&["-u", "1000:1001", "-v", "owned:/data"], "echo mine >/data/x; cat /data/x"), "mine");
    // As Docker's, which is as the kernel makes it.
    node.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "o=size=2m", "plain"]);
    assert_eq!(look("plain", &[]), "0 0 1777");
    node.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "o=mode=2775,gid=7", "group"]);
    assert_eq!(look("group", &[]), "0 7 2775");
    node.finish();
}

#[test]
fn a_volume_that_is_full_itself_is_not_the_hosts_disk() {
    let node = Node::with_busybox("volume-full");
    let tar = node.scratch().join("data.tar").display().to_string();
    node.sh(&["-v", "data:/data"], "dd if=/dev/zero bs=1M count=20 2>/dev/null | tr '\\0' x >/data/file");
    node.ok(&["volume", "export", "-o", &tar, "data"]);
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    let said = node.fails(1, &["volume", "import", "small", &tar]);
    assert!(said.contains("volume small is full, which has a file system of a fixed size"), "{said}");
    assert!(said.contains("volume create --opt size=") && !said.contains("system df"), "{said}");
    // Nothing of it is left there.
    assert_eq!(node.sh(&["-v", "small:/x"], "ls -A /x | grep -v lost+found | wc -l"), "0");
    node.finish();
}

#[test]
fn file_systems_that_the_kernel_lacks_are_named() {
    let node = Node::with_busybox("volume-foreign");
    let has = |fs_type: &str| {
        let there = fs::read_to_string("/proc/filesystems").expect("filesystems");
        there.lines().any(|l| l.trim_start_matches("nodev").trim() == fs_type)
    };
    for (fs_type, device) in [("nfs", "192.0.2.1:/export"), ("cifs", "//192.0.2.1/share"), ("nosuchfs", "/dev/null")] {
        if has(fs_type) {
            continue;
        }
        let (type_, device) = (format!("type={fs_type}"), format!("device={device}"));
        node.ok(&["volume", "create", "-o", &type_, "-o", &device, "-o", "o=soft", fs_type]);
        let volume = format!("{fs_type}:/data");
        let said = node.fails(125, &["run", "--rm", "--network", "none", "-v", &volume, &image("busybox"), "true"]);
        // The kernel has loaded its module for that.
        if has(fs_type) {
            assert!(said.contains(&format!("mounting {fs_type}")), "{said}");
            continue;
        }
        assert!(said.contains(&format!("this host's kernel has no file system {fs_type}")), "{said}");
        assert!(said.contains(&format!("modprobe {fs_type}")), "{said}");
    }
    node.finish();
}

#[test]
fn a_stopped_containers_volumes_are_copied_from_and_to() {
    let node = Node::with_busybox("volume-cp");
    let file = node.scratch().join("file");
    fs::write(&file, "from outside").expect("file");
    let file = file.display().to_string();
    let read = |path: &str| fs::read_to_string(path).expect(path);
    node.detached(&["--name", "box", "-v", "data:/data", "-v", "/srv/deep/er", "-v", "fixed:/ro:ro"], SLEEP);
    node.ok(&[
        "exec",
        "box",
        "sh",
        "-c",
        "echo inside >/data/own; mkdir /data/d; echo deep >/data/d/x; echo beside >/srv/file",
    ]);
    node.ok(&["stop", "-t", "0", "box"]);
    let out = node.scratch().join("out").display().to_string();
    node.ok(&["cp", "box:/data/own", &out]);
    assert_eq!(read(&out), "inside\n");
    node.ok(&["cp", &file, "box:/data/new"]);
    node.ok(&["cp", &file, "box:/srv/deep/er/new"]);
    assert!(node.fails(1, &["cp", &file, "box:/ro/new"]).contains("read-only"));
    // With a folder that a volume is in, its files come along.
    let tree = node.scratch().join("tree").display().to_string();
    node.ok(&["cp", "box:/srv", &tree]);
    assert_eq!(
        (read(&format!("{tree}/file")), read(&format!("{tree}/deep/er/new"))),
        ("beside\n".into(), "from outside".into())
    );
    // It is the volume that has it, not what lies below it.
    assert_eq!(node.sh(&["-v", "data:/x"], "cat /x/new /x/d/x"), "from outsidedeep");
    node.ok(&["start", "box"]);
    assert_eq!(node.ok(&["exec", "box", "cat", "/data/new", "/srv/deep/er/new"]), "from outsidefrom outside");
    // An export is without volumes, as Docker's.
    let tar = node.scratch().join("tar").display().to_string();
    node.ok(&["export", "-o", &tar, "box"]);
    let names = std::process::Command::new("tar").args(["-tf", &tar]).output().expect("tar");
    assert!(!String::from_utf8_lossy(&names.stdout).contains("data/new"));
    node.ok(&["rm", "-f", "box"]);
    // One that never ran: its volume is filled from the image first, as its first start would do.
    node.ok(&[
        "create",
        "--name",
        "fresh",
        "--network",
        "none",
        "-v",
        "web:/var/www",
        "-v",
        "empty:/not/there",
        &image("busybox"),
        "sh",
        "-c",
        SLEEP,
    ]);
    // Whoever the container's processes are: folders that a copy makes are theirs to enter.
    node.ok(&[
        "create",
        "--name",
        "user",
        "-u",
        "1000",
        "-v",
        "deep:/x/y/z",
        &image("busybox"),
        "ls",
        "-ld",
        "/x",
        "/x/y",
    ]);
    node.ok(&["cp", "user:/etc/passwd", &out]);
    let folders = node.ok(&["start", "-a", "user"]);
    assert_eq!(folders.matches("drwxr-xr-x").count(), 2, "{folders}");
    node.ok(&["cp", &file, "fresh:/var/www/more"]);
    node.ok(&["cp", &file, "fresh:/not/there/more"]);
    node.ok(&["start", "fresh"]);
    assert_eq!(
        node.ok(&["exec", "fresh", "cat", "/var/www/index.html", "/not/there/more"]),
        "hello from busybox\nfrom outside"
    );
    assert_eq!(node.ok(&["exec", "fresh", "cat", "/var/www/more"]), "from outside");
    // A file system of its own is mounted for the copy, and no longer.
    node.ok(&["volume", "create", "--opt", "size=16m", "sized"]);
    node.ok(&[
        "create",
        "--name",
        "own",
        "--network",
        "none",
        "-v",
        "sized:/data",
        &image("busybox"),
        "cat",
        "/data/new",
    ]);
    node.ok(&["cp", &file, "own:/data/new"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&format!("{}/volumes/sized", node.data().display())), "{mounts}");
    node.ok(&["start", "own"]);
    until("it has read it", || node.ctl(&["logs", "own"]).stdout == "from outside");
    node.ok(&["rm", "-f", "fresh", "own"]);
    node.finish();
}

#[test]
fn what_happens_to_volumes_is_told() {
    let node = Node::with_busybox("volume-events");
    node.ok(&["volume", "create", "--label", "tier=db", "data"]);
    node.sh(&["--name", "box", "-v", "data:/data:ro"], "true");
    until("nobody has it", || node.ctl(&["volume", "rm", "data"]).code == 0);
    let text = node.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "type=volume", "-o", "json"]);
    let all: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("json")).collect();
    let actions: Vec<&str> = all.iter().map(|e| e["Action"].as_str().expect("action")).collect();
    assert_eq!(actions, ["create", "mount", "unmount", "destroy"], "{text}");
    let of = |n: usize, key: &str| all[n]["Attributes"][key].as_str().unwrap_or_default().to_owned();
    assert_eq!((all[1]["ID"].as_str(), of(1, "driver").as_str()), (Some("data"), "local"), "{text}");
    assert_eq!(
        (of(1, "destination"), of(1, "read/write"), of(1, "tier")),
        ("/data".into(), "false".into(), "db".into())
    );
    assert_eq!(of(1, "container"), of(2, "container"));
    let some =
        node.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "type=volume", "--filter", "event=mount"]);
    assert_eq!(some.lines().count(), 1, "{some}");

    // Filters of prunes, Docker's all among them.
    for (name, label) in [("aa", "keep=1"), ("bb", "drop=1"), ("cc", "x=y")] {
        node.ok(&["volume", "create", "--label", label, name]);
    }
    node.sh(&["-v", "/anonymous"], "true");
    let prune = |filters: &[&str]| {
        let mut all = vec!["volume", "prune", "-f"];
        filters.iter().for_each(|f| all.extend(["--filter", f]));
        node.ok(&all);
        node.ok(&["volume", "ls", "-q", "--filter", "dangling=true"])
    };
    assert_eq!(prune(&[]).lines().count(), 3, "names are kept");
    assert_eq!(prune(&["all=false"]).lines().count(), 3);
    assert_eq!(prune(&["all=true", "label=drop"]), "aa\ncc");
    assert_eq!(prune(&["all=1", "label!=keep"]), "aa");
    assert!(node.fails(1, &["volume", "prune", "-f", "--filter", "all=maybe"]).contains("true or false"));
    assert_eq!(node.ctl(&["volume", "prune", "-f", "--filter", "until=1h"]).code, 125);
    node.ok(&["volume", "rm", "aa"]);
    node.finish();
}
