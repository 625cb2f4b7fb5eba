//! Unix sockets that carry file descriptors.
