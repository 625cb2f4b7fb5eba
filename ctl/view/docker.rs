//! `inspect` as Docker's Engine API writes it, for scripts and templates that were written for Docker.

use super::{bindings, inspect_container, inspect_image, strings};
use berth::v1::{self, ContainerState};
use serde_json::{Map, Value, json};

/// ContainerInspect.
pub fn container(r: &v1::InspectContainerResponse) -> Value {
    let mut value = inspect_container(r);
    let s = r.summary.clone().unwrap_or_default();
    let c = r.config.clone().unwrap_or_default();
    take_out(&mut value, &["Warnings", "UpperDir", "CgroupPaths", "StorageLimitedBy"]);
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
    let published = bindings(&c.ports).into_iter().map(|(port, _)| port);
    let ports: Map<String, Value> = published.chain(c.expose.iter().cloned()).map(|port| (port, json!({}))).collect();
    let attached = !c.stdin_once || c.tty;
    let unnamed = c.mounts.iter().filter(|m| matches!(&m.kind, Some(v1::mount::Kind::Volume(v)) if v.anonymous));
    let volumes: Map<String, Value> = unnamed.map(|m| (m.target.clone(), json!({}))).collect();
    fill(
        value,
        json!({
            "AttachStdin": c.stdin_once, "AttachStdout": attached, "AttachStderr": attached, "ExposedPorts": ports,
            "Volumes": (!volumes.is_empty()).then_some(volumes), "OnBuild": Value::Null,
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
    let (binds, mounts, tmpfs) = mounts(&c.mounts);
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
    value["Mounts"] = if mounts.is_empty() { Value::Null } else { mounts.into() };
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

/// Binds, Mounts and Tmpfs of HostConfig: what -v says, what only --mount says, and what --tmpfs says. Which of them a container was made with is known of a
/// bind mount alone, whose source only -v makes.
fn mounts(mounts: &[v1::Mount]) -> (Vec<String>, Vec<Value>, Map<String, Value>) {
    let (mut binds, mut more, mut tmpfs) = (Vec::new(), Vec::new(), Map::new());
    for m in mounts {
        let words = |more: &[&'static str]| {
            let words: Vec<&str> = m
                .read_only
                .then_some("ro")
                .into_iter()
                .chain(super::state::relabel(m))
                .chain(more.iter().copied())
                .collect();
            if words.is_empty() { String::new() } else { format!(":{}", words.join(",")) }
        };
        let mount = |kind: &str, source: &str, options: (&str, Value)| {
            let mut mount = json!({"Type": kind, "Source": source, "Target": m.target, "ReadOnly": m.read_only});
            if options.1.as_object().is_some_and(|o| !o.is_empty()) {
                mount[options.0] = options.1;
            }
            mount
        };
        match &m.kind {
            Some(v1::mount::Kind::Bind(b)) if b.create_source && !b.non_recursive => {
                binds.push(format!("{}:{}{}", b.source, m.target, words(&[])));
            }
            Some(v1::mount::Kind::Bind(b)) => {
                let options = json!({
                    "Propagation": super::inspect::propagation(b.propagation()), "NonRecursive": b.non_recursive, "CreateMountpoint": b.create_source,
                });
                more.push(mount("bind", &b.source, ("BindOptions", options)));
            }
            Some(v1::mount::Kind::Tmpfs(t)) => {
                let size = (t.size_bytes > 0).then(|| format!("size={}", t.size_bytes));
                let mode = t.mode.map(|mode| format!("mode={mode:o}"));
                let exec = t.exec.then(|| "exec".to_owned());
                let words: Vec<String> = size.into_iter().chain(mode).chain(exec).collect();
                tmpfs.insert(m.target.clone(), words.join(",").into());
            }
            Some(v1::mount::Kind::Volume(v)) if v.subpath.is_empty() && v.options.is_empty() && v.labels.is_empty() => {
                // Docker keeps those without a name under Config.Volumes.
                let more: &[&str] = if v.no_copy { &["nocopy"] } else { &[] };
                binds.extend((!v.anonymous).then(|| format!("{}:{}{}", v.name, m.target, words(more))));
            }
            Some(v1::mount::Kind::Volume(v)) => {
                let driver = (!v.options.is_empty()).then(|| json!({"Name": "local", "Options": strings(&v.options)}));
                let options = json!({"NoCopy": v.no_copy, "Labels": strings(&v.labels), "DriverConfig": driver, "Subpath": v.subpath});
                more.push(mount("volume", if v.anonymous { "" } else { &v.name }, ("VolumeOptions", options)));
            }
            Some(v1::mount::Kind::Image(i)) => {
                let options = if i.subpath.is_empty() { json!({}) } else { json!({"Subpath": i.subpath}) };
                more.push(mount("image", &i.image, ("ImageOptions", options)));
            }
            None => {}
        }
    }
    (binds, more, tmpfs)
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
        networks.insert(n.network.clone(), endpoint(n, &asked, s));
    }
    // What it joins when it starts, or stands alone with; as Docker, without addresses.
    for name in s.networks.iter().filter(|name| !name.starts_with("container:")) {
        if !networks.contains_key(name) {
            let asked = c.networks.iter().find(|e| e.network == *name).cloned().unwrap_or_default();
            networks.insert(name.clone(), endpoint(&v1::ContainerNetwork::default(), &asked, s));
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
fn endpoint(n: &v1::ContainerNetwork, asked: &v1::Endpoint, s: &v1::ContainerSummary) -> Value {
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
    // What the name server of the network answers; on the first bridge none does.
    let names = (!matches!(n.network.as_str(), "" | "bridge")).then(|| {
        let short = s.id.get(..12).unwrap_or(&s.id);
        [s.name.as_str()].into_iter().chain(aliases.iter().map(String::as_str)).chain([short]).collect::<Vec<_>>()
    });
    let value = json!({
        "IPAMConfig": ipam, "Links": Value::Null, "Aliases": (!aliases.is_empty()).then_some(aliases), "MacAddress": n.mac_address,
        "NetworkID": if n.network_id.is_empty() { &n.bridge } else { &n.network_id }, "EndpointID": n.host_interface, "Gateway": n.gateway,
        "IPAddress": n.ip_address, "IPPrefixLen": n.prefix_length, "IPv6Gateway": n.ipv6_gateway, "GwPriority": asked.gw_priority,
        "GlobalIPv6Address": n.ipv6_address, "GlobalIPv6PrefixLen": n.ipv6_prefix_length, "DriverOpts": Value::Null, "DNSNames": names,
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
