//! Pulls from registries that behave, and from some that do not.
#![forbid(unsafe_code)]

mod auth;
mod fake;
mod faults;
mod pull;
mod tls;
