//! What an agent finds on its disk: rows of the database, files of logs, cursors into them; and health checks of images.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("berth-fuzz-disk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 4 {
        0 => berth_node::fuzz::records(bytes),
        1 => berth_node::fuzz::health(bytes),
        2 => berth_node::fuzz::logs::words(&String::from_utf8_lossy(bytes)),
        _ => berth_node::fuzz::logs::files(&FOLDER, bytes, usize::from(*which) * 4),
    }
});
