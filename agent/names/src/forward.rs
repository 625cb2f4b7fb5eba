//! Questions that other servers are asked, one after the other until one of them answers.
//!
//! Each has a socket of its own, connected to the server and at a port of the kernel's choice, and an id of its own: an answer from elsewhere is not
//! heard, one to another question not believed. A server that is down says so at once (ICMP, or a refused connection), and the next is asked.

use crate::packet::{self, Match, Query, Rcode};
use crate::server::{Server, Timer, Token};
use crate::slab::Key;
use crate::stream::{MAX_ANSWER, Wire};
use berth_sys::inet::{self, Kind, Ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

/// Questions under way: a socket and some hundred bytes each.
pub const MAX_ASKING: usize = 2048;
/// Of one container.
const MAX_ASKING_OF_ONE: u32 = 256;
/// How long one server may take, and one that has let the last question wait for as long.
const PATIENCE_MS: u64 = 2000;
const PATIENCE_WITH_BAD_MS: u64 = 1000;
/// How long all of them may take together: a client asks again after 5 s (resolv.conf(5), timeout).
const ALL_MS: u64 = 4500;
/// A server that did not answer is asked last for so long.
const BAD_MS: u64 = 10_000;
/// Servers of containers' choice that are remembered as bad.
const MAX_BAD: usize = 1024;

#[derive(Clone, Copy, Debug)]
pub enum Client {
    Datagram { listener: Key, to: SocketAddr },
    Stream(Key),
}

pub struct Asking {
    client: Client,
    /// The id that the client has given its question.
    client_id: u16,
    source: IpAddr,
    query: Vec<u8>,
    question_end: usize,
    /// Bytes that the client takes.
    limit: usize,
    /// Those still to be asked, the next one last.
    left: Vec<SocketAddr>,
    now: Option<(SocketAddr, OwnedFd)>,
    id: u16,
    /// For a client that came by TCP: the answer is a long one.
    wire: Option<Wire>,
    deadline_ms: u64,
    give_up_ms: u64,
    /// What a server said that could not answer.
    failure: Option<Vec<u8>>,
}

impl Server {
    /// Asks other servers. Answers at once where there is none, or no room.
    pub(crate) fn forward(
        &mut self,
        client: Client,
        source: IpAddr,
        query: &Query<'_>,
        servers: &[SocketAddr],
        limit: usize,
    ) {
        let under_way = self.asking_of.get(&source).copied().unwrap_or_default();
        if servers.is_empty() || under_way >= MAX_ASKING_OF_ONE || !self.limits.forward(source) {
            self.counts.failed += 1;
            return self.say(client, query, Rcode::ServFail, limit);
        }
        if self.asking.next_key().is_none() {
            self.make_room(under_way);
        }
        let bad = |server: &SocketAddr| self.bad.get(server).is_some_and(|until| *until > self.now_ms);
        let (late, good): (Vec<_>, Vec<_>) = servers.iter().rev().partition(|s| bad(s));
        let asking = Asking {
            client,
            client_id: query.id(),
            source,
            query: query.bytes.to_vec(),
            question_end: query.question_end,
            limit,
            left: late.into_iter().chain(good).copied().collect(),
            now: None,
            id: 0,
            wire: None,
            deadline_ms: 0,
            give_up_ms: self.now_ms + ALL_MS,
            failure: None,
        };
        let Some(key) = self.asking.insert(asking) else {
            self.counts.failed += 1;
            return self.say(client, query, Rcode::ServFail, limit);
        };
        *self.asking_of.entry(source).or_default() += 1;
        self.counts.forwarded += 1;
        self.ask_next(key);
    }

    /// All places are taken: the oldest question of who has most of them gives way to one who has fewer.
    fn make_room(&mut self, of_newcomer: u32) {
        let Some((source, most)) = self.asking_of.iter().max_by_key(|(_, n)| **n).map(|(s, n)| (*s, *n)) else {
            return;
        };
        if most <= of_newcomer + 1 {
            return;
        }
        let theirs = self.asking.iter().filter(|(_, a)| a.source == source);
        if let Some(key) = theirs.min_by_key(|(_, a)| a.give_up_ms).map(|(key, _)| key) {
            self.give_up(key);
        }
    }

    /// Goes on to the next server, or gives up.
    fn ask_next(&mut self, key: Key) {
        loop {
            let now_ms = self.now_ms;
            let id = self.random_id();
            let Some(asking) = self.asking.get_mut(key) else { return };
            self.timers.remove(&(asking.deadline_ms, Timer::Asking(key)));
            let Some(server) = asking.left.pop().filter(|_| now_ms < asking.give_up_ms) else {
                return self.give_up(key);
            };
            let kind = if matches!(asking.client, Client::Stream(_)) { Kind::Tcp } else { Kind::Udp };
            asking.id = id;
            packet::set_id(&mut asking.query, id);
            let begun = inet::connect(server, kind).and_then(|fd| {
                let token = Token::Server(key).bits();
                if kind == Kind::Tcp {
                    let mut wire = Wire::default();
                    wire.put(&asking.query);
                    asking.wire = Some(wire);
                    self.epoll.add(fd.as_fd(), token, false, true)?;
                } else {
                    inet::send(fd.as_fd(), &asking.query)?;
                    self.epoll.add(fd.as_fd(), token, true, false)?;
                }
                Ok(fd)
            });
            let Ok(fd) = begun else {
                asking.now = None;
                self.mark_bad(server);
                continue;
            };
            asking.now = Some((server, fd));
            let patient = self.bad.get(&server).is_none_or(|until| *until <= now_ms);
            let patience = if patient { PATIENCE_MS } else { PATIENCE_WITH_BAD_MS };
            asking.deadline_ms = (now_ms + patience).min(asking.give_up_ms);
            self.timers.insert((asking.deadline_ms, Timer::Asking(key)));
            return;
        }
    }

    fn mark_bad(&mut self, server: SocketAddr) {
        if self.bad.len() >= MAX_BAD {
            self.bad.clear();
        }
        self.bad.insert(server, self.now_ms + BAD_MS);
    }

    pub(crate) fn ask_timed_out(&mut self, key: Key) {
        if let Some((server, _)) = self.asking.get(key).and_then(|a| a.now.as_ref()) {
            let server = *server;
            self.mark_bad(server);
            self.ask_next(key);
        }
    }

    /// No server has answered: the client hears that now.
    fn give_up(&mut self, key: Key) {
        let Some(mut asking) = self.forget_asking(key) else { return };
        self.counts.failed += 1;
        match asking.failure.take() {
            Some(failure) => self.pass_on(&asking, failure),
            None => {
                if let Ok(query) = Query::parse(&asking.query) {
                    self.say(asking.client, &query, Rcode::ServFail, asking.limit);
                }
            }
        }
    }

    /// With the client's own id in the query again.
    fn forget_asking(&mut self, key: Key) -> Option<Asking> {
        let mut asking = self.asking.remove(key)?;
        self.timers.remove(&(asking.deadline_ms, Timer::Asking(key)));
        if let Some(n) = self.asking_of.get_mut(&asking.source) {
            *n -= 1;
            if *n == 0 {
                self.asking_of.remove(&asking.source);
            }
        }
        packet::set_id(&mut asking.query, asking.client_id);
        Some(asking)
    }

    fn pass_on(&mut self, asking: &Asking, mut response: Vec<u8>) {
        packet::set_id(&mut response, asking.client_id);
        if response.len() > asking.limit {
            packet::cut(&mut response, asking.question_end - packet::HEADER);
        }
        self.deliver(asking.client, &response);
    }

    /// A server's socket has something to say.
    pub(crate) fn hear_server(&mut self, key: Key, ready: Ready) {
        let streaming = self.asking.get(key).is_some_and(|a| a.wire.is_some());
        let heard = if streaming { self.hear_stream(key, ready) } else { self.hear_datagram(key) };
        match heard {
            Ok(Some((response, Match::Failure))) => {
                if let Some(asking) = self.asking.get_mut(key) {
                    asking.failure = Some(response);
                }
                self.ask_next(key);
            }
            Ok(Some((response, _))) => {
                let Some(asking) = self.forget_asking(key) else { return };
                if let Some((server, _)) = &asking.now {
                    self.bad.remove(server);
                }
                self.pass_on(&asking, response);
            }
            Ok(None) => {}
            Err(_) => {
                if let Some((server, _)) = self.asking.get(key).and_then(|a| a.now.as_ref()) {
                    let server = *server;
                    self.mark_bad(server);
                }
                self.ask_next(key);
            }
        }
    }

    /// None: no answer yet.
    fn hear_datagram(&mut self, key: Key) -> io::Result<Option<(Vec<u8>, Match)>> {
        let Some(asking) = self.asking.get(key) else { return Ok(None) };
        let Some((_, fd)) = &asking.now else { return Ok(None) };
        // As many wrong ones as somebody likes to send are not all read in one go.
        for _ in 0..16 {
            let n = match inet::receive(fd.as_fd(), &mut self.scratch) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                other => other?,
            };
            let response = &self.scratch[..n];
            match packet::check(response, asking.id, &asking.query[packet::HEADER..asking.question_end]) {
                Match::No => {}
                found => return Ok(Some((response.to_vec(), found))),
            }
        }
        Ok(None)
    }

    /// None: no answer yet. An end without one is an error.
    fn hear_stream(&mut self, key: Key, ready: Ready) -> io::Result<Option<(Vec<u8>, Match)>> {
        let Some(asking) = self.asking.get_mut(key) else { return Ok(None) };
        let (Some((_, fd)), Some(wire)) = (&asking.now, &mut asking.wire) else { return Ok(None) };
        if let Some(failure) = inet::failure(fd.as_fd()).filter(|_| ready.closed) {
            return Err(failure);
        }
        if ready.writable && wire.unsent() && wire.flush(fd)? {
            self.epoll.change(fd.as_fd(), Token::Server(key).bits(), true, false)?;
        }
        if !ready.readable && !ready.closed {
            return Ok(None);
        }
        let open = wire.fill(fd, MAX_ANSWER)?;
        let Some(response) = wire.take() else {
            return if open { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        };
        match packet::check(&response, asking.id, &asking.query[packet::HEADER..asking.question_end]) {
            Match::No => Err(io::ErrorKind::InvalidData.into()),
            found => Ok(Some((response, found))),
        }
    }
}
