//! What is left of the host's rights in a shim whose container runs: it stays as long as the container does, and relays what that says.
//!
//! It is root still, by its user id alone. It keeps one capability, has two folders of the host (run and log), opens no socket, executes nothing,
//! and nobody without CAP_SYS_PTRACE looks into it. The container's own process was born before, and has none of this.

use berth_sys::filter::{self, Rule, Test};
use berth_sys::fs;
use berth_sys::landlock::{self, Domain};
use berth_sys::{cap, process};
use std::io;
use std::os::fd::BorrowedFd;

/// Beside what every program calls. Log and exit file: made, cut, linked, renamed, removed. Clients: taken, heard, told.
const CALLS: &[Rule] = &[
    filter::ACCEPT4.always(),
    filter::RECVMSG.always(),
    filter::SENDMSG.always(),
    filter::WAIT4.always(),
    filter::PIDFD_SEND_SIGNAL.always(),
    filter::IOCTL.when(&[Test { argument: 1, mask: u32::MAX, values: &[filter::TERMINAL_SIZE] }]),
    filter::GETDENTS64.always(),
    filter::PREAD64.always(),
    filter::PWRITE64.always(),
    filter::FTRUNCATE.always(),
    filter::LINKAT.always(),
    filter::RENAMEAT2.always(),
    filter::UNLINKAT.always(),
];

/// Files in the folders.
const RIGHTS: u64 = landlock::READ_FILE
    | landlock::WRITE_FILE
    | landlock::READ_DIR
    | landlock::REMOVE_FILE
    | landlock::MAKE_REG
    | landlock::TRUNCATE;

/// Gives up everything that the loop does not need. `folders`: those that it makes files in.
///
/// # Errors
/// Where a kernel that has a wall does not put it up.
pub fn confine(folders: &[BorrowedFd<'_>]) -> io::Result<()> {
    let keep = capabilities(folders)?;
    // With fewer capabilities it is nearer to what others have: root of a container that sees the host's processes could trace it otherwise.
    process::set_undumpable()?;
    process::set_no_new_privileges()?;
    if let Some(abi) = landlock::abi() {
        // No scope of signals: they include the one by which the container ends with its shim.
        let domain = Domain::new(landlock::rights(abi), landlock::tcp(abi), landlock::sockets(abi))?;
        for folder in folders {
            domain.allow(RIGHTS, *folder)?;
        }
        domain.enter()?;
    }
    cap::limit_bounding(keep)?;
    cap::set(keep)?;
    filter::keep_to(&[CALLS])
}

/// KILL: the container's processes may be anybody's, and the kernel asks for it where the container dies of its shim's end (PR_SET_PDEATHSIG), too.
/// DAC_OVERRIDE only where a folder is not plainly root's: somebody has given it to the collector of logs.
fn capabilities(folders: &[BorrowedFd<'_>]) -> io::Result<u64> {
    let bit = |name| cap::bit(name).unwrap_or(0);
    let mut keep = bit("KILL");
    for folder in folders {
        let stat = fs::fstat(*folder)?;
        if stat.uid != 0 || stat.mode & 0o700 != 0o700 {
            keep |= bit("DAC_OVERRIDE");
        }
    }
    // What the agent itself has not is nowhere to be had.
    Ok(keep & cap::permitted()?)
}
