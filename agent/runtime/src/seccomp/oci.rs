//! A profile as `linux.seccomp` of the runtime-spec, for runtimes that compile it themselves.

use super::{Action, Compare, Profile, Target};
use serde_json::{Value, json};

/// What of `profile` holds for `target`. Rules that say what happens anyway are left out: libseccomp takes none such.
pub fn to_oci(profile: &Profile, target: &Target) -> Value {
    let (default, default_errno) = words(profile.default);
    let rules = profile.rules.iter().filter(|r| r.when.holds(target) && r.action != profile.default);
    let syscalls: Vec<Value> = rules
        .filter(|r| !r.names.is_empty())
        .map(|rule| {
            let (action, errno) = words(rule.action);
            let args: Vec<Value> = rule.conditions.iter().map(|c| arg(c.index, c.compare, c.value)).collect();
            let mut call = json!({ "names": rule.names, "action": action });
            if let Some(errno) = errno {
                call["errnoRet"] = errno.into();
            }
            if !args.is_empty() {
                call["args"] = args.into();
            }
            call
        })
        .collect();
    let tables = target.arch.tables().iter().flat_map(|(_, tables)| tables.iter().copied());
    let admitted = tables.filter(|t| profile.architectures.admit(*t, target));
    let architectures: Vec<&str> = admitted.map(super::Table::scmp_name).collect();
    let mut seccomp = json!({ "defaultAction": default, "architectures": architectures, "syscalls": syscalls });
    if let Some(errno) = default_errno {
        seccomp["defaultErrnoRet"] = errno.into();
    }
    seccomp
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

    #[test]
    fn a_profile_comes_back_as_the_same_rules() {
        let target = Target { arch: Arch::X86_64, caps: Default::default(), kernel: (6, 1) };
        let profile = crate::seccomp::default_profile();
        let mut again = parse(&to_oci(&profile, &target).to_string()).unwrap();
        let mut holding = profile.clone();
        holding.rules.retain(|r| r.when.holds(&target) && r.action != profile.default);
        holding.rules.iter_mut().for_each(|r| r.when = Default::default());
        again.rules.iter_mut().for_each(|r| r.when = Default::default());
        assert_eq!(again.architectures, Architectures::Named(vec![Table::X86_64, Table::X32, Table::I386]));
        again.architectures = Architectures::All;
        assert_eq!(again, holding);
        assert!(again.rules.len() > 5);
    }
}
