//! Seccomp profiles: what is taken compiles to a program that the kernel's verifier would take, and that answers as the rules say.
#![no_main]

#[path = "../../agent/runtime/src/seccomp/mod.rs"]
#[allow(dead_code, unused_imports)]
mod seccomp;

use seccomp::machine::{Call, run};
use seccomp::{Action, Arch, Compare, Condition, Profile, Target};

fn holds(condition: &Condition, args: &[u64; 6]) -> bool {
    let (arg, value) = (args[usize::from(condition.index)], condition.value);
    match condition.compare {
        Compare::Eq => arg == value,
        Compare::Ne => arg != value,
        Compare::Lt => arg < value,
        Compare::Le => arg <= value,
        Compare::Gt => arg > value,
        Compare::Ge => arg >= value,
        Compare::MaskedEq(mask) => arg & mask == value,
    }
}

/// What a plain walk through the rules says of a call: those with conditions first, but for what the rule without any says anyway.
fn walk(profile: &Profile, caps: bool, name: &str, args: &[u64; 6]) -> Action {
    let mut meant = profile.rules.iter().filter(|rule| {
        let when = &rule.when;
        let known = |c: &String| caps && c == "CAP_SYS_ADMIN";
        let host = |arches: &Vec<String>| arches.iter().any(|a| a == "amd64");
        rule.names.iter().any(|n| n == name)
            && when.caps.iter().all(known)
            && !when.not_caps.iter().any(known)
            && (when.arches.is_empty() || host(&when.arches))
            && !host(&when.not_arches)
            && when.min_kernel.is_none_or(|least| least <= (6, 1))
    });
    let plain = meant.clone().find(|rule| rule.conditions.is_empty()).map(|rule| rule.action);
    if plain == Some(Action::Allow) {
        return Action::Allow;
    }
    let first = meant
        .find(|r| !r.conditions.is_empty() && Some(r.action) != plain && r.conditions.iter().all(|c| holds(c, args)));
    first.map(|rule| rule.action).or(plain).unwrap_or(profile.default)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(profile) = seccomp::parse(&String::from_utf8_lossy(bytes)) else { return };
    let names = ["read", "clone", "ptrace", "socket", "mount", "personality"];
    let mut values: Vec<u64> = profile.rules.iter().flat_map(|r| &r.conditions).map(|c| c.value).take(8).collect();
    values.extend([0, u64::MAX]);
    let newest = profile.rules.iter().flat_map(|r| &r.names).filter_map(|n| seccomp::Table::X86_64.number(n)).max();
    let lets_through = matches!(profile.default, Action::Allow | Action::Log | Action::Trace(_));
    for caps in [false, true] {
        let target = Target {
            arch: Arch::X86_64,
            caps: caps.then(|| "CAP_SYS_ADMIN".into()).into_iter().collect(),
            kernel: (6, 1),
        };
        let Ok(program) = seccomp::compile(&profile, &target) else { return };
        // bpf_check_classic: jumps lead forward and inside, the last instruction returns.
        let len = program.insns.len();
        assert!(len <= 4096 && program.insns[len - 1].code == 6);
        for (at, insn) in program.insns.iter().enumerate() {
            let far = if insn.code == 5 { insn.k as usize } else { usize::from(insn.jt.max(insn.jf)) };
            assert!(insn.code == 6 || at + 1 + far < len, "a jump behind the end");
        }
        for name in names {
            let number = seccomp::Table::X86_64.number(name).unwrap();
            for value in values.iter().flat_map(|v| [*v, v.wrapping_add(1), v.wrapping_sub(1)]) {
                let args = [value; 6];
                let got = run(&program.insns, &Call { number, arch: 0xc000_003e, args });
                // What is newer than all that the profile names is not there.
                let unknown = newest.is_some_and(|newest| number > newest) && !lets_through;
                let want = if unknown { Action::Errno(38) } else { walk(&profile, caps, name, &args) };
                assert_eq!(got, want.code(), "{name}({value:#x})");
            }
        }
    }
});
