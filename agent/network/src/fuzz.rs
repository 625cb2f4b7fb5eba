//! Doors for the fuzz targets: what the kernel answers is read by parsers that nobody outside of this crate can call.

use crate::explain::follow_any;
use crate::netlink::{Reply, split_message};
use crate::{counters, link, sockets};

/// Reads a datagram as every kind of reply that berth asks for, and follows packets through the ruleset that it makes.
pub fn replies(bytes: &[u8]) {
    let mut rest = bytes;
    let mut all = Vec::new();
    while let Some((kind, body, next)) = split_message(rest).map(|(header, body, next)| (header.kind(), body, next)) {
        assert!(next.len() < rest.len(), "a walk that does not end");
        let reply = Reply { kind, body: body.to_vec() };
        link::fuzz(&reply);
        let _ = counters::parse(body);
        all.push((kind, body));
        rest = next;
    }
    follow_any(&all);
    let text = String::from_utf8_lossy(bytes);
    let _ = counters::parse_dev(&text, "eth0");
    for line in text.lines() {
        let _ = sockets::parse(line, false);
    }
}
