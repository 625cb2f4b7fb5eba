//! What is due later: restarts and health checks, at most one of each for a container.
//!
//! One task for all of them. It sleeps until the earliest, and for ever while nothing waits: an idle node does not wake up.

use crate::node::Inner;
use crate::{health, policy};
use berth_model::ContainerId;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    Restart,
    Probe,
}

#[derive(Default)]
pub(crate) struct Timers {
    table: Mutex<Table>,
    /// The earliest may have changed.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    /// The number tells those of the same instant apart.
    due: BTreeMap<(Instant, u64), (ContainerId, Kind)>,
    places: HashMap<(ContainerId, Kind), (Instant, u64)>,
    number: u64,
}

impl Table {
    fn clear(&mut self, what: &(ContainerId, Kind)) {
        if let Some(place) = self.places.remove(what) {
            self.due.remove(&place);
        }
    }
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `kind` of a container due at `at`, in place of what was due before.
    pub fn set(&self, id: &ContainerId, kind: Kind, at: Instant) {
        let mut table = self.lock();
        let what = (id.clone(), kind);
        table.clear(&what);
        table.number += 1;
        let place = (at, table.number);
        table.due.insert(place, what.clone());
        table.places.insert(what, place);
        let first = table.due.first_key_value().is_some_and(|(first, _)| *first == place);
        drop(table);
        if first {
            self.changed.notify_one();
        }
    }

    pub fn clear(&self, id: &ContainerId, kind: Kind) {
        // The task may wake up once for nothing: cheaper than telling it.
        self.lock().clear(&(id.clone(), kind));
    }

    fn next(&self) -> Option<Instant> {
        self.lock().due.first_key_value().map(|((at, _), _)| *at)
    }

    fn take(&self, now: Instant) -> Option<(ContainerId, Kind)> {
        let mut table = self.lock();
        let (place, _) = table.due.first_key_value()?;
        if place.0 > now {
            return None;
        }
        let (_, what) = table.due.pop_first()?;
        table.places.remove(&what);
        Some(what)
    }
}

/// Until the node is closed.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        let next = inner.timers.next();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = inner.timers.changed.notified() => {}
            () = inner.stop.cancelled() => return,
        }
        while let Some((id, kind)) = inner.timers.take(Instant::now()) {
            match kind {
                Kind::Restart => policy::due(&inner, &id),
                Kind::Probe => health::due(&inner, &id),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn due_in_order_and_once() {
        let timers = Timers::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let id = |n| ContainerId::from_bytes([n; 32]);
        timers.set(&id(1), Kind::Restart, at(3));
        timers.set(&id(2), Kind::Restart, at(1));
        timers.set(&id(4), Kind::Restart, at(2));
        timers.set(&id(1), Kind::Restart, at(2));
        timers.set(&id(3), Kind::Restart, at(2));
        timers.clear(&id(3), Kind::Restart);
        assert_eq!(timers.next(), Some(at(1)));
        assert_eq!(timers.take(start), None);
        assert_eq!(timers.take(at(2)), Some((id(2), Kind::Restart)));
        assert_eq!(timers.take(at(2)), Some((id(4), Kind::Restart)));
        assert_eq!(timers.take(at(2)), Some((id(1), Kind::Restart)));
        assert_eq!(timers.take(at(9)), None);
        assert!(timers.lock().places.is_empty());
    }
}
