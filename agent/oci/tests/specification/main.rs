//! What the OCI runtime specification 1.2 demands of a runtime's command line with "MUST" and lifecycle.rs does not hold already, with real
//! containers. specification.md is the table of all of it.

mod cgroups;
#[path = "../common/mod.rs"]
mod common;
mod features;
mod table;

use common::{Bench, fails, ok, only_v2, text};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn operations_need_what_they_work_on() {
    let bench = Bench::new();
    for command in ["state", "create", "start", "kill", "delete"] {
        let out = bench.runtime(&[command]);
        assert_eq!(out.status.code(), Some(1), "{command}: {}", text(&out.stdout));
    }
    fails(bench.runtime(&["create", "--bundle", "/nonexistent", &bench.id()]), "/nonexistent");
    bench.config(&["true"], |_| {});
    for id in ["", "a/b", "..", "a b", "ü"] {
        fails(bench.runtime(&["create", id]), "container id");
    }
    assert_eq!(ok(bench.runtime(&["list", "-q"])), "");
    bench.config(&["true"], |c| drop(c.as_object_mut().unwrap().remove("process")));
    fails(bench.create(&[]), "process");
    assert_eq!(ok(bench.runtime(&["list", "-q"])), "");
}

#[test]
fn values_that_cannot_be_had_are_errors() {
    let bench = Bench::new();
    let set = |path: &str, value: Value| {
        let change = |c: &mut Value| {
            *c.pointer_mut(path.rsplit_once('/').unwrap().0)
                .and_then(|p| match path.rsplit('/').next().unwrap() {
                    "-" => p.as_array_mut().map(|a| {
                        a.push(Value::Null);
                        a.last_mut().unwrap()
                    }),
                    key => p.as_object_mut().map(|o| o.entry(key).or_insert(Value::Null)),
                })
                .unwrap() = value;
        };
        bench.config(&["true"], change);
        bench.create(&[])
    };
    let hook = |more: Value| {
        let mut hook = json!({"path": "/bin/true"});
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"prestart": [hook]})
    };
    let rule = |more: Value| {
        let mut rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    };
    let mapping = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let bind = |more: Value| {
        let mut mount = json!({"destination": "/x", "type": "bind", "source": "/tmp", "options": ["bind"]});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mount
    };
    for (path, value, says) in [
        ("/ociVersion", json!("1.2"), "ociVersion"),
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/root/path", json!("nosuch"), "root.path"),
        ("/mounts/-", json!({"destination": "/x", "type": "nosuchfs", "source": "x"}), "nosuchfs"),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "tmpfs", "source": "x", "options": ["nosuchoption"]}),
            "mounting tmpfs on /x",
        ),
        ("/mounts/-", bind(json!({"options": ["bind", "nosuchoption"]})), "nosuchoption"),
        ("/mounts/-", bind(json!({"uidMappings": mapping})), "uidMappings"),
        ("/mounts/-", bind(json!({"gidMappings": mapping})), "uidMappings"),
        ("/mounts/-", bind(json!({"options": ["bind", "idmap"]})), "uidMappings"),
        ("/mounts/-", bind(json!({"options": ["rbind", "ridmap"]})), "uidMappings"),
        ("/mounts/-", bind(json!({"destination": ""})), "mounts[7].destination"),
        ("/mounts/-", bind(json!({"destination": "/a/../../b"})), "mounts[7].destination"),
        ("/mounts/-", bind(json!({"source": ""})), "mounts[7].source"),
        ("/mounts/-", bind(json!({"options": ["bind", "remount"]})), "remount"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/rlimits", json!([{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]), "RLIMIT_NOSUCH"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 2, "hard": 2}]),
            "twice",
        ),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), "above the hard limit"),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 1}]), "missing field `hard`"),
        ("/process/oomScoreAdj", json!(1001), "oomScoreAdj"),
        ("/process/args", json!([]), "process.args"),
        ("/process/scheduler", json!({"policy": "SCHED_BATCH"}), "process.scheduler"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 1}), "process.ioPriority"),
        ("/process/execCPUAffinity", json!({"initial": "0"}), "process.execCPUAffinity"),
        ("/process/user", json!({"uid": 4_294_967_295_u32, "gid": 0}), "process.user.uid"),
        ("/process/user", json!({"uid": 0, "gid": 2_147_483_648_u32}), "process.user.gid"),
        (
            "/process/user",
            json!({"uid": 0, "gid": 0, "additionalGids": [4_294_967_295_u32]}),
            "process.user.additionalGids",
        ),
        ("/hooks", hook(json!({"path": "bin/true"})), "must be an absolute path"),
        ("/hooks", json!({"poststop": [{"args": ["true"]}]}), "hooks.poststop[0].path"),
        ("/hooks", hook(json!({"timeout": 0})), "must be above 0"),
        ("/hooks", hook(json!({"timeout": -1})), "must be above 0"),
        ("/annotations", json!({"a": 1}), "config.json"),
        ("/annotations", json!({"": "a"}), "annotations"),
        ("/hostname", json!(7), "config.json"),
        ("/linux/namespaces/-", json!({"type": "pid"}), "twice"),
        ("/linux/namespaces/-", json!({"type": "nosuch"}), "nosuch"),
        ("/linux/namespaces/-", json!({"path": "/proc/self/ns/net"}), "missing field `type`"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces[mount]"),
        ("/linux/namespaces/-", json!({"type": "time", "path": "relative"}), "no absolute path"),
        ("/linux/namespaces/-", json!({"type": "time", "path": "/proc/self/ns/net"}), "joining /proc/self/ns/net"),
        ("/linux/namespaces/-", json!({"type": "user"}), "uidMappings"),
        ("/linux/devices", json!([{"type": "x", "path": "/dev/x", "major": 1, "minor": 3}]), "linux.devices[0].type"),
        ("/linux/cgroupsPath", json!("/"), "linux.cgroupsPath"),
        ("/linux/cgroupsPath", json!("/a/../../b"), "linux.cgroupsPath"),
        ("/linux/cgroupsPath", json!("a.slice:b:c"), "systemd"),
        ("/linux/sysctl", json!({"kernel.panic": "1"}), "would change the host"),
        ("/linux/seccomp", rule(json!({"action": "SCMP_ACT_ALLOW", "errnoRet": 1})), "errnoRet"),
        ("/linux/seccomp", rule(json!({"names": []})), "names"),
        ("/linux/seccomp", rule(json!({"args": [{"index": 1, "value": 1}]})), "missing field `op`"),
        ("/linux/seccomp", json!({"syscalls": []}), "missing field `defaultAction`"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}),
            "linux.seccomp.listenerPath",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "linux.seccomp.listener",
        ),
        ("/linux/seccomp", rule(json!({"action": "SCMP_ACT_NOSUCH"})), "SCMP_ACT_NOSUCH"),
        ("/linux/seccomp", rule(json!({"action": "SCMP_ACT_NOTIFY"})), "SCMP_ACT_NOTIFY"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}), "rrnoRet"),
        ("/linux/maskedPaths", json!(["proc/keys"]), "linux.maskedPaths"),
        ("/linux/readonlyPaths", json!(["proc/sys"]), "linux.readonlyPaths"),
        ("/linux/rootfsPropagation", json!("nosuch"), "linux.rootfsPropagation"),
        ("/linux/personality", json!({"domain": "NOSUCH"}), "linux.personality"),
        ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy"),
        ("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}), "linux.timeOffsets"),
        ("/linux/uidMappings", json!([{"containerID": 0, "size": 1}]), "missing field `hostID`"),
        ("/linux/resources/pids", json!({}), "missing field `limit`"),
        ("/linux/resources/cpu", json!({"quota": 10000, "period": 100_000, "burst": 20000}), "linux.resources.cpu"),
        ("/linux/resources/memory", json!({"limit": 100_000_000, "swap": 50_000_000}), "linux.resources.memory.swap"),
        (
            "/linux/resources/blockIO",
            json!({"weightDevice": [{"major": 8, "minor": 0}]}),
            "linux.resources.blockIO.weightDevice[0]: needs",
        ),
        ("/linux/resources/rdma", json!({"mlx5_0": {}}), "linux.resources.rdma.mlx5_0: needs"),
        ("/linux/resources/rdma", json!({"nosuch0": {"hcaHandles": 1}}), "linux.resources.rdma"),
        ("/linux/resources/cpu", json!({"cpus": "9999"}), "linux.resources.cpu.cpus"),
    ] {
        let out = set(path, value.clone());
        let said = text(&out.stderr);
        assert!(
            !out.status.success() && said.contains(says),
            "{path} = {value}: {}: {said:?} does not say {says:?}",
            out.status
        );
        assert_eq!(ok(bench.runtime(&["list", "-q"])), "", "{path} = {value}");
        assert_eq!(bench.groups(), Vec::<std::path::PathBuf>::new(), "{path} = {value}");
    }
}

#[test]
fn config_json_is_text() {
    let bench = Bench::new();
    bench.config(&["hostname"], |_| {});
    let path = bench.bundle().join("config.json");
    let good = std::fs::read_to_string(&path).unwrap();
    // The last one of two counts, as for runc.
    std::fs::write(&path, good.replacen('{', "{\"hostname\": \"first\", ", 1)).unwrap();
    assert_eq!(ok(bench.run()), "berth\n");
    let mut bytes = good.clone().into_bytes();
    bytes[good.find("berth").unwrap()] = 0xff;
    for (bad, says) in [(bytes, "valid UTF-8"), (b"{".to_vec(), "EOF"), (b"[]".to_vec(), "no JSON object")] {
        std::fs::write(&path, bad).unwrap();
        fails(bench.create(&[]), says);
    }
}

#[test]
fn unknown_properties_are_ignored() {
    let bench = Bench::new();
    bench.config(&["echo", "ran"], |c| {
        c["nosuch"] = json!({"a": [1]});
        c["linux"]["nosuch"] = json!(true);
        c["process"]["nosuch"] = json!("x");
        c["annotations"] = json!({"org.example.unknown": "value"});
    });
    assert_eq!(ok(bench.run()), "ran\n");
}

#[test]
fn signals_arrive_as_they_were_sent() {
    let bench = Bench::new();
    bench.config(
        &["sh", "-c", "trap 'echo usr1' USR1; trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done"],
        |_| {},
    );
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
    let until = |end: &str| {
        let began = std::time::Instant::now();
        while !bench.output().ends_with(end) {
            assert!(began.elapsed().as_secs() < 20, "never {end:?}: {:?}", bench.output());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    until("ready\n");
    for (signal, said) in [("USR1", "ready\nusr1\n"), ("SIGHUP", "usr1\nhup\n"), ("10", "hup\nusr1\n")] {
        ok(bench.runtime(&["kill", &bench.id(), signal]));
        until(said);
    }
    fails(bench.runtime(&["kill", &bench.id(), "NOSUCH"]), "NOSUCH");
    assert_eq!(bench.status(), "running");
    ok(bench.runtime(&["delete", "--force", &bench.id()]));
    // Of one that is created, too; its process has no handlers and is the first of its namespace: what it cannot refuse ends it.
    ok(bench.create(&[]));
    ok(bench.runtime(&["kill", &bench.id(), "KILL"]));
    bench.wait_for("stopped");
    fails(bench.runtime(&["kill", &bench.id(), "KILL"]), "not running");
}

#[test]
fn delete_removes_what_create_made_alone() {
    let bench = Bench::new();
    let (shared, namespace) = (bench.at.join("shared"), bench.at.join("netns"));
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "kept").unwrap();
    std::fs::write(&namespace, "").unwrap();
    let bound = Command::new("unshare").arg(format!("--net={}", namespace.display())).arg("true").status().unwrap();
    assert!(bound.success());
    bench.config(&["touch", "/left"], |c| {
        c["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/s", "type": "bind", "source": shared, "options": ["bind"]}));
        for n in c["linux"]["namespaces"].as_array_mut().unwrap().iter_mut().filter(|n| n["type"] == "network") {
            n["path"] = json!(namespace);
        }
    });
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
    bench.wait_for("stopped");
    ok(bench.runtime(&["delete", &bench.id()]));
    let still = Command::new("nsenter").arg(format!("--net={}", namespace.display())).arg("true").status().unwrap();
    assert!(Command::new("umount").arg(&namespace).status().unwrap().success());
    assert!(still.success(), "the namespace is gone");
    assert_eq!(std::fs::read_to_string(shared.join("file")).unwrap(), "kept");
    assert!(bench.bundle().join("rootfs/left").exists() && bench.bundle().join("config.json").exists());
    assert_eq!(bench.groups(), Vec::<std::path::PathBuf>::new());
    assert!(!bench.state_folder().join(bench.id()).exists());
}

#[test]
fn mounts_come_in_their_order() {
    let bench = Bench::new();
    let tmpfs = |target: &str, mode: &str| json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": [format!("mode={mode}")]});
    bench.config(&["sh", "-c", "stat -c %a /a /a/b /rel; ls /later; grep -c ' /later ' /proc/self/mountinfo"], |c| {
        let one = bench.at.join("one");
        std::fs::create_dir_all(one.join("inside")).unwrap();
        let more = [
            tmpfs("/a", "711"),
            tmpfs("/a/b", "722"),
            tmpfs("rel", "733"),
            tmpfs("/later", "755"),
            // Over the one before.
            json!({"destination": "/later", "type": "bind", "source": one, "options": ["rbind"]}),
        ];
        c["mounts"].as_array_mut().unwrap().extend(more);
    });
    assert_eq!(ok(bench.run()), "711\n722\n733\ninside\n2\n");
}

/// Options of the specification's table, and what mountinfo says of them, before the dash (of the mount) or behind it (of the file system);
/// empty: nothing to be seen.
const OPTIONS: [(&str, &str); 34] = [
    ("async", "!sync"),
    ("atime", "!noatime"),
    ("defaults", "rw"),
    ("dev", "!nodev"),
    ("diratime", "!nodiratime"),
    ("dirsync", "dirsync"),
    ("exec", "!noexec"),
    ("iversion", ""),
    ("lazytime", "lazytime"),
    ("loud", ""),
    ("noatime", "noatime"),
    ("nodev", "nodev"),
    ("nodiratime", "nodiratime"),
    ("noexec", "noexec"),
    ("noiversion", ""),
    ("nolazytime", "!lazytime"),
    ("norelatime", ""),
    ("nostrictatime", ""),
    ("nosuid", "nosuid"),
    ("relatime", "relatime"),
    ("ro", "ro"),
    ("rw", "rw"),
    ("silent", ""),
    ("strictatime", "!relatime"),
    ("suid", "!nosuid"),
    ("sync", "sync"),
    ("private", "!shared:"),
    ("rprivate", "!shared:"),
    ("shared", "shared:"),
    ("rshared", "shared:"),
    ("slave", "!shared:"),
    ("rslave", "!shared:"),
    ("runbindable", "unbindable"),
    ("unbindable", "unbindable"),
];

#[test]
fn every_mount_option_that_must_be() {
    let bench = Bench::new();
    let shared = bench.at.join("shared");
    std::fs::create_dir(&shared).unwrap();
    bench.config(&["cat", "/proc/self/mountinfo"], |c| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        for (name, _) in OPTIONS {
            mounts.push(json!({"destination": format!("/t/{name}"), "type": "tmpfs", "source": "tmpfs", "options": [name]}));
        }
        for (name, _) in OPTIONS.iter().filter(|(n, _)| !["dirsync", "sync", "lazytime", "iversion"].contains(n)) {
            mounts.push(json!({"destination": format!("/b/{name}"), "type": "none", "source": shared, "options": ["bind", name]}));
        }
        mounts.push(json!({"destination": "/b/rbind", "type": "none", "source": shared, "options": ["rbind"]}));
        mounts.push(json!({"destination": "/t/rw", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro"]}));
        mounts.push(json!({"destination": "/b/rw", "type": "none", "source": shared, "options": ["bind", "remount", "ro", "nosuid"]}));
    });
    let said = ok(bench.run());
    let seen = |target: &str| -> Vec<String> {
        let line =
            said.lines().rfind(|l| l.split(' ').nth(4) == Some(target)).unwrap_or_else(|| panic!("{target}: {said}"));
        let (mount, system) = line.split_once(" - ").unwrap();
        let words = mount.split(' ').skip(5).chain(system.split(' ').skip(2));
        words.flat_map(|w| w.split(',')).map(str::to_owned).collect()
    };
    let holds = |target: &str, wanted: &str| {
        let words = seen(target);
        let has = |w: &str| words.iter().any(|x| x == w || w.ends_with(':') && x.starts_with(w));
        let good = match wanted.strip_prefix('!') {
            Some(unwanted) => !has(unwanted),
            None => wanted.is_empty() || has(wanted),
        };
        assert!(good, "{target}: {words:?}, not {wanted}");
    };
    for (name, wanted) in OPTIONS {
        holds(&format!("/t/{name}"), if name == "rw" { "ro" } else { wanted });
        if !["dirsync", "sync", "lazytime", "iversion"].contains(&name) {
            holds(&format!("/b/{name}"), if name == "rw" { "nosuid" } else { wanted });
        }
    }
    holds("/b/rbind", "rw");
    holds("/b/rw", "ro");
    std::fs::write(shared.join("new"), "").expect("the source stays writable");
    let remount = |options: Value| {
        bench.config(&["true"], |c| {
            let mount = json!({"destination": "/elsewhere", "type": "tmpfs", "source": "tmpfs", "options": options});
            c["mounts"].as_array_mut().unwrap().push(mount);
        });
        fails(bench.create(&[]), "remount");
    };
    // Nothing of this bundle's is there.
    remount(json!(["remount", "ro"]));
    remount(json!(["bind", "remount", "ro"]));
}

#[test]
fn mappings_reach_as_far_as_they_are_told() {
    let bench = Bench::new();
    let (shared, other) = (bench.at.join("shared"), bench.at.join("other"));
    std::fs::create_dir_all(shared.join("below")).unwrap();
    std::fs::create_dir(&other).unwrap();
    let map = json!([{"containerID": 0, "hostID": 4242, "size": 1}]);
    for (option, expected) in [("idmap", "4242\n0\n"), ("ridmap", "4242\n4242\n")] {
        bench.config(&["stat", "-c", "%u", "/s", "/s/below"], |c| {
            let mount = json!({"destination": "/s", "type": "bind", "source": shared, "options": ["rbind", option],
                "uidMappings": map, "gidMappings": map});
            c["mounts"].as_array_mut().unwrap().push(mount);
        });
        // The mount below is in no other's sight.
        let script = format!(
            "mount --bind {} {}/below && exec {} --root {} run {}",
            other.display(),
            shared.display(),
            common::runtime(),
            bench.state_folder().display(),
            bench.id()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).current_dir(bench.bundle()).stdin(Stdio::null());
        assert_eq!(ok(command.output().unwrap()), expected, "{option}");
    }
}

#[test]
fn the_process_beside_its_rights() {
    let bench = Bench::new();
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; cat /proc/self/oom_score_adj; tty; \
        for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; ls /proc/self/fd | tr '\\n' ' '";
    symlink("busybox", bench.bundle().join("rootfs/bin/tr")).unwrap();
    bench.config(&["sh", "-c", script], |c| {
        c["process"]["consoleSize"] = json!({"height": 10, "width": 10});
        c["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 65}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    });
    // With a score of its own, and a descriptor that is none of the container's.
    let shell = format!(
        "echo 321 > /proc/self/oom_score_adj; exec 5</etc/passwd; exec {} --root {} run {}",
        common::runtime(),
        bench.state_folder().display(),
        bench.id()
    );
    let out =
        Command::new("sh").args(["-c", &shell]).current_dir(bench.bundle()).stdin(Stdio::null()).output().unwrap();
    let expected = "64\n65\n0\n321\nnot a tty\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n0 1 2 3 ";
    assert_eq!(ok(out), expected, "3 is ls' own");
}

#[test]
fn capabilities_that_cannot_be_had_are_a_warning() {
    let bench = Bench::new();
    bench.config(&["echo", "ran"], |c| {
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_NOSUCH"));
        }
    });
    let out = bench.run();
    assert!(text(&out.stderr).contains("warning") && text(&out.stderr).contains("CAP_NOSUCH"), "{}", text(&out.stderr));
    assert_eq!(ok(out), "ran\n");
}

#[test]
fn hooks_see_the_namespaces_that_are_theirs() {
    let bench = Bench::new();
    let log = bench.at.join("log");
    // Two of each: the listed order. The host's log is not there inside.
    let outside = |name: &str| -> Value {
        let one = |n: u32| {
            let script = format!(
                "read -r state; echo {name}{n} $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/uts) $(ls -d {} 2>/dev/null) >> {}",
                bench.bundle().display(),
                log.display()
            );
            json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
        };
        json!([one(1), one(2)])
    };
    let inside = |n: u32| {
        let script = format!(
            "read -r state; echo startContainer{n} $(readlink /proc/self/ns/mnt) >> /tmp/log; echo \"$state\" > /tmp/state"
        );
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]})
    };
    let program = "echo program >> /tmp/log; readlink /proc/self/ns/mnt; readlink /proc/self/ns/uts; exec sleep 1000";
    bench.config(&["sh", "-c", program], |c| {
        c["hooks"] = json!({"prestart": outside("prestart"), "createRuntime": outside("createRuntime"),
            "createContainer": outside("createContainer"), "startContainer": [inside(1), inside(2)],
            "poststart": outside("poststart"), "poststop": outside("poststop")});
    });
    let lines = || -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|l| l.split(' ').map(str::to_owned).collect()).collect()
    };
    let names = || lines().into_iter().map(|l| l[0].clone()).collect::<Vec<_>>();
    ok(bench.create(&[]));
    let created =
        ["prestart1", "prestart2", "createRuntime1", "createRuntime2", "createContainer1", "createContainer2"];
    assert_eq!(names(), created);
    let tmp = bench.bundle().join("rootfs/tmp");
    assert!(!tmp.join("log").exists(), "startContainer is start's");
    ok(bench.runtime(&["start", &bench.id()]));
    assert_eq!(names()[6..], ["poststart1", "poststart2"], "before start returns");
    let began = std::time::Instant::now();
    while bench.output().lines().count() < 2 {
        assert!(began.elapsed().as_secs() < 10);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let said = bench.output();
    let own: Vec<&str> = said.lines().collect();
    let order = std::fs::read_to_string(tmp.join("log")).unwrap();
    assert_eq!(order, format!("startContainer1 {0}\nstartContainer2 {0}\nprogram\n", own[0]));
    let state: Value = serde_json::from_str(&std::fs::read_to_string(tmp.join("state")).unwrap()).unwrap();
    assert_eq!((&state["id"], &state["status"]), (&json!(bench.id()), &json!("created")));
    ok(bench.runtime(&["kill", &bench.id(), "KILL"]));
    bench.wait_for("stopped");
    assert_eq!(lines().len(), 8, "poststop is delete's");
    ok(bench.runtime(&["delete", &bench.id()]));
    assert_eq!(names()[8..], ["poststop1", "poststop2"], "before delete returns");
    let host = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    for line in lines() {
        let container = line[0].starts_with("createContainer");
        let wanted = if container { [own[0].to_owned(), own[1].to_owned()] } else { [host("mnt"), host("uts")] };
        assert_eq!(line[1..3], wanted, "{line:?}");
        assert_eq!(line[3], bench.bundle().to_str().unwrap(), "its path resolves where the runtime is: {line:?}");
    }
}

#[test]
fn devices_are_there_or_it_is_an_error() {
    let bench = Bench::new();
    let device = |path: &str| json!([{"type": "c", "path": path, "major": 1, "minor": 5, "fileMode": 0o640, "uid": 5, "gid": 6}]);
    let rootfs = bench.bundle().join("rootfs");
    bench.config(&["stat", "-c", "%F %t:%T %a %u:%g", "/anywhere/zero", "/dev/ptmx"], |c| {
        c["linux"]["devices"] = device("/anywhere/zero")
    });
    assert_eq!(ok(bench.run()), "character special file 1:5 640 5:6\nsymbolic link 0:0 777 0:0\n");
    // The same one is there already, as when the container is run again.
    assert!(ok(bench.run()).starts_with("character special file 1:5"));
    std::fs::remove_file(rootfs.join("anywhere/zero")).unwrap();
    std::fs::write(rootfs.join("anywhere/zero"), "the image's").unwrap();
    fails(bench.create(&[]), "/anywhere/zero");
    assert_eq!(std::fs::read_to_string(rootfs.join("anywhere/zero")).unwrap(), "the image's");
    std::fs::remove_file(rootfs.join("anywhere/zero")).unwrap();
    symlink("/dev/null", rootfs.join("anywhere/zero")).unwrap();
    fails(bench.create(&[]), "/anywhere/zero");
}

#[test]
fn the_default_devices_are_there() {
    let bench = Bench::new();
    let devices = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| format!("/dev/{name}"));
    let stat = ["stat", "-c", "%n %F %t:%T"].into_iter().chain(devices.iter().map(String::as_str));
    bench.config(&stat.collect::<Vec<_>>(), |_| {});
    let expected =
        [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")];
    let expected: String = expected.map(|(name, n)| format!("/dev/{name} character special file {n}\n")).concat();
    assert_eq!(ok(bench.run()), expected);
    // With a terminal the console is its other end, and ptmx makes more of them.
    bench.config(&["sh", "-c", "stat -c '%F' /dev/console; test -c /dev/ptmx && readlink /dev/ptmx"], |c| {
        c["process"]["terminal"] = json!(true);
    });
    let said = ok(bench.run());
    assert_eq!(said.lines().collect::<Vec<_>>(), ["character special file", "pts/ptmx"]);
}
