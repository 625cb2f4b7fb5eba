//! What can go wrong.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A step of the new process failed: the act with its input, and the kernel's error.
    #[error("{step}: {source}")]
    StartFailed { step: String, source: io::Error },
    /// Exit code 127.
    #[error("{0}: not found")]
    CommandNotFound(String),
    /// Exit code 126.
    #[error("{command}: {source}")]
    CommandNotExecutable { command: String, source: io::Error },
    #[error("the container is not running")]
    NotRunning,
    /// A field of the spec that cannot be turned into a plan.
    #[error("{field}: {message}")]
    Spec { field: String, message: String },
    #[error("{act} {path}: {source}")]
    Cgroup { act: &'static str, path: PathBuf, source: io::Error },
    /// A limit of a running container that the kernel does not take; what was changed before it is as it was.
    #[error("{path} does not take {value:?}: {source}")]
    Limit { path: PathBuf, value: String, source: io::Error },
    /// Some process did not come to where it can stand still; all go on.
    #[error("the processes of the container did not freeze within {waited_ms} ms; they go on")]
    Freeze { waited_ms: u128 },
    /// A command of another OCI runtime failed: its own words.
    #[error("runtime {runtime}: {message}")]
    OtherRuntime { runtime: String, message: String, code: i32 },
    /// The driver of cgroups needs systemd, which is not there or does not do what it is asked for.
    #[error("containers.cgroup_driver is \"systemd\": {0}")]
    Systemd(#[from] berth_systemd::SystemdError),
    #[error("the shim is gone")]
    ShimGone,
    /// The shim takes no answer or gives none that can be read.
    #[error("the shim speaks another language: {0}")]
    Protocol(#[from] berth_model::wire::WireError),
    #[error("this reader took nothing for 30 seconds and was cut off")]
    CutOff,
    /// Processes of the cgroup that do not die (in the kernel, on a dead device).
    #[error("{left} processes of the container are still there after {waited_ms} ms")]
    StillAlive { left: usize, waited_ms: u128 },
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
}

impl RuntimeError {
    pub(crate) fn io(act: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| RuntimeError::Io { act: act.into(), source }
    }

    pub(crate) fn spec(field: impl Into<String>, message: impl Into<String>) -> Self {
        RuntimeError::Spec { field: field.into(), message: message.into() }
    }

    /// 125, 126 or 127, as Docker's `run` exits when the container did not start.
    pub fn exit_code(&self) -> i32 {
        match self {
            RuntimeError::CommandNotFound(_) => 127,
            RuntimeError::CommandNotExecutable { .. } => 126,
            _ => 125,
        }
    }
}
