//! What a registry asks for (WWW-Authenticate), and the credentials of Docker's config.json: errors tell nothing of them.
#![no_main]

#[path = "../../agent/image/src/challenge.rs"]
#[allow(dead_code)]
mod challenge;
#[path = "../../agent/image/src/credentials.rs"]
#[allow(dead_code)]
mod credentials;

/// Looks through serde's and everybody's errors for pieces of the file.
const SECRET: &str = "s3cr3t";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for challenge in challenge::parse(&text) {
        if let challenge::Challenge::Bearer { realm, service, scope } = challenge {
            let parts = [Some(realm), service, scope];
            assert!(parts.iter().flatten().map(String::len).sum::<usize>() <= text.len());
        }
    }
    for registry in ["docker.io", "a.example", "a.example:5000"] {
        match credentials::from_json(bytes, registry) {
            Ok(found) => {
                assert!(!format!("{found:?}").contains(SECRET) || found.note.is_some_and(|n| n.contains(SECRET)))
            }
            Err(error) => assert!(!error.contains(SECRET), "{error}"),
        }
    }
});
