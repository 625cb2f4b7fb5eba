//! What the kernel of this host can do, probed once.
