//! Manifests, indexes and configurations from a registry.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = berth_image::manifest::parse(bytes, None, "fuzz");
    let _ = berth_image::manifest::parse(bytes, Some("application/vnd.oci.image.index.v1+json"), "fuzz");
    let _ = berth_image::manifest::parse_config(bytes, 1, "fuzz");
});
