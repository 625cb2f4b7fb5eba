//! What a certificate says, for people.

use crate::error::{Error, Result};
use berth::hex;
use std::fmt::Write;
use std::net::IpAddr;
use x509_parser::prelude::*;

/// The parts of a certificate that people ask about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    pub common_name: String,
    pub organisations: Vec<String>,
    pub issuer: String,
    pub ca: bool,
    pub uses: Vec<&'static str>,
    pub names: Vec<String>,
    pub not_before: jiff::Timestamp,
    pub not_after: jiff::Timestamp,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the whole certificate, lower-case hexadecimal.
    pub fingerprint: String,
    pub algorithm: String,
    /// The subject's public key, as in the certificate.
    pub public_key: Vec<u8>,
}

impl Certificate {
    /// The first certificate of a PEM file. `origin` names the file in errors.
    pub fn from_pem(text: &str, origin: &str) -> Result<Certificate> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes())
            .map_err(|_| Error::new(format!("{origin} is no PEM file with a certificate")))?;
        if pem.label != "CERTIFICATE" {
            return Err(Error::new(format!("{origin} holds a {}, not a certificate", pem.label)));
        }
        Certificate::from_der(&pem.contents, origin)
    }

    pub fn from_der(der: &[u8], origin: &str) -> Result<Certificate> {
        let (_, cert) =
            X509Certificate::from_der(der).map_err(|e| Error::new(format!("{origin} is no X.509 certificate: {e}")))?;
        let subject = cert.subject();
        let text = |a: &AttributeTypeAndValue| a.as_str().unwrap_or("?").to_owned();
        let time = |t: &ASN1Time| jiff::Timestamp::from_second(t.timestamp()).unwrap_or_default();
        let mut uses = Vec::new();
        if let Ok(Some(eku)) = cert.extended_key_usage() {
            for (on, word) in
                [(eku.value.server_auth, "server"), (eku.value.client_auth, "client"), (eku.value.any, "any")]
            {
                if on {
                    uses.push(word);
                }
            }
        }
        let mut names = Vec::new();
        if let Ok(Some(san)) = cert.subject_alternative_name() {
            for name in &san.value.general_names {
                match name {
                    GeneralName::DNSName(n) => names.push((*n).to_owned()),
                    GeneralName::IPAddress(b) => match (<[u8; 4]>::try_from(*b), <[u8; 16]>::try_from(*b)) {
                        (Ok(v4), _) => names.push(IpAddr::from(v4).to_string()),
                        (_, Ok(v6)) => names.push(IpAddr::from(v6).to_string()),
                        _ => {}
                    },
                    _ => {}
                }
            }
        }
        let algorithm = match cert.public_key().algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.10045.2.1" => "ECDSA".to_owned(),
            "1.3.101.112" => "Ed25519".to_owned(),
            "1.2.840.113549.1.1.1" => "RSA".to_owned(),
            other => other.to_owned(),
        };
        Ok(Certificate {
            common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
            organisations: subject.iter_organization().map(text).collect(),
            issuer: cert.issuer().iter_common_name().next().map(text).unwrap_or_default(),
            ca: cert.is_ca(),
            uses,
            names,
            not_before: time(&cert.validity().not_before),
            not_after: time(&cert.validity().not_after),
            serial: hex::encode(cert.raw_serial()),
            fingerprint: hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref()),
            algorithm,
            public_key: cert.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// berth's role: the only organisation that starts with `berth:`.
    pub fn role(&self) -> Option<&str> {
        let mut roles = self.organisations.iter().filter_map(|o| o.strip_prefix("berth:"));
        let role = roles.next()?;
        if roles.next().is_some() { None } else { Some(role) }
    }

    /// Whole days until the end; negative behind it.
    pub fn days_left(&self, now: jiff::Timestamp) -> i64 {
        (self.not_after.as_second() - now.as_second()).div_euclid(86_400)
    }

    /// `valid`, `expired` or `not yet valid`.
    pub fn validity(&self, now: jiff::Timestamp) -> &'static str {
        if now > self.not_after {
            "expired"
        } else if now < self.not_before {
            "not yet valid"
        } else {
            "valid"
        }
    }

    /// One fact a line.
    pub fn describe(&self, now: jiff::Timestamp) -> String {
        let kind = if self.ca { "certificate authority".to_owned() } else { self.uses.join(", ") };
        let mut s = String::new();
        let mut line = |key: &str, value: &str| _ = writeln!(s, "{key:<13}{value}");
        line("Name:", &self.common_name);
        line("Use:", &kind);
        if let Some(role) = self.role() {
            line("Role:", role);
        }
        if !self.names.is_empty() {
            line("Valid for:", &self.names.join(", "));
        }
        line("Issuer:", &self.issuer);
        line("Key:", &self.algorithm);
        line("Serial:", &self.serial);
        line("Fingerprint:", &format!("sha256:{}", self.fingerprint));
        line("Not before:", &self.not_before.to_string());
        line("Not after:", &self.not_after.to_string());
        let days = self.days_left(now);
        let left = if days >= 0 { format!("{days} days left") } else { format!("for {} days", -days) };
        line("Status:", &format!("{} ({left})", self.validity(now)));
        s
    }
}
