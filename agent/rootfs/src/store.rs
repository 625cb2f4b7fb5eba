//! All layers of a node, on disk:
//!
//! ```text
//! layers/sha256/<hex>/   meta.json with layer.tar + layer.erofs, or with tree/
//! ingest/<number>/       layers being written; what is found here at open is of a dead process
//! trash/<number>/        removed, to be unlinked
//! empty/                 the lower folder of images without layers
//! mounts/<hex>/          erofs mounts, only where overlayfs takes no detached ones (before Linux 6.15)
//! ```
//!
//! A layer appears by one rename, when all its data is on the disk, and disappears by one.

use crate::error::{Act, RootfsError};
use crate::overlay::Lowers;
use crate::tar::Parser;
use crate::tree::Tree;
use crate::writer::LayerWriter;
use crate::{erofs, remove};
use berth_model::{Digest, digest::Algorithm};
use berth_sys::fs::{self as sysfs, Open};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

/// How long the trash is left alone when something comes into it.
const TOGETHER: Duration = Duration::from_millis(100);

/// What new layers become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Driver {
    /// EROFS where the kernel can, else directories.
    #[default]
    Auto,
    Erofs,
    Directory,
}

/// What a caller learns of a layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerInfo {
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
}

/// How a layer is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    Erofs,
    Directory,
}

/// `meta.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    pub version: u32,
    pub form: Form,
    /// Bytes of the tar as it came.
    pub tar_bytes: u64,
    /// Bytes of the index; 0 for a directory.
    pub index_bytes: u64,
    /// The layer's root is opaque: nothing below it is seen.
    pub opaque_root: bool,
}

impl Meta {
    /// Raised when older agents could not read what is written.
    pub const VERSION: u32 = 1;
}

/// What [`LayerStore::read_whole`] could look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whole {
    /// All of it, byte for byte.
    Read,
    /// It is kept as a directory: there is no tar any more whose digest could be taken.
    Unpacked,
}

#[derive(Clone, Debug)]
enum State {
    Good(Meta),
    Damaged(String),
}

/// All layers of a node, by diff_id. Cheap to clone.
#[derive(Clone)]
pub struct LayerStore {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    form: Form,
    layers: Mutex<HashMap<Digest, State>>,
    lowers: Lowers,
    next: AtomicU64,
    trash: Arc<Trash>,
    sweeper: Option<(SyncSender<()>, JoinHandle<()>)>,
}

struct Trash {
    dir: PathBuf,
    emptying: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its map whole at each step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trash {
    fn empty(&self) -> Result<(), RootfsError> {
        let _one_at_a_time = lock(&self.emptying);
        let act = || format!("emptying {}", self.dir.display());
        for entry in fs::read_dir(&self.dir).act(act)? {
            remove::remove_tree(&entry.act(act)?.path())?;
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some((wake, thread)) = self.sweeper.take() {
            drop(wake);
            let _ = thread.join();
        }
    }
}

/// What a damaged meta.json must not exceed, so that sizes can be added: 1 EiB.
const MAX_BYTES: u64 = 1 << 60;

/// Whether the files of a layer are there, as long as they were.
fn check(path: &Path) -> Result<Meta, String> {
    let text = fs::read(path.join("meta.json")).map_err(|e| format!("reading meta.json: {e}"))?;
    let meta: Meta = serde_json::from_slice(&text).map_err(|e| format!("reading meta.json: {e}"))?;
    if meta.version != Meta::VERSION {
        return Err(format!("meta.json has version {}; this agent knows {}", meta.version, Meta::VERSION));
    }
    if meta.tar_bytes > MAX_BYTES || meta.index_bytes > MAX_BYTES {
        return Err(format!("meta.json says {} and {} bytes, which no file has", meta.tar_bytes, meta.index_bytes));
    }
    let is = |name: &str, bytes: u64| match fs::symlink_metadata(path.join(name)) {
        Ok(m) if m.is_file() && m.len() == bytes => Ok(()),
        Ok(m) => Err(format!("{name} has {} bytes instead of {bytes}", m.len())),
        Err(e) => Err(format!("{name}: {e}")),
    };
    match meta.form {
        Form::Erofs => {
            is("layer.tar", meta.tar_bytes.next_multiple_of(512))?;
            is("layer.erofs", meta.index_bytes)?;
        }
        Form::Directory => match fs::symlink_metadata(path.join("tree")) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => return Err("tree is no folder".into()),
            Err(e) => return Err(format!("tree: {e}")),
        },
    }
    Ok(meta)
}

/// False: there was no room to try it.
fn erofs_works(dir: &Path) -> std::io::Result<bool> {
    match erofs::probe(dir) {
        Err(e) if berth_sys::fs::is_disk_full(&e) => Ok(false),
        tried => tried.map(|()| true),
    }
}

impl LayerStore {
    /// Opens (or makes) the store in `dir`, removes what earlier processes left half done. One process at a time.
    ///
    /// # Errors
    /// [`RootfsError::ErofsUnsupported`] when EROFS is asked for and the kernel cannot.
    pub fn open(dir: &Path, driver: Driver) -> Result<Self, RootfsError> {
        for name in ["layers/sha256", "layers/sha512", "ingest", "trash", "empty", "mounts"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).act(|| format!("making {}", path.display()))?;
        }
        // A full disk says nothing of what the kernel can.
        let tried = if driver == Driver::Directory { Ok(false) } else { erofs_works(dir) };
        let form = match (driver, tried) {
            (Driver::Directory, _) => Some(Form::Directory),
            (_, Ok(works)) => works.then_some(Form::Erofs),
            (Driver::Erofs, Err(reason)) => return Err(RootfsError::ErofsUnsupported(reason)),
            (Driver::Auto, Err(reason)) => {
                tracing::info!(%reason, "the kernel cannot mount erofs from files: layers are kept as directories");
                Some(Form::Directory)
            }
        };
        let mut layers = HashMap::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = dir.join("layers").join(algorithm.name());
            let act = || format!("reading {}", folder.display());
            for entry in fs::read_dir(&folder).act(act)? {
                let entry = entry.act(act)?;
                let hex = entry.file_name();
                let Ok(digest) = format!("{}:{}", algorithm.name(), hex.to_string_lossy()).parse::<Digest>() else {
                    tracing::warn!(path = %entry.path().display(), "not a layer: left alone");
                    continue;
                };
                let state = match check(&entry.path()) {
                    Ok(meta) => State::Good(meta),
                    Err(problem) => {
                        tracing::warn!(layer = %digest, problem, "a layer is damaged");
                        State::Damaged(problem)
                    }
                };
                layers.insert(digest, state);
            }
        }
        let form = form.unwrap_or_else(|| {
            let erofs = |state: &State| matches!(state, State::Good(meta) if meta.form == Form::Erofs);
            if driver == Driver::Erofs || layers.values().any(erofs) { Form::Erofs } else { Form::Directory }
        });
        let trash = Arc::new(Trash { dir: dir.join("trash"), emptying: Mutex::new(()) });
        // Woken by a send, ended by the sender's drop; wake-ups while it works come to one.
        let (wake, woken) = mpsc::sync_channel::<()>(1);
        let sweeper = {
            let trash = Arc::clone(&trash);
            let run = move || {
                while woken.recv().is_ok() {
                    // What is removed together is renamed before the disk is busy with giving space back.
                    let until = Instant::now() + TOGETHER;
                    while woken.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
                    if let Err(error) = trash.empty() {
                        tracing::warn!(%error, "removed layers still take space");
                    }
                }
            };
            std::thread::Builder::new()
                .name("layer-trash".into())
                .spawn(run)
                .act(|| "starting the trash thread".into())?
        };
        let inner = Inner {
            dir: dir.to_owned(),
            form,
            layers: Mutex::new(layers),
            lowers: Lowers::new(dir)?,
            next: AtomicU64::new(0),
            trash,
            sweeper: Some((wake, sweeper)),
        };
        let store = LayerStore { inner: Arc::new(inner) };
        let ingest = dir.join("ingest");
        let act = || format!("reading {}", ingest.display());
        for entry in fs::read_dir(&ingest).act(act)? {
            store.throw_away(&entry.act(act)?.path())?;
        }
        store.wake_sweeper();
        Ok(store)
    }

    /// `erofs` or `directory`: what new layers become. Layers of both kinds are served.
    pub fn driver_name(&self) -> &'static str {
        match self.inner.form {
            Form::Erofs => "erofs",
            Form::Directory => "directory",
        }
    }

    /// Whether overlayfs takes layers by descriptor (Linux 6.13; detached ones 6.15). None: not known before the first mount.
    pub fn layers_by_descriptor(&self) -> Option<bool> {
        self.lowers().by_descriptor()
    }

    pub(crate) fn form(&self) -> Form {
        self.inner.form
    }

    pub(crate) fn lowers(&self) -> &Lowers {
        &self.inner.lowers
    }

    /// `None`: not there, or damaged; a new commit replaces a damaged one. Its files are looked at, so that a pull mends what was lost.
    pub fn get(&self, diff_id: &Digest) -> Option<LayerInfo> {
        let (_, meta) = self.find(diff_id).ok()?;
        Some(LayerInfo { diff_id: diff_id.clone(), tar_bytes: meta.tar_bytes })
    }

    /// Whether all of `layers` are mounted now, for some root or from the last one. Does not block.
    pub fn are_mounted(&self, layers: &[Digest]) -> bool {
        layers.iter().all(|d| self.inner.lowers.is_mounted(d))
    }

    /// Whether all of `layers` can be mounted: the files are looked at of those that are not mounted now (four calls a layer).
    ///
    /// # Errors
    /// [`RootfsError::Missing`] or [`RootfsError::Damaged`] for the first one that cannot.
    pub fn check(&self, layers: &[Digest]) -> Result<(), RootfsError> {
        for diff_id in layers.iter().filter(|d| !self.inner.lowers.is_mounted(d)) {
            self.find(diff_id)?;
        }
        Ok(())
    }

    /// All good layers, in the order of their digests.
    pub fn list(&self) -> Result<Vec<LayerInfo>, RootfsError> {
        let layers = lock(&self.inner.layers);
        let mut list: Vec<LayerInfo> = layers
            .iter()
            .filter_map(|(diff_id, state)| match state {
                State::Good(meta) => Some(LayerInfo { diff_id: diff_id.clone(), tar_bytes: meta.tar_bytes }),
                State::Damaged(_) => None,
            })
            .collect();
        list.sort_by(|a, b| a.diff_id.cmp(&b.diff_id));
        Ok(list)
    }

    /// Layers that were found damaged at open or at a mount, with what is wrong.
    pub fn damaged(&self) -> Vec<(Digest, String)> {
        let layers = lock(&self.inner.layers);
        let damaged = layers.iter().filter_map(|(d, s)| match s {
            State::Damaged(problem) => Some((d.clone(), problem.clone())),
            State::Good(_) => None,
        });
        damaged.collect()
    }

    /// Reads a layer (blocking, all of it): the tar goes to `tar`, for its digest is its name; and the index is made anew and compared.
    ///
    /// # Errors
    /// [`RootfsError::Damaged`] when the files are not what was written; [`RootfsError::Missing`]; and what reading gives.
    pub fn read_whole(&self, diff_id: &Digest, tar: &mut dyn FnMut(&[u8])) -> Result<Whole, RootfsError> {
        let (path, meta) = self.find(diff_id)?;
        if meta.form == Form::Directory {
            return Ok(Whole::Unpacked);
        }
        let damaged = |problem: String| RootfsError::Damaged { layer: diff_id.to_string(), problem };
        let file = path.join("layer.tar");
        let act = || format!("reading {}", file.display());
        let source = fs::File::open(&file).act(act)?;
        let (mut parser, mut tree) = (Parser::new(), Tree::new());
        let (mut buffer, mut left) = (vec![0; 1 << 20], meta.tar_bytes);
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = (&source).read(&mut buffer[..want]).act(act)?;
            if got == 0 {
                return Err(damaged("layer.tar is too short".into()));
            }
            left -= got as u64;
            tar(&buffer[..got]);
            parser.push(&buffer[..got], &mut tree).map_err(|e| damaged(format!("layer.tar: {e}")))?;
        }
        parser.finish().map_err(|e| damaged(format!("layer.tar: {e}")))?;
        let (_, ingest) = self.make_ingest()?;
        let made = same_index(&ingest, &tree, &source, &meta, &path.join("layer.erofs"));
        self.discard(&ingest);
        if made? { Ok(Whole::Read) } else { Err(damaged("layer.erofs is not the index of layer.tar".into())) }
    }

    /// The uncompressed tar of a layer, byte for byte, to send or to save it. `None`: it is kept as a directory.
    pub fn tar(&self, diff_id: &Digest) -> Result<Option<fs::File>, RootfsError> {
        let (path, meta) = self.find(diff_id)?;
        if meta.form == Form::Directory {
            return Ok(None);
        }
        let path = path.join("layer.tar");
        Ok(Some(fs::File::open(&path).act(|| format!("opening {}", path.display()))?))
    }

    /// Starts a layer; its uncompressed tar is written in order, then `commit`. Dropped uncommitted, it is gone.
    pub fn writer(&self) -> Result<LayerWriter, RootfsError> {
        LayerWriter::new(self.clone())
    }

    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.inner.dir.join("layers").join(diff_id.algorithm().name()).join(diff_id.hex())
    }

    /// Where a layer lies; an error names it when it is not there or damaged. Its files are looked at again.
    pub(crate) fn find(&self, diff_id: &Digest) -> Result<(PathBuf, Meta), RootfsError> {
        let path = self.layer_path(diff_id);
        let mut layers = lock(&self.inner.layers);
        let state = layers.get_mut(diff_id).ok_or_else(|| RootfsError::Missing(diff_id.clone()))?;
        match check(&path) {
            Ok(meta) => {
                *state = State::Good(meta.clone());
                Ok((path, meta))
            }
            Err(problem) => {
                *state = State::Damaged(problem.clone());
                Err(RootfsError::Damaged { layer: diff_id.to_string(), problem })
            }
        }
    }

    /// Removes a layer that no image or container refers to. Gone already is fine. One rename; the space comes back a little later (see
    /// [`LayerStore::settle`]). Gives the bytes of the files.
    pub fn remove(&self, diff_id: &Digest) -> Result<u64, RootfsError> {
        self.inner.lowers.forget(diff_id);
        let mut layers = lock(&self.inner.layers);
        let path = self.layer_path(diff_id);
        let bytes = match layers.get(diff_id) {
            None => return Ok(0),
            Some(State::Good(meta)) => meta.tar_bytes + meta.index_bytes,
            Some(State::Damaged(_)) => 0,
        };
        self.throw_away(&path)?;
        layers.remove(diff_id);
        drop(layers);
        self.wake_sweeper();
        Ok(bytes)
    }

    /// Waits until what was removed has given its space back (but for what mounts still hold).
    pub fn settle(&self) -> Result<(), RootfsError> {
        self.inner.trash.empty()
    }

    /// Makes a fresh folder in `ingest/`.
    pub(crate) fn make_ingest(&self) -> Result<(OsString, PathBuf), RootfsError> {
        let name: OsString = self.inner.next.fetch_add(1, Ordering::Relaxed).to_string().into();
        let path = self.inner.dir.join("ingest").join(&name);
        fs::create_dir(&path).act(|| format!("making {}", path.display()))?;
        Ok((name, path))
    }

    /// Drops a folder of `ingest/`. Failing that, the next open does it.
    pub(crate) fn discard(&self, path: &Path) {
        match self.throw_away(path) {
            Ok(()) => self.wake_sweeper(),
            Err(error) => tracing::warn!(%error, "a half written layer stays until the next start"),
        }
    }

    fn wake_sweeper(&self) {
        if let Some((wake, _)) = &self.inner.sweeper {
            // Full: it is about to look anyway.
            let _ = wake.try_send(());
        }
    }

    /// Moves a folder into the trash.
    fn throw_away(&self, path: &Path) -> Result<(), RootfsError> {
        loop {
            // Numbers of an earlier process may still be there.
            let name = self.inner.next.fetch_add(1, Ordering::Relaxed).to_string();
            match rename_new(path, &self.inner.trash.dir.join(name)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => return other.act(|| format!("removing {}", path.display())),
            }
        }
    }

    /// Makes a whole folder of `ingest/` the layer.
    pub(crate) fn publish(&self, from: &Path, diff_id: &Digest, meta: Meta) -> Result<(), RootfsError> {
        let path = self.layer_path(diff_id);
        let act = || format!("committing layer {diff_id}");
        // Before the lock: a mount that is being made holds its own lock while it looks here.
        self.inner.lowers.forget(diff_id);
        let mut layers = lock(&self.inner.layers);
        if matches!(layers.get(diff_id), Some(State::Good(_))) {
            drop(layers);
            self.discard(from);
            return Ok(());
        }
        if let Err(e) = rename_new(from, &path) {
            if e.kind() != io::ErrorKind::AlreadyExists {
                return Err(e).act(act);
            }
            // A damaged one.
            self.throw_away(&path)?;
            rename_new(from, &path).act(act)?;
        }
        let parent = fs::File::open(path.parent().unwrap_or(&path)).act(act)?;
        parent.sync_all().act(act)?;
        layers.insert(diff_id.clone(), State::Good(meta));
        Ok(())
    }
}

/// Whether the index at `there` is what is made of the tar.
fn same_index(ingest: &Path, tree: &Tree, tar: &fs::File, meta: &Meta, there: &Path) -> Result<bool, RootfsError> {
    let fresh = ingest.join("layer.erofs");
    let act = || format!("making {}", fresh.display());
    let file = fs::File::options().create_new(true).read(true).write(true).open(&fresh).act(act)?;
    erofs::write_index(tree, tar, meta.tar_bytes.next_multiple_of(512), &file).map_err(|e| match e {
        erofs::IndexError::Io(source) => RootfsError::Io { act: act(), source },
        erofs::IndexError::Layer(problem) => {
            RootfsError::Io { act: act(), source: io::Error::other(problem.to_string()) }
        }
    })?;
    let mut new = io::BufReader::new(fs::File::open(&fresh).act(act)?);
    let mut old = io::BufReader::new(fs::File::open(there).act(|| format!("reading {}", there.display()))?);
    loop {
        let (a, b) = (new.fill_buf().act(act)?, old.fill_buf().act(|| format!("reading {}", there.display()))?);
        let n = a.len().min(b.len());
        if n == 0 {
            return Ok(a.len() == b.len());
        }
        if a[..n] != b[..n] {
            return Ok(false);
        }
        new.consume(n);
        old.consume(n);
    }
}

/// A rename that replaces nothing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let cwd = sysfs::open(".", Open::PATH | Open::DIRECTORY, 0)?;
    sysfs::renameat2(cwd.as_fd(), from, cwd.as_fd(), to, true)
}
