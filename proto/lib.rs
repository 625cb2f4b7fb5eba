//! The wire types, clients and servers of `berth.v1`, generated from `proto/berth/v1`, the roles of its callers,
//! and what both ends of a forwarded port do.
#![forbid(unsafe_code)]
#![cfg_attr(fuzzing, allow(dead_code, reason = "what only the program uses"))]

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

// For the fuzz targets: the agent's modules, which else are its program's alone, under the names that they have there.
#[cfg(fuzzing)]
extern crate self as berth;
#[cfg(fuzzing)]
#[path = "../agent/fuzz.rs"]
mod agent;
#[cfg(fuzzing)]
pub use agent::*;
