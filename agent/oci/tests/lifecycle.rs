//! The runtime specification's rules (runtime.md, config.md, config-linux.md), with real containers.

mod common;

use common::{Bench, fails, ok, text};
use serde_json::json;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::Stdio;

#[test]
fn a_life_from_create_to_delete() {
    let bench = Bench::new();
    bench.config(&["sh", "-c", "echo started; exec sleep 1000"], |c| c["annotations"] = json!({"a.b": "c"}));
    let pid_file = bench.at.join("pid");
    ok(bench.create(&["--pid-file", pid_file.to_str().unwrap()]));
    let state = bench.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], bench.id());
    assert_eq!(state["bundle"], bench.bundle().to_str().unwrap());
    assert_eq!(state["annotations"], json!({"a.b": "c"}));
    assert_eq!(state["ociVersion"], "1.2.0");
    assert_eq!(state["pid"].to_string(), std::fs::read_to_string(pid_file).unwrap());
    assert_eq!(bench.output(), "", "the program may not run before start");
    let mode = std::fs::metadata(bench.state_folder().join(bench.id())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    fails(bench.create(&[]), "already exists");
    fails(bench.runtime(&["delete", &bench.id()]), "not stopped");
    assert_eq!(bench.status(), "created", "a refused delete has no effect");
    // What is changed in the bundle from here on does not count.
    std::fs::write(bench.bundle().join("config.json"), "{}").unwrap();

    ok(bench.runtime(&["start", &bench.id()]));
    assert_eq!(bench.status(), "running");
    fails(bench.runtime(&["start", &bench.id()]), "already running");
    fails(bench.runtime(&["delete", &bench.id()]), "not stopped");
    bench.says("started\n");

    // A question, and no signal.
    ok(bench.runtime(&["kill", &bench.id(), "0"]));
    ok(bench.runtime(&["kill", "--all", &bench.id(), "0"]));
    fails(bench.runtime(&["kill", &bench.id(), "99"]), "unknown signal");
    assert_eq!(bench.status(), "running");
    ok(bench.runtime(&["kill", &bench.id(), "KILL"]));
    bench.wait_for("stopped");
    assert_eq!(bench.state()["pid"], 0);
    fails(bench.runtime(&["kill", &bench.id(), "0"]), "not running");
    fails(bench.runtime(&["kill", &bench.id(), "TERM"]), "not running");
    fails(bench.runtime(&["start", &bench.id()]), "stopped");
    fails(bench.runtime(&["exec", &bench.id(), "true"]), "stopped");
    ok(bench.runtime(&["delete", &bench.id()]));
    fails(bench.runtime(&["state", &bench.id()]), "does not exist");
    fails(bench.runtime(&["kill", &bench.id()]), "does not exist");
    fails(bench.runtime(&["delete", &bench.id()]), "does not exist");
    fails(bench.runtime(&["start", &bench.id()]), "does not exist");
    ok(bench.runtime(&["delete", "--force", &bench.id()]));
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    let bench = Bench::new();
    let nothing = || {
        assert!(!bench.state_folder().join(bench.id()).exists(), "the state's folder is left");
        assert_eq!(bench.groups(), Vec::<std::path::PathBuf>::new());
    };
    fails(bench.create(&[]), "config.json: no such file or directory");
    bench.config(&["nosuch"], |_| {});
    fails(bench.create(&[]), "executable file not found in $PATH");
    nothing();
    bench.config(&["/nosuch"], |_| {});
    fails(bench.create(&[]), "no such file or directory");
    bench.config(&["/tmp"], |_| {});
    fails(bench.create(&[]), "permission denied");
    bench.config(&["sh"], |c| c["mounts"][4]["type"] = json!("nosuchfs"));
    fails(bench.create(&[]), "nosuchfs on /dev/mqueue: no such device");
    nothing();
    bench.config(&["sh"], |c| c["linux"]["resources"]["pids"] = json!({"limit": 5}));
    ok(bench.create(&[]));
    ok(bench.runtime(&["delete", "-f", &bench.id()]));
    bench.config(&["sh"], |c| c["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "3KB", "limit": 1}]));
    fails(bench.create(&[]), "linux.resources.hugepageLimits");
    nothing();
    bench.config(&["sh"], |c| c["process"]["terminal"] = json!(true));
    fails(bench.create(&[]), "--console-socket");
    fails(bench.runtime(&["state", "../etc"]), "is no name");
    nothing();
}

#[test]
fn run_hands_streams_and_status_on() {
    let bench = Bench::new();
    bench.config(&["sh", "-c", "echo out; echo err >&2; exit 7"], |_| {});
    let out = bench.run();
    assert_eq!((out.status.code(), text(&out.stdout), text(&out.stderr)), (Some(7), "out\n".into(), "err\n".into()));
    assert!(!bench.state_folder().join(bench.id()).exists());
    bench.config(&["sh", "-c", "kill -9 $$; sleep 9"], |c| c["linux"]["namespaces"] = json!([{"type":"mount"}]));
    // Without a pid namespace the shell is no process 1, and dies of it.
    bench.config(&["sh", "-c", "kill -9 $$; sleep 9"], |c| {
        c["linux"]["namespaces"] = json!([{"type":"mount"},{"type":"uts"}]);
    });
    assert_eq!(bench.run().status.code(), Some(137));
}

#[test]
fn the_process_is_as_config_json_says() {
    let bench = Bench::new();
    let script = "id -u; id -g; id -G; pwd; umask; echo $A; hostname; grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status; ulimit -n; cat /proc/sys/kernel/domainname; cat /proc/self/oom_score_adj";
    bench.config(&["sh", "-c", script], |c| {
        let p = &mut c["process"];
        p["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o077});
        p["cwd"] = json!("/made/for/it");
        p["env"] = json!(["PATH=/bin", "A=b c"]);
        p["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 101}]);
        let kill = json!(["CAP_KILL"]);
        p["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": kill, "permitted": kill,
            "inheritable": kill, "ambient": kill});
        p["oomScoreAdj"] = json!(500);
        c["hostname"] = json!("inside");
        c["domainname"] = json!("example.org");
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]});
    });
    let out = ok(bench.run());
    let expected = "1000\n1001\n1001 7 8\n/made/for/it\n0077\nb c\ninside\nCapInh:\t0000000000000020\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\nCapBnd:\t0000000000000021\nCapAmb:\t0000000000000020\nNoNewPrivs:\t1\nSeccomp:\t2\n100\nexample.org\n500\n";
    assert_eq!(out, expected);
}

/// CVE-2022-24769: what whoever calls may hand on is none of the container's, whether config.json speaks of capabilities or not.
#[test]
fn what_the_caller_hands_on_is_not_the_containers() {
    let bench = Bench::new();
    let handed = ["--inh-caps", "+kill,+chown", "--ambient-caps", "+kill,+chown"];
    let sets = |uid: u32, capabilities: serde_json::Value| {
        bench.config(&["grep", "^Cap", "/proc/self/status"], |c| {
            c["process"]["user"] = json!({"uid": uid, "gid": 0});
            c["process"]["capabilities"] = capabilities.clone();
            c["process"]["noNewPrivileges"] = json!(uid == 0);
        });
        let run = bench.command(&["run", &bench.id()]);
        let mut command = std::process::Command::new("setpriv");
        command.args(handed).arg(run.get_program()).args(run.get_args()).current_dir(bench.bundle());
        let out = ok(command.stdin(Stdio::null()).output().unwrap());
        out.lines().map(|l| u64::from_str_radix(l.split_once('\t').unwrap().1, 16).unwrap()).collect::<Vec<_>>()
    };
    let kill = json!(["CAP_KILL"]);
    for uid in [0, 1000] {
        let given = json!({"bounding": kill, "effective": kill, "permitted": kill});
        let kept = if uid == 0 { 0x20 } else { 0 };
        assert_eq!(sets(uid, given), [0, kept, kept, 0x20, 0], "{uid}");
        assert_eq!(sets(uid, json!(null)), [0; 5], "{uid}");
    }
}

#[test]
fn mounts_devices_and_walls() {
    let bench = Bench::new();
    let shared = bench.at.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host").unwrap();
    std::fs::create_dir_all(bench.bundle().join("rootfs/seed/deep")).unwrap();
    std::fs::write(bench.bundle().join("rootfs/seed/deep/a"), "seeded").unwrap();
    let script = "cat /shared/file; echo; touch /shared/new && echo writable; touch /ro/new 2>/dev/null || echo read-only; \
        cat /seed/deep/a; echo; touch /seed/b && echo copied; ls -la /dev/null /dev/tty /dev/fuse /dev/fd | cut -c1-10; \
        cat /proc/kcore | head -c1; ls /sys/firmware; echo x > /proc/sys/kernel/domainname || echo walled; \
        : > /dev/null && echo null; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; \
        touch /x 2>/dev/null || echo root read-only; readlink /proc/self/ns/cgroup | cut -c1-8; stat -c %a /tmp/made";
    std::os::unix::fs::symlink("busybox", bench.bundle().join("rootfs/bin/cut")).unwrap();
    bench.config(&["sh", "-c", script], |c| {
        c["root"]["readonly"] = json!(true);
        let more = json!([
            {"destination": "/shared", "type": "bind", "source": shared, "options": ["rbind", "rprivate", "nosuid"]},
            {"destination": "/ro", "type": "bind", "source": shared, "options": ["bind", "ro"]},
            {"destination": "/seed", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]},
            {"destination": "/tmp/made", "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"]},
        ]);
        c["mounts"].as_array_mut().unwrap().extend(more.as_array().unwrap().clone());
        c["linux"]["devices"] =
            json!([{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o600}]);
        c["linux"]["resources"]["pids"] = json!({"limit": 77});
    });
    let out = bench.run();
    let expected = "from the host\nwritable\nread-only\nseeded\ncopied\n\
        crw-rw-rw-\ncrw-rw-rw-\ncrw-------\nlrwxrwxrwx\nwalled\nnull\n77\nroot read-only\ncgroup:[\n700\n";
    let (said, wrong) = (text(&out.stdout), text(&out.stderr));
    let sorted = |t: &str| {
        let mut lines: Vec<String> = t.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&said), sorted(expected), "{said}{wrong}");
    assert!(shared.join("new").exists() && !bench.bundle().join("rootfs/seed/b").exists());
}

#[test]
fn hooks_run_in_their_order_and_places() {
    let bench = Bench::new();
    let log = bench.at.join("log");
    let hook = |name: &str, more: &str| {
        let script = format!(
            "read state; echo \"{name} $state $(env | sort | grep -v -e PWD -e SHLVL -e _= | tr '\\n' ' ')\" >> {}; {more}",
            log.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["X=y"], "timeout": 10}])
    };
    // Inside the container's root there is no log of the host's: its standard streams are the container's own.
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/state"]}]);
    bench.config(&["sh", "-c", "cat /tmp/state; sleep 1000"], |c| {
        c["hooks"] = json!({
            "prestart": hook("prestart", ""), "createRuntime": hook("createRuntime", ""),
            "createContainer": hook("createContainer", ""), "startContainer": inside,
            "poststart": hook("poststart", ""), "poststop": hook("poststop", "exit 3"),
        });
    });
    ok(bench.create(&[]));
    let said = |log: &std::path::Path| -> Vec<(String, String, u64, String)> {
        let text = std::fs::read_to_string(log).unwrap();
        text.lines()
            .map(|line| {
                let (name, rest) = line.split_once(' ').unwrap();
                let (state, env) = rest.rsplit_once("} ").unwrap();
                let state: serde_json::Value = serde_json::from_str(&format!("{state}}}")).unwrap();
                let status = state["status"].as_str().unwrap().to_owned();
                (name.to_owned(), status, state["pid"].as_u64().unwrap_or(0), env.to_owned())
            })
            .collect()
    };
    let names = |log: &std::path::Path| said(log).into_iter().map(|s| s.0).collect::<Vec<_>>();
    assert_eq!(names(&log), ["prestart", "createRuntime", "createContainer"]);
    let pid = bench.state()["pid"].as_u64().unwrap();
    for (name, status, hook_pid, env) in said(&log) {
        assert_eq!(status, "creating", "{name}");
        assert_eq!(hook_pid, if name == "createContainer" { 1 } else { pid });
        assert_eq!(env.trim(), "X=y", "{name}: the environment is what the hook says");
    }
    assert_eq!(bench.output(), "");
    ok(bench.runtime(&["start", &bench.id()]));
    assert_eq!(names(&log).last().unwrap(), "poststart");
    let began = std::time::Instant::now();
    while !bench.output().contains("\"id\":") {
        assert!(began.elapsed().as_secs() < 10, "startContainer ran inside, before the program: {}", bench.output());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    ok(bench.runtime(&["kill", &bench.id(), "KILL"]));
    bench.wait_for("stopped");
    assert_eq!(names(&log).last().unwrap(), "poststart", "poststop is delete's");
    let out = bench.runtime(&["delete", &bench.id()]);
    assert!(text(&out.stderr).contains("hooks.poststop[0]"), "its failure is a warning: {}", text(&out.stderr));
    ok(out);
    let last = said(&log).pop().unwrap();
    assert_eq!((last.0.as_str(), last.1.as_str()), ("poststop", "stopped"));
}

#[test]
fn a_hook_that_fails_ends_the_container() {
    let bench = Bench::new();
    let stop = bench.at.join("stopped");
    let failing = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 1"]}]);
    // The first one fails, and the other one is called all the same.
    let poststop = json!([failing[0], {"path": "/bin/touch", "args": ["touch", stop]}]);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        bench.config(&["sleep", "1000"], |c| c["hooks"] = json!({kind: failing, "poststop": poststop}));
        fails(bench.create(&[]), &format!("hooks.{kind}[0]"));
        assert!(!bench.state_folder().join(bench.id()).exists());
        std::fs::remove_file(&stop).expect("poststop hooks ran");
    }
    bench.config(&["sleep", "1000"], |c| c["hooks"] = json!({"startContainer": failing}));
    ok(bench.create(&[]));
    fails(bench.runtime(&["start", &bench.id()]), "hooks.startContainer[0]");
    bench.wait_for("stopped");
    ok(bench.runtime(&["delete", &bench.id()]));
    bench.config(&["sleep", "1000"], |c| c["hooks"] = json!({"poststart": failing}));
    ok(bench.create(&[]));
    fails(bench.runtime(&["start", &bench.id()]), "hooks.poststart[0]");
    bench.wait_for("stopped");
    ok(bench.runtime(&["delete", &bench.id()]));
    let slow = json!([{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]);
    bench.config(&["sleep", "1000"], |c| c["hooks"] = json!({"prestart": slow}));
    fails(bench.create(&[]), "timeout of 1 s");
}

#[test]
fn namespaces_new_and_joined() {
    let bench = Bench::new();
    let ns = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let script = "for n in net ipc uts pid mnt cgroup user time; do readlink /proc/self/ns/$n; done; cat /proc/uptime";
    bench.config(&["sh", "-c", script], |c| {
        c["linux"]["namespaces"] = json!([{"type":"mount"},{"type":"pid"},{"type":"time"},
            {"type":"network","path":"/proc/self/ns/net"}]);
        c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
        c.as_object_mut().unwrap().remove("hostname");
    });
    let out = ok(bench.run());
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], ns("net"));
    assert_eq!(lines[1], ns("ipc"));
    assert!(lines[3] != ns("pid") && lines[4] != ns("mnt") && lines[5] == ns("cgroup") && lines[6] == ns("user"));
    assert!(lines[7] != ns("time") && lines[8].parse::<String>().unwrap().starts_with("1000"), "{out}");
    bench.config(&["true"], |c| {
        c["linux"]["namespaces"] = json!([{"type":"mount"},{"type":"ipc","path":"/proc/self/ns/net"}])
    });
    bench.config(&["true"], |c| {
        c.as_object_mut().unwrap().remove("hostname");
        c["linux"]["namespaces"] = json!([{"type":"mount"},{"type":"ipc","path":"/proc/self/ns/net"}]);
    });
    fails(bench.create(&[]), "linux.namespaces[ipc]: joining /proc/self/ns/net");
}

#[test]
fn a_user_namespace_of_its_own() {
    let bench = Bench::new();
    let shared = bench.at.join("shared");
    std::fs::create_dir(&shared).unwrap();
    // Its root may not make folders in a root that is not its own.
    std::fs::create_dir(bench.bundle().join("rootfs/shared")).unwrap();
    let script = "id -u; cat /proc/self/uid_map; : > /dev/null && echo null; touch /shared/a && stat -c %u /shared/a; touch /proc/sys/kernel/x 2>&1; mount -t tmpfs x /tmp 2>&1 | head -c5";
    bench.config(&["sh", "-c", script], |c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map.clone());
        let idmap = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        c["mounts"].as_array_mut().unwrap().push(json!({"destination": "/shared", "type": "bind", "source": shared,
            "options": ["bind"], "uidMappings": idmap, "gidMappings": idmap}));
    });
    let out = bench.run();
    let said = text(&out.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.first(), Some(&"0"), "{said}{}", text(&out.stderr));
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
    assert_eq!(lines[2..4], ["null", "0"]);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(shared.join("a")).unwrap());
    assert_eq!(owner, 0, "the mount is mapped: its root is the host's");
}

#[test]
fn exec_joins_what_the_container_has() {
    let bench = Bench::new();
    bench.config(&["sleep", "1000"], |c| {
        c["process"]["env"] = json!(["PATH=/bin", "A=1"]);
        c["hostname"] = json!("inside");
        c["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
    let id = bench.id();
    let out = ok(bench.runtime(&[
        "exec",
        "-e",
        "B=2",
        "--cwd",
        "/tmp",
        "-u",
        "5:6",
        &id,
        "sh",
        "-c",
        "hostname; echo $A$B; pwd; id -u; id -g; cat /proc/1/comm",
    ]));
    assert_eq!(out, "inside\n12\n/tmp\n5\n6\nsleep\n");
    assert_eq!(bench.runtime(&["exec", &id, "sh", "-c", "exit 9"]).status.code(), Some(9));
    fails(bench.runtime(&["exec", &id, "nosuch"]), "executable file not found in $PATH");
    // Nothing of the host is open in it.
    let fds = ok(bench.runtime(&["exec", &id, "sh", "-c", "ls /proc/self/fd"]));
    assert_eq!(fds.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "3 is ls' own");
    let (file, pid) = (bench.at.join("process.json"), bench.at.join("exec.pid"));
    std::fs::write(&file, json!({"args": ["sleep", "999"], "cwd": "/", "env": ["PATH=/bin"]}).to_string()).unwrap();
    let arguments = ["exec", "--process", file.to_str().unwrap(), "--detach", "--pid-file", pid.to_str().unwrap(), &id];
    let status = bench.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    let pids: Vec<u32> = serde_json::from_str(&ok(bench.runtime(&["ps", "--format", "json", &id]))).unwrap();
    let pid: u32 = std::fs::read_to_string(pid).unwrap().parse().unwrap();
    assert!(pids.len() == 2 && pids.contains(&pid), "{pids:?} {pid}");
    assert!(ok(bench.runtime(&["ps", &id])).contains("sleep 999"));
    let out = bench.runtime(&["exec", &id, "sh", "-c", "cat /proc/self/status | grep -c CapEff"]);
    assert_eq!(ok(out), "1\n");
    ok(bench.runtime(&["kill", "--all", &id, "KILL"]));
    bench.wait_for("stopped");
}

#[test]
fn pause_update_events_and_lists() {
    let bench = Bench::new();
    bench.config(&["sleep", "1000"], |c| c["linux"]["resources"]["memory"] = json!({"limit": 50_000_000}));
    ok(bench.create(&[]));
    let id = bench.id();
    fails(bench.runtime(&["resume", &id]), "cannot resume");
    ok(bench.runtime(&["start", &id]));
    ok(bench.runtime(&["pause", &id]));
    assert_eq!(bench.status(), "paused");
    fails(bench.runtime(&["exec", &id, "true"]), "paused");
    fails(bench.runtime(&["pause", &id]), "cannot pause");
    ok(bench.runtime(&["resume", &id]));
    assert_eq!(bench.status(), "running");
    ok(bench.runtime(&["update", "--memory", "60000000", "--pids-limit", "33", &id]));
    let stats: serde_json::Value = serde_json::from_str(&ok(bench.runtime(&["events", "--stats", &id]))).unwrap();
    assert_eq!((&stats["type"], &stats["data"]["pids"]["limit"]), (&json!("stats"), &json!(33)));
    let limit = stats["data"]["memory"]["usage"]["limit"].as_u64().unwrap();
    assert!(limit > 59_000_000 && limit <= 60_000_000, "{stats}");
    let file = bench.at.join("resources.json");
    std::fs::write(&file, json!({"pids": {"limit": 44}}).to_string()).unwrap();
    ok(bench.runtime(&["update", "-r", file.to_str().unwrap(), &id]));
    let stats: serde_json::Value = serde_json::from_str(&ok(bench.runtime(&["events", "--stats", &id]))).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 44);
    let list: serde_json::Value = serde_json::from_str(&ok(bench.runtime(&["list", "--format", "json"]))).unwrap();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["id"]), (1, &json!(id)));
    assert_eq!(ok(bench.runtime(&["list", "-q"])), format!("{id}\n"));
    assert!(ok(bench.runtime(&["list"])).lines().nth(1).unwrap().contains("running"));
    // A frozen one is killed all the same.
    ok(bench.runtime(&["pause", &id]));
    ok(bench.runtime(&["delete", "--force", &id]));
}

#[test]
fn errors_go_to_the_log_as_json() {
    let bench = Bench::new();
    let log = bench.at.join("log.json");
    let out = bench.runtime(&["--log", log.to_str().unwrap(), "--log-format", "json", "state", "nobody"]);
    assert_eq!(out.status.code(), Some(1));
    let line: serde_json::Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!((&line["level"], line["msg"].as_str().unwrap().contains("nobody")), (&json!("error"), true));
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    assert!(ok(bench.runtime(&["--version"])).starts_with("berth-runtime version 0."));
    let features: serde_json::Value = serde_json::from_str(&ok(bench.runtime(&["features"]))).unwrap();
    assert_eq!(features["linux"]["cgroup"]["v1"], true);
    assert_eq!(bench.runtime(&["nonsense"]).status.code(), Some(1));
}

#[test]
fn a_create_that_is_killed_leaves_what_delete_removes() {
    let bench = Bench::new();
    // The hook holds `create` in the middle.
    let ready = bench.at.join("ready");
    let script = format!("touch {}; sleep 100", ready.display());
    bench.config(&["sleep", "1000"], |c| {
        c["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    let id = bench.id();
    let mut child = bench.command(&["create", &id]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = std::time::Instant::now();
    while !ready.exists() {
        assert!(began.elapsed().as_secs() < 10, "the hook never ran");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    bench.wait_for("stopped");
    fails(bench.create(&[]), "already exists");
    ok(bench.runtime(&["delete", &id]));
    assert_eq!(bench.groups(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn terminals_go_to_the_console_socket() {
    use std::io::Read;
    let bench = Bench::new();
    bench.config(&["sh", "-c", "tty; stty size; read line; echo got $line; ls -la /dev/console | head -c1"], |c| {
        c["process"]["terminal"] = json!(true);
        c["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    });
    let socket = bench.at.join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let received = std::thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        let mut fds = Vec::new();
        let connection = std::os::fd::OwnedFd::from(connection);
        berth_sys::socket::receive(std::os::fd::AsFd::as_fd(&connection), &mut [0; 64], &mut fds, true).unwrap();
        std::fs::File::from(fds.pop().expect("the master"))
    });
    ok(bench.create(&["--console-socket", socket.to_str().unwrap()]));
    let mut master = received.join().unwrap();
    ok(bench.runtime(&["start", &bench.id()]));
    let (mut said, mut buffer, mut told) = (String::new(), [0; 1024], false);
    // EIO: the last one who had the terminal open is gone.
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        said.push_str(&text(&buffer[..n]));
        // Not before: the terminal repeats it where it comes.
        if !told && said.contains("33 77\r\n") {
            master.write_all(b"hello\n").unwrap();
            told = true;
        }
    }
    assert!(said.contains("/dev/pts/0\r\n33 77\r\n"), "{said:?}");
    assert!(said.contains("got hello\r\nc"), "{said:?}");
}

#[test]
fn hostile_bundles_stay_inside() {
    let bench = Bench::new();
    let (rootfs, outside) = (bench.bundle().join("rootfs"), bench.at.join("outside"));
    std::fs::create_dir(&outside).unwrap();
    let bind = |target: &str, source: &std::path::Path| json!({"destination": target, "type": "bind", "source": source, "options": ["bind"]});
    let with =
        |mount: serde_json::Value| bench.config(&["true"], move |c| c["mounts"].as_array_mut().unwrap().push(mount));
    // What hides the walls of /proc (CVE-2019-16884, CVE-2023-27561).
    for target in ["/proc/1", "/proc/sys", "/proc", "/proc/self/attr"] {
        with(bind(target, &outside));
        fails(bench.create(&[]), "cannot be covered");
    }
    std::os::unix::fs::symlink("/proc/self", rootfs.join("way")).unwrap();
    with(bind("/way/attr", &outside));
    fails(bench.create(&[]), "mounting");
    // A file of figures may be covered: lxcfs does that.
    let uptime = bench.at.join("uptime");
    std::fs::write(&uptime, "1 2\n").unwrap();
    bench.config(&["cat", "/proc/uptime"], |c| c["mounts"].as_array_mut().unwrap().push(bind("/proc/uptime", &uptime)));
    assert_eq!(ok(bench.run()), "1 2\n");
    // Targets by links that lead out (CVE-2017-1002101's kind).
    std::os::unix::fs::symlink(&outside, rootfs.join("out")).unwrap();
    with(bind("/out/made/deep", &outside));
    ok(bench.run());
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none(), "made outside of the root");
    // A working folder that is the host's (CVE-2024-21626).
    for fd in 3..12 {
        let cwd = format!("/proc/self/fd/{fd}");
        bench.config(&["true"], |c| c["process"]["cwd"] = json!(cwd));
        assert!(!bench.create(&[]).status.success(), "{cwd}");
    }
    bench.config(&["sleep", "100"], |_| {});
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
    for fd in 3..12 {
        let cwd = format!("/proc/self/fd/{fd}");
        assert!(!bench.runtime(&["exec", "--cwd", &cwd, &bench.id(), "true"]).status.success(), "{cwd}");
    }
    ok(bench.runtime(&["delete", "-f", &bench.id()]));
    // /proc that is a link (CVE-2019-19921).
    std::fs::remove_dir(rootfs.join("proc")).unwrap();
    std::os::unix::fs::symlink("/tmp", rootfs.join("proc")).unwrap();
    bench.config(&["true"], |_| {});
    fails(bench.create(&[]), "mounting proc on /proc");
}

#[test]
fn the_program_on_disk_cannot_be_reached_from_inside() {
    let bench = Bench::new();
    bench.config(&["sleep", "1000"], |_| {});
    ok(bench.create(&[]));
    // Until its execve the first process is the runtime: its program is what CVE-2019-5736 overwrites.
    let exe = format!("/proc/{}/exe", bench.state()["pid"]);
    let name = std::fs::read_link(&exe).unwrap().display().to_string();
    assert!(name.starts_with("/memfd:berth-runtime"), "{name}");
    // While it runs, nobody writes to any program: it is kept for later.
    const O_PATH: i32 = 0o10_000_000;
    let kept = std::fs::OpenOptions::new().read(true).custom_flags(O_PATH).open(&exe).unwrap();
    ok(bench.runtime(&["start", &bench.id()]));
    assert!(std::fs::read_link(&exe).unwrap().ends_with("bin/busybox"));
    let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
    let mut late = std::fs::OpenOptions::new().write(true).open(path).expect("it does not run any more");
    let refused = late.write(b"x").expect_err("it is sealed");
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    assert!(late.set_len(0).is_err());
}
