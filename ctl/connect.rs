//! From a host to a gRPC channel: TCP or Unix socket, TLS 1.3 with a client certificate, HTTP/2.
//!
//! The connection is made before the first call, so that what goes wrong is said as what it is: no such name, nobody there, a certificate
//! that does not fit. An agent's refusal of *our* certificate comes later (TLS 1.3 ends the client's part of the handshake first); the
//! stream notes it when it is read, and [`Connection::error`] tells it instead of "transport error".

use crate::config::{Endpoint, Host, TlsFiles};
use crate::error::{Error, FAILED_ITSELF, Result, io_words};
use crate::pki::files;
use crate::status;
use berth::trace::{TRACEPARENT, TraceParent};
use berth::v1::containers_client::ContainersClient;
use berth::v1::files_client::FilesClient;
use berth::v1::images_client::ImagesClient;
use berth::v1::networks_client::NetworksClient;
use berth::v1::node_client::NodeClient;
use berth::v1::volumes_client::VolumesClient;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// A host that is there answers within this, handshake counted; one that is not should not hold up the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For calls that answer once and at once.
pub const UNARY_TIMEOUT: Duration = Duration::from_secs(30);
/// An interrupted call is tried again for so long; its request id, cursor or session makes the tries one.
const RESUME: Duration = Duration::from_secs(30);
/// The caller is told when it takes longer than this.
const TELL: Duration = Duration::from_secs(2);
/// A first connection that is refused, or breaks before anything was asked, is made again for so long: an agent that restarts is back by
/// then, and who calls a host without one waits no longer.
const DOOR: Duration = Duration::from_secs(2);
/// Between two tries of that.
const KNOCK: Duration = Duration::from_millis(40);
/// Before the second try; longer before each further one. An agent restarts in less than the first few together.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// Flow-control windows: one stream of output fills a gigabit at 8 ms of round trip.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// An inspect with a large label set still fits.
const MAX_MESSAGE: usize = 16 << 20;

type Traced = tonic::metadata::MetadataValue<tonic::metadata::Ascii>;

/// Why the agent ended the TLS session, when it did.
type Refusal = Arc<Mutex<Option<rustls::Error>>>;

/// A channel to one host.
#[derive(Clone, Debug)]
pub struct Connection {
    pub label: String,
    channel: Channel,
    refusal: Refusal,
    tls: bool,
    /// The connector's last try was in vain.
    shut: Arc<AtomicBool>,
    limits: Limits,
}

/// How long the caller waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// `--deadline`: for every call.
    pub deadline: Option<Duration>,
    /// `BERTH_RECONNECT`: for an agent that is away, before the first call as in the middle of one.
    pub reconnect: Option<Duration>,
}

impl Limits {
    /// How long something that usually takes `usual` is tried again.
    fn patience(self, usual: Duration) -> Duration {
        self.reconnect.unwrap_or(usual).min(self.deadline.unwrap_or(Duration::MAX))
    }
}

/// No connection came about.
struct Failed {
    error: Error,
    /// Another try may help: nobody listened just now, or somebody hung up without a word.
    passing: bool,
}

impl Failed {
    fn for_good(error: Error) -> Failed {
        Failed { error, passing: false }
    }
}

impl Connection {
    /// Connects to a host.
    pub async fn open(host: &Host, limits: Limits) -> Result<Connection> {
        let refusal = Refusal::default();
        let dialer = Arc::new(Dialer::new(host, refusal.clone())?);
        let (begun, limit) = (Instant::now(), limits.patience(DOOR));
        let mut told = false;
        loop {
            let failed = match Connection::try_open(host, limits, &dialer).await {
                Ok(connection) => return Ok(connection),
                Err(failed) => failed,
            };
            if !failed.passing || begun.elapsed() >= limit {
                return Err(failed.error);
            }
            if !told && begun.elapsed() >= TELL {
                tell_silence(&host.label, limit.saturating_sub(begun.elapsed()));
                told = true;
            }
            tokio::time::sleep(KNOCK).await;
        }
    }

    async fn try_open(host: &Host, limits: Limits, dialer: &Arc<Dialer>) -> Result<Connection, Failed> {
        let within = limits.deadline.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT);
        let first = tokio::time::timeout(within, dialer.dial()).await.unwrap_or_else(|_| {
            let error = format!("no connection to {} within {} s", dialer.shown, CONNECT_TIMEOUT.as_secs());
            Err(Failed::for_good(Error::new(error).hint("is the host up, and is the port open in its firewall?")))
        })?;
        let (mut first, shut) = (Some(first), Arc::new(AtomicBool::new(false)));
        let (connecting, closed) = (dialer.clone(), shut.clone());
        let connector = tower::service_fn(move |_| {
            let (made, dialer, shut) = (first.take(), connecting.clone(), closed.clone());
            async move {
                let dialed = match made {
                    Some(io) => Ok(io),
                    // An agent that comes back answers; a host that does not must not hold the next try up.
                    None => match tokio::time::timeout(CONNECT_TIMEOUT, dialer.dial()).await {
                        Ok(dialed) => dialed.map_err(|failed| failed.error),
                        Err(_) => Err(Error::new(format!("no answer from {}", dialer.shown))),
                    },
                };
                shut.store(dialed.is_err(), Ordering::Relaxed);
                dialed.map(TokioIo::new)
            }
        });
        let channel = tonic::transport::Endpoint::from_static("http://berth")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .user_agent(concat!("berthctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|e| Failed::for_good(Error::new(e.to_string())))?
            .connect_with_connector(connector)
            .await
            .map_err(|e| match dialer.refusal.lock().ok().and_then(|refused| refused.clone()) {
                Some(refused) => Failed::for_good(tls_error(&host.label, &refused, None)),
                None => {
                    let error = Error::new(format!("starting HTTP/2 with {}: {e}", host.label));
                    Failed { error: error.hint("does berthd listen there?"), passing: true }
                }
            })?;
        let (label, refusal, tls) = (host.label.clone(), dialer.refusal.clone(), dialer.tls.is_some());
        Ok(Connection { label, channel, refusal, tls, shut, limits })
    }

    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn networks(&self) -> NetworksClient<Channel> {
        NetworksClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// A request with the caller's deadline, else the one that is usual for it.
    pub fn request<T>(&self, message: T, usual: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.limits.deadline.or(usual) {
            request.set_timeout(timeout);
        }
        if let Some(value) = traceparent() {
            request.metadata_mut().insert(TRACEPARENT, value.clone());
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

    /// As [`Connection::retry`]. None: the agent has nothing of this name.
    pub async fn find<T, F, Fut>(&self, mut call: F) -> Result<Option<T>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.retry(|| {
            let answer = call();
            async {
                match answer.await {
                    // A name that nothing of the kind can have is one that nothing has.
                    Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => Ok(None),
                    answer => answer.map(Some),
                }
            }
        })
        .await
    }

    /// The connection broke or the agent is on its way out; a refused certificate or a registry that is away does not mend in a second.
    pub fn worth_repeating(&self, status: &Status) -> bool {
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
        status::error(status, &self.label, self.tls, self.limits.deadline)
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
        if status::broken(status) && !connection.shut.load(Ordering::Relaxed) {
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
        let limit = connection.limits.patience(RESUME);
        if since.elapsed() >= limit {
            let mut error = connection.error(status);
            error.message = format!("{} (tried again for {} s)", error.message, limit.as_secs_f64());
            error.exit = Some(FAILED_ITSELF);
            return Err(error);
        }
        if !self.told && since.elapsed() >= TELL {
            tell_silence(&connection.label, limit.saturating_sub(since.elapsed()));
            self.told = true;
        }
        self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}

fn tell_silence(host: &str, left: Duration) {
    talk(&format!("{host} does not answer; trying for {} s more", left.as_secs()));
}

/// The trace that this command belongs to, where its caller says so: every call carries it.
fn traceparent() -> Option<&'static Traced> {
    static TRACE: LazyLock<Option<Traced>> = LazyLock::new(|| {
        let given: Option<TraceParent> = std::env::var("TRACEPARENT").ok().and_then(|text| text.parse().ok());
        given.or_else(own_trace)?.to_string().parse().ok()
    });
    TRACE.as_ref()
}

/// A trace of the command's own, where agents may be collecting them.
fn own_trace() -> Option<TraceParent> {
    if !cfg!(feature = "otel") {
        return None;
    }
    let mut bytes = [0; 24];
    berth_sys::store::random(&mut bytes).ok()?;
    let (trace, span) = bytes.split_at(16);
    Some(TraceParent { trace: trace.try_into().ok()?, span: span.try_into().ok()?, sampled: true })
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

    async fn dial(&self) -> Result<Io, Failed> {
        match &self.endpoint {
            Endpoint::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Io::Unix(stream)),
                Err(e) => {
                    // An agent that stops takes its socket away; the folder stays for the next one.
                    let between = e.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::exists);
                    let passing = between || is_passing(&e);
                    Err(Failed { error: self.unix_error(&e), passing })
                }
            },
            Endpoint::Tcp { host, port } => {
                let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| self.tcp_error(&e))?;
                _ = tcp.set_nodelay(true);
                let Some((connector, name, files)) = &self.tls else {
                    return Err(Failed::for_good(Error::new(format!("{} has no certificates", self.shown))));
                };
                match connector.connect(name.clone(), tcp).await {
                    Ok(stream) => Ok(Io::Tls(Box::new(stream), self.refusal.clone())),
                    Err(e) => Err(match rustls_error(&e) {
                        Some(tls) => Failed::for_good(tls_error(&self.shown, tls, Some((name, files)))),
                        None => {
                            let words = format!("the TLS handshake with {} broke: {}", self.shown, io_words(&e));
                            Failed { error: Error::new(words).hint("does berthd listen there?"), passing: true }
                        }
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

    fn tcp_error(&self, e: &io::Error) -> Failed {
        let passing = is_passing(e);
        let error = Error::new(format!("connecting to {}: {}", self.shown, io_words(e)));
        let error = match e.kind() {
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
        };
        Failed { error, passing }
    }
}

/// Nobody listens, as between two agents, or somebody went while we came.
fn is_passing(e: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(e.kind(), Kind::ConnectionRefused | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe)
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
    Ok(berth::hex::encode(&bytes))
}
