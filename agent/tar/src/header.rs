//! The 512-byte header block.

use crate::Problem;

/// Everything in a tar comes in blocks of so many bytes.
pub const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// A header block, read, with what extended headers put over it.
#[derive(Clone, Debug, Default)]
pub struct Header {
    pub typeflag: u8,
    /// `None` until [`Header::settle_kind`].
    pub kind: Option<Kind>,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Bytes stored behind the header.
    pub size: u64,
    pub mtime_secs: i64,
    pub mtime_nanos: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    /// Of a sparse file: bytes with the holes.
    pub real_size: Option<u64>,
}

/// The bytes before the first NUL.
pub fn c_str(field: &[u8]) -> &[u8] {
    field.iter().position(|b| *b == 0).map_or(field, |end| &field[..end])
}

/// A number field: octal text, or base-256 where the first bit is set (GNU). `None`: neither.
pub fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement; the first byte's highest bit is only the mark, the next one is the sign.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = if i == 0 { if negative { byte | 0x80 } else { byte & 0x7f } } else { *byte };
            value = (value << 8) | i128::from(byte);
            if !(i128::from(i64::MIN)..=i128::from(i64::MAX)).contains(&value) {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let text = field.iter().position(|b| *b != b' ' && *b != 0).map_or(&[][..], |start| &field[start..]);
    let end = text.iter().position(|b| *b == b' ' || *b == 0).unwrap_or(text.len());
    let mut value: i64 = 0;
    for byte in &text[..end] {
        if !(b'0'..=b'7').contains(byte) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(byte - b'0'))?;
    }
    Some(value)
}

/// A number that must not be negative.
pub fn size_field(field: &[u8], name: &'static str) -> Result<u64, Problem> {
    u64::try_from(number(field).ok_or(Problem::Number(name))?).map_err(|_| Problem::Range(name))
}

fn u32_field(field: &[u8], name: &'static str) -> Result<u32, Problem> {
    u32::try_from(number(field).ok_or(Problem::Number(name))?).map_err(|_| Problem::Range(name))
}

fn good_checksum(block: &[u8; BLOCK]) -> bool {
    let Some(wanted) = number(&block[148..156]) else { return false };
    // The field itself counts as blanks.
    let field: i64 = block[148..156].iter().map(|b| i64::from(*b)).sum();
    let unsigned: i64 = block.iter().map(|b| i64::from(*b)).sum();
    if unsigned - field + 8 * 32 == wanted {
        return true;
    }
    // Ancient tars summed signed bytes.
    let signed_field: i64 = block[148..156].iter().map(|b| i64::from(*b as i8)).sum();
    let signed: i64 = block.iter().map(|b| i64::from(*b as i8)).sum();
    signed - signed_field + 8 * 32 == wanted
}

impl Header {
    /// Reads a block that is not all zero.
    pub fn read(block: &[u8; BLOCK]) -> Result<Self, Problem> {
        if !good_checksum(block) {
            return Err(Problem::Checksum);
        }
        let posix = &block[257..263] == b"ustar\0";
        let gnu = &block[257..265] == b"ustar  \0";
        let mut name = Vec::new();
        if posix {
            // Star ends its header with "tar\0" and has times in the second half of the prefix.
            let prefix = if &block[508..512] == b"tar\0" { &block[345..476] } else { &block[345..500] };
            let prefix = c_str(prefix);
            if !prefix.is_empty() {
                name.extend_from_slice(prefix);
                name.push(b'/');
            }
        }
        name.extend_from_slice(c_str(&block[..100]));
        let typeflag = block[156];
        let device = matches!(typeflag, b'3' | b'4') && (posix || gnu);
        let mode = number(&block[100..108]).ok_or(Problem::Number("mode"))?;
        Ok(Header {
            typeflag,
            kind: None,
            name,
            link: c_str(&block[157..257]).to_vec(),
            mode: (mode & 0o7777) as u16,
            uid: u32_field(&block[108..116], "uid")?,
            gid: u32_field(&block[116..124], "gid")?,
            size: size_field(&block[124..136], "size")?,
            mtime_secs: number(&block[136..148]).ok_or(Problem::Number("mtime"))?,
            mtime_nanos: 0,
            dev_major: if device { u32_field(&block[329..337], "devmajor")? } else { 0 },
            dev_minor: if device { u32_field(&block[337..345], "devminor")? } else { 0 },
            real_size: None,
        })
    }

    /// What the type flag means, now that the name is known.
    pub fn settle_kind(&mut self) -> Result<(), Problem> {
        let kind = match self.typeflag {
            // V7 knew no folders: a name with a slash at its end is one.
            0 if self.name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::Regular,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(Problem::Type(char::from(other))),
        };
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) && (self.dev_major > 0xfff || self.dev_minor > 0xf_ffff)
        {
            // Linux's dev_t: 12 bits of major, 20 of minor.
            return Err(Problem::Range("device number"));
        }
        self.kind = Some(kind);
        Ok(())
    }
}
