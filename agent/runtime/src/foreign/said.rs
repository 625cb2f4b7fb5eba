//! What a runtime says of a command that failed.

use crate::RuntimeError;
use serde::Deserialize;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Of a log, at most: one command writes a few lines.
const LOG_BYTES: u64 = 256 << 10;
/// Of words that go on to a person.
const WORDS: usize = 1000;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

pub(super) fn log_in(folder: &Path) -> PathBuf {
    folder.join("log.json")
}

/// The last error of a log.
fn last_error(folder: &Path) -> Option<String> {
    let mut text = Vec::new();
    std::fs::File::open(log_in(folder)).ok()?.take(LOG_BYTES).read_to_end(&mut text).ok()?;
    last_error_of(&text)
}

pub(crate) fn last_error_of(text: &[u8]) -> Option<String> {
    let lines = text.split(|b| *b == b'\n').rev().filter_map(|l| serde_json::from_slice::<Line>(l).ok());
    lines.into_iter().find(|l| matches!(l.level.as_str(), "error" | "fatal")).map(|l| l.msg)
}

/// A line of text for a person.
pub(crate) fn words(message: &str) -> String {
    message.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS).collect()
}

/// An error that only says that a command failed, with the runtime's reason: from its log in `folder`, else what it wrote to standard error.
/// Runtimes have no codes for a command that is not there; their words are all there is, as for Docker.
pub(crate) fn explain(error: RuntimeError, runtime: &str, folder: &Path, command: &str) -> RuntimeError {
    let RuntimeError::OtherRuntime { message: said, code, .. } = error else { return error };
    let mut message = words(&last_error(folder).filter(|m| !m.is_empty()).unwrap_or(said));
    if message.is_empty() {
        message = format!("it ended with exit code {code} and said nothing");
    }
    if message.contains("exec: ") || message.contains("executable") || message.contains("exec format error") {
        let has = |words: &[&str]| words.iter().any(|w| message.to_ascii_lowercase().contains(w));
        if has(&["not found", "no such file or directory", "not a directory"]) {
            return RuntimeError::CommandNotFound(command.to_owned());
        }
        // "Operation not permitted": what crun says of a folder.
        if has(&["permission denied", "is a directory", "operation not permitted", "exec format error"]) {
            let source = io::Error::other(message);
            return RuntimeError::CommandNotExecutable { command: command.to_owned(), source };
        }
    }
    RuntimeError::OtherRuntime { runtime: runtime.to_owned(), message, code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_runtimes() {
        let dir = std::env::temp_dir().join(format!("berth-said-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let explained = |log: &str, said: &str| {
            std::fs::write(log_in(&dir), log).unwrap();
            let error = RuntimeError::OtherRuntime { runtime: String::new(), message: said.into(), code: 7 };
            explain(error, "x", &dir, "prog")
        };
        let runc = r#"{"level":"error","msg":"runc create failed: unable to start container process: exec: \"no\": executable file not found in $PATH","time":"x"}"#;
        assert!(matches!(explained(runc, ""), RuntimeError::CommandNotFound(c) if c == "prog"));
        let crun = "{\"msg\":\"first\",\"level\":\"error\"}\n{\"msg\":\"open executable: Permission denied\",\"level\":\"error\",\"time\":\"x\"}\n";
        assert!(matches!(explained(crun, ""), RuntimeError::CommandNotExecutable { .. }));
        let folder = r#"{"msg":"open executable: Operation not permitted","level":"error"}"#;
        assert!(matches!(explained(folder, ""), RuntimeError::CommandNotExecutable { .. }));
        assert_eq!(explained("", "bad flag\n").to_string(), "runtime x: bad flag");
        assert_eq!(explained("no json", "").to_string(), "runtime x: it ended with exit code 7 and said nothing");
        let warned = r#"{"level":"warning","msg":"old"}"#;
        assert_eq!(explained(warned, "a\u{1b}b").to_string(), "runtime x: a b");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
