//! System call numbers by architecture, and which 32-bit architectures go with a 64-bit one.

use std::str::FromStr;

/// An architecture that berth runs on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Arch {
    X86_64,
    Aarch64,
}

/// linux/audit.h, AUDIT_ARCH_*.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARM: u32 = 0x4000_0028;

/// x32 calls carry this bit and the audit architecture of x86_64 (asm/unistd.h, __X32_SYSCALL_BIT).
pub const X32_BIT: u32 = 0x4000_0000;

/// Calls that have numbers of their own under x32 (arch/x86/entry/syscalls/syscall_64.tbl, from 512 on).
const X32_OWN: &[(&str, u32)] = &[
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("process_vm_readv", 537),
    ("process_vm_writev", 538),
    ("setsockopt", 539),
    ("getsockopt", 540),
    ("io_setup", 541),
    ("io_submit", 542),
    ("execveat", 543),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// One system call table that a process of the host may enter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Table {
    X86_64,
    X32,
    I386,
    Aarch64,
    Arm,
}

impl Arch {
    /// The architecture this binary was built for.
    pub const fn native() -> Option<Arch> {
        if cfg!(target_arch = "x86_64") {
            Some(Arch::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Arch::Aarch64)
        } else {
            None
        }
    }

    pub const fn go_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        }
    }

    /// What a 64-bit process calls by.
    pub const fn own_table(self) -> Table {
        match self {
            Arch::X86_64 => Table::X86_64,
            Arch::Aarch64 => Table::Aarch64,
        }
    }

    /// Audit architectures with the tables behind them; x32 shares x86_64's.
    pub const fn tables(self) -> &'static [(u32, &'static [Table])] {
        match self {
            Arch::X86_64 => &[(AUDIT_X86_64, &[Table::X86_64, Table::X32]), (AUDIT_I386, &[Table::I386])],
            Arch::Aarch64 => &[(AUDIT_AARCH64, &[Table::Aarch64]), (AUDIT_ARM, &[Table::Arm])],
        }
    }
}

/// Architectures that libseccomp knows and no host of ours has (seccomp_arch_add(3)): a profile may name them.
const FOREIGN: [&str; 18] = [
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PPC",
    "PPC64",
    "PPC64LE",
    "S390",
    "S390X",
    "PARISC",
    "PARISC64",
    "RISCV64",
    "LOONGARCH64",
    "M68K",
    "SH",
    "SHEB",
];

impl Table {
    const ALL: [Table; 5] = [Table::X86_64, Table::X32, Table::I386, Table::Aarch64, Table::Arm];

    /// As profiles write it.
    pub const fn scmp_name(self) -> &'static str {
        match self {
            Table::X86_64 => "SCMP_ARCH_X86_64",
            Table::X32 => "SCMP_ARCH_X32",
            Table::I386 => "SCMP_ARCH_X86",
            Table::Aarch64 => "SCMP_ARCH_AARCH64",
            Table::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// `Some(None)`: an architecture that hosts of ours never have. `None`: no architecture.
    pub fn from_scmp(name: &str) -> Option<Option<Table>> {
        let known = Table::ALL.into_iter().find(|t| t.scmp_name() == name);
        let foreign = || name.strip_prefix("SCMP_ARCH_").is_some_and(|n| FOREIGN.contains(&n));
        if known.is_some() || foreign() { Some(known) } else { None }
    }

    /// Every name that [`Table::from_scmp`] takes.
    pub fn scmp_names() -> Vec<String> {
        let ours = Table::ALL.iter().map(|table| table.scmp_name().to_owned());
        ours.chain(FOREIGN.iter().map(|name| format!("SCMP_ARCH_{name}"))).collect()
    }

    /// The number of a call as the kernel gives it to the filter; `None`: this table has no such call.
    pub fn number(self, name: &str) -> Option<u32> {
        match self {
            Table::X86_64 => x86_64(name),
            Table::X32 => match X32_OWN.iter().find(|(own, _)| *own == name) {
                Some(&(_, number)) => Some(number | X32_BIT),
                None => x86_64(name).map(|n| n | X32_BIT),
            },
            Table::I386 => parsed::<syscalls::x86::Sysno>(name),
            Table::Aarch64 => parsed::<syscalls::aarch64::Sysno>(name),
            Table::Arm => parsed::<syscalls::arm::Sysno>(name),
        }
    }

    /// Is `name` a system call of any table? Tells a name for another architecture from a typing mistake.
    pub fn any_has(name: &str) -> bool {
        [Table::X86_64, Table::I386, Table::Aarch64, Table::Arm].iter().any(|t| t.number(name).is_some())
    }
}

fn x86_64(name: &str) -> Option<u32> {
    parsed::<syscalls::x86_64::Sysno>(name)
}

trait Number {
    fn number(&self) -> u32;
}

macro_rules! numbers {
    ($($arch:ident)*) => {$(
        impl Number for syscalls::$arch::Sysno {
            fn number(&self) -> u32 {
                self.id() as u32
            }
        }
    )*};
}
numbers!(x86_64 x86 aarch64 arm);

fn parsed<S: FromStr + Number>(name: &str) -> Option<u32> {
    S::from_str(name).ok().map(|s| s.number())
}
