//! The new process builds its root: mounts, devices, links; then enters it.
//!
//! What comes from the host was opened by the parent, which has the host's rights, as detached trees ([`crate::trees`]); what belongs to
//! the container's namespaces is mounted here. Every target is resolved inside the root.
#![expect(clippy::disallowed_methods, reason = "one thread, whose working folder is nobody else's")]

use crate::plan::selinux;
use crate::plan::{DevicePlan, MountKind, MountPlan, Plan, REC, same};
use crate::tree;
use crate::trees::Trees;
use berth_sys::fs::{self, Kind};
use berth_sys::mount::{self, AttrChange, MountAttr, MountFlags, Propagation};
use berth_sys::{oci, process, wall};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// An act in words, and why it failed.
pub type Failure = (String, io::Error);

fn act<T>(words: impl Into<String>, result: io::Result<T>) -> Result<T, Failure> {
    result.map_err(|e| (words.into(), e))
}

/// Files of /proc that may be covered, as runc has them: all others could hide what the walls are made of (CVE-2019-16884).
const COVERED: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Attaches the root and everything in it; the host is still there.
pub fn build(plan: &Plan, trees: &mut Trees) -> Result<(), Failure> {
    process::set_umask(0);
    // Nothing of what is mounted from here on goes out to the host.
    act("making the mounts slaves of the host's", mount::set_propagation(Path::new("/"), Propagation::Slave, true))?;
    let root = trees.root.as_fd();
    let attached = match mount::move_mount(root, &plan.rootfs) {
        // A user namespace may not go where the bundle is: the place does not matter, but for hooks that look for it.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => mount::move_mount(root, Path::new("/sys")),
        other => other,
    };
    act(format!("attaching the root {}", plan.rootfs.display()), attached)?;
    let mut given = trees.mounts.iter_mut();
    for planned in &plan.mounts {
        let tree = given.next().and_then(|g| g.take());
        mount_one(root, planned, tree, &plan.mount_label)?;
    }
    if plan.fill_dev {
        for device in &plan.devices {
            let bound = trees.devices.iter().find(|(path, _)| *path == device.path).map(|(_, fd)| fd.as_fd());
            act(format!("making the device {}", device.path), make_device(root, device, bound))?;
        }
        links(root)?;
    }
    Ok(())
}

fn mount_one(
    root: BorrowedFd<'_>,
    planned: &MountPlan,
    tree: Option<Vec<(String, OwnedFd)>>,
    label: &str,
) -> Result<(), Failure> {
    let words = |what: &str| format!("mounting {what} on {}", planned.target);
    match (&planned.kind, tree) {
        (MountKind::Fs { fs_type, source }, _) => {
            act(words(fs_type), file_system(root, planned, fs_type, source))?;
        }
        (MountKind::Bind { source, .. }, Some(tree)) => {
            for (_, tree) in tree {
                act(words(&source.display().to_string()), attach(root, &planned.target, tree.as_fd()))?;
            }
        }
        (MountKind::Cgroup, Some(tree)) => act(words("cgroup"), cgroups(root, planned, tree, label))?,
        (MountKind::Remount { bind }, _) => act(words("other options"), remount(root, planned, *bind))?,
        (_, None) => return act(words("nothing"), Err(io::Error::from(io::ErrorKind::InvalidInput))),
    }
    Ok(())
}

/// A link in its place would lead to another mount than the one that the bundle has made.
fn remount(root: BorrowedFd<'_>, planned: &MountPlan, bind: bool) -> io::Result<()> {
    const REMOUNT: u32 = 32;
    const BIND: u32 = 4096;
    let at = tree::no_link(root, &planned.target)?;
    let path = format!("/proc/self/fd/{}", at.as_raw_fd());
    let flags = planned.flags | REMOUNT | if bind { BIND } else { 0 };
    mount::mount(OsStr::new(""), Path::new(&path), "", MountFlags::from_bits(flags), &planned.data)
}

fn attach(root: BorrowedFd<'_>, path: &str, tree: BorrowedFd<'_>) -> io::Result<()> {
    let folder = tree::is_folder(tree)?;
    let mut at = tree::target(root, path, folder)?;
    guard_proc(path, at.as_fd(), oci::is_procfs(tree)?)?;
    wall::pause("pause-mounting");
    // As who looks at a path first and uses it then (CVE-2021-30465).
    if wall::is_down("race") {
        at = tree::target(root, path, folder)?;
    }
    mount::move_mount_to_fd(tree, at.as_fd())
}

/// `whole`: what is mounted is procfs itself.
pub fn guard_proc(path: &str, at: BorrowedFd<'_>, whole: bool) -> io::Result<()> {
    let allowed = COVERED.iter().any(|p| same(p, path)) || whole && same(path, "/proc");
    let inside = same(path, "/proc") || path.split('/').find(|p| !p.is_empty()) == Some("proc") || oci::is_procfs(at)?;
    if inside && !allowed && !wall::is_down("proc") {
        return Err(io::Error::other("this path of /proc cannot be covered"));
    }
    Ok(())
}

fn file_system(root: BorrowedFd<'_>, planned: &MountPlan, fs_type: &str, source: &str) -> io::Result<()> {
    let kernels = ["proc", "sysfs"].contains(&fs_type);
    let was_there = tree::there(root, &planned.target).is_ok();
    let at = tree::target(root, &planned.target, true)?;
    if kernels && !tree::is_folder(tree::no_link(root, &planned.target)?.as_fd())? {
        return Err(io::Error::from_raw_os_error(ENOTDIR));
    }
    guard_proc(&planned.target, at.as_fd(), fs_type == "proc")?;
    let mut data = planned.data.clone();
    if fs_type == "tmpfs" && was_there && !data.split(',').any(|o| o.starts_with("mode=")) {
        // The folder's own mode goes on, as runc has it.
        let mode = format!("mode={:o}", fs::fstat(at.as_fd())?.mode);
        data = if data.is_empty() { mode } else { format!("{mode},{data}") };
    }
    const RDONLY: u32 = 1;
    let late = if planned.copy_up { planned.flags & RDONLY } else { 0 };
    let path = format!("/proc/self/fd/{}", at.as_raw_fd());
    let flags = MountFlags::from_bits(planned.flags & !late);
    mount::mount(OsStr::new(source), Path::new(&path), fs_type, flags, &data)?;
    let made = tree::there(root, &planned.target)?;
    if !planned.label.is_empty() {
        match fs::lsetxattrat(made.as_fd(), ".", c"security.selinux", planned.label.as_bytes()) {
            // It takes none; EPERM: the root of a user namespace's message queues is the host's.
            Err(e) if matches!(e.raw_os_error(), Some(EOPNOTSUPP | EPERM)) => {}
            other => other?,
        }
    }
    if planned.copy_up && was_there {
        copy_up(at.as_fd(), made.as_fd(), &data)?;
    }
    if late != 0 {
        let change = AttrChange { set: MountAttr::RDONLY, ..AttrChange::default() };
        mount::mount_setattr(made.as_fd(), change)?;
    }
    for bits in &planned.propagation {
        let (propagation, recursive) = propagation(*bits)?;
        let change = AttrChange { propagation: Some(propagation), recursive, ..AttrChange::default() };
        mount::mount_setattr(made.as_fd(), change)?;
    }
    if planned.set_all != 0 || planned.clear_all != 0 {
        mount::mount_setattr(made.as_fd(), all(planned))?;
    }
    Ok(())
}

/// The tmpfs begins with what the folder below it has. What the options say about the folder itself stays.
fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>, data: &str) -> io::Result<()> {
    let read = |fd: BorrowedFd<'_>| fs::openat(fd, ".", fs::Open::RDONLY | fs::Open::DIRECTORY, 0);
    let before = fs::fstat(to)?;
    let target = read(to)?;
    berth_volume::copy_tree(read(from)?.as_fd(), target.try_clone()?, &|| Ok(()))
        .map_err(|e| io::Error::other(e.to_string()))?;
    if data.split(',').filter(|o| o.starts_with("mode=")).count() > 0 {
        fs::fchmod(target.as_fd(), before.mode)?;
    }
    Ok(())
}

pub fn all(planned: &MountPlan) -> AttrChange<'static> {
    AttrChange {
        set: MountAttr::from_bits(planned.set_all),
        clear: MountAttr::from_bits(planned.clear_all),
        recursive: true,
        ..AttrChange::default()
    }
}

pub fn propagation(bits: u32) -> io::Result<(Propagation, bool)> {
    let kind = match bits & !REC {
        0x2_0000 => Propagation::Unbindable,
        0x4_0000 => Propagation::Private,
        0x8_0000 => Propagation::Slave,
        0x10_0000 => Propagation::Shared,
        _ => return Err(io::Error::from_raw_os_error(EINVAL)),
    };
    Ok((kind, bits & REC != 0))
}

/// v2: one tree. v1: a tmpfs with a folder for each hierarchy, and links for the controllers that share one.
fn cgroups(root: BorrowedFd<'_>, planned: &MountPlan, trees: Vec<(String, OwnedFd)>, label: &str) -> io::Result<()> {
    if let [(name, tree)] = &trees[..]
        && name.is_empty()
    {
        return attach(root, &planned.target, tree.as_fd());
    }
    let at = tree::target(root, &planned.target, true)?;
    let path = format!("/proc/self/fd/{}", at.as_raw_fd());
    const NOSUID_NODEV_NOEXEC: u32 = 2 | 4 | 8;
    let flags = MountFlags::from_bits(NOSUID_NODEV_NOEXEC);
    mount::mount(OsStr::new("tmpfs"), Path::new(&path), "tmpfs", flags, &selinux::option("mode=755,size=64k", label))?;
    let top = tree::there(root, &planned.target)?;
    for (name, tree) in &trees {
        attach(root, &format!("{}/{name}", planned.target), tree.as_fd())?;
        // Programs look for `cpu` where the hierarchy is called `cpu,cpuacct`.
        for controller in name.split(',').filter(|c| *c != name) {
            fs::symlinkat(name, top.as_fd(), controller)?;
        }
    }
    let change = AttrChange { set: MountAttr::from_bits(planned.set), ..AttrChange::default() };
    mount::mount_setattr(top.as_fd(), change)
}

fn make_device(root: BorrowedFd<'_>, device: &DevicePlan, bound: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if let Some(tree) = bound {
        // A user namespace makes no devices: the host's are bound.
        let at = tree::target(root, &device.path, false)?;
        guard_proc(&device.path, at.as_fd(), false)?;
        return mount::move_mount_to_fd(tree, at.as_fd());
    }
    let (folder, name) = tree::parent(root, &device.path)?;
    let kind = match device.kind {
        'b' => Kind::BlockDevice,
        'p' => Kind::Fifo,
        _ => Kind::CharDevice,
    };
    let made = fs::mknodat(folder.as_fd(), name, kind, device.mode, device.major, device.minor);
    match made {
        // A bind mount or the image has it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::lstatat(folder.as_fd(), name)?;
            let numbers = kind == Kind::Fifo || (found.rdev_major, found.rdev_minor) == (device.major, device.minor);
            if device.asked && !(found.kind == kind && numbers) {
                return Err(io::Error::other("a file that is not this device is there already"));
            }
            return Ok(());
        }
        other => other?,
    }
    fs::fchownat(folder.as_fd(), name, device.uid, device.gid)
}

fn links(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut all = vec![
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    if Path::new("/proc/kcore").exists() {
        all.push(("core", "/proc/kcore"));
    }
    let dev = act("opening /dev", tree::target(root, "/dev", true))?;
    for (name, target) in all {
        match fs::symlinkat(target, dev.as_fd(), name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => act(format!("making the link /dev/{name}"), other)?,
        }
    }
    // "a bind-mount or symlink of the container's /dev/pts/ptmx"
    let _ = fs::unlinkat(dev.as_fd(), "ptmx", false);
    act("making the link /dev/ptmx", fs::symlinkat("pts/ptmx", dev.as_fd(), "ptmx"))
}

/// The root becomes the root, and the host is gone.
pub fn enter(plan: &Plan, root: BorrowedFd<'_>, pivot: bool) -> Result<(), Failure> {
    let old = act("opening the old root", fs::open("/", fs::Open::PATH | fs::Open::DIRECTORY, 0))?;
    act("going to the root", process::fchdir(root))?;
    if pivot {
        // The old root comes to lie on top of the new one (pivot_root(2)), and goes with everything below it.
        act("entering the root (pivot_root)", mount::pivot_root(Path::new("."), Path::new(".")))?;
        act("going to the old root", process::fchdir(old.as_fd()))?;
        act("leaving the host's mounts", mount::umount(Path::new("."), true))?;
    } else {
        let moved = mount::mount(OsStr::new("."), Path::new("/"), "", MountFlags::MOVE, "");
        act("moving the root over the old one", moved)?;
        act("entering the root (chroot)", std::os::unix::fs::chroot("."))?;
    }
    act("going to /", std::env::set_current_dir("/"))?;
    let (kind, recursive) = act("reading linux.rootfsPropagation", propagation(plan.root_propagation))?;
    // A slave it is already, and made private where it was opened: what hangs below it may be a slave by request.
    if matches!(kind, Propagation::Shared | Propagation::Unbindable) {
        act("setting linux.rootfsPropagation", mount::set_propagation(Path::new("/"), kind, recursive))?;
    }
    Ok(())
}

/// Hides files behind /dev/null and folders behind an empty tmpfs; missing ones are fine.
pub fn mask(root: BorrowedFd<'_>, paths: &[String], label: &str) -> Result<(), Failure> {
    for path in paths {
        let at = match tree::there(root, path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            other => act(format!("masking {path}"), other)?,
        };
        act(format!("masking {path}"), mask_one(root, at.as_fd(), label))?;
    }
    Ok(())
}

fn mask_one(root: BorrowedFd<'_>, at: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    if tree::is_folder(at)? {
        let context = mount::FsContext::open("tmpfs")?;
        context.set_string("size", "0k")?;
        context.set_string("nr_inodes", "2")?;
        if !label.is_empty() {
            context.set_string("context", label)?;
        }
        context.create()?;
        let attributes = MountAttr::RDONLY | MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC;
        return mount::move_mount_to_fd(context.mount(attributes)?.as_fd(), at);
    }
    // Not the image's file of that name, which could be anything (CVE-2025-31133).
    let null = if wall::is_down("masks") { tree::there(root, "/dev/null") } else { tree::no_link(root, "/dev/null") }?;
    let found = fs::fstat(null.as_fd())?;
    if !wall::is_down("masks") && (found.kind, found.rdev_major, found.rdev_minor) != (Kind::CharDevice, 1, 3) {
        return Err(io::Error::other("/dev/null of the container is not the device"));
    }
    mount::move_mount_to_fd(oci::clone_mount(null.as_fd(), false)?.as_fd(), at)
}

/// Binds paths read-only over themselves; missing ones are fine.
pub fn read_only(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), Failure> {
    for path in paths {
        let at = match tree::there(root, path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            other => act(format!("making {path} read-only"), other)?,
        };
        let bound = oci::clone_mount(at.as_fd(), true).and_then(|copy| {
            let change = AttrChange { set: MountAttr::RDONLY, ..AttrChange::default() };
            mount::mount_setattr(copy.as_fd(), change)?;
            mount::move_mount_to_fd(copy.as_fd(), at.as_fd())
        });
        act(format!("making {path} read-only"), bound)?;
    }
    Ok(())
}

/// Writes a value to a file below /proc/sys, which must be the kernel's own (CVE-2019-16884).
pub fn sysctl(root: BorrowedFd<'_>, path: &str, value: &str) -> io::Result<()> {
    write_proc(root, &format!("sys/{path}"), value)
}

/// Writes the label of this process's next execve to a file below /proc/self/attr, behind the entry into the root: a file of the image's
/// would take it, and the program would run without (CVE-2019-16884's other half).
pub fn label(file: &str, content: &str) -> io::Result<()> {
    let root = fs::open("/", fs::Open::PATH | fs::Open::DIRECTORY, 0)?;
    write_proc(root.as_fd(), &format!("self/attr/{file}"), content)
}

/// Writes a file of the container's /proc, which must be the kernel's, with nothing mounted over it.
fn write_proc(root: BorrowedFd<'_>, path: &str, value: &str) -> io::Result<()> {
    let proc = tree::no_link(root, "/proc")?;
    if !oci::is_procfs(proc.as_fd())? {
        return Err(io::Error::other("/proc of the container is not procfs"));
    }
    let mut resolve = fs::Resolve::BENEATH | fs::Resolve::NO_XDEV | fs::Resolve::NO_MAGICLINKS;
    // As who believes that all below /proc is the kernel's (CVE-2025-52881).
    if wall::is_down("kernel") {
        resolve = fs::Resolve::IN_ROOT;
    }
    let file = fs::openat2(proc.as_fd(), path, fs::Open::WRONLY, 0, resolve)?;
    process::write(file.as_fd(), value.as_bytes()).map(drop)
}

const EINVAL: i32 = 22;
const EPERM: i32 = 1;
const ENOTDIR: i32 = 20;
const EOPNOTSUPP: i32 = 95;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_to_the_kernel_alone() {
        let at = std::env::temp_dir().join(format!("berth-oci-label-{}", std::process::id()));
        std::fs::create_dir_all(at.join("proc/self/attr")).unwrap();
        std::fs::write(at.join("proc/self/attr/exec"), "").unwrap();
        let root = OwnedFd::from(std::fs::File::open(&at).unwrap());
        let refused = write_proc(root.as_fd(), "self/attr/exec", "x").unwrap_err();
        assert!(refused.to_string().contains("is not procfs"), "{refused}");
        assert_eq!(std::fs::read_to_string(at.join("proc/self/attr/exec")).unwrap(), "");
        std::fs::remove_dir_all(at).unwrap();
        // The way to the real one: what is there is written, and what is not is not made.
        let host = OwnedFd::from(std::fs::File::open("/").unwrap());
        write_proc(host.as_fd(), "self/oom_score_adj", "0").unwrap();
        assert!(label("nosuch", "x").is_err());
    }
}
