//! What is below the agent fails: its database, its disk, its limits, a mount that never answers. It says so, containers run on, and it goes on
//! when the cause is gone.

use crate::harness::agent::{Output, run, signal};
use crate::harness::disk::{Disk, tool};
use crate::harness::{Node, image, until};
use std::path::Path;
use std::process::{Command, Stdio};

const KEEP: &str = "while :; do sleep 1; done";

fn pid(node: &Node, container: &str) -> u64 {
    node.inspect(container)["State"]["Pid"].as_u64().expect("pid")
}

fn lives(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn berthd(node: &Node, arguments: &[&str]) -> Output {
    let program = crate::harness::binary("berthd", env!("CARGO_BIN_EXE_berthd"));
    run(Command::new(program).arg("--config").arg(node.dir.join("berthd.toml")).args(arguments))
}

#[test]
fn a_damaged_database_is_rebuilt_and_containers_run_on() {
    let mut node = Node::with_busybox("damage-database");
    node.ok(&["tag", &image("busybox"), "named:1"]);
    node.detached(&["--name", "kept"], KEEP);
    let process = pid(&node, "kept");
    let path = node.data().join("node.db");
    let wal = node.data().join("node.db-wal");
    type Harm = fn(&Path, &Path);
    let harms: [(&str, Harm); 5] = [
        ("no header", |db, wal| {
            let mut bytes = std::fs::read(db).expect("db");
            bytes[..100].fill(0x55);
            std::fs::write(db, bytes).expect("db");
            let _ = std::fs::remove_file(wal);
        }),
        ("random bytes", |db, _| {
            let mut bytes = std::fs::read(db).expect("db");
            let mut x = 88_172_645_463_325_252u64;
            for at in (4096..bytes.len()).step_by(7) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                bytes[at] = x as u8;
            }
            std::fs::write(db, bytes).expect("db");
        }),
        ("truncated", |db, wal| {
            let bytes = std::fs::read(db).expect("db");
            std::fs::write(db, &bytes[..bytes.len() / 2 + 100]).expect("db");
            let _ = std::fs::remove_file(wal);
        }),
        ("zero length", |db, wal| {
            std::fs::write(db, "").expect("db");
            let _ = std::fs::remove_file(wal);
        }),
        ("gone", |db, wal| {
            std::fs::remove_file(db).expect("db");
            let _ = std::fs::remove_file(wal);
        }),
    ];
    for (what, harm) in harms {
        // The copy is made at the end of an agent, too.
        assert!(node.stop_agent().success());
        until(&format!("{what}: there is a copy"), || node.data().join("node.db.copy").exists());
        node.spawn();
        node.kill_agent();
        harm(&path, &wal);
        node.spawn_without_waiting();
        assert!(!node.wait_agent().success(), "{what}: it is not believed\n{}", node.agent_log());
        assert!(node.agent_log().contains("berthd repair"), "{what}: {}", node.agent_log());
        assert!(lives(process), "{what}: the container runs on");
        let repaired = berthd(&node, &["repair"]);
        assert!(repaired.code == 0 && repaired.stdout.contains("1 containers, 1 images"), "{what}: {repaired:?}");
        node.spawn();
        assert_eq!(pid(&node, "kept"), process, "{what}");
        assert_eq!(node.ok(&["exec", "kept", "echo", "here"]), "here", "{what}");
        let images = node.ok(&["images"]);
        assert!(images.contains("named") && images.contains("busybox"), "{what}: {images}");
        assert_eq!(node.sh(&["--pull", "never"], "echo fine"), "fine", "{what}");
        for entry in std::fs::read_dir(node.data()).expect("data").flatten() {
            if entry.file_name().to_string_lossy().contains("damaged-") {
                std::fs::remove_file(entry.path()).expect("aside");
            }
        }
    }
    assert!(berthd(&node, &["repair"]).code != 0, "not beside an agent");
    assert!(node.stop_agent().success());
    let whole = berthd(&node, &["repair"]);
    assert!(whole.code == 0 && whole.stdout.contains("nothing to repair"), "{whole:?}");
    node.spawn();
    node.finish();
}

#[test]
fn a_database_of_a_newer_agent_is_left_alone() {
    let mut node = Node::with_busybox("damage-newer");
    node.detached(&["--name", "kept"], KEEP);
    let process = pid(&node, "kept");
    assert!(node.stop_agent().success());
    let path = node.data().join("node.db");
    let good = std::fs::read(&path).expect("db");
    let mut newer = good.clone();
    // user_version, big endian (sqlite.org/fileformat2.html, 1.3).
    newer[60..64].copy_from_slice(&99u32.to_be_bytes());
    std::fs::write(&path, &newer).expect("db");
    node.spawn_without_waiting();
    assert!(!node.wait_agent().success());
    assert!(node.agent_log().contains("written by a newer agent"), "{}", node.agent_log());
    let refused = berthd(&node, &["repair"]);
    assert!(refused.code != 0 && refused.stderr.contains("newer agent"), "{refused:?}");
    assert!(std::fs::read(&path).expect("db") == newer, "not a byte was changed");
    assert!(lives(process));
    std::fs::write(&path, good).expect("db");
    node.spawn();
    assert_eq!(pid(&node, "kept"), process);
    node.finish();
}

/// With the cause: every command ends with an error that names it (or works), and what runs goes on. Without it: all is well again.
fn degraded(node: &mut Node, words: &[&str], cause: impl Fn(&Node), cure: impl Fn(&Node)) {
    node.detached(&["--name", "kept"], KEEP);
    let process = pid(node, "kept");
    cause(node);
    let mut said = Vec::new();
    let busybox = image("busybox");
    for arguments in [
        &["run", "--rm", "--network", "none", busybox.as_str(), "true"][..],
        &["create", "--network", "none", busybox.as_str(), "true"],
        &["pull", "-q", "--", &image("layered")],
        &["tag", busybox.as_str(), "named:2"],
        &["exec", "kept", "true"],
    ] {
        let output = node.ctl(arguments);
        if output.code != 0 {
            assert!(output.stderr.contains("error"), "{arguments:?}: {output:?}");
            said.push(output.stderr);
        }
    }
    assert!(!said.is_empty(), "something must have failed");
    let all = said.join("").to_lowercase();
    assert!(words.iter().any(|w| all.contains(w)), "{words:?} in {all}\n{}", node.agent_log());
    assert!(lives(process) && !node.agent_has_ended());
    cure(node);
    until("it works again", || node.ctl(&["run", "--rm", "--network", "none", &busybox, "true"]).code == 0);
    assert_eq!(node.ok(&["exec", "kept", "echo", "here"]), "here");
    node.ok(&["pull", "-q", &image("layered")]);
    node.ok(&["tag", &busybox, "named:3"]);
    assert_eq!(pid(node, "kept"), process);
    until("and says nothing of it any more", || !node.ok(&["info"]).contains("cannot be written"));
    node.restart();
    assert_eq!(pid(node, "kept"), process);
    node.ok(&["agent", "check"]);
}

fn remount(node: &Node, options: &str) {
    tool("mount", &["-o", &format!("remount,{options}"), node.data().to_str().expect("utf-8")]);
}

/// What a file system says that has stopped itself: read-only, or from Linux 6.12 to 6.14 an error of input and output (ext4).
fn as_the_disk(text: &str) -> bool {
    text.contains("Read-only file system") || text.contains("Input/output error")
}

/// As behind an error of the disk: ext4 makes itself read-only, whoever has files open.
#[test]
fn a_state_folder_that_becomes_read_only() {
    let mut node = Node::start("damage-read-only");
    node.kill_agent();
    let raw = node.scratch().join("raw");
    std::fs::write(&raw, vec![0; 96 << 20]).expect("raw");
    let data = node.data().display().to_string();
    tool("mkfs.ext4", &["-q", raw.to_str().expect("utf-8")]);
    let device = tool("losetup", &["-f", "--show", raw.to_str().expect("utf-8")]);
    tool("mount", &["-t", "ext4", "-o", "errors=remount-ro", &device, &data]);
    node.spawn();
    node.ok(&["pull", "-q", &image("busybox")]);
    node.detached(&["--name", "kept"], KEEP);
    let process = pid(&node, "kept");
    let name = device.rsplit('/').next().expect("name").to_owned();
    std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").expect("trigger_fs_error");
    for arguments in [
        &["create", "--network", "none", &image("busybox"), "true"][..],
        &["run", "--rm", "--network", "none", &image("busybox"), "true"],
        &["pull", "-q", &image("layered")],
        &["tag", &image("busybox"), "named:2"],
    ] {
        let output = node.ctl(arguments);
        assert!(output.code != 0 && as_the_disk(&output.stderr), "{arguments:?}: {output:?}");
    }
    // What runs is looked at and entered as before; the agent says what is wrong.
    assert_eq!(node.ok(&["exec", "kept", "echo", "here"]), "here");
    assert!(node.ok(&["info"]).contains("cannot be written"), "{}", node.ok(&["info"]));
    assert!(!node.ok(&["images"]).contains("named"));
    assert!(lives(process) && !node.agent_has_ended());
    // A new agent says why it does not start; the container runs on.
    node.kill_agent();
    node.spawn_without_waiting();
    assert!(!node.wait_agent().success());
    assert!(as_the_disk(&node.agent_log()), "{}", node.agent_log());
    assert!(lives(process));
    // The cause goes: checked and mounted again, as a boot does.
    signal(u32::try_from(process).expect("pid"), "KILL");
    until("it is gone", || !lives(process));
    tool("umount", &["-l", &data]);
    let _ = Command::new("losetup").args(["-d", &device]).status();
    let fresh = node.scratch().join("fresh");
    std::fs::copy(&raw, &fresh).expect("copy");
    let _ = Command::new("e2fsck").args(["-fy", fresh.to_str().expect("utf-8")]).output().expect("e2fsck");
    let device = tool("losetup", &["-f", "--show", fresh.to_str().expect("utf-8")]);
    tool("mount", &["-t", "ext4", &device, &data]);
    node.spawn();
    assert_eq!(node.sh(&["--pull", "never"], "echo fine"), "fine");
    assert_eq!(node.inspect("kept")["State"]["Status"], "exited");
    node.ok(&["rm", "-f", "kept"]);
    node.kill_agent();
    tool("umount", &["-l", &data]);
    let _ = Command::new("losetup").args(["-d", &device]).status();
    node.finish();
}

#[test]
fn out_of_inodes() {
    let mut node = Node::builder("damage-inodes").small_disk(64).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    degraded(
        &mut node,
        &["no space", "disk"],
        |node| {
            let used = tool("df", &["--output=iused", node.data().to_str().expect("utf-8")]);
            let used: u64 = used.lines().last().expect("line").trim().parse().expect("number");
            remount(node, &format!("nr_inodes={}", used + 2));
        },
        |node| remount(node, "nr_inodes=100000"),
    );
    node.finish();
}

#[test]
fn out_of_descriptors() {
    let mut node = Node::with_busybox("damage-descriptors");
    node.detached(&["--name", "first"], KEEP);
    let limit = |node: &Node, files: usize| {
        tool("prlimit", &["--pid", &node.pid().to_string(), &format!("--nofile={files}:")]);
    };
    let highest = |node: &Node| {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("fd").flatten();
        fds.filter_map(|e| e.file_name().to_string_lossy().parse::<usize>().ok()).max().unwrap_or(0)
    };
    for spare in [1, 3, 6, 10] {
        let process = pid(&node, "first");
        limit(&node, highest(&node) + 1 + spare);
        for _ in 0..3 {
            let output = node.sh_output(&["--network", "bridge"], "true");
            assert!(output.code == 0 || output.stderr.contains("error"), "{spare}: {output:?}");
        }
        assert!(lives(process) && !node.agent_has_ended(), "{spare}");
        limit(&node, 4096);
        until("it works again", || node.sh_output(&["--network", "bridge"], "true").code == 0);
        assert_eq!(node.ok(&["exec", "first", "echo", "here"]), "here", "{spare}");
    }
    // Without room for a single one more, callers are told or wait; the agent does not spin meanwhile.
    limit(&node, highest(&node) + 1);
    let _ = node.ctl(&["--timeout", "2s", "version"]);
    let ticks = |node: &Node| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).expect("stat");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("stat").1.split(' ').collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    };
    let before = ticks(&node);
    let _ = node.ctl(&["--timeout", "2s", "version"]);
    assert!(ticks(&node) - before < 100, "half a processor or more is not waiting");
    limit(&node, 4096);
    until("it answers", || node.ctl(&["version"]).code == 0);
    node.finish();
}

/// A process that waits for a server that is gone cannot be killed: stop and remove say so by their deadline, and all of it goes when it can.
#[test]
fn a_mount_that_never_answers() {
    let node = Node::with_busybox("damage-dead-mount");
    let mount = node.dir.join("dead");
    let disk = Disk::serve(&mount, vec![7; 8 << 20]);
    node.detached(
        // The file system is its owner's alone, who is root of the host.
        &["--name", "box", "--userns", "host", "-v", &format!("{}:/dead", mount.display())],
        "sleep 0.5; while :; do cat /dead/disk > /dev/null; echo read; sleep 0.1; done",
    );
    until("it reads", || node.ok(&["logs", "box"]).contains("read"));
    disk.fall_silent();
    // What is in the page cache needs no server.
    std::fs::write("/proc/sys/vm/drop_caches", "1").expect("drop_caches");
    let reader = |state: &str| -> Option<u32> {
        let ps = Command::new("ps").args(["-eo", "stat,pid,args"]).output().expect("ps");
        let text = String::from_utf8_lossy(&ps.stdout).into_owned();
        let line = text.lines().find(|l| l.starts_with(state) && l.trim_end().ends_with(" cat /dead/disk"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    until("a process waits for ever", || {
        std::fs::write("/proc/sys/vm/drop_caches", "1").expect("drop_caches");
        let before = reader("");
        std::thread::sleep(std::time::Duration::from_millis(800));
        before.is_some() && reader("") == before
    });
    // The server has its request: not even SIGKILL ends the wait (fs/fuse/dev.c, request_wait_answer).
    let cgroup_stuck = || reader("D").is_some();
    let begun = std::time::Instant::now();
    let stop = node.ctl(&["stop", "-t", "1", "box"]);
    let said = begun.elapsed();
    let remove = node.ctl(&["rm", "-f", "box"]);
    assert!(cgroup_stuck(), "it still is");
    for output in [stop, remove] {
        assert!(output.code == 1 && output.stderr.contains("still runs"), "{output:?}");
    }
    assert!(said < std::time::Duration::from_secs(30), "by its deadline, not by a test's patience: {said:?}");
    assert_eq!(node.inspect("box")["State"]["Status"], "running", "the truth");
    assert_eq!(node.sh(&[], "echo others"), "others");
    disk.speak();
    until("it has ended", || node.inspect("box")["State"]["Status"] == "exited");
    node.ok(&["rm", "box"]);
    drop(disk);
    node.finish();
}

#[test]
fn a_killed_shim_of_an_exec_is_reported() {
    let node = Node::with_busybox("damage-exec-shim");
    node.detached(&["--name", "box"], KEEP);
    let mut exec = node.ctl_command(&["exec", "box", "sleep", "98765"]);
    let mut exec = exec.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("ctl");
    let find = || -> Option<(u32, u32)> {
        let ps = Command::new("ps").args(["-eo", "pid,ppid,args"]).output().expect("ps");
        let text = String::from_utf8_lossy(&ps.stdout).into_owned();
        let line = text.lines().find(|l| l.trim_end().ends_with(" sleep 98765") && !l.contains("berthctl"))?;
        let mut words = line.split_whitespace().map(|w| w.parse().ok());
        Some((words.next()??, words.next()??))
    };
    let (process, shim) = crate::harness::eventually("the process runs", find);
    signal(shim, "KILL");
    let status = crate::harness::eventually("exec ends", || exec.try_wait().expect("wait"));
    assert!(!status.success(), "{status}");
    until("its process is gone", || !lives(process.into()));
    assert_eq!(node.ok(&["exec", "box", "echo", "here"]), "here");
    node.finish();
}
