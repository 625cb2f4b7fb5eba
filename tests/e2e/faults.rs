//! The agent dies at every named point of its work; and the disk runs full.
//!
//! The fail points are compiled in with `--features failpoints` only.

use crate::harness::disk::tool;
use crate::harness::{Node, image, until};
use std::time::Duration;

#[cfg(feature = "failpoints")]
mod points {
    use super::*;
    use std::process::Stdio;

    fn points(prefix: &str) -> Vec<&'static str> {
        let found: Vec<_> = berth_node::fail::NAMES.iter().copied().filter(|name| name.starts_with(prefix)).collect();
        assert!(!found.is_empty(), "no point begins with {prefix}");
        found
    }

    /// For every point of `prefix`: `prepare`, the agent dies there during `act`, starts again; then `after` must hold.
    fn at_every_point(prefix: &str, prepare: impl Fn(&Node), act: &[&str], after: impl Fn(&Node, &str)) {
        let mut node = Node::start(&format!("point-{}", prefix.trim_end_matches('.')));
        for name in points(prefix) {
            prepare(&node);
            node.kill_agent();
            node.set_env("BERTH_FAILPOINTS", Some(&format!("{name}=abort")));
            node.spawn();
            let mut command = node.ctl_command(act);
            let mut child =
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ctl");
            let status = node.wait_agent();
            assert!(!status.success(), "{name}: the agent did not die there but ended with {status}");
            let _ = child.kill();
            child.wait().expect("wait");
            node.set_env("BERTH_FAILPOINTS", None);
            node.spawn();
            after(&node, name);
            let ids = node.ok(&["ps", "-a", "-q"]);
            for id in ids.split_whitespace() {
                node.ok(&["rm", "-f", id]);
            }
            assert_eq!(node.sh(&[], "echo fine"), "fine", "{name}");
        }
        node.finish();
    }

    fn pulled(node: &Node) {
        node.ok(&["pull", "-q", &image("busybox")]);
    }

    fn running(node: &Node) {
        pulled(node);
        node.detached(&["--name", "box", "--network", "bridge"], "trap 'exit 3' TERM; while :; do sleep 0.05; done");
    }

    fn state(node: &Node) -> String {
        node.inspect("box")["State"]["Status"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn of_a_pull() {
        let layered = image("layered");
        at_every_point(
            "pull.",
            |node| drop(node.ctl(&["rmi", "-f", &image("layered")])),
            &["pull", "-q", &layered],
            |node, name| {
                node.ok(&["pull", "-q", &image("layered")]);
                let run = node.ok(&[
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "--pull",
                    "never",
                    &image("layered"),
                    "cat",
                    "/layer-3",
                ]);
                assert!(run.starts_with("3\n3\n"), "{name}");
            },
        );
    }

    #[test]
    fn of_a_commit() {
        let layers = |node: &Node| std::fs::read_dir(node.data().join("layers/layers/sha256")).expect("layers").count();
        let before = std::cell::Cell::new(0);
        at_every_point(
            "commit.",
            |node| {
                running(node);
                node.ok(&["exec", "box", "sh", "-c", "echo committed >/file"]);
                before.set(layers(node));
            },
            &["commit", "box", "made:1"],
            |node, name| {
                // The container goes on, whatever became of its image.
                assert_eq!(state(node), "running", "{name}");
                assert_eq!(node.ok(&["exec", "box", "cat", "/file"]), "committed", "{name}");
                let made = ["run", "--rm", "--network", "none", "--pull", "never", "made:1", "cat", "/file"];
                if node.ctl(&["inspect", "--type", "image", "made:1"]).code == 0 {
                    assert_eq!(name, "commit.after_record");
                    assert_eq!(node.ok(&made), "committed", "{name}");
                } else {
                    // Nothing of it stays; and it can be made again.
                    until("the layer is gone", || layers(node) == before.get());
                    node.ok(&["commit", "box", "made:1"]);
                    assert_eq!(node.ok(&made), "committed", "{name}");
                }
                let ingest = std::fs::read_dir(node.data().join("layers/ingest")).expect("ingest").count();
                assert_eq!(ingest, 0, "{name}");
                node.ok(&["rmi", "made:1"]);
            },
        );
    }

    #[test]
    fn of_a_create() {
        let busybox = image("busybox");
        at_every_point(
            "create.",
            pulled,
            &["create", "--name", "box", "--network", "none", &busybox, "true"],
            |node, name| {
                // Either it is there, whole, or it is not and the name is free.
                if node.ctl(&["inspect", "box"]).code == 0 {
                    assert_eq!(state(node), "created", "{name}");
                } else {
                    node.ok(&["create", "--name", "box", "--network", "none", &image("busybox"), "true"]);
                }
                node.ok(&["start", "box"]);
                assert_eq!(node.ok(&["wait", "box"]), "0", "{name}");
            },
        );
    }

    #[test]
    fn of_a_start() {
        let prepare = |node: &Node| {
            pulled(node);
            let port = format!("{}:80", node.slot.port(0));
            node.ok(&[
                "create",
                "--name",
                "box",
                "-p",
                &port,
                &image("busybox"),
                "sh",
                "-c",
                "trap 'exit 3' TERM; while :; do sleep 0.05; done",
            ]);
        };
        at_every_point("start.", prepare, &["start", "box"], |node, name| {
            let state = state(node);
            assert!(matches!(state.as_str(), "created" | "running" | "exited"), "{name}: {state}");
            node.ok(&["start", "box"]);
            assert_eq!(node.ok(&["exec", "box", "echo", "in"]), "in", "{name}");
            node.until_trapped("box", "trap 'exit 3' TERM;");
            node.ok(&["stop", "box"]);
            assert_eq!(node.ok(&["wait", "box"]), "3", "{name}");
        });
    }

    #[test]
    fn of_an_exit() {
        let prepare = |node: &Node| {
            pulled(node);
            node.ok(&["create", "--name", "box", &image("busybox"), "sh", "-c", "echo last words; exit 12"]);
        };
        at_every_point("exit.", prepare, &["start", "box"], |node, name| {
            assert_eq!(node.ok(&["wait", "box"]), "12", "{name}");
            assert_eq!(node.ok(&["logs", "box"]), "last words", "{name}");
        });
    }

    #[test]
    fn of_a_stop() {
        let prepare = |node: &Node| {
            pulled(node);
            // Deaf to the signal: the kill has to come.
            node.detached(&["--name", "box", "--network", "bridge"], "trap '' TERM; while :; do sleep 0.05; done");
        };
        at_every_point("stop.", prepare, &["stop", "-t", "1", "box"], |node, name| {
            node.ok(&["stop", "-t", "1", "box"]);
            assert_eq!(node.ok(&["wait", "box"]), "137", "{name}");
        });
    }

    #[test]
    fn of_a_remove() {
        at_every_point("remove.", running, &["rm", "-f", "box"], |node, name| {
            node.ok(&["rm", "-f", "box"]);
            until(&format!("{name}: the name is free"), || node.ctl(&["inspect", "box"]).code != 0);
            running(node);
        });
    }

    #[test]
    fn of_an_image_removal() {
        let layered = image("layered");
        at_every_point(
            "image.",
            |node| drop(node.ok(&["pull", "-q", &image("layered")])),
            &["rmi", "-f", &layered],
            |node, name| {
                node.ok(&["rmi", "-f", &image("layered")]);
                assert!(!node.ok(&["images"]).contains("layered"), "{name}");
                node.ok(&["pull", "-q", &image("layered")]);
                assert_eq!(
                    node.ok(&["run", "--rm", "--network", "none", &image("layered"), "sh", "-c", "wc -c < /noise"]),
                    "8388608",
                    "{name}"
                );
                pulled(node);
            },
        );
    }
}

#[test]
fn a_full_disk_in_mid_pull_is_said_and_survived() {
    let node = Node::builder("full-pull").small_disk(14).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    let output = node.ctl(&["pull", "-q", &image("layered")]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.to_lowercase().contains("no space") || output.stderr.to_lowercase().contains("disk"),
        "{output:?}"
    );
    // What is there goes on working, and room that is freed can be used.
    assert_eq!(node.sh(&[], "echo fine"), "fine");
    assert_eq!(node.ok(&["images", "-q"]).lines().count(), 1);
    node.finish();
}

#[test]
fn a_full_disk_in_mid_create_is_said_and_survived() {
    let mut node = Node::builder("full-create").small_disk(24).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    let keeper = node.detached(&["--name", "keeper"], "while :; do sleep 1; done");
    let filler = node.data().join("filler");
    fill(&filler);
    for _ in 0..5 {
        let output = node.sh_output(&["--network", "bridge"], "true");
        // The container is made of a few small files: it may find room, but never half. A disk in memory may have no user namespaces, which is said first.
        let mut said = output.stderr.lines().skip_while(|line| line.starts_with("warning: "));
        assert!(output.code == 0 || said.next().is_some_and(|line| line.starts_with("error: ")), "{output:?}");
    }
    assert_eq!(node.ok(&["exec", &keeper, "echo", "alive"]), "alive");
    std::fs::remove_file(&filler).expect("filler");
    node.restart();
    assert_eq!(node.sh(&[], "echo fine"), "fine");
    assert_eq!(node.ok(&["ps", "-a", "-q"]).lines().count(), 1);
    node.finish();
}

#[test]
fn the_container_that_has_filled_the_disk_can_be_removed() {
    let mut node = Node::builder("full-rm").small_ext4(48).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    let reserve = |node: &Node| {
        let files = std::fs::read_dir(node.data()).expect("data").flatten().map(|e| e.path());
        files.filter(|p| p.to_string_lossy().ends_with(".reserve")).collect::<Vec<_>>()
    };
    until("the agent keeps room", || reserve(&node).len() == 1);
    let fills = "while :; do cat /dev/zero >>/x; cat /dev/zero >>/y; sleep 0.1; done 2>/dev/null";
    let full = |node: &Node| {
        // A few blocks may be nobody's: the hog writes whole pages, and the file system keeps some for what it notes itself.
        until("the disk is full", || {
            let free = tool("df", &["--output=avail", "-k", node.data().to_str().expect("utf-8")]);
            free.lines().last().is_some_and(|n| n.trim().parse::<u64>().expect("kilobytes") <= 64)
        });
        std::thread::sleep(Duration::from_millis(300));
    };
    for round in ["first", "second"] {
        node.detached(&["--name", "hog"], fills);
        full(&node);
        node.ok(&["rm", "-f", "hog"]);
        // Its files go behind the answer.
        until("there is room", || node.sh_output(&[], "true").code == 0);
        assert_eq!(node.sh(&[], "echo fine"), "fine", "{round}");
        until("the agent keeps room again", || {
            node.sh(&[], "true");
            reserve(&node).len() == 1
        });
    }
    let can = |node: &Node| {
        (node.sh(&[], "awk '{ print ($2 > 0) }' /proc/self/uid_map"), node.ok(&["info", "--format", "{{.LayerStore}}"]))
    };
    let before = can(&node);
    // An agent that finds the disk full gets rid of it, too: killed, also where the hog has what was kept for that, and stopped.
    for how in ["killed", "killed without a reserve", "stopped"] {
        node.detached(&["--name", "hog"], fills);
        full(&node);
        if how == "stopped" {
            node.stop_agent();
        } else {
            node.kill_agent();
        }
        if how == "killed without a reserve" {
            reserve(&node).iter().for_each(|file| std::fs::remove_file(file).expect("reserve"));
        }
        full(&node);
        node.spawn();
        node.ok(&["rm", "-f", "hog"]);
        until("there is room", || node.sh_output(&[], "true").code == 0);
        // An agent that had no room to try what the kernel can has not decided for less.
        assert_eq!(can(&node), before, "{how}");
    }
    node.finish();
}

/// Writes until there is no room for one more byte.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("filler");
    for size in [1 << 20, 4096, 1] {
        let block = vec![b'x'; size];
        while file.write_all(&block).is_ok() {}
    }
}

#[test]
fn a_database_that_is_damaged_is_said_so() {
    let mut node = Node::with_busybox("damaged-store");
    node.stop_agent();
    let mut files: Vec<_> = std::fs::read_dir(node.data()).expect("data").flatten().map(|e| e.path()).collect();
    files.retain(|p| p.is_file() && p.extension().is_some_and(|e| e == "db" || e == "sqlite" || e == "sqlite3"));
    assert_eq!(files.len(), 1, "{files:?}");
    let good = std::fs::read(&files[0]).expect("store");
    let mut bad = good.clone();
    bad[..100].fill(0x55);
    std::fs::write(&files[0], bad).expect("store");
    for tail in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{tail}", files[0].display()));
    }
    node.spawn_without_waiting();
    assert!(!node.wait_agent().success());
    let name = files[0].file_name().expect("name").to_string_lossy().into_owned();
    assert!(node.agent_log().contains(&name), "{}", node.agent_log());
    std::fs::write(&files[0], good).expect("store");
    node.spawn();
    assert_eq!(node.sh(&["--pull", "never"], "echo back"), "back");
    until("nothing is left running", || node.ok(&["ps", "-q"]).is_empty());
    node.finish();
}
