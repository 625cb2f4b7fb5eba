//! The per-container process: it makes the container from a plan, keeps its standard streams and its log, and knows how it ended.
//!
//! One thread, one poll loop, no configuration: everything comes in one message on standard input, a `SOCK_SEQPACKET` socket to the agent.
//! The agent may go away and come back at any time; the shim goes on. It does not decide anything (that is the plan's), does not touch
//! cgroup limits, networks or stores, and has no other input than the agent's messages and the workload's output.
//!
//! `start` makes the process (`init` is what the new process does, one `step` after the other, until its execve; `outside` what it still does as the host's;
//! `foreign` has another OCI runtime make it), `confine` gives up what it needed the host's rights for, `relay` is the loop,
//! `client` who reads and feeds, `ring` what readers have yet to take, `log` the stored output, `oom` whether memory was short.
#![forbid(unsafe_code)]

mod client;
mod command;
mod confine;
mod foreign;
mod init;
mod log;
mod oom;
mod outside;
mod relay;
mod ring;
mod start;
mod step;
mod tree;
mod wall;

use berth_model::wire::{MAX_FDS, MAX_INLINE_PLAN, MAX_PLAN, Plan, Request};
use berth_sys::{process, socket};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads what a shim says: the agent sees the closed connection.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    // Not the agent's session: its death, its terminal and its signals are not ours.
    process::setsid()?;
    // Nor its keys: what it makes has this one, which is empty.
    berth_sys::keyring::join_new()?;
    process::set_name(c"berth-shim")?;
    // The agent starts it with all of them blocked.
    process::unblock_signals()?;
    // Read now: the agent may be gone, and /proc another one, when it is asked.
    let _ = wall::is_down("");
    // A new descriptor, because 0 becomes the workload's in its process.
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let mut fds = Vec::with_capacity(MAX_FDS);
    let bytes = receive_plan(&control, &mut fds)?;
    let plan = Plan::decode(&bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if !plan.id.is_empty() {
        // For people who look at the host's processes; nothing hangs on it.
        let _ = process::rename_argument(1, &plan.id);
    }
    let Some(container) = start::start(&plan, &fds, &control)? else { return Ok(()) };
    let relay = relay::Relay::new(&plan, fds, control, container)?;
    drop(plan);
    drop(bytes);
    // The container runs, and what it says has not been read yet. A shim that cannot be confined ends, and the container with it.
    confine::confine(&relay.folders())?;
    relay.run()
}

fn receive_plan(control: &OwnedFd, fds: &mut Vec<OwnedFd>) -> io::Result<Vec<u8>> {
    // Larger than malloc's mmap threshold (128 KiB), so that the pages go back to the kernel when the plan is done.
    let mut buffer = vec![0; 2 * MAX_INLINE_PLAN + (32 << 10)];
    let n = socket::receive(control.as_fd(), &mut buffer, fds, true)?;
    buffer.truncate(n);
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let in_file = match Request::decode(&buffer).map_err(|_| invalid())? {
        Request::Plan(_) => None,
        Request::PlanInFile(len) => Some(len as usize),
        _ => return Err(invalid()),
    };
    let Some(len) = in_file else {
        buffer.drain(..1);
        return Ok(buffer);
    };
    if len > MAX_PLAN || fds.is_empty() {
        return Err(invalid());
    }
    // The file is always the last descriptor: the places of the others are as in the plan.
    let file = fds.pop().ok_or_else(invalid)?;
    let mut plan = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match process::read(file.as_fd(), &mut plan[filled..])? {
            0 => return Err(invalid()),
            n => filled += n,
        }
    }
    Ok(plan)
}
