//! What went over the host's interfaces: one dump for all of them.

use crate::error::NetworkError;
use crate::netlink::{DUMP, Messages, Socket, find};
use berth_sys::net::NetlinkFamily;

/// linux/rtnetlink.h, Linux 4.7: a dump that has nothing but counters, unlike that of the links themselves.
const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
/// `struct rtnl_link_stats64` (linux/if_link.h); its bit in the request's mask is 1.
const IFLA_STATS_LINK_64: u16 = 1;
/// `struct if_stats_msg`: family and padding, index, mask.
const HEADER: usize = 12;

/// Counters of one interface since it was made, from the host's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub received_packets: u64,
    pub sent_packets: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub received_errors: u64,
    pub sent_errors: u64,
    pub received_dropped: u64,
    pub sent_dropped: u64,
}

impl Counters {
    /// As the other end of a veth sees it: what it sends is received here.
    pub fn other_end(self) -> Counters {
        Counters {
            received_packets: self.sent_packets,
            sent_packets: self.received_packets,
            received_bytes: self.sent_bytes,
            sent_bytes: self.received_bytes,
            received_errors: self.sent_errors,
            sent_errors: self.received_errors,
            received_dropped: self.sent_dropped,
            sent_dropped: self.received_dropped,
        }
    }
}

impl std::ops::Add for Counters {
    type Output = Counters;

    fn add(self, other: Counters) -> Counters {
        Counters {
            received_packets: self.received_packets + other.received_packets,
            sent_packets: self.sent_packets + other.sent_packets,
            received_bytes: self.received_bytes + other.received_bytes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            received_errors: self.received_errors + other.received_errors,
            sent_errors: self.sent_errors + other.sent_errors,
            received_dropped: self.received_dropped + other.received_dropped,
            sent_dropped: self.sent_dropped + other.sent_dropped,
        }
    }
}

/// Counters of an interface as the process `pid` sees it (/proc/PID/net/dev): for one that has no end on the host. None: there is no such
/// process or interface.
pub fn counters_inside(pid: u32, interface: &str) -> Option<Counters> {
    parse_dev(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?, interface)
}

pub(crate) fn parse_dev(table: &str, interface: &str) -> Option<Counters> {
    let (_, figures) = table.lines().filter_map(|line| line.split_once(':')).find(|(n, _)| n.trim() == interface)?;
    let figures: Vec<u64> = figures.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    let [
        received_bytes,
        received_packets,
        received_errors,
        received_dropped,
        _,
        _,
        _,
        _,
        sent_bytes,
        sent_packets,
        sent_errors,
        sent_dropped,
        ..,
    ] = figures.as_slice()
    else {
        return None;
    };
    Some(Counters {
        received_packets: *received_packets,
        sent_packets: *sent_packets,
        received_bytes: *received_bytes,
        sent_bytes: *sent_bytes,
        received_errors: *received_errors,
        sent_errors: *sent_errors,
        received_dropped: *received_dropped,
        sent_dropped: *sent_dropped,
    })
}

/// Reads the counters of all interfaces of one network namespace.
pub struct LinkCounters {
    socket: Socket,
}

impl LinkCounters {
    /// Those of the calling thread's network namespace, for the value's whole life.
    pub fn open() -> Result<Self, NetworkError> {
        let socket = Socket::open(NetlinkFamily::Route)
            .map_err(|source| NetworkError::Netlink { act: "opening an rtnetlink socket".into(), source })?;
        Ok(LinkCounters { socket })
    }

    /// Index of an interface of this namespace, by which its counters are found. `None`: there is none of that name.
    ///
    /// Not out of /sys/class/net, which has the interfaces of the namespace that mounted it.
    pub fn index(&self, name: &str) -> Option<u32> {
        self.socket.interface_index(name)
    }

    /// Calls `each` with index and counters of every interface.
    pub fn read(&mut self, mut each: impl FnMut(u32, Counters)) -> Result<(), NetworkError> {
        let mut request = [0; HEADER];
        request[8..].copy_from_slice(&1u32.to_ne_bytes());
        let mut messages = Messages::new();
        messages.begin(RTM_GETSTATS, DUMP, &request);
        let look = |kind: u16, body: &[u8]| {
            if kind == RTM_NEWSTATS
                && let Some((index, counters)) = parse(body)
            {
                each(index, counters);
            }
        };
        self.socket.converse(&mut messages, false, look).map_err(|failure| NetworkError::Netlink {
            act: "reading the counters of interfaces".into(),
            source: failure.into_io(),
        })
    }
}

pub(crate) fn parse(body: &[u8]) -> Option<(u32, Counters)> {
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let stats = find(body.get(HEADER..)?, IFLA_STATS_LINK_64)?;
    let number = |n: usize| stats.get(n * 8..).and_then(|b| b.first_chunk()).map(|b| u64::from_ne_bytes(*b));
    Some((
        index,
        Counters {
            received_packets: number(0)?,
            sent_packets: number(1)?,
            received_bytes: number(2)?,
            sent_bytes: number(3)?,
            received_errors: number(4)?,
            sent_errors: number(5)?,
            received_dropped: number(6)?,
            sent_dropped: number(7)?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_counts_what_goes_over_it() {
        let mut links = LinkCounters::open().unwrap();
        let lo = links.index("lo").expect("lo");
        let mut count = || {
            let mut found = None;
            links.read(|index, c| found = found.or((index == lo).then_some(c))).unwrap();
            found.expect("counters of lo")
        };
        let before = count();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&[0; 1000], socket.local_addr().unwrap()).unwrap();
        let after = count();
        assert!(after.sent_bytes >= before.sent_bytes + 1000 && after.received_packets > before.received_packets);
        assert_eq!(after.other_end().received_bytes, after.sent_bytes);
        assert_eq!(after.other_end().other_end(), after);
        assert!(links.index("no-such-link0").is_none());
    }

    #[test]
    fn names_are_those_of_the_sockets_namespace() {
        let elsewhere = std::thread::spawn(|| {
            // As of an agent that is started in a namespace of its own: /sys stays that of the host.
            berth_sys::net::unshare_network().unwrap();
            let words = ["link", "add", "only-here0", "type", "veth", "peer", "name", "only-there0"];
            assert!(std::process::Command::new("ip").args(words).status().unwrap().success());
            let mut links = LinkCounters::open().unwrap();
            let index = links.index("only-here0").expect("its index");
            assert!(!std::path::Path::new("/sys/class/net/only-here0").exists());
            let mut found = false;
            links.read(|n, _| found |= n == index).unwrap();
            assert!(found, "its counters");
            links
        });
        let links = elsewhere.join().unwrap();
        assert!(links.index("only-here0").is_some(), "asked on a thread of another namespace");
        assert!(LinkCounters::open().unwrap().index("only-here0").is_none());
    }

    #[test]
    fn the_table_of_a_process() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0:10 2 3 4 0 0 0 0 20 5 6 7 0 0 0 0\n";
        let found = parse_dev(table, "eth0").unwrap();
        assert_eq!(
            (found.received_bytes, found.received_dropped, found.sent_packets, found.sent_dropped),
            (10, 4, 5, 7)
        );
        assert_eq!((found + found).sent_errors, 12);
        assert_eq!((parse_dev(table, "eth1"), parse_dev("eth0: 1 2", "eth0")), (None, None));
        assert!(counters_inside(std::process::id(), "lo").is_some());
    }

    #[test]
    fn short_replies_are_nothing() {
        assert_eq!(parse(&[0; 11]), None);
        assert_eq!(parse(&[0; 12]), None);
        let mut body = vec![0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 12, 0, 1, 0];
        body.extend([1; 8]);
        assert_eq!(parse(&body), None, "fewer counters than there are");
    }
}
