//! Room on the disk that is kept for one purpose: on a full disk, to write down that something goes which will give room.

use super::Write;
use berth_model::{ContainerId, Phase};
use berth_sys::fs as sysfs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The end of a container, its removal and the rows about it change some thirty pages of 4 KiB; several of these fit.
const BYTES: u64 = 1 << 20;
/// After it was given up, or could not be made, it is tried so often at most to make it again.
const TRY_EVERY: Duration = Duration::from_secs(5);

/// A file beside the database that has its blocks and holds nothing.
pub(super) struct Reserve {
    path: PathBuf,
    there: bool,
    tried: Option<Instant>,
}

impl Reserve {
    pub fn new(database: &Path) -> Reserve {
        let mut path = database.as_os_str().to_owned();
        path.push(".reserve");
        let path = PathBuf::from(path);
        let there = std::fs::metadata(&path).is_ok_and(|m| m.len() == BYTES);
        Reserve { path, there, tried: None }
    }

    /// Makes it where it is missing and there is room.
    pub fn keep(&mut self) {
        if self.there || self.tried.is_some_and(|at| at.elapsed() < TRY_EVERY) {
            return;
        }
        self.tried = Some(Instant::now());
        match make(&self.path) {
            Ok(()) => self.there = true,
            Err(e) => {
                tracing::debug!(path = %self.path.display(), error = %e, "keeping no room for a full disk");
                let _ = std::fs::remove_file(&self.path);
            }
        }
    }

    /// As [`Reserve::keep`], however short ago that was tried.
    pub fn keep_now(&mut self) {
        self.tried = None;
        self.keep();
    }

    /// Its room goes on under another name, without a moment in which somebody else could take it.
    pub fn become_file(&mut self, path: &Path) {
        if self.there && std::fs::rename(&self.path, path).is_ok() {
            self.there = false;
        }
    }

    /// Gives its room back. False: there was none.
    pub fn give_up(&mut self) -> bool {
        let given = std::mem::take(&mut self.there) && std::fs::remove_file(&self.path).is_ok();
        self.tried = Some(Instant::now());
        given
    }
}

fn make(path: &Path) -> io::Result<()> {
    let file = std::fs::File::create(path)?;
    match sysfs::fallocate(file.as_fd(), 0, BYTES, false) {
        // A file system that cannot reserve has to be written to.
        Err(e) if e.kind() == io::ErrorKind::Unsupported => std::fs::write(path, vec![0; BYTES as usize]),
        other => other,
    }
}

/// What is written down when something has ended or goes; nothing that could take the room for more. `phase`: of a container, as it is on
/// record. One that has ended gives its room once, at its end, and takes some with all that is changed of it later.
pub(super) fn gives_room(write: &Write, phase: impl FnOnce(&ContainerId) -> Option<Phase>) -> bool {
    match write {
        Write::PutContainer(record) => {
            matches!(record.phase, Phase::Exited | Phase::Removing)
                && phase(&record.id).is_some_and(|p| p != record.phase)
        }
        Write::DeleteContainer(_) | Write::DeleteVolume(_) | Write::DeleteImage(_) | Write::DeleteTag(_) => true,
        Write::DeleteNetwork(_) | Write::ForgetRequest(..) => true,
        _ => false,
    }
}
