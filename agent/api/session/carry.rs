//! Carries frames both ways between a caller and a process.

use super::FAREWELL;
use super::frames::{Answer, Asks, Frame, Sender};
use crate::api::decode::Fields;
use crate::api::encode;
use crate::status;
use berth::v1;
use berth_model::wire::INPUT_WINDOW;
use berth_model::{ContainerId, ExitStatus};
use berth_node::{Node, NodeError, NodeExec, Requester, ResumedSession, Streams};
use berth_runtime::{AttachInput, Output};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

/// A process that left its output open to children: they are not waited for when they are silent this long.
const QUIET_AFTER_EXIT: Duration = Duration::from_secs(1);
/// Bytes of one frame: as much as a pipe holds.
const FRAME: usize = 64 << 10;
/// When one half of a stream has ended with its connection, the other half does within this.
const BOTH_HALVES: Duration = Duration::from_secs(1);
/// The end that a shim tells is known to the node within this, where the node still knows of the container.
const KNOWN: Duration = Duration::from_secs(2);

/// Which outputs the caller wants to see.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    pub stdout: bool,
    pub stderr: bool,
}

impl Shown {
    pub const BOTH: Shown = Shown { stdout: true, stderr: true };
}

/// Whom signals go to.
pub(super) enum Target {
    Container {
        node: Node,
        who: Requester,
        id: String,
    },
    Exec {
        exec: Arc<NodeExec>,
        tty: bool,
    },
    /// An exec that an earlier agent began.
    Process {
        process: (u32, u64),
        tty: bool,
    },
}

impl Target {
    async fn signal(&self, signal: &str) -> Result<(), NodeError> {
        match self {
            Target::Container { node, who, id } => {
                // The stream's own request_id belongs to what it started.
                let who = Requester { request_id: String::new(), ..who.clone() };
                node.kill(&who, id, Some(signal)).await.map(drop)
            }
            Target::Exec { exec, .. } => exec.signal(signal),
            Target::Process { process, .. } => ResumedSession::signal(*process, signal),
        }
    }
}

/// The end of a process, asked for from the beginning.
pub(super) struct Ended(Option<tokio::task::JoinHandle<Result<ExitStatus, NodeError>>>);

impl Ended {
    pub fn of(node: &Node, id: &ContainerId) -> Ended {
        let (node, id) = (node.clone(), id.clone());
        Ended(Some(crate::api::spawn(async move { node.wait(id.as_str()).await.map(|(_, exit)| exit) })))
    }

    pub fn exec(exec: Arc<NodeExec>) -> Ended {
        Ended(Some(crate::api::spawn(async move { exec.wait().await })))
    }

    /// Nobody here knows but its shim.
    pub fn unknown() -> Ended {
        Ended(None)
    }

    async fn get(&mut self) -> Result<ExitStatus, Status> {
        let Some(task) = &mut self.0 else { return Err(status::from_node(NodeError::SessionLost)) };
        match task.await {
            Ok(exit) => exit.map_err(status::from_node),
            Err(e) => Err(status::internal(format!("waiting for the end: {e}"))),
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// What a stream is about.
pub(super) struct About {
    pub node: Node,
    pub target: Target,
    pub shown: Shown,
    pub stdin: bool,
    /// The session's.
    pub name: Option<String>,
}

/// How a caller's half of a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parting {
    /// With a word. true: the process is to know.
    Left(bool),
    /// It has said all that it will say, and listens.
    Closed,
    /// It has ended the stream, without a word.
    Cancelled,
    /// Its end of the connection was closed or reset: it has ended, or somebody between has.
    HungUp,
    /// Nothing is known of it.
    Broken,
}

/// Carries frames both ways until the process has ended, or the caller has gone.
pub(super) async fn session_of<R: Asks, M: Answer>(
    requests: Streaming<R>,
    streams: Streams,
    about: About,
    mut ended: Ended,
    answers: Sender<M>,
) {
    let Streams { tty, output, input, session } = streams;
    let target = Arc::new(about.target);
    if let Some(fed) = session {
        let begun = v1::SessionBegun { stdin_taken: fed, stdin_window: INPUT_WINDOW };
        let _ = answers.send(Ok(M::begun(begun))).await;
    }
    let (tell, mut parted) = watch::channel(None);
    let reader = {
        let (input, target, answers) = (input.clone(), target.clone(), answers.clone());
        crate::api::spawn(async move {
            let parting = take_input(requests, input, target, about.stdin, tty, answers).await;
            tell.send_replace(Some(parting));
        })
    };
    let sent = tokio::select! {
        biased;
        // What is under way to a caller who has left is not for it any more.
        () = left(parted.clone()) => false,
        sent = send_output(output, &mut ended, about.shown, session.is_some(), &answers) => sent,
    };
    if session.is_some() {
        // The caller says when it has the end; and both halves of a connection that broke end together.
        let patience = if sent { FAREWELL } else { BOTH_HALVES };
        let _ = tokio::time::timeout(patience, parted.wait_for(Option::is_some)).await;
    }
    reader.abort();
    let parting = *parted.borrow();
    let hang_up = match (parting, session) {
        (Some(Parting::Left(hang_up)), _) => hang_up,
        // Without a session a caller that is gone is gone, as a terminal that hangs up.
        (_, None) => !sent,
        _ => false,
    };
    if session.is_some() {
        let over = match parting {
            Some(Parting::Left(_)) => true,
            Some(Parting::Closed | Parting::Cancelled) => sent,
            _ => false,
        };
        if over {
            let _ = input.leave(false).await;
        } else if matches!(parting, Some(Parting::HungUp | Parting::Cancelled)) {
            let _ = input.hung_up().await;
        }
        if let Some(name) = about.name {
            about.node.session_ended(name, over);
        }
    }
    if hang_up && !sent && matches!(&*target, Target::Exec { tty: true, .. } | Target::Process { tty: true, .. }) {
        // As a terminal that hangs up; without one, the process is left alone.
        if let Err(e) = target.signal("SIGHUP").await {
            tracing::debug!("SIGHUP to a process whose terminal is gone: {e}");
        }
    }
}

/// When the caller has said that it goes.
async fn left(mut parted: watch::Receiver<Option<Parting>>) {
    if parted.wait_for(|p| matches!(p, Some(Parting::Left(_)))).await.is_err() {
        std::future::pending().await
    }
}

/// The caller has ended the stream by itself, and its connection stands.
pub(super) fn cancelled(status: &Status) -> bool {
    status.code() == tonic::Code::Cancelled
}

/// The other side closed its connection, which the kernel does for a process that has ended. A network that carries nothing is not known
/// by this: its pings stay without an answer.
fn hung_up(status: &Status) -> bool {
    use std::error::Error;
    use std::io::ErrorKind as Kind;
    let causes = std::iter::successors(status.source(), |&cause| cause.source());
    let kinds = causes.filter_map(|cause| {
        let io = cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io).or(cause.downcast_ref());
        io.map(std::io::Error::kind)
    });
    let gone = [Kind::BrokenPipe, Kind::ConnectionReset, Kind::ConnectionAborted, Kind::UnexpectedEof];
    kinds.into_iter().any(|kind| gone.contains(&kind))
}

/// false: the caller has gone before the end.
async fn send_output<M: Answer>(
    mut output: mpsc::Receiver<Result<Output, NodeError>>,
    ended: &mut Ended,
    shown: Shown,
    session: bool,
    answers: &Sender<M>,
) -> bool {
    let mut exit = None;
    loop {
        let item = if session {
            // The shim says the end behind all output.
            tokio::select! {
                biased;
                () = answers.closed() => return false,
                item = output.recv() => item,
            }
        } else if exit.is_some() {
            match tokio::time::timeout(QUIET_AFTER_EXIT, output.recv()).await {
                Ok(item) => item,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                // What was written goes before the end that followed it.
                biased;
                () = answers.closed() => return false,
                item = output.recv() => item,
                done = ended.get() => {
                    exit = Some(done);
                    continue;
                }
            }
        };
        let bytes = match item {
            None => break,
            Some(Ok(Output::Stdout(bytes))) if shown.stdout => (Bytes::from(bytes), M::stdout as fn(Bytes) -> M),
            Some(Ok(Output::Stderr(bytes))) if shown.stderr => (Bytes::from(bytes), M::stderr as fn(Bytes) -> M),
            Some(Ok(Output::Fed(position))) => {
                if answers.send(Ok(M::fed(position))).await.is_err() {
                    return false;
                }
                continue;
            }
            Some(Ok(Output::Exited(status))) => {
                // The agent knows more (who killed it, and why), where it knows of it.
                exit = Some(match tokio::time::timeout(KNOWN, ended.get()).await {
                    Ok(Ok(known)) => Ok(known),
                    _ => Ok(status),
                });
                break;
            }
            Some(Ok(_)) => continue,
            Some(Err(e)) => {
                let _ = answers.send(Err(status::from_node(e))).await;
                return true;
            }
        };
        let (mut bytes, wrap) = bytes;
        while !bytes.is_empty() {
            let frame = bytes.split_to(bytes.len().min(FRAME));
            if answers.send(Ok(wrap(frame))).await.is_err() {
                return false;
            }
        }
    }
    let exit = match exit {
        Some(exit) => exit,
        None => tokio::select! {
            () = answers.closed() => return false,
            exit = ended.get() => exit,
        },
    };
    answers.send(exit.map(|exit| M::exit(encode::exit(&exit)))).await.is_ok()
}

/// Ends with the caller's half of the stream. Errors of frames go to the caller and end the session.
async fn take_input<R: Asks, M: Answer>(
    mut requests: Streaming<R>,
    input: AttachInput,
    target: Arc<Target>,
    stdin: bool,
    tty: bool,
    answers: Sender<M>,
) -> Parting {
    let mut open = stdin;
    let refuse = |message: &'static str| {
        let answers = answers.clone();
        async move {
            let _ = answers.send(Err(status::bad_stream(message))).await;
            Parting::Left(false)
        }
    };
    loop {
        let frame = match requests.message().await {
            // The caller has gone: what it did not end stays open, for those who attach later.
            Err(e) if cancelled(&e) => return Parting::Cancelled,
            Err(e) => return if hung_up(&e) { Parting::HungUp } else { Parting::Broken },
            // On a terminal an end must be asked for, by a frame: callers also leave by their detach keys.
            Ok(None) => {
                if open && !tty {
                    let _ = input.close().await;
                }
                return Parting::Closed;
            }
            Ok(Some(message)) => message.split(),
        };
        match frame {
            None => return refuse("a frame has no kind that this agent knows").await,
            Some(Err(_)) => return refuse("only the first frame may be start").await,
            Some(Ok(Frame::Stdin(_) | Frame::Eof)) if !stdin => {
                return refuse("standard input is not attached").await;
            }
            // A process that closed its input does not end the session: its output and its end are still to come.
            Some(Ok(Frame::Stdin(bytes))) if open => open = input.write(&bytes).await.is_ok(),
            Some(Ok(Frame::Stdin(_))) => {}
            Some(Ok(Frame::Eof)) => {
                if std::mem::take(&mut open) {
                    let _ = input.close().await;
                }
            }
            // Without a session nothing waits for it.
            Some(Ok(Frame::Taken(counts))) => drop(input.taken(counts).await),
            Some(Ok(Frame::Leave(hang_up))) => return Parting::Left(hang_up),
            Some(Ok(Frame::Resize(size))) => {
                let (Ok(rows), Ok(columns)) = (u16::try_from(size.rows), u16::try_from(size.columns)) else {
                    return refuse("rows and columns must be at most 65535").await;
                };
                if !tty {
                    return refuse("there is no terminal to resize").await;
                }
                let _ = input.resize(rows, columns).await;
            }
            Some(Ok(Frame::Signal(signal))) => {
                let mut f = Fields::default();
                f.check(!signal.is_empty(), "signal", "must not be empty");
                f.signal("signal", &signal);
                if let Err(status) = f.done() {
                    let _ = answers.send(Err(status)).await;
                    return Parting::Left(false);
                }
                match target.signal(&signal).await {
                    // It ended while the signal was under way.
                    Ok(()) | Err(NodeError::NotRunning(_) | NodeError::ContainerNotFound(_)) => {}
                    Err(e) => {
                        let _ = answers.send(Err(status::from_node(e))).await;
                        return Parting::Left(false);
                    }
                }
            }
        }
    }
}
