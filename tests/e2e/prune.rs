//! Freeing space: prunes, what takes the disk, and the collection by policy; also beside creations.

use crate::harness::{Node, image, until};
use berth::v1;
use std::sync::atomic::{AtomicBool, Ordering};

fn names(node: &Node) -> Vec<String> {
    let mut names: Vec<String> = node.ok(&["ps", "-a", "-o", "name"]).lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn stopped_containers_go_and_running_ones_stay() {
    let node = Node::with_busybox("prune-containers");
    let busybox = image("busybox");
    node.detached(&["--name", "runs"], "while :; do sleep 1; done");
    node.ok(&["create", "--name", "made", "--network", "none", "-l", "keep=yes", &busybox, "true"]);
    node.ok(&[
        "run",
        "--name",
        "ended",
        "--network",
        "none",
        &busybox,
        "dd",
        "if=/dev/zero",
        "of=/f",
        "bs=1M",
        "count=3",
    ]);
    let error = node.fails(125, &["container", "prune"]);
    assert!(error.contains("-f"), "{error}");
    node.fails(125, &["container", "prune", "--filter", "colour=red"]);
    let told = node.ok(&["container", "prune", "--dry-run"]);
    assert!(told.contains("would remove container ended") && told.contains("container made"), "{told}");
    assert!(told.contains("3.15MB") && !told.contains("runs"), "{told}");
    assert_eq!(names(&node), ["ended", "made", "runs"]);
    node.ok(&["container", "prune", "-f", "--filter", "until=1h"]);
    assert_eq!(names(&node), ["ended", "made", "runs"], "nothing is an hour old");
    let id = node.inspect("ended")["Id"].as_str().expect("id").to_owned();
    let gone = node.ok(&["container", "prune", "-f", "--filter", "label!=keep"]);
    assert!(gone.starts_with("Deleted Containers:") && gone.contains(&id), "{gone}");
    assert!(gone.ends_with("Total reclaimed space: 3.15MB"), "{gone}");
    assert_eq!(names(&node), ["made", "runs"]);
    node.ok(&["container", "prune", "-f", "--filter", "label=keep=no"]);
    assert_eq!(names(&node), ["made", "runs"]);
    let json = node.ok(&["container", "prune", "-f", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["Type"].as_str(), json["Name"].as_str()), (Some("container"), Some("made")), "{json}");
    assert_eq!(node.ok(&["container", "prune", "-f"]), "Total reclaimed space: 0B");
    node.finish();
}

#[test]
fn images_without_a_name_go_and_with_all_every_unused_one() {
    let node = Node::with_busybox("prune-images");
    let busybox = image("busybox");
    node.ok(&["pull", "-q", &image("layered")]);
    node.ok(&["tag", &image("layered"), "mine:1"]);
    // The name moves: what it led to is left without one.
    node.ok(&["rmi", &image("layered")]);
    node.ok(&["tag", &busybox, "mine:1"]);
    assert_eq!(node.ok(&["images", "-q", "--filter", "dangling=true"]).lines().count(), 1);
    node.detached(&["--name", "user"], "while :; do sleep 1; done");
    let told = node.ok(&["image", "prune", "--dry-run"]);
    assert!(told.contains("would remove image <none>") && !told.contains("busybox"), "{told}");
    let gone = node.ok(&["image", "prune", "-f"]);
    assert!(
        gone.starts_with("Deleted Images:\ndeleted: sha256:") && gone.contains("Total reclaimed space: 8"),
        "{gone}"
    );
    node.ok(&["pull", "-q", &image("mixed")]);
    assert_eq!(node.ok(&["image", "prune", "-f"]), "Total reclaimed space: 0B", "what is left has names");
    let gone = node.ok(&["image", "prune", "-a", "-f"]);
    assert!(gone.contains(&format!("untagged: {}", image("mixed"))) && !gone.contains("busybox"), "{gone}");
    node.ok(&["stop", "-t", "0", "user"]);
    let told = node.ok(&["system", "prune", "-a", "--dry-run"]);
    assert!(told.contains("container user") && !told.contains("image"), "its container is still there: {told}");
    let gone = node.ok(&["system", "prune", "-a", "-f"]);
    assert!(gone.contains("Deleted Containers:") && gone.contains("Deleted Images:"), "{gone}");
    assert_eq!((names(&node).len(), node.ok(&["images", "-q"])), (0, String::new()));
    let layers = node.data().join("layers/layers/sha256");
    assert_eq!(std::fs::read_dir(layers).expect("layers").count(), 0);
    node.finish();
}

#[test]
fn what_takes_the_disk_is_told_once() {
    let node = Node::with_busybox("prune-df");
    node.ok(&["tag", &image("busybox"), "same:1"]);
    node.detached(&["--name", "writer"], "dd if=/dev/zero of=/f bs=1M count=2; echo done; while :; do sleep 1; done");
    until("it has written", || node.ctl(&["logs", "writer"]).stdout.contains("done"));
    let sums =
        || -> serde_json::Value { serde_json::from_str(&node.ok(&["system", "df", "-o", "json"])).expect("JSON") };
    let of = |sums: &serde_json::Value, kind: &str| {
        sums.as_array().and_then(|list| list.iter().find(|s| s["Type"] == kind).cloned()).expect(kind)
    };
    let df = sums();
    let images = of(&df, "Images");
    assert_eq!((images["TotalCount"].as_u64(), images["Active"].as_u64()), (Some(1), Some(1)), "{df}");
    assert_eq!(images["ReclaimableBytes"], 0, "{df}");
    assert_eq!(of(&df, "Containers")["SizeBytes"], 2 << 20, "{df}");
    assert!(of(&df, "Logs")["SizeBytes"].as_u64().is_some_and(|n| n > 0), "{df}");
    assert!(of(&df, "Database")["SizeBytes"].as_u64().is_some_and(|n| n > 0), "{df}");
    node.ok(&["stop", "-t", "0", "writer"]);
    assert_eq!(of(&sums(), "Containers")["ReclaimableBytes"], 2 << 20);
    assert!(node.ok(&["ps", "-a", "-s"]).contains("2.1MB (virtual "));
    let all = node.ok(&["system", "df", "-v"]);
    assert!(all.contains("writer") && all.contains("same:1"), "{all}");
    node.ok(&["rm", "writer"]);
    let df = sums();
    assert_eq!(of(&df, "Images")["ReclaimableBytes"], of(&df, "Images")["SizeBytes"], "{df}");
    node.finish();
}

#[test]
fn a_policy_says_what_goes_and_why() {
    let policy = "[gc]\nstopped_containers_after = \"1s\"\nunused_images_after = \"1s\"\nkeep_labels = [\"keep\"]\nkeep_images = [\"*busybox*\"]";
    let node = Node::builder("prune-policy").table(policy).start();
    let busybox = image("busybox");
    node.ok(&["pull", "-q", &busybox]);
    node.ok(&["pull", "-q", &image("mixed")]);
    for (name, label) in [("old", "x"), ("kept", "keep")] {
        node.ok(&["run", "--name", name, "--network", "none", "-l", label, &busybox, "true"]);
    }
    node.detached(&["--name", "runs"], "while :; do sleep 1; done");
    until("it is old enough", || node.ok(&["system", "gc", "--dry-run"]).contains("container old"));
    until("the image is old enough", || node.ok(&["system", "gc", "--dry-run"]).contains("image"));
    assert_eq!(names(&node), ["kept", "old", "runs"], "a dry run removes nothing");
    let gone = node.ok(&["system", "gc"]);
    assert!(gone.contains("removed container old") && gone.contains("stopped ") && gone.contains("/mixed:"), "{gone}");
    assert!(gone.contains("unused for"), "{gone}");
    assert_eq!(names(&node), ["kept", "runs"]);
    assert!(node.ok(&["images", "-o", "name"]).contains("busybox"), "its name keeps it");
    let events = node.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "event=gc"]);
    assert!(events.contains("containers=1") && events.contains("images=1"), "{events}");
    node.finish();
}

#[test]
fn a_full_disk_is_eased_by_what_nobody_uses_and_only_then() {
    let policy = "[gc]\nhigh_watermark = 1\nlow_watermark = 0\ninterval = \"1s\"";
    let node = Node::builder("prune-pressure").small_disk(64).table(policy).start();
    node.ok(&["run", "-d", "--name", "user", "--network", "none", &image("busybox"), "sleep", "1000"]);
    node.ok(&["pull", "-q", &image("layered")]);
    until("the unused image goes by itself", || node.ok(&["images", "-q"]).lines().count() == 1);
    assert_eq!(node.ok(&["exec", "user", "echo", "well"]), "well");
    node.finish();
}

/// Creations, each with its image fetched or found, while everything unused is collected all the time.
#[test]
fn collections_never_break_a_creation() {
    let node = Node::with_busybox("prune-race");
    let done = AtomicBool::new(false);
    let images = [image("busybox"), image("mixed"), image("layered")];
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                let output = node.ctl(&["system", "prune", "-a", "-f"]);
                assert_eq!(output.code, 0, "{output:?}");
                rounds += 1;
            }
            rounds
        });
        let makers: Vec<_> = (0..3)
            .map(|n| {
                let (node, images) = (&node, &images);
                scope.spawn(move || {
                    for round in 0..12 {
                        let word = format!("{n}-{round}");
                        let image = &images[(n + round) % images.len()];
                        let mut arguments = vec!["run", "--network", "none"];
                        if round % 2 == 0 {
                            arguments.push("--rm");
                        }
                        arguments.extend([image.as_str(), "echo", &word]);
                        let output = node.ctl(&arguments);
                        assert_eq!((output.code, output.stdout.trim()), (0, word.as_str()), "{image}: {output:?}");
                    }
                })
            })
            .collect();
        let failed: Vec<_> = makers.into_iter().filter_map(|maker| maker.join().err()).collect();
        done.store(true, Ordering::Relaxed);
        let rounds: u32 = collector.join().expect("the collector");
        if let Some(panic) = failed.into_iter().next() {
            std::panic::resume_unwind(panic);
        }
        assert!(rounds > 3, "{rounds} rounds beside the creations");
    });
    node.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_is_asked_for_twice_is_done_once() {
    let node = Node::with_busybox("prune-twice");
    let mut containers = node.containers().await;
    node.ok(&["create", "--name", "one", "--network", "none", &image("busybox")]);
    let request = v1::PruneContainersRequest { request_id: "prune-1".into(), ..Default::default() };
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut stream = containers.prune(request.clone()).await.expect("prune").into_inner();
        let mut kinds = Vec::new();
        while let Some(answer) = stream.message().await.expect("answer") {
            kinds.push(answer.kind.expect("kind"));
        }
        answers.push(kinds);
        node.ok(&["create", "--network", "none", &image("busybox")]);
    }
    use v1::prune_containers_response::Kind;
    assert!(
        matches!(&answers[0][..], [Kind::Item(i), Kind::Total(t)] if i.name == "one" && t.containers == 1),
        "{answers:?}"
    );
    assert!(matches!(&answers[1][..], [Kind::Total(t)] if t.containers == 1), "the first answer again: {answers:?}");
    assert_eq!(names(&node).len(), 2, "what was made since is still there");
    drop(containers);
    node.finish();
}
