//! Manifests, indexes and configurations: OCI image-spec 1.1 and Docker's schema 2, parsed once into what the pull needs.

use crate::error::ImageError;
use berth_model::image::{History, ImageConfig};
use berth_model::{Digest, Platform, Timestamp};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// distribution-spec: registries should take manifests of at least 4 MiB, and hardly any takes more.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Docker's own limit is the same order.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// overlayfs takes 500 lower layers (fsconfig `lowerdir+`, EINVAL beyond).
pub const MAX_LAYERS: usize = 500;
/// An index with more entries is an attack on memory.
const MAX_INDEX_ENTRIES: usize = 4096;

/// The media types that the client asks for, best first.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A content descriptor (image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default, deserialize_with = "null_is_default")]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// One entry per platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    entries: Vec<(Option<Platform>, Descriptor)>,
}

/// One image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
    pub annotations: BTreeMap<String, String>,
}

/// An image's configuration (image-spec, config.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// None when the configuration does not say.
    pub platform: Option<Platform>,
    pub created: Option<Timestamp>,
    pub author: Option<String>,
    pub config: ImageConfig,
    pub history: Vec<History>,
    /// Bottom first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
}

/// Go writes empty maps and lists as `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Parses what a registry gave. `content_type` is its header and decides only where the document itself does not say;
/// `what` names it in errors.
pub fn parse(bytes: &[u8], content_type: Option<&str>, what: &str) -> Result<Document, ImageError> {
    let bad = |reason: String| ImageError::BadManifest { what: what.to_owned(), reason };
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(|e| bad(format!("not a manifest: {e}")))?;
    let header = content_type.map(|t| t.split(';').next().unwrap_or(t).trim());
    let media_type = raw.media_type.as_deref().or(header).unwrap_or("");
    if raw.schema_version == 1
        || raw.fs_layers.is_some()
        || media_type.contains("manifest.v1+") && media_type.contains("docker")
    {
        return Err(bad(
            "Docker image manifest schema 1 is not supported: push the image again with a Docker newer than 1.10"
                .to_owned(),
        ));
    }
    if raw.schema_version != 2 {
        return Err(bad(format!("schemaVersion is {}, expected 2", raw.schema_version)));
    }
    // One document that is both would mean different images to different readers (CVE-2021-41190).
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(bad("both an index and a manifest".to_owned()));
    }
    if let Some(entries) = raw.manifests {
        if !matches!(media_type, OCI_INDEX | DOCKER_LIST) && raw.media_type.is_some() {
            return Err(bad(format!("an index of media type {media_type:?}")));
        }
        if entries.len() > MAX_INDEX_ENTRIES {
            return Err(bad(format!("{} entries; the limit is {MAX_INDEX_ENTRIES}", entries.len())));
        }
        return Ok(Document::Index(index(entries)));
    }
    if !matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST) && raw.media_type.is_some() {
        return Err(bad(format!("media type {media_type:?} is no image manifest")));
    }
    let config = raw.config.ok_or_else(|| bad("no config".to_owned()))?;
    let layers = raw.layers.ok_or_else(|| bad("no layers".to_owned()))?;
    manifest(config, layers, raw.annotations).map(Document::Manifest).map_err(bad)
}

fn index(entries: Vec<Descriptor>) -> Index {
    let entries = entries.into_iter().filter_map(|d| {
        // BuildKit's attestations are no images: unknown/unknown and annotated as such.
        if d.annotations.contains_key("vnd.docker.reference.type") {
            return None;
        }
        let platform = d.platform.as_ref().map(|p| {
            Platform { os: p.os.clone(), architecture: p.architecture.clone(), variant: p.variant.clone() }.normalized()
        });
        match &platform {
            Some(p) if p.os == "unknown" || p.architecture == "unknown" => None,
            _ => Some((platform, d)),
        }
    });
    Index { entries: entries.collect() }
}

fn manifest(
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Result<Manifest, String> {
    if !matches!(
        config.media_type.as_str(),
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json" | ""
    ) {
        return Err(format!("its config is of media type {:?}: an artifact, not an image", config.media_type));
    }
    if config.size > MAX_CONFIG_BYTES {
        return Err(format!("its config has {} bytes; the limit is {MAX_CONFIG_BYTES}", config.size));
    }
    if layers.len() > MAX_LAYERS {
        return Err(format!("{} layers; overlayfs takes {MAX_LAYERS}", layers.len()));
    }
    for layer in &layers {
        check_layer(layer)?;
    }
    Ok(Manifest { config, layers, annotations })
}

fn check_layer(layer: &Descriptor) -> Result<(), String> {
    let kind = layer.media_type.as_str();
    if kind.contains("foreign") || kind.contains("nondistributable") {
        return Err(format!(
            "layer {} is not distributable ({kind}): the registry may not serve it; such layers are not supported",
            layer.digest
        ));
    }
    if kind.contains("encrypted") {
        return Err(format!("layer {} is encrypted ({kind}); such layers are not supported", layer.digest));
    }
    let tar = kind
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| kind.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"));
    match tar {
        Some("" | "+gzip" | ".gzip" | "+zstd" | ".zstd") => Ok(()),
        _ => Err(format!("layer {} is of media type {kind:?}, which is not supported", layer.digest)),
    }
}

impl Index {
    /// The entry that runs best on `wanted`: the same variant first, then the newest older one, then the first.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let ranked = self.entries.iter().enumerate().filter_map(|(at, (platform, descriptor))| {
            let rank = wanted.accepts(platform.as_ref()?)?;
            Some((rank, at, descriptor))
        });
        let best = ranked.min_by_key(|&(rank, at, _)| (rank, at)).map(|(_, _, d)| d);
        // An index of one entry without a platform: what it is shows in its configuration.
        best.or(match self.entries.as_slice() {
            [(None, only)] => Some(only),
            _ => None,
        })
    }

    /// For the error when nothing fits.
    pub fn platforms(&self) -> Vec<Platform> {
        self.entries.iter().filter_map(|(p, _)| p.clone()).collect()
    }
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    config: Option<RawProcess>,
    rootfs: RawRootfs,
    #[serde(default, deserialize_with = "null_is_default")]
    history: Vec<RawHistory>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct RawHistory {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawProcess {
    #[serde(default)]
    user: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(default, deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default, deserialize_with = "null_is_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    stop_signal: Option<String>,
    #[serde(default)]
    healthcheck: Option<serde_json::Value>,
}

/// Parses a configuration; `layers` is how many the manifest has.
pub fn parse_config(bytes: &[u8], layers: usize, what: &str) -> Result<Config, ImageError> {
    let bad = |reason: String| ImageError::BadManifest { what: what.to_owned(), reason };
    let raw: RawConfig = serde_json::from_slice(bytes).map_err(|e| bad(format!("not an image configuration: {e}")))?;
    if !matches!(raw.rootfs.kind.as_str(), "layers" | "") {
        return Err(bad(format!("rootfs type {:?}, expected \"layers\"", raw.rootfs.kind)));
    }
    if raw.rootfs.diff_ids.len() != layers {
        return Err(bad(format!("{} diff_ids for {layers} layers", raw.rootfs.diff_ids.len())));
    }
    let platform = (!raw.os.is_empty() && !raw.architecture.is_empty())
        .then(|| Platform { os: raw.os, architecture: raw.architecture, variant: raw.variant }.normalized());
    let process = raw.config.unwrap_or_default();
    let said = |s: Option<String>| s.filter(|s| !s.is_empty());
    Ok(Config {
        platform,
        created: raw.created.as_deref().and_then(time),
        author: said(raw.author),
        config: ImageConfig {
            user: said(process.user),
            exposed_ports: process.exposed_ports.into_keys().collect(),
            env: process.env,
            entrypoint: process.entrypoint.filter(|e| !e.is_empty()),
            cmd: process.cmd.filter(|c| !c.is_empty()),
            volumes: process.volumes.into_keys().collect(),
            working_dir: said(process.working_dir),
            labels: process.labels,
            stop_signal: said(process.stop_signal),
            healthcheck: process.healthcheck.filter(|h| !h.is_null()),
        },
        history: raw
            .history
            .into_iter()
            .map(|h| History {
                created: h.created.as_deref().and_then(time),
                created_by: said(h.created_by),
                comment: said(h.comment),
                empty_layer: h.empty_layer,
            })
            .collect(),
        diff_ids: raw.rootfs.diff_ids,
    })
}

/// RFC 3339. A time that cannot be read is no reason to refuse an image.
fn time(s: &str) -> Option<Timestamp> {
    let t: jiff::Timestamp = s.parse().ok()?;
    i64::try_from(t.as_nanosecond()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn parsed(value: &serde_json::Value) -> Result<Document, ImageError> {
        parse(value.to_string().as_bytes(), None, "test")
    }

    fn with_layer(kind: &str) -> serde_json::Value {
        json!({
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest('c'), "size": 9},
            "layers": [{"mediaType": kind, "digest": digest('1'), "size": 5, "annotations": null}],
        })
    }

    #[test]
    fn takes_dockers_and_ocis_layers() {
        for kind in [
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ] {
            assert!(matches!(parsed(&with_layer(kind)), Ok(Document::Manifest(m)) if m.layers.len() == 1), "{kind}");
        }
    }

    #[test]
    fn refuses_by_name() {
        let mut artifact = with_layer("application/vnd.oci.image.layer.v1.tar");
        artifact["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        let mut both = with_layer("application/vnd.oci.image.layer.v1.tar");
        both["manifests"] = json!([]);
        let mut many = with_layer("application/vnd.oci.image.layer.v1.tar");
        many["layers"] = json!(vec![many["layers"][0].clone(); MAX_LAYERS + 1]);
        let mut traversal = with_layer("application/vnd.oci.image.layer.v1.tar");
        traversal["layers"][0]["digest"] = json!("sha256:../../etc/passwd");
        for (value, words) in [
            (with_layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "not distributable"),
            (with_layer("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), "not distributable"),
            (with_layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "encrypted"),
            (with_layer("text/plain"), "not supported"),
            (artifact, "an artifact"),
            (both, "both an index and a manifest"),
            (many, "501 layers"),
            (traversal, "not a manifest"),
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
            (json!({"schemaVersion": 2}), "no config"),
            (json!([]), "schemaVersion is 0"),
        ] {
            let e = parsed(&value).unwrap_err().to_string();
            assert!(e.contains(words), "{e:?} does not say {words:?}");
        }
    }

    #[test]
    fn chooses_the_platform_and_skips_attestations() {
        let entry = |c: char, architecture: &str, variant: Option<&str>| {
            json!({
                "mediaType": OCI_MANIFEST, "digest": digest(c), "size": 1,
                "platform": {"os": "linux", "architecture": architecture, "variant": variant},
            })
        };
        let mut attestation = entry('a', "amd64", None);
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let entries = [
            attestation,
            entry('2', "amd64", Some("v2")),
            entry('1', "amd64", None),
            entry('6', "arm", Some("v6")),
            entry('7', "arm", Some("v7")),
            entry('8', "arm64", Some("v8")),
        ];
        let Ok(Document::Index(index)) =
            parsed(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
        else {
            panic!("an index");
        };
        for (wanted, chosen) in [
            ("linux/amd64", Some('1')),
            ("linux/amd64/v2", Some('2')),
            ("linux/amd64/v3", Some('2')),
            ("linux/arm/v7", Some('7')),
            ("linux/arm/v6", Some('6')),
            ("linux/arm/v5", None),
            ("linux/arm64", Some('8')),
            ("linux/s390x", None),
        ] {
            let wanted: Platform = wanted.parse().unwrap();
            assert_eq!(index.select(&wanted).map(|d| d.digest.to_string()), chosen.map(digest), "{wanted}");
        }
        assert_eq!(index.platforms().len(), 5);
    }

    #[test]
    fn diff_ids_must_be_as_many_as_layers() {
        let config = json!({"os": "linux", "architecture": "amd64", "config": null, "history": null,
            "rootfs": {"type": "layers", "diff_ids": [digest('1')]}});
        assert!(parse_config(config.to_string().as_bytes(), 1, "test").is_ok());
        let e = parse_config(config.to_string().as_bytes(), 2, "test").unwrap_err();
        assert!(e.to_string().contains("1 diff_ids for 2 layers"), "{e}");
    }
}
