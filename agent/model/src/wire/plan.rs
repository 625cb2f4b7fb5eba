//! What a shim does to make a process: decided by the agent, done by the shim, step by step.

use super::codec::{Reader, WireError, Writer};
use super::step::text;
pub use super::step::{Node, Step};
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
    /// The container is another OCI runtime's: `args` are its command line, not the workload's.
    pub runtime: Option<Foreign<'a>>,
}

/// What is left to do when another runtime's command has ended well.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Foreign<'a> {
    /// Where it has written the pid of the process that it made, which the shim adopts. None: it made none, and the plan ends here.
    pub pid_file: Option<Bytes<'a>>,
    /// Place of the listener to which it sends the terminal.
    pub console: Option<u8>,
    /// Place of a `cgroup.procs` that the process is moved to.
    pub group: Option<u8>,
    /// A second command, which starts what the first one has created: `args`, `env`, `steps` and `namespaces` of it count.
    pub start: Option<Box<Plan<'a>>>,
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
    /// Folder of the group above that, where systemd removes the group by itself.
    pub slice: Option<u8>,
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

impl<'a> Foreign<'a> {
    fn write(&self, w: &mut Writer) {
        w.option(self.pid_file.as_ref(), |w, p| w.bytes(p));
        w.option(self.console, |w, fd| w.u8(fd));
        w.option(self.group, |w, fd| w.u8(fd));
        w.option(self.start.as_ref(), |w, plan| w.bytes(&plan.encode()));
    }

    fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let second = |r: &mut Reader<'a>| Plan::decode_with(r.bytes()?, |_| Err(WireError::Value(1)));
        Ok(Foreign {
            pid_file: r.option(text)?,
            console: r.option(Reader::u8)?,
            group: r.option(Reader::u8)?,
            start: r.option(second)?.map(Box::new),
        })
    }
}

impl<'a> Plan<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(super::VERSION);
        w.bytes(&self.id);
        w.u64(self.namespaces);
        let Fds { log, run, listener, attach, cgroup, slice } = self.fds;
        for fd in [self.join_pid, log, run, listener, attach, cgroup, slice] {
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
        w.option(self.runtime.as_ref(), |w, r| r.write(w));
        w.done()
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        Plan::decode_with(bytes, Foreign::read)
    }

    /// A second command has no further one.
    fn decode_with(
        bytes: &'a [u8],
        foreign: fn(&mut Reader<'a>) -> Result<Foreign<'a>, WireError>,
    ) -> Result<Self, WireError> {
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
                slice: r.option(Reader::u8)?,
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
            runtime: r.option(foreign)?,
        };
        r.end()?;
        Ok(plan)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
