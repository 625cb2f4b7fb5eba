//! How often and when a request is tried again.

use crate::Limits;
use crate::error::ImageError;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// May go better later: no connection, a cut one, a stall, 429, 5xx.
    Again {
        reason: String,
        retry_after: Option<Duration>,
    },
    Final(ImageError),
}

impl Failure {
    pub fn again(reason: impl Into<String>) -> Self {
        Failure::Again { reason: reason.into(), retry_after: None }
    }
}

impl From<ImageError> for Failure {
    fn from(e: ImageError) -> Self {
        Failure::Final(e)
    }
}

/// Exponential back-off with jitter, bounded in number and in length.
#[derive(Debug)]
pub(crate) struct Backoff {
    tries_left: u32,
    tries: u32,
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// `tries` in all, the first one included.
    pub fn new(limits: &Limits, tries: u32) -> Self {
        Backoff { tries_left: tries, tries, next: limits.backoff, first: limits.backoff, longest: limits.longest_wait }
    }

    /// How long to wait before the next try; None when it is enough, or when the registry wants more patience than the
    /// limits have.
    pub fn wait(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        self.tries_left = self.tries_left.saturating_sub(1);
        if self.tries_left == 0 || retry_after.is_some_and(|r| r > self.longest) {
            return None;
        }
        // Between half and all of it: agents that were cut off together do not come back together.
        let half = self.next / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        let jitter = Duration::from_millis(RandomState::new().hash_one(self.tries_left) % spread);
        self.next = (self.next * 2).min(self.longest);
        Some((half + jitter).max(retry_after.unwrap_or_default()))
    }

    /// There was progress: the count starts again.
    pub fn reset(&mut self) {
        self.tries_left = self.tries;
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_each_time_and_ends() {
        let limits = Limits { backoff: Duration::from_millis(100), ..Limits::default() };
        let mut backoff = Backoff::new(&limits, 4);
        for (least, most) in [(50, 100), (100, 200), (200, 400)] {
            let wait = backoff.wait(None).unwrap().as_millis();
            assert!((least..=most).contains(&wait), "{wait} ms is not within {least} and {most}");
        }
        assert_eq!(backoff.wait(None), None);
        backoff.reset();
        assert_eq!(backoff.wait(Some(Duration::from_secs(3))), Some(Duration::from_secs(3)));
        assert_eq!(backoff.wait(Some(Duration::from_secs(7200))), None, "two hours are too long");
    }
}
