//! Removing what containers leave.

use crate::listing::{Scratch, folder};
use berth_rootfs::{RootfsError, remove_tree};
use berth_sys::fs::{self as sysfs, Kind, Open};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

#[test]
fn deep_odd_and_immutable() {
    let scratch = Scratch::new();
    let top = scratch.path("t");
    std::fs::create_dir(&top).expect("mkdir");
    std::fs::write(scratch.path("outside"), "stays").expect("write");
    let mut at: OwnedFd = folder(&top);
    for _ in 0..5_000 {
        sysfs::mkdirat(at.as_fd(), "d", 0o755).expect("mkdir");
        at = sysfs::openat(at.as_fd(), "d", Open::DIRECTORY, 0).expect("open");
    }
    sysfs::symlinkat(scratch.path("outside"), at.as_fd(), "link").expect("symlink");
    sysfs::symlinkat(&scratch.0, at.as_fd(), "folder-link").expect("symlink");
    let top_fd = folder(&top);
    sysfs::mknodat(top_fd.as_fd(), OsStr::from_bytes(b"odd\n\xff\x01"), Kind::Fifo, 0, 0, 0).expect("fifo");
    sysfs::mknodat(top_fd.as_fd(), "wh", Kind::CharDevice, 0, 0, 0).expect("whiteout");
    std::fs::create_dir(top.join("locked")).expect("mkdir");
    std::fs::write(top.join("locked/file"), "x").expect("write");
    for path in [top.join("locked/file"), top.join("locked")] {
        let fd = sysfs::open(&path, Open::RDONLY, 0).expect("open");
        sysfs::set_immutable(fd.as_fd()).expect("chattr +i");
    }
    for i in 0..3000 {
        std::fs::create_dir_all(top.join(format!("many/{i}/x"))).expect("mkdir");
    }
    std::fs::remove_dir_all(&top).expect_err("the immutable file is in the way of others");
    remove_tree(&top).expect("removed");
    assert!(!top.exists());
    assert_eq!(std::fs::read_to_string(scratch.path("outside")).expect("outside"), "stays");
    remove_tree(&top).expect("gone already");
    std::os::unix::fs::symlink(&scratch.0, scratch.path("l")).expect("symlink");
    remove_tree(&scratch.path("l")).expect("a link is unlinked");
    assert!(scratch.0.exists());
}

#[test]
fn mounts_are_refused() {
    let scratch = Scratch::new();
    let top = scratch.path("t");
    std::fs::create_dir_all(top.join("a/mnt")).expect("mkdir");
    let context = berth_sys::mount::FsContext::open("tmpfs").expect("tmpfs");
    context.create().expect("create");
    let mounted = context.mount(berth_sys::mount::MountAttr::NONE).expect("mount");
    sysfs::mkdirat(mounted.as_fd(), "inside", 0o755).expect("mkdir");
    berth_sys::mount::move_mount(mounted.as_fd(), &top.join("a/mnt")).expect("attach");
    let refused = remove_tree(&top);
    let inside = top.join("a/mnt/inside").exists();
    berth_sys::mount::umount(&top.join("a/mnt"), true).expect("umount");
    assert!(matches!(refused, Err(RootfsError::MountPoint(_))), "{refused:?}");
    assert!(inside, "what is mounted was not touched");
    remove_tree(&top).expect("removed now");
}
