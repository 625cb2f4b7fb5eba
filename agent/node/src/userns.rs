//! Who has which ids of the host: ranges for containers' user namespaces, given at their making and taken back with their last trace.

use crate::NodeError;
use crate::fail::is_down;
use crate::node::Inner;
use berth_model::network::NetworkMode;
use berth_model::userns::{DEFAULT_SIZE, IdRange, Userns, UsernsMode};
use berth_model::{ContainerRecord, ContainerSpec};
use berth_network::Namespace;
use berth_rootfs::{LayerStore, Shift};
use berth_sys::fs::{is_disk_full, is_of_the_moment};
use berth_sys::userns::UserNamespace;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// User namespaces on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsernsConfig {
    /// A container that does not say it has one of its own.
    pub own_by_default: bool,
    /// Whether containers may be in the host's.
    pub allow_host: bool,
    /// Ids that containers get: first one, how many.
    pub ranges: Vec<(u32, u32)>,
    /// Ids that somebody else has been promised.
    pub others: Vec<(u32, u32)>,
}

impl Default for UsernsConfig {
    /// 24,576 containers' ids from 0x1000_0000 on: below 2^31, which some programs take for a sign.
    fn default() -> Self {
        UsernsConfig {
            own_by_default: true,
            allow_host: true,
            ranges: vec![(0x1000_0000, 0x6000_0000)],
            others: Vec::new(),
        }
    }
}

/// The ranges that are given.
pub(crate) struct Ranges {
    config: UsernsConfig,
    /// Why this host has no user namespaces for containers.
    missing: Option<String>,
    table: Arc<Mutex<Table>>,
}

#[derive(Default, Debug)]
struct Table {
    /// By first id; the second part tells those apart that a damaged database has twice.
    given: BTreeMap<(u32, u64), u32>,
    number: u64,
    /// Where the search goes on, so that ids rest for long before somebody else has them.
    next: u32,
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A given range; its drop gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    key: (u32, u64),
    table: Arc<Mutex<Table>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.table).given.remove(&self.key);
    }
}

impl Table {
    fn put(&mut self, base: u32, size: u32) -> (u32, u64) {
        self.number += 1;
        let key = (base, self.number);
        self.given.insert(key, size);
        key
    }

    /// First id behind a given range that `base` and the next ids reach into.
    fn in_the_way(&self, base: u32, size: u32) -> Option<u32> {
        let end = base.saturating_add(size);
        // Ranges do not overlap, but for those of a damaged database: looking at the last few before the end is enough for the others.
        self.given
            .range(..(end, 0))
            .rev()
            .take(64)
            .map(|((first, _), n)| (first.saturating_add(*n), *first))
            .find_map(|(behind, first)| (behind > base && first < end).then_some(behind))
    }
}

impl Ranges {
    pub fn new(config: UsernsConfig, missing: Option<String>) -> Self {
        Ranges { config, missing, table: Arc::default() }
    }

    /// `None`: containers can have user namespaces here.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// How many are given, and how many of the usual size there are.
    pub fn count(&self) -> (usize, usize) {
        let all: u64 = self.config.ranges.iter().map(|(_, n)| u64::from(*n / DEFAULT_SIZE)).sum();
        (lock(&self.table).given.len(), all as usize)
    }

    pub fn own_by_default(&self) -> bool {
        self.config.own_by_default
    }

    /// What a record of an earlier agent says.
    pub fn known(&self, userns: &Userns) -> Option<Held> {
        let range = userns.range?;
        let mut table = lock(&self.table);
        Some(Held { key: table.put(range.base, range.size), table: self.table.clone() })
    }

    /// What a new container gets.
    ///
    /// # Errors
    /// `Invalid`, `UsernsForbidden`, `UsernsMissing`, `IdsExhausted`, `IdsInUse`.
    pub fn choose(&self, spec: &ContainerSpec) -> Result<(Userns, Option<Held>), NodeError> {
        let host = |reason: Option<String>| {
            if !self.config.allow_host {
                return Err(NodeError::UsernsForbidden(reason.unwrap_or_else(|| "--userns=host".to_owned())));
            }
            Ok((Userns { range: None, reason }, None))
        };
        if spec.userns == UsernsMode::Host {
            return host(None);
        }
        let asked = spec.userns != UsernsMode::Unset;
        if let Some(reason) = needs_host(spec) {
            // What runs with fewer rights rather has a user namespace than is refused.
            if !asked && (self.config.allow_host || spec.privileged) {
                return host(Some(reason.to_owned()));
            }
            if spec.privileged {
                let message = "a privileged container is in the host's user namespace: leave out one of the two";
                return Err(NodeError::Invalid(vec![("userns".to_owned(), message.to_owned())]));
            }
        }
        if !asked && !self.config.own_by_default && self.config.allow_host {
            return host(Some("the agent's default".to_owned()));
        }
        if let Some(missing) = &self.missing {
            if asked {
                return Err(NodeError::UsernsMissing(missing.clone()));
            }
            return host(Some(format!("no user namespaces here: {missing}")));
        }
        let (range, held) = self.take(&spec.userns)?;
        Ok((Userns { range: Some(range), reason: None }, Some(held)))
    }

    /// Whether one with what it was given when it was made may run now.
    ///
    /// # Errors
    /// `UsernsForbidden`.
    pub fn permit(&self, record: &ContainerRecord) -> Result<(), NodeError> {
        if self.config.allow_host || record.userns.range.is_some() {
            return Ok(());
        }
        let reason = record.userns.reason.as_deref().unwrap_or("--userns=host");
        Err(NodeError::UsernsForbidden(format!("container {} ({reason})", record.name)))
    }

    /// What whoever makes a container has to know: it has not got what it would have elsewhere.
    pub fn warning(&self, record: &ContainerRecord) -> Option<String> {
        let wanted = record.spec.userns == UsernsMode::Unset && needs_host(&record.spec).is_none();
        let missing = self.missing.as_ref().filter(|_| wanted && self.config.own_by_default)?;
        record.userns.range.is_none().then(|| {
            format!("there are no user namespaces here ({missing}): root in the container is root of the host, held by its other walls alone")
        })
    }

    fn take(&self, mode: &UsernsMode) -> Result<(IdRange, Held), NodeError> {
        let (size, keep) = match *mode {
            UsernsMode::Auto { size } => (size.unwrap_or(DEFAULT_SIZE), None),
            UsernsMode::Keep { uid, gid } => (DEFAULT_SIZE, Some((uid, gid))),
            UsernsMode::Range { size, .. } => (size, None),
            UsernsMode::Unset | UsernsMode::Host => (DEFAULT_SIZE, None),
        };
        let mut table = lock(&self.table);
        let base = match *mode {
            UsernsMode::Range { base, .. } => {
                if table.in_the_way(base, size).is_some() || other(&self.config.others, base, size).is_some() {
                    return Err(NodeError::IdsInUse { base, size });
                }
                base
            }
            _ => self.free(&table, size).ok_or_else(|| {
                let all = self.config.ranges.iter().map(|(first, n)| format!("{n} from {first} on")).collect();
                NodeError::IdsExhausted { size, given: table.given.len(), all }
            })?,
        };
        let key = table.put(base, size);
        table.next = base.saturating_add(size);
        Ok((IdRange { base, size, keep }, Held { key, table: self.table.clone() }))
    }

    fn free(&self, table: &Table, size: u32) -> Option<u32> {
        let ranges = &self.config.ranges;
        let at = ranges.iter().position(|(first, n)| (*first..first.saturating_add(*n)).contains(&table.next));
        let start = at.map(|at| (table.next, ranges[at].0.saturating_add(ranges[at].1)));
        // From where the last one was given, then the ranges behind it, then all of them from their beginnings.
        let behind =
            ranges.iter().skip(at.map_or(0, |at| at + 1)).chain(ranges).map(|(f, n)| (*f, f.saturating_add(*n)));
        start.into_iter().chain(behind).find_map(|(mut base, end)| {
            while base.checked_add(size).is_some_and(|last| last <= end) {
                match table.in_the_way(base, size).or_else(|| other(&self.config.others, base, size)) {
                    None => return Some(base),
                    Some(behind) => base = behind,
                }
            }
            None
        })
    }
}

fn other(others: &[(u32, u32)], base: u32, size: u32) -> Option<u32> {
    let range = IdRange { base, size, keep: None };
    others.iter().find(|(first, n)| range.overlaps(*first, *n)).map(|(first, n)| first.saturating_add(*n))
}

/// What of a spec works in the host's user namespace alone, or loses there what it is asked for.
fn needs_host(spec: &ContainerSpec) -> Option<&'static str> {
    if spec.privileged {
        Some("privileged")
    } else if spec.host_pid {
        Some("the host's processes")
    } else if spec.network == NetworkMode::Host {
        Some("the host's network")
    } else if spec.host_ipc {
        Some("the host's System V IPC")
    } else {
        None
    }
}

/// Looks whether containers can have user namespaces here; blocking. `None`: they can.
pub(crate) fn probe(store: &LayerStore, data_root: &Path) -> Option<String> {
    if is_down("userns.probe") {
        return Some("no idmapped mounts: a test has taken them away".to_owned());
    }
    let made = UserNamespace::create(true).and_then(|(mut users, _)| {
        let ids = IdRange { base: 0x1000_0000, size: DEFAULT_SIZE, keep: None };
        users.map(&ids.uid_map(), &ids.gid_map())?;
        Ok((users, ids))
    });
    let (users, ids) = match made {
        Ok(made) => made,
        // ENOSPC is user.max_user_namespaces here (user_namespaces(7)).
        Err(e) if is_of_the_moment(&e) && !is_disk_full(&e) => return None,
        Err(e) => return Some(format!("the kernel makes none: {e}")),
    };
    let shift = Shift { userns: users.as_fd(), uid: ids.base, gid: ids.base };
    match store.probe_shift(&data_root.join("userns-probe"), shift) {
        // That says nothing of what the kernel can, and containers must not get the host's ids for it. What cannot start says so.
        Err(e) if e.of_the_moment() => None,
        tried => tried.err().map(|e| format!("no idmapped mounts: {e}")),
    }
}

/// A user namespace with its ids, for one start.
pub(crate) struct Own {
    users: UserNamespace,
    ids: IdRange,
}

impl Own {
    /// With the network namespace that belongs to it, where the container has one of its own.
    pub fn make(inner: &Inner, record: &ContainerRecord, ids: IdRange) -> Result<(Own, Option<Namespace>), NodeError> {
        let mut network = match record.spec.network {
            NetworkMode::Bridge | NetworkMode::None => Some(inner.networks.namespace(true)?),
            NetworkMode::Host | NetworkMode::Container(_) => None,
        };
        let mut users = match network.as_mut().and_then(|n| n.users.take()) {
            Some(users) => users,
            None => UserNamespace::create(false).map_err(NodeError::io("making a user namespace"))?.0,
        };
        users.map(&ids.uid_map(), &ids.gid_map()).map_err(NodeError::io(format!(
            "giving the user namespace the ids {} to {}",
            ids.base,
            ids.end() - 1
        )))?;
        Ok((Own { users, ids }, network))
    }

    pub fn shift(&self) -> Shift<'_> {
        Shift { userns: self.users.as_fd(), uid: self.ids.base, gid: self.ids.base }
    }

    pub fn fd(&self) -> Result<OwnedFd, NodeError> {
        self.users.as_fd().try_clone_to_owned().map_err(NodeError::io("duplicating a descriptor"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(config: UsernsConfig) -> Ranges {
        Ranges::new(UsernsConfig { own_by_default: true, ..config }, None)
    }

    fn small() -> Ranges {
        let ranges_ = vec![(100_000, 30), (200_000, 25)];
        ranges(UsernsConfig { ranges: ranges_, others: vec![(100_010, 10)], ..UsernsConfig::default() })
    }

    fn asked(mode: UsernsMode) -> ContainerSpec {
        ContainerSpec { userns: mode, ..ContainerSpec::default() }
    }

    #[test]
    fn nobody_has_what_somebody_has() {
        let all = small();
        let ten = asked(UsernsMode::Auto { size: Some(10) });
        let mut held = Vec::new();
        let mut bases = Vec::new();
        for _ in 0..4 {
            let (userns, hold) = all.choose(&ten).unwrap();
            bases.push(userns.range.unwrap().base);
            held.push(hold);
        }
        assert_eq!(bases, [100_000, 100_020, 200_000, 200_010]);
        let error = all.choose(&ten).unwrap_err();
        assert!(matches!(error, NodeError::IdsExhausted { size: 10, given: 4, .. }), "{error}");
        held.remove(1);
        assert_eq!(all.choose(&ten).unwrap().0.range.unwrap().base, 100_020);
        for (base, good) in [(100_000, false), (199_995, false), (300_000, true)] {
            let range = asked(UsernsMode::Range { base, size: 10 });
            assert_eq!(all.choose(&range).is_ok(), good, "{base}");
        }
    }

    #[test]
    fn ids_rest_before_they_are_given_again() {
        let all = ranges(UsernsConfig::default());
        let first = all.choose(&asked(UsernsMode::Unset)).unwrap().0.range.unwrap();
        let second = all.choose(&asked(UsernsMode::Unset)).unwrap().0.range.unwrap();
        assert_eq!(second.base, first.base + DEFAULT_SIZE);
        assert_eq!(all.count(), (0, 24_576));
    }

    #[test]
    fn what_earlier_agents_gave_is_given() {
        let all = small();
        let range = IdRange { base: 100_000, size: 30, keep: None };
        let held = all.known(&Userns { range: Some(range), reason: None });
        let ten = asked(UsernsMode::Auto { size: Some(10) });
        assert_eq!(all.choose(&ten).unwrap().0.range.unwrap().base, 200_000);
        drop(held);
        assert!(all.known(&Userns::default()).is_none());
    }

    #[test]
    fn the_hosts_is_given_where_it_is_needed_and_allowed() {
        let all = ranges(UsernsConfig::default());
        let reason = |spec: &ContainerSpec| all.choose(spec).unwrap().0.reason;
        assert_eq!(reason(&asked(UsernsMode::Host)), None);
        let privileged = ContainerSpec { privileged: true, ..ContainerSpec::default() };
        let network = ContainerSpec { network: NetworkMode::Host, ..ContainerSpec::default() };
        assert_eq!(reason(&privileged).as_deref(), Some("privileged"));
        assert_eq!(reason(&network).as_deref(), Some("the host's network"));
        let both = ContainerSpec { userns: UsernsMode::Auto { size: None }, ..privileged.clone() };
        assert!(matches!(all.choose(&both), Err(NodeError::Invalid(_))));
        let strict = ranges(UsernsConfig { allow_host: false, ..UsernsConfig::default() });
        for spec in [asked(UsernsMode::Host), privileged] {
            assert!(matches!(strict.choose(&spec), Err(NodeError::UsernsForbidden(_))));
        }
        assert!(strict.choose(&network).unwrap().0.range.is_some());
        let none = Ranges::new(UsernsConfig { own_by_default: true, ..UsernsConfig::default() }, Some("old".into()));
        assert!(none.choose(&asked(UsernsMode::Unset)).unwrap().0.reason.unwrap().ends_with("old"));
        assert!(matches!(none.choose(&asked(UsernsMode::Auto { size: None })), Err(NodeError::UsernsMissing(_))));
    }
}
