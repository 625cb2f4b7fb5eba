//! How much of the server one container may have.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// Counting begins anew so often: short, so that who asked too much is heard again soon.
pub const WINDOW_MS: u64 = 100;
/// Questions of one address in a window: 20,000 a second.
const QUESTIONS: u32 = 2000;
/// Those of them that other servers are asked: 5,000 a second.
const FORWARDED: u32 = 500;
/// Addresses that are told apart: a network has fewer containers, and what has no container is one.
const MAX_SOURCES: usize = 1 << 16;

/// All addresses that are no container's: they can be made up, each packet another one.
pub const STRANGERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[derive(Default)]
struct Count {
    questions: u32,
    forwarded: u32,
}

#[derive(Default)]
pub struct Limits {
    begun_ms: u64,
    counts: HashMap<IpAddr, Count>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    Room,
    /// The first that is too much in this window.
    UsedUp,
    Over,
}

impl Limits {
    /// True: a new window begins.
    pub fn turn(&mut self, now_ms: u64) -> bool {
        let over = now_ms >= self.begun_ms + WINDOW_MS;
        if over {
            self.begun_ms = now_ms;
            self.counts.clear();
        }
        over
    }

    pub fn end_ms(&self) -> u64 {
        self.begun_ms + WINDOW_MS
    }

    fn count(&mut self, source: IpAddr) -> &mut Count {
        let known = self.counts.len() < MAX_SOURCES || self.counts.contains_key(&source);
        self.counts.entry(if known { source } else { STRANGERS }).or_default()
    }

    pub fn question(&mut self, source: IpAddr) -> Share {
        let count = self.count(source);
        count.questions = count.questions.saturating_add(1);
        match count.questions {
            ..=QUESTIONS => Share::Room,
            n if n == QUESTIONS + 1 => Share::UsedUp,
            _ => Share::Over,
        }
    }

    pub fn forward(&mut self, source: IpAddr) -> bool {
        let count = self.count(source);
        count.forwarded = count.forwarded.saturating_add(1);
        count.forwarded <= FORWARDED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_uses_up_its_own_share_until_the_window_ends() {
        let (mut limits, a, b) = (Limits::default(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert!(limits.turn(1000));
        assert!((0..QUESTIONS).all(|_| limits.question(a) == Share::Room));
        assert_eq!(
            (limits.question(a), limits.question(a), limits.question(b)),
            (Share::UsedUp, Share::Over, Share::Room)
        );
        assert!((0..FORWARDED).all(|_| limits.forward(a)) && !limits.forward(a) && limits.forward(b));
        assert!(!limits.turn(1000 + WINDOW_MS - 1) && limits.question(a) == Share::Over);
        assert!(limits.turn(limits.end_ms()) && limits.question(a) == Share::Room && limits.forward(a));
    }

    #[test]
    fn too_many_sources_are_one() {
        let mut limits = Limits::default();
        for n in 0..MAX_SOURCES as u32 + 100 {
            limits.question(Ipv4Addr::from(n + 1).into());
        }
        assert!(limits.counts.len() <= MAX_SOURCES + 1);
    }
}
