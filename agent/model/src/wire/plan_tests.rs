use super::*;

fn bytes(s: &str) -> Bytes<'static> {
    s.as_bytes().to_vec().into()
}

fn sample() -> Plan<'static> {
    Plan {
        id: bytes("c0ffee"),
        namespaces: 0x7c02_0000,
        join_pid: Some(9),
        fds: Fds { log: Some(1), run: None, listener: Some(2), attach: None, cgroup: Some(255), slice: Some(3) },
        tty: true,
        stdin: false,
        stdin_once: true,
        size: Some((24, 80)),
        log: Some(LogPlan {
            max_file_bytes: 1,
            max_files: 2,
            name: b"log".as_slice().into(),
            json: Some(b"{}".as_slice().into()),
        }),
        init: true,
        args: vec![bytes("/bin/sh"), bytes("")],
        env: vec![bytes("A=b")],
        userns: Some(8),
        runtime: Some(Foreign {
            pid_file: Some(bytes("/run/b/pid")),
            console: Some(7),
            group: None,
            start: Some(Box::new(Plan { args: vec![bytes("start")], ..Plan::default() })),
        }),
        outside: vec![
            Step::OwnStreams { uid: 300_000, gid: 300_001 },
            Step::OwnNull,
            Step::RaiseLimit { resource: 7, hard: 9 },
            Step::KernelTree { slot: 3, fs_type: bytes("sysfs"), read_only: true },
            Step::DeviceTree {
                slot: 4,
                data: vec![(bytes("mode"), bytes("755"))],
                uid: 1,
                gid: 2,
                nodes: vec![Node {
                    path: bytes("null"),
                    block: false,
                    mode: 0o666,
                    major: 1,
                    minor: 3,
                    uid: 3,
                    gid: 4,
                }],
                pick: true,
            },
        ],
        steps: vec![
            Step::HostView { folder: bytes("/run/b"), without: vec![bytes("/sys/x")] },
            Step::PinNamespace { fd: 4, target: bytes("/run/b/net") },
            Step::HostFolder { path: bytes("/run/b") },
            Step::JoinCgroup { fd: 3 },
            Step::EnterNamespace { fd: 4, kinds: 5 },
            Step::Unshare { flags: 6 },
            Step::OpenTree {
                slot: 1,
                source: bytes("/src"),
                recursive: true,
                read_only: false,
                propagation: 9,
                nosuid_nodev: true,
                top_only: true,
                idmap: true,
            },
            Step::EnterRoot { fd: 0 },
            Step::OwnProc { slot: 7 },
            Step::BecomeRoot,
            Step::Mount {
                fs_type: bytes("proc"),
                source: bytes("proc"),
                target: bytes("/proc"),
                flags: 14,
                data: bytes(""),
                optional: false,
            },
            Step::Tmpfs { target: bytes("/t"), flags: 1, data: bytes("size=1") },
            Step::AttachTree { slot: 1, target: bytes("/dst") },
            Step::Directory { path: bytes("/d"), mode: 0o755 },
            Step::Device { path: bytes("/dev/null"), block: false, mode: 0o666, major: 1, minor: 3, uid: 0, gid: 0 },
            Step::Symlink { path: bytes("/l"), target: bytes("/t") },
            Step::Terminal { console: true },
            Step::Mask { paths: vec![bytes("/proc/kcore")], label: bytes("u:o:f_t:s0:c1,c2") },
            Step::ProcessLabel { label: bytes("u:r:t:s0:c1,c2"), now: true },
            Step::FileLabel { path: bytes("/dev/mqueue"), label: bytes("u:o:f_t") },
            Step::ReadOnlyPaths { paths: vec![] },
            Step::ReadOnlyRoot,
            Step::WriteFile { path: bytes("/proc/sys/x"), value: bytes("1") },
            Step::Hostname { name: bytes("h") },
            Step::Domainname { name: bytes("d") },
            Step::Rlimit { resource: 7, soft: 1, hard: u64::MAX },
            Step::Workdir { path: bytes("/w"), create: true },
            Step::Identity { uid: 1, gid: 2, groups: vec![3, 4], capabilities: 5 },
            Step::NoNewPrivileges,
            Step::Seccomp { program: bytes("12345678") },
            Step::Umask { mask: 0o22 },
            Step::Profile { name: bytes("p"), now: true },
            Step::Landlock { rights: 0xffff, scopes: 3 },
            Step::AttachGiven { fd: 9, target: bytes("/data") },
        ],
    }
}

#[test]
fn a_plan_comes_back_as_it_went() {
    let plan = sample();
    assert_eq!(Plan::decode(&plan.encode()), Ok(plan));
    let empty = Plan::default();
    assert_eq!(Plan::decode(&empty.encode()), Ok(empty));
}

#[test]
fn every_cut_is_an_error() {
    let whole = sample().encode();
    for len in 0..whole.len() {
        assert!(Plan::decode(&whole[..len]).is_err(), "{len}");
    }
}

/// Every byte of a plan turned into every extreme: an error or another plan that encodes to the same bytes, never a panic.
#[test]
fn changed_bytes_never_panic() {
    let whole = sample().encode();
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            if let Ok(plan) = Plan::decode(&changed) {
                assert_eq!(plan.encode(), changed);
            }
        }
    }
}

#[test]
fn counts_that_lie_allocate_nothing() {
    let mut bytes = Plan::default().encode();
    // Behind the number of steps is that there is no other runtime.
    let at = bytes.len() - 5;
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Plan::decode(&bytes), Err(WireError::Count(u32::MAX)));
}

#[test]
fn a_second_command_has_no_further_one() {
    let third = Plan { runtime: Some(Foreign::default()), ..Plan::default() };
    let runtime = Some(Foreign { start: Some(Box::new(third)), ..Foreign::default() });
    assert_eq!(Plan::decode(&Plan { runtime, ..Plan::default() }.encode()), Err(WireError::Value(1)));
}
