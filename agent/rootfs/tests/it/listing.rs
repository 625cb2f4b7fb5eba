//! Everything that can be seen of a tree, as text lines to compare.

use berth_sys::fs::{self as sysfs, Kind, Open};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub fn folder(path: &Path) -> OwnedFd {
    sysfs::open(path, Open::DIRECTORY, 0).expect("opening a folder")
}

/// One line for each name; `times`: folders' times too.
pub fn list(root: BorrowedFd<'_>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    // A mount's descriptor is O_PATH: not to be read from.
    let root = sysfs::openat(root, ".", Open::DIRECTORY, 0).expect("opening the root");
    walk(root.as_fd(), "", &mut out, &mut inodes);
    out
}

fn walk(dir: BorrowedFd<'_>, prefix: &str, out: &mut BTreeMap<String, String>, inodes: &mut BTreeMap<u64, String>) {
    let mut names: Vec<OsString> = Vec::new();
    loop {
        let some = sysfs::read_dir(dir, 1000).expect("readdir");
        if some.is_empty() {
            break;
        }
        names.extend(some.into_iter().map(|e| e.name));
    }
    names.sort();
    if prefix.is_empty() {
        out.insert("/".into(), describe(dir, &OsString::new(), "", inodes));
    }
    for name in names {
        let path = format!("{prefix}/{}", name.as_encoded_bytes().escape_ascii());
        out.insert(path.clone(), describe(dir, &name, &path, inodes));
        if sysfs::lstatat(dir, &name).expect("lstat").kind == Kind::Directory {
            let sub = sysfs::openat(dir, &name, Open::DIRECTORY | Open::NOFOLLOW, 0).expect("opendir");
            walk(sub.as_fd(), &path, out, inodes);
        }
    }
}

fn describe(dir: BorrowedFd<'_>, name: &OsString, path: &str, inodes: &mut BTreeMap<u64, String>) -> String {
    let st = if name.is_empty() { sysfs::fstat(dir) } else { sysfs::lstatat(dir, name) }.expect("stat");
    let mut line = format!("{:?} {:o} {}:{} {}.{:09}", st.kind, st.mode, st.uid, st.gid, st.mtime_secs, st.mtime_nanos);
    match st.kind {
        Kind::Regular => {
            let mut file = std::fs::File::from(sysfs::openat(dir, name, Open::NOFOLLOW, 0).expect("open"));
            let (mut hash, mut buffer, mut size) = (0xcbf2_9ce4_8422_2325u64, vec![0; 1 << 16], 0);
            loop {
                let n = file.read(&mut buffer).unwrap_or_else(|e| panic!("reading {path}: {e}"));
                if n == 0 {
                    break;
                }
                size += n as u64;
                for b in &buffer[..n] {
                    hash = (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
                }
            }
            assert_eq!(size, st.size, "{path}");
            line += &format!(" {size} {hash:016x}");
        }
        Kind::Symlink => {
            let target = sysfs::readlinkat(dir, name).expect("readlink");
            line += &format!(" -> {}", target.as_encoded_bytes().escape_ascii());
        }
        Kind::CharDevice | Kind::BlockDevice => line += &format!(" {}:{}", st.rdev_major, st.rdev_minor),
        _ => {}
    }
    if st.kind != Kind::Directory {
        line += &format!(" links {}", st.nlink);
        if st.nlink > 1 {
            let first = inodes.entry(st.ino).or_insert_with(|| path.to_owned());
            line += &format!(" as {first}");
        }
    }
    let lookup = if name.is_empty() { OsString::from(".") } else { name.clone() };
    let mut keys = sysfs::llistxattrat(dir, &lookup).expect("listxattr");
    keys.sort();
    for key in keys {
        let value = sysfs::lgetxattrat(dir, &lookup, &key).expect("getxattr").unwrap_or_default();
        line += &format!(" {}={}", key.to_string_lossy(), value.escape_ascii());
    }
    line
}

/// Fails with the lines that differ.
pub fn same(what: &str, left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) {
    let mut wrong = Vec::new();
    for key in left.keys().chain(right.keys().filter(|k| !left.contains_key(*k))) {
        if left.get(key) != right.get(key) {
            wrong.push(format!("{key}\n   left  {:?}\n   right {:?}", left.get(key), right.get(key)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{what}: {} of {} differ:\n{}",
        wrong.len(),
        left.len(),
        wrong[..wrong.len().min(10)].join("\n")
    );
}

/// A folder of this test, removed when dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/var/tmp/berth-rootfs-test-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).expect("mkdir");
        Scratch(path)
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        berth_rootfs::remove_tree(&self.0).expect("removing the scratch folder");
    }
}
