//! What a container has written, read from its upper folder: as changes against its layers, and as a layer of its own.
//!
//! Overlayfs marks what is gone with character devices 0:0 (or, inside other overlays, empty files with an attribute), and folders that
//! hide those below them with an attribute (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"). Layers have
//! `.wh.` files for both (OCI image-spec, layer.md, "Whiteouts"). Folders that were renamed with their contents below (`redirect_dir`)
//! are refused: berth's mounts do not make any.

use crate::error::{Act, RootfsError};
use crate::tar::{Entry, Kind as TarKind, Packer, Packing, show};
use berth_sys::fs::{self as sysfs, Kind, Open, Stat};
use berth_sys::sorted::SortedNames;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Folders inside each other: a path has no more.
const MAX_DEPTH: usize = 2048;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    /// Absolute, in the container.
    pub path: Vec<u8>,
}

/// An upper folder.
#[derive(Debug)]
pub struct Upper<'a> {
    folder: OwnedFd,
    /// Paths (`etc/hosts`) at which an empty file or folder is the engine's own: it was made to mount something on it.
    ours: &'a [&'a str],
}

/// What stands at a name of the upper folder.
enum Found {
    Whiteout,
    Folder { opaque: bool },
    File,
}

/// A folder that is being compared.
struct Level {
    upper: OwnedFd,
    /// The same folder in the layers, where there is one.
    lower: Option<OwnedFd>,
    /// The layers' folder is hidden.
    opaque: bool,
    /// The length of its path.
    path: usize,
    /// It was told, or need not be.
    told: bool,
    names: SortedNames,
}

fn child<'b>(path: &mut Vec<u8>, length: usize, name: &'b OsStr) -> &'b OsStr {
    path.truncate(length);
    path.push(b'/');
    path.extend_from_slice(name.as_bytes());
    name
}

fn marked(folder: BorrowedFd<'_>, key: &std::ffi::CStr) -> io::Result<Option<Vec<u8>>> {
    sysfs::fgetxattr(folder, key)
}

fn is_whiteout(dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<bool> {
    match stat.kind {
        Kind::CharDevice => Ok((stat.rdev_major, stat.rdev_minor) == (0, 0)),
        Kind::Regular if stat.size == 0 => Ok(sysfs::lgetxattrat(dir, name, c"trusted.overlay.whiteout")?.is_some()),
        _ => Ok(false),
    }
}

fn there(dir: Option<&OwnedFd>, name: &OsStr) -> io::Result<Option<Stat>> {
    let Some(dir) = dir else { return Ok(None) };
    match sysfs::lstatat(dir.as_fd(), name) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

fn enter(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    sysfs::openat(dir, name, Open::DIRECTORY | Open::NOFOLLOW, 0)
}

fn is_empty(folder: BorrowedFd<'_>) -> io::Result<bool> {
    let empty = sysfs::read_dir(folder, 1)?.is_empty();
    sysfs::rewind_dir(folder)?;
    Ok(empty)
}

fn redirected(path: &[u8]) -> io::Error {
    io::Error::other(format!("{}: it was renamed with its contents in the layers below (redirect_dir)", show(path)))
}

impl<'a> Upper<'a> {
    /// `ours`: see [`Upper`]; without a slash in front.
    pub fn open(path: &Path, ours: &'a [&'a str]) -> Result<Self, RootfsError> {
        let folder = sysfs::open(path, Open::DIRECTORY, 0).act(|| format!("opening {}", path.display()))?;
        Ok(Upper { folder, ours })
    }

    fn is_ours(&self, path: &[u8]) -> bool {
        self.ours.iter().any(|o| o.as_bytes() == path.strip_prefix(b"/").unwrap_or(path))
    }

    fn look(&self, dir: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> io::Result<Option<(Found, Stat)>> {
        let Some(stat) = there(Some(&dir.try_clone_to_owned()?), name)? else { return Ok(None) };
        if is_whiteout(dir, name, &stat)? {
            return Ok(Some((Found::Whiteout, stat)));
        }
        if stat.kind != Kind::Directory {
            let ours = stat.kind == Kind::Regular && stat.size == 0 && self.is_ours(path);
            return Ok((!ours).then_some((Found::File, stat)));
        }
        let folder = enter(dir, name)?;
        if self.is_ours(path) && is_empty(folder.as_fd())? {
            return Ok(None);
        }
        if marked(folder.as_fd(), c"trusted.overlay.redirect")?.is_some() {
            return Err(redirected(path));
        }
        let opaque = marked(folder.as_fd(), c"trusted.overlay.opaque")?.as_deref() == Some(b"y");
        Ok(Some((Found::Folder { opaque }, stat)))
    }

    /// Tells every change against `layers` (a view of them, open): a folder before what is in it, names sorted. A folder counts as
    /// modified when its owner or mode is, or anything in it.
    ///
    /// # Errors
    /// Those of `tell`, and of the disk.
    pub fn changes(
        &self,
        layers: BorrowedFd<'_>,
        tell: &mut dyn FnMut(Change) -> io::Result<()>,
    ) -> Result<(), RootfsError> {
        let mut path = Vec::new();
        self.compare(layers, tell, &mut path).act(|| format!("comparing {:?} with its image", show(&path)))
    }

    fn compare(
        &self,
        layers: BorrowedFd<'_>,
        tell: &mut dyn FnMut(Change) -> io::Result<()>,
        path: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut levels = vec![Level {
            upper: enter(self.folder.as_fd(), OsStr::new("."))?,
            lower: Some(enter(layers, OsStr::new("."))?),
            opaque: false,
            path: 0,
            told: true,
            names: SortedNames::default(),
        }];
        while let Some(level) = levels.last_mut() {
            let Some(next) = level.names.next(level.upper.as_fd())? else {
                let level = levels.pop().expect("it is the last");
                if level.opaque {
                    self.hidden(&mut levels, level, tell, path)?;
                }
                continue;
            };
            let name = child(path, level.path, &next.name);
            let Some((found, stat)) = self.look(level.upper.as_fd(), name, path)? else { continue };
            let below = there(level.lower.as_ref(), name)?;
            let kind = match (&found, &below) {
                (Found::Whiteout, None) => continue,
                (Found::Whiteout, Some(_)) => ChangeKind::Deleted,
                (_, None) => ChangeKind::Added,
                (_, Some(_)) => ChangeKind::Modified,
            };
            let Found::Folder { opaque } = found else {
                tell_above(&mut levels, path, tell)?;
                tell(Change { kind, path: path.clone() })?;
                continue;
            };
            if levels.len() >= MAX_DEPTH {
                return Err(io::Error::new(io::ErrorKind::InvalidFilename, "too many folders in each other"));
            }
            let level = levels.last().expect("it was there");
            let upper = enter(level.upper.as_fd(), name)?;
            let (lower, same) = match below {
                Some(b) if b.kind == Kind::Directory => {
                    let lower = level.lower.as_ref().map(|l| enter(l.as_fd(), name)).transpose()?;
                    (lower, (b.mode, b.uid, b.gid) == (stat.mode, stat.uid, stat.gid))
                }
                _ => (None, false),
            };
            if !same {
                tell_above(&mut levels, path, tell)?;
                tell(Change { kind, path: path.clone() })?;
            }
            let opaque = opaque && lower.is_some();
            let names = SortedNames::default();
            levels.push(Level { upper, lower, opaque, path: path.len(), told: !same, names });
        }
        Ok(())
    }

    /// What an opaque folder hides and has nothing in the place of.
    fn hidden(
        &self,
        levels: &mut Vec<Level>,
        level: Level,
        tell: &mut dyn FnMut(Change) -> io::Result<()>,
        path: &mut Vec<u8>,
    ) -> io::Result<()> {
        let length = level.path;
        let Some(lower) = &level.lower else { return Ok(()) };
        let lower = enter(lower.as_fd(), OsStr::new("."))?;
        levels.push(level);
        let mut names = SortedNames::default();
        while let Some(entry) = names.next(lower.as_fd())? {
            if there(levels.last().map(|l| &l.upper), &entry.name)?.is_none() {
                child(path, length, &entry.name);
                tell_above(levels, path, tell)?;
                tell(Change { kind: ChangeKind::Deleted, path: path.clone() })?;
            }
        }
        levels.pop();
        Ok(())
    }

    /// Writes the changes as a layer: an uncompressed tar, `.wh.` files for what is gone. `check` is asked all the time.
    ///
    /// # Errors
    /// A file whose name begins with `.wh.` means something else in a layer; those of `out`, `check` and the disk.
    pub fn write_layer<W: Write>(&self, out: W, check: &dyn Fn() -> io::Result<()>) -> Result<W, RootfsError> {
        let mut packer = Packer::new(out, Packing::default(), check);
        let mut path = Vec::new();
        self.pack(&mut packer, &mut path).act(|| format!("making a layer: {:?}", show(&path)))?;
        packer.finish().act(|| "making a layer".into())
    }

    fn pack<W: Write>(&self, packer: &mut Packer<'_, W>, path: &mut Vec<u8>) -> io::Result<()> {
        let root = enter(self.folder.as_fd(), OsStr::new("."))?;
        let level =
            |upper, path| Level { upper, lower: None, opaque: false, path, told: true, names: SortedNames::default() };
        let mut levels = vec![level(root, 0)];
        while let Some(last) = levels.last_mut() {
            let Some(next) = last.names.next(last.upper.as_fd())? else {
                levels.pop();
                continue;
            };
            let name = child(path, last.path, &next.name);
            if name.as_bytes().starts_with(b".wh.") {
                return Err(io::Error::other("names that begin with .wh. mark deletions in layers"));
            }
            let Some((found, stat)) = self.look(last.upper.as_fd(), name, path)? else { continue };
            let Found::Folder { opaque } = found else {
                match found {
                    Found::Whiteout => {
                        packer.entry(&marker(&last_part(path, [b".wh.", name.as_bytes()].concat()), &stat))?
                    }
                    _ => {
                        let object = sysfs::openat(last.upper.as_fd(), name, Open::PATH | Open::NOFOLLOW, 0)?;
                        packer.add(object.as_fd(), &path[1..])?;
                    }
                }
                continue;
            };
            if levels.len() >= MAX_DEPTH {
                return Err(io::Error::new(io::ErrorKind::InvalidFilename, "too many folders in each other"));
            }
            let folder = enter(levels.last().expect("it was there").upper.as_fd(), name)?;
            packer.add_folder(folder.as_fd(), &path[1..])?;
            if opaque {
                let name = [&path[1..], b"/.wh..wh..opq"].concat();
                packer.entry(&marker(&name, &stat))?;
            }
            levels.push(level(folder, path.len()));
        }
        Ok(())
    }
}

/// The path with another last part, without the slash in front.
fn last_part(path: &[u8], name: Vec<u8>) -> Vec<u8> {
    let end = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    let folder = &path[..=end];
    [folder, &name].concat()[1..].to_vec()
}

/// An empty file that marks a deletion.
fn marker<'e>(name: &'e [u8], stat: &Stat) -> Entry<'e> {
    Entry {
        name,
        kind: TarKind::Regular,
        link: b"",
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime_secs: stat.mtime_secs,
        mtime_nanos: 0,
        dev_major: 0,
        dev_minor: 0,
        size: 0,
        data_offset: 0,
        sparse: None,
        xattrs: &[],
    }
}

/// Tells the folders above a change that were not told yet.
fn tell_above(levels: &mut [Level], path: &[u8], tell: &mut dyn FnMut(Change) -> io::Result<()>) -> io::Result<()> {
    for level in levels.iter_mut().filter(|l| !l.told) {
        level.told = true;
        tell(Change { kind: ChangeKind::Modified, path: path[..level.path].to_vec() })?;
    }
    Ok(())
}
