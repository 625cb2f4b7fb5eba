//! Standard input on its way to a process: what the agent has not accepted is kept, so that a broken stream goes on at the right byte.

use crate::session::Input;
use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes that may be under way before the agent says otherwise.
pub const WINDOW: u64 = 256 << 10;

/// Positions count bytes of input, and one for its end.
#[derive(Debug)]
pub struct Feed {
    /// Not accepted yet, oldest first; empty bytes: the end.
    pieces: VecDeque<Bytes>,
    /// Position of the first piece.
    fed: u64,
    /// Position up to which this stream has them, and how many pieces that is.
    sent: u64,
    sent_pieces: usize,
    /// Position behind the last piece.
    end: u64,
    pub window: u64,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed { pieces: VecDeque::new(), fed: 0, sent: 0, sent_pieces: 0, end: 0, window: WINDOW }
    }
}

fn length(piece: &Bytes) -> u64 {
    piece.len().max(1) as u64
}

impl Feed {
    /// With room for so many bytes, of an input whose first ones the agent has.
    pub fn behind(position: u64, window: u64) -> Feed {
        Feed { window, fed: position, sent: position, end: position, ..Feed::default() }
    }

    /// With room for so many bytes.
    pub fn with_window(window: u64) -> Feed {
        Feed { window, ..Feed::default() }
    }

    /// There is room for more; otherwise standard input is left alone.
    pub fn has_room(&self) -> bool {
        self.end - self.fed < self.window
    }

    /// Empty bytes: the end.
    pub fn push(&mut self, piece: Bytes) {
        self.end += length(&piece);
        self.pieces.push_back(piece);
    }

    pub fn all_sent(&self) -> bool {
        self.sent == self.end
    }

    /// The next frame may go.
    pub fn is_ready(&self) -> bool {
        let next = self.pieces.get(self.sent_pieces);
        next.is_some_and(|p| self.sent + length(p) - self.fed <= self.window)
    }

    /// The next frame.
    pub fn next(&mut self) -> Option<Input> {
        let piece = self.pieces.get(self.sent_pieces)?.clone();
        self.sent += length(&piece);
        self.sent_pieces += 1;
        Some(if piece.is_empty() { Input::Eof } else { Input::Stdin(piece) })
    }

    /// The agent has accepted everything before this position.
    pub fn accepted(&mut self, position: u64) {
        while let Some(piece) = self.pieces.front_mut()
            && self.fed < position
        {
            let left = position - self.fed;
            if length(piece) > left {
                // A part of it: the rest keeps its place.
                *piece = piece.slice(left as usize..);
                self.fed = position;
                self.sent = self.sent.max(position);
                return;
            }
            self.fed += length(piece);
            self.pieces.pop_front();
            self.sent_pieces = self.sent_pieces.saturating_sub(1);
            self.sent = self.sent.max(self.fed);
        }
    }

    /// A new stream has everything before this position and nothing behind it. False: what it wants is no longer here.
    #[must_use]
    pub fn go_on_at(&mut self, position: u64) -> bool {
        let kept = position >= self.fed;
        self.accepted(position);
        (self.sent, self.sent_pieces) = (self.fed, 0);
        kept
    }

    /// What was sent to an agent that does not say what it accepts is its own business.
    pub fn forget_sent(&mut self) {
        self.accepted(self.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream gets, as bytes with a `$` for the end.
    fn text(feed: &mut Feed) -> String {
        let mut text = String::new();
        while feed.is_ready() {
            match feed.next() {
                Some(Input::Stdin(bytes)) => text.push_str(&String::from_utf8_lossy(&bytes)),
                _ => text.push('$'),
            }
        }
        text
    }

    #[test]
    fn a_new_stream_goes_on_at_the_right_byte() {
        for position in 0..=7 {
            let mut feed = Feed::default();
            for piece in ["abc", "de", "f", ""] {
                feed.push(Bytes::from_static(piece.as_bytes()));
            }
            assert_eq!(text(&mut feed), "abcdef$");
            assert!(feed.go_on_at(position));
            assert_eq!(text(&mut feed), "abcdef$"[position as usize..], "{position}");
            assert!(feed.all_sent());
        }
    }

    #[test]
    fn no_more_than_the_window_is_under_way() {
        let mut feed = Feed { window: 4, ..Feed::default() };
        feed.push("abc".into());
        feed.push("de".into());
        assert_eq!((text(&mut feed).as_str(), feed.has_room(), feed.all_sent()), ("abc", false, false));
        feed.accepted(2);
        assert_eq!((text(&mut feed).as_str(), feed.has_room(), feed.all_sent()), ("de", true, true));
        feed.forget_sent();
        assert_eq!((feed.fed, feed.pieces.len()), (5, 0));
        assert!(!feed.go_on_at(2), "those bytes are gone");
    }
}
