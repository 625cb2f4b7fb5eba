//! The acts of a plan, one function of a few system calls each.
//!
//! The root is entered before anything is mounted in it, so that absolute links and `..` of a hostile image end at its own root by
//! themselves; targets named by the user are resolved by openat2(2) on top of that.
#![expect(clippy::disallowed_methods, reason = "one thread, whose working folder is nobody else's")]

use crate::{outside, tree, wall};
use berth_model::wire::Step;
use berth_model::wire::plan::Bytes;
use berth_sys::fs::{self, Kind, Open, Resolve};
use berth_sys::mount::{self, AttrChange, MountAttr, MountFlags, Propagation};
use berth_sys::{cap, landlock, null, oci, process, pty, seccomp, socket, userns};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A detached mount that waits for its place.
struct Tree {
    slot: u8,
    fd: OwnedFd,
    /// Looked at when it was opened: who is nobody on its file system may not even ask (FUSE).
    folder: bool,
}

/// What steps leave for later ones.
pub struct Context<'a> {
    fds: &'a [OwnedFd],
    report: BorrowedFd<'a>,
    root: Option<OwnedFd>,
    trees: Vec<Tree>,
    userns: Option<BorrowedFd<'a>>,
    /// Rows and columns of the terminal.
    size: Option<(u16, u16)>,
}

impl<'a> Context<'a> {
    pub fn new(fds: &'a [OwnedFd], report: BorrowedFd<'a>, userns: Option<u8>, size: Option<(u16, u16)>) -> Self {
        let userns = userns.and_then(|at| fds.get(usize::from(at))).map(AsFd::as_fd);
        Context { fds, report, root: None, trees: Vec::new(), userns, size }
    }

    fn fd(&self, place: u8) -> io::Result<BorrowedFd<'a>> {
        self.fds.get(usize::from(place)).map(AsFd::as_fd).ok_or_else(invalid)
    }

    fn keep(&mut self, slot: u8, fd: OwnedFd) -> io::Result<()> {
        let folder = tree::is_folder(fd.as_fd())?;
        self.trees.push(Tree { slot, fd, folder });
        Ok(())
    }

    fn tree(&mut self, slot: u8) -> io::Result<Tree> {
        let at = self.trees.iter().position(|t| t.slot == slot).ok_or_else(invalid)?;
        Ok(self.trees.swap_remove(at))
    }

    fn root(&self) -> io::Result<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(invalid)
    }
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(EINVAL)
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EINVAL: i32 = 22;

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| invalid())
}

pub fn run(step: &Step<'_>, context: &mut Context<'_>) -> io::Result<()> {
    match step {
        Step::JoinCgroup { fd } => process::write(context.fd(*fd)?, b"0").map(drop),
        Step::EnterNamespace { fd, kinds } => {
            process::setns(context.fd(*fd)?, u64::from(*kinds))?;
            if u64::from(*kinds) == NEWUSER {
                wall::pause("pause-joining");
            }
            Ok(())
        }
        Step::Unshare { flags } => process::unshare(u64::from(*flags)),
        Step::OpenTree { slot, source, recursive, read_only, propagation, nosuid_nodev, top_only, idmap } => {
            let tree = mount::open_tree(None, path(source), true, *recursive)?;
            if *idmap {
                let idmap = Some(context.userns.ok_or_else(invalid)?);
                mount::mount_setattr(
                    tree.as_fd(),
                    AttrChange { idmap, recursive: *recursive, ..AttrChange::default() },
                )?;
            }
            let mut change = AttrChange {
                propagation: Some(propagation_of(*propagation & !REC)?),
                recursive: *propagation & REC != 0,
                ..AttrChange::default()
            };
            mount::mount_setattr(tree.as_fd(), change)?;
            if *read_only || *nosuid_nodev {
                // With all that is mounted below, as Docker's `ro` since 25: nothing there is writable by another way.
                change = AttrChange { recursive: *recursive && !*top_only, ..AttrChange::default() };
                if *read_only {
                    change.set |= MountAttr::RDONLY;
                }
                if *nosuid_nodev {
                    change.set |= MountAttr::NOSUID | MountAttr::NODEV;
                }
                mount::mount_setattr(tree.as_fd(), change)?;
            }
            context.keep(*slot, tree)
        }
        Step::EnterRoot { fd } => {
            let root = context.fd(*fd)?;
            enter_root(root)?;
            context.root = Some(root.try_clone_to_owned()?);
            Ok(())
        }
        Step::OwnProc { slot } => own_proc(context.tree(*slot)?.fd),
        Step::Mount { fs_type, source, target, flags, data, optional } => {
            match mount_here(fs_type, source, target, *flags, data) {
                Err(_) if *optional => Ok(()),
                other => other,
            }
        }
        Step::Tmpfs { target, flags, data } => {
            let target = tree::target(context.root()?, target, true)?;
            process::fchdir(target.as_fd())?;
            mount::mount(OsStr::new("tmpfs"), Path::new("."), "tmpfs", flags_of(*flags), text(data)?)?;
            std::env::set_current_dir("/")
        }
        Step::AttachTree { slot, target } => {
            let tree = context.tree(*slot)?;
            if matches!(&target[..], b"/proc" | b"/sys" | b"/dev") {
                own_folder(path(target))?;
            }
            let target = tree::target(context.root()?, target, tree.folder)?;
            mount::move_mount_to_fd(tree.fd.as_fd(), target.as_fd())
        }
        Step::AttachGiven { fd, target } => {
            let tree = context.fd(*fd)?;
            let target = tree::target(context.root()?, target, tree::is_folder(tree)?)?;
            mount::move_mount_to_fd(tree, target.as_fd())
        }
        Step::Directory { path: p, mode } => {
            let (folder, name) = tree::parent(context.root()?, p)?;
            there_is_fine(fs::mkdirat(folder.as_fd(), name, *mode))
        }
        Step::Device { path: p, block, mode, major, minor, uid, gid } => {
            let kind = if *block { Kind::BlockDevice } else { Kind::CharDevice };
            device(context.root()?, p, kind, *mode, (*major, *minor), (*uid, *gid))
        }
        Step::Symlink { path: p, target } => {
            let (folder, name) = tree::parent(context.root()?, p)?;
            there_is_fine(fs::symlinkat(OsStr::from_bytes(target), folder.as_fd(), name))
        }
        Step::Terminal { console } => terminal(*console, context),
        Step::Mask { paths, label } => mask(paths, label),
        Step::ReadOnlyPaths { paths } => paths.iter().try_for_each(|p| read_only(p)),
        Step::ReadOnlyRoot => {
            let change = AttrChange { set: MountAttr::RDONLY, ..AttrChange::default() };
            mount::mount_setattr(context.root()?, change)
        }
        Step::WriteFile { path: p, value } => {
            let file = fs::open(OsStr::from_bytes(p), Open::WRONLY, 0)?;
            process::write(file.as_fd(), value).map(drop)
        }
        Step::Hostname { name } => process::set_hostname(name),
        Step::Domainname { name } => process::set_domainname(name),
        Step::Rlimit { resource, soft, hard } => process::set_rlimit(*resource, *soft, *hard),
        Step::Workdir { path: p, .. } if wall::is_down("descriptors") => std::env::set_current_dir(path(p)),
        Step::Workdir { path: p, create } => {
            // Never chdir(2): /proc/self/fd/N, or a link of the image to it, is one of the host's folders that are open here (CVE-2024-21626).
            let root = fs::open("/", Open::PATH | Open::DIRECTORY, 0)?;
            let folder = match tree::there(root.as_fd(), p) {
                Err(e) if *create && e.kind() == io::ErrorKind::NotFound => tree::target(root.as_fd(), p, true),
                found => found,
            };
            process::fchdir(folder?.as_fd())
        }
        Step::Identity { uid, gid, groups, capabilities } => identity(*uid, *gid, groups, *capabilities),
        Step::NoNewPrivileges if wall::is_down("no_new_privs") => Ok(()),
        Step::NoNewPrivileges => process::set_no_new_privileges(),
        Step::Seccomp { .. } if wall::is_down("seccomp") => Ok(()),
        Step::Seccomp { program } => seccomp::load(program),
        Step::Umask { mask } => {
            process::set_umask(*mask);
            Ok(())
        }
        Step::BecomeRoot => userns::become_root(),
        Step::OwnStreams { uid, gid } => own_streams(*uid, *gid),
        Step::OwnNull if wall::is_down("own_null") => Ok(()),
        Step::OwnNull => null::reopen(),
        Step::RaiseLimit { resource, hard } => match process::rlimit(*resource)? {
            (soft, now) if now < *hard => process::set_rlimit(*resource, soft, *hard),
            _ => Ok(()),
        },
        Step::KernelTree { slot, fs_type, read_only } => {
            context.keep(*slot, outside::kernel_tree(text(fs_type)?, *read_only)?)
        }
        Step::DeviceTree { slot, data, uid, gid, nodes, pick } => {
            context.keep(*slot, outside::device_tree(data, (*uid, *gid), nodes, *pick)?)
        }
        Step::HostView { folder, without } => {
            outside::host_view(path(folder), without)?;
            context.root = Some(fs::open("/", Open::PATH | Open::DIRECTORY, 0)?);
            Ok(())
        }
        Step::PinNamespace { fd, target } => {
            let namespace = bind_of(context.fd(*fd)?)?;
            let target = tree::target(context.root()?, target, false)?;
            mount::move_mount_to_fd(namespace.as_fd(), target.as_fd())
        }
        Step::HostFolder { path: p } => std::env::set_current_dir(path(p)),
        Step::Profile { name, now } => apparmor(name, *now),
        Step::ProcessLabel { label, now } => attribute(&[if *now { "current" } else { "exec" }], label),
        Step::FileLabel { path, label } => file_label(context.root()?, path, label),
        Step::Landlock { rights, scopes } => {
            let root = fs::open("/", Open::PATH | Open::DIRECTORY, 0)?;
            // /dev/stdin may lead to what is not beneath the root.
            let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
            landlock::restrict(*rights, *scopes, root.as_fd(), &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
        }
    }
}

/// The act in words, with its input: the front half of `mounting proc on /proc: EPERM`.
pub fn describe(step: &Step<'_>) -> Vec<u8> {
    let two = |a: &str, b: &[u8]| [a.as_bytes(), b].concat();
    let four = |a: &str, b: &[u8], c: &str, d: &[u8]| [a.as_bytes(), b, c.as_bytes(), d].concat();
    match step {
        Step::JoinCgroup { .. } => two("joining the cgroup", b""),
        Step::EnterNamespace { .. } => two("joining a namespace", b""),
        Step::Unshare { .. } => two("making the cgroup namespace", b""),
        Step::OpenTree { source, .. } => two("opening the mount source ", source),
        Step::EnterRoot { .. } => two("moving into the root file system", b""),
        Step::Mount { fs_type, target, .. } => four("mounting ", fs_type, " on ", target),
        Step::Tmpfs { target, .. } => two("mounting tmpfs on ", target),
        Step::AttachTree { target, .. } | Step::AttachGiven { target, .. } => two("attaching a mount at ", target),
        Step::Directory { path, .. } => two("making the folder ", path),
        Step::Device { path, .. } => two("making the device ", path),
        Step::Symlink { path, .. } => two("making the link ", path),
        Step::Terminal { .. } => two("making the terminal", b""),
        Step::Mask { .. } => two("masking paths of /proc and /sys", b""),
        Step::ReadOnlyPaths { .. } => two("making paths of /proc read-only", b""),
        Step::ReadOnlyRoot => two("making the root read-only", b""),
        Step::WriteFile { path, value } => four("writing ", value, " to ", path),
        Step::Hostname { name } => two("setting the host name ", name),
        Step::Domainname { name } => two("setting the domain name ", name),
        Step::Rlimit { resource, .. } => {
            let name = process::RESOURCES.iter().find(|(_, n)| n == resource).map_or("?", |(name, _)| name);
            two("setting the limit ", name.as_bytes())
        }
        Step::Workdir { path, .. } => two("changing to the working folder ", path),
        Step::Identity { .. } => two("setting user and capabilities", b""),
        Step::NoNewPrivileges => two("setting no_new_privs", b""),
        Step::Seccomp { .. } => two("loading the seccomp program", b""),
        Step::Umask { .. } => two("setting the umask", b""),
        Step::OwnProc { .. } => two("mounting proc on /proc", b""),
        Step::BecomeRoot => two("becoming root of the user namespace", b""),
        Step::OwnNull => two("opening the container's /dev/null", b""),
        Step::OwnStreams { .. } => two("giving the standard streams to the container's root", b""),
        Step::RaiseLimit { resource, .. } => {
            let name = process::RESOURCES.iter().find(|(_, n)| n == resource).map_or("?", |(name, _)| name);
            two("raising the limit ", name.as_bytes())
        }
        Step::KernelTree { fs_type, .. } => two("making a mount of ", fs_type),
        Step::DeviceTree { .. } => two("making the devices", b""),
        Step::HostView { folder, .. } => two("covering ", folder),
        Step::PinNamespace { target, .. } => two("binding a namespace to ", target),
        Step::HostFolder { path } => two("changing to the folder ", path),
        Step::Profile { name, .. } => two("applying the AppArmor profile ", name),
        Step::ProcessLabel { label, .. } => two("applying the SELinux label ", label),
        Step::FileLabel { path, label } => four("giving the SELinux label ", label, " to ", path),
        Step::Landlock { .. } => two("entering the Landlock domain", b""),
    }
}

fn there_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.raw_os_error() == Some(EEXIST) => Ok(()),
        other => other,
    }
}

fn device(
    root: BorrowedFd<'_>,
    path: &[u8],
    kind: Kind,
    mode: u32,
    number: (u32, u32),
    (uid, gid): (u32, u32),
) -> io::Result<()> {
    let (folder, name) = tree::parent(root, path)?;
    match fs::mknodat(folder.as_fd(), name, kind, mode, number.0, number.1) {
        // Never changed: it may be anybody's.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => same_device(folder.as_fd(), name, kind, number),
        Ok(()) if (uid, gid) != (0, 0) => fs::fchownat(folder.as_fd(), name, uid, gid),
        made => made,
    }
}

/// What is there is the device that was asked for.
fn same_device(folder: BorrowedFd<'_>, name: &OsStr, kind: Kind, number: (u32, u32)) -> io::Result<()> {
    let there = fs::lstatat(folder, name)?;
    let same = there.kind == kind && (there.rdev_major, there.rdev_minor) == number;
    if same { Ok(()) } else { Err(io::Error::from_raw_os_error(EEXIST)) }
}

/// MS_* bits of mount(2).
fn flags_of(bits: u64) -> MountFlags {
    let mut flags = MountFlags::NONE;
    for (bit, flag) in [
        (1, MountFlags::RDONLY),
        (2, MountFlags::NOSUID),
        (4, MountFlags::NODEV),
        (8, MountFlags::NOEXEC),
        (32, MountFlags::REMOUNT),
        (4096, MountFlags::BIND),
        (1024, MountFlags::NOATIME),
        (1 << 21, MountFlags::RELATIME),
        (1 << 24, MountFlags::STRICTATIME),
    ] {
        if bits & bit != 0 {
            flags |= flag;
        }
    }
    flags
}

/// MS_REC of mount(2): the mounts below, too.
const REC: u32 = 0x4000;

/// MS_PRIVATE, MS_SLAVE, MS_SHARED of mount(2).
fn propagation_of(bits: u32) -> io::Result<Propagation> {
    match bits {
        0x4_0000 => Ok(Propagation::Private),
        0x8_0000 => Ok(Propagation::Slave),
        0x10_0000 => Ok(Propagation::Shared),
        _ => Err(invalid()),
    }
}

/// The root needs a place to hang before it can become the root: /proc is on every host, and this namespace is about to lose it.
fn enter_root(root: BorrowedFd<'_>) -> io::Result<()> {
    mount::set_propagation(Path::new("/"), Propagation::Private, true)?;
    mount::move_mount(root, Path::new("/proc"))?;
    process::fchdir(root)?;
    // The old root comes to lie on top of the new one (pivot_root(2), "pivot_root(".", ".")"), and goes with everything below it.
    mount::pivot_root(Path::new("."), Path::new("."))?;
    mount::umount(Path::new("."), true)?;
    std::env::set_current_dir("/")
}

fn own_proc(hosts: OwnedFd) -> io::Result<()> {
    let target = Path::new("/proc");
    own_folder(target)?;
    mount::move_mount(hosts.as_fd(), target)?;
    drop(hosts);
    let proc = outside::kernel_tree("proc", false)?;
    mount::umount(target, true)?;
    mount::move_mount(proc.as_fd(), target)
}

/// A file system of the container's own on /proc, /sys, /dev or below. Folders right below the root belong to the image: they are made
/// when they are missing, and a link in their place is refused.
fn mount_here(fs_type: &[u8], source: &[u8], target: &[u8], flags: u64, data: &[u8]) -> io::Result<()> {
    let target = path(target);
    if target.parent() == Some(Path::new("/")) {
        own_folder(target)?;
    }
    mount::mount(OsStr::from_bytes(source), target, text(fs_type)?, flags_of(flags), text(data)?)
}

fn own_folder(target: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() || wall::is_down("links") => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(ENOTDIR)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => std::fs::create_dir(target),
        Err(e) => Err(e),
    }
}

fn terminal(console: bool, context: &Context<'_>) -> io::Result<()> {
    let (master, terminal) = pty::open(c"/dev/pts/ptmx")?;
    // Now: the program may ask for it before the shim has the terminal.
    if let Some((rows, columns)) = context.size {
        let _ = pty::resize(master.as_fd(), rows, columns);
    }
    socket::send(context.report, &[IoSlice::new(b"t")], &[master.as_fd()], true)?;
    for to in 0..3 {
        process::dup_onto(terminal.as_fd(), to)?;
    }
    pty::make_controlling(terminal.as_fd())?;
    if console {
        let root = context.root()?;
        let target = tree::target(root, b"/dev/console", false)?;
        // The first terminal of the container's own devpts.
        let tree = mount::open_tree(None, Path::new("/dev/pts/0"), true, false)?;
        mount::move_mount_to_fd(tree.as_fd(), target.as_fd())?;
    }
    Ok(())
}

/// One empty read-only tmpfs serves all folders: a superblock costs 50 us, a bind 5. Places and what lies over them are descriptors, and the
/// device is looked at: a link in its place would show what it leads to instead (CVE-2025-31133).
fn mask(paths: &[Bytes<'_>], label: &[u8]) -> io::Result<()> {
    let null = match fs::open("/dev/null", Open::PATH | Open::NOFOLLOW, 0) {
        _ if wall::is_down("masks") => fs::open("/dev/null", Open::PATH, 0).ok(),
        Ok(found) => Some(found).filter(|fd| fs::fstat(fd.as_fd()).is_ok_and(|s| is_null(&s))),
        Err(_) => None,
    };
    let mut empty: Option<OwnedFd> = None;
    for p in paths {
        let at = match fs::open(path(p).as_os_str(), Open::PATH | Open::NOFOLLOW, 0) {
            Ok(at) => at,
            // Nothing there, nothing to mask.
            Err(e) if matches!(e.raw_os_error(), Some(ENOENT | ENOTDIR)) => continue,
            Err(e) => return Err(e),
        };
        let over = match (tree::is_folder(at.as_fd())?, &null, &empty) {
            (false, Some(null), _) => bind_of(null.as_fd())?,
            (false, None, _) if wall::is_down("masks") => continue,
            // Nothing may go unmasked.
            (false, None, _) => return Err(io::Error::from_raw_os_error(EPERM)),
            (true, _, Some(empty)) => bind_of(empty.as_fd())?,
            (true, _, None) => {
                let made = empty_folder(label)?;
                mount::move_mount_to_fd(made.as_fd(), at.as_fd())?;
                empty = Some(made);
                continue;
            }
        };
        mount::move_mount_to_fd(over.as_fd(), at.as_fd())?;
    }
    Ok(())
}

/// Documentation/admin-guide/devices.txt
fn is_null(stat: &fs::Stat) -> bool {
    stat.kind == Kind::CharDevice && (stat.rdev_major, stat.rdev_minor) == (1, 3)
}

fn bind_of(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    mount::open_tree(Some(fd), Path::new(""), true, false)
}

fn empty_folder(label: &[u8]) -> io::Result<OwnedFd> {
    let tmpfs = mount::FsContext::open("tmpfs")?;
    tmpfs.set_string("size", "0")?;
    tmpfs.set_string("nr_inodes", "2")?;
    tmpfs.set_flag("ro")?;
    if !label.is_empty() {
        tmpfs.set_string("context", OsStr::from_bytes(label))?;
    }
    tmpfs.create()?;
    tmpfs.mount(MountAttr::RDONLY | MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC)
}

fn read_only(p: &[u8]) -> io::Result<()> {
    let p = path(p);
    match mount::mount(p.as_os_str(), p, "", MountFlags::BIND | MountFlags::REC, "") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    // A bind takes no other flags; the remount names all that /proc has, because it replaces them.
    let flags = MountFlags::BIND
        | MountFlags::REMOUNT
        | MountFlags::RDONLY
        | MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC;
    mount::mount(OsStr::new(""), p, "", flags, "")
}

/// So that /dev/stdout can be opened by its user, which the kernel checks against the pipe's owner.
fn each_stream(of: impl Fn(BorrowedFd<'_>) -> io::Result<()>) -> io::Result<()> {
    for stream in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
        if matches!(fs::fstat(stream)?, s if s.kind == Kind::Fifo || s.rdev_major == PTS_MAJOR) {
            of(stream)?;
        }
    }
    Ok(())
}

fn own_streams(uid: u32, gid: u32) -> io::Result<()> {
    each_stream(|stream| std::os::unix::fs::fchown(stream, Some(uid), Some(gid)))
}

fn identity(uid: u32, gid: u32, groups: &[u32], capabilities: u64) -> io::Result<()> {
    let kept = wall::is_down("capabilities");
    if !kept {
        cap::limit_bounding(capabilities)?;
    }
    if uid != 0 {
        each_stream(|stream| std::os::unix::fs::fchown(stream, Some(uid), None))?;
    }
    process::set_user(uid, gid, groups)?;
    // Another user than root has lost its rights by that, but not what it hands on: whoever started the agent may have begun with inheritable ones,
    // which a program with file capabilities turns into rights (CVE-2022-24769).
    match uid {
        _ if kept => Ok(()),
        0 => cap::set(capabilities),
        _ => cap::set(0),
    }
}

/// What is written goes to the kernel or nowhere: in a container that runs anything may lie over its /proc (CVE-2019-16884). The first of these
/// files that is there takes it.
fn attribute(files: &[&str], content: &[u8]) -> io::Result<()> {
    let proc = fs::open("/proc", Open::PATH | Open::DIRECTORY | Open::NOFOLLOW, 0)?;
    if !oci::is_procfs(proc.as_fd())? {
        return Err(invalid());
    }
    let mut found = Err(invalid());
    for file in files {
        let resolve = Resolve::BENEATH | Resolve::NO_XDEV | Resolve::NO_MAGICLINKS;
        found = fs::openat2(proc.as_fd(), format!("self/attr/{file}"), Open::WRONLY, 0, resolve);
        if !found.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    process::write(found?.as_fd(), content).map(drop)
}

fn apparmor(profile: &[u8], now: bool) -> io::Result<()> {
    let (file, verb) = if now { ("current", "changeprofile ") } else { ("exec", "exec ") };
    // Before Linux 5.8 all security modules shared one folder.
    attribute(&[&format!("apparmor/{file}"), file], &[verb.as_bytes(), profile].concat())
}

fn file_label(root: BorrowedFd<'_>, path: &[u8], label: &[u8]) -> io::Result<()> {
    let at = tree::there(root, path)?;
    match fs::lsetxattrat(at.as_fd(), ".", c"security.selinux", label) {
        // EPERM: the root of a user namespace's message queues is the host's.
        Err(e) if matches!(e.raw_os_error(), Some(EOPNOTSUPP | EPERM)) => Ok(()),
        other => other,
    }
}

/// CLONE_NEWUSER of clone(2).
pub const NEWUSER: u64 = 0x1000_0000;

/// Terminals of devpts (Documentation/admin-guide/devices.txt).
const PTS_MAJOR: u32 = 136;
