//! What a release of berthd is signed with: the statement that the signature is over, and the file that carries both.
//!
//! `berthctl agent sign` writes `FILE.sig` beside the program; `berthctl agent upgrade` sends both; the agent checks the statement
//! against what came and the signature against its configured keys.

use serde::{Deserialize, Serialize};

/// Largest program that is taken: four times a debug build.
pub const MAX_PROGRAM_BYTES: u64 = 1 << 30;
/// Bytes of one chunk of a program on its way.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What is said of a program, and by what signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// `1.2.3`, with or without a pre-release behind a hyphen.
    pub version: String,
    /// Go's name of the processor: amd64, arm64, …
    pub architecture: String,
    /// Hexadecimal, lower case.
    pub sha256: String,
    pub size: u64,
    /// Hexadecimal: an Ed25519 signature (RFC 8032), or an ECDSA P-256 one with SHA-256 in DER (RFC 3279), over [`Release::statement`].
    pub signature: String,
}

impl Release {
    /// The bytes that are signed. The first line keeps the signature from meaning anything else.
    pub fn statement(&self) -> Vec<u8> {
        format!(
            "berth release 1\nversion {}\narchitecture {}\nsha256 {}\nsize {}\n",
            self.version, self.architecture, self.sha256, self.size
        )
        .into_bytes()
    }
}

/// The processor that an ELF program is for, from its header (elf(5): `e_machine` at 18, little endian but for s390x).
///
/// # Errors
/// What is wrong, in words.
pub fn elf_architecture(head: &[u8]) -> Result<&'static str, String> {
    if head.len() < 20 || head[..4] != *b"\x7fELF" {
        return Err("it is no ELF program".to_owned());
    }
    let machine =
        if head[5] == 2 { u16::from_be_bytes([head[18], head[19]]) } else { u16::from_le_bytes([head[18], head[19]]) };
    Ok(match (machine, head[4]) {
        (62, 2) => "amd64",
        (3, 1) => "386",
        (183, 2) => "arm64",
        (40, 1) => "arm",
        (243, 2) => "riscv64",
        (21, 2) => "ppc64le",
        (22, 2) => "s390x",
        _ => return Err(format!("it is for a processor that is not known here (ELF machine {machine})")),
    })
}

/// The processor that this program was built for, in the same words.
pub fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Parts of a version in the order of semver.org, 11: numbers, then a pre-release that comes before none. `None`: it is no version.
pub fn version_order(version: &str) -> Option<([u64; 3], bool, String)> {
    let (text, build) = version.split_once('+').unwrap_or((version, ""));
    let (numbers, pre) = match text.split_once('-') {
        Some((_, "")) => return None,
        Some((numbers, pre)) => (numbers, pre),
        None => (text, ""),
    };
    let mut parts = numbers.split('.');
    let mut next = || parts.next()?.parse::<u64>().ok();
    let three = [next()?, next()?, next()?];
    // What is behind the plus sign orders nothing, and is a line of what is signed.
    let word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    let good = parts.next().is_none() && word(pre) && word(build);
    good.then(|| (three, pre.is_empty(), pre.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered() {
        let order = ["0.1.0-alpha", "0.1.0-beta", "0.1.0", "0.1.1", "0.2.0-rc1", "0.2.0", "0.10.0", "1.0.0"];
        let keys: Vec<_> = order.iter().map(|v| version_order(v).unwrap()).collect();
        assert!(keys.is_sorted() && keys.windows(2).all(|w| w[0] != w[1]), "{keys:?}");
        assert_eq!(version_order("1.2.3+build"), version_order("1.2.3"));
        for bad in ["", "1", "1.2", "1.2.x", "1.2.3.4", "1.2.3-", "1.2.3-a b", "1.2.3+a\nsize 1", "v1.2.3"] {
            assert_eq!(version_order(bad), None, "{bad}");
        }
    }

    #[test]
    fn processors() {
        let mut head = vec![0; 20];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = 62;
        assert_eq!(elf_architecture(&head), Ok("amd64"));
        head[18] = 183;
        assert_eq!(elf_architecture(&head), Ok("arm64"));
        head[18] = 99;
        assert!(elf_architecture(&head).unwrap_err().contains("99"));
        assert!(elf_architecture(b"#!/bin/sh\nexec true\n").is_err());
        assert!(elf_architecture(b"").is_err());
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(elf_architecture(&own), Ok(own_architecture()));
    }
}
