//! A container goes off a network: first the rules, then its ports, then its link, and with the link its addresses.

use crate::error::NetworkError;
use crate::guard::Member;
use crate::net::published;
use crate::networks::{Inner, lock};
use crate::sweep::{GRACE, Leftover};
use berth_model::ContainerId;
use berth_model::network::NetworkAttachment;
use std::sync::Arc;
use std::time::Instant;

impl Inner {
    /// Takes a container off a network; gone already is fine. The link goes with its namespace, or a little later in the background. When the rules
    /// cannot be withdrawn nothing is changed, and the next try begins anew.
    pub fn leave(self: &Arc<Self>, id: &ContainerId, attachment: &NetworkAttachment) -> Result<(), NetworkError> {
        let name = &attachment.host_interface;
        // An attachment of an earlier run of the same container has nothing of the present one's.
        let same = |a: &&NetworkAttachment| a.host_interface == *name && a.address == attachment.address;
        let look = || self.lock_state().of(id, &attachment.network).filter(same).cloned();
        let mut there = look();
        // Held until the ports are free and the attachment is gone: a rebuild in between would bring their elements back, and who takes the ports
        // meanwhile would find elements that lead here.
        let mut rules = there.as_ref().is_some_and(|a| !a.ports.is_empty()).then(|| lock(&self.rules));
        if let Some(rules) = &mut rules {
            there = look();
            rules.withdraw(&there.iter().flat_map(published).collect::<Vec<_>>())?;
        }
        let mut state = self.lock_state();
        match &there {
            Some(there) => {
                state.take_off(id, &there.network);
                // Those of this attachment; another one's of the same container stay.
                there.ports.iter().for_each(|port| state.ports.give_back_one(id, port));
            }
            None if !name.is_empty() && state.link_is_used(name) => return Ok(()),
            None => {}
        }
        if let Some(there) = there.as_ref().filter(|_| name.is_empty()) {
            // Nothing of it is in the host's namespace.
            state.give_back(there);
        }
        let ours = !name.is_empty() && state.leaving.insert(name.clone());
        drop(state);
        drop(rules);
        if ours {
            let forget = there.as_ref().is_some_and(|a| !a.ports.is_empty());
            let due = Instant::now() + GRACE;
            self.sweep.push(self, Leftover::Link { name: name.clone(), of: there.map(Box::new), forget, due });
        }
        Ok(())
    }

    /// Called by the sweep.
    pub fn link_is_gone(&self, name: &str, of: Option<&NetworkAttachment>) {
        // Under this lock to the end: a rebuild in between would still count it among those that leave.
        let mut rules = lock(&self.rules);
        if let Err(error) = rules.forget(name, of.and_then(Member::of).as_ref()) {
            tracing::warn!(%error, interface = name, "forgetting what a container was allowed to send");
        }
        let mut state = self.lock_state();
        state.leaving.remove(name);
        if let Some(attachment) = of {
            state.give_back(attachment);
        }
    }
}
