//! What has been read from an output and not been taken by everybody who reads it.
//!
//! Positions count the bytes of the output from its begin. An empty ring has no memory.

use berth_model::wire::MAX_FRAME;
use std::collections::VecDeque;

/// Bytes kept at most. A reader far away has this much under way: at 8 ms of round trip, 128 MB a second.
pub const CAPACITY: usize = 1 << 20;

#[derive(Default)]
pub struct Ring {
    bytes: VecDeque<u8>,
    /// Position of the first byte.
    start: u64,
}

impl Ring {
    /// Position behind the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// There is room for one more read.
    pub fn has_room(&self) -> bool {
        self.bytes.len() + MAX_FRAME <= CAPACITY
    }

    pub fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend(chunk);
    }

    /// Nobody wants these bytes.
    pub fn skip(&mut self, n: usize) {
        self.start += n as u64;
    }

    /// Everybody has what is before this position.
    pub fn drop_before(&mut self, position: u64) {
        let n = position.saturating_sub(self.start).min(self.bytes.len() as u64);
        self.bytes.drain(..n as usize);
        self.start += n;
        // A burst is over: what it needed goes back at once, not with the next one.
        if self.bytes.is_empty() && self.bytes.capacity() > 4 * MAX_FRAME {
            self.bytes = VecDeque::new();
        }
    }

    /// At most a frame from this position on, in two parts where the ring turns. A position outside gives nothing.
    pub fn frame(&self, position: u64) -> (&[u8], &[u8]) {
        let Some(skip) = position.checked_sub(self.start).filter(|n| *n <= self.bytes.len() as u64) else {
            return (&[], &[]);
        };
        let (first, second) = self.bytes.as_slices();
        let skip = skip as usize;
        let (first, second) =
            if skip <= first.len() { (&first[skip..], second) } else { (&second[skip - first.len()..], &[][..]) };
        let first = &first[..first.len().min(MAX_FRAME)];
        (first, &second[..second.len().min(MAX_FRAME - first.len())])
    }

    /// Gives an empty ring's memory back.
    pub fn forget(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain list: random pushes, drops and looks.
    #[test]
    fn a_ring_is_a_window_of_its_stream() {
        let (mut ring, mut all, mut start) = (Ring::default(), Vec::new(), 0u64);
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for round in 0..5_000u64 {
            if ring.has_room() {
                let chunk: Vec<u8> = (0..next(MAX_FRAME as u64)).map(|n| (n ^ round) as u8).collect();
                ring.push(&chunk);
                all.extend_from_slice(&chunk);
            }
            let at = start + next(ring.end() - start + 1);
            let (first, second) = ring.frame(at);
            let got = [first, second].concat();
            assert_eq!(got[..], all[at as usize..][..got.len()]);
            assert!(got.len() == MAX_FRAME || at + got.len() as u64 == ring.end());
            if next(3) == 0 {
                ring.drop_before(at);
                start = at;
            }
            assert!((ring.end() - start) as usize <= CAPACITY);
        }
        assert_eq!(ring.frame(start.wrapping_sub(1)), (&[][..], &[][..]));
    }

    #[test]
    fn an_empty_ring_has_no_memory() {
        let mut ring = Ring::default();
        ring.skip(7);
        ring.push(&[0; 5 * MAX_FRAME]);
        assert_eq!(ring.end(), 7 + 5 * MAX_FRAME as u64);
        ring.drop_before(ring.end());
        assert_eq!((ring.bytes.capacity(), ring.frame(7).0.len()), (0, 0));
    }
}
