//! From rules to classic BPF: per architecture a binary search over ranges of call numbers, so that every call costs a
//! handful of instructions instead of a walk through the whole list.

use super::tables::{Table, X32_BIT};
use super::{Action, Compare, Condition, Profile, SeccompError, Target};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// `struct sock_filter` (linux/filter.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    pub code: u16,
    /// Instructions to skip when the test holds.
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A filter, ready to load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    pub insns: Vec<Insn>,
}

impl Program {
    /// The instructions as the kernel reads them: eight bytes each, in the host's byte order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.insns.len() * 8);
        for insn in &self.insns {
            bytes.extend_from_slice(&insn.code.to_ne_bytes());
            bytes.push(insn.jt);
            bytes.push(insn.jf);
            bytes.extend_from_slice(&insn.k.to_ne_bytes());
        }
        bytes
    }
}

const ENOSYS: u16 = 38;

/// BPF_MAXINSNS
const MAX_INSNS: usize = 4096;

// linux/bpf_common.h: class | size or source | mode or operation.
pub(super) const LD_ABS: u16 = 0x20;
pub(super) const RET: u16 = 0x06;
pub(super) const JA: u16 = 0x05;
pub(super) const JEQ: u16 = 0x15;
pub(super) const JGT: u16 = 0x25;
pub(super) const JGE: u16 = 0x35;
pub(super) const AND: u16 = 0x54;

// Offsets in struct seccomp_data.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

const fn insn(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
    Insn { code, jt, jf, k }
}

/// What happens to one call: the first alternative whose conditions hold, else the default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Verdict {
    conditional: Vec<(Vec<Condition>, Action)>,
    otherwise: Option<Action>,
}

pub(super) fn compile(profile: &Profile, target: &Target) -> Result<Program, SeccompError> {
    let mut blocks = Vec::new();
    for &(audit, tables) in target.arch.tables() {
        let admitted: Vec<Table> = tables.iter().copied().filter(|t| profile.architectures.admit(*t, target)).collect();
        if admitted.is_empty() {
            continue;
        }
        let mut block = vec![insn(LD_ABS, NR)];
        let mut calls = BTreeMap::new();
        for &table in &admitted {
            collect(profile, target, table, &mut calls);
        }
        let mut segments = segments(&calls, profile.default);
        for &table in &admitted {
            unknown(&mut segments, profile, table);
        }
        if tables.contains(&Table::X32) && !admitted.contains(&Table::X32) {
            without_x32(&mut segments, profile.default);
        }
        block.extend(search(&segments, profile.default));
        blocks.push((audit, block));
    }
    let mut insns = vec![insn(LD_ABS, ARCH)];
    for (audit, block) in blocks {
        // Another architecture: jump over the whole block, however long it is.
        insns.push(jump(JEQ, audit, 1, 0));
        insns.push(insn(JA, block.len() as u32));
        insns.extend(block);
    }
    // No architecture that this host's processes can have: libseccomp's answer too.
    insns.push(insn(RET, Action::KillProcess.code()));
    if insns.len() > MAX_INSNS {
        return Err(SeccompError::TooLong(insns.len()));
    }
    Ok(Program { insns })
}

/// Adds the verdicts of one table. Rules that say the default count too: they may stand before a wider one.
fn collect(profile: &Profile, target: &Target, table: Table, calls: &mut BTreeMap<u32, Verdict>) {
    for rule in profile.rules.iter().filter(|r| r.when.holds(target)) {
        for number in rule.names.iter().filter_map(|name| table.number(name)) {
            debug_assert!((number & X32_BIT != 0) == (table == Table::X32));
            let verdict = calls.entry(number).or_default();
            if rule.conditions.is_empty() {
                verdict.otherwise.get_or_insert(rule.action);
            } else {
                verdict.conditional.push((rule.conditions.clone(), rule.action));
            }
        }
    }
    for verdict in calls.values_mut() {
        // libseccomp: a rule without conditions makes the ones with the same action pointless.
        let otherwise = verdict.otherwise;
        if otherwise == Some(Action::Allow) {
            verdict.conditional.clear();
        }
        verdict.conditional.retain(|(_, action)| Some(*action) != otherwise);
    }
}

/// Neighbouring calls with the same verdict, by their first number; the gaps between them have the default.
fn segments(calls: &BTreeMap<u32, Verdict>, default: Action) -> Vec<(u32, Verdict)> {
    let gap = Verdict { conditional: Vec::new(), otherwise: Some(default) };
    let mut out: Vec<(u32, Verdict)> = vec![(0, gap.clone())];
    let mut push = |start: u32, verdict: Verdict| match out.last_mut() {
        Some((at, last)) if *at == start => *last = verdict,
        Some((_, last)) if *last == verdict => {}
        _ => out.push((start, verdict)),
    };
    let mut next = 0;
    for (&number, verdict) in calls {
        if number > next {
            push(next, gap.clone());
        }
        let mut verdict = verdict.clone();
        verdict.otherwise.get_or_insert(default);
        push(number, verdict);
        next = number + 1;
    }
    push(next, gap);
    out
}

/// Calls newer than all that the profile speaks of do not exist, as on a kernel of its time: a C library that tries a new call goes on with the
/// old one when it hears ENOSYS, and fails when it hears EPERM. runc (since 1.0.0-rc93) and crun do so, too. A profile that lets through what it
/// does not name lets these through.
fn unknown(segments: &mut Vec<(u32, Verdict)>, profile: &Profile, table: Table) {
    let lets_through = matches!(profile.default, Action::Allow | Action::Log | Action::Trace(_));
    let named = profile.rules.iter().flat_map(|r| &r.names).filter_map(|name| table.number(name));
    let Some(newest) = named.max().filter(|_| !lets_through) else { return };
    // -1 is no call: a tracer has skipped it.
    let end = if newest < X32_BIT { X32_BIT } else { u32::MAX };
    let behind = segments.iter().rfind(|(at, _)| *at <= end).map(|(_, verdict)| verdict.clone()).unwrap_or_default();
    segments.retain(|(at, _)| *at <= newest || *at >= end);
    let place = segments.partition_point(|(at, _)| *at <= newest);
    segments.insert(place, (newest + 1, Verdict { conditional: Vec::new(), otherwise: Some(Action::Errno(ENOSYS)) }));
    if segments.get(place + 1).is_none_or(|(at, _)| *at != end) {
        segments.insert(place + 1, (end, behind));
    }
}

/// The numbers of x32 are another architecture's. -1 is none: a tracer has skipped the call.
fn without_x32(segments: &mut Vec<(u32, Verdict)>, default: Action) {
    segments.retain(|(at, _)| *at < X32_BIT);
    let always = |action| Verdict { conditional: Vec::new(), otherwise: Some(action) };
    segments.push((X32_BIT, always(Action::KillProcess)));
    segments.push((u32::MAX, always(default)));
}

/// A binary search over the segments; the accumulator holds the number.
fn search(segments: &[(u32, Verdict)], default: Action) -> Vec<Insn> {
    let mut code = Backwards::default();
    let mut first = code.node(segments, default);
    if code.skip(&mut first) != 0 {
        code.lead(&mut first);
    }
    code.code.reverse();
    code.code
}

/// Where a branch of the search leads.
#[derive(Clone, Copy)]
enum Goal {
    /// To the instruction with this many behind it.
    At(usize),
    /// To any return with this value: they are shared, which halves what the kernel translates at each start.
    Return(u32),
}

/// Code from its last instruction to its first, so that all jumps lead to what is there already.
#[derive(Default)]
struct Backwards {
    code: Vec<Insn>,
    /// What is decided by conditions, and where: x86_64 and x32 have the same under two numbers.
    decided: Vec<(Vec<Insn>, usize)>,
}

impl Backwards {
    fn node(&mut self, segments: &[(u32, Verdict)], default: Action) -> Goal {
        if let [(_, verdict)] = segments {
            let mut code = decide(verdict, default);
            if let [only] = code[..] {
                return Goal::Return(only.k);
            }
            if let Some((_, at)) = self.decided.iter().find(|(same, _)| *same == code) {
                return Goal::At(*at);
            }
            let same = code.clone();
            code.reverse();
            self.code.append(&mut code);
            self.decided.push((same, self.code.len() - 1));
            return Goal::At(self.code.len() - 1);
        }
        let middle = segments.len() / 2;
        let mut right = self.node(&segments[middle..], default);
        let mut left = self.node(&segments[..middle], default);
        // What brings one branch near moves the other away by one instruction: then once more.
        let (jt, jf) = loop {
            let jf = self.skip(&mut left);
            let before = self.code.len();
            let jt = self.skip(&mut right);
            if self.code.len() == before {
                break (jt, jf);
            }
        };
        self.code.push(jump(JGE, segments[middle].0, jt, jf));
        Goal::At(self.code.len() - 1)
    }

    /// How many instructions the next one has to skip to get to `goal`, which is brought near first where it is too far.
    fn skip(&mut self, goal: &mut Goal) -> u8 {
        let back = |at: usize| u8::try_from(self.code.len() - 1 - at).ok();
        let near = match *goal {
            Goal::At(at) => back(at),
            Goal::Return(value) => self.code.iter().rposition(|i| *i == insn(RET, value)).and_then(back),
        };
        near.unwrap_or_else(|| {
            self.lead(goal);
            0
        })
    }

    /// Puts an instruction in front that leads to `goal`.
    fn lead(&mut self, goal: &mut Goal) {
        let next = match *goal {
            Goal::At(at) => insn(JA, (self.code.len() - 1 - at) as u32),
            Goal::Return(value) => insn(RET, value),
        };
        self.code.push(next);
        *goal = Goal::At(self.code.len() - 1);
    }
}

fn decide(verdict: &Verdict, default: Action) -> Vec<Insn> {
    let mut out = Vec::new();
    for (conditions, action) in &verdict.conditional {
        let body: Vec<Vec<Insn>> = conditions.iter().map(test).collect();
        let all: usize = body.iter().map(Vec::len).sum::<usize>() + 1;
        if all > NEAR {
            far(body, all, &mut out);
        } else {
            near(body, &mut out);
        }
        out.push(insn(RET, action.code()));
    }
    out.push(insn(RET, verdict.otherwise.unwrap_or(default).code()));
    out
}

/// As far as a test's own jumps reach, which are a byte each.
const NEAR: usize = u8::MAX as usize;

/// Tests of which each leads by itself behind the alternative's return: their last slots are cut off.
fn near(body: Vec<Vec<Insn>>, out: &mut Vec<Insn>) {
    let mut rest: usize = body.iter().map(|test| test.len() - 1).sum::<usize>() + 1;
    for mut code in body {
        code.pop();
        let last = code.len();
        rest -= last;
        for (at, insn) in code.iter_mut().enumerate().filter(|(_, insn)| [JEQ, JGT, JGE].contains(&insn.code)) {
            for way in [&mut insn.jt, &mut insn.jf] {
                match (at + 1 + usize::from(*way)).cmp(&last) {
                    Ordering::Less => {}
                    Ordering::Equal => *way = (last - at - 1 + rest) as u8,
                    Ordering::Greater => *way -= 1,
                }
            }
        }
        out.append(&mut code);
    }
}

/// Tests with a jump each in their last slots: there are so many that their own jumps do not reach.
fn far(body: Vec<Vec<Insn>>, all: usize, out: &mut Vec<Insn>) {
    let mut rest = all;
    for mut code in body {
        rest -= code.len();
        code.pop();
        code.push(insn(JA, rest as u32));
        out.append(&mut code);
    }
}

/// Tests one condition on a 64-bit argument: falls out behind its end when it holds, into its last slot when not (the
/// caller puts the jump there).
fn test(condition: &Condition) -> Vec<Insn> {
    let at = ARGS + 8 * u32::from(condition.index);
    let (low_at, high_at) = if cfg!(target_endian = "little") { (at, at + 4) } else { (at + 4, at) };
    let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
    let load = |k| insn(LD_ABS, k);
    // In each shape the last slot is "no"; "yes" is one behind it.
    match condition.compare {
        Compare::Eq => vec![load(high_at), jump(JEQ, high, 0, 2), load(low_at), jump(JEQ, low, 1, 0), insn(JA, 0)],
        Compare::Ne => vec![load(high_at), jump(JEQ, high, 0, 3), load(low_at), jump(JEQ, low, 0, 1), insn(JA, 0)],
        Compare::MaskedEq(mask) => vec![
            load(high_at),
            insn(AND, (mask >> 32) as u32),
            jump(JEQ, high, 0, 3),
            load(low_at),
            insn(AND, mask as u32),
            jump(JEQ, low, 1, 0),
            insn(JA, 0),
        ],
        Compare::Gt | Compare::Ge => {
            let code = if condition.compare == Compare::Gt { JGT } else { JGE };
            vec![
                load(high_at),
                jump(JGT, high, 4, 0),
                jump(JEQ, high, 0, 2),
                load(low_at),
                jump(code, low, 1, 0),
                insn(JA, 0),
            ]
        }
        Compare::Lt | Compare::Le => {
            let code = if condition.compare == Compare::Lt { JGE } else { JGT };
            vec![
                load(high_at),
                jump(JGT, high, 3, 0),
                jump(JEQ, high, 0, 3),
                load(low_at),
                jump(code, low, 0, 1),
                insn(JA, 0),
            ]
        }
    }
}
