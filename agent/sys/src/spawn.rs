//! Starting a program from a process that has much memory, many threads and many descriptors, without paying for any of them.

use crate::process::{Child, check};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The streams, and the program.
const SLOTS: usize = 4;

/// Low descriptors of this process, /dev/null except while a child starts: what a child needs is put there, and of the table of descriptors it
/// copies no more than reaches up to them.
struct Slots {
    null: OwnedFd,
    fds: [OwnedFd; SLOTS],
}

impl Slots {
    fn take() -> io::Result<Self> {
        let null = OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/null")?);
        let slot =
            || -> io::Result<OwnedFd> {
                // SAFETY: takes numbers only, and makes a descriptor that nobody else owns. It is none of the three that the child's streams are.
                unsafe {
                    Ok(OwnedFd::from_raw_fd(
                        check(libc::fcntl(null.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3).into())? as RawFd
                    ))
                }
            };
        Ok(Slots { fds: [slot()?, slot()?, slot()?, slot()?], null })
    }

    fn put(&self, what: [BorrowedFd<'_>; SLOTS]) -> io::Result<()> {
        for (slot, fd) in self.fds.iter().zip(what) {
            // SAFETY: takes numbers only; what was in the slot is nobody's but the slot's.
            check(unsafe { libc::dup3(fd.as_raw_fd(), slot.as_raw_fd(), libc::O_CLOEXEC) }.into())?;
        }
        Ok(())
    }

    fn numbers(&self) -> [RawFd; SLOTS] {
        self.fds.each_ref().map(AsRawFd::as_raw_fd)
    }
}

static KEPT: OnceLock<Mutex<Slots>> = OnceLock::new();

/// Takes the descriptors that [`spawn`] needs. Whoever opens thousands calls this before: the lower they are, the cheaper is each start.
pub fn reserve() -> io::Result<()> {
    slots().map(drop)
}

fn slots() -> io::Result<&'static Mutex<Slots>> {
    if let Some(slots) = KEPT.get() {
        return Ok(slots);
    }
    let slots = Slots::take()?;
    Ok(KEPT.get_or_init(|| Mutex::new(slots)))
}

/// What [`spawn`]'s child reads, and what it leaves when it fails.
struct Spawn {
    slots: [RawFd; SLOTS],
    args: *const *const libc::c_char,
    env: *const *const libc::c_char,
    errno: libc::c_int,
}

/// Runs in the child on the parent's memory and, at first, its descriptors, while the parent's thread sleeps: nothing but system calls on what
/// the parent has prepared.
extern "C" fn become_program(spawn: *mut libc::c_void) -> libc::c_int {
    let spawn = spawn.cast::<Spawn>();
    // SAFETY: `spawn` lives on the parent's stack, which sleeps until the execve or the end; both lists and their strings do too, and end
    // with a null. The calls are safe after a fork, and write no memory of the parent's but errno, which is its own thread's. Nothing is
    // changed in the parent's table of descriptors: close_range (CLOSE_RANGE_UNSHARE, Linux 5.9) makes an own one of those below the first that
    // it closes, and unshare an own one of all, where a seccomp program knows no close_range.
    unsafe {
        let slots = (*spawn).slots;
        let first = slots.iter().fold(0, |high, fd| if *fd > high { *fd } else { high }) + 1;
        let own = libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) == 0
            || libc::unshare(libc::CLONE_FILES) == 0;
        if own && (0..3).all(|to| libc::dup2(slots[to as usize], to) >= 0) {
            libc::syscall(libc::SYS_execveat, slots[3], c"".as_ptr(), (*spawn).args, (*spawn).env, libc::AT_EMPTY_PATH);
        }
        (*spawn).errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Starts the program behind a descriptor, without an environment, with three descriptors as its standard streams, and with every signal
/// blocked: it has to call [`crate::process::unblock_signals`] itself.
///
/// The child shares this process's memory until its execve (clone(2), CLONE_VM and CLONE_VFORK): no page table is copied, however large the
/// caller is. Its descriptors it shares (CLONE_FILES) until it makes a table of the lowest ones: a copy of thousands, and their end at the execve, cost
/// more than the rest together. posix_spawn(3) copies them, and asks for and resets the disposition of each of the 64 signals, which an execve does
/// anyway; with all signals blocked no handler of the caller's can run in the child.
///
/// # Errors
/// As clone(2), dup3(2) and execveat(2).
pub fn spawn(program: BorrowedFd<'_>, args: &[&CStr], streams: [BorrowedFd<'_>; 3]) -> io::Result<Child> {
    const STACK: usize = 64 << 10;
    let args: Vec<_> = args.iter().map(|a| a.as_ptr()).chain([std::ptr::null()]).collect();
    let env = [std::ptr::null()];
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK / 16);
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let slots = slots()?.lock().unwrap_or_else(PoisonError::into_inner);
    let mut spawn = Spawn { slots: slots.numbers(), args: args.as_ptr(), env: env.as_ptr(), errno: 0 };
    let child = slots.put([streams[0], streams[1], streams[2], program]).and_then(|()| {
        // SAFETY: the stack grows down from `top`, is aligned to 16 and nobody else's until the child has left it, which is when this call
        // returns (CLONE_VFORK).
        unsafe { clone_onto(top.cast(), &raw mut spawn) }
    });
    // Whoever waits for the streams' other ends must not wait for the slots. /dev/null is open: this cannot fail.
    let _ = slots.put([slots.null.as_fd(); SLOTS]);
    drop(slots);
    let child = child?;
    // SAFETY: the child wrote it through a pointer, before this thread woke up.
    let errno = unsafe { std::ptr::read_volatile(&raw const spawn.errno) };
    if errno != 0 {
        child.reap(true)?;
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(child)
}

/// # Safety
/// `top` is the end of a stack that is used by nobody else, and `spawn` is as [`become_program`] wants it.
unsafe fn clone_onto(top: *mut libc::c_void, spawn: *mut Spawn) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let all = u64::MAX;
    let mut before = 0u64;
    // SAFETY: both sets are 8 bytes, the kernel's size, and live through the call.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, 8) })?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: as the caller says. `become_program` never returns and keeps to what is safe beside a sleeping parent. The fourth argument of
    // the system call is where CLONE_PIDFD puts the descriptor (Linux 5.2).
    let pid = unsafe { libc::clone(become_program, top, flags, spawn.cast(), &raw mut pidfd) };
    let cloned = check(pid.into());
    // SAFETY: as above; the old set is not asked for.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const before, 0usize, 8) };
    let pid = cloned? as u32;
    // SAFETY: the kernel has put a new descriptor there, which nobody else owns.
    Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::pipe;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn file(path: &str) -> OwnedFd {
        OwnedFd::from(File::open(path).unwrap())
    }

    /// What a script says on its standard output.
    fn said(sh: &OwnedFd, null: &OwnedFd, script: &CStr) -> String {
        let (r, w) = pipe().unwrap();
        let child = spawn(sh.as_fd(), &[c"sh", c"-c", script], [null.as_fd(), w.as_fd(), w.as_fd()]).unwrap();
        drop(w);
        let mut text = String::new();
        File::from(r).read_to_string(&mut text).unwrap();
        assert!(child.reap(true).unwrap() && child.reap(false).unwrap());
        text
    }

    #[test]
    fn spawned_programs_get_their_streams_and_no_environment() {
        let (sh, null) = (file("/bin/sh"), file("/dev/null"));
        let text = said(&sh, &null, c"read line < /proc/$$/status; echo $line; env; kill -9 $$");
        assert!(text.starts_with("Name:") && text.contains("PWD=") && !text.contains("CARGO"), "{text}");
        let child = spawn(sh.as_fd(), &[c"sh", c"-c", c"sleep 100"], [null.as_fd(); 3]).unwrap();
        assert!(!child.reap(false).unwrap());
        child.kill().unwrap();
        assert!(child.reap(true).unwrap());
        // Nothing to execute, and no zombie for it.
        assert_eq!(spawn(null.as_fd(), &[c"x"], [null.as_fd(); 3]).unwrap_err().raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn streams_are_a_childs_own_and_there_is_nothing_else() {
        let (sh, null) = (file("/bin/sh"), file("/dev/null"));
        // Of a few hundred that nobody has marked as close-on-exec, too.
        let many: Vec<_> = (0..300).map(|_| file("/dev/null")).collect();
        for fd in &many {
            // SAFETY: takes numbers only.
            check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }.into()).unwrap();
        }
        reserve().unwrap();
        let highest = KEPT.get().unwrap().lock().unwrap().numbers().into_iter().max().unwrap();
        let own = |n: usize| {
            let script = std::ffi::CString::new(format!("echo {n}; sleep 0.01; ls /proc/$$/fd")).unwrap();
            let text = said(&sh, &null, &script);
            let (first, fds) = text.split_once('\n').unwrap();
            assert_eq!(first, n.to_string(), "another child's stream");
            // The shell's own ls has none more than the shell.
            let above = fds.lines().filter(|fd| fd.parse::<i32>().unwrap() > highest).count();
            assert_eq!(above, 0, "{fds}");
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || (0..10).for_each(|n| own(thread * 100 + n)));
            }
        });
        let left = KEPT.get().unwrap().lock().unwrap().numbers();
        for fd in left {
            assert_eq!(std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().to_str(), Some("/dev/null"));
        }
    }
}
