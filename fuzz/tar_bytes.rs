//! Random bytes never have a right checksum.

use berth_tar::BLOCK;

/// The same, with the checksum mended block by block where a block looks like a header.
pub fn mend(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" || block[0] == b'/' {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}
