//! Landlock: a process limits itself and what it makes from here on to files below some places (landlock(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Rights to files and folders, bits of `handled_access_fs` (linux/landlock.h).
pub const EXECUTE: u64 = 1;
pub const WRITE_FILE: u64 = 1 << 1;
pub const READ_FILE: u64 = 1 << 2;
pub const READ_DIR: u64 = 1 << 3;
pub const REMOVE_FILE: u64 = 1 << 5;
/// Making files, and giving them other names.
pub const MAKE_REG: u64 = 1 << 8;
/// EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_*, MAKE_*: all of the first ABI (Linux 5.13).
const FIRST: u64 = (1 << 13) - 1;
/// Moving and linking to another folder, ABI 2 (Linux 5.19). Without it both are denied everywhere.
const REFER: u64 = 1 << 13;
/// ABI 3 (Linux 6.2).
pub const TRUNCATE: u64 = 1 << 14;
/// ioctl(2) on devices, ABI 5 (Linux 6.10).
pub const IOCTL_DEV: u64 = 1 << 15;

/// bind(2) and connect(2) of TCP sockets, bits of `handled_access_net`, ABI 4 (Linux 6.7).
pub const BIND_TCP: u64 = 1;
pub const CONNECT_TCP: u64 = 1 << 1;

/// Connecting to abstract Unix sockets of processes outside, ABI 6 (Linux 6.12).
pub const SCOPE_ABSTRACT_SOCKETS: u64 = 1;
/// Signals to processes outside, ABI 6.
pub const SCOPE_SIGNALS: u64 = 2;

/// All rights to files that an ABI knows of those above.
pub fn rights(abi: u32) -> u64 {
    let since = [(1, FIRST), (2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)];
    since.iter().filter(|(first, _)| abi >= *first).fold(0, |all, (_, rights)| all | rights)
}

/// Both scopes, where the ABI has them.
pub fn scopes(abi: u32) -> u64 {
    if abi >= 6 { SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS } else { 0 }
}

/// The scope of abstract sockets alone, where the ABI has it.
pub fn sockets(abi: u32) -> u64 {
    scopes(abi) & SCOPE_ABSTRACT_SOCKETS
}

/// Both rights to TCP, where the ABI has them.
pub fn tcp(abi: u32) -> u64 {
    if abi >= 4 { BIND_TCP | CONNECT_TCP } else { 0 }
}

/// The kernel's version of the interface, 1 or more. `None`: it was built without Landlock, or started without it (`lsm=`).
pub fn abi() -> Option<u32> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes no attributes.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    u32::try_from(abi).ok().filter(|abi| *abi > 0)
}

/// struct landlock_ruleset_attr; older kernels take it with zeros where they know nothing.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scopes: u64,
}

/// struct landlock_path_beneath_attr
#[repr(C, packed)]
struct Beneath {
    rights: u64,
    parent: i32,
}

/// struct landlock_net_port_attr
#[repr(C)]
struct Port {
    rights: u64,
    port: u64,
}

/// A set of rules, which holds for nobody until somebody enters it.
#[derive(Debug)]
pub struct Domain {
    ruleset: OwnedFd,
    files: u64,
    tcp: u64,
}

impl Domain {
    /// Who enters has none of these rights but where a rule gives them, and none of these scopes.
    ///
    /// # Errors
    /// `EINVAL`, `E2BIG`: this kernel does not know some of them.
    pub fn new(files: u64, tcp: u64, scopes: u64) -> io::Result<Domain> {
        let attributes = Ruleset { files, network: tcp, scopes };
        let len = size_of::<Ruleset>();
        // SAFETY: the kernel reads as many bytes as the struct has, which lives through the call.
        let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, len, 0u32) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else has.
        Ok(Domain { ruleset: unsafe { OwnedFd::from_raw_fd(fd as i32) }, files, tcp })
    }

    /// Those of these rights that the domain is about, to what is beneath a folder or to a file.
    ///
    /// # Errors
    /// `EBADFD`: it has no path. `EINVAL`: a file has not such rights.
    pub fn allow(&self, rights: u64, place: BorrowedFd<'_>) -> io::Result<()> {
        const PATH_BENEATH: u32 = 1;
        let rule = Beneath { rights: rights & self.files, parent: place.as_raw_fd() };
        // SAFETY: the kernel reads one struct of this kind, which lives through the call.
        unsafe { self.add(PATH_BENEATH, (&raw const rule).cast()) }
    }

    /// Those of these rights that the domain is about, with this port of TCP; 0 is one of the kernel's choice.
    pub fn allow_port(&self, rights: u64, port: u16) -> io::Result<()> {
        const NET_PORT: u32 = 2;
        let rule = Port { rights: rights & self.tcp, port: port.into() };
        if rule.rights == 0 {
            return Ok(());
        }
        // SAFETY: the kernel reads one struct of this kind, which lives through the call.
        unsafe { self.add(NET_PORT, (&raw const rule).cast()) }
    }

    /// # Safety
    /// The kernel reads the struct that `kind` stands for.
    unsafe fn add(&self, kind: u32, rule: *const libc::c_void) -> io::Result<()> {
        // SAFETY: as the caller says.
        let r = unsafe { libc::syscall(libc::SYS_landlock_add_rule, self.ruleset.as_raw_fd(), kind, rule, 0) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Holds for this thread and what it makes from here on. The caller has CAP_SYS_ADMIN in its user namespace or no_new_privs.
    ///
    /// # Errors
    /// `E2BIG`: there are 16 such walls around the thread already.
    pub fn enter(self) -> io::Result<()> {
        // SAFETY: takes numbers only.
        let r = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.ruleset.as_raw_fd(), 0) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// From here on this thread and what it makes have `rights` to what is beneath `root` and, as far as a file has them, to `files`, and to nothing
/// else that is found by a path; what is open stays open. They mount nothing any more, and look into processes of the same kind only
/// (ptrace(2)). The caller has CAP_SYS_ADMIN in its user namespace or no_new_privs.
///
/// Pipes, sockets and other things without a path among `files` need no rule, and get none.
///
/// # Errors
/// `EINVAL`: this kernel does not know some of the rights or scopes. `E2BIG`: there are 16 such walls around the thread already.
pub fn restrict(rights: u64, scopes: u64, root: BorrowedFd<'_>, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
    let domain = Domain::new(rights, 0, scopes)?;
    domain.allow(rights, root)?;
    for file in files {
        match domain.allow(OF_FILES, *file) {
            Err(e) if e.raw_os_error() == Some(libc::EBADFD) => {}
            other => other?,
        }
    }
    domain.enter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn each_abi_has_the_rights_of_the_one_before() {
        assert_eq!((rights(1), rights(2), rights(3)), (0x1fff, 0x3fff, 0x7fff));
        assert_eq!((rights(4), rights(5), rights(9)), (0x7fff, 0xffff, 0xffff));
        assert_eq!((scopes(5), scopes(6), sockets(5), sockets(6)), (0, 3, 0, 1));
        assert_eq!((tcp(3), tcp(4)), (0, 3));
    }

    /// On a thread of its own, as it holds for the thread alone. Needs a kernel with Landlock.
    #[test]
    fn what_is_beneath_the_root_is_all_there_is() {
        let Some(abi) = abi() else { return };
        let inside = std::env::temp_dir();
        std::thread::spawn(move || {
            let (root, null) = (File::open(&inside).unwrap(), File::open("/dev/null").unwrap());
            let (pipe, _other) = crate::process::pipe().unwrap();
            crate::process::set_no_new_privileges().unwrap();
            restrict(rights(abi), scopes(abi), root.as_fd(), &[null.as_fd(), pipe.as_fd()]).unwrap();
            assert!(std::fs::read_dir(&inside).is_ok());
            assert!(File::open("/dev/null").is_ok());
            let error = File::open("/etc/passwd").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        })
        .join()
        .unwrap();
    }
}
