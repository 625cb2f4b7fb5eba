use super::*;
use berth::v1::restart_policy::Mode;

fn errors(config: v1::ContainerConfig) -> Vec<String> {
    let mut f = Fields::under("config.");
    decode(&mut f, config, &LogConfig::default(), &anywhere());
    f.errors().iter().map(|(field, _)| field.clone()).collect()
}

fn policy(mode: Mode, max_retries: u32) -> Option<v1::RestartPolicy> {
    Some(v1::RestartPolicy { mode: mode.into(), max_retries })
}

fn plain() -> v1::ContainerConfig {
    v1::ContainerConfig { image: "nginx".into(), ..Default::default() }
}

fn full() -> v1::ContainerConfig {
    v1::ContainerConfig {
        image: "localhost:5000/a:1".into(),
        name: "web".into(),
        entrypoint: Some(v1::StringList { values: vec![] }),
        command: vec!["a".into()],
        env: vec!["A=b".into()],
        workdir: "/w".into(),
        user: "1:2".into(),
        groups: vec!["audio".into()],
        hostname: "h".into(),
        domainname: "d.example".into(),
        tty: true,
        open_stdin: true,
        stdin_once: true,
        read_only_root: true,
        mounts: vec![
            v1::Mount {
                target: "/data".into(),
                read_only: true,
                kind: Some(v1::mount::Kind::Bind(v1::BindMount {
                    source: "/srv".into(),
                    propagation: v1::Propagation::Rslave as i32,
                    non_recursive: true,
                    create_source: true,
                    writable_below: false,
                    idmap: Some(true),
                })),
                relabel: v1::Relabel::Private as i32,
            },
            v1::Mount {
                target: "/tmp".into(),
                read_only: false,
                kind: Some(v1::mount::Kind::Tmpfs(v1::TmpfsMount { size_bytes: 5, mode: Some(0o700), exec: true })),
                relabel: 0,
            },
        ],
        extra_hosts: vec![
            v1::ExtraHost { name: "a".into(), address: "10.0.0.1".into() },
            v1::ExtraHost { name: "b".into(), address: "host-gateway".into() },
        ],
        dns: vec!["1.1.1.1".into()],
        dns_search: vec!["example".into()],
        dns_options: vec!["ndots:1".into()],
        labels: [("k".to_owned(), "v".to_owned())].into(),
        annotations: [("n".to_owned(), "w".to_owned())].into(),
        ulimits: vec![v1::Ulimit { name: "nofile".into(), soft: 1, hard: u64::MAX }],
        sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
        cap_add: vec!["NET_ADMIN".into()],
        cap_drop: vec!["ALL".into()],
        no_new_privileges: Some(true),
        writable_cgroups: true,
        privileged: true,
        init: true,
        seccomp: "unconfined".into(),
        landlock: Some(true),
        apparmor: "unconfined".into(),
        selinux: Some(v1::SelinuxOptions { r#type: "my_t".into(), level: "s0:c1,c2".into(), ..Default::default() }),
        cgroup_parent: "a-b.slice".into(),
        resources: Some(v1::Resources {
            memory_bytes: 64 << 20,
            memory_swap_bytes: -1,
            cpu_period_us: 50_000,
            blkio_weight: 500,
            block_devices: vec![v1::BlockLimit { path: "/dev/vda".into(), write_bps: 1 << 20, ..Default::default() }],
            oom_group: true,
            hugepages: [("2MB".to_owned(), 2 << 20)].into(),
            unified: [("memory.high".to_owned(), "60M".to_owned())].into(),
            memory_reservation_bytes: 32 << 20,
            nano_cpus: 500_000_000,
            cpu_shares: 512,
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            pids: Some(10),
            cpu_quota_us: 0,
        }),
        device_rules: vec![v1::DeviceRule { block: true, major: Some(8), minor: None, permissions: "r".into() }],
        devices: vec![v1::Device {
            host_path: "/dev/null".into(),
            container_path: "/dev/x".into(),
            permissions: "rw".into(),
        }],
        network: v1::NetworkMode::Bridge as i32,
        ports: vec![v1::PortMapping {
            host_ip: "127.0.0.1".into(),
            host_port: 8080,
            container_port: 80,
            protocol: v1::Protocol::Udp as i32,
            ..Default::default()
        }],
        publish_all: true,
        expose: vec!["53/udp".into()],
        host_pid: true,
        host_ipc: true,
        userns: "keep:1000:50".into(),
        runtime: "crun".into(),
        host_uts: false,
        stop_signal: "SIGQUIT".into(),
        stop_timeout_seconds: Some(0),
        oom_score_adj: Some(-5),
        shm_bytes: 1 << 20,
        storage_bytes: Some(10 << 30),
        storage_inodes: 4096,
        log: Some(v1::LogConfig { max_file_bytes: 8192, max_files: 2, driver: "local".into(), ..Default::default() }),
        restart: policy(Mode::OnFailure, 3),
        ..Default::default()
    }
}

#[test]
fn what_is_read_is_written_the_same() {
    let mut f = Fields::default();
    let spec = decode(&mut f, full(), &LogConfig::default(), &anywhere());
    assert_eq!(f.errors(), []);
    assert_eq!(encode(&spec), full());
}

#[test]
fn defaults_come_from_the_node() {
    let mut f = Fields::default();
    let node = LogConfig { max_file_bytes: 5000, max_files: 7, ..LogConfig::default() };
    let spec = decode(&mut f, plain(), &node, &anywhere());
    assert_eq!(f.errors(), []);
    assert_eq!(spec.log, node);
    assert_eq!(spec, ContainerSpec { image: "nginx".into(), log: node, ..Default::default() });
}

#[test]
fn capabilities_are_written_in_one_way() {
    let mut f = Fields::default();
    let config = v1::ContainerConfig { cap_add: vec!["cap_net_admin".into(), "all".into()], ..plain() };
    assert_eq!(decode(&mut f, config, &LogConfig::default(), &anywhere()).cap_add, ["NET_ADMIN", "ALL"]);
}

#[test]
fn all_errors_come_at_once() {
    let config = v1::ContainerConfig {
        image: "Bad Image".into(),
        name: "-x".into(),
        env: vec!["NOVALUE".into()],
        workdir: "rel".into(),
        ..plain()
    };
    assert_eq!(errors(config), ["config.image", "config.name", "config.env[0]", "config.workdir"]);
}

#[test]
fn each_wrong_field_is_named() {
    let r = |r: v1::Resources| v1::ContainerConfig { resources: Some(r), ..plain() };
    let port = |host_port, container_port, protocol| v1::ContainerConfig {
        ports: vec![v1::PortMapping {
            host_ip: String::new(),
            host_port,
            container_port,
            protocol,
            ..Default::default()
        }],
        ..plain()
    };
    let mount = |target: &str, kind| v1::ContainerConfig {
        mounts: vec![v1::Mount { target: target.into(), read_only: false, kind, relabel: 0 }],
        ..plain()
    };
    let tmpfs = |mode| Some(v1::mount::Kind::Tmpfs(v1::TmpfsMount { mode, ..Default::default() }));
    let bind = |source: &str, propagation| {
        Some(v1::mount::Kind::Bind(v1::BindMount { source: source.into(), propagation, ..Default::default() }))
    };
    let sysctl = |key: &str| v1::ContainerConfig { sysctls: [(key.to_owned(), "1".to_owned())].into(), ..plain() };
    let d = v1::Resources::default;
    let device_rule = |major, minor, permissions: &str| v1::ContainerConfig {
        device_rules: vec![v1::DeviceRule { block: false, major, minor, permissions: permissions.into() }],
        ..plain()
    };
    let ulimit = |name: &str, soft, hard| v1::ContainerConfig {
        ulimits: vec![v1::Ulimit { name: name.into(), soft, hard }],
        ..plain()
    };
    for (config, field) in [
        (v1::ContainerConfig::default(), "image"),
        (v1::ContainerConfig { command: vec!["a\0b".into()], ..plain() }, "command[0]"),
        (v1::ContainerConfig { command: vec!["x".repeat(200_000)], ..plain() }, "command[0]"),
        (v1::ContainerConfig { command: vec![String::new(); 5000], ..plain() }, "command"),
        (v1::ContainerConfig { user: "a\nb".into(), ..plain() }, "user"),
        (v1::ContainerConfig { groups: vec![String::new()], ..plain() }, "groups[0]"),
        (v1::ContainerConfig { hostname: "x".repeat(64), ..plain() }, "hostname"),
        (v1::ContainerConfig { hostname: "a b".into(), ..plain() }, "hostname"),
        (v1::ContainerConfig { hostname: "a".into(), host_uts: true, ..plain() }, "hostname"),
        (v1::ContainerConfig { stdin_once: true, ..plain() }, "stdin_once"),
        (v1::ContainerConfig { network: 9, ..plain() }, "network"),
        (v1::ContainerConfig { network: 3, publish_all: true, ..plain() }, "publish_all"),
        (v1::ContainerConfig { expose: vec!["80/tcp".into(), "0".into()], ..plain() }, "expose[1]"),
        (v1::ContainerConfig { expose: vec!["80/dccp".into()], ..plain() }, "expose[0]"),
        (port(0, 0, 1), "ports[0].container_port"),
        (port(70_000, 80, 1), "ports[0].host_port"),
        (port(0, 70_000, 1), "ports[0].container_port"),
        (port(0, 80, 4), "ports[0].protocol"),
        (mount("x", tmpfs(None)), "mounts[0].target"),
        (mount("/", tmpfs(None)), "mounts[0].target"),
        (mount("/./", tmpfs(None)), "mounts[0].target"),
        (mount("/a/../b", tmpfs(None)), "mounts[0].target"),
        (mount("/a", None), "mounts[0].kind"),
        (mount("/a", tmpfs(Some(0o10000))), "mounts[0].tmpfs.mode"),
        (mount("/a", bind("srv", 0)), "mounts[0].bind.source"),
        (mount("/a", bind("/srv", 7)), "mounts[0].bind.propagation"),
        (v1::ContainerConfig { dns: vec!["x".into()], ..plain() }, "dns[0]"),
        (v1::ContainerConfig { dns_search: vec!["a b".into()], ..plain() }, "dns_search[0]"),
        (v1::ContainerConfig { dns_options: vec!["a\nb".into()], ..plain() }, "dns_options[0]"),
        (ulimit("files", 1, 1), "ulimits[0].name"),
        (ulimit("core", 2, 1), "ulimits[0].soft"),
        (sysctl("kernel.hostname"), "sysctls[\"kernel.hostname\"]"),
        (sysctl("vm.swappiness"), "sysctls[\"vm.swappiness\"]"),
        (sysctl("net.../x"), "sysctls[\"net.../x\"]"),
        (v1::ContainerConfig { network: 3, ..sysctl("net.a") }, "sysctls[\"net.a\"]"),
        (v1::ContainerConfig { host_ipc: true, ..sysctl("kernel.sem") }, "sysctls[\"kernel.sem\"]"),
        (v1::ContainerConfig { cap_add: vec!["NET".into()], ..plain() }, "cap_add[0]"),
        (v1::ContainerConfig { cap_drop: vec!["".into()], ..plain() }, "cap_drop[0]"),
        (v1::ContainerConfig { seccomp: "none".into(), ..plain() }, "seccomp"),
        (v1::ContainerConfig { restart: policy(Mode::Always, 2), ..plain() }, "restart.max_retries"),
        (
            v1::ContainerConfig { restart: Some(v1::RestartPolicy { mode: 9, max_retries: 0 }), ..plain() },
            "restart.mode",
        ),
        (v1::ContainerConfig { restart: policy(Mode::Always, 0), auto_remove: true, ..plain() }, "restart"),
        (v1::ContainerConfig { stop_signal: "SIGFOO".into(), ..plain() }, "stop_signal"),
        (v1::ContainerConfig { oom_score_adj: Some(1001), ..plain() }, "oom_score_adj"),
        (device_rule(None, Some(3), "r"), "device_rules[0].minor"),
        (device_rule(Some(4096), None, "r"), "device_rules[0]"),
        (device_rule(Some(1), Some(1 << 20), "r"), "device_rules[0]"),
        (device_rule(Some(1), Some(3), "rr"), "device_rules[0].permissions"),
        (
            v1::ContainerConfig { log: Some(v1::LogConfig { max_file_bytes: 1, ..Default::default() }), ..plain() },
            "log.max_file_bytes",
        ),
        (r(v1::Resources { memory_bytes: 1, ..d() }), "resources.memory_bytes"),
        (r(v1::Resources { memory_bytes: 10 << 20, memory_swap_bytes: 1, ..d() }), "resources.memory_swap_bytes"),
        (r(v1::Resources { memory_swap_bytes: -2, ..d() }), "resources.memory_swap_bytes"),
        (
            r(v1::Resources { memory_bytes: 10 << 20, memory_reservation_bytes: 11 << 20, ..d() }),
            "resources.memory_reservation_bytes",
        ),
        (r(v1::Resources { nano_cpus: 1, ..d() }), "resources.nano_cpus"),
        (r(v1::Resources { cpu_shares: 1, ..d() }), "resources.cpu_shares"),
        (r(v1::Resources { cpuset_cpus: "3-1".into(), ..d() }), "resources.cpuset_cpus"),
        (r(v1::Resources { cpuset_mems: "a".into(), ..d() }), "resources.cpuset_mems"),
        (r(v1::Resources { pids: Some(-2), ..d() }), "resources.pids"),
    ] {
        let found = errors(config);
        assert_eq!(found, [format!("config.{field}")]);
    }
}

fn anywhere() -> PublishPolicy {
    PublishPolicy { default: None, ..PublishPolicy::default() }
}

#[test]
fn nothing_is_there_twice() {
    let port = v1::PortMapping { host_port: 80, container_port: 80, ..Default::default() };
    let anywhere = v1::PortMapping { host_ip: "0.0.0.0".into(), ..port.clone() };
    assert_eq!(errors(v1::ContainerConfig { ports: vec![port, anywhere], ..plain() }), ["config.ports[1].host_port"]);
    let mount = |target: &str| v1::Mount {
        target: target.into(),
        read_only: false,
        kind: Some(v1::mount::Kind::Tmpfs(v1::TmpfsMount::default())),
        relabel: 0,
    };
    let mounts = vec![mount("/a/b"), mount("/a//b/.")];
    assert_eq!(errors(v1::ContainerConfig { mounts, ..plain() }), ["config.mounts[1].target"]);
}
