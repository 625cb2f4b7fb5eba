//! SELinux: which container has which two categories, and files that become a container's.

mod walk;

use crate::NodeError;
use crate::node::Inner;
use berth_model::selinux::{CATEGORIES, Context, Labels, Relabel, level_of, pair_of};
use berth_model::spec::{Mount, VolumeMount};
use berth_model::{ContainerRecord, ContainerSpec};
use berth_rootfs::LayerStore;
use berth_runtime::{Level, PRIVILEGED_PAIR, Runtime};
use berth_sys::fs::{self as sysfs, Open, Resolve};
use berth_volume::Place;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use walk::Failed;

const XATTR: &std::ffi::CStr = c"security.selinux";

type Table = BTreeMap<(u16, u16), u32>;

/// The pairs of categories that containers have.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pairs(Arc<Mutex<Table>>);

/// A pair that is taken; its drop gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    pair: (u16, u16),
    pairs: Pairs,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.pairs.lock();
        if let Some(count) = table.get_mut(&self.pair) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.pair);
            }
        }
    }
}

/// All pairs but the one of privileged containers, which is the last.
const PAIRS: u32 = CATEGORIES as u32 * (CATEGORIES as u32 - 1) / 2 - 1;

/// By their order: (0, 1), (0, 2) and so on.
fn nth(mut n: u32) -> (u16, u16) {
    let mut first = 0;
    loop {
        let row = u32::from(CATEGORIES - 1 - first);
        if n < row {
            return (first, first + 1 + n as u16);
        }
        n -= row;
        first += 1;
    }
}

impl Pairs {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, table: &mut Table, pair: (u16, u16)) -> Held {
        *table.entry(pair).or_default() += 1;
        Held { pair, pairs: self.clone() }
    }

    /// One that nobody has. `None`: there is none.
    fn own(&self, random: u32) -> Option<Held> {
        let mut table = self.lock();
        let free = (0..PAIRS).map(|n| nth((random % PAIRS + n) % PAIRS)).find(|pair| !table.contains_key(pair));
        free.map(|pair| self.hold(&mut table, pair))
    }

    /// Of a level that was asked for: two containers may ask for the same, and nobody gets it by chance.
    fn asked(&self, level: &str) -> Option<Held> {
        let pair = pair_of(level).filter(|pair| *pair != PRIVILEGED_PAIR)?;
        Some(self.hold(&mut self.lock(), pair))
    }

    /// What a record of an earlier agent says.
    pub fn known(&self, labels: &Labels) -> Option<Held> {
        self.asked(&Context::parse(&labels.process)?.level)
    }

    /// How many are taken.
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}

/// What a new container gets.
///
/// # Errors
/// `Invalid`: the host's policy does not know what was asked for; `LabelsExhausted`.
pub(crate) fn choose(inner: &Inner, spec: &ContainerSpec) -> Result<(Labels, Option<Held>), NodeError> {
    let Some(host) = inner.runtime.selinux() else { return Ok((Labels::NONE, None)) };
    let (level, held) = match host.level(spec) {
        Level::None => (String::new(), None),
        Level::Asked(level) => {
            let held = inner.pairs.asked(&level);
            (level, held)
        }
        Level::Own => {
            let mut random = [0; 4];
            berth_sys::store::random(&mut random).map_err(NodeError::io("getting random bytes"))?;
            let held = inner.pairs.own(u32::from_ne_bytes(random)).ok_or(NodeError::LabelsExhausted)?;
            (level_of(held.pair), Some(held))
        }
    };
    let labels = host.labels(spec, &level);
    let labels = labels.map_err(|why| NodeError::Invalid(vec![("selinux".to_owned(), why)]))?;
    Ok((labels, held))
}

/// Gives the layers in `dir` the label that all containers may read; those that come later take it from their folder.
///
/// # Errors
/// `Io`.
pub(crate) fn label_layers(runtime: &Runtime, store: &LayerStore, dir: &Path) -> Result<(), NodeError> {
    let Some(host) = runtime.selinux() else { return Ok(()) };
    let label = host.layers();
    let act = || NodeError::io(format!("labelling {} {label}", dir.display()));
    let root = sysfs::open(dir, Open::RDONLY | Open::DIRECTORY, 0).map_err(act())?;
    let has = sysfs::fgetxattr(root.as_fd(), XATTR).map_err(act())?.unwrap_or_default();
    if String::from_utf8_lossy(&has).trim_end_matches('\0') != label {
        match relabel(root.as_fd(), &format_args!("{}", dir.display()), &label) {
            Err(Failed { source: e, .. }) if walk::is_unlabelled(&e) => {
                tracing::warn!(dir = %dir.display(), error = %e, "layers have no labels: containers may not be let to read them");
            }
            Err(Failed { path, source }) => {
                let act = format!("labelling {path} of {} {label}", dir.display());
                return Err(NodeError::Io { act, source });
            }
            Ok(None) => {}
            Ok(Some(sentence)) => tracing::warn!("{sentence}"),
        }
    }
    store.set_label(label);
    Ok(())
}

/// Folders that hosts are made of: what is relabelled there is the host's no more (go-selinux has the same list).
const HOSTS: [&str; 27] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
    "/var",
    "/var/lib",
    "/var/log",
];

/// The agent's own folders as they are found by whoever walks there, through all links.
#[derive(Clone, Default, Debug)]
pub(crate) struct Own(Vec<PathBuf>);

impl Own {
    /// `folders`: as the configuration has them.
    ///
    /// # Errors
    /// One cannot be found.
    pub fn find(folders: &[&Path]) -> io::Result<Own> {
        // By both names: what is there may be moved behind a link while the agent runs.
        let real: io::Result<Vec<PathBuf>> = folders.iter().map(std::fs::canonicalize).collect();
        Ok(Own(real?.into_iter().chain(folders.iter().map(|f| f.to_path_buf())).collect()))
    }
}

/// Whose folder or file is to be relabelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    /// A caller named its path.
    Callers,
    /// A volume, which is found in the agent's folder.
    Volumes,
}

/// Why the files of this folder stay the host's.
fn refusal(real: &Path, own: &Own, whose: Whose) -> Option<String> {
    let is_hosts = HOSTS.iter().any(|path| real == Path::new(path));
    // With all that is in it: the store, keys of the node, other containers' files.
    let is_own = own.0.iter().any(|path| path.starts_with(real) || (whose == Whose::Callers && real.starts_with(path)));
    // Somebody's home, with keys that other programs look for.
    let is_home = real.parent() == Some(Path::new("/home"));
    (is_hosts || is_own || is_home).then(|| {
        format!(
            "{} is the host's, and is not relabelled: leave out z and Z, or give a folder of its own",
            real.display()
        )
    })
}

/// The label that a mount's files are to have. `None`: they keep theirs.
fn wanted(labels: &Labels, relabel: Relabel) -> Option<String> {
    match relabel {
        _ if labels.mount.is_empty() => None,
        Relabel::Keep => None,
        Relabel::Shared => Some(labels.shared()),
        Relabel::Private => Some(labels.mount.clone()),
    }
}

/// Gives a bind mount's files the container's label, or all containers'. `source`: the folder or file, as the host sees it.
///
/// # Errors
/// `Invalid`: they are the host's own; `Io`.
pub(crate) fn relabel_bind(
    inner: &Inner,
    record: &ContainerRecord,
    mount: &Mount,
    source: BorrowedFd<'_>,
) -> Result<Option<String>, NodeError> {
    match wanted(inner.runtime.labels(&record.selinux), mount.relabel) {
        None => Ok(None),
        Some(label) => relabelled(inner, source, ("the mount source", Whose::Callers), &label),
    }
}

/// As [`relabel_bind`], by its path; a missing folder is made where the mount says so.
///
/// # Errors
/// As there.
pub(crate) fn relabel_path(
    inner: &Inner,
    record: &ContainerRecord,
    mount: &Mount,
    (path, make): (&str, bool),
) -> Result<Option<String>, NodeError> {
    if mount.relabel == Relabel::Keep || inner.runtime.selinux().is_none() {
        return Ok(None);
    }
    let act = || NodeError::io(format!("opening the mount source {path}"));
    let source = match sysfs::open(path, Open::PATH, 0) {
        Err(e) if make && e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).and_then(|()| sysfs::open(path, Open::PATH, 0))
        }
        other => other,
    };
    relabel_bind(inner, record, mount, source.map_err(act())?.as_fd())
}

/// Gives a volume's files the label that was asked for. Where none was asked for, the agent's own volumes that are no container's yet become all
/// containers'.
///
/// # Errors
/// As [`relabel_bind`].
pub(crate) fn relabel_volume(
    inner: &Inner,
    record: &ContainerRecord,
    mount: &Mount,
    (place, volume): (&Place, &VolumeMount),
) -> Result<Option<String>, NodeError> {
    let (labels, Some(host)) = (inner.runtime.labels(&record.selinux), inner.runtime.selinux()) else {
        return Ok(None);
    };
    let root = place.open()?;
    let what = format!("volume {}", volume.name);
    if mount.relabel == Relabel::Keep {
        let has =
            sysfs::fgetxattr(root.as_fd(), XATTR).map_err(NodeError::io(format!("reading the label of {what}")))?;
        let has = String::from_utf8_lossy(&has.unwrap_or_default()).trim_end_matches('\0').to_owned();
        let is_containers = Context::parse(&has).is_some_and(|context| context.kind == host.file_type());
        return match wanted(labels, Relabel::Shared).filter(|_| place.fill.is_some() && !is_containers) {
            None => Ok(None),
            Some(label) => relabelled(inner, root.as_fd(), (&what, Whose::Volumes), &label),
        };
    }
    let Some(label) = wanted(labels, mount.relabel) else { return Ok(None) };
    match volume.subpath.as_deref().filter(|path| !path.is_empty()) {
        None => relabelled(inner, root.as_fd(), (&what, Whose::Volumes), &label),
        Some(path) => {
            let how = Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;
            let at = sysfs::openat2(root.as_fd(), path, Open::PATH, 0, how);
            let at = at.map_err(NodeError::io(format!("opening {path:?} in {what}")))?;
            relabelled(inner, at.as_fd(), (&what, Whose::Volumes), &label)
        }
    }
}

/// A sentence where its file system has no labels.
fn relabelled(
    inner: &Inner,
    tree: BorrowedFd<'_>,
    (what, whose): (&str, Whose),
    label: &str,
) -> Result<Option<String>, NodeError> {
    let real = std::fs::read_link(format!("/proc/self/fd/{}", tree.as_raw_fd()));
    let real = real.map_err(NodeError::io(format!("looking where {what} is")))?;
    if let Some(why) = refusal(&real, &inner.own_folders, whose) {
        return Err(NodeError::Invalid(vec![("config.mounts".to_owned(), why)]));
    }
    let real = real.display();
    match relabel(tree, &format_args!("{real}"), label) {
        Ok(sentence) => Ok(sentence),
        Err(Failed { source: e, .. }) if walk::is_unlabelled(&e) => Ok(Some(format!(
            "the file system of {real} takes no labels ({e}): what the container may do there is the policy's"
        ))),
        Err(Failed { path, source }) => {
            Err(NodeError::Io { act: format!("labelling {path} of {real} {label}"), source })
        }
    }
}

/// A file, or a folder with all below it. A sentence about what lies too deep.
fn relabel(tree: BorrowedFd<'_>, what: &std::fmt::Arguments<'_>, label: &str) -> Result<Option<String>, Failed> {
    let too_deep = walk::set_all(tree, XATTR, label.as_bytes())?;
    Ok((too_deep > 0).then(|| {
        format!("{too_deep} folders of {what} lie too deep and keep their labels: containers may not be let into them")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_what_somebody_has() {
        let pairs = Pairs::default();
        let (first, second) = (pairs.own(0).unwrap(), pairs.own(0).unwrap());
        assert_eq!((first.pair, second.pair), ((0, 1), (0, 2)));
        let asked = pairs.asked("s0:c4,c0").unwrap();
        let again = pairs.asked("s0:c0,c4").unwrap();
        let labels = Labels { process: "u:r:t:s0:c0,c3".into(), mount: String::new() };
        let known = pairs.known(&labels).unwrap();
        assert_eq!(pairs.own(0).unwrap().pair, (0, 5));
        assert_eq!(pairs.count(), 4);
        drop((first, known, asked));
        assert_eq!(pairs.own(0).unwrap().pair, (0, 1));
        assert_eq!(pairs.own(2).unwrap().pair, (0, 3));
        drop(again);
        assert_eq!(pairs.own(3).unwrap().pair, (0, 4));
        // The last one is that of privileged containers; behind it, it begins anew.
        assert_eq!(nth(PAIRS), PRIVILEGED_PAIR);
        let last = pairs.own(PAIRS - 1).unwrap();
        assert_eq!((last.pair, pairs.own(PAIRS - 1).unwrap().pair), ((1021, 1023), (0, 1)));
        assert!(pairs.asked("s0:c1022,c1023").is_none() && pairs.known(&Labels::NONE).is_none());
    }

    #[test]
    fn what_hosts_are_made_of_keeps_its_label() {
        let own = Own(["/data/berth", "/run/berth"].map(PathBuf::from).to_vec());
        for (path, refused) in [
            ("/", true),
            ("/etc", true),
            ("/usr", true),
            ("/home", true),
            ("/home/alice", true),
            ("/home/alice/site", false),
            ("/data", true),
            ("/data/berth", true),
            ("/data/berth/pki", true),
            ("/data/berth/volumes/v", true),
            ("/data/berth2", false),
            ("/data/other", false),
            ("/run", true),
            ("/srv/www", false),
        ] {
            assert_eq!(refusal(Path::new(path), &own, Whose::Callers).is_some(), refused, "{path}");
        }
        for (path, refused) in [("/data/berth", true), ("/data/berth/volumes/v", false), ("/run", true)] {
            assert_eq!(refusal(Path::new(path), &own, Whose::Volumes).is_some(), refused, "{path}");
        }
    }

    #[test]
    fn the_agents_folders_are_known_through_links() {
        let dir = crate::testing::TempDir::new("selinux-own");
        let top = dir.path().canonicalize().unwrap();
        let (real, link) = (top.join("real"), top.join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let own = Own::find(&[&link]).unwrap();
        for path in [&real, &link, &real.join("node.db"), &top] {
            assert!(refusal(path, &own, Whose::Callers).is_some(), "{}", path.display());
        }
        assert!(Own::find(&[&top.join("none")]).is_err());
    }
}
