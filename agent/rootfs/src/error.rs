//! What can go wrong with layers and roots.

use crate::tar::TarError;
use berth_model::Digest;
use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A call failed; [`RootfsError::disk_full`] tells the commonest reason.
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
    /// The tar itself is at fault: fetching it again does not help.
    #[error("bad layer: {0}")]
    BadLayer(#[from] TarError),
    /// The tar's tree cannot be kept on this host.
    #[error("bad layer: {0}")]
    Unkeepable(String),
    #[error("layer {0} is not in the store")]
    Missing(Digest),
    /// What is on disk is not what was committed: remove it and fetch it again.
    #[error("layer {layer} is damaged: {problem}")]
    Damaged { layer: String, problem: String },
    #[error("an image of {0} layers cannot be mounted: overlayfs takes {max} at most", max = crate::MAX_LAYERS)]
    TooManyLayers(usize),
    #[error("the erofs layer store needs Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE: {0}")]
    ErofsUnsupported(io::Error),
    #[error("{path:?} in the container's root: {problem}")]
    Unreadable { path: String, problem: String },
    #[error("{0:?} is a mount point: what is mounted there is not removed")]
    MountPoint(PathBuf),
}

impl RootfsError {
    /// No space, no inodes or no quota left.
    pub fn disk_full(&self) -> bool {
        matches!(self, RootfsError::Io { source, .. } if berth_sys::fs::is_disk_full(source))
    }

    /// It failed by how the host is at the moment: that says nothing of what the kernel can.
    pub fn of_the_moment(&self) -> bool {
        matches!(self, RootfsError::Io { source, .. } if berth_sys::fs::is_of_the_moment(source))
    }

    /// A layer is not as it was committed: fetching its image again mends it.
    pub fn lost_layer(&self) -> bool {
        matches!(self, RootfsError::Missing(_) | RootfsError::Damaged { .. })
    }

    /// The image is at fault, not this host.
    pub fn bad_layer(&self) -> bool {
        matches!(self, RootfsError::BadLayer(_) | RootfsError::Unkeepable(_))
    }
}

/// `result.act(|| "opening x")`: names the act that failed.
pub trait Act<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, RootfsError>;
}

impl<T> Act<T> for io::Result<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, RootfsError> {
        self.map_err(|source| RootfsError::Io { act: act(), source })
    }
}
