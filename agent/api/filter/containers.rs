//! Filters of `Containers.List`.

use super::{MAX_FILTERS, label, values_fit};
use crate::api::decode::{Fields, MAX_NAME};
use berth::v1;
use berth_model::network::{PortMapping, Protocol};
use berth_model::spec::MountKind;
use berth_model::supervision::HealthStatus;
use berth_model::{ContainerRecord, Phase, Reference, Timestamp};
use berth_node::ContainerView;
use std::collections::BTreeMap;

const KEYS: &str = "id, name, label, status, health, ancestor, exited, before, since, volume, network, publish, expose";

/// The state that is no phase: a running container whose processes are frozen.
const PAUSED: &str = "paused";
/// Not a phase of its own: it has ended, and is started again soon.
const RESTARTING: &str = "restarting";

/// Of a container without a health check, or that never ran; Docker's word.
const NO_HEALTH: &str = "none";

/// Filters of `Containers.List`.
#[derive(Debug, Default)]
pub struct ContainerFilter {
    values: BTreeMap<String, Vec<String>>,
    /// When the containers were made that `before` and `since` name.
    times: BTreeMap<String, Timestamp>,
}

impl ContainerFilter {
    /// `made`: when a container was made, by its name or id.
    pub fn decode(
        f: &mut Fields,
        list: Vec<v1::ListFilter>,
        made: impl Fn(&str) -> Option<Timestamp>,
    ) -> ContainerFilter {
        f.count("filters", list.len(), MAX_FILTERS);
        let mut filter = ContainerFilter::default();
        for (n, one) in list.into_iter().enumerate() {
            let at = format!("filters[{n}].value");
            f.line(&at, &one.value, MAX_NAME);
            match one.key.as_str() {
                "id" | "name" | "label" | "ancestor" | "volume" | "network" => {}
                "status" => {
                    let known = [PAUSED, RESTARTING].contains(&one.value.as_str()) || phase(&one.value).is_some();
                    f.check(
                        known,
                        at,
                        "must be creating, created, starting, running, paused, restarting, exited or removing",
                    );
                }
                "health" => {
                    let known = one.value == NO_HEALTH || health(&one.value).is_some();
                    f.check(known, at, "must be starting, healthy, unhealthy or none");
                }
                "exited" => f.check(one.value.parse::<i32>().is_ok(), at, "must be an exit code"),
                "before" | "since" => match made(&one.value) {
                    Some(time) => drop(filter.times.insert(one.value.clone(), time)),
                    None => f.wrong(at, format!("no such container: {}", one.value)),
                },
                "publish" | "expose" => {
                    f.check(
                        Ports::parse(&one.value).is_some(),
                        at,
                        "must be PORT, FROM-TO, or one of them with /tcp or /udp",
                    );
                }
                "is-task" => {
                    f.wrong(format!("filters[{n}].key"), "is for services of a swarm, which there are none of here")
                }
                key => f.unknown_filter(n, key, KEYS),
            }
            filter.values.entry(one.key).or_default().push(one.value);
        }
        filter
    }

    /// Docker's rule: who asks for a status, or for what was made around a container, means all of them.
    pub fn wants_all(&self) -> bool {
        ["status", "exited", "before", "since"].iter().any(|key| self.values.contains_key(*key))
    }

    pub fn fits(&self, view: &ContainerView) -> bool {
        let c = &view.record;
        let made = |value: &str| self.times.get(value).copied().unwrap_or_default();
        values_fit(&self.values, |key, value| match key {
            "id" => c.id.as_str().starts_with(value),
            "name" => c.name.contains(value.trim_start_matches('/')),
            "label" => label(value, |key| c.spec.labels.get(key)),
            "status" => c.status() == value,
            "health" => c.supervision.health.as_ref().map(|h| h.status) == health(value),
            "ancestor" => ancestor(value, c),
            "exited" => c.phase == Phase::Exited && c.exit.as_ref().is_some_and(|e| value.parse() == Ok(e.code)),
            "before" => c.created < made(value),
            "since" => c.created > made(value),
            "volume" => c.spec.mounts.iter().any(|m| {
                m.target == value
                    || match &m.kind {
                        MountKind::Bind { source, .. } => source == value,
                        MountKind::Volume(volume) => volume.name == value,
                        _ => false,
                    }
            }),
            "network" => network(value, c),
            "publish" => ports(c).iter().any(|p| p.host_port > 0 && in_range(value, p.host_port, p.protocol)),
            "expose" => exposed(view).into_iter().any(|(port, protocol)| in_range(value, port, protocol)),
            _ => false,
        })
    }
}

fn network(wanted: &str, c: &ContainerRecord) -> bool {
    crate::api::endpoints::names(c).iter().any(|n| n == wanted) || c.networks.iter().any(|n| n.bridge == wanted)
}

/// With the ports that the agent chose, while it runs.
fn ports(c: &ContainerRecord) -> &[PortMapping] {
    c.networks.main().map_or(&c.spec.ports, |n| &n.ports)
}

/// What the container publishes, and what it or its image says that it listens on.
fn exposed(view: &ContainerView) -> Vec<(u16, Protocol)> {
    let published = ports(&view.record).iter().map(|p| (p.container_port, p.protocol));
    let of_image = view.image.config.exposed_ports.iter().chain(&view.record.spec.expose).filter_map(|text| {
        let ports = Ports::parse(text)?;
        Some((ports.from, ports.protocol.unwrap_or(Protocol::Tcp)))
    });
    published.chain(of_image).collect()
}

/// `80`, `8000-8010`, `53/udp`.
struct Ports {
    from: u16,
    to: u16,
    /// None: any.
    protocol: Option<Protocol>,
}

impl Ports {
    fn parse(text: &str) -> Option<Ports> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, None),
            Some((ports, "tcp")) => (ports, Some(Protocol::Tcp)),
            Some((ports, "udp")) => (ports, Some(Protocol::Udp)),
            Some((ports, "sctp")) => (ports, Some(Protocol::Sctp)),
            Some(_) => return None,
        };
        let (from, to) = ports.split_once('-').unwrap_or((ports, ports));
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (from > 0 && from <= to).then_some(Ports { from, to, protocol })
    }
}

fn in_range(range: &str, port: u16, protocol: Protocol) -> bool {
    Ports::parse(range).is_some_and(|r| (r.from..=r.to).contains(&port) && r.protocol.is_none_or(|p| p == protocol))
}

fn phase(text: &str) -> Option<Phase> {
    [Phase::Creating, Phase::Created, Phase::Starting, Phase::Running, Phase::Exited, Phase::Removing]
        .into_iter()
        .find(|phase| phase.name() == text)
}

fn health(text: &str) -> Option<HealthStatus> {
    [HealthStatus::Starting, HealthStatus::Healthy, HealthStatus::Unhealthy].into_iter().find(|h| h.name() == text)
}

/// An image's name as it was asked for, or its id or a prefix of that.
fn ancestor(filter: &str, c: &ContainerRecord) -> bool {
    let hex = filter.strip_prefix("sha256:").unwrap_or(filter);
    if hex.len() >= 4 && c.image_id.hex().starts_with(hex) {
        return true;
    }
    match (filter.parse::<Reference>(), c.spec.image.parse::<Reference>()) {
        (Ok(wanted), Ok(is)) => wanted == is,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::digest::Algorithm;
    use berth_model::image::ImageConfig;
    use berth_model::spec::Mount;
    use berth_model::supervision::{HealthState, Supervision};
    use berth_model::{ContainerId, ContainerSpec, Digest, ExitStatus};
    use std::sync::Arc;

    fn record() -> ContainerRecord {
        ContainerRecord {
            id: ContainerId::from_bytes([0xab; 32]),
            name: "web-1".into(),
            spec: ContainerSpec {
                image: "nginx".into(),
                labels: [("app".to_owned(), "shop".to_owned())].into(),
                ..Default::default()
            },
            image_id: Digest::from_bytes(Algorithm::Sha256, &[0xcd; 32]),
            layers: vec![],
            created: Timestamp(1),
            phase: Phase::Exited,
            started: None,
            finished: None,
            exit: Some(ExitStatus { code: 3, ..Default::default() }),
            error: None,
            process: None,
            networks: Default::default(),
            request: None,
            starts: 1,
            start_request: None,
            warnings: Vec::new(),
            paused: false,
            remove_volumes: false,
            userns: Default::default(),
            selinux: Default::default(),
            supervision: Supervision {
                health: Some(HealthState { status: HealthStatus::Unhealthy, ..HealthState::default() }),
                ..Supervision::default()
            },
        }
    }

    fn fits(filters: &[(&str, &str)]) -> bool {
        let mut f = Fields::default();
        let list = filters.iter().map(|(k, v)| v1::ListFilter { key: (*k).into(), value: (*v).into() }).collect();
        let filter = ContainerFilter::decode(&mut f, list, made);
        assert_eq!(f.errors(), []);
        filter.fits(&view())
    }

    /// "old" was made before, "new" after.
    fn made(name: &str) -> Option<Timestamp> {
        [("old", Timestamp(0)), ("new", Timestamp(9))].into_iter().find(|(n, _)| *n == name).map(|(_, time)| time)
    }

    fn view() -> ContainerView {
        let mut record = record();
        record.spec.ports = vec![PortMapping {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
            ..PortMapping::default()
        }];
        record.spec.mounts = vec![Mount {
            target: "/data".into(),
            read_only: false,
            kind: MountKind::Tmpfs { size_bytes: None, mode: None, exec: false },
            relabel: Default::default(),
        }];
        let image = berth_model::image::ImageRecord {
            id: record.image_id.clone(),
            manifest: record.image_id.clone(),
            target: record.image_id.clone(),
            platform: berth_model::Platform { os: "linux".into(), architecture: "amd64".into(), variant: None },
            layers: Vec::new(),
            config: ImageConfig { exposed_ports: vec!["53/udp".into()], ..Default::default() },
            created: None,
            pulled: Timestamp(1),
            repo_digests: Vec::new(),
            author: None,
            history: Vec::new(),
            annotations: Default::default(),
        };
        let effective = berth_runtime::Effective {
            args: Vec::new(),
            env: Vec::new(),
            workdir: "/".into(),
            user: String::new(),
            stop_signal: 15,
        };
        ContainerView { record: Arc::new(record), effective: Arc::new(effective), image: Arc::new(image) }
    }

    #[test]
    fn containers_are_filtered_as_docker_does() {
        assert!(fits(&[]));
        for good in [
            ("id", "abab"),
            ("name", "web"),
            ("name", "/web-1"),
            ("label", "app"),
            ("label", "app=shop"),
            ("status", "exited"),
            ("health", "unhealthy"),
            ("exited", "3"),
            ("ancestor", "nginx:latest"),
            ("ancestor", "docker.io/library/nginx"),
            ("ancestor", "sha256:cdcd"),
            ("before", "new"),
            ("since", "old"),
            ("volume", "/data"),
            ("network", "bridge"),
            ("publish", "8080"),
            ("publish", "8000-8100/tcp"),
            ("expose", "80/tcp"),
            ("expose", "53"),
            ("expose", "50-60/udp"),
        ] {
            assert!(fits(&[good]), "{good:?}");
        }
        for bad in [
            ("id", "cd"),
            ("name", "db"),
            ("label", "app=x"),
            ("label", "shop"),
            ("status", "running"),
            ("health", "healthy"),
            ("health", "none"),
            ("exited", "0"),
            ("ancestor", "nginx:1"),
            ("before", "old"),
            ("since", "new"),
            ("volume", "/dat"),
            ("network", "host"),
            ("publish", "80"),
            ("publish", "8080/udp"),
            ("expose", "53/tcp"),
            ("expose", "8080"),
        ] {
            assert!(!fits(&[bad]), "{bad:?}");
            if bad.0 != "name" {
                assert!(!fits(&[bad, ("name", "web")]), "each key must fit");
            }
        }
        assert!(fits(&[("name", "db"), ("name", "web")]), "one value of a key is enough");
    }

    #[test]
    fn unknown_filters_are_refused() {
        let mut f = Fields::default();
        let one = |k: &str, v: &str| v1::ListFilter { key: k.into(), value: v.into() };
        let wrong = [
            one("colour", "x"),
            one("status", "asleep"),
            one("health", "fine"),
            one("exited", "x"),
            one("is-task", "true"),
            one("since", "nobody"),
            one("publish", "0"),
            one("expose", "9-1"),
        ];
        ContainerFilter::decode(&mut f, wrong.into(), made);
        let fields: Vec<&str> = f.errors().iter().map(|(field, _)| field.as_str()).collect();
        let values = ["filters[5].value", "filters[6].value", "filters[7].value"];
        let keys = ["filters[0].key", "filters[1].value", "filters[2].value", "filters[3].value", "filters[4].key"];
        assert_eq!(fields, [&keys[..], &values].concat());
    }
}
