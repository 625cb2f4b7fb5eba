//! One more process in a running container.

use crate::container::Container;
use crate::node::Inner;
use crate::requests::{Begin, fingerprint};
use crate::session::{self, Note};
use crate::start::USERS_MAX;
use crate::store::{Durability, Write};
use crate::view::{Requester, SessionRequest, Streams};
use crate::{NodeError, stop, streams};
use berth_model::ExitStatus;
use berth_model::spec::ExecSpec;
use berth_runtime::{Exec, ExecRequest};
use std::sync::Arc;
use tokio::sync::watch;

/// A process that was added to a container. Dropping it leaves the process alone.
pub struct NodeExec {
    pub exec_id: String,
    /// In the host's pid namespace.
    pub pid: u32,
    /// None: detached.
    pub streams: Option<Streams>,
    exec: Arc<Exec>,
    /// Why nothing is known is a sentence, as the error itself cannot be had twice.
    exit: watch::Receiver<Option<Result<ExitStatus, String>>>,
}

impl NodeExec {
    /// Waits for its end; many may wait.
    ///
    /// # Errors
    /// `NotRunning`: the shim went, and nobody knows how the process ended.
    pub async fn wait(&self) -> Result<ExitStatus, NodeError> {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.map_err(|_| NodeError::Stopping)?.clone();
        match ended {
            Some(Ok(status)) => Ok(status),
            Some(Err(why)) => Err(NodeError::NotRunning(format!("of exec {}: {why}", self.exec_id))),
            None => Err(NodeError::Stopping),
        }
    }

    /// Sends a signal by name or number.
    pub fn signal(&self, signal: &str) -> Result<(), NodeError> {
        match stop::parse_signal(Some(signal))? {
            Some(number) => Ok(self.exec.signal(number)?),
            None => Ok(()),
        }
    }
}

pub(crate) async fn exec(
    inner: &Arc<Inner>,
    who: &Requester,
    container: &Arc<Container>,
    spec: ExecSpec,
    session: Option<SessionRequest>,
) -> Result<NodeExec, NodeError> {
    if spec.command.is_empty() {
        let message = "must not be empty".to_owned();
        return Err(NodeError::Invalid(vec![("command".to_owned(), message)]));
    }
    let content = fingerprint(&(container.id.as_str(), &spec));
    let ticket = match inner.requests.begin(who, "Exec", content).await? {
        Begin::New(ticket) => ticket,
        // Its streams were another call's: running it again would be worse than saying so.
        Begin::Answered(_) => return Err(NodeError::RequestIdReused),
    };
    let shim = container.running_shim()?;
    if container.record().paused {
        return Err(NodeError::Paused(container.record().name.clone()));
    }
    let exec_id = crate::create::new_id()?.to_string();
    let (inner_, container_) = (inner.clone(), container.clone());
    let id = exec_id.clone();
    let new = match &session {
        None => None,
        Some(request) => {
            let note = Note {
                container: container.id.clone(),
                name: container.record().name.clone(),
                tty: spec.tty,
                stdin: spec.stdin,
                exec_id: Some(id.clone()),
                needs: request.needs.clone(),
            };
            Some(session::new(inner, request, &note, !spec.detach)?)
        }
    };
    inner
        .to_its_end(async move {
            let record = container_.record();
            let command = spec.command.join(" ");
            let tell = |action: &str, more: &[(&str, String)]| {
                let mut all = vec![("exec_id", id.clone()), ("command", command.clone())];
                all.extend_from_slice(more);
                inner_.events.add_container(&record, action, &all)
            };
            let (tty, inner__, container__, record_) = (spec.tty, inner_.clone(), container_.clone(), record.clone());
            let process = shim.pid();
            let name = new.as_ref().map(|n| n.name.clone());
            let made = inner_
                .blocking(move || {
                    let (passwd, group) = users(process)?;
                    let exec = inner__.runtime.exec(ExecRequest {
                        id: &container__.id,
                        process,
                        container: &record_.spec,
                        image: &container__.image.config,
                        spec: &spec,
                        probe: false,
                        passwd: passwd.as_deref(),
                        group: group.as_deref(),
                        session: new,
                        run_dir: &inner__.paths(&container__.id).run,
                        ids: record_.userns.range,
                        labels: inner__.runtime.labels(&record_.selinux),
                    })?;
                    Ok(exec)
                })
                .await;
            if let (Err(_), Some(name)) = (&made, name) {
                session::forget(&inner_, name, true);
            }
            let mut exec = made?;
            let streams = exec.attachment.take().map(|a| streams::pump(a, tty));
            let exec = Arc::new(exec);
            let mut writes: Vec<Write> = vec![tell("exec_create", &[]), tell("exec_start", &[])];
            writes.extend(ticket.done(&id));
            let _ = inner_.store.submit(writes, Durability::Quick).await?;
            let (ended, exit) = watch::channel(None);
            let waited = NodeExec { exec_id: id.clone(), pid: exec.pid, streams, exec: exec.clone(), exit };
            let (inner__, id_) = (inner_.clone(), id.clone());
            let (record_, command_) = (record.clone(), command.clone());
            inner_.watchers.spawn(async move {
                let outcome = tokio::select! {
                    outcome = exec.wait() => outcome,
                    () = inner__.stop.cancelled() => return,
                };
                let code = outcome.as_ref().map_or(-1, |s| s.code).to_string();
                ended.send_replace(Some(outcome.map_err(|e| e.to_string())));
                let more = [("exec_id", id_), ("command", command_), ("exit_code", code)];
                let event = inner__.events.add_container(&record_, "exec_die", &more);
                if let Err(e) = inner__.store.submit(vec![event], Durability::Quick).await {
                    tracing::debug!(error = %e, "writing down the end of an exec");
                }
            });
            Ok(waited)
        })
        .await
}

/// /etc/passwd and /etc/group as the container's processes see them now.
#[expect(clippy::type_complexity, reason = "two files")]
pub(crate) fn users(process: (u32, u64)) -> Result<(Option<Vec<u8>>, Option<Vec<u8>>), NodeError> {
    let (pid, start_time) = process;
    let read = |path: &str| {
        berth_sys::store::read_in_process_root(pid, path, USERS_MAX)
            .map_err(NodeError::io(format!("reading {path} of process {pid}")))
    };
    let found = (read("/etc/passwd"), read("/etc/group"));
    // The pid may have become another process's: then what was read means nothing.
    let now = berth_sys::store::process_start_time(pid).map_err(NodeError::io(format!("looking at process {pid}")))?;
    if now != Some(start_time) {
        return Err(NodeError::NotRunning("any more".to_owned()));
    }
    Ok((found.0?, found.1?))
}
