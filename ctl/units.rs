//! Sizes and times as people write and read them; Docker's words.

use jiff::Timestamp;
use std::time::Duration;

/// `512m`, `1.5g`, `64KiB`, `100`: bytes, binary units, as Docker's `RAMInBytes`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size; write bytes or a number with b, k, m, g or t, such as 512m");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &lower[digits.len()..];
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    let number = digits.strip_suffix(' ').unwrap_or(digits);
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(bad());
    }
    if !number.contains('.') {
        let n: u64 = number.parse().map_err(|_| format!("{text:?} is too large"))?;
        return n.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"));
    }
    let n: f64 = number.parse().map_err(|_| bad())?;
    let bytes = n * (1u64 << shift) as f64;
    if bytes >= u64::MAX as f64 { Err(format!("{text:?} is too large")) } else { Ok(bytes as u64) }
}

/// As [`parse_bytes`]; -1 is no limit, 0.
pub fn parse_limit(text: &str) -> Result<u64, String> {
    if text == "-1" { Ok(0) } else { parse_bytes(text) }
}

/// Go's durations: `10m`, `1h30m`, `1.5s`, `250ms`; and whole days, `2d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration; write a number with ms, s, m, h or d, such as 10m or 1h30m");
    let mut rest = text;
    let mut seconds = 0f64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        rest = &rest[end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return Err(bad()),
            };
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is too long"))
}

/// A deadline: a duration, or plain seconds.
pub fn parse_deadline(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => parse_duration(text)?,
    };
    if parsed.is_zero() { Err("must be more than 0".into()) } else { Ok(parsed) }
}

/// RFC 3339 (also without a zone or a time: then UTC), Unix seconds with a fraction, or a duration before now.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    parse_time_at(text, Timestamp::now())
}

fn parse_time_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let range = |_| format!("{text:?} is out of range");
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().map_err(|_| format!("{text:?} is no time"))?;
        if fraction.len() > 9 || fraction.contains('.') {
            return Err(format!("{text:?} is no time: at most nine digits behind the point"));
        }
        let nanos: i32 = format!("{fraction:0<9}").parse().unwrap_or(0);
        return Timestamp::new(seconds, nanos).map_err(range);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(local) = text.parse::<jiff::civil::DateTime>() {
        return local.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp()).map_err(range);
    }
    match parse_duration(text) {
        Ok(ago) => {
            let ago = jiff::SignedDuration::try_from(ago).map_err(range)?;
            now.checked_sub(ago).map_err(range)
        }
        Err(_) => Err(format!(
            "{text:?} is no time; write 2026-01-02T15:04:05Z, Unix seconds, or a duration before now such as 10m"
        )),
    }
}

/// As [`parse_time`], for the wire.
pub fn wire_time(t: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: t.as_second(), nanos: t.subsec_nanosecond() }
}

/// From the wire; a time that no calendar has is none.
pub fn time(t: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let t = t?;
    Timestamp::new(t.seconds, t.nanos).ok()
}

/// go-units' `HumanDuration`: `5 minutes`, `About an hour`.
pub fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds as f64 / 3600.0).round() as i64;
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// go-units' `HumanSize`: decimal, four digits at most, `187MB`.
pub fn human_size(bytes: u64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// go-units' `BytesSize`: binary, `1.952GiB`.
pub fn human_bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(mut n: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while n >= base && unit + 1 < units.len() {
        n /= base;
        unit += 1;
    }
    // Docker shows image sizes with three digits and memory with four; three fit both columns.
    let digits = if n >= 100.0 {
        0
    } else if n >= 10.0 {
        1
    } else {
        2
    };
    let mut text = format!("{n:.digits$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text + units[unit]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("1b", 1),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("64KiB", 65_536),
            ("2 gb", 2 << 30),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1.2.3k", "1e3", "99999999999999999999", "99999999p", " 1"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
        assert_eq!((parse_limit("-1"), parse_limit("1k")), (Ok(0), Ok(1024)));
        assert!(parse_limit("-2").is_err());
    }

    #[test]
    fn durations() {
        for (text, ms) in [("10m", 600_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("250ms", 250), ("2d", 172_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "10", "m", "1x", "1m2", "-1s", "1..s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_deadline("30"), Ok(Duration::from_secs(30)));
        assert!(parse_deadline("0").is_err());
    }

    #[test]
    fn times() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        for (text, want) in [
            ("2026-01-02T03:04:05.5Z", "2026-01-02T03:04:05.5Z"),
            ("2026-01-02T04:04:05+01:00", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05", "2026-01-02T03:04:05Z"),
            ("2026-01-02", "2026-01-02T00:00:00Z"),
            ("0.25", "1970-01-01T00:00:00.25Z"),
            ("1767323045", "2026-01-02T03:04:05Z"),
            ("1h4m5s", "2026-01-02T02:00:00Z"),
        ] {
            let want: Timestamp = want.parse().expect("a time");
            assert_eq!(parse_time_at(text, now), Ok(want), "{text}");
        }
        for bad in ["", "yesterday", "1.2.3", "0.1234567890", "2026-13-01"] {
            assert!(parse_time_at(bad, now).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (300, "5 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (86_400 * 21, "3 weeks"),
            (86_400 * 90, "3 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), words);
        }
        for (bytes, words) in
            [(0, "0B"), (999, "999B"), (4_470_000, "4.47MB"), (187_000_000, "187MB"), (1_113_000_000, "1.11GB")]
        {
            assert_eq!(human_size(bytes), words);
        }
        assert_eq!(human_bytes(1 << 30), "1GiB");
    }
}
