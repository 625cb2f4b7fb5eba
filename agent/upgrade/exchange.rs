//! The two programs change places. Every step is one rename, and can be taken back from any point.

use super::journal::{self, Journal};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// The program that runs, as a file of its own: what lies at its path may be gone or another one.
const OWN: &str = "/proc/self/exe";

/// Keeps the running program at `previous`.
pub fn keep(previous: &Path) -> io::Result<()> {
    let copy = &mut |to: &mut File| io::copy(&mut File::open(OWN)?, to).map(drop);
    journal::put(previous, copy, 0o755)
}

/// Puts the program that is whole and on the disk at `from` in its place.
pub fn put_in_place(from: &Path, program: &Path) -> io::Result<()> {
    fs::rename(from, program)?;
    journal::sync_folder(program)
}

/// The old program is in its place again, whether the new one got there or not.
pub fn put_back(journal: &Journal) -> io::Result<()> {
    let _ = fs::remove_file(journal::aside(&journal.program));
    let there = match digest(&journal.program) {
        Ok(there) => Some(there),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    // Another program than the new one is there: it was not exchanged yet, or somebody has installed one meanwhile.
    if there.is_some_and(|there| there != journal.to_sha256) {
        return Ok(());
    }
    // A copy, so that the previous one stays: a second failure must find it, too.
    let copy = &mut |to: &mut File| io::copy(&mut File::open(&journal.previous)?, to).map(drop);
    journal::put(&journal.program, copy, 0o755)
}

/// SHA-256 of a file, hexadecimal.
pub fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(berth::hex::encode(hash.finish().as_ref())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// SHA-256 of the running program.
pub fn own_digest() -> io::Result<String> {
    digest(Path::new(OWN))
}
