//! Room for work that lasts as long as its caller takes: a part of it for one caller, the last of it for admins, and an end of waiting.

use crate::NodeError;
use crate::shares::{Full, Share, Shares};
use crate::view::Requester;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a caller waits for a place: short work of others has ended by then, and long work says no more for waiting longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Callers that wait at once: each is woken whenever a place comes free, and may be gone without this knowing.
const WAITING: usize = 1024;

/// So many places for one kind of work.
pub(crate) struct Places {
    what: &'static str,
    patience: Duration,
    room: Arc<Shares>,
    waiting: Arc<Shares>,
    freed: Arc<Notify>,
}

impl Places {
    /// `what` there is room for, as many as the word is for.
    pub fn new(what: &'static str, all: usize, patience: Duration) -> Places {
        let (room, waiting) = (Shares::new(all), Shares::new(WAITING));
        Places { what, patience, room, waiting, freed: Arc::default() }
    }

    /// A place; waits a while for one.
    ///
    /// # Errors
    /// `NoPlace`.
    pub async fn enter(&self, who: &Requester) -> Result<Taken, NodeError> {
        let full = match self.try_enter(who) {
            Ok(taken) => return Ok(taken),
            Err(full) => full,
        };
        let Ok(_waits) = self.waiting.enter(&who.caller, who.first) else { return Err(self.none(full)) };
        let until = Instant::now() + self.patience;
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before it is looked: what comes free in between is heard.
            freed.as_mut().enable();
            let full = match self.try_enter(who) {
                Ok(taken) => return Ok(taken),
                Err(full) => full,
            };
            if timeout_at(until, freed).await.is_err() {
                return Err(self.none(full));
            }
        }
    }

    fn try_enter(&self, who: &Requester) -> Result<Taken, Full> {
        // One name may have two certificates: nobody takes an admin's places by being called the same.
        let party = format!("{} {}", who.first, who.caller);
        let share = self.room.enter(&party, who.first)?;
        Ok(Taken { share: Some(share), freed: self.freed.clone() })
    }

    fn none(&self, full: Full) -> NodeError {
        NodeError::NoPlace { what: self.what, full }
    }
}

/// One place; given back when it is dropped.
pub(crate) struct Taken {
    share: Option<Share>,
    freed: Arc<Notify>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        drop(self.share.take());
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    fn who(caller: &str, first: bool) -> Requester {
        Requester { caller: caller.to_owned(), request_id: String::new(), first }
    }

    async fn enter(places: &Places, caller: &str, first: bool, n: usize) -> Vec<Taken> {
        let mut taken = Vec::new();
        for _ in 0..n {
            taken.push(places.enter(&who(caller, first)).await.expect("a place"));
        }
        taken
    }

    #[tokio::test]
    async fn one_caller_does_not_take_what_the_others_need() {
        let places = Places::new("copies", 16, SHORT);
        let _mallory = enter(&places, "mallory", false, 8).await;
        let refused = places.enter(&who("mallory", false)).await.map(drop).unwrap_err();
        assert!(matches!(refused, NodeError::NoPlace { full: Full::Caller(8), .. }), "{refused:?}");
        assert!(refused.to_string().contains("you have 8 copies"), "{refused}");
        let mut others = enter(&places, "alice", false, 4).await;
        others.extend(enter(&places, "bob", false, 2).await);
        let refused = places.enter(&who("bob", false)).await.map(drop).unwrap_err();
        assert!(matches!(refused, NodeError::NoPlace { full: Full::All, .. }), "{refused:?}");
        // Mallory's other certificate, for example.
        let _admin = enter(&places, "mallory", true, 2).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_has_the_place_that_comes_free() {
        let places = Arc::new(Places::new("copies", 4, Duration::from_secs(60)));
        let held = enter(&places, "a", false, 2).await;
        let waits = tokio::spawn({
            let places = places.clone();
            async move { places.enter(&who("a", false)).await.map(drop) }
        });
        tokio::time::sleep(SHORT).await;
        assert!(!waits.is_finished());
        drop(held);
        tokio::time::timeout(Duration::from_secs(10), waits).await.expect("woken").expect("joined").expect("a place");
    }

    #[tokio::test]
    async fn only_so_many_of_a_caller_wait() {
        let places = Places::new("copies", 4, Duration::from_secs(60));
        let _held = enter(&places, "a", false, 2).await;
        let _waiting: Vec<_> =
            (0..WAITING / 2).map(|_| places.waiting.enter("a", false).unwrap_or_else(|e| panic!("{e:?}"))).collect();
        let refused = tokio::time::timeout(Duration::from_secs(10), places.enter(&who("a", false))).await;
        assert!(matches!(refused.expect("at once"), Err(NodeError::NoPlace { full: Full::Caller(2), .. })));
    }
}
