//! A real agent on a real kernel for one test: own folders, port, bridge, cgroup parent and nftables table, so that tests run side by
//! side, and a check at its end that nothing of all that is left.

pub mod agent;
pub mod disk;
pub mod leak;
pub mod outside;
pub mod pki;
pub mod proxy;
pub mod pty;
pub mod quotas;
pub mod runtimes;
pub mod slot;
pub mod web;

pub use agent::Node;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take before a test calls it hung. Never a measure of speed.
pub const LONG: Duration = Duration::from_secs(60);

/// Where state of all tests lives.
pub fn test_dir() -> PathBuf {
    std::env::var_os("BERTH_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp/berth-test"), PathBuf::from)
}

/// A number that the environment may set.
pub fn size(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A program under test: cargo's, or that of the folder BERTH_TEST_BINARIES (an installed package, say).
pub fn binary(name: &str, built: &str) -> PathBuf {
    std::env::var_os("BERTH_TEST_BINARIES").map_or_else(|| PathBuf::from(built), |dir| PathBuf::from(dir).join(name))
}

pub fn source_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `host:port` of the registry that holds the test images; starts it and makes the images when that is still to do.
pub fn registry() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let script = |name: &str, arguments: &[&str]| {
            let path = source_dir().join("tests/fixtures").join(name);
            let output = Command::new("bash").arg(&path).args(arguments).output().expect("bash");
            assert!(
                output.status.success(),
                "{}: {}{}",
                path.display(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).expect("utf-8").trim().to_owned()
        };
        script("registry.sh", &["start"]);
        let address = script("registry.sh", &["url"]);
        if std::env::var_os("BERTH_TEST_IMAGES_READY").is_none() {
            script("images.sh", &[]);
        }
        address
    })
}

/// The full name of a test image: `127.0.0.1:5055/busybox:latest`.
pub fn image(name: &str) -> String {
    let registry = registry();
    if name.contains(':') { format!("{registry}/{name}") } else { format!("{registry}/{name}:latest") }
}

/// Asks again and again until `check` gives something; panics with `what` when that takes longer than `LONG`.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < LONG, "waited {LONG:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
pub fn until(what: &str, mut check: impl FnMut() -> bool) {
    eventually(what, || check().then_some(()));
}

/// The sets of /proc/PID/status in its order: inheritable, permitted, effective, bounding, ambient.
pub fn capability_sets(status: &str) -> [u64; 5] {
    ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|name| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {status}"));
        u64::from_str_radix(line.trim(), 16).expect("a set")
    })
}
