//! A container's own files with a limit: what it writes over its image's, and its /etc/hosts and the like, which it may write, too.
//!
//! They are in `DIR/own`. Beside it lies `own.disk` where that is the mount of a file system of their own; else the folder is a project with a quota. No
//! container sees the folder itself, only what is in it, so the folder's own word for its project is trusted.
//!
//! Every step finds what is there: a container that is made, mounted or removed once more goes on where the last one came to.

use crate::disk::{self, Shape, is_mounted};
use crate::{Act, LimitBy, VolumeError, quota};
use berth_sys::mount;
use berth_sys::quota::Quotas;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const OWN: &str = "own";
const DISK: &str = "own.disk";
/// It has the other name when it is whole.
const DRAFT: &str = "own.disk.new";

/// How long what has a removed container's files open may take to go, before its number keeps the least limit until somebody gets it.
const LETTING_GO: Duration = Duration::from_secs(2);
/// What overlayfs needs to make its work folder anew, and to try out what the file system can: for each change of a folder xfs wants some hundred KiB
/// free, whatever it takes of them.
const LOOSE_BYTES: u64 = 1 << 20;
const LOOSE_FILES: u64 = 16;
/// The same where they have a file system of their own: files in a folder that is removed for the moment.
const SPARE: &str = "spare";
const SPARE_BYTES: usize = 64 << 10;
const SPARE_FILES: u64 = 8;
/// How long a full file system may take until all of that is there again.
const GIVING_BACK: Duration = Duration::from_millis(500);

/// How much a container's own files may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnLimit {
    pub bytes: u64,
    /// Files and folders; `None`: as many as a file system of that size has.
    pub files: Option<u64>,
}

impl OwnLimit {
    fn most_files(&self) -> u64 {
        self.files.unwrap_or_else(|| quota::most_files(self.bytes))
    }
}

/// Those of the container whose folder this is.
#[derive(Clone, Debug)]
pub struct OwnFiles {
    dir: PathBuf,
}

impl OwnFiles {
    pub fn of(dir: &Path) -> OwnFiles {
        OwnFiles { dir: dir.to_owned() }
    }

    /// Where they are; good while they are attached.
    pub fn folder(&self) -> PathBuf {
        self.dir.join(OWN)
    }

    fn exists(&self) -> bool {
        self.folder().symlink_metadata().is_ok_and(|meta| meta.is_dir())
    }

    /// What keeps them to their limit; `None`: they have none, or are not made yet.
    ///
    /// # Errors
    /// `Io`.
    pub fn limited_by(&self) -> Result<Option<LimitBy>, VolumeError> {
        if self.dir.join(DISK).exists() {
            return Ok(Some(LimitBy::Loop));
        }
        Ok(self.project()?.map(|_| LimitBy::Quota))
    }

    fn project(&self) -> Result<Option<u32>, VolumeError> {
        if self.exists() { quota::project_of(&self.folder()) } else { Ok(None) }
    }

    /// A number for their quota; see [`crate::VolumeStore::free_project`].
    ///
    /// # Errors
    /// `NoQuota`, `Io`.
    pub fn free_project(containers: &Path, first: u32, taken: &dyn Fn(u32) -> bool) -> Result<u32, VolumeError> {
        quota::free(containers, first, taken)
    }

    /// Makes their folder, limited by the quota of a project that nobody else has.
    ///
    /// # Errors
    /// `Io`; what is there then goes with [`OwnFiles::remove`].
    pub fn make_quota(&self, project: u32, limit: &OwnLimit) -> Result<(), VolumeError> {
        self.make_folder()?;
        // Never a limit without a folder that leads to it.
        quota::mark(&self.folder(), project)?;
        quota::limit(&self.dir, project, limit.bytes, limit.most_files())
    }

    /// Makes a file system for them, which [`OwnFiles::attach`] mounts. `journal`: they are to be there behind a power cut.
    ///
    /// # Errors
    /// `NoMkfs`, `Mkfs`, `NoRoom`, `Io`: nothing of it is left.
    pub fn make_disk(&self, limit: &OwnLimit, journal: bool) -> Result<(), VolumeError> {
        let draft = self.dir.join(DRAFT);
        remove_file(&draft)?;
        let made = self.make_folder().and_then(|()| disk::has_room(&self.dir, limit.bytes)).and_then(|()| {
            disk::make(&draft, Shape { bytes: limit.bytes, files: limit.files.map(|files| files + FS_OWN), journal })
        });
        let made = made.and_then(|()| {
            let disk = self.dir.join(DISK);
            std::fs::rename(&draft, &disk).act(|| format!("making {}", disk.display()))
        });
        if made.is_err() {
            // What was reserved before the disk was full would keep it full.
            let _ = remove_file(&draft);
        }
        made
    }

    fn make_folder(&self) -> Result<(), VolumeError> {
        match std::fs::create_dir(self.folder()) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.act(|| format!("making {}", self.folder().display())),
        }
    }

    /// Has them where [`OwnFiles::folder`] says; again is fine. `limit`: a quota is looked at, too, and set again where it is another. `of`: whose they
    /// are, for people.
    ///
    /// # Errors
    /// `NoQuota`: it does not hold any more. `Io`, with what the file system says.
    pub fn attach(&self, limit: Option<&OwnLimit>, of: &str) -> Result<(), VolumeError> {
        let at = self.folder();
        if self.dir.join(DISK).exists() {
            if !is_mounted(&at)? {
                let of = format!("the own files of {of}");
                let (tree, _device) = disk::tree(&self.dir.join(DISK), &of)?;
                mount::move_mount(tree.as_fd(), &at).act(|| format!("mounting {of}"))?;
            }
            return if limit.is_some() { self.spare() } else { Ok(()) };
        }
        let Some(limit) = limit else { return Ok(()) };
        let Some(project) = self.project()? else {
            let why = format!(
                "{} is in no project any more, as what was copied there from elsewhere is not: commit the container, and make another one of that image",
                at.display()
            );
            return Err(VolumeError::NoQuota { dir: self.dir.clone(), why });
        };
        quota::check(self.parent(), &at, project, limit.bytes, limit.most_files())
    }

    /// Gives them a little more, until they are attached with their limit again: nothing that is full can be mounted by overlayfs to be written, and
    /// so be emptied.
    ///
    /// # Errors
    /// `Io`.
    pub fn loosen(&self, limit: &OwnLimit) -> Result<(), VolumeError> {
        if let Some(project) = self.project()? {
            return quota::limit(&self.dir, project, limit.bytes + LOOSE_BYTES, limit.most_files() + LOOSE_FILES);
        }
        let spare = self.folder().join(SPARE);
        match std::fs::remove_dir_all(&spare) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).act(|| format!("removing {}", spare.display())),
            _ => Ok(()),
        }
    }

    /// Keeps what [`OwnFiles::loosen`] gives from the container. The mount of a run before this one may be on its way out still, with a folder of
    /// overlayfs' that nobody finds any more: what it gives back would be the container's.
    fn spare(&self) -> Result<(), VolumeError> {
        let spare = self.folder().join(SPARE);
        let until = Instant::now() + GIVING_BACK;
        loop {
            match make_spare(&spare) {
                Err(e) if !berth_sys::fs::is_disk_full(&e) => {
                    return Err(e).act(|| format!("making {}", spare.display()));
                }
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => return Ok(()),
            }
        }
    }

    /// Takes down what [`OwnFiles::attach`] mounted; who has files of it open keeps these. Not mounted is fine.
    ///
    /// # Errors
    /// `Io`.
    pub fn detach(&self) -> Result<(), VolumeError> {
        let at = self.folder();
        while is_mounted(&at)? {
            mount::umount(&at, true).act(|| format!("unmounting {}", at.display()))?;
        }
        Ok(())
    }

    /// Bytes that they take of the host's disk, where that is known without reading them: all of a file system's, whatever is in it.
    ///
    /// # Errors
    /// `Io`.
    pub fn taken(&self) -> Result<Option<u64>, VolumeError> {
        let disk = self.dir.join(DISK);
        match std::fs::metadata(&disk) {
            Ok(meta) => return Ok(Some(meta.blocks() * 512)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).act(|| format!("looking at {}", disk.display()));
            }
            Err(_) => {}
        }
        let Some(project) = self.project()? else { return Ok(None) };
        let used = Quotas::of(&self.dir).and_then(|quotas| quotas.get(project));
        Ok(used.ok().map(|used| used.bytes))
    }

    /// Whether the limit has no room left for a piece of a copy, and not the disk that a quota is on.
    pub fn are_full(&self) -> bool {
        match self.limited_by() {
            Ok(Some(LimitBy::Loop)) => true,
            Ok(Some(LimitBy::Quota)) => !disk::is_full(&self.dir),
            _ => false,
        }
    }

    /// Removes the container's folder with them and all else in it, by `remove`, which removes a tree. Gone already is fine.
    ///
    /// # Errors
    /// `Io`; what `remove` says.
    pub fn remove<E: From<VolumeError>>(&self, remove: impl Fn(&Path) -> Result<(), E>) -> Result<(), E> {
        if self.exists() {
            self.detach()?;
            if let Some(project) = self.project()? {
                self.empty(project, &remove)?;
            }
        }
        remove(&self.dir)
    }

    /// Removes what is in a project, and then its limit, while the folder still says whose it is.
    fn empty<E: From<VolumeError>>(&self, project: u32, remove: &impl Fn(&Path) -> Result<(), E>) -> Result<(), E> {
        let act = || format!("taking the limit of project {project} away");
        let quotas = Quotas::of(&self.dir).act(act)?;
        // The disk was mounted without: there is no limit that could be left.
        if !quotas.enforced().unwrap_or(false) {
            return Ok(());
        }
        // Files that are removed may be open still: nothing is added to them.
        quota::close(&quotas, project).act(act)?;
        let folder = self.folder();
        let list = || -> io::Result<Vec<PathBuf>> { std::fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect() };
        for path in list().act(|| format!("listing {}", folder.display()))? {
            remove(&path)?;
        }
        // What the container had mounted is taken apart by the kernel behind its last process.
        let until = Instant::now() + LETTING_GO;
        loop {
            // But for the folder.
            if quotas.get(project).act(act)?.files <= 1 {
                return quotas.set(project, 0, 0).act(act).map_err(E::from);
            }
            // The number is free when the last of them is closed.
            if Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn parent(&self) -> &Path {
        self.dir.parent().unwrap_or(Path::new("/"))
    }
}

/// Files and folders that an ext4 has from its beginning (11), and those around the container's.
const FS_OWN: u64 = 24 + SPARE_FILES;

fn remove_file(path: &Path) -> Result<(), VolumeError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).act(|| format!("removing {}", path.display())),
        _ => Ok(()),
    }
}

/// What is missing of it. The last file has the bytes: with that it is whole.
fn make_spare(spare: &Path) -> io::Result<()> {
    let last = spare.join("0");
    if std::fs::metadata(&last).is_ok_and(|found| found.len() == SPARE_BYTES as u64) {
        return Ok(());
    }
    match std::fs::create_dir(spare) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    (1..SPARE_FILES).try_for_each(|n| std::fs::write(spare.join(n.to_string()), ""))?;
    std::fs::write(last, vec![0; SPARE_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LIMIT: OwnLimit = OwnLimit { bytes: 16 << 20, files: Some(100) };

    fn remove(own: &OwnFiles) -> Result<(), VolumeError> {
        own.remove(|path| fs::remove_dir_all(path).act(|| format!("removing {}", path.display())))
    }

    fn fresh(name: &str) -> (PathBuf, OwnFiles) {
        let dir = std::env::temp_dir().join(format!("berth-own-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        (dir.clone(), OwnFiles::of(&dir))
    }

    #[test]
    fn a_file_system_is_made_mounted_and_removed() {
        let (dir, own) = fresh("disk");
        assert_eq!((own.limited_by().unwrap(), own.taken().unwrap()), (None, None));
        // Of a container that was never made nothing is there, and nobody is told that something is wrong.
        own.attach(None, "box").unwrap();
        assert!(own.attach(Some(&LIMIT), "box").unwrap_err().to_string().contains("is in no project any more"));
        // An agent died in the middle of this.
        fs::write(dir.join(DRAFT), "half").unwrap();
        own.make_disk(&LIMIT, false).unwrap();
        assert_eq!(own.limited_by().unwrap(), Some(LimitBy::Loop));
        assert!(own.taken().unwrap().is_some_and(|bytes| bytes >= LIMIT.bytes) && !dir.join(DRAFT).exists());
        for _ in 0..2 {
            own.attach(Some(&LIMIT), "box").unwrap();
            assert!(is_mounted(&own.folder()).unwrap() && own.are_full());
            let space = berth_sys::store::disk_space(&own.folder()).unwrap();
            assert!(space.total_bytes < LIMIT.bytes && (90..=200).contains(&space.free_inodes), "{space:?}");
            own.loosen(&LIMIT).unwrap();
            let more = berth_sys::store::disk_space(&own.folder()).unwrap();
            assert!(more.free_bytes >= space.free_bytes + SPARE_BYTES as u64, "{more:?}");
            assert_eq!(more.free_inodes, space.free_inodes + SPARE_FILES + 1);
            own.attach(None, "box").unwrap();
            fs::write(own.folder().join("file"), "kept").unwrap();
            own.detach().unwrap();
            assert!(!is_mounted(&own.folder()).unwrap() && !own.folder().join("file").exists());
        }
        own.attach(None, "box").unwrap();
        // Who has a file open does not hold the removal up.
        let open = fs::File::open(own.folder().join("file")).unwrap();
        remove(&own).unwrap();
        assert!(!dir.exists());
        drop(open);
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let (dir, own) = fresh("none");
        let error = own.make_disk(&OwnLimit { bytes: 1 << 60, files: None }, true).unwrap_err();
        assert!(matches!(error, VolumeError::NoRoom { .. }), "{error}");
        own.make_disk(&OwnLimit { bytes: 8 << 20, files: Some(1 << 40) }, true).unwrap_err();
        assert!(!dir.join(DRAFT).exists() && !dir.join(DISK).exists());
        assert_eq!(own.limited_by().unwrap(), None);
        remove(&own).unwrap();
    }
}
