//! Messages on a stream: each with its length before it (RFC 1035, 4.2.2).

use crate::slab::Key;
use berth_sys::inet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

/// A client's messages are small; a server's are as long as a length says.
pub const MAX_QUERY: usize = 4096;
pub const MAX_ANSWER: usize = u16::MAX as usize;
/// A client that says nothing for so long is let go.
pub const IDLE_MS: u64 = 10_000;
pub const MAX_STREAMS: usize = 256;
pub const MAX_STREAMS_OF_ONE: usize = 32;

/// Both directions of a stream.
#[derive(Default)]
pub struct Wire {
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

impl Wire {
    /// Reads what is there, up to one message of `max` bytes and a piece of the next. False: the other side says no more.
    ///
    /// # Errors
    /// `InvalidData`: a longer message; as recv(2).
    pub fn fill(&mut self, fd: &OwnedFd, max: usize) -> io::Result<bool> {
        let mut piece = [0; 4096];
        loop {
            if self.wanted().is_some_and(|len| len > max) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.whole() {
                return Ok(true);
            }
            match inet::receive(fd.as_fd(), &mut piece) {
                Ok(0) => return Ok(false),
                Ok(n) => self.input.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }

    /// The length of the message that comes first.
    fn wanted(&self) -> Option<usize> {
        self.input.first_chunk().map(|len| u16::from_be_bytes(*len).into())
    }

    pub fn whole(&self) -> bool {
        self.wanted().is_some_and(|len| self.input.len() >= 2 + len)
    }

    /// A whole message, if there is one.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let len = self.wanted().filter(|_| self.whole())?;
        let message = self.input[2..2 + len].to_vec();
        self.input.drain(..2 + len);
        Some(message)
    }

    pub fn put(&mut self, message: &[u8]) {
        // Nothing longer is made or taken anywhere.
        let len = message.len().min(MAX_ANSWER);
        self.output.extend_from_slice(&(len as u16).to_be_bytes());
        self.output.extend_from_slice(&message[..len]);
    }

    /// True: all is sent.
    pub fn flush(&mut self, fd: &OwnedFd) -> io::Result<bool> {
        while self.sent < self.output.len() {
            match inet::send(fd.as_fd(), &self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        self.output = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    pub fn unsent(&self) -> bool {
        self.sent < self.output.len()
    }
}

/// A client's connection. One question at a time: the next is read when the answer is sent.
pub struct Stream {
    pub fd: OwnedFd,
    pub listener: Key,
    pub peer: IpAddr,
    /// Whose share it counts in.
    pub source: IpAddr,
    pub wire: Wire,
    /// Another server has been asked.
    pub waiting: bool,
    pub deadline_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_sys::inet::{Kind, accept, connect, listen, local_address};
    use berth_sys::process::{Poll, poll};

    fn wait(fd: &OwnedFd) {
        assert_eq!(poll(&mut [Poll::new(fd.as_fd(), true, false)], 5000).unwrap(), 1);
    }

    #[test]
    fn messages_come_whole_and_in_order() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), Kind::Tcp, "lo", 0).unwrap();
        let client = connect(local_address(listener.as_fd()).unwrap(), Kind::Tcp).unwrap();
        wait(&listener);
        let (server, _) = accept(listener.as_fd()).unwrap();
        let (mut ours, mut theirs) = (Wire::default(), Wire::default());
        theirs.put(b"first");
        theirs.put(b"");
        theirs.put(&[7; 300]);
        assert!(theirs.flush(&client).unwrap() && !theirs.unsent());
        let mut got = Vec::new();
        while got.len() < 3 {
            if !ours.whole() {
                wait(&server);
                assert!(ours.fill(&server, 300).unwrap());
            }
            got.extend(ours.take());
        }
        assert_eq!(got, [b"first".to_vec(), Vec::new(), vec![7; 300]]);
        theirs.put(&[7; 301]);
        theirs.flush(&client).unwrap();
        wait(&server);
        assert_eq!(ours.fill(&server, 300).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(client);
        let mut fresh = Wire::default();
        wait(&server);
        while fresh.fill(&server, MAX_ANSWER).unwrap() {
            drop(fresh.take());
        }
    }
}
