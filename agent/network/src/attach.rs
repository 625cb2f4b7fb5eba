//! Namespaces for containers, and containers on networks with what those who ask for less leave out.

use crate::error::NetworkError;
use crate::namespace::Namespace;
use crate::networks::{Attached, Networks, Want};
use berth_model::ContainerId;
use berth_model::network::{DEFAULT_NETWORK, PortMapping};
use std::os::fd::OwnedFd;

impl Networks {
    /// A network namespace with nothing but lo, up, for [`Networks::attach_in`], or as it is for containers without a network. Gone with the
    /// last descriptor and process. `own_users`: it comes with the user namespace that it belongs to.
    pub fn namespace(&self, own_users: bool) -> Result<Namespace, NetworkError> {
        if own_users { self.inner.owned.take() } else { self.inner.namespaces.take() }
    }

    /// A network namespace of the host's.
    pub fn loopback_only(&self) -> Result<OwnedFd, NetworkError> {
        Ok(self.namespace(false)?.fd)
    }

    /// Puts a container on the default network.
    pub fn attach(&self, id: &ContainerId, ports: &[PortMapping]) -> Result<Attached, NetworkError> {
        let want =
            Want { network: DEFAULT_NETWORK.to_owned(), default_route: true, ports: ports.to_vec(), ..Want::default() };
        self.attach_to(id, vec![want])
    }

    /// Makes a netns with lo up and attaches it as [`Networks::attach_in`] does.
    pub fn attach_to(&self, id: &ContainerId, wants: Vec<Want>) -> Result<Attached, NetworkError> {
        self.attach_in(id, wants, self.namespace(false)?)
    }
}
