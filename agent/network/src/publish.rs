//! Ports of a container that runs: more of them, or fewer.

use crate::conntrack;
use crate::error::NetworkError;
use crate::net::published;
use crate::netlink::Socket;
use crate::networks::{Inner, Networks, like, lock};
use crate::rules::SINGLE_PORTS;
use berth_model::ContainerId;
use berth_model::network::{NetworkAttachment, PortMapping};
use berth_sys::net::NetlinkFamily;

impl Networks {
    /// Takes ports of the host for a container, with every number filled in. Nothing leads there yet: see [`Networks::publish`].
    pub fn take_ports(&self, id: &ContainerId, wanted: &[PortMapping]) -> Result<Vec<PortMapping>, NetworkError> {
        self.inner.lock_state().ports.take(id, wanted)
    }

    /// As `take_ports`, with the same numbers as last time where the choice is the agent's and they are free.
    pub fn take_ports_again(
        &self,
        id: &ContainerId,
        wanted: &[PortMapping],
        last: &[PortMapping],
    ) -> Result<Vec<PortMapping>, NetworkError> {
        let ports = &mut self.inner.lock_state().ports;
        ports.take(id, &like(wanted, last)).or_else(|_| ports.take(id, wanted))
    }

    /// Gives ports back that were taken.
    pub fn give_back_ports(&self, id: &ContainerId, ports: &[PortMapping]) {
        let mut state = self.inner.lock_state();
        ports.iter().for_each(|port| state.ports.give_back_one(id, port));
    }

    /// Makes an attachment's published ports what `now` says: new ones, which were taken before, lead to the container, and those that `before`
    /// had beyond are closed and given back, with the connections through them.
    pub fn publish(
        &self,
        id: &ContainerId,
        before: &NetworkAttachment,
        now: &NetworkAttachment,
    ) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let only = |a: &NetworkAttachment, b: &NetworkAttachment| NetworkAttachment {
            ports: a.ports.iter().filter(|p| !b.ports.contains(p)).cloned().collect(),
            ..a.clone()
        };
        let (added, removed) = (only(now, before), only(before, now));
        inner.net(&now.network)?.settle(inner, now)?;
        {
            // Under this lock from the list to the kernel: a rebuild in between would know only one of both.
            let mut rules = lock(&inner.rules);
            let added: Vec<_> = published(&added).collect();
            rules.publish(&added, None)?;
            let gone: Vec<_> = published(&removed).collect();
            if let Err(error) = rules.withdraw(&gone) {
                let _ = rules.withdraw(&added);
                return Err(error);
            }
            inner.lock_state().set_ports(id, &now.network, &now.ports);
        }
        self.give_back_ports(id, &removed.ports);
        self.forget_udp(std::slice::from_ref(&added));
        inner.forget(&removed);
        Ok(())
    }
}

impl Inner {
    /// Connections through ports that are closed end.
    fn forget(&self, removed: &NetworkAttachment) {
        let addresses = [Some(removed.address.into()), removed.ipv6.as_ref().map(|six| six.address.into())];
        let Ok(mut socket) = Socket::open(NetlinkFamily::Netfilter) else { return };
        for (port, address) in removed.ports.iter().flat_map(|p| addresses.iter().flatten().map(move |a| (p, *a))) {
            let forgotten = if port.count > SINGLE_PORTS {
                conntrack::forget_answers_of(&mut socket, address)
            } else {
                (0..port.count).try_for_each(|n| {
                    conntrack::forget_answers_from(
                        &mut socket,
                        address,
                        port.protocol,
                        port.container_port.saturating_add(n),
                    )
                })
            };
            if let Err(failure) = forgotten {
                tracing::debug!(error = %failure.into_io(), %address, "forgetting connections to a closed port");
            }
        }
    }
}
