//! DNS messages as far as a small server needs them (RFC 1035; EDNS: RFC 6891).
//!
//! Nothing here follows a compression pointer: a question has none, and all that is behind it is only stepped over. So no message can make a loop.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const HEADER: usize = 12;
/// The longest name on the wire, with its last, empty label.
pub const MAX_NAME: usize = 255;
/// What a client takes by datagram that says nothing else (RFC 1035, 4.2.1).
pub const PLAIN_LIMIT: usize = 512;
/// The most that is sent by datagram: passes every link without fragments (DNS flag day 2020).
pub const UDP_LIMIT: usize = 1232;
/// Records behind the question that are looked at: a query has one, perhaps a signature and a cookie beside it.
const MAX_RECORDS: u32 = 16;

pub const A: u16 = 1;
pub const PTR: u16 = 12;
pub const AAAA: u16 = 28;
pub const OPT: u16 = 41;
pub const ANY: u16 = 255;
pub const IN: u16 = 1;

const RESPONSE: u16 = 1 << 15;
const OPCODE: u16 = 0xf << 11;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;

/// RFC 1035, 4.1.1; 16 is RFC 6891's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// A name in lower case, its labels with dots between them and none at the end.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
}

impl Name {
    /// None: the name has a label with a dot, or with what is no printable ASCII, in it: nothing here is called so.
    fn read(labels: &[u8]) -> Option<Self> {
        let mut name = Name { bytes: [0; MAX_NAME], len: 0 };
        let mut rest = labels;
        while let Some((&len, behind)) = rest.split_first()
            && len > 0
        {
            let (label, next) = behind.split_at_checked(len.into())?;
            if label.iter().any(|b| !b.is_ascii_graphic() || *b == b'.') {
                return None;
            }
            if name.len > 0 {
                name.push(b'.')?;
            }
            for b in label {
                name.push(b.to_ascii_lowercase())?;
            }
            rest = next;
        }
        Some(name)
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(usize::from(self.len))? = byte;
        self.len += 1;
        Some(())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// What a client says about itself beside its question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edns {
    /// Bytes of a datagram that it takes.
    pub size: u16,
    pub version: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub bytes: &'a [u8],
    /// None: a name that nothing here can have.
    pub name: Option<Name>,
    pub kind: u16,
    pub class: u16,
    /// Where the question ends, which begins behind the header.
    pub question_end: usize,
    pub edns: Option<Edns>,
}

/// Why a message is no query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Not to be answered: too short to have an id, or an answer itself.
    Ignore,
    Answer(Rcode),
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Where the labels of a name end that may not be compressed.
fn plain_name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let len = usize::from(*bytes.get(at)?);
        if len > 63 {
            return None;
        }
        at += 1 + len;
        if at - start > MAX_NAME {
            return None;
        }
        if len == 0 {
            return Some(at);
        }
    }
}

/// Steps over a name that may end in a pointer.
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let len = usize::from(*bytes.get(at)?);
        match len {
            0 => return Some(at + 1),
            192.. => return Some(at + 2).filter(|end| *end <= bytes.len()),
            64..192 => return None,
            _ => at += 1 + len,
        }
        if at - start > MAX_NAME {
            return None;
        }
    }
}

impl<'a> Query<'a> {
    /// Reads a message of a client: one question, and an OPT record perhaps.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Problem> {
        if bytes.len() < HEADER {
            return Err(Problem::Ignore);
        }
        let wrong = Problem::Answer(Rcode::FormErr);
        let field = |at| word(bytes, at).unwrap_or_default();
        let (flags, questions) = (field(2), field(4));
        if flags & RESPONSE != 0 {
            return Err(Problem::Ignore);
        }
        if flags & OPCODE != 0 {
            return Err(Problem::Answer(Rcode::NotImp));
        }
        if questions != 1 || flags & TRUNCATED != 0 {
            return Err(wrong);
        }
        let name_end_at = plain_name_end(bytes, HEADER).ok_or(wrong)?;
        let kind = word(bytes, name_end_at).ok_or(wrong)?;
        let class = word(bytes, name_end_at + 2).ok_or(wrong)?;
        let question_end = name_end_at + 4;
        let name = Name::read(&bytes[HEADER..name_end_at]);
        let edns = Self::edns(bytes, question_end).ok_or(wrong)?;
        Ok(Query { bytes, name, kind, class, question_end, edns })
    }

    /// None: what is behind the question makes no sense.
    fn edns(bytes: &[u8], mut at: usize) -> Option<Option<Edns>> {
        let before = u32::from(word(bytes, 6)?) + u32::from(word(bytes, 8)?);
        let records = before + u32::from(word(bytes, 10)?);
        if records > MAX_RECORDS {
            return None;
        }
        let mut found = None;
        for i in 0..records {
            let name = at;
            at = name_end(bytes, at)?;
            let (kind, class) = (word(bytes, at)?, word(bytes, at + 2)?);
            let version = *bytes.get(at + 5)?;
            let end = at + 10 + usize::from(word(bytes, at + 8)?);
            if end > bytes.len() {
                return None;
            }
            if kind == OPT && i >= before {
                // Of the root, and only one.
                if bytes[name] != 0 || found.is_some() {
                    return None;
                }
                found = Some(Edns { size: class, version });
            }
            at = end;
        }
        Some(found)
    }

    pub fn id(&self) -> u16 {
        word(self.bytes, 0).unwrap_or_default()
    }

    pub fn question(&self) -> &'a [u8] {
        &self.bytes[HEADER..self.question_end]
    }

    /// Bytes of a datagram that the client takes and that are sent.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_LIMIT, |e| usize::from(e.size).clamp(PLAIN_LIMIT, UDP_LIMIT))
    }
}

/// The data of an answer; its name is the question's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// A name of labels with dots between them.
    Ptr(String),
}

/// A name of labels with dots between them as it is on the wire. None: too long, or a label is empty.
fn wire_name(name: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).ok().filter(|n| (1..64).contains(n))?);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then_some(wire)
}

/// Writes an answer of our own: at most `limit` bytes, with TC set where that leaves records out.
pub fn answer(out: &mut Vec<u8>, query: &Query<'_>, rcode: Rcode, records: &[Record], ttl_secs: u32, limit: usize) {
    let asked = word(query.bytes, 2).unwrap_or_default();
    let mut flags = RESPONSE | RECURSION_AVAILABLE | (asked & RECURSION_DESIRED) | (rcode as u16 & 0xf);
    if matches!(rcode, Rcode::NoError | Rcode::NxDomain) {
        flags |= AUTHORITATIVE;
    }
    out.clear();
    out.extend_from_slice(&query.bytes[..2]);
    out.extend_from_slice(&[0; HEADER - 2]);
    out.extend_from_slice(query.question());
    let room = limit - if query.edns.is_some() { OPT_LEN } else { 0 };
    let mut count = 0u16;
    for record in records {
        let before = out.len();
        if write(out, record, ttl_secs).is_none() {
            out.truncate(before);
            continue;
        }
        if out.len() > room || count == u16::MAX {
            out.truncate(before);
            flags |= TRUNCATED;
            break;
        }
        count += 1;
    }
    if query.edns.is_some() {
        // Root, OPT, our size, the upper part of the code, version 0, no flags, no options.
        out.push(0);
        for part in [OPT, UDP_LIMIT as u16, rcode as u16 >> 4 << 8, 0, 0] {
            out.extend_from_slice(&part.to_be_bytes());
        }
    }
    let extra = u16::from(query.edns.is_some());
    for (i, field) in [flags, 1, count, 0, extra].into_iter().enumerate() {
        out[2 + 2 * i..4 + 2 * i].copy_from_slice(&field.to_be_bytes());
    }
}

const OPT_LEN: usize = 11;

/// None: it has a name that cannot be written.
fn write(out: &mut Vec<u8>, record: &Record, ttl_secs: u32) -> Option<()> {
    let mut put = |kind: u16, data: &[u8]| {
        // A pointer to the question's name.
        out.extend_from_slice(&[0xc0, HEADER as u8]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&IN.to_be_bytes());
        out.extend_from_slice(&ttl_secs.to_be_bytes());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
    };
    match record {
        Record::A(address) => put(A, &address.octets()),
        Record::Aaaa(address) => put(AAAA, &address.octets()),
        Record::Ptr(name) => put(PTR, &wire_name(name)?),
    }
    Some(())
}

/// Writes an answer to what is no query: its id, and what is wrong.
pub fn refuse(out: &mut Vec<u8>, bytes: &[u8], rcode: Rcode) {
    let asked = word(bytes, 2).unwrap_or_default();
    let flags = RESPONSE | (asked & (OPCODE | RECURSION_DESIRED)) | (rcode as u16 & 0xf);
    out.clear();
    out.extend_from_slice(bytes.get(..2).unwrap_or(&[0; 2]));
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
}

/// What another server's message is to the question that it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Match {
    /// Not an answer to it.
    No,
    /// It says that it cannot answer (SERVFAIL, REFUSED, NOTIMP, FORMERR): another server may.
    Failure,
    Answer {
        truncated: bool,
    },
}

/// Compares another server's message with what it was asked: its id and its question, in which letters may have changed their case.
pub fn check(response: &[u8], id: u16, question: &[u8]) -> Match {
    let (Some(found), Some(flags), Some(questions)) = (word(response, 0), word(response, 2), word(response, 4)) else {
        return Match::No;
    };
    if response.len() < HEADER || found != id || flags & RESPONSE == 0 || flags & OPCODE != 0 {
        return Match::No;
    }
    let failed = matches!(flags & 0xf, 1 | 2 | 4 | 5);
    // Who could not read a question does not repeat it.
    if questions == 0 && failed {
        return Match::Failure;
    }
    let same = response.get(HEADER..HEADER + question.len()).is_some_and(|q| q.eq_ignore_ascii_case(question));
    match same && questions == 1 {
        false => Match::No,
        true if failed => Match::Failure,
        true => Match::Answer { truncated: flags & TRUNCATED != 0 },
    }
}

/// Cuts an answer behind its question, and says so in it: the client asks again over TCP.
pub fn cut(response: &mut Vec<u8>, question_len: usize) {
    response.truncate(HEADER + question_len);
    if response.len() >= HEADER {
        response[2] |= (TRUNCATED >> 8) as u8;
        response[6..HEADER].fill(0);
    }
}

pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(at) = message.first_chunk_mut() {
        *at = id.to_be_bytes();
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
pub(crate) mod tests;
