//! Layer stores and overlay root file systems.
//!
//! Everything blocks: call it from a blocking thread. CONTRACT (skeleton to be filled; signatures may grow).
#![forbid(unsafe_code)]
#![allow(clippy::todo, unused_variables, dead_code)]

use berth_model::Digest;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Driver {
    /// EROFS where the kernel can, else directories.
    #[default]
    Auto,
    Erofs,
    Directory,
}

#[derive(Clone, Debug)]
pub struct LayerInfo {
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
}

/// All layers of a node, by diff_id. Cheap to clone.
#[derive(Clone)]
pub struct LayerStore {}

impl LayerStore {
    /// Opens (or makes) the store in `dir`, removes what earlier processes left half done.
    pub fn open(dir: &Path, driver: Driver) -> Result<Self, RootfsError> {
        todo!()
    }
    /// `erofs` or `directory`: what new layers become. Layers of both kinds are served.
    pub fn driver_name(&self) -> &'static str {
        todo!()
    }
    pub fn get(&self, diff_id: &Digest) -> Option<LayerInfo> {
        todo!()
    }
    /// Starts a layer; its uncompressed tar is written in order, then `commit`. Dropped uncommitted, it is gone.
    pub fn writer(&self) -> Result<LayerWriter, RootfsError> {
        todo!()
    }
    /// Removes a layer that no image or container refers to. Gone already is fine. Must be fast (rename, then unlink).
    pub fn remove(&self, diff_id: &Digest) -> Result<u64, RootfsError> {
        todo!()
    }
    pub fn list(&self) -> Result<Vec<LayerInfo>, RootfsError> {
        todo!()
    }
    /// Mounts (or shares the cached detached mounts of) `layers`, bottom first, and makes the overlay mount: a detached mount fd,
    /// never visible in the host's mount table.
    pub fn mount(
        &self,
        layers: &[Digest],
        upper: &WritableLayer,
        options: MountOptions,
    ) -> Result<RootMount, RootfsError> {
        todo!()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct MountOptions {
    /// overlay's `volatile`: no sync at umount; for writes that are thrown away (auto-remove).
    pub volatile: bool,
}

/// Takes one uncompressed tar stream, hostile or not.
pub struct LayerWriter {}

impl LayerWriter {
    /// The next bytes of the tar.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RootfsError> {
        todo!()
    }
    /// The caller has checked that the stream's digest is `diff_id`. Data, fsync, rename, fsync of the folder.
    /// When another writer has committed the same layer meanwhile, this one is dropped quietly.
    pub fn commit(self, diff_id: &Digest) -> Result<LayerInfo, RootfsError> {
        todo!()
    }
}

/// The folders of a container's own writes: `upper` and `work` inside a folder of the caller's.
#[derive(Clone, Debug)]
pub struct WritableLayer {}

impl WritableLayer {
    /// Makes `dir/upper` and `dir/work`.
    pub fn create(dir: &Path) -> Result<Self, RootfsError> {
        todo!()
    }
    pub fn open(dir: &Path) -> Result<Self, RootfsError> {
        todo!()
    }
    pub fn upper(&self) -> &Path {
        todo!()
    }
}

/// A mounted root: drop unmounts (when no namespace holds it).
pub struct RootMount {}

impl RootMount {
    /// For the shim: a duplicate of the detached mount's fd.
    pub fn fd(&self) -> Result<OwnedFd, RootfsError> {
        todo!()
    }
    /// A file inside the root (symlinks resolved inside it, never out: RESOLVE_IN_ROOT), at most `max` bytes. None: not there.
    pub fn read(&self, path: &str, max: usize) -> Result<Option<Vec<u8>>, RootfsError> {
        todo!()
    }
}

/// Removes a folder tree that a container wrote (deep, odd names, immutable flags): never follows links, never leaves `dir`.
pub fn remove_tree(dir: &Path) -> Result<(), RootfsError> {
    todo!()
}
