//! Who a client certificate speaks for, and what that caller may do.
//!
//! The role is the certificate's one Organization (O) value: `berth:admin`, `berth:operator` or `berth:viewer`. The
//! name is its one Common Name (CN). The agent decides with it, the ctl shows it; nothing here trusts its input.

use x509_parser::prelude::{FromDer, X509Certificate};

/// The prefix of every role in a certificate.
pub const ROLE_PREFIX: &str = "berth:";
/// Callers on the Unix socket are named by it: `uid:0`.
pub const UID_PREFIX: &str = "uid:";
/// X.520's upper bound for a common name is 64 characters; some CAs write more.
const MAX_NAME_CHARS: usize = 128;

/// What a caller may do. The order counts: a greater role may do all that a lesser one may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Looks, and changes nothing.
    Viewer,
    /// Works with images and containers, without what would make it root of the host.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role, least first.
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

    /// The word for people and for the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// The certificate's Organization value: `berth:admin`.
    pub const fn organization(self) -> &'static str {
        match self {
            Role::Viewer => "berth:viewer",
            Role::Operator => "berth:operator",
            Role::Admin => "berth:admin",
        }
    }

    /// From the word, without the prefix.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a certificate carries no role.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RoleError {
    /// The subject has no Organization.
    #[error("its subject has no Organization (O); expected O=berth:admin, O=berth:operator or O=berth:viewer")]
    Missing,
    /// More than one Organization: which one counts is nobody's guess.
    #[error("its subject has {0} Organization (O) values; expected exactly one")]
    Several(usize),
    /// An Organization that is no role.
    #[error("its Organization {0:?} is no role; expected berth:admin, berth:operator or berth:viewer")]
    Unknown(String),
    /// The Organization's encoding is no text.
    #[error("its Organization (O) is not readable text")]
    Unreadable,
}

/// Why bytes are no certificate of a caller.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not X.509 in DER, or with bytes behind it.
    #[error("the certificate is not X.509 in DER encoding")]
    Malformed,
    /// No Common Name, or several.
    #[error("the certificate's subject must have exactly one Common Name (CN), it has {0}")]
    Names(usize),
    /// Empty, too long, or with control characters.
    #[error("the certificate's Common Name (CN) must be 1 to 128 printable characters")]
    BadName,
    /// It would pass for root on the Unix socket.
    #[error(
        "the certificate's Common Name (CN) must not begin with {UID_PREFIX:?}: that names callers on the Unix socket"
    )]
    Reserved,
}

/// What a certificate says about its holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The Common Name.
    pub name: String,
    /// The role, or why there is none.
    pub role: Result<Role, RoleError>,
    /// Serial number, lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// The issuer's name, DER: with the serial number it names the certificate (RFC 5280, 4.1.2.2).
    pub issuer: Vec<u8>,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch; the last second in which it is valid.
    pub not_after: i64,
}

impl Holder {
    /// Reads a certificate in DER. It checks no signature: TLS has done that.
    ///
    /// # Errors
    /// When the bytes are no certificate, or it names nobody. A missing or unknown role is no error: see `role`.
    pub fn from_der(der: &[u8]) -> Result<Holder, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let subject = certificate.subject();
        let names: Vec<_> = subject.iter_common_name().collect();
        let [name] = names.as_slice() else { return Err(CertificateError::Names(names.len())) };
        let name = name.as_str().map_err(|_| CertificateError::BadName)?;
        if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
            return Err(CertificateError::BadName);
        }
        if name.starts_with(UID_PREFIX) {
            return Err(CertificateError::Reserved);
        }
        let organizations: Vec<_> = subject.iter_organization().map(|o| o.as_str().ok()).collect();
        Ok(Holder {
            name: name.to_owned(),
            role: role_of(&organizations),
            serial: serial_hex(certificate.raw_serial()),
            issuer: certificate.issuer().as_raw().to_vec(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

fn role_of(organizations: &[Option<&str>]) -> Result<Role, RoleError> {
    match organizations {
        [] => Err(RoleError::Missing),
        [Some(one)] => Role::ALL
            .into_iter()
            .find(|role| role.organization() == *one)
            .ok_or_else(|| RoleError::Unknown(one.chars().take(64).collect())),
        [None] => Err(RoleError::Unreadable),
        several => Err(RoleError::Several(several.len())),
    }
}

/// A serial number's content octets as lower-case hexadecimal without leading zeros, as `openssl x509 -serial` has it.
pub fn serial_hex(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets.iter().skip_while(|octet| **octet == 0) {
        text.push_str(&format!("{octet:02x}"));
    }
    if text.is_empty() {
        text.push_str("00");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber};

    fn certificate(pairs: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in pairs {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xff]));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn roles_are_read() {
        for role in Role::ALL {
            let der = certificate(&[(DnType::CommonName, "alice"), (DnType::OrganizationName, role.organization())]);
            let holder = Holder::from_der(&der).unwrap();
            assert_eq!(holder.role, Ok(role));
            assert_eq!(holder.name, "alice");
            assert_eq!(holder.serial, "0aff");
            assert_eq!(Role::from_name(role.name()), Some(role));
            assert_eq!(role.organization(), format!("{ROLE_PREFIX}{role}"));
        }
        assert!(Role::Admin > Role::Operator && Role::Operator > Role::Viewer);
    }

    #[test]
    fn anything_else_is_no_role() {
        let role = |o: &str| {
            Holder::from_der(&certificate(&[(DnType::CommonName, "a"), (DnType::OrganizationName, o)])).unwrap().role
        };
        for odd in ["admin", "berth:Admin", "berth:admin ", "berth:", "berth:root", "Berth:admin"] {
            assert_eq!(role(odd), Err(RoleError::Unknown(odd.into())));
        }
        let none = certificate(&[(DnType::CommonName, "a")]);
        assert_eq!(Holder::from_der(&none).unwrap().role, Err(RoleError::Missing));
        assert_eq!(role_of(&[Some("berth:viewer"), Some("berth:admin")]), Err(RoleError::Several(2)));
        assert_eq!(role_of(&[Some("berth:admin"), None]), Err(RoleError::Several(2)));
        assert_eq!(role_of(&[None]), Err(RoleError::Unreadable));
    }

    #[test]
    fn names_are_checked() {
        let name = |n: &str| Holder::from_der(&certificate(&[(DnType::CommonName, n)])).map(|h| h.name);
        assert_eq!(name("a\nb"), Err(CertificateError::BadName));
        assert_eq!(name(&"x".repeat(129)), Err(CertificateError::BadName));
        assert_eq!(name("uid:0"), Err(CertificateError::Reserved));
        assert_eq!(name("uid"), Ok("uid".into()));
        let none = certificate(&[(DnType::OrganizationName, "berth:admin")]);
        assert_eq!(Holder::from_der(&none), Err(CertificateError::Names(0)));
    }

    #[test]
    fn broken_bytes_are_refused() {
        let der = certificate(&[(DnType::CommonName, "a")]);
        for cut in 0..der.len() {
            assert_eq!(Holder::from_der(&der[..cut]), Err(CertificateError::Malformed), "{cut}");
        }
        let mut longer = der.clone();
        longer.push(0);
        assert_eq!(Holder::from_der(&longer), Err(CertificateError::Malformed));
    }

    #[test]
    fn serials() {
        assert_eq!(serial_hex(&[0, 0x80, 1]), "8001");
        assert_eq!(serial_hex(&[0]), "00");
        assert_eq!(serial_hex(&[]), "00");
    }
}
