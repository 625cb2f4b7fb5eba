//! `-p [IP:][HOST:]CONTAINER[/PROTOCOL]`.

use crate::error::{Error, Result};
use berth::v1;
use std::net::IpAddr;

/// Ranges of more ports than this are one mapping.
const SINGLE_PORTS: u16 = 64;

/// One mapping for each port of a short range, one for a long range.
pub fn publish(text: &str) -> Result<Vec<v1::PortMapping>> {
    let bad = |why: &str| {
        Error::usage(format!("--publish {text:?}: {why}"))
            .hint("write [IP:][HOST:]CONTAINER[/PROTOCOL], such as 8080:80 or 127.0.0.1:53:53/udp")
    };
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
    let range = |s: &str| -> Result<(u16, u16)> {
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
    if let Some((h1, h2)) = host
        && h2 - h1 != last - first
    {
        return Err(bad("both ranges must have the same number of ports"));
    }
    if let Some((host_port, _)) = host
        && last - first >= SINGLE_PORTS
    {
        return Ok(vec![v1::PortMapping {
            host_ip: ip.to_owned(),
            host_port: host_port.into(),
            container_port: first.into(),
            protocol: protocol.into(),
            count: u32::from(last - first) + 1,
        }]);
    }
    Ok((first..=last)
        .map(|container_port| v1::PortMapping {
            host_ip: ip.to_owned(),
            host_port: host.map_or(0, |(h, _)| u32::from(h + (container_port - first))),
            container_port: container_port.into(),
            protocol: protocol.into(),
            count: 0,
        })
        .collect())
}
