//! The agent dies at every step of what plugins do for a container.

use crate::cni::{create, fake, left, list, node, none_left};
use crate::harness::image;
use crate::network_faults::dies;
use crate::networks::{IDLE, interfaces, ip};
use serde_json::json;
use std::fs;
use std::time::Duration;

const ADD: [&str; 5] = ["before_record", "after_record", "between_plugins", "after_plugins", "after_result"];
const DEL: [&str; 5] = ["before_record", "after_record", "between_plugins", "after_plugins", "after_forget"];

#[test]
fn starting_and_removing() {
    let mut node = node("cni-faults");
    create(&node, &list(&node, "lab"));
    let port = node.slot.port(0);
    let publish = format!("127.0.0.1:{port}:80");
    let busybox = image("busybox");
    let create = ["create", "--name", "box", "--network", "lab", "-p", &publish, &busybox, "sh", "-c", IDLE];
    node.ok(&create);
    for point in ADD {
        dies(&mut node, &format!("cni.add.{point}"), &["start", "box"]);
        // Nobody was told that it runs: what its plugins had given is taken back.
        none_left(&node, "lab");
        assert_eq!(node.inspect("box")["State"]["Status"], "created", "{point}");
        node.ok(&["start", "box"]);
        assert!(!ip(&node, "box", "lab").is_empty(), "{point}");
        node.ok(&["stop", "-t", "1", "box"]);
        none_left(&node, "lab");
        node.ok(&["rm", "box"]);
        node.ok(&create);
    }
    for point in DEL {
        node.ok(&["start", "box"]);
        dies(&mut node, &format!("cni.del.{point}"), &["rm", "-f", "box"]);
        none_left(&node, "lab");
        node.ok(&["rm", "-f", "box"]);
        node.ok(&create);
    }
    // The same where the container stays.
    for point in DEL {
        node.ok(&["start", "box"]);
        dies(&mut node, &format!("cni.del.{point}"), &["stop", "-t", "1", "box"]);
        none_left(&node, "lab");
        node.ok(&["start", "box"]);
        node.ok(&["stop", "-t", "1", "box"]);
    }
    node.ok(&["rm", "-f", "box"]);
    none_left(&node, "lab");
    node.ok(&["network", "rm", "lab"]);
    node.finish();
}

#[test]
fn connecting_and_disconnecting() {
    let mut node = node("cni-faults-live");
    create(&node, &list(&node, "lab"));
    node.detached(&["--name", "peer", "--network", "lab"], IDLE);
    node.detached(&["--name", "box", "--network", "bridge"], IDLE);
    let others = left(&node, "lab").len();
    let whole = |node: &crate::harness::Node, point: &str, on: bool| {
        let wanted: &[&str] = if on { &["eth0", "eth1"] } else { &["eth0"] };
        assert_eq!(interfaces(node, "box"), wanted, "{point}");
        if on {
            let peer = ip(node, "peer", "lab");
            assert_eq!(node.ctl(&["exec", "box", "ping", "-c", "1", "-W", "2", &peer]).code, 0, "{point}");
        } else {
            crate::harness::until("nothing is left over", || left(node, "lab").len() == others);
        }
    };
    for point in ADD {
        // The wish is written down, and the next agent makes it true.
        dies(&mut node, &format!("cni.add.{point}"), &["network", "connect", "lab", "box"]);
        whole(&node, point, true);
        node.ok(&["network", "disconnect", "lab", "box"]);
        whole(&node, point, false);
    }
    for point in DEL {
        node.ok(&["network", "connect", "lab", "box"]);
        dies(&mut node, &format!("cni.del.{point}"), &["network", "disconnect", "lab", "box"]);
        whole(&node, point, false);
    }
    node.ok(&["rm", "-f", "box", "peer"]);
    none_left(&node, "lab");
    node.ok(&["network", "rm", "lab"]);
    node.finish();
}

/// A plugin that goes on when its agent has died must not give what nobody takes back.
#[test]
fn a_plugin_outlives_its_agent() {
    let mut node = node("cni-faults-late");
    create(&node, &json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "fake"}]}));
    let dir = fake(&node);
    fs::write(
        dir.join("on-ADD"),
        "touch \"$here/begun\"; (setsid sleep 3; touch \"$here/late\") & wait; touch \"$here/late\"",
    )
    .expect("on");
    let mut child = node
        .ctl_command(&["run", "-d", "--name", "box", "--network", "lab", &image("busybox"), "true"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("ctl");
    crate::harness::until("the plugin works", || dir.join("begun").exists());
    node.kill_agent();
    let _ = child.kill();
    child.wait().expect("wait");
    fs::remove_file(dir.join("on-ADD")).expect("on");
    node.spawn();
    none_left(&node, "lab");
    std::thread::sleep(Duration::from_secs(4));
    assert!(!dir.join("late").exists(), "it went on behind the DEL");
    let calls = fs::read_to_string(dir.join("calls")).expect("calls");
    assert!(calls.trim_end().ends_with("ADD eth0\nDEL eth0"), "{calls}");
    node.ok(&["rm", "-f", "box"]);
    node.ok(&["network", "rm", "lab"]);
    node.finish();
}
