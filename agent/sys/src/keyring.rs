//! The kernel's keyrings (keyrings(7)).

use std::io;

/// A new, empty session keyring in the place of the one that was inherited (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING). A kernel without
/// keyrings has nothing to inherit, and that is good, too.
pub fn join_new() -> io::Result<()> {
    let anonymous: *const libc::c_char = std::ptr::null();
    // SAFETY: a name that is NULL asks for a keyring without a name; nothing is read or written through pointers.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    let error = io::Error::last_os_error();
    if r < 0 && error.raw_os_error() != Some(libc::ENOSYS) { Err(error) } else { Ok(()) }
}
