//! What rows and objects show: the API's messages under the field names that Docker's users put in templates.

pub mod docker;
mod inspect;
mod limits;
pub mod network;
pub mod state;
mod stats;

use inspect::health_word;
pub use inspect::inspect_container;
pub use stats::stats;

use crate::progress::short;
use crate::units::{human_duration, human_size, time};
use berth::v1::{self, ContainerState};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

fn utc(t: Timestamp) -> String {
    // Docker's: 2006-01-02 15:04:05 +0000 UTC
    t.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

pub fn ago(t: Option<Timestamp>, now: Timestamp) -> String {
    t.map_or("N/A".into(), |t| format!("{} ago", human_duration(now.as_second() - t.as_second())))
}

/// RFC 3339; Go's zero time for none, as Docker shows it.
fn rfc3339(t: Option<&prost_types::Timestamp>) -> Value {
    time(t).map_or_else(|| "0001-01-01T00:00:00Z".into(), |t| t.to_string().into())
}

pub const fn state_word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Unspecified => "unknown",
        ContainerState::Creating => "creating",
        ContainerState::Created => "created",
        ContainerState::Starting => "starting",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Exited => "exited",
        ContainerState::Removing => "removing",
        ContainerState::Restarting => "restarting",
    }
}

fn up(c: &v1::ContainerSummary, now: Timestamp) -> String {
    match time(c.started.as_ref()) {
        Some(t) => format!("Up {}", human_duration(now.as_second() - t.as_second())),
        None => "Up".into(),
    }
}

const fn health_note(status: v1::HealthStatus) -> &'static str {
    match status {
        v1::HealthStatus::Unspecified => "",
        v1::HealthStatus::Starting => " (health: starting)",
        v1::HealthStatus::Healthy => " (healthy)",
        v1::HealthStatus::Unhealthy => " (unhealthy)",
    }
}

/// `Up 5 minutes`, `Exited (0) 3 seconds ago`.
fn status(c: &v1::ContainerSummary, now: Timestamp) -> String {
    match c.state() {
        ContainerState::Running => up(c, now) + health_note(c.health()),
        ContainerState::Paused => format!("{} (Paused)", up(c, now)),
        ContainerState::Exited => {
            let exit = c.exit.clone().unwrap_or_default();
            let cause = match exit.cause.as_str() {
                "oom" => " (out of memory)",
                "unhealthy" => " (unhealthy)",
                "host-rebooted" => " (host rebooted)",
                "shim-killed" => " (shim killed)",
                _ => "",
            };
            format!("Exited ({}) {}{cause}", exit.code, ago(time(exit.finished.as_ref()), now))
        }
        ContainerState::Restarting => {
            let exit = c.exit.clone().unwrap_or_default();
            format!("Restarting ({}) {}", exit.code, ago(time(exit.finished.as_ref()), now))
        }
        ContainerState::Removing => "Removal In Progress".into(),
        ContainerState::Created => "Created".into(),
        ContainerState::Creating => "Creating".into(),
        ContainerState::Starting => "Starting".into(),
        ContainerState::Unspecified => "Unknown".into(),
    }
}

/// `tcp`
pub fn protocol(p: v1::Protocol) -> &'static str {
    match p {
        v1::Protocol::Udp => "udp",
        v1::Protocol::Sctp => "sctp",
        v1::Protocol::Tcp | v1::Protocol::Unspecified => "tcp",
    }
}

/// One mapping of `port`: `80/tcp` and `0.0.0.0:8080`.
pub fn port(p: &v1::PortMapping) -> Value {
    json!({
        "ContainerPort": format!("{}/{}", ports_from(p.container_port, p.count), protocol(p.protocol())),
        "HostAddress": format!("{}:{}", bracketed(&p.host_ip), ports_from(p.host_port, p.count.max(p.choice))),
    })
}

/// Every port of every protocol, twice: no container has more on a host.
const MAX_BINDINGS: usize = 2 * 3 * 65_536;

/// Docker's `Ports`: by `80/tcp` the addresses, with one key for each port of a range.
pub fn bindings(ports: &[v1::PortMapping]) -> Map<String, Value> {
    let mut bindings: Map<String, Value> = Map::new();
    let each = ports.iter().flat_map(|p| (0..p.count.max(1)).map(move |n| (p, n)));
    for (p, n) in each.take(MAX_BINDINGS) {
        let host = match (p.host_port, p.choice) {
            (0, _) => String::new(),
            (first, 2..) => ports_from(first, p.choice),
            (first, _) => first.saturating_add(n).to_string(),
        };
        let key = format!("{}/{}", p.container_port.saturating_add(n), protocol(p.protocol()));
        let list = bindings.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(json!({"HostIp": p.host_ip, "HostPort": host}));
        }
    }
    bindings
}

/// `80`, or `8000-8010`.
pub fn ports_from(first: u32, count: u32) -> String {
    if count > 1 { format!("{first}-{}", first.saturating_add(count - 1)) } else { first.to_string() }
}

fn bracketed(ip: &str) -> String {
    match ip {
        "" => "0.0.0.0".into(),
        v6 if v6.contains(':') => format!("[{v6}]"),
        v4 => v4.into(),
    }
}

/// `0.0.0.0:8000-8001->80-81/tcp, 127.0.0.1:53->53/udp`: runs of ports are drawn together.
pub fn ports(ports: &[v1::PortMapping]) -> String {
    let mut sorted: Vec<_> = ports.iter().collect();
    sorted.sort_by_key(|p| (p.protocol, p.host_ip.clone(), p.container_port, p.host_port));
    let mut shown: Vec<String> = Vec::new();
    let mut i = 0;
    while i < sorted.len() {
        let first = sorted[i];
        let mut n = 0;
        while let Some(next) = sorted.get(i + n as usize + 1)
            && next.count.max(first.count).max(next.choice).max(first.choice) <= 1
            && (next.protocol, &next.host_ip) == (first.protocol, &first.host_ip)
            && Some(next.container_port) == first.container_port.checked_add(n + 1)
            && Some(next.host_port) == first.host_port.checked_add(n + 1)
        {
            n += 1;
        }
        let range = |p: u32, choice: u32| ports_from(p, first.count.max(n + 1).max(choice));
        shown.push(format!(
            "{}:{}->{}/{}",
            bracketed(&first.host_ip),
            range(first.host_port, first.choice),
            range(first.container_port, 1),
            protocol(first.protocol())
        ));
        i += n as usize + 1;
    }
    shown.join(", ")
}

fn labels(map: &std::collections::HashMap<String, String>) -> String {
    let mut all: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
    all.sort();
    all.join(",")
}

fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit - 1).chain(['…']).collect()
}

/// A row of `ps`.
pub fn container(c: &v1::ContainerSummary, now: Timestamp, truncate: bool) -> Value {
    let created = time(c.created.as_ref());
    let command = c.command.join(" ");
    json!({
        "ID": if truncate { short(&c.id) } else { &c.id },
        "Names": c.name,
        "Image": c.image,
        "ImageID": c.image_id,
        "Command": format!("\"{}\"", if truncate { cut(&command, 20) } else { command }),
        "CreatedAt": created.map(utc).unwrap_or_default(),
        "RunningFor": ago(created, now),
        "Status": status(c, now),
        "State": state_word(c.state()),
        "Ports": ports(&c.ports),
        "Labels": labels(&c.labels),
        "IPAddress": c.ip_address,
        "Pid": c.pid,
        "ExitCode": c.exit.as_ref().map_or(0, |e| e.code),
        "Reason": c.exit.as_ref().map(|e| &e.sentence),
        "RestartCount": c.restart_count,
        "Size": c.size_rw_bytes.map_or_else(String::new, |rw| {
            format!("{} (virtual {})", human_size(rw), human_size(c.size_root_bytes.unwrap_or(rw)))
        }),
        "Health": health_word(c.health()),
    })
}

/// Repository and tag of a full name, as people write them.
fn familiar(full: &str) -> (String, String) {
    let Ok(reference) = full.parse::<berth_model::Reference>() else { return (full.to_owned(), "<none>".into()) };
    let name = reference.familiar();
    let name = name.split_once('@').map_or(name.as_str(), |(n, _)| n);
    match reference.tag() {
        Some(tag) => {
            (name.strip_suffix(tag).and_then(|n| n.strip_suffix(':')).unwrap_or(name).to_owned(), tag.to_owned())
        }
        None => (name.to_owned(), "<none>".into()),
    }
}

/// The rows of `images`: one for each name.
pub fn images(i: &v1::ImageSummary, now: Timestamp, truncate: bool) -> Vec<Value> {
    let digest_of = |repository: &str| {
        i.digests.iter().find_map(|d| {
            let (_, digest) = d.split_once('@')?;
            (familiar(d).0 == repository).then(|| digest.to_owned())
        })
    };
    let mut names: Vec<(String, String)> = i.tags.iter().map(|t| familiar(t)).collect();
    if names.is_empty() {
        let repository = i.digests.first().map_or("<none>".into(), |d| familiar(d).0);
        names.push((repository, "<none>".into()));
    }
    let created = time(i.created.as_ref());
    let platform = i.platform.clone().unwrap_or_default();
    let platform = [platform.os, platform.architecture, platform.variant].into_iter().filter(|p| !p.is_empty());
    let platform = platform.collect::<Vec<_>>().join("/");
    let row = |(repository, tag): (String, String)| {
        json!({
            "Name": if tag == "<none>" { i.id.clone() } else { format!("{repository}:{tag}") },
            "Digest": digest_of(&repository).unwrap_or_else(|| "<none>".into()),
            "Repository": repository,
            "Tag": tag,
            "ID": if truncate { short(&i.id) } else { &i.id },
            "CreatedAt": created.map(utc).unwrap_or_default(),
            "CreatedSince": ago(created, now),
            "Size": human_size(i.size_bytes),
            "SizeBytes": i.size_bytes,
            "Containers": i.containers,
            "Platform": platform,
        })
    };
    names.into_iter().map(row).collect()
}

/// One event as an object.
pub fn event(e: &v1::Event) -> Value {
    json!({
        "Cursor": e.cursor,
        "Time": rfc3339(e.time.as_ref()),
        "Type": event_type(e.kind()),
        "Action": e.action,
        "ID": e.subject,
        "Attributes": e.attributes.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect::<Map<_, _>>(),
    })
}

const fn event_type(kind: v1::EventKind) -> &'static str {
    match kind {
        v1::EventKind::Unspecified => "unknown",
        v1::EventKind::Container => "container",
        v1::EventKind::Image => "image",
        v1::EventKind::Node => "node",
        v1::EventKind::Network => "network",
        v1::EventKind::Volume => "volume",
    }
}

/// One event as Docker's line: `TIME container start ID (image=nginx, name=web)`.
pub fn event_line(e: &v1::Event) -> String {
    let mut text = time(e.time.as_ref()).map_or_else(|| "-".into(), |t| format!("{t:.9}"));
    text.push_str(&format!(" {} {} {}", event_type(e.kind()), e.action, e.subject));
    let mut attributes: Vec<String> = e.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    attributes.sort();
    if !attributes.is_empty() {
        text.push_str(&format!(" ({})", attributes.join(", ")));
    }
    crate::output::printable(&text)
}

fn strings(map: &std::collections::HashMap<String, String>) -> Value {
    map.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect::<Map<_, _>>().into()
}

/// `inspect` of an image.
pub fn inspect_image(r: &v1::InspectImageResponse) -> Value {
    let s = r.summary.clone().unwrap_or_default();
    let c = r.config.clone().unwrap_or_default();
    let p = s.platform.clone().unwrap_or_default();
    let set = |items: &[String]| items.iter().map(|i| (i.clone(), json!({}))).collect::<Map<_, _>>();
    json!({
        "Id": s.id,
        "RepoTags": s.tags,
        "RepoDigests": s.digests,
        "ManifestDigest": r.manifest_digest,
        "Created": rfc3339(s.created.as_ref()),
        "Pulled": rfc3339(r.pulled.as_ref()),
        "Author": r.author,
        "Os": p.os,
        "Architecture": p.architecture,
        "Variant": p.variant,
        "Size": s.size_bytes,
        "Containers": s.containers,
        "Annotations": strings(&r.annotations),
        "Config": {
            "User": c.user,
            "ExposedPorts": set(&c.exposed_ports),
            "Env": c.env,
            "Entrypoint": c.entrypoint,
            "Cmd": c.cmd,
            "Volumes": set(&c.volumes),
            "WorkingDir": c.working_dir,
            "StopSignal": c.stop_signal,
            "Labels": strings(&c.labels),
        },
        "Layers": r.layers.iter().map(|l| json!({
            "Digest": l.digest, "DiffId": l.diff_id, "MediaType": l.media_type, "CompressedSize": l.compressed_bytes, "Size": l.size_bytes,
        })).collect::<Vec<_>>(),
        "History": r.history.iter().map(|h| json!({
            "Created": rfc3339(h.created.as_ref()), "CreatedBy": h.created_by, "Comment": h.comment, "EmptyLayer": h.empty_layer,
        })).collect::<Vec<_>>(),
    })
}

/// `info`.
pub fn info(r: &v1::InfoResponse) -> Value {
    json!({
        "Name": r.hostname,
        "OperatingSystem": r.operating_system,
        "KernelVersion": r.kernel_version,
        "Architecture": r.architecture,
        "NCPU": r.cpus,
        "MemTotal": r.memory_bytes,
        "CgroupMode": r.cgroup_mode,
        "CgroupDriver": r.cgroup_driver,
        "LayerStore": r.layer_store,
        "Runtimes": r.runtimes.iter().map(|r| json!({
            "Name": r.name, "Path": r.path, "Version": r.version, "Default": r.is_default,
        })).collect::<Vec<_>>(),
        "AppArmor": r.apparmor,
        "AppArmorByDefault": r.apparmor_by_default,
        "SELinux": state::selinux(r.selinux()),
        "LandlockAbi": r.landlock_abi,
        "LandlockByDefault": r.landlock_by_default,
        "DataRoot": r.data_root,
        "DiskFree": r.disk_free_bytes,
        "DiskTotal": r.disk_total_bytes,
        "Containers": r.containers,
        "ContainersRunning": r.containers_running,
        "ContainersCreated": r.containers_created,
        "ContainersExited": r.containers_exited,
        "Images": r.images,
        "Features": r.features.iter().map(|(k, v)| (k.clone(), Value::from(*v))).collect::<Map<_, _>>(),
        "Warnings": r.warnings,
        "Started": rfc3339(r.started.as_ref()),
        "AgentVersion": r.agent_version,
        "AgentPid": r.agent_pid,
        "BootID": r.boot_id,
        "Caller": r.caller,
        "CallerRole": r.caller_role,
    })
}

#[cfg(test)]
mod tests;
