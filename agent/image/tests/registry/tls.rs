//! A registry with a private CA that asks for a client certificate.

use crate::fake::{Node, limits};
use berth_image::{ImageError, RegistryConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Pki {
    dir: PathBuf,
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Pki {
    /// Files ca.pem, client.pem and client.key, and a server's configuration.
    fn make() -> (Pki, ServerConfig) {
        let dir = std::env::temp_dir().join(format!("berth-image-test-tls-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
            (cert, key)
        };
        let (client, client_key) = leaf("client");
        std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(dir.join("client.pem"), client.pem()).unwrap();
        std::fs::write(dir.join("client.key"), client_key.serialize_pem()).unwrap();
        let (server, server_key) = leaf("127.0.0.1");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca.der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![server.der().clone()], PrivateKeyDer::try_from(server_key.serialize_der()).unwrap())
            .unwrap();
        (Pki { dir }, config)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.dir.join(name))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_cas_and_client_certificates() {
    let (pki, config) = Pki::make();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            }
        }
    });
    let reference = format!("{address}/a").parse().unwrap();
    let pull = async |config: RegistryConfig| {
        let node = Node::with(
            |c| {
                c.registries.insert(address.to_string(), config);
            },
            limits(),
        );
        node.pull(&reference).await.unwrap_err()
    };
    // An unknown CA is no reason to go on without TLS, loopback or not.
    let e = pull(RegistryConfig::default()).await;
    assert!(matches!(&e, ImageError::Unavailable { reason, .. } if reason.contains("certificate")), "{e}");
    // Without a client certificate the server hangs up.
    let e = pull(RegistryConfig { ca_file: pki.file("ca.pem"), ..RegistryConfig::default() }).await;
    assert!(matches!(e, ImageError::Unavailable { .. }), "{e}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let whole = RegistryConfig {
        ca_file: pki.file("ca.pem"),
        cert_file: pki.file("client.pem"),
        key_file: pki.file("client.key"),
        ..RegistryConfig::default()
    };
    let e = pull(whole.clone()).await;
    assert!(matches!(e, ImageError::NotFound { .. }), "it was asked, and answered: {e}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // Files that cannot be used are named.
    for (bad, words) in [
        (
            RegistryConfig { ca_file: Some(Path::new("/nonexistent/ca.pem").to_owned()), ..whole.clone() },
            "/nonexistent",
        ),
        (RegistryConfig { ca_file: pki.file("client.key"), ..whole.clone() }, "no certificate"),
        (RegistryConfig { key_file: None, ..whole.clone() }, "go together"),
    ] {
        let e = pull(bad).await;
        assert!(matches!(&e, ImageError::Config { reason, .. } if reason.contains(words)), "{e}");
    }
}
