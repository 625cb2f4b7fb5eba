//! Who gets in: every way to be refused at the handshake, and certificates that change while the agent runs.

use crate::harness::pki::{Identity, Pki, set_mode};
use crate::harness::{Node, until};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// An identity's `version` fails with a reason that names the matter on both sides.
#[track_caller]
fn refused(node: &Node, identity: &Identity, words: &[&str]) {
    let before = node.agent_log().len();
    let output = node.ctl_as(identity, &["version"]);
    assert_ne!(output.code, 0, "{output:?}");
    let text = output.stderr.to_lowercase();
    assert!(text.starts_with("error: "), "{text}");
    assert!(words.iter().any(|w| text.contains(w)), "the caller is told none of {words:?}: {text}");
    until(&format!("the agent's log says one of {words:?}"), || {
        let log = node.agent_log()[before..].to_lowercase();
        words.iter().any(|w| log.contains(w))
    });
}

#[test]
fn certificates_that_are_not_good_enough() {
    let other_dir = crate::harness::test_dir().join(format!("pki-other-{}", std::process::id()));
    let other = Pki::make(&other_dir);
    let stranger = other.client("stranger", "admin");
    let node = Node::start("tls-refused");
    assert_eq!(node.ctl_as(&node.pki.identity("viewer"), &["version"]).code, 0);
    // The agent's CA is the caller's choice here: only the agent can refuse.
    refused(&node, &stranger, &["unknown", "issuer", "ca"]);
    let expired = node.pki.odd("expired", "admin", |p| {
        p.not_before = rcgen::date_time_ymd(2001, 1, 1);
        p.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    refused(&node, &expired, &["expired"]);
    let future = node.pki.odd("future", "admin", |p| {
        p.not_before = rcgen::date_time_ymd(2095, 1, 1);
        p.not_after = rcgen::date_time_ymd(2096, 1, 1);
    });
    refused(&node, &future, &["not yet valid", "not valid yet", "notvalidyet"]);
    let usage = node.pki.odd("usage", "admin", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    refused(&node, &usage, &["one of a client", "usage"]);
    fs::remove_dir_all(&other_dir).expect("pki");
    node.finish();
}

#[test]
fn revoked_clients_are_refused_as_soon_as_the_list_is_there() {
    let dir = crate::harness::test_dir().join(format!("pki-revoke-{}", std::process::id()));
    let pki = Pki::make(&dir);
    pki.client("admin", "admin");
    let mallory = pki.client("mallory", "operator");
    let node = Node::builder("tls-revoked").pki(&dir).start();
    assert_eq!(node.ctl_as(&mallory, &["version"]).code, 0);
    pki.revoke("mallory");
    fs::copy(pki.crl(), node.dir.join("pki/crl.pem")).expect("crl");
    until("the revoked certificate is refused", || node.ctl_as(&mallory, &["version"]).code != 0);
    refused(&node, &mallory, &["revoked"]);
    assert_eq!(node.ctl(&["version"]).code, 0);
    node.finish();
    fs::remove_dir_all(&dir).expect("pki");
}

/// A handshake by Python's ssl module; prints what became of it.
fn handshake(node: &Node, identity: Option<&Identity>, version: &str) -> String {
    let script = r"
import socket, ssl, sys
port, ca, version, cert, key = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5]
c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.load_verify_locations(ca); c.check_hostname = False; c.set_alpn_protocols(['h2'])
v = getattr(ssl.TLSVersion, version); c.minimum_version = ssl.TLSVersion.TLSv1_2; c.maximum_version = v; c.minimum_version = v
if cert: c.load_cert_chain(cert, key)
try:
    s = c.wrap_socket(socket.create_connection(('127.0.0.1', port), timeout=10))
    s.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0,0,0,4,0,0,0,0,0])); d = s.recv(1)
    print('accepted' if d else 'closed', ssl.DER_cert_to_PEM_cert(s.getpeercert(True)))
except (ssl.SSLError, OSError) as e:
    print('refused', e)
";
    let path = |p: Option<&Path>| p.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let output = Command::new("python3")
        .args(["-c", script, &node.slot.agent_port().to_string(), &path(Some(&node.pki.ca())), version])
        .args([path(identity.map(|i| i.cert.as_path())), path(identity.map(|i| i.key.as_path()))])
        .output()
        .expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn only_tls_1_3_with_a_client_certificate() {
    let node = Node::start("tls-versions");
    let admin = node.pki.identity("admin");
    assert!(handshake(&node, Some(&admin), "TLSv1_3").starts_with("accepted"));
    assert!(handshake(&node, Some(&admin), "TLSv1_2").starts_with("refused"));
    let none = handshake(&node, None, "TLSv1_3");
    assert!(none.starts_with("refused") || none.starts_with("closed"), "{none}");
    // Noise, half a handshake and plain HTTP do no harm.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 4096]] {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", node.slot.agent_port())).expect("connect");
        let _ = stream.write_all(bytes);
    }
    assert_eq!(node.ctl(&["version"]).code, 0);
    node.finish();
}

#[test]
fn the_agents_certificate_changes_without_dropping_a_stream() {
    let dir = crate::harness::test_dir().join(format!("pki-rotate-{}", std::process::id()));
    let pki = Pki::make(&dir);
    pki.client("admin", "admin");
    let node = Node::builder("tls-rotate").pki(&dir).start();
    let admin = pki.identity("admin");
    let mut child = node
        .ctl_command(&["events", "-o", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("events");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let first = handshake(&node, Some(&admin), "TLSv1_3");
    let next = pki.agent("agent-next");
    // The key first: a pair that does not fit together must not be taken, nor break the old one.
    fs::copy(&next.key, node.dir.join("pki/agent.key")).expect("key");
    fs::copy(&next.cert, node.dir.join("pki/agent.pem")).expect("cert");
    until("new handshakes show the new certificate", || {
        let now = handshake(&node, Some(&admin), "TLSv1_3");
        now.starts_with("accepted") && now != first
    });
    node.ok(&["pull", "-q", &crate::harness::image("busybox")]);
    let line = lines.next().expect("the old stream lives").expect("utf-8");
    assert!(line.contains("pull") || line.contains("busybox"), "{line}");
    child.kill().expect("kill");
    child.wait().expect("wait");
    // A broken file changes nothing.
    fs::write(node.dir.join("pki/agent.pem"), "no certificate").expect("cert");
    until("the log complains", || node.agent_log().contains("agent.pem"));
    assert_eq!(node.ctl(&["version"]).code, 0);
    node.finish();
    fs::remove_dir_all(&dir).expect("pki");
}

#[test]
fn keys_that_others_can_read_are_refused() {
    let mut node = Node::start("tls-modes");
    node.stop_agent();
    set_mode(&node.dir.join("pki/agent.key"), 0o640);
    node.spawn_without_waiting();
    assert!(!node.wait_agent().success());
    assert!(node.agent_log().contains("agent.key") && node.agent_log().contains("0600"), "{}", node.agent_log());
    set_mode(&node.dir.join("pki/agent.key"), 0o600);
    node.spawn();
    let loose = node.pki.odd("loose", "admin", |_| {});
    set_mode(&loose.key, 0o644);
    let output = node.ctl_as(&loose, &["version"]);
    assert!(output.code != 0 && output.stderr.contains("chmod 600"), "{output:?}");
    node.finish();
}

#[test]
fn a_certificate_for_another_name_is_not_the_agents() {
    let dir = crate::harness::test_dir().join(format!("pki-name-{}", std::process::id()));
    let pki = Pki::make(&dir);
    pki.client("admin", "admin");
    let node = Node::builder("tls-name").pki(&dir).start();
    let wrong = pki.odd("other-host", "admin", |p: &mut CertificateParams| {
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, "other-host");
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        p.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().expect("name"))];
    });
    fs::copy(&wrong.key, node.dir.join("pki/agent.key")).expect("key");
    fs::copy(&wrong.cert, node.dir.join("pki/agent.pem")).expect("cert");
    until("the ctl refuses the agent", || node.ctl(&["version"]).code != 0);
    let output = node.ctl(&["version"]);
    assert!(output.stderr.contains("127.0.0.1") || output.stderr.contains("name"), "{output:?}");
    let good = pki.identity("agent");
    fs::copy(&good.key, node.dir.join("pki/agent.key")).expect("key");
    fs::copy(&good.cert, node.dir.join("pki/agent.pem")).expect("cert");
    until("the right one is back", || node.ctl(&["version"]).code == 0);
    node.finish();
    fs::remove_dir_all(&dir).expect("pki");
}

#[test]
fn the_unix_socket_is_roots() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::with_busybox("tls-socket");
    let mode = fs::metadata(node.socket()).expect("socket").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    let config = node.dir.join("socket.toml");
    fs::write(&config, format!("current = \"s\"\n[contexts.s]\nendpoint = \"unix://{}\"\n", node.socket().display()))
        .expect("config");
    let mut command = Command::new(crate::harness::pki::ctl_binary());
    let output = crate::harness::agent::run(command.env("BERTH_CONFIG", &config).args(["info", "-o", "json"]));
    let info: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!((info["CallerRole"].as_str(), info["Caller"].as_str()), (Some("admin"), Some("uid:0")), "{info}");
    // Somebody else cannot even connect; with the mode widened the credentials still say no.
    set_mode(&node.socket(), 0o666);
    for folder in [node.dir.clone(), node.dir.join("run")] {
        set_mode(&folder, 0o755);
    }
    let script = format!(
        "import os,socket; os.setgid(65534); os.setuid(65534); s=socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect('{}'); s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'+bytes([0,0,0,4,0,0,0,0,0])); print(len(s.recv(100)))",
        node.socket().display()
    );
    let output = Command::new("python3").args(["-c", &script]).output().expect("python3");
    assert_ne!(
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().unwrap_or(0).min(1),
        1,
        "nobody was served"
    );
    node.finish();
}

/// Opens streams and has each of them reset, `many` at once, then asks for an answer to a PING; prints what became of the connection.
/// `how`: by the `client` itself (CVE-2023-44487), or by the agent, whose answer it is to a `header` of HTTP/1 (RFC 9113, section 8.2.2) and to a
/// `window` larger than one can be (section 6.9.1; CVE-2025-8671).
fn reset_streams(node: &Node, identity: &Identity, how: &str, many: u32) -> String {
    let script = r"
import socket, ssl, struct, sys
port, ca, cert, key, how, many = int(sys.argv[1]), *sys.argv[2:6], int(sys.argv[6])
c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.load_verify_locations(ca); c.check_hostname = False; c.set_alpn_protocols(['h2'])
c.load_cert_chain(cert, key)
s = c.wrap_socket(socket.create_connection(('127.0.0.1', port), timeout=30))
def frame(kind, flags, stream, payload): return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
def text(value): return bytes([len(value)]) + value
# :method POST, :scheme https, :path, :authority, content-type, te (RFC 7541, appendix A)
headers = b'\x83\x87\x04' + text(b'/berth.v1.Node/Version') + b'\x01' + text(b'localhost') + b'\x0f\x10' + text(b'application/grpc')
headers += b'\x00' + text(b'te') + text(b'trailers')
if how == 'header': headers += b'\x00' + text(b'connection') + text(b'close')
ends = {'client': [(3, struct.pack('>I', 8))], 'window': [(8, struct.pack('>I', 0x7fffffff))], 'header': []}[how]
out = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'')
for n in range(many):
    out += frame(1, 4, 2 * n + 1, headers) + b''.join(frame(kind, 0, 2 * n + 1, payload) for kind, payload in ends)
out += frame(6, 0, 0, b'berthly!')
data, resets, answered = b'', 0, False
try:
    s.sendall(out)
    while True:
        while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], 'big'):
            more = s.recv(65536)
            if not more: raise ConnectionResetError
            data += more
        length = int.from_bytes(data[:3], 'big')
        kind, flags, body, data = data[3], data[4], data[9:9 + length], data[9 + length:]
        resets += kind == 3
        answered |= kind == 6 and flags & 1 == 1
        if answered and (how == 'client' or resets == many): print('lives', resets); break
        if kind == 7: print('goaway', int.from_bytes(body[4:8], 'big')); break
except (ConnectionError, ssl.SSLError) as e:
    print('closed')
";
    let output = Command::new("python3")
        .args(["-c", script, &node.slot.agent_port().to_string()])
        .args([&node.pki.ca(), &identity.cert, &identity.key])
        .args([how, &many.to_string()])
        .output()
        .expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn streams_that_are_reset_without_end_end_their_connection() {
    let node = Node::start("tls-resets");
    let viewer = node.pki.identity("viewer");
    for how in ["client", "header", "window"] {
        let few = reset_streams(&node, &viewer, how, 20);
        assert!(few.starts_with("lives") && (how == "client" || few.ends_with(" 20")), "{how}: {few}");
        let many = reset_streams(&node, &viewer, how, 20_000);
        // 11 is ENHANCE_YOUR_CALM (RFC 9113, section 7). The socket may be closed before it is read.
        assert!(many == "goaway 11" || many == "closed", "{how}: {many}");
        assert_eq!(node.ctl(&["version"]).code, 0);
    }
    node.finish();
}
