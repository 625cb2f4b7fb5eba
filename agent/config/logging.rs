//! What the agent writes about itself and its callers.

use super::Check;
use serde::Deserialize;
use std::path::PathBuf;

/// Where the audit records go.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Unset: `<data_root>/audit.log`. Empty: no file.
    pub file: Option<PathBuf>,
    /// Bytes of the file before it is rotated.
    pub file_bytes: u64,
    /// Files kept, the current one counted.
    pub files: u32,
    /// Also to the agent's own log.
    pub log: bool,
}

impl Default for Audit {
    fn default() -> Self {
        Audit { file: None, file_bytes: 16 << 20, files: 8, log: false }
    }
}

impl Audit {
    pub(super) fn check(&self, check: Check<'_>) {
        check(self.file_bytes >= 64 << 10, "audit.file_bytes", "must be at least 65536");
        check((1..=1000).contains(&self.files), "audit.files", "must be 1 to 1000");
    }
}

/// Where the agent's own log goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// To the journal with its fields where standard error is the journal's, else to standard error.
    #[default]
    Auto,
    Stderr,
    Journald,
}

/// What lines on standard error look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The agent's own log.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Level, or tracing's directives: `info`, `info,berth_image=debug`.
    pub level: String,
    pub target: LogTarget,
    pub format: LogFormat,
    /// An older word for `format = "json"`.
    pub json: bool,
}

impl Log {
    pub fn format(&self) -> LogFormat {
        if self.json { LogFormat::Json } else { self.format }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into(), target: LogTarget::default(), format: LogFormat::default(), json: false }
    }
}
