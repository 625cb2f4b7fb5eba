//! File systems of a fixed size, in files behind loop devices.

use crate::{Act, VolumeError};
use berth_sys::fs::{self as sysfs, Open};
use berth_sys::loop_device::{self, LoopDevice};
use berth_sys::mount::{self, FsContext, MountAttr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

/// A disk with less than a piece of a copy is full.
const NO_ROOM: u64 = 1 << 20;

/// What a file system is made as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub bytes: u64,
    /// Files and folders that it takes; `None`: as many as mkfs.ext4 gives to one of its size.
    pub files: Option<u64>,
    /// Without one nothing is worth its files behind a power cut.
    pub journal: bool,
}

/// Said before the kernel has filled the disk to say it.
pub(crate) fn has_room(dir: &Path, bytes: u64) -> Result<(), VolumeError> {
    let act = || format!("looking how much room {} has", dir.display());
    let free = berth_sys::store::disk_space(dir).act(act)?.free_bytes;
    if bytes > free { Err(VolumeError::NoRoom { bytes, free }) } else { Ok(()) }
}

/// Whether the host's disk, which has quotas, has no room left: xfs has ENOSPC for that as for a quota.
pub(crate) fn is_full(dir: &Path) -> bool {
    berth_sys::store::disk_space(dir).is_ok_and(|space| space.free_bytes < NO_ROOM || space.free_inodes == 0)
}

/// A file of that many bytes, all of them reserved, with an ext4 in it.
pub(crate) fn make(path: &Path, shape: Shape) -> Result<(), VolumeError> {
    let bytes = shape.bytes;
    let act = || format!("reserving {bytes} bytes for {}", path.display());
    let file = sysfs::open(path, Open::RDWR | Open::CREATE | Open::EXCL, 0o600).act(act)?;
    // Reserved, so that a full host is no error of the file system inside.
    sysfs::fallocate(file.as_fd(), 0, bytes, false).act(act)?;
    // nodiscard: it would give the reserved room back. -m 0: nothing is kept for root, whose the container's files are.
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"]);
    if let Some(files) = shape.files {
        mkfs.arg("-N").arg(files.to_string());
    }
    if !shape.journal {
        mkfs.args(["-O", "^has_journal"]);
    }
    let made = mkfs.arg(path).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").stdin(Stdio::null()).output();
    match made {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(VolumeError::NoMkfs),
        Err(e) => return Err(e).act(|| "running mkfs.ext4".into()),
        Ok(done) if !done.status.success() => {
            let said: String = String::from_utf8_lossy(&done.stderr).chars().take(400).collect();
            return Err(VolumeError::Mkfs(said.trim().replace('\n', "; ")));
        }
        Ok(_) => {}
    }
    sysfs::fsync(file.as_fd()).act(|| format!("syncing {}", path.display()))
}

/// Its detached mount; the device has to live until that is attached. `of`: whose it is, for people.
pub(crate) fn tree(path: &Path, of: &str) -> Result<(OwnedFd, LoopDevice), VolumeError> {
    let act = || format!("mounting {of}");
    let device = match loop_device::find(path).act(act)? {
        Some(found) => found,
        None => {
            let file = sysfs::open(path, Open::RDWR, 0).act(act)?;
            loop_device::attach(file.as_fd()).act(|| format!("making a loop device for {of}"))?
        }
    };
    let context = FsContext::open("ext4").act(act)?;
    let made = context.set_string("source", &device.path).and_then(|()| context.create());
    made.map_err(|e| explained(e, &context)).act(act)?;
    Ok((context.mount(MountAttr::NONE).act(act)?, device))
}

pub(crate) fn is_mounted(at: &Path) -> Result<bool, VolumeError> {
    let act = || format!("looking at {}", at.display());
    match sysfs::open(at, Open::PATH | Open::DIRECTORY | Open::NOFOLLOW, 0) {
        Ok(fd) => mount::is_mount_root(fd.as_fd()).act(act),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).act(act),
    }
}

/// With what the file system says of it.
pub(crate) fn explained(e: io::Error, context: &FsContext) -> io::Error {
    match context.messages() {
        said if said.is_empty() => e,
        said => io::Error::new(e.kind(), format!("{e} ({said})")),
    }
}
