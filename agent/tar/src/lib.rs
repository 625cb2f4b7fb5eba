//! A streaming tar parser: ustar (POSIX 1003.1-1988), PAX (1003.1-2001), GNU and V7 headers, as image layers use them.
//!
//! Bytes are pushed in, entries come out to a [`Sink`] with the place of their data in the stream; the data itself is never copied.
//! Where tars are ambiguous the reading is that of Go's archive/tar, which Docker and containerd use: an image means the same here.
//! The stream ends at two zero blocks; what follows is not looked at.
//!
//! The way back is [`Writer`], whose tars this parser and Go's read the same. [`Packer`] makes a tar of a folder, [`Extractor`] a folder
//! of a tar: both walk by descriptors, name by name, so that nobody who changes the folder meanwhile leads them out of it. [`place`]
//! knows where a copy goes (the rules of `docker cp`).
#![forbid(unsafe_code)]

mod encode;
mod extract;
mod header;
mod pack;
mod pax;
mod place;
mod sparse;
mod walk;

pub use encode::Writer;
pub use extract::{ExtractError, Extracted, Extractor, Ids, Owner, Rules, Top};
pub use header::{BLOCK, Kind};
pub use pack::{NOBODY, Packer, Packing};
pub use pax::MAX_XATTRS;
pub use place::{Found, Place, PlaceError, Source, place};
pub use sparse::Segment;

use header::Header;
use pax::Pax;

/// Longest name or link target: Linux's PATH_MAX.
pub const MAX_PATH: usize = 4096;
/// Longest payload of one PAX header. The largest attributes that EROFS can keep in one inode are 256 KiB; as base64 that is 350 KiB.
pub const MAX_PAX: u64 = 1 << 20;
/// Longest payload of a GNU long name: anything over [`MAX_PATH`] is refused, but only after it was read, so that it can be named.
const MAX_LONG_NAME: u64 = 128 << 10;

/// Why a tar is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    #[error("the header's checksum is wrong: this is no tar, or it is damaged")]
    Checksum,
    #[error("the header field {0} is no number")]
    Number(&'static str),
    #[error("the header field {0} is out of range")]
    Range(&'static str),
    #[error("the PAX record {0:?} is malformed")]
    Pax(String),
    #[error("the extended header is larger than {0} bytes")]
    HeaderTooLarge(u64),
    #[error("the name is longer than {MAX_PATH} bytes")]
    NameTooLong,
    #[error("a part of the name is longer than 255 bytes")]
    ComponentTooLong,
    #[error("the name is empty or holds a NUL")]
    BadName,
    #[error("the name leads out of the layer")]
    Escapes,
    #[error("the entry type {0:?} is not supported")]
    Type(char),
    #[error("the sparse map is malformed: {0}")]
    Sparse(&'static str),
    #[error("the extended attribute {0:?} cannot be kept: {1}")]
    Xattr(String, &'static str),
    #[error("the layer's root must be a folder")]
    RootNotFolder,
    #[error("{0:?} is not a folder")]
    ParentNotFolder(String),
    #[error("the hard link's target {0:?} is not in this layer")]
    LinkTarget(String),
    #[error("the hard link's target {0:?} is a folder")]
    LinkToFolder(String),
    #[error("too many levels of symbolic links")]
    LinkLoop,
    #[error("the whiteout names nothing that can be removed")]
    Whiteout,
    #[error("the layer has more than {0} {1}")]
    TooMany(u64, &'static str),
    #[error("the layer is too large for its index: {0}")]
    TooLarge(&'static str),
    #[error("the tar ends in the middle of the entry")]
    Truncated,
}

/// A problem and the entry that has it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("tar entry {entry:?} at byte {offset}: {problem}")]
pub struct TarError {
    /// The name as far as it is known, at most 200 characters.
    pub entry: String,
    /// Where the entry's header begins in the tar.
    pub offset: u64,
    pub problem: Problem,
}

/// A name for messages: lossy and bounded.
pub fn show(name: &[u8]) -> String {
    let cut = &name[..name.len().min(200)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < name.len() {
        text.push('…');
    }
    text
}

/// One entry of the tar; the slices live for the call only.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// As written: maybe absolute, maybe with `..`.
    pub name: &'a [u8],
    pub kind: Kind,
    /// Target of hard links and symlinks.
    pub link: &'a [u8],
    /// Permission bits: 0o7777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime_secs: i64,
    pub mtime_nanos: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    /// Bytes of the file as it will be read; 0 for all but regular files.
    pub size: u64,
    /// Where the data begins in the tar: a multiple of 512.
    pub data_offset: u64,
    /// `Some`: only these pieces are stored, one behind the other from `data_offset` on; the rest is holes.
    pub sparse: Option<&'a [Segment]>,
    /// In the order of the headers; a name may be there twice, then the last counts.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Takes the entries.
pub trait Sink {
    /// An error ends the parsing.
    fn entry(&mut self, entry: Entry<'_>) -> Result<(), Problem>;
}

enum State {
    /// At a header block.
    Header,
    /// Inside the payload of an extended header, which goes into the buffer.
    Collect { what: Collect, left: u64, pad: u64 },
    /// At a block that goes on with an old GNU sparse map.
    SparseHeader,
    /// Inside the sparse map in front of the data (PAX sparse 1.0), `left` data bytes before the next header.
    SparseMap { left: u64, pad: u64 },
    /// Inside data and padding; when only `pad` bytes are missing at the end, nothing is.
    Skip { left: u64, pad: u64 },
    /// Behind the end mark.
    End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Collect {
    LongName,
    LongLink,
    Pax,
    GlobalPax,
}

/// The parser. After an error it must not be used again.
pub struct Parser {
    state: State,
    /// Bytes taken so far.
    position: u64,
    block: [u8; BLOCK],
    filled: usize,
    payload: Vec<u8>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Pax,
    global: Pax,
    /// The header that waits for the rest of its sparse map.
    header: Option<Header>,
    segments: Vec<Segment>,
    total_segments: u64,
    zero_blocks: u32,
    entry_offset: u64,
    entry_name: Vec<u8>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

const fn padding(n: u64) -> u64 {
    n.wrapping_neg() % BLOCK as u64
}

impl Parser {
    pub fn new() -> Self {
        Parser {
            state: State::Header,
            position: 0,
            block: [0; BLOCK],
            filled: 0,
            payload: Vec::new(),
            long_name: None,
            long_link: None,
            pax: Pax::default(),
            global: Pax::default(),
            header: None,
            segments: Vec::new(),
            total_segments: 0,
            zero_blocks: 0,
            entry_offset: 0,
            entry_name: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream, in pieces of any size.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let taken = self.step(bytes, sink).map_err(|problem| self.error(problem))?;
            self.position += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The stream has ended. A missing end mark and missing padding of the last file are forgiven, missing data is not.
    pub fn finish(&mut self) -> Result<(), TarError> {
        match self.state {
            State::End => Ok(()),
            State::Header if self.filled == 0 && !self.has_pending() => Ok(()),
            State::Skip { left, pad } if left <= pad => Ok(()),
            _ => Err(self.error(Problem::Truncated)),
        }
    }

    fn has_pending(&self) -> bool {
        self.long_name.is_some() || self.long_link.is_some() || self.pax.present
    }

    fn error(&self, problem: Problem) -> TarError {
        TarError { entry: show(&self.entry_name), offset: self.entry_offset, problem }
    }

    /// Takes at least one byte, returns how many.
    fn step(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Problem> {
        match &mut self.state {
            State::End => Ok(bytes.len()),
            State::Skip { left, .. } => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= n as u64;
                if *left == 0 {
                    self.state = State::Header;
                }
                Ok(n)
            }
            State::Collect { what, left, pad } => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload.extend_from_slice(&bytes[..n]);
                *left -= n as u64;
                if *left == 0 {
                    let (what, pad) = (*what, *pad);
                    self.skip(pad, pad);
                    self.collected(what)?;
                }
                Ok(n)
            }
            State::Header | State::SparseHeader | State::SparseMap { .. } => {
                let n = (BLOCK - self.filled).min(bytes.len());
                self.block[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
                self.filled += n;
                if self.filled == BLOCK {
                    self.filled = 0;
                    self.whole_block(self.position + n as u64, sink)?;
                }
                Ok(n)
            }
        }
    }

    fn skip(&mut self, left: u64, pad: u64) {
        self.state = if left == 0 { State::Header } else { State::Skip { left, pad } };
    }

    /// `end`: where the block ends in the stream.
    fn whole_block(&mut self, end: u64, sink: &mut impl Sink) -> Result<(), Problem> {
        match self.state {
            State::SparseHeader => {
                let more = sparse::read_gnu_more(&self.block, &mut self.segments)?;
                self.count_segments()?;
                if more {
                    return Ok(());
                }
                let header = self.header.take().expect("a sparse header waits for its map");
                self.deliver(header, end, true, sink)
            }
            State::SparseMap { left, pad } => {
                let left = left.checked_sub(BLOCK as u64).ok_or(Problem::Sparse("it is longer than the data"))?;
                self.payload.extend_from_slice(&self.block);
                self.state = State::SparseMap { left, pad };
                if self.payload.len() as u64 > MAX_PAX {
                    return Err(Problem::HeaderTooLarge(MAX_PAX));
                }
                if !sparse::read_text_map(&self.payload, &mut self.segments)? {
                    return Ok(());
                }
                self.count_segments()?;
                let mut header = self.header.take().expect("a sparse header waits for its map");
                header.size = left;
                self.deliver(header, end, true, sink)
            }
            _ => self.header_block(end, sink),
        }
    }

    fn count_segments(&mut self) -> Result<(), Problem> {
        if self.total_segments + self.segments.len() as u64 > sparse::MAX_SEGMENTS {
            return Err(Problem::TooMany(sparse::MAX_SEGMENTS, "pieces of sparse files"));
        }
        Ok(())
    }

    fn header_block(&mut self, end: u64, sink: &mut impl Sink) -> Result<(), Problem> {
        if !self.has_pending() {
            self.entry_offset = end - BLOCK as u64;
            self.entry_name.clear();
        }
        if self.block.iter().all(|b| *b == 0) {
            self.zero_blocks += 1;
            if self.zero_blocks == 2 {
                self.state = State::End;
            }
            return Ok(());
        }
        self.zero_blocks = 0;
        if self.entry_name.is_empty() {
            self.entry_name.extend_from_slice(header::c_str(&self.block[..100]));
        }
        let mut header = Header::read(&self.block)?;
        let what = match header.typeflag {
            b'L' => Some(Collect::LongName),
            b'K' => Some(Collect::LongLink),
            b'x' | b'X' => Some(Collect::Pax),
            b'g' => Some(Collect::GlobalPax),
            _ => None,
        };
        if let Some(what) = what {
            let max = if matches!(what, Collect::LongName | Collect::LongLink) { MAX_LONG_NAME } else { MAX_PAX };
            if header.size > max {
                return Err(Problem::HeaderTooLarge(max));
            }
            self.payload.clear();
            let pad = padding(header.size);
            if header.size == 0 {
                return self.collected(what);
            }
            self.state = State::Collect { what, left: header.size, pad };
            return Ok(());
        }
        self.entry_header(&mut header, end, sink)
    }

    /// A header of a real entry: joins what the extended headers said.
    fn entry_header(&mut self, header: &mut Header, end: u64, sink: &mut impl Sink) -> Result<(), Problem> {
        if let Some(name) = self.long_name.take() {
            header.name = name;
        }
        if let Some(link) = self.long_link.take() {
            header.link = link;
        }
        self.global.apply_global(header);
        self.pax.apply(header);
        if let Some(name) = &self.pax.sparse_name {
            header.name.clone_from(name);
        }
        self.entry_name.clear();
        self.entry_name.extend_from_slice(&header.name[..header.name.len().min(512)]);
        if header.name.len() > MAX_PATH || header.link.len() > MAX_PATH {
            return Err(Problem::NameTooLong);
        }
        if header.name.is_empty() || header.name.contains(&0) || header.link.contains(&0) {
            return Err(Problem::BadName);
        }
        header.settle_kind()?;
        self.segments.clear();
        if header.typeflag == b'S' {
            let (size, more) = sparse::read_gnu_first(&self.block, &mut self.segments)?;
            header.real_size = Some(size);
            if more {
                self.header = Some(std::mem::take(header));
                self.state = State::SparseHeader;
                return Ok(());
            }
            return self.deliver(std::mem::take(header), end, true, sink);
        }
        if header.kind == Some(Kind::Regular) && self.pax.is_sparse() {
            header.real_size = Some(self.pax.real_size.ok_or(Problem::Sparse("the real size is missing"))?);
            if self.pax.sparse_major == Some(1) {
                if self.pax.sparse_minor != Some(0) {
                    return Err(Problem::Sparse("the version is not known"));
                }
                self.payload.clear();
                let (left, pad) = (header.size, padding(header.size));
                self.header = Some(std::mem::take(header));
                self.state = State::SparseMap { left, pad };
                return Ok(());
            }
            self.segments.append(&mut self.pax.segments);
            self.count_segments()?;
            return self.deliver(std::mem::take(header), end, true, sink);
        }
        self.deliver(std::mem::take(header), end, false, sink)
    }

    /// Gives the entry to the sink; its data begins at `data_offset`.
    fn deliver(
        &mut self,
        header: Header,
        data_offset: u64,
        is_sparse: bool,
        sink: &mut impl Sink,
    ) -> Result<(), Problem> {
        let kind = header.kind.ok_or(Problem::Type(char::from(header.typeflag)))?;
        let stored = if kind == Kind::Regular { header.size } else { 0 };
        let size = if is_sparse { header.real_size.unwrap_or(0) } else { stored };
        if is_sparse {
            sparse::check(&mut self.segments, size, stored)?;
            self.total_segments += self.segments.len() as u64;
        }
        let mut xattrs = std::mem::take(&mut self.global.xattrs);
        let global = xattrs.len();
        xattrs.append(&mut self.pax.xattrs);
        let entry = Entry {
            name: &header.name,
            kind,
            link: &header.link,
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            mtime_secs: header.mtime_secs,
            mtime_nanos: header.mtime_nanos,
            dev_major: header.dev_major,
            dev_minor: header.dev_minor,
            size,
            data_offset,
            sparse: is_sparse.then_some(&self.segments[..]),
            xattrs: &xattrs,
        };
        let end = data_offset.checked_add(stored).and_then(|e| e.checked_add(BLOCK as u64));
        if end.is_none_or(|e| i64::try_from(e).is_err()) {
            return Err(Problem::Range("size"));
        }
        sink.entry(entry)?;
        xattrs.truncate(global);
        self.global.xattrs = xattrs;
        self.pax = Pax::default();
        let pad = padding(stored);
        self.skip(stored + pad, pad);
        Ok(())
    }

    fn collected(&mut self, what: Collect) -> Result<(), Problem> {
        match what {
            Collect::LongName => {
                let name = header::c_str(&self.payload).to_vec();
                self.entry_name.clear();
                self.entry_name.extend_from_slice(&name[..name.len().min(512)]);
                if name.len() > MAX_PATH {
                    return Err(Problem::NameTooLong);
                }
                self.long_name = Some(name);
            }
            Collect::LongLink => {
                let link = header::c_str(&self.payload);
                if link.len() > MAX_PATH {
                    return Err(Problem::NameTooLong);
                }
                self.long_link = Some(link.to_vec());
            }
            Collect::Pax => {
                let mut pax = Pax::default();
                pax.read(&self.payload)?;
                if let Some(name) = &pax.path {
                    self.entry_name.clear();
                    self.entry_name.extend_from_slice(&name[..name.len().min(512)]);
                }
                self.pax = pax;
            }
            Collect::GlobalPax => {
                self.global.read(&self.payload)?;
                self.global.bound()?;
            }
        }
        Ok(())
    }
}
