//! Roots: what a container writes, what the agent reads.

use crate::compare::{ingest, mount};
use crate::listing::Scratch;
use crate::tarball::{Entry, Tar};
use berth_rootfs::{Driver, LayerStore, MountOptions, WritableLayer};
use berth_sys::fs::{self as sysfs, Open};
use std::io::Write;
use std::os::fd::AsFd;

#[test]
fn writes_go_up_and_stay() {
    let scratch = Scratch::new();
    let store = LayerStore::open(&scratch.path("s"), Driver::Auto).expect("open");
    let d = ingest(&store, 1, &Tar::new().dir("etc").file("etc/f", "image").end()).expect("ingest");
    // A path that needs care in mount options.
    let own = scratch.path(&format!("own,with:odd\\bytes-{}", "x".repeat(200)));
    let upper = WritableLayer::create(&own).expect("upper");
    for (round, want) in ["image", "image+0", "image+0+1"].into_iter().enumerate() {
        let root = store.mount(std::slice::from_ref(&d), &upper, MountOptions::default()).expect("mount");
        assert_eq!(root.read("/etc/f", 100).expect("read").as_deref(), Some(want.as_bytes()));
        let fd = root.fd().expect("fd");
        let file = sysfs::openat(fd.as_fd(), "etc/f", Open::WRONLY | Open::APPEND, 0).expect("open");
        write!(std::fs::File::from(file), "+{round}").expect("write");
    }
    assert_eq!(std::fs::read_to_string(upper.upper().join("etc/f")).expect("upper"), "image+0+1+2");
    assert_eq!(WritableLayer::open(&own).expect("open").upper(), upper.upper());
    WritableLayer::open(&scratch.path("nowhere")).expect_err("not there");
    WritableLayer::remove(&own).expect("remove");
    WritableLayer::remove(&own).expect("gone already");
    assert!(!own.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains("berth-rootfs-test"), "nothing in the host's table");
}

#[test]
fn reads_stay_inside_and_never_hang() {
    let scratch = Scratch::new();
    let store = LayerStore::open(&scratch.path("s"), Driver::Auto).expect("open");
    let mut tar = Tar::new();
    tar.dir("etc").file("etc/passwd", "inside").symlink("abs", "/etc/passwd").symlink("up", "../../../etc/passwd");
    tar.symlink("loop", "loop").add(Entry::new("fifo", b'6')).symlink("environ", "/proc/self/environ");
    tar.add(Entry { dev: (1, 5), ..Entry::new("zero", b'3') });
    let d = ingest(&store, 1, &tar.end()).expect("ingest");
    let root = mount(&store, &scratch, "c", std::slice::from_ref(&d));
    for path in ["etc/passwd", "/etc/passwd", "abs", "up", "/../../etc/passwd"] {
        assert_eq!(root.read(path, 100).expect(path).as_deref(), Some(&b"inside"[..]), "{path}");
    }
    for path in ["etc/none", "none/passwd", "etc/passwd/x", "environ"] {
        assert_eq!(root.read(path, 100).expect(path), None, "{path}");
    }
    for (path, why) in
        [("fifo", "Fifo"), ("zero", "CharDevice"), ("etc", "Directory"), ("loop", "symbolic links"), ("a\0b", "nvalid")]
    {
        let error = root.read(path, 100).expect_err(path).to_string();
        assert!(error.contains(why), "{path}: {error}");
    }
    assert!(root.read("etc/passwd", 5).expect_err("too large").to_string().contains("larger than 5"));
    assert!(root.read("etc/passwd", 6).is_ok());
}
