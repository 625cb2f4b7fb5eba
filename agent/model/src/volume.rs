//! Volumes: files that outlive containers.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the store keeps of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeRecord {
    pub name: String,
    pub created: Timestamp,
    pub labels: BTreeMap<String, String>,
    /// Of Docker's `local` driver (type, device, o), `size` and `backing`; as they were given.
    pub options: BTreeMap<String, String>,
    /// Its size is the quota of the project with this number, which no other volume has.
    pub project: Option<u32>,
    /// Made for a container and named by nobody: goes with the container where that was asked for.
    pub anonymous: bool,
    /// Its removal was decided; found after a crash, it goes on.
    pub removing: bool,
}

/// Longest name: with what is put around it, it is still a file's name.
pub const MAX_VOLUME_NAME: usize = 128;

/// Docker's rule for volume names, bounded.
///
/// # Errors
/// What is wrong, in words.
pub fn check_volume_name(name: &str) -> Result<(), &'static str> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !(2..=MAX_VOLUME_NAME).contains(&name.len()) {
        return Err("a volume's name has 2 to 128 characters");
    }
    if !name.as_bytes()[0].is_ascii_alphanumeric() || !name.bytes().all(good) {
        return Err("a volume's name has letters, digits, '_', '.' and '-', and begins with a letter or a digit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["data", "a1", "0a", "a.b_c-d", &"x".repeat(128)] {
            assert_eq!(check_volume_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a", ".x", "-x", "..", "a/b", "a b", "é9", "a\0", &"x".repeat(129)] {
            assert!(check_volume_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn records_of_other_versions_are_read() {
        let read: VolumeRecord = serde_json::from_str(r#"{"name":"data","later":1}"#).unwrap();
        assert_eq!(read.name, "data");
    }
}
