//! v1's weights as v2's, as runc and crun turn them.

/// Shares of CPU time (2 to 262,144) as cpu.weight (1 to 10,000).
pub fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A weight of block I/O (10 to 1,000) as io.weight (1 to 10,000).
pub fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_ends() {
        let cpu = [0, 2, 1024, 262_144, u64::MAX].map(cpu_weight);
        assert_eq!(cpu, [1, 1, 39, 10_000, 10_000]);
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
    }
}
