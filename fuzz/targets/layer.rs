//! Compressed layers: any bytes end, in bounded memory, and plain ones come out as they are.
#![no_main]

#[path = "../../agent/image/src/decompress.rs"]
#[allow(dead_code)]
mod decompress;
#[path = "../../agent/image/src/gzip.rs"]
#[allow(dead_code)]
mod gzip;

/// Enough to see; a bomb is whoever reads it's to stop, as the agent does.
const ENOUGH: usize = 4 << 20;

struct Counted {
    room: Vec<u8>,
    plain: Vec<u8>,
    total: usize,
}

impl decompress::Output for Counted {
    fn spare(&mut self) -> &mut [u8] {
        &mut self.room
    }

    fn wrote(&mut self, bytes: usize) -> std::io::Result<()> {
        assert!(bytes <= self.room.len());
        self.total += bytes;
        self.plain.extend_from_slice(&self.room[..bytes.min(4096_usize.saturating_sub(self.plain.len()))]);
        if self.total > ENOUGH { Err(std::io::Error::other("enough")) } else { Ok(()) }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut all = [0, 0].map(|_| Counted { room: vec![0; gzip::MIN_SPARE], plain: Vec::new(), total: 0 });
    all[1].room.resize(8 * gzip::MIN_SPARE, 0);
    let [small, large] = &mut all;
    let whole = decompress::decompress(&mut { bytes }, small).is_ok();
    assert_eq!(whole, decompress::decompress(&mut std::io::BufReader::with_capacity(3, bytes), large).is_ok());
    if whole {
        assert_eq!((small.total, &small.plain), (large.total, &large.plain), "it depends on the pieces");
    }
    let magic = bytes.starts_with(&[0x1f, 0x8b])
        || bytes.get(1..4).is_some_and(|m| m == [0xb5, 0x2f, 0xfd] || m == [0x2a, 0x4d, 0x18]);
    assert!(magic || (whole && small.total == bytes.len()));
});
