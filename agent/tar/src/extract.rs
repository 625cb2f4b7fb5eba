//! Writes a tar into a folder that it cannot leave, whoever made the tar and whoever changes the folder meanwhile.
//!
//! Every name is taken apart, and each part opened below a descriptor of the folder above it; `..` is refused, and a link on the way is
//! never followed, but where the rules name a root for that (a container's own).

use crate::{BLOCK, Entry, Kind, Parser, Problem, Segment, Sink, TarError, show};
use berth_sys::fs::{self as sysfs, Kind as FileKind, Open, Resolve};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// Bytes of names of folders whose times are set at the end; those behind them keep the time of their making.
const MAX_FOLDER_NAMES: usize = 64 << 20;
/// Names in the report.
const MAX_NAMED: usize = 16;

/// Who owns what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// As the tar says; set-id bits stay.
    Kept,
    /// These. Set-id bits go: they were another owner's.
    Fixed(u32, u32),
    /// Whoever runs this. Set-id bits go.
    Mine,
}

/// Numbers of owners on the two sides of a user namespace. `None`: there is no such owner on the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    /// First id there, first id here, how many.
    pub users: [(u32, u32, u32); 3],
    pub groups: [(u32, u32, u32); 3],
}

impl Ids {
    pub fn map(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |extents: &[(u32, u32, u32)], id: u32| {
            let hit = extents.iter().find(|(from, _, n)| id.checked_sub(*from).is_some_and(|d| d < *n));
            hit.map(|(from, to, _)| to + (id - from))
        };
        Some((find(&self.users, uid)?, find(&self.groups, gid)?))
    }
}

/// What happens with the first part of each name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Top {
    /// Names are taken as they are.
    AsIs,
    /// It must be `from` and becomes `to`; `.` is the folder itself.
    Renamed { from: Vec<u8>, to: Vec<u8> },
}

/// How a tar is written out.
#[derive(Debug)]
pub struct Rules {
    pub owner: Owner,
    pub top: Top,
    /// Device nodes are left out and named in the report; else they are an error.
    pub skip_devices: bool,
    /// The folder itself gets owner, mode, attributes and time of its entry (`./`), where the tar has one.
    pub keep_top: bool,
    /// Links on the way to an entry are followed inside this root, to which the path of the folder is added.
    pub follow: Option<(OwnedFd, Vec<u8>)>,
    /// Turns owners into those that are written; what has none is an error.
    pub ids: Option<Ids>,
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extracted {
    pub entries: u64,
    /// Bytes of files as they are read, holes included.
    pub bytes: u64,
    /// Entries that were left out, the first few.
    pub skipped: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("{entry:?} in the archive: {problem}")]
    Refused { entry: String, problem: &'static str },
    #[error("writing {entry:?}: {source}")]
    Io { entry: String, source: io::Error },
}

/// An entry that was read and is to be written.
#[derive(Debug)]
struct Head {
    name: Vec<u8>,
    kind: Kind,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    size: u64,
    sparse: Option<Vec<Segment>>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Default, Debug)]
struct Inbox(Option<Head>);

impl Sink for Inbox {
    fn entry(&mut self, e: Entry<'_>) -> Result<(), Problem> {
        self.0 = Some(Head {
            name: e.name.to_vec(),
            kind: e.kind,
            link: e.link.to_vec(),
            mode: e.mode.into(),
            uid: e.uid,
            gid: e.gid,
            mtime: (e.mtime_secs, e.mtime_nanos),
            size: e.size,
            sparse: e.sparse.map(<[Segment]>::to_vec),
            xattrs: e.xattrs.to_vec(),
        });
        Ok(())
    }
}

/// A file that is being written.
#[derive(Debug)]
struct Current {
    file: File,
    head: Head,
    folder: OwnedFd,
    name: Vec<u8>,
    /// Pieces that are to come, and where in the first one the next byte goes.
    segments: std::vec::IntoIter<Segment>,
    now: Segment,
}

/// A folder that gets its mode and time when all is written.
#[derive(Debug)]
struct Folder {
    path: Vec<u8>,
    mode: u32,
    mtime: (i64, u32),
}

/// Takes a tar in pieces of any size. Dropped in the middle, the file that was being written goes.
pub struct Extractor {
    base: OwnedFd,
    rules: Rules,
    parser: Parser,
    inbox: Inbox,
    position: u64,
    current: Option<Current>,
    /// The last entry's folder.
    parent: Option<(Vec<u8>, OwnedFd)>,
    folders: Vec<Folder>,
    folder_names: usize,
    done: Extracted,
}

impl Extractor {
    /// `base`: the folder, `O_PATH` will do.
    pub fn new(base: OwnedFd, rules: Rules) -> Self {
        Extractor {
            base,
            rules,
            parser: Parser::new(),
            inbox: Inbox::default(),
            position: 0,
            current: None,
            parent: None,
            folders: Vec::new(),
            folder_names: 0,
            done: Extracted::default(),
        }
    }

    /// The next bytes of the tar.
    ///
    /// # Errors
    /// A malformed tar, an entry that leads out or is of a kind that is refused, what a call says. Nothing more is taken after one.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), ExtractError> {
        while !bytes.is_empty() {
            let n = match &mut self.current {
                Some(current) => {
                    let n = current.take(bytes).map_err(|source| io_error(&current.head.name, source))?;
                    if current.now.length == 0 {
                        self.file_done()?;
                    }
                    n
                }
                // An entry is there when its last header block is: its data begin with the next byte.
                None => bytes.len().min(BLOCK - (self.position % BLOCK as u64) as usize),
            };
            self.parser.push(&bytes[..n], &mut self.inbox)?;
            self.position += n as u64;
            bytes = &bytes[n..];
            if let Some(head) = self.inbox.0.take() {
                self.entry(head)?;
            }
        }
        Ok(())
    }

    /// The tar has ended: folders get their modes and times.
    pub fn finish(mut self) -> Result<Extracted, ExtractError> {
        self.parser.finish()?;
        for folder in std::mem::take(&mut self.folders).into_iter().rev() {
            let set = self.open_folder(&folder.path).and_then(|fd| {
                let fd = sysfs::openat(fd.as_fd(), ".", Open::RDONLY | Open::DIRECTORY, 0)?;
                sysfs::fchmod(fd.as_fd(), folder.mode)?;
                sysfs::utimensat(fd.as_fd(), "", folder.mtime.0, folder.mtime.1)
            });
            match set {
                // A container that took its folder away has no use for its time.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|e| io_error(&folder.path, e))?,
            }
        }
        Ok(std::mem::take(&mut self.done))
    }

    /// The parts of a name below the base, with the top as the rules want it.
    fn path(&self, name: &[u8], entry: &[u8]) -> Result<Vec<u8>, ExtractError> {
        let refuse = |problem| ExtractError::Refused { entry: show(entry), problem };
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in name.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")) {
            match part {
                b".." => return Err(refuse("its path leads out of the destination")),
                part if part.len() > 255 => return Err(refuse("a part of its path is longer than 255 bytes")),
                part => parts.push(part),
            }
        }
        if let Top::Renamed { from, to } = &self.rules.top {
            if from != b"." {
                if parts.first() != Some(&&from[..]) {
                    return Err(refuse("it is not part of what was asked for"));
                }
                parts.remove(0);
            }
            if to != b"." {
                parts.insert(0, to);
            }
        }
        Ok(parts.join(&b'/'))
    }

    fn entry(&mut self, head: Head) -> Result<(), ExtractError> {
        let path = self.path(&head.name, &head.name)?;
        if path.is_empty() {
            return match head.kind {
                Kind::Directory if self.rules.keep_top => {
                    let base = self.base.try_clone().map_err(|e| io_error(&head.name, e))?;
                    let made = self.folder_made(&head, &path, base.as_fd(), OsStr::new("."));
                    made.map_err(|e| io_error(&head.name, e))
                }
                // The destination itself stays as it is.
                Kind::Directory => Ok(()),
                _ => Err(ExtractError::Refused { entry: show(&head.name), problem: "it has no name" }),
            };
        }
        if matches!(head.kind, Kind::CharDevice | Kind::BlockDevice) {
            if !self.rules.skip_devices {
                let problem = "device nodes are not copied";
                return Err(ExtractError::Refused { entry: show(&head.name), problem });
            }
            if self.done.skipped.len() < MAX_NAMED {
                self.done.skipped.push(show(&head.name));
            }
            return Ok(());
        }
        let (folder_path, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], &path[..]),
        };
        let link = if head.kind == Kind::HardLink { Some(self.path(&head.link, &head.name)?) } else { None };
        self.done.entries += 1;
        self.done.bytes += head.size;
        let entry = head.name.clone();
        let explain = |source| io_error(&entry, source);
        let folder = self.folder_for(folder_path).map_err(explain)?;
        self.write(head, &path, folder, OsStr::from_bytes(name), link).map_err(explain)?;
        Ok(())
    }

    /// The folder of an entry, made where it is missing.
    fn folder_for(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        if let Some((last, fd)) = &self.parent
            && last == path
        {
            return fd.try_clone();
        }
        let fd = match self.open_folder(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.make_folders(path)?,
            other => other?,
        };
        self.parent = Some((path.to_vec(), fd.try_clone()?));
        Ok(fd)
    }

    fn open_folder(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let base = self.base.as_fd();
        let flags = Open::PATH | Open::DIRECTORY;
        let below = if path.is_empty() { &b"."[..] } else { path };
        match sysfs::openat2(base, OsStr::from_bytes(below), flags, 0, Resolve::BENEATH | Resolve::NO_SYMLINKS) {
            Err(e) if sysfs::is_link_loop(&e) => match &self.rules.follow {
                Some((root, prefix)) => {
                    let whole = [&prefix[..], b"/", path].concat();
                    let how = Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;
                    sysfs::openat2(root.as_fd(), OsStr::from_bytes(&whole), flags, 0, how)
                }
                None => Err(io::Error::new(e.kind(), "a symbolic link is on its way, which is not followed")),
            },
            other => other,
        }
    }

    fn make_folders(&self, path: &[u8]) -> io::Result<OwnedFd> {
        for end in (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]) {
            let (above, name) = match path[..end].iter().rposition(|b| *b == b'/') {
                Some(at) => (&path[..at], &path[at + 1..end]),
                None => (&b""[..], &path[..end]),
            };
            let above = self.open_folder(above)?;
            match sysfs::mkdirat(above.as_fd(), OsStr::from_bytes(name), 0o755) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => {
                    other?;
                    if let Owner::Fixed(uid, gid) = self.rules.owner {
                        let (uid, gid) = self.mapped((uid, gid))?;
                        sysfs::fchownat(above.as_fd(), OsStr::from_bytes(name), uid, gid)?;
                    }
                }
            }
        }
        self.open_folder(path)
    }

    fn write(
        &mut self,
        head: Head,
        path: &[u8],
        folder: OwnedFd,
        name: &OsStr,
        link: Option<Vec<u8>>,
    ) -> io::Result<()> {
        let dir = folder.as_fd();
        let there = match sysfs::lstatat(dir, name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?.kind),
        };
        if head.kind == Kind::Directory {
            match there {
                Some(FileKind::Directory) => {}
                Some(_) => return Err(io::Error::other("a folder cannot replace what is no folder")),
                None => sysfs::mkdirat(dir, name, 0o700)?,
            }
            return self.folder_made(&head, path, dir, name);
        }
        if there == Some(FileKind::Directory) {
            return Err(io::Error::other("a folder is in its place"));
        }
        match head.kind {
            Kind::Regular => return self.begin_file(head, folder, name, there.is_some()),
            _ if there.is_some() => sysfs::unlinkat(dir, name, false)?,
            _ => {}
        }
        match head.kind {
            Kind::Symlink => sysfs::symlinkat(OsStr::from_bytes(&head.link), dir, name)?,
            Kind::Fifo => sysfs::mknodat(dir, name, FileKind::Fifo, 0o600, 0, 0)?,
            _ => return self.hard_link(&link.unwrap_or_default(), dir, name),
        }
        if let Some((uid, gid)) = self.owner(&head)? {
            sysfs::fchownat(dir, name, uid, gid)?;
        }
        if head.kind == Kind::Fifo {
            // Through a descriptor: the name may be another's by now.
            let fd = sysfs::openat(dir, name, Open::PATH | Open::NOFOLLOW, 0)?;
            if sysfs::fstat(fd.as_fd())?.kind == FileKind::Fifo {
                sysfs::chmodat(fd.as_fd(), format!("/proc/self/fd/{}", fd.as_raw_fd()), self.mode(&head))?;
            }
        }
        sysfs::utimensat(dir, name, head.mtime.0, head.mtime.1)
    }

    /// The new folder's owner now, mode and time at the end, when nothing is written into it any more.
    fn folder_made(&mut self, head: &Head, path: &[u8], dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let fd = sysfs::openat(dir, name, Open::RDONLY | Open::DIRECTORY | Open::NOFOLLOW, 0)?;
        if let Some((uid, gid)) = self.owner(head)? {
            sysfs::fchownat(fd.as_fd(), "", uid, gid)?;
        }
        self.set_xattrs(fd.as_fd(), head);
        if self.folder_names + path.len() <= MAX_FOLDER_NAMES {
            self.folder_names += path.len() + size_of::<Folder>();
            self.folders.push(Folder { path: path.to_vec(), mode: self.mode(head), mtime: head.mtime });
        } else {
            sysfs::fchmod(fd.as_fd(), self.mode(head) | 0o700)?;
        }
        Ok(())
    }

    fn hard_link(&self, target: &[u8], dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let (above, base) = match target.iter().rposition(|b| *b == b'/') {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (&b""[..], target),
        };
        if base.is_empty() {
            return Err(io::Error::other("its link has no target"));
        }
        sysfs::linkat(self.open_folder(above)?.as_fd(), OsStr::from_bytes(base), dir, name)
    }

    fn begin_file(&mut self, head: Head, folder: OwnedFd, name: &OsStr, there: bool) -> io::Result<()> {
        let dir = folder.as_fd();
        let fresh = Open::WRONLY | Open::CREATE | Open::EXCL | Open::NOFOLLOW;
        let removed = if there { sysfs::unlinkat(dir, name, false) } else { Ok(()) };
        let fd = match removed {
            Ok(()) => sysfs::openat(dir, name, fresh, 0o600)?,
            // A file that is mounted in its place, such as a container's /etc/hosts: it is written where it is.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                let fd = sysfs::openat(dir, name, Open::PATH | Open::NOFOLLOW, 0)?;
                if sysfs::fstat(fd.as_fd())?.kind != FileKind::Regular {
                    return Err(e);
                }
                sysfs::open(format!("/proc/self/fd/{}", fd.as_raw_fd()), Open::WRONLY | Open::TRUNC, 0)?
            }
            Err(e) => return Err(e),
        };
        let file = File::from(fd);
        let mut segments = match &head.sparse {
            None => vec![Segment { offset: 0, length: head.size }],
            Some(segments) => {
                file.set_len(head.size)?;
                segments.clone()
            }
        };
        segments.retain(|s| s.length > 0);
        let mut segments = segments.into_iter();
        let now = segments.next();
        let empty = now.is_none();
        let now = now.unwrap_or(Segment { offset: 0, length: 0 });
        self.current = Some(Current { file, head, folder, name: name.as_bytes().to_vec(), segments, now });
        if empty { self.complete() } else { Ok(()) }
    }

    fn file_done(&mut self) -> Result<(), ExtractError> {
        let entry = self.current.as_ref().map(|c| c.head.name.clone()).unwrap_or_default();
        self.complete().map_err(|source| io_error(&entry, source))
    }

    /// Owner, then mode (chown clears set-id bits), then attributes (chown clears capabilities), then the time.
    fn complete(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let (fd, head) = (current.file.as_fd(), &current.head);
        if let Some((uid, gid)) = self.owner(head)? {
            sysfs::fchownat(fd, "", uid, gid)?;
        }
        sysfs::fchmod(fd, self.mode(head))?;
        self.set_xattrs(fd, head);
        sysfs::utimensat(fd, "", head.mtime.0, head.mtime.1)?;
        self.current = None;
        Ok(())
    }

    fn owner(&self, head: &Head) -> io::Result<Option<(u32, u32)>> {
        let owner = match self.rules.owner {
            Owner::Kept => (head.uid, head.gid),
            Owner::Fixed(uid, gid) => (uid, gid),
            Owner::Mine => return Ok(None),
        };
        self.mapped(owner).map(Some)
    }

    fn mapped(&self, (uid, gid): (u32, u32)) -> io::Result<(u32, u32)> {
        let Some(ids) = self.rules.ids else { return Ok((uid, gid)) };
        ids.map(uid, gid)
            .ok_or_else(|| io::Error::other(format!("user {uid} and group {gid} are not both the container's")))
    }

    fn mode(&self, head: &Head) -> u32 {
        if self.rules.owner == Owner::Kept { head.mode } else { head.mode & 0o1777 }
    }

    /// Where the file system can: a copy without an attribute is better than none.
    fn set_xattrs(&self, fd: BorrowedFd<'_>, head: &Head) {
        for (key, value) in &head.xattrs {
            let wanted = key.starts_with(b"user.")
                || key.starts_with(b"system.posix_acl_")
                || key == b"security.capability" && self.rules.owner == Owner::Kept;
            if let (true, Ok(key)) = (wanted, CString::new(key.clone())) {
                let _ = sysfs::fsetxattr(fd, &key, value);
            }
        }
    }
}

impl Current {
    /// Writes what belongs to the file, says how many bytes.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = usize::try_from(self.now.length).unwrap_or(usize::MAX).min(bytes.len());
        self.file.write_all_at(&bytes[..n], self.now.offset)?;
        self.now.offset += n as u64;
        self.now.length -= n as u64;
        if self.now.length == 0
            && let Some(next) = self.segments.next()
        {
            self.now = next;
        }
        Ok(n)
    }
}

impl Drop for Extractor {
    fn drop(&mut self) {
        if let Some(current) = self.current.take() {
            // Half a file is worse than none; a name that is another's by now is left alone.
            let name = OsStr::from_bytes(&current.name);
            let ours = sysfs::fstat(current.file.as_fd()).ok();
            let there = sysfs::lstatat(current.folder.as_fd(), name).ok();
            if ours.is_some() && ours.map(|s| (s.dev, s.ino)) == there.map(|s| (s.dev, s.ino)) {
                let _ = sysfs::unlinkat(current.folder.as_fd(), name, false);
            }
        }
    }
}

fn io_error(entry: &[u8], source: io::Error) -> ExtractError {
    ExtractError::Io { entry: show(entry), source }
}
