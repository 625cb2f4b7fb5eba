//! Connections that the kernel remembers: linux/netfilter/nfnetlink_conntrack.h.
//!
//! A UDP client that goes on sending keeps its entry alive, and with it the old destination: without this, a port that was published anew
//! would be deaf to exactly the clients that are most eager.

use crate::netlink::{ACK, DUMP, Failure, Messages, Socket, find};
use berth_model::network::Protocol;
use std::net::IpAddr;
use std::ops::RangeInclusive;

const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_SOURCE: u32 = 1 << 0;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_SOURCE_PORT: u32 = 1 << 4;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;
const UDP: u8 = 17;
const ENOENT: i32 = 2;

fn family_of(container: IpAddr) -> u8 {
    if container.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 }
}

/// The tuple of connections that a container answers: all of them, those of a protocol, those of one port.
fn answers(m: &mut Messages, container: IpAddr, protocol: Option<Protocol>, port: Option<u16>) {
    m.nest(TUPLE_REPLY, |m| {
        m.nest(1, |m| {
            match container {
                IpAddr::V4(a) => m.attribute(1, &a.octets()),
                IpAddr::V6(a) => m.attribute(3, &a.octets()),
            };
        });
        let Some(protocol) = protocol else { return };
        m.nest(2, |m| {
            m.attribute(1, &[protocol.number()]);
            if let Some(port) = port {
                m.attribute(2, &port.to_be_bytes());
            }
        });
    });
}

/// Forgets all connections that are answered by this address: those to the published ports of a container that is gone.
pub fn forget_answers_of(socket: &mut Socket, container: IpAddr) -> Result<(), Failure> {
    delete(socket, family_of(container), 0, FILTER_SOURCE, |m| answers(m, container, None, None))
}

/// Forgets all connections that this port of a container answers.
pub fn forget_answers_from(
    socket: &mut Socket,
    container: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Result<(), Failure> {
    delete(socket, family_of(container), 0, FILTER_SOURCE | FILTER_PROTOCOL | FILTER_SOURCE_PORT, |m| {
        answers(m, container, Some(protocol), Some(port));
    })
}

/// Forgets all connections that these ports of a container answer: for many of them, as the kernel is asked once.
pub fn forget_answers_within(
    socket: &mut Socket,
    container: IpAddr,
    protocol: Protocol,
    ports: RangeInclusive<u16>,
) -> Result<(), Failure> {
    let family = family_of(container);
    let tuple = |m: &mut Messages| answers(m, container, Some(protocol), None);
    let mut m = filtered(CT_GET, DUMP, family, 0, FILTER_SOURCE | FILTER_PROTOCOL, tuple);
    delete_each(socket, &mut m, family, |attributes| {
        let reply = find(attributes, TUPLE_REPLY).and_then(|tuple| find(tuple, 2)).unwrap_or_default();
        let port = find(reply, 2).and_then(|b| b.first_chunk()).map(|b| u16::from_be_bytes(*b));
        find(reply, 1) == Some(&[protocol.number()][..]) && port.is_some_and(|p| ports.contains(&p))
    })
}

/// Forgets what was sent to this UDP port before it was published.
pub fn forget_udp_to(socket: &mut Socket, port: u16) -> Result<(), Failure> {
    for family in [FAMILY_IPV4, FAMILY_IPV6] {
        delete(socket, family, FILTER_PROTOCOL | FILTER_DESTINATION_PORT, 0, |m| {
            m.nest(TUPLE_ORIGINAL, |m| {
                m.nest(2, |m| {
                    m.attribute(1, &[UDP]).attribute(3, &port.to_be_bytes());
                });
            });
        })?;
    }
    Ok(())
}

/// Forgets everything that was sent by UDP.
pub fn forget_udp(socket: &mut Socket) -> Result<(), Failure> {
    for family in [FAMILY_IPV4, FAMILY_IPV6] {
        delete(socket, family, FILTER_PROTOCOL, 0, |m| {
            m.nest(TUPLE_ORIGINAL, |m| {
                m.nest(2, |m| {
                    m.attribute(1, &[UDP]);
                });
            });
        })?;
    }
    Ok(())
}

/// At once, where the kernel deletes by filter. An older one (6.1) refuses, because to it the tuple is incomplete: there they are asked for by the
/// same filter (Linux 5.8), and deleted one by one.
fn delete(
    socket: &mut Socket,
    family: u8,
    original: u32,
    reply: u32,
    tuple: impl Fn(&mut Messages),
) -> Result<(), Failure> {
    if socket.exchange(&mut filtered(CT_DELETE, ACK, family, original, reply, &tuple), false).is_ok() {
        return Ok(());
    }
    delete_each(socket, &mut filtered(CT_GET, DUMP, family, original, reply, &tuple), family, |_| true)
}

fn filtered(kind: u16, flags: u16, family: u8, original: u32, reply: u32, tuple: impl Fn(&mut Messages)) -> Messages {
    let mut m = Messages::new();
    m.begin(kind, flags, &[family, 0, 0, 0]);
    tuple(&mut m);
    m.nest(FILTER, |m| {
        m.attribute(1, &original.to_ne_bytes()).attribute(2, &reply.to_ne_bytes());
    });
    m
}

/// One by one, those of the answers that are meant, by their attributes.
fn delete_each(
    socket: &mut Socket,
    dump: &mut Messages,
    family: u8,
    meant: impl Fn(&[u8]) -> bool,
) -> Result<(), Failure> {
    for found in socket.exchange(dump, false)? {
        let attributes = found.body.get(4..).unwrap_or_default();
        let Some(tuple) = find(attributes, TUPLE_ORIGINAL).filter(|_| meant(attributes)) else { continue };
        let mut m = Messages::new();
        m.begin(CT_DELETE, ACK, &[family, 0, 0, 0]);
        m.nest(TUPLE_ORIGINAL, |m| {
            m.raw(tuple);
        });
        // The id: not another connection that has come in its place.
        for kind in [ID, ZONE] {
            if let Some(value) = find(attributes, kind) {
                m.attribute(kind, value);
            }
        }
        match socket.exchange(&mut m, false) {
            Err(failure) if failure.errno() != ENOENT => return Err(failure),
            _ => {}
        }
    }
    Ok(())
}
