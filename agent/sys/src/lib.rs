//! The only crate of berth that makes raw system calls.
//!
//! Every function is one call or one tight sequence of calls, with the kernel's own error. Above this crate there is no `unsafe`, no nix,
//! no rustix and no libc.

mod bpf;
pub mod cap;
pub mod cgroup_bpf;
pub mod detour_bpf;
pub mod filter;
pub mod fs;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod inet;
pub mod inotify;
pub mod keyring;
pub mod landlock;
pub mod loop_device;
pub mod loopback6_bpf;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod net;
pub mod null;
pub mod oci;
pub mod process;
pub mod pty;
pub mod quota;
pub mod seccomp;
pub mod socket;
pub mod sorted;
pub mod spawn;
pub mod store;
pub mod term;
pub mod userns;
pub mod wall;
