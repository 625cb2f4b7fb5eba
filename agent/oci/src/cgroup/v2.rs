//! Control groups of version 2 (Documentation/admin-guide/cgroup-v2.rst). Values come in v1's terms and are converted as runc and crun do.

use super::{Group, devices, make, set, write};
use crate::config::{BlockIo, Cpu, Memory, Rdma, Resources};
use crate::error::Error;
use berth_runtime::{cpu_weight, io_weight};
use berth_sys::cgroup_bpf;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

pub fn create(group: &Group) -> Result<(), Error> {
    let mut folder = group.hierarchies[0].point.clone();
    for part in group.path.components() {
        let there = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        for controller in there.split_whitespace() {
            // One by one: a controller that cannot be handed on is told when somebody asks for a limit of it.
            let _ = write(&folder.join("cgroup.subtree_control"), &format!("+{controller}"));
        }
        folder.push(part);
        make(&folder, &group.path)?;
    }
    Ok(())
}

pub fn apply(group: &Group, r: &Resources, update: bool, warnings: &mut Vec<String>) -> Result<(), Error> {
    let folder = group.folders().swap_remove(0);
    if !update && let Some(rules) = devices::allowed(&devices::rules(&r.devices)?)? {
        let act = "attaching the device rules to the cgroup";
        let file = fs::File::open(&folder).map_err(Error::io(act))?;
        cgroup_bpf::attach(file.as_fd(), &rules).map_err(Error::io(act))?;
    }
    memory(&folder, &r.memory, warnings)?;
    cpu(&folder, &r.cpu)?;
    if let Some(pids) = r.pids {
        set(&folder, "pids.max", "pids.limit", if pids.limit > 0 { pids.limit.to_string() } else { "max".into() })?;
    }
    block_io(&folder, &r.block_io)?;
    for limit in &r.hugepage_limits {
        set(&folder, &format!("hugetlb.{}.max", limit.page_size), "hugepageLimits", limit.limit)?;
    }
    if r.network.as_ref().is_some_and(|n| n.class_id.is_some() || !n.priorities.is_empty()) {
        return Err(Error::field("linux.resources.network", "cgroup v2 has no classes and priorities"));
    }
    for (device, limit) in &r.rdma {
        set(&folder, "rdma.max", "rdma", rdma(device, *limit))?;
    }
    for (file, value) in &r.unified {
        if file.is_empty() || file.contains('/') || !file.contains('.') {
            return Err(Error::field(format!("linux.resources.unified.{file}"), "is no name of a file of a cgroup"));
        }
        for line in value.lines() {
            set(&folder, file, &format!("unified.{file}"), line)?;
        }
    }
    Ok(())
}

pub fn rdma(device: &str, limit: Rdma) -> String {
    let number = |n: Option<u32>| n.map_or("max".to_owned(), |n| n.to_string());
    format!("{device} hca_handle={} hca_object={}", number(limit.hca_handles), number(limit.hca_objects))
}

fn number(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn memory(folder: &Path, m: &Memory, warnings: &mut Vec<String>) -> Result<(), Error> {
    if m.kernel.is_some() || m.kernel_tcp.is_some() || m.swappiness.is_some() || m.disable_oom_killer == Some(true) {
        let names = "kernel, kernelTCP, swappiness, disableOOMKiller";
        warnings.push(format!("linux.resources.memory: {names} are not there on cgroup v2; they are not applied"));
    }
    if m.check_before_update == Some(true)
        && let Some(limit) = m.limit.filter(|l| *l > 0)
    {
        let used = fs::read_to_string(folder.join("memory.current")).unwrap_or_default();
        if used.trim().parse::<i64>().is_ok_and(|used| used > limit) {
            let message = format!("{limit} is below the {} bytes in use", used.trim());
            return Err(Error::field("linux.resources.memory.limit", message));
        }
    }
    if let Some(swap) = m.swap.filter(|s| *s != 0) {
        let value = match (swap, m.limit) {
            (s, _) if s < 0 => "max".into(),
            // v1 counts memory in the sum, v2 does not.
            (s, Some(limit)) if limit > 0 && s >= limit => (s - limit).to_string(),
            _ => {
                let message = "counts memory too: it needs linux.resources.memory.limit beside it, and cannot be below";
                return Err(Error::field("linux.resources.memory.swap", message));
            }
        };
        set(folder, "memory.swap.max", "memory.swap", value)?;
    }
    if let Some(limit) = m.limit.filter(|l| *l != 0) {
        set(folder, "memory.max", "memory.limit", number(limit))?;
    }
    if let Some(bytes) = m.reservation.filter(|l| *l != 0) {
        set(folder, "memory.low", "memory.reservation", number(bytes))?;
    }
    Ok(())
}

fn cpu(folder: &Path, c: &Cpu) -> Result<(), Error> {
    if let Some(shares) = c.shares.filter(|s| *s != 0) {
        set(folder, "cpu.weight", "cpu.shares", cpu_weight(shares))?;
    }
    if c.quota.is_some_and(|q| q != 0) || c.period.is_some_and(|p| p != 0) {
        let quota = c.quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
        let period = c.period.filter(|p| *p != 0).unwrap_or(100_000);
        set(folder, "cpu.max", "cpu.quota", format!("{quota} {period}"))?;
    }
    if let Some(burst) = c.burst {
        set(folder, "cpu.max.burst", "cpu.burst", burst)?;
    }
    if let Some(idle) = c.idle {
        set(folder, "cpu.idle", "cpu.idle", idle)?;
    }
    if c.realtime_runtime.is_some_and(|v| v != 0) || c.realtime_period.is_some_and(|v| v != 0) {
        return Err(Error::field("linux.resources.cpu.realtimeRuntime", "cgroup v2 has no realtime limits"));
    }
    for (file, field, value) in [("cpuset.cpus", "cpu.cpus", &c.cpus), ("cpuset.mems", "cpu.mems", &c.mems)] {
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            set(folder, file, field, value)?;
        }
    }
    Ok(())
}

fn block_io(folder: &Path, b: &BlockIo) -> Result<(), Error> {
    let bfq = folder.join("io.bfq.weight").exists();
    // blkio's 10…1000 to io.weight's 1…10000; bfq has kept its 1…1000.
    let weight = |w: u16| if bfq { u64::from(w) } else { io_weight(w) };
    let file = if bfq { "io.bfq.weight" } else { "io.weight" };
    if let Some(w) = b.weight.filter(|w| *w != 0) {
        set(folder, file, "blockIO.weight", weight(w))?;
    }
    if b.leaf_weight.is_some_and(|w| w != 0) {
        return Err(Error::field("linux.resources.blockIO.leafWeight", "cgroup v2 has no such weight"));
    }
    for device in &b.weight_device {
        let value = format!("{}:{} {}", device.major, device.minor, weight(device.weight.unwrap_or_default()));
        set(folder, file, "blockIO.weightDevice", value)?;
    }
    for (key, field, list) in [
        ("rbps", "blockIO.throttleReadBpsDevice", &b.throttle_read_bps_device),
        ("wbps", "blockIO.throttleWriteBpsDevice", &b.throttle_write_bps_device),
        ("riops", "blockIO.throttleReadIOPSDevice", &b.throttle_read_iops_device),
        ("wiops", "blockIO.throttleWriteIOPSDevice", &b.throttle_write_iops_device),
    ] {
        for limit in list {
            set(folder, "io.max", field, format!("{}:{} {key}={}", limit.major, limit.minor, limit.rate))?;
        }
    }
    Ok(())
}
