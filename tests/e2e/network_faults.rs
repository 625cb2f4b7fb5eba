//! The agent dies at every step of making and removing a network, and of connecting and disconnecting a container.

use crate::harness::Node;
use crate::networks::{IDLE, interfaces, ip, link, network};
use std::process::{Command, Stdio};

/// Interfaces on a bridge of the host.
fn ports(bridge: &str) -> usize {
    std::fs::read_dir(format!("/sys/class/net/{bridge}/brif")).map_or(0, Iterator::count)
}

/// The agent dies at `point` during `act`, and a new one comes.
pub fn dies(node: &mut Node, point: &str, act: &[&str]) {
    node.kill_agent();
    node.set_env("BERTH_FAILPOINTS", Some(&format!("{point}=abort")));
    node.spawn();
    let mut command: Command = node.ctl_command(act);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ctl");
    let status = node.wait_agent();
    assert!(!status.success(), "{point}: the agent did not die there but ended with {status}");
    let _ = child.kill();
    child.wait().expect("wait");
    node.set_env("BERTH_FAILPOINTS", None);
    node.spawn();
}

#[test]
fn making_and_removing() {
    let mut node = Node::start("network-faults-make");
    let bridge = format!("{}u", node.slot.bridge());
    let name = format!("com.docker.network.bridge.name={bridge}");
    for point in ["before_record", "after_record", "after_bridge"] {
        dies(&mut node, &format!("network.create.{point}"), &["network", "create", "-o", &name, "n"]);
        let known = node.ok(&["network", "ls", "-f", "name=n", "-f", "type=custom", "-o", "name"]) == "n";
        assert!(known || link(&bridge).is_none(), "{point}: a bridge without a network");
        if !known {
            node.ok(&["network", "create", "-o", &name, "n"]);
        }
        node.ok(&["network", "rm", "n"]);
        assert!(link(&bridge).is_none(), "{point}");
    }
    for point in ["before_record", "after_record", "after_bridge"] {
        node.ok(&["network", "create", "-o", &name, "n"]);
        dies(&mut node, &format!("network.remove.{point}"), &["network", "rm", "n"]);
        let known = node.ok(&["network", "ls", "-f", "type=custom", "-o", "name"]) == "n";
        assert_eq!(known, point == "before_record", "{point}: what was decided is done");
        assert_eq!(known, link(&bridge).is_some(), "{point}");
        node.ok(&["network", "rm", "-f", "n"]);
        assert!(link(&bridge).is_none(), "{point}");
    }
    node.finish();
}

#[test]
fn connecting_and_disconnecting() {
    let mut node = Node::with_busybox("network-faults-join");
    let bridge = format!("{}u", node.slot.bridge());
    let name = format!("com.docker.network.bridge.name={bridge}");
    node.ok(&["network", "create", "-o", &name, "n"]);
    node.detached(&["--name", "box", "--network", "bridge"], IDLE);
    node.detached(&["--name", "peer", "--network", "n"], IDLE);
    let reaches = |node: &Node| {
        let peer = ip(node, "peer", "n");
        node.ctl(&["exec", "box", "ping", "-c", "1", "-W", "2", &peer]).code == 0
    };
    let whole = |node: &Node, point: &str, on: bool| {
        let members = network(node, "n")["Containers"].as_object().expect("map").len();
        assert_eq!(members, 1 + usize::from(on), "{point}");
        let wanted: &[&str] = if on { &["eth0", "eth1"] } else { &["eth0"] };
        assert_eq!(interfaces(node, "box"), wanted, "{point}");
        crate::harness::until("no link is left over", || ports(&bridge) == 1 + usize::from(on));
        assert_eq!(reaches(node), on, "{point}");
        let route = node.ok(&["exec", "box", "ip", "route"]);
        assert!(route.starts_with("default") && route.contains("dev eth0"), "{point}: {route}");
    };
    for point in [
        "network.connect.before_record",
        "network.connect.after_record",
        "network.connect.after_link",
        "network.connect.after_settled",
    ] {
        dies(&mut node, point, &["network", "connect", "n", "box"]);
        // What was written down is done by the next agent.
        whole(&node, point, point != "network.connect.before_record");
        node.ok(&["network", "disconnect", "-f", "n", "box"]);
        whole(&node, point, false);
    }
    for point in [
        "network.connect.before_record",
        "network.connect.after_record",
        "network.disconnect.after_link",
        "network.connect.after_settled",
    ] {
        node.ok(&["network", "connect", "n", "box"]);
        dies(&mut node, point, &["network", "disconnect", "n", "box"]);
        whole(&node, point, point == "network.connect.before_record");
        node.ok(&["network", "disconnect", "-f", "n", "box"]);
        whole(&node, point, false);
    }
    node.ok(&["rm", "-f", "box", "peer"]);
    node.ok(&["network", "rm", "n"]);
    node.finish();
}
