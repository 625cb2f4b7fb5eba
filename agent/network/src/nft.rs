//! nf_tables by nfnetlink, in atomic batches: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
//!
//! Only what berth's table is made of. Numbers within attributes are big-endian; values in registers are as the packet or the kernel has them.

use crate::netlink::{ACK, APPEND, CREATE, Failure, Messages, Socket, find};
use std::net::Ipv4Addr;

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `nfgenmsg.res_id` of a batch: for which subsystem.
const BATCH_SUBSYSTEM: [u8; 2] = [0, 10];
const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_IPV4: u8 = 2;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const TABLE_NAME: u16 = 1;
const TABLE_HANDLE: u16 = 4;

/// `struct nft_set`'s key and data types as the `nft` tool shows them (libnftables' numbers; 6 bits for each part of a concatenation).
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const SET_IS_MAP: u32 = 0x8;

/// 4-byte registers from NFT_REG32_00 on.
const R0: u32 = 8;
const R1: u32 = 9;
const R2: u32 = 10;
const VERDICT: u32 = 0;

/// Where a base chain hangs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// One step of a rule; a match that fails ends the rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expr<'a> {
    /// `iifname NAME`
    From(&'a str),
    /// `oifname NAME`
    To(&'a str),
    /// `oifname != NAME`
    NotTo(&'a str),
    /// `ip saddr ADDRESS/LEN`
    Source(Ipv4Addr, u8),
    /// `ip daddr ADDRESS/LEN`
    Destination(Ipv4Addr, u8),
    /// `fib daddr type local`
    ToThisHost,
    /// `ct state established,related`
    Established,
    /// `ct status dnat`
    Published,
    /// `dnat ip to meta l4proto . th dport map @NAME`
    DnatByPort(&'a str),
    /// `dnat ip to ip daddr . meta l4proto . th dport map @NAME`
    DnatByAddressAndPort(&'a str),
    Masquerade,
    Accept,
    Drop,
}

/// Key of a map: protocol and port, and the address before them where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    pub address: Option<Ipv4Addr>,
    /// IPPROTO_*
    pub protocol: u8,
    pub port: u16,
}

/// Changes that come true together or not at all.
pub struct Batch<'a> {
    table: &'a str,
    messages: Messages,
}

impl<'a> Batch<'a> {
    pub fn new(table: &'a str) -> Self {
        let mut messages = Messages::new();
        messages.begin(BATCH_BEGIN, 0, &[FAMILY_UNSPECIFIED, 0, BATCH_SUBSYSTEM[0], BATCH_SUBSYSTEM[1]]);
        Batch { table, messages }
    }

    fn begin(&mut self, kind: u16, flags: u16) -> &mut Messages {
        // Every message is acknowledged, so that a refusal names its message. The answers come when all is done.
        self.messages.begin(SUBSYSTEM | kind, ACK | flags, &[FAMILY_IPV4, 0, 0, 0])
    }

    /// Makes the table unless it is there.
    pub fn add_table(&mut self) {
        let table = self.table;
        self.begin(NEW_TABLE, CREATE).text(TABLE_NAME, table);
    }

    /// Deletes the table with all that is in it; refused with `ENOENT` when there is none.
    pub fn delete_table(&mut self) {
        let table = self.table;
        self.begin(DELETE_TABLE, 0).text(TABLE_NAME, table);
    }

    /// A base chain that accepts what its rules do not decide. `kind`: `nat` or `filter`.
    pub fn add_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        let table = self.table;
        self.begin(NEW_CHAIN, CREATE).text(1, table).text(3, name).nest(4, |m| {
            m.attribute(1, &(hook as u32).to_be_bytes());
            m.attribute(2, &priority.to_be_bytes());
        });
        self.messages.attribute(5, &1u32.to_be_bytes()).text(7, kind);
    }

    pub fn add_rule(&mut self, chain: &str, exprs: &[Expr<'_>]) {
        let table = self.table;
        self.begin(NEW_RULE, CREATE | APPEND).text(1, table).text(2, chain).nest(4, |m| {
            for expr in exprs {
                put(m, expr);
            }
        });
    }

    /// A map to `address . port`. `id` is the set's number within the batch, by which later messages of it could name it.
    pub fn add_map(&mut self, name: &str, with_address: bool, id: u32) {
        let table = self.table;
        let key = TYPE_PROTOCOL << 6 | TYPE_PORT;
        let (key, key_len) = if with_address { (TYPE_ADDRESS << 12 | key, 12u32) } else { (key, 8) };
        let data = TYPE_ADDRESS << 6 | TYPE_PORT;
        self.begin(NEW_SET, CREATE)
            .text(1, table)
            .text(2, name)
            .attribute(3, &SET_IS_MAP.to_be_bytes())
            .attribute(4, &key.to_be_bytes())
            .attribute(5, &key_len.to_be_bytes())
            .attribute(6, &data.to_be_bytes())
            .attribute(7, &8u32.to_be_bytes())
            .attribute(10, &id.to_be_bytes());
    }

    pub fn add_element(&mut self, map: &str, key: Key, to: (Ipv4Addr, u16)) {
        self.element(NEW_ELEMENT, CREATE, map, key, Some(to));
    }

    pub fn delete_element(&mut self, map: &str, key: Key) {
        self.element(DELETE_ELEMENT, 0, map, key, None);
    }

    fn element(&mut self, kind: u16, flags: u16, map: &str, key: Key, to: Option<(Ipv4Addr, u16)>) {
        let table = self.table;
        self.begin(kind, flags).text(1, table).text(2, map).nest(3, |m| {
            m.nest(1, |m| {
                m.nest(1, |m| {
                    m.attribute(1, &key_bytes(key));
                });
                if let Some((address, port)) = to {
                    m.nest(2, |m| {
                        let [a, b, c, d] = address.octets();
                        let [high, low] = port.to_be_bytes();
                        m.attribute(1, &[a, b, c, d, high, low, 0, 0]);
                    });
                }
            });
        });
    }

    /// Sends it; on refusal nothing was changed.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), Failure> {
        if self.messages.count() == 1 {
            return Ok(());
        }
        // Without an answer of its own: before Linux 6.10 there is none.
        self.messages.begin(BATCH_END, 0, &[FAMILY_UNSPECIFIED, 0, BATCH_SUBSYSTEM[0], BATCH_SUBSYSTEM[1]]);
        socket.exchange(&mut self.messages, true).map(drop)
    }

    #[cfg(test)]
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.messages.datagram()
    }
}

/// Parts of a concatenation are padded to 4 bytes each.
fn key_bytes(key: Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12);
    bytes.extend(key.address.iter().flat_map(Ipv4Addr::octets));
    bytes.extend([key.protocol, 0, 0, 0]);
    bytes.extend(key.port.to_be_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// The number that the kernel gave this very table, new for each table that is made; `None`: there is no such table.
pub fn table_handle(socket: &mut Socket, table: &str) -> Result<Option<u64>, Failure> {
    const ENOENT: i32 = 2;
    let mut m = Messages::new();
    m.begin(SUBSYSTEM | GET_TABLE, ACK, &[FAMILY_IPV4, 0, 0, 0]).text(TABLE_NAME, table);
    match socket.exchange(&mut m, false) {
        Ok(replies) => Ok(replies.iter().find_map(|reply| {
            let value = find(reply.body.get(4..)?, TABLE_HANDLE)?;
            value.first_chunk().map(|b| u64::from_be_bytes(*b))
        })),
        Err(failure) if failure.errno() == ENOENT => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn put(m: &mut Messages, expr: &Expr<'_>) {
    match expr {
        Expr::From(name) => interface(m, 6, true, name),
        Expr::To(name) => interface(m, 7, true, name),
        Expr::NotTo(name) => interface(m, 7, false, name),
        Expr::Source(address, len) => within(m, 12, *address, *len),
        Expr::Destination(address, len) => within(m, 16, *address, *len),
        Expr::ToThisHost => {
            // Result: the address's type; of the destination. RTN_LOCAL is 2.
            one(m, "fib", &[(1, R0), (2, 3), (3, 2)]);
            compare(m, true, &2u32.to_ne_bytes());
        }
        Expr::Established => {
            one(m, "ct", &[(1, R0), (2, 0)]);
            any_bit(m, 2 | 4);
        }
        Expr::Published => {
            // IPS_DST_NAT of the connection's status.
            one(m, "ct", &[(1, R0), (2, 2)]);
            any_bit(m, 1 << 5);
        }
        Expr::DnatByPort(map) => {
            protocol_and_port(m, R0, R1);
            dnat(m, map);
        }
        Expr::DnatByAddressAndPort(map) => {
            payload(m, R0, 1, 16, 4);
            protocol_and_port(m, R1, R2);
            dnat(m, map);
        }
        Expr::Masquerade => expression(m, "masq", |_| {}),
        Expr::Accept => verdict(m, 1),
        Expr::Drop => verdict(m, 0),
    }
}

fn expression(m: &mut Messages, name: &str, data: impl FnOnce(&mut Messages)) {
    m.nest(1, |m| {
        m.text(1, name).nest(2, data);
    });
}

/// An expression of which all attributes are numbers.
fn one(m: &mut Messages, name: &str, numbers: &[(u16, u32)]) {
    expression(m, name, |m| {
        for (kind, value) in numbers {
            m.attribute(*kind, &value.to_be_bytes());
        }
    });
}

fn payload(m: &mut Messages, register: u32, base: u32, offset: u32, len: u32) {
    one(m, "payload", &[(1, register), (2, base), (3, offset), (4, len)]);
}

/// R0 is, or is not, this value.
fn compare(m: &mut Messages, equal: bool, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.attribute(1, &R0.to_be_bytes()).attribute(2, &u32::from(!equal).to_be_bytes()).nest(3, |m| {
            m.attribute(1, value);
        });
    });
}

/// R0 and R0's `mask`.
fn mask(m: &mut Messages, mask: [u8; 4]) {
    expression(m, "bitwise", |m| {
        m.attribute(1, &R0.to_be_bytes()).attribute(2, &R0.to_be_bytes()).attribute(3, &4u32.to_be_bytes());
        m.nest(4, |m| {
            m.attribute(1, &mask);
        });
        m.nest(5, |m| {
            m.attribute(1, &[0; 4]);
        });
    });
}

fn any_bit(m: &mut Messages, bits: u32) {
    mask(m, bits.to_ne_bytes());
    compare(m, false, &[0; 4]);
}

/// The whole name of an interface, 16 bytes with NULs at the end (four 4-byte registers from R0 on). `key`: NFT_META_IIFNAME or OIFNAME.
fn interface(m: &mut Messages, key: u32, equal: bool, name: &str) {
    one(m, "meta", &[(1, R0), (2, key)]);
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    compare(m, equal, &bytes);
}

/// An address of the IPv4 header, at `offset`, lies within a prefix.
fn within(m: &mut Messages, offset: u32, address: Ipv4Addr, len: u8) {
    let prefix = crate::error::Prefix { address, len };
    payload(m, R0, 1, offset, 4);
    mask(m, prefix.mask().to_be_bytes());
    compare(m, true, &prefix.network().octets());
}

fn protocol_and_port(m: &mut Messages, protocol: u32, port: u32) {
    // NFT_META_L4PROTO; the destination port stands at the same place in TCP, UDP and SCTP.
    one(m, "meta", &[(1, protocol), (2, 16)]);
    payload(m, port, 2, 2, 2);
}

/// Looks the key from R0 on up, and sends the packet where the map says: address in R0, port in R1.
fn dnat(m: &mut Messages, map: &str) {
    expression(m, "lookup", |m| {
        m.text(1, map).attribute(2, &R0.to_be_bytes()).attribute(3, &R0.to_be_bytes());
    });
    one(m, "nat", &[(1, 1), (2, u32::from(FAMILY_IPV4)), (3, R0), (5, R1)]);
}

fn verdict(m: &mut Messages, code: u32) {
    expression(m, "immediate", |m| {
        m.attribute(1, &VERDICT.to_be_bytes()).nest(2, |m| {
            m.nest(2, |m| {
                m.attribute(1, &code.to_be_bytes());
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;

    #[test]
    fn keys_are_padded_by_part() {
        let key = Key { address: None, protocol: 6, port: 8080 };
        assert_eq!(key_bytes(key), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        let key = Key { address: Some(Ipv4Addr::new(192, 0, 2, 1)), ..key };
        assert_eq!(key_bytes(key), [192, 0, 2, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
    }

    #[test]
    fn an_element_as_the_kernel_reads_it() {
        let mut batch = Batch::new("t");
        batch.add_element("m", Key { address: None, protocol: 17, port: 53 }, (Ipv4Addr::new(10, 0, 0, 2), 5353));
        let bytes = batch.into_bytes();
        assert_eq!(bytes[4..6], BATCH_BEGIN.to_ne_bytes());
        assert_eq!(bytes[16..20], [0, 0, 0, 10]);
        let message = &bytes[20..];
        assert_eq!(message[4..6], (SUBSYSTEM | NEW_ELEMENT).to_ne_bytes());
        assert_eq!(message[16], FAMILY_IPV4);
        let list = find(&message[20..], 3).unwrap();
        let element = find(list, 1).unwrap();
        assert_eq!(find(find(element, 1).unwrap(), 1).unwrap(), [17, 0, 0, 0, 0, 53, 0, 0]);
        assert_eq!(find(find(element, 2).unwrap(), 1).unwrap(), [10, 0, 0, 2, 0x14, 0xe9, 0, 0]);
    }

    #[test]
    fn a_rule_is_a_list_of_named_expressions() {
        let mut batch = Batch::new("t");
        batch.add_rule("c", &[Expr::To("br0"), Expr::Drop]);
        let bytes = batch.into_bytes();
        let list = find(&bytes[20 + 20..], 4).unwrap();
        let names: Vec<_> = attributes(list).map(|(_, e)| find(e, 1).unwrap().to_vec()).collect();
        assert_eq!(names, [b"meta\0".to_vec(), b"cmp\0".to_vec(), b"immediate\0".to_vec()]);
        let compare = attributes(list).nth(1).unwrap().1;
        let value = find(find(find(compare, 2).unwrap(), 3).unwrap(), 1).unwrap();
        assert_eq!(value, b"br0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}
