//! Sessions: attachments that outlive the agent. A socket in a folder of their own leads back to the shim, whose container may be gone.

use crate::RuntimeError;
use crate::attach::{AttachInput, Attachment, watched};
use crate::shim::open_process;
use berth_model::wire::{self, Request, Response};
use berth_sys::fs::{self, Open};
use berth_sys::{process, socket};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;

/// A shim answers at once; what takes longer is stuck or stopped.
const ANSWER: Duration = Duration::from_secs(5);

/// A session that is made together with an attachment.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Where sockets of sessions are.
    pub folder: PathBuf,
    /// A file name that nobody guesses, at most 64 characters.
    pub name: String,
    /// Anything that whoever comes back wants to know, at most [`wire::MAX_SESSION`] bytes.
    pub note: Vec<u8>,
    /// false: it is only there to be found again.
    pub reads: bool,
}

/// A session that was found again.
pub struct Resumed {
    pub attachment: Attachment,
    /// So much of its input has been accepted: bytes, and one more for its end.
    pub fed: u64,
    pub note: Vec<u8>,
    /// The workload's, with its start time.
    pub process: (u32, u64),
}

impl Resumed {
    /// Through the pidfd: never hits another process.
    pub fn signal(process: (u32, u64), signal: i32) -> Result<(), RuntimeError> {
        let pidfd = open_process(process.0, process.1)?;
        process::pidfd_send_signal(pidfd.as_fd(), signal).map_err(|_| RuntimeError::NotRunning)
    }
}

/// The folder, and the socket's path through its descriptor: never too long for an address (107 bytes).
fn place(folder: &Path, name: &str) -> Result<(OwnedFd, PathBuf), RuntimeError> {
    let dir = fs::open(folder, Open::PATH | Open::DIRECTORY, 0)
        .map_err(RuntimeError::io(format!("opening {}", folder.display())))?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).into();
    Ok((dir, path))
}

/// First message of a new session, and the listener beside it.
pub(crate) fn begin(socket: &OwnedFd, stdin: bool, new: &NewSession) -> Result<(), RuntimeError> {
    let (dir, path) = place(&new.folder, &new.name)?;
    let listener = match socket::listen(&path) {
        // Of an earlier try of the same caller, whose shim is gone.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            fs::unlinkat(dir.as_fd(), &new.name, false).and_then(|()| socket::listen(&path))
        }
        other => other,
    }
    .map_err(RuntimeError::io("listening for a session"))?;
    let hello = Request::Session(wire::Session {
        name: new.name.as_bytes().into(),
        fresh: true,
        feeds: stdin,
        reads: new.reads,
        taken: [0; 2],
        note: (&new.note[..]).into(),
    });
    socket::send(socket.as_fd(), &[IoSlice::new(&hello.encode())], &[listener.as_fd()], true)
        .map_err(RuntimeError::io("beginning a session"))
}

/// The shim's first word to a session. None: it knows no sessions, or not this one.
pub(crate) async fn welcome(socket: OwnedFd) -> Result<Option<(OwnedFd, Vec<u8>)>, RuntimeError> {
    process::set_nonblocking(socket.as_fd()).map_err(RuntimeError::io("preparing a session's socket"))?;
    let socket = watched(socket).map_err(RuntimeError::io("watching a session's socket"))?;
    let mut buffer = vec![0; 2 * wire::MAX_SESSION];
    let answer =
        socket.async_io(Interest::READABLE, |fd| socket::receive(fd.as_fd(), &mut buffer, &mut Vec::new(), false));
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(n)) if n > 0 => {
            buffer.truncate(n);
            Ok(Some((socket.into_inner(), buffer)))
        }
        Ok(_) => Ok(None),
        Err(_) => {
            let source = io::ErrorKind::TimedOut.into();
            Err(RuntimeError::Io { act: "waiting for the shim of a session".into(), source })
        }
    }
}

/// Goes on with a session whose reader has so many bytes of stdout and stderr. None: there is none of this name, or what its reader lacks
/// is no longer kept.
///
/// # Errors
/// `Io`: its shim does not answer.
pub async fn resume(folder: &Path, name: &str, taken: [u64; 2]) -> Result<Option<Resumed>, RuntimeError> {
    let (_dir, path) = place(folder, name)?;
    let socket = match socket::connect(&path) {
        Ok(socket) => socket,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(source) => return Err(RuntimeError::Io { act: "connecting to the shim of a session".into(), source }),
    };
    let hello = Request::Session(wire::Session {
        name: name.as_bytes().into(),
        fresh: false,
        feeds: false,
        reads: true,
        taken,
        note: (&[][..]).into(),
    });
    if socket::send(socket.as_fd(), &[IoSlice::new(&hello.encode())], &[], true).is_err() {
        return Ok(None);
    }
    let Some((socket, answer)) = welcome(socket).await? else { return Ok(None) };
    let Response::Welcome(welcome) = Response::decode(&answer)? else { return Err(RuntimeError::ShimGone) };
    Ok(Some(Resumed {
        attachment: Attachment::of_session(socket)?,
        fed: welcome.fed,
        note: welcome.note.to_vec(),
        process: (welcome.pid, welcome.start_time),
    }))
}

/// Removes the sockets of sessions that nobody listens to any more. Blocking.
pub fn sweep(folder: &Path) -> Result<(), RuntimeError> {
    let act = || format!("listing {}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(RuntimeError::io(act()))? {
        let name = entry.map_err(RuntimeError::io(act()))?.file_name();
        let Some(name) = name.to_str() else { continue };
        forget(folder, name)?;
    }
    Ok(())
}

/// Removes the socket of one session when nobody listens to it.
pub fn forget(folder: &Path, name: &str) -> Result<(), RuntimeError> {
    let (dir, path) = place(folder, name)?;
    if socket::connect(&path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        let _ = fs::unlinkat(dir.as_fd(), name, false);
    }
    Ok(())
}

impl AttachInput {
    /// So many bytes of stdout and stderr have reached the reader of a session.
    pub async fn taken(&self, counts: [u64; 2]) -> Result<(), RuntimeError> {
        self.send(&[IoSlice::new(&Request::Taken(counts).encode())]).await
    }

    /// Its reader's connection has ended while this agent lives: it has a moment to come back.
    pub async fn hung_up(&self) -> Result<(), RuntimeError> {
        self.send(&[IoSlice::new(&Request::HungUp.encode())]).await
    }

    /// The session is over; `hang_up`: its process is told as by a terminal.
    pub async fn leave(&self, hang_up: bool) -> Result<(), RuntimeError> {
        self.send(&[IoSlice::new(&Request::Leave(hang_up).encode())]).await
    }
}
