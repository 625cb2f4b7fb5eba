//! The DNS server's process: started from a sealed memfd, found again by the next agent, ended when nobody needs it.
//!
//! In the folder beside the networks' files: `pid`, which the server writes itself (pid, start time, build), and `sock`, by which it is told.

use crate::NodeError;
use berth_sys::fs::Open;
use berth_sys::process::{self, Child, Poll};
use berth_sys::{fs, memfd, socket, spawn};
use std::ffi::CString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/berth-names"));

/// It answers within a millisecond; one that does not is stuck, and is replaced.
const ANSWER_MS: u64 = 2000;
/// From SIGKILL to the end.
const END_MS: i32 = 5000;
const SIGKILL: i32 = 9;

/// A server that has answered.
pub(super) struct Process {
    pub pid: u32,
    pidfd: OwnedFd,
    /// Ours to reap.
    child: Option<Child>,
    control: OwnedFd,
}

fn io_error(act: &'static str) -> impl FnOnce(io::Error) -> NodeError {
    NodeError::io(act.to_owned())
}

/// Tells one build of the program from another.
fn build() -> &'static str {
    static BUILD: OnceLock<String> = OnceLock::new();
    BUILD.get_or_init(|| {
        // FNV-1a; it is not to hold against anybody.
        let hash =
            PROGRAM.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        format!("{hash:016x}")
    })
}

/// The socket under a name that is never too long for an address (107 bytes): through the folder's descriptor.
fn socket_path(folder: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/sock", folder.as_raw_fd()).into()
}

fn open_folder(folder: &Path) -> Result<OwnedFd, NodeError> {
    fs::open(folder, Open::RDONLY | Open::DIRECTORY, 0).map_err(NodeError::io(format!("opening {}", folder.display())))
}

/// The process that wrote the mark, if it still is there, and its build.
fn marked(folder: &Path) -> Option<(u32, OwnedFd, String)> {
    let text = std::fs::read_to_string(folder.join("pid")).ok()?;
    let mut words = text.split_whitespace();
    let pid: u32 = words.next()?.parse().ok()?;
    let start_time: u64 = words.next()?.parse().ok()?;
    // Once the descriptor is open the pid cannot change hands: asking for the time behind it proves both.
    let pidfd = process::pidfd_open(pid).ok()?;
    let same = process::start_time(pid).is_ok_and(|found| found == start_time);
    same.then(|| (pid, pidfd, words.next().unwrap_or_default().to_owned()))
}

/// Whether an agent before this one has left a server.
pub(super) fn is_marked(folder: &Path) -> bool {
    folder.join("pid").exists()
}

impl Process {
    /// The server that is there, if it is of this build and answers. Another one is ended.
    pub fn find(folder: &Path) -> Result<Option<Self>, NodeError> {
        let Some((pid, pidfd, found)) = marked(folder) else { return Ok(None) };
        let dir = open_folder(folder)?;
        if found == build()
            && let Ok(control) = socket::connect(&socket_path(&dir))
        {
            let process = Process {
                pid,
                pidfd: pidfd.try_clone().map_err(io_error("keeping a descriptor"))?,
                child: None,
                control,
            };
            if process.tell("status").is_ok_and(|answer| answer.starts_with("ok\n")) {
                return Ok(Some(process));
            }
        }
        tracing::info!(pid, "the DNS server is of another build or does not answer: it is replaced");
        end(&pidfd, None);
        Ok(None)
    }

    /// A new server, which has read the files in the folder.
    pub fn start(folder: &Path) -> Result<Self, NodeError> {
        let dir = open_folder(folder)?;
        let path = socket_path(&dir);
        let _ = fs::unlinkat(dir.as_fd(), "sock", false);
        let listener = socket::listen(&path).map_err(io_error("listening for the DNS server"))?;
        let program =
            memfd::sealed("berth-names", PROGRAM, true).map_err(io_error("sealing the DNS server into memory"))?;
        let null = fs::open("/dev/null", Open::RDWR, 0).map_err(io_error("opening /dev/null"))?;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|e| io_error("naming the DNS server's folder")(e.into()));
        let (folder, build) = (text(folder.as_os_str().as_bytes())?, text(build().as_bytes())?);
        let streams = [listener.as_fd(), null.as_fd(), null.as_fd()];
        let child = spawn::spawn(program.as_fd(), &[c"berth-names", &folder, &build], streams)
            .map_err(io_error("starting the DNS server"))?;
        let ready = (|| {
            let control = socket::connect(&path).map_err(io_error("connecting to the DNS server"))?;
            let pidfd = child.pidfd().try_clone_to_owned().map_err(io_error("keeping a descriptor"))?;
            let process = Process { pid: child.pid(), pidfd, child: None, control };
            // The listening socket is in both: without the child's end of it nobody would hang up.
            drop(listener);
            process.tell("status").map(|_| process)
        })();
        match ready {
            Ok(mut process) => {
                process.child = Some(child);
                Ok(process)
            }
            Err(e) => {
                let _ = child.kill();
                let _ = child.reap(true);
                Err(e)
            }
        }
    }

    /// Says something and hears the answer.
    ///
    /// # Errors
    /// `Io`: it is gone, or does not answer.
    pub fn tell(&self, message: &str) -> Result<String, NodeError> {
        let failed = || NodeError::io(format!("telling the DNS server: {message}"));
        socket::send(self.control.as_fd(), &[IoSlice::new(message.as_bytes())], &[], true).map_err(failed())?;
        let deadline = process::monotonic_ms() + ANSWER_MS;
        loop {
            let mut poll = [Poll::new(self.control.as_fd(), true, false)];
            let left = deadline.saturating_sub(process::monotonic_ms());
            if left == 0 {
                return Err(failed()(io::ErrorKind::TimedOut.into()));
            }
            if process::poll(&mut poll, left as i32).map_err(failed())? > 0 {
                break;
            }
        }
        let mut buffer = vec![0; 32 << 10];
        let n = socket::receive(self.control.as_fd(), &mut buffer, &mut Vec::new(), false).map_err(failed())?;
        if n == 0 {
            return Err(failed()(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    pub fn has_ended(&self) -> bool {
        let mut poll = [Poll::new(self.pidfd.as_fd(), true, false)];
        process::poll(&mut poll, 0).is_ok_and(|n| n > 0)
    }

    /// Takes its status when it has ended, and waits for that.
    pub fn end(self) {
        end(&self.pidfd, self.child.as_ref());
    }
}

fn end(pidfd: &OwnedFd, child: Option<&Child>) {
    // Err: it has ended.
    let _ = process::pidfd_send_signal(pidfd.as_fd(), SIGKILL);
    let _ = process::poll(&mut [Poll::new(pidfd.as_fd(), true, false)], END_MS);
    if let Some(child) = child {
        let _ = child.reap(false);
    }
}
