//! Lists of processors and memory nodes as the kernel writes them (cpuset(7), "List format").

use std::fmt;
use std::str::FromStr;

/// Such as `0-3,8`: first and last of each part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List(Vec<(u32, u32)>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("must be a list such as 0-3,8")]
pub struct NoList;

impl FromStr for List {
    type Err = NoList;

    fn from_str(text: &str) -> Result<Self, NoList> {
        let number = |s: &str| match s.len() <= 5 && s.bytes().all(|b| b.is_ascii_digit()) {
            true => s.parse::<u32>().map_err(|_| NoList),
            false => Err(NoList),
        };
        let part = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first <= last { Ok((first, last)) } else { Err(NoList) }
        };
        if text.len() > 1024 {
            return Err(NoList);
        }
        text.split(',').map(part).collect::<Result<_, _>>().map(List)
    }
}

impl List {
    /// How many it names; parts that overlap count twice.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// The first that `all` does not name.
    pub fn missing_from(&self, all: &List) -> Option<u32> {
        let named = |n: &u32| all.0.iter().any(|(first, last)| (first..=last).contains(&n));
        self.0.iter().flat_map(|(first, last)| *first..=*last).find(|n| !named(n))
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> List {
        text.parse().expect(text)
    }

    #[test]
    fn lists_are_read_written_and_counted() {
        for (text, count) in [("0", 1), ("0-1", 2), ("0-3,8,10-11", 7), ("99999", 1)] {
            assert_eq!((list(text).to_string(), list(text).count()), (text.to_owned(), count));
        }
        for bad in ["", "a", "3-1", "0-", "-1", "1,,2", "100000", "+1", &"1,".repeat(600)] {
            assert_eq!(bad.parse::<List>(), Err(NoList), "{bad}");
        }
    }

    #[test]
    fn what_a_host_has_not_is_found() {
        let host = list("0-3,8");
        for (asked, missing) in [("0-3", None), ("8,1", None), ("3-5", Some(4)), ("9", Some(9)), ("8-99999", Some(9))] {
            assert_eq!(list(asked).missing_from(&host), missing, "{asked}");
        }
    }
}
