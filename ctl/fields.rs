//! Fields of the API in the words of the command line: `start.create.config.name` is what a person wrote as `--name`.

/// Fields of a container's configuration whose flag has another name. The others are the field with `-` for `_`.
const CONFIG: &[(&str, &str)] = &[
    ("image", "IMAGE"),
    ("command", "COMMAND"),
    ("groups", "--group-add"),
    ("open_stdin", "--interactive"),
    ("stdin_once", "--interactive"),
    ("read_only_root", "--read-only"),
    ("mounts", "--mount or --volume"),
    ("extra_hosts", "--add-host"),
    ("dns_options", "--dns-option"),
    ("labels", "--label"),
    ("annotations", "--annotation"),
    ("ulimits", "--ulimit"),
    ("sysctls", "--sysctl"),
    ("no_new_privileges", "--security-opt no-new-privileges"),
    ("writable_cgroups", "--security-opt writable-cgroups"),
    ("seccomp", "--security-opt seccomp"),
    ("landlock", "--security-opt landlock"),
    ("apparmor", "--security-opt apparmor"),
    ("selinux", "--security-opt label"),
    ("selinux.user", "--security-opt label=user"),
    ("selinux.role", "--security-opt label=role"),
    ("selinux.type", "--security-opt label=type"),
    ("selinux.level", "--security-opt label=level"),
    ("selinux.file_type", "--security-opt label=filetype"),
    ("devices", "--device"),
    ("cdi_devices", "--device"),
    ("device_rules", "--device-cgroup-rule"),
    ("ports", "--publish"),
    ("networks", "--network"),
    ("networks.aliases", "--network-alias"),
    ("networks.ipv4_address", "--ip"),
    ("networks.ipv6_address", "--ip6"),
    ("networks.mac_address", "--mac-address"),
    ("network_container", "--network"),
    ("host_pid", "--pid"),
    ("host_ipc", "--ipc"),
    ("host_uts", "--uts"),
    ("stop_timeout_seconds", "--stop-timeout"),
    ("auto_remove", "--rm"),
    ("shm_bytes", "--shm-size"),
    ("storage_bytes", "--storage-opt size"),
    ("storage_inodes", "--storage-opt inodes"),
    ("log.driver", "--log-driver"),
    ("log.max_file_bytes", "--log-opt max-size"),
    ("log.max_files", "--log-opt max-file"),
    ("log", "--log-opt"),
    ("health", "--health-cmd"),
    ("health.interval_ms", "--health-interval"),
    ("health.timeout_ms", "--health-timeout"),
    ("health.start_period_ms", "--health-start-period"),
    ("health.start_interval_ms", "--health-start-interval"),
    ("health.retries", "--health-retries"),
    ("resources.memory_bytes", "--memory"),
    ("resources.memory_swap_bytes", "--memory-swap"),
    ("resources.memory_reservation_bytes", "--memory-reservation"),
    ("resources.nano_cpus", "--cpus"),
    ("resources.cpu_quota_us", "--cpu-quota"),
    ("resources.cpu_shares", "--cpu-shares"),
    ("resources.cpuset_cpus", "--cpuset-cpus"),
    ("resources.cpuset_mems", "--cpuset-mems"),
    ("resources.pids", "--pids-limit"),
    ("resources.cpu_period_us", "--cpu-period"),
    ("resources.blkio_weight", "--blkio-weight"),
    ("resources.block_devices", "the limits of disks"),
    ("resources.oom_group", "--oom-group"),
    ("resources.hugepages", "--hugepages"),
    ("resources.unified", "--cgroup-conf"),
];

/// Fields of other requests.
const OTHERS: &[(&str, &str)] = &[
    ("container", "CONTAINER"),
    ("add", "PORT"),
    ("remove", "PORT"),
    ("name", "NAME"),
    ("network", "NETWORK"),
    ("endpoint", "NETWORK"),
    ("endpoint.aliases", "--alias"),
    ("endpoint.ipv4_address", "--ip"),
    ("endpoint.ipv6_address", "--ip6"),
    ("endpoint.mac_address", "--mac-address"),
    ("subnets", "--subnet"),
    ("subnets.gateway", "--gateway"),
    ("subnets.ip_range", "--ip-range"),
    ("subnets.auxiliary_addresses", "--aux-address"),
    ("reference", "IMAGE"),
    ("source", "SOURCE"),
    ("target", "TARGET"),
    ("filters", "--filter"),
    ("references", "--filter reference"),
    ("timeout_seconds", "--time"),
    ("changes", "--change"),
    ("options", "--opt"),
    ("stdin_once", "--interactive"),
    ("size", "the terminal's size"),
];

/// The flag or the argument behind a field of a request.
pub fn flag(path: &str) -> String {
    let (path, table) = match path.rfind("config.") {
        Some(at) => (&path[at + "config.".len()..], CONFIG),
        None => (path.strip_prefix("start.").unwrap_or(path), OTHERS),
    };
    let path = path.strip_prefix("create.").unwrap_or(path);
    if let Some(option) = path.strip_prefix("log.options.") {
        return format!("--log-opt {option}");
    }
    // What is wrong in a file that was sent is named by its place there.
    if let Some(at) = path.strip_prefix("conflist.") {
        return format!("--conflist {at}");
    }
    // What a map or a list holds is named by its key, not by its place.
    let head = path.split(['[', '.']).next().unwrap_or(path);
    let dotted = without_places(path.split("[\"").next().unwrap_or(path));
    // Limits have the same names where they are changed.
    let known = |wanted: &str| {
        table.iter().chain(CONFIG).find(|(field, _)| *field == wanted).map(|(_, flag)| (*flag).to_owned())
    };
    let flag = known(&dotted).or_else(|| known(head)).unwrap_or_else(|| format!("--{}", head.replace('_', "-")));
    // `sysctls["net.x"]`: the key is what the person wrote.
    match path.split_once("[\"").and_then(|(_, rest)| rest.split_once("\"]")) {
        Some((key, _)) => format!("{flag} {key}"),
        None => flag,
    }
}

/// `subnets[0].gateway` without the `[0]`.
fn without_places(path: &str) -> String {
    let mut parts = path.split('[');
    let head = parts.next().unwrap_or_default().to_owned();
    parts.fold(head, |all, part| all + part.split_once(']').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::flag;

    #[test]
    fn fields_are_shown_as_flags() {
        for (path, shown) in [
            ("start.create.config.name", "--name"),
            ("config.env[1]", "--env"),
            ("config.image", "IMAGE"),
            ("config.command[0]", "COMMAND"),
            ("config.workdir", "--workdir"),
            ("config.resources.memory_bytes", "--memory"),
            ("config.mounts[3].bind.source", "--mount or --volume"),
            ("config.ports[0].host_port", "--publish"),
            ("config.dns_search[2]", "--dns-search"),
            ("config.sysctls[\"net.x\"]", "--sysctl net.x"),
            ("start.create.platform.os", "--platform"),
            ("create.pull", "--pull"),
            ("filters[0].key", "--filter"),
            ("signal", "--signal"),
            ("config.log.options.max-size", "--log-opt max-size"),
            ("config.log.driver", "--log-driver"),
            ("resources.memory_swap_bytes", "--memory-swap"),
            ("changes[0]", "--change"),
            ("options[\"size\"]", "--opt size"),
            ("container", "CONTAINER"),
            ("user", "--user"),
            ("name", "NAME"),
            ("subnets[1].subnet", "--subnet"),
            ("subnets[0].gateway", "--gateway"),
            ("subnets[0].ip_range", "--ip-range"),
            ("subnets[0].auxiliary_addresses[\"my-router\"]", "--aux-address my-router"),
            ("config.networks[0].ipv4_address", "--ip"),
            ("config.networks[0].network", "--network"),
            ("endpoint.ipv6_address", "--ip6"),
            ("config.ports[0].host_port", "--publish"),
        ] {
            assert_eq!(flag(path), shown, "{path}");
        }
    }
}
