//! Compiles `proto/` without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["common", "errors", "images", "containers", "files", "networks", "node", "volumes"]
        .map(|n| format!("proto/berth/v1/{n}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let set = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("berth_descriptor.bin"), prost::Message::encode_to_vec(&set))?;
    // A client would have a function `connect` of its own beside the RPC of that name.
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(set)?;
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = std::process::Command::new(rustc).arg("--version").output()?;
    println!("cargo::rustc-env=BERTH_RUSTC={}", String::from_utf8_lossy(&version.stdout).trim());
    println!("cargo::rustc-env=BERTH_GIT_COMMIT={}", commit());
    Ok(())
}

/// The commit that is built: as the packager says it, else git's; empty where nobody knows.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=BERTH_GIT_COMMIT");
    if let Ok(given) = std::env::var("BERTH_GIT_COMMIT") {
        return given.trim().to_owned();
    }
    let git = |arguments: &[&str]| {
        let out = std::process::Command::new("git").args(arguments).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    // A debug build is of no commit, and need not be made again after each; an unpacked archive may lie in another project's tree.
    if std::env::var("PROFILE").as_deref() != Ok("release") || !std::path::Path::new(".git").exists() {
        return String::new();
    }
    // Written at every change of HEAD, on any branch and in any worktree.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|p| std::path::Path::new(p).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"]).unwrap_or_default()
}
