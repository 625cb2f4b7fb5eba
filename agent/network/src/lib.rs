//! Network namespaces, links, addresses, nftables and published ports.
//!
//! Entry point: [`Networks`]. Everything blocks for some milliseconds at most: call it from blocking threads, never from one that has left the
//! host's network namespace. No process is ever started: rtnetlink, nfnetlink and ctnetlink do it all.
//!
//! - `netlink` is the wire format and the exchange; `link`, `nft` and `conntrack` are requests.
//! - `address`, `ports` and `state` know who has what; `rules`, `elements` and `guard` decide what the tables say.
//! - `namespace` keeps a few namespaces ready (thread `berth-netns`); `sweep` clears away what detached containers leave (thread
//!   `berth-sweep`). Both start with the first container and sleep when there is nothing to do.
//! - `setting` writes what is below /proc/sys/net.
//! - `inside` visits a container's namespace, for sockets that reach its loopback (thread `berth-visit`).
//!
//! State is in memory; the node's store has what outlives the agent and hands it to [`Networks::recover`]. Nothing is kept in the kernel but
//! bridges, veths and nftables tables: all three are found again by name.
//!
//! Not here: names. An attachment belongs to one [`Networks`] value; there may be several, each with its own bridge, subnet and
//! table.
#![forbid(unsafe_code)]

mod address;
mod attach;
mod connect;
mod conntrack;
mod counters;
mod detour;
mod elements;
mod ends;
mod error;
mod explain;
#[cfg(fuzzing)]
pub mod fuzz;
mod guard;
mod host;
mod inside;
mod leave;
mod link;
mod loopback6;
mod mac;
mod namespace;
mod net;
mod netlink;
mod networks;
mod nft;
mod ports;
mod publish;
mod rules;
mod setting;
mod sockets;
mod state;
mod sweep;
mod watch;

pub use counters::{Counters, LinkCounters, counters_inside};
pub use error::{NetworkError, PortHolder, Prefix, Prefix6};
pub use explain::{Effect, Explained, Found, Outcome, Place, PublishedHere, Question};
pub use host::HostRoutes;
pub use inside::{Streams, listeners_of, streams_in};
pub use mac::parse_mac;
pub use namespace::Namespace;
pub use net::{NetworkConfig, is_interface_name};
pub use networks::{Attached, Networks, Want};
