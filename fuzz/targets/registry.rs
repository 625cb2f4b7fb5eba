//! What a registry and its token server say: challenges (WWW-Authenticate), tokens, errors, other headers; and the credentials of Docker's
//! config.json: errors tell nothing of them.
#![no_main]

#[path = "../../agent/image/src/answer.rs"]
mod answer;
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
    match answer::token(bytes) {
        Ok(token) => assert!(!token.is_empty() && token.len() <= 3 * bytes.len()),
        Err(why) => assert!(!why.contains(SECRET)),
    }
    let said = answer::error(bytes);
    assert!(said.chars().count() <= 300 && !said.chars().any(char::is_control), "{said:?}");
    if let Some((first, all)) = answer::content_range(&text) {
        assert!(text.contains(&first.to_string()) && all.is_none_or(|all| text.contains(&all.to_string())));
    }
    // A year in a header keeps no pull waiting.
    const WEEK: u64 = 7 * 24 * 3600;
    let dated = !text.trim().bytes().all(|b| b.is_ascii_digit());
    assert!(answer::retry_after(&text).is_none_or(|after| dated || after.as_secs() <= WEEK));
    for registry in ["docker.io", "a.example", "a.example:5000"] {
        match credentials::from_json(bytes, registry) {
            Ok(found) => {
                assert!(!format!("{found:?}").contains(SECRET) || found.note.is_some_and(|n| n.contains(SECRET)))
            }
            Err(error) => assert!(!error.contains(SECRET), "{error}"),
        }
    }
});
