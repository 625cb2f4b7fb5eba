//! Which devices a container may use.

/// One allowed class of devices; everything else is denied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DeviceRule {
    /// Block instead of character.
    pub block: bool,
    /// None: every major number.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl DeviceRule {
    const fn new(block: bool, major: Option<u32>, minor: Option<u32>, use_it: bool) -> Self {
        DeviceRule { block, major, minor, read: use_it, write: use_it, mknod: true }
    }

    /// As v1's devices.allow takes it (Documentation/admin-guide/cgroup-v1/devices.rst): `c 1:3 rwm`.
    pub fn to_v1(&self) -> String {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let mut letters = String::new();
        for (set, letter) in [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')] {
            if set {
                letters.push(letter);
            }
        }
        format!("{} {}:{} {letters}", if self.block { 'b' } else { 'c' }, number(self.major), number(self.minor))
    }
}

/// Docker's default list: every node may be made, and these used: null, zero, full, random, urandom, tty, console, the container's own
/// terminals.
pub(crate) fn default_rules() -> Vec<DeviceRule> {
    let c = |major, minor| DeviceRule::new(false, Some(major), minor, true);
    let mut rules = vec![DeviceRule::new(false, None, None, false), DeviceRule::new(true, None, None, false)];
    rules.extend([3, 5, 7, 8, 9].map(|minor| c(1, Some(minor))));
    rules.extend([c(5, Some(0)), c(5, Some(1)), c(5, Some(2)), c(136, None)]);
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_as_the_kernel_reads_them() {
        let rules: Vec<String> = default_rules().iter().map(DeviceRule::to_v1).collect();
        assert_eq!(rules[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(rules.last().unwrap(), "c 136:* rwm");
    }
}
