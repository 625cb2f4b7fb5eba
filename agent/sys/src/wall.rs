//! Walls that a test may take down, to see that the attack behind each of them works. With the feature `weaken` only, which no release has.

/// Whether this build has walls that come down.
pub const WEAK: bool = cfg!(feature = "weaken");

/// Names are in `BERTH_WEAKEN` of the environment, with commas between them; those of moments at which an attack wants time are, too.
#[cfg(feature = "weaken")]
pub fn is_down(name: &str) -> bool {
    std::env::var("BERTH_WEAKEN").is_ok_and(|list| list.split(',').any(|wall| wall == name))
}

/// Time for an attacker at a moment that `BERTH_WEAKEN` names beside the walls: an attack that needs luck does not need it then.
#[cfg(feature = "weaken")]
pub fn pause(moment: &str) {
    if is_down(moment) {
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
}

#[cfg(not(feature = "weaken"))]
pub const fn pause(_moment: &str) {}

#[cfg(not(feature = "weaken"))]
pub const fn is_down(_name: &str) -> bool {
    false
}
