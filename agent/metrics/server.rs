//! `GET /metrics` over HTTP/1.1: one connection, one answer. Everything about it is bounded, and without a scrape nothing moves.

use super::Metrics;
use super::page::Format;
use crate::handshakes::{Handshake, Handshakes};
use crate::peer::party;
use crate::tls::{self, TlsStore};
use berth::role::{Holder, Role};
use berth_node::Shares;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Of callers that are known: a part for each, the last of them for admins.
const CONNECTIONS: usize = 16;
/// Those of which nothing is known yet: the oldest give way to newer ones.
const UNKNOWN: usize = 32;
/// Handshake, request and answer together.
const PATIENCE: Duration = Duration::from_secs(15);
/// A request of a scraper has some hundred bytes.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
const HEADER_BYTES: usize = 8 << 10;
const HEADERS: usize = 64;

/// How callers prove who they are.
pub struct Certificates {
    pub store: Arc<TlsStore>,
    /// Takes files up that have changed.
    pub look: Arc<dyn Fn() + Send + Sync>,
}

impl Certificates {
    async fn recognise(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Holder), String> {
        (self.look)();
        let mut config = ServerConfig::clone(&self.store.config());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.map_err(|e| tls::refusal(&e))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let holder = certificate.ok_or("the client presented no certificate")?;
        let holder = Holder::from_der(holder).map_err(|e| e.to_string())?;
        Ok((stream, holder))
    }
}

pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// None: on a loopback address, for everybody on this host.
    certificates: Option<Certificates>,
    metrics: Metrics,
}

impl Server {
    /// Binds. Nothing is accepted yet.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn open(
        address: SocketAddr,
        certificates: Option<Certificates>,
        metrics: Metrics,
    ) -> std::io::Result<Server> {
        Ok(Server { listener: TcpListener::bind(address).await?, address, certificates, metrics })
    }

    /// Serves until it is dropped.
    pub async fn run(self) {
        let Server { listener, address, certificates, metrics } = self;
        let unknown = Handshakes::new(UNKNOWN);
        let door = Arc::new(Door { certificates, metrics, room: Shares::new(CONNECTIONS), turn: Mutex::new(()) });
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(under_way) = unknown.enter(peer.ip()) else { continue };
                    let door = door.clone();
                    tokio::spawn(async move {
                        match tokio::time::timeout(PATIENCE, door.serve(stream, under_way)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(why)) => tracing::debug!(%peer, "connection for metrics: {why}"),
                            Err(_) => tracing::debug!(%peer, "connection for metrics: not done within {PATIENCE:?}"),
                        }
                    });
                }
                Err(e) => crate::serve::accept_failed(&address.to_string(), &e).await,
            }
        }
    }
}

struct Door {
    certificates: Option<Certificates>,
    metrics: Metrics,
    room: Arc<Shares>,
    /// Measuring is work for a thread that may block: one at a time.
    turn: Mutex<()>,
}

impl Door {
    async fn serve(&self, stream: TcpStream, under_way: Handshake) -> Result<(), String> {
        let mut first = [0];
        // Who says nothing goes first.
        let said = tokio::select! {
            said = stream.peek(&mut first) => said,
            () = under_way.dropped() => return Err("others took its place".into()),
        };
        if said.is_ok_and(|bytes| bytes > 0) {
            under_way.heard();
        }
        let Some(certificates) = &self.certificates else {
            // Nobody is known here.
            return tokio::select! {
                spoken = self.speak(stream) => spoken,
                () = under_way.dropped() => Err("others took its place".into()),
            };
        };
        let (stream, holder) = tokio::select! {
            known = certificates.recognise(stream) => known?,
            () = under_way.dropped() => return Err("others took its place".into()),
        };
        // The least role is enough; a certificate without one is not for this agent.
        let (status, words) = match holder.role {
            Ok(role) => {
                if let Ok(_place) = self.room.enter(&party(Some(role), &holder.name), role == Role::Admin) {
                    drop(under_way);
                    return self.speak(stream).await;
                }
                (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once; try again\n")
            }
            Err(why) => {
                tracing::warn!("metrics refused: caller {}: its certificate carries no role: {why}", holder.name);
                (StatusCode::FORBIDDEN, "your certificate carries no role\n")
            }
        };
        // Who is refused has no place but this one.
        tokio::select! {
            told = refuse(stream, status, words) => told,
            () = under_way.dropped() => Err("others took its place".into()),
        }
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
        http(stream, |request: Request<Incoming>| async move { Ok::<_, Infallible>(self.answer(&request).await) }).await
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/metrics" {
            return plain(StatusCode::NOT_FOUND, "there is /metrics, and nothing else\n");
        }
        if request.method() != Method::GET {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
            return refused;
        }
        let accept: Vec<&str> = request.headers().get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
        let format = Format::accepted(&accept.join(","));
        let _turn = self.turn.lock().await;
        match self.metrics.page(format).await {
            Ok(text) => response(StatusCode::OK, format.content_type(), text.into()),
            Err(e) => {
                tracing::warn!(error = %e, "measuring for metrics");
                plain(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n")
            }
        }
    }
}

async fn refuse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    status: StatusCode,
    words: &'static str,
) -> Result<(), String> {
    http(stream, |_| async move { Ok::<_, Infallible>(plain(status, words)) }).await
}

async fn http<S, F, Fut>(stream: S, answer: F) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> Fut,
    Fut: Future<Output = Result<Response<Full<Bytes>>, Infallible>>,
{
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        // A connection that waits for the next scrape would have to be looked after.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer))
        .await
        .map_err(|e| e.to_string())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.into())
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
