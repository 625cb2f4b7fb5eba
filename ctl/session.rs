//! One process's standard streams over one bidirectional call: what `run`, `exec` and `attach` share.
//!
//! Frames to the agent come from standard input, signals and the window's size, and go through one bounded queue; frames from the agent
//! are written out in the order they come. The terminal is raw from the moment the process runs.
//!
//! The stream is a session: what is written out is confirmed, what is read in is kept until it is accepted, and a stream that breaks is
//! asked for again, for half a minute, and goes on where it was. An agent that knows no sessions gets what it always got.

use crate::connect::{Connection, Patience};
use crate::error::{Error, FAILED_ITSELF, Result};
use crate::feed::Feed;
use crate::output::{Sink, To};
use crate::term::{self, DetachKeys, Raw};
use berth::v1;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::Read;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Bytes read from standard input at once.
const STDIN_CHUNK: usize = 64 << 10;
/// Frames on their way to the agent: a quarter megabyte of standard input at most.
const QUEUE: usize = 4;
/// So many interrupts in a row end the attachment, for a workload that ignores them.
const IMPATIENT: u32 = 3;
/// So much output is confirmed at once; less, when nothing more comes for a moment.
const CONFIRM_BYTES: u64 = 64 << 10;
const CONFIRM_AFTER: Duration = Duration::from_millis(200);
/// An agent that knows sessions says so right behind the start. What was sent meanwhile is kept for so long, then it is taken for one that does not.
const SESSION_AFTER: Duration = Duration::from_secs(2);
/// The agent takes a farewell within this; it is courtesy.
const FAREWELL: Duration = Duration::from_secs(2);

/// A frame to the agent.
#[derive(Debug)]
pub enum Input {
    Stdin(Bytes),
    Eof,
    Resize(v1::TerminalSize),
    Signal(&'static str),
    Taken([u64; 2]),
    Leave { hang_up: bool },
}

/// A frame from the agent.
#[derive(Debug)]
pub enum Output {
    /// The process runs; whether it has a terminal, where only the agent knows.
    Started(Option<bool>),
    Session(v1::SessionBegun),
    StdinTaken(u64),
    Stdout(Bytes),
    Stderr(Bytes),
    Exit(v1::ExitStatus),
    /// Talk that the command deals with itself.
    Other,
}

/// How an attachment is made.
#[derive(Clone, Debug)]
pub struct Options {
    pub stdin: bool,
    /// Which outputs are shown.
    pub shown: [bool; 2],
    /// The process has a terminal, and ours is at both ends of it.
    pub tty: bool,
    pub sig_proxy: bool,
    pub detach_keys: DetachKeys,
    /// It is only started: the stream ends behind that.
    pub detach: bool,
}

/// How an attachment ended.
#[derive(Clone, PartialEq, Debug)]
pub enum End {
    Exit(v1::ExitStatus),
    /// By the detach keys; the process goes on.
    Detached,
    /// Without an exit: nothing was attached.
    Closed,
}

/// A frame of one kind of call.
pub trait Frame: Send + 'static {
    fn input(input: Input) -> Self;
}

macro_rules! frame {
    ($request:ident, $module:ident) => {
        impl Frame for v1::$request {
            fn input(input: Input) -> Self {
                use v1::$module::Kind;
                let kind = match input {
                    Input::Stdin(bytes) => Kind::Stdin(bytes),
                    Input::Eof => Kind::Eof(v1::StdinEof {}),
                    Input::Resize(size) => Kind::Resize(size),
                    Input::Signal(name) => Kind::Signal(name.into()),
                    Input::Taken([stdout, stderr]) => Kind::Taken(v1::OutputTaken { stdout, stderr }),
                    Input::Leave { hang_up } => Kind::Leave(v1::Leave { hang_up }),
                };
                v1::$request { kind: Some(kind) }
            }
        }
    };
}
frame!(RunRequest, run_request);
frame!(ExecRequest, exec_request);
frame!(AttachRequest, attach_request);

/// The sending half: a queue that starts with the first frame.
pub fn queue<F: Frame>(first: F) -> Result<(mpsc::Sender<F>, tokio_stream::wrappers::ReceiverStream<F>)> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    sender.try_send(first).map_err(|_| Error::new("the queue to the agent is closed"))?;
    Ok((sender, tokio_stream::wrappers::ReceiverStream::new(receiver)))
}

/// Signals that are passed on, as Docker does, without those that the kernel makes for ourselves (CHLD, PIPE, WINCH) or that cannot be caught.
const FORWARDED: [(&str, SignalKind); 6] = [
    ("SIGINT", SignalKind::interrupt()),
    ("SIGTERM", SignalKind::terminate()),
    ("SIGHUP", SignalKind::hangup()),
    ("SIGQUIT", SignalKind::quit()),
    ("SIGUSR1", SignalKind::user_defined1()),
    ("SIGUSR2", SignalKind::user_defined2()),
];

enum Local {
    Detach,
    /// A signal that is ours: 128 + its number.
    Die(u8),
}

/// One stream to the agent.
struct Link<F, R> {
    sender: mpsc::Sender<F>,
    frames: Streaming<R>,
    /// It can be resumed.
    session: bool,
    /// Input may be sent.
    open: bool,
}

/// What is said at the end, and what it ends with.
struct Farewell {
    hang_up: bool,
    /// Input that was read before goes before it.
    behind_input: bool,
    said: bool,
    end: Result<End>,
    until: Instant,
}

impl Farewell {
    fn new(hang_up: bool, behind_input: bool, end: Result<End>) -> Farewell {
        Farewell { hang_up, behind_input, said: false, end, until: Instant::now() + FAREWELL }
    }
}

/// Output that was written out, and what of it the agent has been told.
#[derive(Default)]
struct Written {
    bytes: [u64; 2],
    confirmed: [u64; 2],
    /// When the rest is confirmed.
    at: Option<Instant>,
}

impl Written {
    fn more(&mut self, to: To, n: usize) {
        self.bytes[to as usize] += n as u64;
        self.at.get_or_insert_with(|| Instant::now() + CONFIRM_AFTER);
    }

    fn is_due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| now >= at)
            || self.bytes.iter().zip(self.confirmed).any(|(b, c)| b - c >= CONFIRM_BYTES)
    }

    fn confirm(&mut self) -> Input {
        (self.confirmed, self.at) = (self.bytes, None);
        Input::Taken(self.bytes)
    }
}

/// Carries frames both ways until the process ends, over as many streams as it takes. `dial` begins a stream, or goes on with one; `read`
/// says what a frame from the agent is.
pub async fn run<F: Frame, R>(
    connection: &Connection,
    options: &Options,
    mut dial: impl AsyncFnMut(Option<v1::Resume>) -> Result<(mpsc::Sender<F>, Streaming<R>), Status>,
    sink: &mut Sink,
    mut read: impl FnMut(R) -> Result<Output>,
) -> Result<End> {
    let mut options = options.clone();
    let (urge, mut urgent) = mpsc::channel::<Local>(1);
    let (inputs, mut input) = mpsc::channel::<Input>(QUEUE);
    // Held until the process runs: signals during a pull end berthctl as they always do.
    let mut idle = Some((inputs, urge));
    let mut raw: Option<Raw> = None;
    let mut link: Option<Link<F, R>> = None;
    let mut patience = Patience::default();
    let (mut asked, mut started, mut resumable) = (false, false, false);
    // From then on nothing is expected to be resumed.
    let mut plain_at: Option<Instant> = None;
    let (mut written, mut feed, mut others) = (Written::default(), Feed::default(), VecDeque::new());
    let mut farewell: Option<Farewell> = None;
    let ended = loop {
        let Some(now) = &mut link else {
            let [stdout, stderr] = written.bytes;
            let resume = asked.then_some(v1::Resume { started, stdout, stderr });
            asked = true;
            let dialed = async {
                match dial(resume).await {
                    Ok(made) => Ok(Some(made)),
                    Err(status) => patience.wait(connection, &status).await.map(|()| None),
                }
            };
            tokio::select! {
                biased;
                Some(local) = urgent.recv() => match local {
                    Local::Detach => break Ok(End::Detached),
                    Local::Die(code) => break Err(Error::silent(code)),
                },
                dialed = dialed => match dialed {
                    Ok(None) => {}
                    Ok(Some((sender, frames))) => {
                        link = Some(Link { sender, frames, session: false, open: false });
                        if let Some(size) = term::size().filter(|_| started && options.tty) {
                            others.push_back(Input::Resize(size));
                        }
                    }
                    Err(e) => break Err(failed(e)),
                },
            }
            continue;
        };
        let mut full_at = plain_at.filter(|_| !resumable && !feed.has_room());
        if full_at.take_if(|at| Instant::now() >= *at).is_some() {
            feed.forget_sent();
        }
        let says_farewell = farewell.as_ref().is_some_and(|f| !f.said && (!f.behind_input || feed.all_sent()));
        let confirms = now.session && written.is_due(Instant::now());
        let sends = now.open && (!others.is_empty() || feed.is_ready() || confirms || says_farewell);
        // What is due already waits for room, not for a time.
        let confirm_at = written.at.filter(|_| now.session && !confirms);
        let until = [farewell.as_ref().map(|f| f.until), confirm_at, full_at].into_iter().flatten().min();
        let frame = tokio::select! {
            biased;
            permit = now.sender.reserve(), if sends => {
                // Closed: the reading side tells why.
                let Ok(permit) = permit else { now.open = false; continue };
                let next = match others.pop_front() {
                    Some(next) => next,
                    None if confirms => written.confirm(),
                    None if feed.is_ready() => match feed.next() {
                        Some(next) => next,
                        None => continue,
                    },
                    None => {
                        let hang_up = farewell.as_mut().is_some_and(|f| { f.said = true; f.hang_up });
                        Input::Leave { hang_up }
                    }
                };
                permit.send(F::input(next));
                continue;
            }
            Some(local) = urgent.recv(), if farewell.is_none() => {
                // What was typed before the keys came before them.
                while let Ok(typed) = input.try_recv() {
                    take(typed, &mut feed, &mut others);
                }
                farewell = Some(match local {
                    Local::Detach => Farewell::new(false, true, Ok(End::Detached)),
                    Local::Die(code) => Farewell::new(raw.is_some(), false, Err(Error::silent(code))),
                });
                drop(raw.take());
                continue;
            }
            Some(typed) = input.recv(), if farewell.is_none() && feed.has_room() && others.len() < QUEUE => {
                take(typed, &mut feed, &mut others);
                continue;
            }
            () = until_some(until) => {
                if let Some(f) = farewell.take_if(|f| Instant::now() >= f.until) {
                    break f.end;
                }
                continue;
            }
            frame = now.frames.message() => frame,
        };
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => break farewell.map_or(Ok(End::Closed), |f| f.end),
            Err(_) if farewell.is_some() => break farewell.map_or(Ok(End::Closed), |f| f.end),
            Err(status) => {
                if started && options.detach {
                    break Ok(End::Closed);
                }
                if started && !resumable {
                    break Err(failed(connection.error(&status)));
                }
                if let Err(e) = patience.wait(connection, &status).await {
                    break Err(failed(e));
                }
                link = None;
                continue;
            }
        };
        patience.rest();
        match read(frame)? {
            Output::Started(tty) => {
                options.tty = tty.map_or(options.tty, |tty| tty && !sink.labelled());
                options.sig_proxy &= !options.tty;
                // A stream that goes on sends nothing before it knows from where.
                now.open = !resumable;
                started = true;
                plain_at.get_or_insert_with(|| Instant::now() + SESSION_AFTER);
                if options.detach {
                    farewell = Some(Farewell::new(false, false, Ok(End::Closed)));
                } else if let Some((inputs, urge)) = idle.take() {
                    if options.tty && options.stdin && term::stdin_is_terminal() {
                        raw = Some(Raw::enter()?);
                    }
                    start(&options, raw.is_some(), inputs, urge)?;
                }
            }
            Output::Session(begun) => {
                if resumable && !feed.go_on_at(begun.stdin_taken) {
                    break Err(failed(Error::new(format!(
                        "{} lost a part of the input when it ended",
                        connection.label
                    ))));
                }
                feed.window = begun.stdin_window.max(1);
                (now.session, now.open, resumable) = (true, true, true);
            }
            Output::StdinTaken(position) => feed.accepted(position),
            Output::Stdout(bytes) => {
                if options.shown[0] {
                    sink.write(To::Stdout, &bytes)?;
                }
                written.more(To::Stdout, bytes.len());
            }
            Output::Stderr(bytes) => {
                if options.shown[1] {
                    sink.write(To::Stderr, &bytes)?;
                }
                written.more(To::Stderr, bytes.len());
            }
            Output::Exit(status) => {
                drop(raw.take());
                if !now.session {
                    break Ok(End::Exit(status));
                }
                farewell = Some(Farewell::new(false, false, Ok(End::Exit(status))));
            }
            Output::Other => {}
        }
    };
    drop(raw);
    let end = ended?;
    sink.finish()?;
    Ok(end)
}

fn take(typed: Input, feed: &mut Feed, others: &mut VecDeque<Input>) {
    match typed {
        Input::Stdin(bytes) => feed.push(bytes),
        Input::Eof => feed.push(Bytes::new()),
        other => others.push_back(other),
    }
}

async fn until_some(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A failure of ours must not look like the workload's.
fn failed(mut error: Error) -> Error {
    error.exit = error.exit.or(Some(FAILED_ITSELF));
    error
}

/// Starts what feeds the queue.
fn start(options: &Options, raw: bool, sender: mpsc::Sender<Input>, local: mpsc::Sender<Local>) -> Result<()> {
    let signals = |e| Error::io("catching signals", &e);
    if options.stdin {
        let (sender, local) = (sender.clone(), local.clone());
        let keys = if raw { options.detach_keys.clone() } else { DetachKeys::default() };
        // A thread of its own: a read from a terminal cannot be called back, and the runtime would wait for it at the end.
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || pump_stdin(keys, &sender, &local))
            .map_err(|e| Error::io("starting a thread for standard input", &e))?;
    }
    if options.tty {
        let sender = sender.clone();
        let mut changed = signal(SignalKind::window_change()).map_err(signals)?;
        tokio::spawn(async move {
            while changed.recv().await.is_some() {
                let Some(size) = term::size() else { continue };
                if sender.send(Input::Resize(size)).await.is_err() {
                    return;
                }
            }
        });
    }
    if raw {
        // Keys go through as bytes; these come from elsewhere, and the terminal must be put back first.
        for (_, kind) in [FORWARDED[1], FORWARDED[2], FORWARDED[3]] {
            let mut caught = signal(kind).map_err(signals)?;
            let local = local.clone();
            tokio::spawn(async move {
                caught.recv().await;
                let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
                _ = local.send(Local::Die(128 + number)).await;
            });
        }
    } else if options.sig_proxy {
        for (name, kind) in FORWARDED {
            let mut caught = signal(kind).map_err(signals)?;
            let (sender, local) = (sender.clone(), local.clone());
            tokio::spawn(async move {
                let mut times = 0;
                while caught.recv().await.is_some() {
                    times += 1;
                    let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
                    let ends = matches!(name, "SIGINT" | "SIGTERM") && times >= IMPATIENT;
                    if ends || sender.send(Input::Signal(name)).await.is_err() {
                        _ = local.send(Local::Die(128 + number)).await;
                        return;
                    }
                }
            });
        }
    }
    Ok(())
}

fn pump_stdin(mut keys: DetachKeys, sender: &mpsc::Sender<Input>, local: &mpsc::Sender<Local>) {
    let mut buffer = vec![0u8; STDIN_CHUNK];
    let mut stdin = std::io::stdin().lock();
    loop {
        let n = match stdin.read(&mut buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => {
                _ = sender.blocking_send(Input::Eof);
                return;
            }
            Ok(n) => n,
        };
        let (through, detached) = keys.feed(&buffer[..n]);
        if !through.is_empty() && sender.blocking_send(Input::Stdin(through.into())).is_err() {
            return;
        }
        if detached {
            _ = local.blocking_send(Local::Detach);
            return;
        }
    }
}

/// The exit code of a workload as berthctl's own.
pub fn exit_code(status: &v1::ExitStatus) -> u8 {
    u8::try_from(status.code & 0xff).unwrap_or(FAILED_ITSELF)
}

/// What is told of an end beside its code. Where the agent says it from its records, as to who comes back behind the end, it has words for the ordinary
/// one, too.
fn said(status: &v1::ExitStatus) -> Option<&str> {
    let ordinary = format!("exited with code {}", status.code);
    Some(status.reason.as_str()).filter(|reason| !reason.is_empty() && *reason != ordinary)
}

/// What one host's workload came to: several hosts count everything but 0 as a failure.
pub fn verdict(end: &End, labelled: bool) -> Result<()> {
    let End::Exit(status) = end else { return Ok(()) };
    if status.code == 0 {
        return Ok(());
    }
    if !labelled {
        if let Some(words) = said(status) {
            anstream::eprintln!("{}", crate::output::printable(words));
        }
        return Err(Error::silent(exit_code(status)));
    }
    let mut text = match status.signal {
        0 => format!("exited with {}", status.code),
        n => format!("ended by signal {n}"),
    };
    if status.oom_killed {
        text.push_str(", out of memory");
    }
    if !status.reason.is_empty() {
        text.push_str(&format!(" ({})", status.reason));
    }
    Err(Error::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_end_says_nothing() {
        let end = |code, reason: &str| v1::ExitStatus { code, reason: reason.into(), ..Default::default() };
        for (status, words) in [
            (end(23, ""), None),
            (end(23, "exited with code 23"), None),
            (end(137, "killed: out of memory"), Some("killed: out of memory")),
            (end(1, "exited with code 1 before it was ready"), Some("exited with code 1 before it was ready")),
        ] {
            assert_eq!(said(&status), words);
        }
    }
}
