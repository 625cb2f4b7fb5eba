//! Registry client, content store and pull.
//!
//! [`Images::pull`] takes a name and gives a complete [`ImageRecord`]: it resolves the name at the registry or its mirrors
//! (`registry`, `session`), chooses the platform (`manifest`), keeps manifests and configurations by digest (`store`), and
//! sends every missing layer once (`jobs`) through one pipelined pass: fetch, digest of the blob, decompression, diff_id,
//! layer store (`fetch`, `layer`, `decompress`). The layer store is the caller's, behind [`LayerSink`].
//!
//! It does not: remember which names an image has (the caller's database does), assemble root file systems, run credential
//! helpers, push. Every byte that it hands on was checked against a digest, or will be before `commit` is called.
#![forbid(unsafe_code)]

mod answer;
mod challenge;
mod change;
mod child;
mod credentials;
mod decompress;
mod error;
mod fetch;
mod gzip;
mod hash;
mod jobs;
mod layer;
pub mod manifest;
mod pull;
mod reach;
mod registry;
mod retry;
mod session;
mod store;
mod tls;

pub use change::{Change, Health};
pub use child::Child;
pub use credentials::{Auth, Docker, docker_config};
pub use error::{ImageError, SinkError};
pub use hash::Hasher;
pub use store::Pins;

use berth_model::image::ImageRecord;
use berth_model::{Digest, Platform, Reference};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

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

/// Per-registry configuration, by host[:port].
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Use http://. Loopback registries need no such switch: https is tried, then http when they speak no TLS. Other registries' answers may
    /// send the agent here without TLS, too.
    pub plain_http: bool,
    /// PEM file with CAs trusted for this registry beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and key (PEM).
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Base URLs (`https://mirror.example[/path]`) tried in order before the registry itself. A mirror's own CA and
    /// certificate are those of its own host's entry.
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

/// Bounds on time and size.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without a byte, a connection counts as dead.
    pub stall: Duration,
    /// Tries per request without progress, the first included.
    pub tries: u32,
    /// Before the second try; doubles with each one.
    pub backoff: Duration,
    /// The longest wait between tries, Retry-After included; a registry that wants more gets an error to the caller.
    pub longest_wait: Duration,
    /// Uncompressed bytes of one layer: deflate expands by up to 1032, zstd by far more.
    pub layer_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            tries: 6,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            layer_bytes: 64 << 30,
        }
    }
}

/// The images' side of a node. Cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<pull::Shared>);

impl Images {
    /// Opens (or makes) the content store. Reads no network and no credentials yet.
    pub fn open(config: ImagesConfig, sink: Arc<dyn LayerSink>) -> Result<Self, ImageError> {
        Self::open_with(config, Limits::default(), sink)
    }

    pub fn open_with(config: ImagesConfig, limits: Limits, sink: Arc<dyn LayerSink>) -> Result<Self, ImageError> {
        let parallel = match config.parallel_layers {
            // Beyond four, more layers side by side only cost memory: the cores are busy and the network is full.
            0 => std::thread::available_parallelism().map_or(3, |n| n.get().clamp(3, 4)),
            n => n.min(MAX_PARALLEL_LAYERS),
        };
        Ok(Images(Arc::new(pull::Shared {
            store: store::Store::open(&config.dir)?,
            registries: registry::Registries::new(config, limits),
            jobs: jobs::Jobs::new(parallel),
            sink,
            windows: Arc::new(Semaphore::new(fetch::WINDOWS_IN_MEMORY)),
            last_seen: Mutex::new(HashMap::new()),
        })))
    }

    /// Pulls; dropping the future cancels what nobody else waits for. `progress` is called often: it must not block.
    /// The record it gives is complete (repo_digests with this one), every layer is committed; the caller (node) makes it
    /// visible and holds the result's pins until it has.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        auth: Option<Auth>,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Pulled, ImageError> {
        pull::Pull::new(&self.0, reference, platform, auth.as_ref(), progress)?.run().await
    }

    /// Removes the manifests and configurations of the content store that are neither in `keep` nor needed by a pull under
    /// way, and partial downloads that are a day old. Gives the freed bytes. Blocks.
    pub fn sweep(&self, keep: &[Digest]) -> Result<u64, ImageError> {
        self.0.store.sweep(&keep.iter().collect::<HashSet<_>>())
    }

    /// A manifest, index or configuration as it was served, its digest checked. None: not there. Blocks.
    pub fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
        self.0.store.read(digest, manifest::MAX_CONFIG_BYTES)
    }
}

/// Each takes some 10 MB while it is on its way.
const MAX_PARALLEL_LAYERS: usize = 8;

/// A finished pull.
#[derive(Debug)]
pub struct Pulled {
    pub record: ImageRecord,
    /// From the network, for this pull.
    pub fetched_bytes: u64,
    /// Keeps the record's manifests from [`Images::sweep`] until it is dropped.
    pub pins: Pins,
}
