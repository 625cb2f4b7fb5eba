//! Making, joining, signalling and waiting for processes.
