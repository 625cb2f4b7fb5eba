//! A small certificate authority on the operator's side: one folder, ECDSA P-256 or Ed25519, no server.
//!
//! The folder holds `ca.pem`, `ca.key`, `crl.pem`, `index.toml` (what was issued), `agents/` and `clients/`. Keys are 0600, folders 0700;
//! every file appears whole or not at all, and none is replaced unless that is asked for.

pub mod authority;
pub mod files;
pub mod index;
pub mod read;
pub mod release;

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What a caller may do; berthd reads it from the certificate's only organisation, `berth:ROLE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Role {
    /// Everything.
    Admin,
    /// Run and change containers and images.
    Operator,
    /// Look, and change nothing.
    Viewer,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Operator => "operator",
            Role::Viewer => "viewer",
        }
    }

    /// The organisation (O) of the subject.
    pub fn organisation(self) -> String {
        format!("berth:{}", self.name())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Kind of the keys. ECDSA P-256 is what every TLS stack has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Algorithm {
    #[default]
    #[value(name = "ecdsa-p256")]
    EcdsaP256,
    Ed25519,
}

/// Who a certificate is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A server on a host, under these names and addresses.
    Agent { names: Vec<String> },
    /// A person or program that calls agents.
    Client { role: Role },
}

impl Purpose {
    pub const fn kind(&self) -> &'static str {
        match self {
            Purpose::Agent { .. } => "agent",
            Purpose::Client { .. } => "client",
        }
    }

    /// Folder of the certificates of this kind.
    pub const fn folder(&self) -> &'static str {
        match self {
            Purpose::Agent { .. } => "agents",
            Purpose::Client { .. } => "clients",
        }
    }
}

/// A name that is a common name and a file name: letters, digits, `.`, `_`, `-` and `@`, at most 64 characters (X.520's limit).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;
    fn from_str(s: &str) -> Result<Name> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
        if s.is_empty() || s.len() > 64 || !s.bytes().all(good) || s.starts_with(['.', '-']) {
            return Err(Error::usage(format!(
                "name {s:?} must be 1 to 64 letters, digits, '.', '_', '-' or '@', and not start with '.' or '-'"
            )));
        }
        Ok(Name(s.to_owned()))
    }
}

#[cfg(test)]
mod tests;
