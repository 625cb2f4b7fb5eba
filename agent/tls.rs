//! Mutual TLS: what the files say, and the same again when they change.
//!
//! TLS 1.3 only, a client certificate always, HTTP/2 only. The whole `ServerConfig` is swapped when a file changes:
//! handshakes from then on use the new one, connections that are there go on. New files that are broken change
//! nothing: the old ones stay in use, and the log says which file is wrong and why.

use crate::config::TlsFiles;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, PeerIncompatible, RootCertStore, ServerConfig};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Larger files are no certificates: a revocation list of 100,000 entries has about 4 MB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Which of the files, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    Ca,
    Certificate,
    Key,
    Crl,
}

impl FileKind {
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Ca => "CA certificates",
            FileKind::Certificate => "certificate",
            FileKind::Key => "private key",
            FileKind::Crl => "revocation list",
        }
    }
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a set of files makes no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("reading {kind} {path}: {source}")]
    Read { kind: FileKind, path: PathBuf, source: io::Error },
    #[error("{kind} {path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge { kind: FileKind, path: PathBuf },
    #[error("private key {path} is accessible to others (mode {mode:04o}): run chmod 0600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{kind} {path} is not PEM: {reason}")]
    Pem { kind: FileKind, path: PathBuf, reason: String },
    #[error("{kind} {path} holds no PEM section of that kind")]
    Empty { kind: FileKind, path: PathBuf },
    #[error("{kind} {path}: entry {index}: {reason}")]
    Entry { kind: FileKind, path: PathBuf, index: usize, reason: String },
    #[error("certificate {cert} and private key {key} do not go together: {reason}")]
    Pair { cert: PathBuf, key: PathBuf, reason: String },
    #[error("client verifier from {ca} and {crl}: {reason}")]
    Verifier { ca: PathBuf, crl: PathBuf, reason: String },
}

/// Serial numbers by issuer (DER).
type Revoked = HashMap<Vec<u8>, HashSet<String>>;

/// The revoked certificates, as the newest good list has them. Cheap to clone; all clones see the same list.
#[derive(Clone, Default, Debug)]
pub struct Revocations(Arc<RwLock<Revoked>>);

impl Revocations {
    /// `serial` in lower-case hexadecimal, as [`berth::role::serial_hex`] writes it.
    pub fn contain(&self, issuer: &[u8], serial: &str) -> bool {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        list.get(issuer).is_some_and(|serials| serials.contains(serial))
    }

    fn set(&self, revoked: Revoked) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = revoked;
    }
}

/// What one reading of the files gave.
struct Loaded {
    config: Arc<ServerConfig>,
    revoked: Revoked,
    /// Things to say that are no errors.
    notes: Vec<String>,
}

/// Size, inode, modification and change time of a file; `None`: it is not there.
type Stamp = Option<(u64, u64, i64, i64, i64, i64)>;

/// The TLS configuration in use.
pub struct TlsStore {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
    revocations: Revocations,
    stamps: Mutex<[Stamp; 4]>,
}

/// What a look at the files came to.
#[derive(Debug)]
pub enum Reload {
    Unchanged,
    /// New files are in use.
    Swapped,
}

impl TlsStore {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When any of them is missing, exposed or wrong: an agent without its certificates must not start.
    pub fn open(files: TlsFiles) -> Result<TlsStore, TlsError> {
        let stamps = stamps(&files);
        let loaded = load(&files)?;
        for note in &loaded.notes {
            tracing::warn!("{note}");
        }
        let revocations = Revocations::default();
        revocations.set(loaded.revoked);
        Ok(TlsStore { files, current: RwLock::new(loaded.config), revocations, stamps: Mutex::new(stamps) })
    }

    /// For the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Looks at the files and takes them up when they have changed, or whatever they are when `forced`.
    ///
    /// # Errors
    /// When the new files are wrong; the old ones stay in use. The same wrong files are reported once.
    pub fn reload(&self, forced: bool) -> Result<Reload, TlsError> {
        let now = stamps(&self.files);
        {
            let mut seen = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == now && !forced {
                return Ok(Reload::Unchanged);
            }
            *seen = now;
        }
        let loaded = load(&self.files)?;
        for note in &loaded.notes {
            tracing::warn!("{note}");
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded.config;
        self.revocations.set(loaded.revoked);
        Ok(Reload::Swapped)
    }
}

fn stamps(files: &TlsFiles) -> [Stamp; 4] {
    [&files.ca, &files.cert, &files.key, &files.crl].map(|path| {
        let m = std::fs::metadata(path).ok()?;
        Some((m.size(), m.ino(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
    })
}

fn read(kind: FileKind, path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let error = |source| TlsError::Read { kind, path: path.into(), source };
    let file = std::fs::File::open(path).map_err(error)?;
    if kind == FileKind::Key {
        let mode = file.metadata().map_err(error)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TlsError::Exposed { path: path.into(), mode });
        }
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TlsError::TooLarge { kind, path: path.into() });
    }
    Ok(bytes)
}

fn sections<T: PemObject>(kind: FileKind, path: &Path) -> Result<Vec<T>, TlsError> {
    sections_of(kind, path, &read(kind, path)?)
}

fn sections_of<T: PemObject>(kind: FileKind, path: &Path, bytes: &[u8]) -> Result<Vec<T>, TlsError> {
    let found: Vec<T> = T::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(|e| TlsError::Pem {
        kind,
        path: path.into(),
        reason: e.to_string(),
    })?;
    if found.is_empty() { Err(TlsError::Empty { kind, path: path.into() }) } else { Ok(found) }
}

fn load(files: &TlsFiles) -> Result<Loaded, TlsError> {
    let mut notes = Vec::new();
    let cas: Vec<CertificateDer<'static>> = sections(FileKind::Ca, &files.ca)?;
    let chain: Vec<CertificateDer<'static>> = sections(FileKind::Certificate, &files.cert)?;
    let key: PrivateKeyDer<'static> = sections(FileKind::Key, &files.key)?.swap_remove(0);
    let lists: Vec<CertificateRevocationListDer<'static>> =
        if files.crl_required || files.crl.exists() { sections(FileKind::Crl, &files.crl)? } else { Vec::new() };

    let mut roots = RootCertStore::empty();
    for (index, ca) in cas.iter().enumerate() {
        let entry = |reason| TlsError::Entry { kind: FileKind::Ca, path: files.ca.clone(), index, reason };
        roots.add(ca.clone()).map_err(|e| entry(e.to_string()))?;
        let parsed = parse_certificate(ca).map_err(entry)?;
        if !parsed.validity().is_valid() {
            notes.push(format!("CA certificate {index} of {} is not valid now", files.ca.display()));
        }
    }
    let agent = parse_certificate(&chain[0]).map_err(|reason| TlsError::Entry {
        kind: FileKind::Certificate,
        path: files.cert.clone(),
        index: 0,
        reason,
    })?;
    if !agent.validity().is_valid() {
        notes.push(format!("certificate {} is not valid now: clients will refuse it", files.cert.display()));
    }
    let revoked = read_lists(&files.crl, &lists, &cas, &mut notes)?;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier_error = |reason: String| TlsError::Verifier { ca: files.ca.clone(), crl: files.crl.clone(), reason };
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if !lists.is_empty() {
        // A CA without a list has revoked nothing; a list that is overdue is better than none.
        verifier = verifier.with_crls(lists).allow_unknown_revocation_status();
    }
    let verifier = verifier.build().map_err(|e| verifier_error(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| verifier_error(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), reason: e.to_string() })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the look at the client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded { config: Arc::new(config), revoked, notes })
}

/// How long one of the files still holds.
#[derive(Debug)]
pub enum Held {
    Until {
        /// Which file, and which entry of it.
        what: String,
        /// Negative: it holds no more.
        left_seconds: i64,
    },
    Unreadable(String),
}

/// The files as they are now, not as they were read: what the next start would find.
pub fn validity(files: &TlsFiles) -> Vec<Held> {
    let mut held = Vec::new();
    for (kind, path) in [(FileKind::Certificate, &files.cert), (FileKind::Ca, &files.ca)] {
        let certificates: Vec<CertificateDer<'static>> = match sections(kind, path) {
            Ok(certificates) => certificates,
            Err(e) => {
                held.push(Held::Unreadable(e.to_string()));
                continue;
            }
        };
        for (index, der) in certificates.iter().enumerate() {
            let what = match index {
                0 => format!("{kind} {}", path.display()),
                _ => format!("{kind} {} (entry {index})", path.display()),
            };
            held.push(match parse_certificate(der) {
                Ok(c) => Held::Until { what, left_seconds: until(c.validity().not_after) },
                Err(e) => Held::Unreadable(format!("{what}: {e}")),
            });
        }
    }
    if files.crl_required || files.crl.exists() {
        held.extend(lists(&files.crl));
    }
    held
}

/// Seconds from now.
fn until(time: x509_parser::time::ASN1Time) -> i64 {
    time.timestamp() - x509_parser::time::ASN1Time::now().timestamp()
}

fn lists(path: &Path) -> Vec<Held> {
    let lists: Vec<CertificateRevocationListDer<'static>> = match sections(FileKind::Crl, path) {
        Ok(lists) => lists,
        Err(e) => return vec![Held::Unreadable(e.to_string())],
    };
    let what = format!("{} {}", FileKind::Crl, path.display());
    let of = |der: &CertificateRevocationListDer<'_>| match CertificateRevocationList::from_der(der) {
        // Without a next update it holds for ever.
        Ok((_, list)) => list.next_update().map(|due| Held::Until { what: what.clone(), left_seconds: until(due) }),
        Err(e) => Some(Held::Unreadable(format!("{what}: {e}"))),
    };
    lists.iter().filter_map(of).collect()
}

fn parse_certificate<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|e| e.to_string())
}

/// Checks that each list was signed by one of the CAs (a list that was not would make every handshake fail).
fn read_lists(
    path: &Path,
    lists: &[CertificateRevocationListDer<'_>],
    cas: &[CertificateDer<'_>],
    notes: &mut Vec<String>,
) -> Result<Revoked, TlsError> {
    let mut revoked = Revoked::new();
    for (index, der) in lists.iter().enumerate() {
        let entry = |reason: String| TlsError::Entry { kind: FileKind::Crl, path: path.into(), index, reason };
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|e| entry(e.to_string()))?;
        let signed = cas.iter().filter_map(|ca| parse_certificate(ca).ok()).any(|ca| {
            ca.subject().as_raw() == list.issuer().as_raw() && list.verify_signature(ca.public_key()).is_ok()
        });
        if !signed {
            return Err(entry(format!("it was not signed by a CA of ours (issuer {})", list.issuer())));
        }
        if list.next_update().is_some_and(|due| due < x509_parser::time::ASN1Time::now()) {
            notes.push(format!("revocation list {index} of {} is overdue; it is used all the same", path.display()));
        }
        let serials = revoked.entry(list.issuer().as_raw().to_vec()).or_default();
        serials.extend(list.iter_revoked_certificates().map(|c| berth::role::serial_hex(c.raw_serial())));
    }
    Ok(revoked)
}

/// A door for the fuzz targets: files of PEM, and what is in them.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let path = Path::new("fuzz.pem");
    let cas: Vec<CertificateDer<'static>> = sections_of(FileKind::Ca, path, bytes).unwrap_or_default();
    let mut lists: Vec<CertificateRevocationListDer<'static>> =
        sections_of(FileKind::Crl, path, bytes).unwrap_or_default();
    if let Ok(key) = sections_of::<PrivateKeyDer<'static>>(FileKind::Key, path, bytes) {
        assert!(key.iter().map(|k| k.secret_der().len()).sum::<usize>() <= bytes.len());
    }
    for ca in &cas {
        assert!(ca.len() <= bytes.len());
        if let Ok(certificate) = parse_certificate(ca) {
            let _ = (certificate.validity().is_valid(), until(certificate.validity().not_after));
        }
    }
    for raw in [false, true] {
        if raw {
            lists = vec![bytes.to_vec().into()];
        }
        let mut notes = Vec::new();
        if let Ok(revoked) = read_lists(path, &lists, &cas, &mut notes) {
            let serials: Vec<&String> = revoked.values().flatten().collect();
            assert!(serials.len() <= bytes.len() && serials.iter().all(|s| s.bytes().all(|b| b.is_ascii_hexdigit())));
            assert!(lists.is_empty() || !cas.is_empty(), "a list that nobody has signed");
        }
        for list in &lists {
            if let Ok((_, list)) = CertificateRevocationList::from_der(list) {
                let serials = list.iter_revoked_certificates().map(|c| berth::role::serial_hex(c.raw_serial()));
                assert!(serials.map(|s| s.len()).sum::<usize>() <= 2 * bytes.len());
                let _ = list.next_update().map(until);
            }
        }
    }
}

/// Why a handshake failed, in words for the agent's log.
pub fn refusal(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the client hung up during the handshake".into(),
            _ => format!("the connection broke during the handshake: {error}"),
        };
    };
    use rustls::Error as E;
    match tls {
        E::NoCertificatesPresented => "the client presented no certificate".into(),
        E::InvalidCertificate(reason) => match reason {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the client's certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the client's certificate is not valid yet; compare the clocks".into()
            }
            CertificateError::Revoked => "the client's certificate was revoked".into(),
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the client's certificate was not issued by a CA of ours".into()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the client's certificate is not for clients (extended key usage)".into()
            }
            other => format!("the client's certificate is not acceptable: {other}"),
        },
        E::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls12NotOffered,
        ) => "the client does not speak TLS 1.3".into(),
        E::NoApplicationProtocol => "the client does not speak HTTP/2 (ALPN h2)".into(),
        E::AlertReceived(alert) => format!("the client refused our certificate: {alert:?}"),
        E::InvalidMessage(_) => "what the client sent is no TLS".into(),
        other => format!("TLS: {other}"),
    }
}
