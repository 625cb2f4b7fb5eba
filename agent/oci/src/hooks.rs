//! Hooks (config.md, "POSIX-platform Hooks"): programs of the caller's that are told the state on standard input.

use crate::config::Hook;
use crate::error::{Error, plain};
use berth_sys::process::{self, Poll};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Bytes of what a failed hook said that are passed on.
const MAX_SAID: usize = 4096;

/// Runs hooks in their order; the first one that fails ends it. `folder`: where they run.
pub fn run(kind: &str, hooks: &[Hook], state: &Value, folder: Option<&Path>) -> Result<(), Error> {
    for (i, hook) in hooks.iter().enumerate() {
        one(hook, state, folder).map_err(|why| Error::Child(format!("hooks.{kind}[{i}] ({}): {why}", hook.path)))?;
    }
    Ok(())
}

/// Runs all of them, whatever becomes of each, and returns what went wrong.
pub fn run_all(kind: &str, hooks: &[Hook], state: &Value, folder: Option<&Path>) -> Vec<Error> {
    hooks.iter().filter_map(|hook| run(kind, std::slice::from_ref(hook), state, folder).err()).collect()
}

fn one(hook: &Hook, state: &Value, folder: Option<&Path>) -> Result<(), String> {
    let mut command = Command::new(&hook.path);
    // As execv(3): the first argument is the program's name for itself.
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    command.envs(hook.env.iter().filter_map(|e| e.split_once('=')));
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let limit = hook.timeout.and_then(|t| u64::try_from(t).ok()).map(Duration::from_secs);
    let end = limit.map(|limit| Instant::now() + limit);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("starting it: {}", plain(&e)))?;
    let mut talk = Talk {
        stdin: child.stdin.take(),
        state: state.to_string().into_bytes(),
        stderr: child.stderr.take(),
        said: Vec::new(),
    };
    let status = talk.until_end(&mut child, end).map_err(|e| format!("waiting for it: {}", plain(&e)))?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}: {}", String::from_utf8_lossy(&talk.said).trim())),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("no end within its timeout of {} s; killed", limit.unwrap_or_default().as_secs()))
        }
    }
}

/// What goes through pipes while the hook runs: it need not read the state, and may say more than a pipe holds.
struct Talk {
    stdin: Option<ChildStdin>,
    /// What it has not taken yet.
    state: Vec<u8>,
    stderr: Option<ChildStderr>,
    /// The first [`MAX_SAID`] bytes.
    said: Vec<u8>,
}

impl Talk {
    /// `None`: the time is over. Others that have its standard error open are not waited for.
    fn until_end(&mut self, child: &mut Child, end: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        for fd in [self.stdin.as_ref().map(AsFd::as_fd), self.stderr.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            process::set_nonblocking(fd)?;
        }
        // A container's seccomp program may forbid it: then the hook is looked at now and then.
        let pidfd = process::pidfd_open(child.id()).ok();
        let step = if pidfd.is_some() { 1000 } else { 5 };
        loop {
            if let Some(status) = child.try_wait()? {
                self.hear();
                return Ok(Some(status));
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            // Rounded up, so that the last turn does not spin.
            let wait = left.map_or(step, |l| i32::try_from(l.as_millis() + 1).unwrap_or(step).min(step));
            let of = |fd: Option<BorrowedFd<'_>>, reads: bool| fd.map_or(Poll::NONE, |fd| Poll::new(fd, reads, !reads));
            let mut polled = [
                of(self.stdin.as_ref().map(AsFd::as_fd), false),
                of(self.stderr.as_ref().map(AsFd::as_fd), true),
                of(pidfd.as_ref().map(AsFd::as_fd), true),
            ];
            process::poll(&mut polled, wait)?;
            self.tell();
            self.hear();
        }
    }

    fn tell(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(&self.state) {
            Ok(n) if n < self.state.len() => drop(self.state.drain(..n)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // All is told. Or a hook does not read, and has its reasons: what it returns counts.
            _ => self.stdin = None,
        }
    }

    fn hear(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(stderr) = &mut self.stderr {
            match stderr.read(&mut buffer) {
                Ok(n @ 1..) => {
                    let room = MAX_SAID.saturating_sub(self.said.len());
                    self.said.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                _ => self.stderr = None,
            }
        }
    }
}
