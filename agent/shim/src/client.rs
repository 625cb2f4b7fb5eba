//! Who reads the outputs and feeds the input.
//!
//! A plain attachment has what was sent to it. A session has what it says that it has taken: until then its bytes are kept, and when its
//! connection breaks it may come back, through its own listener, and go on at the byte where it was.

use crate::ring::{CAPACITY, Ring};
use crate::start::send;
use berth_model::wire::{Exited, INPUT_WINDOW, MAX_FRAME, Response, Started, Welcome};
use berth_sys::socket;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

/// A session whose connection broke is kept for so long; longer than a caller tries to come back (30 s), so that it never comes in vain.
const RESUME_MS: u64 = 40_000;
/// One whose reader hung up while its agent was there is kept for so long: its process has ended, and one whose network has a hiccup is
/// back within a second.
const HUNG_UP_MS: u64 = 3_000;
/// A reader that holds the workload back and takes nothing for so long is cut off.
pub const CUT_OFF_MS: u64 = 30_000;

pub struct Client {
    /// None: a session whose agent is away.
    pub fd: Option<OwnedFd>,
    pub feeds: bool,
    pub reads: bool,
    /// Positions of stdout and stderr up to which everything was sent.
    pub sent: [u64; 2],
    /// When it took something last, or had something to take again.
    pub since: u64,
    /// It was told that nothing follows.
    pub said_end: bool,
    pub session: Option<Session>,
}

pub struct Session {
    pub name: Vec<u8>,
    pub note: Vec<u8>,
    /// Where who made it connects again.
    pub listener: OwnedFd,
    /// Positions of the outputs at which it joined.
    pub base: [u64; 2],
    /// Positions up to which its reader has everything.
    pub taken: [u64; 2],
    /// Accepted from it for standard input: bytes, and one for the end.
    pub fed: u64,
    fed_told: u64,
    greeted: bool,
    pub exit_told: bool,
    /// It is away, and kept until then.
    pub kept_until: Option<u64>,
    /// The agent has seen its reader hang up.
    hung_up: bool,
}

/// What is known of the workload when something is sent.
pub struct State<'a> {
    pub started: Started,
    pub rings: [&'a Ring; 2],
    pub tags: [u8; 2],
    /// Both outputs have ended.
    pub ended: bool,
    /// Told to the agent.
    pub exited: Option<Exited>,
    /// The workload keeps up with its standard input: more may come.
    pub takes_input: bool,
}

impl Session {
    pub fn new(name: &[u8], note: &[u8], listener: OwnedFd, at: [u64; 2]) -> Self {
        Session {
            name: name.to_vec(),
            note: note.to_vec(),
            listener,
            base: at,
            taken: at,
            fed: 0,
            fed_told: 0,
            greeted: false,
            exit_told: false,
            kept_until: None,
            hung_up: false,
        }
    }
}

impl Session {
    /// The word before its connection ends.
    pub fn hang_up(&mut self) {
        self.hung_up = true;
    }

    /// Its connection has ended.
    pub fn lose(&mut self, now: u64) {
        self.kept_until = Some(now + if self.hung_up { HUNG_UP_MS } else { RESUME_MS });
    }

    /// More of its input has come. False: more than its window allows.
    pub fn feed(&mut self, n: u64) -> bool {
        self.fed += n;
        self.fed - self.fed_told <= INPUT_WINDOW + 1
    }
}

impl Client {
    pub fn plain(fd: OwnedFd, feeds: bool, at: [u64; 2], now: u64) -> Self {
        Client { fd: Some(fd), feeds, reads: true, sent: at, since: now, said_end: false, session: None }
    }

    /// Position up to which nothing need be kept for it.
    pub fn has(&self, i: usize, ring: &Ring) -> u64 {
        match &self.session {
            _ if !self.reads => ring.end(),
            Some(session) => session.taken[i],
            None => self.sent[i],
        }
    }

    /// No more is read from this output because of it.
    pub fn blocks(&self, i: usize, ring: &Ring) -> bool {
        (ring.end() - self.has(i, ring)) as usize + MAX_FRAME > CAPACITY
    }

    /// There is something to send to it.
    pub fn is_owed(&self, state: &State<'_>) -> bool {
        if self.fd.is_none() {
            return false;
        }
        let news = self.session.as_ref().is_some_and(|s| {
            !s.greeted
                || (s.fed_told < s.fed && state.takes_input)
                || (self.said_end && state.exited.is_some() && !s.exit_told)
        });
        news || (self.reads && (0..2).any(|i| self.sent[i] < state.rings[i].end())) || (state.ended && !self.said_end)
    }

    /// Its reader says what it has. False: it cannot have that.
    pub fn take(&mut self, counts: [u64; 2], now: u64) -> bool {
        let Some(session) = &mut self.session else { return false };
        for (i, count) in counts.into_iter().enumerate() {
            let position = session.base[i].saturating_add(count);
            if position < session.taken[i] || position > self.sent[i] {
                return false;
            }
            session.taken[i] = position;
        }
        self.since = now;
        true
    }

    /// It is there again, and has so many bytes. False: what it lacks is gone, or it has more than there was.
    pub fn come_back(&mut self, fd: OwnedFd, counts: [u64; 2], now: u64) -> bool {
        if !self.take(counts, now) {
            return false;
        }
        let Some(session) = &mut self.session else { return false };
        self.sent = session.taken;
        (session.greeted, session.exit_told, session.hung_up) = (false, false, false);
        session.kept_until = None;
        self.said_end = false;
        self.fd = Some(fd);
        true
    }

    /// Sends what there is, as far as its socket goes. Err: the connection is gone.
    pub fn deliver(&mut self, state: &State<'_>, now: u64) -> io::Result<()> {
        match self.try_deliver(state, now) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    fn try_deliver(&mut self, state: &State<'_>, now: u64) -> io::Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        let say = |response: Response<'_>| socket::send(fd.as_fd(), &[IoSlice::new(&response.encode())], &[], false);
        if let Some(session) = &mut self.session {
            if !session.greeted {
                let Started { pid, start_time, .. } = state.started;
                let note = (&session.note[..]).into();
                say(Response::Welcome(Welcome { fed: session.fed, pid, start_time, note }))?;
                (session.greeted, session.fed_told) = (true, session.fed);
            }
            if session.fed_told < session.fed && state.takes_input {
                say(Response::Fed(session.fed))?;
                session.fed_told = session.fed;
            }
        }
        for i in (0..2).filter(|_| self.reads) {
            while self.sent[i] < state.rings[i].end() {
                let (first, second) = state.rings[i].frame(self.sent[i]);
                let parts =
                    [IoSlice::new(std::slice::from_ref(&state.tags[i])), IoSlice::new(first), IoSlice::new(second)];
                socket::send(fd.as_fd(), &parts, &[], false)?;
                self.sent[i] += (first.len() + second.len()) as u64;
                if self.session.is_none() {
                    self.since = now;
                }
            }
        }
        if state.ended && !self.said_end {
            say(Response::OutputEnd)?;
            self.said_end = true;
        }
        if let (Some(session), Some(exited)) = (&mut self.session, state.exited)
            && self.said_end
            && !session.exit_told
        {
            say(Response::Exited(exited))?;
            session.exit_told = true;
        }
        Ok(())
    }

    /// Tells a connected one that it was too slow.
    pub fn cut_off(&self) {
        if let Some(fd) = &self.fd {
            let _ = socket::send(fd.as_fd(), &[IoSlice::new(&Response::CutOff.encode())], &[], false);
        }
    }
}

/// Greets a new control connection.
pub fn greet(fd: &OwnedFd, started: Started, exited: Option<Exited>) {
    let _ = send(fd.as_fd(), &Response::Started(started));
    if let Some(exited) = exited {
        let _ = send(fd.as_fd(), &Response::Exited(exited));
    }
}
