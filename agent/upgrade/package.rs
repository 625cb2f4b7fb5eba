//! A program that came over the wire: is it what was signed, may it run here, does it work?

use super::UpgradeError;
use crate::version::version;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use berth::release::{Release, elf_architecture, own_architecture, version_order};
use berth_node::Schema;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A new program has this long to say what it is.
const SELF_CHECK: Duration = Duration::from_secs(20);
/// Its answer is a line.
const SELF_CHECK_BYTES: u64 = 16 << 10;
const OID_ED25519: &str = "1.3.101.112";
const OID_EC: &str = "1.2.840.10045.2.1";

/// What `berthd --self-check` prints, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct SelfCheck {
    pub version: String,
    pub architecture: String,
    pub schema: Schema,
}

impl SelfCheck {
    /// Of this program.
    pub fn own() -> SelfCheck {
        SelfCheck { version: version().into(), architecture: own_architecture().into(), schema: Schema::own() }
    }
}

/// Whether one of the keys in the PEM file `keys` has signed the release.
///
/// # Errors
/// [`UpgradeError::NoKey`] when the file is of no use, [`UpgradeError::Signature`] when no key fits.
pub fn check_signature(keys: &Path, release: &Release, signature: &[u8]) -> Result<(), UpgradeError> {
    let no_key = |why: String| UpgradeError::NoKey(format!("upgrade.public_key {}: {why}", keys.display()));
    let text = std::fs::read(keys).map_err(|e| no_key(e.to_string()))?;
    let statement = release.statement();
    let mut seen = 0;
    for pem in Pem::iter_from_buffer(&text) {
        let pem = pem.map_err(|e| no_key(format!("it is not PEM: {e}")))?;
        if pem.label != "PUBLIC KEY" {
            return Err(no_key(format!("it holds a {} where a PUBLIC KEY belongs", pem.label)));
        }
        let (_, key) = SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|e| no_key(e.to_string()))?;
        let algorithm: &dyn VerificationAlgorithm = match key.algorithm.algorithm.to_id_string().as_str() {
            OID_ED25519 => &ED25519,
            OID_EC => &ECDSA_P256_SHA256_ASN1,
            other => return Err(no_key(format!("a key of the kind {other}: Ed25519 and ECDSA P-256 are known"))),
        };
        seen += 1;
        if UnparsedPublicKey::new(algorithm, &key.subject_public_key.data).verify(&statement, signature).is_ok() {
            return Ok(());
        }
    }
    if seen == 0 { Err(no_key("there is no key in it".into())) } else { Err(UpgradeError::Signature) }
}

/// Whether a program of this version and for this processor may follow the one that runs.
pub fn check_place(release: &Release, head: &[u8], allow_downgrade: bool) -> Result<(), UpgradeError> {
    let own = own_architecture();
    let found = elf_architecture(head).map_err(UpgradeError::Architecture)?;
    if found != release.architecture || found != own {
        let said = &release.architecture;
        return Err(UpgradeError::Architecture(format!("it is for {found} and signed as {said}; this host is {own}")));
    }
    if version_order(&release.version) < version_order(version()) && !allow_downgrade {
        return Err(UpgradeError::Downgrade { from: version().into(), to: release.version.clone() });
    }
    Ok(())
}

/// Runs the new program's own check, bounded in time and output.
pub fn self_check(program: &Path, config: Option<&Path>, release: &Release) -> Result<(), UpgradeError> {
    let failed = |why: String| UpgradeError::SelfCheck(why);
    let mut command = Command::new(program);
    command.arg("--self-check");
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(format!("it cannot be run: {e}")))?;
    let out = reader(child.stdout.take());
    let err = reader(child.stderr.take());
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|e| failed(format!("waiting for it: {e}")))? {
            Some(status) => break status,
            None if begun.elapsed() > SELF_CHECK => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("it did not end within {} s", SELF_CHECK.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let text = |r: std::sync::mpsc::Receiver<Vec<u8>>| {
        String::from_utf8_lossy(&r.recv_timeout(Duration::from_secs(1)).unwrap_or_default()).into_owned()
    };
    let (out, err) = (text(out), text(err));
    if !status.success() {
        let said: String = err.trim().chars().take(400).collect();
        return Err(failed(format!("it ended with {status}: {said}")));
    }
    let check: SelfCheck =
        serde_json::from_str(out.trim()).map_err(|e| failed(format!("its answer is not understood: {e}")))?;
    if check.version != release.version || check.architecture != release.architecture {
        let (is, arch) = (check.version, check.architecture);
        return Err(failed(format!("it says that it is {is} for {arch}, and was signed as {}", release.version)));
    }
    let own = Schema::own();
    if !own.reads(check.schema.writes) || !check.schema.reads(own.writes) {
        return Err(UpgradeError::Schema(format!(
            "it writes schema {} and reads {} to {}; this agent writes {} and reads {} to {}",
            check.schema.writes, check.schema.oldest, check.schema.newest, own.writes, own.oldest, own.newest
        )));
    }
    Ok(())
}

/// Takes what is written to a pipe, up to a bound; the rest is thrown away, so that the writer does not wait.
fn reader(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut taken = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(SELF_CHECK_BYTES).read_to_end(&mut taken);
            let _ = send.send(taken);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SigningKey};

    fn release(version: &str) -> Release {
        Release {
            version: version.into(),
            architecture: own_architecture().into(),
            sha256: "00".repeat(32),
            size: 5,
            signature: String::new(),
        }
    }

    #[test]
    fn signatures() {
        let dir = std::env::temp_dir().join(format!("berth-release-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let keys = dir.join("keys.pem");
        let pairs = [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256].map(|a| KeyPair::generate_for(a).unwrap());
        for (pair, other) in [(&pairs[0], &pairs[1]), (&pairs[1], &pairs[0])] {
            let good = pair.sign(&release("1.2.3").statement()).unwrap();
            // Two keys: one to go, one to come.
            std::fs::write(&keys, other.public_key_pem() + &pair.public_key_pem()).unwrap();
            check_signature(&keys, &release("1.2.3"), &good).unwrap();
            let error = check_signature(&keys, &release("1.2.4"), &good).unwrap_err();
            assert!(matches!(error, UpgradeError::Signature), "{error}");
            let mut bad = good.clone();
            bad[10] ^= 1;
            assert!(check_signature(&keys, &release("1.2.3"), &bad).is_err());
            assert!(check_signature(&keys, &release("1.2.3"), &[]).is_err());
            std::fs::write(&keys, other.public_key_pem()).unwrap();
            assert!(matches!(check_signature(&keys, &release("1.2.3"), &good), Err(UpgradeError::Signature)));
        }
        for text in ["", "nonsense", &pairs[0].serialize_pem()] {
            std::fs::write(&keys, text).unwrap();
            let error = check_signature(&keys, &release("1.2.3"), &[]).unwrap_err();
            assert!(matches!(error, UpgradeError::NoKey(_)), "{text:?}: {error}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_may_follow() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(check_place(&release("99.0.0"), &own, false).is_ok());
        assert!(check_place(&release(version()), &own, false).is_ok());
        let old = check_place(&release("0.0.1"), &own, false).unwrap_err();
        assert!(matches!(old, UpgradeError::Downgrade { .. }), "{old}");
        assert!(check_place(&release("0.0.1"), &own, true).is_ok());
        let mut other = own[..64].to_vec();
        other[18] = if own_architecture() == "arm64" { 62 } else { 183 };
        assert!(matches!(check_place(&release("99.0.0"), &other, true), Err(UpgradeError::Architecture(_))));
        assert!(matches!(check_place(&release("99.0.0"), b"#!/bin/sh", true), Err(UpgradeError::Architecture(_))));
    }
}
