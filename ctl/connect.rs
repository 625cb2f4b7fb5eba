//! From a host to a gRPC channel: TCP or Unix socket, TLS 1.3 with a client certificate, HTTP/2.
//!
//! The connection is made before the first call, so that what goes wrong is said as what it is: no such name, nobody there, a certificate
//! that does not fit. An agent's refusal of *our* certificate comes later (TLS 1.3 ends the client's part of the handshake first); the
//! stream notes it when it is read, and [`Connection::error`] tells it instead of "transport error".

use crate::config::{Endpoint, Host, TlsFiles};
use crate::error::{Error, FAILED_ITSELF, Result, io_words};
use crate::pki::files;
use crate::status;
use berth::v1::containers_client::ContainersClient;
use berth::v1::files_client::FilesClient;
use berth::v1::images_client::ImagesClient;
use berth::v1::node_client::NodeClient;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A host that is there answers within this, handshake counted; one that is not should not hold up the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For calls that answer once and at once.
pub const UNARY_TIMEOUT: Duration = Duration::from_secs(30);
/// An interrupted call is tried again for so long; its request id, cursor or session makes the tries one.
const RESUME: Duration = Duration::from_secs(30);
/// The caller is told when it takes longer than this.
const TELL: Duration = Duration::from_secs(2);
/// Before the second try; longer before each further one. An agent restarts in less than the first few together.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// Flow-control windows: one stream of output fills a gigabit at 8 ms of round trip.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// An inspect with a large label set still fits.
const MAX_MESSAGE: usize = 16 << 20;

/// Why the agent ended the TLS session, when it did.
type Refusal = Arc<Mutex<Option<rustls::Error>>>;

/// A channel to one host.
#[derive(Clone, Debug)]
pub struct Connection {
    pub label: String,
    channel: Channel,
    refusal: Refusal,
    tls: bool,
    /// The caller's `--deadline`.
    deadline: Option<Duration>,
}

impl Connection {
    /// Connects to a host. `deadline` is the caller's, for every call.
    pub async fn open(host: &Host, deadline: Option<Duration>) -> Result<Connection> {
        let refusal = Refusal::default();
        let dialer = Dialer::new(host, refusal.clone())?;
        let first =
            match tokio::time::timeout(deadline.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT), dialer.dial()).await {
                Ok(io) => io?,
                Err(_) => {
                    return Err(Error::new(format!(
                        "no connection to {} within {} s",
                        dialer.shown,
                        CONNECT_TIMEOUT.as_secs()
                    ))
                    .hint("is the host up, and is the port open in its firewall?"));
                }
            };
        let tls = dialer.tls.is_some();
        let mut first = Some(first);
        let dialer = Arc::new(dialer);
        let connector = tower::service_fn(move |_| {
            let (made, dialer) = (first.take(), dialer.clone());
            async move {
                let io = match made {
                    Some(io) => io,
                    // An agent that comes back answers; a host that does not must not hold the next try up.
                    None => match tokio::time::timeout(CONNECT_TIMEOUT, dialer.dial()).await {
                        Ok(io) => io?,
                        Err(_) => return Err(Error::new(format!("no answer from {}", dialer.shown))),
                    },
                };
                Ok::<_, Error>(TokioIo::new(io))
            }
        });
        let channel = tonic::transport::Endpoint::from_static("http://berth")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .user_agent(concat!("berthctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|e| Error::new(e.to_string()))?
            .connect_with_connector(connector)
            .await
            .map_err(|e| Error::new(format!("starting HTTP/2 with {}: {e}", host.label)))?;
        Ok(Connection { label: host.label.clone(), channel, refusal, tls, deadline })
    }

    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// A request with the caller's deadline, else the one that is usual for it.
    pub fn request<T>(&self, message: T, usual: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.deadline.or(usual) {
            request.set_timeout(timeout);
        }
        request
    }

    /// Repeats a call that ended before any answer, for as long as that can help.
    pub async fn retry<T, F, Fut>(&self, mut call: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let mut patience = Patience::default();
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(status) => patience.wait(self, &status).await?,
            }
        }
    }

    /// The connection broke or the agent is on its way out; a refused certificate or a registry that is away does not mend in a second.
    fn worth_repeating(&self, status: &Status) -> bool {
        use tonic_types::StatusExt;
        let stopping = || status.get_details_error_info().is_some_and(|i| i.reason == "AGENT_STOPPING");
        self.refusal.lock().is_ok_and(|r| r.is_none()) && (status::broken(status) || stopping())
    }

    /// What a failed call means, for people.
    pub fn error(&self, status: &Status) -> Error {
        if let Ok(refusal) = self.refusal.lock()
            && let Some(refused) = &*refusal
        {
            return tls_error(&self.label, refused, None);
        }
        status::error(status, &self.label, self.tls, self.deadline)
    }
}

/// How long a call was in vain.
#[derive(Debug, Default)]
pub struct Patience {
    since: Option<Instant>,
    pause: Duration,
    told: bool,
}

impl Patience {
    /// It works again.
    pub fn rest(&mut self) {
        if self.told {
            talk("going on");
        }
        *self = Patience::default();
    }

    /// As [`Patience::wait`], for a call that may last: an agent that took it and went again has used up no patience.
    pub async fn wait_long(&mut self, connection: &Connection, status: &Status) -> Result<()> {
        if status::broken(status) && !connection.error(status).message.contains("connecting to") {
            self.since = None;
        }
        self.wait(connection, status).await
    }

    /// Waits a moment before the next try.
    ///
    /// # Errors
    /// What the status says, when another try does not help, or there were enough.
    pub async fn wait(&mut self, connection: &Connection, status: &Status) -> Result<()> {
        if !connection.worth_repeating(status) {
            return Err(connection.error(status));
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let limit = connection.deadline.unwrap_or(RESUME).min(RESUME);
        if since.elapsed() >= limit {
            let mut error = connection.error(status);
            error.message = format!("{} (tried again for {} s)", error.message, limit.as_secs());
            error.exit = Some(FAILED_ITSELF);
            return Err(error);
        }
        if !self.told && since.elapsed() >= TELL {
            let left = limit.saturating_sub(since.elapsed()).as_secs();
            talk(&format!("{} does not answer; trying for {left} s more", connection.label));
            self.told = true;
        }
        self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}

/// To stderr, which may be a terminal that is raw just now.
fn talk(text: &str) {
    let end = if crate::term::stderr_is_terminal() { "\r\n" } else { "\n" };
    anstream::eprint!("{text}{end}");
}

/// Makes connections to one host.
struct Dialer {
    endpoint: Endpoint,
    shown: String,
    tls: Option<(tokio_rustls::TlsConnector, ServerName<'static>, TlsFiles)>,
    refusal: Refusal,
}

impl Dialer {
    fn new(host: &Host, refusal: Refusal) -> Result<Dialer> {
        let shown = match &host.endpoint {
            Endpoint::Unix(path) => path.display().to_string(),
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        };
        let tls = match (&host.endpoint, &host.tls) {
            (Endpoint::Tcp { host, .. }, Some(files)) => {
                let name = files.server_name.as_ref().unwrap_or(host);
                let name = ServerName::try_from(name.clone())
                    .map_err(|_| Error::usage(format!("{name:?} is no host name that a certificate can be for")))?;
                Some((client_config(files)?.into(), name, files.clone()))
            }
            _ => None,
        };
        Ok(Dialer { endpoint: host.endpoint.clone(), shown, tls, refusal })
    }

    async fn dial(&self) -> Result<Io> {
        match &self.endpoint {
            Endpoint::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Io::Unix(stream)),
                Err(e) => Err(self.unix_error(&e)),
            },
            Endpoint::Tcp { host, port } => {
                let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| self.tcp_error(&e))?;
                _ = tcp.set_nodelay(true);
                let Some((connector, name, files)) = &self.tls else {
                    return Err(Error::new(format!("{} has no certificates", self.shown)));
                };
                match connector.connect(name.clone(), tcp).await {
                    Ok(stream) => Ok(Io::Tls(Box::new(stream), self.refusal.clone())),
                    Err(e) => Err(match rustls_error(&e) {
                        Some(tls) => tls_error(&self.shown, tls, Some((name, files))),
                        None => Error::new(format!("the TLS handshake with {} broke: {}", self.shown, io_words(&e)))
                            .hint("does berthd listen there?"),
                    }),
                }
            }
        }
    }

    fn unix_error(&self, e: &io::Error) -> Error {
        let error = Error::new(format!("connecting to berthd at {}: {}", self.shown, io_words(e)));
        match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => error
                .hint("is berthd running on this machine? For another one: -H HOST:7443, or berthctl context create"),
            io::ErrorKind::PermissionDenied => {
                error.hint("only root may use the local socket; others call over TLS with a certificate")
            }
            _ => error,
        }
    }

    fn tcp_error(&self, e: &io::Error) -> Error {
        let error = Error::new(format!("connecting to {}: {}", self.shown, io_words(e)));
        match e.kind() {
            io::ErrorKind::ConnectionRefused => {
                error.hint("nothing listens there: is berthd running, and is it the right port?")
            }
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                error.hint("is the host up, and is the port open in its firewall?")
            }
            _ if e.to_string().contains("lookup") => {
                error.hint("is the name right? berthctl context ls shows the known hosts")
            }
            _ => error,
        }
    }
}

fn rustls_error(e: &io::Error) -> Option<&rustls::Error> {
    e.get_ref()?.downcast_ref()
}

/// TLS 1.3 with one root and our certificate; no session tickets, for a process makes one connection.
fn client_config(files: &TlsFiles) -> Result<Arc<rustls::ClientConfig>> {
    let pem = |path: &Path, key: bool| {
        let read = if key { files::read_key(path) } else { files::read_text(path) };
        read.map_err(|e| {
            if e.hint.is_some() {
                return e;
            }
            e.hint("berthctl pki issue client makes certificates; berthctl context create names them for a host")
        })
    };
    let certs = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let found: Vec<_> = CertificateDer::pem_slice_iter(pem(path, false)?.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| Error::new(format!("{} is no PEM file with certificates: {e}", path.display())))?;
        if found.is_empty() {
            return Err(Error::new(format!("{} holds no certificate", path.display())));
        }
        Ok(found)
    };
    let mut roots = rustls::RootCertStore::empty();
    for cert in certs(&files.ca)? {
        roots.add(cert).map_err(|e| Error::new(format!("{} is no CA certificate: {e}", files.ca.display())))?;
    }
    let key = PrivateKeyDer::from_pem_slice(pem(&files.key, true)?.as_bytes())
        .map_err(|e| Error::new(format!("{} holds no private key: {e}", files.key.display())))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::new(format!("TLS: {e}")))?
        .with_root_certificates(roots)
        .with_client_auth_cert(certs(&files.cert)?, key)
        .map_err(|e| {
            Error::new(format!("{} and {} do not go together: {e}", files.cert.display(), files.key.display()))
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// A TLS failure in words. `ours` is present while the handshake is ours to judge.
fn tls_error(host: &str, error: &rustls::Error, ours: Option<(&ServerName<'_>, &TlsFiles)>) -> Error {
    use rustls::{AlertDescription as Alert, CertificateError as Cert, Error as Tls};
    let name = ours.map(|(n, _)| n.to_str().into_owned()).unwrap_or_default();
    let ca = ours.map(|(_, f)| f.ca.display().to_string()).unwrap_or_default();
    let renew = "berthctl pki issue client makes a new one; berthctl pki show FILE tells what one says";
    match error {
        Tls::InvalidCertificate(why) => match why {
            Cert::Expired | Cert::ExpiredContext { .. } => Error::new(format!("the certificate of {host} has expired"))
                .hint("issue a new one for the agent: berthctl pki issue agent NAME --force"),
            Cert::NotValidYet | Cert::NotValidYetContext { .. } => {
                Error::new(format!("the certificate of {host} is not valid yet"))
                    .hint("are the clocks of both machines right?")
            }
            Cert::UnknownIssuer | Cert::BadSignature => {
                Error::new(format!("the certificate of {host} is not from the authority in {ca}"))
                    .hint("is this the right host, and its authority's ca.pem?")
            }
            Cert::NotValidForName | Cert::NotValidForNameContext { .. } => {
                Error::new(format!("the certificate of {host} is not for the name {name}"))
                    .hint("set the context's server_name, or issue the agent's certificate with --san")
            }
            Cert::Revoked => Error::new(format!("the certificate of {host} was revoked")),
            Cert::InvalidPurpose | Cert::InvalidPurposeContext { .. } => {
                Error::new(format!("the certificate of {host} is not one of a server"))
                    .hint("berthctl pki issue agent makes one that is")
            }
            other => Error::new(format!("the certificate of {host} is no good: {other}")),
        },
        Tls::AlertReceived(alert) => {
            let refused = |why: &str| Error::new(format!("{host} refused this certificate: {why}"));
            match alert {
                Alert::CertificateExpired => refused("it has expired, or is not valid yet").hint(renew),
                Alert::CertificateRevoked => refused("it was revoked").hint(renew),
                // Authorities of one name and different keys: the agent finds its own one's signature wrong.
                Alert::UnknownCA | Alert::DecryptError => {
                    refused("it is from an authority that the agent does not know")
                        .hint("the agent's configuration names its authority; use a certificate from that one")
                }
                Alert::CertificateRequired | Alert::NoCertificate => refused("none was sent"),
                Alert::BadCertificate | Alert::CertificateUnknown => refused("the agent found it wrong").hint(renew),
                Alert::UnsupportedCertificate => refused("it is not one of a client").hint(renew),
                Alert::AccessDenied => {
                    refused("access denied").hint("its subject must have exactly one O = berth:ROLE")
                }
                Alert::ProtocolVersion => Error::new(format!("{host} does not speak TLS 1.3")),
                other => Error::new(format!("{host} ended the TLS handshake: {other:?}")),
            }
        }
        Tls::InvalidMessage(_) => {
            Error::new(format!("{host} does not speak TLS")).hint("is it berthd's port? By default it is 7443")
        }
        Tls::NoApplicationProtocol => Error::new(format!("{host} does not speak HTTP/2")),
        other => Error::new(format!("TLS with {host}: {other}")),
    }
}

/// The byte stream below HTTP/2.
enum Io {
    Unix(UnixStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>, Refusal),
}

/// Keeps an alert of the agent before h2 turns it into text.
fn note<T>(poll: Poll<io::Result<T>>, refusal: &Refusal) -> Poll<io::Result<T>> {
    if let Poll::Ready(Err(e)) = &poll
        && let Some(tls @ rustls::Error::AlertReceived(_)) = rustls_error(e)
        && let Ok(mut slot) = refusal.lock()
    {
        *slot = Some(tls.clone());
    }
    poll
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Io::Tls(s, refusal) => note(Pin::new(s).poll_read(cx, buf), refusal),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Io::Tls(s, refusal) => note(Pin::new(s).poll_write(cx, buf), refusal),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Unix(s) => Pin::new(s).poll_flush(cx),
            Io::Tls(s, refusal) => note(Pin::new(s).poll_flush(cx), refusal),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Io::Tls(s, _) => Pin::new(s).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Io::Tls(s, refusal) => note(Pin::new(s).poll_write_vectored(cx, bufs), refusal),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Unix(s) => s.is_write_vectored(),
            Io::Tls(s, _) => s.is_write_vectored(),
        }
    }
}

/// A random name for one mutation, so that repeating it does it once.
pub fn request_id() -> Result<String> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::new("the system gives no random bytes"))?;
    Ok(crate::pki::read::hex(&bytes))
}
