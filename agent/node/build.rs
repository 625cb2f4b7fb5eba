//! Builds the DNS server, which the node embeds.

#[path = "../embed.rs"]
mod embed;

fn main() {
    embed::embed(
        "berth-names",
        &[
            "agent/names/Cargo.toml",
            "agent/names/src",
            "agent/sys/Cargo.toml",
            "agent/sys/src/lib.rs",
            "agent/sys/src/cap.rs",
            "agent/sys/src/filter.rs",
            "agent/sys/src/fs.rs",
            "agent/sys/src/inet.rs",
            "agent/sys/src/landlock.rs",
            "agent/sys/src/net.rs",
            "agent/sys/src/process.rs",
            "agent/sys/src/seccomp.rs",
            "agent/sys/src/socket.rs",
            "agent/sys/src/store.rs",
        ],
    );
}
