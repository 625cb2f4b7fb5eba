//! D-Bus, as systemd speaks it: the answer to who we are, and messages; what is read is within what came.
#![no_main]

#[path = "../../agent/systemd/src/auth.rs"]
mod auth;
#[path = "../../agent/systemd/src/wire.rs"]
#[allow(dead_code)]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    match auth::let_in(&mut rest) {
        Ok(()) => assert!(bytes.starts_with(b"OK ") && bytes[..bytes.len() - rest.len()].ends_with(b"\r\n")),
        Err(_) => assert!(bytes.len() - rest.len() <= 513, "it waits for a line without an end"),
    }
    let Some((fixed, after)) = bytes.split_first_chunk::<{ wire::FIXED }>() else { return };
    let Some(after) = wire::rest(fixed).and_then(|n| after.get(..n)) else { return };
    let Some(message) = wire::Message::parse(fixed, after) else { return };
    assert!(message.member.len() + message.error.len() <= after.len());
    if let Some(texts) = message.texts() {
        assert!(texts.iter().map(String::len).sum::<usize>() <= after.len());
    }
});
