//! The wire types, clients and servers of `berth.v1`, generated from `proto/berth/v1`, the roles of its callers,
//! and what both ends of a forwarded port do.
#![forbid(unsafe_code)]

pub mod hex;
pub mod release;
pub mod role;
pub mod trace;
pub mod tunnel;

/// Version 1 of berth's API.
pub mod v1 {
    #![allow(clippy::all, missing_docs, reason = "generated code")]
    tonic::include_proto!("berth.v1");
}

/// The encoded `FileDescriptorSet` of the API, for reflection and for the test that every RPC has a rule.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("berth_descriptor");

/// The version of these binaries.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
