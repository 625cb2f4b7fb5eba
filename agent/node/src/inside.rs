//! What callers have of one container: its output and streams, processes beside its first, files in and out, an image of it.

use crate::container::Container;
use crate::copy::{self, Pieces};
use crate::exec::{self, NodeExec};
use crate::requests::{Begin, fingerprint};
use crate::session::{self, ResumedSession};
use crate::store::Durability;
use crate::view::*;
use crate::{Node, NodeError, changes, commit, images, logs, streams};
use berth_model::spec::ExecSpec;
use berth_runtime::{AttachOptions, NewSession};
use tokio::sync::mpsc;

impl Node {
    /// What is kept of a container's output, and how far it was handed over.
    pub async fn log_state(&self, container: &str) -> Result<LogState, NodeError> {
        let (inner, id) = (self.inner().clone(), self.find(container)?.id.clone());
        self.inner()
            .blocking(move || {
                let dir = inner.paths(&id).log;
                let (files, stored_bytes) = logs::place::stored(&inner, &id);
                let removed = logs::keep::removed(&dir);
                let (forwarded, forward_error) = inner.forwarders.state(&id, &dir);
                Ok(LogState {
                    files,
                    stored_bytes,
                    removed_files: removed.files,
                    removed_bytes: removed.bytes,
                    lost_lines: logs::keep::lost_lines(&dir),
                    forwarded_entries: forwarded.entries,
                    gaps: forwarded.gaps,
                    lost_bytes: forwarded.lost_bytes,
                    forward_error,
                })
            })
            .await
    }

    /// What the container wrote, in batches, oldest first. A follower's stream ends with the container.
    ///
    /// # Errors
    /// `Invalid`: a cursor of another container, or a tail beside a cursor; `LogNotKept`.
    pub async fn logs(
        &self,
        container: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<Result<Vec<LogEntry>, NodeError>>, NodeError> {
        logs::read(self.inner(), self.find(container)?, query)
    }

    /// Joins the streams of a running container, from now on.
    ///
    /// # Errors
    /// `NotRunning`.
    pub async fn attach(
        &self,
        _who: &Requester,
        container: &str,
        stdin: bool,
        size: Option<(u16, u16)>,
        session: Option<SessionRequest>,
    ) -> Result<Streams, NodeError> {
        let container = self.find(container)?;
        let session = self.new_session(&container, session, stdin)?;
        let attachment = container.running_shim()?.attach(AttachOptions { stdin, size, session }).await?;
        let record = container.record();
        let event = self.inner().events.add_container(&record, "attach", &[]);
        let _ = self.inner().store.submit(vec![event], Durability::Quick).await?;
        Ok(streams::pump(attachment, record.spec.tty))
    }

    /// Sets the size of the container's terminal.
    ///
    /// # Errors
    /// `NoTerminal`, `NotRunning`.
    pub async fn resize(&self, container: &str, rows: u16, columns: u16) -> Result<(), NodeError> {
        let container = self.find(container)?;
        let record = container.record();
        if !record.spec.tty {
            return Err(NodeError::NoTerminal(record.name.clone()));
        }
        Ok(container.running_shim()?.resize(rows, columns).await?)
    }

    /// Runs one more process in a running container.
    ///
    /// # Errors
    /// `NotRunning`; `Invalid`: no command; `Runtime`: the command cannot be run. A repeated request id is `RequestIdReused`: the
    /// streams of the first are its caller's.
    pub async fn exec(
        &self,
        who: &Requester,
        container: &str,
        spec: ExecSpec,
        session: Option<SessionRequest>,
    ) -> Result<NodeExec, NodeError> {
        exec::exec(self.inner(), who, &self.find(container)?, spec, session).await
    }

    /// Goes on with a session whose caller has so many bytes of stdout and stderr. None: there is no such session, or it is over.
    pub async fn resume(&self, name: &str, taken: [u64; 2]) -> Result<Option<ResumedSession>, NodeError> {
        session::resume(self.inner(), name, taken).await
    }

    /// A session's caller has gone; `left`: with a word, and for good.
    pub fn session_ended(&self, name: String, left: bool) {
        session::forget(self.inner(), name, left);
    }

    pub(crate) fn new_session(
        &self,
        container: &Container,
        request: Option<SessionRequest>,
        stdin: bool,
    ) -> Result<Option<NewSession>, NodeError> {
        let Some(request) = request else { return Ok(None) };
        let record = container.record();
        let note = session::Note {
            container: container.id.clone(),
            name: record.name.clone(),
            tty: record.spec.tty,
            stdin,
            exec_id: None,
            needs: request.needs.clone(),
        };
        session::new(self.inner(), &request, &note, true).map(Some)
    }

    /// Writes a tar into a container, running or not, by the rules of `docker cp`. An empty piece ends the tar: without it, it
    /// broke off. A repeated request id is `RequestIdReused`: the pieces of the first are gone.
    ///
    /// # Errors
    /// `NoPlace`, `PathNotFound`, `BadDestination`, `BadArchive`, `RootReadOnly`, `EndedMeanwhile`, and the one that came as a piece.
    pub async fn copy_into(
        &self,
        who: &Requester,
        container: &str,
        request: CopyInto,
        pieces: Pieces,
    ) -> Result<berth_tar::Extracted, NodeError> {
        let found = self.find(container)?;
        let content = (container, &request.path, request.source as u8, &request.name, request.keep_owner);
        let Some(ticket) = self.begin(who, "CopyTo", &content).await? else { return Err(NodeError::RequestIdReused) };
        let (inner, who, id) = (self.inner().clone(), who.clone(), found.id.clone());
        let done =
            self.inner().to_its_end(async move { copy::into(&inner, &who, found, request, pieces).await }).await?;
        self.answered(ticket, id.as_str()).await;
        Ok(done)
    }

    /// Reads a file or a folder of a container, running or not. `follow`: what a link at the end of the path names.
    ///
    /// # Errors
    /// `NoPlace`, `PathNotFound`; in the pieces `EndedMeanwhile`, `Io`.
    pub async fn copy_out(
        &self,
        who: &Requester,
        container: &str,
        path: Vec<u8>,
        follow: bool,
    ) -> Result<CopiedOut, NodeError> {
        let (inner, found) = (self.inner().clone(), self.find(container)?);
        // Who goes while it waits waits no more.
        let place = inner.copies.enter(who).await?;
        // Whoever goes meanwhile leaves no root that is mounted behind its lock.
        self.inner().to_its_end(async move { copy::out(&inner, place, found, path, follow).await }).await
    }

    /// What a container has changed in its image's files, in batches: a folder before what is in it, names sorted. Who has many of
    /// these under way waits a while.
    ///
    /// # Errors
    /// `NoPlace`; in the stream: `Rootfs`, `Io`.
    pub async fn diff(
        &self,
        who: &Requester,
        container: &str,
    ) -> Result<mpsc::Receiver<Result<Vec<berth_rootfs::Change>, NodeError>>, NodeError> {
        changes::diff(self.inner(), who, self.find(container)?).await
    }

    /// A container's whole root as a tar, without what is mounted in it.
    ///
    /// # Errors
    /// `NoPlace`; in the pieces: `Rootfs`, `Io`.
    pub async fn export(&self, who: &Requester, container: &str) -> Result<Pieces, NodeError> {
        changes::export(self.inner(), who, self.find(container)?).await
    }

    /// Makes an image of a container, running or not.
    ///
    /// # Errors
    /// `NoPlace`, `Rootfs` (the layer cannot be kept), `Image` (too many layers), `RequestIdReused`.
    pub async fn commit(
        &self,
        who: &Requester,
        container: &str,
        request: CommitRequest,
    ) -> Result<Committed, NodeError> {
        let inner = self.inner();
        let content =
            (container, &request.reference, &request.author, &request.message, &request.changes, request.pause);
        let ticket = match inner.requests.begin(who, "Commit", fingerprint(&content)).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(id) => {
                let image = images::get(inner, &id)?.record;
                let layer_bytes = image.layers.last().map_or(0, |l| l.size_bytes);
                return Ok(Committed { image, reference: request.reference, layer_bytes });
            }
        };
        let (found, inner_, who) = (self.find(container)?, inner.clone(), who.clone());
        let done = inner.to_its_end(async move { commit::commit(&inner_, &who, found, request).await }).await?;
        self.answered(ticket, done.image.id.as_str()).await;
        Ok(done)
    }
}
