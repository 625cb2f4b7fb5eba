//! Standard input for a call that may have to be made again from its beginning: it is kept while it is short.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What was read of an input.
#[derive(Debug, Default)]
pub struct Replay {
    /// Bytes that are kept at most.
    limit: usize,
    state: Mutex<State>,
    lost: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<u8>,
    ended: bool,
}

impl Replay {
    pub fn new(limit: usize) -> Replay {
        Replay { limit, ..Replay::default() }
    }

    /// More was read than is kept: it cannot be given again.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Gives all of the input from its beginning, in pieces of at most `size` bytes; `each` is told which are given for the first time, and
    /// says whether it takes more. true: it came to the end. Whoever comes while another waits for the input waits for it.
    ///
    /// # Errors
    /// Those of `from`; `Other`: the beginning is lost.
    pub fn read(
        &self,
        from: &mut dyn Read,
        size: usize,
        mut each: impl FnMut(&[u8], bool) -> bool,
    ) -> io::Result<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_lost() {
            return Err(io::Error::other("its beginning has been read already"));
        }
        if !state.kept.chunks(size).all(|piece| each(piece, false)) {
            return Ok(false);
        }
        let mut piece = vec![0; size];
        while !state.ended {
            let n = match from.read(&mut piece) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if n == 0 {
                state.ended = true;
            } else if state.kept.len() + n <= self.limit && !self.is_lost() {
                state.kept.extend_from_slice(&piece[..n]);
            } else {
                self.lost.store(true, Ordering::Relaxed);
                state.kept = Vec::new();
            }
            if n > 0 && !each(&piece[..n], true) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader gets that takes so many bytes, and whether it came to the end.
    fn taken(replay: &Replay, from: &mut dyn Read, most: usize) -> io::Result<(String, bool)> {
        let mut text = Vec::new();
        let whole = replay.read(from, 3, |piece, _| {
            text.extend_from_slice(piece);
            text.len() < most
        });
        whole.map(|whole| (String::from_utf8(text).unwrap(), whole))
    }

    #[test]
    fn what_is_short_is_given_again() {
        let replay = Replay::new(8);
        let mut from = &b"abcdefgh"[..];
        assert_eq!(taken(&replay, &mut from, 4).unwrap(), ("abcdef".to_owned(), false));
        for _ in 0..2 {
            assert_eq!(taken(&replay, &mut from, 100).unwrap(), ("abcdefgh".to_owned(), true));
        }
        assert!(!replay.is_lost());
        let mut first = Vec::new();
        replay
            .read(&mut from, 100, |piece, is_first| {
                first.push((piece.len(), is_first));
                true
            })
            .unwrap();
        assert_eq!(first, [(8, false)]);
    }

    #[test]
    fn what_is_long_is_given_once() {
        let replay = Replay::new(7);
        let mut from = &b"abcdefgh"[..];
        assert_eq!(taken(&replay, &mut from, 4).unwrap(), ("abcdef".to_owned(), false));
        assert!(!replay.is_lost());
        assert_eq!(taken(&replay, &mut from, 100).unwrap(), ("abcdefgh".to_owned(), true));
        assert!(replay.is_lost());
        assert!(taken(&replay, &mut from, 100).is_err());
    }
}
