//! What containers use, as rows.

use super::{rfc3339, state_word};
use crate::progress::short;
use crate::units::{human_bytes, human_size};
use berth::v1;
use serde_json::{Value, json};

/// A row of `stats`; rates are those since `before`.
pub fn stats(
    now: &v1::ContainerStats,
    before: Option<&v1::ContainerStats>,
    at: Option<&prost_types::Timestamp>,
    truncate: bool,
) -> Value {
    const NONE: &str = "--";
    let percent =
        |part: f64, whole: f64| if whole > 0.0 { format!("{:.2}%", part / whole * 100.0) } else { NONE.into() };
    let pair = |a: Option<u64>, b: Option<u64>, unit: fn(u64) -> String| match (a, b) {
        (Some(a), Some(b)) => format!("{} / {}", unit(a), unit(b)),
        _ => format!("{NONE} / {NONE}"),
    };
    let cpu_percent = match (now.cpu, before.and_then(|b| b.cpu), before) {
        // A restart begins to count anew.
        (Some(cpu), Some(old), Some(b)) if cpu.usage_ns >= old.usage_ns && now.clock_ns > b.clock_ns => {
            percent((cpu.usage_ns - old.usage_ns) as f64, (now.clock_ns - b.clock_ns) as f64)
        }
        _ => NONE.into(),
    };
    let (memory, network, block) = (now.memory, now.network, now.block);
    let pressure = |p: &Option<v1::Pressure>| p.map_or(NONE.into(), |p| format!("{:.2}%", p.some_avg10));
    json!({
        "ID": if truncate { short(&now.id) } else { &now.id },
        "Container": now.id,
        "Name": now.name,
        "State": state_word(now.state()),
        "Read": rfc3339(at),
        "CPUPerc": cpu_percent,
        "MemUsage": pair(memory.map(|m| m.used_bytes), memory.map(|m| m.limit_bytes), human_bytes),
        "MemPerc": memory.map_or(NONE.into(), |m| percent(m.used_bytes as f64, m.limit_bytes as f64)),
        "NetIO": pair(network.map(|n| n.received_bytes), network.map(|n| n.sent_bytes), human_size),
        "NetPackets": pair(network.map(|n| n.received_packets), network.map(|n| n.sent_packets), |n| n.to_string()),
        "BlockIO": pair(block.map(|b| b.read_bytes), block.map(|b| b.written_bytes), human_size),
        "PIDs": now.pids.map_or(NONE.into(), |p| p.current.to_string()),
        "CPUPressure": pressure(&now.cpu_pressure),
        "MemPressure": pressure(&now.memory_pressure),
        "IOPressure": pressure(&now.io_pressure),
        "CPUNanos": now.cpu.map(|c| c.usage_ns),
        "CPUThrottledNanos": now.cpu.map(|c| c.throttled_ns),
        "MemBytes": memory.map(|m| m.used_bytes),
        "MemLimitBytes": memory.map(|m| m.limit_bytes),
        "NetReceivedBytes": network.map(|n| n.received_bytes),
        "NetSentBytes": network.map(|n| n.sent_bytes),
        "NetReceivedPackets": network.map(|n| n.received_packets),
        "NetSentPackets": network.map(|n| n.sent_packets),
        "NetReceivedDropped": network.map(|n| n.received_dropped),
        "NetSentDropped": network.map(|n| n.sent_dropped),
        "NetReceivedErrors": network.map(|n| n.received_errors),
        "NetSentErrors": network.map(|n| n.sent_errors),
        "BlockReadBytes": block.map(|b| b.read_bytes),
        "BlockWrittenBytes": block.map(|b| b.written_bytes),
    })
}
