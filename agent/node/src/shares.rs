//! Room that callers share, so that one of them cannot take what all the others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Semaphore;

/// So many places, of which one caller has a part and the last ones are for who comes first.
pub struct Shares {
    all: usize,
    each: usize,
    reserve: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_caller: HashMap<String, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The caller has as many as one caller may have.
    Caller(usize),
    /// All callers together have all that there is for them.
    All,
}

impl Shares {
    /// A caller may have a quarter; the last eighth is for who comes first, and who does may have more than a quarter of the others.
    pub fn new(all: usize) -> Arc<Shares> {
        Shares::with(all, (all / 4).max(1), all / 8)
    }

    pub fn with(all: usize, each: usize, reserve: usize) -> Arc<Shares> {
        Arc::new(Shares { all, each, reserve, taken: Mutex::default() })
    }

    /// A place for `caller`. `first`: also one of the reserve.
    ///
    /// # Errors
    /// When there is none; nobody waits.
    pub fn enter(self: &Arc<Self>, caller: &str, first: bool) -> Result<Share, Full> {
        let mut taken = self.taken();
        let own = taken.by_caller.get(caller).copied().unwrap_or(0);
        if own >= self.each && !first {
            return Err(Full::Caller(self.each));
        }
        // An orchestrator that waits for a thousand containers leaves the last ones to who has to look what it does.
        let reserve = if first && own < self.each { 0 } else { self.reserve };
        if taken.all + reserve >= self.all {
            return Err(Full::All);
        }
        taken.all += 1;
        taken.by_caller.insert(caller.to_owned(), own + 1);
        Ok(Share { of: self.clone(), caller: caller.to_owned() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place; given back when it is dropped.
pub struct Share {
    of: Arc<Shares>,
    caller: String,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.all -= 1;
        if let Some(own) = taken.by_caller.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                taken.by_caller.remove(&self.caller);
            }
        }
    }
}

/// A semaphore for each caller, as long as it has something of it: more of its own waits.
pub struct Own {
    each: usize,
    by_caller: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl Own {
    pub fn new(each: usize) -> Own {
        Own { each, by_caller: Mutex::default() }
    }

    pub fn of(&self, caller: &str) -> Arc<Semaphore> {
        let mut by_caller = self.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = by_caller.get(caller).and_then(Weak::upgrade) {
            return own;
        }
        by_caller.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.each));
        by_caller.insert(caller.to_owned(), Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_waits_for_its_own_only() {
        let own = Own::new(2);
        let held: Vec<_> = (0..2).map(|_| own.of("a").try_acquire_owned().unwrap()).collect();
        assert!(own.of("a").try_acquire_owned().is_err());
        let _other = own.of("b").try_acquire_owned().unwrap();
        drop(held);
        let _again = own.of("a").try_acquire_owned().unwrap();
        let _third = own.of("c");
        assert_eq!(own.by_caller.lock().unwrap().len(), 3);
        drop((_again, _third));
        let _fourth = own.of("d");
        assert_eq!(own.by_caller.lock().unwrap().len(), 2, "nothing is left of who has gone");
    }

    fn enter(shares: &Arc<Shares>, caller: &str, first: bool, n: usize) -> Vec<Share> {
        (0..n).map(|i| shares.enter(caller, first).unwrap_or_else(|e| panic!("{caller} {i}: {e:?}"))).collect()
    }

    #[test]
    fn one_caller_has_a_quarter() {
        let shares = Shares::new(16);
        let mut held = enter(&shares, "mallory", false, 4);
        assert_eq!(shares.enter("mallory", false).err(), Some(Full::Caller(4)));
        let _others = enter(&shares, "alice", false, 4);
        held.pop();
        held.extend(enter(&shares, "mallory", false, 1));
    }

    #[test]
    fn the_last_ones_are_for_who_comes_first() {
        let shares = Shares::new(16);
        let mut held: Vec<_> = ["a", "b", "c"].iter().flat_map(|name| enter(&shares, name, false, 4)).collect();
        held.extend(enter(&shares, "d", false, 2));
        assert_eq!(shares.enter("d", false).err(), Some(Full::All));
        held.extend(enter(&shares, "root", true, 2));
        assert_eq!(shares.enter("root", true).err(), Some(Full::All));
        drop(held);
        assert!(shares.taken().by_caller.is_empty() && shares.taken().all == 0, "nothing is left of who has gone");
    }

    #[test]
    fn who_comes_first_may_have_more_but_not_the_last_ones() {
        let shares = Shares::new(16);
        let mut held = enter(&shares, "orchestrator", true, 14);
        assert_eq!(shares.enter("orchestrator", true).err(), Some(Full::All));
        held.extend(enter(&shares, "root", true, 2));
    }

    #[test]
    fn few_places_are_still_some() {
        let shares = Shares::new(1);
        let _held = enter(&shares, "a", false, 1);
        assert_eq!(shares.enter("b", false).err(), Some(Full::All));
    }
}
