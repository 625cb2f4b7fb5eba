//! The files of one volume, where they can be reached.

use crate::held::Shared;
use crate::{Act, VolumeError, copy_tree, quota};
use berth_sys::fs::{self as sysfs, Kind, Open, Resolve};
use berth_sys::mount::{self, AttrChange, MountAttr, Propagation};
use berth_sys::wall::is_down;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where a volume's files are while it can be used.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder of the files.
    pub data: PathBuf,
    /// Beside it, in the same file system: what becomes `data` by one rename. `None`: the files are not this agent's to replace.
    pub fill: Option<PathBuf>,
    pub recursive: bool,
    pub read_only: bool,
    /// Of a quota: `fill` belongs to it as `data` does.
    pub project: Option<u32>,
    /// Folders that `data` must not be led out of when it goes through one.
    pub shared: Shared,
}

fn folder(path: &Path) -> Result<OwnedFd, VolumeError> {
    sysfs::open(path, Open::RDONLY | Open::DIRECTORY, 0).act(|| format!("opening {}", path.display()))
}

/// Syncs a folder's names.
pub(crate) fn sync(path: &Path) -> Result<(), VolumeError> {
    let fd = folder(path)?;
    sysfs::fsync(fd.as_fd()).act(|| format!("syncing {}", path.display()))
}

impl Place {
    /// The root of the files.
    ///
    /// # Errors
    /// `Io`: it is not there.
    pub fn open(&self) -> Result<OwnedFd, VolumeError> {
        match self.shared.of(&self.data) {
            None => folder(&self.data),
            Some(within) => {
                let flags = Open::RDONLY | Open::DIRECTORY;
                within.open(&self.data, flags).act(|| format!("opening {}", self.data.display()))
            }
        }
    }

    /// Whether there is no file at all.
    pub fn is_empty(&self) -> Result<bool, VolumeError> {
        let names = sysfs::read_dir(self.open()?.as_fd(), 1).act(|| format!("reading {}", self.data.display()))?;
        // Of an ext4 that was made by somebody else.
        Ok(names.iter().all(|n| n.name == "lost+found"))
    }

    /// A detached mount of the volume, or of the file or folder `subpath` in it, which must be there.
    ///
    /// # Errors
    /// `NoSubpath`; `Io`.
    pub fn tree(&self, subpath: Option<&str>, read_only: bool) -> Result<OwnedFd, VolumeError> {
        tree_of(self.open()?.as_fd(), subpath, self.recursive, read_only || self.read_only)
    }

    /// Copies what is in `from` (with its owner and mode) into the empty volume: all of it or nothing. `false`: the volume is not empty, or
    /// not one to be filled. Nobody may use the volume meanwhile.
    pub fn fill(&self, from: BorrowedFd<'_>, check: &dyn Fn() -> io::Result<()>) -> Result<bool, VolumeError> {
        let Some(fill) = &self.fill else { return Ok(false) };
        if !self.is_empty()? {
            return Ok(false);
        }
        let to = self.draft(fill)?;
        copy_tree(from, to, check)?;
        self.take(false)?;
        Ok(true)
    }

    /// An empty folder beside the files, to be written and then taken over by [`Place::take`].
    ///
    /// # Errors
    /// `Elsewhere`, `Io`; what an earlier one left must be gone (`Io`, `AlreadyExists`).
    pub fn draft(&self, fill: &Path) -> Result<OwnedFd, VolumeError> {
        std::fs::create_dir(fill).act(|| format!("making {}", fill.display()))?;
        std::fs::set_permissions(fill, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .act(|| format!("making {}", fill.display()))?;
        if let Some(project) = self.project {
            quota::mark(fill, project)?;
        }
        folder(fill)
    }

    /// Puts the draft in the place of the files. `replace`: with whatever is there, which is in the draft's place then; else the volume must be
    /// empty.
    ///
    /// # Errors
    /// `NotEmpty`, `Io`.
    pub fn take(&self, replace: bool) -> Result<(), VolumeError> {
        let fill = self.fill.as_ref().ok_or_else(|| VolumeError::Elsewhere(self.data.display().to_string()))?;
        // Everything of the copy is on the disk before its name says that it is whole.
        sysfs::syncfs(folder(fill)?.as_fd()).act(|| format!("syncing {}", fill.display()))?;
        let act = || format!("putting {} in its place", fill.display());
        if replace {
            sysfs::exchange(fill, &self.data).act(act)?;
        } else {
            // Takes the place of an empty folder only (rename(2)).
            match std::fs::rename(fill, &self.data) {
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => return Err(VolumeError::NotEmpty),
                other => other.act(act)?,
            }
        }
        sync(self.data.parent().unwrap_or(Path::new("/")))
    }
}

/// Where a path leads in a volume: links are followed inside alone, and never those of /proc.
fn within(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let inside = if is_down("subpath") { Resolve::NONE } else { Resolve::IN_ROOT | Resolve::NO_MAGICLINKS };
    let found = sysfs::openat2(root, path, Open::PATH, 0, inside)?;
    if is_down("pause-mounting") {
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    // As who looks at a path first and uses it then (CVE-2021-30465).
    if is_down("race") { sysfs::openat2(root, path, Open::PATH, 0, Resolve::NONE) } else { Ok(found) }
}

/// A detached mount of `root`, or of `subpath` inside it: links are followed inside alone, those of /proc never.
///
/// # Errors
/// `NoSubpath`, `Io`.
pub fn tree_of(
    root: BorrowedFd<'_>,
    subpath: Option<&str>,
    recursive: bool,
    read_only: bool,
) -> Result<OwnedFd, VolumeError> {
    let inner;
    let at = match subpath.filter(|p| !p.is_empty()) {
        None => root,
        Some(path) => {
            let found = within(root, path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => VolumeError::NoSubpath(path.to_owned()),
                _ => VolumeError::Io { act: format!("opening {path:?} in the volume"), source: e },
            })?;
            let kind = sysfs::fstat(found.as_fd()).act(|| format!("looking at {path:?} in the volume"))?.kind;
            if !matches!(kind, Kind::Directory | Kind::Regular) {
                return Err(VolumeError::NoSubpath(path.to_owned()));
            }
            inner = found;
            inner.as_fd()
        }
    };
    let act = || "making the mount of the volume".to_owned();
    let tree = mount::copy_tree(root, at, recursive).act(act)?;
    let private = AttrChange { propagation: Some(Propagation::Private), recursive: true, ..AttrChange::default() };
    mount::mount_setattr(tree.as_fd(), private).act(act)?;
    if read_only {
        let change = AttrChange { set: MountAttr::RDONLY, recursive: true, ..AttrChange::default() };
        mount::mount_setattr(tree.as_fd(), change).act(act)?;
    }
    Ok(tree)
}
