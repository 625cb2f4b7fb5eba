//! `diff`, `export` and `commit`: what a container has made of its image, in both layer stores.

use crate::harness::{Node, image, until};
use std::fs;
use std::process::Command;

const EDIT: &str = "echo new >/added; mkdir /dir; echo x >/dir/x; echo more >>/etc/passwd; rm -f /etc/group; \
    rm -rf /home; mkdir /home; echo own >/home/own; chown 5:6 /added; ln /added /hard; ln -s added /link; chmod 700 /root; \
    touch '/a name with blanks'; touch /done; while :; do sleep 1; done";

fn node(name: &str, store: &str) -> Node {
    let node = Node::builder(name).images(&format!("layer_store = \"{store}\"")).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    node
}

fn edited(node: &Node) {
    node.detached(&["--name", "box", "--tmpfs", "/scratch", "-e", "OWN=1"], EDIT);
    until("it is edited", || node.ctl(&["exec", "box", "test", "-e", "/done"]).code == 0);
    node.ok(&["exec", "box", "sh", "-c", "echo hidden >/scratch/hidden"]);
}

fn diff(store: &str) {
    let node = node(&format!("diff-{store}"), store);
    node.detached(&["--name", "fresh"], "while :; do sleep 1; done");
    assert_eq!(node.ok(&["diff", "fresh"]), "", "what the engine mounts is no change");
    node.ok(&["create", "--name", "made", "--network", "none", &image("busybox"), "true"]);
    assert_eq!(node.ok(&["diff", "made"]), "");
    edited(&node);
    let running = node.ok(&["diff", "box"]);
    let lines: Vec<&str> = running.lines().collect();
    for wanted in [
        "A /added",
        "A /a name with blanks",
        "A /dir",
        "A /dir/x",
        "C /etc",
        "C /etc/passwd",
        "D /etc/group",
        "A /hard",
        "A /link",
        "C /home",
        "A /home/own",
        "C /root",
        "A /scratch",
    ] {
        assert!(lines.contains(&wanted), "{wanted} is missing:\n{running}");
    }
    assert!(!running.contains("hidden") && !running.contains("/etc/hosts") && !running.contains("/proc"), "{running}");
    let mut sorted = lines.clone();
    sorted.sort_by_key(|l| &l[2..]);
    assert_eq!(lines, sorted);
    node.ok(&["stop", "-t", "0", "box"]);
    assert_eq!(node.ok(&["diff", "box"]), running);
    let json: serde_json::Value =
        serde_json::from_str(node.ok(&["diff", "-o", "json", "box"]).lines().next().expect("a line")).expect("JSON");
    assert!(json["Kind"] == "A" && json["Path"].is_string(), "{json}");
    node.finish();
}

#[test]
fn diff_in_the_erofs_store() {
    diff("erofs");
}

#[test]
fn diff_in_the_directory_store() {
    diff("directory");
}

#[test]
fn export_is_the_whole_root() {
    let node = node("export", "auto");
    edited(&node);
    let here = node.scratch();
    for (state, name) in [("running", "a.tar"), ("stopped", "b.tar")] {
        let file = here.join(name);
        node.ok(&["export", "-o", &file.display().to_string(), "box"]);
        let root = here.join(state);
        fs::create_dir(&root).expect("mkdir");
        assert!(Command::new("tar").arg("xf").arg(&file).arg("-C").arg(&root).status().expect("tar").success());
        assert_eq!(fs::read_to_string(root.join("added")).expect("added"), "new\n");
        assert!(fs::read_to_string(root.join("etc/passwd")).expect("passwd").ends_with("more\n"));
        assert!(root.join("bin/busybox").exists() && root.join("home/own").exists());
        assert!(!root.join("etc/group").exists() && !root.join("scratch/hidden").exists());
        assert_eq!(fs::read_dir(root.join("proc")).expect("proc").count(), 0);
        let inode = |n: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(root.join(n)).expect("file"));
        assert_eq!(inode("added"), inode("hard"));
        if state == "running" {
            node.ok(&["stop", "-t", "0", "box"]);
        }
    }
    assert_eq!(
        fs::read(here.join("a.tar")).expect("a"),
        fs::read(here.join("b.tar")).expect("b"),
        "the same each time"
    );
    let out = node.ctl_command(&["export", "box"]).output().expect("ctl");
    assert_eq!(out.stdout, fs::read(here.join("b.tar")).expect("b"));
    assert!(!fs::read_dir(&here).expect("scratch").flatten().any(|e| e.file_name().to_string_lossy().contains("part")));
    node.finish();
}

fn commit(store: &str) {
    let mut node = node(&format!("commit-{store}"), store);
    edited(&node);
    let error = node.fails(1, &["commit", "-c", "RUN true", "box", "made:1"]);
    assert!(error.contains("--change: "), "{error}");
    node.fails(125, &["commit", "box", "Not A Name"]);
    let id = node.ok(&[
        "commit",
        "-a",
        "somebody",
        "-m",
        "a word",
        "-c",
        "CMD [\"cat\", \"/added\"]",
        "-c",
        "ENV NEW=\"two words\"",
        "-c",
        "LABEL kept=yes",
        "-c",
        "EXPOSE 80",
        "box",
        "made:1",
    ]);
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(node.inspect("box")["State"]["Status"], "running");
    let check = |node: &Node| {
        let run = |command: &[&str]| {
            node.ok(&[&["run", "--rm", "--network", "none", "--pull", "never", "made:1"], command].concat())
        };
        assert_eq!(run(&[]), "new");
        let script = "cat /dir/x; test -e /etc/group || echo gone; ls /home; stat -c %u:%g /added; stat -c %h /hard; \
            stat -c %a /root; readlink /link; tail -n 1 /etc/passwd; ls -A /scratch; echo $OWN $NEW";
        assert_eq!(run(&["sh", "-c", script]), "x\ngone\nown\n5:6\n2\n700\nadded\nmore\n1 two words");
    };
    check(&node);
    let image_json = node.ok(&["inspect", "--type", "image", "-o", "json", "made:1"]);
    let inspect: serde_json::Value = serde_json::from_str(&image_json).expect("JSON");
    let inspect = inspect.get(0).unwrap_or(&inspect);
    assert!(
        inspect["Author"] == "somebody" && image_json.contains("kept") && image_json.contains("80/tcp"),
        "{image_json}"
    );
    node.restart();
    check(&node);
    // Nothing of the image depends on the container, nor on the parent's name.
    node.ok(&["rm", "-f", "box"]);
    node.ok(&["rmi", &image("busybox")]);
    check(&node);
    node.ok(&["tag", "made:1", "made:2"]);
    // A commit of a commit, without a name and without a pause; of a container that never ran.
    node.ok(&["create", "--name", "two", "--network", "none", "made:1"]);
    let second = node.ok(&["commit", "--no-pause", "two"]);
    assert_ne!(second, id);
    let hex = second.trim_start_matches("sha256:");
    assert_eq!(node.ok(&["run", "--rm", "--network", "none", "--pull", "never", &hex[..12]]), "new");
    node.ok(&["rm", "two"]);
    node.ok(&["rmi", &hex[..12]]);
    node.ok(&["rmi", "made:1", "made:2"]);
    let left = || fs::read_dir(node.data().join("layers/layers/sha256")).expect("layers").count();
    until("no layer is left", || left() == 0);
    node.finish();
}

#[test]
fn commit_in_the_erofs_store() {
    commit("erofs");
}

#[test]
fn commit_in_the_directory_store() {
    commit("directory");
}

/// One commit, and the same again with its id: one image. And what a layer cannot say is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_done_once() {
    let node = Node::with_busybox("commit-once");
    node.ok(&["create", "--name", "box", "--network", "none", &image("busybox"), "true"]);
    let mut files = node.files().await;
    let request = berth::v1::CommitRequest {
        request_id: "the-same".into(),
        container: "box".into(),
        reference: "once:1".into(),
        ..Default::default()
    };
    let first = files.commit(request.clone()).await.expect("commit").into_inner();
    let second = files.commit(request.clone()).await.expect("commit").into_inner();
    assert_eq!(first, second);
    let other = berth::v1::CommitRequest { message: "other".into(), ..request };
    assert_eq!(files.commit(other).await.expect_err("reused").code(), tonic::Code::AlreadyExists);
    drop(files);
    let odd = node.scratch().join(".wh.odd");
    fs::write(&odd, "").expect("odd");
    node.ok(&["cp", &odd.display().to_string(), "box:/"]);
    let error = node.fails(1, &["commit", "box"]);
    assert!(error.contains(".wh."), "{error}");
    node.finish();
}
