//! Published ports at [::1] of containers without an IPv6 address: a connection of the host's to one of them is one to 127.0.0.1.
//!
//! nftables has no way from IPv6 to IPv4. The program that does it (`berth_sys::loopback6_bpf`) sits where processes connect, and stays
//! when the agent ends. It is attached with the first such port, and goes with the tables. A host whose kernel does not have it does without: such ports
//! answer on 127.0.0.1 alone there, which is said once and by the doctor.

use crate::elements::Published;
use berth_model::network::Protocol;
use berth_sys::loopback6_bpf::{self, Loopback6};
use std::collections::HashSet;
use std::io;

/// The ports of one agent.
#[derive(Debug)]
pub struct Mirror {
    program: String,
    state: State,
}

#[derive(Debug)]
enum State {
    Unused,
    Attached(Loopback6),
    /// The kernel's words.
    Missing(String),
}

/// With whether it is UDP's.
type Port = (bool, u16);

fn ports(published: &[Published<'_>]) -> HashSet<Port> {
    let mirrored = published.iter().filter(|p| p.mapping.mirrored(p.to6.is_some()));
    let each = |p: &Published<'_>| {
        let udp = p.mapping.protocol == Protocol::Udp;
        (p.mapping.host_port..=p.mapping.last()).map(move |port| (udp, port))
    };
    mirrored.flat_map(each).collect()
}

impl Mirror {
    pub fn new(table: &str) -> Self {
        Mirror { program: super::detour::hashed("berth", table), state: State::Unused }
    }

    /// These and no others, whatever was there.
    pub fn rebuild(&mut self, published: &[Published<'_>]) {
        let ports = ports(published);
        if ports.is_empty() { self.remove() } else { self.attach(&ports) }
    }

    /// Ports that are no more, and ports that are now: what is in both stays.
    pub fn change(&mut self, before: &[Published<'_>], now: &[Published<'_>]) {
        let (before, now) = (ports(before), ports(now));
        match &mut self.state {
            State::Unused if !now.is_empty() => self.attach(&now),
            State::Unused | State::Missing(_) => {}
            State::Attached(program) => {
                let gone = before.difference(&now).map(|port| (*port, false));
                let done = gone
                    .chain(now.iter().map(|port| (*port, true)))
                    .try_for_each(|((udp, port), on)| program.set(udp, port, on));
                if let Err(error) = done {
                    tracing::error!(%error, "saying which published ports [::1] has");
                }
            }
        }
    }

    fn attach(&mut self, ports: &HashSet<Port>) {
        match Loopback6::attach(&self.program, ports.iter().copied()) {
            Ok(program) => self.state = State::Attached(program),
            Err(error) => {
                if !matches!(self.state, State::Missing(_)) {
                    tracing::warn!(%error, "published ports of containers without an IPv6 address answer on 127.0.0.1, and not on [::1]");
                }
                self.state = State::Missing(error.to_string());
            }
        }
    }

    /// Gone already is fine.
    pub fn remove(&mut self) {
        match loopback6_bpf::detach(&self.program) {
            Err(error) if !matches!(self.state, State::Missing(_)) && !unknown(&error) => {
                tracing::error!(%error, program = self.program, "taking away the program that leads [::1] to 127.0.0.1");
            }
            _ => {}
        }
        self.state = State::Unused;
    }

    /// Connections to this port of [::1] come to 127.0.0.1.
    pub fn has(&self, protocol: Protocol, port: u16) -> bool {
        matches!(&self.state, State::Attached(program) if protocol != Protocol::Sctp && program.has(protocol == Protocol::Udp, port))
    }

    pub fn program(&self) -> &str {
        &self.program
    }

    /// Why it cannot be, where somebody wanted it.
    pub fn missing(&self) -> Option<&str> {
        if let State::Missing(why) = &self.state { Some(why) } else { None }
    }
}

/// The kernel has nothing of the kind, or does not let this process: nothing is there then.
fn unknown(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}
