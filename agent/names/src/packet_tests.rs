use super::*;

/// A question as clients send it.
pub(crate) fn query(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    bytes.extend(wire_name(name).unwrap_or_else(|| vec![0]));
    bytes.extend([(kind >> 8) as u8, kind as u8, 0, 1]);
    if let Some(size) = edns {
        bytes.extend([0, 0, 41, (size >> 8) as u8, size as u8, 0, 0, 0x80, 0, 0, 0]);
    }
    bytes
}

#[test]
fn a_question_is_read() {
    let bytes = query("Db.Web", AAAA, Some(4096));
    let read = Query::parse(&bytes).unwrap();
    assert_eq!(read.name.unwrap().as_bytes(), b"db.web");
    assert_eq!((read.id(), read.kind, read.class), (0x1234, AAAA, IN));
    assert_eq!(read.edns, Some(Edns { size: 4096, version: 0 }));
    assert_eq!(read.question(), &bytes[12..24]);
    assert_eq!(read.udp_limit(), UDP_LIMIT);
    let plain = query("", A, None);
    let read = Query::parse(&plain).unwrap();
    assert_eq!((read.name.unwrap().as_bytes(), read.edns, read.udp_limit()), (&b""[..], None, PLAIN_LIMIT));
    let small = query("a", A, Some(10));
    assert_eq!(Query::parse(&small).unwrap().udp_limit(), PLAIN_LIMIT);
}

#[test]
fn labels_that_no_container_has_are_nobodys_name() {
    for label in [&b"a.b"[..], b"a b", b"\0", b"\xff"] {
        let mut bytes = query("", A, None);
        bytes.splice(12..12, [&[label.len() as u8][..], label].concat());
        assert!(Query::parse(&bytes).unwrap().name.is_none(), "{label:?}");
    }
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let good = query("a.b", A, Some(1232));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Query::parse(&bytes).map(drop)
    };
    let answer = |rcode| Err(Problem::Answer(rcode));
    for (at, value, expected) in [
        (2, 0x81, Err(Problem::Ignore)),
        (2, 0x29, answer(Rcode::NotImp)),
        (2, 0x03, answer(Rcode::FormErr)),
        (5, 0, answer(Rcode::FormErr)),
        (5, 2, answer(Rcode::FormErr)),
        // Records that are not there, too many of them, a signature's place taken by none.
        (7, 1, answer(Rcode::FormErr)),
        (11, 200, answer(Rcode::FormErr)),
        (10, 255, answer(Rcode::FormErr)),
        // A pointer, an unknown kind of label, a label that goes beyond the end.
        (12, 0xc0, answer(Rcode::FormErr)),
        (12, 0x41, answer(Rcode::FormErr)),
        (14, 63, answer(Rcode::FormErr)),
        // OPT of a name.
        (21, 1, answer(Rcode::FormErr)),
        // Its data goes beyond the end.
        (31, 1, answer(Rcode::FormErr)),
    ] {
        assert_eq!(with(at, value), expected, "byte {at} = {value}");
    }
    for len in 0..good.len() {
        let cut = Query::parse(&good[..len]).map(drop);
        assert_eq!(cut, if len < HEADER { Err(Problem::Ignore) } else { answer(Rcode::FormErr) }, "{len} bytes");
    }
    let mut twice = good.clone();
    twice[11] = 2;
    twice.extend_from_slice(&good[21..]);
    assert_eq!(Query::parse(&twice).map(drop), answer(Rcode::FormErr));
    let long = [&good[..12], &[1, b'a'].repeat(127), &[0, 0, 1, 0, 1]].concat();
    assert_eq!(
        Query::parse(&[&long[..12], &[1, b'a'].repeat(128), &[0, 0, 1, 0, 1]].concat()).map(drop),
        answer(Rcode::FormErr)
    );
    let mut long = long;
    long[11] = 0;
    assert_eq!(Query::parse(&long).unwrap().name.unwrap().as_bytes().len(), 253);
}

/// Header fields of an answer: flags and the four counts.
fn fields(bytes: &[u8]) -> [u16; 5] {
    std::array::from_fn(|i| word(bytes, 2 + 2 * i).unwrap())
}

#[test]
fn answers_carry_their_records() {
    let bytes = query("Db", ANY, Some(1400));
    let asked = Query::parse(&bytes).unwrap();
    let records =
        [Record::A([10, 0, 0, 2].into()), Record::Aaaa("fd00::2".parse().unwrap()), Record::Ptr("db.web".into())];
    let mut out = vec![9; 3];
    answer(&mut out, &asked, Rcode::NoError, &records, 5, 512);
    assert_eq!(out[..2], [0x12, 0x34]);
    assert_eq!(fields(&out), [0x8580, 1, 3, 0, 1]);
    let expected = [
        &bytes[12..20],
        &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 2],
        &[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 5, 0, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        &[0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 5, 0, 8, 2, b'd', b'b', 3, b'w', b'e', b'b', 0],
        &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(out[12..], expected);
    answer(&mut out, &asked, Rcode::BadVers, &[], 5, 512);
    assert_eq!((fields(&out), &out[out.len() - 6..]), ([0x8180, 1, 0, 0, 1], &[1, 0, 0, 0, 0, 0][..]));
    answer(&mut out, &asked, Rcode::NoError, &[Record::Ptr("x".repeat(64)), Record::Ptr("a..b".into())], 5, 512);
    assert_eq!(fields(&out)[2], 0);
}

#[test]
fn an_answer_that_is_too_long_says_so() {
    for (edns, most) in [(None, (512 - 22) / 16), (Some(1232), (1232 - 22 - 11) / 16)] {
        let bytes = query("many", A, edns);
        let asked = Query::parse(&bytes).unwrap();
        let records = vec![Record::A([10, 0, 0, 2].into()); 100];
        let mut out = Vec::new();
        answer(&mut out, &asked, Rcode::NoError, &records, 5, asked.udp_limit());
        assert!(out.len() <= asked.udp_limit());
        assert_eq!(fields(&out)[..3], [0x8780, 1, most]);
        answer(&mut out, &asked, Rcode::NoError, &records, 5, 65535);
        assert_eq!(fields(&out)[..3], [0x8580, 1, 100]);
    }
}

#[test]
fn a_refusal_has_the_id_and_the_reason() {
    let mut out = Vec::new();
    refuse(&mut out, &[0xab, 0xcd, 0x29, 0x80, 7, 7, 7, 7, 7, 7, 7, 7], Rcode::NotImp);
    assert_eq!(out, [0xab, 0xcd, 0xa9, 0x04, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn only_an_answer_to_the_question_is_one() {
    let bytes = query("Example.org", A, Some(1232));
    let asked = Query::parse(&bytes).unwrap();
    let mut good = Vec::new();
    answer(&mut good, &asked, Rcode::NoError, &[Record::A([192, 0, 2, 1].into())], 5, 512);
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = good.clone();
        changes.iter().for_each(|(at, value)| bytes[*at] = *value);
        check(&bytes, 0x1234, asked.question())
    };
    assert_eq!(with(&[]), Match::Answer { truncated: false });
    assert_eq!(with(&[(2, 0x87)]), Match::Answer { truncated: true });
    assert_eq!(with(&[(13, b'e')]), Match::Answer { truncated: false });
    assert_eq!(with(&[(3, 0x83)]), Match::Answer { truncated: false });
    for code in [1, 2, 4, 5] {
        assert_eq!(with(&[(3, code)]), Match::Failure);
        assert_eq!(with(&[(3, code), (5, 0)]), Match::Failure);
    }
    for wrong in [(0, 0), (2, 0x05), (2, 0xa5), (5, 0), (5, 2), (13, b'x'), (26, 28), (28, 3)] {
        assert_eq!(with(&[wrong]), Match::No, "{wrong:?}");
    }
    for len in 0..29 {
        assert_eq!(check(&good[..len], 0x1234, asked.question()), Match::No);
    }
    cut(&mut good, asked.question().len());
    assert_eq!((good.len(), fields(&good)), (29, [0x8780, 1, 0, 0, 0]));
    assert_eq!(check(&good, 0x1234, asked.question()), Match::Answer { truncated: true });
}

/// A few hundred thousand messages near good ones: whatever is read can be answered, and the answer is one to the question.
#[test]
fn every_message_that_is_read_can_be_answered() {
    let seeds = [query("db.web", A, Some(1232)), query("4.3.2.1.in-addr.arpa", PTR, None), query("", ANY, Some(0))];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut read = 0;
    for _ in 0..300_000 {
        let mut bytes = seeds[random() as usize % seeds.len()].clone();
        for _ in 0..random() % 4 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        bytes.truncate(bytes.len() - (random() as usize % 3) * (random() as usize % 2));
        if let Ok(asked) = Query::parse(&bytes) {
            read += 1;
            let records = [Record::A([10, 0, 0, 1].into())];
            let mut out = Vec::new();
            answer(&mut out, &asked, Rcode::NoError, &records, 1, asked.udp_limit());
            assert!(out.len() <= asked.udp_limit());
            assert!(matches!(check(&out, asked.id(), asked.question()), Match::Answer { .. }));
        }
    }
    assert!(read > 1000, "{read}");
}
