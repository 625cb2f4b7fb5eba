//! A registry that misbehaves.

use crate::harness::proxy::{Fault, Proxy};
use crate::harness::{Node, registry, until};
use std::process::Stdio;
use std::time::Duration;

fn setup(name: &str) -> (Proxy, Node) {
    let proxy = Proxy::start(registry());
    let node = Node::builder(name).registry(&proxy.address).start();
    (proxy, node)
}

fn works(node: &Node, proxy: &Proxy) {
    let output = node.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--pull",
        "never",
        &proxy.image("layered"),
        "sh",
        "-c",
        "wc -c < /noise",
    ]);
    assert_eq!(output, "8388608");
}

/// The blob of 8 MiB: its digest, found as the largest answer.
fn large_blob(node: &Node, proxy: &Proxy) -> String {
    node.ok(&["pull", "-q", &proxy.image("layered")]);
    let text = node.ok(&["inspect", "--type", "image", "-o", "json", &proxy.image("layered")]);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let layers = value.get(0).unwrap_or(&value)["Layers"].as_array().expect("layers").clone();
    let size = |l: &serde_json::Value| {
        l["CompressedSize"].as_u64().or_else(|| l["CompressedSize"].as_str()?.parse().ok()).unwrap_or(0)
    };
    let digest = layers.iter().max_by_key(|l| size(l)).expect("layer")["Digest"].as_str().expect("digest").to_owned();
    node.ok(&["rmi", "-f", &proxy.image("layered")]);
    proxy.forget();
    digest
}

#[test]
fn a_cut_connection_is_taken_up_where_it_broke() {
    let (proxy, node) = setup("faults-cut");
    let blob = large_blob(&node, &proxy);
    proxy.rule(&blob, 2, Fault::CutAt(3_000_000));
    node.ok(&["pull", "-q", &proxy.image("layered")]);
    works(&node, &proxy);
    let ranges: Vec<_> = proxy.requests().into_iter().filter(|r| r.path.contains(&blob)).collect();
    assert!(ranges.iter().any(|r| r.range.is_some()), "it resumes by range: {ranges:?}");
    node.finish();
}

#[test]
fn cuts_at_odd_places() {
    let (proxy, node) = setup("faults-bytes");
    for at in [0, 1, 511, 65_536] {
        proxy.rule("/blobs/", 3, Fault::CutAt(at));
        proxy.rule("/manifests/", 1, Fault::CutAt(at));
        node.ok(&["pull", "-q", &proxy.image("layered")]);
        works(&node, &proxy);
        node.ok(&["rmi", "-f", &proxy.image("layered")]);
        proxy.behave();
    }
    node.finish();
}

#[test]
fn a_registry_without_ranges_is_borne() {
    let (proxy, node) = setup("faults-norange");
    let blob = large_blob(&node, &proxy);
    proxy.rule(&blob, 1, Fault::CutAt(2_000_000));
    proxy.rule(&blob, 100, Fault::NoRange);
    node.ok(&["pull", "-q", &proxy.image("layered")]);
    works(&node, &proxy);
    node.finish();
}

#[test]
fn wrong_bytes_never_become_an_image() {
    let (proxy, mut node) = setup("faults-bytes-wrong");
    let blob = large_blob(&node, &proxy);
    for fault in [Fault::Flip, Fault::Shorter, Fault::Longer] {
        proxy.rule(&blob, 1000, fault.clone());
        let output = node.ctl(&["pull", "-q", &proxy.image("layered")]);
        assert_eq!(output.code, 1, "{fault:?}: {output:?}");
        assert!(
            output.stderr.contains(&blob) || output.stderr.contains("digest") || output.stderr.contains("size"),
            "{fault:?}: {output:?}"
        );
        assert_eq!(node.ok(&["images", "-q"]), "", "{fault:?}");
        proxy.behave();
    }
    node.ok(&["pull", "-q", &proxy.image("layered")]);
    works(&node, &proxy);
    proxy.rule("/manifests/", 1000, Fault::Flip);
    node.ok(&["rmi", "-f", &proxy.image("layered")]);
    // An agent that remembers what the tag led to asks whether it still does, and reads its own copy. This one does not.
    node.restart();
    assert_eq!(node.ctl(&["pull", "-q", &proxy.image("layered")]).code, 1);
    node.finish();
}

#[test]
fn busy_and_broken_registries_are_tried_again() {
    let (proxy, node) = setup("faults-status");
    proxy.rule("/manifests/", 1, Fault::Status(503, ""));
    proxy.rule("/blobs/", 2, Fault::Status(500, ""));
    proxy.rule("/blobs/", 1, Fault::Status(429, "Retry-After: 1\r\n"));
    node.ok(&["pull", "-q", &proxy.image("layered")]);
    works(&node, &proxy);
    node.ok(&["rmi", "-f", &proxy.image("layered")]);
    proxy.rule("/blobs/", 100_000, Fault::Status(500, ""));
    let output = node.ctl(&["pull", "-q", &proxy.image("layered")]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("500"), "{output:?}");
    node.finish();
}

#[test]
fn a_401_in_mid_pull_without_a_way_to_log_in_is_refused_by_name() {
    let (proxy, node) = setup("faults-401");
    proxy.rule("/blobs/", 100_000, Fault::Status(401, "WWW-Authenticate: Basic realm=\"test\"\r\n"));
    let output = node.ctl(&["pull", "-q", &proxy.image("layered")]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("credentials") || output.stderr.contains("denied") || output.stderr.contains("401"),
        "{output:?}"
    );
    proxy.behave();
    proxy.forget();
    // Basic credentials of the request answer the challenge, and are written nowhere.
    proxy.rule("/blobs/", 1, Fault::Status(401, "WWW-Authenticate: Basic realm=\"test\"\r\n"));
    node.pull_with_password(&proxy.image("layered"), "s3cr3t-word").expect("pull");
    assert!(
        proxy.requests().iter().any(|r| r.authorization.as_deref() == Some("Basic c29tZW9uZTpzM2NyM3Qtd29yZA==")),
        "{:?}",
        proxy.requests()
    );
    let found = std::process::Command::new("grep")
        .args(["-r", "-l", "-F", "-e", "s3cr3t-word", "-e", "c29tZW9uZTpz"])
        .arg(node.data())
        .arg(node.dir.join("agent.log"))
        .output()
        .expect("grep");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the password is on disk");
    node.finish();
}

#[test]
fn a_stalled_pull_can_be_cancelled_and_taken_up() {
    let (proxy, node) = setup("faults-stall");
    let blob = large_blob(&node, &proxy);
    proxy.rule(&blob, 1000, Fault::Stall);
    let image = proxy.image("layered");
    let mut pull = node
        .ctl_command(&["pull", "-q", &image])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pull");
    until("the stall is reached", || proxy.requests().iter().any(|r| r.path.contains(&blob)));
    crate::harness::agent::signal(pull.id(), "INT");
    let mut ended = None;
    until("the ctl ends", || {
        ended = pull.try_wait().expect("wait");
        ended.is_some()
    });
    proxy.behave();
    node.ok(&["pull", "-q", &image]);
    works(&node, &proxy);
    node.finish();
}

#[test]
fn an_agent_killed_in_mid_pull_goes_on_where_it_was() {
    let (proxy, mut node) = setup("faults-killed");
    let blob = large_blob(&node, &proxy);
    proxy.rule(&blob, 1, Fault::Stall);
    let image = proxy.image("layered");
    let mut pull = node
        .ctl_command(&["pull", "-q", &image])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pull");
    until("half of the blob has come", || proxy.requests().iter().any(|r| r.path.contains(&blob)));
    std::thread::sleep(Duration::from_millis(300));
    node.kill_agent();
    let _ = pull.kill();
    pull.wait().expect("wait");
    proxy.behave();
    proxy.forget();
    node.spawn();
    node.ok(&["pull", "-q", &image]);
    works(&node, &proxy);
    node.finish();
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_when_it_fails() {
    let proxy = Proxy::start(registry());
    let table = format!(
        "[registries.\"{0}\"]\nplain_http = true\nmirrors = [\"http://127.0.0.1:1\", \"http://{1}\"]",
        registry(),
        proxy.address
    );
    let node = Node::builder("faults-mirror").table(&table).start();
    node.ok(&["pull", "-q", &crate::harness::image("busybox")]);
    assert!(!proxy.requests().is_empty(), "the second mirror was asked");
    node.ok(&["rmi", "-f", &crate::harness::image("busybox")]);
    proxy.rule("/", 100_000, Fault::Status(500, ""));
    node.ok(&["pull", "-q", &crate::harness::image("busybox")]);
    node.finish();
}
