//! Root file systems: layers below, a container's own writes above, joined by overlayfs into a detached mount.
//!
//! Three ways, the best that the kernel takes, found at the first mount:
//! - layers by descriptor (Linux 6.15 for detached mounts): nothing is ever in the host's mount table;
//! - layers by path with `lowerdir+` (Linux 6.5): erofs layers hang in the store's `mounts/`;
//! - classic mount(2) with one option string, onto a folder of `mounts/`, from which the mount is taken off at once.

use crate::erofs;
use crate::error::{Act, RootfsError};
use crate::shift::{Shift, UpperFolders};
use crate::store::{Form, LayerStore};
use berth_model::Digest;
use berth_sys::fs::{self as sysfs, Open, Resolve};
use berth_sys::mount::{self as sysmount, FsContext, MountAttr, MountFlags};
use berth_sys::userns::as_file_user;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What overlayfs takes (OVL_MAX_STACK).
pub const MAX_LAYERS: usize = 500;
/// A layer's mount that was not asked for so long is let go; running containers keep theirs.
const IDLE: Duration = Duration::from_secs(600);
/// Layers' mounts kept at most, each one descriptor.
const KEPT: usize = 2048;

/// How layers are given to overlayfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Descriptors = 0,
    Paths = 1,
    Classic = 2,
}

/// How a root is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountOptions<'a> {
    /// overlay's `volatile`: no sync at umount; for writes that are thrown away (auto-remove).
    pub volatile: bool,
    /// For a container in a user namespace of its own.
    pub shift: Option<Shift<'a>>,
    /// SELinux label of everything in it. Empty: none.
    pub label: &'a str,
}

/// A layer that is ready to lie below.
pub(crate) struct Lower {
    pub fd: OwnedFd,
    /// Where it hangs, when it had to be attached.
    pub attached: Option<PathBuf>,
    /// The layer hides all below it. Overlayfs does not look for the mark on the roots of layers.
    pub opaque: bool,
}

impl Drop for Lower {
    fn drop(&mut self) {
        if let Some(path) = &self.attached {
            let _ = sysmount::umount(path, true);
            let _ = fs::remove_dir(path);
        }
    }
}

struct Kept {
    lower: Arc<Lower>,
    used: Instant,
}

/// The mounts of layers, shared by all roots.
pub(crate) struct Lowers {
    kept: Mutex<HashMap<Digest, Kept>>,
    way: AtomicU8,
    /// A mount has been made in this way: errors are errors now, no reason to try another.
    proven: AtomicBool,
    empty: PathBuf,
    mounts: PathBuf,
    next: AtomicU64,
    /// See [`LayerStore::set_label`].
    label: OnceLock<String>,
}

impl Lowers {
    /// Takes off what an earlier process left attached.
    pub fn new(dir: &Path) -> Result<Self, RootfsError> {
        let mounts = dir.join("mounts");
        let act = || format!("reading {}", mounts.display());
        for entry in fs::read_dir(&mounts).act(act)? {
            let path = entry.act(act)?.path();
            while sysmount::umount(&path, true).is_ok() {}
            let _ = fs::remove_dir(&path);
        }
        Ok(Lowers {
            kept: Mutex::new(HashMap::new()),
            way: AtomicU8::new(Way::Descriptors as u8),
            proven: AtomicBool::new(false),
            empty: dir.join("empty"),
            mounts,
            next: AtomicU64::new(0),
            label: OnceLock::new(),
        })
    }

    pub(crate) fn way(&self) -> Way {
        match self.way.load(Ordering::Relaxed) {
            0 => Way::Descriptors,
            1 => Way::Paths,
            _ => Way::Classic,
        }
    }

    fn label(&self) -> &str {
        self.label.get().map_or("", String::as_str)
    }

    /// None: nothing was mounted yet.
    pub fn by_descriptor(&self) -> Option<bool> {
        self.proven.load(Ordering::Relaxed).then(|| self.way() == Way::Descriptors)
    }

    /// Goes over to another way; mounts of the old one are forgotten.
    pub(crate) fn set_way(&self, way: Way) {
        self.way.store(way as u8, Ordering::Relaxed);
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn forget(&self, diff_id: &Digest) {
        self.lock().remove(diff_id);
    }

    pub fn is_mounted(&self, diff_id: &Digest) -> bool {
        self.lock().contains_key(diff_id)
    }

    /// A place to attach a mount to. The error is the kernel's, as it came: whoever asks tells a full disk from what cannot be done.
    pub(crate) fn folder(&self) -> io::Result<PathBuf> {
        let path = self.mounts.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path)?;
        Ok(path)
    }

    fn lower(&self, store: &LayerStore, diff_id: &Digest) -> Result<Arc<Lower>, RootfsError> {
        let mut kept = self.lock();
        let now = Instant::now();
        if let Some(k) = kept.get_mut(diff_id) {
            k.used = now;
            return Ok(Arc::clone(&k.lower));
        }
        let (path, meta) = store.find(diff_id)?;
        let act = || format!("mounting layer {diff_id}");
        let lower = match meta.form {
            Form::Directory => {
                let tree = sysfs::open(path.join("tree"), Open::DIRECTORY, 0);
                let fd = tree.and_then(|tree| self.alone(tree)).act(act)?;
                Lower { fd, attached: None, opaque: meta.opaque_root }
            }
            Form::Erofs => {
                let index = File::open(path.join("layer.erofs")).act(act)?;
                let tar = File::open(path.join("layer.tar")).act(act)?;
                let mut lower = Lower {
                    fd: erofs::mount(&index, &tar, self.label()).act(act)?,
                    attached: None,
                    opaque: meta.opaque_root,
                };
                if self.way() != Way::Descriptors {
                    let folder = self.folder().act(act)?;
                    sysmount::move_mount(lower.fd.as_fd(), &folder).act(act)?;
                    lower.attached = Some(folder);
                }
                lower
            }
        };
        // Only here, where a mount costs more: old ones go.
        kept.retain(|_, k| now - k.used < IDLE);
        if kept.len() >= KEPT
            && let Some(oldest) = kept.iter().min_by_key(|(_, k)| k.used).map(|(d, _)| d.clone())
        {
            kept.remove(&oldest);
        }
        let lower = Arc::new(lower);
        kept.insert(diff_id.clone(), Kept { lower: Arc::clone(&lower), used: now });
        Ok(lower)
    }
}

impl LayerStore {
    /// The SELinux label of layers that are mounted from here on. A container reads them by the root's label, but where it changes the rights of
    /// memory that is mapped from a file, the kernel looks at the layer's own.
    pub fn set_label(&self, label: String) {
        let _ = self.lowers().label.set(label);
    }

    /// Mounts (or shares the cached detached mounts of) `layers`, bottom first, and makes the overlay mount: a detached mount fd,
    /// never visible in the host's mount table (but see the module for old kernels).
    ///
    /// # Errors
    /// A layer that is not there or damaged is named; more than [`MAX_LAYERS`] layers.
    pub fn mount(
        &self,
        layers: &[Digest],
        upper: &WritableLayer,
        options: MountOptions<'_>,
    ) -> Result<RootMount, RootfsError> {
        self.join(layers, None, Above::Writable(upper, options), options.shift, options.label)
    }

    /// Layers as they lie below, read-only, with the writes of a container on top where `top` (its upper folder) is there: what is mounted
    /// inside a running container is not in the way. While it runs, what it writes meanwhile may be seen or not.
    ///
    /// # Errors
    /// As [`LayerStore::mount`].
    pub fn view(&self, layers: &[Digest], top: Option<&Path>) -> Result<RootMount, RootfsError> {
        self.join(layers, top, Above::Nothing, None, "")
    }

    /// As [`LayerStore::view`] without a top, for a container in a user namespace of its own.
    pub fn view_for(&self, layers: &[Digest], shift: Option<Shift<'_>>, label: &str) -> Result<RootMount, RootfsError> {
        self.join(layers, None, Above::Nothing, shift, label)
    }

    fn join(
        &self,
        layers: &[Digest],
        top: Option<&Path>,
        above: Above<'_>,
        shift: Option<Shift<'_>>,
        label: &str,
    ) -> Result<RootMount, RootfsError> {
        // A layer that is there twice counts only where it is uppermost: whatever it has, it has there too.
        let mut seen = HashSet::with_capacity(layers.len());
        let top_first: Vec<&Digest> = layers.iter().rev().filter(|d| seen.insert(*d)).collect();
        if top_first.len() > MAX_LAYERS {
            return Err(RootfsError::TooManyLayers(top_first.len()));
        }
        let lowers = self.lowers();
        let folder = |path: &Path| -> Result<Arc<Lower>, RootfsError> {
            let opened = sysfs::open(path, Open::DIRECTORY, 0).and_then(|folder| lowers.alone(folder));
            let fd = opened.act(|| format!("opening {}", path.display()))?;
            Ok(Arc::new(Lower { fd, attached: None, opaque: false }))
        };
        loop {
            let way = lowers.way();
            let mut stack: Vec<Arc<Lower>> = top.map(folder).transpose()?.into_iter().collect();
            for diff_id in &top_first {
                stack.push(lowers.lower(self, diff_id)?);
            }
            if let Some(bottom) = stack.iter().position(|l| l.opaque) {
                stack.truncate(bottom + 1);
            }
            // Without an upper folder overlayfs wants two at least.
            let least = if matches!(above, Above::Nothing) { 2 } else { 1 };
            while stack.len() < least {
                stack.push(folder(&lowers.empty)?);
            }
            let join = |stack: &[Arc<Lower>], upper: Option<&UpperFolders>| match way {
                Way::Descriptors | Way::Paths => by_context(stack, above, upper, way, label),
                Way::Classic => by_mount(stack, above, upper, lowers, label),
            };
            let mounted = match shift {
                None => above
                    .folders(lowers, None)
                    .act(|| above.doing(stack.len()))
                    .map_err(Failure::from)
                    .and_then(|upper| join(&stack, upper.as_ref())),
                Some(shift) => shifted(&stack, above, shift, lowers)
                    // What is made in it while it is mounted has to have an owner there.
                    .and_then(|(stack, upper)| {
                        let act = || above.doing(stack.len());
                        as_file_user(shift.uid, shift.gid, || join(&stack, upper.as_ref())).act(act)?
                    }),
            };
            match mounted {
                Ok(fd) => {
                    lowers.proven.store(true, Ordering::Relaxed);
                    return Ok(RootMount { fd });
                }
                Err(Failure::OldKernel(_)) if way != Way::Classic && !lowers.proven.load(Ordering::Relaxed) => {
                    let next = if way == Way::Descriptors { Way::Paths } else { Way::Classic };
                    tracing::info!(?next, "overlayfs does not take layers so on this kernel");
                    drop(stack);
                    lowers.set_way(next);
                }
                Err(Failure::OldKernel(e) | Failure::Other(e)) => return Err(e),
            }
        }
    }
}

/// The layers as mapped mounts, and what lies above them.
fn shifted(
    stack: &[Arc<Lower>],
    above: Above<'_>,
    shift: Shift<'_>,
    lowers: &Lowers,
) -> Result<(Vec<Arc<Lower>>, Option<UpperFolders>), Failure> {
    let act = || format!("mapping the ids of {} layers", stack.len());
    // EINVAL: detached mounts cannot be copied before Linux 6.15, and some file systems cannot be mapped.
    let explain = |source: io::Error| {
        let old = source.kind() == io::ErrorKind::InvalidInput && lowers.way() == Way::Descriptors;
        let error = RootfsError::Io { act: act(), source };
        if old { Failure::OldKernel(error) } else { Failure::Other(error) }
    };
    let mapped = stack.iter().map(|l| lowers.shifted(l.fd.as_fd(), l.opaque, shift).map(Arc::new));
    let mapped = mapped.collect::<io::Result<Vec<_>>>().map_err(explain)?;
    Ok((mapped, above.folders(lowers, Some(shift)).map_err(explain)?))
}

/// What lies over the layers.
#[derive(Clone, Copy)]
enum Above<'a> {
    Writable(&'a WritableLayer, MountOptions<'a>),
    /// The mount is read-only.
    Nothing,
}

impl Above<'_> {
    fn folders(self, lowers: &Lowers, shift: Option<Shift<'_>>) -> io::Result<Option<UpperFolders>> {
        match self {
            Above::Writable(layer, _) => lowers.upper(layer, shift).map(Some),
            Above::Nothing => Ok(None),
        }
    }

    fn doing(self, layers: usize) -> String {
        match self {
            Above::Writable(upper, _) => format!("mounting an overlay of {layers} layers on {}", upper.upper.display()),
            Above::Nothing => format!("mounting {layers} layers to be read"),
        }
    }
}

enum Failure {
    /// Maybe the kernel does not know this way.
    OldKernel(RootfsError),
    Other(RootfsError),
}

impl From<RootfsError> for Failure {
    fn from(e: RootfsError) -> Self {
        Failure::Other(e)
    }
}

fn fd_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn by_context(
    stack: &[Arc<Lower>],
    above: Above<'_>,
    upper: Option<&UpperFolders>,
    way: Way,
    label: &str,
) -> Result<OwnedFd, Failure> {
    let act = || above.doing(stack.len());
    let context = FsContext::open("overlay").act(act)?;
    let explain = |e: io::Error| {
        let said = context.messages();
        // EINVAL: no such key, a key that takes no descriptor, or a detached mount (some kernels check where a mount hangs, at the end).
        // EBADF: fsconfig takes no O_PATH descriptor, as those of mounts are. EOPNOTSUPP: before Linux 6.5 overlayfs takes no descriptors
        // at all.
        let old = e.kind() == io::ErrorKind::InvalidInput
            || (way == Way::Descriptors && matches!(e.raw_os_error(), Some(EBADF | EOPNOTSUPP)));
        let source = if said.is_empty() { e } else { io::Error::new(e.kind(), format!("{e} ({said})")) };
        let error = RootfsError::Io { act: act(), source };
        if old { Failure::OldKernel(error) } else { Failure::Other(error) }
    };
    context.set_string("source", "berth").map_err(explain)?;
    for lower in stack {
        let given = match way {
            Way::Descriptors => context.set_fd("lowerdir+", lower.fd.as_fd()),
            _ => context.set_string("lowerdir+", fd_path(&lower.fd)),
        };
        given.map_err(explain)?;
    }
    for (key, fd) in upper.into_iter().flat_map(|u| [("upperdir", &u.upper), ("workdir", &u.work)]) {
        let given = match way {
            Way::Descriptors => context.set_fd(key, fd.as_fd()),
            _ => context.set_string(key, fd_path(fd)),
        };
        given.map_err(explain)?;
    }
    // What a distribution may have set otherwise, and what makes an upper layer unreadable for others.
    for (key, value) in [("metacopy", "off"), ("index", "off"), ("xino", "auto")] {
        context.set_string(key, value).map_err(explain)?;
    }
    if !label.is_empty() {
        context.set_string("context", label).map_err(explain)?;
    }
    let attributes = match above {
        Above::Writable(_, options) => {
            if options.volatile {
                context.set_flag("volatile").map_err(explain)?;
            }
            MountAttr::NONE
        }
        Above::Nothing => MountAttr::RDONLY,
    };
    context.create().map_err(explain)?;
    context.mount(attributes).map_err(explain)
}

/// errno of a descriptor that cannot be used.
const EBADF: i32 = 9;
const EOPNOTSUPP: i32 = 95;

/// Before Linux 6.5. The names of descriptors keep the option string, one page, short enough for about 200 layers.
fn by_mount(
    stack: &[Arc<Lower>],
    above: Above<'_>,
    upper: Option<&UpperFolders>,
    lowers: &Lowers,
    label: &str,
) -> Result<OwnedFd, Failure> {
    let act = || above.doing(stack.len());
    let lower: Vec<String> = stack.iter().map(|l| fd_path(&l.fd)).collect();
    let mut data = format!("lowerdir={},metacopy=off,index=off,xino=auto", lower.join(":"));
    if let Some(UpperFolders { upper, work, .. }) = upper {
        data.push_str(&format!(",upperdir={},workdir={}", fd_path(upper), fd_path(work)));
    }
    let mut flags = MountFlags::RDONLY;
    if let Above::Writable(_, options) = above {
        if options.volatile {
            data.push_str(",volatile");
        }
        flags = MountFlags::NONE;
    }
    if !label.is_empty() {
        // In quotes, as a level holds commas.
        data.push_str(&format!(",context=\"{label}\""));
    }
    let folder = lowers.folder().act(|| format!("making a folder in {}", lowers.mounts.display()))?;
    let taken = (|| {
        sysmount::mount(OsStr::new("berth"), &folder, "overlay", flags, &data)?;
        // Below a shared mount (systemd makes / one) it is born shared, and its copy with it: pivot_root(2) refuses such a root.
        let taken = sysmount::set_propagation(&folder, sysmount::Propagation::Private, false)
            .and_then(|()| sysmount::open_tree(None, &folder, true, false));
        sysmount::umount(&folder, true)?;
        taken
    })();
    let _ = fs::remove_dir(&folder);
    Ok(taken.act(act)?)
}

/// The folders of a container's own writes: `upper` and `work` inside a folder of the caller's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WritableLayer {
    upper: PathBuf,
    work: PathBuf,
}

impl WritableLayer {
    /// Lets a layer that was mounted as volatile be mounted once more. For callers that know that the host has run all the time since:
    /// what was written is in the page cache at least (Documentation/filesystems/overlayfs.rst, "Volatile mount").
    pub fn trust_volatile(&self) -> Result<(), RootfsError> {
        let mark = self.work.join("work/incompat/volatile");
        for removed in [fs::remove_file(mark.join("dirty")), fs::remove_dir(&mark)] {
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).act(|| format!("removing the mark {}", mark.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes `dir/upper` and `dir/work` (and `dir` when it is missing). What is there already stays.
    pub fn create(dir: &Path) -> Result<Self, RootfsError> {
        let layer = WritableLayer { upper: dir.join("upper"), work: dir.join("work") };
        let make = |path: &Path, mode: u32| {
            let made = fs::DirBuilder::new().mode(mode).create(path);
            match made {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(dir).and_then(|()| fs::DirBuilder::new().mode(mode).create(path))
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
                other => other,
            }
        };
        // The upper folder is the container's `/`: its mode is seen there, whatever the agent's umask is.
        make(&layer.upper, 0o755)
            .and_then(|()| fs::set_permissions(&layer.upper, fs::Permissions::from_mode(0o755)))
            .act(|| format!("making {}", layer.upper.display()))?;
        make(&layer.work, 0o700).act(|| format!("making {}", layer.work.display()))?;
        Ok(layer)
    }

    /// The folders that [`WritableLayer::create`] made.
    pub fn open(dir: &Path) -> Result<Self, RootfsError> {
        let layer = WritableLayer { upper: dir.join("upper"), work: dir.join("work") };
        for path in [&layer.upper, &layer.work] {
            let meta = fs::symlink_metadata(path).act(|| format!("opening {}", path.display()))?;
            if !meta.is_dir() {
                return Err(io::Error::from(io::ErrorKind::NotADirectory))
                    .act(|| format!("opening {}", path.display()));
            }
        }
        Ok(layer)
    }

    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Removes `dir` with all that the container wrote: as [`remove_tree`](crate::remove_tree), but knows what overlayfs leaves in `work`,
    /// so that a container that wrote nothing costs eight calls. Only for unmounted roots. Gone already is fine.
    pub fn remove(dir: &Path) -> Result<(), RootfsError> {
        // In the order in which they empty each other. `work` is the kernel's and the agent's alone: no container can put links there.
        let _ = fs::remove_file(dir.join("work/work/incompat/volatile/dirty"));
        for name in ["work/work/incompat/volatile", "work/work/incompat", "work/work", "work", "upper"] {
            let _ = fs::remove_dir(dir.join(name));
        }
        crate::remove_tree(dir)
    }
}

/// A mounted root: drop unmounts (when no namespace holds it).
#[derive(Debug)]
pub struct RootMount {
    fd: OwnedFd,
}

impl RootMount {
    /// For the shim: a duplicate of the detached mount's fd.
    pub fn fd(&self) -> Result<OwnedFd, RootfsError> {
        self.fd.try_clone().act(|| "duplicating the root's mount".into())
    }

    /// Of the detached mount, to look around in.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A regular file inside the root (symlinks resolved inside it, never out: RESOLVE_IN_ROOT), at most `max` bytes. None: not there.
    ///
    /// # Errors
    /// What is no regular file (it is never opened: a fifo would hang, a device may act), and what is larger than `max`.
    pub fn read(&self, path: &str, max: usize) -> Result<Option<Vec<u8>>, RootfsError> {
        let unreadable = |problem: String| RootfsError::Unreadable { path: path.to_owned(), problem };
        let how = Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;
        let found = match sysfs::openat2(self.fd.as_fd(), path, Open::PATH, 0, how) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            other => other.map_err(|e| unreadable(e.to_string()))?,
        };
        let stat = sysfs::fstat(found.as_fd()).map_err(|e| unreadable(e.to_string()))?;
        if stat.kind != sysfs::Kind::Regular {
            return Err(unreadable(format!("is no regular file but a {:?}", stat.kind)));
        }
        let file =
            sysfs::open(fd_path(&found), Open::RDONLY | Open::NONBLOCK, 0).map_err(|e| unreadable(e.to_string()))?;
        let mut bytes = Vec::new();
        let read = File::from(file).take(max as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| unreadable(e.to_string()))?;
        if bytes.len() > max {
            return Err(unreadable(format!("is larger than {max} bytes")));
        }
        Ok(Some(bytes))
    }
}
