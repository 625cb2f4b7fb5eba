//! Doors for the fuzz targets: files of a container's output, as a container filled them or a disk spoilt them.

use super::files::{Form, name_of, parse_name};
use super::reader::LogReader;
use super::{LogCursor, LogPosition};
use crate::view::{LogEntry, LogQuery};
use std::path::Path;

/// A cursor of a caller's, and a file's name.
pub fn words(text: &str) {
    if let Ok(cursor) = text.parse::<LogCursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
    if let Some((base, start, form)) = parse_name(text) {
        assert_eq!(name_of(base, start, form), text);
    }
}

/// Reads the output in an empty `folder` in two files, cut at `cut`: in whatever form the first one is, from wherever it is read.
pub fn files(folder: &Path, bytes: &[u8], cut: usize) {
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    let put = |start: usize, form, bytes: &[u8]| {
        std::fs::write(folder.join(name_of("log", start as u64, form)), bytes).expect("a file");
    };
    if !first.is_empty() {
        put(first.len(), Form::Plain, second);
    }
    let mut seen: Option<Vec<LogEntry>> = None;
    for form in [Form::Plain, Form::Zstd, Form::Gzip] {
        match form {
            Form::Plain => put(0, form, if first.is_empty() { second } else { first }),
            Form::Zstd => put(0, form, &zstd::encode_all(first, 1).expect("in memory")),
            Form::Gzip => put(0, form, &gzip(first)),
        }
        let all = read(folder, &LogQuery::default(), None);
        let size: usize = all.iter().map(|e| e.line.len()).sum();
        assert!(size <= 3 * bytes.len(), "{size} bytes out of {}", bytes.len());
        for tail in [0, 1, 3] {
            let last = read(folder, &LogQuery { tail: Some(tail), ..LogQuery::default() }, None);
            assert!(all.ends_with(&last), "the last {tail}: {last:?} of {all:?}");
        }
        if let Some(entry) = all.get(all.len() / 2) {
            let behind = read(folder, &LogQuery::default(), Some(entry.position));
            assert_eq!(behind, all[all.len() / 2 + 1..], "behind {:?}", entry.position);
        }
        assert!(seen.as_ref().is_none_or(|seen| *seen == all), "it depends on the form");
        seen = Some(all);
        std::fs::remove_file(folder.join(name_of("log", 0, form))).expect("the file");
        if first.is_empty() {
            return;
        }
    }
    std::fs::remove_file(folder.join(name_of("log", first.len() as u64, Form::Plain))).expect("the file");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).and_then(|()| out.finish()).expect("in memory")
}

fn read(folder: &Path, query: &LogQuery, after: Option<LogPosition>) -> Vec<LogEntry> {
    let mut reader = match after {
        Some(position) => LogReader::from_position(folder.to_owned(), query, position),
        None => LogReader::new(folder.to_owned(), query),
    };
    let mut all = Vec::new();
    loop {
        let batch = reader.batch().expect("files that are there");
        all.extend(batch.entries);
        if batch.at_end {
            return all;
        }
    }
}
