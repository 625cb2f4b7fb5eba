//! Published ports: policy, changes while a container runs, who has a port, and what others do to the rules.

use crate::harness::web::answers;
use crate::harness::{Node, eventually, image, until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

const SERVE: &str = "httpd -f -p 80 -h /var/www";

#[test]
fn ports_come_and_go_while_the_container_runs() {
    let mut node = Node::with_busybox("ports-change");
    let [first, second] = [node.slot.port(0), node.slot.port(1)];
    node.detached(&["--network", "bridge", "--name", "web"], SERVE);
    let added = node.ok(&["port", "add", "web", &format!("127.0.0.1:{first}:80"), &format!("{second}:80")]);
    assert!(added.contains(&format!("80/tcp -> 127.0.0.1:{first}")), "{added}");
    for port in [first, second] {
        until("it answers", || answers(port));
    }
    // A connection through a port that is closed ends with it.
    let mut held = TcpStream::connect(("127.0.0.1", first)).expect("connect");
    node.ok(&["port", "rm", "web", &format!("127.0.0.1:{first}:80")]);
    assert!(!answers(first) && answers(second));
    held.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    write!(held, "GET / HTTP/1.0\r\n\r\n").expect("sent");
    assert!(held.read(&mut [0; 100]).map_or(true, |n| n == 0), "it goes on");
    // Gone already is fine; the agent's death and the container's restart change nothing.
    node.ok(&["port", "rm", "web", &format!("{first}:80")]);
    node.kill_agent();
    node.spawn();
    assert!(answers(second) && !answers(first));
    node.ok(&["restart", "-t", "1", "web"]);
    until("it answers again", || answers(second));
    assert_eq!(node.ok(&["port", "web"]).lines().count(), 1);
    // All or nothing: the second of these is the agent's own.
    let taken = node.endpoint().rsplit(':').next().expect("port").to_owned();
    let error = node.fails(1, &["port", "add", "web", &format!("{first}:80"), &format!("{taken}:80")]);
    assert!(error.contains("berthd") && error.contains(&taken), "{error}");
    assert!(!answers(first));
    node.ok(&["port", "rm", "web", "80"]);
    assert!(!answers(second));
    node.finish();
}

#[test]
fn ports_lead_where_the_way_out_leads() {
    let node = Node::with_busybox("ports-move");
    let [first, second] = [node.slot.port(0), node.slot.port(1)];
    let publish = |port: u16| format!("127.0.0.1:{port}:80");
    node.ok(&["network", "create", "a"]);
    node.ok(&["network", "create", "b"]);
    node.detached(&["--network", "a", "--name", "web", "-p", &publish(first)], SERVE);
    until("it answers", || answers(first));
    // Another network becomes the way out: the ports go with it, and what is closed is closed.
    node.ok(&["network", "connect", "--gw-priority", "5", "b", "web"]);
    assert!(answers(first) && node.ok(&["port", "web"]).contains(&first.to_string()));
    node.ok(&["port", "add", "web", &publish(second)]);
    node.ok(&["port", "rm", "web", &publish(first)]);
    assert!(answers(second) && !answers(first));
    node.ok(&["network", "disconnect", "a", "web"]);
    assert!(answers(second));
    // Off its last network and on the next one.
    node.ok(&["network", "disconnect", "b", "web"]);
    assert!(!answers(second));
    node.ok(&["network", "connect", "a", "web"]);
    until("it answers again", || answers(second));
    // Nothing is left of either.
    node.ok(&["rm", "-f", "web"]);
    let both = ["--network", "b", "--name", "next", "-p", &publish(first), "-p", &publish(second)];
    node.detached(&both, SERVE);
    until("the next one has them", || answers(first) && answers(second));
    node.ok(&["rm", "-f", "next"]);
    node.ok(&["network", "rm", "a", "b"]);
    node.finish();
}

#[test]
fn ports_that_cannot_move_are_told_and_not_lost() {
    let node = Node::with_busybox("ports-stay");
    let port = node.slot.port(0);
    let publish = format!("[::1]:{port}:80");
    node.ok(&["network", "create", "--ipv6", "six"]);
    node.ok(&["network", "create", "four"]);
    node.detached(&["--network", "six", "--network", "four", "--name", "web", "-p", &publish], SERVE);
    let four = format!("127.0.0.1:{}:80", node.slot.port(1));
    node.ok(&["port", "add", "web", &four]);
    let answers_there = || answers(node.slot.port(1));
    until("it answers", answers_there);
    for _ in 0..2 {
        let error = node.fails(1, &["network", "disconnect", "six", "web"]);
        assert!(error.contains("no IPv6 address") && error.contains("port rm"), "{error}");
        assert!(answers_there());
    }
    // It is still on it, with all its ports, also as it starts again.
    assert!(node.ok(&["port", "web"]).contains("[::1]"));
    node.ok(&["restart", "-t", "0", "web"]);
    until("it answers", answers_there);
    node.ok(&["port", "rm", "web", &publish]);
    node.ok(&["network", "disconnect", "six", "web"]);
    until("it answers by the other network", answers_there);
    node.detached(&["--network", "six", "--name", "next", "-p", &publish], SERVE);
    node.ok(&["rm", "-f", "web", "next"]);
    node.ok(&["network", "rm", "six", "four"]);
    node.finish();
}

#[test]
fn a_stopped_container_stays_one_that_can_start() {
    let node = Node::with_busybox("ports-stopped");
    let port = node.slot.port(0);
    let publish = format!("127.0.0.1:{port}:80");
    node.ok(&["create", "--network", "bridge", "--name", "web", "-p", &publish, &image("busybox"), "true"]);
    let error = node.fails(1, &["port", "add", "web", &publish]);
    assert!(error.contains("published twice"), "{error}");
    let error = node.fails(1, &["port", "add", "web", "8080:80", "8080:81"]);
    assert!(error.contains("published twice"), "{error}");
    let added = node.ok(&["port", "add", "web", &format!("127.0.0.1:{}:80", port + 1)]);
    assert_eq!(added.lines().count(), 2, "what its next start publishes: {added}");
    let shows_no_port = || {
        assert_eq!(node.ok(&["ps", "-a", "--format", "{{.Names}}={{.Ports}}"]), "web=");
        assert_eq!(node.ok(&["inspect", "-f", "{{json .NetworkSettings.Ports}}", "web"]), "{}");
        let asked = node.ok(&["inspect", "-f", "{{json .HostConfig.PortBindings}}", "web"]);
        assert!(asked.contains(&format!("\"{port}\"")), "{asked}");
    };
    shows_no_port();
    node.ok(&["start", "web"]);
    node.ok(&["wait", "web"]);
    shows_no_port();
    node.ok(&["rm", "-f", "web"]);
    node.finish();
}

#[test]
fn what_somebody_takes_away_comes_back_by_itself() {
    let node = Node::with_busybox("ports-repair");
    let port = node.slot.port(0);
    node.detached(&["--network", "bridge", "--name", "web", "-p", &format!("127.0.0.1:{port}:80")], SERVE);
    until("it answers", || answers(port));
    let nft = |words: &str| {
        let status = Command::new("nft").args(words.split(' ')).status().expect("nft");
        assert!(status.success(), "nft {words}");
    };
    let table = node.slot.table();
    nft(&format!("delete table ip {table}"));
    until("the table is back", || answers(port));
    nft(&format!("flush map ip {table} address_ports"));
    until("the element is back", || answers(port));
    eventually("it is told", || node.agent_log().contains("they are back").then_some(()));
    node.finish();
}

#[test]
fn the_policy_names_its_setting() {
    let node = Node::builder("ports-policy").publish_address("127.0.0.1").start();
    let port = node.slot.port(0);
    node.ok(&["pull", "-q", &image("busybox")]);
    for address in ["0.0.0.0", "192.0.2.1"] {
        let publish = format!("{address}:{port}:80");
        let error = node.fails(125, &["run", "-d", "-p", &publish, &image("busybox"), "true"]);
        assert!(error.contains("publish_allow"), "{error}");
    }
    node.detached(&["--network", "bridge", "--name", "web", "-p", &format!("{port}:80")], SERVE);
    until("it answers", || answers(port));
    assert_eq!(node.ok(&["port", "web", "80"]).trim(), format!("127.0.0.1:{port}\n[::1]:{port}"));
    node.finish();
}

#[cfg(feature = "failpoints")]
#[test]
fn the_agent_dies_at_every_step_of_a_change() {
    use std::process::Stdio;
    let mut node = Node::with_busybox("point-ports");
    let (port, other) = (node.slot.port(0), node.slot.port(1));
    let publish = format!("127.0.0.1:{port}:80");
    node.detached(&["--network", "bridge", "--name", "web", "-p", &format!("127.0.0.1:{other}:80")], SERVE);
    let points: Vec<_> = berth_node::fail::NAMES.iter().filter(|name| name.starts_with("ports.")).collect();
    assert_eq!(points.len(), 3);
    for (verb, name) in ["add", "rm"].iter().flat_map(|verb| points.iter().map(move |name| (*verb, *name))) {
        node.ok(&["port", "rm", "web", &publish]);
        if verb == "rm" {
            node.ok(&["port", "add", "web", &publish]);
        }
        node.kill_agent();
        node.set_env("BERTH_FAILPOINTS", Some(&format!("{name}=abort")));
        node.spawn();
        let mut command = node.ctl_command(&["port", verb, "web", &publish]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ctl");
        assert!(!node.wait_agent().success(), "{name}");
        let _ = child.kill();
        child.wait().expect("wait");
        node.set_env("BERTH_FAILPOINTS", None);
        node.spawn();
        // What is said is what is so, and the other port never changes.
        let listed = node.ok(&["port", "web"]).contains(&format!("127.0.0.1:{port}"));
        assert_eq!(answers(port), listed, "{verb} {name}");
        assert_eq!(listed, (verb == "add") != (*name == "ports.before_record"), "{verb} {name}");
        assert!(answers(other), "{verb} {name}");
    }
    node.finish();
}
