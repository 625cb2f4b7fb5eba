//! `ContainerConfig` to [`ContainerSpec`] and back.

use super::decode::{Fields, some};
use super::limits;
use berth::v1;
use berth_model::network::NetworkMode;
use berth_model::publish::PublishPolicy;
use berth_model::spec::{
    Device, DeviceRule, ExtraHost, HostTarget, LogConfig, Mount, MountKind, NodeAttributes, Propagation, Seccomp,
    Ulimit,
};
use berth_model::{ContainerSpec, id, log};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

/// A seccomp profile as JSON; Docker's default one has 14 KB.
const MAX_PROFILE: usize = 1 << 20;

/// capabilities(7), kernel 6.18: all 41.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// getrlimit(2).
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Reads a container's configuration; what is wrong goes to `f`. The spec is only good when `f` stayed empty.
pub fn decode(f: &mut Fields, config: v1::ContainerConfig, log: &LogConfig, publish: &PublishPolicy) -> ContainerSpec {
    f.reference("image", &config.image);
    if !config.name.is_empty() {
        f.take("name", id::check_name(&config.name));
    }
    if let Some(entrypoint) = &config.entrypoint {
        f.arguments("entrypoint", &entrypoint.values);
    }
    f.arguments("command", &config.command);
    f.env("env", &config.env);
    if !config.workdir.is_empty() {
        f.path("workdir", &config.workdir);
    }
    f.line("user", &config.user, 256);
    f.count("groups", config.groups.len(), 1024);
    for (n, group) in config.groups.iter().enumerate() {
        let good = f.line(format!("groups[{n}]"), group, 256);
        f.check(!good || !group.is_empty(), format!("groups[{n}]"), "must not be empty");
    }
    host_name(f, "hostname", &config.hostname);
    host_name(f, "domainname", &config.domainname);
    f.check(!config.stdin_once || config.open_stdin, "stdin_once", "needs open_stdin");
    strings(f, "labels", &config.labels);
    strings(f, "annotations", &config.annotations);
    f.signal("stop_signal", &config.stop_signal);
    if let Some(score) = config.oom_score_adj {
        f.check((-1000..=1000).contains(&score), "oom_score_adj", "must be -1000 to 1000");
    }
    let (network, networks) = super::endpoints::decode_mode(f, &config);
    let ports = super::ports::decode(f, &config.ports, publish);
    if network != NetworkMode::Bridge {
        f.check(config.ports.is_empty(), "ports", "can only be published where the container has a network of its own");
        f.check(!config.publish_all, "publish_all", "needs a network of the container's own");
    }
    if config.host_uts {
        f.check(config.hostname.is_empty(), "hostname", "is the host's own with host_uts");
        f.check(config.domainname.is_empty(), "domainname", "is the host's own with host_uts");
    }
    let sysctls =
        sysctls(f, &config.sysctls, !matches!(network, NetworkMode::Bridge | NetworkMode::None), config.host_ipc);
    ContainerSpec {
        mounts: mounts(f, config.mounts),
        volumes_from: super::volumes::decode_from(f, config.volumes_from),
        extra_hosts: extra_hosts(f, config.extra_hosts),
        dns: addresses(f, &config.dns),
        dns_search: words(f, "dns_search", config.dns_search),
        dns_options: words(f, "dns_options", config.dns_options),
        ulimits: ulimits(f, config.ulimits),
        sysctls,
        cap_add: capabilities(f, "cap_add", &config.cap_add),
        cap_drop: capabilities(f, "cap_drop", &config.cap_drop),
        seccomp: seccomp(f, config.seccomp),
        landlock: config.landlock,
        apparmor: config.apparmor,
        selinux: super::selinux::decode(f, config.selinux.unwrap_or_default()),
        cgroup_parent: some(config.cgroup_parent),
        resources: limits::resources(f, config.resources.unwrap_or_default()),
        devices: devices(f, config.devices),
        cdi_devices: cdi_devices(f, config.cdi_devices),
        device_rules: device_rules(f, config.device_rules),
        log: log_config(f, config.log, log),
        restart: super::supervise::restart(f, config.restart, config.auto_remove),
        health: super::supervise::health(f, config.health),
        health_on_failure: super::supervise::health_action(f, config.health_on_failure),
        after: super::supervise::after(f, config.after),
        network,
        networks,
        ports,
        image: config.image,
        name: some(config.name),
        entrypoint: config.entrypoint.map(|list| list.values),
        command: config.command,
        env: config.env,
        workdir: some(config.workdir),
        user: some(config.user),
        groups: config.groups,
        hostname: some(config.hostname),
        domainname: some(config.domainname),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        read_only_root: config.read_only_root,
        labels: config.labels.into_iter().collect(),
        annotations: config.annotations.into_iter().collect(),
        no_new_privileges: config.no_new_privileges == Some(true),
        new_privileges: config.no_new_privileges == Some(false),
        writable_cgroups: config.writable_cgroups,
        privileged: config.privileged,
        init: config.init,
        publish_all: config.publish_all,
        expose: super::ports::exposed(f, config.expose),
        host_pid: config.host_pid,
        host_ipc: config.host_ipc,
        host_uts: config.host_uts,
        userns: f.take("userns", config.userns.parse()).unwrap_or_default(),
        runtime: config.runtime,
        stop_signal: some(config.stop_signal),
        stop_timeout_secs: config.stop_timeout_seconds,
        auto_remove: config.auto_remove,
        oom_score_adj: config.oom_score_adj,
        shm_bytes: Some(config.shm_bytes).filter(|n| *n > 0),
        storage: super::storage::decode(f, config.storage_bytes, config.storage_inodes),
    }
}

/// hostname(7): letters, digits, '-' and '.', here '_' too, as Docker; empty: none.
fn host_name(f: &mut Fields, field: &str, name: &str) {
    let good = name.len() <= 63
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    f.check(good, field, "must be at most 63 letters, digits, '-', '_' and '.', and not start with '-' or '.'");
}

pub(super) fn strings(f: &mut Fields, field: &str, map: &HashMap<String, String>) {
    f.count(field, map.len(), 1024);
    for (key, value) in map {
        let shown: String = key.chars().take(64).collect();
        let at = format!("{field}[{shown:?}]");
        f.check(!key.is_empty(), &at, "must have a name");
        f.line(&at, key, 1024);
        f.text(&at, value, 256 << 10);
    }
}

fn addresses(f: &mut Fields, list: &[String]) -> Vec<IpAddr> {
    f.count("dns", list.len(), 16);
    list.iter().enumerate().filter_map(|(n, text)| f.take(format!("dns[{n}]"), text.parse::<IpAddr>())).collect()
}

/// Words of resolv.conf(5): a blank or a line's end in one would make two.
fn words(f: &mut Fields, field: &str, list: Vec<String>) -> Vec<String> {
    f.count(field, list.len(), 32);
    for (n, word) in list.iter().enumerate() {
        let good = !word.is_empty() && word.len() <= 256 && word.bytes().all(|b| b.is_ascii_graphic());
        f.check(good, format!("{field}[{n}]"), "must be 1 to 256 printable characters without blanks");
    }
    list
}

fn mounts(f: &mut Fields, list: Vec<v1::Mount>) -> Vec<Mount> {
    f.count("mounts", list.len(), 256);
    let mut targets = HashSet::new();
    let mut mounts = Vec::new();
    for (n, mount) in list.into_iter().enumerate() {
        let at = |field: &str| format!("mounts[{n}].{field}");
        if f.path(at("target"), &mount.target) {
            let parts: Vec<&str> = mount.target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
            f.check(!parts.is_empty(), at("target"), "must not be the root");
            let fresh = targets.insert(parts.join("/"));
            f.check(fresh, at("target"), "is the target of another mount too");
        }
        let kind = match mount.kind {
            Some(v1::mount::Kind::Bind(bind)) => {
                f.path(at("bind.source"), &bind.source);
                MountKind::Bind {
                    propagation: propagation(f, &at("bind.propagation"), bind.propagation),
                    source: bind.source,
                    recursive: !bind.non_recursive,
                    create_source: bind.create_source,
                    writable_below: bind.writable_below,
                    within: None,
                    idmap: bind.idmap,
                    nosuid_nodev: false,
                }
            }
            Some(v1::mount::Kind::Tmpfs(tmpfs)) => {
                f.check(tmpfs.mode.is_none_or(|m| m <= 0o7777), at("tmpfs.mode"), "must be at most 07777 (octal)");
                MountKind::Tmpfs {
                    size_bytes: Some(tmpfs.size_bytes).filter(|n| *n > 0),
                    mode: tmpfs.mode,
                    exec: tmpfs.exec,
                }
            }
            Some(v1::mount::Kind::Volume(volume)) => super::volumes::decode_mount(f, &at("volume"), volume),
            Some(v1::mount::Kind::Image(image)) => super::volumes::decode_image(f, &at("image"), image),
            None => {
                f.wrong(at("kind"), "must be bind, tmpfs, volume or image");
                continue;
            }
        };
        let relabel = super::selinux::relabel(f, &at("relabel"), mount.relabel, &kind);
        mounts.push(Mount { target: mount.target, read_only: mount.read_only, kind, relabel });
    }
    mounts
}

fn propagation(f: &mut Fields, field: &str, value: i32) -> Propagation {
    match v1::Propagation::try_from(value) {
        Ok(v1::Propagation::Unspecified | v1::Propagation::Rprivate) => Propagation::Rprivate,
        Ok(v1::Propagation::Private) => Propagation::Private,
        Ok(v1::Propagation::Shared) => Propagation::Shared,
        Ok(v1::Propagation::Rshared) => Propagation::Rshared,
        Ok(v1::Propagation::Slave) => Propagation::Slave,
        Ok(v1::Propagation::Rslave) => Propagation::Rslave,
        Err(_) => {
            f.wrong(field, format!("{value} is no propagation"));
            Propagation::Rprivate
        }
    }
}

fn extra_hosts(f: &mut Fields, list: Vec<v1::ExtraHost>) -> Vec<ExtraHost> {
    f.count("extra_hosts", list.len(), 256);
    let mut hosts = Vec::new();
    for (n, host) in list.into_iter().enumerate() {
        let good = (1..=253).contains(&host.name.len()) && host.name.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        f.check(good, format!("extra_hosts[{n}].name"), "must be 1 to 253 printable characters without blanks and '#'");
        let target = if host.address == "host-gateway" {
            Some(HostTarget::Gateway)
        } else {
            f.take(format!("extra_hosts[{n}].address"), host.address.parse::<IpAddr>()).map(HostTarget::Address)
        };
        hosts.extend(target.map(|target| ExtraHost { name: host.name, target }));
    }
    hosts
}

fn ulimits(f: &mut Fields, list: Vec<v1::Ulimit>) -> Vec<Ulimit> {
    let mut names = HashSet::new();
    for (n, limit) in list.iter().enumerate() {
        let known = ULIMITS.contains(&limit.name.as_str());
        f.check(known, format!("ulimits[{n}].name"), &format!("must be one of {}", ULIMITS.join(", ")));
        f.check(names.insert(limit.name.clone()), format!("ulimits[{n}].name"), "is there twice");
        f.check(limit.soft <= limit.hard, format!("ulimits[{n}].soft"), "must not be above hard");
    }
    list.into_iter().map(|l| Ulimit { name: l.name, soft: l.soft, hard: l.hard }).collect()
}

/// Only those that the kernel keeps per namespace; with the host's namespace they would be the host's.
fn sysctls(f: &mut Fields, map: &HashMap<String, String>, host_net: bool, host_ipc: bool) -> BTreeMap<String, String> {
    f.count("sysctls", map.len(), 256);
    for (key, value) in map {
        let shown: String = key.chars().take(128).collect();
        let at = format!("sysctls[{shown:?}]");
        let written = key.len() <= 128
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !key.split('.').any(str::is_empty);
        let net = key.starts_with("net.");
        let ipc = key == "kernel.sem"
            || ["kernel.msg", "kernel.shm", "fs.mqueue."].iter().any(|prefix| key.starts_with(prefix));
        let known = written && (net || ipc) || berth_node::fail::is_down("sysctls");
        if !known {
            f.wrong(&at, "is no sysctl of a container: net.*, kernel.msg*, kernel.sem, kernel.shm*, fs.mqueue.*");
        } else if net && host_net {
            f.wrong(&at, "would be the host's own, or another container's, in their network namespace");
        } else if ipc && host_ipc {
            f.wrong(&at, "would be the host's own in the host's ipc namespace");
        }
        f.line(&at, value, 4096);
    }
    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Upper case without CAP_, as the model has them.
fn capabilities(f: &mut Fields, field: &str, list: &[String]) -> Vec<String> {
    f.count(field, list.len(), 64);
    let mut names = Vec::new();
    for (n, written) in list.iter().enumerate() {
        let upper = written.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" || CAPABILITIES.contains(&name) {
            names.push(name.to_owned());
        } else {
            let shown: String = written.chars().take(64).collect();
            f.wrong(format!("{field}[{n}]"), format!("{shown:?} is no capability"));
        }
    }
    names
}

fn seccomp(f: &mut Fields, text: String) -> Seccomp {
    match text.as_str() {
        "" | "default" => Seccomp::Default,
        "unconfined" => Seccomp::Unconfined,
        _ => {
            if f.text("seccomp", &text, MAX_PROFILE)
                && !serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|v| v.is_object())
            {
                f.wrong("seccomp", "must be default, unconfined, or a profile in Docker's JSON format");
            }
            Seccomp::Profile(text)
        }
    }
}

fn cdi_devices(f: &mut Fields, mut list: Vec<String>) -> Vec<String> {
    f.count("cdi_devices", list.len(), 64);
    for (n, name) in list.iter().enumerate() {
        if let Err(why) = name.parse::<berth_node::CdiName>() {
            f.wrong(format!("cdi_devices[{n}]"), why);
        }
    }
    let mut seen = HashSet::new();
    list.retain(|name| seen.insert(name.clone()));
    list
}

fn devices(f: &mut Fields, list: Vec<v1::Device>) -> Vec<Device> {
    f.count("devices", list.len(), 256);
    let mut devices = Vec::new();
    for (n, device) in list.into_iter().enumerate() {
        f.path(format!("devices[{n}].host_path"), &device.host_path);
        let container_path = some(device.container_path).unwrap_or_else(|| device.host_path.clone());
        f.path(format!("devices[{n}].container_path"), &container_path);
        // /dev/./zero and /dev//zero are /dev/zero.
        let parts: Vec<&str> = container_path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let container_path = format!("/{}", parts.join("/"));
        let permissions = letters(f, format!("devices[{n}].permissions"), device.permissions);
        let node = NodeAttributes::default();
        devices.push(Device { host_path: device.host_path, container_path, permissions, node });
    }
    devices
}

/// Letters of rwm.
fn letters(f: &mut Fields, field: String, given: String) -> String {
    let letters = some(given).unwrap_or_else(|| "rwm".into());
    let good = letters.len() <= 3
        && letters.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'))
        && letters.bytes().collect::<HashSet<_>>().len() == letters.len();
    f.check(good, field, "must be letters of rwm, each once");
    letters
}

fn device_rules(f: &mut Fields, list: Vec<v1::DeviceRule>) -> Vec<DeviceRule> {
    f.count("device_rules", list.len(), 256);
    let mut rules = Vec::new();
    for (n, v1::DeviceRule { block, major, minor, permissions }) in list.into_iter().enumerate() {
        let permissions = letters(f, format!("device_rules[{n}].permissions"), permissions);
        f.check(major.is_some() || minor.is_none(), format!("device_rules[{n}].minor"), "is there without major");
        // MAJOR and MINOR of linux/kdev_t.h.
        let fits = major.is_none_or(|n| n < 1 << 12) && minor.is_none_or(|n| n < 1 << 20);
        f.check(fits, format!("device_rules[{n}]"), "has a major number above 4095 or a minor one above 1048575");
        rules.push(DeviceRule { block, major, minor, permissions });
    }
    rules
}

fn device_rule(rule: &DeviceRule) -> v1::DeviceRule {
    let DeviceRule { block, major, minor, permissions } = rule;
    v1::DeviceRule { block: *block, major: *major, minor: *minor, permissions: permissions.clone() }
}

fn log_config(f: &mut Fields, asked: Option<v1::LogConfig>, default: &LogConfig) -> LogConfig {
    let asked = asked.unwrap_or_default();
    let bytes = asked.max_file_bytes;
    let bytes_good = bytes == 0 || (log::MIN_FILE_BYTES..=log::MAX_FILE_BYTES).contains(&bytes);
    f.check(bytes_good, "log.max_file_bytes", "must be 0 or at least 4096");
    f.check(asked.max_files <= log::MAX_FILES, "log.max_files", "must be at most 10000");
    let driver = if asked.driver.is_empty() { None } else { f.take("log.driver", asked.driver.parse()) };
    let mut config = match default.with(driver, &asked.options.into_iter().collect()) {
        Ok(config) => config,
        Err(wrong) => {
            for (key, why) in wrong {
                f.wrong(format!("log.options.{key}"), why);
            }
            return default.clone();
        }
    };
    if bytes > 0 {
        config.max_file_bytes = bytes;
    }
    if asked.max_files > 0 {
        config.max_files = asked.max_files;
    }
    config
}

/// A spec as the caller asked for it.
pub fn encode(spec: &ContainerSpec) -> v1::ContainerConfig {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    v1::ContainerConfig {
        image: spec.image.clone(),
        name: text(&spec.name),
        entrypoint: spec.entrypoint.clone().map(|values| v1::StringList { values }),
        command: spec.command.clone(),
        env: spec.env.clone(),
        workdir: text(&spec.workdir),
        user: text(&spec.user),
        groups: spec.groups.clone(),
        hostname: text(&spec.hostname),
        domainname: text(&spec.domainname),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        stdin_once: spec.stdin_once,
        read_only_root: spec.read_only_root,
        mounts: spec.mounts.iter().map(encode_mount).collect(),
        volumes_from: super::volumes::encode_from(&spec.volumes_from),
        extra_hosts: spec
            .extra_hosts
            .iter()
            .map(|host| v1::ExtraHost {
                name: host.name.clone(),
                address: match host.target {
                    HostTarget::Address(address) => address.to_string(),
                    HostTarget::Gateway => "host-gateway".into(),
                },
            })
            .collect(),
        dns: spec.dns.iter().map(ToString::to_string).collect(),
        dns_search: spec.dns_search.clone(),
        dns_options: spec.dns_options.clone(),
        labels: spec.labels.clone().into_iter().collect(),
        annotations: spec.annotations.clone().into_iter().collect(),
        ulimits: spec.ulimits.iter().map(|l| v1::Ulimit { name: l.name.clone(), soft: l.soft, hard: l.hard }).collect(),
        sysctls: spec.sysctls.clone().into_iter().collect(),
        cap_add: spec.cap_add.clone(),
        cap_drop: spec.cap_drop.clone(),
        no_new_privileges: Some(spec.no_new_privileges),
        writable_cgroups: spec.writable_cgroups,
        privileged: spec.privileged,
        init: spec.init,
        seccomp: match &spec.seccomp {
            Seccomp::Default => String::new(),
            Seccomp::Unconfined => "unconfined".into(),
            Seccomp::Profile(profile) => profile.clone(),
        },
        landlock: spec.landlock,
        apparmor: spec.apparmor.clone(),
        selinux: super::selinux::encode(&spec.selinux),
        cgroup_parent: spec.cgroup_parent.clone().unwrap_or_default(),
        resources: Some(limits::encode(&spec.resources)),
        devices: spec
            .devices
            .iter()
            .map(|d| v1::Device {
                host_path: d.host_path.clone(),
                container_path: d.container_path.clone(),
                permissions: d.permissions.clone(),
            })
            .collect(),
        cdi_devices: spec.cdi_devices.clone(),
        device_rules: spec.device_rules.iter().map(device_rule).collect(),
        network: super::endpoints::mode(&spec.network) as i32,
        networks: spec.networks.iter().map(super::endpoints::endpoint).collect(),
        network_container: match &spec.network {
            NetworkMode::Container(id) => id.clone(),
            _ => String::new(),
        },
        ports: spec.ports.iter().map(super::ports::asked).collect(),
        publish_all: spec.publish_all,
        expose: spec.expose.clone(),
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        host_uts: spec.host_uts,
        userns: spec.userns.to_string(),
        runtime: spec.runtime.clone(),
        stop_signal: text(&spec.stop_signal),
        stop_timeout_seconds: spec.stop_timeout_secs,
        auto_remove: spec.auto_remove,
        oom_score_adj: spec.oom_score_adj,
        shm_bytes: spec.shm_bytes.unwrap_or_default(),
        storage_bytes: spec.storage.bytes,
        storage_inodes: spec.storage.inodes.unwrap_or_default(),
        log: Some(v1::LogConfig {
            max_file_bytes: spec.log.max_file_bytes,
            max_files: spec.log.max_files,
            driver: spec.log.driver.name().to_owned(),
            options: spec.log.options.clone().into_iter().collect(),
        }),
        restart: super::supervise::encode_restart(spec.restart),
        health: super::supervise::encode_health(&spec.health),
        health_on_failure: super::supervise::encode_health_action(spec.health_on_failure) as i32,
        after: super::supervise::encode_after(&spec.after),
    }
}

fn encode_mount(mount: &Mount) -> v1::Mount {
    let kind = match &mount.kind {
        MountKind::Bind {
            source,
            propagation,
            recursive,
            create_source,
            writable_below,
            within: _,
            idmap,
            nosuid_nodev: _,
        } => v1::mount::Kind::Bind(v1::BindMount {
            source: source.clone(),
            propagation: match propagation {
                Propagation::Private => v1::Propagation::Private,
                Propagation::Rprivate => v1::Propagation::Rprivate,
                Propagation::Shared => v1::Propagation::Shared,
                Propagation::Rshared => v1::Propagation::Rshared,
                Propagation::Slave => v1::Propagation::Slave,
                Propagation::Rslave => v1::Propagation::Rslave,
            } as i32,
            non_recursive: !recursive,
            create_source: *create_source,
            writable_below: *writable_below,
            idmap: *idmap,
        }),
        MountKind::Volume(volume) => v1::mount::Kind::Volume(super::volumes::encode_mount(volume)),
        MountKind::Image(image) => v1::mount::Kind::Image(v1::ImageMount {
            image: image.image.clone(),
            subpath: image.subpath.clone().unwrap_or_default(),
        }),
        MountKind::Tmpfs { size_bytes, mode, exec } => v1::mount::Kind::Tmpfs(v1::TmpfsMount {
            size_bytes: size_bytes.unwrap_or_default(),
            mode: *mode,
            exec: *exec,
        }),
    };
    let relabel = super::selinux::encode_relabel(mount.relabel) as i32;
    v1::Mount { target: mount.target.clone(), read_only: mount.read_only, kind: Some(kind), relabel }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
