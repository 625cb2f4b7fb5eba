//! Compiles `proto/` without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["common", "images", "containers", "node"].map(|n| format!("proto/berth/v1/{n}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let set = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("berth_descriptor.bin"), prost::Message::encode_to_vec(&set))?;
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = std::process::Command::new(rustc).arg("--version").output()?;
    println!("cargo::rustc-env=BERTH_RUSTC={}", String::from_utf8_lossy(&version.stdout).trim());
    Ok(())
}
