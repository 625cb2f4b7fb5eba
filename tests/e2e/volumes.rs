//! Volumes: files that outlive containers.

use crate::harness::{Node, image, until};

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[test]
fn a_named_volume_outlives_its_containers() {
    let mut node = Node::with_busybox("volume-named");
    assert_eq!(node.ok(&["volume", "create", "--label", "a=b", "data"]), "data");
    assert_eq!(node.ok(&["volume", "create", "--label", "a=b", "data"]), "data");
    node.fails(1, &["volume", "create", "data"]);
    node.sh(&["-v", "data:/data"], "echo kept >/data/file; chown 7:8 /data/file");
    assert_eq!(node.sh(&["-v", "data:/data:ro"], "cat /data/file; echo x >/data/y || echo no"), "kept\nno");
    // One that is not there is made.
    node.detached(&["--name", "box", "-v", "data:/data", "-v", "other:/other"], SLEEP);
    let mounts = node.inspect("box")["Mounts"].clone();
    assert_eq!(mounts[0]["Type"], "volume", "{mounts}");
    assert_eq!(mounts[0]["Name"], "data", "{mounts}");
    assert_eq!(node.ok(&["volume", "ls", "-q"]), "data\nother");
    let refused = node.fails(1, &["volume", "rm", "data"]);
    assert!(refused.contains("container box"), "{refused}");
    assert_eq!(node.ok(&["ps", "-q", "--filter", "volume=other"]), node.ok(&["ps", "-q"]));
    // The agent dies and comes back: the same files, and the same answer.
    node.kill_agent();
    node.spawn();
    assert_eq!(node.ok(&["exec", "box", "cat", "/data/file"]), "kept");
    node.fails(1, &["volume", "rm", "data"]);
    node.ok(&["stop", "box"]);
    node.fails(1, &["volume", "rm", "data"]);
    node.ok(&["start", "box"]);
    assert_eq!(node.ok(&["exec", "box", "stat", "-c", "%u:%g", "/data/file"]), "7:8");
    node.ok(&["rm", "-f", "box"]);
    until("nobody has it", || node.ctl(&["volume", "rm", "data"]).code == 0);
    assert_eq!(node.ok(&["volume", "ls", "-q"]), "other");
    node.fails(1, &["volume", "inspect", "data"]);
    node.ok(&["volume", "prune", "-f"]);
    assert_eq!(node.ok(&["volume", "ls", "-q"]), "other", "a name is kept");
    node.ok(&["volume", "prune", "-f", "-a"]);
    assert_eq!(node.ok(&["volume", "ls", "-q"]), "");
    node.finish();
}

#[test]
fn anonymous_volumes_go_where_that_was_asked_for() {
    let node = Node::with_busybox("volume-anonymous");
    node.sh(&["-v", "/data"], "echo x >/data/y");
    until("it went with its container", || node.ok(&["volume", "ls", "-q"]).is_empty());
    node.detached(&["--name", "box", "-v", "/data"], SLEEP);
    node.ok(&["rm", "-f", "box"]);
    assert_eq!(node.ok(&["volume", "ls", "-q"]).lines().count(), 1);
    node.detached(&["--name", "box", "-v", "/data"], SLEEP);
    node.ok(&["exec", "box", "sh", "-c", "echo shared >/data/file"]);
    assert_eq!(node.sh(&["--volumes-from", "box:ro"], "cat /data/file; touch /data/x || echo no"), "shared\nno");
    assert_eq!(node.ok(&["exec", "box", "cat", "/data/file"]), "shared", "another's end leaves it alone");
    node.ok(&["rm", "-f", "-v", "box"]);
    until("it went with its container", || node.ok(&["volume", "ls", "-q"]).lines().count() == 1);
    node.ok(&["system", "prune", "-f", "--volumes"]);
    assert_eq!(node.ok(&["volume", "ls", "-q"]), "");
    node.finish();
}

#[test]
fn an_empty_volume_is_filled_from_the_image() {
    let node = Node::with_busybox("volume-fill");
    let of_image = node.sh(&[], "cd /bin && ls | md5sum");
    assert_eq!(node.sh(&["-v", "bin:/bin"], "cd /bin && ls | md5sum"), of_image);
    node.sh(&["-v", "none:/etc:nocopy"], "true; test -z \"$(ls /etc | grep -v -e hosts -e hostname -e resolv.conf)\"");
    // At two targets it is the same volume, whichever of them the image has files at.
    let both = "touch /a/x /bin/y && ls -d /a/sh /bin/x /b/y";
    assert_eq!(node.sh(&["-v", "two:/a", "-v", "two:/bin", "-v", "two:/b"], both), "/a/sh\n/b/y\n/bin/x");
    // What is there stays: nothing is filled twice.
    node.sh(&["-v", "bin:/mnt"], "rm /mnt/cat");
    node.sh(&["-v", "bin:/bin"], "test ! -e /bin/cat");
    node.finish();
}

#[test]
fn what_others_add_counts_too() {
    let node = Node::with_busybox("volume-many");
    let image = image("busybox");
    let many = |letter: char| (0..60).flat_map(move |n| ["-v".to_owned(), format!("/{letter}{n}")]);
    let create = |more: &[&str], letter: char, image: &str| -> Vec<String> {
        let first = ["create"].iter().chain(more).map(|w| (*w).to_owned());
        first.chain(many(letter)).chain([image.to_owned(), "true".to_owned()]).collect()
    };
    let words = |all: &[String]| node.ctl(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let done = words(&create(&["--name", "first"], 'a', &image));
    assert_eq!(done.code, 0, "{}", done.stderr);
    // Together they could never start.
    let done = words(&create(&["--volumes-from", "first"], 'b', &image));
    assert!(done.code != 0 && done.stderr.contains("at most 64"), "{} {}", done.code, done.stderr);
    assert_eq!(node.ok(&["volume", "ls", "-q"]).lines().count(), 60);
    node.ok(&["start", "first"]);
    node.ok(&["rm", "-f", "-v", "first"]);
    node.finish();
}

#[test]
fn a_volume_of_a_fixed_size_is_full_for_itself() {
    let mut node = Node::with_busybox("volume-size");
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    node.detached(&["--name", "box", "-v", "small:/data", "-v", "big:/big"], SLEEP);
    let full = node.ctl(&["exec", "box", "dd", "if=/dev/zero", "of=/data/fill", "bs=1M", "count=32"]);
    assert!(full.code != 0 && full.stderr.contains("No space left"), "{} {}", full.code, full.stderr);
    node.ok(&["exec", "box", "sh", "-c", "echo fine >/big/file; rm /data/fill; echo kept >/data/file"]);
    // A second container, by another agent, has the same file system.
    node.kill_agent();
    node.spawn();
    assert_eq!(node.sh(&["-v", "small:/x"], "cat /x/file"), "kept");
    node.ok(&["exec", "box", "sh", "-c", "echo again >>/data/file"]);
    node.ok(&["rm", "-f", "box"]);
    assert_eq!(node.sh(&["-v", "small:/x"], "cat /x/file"), "kept\nagain");
    until("nobody has it", || node.ctl(&["volume", "rm", "-f", "small", "big"]).code == 0);
    node.finish();
}

#[test]
fn out_and_in_and_cloned() {
    let node = Node::with_busybox("volume-tar");
    let tar = node.scratch().join("data.tar").display().to_string();
    let script = "cd /data; mkdir -p a/b; echo deep >a/b/c; ln a/b/c hard; ln -s a link; chown 7:8 .; chmod 711 .; \
        dd if=/dev/zero of=hole bs=1 count=1 seek=10M 2>/dev/null";
    node.sh(&["-v", "data:/data"], script);
    let look = "cd /x; find . | sort; stat -c '%u:%g %a' .; cat a/b/c; stat -c %h hard; readlink link; du -k hole | cut -f1 | sed 's/^[0-9]$/few/'";
    let was = node.sh(&["-v", "data:/x"], look);
    assert!(was.contains("7:8 711") && was.contains("few"), "{was}");
    node.ok(&["volume", "export", "-o", &tar, "data"]);
    node.ok(&["volume", "import", "copy", &tar]);
    assert_eq!(node.sh(&["-v", "copy:/x"], look), was);
    let refused = node.fails(1, &["volume", "import", "copy", &tar]);
    assert!(refused.contains("not empty"), "{refused}");
    node.sh(&["-v", "copy:/x"], "rm -r /x/a; echo new >/x/new");
    node.ok(&["volume", "import", "--replace", "copy", &tar]);
    assert_eq!(node.sh(&["-v", "copy:/x"], look), was);
    node.ok(&["volume", "clone", "data", "clone"]);
    assert_eq!(node.sh(&["-v", "clone:/x"], look), was);
    // Half a tar makes no volume, and leaves one as it was.
    let half = node.scratch().join("half.tar");
    let whole = std::fs::read(&tar).expect("tar");
    std::fs::write(&half, &whole[..whole.len() / 2]).expect("half");
    let half = half.display().to_string();
    node.fails(1, &["volume", "import", "half", &half]);
    node.fails(1, &["volume", "inspect", "half"]);
    node.fails(1, &["volume", "import", "--replace", "copy", &half]);
    assert_eq!(node.sh(&["-v", "copy:/x"], look), was);
    node.detached(&["--name", "box", "-v", "copy:/data"], SLEEP);
    let refused = node.fails(1, &["volume", "import", "--replace", "copy", &tar]);
    assert!(refused.contains("in use"), "{refused}");
    node.finish();
}

#[test]
fn parts_of_volumes_and_images_and_no_way_out() {
    let node = Node::with_busybox("volume-part");
    node.sh(
        &["-v", "data:/data"],
        "mkdir -p /data/a/b; echo in >/data/a/b/f; ln -s / /data/root; ln -s ../../../etc /data/up",
    );
    let part = |path: &str| format!("type=volume,source=data,target=/x,volume-subpath={path}");
    assert_eq!(node.sh(&["--mount", &part("a/b")], "cat /x/f"), "in");
    // `root` is the volume's own root.
    assert_eq!(node.sh(&["--mount", &part("root")], "cat /x/a/b/f"), "in");
    for bad in ["up", "none", "a/b/none"] {
        let run = node.sh_output(&["--mount", &part(bad)], "ls /x");
        assert!(run.code == 125 && run.stderr.contains("leads out of it"), "{bad}: {}", run.stderr);
    }
    let run = node.sh_output(&["--mount", &part("../x")], "ls /x");
    assert!(run.code == 125 && run.stderr.contains("without '..'"), "{}", run.stderr);
    let mount = format!("type=image,source={},target=/image,image-subpath=bin", image("busybox"));
    assert_eq!(node.sh(&["--mount", &mount], "test -e /image/sh && touch /image/x 2>/dev/null || echo no"), "no");
    let tmpfs = ["volume", "create", "-o", "type=tmpfs", "-o", "o=size=1m,uid=5", "memory"];
    node.ok(&tmpfs);
    assert!(node.sh(&["-v", "memory:/m"], "df -k /m | tail -1").contains("1024"));
    let tar = node.scratch().join("data.tar").display().to_string();
    node.ok(&["volume", "export", "-o", &tar, "data"]);
    let refused = node.fails(1, &["volume", "import", "memory", &tar]);
    assert!(refused.contains("in memory"), "{refused}");
    node.ok(&["system", "df"]);
    node.ok(&["volume", "df"]);
    node.finish();
}
