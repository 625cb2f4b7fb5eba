//! What the host is and what runs on it.

use crate::node::Inner;
use crate::view::{NodeInfo, RuntimeView, Selinux};
use berth_model::list::List;
use berth_model::{Phase, Platform};
use berth_runtime::{OWN_RUNTIME, OtherFound, SelinuxState};
use berth_sys::store;

pub(crate) fn info(inner: &Inner) -> NodeInfo {
    let uname = store::uname();
    let mut warnings = inner.runtime.warnings();
    let disk = store::disk_space(&inner.config.data_root).unwrap_or_else(|e| {
        warnings.push(format!("the space of {} cannot be told: {e}", inner.config.data_root.display()));
        store::DiskSpace::default()
    });
    if inner.store.is_failing() {
        warnings.push("the store cannot be written: what happens now may be forgotten with the agent".to_owned());
    }
    if let Some(missing) = inner.userns.missing() {
        warnings
            .push(format!("containers are in the host's user namespace, this host has no other for them: {missing}"));
    }
    for id in inner.spared.lock().expect("spared").iter() {
        warnings.push(format!(
            "container {id} runs, and the repaired database does not know it: end its processes by hand"
        ));
    }
    for other in &inner.other_runtimes {
        if let Err(why) = &other.version {
            warnings.push(format!("the runtime {} ({}) does not answer: {why}", other.name, other.path));
        }
    }
    for (layer, problem) in inner.layers.store.damaged() {
        warnings.push(format!("layer {layer} is damaged ({problem}): a pull of its image brings it back"));
    }
    let (mut created, mut running, mut exited) = (0, 0, 0);
    for container in inner.containers.all() {
        match container.phase() {
            Phase::Creating | Phase::Created => created += 1,
            Phase::Starting | Phase::Running => running += 1,
            Phase::Exited | Phase::Removing => exited += 1,
        }
    }
    NodeInfo {
        hostname: uname.hostname,
        operating_system: operating_system(),
        kernel_version: uname.release,
        architecture: uname.machine,
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory_bytes: store::memory_bytes().unwrap_or_default(),
        cgroup_mode: inner.runtime.cgroup_mode().to_owned(),
        cgroup_driver: inner.runtime.cgroup_driver().name().to_owned(),
        layer_store: inner.layers.store.driver_name().to_owned(),
        data_root: inner.config.data_root.display().to_string(),
        created,
        running,
        exited,
        images: inner.images.count(),
        features: features(inner),
        warnings,
        started: inner.started,
        boot_id: inner.boot_id.clone(),
        disk_free_bytes: disk.free_bytes,
        disk_total_bytes: disk.total_bytes,
        runtimes: runtimes(inner),
        landlock: inner.runtime.landlock_abi(),
        apparmor: inner.runtime.apparmor(),
        selinux: selinux(inner),
    }
}

fn selinux(inner: &Inner) -> Selinux {
    match inner.runtime.selinux_state() {
        SelinuxState::Absent => Selinux::Absent,
        SelinuxState::Off | SelinuxState::NoTypes(_) => Selinux::Unused,
        SelinuxState::On(_) => Selinux::Used,
    }
}

fn runtimes(inner: &Inner) -> Vec<RuntimeView> {
    let default = inner.runtime.named("");
    let own = RuntimeView { name: OWN_RUNTIME.to_owned(), is_default: default.is_empty(), ..RuntimeView::default() };
    let other = |found: &OtherFound| RuntimeView {
        is_default: found.name == default,
        name: found.name.clone(),
        path: found.path.clone(),
        version: found.version.clone().unwrap_or_default(),
    };
    [own].into_iter().chain(inner.other_runtimes.iter().map(other)).collect()
}

/// What was probed, by name: layers as files, layers given to overlayfs by descriptor, and what the runtime uses.
fn features(inner: &Inner) -> Vec<(String, bool)> {
    let store = &inner.layers.store;
    let of_layers = [
        Some(("erofs_layers", store.driver_name() == "erofs")),
        store.layers_by_descriptor().map(|there| ("overlay_fd_layers", there)),
    ];
    let all = of_layers.into_iter().flatten().chain(inner.runtime.features());
    let users = ("user_namespaces", inner.userns.missing().is_none());
    all.chain([users]).map(|(name, there)| (name.to_owned(), there)).collect()
}

/// CPUs that the host runs on now (Documentation/admin-guide/cputopology.rst). `None`: it does not say.
pub fn host_cpus() -> Option<List> {
    list("/sys/devices/system/cpu/online")
}

/// Memory nodes of the host (Documentation/ABI/stable/sysfs-devices-node); a kernel without NUMA has one.
pub fn host_memory_nodes() -> Option<List> {
    list("/sys/devices/system/node/has_memory").or_else(|| "0".parse().ok())
}

fn list(path: &str) -> Option<List> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// PRETTY_NAME of os-release(5).
fn operating_system() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let text = read("/etc/os-release").or_else(|| read("/usr/lib/os-release")).unwrap_or_default();
    pretty_name(&text).unwrap_or_else(|| "Linux".to_owned())
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?.trim();
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// Go's names, as images use them.
pub(crate) fn host_platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", Some("v8")),
        "arm" => ("arm", Some("v7")),
        "x86" => ("386", None),
        "powerpc64" => ("ppc64le", None),
        other => (other, None),
    };
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::pretty_name;

    #[test]
    fn names_of_systems() {
        let text = "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(text).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(pretty_name("PRETTY_NAME=Alpine\n").as_deref(), Some("Alpine"));
        assert_eq!(pretty_name("NAME=x"), None);
    }
}
