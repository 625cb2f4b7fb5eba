//! Why a run ended, as data and as a sentence.

use crate::node::Inner;
use berth_model::supervision::{Ending, EndingKind, ExitCause, StartFailure};
use berth_model::{ContainerId, ContainerRecord, ExitStatus, Timestamp};
use berth_runtime::RuntimeError;
use berth_runtime::signal::{self, SIGKILL};

use crate::NodeError;

/// A signal that a caller sent is taken for the reason of an end that follows within this; what ends a day later did so by itself.
const FRESH_NANOS: i64 = 10_000_000_000;

/// The ending that a caller or the agent asked for, if it is what ended the run.
pub(crate) fn ending_of<'a>(record: &'a ContainerRecord, status: &ExitStatus) -> Option<&'a Ending> {
    let ending = record.supervision.ending.as_ref()?;
    let fresh = status.finished.nanos().saturating_sub(ending.time.nanos()) < FRESH_NANOS;
    match ending.kind {
        EndingKind::Kill | EndingKind::Signal => Some(ending).filter(|_| fresh),
        _ => Some(ending),
    }
}

/// Completes `status` with its cause and the sentence. `memory`: the cgroup that was short of memory, and its limit.
pub(crate) fn complete(
    record: &ContainerRecord,
    mut status: ExitStatus,
    memory: Option<(String, Option<u64>)>,
) -> ExitStatus {
    let killed = status.signal == Some(SIGKILL) || status.code == 128 + SIGKILL;
    if status.cause == ExitCause::Exited {
        status.cause = match (memory, ending_of(record, &status)) {
            (Some((cgroup, limit_bytes)), _) if status.oom_killed && killed => {
                ExitCause::OutOfMemory { cgroup, limit_bytes }
            }
            (_, Some(ending)) => caused_by(ending),
            (_, None) if status.signal.is_some() => ExitCause::Signalled,
            (_, None) => ExitCause::Exited,
        };
    }
    status.sentence = sentence(&status);
    // What nobody asked for is told to those who wait, too.
    let unasked = matches!(status.cause, ExitCause::OutOfMemory { .. } | ExitCause::Unhealthy);
    if unasked && status.reason.is_none() {
        status.reason = Some(status.sentence.clone());
    }
    status
}

fn caused_by(ending: &Ending) -> ExitCause {
    let (by, signal) = (ending.by.clone(), ending.signal);
    match ending.kind {
        EndingKind::Stop => ExitCause::Stopped { by, signal },
        EndingKind::Kill | EndingKind::Signal => ExitCause::Killed { by, signal },
        EndingKind::Shutdown => ExitCause::Shutdown { by },
        EndingKind::UnhealthyStop | EndingKind::UnhealthyKill | EndingKind::UnhealthyRestart => ExitCause::Unhealthy,
    }
}

fn sentence(status: &ExitStatus) -> String {
    let code = status.code;
    let somebody = |by: &str| if by.is_empty() { "the agent".to_owned() } else { by.to_owned() };
    match &status.cause {
        ExitCause::Exited => format!("exited with code {code}"),
        ExitCause::Signalled => {
            format!("ended by {}, which no caller of the agent sent", signal::name(status.signal.unwrap_or_default()))
        }
        ExitCause::Stopped { by, signal } => {
            format!("stopped by {} with {}, exit code {code}", somebody(by), signal::name(*signal))
        }
        ExitCause::Killed { by, signal } => {
            format!("killed by {} with {}, exit code {code}", somebody(by), signal::name(*signal))
        }
        ExitCause::OutOfMemory { cgroup, limit_bytes: Some(limit) } => {
            format!("out of memory: the kernel killed it at the limit of {limit} bytes of cgroup {cgroup}")
        }
        ExitCause::OutOfMemory { cgroup, limit_bytes: None } => {
            format!("out of memory: the kernel killed it in cgroup {cgroup}, which has no limit of its own")
        }
        ExitCause::Unhealthy => format!("ended by the agent, as its health check failed; exit code {code}"),
        ExitCause::Shutdown { by } => {
            format!("stopped with all containers of this host by {}, exit code {code}", somebody(by))
        }
        ExitCause::HostRebooted => "the host was rebooted while it ran".to_owned(),
        ExitCause::ShimKilled => "its shim was killed, and the container with it".to_owned(),
    }
}

/// The cgroup of a container's memory with its limit in bytes, for a sentence. Reads files: for a thread that may block.
pub(crate) fn memory(inner: &Inner, id: &ContainerId) -> Option<(String, Option<u64>)> {
    // A group that went with its last process had what its container asked for.
    let asked = || inner.containers.find(id.as_str()).ok()?.record().spec.resources.memory_bytes;
    inner.runtime.memory_limit(id).map(|(path, limit)| (path.display().to_string(), limit.or_else(asked)))
}

/// The step and the kernel's number of a start that failed.
pub(crate) fn failure(error: &NodeError) -> StartFailure {
    let number = |e: &std::io::Error| e.raw_os_error();
    let (step, errno) = match error {
        NodeError::Runtime(e) => match e {
            RuntimeError::StartFailed { step, source } => (step.clone(), number(source)),
            // ENOENT of execve(2).
            RuntimeError::CommandNotFound(command) => (format!("executing {command}"), Some(2)),
            RuntimeError::CommandNotExecutable { command, source } => (format!("executing {command}"), number(source)),
            RuntimeError::Cgroup { act, path, source } => (format!("{act} {}", path.display()), number(source)),
            RuntimeError::Io { act, source } => (act.clone(), number(source)),
            other => (other.to_string(), None),
        },
        NodeError::Io { act, source } => (act.clone(), number(source)),
        other => (other.to_string(), None),
    };
    let exit_code = if let NodeError::Runtime(e) = error { e.exit_code() } else { 125 };
    StartFailure { step, errno, exit_code, time: Timestamp::now() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::container_record;

    fn ending(kind: EndingKind, seconds_ago: i64) -> Ending {
        Ending { by: "alice".to_owned(), kind, signal: 15, time: Timestamp(-seconds_ago * 1_000_000_000) }
    }

    #[test]
    fn every_cause_has_its_sentence() {
        let limit = Some(("/sys/fs/cgroup/memory/berth/x".to_owned(), Some(64)));
        let code = |code| ExitStatus { code, ..ExitStatus::default() };
        let by_signal = |signal| ExitStatus { code: 128 + signal, signal: Some(signal), ..ExitStatus::default() };
        let oom = ExitStatus { oom_killed: true, ..by_signal(9) };
        // A child of it was killed, and it went on.
        let survived = ExitStatus { oom_killed: true, ..code(1) };
        for (kind, ago, status, name, words) in [
            (None, 0, code(3), "exited", "exited with code 3"),
            (None, 0, by_signal(11), "signalled", "SIGSEGV"),
            (None, 0, oom.clone(), "oom", "limit of 64 bytes of cgroup /sys/fs/cgroup/memory/berth/x"),
            (None, 0, survived, "exited", "code 1"),
            (Some(EndingKind::Stop), 100, code(0), "stopped", "stopped by alice with SIGTERM, exit code 0"),
            (Some(EndingKind::Kill), 1, by_signal(15), "killed", "killed by alice with SIGTERM"),
            (Some(EndingKind::Kill), 100, by_signal(9), "signalled", "SIGKILL"),
            (Some(EndingKind::Signal), 1, code(2), "killed", "exit code 2"),
            (Some(EndingKind::Stop), 1, oom, "oom", "out of memory"),
            (Some(EndingKind::Shutdown), 1, code(0), "shutdown", "all containers of this host by alice"),
            (Some(EndingKind::UnhealthyRestart), 1, code(137), "unhealthy", "health check failed"),
        ] {
            let mut record = container_record(1);
            record.supervision.ending = kind.map(|k| ending(k, ago));
            let done = complete(&record, status, limit.clone());
            assert_eq!(done.cause.name(), name, "{kind:?} {ago}");
            assert!(done.sentence.contains(words), "{kind:?}: {}", done.sentence);
        }
        let rebooted = ExitStatus { cause: ExitCause::HostRebooted, ..ExitStatus::default() };
        assert!(complete(&container_record(1), rebooted, None).sentence.contains("rebooted"));
    }

    #[test]
    fn failed_starts_name_their_step() {
        let source = || std::io::Error::from_raw_os_error(13);
        let step = RuntimeError::StartFailed { step: "mounting proc on /proc".to_owned(), source: source() };
        let found = failure(&NodeError::Runtime(step));
        assert_eq!((found.step.as_str(), found.errno, found.exit_code), ("mounting proc on /proc", Some(13), 125));
        let found = failure(&NodeError::Runtime(RuntimeError::CommandNotFound("nope".to_owned())));
        assert_eq!((found.step.as_str(), found.errno, found.exit_code), ("executing nope", Some(2), 127));
    }
}
