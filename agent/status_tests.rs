use super::*;
use berth_model::digest::Algorithm;
use berth_model::{ContainerId, Digest, Platform};
use std::io::{Error, ErrorKind};
use std::sync::Arc;

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("every status has an ErrorInfo");
    assert_eq!(info.domain, DOMAIN);
    info.reason
}

fn full() -> Error {
    Error::from(ErrorKind::StorageFull)
}

#[test]
fn what_is_wrong_fits_into_headers() {
    let long = |n: usize| (format!("field{n}[{}]", "\u{1}".repeat(9000)), "é".repeat(100_000));
    for count in [1, 5, 5000] {
        let status = invalid((0..count).map(long).collect());
        let headers = status.clone().into_http::<()>().into_parts().0.headers;
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 16 << 10, "{count} errors take {size} bytes");
        let named = status.get_details_bad_request().expect("the fields").field_violations;
        assert!(named.len() >= count.min(4) && named[0].field.starts_with("field0["), "{count}: {}", named.len());
        assert!(count < 5 || status.message().contains("field0[") && reason(&status) == "INVALID_FIELDS");
    }
    let short = invalid((0..60).map(|n| (format!("f{n}"), "is wrong".to_owned())).collect());
    assert_eq!(short.get_details_bad_request().expect("the fields").field_violations.len(), 60);
    assert!(short.message().ends_with("; and 56 more"), "{}", short.message());
}

#[test]
fn every_kind_of_error_has_its_code_and_reason() {
    let id = || ContainerId::from_bytes([1; 32]);
    let digest = || Digest::from_bytes(Algorithm::Sha256, &[2; 32]);
    let name = || "web".to_owned();
    let platform = || Platform { os: "linux".into(), architecture: "arm64".into(), variant: None };
    let enoent = || Error::from_raw_os_error(2);
    let unavailable =
        |retry_after| ImageError::Unavailable { registry: name(), what: name(), reason: name(), retry_after };
    let cases: Vec<(NodeError, Code, &str)> = vec![
        (NodeError::ContainerNotFound(name()), Code::NotFound, "CONTAINER_NOT_FOUND"),
        (NodeError::ImageNotFound(name()), Code::NotFound, "IMAGE_NOT_FOUND"),
        (NodeError::Ambiguous(name(), "container"), Code::InvalidArgument, "AMBIGUOUS_ID"),
        (NodeError::NameInUse { name: name(), by: id() }, Code::AlreadyExists, "NAME_IN_USE"),
        (NodeError::NotRunning(name()), Code::FailedPrecondition, "CONTAINER_NOT_RUNNING"),
        (NodeError::Running(name()), Code::FailedPrecondition, "CONTAINER_RUNNING"),
        (NodeError::StillRunning(name()), Code::FailedPrecondition, "CONTAINER_STILL_RUNNING"),
        (NodeError::ImageInUse { image: name(), by: name() }, Code::FailedPrecondition, "IMAGE_IN_USE"),
        (NodeError::Invalid(vec![(name(), name())]), Code::InvalidArgument, "INVALID_FIELDS"),
        (NodeError::NoTerminal(name()), Code::FailedPrecondition, "NO_TERMINAL"),
        (NodeError::LogNotKept(name()), Code::FailedPrecondition, "LOG_NOT_KEPT"),
        (NodeError::Busy(name()), Code::ResourceExhausted, "CONTAINER_BUSY"),
        (NodeError::CursorInFuture { asked: 2, newest: 1 }, Code::OutOfRange, "CURSOR_IN_FUTURE"),
        (NodeError::WatchTooSlow, Code::ResourceExhausted, "WATCH_TOO_SLOW"),
        (NodeError::RequestIdReused, Code::AlreadyExists, "REQUEST_ID_REUSED"),
        (NodeError::Stopping, Code::Unavailable, "AGENT_STOPPING"),
        (
            NodeError::NoPlace { what: "copies", full: berth_node::Full::Caller(4) },
            Code::ResourceExhausted,
            "CALLER_OVERLOADED",
        ),
        (
            NodeError::NoPlace { what: "copies", full: berth_node::Full::All },
            Code::ResourceExhausted,
            "AGENT_OVERLOADED",
        ),
        (NodeError::Store { act: name(), source: "x".into() }, Code::Internal, "STORE_FAILED"),
        (NodeError::Io { act: name(), source: full() }, Code::ResourceExhausted, "DISK_FULL"),
        (NodeError::Io { act: name(), source: enoent() }, Code::Internal, "IO_FAILED"),
        (NodeError::Io { act: name(), source: Error::from_raw_os_error(24) }, Code::ResourceExhausted, "OUT_OF_FILES"),
        (NodeError::VolumeChanged(name()), Code::FailedPrecondition, "VOLUME_CHANGED"),
        (
            NodeError::ContainerFull { act: name(), container: name(), limit: name() },
            Code::ResourceExhausted,
            "CONTAINER_FULL",
        ),
        (
            VolumeError::Full { act: name(), volume: name(), what: "a size" }.into(),
            Code::ResourceExhausted,
            "VOLUME_FULL",
        ),
        (ImageError::NotFound { what: name(), registry: name() }.into(), Code::NotFound, "IMAGE_NOT_FOUND"),
        (
            ImageError::PlatformNotFound { image: name(), wanted: platform(), available: vec![platform()] }.into(),
            Code::NotFound,
            "PLATFORM_NOT_FOUND",
        ),
        (
            ImageError::Denied { registry: name(), what: name(), reason: name() }.into(),
            Code::PermissionDenied,
            "REGISTRY_DENIED",
        ),
        (unavailable(None).into(), Code::Unavailable, "REGISTRY_UNAVAILABLE"),
        (
            ImageError::DigestMismatch { what: name(), expected: digest(), actual: digest() }.into(),
            Code::DataLoss,
            "DIGEST_MISMATCH",
        ),
        (ImageError::DiskFull { act: name() }.into(), Code::ResourceExhausted, "DISK_FULL"),
        (ImageError::Io { act: name(), source: Arc::new(enoent()) }.into(), Code::Internal, "IO_FAILED"),
        (RootfsError::Missing(digest()).into(), Code::FailedPrecondition, "LAYER_MISSING"),
        (RootfsError::Io { act: name(), source: full() }.into(), Code::ResourceExhausted, "DISK_FULL"),
        (NetworkError::HostAddressUnknown([10, 0, 0, 1].into()).into(), Code::InvalidArgument, "INVALID_FIELDS"),
        (
            RuntimeError::StartFailed { step: "mounting proc on /proc".into(), source: enoent() }.into(),
            Code::FailedPrecondition,
            "START_FAILED",
        ),
        (RuntimeError::CommandNotFound(name()).into(), Code::FailedPrecondition, "COMMAND_NOT_FOUND"),
        (
            RuntimeError::CommandNotExecutable { command: name(), source: enoent() }.into(),
            Code::FailedPrecondition,
            "COMMAND_NOT_EXECUTABLE",
        ),
        (RuntimeError::NotRunning.into(), Code::FailedPrecondition, "CONTAINER_NOT_RUNNING"),
        (
            RuntimeError::OtherRuntime { runtime: name(), message: "no such container".into(), code: 1 }.into(),
            Code::FailedPrecondition,
            "RUNTIME_FAILED",
        ),
    ];
    for (error, code, want) in cases {
        let shown = format!("{error:?}");
        let status = from_node(error);
        assert_eq!((status.code(), reason(&status).as_str()), (code, want), "{shown}");
        assert!(!status.message().is_empty());
    }
}

#[test]
fn a_failed_start_names_its_step_and_errno() {
    let step = "mounting proc on /proc".to_owned();
    let status =
        from_node(RuntimeError::StartFailed { step: step.clone(), source: Error::from_raw_os_error(1) }.into());
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["step"], step);
    assert_eq!(info.metadata["errno"], "1");
}

#[test]
fn fields_are_all_there_and_bounded() {
    let fields = (0..100).map(|n| (format!("env[{n}]"), "must be KEY=value".to_owned())).collect();
    let status = invalid(fields);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 64);
    assert!(status.message().ends_with("and 96 more"), "{}", status.message());
}

#[test]
fn long_messages_are_cut_between_characters() {
    let status = from_node(NodeError::ContainerNotFound("é".repeat(5000)));
    assert!(status.message().len() <= MAX_MESSAGE + '…'.len_utf8());
}

#[test]
fn what_can_be_tried_again_says_when() {
    for status in [
        room::overloaded(),
        super::full(berth_node::Full::Caller(4)),
        super::no_connection(berth_node::Full::Caller(4), "a", Some("limits.connections")),
        no_room(),
        stopping(),
        from_node(NodeError::Busy("web".into())),
    ] {
        assert!(status.get_details_retry_info().is_some());
    }
}
