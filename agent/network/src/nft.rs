//! nf_tables by nfnetlink, in atomic batches: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
//!
//! Only what berth's tables are made of. Numbers within attributes are big-endian; values in registers are as the packet or the kernel has them.

use crate::netlink::{ACK, APPEND, CREATE, Failure, Messages, Socket, find};
use std::net::IpAddr;

mod expr;
pub use expr::{Expr, Net};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `nfgenmsg.res_id` of a batch: for which subsystem.
const BATCH_SUBSYSTEM: [u8; 2] = [0, 10];
const FAMILY_UNSPECIFIED: u8 = 0;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const TABLE_NAME: u16 = 1;
const TABLE_HANDLE: u16 = 4;

/// Types of sets as the `nft` tool shows them (libnftables' numbers; 6 bits for each part of a concatenation).
const TYPE_ADDRESS: u32 = 7;
const TYPE_ADDRESS6: u32 = 8;
const TYPE_ETHER: u32 = 9;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_INTERFACE: u32 = 41;
const SET_INTERVAL: u32 = 0x4;
const SET_IS_MAP: u32 = 0x8;
const SET_CONCATENATION: u32 = 0x80;

/// Which of the tables: a table belongs to one family of addresses, or sees a bridge's frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    V4 = 2,
    Bridge = 7,
    V6 = 10,
}

impl Family {
    /// Those of addresses.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];
    pub const ALL: [Family; 3] = [Family::V4, Family::V6, Family::Bridge];

    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Bytes of an address.
    const fn width(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
            Family::Bridge => 6,
        }
    }

    const fn address_type(self) -> u32 {
        match self {
            Family::V4 => TYPE_ADDRESS,
            Family::V6 => TYPE_ADDRESS6,
            Family::Bridge => TYPE_ETHER,
        }
    }
}

/// Where a base chain hangs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// What a map of ports has: the host's address in the key or not, one port or a range of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MapShape {
    pub with_address: bool,
    /// Keys are ranges; the port stays what it is, only the address changes (concatenated ranges: Linux 5.6).
    pub ranges: bool,
}

/// Key of a map: protocol and port, and the address before them where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub address: Option<IpAddr>,
    /// IPPROTO_*
    pub protocol: u8,
    pub port: u16,
    /// Behind the first: 0 for a single port.
    pub more: u16,
}

/// Changes that come true together or not at all.
pub struct Batch<'a> {
    table: &'a str,
    family: Family,
    messages: Messages,
    sets: u32,
}

impl<'a> Batch<'a> {
    pub fn new(table: &'a str) -> Self {
        let mut messages = Messages::new();
        messages.begin(BATCH_BEGIN, 0, &[FAMILY_UNSPECIFIED, 0, BATCH_SUBSYSTEM[0], BATCH_SUBSYSTEM[1]]);
        Batch { table, family: Family::V4, messages, sets: 0 }
    }

    /// What follows is about the table of this family.
    pub fn family(&mut self, family: Family) -> &mut Self {
        self.family = family;
        self
    }

    fn begin(&mut self, kind: u16, flags: u16) -> &mut Messages {
        // A refusal names its message. The last one alone is acknowledged: thousands of answers would not fit into the socket.
        self.messages.begin(SUBSYSTEM | kind, flags, &[self.family as u8, 0, 0, 0])
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

    /// A chain for other chains' jumps.
    pub fn add_plain_chain(&mut self, name: &str) {
        let table = self.table;
        self.begin(NEW_CHAIN, CREATE).text(1, table).text(3, name);
    }

    /// Takes all rules out of a chain.
    pub fn flush_chain(&mut self, chain: &str) {
        let table = self.table;
        self.begin(DELETE_RULE, 0).text(1, table).text(2, chain);
    }

    pub fn add_rule(&mut self, chain: &str, exprs: &[Expr<'_>]) {
        let (table, family) = (self.table, self.family);
        self.begin(NEW_RULE, CREATE | APPEND).text(1, table).text(2, chain).nest(4, |m| {
            for expr in exprs {
                expr::put(m, family, expr);
            }
        });
    }

    /// A map of ports: to `address . port`, or of ranges to addresses.
    pub fn add_map(&mut self, name: &str, shape: MapShape) {
        let width = self.family.width();
        let address = self.family.address_type();
        let key = TYPE_PROTOCOL << 6 | TYPE_PORT;
        let (key, key_len) = if shape.with_address { (address << 12 | key, width + 8) } else { (key, 8) };
        let (data, data_len) = if shape.ranges { (address, width) } else { (address << 6 | TYPE_PORT, width + 4) };
        let flags = if shape.ranges { SET_IS_MAP | SET_INTERVAL | SET_CONCATENATION } else { SET_IS_MAP };
        self.begin_set(name, flags, key, key_len);
        self.messages.attribute(6, &data.to_be_bytes()).attribute(7, &data_len.to_be_bytes());
        if shape.ranges {
            self.messages.nest(9, |m| {
                m.nest(2, |m| {
                    let fields = shape.with_address.then_some(width).into_iter().chain([1, 2]);
                    for field in fields {
                        m.nest(1, |m| {
                            m.attribute(1, &field.to_be_bytes());
                        });
                    }
                });
            });
        }
    }

    /// A set of names of interfaces, one or two side by side.
    pub fn add_interfaces(&mut self, name: &str, pairs: bool) {
        let (key, len) = if pairs { (TYPE_INTERFACE << 6 | TYPE_INTERFACE, 32u32) } else { (TYPE_INTERFACE, 16) };
        self.begin_set(name, 0, key, len);
        if !pairs {
            // For the `nft` tool alone, which shows no names without it: NFTNL_UDATA_SET_KEYBYTEORDER, 4 bytes, the host's order.
            self.messages.attribute(13, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
        }
    }

    /// A set of senders: name of an interface, hardware address, address of `of`.
    pub fn add_senders(&mut self, name: &str, of: Family) {
        let key = TYPE_INTERFACE << 12 | TYPE_ETHER << 6 | of.address_type();
        self.begin_set(name, 0, key, 16 + 8 + of.width());
    }

    fn begin_set(&mut self, name: &str, flags: u32, key: u32, key_len: u32) {
        let table = self.table;
        self.sets += 1;
        let id = self.sets;
        self.begin(NEW_SET, CREATE)
            .text(1, table)
            .text(2, name)
            .attribute(3, &flags.to_be_bytes())
            .attribute(4, &key.to_be_bytes())
            .attribute(5, &key_len.to_be_bytes())
            .attribute(10, &id.to_be_bytes());
    }

    /// `names` side by side as one element.
    pub fn add_interface(&mut self, set: &str, names: &[&str]) {
        let key: Vec<u8> = names.iter().flat_map(|name| expr::interface_name(name)).collect();
        self.element(NEW_ELEMENT, CREATE, set, &key, None, None);
    }

    pub fn delete_interface(&mut self, set: &str, names: &[&str]) {
        let key: Vec<u8> = names.iter().flat_map(|name| expr::interface_name(name)).collect();
        self.element(DELETE_ELEMENT, 0, set, &key, None, None);
    }

    pub fn add_sender(&mut self, set: &str, interface: &str, mac: [u8; 6], address: IpAddr) {
        self.element(NEW_ELEMENT, CREATE, set, &sender_bytes(interface, mac, address), None, None);
    }

    pub fn delete_sender(&mut self, set: &str, interface: &str, mac: [u8; 6], address: IpAddr) {
        self.element(DELETE_ELEMENT, 0, set, &sender_bytes(interface, mac, address), None, None);
    }

    /// `to`: what the map's data is, a port with an address where it is no map of ranges.
    pub fn add_port(&mut self, map: &str, key: Key, to: IpAddr, port: Option<u16>) {
        let mut data = address_bytes(to);
        data.extend(port.iter().flat_map(|p| [p.to_be_bytes(), [0, 0]].concat()));
        let end = (key.more > 0).then(|| key_bytes(key, key.more));
        self.element(NEW_ELEMENT, CREATE, map, &key_bytes(key, 0), end.as_deref(), Some(&data));
    }

    pub fn delete_port(&mut self, map: &str, key: Key) {
        let end = (key.more > 0).then(|| key_bytes(key, key.more));
        self.element(DELETE_ELEMENT, 0, map, &key_bytes(key, 0), end.as_deref(), None);
    }

    fn element(&mut self, kind: u16, flags: u16, set: &str, key: &[u8], end: Option<&[u8]>, data: Option<&[u8]>) {
        let table = self.table;
        self.begin(kind, flags).text(1, table).text(2, set).nest(3, |m| {
            m.nest(1, |m| {
                m.nest(1, |m| {
                    m.attribute(1, key);
                });
                if let Some(data) = data {
                    m.nest(2, |m| {
                        m.attribute(1, data);
                    });
                }
                if let Some(end) = end {
                    m.nest(10, |m| {
                        m.attribute(1, end);
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
        self.messages.acknowledge_last();
        // Without an answer of its own: before Linux 6.10 there is none.
        self.messages.begin(BATCH_END, 0, &[FAMILY_UNSPECIFIED, 0, BATCH_SUBSYSTEM[0], BATCH_SUBSYSTEM[1]]);
        socket.exchange(&mut self.messages, true).map(drop)
    }

    #[cfg(test)]
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.messages.datagram()
    }
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn sender_bytes(interface: &str, mac: [u8; 6], address: IpAddr) -> Vec<u8> {
    let mut bytes = expr::interface_name(interface).to_vec();
    bytes.extend(mac);
    bytes.extend([0, 0]);
    bytes.extend(address_bytes(address));
    bytes
}

/// Parts of a concatenation are padded to 4 bytes each. `more` is added to the port.
fn key_bytes(key: Key, more: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    bytes.extend(key.address.into_iter().flat_map(address_bytes));
    bytes.extend([key.protocol, 0, 0, 0]);
    bytes.extend(key.port.saturating_add(more).to_be_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// The number that the kernel gave this very table, new for each table that is made; `None`: there is no such table.
pub fn table_handle(socket: &mut Socket, family: Family, table: &str) -> Result<Option<u64>, Failure> {
    const ENOENT: i32 = 2;
    let mut m = Messages::new();
    m.begin(SUBSYSTEM | GET_TABLE, ACK, &[family as u8, 0, 0, 0]).text(TABLE_NAME, table);
    match socket.exchange(&mut m, false) {
        Ok(replies) => Ok(replies.iter().find_map(|reply| {
            let value = find(reply.body.get(4..)?, TABLE_HANDLE)?;
            value.first_chunk().map(|b| u64::from_be_bytes(*b))
        })),
        Err(failure) if failure.errno() == ENOENT => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;
    use std::net::Ipv4Addr;

    #[test]
    fn keys_are_padded_by_part() {
        let key = Key { address: None, protocol: 6, port: 8080, more: 0 };
        assert_eq!(key_bytes(key, 0), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        let key = Key { address: Some(Ipv4Addr::new(192, 0, 2, 1).into()), ..key };
        assert_eq!(key_bytes(key, 1), [192, 0, 2, 1, 6, 0, 0, 0, 0x1f, 0x91, 0, 0]);
    }

    #[test]
    fn senders_are_padded_by_part() {
        let bytes = sender_bytes("bth0", [2, 0x42, 10, 0, 0, 9], Ipv4Addr::new(10, 0, 0, 9).into());
        assert_eq!(bytes, *b"bth0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x42\x0a\0\0\x09\0\0\x0a\0\0\x09");
    }

    #[test]
    fn an_element_as_the_kernel_reads_it() {
        let mut batch = Batch::new("t");
        let key = Key { address: None, protocol: 17, port: 53, more: 0 };
        batch.add_port("m", key, Ipv4Addr::new(10, 0, 0, 2).into(), Some(5353));
        let bytes = batch.into_bytes();
        assert_eq!(bytes[4..6], BATCH_BEGIN.to_ne_bytes());
        assert_eq!(bytes[16..20], [0, 0, 0, 10]);
        let message = &bytes[20..];
        assert_eq!(message[4..6], (SUBSYSTEM | NEW_ELEMENT).to_ne_bytes());
        assert_eq!(message[16], Family::V4 as u8);
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
