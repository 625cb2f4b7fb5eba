//! The layer stores on the real kernel: needs root, mounts only detached, leaves nothing.

mod compare;
mod hostile;
mod listing;
mod mounts;
mod random;
mod store;
mod tarball;
mod trees;
