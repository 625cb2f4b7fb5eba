//! `inspect` of a container.

use super::*;
use std::collections::HashMap;

pub(super) fn propagation(propagation: v1::Propagation) -> &'static str {
    match propagation {
        v1::Propagation::Unspecified | v1::Propagation::Rprivate => "rprivate",
        v1::Propagation::Private => "private",
        v1::Propagation::Shared => "shared",
        v1::Propagation::Rshared => "rshared",
        v1::Propagation::Slave => "slave",
        v1::Propagation::Rslave => "rslave",
    }
}

fn mount(m: &v1::Mount, of_volumes: &HashMap<String, String>) -> Value {
    let mut value = json!({"Destination": m.target, "RW": !m.read_only});
    match &m.kind {
        Some(v1::mount::Kind::Bind(b)) => {
            value["Type"] = "bind".into();
            value["Source"] = b.source.clone().into();
            value["Propagation"] = propagation(b.propagation()).into();
        }
        Some(v1::mount::Kind::Tmpfs(t)) => {
            value["Type"] = "tmpfs".into();
            value["SizeBytes"] = t.size_bytes.into();
        }
        Some(v1::mount::Kind::Volume(v)) => {
            value["Type"] = "volume".into();
            value["Name"] = v.name.clone().into();
            if let Some(at) = of_volumes.get(&v.name) {
                value["Source"] = at.clone().into();
            }
            value["Driver"] = "local".into();
            value["Anonymous"] = v.anonymous.into();
            if !v.subpath.is_empty() {
                value["Subpath"] = v.subpath.clone().into();
            }
        }
        Some(v1::mount::Kind::Image(i)) => {
            value["Type"] = "image".into();
            value["Source"] = i.image.clone().into();
            if !i.subpath.is_empty() {
                value["Subpath"] = i.subpath.clone().into();
            }
        }
        None => value["Type"] = "unknown".into(),
    }
    if let Some(letter) = state::relabel(m) {
        value["Relabel"] = letter.into();
    }
    value
}

fn health_action(action: v1::HealthAction) -> &'static str {
    match action {
        v1::HealthAction::Unspecified | v1::HealthAction::None => "none",
        v1::HealthAction::Restart => "restart",
        v1::HealthAction::Stop => "stop",
        v1::HealthAction::Kill => "kill",
    }
}

pub(super) fn health_word(status: v1::HealthStatus) -> &'static str {
    match status {
        v1::HealthStatus::Unspecified => "none",
        v1::HealthStatus::Starting => "starting",
        v1::HealthStatus::Healthy => "healthy",
        v1::HealthStatus::Unhealthy => "unhealthy",
    }
}

/// As it was asked for; Docker writes nanoseconds.
fn health_check(h: &v1::HealthCheck) -> Value {
    let nanos = |ms: u64| ms.saturating_mul(1_000_000);
    json!({
        "Test": h.test,
        "Interval": nanos(h.interval_ms),
        "Timeout": nanos(h.timeout_ms),
        "StartPeriod": nanos(h.start_period_ms),
        "StartInterval": nanos(h.start_interval_ms),
        "Retries": h.retries,
    })
}

fn health(h: &v1::Health) -> Value {
    json!({
        "Status": health_word(h.status()),
        "FailingStreak": h.failing_streak,
        "Log": h.log.iter().map(|r| json!({
            "Start": rfc3339(r.start.as_ref()), "End": rfc3339(r.end.as_ref()), "ExitCode": r.exit_code, "Output": r.output,
        })).collect::<Vec<_>>(),
    })
}

/// Docker's NetworkMode: the first network, or what stands in its place.
fn network_mode(c: &v1::ContainerConfig) -> String {
    match c.network() {
        v1::NetworkMode::Unspecified | v1::NetworkMode::Bridge => {
            c.networks.first().map_or_else(|| "bridge".to_owned(), |e| e.network.clone())
        }
        v1::NetworkMode::None => "none".to_owned(),
        v1::NetworkMode::Host => "host".to_owned(),
        v1::NetworkMode::Container => format!("container:{}", c.network_container),
    }
}

/// As `--storage-opt` has it; nothing where there is no limit.
fn storage(c: &v1::ContainerConfig) -> Value {
    let size = c.storage_bytes.map(|bytes| ("size", bytes)).filter(|(_, bytes)| *bytes > 0);
    let said = size.into_iter().chain((c.storage_inodes > 0).then_some(("inodes", c.storage_inodes)));
    let said: serde_json::Map<String, Value> = said.map(|(key, n)| (key.to_owned(), n.to_string().into())).collect();
    if said.is_empty() { Value::Null } else { said.into() }
}

/// What Docker keeps under HostConfig.
fn host_config(c: &v1::ContainerConfig) -> Value {
    let log = c.log.clone().unwrap_or_default();
    let network_mode = network_mode(c);
    let (restart, retries) = state::restart_words(c.restart.as_ref());
    let host = |on: bool| if on { "host" } else { "" };
    let mut value = json!({
        "NetworkMode": network_mode,
        "AutoRemove": c.auto_remove,
        "After": c.after.iter().map(state::after_words).collect::<Vec<_>>(),
        "HealthcheckOnFailureAction": health_action(c.health_on_failure()),
        "RestartPolicy": {"Name": restart, "MaximumRetryCount": retries},
        "Privileged": c.privileged,
        "ReadonlyRootfs": c.read_only_root,
        "PublishAllPorts": c.publish_all,
        "Init": c.init,
        "CapAdd": c.cap_add,
        "CapDrop": c.cap_drop,
        "NoNewPrivileges": c.no_new_privileges(),
        "WritableCgroups": c.writable_cgroups,
        "CgroupParent": c.cgroup_parent,
        "AppArmor": c.apparmor,
        "Label": state::label_options(c),
        "Landlock": c.landlock,
        "Seccomp": if c.seccomp.starts_with('{') { "custom" } else { &c.seccomp },
        "GroupAdd": c.groups,
        "Dns": c.dns,
        "DnsSearch": c.dns_search,
        "DnsOptions": c.dns_options,
        "ExtraHosts": c.extra_hosts.iter().map(|h| format!("{}:{}", h.name, h.address)).collect::<Vec<_>>(),
        "Sysctls": strings(&c.sysctls),
        "Ulimits": c.ulimits.iter().map(|u| json!({"Name": u.name, "Soft": u.soft, "Hard": u.hard})).collect::<Vec<_>>(),
        "Devices": c.devices.iter().map(|d| json!({
            "PathOnHost": d.host_path, "PathInContainer": d.container_path, "CgroupPermissions": d.permissions,
        })).collect::<Vec<_>>(),
        "CDIDevices": c.cdi_devices,
        "DeviceCgroupRules": c.device_rules.iter().map(device_rule).collect::<Vec<_>>(),
    });
    let around = json!({
        "OomScoreAdj": c.oom_score_adj,
        "ShmSize": c.shm_bytes,
        "StorageOpt": storage(c),
        "PidMode": host(c.host_pid),
        "IpcMode": host(c.host_ipc),
        "UTSMode": host(c.host_uts),
        "UsernsMode": c.userns,
        "Runtime": c.runtime,
        "LogConfig": {
            "Type": log.driver, "Config": strings(&log.options), "MaxSize": log.max_file_bytes, "MaxFile": log.max_files,
        },
    });
    if let (Value::Object(all), Value::Object(around)) = (&mut value, around) {
        all.extend(around);
        all.extend(limits::of(&c.resources.clone().unwrap_or_default()));
    }
    value
}

/// `inspect` of a container, in Docker's shape where Docker has one.
pub fn inspect_container(r: &v1::InspectContainerResponse) -> Value {
    let s = r.summary.clone().unwrap_or_default();
    let c = r.config.clone().unwrap_or_default();
    let exit = s.exit.clone().unwrap_or_default();
    let n = r.network.clone().unwrap_or_default();
    let bindings = bindings(&s.ports);
    json!({
        "Id": s.id,
        "Name": s.name,
        "Created": rfc3339(s.created.as_ref()),
        "Path": s.command.first(),
        "Args": s.command.get(1..).unwrap_or_default(),
        "State": {
            "Status": state_word(s.state()),
            // Docker: what is paused or about to be started again runs too.
            "Running": matches!(
                s.state(),
                ContainerState::Running | ContainerState::Paused | ContainerState::Restarting
            ),
            "Paused": s.state() == ContainerState::Paused,
            "Restarting": s.state() == ContainerState::Restarting,
            "NextStart": s.next_start.as_ref().map(|t| rfc3339(Some(t))),
            "StoppedByCaller": r.stopped_by_caller,
            "Pid": s.pid,
            "ExitCode": exit.code,
            "Signal": exit.signal,
            "OOMKilled": exit.oom_killed,
            "Reason": if exit.sentence.is_empty() { &exit.reason } else { &exit.sentence },
            "Cause": exit.cause,
            "EndedBy": exit.by,
            "OOMCgroup": exit.oom_cgroup,
            "OOMLimit": exit.oom_limit_bytes,
            "Error": r.error,
            "Health": r.health.as_ref().map(health),
            "StartFailure": r.start_failure.as_ref().map(|f| json!({
                "Step": f.step, "Errno": f.errno, "ExitCode": f.exit_code, "Time": rfc3339(f.time.as_ref()),
            })),
            "StartedAt": rfc3339(s.started.as_ref()),
            "FinishedAt": rfc3339(exit.finished.as_ref()),
            "StartCount": r.start_count,
            "ShimPid": r.shim_pid,
        },
        "RestartCount": s.restart_count,
        "Image": s.image_id,
        "Warnings": r.warnings,
        "LogPath": r.log_path,
        "Log": r.log.as_ref().map(state::log),
        "UpperDir": r.upper_path,
        "StorageLimitedBy": r.storage_limited_by,
        "ProcessLabel": r.process_label,
        "MountLabel": r.mount_label,
        "UserNamespace": r.userns.as_ref().map(state::userns),
        "CgroupPaths": r.cgroup_paths,
        "Config": {
            "Image": c.image,
            "Hostname": c.hostname,
            "Domainname": c.domainname,
            "User": r.effective_user,
            "Env": r.effective_env,
            "Cmd": c.command,
            "Entrypoint": c.entrypoint.as_ref().map(|e| &e.values),
            "WorkingDir": r.effective_workdir,
            "Labels": strings(&s.labels),
            "Annotations": strings(&c.annotations),
            "Tty": c.tty,
            "OpenStdin": c.open_stdin,
            "StdinOnce": c.stdin_once,
            "StopSignal": r.effective_stop_signal,
            "Healthcheck": c.health.as_ref().map(health_check),
            "StopTimeout": c.stop_timeout_seconds,
        },
        "HostConfig": host_config(&c),
        "Mounts": c.mounts.iter().map(|m| mount(m, &r.volume_mountpoints)).collect::<Vec<_>>(),
        "NetworkSettings": {
            "Bridge": n.bridge,
            "HostInterface": n.host_interface,
            "IPAddress": n.ip_address,
            "IPPrefixLen": n.prefix_length,
            "Gateway": n.gateway,
            "MacAddress": n.mac_address,
            "Ports": bindings,
        },
    })
}

/// As it is asked for.
fn device_rule(rule: &v1::DeviceRule) -> String {
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let kind = if rule.block { 'b' } else { 'c' };
    format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.permissions)
}
