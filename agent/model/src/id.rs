//! Names and ids of containers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// 64 lower-case hexadecimal characters (32 random bytes), as Docker's. Safe as a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(Box<str>);

/// Why a string is no container id or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("container id {0:?} must be 64 lower-case hexadecimal characters")]
    Id(String),
    #[error(
        "container name {0:?} must start with a letter or digit and hold only letters, digits, '_', '.' and '-', 2 to 128 characters"
    )]
    Name(String),
}

impl ContainerId {
    /// An id from 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(64);
        for byte in bytes {
            text.push(HEX[usize::from(byte >> 4)] as char);
            text.push(HEX[usize::from(byte & 15)] as char);
        }
        ContainerId(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve characters, as lists show them.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for ContainerId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let good = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if s.len() == 64 && s.bytes().all(good) {
            Ok(ContainerId(s.into()))
        } else {
            Err(IdError::Id(s.chars().take(160).collect()))
        }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0.into()
    }
}

/// Ids sort and hash as their text does, so maps may be searched by text and by prefix.
impl std::borrow::Borrow<str> for ContainerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// Checks a container's name: Docker's rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, at most 128 characters.
pub fn check_name(name: &str) -> Result<(), IdError> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && (2..=128).contains(&name.len()) && name.bytes().all(rest) {
        Ok(())
    } else {
        Err(IdError::Name(name.chars().take(160).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["web", "a1", "My.App_2-x"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a", "-x", "a/b", "..", "a b", "ü1", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids() {
        let id = ContainerId::from_bytes([0x0f; 32]);
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert!("../x".parse::<ContainerId>().is_err());
    }
}
