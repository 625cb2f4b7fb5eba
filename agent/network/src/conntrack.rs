//! Connections that the kernel remembers: linux/netfilter/nfnetlink_conntrack.h.
//!
//! A UDP client that goes on sending keeps its entry alive, and with it the old destination: without this, a port that was published anew
//! would be deaf to exactly the clients that are most eager.

use crate::netlink::{ACK, Failure, Messages, Socket};
use berth_model::network::Protocol;
use std::net::IpAddr;

const CT_DELETE: u16 = 1 << 8 | 2;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const FILTER_SOURCE: u32 = 1 << 0;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_SOURCE_PORT: u32 = 1 << 4;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;
const UDP: u8 = 17;

/// Forgets all connections that are answered by this address: those to the published ports of a container that is gone.
pub fn forget_answers_of(socket: &mut Socket, container: IpAddr) -> Result<(), Failure> {
    let family = if container.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
    delete(socket, family, 0, FILTER_SOURCE, |m| {
        m.nest(TUPLE_REPLY, |m| {
            m.nest(1, |m| {
                match container {
                    IpAddr::V4(a) => m.attribute(1, &a.octets()),
                    IpAddr::V6(a) => m.attribute(3, &a.octets()),
                };
            });
        });
    })
}

/// Forgets all connections that this port of a container answers.
pub fn forget_answers_from(
    socket: &mut Socket,
    container: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Result<(), Failure> {
    let family = if container.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
    delete(socket, family, 0, FILTER_SOURCE | FILTER_PROTOCOL | FILTER_SOURCE_PORT, |m| {
        m.nest(TUPLE_REPLY, |m| {
            m.nest(1, |m| {
                match container {
                    IpAddr::V4(a) => m.attribute(1, &a.octets()),
                    IpAddr::V6(a) => m.attribute(3, &a.octets()),
                };
            });
            m.nest(2, |m| {
                m.attribute(1, &[protocol.number()]).attribute(2, &port.to_be_bytes());
            });
        });
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

/// Deletion by filter needs a recent kernel; an older one refuses, because to it the tuple is incomplete, and deletes nothing.
fn delete(
    socket: &mut Socket,
    family: u8,
    original: u32,
    reply: u32,
    tuple: impl FnOnce(&mut Messages),
) -> Result<(), Failure> {
    let mut m = Messages::new();
    m.begin(CT_DELETE, ACK, &[family, 0, 0, 0]);
    tuple(&mut m);
    m.nest(FILTER, |m| {
        m.attribute(1, &original.to_ne_bytes()).attribute(2, &reply.to_ne_bytes());
    });
    socket.exchange(&mut m, false).map(drop)
}
