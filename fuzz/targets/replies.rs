//! What the kernel answers over netlink: links, routes, counters, and nftables with a packet that is followed through it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| berth_network::fuzz::replies(bytes));
