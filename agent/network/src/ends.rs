//! Names of the host's ends of veths: short, from the container's id, and recognised again without asking anybody.

use berth_model::ContainerId;

/// Start of the names of the host's ends.
const PREFIX: &str = "bth";
/// Digits of the container's id in such a name. With the prefix and two letters that tell namesakes apart: the 15 characters that a name may have.
const DIGITS: usize = 10;

/// The names that a container's links may have: the plain one first, then with one letter, then with two.
pub fn link_names(id: &ContainerId) -> impl Iterator<Item = String> {
    let plain = format!("{PREFIX}{}", &id.as_str()[..DIGITS]);
    let (one, two) = (plain.clone(), plain.clone());
    let pairs = ('g'..='z').flat_map(|a| ('g'..='z').map(move |b| (a, b)));
    std::iter::once(plain)
        .chain(('g'..='z').map(move |letter| format!("{one}{letter}")))
        .chain(pairs.map(move |(a, b)| format!("{two}{a}{b}")))
}

pub fn is_link_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let (digits, letters) = rest.split_at_checked(DIGITS).unwrap_or_default();
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let letter = |b: u8| matches!(b, b'g'..=b'z');
    digits.len() == DIGITS && digits.bytes().all(hex) && letters.len() <= 2 && letters.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_recognised() {
        let id = ContainerId::from_bytes([0xab; 32]);
        let names: Vec<_> = link_names(&id).collect();
        assert_eq!(names[..2], ["bthababababab", "bthabababababg"]);
        assert_eq!(names.len(), 1 + 20 + 400);
        assert!(names.iter().all(|n| is_link_name(n) && n.len() <= 15));
        for other in ["bth", "bthab", "berth0", "bthabababababa", "bthabababababggg", "bthABABABABAB", "xthababababab"]
        {
            assert!(!is_link_name(other), "{other}");
        }
    }
}
