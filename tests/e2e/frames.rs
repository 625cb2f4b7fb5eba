//! Ethernet frames byte by byte, for tests that send what no kernel would make: RFC 826, 791, 8200, 4861.

pub type Mac = [u8; 6];

pub const EVERYBODY: Mac = [0xff; 6];
/// Of ff02::1.
pub const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];
/// LLDP's group, which no bridge forwards.
pub const LLDP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;

pub fn ether(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from[..], &kind.to_be_bytes(), payload].concat();
    // The shortest frame of Ethernet, without its checksum.
    frame.resize(frame.len().max(60), 0);
    frame
}

/// `request`: "who has it?", else an answer. What stands behind it is padding to the receiver.
pub fn arp(request: bool, from: Mac, says: [u8; 4], to: Mac, about: [u8; 4], mark: &[u8]) -> Vec<u8> {
    let kind = [0, if request { 1 } else { 2 }];
    [&[0, 1, 8, 0, 6, 4][..], &kind, &from, &says, &to, &about, mark].concat()
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

pub fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let mut header = [&[0x45, 0], &length[..], &[0, 1, 0, 0, 64, protocol, 0, 0], &from, &to].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

pub fn ipv6(from: [u8; 16], to: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0], &length[..], &[next, 255], &from, &to, payload].concat()
}

/// Without a checksum, which IPv4 allows.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length, &[0, 0], payload].concat()
}

/// A packet of ICMPv6: `body` is what follows the checksum.
pub fn icmp6(from: [u8; 16], to: [u8; 16], kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let length = (message.len() as u32).to_be_bytes();
    let sum = checksum(&[&from[..], &to, &length, &[0, 0, 0, ICMP6], &message].concat());
    message[2..4].copy_from_slice(&sum);
    ipv6(from, to, ICMP6, &message)
}

/// An option of neighbour discovery of a kind for experiments (RFC 4727), as a place for a mark of 6 bytes.
pub fn marked(mark: &[u8]) -> Vec<u8> {
    [&[253, 1][..], &mark[..6]].concat()
}
