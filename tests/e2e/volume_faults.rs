//! The agent dies at every step of making, filling, cloning, importing and removing a volume: it is whole, or not there.

use crate::harness::{Node, until};
use crate::network_faults::dies;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What the folder of volumes holds.
fn folders(node: &Node) -> Vec<String> {
    let entries = std::fs::read_dir(node.data().join("volumes")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn volumes(node: &Node) -> Vec<String> {
    node.ok(&["volume", "ls", "-q"]).lines().map(str::to_owned).collect()
}

/// What is listed is there, and nothing beside it.
fn settled(node: &Node, point: &str) {
    until(&format!("{point}: no folder is left over"), || folders(node) == volumes(node));
}

const SUM: &str = "find . -type f | sort | xargs md5sum | md5sum";

#[test]
fn making_and_removing() {
    let mut node = Node::with_busybox("volume-faults-make");
    for size in [&[][..], &["--opt", "size=16m"], &["--opt", "type=tmpfs", "--opt", "o=size=1m"]] {
        let create = [&["volume", "create", "--label", "a=b"], size, &["data"]].concat();
        let kept = !size.contains(&"type=tmpfs");
        for point in ["volume.after_draft", "volume.after_publish", "volume.after_record"] {
            dies(&mut node, point, &create);
            settled(&node, point);
            // As its caller would again: the one that was found is the one that was asked for.
            node.ok(&create);
            node.sh(&["-v", "data:/data"], "echo x >/data/file");
            until("nobody has it", || node.ctl(&["volume", "rm", "data"]).code == 0);
            settled(&node, point);
        }
        for point in ["volume.before_removal", "volume.after_removal_record", "volume.after_retire"] {
            node.ok(&create);
            node.sh(&["-v", "data:/data"], "echo kept >/data/file");
            dies(&mut node, point, &["volume", "rm", "data"]);
            if point == "volume.before_removal" && kept {
                assert_eq!(node.sh(&["-v", "data:/data"], "cat /data/file"), "kept", "nothing was decided yet");
            }
            if point == "volume.before_removal" {
                until("nobody has it", || node.ctl(&["volume", "rm", "data"]).code == 0);
            }
            until(&format!("{point}: it goes"), || volumes(&node).is_empty());
            settled(&node, point);
        }
    }
    node.finish();
}

#[test]
fn filling() {
    let mut node = Node::with_busybox("volume-faults-fill");
    let of_image = node.sh(&[], &format!("cd /bin; {SUM}"));
    let image = crate::harness::image("busybox");
    for size in [&[][..], &["--opt", "size=64m"]] {
        for point in ["volume.while_filling", "volume.after_fill"] {
            node.ok(&[&["volume", "create"], size, &["bin"]].concat());
            dies(&mut node, point, &["run", "--rm", "-v", "bin:/bin", &image, "true"]);
            assert_eq!(node.sh(&["-v", "bin:/bin"], &format!("cd /bin; {SUM}")), of_image, "{point}");
            until("nobody has it", || node.ctl(&["volume", "rm", "bin"]).code == 0);
            settled(&node, point);
        }
    }
    node.finish();
}

#[test]
fn cloning() {
    let mut node = Node::with_busybox("volume-faults-clone");
    for size in [&[][..], &["--opt", "size=16m"]] {
        node.ok(&[&["volume", "create"], size, &["data"]].concat());
        node.sh(&["-v", "data:/data"], "echo kept >/data/file");
        dies(&mut node, "volume.after_copy", &["volume", "clone", "data", "copy"]);
        settled(&node, "volume.after_copy");
        assert_eq!(volumes(&node), ["data"], "nobody was told of a copy");
        node.ok(&["volume", "clone", "data", "copy"]);
        assert_eq!(node.sh(&["-v", "copy:/copy"], "cat /copy/file"), "kept");
        until("nobody has them", || node.ctl(&["volume", "rm", "data", "copy"]).code == 0);
    }
    node.finish();
}

#[test]
fn importing() {
    let mut node = Node::with_busybox("volume-faults-import");
    let tar = node.scratch().join("data.tar").display().to_string();
    node.sh(&["-v", "data:/data"], "cd /data; dd if=/dev/urandom of=a bs=64k count=40 2>/dev/null; echo new >b");
    let sum = node.sh(&["-v", "data:/data"], &format!("cd /data; {SUM}"));
    node.ok(&["volume", "export", "-o", &tar, "data"]);
    for point in ["volume.while_importing", "volume.after_extract"] {
        dies(&mut node, point, &["volume", "import", "again", &tar]);
        settled(&node, point);
        if volumes(&node).contains(&"again".to_owned()) {
            assert_eq!(
                node.sh(&["-v", "again:/data"], &format!("cd /data; {SUM}")),
                sum,
                "{point}: whole or not there"
            );
            until("nobody has it", || node.ctl(&["volume", "rm", "again"]).code == 0);
        }
    }
    // In a volume of a fixed size nothing of it takes room.
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    dies(&mut node, "volume.after_extract", &["volume", "import", "small", &tar]);
    let room = "df -k /x | tail -1 | awk '{print $3 < 1000}'; ls -A /x | grep -v lost+found | wc -l";
    assert_eq!(node.sh(&["-v", "small:/x"], room), "1\n0");
    for point in ["volume.while_importing", "volume.after_extract", "volume.after_take"] {
        node.sh(&["-v", "old:/data:nocopy"], "rm -rf /data/*; echo old >/data/file");
        until("nobody has it", || node.ctl(&["ps", "-aq"]).stdout.is_empty());
        dies(&mut node, point, &["volume", "import", "--replace", "old", &tar]);
        settled(&node, point);
        let now = node.sh(&["-v", "old:/data"], &format!("cd /data; test -e file && cat file || {SUM}"));
        assert!(now == "old" || now == sum, "{point}: {now}");
    }
    node.finish();
}

/// The agent dies in the middle of an import from standard input, and the next one is there at once.
#[test]
fn standard_input_goes_on() {
    let mut node = Node::with_busybox("volume-faults-stdin");
    for (mib, point) in [
        (2, "volume.while_arriving"),
        (2, "volume.while_importing"),
        (2, "volume.after_extract"),
        (24, "volume.while_arriving"),
        (24, "volume.after_arrival"),
        (24, "volume.after_extract"),
    ] {
        node.sh(&["-v", "data:/data"], &format!("dd if=/dev/urandom of=/data/a bs=1M count={mib} 2>/dev/null"));
        let sum = node.sh(&["-v", "data:/data"], &format!("cd /data; {SUM}"));
        let tar = node.scratch().join("data.tar");
        node.ok(&["volume", "export", "-o", &tar.display().to_string(), "data"]);
        node.stop_agent();
        node.set_env("BERTH_FAILPOINTS", Some(&format!("{point}=abort")));
        node.spawn();
        let stdin = std::fs::File::open(&tar).expect("the tar");
        let mut import = node.ctl_command(&["volume", "import", "copy"]);
        let import = import.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("ctl");
        node.wait_agent();
        node.set_env("BERTH_FAILPOINTS", None);
        node.spawn();
        let output = import.wait_with_output().expect("wait");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{point}: {said}");
        assert_eq!(node.sh(&["-v", "copy:/data"], &format!("cd /data; {SUM}")), sum, "{point}");
        until("nobody has it", || node.ctl(&["volume", "rm", "copy"]).code == 0);
        settled(&node, point);
    }
    node.finish();
}

/// Behind the end of a `run --rm` its container is taken apart, for which another runtime takes its time.
#[test]
fn an_import_waits_for_a_container_that_goes() {
    let mut node = Node::with_busybox("volume-faults-going");
    let tar = node.scratch().join("data.tar").display().to_string();
    node.sh(&["-v", "data:/data"], "echo kept >/data/file");
    node.ok(&["volume", "export", "-o", &tar, "data"]);
    node.stop_agent();
    node.set_env("BERTH_FAILPOINTS", Some("remove.after_umount=sleep:1500"));
    node.spawn();
    node.sh(&["-v", "data:/data"], "echo other >/data/file");
    node.ok(&["volume", "import", "--replace", "data", &tar]);
    assert_eq!(node.sh(&["-v", "data:/data"], "cat /data/file"), "kept");
    node.detached(&["--name", "box", "-v", "data:/data"], "while :; do sleep 1; done");
    let begun = Instant::now();
    assert!(node.fails(1, &["volume", "import", "--replace", "data", &tar]).contains("in use"));
    assert!(begun.elapsed() < Duration::from_secs(1), "one that runs is not waited for");
    node.finish();
}

/// Files of volumes that are copied or removed keep nobody from making others.
#[test]
fn long_work_holds_up_nobody() {
    let mut node = Node::with_busybox("volume-faults-long");
    node.sh(&["-v", "data:/data"], "echo kept >/data/file");
    until("nobody has it", || node.ctl(&["ps", "-aq"]).stdout.is_empty());
    node.kill_agent();
    node.set_env("BERTH_FAILPOINTS", Some("volume.after_copy=sleep:6000;volume.while_clearing=sleep:6000"));
    node.spawn();
    for long in [&["volume", "clone", "data", "copy"][..], &["volume", "rm", "data"]] {
        let mut child = node.ctl_command(long).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("ctl");
        std::thread::sleep(Duration::from_millis(700));
        let begun = Instant::now();
        node.ok(&["volume", "create", "other"]);
        assert!(begun.elapsed() < Duration::from_secs(4), "{long:?} {:?}", begun.elapsed());
        assert!(child.try_wait().expect("wait").is_none(), "{long:?} ended at once");
        assert!(child.wait().expect("wait").success(), "{long:?}");
        node.ok(&["volume", "create", "another"]);
    }
    assert_eq!(volumes(&node), ["another", "copy", "other"]);
    node.finish();
}
