//! The acts of a plan, and their form on the wire.

use super::codec::{Reader, WireError, Writer};
use super::plan::Bytes;
use std::borrow::Cow;

/// One act of the new process. Paths are absolute inside the container unless said otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// cgroup v1: writes "0" to a `tasks`.
    JoinCgroup {
        fd: u8,
    },
    /// setns(2) into the namespace behind a descriptor, or those `kinds` of a pidfd's process.
    EnterNamespace {
        fd: u8,
        kinds: u32,
    },
    Unshare {
        flags: u32,
    },
    /// Opens a folder or file of the host as a detached mount, before the host is left.
    OpenTree {
        slot: u8,
        source: Bytes<'a>,
        recursive: bool,
        /// With all mounts below, when they are there.
        read_only: bool,
        /// MS_PRIVATE, MS_SLAVE or MS_SHARED, and MS_REC when it holds for the mounts below, too.
        propagation: u32,
        nosuid_nodev: bool,
        /// `read_only` and `nosuid_nodev` are for the top alone.
        top_only: bool,
        /// Owners are mapped by the plan's user namespace.
        idmap: bool,
    },
    /// Makes all mounts private, attaches the root and moves into it.
    EnterRoot {
        fd: u8,
    },
    /// A /proc of the own processes in the place of the tree that was opened, the host's: in a user namespace the kernel gives one only to who
    /// sees one that nothing is mounted on.
    OwnProc {
        slot: u8,
    },
    /// mount(2); the target is resolved inside the root and may be no link.
    Mount {
        fs_type: Bytes<'a>,
        source: Bytes<'a>,
        target: Bytes<'a>,
        flags: u64,
        data: Bytes<'a>,
        optional: bool,
    },
    /// A tmpfs of the user's on a target that is made when it is missing.
    Tmpfs {
        target: Bytes<'a>,
        flags: u64,
        data: Bytes<'a>,
    },
    /// Attaches what `OpenTree` opened; the target is made when it is missing and never lies outside of the root.
    AttachTree {
        slot: u8,
        target: Bytes<'a>,
    },
    /// Attaches a detached mount that came as a descriptor; the target as of `AttachTree`.
    AttachGiven {
        fd: u8,
        target: Bytes<'a>,
    },
    /// A folder; there already is fine.
    Directory {
        path: Bytes<'a>,
        mode: u32,
    },
    /// A character (or block) device.
    Device {
        path: Bytes<'a>,
        block: bool,
        mode: u32,
        major: u32,
        minor: u32,
        uid: u32,
        gid: u32,
    },
    Symlink {
        path: Bytes<'a>,
        target: Bytes<'a>,
    },
    /// Opens the container's terminal, hands it to the shim and makes it /dev/console and the standard streams.
    Terminal {
        console: bool,
    },
    /// Hides files behind /dev/null and folders behind an empty tmpfs; missing ones are fine.
    Mask {
        paths: Vec<Bytes<'a>>,
        /// Of SELinux, for the tmpfs. Empty: none.
        label: Bytes<'a>,
    },
    /// Binds paths read-only over themselves; missing ones are fine.
    ReadOnlyPaths {
        paths: Vec<Bytes<'a>>,
    },
    ReadOnlyRoot,
    /// Writes a value to a file below /proc.
    WriteFile {
        path: Bytes<'a>,
        value: Bytes<'a>,
    },
    Hostname {
        name: Bytes<'a>,
    },
    Domainname {
        name: Bytes<'a>,
    },
    /// setrlimit(2); numbers as the kernel's.
    Rlimit {
        resource: u32,
        soft: u64,
        hard: u64,
    },
    /// Working folder; made when it is missing.
    Workdir {
        path: Bytes<'a>,
        create: bool,
    },
    /// Capabilities and user: the bounding set, then groups, gid, uid, then what a root user keeps.
    Identity {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        capabilities: u64,
    },
    NoNewPrivileges,
    /// A program of struct sock_filter, 8 bytes an instruction.
    Seccomp {
        program: Bytes<'a>,
    },
    Umask {
        mask: u32,
    },
    /// AppArmor: the profile that the next execve(2) enters, or that this process has from `now` on.
    Profile {
        name: Bytes<'a>,
        now: bool,
    },
    /// SELinux: the label that the next execve(2) gives this process, or that it has from `now` on.
    ProcessLabel {
        label: Bytes<'a>,
        now: bool,
    },
    /// SELinux: the label of a file or folder; what takes none stays as it is.
    FileLabel {
        path: Bytes<'a>,
        label: Bytes<'a>,
    },
    /// Landlock: from here on nothing but what is beneath the root and the standard streams is found by a path. Numbers as the kernel's.
    Landlock {
        rights: u64,
        scopes: u64,
    },
    /// The null device of the root behind each standard stream that is one.
    OwnNull,
    /// Root of the user namespace that was joined.
    BecomeRoot,
    /// The pipes that are its standard streams get this owner, as a number of the host.
    OwnStreams {
        uid: u32,
        gid: u32,
    },
    /// Raises a hard limit to at least this one.
    RaiseLimit {
        resource: u32,
        hard: u64,
    },
    /// A file system of the kernel's as a detached mount, as seen from where this is done; nosuid, nodev and noexec.
    KernelTree {
        slot: u8,
        fs_type: Bytes<'a>,
        read_only: bool,
    },
    /// A tmpfs with device nodes as a detached mount, its root and the nodes with the host's numbers of their owners. `pick`: just the first node.
    DeviceTree {
        slot: u8,
        data: Vec<(Bytes<'a>, Bytes<'a>)>,
        uid: u32,
        gid: u32,
        nodes: Vec<Node<'a>>,
        pick: bool,
    },
    /// In a mount namespace of its own: no mount from here on is seen by the host, the mounts `without` are gone, and an empty tmpfs covers
    /// `folder`, which everybody may pass. Later targets are paths of the host.
    HostView {
        folder: Bytes<'a>,
        without: Vec<Bytes<'a>>,
    },
    /// Binds the namespace behind a descriptor to a file that is made.
    PinNamespace {
        fd: u8,
        target: Bytes<'a>,
    },
    /// Working folder, a path of the host.
    HostFolder {
        path: Bytes<'a>,
    },
}

/// A device of a [`Step::DeviceTree`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node<'a> {
    /// Below the tree's root, without a slash in front.
    pub path: Bytes<'a>,
    pub block: bool,
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
}

impl<'a> Node<'a> {
    fn write(&self, w: &mut Writer) {
        w.bytes(&self.path);
        w.bool(self.block);
        for v in [self.mode, self.major, self.minor, self.uid, self.gid] {
            w.u32(v);
        }
    }

    fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Node {
            path: text(r)?,
            block: r.bool()?,
            mode: r.u32()?,
            major: r.u32()?,
            minor: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
        })
    }
}

pub(super) fn text<'a>(r: &mut Reader<'a>) -> Result<Bytes<'a>, WireError> {
    Ok(Cow::Borrowed(r.bytes()?))
}

impl<'a> Step<'a> {
    pub(super) fn write(&self, w: &mut Writer) {
        match self {
            Step::JoinCgroup { fd } => {
                w.u8(1);
                w.u8(*fd);
            }
            Step::EnterNamespace { fd, kinds } => {
                w.u8(2);
                w.u8(*fd);
                w.u32(*kinds);
            }
            Step::Unshare { flags } => {
                w.u8(3);
                w.u32(*flags);
            }
            Step::OpenTree { slot, source, recursive, read_only, propagation, nosuid_nodev, top_only, idmap } => {
                w.u8(4);
                w.u8(*slot);
                w.bytes(source);
                w.bool(*recursive);
                w.bool(*read_only);
                w.u32(*propagation);
                w.bool(*nosuid_nodev);
                w.bool(*top_only);
                w.bool(*idmap);
            }
            Step::EnterRoot { fd } => {
                w.u8(5);
                w.u8(*fd);
            }
            Step::Mount { fs_type, source, target, flags, data, optional } => {
                w.u8(6);
                w.bytes(fs_type);
                w.bytes(source);
                w.bytes(target);
                w.u64(*flags);
                w.bytes(data);
                w.bool(*optional);
            }
            Step::Tmpfs { target, flags, data } => {
                w.u8(7);
                w.bytes(target);
                w.u64(*flags);
                w.bytes(data);
            }
            Step::AttachTree { slot, target } => {
                w.u8(8);
                w.u8(*slot);
                w.bytes(target);
            }
            Step::Directory { path, mode } => {
                w.u8(9);
                w.bytes(path);
                w.u32(*mode);
            }
            Step::Device { path, block, mode, major, minor, uid, gid } => {
                w.u8(10);
                w.bytes(path);
                w.bool(*block);
                for v in [mode, major, minor, uid, gid] {
                    w.u32(*v);
                }
            }
            Step::Symlink { path, target } => {
                w.u8(11);
                w.bytes(path);
                w.bytes(target);
            }
            Step::Terminal { console } => {
                w.u8(12);
                w.bool(*console);
            }
            Step::Mask { paths, label } => {
                w.u8(13);
                w.list(paths, |w, p| w.bytes(p));
                w.bytes(label);
            }
            Step::ReadOnlyPaths { paths } => {
                w.u8(14);
                w.list(paths, |w, p| w.bytes(p));
            }
            Step::ReadOnlyRoot => w.u8(15),
            Step::WriteFile { path, value } => {
                w.u8(16);
                w.bytes(path);
                w.bytes(value);
            }
            Step::Hostname { name } => {
                w.u8(17);
                w.bytes(name);
            }
            Step::Domainname { name } => {
                w.u8(18);
                w.bytes(name);
            }
            Step::Rlimit { resource, soft, hard } => {
                w.u8(19);
                w.u32(*resource);
                w.u64(*soft);
                w.u64(*hard);
            }
            Step::Workdir { path, create } => {
                w.u8(20);
                w.bytes(path);
                w.bool(*create);
            }
            Step::Identity { uid, gid, groups, capabilities } => {
                w.u8(21);
                w.u32(*uid);
                w.u32(*gid);
                w.list(groups, |w, g| w.u32(*g));
                w.u64(*capabilities);
            }
            Step::NoNewPrivileges => w.u8(22),
            Step::Seccomp { program } => {
                w.u8(23);
                w.bytes(program);
            }
            Step::Umask { mask } => {
                w.u8(24);
                w.u32(*mask);
            }
            Step::AttachGiven { fd, target } => {
                w.u8(25);
                w.u8(*fd);
                w.bytes(target);
            }
            Step::OwnProc { slot } => {
                w.u8(26);
                w.u8(*slot);
            }
            Step::OwnNull => w.u8(39),
            Step::BecomeRoot => w.u8(27),
            Step::OwnStreams { uid, gid } => {
                w.u8(28);
                w.u32(*uid);
                w.u32(*gid);
            }
            Step::RaiseLimit { resource, hard } => {
                w.u8(29);
                w.u32(*resource);
                w.u64(*hard);
            }
            Step::KernelTree { slot, fs_type, read_only } => {
                w.u8(30);
                w.u8(*slot);
                w.bytes(fs_type);
                w.bool(*read_only);
            }
            Step::DeviceTree { slot, data, uid, gid, nodes, pick } => {
                w.u8(31);
                w.u8(*slot);
                w.list(data, |w, (key, value)| {
                    w.bytes(key);
                    w.bytes(value);
                });
                w.u32(*uid);
                w.u32(*gid);
                w.list(nodes, |w, n| n.write(w));
                w.bool(*pick);
            }
            Step::HostView { folder, without } => {
                w.u8(32);
                w.bytes(folder);
                w.list(without, |w, p| w.bytes(p));
            }
            Step::PinNamespace { fd, target } => {
                w.u8(33);
                w.u8(*fd);
                w.bytes(target);
            }
            Step::HostFolder { path } => {
                w.u8(34);
                w.bytes(path);
            }
            Step::Profile { name, now } => {
                w.u8(36);
                w.bytes(name);
                w.bool(*now);
            }
            Step::ProcessLabel { label, now } => {
                w.u8(37);
                w.bytes(label);
                w.bool(*now);
            }
            Step::FileLabel { path, label } => {
                w.u8(38);
                w.bytes(path);
                w.bytes(label);
            }
            Step::Landlock { rights, scopes } => {
                w.u8(35);
                w.u64(*rights);
                w.u64(*scopes);
            }
        }
    }

    pub(super) fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(match r.u8()? {
            1 => Step::JoinCgroup { fd: r.u8()? },
            2 => Step::EnterNamespace { fd: r.u8()?, kinds: r.u32()? },
            3 => Step::Unshare { flags: r.u32()? },
            4 => Step::OpenTree {
                slot: r.u8()?,
                source: text(r)?,
                recursive: r.bool()?,
                read_only: r.bool()?,
                propagation: r.u32()?,
                nosuid_nodev: r.bool()?,
                top_only: r.bool()?,
                idmap: r.bool()?,
            },
            5 => Step::EnterRoot { fd: r.u8()? },
            6 => Step::Mount {
                fs_type: text(r)?,
                source: text(r)?,
                target: text(r)?,
                flags: r.u64()?,
                data: text(r)?,
                optional: r.bool()?,
            },
            7 => Step::Tmpfs { target: text(r)?, flags: r.u64()?, data: text(r)? },
            8 => Step::AttachTree { slot: r.u8()?, target: text(r)? },
            9 => Step::Directory { path: text(r)?, mode: r.u32()? },
            10 => Step::Device {
                path: text(r)?,
                block: r.bool()?,
                mode: r.u32()?,
                major: r.u32()?,
                minor: r.u32()?,
                uid: r.u32()?,
                gid: r.u32()?,
            },
            11 => Step::Symlink { path: text(r)?, target: text(r)? },
            12 => Step::Terminal { console: r.bool()? },
            13 => Step::Mask { paths: r.list(text)?, label: text(r)? },
            14 => Step::ReadOnlyPaths { paths: r.list(text)? },
            15 => Step::ReadOnlyRoot,
            16 => Step::WriteFile { path: text(r)?, value: text(r)? },
            17 => Step::Hostname { name: text(r)? },
            18 => Step::Domainname { name: text(r)? },
            19 => Step::Rlimit { resource: r.u32()?, soft: r.u64()?, hard: r.u64()? },
            20 => Step::Workdir { path: text(r)?, create: r.bool()? },
            21 => Step::Identity { uid: r.u32()?, gid: r.u32()?, groups: r.list(Reader::u32)?, capabilities: r.u64()? },
            22 => Step::NoNewPrivileges,
            23 => Step::Seccomp { program: text(r)? },
            24 => Step::Umask { mask: r.u32()? },
            25 => Step::AttachGiven { fd: r.u8()?, target: text(r)? },
            26 => Step::OwnProc { slot: r.u8()? },
            27 => Step::BecomeRoot,
            28 => Step::OwnStreams { uid: r.u32()?, gid: r.u32()? },
            29 => Step::RaiseLimit { resource: r.u32()?, hard: r.u64()? },
            30 => Step::KernelTree { slot: r.u8()?, fs_type: text(r)?, read_only: r.bool()? },
            31 => Step::DeviceTree {
                slot: r.u8()?,
                data: r.list(|r| Ok((text(r)?, text(r)?)))?,
                uid: r.u32()?,
                gid: r.u32()?,
                nodes: r.list(Node::read)?,
                pick: r.bool()?,
            },
            32 => Step::HostView { folder: text(r)?, without: r.list(text)? },
            33 => Step::PinNamespace { fd: r.u8()?, target: text(r)? },
            34 => Step::HostFolder { path: text(r)? },
            35 => Step::Landlock { rights: r.u64()?, scopes: r.u64()? },
            37 => Step::ProcessLabel { label: text(r)?, now: r.bool()? },
            38 => Step::FileLabel { path: text(r)?, label: text(r)? },
            39 => Step::OwnNull,
            36 => Step::Profile { name: text(r)?, now: r.bool()? },
            tag => return Err(WireError::Tag(tag)),
        })
    }
}
