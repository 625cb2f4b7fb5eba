//! DNS messages of containers and of other servers, and the files that the agent writes for the server: any bytes are read, and what is read as a
//! question can be answered, within the limit, by what is an answer to it.
#![no_main]

use berth_names::lookup::look_up;
use berth_names::packet::{self, Match, Query, Rcode, Record};
use berth_names::zone::{Index, Zone};
use std::sync::LazyLock;

static NETWORKS: LazyLock<[Index; 1]> = LazyLock::new(|| {
    let text = "berth-names 1\nnetwork n\ndevice d\nsubnet 10.0.0.0/8\nsubnet fd00::/16\nforward\nhost i a 10.0.0.1 fd00::1\nalias i b\n";
    [Index::new(Zone::parse(text).expect("a good file"))]
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(query) = Query::parse(bytes) {
        let mut records = Vec::new();
        look_up(&*NETWORKS, 0, [10, 0, 0, 1].into(), &query, bytes.len(), &mut records);
        records.extend((0..usize::from(bytes[0])).map(|_| Record::Aaaa([7; 16].into())));
        let mut out = Vec::new();
        packet::answer(&mut out, &query, Rcode::NoError, &records, 1, query.udp_limit());
        assert!(out.len() <= query.udp_limit());
        assert!(matches!(packet::check(&out, query.id(), query.question()), Match::Answer { .. }));
    }
    if let Some((question, response)) = bytes.split_at_checked(16) {
        packet::check(response, 7, question);
        let mut response = response.to_vec();
        packet::cut(&mut response, 16);
        packet::refuse(&mut response, bytes, Rcode::FormErr);
    }
    berth_names::fuzz_resolv(&String::from_utf8_lossy(bytes));
    if let Ok(zone) = Zone::parse(&String::from_utf8_lossy(bytes)) {
        Zone::parse(&zone.render()).expect("what was written");
        Index::new(zone).named(b"a.n");
    }
});
