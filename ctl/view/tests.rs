use super::*;

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().expect("a time")
}

fn web() -> v1::ContainerSummary {
    let now = now().as_second();
    let port = |host_ip: &str, host_port, container_port, protocol: v1::Protocol| v1::PortMapping {
        host_ip: host_ip.into(),
        host_port,
        container_port,
        protocol: protocol.into(),
        ..Default::default()
    };
    v1::ContainerSummary {
        id: "0123456789abcdef".repeat(4),
        name: "web".into(),
        image: "nginx".into(),
        image_id: format!("sha256:{}", "ab".repeat(32)),
        command: vec!["/docker-entrypoint.sh".into(), "nginx".into(), "-g".into(), "daemon off;".into()],
        created: at(now - 7300),
        state: ContainerState::Running.into(),
        started: at(now - 300),
        exit: None,
        ports: vec![
            port("", 8081, 81, v1::Protocol::Tcp),
            port("", 8080, 80, v1::Protocol::Tcp),
            port("::1", 53, 53, v1::Protocol::Udp),
        ],
        labels: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
        ip_address: "10.0.0.2".into(),
        size_rw_bytes: None,
        size_root_bytes: None,
        pid: 42,
        ..Default::default()
    }
}

#[test]
fn ps_rows() {
    insta::assert_json_snapshot!(container(&web(), now(), true));
    let mut exited = web();
    exited.state = ContainerState::Exited.into();
    exited.exit =
        Some(v1::ExitStatus { code: 137, signal: 9, finished: at(now().as_second() - 3), ..Default::default() });
    assert_eq!(container(&exited, now(), true)["Status"], "Exited (137) 3 seconds ago");
    exited.state = ContainerState::Restarting.into();
    assert_eq!(container(&exited, now(), true)["Status"], "Restarting (137) 3 seconds ago");
    assert_eq!(container(&exited, now(), false)["Command"], "\"/docker-entrypoint.sh nginx -g daemon off;\"");
}

#[test]
fn image_rows() {
    let digest = format!("sha256:{}", "cd".repeat(32));
    let image = v1::ImageSummary {
        id: format!("sha256:{}", "ab".repeat(32)),
        tags: vec!["docker.io/library/nginx:1.27".into(), "host:5000/a/b:latest".into()],
        digests: vec![format!("docker.io/library/nginx@{digest}")],
        created: at(now().as_second() - 86_400 * 3),
        size_bytes: 187_000_000,
        platform: Some(v1::Platform { os: "linux".into(), architecture: "arm64".into(), variant: "v8".into() }),
        ..Default::default()
    };
    insta::assert_json_snapshot!(images(&image, now(), true));
    let unnamed = v1::ImageSummary { tags: vec![], ..image };
    assert_eq!(images(&unnamed, now(), true)[0]["Tag"], "<none>");
}

#[test]
fn inspected() {
    let response = v1::InspectContainerResponse { summary: Some(web()), ..Default::default() };
    insta::assert_json_snapshot!(inspect_container(&response));
}

/// One of each kind: by -v, by --mount, by --tmpfs.
fn docker_mounts() -> Vec<v1::Mount> {
    let mount = |target: &str, read_only, kind| v1::Mount {
        target: target.into(),
        read_only,
        kind: Some(kind),
        ..Default::default()
    };
    let bind = |create_source| v1::BindMount { source: "/srv".into(), create_source, ..Default::default() };
    let volume = |name: &str, subpath: &str, anonymous| v1::VolumeMount {
        name: name.into(),
        subpath: subpath.into(),
        anonymous,
        ..Default::default()
    };
    use v1::mount::Kind;
    vec![
        mount("/data", true, Kind::Bind(bind(true))),
        mount("/strict", false, Kind::Bind(bind(false))),
        mount("/db", false, Kind::Volume(volume("db", "", false))),
        mount("/part", true, Kind::Volume(volume("db", "a/b", false))),
        mount("/own", false, Kind::Volume(volume("0123", "", true))),
        mount("/run", false, Kind::Tmpfs(v1::TmpfsMount { size_bytes: 1 << 20, mode: Some(0o1770), exec: true })),
        mount("/image", true, Kind::Image(v1::ImageMount { image: "busybox".into(), subpath: "bin".into() })),
    ]
}

#[test]
fn inspected_as_docker_does() {
    let config = v1::ContainerConfig {
        image: "nginx".into(),
        ports: vec![v1::PortMapping { container_port: 80, protocol: v1::Protocol::Tcp.into(), ..Default::default() }],
        mounts: docker_mounts(),
        expose: vec!["53/udp".into()],
        no_new_privileges: Some(true),
        ..Default::default()
    };
    let network = v1::ContainerNetwork {
        bridge: "berth0".into(),
        host_interface: "veth1".into(),
        ip_address: "10.0.0.2".into(),
        prefix_length: 24,
        gateway: "10.0.0.1".into(),
        mac_address: "02:00:00:00:00:01".into(),
        network: "bridge".into(),
        interface: "eth0".into(),
        default_route: true,
        ..Default::default()
    };
    let response = v1::InspectContainerResponse {
        summary: Some(web()),
        config: Some(config),
        networks: vec![network.clone()],
        network: Some(network),
        upper_path: "/var/lib/berth/containers/x/upper".into(),
        volume_mountpoints: [("db".to_owned(), "/var/lib/berth/volumes/db/_data".to_owned())].into(),
        ..Default::default()
    };
    let value = docker::container(&response);
    insta::assert_json_snapshot!(value);
    // A template of either kind finds its fields.
    let both = docker::beneath(inspect_container(&response), value);
    assert_eq!((both["Name"].as_str(), both["State"]["Status"].as_str()), (Some("web"), Some("running")));
    assert_eq!(both["NetworkSettings"]["Networks"]["bridge"]["IPAddress"], "10.0.0.2");
    assert!(both["State"]["ShimPid"].is_number() && both["HostConfig"]["PortBindings"].is_object());
}

#[test]
fn an_image_inspected_as_docker_does() {
    let summary = v1::ImageSummary {
        id: format!("sha256:{}", "ab".repeat(32)),
        tags: vec!["docker.io/library/nginx:1.27".into()],
        digests: vec![format!("docker.io/library/nginx@sha256:{}", "cd".repeat(32))],
        created: at(now().as_second() - 86_400),
        size_bytes: 187_000_000,
        platform: Some(v1::Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() }),
        ..Default::default()
    };
    let layer = v1::ImageLayer { diff_id: format!("sha256:{}", "ef".repeat(32)), ..Default::default() };
    let config =
        v1::ImageConfig { cmd: vec!["nginx".into()], exposed_ports: vec!["80/tcp".into()], ..Default::default() };
    let response = v1::InspectImageResponse {
        summary: Some(summary),
        layers: vec![layer],
        config: Some(config),
        ..Default::default()
    };
    insta::assert_json_snapshot!(docker::image(&response));
}

#[test]
fn event_lines() {
    let event = v1::Event {
        cursor: 7,
        time: Some(prost_types::Timestamp { seconds: now().as_second(), nanos: 5_000_000 }),
        kind: v1::EventKind::Container.into(),
        action: "start".into(),
        subject: "abc".into(),
        attributes: [("name".to_owned(), "web\n".to_owned()), ("image".to_owned(), "nginx".to_owned())].into(),
    };
    assert_eq!(
        event_line(&event),
        "2026-01-02T03:04:05.005000000Z container start abc (image=nginx, name=web\u{fffd})"
    );
}

#[test]
fn ports_that_no_host_has_are_not_counted_out() {
    let all = v1::PortMapping {
        host_port: u32::MAX,
        container_port: u32::MAX,
        count: u32::MAX,
        choice: u32::MAX,
        ..Default::default()
    };
    let listed: usize = bindings(&[all.clone(), all.clone()]).values().filter_map(|v| v.as_array()).map(Vec::len).sum();
    assert_eq!(listed, MAX_BINDINGS);
    assert_eq!(ports(&[all]), "0.0.0.0:4294967295-4294967295->4294967295-4294967295/tcp");
}
