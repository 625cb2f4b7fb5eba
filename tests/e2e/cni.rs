//! Networks of the driver cni: Debian's own plugins, and one that does what a test wants.

use crate::harness::web::answers;
use crate::harness::{LONG, Node, eventually, image, until};
use crate::networks::{IDLE, endpoint, interfaces, ip, link, network};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const SERVE: &str = "httpd -f -p 80 -h /var/www";

/// An agent with a folder of plugins of its own (see cni-plugin.sh), and a short patience for them.
pub fn node(name: &str) -> Node {
    let mut node = Node::with_busybox(name);
    fs::create_dir_all(fake(&node)).expect("cni-bin");
    let script = include_str!("cni-plugin.sh");
    for name in ["fake", "fake2"] {
        let path = fake(&node).join(name);
        fs::write(&path, script).expect("plugin");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let keys = format!(
        "[network]\ncni_bin_dirs = [\"{}\", \"/usr/lib/cni\"]\ncni_plugin_seconds = 5\ncni_conf_dir = \"{}\"",
        fake(&node).display(),
        node.dir.join("cni-conf").display()
    );
    fs::create_dir_all(node.dir.join("cni-conf")).expect("cni-conf");
    tidy(&subnet(&node, 95));
    let file = node.dir.join("berthd.toml");
    let text = fs::read_to_string(&file).expect("berthd.toml").replace("[network]", &keys);
    fs::write(&file, text).expect("berthd.toml");
    node.restart();
    node
}

/// Rules that a test of this slot has left that failed.
fn tidy(subnet: &str) {
    let script = "for t in nat filter; do iptables-save -t $t | grep '^-A' | grep -F \"$0.\" | sed 's/^-A/-D/' | while read -r rule; do \
        eval \"iptables -t $t $rule\"; done; done";
    assert!(Command::new("sh").args(["-c", script, subnet]).status().expect("sh").success());
}

pub fn fake(node: &Node) -> PathBuf {
    node.dir.join("cni-bin")
}

fn subnet(node: &Node, n: u8) -> String {
    format!("10.{n}.{}", node.slot.port(0) % 256)
}

/// What a plugin of ours does next time.
fn on(node: &Node, verb: &str, script: Option<&str>) {
    let path = fake(node).join(format!("on-{verb}"));
    match script {
        Some(script) => fs::write(path, script).expect("on"),
        None => fs::remove_file(path).expect("on"),
    }
}

fn calls(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(fake(node).join("calls")).unwrap_or_default();
    let _ = fs::remove_file(fake(node).join("calls"));
    text.lines().map(str::to_owned).collect()
}

/// Debian's bridge with addresses, firewall, and ports.
pub fn list(node: &Node, name: &str) -> Value {
    let subnet = subnet(node, 95);
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [
        {"type": "bridge", "bridge": format!("{}u", node.slot.bridge()), "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "capabilities": {"ips": true},
         "ipam": {"type": "host-local", "dataDir": data_dir(node), "ranges": [[{"subnet": format!("{subnet}.0/24")}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "tuning", "capabilities": {"mac": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        {"type": "firewall"}]})
}

fn data_dir(node: &Node) -> PathBuf {
    node.dir.join("host-local")
}

pub fn create(node: &Node, list: &Value) -> String {
    let name = list["name"].as_str().expect("name");
    let file = node.dir.join(format!("{name}.conflist"));
    fs::write(&file, list.to_string()).expect("conflist");
    node.ok(&["network", "create", "-d", "cni", "--conflist", &file.display().to_string(), name])
}

fn refused(node: &Node, list: &Value) -> String {
    let name = list["name"].as_str().unwrap_or("lab");
    node.ctl_stdin(&["network", "create", "-d", "cni", "--conflist", "-", name], &list.to_string()).stderr
}

/// Addresses that host-local has given out.
fn given(node: &Node, name: &str) -> Vec<String> {
    let entries = fs::read_dir(data_dir(node).join(name)).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with("10.")).collect()
}

/// Everything of plugins that is still there: addresses, links, rules, files, mounts.
pub fn left(node: &Node, name: &str) -> Vec<String> {
    let mut left = given(node, name);
    let ports = fs::read_dir(format!("/sys/class/net/{}u/brif", node.slot.bridge())).into_iter().flatten().flatten();
    left.extend(ports.map(|e| format!("port {:?}", e.file_name())));
    let rules = Command::new("iptables-save").output().expect("iptables-save");
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    let subnet = format!("{}.", subnet(node, 95));
    left.extend(rules.lines().filter(|l| l.contains(&subnet)).map(str::to_owned));
    for folder in ["data/cni", "run/netns"] {
        let entries = fs::read_dir(node.dir.join(folder)).into_iter().flatten().flatten();
        left.extend(entries.map(|e| format!("{}", e.path().display())));
    }
    left
}

pub fn none_left(node: &Node, name: &str) {
    let begun = Instant::now();
    loop {
        let left = left(node, name);
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < LONG / 3, "left behind: {left:#?}\n{}", node.agent_log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pings(node: &Node, from: &str, to: &str) -> bool {
    node.ctl(&["exec", from, "ping", "-c", "1", "-W", "2", to]).code == 0
}

#[test]
fn debians_plugins_make_a_network() {
    let mut node = node("cni-real");
    let subnet = subnet(&node, 95);
    create(&node, &list(&node, "lab"));
    assert_eq!(network(&node, "lab")["Conflist"]["plugins"][1]["type"], "tuning");
    let port = node.slot.port(0);
    let publish = format!("127.0.0.1:{port}:80");
    node.detached(&["--name", "web", "--network", "lab", "-p", &publish], SERVE);
    let asked = format!("{subnet}.77");
    let mac = "02:00:00:00:77:77";
    node.detached(
        &["--name", "cb", "--network", "lab", "--ip", &asked, "--mac-address", mac, "--hostname", "cbx"],
        IDLE,
    );
    assert!(ip(&node, "web", "lab").starts_with(&subnet), "{}", ip(&node, "web", "lab"));
    assert_eq!(ip(&node, "cb", "lab"), asked);
    assert_eq!(node.ok(&["exec", "cb", "cat", "/sys/class/net/eth0/address"]), mac);
    assert!(node.ok(&["exec", "cb", "cat", "/etc/hosts"]).contains(&format!("{asked}\tcbx")));
    assert!(node.ok(&["exec", "cb", "ip", "route"]).contains(&format!("default via {subnet}.1 dev eth0")));
    assert!(pings(&node, "cb", &ip(&node, "web", "lab")));
    until("the published port answers", || answers(port));
    // What plugins have said is shown.
    let shown = &network(&node, "lab")["Containers"];
    let one = shown.as_object().expect("map").values().find(|c| c["Name"] == "cb").expect("cb").clone();
    assert_eq!(one["CNIResult"]["ips"][0]["address"], format!("{asked}/24"));
    assert_eq!(endpoint(&node, "cb", "lab")["MacAddress"], mac);
    let host_end = endpoint(&node, "cb", "lab")["EndpointID"].as_str().expect("end").to_owned();
    assert!(host_end.starts_with("veth") && link(&host_end).is_some(), "{host_end}");
    let stats = node.ok(&["stats", "--no-stream", "--format", "{{.NetIO}}", "cb"]);
    assert!(!stats.starts_with("0B"), "{stats}");
    // One address is one container's, also for host-local.
    let said = node.fails(125, &["run", "--rm", "--network", "lab", "--ip", &asked, &image("busybox"), "true"]);
    assert!(said.contains("CNI plugin bridge refuses ADD") && said.contains(&asked), "{said}");
    // A new agent changes nothing, and goes on with what there is.
    node.kill_agent();
    node.spawn();
    assert!(answers(port) && pings(&node, "cb", &ip(&node, "web", "lab")));
    // Restarted, both have what they asked for.
    node.ok(&["restart", "-t", "1", "web", "cb"]);
    assert_eq!(ip(&node, "cb", "lab"), asked);
    until("it answers again", || answers(port));
    let said = node.fails(1, &["port", "add", "web", "8080:80"]);
    assert!(said.contains("are published by CNI plugins"), "{said}");
    assert!(node.fails(1, &["network", "rm", "lab"]).contains("in use by cb, web"));
    node.ok(&["rm", "-f", "web", "cb"]);
    none_left(&node, "lab");
    assert!(!answers(port));
    let bridge = format!("{}u", node.slot.bridge());
    assert!(link(&bridge).is_some());
    node.ok(&["network", "rm", "lab"]);
    assert!(link(&bridge).is_none(), "what the plugin had made goes with its network");
    node.finish();
}

#[test]
fn beside_other_networks_and_while_it_runs() {
    let mut node = node("cni-mixed");
    create(&node, &list(&node, "lab"));
    let front = format!("com.docker.network.bridge.name={}v", node.slot.bridge());
    node.ok(&["network", "create", "--opt", &front, "front"]);
    node.detached(&["--name", "peer", "--network", "lab"], IDLE);
    node.detached(&["--name", "both", "--network", "front", "--network", "name=lab,gw-priority=5"], IDLE);
    assert_eq!(interfaces(&node, "both"), ["eth0", "eth1"]);
    let route = node.ok(&["exec", "both", "ip", "route"]);
    assert!(route.contains(&format!("default via {}.1 dev eth1", subnet(&node, 95))), "{route}");
    node.detached(&["--name", "box", "--network", "bridge"], IDLE);
    node.ok(&["network", "connect", "lab", "box"]);
    assert_eq!(interfaces(&node, "box"), ["eth0", "eth1"]);
    for name in ["both", "box"] {
        assert!(pings(&node, name, &ip(&node, "peer", "lab")), "{name}");
    }
    let route = node.ok(&["exec", "box", "ip", "route"]);
    assert!(route.contains("dev eth0") && route.starts_with("default"), "the way out stays: {route}");
    node.kill_agent();
    node.spawn();
    node.ok(&["network", "disconnect", "lab", "box"]);
    assert_eq!((interfaces(&node, "box"), given(&node, "lab").len()), (vec!["eth0".to_owned()], 2));
    // Off its only other network, the plugins' one is the way out.
    node.ok(&["network", "connect", "lab", "box"]);
    node.ok(&["network", "disconnect", "bridge", "box"]);
    let route = node.ok(&["exec", "box", "ip", "route"]);
    assert!(route.contains("default via") && route.contains("dev eth1"), "{route}");
    // Published ports cannot move to plugins while it runs.
    let port = node.slot.port(0);
    let publish = format!("127.0.0.1:{port}:80");
    node.detached(&["--name", "web", "--network", "front", "-p", &publish], SERVE);
    node.ok(&["network", "connect", "lab", "web"]);
    let said = node.fails(1, &["network", "disconnect", "front", "web"]);
    assert!(said.contains("close them first"), "{said}");
    until("it answers", || answers(port));
    node.ok(&["rm", "-f", "peer", "both", "box", "web"]);
    none_left(&node, "lab");
    node.ok(&["network", "rm", "lab", "front"]);
    node.finish();
}

#[test]
fn a_bridge_that_was_there_before_stays() {
    let node = node("cni-foreign");
    let bridge = format!("{}v", node.slot.bridge());
    let made = Command::new("ip").args(["link", "add", &bridge, "type", "bridge"]).status().expect("ip");
    assert!(made.success());
    let mut foreign = list(&node, "lab");
    foreign["plugins"][0]["bridge"] = bridge.clone().into();
    // With nobody ever on it, and with somebody.
    create(&node, &foreign);
    node.ok(&["network", "rm", "lab"]);
    assert!(link(&bridge).is_some());
    create(&node, &foreign);
    node.detached(&["--name", "ca", "--network", "lab"], IDLE);
    node.ok(&["rm", "-f", "ca"]);
    none_left(&node, "lab");
    node.ok(&["network", "rm", "lab"]);
    assert!(link(&bridge).is_some_and(|l| l["ifalias"].is_null()));
    assert!(Command::new("ip").args(["link", "delete", &bridge]).status().expect("ip").success());
    // Nor does one go that berth's own network of that name has, which its container has left.
    node.ok(&["network", "create", "--opt", &format!("com.docker.network.bridge.name={bridge}"), "front"]);
    create(&node, &foreign);
    node.ok(&["network", "rm", "lab"]);
    assert!(link(&bridge).is_some());
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

#[test]
fn a_start_that_failed_twice_over_can_be_tried_again() {
    let node = node("cni-again");
    let ports = json!({"type": "fake", "capabilities": {"portMappings": true}});
    create(&node, &json!({"cniVersion": "1.0.0", "name": "a", "plugins": [ports]}));
    create(&node, &json!({"cniVersion": "1.0.0", "name": "b", "plugins": [{"type": "fake2"}]}));
    // The second network cannot be joined, and the first one not be left.
    let broken = |plugin: &str| format!("case $0 in */{plugin}) if [ -e \"$here/broken\" ]; then exit 1; fi ;; esac");
    on(&node, "ADD", Some(&broken("fake2")));
    on(&node, "DEL", Some(&broken("fake")));
    fs::write(fake(&node).join("broken"), "").expect("broken");
    let publish = format!("127.0.0.1:{}:80", node.slot.port(0));
    let create = ["create", "--name", "web", "--network", "a", "--network", "b", "-p", &publish];
    node.ok(&[&create[..], &[&image("busybox"), "sh", "-c", SERVE]].concat());
    assert!(node.fails(1, &["start", "web"]).contains("CNI plugin fake2 failed at ADD"));
    let again = node.fails(1, &["start", "web"]);
    assert!(again.contains("CNI plugin fake failed at DEL"), "{again}");
    fs::remove_file(fake(&node).join("broken")).expect("broken");
    node.ok(&["start", "web"]);
    assert_eq!(node.ok(&["port", "web"]), format!("80/tcp -> 127.0.0.1:{}", node.slot.port(0)));
    node.ok(&["rm", "-f", "web"]);
    none_left(&node, "a");
    node.ok(&["network", "rm", "a", "b"]);
    node.finish();
}

#[test]
fn lists_are_checked_before_they_are_believed() {
    let node = node("cni-lists");
    let good = |plugins: Value| json!({"cniVersion": "1.0.0", "name": "lab", "plugins": plugins});
    for (list, words) in [
        (json!({"name": "lab", "plugins": [{"type": "fake"}]}), "--conflist cniVersion: is missing"),
        (
            json!({"cniVersion": "0.2.0", "name": "lab", "plugins": [{"type": "fake"}]}),
            "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
        ),
        (json!({"cniVersion": "1.0.0", "name": "lab", "type": "fake"}), "one plugin"),
        (good(json!([])), "--conflist plugins: must be a list of at least one plugin"),
        (good(json!([{"type": "../../bin/sh"}])), "--conflist plugins[0].type"),
        (good(json!([{"type": "fake"}, {"type": "nowhere"}])), "CNI plugin nowhere is not in"),
        (good(json!([{"type": "fake", "ipam": {"type": "missing"}}])), "--conflist plugins[0].ipam.type"),
        (json!({"cniVersion": "1.1.0", "name": "lab", "plugins": [{"type": "bridge"}]}), "bridge knows cniVersion"),
    ] {
        let said = refused(&node, &list);
        assert!(said.contains(words), "{list}: {said}");
    }
    let said = node.ctl_stdin(
        &["network", "create", "-d", "cni", "--conflist", "-", "other"],
        &good(json!([{"type": "fake"}])).to_string(),
    );
    assert!(said.stderr.contains("is lab, and the network is to be other"), "{}", said.stderr);
    assert!(refused(&node, &Value::from("no list")).contains("--conflist: is no JSON object"));
    let said = node.fails(1, &["network", "create", "-d", "cni", "--conflist", "/no/such/file", "lab"]);
    assert!(said.contains("reading /no/such/file"), "{said}");
    assert!(node.ctl(&["network", "create", "-d", "cni", "lab"]).stderr.contains("--conflist FILE is missing"));
    let file = node.dir.join("good.conflist");
    fs::write(&file, good(json!([{"type": "fake"}])).to_string()).expect("file");
    let file = file.display().to_string();
    let said =
        node.fails(1, &["network", "create", "-d", "cni", "--conflist", &file, "--subnet", "10.1.0.0/24", "lab"]);
    assert!(said.contains("its configuration list says it"), "{said}");
    assert!(
        node.fails(1, &["network", "create", "--conflist", &file, "lab"]).contains("goes with the driver cni only")
    );
    // Plugins are run as root of the host.
    let _ = calls(&node);
    let operator = node.pki.identity("operator");
    let denied = node.ctl_as(&operator, &["network", "create", "-d", "cni", "--conflist", &file, "lab"]);
    assert!(denied.code == 1 && denied.stderr.contains("driver cni needs the admin role"), "{}", denied.stderr);
    assert_eq!(calls(&node), [""; 0], "nothing was run for who may not");
    create(&node, &good(json!([{"type": "fake"}])));
    // What no plugin takes is refused before anything is made.
    for (options, words) in [
        (&["--ip", "10.9.9.9"][..], "takes an address (capability ips)"),
        (&["--mac-address", "02:00:00:00:00:01"], "takes a MAC address (capability mac)"),
        (&["--network-alias", "x"], "takes names (capability aliases)"),
        (&["-p", "8080:80"], "publishes ports (capability portMappings)"),
    ] {
        let mut all = vec!["create", "--network", "lab"];
        all.extend(options);
        let busybox = image("busybox");
        all.extend([busybox.as_str(), "true"]);
        let said = node.ctl(&all).stderr;
        assert!(said.contains(words), "{options:?}: {said}");
    }
    node.ok(&["network", "rm", "lab"]);
    node.finish();
}

#[test]
fn plugins_that_fail() {
    let node = node("cni-failing");
    create(
        &node,
        &json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "fake"}, {"type": "fake2", "capabilities": {"aliases": true, "dns": true}}]}),
    );
    let _ = calls(&node);
    let run = || node.fails(125, &["run", "--rm", "--network", "lab", &image("busybox"), "true"]);
    for (script, words) in [
        (
            "echo '{\"code\": 7, \"msg\": \"bad wiring\", \"details\": \"at eth0\"}'; exit 1",
            "CNI plugin fake refuses ADD: bad wiring: at eth0 (code 7)",
        ),
        ("echo 'panic: oh' >&2; exit 2", "CNI plugin fake failed at ADD: it ended with code 2: panic: oh"),
        ("echo 'hello there'; exit 0", "its answer is no JSON"),
        ("exit 0", "its answer is no JSON"),
        ("echo '{\"ips\": [{\"address\": \"nonsense\"}]}'; exit 0", "which is no address with a prefix length"),
        ("exec cat /dev/zero", "longer than 1048576 bytes"),
        ("setsid sleep 4711 & sleep 4711", "did not answer ADD within 5 s and was killed"),
    ] {
        on(&node, "ADD", Some(script));
        let said = run();
        assert!(said.contains(words), "{script}: {said}");
        // What a failed ADD may have made is taken back, the last plugin first.
        assert_eq!(calls(&node), ["ADD eth0", "DEL eth0", "DEL eth0"], "{script}");
        none_left(&node, "lab");
    }
    let sleeping = Command::new("pgrep").args(["-f", "^sleep 4711"]).status().expect("pgrep");
    assert_eq!(sleeping.code(), Some(1), "children of a plugin that was killed live on");
    on(&node, "ADD", None);
    // A DEL that fails is tried again; the container is gone for its owner.
    on(&node, "DEL", Some("[ -e \"$here/broken\" ] && { echo '{\"code\": 11, \"msg\": \"later\"}'; exit 1; }"));
    fs::write(fake(&node).join("broken"), "").expect("broken");
    node.detached(&["--name", "ca", "--network", "lab", "--network-alias", "db", "--dns", "192.0.2.9"], IDLE);
    let told: Value = serde_json::from_slice(&fs::read(fake(&node).join("last-ADD")).expect("last")).expect("json");
    assert_eq!(told["runtimeConfig"]["aliases"], json!(["ca", "db"]));
    assert_eq!(told["runtimeConfig"]["dns"]["servers"][0], "192.0.2.9");
    assert_eq!(told["prevResult"]["ips"][0]["address"], "10.9.9.9/24");
    let env = fs::read_to_string(fake(&node).join("env-ADD")).expect("env");
    assert!(
        env.contains("CNI_NETNS=/") && env.contains("CNI_CONTAINERID=") && !env.contains("BERTH_FAILPOINTS"),
        "{env}"
    );
    node.ok(&["rm", "-f", "ca"]);
    assert_eq!(node.ok(&["ps", "-aq"]), "");
    let mut seen = Vec::new();
    until("it was tried", || {
        seen.extend(calls(&node));
        seen.len() > 2
    });
    assert_eq!(left(&node, "lab").len(), 2, "what could not be taken back stays known");
    fs::remove_file(fake(&node).join("broken")).expect("broken");
    none_left(&node, "lab");
    node.ok(&["network", "rm", "lab"]);
    node.finish();
}

#[test]
fn answers_go_into_resolv_conf_and_are_read_in_every_version() {
    let node = node("cni-versions");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        create(&node, &json!({"cniVersion": version, "name": "lab", "plugins": [{"type": "fake"}, {"type": "fake2"}]}));
        // The first answers in another version than it was asked in.
        let old = version < "1.0.0";
        let (said, family) = if old { ("1.0.0", "") } else { ("0.4.0", r#""version": "4","#) };
        on(
            &node,
            "ADD",
            Some(&format!(
                r#"case $0 in */fake) echo '{{"cniVersion": "{said}", "interfaces": [{{"name": "eth0", "sandbox": "/x", "mac": "02:00:00:00:00:0A"}}],
                "ips": [{{{family} "address": "10.9.9.9/24", "gateway": "10.9.9.1", "interface": 0}}, {{"address": "fd00::9/64"}}],
                "dns": {{"nameservers": ["10.9.9.1"], "search": ["lab.example"]}}}}'; exit 0 ;; esac"#
            )),
        );
        node.detached(&["--name", "ca", "--network", "lab"], IDLE);
        let prev: Value = serde_json::from_slice(&fs::read(fake(&node).join("last-ADD")).expect("last")).expect("json");
        assert_eq!(prev["prevResult"]["cniVersion"], version);
        assert_eq!(prev["prevResult"]["ips"][0].get("version"), old.then_some(&Value::from("4")), "{version}");
        let shown = endpoint(&node, "ca", "lab");
        assert_eq!((&shown["IPAddress"], &shown["Gateway"]), (&"10.9.9.9".into(), &"10.9.9.1".into()));
        assert_eq!(
            (&shown["GlobalIPv6Address"], &shown["MacAddress"]),
            (&"fd00::9".into(), &"02:00:00:00:00:0a".into())
        );
        let resolv = node.ok(&["exec", "ca", "cat", "/etc/resolv.conf"]);
        assert!(resolv.starts_with("nameserver 10.9.9.1\nsearch lab.example"), "{resolv}");
        let _ = calls(&node);
        let doctor = node.ctl(&["node", "doctor"]).stdout;
        let (checks, status) = (version >= "0.4.0", version >= "1.1.0");
        let called = calls(&node);
        assert_eq!(
            called.iter().filter(|c| *c == "CHECK eth0").count(),
            if checks { 2 } else { 0 },
            "{version} {doctor}"
        );
        assert_eq!(called.iter().filter(|c| *c == "STATUS ").count(), if status { 2 } else { 0 }, "{version}");
        node.ok(&["rm", "-f", "ca"]);
        none_left(&node, "lab");
        let last: Value = serde_json::from_slice(&fs::read(fake(&node).join("last-DEL")).expect("last")).expect("json");
        assert_eq!(last.get("prevResult").is_some(), checks, "{version}");
        node.ok(&["network", "rm", "lab"]);
    }
    node.finish();
}

#[test]
fn a_reboot_and_what_nobody_has() {
    let mut node = node("cni-reboot");
    let mut real = list(&node, "lab");
    real["plugins"].as_array_mut().expect("list").truncate(1);
    // A real boot takes the rules along, which this plugin does not find any more without the namespace.
    real["plugins"][0]["ipMasq"] = false.into();
    create(&node, &real);
    create(&node, &json!({"cniVersion": "1.1.0", "name": "gc", "plugins": [{"type": "fake"}]}));
    node.detached(&["--name", "ca", "--network", "lab"], IDLE);
    let kept = node.detached(&["--name", "cb", "--network", "gc"], IDLE);
    assert_eq!(given(&node, "lab").len(), 1);
    let pids: Vec<String> = ["ca", "cb"].map(|c| node.inspect(c)["State"]["Pid"].to_string()).into();
    let doctor = node.ctl(&["node", "doctor"]).stdout;
    assert!(doctor.contains("2 networks of plugins, 2 of their attachments were checked"), "{doctor}");
    // CHECK tells what somebody else has taken away.
    let flush = ["-t", &pids[0], "-n", "ip", "addr", "flush", "dev", "eth0"];
    assert!(Command::new("nsenter").args(flush).status().expect("nsenter").success());
    let doctor = node.ctl(&["node", "doctor"]).stdout;
    assert!(doctor.contains("ca is not on network lab as it was put there: CNI plugin bridge"), "{doctor}");
    // GC at each start of an agent names those that are to stay.
    node.kill_agent();
    node.spawn();
    let valid = eventually("GC is asked", || fs::read(fake(&node).join("last-GC")).ok());
    let valid: Value = serde_json::from_slice(&valid).expect("json");
    assert_eq!(valid["cni.dev/valid-attachments"], json!([{"containerID": kept, "ifname": "eth0"}]));
    fs::remove_file(fake(&node).join("last-GC")).expect("last-GC");
    // The power goes: processes, namespaces and /run are no more, what is on the disk is.
    node.kill_agent();
    for pid in &pids {
        crate::harness::agent::signal(pid.parse().expect("pid"), "KILL");
    }
    for entry in fs::read_dir(node.dir.join("run/netns")).expect("netns").flatten() {
        assert!(Command::new("umount").arg(entry.path()).status().expect("umount").success());
        fs::remove_file(entry.path()).expect("netns");
    }
    assert_eq!(given(&node, "lab").len(), 1, "host-local does not know of it");
    node.set_boot_id("11111111-2222-4333-8444-555555555555");
    node.spawn();
    none_left(&node, "lab");
    let valid = eventually("GC is asked", || fs::read(fake(&node).join("last-GC")).ok());
    let valid: Value = serde_json::from_slice(&valid).expect("json");
    assert_eq!(valid["cni.dev/valid-attachments"], json!([]));
    node.ok(&["start", "ca"]);
    assert_eq!(given(&node, "lab").len(), 1);
    node.ok(&["rm", "-f", "ca", "cb"]);
    node.ok(&["network", "rm", "lab", "gc"]);
    node.finish();
}

#[test]
fn lists_in_a_folder_are_networks() {
    let mut node = node("cni-files");
    let conf = node.dir.join("cni-conf");
    let write = |file: &str, name: &str, more: &str| {
        let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "fake", "more": more}]});
        fs::write(conf.join(file), list.to_string()).expect("conflist");
    };
    write("10-a.conflist", "filed", "one");
    write("20-b.conflist", "filed", "two");
    fs::write(conf.join("30-bad.conflist"), "{").expect("bad");
    fs::write(conf.join("40.conf"), "{}").expect("conf");
    node.restart();
    let names = |node: &Node| node.ok(&["network", "ls", "-f", "type=custom", "-o", "name"]);
    assert_eq!(names(&node), "filed");
    assert_eq!(network(&node, "filed")["Conflist"]["plugins"][0]["more"], "one", "the first file has the name");
    let log = node.agent_log();
    assert!(log.contains("20-b.conflist") && log.contains("30-bad.conflist") && !log.contains("40.conf"), "{log}");
    node.detached(&["--name", "ca", "--network", "filed"], IDLE);
    write("10-a.conflist", "filed", "three");
    node.restart();
    let more =
        |node: &Node| network(node, "filed")["Conflist"]["plugins"][0]["more"].as_str().expect("more").to_owned();
    assert_eq!(more(&node), "one", "somebody is on it");
    node.ok(&["rm", "-f", "ca"]);
    node.restart();
    assert_eq!(more(&node), "three");
    fs::remove_file(conf.join("10-a.conflist")).expect("rm");
    fs::remove_file(conf.join("20-b.conflist")).expect("rm");
    node.restart();
    assert_eq!(names(&node), "");
    node.finish();
}

#[test]
fn put_on_its_network_again_it_has_its_ports() {
    let node = node("cni-ports-again");
    create(&node, &list(&node, "lab"));
    let port = node.slot.port(0);
    node.detached(&["--name", "web", "--network", "lab", "-p", &format!("127.0.0.1:{port}:80")], SERVE);
    until("the published port answers", || answers(port));
    let published = node.ok(&["port", "web"]);
    node.ok(&["network", "disconnect", "lab", "web"]);
    assert!(!answers(port));
    assert_eq!(node.ok(&["port", "web"]), "");
    node.ok(&["network", "connect", "lab", "web"]);
    until("it answers on its network again", || answers(port));
    assert_eq!(node.ok(&["port", "web"]), published);
    node.ok(&["rm", "-f", "web"]);
    none_left(&node, "lab");
    node.ok(&["network", "rm", "lab"]);
    node.finish();
}

#[test]
fn a_port_is_the_next_ones_when_its_container_has_gone() {
    let node = node("cni-next");
    let ports = json!({"type": "fake", "capabilities": {"portMappings": true}});
    create(&node, &json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [ports]}));
    // As long as plugins take on a busy host.
    on(&node, "DEL", Some("sleep 1"));
    let publish = format!("127.0.0.1:{}:80", node.slot.port(0));
    let web = ["--network", "lab", "-p", &publish, "--name"];
    let run = |name: &str| node.detached(&[&web[..], &[name]].concat(), IDLE);
    run("web");
    // Of one that runs, it is refused at once.
    let begun = Instant::now();
    let said = node.fails(125, &[&["run", "-d"], &web[..], &["other", &image("busybox"), "true"]].concat());
    assert!(said.contains("in use by container"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(9), "it was waited for");
    node.ok(&["rm", "-f", "web"]);
    run("web");
    // Stopped is as good as gone; and a network of berth's own asks for the same ports.
    node.ok(&["stop", "-t", "1", "web"]);
    node.detached(&["--name", "own", "--network", "bridge", "-p", &publish], IDLE);
    node.ok(&["rm", "-f", "own", "web", "other"]);
    none_left(&node, "lab");
    node.ok(&["network", "rm", "lab"]);
    node.finish();
}
