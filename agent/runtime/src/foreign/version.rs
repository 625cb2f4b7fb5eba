//! Which version a configured runtime has.

use crate::OtherRuntime;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A runtime answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_BYTES: u64 = 4 << 10;

/// A runtime of the configuration.
#[derive(Clone, Debug)]
pub struct OtherFound {
    pub name: String,
    pub path: String,
    /// The first line of what `--version` says; else why it says nothing.
    pub version: Result<String, String>,
}

pub(crate) fn look(name: &str, runtime: &OtherRuntime) -> OtherFound {
    OtherFound { name: name.to_owned(), path: runtime.path.display().to_string(), version: version(runtime) }
}

/// Waits at most [`PATIENCE`], then kills.
fn version(runtime: &OtherRuntime) -> Result<String, String> {
    let mut command = Command::new(&runtime.path);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).env_clear();
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            other => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(
                    other.map_or_else(|e| e.to_string(), |_| format!("--version takes longer than {PATIENCE:?}"))
                );
            }
        }
    };
    let mut text = Vec::new();
    if let Some(out) = child.stdout.take() {
        let _ = out.take(ANSWER_BYTES).read_to_end(&mut text);
    }
    let line = first_line(&text);
    match status.success() && !line.is_empty() {
        true => Ok(line),
        false => Err(format!("--version ended with {status}")),
    }
}

pub(crate) fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect()
}
