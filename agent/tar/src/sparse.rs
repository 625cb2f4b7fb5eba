//! Sparse files: old GNU headers, and GNU's three PAX forms (tar manual, "Storing Sparse Files").

use crate::Problem;
use crate::header::{BLOCK, size_field};

/// Pieces of all sparse files of a layer together: 16 MiB of memory.
pub const MAX_SEGMENTS: u64 = 1 << 20;

/// A stored piece of a sparse file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it lies in the file.
    pub offset: u64,
    pub length: u64,
}

/// Decimal digits only.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn read_gnu(slots: &[u8], segments: &mut Vec<Segment>) -> Result<(), Problem> {
    for slot in slots.chunks_exact(24) {
        // An empty slot ends the list.
        if slot[0] == 0 {
            break;
        }
        let segment = Segment {
            offset: size_field(&slot[..12], "sparse offset")?,
            length: size_field(&slot[12..], "sparse length")?,
        };
        segments.push(segment);
    }
    Ok(())
}

/// The map in an old GNU header: the file's real size, and whether more blocks follow.
pub fn read_gnu_first(block: &[u8; BLOCK], segments: &mut Vec<Segment>) -> Result<(u64, bool), Problem> {
    read_gnu(&block[386..482], segments)?;
    Ok((size_field(&block[483..495], "real size")?, block[482] != 0))
}

/// A block that goes on with the map: whether more follow.
pub fn read_gnu_more(block: &[u8; BLOCK], segments: &mut Vec<Segment>) -> Result<bool, Problem> {
    read_gnu(&block[..504], segments)?;
    Ok(block[504] != 0)
}

/// PAX 0.1: `offset,length,offset,length,…`.
pub fn read_comma_map(text: &[u8], segments: &mut Vec<Segment>) -> Result<(), Problem> {
    let mut numbers = text.split(|b| *b == b',');
    if text.is_empty() {
        return Ok(());
    }
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or(Problem::Sparse("an offset has no length"))?;
        let (Some(offset), Some(length)) = (decimal(offset), decimal(length)) else {
            return Err(Problem::Sparse("a field is no number"));
        };
        segments.push(Segment { offset, length });
    }
    Ok(())
}

/// PAX 1.0: a count and then pairs, one number a line, in whole blocks in front of the data. False: more blocks are needed.
pub fn read_text_map(text: &[u8], segments: &mut Vec<Segment>) -> Result<bool, Problem> {
    segments.clear();
    let mut lines = text.split_inclusive(|b| *b == b'\n');
    let mut next = || -> Result<Option<u64>, Problem> {
        let Some(line) = lines.next() else { return Ok(None) };
        let Some(digits) = line.strip_suffix(b"\n") else {
            return if line.len() > 20 { Err(Problem::Sparse("a field is no number")) } else { Ok(None) };
        };
        decimal(digits).map(Some).ok_or(Problem::Sparse("a field is no number"))
    };
    let Some(count) = next()? else { return Ok(false) };
    if count > MAX_SEGMENTS {
        return Err(Problem::TooMany(MAX_SEGMENTS, "pieces of sparse files"));
    }
    // Counting lines is cheap: a map that is not whole yet is not read again and again.
    if (text.iter().filter(|b| **b == b'\n').count() as u64) < count * 2 + 1 {
        return Ok(false);
    }
    for _ in 0..count {
        let (Some(offset), Some(length)) = (next()?, next()?) else { return Ok(false) };
        segments.push(Segment { offset, length });
    }
    Ok(true)
}

/// Ascending, apart, inside the file, and as much as is stored. Empty pieces are dropped.
pub fn check(segments: &mut Vec<Segment>, size: u64, stored: u64) -> Result<(), Problem> {
    if i64::try_from(size).is_err() {
        return Err(Problem::Range("real size"));
    }
    let (mut end, mut total) = (0u64, 0u64);
    for s in segments.iter() {
        if s.offset < end {
            return Err(Problem::Sparse("its pieces overlap or are out of order"));
        }
        end = s.offset.checked_add(s.length).ok_or(Problem::Sparse("a piece is too long"))?;
        total += s.length;
        if end > size {
            return Err(Problem::Sparse("a piece lies behind the file's end"));
        }
    }
    if total != stored {
        return Err(Problem::Sparse("its pieces are not as long as the data"));
    }
    segments.retain(|s| s.length > 0);
    Ok(())
}
