//! Walls that a test may take down, to see that the attack behind each of them works. With the feature `weaken` only, which no release has.

/// Names are in `BERTH_WEAKEN` of the environment, with commas between them; those of moments at which an attack wants time are, too.
#[cfg(feature = "weaken")]
pub fn is_down(name: &str) -> bool {
    std::env::var("BERTH_WEAKEN").is_ok_and(|list| list.split(',').any(|wall| wall == name))
}

#[cfg(not(feature = "weaken"))]
pub const fn is_down(_name: &str) -> bool {
    false
}
