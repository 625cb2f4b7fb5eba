//! Finding and executing the workload's command.

use berth_model::wire::FailKind;
use berth_model::wire::plan::Bytes;
use berth_sys::process;
use std::ffi::{CStr, CString};
use std::io;

/// What a shell and Docker search when the container has no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes `args` with `env`; a name without a slash is looked for in the container's PATH, as execvp(3) does. Returns when that failed:
/// the act, its kind (127 or 126), and why.
pub fn exec(args: &[Bytes<'_>], env: &[Bytes<'_>]) -> (Vec<u8>, FailKind, io::Error) {
    let name = args.first().map_or(&b""[..], |a| a);
    let act = [b"executing ", name].concat();
    let strings = |list: &[Bytes<'_>]| list.iter().map(|s| CString::new(&s[..])).collect::<Result<Vec<_>, _>>();
    let (Ok(args_c), Ok(env_c)) = (strings(args), strings(env)) else {
        return (act, FailKind::CommandNotExecutable, io::Error::from_raw_os_error(EINVAL));
    };
    let args_c: Vec<&CStr> = args_c.iter().map(|s| &**s).collect();
    let env_c: Vec<&CStr> = env_c.iter().map(|s| &**s).collect();
    let attempt = |path: &[u8]| match CString::new(path) {
        Ok(path) => process::execve(&path, &args_c, &env_c),
        Err(_) => io::Error::from_raw_os_error(EINVAL),
    };
    let error = if name.is_empty() || name.contains(&b'/') {
        if name.is_empty() { io::Error::from_raw_os_error(ENOENT) } else { attempt(name) }
    } else {
        let path = env.iter().rev().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
        let mut refused = None;
        let mut last = io::Error::from_raw_os_error(ENOENT);
        for dir in path.split(|&b| b == b':') {
            // An empty entry is the working folder.
            let dir = if dir.is_empty() { b"." } else { dir };
            last = attempt(&[dir, b"/", name].concat());
            match last.raw_os_error() {
                Some(ENOENT | ENOTDIR) => {}
                // A file that may not be executed does not hide one further on that may.
                Some(EACCES) => refused = Some(io::Error::from_raw_os_error(EACCES)),
                _ => break,
            }
        }
        match last.raw_os_error() {
            Some(ENOENT | ENOTDIR | EACCES) => refused.unwrap_or(io::Error::from_raw_os_error(ENOENT)),
            _ => last,
        }
    };
    let kind = match error.raw_os_error() {
        Some(ENOENT | ENOTDIR) => FailKind::CommandNotFound,
        _ => FailKind::CommandNotExecutable,
    };
    (act, kind, error)
}

const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;
const EINVAL: i32 = 22;
