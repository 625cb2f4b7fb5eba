//! Other OCI runtimes, as Debian installs them.

use std::fmt::Write as _;
use std::path::Path;

/// Name and program of those that this host has.
pub fn there() -> Vec<(&'static str, &'static str)> {
    const PLACES: [(&str, &[&str]); 2] =
        [("crun", &["/usr/bin/crun"]), ("runc", &["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"])];
    PLACES.iter().filter_map(|(name, paths)| Some((*name, *paths.iter().find(|p| Path::new(p).exists())?))).collect()
}

/// The table `[runtimes]` with all of them; the default is what BERTH_TEST_RUNTIME says, so that every test can be run with another runtime.
pub fn table() -> String {
    let mut text = String::new();
    if let Ok(name) = std::env::var("BERTH_TEST_RUNTIME") {
        writeln!(text, "[runtimes]\ndefault = \"{name}\"").expect("string");
    }
    for (name, path) in there() {
        writeln!(text, "[runtimes.{name}]\npath = \"{path}\"").expect("string");
    }
    text
}
