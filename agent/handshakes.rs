//! Connections whose caller is not known yet: bounded in number, and the oldest go for newer ones, so that nobody keeps others out by
//! being silent.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// One network may have this part of them; more take the place of its own.
const EACH_DIVISOR: usize = 4;
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
    cut: CancellationToken,
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

    /// There is always room for a new one.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Handshake {
        let from = network(address);
        let mut under_way = self.under_way();
        if let Some(victim) = under_way.victim(from, self) {
            under_way.drop_one(victim);
        }
        let (id, cut) = (under_way.next, CancellationToken::new());
        under_way.next += 1;
        under_way.list.push_back(One { id, from, cut: cut.clone() });
        Handshake { of: self.clone(), id, cut }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Whose place a new one takes: the oldest of its own network when that has its part, or of the network that has most.
    fn victim(&self, from: IpAddr, limits: &Handshakes) -> Option<usize> {
        if self.list.iter().filter(|one| one.from == from).count() >= limits.each {
            return self.list.iter().position(|one| one.from == from);
        }
        if self.list.len() < limits.most {
            return None;
        }
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for one in &self.list {
            *counts.entry(one.from).or_default() += 1;
        }
        let most = counts.values().max()?;
        self.list.iter().position(|one| counts[&one.from] == *most)
    }

    fn drop_one(&mut self, victim: usize) {
        let Some(one) = self.list.remove(victim) else { return };
        one.cut.cancel();
        self.dropped += 1;
        if self.told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            let connections = std::mem::take(&mut self.dropped);
            self.told = Some(Instant::now());
            tracing::warn!(connections, from = %one.from, "connections refused: newer ones came before their handshake had ended");
        }
    }
}

impl Handshake {
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
        handshakes.enter(from.parse().unwrap())
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
}
