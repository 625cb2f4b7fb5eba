//! Memory that calls take, bounded for each caller: what is being received, and answers that are not read.

use berth_node::{Own, Share};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of large requests that one caller has under way; one of any size is always taken.
const RECEIVED_EACH: usize = 16 << 20;
/// So many callers may have all of theirs.
const CALLERS: usize = 4;
/// Answers of one caller in the making or not yet read: a container's labels alone may be some megabytes.
pub const ANSWERS_EACH: usize = 16;
/// For a place among these. A person waits for most of these answers, and is told why there is none while the call would still have time.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of requests that are being received.
pub struct Receiving {
    own: Own,
    all: Arc<Semaphore>,
}

/// Given back when the message is there or the call has ended.
pub struct Bytes {
    _own: OwnedSemaphorePermit,
    _all: Option<OwnedSemaphorePermit>,
}

impl Receiving {
    /// `most`: bytes of one message.
    pub fn new(most: usize) -> Receiving {
        let each = most.max(RECEIVED_EACH);
        Receiving { own: Own::new(each), all: Arc::new(Semaphore::new(each * CALLERS)) }
    }

    /// Waits for room for one message. `first`: past what all share, within one's own. `None`: never.
    pub async fn take(self: Arc<Self>, caller: String, first: bool, bytes: usize) -> Option<Bytes> {
        let bytes = u32::try_from(bytes).ok()?;
        let own = self.own.of(&caller).acquire_many_owned(bytes).await.ok()?;
        let all = match first {
            true => None,
            false => Some(self.all.clone().acquire_many_owned(bytes).await.ok()?),
        };
        Some(Bytes { _own: own, _all: all })
    }
}

/// Large answers of each caller; more wait until some were read, and not for long.
pub struct Answering {
    own: Own,
    patience: Duration,
}

impl Default for Answering {
    fn default() -> Answering {
        Answering::with(ANSWER_PATIENCE)
    }
}

impl Answering {
    pub fn with(patience: Duration) -> Answering {
        Answering { own: Own::new(ANSWERS_EACH), patience }
    }

    /// `None`: none was read in time.
    pub async fn take(self: Arc<Self>, caller: String) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(self.patience, self.own.of(&caller).acquire_owned()).await.ok()?.ok()
    }
}

/// What a call holds until the last of its answer is on its way.
pub struct Held {
    pub _share: Share,
    pub _answer: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_caller_fills_its_own_part() {
        let receiving = Arc::new(Receiving::new(4 << 20));
        let take = |caller: &str, first| receiving.clone().take(caller.into(), first, 4 << 20);
        let soon = |work| tokio::time::timeout(Duration::from_millis(50), work);
        let mut held = Vec::new();
        for caller in ["a", "b", "c", "d"] {
            for _ in 0..4 {
                held.push(soon(take(caller, false)).await.unwrap().unwrap());
            }
            assert!(soon(take(caller, false)).await.is_err(), "{caller} has all of its part");
        }
        assert!(soon(take("e", false)).await.is_err(), "all together have all");
        held.push(soon(take("admin", true)).await.expect("an admin has a part of its own").unwrap());
        held.truncate(1);
        held.push(soon(take("e", false)).await.expect("given back").unwrap());
    }
}
