//! `berth.v1.Files`.

use super::decode::{Fields, MAX_ARGUMENT, MAX_NAME, MAX_PATH};
use super::{Answers, QUEUE, call, finish};
use crate::gate::Call;
use crate::{permission, status};
use berth::v1::{self, copy_from_response, copy_to_request, files_server};
use berth_node::{CommitRequest, CopyInto, CopySource, Node, NodeError, Pieces, Requester};
use berth_rootfs::{Change, ChangeKind};
use berth_sys::fs::Kind as FileKind;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A caller that opens a stream says at once what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// A caller that sends nothing for so long has forgotten the copy; a stopped container waits for its end.
const STUCK: Duration = Duration::from_secs(600);

pub struct Files {
    pub node: Node,
}

impl Files {
    /// Who asks, when they may reach into this container, and its id: its name may be another one's a moment later.
    fn may_reach(&self, call: &Call, container: &str, request_id: &str) -> Result<(Requester, String), Status> {
        let detail = self.node.container(container).map_err(status::from_node)?;
        call.permit_inside(&permission::of_container(&self.node, &detail.view.record.spec), container, request_id)?;
        Ok((call.about(container, request_id), detail.view.record.id.to_string()))
    }
}

fn path(f: &mut Fields, field: &str, path: &[u8]) {
    f.check(!path.is_empty(), field, "must not be empty");
    f.check(path.len() <= MAX_PATH, field, "is longer than 4095 bytes");
    f.check(!path.contains(&0), field, "must not hold NUL");
}

/// The first frame of a copy into a container.
async fn first(requests: &mut Streaming<v1::CopyToRequest>) -> Result<v1::CopyToStart, Status> {
    let message = tokio::time::timeout(FIRST_FRAME, requests.message()).await;
    let message = message.map_err(|_| status::bad_stream("the first frame did not come within 30 seconds"))??;
    match message.and_then(|m| m.kind) {
        Some(copy_to_request::Kind::Start(start)) => Ok(start),
        _ => Err(status::bad_stream("the first frame must be start")),
    }
}

pub(super) fn copy_into(start: v1::CopyToStart, f: &mut Fields) -> CopyInto {
    let source = match v1::CopySource::try_from(start.source) {
        Ok(v1::CopySource::File) => CopySource::File,
        Ok(v1::CopySource::Folder) => CopySource::Folder,
        Ok(v1::CopySource::Contents) => CopySource::Contents,
        Ok(v1::CopySource::Archive) => CopySource::Archive,
        Ok(v1::CopySource::Unspecified) | Err(_) => {
            f.wrong("source", "must say what is copied");
            CopySource::Archive
        }
    };
    path(f, "path", &start.path);
    let name = &start.name[..];
    if matches!(source, CopySource::File | CopySource::Folder) {
        let good =
            !matches!(name, b"" | b"." | b"..") && name.len() <= 255 && !name.iter().any(|b| matches!(b, 0 | b'/'));
        f.check(good, "name", "must be the name of a file: 1 to 255 bytes, no slash");
    } else {
        f.check(name.is_empty(), "name", "is only for files and folders");
    }
    CopyInto { path: start.path.to_vec(), source, name: start.name.to_vec(), keep_owner: start.keep_owner }
}

/// Hands the caller's pieces on; an empty one says that the tar is whole.
async fn feed(mut requests: Streaming<v1::CopyToRequest>, pieces: mpsc::Sender<Result<Bytes, NodeError>>) {
    loop {
        let next = match tokio::time::timeout(STUCK, requests.message()).await {
            Ok(Ok(Some(message))) => message.kind,
            _ => None,
        };
        let piece = match next {
            Some(copy_to_request::Kind::Tar(bytes)) if bytes.is_empty() => continue,
            Some(copy_to_request::Kind::Tar(bytes)) => Ok(bytes),
            Some(copy_to_request::Kind::Done(_)) => Ok(Bytes::new()),
            Some(copy_to_request::Kind::Start(_)) | None => Err(NodeError::CallerGone),
        };
        let last = piece.as_ref().is_ok_and(Bytes::is_empty) || piece.is_err();
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// Pieces of a tar as answers, behind `first`.
fn answers<M: Send + 'static>(first: Option<M>, mut pieces: Pieces, wrap: fn(Bytes) -> M) -> Answers<M> {
    let (sender, stream) = mpsc::channel(1);
    super::spawn(async move {
        if let Some(first) = first
            && sender.send(Ok(first)).await.is_err()
        {
            return;
        }
        loop {
            // A caller that goes away ends the work at once, not with the next piece.
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                () = sender.closed() => return,
            };
            let Some(piece) = piece else { return };
            if sender.send(piece.map(wrap).map_err(status::from_node)).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

#[tonic::async_trait]
impl files_server::Files for Files {
    type CopyFromStream = Answers<v1::CopyFromResponse>;
    type DiffStream = Answers<v1::DiffResponse>;
    type ExportStream = Answers<v1::ExportResponse>;

    async fn copy_to(
        &self,
        request: Request<Streaming<v1::CopyToRequest>>,
    ) -> Result<Response<v1::CopyToResponse>, Status> {
        let call = call(&request)?;
        let mut requests = request.into_inner();
        let start = first(&mut requests).await?;
        let mut f = Fields::under("start.");
        f.request_id(&start.request_id);
        f.name("container", &start.container);
        let (container, request_id) = (start.container.clone(), start.request_id.clone());
        let copy = copy_into(start, &mut f);
        f.done()?;
        let (who, id) = self.may_reach(&call, &container, &request_id)?;
        let (sender, pieces) = mpsc::channel(QUEUE);
        let node = self.node.clone();
        let work = finish(async move { node.copy_into(&who, &id, copy, pieces).await });
        let mut work = std::pin::pin!(work);
        let done = tokio::select! {
            done = &mut work => done?,
            () = feed(requests, sender) => work.await?,
        };
        Ok(Response::new(v1::CopyToResponse { entries: done.entries, bytes: done.bytes }))
    }

    async fn copy_from(&self, request: Request<v1::CopyFromRequest>) -> Result<Response<Self::CopyFromStream>, Status> {
        use copy_from_response::Kind;
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.name("container", &request.container);
        path(&mut f, "path", &request.path);
        f.done()?;
        let (who, id) = self.may_reach(&call, &request.container, "")?;
        let copied = self.node.copy_out(&who, &id, request.path.to_vec(), request.follow_link).await;
        let copied = copied.map_err(status::from_node)?;
        let source = match copied.source {
            CopySource::File => v1::CopySource::File,
            CopySource::Folder => v1::CopySource::Folder,
            CopySource::Contents => v1::CopySource::Contents,
            CopySource::Archive => v1::CopySource::Archive,
        };
        let start = v1::CopyFromStart {
            source: source.into(),
            name: copied.name.into(),
            size: if copied.stat.kind == FileKind::Regular { copied.stat.size } else { 0 },
            mode: copied.stat.mode,
            modified: Some(prost_types::Timestamp {
                seconds: copied.stat.mtime_secs,
                nanos: i32::try_from(copied.stat.mtime_nanos).unwrap_or(0),
            }),
            link_target: copied.link_target.into(),
        };
        let start = v1::CopyFromResponse { kind: Some(Kind::Start(start)) };
        let wrap = |bytes| v1::CopyFromResponse { kind: Some(Kind::Tar(bytes)) };
        Ok(Response::new(answers(Some(start), copied.pieces, wrap)))
    }

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        let call = call(&request)?;
        let container = request.into_inner().container;
        let mut f = Fields::default();
        f.name("container", &container);
        f.done()?;
        let who = call.about(&container, "");
        let batches = self.node.diff(&who, &container).await.map_err(status::from_node)?;
        let answers = ReceiverStream::new(batches).map(|batch| match batch {
            Ok(changes) => Ok(v1::DiffResponse { changes: changes.into_iter().map(change).collect() }),
            Err(e) => Err(status::from_node(e)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn export(&self, request: Request<v1::ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let call = call(&request)?;
        let container = request.into_inner().container;
        let mut f = Fields::default();
        f.name("container", &container);
        f.done()?;
        let (who, id) = self.may_reach(&call, &container, "")?;
        let pieces = self.node.export(&who, &id).await.map_err(status::from_node)?;
        Ok(Response::new(answers(None, pieces, |tar| v1::ExportResponse { tar })))
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Result<Response<v1::CommitResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.name("container", &request.container);
        let reference = (!request.reference.is_empty()).then(|| f.reference("reference", &request.reference)).flatten();
        if reference.as_ref().is_some_and(|r| r.digest().is_some()) {
            f.wrong("reference", "must be a name with a tag, not with a digest");
        }
        f.text("author", &request.author, MAX_NAME);
        f.text("message", &request.message, MAX_ARGUMENT);
        f.count("changes", request.changes.len(), 256);
        let mut changes = Vec::new();
        for (n, line) in request.changes.iter().enumerate() {
            if f.text(format!("changes[{n}]"), line, MAX_ARGUMENT) {
                changes.extend(f.take(format!("changes[{n}]"), berth_image::Change::parse(line)));
            }
        }
        f.done()?;
        let (who, id) = self.may_reach(&call, &request.container, &request.request_id)?;
        let node = self.node.clone();
        let commit = CommitRequest {
            reference,
            author: request.author,
            message: request.message,
            changes,
            pause: !request.no_pause,
        };
        let done = finish(async move { node.commit(&who, &id, commit).await }).await?;
        Ok(Response::new(v1::CommitResponse {
            image_id: done.image.id.to_string(),
            reference: done.reference.map(|r| r.to_string()).unwrap_or_default(),
            layer_bytes: done.layer_bytes,
        }))
    }
}

fn change(change: Change) -> v1::FileChange {
    let kind = match change.kind {
        ChangeKind::Modified => v1::file_change::Kind::Modified,
        ChangeKind::Added => v1::file_change::Kind::Added,
        ChangeKind::Deleted => v1::file_change::Kind::Deleted,
    };
    v1::FileChange { kind: kind.into(), path: change.path.into() }
}
