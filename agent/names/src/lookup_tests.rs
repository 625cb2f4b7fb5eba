use super::*;
use crate::packet::tests::query;
use crate::zone::{Host, Zone};

fn host(id: &str, name: &str, aliases: &[&str], addresses: &[&str]) -> Host {
    Host {
        id: id.into(),
        name: name.into(),
        aliases: aliases.iter().map(ToString::to_string).collect(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        servers: Vec::new(),
        unwell: name == "sick",
    }
}

fn network(name: &str, subnet: (&str, u8), forward: bool, hosts: Vec<Host>) -> Index {
    let subnets = vec![(subnet.0.parse().unwrap(), subnet.1), ("fd00::".parse().unwrap(), 64)];
    Index::new(Zone { network: name.into(), device: "br".into(), listen: vec![], subnets, forward, hosts })
}

/// `a` is in both networks, `b` in the first, `c` in the second.
fn networks() -> [Index; 2] {
    [
        network(
            "front",
            ("10.1.0.0", 16),
            true,
            vec![
                host("a", "api", &["web"], &["10.1.0.2", "fd00::2"]),
                host("b", "bee", &["web", "api"], &["10.1.0.3"]),
                host("s", "sick", &["api"], &["10.1.0.4"]),
            ],
        ),
        network(
            "back",
            ("10.2.0.0", 16),
            false,
            vec![host("a", "api", &["only-back"], &["10.2.0.2"]), host("c", "Cee", &[], &["10.2.0.3"])],
        ),
    ]
}

fn ask(at: usize, asker: &str, name: &str, kind: u16, turn: usize) -> (Verdict, Vec<Record>) {
    let mut records = vec![Record::Ptr("old".into())];
    let bytes = query(name, kind, None);
    let verdict = look_up(&networks(), at, asker.parse().unwrap(), &Query::parse(&bytes).unwrap(), turn, &mut records);
    (verdict, records)
}

fn a(address: [u8; 4]) -> Record {
    Record::A(address.into())
}

const KNOWN: Verdict = Verdict::Answer(Rcode::NoError);

#[test]
fn names_and_aliases_take_turns() {
    let (first, second) = (a([10, 1, 0, 2]), a([10, 1, 0, 3]));
    assert_eq!(ask(0, "10.1.0.2", "web", A, 0), (KNOWN, vec![first.clone(), second.clone()]));
    assert_eq!(ask(0, "10.1.0.2", "WEB.Front", A, 1), (KNOWN, vec![second.clone(), first.clone()]));
    assert_eq!(ask(0, "10.1.0.2", "api", A, 3), (KNOWN, vec![first, second.clone()]));
    assert_eq!(ask(0, "10.1.0.2", "bee", A, 7), (KNOWN, vec![second]));
}

#[test]
fn an_unwell_one_is_answered_when_it_is_the_only_one() {
    for turn in 0..3 {
        assert_eq!(ask(0, "10.1.0.2", "api", A, turn).1.len(), 2, "{turn}");
    }
    assert_eq!(ask(0, "10.1.0.2", "sick", A, 0), (KNOWN, vec![a([10, 1, 0, 4])]));
}

#[test]
fn a_known_name_without_such_an_address_is_no_ones_question() {
    assert_eq!(ask(0, "10.1.0.2", "bee", AAAA, 0), (KNOWN, vec![]));
    for kind in [15, 16, 33, 65] {
        assert_eq!(ask(0, "10.1.0.2", "api", kind, 0), (KNOWN, vec![]));
    }
    let both = vec![a([10, 1, 0, 2]), Record::Aaaa("fd00::2".parse().unwrap()), a([10, 1, 0, 3])];
    assert_eq!(ask(0, "10.1.0.2", "api", ANY, 0), (KNOWN, both));
}

#[test]
fn others_networks_are_asked_for_their_own_only() {
    // `a` asks on the first network and is in the second too.
    assert_eq!(ask(0, "10.1.0.2", "cee", A, 0), (KNOWN, vec![a([10, 2, 0, 3])]));
    assert_eq!(ask(0, "10.1.0.2", "cee.back", A, 0), (KNOWN, vec![a([10, 2, 0, 3])]));
    assert_eq!(ask(0, "10.1.0.3", "cee", A, 0), (Verdict::Forward, vec![]));
    assert_eq!(ask(0, "10.1.0.99", "cee", A, 0), (Verdict::Forward, vec![]));
    // In both: by the addresses of the network that it asks on.
    assert_eq!(ask(1, "10.2.0.2", "api", A, 0), (KNOWN, vec![a([10, 2, 0, 2])]));
}

#[test]
fn what_is_not_known_goes_on_or_fails() {
    assert_eq!(ask(0, "10.1.0.2", "example.org", A, 0), (Verdict::Forward, vec![]));
    assert_eq!(ask(0, "10.1.0.2", "nobody", A, 0), (Verdict::Forward, vec![]));
    assert_eq!(ask(1, "10.2.0.3", "example.org", A, 0), (Verdict::Answer(Rcode::ServFail), vec![]));
    assert_eq!(ask(9, "10.2.0.3", "api", A, 0), (Verdict::Answer(Rcode::ServFail), vec![]));
    let mut bytes = query("api", A, Some(512));
    let at = bytes.len() - 5;
    bytes[at] = 1;
    let read = Query::parse(&bytes).unwrap();
    let verdict = look_up(&networks(), 0, "10.1.0.2".parse().unwrap(), &read, 0, &mut Vec::new());
    assert_eq!(verdict, Verdict::Answer(Rcode::BadVers));
    let mut bytes = query("api", A, None);
    *bytes.last_mut().unwrap() = 3;
    let read = Query::parse(&bytes).unwrap();
    let verdict = look_up(&networks(), 0, "10.1.0.2".parse().unwrap(), &read, 0, &mut Vec::new());
    assert_eq!(verdict, Verdict::Forward);
}

#[test]
fn addresses_have_names() {
    let ptr = |name: &str| (KNOWN, vec![Record::Ptr(name.into())]);
    assert_eq!(ask(0, "10.1.0.2", "3.0.1.10.in-addr.arpa", PTR, 0), ptr("bee.front"));
    let v6 = format!("2.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ask(0, "10.1.0.2", &v6, PTR, 0), ptr("api.front"));
    assert_eq!(ask(0, "10.1.0.2", "3.0.2.10.IN-ADDR.ARPA", PTR, 0), ptr("Cee.back"));
    assert_eq!(ask(0, "10.1.0.3", "3.0.2.10.in-addr.arpa", PTR, 0), (Verdict::Forward, vec![]));
    assert_eq!(ask(0, "10.1.0.2", "9.9.1.10.in-addr.arpa", PTR, 0), (Verdict::Answer(Rcode::NxDomain), vec![]));
    assert_eq!(ask(0, "10.1.0.2", "3.0.1.10.in-addr.arpa", A, 0), (KNOWN, vec![]));
    assert_eq!(ask(0, "10.1.0.2", "8.8.8.8.in-addr.arpa", PTR, 0), (Verdict::Forward, vec![]));
}

#[test]
fn only_whole_addresses_are_read() {
    for name in [
        "1.0.10.in-addr.arpa",
        "1.2.3.4.5.in-addr.arpa",
        "01.0.0.10.in-addr.arpa",
        "+1.0.0.10.in-addr.arpa",
        "256.0.0.10.in-addr.arpa",
        "in-addr.arpa",
        ".in-addr.arpa",
        "0.ip6.arpa",
    ] {
        assert_eq!(reverse(name.as_bytes()), None, "{name}");
    }
    assert_eq!(reverse(b"0.0.0.10.in-addr.arpa"), Some([10, 0, 0, 0].into()));
    let good = format!("{}f.ip6.arpa", "0.".repeat(31));
    assert_eq!(reverse(good.as_bytes()), Some("f000::".parse().unwrap()));
    assert_eq!(reverse(good.replace('f', "g").as_bytes()), None);
    assert_eq!(reverse(good.replacen('.', "0", 1).as_bytes()), None);
}
