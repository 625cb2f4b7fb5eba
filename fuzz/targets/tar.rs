//! Layers: the parser takes any bytes in any pieces, always reads the same, and no name leads out of the layer.
#![no_main]

#[path = "../tar_bytes.rs"]
mod tar_bytes;

use berth_rootfs::tar::{BLOCK, Entry, Parser, Problem, Sink};
use berth_rootfs::tree::Tree;

#[derive(Default, PartialEq, Debug)]
struct Names(Vec<(Vec<u8>, u64, u64)>);
impl Sink for Names {
    fn entry(&mut self, entry: Entry<'_>) -> Result<(), Problem> {
        assert!(!entry.name.is_empty() && !entry.name.contains(&0));
        assert_eq!(entry.data_offset % BLOCK as u64, 0);
        self.0.push((entry.name.to_vec(), entry.data_offset, entry.size));
        Ok(())
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = tar_bytes::mend(bytes);
    let read = |pieces: usize| {
        let (mut parser, mut names) = (Parser::new(), Names::default());
        let result = bytes
            .chunks(pieces.max(1))
            .try_for_each(|piece| parser.push(piece, &mut names))
            .and_then(|()| parser.finish());
        (names, result.is_ok())
    };
    let whole = read(bytes.len());
    assert_eq!(whole, read(7));
    let (mut parser, mut tree) = (Parser::new(), Tree::new());
    let _ = parser.push(&bytes, &mut tree).and_then(|()| parser.finish());
});
