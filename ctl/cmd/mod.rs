//! One file per verb.

pub mod pki;
