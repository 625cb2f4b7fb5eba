//! Copies between a container and its callers, as tars, by the rules of `docker cp`.
//!
//! Every path of the container is resolved inside its root and held by descriptors from then on, so that processes of the container that
//! swap folders for links meanwhile lead nobody out of it.

use crate::NodeError;
use crate::container::Container;
use crate::node::Inner;
use crate::places::Taken;
use crate::root::Root;
use crate::store::Durability;
use crate::view::{CopiedOut, CopyInto, CopySource, Requester};
use crate::{own, volumes};
use berth_model::ContainerRecord;
use berth_model::userns::IdRange;
use berth_sys::fs::{self as sysfs, Kind, Open, Resolve, Stat};
use berth_sys::userns::as_file_user;
use berth_tar::{
    ExtractError, Extracted, Extractor, Found, Ids, Owner, Packer, Packing, Place, Rules, Source, Top, place,
};
use bytes::{Bytes, BytesMut};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Bytes of one piece of a tar.
const PIECE: usize = 128 << 10;
/// ST_RDONLY of statvfs(3).
const READ_ONLY: u64 = 1;
/// Pieces that wait for a caller.
const QUEUE: usize = 4;
/// A caller that takes nothing for so long has forgotten the copy, and a stopped container waits for its end.
const STUCK: Duration = Duration::from_secs(600);
/// Links at the end of a destination: as many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Pieces of a tar; an error is the last one. On their way into a container an empty one says that the tar is whole.
pub type Pieces = mpsc::Receiver<Result<Bytes, NodeError>>;

/// Where a copy is written.
struct Target {
    base: OwnedFd,
    top: Top,
    follow: Option<(OwnedFd, Vec<u8>)>,
}

/// What is read.
struct Object {
    fd: OwnedFd,
    stat: Stat,
    source: CopySource,
    name: Vec<u8>,
    link_target: Vec<u8>,
}

/// Writes a tar into a container, to its end or until the pieces end.
pub(crate) async fn into(
    inner: &Arc<Inner>,
    who: &Requester,
    container: Arc<Container>,
    request: CopyInto,
    mut pieces: Pieces,
) -> Result<Extracted, NodeError> {
    // Who has begun and says nothing takes no place, and holds no container.
    let mut first = Some(pieces.recv().await.ok_or(NodeError::CallerGone)??);
    let _place = inner.copies.enter(who).await?;
    let root = Root::open(inner, &container).await?;
    let (name, record, inner_) = (container.record().name.clone(), container.record(), inner.clone());
    let done = inner
        .blocking(move || {
            let absent = Absent::of(&root, &name);
            absent.refuse_text(&request.path)?;
            let target = target(root.fd(), &request)?;
            let to = match &target.top {
                Top::Renamed { to, .. } => to.as_slice(),
                _ => b"",
            };
            absent.refuse(target.base.as_fd(), to, &request.path)?;
            if root.read_only() && sysfs::mount_flags(target.base.as_fd()).is_ok_and(|flags| flags & READ_ONLY != 0) {
                return Err(NodeError::RootReadOnly(name));
            }
            let owner = if request.keep_owner { Owner::Kept } else { Owner::Fixed(0, 0) };
            let (base, renamed) = (again(target.base.as_fd())?, to.to_vec());
            let (top, follow) = (target.top, target.follow);
            let ids = root.ids();
            let rules = Rules { owner, top, skip_devices: false, keep_top: false, follow, ids: ids.map(to_host) };
            let mut extractor = Extractor::new(target.base, rules);
            let wrong = |e| match full(&inner_, &record, root.fd(), (base.as_fd(), &renamed), &e) {
                Some(full) => full,
                None => extract_error(e, &name),
            };
            let write = || -> Result<Extracted, NodeError> {
                loop {
                    let piece = match first.take() {
                        Some(piece) => piece,
                        None => pieces.blocking_recv().ok_or(NodeError::CallerGone)??,
                    };
                    if piece.is_empty() {
                        break;
                    }
                    if !root.lives() {
                        return Err(NodeError::EndedMeanwhile(name.clone()));
                    }
                    extractor.push(&piece).map_err(wrong)?;
                }
                extractor.finish().map_err(wrong)
            };
            let written = volumes::within_limits(|| match ids {
                None => write(),
                // Its file systems take no files of the host's root.
                Some(ids) => {
                    as_file_user(ids.base, ids.base, write).map_err(NodeError::io("writing as the container's root"))?
                }
            });
            written.map_err(NodeError::io("giving up CAP_SYS_RESOURCE"))?
        })
        .await?;
    let event = inner.events.add_container(&container.record(), "extract-to-dir", &[]);
    let _ = inner.store.submit(vec![event], Durability::Quick).await?;
    Ok(done)
}

/// Reads a file or a folder of a container, in a place that its caller has.
pub(crate) async fn out(
    inner: &Arc<Inner>,
    taken: Taken,
    container: Arc<Container>,
    path: Vec<u8>,
    follow: bool,
) -> Result<CopiedOut, NodeError> {
    let event = inner.events.add_container(&container.record(), "archive-path", &[]);
    let _ = inner.store.submit(vec![event], Durability::Quick).await?;
    let name = container.record().name.clone();
    // From here on it lives and dies on threads that may block: its end unmounts.
    let root = Root::open(inner, &container).await?;
    let (sender, pieces) = mpsc::channel(QUEUE);
    let (first, found) = oneshot::channel();
    inner.tasks.spawn_blocking(move || {
        let _taken = taken;
        if berth_sys::wall::is_down("library") {
            with_a_library(root.fd());
        }
        let absent = Absent::of(&root, &name);
        let found = absent.refuse_text(&path).and_then(|()| object(root.fd(), &path, follow));
        let object = match found.and_then(|object| absent.refuse(object.fd.as_fd(), b"", &path).map(|()| object)) {
            Ok(object) => object,
            Err(e) => return drop(first.send(Err(e))),
        };
        let mut stat = object.stat;
        if let Some(ids) = root.ids() {
            let inside = from_host(ids).map(stat.uid, stat.gid);
            (stat.uid, stat.gid) = inside.unwrap_or((berth_tar::NOBODY, berth_tar::NOBODY));
        }
        let told = first.send(Ok((object.source, object.name.clone(), stat, object.link_target.clone())));
        if told.is_err() {
            return;
        }
        let check = || root.check();
        let packing = Packing { ids: root.ids().map(from_host), ..Packing::default() };
        let mut packer = Packer::new(Outlet::new(sender.clone()), packing, &check);
        let packed = packer.add(object.fd.as_fd(), &object.name).and_then(|()| packer.finish()).and_then(Outlet::end);
        let ended = !root.lives();
        // Before its reader knows that all is there: a stopped container is free again.
        drop((object, root));
        if let Err(e) = packed {
            let error = match ended {
                true => NodeError::EndedMeanwhile(name),
                false => NodeError::Io { act: "reading the container's files".to_owned(), source: e },
            };
            give_up(&sender, error);
        }
    });
    let (source, name, stat, link_target) = found.await.map_err(|_| NodeError::Stopping)??;
    Ok(CopiedOut { source, name, stat, link_target, pieces })
}

/// A program of the host's that finds its name service in the container, as Docker's had: for a test that sees what comes of it (CVE-2019-14271).
fn with_a_library(root: BorrowedFd<'_>) {
    let library = format!("/proc/{}/fd/{}/lib/libnss_files.so.2", std::process::id(), root.as_raw_fd());
    let _ = std::process::Command::new("/bin/true").env_clear().env("LD_PRELOAD", library).status();
}

/// From a container's numbers of owners to the host's.
fn to_host(ids: IdRange) -> Ids {
    Ids { users: ids.users(), groups: ids.groups() }
}

fn from_host(ids: IdRange) -> Ids {
    let back = |extents: [(u32, u32, u32); 3]| extents.map(|(inside, host, n)| (host, inside, n));
    Ids { users: back(ids.users()), groups: back(ids.groups()) }
}

/// The last thing that a reader hears, whenever it reads: no thread waits for it.
pub(crate) fn give_up<T: Send + 'static>(sender: &mpsc::Sender<Result<T, NodeError>>, error: NodeError) {
    if let Err(mpsc::error::TrySendError::Full(last)) = sender.try_send(Err(error)) {
        let sender = sender.clone();
        tokio::spawn(async move {
            // Err: nobody reads any more.
            let _ = sender.send(last).await;
        });
    }
}

/// Hands something to a reader that takes it within `patience`. Only on a thread that may block.
pub(crate) fn send_within<T>(
    sender: &mpsc::Sender<Result<T, NodeError>>,
    item: T,
    patience: Duration,
) -> io::Result<()> {
    match tokio::runtime::Handle::current().block_on(sender.send_timeout(Ok(item), patience)) {
        Ok(()) => Ok(()),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(io::ErrorKind::TimedOut.into()),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// A stream into a channel, in pieces of one size.
pub(crate) struct Outlet {
    sender: mpsc::Sender<Result<Bytes, NodeError>>,
    piece: BytesMut,
}

impl Outlet {
    /// Only on a thread that may block.
    pub fn new(sender: mpsc::Sender<Result<Bytes, NodeError>>) -> Self {
        Outlet { sender, piece: BytesMut::with_capacity(PIECE) }
    }

    pub fn end(mut self) -> io::Result<()> {
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE)).freeze();
        if piece.is_empty() {
            return Ok(());
        }
        send_within(&self.sender, piece, STUCK)
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an entry was written to in `base`, where it was a volume of the container, or the container itself, that had no room left. `renamed`: the name
/// that all of the tar is below, where it is another one than the tar's.
fn full(
    inner: &Inner,
    record: &ContainerRecord,
    root: BorrowedFd<'_>,
    (base, renamed): (BorrowedFd<'_>, &[u8]),
    error: &ExtractError,
) -> Option<NodeError> {
    let ExtractError::Io { entry, source } = error else { return None };
    let path = match (renamed, entry.split_once('/')) {
        (b"", _) | (_, None) => entry.clone().into_bytes(),
        (renamed, Some((_, rest))) => [renamed, b"/", rest.as_bytes()].concat(),
    };
    let folder = volumes::folder_of(base, &path)?;
    match inner.volumes.full(&record.spec, folder.as_fd(), (entry, source)) {
        Some(volume) => Some(NodeError::Volume(volume)),
        None => own::full_of_copy(inner, record, (root, folder.as_fd()), (entry, source)),
    }
}

fn extract_error(e: ExtractError, container: &str) -> NodeError {
    match e {
        ExtractError::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            NodeError::RootReadOnly(container.to_owned())
        }
        ExtractError::Io { source, entry } if source.raw_os_error().is_none() => {
            NodeError::BadDestination(format!("{entry}: {source}"))
        }
        ExtractError::Io { entry, source } => NodeError::Io { act: format!("writing {entry:?}"), source },
        ExtractError::Tar(_) | ExtractError::Refused { .. } => NodeError::BadArchive(e.to_string()),
    }
}

fn shown(path: &[u8]) -> String {
    berth_tar::show(path)
}

/// The path without what only says that it is a folder, and whether something said so.
fn trimmed(path: &[u8]) -> (&[u8], bool) {
    let mut left = path;
    loop {
        left = match left {
            [rest @ .., b'/'] | [rest @ .., b'/', b'.'] => rest,
            b"." => b"",
            _ => return (left, left.len() != path.len() || left.is_empty()),
        };
    }
}

/// The parts of a path by its letters alone.
fn parts(path: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

/// Files that a container has only while it runs: what is below such a mount is neither what was asked for, nor would anybody
/// see what is written there.
struct Absent<'a> {
    container: &'a str,
    root: BorrowedFd<'a>,
    targets: &'a [String],
    /// Where they are in the root, links on their way followed.
    places: Vec<(PathBuf, &'a String)>,
}

impl<'a> Absent<'a> {
    fn of(root: &'a Root, container: &'a str) -> Absent<'a> {
        let (fd, targets) = (root.fd(), root.absent());
        let place = |target: &'a String| {
            let found = in_root(fd, target.as_bytes(), Open::NONE).ok()?;
            Some((place_of(found.as_fd())?, target))
        };
        Absent { container, root: fd, targets, places: targets.iter().filter_map(place).collect() }
    }

    /// By the words of the path.
    fn refuse_text(&self, path: &[u8]) -> Result<(), NodeError> {
        let asked = parts(path);
        let target = self.targets.iter().find(|target| asked.starts_with(&parts(target.as_bytes())));
        target.map_or(Ok(()), |target| Err(self.error(target, path)))
    }

    /// By what it led to, over links: `name` in `found`.
    fn refuse(&self, found: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), NodeError> {
        let Some(mut place) = place_of(found).filter(|_| !self.places.is_empty()) else { return Ok(()) };
        if !name.is_empty() && name != b"." {
            place.push(OsStr::from_bytes(name));
        }
        // The same mounts: what is found in a volume has its place there.
        if place_of(self.root).is_none_or(|root| !place.starts_with(root)) {
            return Ok(());
        }
        let target = self.places.iter().find(|(absent, _)| place.starts_with(absent));
        target.map_or(Ok(()), |(_, target)| Err(self.error(target, path)))
    }

    fn error(&self, target: &str, path: &[u8]) -> NodeError {
        NodeError::NotMounted { container: self.container.to_owned(), path: shown(path), target: target.to_owned() }
    }
}

/// The path by which the kernel knows it, in the tree of mounts that it is in.
fn place_of(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn in_root(root: BorrowedFd<'_>, path: &[u8], flags: Open) -> Result<OwnedFd, NodeError> {
    let how = Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;
    let below = if path.is_empty() { &b"."[..] } else { path };
    sysfs::openat2(root, OsStr::from_bytes(below), Open::PATH | flags, 0, how).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => NodeError::PathNotFound(shown(path)),
        _ => NodeError::Io { act: format!("opening {:?} in the container", shown(path)), source: e },
    })
}

fn again(fd: BorrowedFd<'_>) -> Result<OwnedFd, NodeError> {
    fd.try_clone_to_owned().map_err(NodeError::io("duplicating a descriptor"))
}

/// Where `request` goes, by Docker's rules.
fn target(root: BorrowedFd<'_>, request: &CopyInto) -> Result<Target, NodeError> {
    let (path, wants_folder) = trimmed(&request.path);
    let source = match request.source {
        CopySource::File => Source::File,
        CopySource::Folder => Source::Folder,
        CopySource::Contents => Source::Contents,
        CopySource::Archive => {
            let base = in_root(root, path, Open::DIRECTORY)?;
            return Ok(Target { base, top: Top::AsIs, follow: Some((again(root)?, path.to_vec())) });
        }
    };
    let from = if source == Source::Contents { b".".to_vec() } else { request.name.clone() };
    let (folder, name, found) = end_of(root, path)?;
    let bad = |e: berth_tar::PlaceError| match e {
        berth_tar::PlaceError::NoFolder => NodeError::PathNotFound(shown(&request.path)),
        e => NodeError::BadDestination(format!("{}: {e}", shown(&request.path))),
    };
    let (base, to) = match place(source, found, wants_folder).map_err(bad)? {
        Place::As => (folder, name),
        Place::Into if name.is_empty() => (folder, from.clone()),
        Place::Into => {
            let flags = Open::PATH | Open::DIRECTORY | Open::NOFOLLOW;
            let base = sysfs::openat(folder.as_fd(), OsStr::from_bytes(&name), flags, 0);
            (base.map_err(NodeError::io(format!("opening {:?}", shown(&request.path))))?, from.clone())
        }
    };
    Ok(Target { base, top: Top::Renamed { from, to }, follow: None })
}

/// The folder and the name that a path ends in when links at its end are followed, and what is there. No name: the folder itself.
fn end_of(root: BorrowedFd<'_>, path: &[u8]) -> Result<(OwnedFd, Vec<u8>, Found), NodeError> {
    let mut path = path.to_vec();
    for _ in 0..MAX_LINKS {
        let (above, name) = split(&path);
        if matches!(name, b"" | b"." | b"..") {
            return Ok((in_root(root, &path, Open::DIRECTORY)?, Vec::new(), Found::Folder));
        }
        let folder = in_root(root, above, Open::DIRECTORY)?;
        let found = match sysfs::lstatat(folder.as_fd(), OsStr::from_bytes(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Found::Missing,
            Err(e) => return Err(NodeError::Io { act: format!("looking at {:?}", shown(&path)), source: e }),
            Ok(stat) if stat.kind == Kind::Symlink => {
                let link = sysfs::readlinkat(folder.as_fd(), OsStr::from_bytes(name));
                let link = link.map_err(NodeError::io(format!("reading the link {:?}", shown(&path))))?;
                let (link, _) = trimmed(link.as_bytes());
                path = if link.starts_with(b"/") { link.to_vec() } else { [above, b"/", link].concat() };
                continue;
            }
            Ok(stat) if stat.kind == Kind::Directory => Found::Folder,
            Ok(_) => Found::File,
        };
        return Ok((folder, name.to_vec(), found));
    }
    Err(NodeError::BadDestination(format!("{}: too many levels of symbolic links", shown(&path))))
}

/// What `path` names.
fn object(root: BorrowedFd<'_>, path: &[u8], follow: bool) -> Result<Object, NodeError> {
    let (clean, wants_folder) = trimmed(path);
    let (_, name) = split(clean);
    let contents = path.ends_with(b"/.") || path == b"." || matches!(name, b"" | b"." | b"..");
    let flags = if follow || wants_folder || contents { Open::NONE } else { Open::NOFOLLOW };
    let fd = in_root(root, clean, flags)?;
    let looked = |e| NodeError::Io { act: format!("looking at {:?}", shown(path)), source: e };
    if let Some(file_system) = sysfs::kernel_files(fd.as_fd()).map_err(looked)? {
        return Err(NodeError::KernelFiles { path: shown(path), file_system });
    }
    let stat = sysfs::fstat(fd.as_fd()).map_err(looked)?;
    if stat.kind != Kind::Directory && (wants_folder || contents) {
        return Err(NodeError::PathNotFound(format!("{} (it is no folder)", shown(path))));
    }
    let link_target = match stat.kind {
        Kind::Symlink => sysfs::readlinkat(fd.as_fd(), "").map_err(looked)?.as_bytes().to_vec(),
        _ => Vec::new(),
    };
    let (source, name) = match stat.kind {
        Kind::Directory if contents => (CopySource::Contents, b".".to_vec()),
        Kind::Directory => (CopySource::Folder, name.to_vec()),
        Kind::Socket | Kind::Unknown => {
            return Err(NodeError::BadDestination(format!("{}: a socket cannot be copied", shown(path))));
        }
        _ => (CopySource::File, name.to_vec()),
    };
    Ok(Object { fd, stat, source, name, link_target })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_that_does_not_read_holds_no_thread() {
        let (sender, mut reader) = mpsc::channel(1);
        let work = tokio::task::spawn_blocking(move || {
            send_within(&sender, 1, STUCK).unwrap();
            let error = send_within(&sender, 2, Duration::from_millis(50)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            give_up(&sender, NodeError::CallerGone);
        });
        tokio::time::timeout(Duration::from_secs(10), work).await.expect("the thread is free").unwrap();
        assert!(matches!(reader.recv().await, Some(Ok(1))));
        assert!(matches!(reader.recv().await, Some(Err(NodeError::CallerGone))), "no end without the reason");
        assert!(reader.recv().await.is_none());
    }

    #[test]
    fn mounts_are_told_by_their_paths() {
        let absent = ["/data/".to_owned()];
        for (path, good) in
            [("/data", false), ("/data/x", false), ("/etc/../data/.", false), ("/database", true), ("/", true)]
        {
            let root = std::fs::File::open("/").unwrap();
            let absent = Absent { container: "box", root: root.as_fd(), targets: &absent, places: Vec::new() };
            assert_eq!(absent.refuse_text(path.as_bytes()).is_ok(), good, "{path}");
        }
    }

    #[test]
    fn the_kernels_own_files_are_refused_by_name() {
        let root = std::fs::File::open("/").unwrap();
        for (path, wanted) in [
            ("/proc/version", "proc"),
            ("/proc/self/.", "proc"),
            ("/proc", "proc"),
            ("/etc/../sys/kernel/uevent_seqnum", "sysfs"),
            ("/sys/kernel/", "sysfs"),
        ] {
            let refused = object(root.as_fd(), path.as_bytes(), true).map(drop).unwrap_err();
            let NodeError::KernelFiles { file_system, .. } = &refused else { panic!("{path}: {refused}") };
            assert_eq!(*file_system, wanted, "{path}");
            assert!(refused.to_string().contains("read them with exec"), "{refused}");
        }
        object(root.as_fd(), b"/usr", false).map(drop).unwrap();
    }

    #[test]
    fn trailing_slashes_and_dots() {
        for (path, want) in [
            ("/a/b", ("/a/b", false)),
            ("/a/b/", ("/a/b", true)),
            ("/a/b/.", ("/a/b", true)),
            ("/a/b/././/", ("/a/b", true)),
            ("/a/..", ("/a/..", false)),
            ("/", ("", true)),
            (".", ("", true)),
            ("", ("", true)),
            ("a.", ("a.", false)),
        ] {
            assert_eq!(trimmed(path.as_bytes()), (want.0.as_bytes(), want.1), "{path}");
        }
    }
}
