use super::machine::{Call, run};
use super::tables::{Table, X32_BIT};
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;

const ALLOW: u32 = Action::Allow.code();
const EPERM: u32 = Action::Errno(1).code();
const ENOSYS: u32 = Action::Errno(38).code();

fn target(arch: Arch, caps: &[&str]) -> Target {
    Target { arch, caps: caps.iter().map(|c| (*c).to_owned()).collect(), kernel: (6, 1) }
}

fn answer(program: &Program, arch: u32, table: Table, name: &str, args: [u64; 6]) -> u32 {
    let number = table.number(name).unwrap_or_else(|| panic!("{table:?} has no {name}"));
    run(&program.insns, &Call { number, arch, args })
}

#[test]
fn the_default_profile_on_every_table() {
    for (arch, audit, table) in [
        (Arch::X86_64, X86_64, Table::X86_64),
        (Arch::X86_64, X86_64, Table::X32),
        (Arch::X86_64, I386, Table::I386),
        (Arch::Aarch64, AARCH64, Table::Aarch64),
        (Arch::Aarch64, ARM, Table::Arm),
    ] {
        let plain = compile(&default_profile(), &target(arch, &[])).unwrap();
        let ask = |name: &str, args| answer(&plain, audit, table, name, args);
        for allowed in ["read", "write", "openat", "execve", "futex", "exit_group", "ioctl", "rt_sigreturn", "ptrace"] {
            assert_eq!(ask(allowed, [0; 6]), ALLOW, "{table:?} {allowed}");
        }
        for denied in ["mount", "setns", "unshare", "bpf", "reboot", "init_module", "add_key", "keyctl", "swapon"] {
            assert_eq!(ask(denied, [0; 6]), EPERM, "{table:?} {denied}");
        }
        assert_eq!(ask("clone3", [0; 6]), ENOSYS, "{table:?}");
        assert_eq!(ask("clone", [0x11, 0, 0, 0, 0, 0]), ALLOW, "{table:?} fork");
        assert_eq!(ask("clone", [0x1000_0011, 0, 0, 0, 0, 0]), EPERM, "{table:?} CLONE_NEWUSER");
        assert_eq!(ask("personality", [0x8, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(ask("personality", [0xffff_ffff, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(ask("personality", [0x0040_0000, 0, 0, 0, 0, 0]), EPERM, "ADDR_NO_RANDOMIZE");
        assert_eq!(ask("socket", [2, 1, 0, 0, 0, 0]), ALLOW);
        for family in [0, 1, 2, 10, 11, 16, 17, 18, 21, 24, 29, 30, 33, 39, 41, 45] {
            assert_eq!(ask("socket", [family, 1, 0, 0, 0, 0]), ALLOW, "{table:?} {family}");
        }
        // DECnet, ATM's SVCs, IrDA, ISDN, CAIF, AF_ALG, AF_VSOCK; and what there is not yet.
        for family in [12, 19, 20, 23, 25, 34, 37, 38, 40, 46, 100, u64::from(u32::MAX)] {
            assert_eq!(ask("socket", [family, 1, 0, 0, 0, 0]), EPERM, "{table:?} {family}");
        }
        for (name, want) in [("statmount", ALLOW), ("setxattrat", ALLOW), ("lsm_set_self_attr", EPERM)] {
            assert_eq!(ask(name, [0; 6]), want, "{table:?} {name}");
        }

        let admin = compile(&default_profile(), &target(arch, &["CAP_SYS_ADMIN"])).unwrap();
        for name in ["mount", "setns", "unshare", "bpf", "clone3"] {
            assert_eq!(answer(&admin, audit, table, name, [0; 6]), ALLOW, "{table:?} {name}");
        }
        assert_eq!(answer(&admin, audit, table, "clone", [0x1000_0011, 0, 0, 0, 0, 0]), ALLOW);
    }
}

#[test]
fn every_number_gets_what_its_name_says() {
    // The search against a plain walk through the rules, for every call without conditions and its neighbours.
    let profile = default_profile();
    let target = target(Arch::X86_64, &["CAP_SYS_PTRACE"]);
    let program = compile(&profile, &target).unwrap();
    let mut expected = std::collections::BTreeMap::new();
    for rule in profile.rules.iter().filter(|r| r.when.holds(&target)) {
        for number in rule.names.iter().filter_map(|n| Table::X86_64.number(n)) {
            if rule.conditions.is_empty() {
                expected.entry(number).or_insert(rule.action.code());
            } else {
                expected.entry(number).or_insert(u32::MAX);
            }
        }
    }
    let named = default_profile().rules.into_iter().flat_map(|r| r.names);
    let newest = named.filter_map(|name| Table::X86_64.number(&name)).max().unwrap();
    for number in 0..1000 {
        let got = run(&program.insns, &Call { number, arch: X86_64, args: [0; 6] });
        match expected.get(&number) {
            Some(&u32::MAX) => {}
            Some(&want) => assert_eq!(got, want, "call {number}"),
            // What is newer than all that the profile speaks of is not there.
            None if number > newest => assert_eq!(got, ENOSYS, "call {number}"),
            None => assert_eq!(got, EPERM, "call {number}"),
        }
    }
    for (number, want) in [(u32::MAX, EPERM), (X32_BIT - 1, ENOSYS), (X32_BIT | 0xffff, ENOSYS), (u32::MAX - 1, ENOSYS)]
    {
        assert_eq!(run(&program.insns, &Call { number, arch: X86_64, args: [0; 6] }), want, "{number:#x}");
    }
}

#[test]
fn what_a_profile_lets_through_it_lets_through_in_years_to_come() {
    for (default, want) in [(Action::Allow, ALLOW), (Action::Log, Action::Log.code()), (Action::KillProcess, ENOSYS)] {
        let rule = Rule {
            names: vec!["read".into()],
            action: Action::Errno(1),
            conditions: Vec::new(),
            when: When::default(),
        };
        let profile = Profile { default, rules: vec![rule], architectures: Architectures::All };
        let program = compile(&profile, &target(Arch::X86_64, &[])).unwrap();
        let ask = |number| run(&program.insns, &Call { number, arch: X86_64, args: [0; 6] });
        assert_eq!((ask(0), ask(999), ask(u32::MAX)), (EPERM, want, default.code()));
    }
}

#[test]
fn a_profile_that_lets_nothing_start_is_told() {
    let why = |default: Action, execve: Option<(Action, Vec<Condition>)>| {
        let rules = execve.map(|(action, conditions)| Rule {
            names: vec!["execve".into()],
            action,
            conditions,
            when: When::default(),
        });
        let profile = Profile { default, rules: rules.into_iter().collect(), architectures: Architectures::All };
        refuses_execve(&compile(&profile, &target(Arch::X86_64, &[])).unwrap(), Arch::X86_64)
    };
    let some =
        |found: Option<String>, word: &str| assert!(found.as_ref().is_some_and(|w| w.contains(word)), "{found:?}");
    for (default, word) in [
        (Action::KillProcess, "SIGSYS"),
        (Action::KillThread, "SIGSYS"),
        (Action::Trap, "SIGSYS"),
        (Action::Errno(1), "not permitted"),
        (Action::Trace(7), "tracer"),
    ] {
        some(why(default, None), word);
        some(why(Action::Allow, Some((default, Vec::new()))), word);
        assert_eq!(why(default, Some((Action::Allow, Vec::new()))), None, "{default:?}");
    }
    // Who names a program by its address has not named one.
    let null = Condition { index: 0, compare: Compare::Eq, value: 0 };
    assert_eq!(why(Action::Allow, Some((Action::Errno(14), vec![null]))), None);
    assert_eq!(why(Action::Log, None), None);
    for arch in [Arch::X86_64, Arch::Aarch64] {
        assert_eq!(refuses_execve(&compile(&default_profile(), &target(arch, &[])).unwrap(), arch), None);
    }
}

#[test]
fn another_architecture_is_killed() {
    let program = compile(&default_profile(), &target(Arch::X86_64, &[])).unwrap();
    let call = Call { number: 0, arch: AARCH64, args: [0; 6] };
    assert_eq!(run(&program.insns, &call), Action::KillProcess.code());
}

#[test]
fn comparisons_on_64_bits() {
    let values = [0, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, u64::MAX - 1, u64::MAX];
    type Holds = fn(u64, u64) -> bool;
    let compares: [(Compare, Holds); 7] = [
        (Compare::Eq, |a, v| a == v),
        (Compare::Ne, |a, v| a != v),
        (Compare::Lt, |a, v| a < v),
        (Compare::Le, |a, v| a <= v),
        (Compare::Gt, |a, v| a > v),
        (Compare::Ge, |a, v| a >= v),
        (Compare::MaskedEq(0xff_0000_000f), |a, v| a & 0xff_0000_000f == v),
    ];
    for (compare, holds) in compares {
        for value in values {
            let rule = Rule {
                names: vec!["read".into()],
                action: Action::Allow,
                conditions: vec![
                    Condition { index: 5, compare, value },
                    Condition { index: 0, compare: Compare::Eq, value: 7 },
                ],
                when: When::default(),
            };
            let profile = Profile { default: Action::Errno(1), rules: vec![rule], architectures: Architectures::All };
            let program = compile(&profile, &target(Arch::X86_64, &[])).unwrap();
            for argument in values {
                for first in [7, 8] {
                    let got = answer(&program, X86_64, Table::X86_64, "read", [first, 0, 0, 0, 0, argument]);
                    let want = if holds(argument, value) && first == 7 { ALLOW } else { EPERM };
                    assert_eq!(got, want, "{argument:#x} {compare:?} {value:#x}, first {first}");
                }
            }
        }
    }
}

#[test]
fn far_branches_lead_where_they_should() {
    // A test of an argument for every call: the search is far longer than one jump reaches.
    let names: std::collections::BTreeSet<String> = default_profile()
        .rules
        .into_iter()
        .flat_map(|r| r.names)
        .filter(|n| Table::X86_64.number(n).is_some())
        .step_by(3)
        .collect();
    let number = |name: &str| u64::from(Table::X86_64.number(name).unwrap());
    let rule = |name: &String| Rule {
        names: vec![name.clone()],
        action: Action::Allow,
        conditions: vec![Condition { index: 0, compare: Compare::Eq, value: number(name) }],
        when: When::default(),
    };
    let profile = Profile {
        default: Action::Errno(1),
        rules: names.iter().map(rule).collect(),
        architectures: Architectures::All,
    };
    let program = compile(&profile, &target(Arch::X86_64, &[])).unwrap();
    assert!(program.insns.len() > 1000, "{} instructions", program.insns.len());
    for name in &names {
        let ask = |argument| answer(&program, X86_64, Table::X86_64, name, [argument, 0, 0, 0, 0, 0]);
        assert_eq!(ask(number(name)), ALLOW, "{name}");
        assert_eq!(ask(number(name) + 1), EPERM, "{name}");
    }
}

#[test]
fn short_enough_for_every_call() {
    let program = compile(&default_profile(), &target(Arch::X86_64, &[])).unwrap();
    assert!(program.insns.len() < 500, "{} instructions", program.insns.len());
    assert_eq!(program.to_bytes().len(), program.insns.len() * 8);
}

#[test]
fn dockers_json() {
    let text = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read", "a_call_of_the_future"], "action": "SCMP_ACT_ALLOW"},
            {"name": "kill", "action": "SCMP_ACT_KILL_PROCESS", "args": null},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}],
             "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}}
        ]
    }"#;
    let program = compile(&parse(text).unwrap(), &target(Arch::X86_64, &[])).unwrap();
    let ask = |name: &str, args| answer(&program, X86_64, Table::X86_64, name, args);
    assert_eq!(ask("read", [0; 6]), ALLOW);
    assert_eq!(ask("kill", [0; 6]), Action::KillProcess.code());
    assert_eq!(ask("clone", [0x1000_0000, 0, 0, 0, 0, 0]), ENOSYS);
    assert_eq!(ask("clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(ask("mount", [0; 6]), ENOSYS);
}

#[test]
fn bad_profiles_name_their_field() {
    let rule = |inner: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{inner}]}}"#);
    for (text, part) in [
        ("".to_owned(), "Docker's format"),
        ("[]".to_owned(), "Docker's format"),
        (r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#.to_owned(), "defaultAction"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#.to_owned(), "flags"),
        (rule(r#"{"names":[],"action":"SCMP_ACT_ALLOW"}"#), "syscalls[0].names"),
        (rule(r#"{"names":["re ad"],"action":"SCMP_ACT_ALLOW"}"#), "syscalls[0].names"),
        (rule(r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#), "syscalls[0].action"),
        (rule(r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":5000}"#), "4095"),
        (
            rule(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}"#),
            "syscalls[0].args[0].index",
        ),
        (
            rule(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"=="}]}"#),
            "syscalls[0].args[0].op",
        ),
        (rule(r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"six"}}"#), "minKernel"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} should name {part:?}");
    }
}

#[test]
fn a_profile_says_by_which_architectures_one_calls() {
    let kill = Action::KillProcess.code();
    let admits = |keys: &str| {
        let profile = parse(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW"{keys}}}"#)).unwrap();
        let program = compile(&profile, &target(Arch::X86_64, &[])).unwrap();
        let by = |arch, table: Table| answer(&program, arch, table, "read", [0; 6]) == ALLOW;
        let tracer = run(&program.insns, &Call { number: u32::MAX, arch: X86_64, args: [0; 6] });
        assert_eq!(tracer, ALLOW, "a call that a tracer skips");
        [by(X86_64, Table::X86_64), by(X86_64, Table::X32), by(I386, Table::I386)]
    };
    assert_eq!(admits(""), [true, false, false], "the host's own alone");
    assert_eq!(admits(r#", "architectures": null, "archMap": null"#), [true, false, false]);
    assert_eq!(admits(r#", "architectures": ["SCMP_ARCH_X86"]"#), [true, false, true]);
    assert_eq!(
        admits(r#", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_S390X"]"#),
        [true, true, false]
    );
    let map = |of: &str| {
        format!(r#", "archMap": [{{"architecture": "{of}", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}}]"#)
    };
    assert_eq!(admits(&map("SCMP_ARCH_X86_64")), [true, true, true]);
    assert_eq!(admits(&map("SCMP_ARCH_AARCH64")), [true, false, false]);
    for (keys, says) in [
        (r#", "architectures": ["SCMP_ARCH_NOSUCH"]"#, "SCMP_ARCH_NOSUCH"),
        (r#", "architectures": ["X86"]"#, "architectures"),
        (r#", "archMap": [{"architecture": "amd64"}]"#, "archMap.architecture"),
        (r#", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]"#, "archMap"),
    ] {
        let error = parse(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW"{keys}}}"#)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // The default profile is for all of them.
    let program = compile(&default_profile(), &target(Arch::X86_64, &[])).unwrap();
    assert_ne!(answer(&program, I386, Table::I386, "read", [0; 6]), kill);
}

/// A rule's jumps are a byte each where they reach, and instructions of their own where not: both answer the same.
#[test]
fn rules_of_any_length_hold_in_every_condition() {
    for count in 1..90_u64 {
        for compare in [Compare::Ne, Compare::Lt, Compare::Le, Compare::Ge, Compare::Gt, Compare::MaskedEq(u64::MAX)] {
            // All hold for 1000 | 1 << 32, whatever their number.
            let value = |n: u64| match compare {
                Compare::Ne => n,
                Compare::Lt | Compare::Le => (1 << 33) + n,
                Compare::Ge | Compare::Gt => n,
                _ => 1000 | 1 << 32,
            };
            let condition = |n| Condition { index: (n % 6) as u8, compare, value: value(n) };
            let rule = Rule {
                names: vec!["read".into()],
                action: Action::Allow,
                conditions: (0..count).map(condition).collect(),
                when: When::default(),
            };
            let profile = Profile { default: Action::Errno(1), rules: vec![rule], architectures: Architectures::All };
            let program = compile(&profile, &target(Arch::X86_64, &[])).unwrap();
            let ask = |args| answer(&program, X86_64, Table::X86_64, "read", args);
            let held = [1000 | 1 << 32; 6];
            assert_eq!(ask(held), ALLOW, "{count} {compare:?}");
            for wrong in 0..(count.min(6) as usize) {
                let mut args = held;
                args[wrong] = match compare {
                    Compare::Ne => wrong as u64,
                    Compare::Lt | Compare::Le => u64::MAX,
                    Compare::Ge | Compare::Gt if wrong == 0 && count <= 6 && compare == Compare::Ge => continue,
                    Compare::Ge | Compare::Gt => 0,
                    _ => 1000,
                };
                assert_eq!(ask(args), EPERM, "{count} {compare:?} {wrong}");
            }
        }
    }
}
