//! Pulls from registries that behave.

use crate::fake::{Fake, Node, Reply, gzip, layer, noise, sha256};
use berth_image::{ImageError, Progress, ProgressState};
use berth_model::{Platform, Reference};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn pulls_every_kind_of_layer_once() {
    let fake = Fake::honest().await;
    let plain = noise(300_000, 2);
    let zstd_tar = noise(500_000, 3);
    // Members one after the other, as pigz -i and estargz write them, and padding.
    let parts = noise(400_000, 4);
    let mut members = gzip(&parts[..150_000]);
    members.extend(gzip(b""));
    members.extend(gzip(&parts[150_000..]));
    members.extend([0; 512]);
    let layers = [
        layer(700_000, 1),
        ("", plain.clone(), plain),
        ("+zstd", zstd::encode_all(&zstd_tar[..], 3).unwrap(), zstd_tar),
        ("+gzip", members, parts),
        layer(0, 5),
        layer(700_000, 1),
    ];
    let digest = fake.put_image("a/b", &layers);
    let node = Node::new();
    let reference = fake.reference("a/b");
    let pulled = node.pull(&reference).await.unwrap();
    for (_, blob, tar) in &layers {
        assert_eq!(node.layer(tar).as_ref(), Some(tar));
        assert_eq!(fake.blob_requests(blob).len(), usize::from(!blob.is_empty()));
    }
    let record = &pulled.record;
    assert_eq!((&record.manifest, &record.target), (&digest, &digest));
    assert_eq!(record.layers.len(), 6);
    assert_eq!(record.layers[0].size_bytes, 700_000);
    assert_eq!(record.layers[0], record.layers[5]);
    assert_eq!(record.config.cmd, Some(vec!["/bin/x".to_owned()]));
    assert_eq!(record.config.exposed_ports, ["80/tcp"]);
    assert_eq!(record.created.map(|t| t.parts()), Some((1_706_933_106, 0)));
    assert_eq!(record.repo_digests, [format!("{}/a/b@{digest}", fake.address)]);
    assert!(node.partials().is_empty());
    assert!(node.images.read_blob(&digest).unwrap().is_some());
    // Again: one HEAD, no work.
    let before = fake.log.lock().unwrap().len();
    let again = node.pull(&reference).await.unwrap();
    assert_eq!(again.fetched_bytes, 0);
    assert_eq!(again.record.layers, record.layers);
    let log = fake.log.lock().unwrap()[before..].to_vec();
    assert_eq!(log.iter().map(|r| r.method.as_str()).collect::<Vec<_>>(), ["HEAD"]);
    assert!(node.heard.lock().unwrap().iter().any(|p| p.state == ProgressState::Exists));
    // By digest: nothing is asked at all.
    node.pull(&reference.with_digest(digest.clone())).await.unwrap();
    assert_eq!(fake.log.lock().unwrap().len(), before + 1);
    // Sweep keeps what is kept and what a result still pins.
    let keep = [digest.clone(), record.id.clone()];
    assert_eq!(node.images.sweep(&keep).unwrap(), 0);
    assert_eq!(node.images.sweep(&[]).unwrap(), 0, "pinned");
    drop((pulled, again));
    assert!(node.images.sweep(&[]).unwrap() > 0);
    assert_eq!(node.images.read_blob(&digest).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_layer_do_the_work_once() {
    let image = layer(2_000_000, 1);
    let fake = Fake::start(|request, reply| {
        let rate = request.is_blob().then_some(2_000);
        Reply { rate, ..reply }
    })
    .await;
    fake.put_image("one", std::slice::from_ref(&image));
    fake.put_image("two", std::slice::from_ref(&image));
    let node = Node::new();
    let (one, two) = (fake.reference("one"), fake.reference("two"));
    let (a, b) = tokio::join!(node.pull(&one), node.pull(&two));
    let blob = image.1.len() as u64;
    let fetched = [a.unwrap().fetched_bytes, b.unwrap().fetched_bytes];
    assert!(fetched.iter().filter(|&&f| f >= blob).count() == 1, "{fetched:?}");
    assert_eq!(node.layers.writers.load(Ordering::SeqCst), 1);
    // The first to ask may go: the second has its layer all the same.
    let node = Node::new();
    let (heard, mut hears) = tokio::sync::mpsc::channel(4096);
    let start = |reference: &Reference| {
        let (images, reference, heard) = (node.images.clone(), reference.clone(), heard.clone());
        tokio::spawn(async move {
            let name = reference.clone();
            let tell = move |p: Progress| {
                if p.state == ProgressState::Downloading {
                    let _ = heard.try_send(name.clone());
                }
            };
            images.pull(&reference, &Platform::host(), None, Arc::new(tell)).await
        })
    };
    let first = start(&one);
    assert_eq!(hears.recv().await.as_ref(), Some(&one));
    let second = start(&two);
    while hears.recv().await.as_ref() != Some(&two) {}
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    second.await.unwrap().unwrap();
    assert_eq!(node.layers.writers.load(Ordering::SeqCst), 1);
    // When the last goes, the work stops; who comes then starts anew.
    node.layers.committed.lock().unwrap().clear();
    let last = start(&one);
    while node.layers.writers.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    last.abort();
    assert!(last.await.unwrap_err().is_cancelled());
    node.pull(&one).await.unwrap();
    assert_eq!(node.layers.writers.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_gets_several_ranges() {
    let tar = noise(40 << 20, 1);
    let fake = Fake::start(|request, reply| {
        let rate = (request.is_blob() && reply.body.len() > 100_000).then_some(24_000);
        Reply { rate, ..reply }
    })
    .await;
    fake.put_image("large", &[("", tar.clone(), tar.clone())]);
    let node = Node::new();
    node.pull(&fake.reference("large")).await.unwrap();
    assert_eq!(node.layer(&tar).map(|t| sha256(&t)), Some(sha256(&tar)));
    let ranges = fake.blob_requests(&tar).iter().filter(|r| r.header("range").is_some()).count();
    assert!(ranges >= 4, "{ranges} ranges");
    // And a server that ignores Range is read as one stream.
    let whole = tar.clone();
    let fake = Fake::start(move |request, reply| match request.is_blob() && reply.body.len() > 100_000 {
        true => Reply { body: whole.clone(), rate: Some(60_000), ..Reply::status(200) },
        false => reply,
    })
    .await;
    fake.put_image("large", &[("", tar.clone(), tar.clone())]);
    let node = Node::new();
    node.pull(&fake.reference("large")).await.unwrap();
    assert_eq!(node.layer(&tar).map(|t| sha256(&t)), Some(sha256(&tar)));
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_and_documents_that_do_not_fit_are_refused_by_name() {
    let fake = Fake::honest().await;
    let digest = fake.put_image("p", &[layer(1000, 1)]);
    let bytes = fake.content.lock().unwrap()["/v2/p/manifests/latest"].1.len();
    let entry = |os: &str, architecture: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": bytes,
            "platform": {"os": os, "architecture": architecture},
        })
    };
    let index = |entries: Vec<serde_json::Value>| json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries});
    let host = Platform::host();
    fake.put_manifest("p", "multi", &index(vec![entry("plan9", "mips"), entry("linux", &host.architecture)]));
    fake.put_manifest("p", "other", &index(vec![entry("plan9", "mips"), entry("unknown", "unknown")]));
    fake.put_manifest("p", "old", &json!({"schemaVersion": 1, "fsLayers": [], "history": []}));
    fake.put("/v2/p/manifests/huge", "application/json", &vec![b' '; 5 << 20]);
    fake.put("/v2/p/manifests/text", "text/html", b"<html>");
    let node = Node::new();
    let pulled = node.pull(&fake.reference("p:multi")).await.unwrap();
    assert_eq!(pulled.record.manifest, digest);
    assert_ne!(pulled.record.target, digest);
    let get = async |tag: &str| node.pull(&fake.reference(&format!("p:{tag}"))).await.unwrap_err();
    let e = get("other").await;
    assert!(matches!(&e, ImageError::PlatformNotFound { available, .. } if available.len() == 1), "{e}");
    assert!(e.to_string().contains("plan9/mips"));
    assert!(get("old").await.to_string().contains("schema 1"));
    assert!(matches!(get("huge").await, ImageError::TooLarge { .. }));
    assert!(matches!(get("text").await, ImageError::BadManifest { .. }));
    let e = get("none").await;
    assert!(matches!(e, ImageError::NotFound { .. }), "{e}");
}

/// Against Debian's docker-registry on loopback: the one that `BERTH_TEST_REGISTRY` names must be there.
#[tokio::test(flavor = "multi_thread")]
async fn pulls_busybox_from_a_real_registry() {
    let Ok(registry) = std::env::var("BERTH_TEST_REGISTRY") else {
        eprintln!("skipped: BERTH_TEST_REGISTRY names no registry");
        return;
    };
    let node = Node::new();
    let pulled = node.pull(&format!("{registry}/busybox").parse().unwrap()).await.unwrap();
    assert_eq!(pulled.record.layers.len(), 1);
    let tar = node.layers.committed.lock().unwrap().remove(&pulled.record.layers[0].diff_id);
    assert_eq!(tar.map(|t| t.len() as u64), Some(pulled.record.size_bytes()));
    let missing = node.pull(&format!("{registry}/nothing/here").parse().unwrap()).await;
    assert!(matches!(missing, Err(ImageError::NotFound { .. })), "{missing:?}");
}
