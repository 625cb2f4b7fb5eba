//! What goes wrong, and how it is told to the caller.

use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that was given is wrong or cannot be had here.
    #[error("{field}: {message}")]
    Field { field: String, message: String },
    #[error("{act}: {}", plain(source))]
    Io { act: String, source: io::Error },
    /// The container is not in a state for it.
    #[error("{0}")]
    State(String),
    /// What the new process said about its own failure.
    #[error("{0}")]
    Child(String),
}

impl Error {
    pub fn io(act: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let act = act.into();
        move |source| Error::Io { act, source }
    }

    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Field { field: field.into(), message: message.into() }
    }
}

/// The kernel's words as Go and strerror(3) write them, which Podman and containerd look for in messages.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
    match error.raw_os_error() {
        Some(_) => text.to_lowercase(),
        None => text,
    }
}

/// Where messages go: standard error, and the file of `--log` beside it.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub file: Option<PathBuf>,
    pub json: bool,
    pub debug: bool,
}

impl Log {
    pub fn error(&self, message: &str) {
        self.write("error", message);
        eprintln!("berth-runtime: {message}");
    }

    pub fn warning(&self, message: &str) {
        if self.file.is_some() {
            self.write("warning", message);
        } else {
            eprintln!("berth-runtime: warning: {message}");
        }
    }

    pub fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    /// One line, in logrus' two formats, which callers parse.
    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.file else { return };
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let line = if self.json {
            serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
        } else {
            format!("time={time:?} level={level} msg={message:?}")
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        // There is no other place to say that the log cannot be written than standard error, where the message goes anyway.
        if let Err(e) = file.and_then(|mut f| f.write_all(format!("{line}\n").as_bytes())) {
            eprintln!("berth-runtime: writing {}: {e}", path.display());
        }
    }
}
