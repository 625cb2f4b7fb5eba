//! The one place where errors become gRPC statuses.
//!
//! Each has a code, a message for people, and google.rpc details: ErrorInfo with a stable reason in the domain
//! `berth.dev`, and BadRequest, ResourceInfo or RetryInfo where they help. The reasons stand in the comments of
//! `proto/berth/v1`: callers may depend on them.

mod room;

pub use room::{full, no_connection, no_room, request_late, request_too_large, unread};

use crate::upgrade::UpgradeError;
use berth_cni::{CniError, Verb};
use berth_image::ImageError;
use berth_network::NetworkError;
use berth_node::NodeError;
use berth_rootfs::RootfsError;
use berth_runtime::RuntimeError;
use berth_volume::VolumeError;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// ErrorInfo's domain.
pub const DOMAIN: &str = "berth.dev";
/// A second try before this finds the same.
const RETRY_SOON: Duration = Duration::from_millis(500);
/// A registry that is away is not back sooner.
const RETRY_REGISTRY: Duration = Duration::from_secs(5);
/// As much of an error's text as goes into a header: HTTP/2 peers take 8 to 16 KiB of headers, details are sent too.
const MAX_MESSAGE: usize = 2048;

/// The same for the fields of a request that are wrong, all together: they are sent beside the message, in base64.
const MAX_VIOLATIONS: usize = 3072;
/// One of them: many have a caller's whole word in them.
const MAX_VIOLATION: usize = 500;

/// As much of a text as there is room for.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

/// A status in the making.
struct Draft {
    code: Code,
    message: String,
    details: ErrorDetails,
}

impl Draft {
    fn new(code: Code, reason: &str, message: impl Into<String>) -> Draft {
        Draft::with(code, reason, message, [])
    }

    fn with<const N: usize>(
        code: Code,
        reason: &str,
        message: impl Into<String>,
        metadata: [(&str, String); N],
    ) -> Draft {
        let message = cut(message.into(), MAX_MESSAGE);
        let metadata: HashMap<String, String> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Draft { code, message, details: ErrorDetails::with_error_info(reason, DOMAIN, metadata) }
    }

    fn resource(mut self, kind: &str, name: &str) -> Draft {
        self.details.set_resource_info(kind, name, "", self.message.clone());
        self
    }

    fn retry(mut self, after: Duration) -> Draft {
        self.details.set_retry_info(Some(after));
        self
    }

    fn done(self) -> Status {
        Status::with_error_details(self.code, self.message, self.details)
    }
}

/// Fields of a request that are wrong, all of them.
pub fn invalid(fields: Vec<(String, String)>) -> Status {
    /// More are not read by anybody.
    const MAX_FIELDS: usize = 64;
    let count = fields.len();
    let mut room = MAX_VIOLATIONS;
    let fields = fields.into_iter().take(MAX_FIELDS).map(|(field, why)| (cut(field, 200), cut(why, MAX_VIOLATION)));
    let fields: Vec<(String, String)> = fields
        .take_while(|(field, why)| {
            let left = room.checked_sub(field.len() + why.len());
            room = left.unwrap_or(0);
            left.is_some()
        })
        .collect();
    let shown: Vec<String> = fields.iter().take(4).map(|(field, why)| format!("{field}: {why}")).collect();
    let more = count.saturating_sub(shown.len());
    let mut message = shown.join("; ");
    if more > 0 {
        message.push_str(&format!("; and {more} more"));
    }
    let mut draft = Draft::new(Code::InvalidArgument, "INVALID_FIELDS", message);
    let violations: Vec<FieldViolation> =
        fields.into_iter().map(|(field, why)| FieldViolation::new(field, why)).collect();
    draft.details.set_bad_request(violations);
    draft.done()
}

/// The role is not enough.
pub fn denied(role: &str, message: &str) -> Status {
    Draft::with(Code::PermissionDenied, "ROLE_DENIED", message, [("role", role.into())]).done()
}

/// What a path of the host leads to cannot be told, and with it not whether the caller may use it.
pub fn path_silent(path: &str) -> Status {
    let message =
        format!("{path} of the host does not answer (a hung network file system?); try again, or ask an admin");
    Draft::new(Code::Unavailable, "PATH_SILENT", message).done()
}

/// The certificate that opened the connection is no longer good.
pub fn lapsed(reason: &str, message: &str) -> Status {
    Draft::new(Code::Unauthenticated, reason, message).done()
}

/// There is no such RPC, so there is no rule for it either.
pub fn unknown_method(path: &str) -> Status {
    let path: String = path.chars().take(200).collect();
    Draft::new(Code::Unimplemented, "UNKNOWN_METHOD", format!("this agent has no RPC {path}")).done()
}

/// The caller's deadline, or the agent's own, has passed.
pub fn deadline() -> Status {
    Draft::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the call's deadline has passed").done()
}

/// The agent is about to end, and its successor to come.
pub fn stopping() -> Status {
    Draft::new(Code::Unavailable, "AGENT_STOPPING", "the agent is stopping; containers go on").retry(RETRY_SOON).done()
}

/// A stream whose first frame is not `start`, or which has a second one.
pub fn bad_stream(message: &str) -> Status {
    Draft::new(Code::InvalidArgument, "BAD_STREAM", message).done()
}

/// A connection that is carried broke at its far end.
pub fn connection_reset(message: String) -> Status {
    Draft::new(Code::Aborted, "CONNECTION_RESET", message).done()
}

/// Something that should not be.
pub fn internal(message: impl Into<String>) -> Status {
    let message = message.into();
    tracing::error!("{message}");
    Draft::new(Code::Internal, "INTERNAL", message).done()
}

/// An operation of the core that failed.
pub fn from_node(error: NodeError) -> Status {
    let message = error.to_string();
    let draft = match error {
        NodeError::ContainerNotFound(name) => {
            Draft::new(Code::NotFound, "CONTAINER_NOT_FOUND", message).resource("container", &name)
        }
        NodeError::NetworkNotFound(name) => {
            Draft::new(Code::NotFound, "NETWORK_NOT_FOUND", message).resource("network", &name)
        }
        NodeError::NetworkNameInUse(name) => {
            Draft::new(Code::AlreadyExists, "NETWORK_NAME_IN_USE", message).resource("network", &name)
        }
        NodeError::NetworkInUse { network, by } => {
            Draft::with(Code::FailedPrecondition, "NETWORK_IN_USE", message, [("containers", by.join(","))])
                .resource("network", &network)
        }
        NodeError::NetworkPredefined(name) => {
            Draft::new(Code::FailedPrecondition, "NETWORK_PREDEFINED", message).resource("network", &name)
        }
        NodeError::TooManyPorts(_) => Draft::new(Code::FailedPrecondition, "TOO_MANY_PORTS", message),
        NodeError::SubnetInUse { subnet, .. } => {
            Draft::with(Code::FailedPrecondition, "SUBNET_IN_USE", message, [("subnet", subnet)])
        }
        NodeError::UsernsForbidden(_) => Draft::new(Code::FailedPrecondition, "USERNS_FORBIDDEN", message),
        NodeError::Cdi(_) => Draft::new(Code::FailedPrecondition, "CDI_DEVICE", message),
        NodeError::UsernsMissing(_) => Draft::new(Code::FailedPrecondition, "USERNS_MISSING", message),
        NodeError::IdsInUse { .. } => Draft::new(Code::FailedPrecondition, "IDS_IN_USE", message),
        NodeError::LabelsExhausted => Draft::new(Code::ResourceExhausted, "LABELS_EXHAUSTED", message),
        NodeError::IdsExhausted { .. } => Draft::new(Code::ResourceExhausted, "IDS_EXHAUSTED", message),
        NodeError::PoolsExhausted(_) => Draft::new(Code::ResourceExhausted, "POOLS_EXHAUSTED", message),
        NodeError::ImageNotFound(name) => {
            Draft::new(Code::NotFound, "IMAGE_NOT_FOUND", message).resource("image", &name)
        }
        NodeError::Ambiguous(name, kind) => {
            Draft::new(Code::InvalidArgument, "AMBIGUOUS_ID", message).resource(kind, &name)
        }
        NodeError::NameInUse { name, by } => {
            Draft::with(Code::AlreadyExists, "NAME_IN_USE", message, [("container", by.to_string())])
                .resource("container", &name)
        }
        NodeError::NotRunning(name) => {
            Draft::new(Code::FailedPrecondition, "CONTAINER_NOT_RUNNING", message).resource("container", &name)
        }
        NodeError::Running(name) => {
            Draft::new(Code::FailedPrecondition, "CONTAINER_RUNNING", message).resource("container", &name)
        }
        NodeError::Paused(name) => {
            Draft::new(Code::FailedPrecondition, "CONTAINER_PAUSED", message).resource("container", &name)
        }
        NodeError::StillRunning(name) => {
            Draft::new(Code::FailedPrecondition, "CONTAINER_STILL_RUNNING", message).resource("container", &name)
        }
        NodeError::WatchTooSlow => Draft::new(Code::ResourceExhausted, "WATCH_TOO_SLOW", message).retry(Duration::ZERO),
        NodeError::ImageInUse { image, by } => {
            Draft::with(Code::FailedPrecondition, "IMAGE_IN_USE", message, [("container", by)])
                .resource("image", &image)
        }
        NodeError::Dependency { container, dependency, .. } => {
            Draft::with(Code::FailedPrecondition, "DEPENDENCY_NOT_MET", message, [("dependency", dependency)])
                .resource("container", &container)
        }
        NodeError::Invalid(fields) => return invalid(fields),
        NodeError::NoTerminal(name) => {
            Draft::new(Code::FailedPrecondition, "NO_TERMINAL", message).resource("container", &name)
        }
        NodeError::NoHealthCheck(name) => {
            Draft::new(Code::FailedPrecondition, "NO_HEALTH_CHECK", message).resource("container", &name)
        }
        NodeError::LogNotKept(name) => {
            Draft::new(Code::FailedPrecondition, "LOG_NOT_KEPT", message).resource("container", &name)
        }
        NodeError::Busy(name) => Draft::new(Code::ResourceExhausted, "CONTAINER_BUSY", message)
            .resource("container", &name)
            .retry(RETRY_SOON),
        NodeError::CursorInFuture { newest, .. } => {
            Draft::with(Code::OutOfRange, "CURSOR_IN_FUTURE", message, [("newest", newest.to_string())])
        }
        NodeError::RequestIdReused => Draft::new(Code::AlreadyExists, "REQUEST_ID_REUSED", message),
        NodeError::PathNotFound(path) => Draft::new(Code::NotFound, "PATH_NOT_FOUND", message).resource("path", &path),
        NodeError::BadDestination(_) => Draft::new(Code::FailedPrecondition, "BAD_DESTINATION", message),
        NodeError::BadArchive(_) => Draft::new(Code::InvalidArgument, "BAD_ARCHIVE", message),
        NodeError::RootReadOnly(name) => {
            Draft::new(Code::FailedPrecondition, "ROOT_READ_ONLY", message).resource("container", &name)
        }
        NodeError::NotMounted { container, .. } => {
            Draft::new(Code::FailedPrecondition, "NOT_MOUNTED", message).resource("container", &container)
        }
        NodeError::KernelFiles { .. } => Draft::new(Code::FailedPrecondition, "KERNEL_FILES", message),
        NodeError::EndedMeanwhile(name) => {
            Draft::new(Code::FailedPrecondition, "CONTAINER_ENDED", message).resource("container", &name)
        }
        NodeError::CallerGone => Draft::new(Code::Cancelled, "CALLER_GONE", message),
        NodeError::SessionLost => Draft::new(Code::FailedPrecondition, "SESSION_LOST", message),
        NodeError::PortRefused { container, listens, .. } => {
            let metadata = [("listens", listens.join(","))];
            Draft::with(Code::FailedPrecondition, "CONNECTION_REFUSED", message, metadata)
                .resource("container", &container)
        }
        NodeError::PortFailed { container, source, .. } => {
            Draft::with(Code::FailedPrecondition, "CONNECTION_FAILED", message, [("errno", errno(&source))])
                .resource("container", &container)
        }
        NodeError::VolumeChanged(name) => {
            Draft::new(Code::FailedPrecondition, "VOLUME_CHANGED", message).resource("volume", &name)
        }
        NodeError::VolumeNotFound(name) => {
            Draft::new(Code::NotFound, "VOLUME_NOT_FOUND", message).resource("volume", &name)
        }
        NodeError::VolumeInUse { volume, by } => {
            Draft::with(Code::FailedPrecondition, "VOLUME_IN_USE", message, [("by", by.join(","))])
                .resource("volume", &volume)
        }
        NodeError::VolumeExists { volume, .. } => {
            Draft::new(Code::AlreadyExists, "VOLUME_EXISTS", message).resource("volume", &volume)
        }
        NodeError::Volume(inner) => from_volume(&inner, message),
        NodeError::Image(inner) => from_image(&inner, message),
        NodeError::Rootfs(inner) => from_rootfs(&inner, message),
        NodeError::Network(inner) => from_network(&inner, message),
        NodeError::Cni(inner) => from_cni(&inner, message),
        NodeError::Runtime(inner) => from_runtime(&inner, message),
        NodeError::Store { .. } => hidden(message, "STORE_FAILED"),
        NodeError::Io { source, .. } => from_io(&source, message),
        NodeError::NoPlace { full, .. } => room::no_place(full, message),
        NodeError::Stopping => return stopping(),
    };
    draft.done()
}

/// An upgrade of the agent that there will not be.
pub fn from_upgrade(error: UpgradeError) -> Status {
    let message = error.to_string();
    let draft = match error {
        UpgradeError::NoKey(_) => Draft::new(Code::FailedPrecondition, "UPGRADE_NO_KEY", message),
        UpgradeError::Signature => Draft::new(Code::InvalidArgument, "UPGRADE_SIGNATURE", message),
        UpgradeError::Damaged(_) => Draft::new(Code::DataLoss, "UPGRADE_DAMAGED", message),
        UpgradeError::Architecture(_) => Draft::new(Code::FailedPrecondition, "UPGRADE_ARCHITECTURE", message),
        UpgradeError::Downgrade { from, to } => {
            Draft::with(Code::FailedPrecondition, "UPGRADE_DOWNGRADE", message, [("from", from), ("to", to)])
        }
        UpgradeError::SelfCheck(_) => Draft::new(Code::FailedPrecondition, "UPGRADE_SELF_CHECK", message),
        UpgradeError::Schema(_) => Draft::new(Code::FailedPrecondition, "UPGRADE_SCHEMA", message),
        UpgradeError::UnderWay => Draft::new(Code::Aborted, "UPGRADE_UNDER_WAY", message),
        UpgradeError::NotPending(_) => Draft::new(Code::FailedPrecondition, "UPGRADE_NOT_PENDING", message),
        UpgradeError::Io { source, .. } => from_io(&source, message),
    };
    draft.done()
}

/// Nothing that the caller can do anything about: the log has it too.
fn hidden(message: String, reason: &str) -> Draft {
    tracing::error!(reason, "{message}");
    Draft::new(Code::Internal, reason, message)
}

fn from_io(error: &std::io::Error, message: String) -> Draft {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => Draft::new(Code::ResourceExhausted, "DISK_FULL", message),
        K::OutOfMemory => Draft::new(Code::ResourceExhausted, "OUT_OF_MEMORY", message),
        _ => match error.raw_os_error() {
            // ENFILE, EMFILE
            Some(23 | 24) => Draft::new(Code::ResourceExhausted, "OUT_OF_FILES", message),
            _ => hidden(message, "IO_FAILED"),
        },
    }
}

fn from_volume(error: &VolumeError, message: String) -> Draft {
    match error {
        VolumeError::NoRoom { .. } => Draft::new(Code::ResourceExhausted, "DISK_FULL", message),
        e if e.disk_full() => Draft::new(Code::ResourceExhausted, "DISK_FULL", message),
        VolumeError::NoQuota { .. } => Draft::new(Code::FailedPrecondition, "NO_QUOTA", message),
        VolumeError::NoMkfs => Draft::new(Code::FailedPrecondition, "NO_MKFS", message),
        VolumeError::NoFileSystem(_) => Draft::new(Code::FailedPrecondition, "NO_FILE_SYSTEM", message),
        VolumeError::Mkfs(_) => Draft::new(Code::FailedPrecondition, "MKFS_FAILED", message),
        VolumeError::NoSubpath(_) => Draft::new(Code::FailedPrecondition, "NO_SUBPATH", message),
        VolumeError::Elsewhere(_) => Draft::new(Code::FailedPrecondition, "VOLUME_ELSEWHERE", message),
        VolumeError::Full { .. } => Draft::new(Code::ResourceExhausted, "VOLUME_FULL", message),
        VolumeError::NotEmpty => Draft::new(Code::FailedPrecondition, "VOLUME_NOT_EMPTY", message),
        VolumeError::Extract(e) => match e {
            berth_rootfs::tar::ExtractError::Io { source, .. } => from_io(source, message),
            _ => Draft::new(Code::InvalidArgument, "BAD_ARCHIVE", message),
        },
        // A mount that the kernel refuses: its options are the caller's.
        VolumeError::Io { source, act } if act.starts_with("mounting ") => {
            let errno = source.raw_os_error().unwrap_or_default().to_string();
            Draft::with(Code::FailedPrecondition, "VOLUME_MOUNT_FAILED", message, [("errno", errno)])
        }
        VolumeError::Io { source, .. } => from_io(source, message),
    }
}

fn from_rootfs(error: &RootfsError, message: String) -> Draft {
    if error.disk_full() {
        return Draft::new(Code::ResourceExhausted, "DISK_FULL", message);
    }
    match error {
        RootfsError::Io { source, .. } => from_io(source, message),
        RootfsError::BadLayer(_) | RootfsError::Unkeepable(_) => {
            Draft::new(Code::FailedPrecondition, "INVALID_LAYER", message)
        }
        RootfsError::Missing(layer) => {
            Draft::with(Code::FailedPrecondition, "LAYER_MISSING", message, [("layer", layer.to_string())])
        }
        RootfsError::Damaged { layer, .. } => {
            Draft::with(Code::DataLoss, "LAYER_DAMAGED", message, [("layer", layer.clone())])
        }
        RootfsError::TooManyLayers(_) => Draft::new(Code::FailedPrecondition, "TOO_MANY_LAYERS", message),
        RootfsError::ErofsUnsupported(_) => Draft::new(Code::FailedPrecondition, "EROFS_UNSUPPORTED", message),
        RootfsError::Unreadable { .. } => Draft::new(Code::FailedPrecondition, "ROOT_UNREADABLE", message),
        RootfsError::MountPoint(_) => hidden(message, "MOUNT_IN_THE_WAY"),
    }
}

fn from_image(error: &ImageError, message: String) -> Draft {
    match error {
        ImageError::NotFound { what, registry } => {
            Draft::with(Code::NotFound, "IMAGE_NOT_FOUND", message, [("registry", registry.clone())])
                .resource("image", what)
        }
        ImageError::PlatformNotFound { image, wanted, available } => {
            let available: Vec<String> = available.iter().map(ToString::to_string).collect();
            let metadata = [("wanted", wanted.to_string()), ("available", available.join(" "))];
            Draft::with(Code::NotFound, "PLATFORM_NOT_FOUND", message, metadata).resource("image", image)
        }
        ImageError::Denied { registry, what, .. } => {
            Draft::with(Code::PermissionDenied, "REGISTRY_DENIED", message, [("registry", registry.clone())])
                .resource("image", what)
        }
        ImageError::Unavailable { registry, retry_after, .. } => {
            Draft::with(Code::Unavailable, "REGISTRY_UNAVAILABLE", message, [("registry", registry.clone())])
                .retry(retry_after.unwrap_or(RETRY_REGISTRY))
        }
        ImageError::DigestMismatch { expected, actual, .. } => {
            let metadata = [("expected", expected.to_string()), ("actual", actual.to_string())];
            Draft::with(Code::DataLoss, "DIGEST_MISMATCH", message, metadata)
        }
        ImageError::SizeMismatch { expected, actual, .. } => {
            let metadata = [("expected", expected.to_string()), ("actual", actual.to_string())];
            Draft::with(Code::DataLoss, "SIZE_MISMATCH", message, metadata)
        }
        ImageError::BadManifest { .. } => Draft::new(Code::FailedPrecondition, "INVALID_MANIFEST", message),
        ImageError::BadLayer { digest, .. } => {
            Draft::with(Code::FailedPrecondition, "INVALID_LAYER", message, [("layer", digest.to_string())])
        }
        ImageError::TooLarge { .. } => Draft::new(Code::FailedPrecondition, "IMAGE_TOO_LARGE", message),
        ImageError::DiskFull { .. } => Draft::new(Code::ResourceExhausted, "DISK_FULL", message),
        ImageError::Cancelled => Draft::new(Code::Cancelled, "CANCELLED", message),
        ImageError::Config { registry, .. } => {
            Draft::with(Code::FailedPrecondition, "REGISTRY_CONFIG", message, [("registry", registry.clone())])
        }
        ImageError::Io { source, .. } => from_io(source, message),
        ImageError::Sink { .. } => hidden(message, "LAYER_NOT_STORED"),
    }
}

fn from_network(error: &NetworkError, message: String) -> Draft {
    use NetworkError as E;
    match error {
        E::PortInUse { address, protocol, holder } => {
            let metadata =
                [("address", address.to_string()), ("protocol", (*protocol).into()), ("holder", holder.to_string())];
            Draft::with(Code::FailedPrecondition, "PORT_IN_USE", message, metadata)
        }
        E::NoneFree { why, .. } => from_network(why, message),
        E::NoneLeft { .. } => Draft::new(Code::ResourceExhausted, "NO_PORT_LEFT", message),
        E::NoContainerPort
        | E::HostAddressFamily(_)
        | E::HostAddressUnknown(_)
        | E::ShiftedRange { .. }
        | E::RangeEnd { .. }
        | E::SctpMissing => {
            let mut draft = Draft::new(Code::InvalidArgument, "INVALID_FIELDS", message.clone());
            draft.details.set_bad_request(vec![FieldViolation::new("config.ports", message)]);
            draft
        }
        E::PortBind { address, protocol, source } => {
            let metadata =
                [("address", address.to_string()), ("protocol", (*protocol).into()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, "PORT_NOT_BOUND", message, metadata)
        }
        E::Detour { source, .. } => {
            Draft::with(Code::FailedPrecondition, "INPUT_RULES", message, [("errno", errno(source))])
        }
        E::NoAddressLeft(subnet) => {
            Draft::with(Code::ResourceExhausted, "NO_ADDRESS_LEFT", message, [("subnet", subnet.to_string())])
        }
        E::BridgeFull { network, .. } => {
            Draft::with(Code::ResourceExhausted, "NETWORK_FULL", message, [("network", network.clone())])
        }
        E::NoAddressLeft6(subnet) => {
            Draft::with(Code::ResourceExhausted, "NO_ADDRESS_LEFT", message, [("subnet", subnet.to_string())])
        }
        E::AddressInUse { address, network } => {
            let metadata = [("address", address.to_string()), ("network", network.clone())];
            Draft::with(Code::FailedPrecondition, "ADDRESS_IN_USE", message, metadata)
        }
        E::MacInUse { mac, network } => {
            let metadata = [("mac_address", mac.clone()), ("network", network.clone())];
            Draft::with(Code::FailedPrecondition, "ADDRESS_IN_USE", message, metadata)
        }
        E::AddressOutside { .. } => Draft::new(Code::FailedPrecondition, "ADDRESS_OUTSIDE", message),
        E::NoNetwork(name) => {
            Draft::new(Code::NotFound, "NETWORK_NOT_FOUND", message.clone()).resource("network", name)
        }
        E::SubnetInUse6 { subnet, .. } => {
            Draft::with(Code::FailedPrecondition, "SUBNET_IN_USE", message, [("subnet", subnet.to_string())])
        }
        E::NoInterface(_) => {
            let mut draft = Draft::new(Code::InvalidArgument, "INVALID_FIELDS", message.clone());
            draft.details.set_bad_request(vec![FieldViolation::new("interface", message)]);
            draft
        }
        E::DriverRefused { what, source } => {
            let metadata = [("what", what.clone()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, "DRIVER_REFUSED", message, metadata)
        }
        E::Config(_) | E::SubnetInUse { .. } | E::NotABridge(_) | E::ForeignBridge(_) => {
            Draft::new(Code::FailedPrecondition, "NETWORK_CONFIG", message)
        }
        E::NftablesMissing { .. } => Draft::new(Code::FailedPrecondition, "NFTABLES_MISSING", message),
        E::AlreadyAttached(_) => hidden(message, "ALREADY_ATTACHED"),
        E::Netlink { source, .. } | E::Nftables { source, .. } | E::Namespace { source, .. } => {
            from_io(source, message)
        }
        E::Sysctl { source, .. } => from_io(source, message),
    }
}

fn from_cni(error: &CniError, message: String) -> Draft {
    use CniError as E;
    let metadata = |plugin: &str, verb: Verb, code: u64| {
        [("plugin", plugin.to_owned()), ("verb", verb.name().to_owned()), ("code", code.to_string())]
    };
    match error {
        // The specification's "try again later".
        E::Refused { plugin, verb, code: 11, .. } => {
            Draft::with(Code::Unavailable, "CNI_FAILED", message, metadata(plugin, *verb, 11))
        }
        E::Refused { plugin, verb, code, .. } => {
            Draft::with(Code::FailedPrecondition, "CNI_FAILED", message, metadata(plugin, *verb, *code))
        }
        E::Failed { plugin, verb, .. } | E::Timeout { plugin, verb, .. } => {
            Draft::with(Code::FailedPrecondition, "CNI_FAILED", message, metadata(plugin, *verb, 0))
        }
        E::NotGiven { .. } => Draft::new(Code::FailedPrecondition, "CNI_FAILED", message),
        E::NotFound { plugin, .. } => {
            Draft::with(Code::FailedPrecondition, "CNI_PLUGIN_MISSING", message, [("plugin", plugin.clone())])
        }
        E::Io { source, .. } => from_io(source, message),
        E::Damaged { .. } | E::Conflist { .. } => hidden(message, "CNI_DAMAGED"),
    }
}

/// The error's number, for those who look it up.
fn errno(error: &std::io::Error) -> String {
    error.raw_os_error().map(|n| n.to_string()).unwrap_or_default()
}

fn from_runtime(error: &RuntimeError, message: String) -> Draft {
    use RuntimeError as E;
    match error {
        E::StartFailed { step, source } => {
            let metadata = [("step", step.clone()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, "START_FAILED", message, metadata)
        }
        E::CommandNotFound(command) => {
            let metadata = [("command", command.clone()), ("exit_code", "127".into())];
            Draft::with(Code::FailedPrecondition, "COMMAND_NOT_FOUND", message, metadata)
        }
        E::CommandNotExecutable { command, source } => {
            let metadata = [("command", command.clone()), ("exit_code", "126".into()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, "COMMAND_NOT_EXECUTABLE", message, metadata)
        }
        E::Limit { path, source, .. } => {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let metadata = [("file", file), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, "LIMIT_REFUSED", message, metadata)
        }
        E::Freeze { .. } => Draft::new(Code::FailedPrecondition, "FREEZE_FAILED", message),
        E::NotRunning => Draft::new(Code::FailedPrecondition, "CONTAINER_NOT_RUNNING", message),
        E::Spec { field, message: why } => {
            let mut draft = Draft::new(Code::InvalidArgument, "INVALID_FIELDS", message);
            draft.details.set_bad_request(vec![FieldViolation::new(format!("config.{field}"), why.clone())]);
            draft
        }
        E::Cgroup { act, source, .. } => {
            let metadata = [("step", (*act).into()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, "START_FAILED", message, metadata)
        }
        E::OtherRuntime { runtime, code, .. } => {
            let metadata = [("runtime", runtime.clone()), ("runtime_exit_code", code.to_string())];
            Draft::with(Code::FailedPrecondition, "RUNTIME_FAILED", message, metadata)
        }
        E::Systemd(_) => Draft::new(Code::FailedPrecondition, "SYSTEMD_FAILED", message),
        E::ShimGone => Draft::new(Code::Unavailable, "SHIM_GONE", message),
        E::Protocol(_) => hidden(message, "SHIM_PROTOCOL"),
        E::CutOff => Draft::new(Code::ResourceExhausted, "READER_TOO_SLOW", message),
        E::StillAlive { .. } => Draft::new(Code::FailedPrecondition, "CONTAINER_STILL_RUNNING", message),
        E::Io { source, .. } => from_io(source, message),
    }
}

/// gRPC's own name of a code, as its documentation has it.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
