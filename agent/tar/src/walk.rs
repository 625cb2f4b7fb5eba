//! The folders that a walk is in, one in the other. However deep they are, few of them are open: one that is closed is opened again from the
//! folder below it when the walk comes back, and must be the same one then.

use crate::show;
use berth_sys::fs::{self as sysfs, Open};
use berth_sys::sorted::SortedNames;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Folders of a walk that are open at once: the first one, and the innermost.
const MAX_OPEN: usize = 64;

fn closed() -> io::Error {
    io::Error::other("the folder is closed")
}

/// A folder that is being walked.
pub(crate) struct Level {
    /// None: closed for now.
    folder: Option<OwnedFd>,
    /// Device and inode.
    id: (u64, u64),
    /// Length of its name, with the slash.
    pub prefix: usize,
    names: SortedNames,
    /// Where the next ones are, while it is closed.
    position: u64,
}

impl Level {
    /// `empty`: its names are left out.
    pub fn new(folder: OwnedFd, id: (u64, u64), prefix: usize, empty: bool) -> Level {
        let names = if empty { SortedNames::none() } else { SortedNames::default() };
        Level { folder: Some(folder), id, prefix, names, position: 0 }
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.folder.as_ref().map(AsFd::as_fd).ok_or_else(closed)
    }

    fn next(&mut self) -> io::Result<Option<sysfs::DirEntry>> {
        // By field, as `names` is changed beside it.
        let folder = self.folder.as_ref().ok_or_else(closed)?;
        self.names.next(folder.as_fd())
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        if !self.names.all_read() {
            self.position = File::from(folder).stream_position()?;
        }
        Ok(())
    }

    /// Whether `found` is it, which is open again then.
    fn open_again(&mut self, found: io::Result<OwnedFd>) -> io::Result<bool> {
        let Ok(found) = found else { return Ok(false) };
        let stat = sysfs::fstat(found.as_fd())?;
        if (stat.dev, stat.ino) != self.id {
            return Ok(false);
        }
        let mut folder = File::from(found);
        if !self.names.all_read() {
            folder.seek(SeekFrom::Start(self.position))?;
        }
        self.folder = Some(folder.into());
        Ok(true)
    }
}

/// The folders, the innermost last.
pub(crate) struct Levels(Vec<Level>);

impl Levels {
    pub fn new(first: Level) -> Levels {
        Levels(vec![first])
    }

    /// The next name of the innermost folder, which `path` is cut to. When it has no more, the walk goes on in the one around it.
    pub fn next(&mut self, path: &mut Vec<u8>) -> io::Result<Option<sysfs::DirEntry>> {
        while let Some(level) = self.0.last_mut() {
            path.truncate(level.prefix);
            if let Some(next) = level.next()? {
                return Ok(Some(next));
            }
            self.leave(path)?;
        }
        Ok(None)
    }

    /// The innermost folder.
    pub fn folder(&self) -> io::Result<BorrowedFd<'_>> {
        self.0.last().ok_or_else(|| io::Error::other("the walk is over"))?.fd()
    }

    pub fn enter(&mut self, level: Level) -> io::Result<()> {
        self.0.push(level);
        match self.0.len().checked_sub(MAX_OPEN) {
            // The first one is what all others are found from.
            None | Some(0) => Ok(()),
            Some(outer) => self.0[outer].close(),
        }
    }

    fn leave(&mut self, path: &[u8]) -> io::Result<()> {
        let left = self.0.pop();
        let Some(((level, outer), left)) = self.0.split_last_mut().zip(left) else { return Ok(()) };
        if level.folder.is_some() {
            return Ok(());
        }
        let flags = Open::RDONLY | Open::DIRECTORY | Open::NOFOLLOW;
        if level.open_again(sysfs::openat(left.fd()?, "..", flags, 0))? {
            return Ok(());
        }
        // What was left is elsewhere by now: by name, from the outermost folder on.
        if let Some(first) = outer.first() {
            let names = &path[first.prefix..level.prefix];
            let mut found = sysfs::openat(first.fd()?, ".", flags, 0);
            for name in names.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
                found = found.and_then(|folder| sysfs::openat(folder.as_fd(), OsStr::from_bytes(name), flags, 0));
            }
            if level.open_again(found)? {
                return Ok(());
            }
        }
        let name = show(&path[..level.prefix]);
        Err(io::Error::other(format!("{name}: the folder was moved while it was read; copy again")))
    }
}
