//! The authority itself: its key, what it issues and what it revokes.

use super::index::{Entry, Index};
use super::read::Certificate;
use super::{Algorithm, Name, Purpose, files};
use crate::error::{Error, Result};
use berth::hex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SanType, SerialNumber,
};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Ten years: agents and clients would all need a new root otherwise.
pub const CA_DAYS: u32 = 3650;
/// A year: an agent's certificate is swapped without a restart, but somebody has to do it.
pub const AGENT_DAYS: u32 = 365;
/// People and programs leave more often than hosts.
pub const CLIENT_DAYS: u32 = 90;
/// A revocation list says by when the next one is due; berthd goes on with an old one, `pki crl` makes a fresh one.
pub const CRL_DAYS: u32 = 30;
/// Clocks of hosts differ a little.
const SKEW_SECONDS: i64 = 300;
const DAY: i64 = 86_400;

/// An authority in a folder, locked while it is open.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    name: String,
    not_after: i64,
    index: Index,
    key: KeyPair,
    /// Holds the lock of `index.lock` until it is dropped.
    _lock: File,
}

/// A certificate that was just issued, and where it lies.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub entry: Entry,
}

fn crypto(act: &str) -> impl FnOnce(rcgen::Error) -> Error + '_ {
    move |e| Error::new(format!("{act}: {e}"))
}

fn seconds_now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn time(seconds: i64) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| Error::usage("the lifetime ends beyond the year 9999; give fewer --days"))
}

fn timestamp(seconds: i64) -> Result<jiff::Timestamp> {
    jiff::Timestamp::from_second(seconds)
        .map_err(|_| Error::usage("the lifetime ends beyond the year 9999; give fewer --days"))
}

/// 126 random bits; the two fixed ones keep it positive and 16 bytes long in DER.
fn serial() -> Result<Vec<u8>> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::new("the system gives no random bytes"))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes.to_vec())
}

pub(super) fn generate(algorithm: Algorithm) -> Result<KeyPair> {
    let kind = match algorithm {
        Algorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::Ed25519 => &rcgen::PKCS_ED25519,
    };
    KeyPair::generate_for(kind).map_err(crypto("making a key"))
}

/// Rebuilt from the name alone: with the same name and key, the same issuer.
fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("index.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))?;
    file.lock().map_err(|e| Error::io(format_args!("locking {}", path.display()), &e))?;
    Ok(file)
}

impl Authority {
    /// Makes a new authority, with an empty revocation list.
    pub fn create(dir: &Path, name: &str, algorithm: Algorithm, days: u32, force: bool) -> Result<Authority> {
        if name.is_empty() || name.len() > 64 {
            return Err(Error::usage(format!("--name {name:?} must be 1 to 64 characters")));
        }
        files::private_folder(dir)?;
        let lock = lock(dir)?;
        let now = seconds_now();
        for file in ["ca.key", "ca.pem", "index.toml", "crl.pem", "agents", "clients"] {
            let path = dir.join(file);
            if !path.exists() {
                continue;
            }
            if !force {
                return Err(Error::new(format!("{} is there already", path.display())).hint(
                    "--force puts the old authority aside and makes a new one, which no agent or client trusts yet",
                ));
            }
            files::put_aside(&path, now)?;
        }
        let key = generate(algorithm)?;
        let mut params = ca_params(name);
        let not_after = now + i64::from(days) * DAY;
        params.not_before = time(now - SKEW_SECONDS)?;
        params.not_after = time(not_after)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        let cert = params.self_signed(&key).map_err(crypto("signing the authority's own certificate"))?;
        files::write_atomically(&dir.join("ca.key"), key.serialize_pem().as_bytes(), 0o600)?;
        files::write_atomically(&dir.join("ca.pem"), cert.pem().as_bytes(), 0o644)?;
        let mut made =
            Authority { dir: dir.into(), name: name.into(), not_after, index: Index::default(), key, _lock: lock };
        made.sign_crl(CRL_DAYS)?;
        Ok(made)
    }

    pub fn open(dir: &Path) -> Result<Authority> {
        if !dir.join("ca.pem").exists() {
            return Err(Error::new(format!("no authority in {}", dir.display()))
                .hint("berthctl pki init makes one; --dir names another folder"));
        }
        let lock = lock(dir)?;
        let ca_path = dir.join("ca.pem");
        let cert = Certificate::from_pem(&files::read_text(&ca_path)?, &ca_path.display().to_string())?;
        let key_path = dir.join("ca.key");
        let key = KeyPair::from_pem(&files::read_key(&key_path)?)
            .map_err(|e| Error::new(format!("{} holds no private key: {e}", key_path.display())))?;
        if key.public_key_raw() != cert.public_key {
            return Err(Error::new(format!("{} and {} do not belong together", key_path.display(), ca_path.display())));
        }
        let index = Index::read(&dir.join("index.toml"))?;
        Ok(Authority {
            dir: dir.into(),
            name: cert.common_name,
            not_after: cert.not_after.as_second(),
            index,
            key,
            _lock: lock,
        })
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Makes a key and signs its certificate.
    pub fn issue(
        &mut self,
        name: &Name,
        purpose: &Purpose,
        algorithm: Algorithm,
        days: u32,
        force: bool,
    ) -> Result<Issued> {
        let folder = self.dir.join(purpose.folder());
        files::private_folder(&folder)?;
        let certificate = folder.join(format!("{}.pem", name.as_str()));
        let key_path = folder.join(format!("{}.key", name.as_str()));
        let now = seconds_now();
        if !force && let Some(there) = [&certificate, &key_path].into_iter().find(|p| p.exists()) {
            return Err(Error::new(format!("{} is there already", there.display())).hint(
                "--force puts it aside and issues a new one; the old one stays valid until it is revoked or ends",
            ));
        }
        let not_before = now - SKEW_SECONDS;
        let not_after = now + i64::from(days) * DAY;
        if not_after > self.not_after {
            let left = (self.not_after - now).div_euclid(DAY);
            return Err(Error::usage(format!(
                "--days {days} is more than the authority itself has left ({left} days)"
            )));
        }
        let number = serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.not_before = time(not_before)?;
        params.not_after = time(not_after)?;
        params.serial_number = Some(SerialNumber::from_slice(&number));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let mut entry = Entry {
            serial: hex::encode(&number),
            name: name.as_str().to_owned(),
            kind: purpose.kind().to_owned(),
            role: None,
            san: Vec::new(),
            not_before: timestamp(not_before)?,
            not_after: timestamp(not_after)?,
            revoked: None,
        };
        match purpose {
            Purpose::Agent { names } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                for name in names {
                    params.subject_alt_names.push(subject_alt_name(name)?);
                }
                entry.san.clone_from(names);
            }
            Purpose::Client { role } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params.distinguished_name.push(DnType::OrganizationName, role.organisation());
                entry.role = Some(role.name().to_owned());
            }
        }
        let key = generate(algorithm)?;
        let issuer = Issuer::new(ca_params(&self.name), &self.key);
        let signed = params.signed_by(&key, &issuer).map_err(crypto("signing the certificate"))?;
        // The index first: a certificate that nobody knows of cannot be revoked.
        self.index.certificates.push(entry.clone());
        self.index.write(&self.dir.join("index.toml"))?;
        for old in [&certificate, &key_path] {
            files::put_aside(old, now)?;
        }
        files::write_atomically(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        files::write_atomically(&certificate, signed.pem().as_bytes(), 0o644)?;
        Ok(Issued { certificate, key: key_path, entry })
    }

    /// Revokes what a name or a serial number means, and signs the list anew. Returns what was revoked now; what was revoked before stays so.
    pub fn revoke(&mut self, name_or_serial: &str, crl_days: u32) -> Result<Vec<Entry>> {
        let found = self.index.find(name_or_serial)?;
        let now = timestamp(seconds_now())?;
        for &i in &found {
            self.index.certificates[i].revoked = Some(now);
        }
        self.sign_crl(crl_days)?;
        Ok(found.into_iter().map(|i| self.index.certificates[i].clone()).collect())
    }

    /// Signs `crl.pem` anew.
    pub fn sign_crl(&mut self, days: u32) -> Result<PathBuf> {
        let now = seconds_now();
        self.index.crl_number += 1;
        let mut revoked_certs = Vec::new();
        for entry in &self.index.certificates {
            let Some(revoked) = entry.revoked else { continue };
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&unhex(&entry.serial)?),
                revocation_time: time(revoked.as_second())?,
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: time(now - SKEW_SECONDS)?,
            next_update: time(now + i64::from(days) * DAY)?,
            crl_number: SerialNumber::from(self.index.crl_number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::new(ca_params(&self.name), &self.key);
        let crl = params.signed_by(&issuer).map_err(crypto("signing the revocation list"))?;
        let pem = crl.pem().map_err(crypto("writing the revocation list"))?;
        self.index.write(&self.dir.join("index.toml"))?;
        let path = self.dir.join("crl.pem");
        files::write_atomically(&path, pem.as_bytes(), 0o644)?;
        Ok(path)
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let bad = || Error::new(format!("index.toml: serial {text:?} is not hexadecimal"));
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(bad());
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| bad())).collect()
}

/// A host name (also `*.example.com`) or an address.
fn subject_alt_name(text: &str) -> Result<SanType> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let good = labels.len() <= 253
        && labels.split('.').all(|l| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    let name = text.try_into().ok().filter(|_| good);
    name.map(SanType::DnsName)
        .ok_or_else(|| Error::usage(format!("--san {text:?} is neither a host name nor an address")))
}
