//! What the kernel and other runtimes say of containers, whose processes choose some of the words: /proc, mountinfo, cgroup files, logs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    berth_sys::fuzz::kernel(bytes);
    berth_runtime::fuzz::kernel(bytes);
    berth_runtime::fuzz::runtimes(bytes);
    berth_runtime::fuzz::hosts(bytes);
});
