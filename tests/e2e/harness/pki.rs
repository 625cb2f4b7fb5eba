//! Certificates: made once per machine by the real `berthctl pki`, and odd ones that it would never make.

use super::test_dir;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Pki {
    pub dir: PathBuf,
}

/// Certificate and key as PEM files.
#[derive(Clone)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub fn ctl_binary() -> PathBuf {
    super::binary("berthctl", env!("CARGO_BIN_EXE_berthctl"))
}

fn pki(dir: &Path, arguments: &[&str]) {
    let output = Command::new(ctl_binary()).args(["pki", "--dir"]).arg(dir).args(arguments).output().expect("berthctl");
    assert!(output.status.success(), "berthctl pki {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Pki {
    /// The one that most tests share.
    pub fn shared() -> Pki {
        fs::create_dir_all(test_dir()).expect("test dir");
        let lock = File::create(test_dir().join("pki.lock")).expect("pki.lock");
        lock.lock().expect("lock");
        let dir = test_dir().join("pki");
        if !dir.join("ready").exists() {
            let _ = fs::remove_dir_all(&dir);
            let pki = Pki::make(&dir);
            for role in ["admin", "operator", "viewer"] {
                pki.client(role, role);
            }
            fs::write(dir.join("ready"), "").expect("ready");
        }
        Pki { dir }
    }

    pub fn make(dir: &Path) -> Pki {
        pki(dir, &["init"]);
        let made = Pki { dir: dir.to_owned() };
        made.agent("agent");
        made
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub fn crl(&self) -> PathBuf {
        self.dir.join("crl.pem")
    }

    pub fn client(&self, name: &str, role: &str) -> Identity {
        pki(&self.dir, &["issue", "client", name, "--role", role]);
        self.identity(name)
    }

    pub fn agent(&self, name: &str) -> Identity {
        pki(&self.dir, &["issue", "agent", name, "--san", "localhost", "--san", "127.0.0.1"]);
        self.identity(name)
    }

    pub fn revoke(&self, name: &str) {
        pki(&self.dir, &["revoke", name]);
    }

    pub fn identity(&self, name: &str) -> Identity {
        let folder = ["clients", "agents"]
            .iter()
            .map(|f| self.dir.join(f))
            .find(|f| f.join(format!("{name}.pem")).exists())
            .unwrap_or_else(|| panic!("no certificate of {name} below {}", self.dir.display()));
        Identity { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
    }

    /// A client certificate of this CA with what `change` makes of it.
    pub fn odd(&self, name: &str, role: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let ca_key = KeyPair::from_pem(&fs::read_to_string(self.dir.join("ca.key")).expect("ca.key")).expect("CA key");
        let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(self.ca()).expect("ca.pem"), ca_key).expect("CA");
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, format!("berth:{role}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &issuer).expect("sign");
        let dir = test_dir().join("odd");
        fs::create_dir_all(&dir).expect("odd");
        let stem = format!("{name}-{}", std::process::id());
        let identity = Identity { cert: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key")) };
        fs::write(&identity.cert, certificate.pem()).expect("write");
        fs::write(&identity.key, key.serialize_pem()).expect("write");
        set_mode(&identity.key, 0o600);
        identity
    }
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}
