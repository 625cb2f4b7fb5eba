//! Builds the DNS server as a small static binary, which the node embeds. As the runtime's build script does with the shim: with a profile of its own,
//! and a target folder of its own, as the outer cargo holds the lock of the common one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What the server is made of.
const SOURCES: [&str; 10] = [
    "agent/names/Cargo.toml",
    "agent/names/src",
    "agent/sys/Cargo.toml",
    "agent/sys/src/lib.rs",
    "agent/sys/src/cap.rs",
    "agent/sys/src/inet.rs",
    "agent/sys/src/process.rs",
    "agent/sys/src/socket.rs",
    "agent/sys/src/store.rs",
    "Cargo.toml",
];

fn main() {
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(var("OUT_DIR"));
    let workspace = Path::new(&var("CARGO_MANIFEST_DIR")).join("../..");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let target = linked_with_musl(&var("RUSTC"), &var("TARGET"));
    let target_dir = out.join("names");
    let mut cargo = Command::new(var("CARGO"));
    cargo.current_dir(&workspace).args(["build", "--package", "berth-names", "--bin", "berth-names"]);
    cargo.args(["--profile", "shim", "--target", &target]).arg("--target-dir").arg(&target_dir);
    // The outer cargo has fetched everything by now.
    cargo.arg("--offline");
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let leaks = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST", "CARGO_PKG_", "DEP_", "CLIPPY_"];
        let single =
            ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"];
        if leaks.iter().any(|l| text.starts_with(l)) || single.contains(&&*text) {
            cargo.env_remove(&name);
        }
    }
    let flags = ["-Ctarget-feature=+crt-static", "-Crelocation-model=static", "-Cstrip=symbols"];
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let status = cargo.status().unwrap_or_else(|e| panic!("starting {cargo:?}: {e}"));
    assert!(status.success(), "building the DNS server failed: {cargo:?}");
    let built = target_dir.join(&target).join("shim/berth-names");
    fs::copy(&built, out.join("berth-names")).unwrap_or_else(|e| panic!("copying {}: {e}", built.display()));
}

/// `target` with musl instead of glibc, where rustup has it: smaller.
fn linked_with_musl(rustc: &str, target: &str) -> String {
    let musl = target.replace("-gnu", "-musl");
    let asked = Command::new(rustc).args(["--print", "target-libdir", "--target", &musl]).output();
    let there =
        asked.is_ok_and(|o| o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir());
    if there { musl } else { target.to_owned() }
}
