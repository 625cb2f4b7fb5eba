//! Folders into tars and back, on a real file system. Needs root, for owners and device nodes.

use berth_sys::fs::{self as sysfs, Kind as FileKind, Open};
use berth_tar::{Entry, ExtractError, Extracted, Extractor, Kind, Owner, Packer, Packing, Rules, Top, Writer};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

struct Dir(PathBuf);
impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("berth-tar-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("to")).expect("folder");
        fs::create_dir(dir.join("from")).expect("folder");
        fs::write(dir.join("outside"), "untouched").expect("file");
        Dir(dir)
    }
    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pack(path: &Path, name: &str) -> Vec<u8> {
    let object = sysfs::open(path, Open::PATH | Open::NOFOLLOW, 0).expect("open");
    let check = || Ok(());
    let mut packer = Packer::new(Vec::new(), Packing::default(), &check);
    packer.add(object.as_fd(), name.as_bytes()).expect("pack");
    packer.finish().expect("finish")
}

fn extract(tar: &[u8], to: &Path, owner: Owner, top: Top) -> Result<Extracted, ExtractError> {
    let base = sysfs::open(to, Open::PATH | Open::DIRECTORY, 0).expect("open");
    let mut extractor =
        Extractor::new(base, Rules { owner, top, skip_devices: false, keep_top: false, follow: None, ids: None });
    // Odd pieces: headers and data come in any.
    tar.chunks(777).try_for_each(|piece| extractor.push(piece))?;
    extractor.finish()
}

fn renamed(from: &str, to: &str) -> Top {
    Top::Renamed { from: from.into(), to: to.into() }
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let dir = Dir::new("round");
    let from = dir.at("from");
    fs::create_dir_all(from.join("sub/empty")).expect("mkdir");
    fs::write(from.join("sub/a"), vec![7u8; 70_000]).expect("a");
    fs::hard_link(from.join("sub/a"), from.join("b")).expect("link");
    symlink("/nowhere/at all", from.join("link")).expect("symlink");
    let long = format!("{}-{}", "n".repeat(120), "é".repeat(60));
    fs::write(from.join(&long), "long").expect("long");
    let sparse = fs::File::create(from.join("sparse")).expect("sparse");
    sparse.set_len(5 << 30).expect("length");
    sparse.write_all_at(b"middle", 3 << 30).expect("middle");
    let fd = sysfs::open(&from, Open::DIRECTORY, 0).expect("open");
    sysfs::mknodat(fd.as_fd(), "fifo", FileKind::Fifo, 0o640, 0, 0).expect("fifo");
    std::os::unix::fs::chown(from.join("sub/a"), Some(1234), Some(70_000)).expect("chown");
    fs::set_permissions(from.join("sub/a"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o555)).expect("chmod");
    sysfs::utimensat(fd.as_fd(), "sub", 1_000_000_000, 123_456_789).expect("time");
    let tar = pack(&from, "from");
    assert!(tar.len() < 1 << 20, "holes are not sent: {}", tar.len());
    let done = extract(&tar, &dir.at("to"), Owner::Kept, renamed("from", "copy")).expect("extract");
    assert_eq!(done.entries, 9);
    let to = dir.at("to/copy");
    let a = fs::metadata(to.join("sub/a")).expect("a");
    assert_eq!((a.uid(), a.gid(), a.mode() & 0o7777, a.nlink()), (1234, 70_000, 0o4751, 2));
    assert_eq!(a.ino(), fs::metadata(to.join("b")).expect("b").ino());
    assert_eq!(fs::read(to.join("b")).expect("b"), vec![7u8; 70_000]);
    assert_eq!(fs::read_link(to.join("link")).expect("link").to_str(), Some("/nowhere/at all"));
    assert_eq!(fs::read_to_string(to.join(&long)).expect("long"), "long");
    let s = fs::metadata(to.join("sparse")).expect("sparse");
    assert!(s.len() == 5 << 30 && s.blocks() < 100, "{} {}", s.len(), s.blocks());
    let mut six = [0; 6];
    fs::File::open(to.join("sparse")).expect("sparse").read_exact_at(&mut six, 3 << 30).expect("read");
    assert_eq!(&six, b"middle");
    let sub = fs::metadata(to.join("sub")).expect("sub");
    assert_eq!((sub.mode() & 0o7777, sub.mtime(), sub.mtime_nsec()), (0o555, 1_000_000_000, 123_456_789));
    // Again, over what is there: files are replaced, not written through.
    extract(&tar, &dir.at("to"), Owner::Fixed(5, 6), renamed("from", "copy")).expect("again");
    let a = fs::metadata(to.join("sub/a")).expect("a");
    assert_eq!((a.uid(), a.gid(), a.mode() & 0o7777), (5, 6, 0o751), "set-id bits were another owner's");
}

fn entry<'a>(name: &'a str, kind: Kind, link: &'a str, size: u64) -> Entry<'a> {
    Entry {
        name: name.as_bytes(),
        kind,
        link: link.as_bytes(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime_secs: 1,
        mtime_nanos: 0,
        dev_major: 1,
        dev_minor: 3,
        size,
        data_offset: 0,
        sparse: None,
        xattrs: &[],
    }
}

#[test]
fn no_archive_leads_out() {
    use Kind::{BlockDevice, CharDevice, Directory, HardLink, Regular, Symlink};
    let dir = Dir::new("hostile");
    let outside = dir.at("outside").display().to_string();
    let above = dir.0.display().to_string();
    let cases: Vec<Vec<(String, Kind, String)>> = vec![
        vec![("top/../../outside".into(), Regular, String::new())],
        vec![("../outside".into(), Regular, String::new())],
        vec![("top".into(), Symlink, above.clone()), ("top/outside".into(), Regular, String::new())],
        vec![("top/l".into(), Symlink, "../..".into()), ("top/l/outside".into(), Regular, String::new())],
        vec![("top/l".into(), Symlink, above.clone()), ("top/l".into(), Directory, String::new())],
        vec![("top/h".into(), HardLink, "top/../../outside".into()), ("top/h".into(), Regular, String::new())],
        vec![("top/l".into(), Symlink, above), ("top/h".into(), HardLink, "top/l/outside".into())],
        vec![("top/d".into(), CharDevice, String::new())],
        vec![("top/d".into(), BlockDevice, String::new())],
        vec![("other".into(), Regular, String::new())],
        vec![(outside.clone(), Regular, String::new())],
    ];
    for case in cases {
        let mut writer = Writer::new(Vec::new());
        for (name, kind, link) in &case {
            let data: &[u8] = if *kind == Regular { b"hostile" } else { b"" };
            writer.entry(&entry(name, *kind, link, data.len() as u64)).expect("entry");
            writer.data(data).expect("data");
        }
        let tar = writer.finish().expect("finish");
        let result = extract(&tar, &dir.at("to"), Owner::Mine, renamed("top", "top"));
        assert!(result.is_err(), "{case:?}: {result:?}");
        assert_eq!(fs::read_to_string(&outside).expect("outside"), "untouched", "{case:?}");
        let names: Vec<_> = fs::read_dir(&dir.0).expect("read").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names.len(), 3, "{case:?}: {names:?}");
        let _ = fs::remove_dir_all(dir.at("to/top"));
        let _ = fs::remove_file(dir.at("to/top"));
    }
    // A link that is in the place of a file is replaced, not written through.
    symlink(&outside, dir.at("to/top")).expect("symlink");
    let mut writer = Writer::new(Vec::new());
    writer.entry(&entry("top", Regular, "", 2)).expect("entry");
    writer.data(b"ok").expect("data");
    extract(&writer.finish().expect("finish"), &dir.at("to"), Owner::Mine, renamed("top", "top")).expect("extract");
    assert_eq!(fs::read_to_string(&outside).expect("outside"), "untouched");
    assert_eq!(fs::read_to_string(dir.at("to/top")).expect("top"), "ok");
}

#[test]
fn half_a_file_does_not_stay() {
    let dir = Dir::new("half");
    fs::write(dir.at("from/a"), vec![1u8; 100_000]).expect("a");
    let tar = pack(&dir.at("from/a"), "a");
    let error = extract(&tar[..50_000], &dir.at("to"), Owner::Mine, Top::AsIs).expect_err("cut");
    assert!(error.to_string().contains("ends in the middle"), "{error}");
    assert!(!dir.at("to/a").exists());
}

#[test]
fn a_folder_and_a_file_do_not_replace_each_other() {
    let dir = Dir::new("mismatch");
    fs::write(dir.at("from/x"), "x").expect("x");
    let tar = pack(&dir.at("from"), "from");
    fs::create_dir_all(dir.at("to/from/x")).expect("mkdir");
    assert!(extract(&tar, &dir.at("to"), Owner::Mine, Top::AsIs).is_err());
    fs::remove_dir_all(dir.at("to/from")).expect("rm");
    fs::write(dir.at("to/from"), "a file").expect("file");
    assert!(extract(&tar, &dir.at("to"), Owner::Mine, Top::AsIs).is_err());
    assert_eq!(fs::read_to_string(dir.at("to/from")).expect("from"), "a file");
}

/// What the kernel tells the host's root is not for whoever has it mounted.
#[test]
fn the_kernels_own_files_come_empty() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = berth_sys::mount::umount(&self.0, true);
        }
    }
    let dir = Dir::new("kernel");
    fs::write(dir.at("from/own"), "a file's own").expect("own");
    fs::create_dir(dir.at("from/p")).expect("mkdir");
    fs::write(dir.at("from/f"), "hidden").expect("file");
    let mount = |source: &str, target: &Path, kind: &str, flags| {
        berth_sys::mount::mount(source.as_ref(), target, kind, flags, "").expect("mount");
        Mounted(target.to_owned())
    };
    let _proc = mount("proc", &dir.at("from/p"), "proc", berth_sys::mount::MountFlags::NONE);
    let _file = mount("/sys/kernel/uevent_seqnum", &dir.at("from/f"), "", berth_sys::mount::MountFlags::BIND);
    let done = extract(&pack(&dir.at("from"), "from"), &dir.at("to"), Owner::Kept, renamed("from", "copy"));
    assert_eq!(done.expect("extract").entries, 4);
    let to = dir.at("to/copy");
    assert_eq!(fs::read_to_string(to.join("own")).expect("own"), "a file's own");
    assert_eq!(fs::read_to_string(to.join("f")).expect("f"), "");
    assert_eq!(fs::read_dir(to.join("p")).expect("p").count(), 0);
    // Asked for itself, too.
    extract(&pack(Path::new("/sys/kernel/uevent_seqnum"), "n"), &dir.at("to"), Owner::Kept, Top::AsIs).expect("file");
    assert_eq!(fs::read_to_string(dir.at("to/n")).expect("n"), "");
    let done = extract(&pack(Path::new("/proc/self"), "self"), &dir.at("to"), Owner::Kept, Top::AsIs).expect("link");
    assert_eq!(done.entries, 1);
    let done = extract(&pack(Path::new("/proc/sys"), "sys"), &dir.at("to"), Owner::Kept, Top::AsIs).expect("folder");
    assert_eq!(done.entries, 1);
}

/// Folders that this process has open below `root`.
fn open_below(root: &Path) -> usize {
    let fds = fs::read_dir("/proc/self/fd").expect("fds").flatten();
    fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|place| place.starts_with(root))).count()
}

/// `depth` folders in each other, each with a file that comes before the next one and one that comes behind it.
fn deep(root: &Path, depth: usize) {
    let mut folder = sysfs::open(root, Open::RDONLY | Open::DIRECTORY, 0).expect("open");
    for _ in 0..depth {
        for name in ["a", "z"] {
            sysfs::mknodat(folder.as_fd(), name, FileKind::Regular, 0o644, 0, 0).expect("file");
        }
        sysfs::mkdirat(folder.as_fd(), "d", 0o755).expect("mkdir");
        folder = sysfs::openat(folder.as_fd(), "d", Open::RDONLY | Open::DIRECTORY, 0).expect("open");
    }
}

fn pack_with(root: &Path, check: &dyn Fn() -> std::io::Result<()>) -> std::io::Result<Vec<u8>> {
    let object = sysfs::open(root, Open::PATH, 0).expect("open");
    let mut packer = Packer::new(Vec::new(), Packing::default(), check);
    packer.add(object.as_fd(), b"from")?;
    packer.finish()
}

#[test]
fn a_deep_walk_holds_few_folders_open() {
    let dir = Dir::new("deep");
    let from = dir.at("from");
    deep(&from, 400);
    let most = std::cell::Cell::new(0);
    let asked = std::cell::Cell::new(0);
    let count = || {
        asked.set(asked.get() + 1);
        if asked.get() % 10 == 0 {
            most.set(most.get().max(open_below(&from)));
        }
        Ok(())
    };
    let tar = pack_with(&from, &count).expect("pack");
    assert!((20..100).contains(&most.get()), "{}", most.get());
    let done = extract(&tar, &dir.at("to"), Owner::Kept, Top::AsIs).expect("extract");
    assert_eq!(done.entries, 1 + 3 * 400);
}

#[test]
fn folders_that_move_while_they_are_walked_are_found_or_named() {
    let dir = Dir::new("moved");
    // From inside: 150 folders below, so that the ones above are closed.
    let inside = |root: &Path, depth: usize| (0..depth).fold(root.to_owned(), |path, _| path.join("d"));
    for (moves, good) in [(&[(50, "child")][..], true), (&[(50, "child"), (49, "d")][..], false)] {
        let from = dir.at("from");
        let _ = fs::remove_dir_all(&from);
        fs::create_dir(&from).expect("mkdir");
        deep(&from, 150);
        let asked = std::cell::Cell::new(0);
        let swap = || {
            asked.set(asked.get() + 1);
            // The file in front of each folder, and the folder: all but the last ones were entered.
            if asked.get() == 2 * 148 {
                for (depth, to) in moves {
                    let folder = inside(&from, *depth - 1);
                    fs::rename(folder.join("d"), dir.at("to").join(format!("{to}-{depth}"))).expect("rename");
                }
            }
            Ok(())
        };
        match pack_with(&from, &swap) {
            Ok(tar) => {
                assert!(good, "a folder was lost without a word");
                let checked = extract(&tar, &dir.at("to"), Owner::Kept, Top::AsIs).expect("extract");
                assert_eq!(checked.entries, 1 + 3 * 150);
            }
            Err(e) => assert!(!good && e.to_string().contains("was moved while it was read"), "{e}"),
        }
        fs::remove_dir_all(dir.at("to")).expect("remove");
        fs::create_dir(dir.at("to")).expect("mkdir");
    }
}
