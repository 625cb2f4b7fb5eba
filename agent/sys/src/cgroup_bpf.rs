//! Device rules for cgroup v2.
//!
//! v2 has no devices controller: a program of type BPF_PROG_TYPE_CGROUP_DEVICE (Linux 4.15) answers for every open and mknod of a device.

use crate::bpf::{AND, EXIT, Insn, JUMP_NOT_EQUAL_WORD, LOAD_WORD, MOV, MOV_REG, SHIFT_RIGHT, bpf, insn, load, pair};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One allowed class of devices; what no rule allows is denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Block instead of character.
    pub block: bool,
    /// `None`: every number.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

/// The context is `access << 16 | type`, major, minor (struct bpf_cgroup_dev_ctx); 1 allows, 0 is EPERM.
fn program(rules: &[Rule]) -> Vec<Insn> {
    let mut code = vec![
        insn(LOAD_WORD, 2, 1, 0, 0),
        insn(MOV_REG, 3, 2, 0, 0),
        insn(AND, 3, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, 2, 0, 0, 16),
        insn(LOAD_WORD, 4, 1, 4, 0),
        insn(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let access = i32::from(rule.mknod) | i32::from(rule.read) << 1 | i32::from(rule.write) << 2;
        // Each test jumps behind the rule's end when it does not fit; the distances are filled in below.
        let mut part = vec![
            insn(JUMP_NOT_EQUAL_WORD, 3, 0, 0, if rule.block { 1 } else { 2 }),
            insn(MOV_REG, 6, 2, 0, 0),
            insn(AND, 6, 0, 0, !access & 7),
            insn(JUMP_NOT_EQUAL_WORD, 6, 0, 0, 0),
        ];
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                part.push(insn(JUMP_NOT_EQUAL_WORD, register, 0, 0, number as i32));
            }
        }
        part.extend([insn(MOV, 0, 0, 0, 1), insn(EXIT, 0, 0, 0, 0)]);
        let len = part.len();
        for (at, i) in part.iter_mut().enumerate().filter(|(_, i)| i.code == JUMP_NOT_EQUAL_WORD) {
            i.offset = (len - at - 1) as i16;
        }
        code.extend(part);
    }
    code.extend([insn(MOV, 0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)]);
    code
}

/// Allows exactly these devices to the processes of a cgroup v2 folder (bpf(2)). Stays until the group is removed.
pub fn attach(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    const PROG_ATTACH: libc::c_long = 8;
    const TYPE_CGROUP_DEVICE: u64 = 15;
    const ATTACH_CGROUP_DEVICE: u64 = 6;
    const ALLOW_MULTI: u64 = 2;
    let program = load(TYPE_CGROUP_DEVICE, &program(rules), "", 0)?;
    let target = pair(cgroup.as_raw_fd() as u64, program.as_raw_fd() as u64);
    bpf(PROG_ATTACH, &mut [target, pair(ATTACH_CGROUP_DEVICE, ALLOW_MULTI)]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on a context, as the kernel would.
    fn run(code: &[Insn], access: u32, block: bool, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | if block { 1 } else { 2 }, major, minor];
        let (mut r, mut at) = ([0u64; 11], 0usize);
        loop {
            let i = code[at];
            let (dst, src) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            match i.code {
                LOAD_WORD => r[dst] = context[i.offset as usize / 4].into(),
                MOV_REG => r[dst] = r[src],
                MOV => r[dst] = i.value as u64,
                AND => r[dst] &= i.value as u64,
                SHIFT_RIGHT => r[dst] >>= i.value,
                JUMP_NOT_EQUAL_WORD if r[dst] as u32 != i.value as u32 => at += i.offset as usize,
                JUMP_NOT_EQUAL_WORD => {}
                EXIT => return r[0],
                other => panic!("opcode {other:x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn rules_allow_what_they_name() {
        let all = Rule { block: false, major: None, minor: None, read: false, write: false, mknod: true };
        let null = Rule { major: Some(1), minor: Some(3), read: true, write: true, ..all };
        let ptys = Rule { major: Some(136), minor: None, read: true, write: true, ..all };
        let high = Rule { block: true, major: Some(u32::MAX), minor: Some(0), read: true, write: false, mknod: false };
        let code = program(&[all, null, ptys, high]);
        for (access, block, major, minor, allowed) in [
            (1, false, 8, 0, 1),
            (1, true, 8, 0, 0),
            (2, false, 1, 3, 1),
            (6, false, 1, 3, 1),
            (2, false, 1, 4, 0),
            (7, false, 136, 77, 1),
            (2, true, u32::MAX, 0, 1),
            (4, true, u32::MAX, 0, 0),
        ] {
            assert_eq!(run(&code, access, block, major, minor), allowed, "{access} {block} {major}:{minor}");
        }
        assert_eq!(run(&program(&[]), 2, false, 1, 3), 0);
    }

    /// Against the kernel's verifier, on a group of our own in whatever v2 tree this host has.
    #[test]
    fn the_kernel_takes_the_program() {
        use std::os::fd::AsFd;
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let Some(root) = roots.iter().find(|r| std::path::Path::new(r).join("cgroup.controllers").exists()) else {
            return;
        };
        let group = format!("{root}/berth-sys-bpf-{}", std::process::id());
        if std::fs::create_dir(&group).is_err() {
            return;
        }
        let folder = std::fs::File::open(&group).unwrap();
        let rule = Rule { block: false, major: Some(1), minor: Some(3), read: true, write: true, mknod: false };
        let result = attach(folder.as_fd(), &[rule, Rule { minor: None, ..rule }]);
        drop(folder);
        std::fs::remove_dir(&group).unwrap();
        assert!(result.as_ref().err().is_none_or(crate::bpf::may_not), "{result:?}");
    }
}
