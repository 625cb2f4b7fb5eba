//! Platforms as OCI's image index names them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `os/architecture[/variant]`, Go's names (image-spec, image-index.md).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a string is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform {0:?} must be os/architecture or os/architecture/variant, such as linux/arm64 or linux/arm/v7")]
pub struct PlatformError(String);

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: None }
            .normalized()
    }

    /// The same platform in one spelling: lower case, Go's architecture names, and no variant where it is the
    /// architecture's default (amd64/v1, arm64/v8). 32-bit arm always has its variant; without one it is v7.
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let said = self.variant.as_deref().filter(|v| !v.is_empty()).map(str::to_ascii_lowercase);
        let said = said.map(|v| if v.starts_with(|c: char| c.is_ascii_digit()) { format!("v{v}") } else { v });
        let architecture = self.architecture.to_ascii_lowercase();
        let (architecture, variant) = match architecture.as_str() {
            "amd64" | "x86_64" | "x86-64" => ("amd64", said.filter(|v| v != "v1")),
            "arm64" | "aarch64" => ("arm64", said.filter(|v| v != "v8" && v != "v8.0")),
            "386" | "i386" | "i686" => ("386", None),
            "armhf" => ("arm", Some("v7".to_owned())),
            "armel" => ("arm", Some("v6".to_owned())),
            "arm" => ("arm", said.or_else(|| Some("v7".to_owned()))),
            other => (other, said),
        };
        Platform { os, architecture: architecture.to_owned(), variant }
    }

    /// How well an image for `offered` runs here: None not at all, 0 exactly, more is an older variant. Newer CPUs
    /// of the arm, arm64 and amd64 families run what was built for older ones; all other variants must be equal.
    pub fn accepts(&self, offered: &Platform) -> Option<u32> {
        let (mine, theirs) = (self.normalized(), offered.normalized());
        if mine.os != theirs.os || mine.architecture != theirs.architecture {
            return None;
        }
        if mine.variant == theirs.variant {
            return Some(0);
        }
        let oldest = match mine.architecture.as_str() {
            "amd64" => 1,
            "arm" => 5,
            "arm64" => 8,
            _ => return None,
        };
        // In tenths, for arm64's v8.2.
        let level = |variant: Option<&str>| -> Option<u32> {
            let Some(v) = variant else { return Some(oldest * 10) };
            let (major, minor) = v.strip_prefix('v')?.split_once('.').unwrap_or((v.strip_prefix('v')?, "0"));
            let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
            (major < 100 && minor < 10).then_some(major * 10 + minor)
        };
        level(mine.variant.as_deref())?.checked_sub(level(theirs.variant.as_deref())?)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;
    fn from_str(s: &str) -> Result<Self, PlatformError> {
        let bad = || PlatformError(s.chars().take(100).collect());
        let good = |part: &str| {
            (1..=32).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = s.split('/').collect();
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(|p| good(p)) {
            return Err(bad());
        }
        let platform = Platform {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|v| (*v).to_owned()),
        }
        .normalized();
        // Another spelling may be longer.
        if platform.variant.as_deref().is_some_and(|v| !good(v)) { Err(bad()) } else { Ok(platform) }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(v) => write!(f, "/{v}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Platform {
        s.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn which_images_run_where() {
        for (mine, theirs, rank) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/x86_64/v1", Some(0)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64/v3", "linux/amd64/v2", Some(10)),
            ("linux/amd64", "linux/386", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/aarch64/8", "linux/arm64", Some(0)),
            ("linux/arm64", "linux/arm64/v9", None),
            ("linux/arm64/v9", "linux/arm64", Some(10)),
            ("linux/arm64", "linux/arm/v7", None),
            ("linux/arm/v7", "linux/arm/v6", Some(10)),
            ("linux/arm", "linux/arm/v5", Some(20)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v6", "linux/arm", None),
            ("linux/riscv64", "linux/riscv64", Some(0)),
            ("linux/ppc64le/power9", "linux/ppc64le/power8", None),
        ] {
            assert_eq!(p(mine).accepts(&p(theirs)), rank, "{mine} with {theirs}");
        }
    }

    #[test]
    fn what_is_no_platform() {
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/v2/x", "linux/am d64", "linux/\u{e9}"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
        assert_eq!(Platform::host().accepts(&Platform::host()), Some(0));
    }
}
