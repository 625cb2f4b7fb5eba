//! What a process in a container has from the start: descriptors, environment, mounts with what they show of the host, rights, keys. Compared
//! with what it should be, to the letter.

use crate::escapes::program;
use crate::harness::{Node, eventually, image, runtimes, test_dir};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// What the program of attacks says, with words in the place of what another host, kernel or run has otherwise.
fn of(output: &str) -> String {
    // Groups have a test of their own (`the_groups_are_its_own`).
    let wanted = output.lines().map(str::trim_end).filter(|line| !line.starts_with("cgroup "));
    let mut lines: Vec<String> = wanted.filter_map(same_everywhere).collect();
    // In which order the kernel's file systems were mounted says nothing.
    lines.sort_by_key(|line| line.starts_with("mount ").then(|| line.clone()));
    lines.dedup();
    lines.join("\n").replace(&all_capabilities(), "ALL")
}

fn same_everywhere(line: &str) -> Option<String> {
    if line.starts_with("mount ") {
        return Mount::of(line).same_everywhere();
    }
    let is_short_id = |text: &str| text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if line.strip_prefix("env HOSTNAME=").is_some_and(is_short_id) {
        return Some("env HOSTNAME=SHORT-ID".to_owned());
    }
    if line.starts_with("userkeys ") {
        return Some("userkeys NUMBER".to_owned());
    }
    match line.strip_prefix("keyring ").and_then(|rest| rest.split_once(' ')) {
        Some((number, name)) if number.parse::<u32>().is_ok() => Some(format!("keyring NUMBER {name}")),
        _ => Some(line.to_owned()),
    }
}

/// A line `mount` of the program of attacks.
#[derive(Debug)]
pub struct Mount<'a> {
    pub at: &'a str,
    pub fs_type: &'a str,
    options: Vec<&'a str>,
    /// What of the file system is mounted there.
    pub root: &'a str,
    source: &'a str,
    /// Options of the file system itself.
    has: Vec<&'a str>,
    /// `shared`, `master` and so on.
    more: &'a str,
}

/// Files of the host that each container has.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

impl<'a> Mount<'a> {
    pub fn of(line: &'a str) -> Mount<'a> {
        let words: Vec<&str> = line.splitn(11, ' ').collect();
        let ["mount", at, fs_type, options, "root", root, "source", source, "has", has, ref more @ ..] = words[..]
        else {
            panic!("{line}")
        };
        let list = |text: &'a str| text.split(',').collect();
        let more = more.first().copied().unwrap_or_default();
        Mount { at, fs_type, options: list(options), root, source, has: list(has), more }
    }

    fn same_everywhere(self) -> Option<String> {
        let Mount { at, fs_type, root, .. } = self;
        let kernels = at.starts_with("/proc/") || at.starts_with("/sys/");
        if at.starts_with("/sys/fs/cgroup") {
            // v2 has one, v1 one for each controller, in a folder.
            return fs_type.starts_with("cgroup").then(|| self.said("GROUPS", "cgroup", root, "cgroup", &[]));
        }
        // Which of these the host's kernel has does not matter: `host_files_are_masked_or_read_only` looks at each.
        if kernels && fs_type == "tmpfs" {
            let masked = if root == "/" { "MASKED-FOLDER" } else { "MASKED-FILE" };
            return Some(self.said(masked, fs_type, root, self.source, &self.of_itself()));
        }
        if kernels && at.strip_prefix("/proc") == Some(root) {
            return Some(self.said("READ-ONLY", fs_type, "ITSELF", self.source, &self.of_itself()));
        }
        if ["/escape", "/own"].contains(&at) || FILES.contains(&at) {
            return Some(self.of_the_host());
        }
        Some(self.said(at, fs_type, root, self.source, &self.of_itself()))
    }

    fn said(&self, at: &str, fs_type: &str, root: &str, source: &str, has: &[&str]) -> String {
        let (options, has) = (self.options.join(","), has.join(","));
        let line = format!("mount {at} {fs_type} {options} root {root} source {source} has {has}");
        format!("{line} {}", self.more).trim_end().to_owned()
    }

    /// Without the numbers of users and what kernels say more or less of. Overlayfs shows its folders as they were given.
    fn of_itself(&self) -> Vec<&'a str> {
        const VARY: [&str; 6] = ["uid=", "gid=", "inode", "seclabel", "context=", "rootcontext="];
        let overlay = |option: &str| {
            let value = option
                .split_once('=')
                .filter(|(key, _)| ["lowerdir", "lowerdir+", "upperdir", "workdir"].contains(key));
            value.is_some_and(|(_, path)| {
                !["/", "/upper", "/work"].contains(&path) && !path.split(':').all(|p| p.starts_with("/proc/self/fd/"))
            })
        };
        let kept = |option: &&str| match self.fs_type {
            "overlay" => overlay(option),
            _ => !VARY.iter().any(|start| option.starts_with(start)),
        };
        self.has.iter().copied().filter(kept).collect()
    }

    /// Of the program's and the agent's files: what of the path is the host's, and what the file system there says of itself, is the host's to say.
    fn of_the_host(&self) -> String {
        let tail = |part: &str| self.root.rfind(part).map(|at| &self.root[at..]);
        let (there, root) = match self.at {
            "/escape" => (program(), tail("/escape-").map(|_| "PROGRAM".to_owned())),
            "/own" => (test_dir().join("run"), tail("/volumes/").map(in_data)),
            _ => (test_dir().join("run"), tail("/containers/").map(in_data)),
        };
        let host = host_options(&there);
        let kept = |option: &&str| {
            // Not all file systems of a host have mapped mounts: that of the agent's files has.
            let mapped = self.at == "/escape" && *option == "idmapped";
            let inherited = option.contains("time") || host.iter().any(|of_host| of_host == option);
            ["ro", "rw"].contains(option) || !mapped && !inherited
        };
        let options: Vec<&str> = self.options.iter().copied().filter(kept).collect();
        let root = root.as_deref().unwrap_or(self.root);
        let line = format!("mount {} HOST {} root {root} {}", self.at, options.join(","), self.more);
        line.trim_end().to_owned()
    }
}

/// The id is the container's own, which it has as its name, too.
fn in_data(path: &str) -> String {
    let is_id = |part: &&str| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<&str> = path.split('/').map(|part| if is_id(&part) { "ID" } else { part }).collect();
    format!("DATA{}", parts.join("/"))
}

/// Options of the mount that a path of the host's is on.
fn host_options(path: &Path) -> Vec<String> {
    let output = Command::new("findmnt").args(["-n", "-o", "OPTIONS", "-T"]).arg(path).output().expect("findmnt");
    String::from_utf8_lossy(&output.stdout).trim().split(',').map(str::to_owned).collect()
}

/// What a privileged container has: all that this host has.
fn all_capabilities() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|l| l.starts_with("CapBnd")).expect("CapBnd");
    line.split_whitespace().nth(1).expect("a number").to_owned()
}

fn node(name: &str) -> (Node, String) {
    (Node::with_busybox(name), format!("{}:/escape:ro", program().display()))
}

#[test]
fn of_a_container() {
    let (node, mount) = node("visible-run");
    let run = |options: &[&str]| {
        let busybox = image("busybox");
        let arguments =
            [&["run", "--rm", "--network", "none", "-v", &mount], options, &[busybox.as_str(), "/escape", "seen"]]
                .concat();
        of(&node.ok(&arguments).replace('\r', ""))
    };
    insta::assert_snapshot!("default", run(&[]));
    insta::assert_snapshot!("privileged", run(&["--privileged"]));
    insta::assert_snapshot!("tty", run(&["-t"]));
    insta::assert_snapshot!("userns_host", run(&["--userns", "host", "-v", "own:/own", "--tmpfs", "/t"]));
    node.ok(&["volume", "rm", "own"]);
    insta::assert_snapshot!("user", run(&["-u", "nobody", "--read-only", "--security-opt", "no-new-privileges"]));
    node.finish();
}

#[test]
fn of_what_joins_it() {
    let (node, mount) = node("visible-exec");
    let script = "while :; do sleep 1; done";
    let options = ["--name", "seen", "-v", &mount, "--health-cmd", CHECK, "--health-interval", "1s"];
    node.detached(&options, script);
    let exec =
        |options: &[&str]| of(&node.ok(&[&["exec"], options, &["seen", "/escape", "seen"]].concat()).replace('\r', ""));
    insta::assert_snapshot!("exec", exec(&[]));
    insta::assert_snapshot!("exec_tty", exec(&["-t"]));
    insta::assert_snapshot!("exec_privileged", exec(&["--privileged"]));
    insta::assert_snapshot!("health", of(&of_a_check(&node, "seen")));
    node.ok(&["rm", "-f", "seen"]);
    node.finish();
}

/// Busybox's shell ignores SIGQUIT, which what it becomes does, too.
const CHECK: &str = "/escape seen >/tmp/health; true";

/// What a health check of this container has written.
fn of_a_check(node: &Node, container: &str) -> String {
    eventually("a health check has written", || {
        let output = node.ctl(&["exec", container, "cat", "/tmp/health"]);
        (output.code == 0 && output.stdout.contains("keyring")).then_some(output.stdout)
    })
}

/// What each kind of process that berth starts in a container says: those with `options` at the container's start, with and without a terminal, a
/// privileged one, and what joins.
fn of_every_kind(node: &Node, mount: &str, options: &[&str]) -> Vec<(&'static str, String)> {
    let options = [options, &["-v", mount]].concat();
    let run = |more: &[&str]| node.sh(&[&options, more].concat(), "/escape seen").replace('\r', "");
    let check = ["--name", "joined", "--health-cmd", CHECK, "--health-interval", "1s"];
    node.detached(&[&check, &options[..]].concat(), "while :; do sleep 1; done");
    let exec = |more: &[&str]| node.ok(&[&["exec"], more, &["joined", "/escape", "seen"]].concat()).replace('\r', "");
    let mut all = vec![
        ("run", run(&[])),
        ("run again", run(&[])),
        ("run -t", run(&["-t"])),
        ("run --privileged", run(&["--privileged"])),
        ("exec", exec(&[])),
        ("exec -t", exec(&["-t"])),
        ("health check", of_a_check(node, "joined")),
    ];
    if runtimes::has("exec --privileged") {
        all.push(("exec --privileged", exec(&["--privileged"])));
    }
    node.ok(&["rm", "-f", "joined"]);
    all
}

/// A session keyring of the agent's would hold what whoever started the agent has put there. Those of users belong to a user namespace.
#[test]
fn the_keyring_is_its_own() {
    let (node, mount) = node("visible-keys");
    let ring = |output: &str| output.lines().find(|l| l.starts_with("keyring")).expect("keyring").to_owned();
    let of_user = |output: &str| output.lines().find(|l| l.starts_with("userkeys")).expect("userkeys").to_owned();
    let ours = Command::new(program()).arg("seen").output().expect("seen");
    let ours = String::from_utf8_lossy(&ours.stdout);
    let mut all = BTreeSet::from([ring(&ours)]);
    for (what, output) in of_every_kind(&node, &mount, &["--security-opt", "seccomp=unconfined"]) {
        let ring = ring(&output);
        // Others call it as the container.
        assert!(runtimes::other().is_some() || ring.ends_with("_ses"), "{what}: {ring}");
        assert!(all.insert(ring.clone()), "{what}: {ring} is another's, too: {all:?}");
        let is_of_the_host = of_user(&output) == of_user(&ours);
        assert_eq!(is_of_the_host, what == "run --privileged", "{what}: {}", of_user(&output));
    }
    node.finish();
}

#[test]
fn the_groups_are_its_own() {
    let (node, mount) = node("visible-groups");
    for (what, output) in of_every_kind(&node, &mount, &[]) {
        let groups: BTreeSet<&str> = output.lines().filter(|l| l.starts_with("cgroup")).collect();
        // One by which all that a check has started is ended lies below.
        let more = groups.iter().filter(|group| **group != "cgroup /").copied().collect::<Vec<_>>();
        assert!(groups.contains("cgroup /") || what == "health check", "{what}: {groups:?}");
        assert!(more.is_empty() || what == "health check" && more == ["cgroup /probe"], "{what}: {groups:?}");
        let mounts: Vec<Mount<'_>> =
            output.lines().filter(|l| l.starts_with("mount /sys/fs/cgroup")).map(Mount::of).collect();
        assert!(mounts.iter().any(|m| m.fs_type.starts_with("cgroup")), "{what}: {output}");
        for m in mounts {
            let folder = m.fs_type == "tmpfs" && m.at == "/sys/fs/cgroup";
            assert!(m.root == "/" && (folder || m.fs_type.starts_with("cgroup")), "{what}: {m:?}");
            for option in ["nosuid", "nodev", "noexec"] {
                assert!(m.options.contains(&option), "{what}: {option}: {m:?}");
            }
            let writable = what == "run --privileged" || folder && runtimes::leaves_folder_of_groups();
            assert_eq!(m.options.contains(&"rw"), writable, "{what}: {m:?}");
        }
    }
    node.finish();
}

/// Nobody raises a limit in a user namespace: what the agent cannot have is not the containers', either.
#[test]
fn an_agent_without_cores_starts_containers() {
    let (mut node, _) = node("visible-no-core");
    node.kill_agent();
    node.set_starter(&["prlimit", "--core=0:0"]);
    node.spawn();
    let raises = berth_sys::cap::bit("SYS_RESOURCE").is_some_and(|bit| berth_sys::cap::bounding() & bit != 0);
    let (least, limit) = (u8::from(raises), "awk '/core file/ { print $5, $6 }' /proc/self/limits");
    let none = format!("{least} {least}");
    for options in [&[][..], &["--ulimit", "core=0"], &["--privileged"], &["--userns", "host"]] {
        assert_eq!(node.sh(options, limit).trim(), none, "{options:?}");
    }
    let held = node.detached(&[], "sleep 1000");
    assert_eq!(node.ok(&["exec", held.trim(), "sh", "-c", limit]).trim(), none);
    node.finish();
}

/// A limit of 1 is no core, not even for a program of the host's that the kernel would pipe it to: whoever crashes cannot raise it.
#[test]
fn cores_are_written_where_they_are_asked_for() {
    let (node, _) = node("visible-core");
    let limit = "awk '/core file/ { print $5, $6 }' /proc/self/limits";
    let privileged = &["--privileged"][..];
    for options in [&[][..], privileged, &["--user", "1000"], &["--tty"]] {
        assert_eq!(node.sh(options, limit).trim(), "1 1", "{options:?}");
    }
    let crash = "cd /tmp; ulimit -c unlimited 2>/dev/null && echo raised; sh -c 'kill -SEGV $$'; ls | grep -c core";
    assert_eq!(node.sh(&["--tmpfs", "/tmp"], &format!("{crash} || true")), "0");
    assert_eq!(node.sh(&["--ulimit", "core=4096:8192"], limit), "4096 8192");
    // To a pipe 0 means nothing.
    assert_eq!(node.sh(&["--ulimit", "core=0"], limit), "1 1");
    assert_eq!(node.sh(&["--ulimit", "core=0:4096"], limit), "1 4096");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern");
    if pattern.starts_with("core") {
        let asked = ["--tmpfs", "/tmp", "--ulimit", "core=33554432:33554432"];
        let crash = "cd /tmp; sh -c 'kill -SEGV $$'; ls | grep -c core";
        assert_eq!(node.sh(&asked, crash).lines().last(), Some("1"));
    }
    let held = node.detached(&[], "sleep 1000");
    assert_eq!(node.ok(&["exec", held.trim(), "sh", "-c", limit]), "1 1");
    node.finish();
}
