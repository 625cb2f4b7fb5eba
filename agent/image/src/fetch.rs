//! Gets the bytes of one blob in order, whatever the connection does: cut ones go on with Range, slow networks get several
//! ranges side by side.

use crate::answer::content_range;
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::registry::{Endpoint, Status};
use crate::retry::Failure;
use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, header};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// Compressed bytes of one layer that wait for its pipeline.
const BUFFERED_BYTES: usize = 4 << 20;
/// One range of a large layer: long enough that a request's round trip does not count, short enough to be held in memory.
const WINDOW_BYTES: u64 = 4 << 20;
/// Ranges of one layer side by side, the one being read included.
const WINDOWS: usize = 4;
/// Chunks in one channel: a window's worth of those that a slow network gives (8 KiB).
const CHUNKS: usize = 512;
/// Windows that wait in memory, over all layers: 32 MiB.
pub(crate) const WINDOWS_IN_MEMORY: usize = 8;
/// A layer with less than this left is not worth more connections.
const WORTH_SPLITTING: u64 = 16 << 20;
/// Progress that shows that the network is fine again.
const GOOD_RUN: u64 = 1 << 20;

/// Bytes on their way to the pipeline; the permit holds their room.
pub(crate) struct Chunk {
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl From<Bytes> for Chunk {
    /// Bytes that take no room of the network's: from a file.
    fn from(bytes: Bytes) -> Self {
        Chunk { bytes, _room: None }
    }
}

/// Why a fetch ended early.
pub(crate) enum Stopped {
    /// The pipeline takes no more: its own error is the one that counts.
    PipelineGone,
    Failed(ImageError),
}

impl From<ImageError> for Stopped {
    fn from(e: ImageError) -> Self {
        Stopped::Failed(e)
    }
}

/// One blob on its way.
pub(crate) struct Fetch<'a> {
    pub blob: &'a Descriptor,
    pub endpoint: &'a Arc<Endpoint>,
    /// The next byte that the pipeline needs.
    pub at: u64,
    pub out: &'a Outlet,
    pub windows: &'a Arc<Semaphore>,
    /// Called with the position after each chunk.
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
    pub status: Status<'a>,
}

/// The way into the pipeline.
pub(crate) struct Outlet {
    room: Arc<Semaphore>,
    sender: mpsc::Sender<Chunk>,
}

/// Bounded by bytes (`BUFFERED_BYTES`) and by number (`CHUNKS`): full makes the network wait.
pub(crate) fn outlet() -> (Outlet, mpsc::Receiver<Chunk>) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    (Outlet { room: Arc::new(Semaphore::new(BUFFERED_BYTES)), sender }, receiver)
}

impl Outlet {
    /// The pipeline waits for bytes: the network is the slower one.
    fn is_starved(&self) -> bool {
        self.room.available_permits() == BUFFERED_BYTES
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Stopped> {
        let wanted = u32::try_from(bytes.len().min(BUFFERED_BYTES)).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(wanted);
        // A pipeline that is gone never makes room.
        let room = tokio::select! {
            room = room => room.map_err(|_| Stopped::PipelineGone)?,
            () = self.sender.closed() => return Err(Stopped::PipelineGone),
        };
        self.sender.send(Chunk { bytes, _room: Some(room) }).await.map_err(|_| Stopped::PipelineGone)
    }
}

/// A range that is fetched ahead.
struct Window {
    end: u64,
    bytes: mpsc::Receiver<Bytes>,
    _task: AbortOnDropHandle<()>,
}

/// Ranges behind the one that is being read, in order.
#[derive(Default)]
struct Ahead {
    windows: VecDeque<Window>,
    /// Where the next window starts.
    next: u64,
    /// Of the bytes since the last look, those that the pipeline had been waiting for.
    starved: u64,
    seen: u64,
    wanted: bool,
    refused: bool,
}

impl Fetch<'_> {
    /// Fetches up to the end. `self.at` tells how far it came when it does not.
    pub async fn run(&mut self) -> Result<(), Stopped> {
        let mut backoff = self.endpoint.backoff();
        let mut ahead = Ahead::default();
        let path = format!("blobs/{}", self.blob.digest);
        while self.at < self.blob.size {
            let start = self.at;
            let result = match ahead.windows.pop_front() {
                Some(window) => {
                    self.extend(&mut ahead);
                    self.read_window(window, &mut ahead).await
                }
                None => self.read_response(&path, &mut ahead).await,
            };
            if self.at - start >= GOOD_RUN {
                backoff.reset();
            }
            match result {
                Ok(()) => {}
                Err(Step::Stop(stopped)) => return Err(stopped),
                Err(Step::Again { reason, retry_after }) => {
                    // What was fetched ahead starts behind a gap now.
                    ahead.windows.clear();
                    self.endpoint.pause(&mut backoff, &path, reason, retry_after, self.status).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads one response, from `self.at` to the end of the blob or to where the first window ahead starts.
    async fn read_response(&mut self, path: &str, ahead: &mut Ahead) -> Result<(), Step> {
        let range = (self.at > 0).then_some((self.at, None));
        let mut response = self.endpoint.send(Method::GET, path, None, range).await?;
        // A server that ignores Range sends it all again: read past what is there.
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => {
                ahead.refused |= self.at > 0;
                self.at
            }
        };
        self.check_length(&response)?;
        let mut end = self.blob.size;
        while self.at < end {
            let Some(mut bytes) = self.endpoint.chunk(&mut response).await? else {
                return Err(Failure::again(format!("connection cut at byte {} of {}", self.at, self.blob.size)).into());
            };
            if skip > 0 {
                let passed = skip.min(bytes.len() as u64);
                skip -= passed;
                let _ = bytes.split_to(passed as usize);
            }
            if bytes.len() as u64 > end - self.at {
                if end == self.blob.size {
                    return Err(self.wrong_size(self.at + bytes.len() as u64).into());
                }
                bytes.truncate((end - self.at) as usize);
            }
            if bytes.is_empty() {
                continue;
            }
            self.deliver(bytes, ahead).await?;
            if ahead.wanted && end == self.blob.size && self.blob.size - self.at > WORTH_SPLITTING {
                // This response goes on to the end of its own window; what is behind comes by other connections.
                end = self.at + WINDOW_BYTES;
                ahead.next = end;
                self.extend(ahead);
                if ahead.windows.is_empty() {
                    end = self.blob.size;
                    ahead.wanted = false;
                }
            }
        }
        if end == self.blob.size
            && let Ok(Some(more)) = self.endpoint.chunk(&mut response).await
        {
            return Err(self.wrong_size(self.at + more.len() as u64).into());
        }
        Ok(())
    }

    async fn read_window(&mut self, mut window: Window, ahead: &mut Ahead) -> Result<(), Step> {
        while self.at < window.end {
            match window.bytes.recv().await {
                Some(bytes) => self.deliver(bytes, ahead).await?,
                // Its task had a failure; the usual way has the retries and the words for it.
                None => {
                    ahead.windows.clear();
                    ahead.refused = true;
                    ahead.wanted = false;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, bytes: Bytes, ahead: &mut Ahead) -> Result<(), Step> {
        let length = bytes.len() as u64;
        ahead.seen += length;
        if self.out.is_starved() {
            ahead.starved += length;
        }
        if ahead.seen >= WINDOW_BYTES {
            // Nearly always waiting: one connection is not enough.
            ahead.wanted = !ahead.refused && ahead.starved * 10 >= ahead.seen * 9;
            (ahead.seen, ahead.starved) = (0, 0);
        }
        self.out.send(bytes).await.map_err(Step::Stop)?;
        self.at += length;
        (self.progress)(self.at);
        Ok(())
    }

    /// Opens windows behind the last one, as far as there is memory.
    fn extend(&self, ahead: &mut Ahead) {
        while ahead.windows.len() + 1 < WINDOWS && ahead.next < self.blob.size {
            if !self.open_window(ahead) {
                return;
            }
        }
    }

    fn open_window(&self, ahead: &mut Ahead) -> bool {
        let Ok(memory) = self.windows.clone().try_acquire_owned() else { return false };
        let start = ahead.next;
        let end = (start + WINDOW_BYTES).min(self.blob.size);
        ahead.next = end;
        let (sender, bytes) = mpsc::channel(CHUNKS);
        let endpoint = self.endpoint.clone();
        let path = format!("blobs/{}", self.blob.digest);
        let task = tokio::spawn(async move {
            if let Err(reason) = fill_window(&endpoint, &path, start, end, &sender).await {
                tracing::debug!(path, start, end, reason, "a range fetched ahead failed");
            }
            drop(sender);
            // Held until the last byte has been read, not only until it has come.
            let _memory = memory;
            std::future::pending::<()>().await;
        });
        ahead.windows.push_back(Window { end, bytes, _task: AbortOnDropHandle::new(task) });
        true
    }

    /// The length that the server announces must be the manifest's.
    fn check_length(&self, response: &Response) -> Result<(), Step> {
        let text = |name| response.headers().get(name).and_then(|v: &header::HeaderValue| v.to_str().ok());
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let Some((start, total)) = text(header::CONTENT_RANGE).and_then(content_range) else { return Ok(()) };
            if start != self.at {
                let reason = format!("asked for byte {}, it sends from byte {start}", self.at);
                return Err(Failure::again(reason).into());
            }
            return match total {
                Some(total) if total != self.blob.size => Err(self.wrong_size(total).into()),
                _ => Ok(()),
            };
        }
        match text(header::CONTENT_LENGTH).and_then(|v| v.parse::<u64>().ok()) {
            Some(length) if length != self.blob.size => Err(self.wrong_size(length).into()),
            _ => Ok(()),
        }
    }

    fn wrong_size(&self, actual: u64) -> ImageError {
        ImageError::SizeMismatch {
            what: format!("blob {} from {}", self.blob.digest, self.endpoint.host),
            expected: self.blob.size,
            actual,
        }
    }
}

enum Step {
    Again { reason: String, retry_after: Option<std::time::Duration> },
    Stop(Stopped),
}

impl From<Failure> for Step {
    fn from(f: Failure) -> Self {
        match f {
            Failure::Again { reason, retry_after } => Step::Again { reason, retry_after },
            Failure::Final(e) => Step::Stop(Stopped::Failed(e)),
        }
    }
}

impl From<ImageError> for Step {
    fn from(e: ImageError) -> Self {
        Step::Stop(Stopped::Failed(e))
    }
}

/// Without retries: one that fails is fetched again in the usual way.
async fn fill_window(
    endpoint: &Endpoint,
    path: &str,
    start: u64,
    end: u64,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), String> {
    let words = |f: Failure| match f {
        Failure::Again { reason, .. } => reason,
        Failure::Final(e) => e.to_string(),
    };
    let mut response = endpoint.send(Method::GET, path, None, Some((start, Some(end - 1)))).await.map_err(words)?;
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Err("it ignores Range".to_owned());
    }
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok()).and_then(content_range);
    if range.is_some_and(|(from, _)| from != start) {
        return Err("it sends another range".to_owned());
    }
    let mut at = start;
    while at < end {
        let Some(mut bytes) = endpoint.chunk(&mut response).await.map_err(words)? else {
            return Err(format!("connection cut at byte {at}"));
        };
        bytes.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
        at += bytes.len() as u64;
        if out.send(bytes).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
