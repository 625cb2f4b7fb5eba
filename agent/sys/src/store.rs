//! Facts about this host: disk space, boot id, names.
