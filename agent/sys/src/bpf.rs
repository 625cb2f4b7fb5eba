//! bpf(2), as far as berth's three programs need it: instructions, and how they come into the kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// struct bpf_insn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Insn {
    pub code: u8,
    /// Destination in the low four bits, source in the high ones.
    pub registers: u8,
    pub offset: i16,
    pub value: i32,
}

pub(crate) const fn insn(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> Insn {
    Insn { code, registers: dst | src << 4, offset, value }
}

// Opcodes of Documentation/bpf/standardization/instruction-set.rst.
pub(crate) const LOAD_IMMEDIATE: u8 = 0x18;
pub(crate) const LOAD_BYTE: u8 = 0x71;
pub(crate) const LOAD_WORD: u8 = 0x61;
pub(crate) const LOAD_LONG: u8 = 0x79;
pub(crate) const STORE_WORD: u8 = 0x63;
pub(crate) const MOV: u8 = 0xb7;
pub(crate) const MOV_REG: u8 = 0xbf;
pub(crate) const ADD: u8 = 0x07;
pub(crate) const AND: u8 = 0x57;
pub(crate) const OR_REG: u8 = 0x4f;
pub(crate) const SHIFT_RIGHT: u8 = 0x77;
pub(crate) const SHIFT_RIGHT_REG: u8 = 0x7f;
pub(crate) const TO_BIG_ENDIAN: u8 = 0xdc;
pub(crate) const JUMP_EQUAL: u8 = 0x15;
pub(crate) const JUMP_NOT_EQUAL: u8 = 0x55;
pub(crate) const JUMP_NOT_EQUAL_REG: u8 = 0x5d;
/// 32 bits wide, so that numbers above i32::MAX are not sign-extended.
pub(crate) const JUMP_NOT_EQUAL_WORD: u8 = 0x56;
pub(crate) const CALL: u8 = 0x85;
pub(crate) const EXIT: u8 = 0x95;

/// The longest name with its end.
pub(crate) const NAME: usize = 16;

/// Two 32-bit fields of an attribute, on little-endian machines, which all of berth's are.
pub(crate) const fn pair(low: u64, high: u64) -> u64 {
    low | high << 32
}

/// The kernel answers some commands into their attributes.
pub(crate) fn bpf(command: libc::c_long, attr: &mut [u64]) -> io::Result<libc::c_long> {
    // SAFETY: attr is a bpf_attr of the command, as its callers build it, and what it points to lives through the call.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// A command that answers with a new descriptor.
pub(crate) fn owned(command: libc::c_long, attr: &mut [u64]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Loads a program of a kind (enum bpf_prog_type) for a place (enum bpf_attach_type; 0 where a kind has one only). A name is at most 15 letters and
/// digits; empty: none.
pub(crate) fn load(kind: u64, code: &[Insn], name: &str, place: u64) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    let license = c"Apache-2.0";
    let mut padded = [0; NAME];
    let bytes = name.as_bytes();
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is longer than 15 bytes"));
    padded.get_mut(..bytes.len()).filter(|_| bytes.len() < NAME).ok_or_else(too_long)?.copy_from_slice(bytes);
    let half = |n: usize| padded[n..].first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
    let (instructions, license) = (code.as_ptr() as u64, license.as_ptr() as u64);
    // Type and count, instructions, license, no log, no flags, the name, no interface and the place.
    let mut attr = [pair(kind, code.len() as u64), instructions, license, 0, 0, 0, half(0), half(8), pair(0, place)];
    owned(PROG_LOAD, &mut attr)
}

/// Whether an error says that this process may not load programs, or that there is no place for them: a test has nothing to look at then. What the
/// verifier refuses is `EACCES`, of the same kind.
#[cfg(test)]
pub(crate) fn may_not(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM) || error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BPF_PROG_TYPE_CGROUP_DEVICE
    const DEVICE: u64 = 15;

    #[test]
    fn what_the_verifier_refuses_is_no_want_of_rights() {
        let good = [insn(MOV, 0, 0, 0, 1), insn(EXIT, 0, 0, 0, 0)];
        if load(DEVICE, &good, "berthgood", 0).is_err_and(|e| may_not(&e)) {
            return;
        }
        load(DEVICE, &good, "berthgood", 0).unwrap();
        // It answers with a register that nothing was put into.
        let error = load(DEVICE, &good[1..], "berthbad", 0).unwrap_err();
        assert!(error.raw_os_error() == Some(libc::EACCES) && !may_not(&error), "{error}");
        let error = load(DEVICE, &good, "sixteen letters!", 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
