//! `inspect` as Docker's Engine API writes it, for scripts and templates that were written for Docker.

use super::{bindings, inspect_container, inspect_image, strings};
use berth::v1::{self, ContainerState};
use serde_json::{Map, Value, json};

/// ContainerInspect.
pub fn container(r: &v1::InspectContainerResponse) -> Value {
    let mut value = inspect_container(r);
    let s = r.summary.clone().unwrap_or_default();
    let c = r.config.clone().unwrap_or_default();
    take_out(&mut value, &["Warnings", "UpperDir", "CgroupPaths"]);
    take_out(
        &mut value["State"],
        &[
            "Signal",
            "Reason",
            "Cause",
            "EndedBy",
            "OOMCgroup",
            "OOMLimit",
            "StartFailure",
            "StartCount",
            "ShimPid",
            "NextStart",
            "StoppedByCaller",
        ],
    );
    value["Name"] = format!("/{}", s.name).into();
    value["Driver"] = "overlayfs".into();
    value["Platform"] = "linux".into();
    value["GraphDriver"] = json!({"Name": "overlayfs", "Data": {"UpperDir": r.upper_path}});
    for (key, empty) in [
        ("ResolvConfPath", json!("")),
        ("HostnamePath", json!("")),
        ("HostsPath", json!("")),
        ("AppArmorProfile", c.apparmor.as_str().into()),
        ("ExecIDs", Value::Null),
    ] {
        value[key] = empty;
    }
    fill(
        &mut value["State"],
        json!({"Dead": s.state() == ContainerState::Removing, "Paused": false, "Restarting": false}),
    );
    value["State"]["Status"] = match s.state() {
        // Docker has no word for what is not yet what it will be.
        ContainerState::Creating | ContainerState::Starting => "created".into(),
        other => super::state_word(other).into(),
    };
    config(&mut value["Config"], &c, &s);
    host_config(&mut value["HostConfig"], &c);
    network_settings(&mut value["NetworkSettings"], r, &c, &s);
    if let Value::Array(mounts) = &mut value["Mounts"] {
        for mount in mounts {
            let letter = mount["Relabel"].as_str().map(str::to_owned);
            take_out(mount, &["SizeBytes", "Anonymous", "Relabel"]);
            let read_only = (mount["RW"] != true).then(|| "ro".to_owned());
            let mode = read_only.into_iter().chain(letter).collect::<Vec<_>>().join(",");
            fill(mount, json!({"Mode": mode, "Source": "", "Propagation": ""}));
        }
    }
    value
}

fn config(value: &mut Value, c: &v1::ContainerConfig, s: &v1::ContainerSummary) {
    take_out(value, &["Annotations"]);
    // What runs, where the request left it to the image.
    if c.command.is_empty() {
        let skip = c.entrypoint.as_ref().map_or(0, |e| e.values.len());
        value["Cmd"] = s.command.get(skip..).unwrap_or_default().into();
    }
    if c.hostname.is_empty() {
        value["Hostname"] = s.id.get(..12).unwrap_or(&s.id).into();
    }
    let ports: Map<String, Value> = bindings(&c.ports).into_iter().map(|(port, _)| (port, json!({}))).collect();
    let attached = !c.stdin_once || c.tty;
    fill(
        value,
        json!({
            "AttachStdin": c.stdin_once, "AttachStdout": attached, "AttachStderr": attached, "ExposedPorts": ports,
            "Volumes": Value::Null, "OnBuild": Value::Null,
        }),
    );
}

fn host_config(value: &mut Value, c: &v1::ContainerConfig) {
    let mut security = Vec::new();
    if c.no_new_privileges() {
        security.push("no-new-privileges".to_owned());
    }
    if c.writable_cgroups {
        security.push("writable-cgroups=true".to_owned());
    }
    if !c.seccomp.is_empty() {
        security.push(format!("seccomp={}", c.seccomp));
    }
    if !c.apparmor.is_empty() {
        security.push(format!("apparmor={}", c.apparmor));
    }
    security.extend(super::state::label_options(c).into_iter().map(|word| format!("label={word}")));
    if let Some(landlock) = c.landlock {
        security.push(format!("landlock={}", if landlock { "on" } else { "off" }));
    }
    let list = |items: &[String]| if items.is_empty() { Value::Null } else { items.into() };
    let (mut binds, mut tmpfs) = (Vec::new(), Map::new());
    for m in &c.mounts {
        let words: Vec<&str> = m.read_only.then_some("ro").into_iter().chain(super::state::relabel(m)).collect();
        let options = if words.is_empty() { String::new() } else { format!(":{}", words.join(",")) };
        match &m.kind {
            Some(v1::mount::Kind::Bind(b)) => {
                binds.push(format!("{}:{}{options}", b.source, m.target));
            }
            Some(v1::mount::Kind::Tmpfs(t)) => {
                let size = if t.size_bytes == 0 { String::new() } else { format!("size={}", t.size_bytes) };
                tmpfs.insert(m.target.clone(), size.into());
            }
            Some(v1::mount::Kind::Volume(v)) if !v.anonymous => {
                binds.push(format!("{}:{}{options}", v.name, m.target));
            }
            Some(v1::mount::Kind::Volume(_) | v1::mount::Kind::Image(_)) => {}
            None => {}
        }
    }
    let log = c.log.clone().unwrap_or_default();
    let mut options = Map::new();
    if log.max_file_bytes > 0 {
        options.insert("max-size".into(), log.max_file_bytes.to_string().into());
    }
    if log.max_files > 0 {
        options.insert("max-file".into(), log.max_files.to_string().into());
    }
    take_out(value, &["NoNewPrivileges", "Seccomp", "AppArmor", "Label", "Landlock"]);
    value["SecurityOpt"] = list(&security);
    value["CapAdd"] = list(&c.cap_add);
    value["CapDrop"] = list(&c.cap_drop);
    value["GroupAdd"] = list(&c.groups);
    value["OomScoreAdj"] = c.oom_score_adj.unwrap_or_default().into();
    value["PidsLimit"] = c.resources.as_ref().and_then(|r| r.pids).map_or(Value::Null, Value::from);
    value["PortBindings"] = bindings(&c.ports).into();
    value["Binds"] = list(&binds);
    value["Tmpfs"] = tmpfs.into();
    value["LogConfig"] = json!({"Type": "local", "Config": options});
    value["Runtime"] = if c.runtime.is_empty() { "berth".into() } else { c.runtime.as_str().into() };
    if value["ShmSize"] == 0 {
        value["ShmSize"] = (64 << 20).into();
    }
    fill(
        value,
        json!({
            "ContainerIDFile": "", "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "VolumeDriver": "", "VolumesFrom": Value::Null,
            "CgroupnsMode": "private", "Cgroup": "", "Links": Value::Null, "UsernsMode": "",
            "Isolation": "", "OomKillDisable": Value::Null, "CpuQuota": 0, "CpuPeriod": 0,
        }),
    );
}

fn network_settings(
    value: &mut Value,
    r: &v1::InspectContainerResponse,
    c: &v1::ContainerConfig,
    s: &v1::ContainerSummary,
) {
    take_out(value, &["HostInterface"]);
    let n = r.network.clone().unwrap_or_default();
    let ports = if r.network.is_some() { bindings(&s.ports) } else { Map::new() };
    value["Ports"] = ports.into();
    value["Bridge"] = "".into();
    let mut networks = Map::new();
    for n in &r.networks {
        let asked = c.networks.iter().find(|e| e.network == n.network).cloned().unwrap_or_default();
        networks.insert(n.network.clone(), endpoint(n, &asked));
    }
    // What it joins when it starts, or stands alone with; as Docker, without addresses.
    for name in s.networks.iter().filter(|name| !name.starts_with("container:")) {
        if !networks.contains_key(name) {
            let asked = c.networks.iter().find(|e| e.network == *name).cloned().unwrap_or_default();
            networks.insert(name.clone(), endpoint(&v1::ContainerNetwork::default(), &asked));
        }
    }
    fill(
        value,
        json!({
            "SandboxID": "", "SandboxKey": "", "EndpointID": n.host_interface, "GlobalIPv6Address": n.ipv6_address,
            "GlobalIPv6PrefixLen": n.ipv6_prefix_length, "IPv6Gateway": n.ipv6_gateway, "Networks": networks,
        }),
    );
}

/// EndpointSettings.
fn endpoint(n: &v1::ContainerNetwork, asked: &v1::Endpoint) -> Value {
    let chosen = !asked.ipv4_address.is_empty() || !asked.ipv6_address.is_empty();
    let ipam = chosen.then(|| {
        let mut ipam = Map::new();
        for (key, address) in [("IPv4Address", &asked.ipv4_address), ("IPv6Address", &asked.ipv6_address)] {
            if !address.is_empty() {
                ipam.insert(key.to_owned(), address.as_str().into());
            }
        }
        Value::from(ipam)
    });
    let aliases = if asked.aliases.is_empty() { &n.aliases } else { &asked.aliases };
    let value = json!({
        "IPAMConfig": ipam, "Links": Value::Null, "Aliases": (!aliases.is_empty()).then_some(aliases), "MacAddress": n.mac_address,
        "NetworkID": if n.network_id.is_empty() { &n.bridge } else { &n.network_id }, "EndpointID": n.host_interface, "Gateway": n.gateway,
        "IPAddress": n.ip_address, "IPPrefixLen": n.prefix_length, "IPv6Gateway": n.ipv6_gateway, "GwPriority": asked.gw_priority,
        "GlobalIPv6Address": n.ipv6_address, "GlobalIPv6PrefixLen": n.ipv6_prefix_length, "DriverOpts": Value::Null, "DNSNames": Value::Null,
    });
    super::network::with_cni(value, "CNIResult", &n.cni_result)
}

/// ImageInspect.
pub fn image(r: &v1::InspectImageResponse) -> Value {
    let mut value = inspect_image(r);
    let s = r.summary.clone().unwrap_or_default();
    let familiar = |name: &String| name.parse::<berth_model::Reference>().map_or(name.clone(), |r| r.familiar());
    let diff_ids: Vec<&str> = r.layers.iter().map(|l| l.diff_id.as_str()).collect();
    take_out(&mut value, &["ManifestDigest", "Pulled", "Containers", "Annotations", "Layers", "History"]);
    value["RepoTags"] = s.tags.iter().map(familiar).collect();
    value["RepoDigests"] = s.digests.iter().map(familiar).collect();
    fill(
        &mut value,
        json!({
            "Parent": "", "Comment": "", "DockerVersion": "", "GraphDriver": {"Name": "overlayfs", "Data": Value::Null},
            "RootFS": {"Type": "layers", "Layers": diff_ids}, "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
        }),
    );
    let config = &mut value["Config"];
    config["Labels"] = strings(&s.labels);
    for key in ["Entrypoint", "Cmd", "Env"] {
        if config[key].as_array().is_some_and(Vec::is_empty) {
            config[key] = Value::Null;
        }
    }
    value
}

/// Docker's object with ours over it: a template finds what Docker has, and what we have beside it.
pub fn beneath(ours: Value, docker: Value) -> Value {
    match (ours, docker) {
        (Value::Object(mut ours), Value::Object(docker)) => {
            for (key, theirs) in docker {
                let merged = match ours.remove(&key) {
                    Some(own) => beneath(own, theirs),
                    None => theirs,
                };
                ours.insert(key, merged);
            }
            Value::Object(ours)
        }
        (ours, _) => ours,
    }
}

fn take_out(value: &mut Value, keys: &[&str]) {
    if let Value::Object(map) = value {
        map.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

/// Adds what is not there.
fn fill(value: &mut Value, more: Value) {
    if let (Value::Object(map), Value::Object(more)) = (value, more) {
        for (key, value) in more {
            map.entry(key).or_insert(value);
        }
    }
}
