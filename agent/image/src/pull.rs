//! From a name to a complete image: resolve, choose the platform, configuration, layers.

use crate::error::ImageError;
use crate::hash::digest_of;
use crate::jobs::{Jobs, Snapshot};
use crate::layer::Work;
use crate::manifest::{self, Config, Descriptor, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest};
use crate::registry::{Answer, Registries, Source};
use crate::store::{Pins, Store};
use crate::{Auth, LayerSink, Progress, ProgressState, Pulled};
use berth_model::digest::Algorithm;
use berth_model::image::{ImageRecord, LayerRecord};
use berth_model::{Digest, Platform, Reference, Timestamp};
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::Method;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Names whose last answer is remembered, so that pulling them again asks with HEAD.
const REMEMBERED_NAMES: usize = 1024;

/// What all pulls share.
pub(crate) struct Shared {
    pub store: Store,
    pub registries: Arc<Registries>,
    pub jobs: Arc<Jobs>,
    pub sink: Arc<dyn LayerSink>,
    pub windows: Arc<Semaphore>,
    pub last_seen: Mutex<HashMap<Reference, Digest>>,
}

pub(crate) type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// One pull.
pub(crate) struct Pull<'a> {
    shared: &'a Shared,
    reference: &'a Reference,
    platform: &'a Platform,
    source: Arc<Source>,
    tell: Tell,
    pins: Pins,
    fetched_bytes: u64,
    /// Manifests and configurations on their way to the disk.
    writes: JoinSet<Result<(), ImageError>>,
}

impl<'a> Pull<'a> {
    pub fn new(
        shared: &'a Shared,
        reference: &'a Reference,
        platform: &'a Platform,
        auth: Option<&Auth>,
        tell: Tell,
    ) -> Result<Self, ImageError> {
        let source = Arc::new(shared.registries.source(reference, auth)?);
        Ok(Pull {
            shared,
            reference,
            platform,
            source,
            tell,
            pins: shared.store.pins(),
            fetched_bytes: 0,
            writes: JoinSet::new(),
        })
    }

    pub async fn run(mut self) -> Result<Pulled, ImageError> {
        self.resolving(None);
        let (target, bytes, content_type) = self.target().await?;
        let (digest, manifest) = self.manifest(&target, bytes, content_type).await?;
        let config = self.config(&manifest).await?;
        let layers = self.layers(&manifest, &config).await?;
        self.written().await?;
        let record = ImageRecord {
            id: manifest.config.digest.clone(),
            manifest: digest,
            repo_digests: vec![format!("{}@{target}", self.reference.name())],
            target,
            platform: config.platform.unwrap_or_else(|| self.platform.normalized()),
            layers,
            config: config.config,
            created: config.created,
            pulled: Timestamp::now(),
            author: config.author,
            history: config.history,
            annotations: manifest.annotations,
        };
        (self.tell)(Progress {
            layer: None,
            state: ProgressState::Done,
            current_bytes: self.fetched_bytes,
            total_bytes: self.fetched_bytes,
            status: None,
        });
        Ok(Pulled { record, fetched_bytes: self.fetched_bytes, pins: self.pins })
    }

    fn resolving(&self, status: Option<String>) {
        (self.tell)(Progress {
            layer: None,
            state: ProgressState::Resolving,
            current_bytes: 0,
            total_bytes: 0,
            status,
        });
    }

    /// What the name leads to: an index or a manifest, its digest checked.
    async fn target(&mut self) -> Result<(Digest, Vec<u8>, Option<String>), ImageError> {
        if let Some(digest) = self.reference.digest() {
            let (bytes, content_type) = self.document(&digest.clone(), None).await?;
            return Ok((digest.clone(), bytes, content_type));
        }
        let tag = self.reference.tag().unwrap_or("latest");
        let path = format!("manifests/{tag}");
        let seen = self.last_seen().get(self.reference).cloned();
        if let Some(seen) = seen
            && let Some(bytes) = self.read(&seen, MAX_MANIFEST_BYTES).await?
        {
            // HEAD does not count against Docker Hub's pull limit, and has no body to send.
            let status = |words| self.resolving(Some(words));
            let answer = self
                .source
                .get(Method::HEAD, &path, Some(manifest::ACCEPT), MAX_MANIFEST_BYTES, &status, &|_| Ok(()))
                .await?;
            if answer.digest.as_deref() == Some(seen.as_str()) {
                return Ok((seen, bytes, None));
            }
        }
        let what = self.reference.to_string();
        let status = |words| self.resolving(Some(words));
        let check = |answer: &Answer| match answer.digest.as_deref().and_then(|d| d.parse::<Digest>().ok()) {
            Some(said) => same(&what, &said, &answer.body),
            None => Ok(()),
        };
        let answer =
            self.source.get(Method::GET, &path, Some(manifest::ACCEPT), MAX_MANIFEST_BYTES, &status, &check).await?;
        // Parsed before it is kept: what is no manifest does not come into the store.
        manifest::parse(&answer.body, answer.content_type.as_deref(), &what)?;
        let said = answer.digest.as_deref().and_then(|d| d.parse::<Digest>().ok());
        let digest = said.unwrap_or_else(|| digest_of(Algorithm::Sha256, &answer.body));
        self.keep(&digest, &answer.body);
        let mut last_seen = self.last_seen();
        if last_seen.len() >= REMEMBERED_NAMES {
            last_seen.clear();
        }
        last_seen.insert(self.reference.clone(), digest.clone());
        drop(last_seen);
        Ok((digest, answer.body, answer.content_type))
    }

    fn last_seen(&self) -> std::sync::MutexGuard<'a, HashMap<Reference, Digest>> {
        self.shared.last_seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of the wanted platform.
    async fn manifest(
        &mut self,
        target: &Digest,
        bytes: Vec<u8>,
        content_type: Option<String>,
    ) -> Result<(Digest, Manifest), ImageError> {
        let what = self.reference.to_string();
        let index = match manifest::parse(&bytes, content_type.as_deref(), &what)? {
            Document::Manifest(manifest) => return Ok((target.clone(), manifest)),
            Document::Index(index) => index,
        };
        let Some(chosen) = index.select(self.platform) else {
            return Err(self.wrong_platform(index.platforms()));
        };
        let (bytes, content_type) = self.document(&chosen.digest, Some(chosen.size)).await?;
        match manifest::parse(&bytes, content_type.as_deref(), &format!("manifest {} of {what}", chosen.digest))? {
            Document::Manifest(manifest) => Ok((chosen.digest.clone(), manifest)),
            Document::Index(_) => Err(ImageError::BadManifest {
                what,
                reason: format!("its index leads to another index, {}", chosen.digest),
            }),
        }
    }

    /// A manifest or index by digest, from the store or else from the registry.
    async fn document(&mut self, digest: &Digest, size: Option<u64>) -> Result<(Vec<u8>, Option<String>), ImageError> {
        let what = format!("manifest {digest} of {}", self.reference.name());
        if size.is_some_and(|s| s > MAX_MANIFEST_BYTES) {
            return Err(ImageError::TooLarge { what, limit_bytes: MAX_MANIFEST_BYTES });
        }
        if let Some(bytes) = self.read(digest, MAX_MANIFEST_BYTES).await? {
            return Ok((bytes, None));
        }
        let status = |words| self.resolving(Some(words));
        let check = |answer: &Answer| {
            same_size(&what, size, &answer.body)?;
            same(&what, digest, &answer.body)
        };
        let path = format!("manifests/{digest}");
        let answer =
            self.source.get(Method::GET, &path, Some(manifest::ACCEPT), MAX_MANIFEST_BYTES, &status, &check).await?;
        manifest::parse(&answer.body, answer.content_type.as_deref(), &what)?;
        self.keep(digest, &answer.body);
        Ok((answer.body, answer.content_type))
    }

    async fn config(&mut self, manifest: &Manifest) -> Result<Config, ImageError> {
        let Descriptor { digest, size, .. } = &manifest.config;
        let what = format!("configuration {digest} of {}", self.reference.name());
        let bytes = match self.read(digest, MAX_CONFIG_BYTES).await? {
            Some(bytes) => bytes,
            None => {
                let status = |words| self.resolving(Some(words));
                let check = |answer: &Answer| {
                    same_size(&what, Some(*size), &answer.body)?;
                    same(&what, digest, &answer.body)
                };
                let path = format!("blobs/{digest}");
                let answer = self.source.get(Method::GET, &path, None, MAX_CONFIG_BYTES, &status, &check).await?;
                manifest::parse_config(&answer.body, manifest.layers.len(), &what)?;
                self.keep(digest, &answer.body);
                answer.body
            }
        };
        let config = manifest::parse_config(&bytes, manifest.layers.len(), &what)?;
        match &config.platform {
            Some(platform) if self.platform.accepts(platform).is_none() => {
                Err(self.wrong_platform(vec![platform.clone()]))
            }
            _ => Ok(config),
        }
    }

    fn wrong_platform(&self, available: Vec<Platform>) -> ImageError {
        ImageError::PlatformNotFound { image: self.reference.to_string(), wanted: self.platform.clone(), available }
    }

    async fn layers(&mut self, manifest: &Manifest, config: &Config) -> Result<Vec<LayerRecord>, ImageError> {
        // The same layer may be there twice (an empty one, mostly).
        let mut wanted: BTreeMap<&Digest, &Descriptor> = BTreeMap::new();
        for (diff_id, blob) in config.diff_ids.iter().zip(&manifest.layers) {
            wanted.entry(diff_id).or_insert(blob);
        }
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        let mut missing = Vec::new();
        for (diff_id, blob) in wanted {
            match self.shared.sink.get(diff_id) {
                Some(bytes) => {
                    tell_layer(&self.tell, blob, ProgressState::Exists, blob.size, None);
                    sizes.insert(diff_id.clone(), bytes);
                }
                None => missing.push((diff_id, blob)),
            }
        }
        // The largest first: the last layer to come should be a short one.
        missing.sort_by_key(|(_, blob)| std::cmp::Reverse(blob.size));
        let mut coming: FuturesUnordered<_> =
            missing.into_iter().map(|(diff_id, blob)| self.layer(diff_id, blob)).collect();
        let mut fetched_bytes = 0;
        while let Some((diff_id, tar_bytes, fetched)) = coming.try_next().await? {
            sizes.insert(diff_id, tar_bytes);
            fetched_bytes += fetched;
        }
        drop(coming);
        self.fetched_bytes += fetched_bytes;
        let record = |(diff_id, blob): (&Digest, &Descriptor)| LayerRecord {
            digest: blob.digest.clone(),
            diff_id: diff_id.clone(),
            media_type: blob.media_type.clone(),
            compressed_bytes: blob.size,
            size_bytes: sizes.get(diff_id).copied().unwrap_or_default(),
        };
        Ok(config.diff_ids.iter().zip(&manifest.layers).map(record).collect())
    }

    async fn layer(&self, diff_id: &Digest, blob: &Descriptor) -> Result<(Digest, u64, u64), ImageError> {
        let work = Work {
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            source: self.source.clone(),
            store: self.shared.store.clone(),
            sink: self.shared.sink.clone(),
            limits: self.shared.registries.limits.clone(),
            windows: self.shared.windows.clone(),
        };
        let tell = |s: &Snapshot| tell_layer(&self.tell, blob, s.state, s.current_bytes, s.status.clone());
        let done = self.shared.jobs.get(&work, tell).await?;
        tell_layer(&self.tell, blob, ProgressState::Done, blob.size, None);
        Ok((diff_id.clone(), done.tar_bytes, done.fetched_bytes))
    }

    async fn read(&mut self, digest: &Digest, max: u64) -> Result<Option<Vec<u8>>, ImageError> {
        self.pins.add(digest);
        let (store, digest) = (self.shared.store.clone(), digest.clone());
        blocking(move || store.read(&digest, max)).await
    }

    /// Begins to keep a blob. Its fsyncs (some 10 ms each) go on beside the layers; the end of the pull waits for them.
    fn keep(&mut self, digest: &Digest, bytes: &[u8]) {
        self.pins.add(digest);
        self.fetched_bytes += bytes.len() as u64;
        let (store, digest, bytes) = (self.shared.store.clone(), digest.clone(), bytes.to_vec());
        self.writes.spawn_blocking(move || store.write(&digest, &bytes));
    }

    async fn written(&mut self) -> Result<(), ImageError> {
        while let Some(result) = self.writes.join_next().await {
            result.unwrap_or(Err(ImageError::Cancelled))?;
        }
        Ok(())
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ImageError::Cancelled),
    }
}

fn tell_layer(tell: &Tell, blob: &Descriptor, state: ProgressState, current_bytes: u64, status: Option<String>) {
    tell(Progress { layer: Some(blob.digest.clone()), state, current_bytes, total_bytes: blob.size, status });
}

fn same(what: &str, expected: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    let actual = digest_of(expected.algorithm(), bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(ImageError::DigestMismatch { what: what.to_owned(), expected: expected.clone(), actual })
}

fn same_size(what: &str, expected: Option<u64>, bytes: &[u8]) -> Result<(), ImageError> {
    match expected {
        Some(expected) if expected != bytes.len() as u64 => {
            Err(ImageError::SizeMismatch { what: what.to_owned(), expected, actual: bytes.len() as u64 })
        }
        _ => Ok(()),
    }
}
