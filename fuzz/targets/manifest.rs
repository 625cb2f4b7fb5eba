//! Manifests, indexes and configurations from a registry.
#![no_main]

// The parser's own files: the rest of its crate is a registry client, whose TLS takes minutes to build.
#[path = "../../agent/image/src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../../agent/image/src/manifest.rs"]
#[allow(dead_code)]
mod manifest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = manifest::parse(bytes, None, "fuzz");
    let _ = manifest::parse(bytes, Some("application/vnd.oci.image.index.v1+json"), "fuzz");
    let _ = manifest::parse_config(bytes, 1, "fuzz");
});
