//! Makes a tar of files and folders, by descriptors: what is swapped for a link meanwhile is a link in the tar, and never followed.

use crate::walk::{Level, Levels};
use crate::{Entry, Ids, Kind, MAX_PATH, MAX_XATTRS, Segment, Writer, show};
use berth_sys::fs::{self as sysfs, Kind as FileKind, Open, Stat};
use berth_sys::wall;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// First names of hard links that are remembered; later ones become files of their own.
const MAX_LINKS: usize = 1 << 20;
/// Pieces of a sparse file; one with more is written with its holes.
const MAX_SEGMENTS: usize = 4096;

/// The kernel's overflow id (/proc/sys/kernel/overflowuid).
pub const NOBODY: u32 = 65_534;

/// What is packed and what is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Packing {
    /// Folders that are mount points come empty.
    pub one_file_system: bool,
    /// Turns owners into those that the tar says; who is none is nobody there.
    pub ids: Option<Ids>,
}

/// A tar being made of files.
pub struct Packer<'a, W: Write> {
    out: Writer<W>,
    packing: Packing,
    /// Asked between entries and pieces; an error ends the work.
    check: &'a dyn Fn() -> io::Result<()>,
    links: HashMap<(u64, u64), Vec<u8>>,
    piece: Vec<u8>,
}

/// An object to pack: a descriptor of it (`O_PATH`), which a rename does not change.
fn open_object(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    // As others did: looked at, and then opened by its name (CVE-2023-0778).
    let follow = wall::is_down("packing") && sysfs::lstatat(dir, name)?.kind != FileKind::Symlink;
    wall::pause("pause-packing");
    sysfs::openat(dir, name, if follow { Open::PATH } else { Open::PATH | Open::NOFOLLOW }, 0)
}

/// Opens what an `O_PATH` descriptor is of: a regular file or a folder, which the caller knows from its status.
fn reopen(object: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    sysfs::open(format!("/proc/self/fd/{}", object.as_raw_fd()), Open::RDONLY | Open::NONBLOCK, 0)
}

fn named(name: &[u8], e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", show(name)))
}

impl<'a, W: Write> Packer<'a, W> {
    pub fn new(out: W, packing: Packing, check: &'a dyn Fn() -> io::Result<()>) -> Self {
        Packer { out: Writer::new(out), packing, check, links: HashMap::new(), piece: vec![0; PIECE] }
    }

    /// Adds what `object` is a descriptor of (`O_PATH` will do), under `name`, with all below it. Sockets are left out, and so is what is in the
    /// kernel's file systems (proc, sysfs, …): their folders and files come empty, because they would tell the host's root more than whoever
    /// has them mounted. A folder without a name has no entry of its own.
    ///
    /// # Errors
    /// What a call says, with the name; [`Packer::new`]'s check; `InvalidFilename`: deeper than a path may be; a folder with many others in each other
    /// was moved meanwhile.
    pub fn add(&mut self, object: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        let mut path = name.to_vec();
        let stat = sysfs::fstat(object).map_err(|e| named(name, e))?;
        let Some(level) = self.object(object, &stat, &mut path, None).map_err(|e| named(name, e))? else {
            return Ok(());
        };
        let mut levels = Levels::new(level);
        while let Some(next) = levels.next(&mut path)? {
            path.extend_from_slice(next.name.as_bytes());
            let object = match open_object(levels.folder()?, &next.name) {
                // Gone since the folder was read: it is as if it had gone before.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|e| named(&path, e))?,
            };
            let entered = sysfs::fstat(object.as_fd())
                .and_then(|st| self.object(object.as_fd(), &st, &mut path, Some(stat.dev)))
                .map_err(|e| named(&path, e))?;
            if let Some(level) = entered {
                levels.enter(level)?;
            }
        }
        Ok(())
    }

    /// Adds a folder, open, without what is in it.
    pub fn add_folder(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        let stat = sysfs::fstat(folder).map_err(|e| named(name, e))?;
        self.head(Some(folder), &stat, Kind::Directory, name, b"", None).map_err(|e| named(name, e))
    }

    /// Adds an entry that is in no folder; its data follow through [`Packer::data`].
    pub fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.out.entry(entry)
    }

    /// Data of [`Packer::entry`].
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.data(bytes)
    }

    /// Ends the tar and gives the stream back.
    pub fn finish(self) -> io::Result<W> {
        self.out.finish()
    }

    /// Adds one object, and gives the folder to walk when it is one. `dev`: the device of what it was found below; nothing: it was asked for itself, and may
    /// well be where a file system is mounted.
    fn object(
        &mut self,
        object: BorrowedFd<'_>,
        stat: &Stat,
        path: &mut Vec<u8>,
        dev: Option<u64>,
    ) -> io::Result<Option<Level>> {
        (self.check)()?;
        if path.len() > MAX_PATH {
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, "the path is longer than 4096 bytes"));
        }
        let held = matches!(stat.kind, FileKind::Directory | FileKind::Regular);
        if held && dev.is_none_or(|dev| dev != stat.dev) && sysfs::kernel_files(object)?.is_some() {
            return self.empty(stat, path).map(|()| None);
        }
        let dev = dev.filter(|_| self.packing.one_file_system);
        let foreign = |fd| dev.is_some_and(|dev| is_mount(fd, stat, dev));
        match stat.kind {
            FileKind::Directory => {
                let folder = sysfs::openat(object, ".", Open::RDONLY | Open::DIRECTORY, 0)?;
                if !path.is_empty() {
                    self.head(Some(folder.as_fd()), stat, Kind::Directory, path, b"", None)?;
                    if !path.ends_with(b"/") {
                        path.push(b'/');
                    }
                }
                let foreign = foreign(folder.as_fd());
                Ok(Some(Level::new(folder, (stat.dev, stat.ino), path.len(), foreign)))
            }
            FileKind::Regular if foreign(object) => {
                // What a file hides that is mounted on it is not seen from here; an empty file stands for it.
                self.empty(stat, path).map(|()| None)
            }
            FileKind::Regular => self.regular(object, stat, path).map(|()| None),
            FileKind::Symlink => {
                let target = sysfs::readlinkat(object, "")?;
                self.head(None, stat, Kind::Symlink, path, target.as_bytes(), None).map(|()| None)
            }
            FileKind::CharDevice => self.head(None, stat, Kind::CharDevice, path, b"", None).map(|()| None),
            FileKind::BlockDevice => self.head(None, stat, Kind::BlockDevice, path, b"", None).map(|()| None),
            FileKind::Fifo => self.head(None, stat, Kind::Fifo, path, b"", None).map(|()| None),
            // A socket's only meaning is the process that listens on it.
            FileKind::Socket | FileKind::Unknown => Ok(None),
        }
    }

    /// A folder or a file whose contents are left out.
    fn empty(&mut self, stat: &Stat, path: &[u8]) -> io::Result<()> {
        let kind = if stat.kind == FileKind::Directory { Kind::Directory } else { Kind::Regular };
        if path.is_empty() {
            return Ok(());
        }
        self.head(None, &Stat { size: 0, blocks: 0, nlink: 1, ..*stat }, kind, path, b"", None)
    }

    fn regular(&mut self, object: BorrowedFd<'_>, stat: &Stat, path: &[u8]) -> io::Result<()> {
        if stat.nlink > 1 {
            if let Some(first) = self.links.get(&(stat.dev, stat.ino)) {
                let first = first.clone();
                return self.head(None, stat, Kind::HardLink, path, &first, None);
            }
            if self.links.len() < MAX_LINKS {
                self.links.insert((stat.dev, stat.ino), path.to_vec());
            }
        }
        let mut file = File::from(reopen(object)?);
        let segments = if stat.blocks * 512 < stat.size { segments(&file, stat.size) } else { None };
        self.head(Some(file.as_fd()), stat, Kind::Regular, path, b"", segments.as_deref())?;
        match segments {
            None => self.contents(&mut file, 0, stat.size),
            Some(segments) => segments.iter().try_for_each(|s| self.contents(&mut file, s.offset, s.length)),
        }
    }

    /// Exactly `length` bytes from `offset` on: a file that shrinks meanwhile is filled up with zeros, one that grows is cut.
    fn contents(&mut self, file: &mut File, offset: u64, length: u64) -> io::Result<()> {
        file.seek(SeekFrom::Start(offset))?;
        let (mut left, mut ended) = (length, false);
        while left > 0 {
            (self.check)()?;
            let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let n = if ended { 0 } else { retry(|| file.read(&mut self.piece[..want]))? };
            let n = if n == 0 {
                ended = true;
                self.piece[..want].fill(0);
                want
            } else {
                n
            };
            self.out.data(&self.piece[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    /// `file`: open on the object, for its attributes.
    fn head(
        &mut self,
        file: Option<BorrowedFd<'_>>,
        stat: &Stat,
        kind: Kind,
        path: &[u8],
        link: &[u8],
        sparse: Option<&[Segment]>,
    ) -> io::Result<()> {
        let xattrs = match file {
            Some(file) => xattrs(file)?,
            None => Vec::new(),
        };
        let owner = (stat.uid, stat.gid);
        let (uid, gid) = self.packing.ids.map_or(owner, |ids| ids.map(owner.0, owner.1).unwrap_or((NOBODY, NOBODY)));
        self.out.entry(&Entry {
            name: path,
            kind,
            link,
            mode: stat.mode as u16,
            uid,
            gid,
            mtime_secs: stat.mtime_secs,
            mtime_nanos: stat.mtime_nanos,
            dev_major: stat.rdev_major,
            dev_minor: stat.rdev_minor,
            size: if kind == Kind::Regular { stat.size } else { 0 },
            data_offset: 0,
            sparse,
            xattrs: &xattrs,
        })
    }
}

fn is_mount(fd: BorrowedFd<'_>, stat: &Stat, dev: u64) -> bool {
    // Bind mounts of one file system have one device number; overlay gives files other ones than folders.
    berth_sys::mount::is_mount_root(fd).unwrap_or(stat.kind == FileKind::Directory && stat.dev != dev)
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Attributes that mean something elsewhere: users' own, file capabilities, access lists. Overlayfs's marks and security labels of this
/// host do not.
fn xattrs(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut names = match sysfs::flistxattr(file) {
        // Files of /proc and the like.
        Err(_) => return Ok(found),
        Ok(names) => names,
    };
    names.sort_unstable();
    for name in names {
        let key = name.as_bytes();
        let kept = key.starts_with(b"user.")
            || key == b"security.capability"
            || key.starts_with(b"system.posix_acl_")
            || key.starts_with(b"trusted.") && !key.starts_with(b"trusted.overlay.");
        if !kept || key.len() > 255 {
            continue;
        }
        let Some(value) = sysfs::fgetxattr(file, &name)? else { continue };
        bytes += key.len() + value.len() + 8;
        if value.len() <= 65535 && bytes <= MAX_XATTRS {
            found.push((key.to_vec(), value));
        }
    }
    Ok(found)
}

/// The pieces of a file that are on disk. `None`: too many, or the file system does not say.
fn segments(file: &File, size: u64) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size && segments.len() < MAX_SEGMENTS {
        let Some(offset) = sysfs::seek_data(file.as_fd(), at, false).ok()? else { return Some(segments) };
        let end = sysfs::seek_data(file.as_fd(), offset, true).ok()?.unwrap_or(size).min(size);
        if offset >= size || end <= offset {
            return Some(segments);
        }
        segments.push(Segment { offset, length: end - offset });
        at = end;
    }
    (at >= size).then_some(segments)
}
