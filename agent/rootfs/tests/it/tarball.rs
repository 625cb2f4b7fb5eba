//! Writes tars, good and bad ones.

/// A tar being made.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

pub struct Entry<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u64,
    pub dev: (u32, u32),
    pub data: &'a [u8],
    pub pax: Vec<(&'a [u8], Vec<u8>)>,
}

impl<'a> Entry<'a> {
    pub fn new(name: &'a (impl AsRef<[u8]> + ?Sized), kind: u8) -> Self {
        Entry {
            name: name.as_ref(),
            kind,
            link: b"",
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            dev: (0, 0),
            data: b"",
            pax: Vec::new(),
        }
    }
}

pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let base = key.len() + value.len() + 3;
    let mut length = base + base.to_string().len();
    if base + length.to_string().len() != length {
        length = base + length.to_string().len();
    }
    let mut out = format!("{length} ").into_bytes();
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

pub fn header(name: &[u8], kind: u8, size: u64, e: &Entry<'_>) -> [u8; 512] {
    let mut b = [0u8; 512];
    let n = name.len().min(100);
    b[..n].copy_from_slice(&name[..n]);
    let mut put = |at: usize, text: String| b[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(100, format!("{:07o}\0", e.mode));
    put(108, format!("{:07o}\0", e.uid & 0o7_777_777));
    put(116, format!("{:07o}\0", e.gid & 0o7_777_777));
    put(124, format!("{size:011o}\0"));
    put(136, format!("{:011o}\0", e.mtime));
    put(148, "        ".into());
    put(257, "ustar\x0000".into());
    put(329, format!("{:07o}\0", e.dev.0));
    put(337, format!("{:07o}\0", e.dev.1));
    b[156] = kind;
    let l = e.link.len().min(100);
    b[157..157 + l].copy_from_slice(&e.link[..l]);
    seal(&mut b);
    b
}

/// Sets the checksum.
pub fn seal(b: &mut [u8; 512]) {
    b[148..156].fill(b' ');
    let sum: u32 = b.iter().map(|b| u32::from(*b)).sum();
    b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub fn raw(&mut self, header: &[u8; 512], data: &[u8]) {
        self.0.extend_from_slice(header);
        self.0.extend_from_slice(data);
        self.pad();
    }

    pub fn add(&mut self, mut e: Entry<'_>) -> &mut Self {
        if e.name.len() > 100 {
            e.pax.push((b"path", e.name.to_vec()));
        }
        if e.link.len() > 100 {
            e.pax.push((b"linkpath", e.link.to_vec()));
        }
        if !e.pax.is_empty() {
            let payload: Vec<u8> = e.pax.iter().flat_map(|(k, v)| record(k, v)).collect();
            let h = header(b"pax", b'x', payload.len() as u64, &Entry::new("pax", b'x'));
            self.raw(&h, &payload);
        }
        let h = header(e.name, e.kind, e.data.len() as u64, &e);
        self.raw(&h, e.data);
        self
    }

    pub fn file(&mut self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> &mut Self {
        self.add(Entry { data: data.as_ref(), ..Entry::new(name.as_ref(), b'0') })
    }
    pub fn dir(&mut self, name: impl AsRef<[u8]>) -> &mut Self {
        self.add(Entry::new(name.as_ref(), b'5'))
    }
    pub fn symlink(&mut self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        self.add(Entry { link: target.as_ref(), ..Entry::new(name.as_ref(), b'2') })
    }
    pub fn link(&mut self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        self.add(Entry { link: target.as_ref(), ..Entry::new(name.as_ref(), b'1') })
    }
    pub fn end(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.0);
        out.resize(out.len() + 1024, 0);
        out
    }
}
