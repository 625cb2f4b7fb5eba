//! Seccomp profiles: Docker's default and profiles in Docker's JSON, compiled to classic BPF.
//!
//! `default::profile()` or `json::parse` gives a [`Profile`]; [`compile`] turns it into a [`Program`] for one set of
//! capabilities and one host. Nothing here touches the kernel: the program is loaded by the container's init through
//! `sys::seccomp`.

mod bpf;
mod default;
mod json;
pub mod machine;
mod oci;
mod tables;

pub use bpf::{Insn, Program};
pub use json::parse;
pub use oci::to_oci;
pub use tables::Arch;
pub use tables::Table;

use std::collections::BTreeSet;

/// What is wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp profile is no JSON of Docker's format: {0}")]
    Json(String),
    #[error("seccomp profile: {field}: {message}")]
    Field { field: String, message: String },
    #[error("seccomp profile compiles to {0} instructions; the kernel takes 4096 (seccomp(2))")]
    TooLong(usize),
    #[error(
        "seccomp profile: the rules for {0} depend on their order, which other runtimes do not keep: write one for each value of its argument"
    )]
    Ordered(String),
    #[error("seccomp profiles are not available on this processor architecture")]
    Unsupported,
}

/// What happens to a system call (seccomp(2), "SECCOMP_RET_*").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    KillThread,
    KillProcess,
    Trap,
    /// Fails with this errno.
    Errno(u16),
    Trace(u16),
    Log,
    Allow,
}

impl Action {
    /// The value that the filter returns (linux/seccomp.h).
    pub const fn code(self) -> u32 {
        match self {
            Action::KillThread => 0,
            Action::KillProcess => 0x8000_0000,
            Action::Trap => 0x0003_0000,
            Action::Errno(errno) => 0x0005_0000 | errno as u32,
            Action::Trace(data) => 0x7ff0_0000 | data as u32,
            Action::Log => 0x7ffc_0000,
            Action::Allow => 0x7fff_0000,
        }
    }
}

/// How an argument is compared, as libseccomp names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compare {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    /// `argument & mask == value`
    MaskedEq(u64),
}

/// One condition on an argument; a rule's conditions must all hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Condition {
    /// 0 to 5.
    pub index: u8,
    pub compare: Compare,
    pub value: u64,
}

/// When a rule counts at all.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct When {
    /// Capabilities (`CAP_…`) of the container: all are needed (`caps`), none may be there (`not_caps`).
    pub caps: Vec<String>,
    pub not_caps: Vec<String>,
    /// Go's names of the host's architecture; empty: any.
    pub arches: Vec<String>,
    pub not_arches: Vec<String>,
    /// Kernel version, major and minor.
    pub min_kernel: Option<(u32, u32)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rule {
    pub names: Vec<String>,
    pub action: Action,
    pub conditions: Vec<Condition>,
    pub when: When,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Profile {
    /// For every call that no rule names.
    pub default: Action,
    pub rules: Vec<Rule>,
    pub architectures: Architectures,
}

/// By which tables a container's processes may call. By another one they are killed, as libseccomp does it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Architectures {
    /// All that the host's processes can.
    #[default]
    All,
    /// The host's own, and these.
    Named(Vec<Table>),
    /// The host's own, and those that stand behind it.
    ByHost(Vec<(Table, Vec<Table>)>),
}

impl Architectures {
    fn admit(&self, table: Table, target: &Target) -> bool {
        let own = target.arch.own_table();
        table == own
            || match self {
                Architectures::All => true,
                Architectures::Named(named) => named.contains(&table),
                Architectures::ByHost(hosts) => hosts.iter().any(|(host, subs)| *host == own && subs.contains(&table)),
            }
    }
}

/// What a profile is compiled for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    pub arch: Arch,
    /// Capabilities of the container's bounding set, `CAP_…`.
    pub caps: BTreeSet<String>,
    /// Kernel version, major and minor.
    pub kernel: (u32, u32),
}

impl When {
    fn holds(&self, target: &Target) -> bool {
        let arch = target.arch.go_name();
        self.caps.iter().all(|c| target.caps.contains(c))
            && !self.not_caps.iter().any(|c| target.caps.contains(c))
            && (self.arches.is_empty() || self.arches.iter().any(|a| a == arch))
            && !self.not_arches.iter().any(|a| a == arch)
            && self.min_kernel.is_none_or(|least| target.kernel >= least)
    }
}

/// Docker's default profile.
pub fn default_profile() -> Profile {
    default::profile()
}

/// The program of `profile` for `target`. Names that an architecture has not are skipped there, as Docker does.
pub fn compile(profile: &Profile, target: &Target) -> Result<Program, SeccompError> {
    bpf::compile(profile, target)
}

/// Why nothing can be started behind this program, if so: it is loaded before the execve(2) of the container's command, which ends there, by a
/// signal and without a word. Of that call's arguments a filter sees addresses alone, which say nothing: these stand for any.
pub fn refuses_execve(program: &Program, arch: Arch) -> Option<String> {
    const SOMEWHERE: u64 = 0x5555_5555_0000;
    let own = arch.own_table();
    let (audit, _) = arch.tables().iter().find(|(_, tables)| tables.contains(&own))?;
    let call = machine::Call { number: own.number("execve")?, arch: *audit, args: [SOMEWHERE; 6] };
    let answer = machine::run(&program.insns, &call);
    let (action, data) = (answer & 0xffff_0000, answer & 0xffff);
    let what = if [Action::Allow.code(), Action::Log.code()].contains(&action) {
        return None;
    } else if action == Action::Errno(0).code() {
        format!("fails with {}", std::io::Error::from_raw_os_error(data as i32))
    } else if action == Action::Trace(0).code() {
        "waits for a tracer, which is not there".to_owned()
    } else {
        "ends it with SIGSYS".to_owned()
    };
    Some(format!("the profile lets the container start no program: execve {what}; allow execve in the profile"))
}

#[cfg(test)]
mod tests;
