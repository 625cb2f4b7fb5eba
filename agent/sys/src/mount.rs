//! Mounts as file descriptors: fsopen, fsmount, move_mount, mount_setattr.
//!
//! The new mount API (Linux 5.2, `mount_setattr` 5.12) makes a mount that hangs nowhere: it lives as long as its descriptor does, and the
//! host's mount table never shows it. The classic calls are here too, for what a container's init does inside its own namespace.

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Attributes of a mount (mount_setattr(2)). Joined with `|`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MountAttr(u64);

impl MountAttr {
    pub const NONE: Self = MountAttr(0);
    pub const RDONLY: Self = MountAttr(libc::MOUNT_ATTR_RDONLY);
    pub const NOSUID: Self = MountAttr(libc::MOUNT_ATTR_NOSUID);
    pub const NODEV: Self = MountAttr(libc::MOUNT_ATTR_NODEV);
    pub const NOEXEC: Self = MountAttr(libc::MOUNT_ATTR_NOEXEC);
    pub const NOATIME: Self = MountAttr(libc::MOUNT_ATTR_NOATIME);
    pub const STRICTATIME: Self = MountAttr(libc::MOUNT_ATTR_STRICTATIME);
    pub const NODIRATIME: Self = MountAttr(libc::MOUNT_ATTR_NODIRATIME);
    /// Linux 5.14.
    const IDMAP: u64 = libc::MOUNT_ATTR_IDMAP;
    const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

    pub const fn union(self, other: Self) -> Self {
        MountAttr(self.0 | other.0)
    }

    /// MOUNT_ATTR_* bits as the kernel numbers them.
    pub const fn from_bits(bits: u64) -> Self {
        MountAttr(bits)
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for MountAttr {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl std::ops::BitOrAssign for MountAttr {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

/// Flags of classic mount(2). Joined with `|`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MountFlags(u32);

impl MountFlags {
    pub const NONE: Self = MountFlags(0);
    pub const RDONLY: Self = MountFlags(libc::MS_RDONLY as u32);
    pub const NOSUID: Self = MountFlags(libc::MS_NOSUID as u32);
    pub const NODEV: Self = MountFlags(libc::MS_NODEV as u32);
    pub const NOEXEC: Self = MountFlags(libc::MS_NOEXEC as u32);
    pub const NOATIME: Self = MountFlags(libc::MS_NOATIME as u32);
    pub const RELATIME: Self = MountFlags(libc::MS_RELATIME as u32);
    pub const STRICTATIME: Self = MountFlags(libc::MS_STRICTATIME as u32);
    pub const BIND: Self = MountFlags(libc::MS_BIND as u32);
    pub const REC: Self = MountFlags(libc::MS_REC as u32);
    pub const REMOUNT: Self = MountFlags(libc::MS_REMOUNT as u32);
    pub const MOVE: Self = MountFlags(libc::MS_MOVE as u32);

    /// MS_* bits as the kernel numbers them.
    pub const fn from_bits(bits: u32) -> Self {
        MountFlags(bits)
    }
}

impl std::ops::BitOr for MountFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        MountFlags(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for MountFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How mount events travel (mount_namespaces(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Propagation {
    Private,
    Shared,
    Slave,
    Unbindable,
}

impl Propagation {
    const fn bits(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A file system being configured: fsopen(2), Linux 5.2.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// `ENODEV`: the kernel has no such file system.
    pub fn open(fs_name: &str) -> io::Result<Self> {
        Ok(FsContext(rustix::mount::fsopen(fs_name, FsOpenFlags::FSOPEN_CLOEXEC)?))
    }

    /// At most 255 bytes of value.
    pub fn set_string(&self, key: &str, value: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_string(&self.0, key, value.as_ref())?)
    }

    pub fn set_flag(&self, key: &str) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_flag(&self.0, key)?)
    }

    /// overlay takes its layers so since Linux 6.13; before that `EINVAL`.
    pub fn set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_fd(&self.0, key, fd)?)
    }

    /// Makes the superblock, or takes an existing one of the same source.
    pub fn create(&self) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_create(&self.0)?)
    }

    /// The detached mount. At most once.
    pub fn mount(&self, attributes: MountAttr) -> io::Result<OwnedFd> {
        let bits = MountAttrFlags::from_bits_retain(attributes.0 as u32);
        Ok(rustix::mount::fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, bits)?)
    }

    /// What the file system said about the last failure: lines of `e text`, `w text`, `i text` (Linux 5.2). Empty: nothing.
    pub fn messages(&self) -> String {
        let mut out = String::new();
        let mut line = [0u8; 1024];
        // One read gives one message; ENODATA ends it.
        while let Ok(n) = rustix::io::read(&self.0, &mut line) {
            if n == 0 || out.len() > 8192 {
                break;
            }
            if !out.is_empty() {
                out.push_str("; ");
            }
            out.push_str(String::from_utf8_lossy(&line[..n]).trim_end());
        }
        out
    }
}

/// A tree of mounts as a descriptor: open_tree(2), Linux 5.2. `clone`: a detached copy (a bind mount that hangs nowhere), else just an
/// `O_PATH` descriptor. `recursive`: with the mounts below it.
pub fn open_tree(dir: Option<BorrowedFd<'_>>, path: &Path, clone: bool, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if clone {
        flags |= OpenTreeFlags::OPEN_TREE_CLONE;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    Ok(rustix::mount::open_tree(dir.unwrap_or(rustix::fs::CWD), path, flags)?)
}

/// A detached copy of what `at` is open on in the mount `root`, which may be detached itself.
///
/// Before Linux 6.15 only what hangs somewhere is copied (`EINVAL`): there a thread of its own hangs `root` into a mount namespace of its
/// own, and both go with that thread. The copy stays.
pub fn copy_tree(root: BorrowedFd<'_>, at: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    match open_tree(Some(at), Path::new(""), true, recursive) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
        other => return other,
    }
    std::thread::scope(|scope| {
        let copy = scope.spawn(|| copy_hung(root, at, recursive));
        copy.join().unwrap_or_else(|_| Err(io::Error::other("the thread that copies a mount has ended")))
    })
}

/// On a thread that ends behind it: its mount namespace is another one from here on, with `root` over all of it.
fn hang_here(root: BorrowedFd<'_>) -> io::Result<()> {
    crate::process::unshare(libc::CLONE_NEWNS as u64)?;
    // Nothing of it is to be seen in the namespace that it is a copy of.
    set_propagation(Path::new("/"), Propagation::Private, true)?;
    move_mount(root, Path::new("/"))
}

fn copy_hung(root: BorrowedFd<'_>, at: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    hang_here(root)?;
    open_tree(Some(at), Path::new(""), true, recursive)
}

/// Lets `work` hang mounts into the mount `root`, which hangs nowhere itself, and gives the root that has them.
///
/// Before Linux 6.15 nothing is mounted on what hangs nowhere (`EINVAL`): there `work` runs on a thread whose mount namespace has `root`, and what
/// comes back is a copy of it with all that is mounted below; `root` itself stays as it was.
pub fn furnish<T: Send>(
    root: BorrowedFd<'_>,
    work: impl FnOnce(BorrowedFd<'_>) -> T + Send,
) -> io::Result<(OwnedFd, T)> {
    if mounts_on_detached() {
        let done = work(root);
        return Ok((root.try_clone_to_owned()?, done));
    }
    furnish_hung(root, work)
}

fn furnish_hung<T: Send>(
    root: BorrowedFd<'_>,
    work: impl FnOnce(BorrowedFd<'_>) -> T + Send,
) -> io::Result<(OwnedFd, T)> {
    std::thread::scope(|scope| {
        let furnished = scope.spawn(|| {
            hang_here(root)?;
            let done = work(root);
            Ok((open_tree(Some(root), Path::new(""), true, true)?, done))
        });
        furnished.join().unwrap_or_else(|_| Err(io::Error::other("the thread that mounts has ended")))
    })
}

/// Whether this kernel mounts on mounts that hang nowhere (Linux 6.15).
fn mounts_on_detached() -> bool {
    static DOES: OnceLock<bool> = OnceLock::new();
    *DOES.get_or_init(|| {
        let memory = || {
            let fs = FsContext::open("tmpfs")?;
            fs.create()?;
            fs.mount(MountAttr::NONE)
        };
        matches!((memory(), memory()), (Ok(below), Ok(above)) if move_mount_to_fd(above.as_fd(), below.as_fd()).is_ok())
    })
}

/// Hangs the mount `from` at `path`; a symlink at the end of `path` is not followed.
pub fn move_mount(from: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    move_mount_at(from, None, path)
}

/// Hangs the mount `from` at `path` below `dir`; a symlink at the end is not followed.
pub fn move_mount_at(from: BorrowedFd<'_>, dir: Option<BorrowedFd<'_>>, path: &Path) -> io::Result<()> {
    let to = dir.unwrap_or(rustix::fs::CWD);
    Ok(rustix::mount::move_mount(from, c"", to, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Hangs the mount `from` on what `to` is open on, whatever path that has by now.
pub fn move_mount_to_fd(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(from, c"", to, c"", flags)?)
}

/// What [`mount_setattr`] changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttrChange<'a> {
    pub set: MountAttr,
    pub clear: MountAttr,
    pub propagation: Option<Propagation>,
    /// A user namespace whose map the mount takes on (Linux 5.12; overlay as a lower layer 5.19). Only for detached mounts.
    pub idmap: Option<BorrowedFd<'a>>,
    /// The mounts below too: all or none is changed.
    pub recursive: bool,
}

/// mount_setattr(2), Linux 5.12, on the mount that `fd` is open on.
pub fn mount_setattr(fd: BorrowedFd<'_>, change: AttrChange<'_>) -> io::Result<()> {
    let mut attr_set = change.set.0;
    let mut attr_clr = change.clear.0;
    if change.set.0 & MountAttr::ATIME != 0 {
        // The atime modes are one field, not bits: the kernel wants all of it cleared when one is set.
        attr_clr |= MountAttr::ATIME;
    }
    let mut userns_fd = 0;
    if let Some(ns) = change.idmap {
        attr_set |= MountAttr::IDMAP;
        userns_fd = ns.as_raw_fd() as u64;
    }
    let attr = libc::mount_attr {
        attr_set,
        attr_clr,
        propagation: change.propagation.map_or(0, Propagation::bits),
        userns_fd,
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives across the call and its true size is passed.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Classic mount(2). Empty `source`, `fs_type` and `data` are passed as NULL.
pub fn mount(source: &OsStr, target: &Path, fs_type: &str, flags: MountFlags, data: &str) -> io::Result<()> {
    let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (source, target) = (c(source.as_bytes())?, c(target.as_os_str().as_bytes())?);
    let (fs_type, data) = (c(fs_type.as_bytes())?, c(data.as_bytes())?);
    let or_null = |s: &CString| if s.is_empty() { std::ptr::null() } else { s.as_ptr() };
    // SAFETY: every pointer is NULL or a NUL-terminated string that lives across the call.
    let ret = unsafe {
        libc::mount(
            or_null(&source),
            target.as_ptr(),
            or_null(&fs_type),
            libc::c_ulong::from(flags.0),
            or_null(&data).cast(),
        )
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Changes how mount events travel at `target` (and below it).
pub fn set_propagation(target: &Path, propagation: Propagation, recursive: bool) -> io::Result<()> {
    let mut flags = MountPropagationFlags::from_bits_retain(propagation.bits() as u32);
    if recursive {
        flags |= MountPropagationFlags::REC;
    }
    Ok(rustix::mount::mount_change(target, flags)?)
}

/// umount2(2) without following a symlink. `detach`: lazily, even when busy.
pub fn umount(target: &Path, detach: bool) -> io::Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if detach {
        flags |= UnmountFlags::DETACH;
    }
    Ok(rustix::mount::unmount(target, flags)?)
}

/// pivot_root(2); `pivot_root(".", ".")` stacks the old root on the new one, to be unmounted lazily.
pub fn pivot_root(new_root: &Path, put_old: &Path) -> io::Result<()> {
    Ok(rustix::process::pivot_root(new_root, put_old)?)
}

/// Whether `fd` is open on the root of a mount (statx(2) `STATX_ATTR_MOUNT_ROOT`, Linux 5.8).
pub fn is_mount_root(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    let st = rustix::fs::statx(fd.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(st.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// To and from where mounts below a mount travel (mount_namespaces(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peers {
    pub shared: bool,
    pub slave: bool,
}

/// A mount of this mount namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub point: PathBuf,
    pub peers: Peers,
}

/// The mount that `fd` is open on.
///
/// # Errors
/// `NotFound`: it hangs nowhere in this mount namespace.
pub fn peers(fd: BorrowedFd<'_>) -> io::Result<Found> {
    // The id is in fdinfo since Linux 3.15; statx(2) has it since 5.8 only.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = info.lines().find_map(|l| l.strip_prefix("mnt_id:")).map_or("", str::trim);
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    let line = mounts.split(|b| *b == b'\n').find_map(|line| peers_of(line, id));
    line.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("mount {id} is not in /proc/self/mountinfo")))
}

/// A line of mountinfo, when it is that of the mount `id` (proc_pid_mountinfo(5)): id, parent, device, root, mount point, options, any number of
/// optional fields, and a dash.
pub(crate) fn peers_of(line: &[u8], id: &str) -> Option<Found> {
    let mut fields = line.split(|b| *b == b' ');
    if fields.next()? != id.as_bytes() {
        return None;
    }
    let point = PathBuf::from(std::ffi::OsString::from_vec(unescaped(fields.nth(3)?)));
    let optional = fields.skip(1).take_while(|f| *f != b"-");
    let peers = optional.fold(Peers::default(), |p, field| Peers {
        shared: p.shared || field.starts_with(b"shared:"),
        slave: p.slave || field.starts_with(b"master:"),
    });
    Some(Found { point, peers })
}

/// Blanks, tabs, line ends and backslashes stand there as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), field);
    while let Some((first, more)) = rest.split_first() {
        let octal = more.get(..3).filter(|_| *first == b'\\');
        let value = octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &more[3..] } else { more };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_says_how_mounts_travel() {
        let of = |line: &str| peers_of(line.as_bytes(), "36").map(|f| (f.point, f.peers.shared, f.peers.slave));
        let both = "36 35 98:0 /mnt1 /mnt\\040two rw,noatime shared:1 master:2 propagate_from:3 - ext3 /dev/root rw";
        assert_eq!(of(both), Some(("/mnt two".into(), true, true)));
        assert_eq!(of("36 35 98:0 / / rw - ext3 shared:1 rw"), Some(("/".into(), false, false)));
        assert_eq!(of("36 35 98:0 / /a\\134b\\9 rw unbindable - x y z"), Some(("/a\\b\\9".into(), false, false)));
        assert_eq!(of("136 35 98:0 / / rw shared:1 - ext3 /dev/root rw"), None);
        let root = crate::fs::open("/", crate::fs::Open::PATH, 0).unwrap();
        assert_eq!(peers(root.as_fd()).unwrap().point, Path::new("/"));
    }

    /// As root: both ways to a copy of a part of a mount that hangs nowhere.
    #[test]
    fn a_part_of_a_detached_mount_is_copied() {
        for old in [false, true] {
            let Ok(context) = FsContext::open("tmpfs") else { return };
            context.create().unwrap();
            let root = context.mount(MountAttr::NOSUID).unwrap();
            crate::fs::mkdirat(root.as_fd(), "a", 0o700).unwrap();
            crate::fs::mkdirat(root.as_fd(), "a/b", 0o700).unwrap();
            let a = crate::fs::openat(root.as_fd(), "a", crate::fs::Open::PATH, 0).unwrap();
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let copy = if old {
                let (root, a) = (root.as_fd(), a.as_fd());
                std::thread::scope(|scope| scope.spawn(|| copy_hung(root, a, false)).join().unwrap()).unwrap()
            } else {
                copy_tree(root.as_fd(), a.as_fd(), false).unwrap()
            };
            drop(root);
            assert!(crate::fs::openat(copy.as_fd(), "b", crate::fs::Open::PATH, 0).is_ok());
            assert!(is_mount_root(copy.as_fd()).unwrap());
            assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts, "nothing hangs here");
        }
    }

    /// As root: both ways to mount on a mount that hangs nowhere.
    #[test]
    fn mounts_are_hung_into_a_detached_mount() {
        for old in [false, true] {
            let memory = || {
                let context = FsContext::open("tmpfs").ok()?;
                context.create().ok()?;
                context.mount(MountAttr::NOSUID).ok()
            };
            let (Some(root), Some(above)) = (memory(), memory()) else { return };
            crate::fs::mkdirat(root.as_fd(), "a", 0o700).unwrap();
            crate::fs::mkdirat(above.as_fd(), "b", 0o700).unwrap();
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let work = |root: BorrowedFd<'_>| {
                let a = crate::fs::openat(root, "a", crate::fs::Open::PATH, 0)?;
                move_mount_to_fd(above.as_fd(), a.as_fd())
            };
            let (furnished, done) =
                if old { furnish_hung(root.as_fd(), work) } else { furnish(root.as_fd(), work) }.unwrap();
            done.unwrap();
            drop((root, above));
            let found = crate::fs::openat(furnished.as_fd(), "a/b", crate::fs::Open::PATH, 0);
            assert!(found.is_ok(), "old: {old}");
            assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts, "nothing hangs here");
        }
    }

    #[test]
    fn a_detached_tmpfs_changes_its_attributes() {
        let context = FsContext::open("tmpfs").expect("fsopen tmpfs");
        context.set_string("size", "64k").expect("size");
        context.create().expect("create");
        let fd = context.mount(MountAttr::NOSUID | MountAttr::NODEV).expect("fsmount");
        assert!(is_mount_root(fd.as_fd()).expect("statx"));
        let at = |name: &str| std::path::PathBuf::from(format!("/proc/self/fd/{}/{name}", fd.as_raw_fd()));
        std::fs::write(at("a"), b"x").expect("writable");
        mount_setattr(fd.as_fd(), AttrChange { set: MountAttr::RDONLY, recursive: true, ..AttrChange::default() })
            .expect("read-only");
        let refused = std::fs::write(at("a"), b"y").expect_err("read-only now");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    }

    #[test]
    fn a_refused_option_is_explained() {
        let context = FsContext::open("overlay").expect("fsopen overlay");
        assert!(context.set_string("no-such-option", "1").is_err());
        assert!(context.messages().contains("no-such-option"), "{}", context.messages());
        assert_eq!(FsContext::open("no-such-fs").expect_err("unknown").raw_os_error(), Some(libc::ENODEV));
    }
}
