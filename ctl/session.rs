//! One process's standard streams over one bidirectional call: what `run`, `exec` and `attach` share.
//!
//! Frames to the agent come from three places (standard input, signals, the window's size) and go through one bounded queue; frames from
//! the agent are written out in the order they come. The terminal is raw from the moment the process runs.

use crate::connect::Connection;
use crate::error::{Error, FAILED_ITSELF, Result};
use crate::output::{Sink, To};
use crate::term::{self, DetachKeys, Raw};
use berth::v1;
use bytes::Bytes;
use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Bytes read from standard input at once.
const STDIN_CHUNK: usize = 64 << 10;
/// Frames on their way to the agent: a quarter megabyte of standard input at most.
const QUEUE: usize = 4;
/// So many interrupts in a row end the attachment, for a workload that ignores them.
const IMPATIENT: u32 = 3;

/// A frame to the agent.
#[derive(Debug)]
pub enum Input {
    Stdin(Bytes),
    Eof,
    Resize(v1::TerminalSize),
    Signal(&'static str),
}

/// A frame from the agent.
#[derive(Debug)]
pub enum Output {
    /// The process runs.
    Started,
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
    /// The process has a terminal, and ours is at both ends of it.
    pub tty: bool,
    pub sig_proxy: bool,
    pub detach_keys: DetachKeys,
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

/// Carries frames both ways until the process ends. `first` has come already; `read` says what a frame from the agent is.
pub async fn run<F: Frame, R>(
    connection: &Connection,
    options: &Options,
    sender: mpsc::Sender<F>,
    frames: &mut Streaming<R>,
    first: Option<R>,
    sink: &mut Sink,
    mut read: impl FnMut(R) -> Result<Output>,
) -> Result<End> {
    let (local_sender, mut local) = mpsc::channel::<Local>(1);
    let mut raw: Option<Raw> = None;
    // Held until the process runs: signals during a pull end berthctl as they always do.
    let mut idle = Some(sender);
    let mut first = Some(first);
    let end = loop {
        let frame = tokio::select! {
            biased;
            frame = async { Ok(first.take().flatten()) }, if first.is_some() => frame,
            Some(local) = local.recv() => match local {
                Local::Detach => break End::Detached,
                Local::Die(code) => {
                    drop(raw.take());
                    return Err(Error::silent(code));
                }
            },
            frame = frames.message() => frame,
        };
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => break End::Closed,
            Err(status) => {
                drop(raw.take());
                return Err(lost(connection, &status));
            }
        };
        match read(frame)? {
            Output::Started => {
                if let Some(sender) = idle.take() {
                    if options.tty && options.stdin && term::stdin_is_terminal() {
                        raw = Some(Raw::enter()?);
                    }
                    start(options, raw.is_some(), sender, local_sender.clone())?;
                }
            }
            Output::Stdout(bytes) => sink.write(To::Stdout, &bytes)?,
            Output::Stderr(bytes) => sink.write(To::Stderr, &bytes)?,
            Output::Exit(status) => break End::Exit(status),
            Output::Other => {}
        }
    };
    drop(raw);
    sink.finish()?;
    Ok(end)
}

fn lost(connection: &Connection, status: &Status) -> Error {
    let mut error = connection.error(status);
    error.exit = error.exit.or(Some(FAILED_ITSELF));
    error
}

/// Starts what feeds the queue.
fn start<F: Frame>(options: &Options, raw: bool, sender: mpsc::Sender<F>, local: mpsc::Sender<Local>) -> Result<()> {
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
                if sender.send(F::input(Input::Resize(size))).await.is_err() {
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
                    if ends || sender.send(F::input(Input::Signal(name))).await.is_err() {
                        _ = local.send(Local::Die(128 + number)).await;
                        return;
                    }
                }
            });
        }
    }
    Ok(())
}

fn pump_stdin<F: Frame>(mut keys: DetachKeys, sender: &mpsc::Sender<F>, local: &mpsc::Sender<Local>) {
    let mut buffer = vec![0u8; STDIN_CHUNK];
    let mut stdin = std::io::stdin().lock();
    loop {
        let n = match stdin.read(&mut buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => {
                _ = sender.blocking_send(F::input(Input::Eof));
                return;
            }
            Ok(n) => n,
        };
        let (through, detached) = keys.feed(&buffer[..n]);
        if !through.is_empty() && sender.blocking_send(F::input(Input::Stdin(through.into()))).is_err() {
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

/// What one host's workload came to: several hosts count everything but 0 as a failure.
pub fn verdict(end: &End, labelled: bool) -> Result<()> {
    let End::Exit(status) = end else { return Ok(()) };
    if status.code == 0 {
        return Ok(());
    }
    if !labelled {
        if !status.reason.is_empty() {
            anstream::eprintln!("{}", status.reason);
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
