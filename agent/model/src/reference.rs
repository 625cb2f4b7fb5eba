//! Image references: `[registry[:port]/]repository[:tag][@digest]`, with Docker's short forms.

use crate::digest::{Digest, DigestError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The registry that short names mean.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// distribution's limit for the repository with its registry.
const MAX_NAME: usize = 255;

/// A full name of an image. Shown, it is always whole: `docker.io/library/nginx:latest`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("image reference is empty")]
    Empty,
    #[error("image reference is longer than {MAX_NAME} characters before its tag")]
    TooLong,
    #[error("image reference {0:?}: registry {1:?} must be a host name or address, with :port where needed")]
    Registry(String, String),
    #[error(
        "image reference {0:?}: repository {1:?} must be lower-case letters and digits, parted by '/', '.', '_', '__' or '-'"
    )]
    Repository(String, String),
    #[error(
        "image reference {0:?}: tag {1:?} must be 1 to 128 letters, digits, '_', '.' and '-', and not start with '.' or '-'"
    )]
    Tag(String, String),
    #[error("image reference {0:?}: {1}")]
    Digest(String, DigestError),
}

impl Reference {
    /// Host and port of the registry as written (`docker.io` for short names).
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// With `library/` where Docker Hub's short names leave it out.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository by digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// As people write it: without `docker.io/` and `library/`, unless what is left would mean another image
    /// (`docker.io/a.b/c`: `a.b` reads as a registry).
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else { return full };
        let mut short = rest.strip_prefix("library/").into_iter().chain([rest]);
        short.find(|s| s.parse().as_ref() == Ok(self)).map_or_else(|| full.clone(), str::to_owned)
    }
}

/// Docker's rule: the part before the first slash is a registry when it has a dot or a colon or is `localhost`.
fn split_registry(name: &str) -> (&str, String) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            if matches!(first, "index.docker.io" | "registry-1.docker.io") || first == DEFAULT_REGISTRY {
                (DEFAULT_REGISTRY, library(rest))
            } else {
                (first, rest.to_owned())
            }
        }
        _ => (DEFAULT_REGISTRY, library(name)),
    }
}

fn library(repository: &str) -> String {
    if repository.contains('/') { repository.to_owned() } else { format!("library/{repository}") }
}

fn good_registry(s: &str) -> bool {
    let (host, port) = match s.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, "")) => (v6, None),
            Some((v6, port)) => (v6, port.strip_prefix(':').or(Some(""))),
            None => return false,
        },
        None => match s.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (s, None),
        },
    };
    let port_ok = port.is_none_or(|p| {
        !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0)
    });
    let host_ok = if s.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    port_ok && host_ok
}

/// distribution's path components: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn good_component(s: &str) -> bool {
    let bytes = s.as_bytes();
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if bytes.is_empty() || !alnum(bytes[0]) || !alnum(bytes[bytes.len() - 1]) {
        return false;
    }
    s.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|sep| matches!(sep, "" | "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
}

fn good_tag(s: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&s.len()) && word(s.as_bytes()[0]) && s.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(s: &str) -> Result<Self, ReferenceError> {
        let shown = || s.chars().take(300).collect::<String>();
        if s.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (rest, digest) = match s.split_once('@') {
            Some((rest, d)) => (rest, Some(d.parse().map_err(|e| ReferenceError::Digest(shown(), e))?)),
            None => (s, None),
        };
        // A colon behind the last slash parts the tag; one before it is a port.
        let tag_at = rest.rfind(':').filter(|&i| !rest[i..].contains('/'));
        let (name, tag) = match tag_at {
            Some(i) => (&rest[..i], Some(&rest[i + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !good_tag(tag)
        {
            return Err(ReferenceError::Tag(shown(), tag.chars().take(140).collect()));
        }
        let (registry, repository) = split_registry(name);
        if registry.len() + repository.len() + 1 > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        if !good_registry(registry) {
            return Err(ReferenceError::Registry(shown(), registry.to_owned()));
        }
        if !repository.split('/').all(good_component) {
            return Err(ReferenceError::Repository(shown(), repository));
        }
        let tag = match (tag, &digest) {
            (Some(t), _) => Some(t.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(s: String) -> Result<Self, ReferenceError> {
        s.parse()
    }
}

impl From<Reference> for String {
    fn from(r: Reference) -> String {
        r.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_forms() {
        let d = format!("sha256:{}", "0".repeat(64));
        for (input, full, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.2", "docker.io/library/nginx:1.2", "nginx:1.2"),
            ("org/app", "docker.io/org/app:latest", "org/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("docker.io/library/a.b", "docker.io/library/a.b:latest", "a.b:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("docker.io/localhost/c", "docker.io/localhost/c:latest", "docker.io/localhost/c:latest"),
            ("ghcr.io/o/a__b-c.d", "ghcr.io/o/a__b-c.d:latest", "ghcr.io/o/a__b-c.d:latest"),
            (&format!("nginx@{d}"), &format!("docker.io/library/nginx@{d}"), &format!("nginx@{d}")),
            (&format!("nginx:1@{d}"), &format!("docker.io/library/nginx:1@{d}"), &format!("nginx:1@{d}")),
        ] {
            let r: Reference = input.parse().unwrap_or_else(|e| panic!("{input}: {e}"));
            assert_eq!(r.to_string(), full);
            assert_eq!(r.familiar(), familiar);
            assert_eq!(full.parse::<Reference>().as_ref(), Ok(&r), "a full name means itself");
        }
    }

    #[test]
    fn every_form_means_the_same_again() {
        let parts =
            ["a", "library", "docker.io", "index.docker.io", "localhost", "a.b", "a-b", "h:5000", "localhost:1"];
        let digest = format!("@sha256:{}", "0".repeat(64));
        let mut names: Vec<String> = parts.map(str::to_owned).to_vec();
        for _ in 0..3 {
            let longer: Vec<_> = names.iter().flat_map(|n| parts.map(|p| format!("{p}/{n}"))).collect();
            names.extend(longer);
        }
        let mut good = 0;
        for name in &names {
            for end in ["", ":t", &digest] {
                let Ok(r) = format!("{name}{end}").parse::<Reference>() else { continue };
                assert_eq!(r.to_string().parse().as_ref(), Ok(&r), "{name}{end}");
                assert_eq!(r.familiar().parse().as_ref(), Ok(&r), "{name}{end} as {}", r.familiar());
                good += 1;
            }
        }
        assert!(good > 5000, "{good}");
    }

    #[test]
    fn refuses_what_is_no_reference() {
        for bad in [
            "",
            ":tag",
            "a:",
            "a/B",
            "nginx:.x",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a..b",
            "a___b",
            "a@sha256:00",
            "host:0/a",
            "host:99999/a",
            "[::1/a",
            "ex ample.com/a",
            "nginx: 1",
            "a\nb",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        assert_eq!(format!("a/{}", "b".repeat(300)).parse::<Reference>(), Err(ReferenceError::TooLong));
    }
}
