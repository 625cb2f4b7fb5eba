//! Restart, pause, rename, update, top, port: what is done to a container between its start and its end.

use crate::harness::{Node, until};
use berth::v1;

const IDLE: &str = "while :; do sleep 1; done";

fn state(node: &Node, container: &str) -> String {
    node.inspect(container)["State"]["Status"].as_str().expect("state").to_owned()
}

fn pid(node: &Node, container: &str) -> u64 {
    node.inspect(container)["State"]["Pid"].as_u64().expect("pid")
}

fn actions(node: &Node, container: &str) -> Vec<String> {
    let text = node.ok(&["events", "--since", "1h", "--until", "0s", "-o", "json"]);
    let events = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("NDJSON"));
    let of_it = events.filter(|e| e["ID"] == container || e["Attributes"]["name"] == container);
    of_it.map(|e| e["Action"].as_str().expect("action").to_owned()).collect()
}

/// Counts lines of a file that the container appends to, five a second.
const TICKING: &str = "trap 'exit 7' TERM; while :; do echo x >> /ticks; sleep 0.2; done";

fn ticks(node: &Node, id: &str) -> usize {
    let upper = node.inspect(id)["UpperDir"].as_str().expect("upper").to_owned();
    std::fs::read_to_string(format!("{upper}/ticks")).map_or(0, |t| t.lines().count())
}

#[test]
fn restart_is_a_stop_and_a_start() {
    let node = Node::with_busybox("verbs-restart");
    let script = "echo x >> /starts; trap 'exit 3' TERM; trap 'exit 4' USR1; while :; do sleep 0.1; done";
    let id = node.detached(&["--name", "box"], script);
    let before = pid(&node, "box");
    assert_eq!(node.ok(&["restart", "box"]), "box");
    assert_eq!((state(&node, "box").as_str(), node.inspect("box")["Id"].as_str()), ("running", Some(id.as_str())));
    assert_ne!(pid(&node, "box"), before);
    assert_eq!(node.ok(&["exec", "box", "wc", "-l", "/starts"]).split(' ').next(), Some("2"), "its files stay");
    let told = actions(&node, &id);
    let mut at = 0;
    for action in ["kill", "die", "stop", "start", "restart"] {
        let found = told[at..].iter().position(|a| a == action);
        at += found.unwrap_or_else(|| panic!("{action} behind {at} in {told:?}")) + 1;
    }
    // With another signal, and with a kill where the signal is not felt.
    node.until_trapped("box", script);
    node.ok(&["restart", "-s", "USR1", "-t", "20", "box"]);
    let codes = node.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "event=die", "-o", "json"]);
    let last: serde_json::Value = serde_json::from_str(codes.lines().last().expect("a death")).expect("json");
    assert_eq!(last["Attributes"]["exit_code"], "4");
    node.detached(&["--name", "deaf"], "trap '' TERM; while :; do sleep 0.1; done");
    node.ok(&["restart", "-t", "0", "deaf"]);
    assert_eq!(state(&node, "deaf"), "running");
    // One that does not run is started; several at once; one that is not there fails alone.
    node.ok(&["stop", "-t", "0", "deaf"]);
    let output = node.ctl(&["restart", "-t", "1", "deaf", "nobody", "box"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, "deaf\nbox\n"), "{output:?}");
    assert!(output.stderr.contains("nobody"), "{output:?}");
    assert_eq!((state(&node, "deaf").as_str(), state(&node, "box").as_str()), ("running", "running"));
    node.finish();
}

#[test]
fn a_restart_does_not_remove_what_removes_itself() {
    let node = Node::with_busybox("verbs-restart-rm");
    let id = node.detached(&["--rm", "--name", "box"], "trap 'exit 3' TERM; while :; do sleep 0.1; done");
    node.ok(&["restart", "box"]);
    assert_eq!((node.inspect("box")["Id"].as_str(), state(&node, "box").as_str()), (Some(id.as_str()), "running"));
    node.ok(&["stop", "-t", "1", "box"]);
    until("it is gone behind its real end", || node.ctl(&["inspect", "box"]).code != 0);
    node.finish();
}

#[test]
fn a_paused_container_stands_still_and_goes_on() {
    let node = Node::with_busybox("verbs-pause");
    let id = node.detached(&["--name", "box"], TICKING);
    until("it writes", || ticks(&node, &id) > 1);
    assert_eq!(node.ok(&["pause", "box"]), "box");
    let (before, seen) = (pid(&node, "box"), ticks(&node, &id));
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(ticks(&node, &id), seen, "nothing of it runs");
    assert_eq!(state(&node, "box"), "paused");
    let inspect = node.inspect("box");
    assert_eq!((&inspect["State"]["Paused"], &inspect["State"]["Running"]), (&true.into(), &true.into()));
    assert!(node.ok(&["ps"]).contains("(Paused)"));
    assert_eq!(node.ok(&["ps", "-o", "name", "--filter", "status=paused"]), "box");
    assert_eq!(node.ok(&["ps", "-o", "name", "--filter", "status=running"]), "");
    node.ok(&["pause", "box"]);
    let refused = node.fails(125, &["exec", "box", "true"]);
    assert!(refused.contains("paused") && refused.contains("unpause"), "{refused}");
    assert_eq!(node.ok(&["unpause", "box"]), "box");
    until("it goes on", || ticks(&node, &id) > seen);
    assert_eq!((state(&node, "box").as_str(), pid(&node, "box")), ("running", before));
    node.ok(&["unpause", "box"]);
    assert_eq!(node.ok(&["exec", "box", "echo", "again"]), "again");
    let told = actions(&node, &id);
    assert_eq!(told.iter().filter(|a| *a == "pause").count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|a| *a == "unpause").count(), 1, "{told:?}");
    node.ok(&["stop", "-t", "2", "box"]);
    assert!(node.fails(1, &["pause", "box"]).contains("not running"));
    assert!(node.fails(1, &["unpause", "box"]).contains("not running"));
    node.finish();
}

#[test]
fn processes_that_fork_all_the_time_are_frozen_too() {
    let node = Node::with_busybox("verbs-pause-fork");
    let script = "for i in 1 2 3; do (while :; do (echo x >> /ticks$i); done) & done; wait";
    let id = node.detached(&[], script);
    let upper = node.inspect(&id)["UpperDir"].as_str().expect("upper").to_owned();
    let size =
        || -> u64 { (1..=3).map(|i| std::fs::metadata(format!("{upper}/ticks{i}")).map_or(0, |m| m.len())).sum() };
    until("it writes", || size() > 100);
    for _ in 0..5 {
        node.ok(&["pause", &id]);
        let seen = size();
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(size(), seen, "nothing of it runs");
        node.ok(&["unpause", &id]);
        until("it goes on", || size() > seen);
    }
    node.finish();
}

#[test]
fn signals_reach_a_paused_container() {
    let node = Node::with_busybox("verbs-pause-signals");
    let catching = "trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let paused = |name: &str| {
        node.detached(&["--name", name], catching);
        node.ok(&["pause", name]);
    };
    paused("stopped");
    node.ok(&["stop", "stopped"]);
    assert_eq!(node.ok(&["wait", "stopped"]), "7", "it has felt the signal, not the kill");
    assert_eq!(state(&node, "stopped"), "exited");
    paused("killed");
    node.ok(&["kill", "killed"]);
    assert_eq!(node.ok(&["wait", "killed"]), "137");
    paused("told");
    node.ok(&["kill", "-s", "TERM", "told"]);
    assert_eq!(node.ok(&["wait", "told"]), "7");
    paused("restarted");
    node.ok(&["restart", "restarted"]);
    assert_eq!(state(&node, "restarted"), "running");
    node.ok(&["pause", "restarted"]);
    node.ok(&["stop", "-t", "0", "restarted"]);
    paused("removed");
    node.ok(&["rm", "-f", "removed"]);
    assert_ne!(node.ctl(&["inspect", "removed"]).code, 0);
    node.finish();
}

#[test]
fn a_paused_container_stays_so_without_the_agent() {
    let mut node = Node::with_busybox("verbs-pause-survive");
    let id = node.detached(&["--name", "box"], TICKING);
    node.detached(&["--name", "other"], IDLE);
    until("it writes", || ticks(&node, &id) > 1);
    node.ok(&["pause", "box"]);
    let seen = ticks(&node, &id);
    node.restart();
    assert_eq!((state(&node, "box").as_str(), state(&node, "other").as_str()), ("paused", "running"));
    assert_eq!(ticks(&node, &id), seen);
    node.ok(&["unpause", "box"]);
    until("it goes on", || ticks(&node, &id) > seen);
    node.restart();
    assert_eq!(state(&node, "box"), "running");
    node.ok(&["pause", "box"]);
    node.restart();
    node.ok(&["stop", "box"]);
    assert_eq!(node.ok(&["wait", "box"]), "7");
    node.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_containers_are_found_by_the_new_name_alone() {
    let mut node = Node::with_busybox("verbs-rename");
    let id = node.detached(&["--name", "one"], IDLE);
    node.detached(&["--name", "taken"], IDLE);
    node.ok(&["rename", "one", "two"]);
    assert_eq!(node.inspect("two")["Id"].as_str(), Some(id.as_str()));
    assert_ne!(node.ctl(&["inspect", "one"]).code, 0);
    assert!(node.fails(1, &["rename", "two", "taken"]).contains("in use"));
    assert!(node.fails(1, &["rename", "two", "no good"]).contains("no good"));
    assert_eq!(node.inspect("two")["Id"].as_str(), Some(id.as_str()), "a refusal changes nothing");
    node.ok(&["rename", "two", "two"]);
    // The old name is free, and the same request is done once though the name means another by now.
    let mut containers = node.containers().await;
    let request = v1::RenameContainerRequest { request_id: "r1".into(), container: "two".into(), name: "three".into() };
    containers.rename(request.clone()).await.expect("rename");
    let other = node.detached(&["--name", "two"], IDLE);
    assert_eq!(containers.rename(request).await.expect("again").into_inner().id, id);
    assert_eq!(node.inspect("two")["Id"].as_str(), Some(other.as_str()));
    let request = v1::RenameContainerRequest { container: "two".into(), name: "taken".into(), ..Default::default() };
    assert_eq!(containers.rename(request).await.expect_err("taken").code(), tonic::Code::AlreadyExists);
    drop(containers);
    assert!(actions(&node, &id).contains(&"rename".to_owned()));
    node.restart();
    assert_eq!((node.inspect("three")["Id"].as_str(), state(&node, "three").as_str()), (Some(id.as_str()), "running"));
    assert_ne!(node.ctl(&["inspect", "one"]).code, 0);
    // Stopped ones, too; and it is removed by its new name.
    node.ok(&["stop", "-t", "0", "three"]);
    node.ok(&["rename", "three", "one"]);
    node.ok(&["rm", "one"]);
    node.detached(&["--name", "three"], IDLE);
    node.detached(&["--name", "one"], IDLE);
    node.finish();
}

#[test]
fn ports_are_listed_as_docker_lists_them() {
    let node = Node::with_busybox("verbs-port");
    let (first, second) = (node.slot.port(0), node.slot.port(1));
    let publish = [format!("{first}:80"), format!("127.0.0.1:{second}:53/udp")];
    let options = ["--name", "box", "--network", "bridge", "-p", &publish[0], "-p", &publish[1]];
    node.detached(&options, IDLE);
    let all = format!("53/udp -> 127.0.0.1:{second}\n80/tcp -> 0.0.0.0:{first}");
    assert_eq!(node.ok(&["port", "box"]), all);
    assert_eq!(node.ok(&["port", "box", "80/tcp"]), format!("0.0.0.0:{first}"));
    assert_eq!(node.ok(&["port", "box", "80"]), format!("0.0.0.0:{first}"));
    assert!(node.fails(1, &["port", "box", "80/udp"]).contains("80/udp"));
    let json: serde_json::Value = serde_json::from_str(&node.ok(&["port", "box", "-o", "json"])).expect("json");
    assert_eq!(json[1]["HostAddress"], format!("0.0.0.0:{first}"), "{json}");
    node.ok(&["stop", "-t", "0", "box"]);
    assert_eq!(node.ok(&["port", "box"]), "");
    node.finish();
}

#[test]
fn the_verbs_work_on_many_hosts() {
    let nodes = [Node::with_busybox("verbs-many-a"), Node::with_busybox("verbs-many-b")];
    for node in &nodes {
        node.detached(&["--name", "box"], IDLE);
    }
    let two = crate::harness::agent::context_toml(
        "two",
        &nodes[1].endpoint(),
        &nodes[1].pki.ca(),
        &nodes[1].pki.identity("admin"),
    );
    let path = nodes[0].dir.join("config.toml");
    let config = std::fs::read_to_string(&path).expect("config") + &two;
    std::fs::write(&path, config).expect("config");
    let both = |arguments: &[&str]| {
        let mut all = vec!["-H", "test,two"];
        all.extend(arguments);
        let output = nodes[0].ctl(&all);
        let mut lines: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        (output.code, lines)
    };
    for verb in [&["pause", "box"][..], &["unpause", "box"], &["restart", "-t", "0", "box"]] {
        assert_eq!(both(verb), (0, vec!["test | box".to_owned(), "two  | box".to_owned()]), "{verb:?}");
    }
    nodes[1].ok(&["rename", "box", "elsewhere"]);
    assert_eq!(both(&["pause", "box"]), (3, vec!["test | box".to_owned()]), "one of two has it");
    assert_eq!(both(&["pause", "nobody"]).0, 4);
    for node in nodes {
        node.finish();
    }
}
