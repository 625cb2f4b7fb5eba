//! Streams into processes: `Run`, `Exec` and `Attach`.
//!
//! Two tasks to a session. One takes the caller's frames and writes them to the process: while the process does not
//! read, no frame is taken, and HTTP/2 holds the caller back. The other sends what the process writes: while the
//! caller does not read, nothing is taken from the process. When the caller goes away, the stream ends and the
//! container goes on.
//!
//! A stream with a session id outlives its connection and this agent: the shim keeps what the caller has not confirmed, and the caller
//! sends its request again, with how much it has. It leaves with a word of its own.

mod carry;
mod frames;
mod run;

pub use run::run;

use super::containers::start_warnings;
use super::decode::{Fields, some};
use super::{Answers, QUEUE};
use crate::gate::Call;
use crate::permission::{self, Need};
use crate::status;
use berth::v1;
use berth_model::ContainerId;
use berth_model::spec::ExecSpec;
use berth_node::{Node, NodeError, Requester, ResumedSession, SessionRequest, Streams};
use carry::{About, Ended, Shown, Target, cancelled, session_of};
use frames::Asks;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// A caller that opens a stream says at once what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// A caller of a session that has its end says so within this.
const FAREWELL: Duration = Duration::from_secs(30);

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
    let mut text = (caller.len() as u64).to_le_bytes().to_vec();
    text.extend_from_slice(caller.as_bytes());
    text.extend_from_slice(id.as_bytes());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    berth::hex::encode(digest.as_ref())
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
    f.request_id(&start.request_id);
    f.check(start.start || start.request_id.is_empty(), "request_id", "goes with start only");
    let size = f.size("size", start.size);
    let asked = Asked::decode(&call, &mut f, &start.session_id, start.resume);
    f.done()?;
    let Joined { streams, id, who, stdin } = match asked.find(&node).await? {
        Some(found) => {
            call.permit_inside(&again(&found), &start.container, &start.request_id)?;
            Joined::again(found, call.about(&start.container, &start.request_id))
        }
        None => join(&node, &call, &start, size, &asked).await?,
    };
    let warnings = if start.start { start_warnings(&node, id.as_str(), &[]) } else { Vec::new() };
    let ended = Ended::of(&node, &id);
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(async move {
        let begun = v1::attach_response::Kind::Started(v1::AttachStarted { tty: streams.tty, warnings });
        let _ = answers.send(Ok(v1::AttachResponse { kind: Some(begun) })).await;
        let target = Target::Container { node: node.clone(), who, id: id.to_string() };
        let about = About { node, target, shown: Shown::BOTH, stdin, name: asked.name };
        session_of(requests, streams, about, ended, answers).await;
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

/// The streams of a container, and who has them.
struct Joined {
    streams: Streams,
    id: ContainerId,
    who: Requester,
    /// Its caller may write.
    stdin: bool,
}

impl Joined {
    /// Those of an earlier try, which goes on as what it was permitted to be.
    fn again(found: ResumedSession, who: Requester) -> Joined {
        Joined { streams: found.streams, id: found.container, who, stdin: found.stdin }
    }
}

/// Joins a container that runs, or starts it with its caller attached.
async fn join(
    node: &Node,
    call: &Call,
    start: &v1::AttachStart,
    size: Option<(u16, u16)>,
    asked: &Asked,
) -> Result<Joined, Status> {
    let detail = node.container(&start.container).map_err(status::from_node)?;
    let needs = permission::of_container(node, &detail.view.record.spec);
    if start.stdin {
        call.permit_inside(&needs, &start.container, &start.request_id)?;
    }
    let who = call.about(&start.container, &start.request_id);
    let id = detail.view.record.id.clone();
    let session = asked.request(if start.stdin { &needs } else { &[] });
    let (stdin, again) = (start.stdin, asked.again());
    let joined = if start.start {
        let (node, who, id) = (node.clone(), who.clone(), id.clone());
        super::finish_node(async move { node.start_attached(&who, id.as_str(), stdin, size, session, again).await })
            .await?
    } else {
        node.attach(&who, id.as_str(), stdin, size, session).await
    };
    match joined {
        // Its start was under way when it was asked for again.
        Err(NodeError::SessionLost) if again => match asked.find(node).await? {
            Some(found) => {
                call.permit_inside(&self::again(&found), &start.container, &start.request_id)?;
                Ok(Joined::again(found, who))
            }
            None => Err(status::from_node(NodeError::SessionLost)),
        },
        joined => Ok(Joined { streams: joined.map_err(status::from_node)?, id, who, stdin }),
    }
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

/// A door for the fuzz targets: frames of a session, in each of its three kinds of stream.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    use prost::Message;
    fn frame<M: Message + Default + Asks>(bytes: &[u8]) {
        let Some(Ok(frame)) = M::decode(bytes).ok().and_then(Asks::split) else { return };
        match frame {
            frames::Frame::Stdin(data) => assert!(data.len() <= bytes.len()),
            frames::Frame::Signal(name) => {
                let mut f = Fields::default();
                f.signal("signal", &name);
                let known = name.is_empty() || berth_runtime::signal::parse(&name).is_some();
                assert!(f.done().is_err() || known, "{name:?} is taken, and is no signal");
            }
            frames::Frame::Resize(size) => {
                let mut f = Fields::default();
                let fits = f.size("resize", Some(size)).is_some();
                assert_eq!(fits, f.done().is_ok());
            }
            _ => {}
        }
    }
    frame::<v1::RunRequest>(bytes);
    frame::<v1::ExecRequest>(bytes);
    frame::<v1::AttachRequest>(bytes);
}
