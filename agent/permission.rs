//! Options that reach the host, and who may use them: each is a permission of its own.
//!
//! An admin has all of them. An operator has those of `[policy.operator]` in the configuration, by default none: what an operator makes
//! stays contained, and an operator cannot go into an admin's container that is not. Docker's remote access knows no such line: whoever
//! may create a container there owns the host.

mod need;

pub use need::{NAMESPACES, Need, ULIMITS};

use crate::leads::{Answer, leads_to};
use berth::role::Role;
use berth_model::ContainerSpec;
use berth_model::network::{NetworkDriver, NetworkMode};
use berth_model::spec::{MountKind, Propagation, Seccomp, UsernsMode};
use berth_node::{HostVolume, Node};
use berth_volume::Backing;
use berth_volume::held::Shared;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::{Component, Path};
use std::time::Duration;

/// For where the permitted folders are, when the agent starts.
const SETTLE: Duration = Duration::from_secs(3);

/// `[policy]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    pub operator: Grants,
}

/// What a role may use beside what stays contained.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// `--privileged`, also of exec.
    pub privileged: bool,
    /// Of [`NAMESPACES`].
    pub host_namespaces: Vec<String>,
    /// Folders of the host; what is below them may be mounted, and links do not lead out of them.
    pub host_paths: Vec<String>,
    /// Where these are; see [`Policy::settle`].
    #[serde(skip)]
    pub shared: Option<Shared>,
    /// Nodes, or folders of nodes.
    pub devices: Vec<String>,
    /// Beside Docker's default set; `ALL` is a name of its own.
    pub capabilities: Vec<String>,
    /// Another seccomp profile than the default one.
    pub unconfined: bool,
    /// Another AppArmor profile than the agent's own, or none.
    pub apparmor: bool,
    /// SELinux labels of the caller's choice, or none.
    pub selinux: bool,
    /// Containers without Landlock where the agent's default is with it.
    pub landlock: bool,
    /// Containers whose programs get more rights than who executes them, where the agent's default is without.
    pub new_privileges: bool,
    /// Containers whose own files may take more of the disk than the agent's default.
    pub storage: bool,
    /// Volumes with the local driver's type, device and o.
    pub volume_options: bool,
    /// Collectors that the agent sends a container's log to.
    pub log_collectors: bool,
    /// Making networks of the driver macvlan.
    pub macvlan: bool,
    /// Making networks of the driver cni.
    pub cni: bool,
    /// Beside private ones: what networks may be made with, `203.0.113.0/24`.
    pub subnets: Vec<String>,
    /// Names of one's own choice for bridges, which rules of the host may be about.
    pub bridge_names: bool,
    /// Files of the container's cgroup by name: some keep memory or processors from everybody else (memory.min, cpuset.cpus.partition).
    /// A slice of one's own choice.
    pub cgroup_files: bool,
    /// The least that may be asked for; below 0 others are killed first when memory runs out.
    pub oom_score_adj: i32,
    /// Of [`ULIMITS`].
    pub ulimits: Vec<String>,
}

/// What of a container reaches the host, by its spec alone.
pub fn of_spec(spec: &ContainerSpec) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut add = |yes: bool, need: Need| {
        if yes && !needs.contains(&need) {
            needs.push(need);
        }
    };
    let namespace = |kind: &str| Need::HostNamespace(kind.to_owned());
    add(spec.privileged, Need::Privileged);
    add(spec.host_pid, namespace("pid"));
    add(spec.host_ipc, namespace("ipc"));
    add(spec.host_uts, namespace("uts"));
    add(spec.network == NetworkMode::Host, namespace("network"));
    let chosen = matches!(spec.userns, UsernsMode::Host | UsernsMode::Keep { .. } | UsernsMode::Range { .. });
    add(chosen, namespace("user"));
    add(spec.seccomp != Seccomp::Default, Need::Unconfined);
    add(!["", berth_runtime::DEFAULT_PROFILE].contains(&spec.apparmor.as_str()), Need::Apparmor);
    add(!spec.selinux.is_default(), Need::Selinux);
    // The record of a container that never was to have it says nothing.
    add(spec.landlock == Some(false), Need::Landlock);
    add(spec.new_privileges, Need::NewPrivileges);
    add(spec.storage.beyond_default, Need::Storage);
    add(spec.log.own_address, Need::LogCollector(spec.log.syslog.address.to_string()));
    // With the host's root in it the limits would be the container's own to lift.
    let limits = spec.writable_cgroups && spec.userns == UsernsMode::Host;
    add(limits || !spec.resources.unified.is_empty(), Need::CgroupFiles);
    if let Some(score) = spec.oom_score_adj {
        add(score < 0, Need::OomScore(score));
    }
    for limit in &spec.ulimits {
        // A nice value of 20 less the limit: up to 0 everybody's.
        let usual = if limit.name == "nice" { 20 } else { 0 };
        add(ULIMITS.contains(&limit.name.as_str()) && limit.hard > usual, Need::Ulimit(limit.name.clone()));
    }
    // Another slice has other limits, or none of them.
    add(spec.cgroup_parent.is_some(), Need::CgroupFiles);
    for mount in &spec.mounts {
        match &mount.kind {
            MountKind::Bind { source, propagation, .. } => {
                add(true, Need::HostPath(source.clone()));
                add(matches!(propagation, Propagation::Shared | Propagation::Rshared), namespace("mount"));
            }
            MountKind::Volume(volume) => add(berth_volume::is_of_host(&volume.options), Need::VolumeOptions),
            MountKind::Tmpfs { .. } | MountKind::Image(_) => {}
        }
    }
    for device in &spec.devices {
        add(true, Need::Device(device.host_path.clone()));
    }
    for name in &spec.cdi_devices {
        add(true, Need::Device(name.clone()));
    }
    for rule in &spec.device_rules {
        add(true, Need::Device(rule.to_string()));
    }
    for capability in &spec.cap_add {
        let upper = capability.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        add(!berth_runtime::DEFAULT_CAPABILITIES.contains(&name), Need::Capability(name.to_owned()));
    }
    needs
}

/// What of a new container reaches the host, by its spec and by what it names here: a volume that is a folder of the host is one for
/// whoever uses it, and whoever is in another container's network namespace is in a part of that container.
pub fn of_new(node: &Node, spec: &ContainerSpec) -> Vec<Need> {
    let mut needs = of_spec(spec);
    for mount in &spec.mounts {
        if let MountKind::Volume(volume) = &mount.kind
            && !volume.name.is_empty()
        {
            needs.extend(of_volume(node, &volume.name));
        }
    }
    // Nobody's namespace is joined who has joined another's: this is one step deep.
    if let NetworkMode::Container(other) = &spec.network
        && let Ok(found) = node.container(other)
    {
        needs.extend(of_container(node, &found.view.record.spec));
    }
    needs
}

/// What a process inside this container reaches.
pub fn of_container(node: &Node, spec: &ContainerSpec) -> Vec<Need> {
    let mut needs = of_new(node, spec);
    for mount in &spec.mounts {
        // Whoever made it was not held inside a folder: links count.
        if let MountKind::Bind { source, within: None, .. } = &mount.kind {
            needs.push(Need::Links(source.clone()));
        }
    }
    needs
}

/// What of a network reaches the host. `subnets`: those that the caller has chosen.
pub fn of_network(driver: NetworkDriver, subnets: &[String], bridge: Option<&str>) -> Vec<Need> {
    match driver {
        NetworkDriver::Macvlan => vec![Need::Macvlan],
        NetworkDriver::Cni => vec![Need::Cni],
        NetworkDriver::Bridge | NetworkDriver::Host | NetworkDriver::Null => {
            let private = |subnet: &&String| PRIVATE.iter().any(|p| is_part(subnet, p));
            let subnets = subnets.iter().filter(|s| !private(s)).cloned().map(Need::Subnet);
            let name = bridge.filter(|name| !name.starts_with("br-"));
            subnets.chain(name.map(|name| Need::BridgeName(name.to_owned()))).collect()
        }
    }
}

/// RFC 1918 and 4193: nobody's on the Internet.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// Address bits, from the left, and length; `None`: no subnet.
fn subnet(text: &str) -> Option<(bool, u128, u32)> {
    let (address, len) = text.split_once('/')?;
    let len: u32 = len.parse().ok()?;
    let (four, bits, most) = match address.parse().ok()? {
        IpAddr::V4(a) => (true, u128::from(a.to_bits()) << 96, 32),
        IpAddr::V6(a) => (false, a.to_bits(), 128),
    };
    (len <= most).then_some((four, bits, len))
}

/// Whether all of a subnet's addresses are in another one.
fn is_part(inner: &str, outer: &str) -> bool {
    let (Some((four, bits, len)), Some((of_four, of_bits, of_len))) = (subnet(inner), subnet(outer)) else {
        return false;
    };
    let differ = (bits ^ of_bits).checked_shr(128 - of_len).unwrap_or(0);
    four == of_four && len >= of_len && differ == 0
}

/// What using a volume reaches, when there is such a one.
pub fn of_volume(node: &Node, name: &str) -> Vec<Need> {
    let Ok(found) = node.volume(name) else { return Vec::new() };
    match Backing::parse(&found.record.options) {
        Ok(Backing::Bind { path, .. }) => vec![Need::HostPath(path.clone()), Need::Links(path)],
        _ => Vec::new(),
    }
}

/// Of the volumes that a spec names, those that are folders of the host.
pub fn host_volumes(node: &Node, spec: &ContainerSpec) -> Vec<HostVolume> {
    let names = spec.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume(volume) => Some(&volume.name),
        _ => None,
    });
    let of_host = |name: &String| {
        let found = node.volume(name).ok()?.record;
        let is_bind = matches!(Backing::parse(&found.options), Ok(Backing::Bind { .. }));
        is_bind.then(|| HostVolume { name: name.clone(), created: found.created })
    };
    names.filter_map(of_host).collect()
}

/// `needs`, with what links lead to in their place. An admin may use whatever that is, so nobody asks for one. A path that does not answer
/// stays what it was, and what comes behind it is not asked: one of them is enough for no.
pub fn follow(role: Option<Role>, needs: &[Need]) -> Vec<Need> {
    let (mut followed, mut silent) = (Vec::new(), false);
    for need in needs {
        match need {
            Need::Links(_) if role == Some(Role::Admin) => {}
            Need::Links(path) if !silent => match leads_to(path) {
                Answer::To(real) if real != *path => followed.push(Need::HostPath(real)),
                Answer::To(_) | Answer::Nowhere => {}
                Answer::None => {
                    silent = true;
                    followed.push(need.clone());
                }
            },
            need => followed.push(need.clone()),
        }
    }
    followed
}

/// Why something is not permitted.
#[derive(PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The role has no permission for it.
    Denied(String),
    /// Nobody can tell: this path of the host does not answer.
    Silent(String),
}

impl Policy {
    /// Whether a role may use all of `needs`, which [`follow`] has been over. What is certain is said first.
    pub fn decide(&self, role: Option<Role>, needs: &[Need], going_in: bool) -> Result<(), Refusal> {
        let (mut missing, mut silent) = (Vec::new(), None);
        for need in needs {
            match (role, need) {
                (Some(Role::Admin), _) => {}
                (Some(Role::Operator), Need::Links(path)) => silent = silent.or_else(|| Some(path.clone())),
                (Some(Role::Operator), need) if self.operator.permits(need) => {}
                _ => missing.push(need),
            }
        }
        match silent {
            _ if !missing.is_empty() => Err(Refusal::Denied(refusal(&missing, going_in))),
            Some(path) => Err(Refusal::Silent(path)),
            None => Ok(()),
        }
    }

    /// Holds the bind mounts of who is no admin inside the folders that are permitted, however links there are changed later.
    ///
    /// # Errors
    /// The folder that held one of them when it was permitted is no longer found: a mount that is held nowhere is not made.
    pub fn confine(&self, role: Option<Role>, spec: &mut ContainerSpec) -> Result<(), Refusal> {
        for mount in &mut spec.mounts {
            if let MountKind::Bind { source, within, .. } = &mut mount.kind {
                *within = match role {
                    Some(Role::Admin) => None,
                    _ => match self.operator.folder_of(source) {
                        None => return Err(Refusal::Denied(refusal(&[&Need::HostPath(source.clone())], false))),
                        folder => folder,
                    },
                };
            }
        }
        Ok(())
    }

    /// Finds out where the permitted folders are, as they are then until the agent ends; with what is not used, for people.
    pub fn settle(&mut self) -> Vec<String> {
        let given = self.operator.host_paths.clone();
        if given.is_empty() {
            return Vec::new();
        }
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let asked = std::thread::Builder::new().name("paths".to_owned()).spawn(move || {
            let _ = answer.send(Shared::settle(&given));
        });
        // A folder of a network that does not answer would hold the agent's start up.
        let settled = asked.ok().and_then(|_| answered.recv_timeout(SETTLE).ok());
        let (shared, wrong) = settled.unwrap_or_else(|| {
            let why = format!(
                "the host did not say within {SETTLE:?} where they are: links on the way to them are not followed"
            );
            (self.operator.shared(), vec![why])
        });
        self.operator.shared = Some(shared);
        wrong
    }

    /// Key and reason of what cannot be.
    pub fn wrong(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let operator = &self.operator;
        for kind in operator.host_namespaces.iter().filter(|k| !NAMESPACES.contains(&k.as_str())) {
            let why = format!("{kind:?} is none of {}", NAMESPACES.join(", "));
            wrong.push(("policy.operator.host_namespaces", why));
        }
        let lists =
            [("policy.operator.host_paths", &operator.host_paths), ("policy.operator.devices", &operator.devices)];
        for (key, list) in lists {
            let is_cdi = |p: &str| {
                key.ends_with("devices")
                    && (is_rule(p) || berth_node::check_cdi_kind(p).is_ok() || p.parse::<berth_node::CdiName>().is_ok())
            };
            for path in list.iter().filter(|p| parts(p).is_none() && !is_cdi(p)) {
                wrong.push((key, format!("{path:?} must be an absolute path without '..'")));
            }
        }
        for name in &operator.capabilities {
            let short = name.strip_prefix("CAP_").unwrap_or(name);
            if short != "ALL" && berth_sys::cap::bit(short).is_none() {
                wrong.push(("policy.operator.capabilities", format!("{name:?} is no capability, such as NET_ADMIN")));
            }
        }
        for name in operator.ulimits.iter().filter(|name| !ULIMITS.contains(&name.as_str())) {
            wrong.push(("policy.operator.ulimits", format!("{name:?} is none of {}", ULIMITS.join(", "))));
        }
        for text in operator.subnets.iter().filter(|text| subnet(text).is_none()) {
            let why = format!("{text:?} is no address with a prefix length, such as 203.0.113.0/24");
            wrong.push(("policy.operator.subnets", why));
        }
        if !(-1000..=0).contains(&operator.oom_score_adj) {
            wrong.push(("policy.operator.oom_score_adj", "must lie between -1000 and 0".to_owned()));
        }
        wrong
    }
}

/// As a rule of devices is written: `c 189:*`, `b 8:0`, `c *:*`.
fn is_rule(text: &str) -> bool {
    let number = |n: &str, most: u32| n == "*" || n.parse().is_ok_and(|n: u32| n <= most);
    let rest = text.strip_prefix("c ").or_else(|| text.strip_prefix("b "));
    rest.and_then(|rest| rest.split_once(':')).is_some_and(|(major, minor)| {
        number(major, 4095) && number(minor, (1 << 20) - 1) && (major != "*" || minor == "*")
    })
}

impl Grants {
    fn permits(&self, need: &Need) -> bool {
        match need {
            Need::Privileged => self.privileged,
            Need::HostNamespace(kind) => self.host_namespaces.contains(kind),
            Need::HostPath(path) => self.folder_of(path).is_some(),
            Need::Device(name) if !name.starts_with('/') => {
                // All of a CDI kind; all minors of a major number.
                let kind = name.split('=').next().unwrap_or(name);
                let major = name.split_once(':').map(|(major, _)| format!("{major}:*"));
                self.devices.iter().any(|given| given == name || given == kind || Some(given) == major.as_ref())
            }
            Need::Device(path) => self.devices.iter().any(|folder| is_below(path, folder)),
            Need::Capability(name) => self.capabilities.iter().any(|c| c.strip_prefix("CAP_").unwrap_or(c) == name),
            Need::Unconfined => self.unconfined,
            Need::Apparmor => self.apparmor,
            Need::Selinux => self.selinux,
            Need::Landlock => self.landlock,
            Need::NewPrivileges => self.new_privileges,
            Need::Storage => self.storage,
            Need::VolumeOptions => self.volume_options,
            Need::LogCollector(_) => self.log_collectors,
            Need::Macvlan => self.macvlan,
            Need::Cni => self.cni,
            Need::Subnet(subnet) => self.subnets.iter().any(|permitted| is_part(subnet, permitted)),
            Need::BridgeName(_) => self.bridge_names,
            Need::CgroupFiles => self.cgroup_files,
            Need::OomScore(value) => *value >= self.oom_score_adj,
            Need::Ulimit(name) => self.ulimits.contains(name),
            Need::Links(_) | Need::Unknown(_) => false,
        }
    }

    /// The folders that operators may mount, and so change.
    pub fn shared(&self) -> Shared {
        self.shared.clone().unwrap_or_else(|| Shared::by_text(&self.host_paths))
    }

    /// The permitted folder that a path of the host is in.
    fn folder_of(&self, path: &str) -> Option<String> {
        parts(path)?;
        self.shared().by_name(Path::new(path)).map(|folder| folder.given().to_owned())
    }
}

/// The names of an absolute path; `None`: it is none, or has `..`.
fn parts(path: &str) -> Option<Vec<&std::ffi::OsStr>> {
    let path = Path::new(path);
    if !path.is_absolute() {
        return None;
    }
    let name = |part: Component<'_>| match part {
        Component::Normal(_) | Component::RootDir => Some(()),
        _ => None,
    };
    path.components().try_for_each(name)?;
    Some(path.iter().skip(1).collect())
}

/// Whether a path is the folder or below it, by its text.
fn is_below(path: &str, folder: &str) -> bool {
    match (parts(path), parts(folder)) {
        (Some(path), Some(folder)) => path.starts_with(&folder),
        _ => false,
    }
}

/// Why a call is denied.
pub fn refusal(missing: &[&Need], going_in: bool) -> String {
    let words: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let mut keys: Vec<String> =
        missing.iter().filter(|n| !n.key().is_empty()).map(|n| format!("policy.operator.{}", n.key())).collect();
    keys.dedup();
    let words = words.join(", ");
    let what = if going_in { format!("going into a container with {words}") } else { words };
    if keys.is_empty() {
        return format!("{what} needs the admin role");
    }
    format!("{what} needs the admin role, or {} in the agent's configuration", keys.join(" and "))
}

#[cfg(test)]
#[path = "permission_tests.rs"]
mod tests;
