//! Dependencies, the boot of the host and its shutdown.

use crate::harness::agent::signal;
use crate::harness::{Node, image, until};
use serde_json::Value;

const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

fn status(node: &Node, container: &str) -> String {
    node.inspect(container)["State"]["Status"].as_str().expect("status").to_owned()
}

/// The names of containers in the order of an event.
fn order(node: &Node, event: &str, cursor: u64) -> Vec<String> {
    let filter = format!("event={event}");
    let text = node.ok(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        &filter,
        "--filter",
        "type=container",
        "-o",
        "json",
    ]);
    let events = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let later = events.filter(|e| e["Cursor"].as_u64() > Some(cursor));
    later.map(|e| e["Attributes"]["name"].as_str().expect("name").to_owned()).collect()
}

fn newest(node: &Node) -> u64 {
    let text = node.ok(&["events", "--since", "1h", "--until", "0s", "-o", "json"]);
    let last: Value = serde_json::from_str(text.lines().next_back().expect("an event")).expect("JSON");
    last["Cursor"].as_u64().expect("cursor")
}

fn place(list: &[String], name: &str) -> usize {
    list.iter().position(|n| n == name).unwrap_or_else(|| panic!("{name} in {list:?}"))
}

/// The host goes down without a word: agent, shims and containers die, and what is in /run is gone.
fn power_off(node: &mut Node) {
    let mut pids = Vec::new();
    for name in node.ok(&["ps", "-q"]).split_whitespace() {
        let state = node.inspect(name)["State"].clone();
        pids.extend(["ShimPid", "Pid"].iter().filter_map(|key| state[*key].as_u64()));
    }
    node.kill_agent();
    for pid in &pids {
        signal(u32::try_from(*pid).expect("pid"), "KILL");
    }
    until("everything has died", || pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    std::fs::remove_dir_all(node.dir.join("run")).expect("run");
}

/// What a host forgets when it is booted: its links and its rules, and the server of names.
fn forget_networks(node: &Node, bridges: &[String]) {
    let run = |command: &mut std::process::Command| assert!(command.status().expect("run").success(), "{command:?}");
    for bridge in bridges {
        run(std::process::Command::new("ip").args(["link", "delete", bridge]));
    }
    for family in ["ip", "ip6", "bridge"] {
        run(std::process::Command::new("nft").args(["delete", "table", family, &node.slot.table()]));
    }
}

/// Pid of the server of names, in the first words of its mark.
fn names_server(node: &Node) -> u32 {
    let text = std::fs::read_to_string(node.dir.join("run/names/pid")).expect("a server of names");
    text.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid")
}

#[test]
fn networks_come_back_after_a_boot() {
    let mut node = Node::with_busybox("boot-networks");
    let n = node.slot.port(0) % 256;
    let subnets = ["--subnet", &format!("10.94.{n}.0/24"), "--subnet", &format!("fd94:{n}::/64")];
    crate::networks::create(&node, 'u', &[&subnets[..], &["front"]].concat());
    let before = node.ok(&["network", "inspect", "front"]);
    let port = node.slot.port(1);
    let (publish, fixed) = (format!("127.0.0.1:{port}:80"), format!("10.94.{n}.77"));
    let web = ["--name", "web", "--network", "front", "--ip", &fixed, "--restart", "always", "-p", &publish];
    node.detached(&web, "httpd -f -p 80 -h /var/www");
    node.detached(&["--name", "other", "--network", "front", "--restart", "always"], IDLE);
    node.detached(&["--name", "later", "--network", "front"], IDLE);
    let server = names_server(&node);
    power_off(&mut node);
    signal(server, "KILL");
    until("the server of names has died", || !std::path::Path::new(&format!("/proc/{server}/exe")).exists());
    forget_networks(&node, &[format!("{}u", node.slot.bridge())]);
    node.set_boot_id("11111111-2222-4333-8444-666666666666");
    node.spawn();
    for name in ["web", "other"] {
        until(&format!("{name} runs"), || status(&node, name) == "running");
    }
    let now = node.ok(&["network", "inspect", "front"]);
    let config = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")[0]["IPAM"].clone();
    assert_eq!(config(&now), config(&before));
    assert_eq!(crate::networks::ip(&node, "web", "front"), fixed);
    // By name, in both families, and by the published port.
    let fetch = |node: &Node, from: &str, host: &str| {
        node.ctl(&["exec", from, "timeout", "5", "wget", "-q", "-O", "-", &format!("http://{host}/")]).stdout
    };
    until("it is found by its name", || fetch(&node, "other", "web").contains("hello"));
    assert!(node.ctl(&["exec", "other", "ping", "-6", "-c", "1", "-W", "2", "web"]).code == 0);
    until("its port answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    node.ok(&["start", "later"]);
    until("one that is started later is found, too", || {
        node.ctl(&["exec", "web", "ping", "-c", "1", "-W", "2", "later"]).code == 0
    });
    node.ok(&["rm", "-f", "web", "other", "later"]);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

#[test]
fn an_uninstall_takes_networks_along() {
    let mut node = Node::with_busybox("boot-uninstall");
    crate::networks::create(&node, 'u', &["--ipv6", "front"]);
    crate::networks::create(&node, 'v', &["--internal", "back"]);
    let publish = format!("127.0.0.1:{}:80", node.slot.port(1));
    node.detached(&["--name", "web", "--network", "front", "-p", &publish], IDLE);
    node.ok(&["network", "connect", "back", "web"]);
    node.detached(&["--name", "plain", "--network", "bridge"], IDLE);
    let server = names_server(&node);
    let config = node.dir.join("berthd.toml");
    let uninstall = |node: &Node, more: &[&str]| {
        let mut command = std::process::Command::new(node.program());
        crate::harness::agent::run(command.arg("--config").arg(&config).arg("uninstall").args(more))
    };
    let refused = uninstall(&node, &["--yes"]);
    assert!(refused.code != 0 && refused.stderr.contains("stop the agent first"), "{refused:?}");
    assert!(node.stop_agent().success());
    let done = uninstall(&node, &["--yes"]);
    assert_eq!(done.code, 0, "{done:?}");
    for text in ["network front removed", "network back removed", "container web"] {
        assert!(done.stdout.contains(text), "{done:?}");
    }
    let bridge = node.slot.bridge();
    for name in [bridge.clone(), format!("{bridge}u"), format!("{bridge}v")] {
        assert!(crate::networks::link(&name).is_none(), "{name} is left");
    }
    let tables = std::process::Command::new("nft").args(["list", "tables"]).output().expect("nft");
    let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
    assert!(!tables.lines().any(|line| line.ends_with(&format!(" {}", node.slot.table()))), "{tables}");
    assert!(!std::path::Path::new(&format!("/proc/{server}/exe")).exists(), "the server of names goes on");
    // The store is left, and says nothing of what went.
    node.spawn();
    assert_eq!(node.ok(&["network", "ls", "-q", "-f", "type=custom"]), "");
    assert_eq!(node.ok(&["ps", "-aq"]), "");
    node.finish();
}

#[test]
fn dependencies_are_waited_for() {
    let node = Node::with_busybox("boot-after");
    let gate = node.scratch().join("gate");
    std::fs::create_dir_all(&gate).expect("gate");
    let volume = format!("{}:/gate", gate.display());
    let check = ["--health-cmd", "[ -e /gate/good ]", "--health-interval", "100ms", "--health-retries", "1000"];
    let mut db = vec!["--name", "db", "-v", volume.as_str()];
    db.extend(check);
    node.detached(&db, IDLE);
    node.ok(&["run", "-d", "--name", "migrate", "--network", "none", "--after", "db", &image("busybox"), "true"]);
    node.ok(&["wait", "migrate"]);
    node.ok(&[
        "create",
        "--name",
        "web",
        "--network",
        "none",
        "--after",
        "db:healthy",
        "--after",
        "migrate:completed",
        &image("busybox"),
        "sleep",
        "1000",
    ]);
    assert_eq!(node.inspect("web")["HostConfig"]["After"], serde_json::json!(["db:healthy", "migrate:completed"]));
    let start = node.ctl_command(&["start", "web"]).spawn().expect("ctl");
    until("the dependency has been looked at", || node.inspect("db")["State"]["Health"]["Log"][1] != Value::Null);
    assert_eq!(status(&node, "web"), "created");
    std::fs::write(gate.join("good"), "").expect("good");
    assert!(start.wait_with_output().expect("ctl").status.success());
    assert_eq!(status(&node, "web"), "running");
    // What will not come by itself is said at once.
    node.ok(&["stop", "-t", "0", "web", "db"]);
    let error = node.fails(1, &["start", "web"]);
    assert!(error.contains("web starts after db, which is not running"), "{error}");
    // A missing one, one without a check, and circles are refused when a container is made.
    let create = |name: &str, after: &str| {
        node.fails(
            125,
            &["run", "-d", "--name", name, "--network", "none", "--after", after, &image("busybox"), "true"],
        )
    };
    assert!(create("other", "nobody").contains("no container nobody"));
    assert!(create("other", "migrate:healthy").contains("no health check"));
    assert!(create("other", "other").contains("after itself"));
    assert!(create("other", "db:soon").contains("--after"));
    node.ok(&["rm", "db"]);
    let error = create("db", "web");
    assert!(error.contains("db starts after web starts after db"), "{error}");
    node.finish();
}

#[test]
fn containers_come_back_after_a_boot_in_order() {
    let mut node = Node::with_busybox("boot-boot");
    let run = |node: &Node, name: &str, options: &[&str]| {
        let mut all = vec!["--name", name];
        all.extend(options);
        node.detached(&all, IDLE);
    };
    run(&node, "db", &["--restart", "always", "--health-cmd", "true", "--health-interval", "200ms"]);
    until("it is healthy", || node.inspect("db")["State"]["Health"]["Status"] == "healthy");
    run(&node, "late", &["--restart", "unless-stopped", "--after", "db:healthy"]);
    run(&node, "next", &["--restart", "on-failure"]);
    run(&node, "plain", &[]);
    run(&node, "stopped", &["--restart", "unless-stopped"]);
    run(&node, "ever", &["--restart", "always"]);
    // One that cannot start any more: others do not wait for it.
    let gate = node.scratch().join("gate");
    std::fs::create_dir_all(&gate).expect("gate");
    let mount = format!("type=bind,source={},target=/gate", gate.display());
    run(&node, "broken", &["--restart", "always", "--mount", &mount]);
    node.ok(&["stop", "stopped", "ever"]);
    let before = newest(&node);
    power_off(&mut node);
    std::fs::remove_dir(&gate).expect("gate");
    node.set_boot_id("11111111-2222-4333-8444-555555555555");
    node.spawn();
    for name in ["db", "late", "next", "ever"] {
        until(&format!("{name} runs"), || status(&node, name) == "running");
    }
    assert_eq!((status(&node, "plain").as_str(), status(&node, "stopped").as_str()), ("exited", "exited"));
    let state = node.inspect("plain")["State"].clone();
    assert_eq!((state["Cause"].as_str(), state["ExitCode"].as_i64()), (Some("host-rebooted"), Some(137)), "{state}");
    let started = order(&node, "start", before);
    assert!(place(&started, "db") < place(&started, "late"), "{started:?}");
    until("the failure is known", || node.inspect("broken")["State"]["StartFailure"]["Errno"] == 2);
    until("it waits for its next try", || status(&node, "broken") == "restarting");
    std::fs::create_dir(&gate).expect("gate");
    until("it is tried again", || status(&node, "broken") == "running");
    node.finish();
}

#[test]
fn all_are_stopped_in_reverse_order_and_come_back() {
    let mut node = Node::builder("boot-shutdown").top("shutdown = \"stop\"").start();
    node.ok(&["pull", "-q", &image("busybox")]);
    node.detached(&["--name", "db", "--restart", "unless-stopped"], IDLE);
    node.detached(&["--name", "app", "--restart", "always", "--after", "db"], IDLE);
    node.detached(&["--name", "web", "--restart", "on-failure", "--after", "app"], IDLE);
    node.detached(&["--name", "deaf", "--stop-timeout", "1"], "trap '' TERM; while :; do sleep 0.05; done");
    let mut names: Vec<String> = node.ok(&["stop", "--all-containers"]).lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["app", "db", "deaf", "web"]);
    let died = order(&node, "die", 0);
    assert!(place(&died, "web") < place(&died, "app") && place(&died, "app") < place(&died, "db"), "{died:?}");
    let state = node.inspect("db")["State"].clone();
    assert_eq!((state["Cause"].as_str(), state["EndedBy"].as_str()), (Some("shutdown"), Some("admin")), "{state}");
    assert_eq!(node.inspect("deaf")["State"]["ExitCode"], 137);
    // What a policy keeps going comes back with the agent, in its order.
    let before = newest(&node);
    node.restart();
    for name in ["db", "app", "web"] {
        until(&format!("{name} runs"), || status(&node, name) == "running");
    }
    let started = order(&node, "start", before);
    assert!(
        place(&started, "db") < place(&started, "app") && place(&started, "app") < place(&started, "web"),
        "{started:?}"
    );
    assert_eq!(status(&node, "deaf"), "exited");
    // And SIGTERM does the same where the configuration says so.
    assert!(node.stop_agent().success());
    node.spawn();
    let died = order(&node, "die", before);
    assert!(place(&died, "web") < place(&died, "app") && place(&died, "app") < place(&died, "db"), "{died:?}");
    for name in ["db", "app", "web"] {
        until(&format!("{name} runs again"), || status(&node, name) == "running");
    }
    node.finish();
}
