//! Messages of D-Bus (its specification, "Message Protocol"), little-endian: as much as the manager's calls take.

/// A property of a unit, by its name on the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Property {
    pub name: &'static str,
    pub value: Value,
}

impl Property {
    pub fn new(name: &'static str, value: Value) -> Self {
        Property { name, value }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    Bool(bool),
    Long(u64),
    Text(String),
    Bytes(Vec<u8>),
    Numbers(Vec<u32>),
    /// A disk's path and a number, each.
    Disks(Vec<(String, u64)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Bool(_) => "b",
            Value::Long(_) => "t",
            Value::Text(_) => "s",
            Value::Bytes(_) => "ay",
            Value::Numbers(_) => "au",
            Value::Disks(_) => "a(st)",
        }
    }
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    Bool(bool),
    Text(&'a str),
    Properties(&'a [Property]),
    /// An empty list of further units with their properties.
    NoUnits,
}

impl Arg<'_> {
    fn signature(&self) -> &'static str {
        match self {
            Arg::Bool(_) => "b",
            Arg::Text(_) => "s",
            Arg::Properties(_) => "a(sv)",
            Arg::NoUnits => "a(sa(sv))",
        }
    }
}

pub const CALL: u8 = 1;
pub const REPLY: u8 = 2;
pub const ERROR: u8 = 3;
pub const SIGNAL: u8 = 4;

/// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Before the fields: byte order, type, flags, version, bytes of the body, serial, bytes of the fields.
pub const FIXED: usize = 16;
/// What systemd sends to who asks so little; the specification allows 128 MiB.
const MAX: usize = 4 << 20;

/// Whom a call goes to.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, n: u32) {
        self.align(4);
        self.0.extend(n.to_le_bytes());
    }

    fn long(&mut self, n: u64) {
        self.align(8);
        self.0.extend(n.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// Its length goes in front, and does not count what aligns the first element.
    fn array(&mut self, align: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let place = self.0.len() - 4;
        self.align(align);
        let begin = self.0.len();
        elements(self);
        let bytes = (self.0.len() - begin) as u32;
        self.0[place..place + 4].copy_from_slice(&bytes.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(b) => self.number(u32::from(*b)),
            Value::Long(n) => self.long(*n),
            Value::Text(text) => self.text(text),
            Value::Bytes(bytes) => self.array(1, |w| w.0.extend(bytes)),
            Value::Numbers(numbers) => self.array(4, |w| numbers.iter().for_each(|n| w.number(*n))),
            Value::Disks(disks) => self.array(8, |w| {
                for (path, n) in disks {
                    w.align(8);
                    w.text(path);
                    w.long(*n);
                }
            }),
        }
    }

    fn arg(&mut self, arg: &Arg<'_>) {
        match arg {
            Arg::Bool(b) => self.number(u32::from(*b)),
            Arg::Text(text) => self.text(text),
            Arg::Properties(properties) => self.array(8, |w| {
                for property in *properties {
                    w.align(8);
                    w.text(property.name);
                    w.variant(&property.value);
                }
            }),
            Arg::NoUnits => self.array(8, |_| {}),
        }
    }

    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
        if kind == "g" { self.signature(text) } else { self.text(text) }
    }
}

/// A whole message.
pub fn call(serial: u32, call: Call<'_>, args: &[Arg<'_>]) -> Vec<u8> {
    let mut body = Writer::default();
    args.iter().for_each(|arg| body.arg(arg));
    let signature: String = args.iter().map(Arg::signature).collect();
    let mut w = Writer(vec![b'l', CALL, 0, 1]);
    w.number(body.0.len() as u32);
    w.number(serial);
    w.array(8, |w| {
        w.field(PATH, "o", call.path);
        w.field(INTERFACE, "s", call.interface);
        w.field(MEMBER, "s", call.member);
        w.field(DESTINATION, "s", call.destination);
        if !signature.is_empty() {
            w.field(SIGNATURE, "g", &signature);
        }
    });
    w.align(8);
    w.0.extend(body.0);
    w.0
}

/// Bytes that follow the first [`FIXED`] ones. `None`: this is no message.
pub fn rest(fixed: &[u8; FIXED]) -> Option<usize> {
    let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]) as usize;
    if fixed[0] != b'l' || fixed[3] != 1 {
        return None;
    }
    let all = number(12).checked_add(7)? / 8 * 8 + number(4);
    (number(12) <= MAX && number(4) <= MAX && all <= MAX).then_some(all)
}

/// What came in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    pub kind: u8,
    pub reply_to: u32,
    pub member: String,
    pub error: String,
    signature: String,
    body: Vec<u8>,
}

impl Message {
    /// `rest`: as many bytes as [`rest`] says.
    pub fn parse(fixed: &[u8; FIXED], rest: &[u8]) -> Option<Self> {
        let fields = u32::from_le_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]) as usize;
        let mut message = Message { kind: fixed[1], ..Message::default() };
        let mut r = Reader { bytes: rest.get(..fields)?, at: 0 };
        while r.at < fields {
            r.align(8)?;
            let code = r.byte()?;
            let kind = r.signature()?;
            match (code, kind) {
                (MEMBER, "s") => message.member = r.text()?.to_owned(),
                (ERROR_NAME, "s") => message.error = r.text()?.to_owned(),
                (REPLY_SERIAL, "u") => message.reply_to = r.number()?,
                (SIGNATURE, "g") => message.signature = r.signature()?.to_owned(),
                (_, "s" | "o") => drop(r.text()?),
                (_, "u") => drop(r.number()?),
                (_, "g") => drop(r.signature()?),
                _ => return None,
            }
        }
        message.body = rest.get(fields.next_multiple_of(8)..)?.to_vec();
        Some(message)
    }

    /// Texts and paths of the body, in order; numbers between them are passed over. A variant of a text counts as one.
    pub fn texts(&self) -> Option<Vec<String>> {
        let mut r = Reader { bytes: &self.body, at: 0 };
        let mut texts = Vec::new();
        for kind in self.signature.chars() {
            match kind {
                's' | 'o' => texts.push(r.text()?.to_owned()),
                'u' | 'i' | 'b' => drop(r.number()?),
                'v' => match r.signature()? {
                    "s" | "o" => texts.push(r.text()?.to_owned()),
                    _ => return None,
                },
                _ => return None,
            }
        }
        Some(texts)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(taken)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4)?;
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn ended(&mut self, length: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (self.byte()? == 0).then_some(text)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number()? as usize;
        self.ended(length)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        self.ended(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: Call<'_> = Call { destination: "d.e", path: "/p", interface: "i.f", member: "StopUnit" };

    fn whole(bytes: &[u8]) -> Option<Message> {
        let (fixed, after) = bytes.split_first_chunk::<FIXED>()?;
        let after = after.get(..rest(fixed)?)?;
        Message::parse(fixed, after)
    }

    /// Worked out by hand.
    #[test]
    fn a_call_is_aligned_as_the_specification_says() {
        let bytes = call(7, STOP, &[Arg::Text("a.scope"), Arg::Bool(true)]);
        let expected = [
            b"l\x01\x00\x01\x10\x00\x00\x00\x07\x00\x00\x00\x50\x00\x00\x00".as_slice(),
            b"\x01\x01o\x00\x02\x00\x00\x00/p\x00\x00\x00\x00\x00\x00",
            b"\x02\x01s\x00\x03\x00\x00\x00i.f\x00\x00\x00\x00\x00",
            b"\x03\x01s\x00\x08\x00\x00\x00StopUnit\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x06\x01s\x00\x03\x00\x00\x00d.e\x00\x00\x00\x00\x00",
            b"\x08\x01g\x00\x02sb\x00",
            b"\x07\x00\x00\x00a.scope\x00\x01\x00\x00\x00",
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn properties_are_a_list_of_names_and_variants() {
        let mut w = Writer::default();
        let properties = [
            Property::new("PIDs", Value::Numbers(vec![5])),
            Property::new("TasksMax", Value::Long(9)),
            Property::new("X", Value::Disks(vec![("/d".into(), 1)])),
        ];
        w.arg(&Arg::Properties(&properties));
        let expected = [
            b"\x58\x00\x00\x00\x00\x00\x00\x00".as_slice(),
            b"\x04\x00\x00\x00PIDs\x00\x02au\x00\x00\x00\x00\x04\x00\x00\x00\x05\x00\x00\x00",
            b"\x08\x00\x00\x00TasksMax\x00\x01t\x00\x09\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00X\x00\x05a(st)\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00",
            b"\x02\x00\x00\x00/d\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00",
        ]
        .concat();
        assert_eq!(w.0, expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let message = whole(&call(1, STOP, &[Arg::Text("a"), Arg::Bool(false), Arg::Text("ü")])).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (CALL, "StopUnit"));
        assert_eq!(message.texts().unwrap(), ["a", "ü"]);
    }

    #[test]
    fn what_is_cut_or_strange_is_no_message() {
        let bytes = call(1, STOP, &[Arg::Text("a"), Arg::Text("b")]);
        for end in 0..bytes.len() {
            assert!(whole(&bytes[..end]).is_none(), "{end}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 7, 127, 255] {
                let mut odd = bytes.clone();
                odd[at] = value;
                // Whatever it is: no panic.
                let _ = whole(&odd).and_then(|m| m.texts());
            }
        }
        let mut huge = bytes.clone();
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(whole(&huge).is_none());
    }
}
