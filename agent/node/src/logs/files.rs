//! The files of one container's output, and how they are opened.
//!
//! `NAME.00000000000000065536` holds what was stored from that byte on; all but the newest may be compressed (`.zst`, `.gz`). Shims of
//! before wrote `container.log` and renamed it to `container.log.1` and on: those come first, and are known by the time of their first
//! entry, which no renaming changes.

use super::line::time_of;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

/// Digits of the number in a name: all of u64.
const DIGITS: usize = 20;
/// What an older shim calls its current file.
const OLD: &str = "container.log";
/// A compressed file is read into memory where its end is wanted first; larger ones are never compressed.
pub(super) const PACKED_MAX: u64 = 64 << 20;

/// Where a file begins; in the order of the output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Start {
    Old(i64),
    At(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Plain,
    Zstd,
    Gzip,
}

impl Form {
    pub fn suffix(self) -> &'static str {
        match self {
            Form::Plain => "",
            Form::Zstd => ".zst",
            Form::Gzip => ".gz",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub start: Start,
    pub form: Form,
    /// With the form's suffix.
    pub name: String,
    /// On disk.
    pub bytes: u64,
    /// When it was written to last.
    pub modified: SystemTime,
}

/// The bytes of a file, uncompressed.
pub(super) enum Source {
    Plain(File),
    /// From its start on; where it is now.
    Packed(Box<dyn Read + Send>, u64),
    Memory(Vec<u8>),
}

impl Source {
    /// Bytes from `offset` on; 0: there are none (yet). What is compressed is only read forwards.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            let read = match self {
                Source::Plain(file) => file.read_at(buffer, offset),
                Source::Memory(bytes) => {
                    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                    let n = buffer.len().min(bytes.len() - from);
                    buffer[..n].copy_from_slice(&bytes[from..from + n]);
                    Ok(n)
                }
                Source::Packed(reader, at) => {
                    let skipped = offset.saturating_sub(*at);
                    let result = match skipped {
                        0 => Ok(0),
                        n => io::copy(&mut reader.take(n), &mut io::sink()),
                    };
                    result.and_then(|skipped| {
                        *at += skipped;
                        let n = reader.read(buffer)?;
                        *at += n as u64;
                        Ok(n)
                    })
                }
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// For reading from the end: what is compressed comes into memory whole.
    pub fn into_backwards(self) -> io::Result<Source> {
        let Source::Packed(reader, 0) = self else { return Ok(self) };
        let mut bytes = Vec::new();
        reader.take(PACKED_MAX).read_to_end(&mut bytes)?;
        Ok(Source::Memory(bytes))
    }

    pub fn len(&self) -> io::Result<u64> {
        match self {
            Source::Plain(file) => Ok(file.metadata()?.len()),
            Source::Memory(bytes) => Ok(bytes.len() as u64),
            Source::Packed(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// What a name says; None: it is no file of ours, or one of an older shim.
pub(super) fn parse_name(name: &str) -> Option<(&str, u64, Form)> {
    let (plain, form) = match name {
        n if n.ends_with(".zst") => (&n[..n.len() - 4], Form::Zstd),
        n if n.ends_with(".gz") => (&n[..n.len() - 3], Form::Gzip),
        n => (n, Form::Plain),
    };
    let (base, digits) = plain.rsplit_once('.')?;
    (digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
    Some((base, digits.parse().ok()?, form))
}

pub(super) fn name_of(base: &str, start: u64, form: Form) -> String {
    format!("{base}.{start:0DIGITS$}{}", form.suffix())
}

/// The file that begins at `start`, in whatever form it is.
pub(super) fn find(dir: &Path, base: &str, start: u64) -> io::Result<Option<Segment>> {
    // The compressed one is there before the plain one goes.
    for form in [Form::Plain, Form::Zstd, Form::Gzip] {
        let name = name_of(base, start, form);
        match std::fs::metadata(dir.join(&name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            meta => {
                let meta = meta?;
                let (bytes, modified) = (meta.len(), meta.modified()?);
                return Ok(Some(Segment { start: Start::At(start), form, name, bytes, modified }));
            }
        }
    }
    Ok(None)
}

/// Every file there is, oldest first. No folder: none.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut found: BTreeMap<Start, Segment> = BTreeMap::new();
    let listing = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut old = Vec::new();
    for entry in listing {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if let Some(rest) = name.strip_prefix(OLD) {
            let number = if rest.is_empty() { Some(0) } else { rest.strip_prefix('.').and_then(|n| n.parse().ok()) };
            old.extend(number.map(|n: u32| (n, name)));
            continue;
        }
        let Some((_, start, form)) = parse_name(&name) else { continue };
        let meta = match entry.metadata() {
            // Dropped or compressed meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if !meta.is_file() {
            continue;
        }
        let start = Start::At(start);
        let segment = Segment { start, form, name, bytes: meta.len(), modified: meta.modified()? };
        // Of both forms the plain one: it goes last.
        if form == Form::Plain || !found.contains_key(&start) {
            found.insert(start, segment);
        }
    }
    // From the newest on: one that is renamed meanwhile is met twice, never missed.
    old.sort_unstable();
    for (_, name) in old {
        if let Some((segment, _)) = open_old(dir, &name)? {
            found.entry(segment.start).or_insert(segment);
        }
    }
    Ok(found.into_values().collect())
}

/// None: gone, or nothing in it yet.
fn open_old(dir: &Path, name: &str) -> io::Result<Option<(Segment, File)>> {
    let file = match File::open(dir.join(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut head = [0; 40];
    let n = file.read_at(&mut head, 0)?;
    let Some(first) = time_of(&head[..n]) else { return Ok(None) };
    let meta = file.metadata()?;
    let start = Start::Old(first.nanos());
    let (name, modified) = (name.to_owned(), meta.modified()?);
    Ok(Some((Segment { start, form: Form::Plain, name, bytes: meta.len(), modified }, file)))
}

/// None: it was dropped, renamed or compressed since it was listed; look again.
pub(super) fn open(dir: &Path, segment: &Segment) -> io::Result<Option<Source>> {
    if let Start::Old(_) = segment.start {
        let opened = open_old(dir, &segment.name)?;
        return Ok(opened.filter(|(found, _)| found.start == segment.start).map(|(_, file)| Source::Plain(file)));
    }
    let file = match File::open(dir.join(&segment.name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    Ok(Some(match segment.form {
        Form::Plain => Source::Plain(file),
        Form::Zstd => Source::Packed(Box::new(zstd::Decoder::new(file)?), 0),
        Form::Gzip => Source::Packed(Box::new(flate2::read::GzDecoder::new(file)), 0),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = name_of("log", 65_536, Form::Zstd);
        assert_eq!(name, "log.00000000000000065536.zst");
        assert_eq!(parse_name(&name), Some(("log", 65_536, Form::Zstd)));
        let name = name_of("ab-json.log", u64::MAX, Form::Plain);
        assert_eq!(parse_name(&name), Some(("ab-json.log", u64::MAX, Form::Plain)));
        for no in ["log", "log.1", "ab-json.log", "log.00000000000000065536.zst.tmp", "log.+0000000000000065536"] {
            assert_eq!(parse_name(no), None, "{no}");
        }
    }
}
