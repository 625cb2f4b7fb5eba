//! netlink: messages written into one buffer, sent in one call, and their replies. netlink(7), linux/netlink.h.
//!
//! rtnetlink and nfnetlink share this encoder. It is ours because the few dozen messages that berth sends need no more than nested
//! attributes, and because one datagram with several requests is what makes an attach cheap.

use berth_sys::net::{self, NetlinkFamily};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const CREATE: u16 = 0x400;
pub const EXCL: u16 = 0x200;
pub const REPLACE: u16 = 0x100;
pub const APPEND: u16 = 0x800;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// Attribute of an acknowledgement that holds the kernel's words (NLMSGERR_ATTR_MSG).
const ERROR_TEXT: u16 = 1;
/// Flag of an acknowledgement that has attributes (NLM_F_ACK_TLVS).
const ACK_TLVS: u16 = 0x200;
/// The kernel's own limit of a dump's datagram is 32 KiB.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Requests for one datagram.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Messages {
    pub fn new() -> Self {
        Messages { bytes: Vec::with_capacity(1024), starts: Vec::new() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.starts.len()
    }

    /// Starts a message: its type, flags and the fixed part behind netlink's own header.
    pub fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> &mut Self {
        self.end();
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(fixed);
        self.pad();
        self
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // Every value here is a name, an address or a number: far below the format's 64 KiB.
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// A string with the NUL at its end that the kernel wants.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute made of what `inside` writes.
    pub fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        inside(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Bytes within a nest that are no attribute (the `ifinfomsg` of a veth's peer).
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The message that was begun last asks for an answer, whatever becomes of it; the others answer only with a refusal.
    pub fn acknowledge_last(&mut self) {
        if let Some(flags) = self.starts.last().and_then(|start| self.bytes.get_mut(start + 6..)?.first_chunk_mut()) {
            *flags = (u16::from_ne_bytes(*flags) | ACK).to_ne_bytes();
        }
    }

    #[cfg(fuzzing)]
    pub(crate) fn last_kind(&self) -> u16 {
        let bytes = self.starts.last().and_then(|start| self.bytes.get(start + 4..)?.first_chunk());
        bytes.map_or(0, |b| u16::from_ne_bytes(*b))
    }

    fn end(&mut self) {
        if let Some(&start) = self.starts.last() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// The datagram, with sequence numbers from `first` on.
    fn finish(&mut self, first: u32) -> &[u8] {
        self.end();
        for (i, &start) in self.starts.iter().enumerate() {
            let sequence = first.wrapping_add(i as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
        &self.bytes
    }

    #[cfg(test)]
    pub fn datagram(&mut self) -> Vec<u8> {
        self.finish(1).to_vec()
    }
}

/// A refused request.
#[derive(Debug)]
pub struct Refused {
    /// Which of the datagram's messages.
    pub index: usize,
    pub errno: i32,
    /// What the kernel says beside the number.
    pub text: Option<String>,
}

/// Why an exchange failed.
#[derive(Debug)]
pub enum Failure {
    Io(io::Error),
    Refused(Refused),
}

impl Failure {
    /// The kernel's error number; 0 when the socket itself failed in another way.
    pub fn errno(&self) -> i32 {
        match self {
            Failure::Io(error) => error.raw_os_error().unwrap_or(0),
            Failure::Refused(refused) => refused.errno,
        }
    }

    pub fn into_io(self) -> io::Error {
        match self {
            Failure::Io(error) => error,
            Failure::Refused(Refused { index, errno, text }) => {
                let error = io::Error::from_raw_os_error(errno);
                let text = match (index, text) {
                    (_, Some(text)) => format!("{error} (the kernel says: {text})"),
                    (0, None) => return error,
                    (index, None) => format!("{error} (message {index} of the batch)"),
                };
                io::Error::new(error.kind(), text)
            }
        }
    }
}

/// One reply that is no acknowledgement: its type and what follows netlink's header.
#[derive(Debug)]
pub struct Reply {
    pub kind: u16,
    pub body: Vec<u8>,
}

/// A netlink socket with its sequence numbers. It stays in the namespace where it was opened.
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub fn open(family: NetlinkFamily) -> io::Result<Self> {
        Ok(Socket { fd: net::netlink_socket(family)?, sequence: 1, buffer: Vec::new() })
    }

    /// Joins a group of notifications; the socket is for nothing else then.
    pub fn listen(&mut self, group: u32) -> io::Result<()> {
        net::netlink_listen(self.fd.as_fd(), group)
    }

    /// Index of an interface of the socket's namespace.
    pub fn interface_index(&self, name: &str) -> Option<u32> {
        net::interface_index(self.fd.as_fd(), name)
    }

    /// The number that the kernel gave the socket.
    pub fn port(&self) -> io::Result<u32> {
        net::netlink_port(self.fd.as_fd())
    }

    /// Waits for the next datagram of notifications: each one's kind, who caused it, and what follows the header.
    pub fn notified(&mut self, mut look: impl FnMut(u16, u32, &[u8])) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer.resize(RECEIVE_BUFFER, 0);
        }
        let length = net::netlink_receive(self.fd.as_fd(), &mut self.buffer)?;
        let mut rest = &self.buffer[..length];
        while let Some((header, body, next)) = split_message(rest) {
            look(header.kind, header.author, body);
            rest = next;
        }
        Ok(())
    }

    /// Sends all messages in one datagram and waits for the answer to the last one, which must ask for an acknowledgement or be a dump.
    ///
    /// The first refusal is returned. `atomic`: a batch of nfnetlink. Its last message, the mark of its end, has no answer, the one before it
    /// has; a refusal of the first message, the mark of its beginning, means that none is answered any more.
    pub fn exchange(&mut self, messages: &mut Messages, atomic: bool) -> Result<Vec<Reply>, Failure> {
        let mut replies = Vec::new();
        self.converse(messages, atomic, |kind, body| replies.push(Reply { kind, body: body.to_vec() }))?;
        Ok(replies)
    }

    /// As `exchange`, but replies are looked at as they come, and not kept.
    pub fn converse(
        &mut self,
        messages: &mut Messages,
        atomic: bool,
        mut look: impl FnMut(u16, &[u8]),
    ) -> Result<(), Failure> {
        let first = self.sequence;
        let count = messages.starts.len() as u32;
        self.sequence = self.sequence.wrapping_add(count);
        net::netlink_send(self.fd.as_fd(), messages.finish(first)).map_err(Failure::Io)?;
        if self.buffer.is_empty() {
            self.buffer.resize(RECEIVE_BUFFER, 0);
        }
        let mut refused = None;
        loop {
            let length = net::netlink_receive(self.fd.as_fd(), &mut self.buffer).map_err(Failure::Io)?;
            let mut rest = &self.buffer[..length];
            while let Some((header, body, next)) = split_message(rest) {
                rest = next;
                let index = header.sequence.wrapping_sub(first);
                if index >= count {
                    // A late answer to an exchange that was given up.
                    continue;
                }
                let last = index + 1 + u32::from(atomic) == count;
                match header.kind {
                    ERROR | DONE => {
                        let errno = body.first_chunk().map_or(0, |b| -i32::from_ne_bytes(*b));
                        if errno != 0 && refused.is_none() {
                            refused = Some(Refused { index: index as usize, errno, text: error_text(&header, body) });
                        }
                        if last || (atomic && index == 0 && errno != 0) {
                            return match refused {
                                Some(refused) => Err(Failure::Refused(refused)),
                                None => Ok(()),
                            };
                        }
                    }
                    kind => look(kind, body),
                }
            }
        }
    }
}

pub(crate) struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// The socket that asked.
    author: u32,
}

#[cfg(fuzzing)]
impl Header {
    pub(crate) fn kind(&self) -> u16 {
        self.kind
    }
}

/// The first message of a datagram: header, body, and what follows. `None` at the end, or where the lengths make no sense.
pub(crate) fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let body = bytes.get(HEADER..length)?;
    let header = Header {
        kind: u16::from_ne_bytes(*bytes[4..].first_chunk()?),
        flags: u16::from_ne_bytes(*bytes[6..].first_chunk()?),
        sequence: u32::from_ne_bytes(*bytes[8..].first_chunk()?),
        author: u32::from_ne_bytes(*bytes[12..].first_chunk()?),
    };
    Some((header, body, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

fn error_text(header: &Header, body: &[u8]) -> Option<String> {
    // Behind the number stands the header of the request, and with NETLINK_CAP_ACK nothing more of it.
    let attributes = (header.flags & ACK_TLVS != 0).then(|| body.get(4 + HEADER..)).flatten()?;
    let text = find(attributes, ERROR_TEXT)?;
    Some(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned())
}

/// The attributes of a message, or of a nest, in order.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The first attribute of that kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_padded_and_measured() {
        let mut m = Messages::new();
        m.begin(16, ACK, &[1, 2]).text(3, "lo").nest(18, |m| {
            m.attribute(1, b"veth");
        });
        let bytes = m.datagram();
        // Header, fixed part (2, padded to 4), "lo\0" (7, padded to 8), nest of (4 + 8).
        assert_eq!(bytes.len(), 16 + 4 + 8 + 12);
        assert_eq!(bytes[..4], 40u32.to_ne_bytes());
        assert_eq!(bytes[20..24], [7, 0, 3, 0]);
        assert_eq!(bytes[28..32], [12, 0, 18, 0x80]);
        let found: Vec<_> = attributes(&bytes[20..]).collect();
        assert_eq!(found[0], (3, &b"lo\0"[..]));
        assert_eq!(find(found[1].1, 1), Some(&b"veth"[..]));
    }

    #[test]
    fn broken_lengths_end_the_walk() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert!(split_message(&[4, 0, 0, 0, 0, 0]).is_none());
        assert!(split_message(&[255, 0, 0, 0]).is_none());
    }

    #[test]
    fn refusals_carry_the_kernels_words() {
        let mut socket = Socket::open(NetlinkFamily::Route).unwrap();
        let mut m = Messages::new();
        // A link of a kind that does not exist.
        m.begin(16, ACK | CREATE | EXCL, &[0; 16]).nest(18, |m| {
            m.text(1, "berth-nonsense");
        });
        let Err(Failure::Refused(refused)) = socket.exchange(&mut m, false) else { panic!("made it") };
        assert_eq!(refused.index, 0);
        assert!(refused.errno > 0);
    }
}
