//! A machine for classic BPF, which runs the very program that the kernel would.

use super::bpf::{AND, Insn, JA, JEQ, JGE, JGT, LD_ABS, RET};

/// `struct seccomp_data`
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    pub number: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

/// What the filter returns; it kills where the kernel's verifier would refuse, which no program of ours is for.
pub fn run(program: &[Insn], call: &Call) -> u32 {
    let mut accumulator = 0u32;
    let mut at = 0usize;
    loop {
        let insn = program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { insn.jt } else { insn.jf });
        match insn.code {
            LD_ABS => {
                accumulator = match insn.k {
                    0 => call.number,
                    4 => call.arch,
                    k if (16..64).contains(&k) && k % 4 == 0 => {
                        let arg = call.args[((k - 16) / 8) as usize];
                        if (k - 16) % 8 == 0 { arg as u32 } else { (arg >> 32) as u32 }
                    }
                    k => return refused(&format!("load from {k}")),
                }
            }
            AND => accumulator &= insn.k,
            JA => at += insn.k as usize,
            JEQ => at += branch(accumulator == insn.k),
            JGT => at += branch(accumulator > insn.k),
            JGE => at += branch(accumulator >= insn.k),
            RET => return insn.k,
            other => return refused(&format!("instruction {other:#x}")),
        }
    }
}

fn refused(why: &str) -> u32 {
    debug_assert!(false, "{why}");
    super::Action::KillProcess.code()
}
