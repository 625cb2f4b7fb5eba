//! Requests of callers: the first byte says which message the others are.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth::api::fuzz::requests(bytes));
