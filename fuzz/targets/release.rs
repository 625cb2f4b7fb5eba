//! What comes with a new program of the agent: its head, its signature's file, its version.
#![no_main]

#[path = "../../proto/hex.rs"]
mod hex;
#[path = "../../proto/release.rs"]
#[allow(dead_code)]
mod release;

use release::{Release, elf_architecture, version_order};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = elf_architecture(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Some(read) = hex::decode(&text) {
        assert_eq!(hex::encode(&read), text.to_ascii_lowercase());
    }
    if let Some(order) = version_order(&text) {
        assert!(!text.contains(char::is_control), "a version is one line of what is signed");
        assert_eq!(version_order(text.split('+').next().unwrap()), Some(order));
    }
    if let Ok(release) = toml::from_str::<Release>(&text)
        && version_order(&release.version).is_some()
        && !release.architecture.contains('\n')
        && hex::decode(&release.sha256).is_some()
    {
        // Two releases that are not the same are never signed with the same words.
        assert_eq!(release.statement().iter().filter(|b| **b == b'\n').count(), 5);
    }
});
