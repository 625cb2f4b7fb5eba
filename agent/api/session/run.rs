//! `Containers.Run`: a creation, a start, and a session of what came of them.

use super::carry::{About, Ended, Shown, Target, session_of};
use super::frames::Sender;
use super::{Asked, again, first};
use crate::api::containers::{Creation, created, start_warnings};
use crate::api::decode::Fields;
use crate::api::{Answers, QUEUE};
use crate::gate::Call;
use crate::permission;
use crate::status;
use berth::v1;
use berth_model::spec::LogConfig;
use berth_node::{Node, NodeError, Requester, ResumedSession, SessionRequest, Streams};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

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
    let running = Running {
        node,
        asked,
        call: call.clone(),
        who: creation.who.clone(),
        attached,
        shown,
        stdin: wants_stdin,
        size,
    };
    crate::api::spawn(async move {
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
    call: Arc<Call>,
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
        let asker = Requester { request_id: String::new(), ..self.who.clone() };
        let (starter, name, again) = (self.node.clone(), id.to_owned(), self.asked.again());
        let (attached, stdin, size) = (self.attached, self.stdin, self.size);
        let started = crate::api::spawn(async move {
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
        let container = found.container.to_string();
        self.call.permit_inside(&again(&found), &container, &self.who.request_id)?;
        let made =
            v1::ContainerCreated { id: found.container.to_string(), name: found.name.clone(), ..Default::default() };
        for kind in [Kind::Created(made), Kind::Started(v1::ContainerStarted::default())] {
            let _ = answers.send(Ok(v1::RunResponse { kind: Some(kind) })).await;
        }
        let ended = Ended::of(&self.node, &found.container);
        let target = Target::Container { node: self.node.clone(), who: self.who.clone(), id: container };
        let about = About { node: self.node, target, shown: self.shown, stdin: found.stdin, name: self.asked.name };
        session_of(requests, found.streams, about, ended, answers.clone()).await;
        Ok(())
    }
}
