//! Rules in words, nearly as the nft tool writes them: to be recognised, not to be read back.

use super::ruleset::{Rule, Step, Verdict};
use std::net::{Ipv4Addr, Ipv6Addr};

/// `meta mark`
pub const MARK: u32 = 3;

const META: [(u32, &str, usize); 20] = [
    (0, "meta length", 4),
    (1, "meta protocol", 2),
    (2, "meta priority", 4),
    (MARK, "meta mark", 4),
    (4, "iif", 4),
    (5, "oif", 4),
    (6, "iifname", 16),
    (7, "oifname", 16),
    (8, "iiftype", 2),
    (9, "oiftype", 2),
    (10, "skuid", 4),
    (11, "skgid", 4),
    (14, "secmark", 4),
    (15, "meta nfproto", 1),
    (16, "meta l4proto", 1),
    (19, "pkttype", 1),
    (20, "cpu", 4),
    (21, "iifgroup", 4),
    (22, "oifgroup", 4),
    (23, "cgroup", 4),
];

/// Bytes of a key of `meta`.
pub fn meta_len(key: u32) -> usize {
    META.iter().find(|(k, ..)| *k == key).map_or(16, |(.., len)| *len)
}

/// nft(8) counts places in packets in bits.
fn in_bits(bytes: u32) -> u64 {
    u64::from(bytes) * 8
}

fn subject(step: &Step) -> Option<String> {
    Some(match step {
        Step::Meta { key, .. } => {
            META.iter().find(|(k, ..)| k == key).map_or_else(|| format!("meta {key}"), |m| m.1.into())
        }
        Step::Payload { base: 1, offset, len, .. } => match (offset, len) {
            (9, 1) => "ip protocol".into(),
            (12, 4) => "ip saddr".into(),
            (16, 4) => "ip daddr".into(),
            (6, 1) => "ip6 nexthdr".into(),
            (8, 16) => "ip6 saddr".into(),
            (24, 16) => "ip6 daddr".into(),
            _ => format!("@nh,{},{}", in_bits(*offset), in_bits(*len)),
        },
        Step::Payload { base: 2, offset, len, .. } => match (offset, len) {
            (0, 2) => "th sport".into(),
            (2, 2) => "th dport".into(),
            _ => format!("@th,{},{}", in_bits(*offset), in_bits(*len)),
        },
        Step::Payload { base, offset, len, .. } => {
            format!("@{},{},{}", if *base == 0 { "ll" } else { "ih" }, in_bits(*offset), in_bits(*len))
        }
        Step::Ct { key, .. } => match key {
            0 => "ct state".into(),
            1 => "ct direction".into(),
            2 => "ct status".into(),
            3 => "ct mark".into(),
            _ => format!("ct {key}"),
        },
        Step::Fib { flags, .. } => format!("fib {}", if flags & 1 != 0 { "saddr" } else { "daddr" }),
        _ => return None,
    })
}

/// A value of what stands before it.
fn value(subject: &str, bytes: &[u8]) -> String {
    let number = |bytes: &[u8]| bytes.iter().fold(0u128, |n, b| n << 8 | u128::from(*b));
    let native = || bytes.first_chunk().map_or_else(|| number(bytes), |b| u128::from(u32::from_ne_bytes(*b)));
    match (subject, bytes) {
        ("iifname" | "oifname", name) => {
            let end = name.iter().position(|b| *b == 0);
            let text = String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).into_owned();
            // Without an end it is the beginning of names.
            format!("\"{text}{}\"", if end.is_none() && name.len() < 16 { "*" } else { "" })
        }
        ("ip saddr" | "ip daddr", bytes) => {
            bytes.first_chunk::<4>().map_or_else(|| number(bytes).to_string(), |b| Ipv4Addr::from(*b).to_string())
        }
        ("ip6 saddr" | "ip6 daddr", bytes) => {
            bytes.first_chunk::<16>().map_or_else(|| number(bytes).to_string(), |b| Ipv6Addr::from(*b).to_string())
        }
        ("meta l4proto" | "ip protocol" | "ip6 nexthdr", [protocol]) => match protocol {
            1 => "icmp".into(),
            6 => "tcp".into(),
            17 => "udp".into(),
            58 => "icmpv6".into(),
            132 => "sctp".into(),
            other => other.to_string(),
        },
        ("ct state" | "ct status" | "ct mark" | "iif" | "oif", _) => bits(subject, native()),
        ("meta mark", _) => format!("{:#x}", native()),
        ("fib daddr" | "fib saddr", _) => {
            if native() == 2 {
                "type local".into()
            } else {
                format!("type {}", native())
            }
        }
        _ => number(bytes).to_string(),
    }
}

fn bits(subject: &str, number: u128) -> String {
    const STATES: [(u128, &str); 5] =
        [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
    const STATUS: [(u128, &str); 2] = [(16, "snat"), (32, "dnat")];
    let names: &[(u128, &str)] = match subject {
        "ct state" => &STATES,
        "ct status" => &STATUS,
        _ => return number.to_string(),
    };
    let named: Vec<&str> = names.iter().filter(|(bit, _)| number & bit != 0).map(|(_, name)| *name).collect();
    if named.is_empty() { number.to_string() } else { named.join(",") }
}

/// A step by itself.
pub fn step(step: &Step) -> String {
    match step {
        Step::Lookup { set, inverted, .. } => format!("{}{}", if *inverted { "!= " } else { "" }, set_name(set)),
        Step::Unknown(name) | Step::Passive(name) => name.clone(),
        Step::Compare { .. } | Step::Range { .. } => "a comparison".to_owned(),
        other => subject(other).unwrap_or_else(|| verdict(other)),
    }
}

fn set_name(set: &str) -> String {
    if set.starts_with("__") { "{ … }".to_owned() } else { format!("@{set}") }
}

fn verdict(step: &Step) -> String {
    match step {
        Step::Verdict(verdict) => match verdict {
            Verdict::Accept => "accept".into(),
            Verdict::Drop => "drop".into(),
            Verdict::Queue => "queue".into(),
            Verdict::Jump(chain) => format!("jump {chain}"),
            Verdict::Goto(chain) => format!("goto {chain}"),
            Verdict::Return => "return".into(),
            Verdict::Continue => "continue".into(),
        },
        Step::Dnat { .. } => "dnat".into(),
        Step::Redirect { .. } => "redirect".into(),
        Step::Snat => "snat".into(),
        Step::Reject => "reject".into(),
        Step::Copy => "dup".into(),
        Step::SetMeta { key, .. } => {
            if *key == MARK {
                "meta mark set …".into()
            } else {
                "meta set …".into()
            }
        }
        _ => String::new(),
    }
}

/// A prefix, where a mask is one.
fn prefix(mask: &[u8]) -> Option<u32> {
    let ones = mask.iter().map(|b| b.leading_ones()).sum::<u32>();
    let all = mask.iter().map(|b| b.count_ones()).sum::<u32>();
    let straight = mask.windows(2).all(|w| w[0] == 0xff || w[1] == 0);
    (ones == all && straight).then_some(ones)
}

/// The whole rule on one line.
pub fn rule(rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut subjects: Vec<String> = Vec::new();
    let mut masked: Option<Vec<u8>> = None;
    let mut protocol: Option<String> = None;
    for step in &rule.steps {
        if let Some(next) = subject(step) {
            if masked.take().is_some() {
                subjects.clear();
            }
            subjects.push(next);
            continue;
        }
        let about = |subjects: &[String]| subjects.join(" . ");
        match step {
            Step::Mask { mask, .. } => masked = Some(mask.clone()),
            Step::Compare { op, value: wanted, .. } => {
                let last = subjects.last().cloned().unwrap_or_default();
                let (text, op) = match masked.take() {
                    Some(mask) if last.ends_with("addr") && prefix(&mask).is_some() => {
                        (format!("{}/{}", value(&last, wanted), prefix(&mask).unwrap_or_default()), *op)
                    }
                    // A bit is set: different from nothing.
                    Some(mask) if *op == 1 && wanted.iter().all(|b| *b == 0) => (value(&last, &mask), 0),
                    _ => (value(&last, wanted), *op),
                };
                subjects.clear();
                if last == "meta l4proto" && op == 0 {
                    protocol = Some(text);
                    continue;
                }
                let sign = ["", "!= ", "< ", "<= ", "> ", ">= "].get(op as usize).copied().unwrap_or("? ");
                words.push(format!("{} {sign}{text}", of_protocol(&last, &mut protocol)));
            }
            Step::Range { inside, low, high, .. } => {
                let last = subjects.pop().unwrap_or_default();
                let sign = if *inside { "" } else { "!= " };
                let (low, high) = (value(&last, low), value(&last, high));
                words.push(format!("{} {sign}{low}-{high}", of_protocol(&last, &mut protocol)));
            }
            Step::Lookup { set, inverted, verdicts, to, .. } => {
                let sign = if *inverted { "!= " } else { "" };
                let kind = if *verdicts {
                    "vmap "
                } else if to.is_some() {
                    "map "
                } else {
                    ""
                };
                let subject = of_protocol(&about(&subjects), &mut protocol);
                words.push(format!("{subject} {kind}{sign}{}", set_name(set)));
                subjects.clear();
            }
            Step::Constant { .. } => {}
            Step::Passive(name) | Step::Unknown(name) => words.push(name.clone()),
            other => words.push(verdict(other)),
        }
    }
    if let Some(protocol) = protocol {
        words.insert(0, format!("meta l4proto {protocol}"));
    }
    words.join(" ")
}

/// `tcp dport` in the place of `meta l4proto tcp th dport`.
fn of_protocol(subject: &str, protocol: &mut Option<String>) -> String {
    match (subject.strip_prefix("th "), protocol.take()) {
        (Some(field), Some(protocol)) => format!("{protocol} {field}"),
        (_, before) => {
            *protocol = before;
            subject.to_owned()
        }
    }
}
