//! TLS towards registries: the system's roots, a registry's own CA and client certificate.

use crate::RegistryConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Where distributions keep the bundle of trusted roots: Debian, Fedora, openSUSE, Alpine. The first that is there counts;
/// SSL_CERT_FILE goes first, as in OpenSSL and Go.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads the files anew at each call. The error is words that name the file.
pub(crate) fn client_config(registry: &RegistryConfig) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let said = std::env::var_os("SSL_CERT_FILE");
    let bundle = said.iter().map(Path::new).chain(BUNDLES.iter().map(Path::new)).find(|p| p.is_file());
    if let Some(bundle) = bundle {
        // Bundles hold roots that webpki does not take (very old ones); they are skipped.
        let (_, _skipped) = roots.add_parsable_certificates(certificates(bundle)?);
    }
    if let Some(ca) = &registry.ca_file {
        for cert in certificates(ca)? {
            roots.add(cert).map_err(|e| format!("{}: {e}", ca.display()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let mut config = match (&registry.cert_file, &registry.key_file) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(cert)?, private)
                .map_err(|e| format!("{} with {}: {e}", cert.display(), key.display()))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("cert_file and key_file go together".to_owned()),
    };
    // HTTP/1.1 only: ranges of one layer go side by side over connections of their own, and one connection's flow control
    // does not hold up another layer.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = |e: rustls::pki_types::pem::Error| format!("{}: {e}", path.display());
    let found: Vec<_> = CertificateDer::pem_file_iter(path).map_err(shown)?.collect::<Result<_, _>>().map_err(shown)?;
    if found.is_empty() {
        return Err(format!("{}: no certificate in it", path.display()));
    }
    Ok(found)
}
