//! A message of D-Bus, as systemd sends them: what is read is within what came.
#![no_main]

#[path = "../../agent/systemd/src/wire.rs"]
#[allow(dead_code)]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((fixed, after)) = bytes.split_first_chunk::<{ wire::FIXED }>() else { return };
    let Some(after) = wire::rest(fixed).and_then(|n| after.get(..n)) else { return };
    let Some(message) = wire::Message::parse(fixed, after) else { return };
    assert!(message.member.len() + message.error.len() <= after.len());
    if let Some(texts) = message.texts() {
        assert!(texts.iter().map(String::len).sum::<usize>() <= after.len());
    }
});
