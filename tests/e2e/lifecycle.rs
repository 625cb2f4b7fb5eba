//! Create, start, stop, kill, wait, remove; names and idempotency.

use crate::harness::{Node, image, until};
use berth::v1;

const IDLE: &str = "while :; do sleep 1; done";

fn state(node: &Node, container: &str) -> String {
    node.inspect(container)["State"]["Status"].as_str().expect("state").to_owned()
}

#[test]
fn a_whole_life() {
    let node = Node::with_busybox("life-whole");
    let id = node.ok(&[
        "create",
        "--name",
        "box",
        "--network",
        "none",
        &image("busybox"),
        "sh",
        "-c",
        "trap 'exit 3' TERM; while :; do sleep 0.1; done",
    ]);
    assert_eq!((id.len(), state(&node, "box").as_str()), (64, "created"));
    assert_eq!(node.ok(&["start", "box"]), "box");
    node.ok(&["start", "box"]);
    assert_eq!(state(&node, &id[..12]), "running");
    assert!(node.fails(1, &["rm", "box"]).contains("running"));
    node.ok(&["stop", "box"]);
    node.ok(&["stop", "box"]);
    assert_eq!(state(&node, "box"), "exited");
    assert_eq!(node.ok(&["wait", "box"]), "3");
    node.ok(&["start", "box"]);
    assert_eq!(state(&node, "box"), "running");
    node.ok(&["kill", "box"]);
    assert_eq!(node.ok(&["wait", "box"]), "137");
    assert!(node.fails(1, &["kill", "box"]).contains("not running"));
    node.ok(&["rm", "box"]);
    assert!(node.fails(1, &["inspect", "box"]).contains("box"));
    node.finish();
}

#[test]
fn stop_signals() {
    let node = Node::with_busybox("life-signals");
    let script = "trap 'exit 4' INT; trap 'exit 5' USR2; while :; do sleep 0.1; done";
    node.detached(&["--name", "own", "--stop-signal", "SIGINT"], script);
    node.ok(&["stop", "own"]);
    assert_eq!(node.ok(&["wait", "own"]), "4");
    node.detached(&["--name", "asked"], script);
    node.ok(&["stop", "-s", "USR2", "asked"]);
    assert_eq!(node.ok(&["wait", "asked"]), "5");
    node.detached(&["--name", "deaf"], "trap '' TERM; while :; do sleep 0.1; done");
    node.ok(&["stop", "-t", "1", "deaf"]);
    assert_eq!(node.ok(&["wait", "deaf"]), "137");
    node.finish();
}

#[test]
fn names_are_given_once_and_come_free_again() {
    let node = Node::with_busybox("life-names");
    node.detached(&["--name", "one"], IDLE);
    let error = node.fails(125, &["run", "-d", "--name", "one", "--network", "none", &image("busybox"), "true"]);
    assert!(error.contains("in use"), "{error}");
    node.ok(&["rm", "-f", "one"]);
    node.detached(&["--name", "one"], IDLE);
    let id = node.ok(&["create", "--network", "none", &image("busybox")]);
    let made_up = node.inspect(&id)["Name"].as_str().expect("name").to_owned();
    assert!(made_up.len() > 2 && made_up != id, "{made_up}");
    assert_eq!(node.ok(&["ps", "-a", "-q", "--no-trunc", "--filter", &format!("name={made_up}")]), id);
    node.finish();
}

#[test]
fn the_writable_layer_lives_as_long_as_the_container() {
    let node = Node::with_busybox("life-layer");
    node.ok(&[
        "create",
        "--name",
        "box",
        "--network",
        "none",
        &image("busybox"),
        "sh",
        "-c",
        "cat /kept 2>/dev/null; echo x >> /kept",
    ]);
    for expected in ["", "x\n", "x\nx\n"] {
        node.ok(&["start", "box"]);
        node.ok(&["wait", "box"]);
        let all = node.ctl(&["logs", "box"]).stdout;
        assert!(all.ends_with(expected), "{all:?}");
    }
    assert_eq!(node.ctl(&["logs", "box"]).stdout, "x\nx\nx\n");
    node.finish();
}

#[test]
fn auto_remove_takes_the_container_away() {
    let node = Node::with_busybox("life-autoremove");
    node.ok(&["run", "-d", "--rm", "--name", "box", "--network", "none", &image("busybox"), "sleep", "0.2"]);
    until("it is gone", || node.ctl(&["inspect", "box"]).code != 0);
    node.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_id_gives_the_same_container() {
    let node = Node::with_busybox("life-idempotent");
    let mut containers = node.containers().await;
    let request = |id: &str, name: &str| v1::CreateContainerRequest {
        request_id: id.into(),
        config: Some(v1::ContainerConfig {
            image: image("busybox"),
            name: name.into(),
            command: vec!["true".into()],
            network: v1::NetworkMode::None as i32,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut create = async |id: &str, name: &str| -> Result<String, tonic::Status> {
        let mut stream = containers.create(request(id, name)).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if let Some(v1::create_container_response::Kind::Created(created)) = message.kind {
                return Ok(created.id);
            }
        }
        panic!("no answer");
    };
    let first = create("r1", "named").await.expect("create");
    assert_eq!(create("r1", "named").await.expect("again"), first);
    assert_eq!(create("r2", "named").await.expect_err("name").code(), tonic::Code::AlreadyExists);
    assert_ne!(create("r3", "other").await.expect("create"), first);
    for _ in 0..2 {
        let start = v1::StartContainerRequest { request_id: "s1".into(), container: first.clone() };
        containers.start(start).await.expect("start");
    }
    let wait = containers
        .wait(v1::WaitContainerRequest { container: first.clone(), ..Default::default() })
        .await
        .expect("wait")
        .into_inner();
    assert_eq!(wait.exit.expect("exit").code, 0);
    for expected in [first.as_str(), ""] {
        let remove = v1::RemoveContainerRequest {
            request_id: format!("remove-{}", expected.len()),
            container: first.clone(),
            force: false,
            volumes: false,
        };
        assert_eq!(containers.remove(remove).await.expect("remove").into_inner().id, expected);
    }
    let stop = v1::StopContainerRequest { container: first, ..Default::default() };
    assert!(containers.stop(stop).await.expect("stop of what is gone").into_inner().already_stopped);
    drop(containers);
    node.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_reasons_and_fields() {
    use tonic_types::StatusExt;
    let node = Node::with_busybox("life-errors");
    let mut containers = node.containers().await;
    let error =
        containers.inspect(v1::InspectContainerRequest { container: "nobody".into() }).await.expect_err("not found");
    assert_eq!(error.code(), tonic::Code::NotFound);
    let info = error.get_details_error_info().expect("ErrorInfo");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("CONTAINER_NOT_FOUND", "berth.dev"));
    let config = v1::ContainerConfig {
        image: "UPPER//bad".into(),
        name: "!".into(),
        workdir: "relative".into(),
        env: vec!["=x".into()],
        cap_add: vec!["NOTHING".into()],
        stop_signal: "SIGNOPE".into(),
        ..Default::default()
    };
    let request = v1::CreateContainerRequest { config: Some(config), ..Default::default() };
    let error = match containers.create(request).await {
        Err(error) => error,
        Ok(stream) => stream.into_inner().message().await.expect_err("invalid"),
    };
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error:?}");
    let fields: Vec<String> =
        error.get_details_bad_request().expect("BadRequest").field_violations.into_iter().map(|v| v.field).collect();
    for word in ["image", "name", "workdir", "env", "cap_add", "stop_signal"] {
        assert!(fields.iter().any(|f| f.contains(word)), "{word} in {fields:?}");
    }
    drop(containers);
    node.finish();
}

#[test]
fn filters_of_ps() {
    let node = Node::with_busybox("life-filters");
    node.detached(&["--name", "alpha", "-l", "tier=web"], IDLE);
    node.detached(&["--name", "beta", "-l", "tier=db"], "exit 3");
    node.ok(&["wait", "beta"]);
    let names = |arguments: &[&str]| {
        let mut all = vec!["ps", "-o", "name"];
        all.extend(arguments);
        let mut names: Vec<String> = node.ok(&all).lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(&[]), ["alpha"]);
    assert_eq!(names(&["-a"]), ["alpha", "beta"]);
    assert_eq!(names(&["-a", "--filter", "label=tier=db"]), ["beta"]);
    assert_eq!(names(&["-a", "--filter", "status=exited"]), ["beta"]);
    assert_eq!(names(&["-a", "--filter", "exited=3"]), ["beta"]);
    assert_eq!(names(&["-a", "--filter", "name=alp"]), ["alpha"]);
    node.finish();
}

#[test]
fn events_tell_the_story_and_the_cursor_lasts() {
    let mut node = Node::with_busybox("life-events");
    node.sh(&["--name", "story"], "true");
    let actions = |node: &Node| -> Vec<String> {
        let text = node.ok(&["events", "--since", "1h", "--until", "0s", "-o", "json"]);
        text.lines()
            .map(|l| {
                serde_json::from_str::<serde_json::Value>(l).expect("NDJSON")["Action"]
                    .as_str()
                    .expect("action")
                    .to_owned()
            })
            .collect()
    };
    until("the container is gone", || actions(&node).contains(&"destroy".to_owned()));
    let before = actions(&node);
    let positions: Vec<usize> = ["pull", "create", "start", "die", "destroy"]
        .iter()
        .map(|a| before.iter().rposition(|b| b == a).unwrap_or_else(|| panic!("{a} in {before:?}")))
        .collect();
    assert!(positions.is_sorted(), "{before:?}");
    node.restart();
    assert!(actions(&node).starts_with(&before), "history survives the agent");
    node.finish();
}
