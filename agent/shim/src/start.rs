//! The shim's side of making the first process.

use crate::{foreign, init};
use berth_model::wire::{Exited, FailKind, Failed, Plan, Response, Started};
use berth_sys::process::{self, Cloned};
use berth_sys::{fs, socket};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The workload's process and the shim's ends of its streams.
pub struct Container {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub started: Started,
    /// Write end, or the terminal.
    pub stdin: Option<OwnedFd>,
    /// Read end of stdout, or the terminal.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub terminal: bool,
}

/// The workload's ends: what becomes 0, 1 and 2 in it. A terminal is made by the new process itself, inside the container.
pub struct Streams {
    pub stdin: OwnedFd,
    pub outputs: Option<(OwnedFd, OwnedFd)>,
}

/// Makes the process and tells the agent how that went. `None`: a step failed, the agent knows, and nothing is left.
pub fn start(plan: &Plan<'_>, fds: &[OwnedFd], control: &OwnedFd) -> io::Result<Option<Container>> {
    match try_start(plan, fds) {
        // A command that makes no process.
        Ok(None) => {
            let done = Response::Exited(Exited { code: 0, signal: 0, time: 0 });
            send(control.as_fd(), &done)?;
            Ok(None)
        }
        Ok(Some(container)) => {
            // An agent that died meanwhile is no reason to kill what runs: the next one finds it.
            let _ = send(control.as_fd(), &Response::Started(container.started));
            Ok(Some(container))
        }
        Err(failure) => {
            socket::send(control.as_fd(), &[IoSlice::new(&failure)], &[], true)?;
            Ok(None)
        }
    }
}

pub fn send(to: BorrowedFd<'_>, response: &Response<'_>) -> io::Result<()> {
    socket::send(to, &[IoSlice::new(&response.encode())], &[], true)
}

/// A failed act as the message that goes to the agent.
pub fn failure(act: &str, error: &io::Error) -> Vec<u8> {
    failure_of(act.as_bytes(), FailKind::Step, error)
}

pub fn failure_of(act: &[u8], kind: FailKind, error: &io::Error) -> Vec<u8> {
    let errno = error.raw_os_error().unwrap_or(0);
    Response::Failed(Failed { step: act.into(), kind, errno }).encode()
}

pub fn named(act: &'static str) -> impl FnOnce(io::Error) -> Vec<u8> {
    move |e| failure(act, &e)
}

pub fn started(pid: u32) -> Started {
    Started {
        pid,
        start_time: process::start_time(pid).unwrap_or(0),
        shim_pid: std::process::id(),
        shim_start_time: process::start_time(std::process::id()).unwrap_or(0),
    }
}

/// Our end and the workload's of its standard input; a terminal is not there yet. `null`: what it has without an input.
pub fn input(
    plan: &Plan<'_>,
    null: impl FnOnce() -> Result<OwnedFd, Vec<u8>>,
) -> Result<(Option<OwnedFd>, OwnedFd), Vec<u8>> {
    if plan.tty || !plan.stdin {
        return Ok((None, null()?));
    }
    let (read, write) = process::pipe().map_err(named("making the pipe for standard input"))?;
    process::set_nonblocking(write.as_fd()).map_err(named("preparing the pipe for standard input"))?;
    Ok((Some(write), read))
}

impl Container {
    pub fn take_terminal(&mut self, master: OwnedFd) -> Result<(), Vec<u8>> {
        process::set_nonblocking(master.as_fd()).map_err(named("preparing the terminal"))?;
        self.stdin = Some(master.try_clone().map_err(named("duplicating the terminal"))?);
        self.stdout = Some(master);
        Ok(())
    }

    pub fn take_pipes(&mut self, out: OwnedFd, err: OwnedFd) -> Result<(), Vec<u8>> {
        for fd in [&out, &err] {
            process::set_nonblocking(fd.as_fd()).map_err(named("preparing the output pipes"))?;
        }
        (self.stdout, self.stderr) = (Some(out), Some(err));
        Ok(())
    }
}

fn try_start(plan: &Plan<'_>, fds: &[OwnedFd]) -> Result<Option<Container>, Vec<u8>> {
    if let Some(runtime) = &plan.runtime {
        return foreign::start(plan, runtime, fds);
    }
    let (ours, theirs) = socket::seqpacket_pair().map_err(named("making the socket to the new process"))?;
    // Not for the workload: the plan puts the container's in its place.
    let null = || fs::open("/dev/null", fs::Open::RDWR, 0).map_err(named("opening /dev/null"));
    let (stdin, stdin_theirs) = input(plan, null)?;
    let (outputs, outputs_theirs) = if plan.tty {
        (None, None)
    } else {
        let (out_read, out_write) = process::pipe().map_err(named("making the pipe for standard output"))?;
        let (err_read, err_write) = process::pipe().map_err(named("making the pipe for standard error"))?;
        (Some((out_read, err_read)), Some((out_write, err_write)))
    };
    if let Some(fd) = plan.join_pid {
        // Counts for the children of this process only (setns(2)).
        let pidfd = fds.get(usize::from(fd)).ok_or_else(|| failure("finding the pidfd of the plan", &invalid()))?;
        process::setns(pidfd.as_fd(), NEWPID).map_err(named("joining the container's pid namespace"))?;
    }
    let cgroup = plan.fds.cgroup.and_then(|i| fds.get(usize::from(i))).map(AsFd::as_fd);
    // With a user namespace, this one only prepares the way for its sibling.
    let namespaces = if plan.userns.is_some() { 0 } else { plan.namespaces };
    match process::clone3(namespaces, cgroup).map_err(named("making the container's namespaces (clone3)"))? {
        Cloned::Child => {
            drop(ours);
            init::run(plan, fds, theirs, Streams { stdin: stdin_theirs, outputs: outputs_theirs })
        }
        Cloned::Parent(pid, pidfd) => {
            drop((theirs, stdin_theirs, outputs_theirs));
            let (mut pid, mut pidfd, mut is_born) = (pid, pidfd, plan.userns.is_none());
            let ready = wait_for_execve(&ours, |born| {
                is_born = true;
                let _ = process::reap(Some(pid), true);
                // A child of this process, which nobody else reaps: the pid stays its own.
                (pid, pidfd) = (born, process::pidfd_open(born)?);
                Ok(())
            });
            let terminal = match ready {
                Ok(terminal) if is_born => terminal,
                Ok(_) => {
                    return Err(failure("making the container's first process", &io::ErrorKind::BrokenPipe.into()));
                }
                Err(message) => {
                    // It exits by itself behind the message; whoever is still in its namespace is killed with it.
                    let _ = process::pidfd_send_signal(pidfd.as_fd(), 9);
                    let _ = process::reap(Some(pid), true);
                    return Err(message);
                }
            };
            let mut container =
                Container { pid, pidfd, started: started(pid), stdin, stdout: None, stderr: None, terminal: plan.tty };
            if let Some(master) = terminal {
                container.take_terminal(master)?;
            }
            if let Some((out, err)) = outputs {
                container.take_pipes(out, err)?;
            }
            Ok(Some(container))
        }
    }
}

/// CLONE_NEWPID of clone(2).
const NEWPID: u64 = 0x2000_0000;

fn invalid() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidData)
}

/// First byte of the message that says which process is the container's: its pid follows.
pub const BORN: u8 = b'p';

/// The new process sends its terminal, or a failure; its execve closes the socket. What it sends is passed on as it is. `born`: another one
/// has taken its place.
pub fn wait_for_execve(
    ours: &OwnedFd,
    mut born: impl FnMut(u32) -> io::Result<()>,
) -> Result<Option<OwnedFd>, Vec<u8>> {
    let (mut buffer, mut passed) = (vec![0; 8 << 10], Vec::new());
    loop {
        match socket::receive(ours.as_fd(), &mut buffer, &mut passed, true) {
            Ok(0) => return Ok(passed.pop()),
            Ok(1) if passed.len() == 1 => {}
            Ok(5) if buffer[0] == BORN => {
                let pid = u32::from_le_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]);
                born(pid).map_err(|e| failure("finding the new process", &e))?;
            }
            Ok(n) => return Err(buffer[..n].to_vec()),
            Err(e) => return Err(failure("waiting for the new process", &e)),
        }
    }
}
