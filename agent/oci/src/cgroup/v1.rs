//! Control groups of version 1 (Documentation/admin-guide/cgroup-v1).

use super::{Group, devices, make, no_controller, set, write};
use crate::config::{BlockIo, Cpu, Memory, Resources};
use crate::error::Error;
use std::fs;
use std::path::Path;

pub fn create(group: &Group) -> Result<(), Error> {
    for hierarchy in &group.hierarchies {
        let cpuset = hierarchy.controllers.iter().any(|c| c == "cpuset");
        let mut folder = hierarchy.point.clone();
        for part in group.path.components() {
            let parent = folder.clone();
            folder.push(part);
            make(&folder, &group.path)?;
            if cpuset {
                inherit(&parent, &folder)?;
            }
        }
    }
    Ok(())
}

/// A new group of cpuset has neither processors nor memory, and takes no process until it does.
fn inherit(parent: &Path, folder: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let act = |p: &Path| format!("handing {} on to {}", file, p.display());
        let read = |p: &Path| fs::read_to_string(p.join(file)).map_err(Error::io(act(folder)));
        if read(folder)?.trim().is_empty() {
            write(&folder.join(file), read(parent)?.trim()).map_err(Error::io(act(folder)))?;
        }
    }
    Ok(())
}

pub fn apply(group: &Group, r: &Resources, update: bool, warnings: &mut Vec<String>) -> Result<(), Error> {
    if let Some(key) = r.unified.keys().next() {
        return Err(Error::field(format!("linux.resources.unified.{key}"), "this host has no cgroup v2"));
    }
    if !update {
        let folder = group.with("devices").ok_or_else(|| no_controller("devices", "devices"))?;
        for rule in devices::rules(&r.devices)? {
            set(&folder, if rule.allow { "devices.allow" } else { "devices.deny" }, "devices", rule.text())?;
        }
    }
    memory(group, &r.memory, warnings)?;
    cpu(group, &r.cpu)?;
    if let Some(pids) = r.pids {
        let folder = group.with("pids").ok_or_else(|| no_controller("pids", "pids"))?;
        set(&folder, "pids.max", "pids.limit", if pids.limit > 0 { pids.limit.to_string() } else { "max".into() })?;
    }
    block_io(group, &r.block_io)?;
    for limit in &r.hugepage_limits {
        let folder = group.with("hugetlb").ok_or_else(|| no_controller("hugepageLimits", "hugetlb"))?;
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size);
        set(&folder, &file, "hugepageLimits", limit.limit)?;
    }
    if let Some(network) = &r.network {
        if let Some(class) = network.class_id {
            let folder = group.with("net_cls").ok_or_else(|| no_controller("network.classID", "net_cls"))?;
            set(&folder, "net_cls.classid", "network.classID", class)?;
        }
        for priority in &network.priorities {
            let folder = group.with("net_prio").ok_or_else(|| no_controller("network.priorities", "net_prio"))?;
            let value = format!("{} {}", priority.name, priority.priority);
            set(&folder, "net_prio.ifpriomap", "network.priorities", value)?;
        }
    }
    for (device, limit) in &r.rdma {
        let folder = group.with("rdma").ok_or_else(|| no_controller("rdma", "rdma"))?;
        set(&folder, "rdma.max", "rdma", super::v2::rdma(device, *limit))?;
    }
    Ok(())
}

fn memory(group: &Group, m: &Memory, warnings: &mut Vec<String>) -> Result<(), Error> {
    if m.kernel.is_some() || m.kernel_tcp.is_some() {
        warnings.push("linux.resources.memory.kernel: Linux has no such limit since 5.16; it is not applied".into());
    }
    if m.use_hierarchy == Some(false) {
        warnings.push("linux.resources.memory.useHierarchy: Linux always counts groups below since 5.11".into());
    }
    let asked = m.limit.is_some() || m.swap.is_some() || m.reservation.is_some();
    let asked = asked || m.swappiness.is_some() || m.disable_oom_killer == Some(true);
    if !asked {
        return Ok(());
    }
    let folder = group.with("memory").ok_or_else(|| no_controller("memory", "memory"))?;
    if m.check_before_update == Some(true)
        && let Some(limit) = m.limit.filter(|l| *l > 0)
    {
        let used = fs::read_to_string(folder.join("memory.usage_in_bytes")).unwrap_or_default();
        if used.trim().parse::<i64>().is_ok_and(|used| used > limit) {
            let message = format!("{limit} is below the {} bytes in use", used.trim());
            return Err(Error::field("linux.resources.memory.limit", message));
        }
    }
    let limit = m.limit.map(|l| ("memory.limit_in_bytes", "memory.limit", l));
    let both = m.swap.map(|s| ("memory.memsw.limit_in_bytes", "memory.swap", s));
    // The sum may never be below the memory alone: which one goes first depends on where the sum is now.
    let now = fs::read_to_string(folder.join("memory.memsw.limit_in_bytes")).unwrap_or_default();
    let now = now.trim().parse::<i64>().unwrap_or(i64::MAX);
    let raises = m.limit.is_some_and(|l| l < 0 || l > now);
    let order = if raises { [both, limit] } else { [limit, both] };
    for (file, field, value) in order.into_iter().flatten() {
        set(&folder, file, field, value)?;
    }
    if let Some(bytes) = m.reservation {
        set(&folder, "memory.soft_limit_in_bytes", "memory.reservation", bytes)?;
    }
    if let Some(value) = m.swappiness {
        set(&folder, "memory.swappiness", "memory.swappiness", value)?;
    }
    if m.disable_oom_killer == Some(true) {
        set(&folder, "memory.oom_control", "memory.disableOOMKiller", 1)?;
    }
    Ok(())
}

fn cpu(group: &Group, c: &Cpu) -> Result<(), Error> {
    let settings = [
        ("cpu.shares", "cpu.shares", c.shares.map(|v| v.to_string())),
        ("cpu.cfs_period_us", "cpu.period", c.period.map(|v| v.to_string())),
        ("cpu.cfs_quota_us", "cpu.quota", c.quota.map(|v| v.to_string())),
        ("cpu.cfs_burst_us", "cpu.burst", c.burst.map(|v| v.to_string())),
        ("cpu.rt_period_us", "cpu.realtimePeriod", c.realtime_period.map(|v| v.to_string())),
        ("cpu.rt_runtime_us", "cpu.realtimeRuntime", c.realtime_runtime.map(|v| v.to_string())),
        ("cpu.idle", "cpu.idle", c.idle.map(|v| v.to_string())),
    ];
    for (file, field, value) in settings {
        // Zero is Go's way to leave a property out.
        let Some(value) = value.filter(|v| v != "0") else { continue };
        let folder = group.with("cpu").ok_or_else(|| no_controller(field, "cpu"))?;
        set(&folder, file, field, value)?;
    }
    for (file, field, value) in [("cpuset.cpus", "cpu.cpus", &c.cpus), ("cpuset.mems", "cpu.mems", &c.mems)] {
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            let folder = group.with("cpuset").ok_or_else(|| no_controller(field, "cpuset"))?;
            set(&folder, file, field, value)?;
        }
    }
    Ok(())
}

fn block_io(group: &Group, b: &BlockIo) -> Result<(), Error> {
    let folder = || group.with("blkio").ok_or_else(|| no_controller("blockIO", "blkio"));
    let weight_file =
        |folder: &Path| if folder.join("blkio.weight").exists() { "blkio.weight" } else { "blkio.bfq.weight" };
    if let Some(weight) = b.weight.filter(|w| *w != 0) {
        let folder = folder()?;
        set(&folder, weight_file(&folder), "blockIO.weight", weight)?;
    }
    if b.leaf_weight.is_some_and(|w| w != 0) || b.weight_device.iter().any(|d| d.leaf_weight.is_some_and(|w| w != 0)) {
        return Err(Error::field("linux.resources.blockIO.leafWeight", "Linux has no such weight since 5.0"));
    }
    for device in &b.weight_device {
        let folder = folder()?;
        let file = format!("{}_device", weight_file(&folder));
        let value = format!("{}:{} {}", device.major, device.minor, device.weight.unwrap_or_default());
        set(&folder, &file, "blockIO.weightDevice", value)?;
    }
    for (file, field, list) in [
        ("blkio.throttle.read_bps_device", "blockIO.throttleReadBpsDevice", &b.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", "blockIO.throttleWriteBpsDevice", &b.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", "blockIO.throttleReadIOPSDevice", &b.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", "blockIO.throttleWriteIOPSDevice", &b.throttle_write_iops_device),
    ] {
        for limit in list {
            set(&folder()?, file, field, format!("{}:{} {}", limit.major, limit.minor, limit.rate))?;
        }
    }
    Ok(())
}
