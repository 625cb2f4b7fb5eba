//! Profiles in Docker's JSON format (docs.docker.com, "Seccomp security profiles").

use super::tables::Table;
use super::{Action, Architectures, Compare, Condition, Profile, Rule, SeccompError, When};
use serde::Deserialize;

/// Bytes of a profile at most; Docker's own is 13 KB.
const MAX_BYTES: usize = 1 << 20;
/// Rules of a profile at most.
const MAX_RULES: usize = 4096;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<SubArchitectures>>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default, rename = "listenerPath")]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Vec<Syscall>,
}

/// Which architectures go with which one of the host.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SubArchitectures {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Syscall {
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

fn wrong(field: impl Into<String>, message: impl Into<String>) -> SeccompError {
    SeccompError::Field { field: field.into(), message: message.into() }
}

/// Parses a profile. Unknown keys, actions, operators and misspelt calls are errors that name the field.
pub fn parse(text: &str) -> Result<Profile, SeccompError> {
    if text.len() > MAX_BYTES {
        return Err(SeccompError::Json(format!("{} bytes; at most {MAX_BYTES}", text.len())));
    }
    let file: File = serde_json::from_str(text).map_err(|e| SeccompError::Json(e.to_string()))?;
    if let Some(flag) = file.flags.first() {
        return Err(wrong("flags", format!("{flag:?} is not supported")));
    }
    if file.listener_path.is_some() {
        return Err(wrong("listenerPath", "user notification is not supported"));
    }
    if file.syscalls.len() > MAX_RULES {
        return Err(wrong("syscalls", format!("{} rules; at most {MAX_RULES}", file.syscalls.len())));
    }
    let architectures = architectures(&file.architectures.unwrap_or_default(), file.arch_map.unwrap_or_default())?;
    let default = action("defaultAction", &file.default_action, file.default_errno_ret)?;
    let rules = file
        .syscalls
        .into_iter()
        .enumerate()
        .map(|(i, s)| rule(&format!("syscalls[{i}]"), s))
        .collect::<Result<_, _>>()?;
    Ok(Profile { default, rules, architectures })
}

/// What libseccomp makes of them: without either one there is the host's own alone.
fn architectures(named: &[String], map: Vec<SubArchitectures>) -> Result<Architectures, SeccompError> {
    let table = |field: &str, name: &str| {
        Table::from_scmp(name)
            .ok_or_else(|| wrong(field, format!("{name:?} is no architecture, such as SCMP_ARCH_X86_64")))
    };
    let tables = |field: &str, names: &[String]| -> Result<Vec<Table>, SeccompError> {
        names.iter().filter_map(|name| table(field, name).transpose()).collect()
    };
    if !named.is_empty() && !map.is_empty() {
        return Err(wrong("archMap", "does not go with architectures: say one of them"));
    }
    if map.is_empty() {
        return Ok(Architectures::Named(tables("architectures", named)?));
    }
    let mut hosts = Vec::new();
    for entry in map {
        let subs = tables("archMap.subArchitectures", &entry.sub_architectures.unwrap_or_default())?;
        hosts.extend(table("archMap.architecture", &entry.architecture)?.map(|host| (host, subs)));
    }
    Ok(Architectures::ByHost(hosts))
}

fn rule(at: &str, syscall: Syscall) -> Result<Rule, SeccompError> {
    let mut names = syscall.names;
    names.extend(syscall.name);
    if names.is_empty() {
        return Err(wrong(format!("{at}.names"), "is empty"));
    }
    let well_formed = |n: &str| {
        (1..=64).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if let Some(bad) = names.iter().find(|n| !well_formed(n)) {
        return Err(wrong(format!("{at}.names"), format!("{bad:?} is no name of a system call")));
    }
    // Calls that no table here has are newer than this build or of another architecture: skipped, as Docker does.
    names.retain(|n| Table::any_has(n));
    let conditions = syscall
        .args
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(i, a)| condition(&format!("{at}.args[{i}]"), a))
        .collect::<Result<_, _>>()?;
    let (includes, excludes) = (syscall.includes.unwrap_or_default(), syscall.excludes.unwrap_or_default());
    if excludes.min_kernel.is_some() {
        return Err(wrong(format!("{at}.excludes.minKernel"), "is only known to includes"));
    }
    let min_kernel = match includes.min_kernel {
        Some(text) => Some(kernel(&format!("{at}.includes.minKernel"), &text)?),
        None => None,
    };
    Ok(Rule {
        names,
        action: action(&format!("{at}.action"), &syscall.action, syscall.errno_ret)?,
        conditions,
        when: When {
            caps: includes.caps,
            not_caps: excludes.caps,
            arches: includes.arches,
            not_arches: excludes.arches,
            min_kernel,
        },
    })
}

fn action(field: &str, name: &str, errno: Option<u32>) -> Result<Action, SeccompError> {
    // MAX_ERRNO: the kernel cuts larger ones.
    let data = match errno {
        Some(n) if n > 4095 => return Err(wrong(field, format!("errnoRet {n} is above 4095"))),
        Some(n) => n as u16,
        None => 1, // EPERM
    };
    if errno.is_some() && !["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"].contains(&name) {
        return Err(wrong(field, format!("{name} has no errnoRet")));
    }
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(data),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(data),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => return Err(wrong(field, "SCMP_ACT_NOTIFY is not supported")),
        other => return Err(wrong(field, format!("unknown action {other:?}"))),
    })
}

fn condition(field: &str, arg: Arg) -> Result<Condition, SeccompError> {
    if arg.index > 5 {
        return Err(wrong(format!("{field}.index"), format!("{} is not 0 to 5", arg.index)));
    }
    let (compare, value) = match arg.op.as_str() {
        "SCMP_CMP_NE" => (Compare::Ne, arg.value),
        "SCMP_CMP_LT" => (Compare::Lt, arg.value),
        "SCMP_CMP_LE" => (Compare::Le, arg.value),
        "SCMP_CMP_EQ" => (Compare::Eq, arg.value),
        "SCMP_CMP_GE" => (Compare::Ge, arg.value),
        "SCMP_CMP_GT" => (Compare::Gt, arg.value),
        // libseccomp: the first datum is the mask, the second what must be left.
        "SCMP_CMP_MASKED_EQ" => (Compare::MaskedEq(arg.value), arg.value_two),
        other => return Err(wrong(format!("{field}.op"), format!("unknown operator {other:?}"))),
    };
    Ok(Condition { index: arg.index as u8, compare, value })
}

fn kernel(field: &str, text: &str) -> Result<(u32, u32), SeccompError> {
    let parsed = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.ok_or_else(|| wrong(field, format!("{text:?} is no version such as 4.8")))
}
