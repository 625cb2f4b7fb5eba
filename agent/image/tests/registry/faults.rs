//! Registries, connections and disks that fail.

use crate::fake::{Fake, Node, Reply, gzip, layer, limits, sha256};
use berth_image::{ImageError, Limits};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_goes_on_where_it_was() {
    let image = layer(3_000_000, 1);
    for cut in [0, 1, 9, 10_000, image.1.len() - 1] {
        let cuts = AtomicUsize::new(0);
        let fake = Fake::start(move |request, reply| {
            let first = request.is_blob() && reply.body.len() > 100_000 && cuts.fetch_add(1, Ordering::SeqCst) == 0;
            Reply { cut: first.then_some(cut), ..reply }
        })
        .await;
        fake.put_image("cut", std::slice::from_ref(&image));
        let node = Node::new();
        node.pull(&fake.reference("cut")).await.unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let ranges: Vec<_> =
            fake.blob_requests(&image.1).iter().map(|r| r.header("range").map(str::to_owned)).collect();
        let resumed = (cut > 0).then(|| format!("bytes={cut}-"));
        assert_eq!(ranges, [None, resumed]);
        assert!(node.said("trying again"), "the progress says so");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_range_is_read_past() {
    let image = layer(2_000_000, 1);
    let full = image.1.clone();
    let cuts = AtomicUsize::new(0);
    let fake = Fake::start(move |request, reply| match (request.is_blob(), cuts.load(Ordering::SeqCst)) {
        (true, 0) if reply.body.len() > 100_000 => {
            cuts.store(1, Ordering::SeqCst);
            Reply { cut: Some(1_000_000), ..reply }
        }
        (true, _) if reply.status == 206 => Reply { body: full.clone(), ..Reply::status(200) },
        _ => reply,
    })
    .await;
    fake.put_image("norange", std::slice::from_ref(&image));
    let node = Node::new();
    node.pull(&fake.reference("norange")).await.unwrap();
    assert_eq!(node.layer(&image.2), Some(image.2));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_committed() {
    let image = layer(1_000_000, 1);
    let fake = Fake::start(|request, mut reply| {
        if request.is_blob() && reply.body.len() > 100_000 {
            let middle = reply.body.len() / 2;
            reply.body[middle] ^= 1;
        }
        reply
    })
    .await;
    fake.put_image("wrong", std::slice::from_ref(&image));
    let node = Node::new();
    let e = node.pull(&fake.reference("wrong")).await.unwrap_err();
    assert!(matches!(&e, ImageError::DigestMismatch { expected, .. } if *expected == sha256(&image.1)), "{e}");
    assert!(node.layers.committed.lock().unwrap().is_empty());
    assert!(node.partials().is_empty(), "bad bytes are not taken up again");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_sizes_are_named() {
    let image = layer(1_000_000, 1);
    let size = image.1.len();
    for (announced, extra) in [(Some(size + 1), 1), (Some(size - 1), 0), (None, 5000)] {
        let fake = Fake::start(move |request, mut reply| {
            if request.is_blob() && reply.body.len() > 100_000 {
                reply.body.resize(size + extra, 0);
                reply.body.truncate(announced.unwrap_or(usize::MAX));
                reply.until_close = announced.is_none();
            }
            reply
        })
        .await;
        fake.put_image("size", std::slice::from_ref(&image));
        let node = Node::new();
        let e = node.pull(&fake.reference("size")).await.unwrap_err();
        assert!(matches!(e, ImageError::SizeMismatch { expected, .. } if expected == size as u64), "{e}");
        assert!(node.layers.committed.lock().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_diff_ids_and_broken_streams_are_bad_layers() {
    let fake = Fake::honest().await;
    let (kind, blob, tar) = layer(200_000, 1);
    let other = sha256(b"other").to_string();
    fake.put_image_with("diff", &[(kind, blob.clone(), tar.clone())], &[other]);
    fake.put_image("short", &[(kind, blob[..blob.len() - 100].to_vec(), tar.clone())]);
    let mut tail = blob.clone();
    tail.extend(b"tail");
    fake.put_image("tail", &[(kind, tail, tar.clone())]);
    let packed = zstd::encode_all(&tar[..], 3).unwrap();
    fake.put_image("zshort", &[("+zstd", packed[..packed.len() / 2].to_vec(), tar)]);
    let node = Node::new();
    for name in ["diff", "short", "tail", "zshort"] {
        let e = node.pull(&fake.reference(name)).await.unwrap_err();
        assert!(matches!(e, ImageError::BadLayer { .. }), "{name}: {e}");
    }
    assert!(node.layers.committed.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_stops_at_the_limit() {
    let fake = Fake::honest().await;
    let zeros = vec![0; 50 << 20];
    fake.put_image("bomb", &[("+gzip", gzip(&zeros), zeros.clone())]);
    fake.put_image("zbomb", &[("+zstd", zstd::encode_all(&zeros[..], 3).unwrap(), zeros)]);
    let node = Node::with(|_| {}, Limits { layer_bytes: 1 << 20, ..limits() });
    for name in ["bomb", "zbomb"] {
        let e = node.pull(&fake.reference(name)).await.unwrap_err();
        assert!(matches!(e, ImageError::TooLarge { limit_bytes, .. } if limit_bytes == 1 << 20), "{e}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_and_server_errors_are_tried_again() {
    let image = layer(100_000, 1);
    for status in [429, 500, 503] {
        let seen = AtomicUsize::new(0);
        let fake = Fake::start(move |_, reply| {
            if seen.fetch_add(1, Ordering::SeqCst) % 3 < 2 {
                Reply::status(status).with("Retry-After", "0")
            } else {
                reply
            }
        })
        .await;
        fake.put_image("busy", std::slice::from_ref(&image));
        let node = Node::new();
        node.pull(&fake.reference("busy")).await.unwrap_or_else(|e| panic!("{status}: {e}"));
        assert!(node.said(&status.to_string()), "the progress says why");
    }
    // Not for ever, and not for hours.
    let fake = Fake::start(|_, _| Reply::status(500)).await;
    let e = Node::new().pull(&fake.reference("down")).await.unwrap_err();
    assert!(matches!(e, ImageError::Unavailable { .. }), "{e}");
    assert_eq!(fake.log.lock().unwrap().len(), limits().tries as usize);
    let fake = Fake::start(|_, _| Reply::status(429).with("Retry-After", "3600")).await;
    let e = Node::new().pull(&fake.reference("limit")).await.unwrap_err();
    let hour = Some(Duration::from_secs(3600));
    assert!(matches!(e, ImageError::Unavailable { retry_after, .. } if retry_after == hour), "{e}");
    assert_eq!(fake.log.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_a_cut() {
    let image = layer(1_000_000, 1);
    let seen = AtomicUsize::new(0);
    let fake = Fake::start(move |request, reply| {
        let first = request.is_blob() && reply.body.len() > 100_000 && seen.fetch_add(1, Ordering::SeqCst) == 0;
        Reply { stall: first.then_some(200_000), ..reply }
    })
    .await;
    fake.put_image("stall", std::slice::from_ref(&image));
    let node = Node::new();
    node.pull(&fake.reference("stall")).await.unwrap();
    assert!(node.said("no byte for"));
    assert_eq!(fake.blob_requests(&image.1)[1].header("range"), Some("bytes=200000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_is_taken_up_by_the_next_process() {
    let image = layer(4_000_000, 1);
    let slow = Arc::new(AtomicBool::new(true));
    let switch = slow.clone();
    let fake = Fake::start(move |request, reply| {
        let rate = (request.is_blob() && switch.load(Ordering::SeqCst)).then_some(4_000);
        Reply { rate, ..reply }
    })
    .await;
    fake.put_image("resume", std::slice::from_ref(&image));
    let mut node = Node::new();
    let reference = fake.reference("resume");
    tokio::select! {
        _ = node.pull(&reference) => panic!("too fast to be cut"),
        () = async { while node.partials().iter().all(|p| p.1 < 300_000) { tokio::time::sleep(Duration::from_millis(5)).await; } } => {}
    }
    // The stages end soon after.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let kept = node.partials();
    assert!(kept.len() == 1 && kept[0].1 >= 300_000, "{kept:?}");
    std::fs::write(node.dir.join("ingest/7.tmp"), "half").unwrap();
    node.reopen();
    assert!(!node.dir.join("ingest/7.tmp").exists());
    slow.store(false, Ordering::SeqCst);
    let pulled = node.pull(&reference).await.unwrap();
    assert!(pulled.fetched_bytes < image.1.len() as u64 - 300_000 + 4096, "{}", pulled.fetched_bytes);
    assert_eq!(fake.blob_requests(&image.1)[1].header("range"), Some(format!("bytes={}-", kept[0].1).as_str()));
    assert_eq!(node.layer(&image.2).as_ref(), Some(&image.2));
    assert!(node.partials().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partial_download_is_started_over() {
    let image = layer(2_000_000, 1);
    let fake = Fake::honest().await;
    fake.put_image("damaged", std::slice::from_ref(&image));
    // Shorter, as long as the blob, longer; and one that is right and whole.
    let size = image.1.len();
    for (length, good) in [(500_000, false), (size, false), (size + 10, false), (size, true)] {
        let node = Node::new();
        let mut bytes = image.1.clone();
        bytes.resize(length, 0);
        if !good {
            bytes[100_000..200_000].fill(0);
        }
        let name = format!("sha256-{}.partial", sha256(&image.1).hex());
        std::fs::write(node.dir.join("ingest").join(name), bytes).unwrap();
        let pulled = node.pull(&fake.reference("damaged")).await.unwrap_or_else(|e| panic!("{length}: {e}"));
        assert_eq!(node.layer(&image.2).as_ref(), Some(&image.2));
        assert!(node.partials().is_empty());
        assert_eq!(pulled.fetched_bytes < 100_000, good);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_to_be_full() {
    let image = layer(3_000_000, 1);
    let fake = Fake::honest().await;
    fake.put_image("full", std::slice::from_ref(&image));
    let node = Node::new();
    node.layers.room.store(1_000_000, Ordering::SeqCst);
    let e = node.pull(&fake.reference("full")).await.unwrap_err();
    assert!(matches!(e, ImageError::DiskFull { .. }), "{e}");
    assert!(node.partials().is_empty(), "room is given back");
    // The content store's own disk: /dev/full gives ENOSPC at every write.
    let node = Node::new();
    let name = format!("sha256-{}.partial", sha256(&image.1).hex());
    std::os::unix::fs::symlink("/dev/full", node.dir.join("ingest").join(name)).unwrap();
    let e = node.pull(&fake.reference("full")).await.unwrap_err();
    assert!(matches!(e, ImageError::DiskFull { .. }), "{e}");
    assert!(node.partials().is_empty());
}
