//! Connections that the kernel remembers: linux/netfilter/nfnetlink_conntrack.h.
//!
//! A UDP client that goes on sending keeps its entry alive, and with it the old destination: without this, a port that was published anew
//! would be deaf to exactly the clients that are most eager.

use crate::netlink::{ACK, Failure, Messages, Socket};
use std::net::Ipv4Addr;

const CT_DELETE: u16 = 1 << 8 | 2;
const FAMILY_IPV4: u8 = 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const FILTER_SOURCE: u32 = 1 << 0;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;
const UDP: u8 = 17;

/// Forgets all connections that are answered by this address: those to the published ports of a container that is gone.
pub fn forget_answers_of(socket: &mut Socket, container: Ipv4Addr) -> Result<(), Failure> {
    delete(socket, 0, FILTER_SOURCE, |m| {
        m.nest(TUPLE_REPLY, |m| {
            m.nest(1, |m| {
                m.attribute(1, &container.octets());
            });
        });
    })
}

/// Forgets what was sent to this UDP port before it was published.
pub fn forget_udp_to(socket: &mut Socket, port: u16) -> Result<(), Failure> {
    delete(socket, FILTER_PROTOCOL | FILTER_DESTINATION_PORT, 0, |m| {
        m.nest(TUPLE_ORIGINAL, |m| {
            m.nest(2, |m| {
                m.attribute(1, &[UDP]).attribute(3, &port.to_be_bytes());
            });
        });
    })
}

/// Deletion by filter needs a recent kernel; an older one refuses, because to it the tuple is incomplete, and deletes nothing.
fn delete(socket: &mut Socket, original: u32, reply: u32, tuple: impl FnOnce(&mut Messages)) -> Result<(), Failure> {
    let mut m = Messages::new();
    m.begin(CT_DELETE, ACK, &[FAMILY_IPV4, 0, 0, 0]);
    tuple(&mut m);
    m.nest(FILTER, |m| {
        m.attribute(1, &original.to_ne_bytes()).attribute(2, &reply.to_ne_bytes());
    });
    socket.exchange(&mut m, false).map(drop)
}
