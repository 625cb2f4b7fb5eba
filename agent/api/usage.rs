//! What containers use and may use: `Stats`, `Top` and `Update`, between the wire and the model.

use super::decode::Fields;
use super::{Answers, QUEUE, encode};
use crate::status;
use berth::v1;
use berth_model::{ContainerId, ContainerRecord, Phase};
use berth_node::{ContainerSample, Node, Processes, Sample};
use berth_runtime::Pressure;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// An hour: longer ones are no watching.
const MAX_INTERVAL_SECS: u32 = 3600;
const MAX_NAMES: usize = 4096;
/// Containers of one message: some 80 KB.
const MESSAGE: usize = 256;

/// The answer of `Top`.
pub fn top(found: Processes) -> v1::TopResponse {
    let users = found.users;
    let process = |p: berth_runtime::ProcessInfo| v1::ContainerProcess {
        pid: p.pid,
        parent_pid: p.parent_pid,
        inner_pid: p.inner_pid,
        uid: p.uid,
        user: users.get(&p.uid).cloned().unwrap_or_default(),
        state: p.state.to_string(),
        command: p.command,
        arguments: p.arguments,
        started: Some(encode::time(p.started)),
        cpu_ns: p.cpu_ns,
        resident_bytes: p.resident_bytes,
        virtual_bytes: p.virtual_bytes,
        nice: p.nice,
        threads: p.threads,
        tty: p.tty,
    };
    let mut room = ARGUMENTS;
    let mut processes: Vec<v1::ContainerProcess> = found.processes.into_iter().map(process).collect();
    for p in &mut processes {
        let bytes: usize = p.arguments.iter().map(|a| a.len() + 8).sum();
        match room.checked_sub(bytes) {
            Some(left) => room = left,
            None => p.arguments.clear(),
        }
    }
    v1::TopResponse {
        time: Some(encode::time(found.time)),
        processes,
        host_memory_bytes: found.host_memory_bytes,
        truncated: found.truncated,
    }
}

/// Bytes of the arguments of all processes: the message stays below 4 MiB.
const ARGUMENTS: usize = 1 << 20;

/// Which containers a watcher wants to see.
struct View {
    node: Node,
    /// None: all that run.
    ids: Option<BTreeSet<ContainerId>>,
    /// Those that do not run, too.
    all: bool,
    host: (u32, u64),
}

/// Follows what containers use.
pub fn stats(node: Node, request: v1::StatsRequest) -> Result<Answers<v1::StatsResponse>, Status> {
    let mut f = Fields::default();
    f.count("containers", request.containers.len(), MAX_NAMES);
    for (n, name) in request.containers.iter().enumerate() {
        f.name(&format!("containers[{n}]"), name);
    }
    f.check(request.interval_seconds <= MAX_INTERVAL_SECS, "interval_seconds", "must be at most 3600");
    f.done()?;
    let mut ids = BTreeSet::new();
    for name in &request.containers {
        ids.insert(node.container(name).map_err(status::from_node)?.view.record.id.clone());
    }
    let info = node.info();
    let ids = (!ids.is_empty()).then_some(ids);
    let mut watch = node.stats(ids.clone(), Duration::from_secs(request.interval_seconds.max(1).into()));
    let view = View { node, ids, all: request.all, host: (info.cpus, info.memory_bytes) };
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(async move {
        let mut sent = 0;
        while request.count == 0 || sent < request.count {
            let sample = tokio::select! {
                () = answers.closed() => return,
                sample = watch.next() => sample,
            };
            let messages = match sample {
                Ok(sample) => view.messages(&sample),
                Err(e) => {
                    let _ = answers.send(Err(status::from_node(e))).await;
                    return;
                }
            };
            for message in messages {
                if answers.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            sent += 1;
        }
    });
    Ok(Box::pin(ReceiverStream::new(stream)))
}

impl View {
    fn messages(&self, sample: &Sample) -> Vec<v1::StatsResponse> {
        let wanted = |id: &ContainerId| self.ids.as_ref().is_none_or(|ids| ids.contains(id));
        let mut all: Vec<v1::ContainerStats> =
            sample.containers.iter().filter(|c| wanted(&c.record.id)).map(|c| self.container(c)).collect();
        if self.all || self.ids.is_some() {
            // By name they are shown whether they run or not, as long as they are there.
            let known: BTreeSet<String> = all.iter().map(|c| c.id.clone()).collect();
            let rest = self.node.containers().into_iter().map(|v| v.record);
            let rest = rest.filter(|r| wanted(&r.id) && !known.contains(r.id.as_str()) && r.phase != Phase::Removing);
            all.extend(rest.map(|r| idle(&r)));
            all.sort_by(|a, b| a.id.cmp(&b.id));
        }
        let message = |containers: Vec<v1::ContainerStats>, more| v1::StatsResponse {
            time: Some(encode::time(sample.time)),
            containers,
            more,
            host_cpus: self.host.0,
            host_memory_bytes: self.host.1,
        };
        let mut messages = Vec::with_capacity(all.len() / MESSAGE + 1);
        while all.len() > MESSAGE {
            let rest = all.split_off(MESSAGE);
            messages.push(message(std::mem::replace(&mut all, rest), true));
        }
        messages.push(message(all, false));
        messages
    }

    fn container(&self, c: &ContainerSample) -> v1::ContainerStats {
        let limits = &c.record.spec.resources;
        let counters = &c.counters;
        v1::ContainerStats {
            clock_ns: c.clock_ns,
            cpu: counters.cpu.map(|cpu| v1::CpuStats {
                usage_ns: cpu.usage_ns,
                user_ns: cpu.user_ns,
                system_ns: cpu.system_ns,
                periods: cpu.periods,
                throttled_periods: cpu.throttled_periods,
                throttled_ns: cpu.throttled_ns,
                limit_nano_cpus: limits.nano_cpus.unwrap_or_default(),
            }),
            memory: counters.memory.map(|m| v1::MemoryStats {
                used_bytes: m.used(),
                limit_bytes: limits.memory_bytes.unwrap_or(self.host.1),
                total_bytes: m.total,
                anonymous_bytes: m.anonymous,
                file_bytes: m.file,
                inactive_file_bytes: m.inactive_file,
                swap_bytes: m.swap,
            }),
            network: c.network.map(|n| v1::NetworkStats {
                received_bytes: n.received_bytes,
                received_packets: n.received_packets,
                received_errors: n.received_errors,
                received_dropped: n.received_dropped,
                sent_bytes: n.sent_bytes,
                sent_packets: n.sent_packets,
                sent_errors: n.sent_errors,
                sent_dropped: n.sent_dropped,
            }),
            block: counters.block.map(|b| v1::BlockStats {
                read_bytes: b.read_bytes,
                written_bytes: b.written_bytes,
                reads: b.reads,
                writes: b.writes,
            }),
            pids: counters.pids.map(|current| v1::PidsStats {
                current,
                limit: limits.pids.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
            }),
            cpu_pressure: counters.cpu_pressure.map(pressure),
            memory_pressure: counters.memory_pressure.map(pressure),
            io_pressure: counters.io_pressure.map(pressure),
            ..idle(&c.record)
        }
    }
}

/// A container without counters.
fn idle(record: &Arc<ContainerRecord>) -> v1::ContainerStats {
    v1::ContainerStats {
        id: record.id.to_string(),
        name: record.name.clone(),
        state: encode::state(record) as i32,
        ..Default::default()
    }
}

fn pressure(p: Pressure) -> v1::Pressure {
    v1::Pressure {
        some_total_us: p.some_total_us,
        some_avg10: p.some_avg[0],
        some_avg60: p.some_avg[1],
        some_avg300: p.some_avg[2],
        full_total_us: p.full_total_us,
        full_avg10: p.full_avg[0],
        full_avg60: p.full_avg[1],
        full_avg300: p.full_avg[2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_all_processes_fit_into_a_message() {
        let process = berth_runtime::ProcessInfo { arguments: vec!["x".repeat(1000)], ..Default::default() };
        let found = Processes { processes: vec![process; 3000], ..Default::default() };
        let answer = top(found);
        assert!(prost::Message::encoded_len(&answer) < 2 << 20);
        assert!(answer.processes.iter().any(|p| p.arguments.is_empty()) && !answer.processes[0].arguments.is_empty());
    }
}
