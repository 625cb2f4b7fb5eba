//! Who is at the other end of a connection, and the connection itself as tonic takes it.

use crate::tls::Revocations;
use berth::role::{Holder, Role, RoleError, UID_PREFIX};
use berth_node::Share;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::transport::server::Connected;

/// Where a caller came in, and what proved who it is.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Mutual TLS.
    Tls { address: SocketAddr, holder: Holder, revocations: Revocations },
    /// The Unix socket; root only.
    Unix { uid: u32, pid: Option<i32> },
}

/// Why a caller that was let in may not call any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lapse {
    Revoked,
    Expired,
}

/// Who has a part of what there is for all callers: one name with certificates of two roles is two, so that nobody takes an admin's by being called
/// the same.
pub fn party(role: Option<Role>, name: &str) -> String {
    format!("{} {name}", role.map_or("none", Role::name))
}

impl Peer {
    /// The caller's name: the certificate's CN, or `uid:0`.
    pub fn name(&self) -> String {
        match self {
            Peer::Tls { holder, .. } => holder.name.clone(),
            Peer::Unix { uid, .. } => format!("{UID_PREFIX}{uid}"),
        }
    }

    pub fn role(&self) -> Result<Role, RoleError> {
        match self {
            Peer::Tls { holder, .. } => holder.role.clone(),
            // Others were turned away when they connected.
            Peer::Unix { .. } => Ok(Role::Admin),
        }
    }

    /// Serial number of the certificate; empty: there is none.
    pub fn serial(&self) -> &str {
        match self {
            Peer::Tls { holder, .. } => &holder.serial,
            Peer::Unix { .. } => "",
        }
    }

    /// Is the certificate still good? TLS looked once, when the connection began.
    pub fn lapse(&self) -> Option<Lapse> {
        let Peer::Tls { holder, revocations, .. } = self else { return None };
        if revocations.contain(&holder.issuer, &holder.serial) {
            return Some(Lapse::Revoked);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        (i64::try_from(now).unwrap_or(i64::MAX) > holder.not_after).then_some(Lapse::Expired)
    }
}

/// Address and port, or `unix` with the process: for the audit log.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tls { address, .. } => write!(f, "{address}"),
            Peer::Unix { pid: Some(pid), .. } => write!(f, "unix:pid={pid}"),
            Peer::Unix { pid: None, .. } => f.write_str("unix"),
        }
    }
}

enum Wire {
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// A connection whose peer is known.
pub struct Connection {
    wire: Wire,
    peer: Arc<Peer>,
    /// Runs out when nothing comes: an authenticated client that says nothing holds a connection for ever otherwise.
    first_bytes: Option<Pin<Box<Sleep>>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    over: Option<Over>,
    _slot: Share,
}

/// There is no room for the connection: it is kept for a moment, in which every call hears why.
struct Over {
    why: Arc<Status>,
    ends: Pin<Box<Sleep>>,
}

impl Connection {
    /// Answers every call with `why`, and ends behind `lasts`.
    pub fn over(self, why: Status, lasts: Duration) -> Self {
        tracing::warn!(peer = %self.peer, "connection refused: {}", why.message());
        let over = Over { why: Arc::new(why), ends: Box::pin(tokio::time::sleep(lasts)) };
        Connection { over: Some(over), ..self }
    }

    /// `cut` ends the connection at once; `slot` is given back when it has ended.
    pub fn tls(
        stream: TlsStream<TcpStream>,
        peer: Arc<Peer>,
        patience: Duration,
        cut: CancellationToken,
        slot: Share,
    ) -> Self {
        Connection::new(Wire::Tls(Box::new(stream)), peer, patience, cut, slot)
    }

    pub fn unix(stream: UnixStream, peer: Arc<Peer>, patience: Duration, cut: CancellationToken, slot: Share) -> Self {
        Connection::new(Wire::Unix(stream), peer, patience, cut, slot)
    }

    fn new(wire: Wire, peer: Arc<Peer>, patience: Duration, cut: CancellationToken, slot: Share) -> Self {
        Connection {
            wire,
            peer,
            first_bytes: Some(Box::pin(tokio::time::sleep(patience))),
            cut: Box::pin(cut.cancelled_owned()),
            over: None,
            _slot: slot,
        }
    }
}

/// What every request finds in its extensions.
#[derive(Clone)]
pub struct PeerInfo {
    pub peer: Arc<Peer>,
    /// There was no room for the connection: why.
    pub over: Option<Arc<Status>>,
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;
    fn connect_info(&self) -> PeerInfo {
        PeerInfo { peer: self.peer.clone(), over: self.over.as_ref().map(|over| over.why.clone()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the certificate was revoked")));
        }
        if this.over.as_mut().is_some_and(|over| over.ends.as_mut().poll(cx).is_ready()) {
            // The end of the stream: what was answered goes out before the connection is closed.
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = match &mut this.wire {
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Wire::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if let Some(timer) = &mut this.first_bytes {
            if read.is_ready() && buf.filled().len() > before {
                this.first_bytes = None;
            } else if read.is_pending() && timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was sent")));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().wire {
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
            Wire::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().wire {
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
            Wire::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Tls(stream) => stream.is_write_vectored(),
            Wire::Unix(stream) => stream.is_write_vectored(),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Wire::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Wire::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
