use super::*;
use berth_model::spec::{Device, DeviceRule, Mount, Storage, Ulimit, VolumeMount};

impl Policy {
    /// Those of `needs` that the role has no permission for.
    fn missing<'a>(&self, role: Option<Role>, needs: &'a [Need]) -> Vec<&'a Need> {
        needs.iter().filter(|need| self.decide(role, std::slice::from_ref(need), false).is_err()).collect()
    }
}

fn mount(kind: MountKind) -> ContainerSpec {
    ContainerSpec {
        mounts: vec![Mount { target: "/x".into(), read_only: true, kind, relabel: Default::default() }],
        ..ContainerSpec::default()
    }
}

fn bind(source: &str, propagation: Propagation) -> ContainerSpec {
    mount(MountKind::Bind {
        source: source.into(),
        propagation,
        recursive: true,
        create_source: false,
        writable_below: false,
        within: None,
        idmap: None,
        nosuid_nodev: false,
    })
}

fn device(path: &str) -> ContainerSpec {
    let device = Device {
        host_path: path.into(),
        container_path: "/dev/x".into(),
        permissions: "r".into(),
        node: Default::default(),
    };
    ContainerSpec { devices: vec![device], ..ContainerSpec::default() }
}

fn label(word: &str) -> berth_model::selinux::LabelOptions {
    let mut options = Default::default();
    assert!(berth_model::selinux::LabelOptions::take(&mut options, word));
    options
}

fn policy(text: &str) -> Policy {
    toml::from_str(&format!("[operator]\n{text}")).unwrap()
}

/// Every option that reaches the host: what it needs in words, the line of the configuration that permits it, and one that is not enough.
fn options() -> Vec<(ContainerSpec, &'static str, &'static str, &'static str)> {
    let d = ContainerSpec::default;
    let caps = |name: &str| ContainerSpec { cap_add: vec![name.to_owned()], ..d() };
    let options = [("type", "none"), ("o", "bind"), ("device", "/etc")];
    let options = options.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let mut log = d();
    log.log.own_address = true;
    let unified = [("memory.min".to_owned(), "1G".to_owned())].into();
    let files = berth_model::spec::Resources { unified, ..Default::default() };
    vec![
        (ContainerSpec { privileged: true, ..d() }, "privileged", "privileged = true", "unconfined = true"),
        (ContainerSpec { host_pid: true, ..d() }, "pid", "host_namespaces = ['pid']", "host_namespaces = ['ipc']"),
        (ContainerSpec { host_ipc: true, ..d() }, "ipc", "host_namespaces = ['ipc']", "host_namespaces = ['pid']"),
        (
            ContainerSpec { userns: UsernsMode::Host, ..d() },
            "user",
            "host_namespaces = ['user']",
            "host_namespaces = ['pid']",
        ),
        (
            ContainerSpec { userns: UsernsMode::Keep { uid: 7, gid: 7 }, ..d() },
            "user",
            "host_namespaces = ['user']",
            "host_namespaces = ['pid']",
        ),
        (
            ContainerSpec { userns: UsernsMode::Host, writable_cgroups: true, ..d() },
            "cgroup",
            "host_namespaces = ['user']\ncgroup_files = true",
            "host_namespaces = ['user']",
        ),
        (ContainerSpec { host_uts: true, ..d() }, "uts", "host_namespaces = ['uts']", "host_namespaces = ['pid']"),
        (
            ContainerSpec { network: NetworkMode::Host, ..d() },
            "the host's network",
            "host_namespaces = ['pid', 'network']",
            "host_namespaces = ['pid', 'mount']",
        ),
        (ContainerSpec { seccomp: Seccomp::Unconfined, ..d() }, "seccomp", "unconfined = true", "privileged = true"),
        (
            ContainerSpec { seccomp: Seccomp::Profile("{}".into()), ..d() },
            "seccomp",
            "unconfined = true",
            "privileged = true",
        ),
        (ContainerSpec { apparmor: "unconfined".into(), ..d() }, "AppArmor", "apparmor = true", "unconfined = true"),
        (ContainerSpec { selinux: label("disable"), ..d() }, "SELinux", "selinux = true", "apparmor = true"),
        (ContainerSpec { selinux: label("type:spc_t"), ..d() }, "SELinux", "selinux = true", "unconfined = true"),
        (ContainerSpec { selinux: label("level:s0:c1,c2"), ..d() }, "SELinux", "selinux = true", "privileged = true"),
        (ContainerSpec { apparmor: "/usr/bin/man".into(), ..d() }, "AppArmor", "apparmor = true", "landlock = true"),
        (ContainerSpec { new_privileges: true, ..d() }, "gain privileges", "new_privileges = true", "landlock = true"),
        (
            ContainerSpec { storage: Storage { bytes: None, inodes: None, beyond_default: true }, ..d() },
            "more of the disk",
            "storage = true",
            "volume_options = true",
        ),
        (ContainerSpec { landlock: Some(false), ..d() }, "without Landlock", "landlock = true", "unconfined = true"),
        (bind("/srv/a", Propagation::Rprivate), "/srv/a", "host_paths = ['/srv']", "host_paths = ['/srv/b', '/sr']"),
        (bind("/", Propagation::Rprivate), "path /", "host_paths = ['/']", "host_paths = ['/srv']"),
        (
            bind("/srv/a", Propagation::Rshared),
            "shared with the host",
            "host_paths = ['/srv']\nhost_namespaces = ['mount']",
            "host_paths = ['/srv']",
        ),
        (
            mount(MountKind::Volume(VolumeMount { options, ..VolumeMount::default() })),
            "options that reach the host",
            "volume_options = true",
            "host_paths = ['/']",
        ),
        (device("/dev/sda"), "/dev/sda", "devices = ['/dev/sda']", "devices = ['/dev/sd', '/dev/sdb']"),
        (rule(Some(5)), "c 189:5", "devices = ['c 189:5']", "devices = ['c 189:6', 'b 189:5', 'c 5:189', '/']"),
        (rule(Some(5)), "c 189:5", "devices = ['c 189:*']", "privileged = true"),
        (rule(None), "c 189:*", "devices = ['c 189:*']", "devices = ['c 189:5', 'c *:*']"),
        (device("/dev/dri/card0"), "card0", "devices = ['/dev/dri/']", "host_paths = ['/dev/dri']"),
        (caps("ALL"), "ALL", "capabilities = ['ALL']", "capabilities = ['SYS_ADMIN']"),
        (caps("CAP_SYS_ADMIN"), "SYS_ADMIN", "capabilities = ['SYS_ADMIN']", "capabilities = ['NET_ADMIN', 'ALL']"),
        (caps("net_admin"), "NET_ADMIN", "capabilities = ['CAP_NET_ADMIN']", "privileged = true"),
        (log, "log collector", "log_collectors = true", "host_namespaces = ['network']"),
        (ContainerSpec { resources: files, ..d() }, "files of its cgroup", "cgroup_files = true", "privileged = true"),
        (
            ContainerSpec { cgroup_parent: Some("a.slice".into()), ..d() },
            "another slice",
            "cgroup_files = true",
            "privileged = true",
        ),
        (ContainerSpec { oom_score_adj: Some(-5), ..d() }, "-5", "oom_score_adj = -5", "oom_score_adj = -4"),
        (ulimit("rtprio", 1), "the ulimit rtprio", "ulimits = ['rtprio']", "ulimits = ['nice']"),
        (ulimit("nice", 21), "the ulimit nice", "ulimits = ['nice']", "privileged = true"),
    ]
}

fn rule(minor: Option<u32>) -> ContainerSpec {
    let rule = DeviceRule { block: false, major: Some(189), minor, permissions: "rw".into() };
    ContainerSpec { device_rules: vec![rule], ..ContainerSpec::default() }
}

#[test]
fn rules_of_devices_are_told_from_paths() {
    for good in ["c 189:*", "b 8:0", "c *:*", "c 4095:1048575"] {
        assert!(is_rule(good), "{good}");
    }
    for bad in ["c 4096:0", "c 1:1048576", "a 1:3", "c *:3", "c 1", "c1:3", "c -1:3", "c 1:3 rwm", ""] {
        assert!(!is_rule(bad), "{bad}");
    }
}

fn ulimit(name: &str, hard: u64) -> ContainerSpec {
    ContainerSpec { ulimits: vec![Ulimit { name: name.to_owned(), soft: 0, hard }], ..ContainerSpec::default() }
}

#[test]
fn every_option_has_a_permission_of_its_own() {
    for (spec, words, enough, not_enough) in options() {
        let needs = of_spec(&spec);
        let refused = |policy: &Policy, role| policy.missing(role, &needs).len();
        let said = refusal(&Policy::default().missing(Some(Role::Operator), &needs), false);
        assert!(said.contains(words) && said.contains("policy.operator."), "{words}: {said}");
        let key = enough.lines().last().unwrap().split(' ').next().unwrap();
        assert!(said.contains(key), "{words}: {said} names {key}");
        assert_eq!(refused(&policy(enough), Some(Role::Operator)), 0, "{words}: {enough}");
        assert_ne!(refused(&policy(not_enough), Some(Role::Operator)), 0, "{words}: {not_enough}");
        assert!(policy(enough).wrong().is_empty());
        assert_eq!(refused(&Policy::default(), Some(Role::Admin)), 0, "{words}: an admin may");
        for nobody in [Some(Role::Viewer), None] {
            assert_eq!(refused(&policy(enough), nobody), needs.len(), "{words}: {nobody:?} may not");
        }
        for need in &needs {
            assert_eq!(&Need::from_token(&need.token()), need);
        }
    }
}

#[test]
fn networks_of_ones_own_have_private_addresses() {
    let bridge = |subnets: &[&str], name| {
        let subnets: Vec<String> = subnets.iter().map(|s| (*s).to_owned()).collect();
        of_network(NetworkDriver::Bridge, &subnets, name)
    };
    for own in ["10.0.0.0/8", "10.7.0.0/24", "172.31.255.0/24", "192.168.3.0/30", "fd00:7::/64", "fc00::/7"] {
        assert_eq!(bridge(&[own], Some("br-front")), [], "{own}");
    }
    for public in
        ["8.8.8.0/24", "172.32.0.0/16", "172.0.0.0/8", "100.64.0.0/10", "192.0.0.0/8", "2001:4860::/32", "fb00::/7"]
    {
        let needs = bridge(&[public], None);
        assert_eq!(needs, [Need::Subnet(public.to_owned())]);
        assert_eq!(Need::from_token(&needs[0].token()), needs[0]);
        let missing = |text: &str| policy(text).missing(Some(Role::Operator), &needs).len();
        assert_eq!((missing(&format!("subnets = ['{public}']")), missing("subnets = ['203.0.113.0/24']")), (0, 1));
        assert_eq!(
            (missing("subnets = ['0.0.0.0/0', '::/0']"), missing("macvlan = true\nbridge_names = true")),
            (0, 1)
        );
    }
    let named = bridge(&["10.7.0.0/24"], Some("wg0"));
    assert_eq!(named, [Need::BridgeName("wg0".into())]);
    assert_eq!(Need::from_token(&named[0].token()), named[0]);
    assert_eq!(policy("bridge_names = true").missing(Some(Role::Operator), &named), [] as [&Need; 0]);
    assert_eq!(Policy::default().missing(Some(Role::Operator), &named).len(), 1);
    assert_eq!(of_network(NetworkDriver::Macvlan, &["8.8.8.0/24".into()], Some("eth0")), [Need::Macvlan]);
    assert_eq!(of_network(NetworkDriver::Cni, &[], None), [Need::Cni]);
}

#[test]
fn what_stays_contained_needs_nothing() {
    assert_eq!(of_spec(&ContainerSpec::default()), []);
    let plain = ContainerSpec {
        cap_add: vec!["CHOWN".into(), "CAP_KILL".into()],
        oom_score_adj: Some(500),
        ..mount(MountKind::Tmpfs { size_bytes: None, mode: None, exec: false })
    };
    assert_eq!(of_spec(&plain), []);
    for (name, hard) in [("nofile", u64::MAX), ("memlock", u64::MAX), ("nice", 20), ("rtprio", 0), ("rttime", 5)] {
        assert_eq!(of_spec(&ulimit(name, hard)), [], "{name}");
    }
    let sized = VolumeMount { options: [("size".to_owned(), "10m".to_owned())].into(), ..VolumeMount::default() };
    assert_eq!(of_spec(&mount(MountKind::Volume(sized))), []);
}

#[test]
fn what_is_not_known_is_the_admins() {
    let all = policy(
        "privileged = true\nhost_paths = ['/']\nunconfined = true\nhost_namespaces = ['pid']\noom_score_adj = -1000",
    );
    for token in ["options beyond the operator's", "", "privileged=1", "host_paths", "oom_score_adj=x", "HOST_PATHS=/"]
    {
        let need = [Need::from_token(token)];
        assert_eq!(all.missing(Some(Role::Operator), &need).len(), 1, "{token}");
        assert_eq!(all.missing(Some(Role::Admin), &need).len(), 0, "{token}");
        assert!(refusal(&all.missing(Some(Role::Operator), &need), true).ends_with("needs the admin role"));
    }
}

#[test]
fn paths_are_compared_name_by_name() {
    for (path, folder, yes) in [
        ("/srv", "/srv", true),
        ("/srv/", "/srv", true),
        ("/srv//a/./b", "/srv/", true),
        ("/srvx", "/srv", false),
        ("/srv/../etc", "/srv", false),
        ("/", "/srv", false),
        ("srv", "/", false),
        ("/anything", "/", true),
    ] {
        assert_eq!(is_below(path, folder), yes, "{path} {folder}");
    }
}

#[test]
fn operators_binds_are_held_inside_the_permitted_folder() {
    let policy = policy("host_paths = ['/srv', '/srv/deep']");
    let within = |role, source: &str| {
        let mut spec = bind(source, Propagation::Rprivate);
        // What came along by volumes-from is set anew, too.
        policy.confine(role, &mut spec).unwrap();
        match &spec.mounts[0].kind {
            MountKind::Bind { within, .. } => within.clone(),
            _ => None,
        }
    };
    // The outer one: those who may change it say what the inner one is.
    assert_eq!(within(Some(Role::Operator), "/srv/deep/x"), Some("/srv".into()));
    assert_eq!(within(Some(Role::Operator), "/srv/x"), Some("/srv".into()));
    assert_eq!(within(Some(Role::Admin), "/srv/x"), None);
    // A folder that cannot be told from others any more leaves no bind that is held nowhere.
    let mut lost = bind("/etc", Propagation::Rprivate);
    assert!(matches!(policy.confine(Some(Role::Operator), &mut lost), Err(Refusal::Denied(_))));
}

#[test]
fn what_cannot_be_in_the_configuration_is_said() {
    let wrong = policy(
        "host_namespaces = ['net']\nhost_paths = ['srv', '/a/../b']\ndevices = ['sda']\ncapabilities = ['ADMIN']\nsubnets = ['10.0.0.0', '10.0.0.0/33']\noom_score_adj = 5\nulimits = ['nofile']",
    )
    .wrong();
    let keys: Vec<&str> = wrong.iter().map(|(key, _)| key.strip_prefix("policy.operator.").unwrap()).collect();
    assert_eq!(
        keys,
        [
            "host_namespaces",
            "host_paths",
            "host_paths",
            "devices",
            "capabilities",
            "ulimits",
            "subnets",
            "subnets",
            "oom_score_adj"
        ]
    );
}

#[test]
fn parts_of_subnets_are_found_bit_by_bit() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // xorshift64: the same sequence in every run.
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut parts = 0;
    for _ in 0..50_000 {
        // Few bits differ, so that about half of them are parts.
        let (of, length) = (next(1 << 32) as u32, next(33));
        let inner = of ^ (next(1 << 32) as u32).checked_shr(next(33) as u32).unwrap_or(0);
        let inner_length = next(33);
        let text = |bits: u32, length| format!("{}/{length}", std::net::Ipv4Addr::from_bits(bits));
        let same = (0..length).all(|bit| (inner ^ of) & (1 << (31 - bit)) == 0);
        let (inner, outer) = (text(inner, inner_length), text(of, length));
        assert_eq!(is_part(&inner, &outer), same && inner_length >= length, "{inner} {outer}");
        assert!(is_part(&outer, &outer) && is_part(&outer, "0.0.0.0/0") && !is_part(&outer, "::/0"));
        parts += usize::from(same && inner_length >= length);
    }
    assert!(parts > 5000, "{parts}");
    let words = ["10.0.0.0", "/", "8", "33", "129", "fd00::", "-", "", "x", " ", "."];
    for _ in 0..20_000 {
        let text: String = (0..next(5)).map(|_| words[next(words.len() as u64) as usize]).collect();
        let known = text.split_once('/').and_then(|(a, l)| Some((a.parse::<IpAddr>().ok()?, l.parse::<u8>().ok()?)));
        let good = known.is_some_and(|(a, l)| l <= if a.is_ipv4() { 32 } else { 128 });
        assert_eq!(subnet(&text).is_some(), good, "{text}");
    }
}

#[test]
fn a_path_that_does_not_answer_is_neither_permitted_nor_denied() {
    use crate::leads::tests::HUNG;
    let (operator, admin) = (Some(Role::Operator), Some(Role::Admin));
    let path = format!("{HUNG}/mount");
    let needs = [Need::HostPath("/proc/self".into()), Need::Links(path.clone()), Need::Links("/proc/self/..".into())];
    assert_eq!(Need::from_token(&needs[1].token()), needs[1]);
    let begun = std::time::Instant::now();
    assert_eq!(follow(admin, &needs), needs[..1], "nobody asks for an admin");
    assert!(begun.elapsed() < std::time::Duration::from_millis(500));
    assert_eq!(follow(operator, &needs), needs, "what is behind one that hangs is not asked");
    assert_eq!(follow(operator, &needs[2..]), [Need::HostPath("/proc".into())]);
    assert_eq!(follow(operator, &[Need::Links("/proc".into()), Need::Links("/not/there".into())]), []);
    let all = policy("host_paths = ['/']");
    assert_eq!(all.decide(operator, &needs, true), Err(Refusal::Silent(path)));
    assert_eq!(all.decide(admin, &needs, true), Ok(()));
    assert!(matches!(all.decide(Some(Role::Viewer), &needs, true), Err(Refusal::Denied(_))));
    // What is certain counts more.
    let said = Policy::default().decide(operator, &needs, true);
    assert!(
        matches!(&said, Err(Refusal::Denied(why)) if why.contains("/proc/self") && !why.contains(HUNG)),
        "{said:?}"
    );
    // Folders of the configuration are not asked for where they are.
    let some = policy(&format!("host_paths = ['{HUNG}/folder', '/srv']"));
    let decide = |path: &str| some.decide(operator, &[Need::HostPath(path.into())], false);
    assert_eq!((decide("/srv/x"), decide(&format!("{HUNG}/folder/x"))), (Ok(()), Ok(())));
    assert!(matches!(decide("/etc"), Err(Refusal::Denied(_))));
    let mut spec = bind("/etc", Propagation::Rprivate);
    assert!(matches!(some.confine(operator, &mut spec), Err(Refusal::Denied(_))));
}
