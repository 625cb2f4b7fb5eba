//! The ctl with several hosts, and its outputs.

use crate::harness::agent::{Output, context_toml, run};
use crate::harness::pki::ctl_binary;
use crate::harness::{Node, image};
use std::process::{Command, Stdio};

/// Three nodes `n0` to `n2`, the group `first` of two of them, and a host `dead` where nobody listens.
pub struct Fleet {
    pub nodes: Vec<Node>,
    config: std::path::PathBuf,
}

pub fn fleet(name: &str) -> Fleet {
    let nodes: Vec<Node> = (0..3).map(|n| Node::with_busybox(&format!("{name}-{n}"))).collect();
    let config = nodes[0].dir.join("fleet.toml");
    let mut text = "[groups]\nfirst = [\"n0\", \"n1\"]\nbroken = [\"n0\", \"dead\"]\n".to_owned();
    for (at, node) in nodes.iter().enumerate() {
        text += &context_toml(&format!("n{at}"), &node.endpoint(), &node.pki.ca(), &node.pki.identity("admin"));
    }
    // Nobody listens there.
    text += &context_toml("dead", "https://127.0.0.1:9", &nodes[0].pki.ca(), &nodes[0].pki.identity("admin"));
    std::fs::write(&config, text).expect("fleet.toml");
    Fleet { nodes, config }
}

impl Fleet {
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        run(Command::new(ctl_binary()).env("BERTH_CONFIG", &self.config).args(arguments).stdin(Stdio::null()))
    }

    pub fn finish(self) {
        for node in self.nodes {
            node.finish();
        }
    }
}

#[test]
fn many_hosts_answer_side_by_side_and_labelled() {
    let fleet = fleet("ctl-fleet");
    let output = fleet.ctl(&[
        "-H",
        "n0,n1,n2",
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "none",
        &image("busybox"),
        "sleep",
        "1000",
    ]);
    assert_eq!(output.code, 0, "{output:?}");
    let output = fleet.ctl(&["-H", "n0,n1,n2", "ps"]);
    assert_eq!(output.code, 0, "{output:?}");
    for host in ["n0", "n1", "n2"] {
        assert!(output.stdout.lines().any(|l| l.contains(host) && l.contains("web")), "{output:?}");
    }
    let output = fleet.ctl(&["-g", "first", "exec", "web", "hostname"]);
    assert_eq!((output.code, output.stdout.lines().count()), (0, 2), "{output:?}");
    assert!(output.stdout.contains("n0") && output.stdout.contains("n1"), "{output:?}");
    assert_eq!(fleet.ctl(&["-H", "n2", "rm", "-f", "web"]).code, 0);
    let some = fleet.ctl(&["-H", "n0,n2", "inspect", "web"]);
    assert_eq!(some.code, 3, "{some:?}");
    assert!(some.stderr.contains("n2"), "{some:?}");
    fleet.finish();
}

#[test]
fn partial_failure_is_plain() {
    let fleet = fleet("ctl-partial");
    let some = fleet.ctl(&["-g", "broken", "--deadline", "10s", "version"]);
    assert_eq!(some.code, 3, "{some:?}");
    assert!(some.stderr.contains("dead") && some.stdout.contains("n0"), "{some:?}");
    let none = fleet.ctl(&["-H", "dead,127.0.0.1:11", "--deadline", "10s", "version"]);
    assert_eq!(none.code, 4, "{none:?}");
    let all = fleet.ctl(&["--all", "--deadline", "10s", "info"]);
    assert_eq!(all.code, 3, "{all:?}");
    assert_eq!(fleet.ctl(&["-H", "no-such-context", "version"]).code, 125);
    assert_eq!(fleet.ctl(&["-g", "no-such-group", "version"]).code, 125);
    fleet.finish();
}

#[test]
fn a_host_that_says_nothing_is_given_up_at_the_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let node = Node::start("ctl-deadline");
    let config = node.dir.join("mute.toml");
    let address = listener.local_addr().expect("address");
    let mut text = context_toml("mute", &format!("https://{address}"), &node.pki.ca(), &node.pki.identity("admin"));
    text += &context_toml("good", &node.endpoint(), &node.pki.ca(), &node.pki.identity("admin"));
    std::fs::write(&config, text).expect("config");
    let output =
        run(Command::new(ctl_binary()).env("BERTH_CONFIG", &config).args(["--all", "--deadline", "1s", "version"]));
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("mute"), "{output:?}");
    node.finish();
}

#[test]
fn machine_output_is_stable() {
    let node = Node::with_busybox("ctl-output");
    let id = node.detached(&["--name", "box", "-l", "k=v"], "while :; do sleep 1; done");
    let table = node.ok(&["ps"]);
    let head = table.lines().next().expect("head");
    assert!(
        head.starts_with("CONTAINER ID")
            && head.contains("IMAGE")
            && head.contains("STATUS")
            && head.ends_with("NAMES"),
        "{head}"
    );
    assert!(table.contains(&id[..12]) && !table.contains(&id[..13]), "{table}");
    assert_eq!(node.ok(&["ps", "-q"]), &id[..12]);
    assert_eq!(node.ok(&["ps", "-q", "--no-trunc"]), id);
    assert_eq!(node.ok(&["ps", "-o", "name"]), "box");
    let json: serde_json::Value = serde_json::from_str(&node.ok(&["ps", "--no-trunc", "-o", "json"])).expect("JSON");
    assert_eq!(json[0]["ID"], id.as_str(), "{json}");
    // In quotes when it begins with a digit: YAML could take it for a number.
    let yaml = node.ok(&["ps", "--no-trunc", "-o", "yaml"]);
    assert!(yaml.contains(&format!("ID: {id}")) || yaml.contains(&format!("ID: \"{id}\"")), "{yaml}");
    assert!(!node.ok(&["ps", "--format", "{{.Names}} {{.ID}}"]).is_empty());
    let version: serde_json::Value = serde_json::from_str(&node.ok(&["version", "-o", "json"])).expect("JSON");
    assert!(version.to_string().contains(berth::VERSION), "{version}");
    node.finish();
}

#[test]
fn errors_have_hints_and_go_to_stderr() {
    let node = Node::start("ctl-errors");
    let output = node.ctl(&["inspect", "nobody"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.starts_with("error: ") && output.stderr.contains("nobody"), "{output:?}");
    let usage = node.ctl(&["run"]);
    assert_eq!(usage.code, 125, "{usage:?}");
    assert_eq!(node.ctl(&["no-such-command"]).code, 125);
    node.finish();
}

#[test]
fn contexts_are_kept_in_a_file() {
    let node = Node::start("ctl-contexts");
    let config = node.dir.join("new/config.toml");
    let ctl = |arguments: &[&str]| run(Command::new(ctl_binary()).env("BERTH_CONFIG", &config).args(arguments));
    let identity = node.pki.identity("admin");
    let (ca, cert, key) = (node.pki.ca(), identity.cert, identity.key);
    let created = ctl(&[
        "context",
        "create",
        "here",
        "--endpoint",
        &node.endpoint(),
        "--ca",
        &ca.to_string_lossy(),
        "--cert",
        &cert.to_string_lossy(),
        "--key",
        &key.to_string_lossy(),
    ]);
    assert_eq!(created.code, 0, "{created:?}");
    assert_eq!(ctl(&["context", "use", "here"]).code, 0);
    assert_eq!(ctl(&["version"]).code, 0);
    assert!(ctl(&["context", "ls"]).stdout.contains("here"));
    assert_eq!(ctl(&["-H", "here", "info"]).code, 0);
    node.finish();
}

#[test]
fn completion_knows_live_containers() {
    let node = Node::with_busybox("ctl-completion");
    node.detached(&["--name", "completed-by-name"], "while :; do sleep 1; done");
    let script = run(&mut node.ctl_command(&["completion", "bash"]));
    assert!(script.code == 0 && script.stdout.contains("berthctl"), "{script:?}");
    let mut command = node.ctl_command(&["--", "berthctl", "stop", ""]);
    let output = run(command
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "2")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_COMP_TYPE", "9"));
    assert!(output.stdout.contains("completed-by-name"), "{output:?}");
    node.finish();
}

#[test]
fn help_of_every_command_is_there() {
    let output = run(Command::new(ctl_binary()).arg("--help"));
    for command in [
        "run", "create", "start", "stop", "kill", "rm", "ps", "inspect", "logs", "exec", "attach", "wait", "pull",
        "images", "rmi", "tag", "events", "info", "version", "pki", "context",
    ] {
        assert!(output.stdout.lines().any(|l| l.trim_start().starts_with(command)), "{command} in {}", output.stdout);
        assert_eq!(run(Command::new(ctl_binary()).args([command, "--help"])).code, 0, "{command}");
    }
}
