//! Volumes as they lie on the disk: one folder each, below the data root's `volumes`.
//!
//! Entry point: [`VolumeStore`]. `NAME/_data` holds a volume's files. With the option `size` that folder is a project with a quota, or, where the file
//! system has none, they are in a file system of their own (`NAME/disk`, ext4), which is mounted at `NAME/_fs` while somebody uses it, as are those of
//! the options `type` and `device`.
//!
//! What is half done has a name that no volume can have: `.new-…` until a volume is whole, `.gone-…` from the moment it is none any more,
//! `_fill` beside `_data` while the first files are copied. Each becomes what it is meant to be by one rename(2), behind which the folder
//! is synced; so a crash leaves a volume as it was before or as it is behind a step, and leftovers are known by their names.
//!
//! What arrives of a tar that its sender cannot send twice is kept in `.import-…` ([`Parts`]), which no step needs and time removes.
//!
//! Files of a volume are handed out as detached mounts ([`Place::tree`]); a path inside is resolved by openat2(2) below the volume's root
//! and held by its descriptor from then on, so that nobody who swaps folders for links meanwhile leads out of it (CVE-2021-25741).
//!
//! [`OwnFiles`] does the same for a container's own files where they have a limit: a project with a quota, or a file system in a file.
//!
//! What it does not do: it knows no containers and no records; who uses what is the node's to know.
#![forbid(unsafe_code)]

mod copy;
mod disk;
pub mod held;
mod options;
mod own;
mod parts;
mod place;
mod quota;
mod store;

pub use copy::{copy_tree, extractor};
pub use options::{Backing, BadOptions, Foreign, LEAST_BYTES, LimitBy, MOST_BYTES, is_of_host, without_secrets};
pub use own::{OwnFiles, OwnLimit};
pub use parts::{PART, Parts};
pub use place::{Place, tree_of};
pub use quota::{PROJECTS, close_limit, forget_limit};
pub use store::{Draft, VolumeStore};

use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
    #[error(transparent)]
    Extract(#[from] berth_tar::ExtractError),
    #[error("mkfs.ext4 is not on this host, and what has a file system of a fixed size needs it: install e2fsprogs")]
    NoMkfs,
    #[error("{bytes} bytes are to be reserved, and the disk has {free} left")]
    NoRoom { bytes: u64, free: u64 },
    #[error(
        "this host's kernel has no file system {0}: load its module (modprobe {0}), or install a kernel that has it"
    )]
    NoFileSystem(String),
    #[error("making a file system of a fixed size: {0}")]
    Mkfs(String),
    #[error("there is no {0:?} in it, or it leads out of it")]
    NoSubpath(String),
    #[error("the volume's files are not on this host's disk but where its options say: {0}")]
    Elsewhere(String),
    #[error("the volume is not empty")]
    NotEmpty,
    #[error("a size cannot be a quota in {}: {why}", dir.display())]
    NoQuota { dir: PathBuf, why: String },
    #[error("{act}: volume {volume} is full, which has {what}")]
    Full { act: String, volume: String, what: &'static str },
}

impl VolumeError {
    /// The same error of work on the files of a volume with a size or a file system of its own: when that is full, the host's disk is not.
    #[must_use]
    fn within(self, volume: &str, backing: &Backing) -> VolumeError {
        let Some(what) = backing.room() else { return self };
        let volume = volume.to_owned();
        match self {
            VolumeError::Io { act, source } if berth_sys::fs::is_disk_full(&source) => {
                VolumeError::Full { act, volume, what }
            }
            VolumeError::Extract(berth_tar::ExtractError::Io { entry, source })
                if berth_sys::fs::is_disk_full(&source) =>
            {
                VolumeError::Full { act: format!("writing {entry:?}"), volume, what }
            }
            other => other,
        }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            VolumeError::Io { source, .. } | VolumeError::Extract(berth_tar::ExtractError::Io { source, .. }) => {
                source.raw_os_error()
            }
            _ => None,
        }
    }

    /// No space, no inodes or no quota left.
    pub fn disk_full(&self) -> bool {
        match self {
            VolumeError::NoRoom { .. } => true,
            VolumeError::Io { source, .. } | VolumeError::Extract(berth_tar::ExtractError::Io { source, .. }) => {
                berth_sys::fs::is_disk_full(source)
            }
            _ => false,
        }
    }
}

/// `result.act(|| "opening x")`: names the act that failed.
trait Act<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, VolumeError>;
}

impl<T> Act<T> for io::Result<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, VolumeError> {
        self.map_err(|source| VolumeError::Io { act: act(), source })
    }
}
