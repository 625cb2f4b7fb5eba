//! One connection to one host: a socket, TLS, and what goes wrong with either, in words.

use crate::config::{Endpoint, Host, TlsFiles};
use crate::error::{Error, Result, io_words};
use crate::pki::files;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Why the agent ended the TLS session, when it did.
pub(crate) type Refusal = Arc<Mutex<Option<rustls::Error>>>;

/// No connection came about.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// Another try may help: nobody listened just now, or somebody hung up without a word.
    pub(crate) passing: bool,
}

impl Failed {
    pub(crate) fn for_good(error: Error) -> Failed {
        Failed { error, passing: false }
    }
}

/// Makes connections to one host.
pub(crate) struct Dialer {
    endpoint: Endpoint,
    pub(crate) shown: String,
    pub(crate) tls: Option<(tokio_rustls::TlsConnector, ServerName<'static>, TlsFiles)>,
    pub(crate) refusal: Refusal,
}

impl Dialer {
    pub(crate) fn new(host: &Host, refusal: Refusal) -> Result<Dialer> {
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

    pub(crate) async fn dial(&self) -> Result<Io, Failed> {
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
pub(crate) fn tls_error(host: &str, error: &rustls::Error, ours: Option<(&ServerName<'_>, &TlsFiles)>) -> Error {
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
pub(crate) enum Io {
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
