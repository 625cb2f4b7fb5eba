//! Making, joining, signalling and waiting for processes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What a call returned, or the kernel's error.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Flag of clone3(2) alone, Linux 5.7 (libc's constant is too narrow for it).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of [`clone3`] returned.
#[derive(Debug)]
pub enum Cloned {
    Child,
    /// The child's pid in the caller's pid namespace, and a descriptor of it.
    Parent(u32, OwnedFd),
}

/// Makes a process with a copy of this one's memory (clone3(2), Linux 5.3; `CLONE_PIDFD` 5.2, `CLONE_INTO_CGROUP` 5.7).
///
/// Only for processes with one thread: other threads' locks stay held in the child for ever. The shim has one thread; the agent never
/// calls this.
///
/// # Errors
/// As clone3(2); `EBUSY` and `EOPNOTSUPP` come from the cgroup.
pub fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain numbers; all zero is its documented empty value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    // A sibling's signal is that of the process it is a sibling of.
    args.exit_signal = if namespaces & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: args lives through the call and names only pidfd, which does too. Without CLONE_VM and with a stack of 0 the child goes on
    // on a copy of this stack, as after fork(2).
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has put a new descriptor there, which nobody else owns.
    Ok(Cloned::Parent(pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Makes a plain copy of this process (clone(2) with SIGCHLD alone): `None` in the child. For where a seccomp program forbids clone3. Only
/// for processes with one thread, as [`clone3`].
pub fn fork() -> io::Result<Option<u32>> {
    // SAFETY: no memory is shared and the stack of 0 means a copy of this one, as fork(2).
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })?;
    Ok(Some(pid as u32).filter(|p| *p != 0))
}

/// A child of this process. Whoever drops it before its status was taken leaves a zombie behind.
#[derive(Debug)]
pub struct Child {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

impl Child {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Readable when the child has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub fn kill(&self) -> io::Result<()> {
        pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL)
    }

    /// Takes its status, and waits for it when `block`. True: it has ended, and is no zombie any more.
    pub fn reap(&self, block: bool) -> io::Result<bool> {
        loop {
            match reap(Some(self.pid), block) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Taken before.
                Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(true),
                other => return other.map(|ended| ended.is_some()),
            }
        }
    }
}

/// Joins the namespaces `kinds` of a process (pidfd: Linux 5.8, several at once) or the one namespace behind a descriptor (setns(2)).
pub fn setns(fd: BorrowedFd<'_>, kinds: u64) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds as i32) }.into()).map(drop)
}

/// Leaves namespaces for new ones (unshare(2)).
pub fn unshare(kinds: u64) -> io::Result<()> {
    // SAFETY: takes numbers only; CLONE_FILES and CLONE_VM, which could surprise other code, are no namespaces and harmless too.
    check(unsafe { libc::unshare(kinds as i32) }.into()).map(drop)
}

/// Becomes the leader of a new session without a terminal (setsid(2)).
pub fn setsid() -> io::Result<()> {
    // SAFETY: takes nothing.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

fn prctl(option: i32, argument: u64) -> io::Result<i32> {
    // SAFETY: only options that take numbers are passed by the callers in this module.
    check(unsafe { libc::prctl(option, argument, 0u64, 0u64, 0u64) }.into()).map(|r| r as i32)
}

/// The signal this process gets when its parent ends. A change of credentials clears it (PR_SET_PDEATHSIG(2const)).
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64).map(drop)
}

/// Whether orphans below this process become its children (PR_SET_CHILD_SUBREAPER(2const)): those that are orphaned from now on.
pub fn set_child_subreaper(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, on.into()).map(drop)
}

/// Keeps processes of equal rights out of /proc/PID/{fd,exe,mem,…} of this one until its next execve (PR_SET_DUMPABLE(2const)).
pub fn set_undumpable() -> io::Result<()> {
    set_dumpable(false)
}

/// The other way, too: a program that has gained capabilities by its execve begins without (prctl(2), PR_SET_DUMPABLE).
pub fn set_dumpable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, on.into()).map(drop)
}

/// No execve from here on gains rights (PR_SET_NO_NEW_PRIVS(2const)).
pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// The permitted capabilities stay through a change of the uid; the effective ones are to be set again behind it (PR_SET_KEEPCAPS(2const)).
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1).map(drop)
}

/// Name in /proc/PID/comm, at most 15 bytes.
pub fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends with a NUL and lives through the call, which copies it.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0u64, 0u64, 0u64) }.into()).map(drop)
}

/// Writes a new text over argument `at` of this process as /proc/PID/cmdline shows it: as much of it as fits, and NULs behind it.
///
/// # Errors
/// `InvalidInput`: there is no such argument; what reading /proc/self/stat gives.
pub fn rename_argument(at: usize, text: &[u8]) -> io::Result<()> {
    let missing = || io::Error::from(io::ErrorKind::InvalidInput);
    let stat = std::fs::read("/proc/self/stat")?;
    let number = |n| stat_field(&stat, n).and_then(|f| usize::try_from(f).ok()).ok_or_else(missing);
    // proc_pid_stat(5): arg_start and arg_end, since Linux 3.5.
    let (start, end) = (number(48)?, number(49)?);
    let arguments = std::fs::read("/proc/self/cmdline")?;
    let mut before = arguments.split_inclusive(|&b| b == 0);
    let offset: usize = before.by_ref().take(at).map(<[u8]>::len).sum();
    let room = before.next().ok_or_else(missing)?.len() - 1;
    if start == 0 || offset + room >= end.saturating_sub(start) {
        return Err(missing());
    }
    let n = room.min(text.len());
    let argument = std::ptr::with_exposed_provenance_mut::<u8>(start + offset);
    // SAFETY: the kernel has put the arguments there, in one piece of this process's stack that is writable, lives as long as the process
    // and ends behind `end`. Nobody in this process keeps a reference into it: std copies arguments when it is asked for them.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), argument, n);
        std::ptr::write_bytes(argument.add(n), 0, room - n);
    }
    Ok(())
}

pub fn set_hostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

pub fn set_domainname(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Soft and hard limit of a resource of this process (getrlimit(2)).
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit lives through the call.
    check(unsafe { libc::getrlimit(resource as _, &raw mut limit) }.into())?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit lives through the call.
    check(unsafe { libc::setrlimit(resource as _, &raw const limit) }.into()).map(drop)
}

/// With a limit of 1 the kernel makes no core, not even for a program that it is piped to, which does not heed any other (core(5), fs/coredump.c, since
/// Linux 2.6.32); a file of one byte it does not begin.
#[allow(clippy::unnecessary_cast, reason = "the type of the constants differs between C libraries")]
pub const CORE: u32 = libc::RLIMIT_CORE as u32;
pub const NO_CORE: u64 = 1;

/// Numbers of the resources by their name without `RLIMIT_`, lower case (getrlimit(2)).
#[allow(clippy::unnecessary_cast, reason = "the type of the constants differs between C libraries")]
pub const RESOURCES: [(&str, u32); 16] = [
    ("as", libc::RLIMIT_AS as u32),
    ("core", libc::RLIMIT_CORE as u32),
    ("cpu", libc::RLIMIT_CPU as u32),
    ("data", libc::RLIMIT_DATA as u32),
    ("fsize", libc::RLIMIT_FSIZE as u32),
    ("locks", libc::RLIMIT_LOCKS as u32),
    ("memlock", libc::RLIMIT_MEMLOCK as u32),
    ("msgqueue", libc::RLIMIT_MSGQUEUE as u32),
    ("nice", libc::RLIMIT_NICE as u32),
    ("nofile", libc::RLIMIT_NOFILE as u32),
    ("nproc", libc::RLIMIT_NPROC as u32),
    ("rss", libc::RLIMIT_RSS as u32),
    ("rtprio", libc::RLIMIT_RTPRIO as u32),
    ("rttime", libc::RLIMIT_RTTIME as u32),
    ("sigpending", libc::RLIMIT_SIGPENDING as u32),
    ("stack", libc::RLIMIT_STACK as u32),
];

/// Sets groups, gid and uid, all three of each (real, effective, saved), of a process with one thread. `EINVAL` for the number that means to the
/// kernel that nothing is to change.
pub fn set_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    if [uid, gid].contains(&u32::MAX) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: pointer and length are of one slice; the raw calls change this thread only, which is the only one.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

pub fn set_umask(mask: u32) {
    // SAFETY: takes a number, cannot fail.
    unsafe { libc::umask(mask) };
}

/// A descriptor of a process (pidfd_open(2), Linux 5.3). `ESRCH`: there is none.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to exactly that process (pidfd_send_signal(2), Linux 5.1). `ESRCH`: it has ended.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: numbers, and a null siginfo, which means the same as kill(2).
    let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0) };
    check(r).map(drop)
}

/// kill(2); a negative pid is a process group, -1 everything this process may signal.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

/// Takes the status of a child that has ended (waitpid(2)); `None`: none has. Without a pid: whichever comes first.
pub fn reap(pid: Option<u32>, block: bool) -> io::Result<Option<(u32, Ended)>> {
    let mut status = 0;
    let which = pid.map_or(-1, |p| p as i32);
    let flags = if block { 0 } else { libc::WNOHANG };
    // SAFETY: status lives through the call.
    let got = check(unsafe { libc::waitpid(which, &raw mut status, flags) }.into())?;
    if got == 0 {
        return Ok(None);
    }
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Code(libc::WEXITSTATUS(status))
    };
    Ok(Some((got as u32, ended)))
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11 for the flag).
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: takes numbers only; no descriptor is closed by this.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(r).map(drop)
}

/// Closes every descriptor from `first` on, whoever owns it. Only for a process that never returns to its owners: an init.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: takes numbers only; the caller promises that no owner of a descriptor runs again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor from 3 on but `keep`, whoever owns it. Only for a process that never returns to their owners: one that is about
/// to be replaced. (Close-on-exec is too late for that: execve(2) still finds its program through `/proc/self/fd`.)
pub fn close_all_but(keep: BorrowedFd<'_>) -> io::Result<()> {
    let keep = keep.as_raw_fd() as u32;
    if keep > 3 {
        // SAFETY: takes numbers only; the caller promises that no owner of a descriptor runs again.
        check(unsafe { libc::syscall(libc::SYS_close_range, 3, keep - 1, 0) })?;
    }
    close_from((keep + 1).max(3))
}

/// Makes the folder behind a descriptor the working folder (fchdir(2)); works with O_PATH ones (Linux 3.5).
pub fn fchdir(dir: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::fchdir(dir)?)
}

/// Makes a process group of this process alone and, on a terminal, the one in front (setpgid(2), tcsetpgrp(3)). No terminal is fine.
pub fn lead_foreground_group() -> io::Result<()> {
    // SAFETY: numbers only. SIGTTOU, which tcsetpgrp raises for groups in the background, is ignored around it.
    unsafe {
        check(libc::setpgid(0, 0).into())?;
        let old = libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        libc::tcsetpgrp(0, libc::getpid());
        libc::signal(libc::SIGTTOU, old);
    }
    Ok(())
}

/// Makes `to` another name of `from`, kept over execve. For the standard streams of a process that is about to execve.
pub fn dup_onto(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: callers pass 0, 1 or 2, which Rust treats as always open and owned by nobody.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }.into()).map(drop)
}

/// Replaces this process's program (execve(2)). Returns only when that failed.
pub fn execve(path: &CStr, args: &[&CStr], env: &[&CStr]) -> io::Error {
    let pointers = |list: &[&CStr]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: every pointer is of a C string that lives through the call; both lists end with a null.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Sets every signal back to its default, and blocks none: execve keeps what is ignored and what is blocked, whoever began with it (a shell's
/// `nohup`, a service manager's IgnoreSIGPIPE=).
pub fn reset_signals() -> io::Result<()> {
    // The kernel's `struct sigaction` on 64-bit processors: handler, flags, restorer, mask.
    let default = [0u64; 4];
    // Also those that a C library keeps for itself (32, 33), which sigaction(3) refuses.
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        // SAFETY: the structure lives through the call, and default dispositions run no code of ours. The set has the kernel's 8 bytes.
        check(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, 0usize, 8usize) })?;
    }
    unblock_signals()
}

/// Blocks no signal any more: what a program does that [`spawn`] has started.
pub fn unblock_signals() -> io::Result<()> {
    // SAFETY: an all-zero set is the empty set on Linux, and it lives through the call.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above; the old set is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) }.into()).map(drop)
}

/// All signals, blocked: they wait until they are asked for.
pub struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    /// Blocks every signal of this process, which has one thread.
    pub fn block() -> io::Result<Self> {
        // SAFETY: sigfillset writes the whole set before it is read; the set lives through both calls.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()).into())?;
            set
        };
        Ok(BlockedSignals(set))
    }

    /// Sleeps until a signal arrives and returns its number (sigwaitinfo(2)).
    pub fn wait(&self) -> io::Result<i32> {
        // SAFETY: the set lives through the call; no siginfo is asked for.
        check(unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) }.into()).map(|s| s as i32)
    }
}

/// What to wait for on a descriptor, and what came (poll(2)).
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Poll(libc::pollfd);

impl Poll {
    /// A place that waits for nothing.
    pub const NONE: Self = Poll(libc::pollfd { fd: -1, events: 0, revents: 0 });

    pub fn new(fd: BorrowedFd<'_>, readable: bool, writable: bool) -> Self {
        let mut events = 0;
        if readable {
            events |= libc::POLLIN;
        }
        if writable {
            events |= libc::POLLOUT;
        }
        Poll(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 })
    }

    pub fn readable(&self) -> bool {
        self.0.revents & libc::POLLIN != 0
    }

    pub fn writable(&self) -> bool {
        self.0.revents & libc::POLLOUT != 0
    }

    /// The other end is gone, or the descriptor is broken.
    pub fn hung_up(&self) -> bool {
        self.0.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Sleeps until something is ready or `timeout_ms` is over (-1: never). Returns how many are ready; an interruption counts as none.
pub fn poll(fds: &mut [Poll], timeout_ms: i32) -> io::Result<usize> {
    // SAFETY: Poll is a transparent pollfd, and pointer and length are of one slice.
    match check(unsafe { libc::poll(fds.as_mut_ptr().cast(), fds.len() as _, timeout_ms) }.into()) {
        Ok(n) => Ok(n as usize),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(e) => Err(e),
    }
}

/// Reads into a buffer (read(2)).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) } as libc::c_long)
        .map(|n| n as usize)
}

/// Writes bytes (write(2)); may take fewer.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } as libc::c_long)
        .map(|n| n as usize)
}

/// Seconds and nanoseconds of the monotonic clock, in milliseconds.
pub fn monotonic_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: now lives through the call; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// When a process started: field 22 of /proc/PID/stat, clock ticks since boot (proc_pid_stat(5)). `NotFound`: there is no such process.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).map_err(|e| match e.raw_os_error() {
        // Reading the file of a process that ends meanwhile.
        Some(libc::ESRCH) => io::Error::from(io::ErrorKind::NotFound),
        _ => e,
    })?;
    parse_start_time(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

pub(crate) fn parse_start_time(stat: &[u8]) -> Option<u64> {
    stat_field(stat, 22)
}

/// A number of proc_pid_stat(5) by its field, from 4 on: counted behind the name, which stands in brackets and may hold anything, brackets too.
fn stat_field(stat: &[u8], field: usize) -> Option<u64> {
    let behind = stat.iter().rposition(|&b| b == b')')? + 1;
    let field = stat[behind..].split(|&b| b == b' ').filter(|f| !f.is_empty()).nth(field.checked_sub(3)?)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// A pipe, close-on-exec on both ends (pipe2(2)): read end, write end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Reads and writes on this descriptor return `EAGAIN` instead of sleeping. Holds for every copy of the descriptor.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// Gives whole pages back to the kernel; their bytes are zero afterwards. For the shim's big buffers, when they are empty.
pub fn forget_pages(buffer: &mut [u8]) {
    const PAGE: usize = 4096;
    let start = (buffer.as_ptr() as usize).next_multiple_of(PAGE);
    let end = (buffer.as_ptr() as usize + buffer.len()) / PAGE * PAGE;
    if end > start {
        // SAFETY: the range lies inside a buffer that is borrowed mutably; private anonymous pages read as zero afterwards (madvise(2)), and
        // any byte is valid in it. A failure changes nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_stat_may_hold_anything() {
        let stat = b"12 (a) S 9) (x) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time(b"12 (x) S 1 2"), None);
        assert_eq!(parse_start_time(b""), None);
        assert!(start_time(std::process::id()).unwrap() > 0);
        assert_eq!(start_time(0x3fff_ffff).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn arguments_are_renamed_in_their_place() {
        let first = || std::fs::read("/proc/self/cmdline").unwrap().split(|&b| b == 0).next().unwrap().to_vec();
        let before = first();
        let mut longer = vec![b'x'; before.len() + 100];
        rename_argument(0, &longer).unwrap();
        longer.truncate(before.len());
        assert_eq!(first(), longer, "what does not fit is left out");
        rename_argument(0, b"y").unwrap();
        let whole = std::fs::read("/proc/self/cmdline").unwrap();
        assert!(whole[1..before.len()].iter().all(|&b| b == 0), "no rest of the old one");
        rename_argument(1000, b"z").unwrap_err();
    }

    #[test]
    fn pidfds_are_of_one_process() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let fd = pidfd_open(child.id()).unwrap();
        pidfd_send_signal(fd.as_fd(), 9).unwrap();
        assert_eq!(reap(Some(child.id()), true).unwrap(), Some((child.id(), Ended::Signal(9))));
        assert!(pidfd_send_signal(fd.as_fd(), 9).is_err());
        let _ = child.try_wait();
    }

    #[test]
    fn pipes_poll() {
        let (r, w) = pipe().unwrap();
        set_nonblocking(r.as_fd()).unwrap();
        let mut fds = [Poll::new(r.as_fd(), true, false), Poll::NONE];
        assert_eq!(poll(&mut fds, 0).unwrap(), 0);
        assert_eq!(read(r.as_fd(), &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        write(w.as_fd(), b"ab").unwrap();
        assert_eq!(poll(&mut fds, 0).unwrap(), 1);
        assert!(fds[0].readable() && !fds[0].hung_up());
        drop(w);
        let mut buffer = [0; 4];
        assert_eq!(read(r.as_fd(), &mut buffer).unwrap(), 2);
        assert_eq!(read(r.as_fd(), &mut buffer).unwrap(), 0);
    }

    #[test]
    fn forgotten_pages_are_zero() {
        let mut buffer = vec![7u8; 32 << 10];
        forget_pages(&mut buffer);
        assert!(buffer[4096..(32 << 10) - 4096].iter().all(|&b| b == 0));
        forget_pages(&mut [1, 2, 3]);
    }
}
