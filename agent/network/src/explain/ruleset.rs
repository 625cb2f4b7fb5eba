//! The host's whole nftables ruleset as the kernel tells it: tables, chains, rules, sets. linux/netfilter/nf_tables.h.
//!
//! Read-only, and only as far as a packet's way depends on it. What is not known here stays in place under its name: whoever follows a packet
//! must know that there is something.

use crate::netlink::{DUMP, Failure, Messages, attributes, find};
use std::collections::HashMap;

const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_ELEMENT: u16 = 13;
/// A table that the kernel keeps and does not use.
const DORMANT: u32 = 1;
/// Elements of one set; a larger one is not evaluated.
const ELEMENTS: usize = 1 << 17;

/// Bytes that a rule's registers hold (NFT_REG32_15 of linux/netfilter/nf_tables.h): no load is longer.
pub(super) const REGISTERS: u32 = 64;
/// The largest packet of IP: no rule looks behind it.
const PACKET: u32 = u16::MAX as u32;
const SET_INTERVAL: u32 = 0x4;
const SET_CONCATENATION: u32 = 0x80;
const ELEMENT_END: u32 = 1;
const ELEMENT_CATCHALL: u32 = 2;

/// NFPROTO_*
pub const INET: u8 = 1;
pub const IPV4: u8 = 2;
pub const NETDEV: u8 = 5;
pub const IPV6: u8 = 10;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TableName {
    pub family: u8,
    pub name: String,
}

impl TableName {
    /// As the nft tool writes it: `inet filter`.
    pub fn shown(&self) -> String {
        let family = match self.family {
            INET => "inet",
            IPV4 => "ip",
            3 => "arp",
            NETDEV => "netdev",
            7 => "bridge",
            IPV6 => "ip6",
            _ => "?",
        };
        format!("{family} {}", self.name)
    }
}

/// Where and when a base chain is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    pub hook: u32,
    pub priority: i32,
    /// filter, nat, route
    pub kind: String,
    /// What becomes of a packet that no rule decides about.
    pub drops: bool,
    /// Of a netdev chain.
    pub devices: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    pub table: TableName,
    pub name: String,
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub handle: u64,
    pub steps: Vec<Step>,
    pub comment: Option<String>,
}

/// What decides about a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Accept,
    Drop,
    Queue,
    Jump(String),
    Goto(String),
    Return,
    Continue,
}

/// One expression of a rule. Registers are offsets in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Meta {
        key: u32,
        to: usize,
    },
    SetMeta {
        key: u32,
        from: usize,
    },
    Payload {
        base: u32,
        offset: u32,
        len: u32,
        to: usize,
    },
    Ct {
        key: u32,
        to: usize,
    },
    Fib {
        result: u32,
        flags: u32,
        to: usize,
    },
    Compare {
        from: usize,
        op: u32,
        value: Vec<u8>,
    },
    Mask {
        from: usize,
        to: usize,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Range {
        from: usize,
        inside: bool,
        low: Vec<u8>,
        high: Vec<u8>,
    },
    Lookup {
        set: String,
        from: usize,
        to: Option<usize>,
        inverted: bool,
        verdicts: bool,
    },
    Constant {
        to: usize,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// Where both are known: the registers of the address and of the port.
    Dnat {
        address: Option<usize>,
        port: Option<usize>,
    },
    /// To the host itself.
    Redirect {
        port: Option<usize>,
    },
    Snat,
    Reject,
    /// The packet is copied elsewhere.
    Copy,
    /// Changes nothing for the packet at hand: counters, logs.
    Passive(String),
    /// Not known: it may match or not.
    Unknown(String),
}

/// A set or a map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Set {
    pub intervals: bool,
    /// Lengths of the parts of a key, each padded to 4 bytes; of one part where it is no concatenation.
    pub parts: Vec<usize>,
    /// Sorted by key, an end before a start at the same place. None: it has too many.
    pub elements: Option<Vec<Element>>,
    /// Of a map: what is not found leads there.
    pub otherwise: Option<Box<Element>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Element {
    pub key: Vec<u8>,
    /// Of a range of concatenations.
    pub last: Option<Vec<u8>>,
    /// Where an interval is over.
    pub end: bool,
    pub data: Option<Vec<u8>>,
    pub verdict: Option<Verdict>,
    /// It has expressions of its own (limits).
    pub conditional: bool,
}

/// Sends messages and hands on the kind and the body of each reply.
pub type Ask<'a> = dyn FnMut(&mut Messages, &mut dyn FnMut(u16, &[u8])) -> Result<(), Failure> + 'a;

#[derive(Debug, Default)]
pub struct Ruleset {
    pub chains: Vec<Chain>,
    sets: HashMap<(TableName, String), Set>,
}

impl Ruleset {
    /// What the kernel has now that `ask` asks.
    pub fn read(ask: &mut Ask<'_>) -> Result<Ruleset, Failure> {
        let mut dormant = Vec::new();
        dump(ask, GET_TABLE, |family, body| {
            if number(body, 2).unwrap_or_default() & DORMANT != 0 {
                dormant.extend(text(body, 1).map(|name| TableName { family, name }));
            }
        })?;
        let mut chains: Vec<Chain> = Vec::new();
        dump(ask, GET_CHAIN, |family, body| chains.extend(chain(family, body)))?;
        chains.retain(|c| !dormant.contains(&c.table));
        let places: HashMap<_, _> =
            chains.iter().enumerate().map(|(n, c)| ((c.table.clone(), c.name.clone()), n)).collect();
        let mut ruleset = Ruleset { chains, sets: HashMap::new() };
        dump(ask, GET_RULE, |family, body| {
            let (Some(table), Some(name)) = (text(body, 1), text(body, 2)) else { return };
            if let Some(n) = places.get(&(TableName { family, name: table }, name))
                && let Some(chain) = ruleset.chains.get_mut(*n)
            {
                chain.rules.push(rule(body));
            }
        })?;
        ruleset.read_sets(ask)?;
        Ok(ruleset)
    }

    fn read_sets(&mut self, ask: &mut Ask<'_>) -> Result<(), Failure> {
        let mut sets = HashMap::new();
        dump(ask, GET_SET, |family, body| {
            if let (Some(table), Some(name)) = (text(body, 1), text(body, 2)) {
                sets.insert((TableName { family, name: table }, name), set(body));
            }
        })?;
        // Only those that a rule asks.
        let asked = |(table, name): &(TableName, String)| {
            let of_table = self.chains.iter().filter(|c| c.table == *table);
            let mut steps = of_table.flat_map(|c| &c.rules).flat_map(|r| &r.steps);
            steps.any(|s| matches!(s, Step::Lookup { set, .. } if set == name))
        };
        sets.retain(|key, _| asked(key));
        for ((table, name), set) in &mut sets {
            read_elements(ask, table, name, set)?;
        }
        self.sets = sets;
        Ok(())
    }

    pub fn chain(&self, table: &TableName, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|c| c.table == *table && c.name == name)
    }

    pub fn set(&self, table: &TableName, name: &str) -> Option<&Set> {
        self.sets.get(&(table.clone(), name.to_owned()))
    }

    #[cfg(test)]
    pub fn of(chains: Vec<Chain>, sets: Vec<(TableName, &str, Set)>) -> Ruleset {
        Ruleset { chains, sets: sets.into_iter().map(|(t, n, s)| ((t, n.to_owned()), s)).collect() }
    }
}

/// Calls `each` with the family and the attributes of every object.
fn dump(ask: &mut Ask<'_>, kind: u16, mut each: impl FnMut(u8, &[u8])) -> Result<(), Failure> {
    let mut m = Messages::new();
    m.begin(SUBSYSTEM | kind, DUMP, &[0, 0, 0, 0]);
    ask(&mut m, &mut |_, body| {
        if let (Some(family), Some(attributes)) = (body.first(), body.get(4..)) {
            each(*family, attributes);
        }
    })
}

fn read_elements(ask: &mut Ask<'_>, table: &TableName, name: &str, set: &mut Set) -> Result<(), Failure> {
    const ENOENT: i32 = 2;
    let mut m = Messages::new();
    m.begin(SUBSYSTEM | GET_ELEMENT, DUMP, &[table.family, 0, 0, 0]).text(1, &table.name).text(2, name);
    let mut found = Some(Vec::new());
    let mut otherwise = None;
    let dumped = ask(&mut m, &mut |_, body| {
        let list = body.get(4..).and_then(|body| find(body, 3)).unwrap_or(&[]);
        for (_, one) in attributes(list) {
            let (flags, one) = (number(one, 3).unwrap_or_default(), element(one));
            if flags & ELEMENT_CATCHALL != 0 {
                otherwise = Some(Box::new(one));
            } else if let Some(list) = &mut found {
                list.push(Element { end: flags & ELEMENT_END != 0, ..one });
            }
        }
        found.take_if(|list| list.len() > ELEMENTS);
    });
    match dumped {
        // It went meanwhile.
        Err(failure) if failure.errno() == ENOENT => {}
        other => other?,
    }
    if let Some(list) = &mut found {
        list.sort_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end)));
    }
    (set.elements, set.otherwise) = (found, otherwise);
    Ok(())
}

fn number(body: &[u8], kind: u16) -> Option<u32> {
    find(body, kind)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn text(body: &[u8], kind: u16) -> Option<String> {
    let bytes = find(body, kind)?;
    Some(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
}

fn chain(family: u8, body: &[u8]) -> Option<Chain> {
    let table = TableName { family, name: text(body, 1)? };
    let base = find(body, 4).and_then(|hook| {
        let devices = find(hook, 4).map(|list| attributes(list).map(|(_, name)| device(name)).collect::<Vec<_>>());
        Some(Base {
            hook: number(hook, 1)?,
            priority: number(hook, 2)?.cast_signed(),
            kind: text(body, 7).unwrap_or_default(),
            drops: number(body, 5) == Some(0),
            devices: devices.unwrap_or_else(|| find(hook, 3).map(device).into_iter().collect()),
        })
    });
    Some(Chain { table, name: text(body, 3)?, base, rules: Vec::new() })
}

fn device(name: &[u8]) -> String {
    String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned()
}

fn rule(body: &[u8]) -> Rule {
    let handle = find(body, 3).and_then(|h| h.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b));
    let list = find(body, 4).unwrap_or(&[]);
    let steps = attributes(list).map(|(_, e)| step(&text(e, 1).unwrap_or_default(), find(e, 2).unwrap_or(&[])));
    Rule { handle, steps: steps.collect(), comment: find(body, 7).and_then(comment) }
}

/// libnftnl's own format of user data: type, length, value; a comment is type 0 and ends with a NUL.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = data {
        let value = rest.get(..usize::from(*len))?;
        if *kind == 0 {
            return Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned());
        }
        data = rest.get(usize::from(*len)..)?;
    }
    None
}

/// Offset of a register: NFT_REG_1 to 4 have 16 bytes, NFT_REG32_00 to 15 have 4 of the same.
fn register(number: u32) -> Option<usize> {
    match number {
        1..=4 => Some((number as usize - 1) * 16),
        8..=23 => Some((number as usize - 8) * 4),
        _ => None,
    }
}

fn verdict(body: &[u8]) -> Option<Verdict> {
    let chain = || text(body, 2);
    Some(match number(body, 1)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        // The number of the queue is in the upper half.
        code if code & 0xff == 3 && code > 0 => Verdict::Queue,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

fn step(name: &str, data: &[u8]) -> Step {
    known(name, data).unwrap_or_else(|| {
        // What iptables-nft could not say in the language of nftables: its own name is inside.
        let inner = matches!(name, "match" | "target").then(|| text(data, 1)).flatten();
        match (name, inner.as_deref()) {
            ("target", Some("LOG" | "NFLOG")) => Step::Passive("log".into()),
            ("target", Some("REJECT")) => Step::Reject,
            ("match", Some("comment")) => Step::Passive("comment".into()),
            (_, Some(inner)) => Step::Unknown(format!("{name} {inner}")),
            (_, None) => Step::Unknown(name.to_owned()),
        }
    })
}

/// None: not known, or not in all of it.
fn known(name: &str, data: &[u8]) -> Option<Step> {
    let at = |kind| number(data, kind).and_then(register);
    let value = |kind| find(data, kind).and_then(|d| find(d, 1)).map(<[u8]>::to_vec);
    Some(match name {
        "meta" => match (at(1), at(3), number(data, 2)?) {
            (Some(to), _, key) => Step::Meta { key, to },
            (None, Some(from), key) => Step::SetMeta { key, from },
            _ => return None,
        },
        "payload" => match at(1) {
            Some(to) => Step::Payload {
                base: number(data, 2)?,
                offset: number(data, 3).filter(|offset| *offset <= PACKET)?,
                len: number(data, 4).filter(|len| *len <= REGISTERS)?,
                to,
            },
            // It writes into the packet: berth's own does, and mangles of others.
            None => Step::Passive("payload set".into()),
        },
        "ct" => match at(1) {
            Some(to) => Step::Ct { key: number(data, 2)?, to },
            None => Step::Passive("ct set".into()),
        },
        "fib" => Step::Fib { result: number(data, 2)?, flags: number(data, 3).unwrap_or_default(), to: at(1)? },
        "cmp" => Step::Compare { from: at(1)?, op: number(data, 2).filter(|op| *op <= 5)?, value: value(3)? },
        "bitwise" if number(data, 6).unwrap_or_default() == 0 => {
            Step::Mask { from: at(1)?, to: at(2)?, mask: value(4)?, xor: value(5)? }
        }
        "range" => Step::Range { from: at(1)?, inside: number(data, 2)? == 0, low: value(3)?, high: value(4)? },
        "lookup" => {
            let to = number(data, 3);
            Step::Lookup {
                set: text(data, 1)?,
                from: at(2)?,
                to: to.and_then(register),
                inverted: number(data, 5).unwrap_or_default() & 1 != 0,
                verdicts: to == Some(0),
            }
        }
        "immediate" => match at(1) {
            Some(to) => Step::Constant { to, value: value(2)? },
            None => Step::Verdict(verdict(find(find(data, 2)?, 2)?)?),
        },
        "nat" if number(data, 1)? == 1 => Step::Dnat { address: at(3), port: at(5) },
        "nat" | "masq" => Step::Snat,
        "redir" => Step::Redirect { port: at(1) },
        "reject" => Step::Reject,
        "dup" => Step::Copy,
        "counter" | "log" | "last" | "notrack" | "flow_offload" | "objref" | "dynset" => Step::Passive(name.to_owned()),
        _ => return None,
    })
}

fn set(body: &[u8]) -> Set {
    let flags = number(body, 3).unwrap_or_default();
    let len = number(body, 5).unwrap_or_default() as usize;
    let fields = find(body, 9).and_then(|d| find(d, 2)).filter(|_| flags & SET_CONCATENATION != 0);
    let parts = fields.map(|list| attributes(list).filter_map(|(_, f)| Some(number(f, 1)? as usize)).collect());
    Set { intervals: flags & SET_INTERVAL != 0, parts: parts.unwrap_or_else(|| vec![len]), ..Set::default() }
}

fn element(body: &[u8]) -> Element {
    let value = |kind| find(body, kind).and_then(|d| find(d, 1)).map(<[u8]>::to_vec);
    Element {
        key: value(1).unwrap_or_default(),
        last: value(10),
        end: false,
        data: value(2),
        verdict: find(body, 2).and_then(|d| find(d, 2)).and_then(verdict),
        conditional: find(body, 7).is_some() && !is_counter(find(body, 7)) || find(body, 11).is_some(),
    }
}

fn is_counter(expression: Option<&[u8]>) -> bool {
    expression.and_then(|e| text(e, 1)).as_deref() == Some("counter")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Socket;
    use berth_sys::net::NetlinkFamily;

    #[test]
    fn the_hosts_ruleset_is_read_whole() {
        let mut socket = Socket::open(NetlinkFamily::Netfilter).unwrap();
        let ruleset = Ruleset::read(&mut |m, look| socket.converse(m, false, look)).unwrap();
        for chain in &ruleset.chains {
            assert!(!chain.name.is_empty() && !chain.table.name.is_empty());
        }
    }

    #[test]
    fn what_is_cut_is_not_known() {
        for name in ["meta", "payload", "cmp", "bitwise", "range", "lookup", "immediate", "nat", "fib", "nonsense"] {
            assert!(!matches!(step(name, &[]), Step::Verdict(_) | Step::Compare { .. }), "{name}");
        }
        // A load that no kernel makes, as a hostile answer could have it: four bytes for the attribute's head, big-endian numbers.
        let payload = |offset: u32, len: u32| {
            let fields = [(1_u16, 1), (2, 1), (3, offset), (4, len)];
            let data = fields
                .iter()
                .flat_map(|(kind, n)| [&8_u16.to_ne_bytes(), &kind.to_ne_bytes(), &n.to_be_bytes()[..]].concat());
            step("payload", &data.collect::<Vec<_>>())
        };
        assert_eq!(payload(2, 64), Step::Payload { base: 1, offset: 2, len: 64, to: 0 });
        for (offset, len) in [(2, 65), (2, 0x3000_0002), (0x1_0000, 2), (u32::MAX, u32::MAX)] {
            assert!(matches!(payload(offset, len), Step::Unknown(_)), "{offset} {len}");
        }
        assert_eq!(step("limit", &[1, 2, 3]), Step::Unknown("limit".into()));
        assert_eq!(comment(&[1, 2, 9, 9, 0, 4, b'w', b'e', b'b', 0]), Some("web".into()));
        assert_eq!(comment(&[0, 200, 1]), None);
        assert_eq!(
            (register(1), register(4), register(8), register(23), register(0), register(24)),
            (Some(0), Some(48), Some(0), Some(60), None, None)
        );
    }
}
