//! What can go wrong, one variant per thing a caller can do something about.

use berth_model::{Digest, Platform};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a layer could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    pub message: String,
    /// No room left: DISK_FULL to the caller.
    pub disk_full: bool,
    /// The layer itself is bad (hostile or broken tar): INVALID_LAYER to the caller.
    pub bad_layer: bool,
}

/// Names the registry, repository or digest it is about. Never holds a credential. Cheap to clone: everybody who
/// waits for a layer gets the same error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// No such repository, tag or blob there.
    #[error("{what} not found on {registry}")]
    NotFound { what: String, registry: String },
    #[error("{image} has no image for {wanted}; it has {}", list(.available))]
    PlatformNotFound { image: String, wanted: Platform, available: Vec<Platform> },
    /// Credentials are missing, wrong or not enough.
    #[error("{registry} denies {what}: {reason}")]
    Denied { registry: String, what: String, reason: String },
    /// The registry does not answer, or answers that it cannot now; tried again as often as the limits say.
    #[error("{registry} is unavailable for {what}: {reason}")]
    Unavailable { registry: String, what: String, reason: String, retry_after: Option<Duration> },
    #[error("{what}: digest is {actual}, expected {expected}")]
    DigestMismatch { what: String, expected: Digest, actual: Digest },
    #[error("{what}: size is {actual} bytes, expected {expected}")]
    SizeMismatch { what: String, expected: u64, actual: u64 },
    /// The manifest, index or configuration is broken or of a kind that is not supported.
    #[error("{what}: {reason}")]
    BadManifest { what: String, reason: String },
    /// The layer's bytes are what the manifest says, and cannot be used.
    #[error("layer {digest}: {reason}")]
    BadLayer { digest: Digest, reason: String },
    #[error("{what} is larger than the limit of {limit_bytes} bytes")]
    TooLarge { what: String, limit_bytes: u64 },
    #[error("no space left on device: {act}")]
    DiskFull { act: String },
    /// Nobody waits for it any more.
    #[error("cancelled")]
    Cancelled,
    /// The node's own configuration of a registry or of credentials cannot be used.
    #[error("configuration of registry {registry}: {reason}")]
    Config { registry: String, reason: String },
    #[error("{act}: {source}")]
    Io { act: String, source: Arc<io::Error> },
    /// The layer store failed for another reason than a full disk or a bad layer.
    #[error("storing layer {digest}: {message}")]
    Sink { digest: Digest, message: String },
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = platforms.iter().take(20).map(ToString::to_string).collect();
    shown.join(", ")
}

impl ImageError {
    /// DiskFull for ENOSPC and EDQUOT, Io for the rest.
    pub(crate) fn io(act: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::DiskFull { act: act.into() },
            _ => ImageError::Io { act: act.into(), source: Arc::new(source) },
        }
    }

    pub(crate) fn sink(digest: &Digest, e: SinkError) -> Self {
        if e.disk_full {
            ImageError::DiskFull { act: format!("storing layer {digest}: {}", e.message) }
        } else if e.bad_layer {
            ImageError::BadLayer { digest: digest.clone(), reason: e.message }
        } else {
            ImageError::Sink { digest: digest.clone(), message: e.message }
        }
    }

    /// Another registry, or the same blob by other credentials, may do better.
    pub(crate) fn is_of_the_source(&self) -> bool {
        matches!(
            self,
            ImageError::NotFound { .. }
                | ImageError::Denied { .. }
                | ImageError::Unavailable { .. }
                | ImageError::DigestMismatch { .. }
                | ImageError::SizeMismatch { .. }
                | ImageError::Cancelled
        )
    }
}
