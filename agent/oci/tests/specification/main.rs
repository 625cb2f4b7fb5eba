//! What the OCI runtime specification 1.2 demands of a runtime's command line with "MUST", one test for each group of sentences that
//! lifecycle.rs does not hold already, with real containers.
//!
//! | document and section | what MUST be | test |
//! |---|---|---|
//! | runtime.md, State | the state's members, an id that is the host's only one | lifecycle::a_life_from_create_to_delete |
//! | runtime.md, Lifecycle 2 | everything is made but the program, later changes of config.json do not count | lifecycle::a_life_from_create_to_delete |
//! | runtime.md, Lifecycle 3 to 9 | the hooks are called, in this order, and one that fails ends the container | lifecycle::hooks_run_in_their_order_and_places, lifecycle::a_hook_that_fails_ends_the_container |
//! | runtime.md, Lifecycle 12, 13 | undone, then poststop, whose failure is a warning | lifecycle::hooks_run_in_their_order_and_places |
//! | runtime.md, Errors | nothing is left of what failed | lifecycle::what_cannot_be_made_leaves_nothing |
//! | runtime.md, Warnings | it goes on | capabilities_that_cannot_be_had_are_a_warning |
//! | runtime.md, Operations | an id (and a bundle) is needed, one that is taken or bad is refused | operations_need_what_they_work_on |
//! | runtime.md, Query State | of no container is an error | lifecycle::a_life_from_create_to_delete |
//! | runtime.md, Create | a property that cannot be applied is an error, and there is no container | values_that_cannot_be_had_are_errors |
//! | runtime.md, Start | of one that is not created: an error without effect; process is needed | lifecycle::a_life_from_create_to_delete, operations_need_what_they_work_on |
//! | runtime.md, Kill | exactly this signal to the process, created or running; else an error | signals_arrive_as_they_were_sent |
//! | runtime.md, Delete | only when stopped; what create made, and nothing else | lifecycle::a_life_from_create_to_delete, delete_removes_what_create_made_alone |
//! | config.md, Specification version | semantic versioning | values_that_cannot_be_had_are_errors |
//! | config.md, Root | path is a folder; readonly holds | values_that_cannot_be_had_are_errors, lifecycle::mounts_devices_and_walls |
//! | config.md, Mounts | in their order; relative targets from / | mounts_come_in_their_order |
//! | config.md, Linux mount options | those of the table | every_mount_option_that_must_be |
//! | config.md, idmap | both mappings; an error where it has none | values_that_cannot_be_had_are_errors, lifecycle::a_user_namespace_of_its_own |
//! | config.md, Process | consoleSize without a terminal is ignored; cwd is absolute | the_process_beside_its_rights, values_that_cannot_be_had_are_errors |
//! | config.md, rlimits | both values as configured; unknown or twice is an error | the_process_beside_its_rights, values_that_cannot_be_had_are_errors |
//! | config.md, capabilities | what cannot be granted is a warning | capabilities_that_cannot_be_had_are_a_warning |
//! | config.md, oomScoreAdj | set, or left alone | lifecycle::the_process_is_as_config_json_says, the_process_beside_its_rights |
//! | config.md, Hooks | absolute paths, times above 0, in the listed order, in their namespaces, with the state on standard input | hooks_see_the_namespaces_that_are_theirs, values_that_cannot_be_had_are_errors |
//! | config.md, startContainer, poststart, poststop | before the program; behind it, before start returns; behind the end, before delete returns | hooks_see_the_namespaces_that_are_theirs |
//! | config.md, Annotations, Extensibility | strings by strings; unknown properties are ignored, bad values are errors | unknown_properties_are_ignored, values_that_cannot_be_had_are_errors |
//! | config-linux.md, Namespaces | joined by an absolute path of the right type, made without, inherited when not named, never twice | lifecycle::namespaces_new_and_joined, values_that_cannot_be_had_are_errors |
//! | config-linux.md, Devices | there, or an error where another file is; the default ones; /dev/ptmx | devices_are_there_or_it_is_an_error, lifecycle::mounts_devices_and_walls |
//! | config-linux.md, Cgroups path | absolute from the hierarchies' roots; the same value is the same place | cgroups::the_cgroup_is_where_its_path_says |
//! | config-linux.md, Cgroup ownership | delegated files that are not there do not fail it | cgroups::delegated_groups_belong_to_the_container_s_root |
//! | config-linux.md, Device list | in the listed order | cgroups::device_rules_hold_in_their_order |
//! | config-linux.md, Memory | checkBeforeUpdate refuses what is below the use | cgroups::limits_below_the_use_are_refused_when_that_is_asked |
//! | config-linux.md, Unified | written as they are; an error without the controller | cgroups::raw_keys_are_written_or_refused |
//! | config-linux.md, Seccomp | no errno where the action has none; names for each rule | values_that_cannot_be_had_are_errors |
//! | config-linux.md, Masked and Readonly Paths | absolute | values_that_cannot_be_had_are_errors |
//! | config-linux.md, Intel RDT, net devices, memory policy, seccomp's listener | not supported: an error that names them, and resctrl is not touched | values_that_cannot_be_had_are_errors |
//! | runtime-linux.md | links in /dev, no descriptors but the standard streams | the_process_beside_its_rights, lifecycle::exec_joins_what_the_container_has |

mod cgroups;
#[path = "../common/mod.rs"]
mod common;
mod features;

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
        ("/mounts/-", bind(json!({"options": ["bind", "remount"]})), "remount"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/rlimits", json!([{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]), "RLIMIT_NOSUCH"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 2, "hard": 2}]),
            "twice",
        ),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), "above the hard limit"),
        ("/process/oomScoreAdj", json!(1001), "oomScoreAdj"),
        ("/process/user", json!({"uid": 4_294_967_295_u32, "gid": 0}), "process.user.uid"),
        ("/process/user", json!({"uid": 0, "gid": 2_147_483_648_u32}), "process.user.gid"),
        (
            "/process/user",
            json!({"uid": 0, "gid": 0, "additionalGids": [4_294_967_295_u32]}),
            "process.user.additionalGids",
        ),
        ("/hooks", hook(json!({"path": "bin/true"})), "must be an absolute path"),
        ("/hooks", hook(json!({"timeout": 0})), "must be above 0"),
        ("/hooks", hook(json!({"timeout": -1})), "must be above 0"),
        ("/annotations", json!({"a": 1}), "config.json"),
        ("/annotations", json!({"": "a"}), "annotations"),
        ("/hostname", json!(7), "config.json"),
        ("/linux/namespaces/-", json!({"type": "pid"}), "twice"),
        ("/linux/namespaces/-", json!({"type": "nosuch"}), "nosuch"),
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
