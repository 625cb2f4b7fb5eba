//! Project quotas: files that have a number, and how much all files of one number may take of their file system (ext4, xfs, f2fs).
//!
//! A folder's number goes on to what is made in it. Who owns a file may change its number (FS_IOC_FSSETXATTR asks for no capability), but in the first user
//! namespace alone: in any other one the kernel answers EINVAL (fileattr_set_prepare).

use crate::fs::{self, Open};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

// linux/fs.h
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
/// PRJQUOTA of linux/quota.h, in the place where QCMD(command, type) has it.
const OF_PROJECTS: i32 = 2;
const Q_GETQUOTA: i32 = 0x80_0007;
const Q_SETQUOTA: i32 = 0x80_0008;
// linux/dqblk_xfs.h; file systems other than xfs answer these too (Linux 3.19).
const Q_XGETQSTAT: i32 = 0x5805;
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
/// dqb_bhardlimit counts these (QIF_DQBLKSIZE).
const BLOCK: u64 = 1024;

/// struct fsxattr of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    project: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// struct fs_quota_stat of linux/dqblk_xfs.h, of which the flags are for all types of quotas.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    pad: i8,
    rest: [u64; 9],
}

const _: () = assert!(size_of::<FsXattr>() == 28 && size_of::<State>() == 80);

fn attributes(fd: BorrowedFd<'_>) -> io::Result<FsXattr> {
    let mut found = FsXattr::default();
    // SAFETY: `found` has the layout of struct fsxattr and lives across the call; the descriptor is open.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut found) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(found) }
}

/// The number of a folder's files, where what is made in it gets the same. `ENOTTY`, `EOPNOTSUPP`: the file system has no such numbers.
pub fn project(dir: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let found = attributes(dir)?;
    Ok((found.xflags & FS_XFLAG_PROJINHERIT != 0).then_some(found.project))
}

/// Gives a folder a number, and with it all that will be made in it. `EOPNOTSUPP`: an ext4 without the feature project. `EINVAL`: in a user
/// namespace.
pub fn set_project(dir: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let found = attributes(dir)?;
    let wanted = FsXattr { xflags: found.xflags | FS_XFLAG_PROJINHERIT, project, ..found };
    // SAFETY: `wanted` has the layout of struct fsxattr and lives across the call; the descriptor is open.
    let r = unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const wanted) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the files of a number take, and may take; a limit of 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    pub bytes: u64,
    pub files: u64,
    pub most_bytes: u64,
    pub most_files: u64,
}

/// The quotas of one file system.
#[derive(Debug)]
pub struct Quotas {
    dir: OwnedFd,
    /// Asked for by its device, as before Linux 5.14.
    device: Option<CString>,
}

impl Quotas {
    /// Those of the file system that a folder is on. Says nothing of whether there are any.
    pub fn of(dir: &Path) -> io::Result<Quotas> {
        let dir = fs::open(dir, Open::RDONLY | Open::DIRECTORY, 0)?;
        Ok(Quotas { dir, device: None })
    }

    /// As [`Quotas::of`], by the file system's device: quotactl_fd(2) is of Linux 5.14. `ENOENT`: it is on none.
    pub fn by_device(dir: &Path) -> io::Result<Quotas> {
        let quotas = Quotas::of(dir)?;
        let device = device_of(quotas.dir.as_fd())?;
        Ok(Quotas { device: Some(device), ..quotas })
    }

    fn call(&self, command: i32, project: u32, data: *mut libc::c_void) -> io::Result<()> {
        let command = command << 8 | OF_PROJECTS;
        let by = |device: &CString| {
            // SAFETY: the path ends with a zero; `data` is what the command takes and lives across the call (each caller's).
            match unsafe { libc::quotactl(command, device.as_ptr(), project as libc::c_int, data.cast()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        if let Some(device) = &self.device {
            return by(device);
        }
        // SAFETY: the descriptor is open; `data` as above.
        let r = unsafe { libc::syscall(libc::SYS_quotactl_fd, self.dir.as_raw_fd(), command, project, data) };
        if r == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // Also of a file system without any quotas, which says the same once more.
        match (error.raw_os_error(), device_of(self.dir.as_fd())) {
            (Some(libc::ENOSYS), Ok(device)) => by(&device),
            _ => Err(error),
        }
    }

    /// Whether limits hold: the file system has project quotas, and was mounted with them. An error: it has none.
    pub fn enforced(&self) -> io::Result<bool> {
        let mut state = State::default();
        self.call(Q_XGETQSTAT, 0, (&raw mut state).cast())?;
        Ok(state.flags & FS_QUOTA_PDQ_ENFD != 0)
    }

    /// What a number's files take. Of one that has never had any: nothing.
    pub fn get(&self, project: u32) -> io::Result<Used> {
        // SAFETY: numbers only, for which zeros are values.
        let mut found: libc::dqblk = unsafe { std::mem::zeroed() };
        match self.call(Q_GETQUOTA, project, (&raw mut found).cast()) {
            Ok(()) => {}
            // xfs
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Used::default()),
            Err(e) => return Err(e),
        }
        Ok(Used {
            bytes: found.dqb_curspace,
            files: found.dqb_curinodes,
            most_bytes: found.dqb_bhardlimit.saturating_mul(BLOCK),
            most_files: found.dqb_ihardlimit,
        })
    }

    /// Sets the limits of a number; 0 is none. Bytes are rounded up to 1024.
    pub fn set(&self, project: u32, most_bytes: u64, most_files: u64) -> io::Result<()> {
        // SAFETY: numbers only, for which zeros are values.
        let mut wanted: libc::dqblk = unsafe { std::mem::zeroed() };
        wanted.dqb_bhardlimit = most_bytes.div_ceil(BLOCK);
        wanted.dqb_ihardlimit = most_files;
        wanted.dqb_valid = libc::QIF_LIMITS;
        self.call(Q_SETQUOTA, project, (&raw mut wanted).cast())
    }
}

/// The block device of the file system that a descriptor is on.
fn device_of(fd: BorrowedFd<'_>) -> io::Result<CString> {
    let dev = rustix::fs::fstat(fd)?.st_dev;
    let at = format!("/sys/dev/block/{}:{}/uevent", rustix::fs::major(dev), rustix::fs::minor(dev));
    let told = std::fs::read_to_string(at)?;
    let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME=")).ok_or(io::ErrorKind::NotFound)?;
    CString::new(format!("/dev/{name}")).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_without_quotas_say_so() {
        // Neither has a block device.
        for dir in ["/proc", "/sys"] {
            Quotas::of(Path::new(dir)).unwrap().enforced().expect_err(dir);
            Quotas::by_device(Path::new(dir)).expect_err(dir);
        }
        let proc = fs::open("/proc", Open::RDONLY | Open::DIRECTORY, 0).unwrap();
        project(proc.as_fd()).unwrap_err();
        set_project(proc.as_fd(), 7).unwrap_err();
    }
}
