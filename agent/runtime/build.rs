//! Builds the shim, which the runtime embeds.

#[path = "../embed.rs"]
mod embed;

fn main() {
    embed::embed(
        "berth-shim",
        &[
            "agent/shim",
            "agent/model/Cargo.toml",
            "agent/model/src/wire.rs",
            "agent/model/src/wire",
            "agent/sys/Cargo.toml",
            "agent/sys/src/lib.rs",
            "agent/sys/src/cap.rs",
            "agent/sys/src/filter.rs",
            "agent/sys/src/fs.rs",
            "agent/sys/src/landlock.rs",
            "agent/sys/src/memfd.rs",
            "agent/sys/src/mount.rs",
            "agent/sys/src/process.rs",
            "agent/sys/src/pty.rs",
            "agent/sys/src/seccomp.rs",
            "agent/sys/src/socket.rs",
        ],
    );
}
