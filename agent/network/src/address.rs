//! Which addresses of a subnet are given out: one code for both families, which counts in 128 bits.

use crate::error::{NetworkError, Prefix, Prefix6};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of one subnet. Free ones are given out in turn, so that an address that was given back rests as long as possible:
/// peers may still remember it.
#[derive(Debug)]
struct Pool {
    /// First and last address that a host may have.
    hosts: (u128, u128),
    /// First and last of those that are chosen from.
    range: (u128, u128),
    /// The gateway, and those of others: in no container's hand, and never given back.
    kept: BTreeSet<u128>,
    taken: BTreeSet<u128>,
    next: u128,
}

impl Pool {
    fn new(hosts: (u128, u128), range: (u128, u128), gateway: u128) -> Self {
        let range = (range.0.max(hosts.0), range.1.min(hosts.1));
        let kept = BTreeSet::from([gateway]);
        Pool { hosts, range, taken: kept.clone(), kept, next: range.0 }
    }

    fn keep(&mut self, address: u128) {
        self.kept.insert(address);
        self.taken.insert(address);
    }

    fn take(&mut self) -> Option<u128> {
        let (first, last) = self.range;
        let start = if (first..=last).contains(&self.next) { self.next } else { first };
        let free = self.first_free(start, last).or_else(|| self.first_free(first, last))?;
        self.taken.insert(free);
        self.next = free + 1;
        Some(free)
    }

    /// The lowest address from `low` to `high` that is in no hand: walks the taken ones that stand side by side from `low` on.
    fn first_free(&self, low: u128, high: u128) -> Option<u128> {
        if low > high {
            return None;
        }
        let mut candidate = low;
        for &taken in self.taken.range(low..=high) {
            if taken != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate <= high).then_some(candidate)
    }

    /// Takes this very address if it is free.
    fn take_this(&mut self, address: u128) -> bool {
        (self.hosts.0..=self.hosts.1).contains(&address) && self.taken.insert(address)
    }

    /// As `take_this`, and those behind it are given out next: after a restart of the agent.
    fn restore(&mut self, address: u128) -> bool {
        let inside = self.take_this(address);
        if inside {
            self.next = self.next.max(address + 1);
        }
        inside
    }

    fn give_back(&mut self, address: u128) {
        if !self.kept.contains(&address) {
            self.taken.remove(&address);
        }
    }
}

/// The addresses of a network.
#[derive(Debug)]
pub struct Addresses {
    /// Where they are chosen from.
    v4: Prefix,
    v6: Option<Prefix6>,
    pool4: Pool,
    pool6: Option<Pool>,
}

const fn wide(address: Ipv4Addr) -> u128 {
    address.to_bits() as u128
}

impl Addresses {
    /// All of the gateways' subnets, without the networks' own addresses, the broadcast address and the gateways. `range`: chosen from there.
    pub fn new(v4: Prefix, range4: Option<Prefix>, v6: Option<Prefix6>, range6: Option<Prefix6>) -> Self {
        let hosts4 = (wide(v4.network()) + 1, wide(v4.broadcast()) - 1);
        let bounds4 = range4.map_or(hosts4, |r| (wide(r.network()), wide(r.broadcast())));
        let pool6 = v6.map(|v6| {
            let hosts6 = (v6.network().to_bits() + 1, v6.last().to_bits());
            let bounds6 = range6.map_or(hosts6, |r| (r.network().to_bits(), r.last().to_bits()));
            Pool::new(hosts6, bounds6, v6.address.to_bits())
        });
        let pool4 = Pool::new(hosts4, bounds4, wide(v4.address));
        Addresses { v4: range4.unwrap_or(v4), v6: range6.or(v6), pool4, pool6 }
    }

    /// An address of somebody else's: no container gets it.
    pub fn keep(&mut self, address: IpAddr) {
        match (address, &mut self.pool6) {
            (IpAddr::V4(a), _) => self.pool4.keep(wide(a)),
            (IpAddr::V6(a), Some(pool)) => pool.keep(a.to_bits()),
            (IpAddr::V6(_), None) => {}
        }
    }

    pub fn take(&mut self) -> Result<Ipv4Addr, NetworkError> {
        let address = self.pool4.take().ok_or(NetworkError::NoAddressLeft(self.v4))?;
        // The pool is one of IPv4 addresses.
        Ok(Ipv4Addr::from_bits(address as u32))
    }

    /// `None`: the network has no IPv6.
    pub fn take6(&mut self) -> Result<Option<Ipv6Addr>, NetworkError> {
        let (Some(pool), Some(v6)) = (&mut self.pool6, self.v6) else { return Ok(None) };
        let address = pool.take().ok_or(NetworkError::NoAddressLeft6(v6))?;
        Ok(Some(Ipv6Addr::from_bits(address)))
    }

    pub fn is_free(&self, address: Ipv4Addr) -> bool {
        !self.pool4.taken.contains(&wide(address))
    }

    /// Takes this very address if it is free: one that was asked for, or that the container had a moment ago.
    pub fn take_this(&mut self, address: Ipv4Addr) -> bool {
        self.pool4.take_this(wide(address))
    }

    pub fn take_this6(&mut self, address: Ipv6Addr) -> bool {
        self.pool6.as_mut().is_some_and(|p| p.take_this(address.to_bits()))
    }

    /// Takes this very address: after a restart of the agent. False when it lies outside or is taken.
    pub fn restore(&mut self, address: Ipv4Addr) -> bool {
        self.pool4.restore(wide(address))
    }

    pub fn restore6(&mut self, address: Ipv6Addr) -> bool {
        self.pool6.as_mut().is_some_and(|p| p.restore(address.to_bits()))
    }

    pub fn give_back(&mut self, address: Ipv4Addr) {
        self.pool4.give_back(wide(address));
    }

    pub fn give_back6(&mut self, address: Ipv6Addr) {
        if let Some(pool) = &mut self.pool6 {
            pool.give_back(address.to_bits());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(len: u8) -> Addresses {
        Addresses::new(Prefix { address: Ipv4Addr::new(10, 1, 2, 1), len }, None, None, None)
    }

    #[test]
    fn in_turn_and_not_reused_at_once() {
        let mut a = subnet(24);
        assert_eq!(a.take().unwrap(), Ipv4Addr::new(10, 1, 2, 2));
        a.give_back(Ipv4Addr::new(10, 1, 2, 2));
        assert_eq!(a.take().unwrap(), Ipv4Addr::new(10, 1, 2, 3));
    }

    #[test]
    fn full_and_round() {
        let mut a = subnet(29);
        let all: BTreeSet<_> = (0..5).map(|_| a.take().unwrap()).collect();
        assert_eq!(all.len(), 5);
        assert!(!all.contains(&Ipv4Addr::new(10, 1, 2, 0)) && !all.contains(&Ipv4Addr::new(10, 1, 2, 7)));
        assert!(matches!(a.take(), Err(NetworkError::NoAddressLeft(_))));
        a.give_back(Ipv4Addr::new(10, 1, 2, 4));
        assert_eq!(a.take().unwrap(), Ipv4Addr::new(10, 1, 2, 4));
        a.give_back(Ipv4Addr::new(10, 1, 2, 1));
        assert!(a.take().is_err(), "the gateway was given out");
    }

    #[test]
    fn restored_addresses_are_not_given_out() {
        let mut a = subnet(24);
        assert!(a.restore(Ipv4Addr::new(10, 1, 2, 2)));
        assert!(!a.restore(Ipv4Addr::new(10, 1, 2, 2)), "twice");
        assert!(!a.restore(Ipv4Addr::new(10, 1, 3, 2)), "outside");
        assert!(!a.restore(Ipv4Addr::new(10, 1, 2, 255)), "broadcast");
        assert!(!a.restore(Ipv4Addr::new(10, 1, 2, 1)), "gateway");
        assert_eq!(a.take().unwrap(), Ipv4Addr::new(10, 1, 2, 3));
    }

    #[test]
    fn what_is_kept_for_others_is_never_given_out() {
        let v6 = Prefix6 { address: "fd00::1".parse().unwrap(), len: 126 };
        let mut a = Addresses::new(Prefix { address: Ipv4Addr::new(10, 1, 2, 1), len: 29 }, None, Some(v6), None);
        let kept = Ipv4Addr::new(10, 1, 2, 3);
        a.keep(kept.into());
        a.keep("fd00::2".parse().unwrap());
        assert!(!a.take_this(kept) && !a.restore(kept));
        a.give_back(kept);
        let all: Vec<_> = std::iter::from_fn(|| a.take().ok()).map(|a| a.octets()[3]).collect();
        assert_eq!(all, [2, 4, 5, 6]);
        a.give_back6("fd00::2".parse().unwrap());
        assert_eq!(a.take6().unwrap(), Some("fd00::3".parse().unwrap()));
        assert!(a.take6().is_err());
    }

    #[test]
    fn a_gateway_in_the_middle() {
        let mut a = Addresses::new(Prefix { address: Ipv4Addr::new(10, 1, 2, 2), len: 30 }, None, None, None);
        assert_eq!(a.take().unwrap(), Ipv4Addr::new(10, 1, 2, 1));
        assert!(a.take().is_err());
    }

    #[test]
    fn only_the_range_is_chosen_from() {
        let range = Prefix { address: Ipv4Addr::new(10, 1, 2, 128), len: 30 };
        let mut a = Addresses::new(Prefix { address: Ipv4Addr::new(10, 1, 2, 1), len: 24 }, Some(range), None, None);
        let all: Vec<_> = std::iter::from_fn(|| a.take().ok()).map(|a| a.octets()[3]).collect();
        assert_eq!(all, [128, 129, 130, 131]);
        assert!(a.take_this(Ipv4Addr::new(10, 1, 2, 9)), "one that is asked for may lie beside it");
    }

    #[test]
    fn a_range_without_hosts_is_empty() {
        let v4 = Prefix { address: Ipv4Addr::new(10, 1, 2, 1), len: 24 };
        for last in [0, 1, 255] {
            let range = Prefix { address: Ipv4Addr::new(10, 1, 2, last), len: 32 };
            let mut a = Addresses::new(v4, Some(range), None, None);
            assert!(matches!(a.take(), Err(NetworkError::NoAddressLeft(_))), "{last}");
        }
        let v6 = Prefix6 { address: "fd00::1".parse().unwrap(), len: 64 };
        let mut a = Addresses::new(v4, None, Some(v6), Some(Prefix6 { address: v6.network(), len: 128 }));
        assert!(matches!(a.take6(), Err(NetworkError::NoAddressLeft6(_))));
    }

    #[test]
    fn six() {
        let v6 = Prefix6 { address: "fd00::1".parse().unwrap(), len: 126 };
        let mut a = Addresses::new(Prefix { address: Ipv4Addr::new(10, 1, 2, 1), len: 24 }, None, Some(v6), None);
        assert_eq!(a.take6().unwrap(), Some("fd00::2".parse().unwrap()));
        assert_eq!(a.take6().unwrap(), Some("fd00::3".parse().unwrap()));
        assert!(matches!(a.take6(), Err(NetworkError::NoAddressLeft6(_))));
        assert!(!a.take_this6("fd00::2".parse().unwrap()));
        assert_eq!(subnet(24).take6().unwrap(), None);
    }
}
