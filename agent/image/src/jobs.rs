//! Each layer once, however many pulls wait for it. The work goes on while anybody waits, and stops with the last one.

use crate::ProgressState;
use crate::error::ImageError;
use crate::layer::{self, Done, Work};
use berth_model::Digest;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Progress is told at most this often, or after so many bytes.
const TELL_EVERY: Duration = Duration::from_millis(100);
const TELL_BYTES: u64 = 1 << 20;

/// Where a layer stands.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub state: ProgressState,
    pub current_bytes: u64,
    pub status: Option<String>,
    result: Option<Result<Done, ImageError>>,
}

/// The way from a layer's work to all who wait for it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter {
    to: watch::Sender<Snapshot>,
    last: Arc<Mutex<(Instant, u64)>>,
}

impl Reporter {
    fn new() -> Self {
        let start = Snapshot { state: ProgressState::Waiting, current_bytes: 0, status: None, result: None };
        Reporter { to: watch::Sender::new(start), last: Arc::new(Mutex::new((Instant::now(), 0))) }
    }

    pub fn state(&self, state: ProgressState) {
        self.to.send_modify(|s| {
            s.state = state;
            s.status = None;
        });
    }

    /// Something worth telling while bytes do not come.
    pub fn status(&self, words: String) {
        self.to.send_modify(|s| s.status = Some(words));
    }

    pub fn downloaded(&self, at: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = at.abs_diff(last.1) >= TELL_BYTES || last.0.elapsed() >= TELL_EVERY;
        if due {
            *last = (Instant::now(), at);
        }
        let change = |s: &mut Snapshot| {
            s.current_bytes = at;
            s.status = None;
            due
        };
        self.to.send_if_modified(change);
    }
}

struct Job {
    /// Tells it from another one of the same layer, before or behind it.
    number: u64,
    reporter: Reporter,
    cancel: CancellationToken,
    /// Changed under the map's lock only.
    waiters: usize,
}

/// All layers that are on their way, by diff_id.
pub(crate) struct Jobs {
    running: Mutex<HashMap<Digest, Job>>,
    begun: AtomicU64,
    /// Layers side by side.
    slots: Semaphore,
}

/// One who waits; the last to go stops the work.
struct Waiter<'a> {
    jobs: &'a Jobs,
    diff_id: &'a Digest,
    job: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        // When this one's job has failed, another one who waited may have started the layer's next by now.
        if let Some(job) = self.jobs.lock().get_mut(self.diff_id).filter(|job| job.number == self.job) {
            job.waiters = job.waiters.saturating_sub(1);
            if job.waiters == 0 {
                job.cancel.cancel();
            }
        }
    }
}

enum Joined {
    /// The job's number; the flag: this call started it.
    Waiting(watch::Receiver<Snapshot>, u64, bool),
    /// One that was cancelled has not ended yet.
    Ending(watch::Receiver<Snapshot>),
}

impl Jobs {
    pub fn new(parallel: usize) -> Arc<Self> {
        Arc::new(Jobs { running: Mutex::default(), begun: AtomicU64::new(0), slots: Semaphore::new(parallel) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Job>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the layer, starts it when nobody has. When somebody else's try failed for a reason that lies in where it
    /// came from, this caller's own source is tried. `fetched_bytes` is 0 when it was somebody else's work.
    pub async fn get(self: &Arc<Self>, work: &Work, tell: impl Fn(&Snapshot)) -> Result<Done, ImageError> {
        loop {
            let (mut receiver, job, mine) = match self.join(work) {
                Joined::Waiting(receiver, job, mine) => (receiver, job, mine),
                Joined::Ending(mut receiver) => {
                    let _ = receiver.wait_for(|s| s.result.is_some()).await;
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let waiter = Waiter { jobs: self, diff_id: &work.diff_id, job };
            let result = loop {
                let snapshot = receiver.borrow_and_update().clone();
                if let Some(result) = snapshot.result {
                    break result;
                }
                tell(&snapshot);
                if receiver.changed().await.is_err() {
                    break Err(ImageError::Cancelled);
                }
            };
            drop(waiter);
            match result {
                Err(e) if !mine && e.is_of_the_source() => {}
                Ok(done) if !mine => return Ok(Done { fetched_bytes: 0, ..done }),
                result => return result,
            }
        }
    }

    fn join(self: &Arc<Self>, work: &Work) -> Joined {
        let mut running = self.lock();
        if let Some(job) = running.get_mut(&work.diff_id) {
            let receiver = job.reporter.to.subscribe();
            if job.cancel.is_cancelled() {
                return Joined::Ending(receiver);
            }
            job.waiters += 1;
            return Joined::Waiting(receiver, job.number, false);
        }
        let (reporter, cancel) = (Reporter::new(), CancellationToken::new());
        let receiver = reporter.to.subscribe();
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let job = Job { number, reporter: reporter.clone(), cancel: cancel.clone(), waiters: 1 };
        running.insert(work.diff_id.clone(), job);
        let (jobs, work) = (self.clone(), work.clone());
        tokio::spawn(async move {
            let result = jobs.run(&work, &reporter, &cancel).await;
            // Gone from the map before anybody is told: who comes now looks into the layer store first.
            jobs.lock().remove(&work.diff_id);
            reporter.to.send_modify(|s| s.result = Some(result));
        });
        Joined::Waiting(receiver, number, true)
    }

    async fn run(&self, work: &Work, reporter: &Reporter, cancel: &CancellationToken) -> Result<Done, ImageError> {
        let slot = tokio::select! {
            slot = self.slots.acquire() => slot,
            () = cancel.cancelled() => return Err(ImageError::Cancelled),
        };
        let _slot = slot.map_err(|_| ImageError::Cancelled)?;
        // Committed by a job that ended between the caller's look and now.
        if let Some(tar_bytes) = work.sink.get(&work.diff_id) {
            return Ok(Done { tar_bytes, fetched_bytes: 0 });
        }
        reporter.state(ProgressState::Downloading);
        layer::unpack(work, reporter, cancel).await
    }
}
