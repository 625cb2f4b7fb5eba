//! The real accept loop, gate and TLS, with chains made here, and health as the service behind them.

use super::*;
use crate::audit::AuditConfig;
use crate::config::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::atomic::{AtomicU64, Ordering};
use time::OffsetDateTime;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

#[path = "serve_tests/crowd.rs"]
mod crowd;

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

struct Pair {
    cert: String,
    key: String,
    serial: u64,
}

/// What a test changes about a good certificate.
#[derive(Clone)]
struct With {
    role: &'static str,
    eku: Eku,
    /// Days from now.
    from: i64,
    to: i64,
}

const CLIENT: With = With { role: "berth:admin", eku: Eku::ClientAuth, from: -1, to: 30 };
const SERVER: With = With { role: "", eku: Eku::ServerAuth, from: -1, to: 30 };

fn days(n: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(n)
}

fn named(cn: &str, organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, cn);
    if !organization.is_empty() {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

impl Ca {
    fn new(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name, "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { params, key, pem }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::new(self.params.clone(), &self.key)
    }

    fn issue(&self, name: &str, with: With) -> Pair {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.distinguished_name = named(name, with.role);
        params.extended_key_usages = vec![with.eku];
        params.not_before = days(with.from);
        params.not_after = days(with.to);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer()).unwrap().pem();
        Pair { cert, key: key.serialize_pem(), serial }
    }

    fn crl(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: days(-1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: days(-1),
            next_update: days(30),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }
}

/// An agent's doors on a loopback port, with files of its own.
struct Agent {
    dir: PathBuf,
    ca: Ca,
    address: SocketAddr,
    shared: Arc<Shared>,
    reload: Arc<tokio::sync::Notify>,
    stopping: CancellationToken,
    health: tonic_health::server::HealthReporter,
    audit: AuditLog,
}

impl Agent {
    async fn start(name: &str) -> Agent {
        Agent::start_with(name, Limits::default()).await
    }

    async fn start_with(name: &str, limits: Limits) -> Agent {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = std::env::temp_dir().join(format!("berthd-serve-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let ca = Ca::new("ours");
        std::fs::write(dir.join("ca.pem"), &ca.pem).unwrap();
        write_pair(&dir, &ca.issue("agent", SERVER));
        let store = Arc::new(TlsStore::open(files(&dir)).unwrap());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let doors = Doors::open(&[any], Some(store), None, &limits).await.unwrap();
        let address = doors.tcp[0].local_addr().unwrap();
        let shared = doors.shared.clone();
        let (health, service) = tonic_health::server::health_reporter();
        let file = Some(dir.join("audit.log"));
        let audit = AuditLog::open(AuditConfig { file, file_bytes: 1 << 20, files: 2, log: false }).unwrap();
        let (reload, stopping) = (Arc::new(tokio::sync::Notify::new()), CancellationToken::new());
        tokio::spawn(doors.serve(
            Routes::new(service),
            audit.clone(),
            reload.clone(),
            stopping.clone(),
            None,
            Arc::default(),
        ));
        Agent { dir, ca, address, shared, reload, stopping, health, audit }
    }

    fn endpoint(&self) -> Endpoint {
        endpoint(self.address)
    }

    async fn client(&self, pair: &Pair) -> HealthClient<Channel> {
        self.client_by(self.address, pair).await
    }

    async fn client_by(&self, address: SocketAddr, pair: &Pair) -> HealthClient<Channel> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca.pem))
            .identity(Identity::from_pem(&pair.cert, &pair.key))
            .domain_name("localhost");
        HealthClient::new(endpoint(address).tls_config(tls).unwrap().connect().await.unwrap())
    }

    /// Both sides of one handshake: the agent's reason, and what the client reads.
    async fn refused(
        &self,
        pair: Option<&Pair>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> (String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::spawn(raw_client(
            address,
            self.ca.pem.clone(),
            pair.map(|p| (p.cert.clone(), p.key.clone())),
            versions.to_vec(),
        ));
        let (stream, peer) = listener.accept().await.unwrap();
        let reason = handshake(stream, peer, &self.shared).await.err().expect("the handshake must fail");
        (reason, client.await.unwrap())
    }

    async fn reloaded(&self) {
        self.reload.notify_one();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }

    fn audit_lines(&self) -> Vec<serde_json::Value> {
        self.audit.close(Duration::from_secs(5));
        let text = std::fs::read_to_string(self.dir.join("audit.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Channel::from_shared(format!("https://{address}")).unwrap()
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stopping.cancel();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn files(dir: &Path) -> TlsFiles {
    TlsFiles {
        ca: dir.join("ca.pem"),
        cert: dir.join("agent.pem"),
        key: dir.join("agent.key"),
        crl: dir.join("crl.pem"),
        crl_required: false,
    }
}

fn write_pair(dir: &Path, pair: &Pair) {
    std::fs::write(dir.join("agent.pem"), &pair.cert).unwrap();
    std::fs::write(dir.join("agent.key"), &pair.key).unwrap();
    std::fs::set_permissions(dir.join("agent.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Connects, and reads until the agent says something or hangs up: its words.
async fn raw_client(
    address: SocketAddr,
    ca: String,
    pair: Option<(String, String)>,
    versions: Vec<&'static rustls::SupportedProtocolVersion>,
) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match pair {
        Some((cert, key)) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match connector.connect(ServerName::try_from("localhost").unwrap(), stream).await {
        Err(e) => e.to_string(),
        Ok(mut stream) => {
            // As an HTTP/2 client does, before it knows whether it was let in.
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            match stream.read_u8().await {
                Ok(_) => "let in".into(),
                Err(e) => e.to_string(),
            }
        }
    }
}

fn check() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

#[tokio::test]
async fn a_good_certificate_is_let_in_and_a_bad_one_is_told_why() {
    let agent = Agent::start("handshake").await;
    let other = Ca::new("theirs");
    // The same name as our CA, another key.
    let forged = Ca::new("ours");
    let revoked = agent.ca.issue("gone", CLIENT);
    std::fs::write(agent.dir.join("crl.pem"), agent.ca.crl(&[revoked.serial])).unwrap();
    agent.reloaded().await;
    let tls13: &[_] = &[&rustls::version::TLS13];
    for (pair, reason, heard) in [
        (Some(other.issue("a", CLIENT)), "not issued by a CA of ours", "UnknownCA"),
        (Some(forged.issue("a", CLIENT)), "not issued by a CA of ours", "DecryptError"),
        (Some(agent.ca.issue("a", With { from: -9, to: -1, ..CLIENT })), "has expired", "CertificateExpired"),
        (Some(agent.ca.issue("a", With { from: 1, ..CLIENT })), "not valid yet", ""),
        (Some(agent.ca.issue("a", SERVER)), "not for clients", ""),
        (Some(revoked), "was revoked", "CertificateRevoked"),
        (None, "presented no certificate", "CertificateRequired"),
    ] {
        let (why, alert) = agent.refused(pair.as_ref(), tls13).await;
        assert!(why.contains(reason), "{why:?} should say {reason:?}");
        assert!(alert.contains("alert") && alert.contains(heard), "{reason}: the client heard {alert:?}");
    }
    let good = agent.ca.issue("a", CLIENT);
    let (why, alert) = agent.refused(Some(&good), &[&rustls::version::TLS12]).await;
    assert!(why.contains("does not speak TLS 1.3") && alert.contains("ProtocolVersion"), "{why} {alert}");
    agent.client(&good).await.check(check()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_without_a_role_may_nothing() {
    let agent = Agent::start("roles").await;
    for role in ["", "berth:root", "admin"] {
        let nobody = agent.ca.issue("nobody", With { role: Box::leak(role.to_owned().into_boxed_str()), ..CLIENT });
        let status = agent.client(&nobody).await.check(check()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.get_details_error_info().unwrap().reason, "ROLE_DENIED");
    }
    for role in ["berth:viewer", "berth:operator", "berth:admin"] {
        agent.client(&agent.ca.issue("x", With { role, ..CLIENT })).await.check(check()).await.unwrap();
    }
    let lines = agent.audit_lines();
    assert_eq!(lines.len(), 3, "what was denied is recorded, looking is not: {lines:?}");
    for line in lines {
        assert_eq!((line["verdict"].as_str(), line["caller"].as_str()), (Some("denied"), Some("nobody")));
        assert_eq!(line["result"], "PERMISSION_DENIED");
        assert_eq!(line["rpc"], "/grpc.health.v1.Health/Check");
        assert!(!line["serial"].as_str().unwrap().is_empty());
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn an_rpc_without_a_rule_is_refused() {
    let agent = Agent::start("unknown").await;
    let good = agent.ca.issue("a", CLIENT);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&agent.ca.pem))
        .identity(Identity::from_pem(&good.cert, &good.key))
        .domain_name("localhost");
    let channel = agent.endpoint().tls_config(tls).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = "/berth.v1.Containers/Explode".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
    let status = grpc.unary(tonic::Request::new(check()), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(agent.audit_lines()[0]["verdict"], "denied");
}

#[tokio::test]
async fn certificates_are_swapped_without_dropping_streams() {
    let agent = Agent::start("rotation").await;
    let alice = agent.ca.issue("alice", CLIENT);
    let mut client = agent.client(&alice).await;
    let mut watch = client.watch(check()).await.unwrap().into_inner();
    watch.next().await.unwrap().unwrap();

    let fresh = Ca::new("fresh");
    std::fs::write(agent.dir.join("ca.pem"), format!("{}{}", agent.ca.pem, fresh.pem)).unwrap();
    write_pair(&agent.dir, &agent.ca.issue("agent", SERVER));
    // No signal: the look every two seconds finds them.
    tokio::time::sleep(LOOK_EVERY + Duration::from_millis(300)).await;
    let bob = fresh.issue("bob", CLIENT);
    agent.client(&bob).await.check(check()).await.expect("the new CA counts");
    agent.health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    watch.next().await.unwrap().expect("the stream from before goes on");

    // A key that others may read, and a key of another certificate: the good ones stay.
    std::fs::set_permissions(agent.dir.join("agent.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = agent.shared.store.as_ref().unwrap().reload(true).unwrap_err().to_string();
    assert!(error.contains("chmod 0600") && error.contains("agent.key") && error.contains("0640"), "{error}");
    write_pair(&agent.dir, &agent.ca.issue("agent", SERVER));
    std::fs::write(agent.dir.join("agent.pem"), agent.ca.issue("agent", SERVER).cert).unwrap();
    let error = agent.shared.store.as_ref().unwrap().reload(true).unwrap_err().to_string();
    assert!(error.contains("do not go together"), "{error}");
    std::fs::write(agent.dir.join("crl.pem"), Ca::new("ours").crl(&[1])).unwrap();
    write_pair(&agent.dir, &agent.ca.issue("agent", SERVER));
    let error = agent.shared.store.as_ref().unwrap().reload(true).unwrap_err().to_string();
    assert!(error.contains("crl.pem") && error.contains("not signed by a CA of ours"), "{error}");
    agent.client(&bob).await.check(check()).await.expect("broken files change nothing");
}

#[tokio::test]
async fn revocation_ends_what_is_open() {
    let agent = Agent::start("revocation").await;
    let (alice, mallory) = (agent.ca.issue("alice", CLIENT), agent.ca.issue("mallory", CLIENT));
    let mut good = agent.client(&alice).await;
    let mut bad = agent.client(&mallory).await;
    let mut stays = good.watch(check()).await.unwrap().into_inner();
    let mut ends = bad.watch(check()).await.unwrap().into_inner();
    stays.next().await.unwrap().unwrap();
    ends.next().await.unwrap().unwrap();
    std::fs::write(agent.dir.join("crl.pem"), agent.ca.crl(&[mallory.serial])).unwrap();
    agent.reloaded().await;
    let end = tokio::time::timeout(Duration::from_secs(2), ends.next()).await.expect("the stream ends");
    assert!(end.is_none_or(|item| item.is_err()));
    let again = tokio::time::timeout(Duration::from_secs(5), bad.check(check())).await.expect("an answer");
    assert!(again.is_err(), "no way back in");
    agent.health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    stays.next().await.unwrap().expect("others are not touched");
    good.check(check()).await.unwrap();
}

#[tokio::test]
async fn deadlines_hold_for_streams() {
    let agent = Agent::start("deadline").await;
    let mut client = agent.client(&agent.ca.issue("a", CLIENT)).await;
    let mut request = tonic::Request::new(check());
    // The header alone: the client's own clock must not answer in the agent's place.
    request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let begun = std::time::Instant::now();
    let mut stream = client.watch(request).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    let status = stream.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!((180..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let mut request = tonic::Request::new(check());
    request.metadata_mut().insert("grpc-timeout", "5 minutes".parse().unwrap());
    assert_eq!(client.check(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn stopping_ends_streams_with_a_reason() {
    let agent = Agent::start("stopping").await;
    let mut client = agent.client(&agent.ca.issue("a", CLIENT)).await;
    let mut stream = client.watch(check()).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    agent.stopping.cancel();
    let status = tokio::time::timeout(Duration::from_secs(2), stream.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "AGENT_STOPPING");
}

#[tokio::test]
async fn one_caller_with_many_calls_leaves_others_their_room() {
    const VIEWER: With = With { role: "berth:viewer", ..CLIENT };
    let agent = Agent::start_with("shares", Limits { calls: 16, ..Limits::default() }).await;
    let mut held = Vec::new();
    for name in ["mallory", "mallet", "trudy"] {
        let mut client = agent.client(&agent.ca.issue(name, VIEWER)).await;
        let refused = loop {
            match client.watch(check()).await {
                Ok(stream) => held.push(stream),
                Err(status) => break status,
            }
            assert!(held.len() <= 14, "the rest is kept for admins");
        };
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let reason = refused.get_details_error_info().unwrap().reason;
        let want = if name == "trudy" { "AGENT_OVERLOADED" } else { "CALLER_OVERLOADED" };
        assert_eq!(reason, want, "{name}: {refused}");
        if name == "mallory" {
            assert!(refused.message().contains("you have 8 calls under way"), "{refused}");
            agent.client(&agent.ca.issue("bob", VIEWER)).await.check(check()).await.expect("another viewer");
        }
    }
    agent.client(&agent.ca.issue("root", CLIENT)).await.check(check()).await.expect("an admin gets in");
    drop(held);
}

#[tokio::test]
async fn one_caller_with_many_connections_leaves_others_theirs() {
    let agent = Agent::start_with("connections", Limits { connections: 16, ..Limits::default() }).await;
    let mallory = agent.ca.issue("mallory", With { role: "berth:viewer", ..CLIENT });
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut client = agent.client(&mallory).await;
        client.check(check()).await.unwrap();
        held.push(client);
    }
    // She hears why she gets no more, as long as not too many ask.
    let mut told = agent.client(&mallory).await;
    let refused = told.check(check()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "CALLER_OVERLOADED");
    assert!(refused.message().contains("mallory has 8 connections"), "{refused}");
    let over: Vec<_> = std::iter::from_fn(|| agent.shared.over.enter("viewer mallory", false).ok()).collect();
    let (why, heard) = agent.refused(Some(&mallory), &[&rustls::version::TLS13]).await;
    assert!(over.len() >= OVER / 2 - 1 && why.contains("mallory has 8 connections") && heard != "let in", "{why}");
    for name in ["alice", "mallory"] {
        // Also an admin whose name is the same.
        agent.client(&agent.ca.issue(name, CLIENT)).await.check(check()).await.unwrap();
    }
    // What was told so ends; the next one is let in when another has gone.
    held.pop();
    let again = tokio::time::timeout(3 * OVER_LASTS, async {
        while told.check(check()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    again.await.expect("a connection that serves");
}

#[tokio::test]
async fn root_hears_that_there_are_too_many_connections() {
    let dir = std::env::temp_dir().join(format!("berthd-over-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let path = dir.join("berthd.sock");
    let doors = Doors::open(&[], None, Some(&path), &Limits::default()).await.unwrap();
    let _all: Vec<_> =
        (0..UNIX_CONNECTIONS).map(|_| doors.shared.unix_connections.enter("root", true).unwrap()).collect();
    let mut held = Vec::new();
    let refused = loop {
        let (client, accepted) = tokio::join!(UnixStream::connect(&path), doors.unix.as_ref().unwrap().0.accept());
        match recognise(accepted.unwrap().0, &doors.shared) {
            Ok(connection) => held.push((client.unwrap(), connection)),
            Err(why) => break why,
        }
    };
    assert_eq!(held.len(), OVER - OVER / 8, "some are told, and all others hung up on");
    assert!(refused.contains("no room for one more connection of root") && !refused.contains("limits"), "{refused}");
    let why = tonic::transport::server::Connected::connect_info(&held[0].1).over.unwrap();
    assert_eq!((why.code(), why.message()), (Code::ResourceExhausted, refused.as_str()));
    let n = tokio::time::timeout(2 * OVER_LASTS, held[0].1.read(&mut [0; 1])).await.expect("it ends");
    assert_eq!(n.unwrap(), 0);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_request_that_names_things_is_small() {
    let agent = Agent::start("large").await;
    let mut client = agent.client(&agent.ca.issue("a", CLIENT)).await;
    let status = client.check(HealthCheckRequest { service: "x".repeat(100_000) }).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("at most 65536 are taken"), "{status}");
    assert_eq!(
        client.check(HealthCheckRequest { service: "x".repeat(60_000) }).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn the_unix_socket_is_roots_own() {
    let dir = std::env::temp_dir().join(format!("berthd-unix-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let path = dir.join("berthd.sock");
    for round in 0..2 {
        // The second time over the socket that the first one left.
        let doors = Doors::open(&[], None, Some(&path), &Limits::default()).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "round {round}");
        let (client, accepted) = tokio::join!(UnixStream::connect(&path), doors.unix.as_ref().unwrap().0.accept());
        client.unwrap();
        let connection = recognise(accepted.unwrap().0, &doors.shared);
        assert!(connection.is_ok(), "these tests run as root");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing beside the socket is left");
    std::fs::remove_dir_all(&dir).unwrap();
}
