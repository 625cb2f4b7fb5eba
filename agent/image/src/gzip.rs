//! gzip members one after the other (RFC 1952), each a deflate stream. The CRC is not computed: every byte of a layer is
//! checked against its blob's digest before and against its diff_id behind the decoder.

use crate::decompress::Output;
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, BufRead, Read};

/// The least room that an output must offer.
pub(crate) const MIN_SPARE: usize = 1024;
const FLAG_HEADER_CRC: u8 = 2;
const FLAG_EXTRA: u8 = 4;
const FLAG_NAME: u8 = 8;
const FLAG_COMMENT: u8 = 16;
const TRAILER_BYTES: usize = 8;

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("gzip: {reason}"))
}

/// All members up to the end of the input; zeros behind the last one are padding (gzip(1) takes them, too).
pub(crate) fn decompress(input: &mut impl BufRead, output: &mut impl Output) -> io::Result<()> {
    let mut inflate = Decompress::new(false);
    let mut first = true;
    loop {
        if !first && !at_member(input)? {
            return Ok(());
        }
        header(input)?;
        inflate.reset(false);
        member(&mut inflate, input, output)?;
        skip(input, TRAILER_BYTES)?;
        first = false;
    }
}

fn at_member(input: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = input.fill_buf()?;
        match bytes.iter().position(|&b| b != 0) {
            Some(at) if bytes[at] == 0x1f => {
                input.consume(at);
                return Ok(true);
            }
            Some(_) => return Err(bad("bytes behind the last member")),
            None if bytes.is_empty() => return Ok(false),
            None => {
                let zeros = bytes.len();
                input.consume(zeros);
            }
        }
    }
}

fn member(inflate: &mut Decompress, input: &mut impl BufRead, output: &mut impl Output) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        let at_end = bytes.is_empty();
        let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress(bytes, output.spare(), FlushDecompress::None)
            .map_err(|e| bad(&format!("broken deflate stream: {e}")))?;
        let taken = (inflate.total_in() - before_in) as usize;
        let given = (inflate.total_out() - before_out) as usize;
        input.consume(taken);
        output.wrote(given)?;
        match status {
            Status::StreamEnd => return Ok(()),
            _ if at_end && given == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}

fn header(input: &mut impl BufRead) -> io::Result<()> {
    let mut fixed = [0; 10];
    input.read_exact(&mut fixed)?;
    if fixed[..2] != [0x1f, 0x8b] {
        return Err(bad("no member where one should start"));
    }
    if fixed[2] != 8 {
        return Err(bad("compression method is not deflate"));
    }
    let flags = fixed[3];
    if flags & FLAG_EXTRA != 0 {
        let mut length = [0; 2];
        input.read_exact(&mut length)?;
        skip(input, usize::from(u16::from_le_bytes(length)))?;
    }
    for flag in [FLAG_NAME, FLAG_COMMENT] {
        if flags & flag != 0 {
            skip_past_zero(input)?;
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        skip(input, 2)?;
    }
    Ok(())
}

fn skip(input: &mut impl BufRead, bytes: usize) -> io::Result<()> {
    let skipped = io::copy(&mut input.take(bytes as u64), &mut io::sink())?;
    if skipped == bytes as u64 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn skip_past_zero(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = bytes.iter().position(|&b| b == 0);
        let taken = end.map_or(bytes.len(), |at| at + 1);
        input.consume(taken);
        if end.is_some() {
            return Ok(());
        }
    }
}
