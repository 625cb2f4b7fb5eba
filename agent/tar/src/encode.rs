//! Writing tars: ustar headers, with PAX records in front where ustar has no room (POSIX 1003.1-2001), and GNU's sparse format 1.0.

use crate::header::BLOCK;
use crate::{Entry, Kind, Segment};
use std::io::{self, Write};

/// Largest number of eleven octal digits: 8 GiB less a byte, or the year 2242.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;
/// Largest number of seven octal digits.
const MAX_OCTAL_7: u32 = 0o7_777_777;

/// Writes one tar, entry by entry.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    /// Data bytes that the entry still owes.
    left: u64,
    padding: usize,
}

/// What goes into the header block.
struct Block<'a> {
    name: &'a [u8],
    link: &'a [u8],
    typeflag: u8,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    dev: (u32, u32),
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Writer { out, left: 0, padding: 0 }
    }

    /// Begins an entry; its data, exactly as many bytes as are stored, follow through [`Writer::data`]. `data_offset` is not looked at.
    ///
    /// # Errors
    /// `InvalidInput` while an entry's data are missing; what the stream says.
    pub fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the last entry's data are missing"));
        }
        self.pad()?;
        let map = entry.sparse.map(sparse_map);
        let stored = match (entry.kind, entry.sparse) {
            (Kind::Regular, None) => entry.size,
            (Kind::Regular, Some(segments)) => segments.iter().map(|s| s.length).sum(),
            _ => 0,
        };
        let size = stored + map.as_ref().map_or(0, |m| m.len() as u64);
        let mut name = entry.name.to_vec();
        if entry.kind == Kind::Directory && !name.ends_with(b"/") {
            name.push(b'/');
        }
        let records = records(entry, &name, size, map.is_some());
        let sparse_name = [b"GNUSparseFile.0/", base(entry.name)].concat();
        let block = Block {
            name: if map.is_some() { &sparse_name } else { &name },
            link: entry.link,
            typeflag: typeflag(entry.kind),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size,
            mtime: u64::try_from(entry.mtime_secs).unwrap_or(0),
            dev: (entry.dev_major, entry.dev_minor),
        };
        if !records.is_empty() {
            let about = [b"PaxHeaders.0/", base(&name)].concat();
            let pax =
                Block { name: &about, link: b"", typeflag: b'x', mode: 0o644, size: records.len() as u64, ..block };
            self.out.write_all(&pax.encode())?;
            self.out.write_all(&records)?;
            self.zeros(padding(records.len() as u64))?;
        }
        self.out.write_all(&block.encode())?;
        if let Some(map) = map {
            self.out.write_all(&map)?;
        }
        self.left = stored;
        self.padding = padding(size);
        Ok(())
    }

    /// The next bytes of the entry's data; of a sparse file only its pieces, one behind the other.
    ///
    /// # Errors
    /// `InvalidInput` for more than was announced; what the stream says.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more data than the entry's size"))?;
        self.out.write_all(bytes)
    }

    /// Data bytes that the entry still owes.
    pub fn owed(&self) -> u64 {
        self.left
    }

    /// The end mark. Gives the stream back.
    pub fn finish(mut self) -> io::Result<W> {
        if self.left > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the last entry's data are missing"));
        }
        self.pad()?;
        self.zeros(2 * BLOCK)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self) -> io::Result<()> {
        let n = std::mem::take(&mut self.padding);
        self.zeros(n)
    }

    fn zeros(&mut self, n: usize) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK][..n])
    }
}

fn padding(n: u64) -> usize {
    (n.wrapping_neg() % BLOCK as u64) as usize
}

fn base(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let base = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
    &base[..base.len().min(80)]
}

fn typeflag(kind: Kind) -> u8 {
    match kind {
        Kind::Regular => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// What the header block cannot say.
fn records(entry: &Entry<'_>, name: &[u8], size: u64, is_sparse: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if is_sparse {
        record(&mut out, b"GNU.sparse.major", b"1");
        record(&mut out, b"GNU.sparse.minor", b"0");
        record(&mut out, b"GNU.sparse.name", name);
        record(&mut out, b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
    } else if split(name).is_none() {
        record(&mut out, b"path", name);
    }
    if entry.link.len() > 100 {
        record(&mut out, b"linkpath", entry.link);
    }
    if size > MAX_OCTAL_11 {
        record(&mut out, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if id > MAX_OCTAL_7 {
            record(&mut out, key, id.to_string().as_bytes());
        }
    }
    let fits = u64::try_from(entry.mtime_secs).is_ok_and(|s| s <= MAX_OCTAL_11);
    if entry.mtime_nanos != 0 || !fits {
        record(&mut out, b"mtime", time(entry.mtime_secs, entry.mtime_nanos).as_bytes());
    }
    for (key, value) in entry.xattrs {
        record(&mut out, &[b"SCHILY.xattr.", &key[..]].concat(), value);
    }
    out
}

/// Seconds with a sign and a fraction.
fn time(secs: i64, nanos: u32) -> String {
    if nanos == 0 {
        return secs.to_string();
    }
    if secs >= 0 {
        return format!("{secs}.{nanos:09}");
    }
    // -1.5 s is 2 s before and half a second after.
    format!("-{}.{:09}", -(secs + 1), 1_000_000_000 - nanos)
}

/// `LENGTH KEY=VALUE\n`; the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + length.to_string().len() != length {
        length = body + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Prefix and name of a ustar header. `None`: it does not fit.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let cut = name.iter().enumerate().find(|(at, b)| **b == b'/' && *at > 0 && name.len() - at - 1 <= 100)?.0;
    (cut <= 155 && cut + 1 < name.len()).then(|| (&name[..cut], &name[cut + 1..]))
}

/// Number of pieces, then offset and length of each, a line each, filled up to whole blocks.
fn sparse_map(segments: &[Segment]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len()).into_bytes();
    for s in segments {
        map.extend_from_slice(format!("{}\n{}\n", s.offset, s.length).as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

impl Block<'_> {
    fn encode(&self) -> [u8; BLOCK] {
        let mut b = [0u8; BLOCK];
        // A name that does not fit is in a record; what is here then is for old readers.
        let cut = &self.name[..self.name.len().min(100)];
        let (prefix, name) = split(self.name).unwrap_or((b"", cut));
        b[..name.len()].copy_from_slice(name);
        b[345..345 + prefix.len()].copy_from_slice(prefix);
        let link = &self.link[..self.link.len().min(100)];
        b[157..157 + link.len()].copy_from_slice(link);
        let mut octal = |at: usize, digits: usize, value: u64| {
            b[at..at + digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
        };
        octal(100, 7, self.mode.into());
        octal(108, 7, self.uid.min(MAX_OCTAL_7).into());
        octal(116, 7, self.gid.min(MAX_OCTAL_7).into());
        octal(124, 11, self.size.min(MAX_OCTAL_11));
        octal(136, 11, self.mtime.min(MAX_OCTAL_11));
        octal(329, 7, self.dev.0.min(MAX_OCTAL_7).into());
        octal(337, 7, self.dev.1.min(MAX_OCTAL_7).into());
        b[156] = self.typeflag;
        b[257..265].copy_from_slice(b"ustar\x0000");
        b[148..156].fill(b' ');
        let sum: u32 = b.iter().map(|b| u32::from(*b)).sum();
        b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Parser, Problem, Sink};

    #[derive(Clone, PartialEq, Debug, Default)]
    struct Item {
        name: Vec<u8>,
        kind: Option<Kind>,
        link: Vec<u8>,
        numbers: (u16, u32, u32, i64, u32, u32, u32, u64),
        sparse: Option<Vec<Segment>>,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    }

    impl Item {
        fn entry(&self) -> Entry<'_> {
            let (mode, uid, gid, mtime_secs, mtime_nanos, dev_major, dev_minor, size) = self.numbers;
            Entry {
                name: &self.name,
                kind: self.kind.expect("kind"),
                link: &self.link,
                mode,
                uid,
                gid,
                mtime_secs,
                mtime_nanos,
                dev_major,
                dev_minor,
                size,
                data_offset: 0,
                sparse: self.sparse.as_deref(),
                xattrs: &self.xattrs,
            }
        }

        fn stored(&self) -> u64 {
            match (self.kind, &self.sparse) {
                (Some(Kind::Regular), None) => self.numbers.7,
                (_, Some(s)) => s.iter().map(|s| s.length).sum(),
                _ => 0,
            }
        }
    }

    #[derive(Default)]
    struct Read(Vec<(Item, u64)>);
    impl Sink for Read {
        fn entry(&mut self, e: Entry<'_>) -> Result<(), Problem> {
            let item = Item {
                name: e.name.to_vec(),
                kind: Some(e.kind),
                link: e.link.to_vec(),
                numbers: (e.mode, e.uid, e.gid, e.mtime_secs, e.mtime_nanos, e.dev_major, e.dev_minor, e.size),
                sparse: e.sparse.map(<[Segment]>::to_vec),
                xattrs: e.xattrs.to_vec(),
            };
            self.0.push((item, e.data_offset));
            Ok(())
        }
    }

    /// xorshift64*: the same items each time.
    struct Random(u64);
    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 3
        }
        fn below(&mut self, n: u64) -> u64 {
            self.next() % n
        }
        fn of<T: Copy>(&mut self, list: &[T]) -> T {
            list[self.below(list.len() as u64) as usize]
        }
        fn bytes(&mut self, n: u64, zero: bool) -> Vec<u8> {
            (0..n).map(|_| self.below(256) as u8).map(|b| if b == 0 && !zero { b'n' } else { b }).collect()
        }
        fn name(&mut self) -> Vec<u8> {
            let mut name = Vec::new();
            for part in 0..=self.below(4) {
                if part > 0 {
                    name.push(b'/');
                }
                let n = self.of(&[1, 3, 50, 99, 100, 101, 155, 255]);
                name.extend(self.bytes(n, false).into_iter().map(|b| if b == b'/' { b'_' } else { b }));
            }
            name
        }
    }

    fn item(r: &mut Random) -> Item {
        use Kind::{BlockDevice, CharDevice, Directory, Fifo, HardLink, Regular, Symlink};
        let kind = r.of(&[Regular, Regular, Directory, Symlink, HardLink, CharDevice, BlockDevice, Fifo]);
        let mut name = r.name();
        if kind == Directory {
            name.push(b'/');
        }
        let link = if matches!(kind, Symlink | HardLink) { r.name() } else { Vec::new() };
        let device = matches!(kind, CharDevice | BlockDevice);
        let number = |r: &mut Random| r.of(&[0, 1, 1000, 0o7_777_777, 0o10_000_000, u32::MAX]);
        let mut size = if kind == Regular { r.of(&[0, 1, 511, 512, 513, 5000]) } else { 0 };
        let sparse = (kind == Regular && r.below(3) == 0).then(|| {
            let mut at = 0;
            let mut segments = Vec::new();
            for _ in 0..r.below(200) {
                at += 1 + r.below(1 << 20);
                let length = 1 + r.below(700);
                segments.push(Segment { offset: at, length });
                at += length;
            }
            size = at + r.below(1 << 40);
            segments
        });
        let xattrs = (0..r.below(3)).map(|n| (format!("user.{n}").into_bytes(), r.bytes(n * 300, true))).collect();
        let numbers = (
            r.below(0o10000) as u16,
            number(r),
            number(r),
            r.of(&[0, -1, -77, 1_700_000_000, 0o77_777_777_777, 0o100_000_000_000]),
            r.of(&[0, 1, 500_000_000, 999_999_999]),
            if device { r.below(4096) as u32 } else { 0 },
            if device { r.below(1 << 20) as u32 } else { 0 },
            size,
        );
        Item { name, kind: Some(kind), link, numbers, sparse, xattrs }
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let mut r = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..300 {
            let items: Vec<Item> = (0..r.below(12)).map(|_| item(&mut r)).collect();
            let mut writer = Writer::new(Vec::new());
            let mut all = Vec::new();
            for i in &items {
                writer.entry(&i.entry()).expect("entry");
                assert_eq!(writer.owed(), i.stored());
                let data = r.bytes(i.stored(), true);
                writer.data(&data).expect("data");
                all.push(data);
            }
            let tar = writer.finish().expect("finish");
            assert_eq!(tar.len() % BLOCK, 0);
            let (mut parser, mut read) = (Parser::new(), Read::default());
            parser.push(&tar, &mut read).expect("our own tar");
            parser.finish().expect("whole");
            assert_eq!(read.0.iter().map(|(i, _)| i).collect::<Vec<_>>(), items.iter().collect::<Vec<_>>());
            for ((_, at), data) in read.0.iter().zip(&all) {
                assert_eq!(&tar[*at as usize..*at as usize + data.len()], &data[..]);
            }
        }
    }

    #[test]
    fn a_large_file_has_its_size_in_a_record() {
        let i = Item {
            numbers: (0o644, 0, 0, 0, 0, 0, 0, 9 << 30),
            ..Item { name: b"big".to_vec(), kind: Some(Kind::Regular), ..Item::default() }
        };
        let mut writer = Writer::new(Vec::new());
        writer.entry(&i.entry()).expect("entry");
        let (mut parser, mut read) = (Parser::new(), Read::default());
        parser.push(&writer.out, &mut read).expect("header");
        assert_eq!(read.0[0].0, i);
    }

    #[test]
    fn data_must_be_as_many_as_announced() {
        let i = Item {
            name: b"a".to_vec(),
            kind: Some(Kind::Regular),
            numbers: (0, 0, 0, 0, 0, 0, 0, 2),
            ..Item::default()
        };
        let mut writer = Writer::new(Vec::new());
        writer.entry(&i.entry()).expect("entry");
        assert!(writer.data(b"abc").is_err());
        let mut writer = Writer::new(Vec::new());
        writer.entry(&i.entry()).expect("entry");
        writer.data(b"a").expect("data");
        assert!(writer.entry(&i.entry()).is_err());
        assert!(writer.finish().is_err());
    }
}
