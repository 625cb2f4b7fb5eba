//! Streams into processes: `Run`, `Exec` and `Attach`.
//!
//! Two tasks to a session. One takes the caller's frames and writes them to the process: while the process does not
//! read, no frame is taken, and HTTP/2 holds the caller back. The other sends what the process writes: while the
//! caller does not read, nothing is taken from the process. When the caller goes away, the stream ends and the
//! container goes on.
//!
//! A stream with a session id outlives its connection and this agent: the shim keeps what the caller has not confirmed, and the caller
//! sends its request again, with how much it has. It leaves with a word of its own.

use super::containers::{Creation, created, start_warnings};
use super::decode::{Fields, some};
use super::{Answers, QUEUE, encode};
use crate::gate::Call;
use crate::permission::{self, Need};
use crate::status;
use berth::v1;
use berth_model::spec::{ExecSpec, LogConfig};
use berth_model::wire::INPUT_WINDOW;
use berth_model::{ContainerId, ExitStatus};
use berth_node::{Node, NodeError, NodeExec, Requester, ResumedSession, SessionRequest, Streams};
use berth_runtime::{AttachInput, Output};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// A caller that opens a stream says at once what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// A process that left its output open to children: they are not waited for when they are silent this long.
const QUIET_AFTER_EXIT: Duration = Duration::from_secs(1);
/// Bytes of one frame: as much as a pipe holds.
const FRAME: usize = 64 << 10;
/// A caller of a session that has its end says so within this.
const FAREWELL: Duration = Duration::from_secs(30);
/// When one half of a stream has ended with its connection, the other half does within this.
const BOTH_HALVES: Duration = Duration::from_secs(1);
/// The end that a shim tells is known to the node within this, where the node still knows of the container.
const KNOWN: Duration = Duration::from_secs(2);

/// What callers send once a session runs.
enum Frame {
    Stdin(Bytes),
    Eof,
    Resize(v1::TerminalSize),
    Signal(String),
    Taken([u64; 2]),
    Leave(bool),
}

/// What sessions send, in the words of their own message types.
trait Answer: Sized + Send + 'static {
    fn stdout(bytes: Bytes) -> Self;
    fn stderr(bytes: Bytes) -> Self;
    fn exit(exit: v1::ExitStatus) -> Self;
    fn begun(begun: v1::SessionBegun) -> Self;
    fn fed(position: u64) -> Self;
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
                    Kind::Taken(taken) => Ok(Frame::Taken([taken.stdout, taken.stderr])),
                    Kind::Leave(leave) => Ok(Frame::Leave(leave.hang_up)),
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
            fn begun(begun: v1::SessionBegun) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::Session(begun)) }
            }
            fn fed(position: u64) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::StdinTaken(position)) }
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

/// What a stream's start says about its session.
struct Asked {
    /// Name of the session on this node; None: the stream ends with its connection.
    name: Option<String>,
    resume: Option<v1::Resume>,
}

impl Asked {
    fn decode(call: &Call, f: &mut Fields, id: &str, resume: Option<v1::Resume>) -> Asked {
        f.check(id.len() <= 64, "session_id", "must be at most 64 characters");
        Asked { name: (!id.is_empty()).then(|| session_name(&call.caller(), id)), resume }
    }

    fn again(&self) -> bool {
        self.resume.is_some()
    }

    /// The session, when the caller was here before and it is there.
    async fn find(&self, node: &Node) -> Result<Option<ResumedSession>, Status> {
        let (Some(name), Some(resume)) = (&self.name, &self.resume) else { return Ok(None) };
        let found = node.resume(name, [resume.stdout, resume.stderr]).await.map_err(status::from_node)?;
        if found.is_none() && resume.started {
            return Err(status::from_node(NodeError::SessionLost));
        }
        Ok(found)
    }

    fn request(&self, needs: &[Need]) -> Option<SessionRequest> {
        Some(SessionRequest { name: self.name.clone()?, needs: needs.iter().map(Need::token).collect() })
    }
}

/// Nobody else comes to the same name, and nobody learns from it who may come back.
fn session_name(caller: &str, id: &str) -> String {
    use std::fmt::Write;
    let mut text = (caller.len() as u64).to_le_bytes().to_vec();
    text.extend_from_slice(caller.as_bytes());
    text.extend_from_slice(id.as_bytes());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// `Containers.Run`
pub async fn run(
    node: Node,
    call: Arc<Call>,
    mut requests: Streaming<v1::RunRequest>,
    log: &LogConfig,
) -> Result<Response<Answers<v1::RunResponse>>, Status> {
    let start = first(&mut requests).await?;
    let mut f = Fields::under("start.");
    let size = f.size("size", start.size);
    f.check(start.create.is_some(), "create", "must be there");
    let wants_stdin = start.attach_stdin;
    let open_stdin = start.create.as_ref().and_then(|c| c.config.as_ref()).is_some_and(|c| c.open_stdin);
    f.check(!wants_stdin || open_stdin, "attach_stdin", "needs create.config.open_stdin");
    let whole = start.session_id.is_empty() || (start.attach_stdout && start.attach_stderr);
    f.check(whole, "session_id", "needs attach_stdout and attach_stderr");
    let asked = Asked::decode(&call, &mut f, &start.session_id, start.resume);
    f.done()?;
    let mut creation =
        Creation::decode(&node, &call, start.create.unwrap_or_default(), log, node.publish_policy(), "start.create.")?;
    creation.again = asked.again();
    let attached = wants_stdin || start.attach_stdout || start.attach_stderr;
    let shown = Shown { stdout: start.attach_stdout, stderr: start.attach_stderr };
    let (answers, stream) = mpsc::channel(QUEUE);
    let running = Running { node, asked, who: creation.who.clone(), attached, shown, stdin: wants_stdin, size };
    super::spawn(async move {
        let caller_left = running.run(creation, requests, &answers).await;
        if let Err(status) = caller_left {
            let _ = answers.send(Err(status)).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

/// One `Containers.Run`.
struct Running {
    node: Node,
    asked: Asked,
    who: Requester,
    attached: bool,
    shown: Shown,
    stdin: bool,
    size: Option<(u16, u16)>,
}

impl Running {
    async fn run(
        self,
        creation: Creation,
        requests: Streaming<v1::RunRequest>,
        answers: &Sender<v1::RunResponse>,
    ) -> Result<(), Status> {
        use v1::run_response::Kind;
        let say = |kind| async { drop(answers.send(Ok(v1::RunResponse { kind: Some(kind) })).await) };
        if let Some(found) = self.asked.find(&self.node).await? {
            return self.go_on(found, requests, answers).await;
        }
        let wrap = |p| Ok(v1::RunResponse { kind: Some(Kind::Progress(p)) });
        let auto_remove = creation.spec.auto_remove;
        let needs = permission::of_new(&self.node, &creation.spec);
        let Some(container) = creation.run(&self.node, answers, wrap).await else { return Ok(()) };
        let container = container?;
        let id = container.id.to_string();
        if container.gone && self.attached {
            return Err(status::from_node(NodeError::SessionLost));
        }
        say(Kind::Created(created(&container))).await;
        if container.gone {
            say(Kind::Started(v1::ContainerStarted::default())).await;
            return Ok(());
        }
        // Before the start: a container that removes itself may be gone before a later question is asked.
        let ended = self.attached.then(|| Ended::of(&self.node, &container.id));
        let session = self.asked.request(&needs);
        let streams = match self.start(&id, auto_remove, session).await {
            // Its start was under way when it was asked for again.
            Err(NodeError::SessionLost) => match self.asked.find(&self.node).await? {
                Some(found) => return self.go_on(found, requests, answers).await,
                None => return Err(status::from_node(NodeError::SessionLost)),
            },
            started => started.map_err(status::from_node)?,
        };
        let begun = v1::ContainerStarted { warnings: start_warnings(&self.node, &id, &container.warnings) };
        say(Kind::Started(begun)).await;
        if let (Some(streams), Some(ended)) = (streams, ended) {
            let target = Target::Container { node: self.node.clone(), who: self.who.clone(), id };
            let about = About { node: self.node, target, shown: self.shown, stdin: self.stdin, name: self.asked.name };
            session_of(requests, streams, about, ended, answers.clone()).await;
        }
        Ok(())
    }

    /// A task of its own: a start that has begun goes on to its end, whoever hangs up.
    /// The request_id belongs to the creation; the start is idempotent without one.
    async fn start(
        &self,
        id: &str,
        auto_remove: bool,
        session: Option<SessionRequest>,
    ) -> Result<Option<Streams>, NodeError> {
        let asker = Requester { caller: self.who.caller.clone(), request_id: String::new() };
        let (starter, name, again) = (self.node.clone(), id.to_owned(), self.asked.again());
        let (attached, stdin, size) = (self.attached, self.stdin, self.size);
        let started = super::spawn(async move {
            let started = if attached {
                starter.start_attached(&asker, &name, stdin, size, session, again).await.map(Some)
            } else if again {
                starter.start_again(&asker, &name).await.map(|()| None)
            } else {
                starter.start(&asker, &name).await.map(|_| None)
            };
            if started.as_ref().is_err_and(|e| !matches!(e, NodeError::SessionLost)) && auto_remove {
                let done = starter.remove(&asker, &name, true, true).await;
                if let Err(e) = done {
                    tracing::warn!(container = name, "removing a container that did not start: {e}");
                }
            }
            started
        });
        match started.await {
            Ok(started) => started,
            Err(e) => {
                tracing::error!("starting: {e}");
                Err(NodeError::Stopping)
            }
        }
    }

    /// The session of an earlier try.
    async fn go_on(
        self,
        found: ResumedSession,
        requests: Streaming<v1::RunRequest>,
        answers: &Sender<v1::RunResponse>,
    ) -> Result<(), Status> {
        use v1::run_response::Kind;
        let made =
            v1::ContainerCreated { id: found.container.to_string(), name: found.name.clone(), ..Default::default() };
        for kind in [Kind::Created(made), Kind::Started(v1::ContainerStarted::default())] {
            let _ = answers.send(Ok(v1::RunResponse { kind: Some(kind) })).await;
        }
        let ended = Ended::of(&self.node, &found.container);
        let target =
            Target::Container { node: self.node.clone(), who: self.who.clone(), id: found.container.to_string() };
        let about = About { node: self.node, target, shown: self.shown, stdin: self.stdin, name: self.asked.name };
        session_of(requests, found.streams, about, ended, answers.clone()).await;
        Ok(())
    }
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
    let asked = Asked::decode(&call, &mut f, &start.session_id, start.resume);
    f.done()?;
    let found = asked.find(&node).await?;
    let (streams, id, who, tty) = match found {
        Some(found) => {
            call.permit_inside(&again(&found), &start.container, "")?;
            let who = call.about(&start.container, "");
            let tty = found.streams.tty;
            (found.streams, found.container, who, tty)
        }
        None => {
            let detail = node.container(&start.container).map_err(status::from_node)?;
            let needs = permission::of_container(&node, &detail.view.record.spec);
            if start.stdin {
                call.permit_inside(&needs, &start.container, "")?;
            }
            let who = call.about(&start.container, "");
            let id = detail.view.record.id.clone();
            let session = asked.request(if start.stdin { &needs } else { &[] });
            let streams =
                node.attach(&who, id.as_str(), start.stdin, size, session).await.map_err(status::from_node)?;
            let tty = streams.tty;
            (streams, id, who, tty)
        }
    };
    let ended = Ended::of(&node, &id);
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(async move {
        let begun = v1::attach_response::Kind::Started(v1::AttachStarted { tty });
        let _ = answers.send(Ok(v1::AttachResponse { kind: Some(begun) })).await;
        let target = Target::Container { node: node.clone(), who, id: id.to_string() };
        let about = About { node, target, shown: Shown::BOTH, stdin: start.stdin, name: asked.name };
        session_of(requests, streams, about, ended, answers).await;
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
    let asked = Asked::decode(&call, &mut f, &start.session_id, start.resume);
    f.done()?;
    let (tty, stdin, detach) = (start.tty, start.attach_stdin, start.detach);
    if let Some(found) = asked.find(&node).await? {
        call.permit_inside(&again(&found), &start.container, &start.request_id)?;
        call.about(&start.container, &start.request_id);
        return Ok(exec_goes_on(node, found, asked, requests, detach));
    }
    let detail = node.container(&start.container).map_err(status::from_node)?;
    let mut needs = permission::of_container(&node, &detail.view.record.spec);
    call.permit_inside(&needs, &start.container, &start.request_id)?;
    if start.privileged {
        needs.push(Need::Privileged);
        call.permit(&needs, &start.container, &start.request_id)?;
    }
    let who = call.about(&start.container, &start.request_id);
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
    let session = asked.request(&needs);
    let made = {
        let (node, id) = (node.clone(), id.clone());
        super::finish_node(async move { node.exec(&who, id.as_str(), spec, session).await }).await?
    };
    let mut exec = match made {
        // It was under way when it was asked for again.
        Err(NodeError::RequestIdReused) if asked.again() => match asked.find(&node).await? {
            Some(found) => return Ok(exec_goes_on(node, found, asked, requests, detach)),
            None => return Err(status::from_node(NodeError::SessionLost)),
        },
        made => made.map_err(status::from_node)?,
    };
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(async move {
        let begun = v1::ExecStarted { exec_id: exec.exec_id.clone(), pid: exec.pid };
        let _ = answers.send(Ok(v1::ExecResponse { kind: Some(Kind::Started(begun)) })).await;
        let Some(streams) = exec.streams.take() else { return };
        if detach {
            return let_go(node, streams, asked, requests).await;
        }
        let exec = Arc::new(exec);
        let target = Target::Exec { exec: exec.clone(), tty };
        let about = About { node, target, shown: Shown::BOTH, stdin, name: asked.name };
        session_of(requests, streams, about, Ended::exec(exec), answers).await;
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

/// The exec of an earlier try.
fn exec_goes_on(
    node: Node,
    found: ResumedSession,
    asked: Asked,
    requests: Streaming<v1::ExecRequest>,
    detach: bool,
) -> Response<Answers<v1::ExecResponse>> {
    use v1::exec_response::Kind;
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(async move {
        let exec_id = found.exec_id.unwrap_or_default();
        let begun = v1::ExecStarted { exec_id, pid: found.process.0 };
        let _ = answers.send(Ok(v1::ExecResponse { kind: Some(Kind::Started(begun)) })).await;
        if detach {
            return let_go(node, found.streams, asked, requests).await;
        }
        let target = Target::Process { process: found.process, tty: found.streams.tty };
        let about = About { node, target, shown: Shown::BOTH, stdin: found.stdin, name: asked.name };
        session_of(requests, found.streams, about, Ended::unknown(), answers).await;
    });
    Response::new(Box::pin(ReceiverStream::new(stream)))
}

/// A process without streams was only there to be found again, until its caller knows of it.
async fn let_go(node: Node, streams: Streams, asked: Asked, mut requests: Streaming<v1::ExecRequest>) {
    let knows = tokio::time::timeout(FAREWELL, requests.message()).await;
    let left = match knows {
        Ok(Ok(_)) => true,
        Ok(Err(e)) => cancelled(&e),
        Err(_) => false,
    };
    if left {
        let _ = streams.input.leave(false).await;
    }
    if let Some(name) = asked.name {
        node.session_ended(name, left);
    }
}

/// What an earlier try needed, to be asked again.
fn again(found: &ResumedSession) -> Vec<Need> {
    found.needs.iter().map(|token| Need::from_token(token)).collect()
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
                let who = Requester { caller: who.caller.clone(), request_id: String::new() };
                node.kill(&who, id, Some(signal)).await.map(drop)
            }
            Target::Exec { exec, .. } => exec.signal(signal),
            Target::Process { process, .. } => ResumedSession::signal(*process, signal),
        }
    }
}

/// The end of a process, asked for from the beginning.
struct Ended(Option<tokio::task::JoinHandle<Result<ExitStatus, NodeError>>>);

impl Ended {
    fn of(node: &Node, id: &ContainerId) -> Ended {
        let (node, id) = (node.clone(), id.clone());
        Ended(Some(super::spawn(async move { node.wait(id.as_str()).await.map(|(_, exit)| exit) })))
    }

    fn exec(exec: Arc<NodeExec>) -> Ended {
        Ended(Some(super::spawn(async move { exec.wait().await })))
    }

    /// Nobody here knows but its shim.
    fn unknown() -> Ended {
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
struct About {
    node: Node,
    target: Target,
    shown: Shown,
    stdin: bool,
    /// The session's.
    name: Option<String>,
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
async fn session_of<R: Asks, M: Answer>(
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
        super::spawn(async move {
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
fn cancelled(status: &Status) -> bool {
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
