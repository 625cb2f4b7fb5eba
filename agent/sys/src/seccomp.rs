//! Loading seccomp programs.

use std::io;

/// Bytes of one instruction (struct sock_filter).
pub const INSTRUCTION: usize = 8;

/// Loads a program for this thread and what it makes from here on (seccomp(2), SECCOMP_SET_MODE_FILTER, Linux 3.17). The caller has
/// CAP_SYS_ADMIN or no_new_privs.
///
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW` is not set: since Linux 5.16 filters do not turn speculation mitigations on by themselves.
///
/// # Errors
/// `EINVAL` when the bytes are no whole program or more than 4,096 instructions.
pub fn load(program: &[u8]) -> io::Result<()> {
    load_with(program, 0)
}

/// As [`load`], with flags of seccomp(2).
///
/// # Errors
/// Those of [`load`]; `EINVAL` for flags that this kernel does not know.
pub fn load_with(program: &[u8], flags: u64) -> io::Result<()> {
    if !program.len().is_multiple_of(INSTRUCTION) || program.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let filters: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION)
        .map(|c| libc::sock_filter {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect();
    let Ok(len) = u16::try_from(filters.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let program = libc::sock_fprog { len, filter: filters.as_ptr().cast_mut() };
    // SAFETY: the kernel copies and checks len instructions from filters, which live through the call.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
