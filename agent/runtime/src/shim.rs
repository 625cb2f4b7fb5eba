//! The agent's end of a shim.

use crate::attach::{Attachment, watched};
use crate::cgroup::Cgroups;
use crate::launch::end;
use crate::{AttachOptions, ContainerPaths, RuntimeError, session};
use berth_model::wire::{Exited, Request, Response, Started};
use berth_model::{ContainerId, ExitStatus, Timestamp};
use berth_sys::fs::Open;
use berth_sys::process::Child;
use berth_sys::{fs, process, socket};
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

/// A new agent's shim answers at once; what takes longer is stuck or stopped.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
enum Ending {
    Running,
    Ended(ExitStatus),
    Gone,
}

/// The agent's end of a shim: cheap to clone. Dropping all of them leaves shim and container alone.
#[derive(Clone)]
pub struct Shim {
    inner: Arc<Inner>,
}

struct Inner {
    started: Started,
    /// None: an exec, whose shim listens nowhere.
    run: Option<PathBuf>,
    control: Arc<AsyncFd<OwnedFd>>,
    ending: watch::Receiver<Ending>,
    /// Its drop tells the watcher that nobody wants to know any more: the shim sees its connection close and goes on alone.
    _wanted: oneshot::Sender<Infallible>,
}

/// Whose end is watched.
pub(crate) struct Watched {
    pub id: ContainerId,
    pub cgroups: Arc<dyn Cgroups>,
    pub run: Option<PathBuf>,
    /// Ours to reap.
    pub child: Option<Child>,
}

impl Shim {
    pub(crate) fn new(control: OwnedFd, started: Started, of: Watched) -> Result<Self, RuntimeError> {
        let prepared = process::set_nonblocking(control.as_fd()).and_then(|()| watched(control));
        let control = prepared.map(Arc::new).map_err(|e| {
            of.child.as_ref().inspect(|child| end(child));
            RuntimeError::io("watching the shim's socket")(e)
        })?;
        let (tell, ending) = watch::channel(Ending::Running);
        let (_wanted, unwanted) = oneshot::channel();
        let run = of.run.clone();
        tokio::spawn(watch(control.clone(), tell, of, unwanted));
        Ok(Shim { inner: Arc::new(Inner { started, run, control, ending, _wanted }) })
    }

    /// Process 1 of the container, in the host's pid namespace, and its start time (/proc/PID/stat field 22).
    pub fn pid(&self) -> (u32, u64) {
        (self.inner.started.pid, self.inner.started.start_time)
    }

    pub fn shim_pid(&self) -> (u32, u64) {
        (self.inner.started.shim_pid, self.inner.started.shim_start_time)
    }

    /// Resolves when the container has ended (many may wait). Err: the shim died without a word and left no exit file.
    pub async fn wait(&self) -> Result<ExitStatus, RuntimeError> {
        let mut ending = self.inner.ending.clone();
        let ended = ending.wait_for(|e| !matches!(e, Ending::Running)).await.map_err(|_| RuntimeError::ShimGone)?;
        match &*ended {
            Ending::Ended(status) => Ok(status.clone()),
            _ => Err(RuntimeError::ShimGone),
        }
    }

    /// Tells the shim that its exit status is safe in the store: it may go.
    pub async fn release(&self) {
        // A shim that is gone needs no release.
        let _ = self.tell(&Request::Release).await;
    }

    async fn tell(&self, request: &Request<'_>) -> Result<(), RuntimeError> {
        let message = request.encode();
        let parts = [IoSlice::new(&message)];
        let send = |fd: &OwnedFd| socket::send(fd.as_fd(), &parts, &[], false);
        self.inner.control.async_io(Interest::WRITABLE, send).await.map_err(|_| RuntimeError::ShimGone)
    }

    /// Through the pidfd: never hits another process.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        let (pid, start_time) = self.pid();
        let pidfd = open_process(pid, start_time)?;
        process::pidfd_send_signal(pidfd.as_fd(), signal).map_err(|source| match source.raw_os_error() {
            Some(ESRCH) => RuntimeError::NotRunning,
            _ => RuntimeError::Io { act: format!("sending signal {signal} to process {pid}"), source },
        })
    }

    pub async fn attach(&self, options: AttachOptions) -> Result<Attachment, RuntimeError> {
        let run = self.inner.run.as_deref().ok_or(RuntimeError::NotRunning)?;
        let Some(socket) = connect(run)? else { return Err(RuntimeError::ShimGone) };
        if let Some(new) = &options.session {
            session::begin(&socket, options.stdin, new)?;
            if let Some((socket, _)) = session::welcome(socket).await? {
                return with_size(Attachment::of_session(socket)?, options.size).await;
            }
            // A shim of an older build: what it gives ends with this agent.
            let _ = session::forget(&new.folder, &new.name);
            let plain = AttachOptions { session: None, ..options };
            return Box::pin(self.attach(plain)).await;
        }
        let hello = Request::Attach(options.stdin).encode();
        socket::send(socket.as_fd(), &[IoSlice::new(&hello)], &[], true).map_err(RuntimeError::io("attaching"))?;
        with_size(Attachment::new(socket)?, options.size).await
    }

    /// Nobody is to come back to what runs: its sessions end, and the shim may go with it.
    pub async fn abandon(&self) {
        // A shim that is gone, or of a build that knows no sessions, has nobody to forget.
        let _ = self.tell(&Request::Abandon).await;
    }

    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), RuntimeError> {
        self.tell(&Request::Resize(rows, columns)).await
    }
}

async fn with_size(attachment: Attachment, size: Option<(u16, u16)>) -> Result<Attachment, RuntimeError> {
    if let Some((rows, columns)) = size {
        attachment.input().resize(rows, columns).await?;
    }
    Ok(attachment)
}

const ESRCH: i32 = 3;

/// Opens a process by pid and start time: once the descriptor is open the pid cannot change hands, so asking for the time behind it
/// proves both.
pub(crate) fn open_process(pid: u32, start_time: u64) -> Result<OwnedFd, RuntimeError> {
    let pidfd = process::pidfd_open(pid).map_err(|_| RuntimeError::NotRunning)?;
    match process::start_time(pid) {
        Ok(found) if found == start_time => Ok(pidfd),
        _ => Err(RuntimeError::NotRunning),
    }
}

/// One task per shim: it hears the end, and takes the shim's own status when it goes, which it does also when nobody listens any more.
async fn watch(
    control: Arc<AsyncFd<OwnedFd>>,
    tell: watch::Sender<Ending>,
    mut watched: Watched,
    unwanted: oneshot::Receiver<Infallible>,
) {
    let child = watched.child.take();
    tokio::select! {
        () = hear(&control, &tell, &watched) => {}
        _ = unwanted => {}
    }
    drop(control);
    if let Some(child) = child
        && let Err(e) = reap(&child).await
    {
        tracing::warn!(pid = child.pid(), error = %e, "taking the status of a shim");
    }
}

/// Until the shim has gone.
async fn hear(control: &AsyncFd<OwnedFd>, tell: &watch::Sender<Ending>, watched: &Watched) {
    let mut ended = false;
    loop {
        let mut buffer = [0; 64];
        let received = control
            .async_io(Interest::READABLE, |fd| socket::receive(fd.as_fd(), &mut buffer, &mut Vec::new(), false))
            .await;
        let n = match received {
            Ok(n) if n > 0 => n,
            _ => break,
        };
        if let Ok(Response::Exited(exited)) = Response::decode(&buffer[..n]) {
            let oom_killed = watched.run.is_some() && watched.cgroups.oom_killed(&watched.id);
            let _ = tell.send(Ending::Ended(status(exited, oom_killed)));
            ended = true;
            if watched.run.is_none() {
                // An exec's status is nowhere but here.
                let release = Request::Release.encode();
                let _ = socket::send(control.get_ref().as_fd(), &[IoSlice::new(&release)], &[], false);
            }
        }
    }
    if !ended {
        let left = watched.run.as_deref().and_then(|run| read_exit(run).ok().flatten());
        let _ = tell.send(left.map_or(Ending::Gone, |mut status| {
            status.oom_killed = watched.cgroups.oom_killed(&watched.id);
            Ending::Ended(status)
        }));
    }
}

/// A shim that closed its socket is a moment away from its end; one that nobody wants to hear ends with its container.
async fn reap(child: &Child) -> io::Result<()> {
    if child.reap(false)? {
        return Ok(());
    }
    let pidfd = crate::attach::watched(child.pidfd().try_clone_to_owned()?)?;
    while !child.reap(false)? {
        pidfd.readable().await?.clear_ready();
    }
    Ok(())
}

pub(crate) fn status(exited: Exited, oom_killed: bool) -> ExitStatus {
    ExitStatus {
        code: exited.code,
        signal: Some(exited.signal).filter(|s| *s != 0),
        oom_killed,
        finished: Timestamp(exited.time),
        ..ExitStatus::default()
    }
}

pub(crate) fn read_exit(run: &Path) -> Result<Option<ExitStatus>, RuntimeError> {
    let path = run.join("exit");
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(status(Exited::decode(&bytes)?, false))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RuntimeError::Io { act: format!("reading {}", path.display()), source }),
    }
}

/// The shim's socket under a name that is never too long for an address (107 bytes): through the folder's descriptor.
pub(crate) fn socket_path(run: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/shim.sock", run.as_raw_fd()).into()
}

/// None: nobody listens there.
fn connect(run: &Path) -> Result<Option<OwnedFd>, RuntimeError> {
    let folder = match fs::open(run, Open::PATH | Open::DIRECTORY, 0) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(RuntimeError::io(format!("opening {}", run.display())))?,
    };
    match socket::connect(&socket_path(&folder)) {
        Ok(socket) => Ok(Some(socket)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(source) => Err(RuntimeError::Io { act: format!("connecting to the shim in {}", run.display()), source }),
    }
}

pub(crate) async fn reconnect(
    paths: &ContainerPaths,
    id: &ContainerId,
    cgroups: Arc<dyn Cgroups>,
) -> Result<Option<Shim>, RuntimeError> {
    let Some(control) = connect(&paths.run)? else { return Ok(None) };
    let hello = Request::Control.encode();
    if socket::send(control.as_fd(), &[IoSlice::new(&hello)], &[], true).is_err() {
        return Ok(None);
    }
    process::set_nonblocking(control.as_fd()).map_err(RuntimeError::io("preparing the shim's socket"))?;
    let control = watched(control).map_err(RuntimeError::io("watching the shim's socket"))?;
    let mut buffer = [0; 64];
    let answer =
        control.async_io(Interest::READABLE, |fd| socket::receive(fd.as_fd(), &mut buffer, &mut Vec::new(), false));
    let n = match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(n)) if n > 0 => n,
        Ok(_) => return Ok(None),
        Err(_) => {
            let act = format!("waiting for an answer of the shim in {}", paths.run.display());
            return Err(RuntimeError::Io { act, source: io::ErrorKind::TimedOut.into() });
        }
    };
    let Response::Started(started) = Response::decode(&buffer[..n])? else { return Err(RuntimeError::ShimGone) };
    let of = Watched { id: id.clone(), cgroups, run: Some(paths.run.clone()), child: None };
    Shim::new(control.into_inner(), started, of).map(Some)
}

/// A running exec.
pub struct Exec {
    pub pid: u32,
    /// None: detached.
    pub attachment: Option<Attachment>,
    pub(crate) shim: Shim,
}

impl Exec {
    pub async fn wait(&self) -> Result<ExitStatus, RuntimeError> {
        self.shim.wait().await
    }

    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.shim.signal(signal)
    }
}
