//! Files that appear whole or not at all, and are never replaced by accident.

use crate::error::{Error, Result};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file that is read as a certificate, key or configuration: a thousand times what one needs.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Makes a folder (and its parents) that only its owner may enter; one that is there stays as it is.
pub fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::io(format_args!("making the folder {}", path.display()), &e))
}

/// Writes a file beside its place, brings it to the disk, and renames it there.
pub fn write_atomically(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    let act = |e: io::Error| Error::io(format_args!("writing {}", path.display()), &e);
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.join(format!(".{name}.{}", std::process::id()));
    let result = (|| {
        // A leftover of a run that was killed has our pid only by chance; its content is worth nothing.
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        File::open(folder)?.sync_all()
    })();
    if result.is_err() {
        _ = fs::remove_file(&aside);
    }
    result.map_err(act)
}

/// Moves what is at `path` aside as `NAME.old-SECONDS`; nothing there is fine.
pub fn put_aside(path: &Path, now_seconds: i64) -> Result<Option<PathBuf>> {
    let mut old = path.as_os_str().to_owned();
    old.push(format!(".old-{now_seconds}"));
    let mut old = PathBuf::from(old);
    for n in 1.. {
        if !old.exists() {
            break;
        }
        let mut next = path.as_os_str().to_owned();
        next.push(format!(".old-{now_seconds}.{n}"));
        old = PathBuf::from(next);
    }
    match fs::rename(path, &old) {
        Ok(()) => Ok(Some(old)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format_args!("moving {} aside", path.display()), &e)),
    }
}

/// Reads a text file of bounded size.
pub fn read_text(path: &Path) -> Result<String> {
    use std::io::Read;
    let act = |e: &io::Error| Error::io(format_args!("reading {}", path.display()), e);
    let file = File::open(path).map_err(|e| act(&e))?;
    // Room for all of it and one byte more: one read(2), and one that says it was all.
    let size = file.metadata().map_err(|e| act(&e))?.len().min(MAX_FILE_BYTES);
    let mut bytes = Vec::with_capacity(size as usize + 64);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| act(&e))?;
    let text =
        String::from_utf8(bytes).map_err(|_| Error::new(format!("reading {}: not UTF-8 text", path.display())))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::new(format!("reading {}: larger than {MAX_FILE_BYTES} bytes", path.display())));
    }
    Ok(text)
}

/// Reads a private key, and refuses one that others than its owner may read.
pub fn read_key(path: &Path) -> Result<String> {
    let meta = fs::metadata(path).map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))?;
    let mode = meta.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::new(format!("the key {} may be read by others (mode {mode:04o})", path.display()))
            .hint(format!("chmod 600 {}; if others had access to this machine, issue a new one", path.display())));
    }
    read_text(path)
}
