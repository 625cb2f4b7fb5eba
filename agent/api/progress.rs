//! Progress of a pull on its way to a caller: only the newest word on each layer, so that a slow caller holds nothing
//! up and nothing piles up.

use berth::v1::PullProgress;
use berth::v1::pull_progress::State;
use berth_image::{Progress, ProgressState};
use berth_node::ProgressFn;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Words of the whole pull are all kept, up to so many.
const MAX_WAITING: usize = 1024;

#[derive(Default)]
struct Waiting {
    list: Vec<PullProgress>,
}

/// The caller's end.
#[derive(Clone, Default)]
pub struct Feed {
    waiting: Arc<Mutex<Waiting>>,
    more: Arc<Notify>,
}

impl Feed {
    /// The end that the work writes to: never blocks.
    pub fn writer(&self) -> ProgressFn {
        let feed = self.clone();
        Arc::new(move |progress| feed.put(encode(progress)))
    }

    fn put(&self, progress: PullProgress) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // A line for people is not replaced by a bare count, else "retrying" would never be seen.
        let same = |old: &PullProgress| {
            old.layer == progress.layer
                && !old.layer.is_empty()
                && (old.status.is_empty() || !progress.status.is_empty())
        };
        match waiting.list.iter().position(same) {
            Some(at) => waiting.list[at] = progress,
            None if waiting.list.len() < MAX_WAITING => waiting.list.push(progress),
            None => {}
        }
        drop(waiting);
        self.more.notify_one();
    }

    /// What is new, in the order in which it came; empty: nothing.
    pub fn take(&self) -> Vec<PullProgress> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner).list)
    }

    /// Waits until there is something new.
    pub async fn changed(&self) {
        self.more.notified().await;
    }

    /// Runs `work`, and sends its progress meanwhile. `None`: the caller has gone, and the work was dropped.
    pub async fn relay<T, M, F>(
        &self,
        work: F,
        to: &tokio::sync::mpsc::Sender<M>,
        wrap: fn(PullProgress) -> M,
    ) -> Option<T>
    where
        F: Future<Output = T>,
    {
        let mut work = std::pin::pin!(work);
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = to.closed() => return None,
                () = self.changed() => {
                    for progress in self.take() {
                        // While the caller's queue is full the work goes on.
                        let room = tokio::select! {
                            done = &mut work => { return self.rest(done, progress, to, wrap).await }
                            room = to.reserve() => room,
                        };
                        room.ok()?.send(wrap(progress));
                    }
                }
            }
        };
        for progress in self.take() {
            to.send(wrap(progress)).await.ok()?;
        }
        Some(done)
    }

    async fn rest<T, M>(
        &self,
        done: T,
        first: PullProgress,
        to: &tokio::sync::mpsc::Sender<M>,
        wrap: fn(PullProgress) -> M,
    ) -> Option<T> {
        to.send(wrap(first)).await.ok()?;
        for progress in self.take() {
            to.send(wrap(progress)).await.ok()?;
        }
        Some(done)
    }
}

fn encode(progress: Progress) -> PullProgress {
    PullProgress {
        layer: progress.layer.map(|digest| digest.to_string()).unwrap_or_default(),
        state: match progress.state {
            ProgressState::Resolving => State::Resolving,
            ProgressState::Waiting => State::Waiting,
            ProgressState::Downloading => State::Downloading,
            ProgressState::Verifying => State::Verifying,
            ProgressState::Unpacking => State::Unpacking,
            ProgressState::Done => State::Done,
            ProgressState::Exists => State::Exists,
        } as i32,
        current_bytes: progress.current_bytes,
        total_bytes: progress.total_bytes,
        status: progress.status.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::Digest;
    use berth_model::digest::Algorithm;

    fn progress(layer: u8, state: ProgressState, current_bytes: u64) -> Progress {
        Progress {
            layer: Some(Digest::from_bytes(Algorithm::Sha256, &[layer; 32])),
            state,
            current_bytes,
            total_bytes: 100,
            status: None,
        }
    }

    #[test]
    fn only_the_newest_word_on_a_layer_is_kept() {
        let feed = Feed::default();
        let write = feed.writer();
        for n in 0..1000 {
            write(progress(1, ProgressState::Downloading, n));
            write(progress(2, ProgressState::Waiting, 0));
        }
        write(progress(1, ProgressState::Done, 100));
        let got: Vec<(i32, u64)> = feed.take().iter().map(|p| (p.state, p.current_bytes)).collect();
        assert_eq!(got, [(State::Done as i32, 100), (State::Waiting as i32, 0)]);
        assert!(feed.take().is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_takes_nothing_does_not_hold_the_work_up() {
        let feed = Feed::default();
        let write = feed.writer();
        let (to, mut from) = tokio::sync::mpsc::channel(1);
        let work = async move {
            for n in 0..50 {
                write(progress(n, ProgressState::Done, 1));
                tokio::task::yield_now().await;
            }
            "done"
        };
        let relay = tokio::spawn(async move { feed.relay(work, &to, |p| p).await });
        let mut layers = std::collections::BTreeSet::new();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        while let Some(p) = from.recv().await {
            layers.insert(p.layer);
        }
        assert_eq!(relay.await.unwrap(), Some("done"));
        assert!(layers.len() >= 40, "{}", layers.len());
    }

    #[tokio::test]
    async fn a_caller_that_goes_ends_the_work() {
        let (to, from) = tokio::sync::mpsc::channel::<PullProgress>(1);
        drop(from);
        let done = Feed::default().relay(std::future::pending::<()>(), &to, |p| p).await;
        assert_eq!(done, None);
    }
}
