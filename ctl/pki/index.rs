//! `index.toml`: what the authority has issued and revoked.

use super::files;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One certificate that was issued.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Lower-case hexadecimal.
    pub serial: String,
    pub name: String,
    /// `agent` or `client`.
    pub kind: String,
    /// Of a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Names and addresses of an agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub san: Vec<String>,
    /// RFC 3339.
    pub not_before: jiff::Timestamp,
    pub not_after: jiff::Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<jiff::Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Number of the last revocation list; each has a larger one (RFC 5280, 5.2.3).
    #[serde(default)]
    pub crl_number: u64,
    #[serde(default, rename = "certificate", skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Entry>,
}

impl Index {
    pub fn read(path: &Path) -> Result<Index> {
        let text = files::read_text(path)?;
        toml::from_str(&text).map_err(|e| Error::new(format!("{}: {}", path.display(), e.to_string().trim_end())))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).map_err(|e| Error::new(format!("writing {}: {e}", path.display())))?;
        files::write_atomically(path, text.as_bytes(), 0o600)
    }

    /// Positions of the certificates that a person means by a name or a serial number, revoked ones left out.
    pub fn find(&self, name_or_serial: &str) -> Result<Vec<usize>> {
        let serial = name_or_serial.replace(':', "").to_ascii_lowercase();
        let fits = |e: &Entry| e.name == name_or_serial || e.serial == serial;
        let all: Vec<usize> = (0..self.certificates.len()).filter(|&i| fits(&self.certificates[i])).collect();
        if all.is_empty() {
            return Err(Error::new(format!("no certificate {name_or_serial:?} was issued here"))
                .hint("berthctl pki show lists all of them"));
        }
        let live: Vec<usize> = all.into_iter().filter(|&i| self.certificates[i].revoked.is_none()).collect();
        let kinds = |kind: &str| live.iter().any(|&i| self.certificates[i].kind == kind);
        if kinds("agent") && kinds("client") {
            return Err(Error::new(format!("{name_or_serial:?} is both an agent and a client"))
                .hint("give the serial number instead; berthctl pki show lists them"));
        }
        Ok(live)
    }
}
