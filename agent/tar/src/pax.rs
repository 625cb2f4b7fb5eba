//! PAX records: `LENGTH KEY=VALUE\n` (POSIX pax, "pax Extended Header").

use crate::header::Header;
use crate::sparse::{self, Segment};
use crate::{Problem, show};

/// Bytes of all attributes of one entry, names and values: what fits in one EROFS inode with room to spare.
pub const MAX_XATTRS: usize = 200 << 10;

/// What the records of one header say.
#[derive(Clone, Debug, Default)]
pub struct Pax {
    pub present: bool,
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_major: Option<u64>,
    pub sparse_minor: Option<u64>,
    pub real_size: Option<u64>,
    pub segments: Vec<Segment>,
    has_map: bool,
    pending_offset: Option<u64>,
}

fn bad(key: &[u8]) -> Problem {
    Problem::Pax(show(key))
}

fn decimal(key: &[u8], value: &[u8]) -> Result<u64, Problem> {
    sparse::decimal(value).ok_or_else(|| bad(key))
}

/// Seconds with an optional sign and fraction; digits below a nanosecond are cut, towards the past as Go does.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |t| (true, t));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || !whole.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let secs: i64 = whole.parse().ok()?;
    let mut nanos = 0;
    for i in 0..9 {
        nanos = nanos * 10 + fraction.as_bytes().get(i).map_or(0, |b| u32::from(b - b'0'));
    }
    Some(match (negative, nanos) {
        (false, n) => (secs, n),
        (true, 0) => (-secs, 0),
        (true, n) => (-secs - 1, 1_000_000_000 - n),
    })
}

fn unescape_url(key: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(key.len());
    let mut bytes = key.iter();
    while let Some(b) = bytes.next() {
        if *b == b'%' {
            let hex = [*bytes.next()?, *bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            out.push(*b);
        }
    }
    Some(out)
}

fn base64(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for b in value.iter().filter(|b| **b != b'=' && **b != b'\n') {
        let digit = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

impl Pax {
    /// Reads the records of one payload over what is there.
    pub fn read(&mut self, mut payload: &[u8]) -> Result<(), Problem> {
        self.present = true;
        while !payload.is_empty() {
            // Some writers fill up with NULs.
            if payload.iter().all(|b| *b == 0) {
                break;
            }
            let start = show(&payload[..payload.len().min(40)]);
            let malformed = || Problem::Pax(start.clone());
            let space = payload.iter().take(12).position(|b| *b == b' ').ok_or_else(malformed)?;
            let length = sparse::decimal(&payload[..space]).ok_or_else(malformed)?;
            let length = usize::try_from(length).map_err(|_| malformed())?;
            if length <= space + 2 || length > payload.len() || payload[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &payload[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(malformed)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            payload = &payload[length..];
        }
        if self.pending_offset.is_some() {
            return Err(Problem::Sparse("an offset has no length"));
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        if key.is_empty() || key.contains(&0) {
            return Err(bad(key));
        }
        // An empty value takes the record back (POSIX).
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let as_u32 = |value: &[u8]| -> Result<Option<u32>, Problem> {
            if value.is_empty() {
                return Ok(None);
            }
            Ok(Some(u32::try_from(decimal(key, value)?).map_err(|_| bad(key))?))
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.linkpath = text(),
            b"size" => self.size = if value.is_empty() { None } else { Some(decimal(key, value)?) },
            b"uid" => self.uid = as_u32(value)?,
            b"gid" => self.gid = as_u32(value)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value).ok_or_else(|| bad(key))?) },
            b"GNU.sparse.name" => self.sparse_name = text(),
            b"GNU.sparse.major" => self.sparse_major = Some(decimal(key, value)?),
            b"GNU.sparse.minor" => self.sparse_minor = Some(decimal(key, value)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.real_size = Some(decimal(key, value)?),
            b"GNU.sparse.map" => {
                self.segments.clear();
                sparse::read_comma_map(value, &mut self.segments)?;
                self.has_map = true;
            }
            b"GNU.sparse.offset" => {
                self.has_map = true;
                if self.pending_offset.replace(decimal(key, value)?).is_some() {
                    return Err(Problem::Sparse("an offset has no length"));
                }
            }
            b"GNU.sparse.numbytes" => {
                let offset = self.pending_offset.take().ok_or(Problem::Sparse("a length has no offset"))?;
                self.segments.push(Segment { offset, length: decimal(key, value)? });
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name.to_vec(), value.to_vec())?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = unescape_url(name).ok_or_else(|| bad(key))?;
                    // bsdtar writes both forms: the plain one, which is exact, wins.
                    if !self.xattrs.iter().any(|(n, _)| *n == name) {
                        self.xattr(name, base64(value).ok_or_else(|| bad(key))?)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), Problem> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(Problem::Xattr(show(&name), "its name must have 1 to 255 bytes and no NUL"));
        }
        if value.len() > 65535 {
            return Err(Problem::Xattr(show(&name), "its value is longer than 65535 bytes"));
        }
        self.xattrs.retain(|(n, _)| *n != name);
        self.xattrs.push((name, value));
        self.bound()
    }

    /// Global headers add up: their sum is bounded too.
    pub fn bound(&self) -> Result<(), Problem> {
        let total: usize = self.xattrs.iter().map(|(n, v)| n.len() + v.len() + 8).sum();
        if total > MAX_XATTRS {
            let name = self.xattrs.last().map_or_else(String::new, |(n, _)| show(n));
            return Err(Problem::Xattr(name, "the entry's attributes are larger than 200 KiB"));
        }
        Ok(())
    }

    pub fn is_sparse(&self) -> bool {
        self.has_map || self.sparse_major.is_some()
    }

    /// Puts the records over the header.
    pub fn apply(&mut self, header: &mut Header) {
        if let Some(path) = self.path.take() {
            header.name = path;
        }
        if let Some(link) = self.linkpath.take() {
            header.link = link;
        }
        if let Some(size) = self.size {
            header.size = size;
        }
        self.apply_global(header);
    }

    /// Of a global header: owner and time, which make sense for many entries (names and sizes do not).
    pub fn apply_global(&self, header: &mut Header) {
        header.uid = self.uid.unwrap_or(header.uid);
        header.gid = self.gid.unwrap_or(header.gid);
        (header.mtime_secs, header.mtime_nanos) = self.mtime.unwrap_or((header.mtime_secs, header.mtime_nanos));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_shapes() {
        for (text, want) in [
            ("0", Some((0, 0))),
            ("1350244992.023960108", Some((1_350_244_992, 23_960_108))),
            ("1.5", Some((1, 500_000_000))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-3", Some((-3, 0))),
            ("1.0000000009", Some((1, 0))),
            ("", None),
            ("x", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn records_must_be_well_formed() {
        for bad in [
            "",
            " ",
            "5",
            "5 ",
            "9 path=a",
            "11 path=a\n",
            "8 path=a\n",
            "x path=a\n",
            "99 path=a\n",
            "3 \n",
            "6 abc\n",
        ] {
            let result = Pax::default().read(bad.as_bytes());
            assert_eq!(result.is_err(), !bad.is_empty(), "{bad:?} {result:?}");
        }
        let mut pax = Pax::default();
        pax.read(b"9 path=b\n28 SCHILY.xattr.user.a=\0=\nb\n31 LIBARCHIVE.xattr.a%2eb=aGk=\n").expect("good");
        assert_eq!(pax.path.as_deref(), Some(&b"b"[..]));
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"\0=\nb".to_vec()), (b"a.b".to_vec(), b"hi".to_vec())]);
    }
}
