//! Volumes whose files are on another machine, over NFS and SMB: real servers, real mounts.

use crate::harness::{Node, eventually, image, runtimes, source_dir, test_dir, until};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A server of `files` in its folder; it ends with this.
struct Share {
    dir: PathBuf,
    port: u16,
    server: Child,
}

impl Share {
    /// `None`, said with the reason: this host cannot have it.
    fn serve(kind: &str, port: u16) -> Option<Share> {
        let dir = test_dir().join("run").join(format!("share-{kind}-{}", std::process::id()));
        fs::create_dir_all(dir.join("files")).expect("files");
        let mut server = Command::new(source_dir().join("tests/fixtures/shares.sh"))
            .arg(kind)
            .arg(&dir)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("shares.sh");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        if line.trim() == "ready" {
            return Some(Share { dir, port, server });
        }
        let mut why = String::new();
        server.stderr.take().expect("stderr").read_to_string(&mut why).expect("stderr");
        let code = server.wait().expect("shares.sh").code();
        fs::remove_dir_all(&dir).expect("folder");
        assert_eq!(code, Some(77), "{why}");
        runtimes::say(&format!("skipped: volumes over {kind}: {}", why.trim()));
        None
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join("files").join(name)
    }

    fn end(&mut self) {
        drop(self.server.stdin.take());
        self.server.wait().expect("shares.sh");
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn is_mounted(node: &Node) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    mounts.contains(&format!("{}/volumes/share", node.data().display()))
}

/// What holds for both.
fn shared(node: &Node, share: &mut Share, options: &[&str]) {
    fs::write(share.file("seen"), "from the server").expect("seen");
    node.ok(&[&["volume", "create"][..], options, &["share"]].concat());
    assert!(!is_mounted(node), "nobody uses it");
    // A user namespace cannot map owners there, and that is said.
    let run = node.sh_output(&["-v", "share:/data"], "cat /data/seen");
    assert_eq!((run.code, run.stdout.as_str()), (0, "from the server"), "{run:?}");
    assert!(run.stderr.contains("the file system of volume share has no idmapped mounts"), "{run:?}");
    let of_host = ["--userns", "host", "-v", "share:/data"];
    node.detached(&[&["--name", "one"], &of_host[..]].concat(), SLEEP);
    node.ok(&["exec", "one", "sh", "-c", "echo from one >/data/one; mkdir /data/folder; mv /data/one /data/folder"]);
    assert_eq!(fs::read_to_string(share.file("folder/one")).expect("one"), "from one\n");
    // Another container sees it, a copy and an export too.
    assert_eq!(node.sh(&of_host, "cat /data/folder/one"), "from one");
    let out = node.scratch().join("out").display().to_string();
    node.ok(&["cp", "one:/data/folder/one", &out]);
    assert_eq!(fs::read_to_string(&out).expect("out"), "from one\n");
    let tar = node.scratch().join("tar").display().to_string();
    node.ok(&["volume", "export", "-o", &tar, "share"]);
    let listed = Command::new("tar").args(["-tf", &tar]).output().expect("tar");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("folder/one"), "{listed:?}");
    node.ok(&["volume", "clone", "share", "here"]);
    assert_eq!(node.sh(&["-v", "here:/x"], "cat /x/seen"), "from the server");
    node.ok(&["rm", "-f", "one"]);
    until("it is unmounted", || !is_mounted(node));
    let said = node.fails(1, &["volume", "import", "--replace", "share", &tar]);
    assert!(said.contains("not on this host's disk"), "{said}");
    // Read-only is the client's own.
    let read_only = options.iter().map(|o| o.strip_prefix("o=").map_or((*o).to_owned(), |o| format!("o=ro,{o}")));
    let read_only: Vec<String> = read_only.collect();
    let read_only: Vec<&str> = read_only.iter().map(String::as_str).collect();
    node.ok(&[&["volume", "create"][..], &read_only, &["fixed"]].concat());
    let fixed = node.sh(&["--userns", "host", "-v", "fixed:/data"], "cat /data/seen; touch /data/x 2>&1 || true");
    assert!(fixed.starts_with("from the server") && fixed.contains("Read-only file system"), "{fixed}");
    until("nobody has it", || node.ctl(&["volume", "rm", "-f", "fixed", "share", "here"]).code == 0);
    assert!(share.file("seen").exists(), "the server's files are the server's");
}

#[test]
fn over_nfs() {
    let mut node = Node::with_busybox("volume-nfs");
    let Some(mut share) = Share::serve("nfs", node.slot.port(3)) else { return node.finish() };
    let options = format!("o=vers=4.2,port={},soft,timeo=30,retrans=1", share.port);
    let options = ["-o", "type=nfs", "-o", "device=localhost:/", "-o", &options];
    shared(&node, &mut share, &options);
    // Mounted while the agent is away, it is used by the next one, and unmounted behind the last user.
    node.ok(&[&["volume", "create"][..], &options, &["share"]].concat());
    node.detached(&["--name", "box", "--userns", "host", "-v", "share:/data"], SLEEP);
    node.kill_agent();
    node.spawn();
    node.ok(&["exec", "box", "sh", "-c", "echo still >/data/still"]);
    assert_eq!(fs::read_to_string(share.file("still")).expect("still"), "still\n");
    node.ok(&["rm", "-f", "box"]);
    until("it is unmounted", || !is_mounted(&node));
    // A server that is not there is no hang.
    share.end();
    let said = node.fails(125, &["run", "--rm", "--network", "none", "-v", "share:/data", &image("busybox"), "true"]);
    assert!(said.contains("mounting nfs localhost:/ for the volume share"), "{said}");
    node.ok(&["volume", "rm", "share"]);
    node.finish();
}

#[test]
fn over_smb() {
    let node = Node::with_busybox("volume-smb");
    let Some(mut share) = Share::serve("cifs", node.slot.port(3)) else { return node.finish() };
    let options = format!("o=username=root,password=secret,vers=3.0,port={}", share.port);
    let options = ["-o", "type=cifs", "-o", "device=//localhost/files", "-o", &options];
    shared(&node, &mut share, &options);
    // The password is nobody's who only looks, and a wrong one is the server's to refuse.
    let wrong = options[5].replace("secret", "guess");
    node.ok(&["volume", "create", "-o", "type=cifs", "-o", "device=//localhost/files", "-o", &wrong, "share"]);
    let said = node.fails(125, &["run", "--rm", "--network", "none", "-v", "share:/data", &image("busybox"), "true"]);
    assert!(said.contains("mounting cifs //localhost/files") && !said.contains("guess"), "{said}");
    eventually("the volume goes", || (node.ctl(&["volume", "rm", "share"]).code == 0).then_some(()));
    node.finish();
}
