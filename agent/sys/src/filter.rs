//! Seccomp programs for berth's own processes that serve strangers: the calls that such a process makes, and nothing else.
//!
//! What is not named does not exist for it (ENOSYS: a C library that tries a newer call falls back to an older one). What only somebody
//! makes who has taken the process over ends it at once.

use std::io;

/// A system call, by its number on this architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call(libc::c_long);

/// What has to hold for one argument of a call: of these bits it has one of these values. Arguments count from 0; of each the lower 32 bits are
/// looked at, which is all that the kernel takes of an `int`.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    pub argument: u8,
    pub mask: u32,
    pub values: &'static [u32],
}

/// A call that may be made, as long as all tests hold.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    call: Call,
    tests: &'static [Test],
}

impl Call {
    pub const fn always(self) -> Rule {
        Rule { call: self, tests: &[] }
    }

    pub const fn when(self, tests: &'static [Test]) -> Rule {
        Rule { call: self, tests }
    }
}

macro_rules! calls {
    ($($name:ident = $number:ident),* $(,)?) => { $(pub const $name: Call = Call(libc::$number);)* };
}

calls! {
    ACCEPT4 = SYS_accept4,
    BIND = SYS_bind,
    CONNECT = SYS_connect,
    FTRUNCATE = SYS_ftruncate,
    GETDENTS64 = SYS_getdents64,
    GETRANDOM = SYS_getrandom,
    GETSOCKNAME = SYS_getsockname,
    GETSOCKOPT = SYS_getsockopt,
    IOCTL = SYS_ioctl,
    LINKAT = SYS_linkat,
    LISTEN = SYS_listen,
    PIDFD_SEND_SIGNAL = SYS_pidfd_send_signal,
    PREAD64 = SYS_pread64,
    PWRITE64 = SYS_pwrite64,
    RECVFROM = SYS_recvfrom,
    RECVMMSG = SYS_recvmmsg,
    RECVMSG = SYS_recvmsg,
    RENAMEAT2 = SYS_renameat2,
    SENDMSG = SYS_sendmsg,
    SENDTO = SYS_sendto,
    SETSOCKOPT = SYS_setsockopt,
    SOCKET = SYS_socket,
    UNLINKAT = SYS_unlinkat,
    WAIT4 = SYS_wait4,
}

/// Set the size of a terminal (ioctl(2)).
pub const TERMINAL_SIZE: u32 = libc::TIOCSWINSZ as u32;
/// Ask for the number of an interface.
pub const INTERFACE_INDEX: u32 = libc::SIOCGIFINDEX as u32;

/// socket(2) of the Internet's two families, for datagrams and streams.
pub const INTERNET: &[Test] = &[
    Test { argument: 0, mask: u32::MAX, values: &[libc::AF_INET as u32, libc::AF_INET6 as u32] },
    Test { argument: 1, mask: 0xf, values: &[libc::SOCK_STREAM as u32, libc::SOCK_DGRAM as u32] },
    Test { argument: 2, mask: u32::MAX, values: &[0] },
];

/// No page of memory is executed that was not when the process began.
const NO_CODE: &[Test] = &[Test { argument: 2, mask: libc::PROT_EXEC as u32, values: &[0] }];
/// Neither locks nor leases, and no signals to others (F_SETOWN).
const OWN_DESCRIPTOR: &[Test] = &[Test {
    argument: 1,
    mask: u32::MAX,
    values: &[libc::F_GETFD as u32, libc::F_SETFD as u32, libc::F_DUPFD_CLOEXEC as u32],
}];
/// Waiting for many descriptors, as C libraries do it.
pub const EPOLL: &[Rule] = &[
    call(libc::SYS_epoll_create1),
    call(libc::SYS_epoll_ctl),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_epoll_wait),
    call(libc::SYS_epoll_pwait),
];

const fn call(number: libc::c_long) -> Rule {
    Call(number).always()
}

/// What every program does: memory, open files, clocks, its own signals and its end.
pub const COMMON: &[Rule] = &[
    call(libc::SYS_read),
    call(libc::SYS_readv),
    call(libc::SYS_write),
    call(libc::SYS_writev),
    call(libc::SYS_close),
    call(libc::SYS_openat),
    // musl still opens and looks by these.
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_open),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_stat),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_lstat),
    call(libc::SYS_lseek),
    call(libc::SYS_fstat),
    call(libc::SYS_newfstatat),
    call(libc::SYS_statx),
    Call(libc::SYS_fcntl).when(OWN_DESCRIPTOR),
    #[cfg(target_arch = "x86_64")]
    call(libc::SYS_poll),
    call(libc::SYS_ppoll),
    call(libc::SYS_brk),
    Call(libc::SYS_mmap).when(NO_CODE),
    Call(libc::SYS_mprotect).when(NO_CODE),
    call(libc::SYS_mremap),
    call(libc::SYS_munmap),
    call(libc::SYS_madvise),
    call(libc::SYS_futex),
    call(libc::SYS_clock_gettime),
    call(libc::SYS_getpid),
    call(libc::SYS_gettid),
    call(libc::SYS_rt_sigaction),
    call(libc::SYS_rt_sigprocmask),
    call(libc::SYS_rt_sigreturn),
    call(libc::SYS_sigaltstack),
    call(libc::SYS_restart_syscall),
    call(libc::SYS_exit),
    call(libc::SYS_exit_group),
];

/// Calls that end the process. They make others of it, look into others, or change the host.
const DEADLY: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

// linux/seccomp.h
const KILL_PROCESS: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = 0x0005_0000 | libc::ENOSYS as u32;

/// AUDIT_ARCH_* (linux/audit.h) of this program, where it is known.
const ARCH: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

// linux/bpf_common.h, and the places in struct seccomp_data.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// A program in the kernel's form.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn len(&self) -> usize {
        self.0.len() / crate::seccomp::INSTRUCTION
    }

    fn put(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.0.extend_from_slice(&code.to_ne_bytes());
        self.0.extend_from_slice(&[jt, jf]);
        self.0.extend_from_slice(&k.to_ne_bytes());
    }

    fn end(&mut self, answer: u32) {
        self.put(RETURN, 0, 0, answer);
    }

    /// Behind the load of the number: what is answered to calls of these segments, each by its first number. A binary search, as the kernel walks
    /// through the program for every call there is when it is loaded.
    fn search(&mut self, segments: &[(u32, Verdict)]) -> io::Result<()> {
        if let [(_, verdict)] = segments {
            self.decide(verdict);
            return Ok(());
        }
        let (low, high) = segments.split_at(segments.len() / 2);
        let at = self.0.len();
        self.put(JUMP_AT_LEAST, 0, 0, high.first().map_or(0, |(first, _)| *first));
        let before = self.len();
        self.search(low)?;
        // struct sock_filter: jt is its third byte.
        self.0[at + 2] = u8::try_from(self.len() - before).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.search(high)
    }

    fn decide(&mut self, verdict: &Verdict) {
        let Verdict::If(tests) = verdict else {
            return self.end(if matches!(verdict, Verdict::Kill) { KILL_PROCESS } else { REFUSE });
        };
        for test in *tests {
            let low = if cfg!(target_endian = "little") { 0 } else { 4 };
            self.put(LOAD, 0, 0, ARGUMENTS_AT + 8 * u32::from(test.argument) + low);
            self.put(AND, 0, 0, test.mask);
            for (i, value) in test.values.iter().enumerate() {
                // Over the other values and the refusal.
                self.put(JUMP_EQUAL, (test.values.len() - i) as u8, 0, *value);
            }
            self.end(REFUSE);
        }
        self.end(ALLOW);
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    If(&'static [Test]),
    Kill,
    Refuse,
}

/// From here on this thread makes these calls, those of [`COMMON`], and no others. It has CAP_SYS_ADMIN or no_new_privs. On a kernel without
/// filters, where no container has one either, nothing happens.
///
/// # Errors
/// As seccomp(2).
pub fn keep_to(rules: &[&[Rule]]) -> io::Result<()> {
    let Some(arch) = ARCH else { return Ok(()) };
    match crate::seccomp::load(&program(arch, rules)?) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        other => other,
    }
}

/// # Errors
/// `InvalidInput`: too long for its jumps.
fn program(arch: u32, rules: &[&[Rule]]) -> io::Result<Vec<u8>> {
    let allowed =
        COMMON.iter().chain(rules.iter().copied().flatten()).map(|rule| (rule.call.0 as u32, Verdict::If(rule.tests)));
    let mut calls: Vec<(u32, Verdict)> =
        allowed.chain(DEADLY.iter().map(|number| (*number as u32, Verdict::Kill))).collect();
    calls.sort_unstable_by_key(|(number, _)| *number);
    // Gaps between them are refused.
    let mut segments = Vec::with_capacity(2 * calls.len() + 1);
    let mut next = 0;
    for (number, verdict) in calls {
        if number > next {
            segments.push((next, Verdict::Refuse));
        }
        segments.push((number, verdict));
        next = number + 1;
    }
    segments.push((next, Verdict::Refuse));
    let mut code = Code(Vec::with_capacity(256 * crate::seccomp::INSTRUCTION));
    code.put(LOAD, 0, 0, ARCH_AT);
    code.put(JUMP_EQUAL, 1, 0, arch);
    code.end(KILL_PROCESS);
    code.put(LOAD, 0, 0, NUMBER_AT);
    code.search(&segments)?;
    Ok(code.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const RULES: &[Rule] = &[
        SOCKET.when(INTERNET),
        IOCTL.when(&[Test { argument: 1, mask: u32::MAX, values: &[INTERFACE_INDEX] }]),
        WAIT4.always(),
    ];

    /// What a program answers to a call, as the kernel would run it.
    fn answer(program: &[u8], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let steps: Vec<(u16, usize, usize, u32)> = program
            .chunks_exact(8)
            .map(|c| {
                let code = u16::from_ne_bytes([c[0], c[1]]);
                (code, c[2].into(), c[3].into(), u32::from_ne_bytes([c[4], c[5], c[6], c[7]]))
            })
            .collect();
        let word = |at: u32| match at {
            NUMBER_AT => number,
            ARCH_AT => arch,
            at => (arguments[(at - ARGUMENTS_AT) as usize / 8] >> (8 * (at % 8))) as u32,
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let (code, yes, no, k) = steps[at];
            let jump = |holds: bool| if holds { yes } else { no };
            at += 1;
            match code {
                LOAD => value = word(k),
                AND => value &= k,
                JUMP_EQUAL => at += jump(value == k),
                JUMP_AT_LEAST => at += jump(value >= k),
                RETURN => return k,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn what_is_named_is_let_through_and_nothing_else() {
        let arch = ARCH.expect("an architecture with filters");
        let program = program(arch, &[RULES]).unwrap();
        let of = |number, arguments| answer(&program, arch, number, arguments);
        let number = |call: &Rule| call.call.0 as u32;
        let free: BTreeSet<u32> = COMMON.iter().chain(RULES).filter(|r| r.tests.is_empty()).map(number).collect();
        let tested: BTreeSet<u32> = COMMON.iter().chain(RULES).filter(|r| !r.tests.is_empty()).map(number).collect();
        let deadly: BTreeSet<u32> = DEADLY.iter().map(|n| *n as u32).collect();
        assert_eq!(free.len() + tested.len() + deadly.len(), COMMON.len() + RULES.len() + DEADLY.len(), "one twice");
        for call in (0..1000).chain([0x4000_0000, 0x4000_003b, u32::MAX]).filter(|c| !tested.contains(c)) {
            let right = match (free.contains(&call), deadly.contains(&call)) {
                (true, _) => ALLOW,
                (_, true) => KILL_PROCESS,
                _ => REFUSE,
            };
            assert_eq!(of(call, [u64::MAX; 6]), right, "{call}");
        }
        assert_eq!(answer(&program, arch ^ 1, libc::SYS_read as u32, [0; 6]), KILL_PROCESS);
        assert!(program.len() / 8 < 256, "{}", program.len() / 8);
    }

    #[test]
    fn arguments_decide() {
        let arch = ARCH.expect("an architecture with filters");
        let program = program(arch, &[RULES]).unwrap();
        let of = |call: libc::c_long, arguments: [i32; 3]| {
            let [a, b, c] = arguments.map(|n| n as u64);
            answer(&program, arch, call as u32, [a, b, c, 7, 7, 7]) == ALLOW
        };
        let socket = |family, kind, protocol| of(libc::SYS_socket, [family, kind, protocol]);
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        assert!(socket(libc::AF_INET, libc::SOCK_DGRAM | flags, 0) && socket(libc::AF_INET6, libc::SOCK_STREAM, 0));
        assert!(!socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) && !socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0));
        assert!(!socket(libc::AF_INET, libc::SOCK_RAW, 0) && !socket(libc::AF_INET6, libc::SOCK_SEQPACKET, 0));
        assert!(!socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP));
        assert!(!socket(libc::AF_NETLINK, libc::SOCK_DGRAM, 0));
        let map = |protection| of(libc::SYS_mmap, [0, 4096, protection]);
        assert!(map(libc::PROT_READ | libc::PROT_WRITE) && !map(libc::PROT_READ | libc::PROT_EXEC));
        assert!(!of(libc::SYS_mprotect, [0, 4096, libc::PROT_EXEC]));
        let index = libc::SIOCGIFINDEX as i32;
        assert!(of(libc::SYS_ioctl, [3, index, 0]) && !of(libc::SYS_ioctl, [index, libc::TIOCSTI as i32, 0]));
        assert!(of(libc::SYS_fcntl, [3, libc::F_DUPFD_CLOEXEC, 0]) && !of(libc::SYS_fcntl, [3, libc::F_SETOWN, 0]));
    }

    /// On a thread of its own, as it holds for the thread alone.
    #[test]
    fn the_kernel_keeps_to_it() {
        let refused = std::thread::spawn(|| {
            crate::process::set_no_new_privileges().unwrap();
            keep_to(&[&[SOCKET.when(INTERNET)], EPOLL]).unwrap();
            // SAFETY: takes numbers only; neither makes anything.
            let unix = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0) };
            let error = io::Error::last_os_error();
            // SAFETY: as above; its descriptor is nobody else's.
            let internet = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) };
            (unix, error.raw_os_error(), internet >= 0, std::fs::create_dir("/tmp/not-made").is_err())
        });
        assert_eq!(refused.join().unwrap(), (-1, Some(libc::ENOSYS), true, true));
    }
}
