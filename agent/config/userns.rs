//! Containers' user namespaces.

use berth_model::userns::{DEFAULT_SIZE, IdRange, LOWEST};
use berth_node::UsernsConfig;
use serde::Deserialize;
use std::path::Path;

/// What a container gets that says nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One of its own.
    #[default]
    Auto,
    /// The host's.
    Host,
}

/// The table `[userns]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Userns {
    pub default: Mode,
    /// Whether a container may be in the host's.
    pub allow_host: bool,
    /// Ids that containers get: the first one.
    pub base: u32,
    /// How many.
    pub ids: u32,
    /// Take what /etc/subuid and /etc/subgid give to this user instead. Empty: no.
    pub subid_user: String,
}

impl Default for Userns {
    fn default() -> Self {
        Userns {
            default: Mode::default(),
            allow_host: true,
            base: 0x1000_0000,
            ids: 0x6000_0000,
            subid_user: String::new(),
        }
    }
}

fn entry(line: &str) -> Option<(&str, u32, u32)> {
    let mut parts = line.trim().split(':');
    let user = parts.next().filter(|u| !u.is_empty() && !u.starts_with('#'))?;
    let first = parts.next()?.parse().ok()?;
    Some((user, first, parts.next()?.parse().ok()?))
}

/// Lines `user:first:count` of subuid(5).
fn entries(text: &str) -> Vec<(&str, u32, u32)> {
    text.lines().filter_map(entry).collect()
}

/// Ids that are in both lists, which containers need: users and groups have the same numbers.
fn common(users: &[(u32, u32)], groups: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut both = Vec::new();
    for (first, n) in users {
        let (first, end) = (u64::from(*first), u64::from(*first) + u64::from(*n));
        for (other, m) in groups {
            let (from, to) = (first.max((*other).into()), end.min(u64::from(*other) + u64::from(*m)));
            if from < to && to <= u64::from(u32::MAX) {
                both.push((from as u32, (to - from) as u32));
            }
        }
    }
    both
}

impl Userns {
    /// For the node; the key that is wrong and why. Reads /etc/subuid and /etc/subgid.
    pub fn decode(&self) -> Result<UsernsConfig, (&'static str, String)> {
        self.decode_with(Path::new("/etc/subuid"), Path::new("/etc/subgid"))
    }

    fn decode_with(&self, subuid: &Path, subgid: &Path) -> Result<UsernsConfig, (&'static str, String)> {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let (users, groups) = (read(subuid), read(subgid));
        let (users, groups) = (entries(&users), entries(&groups));
        let of = |all: &[(&str, u32, u32)], mine: bool| -> Vec<(u32, u32)> {
            all.iter().filter(|(u, ..)| (*u == self.subid_user) == mine).map(|(_, f, n)| (*f, *n)).collect()
        };
        let (key, ranges) = if self.subid_user.is_empty() {
            ("userns.base", vec![(self.base, self.ids)])
        } else {
            ("userns.subid_user", common(&of(&users, true), &of(&groups, true)))
        };
        if ranges.is_empty() {
            let why = format!(
                "{:?} has no ids that are in both {} and {}",
                self.subid_user,
                subuid.display(),
                subgid.display()
            );
            return Err((key, why));
        }
        for (first, n) in &ranges {
            if *first < LOWEST {
                return Err((key, format!("must be {LOWEST} or more: below are users of the host")));
            }
            if first.checked_add(*n).is_none() {
                return Err(("userns.ids", "go beyond the last id, 4294967294".into()));
            }
        }
        if ranges.iter().all(|(_, n)| *n < DEFAULT_SIZE) {
            return Err(("userns.ids", format!("must be {DEFAULT_SIZE} or more: each container has so many")));
        }
        let mut others = of(&users, false);
        others.extend(of(&groups, false));
        others.retain(|(first, n)| {
            ranges.iter().any(|(f, m)| IdRange { base: *f, size: *m, keep: None }.overlaps(*first, *n))
        });
        Ok(UsernsConfig { own_by_default: self.default == Mode::Auto, allow_host: self.allow_host, ranges, others })
    }
}

/// A door for the fuzz targets: the lines of subuid(5) and, behind an empty line, of subgid(5). Containers get ids that are in both.
#[cfg(fuzzing)]
pub fn fuzz(text: &str) {
    let (users, groups) = text.split_once("\n\n").unwrap_or((text, text));
    let of = |text| entries(text).into_iter().map(|(_, first, n)| (first, n)).collect::<Vec<_>>();
    let (users, groups) = (of(users), of(groups));
    let both = common(&users, &groups);
    assert!(both.len() <= users.len() * groups.len());
    for (first, n) in both {
        let end = first.checked_add(n).expect("ids end where numbers do");
        let within = |(f, m): &(u32, u32)| *f <= first && u64::from(end) <= u64::from(*f) + u64::from(*m);
        assert!(n > 0 && users.iter().any(within) && groups.iter().any(within), "{first} {n}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(toml: &str, subuid: &str, subgid: &str) -> Result<UsernsConfig, String> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("berth-subid-{}-{n}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("u"), subuid).unwrap();
        std::fs::write(dir.join("g"), subgid).unwrap();
        let userns: Userns = toml::from_str(toml).unwrap();
        let got = userns.decode_with(&dir.join("u"), &dir.join("g"));
        std::fs::remove_dir_all(&dir).unwrap();
        got.map_err(|(key, why)| format!("{key} {why}"))
    }

    #[test]
    fn ranges_are_the_configurations_or_a_users() {
        let all = decoded("", "podman:300000000:65536\n", "").unwrap();
        assert_eq!((all.ranges, all.others), (vec![(0x1000_0000, 0x6000_0000)], vec![(300_000_000, 65_536)]));
        let mine = "subid_user = \"berth\"";
        let files = ("a:100000:65536\nberth:500000:200000\n", "berth:550000:200000\n");
        let of_user = decoded(mine, files.0, files.1).unwrap();
        assert_eq!((of_user.ranges, of_user.others), (vec![(550_000, 150_000)], Vec::new()));
        assert!(decoded(mine, files.0, "").unwrap_err().starts_with("userns.subid_user"));
        assert!(decoded(mine, "berth:100000:10\n", "berth:100000:10\n").unwrap_err().starts_with("userns.ids"));
        assert!(decoded("base = 1000", "", "").unwrap_err().starts_with("userns.base"));
        assert!(decoded("base = 4000000000\nids = 1000000000", "", "").unwrap_err().starts_with("userns.ids"));
        assert!(!decoded("default = \"host\"\nallow_host = false", "", "").unwrap().allow_host);
    }
}
