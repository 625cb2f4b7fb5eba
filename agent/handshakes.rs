//! Connections whose caller is not known yet: bounded in number, and the silent and the oldest go for newer ones, so that nobody keeps
//! others out by saying nothing. Of one network, those that speak are left their time: where each new one took the place of one in its
//! middle, none would come to its end.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// One network may have this part of them; more take the place of its own.
const EACH_DIVISOR: usize = 4;
/// As long as one that has spoken keeps its place from others of its network: much more than a handshake needs.
const SPEAKING: Duration = Duration::from_secs(2);
/// What went is told in the log so often, with its number.
const TELL_EVERY: Duration = Duration::from_secs(10);

pub struct Handshakes {
    most: usize,
    each: usize,
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    next: u64,
    /// The oldest first.
    list: VecDeque<One>,
    /// Since it was told.
    dropped: u64,
    told: Option<Instant>,
}

struct One {
    id: u64,
    from: IpAddr,
    since: Instant,
    /// Its first bytes have come.
    heard: bool,
    cut: CancellationToken,
}

/// What there is for a new one.
enum Place {
    Free,
    /// That of the one at this place of the list.
    Of(usize),
    Taken,
}

/// One handshake; it has ended when this is dropped.
pub struct Handshake {
    of: Arc<Handshakes>,
    id: u64,
    cut: CancellationToken,
}

impl Handshakes {
    pub fn new(most: usize) -> Arc<Handshakes> {
        Arc::new(Handshakes { most, each: (most / EACH_DIVISOR).max(1), under_way: Mutex::default() })
    }

    /// None: its network has its part, and all of that is in the middle of a handshake. Otherwise there is always room for a new one.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Handshake> {
        let from = network(address);
        let mut under_way = self.under_way();
        match under_way.place(from, self) {
            Place::Free => {}
            Place::Of(victim) => under_way.drop_one(victim),
            Place::Taken => {
                under_way.tell(from);
                return None;
            }
        }
        let (id, cut) = (under_way.next, CancellationToken::new());
        under_way.next += 1;
        under_way.list.push_back(One { id, from, since: Instant::now(), heard: false, cut: cut.clone() });
        Some(Handshake { of: self.clone(), id, cut })
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// A new one takes the place of one of its own network when that has its part, else of one of the network that has most.
    fn place(&self, from: IpAddr, limits: &Handshakes) -> Place {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for one in &self.list {
            *counts.entry(one.from).or_default() += 1;
        }
        let own = counts.get(&from).copied().unwrap_or(0);
        let most = counts.values().copied().max().unwrap_or(0);
        if own >= limits.each {
            return self.oldest(|one| one.from == from, true);
        }
        if self.list.len() < limits.most {
            return Place::Free;
        }
        // Many together keep nobody out whose network has less, by speaking neither.
        self.oldest(|one| counts[&one.from] == most, own == most)
    }

    /// The place of the oldest that has said nothing yet, or else of the oldest. `spare`: of none that has spoken and is young.
    fn oldest(&self, of: impl Fn(&One) -> bool, spare: bool) -> Place {
        if let Some(silent) = self.list.iter().position(|one| of(one) && !one.heard) {
            return Place::Of(silent);
        }
        match self.list.iter().position(of) {
            Some(oldest) if !spare || self.list[oldest].since.elapsed() >= SPEAKING => Place::Of(oldest),
            _ => Place::Taken,
        }
    }

    fn drop_one(&mut self, victim: usize) {
        let Some(one) = self.list.remove(victim) else { return };
        one.cut.cancel();
        self.tell(one.from);
    }

    fn tell(&mut self, from: IpAddr) {
        self.dropped += 1;
        if self.told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            let connections = std::mem::take(&mut self.dropped);
            self.told = Some(Instant::now());
            tracing::warn!(connections, %from, "connections refused: too many handshakes were under way at once");
        }
    }
}

impl Handshake {
    /// The first bytes have come.
    pub fn heard(&self) {
        if let Some(one) = self.of.under_way().list.iter_mut().find(|one| one.id == self.id) {
            one.heard = true;
        }
    }

    /// Returns when a newer one has its place.
    pub async fn dropped(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut under_way = self.of.under_way();
        if let Some(at) = under_way.list.iter().position(|one| one.id == self.id) {
            under_way.list.remove(at);
        }
    }
}

/// What counts as one: an address, or the /64 that one host of IPv6 has for itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(handshakes: &Arc<Handshakes>, from: &str) -> Handshake {
        handshakes.enter(from.parse().unwrap()).expect("a place")
    }

    fn is_refused(handshakes: &Arc<Handshakes>, from: &str) -> bool {
        handshakes.enter(from.parse().unwrap()).is_none()
    }

    fn gone(list: &[Handshake]) -> Vec<usize> {
        (0..list.len()).filter(|n| list[*n].cut.is_cancelled()).collect()
    }

    #[test]
    fn one_network_has_its_part_and_its_oldest_go() {
        let handshakes = Handshakes::new(16);
        let other = enter(&handshakes, "192.0.2.9");
        let four: Vec<_> = (0..6).map(|_| enter(&handshakes, "192.0.2.1")).collect();
        assert_eq!(gone(&four), [0, 1]);
        let six: Vec<_> = (1..=6).map(|n| enter(&handshakes, &format!("2001:db8::{n}"))).collect();
        assert_eq!(gone(&six), [0, 1], "a /64 is one");
        let mapped: Vec<_> = (0..4).map(|_| enter(&handshakes, "::ffff:192.0.2.1")).collect();
        assert_eq!((gone(&four), gone(&mapped)), ((0..6).collect(), vec![]), "IPv4 in IPv6 is IPv4");
        assert!(!other.cut.is_cancelled());
        drop((other, four, six, mapped));
        assert!(handshakes.under_way().list.is_empty());
    }

    #[test]
    fn a_new_one_takes_the_place_of_who_has_most() {
        let handshakes = Handshakes::new(16);
        let few = [enter(&handshakes, "192.0.2.1")];
        let many: Vec<_> = (0..15).map(|n| enter(&handshakes, &format!("198.51.100.{}", n / 4))).collect();
        let mut new = vec![enter(&handshakes, "203.0.113.1")];
        assert_eq!((gone(&few), gone(&many), gone(&new)), (vec![], vec![0], vec![]));
        // All have one: the oldest goes.
        drop(many);
        new.extend((2..=15).map(|n| enter(&handshakes, &format!("203.0.113.{n}"))));
        assert_eq!(gone(&few), [] as [usize; 0]);
        new.push(enter(&handshakes, "203.0.113.16"));
        assert_eq!((gone(&few), gone(&new)), (vec![0], vec![]));
    }

    #[test]
    fn who_speaks_comes_to_its_end_however_many_come() {
        let handshakes = Handshakes::new(16);
        let live: Vec<_> = (0..3).map(|_| enter(&handshakes, "192.0.2.1")).collect();
        live.iter().for_each(Handshake::heard);
        let silent: Vec<_> = (0..100).map(|_| enter(&handshakes, "192.0.2.1")).collect();
        assert_eq!((gone(&live), gone(&silent)), (vec![], (0..99).collect()), "the silent ones go, however young");
        silent[99].heard();
        for _ in 0..100 {
            assert!(is_refused(&handshakes, "192.0.2.1"), "all are in the middle");
        }
        assert_eq!((gone(&live), silent[99].cut.is_cancelled()), (vec![], false));
        let _other = enter(&handshakes, "192.0.2.2");
        drop(live);
        let next: Vec<_> = (0..3).map(|_| enter(&handshakes, "192.0.2.1")).collect();
        assert_eq!((gone(&next), silent[99].cut.is_cancelled()), (vec![], false), "who has ended makes room");
    }

    #[test]
    fn who_has_spoken_and_does_not_end_gives_way() {
        let handshakes = Handshakes::new(16);
        let slow: Vec<_> = (0..4).map(|_| enter(&handshakes, "192.0.2.1")).collect();
        slow.iter().for_each(Handshake::heard);
        assert!(is_refused(&handshakes, "192.0.2.1"));
        for one in handshakes.under_way().list.iter_mut().take(2) {
            one.since = one.since.checked_sub(SPEAKING).expect("a host that is up for so long");
        }
        let new = [0, 1].map(|_| {
            let one = enter(&handshakes, "192.0.2.1");
            one.heard();
            one
        });
        assert_eq!((gone(&slow), gone(&new)), (vec![0, 1], vec![]));
        assert!(is_refused(&handshakes, "192.0.2.1"));
    }

    #[test]
    fn networks_that_speak_keep_out_none_that_has_less() {
        let handshakes = Handshakes::new(16);
        let from = |n: usize| format!("198.51.100.{}", n / 4);
        let many: Vec<_> = (0..16).map(|n| enter(&handshakes, &from(n))).collect();
        many.iter().enumerate().filter(|(n, _)| *n != 9).for_each(|(_, one)| one.heard());
        let mut new = vec![enter(&handshakes, "203.0.113.1")];
        assert_eq!((gone(&many), gone(&new)), (vec![9], vec![]), "one that is silent, of those that have most");
        new.push(enter(&handshakes, "203.0.113.2"));
        assert_eq!((gone(&many), gone(&new)), (vec![0, 9], vec![]), "or the oldest, however young");
        // One that would have as much as they have waits for the end of one.
        let one_each = Handshakes::new(8);
        let all: Vec<_> = (1..=8).map(|n| enter(&one_each, &format!("203.0.113.{n}"))).collect();
        all.iter().for_each(Handshake::heard);
        assert!(is_refused(&one_each, "203.0.113.5"));
        let _stranger = enter(&one_each, "203.0.113.99");
        assert_eq!(gone(&all), [0]);
    }
}
