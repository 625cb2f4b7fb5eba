//! What has to be made with the host's rights before a process goes into a user namespace, as detached mounts.

use crate::tree;
use berth_model::wire::plan::{Bytes, Node};
use berth_sys::fs::{self, Kind, Open};
use berth_sys::mount::{self, FsContext, MountAttr, MountFlags, Propagation};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file system that shows a namespace which is another user namespace's: a network's sysfs, the host's processes.
pub fn kernel_tree(fs_type: &str, read_only: bool) -> io::Result<OwnedFd> {
    let context = FsContext::open(fs_type)?;
    context.create()?;
    let mut attributes = MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC;
    if read_only {
        attributes |= MountAttr::RDONLY;
    }
    context.mount(attributes)
}

/// The host's mounts as another runtime is to see them. What the host mounts from now on comes through, and nothing goes back.
pub fn host_view(folder: &Path, without: &[Bytes<'_>]) -> io::Result<()> {
    mount::set_propagation(Path::new("/"), Propagation::Slave, true)?;
    for path in without {
        mount::umount(Path::new(OsStr::from_bytes(path)), true)?;
    }
    // The container's root has to pass through it, whoever that is on the host.
    mount::mount(OsStr::new("tmpfs"), folder, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=711")
}

/// A null device that is nobody else's, for programs that give their standard streams to the container's user (crun does).
pub fn private_null() -> io::Result<OwnedFd> {
    let node = Node { path: b"null"[..].into(), block: false, mode: 0o666, major: 1, minor: 3, uid: 0, gid: 0 };
    let folder = device_tree(&[(b"mode"[..].into(), b"755"[..].into())], (0, 0), &[node], false)?;
    fs::openat(folder.as_fd(), OsStr::new("null"), Open::RDWR, 0)
}

/// Nobody makes devices in a user namespace, and a tmpfs that was mounted there opens none.
pub fn device_tree(
    options: &[(Bytes<'_>, Bytes<'_>)],
    owner: (u32, u32),
    nodes: &[Node<'_>],
    pick: bool,
) -> io::Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    for (key, value) in options {
        let key = std::str::from_utf8(key).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        context.set_string(key, OsStr::from_bytes(value))?;
    }
    context.create()?;
    let tmpfs = context.mount(MountAttr::NOSUID | MountAttr::STRICTATIME)?;
    let root = tmpfs.as_fd();
    fs::fchownat(root, "", owner.0, owner.1)?;
    for node in nodes {
        let Node { path, block, mode, major, minor, uid, gid } = node;
        let (mut folder, mut name) = (None, &path[..]);
        while let Some(at) = name.iter().position(|b| *b == b'/') {
            let above = folder.as_ref().map_or(root, OwnedFd::as_fd);
            let part = OsStr::from_bytes(&name[..at]);
            match fs::mkdirat(above, part, 0o755) {
                Ok(()) => fs::fchownat(above, part, owner.0, owner.1)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            folder = Some(fs::openat(above, part, Open::PATH | Open::DIRECTORY | Open::NOFOLLOW, 0)?);
            name = &name[at + 1..];
        }
        let above = folder.as_ref().map_or(root, OwnedFd::as_fd);
        let kind = if *block { Kind::BlockDevice } else { Kind::CharDevice };
        match fs::mknodat(above, OsStr::from_bytes(name), kind, *mode, *major, *minor) {
            Ok(()) => fs::fchownat(above, OsStr::from_bytes(name), *uid, *gid)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    let Some(first) = nodes.first().filter(|_| pick) else { return Ok(tmpfs) };
    let node = tree::there(root, &first.path)?;
    mount::copy_tree(root, node.as_fd(), false)
}
