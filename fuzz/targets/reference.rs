//! Image references: what parses is printed, and means the same when it is parsed again.
#![no_main]

use berth_model::{Digest, Reference};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>().as_ref(), Ok(&digest));
    }
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference));
    assert_eq!(reference.familiar().parse::<Reference>().as_ref(), Ok(&reference));
    // What goes into URLs and paths.
    for part in [reference.registry(), reference.repository()] {
        assert!(
            !part.is_empty() && !part.contains("..") && !part.contains([' ', '?', '#', '%', '\\', '\0', '\n']),
            "{part:?}"
        );
    }
});
