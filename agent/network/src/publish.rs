//! Ports of a container that runs: more of them, or fewer.

use crate::conntrack;
use crate::elements::SINGLE_PORTS;
use crate::error::NetworkError;
use crate::net::published;
use crate::netlink::Socket;
use crate::networks::{Inner, Networks, like, lock};
use crate::sweep::Leftover;
use berth_model::ContainerId;
use berth_model::network::{NetworkAttachment, PortMapping, Protocol};
use berth_sys::net::NetlinkFamily;
use std::net::IpAddr;

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

    /// Containers that have ports of the host which are asked for by number: one for each mapping whose ports are not free.
    pub fn port_holders(&self, wanted: &[PortMapping]) -> Vec<ContainerId> {
        self.inner.lock_state().ports.holders(wanted)
    }

    /// Gives ports back that were taken.
    pub fn give_back_ports(&self, id: &ContainerId, ports: &[PortMapping]) {
        let mut state = self.inner.lock_state();
        ports.iter().for_each(|port| state.ports.give_back_one(id, port));
    }

    /// Gives back whatever ports a container has.
    pub fn give_back_all_ports(&self, id: &ContainerId) {
        self.inner.lock_state().ports.give_back_all(id);
    }

    /// Makes an attachment's published ports what `now` says: new ones, which were taken before, lead to the container, and those that `before`
    /// had beyond are closed and given back, with the connections through them. What is in both leads there all the while, also where a range is
    /// divided.
    pub fn publish(
        &self,
        id: &ContainerId,
        before: &NetworkAttachment,
        now: &NetworkAttachment,
    ) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let beyond = |a: &NetworkAttachment, b: &NetworkAttachment| NetworkAttachment {
            ports: a.ports.iter().flat_map(|p| p.beyond(&b.ports)).collect(),
            ..a.clone()
        };
        let not_in = |a: &NetworkAttachment, b: &NetworkAttachment| -> Vec<PortMapping> {
            a.ports.iter().filter(|p| !b.ports.contains(p)).cloned().collect()
        };
        inner.net(&now.network)?.settle(inner, now)?;
        {
            // Under this lock from the list to the kernel: a rebuild in between would know only one of both.
            let mut rules = lock(&inner.rules);
            let all = |a| published(a).collect::<Vec<_>>();
            rules.exchange(&all(before), &all(now))?;
            let mut state = inner.lock_state();
            state.set_ports(id, &now.network, &now.ports);
            state.ports.exchange(id, &not_in(before, now), &not_in(now, before));
        }
        self.forget_udp(&[beyond(now, before)]);
        inner.forget(&beyond(before, now));
        Ok(())
    }

    /// Has the published ports of a container, and `more`, lead to one of its networks: all of them or none. Not by CNI plugins, which publish when
    /// they put a container on a network and never after.
    pub(crate) fn lead_ports(
        &self,
        id: &ContainerId,
        now: &mut [NetworkAttachment],
        network: &str,
        more: &[PortMapping],
    ) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let to = |a: &NetworkAttachment| a.network == network;
        let Some(main) = now.iter().find(|a| to(a) && !a.is_cni()) else { return Ok(()) };
        let elsewhere: Vec<NetworkAttachment> =
            now.iter().filter(|a| !to(a) && !a.is_cni() && !a.ports.is_empty()).cloned().collect();
        if elsewhere.is_empty() && more.is_empty() {
            return Ok(());
        }
        let taken = inner.lock_state().take_ports(id, more)?;
        let come: Vec<PortMapping> = elsewhere.iter().flat_map(|a| &a.ports).chain(&taken).cloned().collect();
        let coming = NetworkAttachment { ports: come, ..main.clone() };
        let moved = inner.net(network).and_then(|net| net.settle(inner, &coming)).and_then(|()| {
            let mut rules = lock(&inner.rules);
            let old: Vec<_> = elsewhere.iter().flat_map(published).collect();
            rules.withdraw(&old)?;
            if let Err(error) = rules.publish(&published(&coming).collect::<Vec<_>>(), None) {
                if let Err(undo) = rules.publish(&old, None) {
                    tracing::error!(container = id.short(), error = %undo, "publishing ports again where they were");
                }
                return Err(error);
            }
            let mut state = inner.lock_state();
            for attachment in now.iter_mut().filter(|a| !a.is_cni()) {
                match attachment.network == network {
                    true => attachment.ports.extend(coming.ports.iter().cloned()),
                    false => attachment.ports.clear(),
                }
                state.put(id, attachment);
            }
            Ok(())
        });
        if moved.is_err() {
            self.give_back_ports(id, &taken);
        }
        moved?;
        self.forget_udp(std::slice::from_ref(&coming));
        Ok(())
    }

    /// What clients have sent to these ports in vain before, or to others' containers, holds up nobody.
    pub(crate) fn forget_udp(&self, attachments: &[NetworkAttachment]) {
        for port in attachments.iter().flat_map(|a| &a.ports).filter(|p| p.protocol == Protocol::Udp) {
            self.inner.sweep.push(&self.inner, Leftover::UdpFlows { ports: port.host_port..=port.last() });
        }
    }
}

impl Inner {
    /// Connections through ports that are closed end.
    fn forget(&self, removed: &NetworkAttachment) {
        let addresses = [Some(removed.address.into()), removed.ipv6.as_ref().map(|six| six.address.into())];
        let Ok(mut socket) = Socket::open(NetlinkFamily::Netfilter) else { return };
        let meant = |p: &PortMapping, a: &IpAddr| p.addresses().iter().any(|host| host.is_ipv4() == a.is_ipv4());
        let each = removed.ports.iter().flat_map(|p| addresses.iter().flatten().map(move |a| (p, *a)));
        for (port, address) in each.filter(|(p, a)| meant(p, a)) {
            let last = port.container_port.saturating_add(port.count.saturating_sub(1));
            let ports = port.container_port..=last;
            let forgotten = if port.count > SINGLE_PORTS {
                conntrack::forget_answers_within(&mut socket, address, port.protocol, ports)
            } else {
                ports
                    .into_iter()
                    .try_for_each(|n| conntrack::forget_answers_from(&mut socket, address, port.protocol, n))
            };
            if let Err(failure) = forgotten {
                tracing::debug!(error = %failure.into_io(), %address, "forgetting connections to a closed port");
            }
        }
    }
}
