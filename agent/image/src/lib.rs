//! Registry client, content store and pull.
//!
//! CONTRACT (skeleton to be filled; signatures may grow).
#![forbid(unsafe_code)]
#![allow(clippy::todo, unused_variables, dead_code)]

use berth_model::image::ImageRecord;
use berth_model::{Digest, Platform, Reference};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where layers go: implemented by `node` over the layer store.
pub trait LayerSink: Send + Sync + 'static {
    /// Uncompressed size in bytes when the layer is there already.
    fn get(&self, diff_id: &Digest) -> Option<u64>;
    fn writer(&self) -> Result<Box<dyn LayerWriter>, SinkError>;
}

/// Blocking; used on one thread at a time. Dropped uncommitted, it leaves nothing.
pub trait LayerWriter: Send {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError>;
    /// The stream's digest was checked to be `diff_id`. Returns the tar's size in bytes.
    fn commit(self: Box<Self>, diff_id: &Digest) -> Result<u64, SinkError>;
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    pub message: String,
    /// No room left: DISK_FULL to the caller.
    pub disk_full: bool,
    /// The layer itself is bad (hostile or broken tar): INVALID_LAYER to the caller.
    pub bad_layer: bool,
}

/// Per-registry configuration, by host[:port].
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Use http:// (loopback registries do so by themselves when https fails to connect? no: only by this switch, or for loopback addresses).
    pub plain_http: bool,
    /// PEM file with CAs trusted for this registry beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and key (PEM).
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Base URLs tried in order before the registry itself.
    pub mirrors: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct ImagesConfig {
    /// Folder of the content store (manifests, configurations, partial downloads).
    pub dir: PathBuf,
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Docker's config.json with credentials; None: none.
    pub docker_config: Option<PathBuf>,
    /// Layers fetched side by side over all pulls; 0: the default.
    pub parallel_layers: usize,
}

#[derive(Clone, Default)]
pub struct Auth {
    pub username: String,
    pub password: String,
    pub identity_token: String,
    pub registry_token: String,
}

#[derive(Clone, Debug)]
pub struct Progress {
    /// None: the whole pull.
    pub layer: Option<Digest>,
    pub state: ProgressState,
    pub current_bytes: u64,
    pub total_bytes: u64,
    pub status: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    Resolving,
    Waiting,
    Downloading,
    Verifying,
    Unpacking,
    Done,
    Exists,
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    // One variant per thing a caller can do something about: NotFound, PlatformNotFound, Denied, Unavailable{retry_after},
    // DigestMismatch, SizeMismatch, BadManifest, BadLayer, DiskFull, Cancelled, Io{act, source}, ...
    #[error("{0}")]
    Placeholder(String),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Images {}

impl Images {
    pub fn open(config: ImagesConfig, sink: Arc<dyn LayerSink>) -> Result<Self, ImageError> {
        todo!()
    }
    /// Pulls; dropping the future cancels what nobody else waits for. `progress` is called often: it must not block.
    /// The record it gives is complete (repo_digests with this one), every layer is committed; the caller (node) makes it visible.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        auth: Option<Auth>,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Pulled, ImageError> {
        todo!()
    }
    /// Removes the manifests and configurations of the content store that are not in `keep`, and stale partial downloads.
    pub fn sweep(&self, keep: &[Digest]) -> Result<u64, ImageError> {
        todo!()
    }
}

pub struct Pulled {
    pub record: ImageRecord,
    pub fetched_bytes: u64,
}
