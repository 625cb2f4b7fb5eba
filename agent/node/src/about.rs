//! What callers learn of the node as a whole, and what they free of it.

use crate::check::{self, Checked};
use crate::doctor::{self, Finding};
use crate::gc::{self, policy::Policy};
use crate::node::Inner;
use crate::requests::{Begin, fingerprint};
use crate::view::{ContainerBytes, DiskUsage, EventItem, Freed, FreedItem, FreedTotal, NodeInfo, Requester};
use crate::{Node, NodeError, info, usage};
use berth_model::{ContainerId, Timestamp};
use std::sync::Arc;
use tokio::sync::mpsc;

impl Node {
    /// Entries behind `cursor`, then live ones. Bounded: a reader that falls behind gets an Err and the end. Cursor 0: only what comes
    /// from now on, unless `since` says from when.
    ///
    /// # Errors
    /// `CursorInFuture`; in the stream `WatchTooSlow`, `Stopping`.
    pub fn events(
        &self,
        cursor: u64,
        since: Option<Timestamp>,
    ) -> Result<mpsc::Receiver<Result<EventItem, NodeError>>, NodeError> {
        self.inner().events.watch(cursor, since)
    }

    /// Cursor of the newest event: what to watch from to miss nothing from now on.
    pub fn newest_event(&self) -> u64 {
        self.inner().events.newest()
    }

    /// Reads every layer and manifest of every image and compares them with their digests. What is damaged is put aside, so that the next pull
    /// or create of the image fetches it, and nothing else, again. Reads all there is from the disk: minutes with many images.
    ///
    /// # Errors
    /// `Rootfs`, `Image`, `Io`: something could not be read at all.
    pub async fn check(&self) -> Result<Vec<Checked>, NodeError> {
        check::check(self.inner()).await
    }

    /// What the host is and what runs on it. Asks the kernel (some microseconds).
    pub fn info(&self) -> NodeInfo {
        info::info(self.inner())
    }

    /// What a container's own files and its logs take. Reads its folders; dropping the future stops that.
    pub async fn container_bytes(&self, id: &ContainerId) -> Result<ContainerBytes, NodeError> {
        usage::container_bytes(self.inner(), id).await
    }

    /// What takes the room of the data folder. Reads every container's folders; dropping the future stops that.
    pub async fn disk_usage(&self) -> Result<DiskUsage, NodeError> {
        usage::disk_usage(self.inner()).await
    }

    /// The configured policy, as of now.
    pub fn policy(&self) -> Policy {
        Policy::of(&self.inner().config.gc, Timestamp::now())
    }

    /// Removes what `policy` gives up, one item for each thing and the total last; with `dry_run` only tells. Goes on to its end when
    /// the receiver goes. `rpc`: PruneContainers, PruneImages or CollectGarbage; `content` is what the request asked for.
    ///
    /// # Errors
    /// `RequestIdReused`; in the stream `Stopping` and what asking the host says.
    pub async fn free(
        &self,
        who: &Requester,
        rpc: &'static str,
        content: &impl serde::Serialize,
        policy: Policy,
        dry_run: bool,
    ) -> Result<mpsc::Receiver<Result<FreedItem, NodeError>>, NodeError> {
        let action = if rpc == "CollectGarbage" { "gc" } else { "prune" };
        let work = move |inner: Arc<Inner>, tell| async move { gc::run(&inner, &policy, dry_run, action, &tell).await };
        self.freeing(who, rpc, content, work).await
    }

    /// What removals of many things have in common: a repeated request gets the total of the first, and `work` goes on to its end when the
    /// receiver goes.
    pub(crate) async fn freeing<F>(
        &self,
        who: &Requester,
        rpc: &'static str,
        content: &impl serde::Serialize,
        work: impl FnOnce(Arc<Inner>, mpsc::Sender<Freed>) -> F,
    ) -> Result<mpsc::Receiver<Result<FreedItem, NodeError>>, NodeError>
    where
        F: Future<Output = Result<FreedTotal, NodeError>> + Send + 'static,
    {
        let (send, receive) = mpsc::channel(16);
        let ticket = match self.inner().requests.begin(who, rpc, fingerprint(content)).await? {
            Begin::New(ticket) => ticket,
            Begin::Answered(total) => {
                // Err: it was written by another version; the sum is not worth an error.
                let total = serde_json::from_str(&total).unwrap_or_default();
                let _ = send.send(Ok(FreedItem::Total(total))).await;
                return Ok(receive);
            }
        };
        if self.inner().stop.is_cancelled() {
            return Err(NodeError::Stopping);
        }
        let (tell, mut told) = mpsc::channel(16);
        let (node, work) = (self.clone(), work(self.inner().clone(), tell));
        self.inner().tasks.spawn(async move {
            let pass_on = async {
                while let Some(freed) = told.recv().await {
                    let _ = send.send(Ok(FreedItem::Freed(freed))).await;
                }
            };
            let (done, ()) = tokio::join!(work, pass_on);
            if let Ok(total) = &done {
                let text = serde_json::to_string(total).unwrap_or_default();
                node.answered(ticket, &text).await;
            }
            let _ = send.send(done.map(FreedItem::Total)).await;
        });
        Ok(receive)
    }

    /// Looks the host over; blocking, some milliseconds.
    pub fn doctor(&self) -> Vec<Finding> {
        doctor::look(self.inner())
    }
}
