//! One line of a log file: the CRI's format or Docker's JSON.

use berth_model::Timestamp;
use std::borrow::Cow;

/// An entry as it stands in a file.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Line<'a> {
    pub time: Timestamp,
    pub stderr: bool,
    pub partial: bool,
    pub text: Cow<'a, [u8]>,
}

#[derive(serde::Deserialize)]
struct Json {
    #[serde(default)]
    log: String,
    stream: String,
    time: String,
}

/// `2026-11-21T18:50:29.123456789Z stdout F text`, or `{"log":"text\n","stream":"stdout","time":"…"}`. None: no such line, it is left out.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    if line.first() == Some(&b'{') { parse_json(line) } else { parse_cri(line) }
}

/// The time of an entry, without looking at the rest of it.
pub(super) fn time_of(line: &[u8]) -> Option<Timestamp> {
    time(std::str::from_utf8(split(line)?.0).ok()?)
}

fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp(i64::try_from(time.as_nanosecond()).ok()?))
}

fn is_stderr(name: &[u8]) -> Option<bool> {
    match name {
        b"stdout" => Some(false),
        b"stderr" => Some(true),
        _ => None,
    }
}

fn parse_json(line: &[u8]) -> Option<Line<'_>> {
    let Json { log, stream, time: at } = serde_json::from_slice(line).ok()?;
    let mut text = log.into_bytes();
    let partial = text.pop_if(|b| *b == b'\n').is_none();
    Some(Line { time: time(&at)?, stderr: is_stderr(stream.as_bytes())?, partial, text: Cow::Owned(text) })
}

fn parse_cri(line: &[u8]) -> Option<Line<'_>> {
    let (at, rest) = split(line)?;
    let (stream, rest) = split(rest)?;
    // Tags may be joined by colons (the CRI's format); the first says whether the line goes on.
    let (tags, text) = split(rest).unwrap_or((rest, b""));
    let partial = match tags.split(|b| *b == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    let time = time(std::str::from_utf8(at).ok()?)?;
    Some(Line { time, stderr: is_stderr(stream)?, partial, text: Cow::Borrowed(text) })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|b| *b == b' ')?;
    Some((&bytes[..space], &bytes[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() {
        let l = parse(b"2026-11-21T18:50:29.123456789Z stderr P hello  world").unwrap();
        assert_eq!((l.stderr, l.partial, &*l.text), (true, true, &b"hello  world"[..]));
        assert_eq!(l.time.nanos() % 1_000_000_000, 123_456_789);
        assert_eq!(
            &*parse(b"2026-11-21T18:50:29Z stdout F").unwrap().text,
            b"",
            "an empty line may have lost its space"
        );
        assert_eq!(&*parse(b"2026-11-21T18:50:29Z stdout F ").unwrap().text, b"");
        for bad in
            [&b""[..], b"x", b"2026-11-21T18:50:29Z stdin F x", b"2026-11-21T18:50:29Z stdout X x", b"\xff stdout F x"]
        {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn json_lines_are_parsed() {
        let l = parse(
            br#"{"log":"a \u003cb\u003e\n","stream":"stderr","attrs":{"x":"y"},"time":"2026-11-21T18:50:29.1Z"}"#,
        );
        let l = l.unwrap();
        assert_eq!((l.stderr, l.partial, &*l.text), (true, false, &b"a <b>"[..]));
        assert_eq!(l.time.nanos() % 1_000_000_000, 100_000_000);
        let l = parse(br#"{"log":"part","stream":"stdout","time":"2026-11-21T18:50:29Z"}"#).unwrap();
        assert!(l.partial && !l.stderr);
        for bad in [&b"{"[..], b"{}", br#"{"log":"x","stream":"stdin","time":"2026-11-21T18:50:29Z"}"#] {
            assert_eq!(parse(bad), None);
        }
    }
}
