//! Bind mounts: whether mounts travel to and from them, and what is read-only below them.

use crate::harness::{Node, image, until};
use std::fs;
use std::path::Path;
use std::process::Command;

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn mount(arguments: &[&str]) {
    assert!(Command::new("mount").args(arguments).status().expect("mount").success(), "{arguments:?}");
}

/// A folder that is a mount of its own; dropped, it and what is mounted below it goes.
struct Source(String);

impl Source {
    fn new(node: &Node, name: &str, travels: &str) -> Source {
        let path = node.scratch().join(name);
        fs::create_dir_all(path.join("sub")).expect("source");
        let path = path.display().to_string();
        mount(&["--bind", &path, &path]);
        // Whatever the mount above is: a slave of nobody.
        mount(&["--make-private", &path]);
        mount(&[travels, &path]);
        Source(path)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l", &self.0]).status();
    }
}

#[test]
fn a_propagation_that_would_do_nothing_is_refused() {
    let node = Node::with_busybox("binds-refused");
    let (private, shared) =
        (Source::new(&node, "private", "--make-private"), Source::new(&node, "sh ared", "--make-shared"));
    let slave = Source::new(&node, "slave", "--make-shared");
    let below = format!("{}/sub", slave.0);
    mount(&["--bind", &slave.0, &below]);
    mount(&["--make-slave", &below]);
    let run = |source: &str, word: &str| {
        let bind = format!("type=bind,source={source},target=/data,bind-propagation={word}");
        node.ctl(&["run", "--rm", "--network", "none", "--mount", &bind, &image("busybox"), "true"])
    };
    for word in ["shared", "rshared", "slave", "rslave"] {
        let refused = run(&format!("{}/sub", private.0), word);
        let kind = if word.contains("shared") { "a shared" } else { "a shared or slave" };
        let words = format!("path {0}/sub is mounted on {0} but it is not {kind} mount", private.0);
        assert!(refused.code == 125 && refused.stderr.contains(&words), "{word}: {refused:?}");
        assert!(refused.stderr.contains("mount --make-"), "{refused:?}");
        assert_eq!(run(&shared.0, word).code, 0, "{word}");
    }
    for (word, code) in [("shared", 125), ("rshared", 125), ("slave", 0), ("rslave", 0)] {
        assert_eq!(run(&below, word).code, code, "{word}");
    }
    for word in ["private", "rprivate"] {
        assert_eq!(run(&private.0, word).code, 0, "{word}");
    }
    // One that is still to be made lies on the mount that it will be made on.
    let made = node.ctl(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &format!("{}/new/one:/x:rshared", private.0),
        &image("busybox"),
        "true",
    ]);
    assert!(made.code == 125 && made.stderr.contains("is not a shared mount"), "{made:?}");
    assert!(!Path::new(&private.0).join("new").exists(), "refused before anything is made");
    drop((private, shared, slave));
    node.finish();
}

#[test]
fn mounts_travel_both_ways_as_they_are_told() {
    let node = Node::with_busybox("binds-travel");
    let source = Source::new(&node, "shared", "--make-shared");
    let box_with = |word: &str| {
        node.detached(&["--privileged", "--userns", "host", "-v", &format!("{}:/data:{word}", source.0)], SLEEP)
    };
    let (shared, slave, private) = (box_with("rshared"), box_with("rslave"), box_with("rprivate"));
    let make = |id: &str, name: &str| {
        let script = format!("mkdir -p /data/{name} && mount -t tmpfs tmpfs /data/{name} && touch /data/{name}/mark");
        node.ok(&["exec", id, "sh", "-c", &script]);
    };
    let marked = |id: &str, name: &str| node.ctl(&["exec", id, "test", "-e", &format!("/data/{name}/mark")]).code == 0;
    let on_host = |name: &str| Path::new(&source.0).join(name).join("mark").exists();
    // Out of a container that shares, to the host and to the others that take; never out of one that only takes.
    make(&shared, "out");
    assert!(on_host("out") && marked(&slave, "out") && !marked(&private, "out"));
    make(&slave, "kept");
    assert!(!on_host("kept") && !marked(&shared, "kept"));
    make(&private, "own");
    assert!(!on_host("own") && !marked(&shared, "own") && !marked(&slave, "own"));
    // Into those that share or take.
    mount(&["-t", "tmpfs", "tmpfs", &format!("{}/sub", source.0)]);
    fs::write(Path::new(&source.0).join("sub/mark"), "").expect("mark");
    assert!(marked(&shared, "sub") && marked(&slave, "sub") && !marked(&private, "sub"));
    // And back: what goes on the host goes there, too.
    assert!(Command::new("umount").arg(format!("{}/sub", source.0)).status().expect("umount").success());
    assert!(!marked(&shared, "sub") && !marked(&slave, "sub"));
    node.ok(&["rm", "-f", &shared, &slave, &private]);
    until("the containers are gone", || node.ok(&["ps", "-aq"]).is_empty());
    drop(source);
    node.finish();
}

#[test]
fn read_only_reaches_as_far_below_as_it_is_told() {
    let node = Node::with_busybox("binds-recursive");
    let source = Source::new(&node, "source", "--make-private");
    mount(&["-t", "tmpfs", "tmpfs", &format!("{}/sub", source.0)]);
    fs::write(Path::new(&source.0).join("sub/mark"), "").expect("mark");
    let script = "touch /data/x 2>/dev/null && echo -n top; touch /data/sub/x 2>/dev/null && echo -n sub; test -e /data/sub/mark && echo -n seen";
    let run = |options: &str, userns: &[&str]| {
        let bind = format!("type=bind,source={},target=/data{options}", source.0);
        node.sh_output(&[userns, &["--mount", &bind]].concat(), script).stdout
    };
    for userns in [&["--userns", "host"][..], &[]] {
        for (options, can) in [
            ("", "topsubseen"),
            (",readonly", "seen"),
            (",readonly,bind-recursive=enabled", "seen"),
            (",readonly,bind-recursive=readonly,bind-propagation=rprivate", "seen"),
            (",readonly,bind-recursive=writable", "subseen"),
            (",readonly,bind-recursive=disabled", ""),
        ] {
            let found = run(options, userns);
            // Without what is mounted there it is a folder of the source's, and read-only or not with it.
            assert_eq!(found, can, "{options} {userns:?}");
        }
    }
    drop(source);
    node.finish();
}
