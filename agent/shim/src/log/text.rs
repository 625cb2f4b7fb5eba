//! How times, numbers and JSON strings are written: without an allocation.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-21T18:25:18.123456789Z`
pub const TIME_LEN: usize = 30;

/// RFC 3339 in UTC with nanoseconds. Times before 1970 are shown as 1970.
pub fn format_time(time: SystemTime, out: &mut [u8; TIME_LEN]) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    out.copy_from_slice(b"0000-00-00T00:00:00.000000000Z");
    let mut put = |at: usize, width: usize, mut value: u64| {
        for i in (at..at + width).rev() {
            out[i] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, second / 3600);
    put(14, 2, second / 60 % 60);
    put(17, 2, second % 60);
    put(20, 9, since.subsec_nanos().into());
}

/// Year, month and day of a day since 1970-01-01, by Howard Hinnant's days-to-civil: years begin in March, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

pub fn decimal(mut value: u64, out: &mut [u8; 20]) -> &[u8] {
    let mut at = out.len();
    loop {
        at -= 1;
        out[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &out[at..];
        }
    }
}

/// A buffer that is filled up; what does not fit was to be checked before.
pub struct Filler<'a> {
    pub bytes: &'a mut [u8],
    pub filled: usize,
}

impl Filler<'_> {
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// A JSON string with Docker's escapes: HTML's `<>&` and the line separators U+2028 and U+2029 too, U+FFFD for each byte that is not
    /// UTF-8. At most six bytes for one.
    pub fn put_json(&mut self, text: &[u8]) {
        self.put(b"\"");
        for chunk in text.utf8_chunks() {
            let valid = chunk.valid().as_bytes();
            let mut start = 0;
            let mut at = 0;
            while at < valid.len() {
                let (width, escaped) = escape(&valid[at..]);
                if let Some(escaped) = escaped {
                    self.put(&valid[start..at]);
                    self.put(escaped.as_bytes());
                    start = at + width;
                }
                at += width;
            }
            self.put(&valid[start..]);
            for _ in chunk.invalid() {
                self.put(b"\\ufffd");
            }
        }
        self.put(b"\"");
    }
}

/// How many bytes of `text` are looked at, and what stands for them; `None`: themselves.
fn escape(text: &[u8]) -> (usize, Option<&'static str>) {
    const CONTROL: [&str; 32] = [
        "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007", "\\u0008", "\\u0009",
        "\\n", "\\u000b", "\\u000c", "\\r", "\\u000e", "\\u000f", "\\u0010", "\\u0011", "\\u0012", "\\u0013",
        "\\u0014", "\\u0015", "\\u0016", "\\u0017", "\\u0018", "\\u0019", "\\u001a", "\\u001b", "\\u001c", "\\u001d",
        "\\u001e", "\\u001f",
    ];
    match text {
        [b @ 0..=31, ..] => (1, Some(CONTROL[usize::from(*b)])),
        [b'"', ..] => (1, Some("\\\"")),
        [b'\\', ..] => (1, Some("\\\\")),
        [b'<', ..] => (1, Some("\\u003c")),
        [b'>', ..] => (1, Some("\\u003e")),
        [b'&', ..] => (1, Some("\\u0026")),
        [0xe2, 0x80, 0xa8, ..] => (3, Some("\\u2028")),
        [0xe2, 0x80, 0xa9, ..] => (3, Some("\\u2029")),
        _ => (1, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn time(seconds: u64, nanos: u32) -> String {
        let mut out = [0; TIME_LEN];
        format_time(UNIX_EPOCH + Duration::new(seconds, nanos), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(951_782_399, 999_999_999), "2000-02-28T23:59:59.999999999Z");
        assert_eq!(time(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(time(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(time(1_795_285_518, 123_456_789), "2026-11-21T18:25:18.123456789Z");
    }

    #[test]
    fn json_strings_are_dockers() {
        let json = |text: &[u8]| {
            let mut bytes = [0; 200];
            let mut filler = Filler { bytes: &mut bytes, filled: 0 };
            filler.put_json(text);
            let filled = filler.filled;
            String::from_utf8(bytes[..filled].to_vec()).unwrap()
        };
        assert_eq!(json(b"plain\n"), r#""plain\n""#);
        assert_eq!(json(b"\r\t\x00\x1f\x7f"), "\"\\r\\u0009\\u0000\\u001f\x7f\"");
        assert_eq!(json(br#"<a href="x">\&"#), r#""\u003ca href=\"x\"\u003e\\\u0026""#);
        assert_eq!(json("gr\u{fc}n \u{2028}\u{2029}\u{2030}".as_bytes()), "\"gr\u{fc}n \\u2028\\u2029\u{2030}\"");
        assert_eq!(json(b"a\xff\xe2\x80b"), r#""a\ufffd\ufffd\ufffdb""#);
    }
}
