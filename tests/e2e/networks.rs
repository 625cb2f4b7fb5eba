//! Networks of one's own: made, joined by several containers, left and removed, while containers run.

use crate::harness::{Node, eventually, image, until};
use serde_json::Value;
use std::process::Command;

const SERVE: &str = "httpd -f -p 80 -h /var/www";
pub const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// What the host's kernel says of an interface; `None`: it is not there.
pub fn link(name: &str) -> Option<Value> {
    let output = Command::new("ip").args(["-j", "-d", "addr", "show", "dev", name]).output().expect("ip");
    output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).expect("json")[0].clone())
}

/// `network create` with a bridge that a later test of the same slot takes away, should this one fail.
pub fn create(node: &Node, letter: char, arguments: &[&str]) -> String {
    let name = format!("com.docker.network.bridge.name={}{letter}", node.slot.bridge());
    let mut all = vec!["network", "create", "--opt", &name];
    all.extend(arguments);
    node.ok(&all)
}

pub fn network(node: &Node, name: &str) -> Value {
    let text = node.ok(&["network", "inspect", name]);
    serde_json::from_str::<Value>(&text).expect("json")[0].clone()
}

/// The container's end of one network, in Docker's words.
pub fn endpoint(node: &Node, container: &str, network: &str) -> Value {
    let text = node.ok(&["inspect", "-o", "docker", container]);
    serde_json::from_str::<Value>(&text).expect("json")[0]["NetworkSettings"]["Networks"][network].clone()
}

pub fn ip(node: &Node, container: &str, network: &str) -> String {
    endpoint(node, container, network)["IPAddress"].as_str().unwrap_or_default().to_owned()
}

/// Names of the container's interfaces, lo left out.
pub fn interfaces(node: &Node, container: &str) -> Vec<String> {
    let text = node.ok(&["exec", container, "ls", "/sys/class/net"]);
    // Tunnels that a kernel puts into every namespace are no business of ours.
    text.split_whitespace().filter(|n| n.starts_with("eth")).map(str::to_owned).collect()
}

fn pings(node: &Node, from: &str, to: &str) -> bool {
    let six = if to.contains(':') { "-6" } else { "-4" };
    node.ctl(&["exec", from, "ping", six, "-c", "1", "-W", "2", to]).code == 0
}

#[test]
fn made_shown_and_removed() {
    let node = Node::with_busybox("networks-ls");
    let listed = node.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]);
    assert_eq!(listed, "bridge bridge local\nhost host local\nnone null local");
    let subnet = format!("10.96.{}.0/24", node.slot.port(0) % 256);
    let id = create(&node, 'u', &["--label", "tier=front", "--subnet", &subnet, "front"]);
    assert_eq!(id.len(), 64, "{id}");
    let shown = network(&node, "front");
    assert_eq!(shown["IPAM"]["Config"][0]["Subnet"], subnet);
    assert_eq!((&shown["Labels"]["tier"], &shown["Driver"]), (&"front".into(), &"bridge".into()));
    let bridge = shown["Interface"].as_str().expect("interface").to_owned();
    assert!(link(&bridge).is_some(), "{bridge}");
    for (filter, found) in [
        ("name=fro", "front"),
        ("label=tier=front", "front"),
        ("driver=null", "none"),
        ("type=custom", "front"),
        ("dangling=true", "front"),
        ("scope=local", "bridge\nfront\nhost\nnone"),
    ] {
        assert_eq!(node.ok(&["network", "ls", "-f", filter, "-o", "name"]), found, "{filter}");
    }
    // The id, a prefix of it, and the name are the same network.
    assert_eq!(network(&node, &id[..12])["Name"], "front");
    let said = node.fails(1, &["network", "create", "front"]);
    assert!(said.contains("another network's"), "{said}");
    let said = node.fails(1, &["network", "create", "--subnet", &subnet, "second"]);
    assert!(said.contains("collides with network front"), "{said}");
    let subnet = format!("10.95.{}.0/24", node.slot.port(0) % 256);
    let range = subnet.replace("/24", "/32");
    let said = node.fails(1, &["network", "create", "--subnet", &subnet, "--ip-range", &range, "second"]);
    assert!(said.contains("leaves no address of"), "{said}");
    for name in ["bridge", "host", "none"] {
        assert!(node.fails(1, &["network", "rm", name]).contains("every host has"), "{name}");
    }
    for bad in ["a b", "a\u{7}b", "-x", "a/b", "\u{1b}[31m"] {
        let said = node.ctl(&["network", "create", "--", bad]);
        assert!(
            said.code != 0 && !said.stderr.contains('\u{1b}') && !said.stderr.contains('\u{7}'),
            "{bad:?} {said:?}"
        );
    }
    node.ok(&["network", "rm", "front"]);
    assert!(link(&bridge).is_none(), "{bridge} is still there");
    assert!(node.fails(1, &["network", "rm", "front"]).contains("no such network"));
    node.ok(&["network", "rm", "-f", "front"]);
    node.ok(&["network", "create", "a"]);
    node.ok(&["network", "create", "--label", "keep", "b"]);
    assert_eq!(node.ok(&["network", "prune", "-f", "--filter", "label!=keep"]), "a");
    assert_eq!(node.ok(&["network", "prune", "-f"]), "b");
    node.finish();
}

#[test]
fn a_bridge_of_the_host_is_nobodys_to_take() {
    let node = Node::with_busybox("networks-foreign");
    let bridge = format!("{}w", node.slot.bridge());
    let ip = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        assert!(Command::new("ip").args(&words).status().expect("ip").success(), "{words:?}");
    };
    ip(&format!("link add {bridge} type bridge"));
    let was = link(&bridge);
    let said = node.fails(1, &["network", "create", "-o", &format!("com.docker.network.bridge.name={bridge}"), "n"]);
    assert!(said.contains(&format!("{bridge} is an interface of the host already")), "{said}");
    assert_eq!(link(&bridge), was);
    ip(&format!("link del {bridge}"));
    create(&node, 'w', &["n"]);
    // Somebody takes the bridge away and makes one of the same name: it stays theirs when the network goes.
    ip(&format!("link del {bridge}"));
    ip(&format!("link add {bridge} type bridge"));
    let said = node.fails(125, &["run", "--rm", "--network", "n", &image("busybox"), "true"]);
    assert!(said.contains("not made by berth"), "{said}");
    node.ok(&["network", "rm", "n"]);
    assert_eq!(link(&bridge).map(|l| l["linkinfo"]["info_kind"].clone()), Some("bridge".into()));
    ip(&format!("link del {bridge}"));
    node.finish();
}

#[test]
fn several_networks_addresses_and_names_of_ones_own() {
    let node = Node::with_busybox("networks-several");
    let n = node.slot.port(0) % 256;
    create(&node, 'u', &["--subnet", &format!("10.97.{n}.0/24"), "front"]);
    create(
        &node,
        'v',
        &["--subnet", &format!("10.98.{n}.0/24"), "--opt", "com.docker.network.driver.mtu=1400", "back"],
    );
    let long = format!("name=back,alias=db,ip=10.98.{n}.77,mac-address=02:00:00:00:77:77,gw-priority=7");
    node.detached(&["--name", "ca", "--network", "front", "--ip", &format!("10.97.{n}.9"), "--network", &long], IDLE);
    node.detached(&["--name", "cb", "--network", "front"], IDLE);
    assert_eq!(interfaces(&node, "ca"), ["eth0", "eth1"]);
    assert_eq!(ip(&node, "ca", "front"), format!("10.97.{n}.9"));
    assert_eq!(ip(&node, "ca", "back"), format!("10.98.{n}.77"));
    assert_eq!(node.ok(&["exec", "ca", "cat", "/sys/class/net/eth1/address"]), "02:00:00:00:77:77");
    assert_eq!(node.ok(&["exec", "ca", "cat", "/sys/class/net/eth1/mtu"]), "1400");
    let route = node.ok(&["exec", "ca", "ip", "route"]);
    assert!(route.contains(&format!("default via 10.98.{n}.1 dev eth1")), "{route}");
    assert_eq!(endpoint(&node, "ca", "back")["Aliases"][0], "db");
    assert!(pings(&node, "cb", &format!("10.97.{n}.9")));
    // No way from one network into another.
    assert!(!pings(&node, "cb", &format!("10.98.{n}.77")));
    assert_eq!(node.ok(&["ps", "-f", "network=back", "--format", "{{.Names}}"]), "ca");
    let said = node.fails(1, &["network", "rm", "front"]);
    assert!(said.contains("in use by ca, cb"), "{said}");
    // An address is one container's.
    let taken = format!("10.97.{n}.9");
    let said = node.fails(125, &["run", "--rm", "--network", "front", "--ip", &taken, &image("busybox"), "true"]);
    assert!(said.contains("is in use"), "{said}");
    for outside in ["10.1.2.3", &format!("10.97.{n}.1"), &format!("10.97.{n}.255")] {
        let said = node.fails(125, &["run", "--rm", "--network", "front", "--ip", outside, &image("busybox"), "true"]);
        assert!(said.contains("is not an address for a container"), "{said}");
    }
    // Stopped and started, it has the same addresses.
    node.ok(&["stop", "ca"]);
    let said = node.fails(1, &["network", "rm", "back"]);
    assert!(said.contains("in use by ca"), "stopped, it still joins: {said}");
    node.ok(&["start", "ca"]);
    assert_eq!(ip(&node, "ca", "back"), format!("10.98.{n}.77"));
    let first = ip(&node, "cb", "front");
    node.ok(&["restart", "cb"]);
    assert_eq!(ip(&node, "cb", "front"), first);
    node.ok(&["rm", "-f", "ca", "cb"]);
    node.ok(&["network", "rm", "front", "back"]);
    node.finish();
}

#[test]
fn connected_and_disconnected_while_it_runs() {
    let mut node = Node::with_busybox("networks-live");
    create(&node, 'u', &["front"]);
    create(&node, 'v', &["--ipv6", "back"]);
    node.detached(&["--name", "ca", "--network", "bridge"], IDLE);
    node.detached(&["--name", "cb", "--network", "back"], IDLE);
    node.ok(&["network", "connect", "--alias", "x", "back", "ca"]);
    node.ok(&["network", "connect", "back", "ca"]);
    assert_eq!(interfaces(&node, "ca"), ["eth0", "eth1"]);
    assert!(pings(&node, "cb", &ip(&node, "ca", "back")));
    let six = endpoint(&node, "ca", "back")["GlobalIPv6Address"].as_str().expect("six").to_owned();
    assert!(six.starts_with("fd"), "{six}");
    assert!(pings(&node, "cb", &six));
    assert_eq!(network(&node, "back")["Containers"].as_object().expect("map").len(), 2);
    // Over a new agent all is as it was; what was connected can be disconnected.
    let before = ip(&node, "ca", "back");
    node.kill_agent();
    node.spawn();
    assert_eq!(ip(&node, "ca", "back"), before);
    assert!(pings(&node, "cb", &before));
    let host_end = endpoint(&node, "ca", "bridge")["EndpointID"].as_str().expect("end").to_owned();
    node.ok(&["network", "disconnect", "bridge", "ca"]);
    assert_eq!(interfaces(&node, "ca"), ["eth1"]);
    until("the host's end goes", || link(&host_end).is_none());
    let route = node.ok(&["exec", "ca", "ip", "route"]);
    assert!(route.contains("dev eth1") && route.starts_with("default"), "the way out moves: {route}");
    node.ok(&["network", "disconnect", "-f", "bridge", "ca"]);
    node.ok(&["network", "connect", "front", "ca"]);
    assert_eq!(interfaces(&node, "ca"), ["eth0", "eth1"]);
    node.ok(&["network", "disconnect", "front", "ca"]);
    node.ok(&["network", "disconnect", "back", "ca"]);
    assert_eq!(interfaces(&node, "ca"), [""; 0]);
    // Without any it still runs, and may come back.
    node.ok(&["network", "connect", "bridge", "ca"]);
    assert!(node.ok(&["exec", "ca", "ip", "route"]).starts_with("default"));
    // One that does not run joins with its next start.
    node.ok(&["stop", "ca"]);
    node.ok(&["network", "connect", "front", "ca"]);
    node.ok(&["start", "ca"]);
    assert_eq!(interfaces(&node, "ca"), ["eth0", "eth1"]);
    node.ok(&["rm", "-f", "ca", "cb"]);
    node.ok(&["network", "rm", "front", "back"]);
    node.finish();
}

#[test]
fn whom_the_host_needs_stays_where_it_is() {
    let node = Node::with_busybox("networks-needed");
    let text = std::fs::read_to_string("/etc/resolv.conf").expect("resolv.conf");
    let servers = text.lines().filter_map(|l| l.strip_prefix("nameserver ")?.trim().parse().ok());
    let server = servers.filter(|a: &std::net::Ipv4Addr| !a.is_loopback()).collect::<Vec<_>>();
    let Some([a, b, c, _]) = server.first().map(|a| a.octets()) else { return node.finish() };
    // An admin, too.
    let said = node.fails(1, &["network", "create", "--subnet", &format!("{a}.{b}.{c}.0/24"), "x"]);
    assert!(said.contains("the host's name server") || said.contains("the host's route"), "{said}");
    assert_eq!(node.ok(&["network", "ls", "-q", "-f", "type=custom"]), "");
    node.finish();
}

#[test]
fn what_a_network_or_a_connection_cannot_be_is_refused() {
    let node = Node::with_busybox("networks-refused");
    create(&node, 'u', &["back"]);
    node.detached(&["--name", "ca", "--network", "back"], IDLE);
    node.ok(&["network", "connect", "back", "ca"]);
    let said = node.fails(1, &["network", "connect", "--alias", "other", "back", "ca"]);
    assert!(said.contains("already") && said.contains("network disconnect back ca"), "{said}");
    let small = "com.docker.network.driver.mtu=1000";
    let said = node.fails(1, &["network", "create", "--ipv6", "--opt", small, "tight"]);
    assert!(said.contains("1280"), "{said}");
    create(&node, 'v', &["--opt", small, "tight"]);
    node.ok(&["rm", "-f", "ca"]);
    node.ok(&["network", "rm", "back", "tight"]);
    node.finish();
}

#[test]
fn words_that_mean_a_network_already_are_no_names() {
    let node = Node::with_busybox("networks-words");
    for (name, why) in [
        ("default", "another word for bridge"),
        ("bridge", "every host has"),
        ("host", "every host has"),
        ("none", "every host has"),
        ("container:web", "the network of another container"),
    ] {
        let said = node.fails(1, &["network", "create", name]);
        assert!(said.contains(name) && said.contains(why) && !said.contains("--name"), "{name}: {said}");
    }
    node.detached(&["--name", "ca", "--network", "default"], IDLE);
    assert_eq!(node.ok(&["inspect", "-f", "{{.HostConfig.NetworkMode}}", "ca"]), "bridge");
    assert!(!ip(&node, "ca", "bridge").is_empty());
    assert_eq!(network(&node, "default")["Name"], "bridge");
    node.ok(&["network", "disconnect", "default", "ca"]);
    assert!(interfaces(&node, "ca").is_empty());
    assert!(node.fails(1, &["network", "rm", "default"]).contains("every host has"));
    node.ok(&["rm", "-f", "ca"]);
    node.finish();
}

#[test]
fn what_is_not_connected_is_not_disconnected_in_silence() {
    let node = Node::with_busybox("networks-mistyped");
    create(&node, 'u', &["front"]);
    node.detached(&["--name", "ca", "--network", "bridge"], IDLE);
    for (network, container, why) in [
        ("front", "ca", "container ca is not on network front"),
        ("frnt", "ca", "no such network: frnt"),
        ("bridge", "nobody", "no such container: nobody"),
        ("frnt", "nobody", "no such network: frnt"),
    ] {
        let said = node.fails(1, &["network", "disconnect", network, container]);
        assert!(said.contains(why), "{network} {container}: {said}");
        node.ok(&["network", "disconnect", "-f", network, container]);
    }
    assert_eq!(interfaces(&node, "ca"), ["eth0"]);
    node.ok(&["stop", "ca"]);
    assert!(node.fails(1, &["network", "disconnect", "front", "ca"]).contains("is not on network front"));
    node.ok(&["network", "disconnect", "bridge", "ca"]);
    node.ok(&["rm", "-f", "ca"]);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

#[test]
fn forced_does_not_mean_unheard() {
    let node = Node::with_busybox("networks-force");
    node.detached(&["--name", "ca", "--network", "bridge"], IDLE);
    node.ok(&["network", "disconnect", "-f", "nowhere", "ca"]);
    node.ok(&["network", "disconnect", "-f", "bridge", "nobody"]);
    // Somebody who may not, and an agent that does not answer: the container is still connected.
    let viewer = node.pki.identity("viewer");
    let denied = node.ctl_as(&viewer, &["network", "disconnect", "-f", "bridge", "ca"]);
    assert!(denied.code != 0 && denied.stderr.contains("role"), "{} {}", denied.code, denied.stderr);
    assert_eq!(interfaces(&node, "ca"), ["eth0"]);
    node.ok(&["network", "disconnect", "-f", "bridge", "ca"]);
    assert!(interfaces(&node, "ca").is_empty());
    node.ok(&["rm", "-f", "ca"]);
    node.finish();
}

#[test]
fn internal_has_no_way_out() {
    let node = Node::with_busybox("networks-internal");
    create(&node, 'u', &["--internal", "inside"]);
    node.detached(&["--name", "ca", "--network", "inside"], IDLE);
    node.detached(&["--name", "cb", "--network", "inside"], IDLE);
    assert!(pings(&node, "ca", &ip(&node, "cb", "inside")));
    assert!(!node.ok(&["exec", "ca", "ip", "route"]).contains("default"));
    // What others have published is outside, although the network's own gateway has it. What is published on the network itself is not.
    let [port, own] = [node.slot.port(0), node.slot.port(1)];
    create(&node, 'v', &["front"]);
    node.detached(&["--name", "web", "--network", "front", "-p", &format!("{port}:80")], SERVE);
    node.detached(&["--name", "cc", "--network", "front"], IDLE);
    node.detached(&["--name", "cd", "--network", "inside", "-p", &format!("{own}:80")], SERVE);
    let gateway =
        |name: &str| network(&node, name)["IPAM"]["Config"][0]["Gateway"].as_str().expect("gateway").to_owned();
    // wget -T kills Debian's static busybox.
    let fetches = |from: &str, network: &str, port: u16| {
        let url = format!("http://{}:{port}/", gateway(network));
        node.ctl(&["exec", from, "timeout", "4", "wget", "-q", "-O", "-", &url]).code == 0
    };
    until("the port is open", || fetches("cc", "front", port));
    until("the network's own port is open", || fetches("ca", "inside", own));
    assert!(!fetches("ca", "inside", port));
    node.ok(&["rm", "-f", "ca", "cb", "cc", "cd", "web"]);
    node.ok(&["network", "rm", "inside", "front"]);
    node.finish();
}

#[test]
fn the_network_of_another_container() {
    let node = Node::with_busybox("networks-container");
    node.detached(&["--name", "ca", "--network", "bridge"], IDLE);
    let with = ["--network", "container:ca"];
    let address = ip(&node, "ca", "bridge");
    assert!(node.sh(&with, "ip -4 addr show eth0").contains(&address));
    let image = image("busybox");
    let said = node.fails(125, &["run", "--rm", "--network", "container:ca", "-p", "80", &image, "true"]);
    assert!(said.contains("a network of its own"), "{said}");
    node.detached(&["--name", "cb", "--network", "container:ca"], IDLE);
    assert!(node.fails(1, &["network", "connect", "bridge", "cb"]).contains("shares the network"));
    node.ok(&["rm", "-f", "cb"]);
    node.ok(&["stop", "ca"]);
    let said = node.fails(125, &["run", "--rm", "--network", "container:ca", &image, "true"]);
    assert!(said.contains("not running"), "{said}");
    assert!(
        node.fails(125, &["run", "--rm", "--network", "container:zz", &image, "true"]).contains("no such container")
    );
    assert!(node.fails(125, &["run", "--rm", "--network", "weave", &image, "true"]).contains("no such network: weave"));
    node.ok(&["rm", "ca"]);
    node.finish();
}

#[test]
fn a_macvlan_or_the_kernels_reason() {
    let node = Node::with_busybox("networks-macvlan");
    // The default bridge comes with the first container, and is an interface that a macvlan can sit on.
    node.detached(&["--name", "ca", "--network", "bridge"], IDLE);
    let parent = format!("parent={}", node.slot.bridge());
    let create = ["network", "create", "-d", "macvlan", "-o", &parent, "--subnet", "192.0.2.0/24", "lan"];
    // On the host's own wire the host's rules do not hold.
    let denied = node.ctl_as(&node.pki.identity("operator"), &create);
    assert!(denied.code == 1 && denied.stderr.contains("driver macvlan needs the admin role"), "{}", denied.stderr);
    let made = node.ctl(&create);
    if made.code == 0 {
        node.detached(&["--name", "cb", "--network", "lan"], IDLE);
        node.detached(&["--name", "cc", "--network", "lan"], IDLE);
        assert!(pings(&node, "cb", &ip(&node, "cc", "lan")));
        // Whoever shares its namespace does not keep the address that the next one gets.
        node.detached(&["--name", "cd", "--network", "container:cc"], IDLE);
        node.ok(&["stop", "-t", "1", "cc"]);
        until("the interface goes", || interfaces(&node, "cd").is_empty());
        node.ok(&["start", "cc"]);
        node.ok(&["rm", "-f", "cb", "cc", "cd"]);
        node.ok(&["network", "rm", "lan"]);
    } else {
        assert!(made.stderr.contains("the kernel refuses a macvlan"), "{}", made.stderr);
        assert_eq!(node.ok(&["network", "ls", "-q", "-f", "driver=macvlan"]), "");
    }
    // What there is none of is named as it was written.
    for (option, shown) in [
        ("com.docker.network.bridge.enable_icc=false", "--opt com.docker.network.bridge.enable_icc: is not supported"),
        ("com.docker.network.driver.mtu=7", "--opt com.docker.network.driver.mtu: must be 68 to 65535"),
    ] {
        let said = node.fails(1, &["network", "create", "-o", option, "x"]);
        assert!(said.contains(shown), "{said}");
    }
    let said = node.fails(1, &["network", "create", "-d", "overlay", "x"]);
    assert!(said.contains("not supported"), "{said}");
    node.ok(&["rm", "-f", "ca"]);
    node.finish();
}

#[test]
fn addresses_run_out_plainly() {
    let node = Node::with_busybox("networks-full");
    let n = node.slot.port(0) % 256;
    create(&node, 'u', &["--subnet", &format!("10.99.{n}.0/30"), "small"]);
    node.detached(&["--name", "ca", "--network", "small"], IDLE);
    let said = node.fails(125, &["run", "--rm", "--network", "small", &image("busybox"), "true"]);
    assert!(said.contains(&format!("no address is left in 10.99.{n}.0/30")), "{said}");
    node.ok(&["rm", "-f", "ca"]);
    let output = eventually("the address is free again", || {
        let run = node.ctl(&["run", "--rm", "--network", "small", &image("busybox"), "echo", "fine"]);
        (run.code == 0).then_some(run.stdout)
    });
    assert_eq!(output.trim(), "fine");
    node.ok(&["network", "rm", "small"]);
    node.finish();
}

#[test]
fn stats_count_all_networks_of_a_container_and_no_other() {
    let node = Node::with_busybox("networks-stats");
    for (letter, name) in [('a', "one"), ('b', "two")] {
        create(&node, letter, &[name]);
    }
    node.detached(&["--name", "server", "--network", "one", "--network", "two"], "httpd -f -p 80 -h /var/www");
    node.detached(&["--name", "quiet", "--network", "one"], IDLE);
    node.ok(&["exec", "server", "sh", "-c", "head -c 2000000 /dev/zero > /var/www/big"]);
    let sent = |name: &str| {
        let text = node.ok(&["stats", "--no-stream", "-o", "json", name]);
        let row = serde_json::from_str::<Value>(&text).expect("json")[0].clone();
        assert_eq!((&row["NetSentDropped"], &row["NetReceivedErrors"]), (&0.into(), &0.into()), "{row}");
        row["NetSentBytes"].as_u64().expect("sent")
    };
    let before = sent("server");
    for network in ["one", "two"] {
        let at = ip(&node, "server", network);
        node.sh(&["--network", network], &format!("wget -q -O /dev/null http://{at}/big"));
    }
    let after = sent("server");
    assert!(after - before > 4_000_000 && after - before < 5_000_000, "{before} {after}");
    assert!(sent("quiet") < 100_000, "what another one sent");
    // Joined and left while it is measured.
    node.ok(&["network", "disconnect", "two", "server"]);
    assert!(sent("server") < after - 1_900_000, "an interface that is gone");
    // The id of a network, not its bridge.
    assert_eq!(endpoint(&node, "server", "one")["NetworkID"], network(&node, "one")["Id"]);
    node.finish();
}

#[test]
fn who_never_ran_is_not_waited_for() {
    let node = Node::with_busybox("networks-wait");
    node.ok(&["create", "--name", "never", "--network", "none", &image("busybox"), "sh", "-c", "exit 7"]);
    assert_eq!(node.ok(&["wait", "never"]), "0");
    node.ok(&["start", "never"]);
    assert_eq!(node.ok(&["wait", "never"]), "7");
    node.finish();
}
