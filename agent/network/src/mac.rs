//! Addresses of interfaces: how they are made, written and read.

use std::net::Ipv4Addr;

/// A locally administered address made from an IPv4 address: neighbours' caches stay right when the address is used again.
pub fn mac_of(kind: u8, address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [kind, 0x42, a, b, c, d]
}

/// First byte of the container's MAC.
pub const MAC_CONTAINER: u8 = 0x02;
/// First byte of the MAC of the veth's other end.
pub const MAC_PORT: u8 = 0x0a;
/// First byte of the bridge's MAC.
pub const MAC_BRIDGE: u8 = 0x06;

/// `aa:bb:cc:dd:ee:ff`
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Reads `aa:bb:cc:dd:ee:ff` in any case. `None`: it is not the address of one interface.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    // The lowest bit of the first byte is a group's.
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(parse_mac("02:42:aC:11:00:02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        for bad in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "2:42:ac:11:0:2",
            "0x:42:ac:11:00:02",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
