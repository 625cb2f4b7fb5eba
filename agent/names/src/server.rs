//! The loop, and the sockets that containers talk to.

use crate::control;
use crate::forward::{Asking, Client, MAX_ASKING};
use crate::limit::{Limits, STRANGERS, Share};
use crate::lookup::{self, TTL_SECS, Verdict};
use crate::packet::{self, Problem, Query, Rcode, Record};
use crate::resolv::HostServers;
use crate::slab::{Key, Slab};
use crate::stream::{IDLE_MS, MAX_ANSWER, MAX_QUERY, MAX_STREAMS, MAX_STREAMS_OF_ONE, Stream, Wire};
use crate::zone::Index;
use berth_sys::inet::{self, Datagrams, Epoll, Kind, Ready};
use berth_sys::{process, store};
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

/// Datagrams that are taken with one call, and calls for one socket before the others have their turn.
const BATCH: usize = 32;
const TURNS: usize = 4;
/// A question with its extensions; a longer one is not answered.
const DATAGRAM: usize = 2048;
/// Sockets: two for each address of a network.
const MAX_LISTENERS: usize = 4096;
/// Networks whose sockets could not be opened are tried again so often.
const RETRY_MS: u64 = 1000;

/// Whose readiness it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    Agents,
    Agent(Key),
    Listener(Key),
    Stream(Key),
    Server(Key),
}

impl Token {
    pub fn bits(self) -> u64 {
        let (kind, key) = match self {
            Token::Agents => (0, 0),
            Token::Agent(key) => (1, key.bits()),
            Token::Listener(key) => (2, key.bits()),
            Token::Stream(key) => (3, key.bits()),
            Token::Server(key) => (4, key.bits()),
        };
        kind << 56 | key
    }

    fn from_bits(bits: u64) -> Self {
        let key = Key::from_bits(bits);
        match bits >> 56 {
            0 => Token::Agents,
            1 => Token::Agent(key),
            2 => Token::Listener(key),
            3 => Token::Stream(key),
            _ => Token::Server(key),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    Asking(Key),
    Stream(Key),
}

pub(crate) struct Listener {
    pub fd: OwnedFd,
    /// Place in `networks`.
    pub network: usize,
    pub kind: Kind,
    pub address: IpAddr,
    pub port: u16,
    /// The interface that it is bound to: another one may have its name by now.
    pub device: (String, u32),
}

pub(crate) struct Network {
    /// Name of its file without the ending.
    pub stem: String,
    pub index: Index,
    pub listeners: Vec<Key>,
    /// Why some sockets are missing.
    pub failed: Option<String>,
}

impl AsRef<Index> for Network {
    fn as_ref(&self) -> &Index {
        &self.index
    }
}

/// Since the start.
#[derive(Default)]
pub(crate) struct Counts {
    pub questions: u64,
    pub forwarded: u64,
    /// Forwarded, or to be forwarded, without an answer.
    pub failed: u64,
    /// Not heard because their sender asked too much.
    pub over: u64,
}

pub struct Server {
    pub(crate) epoll: Epoll,
    pub(crate) networks: Vec<Network>,
    pub(crate) listeners: Slab<Listener>,
    pub(crate) streams: Slab<Stream>,
    pub(crate) asking: Slab<Asking>,
    pub(crate) asking_of: HashMap<IpAddr, u32>,
    pub(crate) timers: BTreeSet<(u64, Timer)>,
    pub(crate) limits: Limits,
    /// Senders that a socket hears nothing of until the window ends.
    refused: Vec<(Key, IpAddr)>,
    pub(crate) bad: HashMap<SocketAddr, u64>,
    pub(crate) counts: Counts,
    pub(crate) now_ms: u64,
    pub(crate) scratch: Vec<u8>,
    pub(crate) agents: control::Agents,
    host_servers: HostServers,
    random: Vec<u8>,
    turn: usize,
    retry_ms: u64,
    /// Clients whose next question is read already.
    again: Vec<Key>,
    /// None: in use.
    batch: Option<Box<Datagrams>>,
}

impl Server {
    /// With the networks whose files are in the working folder. `agents`: the listening socket that the agent talks to; `build` is told to it.
    ///
    /// # Errors
    /// Without epoll. Networks that cannot be served are told to the agent, and tried again.
    pub fn open(agents: OwnedFd, build: String) -> io::Result<Self> {
        let epoll = Epoll::new(256)?;
        epoll.add(agents.as_fd(), Token::Agents.bits(), true, false)?;
        let mut server = Server {
            epoll,
            networks: Vec::new(),
            listeners: Slab::new(MAX_LISTENERS),
            streams: Slab::new(MAX_STREAMS),
            asking: Slab::new(MAX_ASKING),
            asking_of: HashMap::new(),
            timers: BTreeSet::new(),
            limits: Limits::default(),
            refused: Vec::new(),
            bad: HashMap::new(),
            counts: Counts::default(),
            now_ms: process::monotonic_ms(),
            scratch: vec![0; MAX_ANSWER],
            agents: control::Agents::new(agents, build),
            host_servers: HostServers::default(),
            random: Vec::new(),
            turn: 0,
            retry_ms: 0,
            again: Vec::new(),
            batch: Some(Box::new(Datagrams::new(BATCH, DATAGRAM))),
        };
        server.load_all()?;
        Ok(server)
    }

    /// Serves until it is killed.
    ///
    /// # Errors
    /// When epoll does not work any more.
    pub fn run(mut self) -> io::Result<Infallible> {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            let timeout = self.timeout();
            self.epoll.wait(&mut ready, timeout)?;
            self.now_ms = process::monotonic_ms();
            if self.limits.turn(self.now_ms) {
                self.hear_all();
            }
            // The agent first: what it says holds for the questions that come behind.
            let agents = |r: &&Ready| matches!(Token::from_bits(r.token), Token::Agents | Token::Agent(_));
            for one in ready.iter().filter(agents) {
                match Token::from_bits(one.token) {
                    Token::Agent(key) => self.hear_agent(key),
                    _ => self.accept_agent(),
                }
            }
            for one in &ready {
                match Token::from_bits(one.token) {
                    Token::Listener(key) => self.hear_listener(key),
                    Token::Stream(key) if one.closed => self.end_stream(key),
                    Token::Stream(key) => self.hear_client(key),
                    Token::Server(key) => self.hear_server(key, *one),
                    Token::Agents | Token::Agent(_) => {}
                }
            }
            for key in std::mem::take(&mut self.again) {
                self.take_from_client(key);
            }
            self.expire();
        }
    }

    fn timeout(&self) -> i32 {
        if !self.again.is_empty() {
            return 0;
        }
        let first = self.timers.first().map(|(at, _)| *at);
        let window = (!self.refused.is_empty()).then(|| self.limits.end_ms());
        let retry = self.networks.iter().any(|n| n.failed.is_some()).then_some(self.retry_ms);
        match [first, window, retry].into_iter().flatten().min() {
            Some(at) => at.saturating_sub(process::monotonic_ms()).min(60_000) as i32,
            None => -1,
        }
    }

    fn expire(&mut self) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now_ms) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Asking(key) => self.ask_timed_out(key),
                Timer::Stream(key) => self.end_stream(key),
            }
        }
        if self.retry_ms <= self.now_ms && self.networks.iter().any(|n| n.failed.is_some()) {
            self.retry_ms = self.now_ms + RETRY_MS;
            self.listen_again();
        }
    }

    fn hear_listener(&mut self, key: Key) {
        match self.listeners.get(key).map(|l| l.kind) {
            Some(Kind::Udp) => {
                if let Some(mut batch) = self.batch.take() {
                    self.hear_datagrams(key, &mut batch);
                    self.batch = Some(batch);
                }
            }
            Some(Kind::Tcp) => self.accept_client(key),
            None => {}
        }
    }

    fn hear_datagrams(&mut self, key: Key, batch: &mut Datagrams) {
        for _ in 0..TURNS {
            let Some(listener) = self.listeners.get(key) else { return };
            let network = listener.network;
            // Err: nothing there, or an error of a datagram that was sent before.
            let Ok(n) = batch.receive(listener.fd.as_fd()) else { return };
            for (bytes, from) in (0..n).filter_map(|i| batch.get(i)) {
                let source = self.source(network, from.ip());
                match self.limits.question(source) {
                    Share::Room => {
                        let client = Client::Datagram { listener: key, to: from };
                        self.question(client, network, from.ip(), source, bytes);
                    }
                    Share::UsedUp => self.refuse(key, source),
                    Share::Over => self.counts.over += 1,
                }
            }
            if n < BATCH {
                return;
            }
        }
    }

    /// Who is counted for a sender.
    fn source(&self, network: usize, from: IpAddr) -> IpAddr {
        let known = self.networks.get(network).is_some_and(|n| n.index.at(from).is_some());
        if known { from } else { STRANGERS }
    }

    /// From here on the kernel throws its datagrams away, which costs next to nothing, and its neighbours' find room in the queue.
    fn refuse(&mut self, key: Key, source: IpAddr) {
        self.counts.over += 1;
        if source == STRANGERS {
            return;
        }
        self.refused.push((key, source));
        self.set_filter(key);
    }

    fn set_filter(&self, key: Key) {
        let Some(listener) = self.listeners.get(key) else { return };
        let sources: Vec<IpAddr> = self.refused.iter().filter(|(k, _)| *k == key).map(|(_, s)| *s).collect();
        // Err: they are counted one by one then.
        let _ = inet::refuse_from(listener.fd.as_fd(), listener.address.is_ipv4(), &sources);
    }

    fn hear_all(&mut self) {
        for (key, _) in std::mem::take(&mut self.refused) {
            self.set_filter(key);
        }
    }

    fn question(&mut self, client: Client, network: usize, from: IpAddr, source: IpAddr, bytes: &[u8]) {
        self.counts.questions += 1;
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Problem::Ignore) => return,
            Err(Problem::Answer(rcode)) => {
                let mut out = Vec::with_capacity(packet::HEADER);
                packet::refuse(&mut out, bytes, rcode);
                return self.deliver(client, &out);
            }
        };
        let limit = match client {
            Client::Datagram { .. } => query.udp_limit(),
            Client::Stream(_) => MAX_ANSWER,
        };
        self.turn = self.turn.wrapping_add(1);
        let mut records: Vec<Record> = Vec::new();
        match lookup::look_up(&self.networks, network, from, &query, self.turn, &mut records) {
            Verdict::Answer(rcode) => {
                let mut out = Vec::with_capacity(packet::PLAIN_LIMIT);
                packet::answer(&mut out, &query, rcode, &records, TTL_SECS, limit);
                self.deliver(client, &out);
            }
            Verdict::Forward => {
                let own = self.networks.get(network).and_then(|n| n.index.at(from)).map(|host| &host.servers);
                let servers: Vec<SocketAddr> = match own.filter(|servers| !servers.is_empty()) {
                    Some(servers) => servers.iter().map(|ip| SocketAddr::new(*ip, 53)).collect(),
                    None => self.host_servers.get(self.now_ms).to_vec(),
                };
                self.forward(client, source, &query, &servers, limit);
            }
        }
    }

    /// An answer without records.
    pub(crate) fn say(&mut self, client: Client, query: &Query<'_>, rcode: Rcode, limit: usize) {
        let mut out = Vec::with_capacity(packet::PLAIN_LIMIT);
        packet::answer(&mut out, query, rcode, &[], 0, limit);
        self.deliver(client, &out);
    }

    pub(crate) fn deliver(&mut self, client: Client, message: &[u8]) {
        match client {
            Client::Datagram { listener, to } => {
                if let Some(listener) = self.listeners.get(listener) {
                    // Err: its queue is full or it is gone. It asks again.
                    let _ = inet::send_to(listener.fd.as_fd(), message, to);
                }
            }
            Client::Stream(key) => {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.waiting = false;
                    stream.wire.put(message);
                    self.feed_client(key);
                }
            }
        }
    }

    fn accept_client(&mut self, key: Key) {
        let Some(listener) = self.listeners.get(key) else { return };
        let Ok((fd, peer)) = inet::accept(listener.fd.as_fd()) else { return };
        // Strangers are one, as with questions: addresses can be made up.
        let source = self.source(listener.network, peer.ip());
        let of_this_one = self.streams.iter().filter(|(_, s)| s.source == source).count();
        let (deadline_ms, wire) = (self.now_ms + IDLE_MS, Wire::default());
        let Some(new) = self.streams.next_key().filter(|_| of_this_one < MAX_STREAMS_OF_ONE) else { return };
        if self.epoll.add(fd.as_fd(), Token::Stream(new).bits(), true, false).is_ok() {
            self.timers.insert((deadline_ms, Timer::Stream(new)));
            let stream = Stream { fd, listener: key, peer: peer.ip(), source, wire, waiting: false, deadline_ms };
            self.streams.insert(stream);
        }
    }

    fn hear_client(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.wire.unsent() {
            return self.feed_client(key);
        }
        if stream.waiting {
            return;
        }
        match stream.wire.fill(&stream.fd, MAX_QUERY) {
            Ok(true) => self.take_from_client(key),
            Ok(false) | Err(_) => self.end_stream(key),
        }
    }

    fn take_from_client(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key).filter(|s| !s.waiting) else { return };
        let Some(message) = stream.wire.take() else { return self.watch_client(key) };
        stream.waiting = true;
        let (old, new) = (stream.deadline_ms, self.now_ms + IDLE_MS);
        stream.deadline_ms = new;
        let (peer, network) = (stream.peer, self.listeners.get(stream.listener).map(|l| l.network));
        self.timers.remove(&(old, Timer::Stream(key)));
        self.timers.insert((new, Timer::Stream(key)));
        let Some(network) = network else { return self.end_stream(key) };
        let source = self.source(network, peer);
        if self.limits.question(source) != Share::Room {
            self.counts.over += 1;
            return self.end_stream(key);
        }
        self.watch_client(key);
        self.question(Client::Stream(key), network, peer, source, &message);
    }

    /// Sends what there is to send; the rest when there is room.
    fn feed_client(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        match stream.wire.flush(&stream.fd) {
            Err(_) => self.end_stream(key),
            Ok(_) => self.watch_client(key),
        }
    }

    fn watch_client(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        let unsent = stream.wire.unsent();
        let reading = !stream.waiting && !unsent;
        if reading && stream.wire.whole() {
            self.again.push(key);
        }
        let fd = stream.fd.as_fd();
        if self.epoll.change(fd, Token::Stream(key).bits(), reading, unsent).is_err() {
            self.end_stream(key);
        }
    }

    pub(crate) fn end_stream(&mut self, key: Key) {
        if let Some(stream) = self.streams.remove(key) {
            self.timers.remove(&(stream.deadline_ms, Timer::Stream(key)));
        }
    }

    pub(crate) fn random_id(&mut self) -> u16 {
        if self.random.len() < 2 {
            self.random.resize(512, 0);
            if store::random(&mut self.random).is_err() {
                // Not before the kernel's generator is ready, which it is long before there is a container.
                self.random.clear();
                return self.now_ms as u16;
            }
        }
        let (a, b) = (self.random.pop().unwrap_or_default(), self.random.pop().unwrap_or_default());
        u16::from_be_bytes([a, b])
    }
}
