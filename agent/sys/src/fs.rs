//! Files relative to a folder: openat2, extended attributes, device nodes.
//!
//! Names are bytes (`AsRef<OsStr>`); the kernel's limits (255 bytes a component, 4,096 a path) come back as its own errors.

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, IFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags,
};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

macro_rules! flag_set {
    ($(#[$doc:meta])* $name:ident: $bits:ty { $($(#[$flag_doc:meta])* $flag:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name($bits);
        impl $name {
            pub const NONE: Self = $name(0);
            $($(#[$flag_doc])* pub const $flag: Self = $name($value);)*
        }
        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                $name(self.0 | other.0)
            }
        }
        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }
    };
}

flag_set! {
    /// Flags of open(2); `O_CLOEXEC` is always added. Joined with `|`.
    Open: u32 {
        RDONLY = libc::O_RDONLY as u32;
        WRONLY = libc::O_WRONLY as u32;
        RDWR = libc::O_RDWR as u32;
        CREATE = libc::O_CREAT as u32;
        EXCL = libc::O_EXCL as u32;
        TRUNC = libc::O_TRUNC as u32;
        APPEND = libc::O_APPEND as u32;
        DIRECTORY = libc::O_DIRECTORY as u32;
        NOFOLLOW = libc::O_NOFOLLOW as u32;
        NONBLOCK = libc::O_NONBLOCK as u32;
        /// Past the page cache; offsets, lengths and addresses in memory are multiples of the device's block, mostly 512 or 4096.
        DIRECT = libc::O_DIRECT as u32;
        NOATIME = libc::O_NOATIME as u32;
        PATH = libc::O_PATH as u32;
    }
}

flag_set! {
    /// How openat2(2) (Linux 5.6) walks a path. Joined with `|`.
    Resolve: u64 {
        /// The folder is the root: absolute links and `..` stay inside.
        IN_ROOT = ResolveFlags::IN_ROOT.bits();
        /// What would leave the folder is `EXDEV`.
        BENEATH = ResolveFlags::BENEATH.bits();
        /// A symlink anywhere is `ELOOP`.
        NO_SYMLINKS = ResolveFlags::NO_SYMLINKS.bits();
        /// The links of /proc that name open files are `ELOOP`.
        NO_MAGICLINKS = ResolveFlags::NO_MAGICLINKS.bits();
        /// Another mount on the way is `EXDEV`.
        NO_XDEV = ResolveFlags::NO_XDEV.bits();
    }
}

/// What kind of file an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    Unknown,
}

impl From<FileType> for Kind {
    fn from(t: FileType) -> Self {
        match t {
            FileType::RegularFile => Kind::Regular,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => Kind::Unknown,
        }
    }
}

impl Kind {
    const fn to_rustix(self) -> FileType {
        match self {
            Kind::Regular => FileType::RegularFile,
            Kind::Directory => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::Unknown => FileType::Unknown,
        }
    }
}

/// The part of stat(2) that berth looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub kind: Kind,
    /// Permission bits with set-id and sticky: 0o7777.
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev_major: u32,
    pub rdev_minor: u32,
    pub size: u64,
    /// Units of 512 bytes on disk.
    pub blocks: u64,
    pub mtime_secs: i64,
    pub mtime_nanos: u32,
}

#[allow(clippy::unnecessary_cast, reason = "the widths of stat's fields differ between architectures")]
fn to_stat(st: &rustix::fs::Stat) -> Stat {
    Stat {
        dev: st.st_dev as u64,
        ino: st.st_ino as u64,
        kind: FileType::from_raw_mode(st.st_mode as u32).into(),
        mode: st.st_mode as u32 & 0o7777,
        nlink: st.st_nlink as u64,
        uid: st.st_uid,
        gid: st.st_gid,
        rdev_major: rustix::fs::major(st.st_rdev as u64),
        rdev_minor: rustix::fs::minor(st.st_rdev as u64),
        size: st.st_size as u64,
        blocks: st.st_blocks as u64,
        mtime_secs: st.st_mtime as i64,
        mtime_nanos: st.st_mtime_nsec as u32,
    }
}

/// openat2(2), Linux 5.6. `mode` counts only with [`Open::CREATE`].
pub fn openat2(
    dir: BorrowedFd<'_>,
    path: impl AsRef<OsStr>,
    flags: Open,
    mode: u32,
    how: Resolve,
) -> io::Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags.0) | OFlags::CLOEXEC;
    let how = ResolveFlags::from_bits_retain(how.0);
    // EAGAIN: a rename ran beside a `..`; the kernel asks to try again (openat2(2)).
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path.as_ref(), flags, Mode::from_raw_mode(mode), how) {
            Err(rustix::io::Errno::AGAIN) if tries < 16 => tries += 1,
            other => return Ok(other?),
        }
    }
}

/// Whether it is in a proc file system (fstatfs(2)).
pub fn is_proc(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 == libc::PROC_SUPER_MAGIC as u64)
}

/// The file system of the kernel's own state that it is in: its files are the host's, whoever has it mounted, and are made as they are read.
/// `O_PATH` will do.
pub fn kernel_files(fd: BorrowedFd<'_>) -> io::Result<Option<&'static str>> {
    let magic = rustix::fs::fstatfs(fd)?.f_type as u64 & u64::from(u32::MAX);
    Ok(KERNEL_FILES.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name))
}

/// By what statfs(2) says of them (linux/magic.h, and the sources of those that are not there).
const KERNEL_FILES: [(u64, &str); 19] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0x6165_676c, "pstore"),
    (0xcafe_4a11, "bpf"),
    (0x6265_6570, "configfs"),
    (0xde5e_81e4, "efivarfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0x5a3c_69f0, "apparmorfs"),
    (0x0765_5821, "resctrl"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6573_5543, "fusectl"),
    (0x6e66_7364, "nfsd"),
    (0x6759_6969, "rpc_pipefs"),
];

/// openat(2) of one name below `dir`; `O_NOFOLLOW` is the caller's choice.
pub fn openat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, flags: Open, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags.0) | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name.as_ref(), flags, Mode::from_raw_mode(mode))?)
}

/// Opens `path` from the current folder.
pub fn open(path: impl AsRef<OsStr>, flags: Open, mode: u32) -> io::Result<OwnedFd> {
    openat(rustix::fs::CWD, path, flags, mode)
}

pub fn fstat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    Ok(to_stat(&rustix::fs::fstat(fd)?))
}

/// Never follows a symlink at the end.
pub fn lstatat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<Stat> {
    Ok(to_stat(&rustix::fs::statat(dir, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW)?))
}

pub fn mkdirat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name.as_ref(), Mode::from_raw_mode(mode))?)
}

/// Device nodes, fifos, sockets. Needs CAP_MKNOD for devices, except 0:0 (overlay's whiteout, Linux 5.8).
pub fn mknodat(
    dir: BorrowedFd<'_>,
    name: impl AsRef<OsStr>,
    kind: Kind,
    mode: u32,
    major: u32,
    minor: u32,
) -> io::Result<()> {
    let dev = rustix::fs::makedev(major, minor);
    Ok(rustix::fs::mknodat(dir, name.as_ref(), kind.to_rustix(), Mode::from_raw_mode(mode), dev)?)
}

pub fn symlinkat(target: impl AsRef<OsStr>, dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target.as_ref(), dir, name.as_ref())?)
}

pub fn readlinkat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<OsString> {
    Ok(OsString::from_vec(rustix::fs::readlinkat(dir, name.as_ref(), Vec::new())?.into_bytes()))
}

/// A hard link; a symlink at `old_name` is linked itself, never followed.
pub fn linkat(
    old_dir: BorrowedFd<'_>,
    old_name: impl AsRef<OsStr>,
    new_dir: BorrowedFd<'_>,
    new_name: impl AsRef<OsStr>,
) -> io::Result<()> {
    Ok(rustix::fs::linkat(old_dir, old_name.as_ref(), new_dir, new_name.as_ref(), AtFlags::empty())?)
}

/// `folder`: rmdir instead of unlink.
pub fn unlinkat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, folder: bool) -> io::Result<()> {
    let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    Ok(rustix::fs::unlinkat(dir, name.as_ref(), flags)?)
}

/// renameat2(2). `no_replace`: `EEXIST` when the new name is there (Linux 3.15).
pub fn renameat2(
    old_dir: BorrowedFd<'_>,
    old_name: impl AsRef<OsStr>,
    new_dir: BorrowedFd<'_>,
    new_name: impl AsRef<OsStr>,
    no_replace: bool,
) -> io::Result<()> {
    let flags = if no_replace { rustix::fs::RenameFlags::NOREPLACE } else { rustix::fs::RenameFlags::empty() };
    Ok(rustix::fs::renameat_with(old_dir, old_name.as_ref(), new_dir, new_name.as_ref(), flags)?)
}

/// Swaps two names of one file system in one step (renameat2(2), `RENAME_EXCHANGE`, Linux 3.15).
pub fn exchange(one: &std::path::Path, other: &std::path::Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Owner of `name` itself, never of what a symlink names. `name` empty: of `dir`.
pub fn fchownat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> io::Result<()> {
    let name = name.as_ref();
    let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    Ok(rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags)?)
}

/// Permission bits of an open file (not of an `O_PATH` one).
pub fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?)
}

/// Permission bits of `name` below `dir`. Follows a symlink: only for names that the caller has just made as something else.
pub fn chmodat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(dir, name.as_ref(), Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// Sets the modification time (and the access time to the same) of `name` itself. `name` empty: of the open file `dir`.
pub fn utimensat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, secs: i64, nanos: u32) -> io::Result<()> {
    let t = Timespec { tv_sec: secs, tv_nsec: nanos.into() };
    let times = Timestamps { last_access: t, last_modification: t };
    let name = name.as_ref();
    if name.is_empty() {
        return Ok(rustix::fs::futimens(dir, &times)?);
    }
    Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn proc_fd_path(fd: BorrowedFd<'_>, name: &OsStr) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
    }
    CString::new(path).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Sets an extended attribute of `name` itself below `dir` (through /proc/self/fd: setxattrat came only with Linux 6.13).
pub fn lsetxattrat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, key: &CStr, value: &[u8]) -> io::Result<()> {
    let path = proc_fd_path(dir, name.as_ref())?;
    Ok(rustix::fs::lsetxattr(path, key, value, XattrFlags::empty())?)
}

/// Of what `fd` stands for, also one that was opened with [`Open::PATH`], which fsetxattr(2) refuses; a link's own (through /proc/self/fd).
pub fn setxattr_of(fd: BorrowedFd<'_>, key: &CStr, value: &[u8]) -> io::Result<()> {
    let path = proc_fd_path(fd, OsStr::new(""))?;
    Ok(rustix::fs::setxattr(path, key, value, XattrFlags::empty())?)
}

pub fn fsetxattr(fd: BorrowedFd<'_>, key: &CStr, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty())?)
}

/// The value of an extended attribute of `name` itself; `None`: not there.
pub fn lgetxattrat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, key: &CStr) -> io::Result<Option<Vec<u8>>> {
    let path = proc_fd_path(dir, name.as_ref())?;
    // The largest value that Linux takes (XATTR_SIZE_MAX).
    let mut value = vec![0; 65536];
    match rustix::fs::lgetxattr(path, key, &mut value) {
        Ok(n) => {
            value.truncate(n);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The names of the extended attributes of `name` itself, in the kernel's order.
pub fn llistxattrat(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<Vec<CString>> {
    let path = proc_fd_path(dir, name.as_ref())?;
    // The longest list that Linux gives (XATTR_LIST_MAX).
    let mut list = vec![0u8; 65536];
    let n = match rustix::fs::llistxattr(path, &mut list) {
        Ok(n) => n,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let names = list[..n].split(|b| *b == 0).filter(|s| !s.is_empty());
    Ok(names.filter_map(|s| CString::new(s).ok()).collect())
}

/// The value of an extended attribute of an open file; `None`: not there.
pub fn fgetxattr(fd: BorrowedFd<'_>, key: &CStr) -> io::Result<Option<Vec<u8>>> {
    // The largest value that Linux takes (XATTR_SIZE_MAX).
    let mut value = vec![0; 65536];
    match rustix::fs::fgetxattr(fd, key, &mut value) {
        Ok(n) => {
            value.truncate(n);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The names of the extended attributes of an open file, in the kernel's order.
pub fn flistxattr(fd: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    // The longest list that Linux gives (XATTR_LIST_MAX).
    let mut list = vec![0u8; 65536];
    let n = match rustix::fs::flistxattr(fd, &mut list) {
        Ok(n) => n,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let names = list[..n].split(|b| *b == 0).filter(|s| !s.is_empty());
    Ok(names.filter_map(|s| CString::new(s).ok()).collect())
}

/// Where the next data, or the next hole, begins at or behind `offset` (lseek(2), SEEK_DATA and SEEK_HOLE, Linux 3.1). `None`: there is
/// nothing more. Moves the file's position.
pub fn seek_data(fd: BorrowedFd<'_>, offset: u64, hole: bool) -> io::Result<Option<u64>> {
    let from = if hole { rustix::fs::SeekFrom::Hole(offset) } else { rustix::fs::SeekFrom::Data(offset) };
    match rustix::fs::seek(fd, from) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub fn fremovexattr(fd: BorrowedFd<'_>, key: &CStr) -> io::Result<()> {
    Ok(rustix::fs::fremovexattr(fd, key)?)
}

/// How the mount is that a descriptor (an O_PATH one, too) is on: the first four MS_* bits of mount(2), read-only, nosuid, nodev and noexec, which
/// statvfs(3) tells by the same numbers.
pub fn mount_flags(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstatvfs(fd)?.f_flag.bits() & 15)
}

pub fn fsync(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fsync(fd)?)
}

pub fn fdatasync(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(fd)?)
}

/// Writes the whole file system of `fd` to disk; errors of writeback that happened are reported since Linux 5.8.
pub fn syncfs(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

/// Starts writing dirty pages of a range to disk and returns (sync_file_range(2), `SYNC_FILE_RANGE_WRITE`). No promise of durability.
pub fn start_writeback(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (to_off(offset)?, to_off(len)?);
    // SAFETY: plain numbers and a descriptor that is borrowed for the call.
    let ret = unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn to_off(n: u64) -> io::Result<i64> {
    i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Reserves `len` bytes of disk at `offset`; `keep_size`: the file's length stays. `EOPNOTSUPP` on some file systems.
pub fn fallocate(fd: BorrowedFd<'_>, offset: u64, len: u64, keep_size: bool) -> io::Result<()> {
    let flags = if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
    Ok(rustix::fs::fallocate(fd, flags, offset, len)?)
}

/// Clears the immutable and append-only flags (chattr(1)), without which nothing below can be removed. True: one was set.
pub fn clear_immutable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = rustix::fs::ioctl_getflags(fd)?;
    let bad = IFlags::IMMUTABLE | IFlags::APPEND;
    if !flags.intersects(bad) {
        return Ok(false);
    }
    rustix::fs::ioctl_setflags(fd, flags - bad)?;
    Ok(true)
}

/// Sets the immutable flag (chattr(1)). `EOPNOTSUPP`/`ENOTTY` on file systems without flags.
pub fn set_immutable(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::ioctl_getflags(fd)?;
    Ok(rustix::fs::ioctl_setflags(fd, flags | IFlags::IMMUTABLE)?)
}

/// One name of a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    pub name: OsString,
    /// [`Kind::Unknown`] when the file system does not say.
    pub kind: Kind,
    pub ino: u64,
}

/// Reads a folder that is open for reading; `.` and `..` are left out. Goes on where the last call stopped; at most about `max` entries;
/// empty: the end.
pub fn read_dir(dir: BorrowedFd<'_>, max: usize) -> io::Result<Vec<DirEntry>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = Vec::new();
    let mut raw = rustix::fs::RawDir::new(dir.as_fd(), &mut buffer);
    // A buffer that was begun is read to its end, else its entries would be lost.
    while entries.len() < max || !raw.is_buffer_empty() {
        let Some(entry) = raw.next() else { break };
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push(DirEntry {
                name: OsString::from_vec(name.to_vec()),
                kind: entry.file_type().into(),
                ino: entry.ino(),
            });
        }
    }
    Ok(entries)
}

/// Moves a folder's reading position back to its start.
pub fn rewind_dir(dir: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    Ok(())
}

/// A file without a name in `dir`'s file system (`O_TMPFILE`, Linux 3.11).
pub fn open_unnamed(dir: BorrowedFd<'_>, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, c".", flags, Mode::from_raw_mode(mode))?)
}

/// The errno of `error`, when the disk (or the quota) is full: ENOSPC, EDQUOT.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// How the host is at the moment was in the way, not what its kernel can: no room on the disk, in memory, for descriptors or processes, or a disk that
/// is broken or takes nothing any more.
pub fn is_of_the_moment(error: &io::Error) -> bool {
    let others = [libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::EROFS, libc::EIO];
    is_disk_full(error) || error.raw_os_error().is_some_and(|errno| others.contains(&errno))
}

/// The disk takes no writes: EROFS, EIO.
pub fn is_disk_lost(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EROFS | libc::EIO))
}

/// A symbolic link was where none is followed, or too many were: ELOOP.
pub fn is_link_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ELOOP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn links_never_lead_out_of_the_root() {
        let dir = std::env::temp_dir().join(format!("berth-sys-fs-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("mkdir");
        let root = open(&dir, Open::RDONLY | Open::DIRECTORY, 0).expect("open");
        let root = root.as_fd();
        symlinkat("/etc", root, "out").expect("symlink");
        let hit = openat2(root, "out/passwd", Open::RDONLY, 0, Resolve::IN_ROOT).expect_err("inside there is no etc");
        assert_eq!(hit.kind(), io::ErrorKind::NotFound);
        let hit = openat2(root, "out/passwd", Open::RDONLY, 0, Resolve::BENEATH).expect_err("leaves");
        assert_eq!(hit.raw_os_error(), Some(libc::EXDEV));
        let hit = openat2(root, "out", Open::RDONLY, 0, Resolve::NO_SYMLINKS).expect_err("a link");
        assert_eq!(hit.raw_os_error(), Some(libc::ELOOP));
        mknodat(root, "fifo", Kind::Fifo, 0o600, 0, 0).expect("fifo");
        assert_eq!(lstatat(root, "fifo").expect("stat").kind, Kind::Fifo);
        mkdirat(root, "d", 0o700).expect("mkdir");
        utimensat(root, "d", -1, 5).expect("times");
        let st = lstatat(root, "d").expect("stat");
        assert_eq!((st.mtime_secs, st.mtime_nanos, st.mode), (-1, 5, 0o700));
        lsetxattrat(root, "d", c"trusted.berth", b"v").expect("set");
        assert_eq!(lgetxattrat(root, "d", c"trusted.berth").expect("get").as_deref(), Some(&b"v"[..]));
        assert_eq!(lgetxattrat(root, "d", c"trusted.none").expect("get"), None);
        assert!(llistxattrat(root, "d").expect("list").contains(&c"trusted.berth".to_owned()));
        let mut names: Vec<_> = read_dir(root, 100).expect("readdir").into_iter().map(|e| e.name).collect();
        names.sort();
        assert_eq!(names, ["d", "fifo", "out"]);
        for name in ["fifo", "out"] {
            unlinkat(root, name, false).expect("unlink");
        }
        unlinkat(root, "d", true).expect("rmdir");
        std::fs::remove_dir(&dir).expect("rmdir");
    }
}
