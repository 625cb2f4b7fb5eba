//! Bytes as hexadecimal digits, two for each.

/// In lower case.
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits.map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// In either case; `None`: there is something else, or half a byte.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).as_deref(), Some(&all[..]));
        assert_eq!((encode(&[0, 0x0f, 0xf0, 0xff]).as_str(), encode(&[]).as_str()), ("000ff0ff", ""));
        assert_eq!(decode("aBcD"), Some(vec![0xab, 0xcd]));
        for bad in ["abc", "0g", "+1", "ä"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
