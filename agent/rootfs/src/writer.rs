//! Taking in one layer.

use crate::erofs::{self, IndexError};
use crate::error::{Act, RootfsError};
use crate::store::{Form, LayerInfo, LayerStore, Meta};
use crate::tar::{Parser, TarError};
use crate::tree::Tree;
use crate::unpack::unpack;
use berth_model::Digest;
use berth_sys::fs::{self as sysfs, Open};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes written at once.
const PIECE: usize = 1 << 20;
/// What comes behind these bytes of a tar goes past the page cache, which a huge layer would sweep empty for everybody. Up to here it stays
/// there: a container that starts behind its pull reads it at once. (Pulls of 1.1 GB in eight layers took the same time either way.)
const CACHED: u64 = 256 << 20;
/// What `O_DIRECT` asks of addresses in memory, at most.
const ALIGN: usize = 4096;

/// Memory that begins at a multiple of [`ALIGN`] and is filled from its start.
struct Piece {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Piece {
    fn new() -> Self {
        let memory = vec![0; PIECE + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Piece { memory, start, length: 0 }
    }

    /// Takes as many of `bytes` as there is room for, gives the rest.
    fn take<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.length));
        let at = self.start + self.length;
        self.memory[at..at + now.len()].copy_from_slice(now);
        self.length += now.len();
        later
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

/// Takes one uncompressed tar stream, hostile or not. Dropped uncommitted, it leaves nothing.
pub struct LayerWriter {
    store: LayerStore,
    /// The folder in `ingest/`; empty once committed.
    name: OsString,
    path: PathBuf,
    tar: File,
    /// The same file past the page cache, where the file system can and it is never read here.
    direct: Option<File>,
    piece: Piece,
    written: u64,
    parser: Parser,
    tree: Tree,
}

impl LayerWriter {
    pub(crate) fn new(store: LayerStore) -> Result<Self, RootfsError> {
        let (name, path) = store.make_ingest()?;
        let act = || format!("making {}", path.join("layer.tar").display());
        let flags = Open::RDWR | Open::CREATE | Open::EXCL;
        let tar = match sysfs::open(path.join("layer.tar"), flags, 0o600).act(act) {
            Ok(fd) => File::from(fd),
            Err(e) => {
                store.discard(&path);
                return Err(e);
            }
        };
        let direct = match store.form() {
            Form::Erofs => sysfs::open(path.join("layer.tar"), Open::WRONLY | Open::DIRECT, 0).ok().map(File::from),
            Form::Directory => None,
        };
        Ok(LayerWriter {
            store,
            name,
            path,
            tar,
            direct,
            piece: Piece::new(),
            written: 0,
            parser: Parser::new(),
            tree: Tree::new(),
        })
    }

    /// The next bytes of the tar.
    ///
    /// # Errors
    /// A malformed or hostile tar, as soon as it is seen; a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RootfsError> {
        self.parser.push(bytes, &mut self.tree)?;
        let mut bytes = self.piece.take(bytes);
        while self.piece.length == PIECE {
            self.flush()?;
            bytes = self.piece.take(bytes);
        }
        Ok(())
    }

    /// Writes what was gathered.
    fn flush(&mut self) -> Result<(), RootfsError> {
        let bytes = self.piece.bytes();
        if self.written >= CACHED
            && bytes.len() == PIECE
            && let Some(direct) = &self.direct
            && direct.write_all_at(bytes, self.written).is_err()
        {
            // Some file systems take the flag and not the write. A full disk says so again.
            self.direct = None;
        }
        if self.written < CACHED || bytes.len() < PIECE || self.direct.is_none() {
            let act = || format!("writing {}", self.path.join("layer.tar").display());
            self.tar.write_all_at(bytes, self.written).act(act)?;
            // Only a push, so that the commit waits for little: errors of the disk come with its sync.
            let _ = sysfs::start_writeback(self.tar.as_fd(), self.written, bytes.len() as u64);
        }
        self.written += bytes.len() as u64;
        self.piece.length = 0;
        Ok(())
    }

    /// The caller has checked that the stream's digest is `diff_id`. Data, fsync, rename, fsync of the folder.
    /// When another writer has committed the same layer meanwhile, this one is dropped quietly.
    pub fn commit(mut self, diff_id: &Digest) -> Result<LayerInfo, RootfsError> {
        self.flush()?;
        self.parser.finish()?;
        let info = LayerInfo { diff_id: diff_id.clone(), tar_bytes: self.written };
        if let Some(there) = self.store.get(diff_id) {
            return Ok(there);
        }
        let meta = match self.store.form() {
            Form::Erofs => self.index()?,
            Form::Directory => self.unpack()?,
        };
        let meta_path = self.path.join("meta.json");
        let act = || format!("writing {}", meta_path.display());
        let mut file = File::create_new(&meta_path).act(act)?;
        file.write_all(&serde_json::to_vec(&meta).map_err(std::io::Error::from).act(act)?).act(act)?;
        file.sync_all().act(act)?;
        let folder = File::open(&self.path).act(|| format!("opening {}", self.path.display()))?;
        folder.sync_all().act(|| format!("syncing {}", self.path.display()))?;
        self.store.publish(&self.path, diff_id, meta)?;
        self.name.clear();
        Ok(info)
    }

    fn index(&mut self) -> Result<Meta, RootfsError> {
        let path = self.path.join("layer.erofs");
        let act = || format!("writing {}", path.display());
        // A tar without its last padding: EROFS reads whole blocks.
        let tar_bytes = self.written.next_multiple_of(512);
        if tar_bytes != self.written {
            self.tar.set_len(tar_bytes).act(|| format!("padding {}", self.path.join("layer.tar").display()))?;
        }
        let _ = sysfs::start_writeback(self.tar.as_fd(), 0, 0);
        let flags = Open::RDWR | Open::CREATE | Open::EXCL;
        let index = File::from(sysfs::open(&path, flags, 0o600).act(act)?);
        erofs::write_index(&self.tree, &self.tar, tar_bytes, &index).map_err(|e| match e {
            IndexError::Io(source) => RootfsError::Io { act: act(), source },
            IndexError::Layer(problem) => TarError { entry: String::new(), offset: self.written, problem }.into(),
        })?;
        let index_bytes = index.metadata().act(act)?.len();
        let _ = sysfs::start_writeback(index.as_fd(), 0, 0);
        self.tar.sync_data().act(|| format!("syncing {}", self.path.join("layer.tar").display()))?;
        index.sync_data().act(|| format!("syncing {}", path.display()))?;
        Ok(Meta {
            version: Meta::VERSION,
            form: Form::Erofs,
            tar_bytes: self.written,
            index_bytes,
            opaque_root: self.opaque_root(),
        })
    }

    fn opaque_root(&self) -> bool {
        self.tree.inode(crate::tree::ROOT).opaque
    }

    fn unpack(&mut self) -> Result<Meta, RootfsError> {
        let path = self.path.join("tree");
        let act = || format!("making {}", path.display());
        std::fs::create_dir(&path).act(act)?;
        let root = sysfs::open(&path, Open::DIRECTORY, 0).act(act)?;
        unpack(&self.tree, &self.tar, root.as_fd())?;
        std::fs::remove_file(self.path.join("layer.tar")).act(|| "removing the unpacked tar".into())?;
        // Thousands of files: one sync of the file system costs less than one of each.
        sysfs::syncfs(root.as_fd()).act(|| format!("syncing {}", path.display()))?;
        Ok(Meta {
            version: Meta::VERSION,
            form: Form::Directory,
            tar_bytes: self.written,
            index_bytes: 0,
            opaque_root: self.opaque_root(),
        })
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            self.store.discard(&self.path);
        }
    }
}
