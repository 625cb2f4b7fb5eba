//! Loop devices (loop(4)): files as block devices.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

// linux/loop.h
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// struct loop_info64 of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// struct loop_config of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A loop device over a file. It goes by itself when nothing has it open or mounted any more.
#[derive(Debug)]
pub struct LoopDevice {
    pub path: PathBuf,
    /// Keeps it until it is mounted.
    pub fd: OwnedFd,
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    crate::fs::open(path, crate::fs::Open::RDWR, 0)
}

/// Makes a loop device over `file`, open for reading and writing (LOOP_CONFIGURE, Linux 5.8). `ENOENT`, `ENODEV`: this kernel has none.
pub fn attach(file: BorrowedFd<'_>) -> io::Result<LoopDevice> {
    let control = open(Path::new("/dev/loop-control"))?;
    // Another process may take the free one first.
    let mut tries = 0;
    loop {
        // SAFETY: the request takes no argument; the descriptor lives across the call.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let fd = open(&path)?;
        let config = LoopConfig {
            fd: file.as_raw_fd() as u32,
            block_size: 0,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: LO_FLAGS_AUTOCLEAR,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: `config` has the layout of struct loop_config and lives across the call; both descriptors are open.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        if done == 0 {
            return Ok(LoopDevice { path, fd });
        }
        let error = io::Error::last_os_error();
        tries += 1;
        if error.raw_os_error() != Some(libc::EBUSY) || tries > 32 {
            return Err(error);
        }
    }
}

/// The loop device that has `file` already, whoever made it: mounted a second time from another one, its file system would be damaged.
pub fn find(file: &Path) -> io::Result<Option<LoopDevice>> {
    let wanted = std::fs::canonicalize(file)?;
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let Ok(backing) = std::fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        if Path::new(backing.trim_end_matches('\n')) == wanted {
            let path = Path::new("/dev").join(entry.file_name());
            match open(&path) {
                Ok(fd) => return Ok(Some(LoopDevice { path, fd })),
                // It has gone since.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENXIO | libc::ENOENT)) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(None)
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);
