//! What the workload writes: to the log, and to everybody who is attached, as far as each of them takes it.

use super::{Relay, SIGHUP, state_of};
use crate::log::Stream;
use crate::ring::Ring;
use berth_model::wire::{self, MAX_FRAME};
use berth_sys::process;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};

/// What is kept of a line whose end has not come, and the newest bytes behind it. In .bss: pages that are never used cost nothing.
type Buffer = [u8; 2 * MAX_FRAME];
static STDOUT: Mutex<Buffer> = Mutex::new([0; _]);
static STDERR: Mutex<Buffer> = Mutex::new([0; _]);

pub(super) struct Output {
    stream: Stream,
    pub(super) tag: u8,
    pub(super) fd: Option<OwnedFd>,
    buffer: MutexGuard<'static, Buffer>,
    /// Bytes in the buffer.
    filled: usize,
    /// How many of them are in the log; behind them is a line that has no end yet.
    stored: usize,
    /// What readers have yet to take.
    pub(super) ring: Ring,
}

impl Output {
    pub(super) fn stdout(fd: Option<OwnedFd>) -> Output {
        Output::new(Stream::Stdout, wire::TAG_STDOUT, fd, &STDOUT)
    }

    pub(super) fn stderr(fd: Option<OwnedFd>) -> Output {
        Output::new(Stream::Stderr, wire::TAG_STDERR, fd, &STDERR)
    }

    fn new(stream: Stream, tag: u8, fd: Option<OwnedFd>, buffer: &'static Mutex<Buffer>) -> Output {
        let buffer = buffer.lock().unwrap_or_else(|e| e.into_inner());
        Output { stream, tag, fd, buffer, filled: 0, stored: 0, ring: Ring::default() }
    }
}

impl Relay {
    pub(super) fn read_output(&mut self, i: usize, now: u64) {
        let output = &mut self.outputs[i];
        let Some(fd) = &output.fd else { return };
        // What is stored is done with: readers have it from the ring.
        output.buffer.copy_within(output.stored..output.filled, 0);
        output.filled -= output.stored;
        output.stored = 0;
        let start = output.filled;
        match process::read(fd.as_fd(), &mut output.buffer[start..start + MAX_FRAME]) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // A terminal whose last user has gone reads EIO, not the end.
            Ok(0) | Err(_) => self.end_output(i),
            Ok(n) => {
                output.filled += n;
                self.dirty = true;
                self.last_output = now;
                for client in &mut self.clients {
                    if client.has(i, &output.ring) == output.ring.end() {
                        client.since = now;
                    }
                }
                if self.clients.iter().any(|c| c.reads) {
                    output.ring.push(&output.buffer[start..start + n]);
                } else {
                    output.ring.skip(n);
                }
                self.store(i);
                for at in (0..self.clients.len()).rev() {
                    self.deliver(at, now);
                }
            }
        }
    }

    /// Stores the whole lines. What is left is shorter than a frame, so that the next read always has room.
    fn store(&mut self, i: usize) {
        let output = &mut self.outputs[i];
        let text = &output.buffer[..output.filled];
        let end = match text.iter().rposition(|&b| b == b'\n') {
            Some(newline) => newline + 1,
            None => 0,
        };
        // A line longer than an entry may be: a partial one.
        let end = if output.filled - end >= MAX_FRAME { output.filled } else { end };
        if let Some(log) = self.log.as_mut().filter(|_| end > 0) {
            log.write(output.stream, &text[..end]);
        }
        output.stored = end;
    }

    pub(super) fn end_output(&mut self, i: usize) {
        let output = &mut self.outputs[i];
        output.fd = None;
        if let Some(log) = self.log.as_mut().filter(|_| output.stored < output.filled) {
            log.write(output.stream, &output.buffer[output.stored..output.filled]);
        }
        output.stored = output.filled;
        // From here on they have the last word to take.
        let now = process::monotonic_ms();
        let ring = &output.ring;
        self.clients.iter_mut().filter(|c| c.has(i, ring) == ring.end()).for_each(|c| c.since = now);
    }

    /// Sends a client what there is for it, as far as its socket goes.
    pub(super) fn deliver(&mut self, at: usize, now: u64) {
        let (exited, takes_input) = (self.exited.filter(|_| self.told), self.takes_input());
        let client = &mut self.clients[at];
        let sent = client.deliver(&state_of(&self.outputs, self.started, exited, takes_input), now);
        let plain = client.session.is_none();
        if sent.is_err() || (plain && self.clients[at].said_end) {
            self.lose(at, now);
        }
        if plain {
            self.drop_taken();
        }
    }

    /// What everybody has need not be kept.
    pub(super) fn drop_taken(&mut self) {
        for (i, output) in self.outputs.iter_mut().enumerate() {
            let end = output.ring.end();
            let had = self.clients.iter().map(|c| c.has(i, &output.ring)).min().unwrap_or(end);
            output.ring.drop_before(had);
        }
    }

    pub(super) fn cut_off_slow(&mut self, now: u64) {
        for at in (0..self.clients.len()).rev() {
            let state = self.state();
            if self.deadline(&self.clients[at], &state).is_some_and(|time| now >= time) {
                self.clients[at].cut_off();
                let away = self.clients[at].fd.is_none();
                self.leave(at, away && self.exec && self.terminal);
            }
        }
    }

    /// A connection is gone: a session is waited for.
    pub(super) fn lose(&mut self, at: usize, now: u64) {
        let client = &mut self.clients[at];
        match &mut client.session {
            None => self.leave(at, false),
            Some(session) => {
                session.lose(now);
                client.fd = None;
            }
        }
    }

    pub(super) fn leave(&mut self, at: usize, hang_up: bool) {
        let client = self.clients.swap_remove(at);
        // As Docker: a terminal stays open for those who attach later.
        if client.feeds && self.stdin_once && !self.terminal && !self.clients.iter().any(|c| c.feeds) {
            self.end_input();
        }
        if hang_up && self.exited.is_none() {
            let _ = process::pidfd_send_signal(self.pidfd.as_fd(), SIGHUP);
        }
        self.drop_taken();
    }

    pub(super) fn forget(&mut self) {
        for output in self.outputs.iter_mut().filter(|o| o.stored == o.filled) {
            process::forget_pages(&mut output.buffer[..]);
        }
        if let Some(log) = &self.log {
            log.forget();
        }
        self.outputs.iter_mut().for_each(|o| o.ring.forget());
        self.dirty = false;
    }
}
