//! Which properties of a unit stand for which files of a v2 cgroup (systemd.resource-control(5)).
//!
//! systemd writes the files of all its units again when it is reloaded, and those of one unit whenever a property of it is set: what is not a
//! property of the unit is back at its default then. Files that systemd does not know (hugetlb, rdma, misc) it leaves as they are.

use crate::wire::{Property, Value};

/// No limit, in all of systemd's properties.
const INFINITY: u64 = u64::MAX;
/// Processors and nodes at most; Linux has 8192 of the former.
const MAX_CPUS: usize = 8192;
/// CPUWeight=idle.
const IDLE: u64 = 0;

/// What systemd writes, in an order in which it can be written again.
pub const FILES: [&str; 17] = [
    "memory.min",
    "memory.low",
    "memory.high",
    "memory.max",
    "memory.swap.max",
    "memory.zswap.max",
    "memory.zswap.writeback",
    "memory.oom.group",
    "pids.max",
    "cpu.idle",
    "cpu.weight",
    "cpu.max",
    "cpuset.cpus",
    "cpuset.mems",
    "io.weight",
    "io.bfq.weight",
    "io.max",
];

/// The properties that stand for one file with one value as it is written to the file. Empty: systemd leaves this file alone, or another one's
/// property says it: that of `cpu.weight` for a `cpu.idle` of 0 and, where it is 0, the other way round.
///
/// # Errors
/// Why systemd would write something else to this file at the next opportunity.
pub fn properties(file: &str, value: &str) -> Result<Vec<Property>, String> {
    let value = value.trim();
    let bytes = |name| Some(vec![Property::new(name, Value::Long(amount(value)?))]);
    let list = |name| Some(vec![Property::new(name, Value::Bytes(mask(value)?))]);
    let found = match file {
        "memory.min" => bytes("MemoryMin"),
        "memory.low" => bytes("MemoryLow"),
        "memory.high" => bytes("MemoryHigh"),
        "memory.max" => bytes("MemoryMax"),
        "memory.swap.max" => bytes("MemorySwapMax"),
        ZSWAP_MAX => bytes("MemoryZSwapMax"),
        "memory.zswap.writeback" => {
            let wanted = matches!(value, "0" | "1");
            wanted.then(|| vec![Property::new("MemoryZSwapWriteback", Value::Bool(value == "1"))])
        }
        "memory.oom.group" => return Err("systemd writes it as OOMPolicy= says, which is set at the start only".into()),
        "pids.max" => bytes("TasksMax"),
        // How the kernel shows cpu.idle.
        "cpu.weight" if value == "0" => return Ok(Vec::new()),
        "cpu.weight" => bytes("CPUWeight"),
        "cpu.weight.nice" => return Err("systemd writes cpu.weight, which is the same: use that".into()),
        "cpu.idle" if value == "0" => return Ok(Vec::new()),
        "cpu.idle" => (value == "1").then(|| vec![Property::new("CPUWeight", Value::Long(IDLE))]),
        "cpu.max" => quota(value),
        "cpuset.cpus" => list("AllowedCPUs"),
        "cpuset.mems" => list("AllowedMemoryNodes"),
        "io.weight" => weight(value, |weight| weight),
        "io.bfq.weight" => weight(value, of_bfq),
        "io.max" => rates(value),
        _ => return Ok(Vec::new()),
    };
    found.ok_or_else(|| format!("systemd has no property for {value:?} in it"))
}

const ZSWAP_MAX: &str = "memory.zswap.max";

/// Since which systemd there is such a property. 0: since long ago.
pub(crate) fn since(property: &Property) -> u32 {
    match (property.name, &property.value) {
        ("CPUWeight", Value::Long(IDLE)) => 252,
        ("MemoryZSwapMax", _) => 253,
        ("MemoryZSwapWriteback", _) => 256,
        _ => 0,
    }
}

/// The kernel takes K, M and so on behind a number (memparse()).
fn amount(text: &str) -> Option<u64> {
    if text == "max" {
        return Some(INFINITY);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match &text[digits.len()..] {
        "" => 0,
        unit if unit.len() == 1 => "KMGTPE".find(&unit.to_ascii_uppercase())? + 1,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << (10 * power))
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

/// The properties that take all disks out of a file.
pub fn forget_disks(file: &str) -> Vec<Property> {
    let names: &[&'static str] = match file {
        "io.weight" | "io.bfq.weight" => &["IODeviceWeight"],
        "io.max" => &["IOReadBandwidthMax", "IOWriteBandwidthMax", "IOReadIOPSMax", "IOWriteIOPSMax"],
        _ => &[],
    };
    names.iter().map(|name| Property::new(name, Value::Disks(Vec::new()))).collect()
}

/// udev's link, which systemd looks the number up by.
fn disk(number: &str) -> String {
    format!("/dev/block/{number}")
}

/// BFQ's weights are 1 to 1,000 where all others are 1 to 10,000, with 100 in both: what systemd makes this one of (its BFQ_WEIGHT).
fn of_bfq(weight: u64) -> u64 {
    const DEFAULT: u64 = 100;
    if weight <= DEFAULT { weight } else { DEFAULT + (weight - DEFAULT) * 11 }
}

/// `default WEIGHT`, or `MAJOR:MINOR WEIGHT`.
fn weight(text: &str, of_file: fn(u64) -> u64) -> Option<Vec<Property>> {
    const DEFAULT: u64 = 100;
    let (of, weight) = text.split_once(' ').unwrap_or(("default", text));
    let number = if weight == "default" { DEFAULT } else { of_file(weight.parse().ok().filter(|w| *w <= 10_000)?) };
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
        match properties(file, value) {
            Ok(all) => all.iter().map(one).collect::<Vec<_>>().join(" "),
            Err(why) => why,
        }
    }

    #[test]
    fn amounts() {
        assert_eq!(text("memory.max", "67108864"), "MemoryMax=Long(67108864)");
        assert_eq!(text("memory.swap.max", "0"), "MemorySwapMax=Long(0)");
        assert_eq!(text("pids.max", "max"), format!("TasksMax=Long({})", u64::MAX));
        assert_eq!(text("cpu.weight", "39\n"), "CPUWeight=Long(39)");
        assert_eq!(text("memory.high", "60M"), "MemoryHigh=Long(62914560)");
        assert_eq!(text("memory.zswap.max", "1k"), "MemoryZSwapMax=Long(1024)");
        assert_eq!(text("memory.zswap.writeback", "0"), "MemoryZSwapWriteback=Bool(false)");
        for other in [("hugetlb.2MB.max", "0"), ("misc.max", "x 1"), ("cpu.idle", "0"), ("cpu.weight", "0")] {
            assert_eq!(text(other.0, other.1), "");
        }
    }

    #[test]
    fn what_systemd_would_write_over_is_refused() {
        for (file, value) in [
            ("memory.oom.group", "1"),
            ("cpu.weight.nice", "5"),
            ("memory.max", "x"),
            ("memory.max", ""),
            ("memory.max", "1KB"),
            ("memory.max", "99999999999E"),
            ("cpu.idle", "2"),
            ("cpu.max", "1000 0"),
            ("io.bfq.weight", "default 10001"),
        ] {
            assert!(properties(file, value).is_err(), "{file} {value}");
        }
    }

    #[test]
    fn those_of_later_versions_are_known() {
        let first = |file, value| since(&properties(file, value).unwrap()[0]);
        assert_eq!(text("cpu.idle", "1"), "CPUWeight=Long(0)");
        assert_eq!((first("cpu.idle", "1"), first("cpu.weight", "1")), (252, 0));
        assert_eq!((first("memory.zswap.max", "0"), first("memory.zswap.writeback", "0")), (253, 256));
    }

    #[test]
    fn quotas_are_never_less_than_asked_for() {
        let quota = |value| text("cpu.max", value);
        assert_eq!(quota("150000 100000"), "CPUQuotaPerSecUSec=Long(1500000) CPUQuotaPeriodUSec=Long(100000)");
        assert_eq!(quota("12345"), "CPUQuotaPerSecUSec=Long(130000) CPUQuotaPeriodUSec=Long(100000)");
        assert_eq!(quota("1000 1000000"), "CPUQuotaPerSecUSec=Long(10000) CPUQuotaPeriodUSec=Long(1000000)");
        assert!(quota("max 100000").starts_with(&format!("CPUQuotaPerSecUSec=Long({}) ", u64::MAX)));
    }

    #[test]
    fn lists_are_bits() {
        assert_eq!(text("cpuset.cpus", "0-2,9"), "AllowedCPUs=Bytes([7, 2])");
        assert_eq!(text("cpuset.mems", "0"), "AllowedMemoryNodes=Bytes([1])");
        assert_eq!(text("cpuset.cpus", ""), "AllowedCPUs=Bytes([])");
        for bad in ["a", "0-99999999", "-", "1-"] {
            assert!(properties("cpuset.cpus", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn disks_go_by_their_number() {
        assert_eq!(text("io.weight", "default 200"), "IOWeight=Long(200)");
        assert_eq!(text("io.bfq.weight", "default 200"), "IOWeight=Long(1200)");
        assert_eq!(text("io.bfq.weight", "50"), "IOWeight=Long(50)");
        assert_eq!(text("io.bfq.weight", "8:0 1000"), "IODeviceWeight=Disks([(\"/dev/block/8:0\", 10000)])");
        assert_eq!(text("io.bfq.weight", "8:0 default"), "IODeviceWeight=Disks([(\"/dev/block/8:0\", 100)])");
        assert_eq!(text("io.weight", "8:0 200"), "IODeviceWeight=Disks([(\"/dev/block/8:0\", 200)])");
        assert_eq!(
            text("io.max", "8:16 rbps=1048576 wiops=max"),
            format!(
                "IOReadBandwidthMax=Disks([(\"/dev/block/8:16\", 1048576)]) IOWriteIOPSMax=Disks([(\"/dev/block/8:16\", {})])",
                u64::MAX
            )
        );
        assert!(properties("io.max", "8:16 what=1").is_err());
    }
}
