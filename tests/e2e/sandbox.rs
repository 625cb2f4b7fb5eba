//! What a container may not do.

use crate::harness::agent::Output;
use crate::harness::pki::set_mode;
use crate::harness::{Node, image, runtimes, until};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn status(node: &Node, options: &[&str], field: &str) -> String {
    let text = node.sh(options, &format!("grep {field}: /proc/1/status"));
    text.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

#[test]
fn capabilities_are_dockers_and_change_as_asked() {
    let node = Node::with_busybox("sandbox-caps");
    assert_eq!(status(&node, &[], "CapEff"), "00000000a80425fb");
    assert_eq!(status(&node, &[], "CapBnd"), "00000000a80425fb");
    assert_eq!(status(&node, &["--cap-drop", "ALL"], "CapEff"), "0000000000000000");
    assert_eq!(status(&node, &["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"], "CapBnd"), "0000000000000400");
    assert_eq!(status(&node, &["--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "chown"], "CapBnd"), "00000000a82425fa");
    // Where Docker has all, and as with Docker.
    assert_eq!(status(&node, &["--cap-drop", "ALL", "--cap-add", "ALL"], "CapBnd"), "0000000000000000");
    assert_eq!(
        status(&node, &["--cap-drop", "ALL", "--cap-add", "ALL", "--cap-add", "CHOWN"], "CapBnd"),
        "0000000000000000"
    );
    let privileged = status(&node, &["--privileged"], "CapBnd");
    assert_eq!(status(&node, &["--privileged", "--cap-drop", "MKNOD", "--cap-drop", "ALL"], "CapBnd"), privileged);
    assert_ne!(privileged, "0000000000000000");
    assert_eq!(status(&node, &["-u", "nobody"], "CapEff"), "0000000000000000");
    assert_eq!(status(&node, &["-u", "nobody"], "CapBnd"), "00000000a80425fb");
    node.finish();
}

#[test]
fn no_new_privileges_and_seccomp_are_set() {
    let node = Node::with_busybox("sandbox-nnp");
    assert_eq!(status(&node, &[], "Seccomp"), "2");
    assert_eq!(status(&node, &["--security-opt", "seccomp=unconfined"], "Seccomp"), "0");
    assert_eq!(status(&node, &["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
    node.finish();
}

#[test]
fn the_default_profile_blocks_what_dockers_blocks() {
    let node = Node::with_busybox("sandbox-seccomp");
    // Through unshare(1), mount(1) and python-free raw calls: EPERM, not ENOSYS, not success.
    for script in ["unshare -U true", "unshare -m true", "mount -t tmpfs none /tmp", "mount -t proc proc /mnt"] {
        let output = node.sh_output(&["--cap-add", "NET_ADMIN"], script);
        assert_ne!(output.code, 0, "{script}: {output:?}");
        assert!(output.stderr.contains("not permitted") || output.stderr.contains("denied"), "{script}: {output:?}");
    }
    // With the capability, the profile opens up, as Docker's does.
    assert_eq!(node.sh(&["--cap-add", "SYS_ADMIN"], "mount -t tmpfs none /tmp && echo mounted"), "mounted");
    let own = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    let profile = node.scratch().join("profile.json");
    std::fs::write(&profile, own).expect("profile");
    let output = node.sh_output(
        &["--security-opt", &format!("seccomp={}", profile.display())],
        "mkdir /x; touch /y && echo touched",
    );
    assert!(output.stdout.contains("touched") && output.stderr.contains("not permitted"), "{output:?}");
    node.finish();
}

/// It is loaded before the execve of the command, which it would end without a word.
#[test]
fn a_profile_that_lets_nothing_start_is_refused_by_name() {
    let node = Node::with_busybox("sandbox-execve");
    let profile = node.scratch().join("profile.json");
    let option = format!("seccomp={}", profile.display());
    let ways = if runtimes::has("--init") { &[&[][..], &["--init"]][..] } else { &[&[][..]] };
    for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP"] {
        let text =
            format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["execve"],"action":"{action}"}}]}}"#);
        std::fs::write(&profile, text).expect("profile");
        for more in ways {
            let refused = node.sh_output(&[&["--security-opt", &option], *more].concat(), "echo hello");
            let named = refused.stderr.contains("seccomp: the profile") && refused.stderr.contains("execve");
            assert!(refused.code == 125 && named, "{action}: {refused:?}");
        }
    }
    // What another call is refused is the program's own business.
    std::fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["swapon"],"action":"SCMP_ACT_KILL"}]}"#,
    )
    .expect("profile");
    assert_eq!(node.sh(&["--security-opt", &option], "echo hello"), "hello");
    node.finish();
}

/// Two actions that let nobody fail by themselves: LOG is seen in the kernel's log, and TRACE without a tracer is a call that is not there.
#[test]
fn calls_are_logged_and_traced_as_a_profile_says() {
    let node = Node::with_busybox("sandbox-log");
    let profile = node.scratch().join("profile.json");
    let option = format!("seccomp={}", profile.display());
    let rules =
        r#"[{"names":["umask"],"action":"SCMP_ACT_LOG"},{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_TRACE"}]"#;
    std::fs::write(&profile, format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":{rules}}}"#)).expect("profile");
    // The kernel's log has the process' name, which is nobody else's.
    let name = format!("log-{}", std::process::id());
    let script = format!("echo -n {name} > /proc/$$/comm; umask 027; umask; mkdir /x; touch /y && echo touched");
    let output = node.sh_output(&["--security-opt", &option], &script);
    assert_eq!((output.code, &*output.stdout), (0, "0027\ntouched\n"), "{output:?}");
    assert!(output.stderr.contains("mkdir") && output.stderr.contains("Function not implemented"), "{output:?}");
    node.ok(&["run", "-d", "--name", "box", "--security-opt", &option, &image("busybox"), "sleep", "1000"]);
    let output = node.ctl(&["exec", "box", "sh", "-c", &script]);
    assert_eq!((output.code, &*output.stdout), (0, "0027\ntouched\n"), "{output:?}");
    assert!(output.stderr.contains("Function not implemented"), "{output:?}");
    let logs = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_logged").unwrap_or_default();
    let kernel = Command::new("dmesg").output().expect("dmesg");
    // Without an auditd, which would take it instead.
    if !logs.contains("log") || !Path::new("/proc/self/loginuid").exists() || !kernel.status.success() {
        runtimes::say("left out: this kernel has no log of system calls that can be read");
        return node.finish();
    }
    // It says some in five seconds, and how many it has left out: then once more.
    until("the call is in the kernel's log", || {
        node.ctl(&["exec", "box", "sh", "-c", &script]);
        let text = Command::new("dmesg").output().expect("dmesg").stdout;
        String::from_utf8_lossy(&text)
            .lines()
            .any(|line| line.contains("type=1326") && line.contains(&name) && line.contains("code=0x7ffc0000"))
    });
    node.ok(&["rm", "-f", "box"]);
    node.finish();
}

/// What a program reaches by the kernel's other entry, with other numbers.
#[test]
fn the_entry_for_32_bit_programs_has_the_same_rules() {
    let node = Node::with_busybox("sandbox-int80");
    let program = format!("{}:/escape:ro", crate::escapes::program().display());
    let calls = |options: &[&str]| node.sh_output(&[&["-v", &program], options].concat(), "/escape calls32");
    let reached = |output: &str| -> Vec<String> {
        output.lines().filter_map(|l| l.strip_suffix(" reached")).map(str::to_owned).collect()
    };
    let all = calls(&["--security-opt", "seccomp=unconfined"]).stdout;
    if all == "none\n" {
        runtimes::say("left out: this kernel has no entry for 32-bit programs");
        return node.finish();
    }
    // What is allowed works, and nothing else does.
    let default = calls(&[]);
    assert_eq!(reached(&default.stdout), ["getpid", "socket"], "{default:?}");
    assert_eq!(default.stdout.lines().count(), 14, "{default:?}");
    // The control: all of these are the kernel's to refuse without the profile.
    for call in ["getpid", "socket", "mount", "keyctl", "bpf", "unshare-user"] {
        assert!(calls(&["--privileged"]).stdout.contains(&format!("{call} reached")), "{call}: {all}");
    }
    // A profile for one architecture ends who comes by another, as libseccomp has it.
    let profile = node.scratch().join("profile.json");
    let one = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[]}"#;
    std::fs::write(&profile, one).expect("profile");
    let ended = calls(&["--security-opt", &format!("seccomp={}", profile.display())]);
    assert!(ended.code == 159 && ended.stdout.is_empty(), "{ended:?}");
    node.finish();
}

/// The same for x32, whose numbers are x86-64's with a bit more: Docker's profile lets the same calls through as the host's own.
#[test]
fn the_numbers_of_x32_have_the_same_rules() {
    let node = Node::with_busybox("sandbox-x32");
    let program = format!("{}:/escape:ro", crate::escapes::program().display());
    let calls = |options: &[&str]| node.sh(&[&["-v", &program], options].concat(), "/escape calls-x32");
    let answers = |text: String| -> std::collections::BTreeMap<String, String> {
        let pair = |line: &str| line.split_once(' ').map(|(call, answer)| (call.to_owned(), answer.to_owned()));
        text.lines().filter_map(pair).collect()
    };
    let free = answers(calls(&["--privileged"]));
    if free.is_empty() {
        runtimes::say("left out: this processor has no x32");
        return node.finish();
    }
    let default = answers(calls(&[]));
    assert_eq!((default.len(), free.len()), (12, 12), "{default:?}");
    let refused = "Operation not permitted";
    for (call, answer) in &default {
        match call.as_str() {
            // What the profile allows is the kernel's to answer; most are built without that ABI.
            "getpid" => assert_eq!(answer, &free[call]),
            "clone3" => assert_eq!(answer, "Function not implemented"),
            // The control: without the profile the kernel gets further, or has no such call.
            _ => assert!(answer == refused && free[call] != refused, "{call}: {answer}, else {}", free[call]),
        }
    }
    node.finish();
}

/// What a shell finds at each path: none, or a folder or file with so many names or bytes (one at most).
fn found(output: &str) -> BTreeMap<String, (String, u32)> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [path, kind, count] = words[..] else { panic!("{line}") };
        (path.to_owned(), (kind.to_owned(), count.parse().expect("a number")))
    };
    output.lines().map(line).collect()
}

#[test]
fn host_files_are_masked_or_read_only() {
    let node = Node::with_busybox("sandbox-masks");
    let (masked, read_only) = berth_runtime::kernel_files();
    // Those that other engines had advisories for.
    for path in
        ["/proc/acpi", "/proc/scsi", "/proc/interrupts", "/proc/keys", "/proc/kcore", "/sys/devices/virtual/powercap"]
    {
        assert!(masked.iter().any(|m| m == path), "{path}");
    }
    let thermal = |cpu: std::fs::DirEntry| cpu.path().join("thermal_throttle");
    for path in std::fs::read_dir("/sys/devices/system/cpu").expect("cpu").flatten().map(thermal).filter(|p| p.exists())
    {
        assert!(masked.iter().any(|m| Path::new(m) == path), "{}", path.display());
    }
    let script = format!(
        "for p in {}; do if [ -d $p ]; then echo $p folder $(ls -A $p | wc -l); elif [ -e $p ]; then \
         echo $p file $(head -c 1 $p 2>/dev/null | wc -c); else echo $p none 0; fi; done",
        masked.join(" ")
    );
    let host = Command::new("sh").args(["-c", &script]).output().expect("sh");
    let host = found(&String::from_utf8_lossy(&host.stdout));
    assert_eq!(host.len(), masked.len());
    let empty = |of: &BTreeMap<String, (String, u32)>| of.values().all(|(_, count)| *count == 0);
    for options in [&[][..], &["--userns", "host"], &["--userns", "host", "-v", "/sys:/sys:ro"]] {
        let inside = found(&node.sh(options, &script));
        // As on the host, and nothing in it.
        for (path, (kind, _)) in &host {
            assert_eq!(inside[path], (kind.clone(), 0), "{options:?}: {path}");
        }
    }
    // The control: without masks there is what the host has. (Which keys are seen depends on who looks.)
    let privileged = found(&node.sh(&["--privileged"], &script));
    for (path, there) in host.iter().filter(|(path, _)| *path != "/proc/keys") {
        assert_eq!(&privileged[path], there, "{path}");
    }
    assert!(!empty(&host), "nothing to see on this host: {host:?}");

    for path in read_only.into_iter().chain(["/sys/kernel"]) {
        if !Path::new(path).exists() {
            runtimes::say(&format!("left out: this kernel has no {path}"));
            continue;
        }
        // The path itself, and the first file below it that its owner might write.
        let script = format!(
            "touch {path}; f=$(find {path} -type f -perm -200 2>/dev/null | head -n 1); [ -z $f ] || (: >>$f); [ -z $f ]; echo $?"
        );
        let refused = |output: &Output| output.stderr.lines().filter(|l| l.contains("Read-only file system")).count();
        let output = node.sh_output(&["--userns", "host"], &script);
        let files: usize = output.stdout.trim().parse().expect("a number");
        assert!(
            files == 1 || !["/proc/sys", "/proc/sysrq-trigger", "/sys/kernel"].contains(&path),
            "{path}: {output:?}"
        );
        assert_eq!(refused(&output), 1 + files, "{path}: {output:?}");
        let output = node.sh_output(&[], &script);
        assert!(refused(&output) >= 1, "{path}: {output:?}");
        assert_eq!(refused(&node.sh_output(&["--privileged"], &script)), 0, "{path}: the test sees nothing");
    }
    node.finish();
}

/// What no processor of a test's host may have: figures of its power, by a /sys of the caller's (GHSA-7ww5-4wqc-m92c).
#[test]
fn what_is_mounted_over_sys_is_masked_again() {
    let node = Node::with_busybox("sandbox-powercap");
    let power = "/sys/devices/virtual/powercap";
    node.sh(
        &["-v", "own:/own"],
        "mkdir -p /own/devices/virtual/powercap/intel-rapl; echo 1 >/own/devices/virtual/powercap/energy_uj",
    );
    for options in [&[][..], &["--userns", "host"]] {
        let over = [options, &["-v", "own:/sys"]].concat();
        assert_eq!(node.sh(&over, &format!("ls -A {power}; echo $?")), "0");
        let refused = node.sh_output(&over, &format!("touch {power}/x"));
        assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
    }
    // The control: it is there.
    assert_eq!(node.sh(&["--privileged", "-v", "own:/sys"], &format!("ls {power}")), "energy_uj\nintel-rapl");
    node.ok(&["volume", "rm", "own"]);
    node.finish();
}

#[test]
fn namespaces_are_the_containers_own_unless_asked() {
    let node = Node::with_busybox("sandbox-namespaces");
    let host =
        |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("ns").to_string_lossy().into_owned();
    let script = "for n in mnt pid uts ipc net cgroup; do readlink /proc/1/ns/$n; done";
    let own = node.sh(&[], script);
    for (line, kind) in own.lines().zip(["mnt", "pid", "uts", "ipc", "net", "cgroup"]) {
        assert_ne!(line, host(kind));
    }
    assert_eq!(node.sh(&[], "echo $$; ps -o pid | wc -l").lines().next(), Some("1"));
    let shared = node.sh(
        &["--pid", "host", "--ipc", "host", "--uts", "host", "--network", "host"],
        "for n in pid uts ipc net; do readlink /proc/self/ns/$n; done",
    );
    for (line, kind) in shared.lines().zip(["pid", "uts", "ipc", "net"]) {
        assert_eq!(line, host(kind));
    }
    node.finish();
}

#[test]
fn a_container_cannot_find_the_host() {
    let node = Node::with_busybox("sandbox-escape");
    let data = node.data().to_string_lossy().into_owned();
    // Neither the host's root nor the agent's folders are anywhere in its mounts, as a place, as what is mounted, or in the words of a file system,
    // but three files and the volume, which say where they come from; and .. of / is /.
    let folder = node.dir.file_name().expect("a name").to_string_lossy().into_owned();
    for options in [&[][..], &["--userns", "host"], &["--privileged"]] {
        let mounts = node.sh(&[options, &["-v", "own:/own"]].concat(), "cat /proc/self/mountinfo");
        let named: Vec<&str> = mounts.lines().filter(|line| line.contains(&folder)).collect();
        for line in &named {
            let fields: Vec<&str> = line.split(' ').collect();
            let (root, at) = (fields[3], fields[4]);
            let id = root.split('/').find(|part| part.len() == 64).unwrap_or_default();
            let file = format!("/data/containers/{id}/{}", at.trim_start_matches("/etc/"));
            let own = at.starts_with("/etc/") && root.ends_with(&file)
                || at == "/own" && root.ends_with("/data/volumes/own/_data");
            assert!(own && line.matches(&folder).count() == 1, "{options:?}: {line}");
        }
        assert_eq!(named.len(), 4, "{options:?}: {mounts}");
        let whole = |line: &&str| line.split(' ').nth(4) == Some("/") && !line.contains(" - overlay ");
        assert_eq!(mounts.lines().find(whole), None, "{options:?}");
    }
    node.ok(&["volume", "rm", "own"]);
    assert_eq!(node.sh(&[], "ls -di / /.. | awk '{print $1}' | sort -u | wc -l"), "1");
    assert_ne!(node.sh_output(&[], &format!("ls /proc/1/root/..{data}")).code, 0);
    // No descriptor of the agent or the shim came along. (A pipeline would show the shell's own pipe for a moment.)
    assert_eq!(node.sh(&[], "ls /proc/1/fd; true"), "0\n1\n2");
    node.finish();
}

#[test]
fn privileged_has_all_devices_and_capabilities() {
    let node = Node::with_busybox("sandbox-privileged");
    let bounding = std::fs::read_to_string("/proc/self/status").expect("status");
    let host = bounding.lines().find_map(|l| l.strip_prefix("CapBnd:")).expect("CapBnd").trim().to_owned();
    assert_eq!(status(&node, &["--privileged"], "CapEff"), host);
    assert_eq!(status(&node, &["--privileged"], "Seccomp"), "0");
    assert_eq!(node.sh(&["--privileged"], "test -c /dev/kmsg && echo there"), "there");
    assert_eq!(node.sh(&[], "test -e /dev/kmsg || echo not there"), "not there");
    node.finish();
}

#[test]
fn devices_are_given_one_by_one() {
    let node = Node::with_busybox("sandbox-devices");
    let output = node.sh(&["--device", "/dev/loop-control:/dev/mine:rw"], "stat -c %t:%T /dev/mine; cat < /dev/null");
    assert_eq!(output, "a:ed");
    for own in [&[][..], &["--userns", "host"]] {
        // In a folder that is not there yet, twice the same, and over a file of the image, which stays.
        let made = ["--device", "/dev/null:/made/here/null", "--device", "/dev/null:/made/here/null"];
        assert_eq!(node.sh(&[own, &made].concat(), "stat -c %t:%T /made/here/null"), "1:3");
        for (to, words) in [
            ("/dev/shm/x", "mounted there"),
            ("/proc/version", "mounted there"),
            ("/dev/null", "has a device of that name"),
            ("/dev/./zero", "has a device of that name"),
            ("/dev//full", "has a device of that name"),
        ] {
            let device = format!("/dev/loop-control:{to}");
            let refused = node.sh_output(&[own, &["--device", &device]].concat(), "true");
            assert!(refused.code == 125 && refused.stderr.contains(words), "{to}: {refused:?}");
        }
        let two = ["--device", "/dev/loop-control:/dev/mine", "--device", "/dev/zero:/dev/mine"];
        let refused = node.sh_output(&[own, &two].concat(), "true");
        assert!(refused.stderr.contains("are both to be /dev/mine"), "{refused:?}");
    }
    if runtimes::has("the refusal of a device in place of an image's file") {
        let there = node.sh_output(&["--userns", "host", "--device", "/dev/null:/etc/passwd"], "true");
        assert!(there.code == 125 && there.stderr.contains("/etc/passwd"), "{there:?}");
    }
    // A node made inside is refused by the device cgroup, whatever its mode.
    let output = node.sh_output(&["--userns", "host"], "mknod /mem c 1 1 && head -c 1 /mem");
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("not permitted"), "{output:?}");
    let own = ["--userns", "host"];
    assert_eq!(node.sh(&own, "mknod /null c 1 3 && echo x > /null && echo fine"), "fine");
    let control = "mknod /l c 10 237; (: </l) 2>&- && echo read; (: >/l) 2>&- && echo written; true";
    assert_eq!(node.sh(&own, control), "");
    let with = |rule: &str| node.sh(&[&own[..], &["--device-cgroup-rule", rule]].concat(), control);
    assert_eq!((with("c 10:237 r"), with("a 10:* rw")), ("read".to_owned(), "read\nwritten".to_owned()));
    assert_eq!((with("b 10:237 rwm"), with("c 10:236 rwm")), (String::new(), String::new()));
    node.finish();
}

#[test]
fn each_hierarchy_that_is_seen_shows_the_containers_own_group() {
    let node = Node::with_busybox("sandbox-groups");
    node.detached(&["--name", "neighbour", "--cpu-shares", "500", "--cpuset-cpus", "0"], "while :; do sleep 1; done");
    let own = node
        .sh(&[], "cat /proc/self/cgroup; for g in /sys/fs/cgroup /sys/fs/cgroup/*; do test -d $g && ls $g; done; true");
    let neighbour = node.inspect("neighbour")["Id"].as_str().expect("id").to_owned();
    assert!(!own.contains(&neighbour), "{own}");
    // Where the host has v1, processor time is the container's and not each process' own.
    let process = node.inspect("neighbour")["State"]["Pid"].as_u64().expect("pid");
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).expect("cgroup");
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if controllers.split(',').any(|c| ["cpu", "cpuset", "memory", "pids", "cpuacct"].contains(&c)) {
            assert!(group.ends_with(&neighbour), "{line}");
        }
    }
    let plain = node.detached(&["--name", "plain"], "while :; do sleep 1; done");
    let process = node.inspect("plain")["State"]["Pid"].as_u64().expect("pid");
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).expect("cgroup");
    let cpu = groups.lines().find(|l| l.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == "cpu")));
    assert!(cpu.is_none_or(|line| line.ends_with(&plain)), "{groups}");
    node.ok(&["rm", "-f", "plain", "neighbour"]);
    node.finish();
}

#[test]
fn ulimits_sysctls_and_oom_score() {
    let node = Node::with_busybox("sandbox-limits");
    assert_eq!(node.sh(&["--ulimit", "nofile=123:456"], "ulimit -n; ulimit -Hn"), "123\n456");
    assert_eq!(node.sh(&["--ulimit", "core=0"], "ulimit -c"), "0");
    assert_eq!(
        node.sh(
            &["--sysctl", "net.ipv4.ip_unprivileged_port_start=77"],
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
        ),
        "77"
    );
    assert_eq!(node.sh(&["--sysctl", "kernel.shmmax=123456"], "cat /proc/sys/kernel/shmmax"), "123456");
    assert_eq!(node.sh(&["--oom-score-adj", "321"], "cat /proc/self/oom_score_adj"), "321");
    let output =
        node.ctl(&["run", "--rm", "--network", "host", "--sysctl", "net.ipv4.ip_forward=1", &image("busybox"), "true"]);
    assert_eq!(output.code, 125, "a sysctl of the host's namespace: {output:?}");
    node.finish();
}

#[test]
fn what_the_agent_ignores_is_not_ignored_in_containers() {
    let mut node = Node::with_busybox("sandbox-signals");
    let agent = node.program().display().to_string();
    let wrapper = node.scratch().join("nohup");
    // HUP, INT, QUIT, PIPE, USR1, USR2 and TSTP: a shell hands on what it ignores.
    let script = format!("#!/bin/bash\ntrap '' HUP INT QUIT PIPE USR1 USR2 TSTP 40\nexec {agent} \"$@\"\n");
    std::fs::write(&wrapper, script).expect("wrapper");
    set_mode(&wrapper, 0o755);
    node.set_program(&wrapper);
    node.restart();
    let of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let ignored = |status: &str| {
        let line = status.lines().find(|l| l.starts_with("SigIgn:")).expect("SigIgn").to_owned();
        u64::from_str_radix(line.trim_start_matches("SigIgn:").trim(), 16).expect("a mask")
    };
    // QUIT and signal 40, which the agent does not handle itself.
    assert_eq!(ignored(&of(&node.pid().to_string())) & (1 << 2 | 1 << 39), 1 << 2 | 1 << 39);
    let busybox = image("busybox");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let look = ["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"];
    let none = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000";
    let mut ways = vec![vec!["run", "--rm", &busybox], vec!["exec", "box"]];
    if runtimes::has("--init") {
        ways.push(vec!["run", "--rm", "--init", &busybox]);
    }
    for arguments in ways {
        assert_eq!(node.ok(&[&arguments[..], &look].concat()), none, "{arguments:?}");
    }
    node.ok(&["rm", "-f", "box"]);
    node.finish();
}

#[test]
fn the_agent_has_less_than_it_may_give() {
    let node = Node::with_busybox("sandbox-agent");
    let mask = |status: &str, field: &str| {
        let line = status.lines().find(|l| l.starts_with(field)).unwrap_or_else(|| panic!("{field}: {status}"));
        u64::from_str_radix(line.split_whitespace().nth(1).expect("a mask"), 16).expect("hexadecimal")
    };
    let bits = |names: &[&str]| names.iter().fold(0, |all, name| all | berth_sys::cap::bit(name).expect("known"));
    let gone = bits(&["SYS_MODULE", "SYS_BOOT", "SYS_TIME", "SYS_RAWIO", "MAC_ADMIN", "SYSLOG"]);
    // Every thread of it.
    for task in std::fs::read_dir(format!("/proc/{}/task", node.pid())).expect("tasks").flatten() {
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        assert_eq!((mask(&status, "CapPrm") & gone, mask(&status, "CapEff") & gone), (0, 0), "{status}");
        assert_eq!(mask(&status, "CapEff") & bits(&["SYS_ADMIN"]), bits(&["SYS_ADMIN"]), "the test sees nothing");
    }
    let own = std::fs::read_to_string("/proc/self/status").expect("status");
    let busybox = image("busybox");
    let options = ["run", "--rm", "--privileged", "--userns", "host", &busybox, "cat", "/proc/self/status"];
    let inside = node.ok(&options);
    assert_eq!(mask(&inside, "CapEff"), mask(&own, "CapBnd"), "a privileged container has all that the host has");
    node.finish();
}
