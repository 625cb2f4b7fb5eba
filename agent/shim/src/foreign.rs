//! Containers of another OCI runtime: its commands, and the process that they leave behind.
//!
//! A command walks through the plan's steps first, so that it sees the host as the agent wants it to, and is executed where our own runtime
//! would execute the workload. The process that it makes is adopted: from there on it is this program's child like any other.

use crate::start::{Container, Streams, failure, failure_of, input, named, started, wait_for_execve};
use crate::{init, outside};
use berth_model::wire::{FailKind, Foreign, Plan};
use berth_sys::process::{self, Cloned, Ended, Poll};
use berth_sys::{pty, socket};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Words of a command that failed, at most.
const SAID: usize = 4 << 10;
/// A terminal that was sent before the command's end is there at once.
const TERMINAL_MS: i32 = 1_000;
const SIGKILL: i32 = 9;

/// Runs the plan's commands. `None`: they were all that was wanted.
pub fn start(plan: &Plan<'_>, runtime: &Foreign<'_>, fds: &[OwnedFd]) -> Result<Option<Container>, Vec<u8>> {
    process::set_child_subreaper(true).map_err(named("becoming the parent of what a runtime leaves"))?;
    let private_null = || outside::private_null().map_err(named("making a null device"));
    // The host's own would be the container's to change.
    let (stdin, stdin_theirs) = input(plan, private_null)?;
    let (out, out_theirs) = process::pipe().map_err(named("making the pipe for standard output"))?;
    let (err, err_theirs) = process::pipe().map_err(named("making the pipe for standard error"))?;
    let place = |place: Option<u8>| place.and_then(|i| fds.get(usize::from(i)));
    let streams = Streams { stdin: stdin_theirs, outputs: Some((out_theirs, err_theirs)) };
    let terminal = command(plan, fds, streams, &err, place(runtime.console))?;
    let Some(file) = &runtime.pid_file else { return Ok(None) };
    let pid = written_pid(file).map_err(|e| failure("reading the pid that the runtime has written", &e))?;
    let pidfd = adopted(pid).map_err(named("adopting the container's process"))?;
    let rest = || -> Result<(), Vec<u8>> {
        if plan.tty && terminal.is_none() {
            return Err(failure("waiting for the terminal", &io::ErrorKind::TimedOut.into()));
        }
        // Before the program starts, which may ask for it.
        if let (Some(master), Some((rows, columns))) = (&terminal, plan.size) {
            let _ = pty::resize(master.as_fd(), rows, columns);
        }
        if let Some(group) = place(runtime.group) {
            joined(group, pid).map_err(named("moving the process to its cgroup"))?;
        }
        if let Some(second) = &runtime.start {
            let (err, theirs) = process::pipe().map_err(named("making the pipe for the runtime's errors"))?;
            let streams = Streams { stdin: private_null()?, outputs: Some((private_null()?, theirs)) };
            command(second, fds, streams, &err, None)?;
        }
        // What is orphaned from now on is none of ours.
        process::set_child_subreaper(false).map_err(named("leaving other orphans alone"))
    };
    if let Err(message) = rest() {
        let _ = process::pidfd_send_signal(pidfd.as_fd(), SIGKILL);
        let _ = process::reap(Some(pid), true);
        return Err(message);
    }
    let mut container =
        Container { pid, pidfd, started: started(pid), stdin, stdout: None, stderr: None, terminal: plan.tty };
    if let Some(master) = terminal {
        container.take_terminal(master)?;
    } else {
        container.take_pipes(out, err)?;
    }
    Ok(Some(container))
}

/// Runs one command to its end; the terminal, if one came meanwhile.
fn command(
    plan: &Plan<'_>,
    fds: &[OwnedFd],
    streams: Streams,
    errors: &OwnedFd,
    console: Option<&OwnedFd>,
) -> Result<Option<OwnedFd>, Vec<u8>> {
    let (ours, theirs) = socket::seqpacket_pair().map_err(named("making the socket to the new process"))?;
    match process::clone3(plan.namespaces, None).map_err(named("making the runtime's mount namespace (clone3)"))? {
        Cloned::Child => {
            drop(ours);
            init::run(plan, fds, theirs, streams)
        }
        Cloned::Parent(pid, pidfd) => {
            drop((theirs, streams));
            if let Err(message) = wait_for_execve(&ours, |_| Ok(())) {
                let _ = process::pidfd_send_signal(pidfd.as_fd(), SIGKILL);
                let _ = process::reap(Some(pid), true);
                return Err(message);
            }
            let (ended, terminal) = wait(pid, &pidfd, console).map_err(named("waiting for the runtime"))?;
            match ended {
                Ended::Code(0) => Ok(terminal),
                Ended::Code(code) => Err(refused(errors, code)),
                Ended::Signal(signal) => Err(refused(errors, 128 + signal)),
            }
        }
    }
}

fn refused(errors: &OwnedFd, code: i32) -> Vec<u8> {
    let mut said = vec![0; SAID];
    let _ = process::set_nonblocking(errors.as_fd());
    let n = process::read(errors.as_fd(), &mut said).unwrap_or(0);
    failure_of(&said[..n], FailKind::Runtime, &io::Error::from_raw_os_error(code))
}

/// Until the command has ended and, where one is expected, a terminal has come.
fn wait(pid: u32, pidfd: &OwnedFd, console: Option<&OwnedFd>) -> io::Result<(Ended, Option<OwnedFd>)> {
    let (mut ended, mut terminal): (Option<Ended>, Option<OwnedFd>) = (None, None);
    let mut sender: Option<OwnedFd> = None;
    loop {
        let console = console.filter(|_| terminal.is_none());
        match (ended, console) {
            (Some(ended), None) => return Ok((ended, terminal)),
            (Some(ended), _) if ended != Ended::Code(0) => return Ok((ended, None)),
            _ => {}
        }
        let mut polls = Vec::with_capacity(2);
        if ended.is_none() {
            polls.push(Poll::new(pidfd.as_fd(), true, false));
        }
        let from = sender.as_ref().or(console);
        polls.extend(from.map(|fd| Poll::new(fd.as_fd(), true, false)));
        let timeout = if ended.is_some() { TERMINAL_MS } else { -1 };
        if process::poll(&mut polls, timeout)? == 0
            && let Some(ended) = ended
        {
            return Ok((ended, terminal));
        }
        let came = |poll: Option<&Poll>| poll.is_some_and(|p| p.readable() || p.hung_up());
        if from.is_some() && came(polls.last()) {
            sender = match (sender.take(), console) {
                (None, Some(listener)) => Some(socket::accept(listener.as_fd())?),
                (Some(sender), _) => {
                    let (mut name, mut passed) = ([0; 4096], Vec::new());
                    socket::receive(sender.as_fd(), &mut name, &mut passed, false)?;
                    terminal = passed.pop();
                    None
                }
                (None, None) => None,
            };
        } else if ended.is_none() && came(polls.first()) {
            ended = process::reap(Some(pid), true)?.map(|(_, ended)| ended);
        }
    }
}

fn written_pid(path: &[u8]) -> io::Result<u32> {
    use std::os::unix::ffi::OsStrExt;
    let text = std::fs::read_to_string(std::ffi::OsStr::from_bytes(path))?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Only a child's end is told to this process.
fn adopted(pid: u32) -> io::Result<OwnedFd> {
    let pidfd = process::pidfd_open(pid)?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces and brackets: behind the last one are state and parent (proc_pid_stat(5)).
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
    if parent == Some(std::process::id()) { Ok(pidfd) } else { Err(io::Error::from_raw_os_error(ECHILD)) }
}

/// A process that has ended meanwhile is in no group.
fn joined(group: &OwnedFd, pid: u32) -> io::Result<()> {
    match process::write(group.as_fd(), pid.to_string().as_bytes()) {
        Err(e) if e.raw_os_error() == Some(ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

const ESRCH: i32 = 3;
const ECHILD: i32 = 10;
