//! Images: pull, list, inspect, tag, remove; platforms and references.

use crate::harness::{Node, image, registry, until};
use berth::v1;

#[test]
fn pull_list_inspect_tag_remove() {
    let node = Node::start("images-basic");
    let busybox = image("busybox");
    let pulled = node.ctl(&["pull", &busybox]);
    let pulled = pulled.stdout + &pulled.stderr;
    assert!(pulled.contains("sha256:") && pulled.contains(&busybox), "{pulled}");
    let again = node.ctl(&["pull", &busybox]);
    let again = again.stdout + &again.stderr;
    assert!(again.contains("up to date"), "{again}");
    let table = node.ok(&["images"]);
    assert!(table.contains(&format!("{}/busybox", registry())) && table.contains("latest"), "{table}");
    let inspect: serde_json::Value =
        serde_json::from_str(&node.ok(&["inspect", "--type", "image", "-o", "json", &busybox])).expect("JSON");
    let inspect = inspect.get(0).unwrap_or(&inspect);
    assert_eq!(inspect["Config"]["Cmd"][0], "sh", "{inspect}");
    let id = inspect["Id"].as_str().expect("id").to_owned();
    node.ok(&["tag", &busybox, "mine:1"]);
    assert!(node.ok(&["images"]).contains("mine"));
    assert_eq!(node.ok(&["run", "--rm", "--network", "none", "--pull", "never", "mine:1", "echo", "by tag"]), "by tag");
    let short = &id["sha256:".len()..][..12];
    assert_eq!(node.ok(&["run", "--rm", "--network", "none", "--pull", "never", short, "echo", "by id"]), "by id");
    assert!(node.ok(&["rmi", &busybox]).contains("ntagged"));
    assert_eq!(node.ok(&["run", "--rm", "--network", "none", "--pull", "never", "mine:1", "echo", "still"]), "still");
    assert!(node.ok(&["rmi", "mine:1"]).contains("eleted"));
    assert_eq!(node.ok(&["images", "-q"]), "");
    node.finish();
}

#[test]
fn every_compression_and_both_kinds_of_manifest() {
    let node = Node::start("images-compressions");
    for name in ["busybox", "zstd", "plain", "mixed", "docker"] {
        assert_eq!(node.ok(&["run", "--rm", "--network", "none", &image(name), "echo", name]), name);
    }
    assert_eq!(
        node.ok(&["run", "--rm", "--network", "none", &image("mixed"), "cat", "/layer-1", "/layer-2"]),
        "zstdnone"
    );
    node.finish();
}

#[test]
fn platforms() {
    let node = Node::start("images-platforms");
    let multi = image("multi");
    let marker = |platform: &[&str]| {
        let mut arguments = vec!["pull", "-q"];
        arguments.extend(platform);
        arguments.push(&multi);
        node.ok(&arguments);
        let id = node.ok(&["create", "--network", "none", "--pull", "never", &multi]);
        let architecture: serde_json::Value =
            serde_json::from_str(&node.ok(&["inspect", "--type", "image", "-o", "json", &multi])).expect("JSON");
        let architecture = architecture.get(0).unwrap_or(&architecture).clone();
        node.ok(&["rm", &id]);
        format!(
            "{}{}",
            architecture["Architecture"].as_str().unwrap_or(""),
            architecture["Variant"].as_str().unwrap_or("")
        )
    };
    assert_eq!(marker(&[]), "amd64");
    assert_eq!(node.ok(&["run", "--rm", "--network", "none", &multi]), "amd64");
    assert!(marker(&["--platform", "linux/arm64"]).starts_with("arm64"));
    assert_eq!(marker(&["--platform", "linux/arm/v6"]), "armv6");
    assert_eq!(marker(&["--platform", "linux/arm"]), "armv7");
    let error = node.fails(1, &["pull", "--platform", "linux/s390x", &multi]);
    assert!(error.contains("s390x"), "{error}");
    let error = node.fails(1, &["pull", &image("multi:foreign")]);
    assert!(error.contains("amd64"), "{error}");
    node.finish();
}

#[test]
fn digests_name_exactly_one_image() {
    let node = Node::start("images-digests");
    let digest = node.ok(&["pull", "-q", &image("busybox")]);
    let inspect: serde_json::Value =
        serde_json::from_str(&node.ok(&["inspect", "--type", "image", "-o", "json", &image("busybox")])).expect("JSON");
    let inspect = inspect.get(0).unwrap_or(&inspect);
    let by_digest = inspect["RepoDigests"][0].as_str().expect("digest").to_owned();
    assert!(by_digest.starts_with(&format!("{}/busybox@sha256:", registry())), "{by_digest} {digest}");
    node.ok(&["rmi", "-f", &image("busybox")]);
    node.ok(&["pull", "-q", &by_digest]);
    assert_eq!(node.ok(&["run", "--rm", "--network", "none", &by_digest, "echo", "exact"]), "exact");
    let wrong = format!("{}/busybox@sha256:{}", registry(), "0".repeat(64));
    node.fails(1, &["pull", &wrong]);
    node.finish();
}

#[test]
fn what_is_not_there_is_said_so() {
    let node = Node::start("images-missing");
    let error = node.fails(1, &["pull", &image("no-such")]);
    assert!(error.contains("no-such"), "{error}");
    node.fails(1, &["pull", "127.0.0.1:1/unreachable"]);
    let error = node.fails(125, &["pull", "Not A Reference"]);
    assert!(error.contains("Not A Reference"), "{error}");
    assert!(node.ctl(&["rmi", "no-such"]).code <= 1);
    node.finish();
}

#[test]
fn an_image_in_use_stays() {
    let node = Node::with_busybox("images-in-use");
    node.detached(&["--name", "user"], "while :; do sleep 1; done");
    let error = node.fails(1, &["rmi", &image("busybox")]);
    assert!(error.contains("in use"), "{error}");
    node.ok(&["rm", "-f", "user"]);
    node.ok(&["rmi", &image("busybox")]);
    let left = |folder: &str| std::fs::read_dir(node.data().join("layers").join(folder)).expect("layers").count();
    assert_eq!((left("layers/sha256"), left("ingest")), (0, 0), "layers are left in the store");
    until("the trash is emptied", || left("trash") == 0);
    node.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_layer_by_layer() {
    let node = Node::start("images-progress");
    let mut images = node.images().await;
    let request = v1::PullRequest { reference: image("layered"), ..Default::default() };
    let mut stream = images.pull(request).await.expect("pull").into_inner();
    let (mut last, mut result) = (std::collections::BTreeMap::new(), None);
    while let Some(message) = stream.message().await.expect("progress") {
        assert!(result.is_none(), "the result comes last");
        match message.kind.expect("kind") {
            v1::pull_response::Kind::Progress(p) => {
                assert!(p.total_bytes == 0 || p.current_bytes <= p.total_bytes, "{p:?}");
                if !p.layer.is_empty() {
                    last.insert(p.layer.clone(), p);
                }
            }
            v1::pull_response::Kind::Result(r) => result = Some(r),
        }
    }
    let result = result.expect("result");
    assert_eq!(last.len(), 14, "{last:?}");
    assert!(last.values().all(|p| p.state() == v1::pull_progress::State::Done), "{last:?}");
    assert!(result.fetched_bytes > 8 << 20 && !result.up_to_date && result.digest.starts_with("sha256:"), "{result:?}");
    drop(images);
    node.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_do_the_work_once() {
    let node = Node::start("images-once");
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut images = node.images().await;
        tasks.push(tokio::spawn(async move {
            let request = v1::PullRequest { reference: image("layered"), ..Default::default() };
            let mut stream = images.pull(request).await.expect("pull").into_inner();
            let mut fetched = None;
            while let Some(message) = stream.message().await.expect("progress") {
                if let Some(v1::pull_response::Kind::Result(result)) = message.kind {
                    fetched = Some(result.fetched_bytes);
                }
            }
            fetched.expect("result")
        }));
    }
    let mut most = 0;
    let mut total = 0;
    for task in tasks {
        let fetched = task.await.expect("task");
        (most, total) = (most.max(fetched), total + fetched);
    }
    assert!(total < most + most / 2, "{total} bytes for one image of {most}");
    node.finish();
}

#[test]
fn json_yaml_and_names() {
    let node = Node::with_busybox("images-output");
    let json: serde_json::Value = serde_json::from_str(&node.ok(&["images", "-o", "json"])).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(1), "{json}");
    assert!(node.ok(&["images", "-o", "yaml"]).contains("Tag:"));
    assert_eq!(node.ok(&["images", "-o", "name"]), image("busybox"));
    node.finish();
}
