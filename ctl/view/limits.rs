//! Limits, as inspect shows them.

use berth::v1;
use serde_json::{Value, json};

/// What Docker keeps of them under HostConfig, and ours.
pub fn of(res: &v1::Resources) -> impl Iterator<Item = (String, Value)> + use<> {
    [
        ("Memory", json!(res.memory_bytes)),
        ("MemorySwap", json!(res.memory_swap_bytes)),
        ("MemoryReservation", json!(res.memory_reservation_bytes)),
        ("NanoCpus", json!(res.nano_cpus)),
        ("CpuQuota", json!(res.cpu_quota_us)),
        ("CpuPeriod", json!(res.cpu_period_us)),
        ("CpuShares", json!(res.cpu_shares)),
        ("BlkioWeight", json!(res.blkio_weight)),
        ("BlkioDevices", json!(res.block_devices.iter().map(block_limit).collect::<Vec<_>>())),
        ("OomGroup", json!(res.oom_group)),
        ("Hugepages", json!(res.hugepages)),
        ("Unified", json!(super::strings(&res.unified))),
        ("CpusetCpus", json!(res.cpuset_cpus)),
        ("CpusetMems", json!(res.cpuset_mems)),
        ("PidsLimit", json!(res.pids)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
}

/// Without what is not limited.
fn block_limit(limit: &v1::BlockLimit) -> Value {
    let mut value = json!({"Path": limit.path});
    let parts = [
        ("Weight", u64::from(limit.weight)),
        ("ReadBps", limit.read_bps),
        ("WriteBps", limit.write_bps),
        ("ReadIOps", limit.read_iops),
        ("WriteIOps", limit.write_iops),
    ];
    for (name, number) in parts.into_iter().filter(|(_, n)| *n > 0) {
        value[name] = number.into();
    }
    value
}
