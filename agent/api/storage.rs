//! How much a container's own files may take, from and to the API.

use super::decode::Fields;
use berth_model::spec::Storage;
use berth_volume::{LEAST_BYTES, MOST_BYTES};

/// Fewer are taken by the files that every container has.
const LEAST_INODES: u64 = 64;
/// ext4 and xfs count them in 32 bits.
const MOST_INODES: u64 = u32::MAX as u64;

pub fn decode(f: &mut Fields, bytes: Option<u64>, inodes: u64) -> Storage {
    let good = bytes.is_none_or(|bytes| bytes == 0 || (LEAST_BYTES..=MOST_BYTES).contains(&bytes));
    f.check(good, "storage_bytes", "must be 0 (no limit), or 8388608 (8m) to 17592186044416 (16t)");
    let good = inodes == 0 || (LEAST_INODES..=MOST_INODES).contains(&inodes);
    f.check(good, "storage_inodes", "must be 0 (as many as go with storage_bytes), or 64 to 4294967295");
    f.check(inodes == 0 || bytes != Some(0), "storage_inodes", "needs storage_bytes, which is 0: no limit");
    Storage { bytes, inodes: Some(inodes).filter(|inodes| *inodes > 0), beyond_default: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_one_that_can_be_kept() {
        let read = |bytes, inodes| {
            let mut f = Fields::default();
            let storage = decode(&mut f, bytes, inodes);
            (f.errors().iter().map(|(field, _)| field.clone()).collect::<Vec<_>>(), storage)
        };
        for bytes in [None, Some(0), Some(8 << 20), Some(16 << 40)] {
            let (wrong, storage) = read(bytes, 0);
            assert_eq!((wrong.len(), storage.bytes, storage.inodes), (0, bytes, None));
        }
        for bytes in [1, (8 << 20) - 1, (16 << 40) + 1, u64::MAX] {
            assert_eq!(read(Some(bytes), 0).0, ["storage_bytes"], "{bytes}");
        }
        for (bytes, inodes) in [(None, 63), (None, 1 << 32), (Some(0), 64)] {
            assert_eq!(read(bytes, inodes).0, ["storage_inodes"], "{inodes}");
        }
        assert_eq!(read(Some(8 << 20), 64).1.inodes, Some(64));
    }
}
