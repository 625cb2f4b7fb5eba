//! The doors: listeners, handshakes, and the server behind them.
//!
//! Every connection has a known caller before the server sees it. Handshakes run in tasks of their own, bounded in
//! number and time; what fails there is logged with the peer's address and the reason.

use crate::audit::AuditLog;
use crate::config::Limits;
use crate::gate::Gate;
use crate::handshakes::{Handshake, Handshakes};
use crate::metrics::Calls;
use crate::peer::{self, Connection, Lapse, Peer};
use crate::permission::Policy;
use crate::room::Receiving;
use crate::status;
use crate::tls::{self, Reload, TlsStore};
use berth::role::{Holder, Role};
use berth_node::{Share, Shares};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;

/// Who has something to say says it at once.
const FIRST_BYTES: Duration = Duration::from_secs(2);
/// Root's own connections, beside those over TCP.
const UNIX_CONNECTIONS: usize = 256;
/// Connections for which there is no room, and which are taken for a moment to hear so; more are hung up on.
const OVER: usize = 32;
const OVER_LASTS: Duration = Duration::from_secs(2);
/// How often the certificates' files are looked at: four stat(2) calls.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A dead peer is found within two of these.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes under way per stream and connection: 1 MiB is 160 Mbit/s at 50 ms.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// HTTP/2's header list of one request; grpc's own default is 8 KiB.
const HEADER_BYTES: u32 = 16 << 10;
/// Streams that clients reset before they were taken up (CVE-2023-44487).
const PENDING_RESETS: usize = 64;
/// Streams of a connection that the agent resets because of what a client sends on them (CVE-2025-8671). tonic by itself counts none.
const CAUSED_RESETS: usize = 1024;

/// Where callers come in.
pub struct Doors {
    tcp: Vec<TcpListener>,
    unix: Option<(UnixListener, PathBuf)>,
    shared: Arc<Shared>,
}

struct Shared {
    store: Option<Arc<TlsStore>>,
    limits: Limits,
    handshakes: Arc<Handshakes>,
    connections: Arc<Shares>,
    unix_connections: Arc<Shares>,
    over: Arc<Shares>,
    /// For the end of connections whose certificate is revoked.
    live: Mutex<Vec<(Weak<Peer>, CancellationToken)>>,
    /// A connection was added to `live`.
    joined: Notify,
}

impl Doors {
    /// Binds everything. Nothing is accepted yet.
    ///
    /// # Errors
    /// With the address or path that cannot be bound.
    pub async fn open(
        addresses: &[SocketAddr],
        store: Option<Arc<TlsStore>>,
        unix: Option<&Path>,
        limits: &Limits,
    ) -> Result<Doors, DoorError> {
        let mut tcp = Vec::new();
        for address in addresses {
            let listener = TcpListener::bind(address).await;
            tcp.push(listener.map_err(|source| DoorError::Tcp { address: *address, source })?);
        }
        let unix = match unix {
            Some(path) => {
                let listener = bind_unix(path).map_err(|source| DoorError::Unix { path: path.into(), source })?;
                Some((listener, path.to_path_buf()))
            }
            None => None,
        };
        let shared = Shared {
            store,
            handshakes: Handshakes::new(limits.handshakes),
            connections: Shares::new(limits.connections),
            unix_connections: Shares::with(UNIX_CONNECTIONS, UNIX_CONNECTIONS, 0),
            over: Shares::new(OVER),
            live: Mutex::default(),
            joined: Notify::new(),
            limits: limits.clone(),
        };
        Ok(Doors { tcp, unix, shared: Arc::new(shared) })
    }

    /// What is listened on, for people.
    pub fn names(&self) -> Vec<String> {
        let tcp = self.tcp.iter().filter_map(|l| l.local_addr().ok()).map(|a| format!("tcp://{a}"));
        tcp.chain(self.unix.iter().map(|(_, path)| format!("unix://{}", path.display()))).collect()
    }

    /// Takes the certificates' files up when they have changed.
    pub fn look(&self) -> Arc<dyn Fn() + Send + Sync> {
        let shared = self.shared.clone();
        Arc::new(move || shared.look(false))
    }

    /// Serves `routes` until `stopping`, then lets calls under way end.
    pub async fn serve(
        self,
        routes: Routes,
        audit: AuditLog,
        reload: Arc<Notify>,
        stopping: CancellationToken,
        counted: Option<Arc<Calls>>,
        policy: Arc<Policy>,
    ) -> Result<(), tonic::transport::Error> {
        let limits = self.shared.limits.clone();
        let (arrivals, incoming) = mpsc::channel::<io::Result<Connection>>(16);
        for listener in self.tcp {
            let (shared, arrivals) = (self.shared.clone(), arrivals.clone());
            tokio::spawn(until(stopping.clone(), async move { accept_tls(listener, shared, arrivals).await }));
        }
        let socket = self.unix.as_ref().map(|(_, path)| path.clone());
        if let Some((listener, _)) = self.unix {
            let (shared, arrivals) = (self.shared.clone(), arrivals.clone());
            tokio::spawn(until(stopping.clone(), async move { accept_unix(listener, shared, arrivals).await }));
        }
        tokio::spawn(until(stopping.clone(), watch_files(self.shared.clone(), reload)));
        drop(arrivals);
        let activity = crate::quiet::Activity::default();
        // What the start needed is given back as well.
        activity.mark();
        tokio::spawn(until(stopping.clone(), activity.clone().watch()));
        let gate = Gate {
            audit,
            calls: Shares::new(limits.calls),
            message_bytes: limits.message_bytes,
            receiving: Arc::new(Receiving::new(limits.message_bytes)),
            answering: Arc::default(),
            patience: limits.request(),
            stopping: stopping.clone(),
            activity,
            counted,
            policy,
        };
        let served = Server::builder()
            .layer(gate)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .max_concurrent_streams(limits.streams_per_connection)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(HEADER_BYTES)
            .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
            .http2_max_local_error_reset_streams(Some(CAUSED_RESETS))
            .add_routes(routes)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopping.cancelled_owned())
            .await;
        if let Some(path) = socket {
            let _ = std::fs::remove_file(path);
        }
        served
    }
}

/// Why a door does not open.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error("listening on {address}: {source}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("listening on {path}: {source}")]
    Unix { path: PathBuf, source: io::Error },
}

/// Binds in a folder that only we can enter, and moves the socket to its place when its mode is right: there is no
/// moment in which others could connect, and an old socket is replaced in one step.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no folder"))?;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let private = folder.join(format!(".berthd-{}", std::process::id()));
    match std::fs::remove_dir_all(&private) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::DirBuilder::new().mode(0o700).create(&private)?;
    let bound = (|| {
        let socket = private.join("s");
        let listener = UnixListener::bind(&socket)?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&socket, path)?;
        Ok(listener)
    })();
    let removed = std::fs::remove_dir_all(&private);
    bound.and_then(|listener| removed.map(|()| listener))
}

async fn until(stopping: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stopping.cancelled() => {}
        () = work => {}
    }
}

/// Looks at the certificates' files now and then while somebody is connected, and when SIGHUP asks for it. Without connections every
/// handshake looks, and nothing ticks.
async fn watch_files(shared: Arc<Shared>, reload: Arc<Notify>) {
    if shared.store.is_none() {
        return std::future::pending().await;
    }
    loop {
        let forced = tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY), if shared.has_live() => false,
            () = shared.joined.notified() => continue,
            () = reload.notified() => true,
        };
        shared.look(forced);
    }
}

impl Shared {
    /// Takes the certificates' files up when they have changed (or when `forced`).
    fn look(&self, forced: bool) {
        let Some(store) = &self.store else { return };
        match store.reload(forced) {
            Ok(Reload::Unchanged) => {}
            Ok(Reload::Swapped) => {
                tracing::info!("the certificates were read again");
                self.cut_revoked();
            }
            Err(e) => tracing::error!("the certificates' files have changed and are not used: {e}"),
        }
    }

    /// Whether somebody is connected over TLS.
    fn has_live(&self) -> bool {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|(peer, _)| peer.strong_count() > 0);
        !live.is_empty()
    }

    /// Remembers a connection, so that it can be ended.
    fn register(&self, peer: &Arc<Peer>) -> CancellationToken {
        let cut = CancellationToken::new();
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.len() == live.capacity() {
            live.retain(|(peer, _)| peer.strong_count() > 0);
        }
        live.push((Arc::downgrade(peer), cut.clone()));
        self.joined.notify_one();
        cut
    }

    fn cut_revoked(&self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|(peer, cut)| match peer.upgrade() {
            Some(peer) if peer.lapse() == Some(Lapse::Revoked) => {
                tracing::warn!(%peer, caller = peer.name(), serial = peer.serial(), "connection ended: its certificate was revoked");
                cut.cancel();
                false
            }
            Some(_) => true,
            None => false,
        });
    }
}

pub async fn accept_failed(what: &str, error: &io::Error) {
    tracing::error!("accepting on {what}: {error}");
    // Out of files, mostly: it passes when connections end, and must not spin until then.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn accept_tls(listener: TcpListener, shared: Arc<Shared>, arrivals: mpsc::Sender<io::Result<Connection>>) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                accept_failed("tcp", &e).await;
                continue;
            }
        };
        // Those that were taken look at their first bytes before the next ones come: of many at once none is silent only for want of a turn.
        tokio::task::yield_now().await;
        // The log has the number of those without a place.
        let Some(under_way) = shared.handshakes.enter(address.ip()) else { continue };
        let (shared, arrivals) = (shared.clone(), arrivals.clone());
        tokio::spawn(async move {
            let patience = shared.limits.handshake();
            let arrived = tokio::select! {
                arrived = tokio::time::timeout(patience, arrive(stream, address, &shared, &under_way)) => arrived,
                // The log has their number.
                () = under_way.dropped() => return,
            };
            drop(under_way);
            match arrived {
                Ok(Ok(connection)) => drop(arrivals.send(Ok(connection)).await),
                Ok(Err(reason)) => tracing::warn!(peer = %address, "connection refused: {reason}"),
                Err(_) => tracing::warn!(peer = %address, "connection refused: no handshake within {patience:?}"),
            }
        });
    }
}

async fn arrive(
    stream: TcpStream,
    address: SocketAddr,
    shared: &Arc<Shared>,
    under_way: &Handshake,
) -> Result<Connection, String> {
    let Ok(first) = tokio::time::timeout(FIRST_BYTES, stream.peek(&mut [0])).await else {
        return Err(format!("the client said nothing for {FIRST_BYTES:?}"));
    };
    if first.is_ok_and(|bytes| bytes > 0) {
        under_way.heard();
    }
    handshake(stream, address, shared).await
}

async fn handshake(stream: TcpStream, address: SocketAddr, shared: &Arc<Shared>) -> Result<Connection, String> {
    let Some(store) = &shared.store else { return Err("there are no certificates".into()) };
    stream.set_nodelay(true).map_err(|e| format!("TCP_NODELAY: {e}"))?;
    shared.look(false);
    let accepted = TlsAcceptor::from(store.config()).accept(stream).into_fallible().await;
    let stream = match accepted {
        Ok(stream) => stream,
        Err((error, stream)) => {
            linger(stream).await;
            return Err(tls::refusal(&error));
        }
    };
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(b"h2") {
        return Err("the client does not speak HTTP/2 (ALPN h2)".into());
    }
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or("the client presented no certificate")?;
    let holder = Holder::from_der(certificate).map_err(|e| e.to_string())?;
    let (first, setting) = (holder.role == Ok(Role::Admin), Some("limits.connections"));
    let party = peer::party(holder.role.clone().ok(), &holder.name);
    let (slot, over) = room(&shared.connections, &shared.over, (&holder.name, &party), first, setting)?;
    let peer = Arc::new(Peer::Tls { address, holder, revocations: store.revocations().clone() });
    let cut = shared.register(&peer);
    // The list may have changed between the handshake and the line above.
    if peer.lapse().is_some() {
        return Err("the client's certificate was revoked".into());
    }
    Ok(told(Connection::tls(stream, peer, shared.limits.handshake(), cut, slot), over))
}

/// A place for one more connection of a caller, or one in which it hears why there is none.
fn room(
    connections: &Arc<Shares>,
    over: &Arc<Shares>,
    (caller, party): (&str, &str),
    first: bool,
    setting: Option<&str>,
) -> Result<(Share, Option<Status>), String> {
    let full = match connections.enter(party, first) {
        Ok(slot) => return Ok((slot, None)),
        Err(full) => full,
    };
    let why = status::no_connection(full, caller, setting);
    let slot = over.enter(party, first).map_err(|_| why.message().to_owned())?;
    Ok((slot, Some(why)))
}

fn told(connection: Connection, over: Option<Status>) -> Connection {
    match over {
        Some(why) => connection.over(why, OVER_LASTS),
        None => connection,
    }
}

/// Lets the client read why it was refused: a socket that is closed with unread bytes resets, and takes the TLS alert
/// with it.
async fn linger(mut stream: TcpStream) {
    const MAX_BYTES: usize = 64 << 10;
    let _ = stream.shutdown().await;
    let mut buffer = [0; 2048];
    let drain = async {
        let mut left = MAX_BYTES;
        while let Ok(n) = stream.read(&mut buffer).await {
            if n == 0 || n > left {
                break;
            }
            left -= n;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
}

async fn accept_unix(listener: UnixListener, shared: Arc<Shared>, arrivals: mpsc::Sender<io::Result<Connection>>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                accept_failed("the Unix socket", &e).await;
                continue;
            }
        };
        match recognise(stream, &shared) {
            Ok(connection) => drop(arrivals.send(Ok(connection)).await),
            Err(reason) => tracing::warn!("connection on the Unix socket refused: {reason}"),
        }
    }
}

fn recognise(stream: UnixStream, shared: &Arc<Shared>) -> Result<Connection, String> {
    let credentials = stream.peer_cred().map_err(|e| format!("SO_PEERCRED: {e}"))?;
    if credentials.uid() != 0 {
        return Err(format!("uid {} is not root", credentials.uid()));
    }
    let (slot, over) = room(&shared.unix_connections, &shared.over, ("root", "root"), true, None)?;
    let peer = Arc::new(Peer::Unix { uid: credentials.uid(), pid: credentials.pid() });
    let cut = CancellationToken::new();
    Ok(told(Connection::unix(stream, peer, shared.limits.handshake(), cut, slot), over))
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
