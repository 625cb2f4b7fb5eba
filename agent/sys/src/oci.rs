//! What the OCI command line needs of the kernel beside what the shim needs: all five capability sets, limits of another process, keyrings,
//! personalities, and a look at what a file system is.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sets three capability sets of this thread (capset(2)); what is not inheritable leaves the ambient set, too.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3 (Linux 2.6.26): two words of each set.
    let header = Header { version: 0x2008_0522, pid: 0 };
    let word = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: both live through the call and have the layout of version 3.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Makes the ambient set (Linux 4.3): none but these, which are permitted and inheritable already.
pub fn set_ambient(set: u64) -> io::Result<()> {
    // SAFETY: takes numbers only.
    let ambient = |act: libc::c_int, capability: u64| unsafe {
        check(libc::prctl(libc::PR_CAP_AMBIENT, act as libc::c_ulong, capability, 0u64, 0u64).into())
    };
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    for bit in (0..64).filter(|bit| set >> bit & 1 == 1) {
        ambient(libc::PR_CAP_AMBIENT_RAISE, bit)?;
    }
    Ok(())
}

/// Sets a limit of another process (prlimit(2)).
pub fn set_limit_of(pid: u32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let none = std::ptr::null::<libc::rlimit64>();
    // SAFETY: limit lives through the call; the old one is not asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, none) }).map(drop)
}

/// A session keyring of this process's own (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING). `ENOSYS`: the kernel has no keyrings.
pub fn new_session_keyring(name: &CStr) -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: the name ends with a NUL and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// The execution domain (personality(2)).
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: takes a number only.
    check(unsafe { libc::personality(domain.into()) }.into()).map(drop)
}

/// Is this file procfs's (PROC_SUPER_MAGIC, statfs(2))?
pub fn is_procfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 == 0x9fa0)
}

/// May this process read, write, execute the file (faccessat(2), AT_EACCESS)? `ENOENT`, `EACCES`, …
pub fn may_execute(path: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with a NUL and lives through the call.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) }.into()).map(drop)
}

/// Takes over a descriptor that this process was started with.
///
/// # Errors
/// `EBADF`: it is not open.
pub fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }.into())?;
    // SAFETY: it is open, and who started this process gave it away: nothing in this process has owned it before.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes all descriptors from `first` on but `keep`. Only for a process that never returns to their owners.
pub fn close_all_from(first: u32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut next = first;
    for fd in kept {
        if fd > next {
            // SAFETY: takes numbers only; the caller promises that no owner of a descriptor runs again.
            check(unsafe { libc::syscall(libc::SYS_close_range, next, fd - 1, 0) })?;
        }
        next = fd + 1;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_close_range, next, u32::MAX, 0) }).map(drop)
}

/// Keeps a descriptor through execve, and for ever in this process.
pub fn keep_through_exec(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }.into())?;
    let _ = fd.into_raw_fd();
    Ok(())
}

/// Binds a copy of a file or folder that is open here, over what `to` is open on; the copy's mount, to change its attributes. `recursive`:
/// with what is mounted below.
pub fn clone_mount(from: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    crate::mount::open_tree(Some(from.as_fd()), std::path::Path::new(""), true, recursive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn procfs_is_told_from_others() {
        let open = |p: &str| OwnedFd::from(std::fs::File::open(p).unwrap());
        assert!(is_procfs(open("/proc/self").as_fd()).unwrap());
        assert!(!is_procfs(open("/").as_fd()).unwrap());
    }

    #[test]
    fn limits_of_a_child() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        set_limit_of(child.id(), libc::RLIMIT_NOFILE, 12, 13).unwrap();
        let text = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let line = text.lines().find(|l| l.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["12", "13"]);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn descriptors_that_are_not_open_are_not_taken() {
        assert_eq!(take_inherited(987_654).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(may_execute(c"/bin/sh").is_ok());
        assert_eq!(may_execute(c"/nowhere").unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(may_execute(c"/etc/passwd").unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
}
