use super::super::ruleset::Element;
use super::*;

fn table() -> TableName {
    TableName { family: INET, name: "filter".into() }
}

fn base(hook: u32, priority: i32, kind: &str, drops: bool) -> Option<Base> {
    Some(Base { hook, priority, kind: kind.into(), drops, devices: Vec::new() })
}

fn chain(name: &str, base: Option<Base>, rules: Vec<Vec<Step>>) -> Chain {
    let rules = rules.into_iter().enumerate();
    let rules = rules.map(|(n, steps)| Rule { handle: n as u64 + 1, steps, comment: None }).collect();
    Chain { table: table(), name: name.into(), base, rules }
}

fn packet() -> Packet {
    Packet {
        from: "198.51.100.1".parse().unwrap(),
        to: "192.0.2.1".parse().unwrap(),
        protocol: 6,
        port: 8080,
        input: Interface { name: Some("eth0".into()), index: Some(2), loopback: false },
        output: Interface { name: Some(String::new()), index: Some(0), loopback: false },
        mark: 0,
        to_this_host: true,
        redirected: false,
    }
}

fn equal(value: &[u8]) -> Step {
    Step::Compare { from: 0, op: 0, value: value.to_vec() }
}

fn tcp_dport(port: u16) -> Vec<Step> {
    vec![
        Step::Meta { key: 16, to: 0 },
        equal(&[6]),
        Step::Payload { base: 2, offset: 2, len: 2, to: 0 },
        equal(&port.to_be_bytes()),
    ]
}

fn with(mut steps: Vec<Step>, verdict: Verdict) -> Vec<Step> {
    steps.push(Step::Verdict(verdict));
    steps
}

fn follow(chains: Vec<Chain>, sets: Vec<(TableName, &str, Set)>, packet: &mut Packet) -> (Fate, Vec<Found>) {
    let ruleset = Ruleset::of(chains, sets);
    let mut follower = Follower::new(&ruleset);
    let fate = follower.hook(INPUT, packet);
    (fate, follower.found)
}

#[test]
fn rules_policies_and_priorities_decide() {
    let accept = chain(
        "input",
        base(INPUT, 0, "filter", true),
        vec![with(tcp_dport(22), Verdict::Accept), with(tcp_dport(8080), Verdict::Accept)],
    );
    let (fate, found) = follow(vec![accept.clone()], vec![], &mut packet());
    assert_eq!((fate, found[0].effect, found[0].place.handle), (Fate::Goes, Effect::Accepts, Some(2)));
    assert_eq!(found[0].place.text, "tcp dport 8080 accept");
    let (fate, found) = follow(vec![accept.clone()], vec![], &mut Packet { port: 81, ..packet() });
    assert_eq!(
        (fate, found[0].place.handle, found[0].place.text.as_str()),
        (Fate::Ends(Effect::Drops), None, "policy drop")
    );
    // An accept of one chain does not speak for a later one.
    let later = chain("late", base(INPUT, 10, "filter", false), vec![with(tcp_dport(8080), Verdict::Drop)]);
    let (fate, found) = follow(vec![later, accept], vec![], &mut packet());
    assert_eq!((fate, found.len(), found[1].place.chain.as_str()), (Fate::Ends(Effect::Drops), 2, "late"));
}

#[test]
fn of_the_same_priority_the_newest_is_asked_first() {
    let drops = |name| chain(name, base(INPUT, 0, "filter", false), vec![with(tcp_dport(8080), Verdict::Drop)]);
    let (_, found) = follow(vec![drops("old"), drops("new")], vec![], &mut packet());
    assert_eq!(found[0].place.chain, "new");
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let sub = |name: &str, steps| chain(name, None, vec![steps]);
    let main = |first: Verdict| {
        chain(
            "input",
            base(INPUT, 0, "filter", false),
            vec![vec![Step::Verdict(first)], vec![Step::Verdict(Verdict::Drop)]],
        )
    };
    for (first, ends) in [(Verdict::Jump("sub".into()), true), (Verdict::Goto("sub".into()), false)] {
        let (fate, _) =
            follow(vec![main(first), sub("sub", vec![Step::Verdict(Verdict::Return)])], vec![], &mut packet());
        assert_eq!(matches!(fate, Fate::Ends(_)), ends);
    }
    let (fate, _) = follow(
        vec![main(Verdict::Jump("sub".into())), sub("sub", vec![Step::Verdict(Verdict::Accept)])],
        vec![],
        &mut packet(),
    );
    assert_eq!(fate, Fate::Goes);
    // Chains in a circle end.
    let circle = chain("sub", None, vec![vec![Step::Verdict(Verdict::Jump("sub".into()))]]);
    assert_eq!(
        follow(vec![main(Verdict::Jump("sub".into())), circle], vec![], &mut packet()).0,
        Fate::Ends(Effect::Drops)
    );
}

#[test]
fn what_is_not_known_is_a_doubt_only_where_it_could_matter() {
    let unknown = |steps: Vec<Step>, verdict| with([vec![Step::Unknown("limit".into())], steps].concat(), verdict);
    let of = |rule| follow(vec![chain("input", base(INPUT, 0, "filter", false), vec![rule])], vec![], &mut packet());
    let (fate, found) = of(unknown(tcp_dport(8080), Verdict::Drop));
    assert_eq!((fate, found[0].effect, found[0].doubt.as_deref()), (Fate::Goes, Effect::Drops, Some("limit")));
    assert!(of(unknown(tcp_dport(22), Verdict::Drop)).1.is_empty(), "another port");
    let source = vec![Step::Payload { base: 2, offset: 0, len: 2, to: 0 }, equal(&[0, 53])];
    assert_eq!(of(with(source, Verdict::Drop)).1[0].doubt.as_deref(), Some("a comparison"));
    assert!(of(vec![Step::Unknown("limit".into()), Step::Passive("log".into())]).1.is_empty(), "it only counts");
}

#[test]
fn masks_sets_and_verdict_maps() {
    let net = |address: [u8; 4], mask: [u8; 4]| {
        vec![
            Step::Payload { base: 1, offset: 12, len: 4, to: 0 },
            Step::Mask { from: 0, to: 0, mask: mask.to_vec(), xor: vec![0; 4] },
            equal(&address),
            Step::Verdict(Verdict::Drop),
        ]
    };
    let of = |rule: Vec<Step>, sets| {
        follow(vec![chain("input", base(INPUT, 0, "filter", false), vec![rule])], sets, &mut packet()).0
    };
    assert_eq!(of(net([198, 51, 100, 0], [255, 255, 255, 0]), vec![]), Fate::Ends(Effect::Drops));
    assert_eq!(of(net([10, 0, 0, 0], [255, 0, 0, 0]), vec![]), Fate::Goes);
    let new = |bits: u32| {
        vec![
            Step::Ct { key: 0, to: 0 },
            Step::Mask { from: 0, to: 0, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Step::Compare { from: 0, op: 1, value: vec![0; 4] },
            Step::Verdict(Verdict::Drop),
        ]
    };
    assert_eq!((of(new(2 | 4), vec![]), of(new(8), vec![])), (Fate::Goes, Fate::Ends(Effect::Drops)));
    let port = || Step::Payload { base: 2, offset: 2, len: 2, to: 0 };
    let lookup = |verdicts| Step::Lookup { set: "s".into(), from: 0, to: None, inverted: false, verdicts };
    let ends = |first: u16, behind: u16| {
        let element = |n: u16, end| Element { key: n.to_be_bytes().to_vec(), end, ..Element::default() };
        Set {
            intervals: true,
            parts: vec![2],
            elements: Some(vec![element(first, false), element(behind, true)]),
            otherwise: None,
        }
    };
    let rule = || vec![port(), lookup(false), Step::Verdict(Verdict::Drop)];
    for (first, behind, fits) in [(8000, 8081, true), (8000, 8080, false), (8080, 8081, true), (8081, 9000, false)] {
        let fate = of(rule(), vec![(table(), "s", ends(first, behind))]);
        assert_eq!(fate != Fate::Goes, fits, "{first} to {behind}");
    }
    let map = Set {
        parts: vec![2],
        elements: Some(vec![Element {
            key: 8080u16.to_be_bytes().to_vec(),
            verdict: Some(Verdict::Drop),
            ..Element::default()
        }]),
        ..Set::default()
    };
    assert_eq!(of(vec![port(), lookup(true)], vec![(table(), "s", map)]), Fate::Ends(Effect::Drops));
    // A set that is too large to read is a doubt.
    let large = Set { parts: vec![2], elements: None, ..Set::default() };
    let chains = vec![chain("input", base(INPUT, 0, "filter", false), vec![rule()])];
    assert_eq!(follow(chains, vec![(table(), "s", large)], &mut packet()).1[0].doubt.as_deref(), Some("@s"));
}

#[test]
fn interfaces_and_translation() {
    let from = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        if !name.ends_with('*') {
            bytes.resize(16, 0);
        }
        bytes.retain(|b| *b != b'*');
        vec![Step::Meta { key: 6, to: 0 }, Step::Compare { from: 0, op: 0, value: bytes }, Step::Verdict(Verdict::Drop)]
    };
    let of = |name: &str, packet: &mut Packet| {
        follow(vec![chain("input", base(INPUT, 0, "filter", false), vec![from(name)])], vec![], packet)
    };
    for (name, fits) in [("eth0", true), ("eth*", true), ("eth", false), ("eth1", false)] {
        assert_eq!(of(name, &mut packet()).0 != Fate::Goes, fits, "{name}");
    }
    let mut nowhere = Packet { input: Interface::default(), ..packet() };
    assert_eq!(of("eth0", &mut nowhere).1[0].place.text, "iifname \"eth0\" drop");
    let dnat = vec![
        Step::Constant { to: 0, value: vec![10, 0, 0, 2] },
        Step::Constant { to: 4, value: vec![0, 80] },
        Step::Dnat { address: Some(0), port: Some(4) },
    ];
    let mut packet = packet();
    let chains = vec![
        chain("nat", base(INPUT, -100, "nat", false), vec![dnat.clone()]),
        chain("nat2", base(INPUT, -90, "nat", false), vec![dnat]),
    ];
    let (_, found) = follow(chains, vec![], &mut packet);
    assert_eq!((packet.to.to_string().as_str(), packet.port, found.len()), ("10.0.0.2", 80, 1));
}

#[test]
fn a_way_without_end_is_a_doubt() {
    // Ten jumps to the next chain in each of sixteen: 10^16 rules for a packet that nobody stops.
    let jumps = |steps: Vec<Step>| {
        let name = |n: usize| format!("c{n}");
        let chain_of = |n: usize| {
            let base = if n == 0 { base(INPUT, 0, "filter", false) } else { None };
            chain(&name(n), base, vec![with(steps.clone(), Verdict::Jump(name(n + 1))); 10])
        };
        let last = chain("c16", None, vec![with(tcp_dport(9), Verdict::Drop)]);
        follow((0..16).map(chain_of).chain([last]).collect(), vec![], &mut packet())
    };
    let (fate, found) = jumps(vec![]);
    assert_eq!((fate, found.len(), found[0].effect), (Fate::Goes, 1, Effect::Drops));
    assert!(found[0].doubt.as_ref().is_some_and(|d| d.contains("rules")), "{found:?}");
    let (_, found) = jumps(vec![Step::Unknown("limit".into())]);
    assert_eq!((found.len(), found[0].effect), (10, Effect::Drops));
}
