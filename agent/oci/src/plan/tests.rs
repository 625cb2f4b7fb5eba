use super::*;

fn parsed(text: &str) -> Result<(Plan, Vec<String>), String> {
    let config: Config = crate::config::parse("config.json", text).map_err(|e| e.to_string())?;
    let mut warnings = Vec::new();
    plan(&config, Path::new("/bundle"), "c1", false, &mut warnings).map(|p| (p, warnings)).map_err(|e| e.to_string())
}

fn with(change: impl FnOnce(&mut serde_json::Value)) -> Result<(Plan, Vec<String>), String> {
    let mut value = serde_json::json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "process": { "args": ["sh"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] }
    });
    change(&mut value);
    parsed(&value.to_string())
}

fn refused(field: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let error = with(change).expect_err(field);
    assert!(error.starts_with(field), "{field}: {error}");
}

#[test]
fn a_small_bundle() {
    let (plan, warnings) = with(|_| {}).unwrap();
    assert_eq!((plan.rootfs.to_str(), plan.cgroup.to_str()), (Some("/bundle/rootfs"), Some("berth-runtime/c1")));
    assert_eq!((plan.new, warnings.len(), plan.devices.len()), (NEWNS | NEWPID, 0, 6));
    assert!(plan.fill_dev && !plan.has_user_namespace());
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    use serde_json::json;
    refused("ociVersion", |v| v["ociVersion"] = json!("2.0.0"));
    refused("ociVersion", |v| v["ociVersion"] = json!("one"));
    refused("root", |v| drop(v.as_object_mut().unwrap().remove("root")));
    refused("process", |v| drop(v.as_object_mut().unwrap().remove("process")));
    refused("process.args", |v| v["process"]["args"] = json!([]));
    refused("process.cwd", |v| v["process"]["cwd"] = json!("tmp"));
    refused("process.env", |v| v["process"]["env"] = json!(["A"]));
    refused("process.rlimits", |v| v["process"]["rlimits"] = json!([{"type":"RLIMIT_X","soft":1,"hard":1}]));
    let twice = json!([{"type":"RLIMIT_CORE","soft":1,"hard":1},{"type":"RLIMIT_CORE","soft":1,"hard":1}]);
    refused("process.rlimits", |v| v["process"]["rlimits"] = twice);
    refused("process.oomScoreAdj", |v| v["process"]["oomScoreAdj"] = json!(1001));
    refused("process.scheduler", |v| v["process"]["scheduler"] = json!({"policy":"SCHED_FIFO"}));
    refused("linux.namespaces", |v| v["linux"]["namespaces"] = json!([{"type":"moon"}]));
    let twice = json!([{"type":"mount"},{"type":"pid"},{"type":"pid"}]);
    refused("linux.namespaces[pid]", |v| v["linux"]["namespaces"] = twice);
    refused("linux.namespaces[pid]", |v| {
        v["linux"]["namespaces"] = json!([{"type":"mount"},{"type":"pid","path":"x"}])
    });
    refused("linux.namespaces[mount]", |v| v["linux"]["namespaces"] = json!([]));
    refused("linux.uidMappings", |v| v["linux"]["uidMappings"] = json!([{"containerID":0,"hostID":1,"size":1}]));
    refused("linux.timeOffsets", |v| v["linux"]["timeOffsets"] = json!({"monotonic":{"secs":1}}));
    refused("hostname", |v| v["hostname"] = json!("x"));
    refused("linux.sysctl", |v| v["linux"]["sysctl"] = json!({"kernel.panic":"1"}));
    refused("linux.sysctl", |v| v["linux"]["sysctl"] = json!({"net.ipv4.ip_forward":"1"}));
    refused("linux.sysctl", |v| v["linux"]["sysctl"] = json!({"net/../kernel/panic":"1"}));
    refused("linux.devices[0].type", |v| v["linux"]["devices"] = json!([{"type":"x","path":"/dev/x"}]));
    refused("linux.devices[0].major", |v| v["linux"]["devices"] = json!([{"type":"c","path":"/dev/x","major":-1}]));
    refused("linux.personality.domain", |v| v["linux"]["personality"] = json!({"domain":"BSD"}));
    refused("linux.rootfsPropagation", |v| v["linux"]["rootfsPropagation"] = json!("sideways"));
    refused("linux.intelRdt", |v| v["linux"]["intelRdt"] = json!({}));
    refused("linux.mountLabel", |v| v["linux"]["mountLabel"] = json!("l"));
    refused("linux.cgroupsPath", |v| v["linux"]["cgroupsPath"] = json!("system.slice:a:b"));
    refused("linux.cgroupsPath", |v| v["linux"]["cgroupsPath"] = json!("/../x"));
    refused("linux.cgroupsPath", |v| v["linux"]["cgroupsPath"] = json!("/"));
    refused("linux.maskedPaths", |v| v["linux"]["maskedPaths"] = json!(["proc/x"]));
    refused("linux.seccomp.listenerPath", |v| {
        v["linux"]["seccomp"] = json!({"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"})
    });
    refused("linux.seccomp.flags", |v| v["linux"]["seccomp"] = json!({"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}));
    refused("linux.seccomp", |v| v["linux"]["seccomp"] = json!({"defaultAction":"SCMP_ACT_NOTIFY"}));
    refused("hooks.poststop[0].path", |v| v["hooks"] = json!({"poststop":[{"path":"x"}]}));
    refused("hooks.prestart[0].timeout", |v| v["hooks"] = json!({"prestart":[{"path":"/x","timeout":0}]}));
    for (mount, field) in [
        (json!({"destination":"/","type":"tmpfs"}), "mounts[0].destination"),
        (json!({"destination":"/a/../b","type":"tmpfs"}), "mounts[0].destination"),
        (json!({"destination":"/a"}), "mounts[0].type"),
        (json!({"destination":"/a","type":"bind"}), "mounts[0].source"),
        (json!({"destination":"/a","type":"bind","source":"/b","options":["size=1"]}), "mounts[0].options"),
        (json!({"destination":"/a","type":"proc","options":["tmpcopyup"]}), "mounts[0].options"),
        (json!({"destination":"/a","type":"bind","source":"/b","options":["idmap"]}), "mounts[0].uidMappings"),
    ] {
        refused(field, |v| v["mounts"] = json!([mount]));
    }
}

#[test]
fn options_of_mounts() {
    let one = |options: &[&str]| {
        with(|v| {
            v["mounts"] = serde_json::json!([{"destination":"/a","type":"tmpfs","source":"tmpfs","options":options}]);
        })
        .map(|(p, _)| p.mounts[0].clone())
        .unwrap()
    };
    let mount = one(&["nosuid", "ro", "rw", "size=64k", "mode=755", "rslave", "rro"]);
    assert_eq!((mount.flags, mount.set, mount.clear, mount.set_all), (2, 2, 1, 1));
    assert_eq!((mount.data.as_str(), &mount.propagation[..]), ("size=64k,mode=755", &[0x8_4000][..]));
    let mount = one(&["noatime", "strictatime"]);
    assert_eq!((mount.set & 0x70, mount.clear & 0x70), (0x20, 0x70));
    let mount = one(&["strictatime", "relatime"]);
    assert_eq!((mount.set & 0x70, mount.clear & 0x70), (0, 0x70));
}

#[test]
fn sysctls_of_the_containers_own_namespaces() {
    let (plan, _) = with(|v| {
        v["linux"]["namespaces"] = serde_json::json!([{"type":"mount"},{"type":"network"},{"type":"ipc"}]);
        v["linux"]["sysctl"] =
            serde_json::json!({"net.ipv4.ip_forward":"1","net/ipv4/conf/eth0.1/forwarding":"1","kernel.shmmax":"9"});
    })
    .unwrap();
    let paths: Vec<_> = plan.sysctls.iter().map(|(p, _)| p.as_str()).collect();
    assert_eq!(paths, ["kernel/shmmax", "net/ipv4/ip_forward", "net/ipv4/conf/eth0.1/forwarding"]);
}
