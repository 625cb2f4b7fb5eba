//! The caller's terminal: raw while a container has it, and always put back.

use crate::error::{Error, Result};
use berth_sys::term as sys;
use std::io;
use std::os::fd::AsFd;

/// The keys that end an attachment, unless told otherwise: Docker's.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// A raw terminal; dropping it (also in a panic) puts it back.
#[derive(Debug)]
pub struct Raw(sys::Saved);

impl Raw {
    /// Makes the terminal at standard input raw.
    pub fn enter() -> Result<Raw> {
        sys::make_raw(io::stdin().as_fd()).map(Raw).map_err(|e| Error::io("making the terminal raw", &e))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        _ = sys::restore(io::stdin().as_fd(), &self.0);
    }
}

pub fn stdin_is_terminal() -> bool {
    sys::is_terminal(io::stdin())
}

pub fn stdout_is_terminal() -> bool {
    sys::is_terminal(io::stdout())
}

pub fn stderr_is_terminal() -> bool {
    sys::is_terminal(io::stderr())
}

/// Asks for a secret on the terminal; what is typed is not shown.
pub fn ask_secret(question: &str) -> Result<String> {
    let failed = |e| Error::io("asking for a password", &e);
    let raw = Raw::enter()?;
    let answer = (|| {
        use io::{Read, Write};
        let mut err = io::stderr();
        err.write_all(question.as_bytes()).and_then(|()| err.flush()).map_err(failed)?;
        let mut typed = Vec::new();
        for byte in io::stdin().lock().bytes() {
            match byte.map_err(failed)? {
                b'\r' | b'\n' => break,
                // ^C and ^D: 128 + SIGINT, as if the terminal had made the signal.
                3 | 4 => return Err(Error::silent(130)),
                8 | 0x7f => drop(typed.pop()),
                // ^U
                21 => typed.clear(),
                other => typed.push(other),
            }
        }
        String::from_utf8(typed).map_err(|_| Error::usage("the password is not UTF-8"))
    })();
    drop(raw);
    eprintln!();
    answer
}

/// Size of the terminal at standard output, else at standard input.
pub fn size() -> Option<berth::v1::TerminalSize> {
    let (rows, columns) = sys::window_size(io::stdout()).or_else(|_| sys::window_size(io::stdin())).ok()?;
    // A terminal that nobody has sized yet says 0 by 0.
    (rows > 0 && columns > 0).then(|| berth::v1::TerminalSize { rows: rows.into(), columns: columns.into() })
}

/// Finds the detach keys in what is typed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// `ctrl-p,ctrl-q`, `ctrl-@`, `a,b`; empty: none.
    pub fn parse(text: &str) -> Result<DetachKeys> {
        let bad = |key: &str| {
            Error::usage(format!("--detach-keys {text:?}: {key:?} is no key"))
                .hint("write single characters or ctrl- with a letter or one of @ [ \\ ] ^ _, parted by commas")
        };
        let mut keys = Vec::new();
        for key in text.split(',').filter(|_| !text.is_empty()) {
            keys.push(match (key.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
                (Some([c @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'['..=b'_')]), _) => c.to_ascii_uppercase() & 0x1f,
                (None, [c]) => *c,
                _ => return Err(bad(key)),
            });
        }
        Ok(DetachKeys { keys, matched: 0 })
    }

    /// The bytes that go on to the container, and whether the keys were seen. A beginning of the keys is held back until it is clear.
    pub fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(typed.len());
        if self.keys.is_empty() {
            through.extend_from_slice(typed);
            return (through, false);
        }
        for &byte in typed {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (through, true);
                }
                continue;
            }
            through.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] {
                self.matched = 1;
            } else {
                through.push(byte);
            }
        }
        (through, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys() {
        let mut keys = DetachKeys::parse(DETACH_KEYS).expect("good");
        assert_eq!(keys.feed(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.feed(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.feed(b"b"), (b"\x10b".to_vec(), false), "held back, then let go");
        assert_eq!(keys.feed(b"\x10\x10\x11z"), (b"\x10".to_vec(), true));
        assert_eq!(keys.feed(b"\x11"), (b"\x11".to_vec(), false));
        let mut none = DetachKeys::parse("").expect("none");
        assert_eq!(none.feed(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
        assert_eq!(DetachKeys::parse("ctrl-@,x,ctrl-[").expect("good").keys, [0, b'x', 0x1b]);
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-pp"] {
            DetachKeys::parse(bad).expect_err(bad);
        }
    }
}
