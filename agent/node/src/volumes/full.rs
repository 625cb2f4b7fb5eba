//! Whose room it was that a copy into a container had too little of.

use super::using::volumes_of;
use super::{Volume, Volumes};
use berth_model::ContainerSpec;
use berth_sys::fs::{self as sysfs, Open, Resolve};
use berth_sys::quota;
use berth_volume::{Backing, VolumeError};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// The folder of `path` in the folder `base`, or, where it is not there, `base`.
pub(crate) fn folder_of(base: BorrowedFd<'_>, path: &[u8]) -> Option<OwnedFd> {
    let above = path.iter().rposition(|b| *b == b'/').map_or(&b"."[..], |at| &path[..at.max(1)]);
    let flags = Open::RDONLY | Open::DIRECTORY | Open::NONBLOCK;
    let how = Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;
    let found = sysfs::openat2(base, OsStr::from_bytes(above), flags, 0, how);
    found.or_else(|_| sysfs::openat2(base, ".", flags, 0, how)).ok()
}

impl Volumes {
    /// The error of writing `entry`, which went to `folder`: where that is in a volume of the container with a size or a file system of its own, it
    /// is the volume that is full. `None`: it is none of them, or another error.
    pub(crate) fn full(
        &self,
        spec: &ContainerSpec,
        folder: BorrowedFd<'_>,
        (entry, error): (&str, &io::Error),
    ) -> Option<VolumeError> {
        let source = io::Error::from_raw_os_error(error.raw_os_error().filter(|_| sysfs::is_disk_full(error))?);
        let volume = self.around(spec, folder)?;
        let error = self.within(&volume, VolumeError::Io { act: format!("writing {entry:?}"), source });
        matches!(error, VolumeError::Full { .. }).then_some(error)
    }

    /// The volume of a container that a folder is in, of those whose room is not the host's.
    fn around(&self, spec: &ContainerSpec, folder: BorrowedFd<'_>) -> Option<Arc<Volume>> {
        let device = sysfs::fstat(folder).ok()?.dev;
        let project = quota::project(folder).ok().flatten();
        let is_in = |volume: &Volume| match &volume.backing {
            Backing::Quota { project: own, .. } => project == Some(*own),
            backing if backing.room().is_some() => {
                let root = self.place(volume).open().map(|root| sysfs::fstat(root.as_fd()).ok());
                root.is_ok_and(|root| root.is_some_and(|root| root.dev == device))
            }
            _ => false,
        };
        volumes_of(spec).filter_map(|(_, wanted)| self.find(&wanted.name).ok()).find(|volume| is_in(volume))
    }
}
