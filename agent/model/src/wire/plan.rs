//! What a shim does to make a process: decided by the agent, done by the shim, step by step.

use super::codec::{Reader, WireError, Writer};
use std::borrow::Cow;

/// Bytes of a path, a name, a value: Linux has no encoding for them.
pub type Bytes<'a> = Cow<'a, [u8]>;

/// Everything a shim needs to know. Descriptors are named by their place beside the message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan<'a> {
    /// The container's, for a shim that was started before it was known whose it would be; otherwise empty.
    pub id: Bytes<'a>,
    /// CLONE_NEW* flags of clone(2) for the first process.
    pub namespaces: u64,
    /// Place of a pidfd in whose pid namespace the process is born (exec).
    pub join_pid: Option<u8>,
    pub fds: Fds,
    pub tty: bool,
    /// Standard input is open for attachments; otherwise it is /dev/null.
    pub stdin: bool,
    /// Standard input ends with the first attachment that fed it.
    pub stdin_once: bool,
    /// Rows and columns of the terminal at the start.
    pub size: Option<(u16, u16)>,
    /// None: output is not stored.
    pub log: Option<LogPlan<'a>>,
    /// Process 1 is an init that forwards signals and reaps; the command is its child.
    pub init: bool,
    pub args: Vec<Bytes<'a>>,
    /// `KEY=value`
    pub env: Vec<Bytes<'a>>,
    /// Place of the user namespace in which the process is born, with all namespaces above.
    pub userns: Option<u8>,
    /// Done before that with the host's rights, in order.
    pub outside: Vec<Step<'a>>,
    /// Done by the new process, in order.
    pub steps: Vec<Step<'a>>,
}

/// Places of the descriptors that the shim itself keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fds {
    /// Folder of the logs.
    pub log: Option<u8>,
    /// Folder of the exit file.
    pub run: Option<u8>,
    /// Listens for attachments and for a new agent.
    pub listener: Option<u8>,
    /// An attachment from the first byte on.
    pub attach: Option<u8>,
    /// cgroup v2 folder to be born in (CLONE_INTO_CGROUP).
    pub cgroup: Option<u8>,
}

/// How output is stored, and its bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogPlan<'a> {
    /// Bytes of one file before it is rotated.
    pub max_file_bytes: u64,
    /// Files kept, the current one counted; at least 1.
    pub max_files: u32,
    /// What the files' names begin with.
    pub name: Bytes<'a>,
    /// Docker's JSON lines with these attributes (a JSON object's text, or empty) instead of the CRI's format.
    pub json: Option<Bytes<'a>>,
}

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

impl<'a> Plan<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(super::VERSION);
        w.bytes(&self.id);
        w.u64(self.namespaces);
        for fd in [self.join_pid, self.fds.log, self.fds.run, self.fds.listener, self.fds.attach, self.fds.cgroup] {
            w.option(fd, |w, fd| w.u8(fd));
        }
        w.bool(self.tty);
        w.bool(self.stdin);
        w.bool(self.stdin_once);
        w.option(self.size, |w, (rows, columns)| {
            w.u16(rows);
            w.u16(columns);
        });
        w.option(self.log.as_ref(), |w, l| {
            w.u64(l.max_file_bytes);
            w.u32(l.max_files);
            w.bytes(&l.name);
            w.option(l.json.as_ref(), |w, attrs| w.bytes(attrs));
        });
        w.bool(self.init);
        w.list(&self.args, |w, a| w.bytes(a));
        w.list(&self.env, |w, e| w.bytes(e));
        w.option(self.userns, |w, fd| w.u8(fd));
        w.list(&self.outside, |w, s| s.write(w));
        w.list(&self.steps, |w, s| s.write(w));
        w.done()
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        r.version()?;
        let plan = Plan {
            id: text(&mut r)?,
            namespaces: r.u64()?,
            join_pid: r.option(Reader::u8)?,
            fds: Fds {
                log: r.option(Reader::u8)?,
                run: r.option(Reader::u8)?,
                listener: r.option(Reader::u8)?,
                attach: r.option(Reader::u8)?,
                cgroup: r.option(Reader::u8)?,
            },
            tty: r.bool()?,
            stdin: r.bool()?,
            stdin_once: r.bool()?,
            size: r.option(|r| Ok((r.u16()?, r.u16()?)))?,
            log: r.option(|r| {
                let (max_file_bytes, max_files) = (r.u64()?, r.u32()?);
                Ok(LogPlan { max_file_bytes, max_files, name: text(r)?, json: r.option(text)? })
            })?,
            init: r.bool()?,
            args: r.list(text)?,
            env: r.list(text)?,
            userns: r.option(Reader::u8)?,
            outside: r.list(Step::read)?,
            steps: r.list(Step::read)?,
        };
        r.end()?;
        Ok(plan)
    }
}

fn text<'a>(r: &mut Reader<'a>) -> Result<Bytes<'a>, WireError> {
    Ok(Cow::Borrowed(r.bytes()?))
}

impl<'a> Step<'a> {
    fn write(&self, w: &mut Writer) {
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
            Step::Mask { paths } => {
                w.u8(13);
                w.list(paths, |w, p| w.bytes(p));
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
        }
    }

    fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
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
            13 => Step::Mask { paths: r.list(text)? },
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
            tag => return Err(WireError::Tag(tag)),
        })
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
