//! A profile as `linux.seccomp` of the runtime-spec, for runtimes that compile it themselves.

use super::{Action, Compare, Condition, Profile, Rule, Target};
use serde_json::{Value, json};

/// An argument that is given up to here is given value by value where some of the values are not.
const MOST_VALUES: u64 = 255;

/// What of `profile` holds for `target`. Rules that say what happens anyway are left out: libseccomp takes none such, and for it a rule that allows
/// goes before one that does not, whichever comes first. What they take away from a rule behind them is not given by that rule.
pub fn to_oci(profile: &Profile, target: &Target) -> Value {
    let (default, default_errno) = words(profile.default);
    let holding: Vec<&Rule> = profile.rules.iter().filter(|r| r.when.holds(target)).collect();
    let mut syscalls = Vec::new();
    for (at, rule) in holding.iter().enumerate().filter(|(_, rule)| rule.action != profile.default) {
        let refused = |name: &String| -> Vec<u64> {
            let [Condition { index, compare: Compare::Le, value: last @ ..=MOST_VALUES }] = rule.conditions[..] else {
                return Vec::new();
            };
            let before = holding[..at].iter().filter(|r| r.action == profile.default && r.names.contains(name));
            let values = before.filter_map(|r| match r.conditions[..] {
                [Condition { index: i, compare: Compare::Eq, value }] if i == index && value <= last => Some(value),
                _ => None,
            });
            values.collect()
        };
        let (whole, parted): (Vec<&String>, Vec<&String>) =
            rule.names.iter().partition(|name| refused(name).is_empty());
        if !whole.is_empty() {
            syscalls.push(syscall(&whole, rule.action, &rule.conditions));
        }
        for name in parted {
            let (refused, Condition { index, value: last, .. }) = (refused(name), rule.conditions[0]);
            let given = (0..=last).filter(|value| !refused.contains(value));
            syscalls.extend(
                given.map(|value| syscall(&[name], rule.action, &[Condition { index, compare: Compare::Eq, value }])),
            );
        }
    }
    let tables = target.arch.tables().iter().flat_map(|(_, tables)| tables.iter().copied());
    let admitted = tables.filter(|t| profile.architectures.admit(*t, target));
    let architectures: Vec<&str> = admitted.map(super::Table::scmp_name).collect();
    let mut seccomp = json!({ "defaultAction": default, "architectures": architectures, "syscalls": syscalls });
    if let Some(errno) = default_errno {
        seccomp["defaultErrnoRet"] = errno.into();
    }
    seccomp
}

fn syscall(names: &[&String], action: Action, conditions: &[Condition]) -> Value {
    let (action, errno) = words(action);
    let args: Vec<Value> = conditions.iter().map(|c| arg(c.index, c.compare, c.value)).collect();
    let mut call = json!({ "names": names, "action": action });
    if let Some(errno) = errno {
        call["errnoRet"] = errno.into();
    }
    if !args.is_empty() {
        call["args"] = args.into();
    }
    call
}

fn words(action: Action) -> (&'static str, Option<u16>) {
    match action {
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno)),
        Action::Trace(data) => ("SCMP_ACT_TRACE", Some(data)),
        Action::Log => ("SCMP_ACT_LOG", None),
        Action::Allow => ("SCMP_ACT_ALLOW", None),
    }
}

fn arg(index: u8, compare: Compare, value: u64) -> Value {
    let (op, value, second) = match compare {
        Compare::Ne => ("SCMP_CMP_NE", value, None),
        Compare::Lt => ("SCMP_CMP_LT", value, None),
        Compare::Le => ("SCMP_CMP_LE", value, None),
        Compare::Eq => ("SCMP_CMP_EQ", value, None),
        Compare::Ge => ("SCMP_CMP_GE", value, None),
        Compare::Gt => ("SCMP_CMP_GT", value, None),
        // The mask comes first.
        Compare::MaskedEq(mask) => ("SCMP_CMP_MASKED_EQ", mask, Some(value)),
    };
    match second {
        Some(second) => json!({ "index": index, "value": value, "valueTwo": second, "op": op }),
        None => json!({ "index": index, "value": value, "op": op }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{Arch, Architectures, Table, parse};

    fn target() -> Target {
        Target { arch: Arch::X86_64, caps: Default::default(), kernel: (6, 1) }
    }

    #[test]
    fn a_profile_comes_back_as_the_same_rules() {
        let profile = crate::seccomp::default_profile();
        let mut again = parse(&to_oci(&profile, &target()).to_string()).unwrap();
        let mut holding = profile.clone();
        holding.rules.retain(|r| r.when.holds(&target()) && r.action != profile.default);
        for rules in [&mut holding.rules, &mut again.rules] {
            rules.iter_mut().for_each(|r| r.when = Default::default());
            rules.retain(|r| r.names != ["socket"]);
        }
        assert_eq!(again.architectures, Architectures::Named(vec![Table::X86_64, Table::X32, Table::I386]));
        again.architectures = Architectures::All;
        assert_eq!(again, holding);
        assert!(again.rules.len() > 5);
    }

    /// As libseccomp sees them: rules that allow, in any order.
    fn allowed(seccomp: &Value, name: &str, argument: u64) -> bool {
        seccomp["syscalls"].as_array().unwrap().iter().any(|call| {
            let named = call["names"].as_array().unwrap().iter().any(|n| n == name);
            let holds = |arg: &Value| match arg["op"].as_str().unwrap() {
                "SCMP_CMP_EQ" => arg["value"] == argument,
                "SCMP_CMP_LE" => argument <= arg["value"].as_u64().unwrap(),
                other => panic!("{other}"),
            };
            named
                && call["action"] == "SCMP_ACT_ALLOW"
                && call["args"].as_array().is_none_or(|args| args.iter().all(holds))
        })
    }

    #[test]
    fn what_is_refused_is_not_given_by_a_rule_behind() {
        let seccomp = to_oci(&crate::seccomp::default_profile(), &target());
        for family in [0, 1, 2, 10, 16, 17, 39, 41, 45] {
            assert!(allowed(&seccomp, "socket", family), "{family}");
        }
        for family in [12, 19, 20, 23, 25, 34, 37, 38, 40, 46, 1 << 32 | 2] {
            assert!(!allowed(&seccomp, "socket", family), "{family}");
        }

        let rule = |names: &str, action: &str, op: &str, value: u64| {
            let names: Vec<&str> = names.split(' ').collect();
            json!({ "names": names, "action": action, "args": [{ "index": 0, "value": value, "op": op }] })
        };
        let (allow, refuse, le, eq) = ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_CMP_LE", "SCMP_CMP_EQ");
        let rules = json!([
            rule("socket", allow, le, 1),
            rule("socket bpf", refuse, eq, 1),
            rule("socket bpf personality", allow, le, 3),
            rule("personality", refuse, eq, 2),
        ]);
        let file = json!({ "defaultAction": refuse, "syscalls": rules });
        let seccomp = to_oci(&parse(&file.to_string()).unwrap(), &target());
        let given = |name| (0..5).filter(|value| allowed(&seccomp, name, *value)).collect::<Vec<_>>();
        assert_eq!(given("socket"), [0, 1, 2, 3], "the first rule gives it");
        assert_eq!(given("bpf"), [0, 2, 3]);
        assert_eq!(given("personality"), [0, 1, 2, 3], "what is refused behind is given");
    }
}
