//! What the new process does between its birth and its execve.
//!
//! It runs with the agent's rights on a copy of the shim's memory, and every step takes something away. A step that fails says its name
//! and the kernel's error and ends the process.

use crate::start::{BORN, Streams, failure, failure_of};
use crate::step::NEWUSER;
use crate::{command, step, wall};
use berth_model::wire::{FailKind, Plan, Step};
use berth_sys::process::{self, BlockedSignals, Cloned, Ended, Poll};
use berth_sys::socket;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;
const SIGCHLD: i32 = 17;

/// Never returns: it becomes the workload, or says why not.
pub fn run(plan: &Plan<'_>, fds: &[OwnedFd], report: OwnedFd, streams: Streams) -> ! {
    let message = match prepare(plan, fds, &report, streams).and_then(|()| forget(&report)) {
        Ok(()) if plan.init => run_init(plan),
        Ok(()) => exec(plan),
        Err(message) => message,
    };
    give_up(&report, &message)
}

/// Folders of the host are open here, and the command comes from a caller or an image: `/proc/self/fd/9/../bin/sh`, as the command, as an
/// interpreter or in PATH, would be the host's. Their owners never run again: `run` does not return.
fn forget(report: &OwnedFd) -> Result<(), Vec<u8>> {
    if wall::is_down("descriptors") {
        return Ok(());
    }
    process::close_all_but(report.as_fd()).map_err(|e| failure("closing descriptors", &e))
}

fn give_up(report: &OwnedFd, message: &[u8]) -> ! {
    let _ = socket::send(report.as_fd(), &[IoSlice::new(message)], &[], true);
    exit(1)
}

fn prepare(plan: &Plan<'_>, fds: &[OwnedFd], report: &OwnedFd, streams: Streams) -> Result<(), Vec<u8>> {
    let named = |act: &'static str| move |e: io::Error| failure(act, &e);
    // What the agent was started with is none of the container's. Now, because the container's seccomp profile may forbid it later.
    process::reset_signals().map_err(named("resetting signals"))?;
    // The shim's memory and descriptors are in this process: keep the container's other processes out of them (exec).
    process::set_dumpable(wall::is_down("dumpable")).map_err(named("hiding the new process"))?;
    let onto = |fd: &OwnedFd, to| process::dup_onto(fd.as_fd(), to).map_err(named("setting the standard streams"));
    onto(&streams.stdin, 0)?;
    if let Some((out, err)) = &streams.outputs {
        onto(out, 1)?;
        onto(err, 2)?;
    }
    let mut context = step::Context::new(fds, report.as_fd(), plan.userns, plan.size);
    // Another runtime joins it by itself.
    if let Some(userns) = plan.userns.filter(|_| plan.runtime.is_none()) {
        run_steps(&plan.outside, &mut context)?;
        let userns = fds.get(usize::from(userns)).ok_or_else(|| failure("finding the user namespace", &no_such()))?;
        be_born_in(plan.namespaces, userns, report)?;
    }
    process::setsid().map_err(named("making a session"))?;
    run_steps(&plan.steps, &mut context)?;
    // Behind the credentials, because changing them clears it. A shim that is gone already would never be noticed: look.
    process::set_parent_death_signal(SIGKILL).map_err(named("binding the container's life to its shim"))?;
    let mut poll = [Poll::new(report.as_fd(), false, false)];
    if process::poll(&mut poll, 0).is_ok_and(|n| n > 0) && poll[0].hung_up() {
        exit(1);
    }
    process::cloexec_from(3).map_err(named("marking descriptors close-on-exec"))?;
    wall::pause("pause-joining");
    Ok(())
}

fn run_steps(steps: &[Step<'_>], context: &mut step::Context<'_>) -> Result<(), Vec<u8>> {
    for step in steps {
        if let Err(error) = step::run(step, context) {
            return Err(failure_of(&step::describe(step), FailKind::Step, &error));
        }
    }
    Ok(())
}

fn no_such() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidInput)
}

/// Only a process with one thread joins (setns(2), `EINVAL`), and a thread that has been waited for (`mount::copy_tree` has one) counts until the
/// kernel has let go of it.
fn join_users(userns: &OwnedFd) -> io::Result<()> {
    let until = Instant::now() + LAST_THREAD;
    loop {
        match process::setns(userns.as_fd(), NEWUSER) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// Joins the user namespace, and returns in a child of the shim's whose other namespaces belong to it: a namespace is its maker's, and the one
/// for processes is only entered by birth. This process tells the shim which it is, and ends.
fn be_born_in(namespaces: u64, userns: &OwnedFd, report: &OwnedFd) -> Result<(), Vec<u8>> {
    join_users(userns).map_err(|e| failure("joining the user namespace", &e))?;
    let born = process::clone3(namespaces | PARENT, None);
    match born.map_err(|e| failure("making the container's namespaces (clone3)", &e))? {
        Cloned::Child => Ok(()),
        Cloned::Parent(pid, _) => {
            let [a, b, c, d] = pid.to_le_bytes();
            let told = socket::send(report.as_fd(), &[IoSlice::new(&[BORN, a, b, c, d])], &[], true);
            exit(told.is_err().into())
        }
    }
}

/// For the kernel to let go of a thread.
const LAST_THREAD: Duration = Duration::from_secs(2);

// Flags of clone(2).
const PARENT: u64 = 0x8000;

fn exec(plan: &Plan<'_>) -> Vec<u8> {
    let (act, mut kind, error) = command::exec(&plan.args, &plan.env);
    if plan.runtime.is_some() {
        // Not the workload's command.
        kind = FailKind::Step;
    }
    failure_of(&act, kind, &error)
}

/// `--init`: this process stays process 1, passes signals on and takes the statuses of orphans; the command is its child.
fn run_init(plan: &Plan<'_>) -> Vec<u8> {
    let signals = match BlockedSignals::block() {
        Ok(signals) => signals,
        Err(e) => return failure("blocking signals for the init", &e),
    };
    let child = match process::fork() {
        Ok(None) => {
            let ready = process::lead_foreground_group()
                .and_then(|()| process::set_parent_death_signal(SIGKILL))
                .and_then(|()| process::unblock_signals());
            return match ready {
                Ok(()) => exec(plan),
                Err(e) => failure("preparing the init's child", &e),
            };
        }
        Ok(Some(pid)) => pid,
        Err(e) => return failure("making the init's child", &e),
    };
    // The shim's descriptors are none of the container's, and the socket to the shim must close here too, or it would wait for ever.
    // Their owners never run again: this loop ends in exit.
    let _ = process::close_from(3);
    let _ = process::set_name(c"berth-init");
    loop {
        match signals.wait() {
            Ok(SIGCHLD) => {
                while let Ok(Some((pid, ended))) = process::reap(None, false) {
                    if pid == child {
                        exit(match ended {
                            Ended::Code(code) => code,
                            Ended::Signal(signal) => 128 + signal,
                        });
                    }
                }
            }
            Ok(signal) => {
                let _ = process::kill(child as i32, signal);
            }
            Err(_) => {}
        }
    }
}
