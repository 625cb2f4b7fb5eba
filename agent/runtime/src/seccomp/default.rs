//! Docker's default profile: what it allows always, and what only with a capability. The list is moby's
//! (github.com/moby/profiles, seccomp/default.json) as of June 2026, for the architectures that berth runs on.

use super::{Action, Architectures, Compare, Condition, Profile, Rule, When};

/// Allowed without any condition.
const ALWAYS: &str = "
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32
getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr
mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg
sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32
setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink
unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Allowed when the container has the capability.
const WITH: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Allowed on these hosts only (Go's names).
const ON: &[(&[&str], &str)] = &[
    (&["arm", "arm64"], "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    (&["amd64", "x32"], "arch_prctl"),
    (&["amd64", "x32", "x86"], "modify_ldt"),
];

/// personality(2): PER_LINUX, PER_LINUX32, UNAME26 over each, and the question.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

/// socket(2): families that are not given (linux/socket.h). No program of today needs DECnet, Econet, ATM's SVCs, IrDA, WANPIPE, ISDN and CAIF, and a
/// container would have a module of the kernel's loaded for them. AF_ALG (38) is the kernel's cryptography, which programs have in libraries of their
/// own: a way into the kernel (CVE-2026-31431). AF_VSOCK (40) leads past the container's network namespace to the hypervisor. By socketcall(2), which
/// 32-bit programs have, a filter cannot tell, as the family is behind a pointer; AppArmor's profile can.
const NOT_GIVEN: [u64; 9] = [12, 19, 20, 23, 25, 34, 37, 38, 40];
/// AF_MCTP; nobody has looked at what is newer.
const NEWEST_FAMILY: u64 = 45;

/// clone(2): CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// ptrace(2) cannot get around a filter since this kernel.
const PTRACE_SAFE: (u32, u32) = (4, 8);

const ENOSYS: u16 = 38;
const EPERM: u16 = 1;

fn names(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

fn allow(list: &str, when: When) -> Rule {
    Rule { names: names(list), action: Action::Allow, conditions: Vec::new(), when }
}

fn allow_if(name: &str, compare: Compare, value: u64, when: When) -> Rule {
    Rule { names: names(name), action: Action::Allow, conditions: vec![Condition { index: 0, compare, value }], when }
}

pub(super) fn profile() -> Profile {
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let without_admin = || When { not_caps: strings(&["CAP_SYS_ADMIN"]), ..When::default() };

    let mut rules = vec![allow(ALWAYS, When::default())];
    rules.push(allow(
        "process_vm_readv process_vm_writev ptrace",
        When { min_kernel: Some(PTRACE_SAFE), ..When::default() },
    ));
    // The first rule whose condition holds.
    for family in NOT_GIVEN {
        let refused = allow_if("socket", Compare::Eq, family, When::default());
        rules.push(Rule { action: Action::Errno(EPERM), ..refused });
    }
    rules.push(allow_if("socket", Compare::Le, NEWEST_FAMILY, When::default()));
    rules.extend(PERSONALITIES.iter().map(|&p| allow_if("personality", Compare::Eq, p, When::default())));
    rules.extend(ON.iter().map(|(arches, list)| allow(list, When { arches: strings(arches), ..When::default() })));
    rules.extend(WITH.iter().map(|(cap, list)| allow(list, When { caps: strings(&[cap]), ..When::default() })));
    rules.push(allow_if("clone", Compare::MaskedEq(CLONE_NAMESPACES), 0, without_admin()));
    // clone3's flags are behind a pointer that a filter cannot read: "not there" makes libc fall back to clone.
    rules.push(Rule {
        names: names("clone3"),
        action: Action::Errno(ENOSYS),
        conditions: Vec::new(),
        when: without_admin(),
    });
    Profile { default: Action::Errno(EPERM), rules, architectures: Architectures::All }
}
