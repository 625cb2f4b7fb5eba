//! Names for containers that were given none.

/// Weather and mood of a harbour day.
const ADJECTIVES: &[&str] = &[
    "amber", "balmy", "blithe", "brisk", "calm", "candid", "cheery", "clear", "coral", "crisp", "dapper", "deft",
    "eager", "early", "fabled", "fair", "fleet", "fond", "frosty", "gallant", "gentle", "gilded", "glad", "hale",
    "hardy", "hazy", "jolly", "keen", "kind", "late", "lively", "lucid", "lucky", "mellow", "merry", "mild", "misty",
    "neat", "nimble", "noble", "patient", "placid", "plucky", "proud", "quiet", "rapid", "ready", "rosy", "salty",
    "serene", "sly", "snug", "spry", "stark", "steady", "stout", "sunny", "swift", "tidy", "trusty", "vivid", "warm",
    "wily", "windy",
];

/// What is seen from a quay.
const NOUNS: &[&str] = &[
    "anchor",
    "auk",
    "barge",
    "beacon",
    "bollard",
    "bosun",
    "bowline",
    "breeze",
    "brig",
    "buoy",
    "capstan",
    "cleat",
    "cod",
    "compass",
    "cormorant",
    "crane",
    "cutter",
    "davit",
    "dinghy",
    "dock",
    "dolphin",
    "eider",
    "ferry",
    "fjord",
    "gannet",
    "gull",
    "halyard",
    "harbour",
    "hawser",
    "helm",
    "heron",
    "jetty",
    "keel",
    "ketch",
    "lagoon",
    "lantern",
    "lighter",
    "lugger",
    "mast",
    "mooring",
    "narwhal",
    "oar",
    "osprey",
    "otter",
    "pelican",
    "pier",
    "pilot",
    "plover",
    "porpoise",
    "puffin",
    "quay",
    "rudder",
    "schooner",
    "seal",
    "sextant",
    "skiff",
    "skipper",
    "sloop",
    "spar",
    "tern",
    "tide",
    "tug",
    "wharf",
    "yawl",
];

/// `adjective_noun` by `random`'s low bits; where `taken` knows it, with growing digits behind it.
pub(crate) fn made_up(random: u64, taken: impl Fn(&str) -> bool) -> String {
    let adjective = ADJECTIVES[(random % ADJECTIVES.len() as u64) as usize];
    let noun = NOUNS[((random >> 16) % NOUNS.len() as u64) as usize];
    let plain = format!("{adjective}_{noun}");
    if !taken(&plain) {
        return plain;
    }
    // The rest of the random bits makes a second clash unlikely; counting on from there makes an end certain.
    let mut number = (random >> 32) % 1000;
    loop {
        let name = format!("{plain}{number}");
        if !taken(&name) {
            return name;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_good_one() {
        for a in 0..ADJECTIVES.len() as u64 {
            for n in 0..NOUNS.len() as u64 {
                let name = made_up(a | n << 16, |_| false);
                assert!(berth_model::id::check_name(&name).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let plain = made_up(7, |_| false);
        assert_eq!(made_up(7, |n| n == plain), format!("{plain}0"));
        let first = format!("{plain}0");
        assert_eq!(made_up(7, |n| n == plain || n == first), format!("{plain}1"));
    }
}
