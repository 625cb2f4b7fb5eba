//! Volumes as tars: out, and in as a whole or not at all.

use super::quota::within_limits;
use super::{Volume, begin, begin_import, create, random};
use crate::node::Inner;
use crate::places::Taken;
use crate::view::Requester;
use crate::{NodeError, fail};
use berth_image::Hasher;
use berth_model::Timestamp;
use berth_model::digest::Algorithm;
use berth_model::volume::VolumeRecord;
use berth_tar::{Extracted, Packer, Packing};
use bytes::{Bytes, BytesMut};
use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes of one piece of a tar.
const PIECE: usize = 128 << 10;
/// Pieces that wait for a caller.
const QUEUE: usize = 4;
/// A caller that takes nothing for so long has forgotten the export.
const STUCK: Duration = Duration::from_secs(600);
/// What a caller has to take the last word of an agent that ends.
const LAST_WORD: Duration = Duration::from_millis(200);

/// A tar of a volume: its pieces, and the digest of all of them last.
#[derive(Debug)]
pub enum ExportItem {
    /// First, where the caller has some of it: the tar goes on behind so many bytes.
    At(u64),
    Tar(Bytes),
    Done {
        sha256: String,
        bytes: u64,
    },
}

/// What a caller has of a tar whose stream broke off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Had {
    pub bytes: u64,
    /// Of these bytes, in hexadecimal digits.
    pub sha256: String,
}

/// An import, from its caller's first frame.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ImportRequest {
    pub volume: String,
    /// Whatever is in the volume goes; else it must be empty.
    pub replace: bool,
    /// By this what has arrived in parts is known again, also in other requests; empty: by the request's id alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tar_key: String,
}

/// What a caller sends of a tar.
#[derive(Debug)]
pub enum ImportItem {
    Tar(Bytes),
    /// The tar is whole, and this is its SHA-256 in hexadecimal digits; empty: not told.
    Done {
        sha256: String,
    },
}

/// Cuts a stream into pieces, and counts and hashes it.
struct Out<'a> {
    /// As long as the stream is what the caller has: it is hashed, and goes nowhere.
    had: Option<Had>,
    /// That was something else.
    changed: &'a Cell<bool>,
    send: mpsc::Sender<Result<ExportItem, NodeError>>,
    piece: BytesMut,
    hasher: Hasher,
    bytes: u64,
    stop: CancellationToken,
    handle: tokio::runtime::Handle,
}

impl Out<'_> {
    fn give(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE)).freeze();
        self.tell(ExportItem::Tar(piece))
    }

    /// All that the caller has has gone by.
    fn compare(&self, had: &Had) -> io::Result<()> {
        if !had.sha256.eq_ignore_ascii_case(self.hasher.clone().finish().hex()) {
            self.changed.set(true);
            return Err(io::Error::other("the tar is another one"));
        }
        self.tell(ExportItem::At(had.bytes))
    }

    fn tell(&self, item: ExportItem) -> io::Result<()> {
        let sent = async {
            tokio::select! {
                sent = tokio::time::timeout(STUCK, self.send.send(Ok(item))) => matches!(sent, Ok(Ok(()))),
                // Not held up by a caller that does not read: it goes on with the next agent.
                () = self.stop.cancelled() => false,
            }
        };
        match self.handle.block_on(sent) {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the caller has gone")),
        }
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(had) = &self.had {
            let n = bytes.len().min(usize::try_from(had.bytes - self.bytes).unwrap_or(usize::MAX));
            self.hasher.update(&bytes[..n]);
            self.bytes += n as u64;
            if had.bytes == self.bytes {
                self.compare(had)?;
                self.had = None;
            }
            return Ok(n);
        }
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        if self.piece.len() >= PIECE {
            self.give()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a volume as a tar, whose first entry `./` is the volume's root. One that is in use is read while it is written. What the caller `had`
/// is made once more, and compared in the place of sent.
pub(crate) async fn export(
    inner: &Arc<Inner>,
    who: &Requester,
    name: &str,
    had: Option<Had>,
) -> Result<mpsc::Receiver<Result<ExportItem, NodeError>>, NodeError> {
    // The volume first: while it waits for a place, no other one takes its name.
    let work = begin(inner, name, "an export of it")?;
    let place = inner.copies.enter(who).await?;
    let (send, receive) = mpsc::channel(QUEUE);
    let (inner_, handle) = (inner.clone(), tokio::runtime::Handle::current());
    inner.tasks.spawn_blocking(move || {
        let _place = place;
        let packed = packed(&inner_, &work.volume, had, &send, &handle);
        drop(work);
        let patience = if inner_.stop.is_cancelled() { LAST_WORD } else { STUCK };
        let _ = handle.block_on(tokio::time::timeout(patience, send.send(packed)));
    });
    Ok(receive)
}

/// Makes the tar, and says what it was.
fn packed(
    inner: &Arc<Inner>,
    volume: &Volume,
    had: Option<Had>,
    send: &mpsc::Sender<Result<ExportItem, NodeError>>,
    handle: &tokio::runtime::Handle,
) -> Result<ExportItem, NodeError> {
    let name = &volume.record.name;
    attach(inner, volume)?;
    let from = inner.volumes.place(volume).open()?;
    let check = || match () {
        () if inner.stop.is_cancelled() => Err(io::Error::other("the agent is stopping")),
        // Seen here while nothing is sent because the caller has it.
        () if send.is_closed() => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the caller has gone")),
        () => Ok(()),
    };
    let changed = Cell::new(false);
    let out = Out {
        had,
        changed: &changed,
        send: send.clone(),
        piece: BytesMut::with_capacity(PIECE),
        hasher: Hasher::new(Algorithm::Sha256),
        bytes: 0,
        stop: inner.stop.clone(),
        handle: handle.clone(),
    };
    let mut packer = Packer::new(out, Packing { one_file_system: true, ..Packing::default() }, &check);
    let made = packer.add(from.as_fd(), b".").and_then(|()| packer.finish()).and_then(|mut out| {
        if !out.piece.is_empty() {
            out.give()?;
        }
        Ok(out)
    });
    match made {
        // It ended before all that the caller has.
        Ok(out) if out.had.is_some() => Err(NodeError::VolumeChanged(name.clone())),
        Ok(out) => Ok(ExportItem::Done { sha256: out.hasher.finish().hex().to_owned(), bytes: out.bytes }),
        Err(_) if changed.get() => Err(NodeError::VolumeChanged(name.clone())),
        Err(_) if inner.stop.is_cancelled() => Err(NodeError::Stopping),
        Err(e) => Err(NodeError::io(format!("reading the volume {name}"))(e)),
    }
}

fn attach(inner: &Inner, volume: &Volume) -> Result<(), NodeError> {
    let _gate = volume.gate.lock().unwrap_or_else(|e| e.into_inner());
    Ok(inner.volumes.store.attach(&volume.record.name, &volume.backing)?)
}

/// Makes a volume of a tar, or puts the tar's files into an empty one, or with `replace` in the place of what is there: in one step, when all
/// has come and is what its sender says. Nobody may run with the volume when that step comes.
pub(crate) async fn import(
    inner: &Arc<Inner>,
    who: &Requester,
    request: ImportRequest,
    pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
) -> Result<Extracted, NodeError> {
    let place = inner.copies.enter(who).await?;
    import_in(inner, place, request, pieces).await
}

/// As [`import`], in a place that the caller has.
pub(super) async fn import_in(
    inner: &Arc<Inner>,
    place: Taken,
    request: ImportRequest,
    pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
) -> Result<Extracted, NodeError> {
    let name = request.volume.clone();
    // Into a new one it is made as a draft; the volume itself is made first where it has to hold a file system.
    let work = match begin_import(inner, &name).await {
        Ok(work) => Some(work),
        Err(NodeError::VolumeNotFound(_)) => None,
        Err(e) => return Err(e),
    };
    let inner_ = inner.clone();
    let done = match work {
        Some(work) => {
            inner
                .blocking(move || {
                    let _place = place;
                    into_there(&inner_, &work, request.replace, pieces)
                })
                .await?
        }
        None => {
            let record = VolumeRecord { name: name.clone(), created: Timestamp::now(), ..VolumeRecord::default() };
            create::check(&record)?;
            let (draft, done) = inner
                .blocking(move || {
                    let _place = place;
                    let draft = inner_.volumes.store.draft(&random()?, &berth_volume::Backing::Folder)?;
                    let to = berth_sys::fs::open(draft.data(), berth_sys::fs::Open::RDONLY, 0)
                        .map_err(NodeError::io("opening the new volume"))?;
                    match extract(to, pieces) {
                        Ok(done) => Ok((draft, done)),
                        Err(e) => {
                            super::remove::clear(&draft.dir);
                            Err(e)
                        }
                    }
                })
                .await?;
            fail::point("volume.after_extract")?;
            create::adopt(inner, draft, record, "since the import began").await?;
            done
        }
    };
    Ok(done)
}

/// Takes a whole tar.
fn extract(
    to: std::os::fd::OwnedFd,
    mut pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
) -> Result<Extracted, NodeError> {
    let mut extractor = berth_volume::extractor(to);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    // A tar that was cut between two files looks whole but for its end: two blocks of zeros.
    let mut zeros = 0;
    let mut first = true;
    loop {
        match pieces.blocking_recv().ok_or(NodeError::CallerGone)?? {
            ImportItem::Tar(bytes) => {
                if let Some((name, tool)) = compressed(&bytes).filter(|_| first) {
                    let why = format!("it is compressed with {name}: unpack it first ({tool})");
                    return Err(NodeError::BadArchive(why));
                }
                first = false;
                hasher.update(&bytes);
                let trailing = bytes.iter().rev().take_while(|b| **b == 0).count();
                zeros = if trailing == bytes.len() { zeros + trailing } else { trailing };
                extractor.push(&bytes).map_err(berth_volume::VolumeError::from)?;
                fail::point("volume.while_importing")?;
            }
            ImportItem::Done { sha256 } => {
                let is = hasher.finish();
                if !sha256.is_empty() && !sha256.eq_ignore_ascii_case(is.hex()) {
                    let why = format!("its digest is sha256:{}, and its sender says {sha256}", is.hex());
                    return Err(NodeError::BadArchive(why));
                }
                if zeros < 1024 {
                    return Err(NodeError::BadArchive("it has no end: it is a part of a tar".to_owned()));
                }
                return Ok(extractor.finish().map_err(berth_volume::VolumeError::from)?);
            }
        }
    }
}

/// By what the first bytes of a stream are compressed, and what unpacks it.
fn compressed(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const MAGIC: [(&[u8], &str, &str); 4] = [
        (&[0x1f, 0x8b], "gzip", "gunzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "unzstd"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "unxz"),
        (b"BZh", "bzip2", "bunzip2"),
    ];
    MAGIC.iter().find(|(magic, ..)| bytes.starts_with(magic)).map(|(_, name, tool)| (*name, *tool))
}

/// What would refuse an import at its end, asked before its beginning.
pub(super) async fn may_begin(inner: &Arc<Inner>, request: &ImportRequest) -> Result<(), NodeError> {
    let work = match begin_import(inner, &request.volume).await {
        Err(NodeError::VolumeNotFound(name)) => {
            return create::check(&VolumeRecord { name, ..VolumeRecord::default() });
        }
        begun => begun?,
    };
    let (inner_, replace) = (inner.clone(), request.replace);
    inner.blocking(move || takes(&inner_, &work.volume, replace).map(drop)).await
}

/// Where the files of a volume are that an import may go into.
fn takes(inner: &Inner, volume: &Volume, replace: bool) -> Result<berth_volume::Place, NodeError> {
    if let Some(elsewhere) = volume.backing.elsewhere() {
        return Err(berth_volume::VolumeError::Elsewhere(elsewhere).into());
    }
    if matches!(volume.backing, berth_volume::Backing::Mount(_)) {
        // Nobody has it mounted, so that it would be gone with this.
        let memory = "in memory, and gone when no container has it".to_owned();
        return Err(berth_volume::VolumeError::Elsewhere(memory).into());
    }
    attach(inner, volume)?;
    let place = inner.volumes.place(volume);
    if !replace && !place.is_empty()? {
        return Err(berth_volume::VolumeError::NotEmpty.into());
    }
    Ok(place)
}

/// Into a volume that is there.
fn into_there(
    inner: &Arc<Inner>,
    work: &super::Work,
    replace: bool,
    pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
) -> Result<Extracted, NodeError> {
    let volume = &work.volume;
    let name = &volume.record.name;
    let place = takes(inner, volume, replace)?;
    let Some(fill) = &place.fill else { return Err(berth_volume::VolumeError::Elsewhere(name.clone()).into()) };
    berth_rootfs::remove_tree(fill)?;
    let write = || place.draft(fill).map_err(NodeError::from).and_then(|to| extract(to, pieces));
    let taken = within_limits(write).map_err(NodeError::io("giving up CAP_SYS_RESOURCE"))?;
    let full = |e| match e {
        NodeError::Volume(e) => NodeError::Volume(inner.volumes.within(volume, e)),
        other => other,
    };
    let done = taken.map_err(full).and_then(|done| {
        fail::point("volume.after_extract")?;
        place.take(replace)?;
        fail::point("volume.after_take")?;
        Ok(done)
    });
    // What was there before, or half of what was to come.
    super::remove::clear(fill);
    done
}
