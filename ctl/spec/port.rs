//! `-p [IP:][HOST:]CONTAINER[/PROTOCOL]`, with ranges; a range for one port of the container leaves the choice to the agent.

use crate::error::{Error, Result};
use berth::v1;
use std::net::IpAddr;

/// Ranges of more ports than this are one mapping.
const SINGLE_PORTS: u16 = 64;

/// One mapping for each port of a short range, one for a long range.
pub fn publish(text: &str) -> Result<Vec<v1::PortMapping>> {
    let mapping = parse(text).map_err(|why| wrong(&format!("--publish {text:?}"), &why))?;
    if mapping.host_port > 0 && mapping.count > SINGLE_PORTS.into() {
        return Ok(vec![mapping]);
    }
    Ok((0..mapping.count)
        .map(|n| v1::PortMapping {
            host_port: if mapping.host_port == 0 { 0 } else { mapping.host_port + n },
            container_port: mapping.container_port + n,
            count: 0,
            ..mapping.clone()
        })
        .collect())
}

/// One mapping, of ports that are to be closed.
pub fn close(text: &str) -> Result<v1::PortMapping> {
    parse(text).map_err(|why| wrong(&format!("{text:?}"), &why))
}

fn wrong(what: &str, why: &str) -> Error {
    Error::usage(format!("{what}: {why}"))
        .hint("write [IP:][HOST:]CONTAINER[/PROTOCOL], such as 8080:80 or 127.0.0.1:53:53/udp")
}

/// `--expose PORT[-PORT][/PROTOCOL]`: every port of it, as images write them.
pub fn exposed(text: &str) -> Result<Vec<String>> {
    let ports = parse(text).ok().filter(|_| !text.contains(':')).ok_or_else(|| {
        Error::usage(format!(
            "--expose {text:?}: must be a port of 1 to 65535, or a range of them, and /tcp, /udp or /sctp behind it"
        ))
    })?;
    let protocol = match ports.protocol() {
        v1::Protocol::Udp => "udp",
        v1::Protocol::Sctp => "sctp",
        v1::Protocol::Tcp | v1::Protocol::Unspecified => "tcp",
    };
    Ok((0..ports.count).map(|n| format!("{}/{protocol}", ports.container_port + n)).collect())
}

/// With its count, also of one port; or what is wrong with it.
fn parse(text: &str) -> std::result::Result<v1::PortMapping, String> {
    let bad = |why: &str| why.to_owned();
    let (rest, protocol) = match text.split_once('/') {
        None => (text, v1::Protocol::Tcp),
        Some((rest, p)) => match p.to_ascii_lowercase().as_str() {
            "tcp" => (rest, v1::Protocol::Tcp),
            "udp" => (rest, v1::Protocol::Udp),
            "sctp" => (rest, v1::Protocol::Sctp),
            _ => return Err(bad(&format!("protocol {p:?} must be tcp, udp or sctp"))),
        },
    };
    let (front, container) = match rest.rsplit_once(':') {
        Some((front, container)) => (Some(front), container),
        None => (None, rest),
    };
    let (ip, host) = match front {
        None => ("", ""),
        Some(f) => match f.strip_prefix('[') {
            Some(v6) => {
                let (ip, tail) = v6.split_once(']').ok_or_else(|| bad("']' is missing"))?;
                (ip, tail.strip_prefix(':').ok_or_else(|| bad("a port must follow the address"))?)
            }
            None if f.matches(':').count() > 1 => return Err(bad("an IPv6 address stands in brackets")),
            None => f.split_once(':').unwrap_or(("", f)),
        },
    };
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(bad(&format!("{ip:?} is no address; an IPv6 address stands in brackets")));
    }
    let range = |s: &str| -> std::result::Result<(u16, u16), String> {
        let (first, last) = s.split_once('-').unwrap_or((s, s));
        let port = |p: &str| {
            p.parse::<u16>()
                .ok()
                .filter(|&n| n > 0 && p.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| bad(&format!("port {p:?} must be 1 to 65535")))
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(bad(&format!("the range {s:?} runs backwards")));
        }
        Ok((first, last))
    };
    let (first, last) = range(container)?;
    let host = if host.is_empty() { None } else { Some(range(host)?) };
    let count = u32::from(last - first) + 1;
    let mut choice = 0;
    if let Some((h1, h2)) = host
        && h2 - h1 != last - first
    {
        if first != last {
            return Err(bad("both ranges must have the same number of ports, or the container's one port"));
        }
        choice = u32::from(h2 - h1) + 1;
    }
    Ok(v1::PortMapping {
        host_ip: ip.to_owned(),
        host_port: host.map_or(0, |(h, _)| h.into()),
        container_port: first.into(),
        protocol: protocol.into(),
        count,
        choice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift64: the same sequence in every run.
    fn random(state: &mut u64, below: u64) -> u64 {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            *state ^= if left { *state << by } else { *state >> by };
        }
        *state % below
    }

    #[test]
    fn what_is_written_is_what_is_asked_for() {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let mut next = |below: u64| random(&mut seed, below);
        for _ in 0..20_000 {
            let count = 1 + if next(4) == 0 { next(200) } else { next(3) } as u32;
            let most = u64::from(65_536 - count);
            let (host, container) = (1 + next(most) as u32, 1 + next(most) as u32);
            let (ip, shown) =
                [("", ""), ("192.0.2.1", "192.0.2.1:"), ("2001:db8::1", "[2001:db8::1]:")][next(3) as usize];
            let (word, protocol) =
                [("", v1::Protocol::Tcp), ("/UDP", v1::Protocol::Udp), ("/sctp", v1::Protocol::Sctp)][next(3) as usize];
            let range = |first: u32| match count {
                1 => first.to_string(),
                _ => format!("{first}-{}", first + count - 1),
            };
            let chosen = next(4) == 0;
            let host_text = if chosen { String::new() } else { range(host) };
            let colon = if chosen && shown.is_empty() { "" } else { ":" };
            let text = format!("{shown}{host_text}{colon}{}{word}", range(container));
            let mappings = publish(&text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            let ports: Vec<(u32, u32)> = mappings
                .iter()
                .flat_map(|m| {
                    (0..m.count.max(1)).map(move |n| (if chosen { 0 } else { m.host_port + n }, m.container_port + n))
                })
                .collect();
            let wanted: Vec<_> = (0..count).map(|n| (if chosen { 0 } else { host + n }, container + n)).collect();
            assert_eq!(ports, wanted, "{text}");
            assert!(mappings.iter().all(|m| m.host_ip == ip && m.protocol == i32::from(protocol)), "{text}");
        }
    }

    #[test]
    fn errors_speak_of_what_was_written() {
        let said = publish("x").expect_err("no port").message;
        assert_eq!(said, "--publish \"x\": port \"x\" must be 1 to 65535");
        let said = close("x").expect_err("no port").message;
        assert_eq!(said, "\"x\": port \"x\" must be 1 to 65535");
        for bad in ["x", "1:80", "80/dccp", "9-8"] {
            assert!(exposed(bad).expect_err("no port").message.starts_with("--expose"), "{bad}");
        }
        assert_eq!(exposed("80-81/udp").expect("ports"), ["80/udp", "81/udp"]);
    }

    #[test]
    fn whatever_is_written_is_answered() {
        let mut seed = 0x2545_f491_4f6c_dd1d;
        let mut next = |below: u64| random(&mut seed, below);
        let parts =
            ["0", "1", "80", "65535", "65536", "-", ":", "[", "]", "/", "tcp", "x", "::1", "127.0.0.1", " ", "+", "é"];
        for _ in 0..50_000 {
            let text: String = (0..next(9)).map(|_| parts[next(parts.len() as u64) as usize]).collect();
            for mapping in publish(&text).into_iter().flatten() {
                let last = |first: u32| first + mapping.count.max(1) - 1;
                assert!(mapping.container_port > 0 && last(mapping.container_port) <= 65_535, "{text}");
                assert!(last(mapping.host_port) <= 65_535, "{text}");
                assert!(mapping.host_ip.is_empty() || mapping.host_ip.parse::<IpAddr>().is_ok(), "{text}");
            }
        }
    }
}
