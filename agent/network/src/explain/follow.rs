//! One packet through one hook of a ruleset: the first of a connection, of which only the addresses, the destination's port and the interfaces
//! are known.
//!
//! Three-valued: a match that needs something that is not known is neither true nor false. A rule with such a match is passed over and
//! remembered as a doubt, where it could have changed anything.

use super::ruleset::{Base, Chain, INET, IPV4, IPV6, REGISTERS, Rule, Ruleset, Set, Step, TableName, Verdict};
use super::show;
use std::collections::HashSet;
use std::net::IpAddr;

/// Chains that lead into each other.
const DEPTH: u32 = 16;
/// Rules that one hook asks: chains that jump to each other again and again are a way without end, and the kernel allows that.
const RULES: u32 = 1 << 16;
/// Doubts that are remembered.
const FOUND: usize = 4096;

pub const PREROUTING: u32 = 0;
pub const INPUT: u32 = 1;
pub const FORWARD: u32 = 2;
pub const OUTPUT: u32 = 3;

/// Conntrack's bits of a connection that begins, and of one whose destination was changed.
const STATE_NEW: u32 = 8;
const STATUS_DNAT: u32 = 1 << 5;

/// An interface as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    /// None: not known. Empty: there is none at this hook.
    pub name: Option<String>,
    pub index: Option<u32>,
    pub loopback: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    /// IPPROTO_*
    pub protocol: u8,
    pub port: u16,
    pub input: Interface,
    pub output: Interface,
    pub mark: u32,
    pub to_this_host: bool,
    /// The destination was changed.
    pub redirected: bool,
}

/// A rule, or what a chain does without one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub hook: u32,
    pub table: TableName,
    pub chain: String,
    /// None: the chain's policy.
    pub handle: Option<u64>,
    /// The rule, nearly as the nft tool writes it.
    pub text: String,
    pub comment: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    Accepts,
    Drops,
    Rejects,
    Redirects,
    /// The packet goes to a program of the host, which decides.
    Queues,
    /// It was copied, and ends here.
    Copies,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub place: Place,
    pub effect: Effect,
    /// None: it does. Some: it may, as this could not be evaluated.
    pub doubt: Option<String>,
}

/// What one hook makes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Goes,
    Ends(Effect),
}

enum Flow {
    /// The chain says nothing.
    Falls,
    /// The base chain is done with it.
    Accepted(Option<Place>),
    Ended(Effect, Place),
}

/// Follows packets through a ruleset, and remembers what decided.
pub struct Follower<'a> {
    pub ruleset: &'a Ruleset,
    pub found: Vec<Found>,
    copied: bool,
    hook: u32,
    /// Rules that may still be asked.
    left: u32,
}

type Registers = [Option<u8>; REGISTERS as usize];

impl<'a> Follower<'a> {
    pub fn new(ruleset: &'a Ruleset) -> Self {
        Follower { ruleset, found: Vec::new(), copied: false, hook: PREROUTING, left: RULES }
    }

    /// Asks all base chains of a hook, in their order, until one ends it.
    pub fn hook(&mut self, hook: u32, packet: &mut Packet) -> Fate {
        self.hook = hook;
        self.copied = false;
        self.left = RULES;
        let family = if packet.to.is_ipv4() { IPV4 } else { IPV6 };
        let asked =
            |c: &&Chain| c.base.as_ref().is_some_and(|b| b.hook == hook) && [INET, family].contains(&c.table.family);
        let ruleset = self.ruleset;
        let mut chains: Vec<(&Chain, &Base)> =
            ruleset.chains.iter().filter(asked).filter_map(|c| Some((c, c.base.as_ref()?))).collect();
        // Of those with the same priority the newest is asked first (nf_hook_entries_grow), and the kernel lists them as they came.
        chains.reverse();
        chains.sort_by_key(|(_, base)| base.priority);
        let mut translated = false;
        for (chain, base) in chains {
            // The first translation of a hook is the only one.
            if base.kind == "nat" && translated {
                continue;
            }
            let before = packet.redirected;
            let flow = self.chain(chain, packet, 0);
            translated |= packet.redirected && !before;
            match flow {
                Flow::Ended(effect, place) => {
                    self.found.push(Found { place, effect, doubt: None });
                    return Fate::Ends(effect);
                }
                Flow::Accepted(Some(place)) => self.found.push(Found { place, effect: Effect::Accepts, doubt: None }),
                Flow::Accepted(None) => {}
                Flow::Falls if base.drops => {
                    let place = self.place(chain, None);
                    self.found.push(Found { place, effect: Effect::Drops, doubt: None });
                    return Fate::Ends(Effect::Drops);
                }
                Flow::Falls => {}
            }
        }
        Fate::Goes
    }

    fn place(&self, chain: &Chain, rule: Option<&Rule>) -> Place {
        Place {
            hook: self.hook,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            handle: rule.map(|r| r.handle),
            text: rule.map_or_else(|| "policy drop".to_owned(), show::rule),
            comment: rule.and_then(|r| r.comment.clone()),
        }
    }

    fn chain(&mut self, chain: &Chain, packet: &mut Packet, depth: u32) -> Flow {
        if depth > DEPTH {
            return Flow::Falls;
        }
        for rule in &chain.rules {
            if self.left <= 1 {
                if std::mem::take(&mut self.left) == 1 {
                    let doubt = Some(format!("more than {RULES} rules"));
                    self.found.push(Found { place: self.place(chain, Some(rule)), effect: Effect::Drops, doubt });
                }
                return Flow::Falls;
            }
            self.left -= 1;
            match self.rule(chain, rule, packet, depth) {
                Some(Flow::Falls) => return Flow::Falls,
                Some(flow) => return flow,
                None => {}
            }
        }
        Flow::Falls
    }

    /// None: the next rule is asked. Falls: the chain is left.
    fn rule(&mut self, chain: &Chain, rule: &Rule, packet: &mut Packet, depth: u32) -> Option<Flow> {
        let mut registers: Registers = [None; REGISTERS as usize];
        let mut doubt: Option<String> = None;
        for step in &rule.steps {
            let verdict = match step {
                Step::Unknown(name) => {
                    doubt.get_or_insert_with(|| name.clone());
                    continue;
                }
                Step::Lookup { verdicts: true, .. } => match self.verdict_of(&chain.table, step, &registers) {
                    Known(verdict) => verdict?,
                    Unsure => {
                        doubt.get_or_insert_with(|| show::step(step));
                        continue;
                    }
                },
                Step::Verdict(verdict) => verdict.clone(),
                Step::Reject
                | Step::Copy
                | Step::Dnat { .. }
                | Step::Redirect { .. }
                | Step::Snat
                | Step::SetMeta { .. }
                    if doubt.is_some() =>
                {
                    self.doubtful(chain, rule, step, doubt.as_deref());
                    return None;
                }
                Step::Reject => return Some(Flow::Ended(Effect::Rejects, self.place(chain, Some(rule)))),
                Step::Copy => {
                    self.copied = true;
                    continue;
                }
                Step::Snat => return Some(Flow::Accepted(None)),
                Step::Dnat { address, port } => {
                    return Some(self.redirect(chain, rule, packet, &registers, *address, *port));
                }
                Step::Redirect { port } => {
                    // To the interface's own address; which one does not matter here.
                    packet.to_this_host = true;
                    return Some(self.redirect(chain, rule, packet, &registers, None, *port));
                }
                Step::SetMeta { key: show::MARK, from } => {
                    if let Some(mark) = bytes::<4>(&registers, *from) {
                        packet.mark = u32::from_ne_bytes(mark);
                    }
                    continue;
                }
                step => match self.fits(&chain.table, step, packet, &mut registers) {
                    Some(true) => continue,
                    Some(false) => return None,
                    None => {
                        doubt.get_or_insert_with(|| show::step(step));
                        continue;
                    }
                },
            };
            if let Some(doubt) = doubt {
                self.doubtful(chain, rule, &Step::Verdict(verdict), Some(&doubt));
                return None;
            }
            return self.decided(chain, rule, verdict, packet, depth);
        }
        None
    }

    fn decided(
        &mut self,
        chain: &Chain,
        rule: &Rule,
        verdict: Verdict,
        packet: &mut Packet,
        depth: u32,
    ) -> Option<Flow> {
        let place = |this: &Self| this.place(chain, Some(rule));
        match verdict {
            Verdict::Continue => None,
            Verdict::Return => Some(Flow::Falls),
            Verdict::Accept => Some(Flow::Accepted(Some(place(self)))),
            Verdict::Drop if self.copied => Some(Flow::Ended(Effect::Copies, place(self))),
            Verdict::Drop => Some(Flow::Ended(Effect::Drops, place(self))),
            Verdict::Queue => Some(Flow::Ended(Effect::Queues, place(self))),
            Verdict::Jump(name) => match self.chain(self.ruleset.chain(&chain.table, &name)?, packet, depth + 1) {
                Flow::Falls => None,
                flow => Some(flow),
            },
            // Nobody comes back behind a goto, but to the chain that jumped here.
            Verdict::Goto(name) => Some(self.chain(self.ruleset.chain(&chain.table, &name)?, packet, depth + 1)),
        }
    }

    fn redirect(
        &mut self,
        chain: &Chain,
        rule: &Rule,
        packet: &mut Packet,
        registers: &Registers,
        address: Option<usize>,
        port: Option<usize>,
    ) -> Flow {
        let target = match packet.to {
            IpAddr::V4(_) => address.map(|at| bytes::<4>(registers, at).map(IpAddr::from)),
            IpAddr::V6(_) => address.map(|at| bytes::<16>(registers, at).map(IpAddr::from)),
        };
        let number = port.map(|at| bytes::<2>(registers, at).map(u16::from_be_bytes));
        let place = self.place(chain, Some(rule));
        if target == Some(None) || number == Some(None) {
            let doubt = Some("where it leads is not known".to_owned());
            self.found.push(Found { place, effect: Effect::Redirects, doubt });
            return Flow::Accepted(None);
        }
        packet.to = target.flatten().unwrap_or(packet.to);
        packet.port = number.flatten().unwrap_or(packet.port);
        packet.redirected = true;
        self.found.push(Found { place, effect: Effect::Redirects, doubt: None });
        Flow::Accepted(None)
    }

    /// A rule that may hold: remembered with the worst that it could do.
    fn doubtful(&mut self, chain: &Chain, rule: &Rule, step: &Step, doubt: Option<&str>) {
        if self.found.len() >= FOUND {
            return;
        }
        let effect = match step {
            Step::Reject => Some(Effect::Rejects),
            Step::Dnat { .. } | Step::Redirect { .. } => Some(Effect::Redirects),
            Step::Verdict(Verdict::Accept) => Some(Effect::Accepts),
            Step::Verdict(Verdict::Drop) => Some(Effect::Drops),
            Step::Verdict(Verdict::Queue) => Some(Effect::Queues),
            Step::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) => {
                self.worst(&chain.table, name, &mut HashSet::new())
            }
            _ => None,
        };
        if let Some(effect) = effect {
            let doubt = doubt.map(str::to_owned);
            self.found.push(Found { place: self.place(chain, Some(rule)), effect, doubt });
        }
    }

    /// What a chain could do at worst.
    fn worst<'n>(&'n self, table: &TableName, name: &'n str, seen: &mut HashSet<&'n str>) -> Option<Effect> {
        let chain = self.ruleset.chain(table, name).filter(|_| seen.insert(name))?;
        let effects = chain.rules.iter().flat_map(|r| &r.steps).filter_map(|step| match step {
            Step::Reject => Some(Effect::Rejects),
            Step::Dnat { .. } | Step::Redirect { .. } => Some(Effect::Redirects),
            Step::Lookup { verdicts: true, .. } | Step::Verdict(Verdict::Drop) => Some(Effect::Drops),
            Step::Verdict(Verdict::Accept) => Some(Effect::Accepts),
            Step::Verdict(Verdict::Queue) => Some(Effect::Queues),
            Step::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) => self.worst(table, name, seen),
            _ => None,
        });
        let harm = |effect: &Effect| match effect {
            Effect::Accepts => 0,
            Effect::Redirects | Effect::Queues => 1,
            _ => 2,
        };
        effects.max_by_key(harm)
    }

    /// None: it depends on what is not known.
    fn fits(&self, table: &TableName, step: &Step, packet: &Packet, r: &mut Registers) -> Option<bool> {
        match step {
            Step::Meta { key, to } => load(r, *to, meta(*key, packet), show::meta_len(*key)),
            Step::Payload { base, offset, len, to } => {
                let value = (0..*len).map(|n| header(*base, offset + n, packet)).collect::<Vec<_>>();
                put(r, *to, &value);
            }
            Step::Ct { key, to } => {
                let value = match key {
                    0 => Some(STATE_NEW.to_ne_bytes().to_vec()),
                    2 => Some(if packet.redirected { STATUS_DNAT } else { 0 }.to_ne_bytes().to_vec()),
                    _ => None,
                };
                load(r, *to, value, 16);
            }
            Step::Fib { result: 3, flags, to } if flags & 3 == 2 => {
                // RTN_LOCAL, RTN_UNICAST
                let kind: u32 = if packet.to_this_host { 2 } else { 1 };
                load(r, *to, Some(kind.to_ne_bytes().to_vec()), 4);
            }
            Step::Fib { to, .. } => load(r, *to, None, 16),
            Step::Constant { to, value } => load(r, *to, Some(value.clone()), value.len()),
            Step::Mask { from, to, mask, xor } => {
                let masked = |(n, (m, x)): (usize, (&u8, &u8))| match r.get(from + n).copied().flatten() {
                    Some(byte) => Some(byte & m ^ x),
                    // Whatever it is, nothing of it is left.
                    None => (*m == 0).then_some(*x),
                };
                let value: Vec<_> = mask.iter().zip(xor).enumerate().map(masked).collect();
                put(r, *to, &value);
            }
            Step::Compare { from, op, value } => return compare(r, *from, *op, value),
            Step::Range { from, inside, low, high } => {
                let value = window(r, *from, low.len())?;
                return Some((&value >= low && &value <= high) == *inside);
            }
            Step::Lookup { set, from, to, inverted, .. } => {
                let set = self.ruleset.set(table, set)?;
                let Some(found) = search(set, r, *from)? else { return Some(*inverted) };
                if found.conditional {
                    return None;
                }
                if let (Some(to), Some(data)) = (to, &found.data) {
                    load(r, *to, Some(data.clone()), data.len());
                }
                return Some(!inverted);
            }
            _ => {}
        }
        Some(true)
    }

    fn verdict_of(&self, table: &TableName, step: &Step, r: &Registers) -> Sure<Option<Verdict>> {
        let Step::Lookup { set, from, .. } = step else { return Known(None) };
        let Some(set) = self.ruleset.set(table, set) else { return Unsure };
        match search(set, r, *from) {
            None => Unsure,
            Some(None) => Known(None),
            Some(Some(found)) if found.conditional => Unsure,
            Some(Some(found)) => Known(found.verdict.clone()),
        }
    }
}

use Sure::{Known, Unsure};

enum Sure<T> {
    Known(T),
    Unsure,
}

fn put(r: &mut Registers, at: usize, value: &[Option<u8>]) {
    for (n, byte) in value.iter().enumerate() {
        if let Some(place) = r.get_mut(at + n) {
            *place = *byte;
        }
    }
    // What a load leaves of the last register is zero.
    for n in value.len()..value.len().next_multiple_of(4) {
        if let Some(place) = r.get_mut(at + n) {
            *place = Some(0);
        }
    }
}

fn load(r: &mut Registers, at: usize, value: Option<Vec<u8>>, len: usize) {
    match value {
        Some(value) => put(r, at, &value.into_iter().map(Some).collect::<Vec<_>>()),
        None => put(r, at, &vec![None; len]),
    }
}

fn window(r: &Registers, at: usize, len: usize) -> Option<Vec<u8>> {
    r.get(at..at + len)?.iter().copied().collect()
}

fn bytes<const N: usize>(r: &Registers, at: usize) -> Option<[u8; N]> {
    window(r, at, N)?.try_into().ok()
}

fn compare(r: &Registers, from: usize, op: u32, value: &[u8]) -> Option<bool> {
    let there = r.get(from..from + value.len())?;
    // One known byte that differs is enough.
    let differs = there.iter().zip(value).any(|(a, b)| a.is_some_and(|a| a != *b));
    match op {
        0 if differs => return Some(false),
        1 if differs => return Some(true),
        _ => {}
    }
    let there: Vec<u8> = there.iter().copied().collect::<Option<_>>()?;
    let order = there.as_slice().cmp(value);
    Some(match op {
        0 => order.is_eq(),
        1 => order.is_ne(),
        2 => order.is_lt(),
        3 => order.is_le(),
        4 => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// None: not known.
fn search<'s>(set: &'s Set, r: &Registers, from: usize) -> Option<Option<&'s super::ruleset::Element>> {
    let elements = set.elements.as_ref()?;
    let otherwise = set.otherwise.as_deref();
    if elements.is_empty() && otherwise.is_none() {
        return Some(None);
    }
    let padded: usize =
        if let [only] = set.parts.as_slice() { *only } else { set.parts.iter().map(|p| p.next_multiple_of(4)).sum() };
    let Some(key) = window(r, from, padded) else {
        // Some of it is known: when no element agrees with that, none is the one.
        let known = |e: &super::ruleset::Element| {
            e.key.iter().enumerate().all(|(n, byte)| r.get(from + n).copied().flatten().is_none_or(|b| b == *byte))
        };
        let none = !set.intervals && otherwise.is_none() && !elements.iter().any(known);
        return none.then_some(None);
    };
    let found = if !set.intervals {
        elements.iter().find(|e| e.key == key)
    } else if set.parts.len() > 1 {
        elements.iter().find(|e| inside(e, &key, &set.parts))
    } else {
        let behind = elements.partition_point(|e| e.key <= key);
        elements.get(behind.wrapping_sub(1)).filter(|e| !e.end)
    };
    Some(found.or(otherwise))
}

fn inside(element: &super::ruleset::Element, key: &[u8], parts: &[usize]) -> bool {
    let last = element.last.as_ref().unwrap_or(&element.key);
    let mut at = 0;
    parts.iter().all(|len| {
        let part = |bytes: &[u8]| bytes.get(at..at + len).map(<[u8]>::to_vec);
        let fits = match (part(&element.key), part(key), part(last)) {
            (Some(low), Some(key), Some(high)) => low <= key && key <= high,
            _ => false,
        };
        at += len.next_multiple_of(4);
        fits
    })
}

/// None: not known.
fn meta(key: u32, packet: &Packet) -> Option<Vec<u8>> {
    let name = |i: &Interface| {
        let mut bytes = i.name.clone()?.into_bytes();
        bytes.resize(16, 0);
        Some(bytes)
    };
    let index = |i: &Interface| i.index.map(|n| n.to_ne_bytes().to_vec());
    // ARPHRD_ETHER, ARPHRD_LOOPBACK
    let kind = |i: &Interface| if i.loopback { 772u16 } else { 1 }.to_ne_bytes().to_vec();
    match key {
        // ETH_P_IP, ETH_P_IPV6
        1 => Some(if packet.to.is_ipv4() { 0x0800u16 } else { 0x86dd }.to_be_bytes().to_vec()),
        show::MARK => Some(packet.mark.to_ne_bytes().to_vec()),
        4 => index(&packet.input),
        5 => index(&packet.output),
        6 => name(&packet.input),
        7 => name(&packet.output),
        8 if packet.input.name.is_some() => Some(kind(&packet.input)),
        9 if packet.output.name.is_some() => Some(kind(&packet.output)),
        15 => Some(vec![if packet.to.is_ipv4() { IPV4 } else { IPV6 }]),
        16 => Some(vec![packet.protocol]),
        // PACKET_HOST
        19 if packet.output.name.as_deref() == Some("") => Some(vec![if packet.input.loopback { 5 } else { 0 }]),
        _ => None,
    }
}

/// A byte of the packet; None: not known.
fn header(base: u32, offset: u32, packet: &Packet) -> Option<u8> {
    let at = offset as usize;
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    match (base, packet.to) {
        (1, IpAddr::V4(_)) => match at {
            9 => Some(packet.protocol),
            12..16 => octets(packet.from).get(at - 12).copied(),
            16..20 => octets(packet.to).get(at - 16).copied(),
            _ => None,
        },
        (1, IpAddr::V6(_)) => match at {
            6 => Some(packet.protocol),
            8..24 => octets(packet.from).get(at - 8).copied(),
            24..40 => octets(packet.to).get(at - 24).copied(),
            _ => None,
        },
        (2, _) => match at {
            2..4 => packet.port.to_be_bytes().get(at - 2).copied(),
            // A TCP connection begins with SYN alone.
            13 if packet.protocol == 6 => Some(2),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
