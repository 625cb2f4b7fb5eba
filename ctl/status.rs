//! What an agent's refusal means: google.rpc.Status and its details, for people.

use crate::error::Error;
use crate::fields;
use berth::v1::ErrorReason as R;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The domain of berth's own reasons in ErrorInfo.
const DOMAIN: &str = "berth.dev";

/// Turns a failed call into words, a hint and an exit code.
pub fn error(status: &Status, host: &str, tls: bool, deadline: Option<Duration>) -> Error {
    let details = status.get_error_details();
    let info = details.error_info().filter(|i| i.domain == DOMAIN);
    // An agent that is newer may have reasons that are not known here.
    let reason = info.and_then(|i| R::from_str_name(&i.reason)).unwrap_or_default();
    // tonic ends a call that takes too long by itself, as CANCELLED.
    let late = status.code() == Code::DeadlineExceeded
        || (status.code() == Code::Cancelled && status.message().contains("Timeout expired"));
    let mut error = if late {
        let within = deadline.map_or(String::new(), |d| format!(" within {} s", d.as_secs_f64()));
        Error::new(format!("no answer from {host}{within}")).hint("--deadline sets how long to wait")
    } else if broken(status) {
        Error::new(format!("the connection to {host} broke: {}", transport_words(status)))
            .hint("is berthd still running there?")
    } else if status.message().is_empty() {
        Error::new(format!("{host} refused: {}", status.code().description()))
    } else {
        Error::new(sentence(status.message()))
    };
    if let Some(bad) = details.bad_request() {
        for violation in &bad.field_violations {
            let as_sent = format!("{}: {}", violation.field, violation.description);
            error.message = error.message.replace(as_sent.trim_end_matches('.'), &in_words(violation));
        }
        // A single one is the message already.
        let new = bad.field_violations.iter().filter(|v| !error.message.contains(v.description.trim_end_matches('.')));
        error.details = new.map(in_words).collect();
    }
    let file = info.and_then(|i| i.metadata.get("file")).map_or("", String::as_str);
    if let Some(hint) = hint(reason, file, status.code(), tls) {
        error.hint = Some(hint.to_owned());
    } else if let Some(delay) = details.retry_info().and_then(|r| r.retry_delay) {
        error.hint = Some(format!("try again in {} s", delay.as_secs().max(1)));
    }
    error.exit = match reason {
        R::CommandNotFound => Some(127),
        R::CommandNotExecutable => Some(126),
        _ => None,
    };
    error
}

/// What is wrong with a field, under the name that a person gave it.
fn in_words(violation: &tonic_types::FieldViolation) -> String {
    format!("{}: {}", fields::flag(&violation.field), violation.description.trim_end_matches('.'))
}

/// The connection broke: no agent said this, and what it was asked may be done or not.
pub fn broken(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => status.get_error_details().error_info().is_none_or(|i| i.domain != DOMAIN),
        // An agent's own refusal comes as text, and has no cause here.
        Code::Unknown | Code::Internal => std::error::Error::source(status).is_some(),
        // The same of a call that was still waiting for its turn on the connection; a call that took too long has no cause.
        Code::Cancelled => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// There was no room for the call, and nothing was begun of it: when the agent would be asked again.
pub fn overloaded(status: &Status) -> Option<Duration> {
    let details = status.get_error_details();
    let ours = details.error_info().filter(|i| i.domain == DOMAIN);
    ours.filter(|i| matches!(R::from_str_name(&i.reason), Some(R::CallerOverloaded | R::AgentOverloaded)))?;
    details.retry_info().and_then(|retry| retry.retry_delay)
}

/// The innermost cause, where tonic says "transport error".
fn transport_words(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        words = cause.to_string();
        source = cause.source();
    }
    match words.as_str() {
        "" => "no reason given".into(),
        // rustls adds the address of its manual.
        w if w.contains("close_notify") => "it was closed without a word".into(),
        _ => words,
    }
}

fn sentence(message: &str) -> String {
    message.trim_end().trim_end_matches('.').to_owned()
}

/// Of the limit that the kernel refused, by the name of its file.
fn limit(file: &str) -> Option<&'static str> {
    let of = |prefix: &str| file.starts_with(prefix);
    Some(if ["memory.max", "memory.swap.max"].contains(&file) || of("memory.") && file.ends_with("limit_in_bytes") {
        "nothing was changed; a limit of memory cannot go below what is in use (berthctl stats)"
    } else if of("cpuset.cpus") {
        "it can only have CPUs that the agent's own cgroup has on that host"
    } else if of("cpuset.mems") {
        "it can only have memory nodes that the agent's own cgroup has on that host; most hosts have 0 alone"
    } else if file == "cpu.cfs_quota_us" || file == "cpu.cfs_period_us" {
        "it can have no more CPU time than the cgroup above it"
    } else {
        return None;
    })
}

fn hint(reason: R, file: &str, code: Code, tls: bool) -> Option<&'static str> {
    Some(match reason {
        R::ContainerNotFound => "berthctl ps -a lists all containers",
        R::ImageNotFound => "is the name right? berthctl images lists what the host has",
        R::PlatformNotFound => "--platform chooses another one, such as linux/amd64",
        R::AmbiguousId => "give more characters of the id, or the name",
        R::NameInUse => "choose another name, or remove the other container with berthctl rm",
        R::ContainerRunning => "stop it first, or use rm -f",
        R::ContainerNotRunning => "berthctl start starts it",
        R::ContainerPaused => "berthctl unpause lets it go on",
        R::LimitRefused => return limit(file),
        R::FreezeFailed => {
            "one of its processes waits in the kernel, often for a disk or a network file system; try again"
        }
        R::ContainerBusy => "it has too many requests at once; try again",
        R::ImageInUse => "remove the containers first (berthctl ps -a --filter ancestor=IMAGE), or use rmi -f",
        R::RegistryDenied => "does the image exist, and does the host have credentials for the registry?",
        R::RegistryUnavailable => "is the registry up and reachable from the host?",
        R::DigestMismatch => "the registry sent other bytes than it named; try again, then tell its operator",
        R::DiskFull => "berthctl system df shows what takes the room, berthctl system prune --dry-run what can go",
        R::VolumeChanged => "begin anew; stop the volume's containers for a tar that belongs together",
        R::ContainerFull => {
            "remove files in it, or make another one: berthctl commit keeps its files, run --storage-opt size=... has more room"
        }
        R::VolumeFull => {
            "it keeps the size that it was made with: make a larger one (berthctl volume create --opt size=...), and import there"
        }
        R::NoQuota => {
            "mount that disk with prjquota; or let nothing hang on it: a volume made without backing=quota, or a container made anew of a commit of this one, has a file system of its own"
        }
        R::SubnetInUse => "--subnet names another one; without it the host's pools give one that is free",
        R::PortInUse => "choose another host port with -p, or stop what listens there",
        R::CommandNotFound => "is the program in the image, and in its PATH?",
        R::CommandNotExecutable => "is the file executable, and built for this architecture?",
        R::ConnectionRefused => "does the process in the container listen on 127.0.0.1, or on every address?",
        R::NoTerminal => "the container was made without -t",
        R::CursorInFuture => "the cursor is from another host, or from before its state was reset",
        R::WatchTooSlow => "start again; events that are kept come again",
        _ => match code {
            Code::PermissionDenied => {
                "berthctl info shows the role of this caller; an admin can issue another certificate"
            }
            Code::Unauthenticated if tls => {
                "is the certificate in the context the right one? berthctl pki show FILE tells what it says"
            }
            Code::Unimplemented => "the agent is older than this berthctl; berthctl version shows both",
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn with(code: Code, message: &str, details: ErrorDetails) -> Error {
        error(&Status::with_error_details(code, message, details), "web", true, Some(Duration::from_secs(2)))
    }

    fn reason(reason: &str) -> ErrorDetails {
        ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new())
    }

    #[test]
    fn a_call_that_was_not_sent_is_one_that_broke() {
        let mut unsent = Status::cancelled("operation was canceled");
        assert!(!broken(&unsent), "an agent may say so");
        unsent.set_source(std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert!(broken(&unsent));
        assert!(!broken(&Status::cancelled("Timeout expired")));
    }

    #[test]
    fn commands_have_a_shells_codes() {
        for (name, code) in
            [("COMMAND_NOT_FOUND", Some(127)), ("COMMAND_NOT_EXECUTABLE", Some(126)), ("START_FAILED", None)]
        {
            assert_eq!(with(Code::FailedPrecondition, "x", reason(name)).exit, code);
        }
        let foreign = ErrorDetails::with_error_info("COMMAND_NOT_FOUND", "elsewhere", std::collections::HashMap::new());
        assert_eq!(with(Code::FailedPrecondition, "x", foreign).exit, None);
    }

    #[test]
    fn a_refused_limit_is_the_one_that_is_spoken_of() {
        let hint = |file: &str| {
            let metadata = std::collections::HashMap::from([("file".to_owned(), file.to_owned())]);
            let details = ErrorDetails::with_error_info("LIMIT_REFUSED", DOMAIN, metadata);
            with(Code::FailedPrecondition, "x", details).hint.unwrap_or_default()
        };
        for (file, word) in [
            ("memory.max", "in use"),
            ("memory.memsw.limit_in_bytes", "in use"),
            ("cpuset.cpus", "CPUs"),
            ("cpuset.mems", "memory nodes"),
            ("cpu.cfs_quota_us", "CPU time"),
        ] {
            assert!(hint(file).contains(word), "{file}: {}", hint(file));
        }
        // v2 bounds the processor time of a group by that of none above.
        for file in ["hugetlb.2MB.max", "memory.high", "memory.zswap.max", "cpu.max"] {
            assert_eq!(hint(file), "", "{file}");
        }
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut details = reason("INVALID");
        details.add_bad_request_violation("config.name", "too short");
        details.add_bad_request_violation("config.env[1]", "no '='");
        let e = with(Code::InvalidArgument, "2 fields are wrong.", details);
        assert_eq!(e.message, "2 fields are wrong");
        assert_eq!(e.details, ["--name: too short", "--env: no '='"]);
        let mut details = reason("INVALID");
        details.add_bad_request_violation("start.create.config.user", "no user \"x\"");
        let e = with(Code::InvalidArgument, "start.create.config.user: no user \"x\"", details);
        assert_eq!((e.message.as_str(), e.details), ("--user: no user \"x\"", Vec::new()));
    }

    #[test]
    fn lateness_and_broken_connections() {
        let late = with(Code::Cancelled, "Timeout expired", ErrorDetails::new());
        assert_eq!(late.message, "no answer from web within 2 s");
        let broken = with(Code::Unavailable, "transport error", ErrorDetails::new());
        assert_eq!(broken.message, "the connection to web broke: transport error");
        let busy = with(Code::Unavailable, "registry away", reason("REGISTRY_UNAVAILABLE"));
        assert_eq!(busy.message, "registry away");
    }
}
