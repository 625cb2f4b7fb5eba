//! The agent's own files (configuration, ranges of ids, certificates and revocation lists) and headers of calls.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth::settings(bytes));
