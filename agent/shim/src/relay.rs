//! The loop: output to the log and to whoever is attached, input from them, the end to the agent.
//!
//! What is read is stored first, then sent to every attached reader; what one of them has yet to take is kept, up to a bound, and behind
//! that the pipe is not read. So nothing is lost, nothing grows without end, and a slow reader slows the workload down as a pipe does, but
//! not for ever: one that holds it back for 30 s is cut off.

mod output;

use crate::client::{CUT_OFF_MS, Client, Session, State, greet};
use crate::log::Log;
use crate::oom;
use crate::start::{Container, send};
use berth_model::wire::{self, Exited, INPUT_WINDOW, MAX_FRAME, MAX_SESSION, Plan, Request, Response, Started};
use berth_sys::fs::{self, Open};
use berth_sys::process::{self, Ended, Poll};
use berth_sys::{pty, socket};
use output::Output;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

/// Attachments and control connections at a time; further ones are refused.
const MAX_CLIENTS: usize = 16;
/// After the end, outputs that somebody else still holds open are waited for so long without a byte.
const QUIET_MS: u64 = 200;
/// After the end, readers are waited for so long before the end is told; they still get all of it.
const TELL_MS: u64 = 1_000;
/// When the container has ended and been written down, readers that are still there keep its root for so long.
const ROOT_MS: u64 = 2_000;
const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
/// Without output for so long, the buffers' pages go back to the kernel.
const FORGET_MS: i32 = 1_000;

/// What is where in the poll list.
#[derive(Clone, Copy)]
enum Source {
    Process,
    Output(usize),
    Input,
    Control,
    Listener,
    Stranger(usize),
    Client(usize),
    /// The listener of a session.
    Session(usize),
}

/// What is sent to clients, apart from them.
fn state_of(outputs: &[Output; 2], started: Started, exited: Option<Exited>, takes_input: bool) -> State<'_> {
    let [stdout, stderr] = outputs;
    State {
        started,
        rings: [&stdout.ring, &stderr.ring],
        tags: [stdout.tag, stderr.tag],
        ended: stdout.fd.is_none() && stderr.fd.is_none(),
        exited,
        takes_input,
    }
}

pub struct Relay {
    fds: Vec<OwnedFd>,
    control: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    run: Option<OwnedFd>,
    memory: Option<oom::Watch>,
    log: Option<Log>,
    started: Started,
    pid: u32,
    pidfd: OwnedFd,
    outputs: [Output; 2],
    terminal: bool,
    /// The workload is an exec: its terminal hangs up when nobody comes back to it.
    exec: bool,
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    /// Bytes that the workload has not taken yet, and how many of them it has.
    input: Vec<u8>,
    input_done: usize,
    /// Close standard input when `input` is empty.
    input_ends: bool,
    clients: Vec<Client>,
    /// Connected, but has not said yet what it wants.
    strangers: Vec<OwnedFd>,
    exited: Option<Exited>,
    exited_at: u64,
    last_output: u64,
    told: bool,
    released: bool,
    dirty: bool,
}

impl Relay {
    pub fn new(plan: &Plan<'_>, mut fds: Vec<OwnedFd>, control: OwnedFd, container: Container) -> io::Result<Self> {
        let take = |place: Option<u8>, fds: &[OwnedFd]| -> io::Result<Option<OwnedFd>> {
            let Some(place) = place else { return Ok(None) };
            let fd = fds.get(usize::from(place)).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            fd.try_clone().map(Some)
        };
        let listener = take(plan.fds.listener, &fds)?;
        let run = take(plan.fds.run, &fds)?;
        let memory = oom::Watch::new(plan, &fds);
        let log = match (&plan.log, take(plan.fds.log, &fds)?) {
            (Some(plan), Some(dir)) => Some(Log::new(dir, plan)),
            _ => None,
        };
        // It has said already what it wants: the agent sends that before the plan.
        let attached = take(plan.fds.attach, &fds)?;
        // Of the rest only the root's mount stays: its end, an overlay's sync, then comes behind the workload's.
        fds.truncate(usize::from(plan.fds.run.is_some()));
        let mut relay = Relay {
            fds,
            control: Some(control),
            listener,
            run,
            memory,
            log,
            started: container.started,
            pid: container.pid,
            pidfd: container.pidfd,
            outputs: [Output::stdout(container.stdout), Output::stderr(container.stderr)],
            terminal: container.terminal,
            exec: plan.fds.run.is_none(),
            stdin: container.stdin,
            stdin_once: plan.stdin_once,
            input: Vec::new(),
            input_done: 0,
            input_ends: false,
            clients: Vec::new(),
            strangers: Vec::from_iter(attached),
            exited: None,
            exited_at: 0,
            last_output: 0,
            told: false,
            released: false,
            dirty: false,
        };
        if !relay.strangers.is_empty() {
            relay.meet(0, process::monotonic_ms());
        }
        Ok(relay)
    }

    /// Where files are made as long as the container is there.
    pub fn folders(&self) -> Vec<BorrowedFd<'_>> {
        let log = self.log.as_ref().map(Log::folder);
        self.run.as_ref().map(AsFd::as_fd).into_iter().chain(log).collect()
    }

    pub fn run(mut self) -> io::Result<()> {
        loop {
            let (mut polls, sources) = self.interests();
            let now = process::monotonic_ms();
            let ready = process::poll(&mut polls, self.timeout(now))?;
            if ready == 0 && self.dirty {
                self.forget();
            }
            let now = process::monotonic_ms();
            // Backwards: places in lists stay right when later ones are removed.
            for (poll, source) in polls.iter().zip(&sources).rev() {
                if poll.readable() || poll.writable() || poll.hung_up() {
                    self.act(*source, poll, now);
                }
            }
            self.cut_off_slow(now);
            self.settle(now);
            if self.released && self.told && now >= self.exited_at + ROOT_MS {
                self.fds.clear();
            }
            if self.done() {
                drop(self.fds);
                return Ok(());
            }
        }
    }

    fn interests(&self) -> (Vec<Poll>, Vec<Source>) {
        let (mut polls, mut sources) = (Vec::with_capacity(8), Vec::with_capacity(8));
        let mut add = |fd: &OwnedFd, readable, writable, source| {
            polls.push(Poll::new(fd.as_fd(), readable, writable));
            sources.push(source);
        };
        // Last in the list is served first: the end of the process comes behind its output.
        if self.exited.is_none() {
            add(&self.pidfd, true, false, Source::Process);
        }
        if let Some(listener) = self.listener.as_ref().filter(|_| self.room()) {
            add(listener, true, false, Source::Listener);
        }
        if let Some(control) = &self.control {
            add(control, true, false, Source::Control);
        }
        for (i, fd) in self.strangers.iter().enumerate() {
            add(fd, true, false, Source::Stranger(i));
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.input.is_empty()) {
            add(stdin, false, true, Source::Input);
        }
        for (i, output) in self.outputs.iter().enumerate() {
            // A hang-up is reported even when nothing is asked for: leave the pipe out while a reader holds it back.
            if let Some(fd) = output.fd.as_ref().filter(|_| output.ring.has_room()) {
                add(fd, true, false, Source::Output(i));
            }
        }
        let state = self.state();
        for (i, client) in self.clients.iter().enumerate() {
            if let Some(fd) = &client.fd {
                // Input waits in a plain client's socket while the workload has not taken what came before. A session sends no more than
                // its window, and what it says of the output must not wait.
                add(fd, self.input.is_empty() || client.session.is_some(), client.is_owed(&state), Source::Client(i));
            }
            if let Some(session) = client.session.as_ref().filter(|_| self.strangers.len() < MAX_CLIENTS) {
                add(&session.listener, true, false, Source::Session(i));
            }
        }
        (polls, sources)
    }

    fn state(&self) -> State<'_> {
        state_of(&self.outputs, self.started, self.exited.filter(|_| self.told), self.takes_input())
    }

    /// The workload keeps up with its standard input.
    fn takes_input(&self) -> bool {
        self.input.len() - self.input_done <= INPUT_WINDOW as usize / 2
    }

    fn room(&self) -> bool {
        self.clients.len() + self.strangers.len() < MAX_CLIENTS
    }

    /// Until something has to be done without anything coming in; -1: never.
    fn timeout(&self, now: u64) -> i32 {
        let mut until: Option<u64> = None;
        let mut at = |time: u64| until = Some(until.map_or(time, |u| u.min(time)));
        let state = self.state();
        for client in &self.clients {
            if let Some(time) = self.deadline(client, &state) {
                at(time);
            }
        }
        if !self.fds.is_empty() && self.released && self.told {
            at(self.exited_at + ROOT_MS);
        }
        if self.exited.is_some() && self.outputs.iter().any(|o| o.fd.is_some()) {
            // What a reader owes is not waited for by the clock: its socket tells.
            if self.outputs.iter().any(|o| o.fd.is_some() && o.ring.has_room()) {
                at(self.exited_at.max(self.last_output) + QUIET_MS);
            }
            if !self.told {
                at(self.exited_at + TELL_MS);
            }
        }
        match until {
            Some(time) => i32::try_from(time.saturating_sub(now)).unwrap_or(i32::MAX) + 1,
            None if self.dirty => FORGET_MS,
            None => -1,
        }
    }

    /// When a client has to be let go.
    fn deadline(&self, client: &Client, state: &State<'_>) -> Option<u64> {
        if let Some(until) = client.session.as_ref().and_then(|s| s.kept_until) {
            return Some(until);
        }
        let blocks = (0..2).any(|i| self.outputs[i].fd.is_some() && client.blocks(i, state.rings[i]));
        let lags = client.session.is_none() && client.is_owed(state);
        (blocks || lags).then_some(client.since + CUT_OFF_MS)
    }

    fn act(&mut self, source: Source, poll: &Poll, now: u64) {
        match source {
            Source::Process => self.reap(now),
            Source::Output(i) => self.read_output(i, now),
            Source::Input => self.feed(),
            Source::Control => self.read_control(),
            Source::Listener => {
                if let Some(Ok(fd)) = self.listener.as_ref().map(|l| socket::accept(l.as_fd())) {
                    self.strangers.push(fd);
                }
            }
            Source::Session(i) => {
                if let Some(Ok(fd)) = self.clients[i].session.as_ref().map(|s| socket::accept(s.listener.as_fd())) {
                    self.strangers.push(fd);
                }
            }
            Source::Stranger(i) => self.meet(i, now),
            Source::Client(i) => {
                // One thing at a time: any of them may remove the client, and poll tells the others again.
                let owed = self.clients[i].is_owed(&self.state());
                if poll.writable() && owed && !poll.readable() {
                    self.deliver(i, now);
                } else if poll.readable() {
                    self.read_client(i, now);
                    // Whoever sends all the time is served all the same.
                    if owed && i < self.clients.len() {
                        self.deliver(i, now);
                    }
                } else if poll.hung_up() {
                    self.lose(i, now);
                }
            }
        }
    }

    fn reap(&mut self, now: u64) {
        let Ok(Some((_, ended))) = process::reap(Some(self.pid), false) else { return };
        if let (Some(memory), Some(run)) = (self.memory.take(), &self.run) {
            memory.note(run, matches!(ended, Ended::Signal(SIGKILL)));
        }
        let (code, signal) = match ended {
            Ended::Code(code) => (code, 0),
            Ended::Signal(signal) => (128 + signal, signal),
        };
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.exited = Some(Exited { code, signal, time: i64::try_from(time.as_nanos()).unwrap_or(i64::MAX) });
        self.exited_at = now;
    }

    fn read_client(&mut self, at: usize, now: u64) {
        let Some(fd) = &self.clients[at].fd else { return };
        let mut buffer = vec![0; MAX_FRAME + 16];
        let n = match socket::receive(fd.as_fd(), &mut buffer, &mut Vec::new(), false) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Ok(n) if n > 0 => n,
            _ => return self.lose(at, now),
        };
        match Request::decode(&buffer[..n]) {
            Ok(Request::Stdin(bytes)) => {
                let client = &mut self.clients[at];
                if let Some(session) = &mut client.session
                    && !session.feed(bytes.len() as u64)
                {
                    return self.leave(at, false);
                }
                if client.feeds && self.stdin.is_some() && !self.input_ends {
                    self.input.extend_from_slice(&bytes);
                    self.feed();
                }
            }
            Ok(Request::StdinEnd) => {
                let client = &mut self.clients[at];
                if let Some(session) = &mut client.session {
                    session.fed += 1;
                }
                if client.feeds {
                    self.end_input();
                }
            }
            Ok(Request::Resize(rows, columns)) => self.resize(rows, columns),
            Ok(Request::Taken(counts)) if self.clients[at].take(counts, now) => self.drop_taken(),
            Ok(Request::Leave(hang_up)) => self.leave(at, hang_up),
            Ok(Request::HungUp) => {
                if let Some(session) = &mut self.clients[at].session {
                    session.hang_up();
                }
                self.lose(at, now);
            }
            _ => self.lose(at, now),
        }
    }

    fn feed(&mut self) {
        while let Some(stdin) = self.stdin.as_ref().filter(|_| self.input_done < self.input.len()) {
            match process::write(stdin.as_fd(), &self.input[self.input_done..]) {
                Ok(n) => self.input_done += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The workload has closed its end: what is left has no reader.
                Err(_) => self.stdin = None,
            }
        }
        self.input = Vec::new();
        self.input_done = 0;
        if self.input_ends {
            self.stdin = None;
        }
    }

    /// A pipe is closed when it has taken everything; a terminal gets the byte that means the end to it (VEOF's default, ^D).
    fn end_input(&mut self) {
        if self.terminal {
            if self.stdin.is_some() {
                self.input.push(4);
            }
        } else {
            self.input_ends = true;
        }
        self.feed();
    }

    fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = self.outputs[0].fd.as_ref().filter(|_| self.terminal) {
            let _ = pty::resize(terminal.as_fd(), rows, columns);
        }
    }

    fn read_control(&mut self) {
        let Some(control) = &self.control else { return };
        let mut buffer = [0; 64];
        let n = match socket::receive(control.as_fd(), &mut buffer, &mut Vec::new(), false) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Ok(n) => n,
            Err(_) => 0,
        };
        match Request::decode(&buffer[..n]) {
            Ok(Request::Release) => self.released = true,
            Ok(Request::Abandon) => {
                self.released = true;
                for at in
                    (0..self.clients.len()).rev().filter(|at| self.clients[*at].session.is_some()).collect::<Vec<_>>()
                {
                    self.leave(at, false);
                }
            }
            Ok(Request::Resize(rows, columns)) => self.resize(rows, columns),
            // The agent is gone, or speaks another language: go on alone.
            _ => self.control = None,
        }
    }

    /// The first message of a new connection says what it is.
    fn meet(&mut self, i: usize, now: u64) {
        let fd = self.strangers.swap_remove(i);
        let (mut buffer, mut beside) = (vec![0; 2 * MAX_SESSION + 64], Vec::new());
        let n = match socket::receive(fd.as_fd(), &mut buffer, &mut beside, false) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.strangers.push(fd),
            Ok(n) => n,
            Err(_) => return,
        };
        match Request::decode(&buffer[..n]) {
            Ok(Request::Control) => {
                greet(&fd, self.started, self.exited.filter(|_| self.told));
                self.control = Some(fd);
            }
            Ok(Request::Attach(feeds)) => {
                let at = [self.outputs[0].ring.end(), self.outputs[1].ring.end()];
                self.clients.push(Client::plain(fd, feeds, at, now));
            }
            Ok(Request::Session(session)) => self.join(fd, &session, beside.pop(), now),
            _ => {}
        }
    }

    /// A session begins, or goes on. One that cannot is dropped, and its agent sees the connection close.
    fn join(&mut self, fd: OwnedFd, wanted: &wire::Session<'_>, listener: Option<OwnedFd>, now: u64) {
        let known = self.clients.iter().position(|c| c.session.as_ref().is_some_and(|s| s.name[..] == wanted.name[..]));
        let at = match (known, listener) {
            (Some(at), None) if !wanted.fresh => {
                if !self.clients[at].come_back(fd, wanted.taken, now) {
                    return;
                }
                at
            }
            (None, Some(listener)) if wanted.fresh => {
                let sent = [self.outputs[0].ring.end(), self.outputs[1].ring.end()];
                let session = Session::new(&wanted.name, &wanted.note, listener, sent);
                let (feeds, reads) = (wanted.feeds, wanted.reads);
                let client =
                    Client { fd: Some(fd), feeds, reads, sent, since: now, said_end: false, session: Some(session) };
                self.clients.push(client);
                self.clients.len() - 1
            }
            _ => return,
        };
        self.drop_taken();
        self.deliver(at, now);
    }

    /// What follows from what has happened: the ends of outputs, of attachments, of the container.
    fn settle(&mut self, now: u64) {
        let Some(exited) = self.exited else {
            self.say_goodbye(now);
            return;
        };
        if now >= self.exited_at.max(self.last_output) + QUIET_MS {
            for i in 0..2 {
                // A reader that holds it back is still served, and what waited in the pipe behind it comes now.
                if self.outputs[i].fd.is_none() || !self.outputs[i].ring.has_room() {
                    continue;
                }
                self.read_output(i, now);
                // Somebody outside of the container holds it open.
                if self.last_output < now {
                    self.end_output(i);
                }
            }
        }
        let drained = self.outputs.iter().all(|o| o.fd.is_none());
        if !self.told && (drained || now >= self.exited_at + TELL_MS) {
            // The file first: an agent that dies on hearing it finds it there.
            self.write_exit_file(&exited);
            if let Some(control) = &self.control
                && send(control.as_fd(), &Response::Exited(exited)).is_err()
            {
                self.control = None;
            }
            self.told = true;
        }
        self.say_goodbye(now);
    }

    /// Readers are told when no output is left, and how it ended; plain ones that have everything are let go.
    fn say_goodbye(&mut self, now: u64) {
        if self.outputs.iter().any(|o| o.fd.is_some()) {
            return;
        }
        for at in (0..self.clients.len()).rev() {
            if self.clients[at].is_owed(&self.state()) {
                self.deliver(at, now);
            }
        }
    }

    fn write_exit_file(&self, exited: &Exited) {
        let Some(run) = &self.run else { return };
        let write = || -> io::Result<()> {
            let file = fs::openat(run.as_fd(), "exit.tmp", Open::WRONLY | Open::CREATE | Open::TRUNC, 0o600)?;
            process::write(file.as_fd(), &exited.encode())?;
            fs::renameat2(run.as_fd(), "exit.tmp", run.as_fd(), "exit", false)
        };
        // A full /run: the control connection still says it, and a shim that cannot be heard stays until it is.
        let _ = write();
    }

    /// Everything is told and taken, and nobody needs this process any more.
    fn done(&self) -> bool {
        self.told && self.clients.is_empty() && (self.released || self.control.is_none())
    }
}
