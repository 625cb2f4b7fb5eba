//! A profile as `linux.seccomp` of the runtime-spec, for runtimes that compile it themselves.

use super::{Action, Compare, Condition, Profile, Rule, SeccompError, Target};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// An argument that is compared with up to this is looked at value by value where the order of a call's rules matters.
const MOST_VALUES: u64 = 255;

/// What of `profile` holds for `target`. The first rule whose conditions hold is the one that counts; libseccomp takes no rule that says what the
/// default says, and weighs those of one call in an order of its own. So a call whose rules do not all say the same gets a rule for each value of its
/// argument.
///
/// # Errors
/// `Ordered`: a call whose rules cannot be told so.
pub fn to_oci(profile: &Profile, target: &Target) -> Result<Value, SeccompError> {
    let (default, default_errno) = words(profile.default);
    let holding: Vec<&Rule> = profile.rules.iter().filter(|r| r.when.holds(target)).collect();
    let mut by_name: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in &holding {
        for name in &rule.names {
            let counting = by_name.entry(name).or_default();
            // What stands behind one that always holds is never asked.
            if counting.last().is_none_or(|last| !last.conditions.is_empty()) {
                counting.push(rule);
            }
        }
    }
    for counting in by_name.values_mut() {
        while counting.last().is_some_and(|last| last.action == profile.default) {
            counting.pop();
        }
    }
    let agree = |name: &str| by_name[name].windows(2).all(|two| two[0].action == two[1].action);
    let mut syscalls = Vec::new();
    for rule in holding {
        let is_whole = |name: &&str| by_name[name].iter().any(|counting| std::ptr::eq(*counting, rule)) && agree(name);
        let names: Vec<&str> = rule.names.iter().map(String::as_str).filter(is_whole).collect();
        if !names.is_empty() {
            syscalls.push(syscall(&names, rule.action, &rule.conditions));
        }
    }
    for (name, rules) in by_name.iter().filter(|(name, _)| !agree(name)) {
        let each = value_by_value(rules, profile.default).ok_or_else(|| SeccompError::Ordered((*name).to_owned()))?;
        syscalls.extend(each.into_iter().map(|(condition, action)| syscall(&[name], action, &[condition])));
    }
    let tables = target.arch.tables().iter().flat_map(|(_, tables)| tables.iter().copied());
    let admitted = tables.filter(|t| profile.architectures.admit(*t, target));
    let architectures: Vec<&str> = admitted.map(super::Table::scmp_name).collect();
    let mut seccomp = json!({ "defaultAction": default, "architectures": architectures, "syscalls": syscalls });
    if let Some(errno) = default_errno {
        seccomp["defaultErrnoRet"] = errno.into();
    }
    Ok(seccomp)
}

/// Every value that `rules` give another action than `default`, with it. None: there are too many, or it is not one argument alone that decides.
fn value_by_value(rules: &[&Rule], default: Action) -> Option<Vec<(Condition, Action)>> {
    let conditions: Option<Vec<Condition>> =
        rules.iter().map(|rule| <[_; 1]>::try_from(&rule.conditions[..]).ok().map(|[c]| c)).collect();
    let conditions = conditions?;
    let index = conditions.first()?.index;
    let mut values = BTreeSet::new();
    for (condition, rule) in conditions.iter().zip(rules) {
        match condition {
            c if c.index != index => return None,
            _ if rule.action == default => {}
            Condition { compare: Compare::Eq, value, .. } => drop(values.insert(*value)),
            Condition { compare: Compare::Le, value: last @ ..=MOST_VALUES, .. } => values.extend(0..=*last),
            Condition { compare: Compare::Lt, value: end @ ..=MOST_VALUES, .. } => values.extend(0..*end),
            _ => return None,
        }
    }
    let decided =
        |value: &u64| conditions.iter().zip(rules).find(|(c, _)| holds(c, *value)).map(|(_, rule)| rule.action);
    let each = values.into_iter().filter_map(|value| {
        let action = decided(&value).filter(|action| *action != default)?;
        Some((Condition { index, compare: Compare::Eq, value }, action))
    });
    Some(each.collect())
}

fn holds(condition: &Condition, argument: u64) -> bool {
    let value = condition.value;
    match condition.compare {
        Compare::Ne => argument != value,
        Compare::Lt => argument < value,
        Compare::Le => argument <= value,
        Compare::Eq => argument == value,
        Compare::Ge => argument >= value,
        Compare::Gt => argument > value,
        Compare::MaskedEq(mask) => argument & mask == value,
    }
}

fn syscall(names: &[&str], action: Action, conditions: &[Condition]) -> Value {
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
        let mut again = parse(&to_oci(&profile, &target()).unwrap().to_string()).unwrap();
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

    /// What libseccomp does, which is asked for the rules in no order: all that hold have to say the same, and none what the default says.
    fn action(seccomp: &Value, name: &str, argument: u64) -> String {
        let default = seccomp["defaultAction"].as_str().unwrap();
        let mut found = BTreeSet::new();
        for call in seccomp["syscalls"].as_array().unwrap() {
            let told = format!("{} {}", call["action"].as_str().unwrap(), call["errnoRet"]);
            assert_ne!(told, format!("{default} {}", seccomp["defaultErrnoRet"]), "{seccomp}");
            let holds = |arg: &Value| {
                let value = arg["value"].as_u64().unwrap();
                match arg["op"].as_str().unwrap() {
                    "SCMP_CMP_EQ" => argument == value,
                    "SCMP_CMP_NE" => argument != value,
                    "SCMP_CMP_LE" => argument <= value,
                    "SCMP_CMP_LT" => argument < value,
                    "SCMP_CMP_GE" => argument >= value,
                    other => panic!("{other}"),
                }
            };
            let named = call["names"].as_array().unwrap().iter().any(|n| n == name);
            if named && call["args"].as_array().is_none_or(|args| args.iter().all(holds)) {
                found.insert(told);
            }
        }
        assert!(found.len() < 2, "{name}({argument}): {seccomp}");
        found.pop_first().unwrap_or_else(|| format!("{default} {}", seccomp["defaultErrnoRet"]))
    }

    #[test]
    fn families_of_sockets_that_are_not_given_are_not() {
        let seccomp = to_oci(&crate::seccomp::default_profile(), &target()).unwrap();
        for family in [0, 1, 2, 10, 16, 17, 39, 41, 45] {
            assert_eq!(action(&seccomp, "socket", family), "SCMP_ACT_ALLOW null", "{family}");
        }
        for family in [12, 19, 20, 23, 25, 34, 37, 38, 40, 46, 1 << 32 | 2] {
            assert_eq!(action(&seccomp, "socket", family), "SCMP_ACT_ERRNO 1", "{family}");
        }
    }

    /// Every profile of up to three rules that are of these, against the first rule that holds.
    #[test]
    fn in_no_order_the_rules_say_what_they_say_in_theirs() {
        let compares = [Compare::Eq, Compare::Le, Compare::Lt, Compare::Ne, Compare::Ge];
        let conditions =
            compares.iter().flat_map(|c| [1, 2].map(|value| vec![Condition { index: 0, compare: *c, value }]));
        let conditions: Vec<_> = conditions.chain([Vec::new()]).collect();
        let actions = [Action::Errno(1), Action::Errno(97), Action::Allow];
        let of = |action: Action| conditions.iter().map(move |c| (action, c.clone()));
        let kinds: Vec<_> = actions.into_iter().flat_map(of).collect();
        let rule = |n: usize| {
            let (action, conditions) = kinds[n].clone();
            Rule { names: vec!["socket".into()], action, conditions, when: Default::default() }
        };
        let all = kinds.len();
        let (mut told, mut refused) = (0, 0);
        for n in 0..all * all * all {
            let rules = vec![rule(n % all), rule(n / all % all), rule(n / all / all)];
            let profile = Profile { default: Action::Errno(1), rules, architectures: Architectures::All };
            let Ok(seccomp) = to_oci(&profile, &target()) else {
                refused += 1;
                continue;
            };
            told += 1;
            for argument in 0..4 {
                let first = profile.rules.iter().find(|r| r.conditions.iter().all(|c| holds(c, argument)));
                let (word, errno) = words(first.map_or(profile.default, |r| r.action));
                let wanted = format!("{word} {}", errno.map_or(Value::Null, Value::from));
                assert_eq!(action(&seccomp, "socket", argument), wanted, "{argument} of {:?}", profile.rules);
            }
        }
        assert!(told > 1000 && refused > 1000, "{told} {refused}");
    }

    #[test]
    fn what_cannot_be_told_is_refused_by_the_calls_name() {
        let ranges = json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            { "names": ["bpf", "socket"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 38, "op": "SCMP_CMP_EQ" }] },
            { "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_GE" }] },
        ]});
        let error = to_oci(&parse(&ranges.to_string()).unwrap(), &target()).unwrap_err();
        assert_eq!(error, SeccompError::Ordered("socket".into()));
    }
}
