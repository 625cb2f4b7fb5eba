//! Takes apart what ended containers leave: mounts, addresses, cgroups, folders. Off the path of every answer, a few at a time.
//!
//! A kill loses nothing: a record in the phase Removing, and folders, cgroups and links without an owner, are found again when the
//! node is opened.

use crate::container::Container;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::{NodeError, cni, fail, nets, own, volumes};
use berth_model::ContainerId;
use berth_model::network::{Attachments, NetworkMode};
use berth_rootfs::RootMount;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};

/// Jobs that wait; the ends of more containers wait for room, nobody else does.
const QUEUE: usize = 1024;
/// Jobs side by side: they wait for the kernel more than they work.
const AT_ONCE: usize = 4;
/// A mount or a cgroup may be busy for a moment; after this many tries the next opening of the node goes on.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Job {
    pub container: Arc<Container>,
    pub root: Option<RootMount>,
    pub networks: Attachments,
    /// The files and the record, too.
    pub remove: bool,
    /// Taken by who ended the run, so that no start comes between. None: taken when the job is.
    pub teardown: Option<OwnedMutexGuard<()>>,
}

pub(crate) fn channel() -> (mpsc::Sender<Job>, mpsc::Receiver<Job>) {
    mpsc::channel(QUEUE)
}

/// Runs jobs until the node is closed and the queue is empty.
pub(crate) async fn run(inner: Arc<Inner>, mut jobs: mpsc::Receiver<Job>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let job = tokio::select! {
            job = jobs.recv() => job,
            () = inner.stop.cancelled() => jobs.try_recv().ok(),
        };
        let Some(job) = job else { break };
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let inner = inner.clone();
        inner.tasks.clone().spawn(async move {
            reap(&inner, job).await;
            drop(permit);
        });
    }
}

async fn reap(inner: &Arc<Inner>, mut job: Job) {
    let _teardown = match job.teardown.take() {
        Some(guard) => guard,
        None => job.container.teardown().await,
    };
    let mut pause = FIRST_PAUSE;
    for tried in 1..=TRIES {
        let inner_ = inner.clone();
        let outcome = tokio::task::spawn_blocking(move || {
            let outcome = take_apart(&inner_, &mut job);
            (job, outcome)
        })
        .await;
        let Ok((back, outcome)) = outcome else { return };
        job = back;
        match outcome {
            Ok(()) => {
                if job.remove {
                    crate::images::was_used(inner, &job.container.image.id).await;
                    crate::images::drop_hidden(inner, &job.container.image.id).await;
                    let record = job.container.record();
                    for image in volumes::images_of(&record.spec) {
                        crate::images::drop_hidden(inner, image).await;
                    }
                }
                return;
            }
            Err(e) if tried == TRIES => {
                tracing::error!(container = %job.container.id, error = %e, "taking a container apart; the next start of the agent goes on");
            }
            Err(e) => {
                tracing::debug!(container = %job.container.id, error = %e, tried, "taking a container apart");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = inner.stop.cancelled() => return,
                }
                pause *= 2;
            }
        }
    }
}

/// A macvlan has no end here whose removal takes it along. Where others run on in its namespace, it is deleted there before its address is another
/// container's.
fn leave_shared(inner: &Inner, id: &ContainerId, networks: &Attachments) -> Result<(), NodeError> {
    let mut macvlans = networks.iter().filter(|a| a.host_interface.is_empty() && !a.is_cni()).peekable();
    if macvlans.peek().is_none() {
        return Ok(());
    }
    let shares = |mode: &NetworkMode| matches!(mode, NetworkMode::Container(other) if *other == id.as_str());
    let others = inner.containers.all().into_iter().filter(|c| shares(&c.record().spec.network));
    let Some(namespace) = others.filter_map(|c| nets::namespace_of(inner, c.id.as_str()).ok()).next() else {
        return Ok(());
    };
    for macvlan in macvlans {
        inner.networks.disconnect(id, namespace.as_fd(), macvlan)?;
    }
    Ok(())
}

/// Every step finds what is there: run again, it goes on where it failed.
fn take_apart(inner: &Inner, job: &mut Job) -> Result<(), NodeError> {
    let id = &job.container.id;
    drop(job.root.take());
    fail::point("remove.after_umount")?;
    if !job.networks.is_empty() {
        leave_shared(inner, id, &job.networks)?;
        cni::detach(inner, id, &job.networks)?;
        job.networks.clear();
    }
    fail::point("remove.after_network")?;
    let record = job.container.record();
    if let Err(e) = inner.runtime.forget(id, &record.spec.runtime, &inner.paths(id).run) {
        // What it has is in its folder and in the groups, which go all the same.
        tracing::warn!(container = %id, error = %e, "having a runtime forget a container");
    }
    inner.runtime.remove_cgroups(id)?;
    volumes::let_go(inner, &job.container)?;
    own::let_go(inner, &job.container);
    fail::point("remove.after_cgroup")?;
    let run = inner.paths(id).run;
    match std::fs::remove_dir_all(&run) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(NodeError::Io { act: format!("removing {}", run.display()), source: e });
        }
        _ => {}
    }
    if job.remove {
        inner.forwarders.finish(id);
        let dir = inner.container_dir(id);
        if dir.try_exists().map_err(NodeError::io(format!("looking for {}", dir.display())))? {
            own::remove(&dir)?;
        }
        fail::point("remove.after_tree")?;
        volumes::forget(inner, &job.container)?;
        // Not waited for: a record in the phase Removing whose things are gone does no harm.
        let _ = inner.store.submit_blocking(vec![Write::DeleteContainer(id.clone())], Durability::Quick)?;
    }
    Ok(())
}
