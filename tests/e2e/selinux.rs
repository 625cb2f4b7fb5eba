//! SELinux labels of containers. On a host without SELinux, and this is most of what is tested on, what is named is refused by name. The rest needs a
//! machine whose policy may be exchanged: `VM_APPEND="security=selinux selinux=1 enforcing=0" tests/vm.sh tests/vm-e2e.sh FOLDER selinux::`.

use crate::harness::{Node, image, runtimes, source_dir, until};
use std::fs;
use std::path::Path;
use std::process::Command;

const IDLE: &str = "while :; do sleep 1; done";
const CURRENT: &str = "cat /proc/self/attr/current";
const ENFORCE: &str = "/sys/fs/selinux/enforce";

fn label_of(pid: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/attr/current")).expect("label");
    text.trim_end_matches(['\0', '\n']).to_owned()
}

fn is_enabled() -> bool {
    Path::new(ENFORCE).exists() && label_of("self") != "kernel"
}

/// Of all of them at once, as an emulated processor takes seconds to start python.
fn file_labels(paths: &[String]) -> Vec<String> {
    let script = "import os,sys\nfor p in sys.argv[1:]: print(os.getxattr(p,'security.selinux',follow_symlinks=False).decode().rstrip('\\0'))";
    let output = Command::new("python3").args(["-c", script]).args(paths).output().expect("python3");
    assert!(output.status.success(), "{paths:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

/// What is forbidden is forbidden while this lives.
struct Enforcing;

impl Enforcing {
    fn begin() -> Enforcing {
        fs::write(ENFORCE, "1").expect("enforcing");
        Enforcing
    }
}

impl Drop for Enforcing {
    fn drop(&mut self) {
        let _ = fs::write(ENFORCE, "0");
    }
}

/// A node on a machine with the tests' policy; `None`: there is nothing to see here.
fn node(name: &str) -> Option<Node> {
    if !Path::new(ENFORCE).exists() {
        runtimes::say("skipped: SELinux labels: this host has no SELinux");
        return None;
    }
    let load = source_dir().join("tests/selinux/load.sh");
    assert!(Command::new(load).status().expect("load.sh").success());
    Some(Node::with_busybox(name))
}

fn pid(node: &Node, id: &str) -> String {
    node.ok(&["inspect", "--format", "{{.State.Pid}}", id])
}

/// `s0:c1,c2` of a label.
fn level(label: &str) -> &str {
    label.splitn(4, ':').last().expect("a level")
}

#[test]
fn without_selinux_labels_are_refused_by_name() {
    if is_enabled() {
        return runtimes::say("skipped: refusals of labels: this host has SELinux");
    }
    let node = Node::with_busybox("selinux-none");
    let busybox = image("busybox");
    for option in ["type:container_t", "level:s0:c1,c2", "user:u", "role:r", "filetype:f_t"] {
        let refused = node.fails(1, &["create", "--security-opt", &format!("label={option}"), &busybox]);
        assert!(refused.contains("--security-opt label: SELinux is not enabled on this host"), "{refused}");
    }
    let refused = node.fails(1, &["create", "--security-opt", "label=type:a;b", &busybox]);
    assert!(refused.contains("must be a part of a context"), "{refused}");
    assert_eq!(node.sh(&["--security-opt", "label=disable", "-v", "mine:/mine:Z"], "echo runs"), "runs");
    let id = node.ok(&["create", "--security-opt", "label=disable", &busybox]);
    let template = "{{.HostConfig.SecurityOpt}}{{.ProcessLabel}}{{.MountLabel}}";
    assert_eq!(node.ok(&["inspect", "--format", template, &id]), "[no-new-privileges label=disable]");
    assert!(node.ok(&["info"]).lines().any(|l| l.starts_with("SELinux:") && l.ends_with("not enabled")));
    node.ok(&["rm", &id]);
    node.ok(&["volume", "rm", "mine"]);
    node.finish();
}

#[test]
fn processes_and_files_have_their_container_s_labels() {
    let Some(node) = node("selinux-labels") else { return };
    assert!(node.ok(&["info"]).lines().any(|l| l.starts_with("SELinux:") && l.ends_with("containers have labels")));
    let host = label_of("self");
    let mut levels = Vec::new();
    let other = ["--userns", "host"];
    for options in [&[][..], &other, &["--init"], &["-t"]] {
        let check = "grep -q container_t /proc/self/attr/current";
        let more = ["--tmpfs", "/t", "--health-cmd", check, "--health-interval", "1s", "-v", "ours:/ours"];
        let id = node.detached(&[options, &more].concat(), IDLE);
        let pid = pid(&node, &id);
        let process = label_of(&pid);
        assert!(process.starts_with("system_u:system_r:container_t:s0:c"), "{options:?}: {process}");
        let told = node.ok(&["inspect", "--format", "{{.ProcessLabel}} {{.MountLabel}}", &id]);
        let mount = format!("system_u:object_r:container_file_t:{}", level(&process));
        assert_eq!(told, format!("{process} {mount}"), "{options:?}");
        let root = |path: &str| format!("/proc/{pid}/root/{path}");
        let own = ["", "bin/busybox", "etc/hosts", "etc/resolv.conf", "dev", "dev/null", "dev/shm", "dev/pts", "t"];
        let labels = file_labels(&own.map(root));
        assert!(labels.iter().all(|label| *label == mount), "{options:?}: {labels:?}");
        // What a user namespace has of the queues is the kernel's own.
        let labels = file_labels(&["dev/mqueue", "ours"].map(root));
        assert_eq!(labels[0] == mount, options == other, "{options:?}: {labels:?}");
        assert_eq!(labels[1], "system_u:object_r:container_file_t:s0");
        let execs: &[&[&str]] = if options.is_empty() { &[&["-u", "7"], &["--privileged"]] } else { &[] };
        for exec in execs {
            let seen = node.ok(&[&["exec"], *exec, &[&id, "cat", "/proc/self/attr/current"]].concat());
            assert_eq!(seen.trim_end_matches('\0'), process, "{options:?} {exec:?}");
        }
        let seen = node.ok(&["exec", &id, "cat", "/proc/1/attr/current"]);
        assert_eq!(seen.trim_end_matches('\0'), process, "{options:?}");
        until("its health check has the label", || node.inspect(&id)["State"]["Health"]["Status"] == "healthy");
        levels.push((id, level(&process).to_owned()));
    }
    let mut pairs: Vec<&String> = levels.iter().map(|(_, level)| level).collect();
    pairs.sort();
    pairs.dedup();
    assert_eq!(pairs.len(), levels.len(), "{levels:?}");
    for options in [&["--security-opt", "label=disable"][..], &["--privileged"], &["--pid", "host"], &["--ipc", "host"]]
    {
        assert_eq!(node.sh(options, CURRENT).trim_end_matches('\0'), host, "{options:?}");
    }
    for (option, expected) in [
        ("type:other_t", "system_u:system_r:other_t:s0:c"),
        ("level:s0:c5,c7", "system_u:system_r:container_t:s0:c5,c7"),
    ] {
        let seen = node.sh(&["--security-opt", &format!("label={option}")], CURRENT);
        assert!(seen.starts_with(expected), "{option}: {seen}");
    }
    let unknown = ["create", "--security-opt", "label=type:nosuch_t", &image("busybox")];
    assert!(node.fails(1, &unknown).contains("policy does not know system_u:system_r:nosuch_t"));
    for (id, _) in &levels {
        node.ok(&["rm", "-f", id]);
    }
    node.ok(&["volume", "rm", "ours"]);
    node.finish();
}

#[test]
fn what_is_one_container_s_no_other_reads() {
    let Some(mut node) = node("selinux-apart") else { return };
    let _enforcing = Enforcing::begin();
    let site = node.scratch().join("site");
    fs::create_dir_all(site.join("below/deeper")).expect("folder");
    let outside = node.scratch().join("outside");
    for (file, text) in [(site.join("below/deeper/file"), "site"), (outside.clone(), "outside")] {
        fs::write(file, text).expect("file");
    }
    std::os::unix::fs::symlink(&outside, site.join("link")).expect("link");
    let bind = format!("{}:/site", site.display());
    let write = "echo secret > /mine/secret; echo all > /ours/all; echo more > /site/more; ";
    let one = node
        .detached(&["-v", "mine:/mine:Z", "-v", "ours:/ours:z", "-v", &format!("{bind}:Z")], &format!("{write}{IDLE}"));
    let process = label_of(&pid(&node, &one));
    let mount = format!("system_u:object_r:container_file_t:{}", level(&process));
    until("it has written", || site.join("more").exists());
    let inside = ["", "below", "below/deeper/file", "more", "link"];
    let labels = file_labels(&inside.map(|path| site.join(path).display().to_string()));
    assert!(labels.iter().all(|label| *label == mount), "{labels:?}");
    assert!(!file_labels(&[outside.display().to_string()])[0].contains("container_file_t"));
    let read = "cat /mine/secret /site/below/deeper/file";
    assert_eq!(node.ok(&["exec", &one, "sh", "-c", read]), "secret\nsite");
    // The same volumes in another container, whose root and rights are as good.
    let volumes = ["-v", "mine:/mine", "-v", "ours:/ours", "-v", &bind];
    for more in [&[][..], &["--userns", "host"]] {
        let options = [&volumes[..], more].concat();
        for path in ["/mine/secret", "/site/below/deeper/file", "/site/more"] {
            let output = node.sh_output(&options, &format!("cat /ours/all; cat {path}"));
            assert!(output.code != 0 && output.stderr.contains("Permission denied"), "{more:?} {path}: {output:?}");
            assert_eq!(output.stdout, "all\n", "{more:?}");
        }
    }
    // The attack works where the wall is down, and what has the same categories is the same.
    let open = [&volumes[..], &["--security-opt", "label=disable"]].concat();
    assert_eq!(node.sh(&open, read), "secret\nsite");
    let same = format!("label=level:{}", level(&process));
    assert_eq!(node.sh(&[&volumes[..], &["--security-opt", &same]].concat(), read), "secret\nsite");
    // A file of the host's without a label for containers is not theirs either.
    let plain = format!("{}:/outside", outside.display());
    assert!(node.sh_output(&["-v", &plain], "cat /outside").stderr.contains("Permission denied"));
    let shared = format!("{}:/outside:z", outside.display());
    assert_eq!(node.sh(&["-v", &shared], "cat /outside"), "outside");
    for folder in ["/", "/etc", "/usr", "/home"] {
        let id = node.ok(&["create", "-v", &format!("{folder}:/host:z"), &image("busybox")]);
        let refused = node.fails(1, &["start", &id]);
        assert!(refused.contains(&format!("{folder} is the host's, and is not relabelled")), "{refused}");
        node.ok(&["rm", &id]);
    }
    // The pair is the container's over restarts of the agent and its own.
    let given = |node: &Node| node.ok(&["node", "doctor"]).lines().any(|l| l.contains("1 pairs of categories"));
    assert!(given(&node));
    node.restart();
    assert!(given(&node));
    assert_eq!(label_of(&pid(&node, &one)), process);
    node.ok(&["restart", "-t", "1", &one]);
    assert_eq!(label_of(&pid(&node, &one)), process);
    node.ok(&["rm", "-f", &one]);
    assert!(!given(&node));
    node.ok(&["volume", "rm", "mine", "ours"]);
    node.finish();
}
