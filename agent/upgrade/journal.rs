//! `upgrade.json` in the data folder: how far an upgrade is. Whoever goes on with it (the old agent, the new one, the watcher) reads it
//! there and changes it under a lock.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The programs are being exchanged.
    Swapping,
    /// The new program is in its place and not yet confirmed.
    Trial,
    Confirmed,
    RolledBack,
}

/// The last upgrade.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Journal {
    /// The caller's request id.
    pub id: String,
    pub phase: Phase,
    pub from_version: String,
    pub to_version: String,
    /// Hexadecimal.
    pub to_sha256: String,
    /// The program's place, and the old one's.
    pub program: PathBuf,
    pub previous: PathBuf,
    pub confirm_seconds: u32,
    /// The old agent has ended; the next moment is the new one's.
    #[serde(default)]
    pub handed_over: bool,
    /// The new agent answers calls.
    #[serde(default)]
    pub serving: bool,
    /// Why the old one is back.
    #[serde(default)]
    pub reason: Option<String>,
}

impl Journal {
    /// Neither confirmed nor rolled back.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Swapping | Phase::Trial)
    }
}

/// Held while the journal and the programs' places are changed; goes with the process.
pub struct Held {
    _lock: File,
    path: PathBuf,
}

/// Waits for the lock: who has it holds it for some file operations only.
pub fn hold(data_root: &Path) -> io::Result<Held> {
    let lock = File::options().create(true).append(true).open(data_root.join("upgrade.lock"))?;
    lock.lock()?;
    Ok(Held { _lock: lock, path: path(data_root) })
}

fn path(data_root: &Path) -> PathBuf {
    data_root.join("upgrade.json")
}

/// The last upgrade, if there was one. What cannot be read counts as an error, never as none.
pub fn read(data_root: &Path) -> io::Result<Option<Journal>> {
    match fs::read(path(data_root)) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("upgrade.json: {e}"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Held {
    pub fn read(&self) -> io::Result<Option<Journal>> {
        read(self.path.parent().unwrap_or(Path::new("/")))
    }

    /// On the disk, whole, before this returns.
    pub fn write(&self, journal: &Journal) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(journal).map_err(io::Error::other)?;
        put(&self.path, &mut |file| file.write_all(&text), 0o600)
    }
}

/// Makes a file beside its place, brings it to the disk, and renames it there.
pub fn put(path: &Path, fill: &mut dyn FnMut(&mut File) -> io::Result<()>, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let aside = aside(path);
    let mut file = File::create(&aside)?;
    let written = (|| {
        fill(&mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&aside, path)?;
        sync_folder(path)
    })();
    written.inspect_err(|_| drop(fs::remove_file(&aside)))
}

/// Where a file is until it is whole: hidden, beside its place.
pub fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// Names survive a power cut when their folder is on the disk.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
