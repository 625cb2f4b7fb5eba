//! Imports of callers that cannot send a tar twice, or do not want to: what has arrived stays on the disk, also when the agent ends, and the next call goes on there.
//!
//! The tar is kept as it comes. Only when all of it is there it goes the way of every import: so a crash at any moment leaves what is needed to
//! begin that again. The price is room for the tar beside its files. What nobody has come back to for [`KEEP`] goes.

use super::{ImportItem, ImportRequest, transfer};
use crate::node::Inner;
use crate::view::Requester;
use crate::{NodeError, fail};
use berth_image::Hasher;
use berth_model::digest::Algorithm;
use berth_tar::Extracted;
use berth_volume::Parts;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long a caller may be away. Longer than it tries by itself: what it would find gone it cannot send again.
const KEEP: Duration = Duration::from_secs(3600);
const SWEEP: Duration = Duration::from_secs(600);
/// How long an import waits for another one with its key.
const GIVEN_UP: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Pieces between two threads.
const QUEUE: usize = 4;

/// The name of an import among all: another caller, volume or word for it is another one.
fn key(who: &Requester, request: &ImportRequest) -> String {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    // No request's id has a space in it.
    let id = if request.tar_key.is_empty() { who.request_id.clone() } else { format!("tar {}", request.tar_key) };
    for part in [&who.caller, &id, &request.volume, &request.replace.to_string()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finish().hex().to_owned()
}

/// An import that somebody is at: it is not swept.
struct Held {
    inner: Arc<Inner>,
    key: String,
}

impl Held {
    /// `None`: somebody else is at it.
    fn try_new(inner: &Arc<Inner>, key: &str) -> Option<Held> {
        let free = inner.volumes.arriving().insert(key.to_owned());
        free.then(|| Held { inner: inner.clone(), key: key.to_owned() })
    }

    /// Waits a while for an earlier call, whose caller may be gone without its agent knowing.
    async fn new(inner: &Arc<Inner>, key: &str, volume: &str) -> Result<Held, NodeError> {
        let due = tokio::time::Instant::now() + GIVEN_UP;
        loop {
            if let Some(held) = Held::try_new(inner, key) {
                return Ok(held);
            }
            if tokio::time::Instant::now() >= due {
                let by = vec![
                    "another import of the same tar, which goes on by itself once all of it has arrived".to_owned(),
                ];
                return Err(NodeError::VolumeInUse { volume: volume.to_owned(), by });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.volumes.arriving().remove(&self.key);
    }
}

/// Takes a tar that may have begun to come in an earlier call, and imports it when it is whole. `safe` is told how much of it need not be sent again;
/// its first word is where the caller goes on.
pub(crate) async fn import(
    inner: &Arc<Inner>,
    who: &Requester,
    request: ImportRequest,
    pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
    safe: watch::Sender<Option<u64>>,
) -> Result<Extracted, NodeError> {
    let held = Held::new(inner, &key(who, &request), &request.volume).await?;
    // Before anything is sent in vain.
    transfer::may_begin(inner, &request).await?;
    let done = arrived(inner, who, &held, request, pieces, safe).await;
    match &done {
        // It comes back.
        Err(NodeError::CallerGone | NodeError::NoPlace { .. } | NodeError::Stopping) => {}
        _ => forget(inner, held.key.clone()).await,
    }
    done
}

async fn arrived(
    inner: &Arc<Inner>,
    who: &Requester,
    held: &Held,
    request: ImportRequest,
    pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
    safe: watch::Sender<Option<u64>>,
) -> Result<Extracted, NodeError> {
    let pieces = until_stopped(inner, pieces);
    let place = inner.copies.enter(who).await?;
    let (inner_, key) = (inner.clone(), held.key.clone());
    // The place is the caller's until all is in the volume.
    let (parts, sha256, place) = inner
        .blocking(move || {
            let (parts, sha256) = receive(inner_.volumes.store.parts(&key)?, pieces, &safe)?;
            Ok((parts, sha256, place))
        })
        .await?;
    fail::point("volume.after_arrival")?;
    let (send, receive) = mpsc::channel(QUEUE);
    inner.tasks.spawn_blocking(move || {
        let read = parts.read(|piece| send.blocking_send(Ok(ImportItem::Tar(piece.into()))).is_ok());
        let last = read.map(|()| ImportItem::Done { sha256 }).map_err(NodeError::from);
        let _ = send.blocking_send(last);
    });
    transfer::import_in(inner, place, request, receive).await
}

/// Writes down what comes, until its end; blocking.
fn receive(
    mut parts: Parts,
    mut pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
    safe: &watch::Sender<Option<u64>>,
) -> Result<(Parts, String), NodeError> {
    safe.send_replace(Some(parts.safe()));
    loop {
        match pieces.blocking_recv().ok_or(NodeError::CallerGone)?? {
            ImportItem::Tar(bytes) => {
                if parts.push(&bytes)? {
                    safe.send_replace(Some(parts.safe()));
                }
                fail::point("volume.while_arriving")?;
            }
            ImportItem::Done { sha256 } => {
                parts.seal()?;
                safe.send_replace(Some(parts.safe()));
                return Ok((parts, sha256));
            }
        }
    }
}

/// The pieces, and `Stopping` in the place of the next one when the agent is to end: a caller that is silent does not hold it up.
fn until_stopped(
    inner: &Arc<Inner>,
    mut pieces: mpsc::Receiver<Result<ImportItem, NodeError>>,
) -> mpsc::Receiver<Result<ImportItem, NodeError>> {
    let (send, receive) = mpsc::channel(QUEUE);
    let stop = inner.stop.clone();
    inner.tasks.spawn(async move {
        loop {
            let item = tokio::select! {
                item = pieces.recv() => item,
                () = stop.cancelled() => Some(Err(NodeError::Stopping)),
            };
            let Some(item) = item else { return };
            let last = !matches!(item, Ok(ImportItem::Tar(_)));
            if send.send(item).await.is_err() || last {
                return;
            }
        }
    });
    receive
}

/// Removes what is kept of an import.
async fn forget(inner: &Arc<Inner>, key: String) {
    let inner_ = inner.clone();
    let removed = inner.blocking(move || {
        super::remove::clear(&inner_.volumes.store.parts_dir(&key));
        Ok(())
    });
    if let Err(e) = removed.await {
        tracing::warn!(error = %e, "removing what is kept of an import");
    }
}

/// As [`forget`], for one that was answered before its agent could.
pub(crate) async fn forget_answered(inner: &Arc<Inner>, who: &Requester, request: &ImportRequest) {
    // Another call may be at the same tar by now.
    if let Some(held) = Held::try_new(inner, &key(who, request)) {
        forget(inner, held.key.clone()).await;
    }
}

/// Removes what callers have given up, as long as the agent runs.
pub(crate) async fn sweep(inner: Arc<Inner>) {
    loop {
        // First of all a caller of the agent before this one may come back, whatever the time is.
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            () = inner.stop.cancelled() => return,
        }
        let inner_ = inner.clone();
        let swept = inner.blocking(move || {
            for (key, path) in inner_.volumes.store.idle_parts(KEEP)? {
                if !inner_.volumes.arriving().contains(&key) {
                    tracing::info!(import = key, "nobody has come back to it: removing what is kept of it");
                    super::remove::clear(&path);
                }
            }
            Ok(())
        });
        if let Err(e) = swept.await {
            tracing::warn!(error = %e, "removing imports that were given up");
        }
    }
}
