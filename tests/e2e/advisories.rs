//! What advisories of other engines have told, beside the escapes (`escapes.rs`): each as an attack that is made for real.

use crate::harness::{Node, image, runtimes, source_dir, test_dir};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Instant;

const IDLE: &str = "while :; do sleep 1; done";

/// CVE-2022-36109, CVE-2022-2989, CVE-2022-2990, CVE-2022-2995: a process leaves its primary group, and passes what is closed to that group.
#[test]
fn a_group_cannot_be_left() {
    let node = Node::with_busybox("advisory-groups");
    let id = node.detached(&["-u", "1000:1000"], IDLE);
    for groups in [node.ok(&["exec", &id, "id", "-G"]), node.ok(&["exec", "-u", "1000:1000", &id, "id", "-G"])] {
        assert_eq!(groups.split_whitespace().collect::<Vec<_>>(), ["1000"], "{groups}");
    }
    let supplementary = node.ok(&["exec", &id, "grep", "Groups:", "/proc/self/status"]);
    assert_eq!(supplementary.split_whitespace().collect::<Vec<_>>(), ["Groups:", "1000"]);
    // The control: a file that is closed to the group alone.
    let script = "echo secret >/tmp/f; chown 0:1000 /tmp/f; chmod 604 /tmp/f";
    node.ok(&["exec", "-u", "0", &id, "sh", "-c", script]);
    assert!(node.ctl(&["exec", &id, "cat", "/tmp/f"]).stderr.contains("denied"));
    assert_eq!(node.ok(&["exec", "-u", "1001:1001", &id, "cat", "/tmp/f"]), "secret");
    node.ok(&["rm", "-f", &id]);
    node.finish();
}

/// CVE-2024-9676, CVE-2025-4437, CVE-2026-47262: passwd and group of an image are links, pipes or without end, and the engine reads them.
#[test]
fn the_users_of_an_image_are_read_inside_and_bounded() {
    users_are_read_inside_and_bounded("passwd", "intruder");
}

#[test]
fn the_groups_of_an_image_are_read_inside_and_bounded() {
    users_are_read_inside_and_bounded("group", "7:intruder");
}

/// By the agent and its children that have ended, from files and pipes (proc(5), "rchar").
fn bytes_read(node: &Node) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", node.pid())).expect("io");
    let line = text.lines().find_map(|l| l.strip_prefix("rchar: "));
    line.and_then(|n| n.trim().parse().ok()).expect("rchar")
}

fn users_are_read_inside_and_bounded(file: &str, user: &str) {
    let node = Node::with_busybox(&format!("advisory-{file}"));
    std::fs::write(node.scratch().join("passwd"), "intruder:x:0:0::/:/bin/sh\n").expect("passwd");
    let host = node.scratch().join("passwd").display().to_string();
    let makes = [
        ("outside", format!("ln -s {host} /etc/FILE")),
        ("above", format!("ln -s ../../../../../../../..{host} /etc/FILE")),
        ("magic", "ln -s /proc/1/root/etc/FILE /etc/FILE".into()),
        ("pipe", "mkfifo /etc/FILE".into()),
        ("endless", "ln -s /dev/zero /etc/FILE".into()),
        ("large", "dd if=/dev/zero of=/etc/FILE bs=1M count=64 2>/dev/null".into()),
        ("folder", "mkdir /etc/FILE".into()),
    ];
    for (what, make) in makes {
        let name = format!("maker-{what}");
        node.ok(&[
            "run",
            "--name",
            &name,
            &image("busybox"),
            "sh",
            "-c",
            &format!("rm -f /etc/{file}; {}", make.replace("FILE", file)),
        ]);
        let made = format!("users-{what}:1");
        node.ok(&["commit", &name, &made]);
        let before = bytes_read(&node);
        let output = node.ctl(&["run", "--rm", "--network", "none", "-u", user, &made, "id"]);
        assert!(output.code == 125 && output.stdout.is_empty(), "{what}: {output:?}");
        // A number needs no file.
        let look = ["run", "--rm", "--network", "none", "-u", "7", &made, "grep", "Uid:", "/proc/self/status"];
        let number = node.ctl(&look);
        assert!(number.code == 125 || number.stdout.starts_with("Uid:\t7\t"), "{what}: {number:?}");
        let read = bytes_read(&node) - before;
        assert!(read < 32 << 20, "{what}: the agent has read {read} bytes, of a file that is no such thing");
        node.ok(&["rm", &name]);
        node.ok(&["rmi", &made]);
    }
    // The control: whom a file of the image's own names is found.
    let make = format!("echo intruder:x:7:7::/:/bin/sh >/etc/{file}");
    node.ok(&["run", "--name", "maker", &image("busybox"), "sh", "-c", &make]);
    node.ok(&["commit", "maker", "users:1"]);
    let ids = ["run", "--rm", "--network", "none", "-u", user, "users:1", "sh", "-c", "id -u; id -g"];
    assert_eq!(node.ok(&ids), "7\n7");
    node.ok(&["rm", "maker"]);
    node.finish();
}

/// CVE-2021-43784: a length that does not fit its field, in the message to the process that makes the container.
#[test]
fn long_words_arrive_whole() {
    let node = Node::with_busybox("advisory-lengths");
    for length in [65_535_usize, 65_536, 65_537, 131_000] {
        let value = format!("A={}", "a".repeat(length));
        assert_eq!(node.sh(&["-e", &value, "-e", "B=behind"], "echo ${#A} $B"), format!("{length} behind"));
    }
    let many: Vec<String> = (0..4000).map(|n| format!("V{n}={n}")).collect();
    let mut options: Vec<&str> = many.iter().flat_map(|v| ["-e", v.as_str()]).collect();
    options.extend(["-e", "LAST=behind"]);
    assert_eq!(node.sh(&options, "echo $V3999 $LAST"), "3999 behind");
    node.finish();
}

/// CVE-2023-25809: control groups of the host can be written to from a user namespace.
#[test]
fn control_groups_are_not_the_containers() {
    let node = Node::with_busybox("advisory-cgroups");
    let script = "for f in $(find /sys/fs/cgroup -name cgroup.procs 2>/dev/null) $(find /sys/fs/cgroup -name tasks 2>/dev/null); do \
        (echo $$ >>$f) 2>/dev/null && echo $f; done; \
        find /sys/fs/cgroup -maxdepth 2 -type d 2>/dev/null | while read d; do mkdir $d/attack 2>/dev/null && echo $d; done; true";
    let folder = if runtimes::leaves_folder_of_groups() { "/sys/fs/cgroup" } else { "" };
    for userns in ["auto", "host"] {
        let got = node.sh(&["--userns", userns], script);
        assert!(got.is_empty() || got == folder, "{userns}: {got}");
    }
    node.finish();
}

/// CVE-2022-1708, CVE-2022-31030: what a process in a container says without end is kept in the engine's memory.
#[test]
fn output_without_end_is_not_kept() {
    let node = Node::with_busybox("advisory-output");
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status");
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).expect("RssAnon").to_owned();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    let health = ["--health-cmd", "head -c 300000000 /dev/zero", "--health-interval", "1s", "--health-timeout", "8s"];
    node.detached(&[&["--name", "talker"][..], &health].concat(), IDLE);
    let before = memory();
    for _ in 0..3 {
        let output = node.ctl(&["exec", "-d", "talker", "sh", "-c", "head -c 300000000 /dev/zero"]);
        assert_eq!(output.code, 0, "{output:?}");
    }
    let mut worst = 0;
    let begun = Instant::now();
    while begun.elapsed().as_secs() < 4 {
        worst = worst.max(memory().saturating_sub(before));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(worst < 32 << 10, "{worst} KiB more");
    node.ok(&["rm", "-f", "talker"]);
    node.finish();
}

/// CVE-2019-18837, CVE-2026-55686: links of the image in the way of what is mounted, and of the working folder.
#[test]
fn links_of_the_image_lead_no_mount_and_no_folder_out() {
    let node = Node::with_busybox("advisory-ways");
    let victim = test_dir().join("victim");
    fs::create_dir_all(&victim).expect("victim");
    let listed = || {
        let mut names: Vec<_> = fs::read_dir(&victim).expect("victim").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    let (before, image) = (listed(), image("hostile-ways"));
    node.sh(&["-v", "payload:/p"], "echo payload >/p/mark");
    for users in ["auto", "host"] {
        let run = |options: &[&str], script: &str| {
            let run = ["run", "--rm", "--network", "none", "--userns", users];
            node.ok(&[&run[..], options, &[&image, "sh", "-c", script]].concat())
        };
        // In the image's own root these links lead to folders of its own.
        let inside = victim.display();
        assert_eq!(run(&[], "pwd -P"), format!("{inside}/made/deep"));
        assert_eq!(run(&["-w", "/up/other"], "pwd -P"), format!("{inside}/other"));
        // Where one leads to nothing, nothing is made.
        let nothing = ["run", "--rm", "--network", "none", "--userns", users, "-w", "/none/below", &image, "true"];
        assert_eq!(node.ctl(&nothing).code, 125);
        for way in ["way", "up"] {
            let mount = format!("payload:/{way}/place");
            assert_eq!(run(&["-w", "/", "-v", &mount], &format!("cat {inside}/place/mark")), "payload");
            let tmpfs = format!("/{way}/tmp");
            assert_eq!(run(&["-w", "/", "--tmpfs", &tmpfs], &format!("touch {inside}/tmp/x; ls {inside}/tmp")), "x");
        }
    }
    assert_eq!(listed(), before);
    node.ok(&["volume", "rm", "payload"]);
    node.finish();
}

/// CVE-2016-3697, CVE-2026-46680: whom a caller names by a number is not whom the image calls so. CVE-2026-30892: `1` is not `0`.
#[test]
fn a_number_is_no_name_of_the_images() {
    let node = Node::with_busybox("advisory-numbers");
    let image = image("hostile-numbered-users");
    let run =
        |user: &str| node.ctl(&["run", "--rm", "--network", "none", "-u", user, &image, "sh", "-c", "id -u; id -g"]);
    for user in ["1000", "1000:1000", "1000:7", "01000"] {
        let output = run(user);
        assert!(output.code == 0 && output.stdout.starts_with("1000\n"), "{user}: {output:?}");
    }
    assert_eq!(run("7:1000").stdout, "7\n1000\n");
    for user in ["4294967296", "2147483648", "7:4294967296"] {
        let output = run(user);
        assert!(output.code == 125 && output.stderr.contains("the highest is"), "{user}: {output:?}");
    }
    // In what runs, too.
    node.ok(&["run", "-d", "--name", "box", "--network", "none", &image, "sh", "-c", IDLE]);
    assert_eq!(node.ok(&["exec", "-u", "1000", "box", "id", "-u"]), "1000");
    assert_eq!(node.ok(&["exec", "-u", "1", "box", "sh", "-c", "id -u; id -g"]), "1\n0");
    assert_ne!(node.ctl(&["exec", "-u", "4294967296", "box", "id", "-u"]).code, 0);
    node.ok(&["rm", "-f", "box"]);
    node.finish();
}

/// CVE-2026-57231: for a variable without a value the engine looks in its own environment; CVE-2021-21334: in that of another container.
#[test]
fn an_environment_is_the_containers_own() {
    let mut node = Node::with_busybox("advisory-environment");
    node.set_env("BERTH_TEST_SECRET", Some("the agent's"));
    node.restart();
    let image = image("hostile-env-names");
    let run = |options: &[&str]| {
        let mut command =
            node.ctl_command(&[&["run", "--rm", "--network", "none"], options, &[&image, "env"]].concat());
        let output = command.env("BERTH_TEST_SECRET", "the caller's").output().expect("berthctl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for env in [run(&[]), run(&["-e", "OTHER=x"])] {
        assert!(env.contains("PATH=/bin") && !env.contains("the agent's") && !env.contains("the caller's"), "{env}");
    }
    // The control: a caller may pass on what is the caller's.
    assert!(run(&["-e", "BERTH_TEST_SECRET"]).contains("BERTH_TEST_SECRET=the caller's"));
    // Many at once, from one image.
    std::thread::scope(|scope| {
        for n in 0..8 {
            let node = &node;
            scope.spawn(move || {
                let (own, script) = (format!("OWN_{n}={n}"), "env | grep OWN_");
                assert_eq!(node.sh(&["-e", &own], script), own);
            });
        }
    });
    node.set_env("BERTH_TEST_SECRET", None);
    node.finish();
}

/// CVE-2022-1227, CVE-2026-41567 and CVE-2019-14271's like: the engine runs a program that it finds in the container.
#[test]
fn no_program_of_a_container_is_run_by_the_host() {
    let node = Node::with_busybox("advisory-programs");
    let names = "ps top nsenter getent id ls cat tar gzip gunzip unpigz pigz xz unxz bzip2 zstd unzstd newuidmap newgidmap sh stat find cp kill \
        mount umount df du wget ip nft iptables";
    let script = format!(
        "cp /bin/busybox /busybox; mkdir -p /usr/bin /usr/local/bin /sbin; for d in /bin /usr/bin /usr/local/bin /sbin; do for n in {names}; do \
         /busybox rm -f $d/$n; /busybox echo '#!/busybox sh' >$d/$n; /busybox echo '/busybox echo \"$0\" >>/ran' >>$d/$n; /busybox chmod 755 $d/$n; \
         done; done; /busybox touch /ready; while :; do /busybox sleep 1; done"
    );
    node.detached(&["--name", "trap"], &script);
    crate::harness::until("the traps are set", || {
        node.ctl(&["exec", "trap", "/busybox", "test", "-e", "/ready"]).code == 0
    });
    let here = |name: &str| node.scratch().join(name).display().to_string();
    fs::write(here("in"), "x").expect("in");
    for (flag, name) in [("-cf", "plain.tar"), ("-czf", "packed.tar.gz"), ("-cJf", "packed.tar.xz")] {
        let status = Command::new("tar").args([flag, &here(name), "-C", &here(""), "in"]).status();
        if status.is_ok_and(|s| s.success()) {
            let tar = fs::File::open(here(name)).expect("tar");
            let _ = node.ctl_command(&["cp", "-", "trap:/tmp"]).stdin(tar).output().expect("berthctl");
        }
    }
    node.ok(&["cp", &here("in"), "trap:/tmp/in"]);
    node.ok(&["cp", "trap:/etc/passwd", &here("out")]);
    node.ok(&["cp", "trap:/bin", &here("bin")]);
    node.ok(&["top", "trap"]);
    node.ok(&["stats", "--no-stream", "trap"]);
    node.ok(&["diff", "trap"]);
    node.ok(&["commit", "trap", "trapped:1"]);
    node.ok(&["export", "trap", "-o", &here("tar")]);
    node.ok(&["exec", "-u", "nobody", "trap", "/busybox", "true"]);
    node.ok(&["pause", "trap"]);
    node.ok(&["unpause", "trap"]);
    assert_ne!(node.ctl(&["exec", "trap", "/busybox", "cat", "/ran"]).code, 0, "a program of the container's was run");
    // The control: whoever runs one is seen.
    node.ok(&["exec", "trap", "ps"]);
    assert!(node.ok(&["exec", "trap", "/busybox", "cat", "/ran"]).ends_with("/ps"));
    node.ok(&["rm", "-f", "trap"]);
    node.ok(&["rmi", "trapped:1"]);
    node.finish();
}

/// CVE-2019-10152, CVE-2019-18466, CVE-2021-41089: links of the container's where a copy begins or ends.
#[test]
fn a_copy_follows_links_inside_alone() {
    let node = Node::with_busybox("advisory-copies");
    let victim = node.scratch().join("victim");
    fs::create_dir_all(victim.join("folder")).expect("victim");
    fs::write(victim.join("secret"), "the host's").expect("secret");
    let modes = || {
        let of = |name: &str| fs::metadata(victim.join(name)).map(|m| (m.uid(), m.mode(), m.len())).expect("victim");
        (of("secret"), of("folder"), fs::read_dir(&victim).expect("victim").count())
    };
    fs::set_permissions(victim.join("secret"), Permissions::from_mode(0o600)).expect("mode");
    fs::set_permissions(victim.join("folder"), Permissions::from_mode(0o700)).expect("mode");
    let before = modes();
    let v = victim.display();
    let script = format!(
        "ln -s {v}/secret /file; ln -s {v}/folder /folder; ln -s {v} /all; mkdir /tree; ln -s {v}/secret /tree/file; ln -s {v} /tree/all; \
         touch /ready; {IDLE}"
    );
    node.detached(&["--name", "box"], &script);
    crate::harness::until("the links are there", || node.ctl(&["exec", "box", "test", "-e", "/ready"]).code == 0);
    // Out of it: what a link names is looked for inside, where it is not.
    let out = node.scratch().join("out");
    for (n, from) in ["file", "folder", "all/secret", "tree", "tree/all/secret"].iter().enumerate() {
        for flags in [&["cp", "-q"][..], &["cp", "-q", "-L"], &["cp", "-q", "-a"]] {
            let to = out.join(format!("{n}{}", flags.len() + usize::from(flags.contains(&"-a"))));
            fs::create_dir_all(&to).expect("out");
            let _ = node.ctl(&[flags, &[&format!("box:/{from}"), &to.display().to_string()]].concat());
        }
    }
    // The links lead to the host's by their words: only whoever follows one finds it.
    let found = Command::new("grep").args(["-rl", "the host's"]).arg(&out).output().expect("grep");
    assert!(found.stdout.is_empty(), "{found:?}");
    // Into it: as files and folders with other modes, and as a tar whose entries go through its own links.
    let inside = node.scratch().join("in");
    fs::create_dir_all(inside.join("folder")).expect("in");
    fs::write(inside.join("secret"), "changed").expect("in");
    for name in ["secret", "folder"] {
        fs::set_permissions(inside.join(name), Permissions::from_mode(0o777)).expect("mode");
    }
    let i = |name: &str| inside.join(name).display().to_string();
    for (from, to) in
        [("secret", "file"), ("secret", "all/secret"), ("folder", "folder"), (".", "all"), ("folder", "all")]
    {
        let _ = node.ctl(&["cp", "-q", "-a", &i(from), &format!("box:/{to}")]);
    }
    let tar = format!(
        "import tarfile\nt=tarfile.open('{0}','w')\ndef add(name,kind,link='',mode=0o4777):\n e=tarfile.TarInfo(name);e.type=kind;e.linkname=link;e.mode=mode;t.addfile(e)\n\
         add('way',tarfile.SYMTYPE,'{v}')\nadd('way/folder',tarfile.DIRTYPE)\nadd('f',tarfile.SYMTYPE,'{v}/secret')\nadd('f',tarfile.LNKTYPE,'f')\n\
         add('h',tarfile.LNKTYPE,'way/secret')\nadd('way/secret',tarfile.REGTYPE)\nt.close()",
        i("links.tar")
    );
    assert!(Command::new("python3").args(["-c", &tar]).status().expect("python3").success());
    let links = fs::File::open(i("links.tar")).expect("tar");
    let _ = node.ctl_command(&["cp", "-", "box:/tmp"]).stdin(links).output().expect("berthctl");
    assert_eq!(modes(), before);
    assert_eq!(fs::read_to_string(victim.join("secret")).expect("secret"), "the host's");
    // The control: where such links lead inside, copies go.
    node.ok(&["exec", "box", "sh", "-c", &format!("mkdir -p {v}; echo mine >{v}/secret")]);
    node.ok(&["cp", "-L", "box:/file", &i("mine")]);
    assert_eq!(fs::read_to_string(i("mine")).expect("mine"), "mine\n");
    node.ok(&["rm", "-f", "box"]);
    node.finish();
}

/// CVE-2018-20699: a number that makes the engine count to it.
#[test]
fn numbers_without_measure_are_refused_at_once() {
    let node = Node::with_busybox("advisory-numbers-large");
    let begun = Instant::now();
    for (option, value) in [
        ("--cpuset-cpus", "0-2147483647"),
        ("--cpuset-cpus", "1-18446744073709551615"),
        ("--cpuset-mems", "0-4294967295"),
        ("--cpuset-cpus", "0-1,0-1,99999999999999999999"),
        ("--device", "/dev/null:/dev/x:rwmrwmrwm"),
        ("--pids-limit", "99999999999999999999"),
        ("-p", "1-65536:1-65536"),
    ] {
        let output = node.sh_output(&[option, value], "true");
        assert_eq!(output.code, 125, "{option} {value}: {output:?}");
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM").trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().expect("kB") < 400 << 10, "peak of {peak} kB");
    node.finish();
}

/// CVE-2024-32473: a network without IPv6 has it all the same.
#[test]
fn a_network_without_ipv6_has_none() {
    let node = Node::with_busybox("advisory-ipv6");
    let script = "ip -6 addr show dev eth0; ip -6 route show dev eth0; cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6";
    assert_eq!(node.sh(&["--network", "bridge"], script), "1");
    // The control: where there is some, there is something to see.
    node.ok(&["network", "create", "--ipv6", "six"]);
    let six = node.sh(&["--network", "six"], script);
    assert!(six.contains("inet6") && six.ends_with('0'), "{six}");
    node.ok(&["network", "rm", "six"]);
    node.finish();
}

/// CVE-2026-53488: what an image has in its labels is taken for an order.
#[test]
fn labels_of_an_image_are_words() {
    let node = Node::with_busybox("advisory-labels");
    let folder = test_dir().join("victim-of-labels");
    fs::create_dir_all(&folder).expect("folder");
    let (program, breach) = (folder.join("program"), node.scratch().join("breach"));
    fs::write(&program, format!("#!/bin/sh\ntouch {}\n", breach.display())).expect("program");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("program");
    let image = image("hostile-labels");
    let script = "echo said; grep NoNewPrivs /proc/self/status; grep CapBnd /proc/self/status";
    let plain = node.sh(&[], script);
    for runtime in std::iter::once("berth").chain(runtimes::there().into_iter().map(|(name, _)| name)) {
        let name = format!("labelled-{runtime}");
        let run = ["run", "--name", &name, "--runtime", runtime, "--restart", "on-failure:1", "--network", "none"];
        assert_eq!(node.ok(&[&run[..], &[&image, "sh", "-c", script]].concat()), plain, "{runtime}");
        assert!(node.ok(&["logs", &name]).contains("said"));
        node.ok(&["rm", &name]);
    }
    assert!(!breach.exists(), "a label's program was run");
    fs::remove_dir_all(&folder).expect("remove");
    node.finish();
}

/// A function of that name is there, and is run.
fn is_test(text: &str, function: &str) -> bool {
    let head = format!("fn {function}(");
    let named = text.match_indices(&head).map(|(at, _)| &text[..at]);
    let mut above = named.map(|before| before.lines().rev().map(str::trim).skip_while(|l| matches!(*l, "" | "async")));
    above.any(|lines| {
        let mut attributes = lines.take_while(|l| l.starts_with("#[") || l.starts_with("///"));
        attributes.any(|l| l == "#[test]" || l.starts_with("#[tokio::test"))
    })
}

#[test]
fn a_function_alone_is_no_test() {
    let text = "/// x\n#[test]\n/// y\nfn good() {}\n\nfn helper() {}\n#[test]\nfn other() { fn inner() {} }\n    #[test]\n    fn deep() {}\n#[tokio::test]\nasync fn later() {}";
    for (name, is) in [
        ("good", true),
        ("helper", false),
        ("other", true),
        ("inner", false),
        ("deep", true),
        ("later", true),
        ("no", false),
    ] {
        assert_eq!(is_test(text, name), is, "{name}");
    }
}

/// `tests/advisories.md` is what it says: its tests are there, and what tests name is in it.
#[test]
fn the_table_is_true() {
    let source = source_dir();
    let table = fs::read_to_string(source.join("tests/advisories.md")).expect("tests/advisories.md");
    let mut known = std::collections::BTreeSet::new();
    for row in table.lines().filter(|l| l.starts_with("| CVE-") || l.starts_with("| GHSA-")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [ids, what, here] = cells[..] else { panic!("three cells: {row}") };
        assert!(!what.is_empty(), "{row}");
        for id in ids.split(", ") {
            assert!(known.insert(id.to_owned()), "{id} is there twice");
        }
        let tests: Vec<&str> = here.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        let reason = ["does not apply: ", "not tried: "].iter().any(|start| here.starts_with(start));
        assert!(reason || !tests.is_empty(), "neither a test nor a reason: {row}");
        for test in tests {
            let (file, function) = test.split_once("::").expect("module::test");
            let file = if file.ends_with(".rs") { file.to_owned() } else { format!("tests/e2e/{file}.rs") };
            let text = fs::read_to_string(source.join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(is_test(&text, function), "{test} is no test");
        }
    }
    assert!(known.len() > 100, "{} advisories", known.len());
    for entry in fs::read_dir(source.join("tests/e2e")).expect("tests/e2e").flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        for (at, _) in text.match_indices("CVE-20") {
            let id: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            assert!(
                id.len() < 13 || known.contains(&id),
                "{id} of {} is not in tests/advisories.md",
                entry.path().display()
            );
        }
    }
}
