use super::network::parse_subnet;
use super::*;
use berth_node::{GcConfig, Watermarks};
use std::time::Duration;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("/etc/berth/berthd.toml"), text).map_err(|e| e.to_string())
}

#[test]
fn what_goes_by_itself() {
    let gc = |text: &str| Config::parse(Path::new("x"), &format!("[gc]\n{text}"));
    assert_eq!(Config::default().node().gc, GcConfig::default());
    let given = gc(
        "interval = \"1h\"\nstopped_containers_after = \"7d\"\nhigh_watermark = 85\nlow_watermark = 70\nkeep_labels = [\"a\", \"b=c\"]",
    );
    let given = given.unwrap().node().gc;
    assert_eq!(given.interval, Some(Duration::from_secs(3600)));
    assert_eq!(given.stopped_containers_after, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(given.watermarks, Some(Watermarks { high_percent: 85, low_percent: 70 }));
    assert_eq!(given.keep_labels[1].value.as_deref(), Some("c"));
    for (bad, key) in [
        ("interval = \"0s\"", "gc.interval"),
        ("unused_images_after = \"7 days\"", "gc.unused_images_after"),
        ("unused_images_after = \"-7d\"", "gc.unused_images_after"),
        ("high_watermark = 80", "gc.high_watermark"),
        ("high_watermark = 80\nlow_watermark = 90", "gc.high_watermark"),
        ("keep_images = [\"\"]", "gc.keep_images"),
    ] {
        let message = gc(bad).unwrap_err().to_string();
        assert!(message.contains(key), "{bad}: {message}");
    }
}

#[test]
fn the_defaults_are_good_and_an_empty_file_means_them() {
    assert!(Config::default().wrong_values().is_empty());
    let config = parse("").unwrap();
    assert_eq!(config.unix_socket(), Some("/run/berth/berthd.sock".into()));
    assert_eq!(config.audit_file(), Some("/var/lib/berth/audit.log".into()));
    let node = config.node();
    assert_eq!((node.network.gateway, node.network.prefix_len), (Ipv4Addr::new(172, 31, 240, 1), 20));
    assert_eq!(node.runtime.default_pids, Some(4096));
}

#[test]
fn the_example_is_the_default_with_every_key() {
    let example = include_str!("../deploy/berthd.toml");
    let uncommented: String = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n");
    let config = parse(&uncommented).unwrap();
    let (mut config, default) = (format!("{config:?}"), format!("{:?}", Config::default()));
    // What is unset by default is written out in the example.
    for (set, unset) in [
        (r#"tcp: Some([0.0.0.0:7443])"#, "tcp: None"),
        (r#"unix: Some("/run/berth/berthd.sock")"#, "unix: None"),
        (r#"ca: Some("/etc/berth/pki/ca.pem")"#, "ca: None"),
        (r#"cert: Some("/etc/berth/pki/agent.pem")"#, "cert: None"),
        (r#"key: Some("/etc/berth/pki/agent.key")"#, "key: None"),
        (r#"crl: Some("/etc/berth/pki/crl.pem")"#, "crl: None"),
        (r#"docker_config: Some("/etc/berth/docker.json")"#, "docker_config: None"),
        (r#"cgroup_parent: Some("berth")"#, "cgroup_parent: None"),
        ("default_storage_bytes: Some(10737418240)", "default_storage_bytes: None"),
        (r#"file: Some("/var/lib/berth/audit.log")"#, "file: None"),
        (r#"interval: Some("1h")"#, "interval: None"),
        (r#"stopped_containers_after: Some("7d")"#, "stopped_containers_after: None"),
        (r#"unused_images_after: Some("30d")"#, "unused_images_after: None"),
        ("high_watermark: Some(85)", "high_watermark: None"),
        ("low_watermark: Some(75)", "low_watermark: None"),
        (r#"keep_labels: ["keep", "tier=base"]"#, "keep_labels: []"),
        (r#"keep_images: ["nginx:*"]"#, "keep_images: []"),
        ("listen: Some(127.0.0.1:9464)", "listen: None"),
        (r#"cni_conf_dir: Some("/etc/cni/net.d")"#, "cni_conf_dir: None"),
        (r#"public_key: Some("/etc/berth/pki/release.pub")"#, "public_key: None"),
        (r#"default: Some("berth")"#, "default: None"),
        (r#"others: {"crun": Entry { path: "/usr/bin/crun", args: [] }}"#, "others: {}"),
    ] {
        assert!(config.contains(set), "{set} in {config}");
        config = config.replace(set, unset);
    }
    let registries = config.find("registries: {").unwrap()..config.find(", limits:").unwrap();
    assert!(config[registries.clone()].contains("plain_http: true"));
    config.replace_range(registries, "registries: {}");
    assert_eq!(config, default);
}

#[test]
fn errors_name_the_file_the_key_and_the_line() {
    let error = parse("data_root = \"/x\"\n[limits]\nconections = 5\n").unwrap_err();
    assert!(
        error.contains("/etc/berth/berthd.toml") && error.contains("line 3") && error.contains("conections"),
        "{error}"
    );
    let error = parse("[listen]\ntcp = [\"nonsense\"]\n").unwrap_err();
    assert!(error.contains("line 2") && error.contains("nonsense"), "{error}");
    let error = parse("data_root = \"var\"\n[network]\nsubnet = \"10.0.0.0/33\"\n").unwrap_err();
    assert!(error.contains("data_root") && error.contains("network.subnet"), "{error}");
}

#[test]
fn who_makes_cgroups_and_where() {
    let of = |keys: &str| parse(&format!("[containers]\n{keys}"));
    let node = |keys: &str| of(keys).unwrap().node().runtime;
    let (own, unset) = (node(""), node("cgroup_driver = \"systemd\""));
    assert_eq!(
        (own.cgroup_driver.name(), own.cgroup_parent.as_str(), own.cgroup_slice.as_str()),
        ("cgroupfs", "berth", "")
    );
    assert_eq!(node("cgroup_parent = \"machine.slice/x\"").cgroup_parent, "machine.slice/x");
    // Groups of before the change are looked for where they are.
    assert_eq!(
        (unset.cgroup_driver.name(), unset.cgroup_parent.as_str(), unset.cgroup_slice.as_str()),
        ("systemd", "berth", "")
    );
    let slice = node("cgroup_driver = \"systemd\"\ncgroup_parent = \"a-b.slice\"");
    assert_eq!((slice.cgroup_parent.as_str(), slice.cgroup_slice.as_str()), ("berth", "a-b.slice"));
    for bad in
        ["cgroup_parent = \"/a\"", "cgroup_parent = \"\"", "cgroup_driver = \"systemd\"\ncgroup_parent = \"berth\""]
    {
        let error = of(bad).unwrap_err();
        assert!(error.contains("containers.cgroup_parent"), "{bad}: {error}");
    }
    assert!(of("cgroup_driver = \"other\"").unwrap_err().contains("cgroup_driver"));
}

#[test]
fn subnets() {
    assert_eq!(parse_subnet("10.9.0.0/24"), Ok((Ipv4Addr::new(10, 9, 0, 1), 24)));
    assert_eq!(parse_subnet("10.9.0.254/24"), Ok((Ipv4Addr::new(10, 9, 0, 254), 24)));
    for bad in ["", "10.0.0.0", "10.0.0.0/4", "10.0.0.0/30", "10.0.0.255/24", "127.0.0.1/8", "::1/64", "224.0.0.1/8"] {
        assert!(parse_subnet(bad).is_err(), "{bad}");
    }
}

#[test]
fn listeners() {
    let none = parse("[listen]\ntcp = []\nunix = \"\"\n").unwrap();
    assert!(none.tcp().is_none() && none.unix_socket().is_none());
    let set = parse("[tls]\ncert = \"/c\"\n").unwrap().tcp().unwrap();
    assert_eq!(set.0, vec!["0.0.0.0:7443".parse().unwrap()]);
    assert_eq!((set.1.cert, set.1.ca), ("/c".into(), "/etc/berth/pki/ca.pem".into()));
}

#[test]
fn traces_need_a_program_that_has_them() {
    let error = parse("[otel]\nendpoint = \"127.0.0.1:4317\"\n").unwrap_err();
    assert!(error.contains("otel.endpoint"), "{error}");
    assert_eq!(parse("[otel]\nendpoint = \"http://127.0.0.1:4317\"\n").is_ok(), cfg!(feature = "otel"));
}

#[test]
fn figures_are_not_for_the_network_without_certificates() {
    let metrics = |text: &str| parse(&format!("[listen]\ntcp = []\n[metrics]\n{text}"));
    for good in ["listen = \"127.0.0.1:9464\"", "listen = \"[::1]:1\"", "listen = \"0.0.0.0:9464\"\ntls = true", ""] {
        let config = metrics(good).unwrap();
        assert_eq!(config.certificates().is_some(), good.contains("tls"), "{good}");
    }
    for bad in ["listen = \"0.0.0.0:9464\"", "listen = \"[::]:1\"", "listen = \"10.0.0.1:9464\"\ntls = false"] {
        let error = metrics(bad).unwrap_err();
        assert!(error.contains("metrics.listen") && error.contains("metrics.tls"), "{error}");
    }
}

#[test]
fn runtimes_have_names_and_absolute_paths() {
    let config =
        parse("[runtimes]\ndefault = \"crun\"\n[runtimes.crun]\npath = \"/usr/bin/crun\"\nargs = [\"--debug\"]")
            .unwrap();
    let runtime = config.node().runtime;
    assert_eq!(runtime.default_runtime, "crun");
    assert_eq!(runtime.runtimes["crun"].args, ["--debug"]);
    assert_eq!(parse("[runtimes]\ndefault = \"berth\"").unwrap().node().runtime.default_runtime, "");
    for (text, key) in [
        ("[runtimes.crun]\npath = \"crun\"", "runtimes.crun.path must be an absolute path"),
        ("[runtimes.berth]\npath = \"/usr/bin/crun\"", "runtimes.berth is berth's own"),
        ("[runtimes.\"A/b\"]\npath = \"/usr/bin/crun\"", "runtimes.A/b must be"),
        ("[runtimes]\ndefault = \"crun\"", "runtimes.default"),
        ("[runtimes.crun]\npaht = \"/usr/bin/crun\"", "paht"),
        ("[runtimes.crun]", "path"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(key), "{text}: {error}");
    }
}
