//! Where a tar comes from that is sent in parts, and what is known again of it.

use super::{PIECE, QUEUE};
use aws_lc_rs::digest::{Context, SHA256};
use berth::hex;
use bytes::Bytes;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Files that are smaller are sent again in the time that it takes to look what has arrived. The agent's parts are half of it.
const WORTH_KEEPING: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub(super) enum Source {
    Stdin,
    File(PathBuf),
}

impl Source {
    /// Errors are about this.
    pub fn reading(&self) -> String {
        match self {
            Source::Stdin => "reading standard input".to_owned(),
            Source::File(path) => format!("reading {}", path.display()),
        }
    }

    /// Its pieces from the beginning, empty bytes last. Read by a thread of its own: nobody waits at the end for one that waits for a pipe.
    pub fn read(&self) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
        let mut from: Box<dyn Read + Send> = match self {
            Source::Stdin => Box::new(io::stdin()),
            Source::File(path) => Box::new(File::open(path)?),
        };
        let (send, receive) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("read".into()).spawn(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = match from.read(&mut piece) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let item = read.map(|n| {
                    piece.truncate(n);
                    Bytes::from(piece)
                });
                let last = !matches!(&item, Ok(piece) if !piece.is_empty());
                if send.blocking_send(item).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(receive)
    }
}

/// What a file is known again by, when this program was ended in the middle; `None`: it is none, or too small to be kept. That it may have been changed
/// nevertheless is seen by the digest at the end.
pub(super) fn key(path: &Path) -> io::Result<Option<String>> {
    let file = std::fs::metadata(path)?;
    if !file.is_file() {
        return Ok(None);
    }
    let meta = File::open(path)?.metadata()?;
    Ok((meta.is_file() && meta.len() >= WORTH_KEEPING).then(|| key_of(&meta)))
}

fn key_of(meta: &Metadata) -> String {
    let mut hash = Context::new(&SHA256);
    for part in [meta.dev(), meta.ino(), meta.len()] {
        hash.update(&part.to_le_bytes());
    }
    for part in [meta.mtime(), meta.mtime_nsec()] {
        hash.update(&part.to_le_bytes());
    }
    hex::encode(hash.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_file_is_known_again_until_it_is_another() {
        let path = std::env::temp_dir().join(format!("berthctl-import-key-{}", std::process::id()));
        let file = File::create(&path).expect("make");
        file.set_len(WORTH_KEEPING - 1).expect("length");
        assert_eq!(key(&path).expect("small"), None);
        file.set_len(WORTH_KEEPING).expect("length");
        let first = key(&path).expect("a key");
        assert!(first.as_ref().is_some_and(|k| k.len() == 64), "{first:?}");
        assert_eq!(key(&path).expect("again"), first);
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(7)).expect("time");
        assert_ne!(key(&path).expect("later"), first);
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(key(Path::new("/dev/null")).expect("no file"), None);
        key(&path).expect_err("gone");
    }
}
