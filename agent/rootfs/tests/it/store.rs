//! The store over its life: commits, removals, damage, kills, a full disk.

use crate::compare::{digest, ingest, mount};
use crate::listing::{Scratch, list};
use crate::tarball::Tar;
use berth_rootfs::{Driver, LayerStore, MountOptions, RootfsError, WritableLayer};
use std::os::fd::AsFd;

const DRIVERS: [Driver; 2] = [Driver::Erofs, Driver::Directory];

fn count(path: std::path::PathBuf) -> usize {
    std::fs::read_dir(path).expect("readdir").count()
}

#[test]
fn layers_come_and_go() {
    for driver in DRIVERS {
        let scratch = Scratch::new();
        let dir = scratch.path("s");
        let store = LayerStore::open(&dir, driver).expect("open");
        assert_eq!(store.driver_name(), if driver == Driver::Erofs { "erofs" } else { "directory" });
        assert_eq!(store.get(&digest(1)), None);
        let tar = Tar::new().file("f", "one").end();
        let d = ingest(&store, 1, &tar).expect("ingest");
        assert_eq!(store.get(&d).expect("there").tar_bytes, tar.len() as u64);
        // A second writer of the same layer.
        ingest(&store, 1, &tar).expect("again");
        // One that is dropped, and one that fails.
        let mut dropped = store.writer().expect("writer");
        dropped.write(&tar).expect("write");
        drop(dropped);
        ingest(&store, 2, b"this is no tar at all, but it is long enough to be seen through: ".repeat(20).as_slice())
            .expect_err("no tar");
        store.settle().expect("settle");
        assert_eq!((count(dir.join("ingest")), count(dir.join("trash")), store.list().expect("list").len()), (0, 0, 1));
        drop(store);
        let store = LayerStore::open(&dir, driver).expect("reopen");
        assert_eq!(store.list().expect("list").len(), 1);
        let root = mount(&store, &scratch, "c", std::slice::from_ref(&d));
        let bytes = store.remove(&d).expect("remove");
        assert!(bytes >= tar.len() as u64);
        assert_eq!(store.remove(&d).expect("again"), 0);
        store.settle().expect("settle");
        // A mounted root holds the files of an erofs layer.
        if driver == Driver::Erofs {
            assert_eq!(root.read("/f", 10).expect("read").as_deref(), Some(&b"one"[..]));
        }
        let upper = WritableLayer::create(&scratch.path("d")).expect("upper");
        let missing = store.mount(std::slice::from_ref(&d), &upper, MountOptions::default()).expect_err("gone");
        assert!(matches!(missing, RootfsError::Missing(ref m) if *m == d), "{missing}");
        assert_eq!((count(dir.join("trash")), count(dir.join("layers/sha256"))), (0, 0));
    }
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let scratch = Scratch::new();
    let dir = scratch.path("s");
    drop(LayerStore::open(&dir, Driver::Auto).expect("open"));
    for name in ["ingest/0", "ingest/7/tree/deep", "trash/0", "trash/3/x"] {
        std::fs::create_dir_all(dir.join(name)).expect("mkdir");
    }
    std::fs::write(dir.join("ingest/0/layer.tar"), "half").expect("write");
    let store = LayerStore::open(&dir, Driver::Auto).expect("open");
    ingest(&store, 1, &Tar::new().file("a", "").end()).expect("ingest");
    store.settle().expect("settle");
    assert_eq!((count(dir.join("ingest")), count(dir.join("trash"))), (0, 0));
}

#[test]
fn damage_is_named_and_healed_by_a_new_commit() {
    let tar = Tar::new().file("f", "one").end();
    for driver in DRIVERS {
        for damage in ["meta.json", "garbage", "short", "data"] {
            let scratch = Scratch::new();
            let dir = scratch.path("s");
            let store = LayerStore::open(&dir, driver).expect("open");
            let d = ingest(&store, 1, &tar).expect("ingest");
            let layer = dir.join("layers/sha256").join(d.hex());
            match (damage, driver) {
                ("meta.json", _) => std::fs::remove_file(layer.join("meta.json")).expect("rm"),
                ("garbage", _) => std::fs::write(layer.join("meta.json"), "{").expect("write"),
                ("short", Driver::Erofs) => std::fs::write(layer.join("layer.tar"), "short").expect("write"),
                ("data", Driver::Erofs) => std::fs::remove_file(layer.join("layer.erofs")).expect("rm"),
                _ => std::fs::remove_dir_all(layer.join("tree")).expect("rm"),
            }
            for reopened in [false, true] {
                let store = if reopened { LayerStore::open(&dir, driver).expect("open") } else { store.clone() };
                let upper = WritableLayer::create(&scratch.path("c")).expect("upper");
                let error =
                    store.mount(std::slice::from_ref(&d), &upper, MountOptions::default()).expect_err("damaged");
                assert!(
                    matches!(error, RootfsError::Damaged { .. }) && error.to_string().contains(d.hex()),
                    "{damage}: {error}"
                );
                assert_eq!(store.get(&d), None, "{damage}: to be fetched again");
                assert_eq!(store.damaged().len(), 1);
            }
            ingest(&store, 1, &tar).expect("healed");
            let root = mount(&store, &scratch, "c", std::slice::from_ref(&d));
            assert_eq!(root.read("f", 10).expect("read").as_deref(), Some(&b"one"[..]));
        }
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("small")).expect("mkdir");
    let context = berth_sys::mount::FsContext::open("tmpfs").expect("tmpfs");
    context.set_string("size", "1m").expect("size");
    context.create().expect("create");
    let small = context.mount(berth_sys::mount::MountAttr::NONE).expect("mount");
    let dir = std::path::PathBuf::from(format!("/proc/self/fd/{}/s", std::os::fd::AsRawFd::as_raw_fd(&small)));
    let store = LayerStore::open(&dir, Driver::Directory).expect("open");
    let tar = Tar::new().file("big", vec![1; 2 << 20]).end();
    let error = ingest(&store, 1, &tar).expect_err("full");
    assert!(error.disk_full() && !error.bad_layer(), "{error}");
    store.settle().expect("settle");
    ingest(&store, 2, &Tar::new().file("small", vec![1; 200 << 10]).end()).expect("there is room again");
}

#[test]
fn many_layers_none_and_one_twice() {
    let scratch = Scratch::new();
    let store = LayerStore::open(&scratch.path("s"), Driver::Erofs).expect("open");
    let root = mount(&store, &scratch, "none", &[]);
    assert_eq!(list(root.fd().expect("fd").as_fd()).len(), 1);
    let a = ingest(&store, 1, &Tar::new().file("f", "a").end()).expect("a");
    let b = ingest(&store, 2, &Tar::new().file("f", "b").file(".wh.g", "").end()).expect("b");
    let root = mount(&store, &scratch, "twice", &[a.clone(), b.clone(), a.clone()]);
    assert_eq!(root.read("f", 10).expect("read").as_deref(), Some(&b"a"[..]));
    // 500 different ones.
    let layers: Vec<_> = (0..500u16)
        .map(|i| {
            let mut hash = [9; 32];
            hash[..2].copy_from_slice(&i.to_le_bytes());
            let digest = berth_model::Digest::from_bytes(berth_model::digest::Algorithm::Sha256, &hash);
            let mut writer = store.writer().expect("writer");
            writer.write(&Tar::new().file(format!("f{i}"), "").end()).expect("write");
            writer.commit(&digest).expect("commit");
            digest
        })
        .collect();
    let root = mount(&store, &scratch, "many", &layers);
    assert_eq!(list(root.fd().expect("fd").as_fd()).len(), 501);
    let too_many: Vec<_> = layers.into_iter().chain([a]).collect();
    let upper = WritableLayer::create(&scratch.path("c")).expect("upper");
    let error = store.mount(&too_many, &upper, MountOptions::default()).expect_err("501");
    assert!(matches!(error, RootfsError::TooManyLayers(501)), "{error}");
}
