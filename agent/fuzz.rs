//! Part of the library in builds for the fuzz targets: what main.rs has beside it, and doors to the agent's own files and to headers of calls.

pub mod api;
pub mod audit;
pub mod auth;
pub mod config;
pub mod denials;
pub mod gate;
pub mod handshakes;
pub mod leads;
pub mod log;
pub mod metrics;
pub mod peer;
pub mod permission;
pub mod quiet;
pub mod request;
pub mod room;
pub mod run;
pub mod serve;
pub mod status;
pub mod tls;
pub mod uninstall;
pub mod upgrade;
pub mod version;

use config::Config;
use permission::Need;
use std::path::Path;

/// The first byte says what the others are.
pub fn settings(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let text = &*String::from_utf8_lossy(bytes);
    match which % 5 {
        0 => configuration(text),
        1 => config::fuzz_ids(text),
        2 => tls::fuzz(bytes),
        3 => {
            gate::fuzz(text);
            metrics::fuzz(text);
        }
        _ => {
            // A note of another agent's: what is not known needs an admin, and is handed on as it is.
            let need = Need::from_token(text);
            assert_eq!(Need::from_token(&need.token()), need);
            assert!(!matches!(need, Need::Unknown(_)) || need.token() == text);
        }
    }
}

fn configuration(text: &str) {
    let file = Path::new("berthd.toml");
    match Config::parse(file, text) {
        Err(error) => assert!(error.to_string().contains("berthd.toml"), "{error}"),
        Ok(config) => {
            let node = config.node();
            let (len, gateway) = (node.network.prefix_len, node.network.gateway);
            let (mask, host) = (u32::MAX >> len, gateway.to_bits() & (u32::MAX >> len));
            assert!((8..=30).contains(&len) && host != 0 && host != mask, "{gateway}/{len} is no host's");
            assert!(node.data_root.is_absolute() && node.run_root.is_absolute());
            assert!(node.userns.ranges.iter().all(|(first, n)| first.checked_add(*n).is_some()));
            let log = config.container_log();
            assert!(log.max_file_bytes > 0 && log.max_files > 0);
            // A key that nobody knows is never passed over.
            assert!(Config::parse(file, &format!("zz_unknown = 1\n{text}")).is_err());
        }
    }
}
