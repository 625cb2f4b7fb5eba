//! Containers of other OCI runtimes: Debian's runc and crun do what our own does.

use crate::harness::{Node, eventually, image, pty, runtimes, until};
use std::path::Path;
#[cfg(feature = "failpoints")]
use std::process::Stdio;

const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A node with busybox for each runtime that is there.
fn with_each(name: &str, test: impl Fn(&mut Node, &str)) {
    for wanted in ["crun", "runc"] {
        if !runtimes::there().iter().any(|(there, _)| *there == wanted) {
            runtimes::say(&format!("skipped: {wanted} is not installed"));
            continue;
        }
        println!("--- {wanted}");
        let mut node = Node::with_busybox(&format!("{name}-{wanted}"));
        test(&mut node, wanted);
        node.finish();
    }
}

fn state_folder(node: &Node, id: &str) -> bool {
    Path::new(&node.dir).join("run/containers").join(id).join("bundle").exists()
}

#[test]
fn exit_codes_and_streams() {
    with_each("rt-run", |node, runtime| {
        let run = |script: &str| node.sh_output(&["--runtime", runtime], script);
        let output = run("echo out; echo err >&2; exit 7");
        assert_eq!((output.code, &*output.stdout, &*output.stderr), (7, "out\n", "err\n"));
        assert_eq!(run("sh -c 'kill -9 $$'; exit $?").code, 137);
        let busybox = image("busybox");
        let of = |command: &str| node.ctl(&["run", "--rm", "--runtime", runtime, &busybox, command]);
        assert_eq!(of("no-such").code, 127);
        assert_eq!(of("/no/such").code, 127);
        assert_eq!(of("/etc/passwd").code, 126);
        assert_eq!(of("/etc").code, 126);
        let fed = node.ctl_stdin(&["run", "--rm", "-i", "--runtime", runtime, &busybox, "cat"], "through\n");
        assert_eq!(fed.stdout, "through\n");
        let big = node.sh(&["--runtime", runtime], "head -c 2000000 /dev/zero | tr '\\0' y");
        assert_eq!(big.len(), 2_000_000);
    });
}

#[test]
fn names_are_the_configurations() {
    let node = Node::with_busybox("rt-names");
    let busybox = image("busybox");
    let error = node.fails(1, &["create", "--runtime", "kata", &busybox]);
    assert!(error.contains("no runtime \"kata\": this agent has berth"), "{error}");
    node.ok(&["create", "--name", "own", "--runtime", "berth", &busybox]);
    assert_eq!(node.inspect("own")["HostConfig"]["Runtime"], "berth");
    for (name, path) in runtimes::there() {
        node.ok(&["create", "--name", name, "--runtime", name, &busybox]);
        assert_eq!(node.inspect(name)["HostConfig"]["Runtime"], name);
        let error = node.fails(1, &["create", "--runtime", name, "--init", &busybox]);
        assert!(error.contains("init") && error.contains(name), "{error}");
        let info = node.ok(&["info"]);
        let line = info.lines().find(|l| l.starts_with("Runtimes:")).expect("runtimes");
        assert!(line.contains("berth") && line.contains(&format!("{name} ({name} version")), "{line}");
        let found = node.ctl(&["node", "doctor"]).stdout;
        assert!(found.contains(path), "{found}");
    }
    node.finish();
}

#[test]
fn a_runtime_that_is_not_there_is_told_and_harms_no_other() {
    let node = Node::builder("rt-missing").table("[runtimes.gone]\npath = \"/nowhere/gone\"").start();
    let busybox = image("busybox");
    node.ok(&["pull", "-q", &busybox]);
    assert!(node.ok(&["info"]).contains("the runtime gone (/nowhere/gone) does not answer"));
    assert!(node.ctl(&["node", "doctor"]).stdout.contains("containers of the runtime gone do not start"));
    let error = node.fails(125, &["run", "--rm", "--runtime", "gone", &busybox, "true"]);
    assert!(error.contains("/nowhere/gone"), "{error}");
    assert_eq!(node.ok(&["run", "--rm", &busybox, "echo", "own"]), "own");
    node.finish();
}

#[test]
fn a_default_runtime_is_what_containers_get() {
    for (name, path) in runtimes::there() {
        let table = format!("[runtimes]\ndefault = \"{name}\"\n[runtimes.{name}]\npath = \"{path}\"");
        let node = Node::builder(&format!("rt-default-{name}")).table(&table).start();
        let busybox = image("busybox");
        node.ok(&["pull", "-q", &busybox]);
        node.ok(&["create", "--name", "box", &busybox]);
        assert_eq!(node.inspect("box")["HostConfig"]["Runtime"], name);
        assert_eq!(node.sh(&[], "echo hi"), "hi");
        node.ok(&["create", "--name", "own", "--runtime", "berth", "--init", &busybox]);
        assert_eq!(node.inspect("own")["HostConfig"]["Runtime"], "berth");
        node.finish();
    }
}

#[test]
fn execs_join_the_container() {
    with_each("rt-exec", |node, runtime| {
        node.detached(&["--runtime", runtime, "--name", "box", "-e", "A=container", "-w", "/etc"], IDLE);
        assert_eq!(node.ok(&["exec", "box", "sh", "-c", "pwd; echo $A"]), "/etc\ncontainer");
        assert_eq!(node.ok(&["exec", "-e", "A=exec", "-w", "/tmp", "box", "sh", "-c", "pwd; echo $A"]), "/tmp\nexec");
        assert_eq!(node.ok(&["exec", "-u", "nobody", "box", "id", "-un"]), "nobody");
        let spaces = "for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done";
        let text = node.ok(&["exec", "box", "sh", "-c", spaces]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.chunks(2).all(|pair| pair[0] == pair[1]) && lines.len() == 12, "{text}");
        let status = node.ok(&["exec", "box", "cat", "/proc/self/status"]);
        assert!(status.contains("CapEff:\t00000000a80425fb") && status.contains("Seccomp:\t2"), "{status}");
        assert_eq!(node.ctl(&["exec", "box", "sh", "-c", "exit 5"]).code, 5);
        assert_eq!(node.ctl(&["exec", "box", "no-such"]).code, 127);
        assert_eq!(node.ctl(&["exec", "box", "/etc/passwd"]).code, 126);
        let fed = node.ctl_stdin(&["exec", "-i", "box", "sh", "-c", "cat; echo err >&2"], "through\n");
        assert_eq!((&*fed.stdout, &*fed.stderr), ("through\n", "err\n"));
        node.ok(&["exec", "-d", "box", "sh", "-c", "echo done > /tmp/detached"]);
        until("the detached exec has written", || {
            node.ctl(&["exec", "box", "cat", "/tmp/detached"]).stdout == "done\n"
        });
        let error = node.fails(125, &["exec", "--privileged", "box", "true"]);
        assert!(error.contains("privileged") && error.contains(runtime), "{error}");
        let id = node.inspect("box")["Id"].as_str().expect("id").to_owned();
        let bundle = node.dir.join("run/containers").join(id).join("bundle");
        until("no folder of an exec is left", || {
            let names = std::fs::read_dir(&bundle).expect("bundle").flatten();
            !names.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("exec-"))
        });
    });
}

/// Without an input a container has a null device of its own there: an owner or a mode that it gives to it is not the host's (crun gives it to the
/// container's user by itself).
#[test]
fn the_hosts_null_device_is_nobodys() {
    use std::os::unix::fs::MetadataExt;
    let null = || std::fs::metadata("/dev/null").expect("/dev/null");
    let before = null();
    let hosts = format!("{} {}", before.dev(), before.ino());
    let check = |node: &mut Node, runtime: &str| {
        // Others show the host's in a user namespace, where nobody changes it.
        let script = "stat -L -c '%d %i' /proc/self/fd/0; chmod 666 /proc/self/fd/0 2>/dev/null && echo may || echo not; \
            stat -c '%t:%T' /dev/null; cat </dev/stdin; echo end";
        let is_own = |said: String, how: &str| {
            let said: Vec<&str> = said.lines().collect();
            let own = said[0] != hosts || (runtime != "berth" && said[1] == "not");
            assert!(own && said[2..] == ["1:3", "end"], "{runtime}, {how}: {said:?}");
        };
        for more in [&[][..], &["-u", "1000"], &["--userns", "host"], &["--userns", "host", "-u", "1000"]] {
            let name = &*format!("box{}", more.len() + usize::from(more.first() == Some(&"-u")));
            let options = [&["--runtime", runtime][..], more].concat();
            is_own(node.sh(&options, script), &format!("{more:?}"));
            node.detached(&[&options[..], &["--name", name]].concat(), IDLE);
            is_own(node.ok(&["exec", name, "sh", "-c", script]), &format!("exec, {more:?}"));
            node.ok(&["rm", "-f", name]);
        }
        node.sh_output(&["--runtime", runtime, "-t"], "true");
        let now = null();
        assert_eq!((now.uid(), now.gid(), now.mode()), (before.uid(), before.gid(), before.mode()), "{runtime}");
    };
    with_each("rt-null", check);
    let mut node = Node::with_busybox("rt-null");
    check(&mut node, "berth");
    node.finish();
}

#[test]
fn execs_are_in_the_network_that_their_container_shares() {
    with_each("rt-shared", |node, runtime| {
        node.detached(&["--name", "pod", "--network", "bridge", "--runtime", runtime], IDLE);
        for (name, more) in [("side", &[][..]), ("hosts-ids", &["--userns", "host"])] {
            let own = ["--name", name, "--network", "container:pod", "--runtime", runtime];
            node.detached(&[&own[..], more].concat(), IDLE);
            // /proc/net is that of who asks; a mount of sysfs is that of who made it.
            let asked = "readlink /proc/self/ns/net; readlink /proc/1/ns/net; tail -n +3 /proc/net/dev | wc -l; ls /sys/class/net | wc -l";
            let said = node.ok(&["exec", name, "sh", "-c", asked]);
            let said: Vec<&str> = said.lines().collect();
            assert!(said[0] == said[1] && said[2] == said[3], "{name}: {said:?}");
            assert_eq!(said[0], host_namespace_of(node, "pod"), "{name}");
        }
        // So is a health check.
        let check = ["--health-cmd", "readlink /proc/self/ns/net", "--health-interval", "1s"];
        let own = ["--name", "well", "--network", "container:pod", "--runtime", runtime];
        node.detached(&[&own[..], &check[..]].concat(), IDLE);
        let log = eventually("a health check", || {
            let said = node.inspect("well")["State"]["Health"]["Log"][0]["Output"].as_str()?.trim().to_owned();
            (!said.is_empty()).then_some(said)
        });
        assert_eq!(log, host_namespace_of(node, "pod"));
        node.ok(&["rm", "-f", "well", "hosts-ids", "side", "pod"]);
    });
}

/// Of a container's first process, as the host sees it.
fn host_namespace_of(node: &Node, name: &str) -> String {
    let pid = node.inspect(name)["State"]["Pid"].as_u64().expect("pid");
    std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("ns/net").display().to_string()
}

#[test]
fn stops_pauses_and_removals() {
    with_each("rt-stop", |node, runtime| {
        let polite = node.detached(&["--runtime", runtime], IDLE);
        node.ok(&["stop", "-t", "20", &polite]);
        assert_eq!(node.ok(&["wait", &polite]), "0");
        node.ok(&["start", &polite]);
        node.ok(&["restart", "-t", "20", &polite]);
        let deaf = node.detached(&["--runtime", runtime], "trap '' TERM; while :; do sleep 1; done");
        node.ok(&["stop", "-t", "1", &deaf]);
        assert_eq!(node.ok(&["wait", &deaf]), "137");
        node.ok(&["pause", &polite]);
        assert_eq!(node.inspect(&polite)["State"]["Paused"], true);
        assert!(node.fails(125, &["exec", &polite, "true"]).contains("paused"));
        node.ok(&["unpause", &polite]);
        assert_eq!(node.ok(&["exec", &polite, "echo", "again"]), "again");
        let stats = node.ok(&["stats", "--no-stream", &polite]);
        assert!(stats.contains("MiB") || stats.contains("KiB"), "{stats}");
        node.ok(&["update", "--pids-limit", "99", &polite]);
        assert!(state_folder(node, &polite));
        node.ok(&["rm", "-f", &polite, &deaf]);
        until("nothing of the bundle is left", || !state_folder(node, &polite));
    });
}

#[test]
fn limits_hold_and_an_oom_is_told() {
    with_each("rt-limits", |node, runtime| {
        let id = node.detached(
            &["--runtime", runtime, "--memory", "24m", "--memory-swap", "24m"],
            "head -c 200m /dev/zero | tail",
        );
        node.ok(&["wait", &id]);
        assert_eq!(node.inspect(&id)["State"]["OOMKilled"], true);
        // One that joins a group may take its limits off.
        let held = node.detached(&["--runtime", runtime, "--memory", "24m", "--memory-swap", "32m"], "sleep 1000");
        let groups = node.inspect(&held)["CgroupPaths"].as_array().expect("groups").clone();
        let mut found = 0;
        for (file, bytes) in [
            ("memory.limit_in_bytes", 24 << 20),
            ("memory.memsw.limit_in_bytes", 32 << 20),
            ("memory.max", 24 << 20),
            ("memory.swap.max", 8 << 20),
        ] {
            let files = groups.iter().map(|group| format!("{}/{file}", group.as_str().expect("a path")));
            for text in files.filter_map(|file| std::fs::read_to_string(file).ok()) {
                assert_eq!(text.trim(), i32::to_string(&bytes), "{file} with {runtime}");
                found += 1;
            }
        }
        assert!(found > 0, "{groups:?}");
        node.ok(&["rm", "-f", &held]);
        let forks = node.sh_output(
            &["--runtime", runtime, "--pids-limit", "20"],
            "for i in $(seq 50); do sleep 3 & done 2>&1 | grep -c fork || true; exit 0",
        );
        assert!(forks.stdout.contains('1') || forks.stderr.contains("fork"), "{forks:?}");
        let cpus = node.sh(&["--runtime", runtime, "--cpuset-cpus", "0"], "nproc");
        assert_eq!(cpus, "1");
    });
}

#[test]
fn users_rights_and_roots() {
    with_each("rt-rights", |node, runtime| {
        let sh = |options: &[&str], script: &str| node.sh(&[&["--runtime", runtime], options].concat(), script);
        assert_eq!(sh(&["-u", "nobody"], "id -un; grep CapEff /proc/self/status"), "nobody\nCapEff:\t0000000000000000");
        assert_eq!(
            sh(&["--cap-drop", "ALL", "--cap-add", "CHOWN"], "grep CapEff /proc/self/status"),
            "CapEff:\t0000000000000001"
        );
        assert_eq!(sh(&["--read-only"], "touch /x 2>/dev/null || echo refused"), "refused");
        assert_eq!(sh(&["--tmpfs", "/t:size=1m"], "df -k /t | tail -1 | awk '{print $2}'"), "1024");
        assert_eq!(sh(&["--hostname", "box"], "hostname"), "box");
        assert_eq!(sh(&["-w", "/made/here"], "pwd"), "/made/here");
        assert_eq!(
            sh(&[], "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; echo x > /proc/sysrq-trigger || echo refused"),
            "0\n0\nrefused"
        );
        assert_eq!(sh(&["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn"), "100\n200");
        assert_eq!(
            sh(
                &["--sysctl", "net.ipv4.ip_unprivileged_port_start=7"],
                "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
            ),
            "7"
        );
        assert_eq!(sh(&["--device", "/dev/null:/dev/mine"], "echo x > /dev/mine && echo ok"), "ok");
        assert_eq!(sh(&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status"), "Seccomp:\t0");
        // mount(2) is not among the calls of the default profile.
        assert_eq!(sh(&[], "unshare -m true 2>/dev/null || echo refused"), "refused");
        assert_eq!(sh(&["--privileged"], "mount -t tmpfs none /tmp && echo ok"), "ok");
        assert_eq!(sh(&["--pid", "host"], "readlink /proc/self/ns/pid"), host_namespace("pid"));
    });
}

fn host_namespace(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("namespace").to_string_lossy().into_owned()
}

#[test]
fn files_of_the_host_volumes_and_images() {
    with_each("rt-files", |node, runtime| {
        let folder = node.scratch().join("bound");
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("f"), "from the host\n").expect("file");
        let bind = format!("{}:/b", folder.display());
        let sh = |options: &[&str], script: &str| node.sh(&[&["--runtime", runtime], options].concat(), script);
        for userns in ["host", "auto"] {
            let of = |options: &[&str], script: &str| sh(&[&["--userns", userns], options].concat(), script);
            assert_eq!(of(&["-v", &bind], "cat /b/f; echo in > /b/g; cat /b/g"), "from the host\nin");
            assert_eq!(of(&["-v", &format!("{bind}:ro")], "touch /b/x 2>/dev/null || echo refused"), "refused");
            assert_eq!(
                of(&["-v", "kept:/v"], "echo more >> /v/f; grep -c more /v/f"),
                if userns == "host" { "1" } else { "2" }
            );
            assert_eq!(of(&["-v", "kept:/v:ro"], "touch /v/x 2>/dev/null || echo refused"), "refused");
            assert!(of(&[], "cat /etc/resolv.conf /etc/hosts").contains("localhost"));
        }
        node.ok(&["volume", "rm", "kept"]);
    });
}

#[test]
fn user_namespaces_are_the_agents() {
    with_each("rt-users", |node, runtime| {
        let id = node.detached(&["--runtime", runtime, "--userns", "auto"], IDLE);
        let base = node.inspect(&id)["UserNamespace"]["FirstID"].as_u64().expect("base");
        assert!(base > 0);
        let map = node.ok(&["exec", &id, "cat", "/proc/self/uid_map"]);
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &base.to_string(), "65536"]);
        assert_eq!(node.ok(&["exec", &id, "sh", "-c", "touch /mine; stat -c %u /mine /bin/busybox"]), "0\n0");
        assert!(node.ok(&["diff", &id]).contains("/mine"));
        assert_eq!(node.ok(&["exec", &id, "sh", "-c", "echo out >/dev/stdout"]), "out");
        assert_eq!(node.sh(&["--runtime", runtime, "--userns", "auto"], "echo out >/dev/stdout"), "out");
        assert_eq!(
            node.sh(
                &["--runtime", runtime, "--userns", "auto", "--network", "host"],
                "ls /sys/class/net | grep -cx lo"
            ),
            "1"
        );
    });
}

#[test]
fn parts_of_the_hosts_proc_may_be_covered() {
    with_each("rt-proc", |node, runtime| {
        node.stop_agent();
        // By a file of the harness over one of the kernel's.
        node.set_boot_id("22222222-3333-4444-8555-666666666666");
        node.spawn();
        let look = "test -e /proc/self/mountinfo && grep -c 'whole-proc' /proc/self/mountinfo; ls /proc | grep -cx 1";
        assert_eq!(node.sh(&["--runtime", runtime, "--userns", "auto"], look), "0\n1");
    });
}

#[test]
fn networks_and_ports() {
    with_each("rt-net", |node, runtime| {
        let busybox = image("busybox");
        let script = "echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp";
        let port = node.slot.port(1).to_string();
        let publish = format!("127.0.0.1:{port}:80");
        node.ok(&["run", "-d", "--runtime", runtime, "--name", "web", "-p", &publish, &busybox, "sh", "-c", script]);
        let address = format!("127.0.0.1:{port}");
        eventually("the port answers", || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(&address).ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            text.contains("hello").then_some(())
        });
        let shared = node.ok(&[
            "run",
            "--rm",
            "--runtime",
            runtime,
            "--network",
            "container:web",
            &busybox,
            "wget",
            "-qO-",
            "http://127.0.0.1/",
        ]);
        assert_eq!(shared, "hello");
    });
}

#[test]
fn terminals() {
    with_each("rt-tty", |node, runtime| {
        let busybox = image("busybox");
        let command = node.ctl_command(&[
            "run",
            "--rm",
            "-t",
            "--runtime",
            runtime,
            &busybox,
            "sh",
            "-c",
            "tty; test -t 0 && test -t 1 && echo is-a-terminal",
        ]);
        let text = pty::run(&command, &[]).output;
        assert!(text.contains("/dev/pts/0") && text.contains("is-a-terminal"), "{text}");
        node.detached(&["--runtime", runtime, "--name", "box"], IDLE);
        let command = node.ctl_command(&["exec", "-t", "box", "sh", "-c", "test -t 1 && echo is-a-terminal"]);
        let text = pty::run(&command, &[]).output;
        assert!(text.contains("is-a-terminal"), "{text}");
    });
}

#[test]
fn logs_restarts_and_health() {
    with_each("rt-super", |node, runtime| {
        let id = node.detached(&["--runtime", runtime], "echo one; echo two >&2; sleep 1000");
        until("both lines are stored", || {
            let logs = node.ctl(&["logs", &id]);
            logs.stdout == "one\n" && logs.stderr == "two\n"
        });
        let again = node.detached(&["--runtime", runtime, "--restart", "on-failure:2"], "echo run; exit 3");
        until("it was started three times", || node.ok(&["logs", &again]).lines().count() == 3);
        let sick = node.detached(
            &[
                "--runtime",
                runtime,
                "--health-cmd",
                "test -e /tmp/well",
                "--health-interval",
                "200ms",
                "--health-retries",
                "1",
            ],
            IDLE,
        );
        until("it is unhealthy", || node.inspect(&sick)["State"]["Health"]["Status"] == "unhealthy");
        node.ok(&["exec", &sick, "touch", "/tmp/well"]);
        until("it is healthy", || node.inspect(&sick)["State"]["Health"]["Status"] == "healthy");
    });
}

#[test]
fn the_agent_may_die() {
    with_each("rt-survive", |node, runtime| {
        let id = node.detached(
            &["--runtime", runtime, "--name", "box"],
            "echo begun; trap 'exit 4' TERM; while :; do sleep 0.1; done",
        );
        let pid = node.inspect(&id)["State"]["Pid"].clone();
        node.restart();
        assert_eq!(node.inspect(&id)["State"]["Pid"], pid);
        assert_eq!(node.ok(&["exec", "box", "echo", "in"]), "in");
        assert_eq!(node.ok(&["logs", "box"]), "begun");
        node.kill_agent();
        crate::harness::agent::signal(pid.as_u64().expect("pid") as u32, "TERM");
        node.spawn();
        assert_eq!(node.ok(&["wait", "box"]), "4");
        node.ok(&["start", "box"]);
        assert_eq!(node.ok(&["exec", "box", "echo", "in"]), "in");
        let shim = node.inspect(&id)["State"]["ShimPid"].as_u64().expect("shim") as u32;
        crate::harness::agent::signal(shim, "KILL");
        assert_eq!(node.ok(&["wait", "box"]), "137");
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn a_start_that_is_cut_leaves_nothing() {
    with_each("rt-cut", |node, runtime| {
        let busybox = image("busybox");
        let id = node.ok(&["create", "--runtime", runtime, &busybox, "sh", "-c", IDLE]);
        for point in [
            "start.after_record",
            "start.after_mount",
            "start.after_network",
            "start.after_spawn",
            "start.after_running",
        ] {
            node.stop_agent();
            node.set_env("BERTH_FAILPOINTS", Some(&format!("{point}=abort")));
            node.spawn();
            let mut start = node.ctl_command(&["start", &id]);
            let mut start = start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ctl");
            node.wait_agent();
            let _ = start.kill();
            start.wait().expect("wait");
            node.set_env("BERTH_FAILPOINTS", None);
            node.spawn();
            node.ok(&["start", &id]);
            assert_eq!(node.ok(&["exec", &id, "echo", point]), point);
            node.ok(&["stop", "-t", "20", &id]);
        }
    });
}
