//! Which devices may be used: rules in their order (config-linux.md, "Allowed Device list"), and what every container has.

use crate::config::DeviceRule;
use crate::error::Error;
use berth_sys::cgroup_bpf::Rule;

/// A rule as both versions want it. `kind` is `a`, `b` or `c`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed {
    pub allow: bool,
    pub kind: char,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl Parsed {
    /// As v1's devices.allow and devices.deny take it.
    pub fn text(&self) -> String {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let letters: String = [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')]
            .iter()
            .filter_map(|(set, letter)| set.then_some(*letter))
            .collect();
        format!("{} {}:{} {letters}", self.kind, number(self.major), number(self.minor))
    }

    fn same_class(&self, other: &Rule) -> bool {
        (self.kind == 'b') == other.block && self.major == other.major && self.minor == other.minor
    }
}

/// Everything is denied first. Behind what is asked for come the devices that every container has, as runc does it.
pub fn rules(given: &[DeviceRule]) -> Result<Vec<Parsed>, Error> {
    let mut all =
        vec![Parsed { allow: false, kind: 'a', major: None, minor: None, read: true, write: true, mknod: true }];
    for (i, rule) in given.iter().enumerate() {
        let bad =
            |name: &str, message: String| Err(Error::field(format!("linux.resources.devices[{i}].{name}"), message));
        let kind = match rule.kind.as_str() {
            "" | "a" => 'a',
            "b" => 'b',
            "c" | "u" => 'c',
            other => return bad("type", format!("{other:?} is none of a, b and c")),
        };
        // No letters mean all of them: Podman's first rule has none.
        let access = if rule.access.is_empty() { "rwm" } else { rule.access.as_str() };
        if !access.bytes().all(|b| b"rwm".contains(&b)) {
            return bad("access", format!("{access:?} must be letters of rwm"));
        }
        let number = |n: Option<i64>| n.filter(|n| *n >= 0).and_then(|n| u32::try_from(n).ok());
        let (read, write, mknod) = (access.contains('r'), access.contains('w'), access.contains('m'));
        let numbered = number(rule.major).is_some() || number(rule.minor).is_some();
        // "a" with numbers would mean everything to the kernel.
        let kinds: &[char] = if kind == 'a' && (numbered || !(read && write && mknod)) { &['b', 'c'] } else { &[kind] };
        all.extend(kinds.iter().map(|kind| Parsed {
            allow: rule.allow,
            kind: *kind,
            major: number(rule.major),
            minor: number(rule.minor),
            read,
            write,
            mknod,
        }));
    }
    let own =
        |major, minor, used| Parsed { allow: true, kind: 'c', major, minor, read: used, write: used, mknod: true };
    all.push(own(None, None, false));
    all.push(Parsed { kind: 'b', ..own(None, None, false) });
    all.extend([3, 5, 7, 8, 9].map(|minor| own(Some(1), Some(minor), true)));
    all.extend([own(Some(5), Some(0), true), own(Some(5), Some(2), true), own(Some(136), None, true)]);
    Ok(all)
}

/// The rules as a list of what is allowed, for v2's program. `None`: everything is.
pub fn allowed(rules: &[Parsed]) -> Result<Option<Vec<Rule>>, Error> {
    let (mut list, mut everything) = (Vec::<Rule>::new(), false);
    for rule in rules {
        if rule.kind == 'a' {
            (everything, list) = (rule.allow, Vec::new());
            continue;
        }
        let (block, major, minor) = (rule.kind == 'b', rule.major, rule.minor);
        if rule.allow {
            list.push(Rule { block, major, minor, read: rule.read, write: rule.write, mknod: rule.mknod });
            continue;
        }
        let wider = |r: &&Rule| {
            !rule.same_class(r)
                && r.block == block
                && (r.major.is_none() || major.is_none() || r.major == major)
                && (r.minor.is_none() || minor.is_none() || r.minor == minor)
        };
        if everything || list.iter().any(|r| wider(&r)) {
            let message =
                format!("denying {} out of what a wider rule allows is not supported on cgroup v2", rule.text());
            return Err(Error::field("linux.resources.devices", message));
        }
        for known in list.iter_mut().filter(|r| rule.same_class(r)) {
            known.read &= !rule.read;
            known.write &= !rule.write;
            known.mknod &= !rule.mknod;
        }
        list.retain(|r| r.read || r.write || r.mknod);
    }
    Ok((!everything).then_some(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: &str, numbers: Option<(i64, i64)>, access: &str) -> DeviceRule {
        let (major, minor) = (numbers.map(|n| n.0), numbers.map(|n| n.1));
        DeviceRule { allow, kind: kind.into(), major, minor, access: access.into() }
    }

    #[test]
    fn order_counts() {
        let given = [
            rule(false, "a", None, "rwm"),
            rule(true, "c", Some((10, 229)), "rw"),
            rule(false, "c", Some((10, 229)), "w"),
        ];
        let parsed = rules(&given).unwrap();
        let texts: Vec<_> = parsed.iter().map(Parsed::text).collect();
        assert_eq!(texts[1..5], ["a *:* rwm", "c 10:229 rw", "c 10:229 w", "c *:* m"]);
        let list = allowed(&parsed).unwrap().unwrap();
        assert!(list[0].read && !list[0].write && list[0].major == Some(10));
        assert!(allowed(&rules(&[rule(true, "a", None, "")]).unwrap()).unwrap().is_none());
        assert!(allowed(&rules(&[rule(true, "", None, "rwm"), rule(false, "b", Some((8, 0)), "r")]).unwrap()).is_err());
        assert!(rules(&[rule(true, "x", None, "r")]).is_err() && rules(&[rule(true, "c", None, "rx")]).is_err());
    }
}
