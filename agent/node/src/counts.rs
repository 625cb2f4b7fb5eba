//! What the node did since it was opened, in numbers that only go up, for those who ask now and then.
//!
//! Counting is an addition to an atomic; nothing here runs by itself.

use crate::{ContainerSample, Node, NodeError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many durations of a kind there were, by upper bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One more than bounds: the last is for what is above all of them.
    counts: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

/// A [`Histogram`] at one time.
#[derive(Clone, PartialEq, Debug)]
pub struct Distribution {
    /// Upper bound in seconds, and how many were not above it.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

impl Histogram {
    /// `bounds` ascending.
    pub fn new(bounds: &'static [Duration]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum_us: AtomicU64::new(0) }
    }

    pub fn add(&self, took: Duration) {
        let index = self.bounds.partition_point(|bound| *bound < took);
        if let Some(count) = self.counts.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn read(&self) -> Distribution {
        let mut count = 0;
        let mut upto = |c: &AtomicU64| {
            count += c.load(Ordering::Relaxed);
            count
        };
        let buckets = self.bounds.iter().zip(&self.counts).map(|(b, c)| (b.as_secs_f64(), upto(c))).collect();
        let count = self.counts.last().map_or(0, upto);
        Distribution { buckets, count, sum_seconds: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6 }
    }
}

/// From a write into the page cache to a disk that is busy.
const DISK: [Duration; 7] = [
    Duration::from_micros(250),
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
    Duration::from_millis(64),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// How long the store takes.
#[derive(Debug)]
pub(crate) struct StoreTimes {
    /// Of one transaction of many writes.
    pub commit: Histogram,
    /// Of one fdatasync(2).
    pub sync: Histogram,
}

impl Default for StoreTimes {
    fn default() -> Self {
        StoreTimes { commit: Histogram::new(&DISK), sync: Histogram::new(&DISK) }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub pulls: AtomicU64,
    pub failed_pulls: AtomicU64,
    pub pulled_bytes: AtomicU64,
    pub gc_runs: AtomicU64,
    pub gc_containers: AtomicU64,
    pub gc_images: AtomicU64,
    pub gc_layers: AtomicU64,
    pub gc_bytes: AtomicU64,
}

impl Counts {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// What the node did and does.
#[derive(Clone, Debug)]
pub struct Figures {
    pub pulls: u64,
    pub failed_pulls: u64,
    /// From the network.
    pub pulled_bytes: u64,
    pub gc_runs: u64,
    /// Removed by collections and prunes.
    pub gc_containers: u64,
    pub gc_images: u64,
    pub gc_layers: u64,
    pub gc_bytes: u64,
    /// Cursor of the newest event: goes on where the last agent ended.
    pub events: u64,
    pub event_watchers: u64,
    pub stats_watchers: u64,
    /// Writes that wait for the store, and how many may.
    pub store_queue: u64,
    pub store_queue_max: u64,
    pub store_failing: bool,
    pub store_commits: Distribution,
    pub store_syncs: Distribution,
}

/// A running container with what is asked for more seldom than once a second.
#[derive(Clone, Debug)]
pub struct Measured {
    pub sample: ContainerSample,
    /// Processes of this run that the kernel ended for want of memory. None: this host does not count them.
    pub oom_kills: Option<u64>,
}

impl Node {
    /// What the node did since it was opened; from memory.
    pub fn figures(&self) -> Figures {
        let inner = self.inner();
        let counts = &inner.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (store_queue, store_queue_max) = inner.store.queue();
        Figures {
            pulls: read(&counts.pulls),
            failed_pulls: read(&counts.failed_pulls),
            pulled_bytes: read(&counts.pulled_bytes),
            gc_runs: read(&counts.gc_runs),
            gc_containers: read(&counts.gc_containers),
            gc_images: read(&counts.gc_images),
            gc_layers: read(&counts.gc_layers),
            gc_bytes: read(&counts.gc_bytes),
            events: inner.events.newest(),
            event_watchers: inner.events.watchers(),
            stats_watchers: inner.stats.watchers(),
            store_queue,
            store_queue_max,
            store_failing: inner.store.is_failing(),
            store_commits: inner.store.times().commit.read(),
            store_syncs: inner.store.times().sync.read(),
        }
    }

    /// As [`Node::sample`], with what only their cgroups know.
    ///
    /// # Errors
    /// `Stopping`.
    pub async fn measure(&self) -> Result<Vec<Measured>, NodeError> {
        let sample = self.sample().await?;
        let inner = self.inner().clone();
        let oom_kills =
            move |sample: ContainerSample| Measured { oom_kills: inner.runtime.oom_kills(&sample.record.id), sample };
        self.inner().blocking(move || Ok(sample.containers.into_iter().map(oom_kills).collect())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_every_bucket_that_is_not_below_it() {
        let h = Histogram::new(&DISK);
        for ms in [0, 1, 2, 100, 5000] {
            h.add(Duration::from_millis(ms));
        }
        let read = h.read();
        let counts: Vec<u64> = read.buckets.iter().map(|(_, n)| *n).collect();
        assert_eq!(counts, [1, 2, 3, 3, 3, 4, 4]);
        assert_eq!((read.count, read.sum_seconds), (5, 5.103));
        assert_eq!(read.buckets[0].0, 0.00025);
    }
}
