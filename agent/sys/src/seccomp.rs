//! Loading seccomp programs.
