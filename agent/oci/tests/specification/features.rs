//! features.md and features-linux.md: what `features` tells is what the program does, and nothing of it is only told.

use crate::common::{Bench, fails, ok, only_v2, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn features(bench: &Bench) -> Value {
    serde_json::from_str(&ok(bench.runtime(&["features"]))).unwrap()
}

/// The strings of a list, none of them twice.
fn names(of: &Value) -> Vec<String> {
    let all: Vec<String> = of.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
    all
}

fn keys(of: &Value) -> BTreeSet<&str> {
    of.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn versions_and_properties_are_the_specification_s() {
    let bench = Bench::new();
    let told = features(&bench);
    let version = |name: &str| told[name].as_str().unwrap().to_owned();
    let numbers = |name: &str| version(name).split('.').map(|n| n.parse().unwrap()).collect::<Vec<u32>>();
    assert!(numbers("ociVersionMin") <= numbers("ociVersionMax"));
    for name in ["ociVersionMin", "ociVersionMax"] {
        bench.config(&["true"], |c| c["ociVersion"] = json!(version(name)));
        ok(bench.run());
    }
    bench.config(&["true"], |_| {});
    ok(bench.create(&[]));
    assert_eq!(bench.state()["ociVersion"], told["ociVersionMax"]);
    // Those of version 1.2; none of them is null, which would say that it is not known.
    let of_1_2 =
        ["ociVersionMin", "ociVersionMax", "hooks", "mountOptions", "linux", "potentiallyUnsafeConfigAnnotations"];
    assert_eq!(keys(&told), of_1_2.into());
    let of_linux = ["namespaces", "capabilities", "cgroup", "seccomp", "apparmor", "selinux", "intelRdt"];
    assert_eq!(keys(&told["linux"]), of_linux.into_iter().chain(["mountExtensions"]).collect());
    assert_eq!(keys(&told["linux"]["cgroup"]), ["v1", "v2", "systemd", "systemdUser", "rdma"].into());
    let of_seccomp = ["enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags"];
    assert_eq!(keys(&told["linux"]["seccomp"]), of_seccomp.into());
    assert_eq!(keys(&told["linux"]["mountExtensions"]), ["idmap"].into());
}

#[test]
fn hooks_that_are_told_are_called() {
    let bench = Bench::new();
    let told = names(&features(&bench)["hooks"]);
    let log = bench.at.join("log");
    bench.config(&["true"], |c| {
        for kind in &told {
            // This one's world is the container.
            let (path, log) = match kind.as_str() {
                "startContainer" => ("/bin/sh", "/tmp/log".into()),
                _ => ("/bin/sh", log.display().to_string()),
            };
            let hook = json!([{"path": path, "args": ["sh", "-c", format!("echo {kind} >> {log}")]}]);
            c["hooks"][kind] = hook;
        }
    });
    ok(bench.run());
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let called = read(log) + &read(bench.bundle().join("rootfs/tmp/log"));
    let called: BTreeSet<&str> = called.lines().collect();
    assert_eq!(called, told.iter().map(String::as_str).collect());
    let all = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_eq!(called, all.into());
}

#[test]
fn mount_options_that_are_told_are_taken() {
    let bench = Bench::new();
    let told = names(&features(&bench)["mountOptions"]);
    let shared = bench.at.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    let needed: Vec<&str> = super::OPTIONS.iter().map(|(name, _)| *name).collect();
    let needed = needed.into_iter().chain(["bind", "rbind", "remount"]);
    let missing: Vec<&str> = needed.filter(|name| !told.iter().any(|t| t == name)).collect();
    assert!(missing.is_empty(), "must be there, and are not told: {missing:?}");
    let (mut targets, mut last) = (Vec::new(), String::new());
    bench.config(&["cat", "/proc/self/mountinfo"], |c| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        let mut add = |name: &str, kind: &str, more: Value| {
            let target = format!("/m/{kind}-{name}");
            let mut mount = json!({"destination": target, "type": kind, "source": kind});
            mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            mounts.push(mount);
            targets.push(target);
        };
        for name in &told {
            match name.as_str() {
                "bind" | "rbind" => add(name, "none", json!({"source": shared, "options": [name]})),
                "idmap" | "ridmap" => add(
                    name,
                    "none",
                    json!({"source": shared, "options": ["rbind", name], "uidMappings": map, "gidMappings": map}),
                ),
                "tmpcopyup" => add(name, "tmpfs", json!({"options": [name]})),
                "remount" => {
                    add(name, "tmpfs", json!({}));
                    add(name, "tmpfs", json!({"options": [name, "noexec"]}));
                }
                _ => {
                    add(name, "tmpfs", json!({"options": [name]}));
                    // No word is left over for the file system to take: a bind mount has none.
                    add(name, "none", json!({"source": shared, "options": ["bind", name]}));
                }
            }
        }
        last = targets.last().unwrap().clone();
    });
    let said = ok(bench.run());
    for target in &targets {
        assert!(said.contains(&format!(" {target} ")), "{target} is not mounted: {said}");
    }
    let remounted = said.lines().find(|l| l.contains(" /m/tmpfs-remount ")).unwrap();
    assert!(remounted.contains("noexec"), "{remounted}");
    // The check can fail: a word that nobody knows is refused by a bind mount and by tmpfs.
    for (kind, options, says) in [
        ("none", json!(["bind", "nosuch"]), "\"nosuch\" is no option of a bind mount"),
        ("tmpfs", json!(["nosuch"]), "mounting tmpfs on /m"),
    ] {
        bench.config(&["true"], |c| {
            let mount = json!({"destination": "/m", "type": kind, "source": shared, "options": options});
            c["mounts"].as_array_mut().unwrap().push(mount);
        });
        fails(bench.create(&[]), says);
    }
}

#[test]
fn namespaces_that_are_told_are_made() {
    let bench = Bench::new();
    let told = names(&features(&bench)["linux"]["namespaces"]);
    let file = |kind: &str| match kind {
        "network" => "net".to_owned(),
        "mount" => "mnt".to_owned(),
        other => other.to_owned(),
    };
    let script = told.iter().map(|kind| format!("readlink /proc/self/ns/{};", file(kind))).collect::<String>();
    bench.config(&["sh", "-c", &script], |c| {
        c["linux"]["namespaces"] = told.iter().map(|kind| json!({"type": kind})).collect();
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
    });
    let said = ok(bench.run());
    for (kind, inside) in told.iter().zip(said.lines()) {
        let own = std::fs::read_link(format!("/proc/self/ns/{}", file(kind))).unwrap().display().to_string();
        assert!(inside.starts_with(&format!("{}:[", file(kind))) && inside != own, "{kind}: {inside}");
    }
    let all = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
    assert_eq!(told.iter().map(String::as_str).collect::<BTreeSet<_>>(), all.into());
}

#[test]
fn capabilities_that_are_told_are_given() {
    let bench = Bench::new();
    let told = names(&features(&bench)["linux"]["capabilities"]);
    let bounding = |status: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    bench.config(&["cat", "/proc/self/status"], |c| c["process"]["capabilities"] = json!({ "bounding": told }));
    let out = bench.run();
    let warned = text(&out.stderr);
    let own = bounding(&std::fs::read_to_string("/proc/self/status").unwrap());
    assert_eq!(bounding(&ok(out)), own, "all that this host has to give");
    // The others it knows, too: they are left out because this host lacks them.
    let lacked = told.len() - own.count_ones() as usize;
    let left_out = warned.split_once("left out: ").map_or(0, |(_, list)| list.split(", ").count());
    assert_eq!(left_out, lacked, "{warned}");
    let last: usize = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    assert!(told.len() > last, "this kernel has {} capabilities", last + 1);
}

#[test]
fn groups_labels_and_extensions_are_as_told() {
    let bench = Bench::new();
    let told = features(&bench)["linux"].clone();
    assert_eq!(told["cgroup"][if only_v2() { "v2" } else { "v1" }], true);
    bench.config(&["sleep", "1000"], |c| c["linux"]["resources"]["pids"] = json!({"limit": 33}));
    ok(bench.create(&[]));
    let limits: Vec<String> =
        bench.groups().iter().filter_map(|g| std::fs::read_to_string(g.join("pids.max")).ok()).collect();
    assert_eq!(limits, ["33\n"]);
    ok(bench.runtime(&["delete", "--force", &bench.id()]));
    assert_eq!((&told["cgroup"]["systemd"], &told["cgroup"]["systemdUser"]), (&json!(true), &json!(false)));
    // A value that is known, to be refused here for what the host lacks: no such profile, label or device is there.
    let refused = |change: &dyn Fn(&mut Value), says: &str| {
        bench.config(&["true"], change);
        // At its start, where the host has such labels.
        let said = text(&bench.run().stderr);
        assert!(said.contains(says) && !said.contains("not supported"), "{said:?} does not say {says:?}");
    };
    for (name, field, value) in
        [("apparmor", "apparmorProfile", "nosuch-profile"), ("selinux", "selinuxLabel", "u:r:t:s0")]
    {
        assert_eq!(told[name]["enabled"], true);
        refused(&|c| c["process"][field] = json!(value), if name == "apparmor" { "pparmor" } else { "elinux" });
    }
    assert_eq!(told["cgroup"]["rdma"], true);
    let rdma = json!({"nosuch0": {"hcaHandles": 1}});
    refused(&|c| c["linux"]["resources"]["rdma"] = rdma.clone(), "linux.resources.rdma");
    assert_eq!(told["intelRdt"]["enabled"], false);
    bench.config(&["true"], |c| c["linux"]["intelRdt"] = json!({"closID": "x"}));
    fails(bench.create(&[]), "linux.intelRdt: is not supported");
    assert_eq!(told["mountExtensions"]["idmap"]["enabled"], true);
    let shared = bench.at.join("shared");
    std::fs::create_dir(&shared).unwrap();
    bench.config(&["stat", "-c", "%u", "/shared"], |c| {
        let map = json!([{"containerID": 0, "hostID": 4242, "size": 1}]);
        let mount = json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["bind"],
            "uidMappings": map, "gidMappings": map});
        c["mounts"].as_array_mut().unwrap().push(mount);
    });
    assert_eq!(ok(bench.run()), "4242\n");
}

/// A profile that allows everything but what its rules say.
fn profile(bench: &Bench, args: &[&str], rules: Value, more: Value) {
    bench.config(args, |c| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
        c["linux"]["seccomp"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    });
}

#[test]
fn seccomp_actions_that_are_told_are_done() {
    let bench = Bench::new();
    let told = names(&features(&bench)["linux"]["seccomp"]["actions"]);
    for action in &told {
        // busybox calls one or the other, by the architecture.
        let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
        if action == "SCMP_ACT_ERRNO" {
            rule["errnoRet"] = json!(99);
        }
        profile(&bench, &["sh", "-c", "mkdir /tmp/d; echo $?"], json!([rule]), json!({}));
        let out = bench.run();
        let (code, why) = (text(&out.stdout), text(&out.stderr));
        let made = bench.bundle().join("rootfs/tmp/d");
        let is_made = std::fs::remove_dir(made).is_ok();
        let (wanted, word) = match action.as_str() {
            "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" => ("0\n", ""),
            "SCMP_ACT_ERRNO" => ("1\n", "Cannot assign requested address"),
            // Without a tracer (seccomp(2)).
            "SCMP_ACT_TRACE" => ("1\n", "Function not implemented"),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_PROCESS" | "SCMP_ACT_KILL_THREAD" | "SCMP_ACT_TRAP" => ("159\n", ""),
            other => panic!("{other} is told, and not tried here"),
        };
        assert_eq!((&*code, is_made), (wanted, wanted == "0\n"), "{action}: {why}");
        assert!(why.contains(word), "{action}: {why}");
    }
    assert_eq!(told.len(), 8);
}

#[test]
fn seccomp_operators_that_are_told_compare() {
    let bench = Bench::new();
    let told = names(&features(&bench)["linux"]["seccomp"]["operators"]);
    // To the first process of a namespace by itself, signals mean nothing.
    let signals = [5, 10, 15, 20];
    let script = signals.map(|s| format!("kill -{s} 1 2>/dev/null || echo {s};")).concat();
    for operator in &told {
        let refused = |signal: u64| match operator.as_str() {
            "SCMP_CMP_EQ" => signal == 10,
            "SCMP_CMP_NE" => signal != 10,
            "SCMP_CMP_LT" => signal < 10,
            "SCMP_CMP_LE" => signal <= 10,
            "SCMP_CMP_GT" => signal > 10,
            "SCMP_CMP_GE" => signal >= 10,
            // The mask, and what it leaves.
            "SCMP_CMP_MASKED_EQ" => signal & 10 == 10,
            other => panic!("{other} is told, and not tried here"),
        };
        let argument = json!({"index": 1, "value": 10, "valueTwo": 10, "op": operator});
        let rule = json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [argument]});
        profile(&bench, &["sh", "-c", &script], json!([rule]), json!({}));
        let said: Vec<u64> = ok(bench.run()).lines().map(|l| l.parse().unwrap()).collect();
        assert_eq!(said, signals.into_iter().filter(|s| refused(*s)).collect::<Vec<_>>(), "{operator}");
    }
    assert_eq!(told.len(), 7);
}

#[test]
fn seccomp_archs_and_flags_that_are_told_are_taken() {
    let bench = Bench::new();
    let told = features(&bench)["linux"]["seccomp"].clone();
    assert_eq!(told["enabled"], true);
    let rule = json!([{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}]);
    let runs = |more: Value| {
        profile(&bench, &["grep", "Seccomp:", "/proc/self/status"], rule.clone(), more);
        assert_eq!(ok(bench.run()), "Seccomp:\t2\n");
    };
    let archs = names(&told["archs"]);
    assert!(archs.contains(&format!("SCMP_ARCH_{}", std::env::consts::ARCH.to_uppercase())), "{archs:?}");
    runs(json!({ "architectures": archs }));
    for flag in names(&told["knownFlags"]) {
        assert!(names(&told["supportedFlags"]).contains(&flag), "{flag} is known, and not supported");
    }
    runs(json!({ "flags": told["supportedFlags"] }));
    for (key, value) in [("architectures", "SCMP_ARCH_NOSUCH"), ("flags", "SECCOMP_FILTER_FLAG_NOSUCH")] {
        profile(&bench, &["true"], rule.clone(), json!({ key: [value] }));
        fails(bench.create(&[]), value);
    }
}
