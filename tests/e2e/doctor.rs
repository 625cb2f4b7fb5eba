//! `node doctor`: what it says of a healthy host, and whether it finds what was left lying about.

use crate::harness::Node;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn findings(node: &Node, code: i32) -> Vec<Value> {
    let output = node.ctl(&["node", "doctor", "-o", "json"]);
    assert_eq!(output.code, code, "{}", output.stderr);
    let all: Value = serde_json::from_str(&output.stdout).expect("JSON");
    all.as_array().expect("a list").clone()
}

fn of<'a>(findings: &'a [Value], name: &str) -> &'a Value {
    findings.iter().find(|f| f["Name"] == name).unwrap_or_else(|| panic!("nothing about {name}: {findings:?}"))
}

#[test]
fn a_healthy_host_has_nothing_bad() {
    let node = Node::with_busybox("doctor");
    node.detached(&[], "while :; do sleep 1; done");
    let found = findings(&node, 0);
    for name in ["kernel", "layers", "cgroups", "memory", "disk", "descriptors", "store", "images", "certificates"] {
        assert_ne!(of(&found, name)["Verdict"], "bad", "{found:?}");
    }
    for name in ["leftovers", "spoofing"] {
        assert_eq!(of(&found, name)["Verdict"], "good", "{found:?}");
    }
    let table = node.ok(&["node", "doctor"]);
    assert!(table.lines().next().is_some_and(|l| l.contains("CHECK") && l.contains("ADVICE")), "{table}");
    assert!(!node.ok(&["node", "doctor", "--quiet"]).contains("\nok "));
    node.ok(&["rm", "-f", &node.ok(&["ps", "-q"])]);
    node.finish();
}

/// Folders of the test's cgroup parent, in whatever hierarchy.
fn parents(node: &Node) -> Vec<PathBuf> {
    let name = node.slot.cgroup_parent();
    let root = Path::new("/sys/fs/cgroup");
    let below = std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
    below.chain([root.to_owned()]).map(|p| p.join(&name)).filter(|p| p.is_dir()).collect()
}

#[test]
fn what_has_no_owner_is_found() {
    let node = Node::with_busybox("doctor-leaks");
    // Makes the parents of the groups, and the bridge.
    let id = node.detached(&[], "while :; do sleep 1; done");
    let stranger = "0123456789abcdef".repeat(4);
    let group = parents(&node).first().expect("a cgroup parent").join(&stranger);
    std::fs::create_dir(&group).expect("a group");
    let folder = node.data().join("containers").join(&stranger);
    std::fs::create_dir(&folder).expect("a folder");

    let found = findings(&node, 1);
    assert_eq!(found[0]["Name"], "leftovers", "the gravest comes first: {found:?}");
    let text = found[0]["Found"].as_str().expect("text");
    assert!(text.contains(&format!("cgroup of {stranger}")), "{text}");
    assert!(text.contains(&folder.display().to_string()), "{text}");
    assert!(!text.contains(&id), "what is owned is none: {text}");

    std::fs::remove_dir(&group).expect("the group goes");
    std::fs::remove_dir(&folder).expect("the folder goes");
    assert_eq!(of(&findings(&node, 0), "leftovers")["Verdict"], "good");
    node.ok(&["rm", "-f", &id]);
    node.finish();
}

#[test]
fn certificates_that_end_soon_are_told() {
    let node = Node::with_busybox("doctor-certificate");
    let pki = node.scratch().join("pki");
    let pki = pki.to_str().expect("a path");
    node.ok(&["pki", "--dir", pki, "init", "--name", "short"]);
    node.ok(&["pki", "--dir", pki, "issue", "agent", "soon", "--san", "127.0.0.1", "--days", "5"]);
    // The agent goes on with its own; what would be found at its next start is told.
    let cert = std::fs::read(format!("{pki}/agents/soon.pem")).expect("certificate");
    let place = node.dir.join("pki/agent.pem");
    let before = std::fs::read(&place).expect("the agent's certificate");
    std::fs::write(&place, cert).expect("writing the certificate");
    let found = findings(&node, 1);
    let bad = found.iter().find(|f| f["Verdict"] == "bad").expect("something bad");
    assert_eq!(bad["Name"], "certificates", "{found:?}");
    assert!(bad["Found"].as_str().is_some_and(|t| t.contains("days only")), "{bad}");
    std::fs::write(&place, before).expect("writing the certificate back");
    node.finish();
}
