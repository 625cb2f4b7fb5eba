//! Options that reach the host: each needs a permission of its own, and nothing is a way around them.

use crate::harness::agent::Output;
use crate::harness::{Node, image, until};

/// Options of `run`, the key that permits them to operators, and the value that is just enough.
const OPTIONS: &[(&[&str], &str, &str)] = &[
    (&["--privileged"], "privileged", "true"),
    (&["--pid", "host"], "host_namespaces", "['pid']"),
    (&["--network", "host"], "host_namespaces", "['network']"),
    (&["--ipc", "host"], "host_namespaces", "['ipc']"),
    (&["--uts", "host"], "host_namespaces", "['uts']"),
    (&["-v", "/usr/share:/host:ro"], "host_paths", "['/usr']"),
    (&["--device", "/dev/loop0"], "devices", "['/dev/loop0']"),
    (&["--device-cgroup-rule", "c 10:* r"], "devices", "['c 10:*']"),
    (&["--cap-add", "NET_ADMIN"], "capabilities", "['NET_ADMIN']"),
    (&["--cap-add", "ALL"], "capabilities", "['ALL']"),
    (&["--security-opt", "seccomp=unconfined"], "unconfined", "true"),
    (&["--security-opt", "apparmor=unconfined"], "apparmor", "true"),
    (&["--security-opt", "label=disable"], "selinux", "true"),
    (&["--security-opt", "no-new-privileges=false"], "new_privileges", "true"),
    (&["--mount", "type=volume,target=/v,volume-opt=type=tmpfs,volume-opt=device=tmpfs"], "volume_options", "true"),
    (&["--log-driver", "syslog", "--log-opt", "syslog-address=udp://127.0.0.1:9"], "log_collectors", "true"),
    (&["--oom-score-adj", "-1"], "oom_score_adj", "-1"),
    (&["--ulimit", "rtprio=0:1"], "ulimits", "['rtprio']"),
    (&["--ulimit", "nice=20:40"], "ulimits", "['nice']"),
];

fn run(node: &Node, role: &str, options: &[&str]) -> Output {
    let busybox = image("busybox");
    let mut arguments = vec!["run", "--rm"];
    if !options.contains(&"--network") {
        arguments.extend(["--network", "none"]);
    }
    arguments.extend(options);
    arguments.extend([busybox.as_str(), "true"]);
    node.ctl_as(&node.pki.identity(role), &arguments)
}

fn with_policy(name: &str, policy: &str) -> Node {
    let node = Node::builder(name).table(&format!("[policy.operator]\n{policy}")).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    node
}

#[test]
fn without_a_permission_an_operator_is_told_which_one_is_missing() {
    let node = Node::with_busybox("permissions-none");
    assert_eq!(run(&node, "operator", &[]).code, 0);
    for (options, key, _) in OPTIONS {
        let output = run(&node, "operator", options);
        assert_eq!(output.code, 125, "{options:?}: {output:?}");
        let named = output.stderr.contains("needs the admin role")
            && output.stderr.contains(&format!("policy.operator.{key} in the agent's configuration"));
        assert!(named, "{options:?}: {output:?}");
        assert_eq!(run(&node, "viewer", options).code, 125, "{options:?}");
        let admin = run(&node, "admin", options);
        assert_eq!(admin.code, 0, "{options:?}: {admin:?}");
    }
    let macvlan = ["network", "create", "--driver", "macvlan", "-o", "parent=lo", "--subnet", "10.99.1.0/24", "m"];
    let output = node.ctl_as(&node.pki.identity("operator"), &macvlan);
    assert!(output.stderr.contains("policy.operator.macvlan"), "{output:?}");
    let public = ["network", "create", "--subnet", "203.0.113.0/24", "m"];
    let output = node.ctl_as(&node.pki.identity("operator"), &public);
    assert!(output.stderr.contains("the subnet 203.0.113.0/24") && output.stderr.contains("policy.operator.subnets"));
    let named = ["network", "create", "--opt", "com.docker.network.bridge.name=wg0", "m"];
    let output = node.ctl_as(&node.pki.identity("operator"), &named);
    assert!(output.stderr.contains("policy.operator.bridge_names"), "{output:?}");
    assert_eq!(node.ctl_as(&node.pki.identity("operator"), &["network", "create", "m"]).code, 0);
    node.ok(&["network", "rm", "m"]);
    // The record says who used what, and who was not let.
    let log = std::fs::read_to_string(node.data().join("audit.log")).expect("audit.log");
    for (verdict, role) in [("denied", "operator"), ("allowed", "admin")] {
        let found = log.lines().any(|line| {
            line.contains(&format!("\"verdict\":\"{verdict}\""))
                && line.contains(&format!("\"role\":\"{role}\""))
                && line.contains("\"needs\":[\"capabilities=NET_ADMIN\"]")
        });
        assert!(found, "{verdict} {role} in {log}");
    }
    node.finish();
}

#[test]
fn a_permission_opens_its_own_door_and_no_other() {
    for (n, (options, key, value)) in OPTIONS.iter().enumerate() {
        let node = with_policy(&format!("permissions-{n}"), &format!("{key} = {value}"));
        let output = run(&node, "operator", options);
        assert_eq!(output.code, 0, "{options:?} by {key} = {value}: {output:?}");
        for (other, other_key, other_value) in OPTIONS {
            if (key, value) != (other_key, other_value) {
                assert_eq!(run(&node, "operator", other).code, 125, "{other:?} by {key} = {value}");
            }
        }
        // All of the option's own needs, and not one less.
        let both = [*options, if *key == "privileged" { &["--pid", "host"] } else { &["--privileged"] }].concat();
        assert_eq!(run(&node, "operator", &both).code, 125, "{both:?}");
        node.finish();
    }
}

#[test]
fn a_permitted_folder_is_not_left_by_links() {
    let shared = std::env::temp_dir().join(format!("berth-shared-{}", std::process::id()));
    std::fs::create_dir_all(shared.join("own")).expect("shared");
    std::fs::write(shared.join("own/mine"), "mine").expect("mine");
    let s = shared.display();
    let node = with_policy("permissions-links", &format!("host_paths = ['{s}']"));
    let operator = node.pki.identity("operator");
    let busybox = image("busybox");
    let sh = |options: &[&str], script: &str| {
        let arguments =
            [&["run", "--rm", "--network", "none"], options, &[busybox.as_str(), "sh", "-c", script]].concat();
        node.ctl_as(&operator, &arguments)
    };
    let whole = format!("{s}:/s");
    let made =
        sh(&["-v", &whole], "ln -s /etc /s/out; ln -s own /s/near; ln -s ../../../../etc /s/up; cat /s/own/mine");
    assert_eq!((made.code, made.stdout.as_str()), (0, "mine"), "{made:?}");
    // Links that stay inside are followed, missing folders are made.
    assert_eq!(sh(&["-v", &format!("{s}/near:/n")], "cat /n/mine").stdout, "mine");
    assert_eq!(sh(&["-v", &format!("{s}/near/new/deep:/n")], "touch /n/x").code, 0);
    assert!(shared.join("own/new/deep/x").exists());
    // What is mounted below it comes along, with its owners as the container sees them.
    let (other, below) = (shared.join("other"), shared.join("own/new"));
    std::fs::create_dir(&other).expect("other");
    let mount = |arguments: &[&std::path::Path], program: &str| {
        assert!(std::process::Command::new(program).args(arguments).status().expect(program).success());
    };
    mount(&["--bind".as_ref(), &other, &below], "mount");
    let touched = sh(&["-v", &format!("{s}/own:/o:idmap")], "touch /o/x /o/new/x");
    mount(&[&below], "umount");
    assert_eq!(touched.code, 0, "{touched:?}");
    for file in [other.join("x"), shared.join("own/x")] {
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&file).expect("made"));
        assert_eq!(owner, 0, "{}", file.display());
    }
    for link in ["out", "up", "out/new"] {
        let output = sh(&["-v", &format!("{s}/{link}:/x")], "cat /x/hostname /x/passwd");
        assert!(output.code == 125 && output.stderr.contains("held inside"), "{link}: {output:?}");
    }
    assert!(!std::path::Path::new("/etc/new").exists());
    // An admin's bind is not led out either, where operators may put links; where they may not, links are the admin's own.
    let error = node.fails(125, &["run", "--rm", "-v", &format!("{s}/out:/x:ro"), &busybox, "ls", "/x"]);
    assert!(error.contains("held inside"), "{error}");
    let free = Node::with_busybox("permissions-free");
    let seen = free.sh(&["-v", &format!("{s}/out:/x:ro")], "ls /x");
    assert!(seen.contains("passwd"), "{seen}");
    free.finish();
    // A folder that was one when the container was made, and is a link when it is started.
    let own = format!("{s}/own:/x");
    let create = ["create", "--name", "late", "--network", "none", "-v", &own, &busybox, "ls", "/x"];
    let created = node.ctl_as(&operator, &create);
    assert_eq!(created.code, 0, "{created:?}");
    assert_eq!(sh(&["-v", &whole], "mv /s/own /s/was && ln -s /etc /s/own").code, 0);
    let started = node.ctl_as(&operator, &["start", "late"]);
    assert!(started.code != 0 && started.stderr.contains("held inside"), "{started:?}");
    node.ok(&["rm", "-f", "late"]);
    node.finish();
    std::fs::remove_dir_all(&shared).expect("remove");
}

/// What an admin has made lies where operators may put links: it is led nowhere, neither by a container's next start nor without a container.
#[test]
fn what_an_admin_made_is_not_led_out_of_a_permitted_folder() {
    let base = std::env::temp_dir().join(format!("berth-led-{}", std::process::id()));
    let (shared, secret) = (base.join("shared"), base.join("secret"));
    for dir in [&shared.join("app"), &secret] {
        std::fs::create_dir_all(dir).expect("folder");
    }
    std::fs::write(shared.join("app/mine"), "mine").expect("mine");
    std::fs::write(secret.join("key"), "secret").expect("key");
    let node = with_policy("permissions-led", &format!("host_paths = ['{}']", shared.display()));
    let operator = node.pki.identity("operator");
    let app = shared.join("app").display().to_string();
    node.detached(&["--name", "adm", "--network", "none", "-v", &format!("{app}:/data")], "while :; do sleep 1; done");
    node.ok(&["volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", &format!("device={app}"), "advol"]);
    let read = |container: &str| node.ctl_as(&operator, &["exec", container, "cat", "/data/mine"]);
    assert_eq!(read("adm").stdout, "mine");
    let busybox = image("busybox");
    let create = ["create", "--name", "late", "--network", "none", "-v", "advol:/data", &busybox, "cat", "/data/key"];
    assert_eq!(node.ctl_as(&operator, &create).code, 0);
    // What a container of the operator's does there.
    let whole = format!("{}:/s", shared.display());
    let swap = format!("mv /s/app /s/was && ln -s {} /s/app", secret.display());
    let swapped =
        node.ctl_as(&operator, &["run", "--rm", "--network", "none", "-v", &whole, &busybox, "sh", "-c", &swap]);
    assert_eq!(swapped.code, 0, "{swapped:?}");
    let refused = |arguments: &[&str]| {
        let output = node.ctl_as(&operator, arguments);
        let said = output.stderr.contains("held inside") || output.stderr.contains("others than admins may put links");
        assert!(output.code != 0 && said && !output.stdout.contains("secret"), "{arguments:?}: {output:?}");
    };
    refused(&["restart", "-t", "0", "adm"]);
    refused(&["start", "-a", "late"]);
    // Without a container the path is asked for first, and denied by where it leads now; put back, it is what it was.
    let export = |code: i32| {
        let output = node.ctl_as(&operator, &["volume", "export", "advol"]);
        assert!((output.code == 0) == (code == 0) && !output.stdout.contains("secret"), "{output:?}");
    };
    export(1);
    std::fs::remove_file(shared.join("app")).expect("link");
    std::fs::rename(shared.join("was"), shared.join("app")).expect("put back");
    export(0);
    node.ok(&["start", "adm"]);
    assert_eq!(read("adm").stdout, "mine");
    node.ok(&["rm", "-f", "adm", "late"]);
    node.ok(&["volume", "rm", "advol"]);
    node.finish();
    std::fs::remove_dir_all(&base).expect("remove");
}

/// A container's volume lies at a path that the host has, too: a link of /proc leads there, and looks as if it stayed in the permitted folder.
#[test]
fn a_link_of_proc_does_not_lead_into_another_container() {
    let shared = std::env::temp_dir().join(format!("berth-proc-{}", std::process::id()));
    std::fs::create_dir_all(shared.join("app")).expect("shared");
    let s = shared.display().to_string();
    let node = with_policy("permissions-proc", &format!("host_paths = ['{s}']"));
    let operator = node.pki.identity("operator");
    let busybox = image("busybox");
    let id = node.detached(
        &["--name", "adm", "--network", "none", "-v", &format!("keys:{s}")],
        &format!("echo secret > {s}/key; mkdir {s}/app; echo secret > {s}/app/key; while :; do sleep 1; done"),
    );
    until("its files are there", || node.ctl(&["exec", "adm", "cat", &format!("{s}/app/key")]).code == 0);
    node.ok(&["volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", &format!("device={s}/app"), "own"]);
    let root = format!("/proc/{}/root{s}", node.inspect(&id)["State"]["Pid"]);
    assert!(std::path::Path::new(&root).join("key").exists(), "root of the host can go there");
    for (link, to) in [("whole", root.clone()), ("part", format!("{root}/app"))] {
        std::os::unix::fs::symlink(to, shared.join(link)).expect("link");
    }
    std::fs::rename(shared.join("app"), shared.join("was")).expect("rename");
    std::os::unix::fs::symlink(format!("{root}/app"), shared.join("app")).expect("link");
    for source in
        [format!("{s}/whole"), format!("{s}/part"), format!("{s}/whole/app"), format!("{s}/app"), "own".into()]
    {
        let mount = format!("{source}:/x");
        let output =
            node.ctl_as(&operator, &["run", "--rm", "--network", "none", "-v", &mount, &busybox, "cat", "/x/key"]);
        assert!(output.code == 125 && !output.stdout.contains("secret"), "{source}: {output:?}");
        assert!(output.stderr.contains("others than admins may put links"), "{source}: {output:?}");
    }
    let output = node.ctl_as(&operator, &["volume", "export", "own"]);
    assert!(output.code != 0 && !output.stdout.contains("secret"), "{output:?}");
    node.ok(&["rm", "-f", "adm"]);
    node.ok(&["volume", "rm", "own", "keys"]);
    node.finish();
    std::fs::remove_dir_all(&shared).expect("remove");
}

/// A link of an admin's that goes through a permitted folder and out again, a folder in another, and a file system that takes paths as text.
#[test]
fn no_detour_leads_out_of_a_permitted_folder() {
    let base = std::env::temp_dir().join(format!("berth-detour-{}", std::process::id()));
    let at = |path: &str| base.join(path).display().to_string();
    for dir in ["share/a/b", "share/app", "share/base", "secret", "opt"] {
        std::fs::create_dir_all(base.join(dir)).expect("folder");
    }
    std::fs::write(base.join("secret/key"), "secret").expect("key");
    std::os::unix::fs::symlink(base.join("share/a/b"), base.join("opt/data")).expect("link");
    let node = with_policy("permissions-detour", &format!("host_paths = ['{}', '{}']", at("share"), at("share/app")));
    let operator = node.pki.identity("operator");
    let busybox = image("busybox");
    let volume = |options: &[&str], name: &str| {
        let options: Vec<&str> = options.iter().flat_map(|o| ["--opt", o]).collect();
        node.ok(&[&["volume", "create"], options.as_slice(), &[name]].concat());
    };
    let (device, lower) =
        (format!("device={}", at("opt/data")), format!("o=lowerdir={}:{}", at("share/base"), at("opt")));
    volume(&["type=none", "o=bind", &device], "alias");
    volume(&["type=overlay", "device=overlay", &lower], "overlay");
    let create = |name: &str, source: &str| {
        let mount = format!("{source}:/x");
        let made = ["create", "--name", name, "--network", "none", "-v", &mount, &busybox, "cat", "/x/key"];
        node.ok(&made);
    };
    create("bound", &at("opt/data"));
    create("volume", "alias");
    // What an operator's container does in the permitted folder.
    let whole = format!("{}:/s", at("share"));
    let swap = format!(
        "cd /s && rm -rf a/b base app && ln -s {secret} a/b && ln -s {secret} base && ln -s / app",
        secret = at("secret")
    );
    let swapped =
        node.ctl_as(&operator, &["run", "--rm", "--network", "none", "-v", &whole, &busybox, "sh", "-c", &swap]);
    assert_eq!(swapped.code, 0, "{swapped:?}");
    let refused = |arguments: &[&str]| {
        let output = node.ctl_as(&operator, arguments);
        assert!(output.code != 0 && !output.stdout.contains("secret"), "{arguments:?}: {output:?}");
        output.stderr
    };
    for name in ["bound", "volume"] {
        let error = refused(&["start", "-a", name]);
        assert!(error.contains("others than admins may put links"), "{error}");
    }
    for (source, key) in [
        ("overlay".to_owned(), "others than admins may put links"),
        (at("secret"), "host_paths"),
        (at("share/app/etc"), "others than admins may put links"),
        (format!("{}{}", at("share/app"), at("secret")), "others than admins may put links"),
        ("/etc".to_owned(), "host_paths"),
    ] {
        let mount = format!("{source}:/x");
        let error =
            refused(&["run", "--rm", "--network", "none", "-v", &mount, &busybox, "cat", "/x/key", "/x/hostname"]);
        assert!(error.contains(key), "{source}: {error}");
    }
    node.ok(&["rm", "-f", "bound", "volume"]);
    node.ok(&["volume", "rm", "alias", "overlay"]);
    node.finish();
    std::fs::remove_dir_all(&base).expect("remove");
}

/// A name that another container's id could be would be found in its place.
#[test]
fn no_container_answers_to_the_id_of_another() {
    let node = Node::with_busybox("permissions-ids");
    let id = node.detached(&["--name", "web", "--network", "none"], "while :; do sleep 1; done");
    node.detached(&["--name", "other", "--network", "none"], "while :; do sleep 1; done");
    let busybox = image("busybox");
    for name in [id.as_str(), &id[..12], &"e".repeat(64), "0123456789ab"] {
        let error = node.fails(1, &["rename", "other", name]);
        assert!(error.contains("could be the id of a container"), "{error}");
        let error = node.fails(125, &["run", "--rm", "--name", name, &busybox, "true"]);
        assert!(error.contains("could be the id of a container"), "{error}");
    }
    node.ok(&["rename", "other", "0123456789a"]);
    node.ok(&["rename", "0123456789a", "feedbeef-20261123"]);
    assert_eq!(node.ok(&["exec", &id[..12], "hostname"]), node.ok(&["exec", "web", "hostname"]));
    node.finish();
}

#[test]
fn nothing_that_an_admin_made_is_a_way_around() {
    let node = Node::with_busybox("permissions-around");
    let operator = node.pki.identity("operator");
    let denied = |arguments: &[&str], key: &str| {
        let output = node.ctl_as(&operator, arguments);
        assert!(
            output.code != 0 && output.stderr.contains(&format!("policy.operator.{key}")),
            "{arguments:?}: {output:?}"
        );
    };
    let busybox = image("busybox");
    let idle = "while :; do sleep 1; done";
    // A volume that is a folder of the host is one for whoever uses it.
    node.ok(&["volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/etc", "etc"]);
    denied(&["run", "--rm", "--network", "none", "-v", "etc:/x", &busybox, "true"], "host_paths");
    denied(&["volume", "export", "etc", "-o", "/dev/null"], "host_paths");
    denied(&["volume", "clone", "etc", "copy"], "host_paths");
    denied(
        &["volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/etc", "own"],
        "volume_options",
    );
    node.detached(&["--name", "bound", "-v", "etc:/x:ro"], idle);
    denied(&["run", "--rm", "--network", "none", "--volumes-from", "bound", &busybox, "true"], "host_paths");
    // Nor is a container that has it, by exec, copies, its files as an image, or its input.
    denied(&["exec", "bound", "true"], "host_paths");
    denied(&["cp", "bound:/x/passwd", "-"], "host_paths");
    denied(&["commit", "bound", "stolen:1"], "host_paths");
    denied(&["export", "bound", "-o", "/dev/null"], "host_paths");
    node.detached(&["--name", "root", "--privileged", "-i"], idle);
    denied(&["exec", "root", "true"], "privileged");
    let attached = node.ctl_as(&operator, &["attach", "root"]);
    assert!(attached.stderr.contains("policy.operator.privileged"), "{attached:?}");
    // Nor is its network namespace, with the loopback of what is in it, and what goes into that later.
    for other in ["bound", "root"] {
        let key = if other == "root" { "privileged" } else { "host_paths" };
        let network = format!("container:{other}");
        denied(&["run", "--rm", "--network", &network, &busybox, "true"], key);
        denied(&["create", "--network", &network, &busybox, "true"], key);
        node.detached(&["--name", "beside", "--network", &network], idle);
        denied(&["exec", "beside", "true"], key);
        node.ok(&["rm", "-f", "beside"]);
    }
    // Its own container gets nothing by an exec, a new name, an update or a restart.
    let plain = ["run", "-d", "--name", "plain", "--network", "none", &busybox, "sh", "-c", idle];
    assert_eq!(node.ctl_as(&operator, &plain).code, 0);
    denied(&["exec", "--privileged", "plain", "true"], "privileged");
    let own = ["run", "--rm", "--network", "container:plain", &busybox, "true"];
    assert_eq!(node.ctl_as(&operator, &own).code, 0);
    let caps = || node.ok(&["exec", "plain", "grep", "CapBnd", "/proc/1/status"]);
    let before = caps();
    for arguments in [
        &["rename", "root", "was"][..],
        &["rename", "plain", "root"],
        &["rename", "root", "plain"],
        &["update", "--memory", "64m", "plain"],
        &["restart", "-t", "0", "plain"],
    ] {
        let output = node.ctl_as(&operator, arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
    }
    assert_eq!(caps(), before);
    denied(&["exec", "was", "true"], "privileged");
    for container in ["bound", "was", "plain"] {
        node.ok(&["rm", "-f", container]);
    }
    node.ok(&["volume", "rm", "etc"]);
    node.finish();
}
