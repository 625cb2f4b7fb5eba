//! Walls that a test may take down, to see that the attack behind each of them works. With the feature `weaken` only, which no release has.

/// Names are in `BERTH_WEAKEN` of the agent's environment, with commas between them; the shim itself has no environment. The walls `order`,
/// `subpath`, `sysctls`, `hooks`, `removal`, `library`, `packing` and `sealed` are the agent's own.
#[cfg(feature = "weaken")]
pub fn is_down(name: &str) -> bool {
    use std::sync::OnceLock;
    static ENVIRONMENT: OnceLock<Vec<u8>> = OnceLock::new();
    let all = ENVIRONMENT.get_or_init(|| {
        std::fs::read(format!("/proc/{}/environ", std::os::unix::process::parent_id())).unwrap_or_default()
    });
    let mut lists = all.split(|b| *b == 0).filter_map(|variable| variable.strip_prefix(b"BERTH_WEAKEN="));
    lists.any(|list| list.split(|b| *b == b',').any(|down| down == name.as_bytes()))
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
