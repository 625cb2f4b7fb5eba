//! Places in a container's output, and how callers carry them.

use berth_model::ContainerId;
use std::fmt;
use std::str::FromStr;

/// A place in the whole output of one container, behind some entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogPosition {
    /// In a file of an older shim, which is known by the time of its first entry: so many bytes into it.
    Old { first: i64, offset: u64 },
    /// So many bytes of all that was ever stored.
    At(u64),
}

/// A position with its container: a cursor of one that was removed means nothing in its successor of the same name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogCursor {
    /// The first twelve digits of its id.
    container: String,
    pub position: LogPosition,
}

const ID_DIGITS: usize = 12;

impl LogCursor {
    pub fn new(container: &ContainerId, position: LogPosition) -> Self {
        LogCursor { container: container.as_str()[..ID_DIGITS].to_owned(), position }
    }

    pub fn is_of(&self, container: &ContainerId) -> bool {
        container.as_str().starts_with(&self.container)
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            LogPosition::At(at) => write!(f, "{}-{at:x}", self.container),
            LogPosition::Old { first, offset } => write!(f, "{}-{offset:x}-{first:x}", self.container),
        }
    }
}

/// Not a cursor that an agent gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is not a cursor of a log entry")]
pub struct BadLogCursor;

impl FromStr for LogCursor {
    type Err = BadLogCursor;

    fn from_str(text: &str) -> Result<Self, BadLogCursor> {
        let mut parts = text.split('-');
        let container = parts.next().unwrap_or_default();
        if container.len() != ID_DIGITS || !container.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadLogCursor);
        }
        let number = |text: &str| match text.as_bytes() {
            // from_str_radix takes a sign, too.
            [b'+', ..] => Err(BadLogCursor),
            _ => u64::from_str_radix(text, 16).map_err(|_| BadLogCursor),
        };
        let offset = number(parts.next().ok_or(BadLogCursor)?)?;
        let position = match parts.next() {
            None => LogPosition::At(offset),
            Some(first) => LogPosition::Old { first: i64::try_from(number(first)?).map_err(|_| BadLogCursor)?, offset },
        };
        if parts.next().is_some() {
            return Err(BadLogCursor);
        }
        Ok(LogCursor { container: container.to_owned(), position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_as_they_went() {
        let id = ContainerId::from_bytes([0xab; 32]);
        for position in
            [LogPosition::At(0), LogPosition::At(u64::MAX), LogPosition::Old { first: 1_795_285_518_123, offset: 77 }]
        {
            let cursor = LogCursor::new(&id, position);
            assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
            assert!(cursor.is_of(&id) && !cursor.is_of(&ContainerId::from_bytes([0xac; 32])));
        }
        for bad in
            ["", "abababababab", "ababababababx", "abababababab-", "abababababab-1-2-3", "abababababab-+1", "x-1"]
        {
            assert_eq!(bad.parse::<LogCursor>(), Err(BadLogCursor), "{bad}");
        }
    }
}
