//! Messages between the agent and a shim: a small versioned binary form.
//!
//! One message is one packet of a `SOCK_SEQPACKET` socket: a tag byte, then fields in order. Numbers are little-endian; byte strings and
//! lists carry their length in front. Every length is checked against what is there before anything is taken, so that a hostile or cut
//! message is an error and never a panic or a large allocation. File descriptors travel beside a message (SCM_RIGHTS, unix(7)) and are
//! named by their place in the list.

use std::borrow::Cow;

mod codec;
pub mod plan;
mod step;

pub use codec::WireError;
use codec::{Reader, Writer};
pub use plan::{Fds, Foreign, LogPlan, Plan, Step};

/// Changes whenever a message changes its form: an agent never talks to a shim of another version than its own by mistake. Shims that
/// outlive an upgrade keep theirs, so messages behind the plan may only grow at their end.
pub const VERSION: u8 = 1;

/// Bytes of payload in one frame of standard input or output. Twice this fits every default socket buffer (net.core.wmem_default is
/// 212,992 bytes), so a frame never fails for its size.
pub const MAX_FRAME: usize = 16 << 10;

/// Longer plans travel in a memfd.
pub const MAX_INLINE_PLAN: usize = 64 << 10;

/// The longest plan a shim reads: twice the kernel's limit for arguments and environment (`ARG_MAX`, 2 MiB) and room for the steps.
pub const MAX_PLAN: usize = 6 << 20;

/// Files below /proc that may be mounted over: what lxcfs makes for containers (runc, checkProcMount).
pub const PROC_FILES: [&str; 8] = ["cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"];

/// Descriptors beside one message (the kernel's limit is 253, SCM_MAX_FD).
pub const MAX_FDS: usize = 128;

/// What the agent tells a shim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// The plan itself; descriptors beside it.
    Plan(Cow<'a, [u8]>),
    /// The plan is in the first descriptor beside this message, so many bytes long.
    PlanInFile(u32),
    /// The exit status is safe with the agent: the shim may go.
    Release,
    /// Rows and columns of the terminal.
    Resize(u16, u16),
    /// First message of a connection that wants to be the control connection.
    Control,
    /// First message of a connection that wants the standard streams; true: it also feeds standard input.
    Attach(bool),
    /// Bytes for standard input, at most [`MAX_FRAME`].
    Stdin(Cow<'a, [u8]>),
    /// Standard input has ended.
    StdinEnd,
    /// First message of a connection that wants the standard streams and may come back when it breaks. Shims of before know it not and
    /// close the connection.
    Session(Session<'a>),
    /// So many bytes of stdout and stderr, counted from the session's begin, have reached who reads them: they need not be kept.
    Taken([u64; 2]),
    /// The session is over; true: its process gets SIGHUP, as from a terminal that hangs up.
    Leave(bool),
    /// On the control connection: nobody is to come back to this workload. Ends every session, and is a release.
    Abandon,
    /// Who reads the session hung up, and the agent is there to say so: it is kept for a moment only. Shims of before know it not and
    /// keep it as for an agent that is away.
    HungUp,
}

/// Who joins, or comes back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Session<'a> {
    /// What it is found by again, at most [`MAX_SESSION`] bytes.
    pub name: Cow<'a, [u8]>,
    /// A new one; its listener is the descriptor beside the message. Otherwise one that was there before goes on.
    pub fresh: bool,
    /// It also feeds standard input.
    pub feeds: bool,
    /// It wants the outputs: one that does not is only there to be found again.
    pub reads: bool,
    /// Bytes of stdout and stderr that have reached it already.
    pub taken: [u64; 2],
    /// Anything that whoever comes back wants to know, at most [`MAX_SESSION`] bytes.
    pub note: Cow<'a, [u8]>,
}

/// A session sends no more input than this beyond what it was told is fed: then nothing it says waits behind input that is not read.
pub const INPUT_WINDOW: u64 = 256 << 10;

/// Bytes of a session's name, and of its note.
pub const MAX_SESSION: usize = 1 << 10;

/// What a shim tells the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response<'a> {
    Started(Started),
    Failed(Failed<'a>),
    Exited(Exited),
    Stdout(Cow<'a, [u8]>),
    Stderr(Cow<'a, [u8]>),
    /// Both outputs have ended; nothing follows.
    OutputEnd,
    /// This reader took nothing for too long and is cut off.
    CutOff,
    /// First answer to a session.
    Welcome(Welcome<'a>),
    /// So much of the session's standard input has been accepted, and more may come: bytes, and one more for its end.
    Fed(u64),
}

/// Where a session goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome<'a> {
    /// So much of its standard input has been accepted: bytes, and one more for its end.
    pub fed: u64,
    /// Of the workload, in the host's pid namespace.
    pub pid: u32,
    pub start_time: u64,
    /// As the session was made with.
    pub note: Cow<'a, [u8]>,
}

/// The workload runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Started {
    /// In the shim's pid namespace.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat, clock ticks since boot.
    pub start_time: u64,
    pub shim_pid: u32,
    pub shim_start_time: u64,
}

/// A step did not succeed; nothing of the container is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed<'a> {
    /// The act and its input: `mounting proc on /proc`.
    pub step: Cow<'a, [u8]>,
    /// Which kind of step, where it matters to the caller.
    pub kind: FailKind,
    pub errno: i32,
}

/// Which failures have an exit code of their own (127, 126).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailKind {
    Step,
    CommandNotFound,
    CommandNotExecutable,
    /// The container's first process is gone (exec).
    NotRunning,
    /// A command of another runtime: `step` is what it said, `errno` its exit code.
    Runtime,
}

/// The workload has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exited {
    /// As a shell says it: the code, or 128 + the signal.
    pub code: i32,
    /// 0: it was no signal.
    pub signal: i32,
    /// Nanoseconds since the Unix epoch.
    pub time: i64,
}

const TAG_PLAN: u8 = 1;
const TAG_PLAN_IN_FILE: u8 = 2;
const TAG_RELEASE: u8 = 3;
const TAG_RESIZE: u8 = 4;
const TAG_CONTROL: u8 = 5;
const TAG_ATTACH: u8 = 6;
/// Public so that frames can be sent without copying their payload behind it.
pub const TAG_STDIN: u8 = 7;
const TAG_STDIN_END: u8 = 8;
const TAG_SESSION: u8 = 9;
const TAG_TAKEN: u8 = 10;
const TAG_LEAVE: u8 = 11;
const TAG_ABANDON: u8 = 12;
const TAG_HUNG_UP: u8 = 13;
const TAG_STARTED: u8 = 0x81;
const TAG_FAILED: u8 = 0x82;
const TAG_EXITED: u8 = 0x83;
/// Public so that frames can be sent without copying their payload behind it.
pub const TAG_STDOUT: u8 = 0x84;
/// Public so that frames can be sent without copying their payload behind it.
pub const TAG_STDERR: u8 = 0x85;
const TAG_OUTPUT_END: u8 = 0x86;
const TAG_CUT_OFF: u8 = 0x87;
const TAG_WELCOME: u8 = 0x88;
const TAG_FED: u8 = 0x89;

impl<'a> Request<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Request::Plan(bytes) => {
                w.u8(TAG_PLAN);
                w.rest(bytes);
            }
            Request::PlanInFile(len) => {
                w.u8(TAG_PLAN_IN_FILE);
                w.u32(*len);
            }
            Request::Release => w.u8(TAG_RELEASE),
            Request::Resize(rows, columns) => {
                w.u8(TAG_RESIZE);
                w.u16(*rows);
                w.u16(*columns);
            }
            Request::Control => {
                w.u8(TAG_CONTROL);
                w.u8(VERSION);
            }
            Request::Attach(stdin) => {
                w.u8(TAG_ATTACH);
                w.u8(VERSION);
                w.bool(*stdin);
            }
            Request::Stdin(bytes) => {
                w.u8(TAG_STDIN);
                w.rest(bytes);
            }
            Request::StdinEnd => w.u8(TAG_STDIN_END),
            Request::Session(s) => {
                w.u8(TAG_SESSION);
                w.u8(VERSION);
                w.bytes(&s.name);
                w.bool(s.fresh);
                w.bool(s.feeds);
                w.bool(s.reads);
                w.u64(s.taken[0]);
                w.u64(s.taken[1]);
                w.rest(&s.note);
            }
            Request::Taken([stdout, stderr]) => {
                w.u8(TAG_TAKEN);
                w.u64(*stdout);
                w.u64(*stderr);
            }
            Request::Leave(hang_up) => {
                w.u8(TAG_LEAVE);
                w.bool(*hang_up);
            }
            Request::Abandon => w.u8(TAG_ABANDON),
            Request::HungUp => w.u8(TAG_HUNG_UP),
        }
        w.done()
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let request = match r.u8()? {
            TAG_PLAN => Request::Plan(r.rest().into()),
            TAG_PLAN_IN_FILE => Request::PlanInFile(r.u32()?),
            TAG_RELEASE => Request::Release,
            TAG_RESIZE => Request::Resize(r.u16()?, r.u16()?),
            TAG_CONTROL => {
                r.version()?;
                Request::Control
            }
            TAG_ATTACH => {
                r.version()?;
                Request::Attach(r.bool()?)
            }
            TAG_STDIN => Request::Stdin(r.rest().into()),
            TAG_STDIN_END => Request::StdinEnd,
            TAG_SESSION => {
                r.version()?;
                Request::Session(Session {
                    name: r.bytes()?.into(),
                    fresh: r.bool()?,
                    feeds: r.bool()?,
                    reads: r.bool()?,
                    taken: [r.u64()?, r.u64()?],
                    note: r.rest().into(),
                })
            }
            TAG_TAKEN => Request::Taken([r.u64()?, r.u64()?]),
            TAG_LEAVE => Request::Leave(r.bool()?),
            TAG_ABANDON => Request::Abandon,
            TAG_HUNG_UP => Request::HungUp,
            tag => return Err(WireError::Tag(tag)),
        };
        r.end()?;
        Ok(request)
    }
}

impl<'a> Response<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Response::Started(s) => {
                w.u8(TAG_STARTED);
                w.u32(s.pid);
                w.u64(s.start_time);
                w.u32(s.shim_pid);
                w.u64(s.shim_start_time);
            }
            Response::Failed(f) => {
                w.u8(TAG_FAILED);
                w.bytes(&f.step);
                w.u8(match f.kind {
                    FailKind::Step => 0,
                    FailKind::CommandNotFound => 1,
                    FailKind::CommandNotExecutable => 2,
                    FailKind::NotRunning => 3,
                    FailKind::Runtime => 4,
                });
                w.i32(f.errno);
            }
            Response::Exited(e) => {
                w.u8(TAG_EXITED);
                w.i32(e.code);
                w.i32(e.signal);
                w.i64(e.time);
            }
            Response::Stdout(bytes) => {
                w.u8(TAG_STDOUT);
                w.rest(bytes);
            }
            Response::Stderr(bytes) => {
                w.u8(TAG_STDERR);
                w.rest(bytes);
            }
            Response::OutputEnd => w.u8(TAG_OUTPUT_END),
            Response::CutOff => w.u8(TAG_CUT_OFF),
            Response::Welcome(welcome) => {
                w.u8(TAG_WELCOME);
                w.u64(welcome.fed);
                w.u32(welcome.pid);
                w.u64(welcome.start_time);
                w.rest(&welcome.note);
            }
            Response::Fed(position) => {
                w.u8(TAG_FED);
                w.u64(*position);
            }
        }
        w.done()
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let response = match r.u8()? {
            TAG_STARTED => Response::Started(Started {
                pid: r.u32()?,
                start_time: r.u64()?,
                shim_pid: r.u32()?,
                shim_start_time: r.u64()?,
            }),
            TAG_FAILED => Response::Failed(Failed {
                step: r.bytes()?.into(),
                kind: match r.u8()? {
                    0 => FailKind::Step,
                    1 => FailKind::CommandNotFound,
                    2 => FailKind::CommandNotExecutable,
                    3 => FailKind::NotRunning,
                    4 => FailKind::Runtime,
                    other => return Err(WireError::Value(other)),
                },
                errno: r.i32()?,
            }),
            TAG_EXITED => Response::Exited(Exited { code: r.i32()?, signal: r.i32()?, time: r.i64()? }),
            TAG_STDOUT => Response::Stdout(r.rest().into()),
            TAG_STDERR => Response::Stderr(r.rest().into()),
            TAG_OUTPUT_END => Response::OutputEnd,
            TAG_CUT_OFF => Response::CutOff,
            TAG_WELCOME => {
                Response::Welcome(Welcome { fed: r.u64()?, pid: r.u32()?, start_time: r.u64()?, note: r.rest().into() })
            }
            TAG_FED => Response::Fed(r.u64()?),
            tag => return Err(WireError::Tag(tag)),
        };
        r.end()?;
        Ok(response)
    }
}

impl Exited {
    /// The exit file: this message as it is, so that a reader of either is a reader of both.
    pub fn encode(&self) -> Vec<u8> {
        Response::Exited(*self).encode()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        match Response::decode(bytes)? {
            Response::Exited(e) => Ok(e),
            _ => Err(WireError::Tag(bytes[0])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_as_they_went() {
        for request in [
            Request::Plan(Cow::Borrowed(b"plan")),
            Request::PlanInFile(7),
            Request::Release,
            Request::Resize(24, 80),
            Request::Control,
            Request::Attach(true),
            Request::Attach(false),
            Request::Stdin(Cow::Borrowed(b"")),
            Request::Stdin(Cow::Borrowed(&[0, 255])),
            Request::StdinEnd,
            Request::Session(Session {
                name: Cow::Borrowed(b"name"),
                fresh: true,
                feeds: false,
                reads: true,
                taken: [1, u64::MAX],
                note: Cow::Borrowed(b"{}"),
            }),
            Request::Taken([5, 0]),
            Request::Leave(true),
            Request::Abandon,
            Request::HungUp,
        ] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn responses_come_back_as_they_went() {
        for response in [
            Response::Started(Started { pid: 1, start_time: 2, shim_pid: 3, shim_start_time: u64::MAX }),
            Response::Failed(Failed { step: Cow::Borrowed(b"x"), kind: FailKind::CommandNotFound, errno: 2 }),
            Response::Exited(Exited { code: -1, signal: 9, time: i64::MIN }),
            Response::Stdout(Cow::Borrowed(b"a\n")),
            Response::Stderr(Cow::Borrowed(b"")),
            Response::OutputEnd,
            Response::CutOff,
            Response::Welcome(Welcome { fed: 3, pid: 4, start_time: 5, note: Cow::Borrowed(b"n") }),
            Response::Fed(9),
        ] {
            assert_eq!(Response::decode(&response.encode()), Ok(response));
        }
    }

    #[test]
    fn cut_and_padded_messages_are_errors() {
        let whole = Response::Exited(Exited { code: 1, signal: 0, time: 5 }).encode();
        for len in 0..whole.len() {
            assert!(Response::decode(&whole[..len]).is_err(), "{len}");
        }
        let mut padded = whole;
        padded.push(0);
        assert_eq!(Response::decode(&padded), Err(WireError::Trailing(1)));
        assert_eq!(Request::decode(&[99]), Err(WireError::Tag(99)));
        assert_eq!(Request::decode(&[TAG_CONTROL, 77]), Err(WireError::Version(77)));
    }
}
