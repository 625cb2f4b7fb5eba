//! What every container is and uses. One that does not run has its state alone.

use super::page::{Family, Page, Value};
use berth_model::ContainerRecord;
use berth_network::Counters as Link;
use berth_node::Measured;
use std::sync::Arc;

/// More are not told one by one: an answer stays below some ten megabytes.
const MOST: usize = 4096;

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Who it is, in every series of it.
fn labels(record: &ContainerRecord) -> [(&str, &str); 3] {
    let id = record.id.as_str();
    [("id", id.get(..12).unwrap_or(id)), ("name", &record.name), ("image", &record.spec.image)]
}

/// `known`: all that are there. `running`: with what they use.
pub fn write(page: &mut Page, mut known: Vec<Arc<ContainerRecord>>, running: &[Measured], host_memory: u64) {
    known.sort_by(|a, b| a.id.cmp(&b.id));
    page.gauge("berth_containers_untold", "Containers beyond those that this answer has room for.")
        .one(known.len().saturating_sub(MOST) as u64);
    known.truncate(MOST);
    let running = &running[..running.len().min(MOST)];
    lives(page, &known);
    usage(page, running, host_memory);
    network(page, running);
}

fn lives(page: &mut Page, known: &[Arc<ContainerRecord>]) {
    let mut state = page.gauge("berth_container_state", "1, with the state that the container is in.");
    for r in known {
        let [id, name, image] = labels(r);
        state.with(&[id, name, image, ("state", r.status())], true);
    }
    let mut health = page.gauge("berth_container_health", "1, with how its health check stands, where it has one.");
    for r in known {
        if let Some(h) = &r.supervision.health {
            let [id, name, image] = labels(r);
            health.with(&[id, name, image, ("health", h.status.name())], true);
        }
    }
    let mut restarts = page.counter("berth_container_restarts", "Starts by its policy since a person started it.");
    for r in known {
        restarts.with(&labels(r), r.supervision.restarts);
    }
    let mut started = page.gauge("berth_container_start_time_seconds", "When its last run began, seconds since 1970.");
    for r in known {
        if let Some(time) = r.started {
            started.with(&labels(r), time.nanos() as f64 / 1e9);
        }
    }
}

/// One sample of each container that has such a figure.
fn each(mut family: Family<'_>, running: &[Measured], figure: impl Fn(&Measured) -> Option<Value>) {
    for m in running {
        if let Some(value) = figure(m) {
            family.with(&labels(&m.sample.record), value);
        }
    }
}

fn usage(page: &mut Page, running: &[Measured], host_memory: u64) {
    let c = |m: &Measured| m.sample.counters;
    each(page.counter("berth_container_cpu_seconds", "CPU time used by this run."), running, |m| {
        c(m).cpu.map(|cpu| seconds(cpu.usage_ns).into())
    });
    each(
        page.counter("berth_container_cpu_throttled_seconds", "Time that it waited for its CPU limit."),
        running,
        |m| c(m).cpu.map(|cpu| seconds(cpu.throttled_ns).into()),
    );
    each(
        page.gauge("berth_container_memory_usage_bytes", "Memory, without file cache that is free to go."),
        running,
        |m| c(m).memory.map(|memory| memory.used().into()),
    );
    each(page.gauge("berth_container_memory_limit_bytes", "Its limit, else the host's memory."), running, |m| {
        Some(m.sample.record.spec.resources.memory_bytes.unwrap_or(host_memory).into())
    });
    each(page.gauge("berth_container_memory_swap_bytes", "Swap in use."), running, |m| {
        c(m).memory.map(|memory| memory.swap.into())
    });
    each(page.counter("berth_container_oom_kills", "Processes ended for want of memory in this run."), running, |m| {
        m.oom_kills.map(Into::into)
    });
    each(page.gauge("berth_container_pids", "Processes and threads."), running, |m| c(m).pids.map(Into::into));
    each(page.counter("berth_container_block_read_bytes", "Read from block devices."), running, |m| {
        c(m).block.map(|b| b.read_bytes.into())
    });
    each(page.counter("berth_container_block_written_bytes", "Written to block devices."), running, |m| {
        c(m).block.map(|b| b.written_bytes.into())
    });
}

fn network(page: &mut Page, running: &[Measured]) {
    let link = |m: &Measured| m.sample.network;
    let mut all = |name: &'static str, help: &str, figure: fn(&Link) -> u64| {
        each(page.counter(name, help), running, |m| link(m).map(|l| figure(&l).into()));
    };
    all("berth_container_network_receive_bytes", "Received over its own network.", |l| l.received_bytes);
    all("berth_container_network_receive_packets", "Packets received.", |l| l.received_packets);
    all("berth_container_network_receive_errors", "Packets received that were damaged.", |l| l.received_errors);
    all("berth_container_network_receive_dropped", "Packets that found no room.", |l| l.received_dropped);
    all("berth_container_network_transmit_bytes", "Sent over its own network.", |l| l.sent_bytes);
    all("berth_container_network_transmit_packets", "Packets sent.", |l| l.sent_packets);
    all("berth_container_network_transmit_errors", "Packets that could not be sent.", |l| l.sent_errors);
    all("berth_container_network_transmit_dropped", "Packets to be sent that found no room.", |l| l.sent_dropped);
}
