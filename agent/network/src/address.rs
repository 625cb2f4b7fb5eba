//! Which addresses of a subnet are given out.

use crate::error::{NetworkError, Prefix};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The addresses of one subnet. Free ones are given out in turn, so that an address that was given back rests as long as possible:
/// peers may still remember it.
#[derive(Debug)]
pub struct Addresses {
    subnet: Prefix,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Addresses {
    /// All of the gateway's subnet, without the network's own address, the broadcast address and the gateway.
    pub fn new(gateway: Prefix) -> Self {
        let next = gateway.network().to_bits().wrapping_add(1);
        Addresses { subnet: gateway, taken: BTreeSet::from([gateway.address.to_bits()]), next }
    }

    pub fn take(&mut self) -> Result<Ipv4Addr, NetworkError> {
        let first = self.subnet.network().to_bits() + 1;
        let last = self.subnet.broadcast().to_bits() - 1;
        let start = if (first..=last).contains(&self.next) { self.next } else { first };
        let free = self.first_free(start, last).or_else(|| self.first_free(first, last));
        let address = free.ok_or(NetworkError::NoAddressLeft(self.subnet))?;
        self.taken.insert(address);
        self.next = address + 1;
        Ok(Ipv4Addr::from_bits(address))
    }

    /// The lowest address from `low` to `high` that is in no hand: walks the taken ones that stand side by side from `low` on.
    fn first_free(&self, low: u32, high: u32) -> Option<u32> {
        let mut candidate = low;
        for &taken in self.taken.range(low..=high) {
            if taken != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate <= high).then_some(candidate)
    }

    pub fn is_free(&self, address: Ipv4Addr) -> bool {
        !self.taken.contains(&address.to_bits())
    }

    /// Takes this very address if it is free: for a container that had it a moment ago.
    pub fn take_again(&mut self, address: Ipv4Addr) -> bool {
        let next = self.next;
        let taken = self.restore(address);
        self.next = next;
        taken
    }

    /// Takes this very address: after a restart of the agent. False when it lies outside or is taken.
    pub fn restore(&mut self, address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        let inside = self.subnet.contains(address)
            && address != self.subnet.network()
            && address != self.subnet.broadcast()
            && self.taken.insert(bits);
        if inside {
            self.next = self.next.max(bits.wrapping_add(1));
        }
        inside
    }

    /// The gateway is never given back.
    pub fn give_back(&mut self, address: Ipv4Addr) {
        if address != self.subnet.address {
            self.taken.remove(&address.to_bits());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(len: u8) -> Addresses {
        Addresses::new(Prefix { address: Ipv4Addr::new(10, 1, 2, 1), len })
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
    fn a_gateway_in_the_middle() {
        let mut a = Addresses::new(Prefix { address: Ipv4Addr::new(10, 1, 2, 2), len: 30 });
        assert_eq!(a.take().unwrap(), Ipv4Addr::new(10, 1, 2, 1));
        assert!(a.take().is_err());
    }
}
