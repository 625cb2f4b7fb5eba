//! Hooks (config.md, "POSIX-platform Hooks"): programs of the caller's that are told the state on standard input.

use crate::config::Hook;
use crate::error::{Error, plain};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Of what a failed hook said, this much is passed on.
const MAX_SAID: u64 = 4096;

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
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("starting it: {}", plain(&e)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read has its reasons; what it returns counts.
        let _ = stdin.write_all(state.to_string().as_bytes());
    }
    let limit = hook.timeout.and_then(|t| u64::try_from(t).ok()).map(Duration::from_secs);
    let status = wait(&mut child, limit)?;
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MAX_SAID).read_to_end(&mut said);
    }
    Err(format!("{status}: {}", String::from_utf8_lossy(&said).trim()))
}

fn wait(child: &mut Child, limit: Option<Duration>) -> Result<std::process::ExitStatus, String> {
    let ended = |e: std::io::Error| format!("waiting for it: {}", plain(&e));
    let Some(limit) = limit else { return child.wait().map_err(ended) };
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(ended)? {
            return Ok(status);
        }
        if began.elapsed() >= limit {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("no end within its timeout of {} s; killed", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
