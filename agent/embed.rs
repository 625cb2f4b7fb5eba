//! For build scripts: builds a small static program of this workspace, which the script's crate embeds.
//!
//! A cargo inside of cargo, because such a program wants another profile, another way of linking and no unwinding. It has a target folder of
//! its own: the outer cargo holds the lock of the common one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Puts the program `package` into `OUT_DIR` under its own name. `sources` are the files and folders that it is made of, as the workspace has
/// them: a change elsewhere needs no new program.
pub fn embed(package: &str, sources: &[&str]) {
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(var("OUT_DIR"));
    let workspace = Path::new(&var("CARGO_MANIFEST_DIR")).join("../..");
    for source in sources.iter().chain(&["agent/embed.rs", "Cargo.toml"]) {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    // What is fuzzed starts no container: nobody waits for two more programs there.
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        let at = out.join(package);
        return fs::write(&at, []).unwrap_or_else(|e| panic!("writing {}: {e}", at.display()));
    }
    let target = linked_with_musl(&var("RUSTC"), &var("TARGET"));
    let target_dir = out.join("embedded");
    let mut cargo = Command::new(var("CARGO"));
    cargo.current_dir(&workspace).args(["build", "--package", package, "--bin", package]);
    cargo.args(["--profile", "shim", "--target", &target]).arg("--target-dir").arg(&target_dir);
    if env::var_os("CARGO_FEATURE_WEAKEN").is_some() {
        cargo.arg("--features").arg(format!("{package}/weaken"));
    }
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
    // Static: it runs from a memfd and in namespaces that have no libraries. At a fixed address: no relocations, so that its pages stay
    // shared between all its processes (24 KiB less for each shim).
    let flags = ["-Ctarget-feature=+crt-static", "-Crelocation-model=static", "-Cstrip=symbols"];
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let status = cargo.status().unwrap_or_else(|e| panic!("starting {cargo:?}: {e}"));
    assert!(status.success(), "building {package} failed: {cargo:?}");
    let built = target_dir.join(&target).join("shim").join(package);
    fs::copy(&built, out.join(package)).unwrap_or_else(|e| panic!("copying {}: {e}", built.display()));
}

/// `target` with musl instead of glibc, where rustup has it. A static glibc looks its processor over at the start of every program, by
/// cpuid instructions that a hypervisor answers one by one: 0.3 ms for each container and each exec in a virtual machine.
fn linked_with_musl(rustc: &str, target: &str) -> String {
    let musl = target.replace("-gnu", "-musl");
    let asked = Command::new(rustc).args(["--print", "target-libdir", "--target", &musl]).output();
    let there =
        asked.is_ok_and(|o| o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir());
    if there { musl } else { target.to_owned() }
}
