//! The one place where errors become gRPC statuses.
//!
//! Each has a code, a message for people, and google.rpc details: ErrorInfo with a stable reason in the domain
//! `berth.dev`, and BadRequest, ResourceInfo or RetryInfo where they help. The reasons stand in `proto/berth/v1/errors.proto`:
//! callers may depend on them.

#[cfg(debug_assertions)]
mod documented;
mod room;

pub use room::{full, no_connection, no_room, request_late, request_too_large, unread};

use crate::upgrade::UpgradeError;
use berth::v1::ErrorReason as R;
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
    fn new(code: Code, reason: R, message: impl Into<String>) -> Draft {
        Draft::with(code, reason, message, [])
    }

    fn with<const N: usize>(code: Code, reason: R, message: impl Into<String>, metadata: [(&str, String); N]) -> Draft {
        let message = cut(message.into(), MAX_MESSAGE);
        let metadata: HashMap<String, String> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Draft { code, message, details: ErrorDetails::with_error_info(reason.as_str_name(), DOMAIN, metadata) }
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
        #[cfg(debug_assertions)]
        if let Some(wrong) = documented::wrong(self.code, &self.details) {
            panic!("a status that is not as documented: {wrong}");
        }
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
    let mut draft = Draft::new(Code::InvalidArgument, R::InvalidFields, message);
    let violations: Vec<FieldViolation> =
        fields.into_iter().map(|(field, why)| FieldViolation::new(field, why)).collect();
    draft.details.set_bad_request(violations);
    draft.done()
}

/// The role is not enough.
pub fn denied(role: &str, message: &str) -> Status {
    Draft::with(Code::PermissionDenied, R::RoleDenied, message, [("role", role.into())]).done()
}

/// What a path of the host leads to cannot be told, and with it not whether the caller may use it.
pub fn path_silent(path: &str) -> Status {
    let message =
        format!("{path} of the host does not answer (a hung network file system?); try again, or ask an admin");
    Draft::new(Code::Unavailable, R::PathSilent, message).done()
}

/// The certificate that opened the connection is no longer good.
pub fn lapsed(reason: R, message: &str) -> Status {
    Draft::new(Code::Unauthenticated, reason, message).done()
}

/// There is no such RPC, so there is no rule for it either.
pub fn unknown_method(path: &str) -> Status {
    let path: String = path.chars().take(200).collect();
    Draft::new(Code::Unimplemented, R::UnknownMethod, format!("this agent has no RPC {path}")).done()
}

/// The caller's deadline, or the agent's own, has passed.
pub fn deadline() -> Status {
    Draft::new(Code::DeadlineExceeded, R::DeadlineExceeded, "the call's deadline has passed").done()
}

/// The agent is about to end, and its successor to come.
pub fn stopping() -> Status {
    Draft::new(Code::Unavailable, R::AgentStopping, "the agent is stopping; containers go on").retry(RETRY_SOON).done()
}

/// A stream whose first frame is not `start`, or which has a second one.
pub fn bad_stream(message: &str) -> Status {
    Draft::new(Code::InvalidArgument, R::BadStream, message).done()
}

/// A connection that is carried broke at its far end.
pub fn connection_reset(message: String) -> Status {
    Draft::new(Code::Aborted, R::ConnectionReset, message).done()
}

/// Something that should not be.
pub fn internal(message: impl Into<String>) -> Status {
    let message = message.into();
    tracing::error!("{message}");
    Draft::new(Code::Internal, R::Internal, message).done()
}

/// An operation of the core that failed.
pub fn from_node(error: NodeError) -> Status {
    let message = error.to_string();
    let draft = match error {
        NodeError::ContainerNotFound(name) => {
            Draft::new(Code::NotFound, R::ContainerNotFound, message).resource("container", &name)
        }
        NodeError::NetworkNotFound(name) => {
            Draft::new(Code::NotFound, R::NetworkNotFound, message).resource("network", &name)
        }
        NodeError::NetworkNameInUse(name) => {
            Draft::new(Code::AlreadyExists, R::NetworkNameInUse, message).resource("network", &name)
        }
        NodeError::NetworkInUse { network, by } => {
            Draft::with(Code::FailedPrecondition, R::NetworkInUse, message, [("containers", by.join(","))])
                .resource("network", &network)
        }
        NodeError::NetworkPredefined(name) => {
            Draft::new(Code::FailedPrecondition, R::NetworkPredefined, message).resource("network", &name)
        }
        NodeError::TooManyPorts(_) => Draft::new(Code::FailedPrecondition, R::TooManyPorts, message),
        NodeError::SubnetInUse { subnet, .. } => {
            Draft::with(Code::FailedPrecondition, R::SubnetInUse, message, [("subnet", subnet)])
        }
        NodeError::UsernsForbidden(_) => Draft::new(Code::FailedPrecondition, R::UsernsForbidden, message),
        NodeError::Cdi(_) => Draft::new(Code::FailedPrecondition, R::CdiDevice, message),
        NodeError::UsernsMissing(_) => Draft::new(Code::FailedPrecondition, R::UsernsMissing, message),
        NodeError::IdsInUse { .. } => Draft::new(Code::FailedPrecondition, R::IdsInUse, message),
        NodeError::LabelsExhausted => Draft::new(Code::ResourceExhausted, R::LabelsExhausted, message),
        NodeError::IdsExhausted { .. } => Draft::new(Code::ResourceExhausted, R::IdsExhausted, message),
        NodeError::PoolsExhausted(_) => Draft::new(Code::ResourceExhausted, R::PoolsExhausted, message),
        NodeError::ImageNotFound(name) => {
            Draft::new(Code::NotFound, R::ImageNotFound, message).resource("image", &name)
        }
        NodeError::Ambiguous(name, kind) => {
            Draft::new(Code::InvalidArgument, R::AmbiguousId, message).resource(kind, &name)
        }
        NodeError::NameInUse { name, by } => {
            Draft::with(Code::AlreadyExists, R::NameInUse, message, [("container", by.to_string())])
                .resource("container", &name)
        }
        NodeError::NotRunning(name) => {
            Draft::new(Code::FailedPrecondition, R::ContainerNotRunning, message).resource("container", &name)
        }
        NodeError::Running(name) => {
            Draft::new(Code::FailedPrecondition, R::ContainerRunning, message).resource("container", &name)
        }
        NodeError::Paused(name) => {
            Draft::new(Code::FailedPrecondition, R::ContainerPaused, message).resource("container", &name)
        }
        NodeError::StillRunning(name) => {
            Draft::new(Code::FailedPrecondition, R::ContainerStillRunning, message).resource("container", &name)
        }
        NodeError::WatchTooSlow => Draft::new(Code::ResourceExhausted, R::WatchTooSlow, message).retry(Duration::ZERO),
        NodeError::ImageInUse { image, by } => {
            Draft::with(Code::FailedPrecondition, R::ImageInUse, message, [("container", by)]).resource("image", &image)
        }
        NodeError::Dependency { container, dependency, .. } => {
            Draft::with(Code::FailedPrecondition, R::DependencyNotMet, message, [("dependency", dependency)])
                .resource("container", &container)
        }
        NodeError::Invalid(fields) => return invalid(fields),
        NodeError::NoTerminal(name) => {
            Draft::new(Code::FailedPrecondition, R::NoTerminal, message).resource("container", &name)
        }
        NodeError::NoHealthCheck(name) => {
            Draft::new(Code::FailedPrecondition, R::NoHealthCheck, message).resource("container", &name)
        }
        NodeError::LogNotKept(name) => {
            Draft::new(Code::FailedPrecondition, R::LogNotKept, message).resource("container", &name)
        }
        NodeError::Busy(name) => Draft::new(Code::ResourceExhausted, R::ContainerBusy, message)
            .resource("container", &name)
            .retry(RETRY_SOON),
        NodeError::CursorInFuture { newest, .. } => {
            Draft::with(Code::OutOfRange, R::CursorInFuture, message, [("newest", newest.to_string())])
        }
        NodeError::RequestIdReused => Draft::new(Code::AlreadyExists, R::RequestIdReused, message),
        NodeError::PathNotFound(path) => Draft::new(Code::NotFound, R::PathNotFound, message).resource("path", &path),
        NodeError::BadDestination(_) => Draft::new(Code::FailedPrecondition, R::BadDestination, message),
        NodeError::BadArchive(_) => Draft::new(Code::InvalidArgument, R::BadArchive, message),
        NodeError::RootReadOnly(name) => {
            Draft::new(Code::FailedPrecondition, R::RootReadOnly, message).resource("container", &name)
        }
        NodeError::NotMounted { container, .. } => {
            Draft::new(Code::FailedPrecondition, R::NotMounted, message).resource("container", &container)
        }
        NodeError::KernelFiles { .. } => Draft::new(Code::FailedPrecondition, R::KernelFiles, message),
        NodeError::EndedMeanwhile(name) => {
            Draft::new(Code::FailedPrecondition, R::ContainerEnded, message).resource("container", &name)
        }
        NodeError::CallerGone => Draft::new(Code::Cancelled, R::CallerGone, message),
        NodeError::SessionLost => Draft::new(Code::FailedPrecondition, R::SessionLost, message),
        NodeError::PortRefused { container, listens, .. } => {
            let metadata = [("listens", listens.join(","))];
            Draft::with(Code::FailedPrecondition, R::ConnectionRefused, message, metadata)
                .resource("container", &container)
        }
        NodeError::PortFailed { container, source, .. } => {
            Draft::with(Code::FailedPrecondition, R::ConnectionFailed, message, [("errno", errno(&source))])
                .resource("container", &container)
        }
        NodeError::VolumeChanged(name) => {
            Draft::new(Code::FailedPrecondition, R::VolumeChanged, message).resource("volume", &name)
        }
        NodeError::VolumeNotFound(name) => {
            Draft::new(Code::NotFound, R::VolumeNotFound, message).resource("volume", &name)
        }
        NodeError::VolumeInUse { volume, by } => {
            Draft::with(Code::FailedPrecondition, R::VolumeInUse, message, [("by", by.join(","))])
                .resource("volume", &volume)
        }
        NodeError::VolumeExists { volume, .. } => {
            Draft::new(Code::AlreadyExists, R::VolumeExists, message).resource("volume", &volume)
        }
        NodeError::ContainerFull { container, .. } => {
            Draft::new(Code::ResourceExhausted, R::ContainerFull, message).resource("container", &container)
        }
        NodeError::Volume(inner) => from_volume(&inner, message),
        NodeError::Image(inner) => from_image(&inner, message),
        NodeError::Rootfs(inner) => from_rootfs(&inner, message),
        NodeError::Network(inner) => from_network(&inner, message),
        NodeError::Cni(inner) => from_cni(&inner, message),
        NodeError::Runtime(inner) => from_runtime(&inner, message),
        NodeError::Store { .. } => hidden(message, R::StoreFailed),
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
        UpgradeError::NoKey(_) => Draft::new(Code::FailedPrecondition, R::UpgradeNoKey, message),
        UpgradeError::Signature => Draft::new(Code::InvalidArgument, R::UpgradeSignature, message),
        UpgradeError::Damaged(_) => Draft::new(Code::DataLoss, R::UpgradeDamaged, message),
        UpgradeError::Architecture(_) => Draft::new(Code::FailedPrecondition, R::UpgradeArchitecture, message),
        UpgradeError::Downgrade { from, to } => {
            Draft::with(Code::FailedPrecondition, R::UpgradeDowngrade, message, [("from", from), ("to", to)])
        }
        UpgradeError::SelfCheck(_) => Draft::new(Code::FailedPrecondition, R::UpgradeSelfCheck, message),
        UpgradeError::Schema(_) => Draft::new(Code::FailedPrecondition, R::UpgradeSchema, message),
        UpgradeError::UnderWay => Draft::new(Code::Aborted, R::UpgradeUnderWay, message),
        UpgradeError::NotPending(_) => Draft::new(Code::FailedPrecondition, R::UpgradeNotPending, message),
        UpgradeError::Io { source, .. } => from_io(&source, message),
    };
    draft.done()
}

/// Nothing that the caller can do anything about: the log has it too.
fn hidden(message: String, reason: R) -> Draft {
    tracing::error!(reason = reason.as_str_name(), "{message}");
    Draft::new(Code::Internal, reason, message)
}

fn from_io(error: &std::io::Error, message: String) -> Draft {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => Draft::new(Code::ResourceExhausted, R::DiskFull, message),
        K::OutOfMemory => Draft::new(Code::ResourceExhausted, R::OutOfMemory, message),
        _ => match error.raw_os_error() {
            // ENFILE, EMFILE
            Some(23 | 24) => Draft::new(Code::ResourceExhausted, R::OutOfFiles, message),
            _ => hidden(message, R::IoFailed),
        },
    }
}

fn from_volume(error: &VolumeError, message: String) -> Draft {
    match error {
        VolumeError::NoRoom { .. } => Draft::new(Code::ResourceExhausted, R::DiskFull, message),
        e if e.disk_full() => Draft::new(Code::ResourceExhausted, R::DiskFull, message),
        VolumeError::NoQuota { .. } => Draft::new(Code::FailedPrecondition, R::NoQuota, message),
        VolumeError::NoMkfs => Draft::new(Code::FailedPrecondition, R::NoMkfs, message),
        VolumeError::NoFileSystem(_) => Draft::new(Code::FailedPrecondition, R::NoFileSystem, message),
        VolumeError::Mkfs(_) => Draft::new(Code::FailedPrecondition, R::MkfsFailed, message),
        VolumeError::NoSubpath(_) => Draft::new(Code::FailedPrecondition, R::NoSubpath, message),
        VolumeError::Elsewhere(_) => Draft::new(Code::FailedPrecondition, R::VolumeElsewhere, message),
        VolumeError::Full { .. } => Draft::new(Code::ResourceExhausted, R::VolumeFull, message),
        VolumeError::NotEmpty => Draft::new(Code::FailedPrecondition, R::VolumeNotEmpty, message),
        VolumeError::Extract(e) => match e {
            berth_rootfs::tar::ExtractError::Io { source, .. } => from_io(source, message),
            _ => Draft::new(Code::InvalidArgument, R::BadArchive, message),
        },
        // A mount that the kernel refuses: its options are the caller's.
        VolumeError::Io { source, act } if act.starts_with("mounting ") => {
            let errno = source.raw_os_error().unwrap_or_default().to_string();
            Draft::with(Code::FailedPrecondition, R::VolumeMountFailed, message, [("errno", errno)])
        }
        VolumeError::Io { source, .. } => from_io(source, message),
    }
}

fn from_rootfs(error: &RootfsError, message: String) -> Draft {
    if error.disk_full() {
        return Draft::new(Code::ResourceExhausted, R::DiskFull, message);
    }
    match error {
        RootfsError::Io { source, .. } => from_io(source, message),
        RootfsError::BadLayer(_) | RootfsError::Unkeepable(_) => {
            Draft::new(Code::FailedPrecondition, R::InvalidLayer, message)
        }
        RootfsError::Missing(layer) => {
            Draft::with(Code::FailedPrecondition, R::LayerMissing, message, [("layer", layer.to_string())])
        }
        RootfsError::Damaged { layer, .. } => {
            Draft::with(Code::DataLoss, R::LayerDamaged, message, [("layer", layer.clone())])
        }
        RootfsError::TooManyLayers(_) => Draft::new(Code::FailedPrecondition, R::TooManyLayers, message),
        RootfsError::ErofsUnsupported(_) => Draft::new(Code::FailedPrecondition, R::ErofsUnsupported, message),
        RootfsError::Unreadable { .. } => Draft::new(Code::FailedPrecondition, R::RootUnreadable, message),
        RootfsError::MountPoint(_) => hidden(message, R::MountInTheWay),
    }
}

fn from_image(error: &ImageError, message: String) -> Draft {
    match error {
        ImageError::NotFound { what, registry } => {
            Draft::with(Code::NotFound, R::ImageNotFound, message, [("registry", registry.clone())])
                .resource("image", what)
        }
        ImageError::PlatformNotFound { image, wanted, available } => {
            let available: Vec<String> = available.iter().map(ToString::to_string).collect();
            let metadata = [("wanted", wanted.to_string()), ("available", available.join(" "))];
            Draft::with(Code::NotFound, R::PlatformNotFound, message, metadata).resource("image", image)
        }
        ImageError::Denied { registry, what, .. } => {
            Draft::with(Code::PermissionDenied, R::RegistryDenied, message, [("registry", registry.clone())])
                .resource("image", what)
        }
        ImageError::Unavailable { registry, retry_after, .. } => {
            Draft::with(Code::Unavailable, R::RegistryUnavailable, message, [("registry", registry.clone())])
                .retry(retry_after.unwrap_or(RETRY_REGISTRY))
        }
        ImageError::DigestMismatch { expected, actual, .. } => {
            let metadata = [("expected", expected.to_string()), ("actual", actual.to_string())];
            Draft::with(Code::DataLoss, R::DigestMismatch, message, metadata)
        }
        ImageError::SizeMismatch { expected, actual, .. } => {
            let metadata = [("expected", expected.to_string()), ("actual", actual.to_string())];
            Draft::with(Code::DataLoss, R::SizeMismatch, message, metadata)
        }
        ImageError::BadManifest { .. } => Draft::new(Code::FailedPrecondition, R::InvalidManifest, message),
        ImageError::BadLayer { digest, .. } => {
            Draft::with(Code::FailedPrecondition, R::InvalidLayer, message, [("layer", digest.to_string())])
        }
        ImageError::TooLarge { .. } => Draft::new(Code::FailedPrecondition, R::ImageTooLarge, message),
        ImageError::DiskFull { .. } => Draft::new(Code::ResourceExhausted, R::DiskFull, message),
        ImageError::Cancelled => Draft::new(Code::Cancelled, R::Cancelled, message),
        ImageError::Config { registry, .. } => {
            Draft::with(Code::FailedPrecondition, R::RegistryConfig, message, [("registry", registry.clone())])
        }
        ImageError::Io { source, .. } => from_io(source, message),
        ImageError::Sink { .. } => hidden(message, R::LayerNotStored),
    }
}

fn from_network(error: &NetworkError, message: String) -> Draft {
    use NetworkError as E;
    match error {
        E::PortInUse { address, protocol, holder } => {
            let metadata =
                [("address", address.to_string()), ("protocol", (*protocol).into()), ("holder", holder.to_string())];
            Draft::with(Code::FailedPrecondition, R::PortInUse, message, metadata)
        }
        E::NoneFree { why, .. } => from_network(why, message),
        E::NoneLeft { .. } => Draft::new(Code::ResourceExhausted, R::NoPortLeft, message),
        E::NoContainerPort
        | E::HostAddressFamily(_)
        | E::HostAddressUnknown(_)
        | E::ShiftedRange { .. }
        | E::RangeEnd { .. }
        | E::SctpMissing => {
            let mut draft = Draft::new(Code::InvalidArgument, R::InvalidFields, message.clone());
            draft.details.set_bad_request(vec![FieldViolation::new("config.ports", message)]);
            draft
        }
        E::PortBind { address, protocol, source } => {
            let metadata =
                [("address", address.to_string()), ("protocol", (*protocol).into()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, R::PortNotBound, message, metadata)
        }
        E::Detour { source, .. } => {
            Draft::with(Code::FailedPrecondition, R::InputRules, message, [("errno", errno(source))])
        }
        E::NoAddressLeft(subnet) => {
            Draft::with(Code::ResourceExhausted, R::NoAddressLeft, message, [("subnet", subnet.to_string())])
        }
        E::BridgeFull { network, .. } => {
            Draft::with(Code::ResourceExhausted, R::NetworkFull, message, [("network", network.clone())])
        }
        E::NoAddressLeft6(subnet) => {
            Draft::with(Code::ResourceExhausted, R::NoAddressLeft, message, [("subnet", subnet.to_string())])
        }
        E::AddressInUse { address, network } => {
            let metadata = [("address", address.to_string()), ("network", network.clone())];
            Draft::with(Code::FailedPrecondition, R::AddressInUse, message, metadata)
        }
        E::MacInUse { mac, network } => {
            let metadata = [("mac_address", mac.clone()), ("network", network.clone())];
            Draft::with(Code::FailedPrecondition, R::AddressInUse, message, metadata)
        }
        E::AddressOutside { .. } => Draft::new(Code::FailedPrecondition, R::AddressOutside, message),
        E::NoNetwork(name) => Draft::new(Code::NotFound, R::NetworkNotFound, message.clone()).resource("network", name),
        E::SubnetInUse6 { subnet, .. } => {
            Draft::with(Code::FailedPrecondition, R::SubnetInUse, message, [("subnet", subnet.to_string())])
        }
        E::NoInterface(_) => {
            let mut draft = Draft::new(Code::InvalidArgument, R::InvalidFields, message.clone());
            draft.details.set_bad_request(vec![FieldViolation::new("interface", message)]);
            draft
        }
        E::DriverRefused { what, source } => {
            let metadata = [("what", what.clone()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, R::DriverRefused, message, metadata)
        }
        E::Config(_) | E::SubnetInUse { .. } | E::NotABridge(_) | E::ForeignBridge(_) => {
            Draft::new(Code::FailedPrecondition, R::NetworkConfig, message)
        }
        E::NftablesMissing { .. } => Draft::new(Code::FailedPrecondition, R::NftablesMissing, message),
        E::AlreadyAttached(_) => hidden(message, R::AlreadyAttached),
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
            Draft::with(Code::Unavailable, R::CniFailed, message, metadata(plugin, *verb, 11))
        }
        E::Refused { plugin, verb, code, .. } => {
            Draft::with(Code::FailedPrecondition, R::CniFailed, message, metadata(plugin, *verb, *code))
        }
        E::Failed { plugin, verb, .. } | E::Timeout { plugin, verb, .. } => {
            Draft::with(Code::FailedPrecondition, R::CniFailed, message, metadata(plugin, *verb, 0))
        }
        E::NotGiven { .. } => Draft::new(Code::FailedPrecondition, R::CniFailed, message),
        E::NotFound { plugin, .. } => {
            Draft::with(Code::FailedPrecondition, R::CniPluginMissing, message, [("plugin", plugin.clone())])
        }
        E::Io { source, .. } => from_io(source, message),
        E::Damaged { .. } | E::Conflist { .. } => hidden(message, R::CniDamaged),
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
            Draft::with(Code::FailedPrecondition, R::StartFailed, message, metadata)
        }
        E::CommandNotFound(command) => {
            let metadata = [("command", command.clone()), ("exit_code", "127".into())];
            Draft::with(Code::FailedPrecondition, R::CommandNotFound, message, metadata)
        }
        E::CommandNotExecutable { command, source } => {
            let metadata = [("command", command.clone()), ("exit_code", "126".into()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, R::CommandNotExecutable, message, metadata)
        }
        E::Limit { path, source, .. } => {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let metadata = [("file", file), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, R::LimitRefused, message, metadata)
        }
        E::Freeze { .. } => Draft::new(Code::FailedPrecondition, R::FreezeFailed, message),
        E::NotRunning => Draft::new(Code::FailedPrecondition, R::ContainerNotRunning, message),
        E::Spec { field, message: why } => {
            let mut draft = Draft::new(Code::InvalidArgument, R::InvalidFields, message);
            draft.details.set_bad_request(vec![FieldViolation::new(format!("config.{field}"), why.clone())]);
            draft
        }
        E::Cgroup { act, source, .. } => {
            let metadata = [("step", (*act).into()), ("errno", errno(source))];
            Draft::with(Code::FailedPrecondition, R::StartFailed, message, metadata)
        }
        E::OtherRuntime { runtime, code, .. } => {
            let metadata = [("runtime", runtime.clone()), ("runtime_exit_code", code.to_string())];
            Draft::with(Code::FailedPrecondition, R::RuntimeFailed, message, metadata)
        }
        E::Systemd(_) => Draft::new(Code::FailedPrecondition, R::SystemdFailed, message),
        E::ShimGone => Draft::new(Code::Unavailable, R::ShimGone, message),
        E::Protocol(_) => hidden(message, R::ShimProtocol),
        E::CutOff => Draft::new(Code::ResourceExhausted, R::ReaderTooSlow, message),
        E::StillAlive { .. } => Draft::new(Code::FailedPrecondition, R::ContainerStillRunning, message),
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
