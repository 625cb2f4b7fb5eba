//! Words of callers, configurations and images: whatever they say is read or refused, and what has a way back into words means the same.
#![no_main]

// The parsers' own files: the rest of their crates is large.
#[path = "../../agent/image/src/change.rs"]
#[allow(dead_code)]
mod change;
#[path = "../../proto/hex.rs"]
#[allow(dead_code)]
mod hex;
#[path = "../../agent/node/src/logs/line.rs"]
#[allow(dead_code)]
mod line;
#[path = "../../proto/trace.rs"]
#[allow(dead_code)]
mod trace;

use berth_model::log::SyslogAddress;
use berth_model::publish::Allowed;
use berth_model::userns::UsernsMode;
use berth_model::{ContainerId, Platform};
use std::fmt::{Debug, Display};
use std::str::FromStr;

/// What is read and written is the same when it is read again.
fn same<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        assert_eq!(read.to_string().parse::<T>().ok().as_ref(), Some(&read));
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(line) = line::parse(bytes) {
        assert!(line.text.len() <= bytes.len());
        assert!(bytes[0] == b'{' || line::time_of(bytes) == Some(line.time));
    }
    let text = &*String::from_utf8_lossy(bytes);
    same::<trace::TraceParent>(text);
    same::<Allowed>(text);
    same::<Platform>(text);
    same::<ContainerId>(text);
    if let Ok(address) = text.parse::<SyslogAddress>() {
        assert!(!String::from(address).contains('\0'));
    }
    match text.parse::<UsernsMode>() {
        Ok(UsernsMode::Auto { size: Some(size) } | UsernsMode::Range { size, .. }) => assert!(size > 0),
        Ok(_) | Err(_) => {}
    }
    // A word of the line at most, in quotes.
    if let Err(error) = change::Change::parse(text) {
        assert!(error.len() < 10 * text.len() + 400, "{error}");
    }
});
