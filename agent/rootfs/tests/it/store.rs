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
        for damage in ["meta.json", "garbage", "endless", "short", "data"] {
            let scratch = Scratch::new();
            let dir = scratch.path("s");
            let store = LayerStore::open(&dir, driver).expect("open");
            let d = ingest(&store, 1, &tar).expect("ingest");
            let layer = dir.join("layers/sha256").join(d.hex());
            match (damage, driver) {
                ("meta.json", _) => std::fs::remove_file(layer.join("meta.json")).expect("rm"),
                ("garbage", _) => std::fs::write(layer.join("meta.json"), "{").expect("write"),
                ("endless", _) => {
                    let text = std::fs::read_to_string(layer.join("meta.json")).expect("meta.json");
                    let (before, after) = text.split_once(r#""tar_bytes":"#).expect("a size");
                    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
                    let text = format!(r#"{before}"tar_bytes":{}{after}"#, u64::MAX);
                    std::fs::write(layer.join("meta.json"), text).expect("write")
                }
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

/// An ext4 of 16 MiB in a file, at `m`.
struct SmallDisk(Scratch);

impl SmallDisk {
    fn new() -> Self {
        let scratch = Scratch::new();
        let script =
            "truncate -s 16M disk; mkfs.ext4 -q -m 0 -N 256 -O ^has_journal disk; mkdir m; mount -o loop disk m";
        let out = std::process::Command::new("sh").args(["-ec", script]).current_dir(&scratch.0).output().expect("sh");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        SmallDisk(scratch)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        berth_sys::mount::umount(&self.0.path("m"), true).expect("umount");
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    for driver in DRIVERS {
        let small = SmallDisk::new();
        let dir = small.0.path("m/s");
        let store = LayerStore::open(&dir, driver).expect("open");
        // Full in the part that goes past the page cache; in the tail; while the index is written.
        let mut too_large = vec![
            Tar::new().file("big", vec![1; 20 << 20]).end(),
            Tar::new().file("big", vec![1; (16 << 20) - 70_001]).end(),
        ];
        if driver == Driver::Erofs {
            let mut names = Tar::new();
            for i in 0..29_000 {
                names.file(i.to_string(), "");
            }
            too_large.push(names.end());
        }
        for tar in too_large {
            let error = ingest(&store, 1, &tar).expect_err("full");
            assert!(error.disk_full() && !error.bad_layer(), "{driver:?}: {error}");
            store.settle().expect("settle");
            assert_eq!((count(dir.join("ingest")), count(dir.join("trash"))), (0, 0));
        }
        ingest(&store, 2, &Tar::new().file("small", vec![1; 200 << 10]).end()).expect("there is room again");
    }
}

#[test]
fn large_layers_are_whole() {
    let random = |seed: u32, length: usize| -> Vec<u8> {
        (0..length as u32).map(|i| (i.wrapping_mul(0x9E37_79B9).rotate_left(seed) >> 24) as u8).collect()
    };
    let mut tar = Tar::new();
    tar.file("first", random(1, (10 << 20) + 77)).file("second", random(2, (3 << 20) - 1)).file("third", random(3, 9));
    assert_eq!(crate::compare::both(&[tar.end()]).len(), 3);
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
