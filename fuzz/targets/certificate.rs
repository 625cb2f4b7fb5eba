//! Client certificates: whoever they name, the role is one of three or none.
#![no_main]

#[path = "../../proto/role.rs"]
#[allow(dead_code)]
mod role;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(holder) = role::Holder::from_der(bytes) {
        assert!(!holder.name.is_empty() && !holder.name.chars().any(char::is_control));
        assert!(holder.serial.bytes().all(|b| b.is_ascii_hexdigit()));
        if let Ok(role) = holder.role {
            assert!(role::Role::ALL.contains(&role));
        }
    }
});
