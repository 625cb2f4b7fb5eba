//! Says when a container writes: one inotify instance and one task for all who wait for output, and nothing to do while nobody writes.
//!
//! A watch tells of one change and is gone, so that a container that writes without end costs one event for each time that somebody has
//! read everything and waits again. Who waits arms first and looks then: what is written between both fires.

use berth_sys::inotify::{self, Fired};
use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Where folders cannot be watched they are looked at so often.
const BLIND: Duration = Duration::from_millis(250);

pub(crate) struct LogWatch {
    /// None: there are no more instances (`fs.inotify.max_user_instances`).
    instance: Option<AsyncFd<OwnedFd>>,
    /// By the watch's number. Its sender goes when it fires.
    armed: Mutex<HashMap<i32, watch::Sender<()>>>,
    /// Any of them has fired, or a container was started.
    any: Notify,
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, which no crate but sys may be; an OwnedFd keeps its descriptor"
)]
fn watched(instance: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(instance)
}

/// A folder that is watched for its next change.
pub(crate) struct Armed(Option<watch::Receiver<()>>);

impl Armed {
    /// Something has changed, or may have.
    pub async fn fired(&mut self) {
        match &mut self.0 {
            Some(watch) => while watch.changed().await.is_ok() {},
            None => tokio::time::sleep(BLIND).await,
        }
    }

    /// It tells of nothing: the folder could not be watched.
    pub fn is_blind(&self) -> bool {
        self.0.is_none()
    }

    /// It has fired; one that cannot be watched has always.
    pub fn has_fired(&self) -> bool {
        self.0.as_ref().is_none_or(|w| w.has_changed().is_err())
    }
}

impl LogWatch {
    /// Within a runtime.
    pub fn new() -> Self {
        let instance = inotify::open().and_then(watched);
        if let Err(error) = &instance {
            tracing::warn!(%error, "logs are looked at again and again: no inotify instance");
        }
        LogWatch { instance: instance.ok(), armed: Mutex::default(), any: Notify::new() }
    }

    /// Watches `dir` for its next change.
    pub fn arm(&self, dir: &Path) -> Armed {
        let Some(instance) = &self.instance else { return Armed(None) };
        // Under the lock: an event is dealt out only when its number is known.
        let mut armed = self.armed.lock().expect("watched logs");
        match inotify::watch_once(instance.as_fd(), dir) {
            Ok(number) => Armed(Some(armed.entry(number).or_insert_with(|| watch::Sender::new(())).subscribe())),
            Err(error) => {
                tracing::debug!(%error, dir = %dir.display(), "not watched");
                Armed(None)
            }
        }
    }

    /// Returns when any watch has fired since the last call, or a container was started. For one who waits.
    pub async fn any(&self) {
        self.any.notified().await;
    }

    /// There is a folder that nobody watches yet.
    pub fn started(&self) {
        self.any.notify_one();
    }

    /// Deals out what the kernel tells, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                told = self.told() => {
                    let mut armed = self.armed.lock().expect("watched logs");
                    for fired in told {
                        match fired {
                            Fired::One(number) => drop(armed.remove(&number)),
                            Fired::Any => armed.clear(),
                        }
                    }
                    self.any.notify_one();
                }
                () = stop.cancelled() => return,
            }
        }
    }

    async fn told(&self) -> Vec<Fired> {
        let Some(instance) = &self.instance else { return pending().await };
        let read = async || -> io::Result<Vec<Fired>> {
            let mut ready = instance.readable().await?;
            let fired = inotify::fired(instance.as_fd())?;
            ready.clear_ready();
            Ok(fired)
        };
        match read().await {
            Ok(fired) => fired,
            Err(error) => {
                tracing::warn!(%error, "reading what was told of logs");
                tokio::time::sleep(BLIND).await;
                vec![Fired::Any]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn all_who_wait_hear_of_a_change() {
        let (dir, quiet) = (TempDir::new("logs-watch"), TempDir::new("logs-watch-quiet"));
        let (watch, stop) = (Arc::new(LogWatch::new()), CancellationToken::new());
        let task = tokio::spawn(watch.clone().run(stop.clone()));
        for _ in 0..3 {
            let (mut one, mut two, silent) = (watch.arm(dir.path()), watch.arm(dir.path()), watch.arm(quiet.path()));
            assert!(!one.has_fired() && !silent.has_fired());
            std::fs::write(dir.path().join("log"), "text").unwrap();
            one.fired().await;
            two.fired().await;
            assert!(one.has_fired() && two.has_fired() && !silent.has_fired());
        }
        assert_eq!(watch.armed.lock().unwrap().len(), 1, "what has fired is forgotten");
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_watched_is_looked_at() {
        let watch = LogWatch::new();
        let mut armed = watch.arm(Path::new("/nowhere/at/all"));
        assert!(armed.has_fired());
        armed.fired().await;
    }
}
