//! The servers that the host asks: its resolv.conf(5), read again when it has changed.

use berth_sys::inet::interface_index;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;

/// resolv.conf(5), MAXNS.
pub const MAX_SERVERS: usize = 3;
const PATH: &str = "/etc/resolv.conf";
const MAX_BYTES: u64 = 64 << 10;
/// It is looked at so often, and only when somebody asks.
const LOOK_MS: u64 = 1000;

#[derive(Default)]
pub struct HostServers {
    looked_ms: Option<u64>,
    /// Device, inode, size and time of change.
    stamp: Option<(u64, u64, u64, i64, i64)>,
    servers: Vec<SocketAddr>,
}

impl HostServers {
    /// In the file's order; empty: it is not there or names none.
    pub fn get(&mut self, now_ms: u64) -> &[SocketAddr] {
        if self.looked_ms.is_none_or(|looked| now_ms >= looked + LOOK_MS) {
            self.looked_ms = Some(now_ms);
            let stamp = fs::metadata(PATH).ok().map(|m| (m.dev(), m.ino(), m.size(), m.ctime(), m.ctime_nsec()));
            if stamp.is_none() || stamp != self.stamp {
                let mut text = String::new();
                let read = fs::File::open(PATH).and_then(|f| f.take(MAX_BYTES).read_to_string(&mut text));
                // A file that cannot be read now is tried again at the next look.
                self.stamp = stamp.filter(|_| read.is_ok());
                self.servers = parse(&text, interface_index);
            }
        }
        &self.servers
    }
}

fn parse(text: &str, index: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let address = |word: &str| {
        if let Ok(ip) = word.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, 53));
        }
        // fe80::1%eth0
        let (ip, zone) = word.split_once('%')?;
        let scope = zone.parse().ok().or_else(|| index(zone))?;
        Some(SocketAddrV6::new(ip.parse().ok()?, 53, 0, scope).into())
    };
    let words = text.lines().map(|line| line.split_ascii_whitespace());
    let servers = words.filter_map(|mut w| w.next().filter(|first| *first == "nameserver").and_then(|_| w.next()));
    servers.filter_map(address).take(MAX_SERVERS).collect()
}

/// Any file of the host's is read, and no more servers come of it than are asked.
#[cfg(fuzzing)]
pub fn fuzz(text: &str) {
    let servers = parse(text, |zone| u32::try_from(zone.len()).ok());
    assert!(servers.len() <= MAX_SERVERS && servers.iter().all(|s| s.port() == 53));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_order() {
        let text = "# nameserver 9.9.9.9\nsearch a\n nameserver\t127.0.0.53 \nnameserver fe80::1%eth0\nnameserver x\n\
                    nameserver fe80::2%7\nnameserver 192.0.2.1\n";
        let servers = parse(text, |name| (name == "eth0").then_some(4));
        let text: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["127.0.0.53:53", "[fe80::1%4]:53", "[fe80::2%7]:53"]);
        assert!(parse("nameserver fe80::1%nope", |_| None).is_empty());
    }
}
