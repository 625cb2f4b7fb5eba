//! `berthctl agent upgrade`: the agent becomes another program, keeps its pid, and containers do not notice; what does not work goes back.
//!
//! Another build of the same code is the same file with a version (and what is wrong with it) behind its end, which builds with fail
//! points read.

use crate::harness::agent::{Output, signal};
use crate::harness::{Node, eventually, image, size, until};
use std::io::Write;
use std::path::{Path, PathBuf};

const LOOP: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

/// An agent that trusts a release key, with a container that counts.
fn node(name: &str) -> Node {
    let node = unkeyed(name, true);
    node.ok(&["pull", "-q", &image("busybox")]);
    node.detached(&["--name", "box"], LOOP);
    node
}

pub fn unkeyed(name: &str, keyed: bool) -> Node {
    let mut builder = Node::builder(name).own_program();
    if keyed {
        builder = builder.table("[upgrade]\npublic_key = \"PKI/release.pub\"");
    }
    builder.start_with(|dir| {
        let pki = dir.join("pki");
        let made = std::process::Command::new(crate::harness::pki::ctl_binary())
            .args(["pki", "release-key", "--algorithm", "ed25519", "--dir"])
            .arg(&pki)
            .output()
            .expect("berthctl");
        assert!(made.status.success(), "{made:?}");
    })
}

/// Another build: `traits` such as `version=9.0.0;fail=crash`.
fn build(node: &Node, traits: &str) -> PathBuf {
    let path = node.scratch().join(format!("berthd-{}", traits.replace([';', '='], "-")));
    std::fs::copy(node.program(), &path).expect("copy");
    let mut bytes = std::fs::read(&path).expect("read");
    // An upgraded one has its traits already.
    if let Some(at) = bytes.windows(12).rposition(|w| w == b"\nberth-test:").filter(|at| at + 300 > bytes.len()) {
        bytes.truncate(at);
    }
    write!(bytes, "\nberth-test:{traits}\n").expect("vec");
    std::fs::write(&path, bytes).expect("write");
    path
}

fn sign(node: &Node, file: &Path, version: &str) {
    let key = node.dir.join("pki/release.key");
    let (file, key) = (file.to_str().expect("utf-8"), key.to_str().expect("utf-8"));
    node.ok(&["agent", "sign", file, "--key", key, "--release-version", version]);
}

pub fn signed(node: &Node, traits: &str) -> PathBuf {
    let file = build(node, traits);
    let version = traits.split(';').find_map(|t| t.strip_prefix("version=")).expect("version");
    sign(node, &file, version);
    file
}

/// How long a program is tried: an emulated processor needs this long to start one.
fn trial_seconds() -> u64 {
    size("BERTH_TEST_TRIAL_SECS", 5)
}

fn upgrade(node: &Node, file: &Path, more: &[&str]) -> Output {
    let within = format!("{}s", trial_seconds());
    let mut arguments = vec!["agent", "upgrade", "--confirm-within", &within, file.to_str().expect("utf-8")];
    arguments.extend(more);
    node.ctl(&arguments)
}

pub fn running(node: &Node) -> String {
    let text = node.ok(&["version", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value["Server"]["Version"].as_str().expect("version").to_owned()
}

fn agent_pid(node: &Node) -> u32 {
    let info = node.ok(&["info", "--format", "{{.AgentPid}}"]);
    info.trim().parse().unwrap_or_else(|e| panic!("{e}: {info}"))
}

fn pid(node: &Node) -> u64 {
    node.inspect("box")["State"]["Pid"].as_u64().expect("pid")
}

/// The container is the same, answers, and its log has every line once.
fn unnoticed(node: &Node, before: u64) {
    assert_eq!(pid(node), before);
    assert_eq!(node.ok(&["exec", "box", "echo", "here"]), "here");
    for (at, line) in node.ok(&["logs", "box"]).lines().enumerate() {
        assert_eq!(line, (at + 1).to_string(), "a line is lost or doubled");
    }
}

/// The agent that the watcher became is nobody's child here: it ends, and the harness starts one of its own.
fn take_over(node: &mut Node) {
    if !node.agent_has_ended() {
        return;
    }
    node.forget_agent();
    let pid = eventually("an agent answers", || {
        let output = node.ctl(&["info", "--format", "{{.AgentPid}}"]);
        (output.code == 0).then(|| output.stdout.trim().parse::<u32>().expect("pid"))
    });
    signal(pid, "TERM");
    until("it has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    node.spawn();
}

fn no_watcher(node: &Node) {
    let dir = node.dir.display().to_string();
    until("the watcher has ended", || {
        let ps = std::process::Command::new("ps").args(["-eo", "args"]).output().expect("ps");
        let text = String::from_utf8_lossy(&ps.stdout).into_owned();
        !text.lines().any(|line| line.contains("upgrade-watch") && line.contains(&dir))
    });
}

#[test]
fn a_signed_program_takes_over_in_place() {
    let node = node("upgrade-good");
    let (agent, before, old) = (node.pid(), pid(&node), running(&node));
    for version in ["9.0.0", "9.1.0"] {
        let output = upgrade(&node, &signed(&node, &format!("version={version}")), &[]);
        assert_eq!(output.code, 0, "{output:?}\n{}", node.agent_log());
        assert!(output.stdout.contains(&format!("to {version}")), "{output:?}");
        assert_eq!((running(&node).as_str(), agent_pid(&node)), (version, agent));
        unnoticed(&node, before);
        no_watcher(&node);
    }
    let status = node.ok(&["agent", "status"]);
    assert!(status.contains("from 9.0.0 to 9.1.0"), "{status}");
    // The same again, and one before it.
    let output = upgrade(&node, &signed(&node, "version=9.1.0"), &[]);
    assert!(output.code == 0 && output.stdout.contains("already"), "{output:?}");
    let older = signed(&node, "version=9.0.5");
    let output = upgrade(&node, &older, &[]);
    assert!(output.code == 1 && output.stderr.contains("--allow-downgrade"), "{output:?}");
    let output = upgrade(&node, &older, &["--allow-downgrade"]);
    assert_eq!((output.code, running(&node).as_str()), (0, "9.0.5"), "{output:?}");
    assert_ne!(old, "9.0.5");
    // The shims are still this process's children, and its own to reap.
    node.ok(&["rm", "-f", "box"]);
    until("no child is left", || {
        std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).is_ok_and(|c| c.trim().is_empty())
    });
    let audit = std::fs::read_to_string(node.data().join("audit.log")).expect("audit.log");
    let record = audit.lines().find(|l| l.contains("Node/UpgradeAgent") && l.contains("9.0.0")).expect("record");
    assert!(record.contains("\"caller\":\"admin\""), "{record}");
    assert!(audit.contains("Node/ConfirmUpgrade"), "{audit}");
    node.finish();
}

#[test]
fn a_program_that_does_not_work_goes_back() {
    let mut node = node("upgrade-broken");
    let (before, old) = (pid(&node), running(&node));
    for fail in ["crash", "exit", "hang"] {
        let output = upgrade(&node, &signed(&node, &format!("version=9.0.0;fail={fail}")), &[]);
        assert!(output.code == 1 && output.stderr.contains("rolled back"), "{fail}: {output:?}\n{}", node.agent_log());
        assert_eq!(running(&node), old, "{fail}");
        take_over(&mut node);
        unnoticed(&node, before);
        no_watcher(&node);
        let status = node.ok(&["agent", "status"]);
        assert!(status.contains("rolled back"), "{fail}: {status}");
    }
    // It says so itself before anything is exchanged.
    let agent = agent_pid(&node);
    let output = upgrade(&node, &signed(&node, "version=9.0.0;fail=self-check"), &[]);
    assert!(output.code == 1 && output.stderr.contains("does not work on this host"), "{output:?}");
    assert_eq!((running(&node), agent_pid(&node)), (old, agent));
    unnoticed(&node, before);
    node.finish();
}

#[test]
fn what_is_not_signed_for_this_agent_is_refused() {
    let node = node("upgrade-refused");
    let (agent, old) = (node.pid(), running(&node));
    let refused = |file: &Path, words: &str| {
        let output = upgrade(&node, file, &[]);
        assert!(output.code == 1 && output.stderr.contains(words), "{words}: {output:?}");
        assert_eq!((running(&node), agent_pid(&node)), (old.clone(), agent), "{words}");
    };
    let good = signed(&node, "version=9.0.0");
    let operator = node.pki.identity("operator");
    let output = node.ctl_as(&operator, &["agent", "upgrade", good.to_str().expect("utf-8")]);
    assert!(output.code == 1 && output.stderr.contains("admin"), "{output:?}");

    let tampered = build(&node, "version=9.0.0;fail=tampered");
    let sig = |path: &Path| PathBuf::from(format!("{}.sig", path.display()));
    std::fs::copy(sig(&good), sig(&tampered)).expect("sig");
    refused(&tampered, "not what was signed");
    let text = std::fs::read_to_string(sig(&good)).expect("sig");
    std::fs::write(sig(&good), text.replace("version = \"9.0.0\"", "version = \"9.0.1\"")).expect("sig");
    refused(&good, "has signed this program");
    std::fs::remove_file(sig(&good)).expect("sig");
    refused(&good, "agent sign");

    let foreign = build(&node, "version=9.0.0;fail=foreign");
    let mut bytes = std::fs::read(&foreign).expect("read");
    bytes[18] = if bytes[18] == 183 { 62 } else { 183 };
    std::fs::write(&foreign, bytes).expect("write");
    sign(&node, &foreign, "9.0.0");
    refused(&foreign, "does not fit");
    let liar = build(&node, "version=9.0.0;fail=liar");
    sign(&node, &liar, "9.9.9");
    refused(&liar, "it says that it is 9.0.0");
    assert!(!node.program().with_file_name("berthd.previous").exists());
    assert!(!node.program().with_file_name(".berthd.new").exists());
    node.finish();

    let unkeyed = unkeyed("upgrade-unkeyed", false);
    let output = upgrade(&unkeyed, &signed(&unkeyed, "version=9.0.0"), &[]);
    assert!(output.code == 1 && output.stderr.contains("release-key"), "{output:?}");
    unkeyed.finish();
}

#[test]
fn nobody_confirms() {
    use berth::v1::upgrade_agent_request::Kind;
    let node = node("upgrade-unconfirmed");
    let (agent, before, old) = (node.pid(), pid(&node), running(&node));
    let file = signed(&node, "version=9.0.0");
    let text = std::fs::read_to_string(format!("{}.sig", file.display())).expect("sig");
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name} = "))).expect(name);
        line.trim_matches('"').to_owned()
    };
    let start = berth::v1::UpgradeStart {
        request_id: "unconfirmed".into(),
        version: field("version"),
        architecture: field("architecture"),
        sha256: field("sha256"),
        size_bytes: field("size").parse().expect("size"),
        signature: berth::hex::decode(&field("signature")).expect("hex").into(),
        confirm_seconds: u32::try_from(trial_seconds()).expect("seconds"),
        ..Default::default()
    };
    let program = bytes::Bytes::from(std::fs::read(&file).expect("program"));
    let chunks = (0..program.len()).step_by(1 << 20).map(|at| program.slice(at..(at + (1 << 20)).min(program.len())));
    let kinds = [Kind::Start(start)].into_iter().chain(chunks.map(Kind::Chunk));
    let messages: Vec<_> = kinds.map(|k| berth::v1::UpgradeAgentRequest { kind: Some(k) }).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let mut client = berth::v1::node_client::NodeClient::new(node.channel().await);
        client.upgrade_agent(tokio_stream::iter(messages)).await.expect("upgrade");
    });
    until("the new one runs", || node.ctl(&["version", "-o", "json"]).stdout.contains("9.0.0"));
    until("the old one is back", || {
        node.ctl(&["version", "-o", "json"]).stdout.contains(&format!("\"{old}\""))
            && node.ctl(&["agent", "status"]).stdout.contains("rolled back")
    });
    until("the old one answers", || node.ctl(&["version", "-o", "json"]).code == 0);
    assert_eq!((running(&node), agent_pid(&node)), (old, agent));
    unnoticed(&node, before);
    no_watcher(&node);
    node.finish();
}

#[test]
fn killed_at_every_step() {
    let mut node = node("upgrade-killed");
    let before = pid(&node);
    let old = running(&node);
    let points: Vec<_> = berth_node::fail::NAMES.iter().filter(|name| name.starts_with("upgrade.")).collect();
    assert!(points.len() > 8);
    for point in points {
        node.kill_agent();
        node.set_env("BERTH_FAILPOINTS", Some(&format!("{point}=abort")));
        node.spawn();
        let file = signed(&node, &format!("version=9.{}.0", point.len()));
        let file = file.to_str().expect("utf-8");
        let mut command = node.ctl_command(&["agent", "upgrade", "--confirm-within", "20s", file]);
        let null = std::process::Stdio::null;
        let mut ctl = command.stdin(null()).stdout(null()).stderr(null()).spawn().expect("ctl");
        until(&format!("{point}: the agent has died there"), || node.agent_has_ended());
        let _ = ctl.kill();
        ctl.wait().expect("wait");
        node.set_env("BERTH_FAILPOINTS", None);
        node.forget_agent();
        // The harness is the service manager that comes late: the watcher may be the agent by then.
        until(&format!("{point}: an agent answers"), || node.ctl(&["version"]).code == 0 || node.try_spawn());
        take_over(&mut node);
        let confirmed = *point == "upgrade.after_confirm";
        assert_eq!(running(&node) == old, !confirmed, "{point}\n{}", node.agent_log());
        unnoticed(&node, before);
        no_watcher(&node);
        assert!(!node.program().with_file_name(".berthd.new").exists(), "{point}");
        // And nothing is in the way of the next one.
        if confirmed {
            let original = build(&node, &format!("version={old}"));
            sign(&node, &original, &old);
            let output = upgrade(&node, &original, &["--allow-downgrade"]);
            assert_eq!((output.code, running(&node)), (0, old.clone()), "{output:?}");
        }
    }
    node.finish();
}

#[test]
fn a_start_in_the_middle_of_a_trial_goes_back_first() {
    let mut node = node("upgrade-guard");
    let (before, old) = (pid(&node), running(&node));
    let program = node.program().to_owned();
    // As after a power cut: no watcher, the new program in its place, and that one does not even start.
    node.kill_agent();
    let broken = build(&node, "version=9.0.0;fail=crash");
    let previous = program.with_file_name("berthd.previous");
    std::fs::copy(&program, &previous).expect("previous");
    let digest = std::process::Command::new("sha256sum").arg(&broken).output().expect("sha256sum");
    let digest = String::from_utf8_lossy(&digest.stdout)[..64].to_owned();
    std::fs::rename(&broken, &program).expect("rename");
    let journal = serde_json::json!({
        "id": "x", "phase": "trial", "from_version": old, "to_version": "9.0.0", "to_sha256": digest,
        "program": program, "previous": previous, "confirm_seconds": 60,
    });
    std::fs::write(node.data().join("upgrade.json"), journal.to_string()).expect("journal");
    let guard = std::process::Command::new(&previous)
        .args(["upgrade-guard", "--config"])
        .arg(node.dir.join("berthd.toml"))
        .output()
        .expect("guard");
    assert!(guard.status.success() && String::from_utf8_lossy(&guard.stdout).contains("is back"), "{guard:?}");
    node.spawn();
    assert_eq!(running(&node), old);
    assert!(node.ok(&["agent", "status"]).contains("rolled back"));
    unnoticed(&node, before);
    node.finish();
}

#[test]
fn hosts_are_upgraded_one_after_the_other_until_one_fails() {
    let nodes: Vec<Node> = (0..3).map(|n| unkeyed(&format!("upgrade-fleet-{n}"), n != 1)).collect();
    let file = signed(&nodes[0], "version=9.0.0");
    // One key for all, but for the second host, which has none.
    std::fs::copy(nodes[0].dir.join("pki/release.pub"), nodes[2].dir.join("pki/release.pub")).expect("key");
    let config = nodes[0].scratch().join("fleet.toml");
    let text: String = nodes
        .iter()
        .enumerate()
        .map(|(n, node)| {
            let identity = node.pki.identity("admin");
            crate::harness::agent::context_toml(&format!("h{n}"), &node.endpoint(), &node.pki.ca(), &identity)
        })
        .collect();
    std::fs::write(&config, text).expect("config");
    let ctl = |more: &[&str]| {
        let mut command = std::process::Command::new(crate::harness::pki::ctl_binary());
        command.env("BERTH_CONFIG", &config).args(["-H", "h0,h1,h2", "agent", "upgrade"]).args(more).arg(&file);
        crate::harness::agent::run(&mut command)
    };
    let output = ctl(&[]);
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("left as it is"), "{output:?}");
    let versions: Vec<bool> = nodes.iter().map(|n| running(n) == "9.0.0").collect();
    assert_eq!(versions, [true, false, false]);
    let output = ctl(&["--max-failures", "1", "--max-parallel", "2"]);
    assert_eq!(output.code, 3, "{output:?}");
    let versions: Vec<bool> = nodes.iter().map(|n| running(n) == "9.0.0").collect();
    assert_eq!(versions, [true, false, true]);
    nodes.into_iter().for_each(Node::finish);
}
