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
    #[error(
        "container name {0:?} could be the id of a container: with {SHORT} or more digits it needs a letter behind f, an upper-case one, '_', '.' or '-'"
    )]
    LooksLikeId(String),
}

/// Characters of an id that lists show, and people type.
const SHORT: usize = 12;

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
        &self.0[..SHORT]
    }
}

impl FromStr for ContainerId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        if s.len() == 64 && is_hex(s) {
            Ok(ContainerId(s.into()))
        } else {
            Err(IdError::Id(s.chars().take(160).collect()))
        }
    }
}

fn is_hex(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
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

/// Checks a container's name: Docker's rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, at most 128 characters; and none that passes for an id in full or as lists
/// show it, so that nobody's container answers to that of another's.
pub fn check_name(name: &str) -> Result<(), IdError> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first || !(2..=128).contains(&name.len()) || !name.bytes().all(rest) {
        return Err(IdError::Name(name.chars().take(160).collect()));
    }
    if name.len() >= SHORT && is_hex(name) {
        return Err(IdError::LooksLikeId(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["web", "a1", "My.App_2-x", "0123456789a", "ABCDEF012345", "facade-0123456789", "20261123-0900"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a", "-x", "a/b", "..", "a b", "ü1", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        for id in ["0123456789ab", "202611230900", &"a".repeat(64), &"f".repeat(128)] {
            assert_eq!(check_name(id), Err(IdError::LooksLikeId(id.to_owned())));
        }
    }

    #[test]
    fn ids() {
        let id = ContainerId::from_bytes([0x0f; 32]);
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert!("../x".parse::<ContainerId>().is_err());
    }
}
