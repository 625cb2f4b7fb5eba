//! berth's data: what a container, an image and a node *are*, without I/O and without async.
//!
//! Everything above passes these types around; everything that comes from outside (a request, a manifest,
//! a file) is parsed into them once, at the edge.
#![forbid(unsafe_code)]

pub mod digest;
pub mod event;
pub mod id;
pub mod image;
pub mod list;
pub mod log;
pub mod network;
pub mod pattern;
pub mod platform;
pub mod publish;
pub mod reference;
pub mod selinux;
pub mod spec;
pub mod state;
pub mod supervision;
pub mod time;
pub mod userns;
pub mod volume;
pub mod wire;

pub use digest::Digest;
pub use id::ContainerId;
pub use platform::Platform;
pub use reference::Reference;
pub use spec::{ContainerSpec, files_of};
pub use state::{ContainerRecord, ExitStatus, Phase};
pub use time::Timestamp;
