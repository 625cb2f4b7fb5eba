//! The host's ends of containers' links: how they are made, and their names, which are short, from the container's id, and recognised again without
//! asking anybody.

use crate::error::NetworkError;
use crate::guard::Member;
use crate::link::{EEXIST, EINVAL, ENODEV, EXFULL, End, MacvlanEnd};
use crate::mac::{MAC_CONTAINER, MAC_PORT, mac_of, parse_mac};
use crate::net::{Macvlan, Net};
use crate::networks::{Inner, lock};
use berth_model::ContainerId;
use berth_model::network::NetworkAttachment;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;

/// Start of the names of the host's ends.
const PREFIX: &str = "bth";
/// Digits of the container's id in such a name. With the prefix and two letters that tell namesakes apart: the 15 characters that a name may have.
const DIGITS: usize = 10;

/// The names that a container's links may have: the plain one first, then with one letter, then with two.
pub fn link_names(id: &ContainerId) -> impl Iterator<Item = String> {
    let plain = format!("{PREFIX}{}", &id.as_str()[..DIGITS]);
    let (one, two) = (plain.clone(), plain.clone());
    let pairs = ('g'..='z').flat_map(|a| ('g'..='z').map(move |b| (a, b)));
    std::iter::once(plain)
        .chain(('g'..='z').map(move |letter| format!("{one}{letter}")))
        .chain(pairs.map(move |(a, b)| format!("{two}{a}{b}")))
}

pub fn is_link_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let (digits, letters) = rest.split_at_checked(DIGITS).unwrap_or_default();
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let letter = |b: u8| matches!(b, b'g'..=b'z');
    digits.len() == DIGITS && digits.bytes().all(hex) && letters.len() <= 2 && letters.bytes().all(letter)
}

/// The host has no address on a bridge's port, but the kernel gives each one that comes up a link-local one, with four routes of the host's, of which
/// it looks at all for every link that comes up: a fifth of a start's processor time beside 1,000 of them. The bridge's own IPv6 is not touched.
fn keep_ipv6_off(port: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6");
    match fs::write(&path, "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => tracing::debug!(%error, path, "switching IPv6 off"),
        _ => {}
    }
}

impl Inner {
    /// Makes the veth. A name that is still in use, by the link of this container's last run, is passed over.
    pub fn make_link(
        &self,
        net: &Net,
        bridge: u32,
        attachment: &mut NetworkAttachment,
        id: &ContainerId,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetworkError> {
        if let Some(macvlan) = net.plan.macvlan {
            return self.make_macvlan(net, bridge, macvlan, attachment, namespace);
        }
        let first = attachment.host_interface.clone();
        let mut bridge = bridge;
        let (mut rebuilt, mut swept, mut again) = (false, false, false);
        let mut names = link_names(id).skip_while(|name| *name != first);
        let mut name = names.next();
        while let Some(host_name) = name.take() {
            let end = End {
                host_name: &host_name,
                host_mac: mac_of(MAC_PORT, attachment.address),
                bridge,
                namespace,
                container_name: &attachment.interface,
                container_mac: parse_mac(&attachment.mac).unwrap_or(mac_of(MAC_CONTAINER, attachment.address)),
                mtu: net.plan.mtu,
            };
            let made = lock(&self.links).make_veth(&end);
            match made {
                Ok(()) => {
                    keep_ipv6_off(&host_name);
                    return Ok(());
                }
                Err(failure) if failure.errno() == EEXIST && lock(&self.links).find(&host_name)?.is_none() => {
                    // It is the other end's name that is taken: by a link of ours that is on its way out, or by the container.
                    if std::mem::replace(&mut again, true) {
                        let act = format!("making {}, which the container has made itself", attachment.interface);
                        return Err(NetworkError::Netlink { act, source: failure.into_io() });
                    }
                    self.sweep.finish();
                    name = Some(host_name);
                }
                Err(failure) if failure.errno() == EEXIST => {
                    let free = |name: &String| {
                        let state = self.lock_state();
                        !state.leaving.contains(name) && !state.link_is_used(name)
                    };
                    name = names.find(free);
                    if let Some(name) = &name {
                        self.rename_link(attachment, id, name)?;
                    }
                }
                Err(failure) if failure.errno() == EXFULL && !swept => {
                    // Links that are on their way out count too.
                    swept = true;
                    self.sweep.finish();
                    name = Some(host_name);
                }
                Err(failure) if failure.errno() == EXFULL => {
                    let network = net.plan.name.clone();
                    return Err(NetworkError::BridgeFull { network, bridge: net.plan.bridge.clone() });
                }
                Err(failure) if matches!(failure.errno(), ENODEV | EINVAL) && !rebuilt => {
                    // Somebody has deleted the bridge.
                    rebuilt = true;
                    *lock(&net.ready) = None;
                    bridge = net.ready(self)?;
                    name = Some(host_name);
                }
                Err(failure) => {
                    let act = format!("making veth {host_name} on bridge {}", net.plan.bridge);
                    return Err(NetworkError::Netlink { act, source: failure.into_io() });
                }
            }
        }
        let act = format!("making veth {first}: all of its names are taken");
        Err(NetworkError::Netlink { act, source: std::io::ErrorKind::AlreadyExists.into() })
    }

    /// The link gets another name than was thought, and what it may send with it.
    fn rename_link(
        &self,
        attachment: &mut NetworkAttachment,
        id: &ContainerId,
        name: &str,
    ) -> Result<(), NetworkError> {
        let mut rules = lock(&self.rules);
        rules.forget(&attachment.host_interface, Member::of(attachment).as_ref())?;
        name.clone_into(&mut attachment.host_interface);
        self.lock_state().put(id, attachment);
        rules.publish(&[], Member::of(attachment).as_ref())
    }

    fn make_macvlan(
        &self,
        net: &Net,
        parent: u32,
        macvlan: Macvlan,
        attachment: &NetworkAttachment,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetworkError> {
        let end = MacvlanEnd {
            parent,
            mode: macvlan.mode,
            namespace,
            name: &attachment.interface,
            mac: parse_mac(&attachment.mac).unwrap_or(mac_of(MAC_CONTAINER, attachment.address)),
            mtu: net.plan.mtu,
        };
        lock(&self.links).make_macvlan(&end).map_err(|failure| NetworkError::DriverRefused {
            what: format!("a macvlan on {}", net.plan.bridge),
            source: failure.into_io(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_recognised() {
        let id = ContainerId::from_bytes([0xab; 32]);
        let names: Vec<_> = link_names(&id).collect();
        assert_eq!(names[..2], ["bthababababab", "bthabababababg"]);
        assert_eq!(names.len(), 1 + 20 + 400);
        assert!(names.iter().all(|n| is_link_name(n) && n.len() <= 15));
        for other in ["bth", "bthab", "berth0", "bthabababababa", "bthabababababggg", "bthABABABABAB", "xthababababab"]
        {
            assert!(!is_link_name(other), "{other}");
        }
    }
}
