//! User namespaces: made without a process that stays in them, and given their ids later.

use crate::cap;
use crate::process::{self, Child};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A user namespace, held by its descriptor alone. It has no ids until [`UserNamespace::map`].
#[derive(Debug)]
pub struct UserNamespace {
    fd: OwnedFd,
    /// /proc/PID/uid_map and gid_map of the process that it was made with: they are of the namespace and outlive the process.
    maps: Option<(File, File)>,
}

/// Sleeps on the parent's memory until it is killed, which it is with its parent. Every other signal is blocked, so that no call here is cut, and
/// nothing is written.
extern "C" fn sleep_for_ever(parent: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `parent` is of the parent's stack, which stays until this process was reaped; the calls take numbers. Not even errno is written,
    // which is the parent's: none of them fails.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0);
        if libc::getppid() != *parent.cast::<libc::pid_t>() {
            libc::_exit(0);
        }
    }
    loop {
        // SAFETY: no descriptors, no time and no signal set: nothing is read or written.
        unsafe { libc::syscall(libc::SYS_ppoll, 0usize, 0usize, 0usize, 0usize, 8usize) };
    }
}

/// Starts a process in new namespaces that shares this one's memory (no page table is copied) and sleeps until `with` is done with it.
fn with_process<T>(kinds: i32, with: impl FnOnce(u32) -> io::Result<T>) -> io::Result<T> {
    const STACK: usize = 16 << 10;
    let mut stack: Vec<std::mem::MaybeUninit<u128>> = Vec::with_capacity(STACK / 16);
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let mut pidfd: RawFd = -1;
    let (all, mut before) = (u64::MAX, 0u64);
    // SAFETY: takes nothing.
    let mut parent = unsafe { libc::getpid() };
    // SAFETY: both sets are 8 bytes, the kernel's size, and live through the call.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, 8) };
    // SAFETY: the stack grows down from `top`, is aligned to 16, and stays until the process was reaped below. It only ever makes
    // system calls that write nothing, so it touches nothing of this process's memory but that stack.
    let pid = unsafe {
        libc::clone(
            sleep_for_ever,
            top.cast(),
            // With the same descriptors: a copy would hold locks and sockets for a moment longer than this process.
            libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD | kinds,
            (&raw mut parent).cast(),
            &raw mut pidfd,
        )
    };
    let failed = io::Error::last_os_error();
    // SAFETY: as above; the old set is not asked for.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const before, 0usize, 8) };
    if pid < 0 {
        return Err(failed);
    }
    // SAFETY: the kernel has put a new descriptor there, which nobody else owns.
    let child = Child { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
    let result = with(child.pid());
    let ended = child.kill().and_then(|()| child.reap(true));
    if ended.is_err() {
        // It may still sleep there: rather lost than given to somebody else.
        std::mem::forget(stack);
    }
    ended.and(result)
}

impl UserNamespace {
    /// A new one, and with `network` a network namespace that belongs to it.
    ///
    /// # Errors
    /// As clone(2): `EPERM`, `ENOSPC` (user.max_user_namespaces, user.max_net_namespaces), `EINVAL` (the kernel has none).
    pub fn create(network: bool) -> io::Result<(UserNamespace, Option<OwnedFd>)> {
        let kinds = libc::CLONE_NEWUSER | if network { libc::CLONE_NEWNET } else { 0 };
        with_process(kinds, |pid| {
            let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
            let write = |name: &str| File::options().write(true).open(format!("/proc/{pid}/{name}"));
            let net = if network { Some(open("ns/net")?.into()) } else { None };
            let maps = Some((write("uid_map")?, write("gid_map")?));
            Ok((UserNamespace { fd: open("ns/user")?.into(), maps }, net))
        })
    }

    /// Gives it its ids: lines of `inside outside count`. Once.
    ///
    /// # Errors
    /// As a write to /proc/PID/uid_map (user_namespaces(7)): `EPERM`, `EINVAL`.
    pub fn map(&mut self, users: &str, groups: &str) -> io::Result<()> {
        let (mut uid_map, mut gid_map) =
            self.maps.take().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // Each has to be one write.
        uid_map.write_all(users.as_bytes())?;
        gid_map.write_all(groups.as_bytes())
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<UserNamespace> for OwnedFd {
    fn from(of: UserNamespace) -> OwnedFd {
        of.fd
    }
}

fn file_user(uid: u32, gid: u32) {
    // SAFETY: take numbers; the raw calls are for this thread alone. They say no error, only the number before.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

/// Does something on files as `uid` and `gid` (setfsuid(2), this thread alone), with all capabilities: what is made belongs to them. For mounts
/// and file systems of user namespaces, in which root of the host is nobody and may make nothing.
///
/// # Errors
/// Of taking the capabilities back that go with the change.
pub fn as_file_user<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> io::Result<T> {
    struct Back(cap::Sets);
    impl Drop for Back {
        fn drop(&mut self) {
            file_user(0, 0);
            let _ = self.0.restore();
        }
    }
    let sets = cap::Sets::of_thread()?;
    let back = Back(sets);
    file_user(uid, gid);
    // A file user other than 0 loses the capabilities over files (capabilities(7)).
    back.0.restore()?;
    Ok(work())
}

/// Becomes root of the user namespace that this process (of one thread) has joined.
pub fn become_root() -> io::Result<()> {
    process::set_user(0, 0, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn ids_come_later_than_the_namespace() {
        let (mut users, net) = UserNamespace::create(true).expect("needs root");
        assert!(net.is_some());
        users.map("0 300000 1000\n", "0 300000 1000\n").expect("mapped");
        assert!(users.map("0 1 1\n", "0 1 1\n").is_err());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", users.as_fd().as_raw_fd())).expect("link");
        assert!(link.to_string_lossy().starts_with("user:["), "{link:?}");
    }

    #[test]
    fn files_belong_to_the_file_user() {
        let dir = std::env::temp_dir().join(format!("berth-fsuid-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("folder");
        // The folder is root's and closed to others: the capabilities have stayed.
        let made = as_file_user(300_007, 300_008, || std::fs::write(dir.join("a"), b"x")).expect("changed");
        made.expect("written");
        let meta = std::fs::metadata(dir.join("a")).expect("stat");
        std::fs::write(dir.join("b"), b"x").expect("as before");
        let after = std::fs::metadata(dir.join("b")).expect("stat");
        std::fs::remove_dir_all(&dir).expect("removed");
        assert_eq!((meta.uid(), meta.gid(), after.uid(), after.gid()), (300_007, 300_008, 0, 0));
    }
}
