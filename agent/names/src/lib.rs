//! The host's DNS server for container networks, in a process of its own, so that names go on while there is no agent.
//!
//! Entry point: [`Server::open`] and [`Server::run`]: one thread, one epoll loop. It listens on the host's addresses on each network's bridge, bound to
//! that interface, so that nothing but the network's containers and the host itself reaches it; the default bridge has none. It learns of networks
//! by a file for each ([`zone`]) and of changes by a word on a socket of the agent's (`control`), and keeps nothing but what is under way.
//!
//! - `packet` reads and writes messages, `lookup` decides who answers; both are pure.
//! - `forward` asks other servers, `stream` serves TCP, `limit` keeps one container from being served instead of all others.
//!
//! Not here: a cache (the host's resolver has one), DNSSEC validation (bits and records pass), zone transfers, updates.
#![forbid(unsafe_code)]

mod control;
mod forward;
mod limit;
pub mod lookup;
pub mod packet;
mod resolv;
mod server;
mod slab;
mod stream;
pub mod zone;

pub use server::Server;

#[cfg(fuzzing)]
pub use resolv::fuzz as fuzz_resolv;
