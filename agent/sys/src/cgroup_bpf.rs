//! Device rules for cgroup v2.
