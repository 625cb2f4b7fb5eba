//! The key that releases of berthd are signed with: apart from the authority, for who may speak to agents need not be who builds them.

use super::{Algorithm, authority, files};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Makes `release.key` and `release.pub` in `dir`; `force` puts those that are there aside. Gives both paths.
pub fn create(dir: &Path, algorithm: Algorithm, force: bool) -> Result<(PathBuf, PathBuf)> {
    files::private_folder(dir)?;
    let (key, public) = (dir.join("release.key"), dir.join("release.pub"));
    if force {
        let now = jiff::Timestamp::now().as_second();
        files::put_aside(&key, now)?;
        files::put_aside(&public, now)?;
    } else if let Some(there) = [&key, &public].into_iter().find(|p| p.exists()) {
        return Err(Error::new(format!("{} is there already", there.display()))
            .hint("agents trust its public half: --force makes a new one and puts this one aside"));
    }
    let pair = authority::generate(algorithm)?;
    files::write_atomically(&key, pair.serialize_pem().as_bytes(), 0o600)?;
    files::write_atomically(&public, pair.public_key_pem().as_bytes(), 0o644)?;
    Ok((key, public))
}
