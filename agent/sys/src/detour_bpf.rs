//! The program that sends a packet back to the interface where it came in.
//!
//! It runs where packets leave one interface of the agent's (tc, type BPF_PROG_TYPE_SCHED_CLS, Linux 4.5). What leaves there is a copy that
//! nftables made of a packet which the host's own input rules have let through. The copy carries in its mark and its priority the hardware
//! address that it was sent to (six bytes, in the packet's order), since that is lost on the way.

use crate::bpf::{ADD, CALL, EXIT, Insn, JUMP_NOT_EQUAL, LOAD_BYTE, LOAD_WORD, MOV, MOV_REG, STORE_WORD, insn};
use std::io;
use std::os::fd::OwnedFd;

/// The mark of a packet on its second way through the host.
pub const SECOND_WAY: u32 = 0xbe27_4002;
/// Byte of the priority, as it stands in memory, that is 1 for a packet which is to come in on lo instead.
pub const TO_LOOPBACK: usize = 2;

/// In the index of traffic control (tc_index), which nobody else writes on this way: the copy was here before. Somebody took its mark away, and
/// without an end to it it would go round for ever.
const SEEN: i32 = 0xbe27;
/// TC_ACT_SHOT
const DROP: i32 = 2;

const SKB_STORE_BYTES: i32 = 9;
const REDIRECT: i32 = 23;

/// Fields of struct __sk_buff (linux/bpf.h).
const MARK: i16 = 8;
const PRIORITY: i16 = 32;
const INGRESS_IFINDEX: i16 = 36;
const TC_INDEX: i16 = 44;

fn program() -> Vec<Insn> {
    let stack = |offset: i16| offset - 8;
    vec![
        insn(MOV_REG, 6, 1, 0, 0),
        insn(LOAD_WORD, 2, 1, TC_INDEX, 0),
        insn(JUMP_NOT_EQUAL, 2, 0, 2, SEEN),
        insn(MOV, 0, 0, 0, DROP),
        insn(EXIT, 0, 0, 0, 0),
        insn(MOV, 2, 0, 0, SEEN),
        insn(STORE_WORD, 1, 2, TC_INDEX, 0),
        insn(LOAD_WORD, 2, 1, MARK, 0),
        insn(STORE_WORD, 10, 2, stack(0), 0),
        insn(LOAD_WORD, 2, 1, PRIORITY, 0),
        insn(STORE_WORD, 10, 2, stack(4), 0),
        insn(MOV, 2, 0, 0, SECOND_WAY as i32),
        insn(STORE_WORD, 1, 2, MARK, 0),
        // skb_store_bytes(skb, 0, stack, 6, 0): the destination's hardware address.
        insn(MOV, 2, 0, 0, 0),
        insn(MOV_REG, 3, 10, 0, 0),
        insn(ADD, 3, 0, 0, -8),
        insn(MOV, 4, 0, 0, 6),
        insn(MOV, 5, 0, 0, 0),
        insn(CALL, 0, 0, 0, SKB_STORE_BYTES),
        // redirect(interface, BPF_F_INGRESS).
        insn(LOAD_WORD, 1, 6, INGRESS_IFINDEX, 0),
        insn(LOAD_BYTE, 2, 10, stack(4 + TO_LOOPBACK as i16), 0),
        insn(JUMP_NOT_EQUAL, 2, 0, 1, 1),
        insn(MOV, 1, 0, 0, 1),
        insn(MOV, 2, 0, 0, 1),
        insn(CALL, 0, 0, 0, REDIRECT),
        insn(EXIT, 0, 0, 0, 0),
    ]
}

/// Loads it, for a tc filter of kind `bpf` with direct action. Lives as long as the filter, or the descriptor.
pub fn load() -> io::Result<OwnedFd> {
    const TYPE_SCHED_CLS: u64 = 3;
    crate::bpf::load(TYPE_SCHED_CLS, &program(), "", 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_takes_it() {
        super::load().unwrap();
    }
}
