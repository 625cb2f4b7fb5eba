//! The folder of all volumes.

use crate::disk::{self, Shape, explained, is_mounted};
use crate::held::Shared;
use crate::options::Foreign;
use crate::place::sync;
use crate::{Act, Backing, Parts, Place, VolumeError, parts, quota};
use berth_sys::fs::{self as sysfs, Open};
use berth_sys::mount::{self, FsContext, MountAttr};
use berth_sys::quota::Quotas;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No such file system.
const ENODEV: i32 = 19;
const ENOSPC: i32 = 28;
pub(crate) const DATA: &str = "_data";
const FILL: &str = "_fill";
/// Where a file system of the volume's own is mounted; its files are in [`INSIDE`] there.
const FS: &str = "_fs";
const INSIDE: &str = "data";
const FILL_INSIDE: &str = "fill";
const DISK: &str = "disk";
/// What its maker knows of the volume.
const TOLD: &str = "record.json";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
const IMPORT: &str = ".import-";

/// All volumes of a node. Cheap to clone. What it does blocks.
#[derive(Clone, Debug)]
pub struct VolumeStore {
    dir: PathBuf,
    shared: Shared,
}

/// A volume in the making. Dropped, it stays as a leftover.
#[derive(Debug)]
pub struct Draft {
    pub dir: PathBuf,
}

impl Draft {
    /// Its empty folder of files; of a volume with a file system of its own there is none yet.
    pub fn data(&self) -> PathBuf {
        self.dir.join(DATA)
    }

    /// Keeps with the volume what its maker knows of it, for an agent that finds the folder without a record.
    ///
    /// # Errors
    /// `Io`.
    pub fn describe(&self, text: &[u8]) -> Result<(), VolumeError> {
        let path = self.dir.join(TOLD);
        let act = || format!("writing {}", path.display());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).act(act)?;
        file.write_all(text).and_then(|()| file.sync_all()).act(act)
    }

    /// Removes one whose file system nobody has mounted. What cannot be removed is a leftover, which the next opening finds.
    pub fn discard(self) {
        let project = quota::close_limit(&self.dir).ok().flatten();
        let _ = std::fs::remove_dir_all(&self.dir);
        if let (Some(project), Some(volumes)) = (project, self.dir.parent()) {
            let _ = quota::forget_limit(volumes, project);
        }
    }
}

/// The name of a folder that is no volume yet, or none any more.
pub(crate) fn is_half_done(name: &str) -> bool {
    name.starts_with(NEW) || name.starts_with(GONE)
}

fn make(path: &Path, mode: u32) -> Result<(), VolumeError> {
    let act = || format!("making {}", path.display());
    std::fs::DirBuilder::new().mode(mode).create(path).act(act)?;
    // Whatever the umask is.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).act(act)
}

/// Makes a folder with the owner and mode of `root`: those that the options uid, gid and mode of a tmpfs give to its root. It has its name when it
/// has them.
fn make_as_root_of(root: &Path, path: &Path) -> Result<(), VolumeError> {
    let act = || format!("making {}", path.display());
    let meta = std::fs::metadata(root).act(act)?;
    let new = root.join(NEW);
    match std::fs::create_dir(&new) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.act(act)?,
    }
    // The mode comes last: a new owner takes the set-id bits away (chown(2)).
    std::os::unix::fs::chown(&new, Some(meta.uid()), Some(meta.gid())).act(act)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(meta.mode() & 0o7777)).act(act)?;
    std::fs::rename(&new, path).act(act)
}

impl VolumeStore {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(dir: &Path) -> Result<VolumeStore, VolumeError> {
        let act = || format!("making {}", dir.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).act(act)?;
        Ok(VolumeStore { dir: dir.to_owned(), shared: Shared::default() })
    }

    /// Folders of the host whose contents others than its admins may change ([`crate::held`]): volumes that are folders there stay there.
    #[must_use]
    pub fn with_shared(self, shared: Shared) -> VolumeStore {
        VolumeStore { shared, ..self }
    }

    /// Makes a volume under a name that is none; `random` makes it another's than all others.
    ///
    /// # Errors
    /// `NoMkfs`, `Mkfs`, `NoRoom`, `NoQuota`, `Io`: nothing is left.
    pub fn draft(&self, random: &str, backing: &Backing) -> Result<Draft, VolumeError> {
        let draft = Draft { dir: self.dir.join(format!("{NEW}{random}")) };
        make(&draft.dir, 0o700)?;
        let made = match backing {
            Backing::Folder => make(&draft.dir.join(DATA), 0o755),
            // Never a limit without a folder that leads to it.
            Backing::Quota { bytes, project } => make(&draft.data(), 0o755)
                .and_then(|()| quota::tell(&draft.dir, *project))
                .and_then(|()| quota::mark(&draft.data(), *project))
                .and_then(|()| quota::limit(&self.dir, *project, *bytes, quota::most_files(*bytes))),
            Backing::Bind { .. } => Ok(()),
            Backing::Mount(_) => make(&draft.dir.join(FS), 0o755),
            Backing::Disk { bytes } => make(&draft.dir.join(FS), 0o755)
                .and_then(|()| disk::has_room(&self.dir, *bytes))
                .and_then(|()| disk::make(&draft.dir.join(DISK), Shape { bytes: *bytes, files: None, journal: true })),
        };
        if let Err(e) = made {
            // What was reserved before the disk was full would keep it full.
            draft.discard();
            return Err(e);
        }
        Ok(draft)
    }

    /// A number for the quota of a new volume: one that has no file and no limit, and is not `taken`; looked for from `first` on.
    ///
    /// # Errors
    /// `NoQuota`; `Io`.
    pub fn free_project(&self, first: u32, taken: &dyn Fn(u32) -> bool) -> Result<u32, VolumeError> {
        quota::free(&self.dir, first, taken)
    }

    /// Says beside the files of a volume which project its record has, where nobody has said it yet.
    ///
    /// # Errors
    /// `Io`.
    pub fn tell_project(&self, name: &str, project: u32) -> Result<(), VolumeError> {
        quota::tell_again(&self.dir.join(name), project)
    }

    /// Why no volume's size can be a quota here; `None`: it can.
    pub fn without_quota(&self) -> Option<String> {
        quota::probe(&self.dir).err().map(|e| e.to_string())
    }

    /// How much of its size a volume has used. `None`: it has none, or a file system that is not mounted.
    ///
    /// # Errors
    /// `Io`.
    pub fn used(&self, name: &str, backing: &Backing) -> Result<Option<u64>, VolumeError> {
        let act = || format!("looking how much of the volume {name} is used");
        match backing {
            Backing::Quota { project, .. } => {
                Ok(Some(Quotas::of(&self.dir).and_then(|quotas| quotas.get(*project)).act(act)?.bytes))
            }
            Backing::Disk { .. } => {
                let at = self.dir.join(name).join(FS);
                if !is_mounted(&at)? {
                    return Ok(None);
                }
                let space = berth_sys::store::disk_space(&at).act(act)?;
                Ok(Some(space.total_bytes - space.free_bytes))
            }
            Backing::Folder | Backing::Bind { .. } | Backing::Mount(_) => Ok(None),
        }
    }

    /// The same error of work on a volume's files: when these have no room left, the host's disk may have.
    pub fn within(&self, name: &str, backing: &Backing, error: VolumeError) -> VolumeError {
        // xfs has ENOSPC for both, ext4 EDQUOT for a quota.
        let is_host =
            matches!(backing, Backing::Quota { .. }) && error.errno() == Some(ENOSPC) && disk::is_full(&self.dir);
        if is_host { error } else { error.within(name, backing) }
    }

    /// The volume is whole from here on.
    ///
    /// # Errors
    /// `Io`; `AlreadyExists` when there is one of that name.
    pub fn publish(&self, draft: Draft, name: &str) -> Result<(), VolumeError> {
        let act = || format!("making the volume {name}");
        let renamed = (|| {
            let fd = sysfs::open(&draft.dir, Open::RDONLY | Open::DIRECTORY, 0).act(act)?;
            sysfs::fsync(fd.as_fd()).act(act)?;
            let root = sysfs::open(&self.dir, Open::RDONLY | Open::DIRECTORY, 0).act(act)?;
            let from = draft.dir.file_name().unwrap_or_default();
            sysfs::renameat2(root.as_fd(), from, root.as_fd(), name, true).act(act)?;
            Ok(root)
        })();
        match renamed {
            Ok(root) => sysfs::fsync(root.as_fd()).act(act),
            Err(e) => {
                draft.discard();
                Err(e)
            }
        }
    }

    /// Before a draft with files is published: they are on the disk then.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&self, draft: &Draft) -> Result<(), VolumeError> {
        let act = || format!("syncing {}", draft.dir.display());
        let fd = sysfs::open(&draft.dir, Open::RDONLY | Open::DIRECTORY, 0).act(act)?;
        sysfs::syncfs(fd.as_fd()).act(act)
    }

    /// Takes a volume's name away in one step; its files are where the answer says, to be removed. `None`: there is no such volume.
    ///
    /// # Errors
    /// `Io`: also when its file system is still mounted (`ResourceBusy`).
    pub fn retire(&self, name: &str, random: &str) -> Result<Option<PathBuf>, VolumeError> {
        self.detach(name)?;
        let gone = self.dir.join(format!("{GONE}{random}"));
        match std::fs::rename(self.dir.join(name), &gone) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.act(|| format!("removing the volume {name}"))?,
        }
        sync(&self.dir)?;
        Ok(Some(gone))
    }

    pub fn exists(&self, name: &str) -> bool {
        self.dir.join(name).is_dir()
    }

    /// The names of all that are whole, and the folders that are left of what was half done.
    ///
    /// # Errors
    /// `Io`.
    pub fn list(&self) -> Result<(Vec<String>, Vec<PathBuf>), VolumeError> {
        let act = || format!("listing {}", self.dir.display());
        let (mut names, mut leftovers) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.dir).act(act)? {
            let entry = entry.act(act)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_half_done(&name) {
                leftovers.push(entry.path());
            } else if berth_model::volume::check_volume_name(&name).is_ok() {
                let fill = entry.path().join(FILL);
                if fill.exists() {
                    leftovers.push(fill);
                }
                names.push(name);
            }
        }
        Ok((names, leftovers))
    }

    /// Opens or makes what is kept of an import; `key` has letters and digits only.
    ///
    /// # Errors
    /// `Io`.
    pub fn parts(&self, key: &str) -> Result<Parts, VolumeError> {
        Parts::open(self.parts_dir(key))
    }

    /// Where that is.
    pub fn parts_dir(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{IMPORT}{key}"))
    }

    /// The imports of which nothing has come for so long: their keys and folders.
    ///
    /// # Errors
    /// `Io`.
    pub fn idle_parts(&self, age: Duration) -> Result<Vec<(String, PathBuf)>, VolumeError> {
        let act = || format!("listing {}", self.dir.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).act(act)? {
            let entry = entry.act(act)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(key) = name.strip_prefix(IMPORT).filter(|_| parts::is_idle(&entry.path(), age)) {
                found.push((key.to_owned(), entry.path()));
            }
        }
        Ok(found)
    }

    /// What [`Draft::describe`] has kept.
    pub fn described(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.join(name).join(TOLD)).ok()
    }

    /// Whether the folder holds no files: nothing but the place for a file system's mount.
    pub fn is_bare(&self, name: &str) -> bool {
        let dir = self.dir.join(name);
        let empty = |at: &Path| std::fs::read_dir(at).is_ok_and(|mut entries| entries.next().is_none());
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        entries.map(|e| e.file_name()).all(|n| n == FS) && (!dir.join(FS).exists() || empty(&dir.join(FS)))
    }

    /// What the folder of a volume says of it, where its record was lost: its size, or nothing.
    pub fn guess(&self, name: &str) -> Option<Backing> {
        let dir = self.dir.join(name);
        match std::fs::metadata(dir.join(DISK)) {
            Ok(disk) => Some(Backing::Disk { bytes: disk.len() }),
            Err(_) if dir.join(DATA).is_dir() => {
                let project = quota::told(&dir).ok().flatten();
                let bytes = |project| Some(Quotas::of(&dir).and_then(|quotas| quotas.get(project)).ok()?.most_bytes);
                match project.and_then(|project| Some((project, bytes(project).filter(|bytes| *bytes > 0)?))) {
                    Some((project, bytes)) => Some(Backing::Quota { bytes, project }),
                    None => Some(Backing::Folder),
                }
            }
            Err(_) => None,
        }
    }

    /// Where the files of a volume are; only good while it is attached, where it has a file system of its own.
    pub fn place(&self, name: &str, backing: &Backing) -> Place {
        let dir = self.dir.join(name);
        let own = |at: PathBuf, data: &str, fill: &str| Place {
            data: at.join(data),
            fill: Some(at.join(fill)),
            recursive: false,
            read_only: false,
            project: None,
            shared: Shared::default(),
        };
        match backing {
            Backing::Folder => own(dir, DATA, FILL),
            Backing::Quota { project, .. } => Place { project: Some(*project), ..own(dir, DATA, FILL) },
            Backing::Disk { .. } => own(dir.join(FS), INSIDE, FILL_INSIDE),
            Backing::Mount(f) if f.fs_type == "tmpfs" => own(dir.join(FS), INSIDE, FILL_INSIDE),
            Backing::Mount(f) => Place {
                data: dir.join(FS),
                fill: None,
                recursive: false,
                read_only: f.attributes.contains(MountAttr::RDONLY),
                project: None,
                shared: Shared::default(),
            },
            Backing::Bind { path, recursive, read_only } => Place {
                data: path.into(),
                fill: None,
                recursive: *recursive,
                read_only: *read_only,
                project: None,
                shared: self.shared.clone(),
            },
        }
    }

    /// Files of a volume that count on the disk.
    pub fn counted(&self, name: &str, backing: &Backing) -> Option<PathBuf> {
        match backing {
            Backing::Folder | Backing::Quota { .. } => Some(self.dir.join(name).join(DATA)),
            Backing::Disk { .. } => Some(self.dir.join(name)),
            Backing::Bind { .. } | Backing::Mount(_) => None,
        }
    }

    /// Mounts the volume's file system, where it has one and it is not mounted yet; a quota is looked at, and set again where it is another.
    ///
    /// # Errors
    /// `NoQuota`: it does not hold any more. `Io`, with what the file system says.
    pub fn attach(&self, name: &str, backing: &Backing) -> Result<(), VolumeError> {
        let at = self.dir.join(name).join(FS);
        let inside = match backing {
            Backing::Folder | Backing::Bind { .. } => return Ok(()),
            Backing::Quota { bytes, project } => {
                let data = self.dir.join(name).join(DATA);
                return quota::check(&self.dir, &data, *project, *bytes, quota::most_files(*bytes));
            }
            Backing::Disk { .. } => true,
            Backing::Mount(f) => f.fs_type == "tmpfs",
        };
        if !is_mounted(&at)? {
            let act = || format!("mounting the volume {name}");
            let (tree, _device) = match backing {
                Backing::Mount(foreign) => {
                    self.leads_through_none(foreign).act(act)?;
                    (mount_foreign(foreign, name)?, None)
                }
                _ => {
                    let (tree, device) = disk::tree(&self.dir.join(name).join(DISK), &format!("the volume {name}"))?;
                    (tree, Some(device))
                }
            };
            mount::move_mount(tree.as_fd(), &at).act(act)?;
            if inside {
                // Of an import or a fill that was cut: it would take the volume's room, and nobody sees it.
                match std::fs::remove_dir_all(at.join(FILL_INSIDE)) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other.act(|| format!("removing what was left in the volume {name}"))?,
                }
            }
        }
        if inside {
            let data = at.join(INSIDE);
            if !data.is_dir() {
                match backing {
                    Backing::Mount(_) => make_as_root_of(&at, &data)?,
                    _ => make(&data, 0o755)?,
                }
            }
        }
        Ok(())
    }

    /// A file system takes paths as text and follows them by itself: none may go where others than admins put links.
    fn leads_through_none(&self, foreign: &Foreign) -> io::Result<()> {
        // Theirs are paths of another machine.
        if matches!(foreign.fs_type.as_str(), "nfs" | "nfs4" | "cifs" | "smb3" | "ceph") {
            return Ok(());
        }
        let values = foreign.parameters.iter().filter_map(|(_, value)| value.as_deref());
        let paths = values.chain([foreign.device.as_str()]).flat_map(|value| value.split([':', ',']));
        for path in paths.filter(|path| path.starts_with('/')) {
            if let Some(folder) = self.shared.of(Path::new(path)) {
                let why = format!("{path} leads through {}, where others than admins may put links", folder.given());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        }
        Ok(())
    }

    /// Takes down what [`VolumeStore::attach`] mounted; not mounted is fine.
    ///
    /// # Errors
    /// `Io`: `ResourceBusy` while somebody has a file of it open through the host's table.
    pub fn detach(&self, name: &str) -> Result<(), VolumeError> {
        let at = self.dir.join(name).join(FS);
        while is_mounted(&at)? {
            mount::umount(&at, false).act(|| format!("unmounting the volume {name}"))?;
        }
        Ok(())
    }
}

/// The first address of a host.
fn address_of(host: &str) -> io::Result<IpAddr> {
    let found = (host, 0u16).to_socket_addrs()?.next();
    found.map(|a| a.ip()).ok_or_else(|| io::Error::other(format!("{host} has no address")))
}

fn mount_foreign(f: &Foreign, name: &str) -> Result<std::os::fd::OwnedFd, VolumeError> {
    let act = || format!("mounting {} {} for the volume {name}", f.fs_type, f.device);
    let context = match FsContext::open(&f.fs_type) {
        // Neither built in nor a module that could be loaded.
        Err(e) if e.raw_os_error() == Some(ENODEV) => return Err(VolumeError::NoFileSystem(f.fs_type.clone())),
        other => other.act(act)?,
    };
    let set = || -> io::Result<()> {
        for (key, value) in f.words(address_of)? {
            match value {
                None => context.set_flag(&key)?,
                Some(value) => context.set_string(&key, value)?,
            }
        }
        context.create()
    };
    set().map_err(|e| explained(e, &context)).act(act)?;
    context.mount(f.attributes).act(act)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("berth-volume-test-{}", std::process::id()));
        let store = VolumeStore::open(&dir).unwrap();
        let error = store.draft("a", &Backing::Disk { bytes: 1 << 60 }).unwrap_err();
        assert!(matches!(error, VolumeError::NoRoom { .. }) && error.disk_full(), "{error}");
        // Too small for mkfs.ext4 (or there is none).
        store.draft("b", &Backing::Disk { bytes: 512 }).unwrap_err();
        assert_eq!(store.list().unwrap(), (Vec::new(), Vec::new()));
        store.draft("c", &Backing::Folder).unwrap().discard();
        assert_eq!(store.list().unwrap().1, Vec::<PathBuf>::new());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_kept_of_an_import_is_no_volume_and_gets_old() {
        let dir = std::env::temp_dir().join(format!("berth-volume-parts-{}", std::process::id()));
        let store = VolumeStore::open(&dir).unwrap();
        let (old, new) = (store.parts("old").unwrap(), store.parts("new").unwrap());
        assert_eq!((old.safe(), new.safe()), (0, 0));
        let hours_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
        std::fs::File::open(store.parts_dir("old")).unwrap().set_modified(hours_ago).unwrap();
        assert_eq!(store.list().unwrap(), (Vec::new(), Vec::new()));
        let hour = Duration::from_secs(3600);
        assert_eq!(store.idle_parts(hour).unwrap(), [("old".to_owned(), store.parts_dir("old"))]);
        // Whoever comes back to it has it.
        store.parts("old").unwrap();
        assert_eq!(store.idle_parts(hour).unwrap(), []);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
