//! `events --stats`: runc's JSON, as far as this host counts.

use super::Group;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn number(folder: Option<&Path>, file: &str) -> u64 {
    let text = folder.map(|f| fs::read_to_string(f.join(file)).unwrap_or_default()).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// The value of `key` in a file of `key value` lines.
fn field(folder: Option<&Path>, file: &str, key: &str) -> u64 {
    let text = folder.map(|f| fs::read_to_string(f.join(file)).unwrap_or_default()).unwrap_or_default();
    let found = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
    found.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

/// Processes of the group that the kernel has ended for want of memory.
pub fn oom_kills(group: &Group) -> u64 {
    let file = if group.v2 { "memory.events" } else { "memory.oom_control" };
    field(group.with("memory").as_deref(), file, "oom_kill")
}

pub fn stats(group: &Group) -> Value {
    if group.v2 { v2(group) } else { v1(group) }
}

fn v1(group: &Group) -> Value {
    let (cpu, memory, pids) = (group.with("cpuacct"), group.with("memory"), group.with("pids"));
    let (cpu, memory, pids) = (cpu.as_deref(), memory.as_deref(), pids.as_deref());
    let quota = group.with("cpu");
    let quota = quota.as_deref();
    // USER_HZ is 100 on all of berth's processors.
    let ticks = |key| field(cpu, "cpuacct.stat", key) * 10_000_000;
    let entry = |prefix: &str| {
        json!({
            "limit": number(memory, &format!("memory.{prefix}limit_in_bytes")),
            "usage": number(memory, &format!("memory.{prefix}usage_in_bytes")),
            "max": number(memory, &format!("memory.{prefix}max_usage_in_bytes")),
            "failcnt": number(memory, &format!("memory.{prefix}failcnt")),
        })
    };
    json!({
        "cpu": {
            "usage": {
                "total": number(cpu, "cpuacct.usage"), "kernel": ticks("system"), "user": ticks("user"),
            },
            "throttling": {
                "periods": field(quota, "cpu.stat", "nr_periods"),
                "throttledPeriods": field(quota, "cpu.stat", "nr_throttled"),
                "throttledTime": field(quota, "cpu.stat", "throttled_time"),
            },
        },
        "memory": {
            "cache": field(memory, "memory.stat", "total_cache"), "usage": entry(""), "swap": entry("memsw."),
        },
        "pids": { "current": number(pids, "pids.current"), "limit": number(pids, "pids.max") },
    })
}

fn v2(group: &Group) -> Value {
    let folder = group.folders().swap_remove(0);
    let at = Some(folder.as_path());
    let nanos = |key| field(at, "cpu.stat", key) * 1000;
    json!({
        "cpu": {
            "usage": { "total": nanos("usage_usec"), "kernel": nanos("system_usec"), "user": nanos("user_usec") },
            "throttling": {
                "periods": field(at, "cpu.stat", "nr_periods"),
                "throttledPeriods": field(at, "cpu.stat", "nr_throttled"),
                "throttledTime": nanos("throttled_usec"),
            },
        },
        "memory": {
            "cache": field(at, "memory.stat", "file"),
            "usage": {
                "limit": number(at, "memory.max"), "usage": number(at, "memory.current"),
                "max": number(at, "memory.peak"), "failcnt": field(at, "memory.events", "max"),
            },
            "swap": { "limit": number(at, "memory.swap.max"), "usage": number(at, "memory.swap.current"), "failcnt": 0 },
        },
        "pids": { "current": number(at, "pids.current"), "limit": number(at, "pids.max") },
    })
}
