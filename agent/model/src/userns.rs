//! User namespaces of containers: what is asked for, and which ids of the host a container has.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Ids of a container that asks for no number of its own: 0 to 65535.
pub const DEFAULT_SIZE: u32 = 65_536;
/// Below are users and services of the host.
pub const LOWEST: u32 = 65_536;

/// Which user namespace a container is to have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsernsMode {
    /// Not said: the agent's default, and the host's where something else that was asked for needs that.
    #[default]
    Unset,
    /// The host's: root in the container is root.
    Host,
    /// One of its own, with a range of ids of the agent's choice.
    Auto { size: Option<u32> },
    /// As `Auto`, but this user and group of the container are those of the host.
    Keep { uid: u32, gid: u32 },
    /// One of its own, with these ids.
    Range { base: u32, size: u32 },
}

impl FromStr for UsernsMode {
    type Err = String;

    /// `host`, `auto`, `auto:size=N`, `keep:UID[:GID]`, `range:BASE[:SIZE]`; empty: not said.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |what: &str, n: &str| {
            n.parse::<u32>().map_err(|_| format!("{what} {n:?} is no number from 0 to 4294967295"))
        };
        let (mode, more) = text.split_once(':').map_or((text, None), |(m, rest)| (m, Some(rest)));
        let parsed = match (mode, more) {
            ("", None) => UsernsMode::Unset,
            ("host", None) => UsernsMode::Host,
            ("auto", None) => UsernsMode::Auto { size: None },
            ("auto", Some(option)) => {
                let size =
                    option.strip_prefix("size=").ok_or_else(|| format!("{option:?} is no option of auto: size=N"))?;
                UsernsMode::Auto { size: Some(number("size", size)?) }
            }
            ("keep", Some(ids)) => {
                let (uid, gid) = ids.split_once(':').unwrap_or((ids, ids));
                UsernsMode::Keep { uid: number("user", uid)?, gid: number("group", gid)? }
            }
            ("range", Some(range)) => {
                let (base, size) = range.split_once(':').map_or((range, None), |(b, s)| (b, Some(s)));
                let size = size.map_or(Ok(DEFAULT_SIZE), |s| number("size", s))?;
                UsernsMode::Range { base: number("base", base)?, size }
            }
            ("keep", None) => return Err("keep needs a user: keep:UID or keep:UID:GID".into()),
            ("range", None) => return Err("range needs its first id: range:BASE or range:BASE:SIZE".into()),
            _ => return Err(format!("{text:?} is none of host, auto, auto:size=N, keep:UID[:GID], range:BASE[:SIZE]")),
        };
        parsed.check().map(|()| parsed)
    }
}

impl UsernsMode {
    fn check(&self) -> Result<(), String> {
        match *self {
            UsernsMode::Unset | UsernsMode::Host | UsernsMode::Auto { size: None } => Ok(()),
            UsernsMode::Auto { size: Some(size) } | UsernsMode::Range { size, .. } if size == 0 || size > 1 << 24 => {
                Err(format!("size {size} must be from 1 to 16777216"))
            }
            UsernsMode::Range { base, .. } if base < LOWEST => {
                Err(format!("base {base} must be {LOWEST} or more: below are users of the host"))
            }
            UsernsMode::Range { base, size } if base.checked_add(size).is_none() => {
                Err(format!("{size} ids from {base} on go beyond the last one"))
            }
            UsernsMode::Keep { uid, gid } if uid == 0 || gid == 0 => {
                Err("keep cannot be for root: that is host".into())
            }
            UsernsMode::Keep { uid, gid } if uid >= DEFAULT_SIZE || gid >= DEFAULT_SIZE => {
                Err(format!("keep is for users and groups below {DEFAULT_SIZE}"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for UsernsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UsernsMode::Unset => Ok(()),
            UsernsMode::Host => f.write_str("host"),
            UsernsMode::Auto { size: None } => f.write_str("auto"),
            UsernsMode::Auto { size: Some(size) } => write!(f, "auto:size={size}"),
            UsernsMode::Keep { uid, gid } => write!(f, "keep:{uid}:{gid}"),
            UsernsMode::Range { base, size } => write!(f, "range:{base}:{size}"),
        }
    }
}

/// The ids that a container has on the host, for users and groups alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdRange {
    /// Root of the container.
    pub base: u32,
    pub size: u32,
    /// A user and a group that are the same on the host and in the container.
    #[serde(default)]
    pub keep: Option<(u32, u32)>,
}

impl IdRange {
    /// First id behind it.
    pub const fn end(self) -> u32 {
        self.base.saturating_add(self.size)
    }

    pub const fn overlaps(self, base: u32, size: u32) -> bool {
        base < self.end() && self.base < base.saturating_add(size)
    }

    /// Lines of /proc/PID/uid_map: first id inside, first id of the host, how many.
    pub fn uid_map(self) -> String {
        self.map(self.keep.map(|(uid, _)| uid))
    }

    /// As [`IdRange::uid_map`], for groups.
    pub fn gid_map(self) -> String {
        self.map(self.keep.map(|(_, gid)| gid))
    }

    /// Up to three extents: first id inside, first id of the host, how many (maybe none).
    pub fn users(self) -> [(u32, u32, u32); 3] {
        self.extents(self.keep.map(|(uid, _)| uid))
    }

    /// As [`IdRange::users`].
    pub fn groups(self) -> [(u32, u32, u32); 3] {
        self.extents(self.keep.map(|(_, gid)| gid))
    }

    fn extents(self, keep: Option<u32>) -> [(u32, u32, u32); 3] {
        let IdRange { base, size, .. } = self;
        match keep.filter(|k| *k < size) {
            None => [(0, base, size), (0, 0, 0), (0, 0, 0)],
            Some(k) => [(0, base, k), (k, k, 1), (k + 1, base + k + 1, size - k - 1)],
        }
    }

    fn map(self, keep: Option<u32>) -> String {
        let lines = self.extents(keep).into_iter().filter(|(_, _, n)| *n > 0);
        lines.map(|(inside, host, n)| format!("{inside} {host} {n}\n")).collect()
    }

    /// The host's number of a user of the container. `None`: the container has no such user.
    pub fn host_uid(self, uid: u32) -> Option<u32> {
        self.to_host(uid, self.keep.map(|(uid, _)| uid))
    }

    pub fn host_gid(self, gid: u32) -> Option<u32> {
        self.to_host(gid, self.keep.map(|(_, gid)| gid))
    }

    fn to_host(self, id: u32, keep: Option<u32>) -> Option<u32> {
        match keep {
            _ if id >= self.size => None,
            Some(k) if k == id => Some(k),
            _ => Some(self.base + id),
        }
    }

    /// The container's number of a user of the host. `None`: it is nobody there.
    pub fn inside_uid(self, uid: u32) -> Option<u32> {
        self.inside(uid, self.keep.map(|(uid, _)| uid))
    }

    pub fn inside_gid(self, gid: u32) -> Option<u32> {
        self.inside(gid, self.keep.map(|(_, gid)| gid))
    }

    fn inside(self, id: u32, keep: Option<u32>) -> Option<u32> {
        if keep == Some(id) {
            return keep;
        }
        id.checked_sub(self.base).filter(|n| *n < self.size && keep != Some(*n))
    }
}

/// A container's place in the record: its range, or why it has none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Userns {
    /// `None`: it is in the host's user namespace.
    pub range: Option<IdRange>,
    /// Why it is in the host's without having asked for it, in words.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_and_written() {
        for (text, mode) in [
            ("", UsernsMode::Unset),
            ("host", UsernsMode::Host),
            ("auto", UsernsMode::Auto { size: None }),
            ("auto:size=1000", UsernsMode::Auto { size: Some(1000) }),
            ("keep:1000:50", UsernsMode::Keep { uid: 1000, gid: 50 }),
            ("range:200000:1000", UsernsMode::Range { base: 200_000, size: 1000 }),
        ] {
            assert_eq!(text.parse(), Ok(mode.clone()));
            assert_eq!(mode.to_string(), text);
        }
        assert_eq!("range:200000".parse(), Ok(UsernsMode::Range { base: 200_000, size: 65_536 }));
        assert_eq!("keep:7".parse(), Ok(UsernsMode::Keep { uid: 7, gid: 7 }));
        for bad in [
            "no",
            "host:1",
            "auto:1",
            "auto:size=0",
            "auto:size=99999999",
            "keep",
            "keep:0",
            "keep:70000",
            "range",
            "range:0",
            "range:1000",
            "range:4294967295:10",
            "range:x",
            ":",
        ] {
            assert!(bad.parse::<UsernsMode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_go_both_ways() {
        let plain = IdRange { base: 100_000, size: 1000, keep: None };
        assert_eq!(plain.uid_map(), "0 100000 1000\n");
        assert_eq!(
            (plain.host_uid(0), plain.host_uid(999), plain.host_uid(1000)),
            (Some(100_000), Some(100_999), None)
        );
        assert_eq!(
            (plain.inside_uid(100_999), plain.inside_uid(101_000), plain.inside_uid(0)),
            (Some(999), None, None)
        );
        let keep = IdRange { keep: Some((10, 999)), ..plain };
        assert_eq!(keep.uid_map(), "0 100000 10\n10 10 1\n11 100011 989\n");
        assert_eq!(keep.gid_map(), "0 100000 999\n999 999 1\n");
        for id in [0, 9, 10, 11, 999] {
            assert_eq!(keep.inside_uid(keep.host_uid(id).unwrap()), Some(id));
            assert_eq!(keep.inside_gid(keep.host_gid(id).unwrap()), Some(id));
        }
        assert_eq!(keep.inside_uid(100_010), None);
        assert!(plain.overlaps(100_999, 1) && !plain.overlaps(101_000, 1) && plain.overlaps(0, 100_001));
    }
}
