//! Which properties of a unit stand for which files of a v2 cgroup (systemd.resource-control(5)).
//!
//! systemd writes the files of all its units again when it is reloaded: what is not a property of the unit is back at its default then. Files
//! that systemd does not know (hugetlb, rdma, misc) it leaves as they are.

use crate::wire::{Property, Value};

/// No limit, in all of systemd's properties.
const INFINITY: u64 = u64::MAX;
/// Processors and nodes at most; Linux has 8192 of the former.
const MAX_CPUS: usize = 8192;

/// The properties that stand for one file with one value as it is written to the file. Empty: systemd leaves this file alone.
pub fn properties(file: &str, value: &str) -> Vec<Property> {
    let value = value.trim();
    let bytes = |name| Some(vec![Property::new(name, Value::Long(amount(value)?))]);
    let list = |name| Some(vec![Property::new(name, Value::Bytes(mask(value)?))]);
    let found = match file {
        "memory.min" => bytes("MemoryMin"),
        "memory.low" => bytes("MemoryLow"),
        "memory.high" => bytes("MemoryHigh"),
        "memory.max" => bytes("MemoryMax"),
        "memory.swap.max" => bytes("MemorySwapMax"),
        "pids.max" => bytes("TasksMax"),
        // 0 is how the kernel shows cpu.idle.
        "cpu.weight" if value != "0" => bytes("CPUWeight"),
        "cpu.max" => quota(value),
        "cpuset.cpus" => list("AllowedCPUs"),
        "cpuset.mems" => list("AllowedMemoryNodes"),
        "io.weight" => weight(value),
        "io.max" => rates(value),
        _ => None,
    };
    found.unwrap_or_default()
}

fn amount(text: &str) -> Option<u64> {
    if text == "max" { Some(INFINITY) } else { text.parse().ok() }
}

/// `QUOTA [PERIOD]` in microseconds. systemd keeps per cents of a processor: a part of one is rounded up, so that nobody gets less.
fn quota(text: &str) -> Option<Vec<Property>> {
    const PER_CENT: u128 = 10_000;
    let mut parts = text.split_whitespace();
    let quota = amount(parts.next()?)?;
    let period: u64 = parts.next().map_or(Some(100_000), |p| p.parse().ok()).filter(|p| *p > 0)?;
    let per_second = match quota {
        INFINITY => INFINITY,
        quota => {
            let exact = (u128::from(quota) * 1_000_000).div_ceil(u128::from(period));
            u64::try_from(exact.next_multiple_of(PER_CENT)).unwrap_or(INFINITY)
        }
    };
    Some(vec![
        Property::new("CPUQuotaPerSecUSec", Value::Long(per_second)),
        Property::new("CPUQuotaPeriodUSec", Value::Long(period)),
    ])
}

/// `0-2,5`: a bit for each, the first in the lowest bit of the first byte. An empty list: all.
fn mask(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX_CPUS {
            return None;
        }
        for n in first..=last {
            if bytes.len() <= n / 8 {
                bytes.resize(n / 8 + 1, 0);
            }
            bytes[n / 8] |= 1 << (n % 8);
        }
    }
    Some(bytes)
}

/// udev's link, which systemd looks the number up by.
fn disk(number: &str) -> String {
    format!("/dev/block/{number}")
}

/// `default WEIGHT`, or `MAJOR:MINOR WEIGHT`.
fn weight(text: &str) -> Option<Vec<Property>> {
    const DEFAULT: u64 = 100;
    let (of, weight) = text.split_once(' ').unwrap_or(("default", text));
    let number = if weight == "default" { DEFAULT } else { weight.parse().ok()? };
    Some(vec![match of {
        "default" => Property::new("IOWeight", Value::Long(number)),
        of => Property::new("IODeviceWeight", Value::Disks(vec![(disk(of), number)])),
    }])
}

/// `MAJOR:MINOR rbps=N wbps=N riops=N wiops=N`.
fn rates(text: &str) -> Option<Vec<Property>> {
    let mut parts = text.split_whitespace();
    let path = disk(parts.next()?);
    let rate = |part: &str| {
        let (key, value) = part.split_once('=')?;
        let name = match key {
            "rbps" => "IOReadBandwidthMax",
            "wbps" => "IOWriteBandwidthMax",
            "riops" => "IOReadIOPSMax",
            "wiops" => "IOWriteIOPSMax",
            _ => return None,
        };
        Some(Property::new(name, Value::Disks(vec![(path.clone(), amount(value)?)])))
    };
    parts.map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &str, value: &str) -> String {
        let one = |p: &Property| format!("{}={:?}", p.name, p.value);
        properties(file, value).iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn amounts() {
        assert_eq!(text("memory.max", "67108864"), "MemoryMax=Long(67108864)");
        assert_eq!(text("memory.swap.max", "0"), "MemorySwapMax=Long(0)");
        assert_eq!(text("pids.max", "max"), format!("TasksMax=Long({})", u64::MAX));
        assert_eq!(text("cpu.weight", "39\n"), "CPUWeight=Long(39)");
        for other in [("hugetlb.2MB.max", "0"), ("memory.oom.group", "1"), ("memory.max", "x"), ("memory.max", "")] {
            assert_eq!(text(other.0, other.1), "");
        }
    }

    #[test]
    fn quotas_are_never_less_than_asked_for() {
        let quota = |value| text("cpu.max", value);
        assert_eq!(quota("150000 100000"), "CPUQuotaPerSecUSec=Long(1500000) CPUQuotaPeriodUSec=Long(100000)");
        assert_eq!(quota("12345"), "CPUQuotaPerSecUSec=Long(130000) CPUQuotaPeriodUSec=Long(100000)");
        assert_eq!(quota("1000 1000000"), "CPUQuotaPerSecUSec=Long(10000) CPUQuotaPeriodUSec=Long(1000000)");
        assert!(quota("max 100000").starts_with(&format!("CPUQuotaPerSecUSec=Long({}) ", u64::MAX)));
        assert_eq!(quota("1000 0"), "");
    }

    #[test]
    fn lists_are_bits() {
        assert_eq!(text("cpuset.cpus", "0-2,9"), "AllowedCPUs=Bytes([7, 2])");
        assert_eq!(text("cpuset.mems", "0"), "AllowedMemoryNodes=Bytes([1])");
        assert_eq!(text("cpuset.cpus", ""), "AllowedCPUs=Bytes([])");
        for bad in ["a", "0-99999999", "-", "1-"] {
            assert_eq!(text("cpuset.cpus", bad), "", "{bad}");
        }
    }

    #[test]
    fn disks_go_by_their_number() {
        assert_eq!(text("io.weight", "default 200"), "IOWeight=Long(200)");
        assert_eq!(text("io.weight", "8:0 200"), "IODeviceWeight=Disks([(\"/dev/block/8:0\", 200)])");
        assert_eq!(
            text("io.max", "8:16 rbps=1048576 wiops=max"),
            format!(
                "IOReadBandwidthMax=Disks([(\"/dev/block/8:16\", 1048576)]) IOWriteIOPSMax=Disks([(\"/dev/block/8:16\", {})])",
                u64::MAX
            )
        );
        assert_eq!(text("io.max", "8:16 what=1"), "");
    }
}
