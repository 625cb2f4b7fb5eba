//! Room that callers share, so that one of them cannot take what all the others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Semaphore;

/// So many places, of which one caller has a part once half of them are taken, and the last ones are for who comes first.
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
    /// The caller has so many, and no more are given to it before others have ended.
    Caller(usize),
    /// All callers together have all that there is for them.
    All,
}

impl Shares {
    /// A caller may have a quarter, and more while less than half of all are taken; the last eighth is for who comes first, and who does
    /// may have more than a quarter of the others at any time.
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
        // Who is alone keeps nobody out: what is left when half is taken is for those who have less.
        if own >= self.each && taken.all >= self.all / 2 && !first {
            return Err(Full::Caller(own));
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

    /// Who comes and how many it wants, and how many it gets of them.
    type Turn = (&'static str, usize, usize, Option<Full>);

    #[test]
    fn a_caller_has_half_when_it_is_alone_and_else_a_quarter() {
        use Full::{All, Caller};
        let of_32: [&[Turn]; 5] = [
            &[("a", 99, 16, Some(Caller(16)))],
            // What one has left is for the others, a quarter for each.
            &[("a", 99, 16, Some(Caller(16))), ("b", 99, 8, Some(Caller(8))), ("c", 99, 4, Some(All))],
            // Half is taken by several: who has a quarter gets no more, and who has less does.
            &[("a", 10, 10, None), ("b", 6, 6, None), ("a", 1, 0, Some(Caller(10))), ("b", 99, 2, Some(Caller(8)))],
            &[("a", 7, 7, None), ("b", 99, 9, Some(Caller(9))), ("a", 99, 1, Some(Caller(8)))],
            &[
                ("a", 4, 4, None),
                ("b", 4, 4, None),
                ("c", 4, 4, None),
                ("d", 99, 8, Some(Caller(8))),
                ("a", 99, 4, Some(Caller(8))),
                ("b", 99, 4, Some(Caller(8))),
                ("c", 99, 0, Some(All)),
            ],
        ];
        for turns in of_32 {
            let shares = Shares::new(32);
            let mut held = Vec::new();
            for (caller, wanted, places, full) in turns {
                let (before, mut refused) = (held.len(), None);
                while held.len() - before < *wanted && refused.is_none() {
                    match shares.enter(caller, false) {
                        Ok(share) => held.push(share),
                        Err(full) => refused = Some(full),
                    }
                }
                assert_eq!((held.len() - before, refused), (*places, *full), "{caller} of {turns:?}");
            }
        }
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let shares = Shares::new(16);
        let mut held = enter(&shares, "mallory", false, 8);
        let _others = enter(&shares, "alice", false, 4);
        held.truncate(4);
        assert_eq!(
            shares.enter("mallory", false).err(),
            Some(Full::Caller(4)),
            "alice has her part, and half is taken"
        );
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
