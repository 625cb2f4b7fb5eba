//! Who may do what: one table over all RPCs. What has no rule is denied.

use berth::role::Role;
use berth_model::ContainerSpec;
use berth_model::network::NetworkMode;
use berth_model::spec::{MountKind, Seccomp};

/// How long a call may last that brings no deadline of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duration {
    /// As the configuration says.
    Bounded,
    /// As long as what it follows; it is ended when the agent stops.
    Endless,
}

/// What holds for one RPC.
#[derive(Debug)]
pub struct Rule {
    /// `/package.Service/Method`, HTTP/2's path.
    pub path: &'static str,
    /// The least role that may call it.
    pub least: Role,
    /// It changes something: it leaves an audit record.
    pub mutates: bool,
    pub duration: Duration,
}

const fn look(path: &'static str) -> Rule {
    Rule { path, least: Role::Viewer, mutates: false, duration: Duration::Bounded }
}

const fn follow(path: &'static str) -> Rule {
    Rule { path, least: Role::Viewer, mutates: false, duration: Duration::Endless }
}

const fn change(path: &'static str) -> Rule {
    Rule { path, least: Role::Operator, mutates: true, duration: Duration::Bounded }
}

const fn long_change(path: &'static str) -> Rule {
    Rule { path, least: Role::Operator, mutates: true, duration: Duration::Endless }
}

const fn admin_change(path: &'static str) -> Rule {
    Rule { path, least: Role::Admin, mutates: true, duration: Duration::Bounded }
}

/// Sorted by path: it is searched by halves.
///
/// Some options of these calls need more than the call: see [`beyond_operator`].
pub static RULES: &[Rule] = &[
    long_change("/berth.v1.Containers/Attach"),
    long_change("/berth.v1.Containers/Create"),
    long_change("/berth.v1.Containers/Exec"),
    look("/berth.v1.Containers/Inspect"),
    change("/berth.v1.Containers/Kill"),
    look("/berth.v1.Containers/List"),
    follow("/berth.v1.Containers/Logs"),
    change("/berth.v1.Containers/Pause"),
    long_change("/berth.v1.Containers/Prune"),
    change("/berth.v1.Containers/Remove"),
    change("/berth.v1.Containers/Rename"),
    change("/berth.v1.Containers/Resize"),
    long_change("/berth.v1.Containers/Restart"),
    long_change("/berth.v1.Containers/Run"),
    change("/berth.v1.Containers/Start"),
    follow("/berth.v1.Containers/Stats"),
    long_change("/berth.v1.Containers/Stop"),
    long_change("/berth.v1.Containers/StopAll"),
    look("/berth.v1.Containers/Top"),
    change("/berth.v1.Containers/Unpause"),
    change("/berth.v1.Containers/Update"),
    change("/berth.v1.Containers/UpdatePorts"),
    follow("/berth.v1.Containers/Wait"),
    long_change("/berth.v1.Files/Commit"),
    long_change("/berth.v1.Files/CopyFrom"),
    long_change("/berth.v1.Files/CopyTo"),
    follow("/berth.v1.Files/Diff"),
    long_change("/berth.v1.Files/Export"),
    look("/berth.v1.Images/Inspect"),
    look("/berth.v1.Images/List"),
    long_change("/berth.v1.Images/Prune"),
    long_change("/berth.v1.Images/Pull"),
    change("/berth.v1.Images/Remove"),
    change("/berth.v1.Images/Tag"),
    change("/berth.v1.Networks/Connect"),
    change("/berth.v1.Networks/Create"),
    change("/berth.v1.Networks/Disconnect"),
    look("/berth.v1.Networks/Inspect"),
    look("/berth.v1.Networks/List"),
    change("/berth.v1.Networks/Prune"),
    change("/berth.v1.Networks/Remove"),
    long_change("/berth.v1.Node/CheckImages"),
    long_change("/berth.v1.Node/CollectGarbage"),
    admin_change("/berth.v1.Node/ConfirmUpgrade"),
    look("/berth.v1.Node/DiskUsage"),
    look("/berth.v1.Node/Doctor"),
    follow("/berth.v1.Node/Events"),
    look("/berth.v1.Node/Info"),
    admin_change("/berth.v1.Node/UpgradeAgent"),
    look("/berth.v1.Node/UpgradeStatus"),
    look("/berth.v1.Node/Version"),
    long_change("/berth.v1.Volumes/Clone"),
    long_change("/berth.v1.Volumes/Create"),
    long_change("/berth.v1.Volumes/Export"),
    long_change("/berth.v1.Volumes/Import"),
    look("/berth.v1.Volumes/Inspect"),
    look("/berth.v1.Volumes/List"),
    long_change("/berth.v1.Volumes/Prune"),
    long_change("/berth.v1.Volumes/Remove"),
    look("/grpc.health.v1.Health/Check"),
    follow("/grpc.health.v1.Health/Watch"),
    follow("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
];

/// The rule of an RPC. `None`: nobody may call it.
pub fn rule(path: &str) -> Option<&'static Rule> {
    index(path).map(|index| &RULES[index])
}

/// Where in [`RULES`] it is.
pub fn index(path: &str) -> Option<usize> {
    RULES.binary_search_by(|rule| rule.path.cmp(path)).ok()
}

/// Docker's default capabilities: a container has these anyway (moby, oci/caps/defaults.go).
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What of a container leads to root on the host, and so needs the admin role; in the words of its options.
///
/// Docker's remote access knows no such line: who may create a container there owns the host. Here an operator
/// creates containers that stay contained, and cannot reach into an admin's that is not.
pub fn beyond_operator(spec: &ContainerSpec) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |yes: bool, what: &str| {
        if yes {
            found.push(what.to_owned());
        }
    };
    add(spec.privileged, "privileged");
    add(spec.host_pid, "the host's pid namespace");
    add(spec.host_ipc, "the host's ipc namespace");
    add(spec.host_uts, "the host's uts namespace");
    add(spec.network == NetworkMode::Host, "the host's network");
    // A profile of one's own may allow everything, so it counts as none.
    add(spec.seccomp != Seccomp::Default, "a seccomp profile other than the default");
    // The agent connects there as root of the host, and the container chooses what it sends.
    add(spec.log.own_address, &format!("a log collector of its own, {}", spec.log.syslog.address));
    for mount in &spec.mounts {
        match &mount.kind {
            MountKind::Bind { source, .. } => add(true, &format!("the host's path {source}")),
            MountKind::Volume(volume) => {
                add(berth_volume::is_of_host(&volume.options), "a volume with options that reach the host");
            }
            MountKind::Tmpfs { .. } | MountKind::Image(_) => {}
        }
    }
    for device in &spec.devices {
        add(true, &format!("the host's device {}", device.host_path));
    }
    for capability in &spec.cap_add {
        let name = capability.strip_prefix("CAP_").unwrap_or(capability);
        add(!DEFAULT_CAPABILITIES.contains(&name), &format!("the capability {capability}"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::spec::{Device, Mount, Propagation};
    use prost::Message;
    use prost_types::FileDescriptorSet;
    use std::collections::BTreeSet;

    /// Every RPC that is served, from the descriptors that reflection shows.
    fn served() -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        let sets = [
            berth::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                    }
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_has_a_rule_and_every_rule_an_rpc() {
        let ruled: BTreeSet<String> = RULES.iter().map(|rule| rule.path.to_owned()).collect();
        assert_eq!(ruled, served());
        assert_eq!(ruled.len(), RULES.len(), "no rule twice");
    }

    #[test]
    fn the_table_is_sorted_and_every_rule_is_found() {
        assert!(RULES.is_sorted_by(|a, b| a.path < b.path));
        for one in RULES {
            assert!(std::ptr::eq(rule(one.path).unwrap(), one));
        }
        for unknown in ["", "/", "/berth.v1.Containers/", "/berth.v1.Containers/list", "/berth.v1.Images/List/"] {
            assert!(rule(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn a_viewer_changes_nothing() {
        for rule in RULES {
            assert_eq!(rule.mutates, rule.least > Role::Viewer, "{}", rule.path);
        }
    }

    #[test]
    fn what_leads_to_root_is_the_admins() {
        assert_eq!(beyond_operator(&ContainerSpec::default()), Vec::<String>::new());
        let plain = ContainerSpec {
            cap_add: vec!["CHOWN".into(), "CAP_KILL".into()],
            mounts: vec![Mount {
                target: "/t".into(),
                read_only: false,
                kind: MountKind::Tmpfs { size_bytes: None, mode: None, exec: false },
            }],
            ..Default::default()
        };
        assert_eq!(beyond_operator(&plain), Vec::<String>::new());
        let bind = MountKind::Bind {
            source: "/etc".into(),
            propagation: Propagation::Rprivate,
            recursive: true,
            create_source: false,
            writable_below: false,
        };
        let d = ContainerSpec::default;
        for (spec, what) in [
            (ContainerSpec { privileged: true, ..d() }, "privileged"),
            (ContainerSpec { host_pid: true, ..d() }, "pid"),
            (ContainerSpec { host_ipc: true, ..d() }, "ipc"),
            (ContainerSpec { host_uts: true, ..d() }, "uts"),
            (ContainerSpec { network: NetworkMode::Host, ..d() }, "network"),
            (ContainerSpec { seccomp: Seccomp::Unconfined, ..d() }, "seccomp"),
            (ContainerSpec { seccomp: Seccomp::Profile("{}".into()), ..d() }, "seccomp"),
            (ContainerSpec { mounts: vec![Mount { target: "/x".into(), read_only: true, kind: bind }], ..d() }, "/etc"),
            (
                ContainerSpec {
                    devices: vec![Device {
                        host_path: "/dev/sda".into(),
                        container_path: "/dev/sda".into(),
                        permissions: "r".into(),
                    }],
                    ..d()
                },
                "/dev/sda",
            ),
            (ContainerSpec { cap_add: vec!["ALL".into()], ..d() }, "ALL"),
            (ContainerSpec { cap_add: vec!["SYS_ADMIN".into()], ..d() }, "SYS_ADMIN"),
        ] {
            let found = beyond_operator(&spec);
            assert!(found.len() == 1 && found[0].contains(what), "{what}: {found:?}");
        }
    }
}
