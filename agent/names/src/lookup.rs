//! Who answers a question: this server, from what the agent has told, or another one.

use crate::packet::{A, AAAA, ANY, IN, PTR, Query, Rcode, Record};
use crate::zone::Index;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How long an answer may be kept: an address changes with every start of a container.
pub const TTL_SECS: u32 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The records are beside it.
    Answer(Rcode),
    /// Not known here, and other servers may be asked.
    Forward,
}

/// Looks a question up that came in on network `at` from `asker`. `turn` is another number each time: who comes first among several changes with
/// it.
///
/// A container is found in the network that the question came in on, else in another one of the asker's, as far as it has some. What is known here is
/// never asked of others, also where it has no address of the family that was asked for.
pub fn look_up<N: AsRef<Index>>(
    networks: &[N],
    at: usize,
    asker: IpAddr,
    query: &Query<'_>,
    turn: usize,
    records: &mut Vec<Record>,
) -> Verdict {
    records.clear();
    let Some(here) = networks.get(at).map(N::as_ref) else { return Verdict::Answer(Rcode::ServFail) };
    if query.edns.is_some_and(|e| e.version > 0) {
        return Verdict::Answer(Rcode::BadVers);
    }
    if let Some(name) = query.name.as_ref().filter(|_| query.class == IN) {
        let name = name.as_bytes();
        let id = here.at(asker).map(|host| host.id.as_str());
        let others = networks.iter().map(N::as_ref).enumerate();
        let others = others.filter(|(i, n)| *i != at && id.is_some_and(|id| n.has(id)));
        let mut mine = std::iter::once(here).chain(others.map(|(_, network)| network));
        if let Some((network, places)) = mine.clone().find_map(|n| Some((n, n.named(name)?))) {
            let start = turn % places.len().max(1);
            let turned = places[start..].iter().chain(&places[..start]);
            let turned = turned.filter_map(|place| network.zone.hosts.get(*place as usize));
            // Where all are unwell, perhaps it is their checks that are.
            let all = turned.clone().all(|host| host.unwell);
            for host in turned.filter(|host| all || !host.unwell) {
                records.extend(host.addresses.iter().filter_map(|a| match a {
                    IpAddr::V4(a) if matches!(query.kind, A | ANY) => Some(Record::A(*a)),
                    IpAddr::V6(a) if matches!(query.kind, AAAA | ANY) => Some(Record::Aaaa(*a)),
                    _ => None,
                }));
            }
            return Verdict::Answer(Rcode::NoError);
        }
        if let Some(address) = reverse(name)
            && let Some(network) = mine.find(|n| n.zone.contains(address))
        {
            let Some(host) = network.at(address) else { return Verdict::Answer(Rcode::NxDomain) };
            if matches!(query.kind, PTR | ANY) {
                records.push(Record::Ptr(format!("{}.{}", host.name, network.zone.network)));
            }
            return Verdict::Answer(Rcode::NoError);
        }
    }
    // SERVFAIL, not NXDOMAIN: the container may have another server that knows the name.
    if here.zone.forward { Verdict::Forward } else { Verdict::Answer(Rcode::ServFail) }
}

/// The address in a name of in-addr.arpa (RFC 1035, 3.5) or ip6.arpa (RFC 3596, 2.5), in lower case.
fn reverse(name: &[u8]) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(b".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut parts = digits.split(|b| *b == b'.');
        for octet in octets.iter_mut().rev() {
            let part = parts.next().filter(|p| p.len() == 1 || p.first() != Some(&b'0'))?;
            *octet = std::str::from_utf8(part).ok().filter(|p| !p.starts_with('+'))?.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(b".ip6.arpa")?;
    if digits.len() != 63 {
        return None;
    }
    let mut address = 0u128;
    for (i, byte) in digits.iter().enumerate() {
        match (i % 2, byte) {
            (0, digit) => address |= u128::from(char::from(*digit).to_digit(16)?) << (2 * i),
            (_, b'.') => {}
            _ => return None,
        }
    }
    Some(Ipv6Addr::from(address).into())
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
