//! Digests of byte streams.

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use berth_model::Digest;
use berth_model::digest::Algorithm;

/// Hashes what comes in pieces.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: Context,
}

impl Hasher {
    /// Nothing hashed yet.
    pub fn new(algorithm: Algorithm) -> Self {
        let context = match algorithm {
            Algorithm::Sha256 => Context::new(&SHA256),
            Algorithm::Sha512 => Context::new(&SHA512),
        };
        Hasher { algorithm, context }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all that came.
    pub fn finish(self) -> Digest {
        Digest::from_bytes(self.algorithm, self.context.finish().as_ref())
    }
}

pub(crate) fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}
