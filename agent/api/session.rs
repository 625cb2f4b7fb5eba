//! Streams into processes: `Run`, `Exec` and `Attach`.
//!
//! Two tasks to a session. One takes the caller's frames and writes them to the process: while the process does not
//! read, no frame is taken, and HTTP/2 holds the caller back. The other sends what the process writes: while the
//! caller does not read, nothing is taken from the process. When the caller goes away, the session ends and the
//! container goes on.

use super::containers::{Creation, created, start_warnings};
use super::decode::{Fields, some};
use super::{Answers, QUEUE, encode};
use crate::gate::Call;
use crate::{auth, status};
use berth::v1;
use berth_model::spec::{ExecSpec, LogConfig};
use berth_model::{ContainerId, ExitStatus};
use berth_node::{Node, NodeError, NodeExec, Requester, Streams};
use berth_runtime::{AttachInput, Output};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// A caller that opens a stream says at once what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// A process that left its output open to children: they are not waited for when they are silent this long.
const QUIET_AFTER_EXIT: Duration = Duration::from_secs(1);
/// Bytes of one frame: as much as a pipe holds.
const FRAME: usize = 64 << 10;

/// What callers send once a session runs.
enum Frame {
    Stdin(Bytes),
    Eof,
    Resize(v1::TerminalSize),
    Signal(String),
}

/// What sessions send, in the words of their own message types.
trait Answer: Sized + Send + 'static {
    fn stdout(bytes: Bytes) -> Self;
    fn stderr(bytes: Bytes) -> Self;
    fn exit(exit: v1::ExitStatus) -> Self;
}

/// What sessions receive.
trait Asks: Send + 'static {
    type Start: Send;
    /// `Err`: the first frame; `None`: nothing that is known.
    fn split(self) -> Option<Result<Frame, Self::Start>>;
}

macro_rules! session_messages {
    ($request:ident, $request_kind:path, $start:ty, $response:ident, $response_kind:path) => {
        impl Asks for v1::$request {
            type Start = $start;
            fn split(self) -> Option<Result<Frame, $start>> {
                use $request_kind as Kind;
                Some(match self.kind? {
                    Kind::Start(start) => Err(start),
                    Kind::Stdin(bytes) => Ok(Frame::Stdin(bytes)),
                    Kind::Eof(_) => Ok(Frame::Eof),
                    Kind::Resize(size) => Ok(Frame::Resize(size)),
                    Kind::Signal(signal) => Ok(Frame::Signal(signal)),
                })
            }
        }
        impl Answer for v1::$response {
            fn stdout(bytes: Bytes) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::Stdout(bytes)) }
            }
            fn stderr(bytes: Bytes) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::Stderr(bytes)) }
            }
            fn exit(exit: v1::ExitStatus) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::Exit(exit)) }
            }
        }
    };
}

session_messages!(RunRequest, v1::run_request::Kind, v1::RunStart, RunResponse, v1::run_response::Kind);
session_messages!(ExecRequest, v1::exec_request::Kind, v1::ExecStart, ExecResponse, v1::exec_response::Kind);
session_messages!(AttachRequest, v1::attach_request::Kind, v1::AttachStart, AttachResponse, v1::attach_response::Kind);

type Sender<M> = mpsc::Sender<Result<M, Status>>;

/// The first frame, which says what the stream is for.
async fn first<R: Asks>(requests: &mut Streaming<R>) -> Result<R::Start, Status> {
    let message = tokio::time::timeout(FIRST_FRAME, requests.message()).await;
    let message = message.map_err(|_| status::bad_stream("the first frame did not come within 30 seconds"))??;
    match message.and_then(Asks::split) {
        Some(Err(start)) => Ok(start),
        _ => Err(status::bad_stream("the first frame must be start")),
    }
}

/// `Containers.Run`
pub async fn run(
    node: Node,
    call: Arc<Call>,
    mut requests: Streaming<v1::RunRequest>,
    log: &LogConfig,
) -> Result<Response<Answers<v1::RunResponse>>, Status> {
    use v1::run_response::Kind;
    let start = first(&mut requests).await?;
    let mut f = Fields::under("start.");
    let size = f.size("size", start.size);
    f.check(start.create.is_some(), "create", "must be there");
    let wants_stdin = start.attach_stdin;
    let open_stdin = start.create.as_ref().and_then(|c| c.config.as_ref()).is_some_and(|c| c.open_stdin);
    f.check(!wants_stdin || open_stdin, "attach_stdin", "needs create.config.open_stdin");
    f.done()?;
    let creation = Creation::decode(&call, start.create.unwrap_or_default(), log, "start.create.")?;
    let auto_remove = creation.spec.auto_remove;
    let who = creation.who.clone();
    let attached = wants_stdin || start.attach_stdout || start.attach_stderr;
    let shown = Shown { stdout: start.attach_stdout, stderr: start.attach_stderr };
    let (answers, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let wrap = |p| Ok(v1::RunResponse { kind: Some(Kind::Progress(p)) });
        let container = match creation.run(&node, &answers, wrap).await {
            Some(Ok(container)) => container,
            Some(Err(status)) => return drop(answers.send(Err(status)).await),
            None => return,
        };
        let id = container.id.to_string();
        let _ = answers.send(Ok(v1::RunResponse { kind: Some(Kind::Created(created(&container))) })).await;
        // Before the start: a container that removes itself may be gone before a later question is asked.
        let ended = attached.then(|| Ended::of(&node, &container.id));
        // A task of its own: a start that has begun goes on to its end, whoever hangs up.
        // The request_id belongs to the creation; the start is idempotent without one.
        let asker = Requester { caller: who.caller.clone(), request_id: String::new() };
        let (starter, name) = (node.clone(), id.clone());
        let started = tokio::spawn(async move {
            let started = if attached {
                starter.start_attached(&asker, &name, wants_stdin, size).await.map(Some)
            } else {
                starter.start(&asker, &name).await.map(|_| None)
            };
            if started.is_err() && auto_remove {
                let done = starter.remove(&asker, &name, true).await;
                if let Err(e) = done {
                    tracing::warn!(container = name, "removing a container that did not start: {e}");
                }
            }
            started
        })
        .await;
        let streams = match started {
            Ok(Ok(streams)) => streams,
            Ok(Err(e)) => return drop(answers.send(Err(status::from_node(e))).await),
            Err(e) => return drop(answers.send(Err(status::internal(format!("starting: {e}")))).await),
        };
        let begun = v1::ContainerStarted { warnings: start_warnings(&node, &id, &container.warnings) };
        let _ = answers.send(Ok(v1::RunResponse { kind: Some(Kind::Started(begun)) })).await;
        if let (Some(streams), Some(ended)) = (streams, ended) {
            let target = Target::Container { node, who, id };
            session(requests, streams, target, ended, shown, wants_stdin, answers).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

/// `Containers.Attach`
pub async fn attach(
    node: Node,
    call: Arc<Call>,
    mut requests: Streaming<v1::AttachRequest>,
) -> Result<Response<Answers<v1::AttachResponse>>, Status> {
    let start = first(&mut requests).await?;
    let mut f = Fields::under("start.");
    f.name("container", &start.container);
    let size = f.size("size", start.size);
    f.done()?;
    let detail = node.container(&start.container).map_err(status::from_node)?;
    if start.stdin {
        call.admin_only_about(&reach(&detail.view.record.spec), &start.container, "")?;
    }
    let who = call.about(&start.container, "");
    let id = detail.view.record.id.clone();
    let ended = Ended::of(&node, &id);
    let streams = node.attach(&who, id.as_str(), start.stdin, size).await.map_err(status::from_node)?;
    let (answers, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let begun = v1::attach_response::Kind::Started(v1::AttachStarted { tty: streams.tty });
        let _ = answers.send(Ok(v1::AttachResponse { kind: Some(begun) })).await;
        let target = Target::Container { node, who, id: id.to_string() };
        session(requests, streams, target, ended, Shown::BOTH, start.stdin, answers).await;
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

/// `Containers.Exec`
pub async fn exec(
    node: Node,
    call: Arc<Call>,
    mut requests: Streaming<v1::ExecRequest>,
) -> Result<Response<Answers<v1::ExecResponse>>, Status> {
    use v1::exec_response::Kind;
    let start = first(&mut requests).await?;
    let mut f = Fields::under("start.");
    f.request_id(&start.request_id);
    f.name("container", &start.container);
    f.check(start.command.first().is_some_and(|c| !c.is_empty()), "command", "must not be empty");
    f.arguments("command", &start.command);
    f.env("env", &start.env);
    if !start.workdir.is_empty() {
        f.path("workdir", &start.workdir);
    }
    f.line("user", &start.user, 256);
    f.check(!(start.detach && start.attach_stdin), "detach", "does not go with attach_stdin");
    let size = f.size("size", start.size);
    f.done()?;
    let detail = node.container(&start.container).map_err(status::from_node)?;
    let mut needs = reach(&detail.view.record.spec);
    if start.privileged {
        needs.push("privileged".into());
    }
    call.admin_only_about(&needs, &start.container, &start.request_id)?;
    let who = call.about(&start.container, &start.request_id);
    let (tty, stdin) = (start.tty, start.attach_stdin);
    let spec = ExecSpec {
        command: start.command,
        env: start.env,
        workdir: some(start.workdir),
        user: some(start.user),
        tty,
        stdin,
        detach: start.detach,
        privileged: start.privileged,
        size,
    };
    let id = detail.view.record.id.clone();
    let mut exec = {
        let (node, id) = (node.clone(), id.clone());
        super::finish(async move { node.exec(&who, id.as_str(), spec).await }).await?
    };
    let (answers, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let begun = v1::ExecStarted { exec_id: exec.exec_id.clone(), pid: exec.pid };
        let _ = answers.send(Ok(v1::ExecResponse { kind: Some(Kind::Started(begun)) })).await;
        let Some(streams) = exec.streams.take() else { return };
        let exec = Arc::new(exec);
        let target = Target::Exec { exec: exec.clone(), tty };
        session(requests, streams, target, Ended::exec(exec), Shown::BOTH, stdin, answers).await;
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

/// What makes a process inside this container as good as root on the host: an operator may not go there.
pub fn reach(spec: &berth_model::ContainerSpec) -> Vec<String> {
    let needs = auth::beyond_operator(spec);
    if needs.is_empty() { needs } else { vec![format!("going into a container with {}", needs.join(", "))] }
}

/// Which outputs the caller wants to see.
#[derive(Clone, Copy)]
struct Shown {
    stdout: bool,
    stderr: bool,
}

impl Shown {
    const BOTH: Shown = Shown { stdout: true, stderr: true };
}

/// Whom signals go to.
enum Target {
    Container { node: Node, who: Requester, id: String },
    Exec { exec: Arc<NodeExec>, tty: bool },
}

impl Target {
    async fn signal(&self, signal: &str) -> Result<(), NodeError> {
        match self {
            Target::Container { node, who, id } => {
                // The stream's own request_id belongs to what it started.
                let who = Requester { caller: who.caller.clone(), request_id: String::new() };
                node.kill(&who, id, Some(signal)).await.map(drop)
            }
            Target::Exec { exec, .. } => exec.signal(signal),
        }
    }
}

/// The end of a process, asked for from the beginning.
struct Ended(tokio::task::JoinHandle<Result<ExitStatus, NodeError>>);

impl Ended {
    fn of(node: &Node, id: &ContainerId) -> Ended {
        let (node, id) = (node.clone(), id.clone());
        Ended(tokio::spawn(async move { node.wait(id.as_str()).await.map(|(_, exit)| exit) }))
    }

    fn exec(exec: Arc<NodeExec>) -> Ended {
        Ended(tokio::spawn(async move { exec.wait().await }))
    }

    async fn get(&mut self) -> Result<ExitStatus, Status> {
        match (&mut self.0).await {
            Ok(exit) => exit.map_err(status::from_node),
            Err(e) => Err(status::internal(format!("waiting for the end: {e}"))),
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Carries frames both ways until the process has ended, or the caller has gone.
async fn session<R: Asks, M: Answer>(
    requests: Streaming<R>,
    streams: Streams,
    target: Target,
    mut ended: Ended,
    shown: Shown,
    stdin: bool,
    answers: Sender<M>,
) {
    let Streams { tty, output, input } = streams;
    let target = Arc::new(target);
    let reader = tokio::spawn(take_input(requests, input, target.clone(), stdin, tty, answers.clone()));
    let there = send_output(output, &mut ended, shown, &answers).await;
    reader.abort();
    if !there && let Target::Exec { exec, tty: true } = &*target {
        // As a terminal that hangs up; without one, the process is left alone.
        if let Err(e) = exec.signal("SIGHUP") {
            tracing::debug!("SIGHUP to a process whose terminal is gone: {e}");
        }
    }
}

/// false: the caller has gone before the end.
async fn send_output<M: Answer>(
    mut output: mpsc::Receiver<Result<Output, NodeError>>,
    ended: &mut Ended,
    shown: Shown,
    answers: &Sender<M>,
) -> bool {
    let mut exit = None;
    loop {
        let item = if exit.is_some() {
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
) {
    let mut open = stdin;
    let refuse = |message: &'static str| {
        let answers = answers.clone();
        async move { drop(answers.send(Err(status::bad_stream(message))).await) }
    };
    loop {
        let frame = match requests.message().await {
            // The caller has gone: what it did not end stays open, for those who attach later.
            Err(_) => return,
            // On a terminal an end must be asked for, by a frame: callers also leave by their detach keys.
            Ok(None) => {
                if open && !tty {
                    let _ = input.close().await;
                }
                return;
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
                    return drop(answers.send(Err(status)).await);
                }
                match target.signal(&signal).await {
                    // It ended while the signal was under way.
                    Ok(()) | Err(NodeError::NotRunning(_) | NodeError::ContainerNotFound(_)) => {}
                    Err(e) => return drop(answers.send(Err(status::from_node(e))).await),
                }
            }
        }
    }
}
