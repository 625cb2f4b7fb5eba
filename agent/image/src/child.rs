//! Images that are made here: a parent's layers and one more.

use crate::change::Change;
use crate::hash::digest_of;
use crate::manifest::{self, MAX_LAYERS};
use crate::{ImageError, Images, Pulled};
use berth_model::digest::Algorithm;
use berth_model::image::{ImageConfig, ImageRecord, LayerRecord};
use berth_model::{Digest, Timestamp};
use serde_json::{Map, Value, json};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What an image is made of. Its layer is in the layer store already.
#[derive(Debug)]
pub struct Child<'a> {
    pub parent: &'a ImageRecord,
    /// What the container ran with: the parent's with the container's own over it.
    pub process: ImageConfig,
    pub changes: &'a [Change],
    pub diff_id: Digest,
    /// Of the layer's tar, which is its blob too.
    pub layer_bytes: u64,
    pub author: &'a str,
    pub comment: &'a str,
    /// The command whose work the layer is.
    pub created_by: String,
    pub created: Timestamp,
}

impl Images {
    /// Writes configuration and manifest of an image to the content store, each synced. What the parent's configuration says beyond what
    /// berth knows stays. Blocks.
    ///
    /// # Errors
    /// More layers than can be mounted; a full disk.
    pub fn keep_child(&self, child: Child<'_>) -> Result<Pulled, ImageError> {
        let parent = child.parent;
        if parent.layers.len() >= MAX_LAYERS {
            let reason = format!("it would have more than {MAX_LAYERS} layers");
            return Err(ImageError::BadManifest { what: "the new image".into(), reason });
        }
        let before = self.read_blob(&parent.id)?.and_then(|b| serde_json::from_slice(&b).ok());
        let config = config(&child, before.unwrap_or_default());
        let config = serde_json::to_vec(&Value::Object(config)).unwrap_or_default();
        let id = digest_of(Algorithm::Sha256, &config);
        let mut layers = parent.layers.clone();
        layers.push(LayerRecord {
            digest: child.diff_id.clone(),
            diff_id: child.diff_id.clone(),
            media_type: LAYER.into(),
            compressed_bytes: child.layer_bytes,
            size_bytes: child.layer_bytes,
        });
        let descriptor =
            |l: &LayerRecord| json!({"mediaType": l.media_type, "digest": l.digest, "size": l.compressed_bytes});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": id, "size": config.len()},
            "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        let target = digest_of(Algorithm::Sha256, &manifest);
        // Read back as every configuration is: what is recorded is what was written.
        let read = manifest::parse_config(&config, layers.len(), "the new image")?;
        let store = &self.0.store;
        let mut pins = store.pins();
        for (digest, bytes) in [(&id, &config), (&target, &manifest)] {
            pins.add(digest);
            store.write(digest, bytes)?;
        }
        let record = ImageRecord {
            id,
            manifest: target.clone(),
            target,
            platform: parent.platform.clone(),
            layers,
            config: read.config,
            created: read.created,
            pulled: child.created,
            repo_digests: Vec::new(),
            author: read.author,
            history: read.history,
            annotations: Default::default(),
        };
        Ok(Pulled { record, fetched_bytes: 0, pins })
    }
}

fn time(t: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(t.nanos().into()).map(|t| t.to_string()).unwrap_or_default()
}

/// The parent's configuration with what is new.
fn config(child: &Child<'_>, before: Map<String, Value>) -> Map<String, Value> {
    let mut all = before;
    for old in ["container", "container_config", "id", "parent", "parent_id", "author"] {
        all.remove(old);
    }
    let platform = &child.parent.platform;
    all.insert("os".into(), json!(platform.os));
    all.insert("architecture".into(), json!(platform.architecture));
    if let Some(variant) = &platform.variant {
        all.insert("variant".into(), json!(variant));
    }
    let created = time(child.created);
    all.insert("created".into(), json!(created));
    if !child.author.is_empty() {
        all.insert("author".into(), json!(child.author));
    }
    let mut process = match all.remove("config") {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    overlay(&mut process, &child.process);
    Change::apply_all(child.changes, &mut process);
    all.insert("config".into(), Value::Object(process));
    let mut diff_ids: Vec<&Digest> = child.parent.layers.iter().map(|l| &l.diff_id).collect();
    diff_ids.push(&child.diff_id);
    all.insert("rootfs".into(), json!({"type": "layers", "diff_ids": diff_ids}));
    let mut history = match all.remove("history") {
        Some(Value::Array(history)) => history,
        _ => Vec::new(),
    };
    let mut entry = json!({"created": created, "created_by": child.created_by});
    for (key, text) in [("author", child.author), ("comment", child.comment)] {
        if !text.is_empty() {
            entry[key] = json!(text);
        }
    }
    history.push(entry);
    all.insert("history".into(), Value::Array(history));
    all
}

/// What the container ran with, over what the image says.
fn overlay(config: &mut Map<String, Value>, process: &ImageConfig) {
    let set = |names: &[String]| names.iter().map(|n| (n.clone(), json!({}))).collect::<Map<_, _>>();
    let mut put = |key: &str, value: Option<Value>| match value {
        Some(value) => _ = config.insert(key.into(), value),
        None => _ = config.remove(key),
    };
    let some = |list: &[String]| (!list.is_empty()).then(|| Value::Object(set(list)));
    put("User", process.user.as_ref().map(|u| json!(u)));
    put("ExposedPorts", some(&process.exposed_ports));
    put("Env", (!process.env.is_empty()).then(|| json!(process.env)));
    put("Entrypoint", process.entrypoint.as_ref().map(|e| json!(e)));
    put("Cmd", process.cmd.as_ref().map(|c| json!(c)));
    put("Volumes", some(&process.volumes));
    put("WorkingDir", process.working_dir.as_ref().map(|w| json!(w)));
    put("Labels", (!process.labels.is_empty()).then(|| json!(process.labels)));
    put("StopSignal", process.stop_signal.as_ref().map(|s| json!(s)));
    put("Healthcheck", process.healthcheck.clone());
}
