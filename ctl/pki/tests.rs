use super::authority::{AGENT_DAYS, Authority, CA_DAYS, CLIENT_DAYS, CRL_DAYS};
use super::read::Certificate;
use super::{Algorithm, Name, Purpose, Role};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use x509_parser::prelude::FromDer;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("berthctl-pki-{name}-{}", std::process::id()));
        _ = fs::remove_dir_all(&dir);
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

fn name(s: &str) -> Name {
    s.parse().expect("a good name")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("the file is there").permissions().mode() & 0o777
}

fn read(path: &Path) -> Certificate {
    Certificate::from_pem(&fs::read_to_string(path).expect("readable"), "test").expect("a certificate")
}

fn agent(names: &[&str]) -> Purpose {
    Purpose::Agent { names: names.iter().map(|s| (*s).to_owned()).collect() }
}

#[test]
fn issues_what_was_asked_for() {
    for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
        let dir = Scratch::new(&format!("issue-{algorithm:?}"));
        drop(Authority::create(&dir.0, "test ca", algorithm, CA_DAYS, false).expect("made"));
        let mut ca = Authority::open(&dir.0).expect("opened again");
        let host = ca
            .issue(&name("web-1"), &agent(&["web-1.example.com", "127.0.0.1", "::1"]), algorithm, AGENT_DAYS, false)
            .expect("issued");
        let person = ca
            .issue(&name("ann"), &Purpose::Client { role: Role::Operator }, algorithm, CLIENT_DAYS, false)
            .expect("issued");

        let root = read(&dir.0.join("ca.pem"));
        assert!(root.ca);
        let host_cert = read(&host.certificate);
        assert_eq!(host_cert.names, ["web-1.example.com", "127.0.0.1", "::1"]);
        assert_eq!((host_cert.uses.as_slice(), host_cert.role(), host_cert.ca), (&["server"][..], None, false));
        let person_cert = read(&person.certificate);
        assert_eq!((person_cert.uses.as_slice(), person_cert.role()), (&["client"][..], Some("operator")));
        assert_eq!((person_cert.common_name.as_str(), person_cert.issuer.as_str()), ("ann", "test ca"));
        assert_eq!(person_cert.serial, person.entry.serial);
        assert_eq!(person_cert.serial.len(), 32);
        let now = jiff::Timestamp::now();
        assert!((89..=90).contains(&person_cert.days_left(now)));
        assert!((364..=365).contains(&host_cert.days_left(now)));

        for key in [dir.0.join("ca.key"), host.key, person.key, dir.0.join("index.toml")] {
            assert_eq!(mode(&key), 0o600, "{}", key.display());
        }
        for folder in ["", "agents", "clients"] {
            assert_eq!(mode(&dir.0.join(folder)), 0o700, "{folder:?}");
        }
    }
}

#[test]
fn chains_hold_for_rustls() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
    let dir = Scratch::new("chain");
    let mut ca = Authority::create(&dir.0, "berth", Algorithm::EcdsaP256, CA_DAYS, false).expect("made");
    let host = ca.issue(&name("h"), &agent(&["localhost"]), Algorithm::EcdsaP256, 1, false).expect("issued");
    let der = |p: &Path| CertificateDer::from_pem_file(p).expect("PEM");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(&dir.0.join("ca.pem"))).expect("a root");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .expect("a verifier");
    use rustls::client::danger::ServerCertVerifier;
    let check = |host_name: &'static str| {
        let name = ServerName::try_from(host_name).expect("a name");
        verifier.verify_server_cert(&der(&host.certificate), &[], &name, &[], UnixTime::now())
    };
    check("localhost").expect("the name it was issued for");
    check("elsewhere").expect_err("another name");
    PrivateKeyDer::from_pem_file(&host.key).expect("a key that rustls reads");
}

#[test]
fn revocation_is_signed_and_numbered() {
    let dir = Scratch::new("crl");
    let mut ca = Authority::create(&dir.0, "berth", Algorithm::EcdsaP256, CA_DAYS, false).expect("made");
    let list = |dir: &Path| {
        let text = fs::read(dir.join("crl.pem")).expect("there from the start");
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text).expect("PEM");
        let (_, crl) =
            x509_parser::revocation_list::CertificateRevocationList::from_der(&pem.contents).expect("a list");
        let number = crl.crl_number().map(|n| n.to_string()).expect("numbered");
        let serials: Vec<String> =
            crl.iter_revoked_certificates().map(|r| berth::hex::encode(r.raw_serial())).collect();
        (number, serials)
    };
    assert_eq!(list(&dir.0), ("1".into(), vec![]));
    let client = Purpose::Client { role: Role::Viewer };
    let one = ca.issue(&name("bob"), &client, Algorithm::EcdsaP256, 1, false).expect("issued");
    let two = ca.issue(&name("eve"), &client, Algorithm::EcdsaP256, 1, false).expect("issued");
    assert_eq!(ca.revoke("bob", CRL_DAYS).expect("revoked").len(), 1);
    assert_eq!(list(&dir.0), ("2".into(), vec![one.entry.serial.clone()]));
    assert_eq!(ca.revoke("bob", CRL_DAYS).expect("again is fine").len(), 0);
    ca.revoke(&two.entry.serial.to_uppercase(), CRL_DAYS).expect("by serial");
    assert_eq!(list(&dir.0), ("4".into(), vec![one.entry.serial, two.entry.serial]));
    let unknown = ca.revoke("nobody", CRL_DAYS).expect_err("never issued");
    assert_eq!(unknown.message, "no certificate \"nobody\" was issued here");
}

#[test]
fn nothing_is_replaced_unasked() {
    let dir = Scratch::new("replace");
    let mut ca = Authority::create(&dir.0, "berth", Algorithm::EcdsaP256, CA_DAYS, false).expect("made");
    let client = Purpose::Client { role: Role::Admin };
    let first = ca.issue(&name("ann"), &client, Algorithm::EcdsaP256, 1, false).expect("issued");
    let old = fs::read(&first.certificate).expect("there");
    ca.issue(&name("ann"), &client, Algorithm::EcdsaP256, 1, false).expect_err("there already");
    assert_eq!(fs::read(&first.certificate).expect("there"), old);
    ca.issue(&name("ann"), &client, Algorithm::EcdsaP256, 1, true).expect("put aside");
    let kept = fs::read_dir(dir.0.join("clients"))
        .expect("readable")
        .filter_map(Result::ok)
        .find(|e| e.file_name().to_string_lossy().starts_with("ann.pem.old-"))
        .expect("the old one is kept");
    assert_eq!(fs::read(kept.path()).expect("there"), old);
    assert_eq!(ca.revoke("ann", CRL_DAYS).expect("both").len(), 2);
    drop(ca);
    Authority::create(&dir.0, "berth", Algorithm::EcdsaP256, CA_DAYS, false).expect_err("there already");
    Authority::create(&dir.0, "berth", Algorithm::EcdsaP256, CA_DAYS, true).expect("put aside");
}

#[test]
fn refuses_open_keys_and_bad_names() {
    let dir = Scratch::new("refuse");
    let mut ca = Authority::create(&dir.0, "berth", Algorithm::EcdsaP256, 10, false).expect("made");
    for san in ["", "a b", "-x", "x-", "a..b", "300.300.300.300.", "*", "a_b"] {
        ca.issue(&name("h"), &agent(&[san]), Algorithm::EcdsaP256, 1, false).expect_err(san);
    }
    let long =
        ca.issue(&name("h"), &agent(&["h"]), Algorithm::EcdsaP256, 11, false).expect_err("outlives the authority");
    assert!(long.message.contains("--days 11"), "{long}");
    drop(ca);
    fs::set_permissions(dir.0.join("ca.key"), fs::Permissions::from_mode(0o640)).expect("chmod");
    let open = Authority::open(&dir.0).expect_err("others may read the key");
    assert!(open.message.contains("0640"), "{open}");
    for bad in ["", "../x", "a/b", ".x", "-x", "a b", &"x".repeat(65)] {
        bad.parse::<Name>().expect_err(bad);
    }
}
