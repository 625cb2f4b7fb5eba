//! Files relative to a folder: openat2, extended attributes, device nodes.
