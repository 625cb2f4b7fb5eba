//! gzip (RFC 1952), zstd (RFC 8878) and plain streams, told apart by their first bytes. Blocking, in bounded memory.

use crate::gzip;
use std::io::{self, BufRead, Read};
use std::sync::Mutex;
use zstd::stream::raw::DParameter;

/// `zstd --ultra` and `--long` use windows up to 2^27; libzstd's own default limit is the same.
const MAX_WINDOW_LOG: u32 = 27;
/// Up to zstd -19 windows have 8 MiB (and RFC 8878 asks decoders for that much). Larger ones go one at a time, so that the
/// agent's memory stays bounded however many layers it unpacks.
const ORDINARY_WINDOW_BYTES: u64 = 8 << 20;
static LARGE_WINDOW: Mutex<()> = Mutex::new(());

/// Where uncompressed bytes go, in order. Decoders write into `spare`, then say how much.
pub(crate) trait Output {
    /// Room for at least [`gzip::MIN_SPARE`] bytes.
    fn spare(&mut self) -> &mut [u8];
    fn wrote(&mut self, bytes: usize) -> io::Result<()>;
}

/// Decompresses all of `input` into `output`.
pub(crate) fn decompress(input: &mut impl BufRead, output: &mut impl Output) -> io::Result<()> {
    // The first read may give less than the magic needs: gzip's has 2 bytes, zstd's 4.
    let mut head = [0; 4];
    let mut have = 0;
    while have < head.len() {
        match input.read(&mut head[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let mut input = head[..have].chain(input);
    match head[..have] {
        [0x1f, 0x8b, ..] => gzip::decompress(&mut input, output),
        [0x28, 0xb5, 0x2f, 0xfd] => unzstd(&mut input, output),
        // A skippable frame may come first (RFC 8878 section 3.1.2).
        [low, 0x2a, 0x4d, 0x18] if low & 0xf0 == 0x50 => unzstd(&mut input, output),
        _ => copy(&mut input, output),
    }
}

fn copy(input: &mut impl Read, output: &mut impl Output) -> io::Result<()> {
    loop {
        match input.read(output.spare())? {
            0 => return Ok(()),
            n => output.wrote(n)?,
        }
    }
}

fn unzstd(input: &mut impl BufRead, output: &mut impl Output) -> io::Result<()> {
    let mut header = [0; 18];
    let mut have = 0;
    while have < header.len() {
        match input.read(&mut header[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let large = window_bytes(&header[..have]).is_none_or(|w| w > ORDINARY_WINDOW_BYTES);
    let _turn = large.then(|| LARGE_WINDOW.lock());
    let mut raw = zstd::stream::raw::Decoder::new()?;
    raw.set_parameter(DParameter::WindowLogMax(if large { MAX_WINDOW_LOG } else { ORDINARY_WINDOW_BYTES.ilog2() }))?;
    // Reads frame after frame to the end of the input.
    let mut reader = zstd::stream::zio::Reader::new(header[..have].chain(input), raw);
    copy(&mut reader, output)
}

/// The window that a frame's header asks for (RFC 8878 section 3.1.1.1); None when this is no ordinary frame's header.
fn window_bytes(frame: &[u8]) -> Option<u64> {
    if frame.get(..4)? != [0x28, 0xb5, 0x2f, 0xfd] {
        return None;
    }
    let descriptor = *frame.get(4)?;
    if descriptor & 0x20 == 0 {
        let window = *frame.get(5)?;
        let base = 1u64 << (10 + u32::from(window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // A single segment: the window is the whole content.
    let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let width = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut size = [0; 8];
    size[..width].copy_from_slice(frame.get(at..at + width)?);
    Some(u64::from_le_bytes(size) + if width == 2 { 256 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Write};

    struct Collect {
        buffer: Vec<u8>,
        all: Vec<u8>,
    }

    impl Output for Collect {
        fn spare(&mut self) -> &mut [u8] {
            &mut self.buffer
        }
        fn wrote(&mut self, bytes: usize) -> io::Result<()> {
            self.all.extend_from_slice(&self.buffer[..bytes]);
            Ok(())
        }
    }

    /// Through an input that comes in pieces of `piece` bytes.
    fn unpacked(bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let mut output = Collect { buffer: vec![0; gzip::MIN_SPARE], all: Vec::new() };
        decompress(&mut BufReader::with_capacity(piece, bytes), &mut output)?;
        Ok(output.all)
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let builder = flate2::GzBuilder::new().filename("a name").comment("words").extra(vec![7; 300]);
        let mut encoder = builder.write(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let text: Vec<u8> = (0..40_000u32).flat_map(|n| (n * n / 7).to_string().into_bytes()).collect();
        let mut members = packed(&text[..1000]);
        members.extend(packed(&text[1000..]));
        members.extend([0; 77]);
        let mut frames = zstd::encode_all(&text[..1000], 1).unwrap();
        frames.extend([0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        frames.extend(zstd::encode_all(&text[1000..], 19).unwrap());
        for piece in [1, 2, 3, 7, 64, 1000, 1 << 20] {
            for stream in [&text, &members, &frames] {
                assert!(unpacked(stream, piece).unwrap() == text, "pieces of {piece}");
            }
        }
        for tiny in [&b""[..], b"a", b"abc"] {
            assert_eq!(unpacked(tiny, 1).unwrap(), tiny);
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        let text = b"some words, some words, some more words".repeat(20);
        for stream in [packed(&text), zstd::encode_all(&text[..], 3).unwrap()] {
            for end in 4..stream.len() {
                assert!(unpacked(&stream[..end], 1 << 16).is_err(), "cut at {end} of {}", stream.len());
            }
        }
    }

    #[test]
    fn reads_the_window_of_a_frame() {
        let frame = |descriptor: u8, rest: &[u8]| {
            let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, descriptor];
            bytes.extend_from_slice(rest);
            window_bytes(&bytes)
        };
        assert_eq!(frame(0, &[0]), Some(1024));
        assert_eq!(frame(0, &[13 << 3]), Some(8 << 20));
        assert_eq!(frame(0, &[(17 << 3) | 4]), Some((128 << 20) + (64 << 20)));
        assert_eq!(frame(0x20, &[200]), Some(200));
        assert_eq!(frame(0x60, &[0, 1]), Some(512));
        assert_eq!(frame(0xa0, &[0, 0, 0, 1]), Some(16 << 20));
        assert_eq!(frame(0xa0, &[0]), None);
        assert_eq!(window_bytes(b"other"), None);
    }
}
