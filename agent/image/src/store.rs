//! The content store: manifests, indexes and configurations as files by digest, and downloads that are not whole yet.
//!
//! ```text
//! blobs/<algorithm>/<hex>              whole, checked, fsynced before it gets this name
//! ingest/<algorithm>-<hex>.partial     the first bytes of a layer's blob; unchecked until the digest is
//! ingest/<number>.tmp                  being written; removed at open
//! ```

use crate::error::ImageError;
use crate::hash::digest_of;
use berth_model::Digest;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A partial download that nobody took up for this long is removed by a sweep.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Blocking. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    ingest: PathBuf,
    next_temp: AtomicU64,
    /// Partial downloads that a pull of this process writes.
    busy: Mutex<HashSet<Digest>>,
    /// Blobs that a pull under way relies on, and how many pulls do.
    pinned: Mutex<HashMap<Digest, usize>>,
}

/// Keeps blobs from being swept until the caller has recorded what refers to them.
#[derive(Debug)]
pub struct Pins {
    store: Store,
    digests: Vec<Digest>,
}

/// A partial download, held by one layer at a time. The file stays when it is dropped.
#[derive(Debug)]
pub(crate) struct Partial {
    store: Store,
    digest: Digest,
    pub path: PathBuf,
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Makes the folders and removes what an earlier process was writing.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        let blobs = dir.join("blobs");
        let ingest = dir.join("ingest");
        for folder in [&blobs, &ingest] {
            fs::create_dir_all(folder).map_err(|e| ImageError::io(format!("making {}", folder.display()), e))?;
        }
        let store = Store(Arc::new(Inner {
            blobs,
            ingest,
            next_temp: AtomicU64::new(0),
            busy: Mutex::default(),
            pinned: Mutex::default(),
        }));
        for (path, _) in store.list(&store.0.ingest)? {
            if path.extension().is_some_and(|e| e == "tmp") {
                remove(&path)?;
            }
        }
        Ok(store)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.blobs.join(digest.algorithm().name()).join(digest.hex())
    }

    /// A whole blob of at most `max` bytes, its digest checked. One that is damaged is removed and counts as not there.
    pub fn read(&self, digest: &Digest, max: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let path = self.path(digest);
        let act = || format!("reading {}", path.display());
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(max + 1).read_to_end(&mut bytes).map_err(|e| ImageError::io(act(), e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(ImageError::io(act(), e)),
        };
        if bytes.len() as u64 <= max && digest_of(digest.algorithm(), &bytes) == *digest {
            return Ok(Some(bytes));
        }
        tracing::warn!(path = %path.display(), "damaged blob removed from the content store");
        remove(&path)?;
        Ok(None)
    }

    /// Writes a blob whose digest the caller has checked: data, fsync, rename, fsync of the folder.
    pub fn write(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.0.blobs);
        let act = || format!("writing {}", path.display());
        let temp = self.0.ingest.join(format!("{}.tmp", self.0.next_temp.fetch_add(1, Ordering::Relaxed)));
        let written = (|| {
            fs::create_dir_all(folder)?;
            let mut file = File::create(&temp)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temp, &path)?;
            File::open(folder)?.sync_all()?;
            // The folder itself may be new.
            File::open(&self.0.blobs)?.sync_all()
        })();
        written.map_err(|e| {
            let _ = fs::remove_file(&temp);
            ImageError::io(act(), e)
        })
    }

    /// Keeps nothing yet; see [`Pins::add`].
    pub fn pins(&self) -> Pins {
        Pins { store: self.clone(), digests: Vec::new() }
    }

    /// The partial download of `digest`; None when another layer of this process writes it.
    pub fn partial(&self, digest: &Digest) -> Option<Partial> {
        if !lock(&self.0.busy).insert(digest.clone()) {
            return None;
        }
        let name = format!("{}-{}.partial", digest.algorithm().name(), digest.hex());
        Some(Partial { store: self.clone(), digest: digest.clone(), path: self.0.ingest.join(name) })
    }

    /// Removes all blobs that are neither kept nor pinned, and partial downloads that are a day old. Gives the freed bytes.
    pub fn sweep(&self, keep: &HashSet<&Digest>) -> Result<u64, ImageError> {
        let mut freed = 0;
        for (folder, _) in self.list(&self.0.blobs)? {
            let Some(algorithm) = folder.file_name().and_then(|n| n.to_str()).map(str::to_owned) else { continue };
            for (path, size) in self.list(&folder)? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
                let digest: Option<Digest> = format!("{algorithm}:{name}").parse().ok();
                // Held over the removal: a pull that pins it now will not find the file, and one that has, is seen.
                let pinned = lock(&self.0.pinned);
                if digest.is_some_and(|d| keep.contains(&d) || pinned.contains_key(&d)) {
                    continue;
                }
                remove(&path)?;
                freed += size;
            }
        }
        let now = SystemTime::now();
        for (path, size) in self.list(&self.0.ingest)? {
            let modified = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(now);
            let stale = now.duration_since(modified).is_ok_and(|age| age > STALE);
            let busy = lock(&self.0.busy);
            let written = busy.iter().any(|d| path.to_string_lossy().contains(d.hex()));
            if stale && !written && path.extension().is_some_and(|e| e == "partial") {
                remove(&path)?;
                freed += size;
            }
        }
        Ok(freed)
    }

    /// Paths and sizes in bytes.
    fn list(&self, folder: &Path) -> Result<Vec<(PathBuf, u64)>, ImageError> {
        let read = || -> io::Result<Vec<(PathBuf, u64)>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                // Gone meanwhile is fine.
                if let Ok(meta) = entry.metadata() {
                    found.push((entry.path(), meta.len()));
                }
            }
            Ok(found)
        };
        read().map_err(|e| ImageError::io(format!("listing {}", folder.display()), e))
    }
}

impl Pins {
    /// Must come before the blob is read or written.
    pub(crate) fn add(&mut self, digest: &Digest) {
        *lock(&self.store.0.pinned).entry(digest.clone()).or_default() += 1;
        self.digests.push(digest.clone());
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pinned = lock(&self.store.0.pinned);
        for digest in &self.digests {
            if let Some(count) = pinned.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(digest);
                }
            }
        }
    }
}

impl Partial {
    /// Bytes that are there, 0 when there is no file; a file that is longer than the blob is no part of it and is removed.
    pub fn len(&self, size: u64) -> Result<u64, ImageError> {
        match fs::metadata(&self.path) {
            Ok(meta) if meta.len() <= size => Ok(meta.len()),
            Ok(_) => self.remove().map(|()| 0),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(ImageError::io(format!("reading {}", self.path.display()), e)),
        }
    }

    pub fn remove(&self) -> Result<(), ImageError> {
        remove(&self.path)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        lock(&self.store.0.busy).remove(&self.digest);
    }
}

fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(ImageError::io(format!("removing {}", path.display()), e)),
    }
}
