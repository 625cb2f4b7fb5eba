//! One layer on its way: three threads behind the fetch, so that one large layer uses more than one core and several small
//! ones use them all. Each stage ends with a word that all before it was right; a stage whose input ends without that word
//! gives up quietly, for the reason is upstream.
//!
//! ```text
//! fetch (async) -> intake: partial file, digest of the blob -> decode: gzip, zstd, plain -> store: diff_id, layer store
//! ```

use crate::decompress::{self, Output};
use crate::error::ImageError;
use crate::fetch::{self, Chunk, Fetch, Outlet, Stopped};
use crate::gzip::MIN_SPARE;
use crate::hash::Hasher;
use crate::jobs::Reporter;
use crate::manifest::Descriptor;
use crate::registry::{Endpoint, Source};
use crate::store::{Partial, Store};
use crate::{LayerSink, Limits, ProgressState};
use berth_model::Digest;
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Uncompressed bytes handed over at once: fits the second-level cache beside the decoder's tables.
const BUFFER_BYTES: usize = 256 << 10;
/// Buffers of one layer: one is filled, one is emptied, the rest evens out.
const BUFFERS: usize = 4;
/// Chunks between intake and decoder; their bytes are bounded by the fetch.
const CHUNKS: usize = 16;
const FILE_CHUNK_BYTES: usize = 128 << 10;
/// Smaller blobs are fetched again in less time than a file takes.
const WORTH_KEEPING_BYTES: u64 = 64 << 10;

/// What is to be done.
#[derive(Clone)]
pub(crate) struct Work {
    pub blob: Descriptor,
    pub diff_id: Digest,
    pub source: Arc<Source>,
    pub store: Store,
    pub sink: Arc<dyn LayerSink>,
    pub limits: Limits,
    pub windows: Arc<Semaphore>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub tar_bytes: u64,
    /// From the network.
    pub fetched_bytes: u64,
}

/// Fetches, checks, decompresses and commits the layer. Takes up a partial download. Gives Cancelled soon after `cancel`;
/// all threads have ended then.
pub(crate) async fn unpack(work: &Work, reporter: &Reporter, cancel: &CancellationToken) -> Result<Done, ImageError> {
    let partial = (work.blob.size >= WORTH_KEEPING_BYTES).then(|| work.store.partial(&work.blob.digest)).flatten();
    let mut last = ImageError::Cancelled;
    for endpoint in work.source.alive() {
        let resume = match &partial {
            Some(partial) => partial.len(work.blob.size)?,
            None => 0,
        };
        let mut result = attempt(work, endpoint, partial.as_ref(), resume, reporter, cancel).await;
        let wrong = |r: &Result<Done, ImageError>| {
            matches!(
                r,
                Err(ImageError::DigestMismatch { .. } | ImageError::SizeMismatch { .. } | ImageError::BadLayer { .. })
            )
        };
        if wrong(&result) || matches!(result, Err(ImageError::DiskFull { .. })) {
            discard(partial.as_ref());
        }
        if wrong(&result) && resume > 0 {
            // What was taken up may be what is wrong: a power cut leaves files whose last bytes were never written.
            reporter.status("the partial download was damaged; starting over".to_owned());
            result = attempt(work, endpoint, partial.as_ref(), 0, reporter, cancel).await;
            if result.is_err() {
                discard(partial.as_ref());
            }
        }
        match result {
            Ok(done) => {
                discard(partial.as_ref());
                return Ok(done);
            }
            Err(e) if e.is_of_the_source() && !cancel.is_cancelled() => {
                endpoint.note(&e);
                last = e;
            }
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

fn discard(partial: Option<&Partial>) {
    if let Some(Err(e)) = partial.map(Partial::remove) {
        tracing::warn!("{e}");
    }
}

async fn attempt(
    work: &Work,
    endpoint: &Arc<Endpoint>,
    partial: Option<&Partial>,
    resume: u64,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Done, ImageError> {
    let (outlet, chunks) = fetch::outlet();
    let stages = start(work, partial, resume, chunks, reporter)?;
    let mut at = resume;
    let fetched = run_fetch(work, endpoint, &mut at, outlet, reporter, cancel).await;
    if fetched.is_ok() {
        reporter.state(ProgressState::Verifying);
    }
    // The channel is closed by now: the stages end by themselves.
    let mut tar_bytes = None;
    let mut failed = None;
    for stage in stages {
        let ended = stage.await.unwrap_or_else(|_| {
            Err(ImageError::io(format!("unpacking layer {}", work.blob.digest), io::Error::other("a stage panicked")))
        });
        match ended {
            Ok(bytes) => tar_bytes = bytes,
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    let fetched_bytes = at - resume;
    match (failed, fetched, tar_bytes) {
        (Some(e), ..) => Err(e),
        (None, Err(Stopped::Failed(e)), _) => Err(e),
        (None, Ok(()), Some(tar_bytes)) => Ok(Done { tar_bytes, fetched_bytes }),
        _ => Err(ImageError::Cancelled),
    }
}

async fn run_fetch(
    work: &Work,
    endpoint: &Arc<Endpoint>,
    at: &mut u64,
    outlet: Outlet,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<(), Stopped> {
    let mut fetch = Fetch {
        blob: &work.blob,
        endpoint,
        at: *at,
        out: &outlet,
        windows: &work.windows,
        progress: &|at| reporter.downloaded(at),
        status: &|words| reporter.status(words),
    };
    let result = tokio::select! {
        result = fetch.run() => result,
        () = cancel.cancelled() => Err(Stopped::Failed(ImageError::Cancelled)),
    };
    *at = fetch.at;
    result
}

/// A stage's end: the tar's size from the last one, None from the others and from one whose input ended early.
type Ended = oneshot::Receiver<Result<Option<u64>, ImageError>>;

fn start(
    work: &Work,
    partial: Option<&Partial>,
    resume: u64,
    chunks: mpsc::Receiver<Chunk>,
    reporter: &Reporter,
) -> Result<[Ended; 3], ImageError> {
    let (to_decoder, from_intake) = sync_channel(CHUNKS);
    let (to_store, from_decoder) = sync_channel(BUFFERS);
    let (give_back, returned) = sync_channel(BUFFERS);
    let path = partial.map(|p| p.path.clone());
    let (blob, limit) = (work.blob.clone(), work.limits.layer_bytes);
    let (diff_id, sink, reporter) = (work.diff_id.clone(), work.sink.clone(), reporter.clone());
    let (decoded, stored) = (blob.clone(), blob.digest.clone());
    Ok([
        stage("layer-intake", move || intake(&blob, path.as_deref(), resume, chunks, &to_decoder).map(|()| None))?,
        stage("layer-decode", move || decode(&decoded.digest, from_intake, to_store, returned, limit).map(|()| None))?,
        stage("layer-store", move || store(&stored, &diff_id, &*sink, from_decoder, &give_back, &reporter))?,
    ])
}

fn stage(
    name: &str,
    run: impl FnOnce() -> Result<Option<u64>, ImageError> + Send + 'static,
) -> Result<Ended, ImageError> {
    let (sender, ended) = oneshot::channel();
    let run = move || {
        // Nobody listens when the pull is gone.
        let _ = sender.send(run());
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|e| ImageError::io(format!("starting thread {name}"), e))?;
    Ok(ended)
}

enum Feed {
    Bytes(Chunk),
    /// The blob is whole and has its digest.
    Verified,
}

/// Keeps the bytes for a resume, and checks the blob's digest.
fn intake(
    blob: &Descriptor,
    partial: Option<&std::path::Path>,
    resume: u64,
    mut chunks: mpsc::Receiver<Chunk>,
    out: &SyncSender<Feed>,
) -> Result<(), ImageError> {
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let mut total = 0;
    let mut file = None;
    if let Some(path) = partial {
        let failed = |e| ImageError::io(format!("writing {}", path.display()), e);
        let mut kept = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        // Starting over.
        if resume == 0 && kept.metadata().map_err(failed)?.len() > 0 {
            kept.set_len(0).map_err(failed)?;
        }
        while total < resume {
            let mut buffer = vec![0; FILE_CHUNK_BYTES.min((resume - total) as usize)];
            kept.read_exact(&mut buffer).map_err(|e| ImageError::io(format!("reading {}", path.display()), e))?;
            hasher.update(&buffer);
            total += buffer.len() as u64;
            if out.send(Feed::Bytes(Bytes::from(buffer).into())).is_err() {
                return Ok(());
            }
        }
        file = Some(kept);
    }
    while let Some(chunk) = chunks.blocking_recv() {
        if let Some(file) = &mut file {
            keep(file, &chunk.bytes, blob)?;
        }
        hasher.update(&chunk.bytes);
        total += chunk.bytes.len() as u64;
        if out.send(Feed::Bytes(chunk)).is_err() {
            return Ok(());
        }
    }
    if total < blob.size {
        return Ok(());
    }
    let actual = hasher.finish();
    if actual != blob.digest {
        let what = format!("blob {}", blob.digest);
        return Err(ImageError::DigestMismatch { what, expected: blob.digest.clone(), actual });
    }
    // Its failure says why nobody takes it.
    let _ = out.send(Feed::Verified);
    Ok(())
}

fn keep(file: &mut File, bytes: &[u8], blob: &Descriptor) -> Result<(), ImageError> {
    file.write_all(bytes).map_err(|e| ImageError::io(format!("keeping the download of {}", blob.digest), e))
}

/// The chunks as one stream.
struct Chunks {
    from: Receiver<Feed>,
    current: Option<Chunk>,
    at: usize,
    verified: bool,
    /// Upstream ended without a word.
    cut: bool,
}

impl Chunks {
    /// Reads on to the end. True when the blob was right.
    fn drain(&mut self) -> bool {
        while !self.verified && !self.cut {
            self.at = self.current.as_ref().map_or(0, |c| c.bytes.len());
            let _ = self.fill_buf();
        }
        self.verified
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while !self.verified && self.current.as_ref().is_none_or(|c| self.at >= c.bytes.len()) {
            // Its room is free before the next one is waited for.
            self.current = None;
            self.at = 0;
            match self.from.recv() {
                Ok(Feed::Bytes(chunk)) => self.current = Some(chunk),
                Ok(Feed::Verified) => self.verified = true,
                Err(_) => {
                    self.cut = true;
                    return Err(io::Error::other("cut"));
                }
            }
        }
        Ok(self.current.as_ref().map_or(&[], |c| &c.bytes[self.at..]))
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let n = bytes.len().min(into.len());
        into[..n].copy_from_slice(&bytes[..n]);
        self.consume(n);
        Ok(n)
    }
}

enum Filled {
    Bytes(Vec<u8>, usize),
    /// All of the layer was decoded.
    End,
}

/// A fixed number of buffers that go round.
struct Buffers {
    to: SyncSender<Filled>,
    returned: Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    made: usize,
    total: u64,
    limit: u64,
    over_limit: bool,
    store_gone: bool,
}

impl Buffers {
    fn flush(&mut self) -> io::Result<()> {
        if self.at == 0 {
            return Ok(());
        }
        let next = if self.made < BUFFERS {
            self.made += 1;
            Some(vec![0; BUFFER_BYTES])
        } else {
            self.returned.recv().ok()
        };
        let full = std::mem::replace(&mut self.current, next.unwrap_or_default());
        let sent = self.to.send(Filled::Bytes(full, std::mem::take(&mut self.at)));
        if sent.is_err() || self.current.is_empty() {
            self.store_gone = true;
            return Err(io::Error::other("the store is gone"));
        }
        Ok(())
    }
}

impl Output for Buffers {
    fn spare(&mut self) -> &mut [u8] {
        &mut self.current[self.at..]
    }

    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        self.at += bytes;
        self.total += bytes as u64;
        if self.total > self.limit {
            self.over_limit = true;
            return Err(io::Error::other("too large"));
        }
        if self.current.len() - self.at < MIN_SPARE { self.flush() } else { Ok(()) }
    }
}

fn decode(
    blob: &Digest,
    from: Receiver<Feed>,
    to: SyncSender<Filled>,
    returned: Receiver<Vec<u8>>,
    limit: u64,
) -> Result<(), ImageError> {
    let mut input = Chunks { from, current: None, at: 0, verified: false, cut: false };
    let mut output = Buffers {
        to,
        returned,
        current: vec![0; BUFFER_BYTES],
        at: 0,
        made: 1,
        total: 0,
        limit,
        over_limit: false,
        store_gone: false,
    };
    let decoded = decompress::decompress(&mut input, &mut output).and_then(|()| output.flush());
    if output.store_gone || input.cut {
        return Ok(());
    }
    if output.over_limit {
        return Err(ImageError::TooLarge { what: format!("layer {blob} uncompressed"), limit_bytes: limit });
    }
    // A broken stream is the blob's own fault only when the blob is what it should be.
    if !input.drain() {
        return Ok(());
    }
    match decoded {
        Ok(()) => {
            let _ = output.to.send(Filled::End);
            Ok(())
        }
        Err(e) => Err(ImageError::BadLayer { digest: blob.clone(), reason: e.to_string() }),
    }
}

/// Checks the diff_id and writes the layer.
fn store(
    blob: &Digest,
    diff_id: &Digest,
    sink: &dyn LayerSink,
    from: Receiver<Filled>,
    give_back: &SyncSender<Vec<u8>>,
    reporter: &Reporter,
) -> Result<Option<u64>, ImageError> {
    let mut writer = sink.writer().map_err(|e| ImageError::sink(blob, e))?;
    let mut hasher = Hasher::new(diff_id.algorithm());
    let mut bad = None;
    while let Ok(filled) = from.recv() {
        match filled {
            Filled::Bytes(buffer, length) => {
                if bad.is_none() {
                    hasher.update(&buffer[..length]);
                    match writer.write(&buffer[..length]) {
                        Ok(()) => {}
                        // Judged when the blob's digest is known.
                        Err(e) if e.bad_layer => bad = Some(e),
                        Err(e) => return Err(ImageError::sink(blob, e)),
                    }
                }
                // The decoder may have ended.
                let _ = give_back.try_send(buffer);
            }
            Filled::End => {
                if let Some(e) = bad {
                    return Err(ImageError::sink(blob, e));
                }
                let actual = hasher.finish();
                if actual != *diff_id {
                    let reason = format!("its uncompressed digest is {actual}, the configuration says {diff_id}");
                    return Err(ImageError::BadLayer { digest: blob.clone(), reason });
                }
                reporter.state(ProgressState::Unpacking);
                return writer.commit(diff_id).map(Some).map_err(|e| ImageError::sink(blob, e));
            }
        }
    }
    Ok(None)
}
