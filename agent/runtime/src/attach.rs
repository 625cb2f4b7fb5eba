//! Live standard streams.

use crate::RuntimeError;
use berth_model::ExitStatus;
use berth_model::wire::{self, MAX_FRAME, Request, Response};
use berth_sys::{process, socket};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub enum Output {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// So much of a session's input has been accepted: bytes, and one more for its end.
    Fed(u64),
    /// Of a session: its last word.
    Exited(ExitStatus),
}

/// Live standard streams of a container or an exec. Dropping it (and its inputs) detaches.
pub struct Attachment {
    socket: Arc<AsyncFd<OwnedFd>>,
    ended: bool,
    session: bool,
}

impl Attachment {
    pub(crate) fn of_session(socket: OwnedFd) -> Result<Self, RuntimeError> {
        let mut attachment = Attachment::new(socket)?;
        attachment.session = true;
        Ok(attachment)
    }

    /// It outlives the agent; its last word is the exit.
    pub fn is_session(&self) -> bool {
        self.session
    }

    pub(crate) fn new(socket: OwnedFd) -> Result<Self, RuntimeError> {
        process::set_nonblocking(socket.as_fd()).map_err(RuntimeError::io("preparing the attachment's socket"))?;
        let socket = watched(socket).map_err(RuntimeError::io("watching the attachment's socket"))?;
        Ok(Attachment { socket: Arc::new(socket), ended: false, session: false })
    }

    /// None: both outputs have ended. Nothing is lost and nothing is skipped; a reader that takes nothing for 30 s is cut off by the shim
    /// (Err). Safe to drop half-way.
    pub async fn next(&mut self) -> Option<Result<Output, RuntimeError>> {
        if self.ended {
            return None;
        }
        let result = self.receive().await;
        if !matches!(result, Some(Ok(_))) || matches!(result, Some(Ok(Output::Exited(_)))) {
            self.ended = true;
        }
        result
    }

    async fn receive(&self) -> Option<Result<Output, RuntimeError>> {
        loop {
            if let Some(item) = self.receive_one().await {
                return item;
            }
        }
    }

    /// None: nothing that concerns the reader.
    async fn receive_one(&self) -> Option<Option<Result<Output, RuntimeError>>> {
        let mut buffer = vec![0; MAX_FRAME + 16];
        let received = self
            .socket
            .async_io(Interest::READABLE, |fd| socket::receive(fd.as_fd(), &mut buffer, &mut Vec::new(), false))
            .await;
        match received {
            Ok(0) => return Some(Some(Err(RuntimeError::ShimGone))),
            Ok(n) => buffer.truncate(n),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Some(Some(Err(RuntimeError::ShimGone))),
            Err(source) => return Some(Some(Err(RuntimeError::Io { act: "reading from the shim".into(), source }))),
        }
        Some(match Response::decode(&buffer) {
            Ok(Response::Stdout(_)) => Some(Ok(Output::Stdout(without_tag(buffer)))),
            Ok(Response::Stderr(_)) => Some(Ok(Output::Stderr(without_tag(buffer)))),
            Ok(Response::CutOff) => Some(Err(RuntimeError::CutOff)),
            Ok(Response::Fed(position)) => Some(Ok(Output::Fed(position))),
            Ok(Response::Exited(exited)) => Some(Ok(Output::Exited(crate::shim::status(exited, false)))),
            Ok(Response::Welcome(_)) => return None,
            Ok(Response::OutputEnd) if self.session => return None,
            Ok(_) => None,
            Err(e) => Some(Err(e.into())),
        })
    }

    /// A handle for the input side that lives in another task.
    pub fn input(&self) -> AttachInput {
        AttachInput { socket: self.socket.clone() }
    }
}

fn without_tag(mut frame: Vec<u8>) -> Vec<u8> {
    frame.drain(..1);
    frame
}

/// The input side of an attachment.
#[derive(Clone)]
pub struct AttachInput {
    socket: Arc<AsyncFd<OwnedFd>>,
}

impl AttachInput {
    /// Returns when the shim has taken all of it: a workload that does not read holds the writer back.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), RuntimeError> {
        for chunk in bytes.chunks(MAX_FRAME) {
            self.send(&[IoSlice::new(&[wire::TAG_STDIN]), IoSlice::new(chunk)]).await?;
        }
        Ok(())
    }

    /// The end of standard input.
    pub async fn close(&self) -> Result<(), RuntimeError> {
        self.send(&[IoSlice::new(&Request::StdinEnd.encode())]).await
    }

    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), RuntimeError> {
        self.send(&[IoSlice::new(&Request::Resize(rows, columns).encode())]).await
    }

    pub(crate) async fn send(&self, parts: &[IoSlice<'_>]) -> Result<(), RuntimeError> {
        let sent = self.socket.async_io(Interest::WRITABLE, |fd| socket::send(fd.as_fd(), parts, &[], false)).await;
        sent.map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => RuntimeError::ShimGone,
            _ => RuntimeError::Io { act: "writing to the shim".into(), source },
        })
    }
}

/// A socket in tokio's reactor.
#[expect(deprecated, reason = "the unsafe replacement asks for I/O safety, which an OwnedFd that stays inside has")]
pub(crate) fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(socket)
}
