//! Containers as transient scopes of systemd, for hosts where systemd alone makes cgroups.
//!
//! [`unit`] knows the names of scopes and slices and where their cgroups are, [`limits`] which properties of a unit stand for which files of
//! a cgroup, [`Manager`] asks systemd over D-Bus: to start a scope around processes that are there, to change and to stop it. `bus` is as
//! much of D-Bus as that takes and `wire` its encoding, in place of a library for it: those that are kept up are asynchronous and bring some
//! twenty crates, while the OCI command line forks and must have no threads.
//!
//! Blocking, one connection for each [`Manager`], no state: what is to be remembered is the caller's. Limits are written to cgroups elsewhere;
//! [`Files`] only writes again what systemd itself wrote over.
#![forbid(unsafe_code)]

mod auth;
mod bus;
mod files;
pub mod limits;
mod manager;
pub mod unit;
mod wire;

pub use files::Files;
pub use manager::{Begun, Manager, Scope};
pub use wire::{Property, Value};

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Neither its own socket nor the system's bus takes a connection.
    #[error("no systemd on this host: connecting to {path}: {source}")]
    Absent { path: &'static str, source: io::Error },
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
    /// systemd's own words.
    #[error("{act}: systemd says {name}: {message}")]
    Refused { act: String, name: String, message: String },
    #[error("{act}: systemd's job ended as {result:?}; systemctl status {unit} may say why")]
    Job { act: String, unit: String, result: String },
    #[error("systemd started {unit}, and moved no process to it")]
    NotMoved { unit: String },
    #[error(
        "systemd {version} does not keep {what} (--oom-group): that takes systemd 253, or containers.cgroup_driver = \"cgroupfs\""
    )]
    TooOld { version: String, what: &'static str },
    /// What came is no D-Bus message, or not the one that was asked for.
    #[error("{act}: the answer cannot be read")]
    Answer { act: String },
}

impl SystemdError {
    pub(crate) fn io(act: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| SystemdError::Io { act: act.into(), source }
    }

    fn is(&self, wanted: &str) -> bool {
        matches!(self, SystemdError::Refused { name, .. } if name == wanted)
    }
}
