//! Images as the agent knows them once they are pulled.

use crate::{Digest, Platform, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An image of this node: one manifest for one platform, and the names that lead to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the configuration: Docker's image id.
    pub id: Digest,
    /// Digest of the manifest of this platform.
    pub manifest: Digest,
    /// Digest of what the registry answered for the name: the index, or the manifest itself.
    pub target: Digest,
    pub platform: Platform,
    /// Bottom first.
    pub layers: Vec<LayerRecord>,
    pub config: ImageConfig,
    /// When the image was made, as its configuration says.
    pub created: Option<Timestamp>,
    /// When it came to this node.
    pub pulled: Timestamp,
    /// `registry/repository@digest` for every repository it was pulled from.
    pub repo_digests: Vec<String>,
    pub author: Option<String>,
    pub history: Vec<History>,
    /// Manifest annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl ImageRecord {
    /// Uncompressed size of all layers in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().map(|l| l.size_bytes).sum()
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the blob as the registry serves it.
    pub digest: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    pub media_type: String,
    /// Size of the blob in bytes.
    pub compressed_bytes: u64,
    /// Size of the uncompressed tar in bytes.
    pub size_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct History {
    pub created: Option<Timestamp>,
    pub created_by: Option<String>,
    pub comment: Option<String>,
    #[serde(default)]
    pub empty_layer: bool,
}

/// The part of an image's configuration that a container starts from (image-spec, config.md).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    pub user: Option<String>,
    /// `port/protocol`
    #[serde(default)]
    pub exposed_ports: Vec<String>,
    /// `KEY=value`
    #[serde(default)]
    pub env: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    #[serde(default)]
    pub volumes: Vec<String>,
    pub working_dir: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    /// As the image says it; read by the supervision.
    pub healthcheck: Option<serde_json::Value>,
}
