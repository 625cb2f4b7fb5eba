//! Files of this machine, as sources and destinations of copies. What an agent sends is written below the destination and nowhere else,
//! whatever it sends.

use crate::error::{Error, Result, io_words};
use berth::v1;
use berth_sys::fs::{self as sysfs, Open};
use berth_tar::{Extractor, Found, Owner, Packer, Packing, Place, Rules, Top, place};
use bytes::Bytes;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Bytes of one piece.
const PIECE: usize = 128 << 10;

/// What is copied into a container.
#[derive(Debug, Clone)]
pub enum Source {
    /// A tar on standard input.
    Stdin,
    Path {
        path: PathBuf,
        name: Vec<u8>,
        kind: v1::CopySource,
        follow: bool,
    },
}

impl Source {
    /// `None`: standard input.
    pub fn look(path: Option<&Path>, follow_link: bool) -> Result<Source> {
        let Some(path) = path else { return Ok(Source::Stdin) };
        let text = path.as_os_str().as_bytes();
        let is = |end: &[u8]| text == end || text.ends_with(&[b"/", end].concat());
        let contents = is(b".") || is(b"..");
        let follow = follow_link || contents || text.ends_with(b"/");
        let looked = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let meta = looked.map_err(|e| Error::io(path.display(), &e))?;
        if !meta.is_dir() && (contents || text.ends_with(b"/")) {
            return Err(Error::new(format!("{}: it is no folder", path.display())));
        }
        let kind = match (meta.is_dir(), contents) {
            (true, true) => v1::CopySource::Contents,
            (true, false) => v1::CopySource::Folder,
            (false, _) => v1::CopySource::File,
        };
        let name = match path.file_name() {
            Some(name) if kind != v1::CopySource::Contents => name.as_bytes().to_vec(),
            // `/` has no name of its own.
            _ => {
                return Ok(Source::Path {
                    path: path.into(),
                    name: Vec::new(),
                    kind: v1::CopySource::Contents,
                    follow,
                });
            }
        };
        Ok(Source::Path { path: path.into(), name, kind, follow })
    }

    pub fn kind(&self) -> v1::CopySource {
        match self {
            Source::Stdin => v1::CopySource::Archive,
            Source::Path { kind, .. } => *kind,
        }
    }

    /// First part of every name in the tar; empty where it has none of its own.
    pub fn name(&self) -> &[u8] {
        match self {
            Source::Stdin => b"",
            Source::Path { name, .. } => name,
        }
    }

    /// Sends it as a tar, piece by piece; `send` says false when nobody takes them any more. Blocks.
    pub fn read(self, send: &dyn Fn(Bytes) -> bool) -> Result<()> {
        let gone = || Error::silent(1);
        match self {
            Source::Stdin => {
                let mut stdin = io::stdin().lock();
                loop {
                    let mut piece = Vec::with_capacity(PIECE);
                    let n = stdin.by_ref().take(PIECE as u64).read_to_end(&mut piece);
                    if n.map_err(|e| Error::io("reading standard input", &e))? == 0 {
                        return Ok(());
                    }
                    if !send(piece.into()) {
                        return Err(gone());
                    }
                }
            }
            Source::Path { path, name, kind, follow } => {
                let flags = if follow { Open::PATH } else { Open::PATH | Open::NOFOLLOW };
                let object = sysfs::open(&path, flags, 0).map_err(|e| Error::io(path.display(), &e))?;
                let name = if kind == v1::CopySource::Contents { b".".to_vec() } else { name };
                let nobody_asks = || Ok(());
                let out = io::BufWriter::with_capacity(PIECE, Sender(send));
                let mut packer = Packer::new(out, Packing::default(), &nobody_asks);
                let packed = packer.add(object.as_fd(), &name).and_then(|()| packer.finish().map(drop));
                packed.map_err(|e| match e.kind() {
                    io::ErrorKind::BrokenPipe => gone(),
                    _ => Error::new(format!("reading {}: {}", path.display(), io_words(&e))),
                })
            }
        }
    }
}

struct Sender<'a>(&'a dyn Fn(Bytes) -> bool);

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(2 * PIECE)];
        if (self.0)(Bytes::copy_from_slice(piece)) { Ok(piece.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where what comes out of a container goes.
#[derive(Debug)]
pub struct Destination {
    base: OwnedFd,
    top: Top,
    shown: String,
}

impl Destination {
    /// Finds the place, by Docker's rules.
    pub fn find(path: &Path, start: &v1::CopyFromStart) -> Result<Destination> {
        let source = match start.source() {
            v1::CopySource::File => berth_tar::Source::File,
            v1::CopySource::Folder => berth_tar::Source::Folder,
            v1::CopySource::Contents => berth_tar::Source::Contents,
            _ => return Err(Error::new("the agent did not say what it sends")),
        };
        let from = if source == berth_tar::Source::Contents { b".".to_vec() } else { start.name.to_vec() };
        let good = source == berth_tar::Source::Contents
            || !matches!(&from[..], b"" | b"." | b"..") && !from.iter().any(|b| matches!(b, 0 | b'/'));
        if !good {
            return Err(Error::new("the agent sends a file whose name is none"));
        }
        let shown = path.display().to_string();
        let text = path.as_os_str().as_bytes();
        let wants_folder = text.ends_with(b"/") || text.ends_with(b"/.") || text == b".";
        let found = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Found::Folder,
            Ok(_) => Found::File,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Found::Missing,
            Err(e) => return Err(Error::io(&shown, &e)),
        };
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            sysfs::open(path, Open::PATH | Open::DIRECTORY, 0).map_err(|e| Error::io(path.display(), &e))
        };
        let (base, to) = match place(source, found, wants_folder).map_err(|e| Error::new(format!("{shown}: {e}")))? {
            Place::Into => (open(path)?, from.clone()),
            Place::As => {
                // A link that is overwritten is followed, as a shell would.
                let real = if found == Found::File { fs::canonicalize(path).ok() } else { None };
                let path = real.as_deref().unwrap_or(path);
                let name = path.file_name().map(OsStr::as_bytes);
                let name = name.ok_or_else(|| Error::new(format!("{shown}: the destination folder does not exist")))?;
                (open(path.parent().unwrap_or(Path::new(".")))?, name.to_vec())
            }
        };
        Ok(Destination { base, top: Top::Renamed { from, to }, shown })
    }

    /// Writes a tar; an empty piece says that it is whole. Gives the bytes of the files and what was left out. Blocks.
    pub fn write(self, mut pieces: mpsc::Receiver<Bytes>, owner: Owner) -> Result<(u64, Vec<String>)> {
        let rules = Rules { owner, top: self.top, skip_devices: true, keep_top: false, follow: None, ids: None };
        let mut extractor = Extractor::new(self.base, rules);
        let failed = |e: berth_tar::ExtractError| match e {
            berth_tar::ExtractError::Io { entry, source } => {
                let error = Error::new(format!("writing {entry:?} to {}: {}", self.shown, io_words(&source)));
                match source.kind() {
                    io::ErrorKind::PermissionDenied if owner == Owner::Kept => error.hint("--archive needs root here"),
                    _ => error,
                }
            }
            e => Error::new(format!("the agent's archive is refused: {e}")),
        };
        loop {
            match pieces.blocking_recv() {
                None => return Err(Error::silent(1)),
                Some(piece) if piece.is_empty() => break,
                Some(piece) => extractor.push(&piece).map_err(failed)?,
            }
        }
        let done = extractor.finish().map_err(failed)?;
        Ok((done.bytes, done.skipped))
    }
}

/// Writes a tar to standard output. Gives its bytes. Blocks.
pub fn to_stdout(mut pieces: mpsc::Receiver<Bytes>) -> Result<u64> {
    let mut out = io::stdout().lock();
    let mut bytes = 0;
    while let Some(piece) = pieces.blocking_recv() {
        out.write_all(&piece).map_err(|e| Error::io("writing to stdout", &e))?;
        bytes += piece.len() as u64;
    }
    out.flush().map_err(|e| Error::io("writing to stdout", &e))?;
    Ok(bytes)
}
