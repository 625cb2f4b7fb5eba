//! A tar that arrives in pieces, over more than one call and more than one agent: what is safe of it is known at every moment.
//!
//! Parts are files that are numbered from 0. Each is synced before it gets its name, so that a crash leaves a beginning of the tar: the part that
//! was under way is sent again.

use crate::{Act, VolumeError, place::sync};
use berth_sys::fs as sysfs;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Bytes of a part. A caller keeps a few of them in memory: larger ones cost it that, smaller ones cost more syncs.
pub const PART: u64 = 8 << 20;
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
const NEW: &str = "new";

/// What has arrived of one tar.
#[derive(Debug)]
pub struct Parts {
    dir: PathBuf,
    /// Those that are safe, and their bytes.
    count: u64,
    bytes: u64,
    /// The one under way, and its bytes.
    new: Option<(File, u64)>,
}

impl Parts {
    /// Opens or makes the folder of a tar's parts.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn open(dir: PathBuf) -> Result<Parts, VolumeError> {
        let act = || format!("opening {}", dir.display());
        std::fs::DirBuilder::new().recursive(true).create(&dir).act(act)?;
        let mut parts = Parts { dir, count: 0, bytes: 0, new: None };
        while let Ok(part) = std::fs::metadata(parts.path(parts.count)) {
            parts.count += 1;
            parts.bytes += part.len();
        }
        parts.begin()?;
        Ok(parts)
    }

    /// Bytes of the tar, from its beginning, that a crash of the agent or the host leaves.
    pub fn safe(&self) -> u64 {
        self.bytes
    }

    /// The next bytes. `true`: more of them are safe now.
    ///
    /// # Errors
    /// `Io`.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, VolumeError> {
        let act = || format!("writing {}", self.dir.display());
        let Some((file, length)) = &mut self.new else {
            self.begin()?;
            return self.push(bytes);
        };
        file.write_all(bytes).act(act)?;
        *length += bytes.len() as u64;
        if *length < PART {
            return Ok(false);
        }
        self.seal()?;
        Ok(true)
    }

    /// All that was pushed is safe from here on.
    ///
    /// # Errors
    /// `Io`.
    pub fn seal(&mut self) -> Result<(), VolumeError> {
        let Some((file, length)) = self.new.take().filter(|(_, length)| *length > 0) else { return Ok(()) };
        let act = || format!("syncing {}", self.dir.display());
        sysfs::fsync(file.as_fd()).act(act)?;
        std::fs::rename(self.dir.join(NEW), self.path(self.count)).act(act)?;
        sync(&self.dir)?;
        self.count += 1;
        self.bytes += length;
        Ok(())
    }

    /// Gives all that is safe, in pieces, until `each` takes no more.
    ///
    /// # Errors
    /// `Io`.
    pub fn read(&self, mut each: impl FnMut(Vec<u8>) -> bool) -> Result<(), VolumeError> {
        for n in 0..self.count {
            let path = self.path(n);
            let act = || format!("reading {}", path.display());
            let file = File::open(&path).act(act)?;
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                (&file).take(PIECE as u64).read_to_end(&mut piece).act(act)?;
                if piece.is_empty() {
                    break;
                }
                if !each(piece) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn path(&self, n: u64) -> PathBuf {
        self.dir.join(n.to_string())
    }

    /// Begins a part; what an earlier agent left of one goes.
    fn begin(&mut self) -> Result<(), VolumeError> {
        let path = self.dir.join(NEW);
        let _ = std::fs::remove_file(&path);
        let file = File::create_new(&path).act(|| format!("making {}", path.display()))?;
        self.new = Some((file, 0));
        Ok(())
    }
}

/// Whether nothing has arrived there for so long.
pub(crate) fn is_idle(dir: &Path, age: std::time::Duration) -> bool {
    // A time ahead of now is of a clock that was set back.
    let touched = std::fs::metadata(dir).and_then(|m| m.modified());
    touched.is_ok_and(|at| at.elapsed().unwrap_or_default() >= age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_tar_arrives_over_several_agents() {
        let dir = std::env::temp_dir().join(format!("berth-parts-test-{}", std::process::id()));
        let tar: Vec<u8> = (0..PART * 2 + 12345).map(|n| (n * 7 % 251) as u8).collect();
        let mut parts = Parts::open(dir.clone()).unwrap();
        let told: Vec<bool> = tar[..PART as usize + 700].chunks(1 << 20).map(|p| parts.push(p).unwrap()).collect();
        assert_eq!(told.iter().filter(|safe| **safe).count(), 1);
        assert_eq!(parts.safe(), PART);
        // Cut off: what was under way is not there, and comes again.
        drop(parts);
        let mut parts = Parts::open(dir.clone()).unwrap();
        assert_eq!(parts.safe(), PART);
        parts.push(&tar[PART as usize..]).unwrap();
        parts.seal().unwrap();
        parts.seal().unwrap();
        assert_eq!(parts.safe(), tar.len() as u64);
        let parts = Parts::open(dir.clone()).unwrap();
        let mut back = Vec::new();
        parts
            .read(|piece| {
                back.extend_from_slice(&piece);
                true
            })
            .unwrap();
        assert!(back == tar);
        let mut pieces = 0;
        parts
            .read(|_| {
                pieces += 1;
                false
            })
            .unwrap();
        assert_eq!(pieces, 1);
        assert!(is_idle(&dir, Duration::ZERO) && !is_idle(&dir, Duration::from_secs(60)));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
