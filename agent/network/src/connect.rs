//! A container's end of a network: its interface within its namespace, also while it runs.

use crate::error::{NetworkError, Prefix, Prefix6};
use crate::link::{Addressing, EADDRINUSE, Links};
use crate::networks::{Networks, Want};
use crate::setting;
use berth_model::ContainerId;
use berth_model::network::{NetworkAttachment, PortMapping};
use berth_sys::net;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

/// How long the kernel may need for a namespace whose last process has ended; some 100 ms are usual.
const NAMESAKE: Duration = Duration::from_secs(2);

/// Gives an interface its addresses and routes. `links` are those of the namespace `netns`.
pub(crate) fn configure(
    attachment: &NetworkAttachment,
    links: &mut Links,
    netns: BorrowedFd<'_>,
) -> Result<(), NetworkError> {
    if attachment.ipv6.is_some() {
        // Only for a network with IPv6: a visit costs a thread.
        visit(netns, || switch_ipv6_on(&attachment.interface))?;
    }
    bring_up_macvlan(attachment, links)?;
    links.address_container(&addressing(attachment))
}

/// A macvlan of the last run, with the same MAC, may live until the kernel has taken its namespace apart: this one cannot come up beside it.
fn bring_up_macvlan(attachment: &NetworkAttachment, links: &mut Links) -> Result<(), NetworkError> {
    if !attachment.host_interface.is_empty() {
        return Ok(());
    }
    let until = Instant::now() + NAMESAKE;
    loop {
        match links.bring_up(&attachment.interface) {
            Err(failure) if failure.errno() == EADDRINUSE && Instant::now() < until => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(failure) => {
                let act = format!("bringing the container's {} up", attachment.interface);
                return Err(NetworkError::Netlink { act, source: failure.into_io() });
            }
            Ok(()) => return Ok(()),
        }
    }
}

fn addressing(attachment: &NetworkAttachment) -> Addressing<'_> {
    let six = attachment.ipv6.as_ref();
    Addressing {
        name: &attachment.interface,
        v4: Prefix { address: attachment.address, len: attachment.prefix_len },
        v6: six.map(|s| Prefix6 { address: s.address, len: s.prefix_len }),
        gateway4: attachment.default_route.then_some(attachment.gateway),
        gateway6: six.filter(|_| attachment.default_route).map(|s| s.gateway),
    }
}

/// Addresses come from the agent alone: no router is listened to, and nobody is asked whether one is free.
fn switch_ipv6_on(interface: &str) -> Result<(), NetworkError> {
    // The link-local address is the MAC's (addr_gen_mode): the bridge takes no other one from it.
    let keys = [("accept_ra", "0"), ("accept_dad", "0"), ("addr_gen_mode", "0"), ("disable_ipv6", "0")];
    let paths = keys.map(|(key, value)| (format!("ipv6/conf/{interface}/{key}"), value));
    setting::write(&paths.each_ref().map(|(path, value)| (path.as_str(), *value)), false)
}

/// Does something within a network namespace, on a thread of its own that ends with it.
fn visit<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    thread::scope(|scope| {
        let visit = thread::Builder::new().name("berth-netns-in".into()).spawn_scoped(scope, move || {
            net::enter_network(netns).map_err(|source| NetworkError::Namespace {
                act: "entering a container's network namespace",
                source,
            })?;
            work()
        });
        let visit = visit.map_err(|source| NetworkError::Namespace { act: "starting a thread", source })?;
        visit.join().unwrap_or_else(|_| {
            let source = ErrorKind::Other.into();
            Err(NetworkError::Namespace { act: "working in a container's network namespace", source })
        })
    })
}

impl Networks {
    /// Puts a container that runs on one more network. `interface`: a name that is free in its namespace.
    pub fn connect(
        &self,
        id: &ContainerId,
        netns: BorrowedFd<'_>,
        want: &Want,
        interface: &str,
    ) -> Result<NetworkAttachment, NetworkError> {
        let inner = &self.inner;
        let net = inner.net(&want.network)?;
        let bridge = net.ready(inner)?;
        let mut attachment = inner.reserve(id, &net, want, interface.to_owned())?;
        // The rules come first: there is no moment in which its frames are not looked at.
        let made = inner.publish(&attachment).and_then(|()| inner.make_link(&net, bridge, &mut attachment, id, netns));
        if let Err(error) = made {
            // An interface of that name is not ours.
            self.undo(id, std::slice::from_ref(&attachment));
            return Err(error);
        }
        let joined = visit(netns, || enter(&attachment)).and_then(|()| net.settle(inner, &attachment));
        if let Err(error) = joined {
            if let Err(error) = self.disconnect_link(netns, &attachment) {
                tracing::debug!(%error, interface = attachment.interface, "deleting a container's interface");
            }
            self.undo(id, std::slice::from_ref(&attachment));
            return Err(error);
        }
        self.forget_udp(std::slice::from_ref(&attachment));
        Ok(attachment)
    }

    /// Takes a running container off a network. `netns`: its namespace.
    pub fn disconnect(
        &self,
        id: &ContainerId,
        netns: BorrowedFd<'_>,
        attachment: &NetworkAttachment,
    ) -> Result<(), NetworkError> {
        match self.disconnect_link(netns, attachment) {
            // Its address is on the wire for as long as it is there.
            Err(error) if attachment.host_interface.is_empty() => return Err(error),
            Err(error) => tracing::debug!(%error, interface = attachment.interface, "deleting a container's interface"),
            Ok(()) => {}
        }
        self.detach(id, std::slice::from_ref(attachment))
    }

    /// Makes a network the way out of a running container, and of those that it is on the only one. The published ports that it has on others lead
    /// there from now on, with `more`. `now` is what there is, also behind an error.
    ///
    /// # Errors
    /// The ports are where they were then, and `more` are nobody's.
    pub fn make_main(
        &self,
        id: &ContainerId,
        netns: BorrowedFd<'_>,
        now: &mut [NetworkAttachment],
        network: &str,
        more: &[PortMapping],
    ) -> Result<(), NetworkError> {
        for attachment in &mut *now {
            let main = attachment.network == network;
            let leads = main && (attachment.is_cni() || !self.inner.net(&attachment.network)?.plan.internal);
            if leads {
                // Plugins may have no gateway to tell, and routes of their own.
                let four = Some(attachment.gateway).filter(|g| !g.is_unspecified());
                let six = attachment.ipv6.as_ref().map(|s| s.gateway).filter(|g| !g.is_unspecified());
                visit(netns, || Links::open()?.replace_default_routes(&attachment.interface, four, six))?;
            }
            attachment.default_route = leads;
            if !attachment.is_cni() {
                self.inner.lock_state().put(id, attachment);
            }
        }
        self.lead_ports(id, now, network, more)
    }

    /// Deletes the container's end, and with it the host's. What cannot be deleted from there the sweep deletes from here, a macvlan excepted.
    fn disconnect_link(&self, netns: BorrowedFd<'_>, attachment: &NetworkAttachment) -> Result<(), NetworkError> {
        visit(netns, || {
            let mut links = Links::open()?;
            match links.find(&attachment.interface)? {
                Some(link) => links.delete(link.index, &attachment.interface),
                None => Ok(()),
            }
        })
    }
}

/// Within the container's namespace.
fn enter(attachment: &NetworkAttachment) -> Result<(), NetworkError> {
    if attachment.ipv6.is_some() {
        switch_ipv6_on(&attachment.interface)?;
    }
    let mut links = Links::open()?;
    let mut to = addressing(attachment);
    let (gateway4, gateway6) = (to.gateway4.take(), to.gateway6.take());
    bring_up_macvlan(attachment, &mut links)?;
    links.address_container(&to)?;
    links.replace_default_routes(&attachment.interface, gateway4, gateway6)
}
