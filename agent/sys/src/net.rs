//! Sockets for netlink, and network namespaces.
